/* Explicit congestion notification (RFC 3168): routers mark what they would have dropped; the
 * receiver echoes the mark until the sender says that it has reduced its window. */
#include "tcp_conn.h"

bool tcp_ecn_agreed(const struct tcp_segment *segment)
{
    if (segment->flags & TCP_ACK) /* an ECN-setup SYN-ACK: section 6.1.1 */
        return (segment->flags & (TCP_ECE | TCP_CWR)) == TCP_ECE;
    return tcp_ecn_asked(segment); /* both have asked, in a simultaneous open */
}

uint8_t tcp_ecn_syn_flags(const struct zh_net_socket *s)
{
    if (!(s->flags & TCP_HAS_ECN))
        return 0;
    return s->state == TCPS_SYN_RECEIVED ? TCP_ECE : TCP_ECE | TCP_CWR;
}

/* What may be lost on the way for the question's sake is asked once (section 6.1.1.1). */
void tcp_ecn_syn_lost(struct zh_net_socket *s)
{
    if (s->state == TCPS_SYN_SENT)
        s->flags &= ~TCP_HAS_ECN;
}

uint8_t tcp_ecn_output(struct zh_net_socket *s, uint32_t seq, uint32_t size, uint8_t *flags)
{
    if (!(s->flags & TCP_HAS_ECN))
        return 0;
    if (s->flags & TCP_ECN_ECHO)
        *flags |= TCP_ECE;
    /* New data only: not on ACKs (section 6.1.4), retransmissions (6.1.5) and probes (6.1.6). */
    if (!size || seq != s->snd_nxt)
        return 0;
    if (s->flags & TCP_ECN_CWR) /* section 6.1.2: on the first new data after the reduction */
        *flags |= TCP_CWR;
    s->flags &= ~TCP_ECN_CWR;
    return TCP_ECT0;
}

void tcp_ecn_receive(struct zh_net_socket *s, const struct tcp_segment *segment)
{
    uint8_t ecn = segment->info->traffic_class & TCP_ECN_MASK;
    if (!(s->flags & TCP_HAS_ECN) || !segment->size)
        return;
    if (ecn)
        s->flags |= TCP_ECN_SEEN;
    /* Section 6.1.3: echoed until the peer's CWR, which is not about the mark of its own segment.
     * A mark that came in this burst and was not echoed yet must be, before the echo ends. */
    if (segment->flags & TCP_CWR && s->flags & TCP_ECN_ECHO) {
        if (s->flags & TCP_ACK_NOW)
            tcp_send_ack(s);
        s->flags &= ~TCP_ECN_ECHO;
    }
    if (ecn != TCP_CE)
        return;
    s->net->stats.tcp_ecn_marked++;
    s->flags |= TCP_ECN_ECHO | TCP_ACK_NOW;
    tcp_want_output(s);
}

void tcp_ecn_reduced(struct zh_net_socket *s)
{
    if (!(s->flags & TCP_HAS_ECN))
        return;
    s->ecn_recover = s->snd_nxt;
    s->flags |= TCP_ECN_CWR | TCP_ECN_REDUCED;
}

bool tcp_ecn_in_reduction(const struct zh_net_socket *s)
{
    return s->flags & TCP_ECN_REDUCED && seq_lt(s->snd_una, s->ecn_recover);
}

/* Once for each window of data (section 6.1.2): an ACK up to ecn_recover was sent before the peer
 * knew of the reduction, one beyond it answers our CWR. */
void tcp_ecn_echoed(struct zh_net_socket *s)
{
    /* Losses may prove to have been none; the window that was reduced for them stays so. */
    s->undo.cwnd = s->undo.ssthresh = s->ssthresh;
    if (s->flags & TCP_IN_RECOVERY ||
        (s->flags & TCP_ECN_REDUCED && seq_leq(s->snd_una, s->ecn_recover)))
        return;
    s->net->stats.tcp_ecn_reduced++;
    s->undo.possible = false;
    s->congestion->on_loss(s);
    if (s->cwnd > s->ssthresh)
        s->cwnd = s->ssthresh;
    tcp_ecn_reduced(s);
}
