/* Loss recovery: when it begins and ends, and how much it sends. What is lost is found by time
 * (RACK, tcp_rack.c) where the peer acknowledges selectively, by duplicate ACKs (NewReno, RFC 6582)
 * where it does not; the rate is that of proportional rate reduction (tcp_prr.c). */
#include "tcp_conn.h"

enum { PEER_ACK_DELAY_MS = 40 }; /* Linux's least; its most is 200 ms, the RTO's floor */

/* A reduction of the window begins. */
static void reduce(struct zh_net_socket *s)
{
    tcp_undo_remember(s);
    if (!tcp_ecn_in_reduction(s)) /* RFC 3168 section 6.1.2: once for each window of data */
        s->congestion->on_loss(s);
    tcp_ecn_reduced(s);
}

static void enter(struct zh_net_socket *s)
{
    s->net->stats.tcp_fast_recovery++;
    reduce(s);
    s->recover = s->snd_nxt;
    tcp_prr_begin(&s->prr, s->snd_nxt - s->snd_una);
    s->tlp.outstanding = false; /* what it may have repaired is reacted to now */
    s->flags |= TCP_IN_RECOVERY;
    s->flags &= ~TCP_AFTER_RTO;
}

static void leave(struct zh_net_socket *s)
{
    /* RFC 6937 section 3: at the end cwnd is ssthresh. Where much less is in flight, the peer's
     * window having been full of what waited for a retransmission, that would be a burst (RFC 6582
     * section 3.2 step 3): slow start goes there instead, from what a connection may begin with. */
    if (!(s->flags & TCP_AFTER_RTO))
        s->cwnd = RTE_MIN(s->ssthresh, tcp_in_flight(s) + tcp_initial_window(s->mss));
    s->flags &= ~(TCP_IN_RECOVERY | TCP_AFTER_RTO);
    s->dupacks = 0;
    s->undo.until = s->snd_nxt;
    s->undo.frto = TCP_FRTO_OFF;
    tcp_rack_recovered(&s->rack);
}

/* Was anything lost that was sent since recovery began? To that congestion control has not reacted
 * yet (RFC 5681 section 4.3: loss in each window of data). */
static bool lost_since(const struct zh_net_socket *s)
{
    for (uint32_t i = 0; i < s->sent.count; i++)
        if (tcp_sent_at(&s->sent, i)->flags & (TCP_SENT_LOST | TCP_SENT_RETRANSMITTED))
            return true;
    return false;
}

/* Duplicate and partial ACKs of a peer without SACK. Returns bytes newly lost; *delivered: what
 * they say has arrived (RFC 6937 section 3.1: a segment for each duplicate, taken back as it is
 * acknowledged). */
static uint32_t newreno(struct zh_net_socket *s, const struct tcp_ack *ack, bool duplicate,
                        uint32_t *delivered)
{
    bool fast = s->flags & TCP_IN_RECOVERY && !(s->flags & TCP_AFTER_RTO);
    if (duplicate) {
        /* After a timeout they answer what was sent in vain, and all that is under way was counted
         * out already; before recovery limited transmit ends with the second (RFC 3042). */
        if (s->flags & TCP_AFTER_RTO || (!fast && s->dupacks == TCP_DUPACK_THRESHOLD))
            return 0;
        *delivered = s->mss;
        if (s->dupacks < UINT8_MAX)
            s->dupacks++;
        /* RFC 6582 section 3.2 step 2: not for what was sent before the last recovery. */
        if (s->dupacks == TCP_DUPACK_THRESHOLD && !fast && seq_gt(s->snd_una, s->recover))
            return tcp_sent_lose(&s->sent, tcp_sent_at(&s->sent, 0));
        return 0;
    }
    if (!ack->acked)
        return 0;
    if (!fast) {
        s->dupacks = 0;
        return 0;
    }
    /* A partial ACK: the next hole (step 3). Of what it covers the first was the retransmission, of
     * which no duplicate has told. */
    uint32_t told = (uint32_t)s->dupacks * s->mss, segments = (ack->acked - 1) / s->mss;
    *delivered = RTE_MAX(ack->acked > told ? ack->acked - told : 0, (uint32_t)s->mss);
    s->dupacks = segments < s->dupacks ? (uint8_t)(s->dupacks - segments) : 0;
    return s->sent.count ? tcp_sent_lose(&s->sent, tcp_sent_at(&s->sent, 0)) : 0;
}

/* RACK's losses; sets its timer. */
static uint32_t rack(struct zh_net_socket *s)
{
    struct zh_net *net = s->net;
    uint64_t timeout;
    uint32_t lost = tcp_rack_detect_loss(&s->rack, &s->sent, net->now, s->srtt,
                                         s->flags & TCP_IN_RECOVERY, &timeout);
    if (timeout)
        tcp_deadline_set(s, TCP_DEADLINE_REORDER, net->now + timeout);
    else
        tcp_deadline_stop(s, TCP_DEADLINE_REORDER);
    return lost;
}

/* RFC 5682 section 3.1, after the first timeout. Until new data has been answered nothing is sent
 * again, so that what arrives late is not taken for a retransmission's doing. */
static void frto(struct zh_net_socket *s, const struct tcp_ack *ack)
{
    if (s->undo.frto == TCP_FRTO_NEW_DATA)
        s->undo.frto = TCP_FRTO_OFF; /* step 3a: not spurious, else it would be undone */
    else if (s->undo.frto == TCP_FRTO_RETRANSMITTED && ack->acked) /* step 2b; without new data */
        s->undo.frto = s->queue.end > s->nxt_offset &&
                               seq_geq(s->snd_una + s->snd_wnd, s->snd_nxt + s->mss) &&
                               tcp_in_flight(s) < s->cwnd
                           ? TCP_FRTO_NEW_DATA
                           : TCP_FRTO_OFF;
}

/* Did cwnd limit what was sent lately? If not, it says nothing of the path (RFC 7661), and does not
 * grow; slow start may go as far as to twice what was used. */
static bool app_limited(const struct zh_net_socket *s)
{
    return !s->used_up && !(tcp_in_slow_start(s) && s->cwnd < 2ull * s->used_most);
}

void tcp_recovery_ack(struct zh_net_socket *s, const struct tcp_segment *segment,
                      struct tcp_ack *ack, bool duplicate)
{
    bool sack = s->flags & TCP_HAS_SACK, left = false;
    const struct tcp_sack_block *dsack =
        sack ? tcp_find_dsack(&segment->options, segment->ack) : NULL;
    if (ack->ce)
        tcp_ecn_echoed(s);
    if (ack->rtt)
        s->tlp.sampled = true;
    if (sack) {
        /* The duplicate that a probe has made tells nothing of reordering. */
        bool of_probe =
            s->tlp.outstanding && s->tlp.is_retrans && dsack && dsack->end == s->tlp.end_seq;
        tcp_rack_adapt(&s->rack, s->snd_una, s->snd_nxt, dsack && !of_probe);
    }
    if (tcp_undo_ack(s, segment, ack, dsack)) {
        tcp_recovery_probe(s);
        return;
    }
    if (s->flags & TCP_IN_RECOVERY && ack->acked && seq_geq(s->snd_una, s->recover)) {
        left = !(s->flags & TCP_AFTER_RTO);
        leave(s);
        if (lost_since(s))
            enter(s);
    }
    /* It must not fall behind by so much that the comparison turns. */
    if (!(s->flags & TCP_IN_RECOVERY) && seq_gt(s->snd_una, s->recover))
        s->recover = s->snd_una - 1;
    if (tcp_tlp_ack(&s->tlp, segment->ack, dsack, duplicate && !segment->options.sack_count) &&
        !(s->flags & TCP_IN_RECOVERY)) { /* RFC 8985 section 7.4: the probe repaired a loss */
        reduce(s);
        s->cwnd = s->ssthresh;
    }
    uint32_t delivered = ack->delivered;
    ack->lost = sack ? rack(s) : newreno(s, ack, duplicate, &delivered);
    if (ack->lost && !(s->flags & TCP_IN_RECOVERY))
        enter(s);
    ack->in_recovery = s->flags & TCP_IN_RECOVERY;
    if (ack->in_recovery && !(s->flags & TCP_AFTER_RTO)) {
        uint32_t in_flight = tcp_in_flight(s);
        uint32_t more = tcp_prr_ack(&s->prr, delivered, in_flight, s->ssthresh, s->mss);
        if (!s->prr.out && more < s->mss) /* section 3: the first is sent again in any case */
            more = s->mss;
        s->cwnd = in_flight + (uint64_t)more;
    } else if (ack->acked && !left && (!ack->ce || ack->in_recovery)) {
        /* What recovery has delivered was counted by it. RFC 3168 section 6.1.2: an ACK that echoes
         * a mark lets nothing grow; but after a timeout the peer echoes old ones until new data
         * tells it otherwise. */
        ack->app_limited = app_limited(s);
        tcp_validation_ack(s);
        s->congestion->on_ack(s, ack);
    }
    frto(s, ack);
    if (ack->acked || ack->delivered) /* others do not put it off */
        tcp_recovery_probe(s);
}

/* --- timers -------------------------------------------------------------------------------------
 */

void tcp_recovery_reorder_expired(struct zh_net_socket *s)
{
    if (!s->sent.count)
        return;
    if (rack(s)) {
        if (!(s->flags & TCP_IN_RECOVERY)) {
            enter(s);
            /* The ACK that let the time run has been counted; one segment goes (RFC 6937 section
             * 3). */
            s->cwnd = tcp_in_flight(s) + (uint64_t)s->mss;
        }
        tcp_want_output(s);
    }
}

void tcp_recovery_probe(struct zh_net_socket *s)
{
    struct zh_net *net = s->net;
    uint64_t rto_at = s->deadline[TCP_DEADLINE_RTO];
    if (!(s->flags & TCP_HAS_SACK) || !s->sent.count || rto_at <= net->now || s->retries ||
        !tcp_tlp_allowed(&s->tlp, &s->sent, s->flags & TCP_IN_RECOVERY)) {
        tcp_deadline_stop(s, TCP_DEADLINE_PROBE);
        return;
    }
    uint64_t pto = tcp_tlp_timeout(s->srtt, s->sent.count, PEER_ACK_DELAY_MS * (uint64_t)NET_MS,
                                   rto_at - net->now);
    tcp_deadline_set(s, TCP_DEADLINE_PROBE, net->now + pto);
}

void tcp_recovery_probe_expired(struct zh_net_socket *s)
{
    if (!s->sent.count || !tcp_tlp_allowed(&s->tlp, &s->sent, s->flags & TCP_IN_RECOVERY))
        return;
    bool is_new = tcp_send_beyond_cwnd(s);
    if (!is_new && !tcp_retransmit(s, tcp_sent_at(&s->sent, s->sent.count - 1)))
        return; /* no packet: the retransmission timer remains */
    s->net->stats.tcp_tlp++;
    tcp_tlp_sent(&s->tlp, s->snd_nxt, !is_new);
    tcp_rto_rearm(s); /* RFC 8985 section 7.3: so that the probe has time */
}

void tcp_recovery_timeout(struct zh_net_socket *s)
{
    struct zh_net *net = s->net;
    if (s->state == TCPS_SYN_SENT || s->state == TCPS_SYN_RECEIVED) {
        tcp_sent_lose_all(&s->sent);
        return;
    }
    tcp_deadline_stop(s, TCP_DEADLINE_REORDER);
    tcp_deadline_stop(s, TCP_DEADLINE_PROBE);
    s->tlp = (struct tcp_tlp){0};
    bool fresh = !(s->flags & TCP_IN_RECOVERY);
    if (s->retries_before ==
        0) { /* RFC 5681 section 3.1: ssthresh stays while it times out again */
        if (fresh || s->flags & TCP_AFTER_RTO)
            tcp_undo_remember(s);
        s->congestion->on_timeout(s);
        tcp_ecn_reduced(s);
    }
    /* RFC 5682 section 3.1 step 1: not within recovery, nor when it times out again. */
    s->undo.frto = fresh && s->flags & TCP_HAS_SACK && s->retries_before == 0
                       ? TCP_FRTO_RETRANSMITTED
                       : TCP_FRTO_OFF;
    s->rto_at = net->now;
    s->cwnd = s->mss; /* the loss window */
    s->cwnd_acked = 0;
    s->recover = s->snd_nxt;
    s->dupacks = 0;
    s->flags |= TCP_IN_RECOVERY | TCP_AFTER_RTO;
    if (tcp_sent_at(&s->sent, 0)->flags & TCP_SENT_SACKED)
        tcp_sent_forget_sacked(&s->sent); /* RFC 2018 section 8: the peer has thrown it away */
    if (s->flags & TCP_HAS_SACK)
        tcp_rack_mark_on_timeout(&s->rack, &s->sent, net->now, s->srtt);
    else
        tcp_sent_lose_all(&s->sent);
    /* The first goes whatever else may be under way (RFC 6298 (5.4)); the rest waits for cwnd. */
    tcp_retransmit(s, tcp_sent_at(&s->sent, 0));
}
