/* ARP and the neighbour cache: questions, answers, what is believed, what waits, what is given up.
 */
#include "layers.h"

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

int main(void)
{
    layers_start();
    test_request_is_answered();
    test_resolution();
    return 0;
}
