/* Applications that keep what they have received, and others that must not notice. */
#include <rte_mempool.h>
#include <string.h>

#include "pair.h"

enum { PACKETS = 4096, HOGS_MAX = 2000, RECORD = 1 << 20 };

struct hog {
    struct zh_net_socket *ends[2];
    struct zh_stream_segment *held;
    unsigned count, room;
    uint64_t received;
};

static uint8_t record[RECORD];
static struct stacks stacks;
static struct hog hogs[HOGS_MAX];
static unsigned lent;

static void released(void *opaque)
{
    (void)opaque;
    lent--;
}

/* Keep the queue of end 1 filled. */
static void feed(struct zh_net_socket *s)
{
    struct iovec piece = {record, sizeof record};
    struct zh_stream_record one = {&piece, 1, released, NULL};
    while (zh_net_send_records(s, &one, 1) == 1)
        lent++;
}

static void verify(const struct zh_stream_segment *segment, uint64_t offset)
{
    size_t at = offset % RECORD, first = RTE_MIN(segment->size, RECORD - at);
    CHECK(!memcmp(segment->data, record + at, first));
    CHECK(!memcmp(segment->data + first, record, segment->size - first));
}

static void hold(struct hog *hog)
{
    struct zh_stream_segment segments[64];
    int count;
    while ((count = zh_net_take(hog->ends[0], segments, 64)) > 0) {
        if (hog->count + (unsigned)count > hog->room) {
            hog->room = 2 * hog->room + 64;
            hog->held = realloc(hog->held, hog->room * sizeof *hog->held);
            CHECK(hog->held);
        }
        memcpy(hog->held + hog->count, segments, (unsigned)count * sizeof *segments);
        hog->count += (unsigned)count;
    }
    CHECK_EQ(count, -EAGAIN);
}

static void let_go(struct hog *hog)
{
    uint64_t offset = 0;
    for (unsigned i = 0; i < hog->count; i++) {
        verify(&hog->held[i], offset);
        offset += hog->held[i].size;
        zh_net_release(&hog->held[i]);
    }
    free(hog->held);
    *hog = (struct hog){.ends = {hog->ends[0], hog->ends[1]}};
}

/* Receive `size` bytes at end 0 beside the hogs; the virtual time that it took. */
static uint64_t transfer(struct zh_net_socket *ends[2], unsigned hog_count, uint64_t *received,
                         uint64_t size)
{
    struct rte_mempool *pool = stacks.ports[0]->pool;
    uint64_t start = stacks.now, end = *received + size;
    unsigned starved = 0;
    while (*received < end) {
        struct zh_stream_segment segments[16];
        int count;
        CHECK(stacks.now - start < 600 * NET_SECOND);
        feed(ends[1]);
        for (unsigned i = 0; i < hog_count; i++)
            hold(&hogs[i]);
        stacks_step(&stacks, NET_SECOND);
        while ((count = zh_net_take(ends[0], segments, 16)) > 0) {
            for (int i = 0; i < count; i++) {
                verify(&segments[i], *received);
                *received += segments[i].size;
                zh_net_release(&segments[i]);
            }
        }
        CHECK_EQ(count, -EAGAIN);
        /* What is kept is there, but for what the wire has under way and bursts. */
        starved += rte_mempool_avail_count(pool) < PACKETS / 16;
    }
    CHECK(starved < 100);
    return stacks.now - start;
}

/* Transfer `size` bytes before, during and after; they may make it so many times slower. */
static void run(unsigned hog_count, const struct zh_fault *fault, uint64_t size, unsigned slower)
{
    struct zh_wire_config wire = {.packets = PACKETS, .fault = {*fault, *fault}, .seed = 1};
    struct zh_net_config config = {.send_packets = 8192};
    struct zh_net_socket *ends[2];
    uint64_t received = 0;

    stacks_start(&stacks, &wire, (const struct zh_net_config *[2]){&config, &config});
    struct zh_net_socket *listener = stacks_listen(&stacks, AF_INET, 80, 16);
    stacks_connect(&stacks, listener, ends);
    uint64_t before = transfer(ends, 0, &received, size);
    for (unsigned i = 0; i < hog_count; i++) {
        stacks_connect(&stacks, listener, hogs[i].ends);
        feed(hogs[i].ends[1]);
    }
    transfer(ends, hog_count, &received, 2 * size); /* until they hold what they can */
    uint64_t after = transfer(ends, hog_count, &received, size);
    struct zh_net_stats stats;
    zh_net_read_stats(stacks.nets[0], &stats);
    unsigned held = 0;
    for (unsigned i = 0; i < hog_count; i++)
        held += hogs[i].count;
    fprintf(
        stderr,
        "%u that hold %u segments: %.1f MiB in %.1f ms, %.1f before; %.1f MB copied out, low %llu "
        "times, %llu dropped\n",
        hog_count, held, (double)size / RECORD, (double)after * 1e-6, (double)before * 1e-6,
        (double)stats.bytes_copied * 1e-6, (unsigned long long)stats.tcp_packets_low,
        (unsigned long long)stats.tcp_in_dropped);
    CHECK(stats.tcp_packets_low > 0);
    CHECK(stats.bytes_copied > 0);
    CHECK(after < slower * before);

    /* They give it back, and all is as it was. */
    for (unsigned i = 0; i < hog_count; i++)
        let_go(&hogs[i]);
    for (unsigned i = 0; i < hog_count; i++) {
        struct linger now = {.l_onoff = 1};
        zh_net_setsockopt(hogs[i].ends[1], SOL_SOCKET, SO_LINGER, &now, sizeof now);
        zh_net_close(hogs[i].ends[1]);
        zh_net_close(hogs[i].ends[0]);
        hogs[i] = (struct hog){0};
    }
    transfer(ends, 0, &received, size);
    CHECK(!stacks.nets[0]->tcp->pressure.low);

    zh_net_close(ends[1]);
    zh_net_close(ends[0]);
    zh_net_close(listener);
    stacks_stop(&stacks, 0);
    CHECK_EQ(lent, 0);
}

/* Copies outlive the stack. */
static void outlive(void)
{
    struct zh_wire_config wire = {.packets = PACKETS};
    stacks_start(&stacks, &wire, NULL);
    struct zh_net_socket *listener = stacks_listen(&stacks, AF_INET, 80, 16);
    for (unsigned i = 0; i < 3; i++) {
        stacks_connect(&stacks, listener, hogs[i].ends);
        feed(hogs[i].ends[1]);
    }
    uint64_t end = stacks.now + NET_SECOND;
    while (stacks.now < end) {
        for (unsigned i = 0; i < 3; i++)
            hold(&hogs[i]);
        stacks_step(&stacks, NET_SECOND);
    }
    CHECK(stacks.nets[0]->stats.bytes_copied > 0);
    struct rte_mempool *pool = stacks.ports[0]->pool;
    stacks_stop(&stacks, rte_mempool_in_use_count(pool));
    for (unsigned i = 0; i < 3; i++)
        let_go(&hogs[i]);
    CHECK_EQ(rte_mempool_in_use_count(pool), 0);
}

int main(void)
{
    static const struct zh_fault clean = {
        .delay = 50 * NET_US, .rate = UINT64_C(10000000000), .queue = 128};
    static const struct zh_fault faulty = {.loss = 0.003,
                                           .reorder = 0.01,
                                           .reorder_delay = 100 * NET_US,
                                           .delay = 50 * NET_US,
                                           .rate = UINT64_C(10000000000),
                                           .queue = 128};
    for (size_t i = 0; i < sizeof record; i++)
        record[i] = (uint8_t)(i ^ i >> 8 ^ i >> 16);
    run(3, &clean, 32 * RECORD, 2);
    run(3, &faulty, 32 * RECORD, 4);
    run(300, &clean, 8 * RECORD, 100);
    run(HOGS_MAX, &clean, RECORD, 100000);
    outlive();
    return 0;
}
