/* The way out, for both versions of IP: a route, then a header. */
#include "headers.h"
#include "stack.h"

static inline uint32_t header_size(const struct net_addr *dst)
{
    return net_addr_is_v4(dst) ? sizeof(struct ipv4_header) : sizeof(struct ipv6_header);
}

int ip_output(struct zh_net *net, struct rte_mbuf *packet, const struct net_addr *src,
              const struct net_addr *dst, uint8_t protocol, uint8_t traffic_class)
{
    struct net_next_hop hop;
    uint32_t header = header_size(dst);
    if (unlikely(!net_route(net, dst, &hop))) {
        net->stats.ip_out_no_route++;
        rte_pktmbuf_free(packet);
        return -EHOSTUNREACH;
    }
    if (unlikely(packet->pkt_len + header > net->config.mtu ||
                 rte_pktmbuf_headroom(packet) < header + sizeof(struct ether_header))) {
        rte_pktmbuf_free(packet);
        return -EMSGSIZE;
    }
    net->stats.ip_out++;
    if (net_addr_is_v4(dst))
        ipv4_prepend(packet, src, dst, protocol, traffic_class, 0, IPV4_DONT_FRAGMENT);
    else
        ipv6_prepend(packet, src, dst, protocol, traffic_class, IP_DEFAULT_TTL);
    neighbour_output(net, &hop.address, packet);
    return 0;
}

/* One fragment: `size` bytes from `offset` of a packet, copied. NULL: no packets left. */
static struct rte_mbuf *piece_of(struct zh_net *net, const struct rte_mbuf *packet, uint32_t offset,
                                 uint32_t size)
{
    struct rte_mbuf *piece = net_packet_alloc(net);
    if (!piece)
        return NULL;
    void *to = rte_pktmbuf_append(piece, (uint16_t)size);
    const void *from = rte_pktmbuf_read(packet, offset, size, to);
    if (from != to)
        memcpy(to, from, size);
    return piece;
}

int ip_output_fragments(struct zh_net *net, struct rte_mbuf *packet, const struct net_addr *src,
                        const struct net_addr *dst, uint8_t protocol, uint8_t traffic_class)
{
    struct net_next_hop hop;
    bool v4 = net_addr_is_v4(dst);
    uint32_t mtu = net_path_mtu(net, dst), header = header_size(dst), size = packet->pkt_len;
    if (size + header <= mtu || !net_route(net, dst, &hop))
        return ip_output(net, packet, src, dst, protocol, traffic_class);
    uint16_t id = net->ip_id++;
    uint32_t id6 = net_random(net); /* RFC 7739 section 5.1 */
    uint32_t room = rte_pktmbuf_data_room_size(net->pool) - RTE_PKTMBUF_HEADROOM;
    header += v4 ? 0 : (uint32_t)sizeof(struct ipv6_fragment);
    /* In units of 8: RFC 791 section 3.2, RFC 8200 section 4.5. */
    uint32_t most = RTE_MIN(mtu - header, room) & ~7u;
    for (uint32_t offset = 0; offset < size; offset += most) {
        bool more = size - offset > most;
        struct rte_mbuf *piece = piece_of(net, packet, offset, more ? most : size - offset);
        if (!piece) {
            rte_pktmbuf_free(packet);
            return -ENOBUFS;
        }
        net->stats.ip_out++;
        if (v4) {
            ipv4_prepend(piece, src, dst, protocol, traffic_class, id,
                         (uint16_t)(offset / 8 | (more ? IPV4_MORE_FRAGMENTS : 0)));
        } else {
            struct ipv6_fragment *fragment = (void *)rte_pktmbuf_prepend(piece, sizeof *fragment);
            *fragment = (struct ipv6_fragment){
                .next = protocol,
                .offset_more = rte_cpu_to_be_16((uint16_t)(offset | more)),
                .id = id6,
            };
            ipv6_prepend(piece, src, dst, IPV6_FRAGMENT, traffic_class, IP_DEFAULT_TTL);
        }
        neighbour_output(net, &hop.address, piece);
    }
    rte_pktmbuf_free(packet);
    return 0;
}
