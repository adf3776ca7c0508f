/* ARP and the neighbour cache: questions, answers, what is believed, what waits, what is given up.
 */
#include "layers.h"

#include <rte_mempool.h>

static void expect_arp(uint16_t operation, const void *dst, const void *sender,
                       const void *target_mac, const void *target)
{
    const struct frame *frame = sent();
    CHECK(frame != NULL);
    CHECK_EQ(frame->size, 14 + sizeof(struct arp_header));
    struct frame want = ether_frame(dst, OUR_MAC, ETHER_ARP);
    CHECK(memcmp(frame->data, want.data, 14) == 0);
    struct frame arp = arp_frame(operation, OUR_MAC, sender, target_mac, target);
    CHECK(memcmp(frame->data + 14, arp.data + 14, sizeof(struct arp_header)) == 0);
}

/* A packet of TCP's goes to `mac`. */
static void expect_packet(const void *mac, size_t size)
{
    const struct frame *frame = sent();
    CHECK(frame != NULL);
    CHECK(memcmp(frame->data, mac, 6) == 0);
    CHECK_EQ(frame->data[12] << 8 | frame->data[13], ETHER_IPV4);
    CHECK_EQ(frame->size, 14 + 20 + size);
}

static void test_request_is_answered(void)
{
    struct zh_net *net = new_net(NULL);
    struct frame request = arp_frame(ARP_REQUEST, PEER_MAC, PEER_IP, NULL, OUR_IP);
    input(net, &request);
    expect_arp(ARP_REPLY, PEER_MAC, OUR_IP, PEER_MAC, PEER_IP);
    /* Whoever asked is known: no question is needed. */
    CHECK_EQ(send_tcp(net, PEER_IP, 20), 0);
    expect_packet(PEER_MAC, 20);
    expect_silence();
    end_net(net);
}

static void test_resolution(void)
{
    struct zh_net *net = new_net(NULL);
    for (size_t i = 0; i < 20; i++)
        CHECK_EQ(send_tcp(net, PEER_IP, 20 + i), 0);
    expect_arp(ARP_REQUEST, EVERYBODY, OUR_IP, NULL, PEER_IP);
    expect_silence();
    CHECK_EQ(net->stats.neighbour_dropped, 4);
    struct frame reply = arp_frame(ARP_REPLY, PEER_MAC, PEER_IP, OUR_MAC, OUR_IP);
    input(net, &reply);
    for (size_t i = 4; i < 20; i++) /* the latest 16, in order */
        expect_packet(PEER_MAC, 20 + i);
    expect_silence();
    end_net(net);
}

static void test_no_answer(void)
{
    struct zh_net *net = new_net(NULL);
    uint64_t start = test_now;
    send_tcp(net, PEER_IP, 20);
    send_tcp(net, PEER_IP, 24);
    /* RFC 4861 section 10: three questions, a second apart. */
    for (int i = 0; i < 3; i++) {
        expect_arp(ARP_REQUEST, EVERYBODY, OUR_IP, NULL, PEER_IP);
        expect_silence();
        CHECK(zh_net_poll(net, test_now) == start + SECONDS(i + 1));
        poll_at(net, start + SECONDS(i + 1) - 1);
        expect_silence();
        CHECK_EQ(tcp_seen.errors, 0);
        poll_at(net, start + SECONDS(i + 1));
    }
    expect_silence();
    CHECK_EQ(net->stats.neighbour_failed, 1);
    CHECK_EQ(net->stats.neighbour_dropped, 2);
    CHECK_EQ(tcp_seen.errors, 2);
    CHECK_EQ(tcp_seen.error.error, EHOSTUNREACH);
    CHECK(!tcp_seen.error.hard);
    struct net_addr peer = v4(PEER_IP), us = v4(OUR_IP);
    CHECK(net_addr_equal(&tcp_seen.error.remote, &peer));
    CHECK(net_addr_equal(&tcp_seen.error.local, &us));
    CHECK_EQ(tcp_seen.error.seq, 0x05060708);
    CHECK_EQ(rte_be_to_cpu_16(tcp_seen.error.remote_port), 0x0304);
    CHECK(zh_net_poll(net, test_now) == NET_NEVER);
    end_net(net);
}

static void send_again(struct zh_net *net, const struct net_error *error)
{
    (void)error;
    send_tcp(net, PEER_IP, 20);
}

/* TCP may send within the error. */
static void test_send_while_failing(void)
{
    struct zh_net *net = new_net(NULL);
    tcp_on_error = send_again;
    for (int i = 0; i < 16; i++)
        send_tcp(net, PEER_IP, 20);
    for (int i = 0; i < 4; i++)
        poll_at(net, test_now + SECONDS(1));
    CHECK_EQ(tcp_seen.errors, 16);
    tcp_on_error = NULL;
    for (int i = 0; i < 4; i++)
        poll_at(net, test_now + SECONDS(1));
    CHECK_EQ(tcp_seen.errors, 32);
    while (sent())
        ;
    end_net(net);
}

/* REACHABLE, STALE when used after a while, DELAY, PROBE: RFC 4861 section 7.3.3. */
static void test_probes(void)
{
    struct zh_net *net = new_net(NULL);
    resolve_peer(net);
    poll_at(net, test_now + SECONDS(14));
    send_tcp(net, PEER_IP, 20);
    expect_packet(PEER_MAC, 20);
    CHECK(zh_net_poll(net, test_now) == NET_NEVER); /* idle neighbours cost no timer */
    poll_at(net, test_now + SECONDS(60));
    send_tcp(net, PEER_IP, 20);
    expect_packet(PEER_MAC, 20);
    uint64_t used = test_now;
    CHECK(zh_net_poll(net, test_now) == used + SECONDS(5));
    poll_at(net, used + SECONDS(5));
    expect_arp(ARP_REQUEST, PEER_MAC, OUR_IP, PEER_MAC, PEER_IP); /* to it alone */
    poll_at(net, used + SECONDS(6));
    expect_arp(ARP_REQUEST, PEER_MAC, OUR_IP, PEER_MAC, PEER_IP);
    send_tcp(net, PEER_IP, 20); /* not held back meanwhile */
    expect_packet(PEER_MAC, 20);
    struct frame gratuitous = arp_frame(ARP_REQUEST, PEER_MAC, PEER_IP, NULL, PEER_IP);
    input(net, &gratuitous); /* no answer to a question */
    CHECK(zh_net_poll(net, test_now) == used + SECONDS(7));
    struct frame reply = arp_frame(ARP_REPLY, PEER_MAC, PEER_IP, OUR_MAC, OUR_IP);
    input(net, &reply);
    CHECK(zh_net_poll(net, test_now) == NET_NEVER);
    expect_silence();

    /* A confirmation from TCP spares the probe. */
    poll_at(net, test_now + SECONDS(60));
    send_tcp(net, PEER_IP, 20);
    expect_packet(PEER_MAC, 20);
    struct net_addr peer = v4(PEER_IP);
    neighbour_confirm(net, &peer);
    CHECK(zh_net_poll(net, test_now) == NET_NEVER);

    /* No answer to three probes: forgotten, asked for again by broadcast. */
    poll_at(net, test_now + SECONDS(60));
    send_tcp(net, PEER_IP, 20);
    expect_packet(PEER_MAC, 20);
    used = test_now;
    for (int i = 5; i < 8; i++) {
        poll_at(net, used + SECONDS(i));
        expect_arp(ARP_REQUEST, PEER_MAC, OUR_IP, PEER_MAC, PEER_IP);
    }
    poll_at(net, used + SECONDS(8));
    CHECK_EQ(net->stats.neighbour_failed, 1);
    send_tcp(net, PEER_IP, 20);
    expect_arp(ARP_REQUEST, EVERYBODY, OUR_IP, NULL, PEER_IP);
    end_net(net);
}

static void test_belief(void)
{
    struct zh_net *net = new_net(NULL);
    /* Nobody has asked. */
    struct frame reply = arp_frame(ARP_REPLY, PEER_MAC, PEER_IP, OUR_MAC, OUR_IP);
    input(net, &reply);
    CHECK_EQ(net->stats.arp_in_bad, 1);
    struct frame gratuitous = arp_frame(ARP_REQUEST, PEER_MAC, PEER_IP, NULL, PEER_IP);
    input(net, &gratuitous);
    expect_silence();
    send_tcp(net, PEER_IP, 20);
    expect_arp(ARP_REQUEST, EVERYBODY, OUR_IP, NULL, PEER_IP);
    input(net, &reply);
    expect_packet(PEER_MAC, 20);

    /* A gratuitous one changes what is there, and what it says is looked into when it is used. */
    gratuitous = arp_frame(ARP_REQUEST, OTHER_MAC, PEER_IP, NULL, PEER_IP);
    input(net, &gratuitous);
    send_tcp(net, PEER_IP, 20);
    expect_packet(OTHER_MAC, 20);
    poll_at(net, test_now + SECONDS(5));
    expect_arp(ARP_REQUEST, OTHER_MAC, OUR_IP, OTHER_MAC, PEER_IP);
    reply = arp_frame(ARP_REPLY, PEER_MAC, PEER_IP, OUR_MAC, OUR_IP);
    input(net, &reply);
    send_tcp(net, PEER_IP, 20);
    expect_packet(PEER_MAC, 20);
    CHECK(zh_net_poll(net, test_now) == NET_NEVER);

    /* Malformed, from elsewhere, of a group. */
    uint64_t bad = net->stats.arp_in_bad;
    struct frame request = arp_frame(ARP_REQUEST, PEER_MAC, "\x0b\x00\x00\x02", NULL, OUR_IP);
    input(net, &request);
    CHECK_EQ(net->stats.arp_in_bad, ++bad);
    request = arp_frame(ARP_REQUEST, "\x03\x00\x00\x00\x00\x02", PEER_IP, NULL, OUR_IP);
    memcpy(request.data + 6, PEER_MAC, 6);
    input(net, &request);
    CHECK_EQ(net->stats.arp_in_bad, ++bad);
    for (size_t field = 0; field < 8; field++) {
        request = arp_frame(ARP_REQUEST, PEER_MAC, PEER_IP, NULL, OUR_IP);
        request.data[14 + field] ^= 0x10;
        input(net, &request);
        CHECK_EQ(net->stats.arp_in_bad, ++bad);
    }
    request = arp_frame(ARP_REQUEST, PEER_MAC, PEER_IP, NULL, OUR_IP);
    for (size_t size = 14; size < 14 + sizeof(struct arp_header); size++) {
        request.size = size;
        input(net, &request);
        CHECK_EQ(net->stats.arp_in_bad, ++bad);
    }
    expect_silence();
    /* In pieces it is one still. */
    request = arp_frame(ARP_REQUEST, PEER_MAC, PEER_IP, NULL, OUR_IP);
    input_segments(net, &request, 5);
    expect_arp(ARP_REPLY, PEER_MAC, OUR_IP, PEER_MAC, PEER_IP);
    /* For another one. */
    request = arp_frame(ARP_REQUEST, PEER_MAC, PEER_IP, NULL, "\x0a\x00\x00\x09");
    input(net, &request);
    expect_silence();
    end_net(net);
}

/* RFC 5227: probes are answered, and tell of no sender; the address is announced and defended. */
static void test_conflicts(void)
{
    struct zh_net *net;
    struct zh_net_prefix address;
    struct zh_net_config config = {
        .addresses = &address, .address_count = 1, .send_packets = 256, .seed = 1};
    char error[ZH_PORT_ERROR_SIZE];
    CHECK(zh_net_prefix_parse("10.0.0.1/24", &address) == 0);
    CHECK(zh_net_create(&config, &test_port, &net, error) == 0);
    uint64_t start = test_now;
    poll_at(net, start);
    expect_arp(ARP_REQUEST, EVERYBODY, OUR_IP, NULL, OUR_IP);
    poll_at(net, start + SECONDS(2) - 1);
    expect_silence();
    poll_at(net, start + SECONDS(2));
    expect_arp(ARP_REQUEST, EVERYBODY, OUR_IP, NULL, OUR_IP);
    CHECK(zh_net_poll(net, test_now) == NET_NEVER);

    struct frame probe = arp_frame(ARP_REQUEST, PEER_MAC, "\0\0\0\0", NULL, OUR_IP);
    input(net, &probe);
    expect_arp(ARP_REPLY, PEER_MAC, OUR_IP, PEER_MAC, "\0\0\0\0");

    struct frame claim = arp_frame(ARP_REQUEST, OTHER_MAC, OUR_IP, NULL, OUR_IP);
    input(net, &claim);
    expect_arp(ARP_REQUEST, EVERYBODY, OUR_IP, NULL, OUR_IP);
    poll_at(net, test_now + SECONDS(9));
    input(net, &claim); /* not more often than each 10 s: section 2.4 */
    expect_silence();
    poll_at(net, test_now + SECONDS(1));
    input(net, &claim);
    expect_arp(ARP_REQUEST, EVERYBODY, OUR_IP, NULL, OUR_IP);
    end_net(net);
}

static void host(uint8_t ip[4], unsigned n)
{
    memcpy(ip, OUR_IP, 4);
    ip[2] = (uint8_t)(n >> 8);
    ip[3] = (uint8_t)n;
}

static void test_limits(void)
{
    struct zh_net_prefix address;
    struct zh_net_config config = {.addresses = &address, .address_count = 1, .max_neighbours = 64};
    uint8_t ip[4];
    CHECK(zh_net_prefix_parse("10.0.0.1/16", &address) == 0);
    struct zh_net *net = new_net(&config);

    /* 256 packets wait in all. */
    for (unsigned i = 0; i < 16 * 17; i++) {
        host(ip, 256 + i / 17);
        send_tcp(net, ip, 20);
        if (i % 17 == 0)
            expect_arp(ARP_REQUEST, EVERYBODY, OUR_IP, NULL, ip);
    }
    CHECK_EQ(net->stats.neighbour_dropped, 16);
    CHECK_EQ(rte_mempool_in_use_count(net->pool), 256);
    /* A 17th neighbour finds no room for its packet, but is asked for. */
    host(ip, 300);
    send_tcp(net, ip, 20);
    expect_arp(ARP_REQUEST, EVERYBODY, OUR_IP, NULL, ip);
    CHECK_EQ(net->stats.neighbour_dropped, 17);
    for (int i = 0; i < 4; i++)
        poll_at(net, test_now + SECONDS(1));
    while (sent())
        ;
    CHECK_EQ(rte_mempool_in_use_count(net->pool), 0);
    CHECK_EQ(net->stats.neighbour_failed, 17);

    /* What was used least of late makes room; who has no address yet does not drive others out. */
    for (unsigned i = 0; i < 64; i++) {
        host(ip, 512 + i);
        send_tcp(net, ip, 20);
        expect_arp(ARP_REQUEST, EVERYBODY, OUR_IP, NULL, ip);
        struct frame reply = arp_frame(ARP_REPLY, PEER_MAC, ip, OUR_MAC, OUR_IP);
        input(net, &reply);
        expect_packet(PEER_MAC, 20);
    }
    host(ip, 512);
    send_tcp(net, ip, 20); /* the oldest is used */
    expect_packet(PEER_MAC, 20);
    for (unsigned i = 0; i < 1000; i++) {
        host(ip, 1024 + i);
        send_tcp(net, ip, 20);
        expect_arp(ARP_REQUEST, EVERYBODY, OUR_IP, NULL, ip);
    }
    CHECK(rte_mempool_in_use_count(net->pool) <= 64 / 4 + 1);
    host(ip, 512);
    send_tcp(net, ip, 20);
    expect_packet(PEER_MAC, 20);
    host(ip, 512 + 63);
    send_tcp(net, ip, 20);
    expect_packet(PEER_MAC, 20);
    host(ip, 512 + 1);
    send_tcp(net, ip, 20);
    expect_arp(ARP_REQUEST, EVERYBODY, OUR_IP, NULL, ip);
    /* Who asks does not, either. */
    struct frame request = arp_frame(ARP_REQUEST, PEER_MAC, "\x0a\x00\x08\x01", NULL, OUR_IP);
    for (unsigned i = 0; i < 200; i++) {
        request.data[14 + offsetof(struct arp_header, sender) + 3] = (uint8_t)(i + 1);
        input(net, &request);
        CHECK(sent() != NULL);
    }
    host(ip, 512 + 63);
    send_tcp(net, ip, 20);
    expect_packet(PEER_MAC, 20);
    end_net(net);
}

/* Packets wait for a port that is full, up to a burst of them. */
static void test_full_port(void)
{
    struct zh_net *net = new_net(NULL);
    resolve_peer(net);
    port_takes = 0;
    for (unsigned i = 0; i < NET_BURST + 5; i++)
        send_tcp(net, PEER_IP, 20 + i);
    CHECK_EQ(net->stats.ether_out_dropped, 5);
    CHECK(zh_net_poll(net, test_now) < test_now + MS(1));
    uint64_t out = net->stats.ether_out;
    port_takes = 3; /* of each call */
    poll_at(net, test_now + MS(1));
    port_takes = UINT16_MAX;
    CHECK_EQ(net->stats.ether_out, out + NET_BURST);
    for (unsigned i = 0; i < NET_BURST; i++)
        expect_packet(PEER_MAC, 20 + i);
    /* A port that takes no chains. */
    test_port.max_segments = 1;
    struct net_addr us = v4(OUR_IP), peer = v4(PEER_IP);
    uint8_t data[1000] = {7};
    CHECK(ip_output(net, packet_of(data, sizeof data, 300), &us, &peer, IPPROTO_TCP, 0) == 0);
    ether_flush(net);
    test_port.max_segments = 8;
    const struct frame *frame = sent();
    CHECK(frame && frame->size == 14 + 20 + sizeof data);
    CHECK(memcmp(frame->data + 34, data, sizeof data) == 0);
    CHECK_EQ(net->stats.bytes_copied, 700);
    end_net(net);
}

int main(void)
{
    layers_start();
    test_request_is_answered();
    test_resolution();
    test_no_answer();
    test_send_while_failing();
    test_probes();
    test_belief();
    test_conflicts();
    test_limits();
    test_full_port();
    return 0;
}
