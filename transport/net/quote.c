/* What a packet of ours was, read from the start of it that an ICMP error quotes (RFC 792; RFC 4443
 * section 2.4 (c)), or that a neighbour could not be given. */
#include "headers.h"
#include "stack.h"

enum { QUOTED = 8 }; /* of the transport header: ports and sequence number (RFC 792) */

bool net_error_quote(const struct zh_net *net, const uint8_t *packet, size_t size,
                     struct net_error *error)
{
    const struct ipv4_header *v4 = (const void *)packet;
    const struct ipv6_header *v6 = (const void *)packet;
    size_t offset;
    if (size >= sizeof *v4 && *packet >> 4 == 4) {
        offset = (size_t)(v4->version_ihl & 15) * 4;
        if (offset < sizeof *v4 || v4->fragment & rte_cpu_to_be_16(IPV4_OFFSET_MASK))
            return false;
        error->local = net_addr_v4(v4->src);
        error->remote = net_addr_v4(v4->dst);
        error->protocol = v4->protocol;
        error->size = rte_be_to_cpu_16(v4->total_length);
    } else if (size >= sizeof *v6 && *packet >> 4 == 6) {
        offset = sizeof *v6; /* our segments have no other headers */
        memcpy(&error->local, v6->src, 16);
        memcpy(&error->remote, v6->dst, 16);
        error->protocol = v6->next;
        error->size = (uint16_t)RTE_MIN(rte_be_to_cpu_16(v6->payload_length) + sizeof *v6,
                                        (size_t)UINT16_MAX);
        if (net_addr_is_v4(&error->local))
            return false;
    } else {
        return false;
    }
    if (size < offset + QUOTED || error->protocol != IPPROTO_TCP || !net_is_own(net, &error->local))
        return false;
    memcpy(&error->local_port, packet + offset, 2);
    memcpy(&error->remote_port, packet + offset + 2, 2);
    memcpy(&error->seq, packet + offset + 4, 4);
    error->seq = rte_be_to_cpu_32(error->seq);
    return true;
}
