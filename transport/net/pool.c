/* Pools of packets that outlive their port: what a program still holds of a closed port's packets
 * must stay readable, and freeing it must find the pool.
 *
 * A retired pool is used again for the next of its kind, once most of its packets are back, rather
 * than freed. The count is whole a moment before the thread that returned the last packet has left
 * the pool, so that only what has lain idle for a while is freed. */
#include "pool.h"

#include <pthread.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mbuf_pool_ops.h>
#include <rte_mempool.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

enum {
    RETIRED_MAX = 64, /* more stay where they are until the process ends */
    IDLE_SECONDS = 2, /* coarse: more than the longest that a thread is kept from running */
    PAGE_SIZE_LEAST = 4096,
    CACHE_MAX = 256, /* packets in a thread's cache; it holds half as many more at times */
};

struct retired {
    struct rte_mempool *pool;
    time_t since; /* when it was first seen to be whole; 0: not yet */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct retired retired[RETIRED_MAX];
static unsigned retired_count;
static unsigned created; /* for the names */

static void forget(unsigned index)
{
    retired[index] = retired[--retired_count];
}

static time_t seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return now.tv_sec + 1; /* never 0 */
}

/* Free what has been whole long enough. */
static void sweep(void)
{
    time_t now = seconds();
    for (unsigned i = retired_count; i-- > 0;) {
        if (!rte_mempool_full(retired[i].pool))
            continue;
        if (!retired[i].since) {
            retired[i].since = now;
        } else if (now - retired[i].since > IDLE_SECONDS) {
            rte_mempool_free(retired[i].pool);
            forget(i);
        }
    }
}

static struct rte_mempool *find(uint32_t packets, uint16_t room, unsigned flags)
{
    for (unsigned i = retired_count; i-- > 0;) {
        struct rte_mempool *pool = retired[i].pool;
        if (pool->size == packets && !((pool->flags ^ flags) & RTE_MEMPOOL_F_NO_IOVA_CONTIG) &&
            rte_pktmbuf_data_room_size(pool) == room &&
            rte_mempool_avail_count(pool) >= packets - packets / 8) {
            forget(i);
            return pool;
        }
    }
    return NULL;
}

/* Flags that rte_pktmbuf_pool_create does not give. Objects that cross no page cost half of the
 * memory where pages are small, and AF_XDP's driver takes them to lie side by side: only DMA by
 * physical addresses needs it. And DPDK enlarges objects so that they begin at different memory
 * channels; not those that would outgrow a page by that, which AF_XDP's frames may not. */
static unsigned choose_flags(uint32_t size, bool dma)
{
    unsigned flags = 0;
    if (!dma || rte_eal_iova_mode() == RTE_IOVA_VA)
        flags |= RTE_MEMPOOL_F_NO_IOVA_CONTIG;
    if (rte_mempool_calc_obj_size(size, RTE_MEMPOOL_F_NO_SPREAD, NULL) <= PAGE_SIZE_LEAST &&
        rte_mempool_calc_obj_size(size, 0, NULL) > PAGE_SIZE_LEAST)
        flags |= RTE_MEMPOOL_F_NO_SPREAD;
    return flags;
}

static struct rte_mempool *create(uint32_t packets, uint16_t room, unsigned flags)
{
    char name[RTE_MEMPOOL_NAMESIZE];
    unsigned cache = packets / 8 < CACHE_MAX ? packets / 8 : CACHE_MAX;
    struct rte_pktmbuf_pool_private private = {.mbuf_data_room_size = room};
    uint32_t size = sizeof(struct rte_mbuf) + room;
    snprintf(name, sizeof name, "zh_pool_%u", created++);
    struct rte_mempool *pool =
        rte_mempool_create_empty(name, packets, size, cache, sizeof private, SOCKET_ID_ANY, flags);
    if (!pool)
        return NULL;
    rte_pktmbuf_pool_init(pool, &private);
    int result = rte_mempool_set_ops_byname(pool, rte_mbuf_best_mempool_ops(), NULL);
    if (result == 0)
        result = rte_mempool_populate_default(pool);
    if (result < 0) {
        rte_mempool_free(pool);
        rte_errno = -result;
        return NULL;
    }
    rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
    return pool;
}

struct rte_mempool *net_pool_create(uint32_t packets, uint16_t data_size, bool dma)
{
    if (data_size > UINT16_MAX - RTE_PKTMBUF_HEADROOM) {
        rte_errno = EINVAL;
        return NULL;
    }
    uint16_t room = data_size + RTE_PKTMBUF_HEADROOM;
    unsigned flags = choose_flags((uint32_t)sizeof(struct rte_mbuf) + room, dma);
    pthread_mutex_lock(&lock);
    struct rte_mempool *pool = find(packets, room, flags);
    if (!pool) {
        sweep();
        pool = create(packets, room, flags);
    }
    pthread_mutex_unlock(&lock);
    return pool;
}

void net_pool_retire(struct rte_mempool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&lock);
    sweep();
    if (retired_count < RETIRED_MAX)
        retired[retired_count++] = (struct retired){pool, rte_mempool_full(pool) ? seconds() : 0};
    pthread_mutex_unlock(&lock);
}
