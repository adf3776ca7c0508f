/* Ethernet II frames, and the burst in which they leave. */
#include "headers.h"
#include "stack.h"

static const uint8_t ether_broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

void ether_input(struct zh_net *net, struct rte_mbuf *packet)
{
    net->stats.ether_in++;
    net->stats.ether_in_bytes += packet->pkt_len;
    if (unlikely(net->pcap))
        pcap_write(net, packet);
    if (unlikely(!net_packet_pull(packet, sizeof(struct ether_header))))
        goto foreign;
    const struct ether_header *header = rte_pktmbuf_mtod(packet, const struct ether_header *);
    uint16_t type = rte_be_to_cpu_16(header->type);
    bool broadcast = header->dst[0] & 1; /* of a group: broadcast is one */
    if (unlikely(header->src[0] & 1))    /* IEEE 802.3 section 3.2.3: a source is no group */
        goto foreign;
    if (!broadcast && memcmp(header->dst, net->port->mac, 6) != 0)
        goto foreign;
    /* IPv4 and ARP use no groups here but that of all. */
    if (broadcast && !(type == ETHER_IPV6 ? nd_listens_mac(net, header->dst)
                                          : memcmp(header->dst, ether_broadcast, 6) == 0))
        goto foreign;
    rte_pktmbuf_adj(packet, sizeof *header);
    switch (type) {
    case ETHER_IPV4:
        ipv4_input(net, packet, broadcast);
        return;
    case ETHER_ARP:
        arp_input(net, packet);
        return;
    case ETHER_IPV6:
        ipv6_input(net, packet, broadcast);
        return;
    default:
        break;
    }
foreign:
    net->stats.ether_in_foreign++;
    rte_pktmbuf_free(packet);
}

/* A copy in one buffer for a port that takes fewer segments. NULL: it does not fit. */
static struct rte_mbuf *in_one(struct zh_net *net, struct rte_mbuf *packet)
{
    struct rte_mbuf *copy = net_packet_alloc(net);
    void *data = NULL;
    if (copy && packet->pkt_len <= UINT16_MAX)
        data = rte_pktmbuf_append(copy, (uint16_t)packet->pkt_len);
    if (data) {
        const void *from = rte_pktmbuf_read(packet, 0, packet->pkt_len, data);
        if (from != data)
            memcpy(data, from, packet->pkt_len);
        copy->ol_flags |= packet->ol_flags & RTE_MBUF_F_TX_OFFLOAD_MASK;
        copy->tx_offload = packet->tx_offload;
        net->stats.bytes_copied += packet->pkt_len - packet->data_len;
    } else {
        rte_pktmbuf_free(copy);
        copy = NULL;
    }
    rte_pktmbuf_free(packet);
    return copy;
}

void ether_output(struct zh_net *net, struct rte_mbuf *packet, const uint8_t dst[6],
                  uint16_t ether_type)
{
    struct ether_header *header = (void *)rte_pktmbuf_prepend(packet, sizeof *header);
    if (unlikely(!header)) {
        net->stats.ether_out_dropped++;
        rte_pktmbuf_free(packet);
        return;
    }
    memcpy(header->dst, dst, 6);
    memcpy(header->src, net->port->mac, 6);
    header->type = rte_cpu_to_be_16(ether_type);
    if (unlikely(packet->nb_segs > net->port->max_segments))
        packet = in_one(net, packet);
    if (unlikely(net->out_count == NET_BURST))
        ether_flush(net);
    if (unlikely(!packet || net->out_count == NET_BURST)) {
        net->stats.ether_out_dropped++;
        rte_pktmbuf_free(packet);
        return;
    }
    if (unlikely(net->pcap))
        pcap_write(net, packet);
    net->out[net->out_count++] = packet;
}

void ether_flush(struct zh_net *net)
{
    uint16_t count = net->out_count, sent = 0;
    uint64_t bytes[NET_BURST]; /* the packets are the port's once it has taken them */
    if (!count)
        return;
    for (uint16_t i = 0; i < count; i++)
        bytes[i] = net->out[i]->pkt_len;
    while (sent < count) {
        uint16_t n = zh_port_send(net->port, net->out + sent, (uint16_t)(count - sent));
        if (!n)
            break;
        for (uint16_t i = sent; i < sent + n; i++)
            net->stats.ether_out_bytes += bytes[i];
        net->stats.ether_out += n;
        sent = (uint16_t)(sent + n);
    }
    /* What a full device did not take goes first the next time. */
    net->out_count = (uint16_t)(count - sent);
    if (unlikely(net->out_count))
        memmove(net->out, net->out + sent, net->out_count * sizeof *net->out);
}
