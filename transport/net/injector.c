/* One direction of a bad wire: packets go in at a time and come out at theirs, or not at all.
 *
 * A packet waits for the rate, is then lost, doubled, damaged or held back, and travels for
 * `delay`. Both queues are in order of time: what travels never overtakes, and what is held back is
 * so by the same time for all. */
#include <errno.h>
#include <rte_mbuf.h>
#include <stdlib.h>

#include "zerohop/port.h"

enum {
    ETHER_HEADER = 14,
    QUEUE_DEFAULT = 1000, /* as a Linux interface's txqueuelen */
    HELD_MIN = 64,
};

struct held {
    struct rte_mbuf *packet;
    uint64_t due;
};

/* A ring that grows; a power of two. */
struct queue {
    struct held *slots;
    uint32_t first, count, capacity;
};

struct zh_injector {
    struct queue queue[2]; /* [0]: as they came; [1]: held back by reorder_delay */
    uint64_t last_due;     /* of queue[0] */
    struct rte_mempool *pool;
    struct zh_fault fault;
    uint64_t loss, duplicate, corrupt, reorder; /* in 1/2^64; UINT64_MAX: always */
    bool clean;                                 /* nothing of all this is asked for */
    uint64_t random;
    /* the rate */
    uint64_t free_at;   /* when the last bit of what was put so far has left */
    uint64_t remainder; /* of a ns, in 1/rate */
    uint64_t *leaving;  /* when the packets that wait will have left: a ring of `room` */
    uint32_t leaving_first, leaving_count, leaving_room;
    struct zh_injector_stats stats;
};

/* SplitMix64 (Steele, Lea, Flood 2014): one addition and three multiplications a draw. */
static uint64_t draw(struct zh_injector *injector)
{
    uint64_t z = injector->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* 0 to limit - 1; the high half of a product is even enough for limits far below 2^64. */
static uint64_t draw_below(struct zh_injector *injector, uint64_t limit)
{
    return (uint64_t)(((unsigned __int128)draw(injector) * limit) >> 64);
}

static bool happens(struct zh_injector *injector, uint64_t threshold)
{
    if (threshold == 0)
        return false;
    uint64_t value = draw(injector);
    return value < threshold || threshold == UINT64_MAX;
}

static bool threshold(double probability, uint64_t *out)
{
    if (!(probability >= 0 && probability <= 1))
        return false;
    *out = probability >= 1 ? UINT64_MAX : (uint64_t)(probability * 0x1p64);
    return true;
}

int zh_injector_create(const struct zh_fault *fault, uint64_t seed, struct rte_mempool *pool,
                       struct zh_injector **out)
{
    struct zh_injector *injector = calloc(1, sizeof *injector);
    if (!injector)
        return -ENOMEM;
    injector->fault = *fault;
    injector->pool = pool;
    injector->random = seed;
    if (!threshold(fault->loss, &injector->loss) ||
        !threshold(fault->duplicate, &injector->duplicate) ||
        !threshold(fault->corrupt, &injector->corrupt) ||
        !threshold(fault->reorder, &injector->reorder)) {
        free(injector);
        return -EINVAL;
    }
    injector->clean = !injector->loss && !injector->duplicate && !injector->corrupt &&
                      !injector->reorder && !fault->jitter && !fault->rate;
    if (fault->rate) {
        /* One more than may wait: the packet that is leaving. */
        injector->leaving_room = (fault->queue ? fault->queue : QUEUE_DEFAULT) + 1;
        injector->leaving = malloc(injector->leaving_room * sizeof *injector->leaving);
        if (!injector->leaving) {
            free(injector);
            return -ENOMEM;
        }
    }
    *out = injector;
    return 0;
}

void zh_injector_destroy(struct zh_injector *injector)
{
    if (!injector)
        return;
    for (int i = 0; i < 2; i++) {
        struct queue *queue = &injector->queue[i];
        for (uint32_t j = 0; j < queue->count; j++)
            rte_pktmbuf_free(queue->slots[(queue->first + j) & (queue->capacity - 1)].packet);
        free(queue->slots);
    }
    free(injector->leaving);
    free(injector);
}

static __rte_noinline bool grow(struct queue *queue)
{
    uint32_t capacity = queue->capacity ? queue->capacity * 2 : HELD_MIN;
    struct held *slots = malloc(capacity * sizeof *slots);
    if (!slots)
        return false;
    for (uint32_t i = 0; i < queue->count; i++)
        slots[i] = queue->slots[(queue->first + i) & (queue->capacity - 1)];
    free(queue->slots);
    *queue = (struct queue){.slots = slots, .count = queue->count, .capacity = capacity};
    return true;
}

static void push(struct zh_injector *injector, struct queue *queue, struct rte_mbuf *packet,
                 uint64_t due)
{
    if (queue->count == queue->capacity && !grow(queue)) {
        injector->stats.dropped++;
        rte_pktmbuf_free(packet);
        return;
    }
    queue->slots[(queue->first + queue->count++) & (queue->capacity - 1)] =
        (struct held){packet, due};
}

/* When the packet's last bit leaves; 0: the queue is full. */
static uint64_t leave(struct zh_injector *injector, uint32_t size, uint64_t now)
{
    while (injector->leaving_count && injector->leaving[injector->leaving_first] <= now) {
        injector->leaving_first = (injector->leaving_first + 1) % injector->leaving_room;
        injector->leaving_count--;
    }
    if (injector->leaving_count == injector->leaving_room)
        return 0;
    if (injector->free_at <= now) {
        injector->free_at = now;
        injector->remainder = 0;
    }
    unsigned __int128 time =
        (unsigned __int128)size * 8 * UINT64_C(1000000000) + injector->remainder;
    injector->free_at += (uint64_t)(time / injector->fault.rate);
    injector->remainder = (uint64_t)(time % injector->fault.rate);
    injector
        ->leaving[(injector->leaving_first + injector->leaving_count++) % injector->leaving_room] =
        injector->free_at;
    return injector->free_at;
}

static void flip_bit(struct zh_injector *injector, struct rte_mbuf *packet)
{
    if (packet->pkt_len <= ETHER_HEADER)
        return;
    uint64_t bit =
        ETHER_HEADER * 8 + draw_below(injector, (uint64_t)(packet->pkt_len - ETHER_HEADER) * 8);
    uint64_t byte = bit / 8;
    struct rte_mbuf *segment = packet;
    while (byte >= segment->data_len) {
        byte -= segment->data_len;
        segment = segment->next;
    }
    rte_pktmbuf_mtod(segment, uint8_t *)[byte] ^= (uint8_t)(1u << (bit % 8));
    injector->stats.corrupted++;
}

static void put_faulty(struct zh_injector *injector, struct rte_mbuf *packet, uint64_t now)
{
    const struct zh_fault *fault = &injector->fault;
    uint64_t left = now;
    if (fault->rate) {
        left = leave(injector, packet->pkt_len, now);
        if (!left) {
            injector->stats.dropped++;
            rte_pktmbuf_free(packet);
            return;
        }
    }
    if (happens(injector, injector->loss)) {
        injector->stats.lost++;
        rte_pktmbuf_free(packet);
        return;
    }
    uint64_t due = left + fault->delay;
    if (fault->jitter)
        due += draw_below(injector, fault->jitter + 1);
    if (due < injector->last_due)
        due = injector->last_due;
    injector->last_due = due;
    struct queue *queue = &injector->queue[0];
    if (happens(injector, injector->reorder)) {
        queue = &injector->queue[1];
        due += fault->reorder_delay;
        injector->stats.reordered++;
    }
    struct rte_mbuf *copy = NULL;
    if (happens(injector, injector->duplicate))
        copy = rte_pktmbuf_copy(packet, injector->pool, 0, UINT32_MAX);
    if (happens(injector, injector->corrupt))
        flip_bit(injector, packet);
    push(injector, queue, packet, due);
    if (copy) {
        injector->stats.duplicated++;
        push(injector, queue, copy, due);
    }
}

void zh_injector_put(struct zh_injector *injector, struct rte_mbuf *packet, uint64_t now)
{
    injector->stats.put++;
    if (injector->clean)
        push(injector, &injector->queue[0], packet, now + injector->fault.delay);
    else
        put_faulty(injector, packet, now);
}

uint64_t zh_injector_next(const struct zh_injector *injector)
{
    uint64_t next = UINT64_MAX;
    for (int i = 0; i < 2; i++) {
        const struct queue *queue = &injector->queue[i];
        if (queue->count && queue->slots[queue->first].due < next)
            next = queue->slots[queue->first].due;
    }
    return next;
}

static struct rte_mbuf *pop(struct queue *queue)
{
    struct rte_mbuf *packet = queue->slots[queue->first].packet;
    queue->first = (queue->first + 1) & (queue->capacity - 1);
    queue->count--;
    return packet;
}

uint16_t zh_injector_get(struct zh_injector *injector, struct rte_mbuf **packets, uint16_t count,
                         uint64_t now)
{
    struct queue *straight = &injector->queue[0], *held_back = &injector->queue[1];
    uint16_t got = 0;
    while (got < count) {
        uint64_t first = straight->count ? straight->slots[straight->first].due : UINT64_MAX;
        uint64_t second = held_back->count ? held_back->slots[held_back->first].due : UINT64_MAX;
        if (RTE_MIN(first, second) > now || (!straight->count && !held_back->count))
            break;
        packets[got++] = pop(first <= second ? straight : held_back);
    }
    injector->stats.got += got;
    return got;
}

void zh_injector_stats(const struct zh_injector *injector, struct zh_injector_stats *stats)
{
    *stats = injector->stats;
}
