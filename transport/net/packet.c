/* Packets: making them, and what their headers' readers need of received ones. */
#include "stack.h"

struct rte_mbuf *net_packet_alloc(struct zh_net *net)
{
    return rte_pktmbuf_alloc(net->pool);
}

bool net_packet_pull_slow(struct rte_mbuf *packet, uint32_t size)
{
    if (size > packet->pkt_len || size - packet->data_len > rte_pktmbuf_tailroom(packet))
        return false;
    while (packet->data_len < size) {
        struct rte_mbuf *second = packet->next;
        uint32_t n = size - packet->data_len;
        if (n > second->data_len)
            n = second->data_len;
        memcpy(rte_pktmbuf_mtod_offset(packet, uint8_t *, packet->data_len),
               rte_pktmbuf_mtod(second, const uint8_t *), n);
        packet->data_len = (uint16_t)(packet->data_len + n);
        second->data_len = (uint16_t)(second->data_len - n);
        second->data_off = (uint16_t)(second->data_off + n);
        if (!second->data_len) {
            packet->next = second->next;
            packet->nb_segs--;
            rte_pktmbuf_free_seg(second);
        }
    }
    return true;
}

void net_packet_cut(struct rte_mbuf *packet, uint32_t size)
{
    if (size >= packet->pkt_len)
        return;
    packet->pkt_len = size;
    uint16_t segments = 1;
    struct rte_mbuf *segment = packet;
    for (; size > segment->data_len; segment = segment->next, segments++)
        size -= segment->data_len;
    segment->data_len = (uint16_t)size;
    rte_pktmbuf_free(segment->next);
    segment->next = NULL;
    packet->nb_segs = segments;
}

static bool is_private(const struct rte_mbuf *packet)
{
    for (; packet; packet = packet->next) {
        if (rte_mbuf_refcnt_read(packet) != 1 || RTE_MBUF_CLONED(packet))
            return false;
        if (RTE_MBUF_HAS_EXTBUF(packet) && rte_mbuf_ext_refcnt_read(packet->shinfo) != 1)
            return false;
    }
    return true;
}

struct rte_mbuf *net_packet_reuse(struct zh_net *net, struct rte_mbuf *packet)
{
    if (!is_private(packet)) {
        struct rte_mbuf *copy = rte_pktmbuf_copy(packet, net->pool, 0, UINT32_MAX);
        rte_pktmbuf_free(packet);
        if (!copy)
            return NULL;
        packet = copy;
    }
    /* What a device said of it would be read as what it shall do. */
    packet->ol_flags &= RTE_MBUF_F_EXTERNAL | RTE_MBUF_F_INDIRECT;
    return packet;
}
