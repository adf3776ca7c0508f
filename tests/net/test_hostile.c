/* Peers and applications that mean harm: what they do must stay theirs. Two stacks in virtual time;
 * an attacker puts frames of its own into end 0. */
#include <rte_mempool.h>
#include <string.h>
#include <sys/resource.h>

#include "net/headers.h"
#include "net/tcp_conn.h"
#include "pair.h"

static struct stacks stacks;
static struct zh_net_socket *listener;
static uint8_t record[1 << 20];
static struct rte_mempool *pool; /* the attacker's */

static const struct zh_fault usual_fault = {
    .delay = 50 * NET_US, .rate = UINT64_C(10000000000), .queue = 256};

static void start(uint32_t packets)
{
    struct zh_wire_config wire = {.fault = {usual_fault, usual_fault}, .packets = packets};
    struct zh_net_config config = {.send_packets = 8192, .time_wait = NET_SECOND};
    stacks_start(&stacks, &wire, (const struct zh_net_config *[2]){&config, &config});
    listener = stacks_listen(&stacks, AF_INET, 80, 128);
    if (!pool)
        pool = rte_pktmbuf_pool_create("attacker", 4095, 0, 0, RTE_MBUF_DEFAULT_BUF_SIZE, 0);
    CHECK(pool);
}

static void stop(void)
{
    zh_net_close(listener);
    stacks_run(&stacks, 5 * NET_SECOND);
    stacks_stop(&stacks, 0);
    CHECK_EQ(rte_mempool_in_use_count(pool), 0);
}

struct forged {
    uint32_t src; /* host byte order */
    uint16_t from, to;
    uint32_t seq, ack;
    uint8_t flags;
    uint16_t window, size;
    struct tcp_options options;
};

/* Put a segment of any source into an end's stack. */
static void inject(int end, const struct forged *f)
{
    uint8_t frame[1514] = {0};
    struct ether_header ether = {.type = rte_cpu_to_be_16(ETHER_IPV4)};
    struct ipv4_header ip = {.version_ihl = 0x45,
                             .ttl = 64,
                             .protocol = IPPROTO_TCP,
                             .src = rte_cpu_to_be_32(f->src),
                             .dst = rte_cpu_to_be_32(UINT32_C(0x0a000001) + (uint32_t)end)};
    struct net_addr src = net_addr_v4(ip.src), dst = net_addr_v4(ip.dst);
    uint16_t header = (uint16_t)(20 + tcp_options_emit(&f->options, frame + 54));
    memcpy(ether.dst, stacks.ports[end]->mac, 6);
    memcpy(ether.src, stacks.ports[!end]->mac, 6);
    memcpy(frame, &ether, sizeof ether);
    ip.total_length = rte_cpu_to_be_16((uint16_t)(20 + header + f->size));
    ip.checksum = (uint16_t)~net_sum_fold(net_sum(&ip, sizeof ip));
    memcpy(frame + 14, &ip, sizeof ip);
    struct tcp_header tcp = {
        .src_port = rte_cpu_to_be_16(f->from),
        .dst_port = rte_cpu_to_be_16(f->to),
        .seq = rte_cpu_to_be_32(f->seq),
        .ack = rte_cpu_to_be_32(f->ack),
        .offset = (uint8_t)(header / 4 << 4),
        .flags = f->flags,
        .window = rte_cpu_to_be_16(f->window),
    };
    memcpy(frame + 34, &tcp, sizeof tcp);
    tcp.checksum = (uint16_t)~net_sum_fold(
        net_sum_pseudo(&src, &dst, IPPROTO_TCP, (uint32_t)header + f->size) +
        net_sum(frame + 34, (uint32_t)header + f->size));
    memcpy(frame + 34, &tcp, sizeof tcp);
    struct rte_mempool *from = stacks.ports[end]->pool;
    struct rte_mbuf *packet = rte_pktmbuf_alloc(f->size ? from : pool);
    if (!packet)
        return; /* as a device without buffers does */
    uint16_t size = (uint16_t)(34 + header + f->size);
    memcpy(rte_pktmbuf_append(packet, size), frame, size);
    zh_net_input(stacks.nets[end], packet, stacks.now);
}

/* As if from the peer of a connection of `end`, in its window. */
static struct forged of_peer(int end, const struct zh_net_socket *s)
{
    struct forged f = {.src = UINT32_C(0x0a000001) + (uint32_t)!end,
                       .from = rte_be_to_cpu_16(s->entry.flow.remote_port),
                       .to = rte_be_to_cpu_16(s->entry.flow.local_port),
                       .seq = s->rcv_nxt,
                       .ack = s->snd_una,
                       .flags = TCP_ACK,
                       .window = 1000};
    f.options.has_timestamps = s->flags & TCP_HAS_TIMESTAMPS;
    f.options.tsval = s->ts_recent;
    f.options.tsecr = tcp_ts_now(s->net, s->ts_offset);
    return f;
}

static void feed(struct zh_net_socket *s)
{
    struct iovec piece = {record, sizeof record};
    struct zh_stream_record one = {&piece, 1, NULL, NULL};
    while (zh_net_send_records(s, &one, 1) == 1)
        continue;
}

static uint64_t drain(struct zh_net_socket *s)
{
    struct zh_stream_segment segments[16];
    uint64_t bytes = 0;
    int count;
    while ((count = zh_net_take(s, segments, 16)) > 0)
        for (int i = 0; i < count; i++) {
            bytes += segments[i].size;
            zh_net_release(&segments[i]);
        }
    CHECK_EQ(count, -EAGAIN);
    return bytes;
}

/* The virtual time in which end 0 receives so much, `attack` being called before each step. */
static uint64_t transfer(struct zh_net_socket *ends[2], uint64_t size, void (*attack)(void))
{
    uint64_t begin = stacks.now, received = 0;
    while (received < size) {
        CHECK(stacks.now - begin < 100 * NET_SECOND);
        feed(ends[1]);
        if (attack)
            attack();
        stacks_step(&stacks, NET_SECOND);
        received += drain(ends[0]);
    }
    return stacks.now - begin;
}

static void reset_both(struct zh_net_socket *ends[2])
{
    struct linger now = {.l_onoff = 1};
    for (int i = 1; i >= 0; i--) {
        zh_net_setsockopt(ends[i], SOL_SOCKET, SO_LINGER, &now, sizeof now);
        zh_net_close(ends[i]);
    }
}

static long rss_kib(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

/* --- floods -------------------------------------------------------------------------------------
 */

static unsigned syns;
static uint64_t word = 1;

/* Two million a second. */
static void syn_flood(void)
{
    static uint64_t since;
    since = RTE_MAX(since, stacks.now - NET_MS);
    for (; since < stacks.now; since += 500, syns++) {
        word = word * UINT64_C(6364136223846793005) + 1442695040888963407;
        inject(0, &(struct forged){.src = UINT32_C(0x0a000000) | (uint32_t)(word >> 40),
                                   .from = (uint16_t)(word >> 20 | 1),
                                   .to = 80,
                                   .seq = (uint32_t)(word >> 13),
                                   .flags = TCP_SYN,
                                   .window = 1000,
                                   .options = {.has_mss = true, .mss = 1460}});
    }
}

static void test_syn_flood(void)
{
    struct zh_net_socket *ends[2];
    start(0);
    stacks_connect(&stacks, listener, ends);
    uint64_t size = 24 << 20, before = transfer(ends, size, NULL), under = 0;
    long memory = rss_kib();
    unsigned rounds = 0;
    for (; syns < 1000000; rounds++)
        under += transfer(ends, size, syn_flood);
    fprintf(stderr, "SYN flood: 24 MiB in %.2f ms, %.2f before; %u requests, %ld KiB more\n",
            (double)under / rounds * 1e-6, (double)before * 1e-6, stacks.nets[0]->tcp->requests,
            rss_kib() - memory);
    CHECK((double)under / rounds * 0.8 < (double)before);
    CHECK(stacks.nets[0]->tcp->requests <= 4096);
    CHECK(rss_kib() - memory < 16 * 1024);
    reset_both(ends);
    stop();
}

/* A peer that opens connections and never says a word. */
static void test_idle_connections(void)
{
    enum { COUNT = 20000 };
    static struct zh_net_socket *opened[COUNT], *accepted[COUNT];
    struct zh_net_socket *ends[2];
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = rte_cpu_to_be_16(80)};
    to.sin_addr.s_addr = rte_cpu_to_be_32(UINT32_C(0x0a000001));
    start(0);
    stacks_connect(&stacks, listener, ends);
    uint64_t before = transfer(ends, 16 << 20, NULL);
    unsigned have = 0;
    for (unsigned i = 0; i < COUNT;) {
        for (int j = 0; j < 50; j++, i++) {
            CHECK_EQ(zh_net_socket(stacks.nets[1], AF_INET, &opened[i]), 0);
            CHECK_EQ(zh_net_connect(opened[i], (struct sockaddr *)&to, sizeof to), -EINPROGRESS);
        }
        stacks_run(&stacks, NET_MS);
        while (zh_net_accept(listener, &accepted[have]) == 0)
            have++;
    }
    CHECK_EQ(have, COUNT);
    uint64_t after = transfer(ends, 16 << 20, NULL);
    CHECK((double)after * 0.8 < (double)before);
    for (unsigned i = 0; i < COUNT; i++)
        reset_both((struct zh_net_socket *[2]){accepted[i], opened[i]});
    reset_both(ends);
    stop();
}

/* --- one connection's peer ----------------------------------------------------------------------
 */

/* Bytes that somebody else has put into both directions: each side acknowledges what the other has
 * never sent. No ACK answers an ACK for ever. */
static void test_ack_storm(void)
{
    struct zh_net_socket *ends[2];
    start(0);
    stacks_connect(&stacks, listener, ends);
    stacks_run(&stacks, NET_SECOND);
    for (int i = 0; i < 2; i++) {
        struct forged f = of_peer(i, ends[i]);
        f.size = 100;
        inject(i, &f);
    }
    uint64_t packets = stacks.packets;
    stacks_run(&stacks, 10 * NET_SECOND);
    CHECK(stacks.packets - packets < 300);
    /* Old sequence numbers and old timestamps. */
    for (int old = 0; old < 2; old++) {
        for (int i = 0; i < 2; i++) {
            struct forged f = of_peer(i, ends[i]);
            f.seq -= old ? 0 : 5000;
            f.options.tsval -= old ? 100000 : 0;
            inject(i, &f);
        }
        packets = stacks.packets;
        stacks_run(&stacks, 10 * NET_SECOND);
        CHECK(stacks.packets - packets < 300);
    }
    reset_both(ends);
    stop();
}

/* Resets beside the next sequence number are asked about, now and then, and end nothing. */
static void test_rst_storm(void)
{
    struct zh_net_socket *ends[2];
    start(0);
    stacks_connect(&stacks, listener, ends);
    stacks_run(&stacks, NET_SECOND);
    for (uint32_t i = 1; i < 100000; i++) {
        struct forged f = of_peer(0, ends[0]);
        f.flags = TCP_RST;
        f.seq += i * 17;
        inject(0, &f);
    }
    CHECK(stacks.nets[0]->stats.tcp_challenge_ack <= 1);
    transfer(ends, 1 << 20, NULL);
    reset_both(ends);
    stop();
}

/* One-byte segments, from the end of the window backwards: a buffer each. */
static void test_reverse_bytes(void)
{
    struct zh_net_socket *ends[2], *others[2];
    start(4096);
    stacks_connect(&stacks, listener, ends);
    stacks_connect(&stacks, listener, others);
    uint64_t before = transfer(others, 16 << 20, NULL), after = 0;
    struct forged f = of_peer(0, ends[0]);
    f.size = 1;
    f.seq = ends[0]->rcv_advertised;
    for (uint32_t left = RTE_MIN(ends[0]->rcv_advertised - ends[0]->rcv_nxt, UINT32_C(200000));
         left > 0; left--) {
        f.seq--;
        inject(0, &f);
        if (left % 32 == 0)
            stacks_step(&stacks, NET_US);
        if (left % 2000 == 0)
            after += transfer(others, 1 << 20, NULL);
        CHECK(rte_mempool_avail_count(stacks.ports[0]->pool) > 512);
    }
    fprintf(stderr, "reverse bytes: 16 MiB in %.2f ms, %.2f before\n",
            (double)after * 1e-6 / 100 * 16, (double)before * 1e-6);
    after = transfer(others, 16 << 20, NULL);
    CHECK((double)after * 0.8 < (double)before);
    /* And what is in order is taken in spite of them. */
    transfer(ends, 1 << 20, NULL);
    reset_both(ends);
    reset_both(others);
    stop();
}

/* Tiny segments in order, which nobody reads: they share buffers. */
static void test_tiny_unread(void)
{
    struct zh_net_socket *ends[2], *others[2];
    start(4096);
    stacks_connect(&stacks, listener, ends);
    stacks_connect(&stacks, listener, others);
    struct forged f = of_peer(0, ends[0]);
    f.size = 1;
    for (unsigned i = 0; i < 200000; i++) {
        f.seq = ends[0]->rcv_nxt;
        inject(0, &f);
        if (i % 32 == 0)
            stacks_step(&stacks, NET_US);
        CHECK(rte_mempool_avail_count(stacks.ports[0]->pool) > 512);
    }
    CHECK_EQ(ends[0]->rcv_queued, 200000);
    transfer(others, 16 << 20, NULL);
    reset_both(ends);
    reset_both(others);
    stop();
}

static void test_data_after_fin(void)
{
    struct zh_net_socket *ends[2];
    struct zh_stream_segment segment;
    start(0);
    stacks_connect(&stacks, listener, ends);
    stacks_run(&stacks, NET_SECOND);
    struct forged f = of_peer(0, ends[0]);
    f.flags |= TCP_FIN;
    inject(0, &f);
    CHECK_EQ(zh_net_take(ends[0], &segment, 1), 0);
    f = of_peer(0, ends[0]);
    f.size = 100;
    inject(0, &f);
    CHECK_EQ(zh_net_take(ends[0], &segment, 1), 0);
    CHECK_EQ(ends[0]->bytes_received, 0);
    reset_both(ends);
    stop();
}

/* A peer that closes its window over what was sent, and answers for ever: the connection stays.
 * One that is silent is given up after a bounded number of retransmissions. */
static void test_windows(void)
{
    for (int silent = 0; silent < 2; silent++) {
        struct zh_net_socket *ends[2];
        start(0);
        stacks_connect(&stacks, listener, ends);
        stacks_run(&stacks, NET_SECOND);
        struct zh_net_socket *s = ends[0];
        struct forged f = of_peer(0, s);
        /* The true peer is gone, without a word. */
        struct zh_port *port = stacks.ports[1];
        struct rte_mbuf *packets[64];
        feed(s);
        uint64_t limit = stacks.now + 4 * 3600 * NET_SECOND, next = stacks.now;
        while (stacks.now < limit && s->state == TCPS_ESTABLISHED) {
            uint64_t sent = stacks.nets[0]->stats.tcp_out;
            next = zh_net_poll(stacks.nets[0], stacks.now);
            rte_pktmbuf_free_bulk(packets, zh_port_receive(port, packets, 64));
            if (!silent && stacks.nets[0]->stats.tcp_out != sent) {
                f.window = 0;
                f.options.tsval++;
                inject(0, &f);
            }
            stacks.now = RTE_MAX(RTE_MIN(next, limit), stacks.now + NET_US);
            zh_wire_set_now(stacks.wire, stacks.now);
        }
        CHECK_EQ(s->state == TCPS_ESTABLISHED, !silent);
        CHECK(s->retransmissions < (silent ? 100 : 4 * 3600 / 100));
        if (silent)
            CHECK(s->error == ETIMEDOUT || s->error == EHOSTUNREACH); /* ARP's */
        rte_pktmbuf_free_bulk(packets, zh_port_receive(port, packets, 64));
        reset_both(ends);
        stop();
    }
}

/* Blocks that were never sent, are acknowledged, reversed, or taken back. */
static void test_lying_sack(void)
{
    struct zh_net_socket *ends[2];
    start(0);
    stacks_connect(&stacks, listener, ends);
    uint64_t before = transfer(ends, 16 << 20, NULL);
    for (uint32_t i = 0; i < 20000; i++) {
        struct zh_net_socket *s = ends[1];
        feed(s);
        struct forged f = of_peer(1, s);
        uint32_t flight = s->snd_nxt - s->snd_una + 1;
        word = word * UINT64_C(6364136223846793005) + 1442695040888963407;
        f.window = (uint16_t)(word >> 48);
        f.options.sack_count = 3;
        f.options.sack[0] = (struct tcp_sack_block){s->snd_nxt + 1, s->snd_nxt + 5000};
        f.options.sack[1] = (struct tcp_sack_block){s->snd_una - 5000, s->snd_una - 1};
        f.options.sack[2].start = s->snd_una + (uint32_t)(word >> 33) % flight;
        f.options.sack[2].end = f.options.sack[2].start + 3000;
        inject(1, &f);
        stacks_step(&stacks, NET_SECOND);
        drain(ends[0]);
    }
    /* What was acknowledged selectively and had not arrived is sent after a timeout (RFC 2018
     * section 8). */
    stacks_run(&stacks, 5 * NET_SECOND);
    drain(ends[0]);
    transfer(ends, 1 << 20, NULL);
    (void)before;
    reset_both(ends);
    stop();
}

/* --- lent memory that is written to -------------------------------------------------------------
 */

static const struct zh_port_ops *wire_ops;
static bool scribbling;

/* A device that reads payload after the application has changed it. */
static uint16_t late_send(struct zh_port *port, struct rte_mbuf **packets, uint16_t count)
{
    for (uint16_t i = 0; i < count && scribbling; i++) {
        struct rte_mbuf *payload = packets[i]->next;
        uint8_t *data = payload ? rte_pktmbuf_mtod(payload, uint8_t *) : NULL;
        if (data >= record && data < record + sizeof record)
            data[0]++;
    }
    return wire_ops->send(port, packets, count);
}

/* The checksum was that of what the memory was: the peer drops the segment, and nobody but the
 * connection waits. Sent again, it has a checksum of what the memory is by then. */
static void test_scribbled(void)
{
    static uint8_t own[1 << 20];
    struct zh_net_socket *ends[2], *others[2];
    struct zh_port_ops late;
    start(0);
    stacks_connect(&stacks, listener, ends);
    stacks_connect(&stacks, listener, others);
    wire_ops = stacks.ports[1]->ops;
    late = *wire_ops;
    late.send = late_send;
    stacks.ports[1]->ops = &late;
    struct iovec piece = {record, 100000};
    struct zh_stream_record one = {&piece, 1, NULL, NULL};
    scribbling = true;
    CHECK_EQ(zh_net_send_records(ends[1], &one, 1), 1);
    uint64_t received = 0;
    struct iovec others_piece = {own, sizeof own};
    struct zh_stream_record others_one = {&others_piece, 1, NULL, NULL};
    for (uint64_t end = stacks.now + NET_SECOND; stacks.now < end;) {
        zh_net_send_records(others[1], &others_one, 1);
        stacks_step(&stacks, end - stacks.now);
        received += drain(others[0]);
    }
    CHECK(received > (uint64_t)100 << 20);
    CHECK(stacks.nets[0]->stats.tcp_in_bad_checksum > 0);
    CHECK(drain(ends[0]) < 100000);
    scribbling = false;
    STACKS_UNTIL(&stacks, (drain(ends[0]), ends[0]->bytes_received == 100000));
    stacks.ports[1]->ops = wire_ops;
    reset_both(ends);
    reset_both(others);
    stop();
}

int main(void)
{
    test_ack_storm();
    test_rst_storm();
    test_data_after_fin();
    test_windows();
    test_scribbled();
    test_lying_sack();
    test_tiny_unread();
    test_reverse_bytes();
    test_idle_connections();
    test_syn_flood();
    return 0;
}
