/* Tail loss probes (RFC 8985 section 7). The round trip is 100 ms, the RTO 300 ms (RFC 6298 (2.2):
 * 100 + 4 * 50). */
#include "script.h"

#define SACK "mss 1000,sackOK"

/* Section 7.2: a lone segment is probed for after 2 SRTT and the delay of its ACK, 40 ms; there is
 * no new data, so it is sent again (section 7.3). That is one of both, and no timeout. */
static void lone_segment(void)
{
    struct zh_net_socket *s = script_open_with(65535, SACK);
    script_send(s, 3000);
    SCRIPT("+0 > . 1:1001(1000) ack 1", "+0 > . 1001:2001(1000) ack 1",
           "+0 > P. 2001:3001(1000) ack 1", "+0.1 < . 1:1(0) ack 2001 win 65535",
           "+0.24 > P. 2001:3001(1000) ack 1", "+0.1 < . 1:1(0) ack 3001 win 65535");
    CHECK_EQ(s->ssthresh, UINT64_MAX);
    /* Section 7.4.2: what is acknowledged beyond it without a D-SACK tells that the probe was
     * needed: as in fast recovery, ssthresh is half of what is in flight, at least two segments. */
    script_send(s, 1000);
    SCRIPT("+0 > P. 3001:4001(1000) ack 1", "+0.1 < . 1:1(0) ack 4001 win 65535");
    CHECK_EQ(s->ssthresh, 2000);
    CHECK_EQ(script_net->stats.tcp_tlp, 1);
    CHECK_EQ(script_net->stats.tcp_rto, 0);
    SCRIPT("+1");
    script_abort(s);
}

/* A D-SACK tells that both have arrived (section 7.4.2): no loss, and no reordering (section 6.2
 * step 4). */
static void both_arrive(void)
{
    struct zh_net_socket *s = script_open_with(65535, SACK);
    script_send(s, 1000);
    SCRIPT("+0 > P. 1:1001(1000) ack 1", "+0.24 > P. 1:1001(1000) ack 1",
           "+0.05 < . 1:1(0) ack 1001 win 65535",
           "+0.05 < . 1:1(0) ack 1001 win 65535 <sack 1:1001>");
    script_send(s, 1000);
    SCRIPT("+0 > P. 1001:2001(1000) ack 1", "+0.1 < . 1:1(0) ack 2001 win 65535", "+1");
    CHECK_EQ(s->ssthresh, UINT64_MAX);
    CHECK_EQ(s->rack.reo_wnd_mult, 1);
    script_abort(s);
}

/* More than one in flight: 2 SRTT. The probe's SACK makes the others lost at once: recovery, not a
 * timeout. Half of 3000 is less than two segments, which ssthresh is then. */
static void tail_lost(void)
{
    struct zh_net_socket *s = script_open_with(65535, SACK);
    script_send(s, 3000);
    SCRIPT("+0 > . 1:1001(1000) ack 1", "+0 > . 1001:2001(1000) ack 1",
           "+0 > P. 2001:3001(1000) ack 1", "+0.2 > P. 2001:3001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 1 win 65535 <sack 2001:3001>", "+0 > . 1:1001(1000) ack 1",
           "+0 > . 1001:2001(1000) ack 1", "+0.1 < . 1:1(0) ack 3001 win 65535", "+1");
    CHECK_EQ(s->cwnd, 2000);
    CHECK_EQ(script_net->stats.tcp_rto, 0);
    script_abort(s);
}

/* New data is preferred, though cwnd is full (section 7.3). It may be lost as well: the next is a
 * timeout, an RTO after the probe; there is one probe only (section 7.2). */
static void new_data(void)
{
    struct zh_net_socket *s = script_open_with(65535, SACK);
    script_send(s, 12000);
    for (unsigned i = 0; i < 10; i++)
        SCRIPTF("+0 > . %u:%u(1000) ack 1", 1 + 1000 * i, 1001 + 1000 * i);
    SCRIPT("+0.2 > . 10001:11001(1000) ack 1", "+0.3 > . 1:1001(1000) ack 1");
    CHECK_EQ(s->cwnd, 1000);     /* RFC 5681 section 3.1: the loss window */
    CHECK_EQ(s->ssthresh, 5000); /* half of what cwnd had let go: not of the probe too */
    CHECK_EQ(script_net->stats.tcp_tlp, 1);
    CHECK_EQ(script_net->stats.tcp_rto, 1);
    SCRIPT("+0.6 > . 1:1001(1000) ack 1"); /* RFC 6298 (5.5) */
    CHECK_EQ(s->ssthresh, 5000);
    script_abort(s);
}

/* Where the peer's window has no room for new data, the last segment goes again. */
static void no_window(void)
{
    struct zh_net_socket *s = script_open_with(2000, SACK);
    script_send(s, 4000);
    SCRIPT("+0 > . 1:1001(1000) ack 1", "+0 > . 1001:2001(1000) ack 1",
           "+0.2 > . 1001:2001(1000) ack 1", "+0.1 < . 1:1(0) ack 2001 win 2000",
           "+0 > . 2001:3001(1000) ack 1", "+0 > P. 3001:4001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 4001 win 2000", "+1");
    script_abort(s);
}

/* Also the FIN, which takes a sequence number. */
static void fin(void)
{
    struct zh_net_socket *s = script_open_with(65535, SACK);
    script_send(s, 1000);
    zh_net_close(s);
    SCRIPT("+0 > FP. 1:1001(1000) ack 1", "+0.24 > FP. 1:1001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 1002 win 65535", "+0.1 < F. 1:1(0) ack 1002 win 65535",
           "+0 > . 1002:1002(0) ack 2");
}

/* ACKs that say nothing new do not put the probe off, nor do window updates. */
static void not_put_off(void)
{
    struct zh_net_socket *s = script_open_with(65535, SACK);
    script_send(s, 1000);
    SCRIPT("+0 > P. 1:1001(1000) ack 1", "+0.1 < . 1:1(0) ack 1 win 60000",
           "+0.1 < . 1:1(0) ack 1 win 65535", "+0.04 > P. 1:1001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 1001 win 65535");
    script_abort(s);
}

/* Section 7.2: where the RTO would come before, the probe goes at its time and in its place. With
 * round trips of 200 ms the variance is down to the floor after five: RTO 200 + 200, and 2 SRTT +
 * 40 is more. */
static void before_rto(void)
{
    struct zh_net_socket *listener = script_listen(1), *s;
    SCRIPT("+0 < S 0:0(0) win 65535 <" SACK ">", "+0 > S. 0:0(0) ack 1 <...>",
           "+0.2 < . 1:1(0) ack 1 win 65535");
    s = script_accept(listener);
    zh_net_close(listener);
    unsigned seq = 1;
    for (; seq < 8001; seq += 1000) {
        script_send(s, 1000);
        SCRIPTF("+0 > P. %u:%u(1000) ack 1", seq, seq + 1000);
        SCRIPTF("+0.2 < . 1:1(0) ack %u win 65535", seq + 1000);
    }
    CHECK_EQ(script_info(s).tcpi_rto, 400000);
    script_send(s, 1000);
    SCRIPT("+0 > P. 8001:9001(1000) ack 1", "+0.4 > P. 8001:9001(1000) ack 1");
    CHECK_EQ(script_net->stats.tcp_tlp, 1);
    CHECK_EQ(script_net->stats.tcp_rto, 0);
    SCRIPT("+0.4 > P. 8001:9001(1000) ack 1");
    CHECK_EQ(script_net->stats.tcp_rto, 1);
    script_abort(s);
}

/* Without SACK there is none (section 7.1). */
static void no_sack(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_send(s, 1000);
    SCRIPT("+0 > P. 1:1001(1000) ack 1", "+0.3 > P. 1:1001(1000) ack 1");
    CHECK_EQ(script_net->stats.tcp_tlp, 0);
    script_abort(s);
}

int main(void)
{
    script_start();
    RUN(lone_segment);
    RUN(both_arrive);
    RUN(tail_lost);
    RUN(new_data);
    RUN(no_window);
    RUN(fin);
    RUN(not_put_off);
    RUN(before_rto);
    RUN(no_sack);
    return 0;
}
