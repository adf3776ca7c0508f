/* Path MTU discovery (RFC 1191, RFC 8201): every segment forbids fragmentation; a router that would
 * have to says so. Whether that can be true of the connection was checked before (RFC 5927). */
#include "tcp_conn.h"

/* What is under way and larger than may be goes again, cut to size: as records of its own, so that
 * each piece can be acknowledged selectively. */
static void cut(struct zh_net_socket *s)
{
    for (uint32_t i = 0; i < s->sent.count; i++) {
        struct tcp_sent *sent = tcp_sent_at(&s->sent, i);
        uint32_t fin = sent->flags & TCP_SENT_FIN ? 1 : 0, size = tcp_sent_size(sent) - fin;
        if (size <= s->mss || sent->flags & TCP_SENT_SACKED)
            continue;
        tcp_sent_lose(&s->sent, sent);
        /* Out of memory: it stays one record, and is cut as it is sent. */
        for (; size > s->mss && tcp_sent_split(&s->sent, i, sent->seq + s->mss) == 0; i++) {
            sent = tcp_sent_at(&s->sent, i + 1);
            size -= s->mss;
        }
    }
}

void tcp_path_changed(struct zh_net_socket *s, const struct net_error *error)
{
    /* RFC 1191 section 5: a router that does not tell its MTU has one below the size of what it did
     * not take, which may be known already from an earlier segment. */
    uint16_t mtu = error->mtu ? error->mtu : net_path_plateau(error->size);
    if (mtu >= error->size) { /* RFC 5927 section 7.2: no reason to drop it */
        s->net->stats.icmp_errors_ignored++;
        return;
    }
    net_path_lower(s->net, &s->entry.flow.remote, mtu);
    uint16_t before = s->mss;
    tcp_update_mss(s);
    if (s->mss >= before || !tcp_synchronized(s))
        return;
    /* RFC 1191 section 6.4: retransmitted, but no congestion is concluded from it. */
    cut(s);
    tcp_want_output(s);
}
