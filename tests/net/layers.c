#include "layers.h"

#include <rte_mempool.h>

#include "start_eal.h"

enum { FRAMES = 4096 };

struct rte_mempool *test_pool;
uint64_t test_now = SECONDS(1000);
unsigned port_takes = UINT16_MAX;

static struct rte_mbuf *frames[FRAMES];
static unsigned frames_first, frames_end;
static struct frame last;

static uint16_t port_send(struct zh_port *port, struct rte_mbuf **packets, uint16_t count)
{
    uint16_t n = (uint16_t)(count < port_takes ? count : port_takes);
    for (uint16_t i = 0; i < n; i++) {
        CHECK(packets[i]->nb_segs <= port->max_segments);
        rte_mbuf_check(packets[i], 1, &(const char *){NULL});
        CHECK(frames_end < FRAMES);
        frames[frames_end++] = packets[i];
    }
    return n;
}

static uint16_t port_receive(struct zh_port *port, struct rte_mbuf **packets, uint16_t count)
{
    (void)port, (void)packets, (void)count;
    return 0;
}

static void port_reclaim(struct zh_port *port)
{
    (void)port;
}

static const struct zh_port_ops port_ops = {
    .send = port_send, .receive = port_receive, .reclaim = port_reclaim};

struct zh_port test_port = {
    .ops = &port_ops,
    .name = "test",
    .mac = OUR_MAC,
    .mtu = 1500,
    .max_segments = 8,
};

/* DPDK keeps what it allocates at start for the life of the process. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

void layers_start(void)
{
    start_eal();
    test_pool = rte_pktmbuf_pool_create("test", 2048, 0, 0, RTE_MBUF_DEFAULT_BUF_SIZE, 0);
    CHECK(test_pool != NULL);
    test_port.pool = test_pool;
}

struct zh_net *new_net(const struct zh_net_config *config)
{
    static struct zh_net_prefix addresses[2];
    static struct zh_net_route route;
    struct zh_net_config full = {0};
    struct zh_net *net;
    char error[ZH_PORT_ERROR_SIZE];
    if (config)
        full = *config;
    if (!full.address_count) {
        CHECK(zh_net_prefix_parse("10.0.0.1/24", &addresses[0]) == 0);
        CHECK(zh_net_prefix_parse("fd00::1/64", &addresses[1]) == 0);
        CHECK(zh_net_prefix_parse("0.0.0.0/0", &route.destination) == 0);
        CHECK(zh_net_prefix_parse("10.0.0.254", &route.gateway) == 0);
        full.addresses = addresses;
        full.address_count = 2;
        full.routes = &route;
        full.route_count = 1;
    }
    full.send_packets = full.send_packets ? full.send_packets : 1024;
    full.seed = full.seed ? full.seed : 1;
    if (zh_net_create(&full, &test_port, &net, error) != 0) {
        fprintf(stderr, "%s\n", error);
        exit(1);
    }
    poll_at(net, test_now);
    poll_at(net, test_now + SECONDS(2));
    while (sent())
        ;
    memset(&tcp_seen, 0, sizeof tcp_seen);
    tcp_on_error = NULL;
    memset(&net->stats, 0, sizeof net->stats);
    return net;
}

void end_net(struct zh_net *net)
{
    zh_net_destroy(net);
    while (sent())
        ;
    CHECK_EQ(rte_mempool_avail_count(test_pool), 2048);
}

struct rte_mbuf *packet_of(const void *data, size_t size, size_t segment)
{
    const uint8_t *from = data;
    struct rte_mbuf *head = NULL;
    do {
        struct rte_mbuf *packet = rte_pktmbuf_alloc(test_pool);
        CHECK(packet != NULL);
        size_t n = segment && segment < size ? segment : size;
        size_t room = rte_pktmbuf_tailroom(packet);
        n = n < room ? n : room;
        void *to = rte_pktmbuf_append(packet, (uint16_t)n);
        CHECK(to != NULL);
        memcpy(to, from, n);
        from += n;
        size -= n;
        if (head)
            CHECK(rte_pktmbuf_chain(head, packet) == 0);
        else
            head = packet;
    } while (size);
    return head;
}

void input_segments(struct zh_net *net, const struct frame *frame, size_t segment)
{
    zh_net_input(net, packet_of(frame->data, frame->size, segment), test_now);
    ether_flush(net);
}

void input(struct zh_net *net, const struct frame *frame)
{
    input_segments(net, frame, 0);
}

void poll_at(struct zh_net *net, uint64_t now)
{
    test_now = now;
    zh_net_poll(net, now);
}

const struct frame *sent(void)
{
    if (frames_first == frames_end)
        return NULL;
    struct rte_mbuf *packet = frames[frames_first++];
    if (frames_first == frames_end)
        frames_first = frames_end = 0;
    last.size = packet->pkt_len;
    CHECK(last.size <= sizeof last.data);
    const void *data = rte_pktmbuf_read(packet, 0, packet->pkt_len, last.data);
    if (data != last.data)
        memcpy(last.data, data, last.size);
    rte_pktmbuf_free(packet);
    return &last;
}

void expect_silence(void)
{
    const struct frame *frame = sent();
    if (!frame)
        return;
    fprintf(stderr, "sent for no reason:");
    for (size_t i = 0; i < frame->size; i++)
        fprintf(stderr, " %02x", frame->data[i]);
    fprintf(stderr, "\n");
    exit(1);
}

void put(struct frame *frame, const void *data, size_t size)
{
    CHECK(frame->size + size <= sizeof frame->data);
    if (size)
        memcpy(frame->data + frame->size, data, size);
    frame->size += size;
}

struct frame ether_frame(const void *dst, const void *src, uint16_t type)
{
    struct frame frame;
    uint16_t wire = rte_cpu_to_be_16(type);
    frame.size = 0;
    put(&frame, dst, 6);
    put(&frame, src, 6);
    put(&frame, &wire, 2);
    return frame;
}

struct frame arp_frame(uint16_t operation, const void *sender_mac, const void *sender,
                       const void *target_mac, const void *target)
{
    struct frame frame =
        ether_frame(operation == ARP_REPLY ? OUR_MAC : EVERYBODY, sender_mac, ETHER_ARP);
    struct arp_header header = {
        .hardware = rte_cpu_to_be_16(ARP_ETHERNET),
        .protocol = rte_cpu_to_be_16(ETHER_IPV4),
        .hardware_size = 6,
        .protocol_size = 4,
        .operation = rte_cpu_to_be_16(operation),
    };
    memcpy(header.sender_mac, sender_mac, 6);
    memcpy(&header.sender, sender, 4);
    if (target_mac)
        memcpy(header.target_mac, target_mac, 6);
    memcpy(&header.target, target, 4);
    put(&frame, &header, sizeof header);
    return frame;
}

struct frame ipv4_frame(const void *src, const void *dst, uint8_t protocol, const void *options,
                        size_t option_size, uint16_t id, uint16_t fragment, const void *payload,
                        size_t size)
{
    struct frame frame = ether_frame(OUR_MAC, PEER_MAC, ETHER_IPV4);
    struct ipv4_header header = {
        .version_ihl = (uint8_t)(0x45 + option_size / 4),
        .total_length = rte_cpu_to_be_16((uint16_t)(sizeof header + option_size + size)),
        .id = rte_cpu_to_be_16(id),
        .fragment = rte_cpu_to_be_16(fragment),
        .ttl = 64,
        .protocol = protocol,
    };
    memcpy(&header.src, src, 4);
    memcpy(&header.dst, dst, 4);
    put(&frame, &header, sizeof header);
    put(&frame, options, option_size);
    uint16_t sum = (uint16_t)~net_sum_fold(net_sum(frame.data + 14, sizeof header + option_size));
    memcpy(frame.data + 14 + offsetof(struct ipv4_header, checksum), &sum, 2);
    put(&frame, payload, size);
    return frame;
}

void icmp_sum(uint8_t *message, size_t size)
{
    memset(message + 2, 0, 2);
    uint16_t sum = (uint16_t)~net_sum_fold(net_sum(message, size));
    memcpy(message + 2, &sum, 2);
}

struct net_addr v4(const void *address)
{
    uint32_t word;
    memcpy(&word, address, 4);
    return net_addr_v4(word);
}

int send_tcp(struct zh_net *net, const void *dst, size_t size)
{
    struct net_addr src = v4(OUR_IP), to = v4(dst);
    struct rte_mbuf *packet = net_packet_alloc(net);
    CHECK(packet != NULL);
    uint8_t *data = (void *)rte_pktmbuf_append(packet, (uint16_t)size);
    CHECK(data != NULL);
    for (size_t i = 0; i < size; i++)
        data[i] = (uint8_t)(i + 1);
    int rc = ip_output(net, packet, &src, &to, IPPROTO_TCP, 0);
    ether_flush(net);
    return rc;
}

void resolve_peer(struct zh_net *net)
{
    send_tcp(net, PEER_IP, 20);
    CHECK(sent() != NULL);
    struct frame reply = arp_frame(ARP_REPLY, PEER_MAC, PEER_IP, OUR_MAC, OUR_IP);
    input(net, &reply);
    CHECK(sent() != NULL);
    expect_silence();
}
