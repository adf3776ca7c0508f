/* The way out, for both versions of IP: a route, then a header. */
#include "headers.h"
#include "stack.h"

int ip_output(struct zh_net *net, struct rte_mbuf *packet, const struct net_addr *src,
              const struct net_addr *dst, uint8_t protocol, uint8_t traffic_class)
{
    struct net_next_hop hop;
    if (unlikely(!net_addr_is_v4(dst) || !net_route(net, dst, &hop))) {
        net->stats.ip_out_no_route++;
        rte_pktmbuf_free(packet);
        return -EHOSTUNREACH;
    }
    if (unlikely(packet->pkt_len + sizeof(struct ipv4_header) > net->config.mtu ||
                 rte_pktmbuf_headroom(packet) <
                     sizeof(struct ipv4_header) + sizeof(struct ether_header))) {
        rte_pktmbuf_free(packet);
        return -EMSGSIZE;
    }
    ipv4_send(net, packet, &hop, src, dst, protocol, traffic_class, 0, IPV4_DONT_FRAGMENT);
    return 0;
}

int ip_output_fragments(struct zh_net *net, struct rte_mbuf *packet, const struct net_addr *src,
                        const struct net_addr *dst, uint8_t protocol, uint8_t traffic_class)
{
    struct net_next_hop hop;
    uint32_t mtu = net_path_mtu(net, dst), header = sizeof(struct ipv4_header);
    if (packet->pkt_len + header <= mtu || !net_route(net, dst, &hop))
        return ip_output(net, packet, src, dst, protocol, traffic_class);
    uint16_t id = net->ip_id++;
    uint32_t room = rte_pktmbuf_data_room_size(net->pool) - RTE_PKTMBUF_HEADROOM;
    uint32_t most = RTE_MIN(mtu - header, room) & ~7u; /* RFC 791 section 3.2: in units of 8 */
    int rc = 0;
    for (uint32_t offset = 0, n; offset < packet->pkt_len && !rc; offset += n) {
        struct rte_mbuf *piece = net_packet_alloc(net);
        if (!piece) {
            rc = -ENOBUFS;
            break;
        }
        n = RTE_MIN(packet->pkt_len - offset, most);
        void *to = rte_pktmbuf_append(piece, (uint16_t)n);
        const void *from = rte_pktmbuf_read(packet, offset, n, to);
        if (from != to)
            memcpy(to, from, n);
        uint16_t more = offset + n < packet->pkt_len ? IPV4_MORE_FRAGMENTS : 0;
        ipv4_send(net, piece, &hop, src, dst, protocol, traffic_class, id,
                  (uint16_t)(offset / 8 | more));
    }
    rte_pktmbuf_free(packet);
    return rc;
}
