/* Checksums left undone. Linux, where it leaves a segment's checksum to the device
 * (CHECKSUM_PARTIAL), puts the pseudo-header's sum there, not complemented; between two veth
 * interfaces no device ever completes it. */
#include "port_checksum.h"

#include <rte_byteorder.h>
#include <rte_ether.h>
#include <rte_ip.h>
#include <rte_mbuf.h>
#include <rte_tcp.h>

static uint32_t sum_words(const void *data, unsigned size)
{
    const uint8_t *bytes = data;
    uint32_t sum = 0;
    for (unsigned i = 0; i < size; i += 2)
        sum += (uint32_t)bytes[i] << 8 | bytes[i + 1];
    return sum;
}

bool port_checksum_blank(struct rte_mbuf *packet)
{
    const struct rte_ether_hdr *ether = rte_pktmbuf_mtod(packet, const struct rte_ether_hdr *);
    const uint8_t *network = (const uint8_t *)(ether + 1);
    uint32_t room = packet->data_len, network_size, size, sum;
    if (room < sizeof *ether + sizeof(struct rte_ipv4_hdr) + sizeof(struct rte_tcp_hdr))
        return false;
    room -= sizeof *ether;
    if (ether->ether_type == RTE_BE16(RTE_ETHER_TYPE_IPV4)) {
        const struct rte_ipv4_hdr *ip = (const void *)network;
        network_size = (ip->version_ihl & 15u) * 4;
        size = rte_be_to_cpu_16(ip->total_length);
        if (ip->next_proto_id != IPPROTO_TCP || network_size < sizeof *ip || size < network_size ||
            ip->fragment_offset & RTE_BE16(RTE_IPV4_HDR_MF_FLAG | RTE_IPV4_HDR_OFFSET_MASK))
            return false;
        size -= network_size;
        sum = sum_words(&ip->src_addr, 8);
    } else if (ether->ether_type == RTE_BE16(RTE_ETHER_TYPE_IPV6)) {
        const struct rte_ipv6_hdr *ip = (const void *)network;
        network_size = sizeof *ip;
        if (room < network_size + sizeof(struct rte_tcp_hdr) || ip->proto != IPPROTO_TCP)
            return false;
        size = rte_be_to_cpu_16(ip->payload_len);
        sum = sum_words(&ip->src_addr, 32);
    } else {
        return false;
    }
    if (room < network_size + sizeof(struct rte_tcp_hdr) || size < sizeof(struct rte_tcp_hdr))
        return false;
    sum += IPPROTO_TCP + size;
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    const struct rte_tcp_hdr *tcp = (const void *)(network + network_size);
    if (rte_be_to_cpu_16(tcp->cksum) != sum)
        return false;
    packet->ol_flags =
        (packet->ol_flags & ~RTE_MBUF_F_RX_L4_CKSUM_MASK) | RTE_MBUF_F_RX_L4_CKSUM_NONE;
    return true;
}
