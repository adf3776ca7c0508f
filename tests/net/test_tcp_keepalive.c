/* Keepalive (RFC 9293 section 3.8.4): off by default (MUST-25), not under two hours unless asked
 * for (MUST-28); a probe is SND.NXT - 1 without data. */
#include "script.h"

static void off(void)
{
    struct zh_net_socket *s = script_open(65535);
    SCRIPT("+100000");
    script_abort(s);
}

/* By default two hours, then 9 probes every 75 s, as tcp (7). */
static void defaults(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_set(s, SOL_SOCKET, SO_KEEPALIVE, 1);
    SCRIPT("+7200 > . 0:0(0) ack 1");
    for (int i = 1; i < 9; i++)
        SCRIPT("+75 > . 0:0(0) ack 1");
    /* MUST-26 asks that one lost answer kills nothing; nine do. */
    SCRIPT("+75 > R. 1:1(0) ack 1");
    script_socket_error(s, ETIMEDOUT);
    zh_net_close(s);
}

static void configured(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_set(s, IPPROTO_TCP, TCP_KEEPIDLE, 10);
    script_set(s, IPPROTO_TCP, TCP_KEEPINTVL, 2);
    script_set(s, IPPROTO_TCP, TCP_KEEPCNT, 3);
    script_set(s, SOL_SOCKET, SO_KEEPALIVE, 1);
    SCRIPT("+10 > . 0:0(0) ack 1", "+2 > . 0:0(0) ack 1",
           /* an answer: all begins anew from it */
           "+1 < . 1:1(0) ack 1 win 65535", "+10 > . 0:0(0) ack 1", "+2 > . 0:0(0) ack 1",
           "+2 > . 0:0(0) ack 1", "+2 > R. 1:1(0) ack 1");
    script_socket_error(s, ETIMEDOUT);
    zh_net_close(s);
}

/* Whatever comes from the peer is a sign of life. */
static void data_counts(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_set(s, IPPROTO_TCP, TCP_KEEPIDLE, 10);
    script_set(s, SOL_SOCKET, SO_KEEPALIVE, 1);
    SCRIPT("+9 < P. 1:101(100) ack 1 win 65535", "+0 > . 1:1(0) ack 101", "+10 > . 0:0(0) ack 101",
           "+0.1 < . 101:101(0) ack 1 win 65535");
    script_recv(s, 100);
    script_set(s, SOL_SOCKET, SO_KEEPALIVE, 0);
    SCRIPT("+100");
    script_abort(s);
}

/* The peer's probes are answered (section 3.8.4: a segment out of the window). */
static void peers_probe(void)
{
    struct zh_net_socket *s = script_open(65535);
    SCRIPT("+100 < . 0:0(0) ack 1 win 65535", "+0 > . 1:1(0) ack 1",
           "+75 < . 0:1(1) ack 1 win 65535", "+0 > . 1:1(0) ack 1");
    script_abort(s);
}

/* The peer has rebooted: its reset answers the probe. */
static void reset_answer(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_set(s, IPPROTO_TCP, TCP_KEEPIDLE, 10);
    script_set(s, SOL_SOCKET, SO_KEEPALIVE, 1);
    SCRIPT("+10 > . 0:0(0) ack 1", "+0.1 < R 1:1(0) win 0");
    script_socket_error(s, ECONNRESET);
    zh_net_close(s);
}

int main(void)
{
    script_start();
    RUN(off);
    RUN(defaults);
    RUN(configured);
    RUN(data_counts);
    RUN(peers_probe);
    RUN(reset_answer);
    return 0;
}
