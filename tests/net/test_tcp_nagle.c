/* Which segments go and which wait for more (RFC 9293 section 3.7.4; TCP_NODELAY, TCP_CORK and
 * MSG_MORE as in tcp (7) and send (2)). The peer's MSS is 1000, the round trip takes 100 ms. */
#include "script.h"

/* SHLD-7: small data waits while anything is unacknowledged. */
static void waits(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_send(s, 10);
    SCRIPT("+0 > P. 1:11(10) ack 1");
    script_send(s, 20);
    SCRIPT("+0.05");
    script_send(s, 30);
    SCRIPT("+0.05 < . 1:1(0) ack 11 win 65535", "+0 > P. 11:61(50) ack 1",
           "+0.1 < . 1:1(0) ack 61 win 65535");
    script_abort(s);
}

/* A full segment goes in any case, and the rest after it waits. */
static void full_goes(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_send(s, 10);
    SCRIPT("+0 > P. 1:11(10) ack 1");
    script_send(s, 1500);
    SCRIPT("+0 > . 11:1011(1000) ack 1", "+0.1 < . 1:1(0) ack 11 win 65535", "+0.01",
           "+0 < . 1:1(0) ack 1011 win 65535", "+0 > P. 1011:1511(500) ack 1",
           "+0.1 < . 1:1(0) ack 1511 win 65535");
    script_abort(s);
}

static void no_delay(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_set(s, IPPROTO_TCP, TCP_NODELAY, 1);
    script_send(s, 10);
    SCRIPT("+0 > P. 1:11(10) ack 1");
    script_send(s, 20);
    SCRIPT("+0 > P. 11:31(20) ack 1");
    script_send(s, 1500);
    SCRIPT("+0 > . 31:1031(1000) ack 1", "+0 > P. 1031:1531(500) ack 1",
           "+0.1 < . 1:1(0) ack 1531 win 65535");
    script_abort(s);
}

/* Setting it lets go what waits (MUST-17: it can be disabled on a connection). */
static void no_delay_later(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_send(s, 10);
    SCRIPT("+0 > P. 1:11(10) ack 1");
    script_send(s, 20);
    SCRIPT("+0.05");
    script_set(s, IPPROTO_TCP, TCP_NODELAY, 1);
    SCRIPT("+0 > P. 11:31(20) ack 1", "+0.05 < . 1:1(0) ack 31 win 65535");
    script_abort(s);
}

static void cork(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_set(s, IPPROTO_TCP, TCP_CORK, 1);
    script_send(s, 300);
    SCRIPT("+0.1");
    script_send(s, 900);
    SCRIPT("+0 > . 1:1001(1000) ack 1", "+0.1 < . 1:1(0) ack 1001 win 65535", "+0.1");
    script_set(s, IPPROTO_TCP, TCP_CORK, 0);
    SCRIPT("+0 > P. 1001:1201(200) ack 1", "+0.1 < . 1:1(0) ack 1201 win 65535");
    script_abort(s);
}

/* What is corked is not kept for ever: tcp (7) has 200 ms; here it is the RTO, of which 200 ms is
 * the least (RTT 100 ms: SRTT + 4 * RTTVAR = 300 ms). The same for MSG_MORE. */
static void cork_ends(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_set(s, IPPROTO_TCP, TCP_CORK, 1);
    script_send(s, 300);
    SCRIPT("+0.3 > P. 1:301(300) ack 1", "+0.1 < . 1:1(0) ack 301 win 65535");
    script_set(s, IPPROTO_TCP, TCP_CORK, 0);
    script_send_more(s, 100);
    SCRIPT("+0.3 > P. 301:401(100) ack 1", "+0.1 < . 1:1(0) ack 401 win 65535");
    script_abort(s);
}

static void more(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_send_more(s, 300);
    SCRIPT("+0.1");
    script_send_more(s, 800); /* full segments go */
    SCRIPT("+0 > . 1:1001(1000) ack 1", "+0.1 < . 1:1(0) ack 1001 win 65535", "+0.1");
    script_send(s, 50);
    SCRIPT("+0 > P. 1001:1151(150) ack 1", "+0.1 < . 1:1(0) ack 1151 win 65535");
    script_abort(s);
}

/* The end of the stream waits for nothing (section 3.7.4 is about data). */
static void end_of_stream(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_send(s, 10);
    SCRIPT("+0 > P. 1:11(10) ack 1");
    script_send(s, 20);
    SCRIPT("+0.01");
    CHECK_EQ(zh_net_shutdown(s, SHUT_WR), 0);
    SCRIPT("+0 > FP. 11:31(20) ack 1", "+0.1 < F. 1:1(0) ack 32 win 65535",
           "+0 > . 32:32(0) ack 2");
    zh_net_close(s);
}

int main(void)
{
    script_start();
    RUN(waits);
    RUN(full_goes);
    RUN(no_delay);
    RUN(no_delay_later);
    RUN(cork);
    RUN(cork_ends);
    RUN(more);
    RUN(end_of_stream);
    return 0;
}
