/* Reassembly, for both versions of IP: RFC 791 section 3.2 and RFC 8200 section 4.5, the
 * bookkeeping by ranges of bytes (RFC 815). Packets whose fragments overlap are dropped whole (RFC
 * 5722; as good for IPv4, RFC 1858). Limited in packets, in memory and per source: what is over a
 * limit drops the oldest, since fragments that belong together come together. All memory is there
 * from the start. */
#include <stdlib.h>
#include <sys/queue.h>

#include "headers.h"
#include "stack.h"

enum {
    PACKETS = 64,     /* in reassembly at once */
    PACKETS_EACH = 8, /* of one source */
    PIECES = 64,      /* of one packet: 65,535 bytes come in 46 of 1,480 */
    MEMORY = 1024 * 1024,
    LENGTH_MAX = 65535,
};
#define LIFE (30 * NET_SECOND) /* RFC 1122 section 3.3.2: 60 to 120 s; Linux: 30 s */

struct piece {
    struct rte_mbuf *packet;
    uint32_t start, end;
};

struct datagram {
    TAILQ_ENTRY(datagram) link;
    struct net_packet info; /* of the first fragment, once it is there; addresses at once */
    uint32_t id;
    uint64_t deadline;
    uint32_t length; /* 0: the last fragment has not come */
    uint32_t received, memory;
    uint16_t count;
    bool has_first;
    bool dropped;                /* its fragments overlapped: those that come are dropped as well */
    bool congested;              /* RFC 3168 section 5.3: a fragment was marked CE */
    struct piece pieces[PIECES]; /* sorted */
};

TAILQ_HEAD(datagram_list, datagram);

struct fragments {
    struct net_timer timer;
    struct datagram_list waiting, free; /* oldest first */
    uint32_t memory;
    struct datagram all[PACKETS];
};

enum { ECN_MASK = 3, ECN_CE = 3 };

static uint32_t memory_of(const struct rte_mbuf *packet)
{
    uint32_t memory = 0;
    for (; packet; packet = packet->next)
        memory += packet->buf_len;
    return memory;
}

static void set_timer(struct zh_net *net)
{
    struct fragments *f = net->fragments;
    struct datagram *first = TAILQ_FIRST(&f->waiting);
    if (first)
        net_timer_set(&net->timers, &f->timer, first->deadline);
    else
        net_timer_stop(&net->timers, &f->timer);
}

static void drop_pieces(struct zh_net *net, struct datagram *datagram)
{
    for (unsigned i = 0; i < datagram->count; i++)
        rte_pktmbuf_free(datagram->pieces[i].packet);
    net->stats.fragments_dropped += datagram->count;
    net->fragments->memory -= datagram->memory;
    datagram->count = 0;
    datagram->memory = 0;
}

static void release(struct zh_net *net, struct datagram *datagram)
{
    drop_pieces(net, datagram);
    TAILQ_REMOVE(&net->fragments->waiting, datagram, link);
    TAILQ_INSERT_HEAD(&net->fragments->free, datagram, link);
    set_timer(net);
}

static bool same(const struct datagram *datagram, const struct net_packet *info, uint32_t id)
{
    /* IPv6 knows a packet by addresses and identification only (RFC 8200 section 4.5). */
    return datagram->id == id && net_addr_equal(&datagram->info.src, &info->src) &&
           net_addr_equal(&datagram->info.dst, &info->dst) &&
           (datagram->info.protocol == info->protocol || !net_addr_is_v4(&info->src));
}

static struct datagram *find(struct zh_net *net, const struct net_packet *info, uint32_t id)
{
    struct fragments *f = net->fragments;
    struct datagram *datagram, *oldest = NULL;
    unsigned of_source = 0;
    TAILQ_FOREACH(datagram, &f->waiting, link)
    {
        if (same(datagram, info, id))
            return datagram;
        if (net_addr_equal(&datagram->info.src, &info->src)) {
            oldest = oldest ? oldest : datagram;
            of_source++;
        }
    }
    if (of_source == PACKETS_EACH)
        release(net, oldest);
    else if (TAILQ_EMPTY(&f->free))
        release(net, TAILQ_FIRST(&f->waiting));
    datagram = TAILQ_FIRST(&f->free);
    TAILQ_REMOVE(&f->free, datagram, link);
    TAILQ_INSERT_TAIL(&f->waiting, datagram, link);
    datagram->info = *info;
    datagram->id = id;
    datagram->deadline = net->now + LIFE;
    datagram->length = datagram->received = datagram->memory = 0;
    datagram->count = 0;
    datagram->has_first = datagram->dropped = datagram->congested = false;
    set_timer(net);
    return datagram;
}

enum placing { PLACED, DUPLICATE, BROKEN };

/* Find its place. BROKEN: it contradicts what is there. */
static enum placing place(struct datagram *datagram, uint32_t start, uint32_t end, bool more,
                          unsigned *place_at)
{
    unsigned at = datagram->count;
    while (at > 0 && datagram->pieces[at - 1].start > start)
        at--;
    const struct piece *before = at > 0 ? &datagram->pieces[at - 1] : NULL;
    const struct piece *after = at < datagram->count ? &datagram->pieces[at] : NULL;
    /* RFC 8200 section 4.5: an exact duplicate is no overlap. */
    if (before && before->start == start && before->end == end)
        return DUPLICATE;
    if ((before && before->end > start) || (after && after->start < end))
        return BROKEN;
    if (datagram->length && (end > datagram->length || (!more && end != datagram->length)))
        return BROKEN;
    if (!more && after)
        return BROKEN;
    if (datagram->count == PIECES)
        return BROKEN;
    *place_at = at;
    return PLACED;
}

/* The pieces, in order, are one packet from here on. */
static struct rte_mbuf *join(struct zh_net *net, struct datagram *datagram, struct net_packet *info)
{
    struct rte_mbuf *head = datagram->pieces[0].packet, *last = rte_pktmbuf_lastseg(head);
    for (unsigned i = 1; i < datagram->count; i++) {
        struct rte_mbuf *piece = datagram->pieces[i].packet;
        last->next = piece;
        last = rte_pktmbuf_lastseg(piece);
        head->nb_segs = (uint16_t)(head->nb_segs + piece->nb_segs);
        head->pkt_len += piece->pkt_len;
        piece->nb_segs = 1;
    }
    /* What the device has said of checksums was about a fragment. */
    head->ol_flags &= ~(uint64_t)(RTE_MBUF_F_RX_L4_CKSUM_MASK | RTE_MBUF_F_RX_IP_CKSUM_MASK);
    *info = datagram->info;
    info->was_fragmented = true;
    if (datagram->congested)
        info->traffic_class |= ECN_CE;
    net->fragments->memory -= datagram->memory;
    net->stats.fragments_joined++;
    datagram->memory = 0;
    datagram->count = 0;
    release(net, datagram);
    return head;
}

struct rte_mbuf *fragments_input(struct zh_net *net, struct rte_mbuf *packet,
                                 struct net_packet *info, uint32_t id, uint32_t offset, bool more)
{
    struct fragments *f = net->fragments;
    uint32_t end = offset + packet->pkt_len, memory = memory_of(packet);
    unsigned at = 0;
    net->stats.fragments_in++;
    /* Only the last one need not be a multiple of 8. */
    if (!packet->pkt_len || end > LENGTH_MAX || (more && packet->pkt_len % 8))
        goto drop;
    struct datagram *datagram = find(net, info, id);
    if (datagram->dropped)
        goto drop;
    switch (place(datagram, offset, end, more, &at)) {
    case PLACED:
        break;
    case DUPLICATE:
        goto drop;
    case BROKEN:
        drop_pieces(net, datagram);
        datagram->dropped = true;
        goto drop;
    }
    while (f->memory + memory > MEMORY) {
        struct datagram *oldest = TAILQ_FIRST(&f->waiting);
        release(net, oldest);
        if (oldest == datagram)
            goto drop;
    }
    memmove(&datagram->pieces[at + 1], &datagram->pieces[at],
            (datagram->count - at) * sizeof *datagram->pieces);
    datagram->pieces[at] = (struct piece){packet, offset, end};
    datagram->count++;
    datagram->received += packet->pkt_len;
    datagram->memory += memory;
    f->memory += memory;
    datagram->congested |= (info->traffic_class & ECN_MASK) == ECN_CE;
    if (!offset) {
        datagram->info = *info;
        datagram->has_first = true;
    }
    if (!more)
        datagram->length = end;
    /* Nothing overlaps, so that all is there when there is as much. */
    if (datagram->received == datagram->length)
        return join(net, datagram, info);
    return NULL;
drop:
    net->stats.fragments_dropped++;
    rte_pktmbuf_free(packet);
    return NULL;
}

static void expire(struct zh_net *net, struct net_timer *timer)
{
    struct datagram *datagram;
    (void)timer;
    while ((datagram = TAILQ_FIRST(&net->fragments->waiting)) && datagram->deadline <= net->now) {
        /* RFC 1122 section 3.3.2; RFC 8200 section 4.5: only where the first fragment has come. */
        if (datagram->has_first && !datagram->dropped) {
            bool v4 = net_addr_is_v4(&datagram->info.src);
            (v4 ? icmp_error : icmpv6_error)(net, datagram->pieces[0].packet, &datagram->info,
                                             v4 ? ICMP_TIME_EXCEEDED : ICMPV6_TIME_EXCEEDED,
                                             ICMP_CODE_REASSEMBLY, 0);
        }
        release(net, datagram);
    }
}

int fragments_create(struct zh_net *net)
{
    struct fragments *f = calloc(1, sizeof *f);
    net->fragments = f;
    if (!f)
        return -ENOMEM;
    f->timer.expire = expire;
    TAILQ_INIT(&f->waiting);
    TAILQ_INIT(&f->free);
    for (int i = 0; i < PACKETS; i++)
        TAILQ_INSERT_TAIL(&f->free, &f->all[i], link);
    return 0;
}

void fragments_free(struct zh_net *net)
{
    struct datagram *datagram;
    if (!net->fragments)
        return;
    while ((datagram = TAILQ_FIRST(&net->fragments->waiting)))
        release(net, datagram);
    free(net->fragments);
    net->fragments = NULL;
}
