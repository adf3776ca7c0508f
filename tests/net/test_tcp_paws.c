/* Timestamps (RFC 7323 sections 3 to 5). The stack's clock ticks once a millisecond (section 5.4
 * has 1 ms to 1 s), its first value counts as 100; the peer's values are 1000 at the SYN. */
#include "script.h"

static struct zh_net_socket *open_stamped(void)
{
    return script_open_with(65535, "mss 1012,nop,nop,TS val 1000 ecr 0");
}

/* Section 3.2: each segment has TSval and TSecr. Section 5.3 R1: one with an older TSval is not
 * acceptable: acknowledged, and dropped. */
static void old_segment(void)
{
    struct zh_net_socket *s = open_stamped();
    SCRIPT("+0.1 < P. 1:101(100) ack 1 win 65535 <nop,nop,TS val 1200 ecr 100>",
           "+0 > . 1:1(0) ack 101 <TS val 300 ecr 1200>",
           "+0.1 < P. 101:201(100) ack 1 win 65535 <nop,nop,TS val 1199 ecr 300>",
           "+0 > . 1:1(0) ack 101 <TS val 400 ecr 1200>");
    script_recv(s, 100);
    script_recv_error(s, EAGAIN);
    /* Equal is not older. */
    SCRIPT("+0.1 < P. 101:201(100) ack 1 win 65535 <nop,nop,TS val 1200 ecr 300>",
           "+0 > . 1:1(0) ack 201 <TS val 500 ecr 1200>");
    script_recv(s, 100);
    script_abort(s);
}

/* Section 5.2: the values wrap. */
static void wraps(void)
{
    struct zh_net_socket *s = script_open_with(65535, "mss 1012,nop,nop,TS val 4294967100 ecr 0");
    SCRIPT("+0.1 < P. 1:101(100) ack 1 win 65535 <nop,nop,TS val 4294967290 ecr 100>",
           "+0 > . 1:1(0) ack 101 <TS val 300 ecr 4294967290>",
           "+0.1 < P. 101:201(100) ack 1 win 65535 <nop,nop,TS val 90 ecr 300>",
           "+0 > . 1:1(0) ack 201 <TS val 400 ecr 90>",
           "+0.1 < P. 201:301(100) ack 1 win 65535 <nop,nop,TS val 4294967295 ecr 300>",
           "+0 > . 1:1(0) ack 201 <TS val 500 ecr 90>");
    script_recv(s, 200);
    script_abort(s);
}

/* Section 3.2: on a connection with timestamps a segment without is dropped, silently; a reset
 * needs none. */
static void without(void)
{
    struct zh_net_socket *s = open_stamped();
    SCRIPT("+0.1 < P. 1:101(100) ack 1 win 65535", "+0.5");
    script_recv_error(s, EAGAIN);
    SCRIPT("+0 < R 1:1(0) win 0");
    script_socket_error(s, ECONNRESET);
    zh_net_close(s);
}

/* Section 5.3 R1: PAWS is not for resets. */
static void old_reset(void)
{
    struct zh_net_socket *s = open_stamped();
    SCRIPT("+0.1 < R. 1:1(0) ack 1 win 0 <nop,nop,TS val 1 ecr 100>");
    script_socket_error(s, ECONNRESET);
    zh_net_close(s);
}

/* Section 4.3: TSecr is of the segment that moved the window's left edge last: with delayed ACKs
 * the first of them; of one that fills a gap; not of what is out of order. */
static void echoed(void)
{
    struct zh_net_socket *s = open_stamped();
    script_set(s, IPPROTO_TCP, TCP_QUICKACK, 0);
    SCRIPT("+0.1 < P. 1:101(100) ack 1 win 65535 <nop,nop,TS val 1200 ecr 100>",
           "+0.01 < P. 101:201(100) ack 1 win 65535 <nop,nop,TS val 1210 ecr 100>",
           "+0.03 > . 1:1(0) ack 201 <TS val 340 ecr 1200>",
           "+0.1 < P. 301:401(100) ack 1 win 65535 <nop,nop,TS val 1340 ecr 340>",
           "+0 > . 1:1(0) ack 201 <TS val 440 ecr 1200>",
           "+0.1 < P. 201:301(100) ack 1 win 65535 <nop,nop,TS val 1330 ecr 340>",
           "+0 > . 1:1(0) ack 401 <TS val 540 ecr 1330>");
    script_recv(s, 400);
    script_abort(s);
}

/* Section 5.5: after 24 days without a segment TS.Recent is no longer valid. */
static void outdated(void)
{
    struct zh_net_socket *s = open_stamped();
    SCRIPT("+2160000 < P. 1:101(100) ack 1 win 65535 <nop,nop,TS val 5 ecr 100>");
    SCRIPT("+0 > . 1:1(0) ack 101 <TS val 2160000200 ecr 5>");
    script_recv(s, 100);
    script_abort(s);
}

/* RFC 7323 section 3.2: if the SYN has none, there are none. */
static void none_agreed(void)
{
    struct zh_net_socket *s = script_open(65535);
    SCRIPT("+0.1 < P. 1:101(100) ack 1 win 65535 <nop,nop,TS val 5 ecr 6>",
           "+0 > . 1:1(0) ack 101");
    script_recv(s, 100);
    script_abort(s);
}

int main(void)
{
    script_start();
    RUN(old_segment);
    RUN(wraps);
    RUN(without);
    RUN(old_reset);
    RUN(echoed);
    RUN(outdated);
    RUN(none_agreed);
    return 0;
}
