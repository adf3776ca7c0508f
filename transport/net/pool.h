/* Pools of packets. EAL runs already (zh_eal_start). Any thread. */
#ifndef ZEROHOP_NET_POOL_H
#define ZEROHOP_NET_POOL_H

#include <stdbool.h>
#include <stdint.h>

struct rte_mempool;

/* A pool of `packets` packets of one buffer each: RTE_PKTMBUF_HEADROOM, then `data_size` bytes.
 * `dma`: a device may read or write them by itself (a NIC; not the kernel's or in memory). NULL: no
 * memory (rte_errno). */
struct rte_mempool *net_pool_create(uint32_t packets, uint16_t data_size, bool dma);

/* Give up a pool, of which packets may still be out: its memory stays until the last of them is
 * freed, and then serves the next pool of its kind. */
void net_pool_retire(struct rte_mempool *pool);

#endif
