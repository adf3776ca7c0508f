/* Listeners: the backlog, SYN-ACKs that are lost, what else comes in SYN-RECEIVED; and the
 * simultaneous open (RFC 9293 section 3.5). */
#include "script.h"

/* A SYN beyond the backlog is dropped, as Linux does: the peer's next one may find room. */
static void backlog(void)
{
    struct zh_net_socket *listener = script_listen(2), *s;
    for (unsigned i = 0; i < 2; i++) {
        script_flow(i);
        SCRIPT("+0 < S 0:0(0) win 1000 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>",
               "+0.1 < . 1:1(0) ack 1 win 1000");
    }
    script_flow(2);
    SCRIPT("+0 < S 0:0(0) win 1000 <mss 1000>", "+0.5");
    CHECK_EQ(script_net->stats.tcp_listen_overflow, 1);
    script_flow(0);
    s = script_accept(listener);
    script_abort(s);
    script_flow(2);
    SCRIPT("+0.5 < S 0:0(0) win 1000 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>",
           "+0.1 < . 1:1(0) ack 1 win 1000");
    script_flow(1);
    script_abort(script_accept(listener));
    script_flow(2);
    script_abort(script_accept(listener));
    zh_net_close(listener);
}

/* Half-open connections are limited for all listeners together: a SYN beyond that is answered by a
 * cookie (RFC 4987 section 3.6), of which nothing is kept, and which is not sent again. */
static void half_open(void)
{
    struct zh_net_socket *listener = script_listen(100);
    for (unsigned i = 0; i < 4; i++) {
        script_flow(i);
        SCRIPT("+0 < S 0:0(0) win 1000 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>");
    }
    script_flow(4);
    SCRIPT("+0 < S 0:0(0) win 1000 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>", "+0.9");
    CHECK(script_state() == NULL);
    for (unsigned i = 0; i < 4; i++) {
        script_flow(i);
        SCRIPT("+0 < R 1:1(0) win 0");
    }
    zh_net_close(listener);
}

/* RFC 6298 (2.1), (5.5): the SYN-ACK after 1 s, then doubled; five times (as Linux), then
 * forgotten: what comes after that is of no connection. */
static void syn_ack_lost(void)
{
    struct zh_net_socket *listener = script_listen(2);
    SCRIPT("+0 < S 0:0(0) win 1000 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>",
           "+1 > S. 0:0(0) ack 1 <mss 1460>", "+2 > S. 0:0(0) ack 1 <mss 1460>",
           "+4 > S. 0:0(0) ack 1 <mss 1460>", "+8 > S. 0:0(0) ack 1 <mss 1460>",
           "+16 > S. 0:0(0) ack 1 <mss 1460>", "+31.9");
    CHECK_STATE("SYN-RECEIVED");
    SCRIPT("+0.2");
    CHECK(script_state() == NULL);
    SCRIPT("+0 < . 1:1(0) ack 1 win 1000", "+0 > R 1:1(0)");
    zh_net_close(listener);
}

/* The SYN once more: the SYN-ACK once more (section 3.10.7.4, fourth, for SYN-RECEIVED). */
static void syn_again(void)
{
    struct zh_net_socket *listener = script_listen(2);
    SCRIPT("+0 < S 0:0(0) win 1000 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>",
           "+0.5 < S 0:0(0) win 1000 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>",
           "+0.1 < . 1:1(0) ack 1 win 1000");
    script_abort(script_accept(listener));
    zh_net_close(listener);
}

/* A SYN-ACK that was retransmitted is no sample of the RTT (Karn): the RTO is 3 s (RFC 6298 (5.7)).
 */
static void no_sample(void)
{
    struct zh_net_socket *listener = script_listen(2), *s;
    SCRIPT("+0 < S 0:0(0) win 1000 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>",
           "+1 > S. 0:0(0) ack 1 <mss 1460>", "+0.1 < . 1:1(0) ack 1 win 1000");
    s = script_accept(listener);
    script_send(s, 100);
    SCRIPT("+0 > P. 1:101(100) ack 1", "+3 > P. 1:101(100) ack 1",
           "+0.1 < . 1:1(0) ack 101 win 1000");
    script_abort(s);
    zh_net_close(listener);
}

/* An ACK of something else is answered by a reset, and the request stays (section 3.10.7.4, fifth).
 */
static void wrong_ack(void)
{
    struct zh_net_socket *listener = script_listen(2);
    SCRIPT("+0 < S 0:0(0) win 1000 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>",
           "+0.1 < . 1:1(0) ack 5 win 1000", "+0 > R 5:5(0)", "+0 < . 1:1(0) ack 1 win 1000");
    script_abort(script_accept(listener));
    zh_net_close(listener);
}

/* RFC 5961 section 3.2 in SYN-RECEIVED: the right reset ends it, another does not. */
static void resets(void)
{
    struct zh_net_socket *listener = script_listen(2);
    SCRIPT("+0 < S 0:0(0) win 1000 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>",
           "+0.1 < R 70000:70000(0) win 0");
    CHECK_STATE("SYN-RECEIVED");
    SCRIPT("+0 < R 1:1(0) win 0");
    CHECK(script_state() == NULL);
    zh_net_close(listener);
}

/* LISTEN (section 3.10.7.2): a reset is ignored, an ACK is answered by one, what else is dropped.
 */
static void listening(void)
{
    struct zh_net_socket *listener = script_listen(2);
    SCRIPT("+0 < R 5:5(0) win 0", "+0 < . 5:5(0) ack 77 win 1000", "+0 > R 77:77(0)",
           "+0 < S. 5:5(0) ack 77 win 1000", "+0 > R 77:77(0)", "+0 < P 5:10(5) win 1000", "+1");
    zh_net_close(listener);
}

/* A listener that is closed resets what nobody has accepted. */
static void closed(void)
{
    struct zh_net_socket *listener = script_listen(2);
    SCRIPT("+0 < S 0:0(0) win 1000 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>",
           "+0.1 < . 1:1(0) ack 1 win 1000", "+0");
    zh_net_close(listener);
    SCRIPT("+0 > R. 1:1(0) ack 1", "+0 < . 1:1(0) ack 1 win 1000", "+0 > R 1:1(0)");
}

/* Figure 7: both sides send a SYN. SYN-SENT, SYN-RECEIVED, ESTABLISHED. */
static void simultaneous(void)
{
    struct zh_net_socket *s = script_connect();
    SCRIPT("+0 > S 0:0(0) <...>", "+0.05 < S 0:0(0) win 1000 <mss 1000>",
           "+0 > S. 0:0(0) ack 1 <mss 1460>");
    CHECK_STATE("SYN-RECEIVED");
    /* The peer's SYN-ACK acknowledges ours; no more is sent. */
    SCRIPT("+0.05 < S. 0:0(0) ack 1 win 1000 <mss 1000>", "+1");
    CHECK_STATE("ESTABLISHED");
    CHECK_EQ(zh_net_ready(s), ZH_STREAM_OUT);
    script_send(s, 500);
    SCRIPT("+0 > P. 1:501(500) ack 1", "+0.1 < P. 1:101(100) ack 501 win 1000",
           "+0 > . 501:501(0) ack 101");
    script_recv(s, 100);
    script_abort(s);
}

/* The same, of a peer that answers our SYN-ACK by an ACK. */
static void simultaneous_ack(void)
{
    struct zh_net_socket *s = script_connect();
    SCRIPT("+0 > S 0:0(0) <...>", "+0.05 < S 0:0(0) win 1000 <mss 1000>",
           "+0 > S. 0:0(0) ack 1 <mss 1460>", "+0.05 < . 1:1(0) ack 1 win 1000", "+0.01");
    CHECK_STATE("ESTABLISHED");
    script_abort(s);
}

/* Its SYN-ACK is lost: retransmitted as a SYN-ACK. */
static void simultaneous_lost(void)
{
    struct zh_net_socket *s = script_connect();
    SCRIPT("+0 > S 0:0(0) <...>", "+0.05 < S 0:0(0) win 1000 <mss 1000>",
           "+0 > S. 0:0(0) ack 1 <mss 1460>", "+0.9~+1 > S. 0:0(0) ack 1 <mss 1460>",
           "+0.1 < . 1:1(0) ack 1 win 1000", "+0.01");
    CHECK_STATE("ESTABLISHED");
    script_abort(s);
}

int main(void)
{
    script_start();
    RUN(backlog);
    RUN_WITH(half_open, .max_half_open = 4);
    RUN(syn_ack_lost);
    RUN(syn_again);
    RUN(no_sample);
    RUN(wrong_ack);
    RUN(resets);
    RUN(listening);
    RUN(closed);
    RUN(simultaneous);
    RUN(simultaneous_ack);
    RUN(simultaneous_lost);
    return 0;
}
