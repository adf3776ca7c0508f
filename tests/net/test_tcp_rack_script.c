/* Losses found by time (RACK, RFC 8985 section 6). The round trip is 100 ms: the reordering window
 * is a quarter of it, or 100 us where three segments were selectively acknowledged or recovery is
 * under way (section 6.2 step 4, with that floor). */
#include "script.h"

#define SACK "mss 1000,sackOK"

/* Sends `total` bytes; `count` full segments of it go, the last one pushed if it is all. */
static struct zh_net_socket *sends_of(unsigned total, unsigned count)
{
    struct zh_net_socket *s = script_open_with(65535, SACK);
    script_send(s, total);
    for (unsigned i = 0; i < count; i++)
        SCRIPTF("+0 > %s %u:%u(1000) ack 1", (i + 1) * 1000 < total ? "." : "P.", 1 + 1000 * i,
                1001 + 1000 * i);
    return s;
}

static struct zh_net_socket *sends(unsigned count)
{
    return sends_of(count * 1000, count);
}

static void ends(struct zh_net_socket *s, unsigned recoveries)
{
    SCRIPT("+1");
    CHECK_EQ(script_net->stats.tcp_rto, 0);
    CHECK_EQ(script_net->stats.tcp_fast_recovery, recoveries);
    script_abort(s);
}

/* A lost segment costs a round trip, wherever it is but at the end. */
static void one_lost(void)
{
    struct zh_net_socket *s = sends(5);
    SCRIPT("+0.1 < . 1:1(0) ack 1 win 65535 <sack 1001:2001>",
           "+0 < . 1:1(0) ack 1 win 65535 <sack 1001:3001>",
           "+0 < . 1:1(0) ack 1 win 65535 <sack 1001:4001>",
           "+0 < . 1:1(0) ack 1 win 65535 <sack 1001:5001>", "+0.0001 > . 1:1001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 5001 win 65535");
    /* RFC 5681 equation 4: half of the 5000 in flight; RFC 6937 section 3: cwnd is ssthresh. */
    CHECK_EQ(s->ssthresh, 2500);
    CHECK_EQ(s->cwnd, 2500);
    CHECK_EQ(script_info(s).tcpi_total_retrans, 1);
    ends(s, 1);
}

static void last_but_one_lost(void)
{
    struct zh_net_socket *s = sends(3);
    SCRIPT("+0.1 < . 1:1(0) ack 1001 win 65535 <sack 2001:3001>",
           "+0.025 > . 1001:2001(1000) ack 1", "+0.1 < . 1:1(0) ack 3001 win 65535");
    ends(s, 1);
}

/* What comes within the window was reordered, not lost. */
static void reordered(void)
{
    struct zh_net_socket *s = sends(3);
    SCRIPT("+0.1 < . 1:1(0) ack 1 win 65535 <sack 1001:2001>",
           "+0 < . 1:1(0) ack 1 win 65535 <sack 1001:3001>",
           "+0.024 < . 1:1(0) ack 3001 win 65535");
    CHECK_EQ(s->ssthresh, UINT64_MAX);
    CHECK(s->rack.reordering_seen);
    ends(s, 0);
}

/* Where reordering was seen, three are no longer enough: a quarter of the round trip. */
static void reordered_before(void)
{
    struct zh_net_socket *s = sends(3);
    SCRIPT("+0.1 < . 1:1(0) ack 1 win 65535 <sack 1001:2001>",
           "+0.01 < . 1:1(0) ack 3001 win 65535");
    script_send(s, 5000);
    SCRIPT("+0 > . 3001:4001(1000) ack 1", "+0 > . 4001:5001(1000) ack 1",
           "+0 > . 5001:6001(1000) ack 1", "+0 > . 6001:7001(1000) ack 1",
           "+0 > P. 7001:8001(1000) ack 1", "+0.1 < . 1:1(0) ack 3001 win 65535 <sack 4001:8001>",
           "+0.024 < . 1:1(0) ack 8001 win 65535");
    ends(s, 0);
}

/* A retransmission that is lost is found by what was sent after it, and not by a timeout. */
static void retransmission_lost(void)
{
    struct zh_net_socket *s = sends_of(14000, 10);
    /* Until it is lost what has arrived lets new data go (RFC 3042). */
    SCRIPT("+0.1 < . 1:1(0) ack 1 win 65535 <sack 1001:3001>", "+0 > . 10001:11001(1000) ack 1",
           "+0 > . 11001:12001(1000) ack 1", "+0.025 > . 1:1001(1000) ack 1",
           "+0.025 < . 1:1(0) ack 1 win 65535 <sack 1001:10001>", "+0 > . 12001:13001(1000) ack 1",
           "+0 > P. 13001:14001(1000) ack 1", "+0.05 < . 1:1(0) ack 1 win 65535 <sack 1001:12001>",
           "+0.05 < . 1:1(0) ack 1 win 65535 <sack 1001:14001>", "+0 > . 1:1001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 14001 win 65535");
    CHECK_EQ(s->cwnd, 5000);
    ends(s, 1);
}

/* The first retransmission goes on the ACK that shows the loss, though half a segment would be due
 * (RFC 6937 section 3: 1000 of 10000 delivered, halved). The lost one was sent 10 ms before the
 * others: with the third of these its time is over. */
static void first_at_once(void)
{
    struct zh_net_socket *s = sends(1);
    SCRIPT("+0.01");
    script_send(s, 9000);
    for (unsigned i = 1; i < 10; i++)
        SCRIPTF("+0 > %s %u:%u(1000) ack 1", i < 9 ? "." : "P.", 1 + 1000 * i, 1001 + 1000 * i);
    SCRIPT("+0.1 < . 1:1(0) ack 1 win 65535 <sack 1001:2001>",
           "+0 < . 1:1(0) ack 1 win 65535 <sack 1001:3001>",
           "+0 < . 1:1(0) ack 1 win 65535 <sack 1001:4001>", "+0 > . 1:1001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 10001 win 65535");
    CHECK_EQ(s->cwnd, 5000);
    ends(s, 1);
}

/* What was sent during recovery and lost is another congestion (RFC 5681 section 4.3): the window
 * is reduced again when the recovery ends. Here the first retransmission is lost too, so that the
 * recovery is still under way when that is found. */
static void lost_within_recovery(void)
{
    struct zh_net_socket *s = sends_of(17000, 10);
    SCRIPT("+0.1 < . 1:1(0) ack 1 win 65535 <sack 1001:4001>", "+0 > . 10001:11001(1000) ack 1",
           "+0 > . 11001:12001(1000) ack 1", "+0 > . 12001:13001(1000) ack 1",
           "+0.0001 > . 1:1001(1000) ack 1", "+0.05 < . 1:1(0) ack 1 win 65535 <sack 1001:10001>",
           "+0 > . 13001:14001(1000) ack 1", "+0.05 < . 1:1(0) ack 1 win 65535 <sack 1001:13001>",
           "+0 > . 14001:15001(1000) ack 1", "+0 > . 15001:16001(1000) ack 1",
           "+0 > P. 16001:17001(1000) ack 1");
    CHECK_EQ(s->ssthresh, 5000);
    SCRIPT("+0.1 < . 1:1(0) ack 1 win 65535 <sack 14001:17001 1001:13001>",
           "+0 > . 1:1001(1000) ack 1", "+0 > . 13001:14001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 13001 win 65535 <sack 14001:17001>");
    CHECK_EQ(s->ssthresh, 2000); /* half of 4000 */
    SCRIPT("+0 < . 1:1(0) ack 17001 win 65535");
    CHECK_EQ(s->cwnd, 2000);
    ends(s, 2);
}

int main(void)
{
    script_start();
    RUN(one_lost);
    RUN(last_but_one_lost);
    RUN(reordered);
    RUN(reordered_before);
    RUN(retransmission_lost);
    RUN(first_at_once);
    RUN(lost_within_recovery);
    return 0;
}
