/* The stack's own state and how its layers call each other. Everything here belongs to the one
 * thread that runs the stack, except where it says otherwise. Names as in the RFCs. */
#ifndef ZEROHOP_NET_STACK_H
#define ZEROHOP_NET_STACK_H

#include <errno.h>
#include <rte_byteorder.h>
#include <rte_mbuf.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "zerohop/net.h"

enum {
    NET_US = 1000,
    NET_MS = 1000 * 1000,
    NET_BURST = 64, /* packets of one tx_burst */
};
#define NET_SECOND UINT64_C(1000000000)
#define NET_NEVER UINT64_MAX
#define NET_V4_MAPPED RTE_BE32(UINT32_C(0xffff)) /* words[2] of an IPv4 address */

/* --- addresses -------------------------------------------------------------------------------- */

/* An IPv4 address is kept as ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2), network byte order. */
struct net_addr {
    union {
        uint8_t bytes[16];
        uint32_t words[4];
        uint64_t halves[2];
    };
};

static inline bool net_addr_equal(const struct net_addr *a, const struct net_addr *b)
{
    return a->halves[0] == b->halves[0] && a->halves[1] == b->halves[1];
}

static inline bool net_addr_is_v4(const struct net_addr *a)
{
    return a->halves[0] == 0 && a->words[2] == NET_V4_MAPPED;
}

static inline struct net_addr net_addr_v4(uint32_t address /* network byte order */)
{
    return (struct net_addr){.words = {0, 0, NET_V4_MAPPED, address}};
}

/* --- timers (timer.c) ------------------------------------------------------------------------- */

/* Embedded in what it belongs to. Zeroed: not set. */
struct net_timer {
    uint64_t deadline;
    void (*expire)(struct zh_net *net, struct net_timer *timer);
    uint32_t index; /* place in the heap + 1; 0: not set */
};

struct net_timers {
    struct net_timer **heap; /* 4-ary, earliest first; owned */
    uint32_t count, capacity;
};

/* Room for `count` timers to be set at once: whoever creates what has a timer reserves first, so
 * that setting cannot fail. 0 or -ENOMEM. */
int net_timers_reserve(struct net_timers *timers, uint32_t count);
/* Set or move. */
void net_timer_set(struct net_timers *timers, struct net_timer *timer, uint64_t deadline);
void net_timer_stop(struct net_timers *timers, struct net_timer *timer);
/* Expire what is due, those too that are set meanwhile for a time that has come. */
void net_timers_run(struct zh_net *net, struct net_timers *timers, uint64_t now);
static inline uint64_t net_timers_next(const struct net_timers *timers)
{
    return timers->count ? timers->heap[0]->deadline : NET_NEVER;
}
void net_timers_free(struct net_timers *timers);

/* --- checksums (checksum.c; RFC 1071) -----------------------------------------------------------
 */

/* One's complement sum of `size` bytes, not folded; sums of pieces of even length add up. */
uint64_t net_sum(const void *data, size_t size);
/* Of a packet's `size` bytes from `offset` on, across its segments, of any lengths. */
uint64_t net_sum_packet(const struct rte_mbuf *packet, uint32_t offset, uint32_t size);
/* Of the pseudo-header (RFC 9293 section 3.1; RFC 8200 section 8.1). `size`: of what follows it. */
uint64_t net_sum_pseudo(const struct net_addr *src, const struct net_addr *dst, uint8_t protocol,
                        uint32_t size);
/* Fold to 16 bits, in the byte order in which the data lies; not complemented. */
static inline uint16_t net_sum_fold(uint64_t sum)
{
    sum = (sum >> 32) + (sum & 0xffffffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    return (uint16_t)((sum >> 16) + (sum & 0xffff));
}

/* --- what a received packet is on its way up ----------------------------------------------------
 */

/* Filled in by the IP layer, in private memory. The packet's data then begins with the transport
 * header, and its length is what the IP header says. */
struct net_packet {
    struct net_addr src, dst;
    uint8_t protocol;
    uint8_t ttl;
    uint8_t traffic_class; /* DSCP and ECN */
    bool was_fragmented;
    bool broadcast; /* the Ethernet or IP destination is no single host's: never answer with an
                       error */
    uint16_t ip_header_size;
};

/* What an ICMP error says of a packet of ours, its quote already checked for length. */
struct net_error {
    struct net_addr local, remote; /* of the quoted packet: its source and destination */
    uint8_t protocol;
    uint16_t local_port, remote_port; /* network byte order */
    uint32_t seq;                     /* the quoted segment's */
    int error;                        /* EHOSTUNREACH, ECONNREFUSED, EMSGSIZE ... */
    bool hard;                        /* RFC 1122 section 4.2.3.9 */
    uint16_t mtu;                     /* with EMSGSIZE; 0: not told (RFC 1191 section 3) */
};

/* --- the stack -------------------------------------------------------------------------------- */

struct neighbours; /* neighbour.c */
struct fragments;  /* fragment.c */
struct tcp;        /* tcp.h */

struct net_limit { /* a token bucket: see icmp.c, RFC 6633 and RFC 4443 section 2.4 (f) */
    uint64_t refilled_at;
    uint32_t tokens;
};

struct net_path { /* path.c: what is known of the way to a destination */
    struct net_addr dst;
    uint64_t expires; /* RFC 1981 section 5.3: 10 minutes, then the link's MTU again */
    uint16_t mtu;
};

struct zh_net {
    struct zh_net_config config; /* defaults filled in; the arrays are copies, owned */
    struct zh_port *port;        /* the owner's */
    uint64_t now;
    struct rte_mempool *pool; /* headers and copied payload; owned */
    struct net_timers timers;
    struct rte_mbuf *out[NET_BURST]; /* to be sent at the end of the poll; owned */
    uint16_t out_count;
    uint16_t ip_id;  /* RFC 6864: of packets that may be fragmented only; others have 0 */
    uint8_t key[16]; /* of hashes that a peer must not foresee */
    uint64_t random; /* state of net_random */
    struct neighbours *neighbours;
    struct fragments *fragments;
    struct tcp *tcp;
    struct net_path paths[64];
    struct net_limit icmp_limit;
    struct zh_net_stats stats;
};

/* A packet to be filled: empty, with headroom for all headers. NULL: none left. */
struct rte_mbuf *net_packet_alloc(struct zh_net *net);

/* Not for secrets: jitter, identifiers. */
uint32_t net_random(struct zh_net *net);
/* A keyed hash (SipHash-2-4, as RFC 6528 section 3 wants of an ISN's). */
uint64_t net_siphash(const uint8_t key[16], const void *data, size_t size);

/* --- Ethernet (ether.c) ------------------------------------------------------------------------
 */

void ether_input(struct zh_net *net, struct rte_mbuf *packet);
/* Prepend the header and queue for the burst. Takes the packet. */
void ether_output(struct zh_net *net, struct rte_mbuf *packet, const uint8_t dst[6],
                  uint16_t ether_type /* host byte order */);
/* Hand the queue to the port. */
void ether_flush(struct zh_net *net);

/* --- neighbours (neighbour.c), ARP (arp.c), ND (nd.c) -------------------------------------------
 */

int neighbours_create(struct zh_net *net);
void neighbours_free(struct zh_net *net);
/* Send an IP packet to a neighbour on the link; resolves first where needed. Takes the packet. */
void neighbour_output(struct zh_net *net, const struct net_addr *next_hop, struct rte_mbuf *packet);
/* The peer's upper layer has heard from it (RFC 4861 section 7.3.1): no probe is needed. */
void neighbour_confirm(struct zh_net *net, const struct net_addr *next_hop);
void arp_input(struct zh_net *net, struct rte_mbuf *packet);
/* Announce the own addresses (RFC 5227 section 2.3). */
void arp_announce(struct zh_net *net);

/* --- routes (route.c) and path MTU (path.c) ------------------------------------------------------
 */

struct net_next_hop {
    struct net_addr address;       /* the destination itself, or the gateway */
    const struct net_addr *source; /* the own address to use */
    bool datacenter;
};

bool net_is_own(const struct zh_net *net, const struct net_addr *address);
/* False: no route. */
bool net_route(const struct zh_net *net, const struct net_addr *dst, struct net_next_hop *hop);
/* Of packets to `dst`, the IP header included. */
uint16_t net_path_mtu(const struct zh_net *net, const struct net_addr *dst);
/* An ICMP "too big" that TCP has believed (RFC 5927): lowers, never below 576 (1280 for IPv6).
 * Returns what holds now. */
uint16_t net_path_lower(struct zh_net *net, const struct net_addr *dst, uint16_t mtu);

/* --- IP (ipv4.c, ipv6.c), reassembly (fragment.c), ICMP (icmp.c, icmpv6.c) -----------------------
 */

void ipv4_input(struct zh_net *net, struct rte_mbuf *packet, bool broadcast);

/* Send what begins with a transport header whose checksum is filled in (or marked for the device).
 * Takes the packet. 0 or -EHOSTUNREACH (no route; counted). IPv4: don't-fragment set. */
int ip_output(struct zh_net *net, struct rte_mbuf *packet, const struct net_addr *src,
              const struct net_addr *dst, uint8_t protocol, uint8_t traffic_class);

int fragments_create(struct zh_net *net);
void fragments_free(struct zh_net *net);

void icmp_input(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info);
/* Destination unreachable for a packet that nobody took (RFC 1122 section 3.2.2.1), rate-limited.
 * Does not take the packet, whose IP header must still lie before its data. */
void icmp_unreachable(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info,
                      uint8_t code);

/* --- TCP, as the layers below see it ------------------------------------------------------------
 */

int tcp_create(struct zh_net *net);
void tcp_free(struct zh_net *net);
/* Takes the packet. */
void tcp_input(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info);
void tcp_icmp_error(struct zh_net *net, const struct net_error *error);
/* Send what connections have to send, ACKs that are due with it. Returns when to call again at the
 * latest, timers apart. */
uint64_t tcp_poll(struct zh_net *net);

#endif
