/* IPv6, neighbour discovery and ICMPv6. */
#include <rte_mempool.h>

#include "layers.h"

#define OUR_IP6 "\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01"
#define PEER_IP6 "\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02"
#define THIRD_IP6 "\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x03"
#define UNSPECIFIED "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
#define ALL_NODES "\xff\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\x01"
#define OUR_NODE "\xff\x02\0\0\0\0\0\0\0\0\0\x01\xff\0\0\x01"
#define ALL_NODES_MAC "\x33\x33\0\0\0\x01"
#define OUR_NODE_MAC "\x33\x33\xff\0\0\x01"
#define PEER_NODE_MAC "\x33\x33\xff\0\0\x02"

static uint8_t payload[65536 + 64];

static struct frame ipv6_frame(const void *src, const void *dst, uint8_t next, uint8_t hop_limit,
                               const void *data, size_t size)
{
    struct frame frame = ether_frame(OUR_MAC, PEER_MAC, ETHER_IPV6);
    struct ipv6_header header = {
        .version_class_label = {0x60},
        .payload_length = rte_cpu_to_be_16((uint16_t)size),
        .next = next,
        .hop_limit = hop_limit,
    };
    memcpy(header.src, src, 16);
    memcpy(header.dst, dst, 16);
    const uint8_t *to = dst;
    if (to[0] == 0xff) {
        memcpy(frame.data, "\x33\x33", 2);
        memcpy(frame.data + 2, to + 12, 4);
    }
    put(&frame, &header, sizeof header);
    put(&frame, data, size);
    return frame;
}

static struct net_addr v6(const void *bytes)
{
    struct net_addr address;
    memcpy(&address, bytes, 16);
    return address;
}

static uint16_t sum_of(const void *src, const void *dst, const void *data, size_t size)
{
    struct net_addr from = v6(src), to = v6(dst);
    return net_sum_fold(net_sum_pseudo(&from, &to, IPPROTO_ICMPV6, (uint32_t)size) +
                        net_sum(data, size));
}

static void put_sum(const void *src, const void *dst, uint8_t *data, size_t size)
{
    memset(data + 2, 0, 2);
    uint16_t sum = (uint16_t)~sum_of(src, dst, data, size);
    memcpy(data + 2, &sum, 2);
}

static struct frame nd_frame(uint8_t type, const void *src, const void *dst, const void *target,
                             uint8_t flags, uint8_t option, const void *mac, uint8_t hop_limit)
{
    uint8_t data[32] = {type, 0, 0, 0, flags};
    size_t size = mac ? 32 : 24;
    memcpy(data + 8, target, 16);
    if (mac) {
        data[24] = option;
        data[25] = 1;
        memcpy(data + 26, mac, 6);
    }
    put_sum(src, dst, data, size);
    return ipv6_frame(src, dst, IPPROTO_ICMPV6, hop_limit, data, size);
}

static struct frame solicitation(void)
{
    return nd_frame(ICMPV6_SOLICITATION, PEER_IP6, OUR_NODE, OUR_IP6, 0, 1, PEER_MAC, 255);
}

static struct frame advertisement(uint8_t flags, const void *mac)
{
    return nd_frame(ICMPV6_ADVERTISEMENT, PEER_IP6, OUR_IP6, PEER_IP6, flags, 2, mac, 255);
}

static void expect_icmp(const void *mac, const void *src, const void *dst, uint8_t type,
                        uint8_t code)
{
    const struct frame *frame = sent();
    CHECK(frame != NULL);
    CHECK(memcmp(frame->data, mac, 6) == 0 && memcmp(frame->data + 6, OUR_MAC, 6) == 0);
    CHECK_EQ(frame->data[14 + 6], IPPROTO_ICMPV6);
    CHECK(memcmp(frame->data + 14 + 8, src, 16) == 0);
    CHECK(memcmp(frame->data + 14 + 24, dst, 16) == 0);
    CHECK_EQ(frame->data[54], type);
    CHECK_EQ(frame->data[55], code);
    CHECK_EQ((frame->data[18] << 8) + frame->data[19], frame->size - 54);
    CHECK_EQ(sum_of(src, dst, frame->data + 54, frame->size - 54), 0xffff);
    bool nd = type == ICMPV6_SOLICITATION || type == ICMPV6_ADVERTISEMENT;
    CHECK_EQ(frame->data[14 + 7], nd ? 255 : 64);
}

static int send_tcp6(struct zh_net *net, const void *dst, size_t size)
{
    struct net_addr src = v6(OUR_IP6), to = v6(dst);
    struct rte_mbuf *packet = net_packet_alloc(net);
    memcpy(rte_pktmbuf_append(packet, (uint16_t)size), payload, size);
    int rc = ip_output(net, packet, &src, &to, IPPROTO_TCP, 0xb8);
    ether_flush(net);
    return rc;
}

static void expect_tcp6(const void *mac, size_t size)
{
    const struct frame *frame = sent();
    CHECK(frame && frame->size == 54 + size);
    CHECK(memcmp(frame->data, mac, 6) == 0);
    CHECK(memcmp(frame->data + 14, "\x6b\x80\0\0", 4) == 0);
    CHECK(memcmp(frame->data + 54, payload, size) == 0);
}

static void resolve6(struct zh_net *net)
{
    struct frame frame = solicitation();
    input(net, &frame);
    expect_icmp(PEER_MAC, OUR_IP6, PEER_IP6, ICMPV6_ADVERTISEMENT, 0);
}

static void test_discovery(void)
{
    struct zh_net *net = new_net(NULL);
    send_tcp6(net, PEER_IP6, 20);
    send_tcp6(net, PEER_IP6, 30);
    uint64_t start = test_now;
    for (int i = 0; i < 3; i++) {
        const void *node = "\xff\x02\0\0\0\0\0\0\0\0\0\x01\xff\0\0\x02";
        expect_icmp(PEER_NODE_MAC, OUR_IP6, node, ICMPV6_SOLICITATION, 0);
        expect_silence();
        poll_at(net, start + SECONDS(i + 1));
    }
    CHECK_EQ(tcp_seen.errors, 2);
    struct net_addr peer = v6(PEER_IP6);
    CHECK(net_addr_equal(&tcp_seen.error.remote, &peer));
    CHECK_EQ(tcp_seen.error.error, EHOSTUNREACH);

    send_tcp6(net, PEER_IP6, 20);
    CHECK(sent() != NULL);
    struct frame frame = advertisement(0x40, NULL); /* does not say where */
    input(net, &frame);
    expect_silence();
    frame = advertisement(0x60, PEER_MAC);
    input(net, &frame);
    expect_tcp6(PEER_MAC, 20);
    CHECK(zh_net_poll(net, test_now) == NET_NEVER);
    /* Another one, without the override flag, is not believed; with it, it is. */
    frame = advertisement(0x00, OTHER_MAC);
    input(net, &frame);
    send_tcp6(net, PEER_IP6, 20);
    expect_tcp6(PEER_MAC, 20);
    frame = advertisement(0x20, OTHER_MAC);
    input(net, &frame);
    send_tcp6(net, PEER_IP6, 20);
    expect_tcp6(OTHER_MAC, 20);
    poll_at(net, test_now + SECONDS(5)); /* and seen to */
    expect_icmp(OTHER_MAC, OUR_IP6, PEER_IP6, ICMPV6_SOLICITATION, 0);
    frame = advertisement(0x40, NULL);
    input(net, &frame);
    CHECK(zh_net_poll(net, test_now) == NET_NEVER);
    /* What nobody asked for makes no entry. */
    frame = nd_frame(ICMPV6_ADVERTISEMENT, THIRD_IP6, OUR_IP6, THIRD_IP6, 0x60, 2, OTHER_MAC, 255);
    input(net, &frame);
    send_tcp6(net, THIRD_IP6, 20);
    expect_icmp("\x33\x33\xff\0\0\x03", OUR_IP6, "\xff\x02\0\0\0\0\0\0\0\0\0\x01\xff\0\0\x03",
                ICMPV6_SOLICITATION, 0);
    CHECK_EQ(net->stats.icmp_in_bad, 0);
    end_net(net);
}

static void test_solicited(void)
{
    struct zh_net *net = new_net(NULL);
    resolve6(net);
    send_tcp6(net, PEER_IP6, 20);
    expect_tcp6(PEER_MAC, 20);
    /* To us alone, without its address: a probe. */
    struct frame frame = nd_frame(ICMPV6_SOLICITATION, PEER_IP6, OUR_IP6, OUR_IP6, 0, 0, NULL, 255);
    input(net, &frame);
    expect_icmp(PEER_MAC, OUR_IP6, PEER_IP6, ICMPV6_ADVERTISEMENT, 0);
    /* Somebody wants our address: RFC 4862 section 5.4.3. */
    frame = nd_frame(ICMPV6_SOLICITATION, UNSPECIFIED, OUR_NODE, OUR_IP6, 0, 0, NULL, 255);
    input(net, &frame);
    expect_icmp(ALL_NODES_MAC, OUR_IP6, ALL_NODES, ICMPV6_ADVERTISEMENT, 0);
    /* The link-local one. */
    frame = nd_frame(ICMPV6_SOLICITATION, PEER_IP6, OUR_NODE,
                     "\xfe\x80\0\0\0\0\0\0\0\0\0\xff\xfe\0\0\x01", 0, 1, PEER_MAC, 255);
    input(net, &frame);
    expect_icmp(PEER_MAC, "\xfe\x80\0\0\0\0\0\0\0\0\0\xff\xfe\0\0\x01", PEER_IP6,
                ICMPV6_ADVERTISEMENT, 0);
    /* For another one with the same last bytes. */
    frame = nd_frame(ICMPV6_SOLICITATION, PEER_IP6, OUR_NODE,
                     "\xfd\0\0\0\0\0\0\0\0\0\0\0\x09\0\0\x01", 0, 1, PEER_MAC, 255);
    input(net, &frame);
    CHECK_EQ(net->stats.icmp_in_bad, 0);
    expect_silence();

    /* Bad ones: RFC 4861 sections 7.1.1 and 7.1.2. */
    uint64_t bad = 0;
    frame = nd_frame(ICMPV6_SOLICITATION, PEER_IP6, OUR_NODE, OUR_IP6, 0, 1, PEER_MAC, 254);
    input(net, &frame);
    CHECK_EQ(net->stats.icmp_in_bad, ++bad);
    frame = nd_frame(ICMPV6_SOLICITATION, UNSPECIFIED, OUR_NODE, OUR_IP6, 0, 1, PEER_MAC, 255);
    input(net, &frame);
    CHECK_EQ(net->stats.icmp_in_bad, ++bad);
    frame = nd_frame(ICMPV6_SOLICITATION, UNSPECIFIED, OUR_IP6, OUR_IP6, 0, 0, NULL, 255);
    input(net, &frame);
    CHECK_EQ(net->stats.icmp_in_bad, ++bad);
    frame = nd_frame(ICMPV6_SOLICITATION, PEER_IP6, OUR_NODE, ALL_NODES, 0, 1, PEER_MAC, 255);
    input(net, &frame);
    CHECK_EQ(net->stats.icmp_in_bad, ++bad);
    frame = nd_frame(ICMPV6_ADVERTISEMENT, PEER_IP6, ALL_NODES, PEER_IP6, 0x40, 2, PEER_MAC, 255);
    input(net, &frame);
    CHECK_EQ(net->stats.icmp_in_bad, ++bad);
    frame = nd_frame(ICMPV6_ADVERTISEMENT, PEER_IP6, OUR_IP6, OUR_IP6, 0x60, 2, PEER_MAC, 255);
    input(net, &frame);
    CHECK_EQ(net->stats.icmp_in_bad, ++bad);
    for (int at = 1; at < 26; at += at == 1 ? 24 : 1) { /* code, option's length */
        frame = solicitation();
        frame.data[54 + at] = at == 1 ? 1 : 0;
        put_sum(PEER_IP6, OUR_NODE, frame.data + 54, 32);
        input(net, &frame);
        CHECK_EQ(net->stats.icmp_in_bad, ++bad);
    }
    for (uint8_t size = 8; size < 32; size++) { /* cut in the header or an option */
        frame = solicitation();
        frame.data[19] = size;
        put_sum(PEER_IP6, OUR_NODE, frame.data + 54, size);
        input(net, &frame);
        if (size == 24)
            CHECK(sent() != NULL);
        else
            CHECK_EQ(net->stats.icmp_in_bad, ++bad);
    }
    /* Groups that are not ours. */
    uint64_t foreign = net->stats.ether_in_foreign;
    frame = solicitation();
    frame.data[5] = 2;
    input(net, &frame);
    CHECK_EQ(net->stats.ether_in_foreign, foreign + 1);
    frame = solicitation();
    frame.data[53] = 2;
    input(net, &frame);
    CHECK_EQ(net->stats.ip_in_foreign, 1);
    expect_silence();
    end_net(net);
}

static size_t echo_request(const void *dst, uint8_t *data, size_t size)
{
    memcpy(data, payload, size);
    data[0] = ICMPV6_ECHO;
    data[1] = 0;
    put_sum(PEER_IP6, dst, data, size);
    return size;
}

static void test_echo(void)
{
    static uint8_t data[65536], whole[65536];
    struct zh_net *net = new_net(NULL);
    resolve6(net);
    static const size_t sizes[] = {8, 9, 65, 1001, 1459, 1460};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        echo_request(OUR_IP6, data, sizes[i]);
        struct frame frame = ipv6_frame(PEER_IP6, OUR_IP6, IPPROTO_ICMPV6, 9, data, sizes[i]);
        input(net, &frame);
        expect_icmp(PEER_MAC, OUR_IP6, PEER_IP6, ICMPV6_ECHO_REPLY, 0);
        CHECK_EQ(rte_mempool_in_use_count(net->pool), 0);
        input_segments(net, &frame, 211);
        expect_icmp(PEER_MAC, OUR_IP6, PEER_IP6, ICMPV6_ECHO_REPLY, 0);
        frame.data[60] ^= 1;
        input(net, &frame);
        CHECK_EQ(net->stats.icmp_in_bad, i + 1);
    }
    /* To all nodes: one of our addresses answers. */
    echo_request(ALL_NODES, data, 64);
    struct frame frame = ipv6_frame(PEER_IP6, ALL_NODES, IPPROTO_ICMPV6, 1, data, 64);
    input(net, &frame);
    expect_icmp(PEER_MAC, OUR_IP6, PEER_IP6, ICMPV6_ECHO_REPLY, 0);
    expect_silence();
    /* In fragments, there and back. */
    size_t size = echo_request(OUR_IP6, data, 20001);
    for (size_t at = 0; at < size; at += 1448) {
        size_t n = size - at < 1448 ? size - at : 1448;
        uint8_t piece[1456] = {
            IPPROTO_ICMPV6, 0, (uint8_t)(at >> 8), (uint8_t)(at | (at + n < size)), 1, 2, 3, 4};
        memcpy(piece + 8, data + at, n);
        frame = ipv6_frame(PEER_IP6, OUR_IP6, IPV6_FRAGMENT, 64, piece, 8 + n);
        input(net, &frame);
    }
    size_t got = 0;
    const struct frame *reply;
    while ((reply = sent())) {
        size_t field = (size_t)(reply->data[56] << 8 | reply->data[57]);
        CHECK(reply->data[20] == IPV6_FRAGMENT && reply->data[54] == IPPROTO_ICMPV6);
        CHECK_EQ(field & ~7u, got);
        CHECK(reply->size <= 1514);
        memcpy(whole + got, reply->data + 62, reply->size - 62);
        got += reply->size - 62;
        CHECK_EQ(field & 1, got < size);
    }
    CHECK_EQ(got, size);
    CHECK_EQ(sum_of(OUR_IP6, PEER_IP6, whole, size), 0xffff);
    CHECK(memcmp(whole + 4, data + 4, size - 4) == 0);
    end_net(net);
}

/* Headers before a TCP segment of 40 bytes. `next`: the first one. */
static void chain(struct zh_net *net, uint8_t next, const void *headers, size_t size)
{
    uint8_t data[2048];
    memcpy(data, headers, size);
    memcpy(data + size, payload, 40);
    struct frame frame = ipv6_frame(PEER_IP6, OUR_IP6, next, 64, data, size + 40);
    input(net, &frame);
}

static void test_headers(void)
{
    struct zh_net *net = new_net(NULL);
    resolve6(net);
    /* Fine: padding, unknown options that may be skipped, a routing header that has been used up.
     */
    static const struct {
        uint8_t next;
        const char *bytes;
        size_t size;
    } fine[] = {
        {6, "", 0},
        {0, "\x06\0\x01\x04\0\0\0\0", 8},
        {60, "\x06\0\0\0\0\0\0\0", 8},
        {60, "\x06\x01\x1e\x0c\0\0\0\0\0\0\0\0\0\0\0\0", 16},
        {43, "\x06\0\x04\0\0\0\0\0", 8},
        {0, "\x3c\0\x01\x04\0\0\0\0\x2b\0\x01\x04\0\0\0\0\x06\0\x04\0\0\0\0\0", 24},
        {44, "\x06\0\0\0\0\0\0\x01", 8}, /* atomic: RFC 6946 */
        {44, "\x3c\0\0\0\0\0\0\x01\x06\0\x01\x04\0\0\0\0", 16},
    };
    for (unsigned i = 0; i < sizeof fine / sizeof *fine; i++) {
        chain(net, fine[i].next, fine[i].bytes, fine[i].size);
        CHECK_EQ(tcp_seen.packets, i + 1);
        CHECK(tcp_seen.size == 40 && memcmp(tcp_seen.data, payload, 40) == 0);
        CHECK_EQ(tcp_seen.info.ip_header_size, 40 + fine[i].size);
    }
    CHECK_EQ(net->stats.ip_in_bad, 0);
    expect_silence();
    /* Not, with the code and pointer of a parameter problem where there is one. */
    static const struct {
        uint8_t next;
        const char *bytes;
        size_t size;
        int code;
        unsigned pointer;
    } bad[] = {
        {43, "\x06\0\0\0\0\0\0\0", 8, 0, 42},                          /* type 0: RFC 5095 */
        {43, "\x06\0\x04\x01\0\0\0\0", 8, 0, 42},                      /* segments left */
        {60, "\x06\0\x40\x04\0\0\0\0", 8, -1, 0},                      /* drop */
        {60, "\x06\0\x80\x04\0\0\0\0", 8, 2, 42},                      /* drop and tell */
        {60, "\x06\0\0\xc0\x03\0\0\0", 8, 2, 43},                      /* the same, but of groups */
        {60, "\x06\0\x01\x05\0\0\0\0", 8, -1, 0},                      /* longer than the header */
        {60, "\x06\0\x01\x03\0\0\0\x01", 8, -1, 0},                    /* without a length */
        {60, "\x06\xff\x01\x04\0\0\0\0", 8, -1, 0},                    /* longer than the packet */
        {60, "\0\0\x01\x04\0\0\0\0\x06\0\x01\x04\0\0\0\0", 16, 1, 40}, /* hop-by-hop, but late */
        {44, "\x2c\0\0\0\0\0\0\x01\x06\0\0\0\0\0\0\x01", 16, -1, 0},   /* fragment of fragments */
        {99, "", 0, 1, 6},
        {60, "\x33\0\x01\x04\0\0\0\0", 8, 1, 40}, /* authentication: not known */
    };
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        chain(net, bad[i].next, bad[i].bytes, bad[i].size);
        if (bad[i].code < 0)
            continue;
        const struct frame *frame = sent();
        CHECK(frame && frame->data[54] == ICMPV6_PARAMETER_PROBLEM);
        CHECK_EQ(frame->data[55], bad[i].code);
        CHECK_EQ(frame->data[61], bad[i].pointer);
        CHECK_EQ(frame->size, 54 + 8 + 40 + bad[i].size + 40);
        expect_silence();
    }
    CHECK_EQ(net->stats.ip_in_bad + net->stats.ip_in_foreign, sizeof bad / sizeof *bad);
    /* Too many headers; options. */
    uint8_t many[8 * 40];
    for (int i = 0; i < 40; i++)
        memcpy(many + 8 * i, i < 39 ? "\x3c\0\x01\x04\0\0\0\0" : "\x06\0\x01\x04\0\0\0\0", 8);
    chain(net, 60, many + 8 * 32, 64);
    CHECK_EQ(tcp_seen.packets, 1 + sizeof fine / sizeof *fine);
    chain(net, 60, many + 8 * 31, 72);
    chain(net, 60, many, sizeof many);
    uint8_t options[8 * 6] = {6, 5};
    for (size_t i = 2; i < sizeof options; i += 2)
        options[i] = 0x1e;
    chain(net, 60, options, sizeof options);
    CHECK_EQ(tcp_seen.packets, 1 + sizeof fine / sizeof *fine);
    expect_silence();
    end_net(net);
}

static void test_bad_packets(void)
{
    struct zh_net *net = new_net(NULL);
    struct frame frame;
    uint64_t bad = 0;
    for (size_t size = 14; size < 54 + 40; size++) {
        frame = ipv6_frame(PEER_IP6, OUR_IP6, IPPROTO_TCP, 64, payload, 40);
        frame.size = size;
        input(net, &frame);
        input_segments(net, &frame, 7);
        CHECK_EQ(net->stats.ip_in_bad, bad += 2);
    }
    frame = ipv6_frame(PEER_IP6, OUR_IP6, IPPROTO_TCP, 64, payload, 40);
    frame.data[14] = 0x45;
    input(net, &frame);
    CHECK_EQ(net->stats.ip_in_bad, ++bad);
    static const char *const sources[] = {ALL_NODES, OUR_IP6, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01",
                                          "\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x02"};
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        frame = ipv6_frame(sources[i], OUR_IP6, IPPROTO_TCP, 64, payload, 40);
        input(net, &frame);
        CHECK_EQ(net->stats.ip_in_bad, ++bad);
    }
    /* Ours, but not over IPv6; for others; to a group. */
    static const char *const others[] = {"\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x01", THIRD_IP6,
                                         ALL_NODES, OUR_NODE};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        frame = ipv6_frame(PEER_IP6, others[i], IPPROTO_TCP, 64, payload, 40);
        input(net, &frame);
        CHECK_EQ(net->stats.ip_in_foreign, i + 1);
    }
    frame = ipv6_frame(UNSPECIFIED, OUR_IP6, IPPROTO_TCP, 64, payload, 40);
    input(net, &frame);
    CHECK_EQ(net->stats.ip_in_foreign, 5);
    CHECK_EQ(tcp_seen.packets, 0);
    expect_silence();
    /* Padding is no payload. */
    frame = ipv6_frame(PEER_IP6, OUR_IP6, IPPROTO_TCP, 64, payload, 40);
    put(&frame, "padding", 7);
    input(net, &frame);
    CHECK_EQ(tcp_seen.size, 40);
    input_segments(net, &frame, 13);
    CHECK_EQ(tcp_seen.packets, 2);
    end_net(net);
}

static void piece(struct zh_net *net, uint8_t id, size_t offset, size_t size, bool more)
{
    uint8_t data[2048] = {IPPROTO_TCP, 0, (uint8_t)(offset >> 8), (uint8_t)(offset | more), 0, 0,
                          0,           id};
    memcpy(data + 8, payload + offset, size);
    struct frame frame = ipv6_frame(PEER_IP6, OUR_IP6, IPV6_FRAGMENT, 64, data, 8 + size);
    input(net, &frame);
}

static void test_fragments(void)
{
    struct zh_net *net = new_net(NULL);
    resolve6(net);
    piece(net, 1, 960, 77, false);
    piece(net, 1, 0, 480, true);
    piece(net, 1, 480, 480, true);
    CHECK_EQ(tcp_seen.packets, 1);
    CHECK(tcp_seen.size == 1037 && memcmp(tcp_seen.data, payload, 1037) == 0);
    CHECK_EQ(tcp_seen.info.ip_header_size, 48);
    CHECK(tcp_seen.info.was_fragmented);
    /* RFC 5722: with an overlap nothing is left. */
    piece(net, 2, 0, 480, true);
    piece(net, 2, 472, 480, true);
    piece(net, 2, 480, 480, false);
    CHECK_EQ(tcp_seen.packets, 1);
    CHECK_EQ(rte_mempool_in_use_count(test_pool), 0);
    /* RFC 8200 section 4.5: told of a wrong length and of too much. */
    piece(net, 3, 0, 479, true);
    const struct frame *frame = sent();
    CHECK(frame && frame->data[54] == 4 && frame->data[55] == 0 && frame->data[61] == 4);
    piece(net, 3, 65528, 8, false);
    frame = sent();
    CHECK(frame && frame->data[54] == 4 && frame->data[55] == 0 && frame->data[61] == 42);
    piece(net, 4, 0, 480, true);
    poll_at(net, test_now + SECONDS(30));
    /* The neighbour is asked meanwhile whether it is still there. */
    for (frame = sent(); frame && frame->data[54] == ICMPV6_SOLICITATION; frame = sent())
        ;
    CHECK(frame && frame->data[54] == ICMPV6_TIME_EXCEEDED && frame->data[55] == 1);
    CHECK(memcmp(frame->data + 62 + 8, PEER_IP6, 16) == 0);
    CHECK_EQ(rte_mempool_in_use_count(test_pool), 0);
    end_net(net);
}

static void test_errors(void)
{
    struct zh_net *net = new_net(NULL);
    static const struct {
        uint8_t type, code;
        uint32_t field;
        int error;
        bool hard;
        unsigned mtu;
    } errors[] = {
        {1, 0, 0, ENETUNREACH, false, 0},
        {1, 1, 0, EACCES, false, 0},
        {1, 3, 0, EHOSTUNREACH, false, 0},
        {1, 4, 0, ECONNREFUSED, true, 0},
        {1, 7, 0, 0, false, 0},
        {2, 0, 1400, EMSGSIZE, false, 1400},
        {2, 0, 0, EMSGSIZE, false, 1280},
        {2, 0, 1u << 31, EMSGSIZE, false, 65535},
        {3, 0, 0, EHOSTUNREACH, false, 0},
        {4, 1, 0, EPROTO, true, 0},
        {137, 0, 0, 0, false, 0},
        {134, 0, 0, 0, false, 0},
    };
    unsigned count = 0;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        for (size_t quote = 0; quote <= 48; quote += 4) {
            uint8_t data[56] = {errors[i].type, errors[i].code};
            uint32_t field = rte_cpu_to_be_32(errors[i].field);
            struct frame ours = ipv6_frame(OUR_IP6, PEER_IP6, IPPROTO_TCP, 64,
                                           "\x12\x34\x00\x50\xaa\xbb\xcc\xdd", 8);
            memcpy(data + 4, &field, 4);
            memcpy(data + 8, ours.data + 14, quote);
            put_sum(THIRD_IP6, OUR_IP6, data, 8 + quote);
            struct frame frame =
                ipv6_frame(THIRD_IP6, OUR_IP6, IPPROTO_ICMPV6, 64, data, 8 + quote);
            input(net, &frame);
        }
        count += errors[i].error != 0;
        CHECK_EQ(tcp_seen.errors, count);
        if (!errors[i].error)
            continue;
        CHECK_EQ(tcp_seen.error.error, errors[i].error);
        CHECK_EQ(tcp_seen.error.hard, errors[i].hard);
        CHECK_EQ(tcp_seen.error.mtu, errors[i].mtu);
        CHECK_EQ(tcp_seen.error.seq, 0xaabbccdd);
    }
    CHECK_EQ(net->stats.icmp_errors_ignored, count * 12);
    expect_silence();
    end_net(net);
}

static void test_unreachable(void)
{
    struct zh_net *net = new_net(NULL);
    resolve6(net);
    for (int i = 0; i < 60; i++) {
        struct frame frame = ipv6_frame(PEER_IP6, OUR_IP6, IPPROTO_UDP, 64, payload, 1400);
        input(net, &frame);
        if (i >= 50)
            continue;
        expect_icmp(PEER_MAC, OUR_IP6, PEER_IP6, ICMPV6_UNREACHABLE, ICMPV6_CODE_PORT);
    }
    CHECK_EQ(net->stats.icmp_limited, 10);
    expect_silence();
    test_now += SECONDS(1);
    /* Not about errors, to groups or to nobody; nothing follows "no next header". */
    struct frame frame = ipv6_frame(PEER_IP6, ALL_NODES, IPPROTO_UDP, 64, payload, 100);
    input(net, &frame);
    frame = ipv6_frame(UNSPECIFIED, OUR_IP6, IPPROTO_UDP, 64, payload, 100);
    input(net, &frame);
    frame = ipv6_frame(PEER_IP6, OUR_IP6, IPPROTO_NONE, 64, payload, 100);
    input(net, &frame);
    expect_silence();
    end_net(net);
}

int main(void)
{
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)(i * 7 + i / 256);
    layers_start();
    test_discovery();
    test_solicited();
    test_echo();
    test_headers();
    test_bad_packets();
    test_fragments();
    test_errors();
    test_unreachable();
    return 0;
}
