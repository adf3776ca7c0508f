/* IPv6: RFC 8200, as a host that does not forward has to. */
#include "headers.h"
#include "stack.h"

enum {
    HEADERS_MAX = 8, /* extension headers of one packet, and options of one of them: RFC 8504
                        section 5.3 lets hosts have limits */
    OPTIONS_MAX = 16,
    TRANSPORT_PULL = 60, /* a TCP header with all options */
    LENGTH_MAX = 65535,
    OPTION_PAD1 = 0, /* RFC 8200 section 4.2 */
    OPTION_PADN = 1,
};

/* A packet while its headers are read. */
struct walk {
    struct rte_mbuf *packet;
    struct net_packet info; /* ip_header_size: what lies before the packet's data already */
    uint32_t offset;        /* of the header to be read, from the packet's data */
    uint32_t next_at;       /* of the field that names it, from the IPv6 header */
    uint8_t next;           /* what it is */
};

enum verdict { GO_ON, BAD, TAKEN };

static bool is_multicast(const struct net_addr *a)
{
    return a->bytes[0] == 0xff;
}

static void problem(struct zh_net *net, const struct walk *walk, uint8_t code, uint32_t at)
{
    icmpv6_error(net, walk->packet, &walk->info, ICMPV6_PARAMETER_PROBLEM, code, at);
}

/* No packet has it as a source, or as one of our addresses: RFC 4291 sections 2.5.3 and 2.7. Mapped
 * ones would be taken for IPv4's here. */
static bool source_is_bad(const struct zh_net *net, const struct net_addr *src)
{
    static const struct net_addr loopback = {.bytes = {[15] = 1}};
    return is_multicast(src) || net_addr_is_v4(src) || net_addr_equal(src, &loopback) ||
           net_is_own(net, src);
}

static bool is_unspecified(const struct net_addr *a)
{
    return !a->halves[0] && !a->halves[1];
}

/* Options of a hop-by-hop or destination header, `size` bytes after its first two: RFC 8200 section
 * 4.2. None is known here but padding; the upper bits of others say what they want. */
static bool options_fine(struct zh_net *net, const struct walk *walk, const uint8_t *header,
                         uint32_t size)
{
    unsigned count = 0;
    for (uint32_t at = 2, length; at < size; at += length) {
        const uint8_t *option = header + at;
        length = 1;
        if (*option == OPTION_PAD1)
            continue;
        if (size - at < 2 || size - at - 2 < option[1])
            return false;
        length = 2u + option[1];
        if (*option == OPTION_PADN)
            continue;
        if (++count > OPTIONS_MAX)
            return false;
        if (*option >> 6 == 0)
            continue;
        if (*option >> 6 == 2 || (*option >> 6 == 3 && !is_multicast(&walk->info.dst)))
            problem(net, walk, ICMPV6_CODE_OPTION, walk->info.ip_header_size + walk->offset + at);
        return false;
    }
    return true;
}

/* A header with a length of its own, by which it is stepped over. */
static enum verdict extension(struct zh_net *net, struct walk *walk)
{
    struct rte_mbuf *packet = walk->packet;
    if (!net_packet_pull(packet, walk->offset + 8))
        return BAD;
    const uint8_t *header = rte_pktmbuf_mtod_offset(packet, const uint8_t *, walk->offset);
    uint32_t size = (header[1] + 1u) * 8;
    if (!net_packet_pull(packet, walk->offset + size))
        return BAD;
    if (walk->next == IPV6_ROUTING) {
        /* Type 0: RFC 5095 section 3; others: RFC 8200 section 4.4, as unknown ones. With no
         * segments left all but type 0 is skipped. */
        if (header[2] == 0 || header[3] != 0) {
            problem(net, walk, ICMPV6_CODE_FIELD, walk->info.ip_header_size + walk->offset + 2);
            return BAD;
        }
    } else if (!options_fine(net, walk, header, size)) {
        return BAD;
    }
    walk->next_at = walk->info.ip_header_size + walk->offset;
    walk->next = header[0];
    walk->offset += size;
    return GO_ON;
}

static enum verdict fragment(struct zh_net *net, struct walk *walk)
{
    struct rte_mbuf *packet = walk->packet;
    if (!net_packet_pull(packet, walk->offset + sizeof(struct ipv6_fragment)))
        return BAD;
    const struct ipv6_fragment *header =
        rte_pktmbuf_mtod_offset(packet, const struct ipv6_fragment *, walk->offset);
    uint16_t field = rte_be_to_cpu_16(header->offset_more);
    uint32_t offset = field & ~7u, id = header->id;
    bool more = field & 1;
    uint32_t size = packet->pkt_len - walk->offset - (uint32_t)sizeof *header;
    uint32_t at = walk->info.ip_header_size + walk->offset;
    walk->next = header->next;
    walk->next_at = at;
    if (!offset && !more) { /* an atomic one: RFC 6946 section 4 */
        walk->offset += (uint32_t)sizeof *header;
        return GO_ON;
    }
    if (more && size % 8) { /* RFC 8200 section 4.5, as the next */
        problem(net, walk, ICMPV6_CODE_FIELD, offsetof(struct ipv6_header, payload_length));
        return BAD;
    }
    if (offset + size > LENGTH_MAX) {
        problem(net, walk, ICMPV6_CODE_FIELD, at + offsetof(struct ipv6_fragment, offset_more));
        return BAD;
    }
    walk->info.protocol = walk->next;
    walk->info.ip_header_size = (uint16_t)(at + sizeof *header);
    rte_pktmbuf_adj(packet, (uint16_t)(walk->offset + sizeof *header));
    walk->packet = fragments_input(net, packet, &walk->info, id, offset, more);
    if (!walk->packet)
        return TAKEN;
    walk->next = walk->info.protocol;
    walk->next_at = walk->info.ip_header_size - (uint32_t)sizeof *header;
    walk->offset = 0;
    return GO_ON;
}

/* Takes the packet, whose headers have all been read. */
static void upper(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info,
                  uint32_t next_at)
{
    switch (info->protocol) {
    case IPPROTO_TCP: /* to one only: RFC 9293 section 3.9.2.3, MUST-57 */
        if (info->broadcast || is_unspecified(&info->src))
            break;
        tcp_input(net, packet, info);
        return;
    case IPPROTO_ICMPV6:
        icmpv6_input(net, packet, info);
        return;
    case IPPROTO_NONE:
        rte_pktmbuf_free(packet);
        return;
    case IPPROTO_UDP:
        icmpv6_error(net, packet, info, ICMPV6_UNREACHABLE, ICMPV6_CODE_PORT, 0);
        break;
    default:
        icmpv6_error(net, packet, info, ICMPV6_PARAMETER_PROBLEM, ICMPV6_CODE_NEXT_HEADER, next_at);
    }
    net->stats.ip_in_foreign++;
    rte_pktmbuf_free(packet);
}

void ipv6_input(struct zh_net *net, struct rte_mbuf *packet, bool multicast)
{
    net->stats.ip_in++;
    const struct ipv6_header *header = rte_pktmbuf_mtod(packet, const struct ipv6_header *);
    struct walk walk = {.packet = packet};
    if (unlikely(!net_packet_pull(packet, sizeof *header) ||
                 header->version_class_label[0] >> 4 != 6))
        goto bad;
    uint32_t length = rte_be_to_cpu_16(header->payload_length) + (uint32_t)sizeof *header;
    if (unlikely(length > packet->pkt_len))
        goto bad;
    net_packet_cut(packet, length);
    memcpy(&walk.info.src, header->src, 16);
    memcpy(&walk.info.dst, header->dst, 16);
    walk.info.ttl = header->hop_limit;
    walk.info.traffic_class =
        (uint8_t)(header->version_class_label[0] << 4 | header->version_class_label[1] >> 4);
    walk.offset = sizeof *header;
    walk.next = header->next;
    walk.next_at = offsetof(struct ipv6_header, next);
    bool group = is_multicast(&walk.info.dst);
    walk.info.broadcast = group;
    if (unlikely(group ? !nd_listens(net, &walk.info.dst)
                       : multicast || net_addr_is_v4(&walk.info.dst) ||
                             !net_is_own(net, &walk.info.dst))) {
        net->stats.ip_in_foreign++;
        goto drop;
    }
    if (unlikely(source_is_bad(net, &walk.info.src)))
        goto bad;
    bool fragmented = false;
    for (unsigned headers = 0;; headers++) {
        enum verdict verdict;
        switch (walk.next) {
        case IPV6_HOP_BY_HOP: /* right after the IPv6 header only: RFC 8200 section 4.1 */
            if (headers) {
                problem(net, &walk, ICMPV6_CODE_NEXT_HEADER, walk.next_at);
                goto bad;
            }
            verdict = extension(net, &walk);
            break;
        case IPV6_ROUTING:
        case IPV6_DESTINATION:
            verdict = headers < HEADERS_MAX ? extension(net, &walk) : BAD;
            break;
        case IPV6_FRAGMENT: /* not within another */
            verdict = fragmented ? BAD : fragment(net, &walk);
            fragmented = true;
            break;
        default:
            goto done;
        }
        if (verdict == TAKEN)
            return;
        if (verdict == BAD)
            goto bad;
    }
done:
    if (unlikely(walk.packet->nb_segs > 1) &&
        !net_packet_pull(walk.packet, RTE_MIN(walk.packet->pkt_len, walk.offset + TRANSPORT_PULL)))
        goto bad;
    rte_pktmbuf_adj(walk.packet, (uint16_t)walk.offset);
    walk.info.ip_header_size = (uint16_t)(walk.info.ip_header_size + walk.offset);
    walk.info.protocol = walk.next;
    upper(net, walk.packet, &walk.info, walk.next_at);
    return;
bad:
    net->stats.ip_in_bad++;
drop:
    rte_pktmbuf_free(walk.packet);
}

void ipv6_prepend(struct rte_mbuf *packet, const struct net_addr *src, const struct net_addr *dst,
                  uint8_t protocol, uint8_t traffic_class, uint8_t hop_limit)
{
    uint16_t payload = (uint16_t)packet->pkt_len;
    struct ipv6_header *header = (void *)rte_pktmbuf_prepend(packet, sizeof *header);
    *header = (struct ipv6_header){
        .version_class_label = {(uint8_t)(0x60 | traffic_class >> 4),
                                (uint8_t)(traffic_class << 4)},
        .payload_length = rte_cpu_to_be_16(payload),
        .next = protocol,
        .hop_limit = hop_limit,
    };
    memcpy(header->src, src, 16);
    memcpy(header->dst, dst, 16);
    if (packet->ol_flags & RTE_MBUF_F_TX_L4_MASK) { /* the device wants to know the way there */
        packet->ol_flags |= RTE_MBUF_F_TX_IPV6;
        packet->l2_len = sizeof(struct ether_header);
        packet->l3_len = sizeof *header;
    }
}
