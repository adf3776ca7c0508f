/* Loss recovery without timeouts: NewReno (RFC 6582). */
#include "tcp_conn.h"

uint64_t tcp_initial_window(const struct zh_net_socket *s)
{
    uint64_t most = 2u * s->mss > 14600 ? 2u * s->mss : 14600; /* RFC 6928 section 2 */
    return 10u * s->mss < most ? 10u * s->mss : most;
}

static void enter(struct zh_net_socket *s)
{
    s->net->stats.tcp_fast_recovery++;
    s->recover = s->snd_nxt;
    s->congestion->on_loss(s);
    s->cwnd = s->ssthresh;
    s->flags |= TCP_IN_RECOVERY;
}

static void leave(struct zh_net_socket *s)
{
    if (!(s->flags & TCP_AFTER_RTO) && s->cwnd > s->ssthresh)
        s->cwnd = s->ssthresh;
    s->flags &= ~(TCP_IN_RECOVERY | TCP_AFTER_RTO);
    s->dupacks = 0;
}

void tcp_recovery_ack(struct zh_net_socket *s, const struct tcp_segment *segment,
                      struct tcp_ack *ack, bool duplicate)
{
    (void)segment;
    bool fast = s->flags & TCP_IN_RECOVERY && !(s->flags & TCP_AFTER_RTO);
    if (s->flags & TCP_IN_RECOVERY && ack->acked && seq_geq(s->snd_una, s->recover))
        leave(s);
    if (duplicate) {
        if (s->dupacks < UINT8_MAX)
            s->dupacks++;
        /* RFC 6582 section 3.2 step 2: not for what was sent before the last recovery. */
        if (s->dupacks == TCP_DUPACK_THRESHOLD && !(s->flags & TCP_IN_RECOVERY) &&
            seq_geq(s->snd_una, s->recover)) {
            ack->lost += tcp_sent_lose(&s->sent, tcp_sent_at(&s->sent, 0));
            enter(s);
        }
    } else if (ack->acked) {
        if (fast && s->flags & TCP_IN_RECOVERY) { /* a partial ACK: the next hole (step 3) */
            uint32_t segments = ack->acked / s->mss;
            s->dupacks = segments < s->dupacks ? (uint8_t)(s->dupacks - segments) : 0;
            ack->lost += tcp_sent_lose(&s->sent, tcp_sent_at(&s->sent, 0));
        } else {
            s->dupacks = 0;
        }
    }
    ack->in_recovery = s->flags & TCP_IN_RECOVERY;
    if (ack->acked && (!ack->in_recovery || s->flags & TCP_AFTER_RTO)) {
        /* RFC 7661's concern in its simplest form: no growth that was not used. */
        ack->app_limited = s->cwnd <= s->ssthresh ? 2ull * ack->in_flight < s->cwnd
                                                  : ack->in_flight + (uint64_t)s->mss < s->cwnd;
        if (!ack->app_limited)
            s->congestion->on_ack(s, ack);
    }
}

void tcp_recovery_timeout(struct zh_net_socket *s)
{
    if (s->state == TCPS_SYN_SENT || s->state == TCPS_SYN_RECEIVED) {
        tcp_sent_lose_all(&s->sent);
        return;
    }
    if (!(s->flags & TCP_AFTER_RTO)) /* RFC 5681 section 3.1: ssthresh stays while it times out again */
        s->congestion->on_timeout(s);
    s->cwnd = s->mss; /* the loss window */
    s->cwnd_acked = 0;
    s->recover = s->snd_nxt;
    s->dupacks = 0;
    s->flags |= TCP_IN_RECOVERY | TCP_AFTER_RTO;
    tcp_sent_lose_all(&s->sent);
}
