/* NewReno: RFC 5681 section 3, with byte counting (RFC 3465). What happens during recovery (RFC
 * 6582) is the connection's. */
#include "tcp_congestion.h"

enum { LIMIT = 2 }; /* segments that one ACK of slow start counts for: L, RFC 3465 section 2.2 */

static void start(struct zh_net_socket *s)
{
    s->cwnd_acked = 0;
}

static void on_ack(struct zh_net_socket *s, const struct tcp_ack *ack)
{
    uint32_t acked = ack->acked;
    if (ack->app_limited)
        return;
    if (tcp_in_slow_start(s)) {
        /* RFC 3465 section 2.3: after a timeout an ACK may cover what was sent before it. */
        uint32_t limit = (s->flags & TCP_AFTER_RTO ? 1u : LIMIT) * s->mss;
        acked = tcp_slow_start(s, RTE_MIN(acked, limit));
    }
    if (acked == 0)
        return;
    s->cwnd_acked += acked; /* RFC 3465 section 2.1 */
    while (s->cwnd_acked >= s->cwnd) {
        s->cwnd_acked -= s->cwnd;
        tcp_window_grow(s, s->mss);
    }
}

/* RFC 5681 equation 4. What limited transmit sent beyond cwnd does not count (section 3.2, step 2).
 */
static void on_loss(struct zh_net_socket *s)
{
    uint64_t flight = RTE_MIN((uint64_t)(s->snd_nxt - s->snd_una), s->cwnd);
    s->ssthresh = RTE_MAX(flight / 2, (uint64_t)2 * s->mss);
    s->cwnd_acked = 0;
}

const struct tcp_congestion tcp_newreno = {
    .name = "newreno",
    .start = start,
    .on_ack = on_ack,
    .on_loss = on_loss,
    .on_timeout = on_loss,
    .undo = start,
};
