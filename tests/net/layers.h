/* What the tests of the layers below TCP share: a stack on a port that keeps what it is given, and
 * raw frames in and out in virtual time. Every function here ends the test when it cannot do its
 * work. */
#ifndef ZEROHOP_TESTS_NET_LAYERS_H
#define ZEROHOP_TESTS_NET_LAYERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "headers.h"
#include "stack.h"

#define SECONDS(n) ((uint64_t)(n)*1000000000u)
#define MS(n) ((uint64_t)(n)*1000000u)

/* 10.0.0.1/24 and fd00::1/64 with this MAC; gateway 10.0.0.254, fd00::fe. */
#define OUR_MAC "\x02\x00\x00\x00\x00\x01"
#define PEER_MAC "\x02\x00\x00\x00\x00\x02"
#define OTHER_MAC "\x02\x00\x00\x00\x00\x03"
#define EVERYBODY "\xff\xff\xff\xff\xff\xff"
#define OUR_IP "\x0a\x00\x00\x01"
#define PEER_IP "\x0a\x00\x00\x02"

struct frame {
    uint8_t data[16384];
    size_t size;
};

/* What TCP was given. */
struct tcp_seen {
    unsigned packets, errors;
    struct net_packet info;
    struct net_error error;
    uint8_t data[65536]; /* of the last packet */
    size_t size;
};
extern struct tcp_seen tcp_seen;
/* What the fake does with an error, if anything. */
extern void (*tcp_on_error)(struct zh_net *net, const struct net_error *error);

/* The port: frames that it takes of each burst, and how many segments it can. */
extern struct zh_port test_port;
extern unsigned port_takes;
/* Where it and zh_net_input get packets; 2,048 with 2 KiB each. */
extern struct rte_mempool *test_pool;

/* EAL, pool, port; and a stack, after its announcements have been made and forgotten. */
void layers_start(void);
struct zh_net *new_net(const struct zh_net_config *config);
/* Destroy it; every packet of the test's pool must be back. */
void end_net(struct zh_net *net);

extern uint64_t test_now;

/* A packet of segments of at most `segment` bytes; 0: one. */
struct rte_mbuf *packet_of(const void *data, size_t size, size_t segment);
void input(struct zh_net *net, const struct frame *frame);
void input_segments(struct zh_net *net, const struct frame *frame, size_t segment);
void poll_at(struct zh_net *net, uint64_t now);

/* The next frame sent, which is kept until the next call; NULL: none. */
const struct frame *sent(void);
void expect_silence(void);

/* --- making frames */
void put(struct frame *frame, const void *data, size_t size);
struct frame ether_frame(const void *dst, const void *src, uint16_t type);
struct frame arp_frame(uint16_t operation, const void *sender_mac, const void *sender,
                       const void *target_mac, const void *target);
/* Header with a right checksum. `fragment` in host byte order. */
struct frame ipv4_frame(const void *src, const void *dst, uint8_t protocol, const void *options,
                        size_t option_size, uint16_t id, uint16_t fragment, const void *payload,
                        size_t size);
/* Fill in an ICMP message's checksum. */
void icmp_sum(uint8_t *message, size_t size);
/* Tell the stack where the peer is, as an answer to its question. */
void resolve_peer(struct zh_net *net);
/* Have TCP send `size` bytes to an address. */
int send_tcp(struct zh_net *net, const void *dst, size_t size);
struct net_addr v4(const void *address);

#endif
