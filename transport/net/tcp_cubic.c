/* CUBIC: RFC 9438, with HyStart++ in the first slow start. Windows in bytes, times in us, integers
 * throughout. */
#include "tcp_congestion.h"

/* C = 0.4 segments per s^3 (RFC 9438 section 4.1, as 2/5) and beta = 0.7 (section 4.6). */
enum {
    C_NUMERATOR = 2,
    C_DENOMINATOR = 5,
    BETA_TENTHS = 7,
    /* Of the time from the inflection, which is cubed: 134 s, in which C alone makes 960,000
     * segments. */
    TIME_MAX = 1 << 27,
    EST_SHIFT = 16,      /* fraction bits of `est` */
    EST_ACKED = 1 << 24, /* bytes that one ACK adds to `est` at most: no overflow */
};

struct epoch {      /* of congestion avoidance */
    uint64_t start; /* ns; 0: not yet begun. Periods limited by the application are left out */
    uint64_t est;   /* W_est, in 2^-16 bytes */
    uint32_t w_max; /* 0: none */
    uint32_t k;     /* us */
    uint32_t prior; /* cwnd before the last reduction */
};

struct cubic {
    struct epoch epoch, saved; /* saved: before the last reduction, for undo */
    uint64_t limited_since;    /* ns; 0: cwnd is the limit */
    struct tcp_hystart hystart;
};

_Static_assert(sizeof(struct cubic) <= sizeof((struct zh_net_socket *)0)->congestion_state,
               "zh_net_socket.congestion_state");

static struct cubic *cubic_of(struct zh_net_socket *s)
{
    return (struct cubic *)(void *)s->congestion_state;
}

/* The largest r with r^3 <= x. */
static uint32_t cube_root(uint64_t x)
{
    uint64_t root = 0;
    for (int shift = 63; shift >= 0; shift -= 3) {
        root *= 2;
        uint64_t next = 3 * root * (root + 1) + 1; /* (root + 1)^3 - root^3 */
        if (x >> shift >= next) {
            x -= next << shift;
            root++;
        }
    }
    return (uint32_t)root;
}

/* K = cubic root of (W_max - cwnd_epoch) / C, to a millisecond (section 4.2, figure 2). */
static uint32_t compute_k(uint32_t w_max, uint64_t cwnd, uint16_t mss)
{
    uint64_t ms_cubed = UINT64_C(1000000000) * C_DENOMINATOR / C_NUMERATOR;
    return cube_root((w_max - cwnd) * ms_cubed / mss) * 1000;
}

/* W_cubic at `t` us after the epoch's start (section 4.2, figure 1), not below 0. */
static uint64_t w_cubic(const struct epoch *epoch, uint64_t t, uint16_t mss)
{
    uint64_t d = t > epoch->k ? t - epoch->k : epoch->k - t;
    d = RTE_MIN(d, (uint64_t)TIME_MAX);
    uint64_t cubed = d * d / 1000000 * d / 1000000; /* of seconds, in millionths */
    uint64_t offset = cubed * mss * C_NUMERATOR / (UINT64_C(1000000) * C_DENOMINATOR);
    if (t >= epoch->k)
        return epoch->w_max + offset;
    return offset < epoch->w_max ? epoch->w_max - offset : 0;
}

static void begin_epoch(struct epoch *epoch, struct zh_net_socket *s)
{
    epoch->start = s->net->now;
    epoch->est = s->cwnd << EST_SHIFT;
    epoch->k = 0;
    if (s->cwnd < epoch->w_max)
        epoch->k = compute_k(epoch->w_max, s->cwnd, s->mss);
    else
        epoch->w_max = (uint32_t)s->cwnd; /* also after a timeout: section 4.8 */
    s->cwnd_acked = 0;
}

/* What Reno would have (section 4.3): alpha is 3 (1 - beta) / (1 + beta) = 9/17 until it has what
 * it had before the reduction, then 1. */
static uint64_t grow_estimate(struct epoch *epoch, const struct zh_net_socket *s, uint32_t acked)
{
    uint64_t growth = ((uint64_t)RTE_MIN(acked, (uint32_t)EST_ACKED) * s->mss) << EST_SHIFT;
    if (epoch->est >> EST_SHIFT < epoch->prior)
        growth = growth / 17 * 9;
    epoch->est += growth / s->cwnd;
    return RTE_MIN(epoch->est >> EST_SHIFT, (uint64_t)TCP_CWND_MAX);
}

static void avoid_congestion(struct cubic *cubic, struct zh_net_socket *s, uint32_t acked)
{
    struct epoch *epoch = &cubic->epoch;
    if (!epoch->start)
        begin_epoch(epoch, s);
    uint64_t t = (s->net->now - epoch->start) / NET_US;
    uint64_t est = grow_estimate(epoch, s, acked);
    if (w_cubic(epoch, t, s->mss) < est) {
        if (s->cwnd < est)
            s->cwnd = est;
        return;
    }
    /* Sections 4.4 and 4.5: (target - cwnd) / cwnd for each byte, target at most 1.5 cwnd. */
    uint64_t target = w_cubic(epoch, t + s->srtt / NET_US, s->mss);
    target = RTE_MIN(target, s->cwnd + s->cwnd / 2);
    if (target <= s->cwnd)
        return;
    s->cwnd_acked += (uint64_t)acked * (target - s->cwnd);
    uint64_t growth = s->cwnd_acked / s->cwnd;
    s->cwnd_acked -= growth * s->cwnd;
    tcp_window_grow(s, growth);
}

static void start(struct zh_net_socket *s)
{
    struct cubic *cubic = cubic_of(s);
    *cubic = (struct cubic){0};
    tcp_hystart_begin(&cubic->hystart, s->snd_nxt);
    s->cwnd_acked = 0;
}

static void on_ack(struct zh_net_socket *s, const struct tcp_ack *ack)
{
    struct cubic *cubic = cubic_of(s);
    uint32_t acked = ack->acked;
    if (ack->app_limited) {
        if (!cubic->limited_since)
            cubic->limited_since = s->net->now;
        return;
    }
    if (cubic->limited_since) { /* section 4.2: time that does not count */
        if (cubic->epoch.start)
            cubic->epoch.start += s->net->now - cubic->limited_since;
        cubic->limited_since = 0;
    }
    if (tcp_in_slow_start(s)) {
        /* RFC 9406 section 4.2: in the first slow start only. */
        if (s->ssthresh >= TCP_CWND_MAX) {
            bool leave;
            acked = tcp_hystart_ack(&cubic->hystart, s->snd_una, s->snd_nxt, acked, ack->rtt,
                                    s->mss, &leave);
            tcp_window_grow(s, acked);
            if (leave)
                s->ssthresh = s->cwnd;
            return;
        }
        /* RFC 3465 section 2.3: after a timeout an ACK may cover what was sent before it. */
        if (s->flags & TCP_AFTER_RTO)
            acked = RTE_MIN(acked, (uint32_t)s->mss);
        acked = tcp_slow_start(s, acked);
    }
    if (acked > 0)
        avoid_congestion(cubic, s, acked);
}

/* Section 4.6. It lets a sender whose cwnd does not grow while the application is the limit take
 * cwnd for the flight size, which is next to nothing where the last segment of many is lost. */
static void reduce(struct zh_net_socket *s)
{
    struct cubic *cubic = cubic_of(s);
    /* A timeout within fast recovery is undone with it (tcp_recovery_timeout). */
    if (!(s->flags & TCP_IN_RECOVERY) || s->flags & TCP_AFTER_RTO)
        cubic->saved = cubic->epoch;
    cubic->epoch.prior = (uint32_t)s->cwnd;
    cubic->epoch.start = 0;
    cubic->limited_since = 0;
    s->cwnd_acked = 0;
    s->ssthresh = RTE_MAX(s->cwnd * BETA_TENTHS / 10, (uint64_t)2 * s->mss);
}

static void on_loss(struct zh_net_socket *s)
{
    struct epoch *epoch = &cubic_of(s)->epoch;
    reduce(s);
    /* Fast convergence (section 4.7): (1 + beta) / 2. */
    uint64_t w_max = s->cwnd < epoch->w_max ? s->cwnd * (10 + BETA_TENTHS) / 20 : s->cwnd;
    epoch->w_max = (uint32_t)w_max;
}

/* Section 4.8: the next epoch's W_max is the window that it begins with. */
static void on_timeout(struct zh_net_socket *s)
{
    reduce(s);
    cubic_of(s)->epoch.w_max = 0;
}

/* Section 4.9.2. */
static void undo(struct zh_net_socket *s)
{
    struct cubic *cubic = cubic_of(s);
    cubic->epoch = cubic->saved;
    s->cwnd_acked = 0;
}

const struct tcp_congestion tcp_cubic = {
    .name = "cubic",
    .start = start,
    .on_ack = on_ack,
    .on_loss = on_loss,
    .on_timeout = on_timeout,
    .undo = undo,
};
