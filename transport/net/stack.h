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
    NET_BURST = 64,         /* packets of one tx_burst */
    NET_LAYER_TIMERS = 4,   /* at most set by the layers below TCP */
    NET_ADDRESSES_MAX = 64, /* of the configuration */
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

/* Room for `count` timers to be set at once, beside the NET_LAYER_TIMERS of the layers below TCP:
 * whoever creates what has a timer reserves first, so that setting cannot fail. 0 or -ENOMEM. */
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
    uint16_t size;                    /* of the quoted packet, as it says; IP header included */
};

/* --- the stack -------------------------------------------------------------------------------- */

struct neighbours; /* neighbour.c */
struct fragments;  /* fragment.c */
struct pcap;       /* pcap.c */
struct tcp;        /* tcp.h */

struct net_limit { /* a token bucket: see icmp.c, RFC 6633 and RFC 4443 section 2.4 (f) */
    uint64_t refilled_at;
    uint32_t tokens;
};

struct net_route { /* route.c; addresses under the mask are the route's */
    struct net_addr dst, mask;
    struct net_addr gateway; /* with has_gateway; else the destination is on the link */
    struct net_addr source;  /* the own address to use */
    uint8_t length;          /* of the prefix; an IPv4 one's and 96 */
    bool v4, has_gateway, datacenter;
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
    struct net_addr own[NET_ADDRESSES_MAX + 1]; /* the configuration's, and an IPv6 link-local one
                                                   where it has IPv6 and none of these */
    uint16_t own_count;
    uint16_t path_count;
    struct net_route *routes; /* longest prefix first; owned */
    uint32_t route_count;
    uint64_t defended_at; /* arp.c: an own address that another one uses; 0: never */
    struct neighbours *neighbours;
    struct fragments *fragments;
    struct tcp *tcp;
    struct pcap *pcap;         /* NULL: packets are not captured; owned */
    struct zh_net_ping *pings; /* under way; the callers' */
    struct net_path paths[64];
    struct net_limit icmp_limit, echo_limit;
    struct zh_net_stats stats;
};

/* --- packets (packet.c)
 * ------------------------------------------------------------------------------- */

/* A packet to be filled: empty, with headroom for all headers. NULL: none left. */
struct rte_mbuf *net_packet_alloc(struct zh_net *net);
bool net_packet_pull_slow(struct rte_mbuf *packet, uint32_t size);
/* See that a received packet's first `size` bytes lie in its first segment. False: it is shorter,
 * or there is no room. */
static inline bool net_packet_pull(struct rte_mbuf *packet, uint32_t size)
{
    return size <= packet->data_len || net_packet_pull_slow(packet, size);
}
/* Cut a packet, of any number of segments, to its first `size` bytes. */
void net_packet_cut(struct rte_mbuf *packet, uint32_t size);
/* Make a received packet one to be sent, in place where nobody else refers to its memory, else as a
 * copy. Takes the packet. NULL: no packets left. */
struct rte_mbuf *net_packet_reuse(struct zh_net *net, struct rte_mbuf *packet);

/* --- random numbers and keyed hashes (random.c)
 * ----------------------------------------------------- */

/* From the configuration's seed, or getrandom(2). 0 or a negative errno. */
int net_random_start(struct zh_net *net, uint64_t seed);

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
/* Ask who has an address: everybody, or, to see whether it is still there, one (RFC 1122 section
 * 2.3.2.1). */
void arp_request(struct zh_net *net, const struct net_addr *target, const uint8_t *mac);

/* As arp_request and arp_announce, for IPv6 (RFC 4861 sections 7.2.2 and 7.2.6). */
void nd_solicit(struct zh_net *net, const struct net_addr *target, const uint8_t *mac);
void nd_announce(struct zh_net *net);
/* A neighbour solicitation or advertisement, its checksum verified. Takes the packet. */
void nd_input(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info);
/* Whether a multicast address, or one of Ethernet, is one of this stack's groups: that of all nodes
 * and those of its addresses (RFC 4291 section 2.8). */
bool nd_listens(const struct zh_net *net, const struct net_addr *group);
bool nd_listens_mac(const struct zh_net *net, const uint8_t mac[6]);

/* What ARP and ND have heard of a neighbour. */
struct neighbour_news {
    struct net_addr address;
    const uint8_t *mac; /* NULL: not told */
    bool may_create;    /* it has asked for us, and will be answered (RFC 4861 section 7.2.3) */
    bool solicited;     /* it answers (RFC 4861 section 7.2.5, S flag) */
    bool override;      /* another hardware address than the known one is believed (O flag) */
};
/* False: not believed. */
bool neighbour_heard(struct zh_net *net, const struct neighbour_news *news);

/* --- routes (route.c) and path MTU (path.c) ------------------------------------------------------
 */

struct net_next_hop {
    struct net_addr address;       /* the destination itself, or the gateway */
    const struct net_addr *source; /* the own address to use */
    bool datacenter;
};

/* The tables, from the configuration. 0, or a negative errno with the reason in `error`
 * (ZH_PORT_ERROR_SIZE). */
int routes_create(struct zh_net *net, char *error);
void routes_free(struct zh_net *net);

bool net_is_own(const struct zh_net *net, const struct net_addr *address);
/* False: no route. */
bool net_route(const struct zh_net *net, const struct net_addr *dst, struct net_next_hop *hop);
/* Of packets to `dst`, the IP header included. */
uint16_t net_path_mtu(const struct zh_net *net, const struct net_addr *dst);
/* When that may be more again; NET_NEVER: it is the link's. */
uint64_t net_path_expires(const struct zh_net *net, const struct net_addr *dst);
/* An ICMP "too big" that TCP has believed (RFC 5927): lowers, never below 576 (1280 for IPv6).
 * Returns what holds now. */
uint16_t net_path_lower(struct zh_net *net, const struct net_addr *dst, uint16_t mtu);
/* What a router probably has that did not take a packet of this size, and does not say. */
uint16_t net_path_plateau(uint16_t size);

/* --- IP (ipv4.c, ipv6.c), reassembly (fragment.c), ICMP (icmp.c, icmpv6.c) -----------------------
 */

/* Take the packet. `broadcast`: the frame was for more than this host. */
void ipv4_input(struct zh_net *net, struct rte_mbuf *packet, bool broadcast);
void ipv6_input(struct zh_net *net, struct rte_mbuf *packet, bool multicast);

/* Send what begins with a transport header whose checksum is filled in (or marked for the device).
 * Takes the packet. 0, -EHOSTUNREACH (no route; counted) or -EMSGSIZE (larger than the link's MTU,
 * or without headroom). IPv4: don't-fragment set. */
int ip_output(struct zh_net *net, struct rte_mbuf *packet, const struct net_addr *src,
              const struct net_addr *dst, uint8_t protocol, uint8_t traffic_class);

/* The same, but what is larger than the MTU is copied into fragments (for what answers fragments;
 * TCP never sends any). */
int ip_output_fragments(struct zh_net *net, struct rte_mbuf *packet, const struct net_addr *src,
                        const struct net_addr *dst, uint8_t protocol, uint8_t traffic_class);
/* An IPv4 header before what follows it, which has headroom. `fragment`: the header's field, host
 * byte order. */
void ipv4_prepend(struct rte_mbuf *packet, const struct net_addr *src, const struct net_addr *dst,
                  uint8_t protocol, uint8_t traffic_class, uint16_t id, uint16_t fragment);
/* An IPv6 header before what follows it. */
void ipv6_prepend(struct rte_mbuf *packet, const struct net_addr *src, const struct net_addr *dst,
                  uint8_t protocol, uint8_t traffic_class, uint8_t hop_limit);

int fragments_create(struct zh_net *net);
void fragments_free(struct zh_net *net);
/* A fragment, whose data begins after the (fragment) header, which lies before it. `id`: as on the
 * wire. Takes the packet. Returns the whole packet when this was the last piece, its data beginning
 * as the first fragment's did, with `info` about that; else NULL. */
struct rte_mbuf *fragments_input(struct zh_net *net, struct rte_mbuf *packet,
                                 struct net_packet *info, uint32_t id, uint32_t offset, bool more);

/* Take a token of a bucket that holds `burst` and gets one each `interval` ns. False: none left. */
bool net_limit_take(struct net_limit *limit, uint64_t now, uint64_t interval, uint32_t burst);
/* What an IP packet of ours was, of which its first `size` bytes are known, at least up to the
 * sequence number: fills in all but error, hard and mtu. False: too short, a later fragment, not
 * TCP's or not from us (quote.c). */
bool net_error_quote(const struct zh_net *net, const uint8_t *packet, size_t size,
                     struct net_error *error);
/* Whether one more may be sent now; counts those that may not. */
bool icmp_error_allowed(struct zh_net *net);
bool icmp_echo_allowed(struct zh_net *net);

/* Take the packet. */
void icmp_input(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info);
void icmpv6_input(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info);
/* Fill in a message's checksum. */
void icmpv6_sum(struct rte_mbuf *message, const struct net_addr *src, const struct net_addr *dst);
/* Destination unreachable for an IPv4 packet that nobody took (RFC 1122 section 3.2.2.1),
 * rate-limited. Does not take the packet, whose IP header must still lie before its data. */
void icmp_unreachable(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info,
                      uint8_t code);
/* Any error, in the same way (RFC 792; RFC 4443 section 2.4). `field`: the header's last word, host
 * byte order. */
void icmp_error(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info,
                uint8_t type, uint8_t code, uint32_t field);
void icmpv6_error(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info,
                  uint8_t type, uint8_t code, uint32_t field);

/* --- echo requests (ping.c) and capturing (pcap.c)
 * ------------------------------------------------
 */

/* An echo reply, of at least a header, its checksum verified. Does not take the packet. */
void ping_input(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info);

/* With net->pcap. A whole frame, as it came or goes. */
void pcap_write(struct zh_net *net, const struct rte_mbuf *packet);
/* From time to time: what was written reaches the file. */
void pcap_flush(struct zh_net *net);

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
