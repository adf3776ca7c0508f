/* Ports on devices: frames of one, two and five segments, compared at the far end; what a port says
 * of its device; a device that goes away; what a user is told. Each test runs in a process and a
 * network namespace of its own, in which EAL starts anew. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <rte_errno.h>
#include <rte_mbuf.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "zerohop/port.h"

enum {
    ETHER_TYPE = 0x88b5, /* IEEE 802: for local experiments; nobody else sends it */
    SKIPPED = 77,        /* meson's */
    WAIT_MS = 3000,
};

static char error[ZH_PORT_ERROR_SIZE];
static struct rte_mempool *pool; /* of what is sent */

/* DPDK 22.11's AF_XDP driver never frees the 80 bytes of its umem. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:xsk_umem__create";
}

static double now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

__attribute__((format(printf, 1, 2))) static void shell(const char *format, ...)
{
    char command[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    if (system(command) != 0) {
        fprintf(stderr, "failed: %s\n", command);
        exit(1);
    }
}

/* A veth pair, zp0 for the port and zp1 for the kernel's end; checksums are done by the kernel. */
static void make_veth(unsigned mtu)
{
    shell("ip link add zp0 mtu %u numrxqueues 1 numtxqueues 1 type veth "
          "peer name zp1 mtu %u numrxqueues 1 numtxqueues 1",
          mtu, mtu);
    for (int i = 0; i < 2; i++) {
        shell("ethtool -K zp%d tx off tso off gso off gro off >/dev/null 2>&1", i);
        shell("ip link set zp%d up", i);
    }
}

/* A packet socket at the kernel's end. */
static int open_peer(const char *interface)
{
    int peer = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETHER_TYPE));
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_protocol = htons(ETHER_TYPE),
                                  .sll_ifindex = (int)if_nametoindex(interface)};
    CHECK(peer >= 0);
    CHECK_EQ(bind(peer, (struct sockaddr *)&address, sizeof address), 0);
    int size = 4 << 20;
    setsockopt(peer, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    return peer;
}

static struct zh_port *try_port(const char *device, uint16_t mtu, int *result)
{
    struct zh_port *port = NULL;
    struct zh_port_config config = {.device = device, .mtu = mtu, .rx_packets = 8192};
    *result = zh_port_open(&config, &port, error);
    return port;
}

static void make_pool(void)
{
    if (!pool)
        pool = rte_pktmbuf_pool_create("test", 4095, 128, 0, 10240, SOCKET_ID_ANY);
    CHECK(pool);
}

static struct zh_port *open_port(const char *device, uint16_t mtu)
{
    int result;
    struct zh_port *port = try_port(device, mtu, &result);
    if (result != 0) {
        fprintf(stderr, "%s: %d: %s\n", device, result, error);
        exit(1);
    }
    make_pool();
    return port;
}

static uint8_t pattern(unsigned position, unsigned seed)
{
    return (uint8_t)(position * 7 + (position >> 8) + seed);
}

static void fill_header(uint8_t *frame, const uint8_t *dst, const uint8_t *src)
{
    memcpy(frame, dst, 6);
    memcpy(frame + 6, src, 6);
    frame[12] = ETHER_TYPE >> 8;
    frame[13] = ETHER_TYPE & 255;
}

static unsigned released;

static void release(void *data, void *opaque)
{
    (void)opaque;
    free(data);
    released++;
}

/* A frame spread over segments, the last of them memory from outside where `lent`. */
static struct rte_mbuf *make_frame(const struct zh_port *port, unsigned size, unsigned segments,
                                   bool lent)
{
    static const uint8_t everybody[6] = {255, 255, 255, 255, 255, 255};
    static struct rte_mbuf_ext_shared_info shared[16];
    static unsigned next;
    struct rte_mbuf *head = NULL;
    uint8_t bytes[16384];
    for (unsigned i = 0; i < size; i++)
        bytes[i] = pattern(i, size);
    fill_header(bytes, everybody, port->mac);
    for (unsigned i = 0; i < segments; i++) {
        /* Headers are in the first, as a stack writes them. */
        unsigned from = i ? 14 + (size - 14) * i / segments : 0;
        unsigned to = 14 + (size - 14) * (i + 1) / segments;
        struct rte_mbuf *segment = rte_pktmbuf_alloc(pool);
        CHECK(segment);
        if (lent && i > 0 && i + 1 == segments) {
            struct rte_mbuf_ext_shared_info *info = &shared[next++ % 16];
            void *memory = malloc(to - from);
            *info = (struct rte_mbuf_ext_shared_info){.free_cb = release};
            rte_mbuf_ext_refcnt_set(info, 1);
            rte_pktmbuf_attach_extbuf(segment, memory, 0, (uint16_t)(to - from), info);
        }
        uint8_t *data = (uint8_t *)rte_pktmbuf_append(segment, (uint16_t)(to - from));
        CHECK(data);
        memcpy(data, bytes + from, to - from);
        if (head)
            CHECK_EQ(rte_pktmbuf_chain(head, segment), 0);
        else
            head = segment;
    }
    CHECK_EQ(head->nb_segs, segments);
    return head;
}

static void send_frame(struct zh_port *port, struct rte_mbuf *frame)
{
    double end = now_ms() + WAIT_MS;
    while (zh_port_send(port, &frame, 1) != 1) {
        CHECK(now_ms() < end);
        sched_yield();
    }
}

static struct rte_mbuf *receive_frame(struct zh_port *port)
{
    struct rte_mbuf *packet;
    double end = now_ms() + WAIT_MS;
    while (zh_port_receive(port, &packet, 1) != 1) {
        CHECK(now_ms() < end);
        sched_yield();
    }
    return packet;
}

static void check_frame(const struct rte_mbuf *packet, unsigned size)
{
    uint8_t room[16384];
    CHECK_EQ(packet->pkt_len, size);
    const uint8_t *bytes = rte_pktmbuf_read(packet, 0, size, room);
    for (unsigned i = 14; i < size; i++)
        CHECK_EQ(bytes[i], pattern(i, size));
}

/* Frames of all kinds out of the port to the kernel, and plain ones back. */
static void exchange_with_kernel(struct zh_port *port, int peer, unsigned largest)
{
    static const unsigned segments[] = {1, 2, 5};
    uint8_t bytes[16384];
    unsigned frames = 0, lent = 0, was_released = released;
    for (unsigned s = 0; s < 3; s++) {
        unsigned sizes[] = {60 + s, 700 + s, largest - s};
        for (unsigned i = 0; i < 3; i++) {
            lent += segments[s] > 1 && i > 0;
            send_frame(port, make_frame(port, sizes[i], segments[s], i > 0));
            struct pollfd wait = {.fd = peer, .events = POLLIN};
            CHECK_EQ(poll(&wait, 1, WAIT_MS), 1);
            CHECK_EQ(recv(peer, bytes, sizeof bytes, 0), sizes[i]);
            CHECK(memcmp(bytes + 6, port->mac, 6) == 0);
            for (unsigned j = 14; j < sizes[i]; j++)
                CHECK_EQ(bytes[j], pattern(j, sizes[i]));
            frames++;

            fill_header(bytes, port->mac, (const uint8_t *)"\2zhop!");
            CHECK_EQ(send(peer, bytes, sizes[i], 0), sizes[i]);
            int descriptor = zh_port_descriptor(port);
            if (descriptor >= 0) {
                wait.fd = descriptor;
                CHECK_EQ(poll(&wait, 1, WAIT_MS), 1);
                CHECK(wait.revents & POLLIN);
            }
            struct rte_mbuf *packet = receive_frame(port);
            CHECK_EQ(packet->nb_segs, 1);
            CHECK(memcmp(rte_pktmbuf_mtod(packet, void *), port->mac, 6) == 0);
            check_frame(packet, sizes[i]);
            rte_pktmbuf_free(packet);
        }
    }
    struct zh_port_stats stats;
    zh_port_stats(port, &stats);
    CHECK_EQ(stats.tx_packets, frames);
    CHECK_EQ(stats.rx_packets, frames);
    CHECK_EQ(stats.tx_bytes, stats.rx_bytes);
    CHECK_EQ(stats.rx_dropped, 0);
    CHECK_EQ(stats.tx_linearized, port->max_segments == 1 ? 6 : 0);
    zh_port_reclaim(port);
    CHECK_EQ(rte_mempool_in_use_count(pool), 0);
    CHECK_EQ(released - was_released, lent);
    CHECK(zh_port_alive(port));
}

static void check_mac(const struct zh_port *port, const char *interface)
{
    struct ifreq ifr = {0};
    int any = socket(AF_INET, SOCK_DGRAM, 0);
    snprintf(ifr.ifr_name, sizeof ifr.ifr_name, "%s", interface);
    CHECK_EQ(ioctl(any, SIOCGIFHWADDR, &ifr), 0);
    CHECK(memcmp(port->mac, ifr.ifr_hwaddr.sa_data, 6) == 0);
    close(any);
}

static void test_veth(const char *device, unsigned mtu)
{
    make_veth(mtu);
    int peer = open_peer("zp1");
    /* Opened twice: a port closes well enough to be opened again. */
    for (int i = 0; i < 2; i++) {
        struct zh_port *port = open_port(device, 0);
        CHECK_EQ(port->mtu, mtu);
        check_mac(port, "zp0");
        CHECK(zh_port_descriptor(port) >= 0);
        exchange_with_kernel(port, peer, mtu + 14);
        zh_port_close(port);
    }
}

static void test_af_packet(void)
{
    test_veth("net_af_packet0,iface=zp0", 1500);
}

static void test_af_packet_jumbo(void)
{
    test_veth("net_af_packet0,iface=zp0", 9000);
}

static void test_af_packet_options(void)
{
    test_veth("net_af_packet3,iface=zp0,framesz=16384,blocksz=65536,framecnt=256", 9000);
}

static void test_af_xdp(void)
{
    test_veth("net_af_xdp0,iface=zp0", 1500);
}

static void test_af_xdp_large(void)
{
    test_veth("net_af_xdp0,iface=zp0", 3502);
}

static void test_tap(void)
{
    struct zh_port *port = open_port("net_tap0,iface=zp0", 0);
    int peer = open_peer("zp0");
    /* No signal of the tap's reaches a thread that sleeps. */
    CHECK(zh_port_descriptor(port) >= 0);
    exchange_with_kernel(port, peer, 1514);
    zh_port_close(port);
}

static void test_ring(void)
{
    static const unsigned segments[] = {1, 2, 5};
    struct zh_port *port = open_port("net_ring0", 0);
    CHECK(port->mac[0] & 2);
    CHECK_EQ(zh_port_descriptor(port), -1);
    for (unsigned s = 0; s < 3; s++) {
        send_frame(port, make_frame(port, 1514, segments[s], true));
        struct rte_mbuf *packet = receive_frame(port);
        check_frame(packet, 1514);
        rte_pktmbuf_free(packet);
    }
    CHECK_EQ(rte_mempool_in_use_count(pool), 0);
    zh_port_close(port);
}

/* --- memif: two processes --------------------------------------------------------------------- */

/* Sends back what it receives until it is told to stop. */
static void echo(const char *device, uint16_t mtu, int stop)
{
    struct zh_port *port = open_port(device, mtu);
    struct rte_mbuf *packets[32];
    struct pollfd wait = {.fd = stop, .events = POLLIN};
    while (poll(&wait, 1, 0) == 0) {
        uint16_t got = zh_port_receive(port, packets, 32);
        for (uint16_t i = 0; i < got; i++) {
            check_frame(packets[i], packets[i]->pkt_len);
            send_frame(port, packets[i]);
        }
        if (!got)
            sched_yield();
    }
    zh_port_close(port);
    exit(0);
}

static void exchange_memif(const char *options, uint16_t mtu)
{
    static const unsigned segments[] = {1, 2, 5};
    char device[256];
    int stop[2], status;
    CHECK_EQ(pipe(stop), 0);
    pid_t server = fork();
    CHECK(server >= 0);
    if (server == 0) {
        close(stop[1]);
        snprintf(device, sizeof device, "net_memif0,role=server,%s", options);
        echo(device, mtu, stop[0]);
    }
    close(stop[0]);
    snprintf(device, sizeof device, "net_memif0,role=client,%s", options);
    int result;
    struct zh_port *port;
    double until = now_ms() + WAIT_MS;
    while (!(port = try_port(device, mtu, &result)) && result == -ECONNREFUSED) {
        CHECK(now_ms() < until && strstr(error, "role=server first"));
        usleep(10000);
    }
    CHECK(port);
    make_pool();
    CHECK_EQ(zh_port_descriptor(port), -1);
    CHECK(zh_port_alive(port)); /* nobody has been there yet */
    for (unsigned s = 0; s < 3; s++) {
        for (unsigned i = 0; i < 2; i++) {
            unsigned size = i ? port->mtu + 14u - s : 64 + s;
            send_frame(port, make_frame(port, size, segments[s], true));
            struct rte_mbuf *packet = receive_frame(port);
            CHECK_EQ(packet->nb_segs, 1);
            check_frame(packet, size);
            rte_pktmbuf_free(packet);
        }
    }
    CHECK_EQ(rte_mempool_in_use_count(pool), 0);
    CHECK(zh_port_alive(port));
    close(stop[1]);
    CHECK_EQ(waitpid(server, &status, 0), server);
    CHECK_EQ(status, 0);
    until = now_ms() + WAIT_MS;
    while (zh_port_alive(port)) { /* the peer's leaving is noticed */
        CHECK(now_ms() < until);
        usleep(1000);
    }
    zh_port_close(port);
}

static void test_memif(void)
{
    exchange_memif("id=0", 0);
}

static void test_memif_jumbo(void)
{
    char path[64], options[128];
    struct stat found;
    snprintf(path, sizeof path, "/tmp/zh-test-ports-%d.sock", (int)getpid());
    snprintf(options, sizeof options, "id=3,socket=%s,socket-abstract=no", path);
    exchange_memif(options, 9000);
    CHECK(stat(path, &found) != 0 && errno == ENOENT); /* no file stays behind */
}

/* --- what happens to a port --------------------------------------------------------------------
 */

static void test_deleted(const char *device, bool wakes)
{
    struct rte_mbuf *packets[8];
    make_veth(1500);
    struct zh_port *port = open_port(device, 0);
    CHECK(zh_port_alive(port));
    shell("ip link del zp1");
    CHECK(!zh_port_alive(port));
    if (wakes) { /* who sleeps on it */
        struct pollfd wait = {.fd = zh_port_descriptor(port), .events = POLLIN};
        CHECK_EQ(poll(&wait, 1, WAIT_MS), 1);
    }
    for (int i = 0; i < 100; i++) { /* using it on does no harm */
        packets[0] = make_frame(port, 1000, 1, false);
        if (zh_port_send(port, packets, 1) == 0)
            rte_pktmbuf_free(packets[0]);
        CHECK_EQ(zh_port_receive(port, packets, 8), 0);
    }
    struct zh_port_stats stats;
    zh_port_stats(port, &stats);
    zh_port_close(port);

    make_veth(1500);
    int peer = open_peer("zp1");
    port = open_port(device, 0);
    exchange_with_kernel(port, peer, 1514);
    zh_port_close(port);
}

static void test_deleted_af_packet(void)
{
    test_deleted("net_af_packet0,iface=zp0", true);
}

static void test_deleted_af_xdp(void)
{
    test_deleted("net_af_xdp0,iface=zp0", false);
}

/* What the kernel could not put into the port's ring is counted. */
static void test_drops(const char *device)
{
    enum { SENT = 6000 };
    uint8_t bytes[200] = {0};
    struct rte_mbuf *packets[64];
    uint64_t got = 0;
    make_veth(1500);
    int peer = open_peer("zp1");
    struct zh_port *port = open_port(device, 0);
    fill_header(bytes, port->mac, port->mac);
    for (int i = 0; i < SENT; i++)
        CHECK_EQ(send(peer, bytes, sizeof bytes, 0), sizeof bytes);
    for (uint16_t n; (n = zh_port_receive(port, packets, 64)) > 0; got += n)
        rte_pktmbuf_free_bulk(packets, n);
    struct zh_port_stats stats;
    for (int i = 0; i < 2; i++) {
        zh_port_stats(port, &stats);
        CHECK_EQ(stats.rx_packets, got);
        CHECK(stats.rx_dropped > 0);
        CHECK_EQ(stats.rx_packets + stats.rx_dropped, SENT);
    }
    zh_port_close(port);
}

static void test_drops_af_packet(void)
{
    test_drops("net_af_packet0,iface=zp0");
}

static void test_drops_af_xdp(void)
{
    test_drops("net_af_xdp0,iface=zp0");
}

/* A SYN of the kernel's whose checksum is left to the device. */
static void test_blank_checksum(void)
{
    make_veth(1500);
    shell("ethtool -K zp1 tx on >/dev/null 2>&1");
    struct zh_port_config config = {.device = "net_af_packet0,iface=zp0", .trust_checksum = true};
    struct zh_port *port;
    CHECK_EQ(zh_port_open(&config, &port, error), 0);
    CHECK(port->trust_checksum);
    const uint8_t *m = port->mac;
    shell("ip addr add 10.77.9.1/24 dev zp1 && ip neigh add 10.77.9.2 dev zp1 lladdr "
          "%02x:%02x:%02x:%02x:%02x:%02x",
          m[0], m[1], m[2], m[3], m[4], m[5]);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(80)};
    inet_pton(AF_INET, "10.77.9.2", &to.sin_addr);
    for (int offload = 1; offload >= 0; offload--) {
        struct zh_port_stats before, after;
        int client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        shell("ethtool -K zp1 tx %s >/dev/null 2>&1", offload ? "on" : "off");
        zh_port_stats(port, &before);
        connect(client, (struct sockaddr *)&to, sizeof to);
        struct rte_mbuf *packet = receive_frame(port);
        zh_port_stats(port, &after);
        CHECK_EQ(after.rx_checksum_blank - before.rx_checksum_blank, offload);
        CHECK_EQ((packet->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) == RTE_MBUF_F_RX_L4_CKSUM_NONE,
                 offload);
        rte_pktmbuf_free(packet);
        close(client);
    }
    zh_port_close(port);
}

/* Packets that were taken outlive the port; a forked child has none and disturbs nobody. */
static void test_afterwards(const char *device)
{
    uint8_t bytes[300] = {0};
    int status;
    make_veth(1500);
    int peer = open_peer("zp1");
    struct zh_port *port = open_port(device, 0);
    fill_header(bytes, port->mac, port->mac);
    memset(bytes + 14, 'x', sizeof bytes - 14);
    CHECK_EQ(send(peer, bytes, sizeof bytes, 0), sizeof bytes);
    struct rte_mbuf *packet = receive_frame(port);
    const uint8_t *data = rte_pktmbuf_mtod(packet, const uint8_t *);
    int descriptor = zh_port_descriptor(port);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK_EQ(data[299], 0);
        CHECK_EQ(fcntl(descriptor, F_GETFD), -1);
        CHECK_EQ(zh_eal_start(NULL, error), -ENOTSUP);
        CHECK(strstr(error, "forked"));
        CHECK_EQ(zh_eal_thread(), -ENODEV);
        zh_port_close(port);
        _exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK_EQ(send(peer, bytes, sizeof bytes, 0), sizeof bytes);
    rte_pktmbuf_free(receive_frame(port));
    zh_port_close(port);
    CHECK_EQ(data[14], 'x');
    CHECK_EQ(data[299], 'x');
    rte_pktmbuf_free(packet);
    for (int i = 0; i < 30; i++) /* and the pool serves again: 30 would not fit */
        zh_port_close(open_port(device, 0));
}

static void test_afterwards_af_packet(void)
{
    test_afterwards("net_af_packet0,iface=zp0");
}

static void test_afterwards_af_xdp(void)
{
    test_afterwards("net_af_xdp0,iface=zp0");
}

/* --- what a port can do -------------------------------------------------------------------------
 */

static void measure(const char *device, unsigned mtu)
{
    static const uint8_t nobody[6] = {2, 1, 2, 3, 4, 5};
    struct zh_port_ceiling ceiling;
    struct zh_port_stats stats;
    make_veth(mtu);
    struct zh_port *port = open_port(device, 0);
    CHECK_EQ(zh_port_ceiling(port, port->mtu + 15, nobody, 1, &ceiling, error), -EINVAL);
    CHECK(strstr(error, "bytes"));
    CHECK_EQ(zh_port_ceiling(port, port->mtu + 14, nobody, 200000000, &ceiling, error), 0);
    zh_port_stats(port, &stats);
    CHECK_EQ(stats.tx_packets, ceiling.frames);
    CHECK_EQ(stats.tx_bytes, ceiling.bytes);
    CHECK(ceiling.nanoseconds >= 200000000);
    CHECK(ceiling.frames > 1000);
    printf("%s: %.1f Gb/s in frames of %u\n", device,
           (double)ceiling.bytes * 8 / (double)ceiling.nanoseconds, port->mtu + 14u);
    zh_port_close(port);
}

static void test_ceiling_af_packet(void)
{
    measure("net_af_packet0,iface=zp0", 1500);
}

static void test_ceiling_af_xdp(void)
{
    measure("net_af_xdp0,iface=zp0", 1500);
}

/* --- what a user is told ------------------------------------------------------------------------
 */

static void refused(const char *device, uint16_t mtu, int code, const char *words)
{
    int result;
    error[0] = 0;
    struct zh_port *port = try_port(device, mtu, &result);
    if (result != code || !strstr(error, words)) {
        fprintf(stderr, "%s: %d (expected %d, \"%s\"): %s\n", device, result, code, words, error);
        exit(1);
    }
    CHECK(!port);
}

static void test_errors(void)
{
    make_veth(9000);
    shell("ip link add zp2 type veth peer name zp3");
    refused("eth0", 0, -EINVAL, "is no device that ports are made of");
    refused("net_af_packet0", 0, -EINVAL, "net_af_packet0,iface=NAME");
    refused("net_af_packet0,iface=zp9", 0, -ENODEV, "there is no interface \"zp9\"");
    refused("net_af_packet0,iface=zp2", 0, -ENETDOWN, "ip link set dev zp2 up");
    refused("net_af_packet0,iface=zp0", 9001, -EMSGSIZE, "ip link set dev zp0 mtu 9001");
    refused("net_af_packet0,iface=zp0,framesz=2048", 0, -EINVAL, "at least 9104");
    refused("net_af_packet0,iface=zp0,blocksz=12288", 0, -EINVAL, "multiple of framesz (9216)");
    refused("net_af_packet0,iface=zp0,qpairs=2", 0, -EINVAL, "one queue");
    refused("net_af_packet0,iface=zp0,frames=3", 0, -EINVAL, "does not know the option frames");
    refused("net_af_xdp0,iface=zp0", 0, -EMSGSIZE, "mtu 3502");
    refused("net_memif0,bsize=1500", 0, -EINVAL, "would crash the peer: at least 1518");
    refused("net_memif0,socket=/nowhere", 0, -ECONNREFUSED, "role=server first");
    refused("net_memif0,zero-copy=yes", 0, -EINVAL, "leave it out");
    refused("0000:fe:1f.7", 0, -ENODEV, "dpdk-devbind.py");
    refused("net_ring0", 20, -EINVAL, "an MTU is 68");
    struct zh_port *port = open_port("net_af_packet0,iface=zp0", 1500);
    refused("net_af_packet0,iface=zp0", 0, -EEXIST, "open in this process already");
    CHECK_EQ(port->mtu, 1500);
    zh_port_close(port);
    struct zh_port_config config = {.device = "net_ring0", .rx_packets = 10000000};
    CHECK_EQ(zh_port_open(&config, &port, error), -ENOMEM);
    CHECK(strstr(error, "-m MEGABYTES"));
    config = (struct zh_port_config){.device = "net_ring0", .eal = "-m 77"};
    CHECK_EQ(zh_port_open(&config, &port, error), -EALREADY);
    CHECK(strstr(error, "starts once"));
}

static void test_wrong_eal_arguments(void)
{
    struct zh_port_config config = {.device = "net_ring0", .eal = "-d /nowhere/librte_nothing.so"};
    struct zh_port *port;
    CHECK(zh_port_open(&config, &port, error) < 0);
    CHECK(strstr(error, "correct them") && strstr(error, "librte_nothing.so"));
}

static void test_without_privileges(void)
{
    make_veth(1500);
    CHECK_EQ(setgid(65534), 0);
    CHECK_EQ(setuid(65534), 0);
    refused("net_af_packet0,iface=zp0", 0, -EPERM, "CAP_NET_RAW");
    refused("net_af_xdp0,iface=zp0", 0, -EPERM, "CAP_NET_RAW");
    struct zh_port *port = open_port("net_ring0", 0); /* this one needs none */
    zh_port_close(port);
}

/* ------------------------------------------------------------------------------------------------
 */

static const struct {
    const char *name;
    void (*run)(void);
} tests[] = {
    {"af_packet", test_af_packet},
    {"af_packet, MTU 9000", test_af_packet_jumbo},
    {"af_packet with options", test_af_packet_options},
    {"af_xdp", test_af_xdp},
    {"af_xdp, MTU 3502", test_af_xdp_large},
    {"tap", test_tap},
    {"ring", test_ring},
    {"memif", test_memif},
    {"memif, MTU 9000", test_memif_jumbo},
    {"af_packet, interface deleted", test_deleted_af_packet},
    {"af_xdp, interface deleted", test_deleted_af_xdp},
    {"af_packet, drops", test_drops_af_packet},
    {"af_xdp, drops", test_drops_af_xdp},
    {"blank checksum", test_blank_checksum},
    {"af_packet, afterwards", test_afterwards_af_packet},
    {"af_xdp, afterwards", test_afterwards_af_xdp},
    {"af_packet, ceiling", test_ceiling_af_packet},
    {"af_xdp, ceiling", test_ceiling_af_xdp},
    {"errors", test_errors},
    {"wrong EAL arguments", test_wrong_eal_arguments},
    {"without privileges", test_without_privileges},
};

int main(int argc, char **argv)
{
    int failed = 0;
    if (geteuid() != 0 || unshare(CLONE_NEWNET) != 0) {
        fprintf(stderr, "test_ports needs root, for network namespaces and packet sockets%s\n",
                getenv("CI") ? ": in CI it must run" : ": skipped");
        return getenv("CI") ? 1 : SKIPPED;
    }
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        int status;
        if (argc > 1 && !strstr(tests[i].name, argv[1]))
            continue;
        double start = now_ms();
        pid_t child = fork();
        if (child == 0) {
            CHECK_EQ(unshare(CLONE_NEWNET), 0);
            /* Else the kernel says hello on every new interface. */
            shell("echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6");
            alarm(60);
            tests[i].run();
            exit(0);
        }
        CHECK_EQ(waitpid(child, &status, 0), child);
        printf("%-30s %s %5.0f ms\n", tests[i].name, status ? "FAILED" : "ok", now_ms() - start);
        fflush(stdout);
        failed += status != 0;
    }
    return failed != 0;
}
