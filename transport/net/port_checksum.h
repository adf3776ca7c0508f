/* TCP segments whose checksum the sender's kernel has left to a device that does not exist. */
#ifndef ZEROHOP_NET_PORT_CHECKSUM_H
#define ZEROHOP_NET_PORT_CHECKSUM_H

#include <stdbool.h>

struct rte_mbuf;

/* Whether the packet is such a segment, of IPv4 or IPv6 without extension headers. It is then
 * marked RTE_MBUF_F_RX_L4_CKSUM_NONE: "not correct, but the integrity is verified". */
bool port_checksum_blank(struct rte_mbuf *packet);

#endif
