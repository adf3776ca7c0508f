/* Reductions that were a mistake: Eifel by timestamps (RFC 3522, 4015), D-SACK (RFC 3708), F-RTO
 * (RFC 5682 section 3.1). The round trip is 100 ms, the RTO 300 ms. */
#include "script.h"

#define ACK(n) "+0.1 < . 1:1(0) ack " #n " win 65535"

static void sent(unsigned from, unsigned to, const char *flags, const char *options)
{
    for (unsigned seq = from; seq < to; seq += 1000)
        SCRIPTF("+0 > %s %u:%u(1000) ack 1%s", seq + 1000 < to ? "." : flags, seq, seq + 1000,
                options);
}

#define STAMPS_200 " <TS val 200 ecr 107>"

static struct zh_net_socket *timed_out_with_stamps(void)
{
    struct zh_net_socket *s = script_open_with(65535, "mss 1012,TS val 7 ecr 0");
    script_send(s, 3000);
    sent(1, 3001, "P.", STAMPS_200);
    SCRIPT("+0.3 > . 1:1001(1000) ack 1 <TS val 500 ecr 107>");
    CHECK_EQ(s->cwnd, 1000);
    CHECK_EQ(s->ssthresh, 2000);
    return s;
}

/* RFC 3522 section 3.2: the ACK echoes what was sent before the retransmission, so it answers the
 * first transmission. RFC 4015 section 3.2: cwnd and ssthresh are what they were, and what was
 * under way is not sent again. */
static void eifel_timeout(void)
{
    struct zh_net_socket *s = timed_out_with_stamps();
    SCRIPT("+0.05 < . 1:1(0) ack 1001 win 65535 <nop,nop,TS val 307 ecr 200>");
    CHECK_EQ(script_net->stats.tcp_undo, 1);
    CHECK_EQ(s->cwnd, 10000);
    CHECK_EQ(s->ssthresh, UINT64_MAX);
    CHECK_EQ(script_info(s).tcpi_ca_state, 0);
    SCRIPT("+0.01 < . 1:1(0) ack 3001 win 65535 <nop,nop,TS val 317 ecr 200>", "+5");
    CHECK_EQ(s->retransmissions, 1);
    script_abort(s);
}

/* The echo of the retransmission: it was needed, and the rest goes again too, by slow start. */
static void eifel_real(void)
{
    struct zh_net_socket *s = timed_out_with_stamps();
    SCRIPT("+0.1 < . 1:1(0) ack 1001 win 65535 <nop,nop,TS val 307 ecr 500>",
           "+0 > . 1001:2001(1000) ack 1 <TS val 600 ecr 307>",
           "+0 > P. 2001:3001(1000) ack 1 <TS val 600 ecr 307>",
           "+0.1 < . 1:1(0) ack 3001 win 65535 <nop,nop,TS val 407 ecr 600>", "+1");
    CHECK_EQ(script_net->stats.tcp_undo, 0);
    CHECK_EQ(s->ssthresh, 2000);
    script_abort(s);
}

/* The same for a fast retransmission: the first segment comes 30 ms late, 5 ms more than the
 * reordering window (RFC 8985 section 6.2). */
static void eifel_fast(void)
{
    struct zh_net_socket *s = script_open_with(65535, "mss 1012,sackOK,TS val 7 ecr 0");
    script_send(s, 3000);
    sent(1, 3001, "P.", STAMPS_200);
    SCRIPT("+0.1 < . 1:1(0) ack 1 win 65535 <nop,nop,TS val 207 ecr 100,sack 1001:3001>",
           "+0.025 > . 1:1001(1000) ack 1 <TS val 325 ecr 207>");
    CHECK_EQ(s->ssthresh, 2000);
    SCRIPT("+0.005 < . 1:1(0) ack 3001 win 65535 <nop,nop,TS val 237 ecr 200>");
    CHECK_EQ(script_net->stats.tcp_undo, 1);
    CHECK_EQ(s->cwnd, 10000);
    CHECK_EQ(s->ssthresh, UINT64_MAX);
    CHECK(s->rack.reordering_seen); /* so the window is a quarter of the round trip from now on */
    SCRIPT("+1");
    script_abort(s);
}

/* Without timestamps: the retransmission is reported as a duplicate, after recovery. RACK's window
 * grows by it (RFC 8985 section 6.2 step 4). */
static struct zh_net_socket *fast_retransmitted(void)
{
    struct zh_net_socket *s = script_open_with(65535, "mss 1000,sackOK");
    script_send(s, 3000);
    sent(1, 3001, "P.", "");
    SCRIPT("+0.1 < . 1:1(0) ack 1 win 65535 <sack 1001:3001>", "+0.025 > . 1:1001(1000) ack 1",
           "+0.005 < . 1:1(0) ack 3001 win 65535");
    CHECK_EQ(s->cwnd, 2000);
    CHECK_EQ(s->ssthresh, 2000);
    return s;
}

static void dsack_in_time(void)
{
    struct zh_net_socket *s = fast_retransmitted();
    script_send(s, 1000);
    sent(3001, 4001, "P.", "");
    SCRIPT("+0.095 < . 1:1(0) ack 3001 win 65535 <sack 1:1001>", "+0");
    CHECK_EQ(script_net->stats.tcp_undo, 1);
    CHECK_EQ(s->cwnd, 10000);
    CHECK_EQ(s->ssthresh, UINT64_MAX);
    CHECK_EQ(s->rack.reo_wnd_mult, 2);
    SCRIPT("+0.005 < . 1:1(0) ack 4001 win 65535", "+1");
    script_abort(s);
}

/* Duplicates that the network makes later undo nothing. */
static void dsack_late(void)
{
    struct zh_net_socket *s = fast_retransmitted();
    script_send(s, 1000);
    sent(3001, 4001, "P.", "");
    SCRIPT(ACK(4001), "+0 < . 1:1(0) ack 4001 win 65535 <sack 1:1001>", "+1");
    CHECK_EQ(script_net->stats.tcp_undo, 0);
    CHECK_EQ(s->ssthresh, 2000);
    script_abort(s);
}

/* Two retransmissions, of which one was needed. */
static void dsack_of_some(void)
{
    struct zh_net_socket *s = script_open_with(65535, "mss 1000,sackOK");
    script_send(s, 4000);
    sent(1, 4001, "P.", "");
    SCRIPT("+0.1 < . 1:1(0) ack 1 win 65535 <sack 2001:4001>", "+0.025 > . 1:1001(1000) ack 1",
           "+0.005 < . 1:1(0) ack 1001 win 65535 <sack 2001:4001>", "+0 > . 1001:2001(1000) ack 1",
           "+0.095 < . 1:1(0) ack 1001 win 65535 <sack 1:1001 2001:4001>",
           "+0.005 < . 1:1(0) ack 4001 win 65535", "+1");
    CHECK_EQ(script_net->stats.tcp_undo, 0);
    CHECK_EQ(s->cwnd, 2000);
    script_abort(s);
}

/* F-RTO. A probe has gone before the timeout; cwnd is full. */
static struct zh_net_socket *timed_out_with_sack(void)
{
    struct zh_net_socket *s = script_open_with(65535, "mss 1000,sackOK");
    script_send(s, 20000);
    sent(1, 10001, ".", "");
    SCRIPT("+0.2 > . 10001:11001(1000) ack 1", "+0.3 > . 1:1001(1000) ack 1");
    CHECK_EQ(s->cwnd, 1000);
    CHECK_EQ(s->ssthresh, 5000);
    /* Step 2b: up to two new segments, and nothing again. */
    SCRIPT("+0.01 < . 1:1(0) ack 1001 win 65535", "+0 > . 11001:12001(1000) ack 1",
           "+0 > . 12001:13001(1000) ack 1");
    return s;
}

/* Step 3b: what was sent once, before the timeout, is acknowledged: it was spurious. */
static void frto_spurious(void)
{
    struct zh_net_socket *s = timed_out_with_sack();
    SCRIPT("+0.01 < . 1:1(0) ack 2001 win 65535");
    CHECK_EQ(script_net->stats.tcp_undo, 1);
    CHECK_EQ(s->cwnd, 10000);
    CHECK_EQ(s->ssthresh, UINT64_MAX);
    SCRIPT("+0.01 < . 1:1(0) ack 13001 win 65535", "+0 > . 13001:14001(1000) ack 1",
           "+0 > . 14001:15001(1000) ack 1", "+0 > . 15001:16001(1000) ack 1",
           "+0 > . 16001:17001(1000) ack 1", "+0 > . 17001:18001(1000) ack 1",
           "+0 > . 18001:19001(1000) ack 1", "+0 > P. 19001:20001(1000) ack 1", ACK(20001), "+1");
    CHECK_EQ(s->retransmissions, 1);
    script_abort(s);
}

/* Step 3a: the new data is: those before were lost. They go again, as slow start has it. */
static void frto_real(void)
{
    struct zh_net_socket *s = timed_out_with_sack();
    SCRIPT("+0.1 < . 1:1(0) ack 1001 win 65535 <sack 11001:12001>", "+0 > . 1001:2001(1000) ack 1");
    CHECK_EQ(script_net->stats.tcp_undo, 0);
    CHECK_EQ(s->ssthresh, 5000);
    SCRIPT("+0 < . 1:1(0) ack 1001 win 65535 <sack 11001:13001>", "+0 > . 2001:3001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 3001 win 65535 <sack 11001:13001>", "+0 > . 3001:4001(1000) ack 1",
           "+0 > . 4001:5001(1000) ack 1", "+0 > . 5001:6001(1000) ack 1");
    script_abort(s);
}

/* The first ACK proves nothing, though it covers what was sent once (step 2): that may have arrived
 * before the timeout, its ACKs having been lost. */
static void frto_first_ack(void)
{
    struct zh_net_socket *s = script_open_with(65535, "mss 1000,sackOK");
    script_send(s, 20000);
    sent(1, 10001, ".", "");
    SCRIPT("+0.2 > . 10001:11001(1000) ack 1", "+0.3 > . 1:1001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 3001 win 65535", "+0 > . 11001:12001(1000) ack 1",
           "+0 > . 12001:13001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 3001 win 65535 <sack 11001:13001>", "+0 > . 3001:4001(1000) ack 1",
           "+0 > . 4001:5001(1000) ack 1");
    CHECK_EQ(script_net->stats.tcp_undo, 0);
    CHECK_EQ(s->ssthresh, 5000);
    script_abort(s);
}

/* Within fast recovery a timeout is no mistake because something else arrives. */
static void frto_not_in_recovery(void)
{
    struct zh_net_socket *s = script_open_with(65535, "mss 1000,sackOK");
    script_send(s, 5000);
    sent(1, 5001, "P.", "");
    SCRIPT("+0.1 < . 1:1(0) ack 1 win 65535 <sack 1001:4001>", "+0.0001 > . 1:1001(1000) ack 1",
           "+0.3 > . 1:1001(1000) ack 1", "+0.01 < . 1:1(0) ack 1 win 65535 <sack 1001:5001>");
    CHECK_EQ(script_net->stats.tcp_rto, 1);
    CHECK_EQ(script_net->stats.tcp_undo, 0);
    SCRIPT("+0.09 < . 1:1(0) ack 5001 win 65535", "+1");
    CHECK_EQ(script_net->stats.tcp_undo, 0);
    script_abort(s);
}

int main(void)
{
    script_start();
    RUN(eifel_timeout);
    RUN(eifel_real);
    RUN(eifel_fast);
    RUN(dsack_in_time);
    RUN(dsack_late);
    RUN(dsack_of_some);
    RUN(frto_spurious);
    RUN(frto_real);
    RUN(frto_first_ack);
    RUN(frto_not_in_recovery);
    return 0;
}
