/* Selective acknowledgments: what we tell (RFC 2018, D-SACK RFC 2883), and what of the peer's is
 * believed. */
#include "script.h"

#define SACK "mss 1000,sackOK"

/* RFC 2018 section 4: the block of the segment that caused the ACK first, then the latest ones; as
 * many as there is room for: four, three beside timestamps (section 3). */
static void blocks(void)
{
    struct zh_net_socket *s = script_open_with(65535, SACK);
    SCRIPT("+0 < . 1001:2001(1000) ack 1 win 65535", "+0 > . 1:1(0) ack 1 <sack 1001:2001>",
           "+0 < . 3001:4001(1000) ack 1 win 65535",
           "+0 > . 1:1(0) ack 1 <sack 3001:4001 1001:2001>",
           "+0 < . 5001:6001(1000) ack 1 win 65535",
           "+0 > . 1:1(0) ack 1 <sack 5001:6001 3001:4001 1001:2001>",
           "+0 < . 7001:8001(1000) ack 1 win 65535",
           "+0 > . 1:1(0) ack 1 <sack 7001:8001 5001:6001 3001:4001 1001:2001>",
           "+0 < . 9001:10001(1000) ack 1 win 65535",
           "+0 > . 1:1(0) ack 1 <sack 9001:10001 7001:8001 5001:6001 3001:4001>",
           /* It grows; it comes first. */
           "+0 < . 4001:5001(1000) ack 1 win 65535",
           "+0 > . 1:1(0) ack 1 <sack 3001:6001 9001:10001 7001:8001 1001:2001>",
           /* The gap is filled (RFC 5681 section 4.2: at once). */
           "+0 < . 1:1001(1000) ack 1 win 65535",
           "+0 > . 1:1(0) ack 2001 <sack 3001:6001 9001:10001 7001:8001>",
           "+0 < . 2001:3001(1000) ack 1 win 65535",
           "+0 > . 1:1(0) ack 6001 <sack 9001:10001 7001:8001>",
           "+0 < . 6001:7001(1000) ack 1 win 65535", "+0 > . 1:1(0) ack 8001 <sack 9001:10001>",
           "+0 < P. 8001:9001(1000) ack 1 win 65535", "+0 > . 1:1(0) ack 10001", "+1");
    script_recv(s, 10000);
    script_abort(s);
}

static void beside_timestamps(void)
{
    struct zh_net_socket *s = script_open_with(65535, SACK ",TS val 7 ecr 0");
    for (unsigned i = 0; i < 4; i++) {
        SCRIPTF("+0 < . %u:%u(1000) ack 1 win 65535 <nop,nop,TS val 107 ecr 100>", 1001 + 2000 * i,
                2001 + 2000 * i);
        if (i < 3)
            SCRIPT("+0 > . 1:1(0) ack 1 <...>");
    }
    SCRIPT("+0 > . 1:1(0) ack 1 <TS val 200 ecr 107,sack 7001:8001 5001:6001 3001:4001>");
    script_abort(s);
}

/* A peer that has not offered it gets none (RFC 2018 section 2). */
static void not_permitted(void)
{
    struct zh_net_socket *s = script_open(65535);
    SCRIPT("+0 < . 1001:2001(1000) ack 1 win 65535", "+0 > . 1:1(0) ack 1",
           "+0 < . 1001:2001(1000) ack 1 win 65535", "+0 > . 1:1(0) ack 1");
    script_abort(s);
}

/* RFC 2883 section 4: the first block tells once of a duplicate: below the ACK (4.1), above it with
 * the block that it is part of (4.2), or the part of a segment that was there. */
static void dsack(void)
{
    struct zh_net_socket *s = script_open_with(65535, SACK);
    SCRIPT("+0 < . 1:1001(1000) ack 1 win 65535", "+0 > . 1:1(0) ack 1001",
           "+0 < . 1:1001(1000) ack 1 win 65535", "+0 > . 1:1(0) ack 1001 <sack 1:1001>",
           "+0 < . 2001:3001(1000) ack 1 win 65535", "+0 > . 1:1(0) ack 1001 <sack 2001:3001>",
           "+0 < . 3001:4001(1000) ack 1 win 65535", "+0 > . 1:1(0) ack 1001 <sack 2001:4001>",
           "+0 < . 3001:4001(1000) ack 1 win 65535",
           "+0 > . 1:1(0) ack 1001 <sack 3001:4001 2001:4001>",
           /* once */
           "+0 < . 4001:5001(1000) ack 1 win 65535", "+0 > . 1:1(0) ack 1001 <sack 2001:5001>",
           "+0 < . 501:1501(1000) ack 1 win 65535",
           "+0 > . 1:1(0) ack 1501 <sack 501:1001 2001:5001>",
           "+0 < . 1501:2001(500) ack 1 win 65535", "+0 > . 1:1(0) ack 5001");
    script_recv(s, 5000);
    script_abort(s);
}

/* Two in one burst: an ACK for each. */
static void dsack_burst(void)
{
    struct zh_net_socket *s = script_open_with(65535, SACK);
    SCRIPT("+0 < . 1:1001(1000) ack 1 win 65535", "+0 < . 1001:2001(1000) ack 1 win 65535",
           "+0 > . 1:1(0) ack 2001", "+0.01 < . 1:1001(1000) ack 1 win 65535");
    SCRIPT("+0 < . 1001:2001(1000) ack 1 win 65535", "+0 > . 1:1(0) ack 2001 <sack 1:1001>",
           "+0 > . 1:1(0) ack 2001 <sack 1001:2001>");
    script_recv(s, 2000);
    script_abort(s);
}

/* It goes beside data too, in one of the segments; and is not forgotten where nothing is sent. */
static void dsack_beside_data(void)
{
    struct zh_net_socket *s = script_open_with(1500, SACK);
    SCRIPT("+0 < . 1:1001(1000) ack 1 win 1500", "+0 > . 1:1(0) ack 1001");
    script_send(s, 1000);
    SCRIPT("+0 > P. 1:1001(1000) ack 1001");
    script_send(s, 1000); /* no room for it in the window */
    SCRIPT("+0.01 < . 1:1001(1000) ack 1 win 1500", "+0 > . 1001:1001(0) ack 1001 <sack 1:1001>",
           "+0.01 < . 1:1001(1000) ack 1 win 1500", "+0 < . 1001:1001(0) ack 1001 win 3000",
           "+0 > . 1001:1989(988) ack 1001 <sack 1:1001>",
           "+0.1 < . 1001:1001(0) ack 1989 win 3000", "+0 > P. 1989:2001(12) ack 1001",
           "+0.1 < . 1001:1001(0) ack 2001 win 3000");
    script_recv(s, 1000);
    script_abort(s);
}

/* A block that covers half of a segment does not count for it (RFC 2018 section 8: what is not
 * wholly covered is sent again). One segment selectively acknowledged: a quarter of the round trip
 * (RFC 8985 section 6.2 step 4) until what was sent before it is lost. */
static void partly_covered(void)
{
    struct zh_net_socket *s = script_open_with(65535, SACK);
    script_send(s, 3000);
    SCRIPT("+0 > . 1:1001(1000) ack 1", "+0 > . 1001:2001(1000) ack 1",
           "+0 > P. 2001:3001(1000) ack 1", "+0.1 < . 1:1(0) ack 1 win 65535 <sack 1501:3001>",
           "+0.025 > . 1:1001(1000) ack 1", "+0.1 < . 1:1(0) ack 1001 win 65535 <sack 1501:3001>",
           "+0 > . 1001:2001(1000) ack 1", "+0.1 < . 1:1(0) ack 3001 win 65535");
    script_abort(s);
}

/* Blocks of what was never sent, or is acknowledged, change nothing. */
static void nonsense(void)
{
    struct zh_net_socket *s = script_open_with(65535, SACK);
    script_send(s, 3000);
    SCRIPT("+0 > . 1:1001(1000) ack 1", "+0 > . 1001:2001(1000) ack 1",
           "+0 > P. 2001:3001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 1 win 65535 <sack 3001:4001 2001:4001 4001:3001>",
           "+0.05 < . 1:1(0) ack 1001 win 65535 <sack 1:1001>");
    CHECK_EQ(s->sent.bytes_sacked, 0);
    SCRIPT("+0 < . 1:1(0) ack 3001 win 65535", "+1");
    CHECK_EQ(s->ssthresh, UINT64_MAX);
    script_abort(s);
}

/* RFC 2018 section 8: the peer may throw away what it has acknowledged selectively. Then the first
 * segment of those under way is so marked: the timeout finds it, and all are sent again, one for
 * each ACK and one (RFC 5681 section 3.1; RFC 3465 section 2.3). */
static void reneging(void)
{
    struct zh_net_socket *s = script_open_with(65535, SACK);
    script_send(s, 5000);
    SCRIPT("+0 > . 1:1001(1000) ack 1", "+0 > . 1001:2001(1000) ack 1",
           "+0 > . 2001:3001(1000) ack 1", "+0 > . 3001:4001(1000) ack 1",
           "+0 > P. 4001:5001(1000) ack 1", "+0.1 < . 1:1(0) ack 1 win 65535 <sack 1001:5001>",
           "+0.0001 > . 1:1001(1000) ack 1", "+0.1 < . 1:1(0) ack 1001 win 65535",
           "+0.3 > . 1001:2001(1000) ack 1", "+0.1 < . 1:1(0) ack 2001 win 65535",
           "+0 > . 2001:3001(1000) ack 1", "+0 > . 3001:4001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 4001 win 65535", "+0 > P. 4001:5001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 5001 win 65535", "+1");
    CHECK_EQ(script_net->stats.tcp_rto, 1);
    CHECK_EQ(script_net->stats.tcp_undo, 0);
    script_abort(s);
}

int main(void)
{
    script_start();
    RUN(blocks);
    RUN(beside_timestamps);
    RUN(not_permitted);
    RUN(dsack);
    RUN(dsack_burst);
    RUN(dsack_beside_data);
    RUN(partly_covered);
    RUN(nonsense);
    RUN(reneging);
    return 0;
}
