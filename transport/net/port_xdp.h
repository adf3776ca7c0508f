/* Cleaning up after DPDK's AF_XDP driver (22.11 with libxdp 1.3). */
#ifndef ZEROHOP_NET_PORT_XDP_H
#define ZEROHOP_NET_PORT_XDP_H

struct rte_mempool;
struct port_xdp_lost;

/* Before the device is removed: find the packets in its socket's rings. NULL: no memory. */
struct port_xdp_lost *port_xdp_before_close(int descriptor, struct rte_mempool *pool);
/* After it was removed, when the kernel writes to none of them any more: give them back to their
 * pool, and close the socket if it is still open. */
void port_xdp_after_close(struct port_xdp_lost *lost);

#endif
