/* The out-of-order queue: each case, then segments at random beside a model that knows of each byte
 * which segment brought it. */
#include <string.h>

#include "harness.h"
#include "net/tcp_reorder.h"
#include "packets.h"

static struct rte_mempool *pool;
static int meta;
static struct tcp_reorder reorder;

enum { POOL = 8191, ROOM = 256 };

/* A packet of `size` bytes `mark`, in chunks of `segment`. */
static struct rte_mbuf *packet_of(uint32_t size, uint8_t mark, uint32_t segment)
{
    struct rte_mbuf *first = NULL;
    while (size > 0) {
        uint32_t n = size < segment ? size : segment;
        struct rte_mbuf *m = rte_pktmbuf_alloc(pool);
        CHECK(m != NULL);
        memset(rte_pktmbuf_append(m, (uint16_t)n), mark, n);
        if (!first)
            first = m;
        else
            CHECK(rte_pktmbuf_chain(first, m) == 0);
        size -= n;
    }
    return first;
}

static int insert(uint32_t seq, uint32_t end, uint8_t mark)
{
    return tcp_reorder_insert(&reorder, meta, packet_of(end - seq, mark, 64), seq);
}

/* Free a list, copying its bytes out. */
static uint32_t read_list(struct rte_mbuf *head, struct rte_mbuf *tail, uint32_t seq, uint8_t *out)
{
    uint32_t bytes = 0;
    while (head) {
        struct tcp_meta m = *tcp_meta(head, meta);
        CHECK_EQ(m.seq, seq + bytes);
        CHECK_EQ(m.size, head->pkt_len);
        uint16_t segments = 0;
        uint32_t n = 0;
        for (struct rte_mbuf *s = head; s; s = s->next, segments++) {
            CHECK(s->data_len > 0);
            memcpy(out + bytes + n, rte_pktmbuf_mtod(s, void *), s->data_len);
            n += s->data_len;
        }
        CHECK_EQ(n, m.size);
        CHECK_EQ(segments, head->nb_segs);
        CHECK((m.next == NULL) == (head == tail));
        bytes += n;
        rte_pktmbuf_free(head);
        head = m.next;
    }
    return bytes;
}

/* What follows from `rcv_nxt` on, as a string of the packets' marks, one for each 10 bytes. */
static void pops(uint32_t rcv_nxt, const char *expected)
{
    static uint8_t bytes[4096];
    struct rte_mbuf *head, *tail;
    uint32_t start = rcv_nxt, n = tcp_reorder_pop(&reorder, meta, &rcv_nxt, &head, &tail);
    CHECK_EQ(rcv_nxt, start + n);
    CHECK_EQ(read_list(head, tail, start, bytes), n);
    CHECK_EQ(n, strlen(expected) * 10);
    for (uint32_t i = 0; i < n; i++)
        CHECK_EQ(bytes[i], expected[i / 10]);
}

static void sacks(unsigned most, unsigned count, const struct tcp_sack_block *expected)
{
    struct tcp_sack_block blocks[TCP_SACK_MAX];
    CHECK_EQ(tcp_reorder_sack(&reorder, blocks, most), count);
    for (unsigned i = 0; i < count; i++) {
        CHECK_EQ(blocks[i].start, expected[i].start);
        CHECK_EQ(blocks[i].end, expected[i].end);
    }
}

#define SACKS(most, ...)                                                                           \
    sacks(most, sizeof((struct tcp_sack_block[]){__VA_ARGS__}) / sizeof(struct tcp_sack_block),    \
          (struct tcp_sack_block[]){__VA_ARGS__})

static void empty(void)
{
    CHECK(reorder.runs == NULL && reorder.count == 0 && reorder.memory == 0);
    CHECK_EQ(rte_mempool_avail_count(pool), POOL);
}

/* RFC 2018 section 7, case 3 of its examples: segments of 500 bytes from 5000 on, of which every
 * second one is lost. */
static void test_rfc2018(void)
{
    insert(5500, 6000, 'b');
    SACKS(4, {5500, 6000});
    insert(6500, 7000, 'd');
    SACKS(4, {6500, 7000}, {5500, 6000});
    insert(7500, 8000, 'f');
    SACKS(4, {7500, 8000}, {6500, 7000}, {5500, 6000});
    insert(8500, 9000, 'h');
    SACKS(4, {8500, 9000}, {7500, 8000}, {6500, 7000}, {5500, 6000});
    SACKS(3, {8500, 9000}, {7500, 8000}, {6500, 7000});
    /* The fourth segment then arrives. */
    insert(6500 - 500, 6500, 'c');
    SACKS(4, {5500, 7000}, {8500, 9000}, {7500, 8000});
    tcp_reorder_drop(&reorder, meta);
    empty();
}

/* RFC 2883 section 4.1: duplicates of what lies in the queue. */
static void test_dsack(void)
{
    CHECK_EQ(insert(4000, 4500, 'x'), TCP_REORDER_ADDED);
    CHECK_EQ(insert(4000, 4500, 'y'), TCP_REORDER_DUPLICATE); /* 4.1.3 */
    SACKS(4, {4000, 4500}, {4000, 4500});
    SACKS(4, {4000, 4500}); /* once */
    /* 4.2.2: a part of a larger block. */
    CHECK_EQ(insert(4500, 5000, 'x'), TCP_REORDER_ADDED);
    CHECK_EQ(insert(4100, 4300, 'y'), TCP_REORDER_DUPLICATE);
    SACKS(1, {4100, 4300});
    CHECK_EQ(insert(4100, 4300, 'y'), TCP_REORDER_DUPLICATE);
    SACKS(4, {4100, 4300}, {4000, 5000});
    /* What came before rcv_nxt. */
    tcp_reorder_note_duplicate(&reorder, 1000, 1500);
    SACKS(2, {1000, 1500}, {4000, 5000});
    CHECK_EQ(insert(4900, 5100, 'y'), TCP_REORDER_ADDED);
    SACKS(2, {4900, 5000}, {4000, 5100});
    tcp_reorder_drop(&reorder, meta);
    sacks(4, 0, NULL);
    empty();
}

static void test_overlaps(void)
{
    /* What was there wins, before and behind. */
    insert(100, 200, 'a');
    CHECK_EQ(insert(50, 150, 'b'), TCP_REORDER_ADDED);
    CHECK_EQ(insert(150, 250, 'c'), TCP_REORDER_ADDED);
    CHECK_EQ(reorder.count, 1);
    pops(50, "bbbbbaaaaaaaaaaccccc");
    empty();
    /* Of a segment over two gaps the first is filled. */
    insert(100, 150, 'a');
    insert(200, 250, 'b');
    CHECK_EQ(insert(80, 300, 'c'), TCP_REORDER_ADDED);
    CHECK_EQ(reorder.count, 2);
    CHECK_EQ(insert(80, 300, 'd'), TCP_REORDER_ADDED);
    CHECK_EQ(reorder.count, 1);
    CHECK_EQ(insert(80, 300, 'e'), TCP_REORDER_ADDED);
    CHECK_EQ(insert(80, 300, 'f'), TCP_REORDER_DUPLICATE);
    pops(80, "ccaaaaadddddbbbbbeeeee");
    empty();
    /* rcv_nxt has gone over some: into a packet of several mbufs, past a run. */
    insert(100, 150, 'a');
    insert(200, 400, 'b');
    insert(500, 600, 'c');
    pops(90, "");
    CHECK_EQ(reorder.count, 3);
    pops(330, "bbbbbbb");
    CHECK_EQ(reorder.count, 1);
    SACKS(4, {200, 330}, {500, 600});
    pops(700, "");
    empty();
    /* Around the wrap. */
    insert(UINT32_MAX - 49, 50, 'a');
    insert(50, 150, 'b');
    pops(UINT32_MAX - 49, "aaaaaaaaaabbbbbbbbbb");
    empty();
}

static void test_limit(void)
{
    for (uint32_t i = TCP_RUNS_MAX; i > 0; i--)
        CHECK_EQ(insert(i * 100, i * 100 + 10, 'a'), TCP_REORDER_ADDED);
    CHECK_EQ(insert(50, 60, 'b'), TCP_REORDER_REFUSED);
    CHECK_EQ(insert(110, 120, 'b'), TCP_REORDER_ADDED);
    CHECK_EQ(reorder.memory,
             (TCP_RUNS_MAX + 1) * (ROOM + RTE_PKTMBUF_HEADROOM + sizeof(struct rte_mbuf)));
    CHECK_EQ(rte_mempool_in_use_count(pool), TCP_RUNS_MAX + 1);
    tcp_reorder_drop(&reorder, meta);
    empty();
}

/* --- the model ----------------------------------------------------------------------------------
 */

enum { SPAN = 4000 };

static uint8_t model[SPAN]; /* which segment brought it; 0: none */

static bool is_run(uint32_t start, uint32_t end)
{
    for (uint32_t i = start; i < end; i++)
        if (!model[i])
            return false;
    return start < end && end <= SPAN && (start == 0 || !model[start - 1]) &&
           (end == SPAN || !model[end]);
}

static uint32_t count_runs(void)
{
    uint32_t runs = 0;
    for (uint32_t i = 0; i < SPAN; i++)
        runs += model[i] && (i == 0 || !model[i - 1]);
    return runs;
}

static void run(uint64_t seed)
{
    uint64_t random = seed;
#define PICK(n) ((uint32_t)((random_next(&random) >> 16) % (n)))
    uint32_t base = (uint32_t)random_next(&random), rcv_nxt = 0, most = 20 + PICK(300);
    uint8_t out[SPAN];
    memset(model, 0, sizeof model);
    while (rcv_nxt < SPAN - 1) {
        if (PICK(8)) {
            uint32_t seq = rcv_nxt + 1 + PICK(SPAN - rcv_nxt - 1), end = seq + 1 + PICK(most);
            if (end > SPAN)
                end = SPAN;
            uint8_t mark = (uint8_t)(1 + PICK(255));
            /* The first part that is new, the first that is not. */
            uint32_t a = seq, b, d, e;
            while (a < end && model[a])
                a++;
            for (b = a; b < end && !model[b]; b++)
                ;
            for (d = seq; d < end && !model[d]; d++)
                ;
            for (e = d; e < end && model[e]; e++)
                ;
            enum tcp_reorder_result expected = TCP_REORDER_ADDED;
            if (a == b)
                expected = TCP_REORDER_DUPLICATE;
            else if (!model[a - 1] && (b == SPAN || !model[b]) && count_runs() == TCP_RUNS_MAX)
                expected = TCP_REORDER_REFUSED;
            CHECK_EQ(tcp_reorder_insert(&reorder, meta, packet_of(end - seq, mark, 1 + PICK(ROOM)),
                                        base + seq),
                     expected);
            if (expected == TCP_REORDER_ADDED)
                memset(model + a, mark, b - a);
            struct tcp_sack_block blocks[TCP_SACK_MAX];
            unsigned room = 1 + PICK(4), count = tcp_reorder_sack(&reorder, blocks, room), i = 0;
            if (expected != TCP_REORDER_REFUSED && d < e) {
                CHECK_EQ(blocks[0].start - base, d);
                CHECK_EQ(blocks[0].end - base, e);
                i = 1;
            }
            uint32_t runs = count_runs() + i;
            CHECK_EQ(count, runs < room ? runs : room);
            for (unsigned first = i; i < count; i++) {
                CHECK(is_run(blocks[i].start - base, blocks[i].end - base));
                for (unsigned j = first; j < i; j++)
                    CHECK(blocks[j].start != blocks[i].start);
                /* The run with this segment is the first. */
                if (i == first && expected != TCP_REORDER_REFUSED) {
                    uint32_t byte = expected == TCP_REORDER_ADDED ? a : seq;
                    CHECK(seq_between(base + byte, blocks[i].start, blocks[i].end));
                }
            }
        } else {
            rcv_nxt += 1 + PICK(SPAN - rcv_nxt < most ? SPAN - rcv_nxt : most);
            memset(model, 0, rcv_nxt);
            uint32_t n = 0, next = base + rcv_nxt;
            while (rcv_nxt + n < SPAN && model[rcv_nxt + n])
                n++;
            struct rte_mbuf *head, *tail;
            CHECK_EQ(tcp_reorder_pop(&reorder, meta, &next, &head, &tail), n);
            CHECK_EQ(next, base + rcv_nxt + n);
            CHECK_EQ(read_list(head, tail, base + rcv_nxt, out), n);
            CHECK(memcmp(out, model + rcv_nxt, n) == 0);
            rcv_nxt += n;
            memset(model, 0, rcv_nxt);
            struct tcp_sack_block block;
            tcp_reorder_sack(&reorder, &block, 1); /* a duplicate that was noted */
        }
        CHECK_EQ(reorder.count, count_runs());
        CHECK_EQ(reorder.memory, rte_mempool_in_use_count(pool) *
                                     (ROOM + RTE_PKTMBUF_HEADROOM + sizeof(struct rte_mbuf)));
    }
    tcp_reorder_drop(&reorder, meta);
    empty();
}

int main(void)
{
    start_eal();
    pool = packet_pool("packets", POOL, ROOM);
    meta = tcp_meta_register();
    CHECK(meta > 0);
    CHECK_EQ(tcp_meta_register(), meta);
    test_rfc2018();
    test_dsack();
    test_overlaps();
    test_limit();
    for (uint64_t seed = 1; seed <= 200; seed++)
        run(seed);
    return 0;
}
