/* The wire in memory: what goes in comes out at the other end, byte for byte, and every packet goes
 * back to its pool. */
#include <rte_errno.h>
#include <rte_mbuf.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "zerohop/port.h"

static char error[ZH_PORT_ERROR_SIZE];

static struct rte_mempool *make_pool(void)
{
    struct rte_mempool *pool =
        rte_pktmbuf_pool_create("test_wire", 2048, 128, 0, 2176, SOCKET_ID_ANY);
    CHECK(pool);
    return pool;
}

static struct zh_wire *make_wire(const struct zh_wire_config *config)
{
    struct zh_wire *wire = NULL;
    if (zh_wire_create(config, &wire, error) != 0) {
        fprintf(stderr, "%s\n", error);
        exit(1);
    }
    return wire;
}

/* A frame of `size` bytes spread over `segments` segments. */
static struct rte_mbuf *make_frame(struct rte_mempool *pool, unsigned size, unsigned segments,
                                   uint8_t first)
{
    struct rte_mbuf *head = NULL;
    for (unsigned i = 0; i < segments; i++) {
        unsigned from = size * i / segments, to = size * (i + 1) / segments;
        struct rte_mbuf *segment = rte_pktmbuf_alloc(pool);
        CHECK(segment);
        uint8_t *data = (uint8_t *)rte_pktmbuf_append(segment, (uint16_t)(to - from));
        for (unsigned j = from; j < to; j++)
            data[j - from] = (uint8_t)(first + j);
        if (!head)
            head = segment;
        else
            CHECK_EQ(rte_pktmbuf_chain(head, segment), 0);
    }
    return head;
}

static void test_bytes(struct rte_mempool *pool)
{
    struct zh_wire_config config = {.fault = {{.delay = 500}, {.delay = 700}}};
    struct zh_wire *wire = make_wire(&config);
    struct zh_port *ends[2] = {zh_wire_end(wire, 0), zh_wire_end(wire, 1)};
    CHECK_EQ(ends[0]->mtu, 1500);
    CHECK(memcmp(ends[0]->mac, ends[1]->mac, 6) != 0);
    CHECK_EQ(zh_wire_next(wire), (long long)UINT64_MAX);
    uint64_t now = 1000;
    for (unsigned segments = 1; segments <= 5; segments++) {
        for (int from = 0; from < 2; from++) {
            struct rte_mbuf *sent[2], *got[4];
            zh_wire_set_now(wire, now);
            sent[0] = make_frame(pool, 60 + segments, segments, 1);
            sent[1] = make_frame(pool, 1514, segments, 2);
            CHECK_EQ(zh_port_send(ends[from], sent, 2), 2);
            CHECK_EQ(rte_mempool_in_use_count(pool), 0);
            CHECK_EQ(zh_port_receive(ends[!from], got, 4), 0);
            now += from ? 700 : 500;
            CHECK_EQ(zh_wire_next(wire), now);
            zh_wire_set_now(wire, now - 1);
            CHECK_EQ(zh_port_receive(ends[!from], got, 4), 0);
            zh_wire_set_now(wire, now);
            CHECK_EQ(zh_port_receive(ends[from], got, 4), 0);
            CHECK_EQ(zh_port_receive(ends[!from], got, 4), 2);
            CHECK_EQ(got[0]->pkt_len, 60 + segments);
            CHECK_EQ(got[1]->pkt_len, 1514);
            for (int i = 0; i < 2; i++) {
                CHECK(got[i]->pool == ends[!from]->pool);
                for (unsigned j = 0; j < got[i]->pkt_len; j++)
                    CHECK_EQ(rte_pktmbuf_mtod(got[i], uint8_t *)[j], (uint8_t)(i + 1 + j));
                rte_pktmbuf_free(got[i]);
            }
        }
    }
    struct zh_port_stats stats;
    zh_port_stats(ends[0], &stats);
    CHECK_EQ(stats.tx_packets, 10);
    CHECK_EQ(stats.rx_packets, 10);
    CHECK_EQ(stats.tx_bytes, 5 * 1514 + 61 + 62 + 63 + 64 + 65);
    CHECK_EQ(stats.rx_bytes, stats.tx_bytes);
    CHECK_EQ(stats.rx_dropped, 0);
    zh_wire_destroy(wire);
}

/* A frame over the MTU, and more frames than the receiver has packets, are dropped and counted. */
static void test_limits(struct rte_mempool *pool)
{
    struct zh_wire_config config = {.packets = 64};
    struct zh_wire *wire = make_wire(&config);
    struct zh_port *from = zh_wire_end(wire, 0), *to = zh_wire_end(wire, 1);
    struct rte_mbuf *packets[100];
    struct zh_port_stats stats;
    for (int i = 0; i < 100; i++)
        packets[i] = make_frame(pool, i == 0 ? 1515 : 100, 2, 0);
    CHECK_EQ(zh_port_send(from, packets, 100), 100);
    CHECK_EQ(rte_mempool_in_use_count(pool), 0);
    CHECK_EQ(zh_port_receive(to, packets, 100), 64);
    zh_port_stats(to, &stats);
    CHECK_EQ(stats.rx_dropped, 36);
    CHECK_EQ(stats.rx_packets, 64);
    zh_port_stats(from, &stats);
    CHECK_EQ(stats.tx_packets, 100);

    /* What is out stays readable and can be freed after the wire has gone. */
    struct rte_mempool *receiver = to->pool;
    zh_wire_destroy(wire);
    for (int i = 0; i < 64; i++) {
        CHECK_EQ(rte_pktmbuf_mtod(packets[i], uint8_t *)[99], 99);
        rte_pktmbuf_free(packets[i]);
    }
    CHECK(rte_mempool_full(receiver));
    /* Both pools serve the next wire of this kind. */
    wire = make_wire(&config);
    CHECK(zh_wire_end(wire, 0)->pool == receiver || zh_wire_end(wire, 1)->pool == receiver);
    zh_wire_destroy(wire);
}

static void test_errors(void)
{
    struct zh_wire *wire;
    CHECK_EQ(zh_wire_create(&(struct zh_wire_config){.mtu = 20}, &wire, error), -EINVAL);
    CHECK(strstr(error, "MTU"));
    CHECK_EQ(zh_wire_create(&(struct zh_wire_config){.fault = {{.loss = 2}}}, &wire, error),
             -EINVAL);
    CHECK(strstr(error, "0 to 1"));
    CHECK_EQ(zh_wire_create(&(struct zh_wire_config){.packets = 100000000}, &wire, error), -ENOMEM);
    CHECK(strstr(error, "-m MEGABYTES"));
    CHECK_EQ(zh_eal_start("--some-other", error), -EALREADY);
    CHECK(strstr(error, "starts once"));
}

/* Of processor time: others use the machine too. */
static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Not a test: what a packet costs, for who runs this with an argument. */
static void measure(struct rte_mempool *pool)
{
    enum { ROUNDS = 300000, BURST = 16 };
    static const unsigned sizes[] = {60, 1514};
    for (int faulty = 0; faulty < 2; faulty++) {
        for (int s = 0; s < 2; s++) {
            struct zh_wire_config config = {.fault = {{.loss = faulty ? 0.01 : 0}}, .seed = 1};
            struct zh_wire *wire = make_wire(&config);
            struct zh_port *from = zh_wire_end(wire, 0), *to = zh_wire_end(wire, 1);
            struct rte_mbuf *packets[BURST];
            double start = seconds();
            for (int i = 0; i < ROUNDS; i++) {
                CHECK_EQ(rte_pktmbuf_alloc_bulk(pool, packets, BURST), 0);
                for (int j = 0; j < BURST; j++)
                    packets[j]->data_len = packets[j]->pkt_len = (uint16_t)sizes[s];
                zh_wire_set_now(wire, (uint64_t)i);
                zh_port_send(from, packets, BURST);
                uint16_t got = zh_port_receive(to, packets, BURST);
                rte_pktmbuf_free_bulk(packets, got);
            }
            printf("%4u bytes, %s: %.1f ns a packet\n", sizes[s], faulty ? "1 % loss" : "no faults",
                   (seconds() - start) * 1e9 / ROUNDS / BURST);
            zh_wire_destroy(wire);
        }
    }
    double start = seconds();
    for (int i = 0; i < 200; i++)
        zh_wire_destroy(make_wire(&(struct zh_wire_config){0}));
    printf("make and destroy a wire: %.1f us\n", (seconds() - start) * 1e6 / 200);
}

int main(int argc, char **argv)
{
    (void)argv;
    if (zh_eal_start(NULL, error) != 0) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    struct rte_mempool *pool = make_pool();
    test_bytes(pool);
    test_limits(pool);
    test_errors();
    if (argc > 1)
        measure(pool);
    CHECK(rte_mempool_full(pool));
    return 0;
}
