/* Frames into a stack: each of an input's is preceded by its length in two bytes, little endian,
 * and the last one is what there is. Checksums are put right, since mutations would get no further,
 * but where the length's upper bit is set. Frames lie in memory of their exact size, so that the
 * sanitizers see what is read beyond. In the end nothing may be held. */
#include <rte_mempool.h>

#include "check.h"
#include "fuzz.h"
#include "headers.h"
#include "stack.h"
#include "start_eal.h"

static struct zh_net *net;
static struct rte_mempool *pool;
static uint64_t now = NET_SECOND;
static unsigned held; /* buffers that are not back */
static volatile uint8_t touched;

struct buffer {
    struct rte_mbuf_ext_shared_info shared;
    uint8_t *data;
};

static void give_back(void *data, void *opaque)
{
    struct buffer *buffer = opaque;
    (void)data;
    free(buffer->data);
    free(buffer);
    held--;
}

static uint16_t port_send(struct zh_port *port, struct rte_mbuf **packets, uint16_t count)
{
    const char *why;
    for (uint16_t i = 0; i < count; i++) {
        CHECK(packets[i]->nb_segs <= port->max_segments);
        CHECK(packets[i]->pkt_len >= 14 && packets[i]->pkt_len <= 14u + port->mtu);
        CHECK(rte_mbuf_check(packets[i], 1, &why) == 0);
        for (const struct rte_mbuf *m = packets[i]; m; m = m->next)
            for (uint16_t at = 0; at < m->data_len; at++)
                touched ^= rte_pktmbuf_mtod(m, const uint8_t *)[at];
        rte_pktmbuf_free(packets[i]);
    }
    return count;
}

static void port_reclaim(struct zh_port *port)
{
    (void)port;
}

static void start(void)
{
    static const struct zh_port_ops ops = {.send = port_send, .reclaim = port_reclaim};
    static struct zh_port port = {
        .ops = &ops, .name = "fuzz", .mac = {2, 0, 0, 0, 0, 1}, .mtu = 1500, .max_segments = 8};
    struct zh_net_prefix addresses[2];
    struct zh_net_route route;
    struct zh_net_config config = {.addresses = addresses,
                                   .address_count = 2,
                                   .routes = &route,
                                   .route_count = 1,
                                   .max_neighbours = 8,
                                   .send_packets = 1024,
                                   .seed = 1};
    char error[ZH_PORT_ERROR_SIZE];
    start_eal();
    pool = rte_pktmbuf_pool_create("fuzz", 8192, 0, 0, 0, 0);
    CHECK(pool != NULL);
    port.pool = pool;
    memset(&route, 0, sizeof route);
    CHECK(zh_net_prefix_parse("10.0.0.1/24", &addresses[0]) == 0);
    CHECK(zh_net_prefix_parse("fd00::1/64", &addresses[1]) == 0);
    CHECK(zh_net_prefix_parse("0.0.0.0/0", &route.destination) == 0);
    CHECK(zh_net_prefix_parse("10.0.0.254", &route.gateway) == 0);
    CHECK(zh_net_create(&config, &port, &net, error) == 0);
}

static void set_sum(uint8_t *at, uint64_t sum)
{
    uint16_t folded = (uint16_t)~net_sum_fold(sum);
    memcpy(at, &folded, 2);
}

/* The checksums of an IP header and of the ICMP message right behind it. */
static void put_right(uint8_t *frame, size_t size)
{
    uint8_t *ip = frame + 14;
    if (size >= 14 + sizeof(struct ipv4_header) && frame[12] == 0x08 && frame[13] == 0) {
        size_t header = (ip[0] & 15u) * 4, length = (size_t)(ip[2] << 8 | ip[3]);
        if (header < 20 || header > length || length > size - 14)
            return;
        ip[10] = ip[11] = 0;
        set_sum(ip + 10, net_sum(ip, header));
        if (ip[9] == IPPROTO_ICMP && length >= header + 8 && !(ip[6] & 0x3f) && !ip[7]) {
            ip[header + 2] = ip[header + 3] = 0;
            set_sum(ip + header + 2, net_sum(ip + header, length - header));
        }
    } else if (size >= 14 + sizeof(struct ipv6_header) && frame[12] == 0x86 && frame[13] == 0xdd) {
        size_t length = (size_t)(ip[4] << 8 | ip[5]);
        struct net_addr src, dst;
        if (ip[6] != IPPROTO_ICMPV6 || length < 8 || length > size - 54)
            return;
        memcpy(&src, ip + 8, 16);
        memcpy(&dst, ip + 24, 16);
        ip[42] = ip[43] = 0;
        set_sum(ip + 42, net_sum_pseudo(&src, &dst, IPPROTO_ICMPV6, (uint32_t)length) +
                             net_sum_fold(net_sum(ip + 40, length)));
    }
}

static void input(const uint8_t *data, size_t size, bool right)
{
    struct rte_mbuf *packet = rte_pktmbuf_alloc(pool);
    struct buffer *buffer = malloc(sizeof *buffer);
    CHECK(packet != NULL && buffer != NULL);
    *buffer = (struct buffer){.data = malloc(size)};
    memcpy(buffer->data, data, size);
    if (right)
        put_right(buffer->data, size);
    buffer->shared.free_cb = give_back;
    buffer->shared.fcb_opaque = buffer;
    rte_mbuf_ext_refcnt_set(&buffer->shared, 1);
    rte_pktmbuf_attach_extbuf(packet, buffer->data, RTE_BAD_IOVA, (uint16_t)size, &buffer->shared);
    packet->data_len = (uint16_t)size;
    packet->pkt_len = (uint32_t)size;
    held++;
    zh_net_input(net, packet, now);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!net)
        start();
    while (size > 2) {
        size_t n = (size_t)(data[0] | (data[1] & 0x7f) << 8);
        bool right = !(data[1] & 0x80);
        data += 2;
        size -= 2;
        n = n && n < size ? n : size;
        input(data, n, right);
        data += n;
        size -= n;
        now += NET_MS;
        zh_net_poll(net, now);
    }
    /* Until all has timed out. */
    uint64_t next;
    for (int i = 0; i < 1000 && (next = zh_net_poll(net, now)) != NET_NEVER; i++)
        now = next > now ? next : now;
    now += 60 * NET_SECOND;
    CHECK_EQ(held, 0);
    CHECK_EQ(rte_mempool_in_use_count(pool), 0);
    CHECK_EQ(rte_mempool_in_use_count(net->pool), 0);
    return 0;
}

/* DPDK keeps what it allocates at start for the life of the process. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}
