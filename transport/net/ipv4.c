/* IPv4: RFC 791, and of RFC 1122 section 3.2.1 what a host that does not forward has to do. */
#include "headers.h"
#include "stack.h"

enum {
    OPTION_END = 0, /* RFC 791 section 3.1 */
    OPTION_NOP = 1,
    OPTION_LSRR = 131,
    OPTION_SSRR = 137,
    TRANSPORT_PULL = 60, /* a TCP header with all options */
};

/* Options are stepped over. Source routes are refused: RFC 7126 sections 4.3 and 4.4. */
static bool options_fine(const uint8_t *option, size_t size)
{
    while (size) {
        if (*option == OPTION_END)
            return true;
        if (*option == OPTION_LSRR || *option == OPTION_SSRR)
            return false;
        size_t length = 1;
        if (*option != OPTION_NOP) {
            if (size < 2 || option[1] < 2 || option[1] > size)
                return false;
            length = option[1];
        }
        option += length;
        size -= length;
    }
    return true;
}

/* RFC 1122 section 3.2.1.3: no host can have sent it, or this one would have to. */
static bool source_is_bad(const struct zh_net *net, const struct net_addr *src)
{
    uint8_t first = src->bytes[12];
    return first == 0 || first == 127 || first >= 224 || net_is_own(net, src);
}

static void upper(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info)
{
    switch (info->protocol) {
    case IPPROTO_TCP:
        tcp_input(net, packet, info);
        return;
    case IPPROTO_ICMP:
        icmp_input(net, packet, info);
        return;
    default:
        net->stats.ip_in_foreign++;
        icmp_unreachable(net, packet, info,
                         info->protocol == IPPROTO_UDP ? ICMP_CODE_PORT : ICMP_CODE_PROTOCOL);
        rte_pktmbuf_free(packet);
    }
}

void ipv4_input(struct zh_net *net, struct rte_mbuf *packet, bool broadcast)
{
    net->stats.ip_in++;
    const struct ipv4_header *header = rte_pktmbuf_mtod(packet, const struct ipv4_header *);
    if (unlikely(!net_packet_pull(packet, sizeof *header) || header->version_ihl >> 4 != 4))
        goto bad;
    uint16_t size = (uint16_t)((header->version_ihl & 15) * 4);
    uint16_t length = rte_be_to_cpu_16(header->total_length);
    if (unlikely(size < sizeof *header || length < size || length > packet->pkt_len ||
                 !net_packet_pull(packet, size)))
        goto bad;
    if (unlikely(net_sum_fold(net_sum(header, size)) != 0xffff))
        goto bad;
    if (unlikely(size > sizeof *header &&
                 !options_fine((const uint8_t *)(header + 1), size - sizeof *header)))
        goto bad;
    struct net_packet info = {
        .src = net_addr_v4(header->src),
        .dst = net_addr_v4(header->dst),
        .protocol = header->protocol,
        .ttl = header->ttl,
        .traffic_class = header->tos,
        .ip_header_size = size,
    };
    /* A frame for all with a packet for one: RFC 1122 section 3.3.6. No protocol here listens to
     * packets for all, echo included (section 3.2.2.6). */
    if (unlikely(broadcast || !net_is_own(net, &info.dst))) {
        net->stats.ip_in_foreign++;
        goto drop;
    }
    if (unlikely(source_is_bad(net, &info.src)))
        goto bad;
    net_packet_cut(packet, length);
    uint16_t fragment = rte_be_to_cpu_16(header->fragment), id = header->id;
    rte_pktmbuf_adj(packet, size);
    if (unlikely(fragment & (IPV4_MORE_FRAGMENTS | IPV4_OFFSET_MASK))) {
        packet = fragments_input(net, packet, &info, id, (fragment & IPV4_OFFSET_MASK) * 8u,
                                 fragment & IPV4_MORE_FRAGMENTS);
        if (!packet)
            return;
    }
    if (unlikely(packet->nb_segs > 1) &&
        !net_packet_pull(packet, RTE_MIN(packet->pkt_len, (uint32_t)TRANSPORT_PULL)))
        goto bad;
    upper(net, packet, &info);
    return;
bad:
    net->stats.ip_in_bad++;
drop:
    rte_pktmbuf_free(packet);
}

void ipv4_prepend(struct rte_mbuf *packet, const struct net_addr *src, const struct net_addr *dst,
                  uint8_t protocol, uint8_t traffic_class, uint16_t id, uint16_t fragment)
{
    struct ipv4_header *header = (void *)rte_pktmbuf_prepend(packet, sizeof *header);
    *header = (struct ipv4_header){
        .version_ihl = 0x45,
        .tos = traffic_class,
        .total_length = rte_cpu_to_be_16((uint16_t)packet->pkt_len),
        .id = rte_cpu_to_be_16(id),
        .fragment = rte_cpu_to_be_16(fragment),
        .ttl = IP_DEFAULT_TTL,
        .protocol = protocol,
        .src = src->words[3],
        .dst = dst->words[3],
    };
    header->checksum = (uint16_t)~net_sum_fold(net_sum(header, sizeof *header));
    if (packet->ol_flags & RTE_MBUF_F_TX_L4_MASK) { /* the device wants to know the way there */
        packet->ol_flags |= RTE_MBUF_F_TX_IPV4;
        packet->l2_len = sizeof(struct ether_header);
        packet->l3_len = sizeof *header;
    }
}
