/* EAL and a pool of packets for tests of single parts, which have no port. */
#ifndef ZEROHOP_TESTS_PACKETS_H
#define ZEROHOP_TESTS_PACKETS_H

#include <rte_mbuf.h>
#include <rte_mempool.h>

#include "check.h"
#include "start_eal.h"

static inline struct rte_mempool *packet_pool(const char *name, unsigned count, uint16_t room)
{
    struct rte_mempool *pool = rte_pktmbuf_pool_create(
        name, count, 0, 0, (uint16_t)(room + RTE_PKTMBUF_HEADROOM), SOCKET_ID_ANY);
    CHECK(pool != NULL);
    return pool;
}

#endif
