/* The fault injector: shares, times and order are as configured, the seed decides all, and every
 * packet is accounted for. */
#include <errno.h>
#include <rte_mbuf.h>
#include <string.h>

#include "check.h"
#include "zerohop/port.h"

enum { COUNT = 20000, SIZE = 100, STEP = 1000 };

static struct rte_mempool *pool;

/* What became of a packet. */
struct arrival {
    uint64_t at;
    uint32_t number;
    uint32_t sum; /* of its bytes */
};

static struct arrival arrivals[2 * COUNT];
static unsigned arrived;

static struct zh_injector *make(const struct zh_fault *fault, uint64_t seed)
{
    struct zh_injector *injector = NULL;
    CHECK_EQ(zh_injector_create(fault, seed, pool, &injector), 0);
    return injector;
}

static struct rte_mbuf *make_packet(uint32_t number, uint16_t size)
{
    struct rte_mbuf *packet = rte_pktmbuf_alloc(pool);
    CHECK(packet);
    uint8_t *data = (uint8_t *)rte_pktmbuf_append(packet, size);
    CHECK(data);
    memset(data, 0, size);
    memcpy(data, &number, sizeof number);
    return packet;
}

static void take(struct zh_injector *injector, uint64_t now)
{
    struct rte_mbuf *packets[8];
    uint16_t got;
    while ((got = zh_injector_get(injector, packets, 8, now)) > 0) {
        for (uint16_t i = 0; i < got; i++) {
            struct arrival *arrival = &arrivals[arrived++];
            const uint8_t *data = rte_pktmbuf_mtod(packets[i], const uint8_t *);
            *arrival = (struct arrival){.at = now};
            memcpy(&arrival->number, data, sizeof arrival->number);
            for (unsigned j = 4; j < packets[i]->pkt_len; j++)
                arrival->sum += data[j];
            rte_pktmbuf_free(packets[i]);
        }
    }
}

/* Puts COUNT packets, one a microsecond, and takes each exactly when it is due. */
static struct zh_injector_stats run(const struct zh_fault *fault, uint64_t seed)
{
    struct zh_injector *injector = make(fault, seed);
    struct zh_injector_stats stats;
    arrived = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        uint64_t now = (uint64_t)(i + 1) * STEP, next;
        while ((next = zh_injector_next(injector)) < now) {
            unsigned before = arrived;
            take(injector, next - 1);
            CHECK_EQ(arrived, before); /* not before its time */
            take(injector, next);
            CHECK(arrived > before); /* and at its time */
        }
        zh_injector_put(injector, make_packet(i, SIZE), now);
    }
    for (uint64_t next; (next = zh_injector_next(injector)) != UINT64_MAX;)
        take(injector, next);
    zh_injector_stats(injector, &stats);
    CHECK_EQ(stats.put, COUNT);
    CHECK_EQ(stats.got, arrived);
    CHECK_EQ(stats.put + stats.duplicated, stats.got + stats.lost + stats.dropped);
    zh_injector_destroy(injector);
    CHECK_EQ(rte_mempool_in_use_count(pool), 0);
    return stats;
}

static bool near(uint64_t value, double expected)
{
    return (double)value > 0.9 * expected && (double)value < 1.1 * expected;
}

static void test_nothing(void)
{
    struct zh_injector_stats stats = run(&(struct zh_fault){0}, 1);
    CHECK_EQ(arrived, COUNT);
    CHECK_EQ(stats.lost + stats.duplicated + stats.corrupted + stats.reordered + stats.dropped, 0);
    for (uint32_t i = 0; i < COUNT; i++) {
        CHECK_EQ(arrivals[i].number, i);
        CHECK_EQ(arrivals[i].at, (uint64_t)(i + 1) * STEP);
        CHECK_EQ(arrivals[i].sum, 0);
    }
}

static void test_loss(void)
{
    struct zh_injector_stats stats = run(&(struct zh_fault){.loss = 0.1}, 2);
    CHECK(near(stats.lost, 0.1 * COUNT));
    /* Losses are independent: of those that follow a loss a tenth is lost too. */
    unsigned pairs = 0;
    for (unsigned i = 1; i < arrived; i++)
        if (arrivals[i].number - arrivals[i - 1].number >= 3)
            pairs++;
    CHECK(pairs > 0.8 * 0.01 * COUNT * 0.9 && pairs < 1.2 * 0.01 * COUNT * 0.9);
    CHECK_EQ(run(&(struct zh_fault){.loss = 1}, 2).lost, COUNT);
    CHECK_EQ(run(&(struct zh_fault){.loss = 0}, 2).lost, 0);
}

static void test_duplicates(void)
{
    struct zh_injector_stats stats = run(&(struct zh_fault){.duplicate = 0.2}, 3);
    unsigned twice = 0;
    CHECK(near(stats.duplicated, 0.2 * COUNT));
    for (unsigned i = 1; i < arrived; i++)
        twice += arrivals[i].number == arrivals[i - 1].number;
    CHECK_EQ(twice, stats.duplicated);
    CHECK_EQ(arrived, COUNT + twice);
}

/* One bit, never in the Ethernet header, anywhere behind it; in chains too. */
static void test_corruption(void)
{
    struct zh_injector_stats stats = run(&(struct zh_fault){.corrupt = 0.3}, 4);
    unsigned changed = 0;
    CHECK(near(stats.corrupted, 0.3 * COUNT));
    for (unsigned i = 0; i < arrived; i++) {
        uint32_t sum = arrivals[i].sum;
        CHECK_EQ(arrivals[i].number, i);
        CHECK((sum & (sum - 1)) == 0 && sum <= 128);
        changed += sum != 0;
    }
    CHECK_EQ(changed, stats.corrupted);

    struct zh_injector *injector = make(&(struct zh_fault){.corrupt = 1}, 5);
    bool hit[40] = {0};
    for (unsigned i = 0; i < 4000; i++) {
        struct rte_mbuf *packet = make_packet(0, 18), *tail = make_packet(0, 22), *got;
        CHECK_EQ(rte_pktmbuf_chain(packet, tail), 0);
        zh_injector_put(injector, packet, 1);
        CHECK_EQ(zh_injector_get(injector, &got, 1, 1), 1);
        for (unsigned j = 0; j < 40; j++)
            hit[j] |= *(j < 18 ? rte_pktmbuf_mtod_offset(got, uint8_t *, j)
                               : rte_pktmbuf_mtod_offset(got->next, uint8_t *, j - 18)) != 0;
        rte_pktmbuf_free(got);
    }
    for (unsigned j = 0; j < 40; j++)
        CHECK_EQ(hit[j], j >= 14);
    struct rte_mbuf *tiny = make_packet(0, 14), *got;
    zh_injector_put(injector, tiny, 1);
    CHECK_EQ(zh_injector_get(injector, &got, 1, 1), 1);
    rte_pktmbuf_free(got);
    zh_injector_destroy(injector);
}

static void test_delay(void)
{
    run(&(struct zh_fault){.delay = 12345}, 6);
    for (uint32_t i = 0; i < COUNT; i++)
        CHECK_EQ(arrivals[i].at, (uint64_t)(i + 1) * STEP + 12345);

    /* Jitter spreads and keeps the order. */
    run(&(struct zh_fault){.delay = 5000, .jitter = 20000}, 7);
    uint64_t least = UINT64_MAX, most = 0;
    CHECK_EQ(arrived, COUNT);
    for (uint32_t i = 0; i < COUNT; i++) {
        uint64_t took = arrivals[i].at - (uint64_t)(i + 1) * STEP;
        CHECK_EQ(arrivals[i].number, i);
        least = took < least ? took : least;
        most = took > most ? took : most;
    }
    CHECK(least >= 5000 && least < 16000);
    CHECK(most <= 25000 && most > 24900);
}

static void test_reordering(void)
{
    struct zh_injector_stats stats =
        run(&(struct zh_fault){.delay = 1000, .reorder = 0.05, .reorder_delay = 3500}, 8);
    unsigned late = 0;
    CHECK(near(stats.reordered, 0.05 * COUNT));
    CHECK_EQ(arrived, COUNT);
    for (unsigned i = 0; i < arrived; i++) {
        uint64_t took = arrivals[i].at - (uint64_t)(arrivals[i].number + 1) * STEP;
        CHECK(took == 1000 || took == 4500);
        late += took == 4500;
    }
    CHECK_EQ(late, stats.reordered);
}

/* 100 bytes at 400 Mb/s take 2 us and come every 1 us: half do not fit, once the queue is full. */
static void test_rate(void)
{
    struct zh_fault fault = {.rate = 400000000, .queue = 50, .delay = 700};
    struct zh_injector_stats stats = run(&fault, 9);
    CHECK(near(stats.dropped, COUNT / 2.0));
    for (unsigned i = 1; i < arrived; i++) {
        CHECK(arrivals[i].number > arrivals[i - 1].number);
        CHECK_EQ(arrivals[i].at - arrivals[i - 1].at, 2000);
    }
    CHECK_EQ(arrivals[0].at, STEP + 2000 + 700);
    /* At the end 50 wait behind the one that is leaving. */
    uint64_t wait = arrivals[arrived - 1].at - 700 - COUNT * (uint64_t)STEP;
    CHECK(wait >= 100000 && wait <= 102000);

    /* No rounding piles up: 100 bytes at 3 Gb/s are 266.67 ns, and three of them 800. */
    struct zh_injector *injector = make(&(struct zh_fault){.rate = 3000000000}, 10);
    arrived = 0;
    for (uint32_t i = 0; i < 300; i++)
        zh_injector_put(injector, make_packet(i, SIZE), 1000);
    for (uint64_t next; (next = zh_injector_next(injector)) != UINT64_MAX;)
        take(injector, next);
    CHECK_EQ(arrived, 300);
    CHECK_EQ(arrivals[2].at, 1800);
    CHECK_EQ(arrivals[299].at, 81000);
    zh_injector_destroy(injector);
}

/* All at once: the same seed gives the same, another seed another; what is still held is freed. */
static void test_determinism(void)
{
    static struct arrival first[2 * COUNT];
    struct zh_fault fault = {.loss = 0.02,
                             .duplicate = 0.02,
                             .corrupt = 0.02,
                             .reorder = 0.02,
                             .reorder_delay = 2500,
                             .delay = 10000,
                             .jitter = 3000,
                             .rate = 2000000000};
    run(&fault, 11);
    unsigned count = arrived;
    memcpy(first, arrivals, sizeof first);
    run(&fault, 11);
    CHECK_EQ(arrived, count);
    CHECK(memcmp(first, arrivals, count * sizeof *first) == 0);
    run(&fault, 12);
    CHECK(arrived != count || memcmp(first, arrivals, count * sizeof *first) != 0);

    struct zh_injector *injector = make(&fault, 13);
    for (uint32_t i = 0; i < 500; i++)
        zh_injector_put(injector, make_packet(i, SIZE), 1);
    CHECK(rte_mempool_in_use_count(pool) > 400);
    zh_injector_destroy(injector);
    CHECK_EQ(rte_mempool_in_use_count(pool), 0);
}

/* Without packets for them there are no duplicates, and nothing else suffers. */
static void test_empty_pool(void)
{
    struct rte_mbuf *others[4096];
    unsigned held = 0;
    struct zh_injector *injector = make(&(struct zh_fault){.duplicate = 1}, 14);
    struct rte_mbuf *packet = make_packet(7, SIZE), *got[4];
    while ((others[held] = rte_pktmbuf_alloc(pool)))
        held++;
    zh_injector_put(injector, packet, 1);
    CHECK_EQ(zh_injector_get(injector, got, 4, 1), 1);
    rte_pktmbuf_free(got[0]);
    rte_pktmbuf_free_bulk(others, held);
    zh_injector_destroy(injector);
}

static void test_bad_probabilities(void)
{
    struct zh_injector *injector;
    CHECK_EQ(zh_injector_create(&(struct zh_fault){.loss = -0.1}, 1, pool, &injector), -EINVAL);
    CHECK_EQ(zh_injector_create(&(struct zh_fault){.reorder = 1.1}, 1, pool, &injector), -EINVAL);
    CHECK_EQ(
        zh_injector_create(&(struct zh_fault){.corrupt = __builtin_nan("")}, 1, pool, &injector),
        -EINVAL);
}

int main(void)
{
    char error[ZH_PORT_ERROR_SIZE];
    if (zh_eal_start(NULL, error) != 0) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    pool = rte_pktmbuf_pool_create("test_injector", 4095, 128, 0, 512, SOCKET_ID_ANY);
    CHECK(pool);
    test_nothing();
    test_loss();
    test_duplicates();
    test_corruption();
    test_delay();
    test_reordering();
    test_rate();
    test_determinism();
    test_empty_pool();
    test_bad_probabilities();
    CHECK(rte_mempool_full(pool));
    return 0;
}
