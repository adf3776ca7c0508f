/* What a packet of ours was, read from the start of it that an ICMP error quotes (RFC 792; RFC 4443
 * section 2.4 (c)), or that a neighbour could not be given. */
#include "headers.h"
#include "stack.h"

enum { QUOTED = 8 }; /* of the transport header: ports and sequence number (RFC 792) */

bool net_error_quote(const struct zh_net *net, const uint8_t *packet, size_t size,
                     struct net_error *error)
{
    const struct ipv4_header *header = (const void *)packet;
    if (size < sizeof *header || header->version_ihl >> 4 != 4)
        return false;
    size_t offset = (size_t)(header->version_ihl & 15) * 4;
    if (offset < sizeof *header || size < offset + QUOTED)
        return false;
    if (header->fragment & rte_cpu_to_be_16(IPV4_OFFSET_MASK))
        return false;
    error->local = net_addr_v4(header->src);
    error->remote = net_addr_v4(header->dst);
    error->protocol = header->protocol;
    if (error->protocol != IPPROTO_TCP || !net_is_own(net, &error->local))
        return false;
    memcpy(&error->local_port, packet + offset, 2);
    memcpy(&error->remote_port, packet + offset + 2, 2);
    memcpy(&error->seq, packet + offset + 4, 4);
    error->seq = rte_be_to_cpu_32(error->seq);
    return true;
}
