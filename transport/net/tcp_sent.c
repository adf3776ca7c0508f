/* The ring of transmitted segments. `first` and `lost_hint` run freely modulo 2^32; a record's
 * place is theirs modulo the capacity, a power of two. */
#include "tcp_sent.h"

#include <stdlib.h>

enum { CAPACITY_MIN = 8 };

int tcp_sent_grow(struct tcp_sent_ring *ring, uint32_t more)
{
    uint32_t capacity = ring->capacity ? ring->capacity : CAPACITY_MIN;
    while (capacity - ring->count < more)
        capacity *= 2;
    struct tcp_sent *records = malloc(capacity * sizeof *records);
    if (!records)
        return -ENOMEM;
    for (uint32_t i = 0; i < ring->count; i++)
        records[(ring->first + i) & (capacity - 1)] = *tcp_sent_at(ring, i);
    free(ring->records);
    ring->records = records;
    ring->capacity = capacity;
    return 0;
}

int tcp_sent_add(struct tcp_sent_ring *ring, uint32_t seq, uint32_t end, uint8_t flags,
                 uint64_t now)
{
    int error = tcp_sent_reserve(ring, 1);
    if (error)
        return error;
    *tcp_sent_at(ring, ring->count++) = (struct tcp_sent){
        .sent_at = now, .seq = seq, .end = end, .flags = flags, .transmissions = 1};
    return 0;
}

void tcp_sent_retransmitted(struct tcp_sent_ring *ring, struct tcp_sent *record, uint64_t now)
{
    if (record->flags & TCP_SENT_LOST)
        ring->bytes_lost -= tcp_sent_size(record);
    record->flags = (uint8_t)((record->flags & ~TCP_SENT_LOST) | TCP_SENT_RETRANSMITTED);
    record->sent_at = now;
    if (record->transmissions < UINT8_MAX)
        record->transmissions++;
}

int tcp_sent_split(struct tcp_sent_ring *ring, uint32_t i, uint32_t seq)
{
    int error = tcp_sent_reserve(ring, 1);
    if (error)
        return error;
    ring->count++;
    for (uint32_t to = ring->count - 1; to > i; to--)
        *tcp_sent_at(ring, to) = *tcp_sent_at(ring, to - 1);
    /* What skips over it skips one less than it might. */
    struct tcp_sent *left = tcp_sent_at(ring, i), *right = tcp_sent_at(ring, i + 1);
    left->end = right->seq = seq;
    left->flags &= (uint8_t)~TCP_SENT_FIN;
    right->flags &= (uint8_t)~TCP_SENT_SYN;
    if (left->flags & TCP_SENT_SACKED)
        ring->records_sacked++;
    return 0;
}

static void delivered_now(const struct tcp_sent *record, struct tcp_delivered *delivered,
                          tcp_sent_each each, void *context)
{
    if (record->flags & TCP_SENT_RETRANSMITTED)
        delivered->retransmitted = true;
    else if (record->sent_at > delivered->sent_at)
        delivered->sent_at = record->sent_at;
    if (each)
        each(context, record);
}

void tcp_sent_ack(struct tcp_sent_ring *ring, uint32_t ack, struct tcp_delivered *delivered,
                  tcp_sent_each each, void *context)
{
    while (ring->count > 0) {
        struct tcp_sent *record = tcp_sent_at(ring, 0);
        bool whole = seq_leq(record->end, ack);
        if (!whole && seq_leq(ack, record->seq))
            return;
        uint32_t size = (whole ? record->end : ack) - record->seq;
        delivered->acked += size;
        if (record->flags & TCP_SENT_SACKED) {
            ring->bytes_sacked -= size;
            ring->records_sacked -= whole;
        } else {
            delivered->delivered += size;
            if (whole)
                delivered_now(record, delivered, each, context);
        }
        if (record->flags & TCP_SENT_LOST)
            ring->bytes_lost -= size;
        if (!whole) {
            record->seq = ack;
            record->flags &= (uint8_t)~TCP_SENT_SYN;
            return;
        }
        ring->first++;
        ring->count--;
    }
    tcp_sent_free(ring);
}

/* The first record that begins at `seq` or later; count: none does. */
static uint32_t find(const struct tcp_sent_ring *ring, uint32_t seq)
{
    uint32_t low = 0, high = ring->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (seq_lt(tcp_sent_at(ring, middle)->seq, seq))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void sack_one(struct tcp_sent_ring *ring, const struct tcp_sack_block *block,
                     struct tcp_delivered *delivered, tcp_sent_each each, void *context)
{
    uint32_t i = find(ring, block->start);
    for (; (i = tcp_sent_skip_sacked(ring, i)) < ring->count; i++) {
        struct tcp_sent *record = tcp_sent_at(ring, i);
        if (seq_gt(record->end, block->end))
            return;
        uint32_t size = tcp_sent_size(record);
        delivered->sacked += size;
        delivered->delivered += size;
        delivered_now(record, delivered, each, context);
        if (record->flags & TCP_SENT_LOST)
            ring->bytes_lost -= size;
        ring->bytes_sacked += size;
        ring->records_sacked++;
        record->flags = (uint8_t)((record->flags & ~TCP_SENT_LOST) | TCP_SENT_SACKED);
    }
}

void tcp_sent_sack(struct tcp_sent_ring *ring, const struct tcp_sack_block *blocks, unsigned count,
                   struct tcp_delivered *delivered, tcp_sent_each each, void *context)
{
    struct tcp_sack_block sorted[TCP_SACK_MAX];
    unsigned used = 0;
    if (ring->count == 0)
        return;
    uint32_t start = tcp_sent_at(ring, 0)->seq, end = tcp_sent_at(ring, ring->count - 1)->end;
    for (unsigned i = 0; i < count && used < TCP_SACK_MAX; i++) {
        /* Acknowledged already, or a D-SACK; of what was never sent; reversed. */
        if (!seq_lt(start, blocks[i].end) || !seq_leq(blocks[i].end, end) ||
            !seq_lt(blocks[i].start, blocks[i].end))
            continue;
        unsigned at = used++;
        for (; at > 0 && seq_gt(sorted[at - 1].start, blocks[i].start); at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = blocks[i];
    }
    for (unsigned i = 0; i < used; i++) {
        sorted[i].start = seq_max(sorted[i].start, start);
        sack_one(ring, &sorted[i], delivered, each, context);
    }
}

void tcp_sent_forget_sacked(struct tcp_sent_ring *ring)
{
    for (uint32_t i = 0; i < ring->count; i++) {
        tcp_sent_at(ring, i)->flags &= (uint8_t)~TCP_SENT_SACKED;
        tcp_sent_at(ring, i)->skip = 0;
    }
    ring->bytes_sacked = ring->records_sacked = 0;
}

/* The free-running place of a record of the ring. */
static uint32_t place_of(const struct tcp_sent_ring *ring, const struct tcp_sent *record)
{
    uint32_t slot = (uint32_t)(record - ring->records);
    return ring->first + ((slot - ring->first) & (ring->capacity - 1));
}

uint32_t tcp_sent_lose(struct tcp_sent_ring *ring, struct tcp_sent *record)
{
    if (record->flags & (TCP_SENT_SACKED | TCP_SENT_LOST))
        return 0;
    uint32_t place = place_of(ring, record);
    if (ring->bytes_lost == 0 || (int32_t)(place - ring->lost_hint) < 0)
        ring->lost_hint = place;
    record->flags |= TCP_SENT_LOST;
    ring->bytes_lost += tcp_sent_size(record);
    return tcp_sent_size(record);
}

uint32_t tcp_sent_lose_all(struct tcp_sent_ring *ring)
{
    uint32_t lost = 0;
    for (uint32_t i = 0; i < ring->count; i++)
        lost += tcp_sent_lose(ring, tcp_sent_at(ring, i));
    return lost;
}

void tcp_sent_recover_all(struct tcp_sent_ring *ring)
{
    if (ring->bytes_lost == 0)
        return;
    for (uint32_t i = 0; i < ring->count; i++)
        tcp_sent_at(ring, i)->flags &= (uint8_t)~TCP_SENT_LOST;
    ring->bytes_lost = 0;
}

struct tcp_sent *tcp_sent_next_lost(struct tcp_sent_ring *ring, uint32_t *i)
{
    if (ring->bytes_lost == 0)
        return NULL;
    /* No record before the hint is lost; ACKs may have passed it. */
    uint32_t from = ring->lost_hint - ring->first;
    *i = (int32_t)from < 0 ? 0 : from;
    for (; (*i = tcp_sent_skip_sacked(ring, *i)) < ring->count; (*i)++) {
        struct tcp_sent *record = tcp_sent_at(ring, *i);
        if (record->flags & TCP_SENT_LOST) {
            ring->lost_hint = ring->first + *i;
            return record;
        }
    }
    return NULL;
}

void tcp_sent_free(struct tcp_sent_ring *ring)
{
    free(ring->records);
    *ring = (struct tcp_sent_ring){0};
}
