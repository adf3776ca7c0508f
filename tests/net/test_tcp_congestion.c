/* Congestion control in virtual time: windows beside those that the RFCs' formulas give, computed
 * here in floating point and in segments. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "net/tcp_congestion.h"

enum { MSS = 1448 };

static struct zh_net net;
static struct zh_net_socket *s;

static struct zh_net_socket *begin(const struct tcp_congestion *algorithm, uint64_t cwnd,
                                   uint64_t ssthresh)
{
    free(s);
    s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    net.now = 1000 * NET_SECOND;
    s->net = &net;
    s->mss = MSS;
    s->cwnd = cwnd;
    s->ssthresh = ssthresh;
    s->snd_una = s->snd_nxt = UINT32_MAX - 5000;
    s->congestion = algorithm;
    algorithm->start(s);
    return s;
}

static void ack_rtt(uint32_t bytes, uint64_t rtt)
{
    const struct tcp_ack ack = {.acked = bytes, .delivered = bytes, .rtt = rtt};
    s->snd_una += bytes;
    s->congestion->on_ack(s, &ack);
}

static void ack(uint32_t bytes)
{
    ack_rtt(bytes, 0);
}

static void near(double value, double expected, double tolerance)
{
    if (fabs(value - expected) <= tolerance)
        return;
    fprintf(stderr, "%f is not within %f of %f\n", value, tolerance, expected);
    exit(1);
}

/* --- what is shared ------------------------------------------------------------------------------
 */

static void test_shared(void)
{
    CHECK(tcp_congestion_find("cubic") == &tcp_cubic);
    CHECK(tcp_congestion_find("newreno") == &tcp_newreno);
    CHECK(tcp_congestion_find("vegas") == NULL);
    CHECK(strcmp(tcp_cubic.name, "cubic") == 0);
    /* RFC 6928 section 2: min(10 MSS, max(2 MSS, 14600)). */
    CHECK_EQ(tcp_initial_window(1460), 14600);
    CHECK_EQ(tcp_initial_window(536), 5360);
    CHECK_EQ(tcp_initial_window(8960), 17920);
    CHECK_EQ(tcp_initial_window(3000), 14600);
    begin(&tcp_newreno, TCP_CWND_MAX - 10, UINT64_MAX);
    CHECK_EQ(tcp_slow_start(s, 20), 0);
    CHECK_EQ(s->cwnd, TCP_CWND_MAX);
}

/* --- NewReno
 * -------------------------------------------------------------------------------------- */

static void test_newreno(void)
{
    begin(&tcp_newreno, 10 * MSS, 40 * MSS);
    ack(MSS);
    CHECK_EQ(s->cwnd, 11 * MSS);
    ack(5 * MSS); /* RFC 3465 section 2.2: L = 2 */
    CHECK_EQ(s->cwnd, 13 * MSS);
    s->flags |= TCP_AFTER_RTO; /* section 2.3: L = 1 */
    ack(5 * MSS);
    CHECK_EQ(s->cwnd, 14 * MSS);
    s->flags = 0;
    s->congestion->on_ack(s, &(struct tcp_ack){.acked = MSS, .app_limited = true});
    CHECK_EQ(s->cwnd, 14 * MSS);
    while (s->cwnd < 40 * MSS)
        ack(2 * MSS);
    CHECK_EQ(s->cwnd, 40 * MSS);
    /* A segment each window (RFC 5681 section 3.1). */
    for (int window = 0; window < 5; window++) {
        uint64_t before = s->cwnd;
        for (uint64_t acked = 0; acked + MSS < before; acked += MSS) {
            ack(MSS);
            CHECK_EQ(s->cwnd, before);
        }
        ack(MSS);
        CHECK_EQ(s->cwnd, before + MSS);
    }
    /* Equation 4: half of what is in flight, at least two segments. */
    s->snd_nxt = s->snd_una + 30 * MSS;
    s->congestion->on_loss(s);
    CHECK_EQ(s->ssthresh, 15 * MSS);
    CHECK_EQ(s->cwnd, 45 * MSS);
    s->snd_nxt = s->snd_una + 47 * MSS; /* limited transmit does not count */
    s->congestion->on_loss(s);
    CHECK_EQ(s->ssthresh, 45 * MSS / 2);
    s->snd_nxt = s->snd_una + MSS;
    s->congestion->on_timeout(s);
    CHECK_EQ(s->ssthresh, 2 * MSS);
    /* What slow start leaves of an ACK counts for congestion avoidance. */
    begin(&tcp_newreno, 10 * MSS, 11 * MSS);
    ack(2 * MSS);
    CHECK_EQ(s->cwnd, 11 * MSS);
    CHECK_EQ(s->cwnd_acked, MSS);
}

/* --- CUBIC
 * ---------------------------------------------------------------------------------------- */

/* RFC 9438 in segments and seconds. */
struct model {
    double cwnd, w_max, k, est, prior, start;
};

static double model_w(const struct model *m, double t)
{
    return 0.4 * pow(t - m->k, 3) + m->w_max;
}

static void model_epoch(struct model *m, double now)
{
    m->start = now;
    m->est = m->cwnd;
    if (m->cwnd < m->w_max) {
        m->k = cbrt((m->w_max - m->cwnd) / 0.4);
    } else {
        m->k = 0;
        m->w_max = m->cwnd;
    }
}

static void model_ack(struct model *m, double segments, double now, double rtt)
{
    double t = now - m->start, alpha = m->est < m->prior ? 3 * (1 - 0.7) / (1 + 0.7) : 1;
    m->est += alpha * segments / m->cwnd;
    if (model_w(m, t) < m->est) {
        m->cwnd = fmax(m->cwnd, m->est);
        return;
    }
    double target = fmin(fmax(model_w(m, t + rtt), m->cwnd), 1.5 * m->cwnd);
    m->cwnd += segments * (target - m->cwnd) / m->cwnd;
}

static void model_loss(struct model *m)
{
    m->prior = m->cwnd;
    m->w_max = m->cwnd < m->w_max ? m->cwnd * (1 + 0.7) / 2 : m->cwnd;
    m->cwnd *= 0.7;
}

/* A window a round trip, in ACKs of `every` segments evenly spread. */
static void run_cubic(struct model *m, double seconds, double rtt, uint32_t every)
{
    uint64_t start = net.now, end = start + (uint64_t)(seconds * 1e9);
    bool first = m->start < 0;
    s->srtt = (uint64_t)(rtt * 1e9);
    for (double now = 0; net.now < end;) {
        now += rtt * every / m->cwnd;
        net.now = start + (uint64_t)(now * 1e9);
        double at = (double)net.now / 1e9;
        if (first)
            model_epoch(m, at);
        first = false;
        model_ack(m, every, at, rtt);
        ack(every * MSS);
        near((double)s->cwnd / MSS, m->cwnd, 0.3 + m->cwnd * 0.002);
    }
}

static void lose(struct model *m)
{
    s->congestion->on_loss(s);
    model_loss(m);
    m->start = -1;
    CHECK_EQ(s->ssthresh, s->cwnd * 7 / 10);
    s->cwnd = s->ssthresh;
}

static void test_cubic_at(double rtt, uint32_t every, double segments)
{
    begin(&tcp_cubic, (uint64_t)(segments * MSS), (uint64_t)(segments * MSS));
    struct model m = {.cwnd = segments, .start = -1};
    run_cubic(&m, 2, rtt, every); /* from slow start's end: convex at once */
    lose(&m);
    double w_max = m.w_max;
    run_cubic(&m, 2, rtt, every);
    if (rtt >=
        0.05) { /* section 5.1's regime: concave below W_max, flat about it at K, then convex */
        double k = cbrt(w_max * 0.3 / 0.4);
        CHECK(m.cwnd < w_max);
        run_cubic(&m, k - 2, rtt, every);
        near((double)s->cwnd / MSS, w_max, w_max * 0.02);
        run_cubic(&m, k / 2, rtt, every);
        CHECK((double)s->cwnd / MSS > w_max + 0.4 * pow(k / 2 - 2 * rtt, 3));
    }
    lose(&m);
    run_cubic(&m, 1, rtt, every);
    lose(&m); /* below W_max: fast convergence */
    CHECK(m.w_max < m.prior);
    run_cubic(&m, 1, rtt, every);
}

/* Section 4.3: in short round trips, what Reno would have: alpha segments a round trip until the
 * window is what it was, then one. */
static void test_cubic_reno(void)
{
    const double rtt = 0.001;
    begin(&tcp_cubic, 100 * MSS, 100 * MSS);
    struct model m = {.cwnd = 100, .start = -1};
    lose(&m);
    run_cubic(&m, 20 * rtt, rtt, 1);
    near((double)s->cwnd / MSS, 70 + 20 * 9.0 / 17, 0.5);
    run_cubic(&m, 60 * rtt, rtt, 1);
    near((double)s->cwnd / MSS, 100 + (80 - 30 / (9.0 / 17)), 1);
}

static void test_cubic_timeout(void)
{
    begin(&tcp_cubic, 100 * MSS, 100 * MSS);
    struct model m = {.cwnd = 100, .start = -1};
    run_cubic(&m, 1, 0.1, 1);
    uint64_t before = s->cwnd;
    s->congestion->on_timeout(s);
    CHECK_EQ(s->ssthresh, before * 7 / 10);
    s->cwnd = MSS;
    while (s->cwnd < s->ssthresh) {
        uint64_t was = s->cwnd;
        ack(MSS); /* slow start, without HyStart++ */
        CHECK_EQ(s->cwnd, was + MSS < s->ssthresh ? was + MSS : s->ssthresh);
    }
    /* Section 4.8: from here, K = 0 and W_max = cwnd. */
    m = (struct model){.cwnd = (double)s->cwnd / MSS, .prior = (double)before / MSS, .start = -1};
    run_cubic(&m, 3, 0.1, 2);
}

static void test_cubic_undo(void)
{
    begin(&tcp_cubic, 500 * MSS, 500 * MSS);
    struct model m = {.cwnd = 500, .start = -1};
    lose(&m);
    run_cubic(&m, 3, 0.1, 2);
    uint64_t cwnd = s->cwnd, ssthresh = s->ssthresh;
    s->congestion->on_loss(s);
    s->cwnd = s->ssthresh;
    net.now += NET_SECOND / 10;
    s->cwnd = cwnd; /* by the caller */
    s->ssthresh = ssthresh;
    s->congestion->undo(s);
    run_cubic(&m, 3, 0.1, 2); /* as if nothing had been */
}

/* Section 4.2: time in which the application is the limit does not count. */
static void test_cubic_limited(void)
{
    begin(&tcp_cubic, 500 * MSS, 500 * MSS);
    struct model m = {.cwnd = 500, .start = -1};
    lose(&m);
    run_cubic(&m, 3, 0.1, 2);
    uint64_t cwnd = s->cwnd;
    const struct tcp_ack limited = {.acked = MSS, .app_limited = true};
    s->congestion->on_ack(s, &limited);
    net.now += 20 * NET_SECOND;
    s->congestion->on_ack(s, &limited);
    CHECK_EQ(s->cwnd, cwnd);
    m.start += 20;
    run_cubic(&m, 3, 0.1, 2);
}

/* Windows up to the largest, segments down to the smallest. */
static void test_cubic_extremes(void)
{
    for (int i = 0; i < 2; i++) {
        begin(&tcp_cubic, TCP_CWND_MAX, TCP_CWND_MAX);
        s->mss = i ? 65495 : TCP_MSS_MIN;
        s->srtt = 10 * NET_SECOND;
        s->congestion->on_loss(s);
        s->cwnd = s->ssthresh;
        for (int step = 0; step < 100; step++) {
            uint64_t before = s->cwnd;
            net.now += 10 * NET_SECOND;
            ack((uint32_t)s->cwnd);
            CHECK(s->cwnd >= before && s->cwnd <= TCP_CWND_MAX);
        }
        CHECK_EQ(s->cwnd, TCP_CWND_MAX);
    }
    begin(&tcp_cubic, MSS, MSS);
    s->congestion->on_loss(s);
    CHECK_EQ(s->ssthresh, 2 * MSS);
}

/* --- HyStart++
 * ------------------------------------------------------------------------------------ */

static uint32_t round_acked;

/* A round of ACKs with this round trip, each of two segments: until what had been sent at the end
 * of the last round is acknowledged (RFC 9406 section 4.2). Returns by how many percent of what was
 * acknowledged the window grew. */
static uint64_t round_of(uint64_t rtt)
{
    static uint32_t window_end;
    uint64_t before = s->cwnd;
    if (s->snd_una == s->snd_nxt) {
        window_end = s->snd_una;
        s->snd_nxt += (uint32_t)s->cwnd;
    }
    round_acked = 0;
    uint32_t sent;
    do {
        sent = s->snd_nxt;
        ack_rtt(2 * MSS, rtt);
        round_acked += 2 * MSS;
        s->snd_nxt = s->snd_una + (uint32_t)s->cwnd;
    } while (seq_lt(s->snd_una, window_end));
    window_end = sent;
    return ((s->cwnd - before) * 100 + round_acked / 2) / round_acked;
}

static void test_hystart(void)
{
    const uint64_t ms = NET_MS;
    /* Even round trips: the window doubles. */
    begin(&tcp_cubic, 20 * MSS, UINT64_MAX);
    for (int i = 0; i < 5; i++)
        CHECK_EQ(round_of(40 * ms), 100);
    /* RFC 9406 section 4.2: the threshold is 40 / 8 = 5 ms. */
    CHECK_EQ(round_of(40 * ms + 4900 * NET_US), 100);
    /* 4.9 ms more is the new measure: its eighth is 5.6 ms. */
    uint64_t before = s->cwnd;
    round_of(51 * ms);
    /* Eight samples, then a quarter. */
    near((double)(s->cwnd - before), 8 * 2 * MSS + (round_acked - 16 * MSS) / 4.0, 1);
    /* The round in which it was found counts; five in all. */
    for (int i = 0; i < 3; i++)
        CHECK_EQ(round_of(51 * ms), 25);
    CHECK_EQ(s->ssthresh, UINT64_MAX);
    CHECK_EQ(round_of(51 * ms), 25);
    CHECK_EQ(s->cwnd, s->ssthresh);

    /* A passing growth: slow start goes on. */
    begin(&tcp_cubic, 20 * MSS, UINT64_MAX);
    for (int i = 0; i < 4; i++)
        round_of(40 * ms);
    round_of(60 * ms);
    CHECK_EQ(round_of(60 * ms), 25);
    CHECK(round_of(45 * ms) > 25);
    CHECK_EQ(round_of(45 * ms), 100);
    CHECK_EQ(s->ssthresh, UINT64_MAX);

    /* To the microsecond; and what grew may shrink at any time of a round. */
    begin(&tcp_cubic, 40 * MSS, UINT64_MAX);
    for (int i = 0; i < 3; i++)
        round_of(40 * ms);
    round_of(45 * ms - NET_US);
    CHECK_EQ(round_of(45 * ms - NET_US), 100);
    begin(&tcp_cubic, 40 * MSS, UINT64_MAX);
    for (int i = 0; i < 3; i++)
        round_of(40 * ms);
    round_of(45 * ms);
    for (int i = 0; i < 12; i++) {
        uint64_t was = s->cwnd;
        ack_rtt(2 * MSS, 45 * ms);
        CHECK_EQ(s->cwnd, was + MSS / 2);
    }
    ack_rtt(2 * MSS, 45 * ms - NET_US);
    uint64_t was = s->cwnd;
    ack_rtt(2 * MSS, 45 * ms);
    CHECK_EQ(s->cwnd, was + 2 * MSS);

    /* Fewer than eight samples in a round say nothing. */
    begin(&tcp_cubic, 4 * MSS, UINT64_MAX);
    CHECK_EQ(round_of(40 * ms), 100);
    CHECK_EQ(round_of(90 * ms), 100);
    CHECK_EQ(round_of(40 * ms), 100);
    /* L = 8. */
    begin(&tcp_cubic, 100 * MSS, UINT64_MAX);
    s->snd_nxt = s->snd_una + 1000 * MSS;
    ack_rtt(20 * MSS, ms);
    CHECK_EQ(s->cwnd, 108 * MSS);
    /* Microseconds are below its threshold of 4 ms. */
    begin(&tcp_cubic, 20 * MSS, UINT64_MAX);
    for (int i = 0; i < 4; i++)
        round_of(50 * NET_US);
    CHECK_EQ(round_of(3000 * NET_US), 100);
}

int main(void)
{
    CHECK(sizeof(struct zh_net_socket) <=
          960); /* what 100,000 idle connections cost: < 1 KB each */
    test_shared();
    test_newreno();
    test_cubic_at(0.1, 2, 1000);
    test_cubic_at(0.05, 1, 300);
    test_cubic_at(0.01, 2, 100);
    test_cubic_at(0.001, 8, 20);
    test_cubic_at(0.3, 4, 8000);
    test_cubic_reno();
    test_cubic_timeout();
    test_cubic_undo();
    test_cubic_limited();
    test_cubic_extremes();
    test_hystart();
    free(s);
    return 0;
}
