/* The send queue: loans and who ends them, segments and where they end, and packets at random
 * beside the bytes that they must have. */
#include <string.h>
#include <sys/mman.h>

#include "harness.h"
#include "net/tcp_queue.h"
#include "packets.h"

static struct rte_mempool *pool;
static struct tcp_queue queue;
static int released[64];

enum { POOL = 1023, ROOM = 512 };

static void release(void *opaque)
{
    (*(int *)opaque)++;
}

static int append(int *counter, unsigned count, const struct iovec *pieces)
{
    const struct zh_stream_record record = {pieces, count, release, counter};
    return tcp_queue_append(&queue, &record);
}

static uint8_t bytes[1 << 20];

static void append_sizes(int *counter, unsigned count, const size_t *sizes)
{
    struct iovec pieces[8];
    uint64_t at = queue.end;
    for (unsigned i = 0; i < count; i++) {
        pieces[i] = (struct iovec){bytes + at, sizes[i]};
        at += sizes[i];
    }
    CHECK_EQ(append(counter, count, pieces), 0);
}

#define APPEND(counter, ...)                                                                       \
    append_sizes(counter, sizeof((size_t[]){__VA_ARGS__}) / sizeof(size_t), (size_t[]){__VA_ARGS__})

static struct rte_mbuf *header(void)
{
    struct rte_mbuf *m = rte_pktmbuf_alloc(pool);
    CHECK(m != NULL);
    memcpy(rte_pktmbuf_append(m, 4), "head", 4);
    return m;
}

/* The packet's bytes are the queue's from `offset` on. */
static void check_packet(const struct rte_mbuf *packet, uint64_t offset, uint32_t size)
{
    static uint8_t flat[65536 + 4];
    uint32_t n = 0;
    uint16_t segments = 0;
    for (const struct rte_mbuf *m = packet; m; m = m->next, segments++) {
        memcpy(flat + n, rte_pktmbuf_mtod(m, const void *), m->data_len);
        n += m->data_len;
    }
    CHECK_EQ(n, size + 4);
    CHECK_EQ(packet->pkt_len, n);
    CHECK_EQ(packet->nb_segs, segments);
    CHECK(memcmp(flat, "head", 4) == 0);
    CHECK(memcmp(flat + 4, bytes + offset, size) == 0);
}

static int attach(uint64_t offset, uint32_t size, uint16_t max_segments, struct rte_mbuf **packet)
{
    *packet = header();
    int result = tcp_queue_attach(&queue, offset, size, *packet, pool, max_segments);
    if (result >= 0)
        check_packet(*packet, offset, size);
    else
        CHECK(rte_pktmbuf_pkt_len(*packet) == 4 && (*packet)->nb_segs == 1 && !(*packet)->next);
    return result;
}

static void empty(void)
{
    tcp_queue_clear(&queue);
    CHECK(queue.chunks == NULL && queue.count == 0);
    CHECK_EQ(rte_mempool_avail_count(pool), POOL);
    queue = (struct tcp_queue){0};
    memset(released, 0, sizeof released);
}

/* Released once: acknowledged, and no packet left, in either order. */
static void test_release(void)
{
    struct rte_mbuf *a, *b;
    APPEND(&released[0], 400, 0, 600);
    APPEND(&released[1], 0, 0);
    CHECK_EQ(released[1], 1); /* empty */
    APPEND(&released[2], 1000);
    CHECK_EQ(queue.count, 3);
    CHECK_EQ(queue.end, 2000);
    CHECK_EQ(attach(300, 1000, 8, &a), 0); /* both records */
    CHECK_EQ(a->nb_segs, 4);
    CHECK_EQ(attach(300, 1000, 8, &b), 0);
    rte_pktmbuf_free(a);
    tcp_queue_drop(&queue, 999);
    CHECK_EQ(released[0], 0);
    tcp_queue_drop(&queue, 1500);
    CHECK_EQ(released[0], 0);
    rte_pktmbuf_free(b);
    CHECK_EQ(released[0], 1);
    CHECK_EQ(released[2], 0);
    tcp_queue_drop(&queue, 2000);
    CHECK_EQ(released[2], 1);
    CHECK(queue.chunks == NULL);
    APPEND(&released[3], 10);
    CHECK_EQ(queue.end, 2010);
    tcp_queue_clear(&queue);
    CHECK_EQ(released[3], 1);
    CHECK_EQ(released[0] + released[1] + released[2], 3);
    /* None wanted. */
    const struct iovec piece = {bytes, 5};
    const struct zh_stream_record record = {&piece, 1, NULL, NULL};
    CHECK_EQ(tcp_queue_append(&queue, &record), 0);
    empty();
}

static void test_attach(void)
{
    struct rte_mbuf *packet;
    APPEND(&released[0], 300, 10, 290, 400);
    CHECK_EQ(attach(100, TCP_COPY_MAX, 8, &packet), TCP_COPY_MAX);
    CHECK_EQ(packet->nb_segs, 1);
    rte_pktmbuf_free(packet);
    CHECK_EQ(attach(0, TCP_COPY_MAX + 1, 8, &packet), 0);
    CHECK_EQ(packet->nb_segs, 2);
    CHECK(rte_pktmbuf_mtod(packet->next, uint8_t *) == bytes);
    rte_pktmbuf_free(packet);
    CHECK_EQ(attach(0, 1000, 5, &packet), 0);
    CHECK_EQ(packet->nb_segs, 5);
    rte_pktmbuf_free(packet);
    /* One mbuf less: a copy, beside the header and in one more. */
    CHECK_EQ(attach(0, 1000, 4, &packet), 1000);
    CHECK_EQ(packet->nb_segs, 2);
    rte_pktmbuf_free(packet);
    CHECK_EQ(attach(0, 500, 1, &packet), 500);
    CHECK_EQ(packet->nb_segs, 1);
    rte_pktmbuf_free(packet);
    CHECK_EQ(attach(0, 600, 1, &packet), -EMSGSIZE);
    rte_pktmbuf_free(packet);
    empty();
}

static void test_exhausted(void)
{
    struct rte_mbuf *packet, *taken[POOL];
    APPEND(&released[0], 300, 300, 5000);
    CHECK_EQ(rte_pktmbuf_alloc_bulk(pool, taken, POOL - 2), 0);
    CHECK_EQ(attach(0, 600, 8, &packet), -ENOMEM);
    rte_pktmbuf_free(packet);
    rte_pktmbuf_free_bulk(taken, POOL - 2);
    CHECK_EQ(attach(0, 2000, 3, &packet), -EMSGSIZE); /* it would be four mbufs */
    rte_pktmbuf_free(packet);
    CHECK_EQ(attach(0, 2000, 4, &packet), 0);
    rte_pktmbuf_free(packet);
    /* The loan's count has 16 bits. */
    struct net_loan *loan = queue.chunks[0].loan;
    CHECK_EQ(rte_mbuf_ext_refcnt_read(&loan->shared), 1);
    rte_mbuf_ext_refcnt_set(&loan->shared, 64999);
    CHECK_EQ(attach(0, 600, 8, &packet), -EAGAIN); /* one of two */
    rte_pktmbuf_free(packet);
    CHECK_EQ(rte_mbuf_ext_refcnt_read(&loan->shared), 64999);
    CHECK_EQ(attach(700, 600, 8, &packet), 0);
    rte_pktmbuf_free(packet);
    rte_mbuf_ext_refcnt_set(&loan->shared, 1);
    empty();
}

static void test_copies(void)
{
    struct rte_mbuf *packet;
    long long first = 1024 - (long long)sizeof(struct net_loan);
    while (queue.end <= (uint64_t)first - 100)
        CHECK_EQ(tcp_queue_append_copy(&queue, bytes + queue.end, 100), 100);
    CHECK_EQ(queue.count, 1); /* one block that has 1 KiB with what is before it */
    while (queue.end < 2100)
        CHECK_EQ(tcp_queue_append_copy(&queue, bytes + queue.end, 100), 100);
    CHECK_EQ(queue.count, 2);
    CHECK_EQ(queue.chunks[0].size, first);
    CHECK_EQ(queue.chunks[1].loan->size, 2 * first);
    CHECK_EQ(tcp_queue_append_copy(&queue, bytes + queue.end, 200000), 200000);
    CHECK_EQ(queue.count, 6); /* 64 KiB each */
    CHECK_EQ(attach(1900, 1448, 8, &packet), 0);
    CHECK_EQ(packet->nb_segs, 3);
    tcp_queue_drop(&queue, 100000); /* the packet keeps its block */
    check_packet(packet, 1900, 1448);
    rte_pktmbuf_free(packet);
    /* A record between copies; the block's rest is not used after it. */
    APPEND(&released[0], 1000);
    CHECK_EQ(tcp_queue_append_copy(&queue, bytes + queue.end, 10), 10);
    CHECK_EQ(attach(queue.end - 1110, 1110, 8, &packet), 0);
    CHECK_EQ(packet->nb_segs, 4);
    rte_pktmbuf_free(packet);
    CHECK_EQ(tcp_queue_append_copy(&queue, bytes, 0), 0);
    empty();
}

static void test_segment(void)
{
    APPEND(&released[0], 1000);
    APPEND(&released[1], 20, 400);
    APPEND(&released[2], 28, 500);
    APPEND(&released[3], 4000);
    APPEND(&released[4], 700);
    CHECK_EQ(tcp_queue_segment(&queue, 0, 1448), 1420); /* the third would be cut */
    CHECK_EQ(tcp_queue_segment(&queue, 0, 1420), 1420); /* to the byte */
    CHECK_EQ(tcp_queue_segment(&queue, 0, 1419), 1000); /* nor the second */
    CHECK_EQ(tcp_queue_segment(&queue, 0, 1948), 1948); /* three */
    CHECK_EQ(tcp_queue_segment(&queue, 0, 500), 500);   /* larger than a segment */
    CHECK_EQ(tcp_queue_segment(&queue, 900, 500), 100); /* its rest, then one that would be cut */
    CHECK_EQ(tcp_queue_segment(&queue, 1420, 1448), 1448); /* one that is cut anyway */
    CHECK_EQ(tcp_queue_segment(&queue, 2868, 1448), 1448);
    CHECK_EQ(tcp_queue_segment(&queue, 5764, 1448), 884); /* all */
    CHECK_EQ(tcp_queue_segment(&queue, 5048, 1448), 900); /* the rest, not the last's half */
    CHECK_EQ(tcp_queue_segment(&queue, 900, 528), 520);   /* the next is of a segment's size, */
    CHECK_EQ(tcp_queue_segment(&queue, 900, 527), 527);   /* or one byte more */
    /* Copies have no boundaries but that before a record. */
    tcp_queue_append_copy(&queue, bytes + queue.end, 1000);
    tcp_queue_append_copy(&queue, bytes + queue.end, 1000);
    CHECK_EQ(tcp_queue_segment(&queue, 5948, 1448), 1448);
    APPEND(&released[5], 600);
    CHECK_EQ(tcp_queue_segment(&queue, 5948 + 700 + 1000, 1448), 1000);
    empty();
}

/* A record beyond 32 bits, of memory that is one page many times. */
static void test_huge(void)
{
    static const uint64_t size = UINT64_C(5) << 30;
    struct rte_mbuf *packet;
    uint8_t *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(data != MAP_FAILED);
    const struct iovec pieces[] = {{data, size}, {bytes, 1000}};
    CHECK_EQ(append(&released[0], 2, pieces), 0);
    CHECK_EQ(queue.end, size + 1000);
    CHECK_EQ(tcp_queue_segment(&queue, size - 500, 1448), 1448);
    packet = header();
    CHECK_EQ(tcp_queue_attach(&queue, size - 500, 1448, packet, pool, 8), 0);
    CHECK(rte_pktmbuf_mtod(packet->next, uint8_t *) == data + size - 500);
    CHECK_EQ(packet->next->data_len, 500);
    CHECK_EQ(packet->next->next->data_len, 948);
    tcp_queue_drop(&queue, size);
    rte_pktmbuf_free(packet);
    CHECK_EQ(released[0], 0);
    tcp_queue_drop(&queue, size + 1000);
    CHECK_EQ(released[0], 1);
    CHECK(munmap(data, size) == 0);
    empty();
}

/* Sends as a connection does: in order, now and then something again, acknowledged with gaps. */
static void run(uint64_t seed)
{
    uint64_t random = seed;
#define PICK(n) ((uint32_t)((random_next(&random) >> 16) % (n)))
    static int counters[4096];
    static uint64_t ends[4096];
    struct rte_mbuf *device[32] = {0};
    uint64_t una = 0, nxt = 0;
    uint32_t records = 0, mss = 100 + PICK(2000);
    memset(counters, 0, sizeof counters);
    while (queue.end < 300000 || una < queue.end) {
        uint32_t slot = PICK(32);
        switch (PICK(4)) {
        case 0:
            if (queue.end >= 300000)
                break;
            if (PICK(3) == 0) {
                uint32_t size = PICK(PICK(8) ? 300 : 9000);
                CHECK_EQ(tcp_queue_append_copy(&queue, bytes + queue.end, size), size);
            } else {
                size_t sizes[8];
                uint64_t before = queue.end;
                unsigned pieces = 1 + PICK(8);
                for (unsigned i = 0; i < pieces; i++)
                    sizes[i] = PICK(PICK(8) ? 300 : 5000);
                append_sizes(&counters[records], pieces, sizes);
                ends[records++] = queue.end > before ? queue.end : 0;
            }
            break;
        case 1:
            if (nxt < queue.end) {
                uint32_t n = tcp_queue_segment(&queue, nxt, mss);
                CHECK(n > 0 && n <= mss && nxt + n <= queue.end);
                rte_pktmbuf_free(device[slot]);
                CHECK(attach(nxt, n, (uint16_t)(5 + PICK(8)), &device[slot]) >= 0);
                nxt += n;
            }
            break;
        case 2:
            if (una < nxt) {
                uint64_t from = una + PICK((uint32_t)(nxt - una));
                uint32_t n = 1 + PICK(mss);
                n = from + n > nxt ? (uint32_t)(nxt - from) : n;
                rte_pktmbuf_free(device[slot]);
                CHECK(attach(from, n, (uint16_t)(5 + PICK(8)), &device[slot]) >= 0);
            }
            break;
        case 3:
            una += PICK((uint32_t)(nxt - una) + 1);
            tcp_queue_drop(&queue, una);
            CHECK((queue.chunks == NULL) == (una == queue.end));
            break;
        }
        for (uint32_t i = 0; i < records; i++)
            CHECK(counters[i] <= (ends[i] <= una));
    }
    for (uint32_t i = 0; i < 32; i++)
        rte_pktmbuf_free(device[i]);
    for (uint32_t i = 0; i < records; i++)
        CHECK_EQ(counters[i], 1);
    empty();
}

int main(void)
{
    start_eal();
    pool = packet_pool("packets", POOL, ROOM);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 2654435761u >> 24);
    test_release();
    test_attach();
    test_exhausted();
    test_copies();
    test_segment();
    test_huge();
    for (uint64_t seed = 1; seed <= 40; seed++)
        run(seed);
    return 0;
}
