/* When received data is acknowledged (RFC 9293 section 3.8.6.3, RFC 5681 section 4.2). The peer's
 * segments have 1000 bytes; delayed ACKs wait 40 ms, as configured by default (less than the 0.5 s
 * of MUST-59). */
#include "script.h"

/* The ACKs at a connection's start are not delayed; this asks for the usual way. */
static struct zh_net_socket *open_delaying(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_set(s, IPPROTO_TCP, TCP_QUICKACK, 0);
    /* The largest segment that was seen is what a full-sized one is. */
    SCRIPT("+0 < P. 1:1001(1000) ack 1 win 65535", "+0.04 > . 1:1(0) ack 1001");
    script_recv(s, 1000);
    return s;
}

static void delayed(void)
{
    struct zh_net_socket *s = open_delaying();
    SCRIPT("+0.1 < P. 1001:1101(100) ack 1 win 65535", "+0.04 > . 1:1(0) ack 1101");
    /* The timer counts from the first segment that is not acknowledged. */
    SCRIPT("+0.1 < P. 1101:1201(100) ack 1 win 65535", "+0.03 < P. 1201:1301(100) ack 1 win 65535",
           "+0.01 > . 1:1(0) ack 1301");
    script_abort(s);
}

/* SHLD-18: at least every second full-sized segment. */
static void every_second(void)
{
    struct zh_net_socket *s = open_delaying();
    SCRIPT("+0.1 < . 1001:2001(1000) ack 1 win 65535", "+0.01",
           "+0 < . 2001:3001(1000) ack 1 win 65535", "+0 > . 1:1(0) ack 3001",
           "+0.01 < . 3001:4001(1000) ack 1 win 65535", "+0.01",
           "+0 < . 4001:5001(1000) ack 1 win 65535", "+0 > . 1:1(0) ack 5001");
    script_recv(s, 4000);
    script_abort(s);
}

/* Data that is sent takes the ACK with it. */
static void with_data(void)
{
    struct zh_net_socket *s = open_delaying();
    SCRIPT("+0.1 < P. 1001:1101(100) ack 1 win 65535", "+0.01");
    script_recv(s, 100);
    script_send(s, 50);
    SCRIPT("+0 > P. 1:51(50) ack 1101", "+0.1 < . 1101:1101(0) ack 51 win 65535", "+1");
    script_abort(s);
}

/* One ACK for what came in one burst, of at most 16 segments and an eighth of the window. */
static void burst(void)
{
    struct zh_net_socket *s = open_delaying();
    for (unsigned i = 1; i <= 7; i++)
        SCRIPTF("+0 < . %u:%u(1000) ack 1 win 65535", i * 1000 + 1, i * 1000 + 1001);
    SCRIPT("+0 > . 1:1(0) ack 8001");
    script_recv(s, 7000);
    SCRIPT("+0.1");
    script_abort(s);
}

static void long_burst(void)
{
    struct zh_net_socket *s =
        script_open_with(65535, "mss 1000,nop,wscale 7"); /* so that 1/8 of the window is more */
    script_set(s, IPPROTO_TCP, TCP_QUICKACK, 0);
    SCRIPT("+0 < P. 1:1001(1000) ack 1 win 65535", "+0.04 > . 1:1(0) ack 1001");
    for (unsigned i = 1; i <= 35; i++)
        SCRIPTF("+0 < . %u:%u(1000) ack 1 win 65535", i * 1000 + 1, i * 1000 + 1001);
    /* 2 full-sized segments want an ACK; it waits for the burst's end until there are 16 of them.
     */
    zh_net_poll(script_net, script_now);
    SCRIPT("+0 > . 1:1(0) ack 17001", "+0 > . 1:1(0) ack 33001", "+0 > . 1:1(0) ack 36001");
    script_recv(s, 36000);
    script_abort(s);
}

/* RFC 5681 section 4.2: at once for what is out of order, one for each, and for what fills a gap.
 */
static void out_of_order(void)
{
    struct zh_net_socket *s = open_delaying();
    SCRIPT("+0.1 < . 2001:3001(1000) ack 1 win 65535", "+0 > . 1:1(0) ack 1001",
           "+0.01 < . 3001:4001(1000) ack 1 win 65535", "+0 > . 1:1(0) ack 1001",
           /* in a burst too */
           "+0.01 < . 4001:5001(1000) ack 1 win 65535", "+0 < . 6001:7001(1000) ack 1 win 65535");
    zh_net_poll(script_net, script_now);
    SCRIPT("+0 > . 1:1(0) ack 1001", "+0 > . 1:1(0) ack 1001",
           /* a part of the gap, then all of it */
           "+0.01 < . 1001:2001(1000) ack 1 win 65535", "+0 > . 1:1(0) ack 5001",
           "+0.01 < . 5001:6001(1000) ack 1 win 65535", "+0 > . 1:1(0) ack 7001");
    script_recv(s, 7000 - 1000);
    script_abort(s);
}

/* RFC 9293 section 3.10.7.4, first: what was received before is acknowledged again, at once. */
static void duplicates(void)
{
    struct zh_net_socket *s = open_delaying();
    SCRIPT("+0.1 < . 1:1001(1000) ack 1 win 65535", "+0 > . 1:1(0) ack 1001",
           "+0.1 < P. 1001:1101(100) ack 1 win 65535", "+0.01 < P. 1001:1101(100) ack 1 win 65535",
           "+0 > . 1:1(0) ack 1101",
           /* of one that overlaps, the new part is taken */
           "+0.1 < P. 1051:1201(150) ack 1 win 65535", "+0.04 > . 1:1(0) ack 1201");
    script_recv(s, 200);
    script_abort(s);
}

/* A FIN is acknowledged at once. */
static void fin(void)
{
    struct zh_net_socket *s = open_delaying();
    SCRIPT("+0.1 < FP. 1001:1101(100) ack 1 win 65535", "+0 > . 1:1(0) ack 1102");
    script_recv(s, 100);
    script_recv(s, 0);
    zh_net_close(s);
    SCRIPT("+0 > F. 1:1(0) ack 1102", "+0.1 < . 1102:1102(0) ack 2 win 65535");
}

/* The first ACKs of a connection are not delayed, so that the peer's window grows (as Linux). */
static void at_start(void)
{
    struct zh_net_socket *s = script_open(65535);
    for (unsigned i = 0; i < 16; i++) {
        SCRIPTF("+0.1 < P. %u:%u(100) ack 1 win 65535", i * 100 + 1, i * 100 + 101);
        SCRIPTF("+0 > . 1:1(0) ack %u", i * 100 + 101);
    }
    SCRIPT("+0.1 < P. 1601:1701(100) ack 1 win 65535", "+0.04 > . 1:1(0) ack 1701");
    script_recv(s, 1700);
    script_abort(s);
}

int main(void)
{
    script_start();
    RUN(delayed);
    RUN(every_second);
    RUN(with_data);
    RUN(burst);
    RUN(long_burst);
    RUN(out_of_order);
    RUN(duplicates);
    RUN(fin);
    RUN(at_start);
    RUN_WITH(delayed, .delayed_ack = 40000000);
    return 0;
}
