/* Pools of packets that outlive their port: what a program still holds of a closed port's packets
 * must stay readable, and freeing it must find the pool.
 *
 * A retired pool whose packets are all back is used again for the next of its kind rather than
 * freed. Its count is whole a moment before the thread that returned the last packet has left the
 * pool, so that only what has lain idle for a while is freed. */
#include "pool.h"

#include <pthread.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

enum {
    RETIRED_MAX = 64, /* more stay where they are until the process ends */
    IDLE_SECONDS = 2, /* coarse: more than the longest that a thread is kept from running */
    CACHE_MAX = 256,  /* packets in a thread's cache; it holds half as many more at times */
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

static struct rte_mempool *find(uint32_t packets, uint16_t room)
{
    for (unsigned i = retired_count; i-- > 0;) {
        struct rte_mempool *pool = retired[i].pool;
        if (pool->size == packets && rte_pktmbuf_data_room_size(pool) == room &&
            rte_mempool_full(pool)) {
            forget(i);
            return pool;
        }
    }
    return NULL;
}

struct rte_mempool *net_pool_create(uint32_t packets, uint16_t data_size)
{
    char name[RTE_MEMPOOL_NAMESIZE];
    if (data_size > UINT16_MAX - RTE_PKTMBUF_HEADROOM) {
        rte_errno = EINVAL;
        return NULL;
    }
    uint16_t room = data_size + RTE_PKTMBUF_HEADROOM;
    unsigned cache = packets / 8 < CACHE_MAX ? packets / 8 : CACHE_MAX;
    pthread_mutex_lock(&lock);
    struct rte_mempool *pool = find(packets, room);
    if (!pool) {
        sweep();
        snprintf(name, sizeof name, "zh_pool_%u", created++);
        pool = rte_pktmbuf_pool_create(name, packets, cache, 0, room, SOCKET_ID_ANY);
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
