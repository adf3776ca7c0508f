/* Fuzz TCP from both sides: a peer that knows all of the connection's state sends whatever headers
 * it likes, with correct checksums, and an application calls its sockets; after each step the
 * invariants are checked. Input: a byte of options of the first connection, then steps. */
#include <netinet/tcp.h>
#include <rte_mempool.h>
#include <string.h>

#include "check.h"
#include "fuzz.h"
#include "invariants.h"
#include "net/headers.h"
#include "net/tcp_conn.h"
#include "start_eal.h"

enum {
    POOL = 1023,
    HELD = 64,
    SOCKETS = 8,
    STEPS_MAX = 400,
    PEER_PORT = 1000,
    CONNECT_PORT = 2000
};

#define OURS UINT32_C(0x0a000001)
#define PEERS UINT32_C(0x0a000002)

static const uint8_t peer_mac[6] = {2, 0, 0, 0, 0, 2};
static struct rte_mempool *pool;
static uint16_t port_room;  /* packets that the port takes */
static uint32_t synack_seq; /* the last of a SYN that was sent */
static const uint8_t *input;
static size_t left;

static struct zh_net *net;
static uint64_t now;
static struct zh_net_socket *listener, *sockets[SOCKETS];
static struct zh_stream_segment held[HELD];
static unsigned held_count;
static uint8_t memory[8192];
static int lent;

/* DPDK keeps what it allocates at start for the life of the process. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

/* --- the port -----------------------------------------------------------------------------------
 */

static uint16_t port_send(struct zh_port *port, struct rte_mbuf **packets, uint16_t count)
{
    (void)port;
    uint16_t n = RTE_MIN(count, port_room);
    for (uint16_t i = 0; i < n; i++) {
        struct tcp_header tcp;
        uint8_t headers[54];
        CHECK(packets[i]->pkt_len <= 1514);
        const uint8_t *at = packets[i]->pkt_len < sizeof headers
                                ? NULL
                                : rte_pktmbuf_read(packets[i], 0, sizeof headers, headers);
        if (at && at[23] == IPPROTO_TCP) {
            memcpy(&tcp, at + 34, sizeof tcp);
            if (tcp.flags & TCP_SYN)
                synack_seq = rte_be_to_cpu_32(tcp.seq);
        }
        rte_pktmbuf_free(packets[i]);
    }
    return n;
}

static void port_reclaim(struct zh_port *port)
{
    (void)port;
}

static const struct zh_port_ops ops = {.send = port_send, .reclaim = port_reclaim};
static struct zh_port port = {
    .ops = &ops, .name = "fuzz", .mac = {2, 0, 0, 0, 0, 1}, .mtu = 1500, .max_segments = 4};

/* --- input --------------------------------------------------------------------------------------
 */

static uint32_t next(unsigned size)
{
    uint32_t value = 0;
    for (unsigned i = 0; i < size && left; i++, left--)
        value = value << 8 | *input++;
    return value;
}

/* Mostly near 0, of both signs. */
static uint32_t offset(void)
{
    uint32_t kind = next(1);
    switch (kind & 3) {
    case 0:
        return 0;
    case 1:
        return (uint32_t)(int8_t)next(1);
    case 2:
        return (uint32_t)(int16_t)next(2);
    default:
        return next(4);
    }
}

/* --- the peer -----------------------------------------------------------------------------------
 */

static void extbuf_free(void *address, void *shared)
{
    free(address);
    free(shared);
}

/* In a buffer of its exact size for the sanitizers, or in the pool's. */
static struct rte_mbuf *packet_of(const uint8_t *frame, uint16_t size, bool exact)
{
    struct rte_mbuf *packet = rte_pktmbuf_alloc(pool);
    if (!packet)
        return NULL;
    if (exact) {
        struct rte_mbuf_ext_shared_info *shared = calloc(1, sizeof *shared);
        uint8_t *data = malloc(size);
        CHECK(shared && data);
        shared->free_cb = extbuf_free;
        shared->fcb_opaque = shared;
        rte_mbuf_ext_refcnt_set(shared, 1);
        rte_pktmbuf_attach_extbuf(packet, data, RTE_BAD_IOVA, size, shared);
    }
    memcpy(rte_pktmbuf_append(packet, size), frame, size);
    return packet;
}

static void send_frame(const uint8_t *frame, uint16_t size, bool exact)
{
    struct rte_mbuf *packet = packet_of(frame, size, exact);
    if (packet)
        zh_net_input(net, packet, now);
}

static void send_arp(void)
{
    struct {
        struct ether_header ether;
        struct arp_header arp;
    } __attribute__((packed)) frame = {
        .ether.type = rte_cpu_to_be_16(ETHER_ARP),
        .arp = {.hardware = rte_cpu_to_be_16(ARP_ETHERNET),
                .protocol = rte_cpu_to_be_16(ETHER_IPV4),
                .hardware_size = 6,
                .protocol_size = 4,
                .operation = rte_cpu_to_be_16(ARP_REQUEST),
                .sender = rte_cpu_to_be_32(PEERS),
                .target = rte_cpu_to_be_32(OURS)},
    };
    memset(frame.ether.dst, 0xff, 6);
    memcpy(frame.ether.src, peer_mac, 6);
    memcpy(frame.arp.sender_mac, peer_mac, 6);
    send_frame((const uint8_t *)&frame, sizeof frame, false);
}

static void send_segment(uint16_t from, uint16_t to, uint32_t seq, uint32_t ack, uint8_t flags,
                         uint16_t window, const struct tcp_options *options, uint16_t size,
                         uint8_t tos, bool exact)
{
    uint8_t frame[1514] = {0};
    struct ether_header ether = {.type = rte_cpu_to_be_16(ETHER_IPV4)};
    struct ipv4_header ip = {.version_ihl = 0x45,
                             .tos = tos,
                             .ttl = 64,
                             .protocol = IPPROTO_TCP,
                             .src = rte_cpu_to_be_32(PEERS),
                             .dst = rte_cpu_to_be_32(OURS)};
    struct net_addr src = net_addr_v4(ip.src), dst = net_addr_v4(ip.dst);
    size_t option_size = tcp_options_emit(options, frame + 54);
    uint16_t header = (uint16_t)(20 + option_size);
    size = RTE_MIN(size, (uint16_t)(1460 - option_size));
    memcpy(ether.dst, port.mac, 6);
    memcpy(ether.src, peer_mac, 6);
    memcpy(frame, &ether, sizeof ether);
    ip.total_length = rte_cpu_to_be_16((uint16_t)(20 + header + size));
    ip.checksum = (uint16_t)~net_sum_fold(net_sum(&ip, sizeof ip));
    memcpy(frame + 14, &ip, sizeof ip);
    for (uint16_t i = 0; i < size; i++) /* a function of the sequence number */
        frame[34 + header + i] = (uint8_t)((seq + i) * 7);
    struct tcp_header tcp = {
        .src_port = rte_cpu_to_be_16(from),
        .dst_port = rte_cpu_to_be_16(to),
        .seq = rte_cpu_to_be_32(seq),
        .ack = rte_cpu_to_be_32(ack),
        .offset = (uint8_t)(header / 4 << 4),
        .flags = flags,
        .window = rte_cpu_to_be_16(window),
    };
    memcpy(frame + 34, &tcp, sizeof tcp);
    tcp.checksum = (uint16_t)~net_sum_fold(net_sum_pseudo(&src, &dst, IPPROTO_TCP, header + size) +
                                           net_sum(frame + 34, header + size));
    memcpy(frame + 34, &tcp, sizeof tcp);
    send_frame(frame, (uint16_t)(34 + header + size), exact);
}

static void any_segment(void)
{
    uint32_t what = next(1), bits = next(1);
    struct zh_net_socket *s = sockets[what % SOCKETS];
    struct tcp_options options = {0};
    uint16_t from = PEER_PORT, to = 80;
    uint32_t seq = 0, ack = 0, una = synack_seq;
    if (s && s->state > TCPS_LISTEN) {
        from = rte_be_to_cpu_16(s->entry.flow.remote_port);
        to = rte_be_to_cpu_16(s->entry.flow.local_port);
        seq = bits & 1 ? s->rcv_advertised : s->rcv_nxt;
        ack = bits & 2 ? s->snd_una : s->snd_nxt;
        una = s->snd_una;
    } else {
        from = (uint16_t)(PEER_PORT + (what >> 3));
        ack = synack_seq + 1;
    }
    if (bits & 4)
        seq += offset();
    if (bits & 8)
        ack += offset();
    uint8_t flags = bits & 16 ? (uint8_t)next(1) : TCP_ACK;
    uint16_t window = bits & 32 ? (uint16_t)next(2) : 500;
    uint16_t size = bits & 64 ? (uint16_t)next(2) % 1461 : 0;
    uint32_t wanted = bits & 128 ? next(1) : 0;
    if (s && s->flags & TCP_HAS_TIMESTAMPS && !(wanted & 1)) {
        options.has_timestamps = true;
        options.tsval = s->ts_recent + (wanted & 2 ? offset() : 0);
        options.tsecr = tcp_ts_now(net, s->ts_offset) - (wanted & 4 ? offset() : 0);
    }
    options.sack_count = (uint8_t)(wanted >> 3 & 3);
    for (unsigned i = 0; i < options.sack_count; i++) {
        options.sack[i].start = una + offset();
        options.sack[i].end = options.sack[i].start + next(2);
    }
    if (wanted & 32) {
        options.has_mss = true;
        options.mss = (uint16_t)next(2);
        options.has_window_shift = wanted & 64;
        options.window_shift = (uint8_t)next(1);
        options.sack_permitted = wanted & 128;
    }
    send_segment(from, to, seq, ack, flags, window, &options, size, (uint8_t)(what >> 6),
                 what & 32);
}

/* --- the application ----------------------------------------------------------------------------
 */

static void released(void *opaque)
{
    CHECK(opaque == memory);
    lent--;
}

static void release_one(void)
{
    if (held_count)
        zh_net_release(&held[--held_count]);
}

static void accept_all(void)
{
    for (unsigned i = 0; i < SOCKETS; i++)
        if (!sockets[i] && listener && zh_net_accept(listener, &sockets[i]) < 0)
            sockets[i] = NULL;
}

static void call(uint32_t which, unsigned i)
{
    struct zh_net_socket *s = sockets[i];
    static const uint8_t options[] = {TCP_NODELAY, TCP_CORK, TCP_QUICKACK};
    int value = (int)next(1);
    uint8_t buffer[3000];
    switch (which) {
    case 0:
        zh_net_send(s, memory, next(2) % sizeof memory, value & 1 ? MSG_MORE : 0);
        break;
    case 1: {
        struct iovec pieces[2] = {{memory, next(2) % sizeof memory}, {memory, next(2) % 600}};
        struct zh_stream_record record = {pieces, 1 + (value & 1), released, memory};
        lent++;
        if (zh_net_send_records(s, &record, 1) != 1)
            lent--;
        break;
    }
    case 2:
        if (held_count < HELD) {
            int n = zh_net_take(s, &held[held_count], 1);
            if (n > 0)
                held_count += (unsigned)n;
        }
        break;
    case 3:
        zh_net_recv(s, buffer, next(2) % sizeof buffer, value & 1 ? MSG_PEEK : 0);
        break;
    case 4:
        zh_net_shutdown(s, value % 3);
        break;
    case 5:
        zh_net_close(s);
        sockets[i] = NULL;
        break;
    case 6:
        zh_net_setsockopt(s, IPPROTO_TCP, options[value % 3], &(int){value & 64}, sizeof(int));
        break;
    default:
        zh_net_setsockopt(s, SOL_SOCKET, SO_KEEPALIVE, &(int){value & 1}, sizeof(int));
    }
}

static void connect_one(void)
{
    struct sockaddr_in peer = {.sin_family = AF_INET,
                               .sin_addr.s_addr = rte_cpu_to_be_32(PEERS),
                               .sin_port = rte_cpu_to_be_16(CONNECT_PORT)};
    for (unsigned i = 0; i < SOCKETS; i++) {
        if (sockets[i] || zh_net_socket(net, AF_INET, &sockets[i]) < 0)
            continue;
        zh_net_connect(sockets[i], (struct sockaddr *)&peer, sizeof peer);
        return;
    }
}

static void step(void)
{
    uint32_t op = next(1);
    struct zh_net_event events[4];
    switch (op >> 5) {
    case 0:
    case 1:
    case 2:
        any_segment();
        break;
    case 3:
    case 4:
        if (sockets[op % SOCKETS])
            call(op >> 3 & 7, op % SOCKETS);
        break;
    case 5: /* 1 us to 2000 s */
        now += UINT64_C(1000) << (op & 31);
        zh_net_poll(net, now);
        check_invariants(net);
        send_arp();
        break;
    case 6:
        if (op & 1)
            release_one();
        if (op & 2)
            accept_all();
        if (op & 4)
            connect_one();
        if (op & 8)
            port_room = op & 16 ? 0 : UINT16_MAX;
        break;
    default:
        net->tcp->pressure.low = op & 1;
        zh_net_wait(net, events, 4);
        zh_net_poll(net, now);
    }
}

static void start(uint32_t options)
{
    struct zh_net_prefix address;
    char error[ZH_PORT_ERROR_SIZE];
    CHECK_EQ(zh_net_prefix_parse("10.0.0.1/24", &address), 0);
    struct zh_net_config config = {.addresses = &address,
                                   .address_count = 1,
                                   .max_connections = 32,
                                   .max_half_open = 4,
                                   .max_time_wait = 2,
                                   .max_neighbours = 8,
                                   .send_packets = 512,
                                   .receive_budget = 65536,
                                   .send_limit = 32768,
                                   .congestion_control = options & 64 ? "newreno" : "cubic",
                                   .seed = 1};
    now = 1000 * NET_SECOND;
    port_room = UINT16_MAX;
    CHECK_EQ(zh_net_create(&config, &port, &net, error), 0);
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = rte_cpu_to_be_16(80)};
    CHECK_EQ(zh_net_socket(net, AF_INET, &listener), 0);
    CHECK_EQ(zh_net_bind(listener, (struct sockaddr *)&any, sizeof any), 0);
    CHECK_EQ(zh_net_listen(listener, 3), 0);
    struct tcp_options syn = {.has_mss = options & 1,
                              .mss = options & 32 ? 100 : 1460,
                              .has_window_shift = options & 2,
                              .window_shift = 3,
                              .sack_permitted = options & 4,
                              .has_timestamps = options & 8,
                              .tsval = 5};
    uint32_t isn = options & 16 ? 0xffffff00 : 0x7fffff00;
    send_arp();
    send_segment(PEER_PORT, 80, isn, 0, TCP_SYN, 2000, &syn, 0, 0, false);
    zh_net_poll(net, now);
    struct tcp_options ack = {.has_timestamps = options & 8, .tsval = 5};
    send_segment(PEER_PORT, 80, isn + 1, synack_seq + 1, TCP_ACK, 2000, &ack, 0, 0, false);
    accept_all();
    CHECK(sockets[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!pool) {
        start_eal();
        pool = rte_pktmbuf_pool_create("fuzz", POOL, 0, 0, RTE_MBUF_DEFAULT_BUF_SIZE, 0);
        CHECK(pool);
        port.pool = pool;
    }
    input = data;
    left = size;
    start(next(1));
    check_invariants(net);
    for (unsigned i = 0; left && i < STEPS_MAX; i++) {
        step();
        check_invariants(net);
    }
    zh_net_poll(net, now);
    check_invariants(net);
    zh_net_destroy(net);
    memset(sockets, 0, sizeof sockets);
    while (held_count)
        release_one();
    CHECK_EQ(lent, 0);
    CHECK(rte_mempool_full(pool));
    return 0;
}
