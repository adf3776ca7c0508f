/* ICMP: echo of any size, errors heard and sent, limits. */
#include <rte_mempool.h>

#include "layers.h"

static uint8_t message[65536];

static void echo_request(size_t size)
{
    for (size_t i = 0; i < size; i++)
        message[i] = (uint8_t)(i * 3);
    message[0] = ICMP_ECHO;
    message[1] = 0;
    icmp_sum(message, size);
}

static struct frame icmp(const void *src, size_t size)
{
    return ipv4_frame(src, OUR_IP, IPPROTO_ICMP, NULL, 0, 1, 0, message, size);
}

static void expect_reply(size_t size)
{
    const struct frame *frame = sent();
    CHECK(frame != NULL);
    CHECK_EQ(frame->size, 34 + size);
    CHECK(memcmp(frame->data, PEER_MAC OUR_MAC, 12) == 0);
    CHECK(memcmp(frame->data + 14 + 12, OUR_IP, 4) == 0);
    CHECK(memcmp(frame->data + 14 + 16, PEER_IP, 4) == 0);
    CHECK(net_sum_fold(net_sum(frame->data + 14, 20)) == 0xffff);
    CHECK(net_sum_fold(net_sum(frame->data + 34, size)) == 0xffff);
    CHECK_EQ(frame->data[34], ICMP_ECHO_REPLY);
    CHECK(memcmp(frame->data + 38, message + 4, size - 4) == 0);
}

static void test_echo(void)
{
    struct zh_net *net = new_net(NULL);
    resolve_peer(net);
    static const size_t sizes[] = {8, 9, 10, 11, 63, 64, 65, 1001, 1479, 1480};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        echo_request(sizes[i]);
        struct frame frame = icmp(PEER_IP, sizes[i]);
        input(net, &frame);
        expect_reply(sizes[i]);
        CHECK_EQ(rte_mempool_in_use_count(net->pool), 0); /* answered in place */
        input_segments(net, &frame, 211);
        expect_reply(sizes[i]);
        /* Somebody else reads it too: it is answered with a copy. */
        struct rte_mbuf *packet = packet_of(frame.data, frame.size, 0);
        rte_mbuf_refcnt_update(packet, 1);
        zh_net_input(net, packet, test_now);
        ether_flush(net);
        expect_reply(sizes[i]);
        CHECK_EQ(*(rte_pktmbuf_mtod(packet, uint8_t *)), ICMP_ECHO);
        rte_pktmbuf_free(packet);
    }
    CHECK_EQ(net->stats.icmp_out, 30);
    /* Bad checksums and short messages. */
    echo_request(65);
    for (unsigned bit = 0; bit < 65 * 8; bit++) {
        struct frame frame = icmp(PEER_IP, 65);
        frame.data[34 + bit / 8] ^= (uint8_t)(1 << bit % 8);
        input(net, &frame);
        CHECK_EQ(net->stats.icmp_in_bad, bit + 1);
    }
    uint64_t bad = net->stats.icmp_in_bad;
    for (size_t size = 0; size < 8; size++) {
        icmp_sum(message, 8);
        struct frame frame = icmp(PEER_IP, size);
        input(net, &frame);
        CHECK_EQ(net->stats.icmp_in_bad, ++bad);
    }
    expect_silence();
    end_net(net);
}

/* A request in fragments gets a reply in fragments. */
static void test_large_echo(void)
{
    static uint8_t whole[65536];
    struct zh_net *net = new_net(NULL);
    resolve_peer(net);
    static const size_t sizes[] = {1481, 3001, 22200, 65515};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t size = sizes[i];
        echo_request(size);
        for (size_t at = 0; at < size; at += 1480) {
            size_t n = size - at < 1480 ? size - at : 1480;
            struct frame frame = ipv4_frame(
                PEER_IP, OUR_IP, IPPROTO_ICMP, NULL, 0, (uint16_t)i,
                (uint16_t)(at / 8 | (at + n < size ? IPV4_MORE_FRAGMENTS : 0)), message + at, n);
            input(net, &frame);
        }
        size_t got = 0;
        const struct frame *frame;
        while ((frame = sent())) {
            size_t field = (size_t)(frame->data[20] << 8 | frame->data[21]);
            CHECK_EQ((field & IPV4_OFFSET_MASK) * 8, got);
            CHECK(frame->size <= 1514 && net_sum_fold(net_sum(frame->data + 14, 20)) == 0xffff);
            memcpy(whole + got, frame->data + 34, frame->size - 34);
            got += frame->size - 34;
            CHECK_EQ((field & IPV4_MORE_FRAGMENTS) != 0, got < size);
        }
        CHECK_EQ(got, size);
        CHECK(net_sum_fold(net_sum(whole, size)) == 0xffff);
        CHECK(memcmp(whole + 4, message + 4, size - 4) == 0);
        CHECK_EQ(rte_mempool_in_use_count(net->pool), 0);
    }
    end_net(net);
}

static struct frame error_frame(uint8_t type, uint8_t code, uint32_t field, size_t quote)
{
    struct frame ours = ipv4_frame(OUR_IP, PEER_IP, IPPROTO_TCP, NULL, 0, 0, IPV4_DONT_FRAGMENT,
                                   "\x12\x34\x00\x50\xaa\xbb\xcc\xdd", 8);
    memset(message, 0, 64);
    message[0] = type;
    message[1] = code;
    field = rte_cpu_to_be_32(field);
    memcpy(message + 4, &field, 4);
    memcpy(message + 8, ours.data + 14, quote);
    icmp_sum(message, 8 + quote);
    return icmp("\x0a\x00\x00\xfe", 8 + quote);
}

static void test_errors(void)
{
    struct zh_net *net = new_net(NULL);
    static const struct {
        uint8_t type, code;
        int error;
        bool hard;
    } errors[] = {
        {3, 0, ENETUNREACH, false},
        {3, 1, EHOSTUNREACH, false},
        {3, 2, ENOPROTOOPT, true},
        {3, 3, ECONNREFUSED, true},
        {3, 4, EMSGSIZE, false},
        {3, 5, EOPNOTSUPP, false},
        {3, 13, EHOSTUNREACH, false},
        {3, 15, EHOSTUNREACH, false},
        {3, 16, 0, false},
        {11, 0, EHOSTUNREACH, false},
        {12, 0, EPROTO, false},
        {4, 0, 0, false},
        {5, 1, 0, false},
        {13, 0, 0, false},
        {0, 0, 0, false},
    };
    unsigned count = 0;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        struct frame frame = error_frame(errors[i].type, errors[i].code, 1400, 28);
        input(net, &frame);
        count += errors[i].error != 0;
        CHECK_EQ(tcp_seen.errors, count);
        if (!errors[i].error)
            continue;
        struct net_addr peer = v4(PEER_IP), us = v4(OUR_IP);
        CHECK_EQ(tcp_seen.error.error, errors[i].error);
        CHECK_EQ(tcp_seen.error.hard, errors[i].hard);
        CHECK_EQ(tcp_seen.error.mtu, errors[i].error == EMSGSIZE ? 1400 : 0);
        CHECK_EQ(tcp_seen.error.seq, 0xaabbccdd);
        CHECK_EQ(rte_be_to_cpu_16(tcp_seen.error.local_port), 0x1234);
        CHECK_EQ(rte_be_to_cpu_16(tcp_seen.error.remote_port), 80);
        CHECK(net_addr_equal(&tcp_seen.error.remote, &peer));
        CHECK(net_addr_equal(&tcp_seen.error.local, &us));
    }
    CHECK_EQ(net->stats.icmp_errors_ignored, 0);
    /* Quotes that are cut, of others, of fragments, of other protocols. */
    uint64_t ignored = 0;
    for (size_t quote = 0; quote < 28; quote++) {
        struct frame frame = error_frame(3, 1, 0, quote);
        input(net, &frame);
        CHECK_EQ(net->stats.icmp_errors_ignored, ++ignored);
    }
    static const size_t wrong[] = {0, 7, 9, 12};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        error_frame(3, 1, 0, 28);
        message[8 + wrong[i]] ^= wrong[i] ? 2 : 0x20;
        icmp_sum(message, 36);
        struct frame frame = icmp(PEER_IP, 36);
        input(net, &frame);
        CHECK_EQ(net->stats.icmp_errors_ignored, ++ignored);
    }
    struct frame frame = error_frame(3, 1, 0, 28);
    for (size_t segment = 1; segment < 60; segment++)
        input_segments(net, &frame, segment);
    CHECK_EQ(tcp_seen.errors, count + 59);
    expect_silence();
    end_net(net);
}

static struct frame datagram(uint8_t protocol, size_t size)
{
    return ipv4_frame(PEER_IP, OUR_IP, protocol, "\x01\x01\x01\x00", 4, 77, 0, message, size);
}

static void test_unreachable(void)
{
    struct zh_net *net = new_net(NULL);
    resolve_peer(net);
    static const size_t sizes[] = {8, 100, 1000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct frame frame = datagram(i ? IPPROTO_UDP : 99, sizes[i]);
        input(net, &frame);
        const struct frame *reply = sent();
        CHECK(reply != NULL);
        size_t quote = 24 + sizes[i] < 548 ? 24 + sizes[i] : 548;
        CHECK_EQ(reply->size, 34 + 8 + quote);
        CHECK_EQ(reply->data[34], ICMP_UNREACHABLE);
        CHECK_EQ(reply->data[35], i ? ICMP_CODE_PORT : ICMP_CODE_PROTOCOL);
        CHECK(net_sum_fold(net_sum(reply->data + 34, 8 + quote)) == 0xffff);
        CHECK(memcmp(reply->data + 42, frame.data + 14, quote) == 0);
    }
    CHECK_EQ(net->stats.ip_in_foreign, 3);
    /* Frames for all get no answer. */
    struct frame frame = datagram(IPPROTO_UDP, 100);
    memcpy(frame.data, EVERYBODY, 6);
    input(net, &frame);
    expect_silence();
    end_net(net);
}

static void test_limit(void)
{
    struct zh_net *net = new_net(NULL);
    resolve_peer(net);
    poll_at(net, test_now + SECONDS(1));
    unsigned count = 0;
    struct frame frame = datagram(IPPROTO_UDP, 100);
    for (int i = 0; i < 500; i++)
        input(net, &frame);
    for (; sent(); count++)
        ;
    CHECK_EQ(count, 50);
    CHECK_EQ(net->stats.icmp_limited, 450);
    for (int i = 0; i < 1000; i++) { /* one each ms */
        test_now += MS(1) / 10;
        input(net, &frame);
        input(net, &frame);
    }
    for (count = 0; sent(); count++)
        ;
    CHECK_EQ(count, 100);
    test_now += SECONDS(3600);
    for (int i = 0; i < 500; i++)
        input(net, &frame);
    for (count = 0; sent(); count++)
        ;
    CHECK_EQ(count, 50);
    /* Echo has a limit of its own. */
    echo_request(64);
    frame = icmp(PEER_IP, 64);
    for (int i = 0; i < 1500; i++)
        input(net, &frame);
    for (count = 0; sent(); count++)
        ;
    CHECK_EQ(count, 1000);
    end_net(net);
}

int main(void)
{
    layers_start();
    test_echo();
    test_large_echo();
    test_errors();
    test_unreachable();
    test_limit();
    return 0;
}
