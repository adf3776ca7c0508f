/* The send queue: a ring of chunks, each a run of a record's or a copy's memory.
 *
 * The chunks of a loan follow one another, so that the queue needs one count of it, not one a
 * chunk: the last chunk's. A loan's count has 16 bits (struct rte_mbuf_ext_shared_info). */
#include "tcp_queue.h"

#include <stdlib.h>

enum {
    CAPACITY_MIN = 4,
    /* Bytes of a block for copies: twice the last one's, while there is one. The first has the size
     * up to which malloc keeps what is freed at hand: a request and its reply need no more. */
    COPY_MIN = 1024 - sizeof(struct net_loan),
    COPY_MAX = 65536,
    LOAN_MAX = 65000, /* packets that refer to a loan: the count ends at 65,535 */
};

static struct tcp_chunk *chunk_at(const struct tcp_queue *queue, uint32_t i)
{
    return &queue->chunks[(queue->first + i) & (queue->capacity - 1)];
}

/* --- loans --------------------------------------------------------------------------------------
 */

/* Of the last who lets go: the queue, or a packet that a device has sent. */
static void loan_free(void *address, void *opaque)
{
    struct net_loan *loan = opaque;
    (void)address;
    if (loan->release)
        loan->release(loan->opaque);
    free(loan);
}

static struct net_loan *loan_new(uint32_t size, void (*release)(void *), void *opaque)
{
    struct net_loan *loan = malloc(sizeof *loan + size);
    if (!loan)
        return NULL;
    loan->shared.free_cb = loan_free;
    loan->shared.fcb_opaque = loan;
    rte_mbuf_ext_refcnt_set(&loan->shared, 1);
    loan->release = release;
    loan->opaque = opaque;
    loan->used = 0;
    loan->size = size;
    return loan;
}

static void loan_put(struct net_loan *loan)
{
    if (rte_mbuf_ext_refcnt_update(&loan->shared, -1) == 0)
        loan_free(NULL, loan);
}

/* --- filling and emptying -----------------------------------------------------------------------
 */

static int reserve(struct tcp_queue *queue, uint32_t more)
{
    if (more <= queue->capacity - queue->count)
        return 0;
    if (more > UINT32_MAX / 4 || queue->count > UINT32_MAX / 4)
        return -ENOMEM;
    uint32_t capacity = queue->capacity ? queue->capacity : CAPACITY_MIN;
    while (capacity - queue->count < more)
        capacity *= 2;
    struct tcp_chunk *chunks = malloc(capacity * sizeof *chunks);
    if (!chunks)
        return -ENOMEM;
    for (uint32_t i = 0; i < queue->count; i++)
        chunks[(queue->first + i) & (capacity - 1)] = *chunk_at(queue, i);
    free(queue->chunks);
    queue->chunks = chunks;
    queue->capacity = capacity;
    return 0;
}

static void free_ring(struct tcp_queue *queue)
{
    free(queue->chunks);
    *queue = (struct tcp_queue){.end = queue->end};
}

static void add(struct tcp_queue *queue, const void *data, uint64_t size, struct net_loan *loan)
{
    *chunk_at(queue, queue->count++) =
        (struct tcp_chunk){.start = queue->end, .data = data, .size = size, .loan = loan};
    queue->end += size;
}

int tcp_queue_append(struct tcp_queue *queue, const struct zh_stream_record *record)
{
    uint32_t used = 0;
    for (unsigned i = 0; i < record->piece_count; i++)
        used += record->pieces[i].iov_len > 0;
    if (used == 0) {
        if (record->release)
            record->release(record->opaque);
        return 0;
    }
    int error = reserve(queue, used);
    struct net_loan *loan = error ? NULL : loan_new(0, record->release, record->opaque);
    if (!loan) {
        if (queue->count == 0)
            free_ring(queue);
        return -ENOMEM;
    }
    /* Copied bytes before it are no part of it. */
    if (queue->count > 0)
        chunk_at(queue, queue->count - 1)->record_end = true;
    for (unsigned i = 0; i < record->piece_count; i++)
        if (record->pieces[i].iov_len > 0)
            add(queue, record->pieces[i].iov_base, record->pieces[i].iov_len, loan);
    chunk_at(queue, queue->count - 1)->record_end = true;
    return 0;
}

/* A block with room for copies that is the queue's last chunk; NULL: no memory. */
static struct tcp_chunk *copy_block(struct tcp_queue *queue, size_t size)
{
    size_t wanted = COPY_MIN;
    if (queue->count > 0) {
        struct tcp_chunk *last = chunk_at(queue, queue->count - 1);
        if (last->loan->used < last->loan->size)
            return last;
        wanted = last->loan->size ? last->loan->size * (size_t)2 : COPY_MIN;
    }
    wanted = RTE_MIN(RTE_MAX(wanted, size), (size_t)COPY_MAX);
    struct net_loan *loan = reserve(queue, 1) ? NULL : loan_new((uint32_t)wanted, NULL, NULL);
    if (!loan)
        return NULL;
    add(queue, loan->copy, 0, loan);
    return chunk_at(queue, queue->count - 1);
}

ssize_t tcp_queue_append_copy(struct tcp_queue *queue, const void *data, size_t size)
{
    size_t taken = 0;
    while (taken < size) {
        struct tcp_chunk *chunk = copy_block(queue, size - taken);
        if (!chunk) {
            if (queue->count == 0)
                free_ring(queue);
            return taken ? (ssize_t)taken : -ENOMEM;
        }
        struct net_loan *loan = chunk->loan;
        uint32_t n = (uint32_t)RTE_MIN(size - taken, (size_t)(loan->size - loan->used));
        memcpy(loan->copy + loan->used, (const uint8_t *)data + taken, n);
        loan->used += n;
        chunk->size += n;
        queue->end += n;
        taken += n;
    }
    return (ssize_t)taken;
}

static void drop_first(struct tcp_queue *queue)
{
    struct net_loan *loan = chunk_at(queue, 0)->loan;
    queue->first++;
    queue->count--;
    if (queue->count == 0)
        free_ring(queue);
    else if (chunk_at(queue, 0)->loan == loan)
        return;
    loan_put(loan);
}

void tcp_queue_drop(struct tcp_queue *queue, uint64_t offset)
{
    while (queue->count > 0) {
        const struct tcp_chunk *chunk = chunk_at(queue, 0);
        if (chunk->start + chunk->size > offset)
            return;
        drop_first(queue);
    }
}

void tcp_queue_clear(struct tcp_queue *queue)
{
    tcp_queue_drop(queue, UINT64_MAX);
}

/* --- reading ------------------------------------------------------------------------------------
 */

static bool holds(const struct tcp_queue *queue, uint32_t i, uint64_t offset)
{
    return i < queue->count && offset - chunk_at(queue, i)->start < chunk_at(queue, i)->size;
}

/* The chunk with a byte of the queue: mostly the one that was looked for last, or its successor. */
static uint32_t find(struct tcp_queue *queue, uint64_t offset)
{
    uint32_t low = queue->hint - queue->first, high = queue->count;
    if (!holds(queue, low, offset) && !holds(queue, ++low, offset)) {
        for (low = 0; high - low > 1;) {
            uint32_t middle = low + (high - low) / 2;
            if (chunk_at(queue, middle)->start <= offset)
                low = middle;
            else
                high = middle;
        }
    }
    queue->hint = queue->first + low;
    return low;
}

uint32_t tcp_queue_segment(struct tcp_queue *queue, uint64_t offset, uint32_t mss)
{
    if (queue->end - offset <= mss)
        return (uint32_t)(queue->end - offset);
    uint64_t limit = offset + mss, boundary = offset;
    for (uint32_t i = find(queue, offset); i < queue->count; i++) {
        const struct tcp_chunk *chunk = chunk_at(queue, i);
        uint64_t end = chunk->start + chunk->size;
        /* The record that begins at the boundary is larger than a segment, or ends beyond the limit
         * and is not. */
        if (end - boundary > mss)
            break;
        if (chunk->record_end) {
            if (end > limit)
                return (uint32_t)(boundary - offset);
            boundary = end;
        }
    }
    return mss;
}

/* Where a copy has got to. */
struct reader {
    const struct tcp_queue *queue;
    uint32_t chunk;
    uint64_t offset;
};

static void read_out(struct reader *reader, uint8_t *out, uint32_t size)
{
    while (size > 0) {
        const struct tcp_chunk *chunk = chunk_at(reader->queue, reader->chunk);
        uint64_t skip = reader->offset - chunk->start;
        uint32_t n = (uint32_t)RTE_MIN((uint64_t)size, chunk->size - skip);
        memcpy(out, chunk->data + skip, n);
        out += n;
        reader->offset += n;
        size -= n;
        if (skip + n == chunk->size)
            reader->chunk++;
    }
}

/* A chain of mbufs that is put behind a packet once it is complete. */
struct chain {
    struct rte_mbuf *first, *last;
    uint16_t segments;
};

static struct rte_mbuf *extend(struct chain *chain, struct rte_mempool *pool)
{
    struct rte_mbuf *m = rte_pktmbuf_alloc(pool);
    if (!m)
        return NULL;
    if (chain->first)
        chain->last->next = m;
    else
        chain->first = m;
    chain->last = m;
    chain->segments++;
    return m;
}

/* `last` is the packet's last mbuf. */
static void join(struct rte_mbuf *packet, struct rte_mbuf *last, const struct chain *chain,
                 uint32_t size)
{
    last->next = chain->first;
    packet->nb_segs = (uint16_t)(packet->nb_segs + chain->segments);
    packet->pkt_len += size;
}

static int attach_copy(struct reader *reader, uint32_t size, struct rte_mbuf *packet,
                       struct rte_mempool *pool, uint16_t max_segments)
{
    struct rte_mbuf *last = rte_pktmbuf_lastseg(packet);
    uint8_t *tail = rte_pktmbuf_mtod_offset(last, uint8_t *, last->data_len);
    uint32_t beside = RTE_MIN(size, (uint32_t)rte_pktmbuf_tailroom(last));
    struct chain chain = {0};

    read_out(reader, tail, beside);
    for (uint32_t done = beside; done < size;) {
        bool many = packet->nb_segs + chain.segments >= max_segments;
        struct rte_mbuf *m = many ? NULL : extend(&chain, pool);
        if (!m) {
            rte_pktmbuf_free(chain.first);
            return many ? -EMSGSIZE : -ENOMEM;
        }
        /* No header goes before it: the headroom is room too. */
        m->data_off = 0;
        m->data_len = (uint16_t)RTE_MIN(size - done, (uint32_t)m->buf_len);
        read_out(reader, rte_pktmbuf_mtod(m, uint8_t *), m->data_len);
        done += m->data_len;
    }
    last->data_len = (uint16_t)(last->data_len + beside);
    join(packet, last, &chain, size);
    return (int)size;
}

int tcp_queue_attach(struct tcp_queue *queue, uint64_t offset, uint32_t size,
                     struct rte_mbuf *packet, struct rte_mempool *pool, uint16_t max_segments)
{
    uint32_t first = find(queue, offset), pieces = 1;
    uint64_t end = offset + size;
    while (first + pieces < queue->count && chunk_at(queue, first + pieces)->start < end)
        pieces++;
    if (size <= TCP_COPY_MAX || packet->nb_segs + pieces > max_segments) {
        struct reader reader = {queue, first, offset};
        return attach_copy(&reader, size, packet, pool, max_segments);
    }

    struct chain chain = {0};
    for (uint32_t i = first; offset < end; i++) {
        struct tcp_chunk *chunk = chunk_at(queue, i);
        uint64_t skip = offset - chunk->start;
        uint16_t n = (uint16_t)RTE_MIN(end - offset, chunk->size - skip);
        uint8_t *data = (uint8_t *)(uintptr_t)(chunk->data + skip);
        bool full = rte_mbuf_ext_refcnt_read(&chunk->loan->shared) >= LOAN_MAX;
        struct rte_mbuf *m = full ? NULL : extend(&chain, pool);
        if (!m) {
            rte_pktmbuf_free(chain.first);
            return full ? -EAGAIN : -ENOMEM;
        }
        /* Attaching does not count. Addresses are virtual: ports that do DMA need IOVA as VA. */
        rte_mbuf_ext_refcnt_update(&chunk->loan->shared, 1);
        rte_pktmbuf_attach_extbuf(m, data, (rte_iova_t)(uintptr_t)data, n, &chunk->loan->shared);
        m->data_len = n;
        offset += n;
    }
    join(packet, rte_pktmbuf_lastseg(packet), &chain, size);
    return 0;
}
