/* Blind attacks on a connection (RFC 5961), and on TIME-WAIT (RFC 1337). */
#include "script.h"

/* RFC 5961 section 3.2: a reset counts only at RCV.NXT exactly. */
static void exact(void)
{
    struct zh_net_socket *s = script_open(65535);
    SCRIPT("+0.2 < R 1:1(0) win 0");
    CHECK(script_state() == NULL);
    script_recv_error(s, ECONNRESET);
    script_socket_error(s, ECONNRESET);
    CHECK_EQ(zh_net_ready(s), ZH_STREAM_IN | ZH_STREAM_HUP | ZH_STREAM_ERR);
    zh_net_close(s);
}

/* Elsewhere in the window it is answered by a challenge ACK; out of it, it is dropped. */
static void in_window(void)
{
    struct zh_net_socket *s = script_open(65535);
    SCRIPT("+0.2 < R 2:2(0) win 0", "+0 > . 1:1(0) ack 1", "+0.2 < R. 60001:60001(0) ack 1 win 0",
           "+0 > . 1:1(0) ack 1", "+0.2 < R 0:0(0) win 0", "+0 < R 65536:65536(0) win 0", "+0.2");
    CHECK_STATE("ESTABLISHED");
    /* A peer that means it answers the challenge at the right number. */
    SCRIPT("+0 < R 1:1(0) win 0");
    script_socket_error(s, ECONNRESET);
    zh_net_close(s);
}

/* Section 4.2: a SYN, wherever it is, is answered by a challenge ACK and does nothing. */
static void syn(void)
{
    struct zh_net_socket *s = script_open(65535);
    SCRIPT("+0.2 < S 1:1(0) win 1000 <mss 1000>", "+0 > . 1:1(0) ack 1",
           "+0.2 < S 100:100(0) win 1000 <mss 1000>", "+0 > . 1:1(0) ack 1",
           "+0.2 < S 70000:70000(0) win 1000 <mss 1000>", "+0 > . 1:1(0) ack 1",
           "+0.2 < S 0:0(0) win 1000 <mss 1000>", "+0 > . 1:1(0) ack 1");
    CHECK_STATE("ESTABLISHED");
    script_abort(s);
}

/* Section 5.2: acceptable ACKs are SND.UNA - MAX.SND.WND <= SEG.ACK <= SND.NXT; others are
 * answered, and their data is dropped. */
static void ack_range(void)
{
    struct zh_net_socket *s = script_open(4000);
    script_send(s, 1000);
    SCRIPT("+0 > P. 1:1001(1000) ack 1", "+0.1 < . 1:1(0) ack 1001 win 4000",
           "+0.2 < P. 1:101(100) ack 1002 win 4000", "+0 > . 1001:1001(0) ack 1");
    script_recv_error(s, EAGAIN);
    /* 1001 - 4000, and one less */
    SCRIPT("+0.2 < P. 1:101(100) ack 4294964297 win 4000", "+0 > . 1001:1001(0) ack 101",
           "+0.2 < P. 101:201(100) ack 4294964296 win 4000", "+0 > . 1001:1001(0) ack 101");
    script_recv(s, 100);
    script_recv_error(s, EAGAIN);
    script_abort(s);
}

/* Section 7: challenge ACKs are limited in rate, for each connection (10 a second here). */
static void challenge_limit(void)
{
    struct zh_net_socket *s = script_open(65535);
    SCRIPT("+0.2 < R 100:100(0) win 0", "+0 > . 1:1(0) ack 1", "+0.01 < R 200:200(0) win 0",
           "+0.01 < S 300:300(0) win 0", "+0.01 < R 400:400(0) win 0", "+0.08 < R 500:500(0) win 0",
           "+0 > . 1:1(0) ack 1");
    CHECK_STATE("ESTABLISHED");
    script_abort(s);
}

/* Data without an ACK is dropped (RFC 9293 section 3.10.7.4, fifth). */
static void no_ack(void)
{
    struct zh_net_socket *s = script_open(65535);
    SCRIPT("+0.2 < P 1:101(100) win 1000", "+0.2");
    script_recv_error(s, EAGAIN);
    script_abort(s);
}

/* RFC 1337 section 3, F1: a reset does not end TIME-WAIT. */
static void time_wait(void)
{
    struct zh_net_socket *s = script_open(65535);
    zh_net_close(s);
    SCRIPT("+0 > F. 1:1(0) ack 1", "+0.1 < F. 1:1(0) ack 2 win 65535", "+0 > . 2:2(0) ack 2",
           "+1 < R 2:2(0) win 0", "+0 < R. 2:2(0) ack 2 win 0");
    CHECK_STATE("TIME-WAIT");
    SCRIPT("+58");
    CHECK_STATE("TIME-WAIT");
}

/* RFC 9293 section 3.10.7.4: what a reset says in each state. */
static void in_close_wait(void)
{
    struct zh_net_socket *s = script_open(65535);
    SCRIPT("+0 < FP. 1:101(100) ack 1 win 65535", "+0 > . 1:1(0) ack 102",
           "+0.1 < R 102:102(0) win 0");
    CHECK(script_state() == NULL);
    zh_net_close(s);
}

/* What was received before it can still be read; the error comes after it. */
static void data_first(void)
{
    struct zh_net_socket *s = script_open(65535);
    SCRIPT("+0 < P. 1:101(100) ack 1 win 65535", "+0 > . 1:1(0) ack 101",
           "+0.1 < R 101:101(0) win 0");
    script_recv(s, 100);
    script_recv_error(s, ECONNRESET);
    zh_net_close(s);
}

static void in_fin_wait(void)
{
    struct zh_net_socket *s = script_open(65535);
    zh_net_close(s);
    SCRIPT("+0 > F. 1:1(0) ack 1", "+0.1 < R. 1:1(0) ack 2 win 0");
    CHECK(script_state() == NULL);
}

int main(void)
{
    script_start();
    RUN(exact);
    RUN(in_window);
    RUN(syn);
    RUN(ack_range);
    RUN(challenge_limit);
    RUN(no_ack);
    RUN(time_wait);
    RUN(in_close_wait);
    RUN(data_first);
    RUN(in_fin_wait);
    return 0;
}
