/* The retransmission timer (RFC 6298). Segments have 1000 bytes; without timestamps, so that Karn's
 * rule counts. The minimum is 200 ms here, and that of the margin (SRTT + max(200 ms, 4 * RTTVAR)).
 */
#include "script.h"

/* (2.2) and (2.3), with a round trip that is long against the minimum: after the handshake's R =
 * 0.4 s RTO = 0.4 + 4 * 0.2; after another 0.4 RTTVAR is 0.15, RTO 1.0; after 0.8 RTTVAR is 0.75 *
 * 0.15 + 0.25 * 0.4 = 0.2125, SRTT 0.45, RTO 1.3. */
static void computed(void)
{
    struct zh_net_socket *listener = script_listen(1), *s;
    SCRIPT("+0 < S 0:0(0) win 65535 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>",
           "+0.4 < . 1:1(0) ack 1 win 65535");
    s = script_accept(listener);
    zh_net_close(listener);
    CHECK_EQ(script_info(s).tcpi_rto, 1200000);
    script_send(s, 1000);
    SCRIPT("+0 > P. 1:1001(1000) ack 1", "+0.4 < . 1:1(0) ack 1001 win 65535");
    CHECK_EQ(script_info(s).tcpi_rto, 1000000);
    script_send(s, 1000);
    SCRIPT("+0 > P. 1001:2001(1000) ack 1", "+0.8 < . 1:1(0) ack 2001 win 65535");
    CHECK_EQ(script_info(s).tcpi_rto, 1300000);
    CHECK_EQ(script_info(s).tcpi_rtt, 450000);
    CHECK_EQ(script_info(s).tcpi_rttvar, 212500);
    script_send(s, 1000);
    SCRIPT("+0 > P. 2001:3001(1000) ack 1", "+1.3 > P. 2001:3001(1000) ack 1",
           "+0.4 < . 1:1(0) ack 3001 win 65535");
    script_abort(s);
}

/* (5.5): doubled each time; RFC 5681 section 3.1: the window is one segment, ssthresh half of what
 * was under way. */
static void back_off(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_send(s, 2000);
    SCRIPT("+0 > . 1:1001(1000) ack 1", "+0 > P. 1001:2001(1000) ack 1",
           "+0.3 > . 1:1001(1000) ack 1", "+0.6 > . 1:1001(1000) ack 1",
           "+1.2 > . 1:1001(1000) ack 1");
    CHECK_EQ(script_info(s).tcpi_snd_cwnd, 1);
    CHECK_EQ(script_info(s).tcpi_snd_ssthresh, 2);
    SCRIPT("+2.4 > . 1:1001(1000) ack 1",
           /* what follows was lost too, as far as is known: the next goes with the ACK */
           "+0.1 < . 1:1(0) ack 1001 win 65535", "+0 > P. 1001:2001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 2001 win 65535", "+200");
    script_abort(s);
}

/* (5.3): an ACK of new data starts the timer anew; one that acknowledges all stops it (5.2); (5.1):
 * it runs from the first segment, and later ones do not restart it. */
static void restarts(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_send(s, 1000);
    SCRIPT("+0 > P. 1:1001(1000) ack 1");
    SCRIPT("+0.05");
    script_send(s, 1000);
    SCRIPT("+0 > P. 1001:2001(1000) ack 1");
    /* The second sample, 0.1 again: RTTVAR 37.5 ms, and so the minimum: RTO = 0.3 from the ACK on.
     */
    SCRIPT("+0.05 < . 1:1(0) ack 1001 win 65535", "+0.3 > P. 1001:2001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 2001 win 65535", "+10");
    script_send(s, 1000);
    SCRIPT("+0 > P. 2001:3001(1000) ack 1", "+0.2");
    script_send(s, 1000);
    SCRIPT("+0 > P. 3001:4001(1000) ack 1");
    SCRIPT("*  > . 2001:3001(1000) ack 1");
    CHECK_EQ(script_info(s).tcpi_rto, 1200000);
    SCRIPT("+0.1 < . 1:1(0) ack 4001 win 65535");
    script_abort(s);
}

/* Karn's rule (section 3), and its other half (section 5, last paragraph; RFC 1122
 * section 4.2.3.1): the ACK of what was retransmitted is no sample, and the RTO stays backed off
 * until there is one. */
static void karn(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_send(s, 1000);
    SCRIPT("+0 > P. 1:1001(1000) ack 1", "+0.3 > P. 1:1001(1000) ack 1",
           "+0.01 < . 1:1(0) ack 1001 win 65535");
    CHECK_EQ(script_info(s).tcpi_rtt, 100000);
    script_send(s, 1000);
    SCRIPT("+0 > P. 1001:2001(1000) ack 1", "+0.6 > P. 1001:2001(1000) ack 1",
           "+0.01 < . 1:1(0) ack 2001 win 65535");
    script_send(s, 1000);
    SCRIPT("+0 > P. 2001:3001(1000) ack 1",
           /* A sample: SRTT = 0.1, RTTVAR = 37.5 ms; the RTO is 0.3 again. */
           "+0.1 < . 1:1(0) ack 3001 win 65535");
    script_send(s, 1000);
    SCRIPT("+0 > P. 3001:4001(1000) ack 1", "+0.3 > P. 3001:4001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 4001 win 65535");
    script_abort(s);
}

/* R2 (RFC 9293 section 3.8.3): 15 retransmissions, as Linux has it, at most 120 s apart (2.5). The
 * application is told, nothing more is sent. */
static void gives_up(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_send(s, 1000);
    SCRIPT("+0 > P. 1:1001(1000) ack 1");
    double wait = 0.3;
    for (int i = 0; i < 15; i++) {
        SCRIPTF("+%.9f > P. 1:1001(1000) ack 1", wait);
        wait = wait * 2 > 120 ? 120 : wait * 2;
    }
    SCRIPTF("+%.9f", wait - 0.001);
    CHECK_STATE("ESTABLISHED");
    SCRIPT("+0.002");
    CHECK(script_state() == NULL);
    CHECK_EQ(zh_net_ready(s), ZH_STREAM_IN | ZH_STREAM_HUP | ZH_STREAM_ERR);
    script_recv_error(s, ETIMEDOUT);
    script_socket_error(s, ETIMEDOUT);
    zh_net_close(s);
}

/* The count of R2 begins anew with each progress, and not only with a sample: without one the RTO
 * stays where back-off has brought it, up to 120 s. */
static void progress(void)
{
    struct zh_net_socket *s = script_open(65535);
    double wait = 0.3;
    for (int i = 0; i < 20; i++) {
        script_send(s, 1000);
        SCRIPTF("+0 > P. %d:%d(1000) ack 1", i * 1000 + 1, i * 1000 + 1001);
        SCRIPTF("+%.9f > P. %d:%d(1000) ack 1", wait, i * 1000 + 1, i * 1000 + 1001);
        SCRIPTF("+0.1 < . 1:1(0) ack %d win 65535", i * 1000 + 1001);
        wait = wait * 2 > 120 ? 120 : wait * 2;
    }
    script_abort(s);
}

/* RFC 5482: TCP_USER_TIMEOUT takes R2's place. */
static void user_timeout(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_set(s, IPPROTO_TCP, TCP_USER_TIMEOUT, 2000);
    script_send(s, 1000);
    SCRIPT("+0 > P. 1:1001(1000) ack 1", "+0.3 > P. 1:1001(1000) ack 1",
           "+0.6 > P. 1:1001(1000) ack 1", "+1.099");
    CHECK_STATE("ESTABLISHED");
    SCRIPT("+0.002"); /* 2 s after what was first not acknowledged */
    script_socket_error(s, ETIMEDOUT);
    zh_net_close(s);
}

/* SYNs: RFC 6298 (2.1): 1 s, doubled; R2 of a SYN at least 3 minutes (RFC 9293 section 3.8.3,
 * MUST-23): six retransmissions, as Linux: 127 s, of which the last wait is a part. */
static void syn(void)
{
    struct zh_net_socket *s = script_connect();
    SCRIPT("+0 > S 0:0(0) <...>", "+1 > S 0:0(0) <...>", "+2 > S 0:0(0) <...>",
           "+4 > S 0:0(0) <...>", "+8 > S 0:0(0) <...>", "+16 > S 0:0(0) <...>",
           "+32 > S 0:0(0) <...>");
    CHECK_STATE("SYN-SENT");
    SCRIPT("+63.999");
    CHECK_STATE("SYN-SENT");
    SCRIPT("+60.002");
    script_socket_error(s, ETIMEDOUT);
    zh_net_close(s);
}

/* (5.7): with a SYN that was retransmitted the RTO is 3 s when data transmission begins. */
static void syn_retransmitted(void)
{
    struct zh_net_socket *s = script_connect();
    SCRIPT("+0 > S 0:0(0) <...>", "+1 > S 0:0(0) <...>",
           "+0.1 < S. 0:0(0) ack 1 win 65535 <mss 1000>", "+0 > . 1:1(0) ack 1");
    script_send(s, 1000);
    SCRIPT("+0 > P. 1:1001(1000) ack 1", "+3 > P. 1:1001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 1001 win 65535");
    script_abort(s);
}

/* Without any sample it is the first RTT of data that counts (2.2). */
static void syn_retransmitted_sample(void)
{
    struct zh_net_socket *s = script_connect();
    SCRIPT("+0 > S 0:0(0) <...>", "+1 > S 0:0(0) <...>",
           "+0.1 < S. 0:0(0) ack 1 win 65535 <mss 1000>", "+0 > . 1:1(0) ack 1");
    script_send(s, 1000);
    SCRIPT("+0 > P. 1:1001(1000) ack 1", "+0.1 < . 1:1(0) ack 1001 win 65535");
    CHECK_EQ(script_info(s).tcpi_rto, 300000);
    script_abort(s);
}

int main(void)
{
    script_start();
    RUN(computed);
    RUN(back_off);
    RUN(restarts);
    RUN(karn);
    RUN(gives_up);
    RUN(progress);
    RUN(user_timeout);
    RUN(syn);
    RUN(syn_retransmitted);
    RUN(syn_retransmitted_sample);
    return 0;
}
