/* A reduction of the window that was a mistake is undone: the segments were late, not lost. Told by
 * - timestamps: the ACK answers what was sent before the retransmission (Eifel, RFC 3522; response
 *   RFC 4015);
 * - D-SACK: every retransmission was a duplicate (RFC 3708);
 * - after a timeout, with SACK: segments sent once, before it, are delivered after it without
 *   having been retransmitted (F-RTO, RFC 5682 section 3.1, step 3b); so that there are such,
 *   tcp_recovery.c sends new data first. */
#include "tcp_conn.h"

void tcp_undo_remember(struct zh_net_socket *s)
{
    struct tcp_undo undo = {
        .cwnd = s->cwnd,
        .ssthresh = s->ssthresh,
        .una = s->snd_una,
        .possible = true,
    };
    /* What was sent again before this, and is still under way, is answered like what is sent again
     * from now on. */
    uint64_t first = NET_NEVER;
    for (uint32_t i = 0; i < s->sent.count; i++) {
        const struct tcp_sent *record = tcp_sent_at(&s->sent, i);
        if (!(record->flags & TCP_SENT_RETRANSMITTED) || record->flags & TCP_SENT_SACKED)
            continue;
        first = RTE_MIN(first, record->sent_at);
        undo.retransmissions++;
        if (record->transmissions > 2) /* when the first of them was, is not known */
            undo.possible = false;
    }
    undo.stamp = (uint32_t)(first / NET_MS) + s->ts_offset;
    undo.unneeded_left = undo.retransmissions;
    s->undo = undo;
}

void tcp_undo_retransmitted(struct zh_net_socket *s)
{
    if (!s->undo.possible)
        return;
    if (!s->undo.retransmissions++)
        s->undo.stamp = tcp_ts_now(s->net, s->ts_offset);
    s->undo.unneeded_left++;
}

static bool by_timestamp(const struct zh_net_socket *s, const struct tcp_segment *segment,
                         const struct tcp_ack *ack)
{
    return ack->acked && s->undo.retransmissions && s->flags & TCP_HAS_TIMESTAMPS &&
           segment->options.has_timestamps && segment->options.tsecr &&
           seq_lt(segment->options.tsecr, s->undo.stamp);
}

static bool by_dsack(struct zh_net_socket *s, const struct tcp_sack_block *dsack)
{
    if (!dsack || !s->undo.unneeded_left || seq_lt(dsack->start, s->undo.una) ||
        seq_gt(dsack->end, s->snd_nxt))
        return false;
    /* A peer that joins segments reports them together. */
    uint32_t segments = (dsack->end - dsack->start + s->mss - 1) / s->mss;
    s->undo.unneeded_left -= RTE_MIN(segments, s->undo.unneeded_left);
    return s->undo.unneeded_left == 0;
}

bool tcp_undo_ack(struct zh_net_socket *s, const struct tcp_segment *segment,
                  const struct tcp_ack *ack, const struct tcp_sack_block *dsack)
{
    if (!s->undo.possible)
        return false;
    bool after_rto = s->flags & TCP_AFTER_RTO;
    bool undo = by_dsack(s, dsack) ||
                (s->flags & TCP_IN_RECOVERY && by_timestamp(s, segment, ack)) ||
                (after_rto && ack->original_delivered && s->undo.frto == TCP_FRTO_NEW_DATA);
    if (!undo) {
        /* Duplicates are reported for a round trip after recovery; then the matter is closed: later
         * ones are the network's. */
        if (!(s->flags & TCP_IN_RECOVERY) &&
            (!s->undo.unneeded_left || seq_gt(s->snd_una, s->undo.until)))
            s->undo.possible = false;
        return false;
    }
    s->net->stats.tcp_undo++;
    tcp_sent_recover_all(&s->sent);
    s->cwnd = RTE_MAX(s->cwnd, s->undo.cwnd);
    s->ssthresh = RTE_MAX(s->ssthresh, s->undo.ssthresh);
    s->flags &= ~(TCP_IN_RECOVERY | TCP_AFTER_RTO);
    s->dupacks = 0;
    s->undo.possible = false;
    /* What comes later than its retransmission is not seen to be out of order by RFC 8985 section
     * 6.2 step 3; without this the window that D-SACKs widen would not be used. */
    if (!after_rto)
        s->rack.reordering_seen = true;
    s->undo.frto = TCP_FRTO_OFF;
    s->congestion->undo(s);
    tcp_rack_recovered(&s->rack);
    /* RFC 4015 section 3.2 step 6 wants no burst: what is released is spread by the round's limit
     * of segments (tcp_output.c). */
    tcp_want_output(s);
    return true;
}
