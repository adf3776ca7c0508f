/* Congestion window validation (RFC 7661): what becomes of a window that is not used. */
#include "script.h"

enum { SEGMENT = 1000 };

/* A window's worth of segments, acknowledged two by two: slow start grows by what each ACK says. */
static void round_trip(struct zh_net_socket *s, unsigned *at, unsigned count)
{
    script_send(s, (size_t)count * SEGMENT);
    for (unsigned i = 0; i < count; i++) {
        unsigned start = *at + i * SEGMENT;
        SCRIPTF("+0 > %s. %u:%u(1000) ack 1", i == count - 1 ? "P" : "", start, start + SEGMENT);
    }
    SCRIPT("+0.1");
    for (unsigned i = 2; i <= count; i += 2)
        SCRIPTF("+0 < . 1:1(0) ack %u win 65535", *at + i * SEGMENT);
    *at += count * SEGMENT;
}

/* One segment, long before or after others: it is no use of the window. */
static void single(struct zh_net_socket *s, unsigned *at)
{
    script_send(s, SEGMENT);
    SCRIPTF("+0 > P. %u:%u(1000) ack 1", *at, *at + SEGMENT);
    *at += SEGMENT;
    SCRIPTF("+0.1 < . 1:1(0) ack %u win 65535", *at);
}

static void idle(void)
{
    struct zh_net_socket *s = script_open(65535);
    unsigned at = 1;
    round_trip(s, &at, 10);
    CHECK_EQ(s->cwnd, 20000); /* RFC 6928, then RFC 5681 equation 2 */
    round_trip(s, &at, 20);
    CHECK_EQ(s->cwnd, 40000);
    /* No restart after an RTO of silence, nor after minutes: the burst goes as a whole. */
    SCRIPT("+299");
    round_trip(s, &at, 40);
    CHECK_EQ(s->cwnd, 80000);
    uint64_t cwnd = s->cwnd;
    /* Five minutes without its being used, however much trickles: half (section 4.4.3), and slow
     * start up to three quarters. */
    for (int i = 0; i < 29; i++) {
        SCRIPT("+10");
        single(s, &at);
    }
    CHECK_EQ(s->cwnd, cwnd);
    CHECK_EQ(s->ssthresh, UINT64_MAX);
    SCRIPT("+10");
    single(s, &at);
    CHECK_EQ(s->cwnd, cwnd / 2);
    CHECK_EQ(s->ssthresh, UINT64_MAX);
    /* And so on down to the initial window, not further. */
    SCRIPT("+300");
    single(s, &at);
    CHECK_EQ(s->cwnd, cwnd / 4);
    SCRIPT("+86400");
    single(s, &at);
    CHECK_EQ(s->cwnd, 10000);
    script_abort(s);
}

/* A window that is used again in time is valid for five minutes more. */
static void used(void)
{
    struct zh_net_socket *s = script_open(65535);
    unsigned at = 1;
    round_trip(s, &at, 10);
    for (unsigned i = 1; i <= 5; i++) {
        SCRIPT("+200");
        script_send(s, 20 * SEGMENT);
        for (unsigned n = 0; n < 20; n++, at += SEGMENT)
            SCRIPTF("+0 > %s. %u:%u(1000) ack 1", n == 19 ? "P" : "", at, at + SEGMENT);
        /* Half of it is enough (section 4.2); one ACK counts for two segments (RFC 3465). */
        SCRIPTF("+0.1 < . 1:1(0) ack %u win 65535", at);
        SCRIPT("+0");
        CHECK_EQ(s->cwnd, 20000 + 2000 * i);
    }
    script_abort(s);
}

/* ssthresh, where it is set, is at least three quarters of what the window was. */
static void ssthresh(void)
{
    struct zh_net_socket *s = script_open(65535);
    unsigned at = 1;
    round_trip(s, &at, 10);
    round_trip(s, &at, 20);
    s->ssthresh = 8000;
    SCRIPT("+301");
    single(s, &at);
    CHECK_EQ(s->ssthresh, 30000);
    CHECK_EQ(s->cwnd, 20000);
    script_abort(s);
}

int main(void)
{
    script_start();
    RUN(idle);
    RUN(used);
    RUN(ssthresh);
    return 0;
}
