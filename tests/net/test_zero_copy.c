/* No payload is copied: shown by where the bytes lie, besides the counters. What a stack hands to
 * its port refers to the memory of the record; what an application takes lies in the port's own
 * packets. */
#include <rte_mempool.h>
#include <string.h>
#include <sys/mman.h>

#include "pair.h"

enum { MAPPING = 4 << 20, PIECES = 256, LAZY = 4096 };

static uint8_t *mapping; /* of the records, MAPPING bytes, each byte unlike its neighbours */
static struct stacks stacks;
static unsigned releases;

/* --- a port that looks at what it is given ------------------------------------------------------
 */

static const struct zh_port_ops *wire_ops;
static uint64_t referred, beside; /* bytes of TCP payload in the mapping, and anywhere else */
static bool lazy;                 /* the device keeps what it has sent */
static struct rte_mbuf *kept[LAZY];
static unsigned kept_count;

static void look_at(const struct rte_mbuf *packet)
{
    const uint8_t *ip = rte_pktmbuf_mtod_offset(packet, const uint8_t *, 14);
    if (ip[-2] != 8 || ip[-1] != 0 || ip[9] != IPPROTO_TCP)
        return;
    uint32_t headers = 14 + (ip[0] & 15) * 4u + (ip[20 + 12] >> 4) * 4u;
    beside += packet->data_len - headers;
    for (const struct rte_mbuf *m = packet->next; m; m = m->next) {
        const uint8_t *data = rte_pktmbuf_mtod(m, const uint8_t *);
        if (RTE_MBUF_HAS_EXTBUF(m) && data >= mapping && data + m->data_len <= mapping + MAPPING)
            referred += m->data_len;
        else
            beside += m->data_len;
    }
}

static uint16_t look_and_send(struct zh_port *port, struct rte_mbuf **packets, uint16_t count)
{
    struct rte_mbuf *copies[NET_BURST];
    CHECK(count <= NET_BURST);
    for (uint16_t i = 0; i < count; i++)
        look_at(packets[i]);
    if (!lazy)
        return wire_ops->send(port, packets, count);
    for (uint16_t i = 0; i < count; i++) {
        copies[i] = rte_pktmbuf_copy(packets[i], port->pool, 0, UINT32_MAX);
        CHECK(copies[i] && kept_count < LAZY);
        kept[kept_count++] = packets[i];
    }
    return wire_ops->send(port, copies, count);
}

static void let_go(struct zh_port *port)
{
    (void)port;
    rte_pktmbuf_free_bulk(kept, kept_count);
    kept_count = 0;
}

static struct zh_port_ops looking_ops;

static void start(const struct zh_wire_config *wire)
{
    stacks_start(&stacks, wire, NULL);
    /* End 1 sends. */
    wire_ops = stacks.ports[1]->ops;
    looking_ops = *wire_ops;
    looking_ops.send = look_and_send;
    looking_ops.reclaim = let_go;
    stacks.ports[1]->ops = &looking_ops;
    releases = 0;
    referred = beside = 0;
}

/* --- what is taken ------------------------------------------------------------------------------
 */

struct range {
    const uint8_t *data;
    bool inside;
};

static void in_chunk(struct rte_mempool *pool, void *opaque, struct rte_mempool_memhdr *memory,
                     unsigned index)
{
    struct range *range = opaque;
    const uint8_t *start = memory->addr;
    (void)pool;
    (void)index;
    range->inside |= range->data >= start && range->data < start + memory->len;
}

/* Take all there is; the bytes follow those at `*received`. */
static void take_all(struct zh_net_socket *s, uint64_t *received)
{
    struct zh_stream_segment segments[16];
    int count;
    while ((count = zh_net_take(s, segments, 16)) > 0) {
        for (int i = 0; i < count; i++) {
            struct range range = {.data = segments[i].data};
            rte_mempool_mem_iter(stacks.ports[0]->pool, in_chunk, &range);
            CHECK(range.inside);
            size_t at = *received % MAPPING, first = RTE_MIN(segments[i].size, MAPPING - at);
            CHECK(!memcmp(segments[i].data, mapping + at, first));
            CHECK(!memcmp(segments[i].data + first, mapping, segments[i].size - first));
            *received += segments[i].size;
            zh_net_release(&segments[i]);
        }
    }
    CHECK_EQ(count, -EAGAIN);
}

static void released(void *opaque)
{
    CHECK(opaque == mapping);
    releases++;
}

/* --- tests --------------------------------------------------------------------------------------
 */

/* One record of `size` bytes, the mapping again and again; how many bytes were copied. */
static uint64_t send_one(struct zh_net_socket *ends[2], uint64_t size)
{
    struct iovec pieces[PIECES];
    unsigned count = 0;
    for (uint64_t left = size; left; count++) {
        CHECK(count < PIECES);
        pieces[count] = (struct iovec){mapping, RTE_MIN(left, (uint64_t)MAPPING)};
        left -= pieces[count].iov_len;
    }
    struct zh_stream_record record = {pieces, count, released, mapping};
    struct zh_stream_info before, after, receiver;
    uint64_t received = 0;
    unsigned had = releases;
    zh_stream_info(zh_net_stream(ends[1]), &before);
    CHECK_EQ(zh_net_send_records(ends[1], &record, 1), 1);
    memset(pieces, 0, sizeof pieces);
    while (received < size) {
        CHECK_EQ(releases, had);
        stacks_step(&stacks, NET_SECOND);
        take_all(ends[0], &received);
    }
    CHECK_EQ(received, size);
    STACKS_UNTIL(&stacks, releases == had + 1);
    zh_stream_info(zh_net_stream(ends[1]), &after);
    zh_stream_info(zh_net_stream(ends[0]), &receiver);
    CHECK_EQ(receiver.bytes_copied, 0);
    CHECK_EQ(receiver.bytes_received, after.bytes_sent);
    return after.bytes_copied - before.bytes_copied;
}

static void end(struct zh_net_socket *listener, struct zh_net_socket *ends[2])
{
    for (int i = 0; i < 2; i++)
        zh_net_close(ends[i]);
    zh_net_close(listener);
    stacks_run(&stacks, NET_SECOND);
    stacks_stop(&stacks, 0);
}

/* Up to 256 bytes are copied beside the header, more never. */
static void sizes(void)
{
    static const uint16_t records[] = {1, 255, 256, 257, 1000, 1448, 2896, 10000, 60000};
    struct zh_net_socket *ends[2];
    start(NULL);
    struct zh_net_socket *listener = stacks_listen(&stacks, AF_INET, 80, 1);
    stacks_connect(&stacks, listener, ends);
    for (unsigned i = 0; i < sizeof records / sizeof records[0]; i++) {
        referred = beside = 0;
        unsigned last = records[i] % 1448u;
        unsigned copied = last <= 256 ? last : 0;
        CHECK_EQ(send_one(ends, records[i]), copied);
        CHECK_EQ(beside, copied);
        CHECK_EQ(referred, records[i] - copied);
    }
    end(listener, ends);
}

/* 1 GiB in one call, 256 times what the peer's window takes. */
static void huge(void)
{
    struct zh_net_socket *ends[2];
    struct zh_fault fault = {.delay = 50 * NET_US, .rate = UINT64_C(40000000000)};
    start(&(struct zh_wire_config){.fault = {fault, fault}, .mtu = 9000});
    struct zh_net_socket *listener = stacks_listen(&stacks, AF_INET, 80, 1);
    stacks_connect(&stacks, listener, ends);
    CHECK_EQ(send_one(ends, UINT64_C(1) << 30), 0);
    CHECK_EQ(beside, 0);
    CHECK(referred >= UINT64_C(1) << 30);
    end(listener, ends);
}

/* What is sent once more refers to the record as well. */
static void retransmitted(void)
{
    struct zh_net_socket *ends[2];
    struct zh_stream_info info;
    struct zh_fault fault = {
        .delay = 50 * NET_US, .rate = UINT64_C(10000000000), .loss = 0.01, .duplicate = 0.01};
    start(&(struct zh_wire_config){.fault = {fault, fault}, .seed = 1});
    struct zh_net_socket *listener = stacks_listen(&stacks, AF_INET, 80, 1);
    stacks_connect(&stacks, listener, ends);
    CHECK_EQ(send_one(ends, UINT64_C(1448) * 20000), 0);
    CHECK_EQ(beside, 0);
    zh_stream_info(zh_net_stream(ends[1]), &info);
    CHECK(info.retransmissions >= 100);
    CHECK(referred >= UINT64_C(1448) * (20000 + info.retransmissions));
    end(listener, ends);
}

/* A record that is acknowledged stays lent until the device has let go of its packets. */
static void device_keeps(void)
{
    struct zh_net_socket *ends[2];
    struct iovec piece = {mapping, 100000};
    struct zh_stream_record record = {&piece, 1, released, mapping};
    struct zh_stream_info info;
    uint64_t received = 0;
    start(NULL);
    struct zh_net_socket *listener = stacks_listen(&stacks, AF_INET, 80, 1);
    stacks_connect(&stacks, listener, ends);
    lazy = true;
    CHECK_EQ(zh_net_send_records(ends[1], &record, 1), 1);
    do {
        stacks_step(&stacks, NET_SECOND);
        take_all(ends[0], &received);
        zh_stream_info(zh_net_stream(ends[1]), &info);
    } while (info.bytes_queued);
    CHECK_EQ(received, 100000);
    CHECK_EQ(releases, 0);
    /* Also when the connection has gone. */
    for (int i = 0; i < 2; i++)
        zh_net_close(ends[i]);
    stacks_run(&stacks, 100 * NET_SECOND);
    CHECK_EQ(releases, 0);
    lazy = false;
    zh_port_reclaim(stacks.ports[1]);
    CHECK_EQ(releases, 1);
    zh_net_close(listener);
    stacks_stop(&stacks, 0);
}

int main(void)
{
    mapping = mmap(NULL, MAPPING, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mapping != MAP_FAILED);
    for (uint32_t i = 0; i < MAPPING; i++)
        mapping[i] = (uint8_t)(i ^ i >> 8 ^ i >> 16);
    CHECK_EQ(mprotect(mapping, MAPPING, PROT_READ), 0); /* read-only, as a peer's arena would be */
    sizes();
    huge();
    retransmitted();
    device_keeps();
    CHECK_EQ(munmap(mapping, MAPPING), 0);
    return 0;
}
