/* IPv4: what is accepted, what is dropped, reassembly and its limits. */
#include <rte_mempool.h>

#include "layers.h"

static uint8_t payload[65536 + 64];

static struct frame tcp(size_t size)
{
    return ipv4_frame(PEER_IP, OUR_IP, IPPROTO_TCP, NULL, 0, 1, 0, payload, size);
}

static void expect_tcp(unsigned packets, size_t size)
{
    CHECK_EQ(tcp_seen.packets, packets);
    CHECK_EQ(tcp_seen.size, size);
    CHECK(memcmp(tcp_seen.data, payload, size) == 0);
}

static void set_sum(struct frame *frame, size_t size)
{
    memset(frame->data + 24, 0, 2);
    uint16_t sum = (uint16_t)~net_sum_fold(net_sum(frame->data + 14, size));
    memcpy(frame->data + 24, &sum, 2);
}

static void test_accepts(void)
{
    struct zh_net *net = new_net(NULL);
    unsigned count = 0;
    for (size_t size = 20; size < 400; size += 7) {
        struct frame frame = tcp(size);
        input(net, &frame);
        expect_tcp(++count, size);
        /* Ethernet's padding is no payload. */
        put(&frame, "paddingpadding", 14);
        input(net, &frame);
        expect_tcp(++count, size);
        /* Any segments. */
        for (size_t segment = 1; segment < 70; segment += segment < 25 ? 1 : 9) {
            input_segments(net, &frame, segment);
            expect_tcp(++count, size);
        }
    }
    struct net_addr peer = v4(PEER_IP), us = v4(OUR_IP);
    CHECK(net_addr_equal(&tcp_seen.info.src, &peer) && net_addr_equal(&tcp_seen.info.dst, &us));
    CHECK_EQ(tcp_seen.info.ttl, 64);
    CHECK_EQ(tcp_seen.info.ip_header_size, 20);
    CHECK(!tcp_seen.info.broadcast && !tcp_seen.info.was_fragmented);
    CHECK_EQ(net->stats.ip_in_bad + net->stats.ip_in_foreign, 0);
    expect_silence();
    end_net(net);
}

static void test_bad_headers(void)
{
    struct zh_net *net = new_net(NULL);
    struct frame frame;
    uint64_t bad = 0;
    /* Any bit of the header, by its checksum if by nothing else. */
    for (unsigned bit = 0; bit < 160; bit++) {
        frame = tcp(40);
        frame.data[14 + bit / 8] ^= (uint8_t)(1 << bit % 8);
        input(net, &frame);
        CHECK_EQ(net->stats.ip_in_bad, ++bad);
    }
    /* Cut anywhere. */
    for (size_t size = 14; size < 14 + 60; size++) {
        frame = tcp(40);
        frame.size = size;
        input(net, &frame);
        CHECK_EQ(net->stats.ip_in_bad, ++bad);
        input_segments(net, &frame, 9);
        CHECK_EQ(net->stats.ip_in_bad, ++bad);
    }
    /* With a right checksum: version, header size, total length. */
    static const struct {
        size_t at;
        uint8_t value;
    } wrong[] = {{0, 0x55}, {0, 0x44}, {3, 61}, {3, 19}, {2, 1}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        frame = tcp(40);
        frame.data[14 + wrong[i].at] = wrong[i].value;
        set_sum(&frame, (frame.data[14] & 15u) * 4);
        input(net, &frame);
        CHECK_EQ(net->stats.ip_in_bad, ++bad);
    }
    /* Sources that nobody has. */
    static const char *const sources[] = {"\x00\x00\x00\x00", "\x7f\x00\x00\x01",
                                          "\xe0\x00\x00\x01", "\xff\xff\xff\xff", OUR_IP};
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        frame = ipv4_frame(sources[i], OUR_IP, IPPROTO_TCP, NULL, 0, 1, 0, payload, 40);
        input(net, &frame);
        CHECK_EQ(net->stats.ip_in_bad, ++bad);
    }
    /* For others. */
    static const char *const others[] = {"\x0a\x00\x00\x03", "\x0a\x00\x00\xff", "\xff\xff\xff\xff",
                                         "\xe0\x00\x00\x01"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        frame = ipv4_frame(PEER_IP, others[i], IPPROTO_TCP, NULL, 0, 1, 0, payload, 40);
        memcpy(frame.data, EVERYBODY, i % 2 ? 6 : 0);
        input(net, &frame);
        CHECK_EQ(net->stats.ip_in_foreign, i + 1);
    }
    frame = tcp(40);
    memcpy(frame.data, EVERYBODY, 6);
    input(net, &frame);
    CHECK_EQ(net->stats.ip_in_foreign, 5);
    /* Frames for others: no IP packets. */
    uint64_t in = net->stats.ip_in, foreign = net->stats.ether_in_foreign;
    static const char *const macs[] = {OTHER_MAC, "\x01\x00\x5e\x00\x00\x01",
                                       "\x33\x33\x00\x00\x00\x01"};
    for (size_t i = 0; i < sizeof macs / sizeof *macs; i++) {
        frame = tcp(40);
        memcpy(frame.data, macs[i], 6);
        input(net, &frame);
    }
    frame = tcp(40);
    frame.data[6] |= 1;
    input(net, &frame);
    frame = tcp(40);
    frame.data[12] = 0x81; /* a VLAN's */
    input(net, &frame);
    for (frame.size = 1; frame.size < 14; frame.size++)
        input(net, &frame);
    CHECK_EQ(net->stats.ip_in, in);
    CHECK_EQ(net->stats.ether_in_foreign, foreign + 5 + 13);
    CHECK_EQ(tcp_seen.packets, 0);
    expect_silence();
    end_net(net);
}

static void test_options(void)
{
    struct zh_net *net = new_net(NULL);
    static const struct {
        const char *bytes;
        size_t size;
        bool fine;
    } options[] = {
        {"\x01\x01\x01\x00", 4, true},                 /* nothing, end */
        {"\x94\x04\x00\x00", 4, true},                 /* router alert */
        {"\x07\x07\x04\x00\x00\x00\x00\x00", 8, true}, /* record route */
        {"\x00\xff\xff\xff", 4, true},                 /* what follows the end is nothing */
        {"\x07\x08\x04\x00", 4, false},                /* longer than the header */
        {"\x07\x01\x04\x00", 4, false},
        {"\x07\x00\x04\x00", 4, false},
        {"\x01\x01\x01\x07", 4, false},                 /* without a length */
        {"\x83\x07\x04\x0a\x00\x00\x09\x00", 8, false}, /* loose source route */
        {"\x01\x89\x07\x08\x0a\x00\x00\x09", 8, false}, /* strict source route */
    };
    unsigned count = 0;
    uint64_t bad = 0;
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        struct frame frame = ipv4_frame(PEER_IP, OUR_IP, IPPROTO_TCP, options[i].bytes,
                                        options[i].size, 1, 0, payload, 40);
        input(net, &frame);
        count += options[i].fine;
        bad += !options[i].fine;
        CHECK_EQ(net->stats.ip_in_bad, bad);
        CHECK_EQ(tcp_seen.packets, count);
        if (options[i].fine)
            CHECK_EQ(tcp_seen.info.ip_header_size, 20 + options[i].size);
    }
    expect_silence();
    end_net(net);
}

static void piece(struct zh_net *net, const void *src, uint16_t id, size_t offset, size_t size,
                  bool more)
{
    struct frame frame = ipv4_frame(src, OUR_IP, IPPROTO_TCP, NULL, 0, id,
                                    (uint16_t)(offset / 8 | (more ? IPV4_MORE_FRAGMENTS : 0)),
                                    payload + offset, size);
    input(net, &frame);
}

static uint32_t in_use(void)
{
    return rte_mempool_in_use_count(test_pool);
}

static void test_fragments_in_any_order(void)
{
    static const uint8_t orders[][4] = {{0, 1, 2, 3}, {3, 2, 1, 0}, {1, 3, 0, 2}, {2, 0, 3, 1}};
    struct zh_net *net = new_net(NULL);
    for (unsigned i = 0; i < 4; i++) {
        for (unsigned k = 0; k < 4; k++) {
            size_t n = orders[i][k];
            piece(net, PEER_IP, (uint16_t)i, n * 480, n < 3 ? 480 : 123, n < 3);
            if (k == 1) /* twice the same is no overlap */
                piece(net, PEER_IP, (uint16_t)i, n * 480, n < 3 ? 480 : 123, n < 3);
        }
        expect_tcp(i + 1, 3 * 480 + 123);
        CHECK(tcp_seen.info.was_fragmented);
    }
    CHECK_EQ(net->stats.fragments_joined, 4);
    CHECK_EQ(net->stats.fragments_dropped, 4);
    CHECK_EQ(in_use(), 0);
    CHECK(zh_net_poll(net, test_now) == NET_NEVER);
    /* A first piece too short for TCP's header is no way around anything. */
    piece(net, PEER_IP, 9, 8, 100, false);
    piece(net, PEER_IP, 9, 0, 8, true);
    expect_tcp(5, 108);
    /* 65,515 bytes, all that IPv4 can have. */
    for (size_t at = 0; at < 65515; at += 1480)
        piece(net, PEER_IP, 10, at, at + 1480 < 65515 ? 1480 : 65515 - at, at + 1480 < 65515);
    expect_tcp(6, 65515);
    expect_silence();
    end_net(net);
}

static void test_bad_fragments(void)
{
    struct zh_net *net = new_net(NULL);
    /* Overlaps, from both sides, within and around: the packet is gone, late pieces of it too. */
    static const struct {
        size_t offset, size;
    } overlaps[] = {{952, 480}, {400, 160}, {640, 800}, {488, 80},
                    {472, 600}, {480, 488}, {0, 1600},  {480, 472}};
    for (uint16_t i = 0; i < sizeof overlaps / sizeof *overlaps; i++) {
        piece(net, PEER_IP, i, 480, 480, true);
        piece(net, PEER_IP, i, overlaps[i].offset, overlaps[i].size, true);
        CHECK_EQ(in_use(), 0);
        piece(net, PEER_IP, i, 0, 480, true);
        piece(net, PEER_IP, i, 480, 480, true);
        piece(net, PEER_IP, i, 960, 480, false);
        CHECK_EQ(in_use(), 0);
        CHECK_EQ(net->stats.fragments_dropped, 5 * (i + 1u));
    }
    poll_at(net, test_now + SECONDS(30));
    CHECK(zh_net_poll(net, test_now) == NET_NEVER);
    /* Two ends; something after the end; not a multiple of 8; beyond 65,535; nothing. */
    piece(net, PEER_IP, 20, 480, 100, false);
    piece(net, PEER_IP, 20, 960, 100, false);
    piece(net, PEER_IP, 21, 480, 480, false);
    piece(net, PEER_IP, 21, 960, 480, true);
    piece(net, PEER_IP, 22, 0, 481, true);
    piece(net, PEER_IP, 23, 65528, 9, false);
    piece(net, PEER_IP, 24, 8, 0, false);
    CHECK_EQ(in_use(), 0);
    CHECK_EQ(tcp_seen.packets, 0);
    /* Another source, protocol or identification: another packet. */
    piece(net, PEER_IP, 30, 0, 480, true);
    piece(net, "\x0a\x00\x00\x03", 30, 480, 480, false);
    piece(net, PEER_IP, 31, 480, 480, false);
    CHECK_EQ(tcp_seen.packets, 0);
    piece(net, PEER_IP, 30, 480, 480, false);
    CHECK_EQ(tcp_seen.packets, 1);
    expect_silence();
    end_net(net);
}

static void test_fragment_timeout(void)
{
    struct zh_net *net = new_net(NULL);
    resolve_peer(net);
    piece(net, PEER_IP, 1, 480, 480, false);
    poll_at(net, test_now + SECONDS(1));
    piece(net, PEER_IP, 2, 0, 480, true);
    CHECK(zh_net_poll(net, test_now) == test_now + SECONDS(29));
    poll_at(net, test_now + SECONDS(29));
    expect_silence(); /* without the first fragment nobody is told: RFC 1122 section 3.3.2 */
    CHECK_EQ(in_use(), 1);
    poll_at(net, test_now + SECONDS(1));
    CHECK_EQ(in_use(), 0);
    const struct frame *frame = sent();
    CHECK(frame && frame->data[34] == ICMP_TIME_EXCEEDED && frame->data[35] == 1);
    CHECK_EQ(net->stats.fragments_dropped, 2);
    CHECK(zh_net_poll(net, test_now) == NET_NEVER);
    end_net(net);
}

static void test_fragment_floods(void)
{
    struct zh_net *net = new_net(NULL);
    uint8_t ip[4];
    memcpy(ip, PEER_IP, 4);
    /* One source: eight packets. */
    for (uint16_t id = 0; id < 1000; id++) {
        piece(net, PEER_IP, id, 0, 480, true);
        CHECK(in_use() <= 8);
    }
    /* Another one is not disturbed by it. */
    ip[3] = 9;
    piece(net, ip, 1, 0, 480, true);
    for (uint16_t id = 0; id < 1000; id++)
        piece(net, PEER_IP, id, 0, 480, true);
    piece(net, ip, 1, 480, 480, false);
    CHECK_EQ(tcp_seen.packets, 1);
    /* Many sources: 64 packets; the latest comes through. */
    for (unsigned i = 0; i < 1000; i++) {
        ip[2] = (uint8_t)(i >> 8);
        ip[3] = (uint8_t)(i | 16);
        piece(net, ip, (uint16_t)i, 0, 480, true);
        CHECK(in_use() <= 64);
    }
    piece(net, ip, 999, 480, 480, false);
    CHECK_EQ(tcp_seen.packets, 2);
    /* Small pieces of few packets: 64 of each, 1 MiB of memory in all. */
    for (unsigned i = 0; i < 64; i++) {
        ip[3] = (uint8_t)(i + 100);
        for (size_t at = 0; at < 8 * 60; at += 8)
            piece(net, ip, 1, at, 8, true);
        CHECK(in_use() <= 512);
    }
    poll_at(net, test_now + SECONDS(30));
    CHECK_EQ(in_use(), 0);
    /* More pieces than a packet can need: it is gone. */
    for (size_t at = 0; at < 8 * 65; at += 8) {
        piece(net, ip, 1, at, 8, true);
        CHECK_EQ(in_use(), at < 8 * 64 ? at / 8 + 1 : 0);
    }
    poll_at(net, test_now + SECONDS(30));
    for (int i = 0; i < 4; i++) /* their senders are told, once they are found; they are not */
        poll_at(net, test_now + SECONDS(1));
    while (sent())
        ;
    CHECK(zh_net_poll(net, test_now) == NET_NEVER);
    end_net(net);
}

static void test_congestion_mark(void)
{
    struct zh_net *net = new_net(NULL);
    for (int marked = 0; marked < 3; marked++) {
        for (int k = 0; k < 2; k++) {
            struct frame frame = ipv4_frame(PEER_IP, OUR_IP, IPPROTO_TCP, NULL, 0, (uint16_t)marked,
                                            k ? 60 : IPV4_MORE_FRAGMENTS, payload + k * 480, 480);
            frame.data[15] = k + 1 == marked ? 3 : 2; /* CE, ECT(0) */
            set_sum(&frame, 20);
            input(net, &frame);
        }
        CHECK_EQ(tcp_seen.packets, marked + 1);
        CHECK_EQ(tcp_seen.info.traffic_class, marked ? 3 : 2);
    }
    end_net(net);
}

static void test_output(void)
{
    struct zh_net *net = new_net(NULL);
    resolve_peer(net);
    CHECK_EQ(send_tcp(net, PEER_IP, 1480), 0);
    const struct frame *frame = sent();
    CHECK(frame && frame->size == 1514);
    CHECK(net_sum_fold(net_sum(frame->data + 14, 20)) == 0xffff);
    CHECK_EQ(frame->data[20], 0x40); /* don't fragment */
    CHECK_EQ(frame->data[22], 64);
    CHECK_EQ(send_tcp(net, PEER_IP, 1481), -EMSGSIZE);
    /* By the gateway. */
    send_tcp(net, "\x08\x08\x08\x08", 20);
    frame = sent();
    CHECK(frame && frame->size == 14 + 28);
    CHECK(memcmp(frame->data + 14 + 24, "\x0a\x00\x00\xfe", 4) == 0);
    CHECK_EQ(rte_mempool_in_use_count(net->pool), 1);
    end_net(net);
}

int main(void)
{
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)(i * 7 + i / 256);
    layers_start();
    test_accepts();
    test_bad_headers();
    test_options();
    test_fragments_in_any_order();
    test_bad_fragments();
    test_fragment_timeout();
    test_fragment_floods();
    test_congestion_mark();
    test_output();
    return 0;
}
