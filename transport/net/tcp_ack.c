/* What an acknowledgment does: takes records and queued bytes away, samples the RTT, moves the
 * window, and tells recovery and congestion control. */
#include "tcp_conn.h"

uint32_t tcp_in_flight(const struct zh_net_socket *s)
{
    uint32_t out = tcp_sent_in_flight(&s->sent, s->snd_una, s->snd_nxt);
    if (s->flags & TCP_HAS_SACK)
        return out;
    /* A peer without SACK tells by duplicate ACKs how many segments have left the network (as RFC
     * 5681 section 3.2 step 4 inflates the window). */
    uint32_t gone = (uint32_t)s->dupacks * s->mss;
    return gone < out ? out - gone : 0;
}

/* snd_una moves to `ack`: what was under way up to there is done. */
static void advance(struct zh_net_socket *s, uint32_t ack, const struct tcp_ack *result)
{
    s->una_offset += result->acked;
    if (s->una_offset > s->queue.end) /* the FIN is no byte of the stream */
        s->una_offset = s->queue.end;
    s->snd_una = ack;
    if (seq_lt(s->snd_nxt, ack))
        s->snd_nxt = ack;
    tcp_queue_drop(&s->queue, s->una_offset);
    s->retries = 0;
    s->error_soft = 0;
    s->last_progress = s->net->now;
    if (s->flags & TCP_SEND_BLOCKED && tcp_can_queue(s)) {
        s->flags &= ~TCP_SEND_BLOCKED;
        tcp_notify(s);
    }
}

/* What the peer has now for the first time, as RACK and F-RTO look at it. */
struct delivery {
    struct tcp_rack_ack rack;
    uint64_t rto_at;
    bool original;
};

static void each_delivered(void *context, const struct tcp_sent *record)
{
    struct delivery *delivery = context;
    tcp_rack_delivered(&delivery->rack, record);
    if (record->transmissions == 1 && record->sent_at < delivery->rto_at)
        delivery->original = true;
}

bool tcp_ack_input(struct zh_net_socket *s, const struct tcp_segment *segment)
{
    uint32_t ack = segment->ack, una = s->snd_una;
    if (seq_gt(ack, s->snd_nxt) || seq_lt(ack, una - s->snd_wnd_max)) { /* RFC 5961 section 5.2 */
        tcp_challenge(s);
        return false;
    }
    struct tcp_ack result = {
        .in_flight = tcp_in_flight(s),
        .ce = s->flags & TCP_HAS_ECN && segment->flags & TCP_ECE,
    };
    const struct tcp_options *options = &segment->options;
    struct tcp_delivered delivered = {0};
    struct delivery delivery = {
        .rack = {.rack = &s->rack,
                 .now = s->net->now,
                 .has_timestamps = options->has_timestamps,
                 .tsecr = options->tsecr,
                 .ts_offset = s->ts_offset},
        .rto_at = s->rto_at,
    };
    if (seq_gt(ack, una))
        tcp_sent_ack(&s->sent, ack, &delivered, each_delivered, &delivery);
    if (s->flags & TCP_HAS_SACK && options->sack_count)
        tcp_sent_sack(&s->sent, options->sack, options->sack_count, &delivered, each_delivered,
                      &delivery);
    result.acked = delivered.acked;
    result.delivered = delivered.delivered;
    result.original_delivered = delivery.original && s->flags & TCP_HAS_SACK;
    /* Karn (RFC 6298 section 3): also what was sent once is told of only now, when it waited for a
     * retransmission. */
    if (delivered.sent_at && !delivered.retransmitted) {
        result.rtt = s->net->now - delivered.sent_at;
        tcp_rto_sample(s, result.rtt);
    }
    bool in_order = seq_geq(ack, una), had_window = s->snd_wnd;
    uint32_t window = segment->window << s->snd_shift;
    /* RFC 5681 section 2: what a duplicate ACK is. */
    bool duplicate = ack == una && una != s->snd_nxt && !segment->size &&
                     !(segment->flags & (TCP_SYN | TCP_FIN)) && window == s->snd_wnd;
    if (seq_gt(ack, una))
        advance(s, ack, &result);
    if (in_order && (seq_lt(s->snd_wl1, segment->seq) ||
                     (s->snd_wl1 == segment->seq && seq_leq(s->snd_wl2, ack)))) {
        s->snd_wnd = window;
        s->snd_wl1 = segment->seq;
        s->snd_wl2 = ack;
        if (window > s->snd_wnd_max)
            s->snd_wnd_max = window;
        if (window && !had_window) {
            s->backoff = s->retries = 0;
            tcp_rto_rearm(s);
        }
    }
    if (result.acked)
        tcp_rto_rearm(s);                                     /* RFC 6298 (5.2), (5.3) */
    if (s->sent.count || result.acked || options->sack_count) /* D-SACK comes after all */
        tcp_recovery_ack(s, segment, &result, duplicate);
    if (s->queue.end > s->nxt_offset || s->sent.bytes_lost || s->flags & TCP_SHUT_WRITE)
        tcp_want_output(s);
    return true;
}
