/* See tcp_pressure.h. A copy is an mbuf without a buffer of its own that a block of memory is
 * attached to; segments that follow go into the same block, so that small ones cost little. */
#include "tcp_pressure.h"

#include <rte_mempool.h>
#include <stdlib.h>

#include "pool.h"
#include "tcp_conn.h"

enum {
    BLOCK_MAX = 61440,  /* an mbuf's lengths have 16 bits */
    RESERVE = 4,        /* this part is for connections that hold nothing */
    RESERVE_SHARE = 64, /* of what is left one of these gets this part, or one segment */
};

/* Counted: one for the stack, one for each block; any thread may be the last. */
struct tcp_copies {
    _Atomic uint32_t references;
    _Atomic uint64_t used; /* bytes of blocks */
};

struct block {
    struct rte_mbuf_ext_shared_info shared;
    struct tcp_copies *copies;
    uint32_t size;
    uint8_t data[];
};

static void put(struct tcp_copies *copies)
{
    if (atomic_fetch_sub_explicit(&copies->references, 1, memory_order_acq_rel) == 1)
        free(copies);
}

/* Any thread: of whoever frees the mbuf. */
static void block_free(void *address, void *opaque)
{
    struct block *block = opaque;
    struct tcp_copies *copies = block->copies;
    (void)address;
    atomic_fetch_sub_explicit(&copies->used, block->size, memory_order_relaxed);
    free(block);
    put(copies);
}

int tcp_pressure_start(struct zh_net *net)
{
    struct tcp_pressure *pressure = &net->tcp->pressure;
    const struct rte_mempool *pool = net->port->pool;
    pressure->copies = calloc(1, sizeof *pressure->copies);
    /* More cannot be in use: the limit holds fewer blocks than packets. */
    pressure->headers = net_pool_create(pool->size, 0, false);
    if (!pressure->copies || !pressure->headers) {
        tcp_pressure_stop(net);
        return -ENOMEM;
    }
    atomic_init(&pressure->copies->references, 1);
    pressure->limit = (uint64_t)pool->size * pool->elt_size;
    return 0;
}

void tcp_pressure_stop(struct zh_net *net)
{
    struct tcp_pressure *pressure = &net->tcp->pressure;
    if (pressure->copies)
        put(pressure->copies);
    net_pool_retire(pressure->headers);
    *pressure = (struct tcp_pressure){0};
}

void tcp_pressure_poll(struct zh_net *net)
{
    struct tcp_pressure *pressure = &net->tcp->pressure;
    const struct rte_mempool *pool = net->port->pool;
    /* Asking walks over all threads' caches. So many more can be gone in between, at most. */
    if (!pressure->low && pressure->kept < pool->size / 32)
        return;
    pressure->kept = 0;
    unsigned free_count = rte_mempool_avail_count(pool);
    if (likely(free_count >= pool->size / 8 * 3)) {
        pressure->low = false;
        return;
    }
    /* Between a quarter and three eighths it stays as it is: a walk over all connections is worth
     * an eighth of the packets. */
    if (pressure->low || free_count >= pool->size / 4)
        return;
    pressure->low = true;
    net->stats.tcp_packets_low++;
    struct zh_net_socket *s;
    TAILQ_FOREACH(s, &net->tcp->all, all_link)
    tcp_receive_renege(s);
}

struct rte_mbuf *tcp_pressure_copy(struct zh_net *net, const struct rte_mbuf *packet, uint64_t held,
                                   uint32_t room)
{
    struct tcp_pressure *pressure = &net->tcp->pressure;
    struct tcp_copies *copies = pressure->copies;
    uint64_t used = atomic_load_explicit(&copies->used, memory_order_relaxed);
    uint64_t size = RTE_MAX(RTE_MIN(room, (uint32_t)BLOCK_MAX), packet->pkt_len), left;
    if (held) { /* so that afterwards it holds no more than is left */
        uint64_t most = pressure->limit - pressure->limit / RESERVE;
        left = used + held < most ? (most - used - held) / 2 : 0;
        size = RTE_MIN(size, left);
    } else {
        left = pressure->limit - used;
        size = RTE_MIN(size, RTE_MAX(left / RESERVE_SHARE, (uint64_t)packet->pkt_len));
    }
    if (packet->pkt_len > BLOCK_MAX || packet->pkt_len > left)
        return NULL;
    struct rte_mbuf *copy = rte_pktmbuf_alloc(pressure->headers);
    struct block *block = copy ? malloc(sizeof *block + size) : NULL;
    if (!block) {
        rte_pktmbuf_free(copy);
        return NULL;
    }
    *block = (struct block){.shared = {.free_cb = block_free, .fcb_opaque = block},
                            .copies = copies,
                            .size = (uint32_t)size};
    rte_mbuf_ext_refcnt_set(&block->shared, 1);
    atomic_fetch_add_explicit(&copies->references, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&copies->used, size, memory_order_relaxed);
    rte_pktmbuf_attach_extbuf(copy, block->data, RTE_BAD_IOVA, (uint16_t)size, &block->shared);
    void *to = rte_pktmbuf_append(copy, (uint16_t)packet->pkt_len);
    const void *from = rte_pktmbuf_read(packet, 0, packet->pkt_len, to);
    if (from != to)
        memcpy(to, from, packet->pkt_len);
    return copy;
}
