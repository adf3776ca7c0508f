/* A TCP/IP stack without I/O: packets in, packets out, the time is an argument.
 *
 * The owner receives packets from a port (port.h) and gives them to zh_net_input; zh_net_poll runs
 * the timers, sends what is due through the port in one burst, and says when it next wants to be
 * called. The stack reads no clock and starts no thread.
 *
 *     for (;;) {
 *         uint16_t n = zh_port_receive(port, packets, 32);
 *         for (uint16_t i = 0; i < n; i++)
 *             zh_net_input(net, packets[i], now());
 *         while ((n_events = zh_net_wait(net, events, 16)) > 0)
 *             serve(events, n_events);
 *         next = zh_net_poll(net, now());
 *     }
 *
 * Times are nanoseconds of any monotonic clock, not 0 and never going back.
 *
 * Threads: one thread at a time calls the functions of a stack and of its sockets; zh_net_release
 * and the release of zh_stream_segment alone may be called from any. Errors are negative errno
 * values, those of the call of the same name in sockets (7) and tcp (7).
 *
 * RFC 9293 (TCP), 791 (IPv4), 826 (ARP), 792 (ICMP); docs/stack.md has the table of all, and of
 * what is not implemented. */
#ifndef ZEROHOP_NET_H
#define ZEROHOP_NET_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "zerohop/api.h"
#include "zerohop/port.h"
#include "zerohop/stream.h"

/* --- a stack ---------------------------------------------------------------------------------- */

/* An address with its prefix length: an own address and its network, or a route's destination. */
struct zh_net_prefix {
    sa_family_t family; /* AF_INET, AF_INET6 */
    uint8_t length;     /* in bits */
    union {
        struct in_addr v4;
        struct in6_addr v6;
    };
};

/* "10.77.0.1/24", "fd00::1/64"; without a slash: the one address. 0 or -EINVAL. */
ZH_API int zh_net_prefix_parse(const char *text, struct zh_net_prefix *prefix);

struct zh_net_route {
    struct zh_net_prefix destination; /* length 0: the default route */
    struct zh_net_prefix gateway;     /* its `length` is not looked at */
    bool datacenter;                  /* RTO floor 5 ms rather than 200 ms */
};

/* Zero in a field means the default given here. */
struct zh_net_config {
    const struct zh_net_prefix *addresses; /* at least one, at most 64 */
    unsigned address_count;
    const struct zh_net_route *routes; /* besides the addresses' own networks */
    unsigned route_count;
    uint16_t mtu;                   /* at most the port's, which is the default */
    const char *congestion_control; /* of new sockets: "cubic" (default), "newreno" */
    uint64_t rto_min;               /* ns; 200 ms (RFC 6298 has 1 s; Linux 200 ms) */
    uint64_t delayed_ack;           /* ns; 40 ms (RFC 9293 section 3.8.6.3: less than 500 ms) */
    uint64_t time_wait;             /* ns; 60 s (2 MSL, RFC 9293 section 3.4.2) */
    uint32_t max_connections;       /* 131,072 */
    uint32_t max_half_open;         /* connections in SYN-RECEIVED; 4,096 */
    uint32_t max_time_wait;         /* 65,536; the oldest make room */
    uint32_t max_neighbours;        /* 1,024 */
    uint32_t send_packets;          /* in the pool of headers and copied payload; 16,384 */
    size_t receive_budget;          /* bytes of packet memory a connection may hold; 4 MiB */
    size_t send_limit;              /* bytes queued to be sent, beyond which sends wait; 4 MiB */
    bool ecn;            /* connect asks for ECN (RFC 3168); a peer that asks always gets it */
    bool always_cookies; /* answer every SYN by a cookie, not only when there is no room */
    uint64_t seed;       /* of ISNs, ports and hashes; 0: from getrandom(2). Tests set it. */
};

struct zh_net;

/* A stack on a port. The port stays the caller's and outlives the stack; the configuration is
 * copied. `error` as in port.h. */
ZH_API int zh_net_create(const struct zh_net_config *config, struct zh_port *port,
                         struct zh_net **net, char *error);

/* Frees the stack and what it holds, sending nothing: close sockets and poll first for an orderly
 * end. Sockets are gone; packets that were taken stay valid until released. */
ZH_API void zh_net_destroy(struct zh_net *net);

/* A received packet, from the Ethernet header on; it is the stack's from here on. */
ZH_API void zh_net_input(struct zh_net *net, struct rte_mbuf *packet, uint64_t now);

/* Run timers and send what is due. Returns the time of the next call at the latest; UINT64_MAX when
 * nothing is waited for. Calls may come earlier, and must come after zh_net_input and after sockets
 * were used. */
ZH_API uint64_t zh_net_poll(struct zh_net *net, uint64_t now);

/* --- sockets ---------------------------------------------------------------------------------- */

/* Non-blocking, of SOCK_STREAM. */
struct zh_net_socket;

ZH_API int zh_net_socket(struct zh_net *net, int domain, struct zh_net_socket **socket);
ZH_API int zh_net_bind(struct zh_net_socket *socket, const struct sockaddr *address,
                       socklen_t length);
ZH_API int zh_net_listen(struct zh_net_socket *socket, int backlog);
/* The next established connection; -EAGAIN. */
ZH_API int zh_net_accept(struct zh_net_socket *listener, struct zh_net_socket **socket);
/* -EINPROGRESS, then ZH_STREAM_OUT or ZH_STREAM_ERR. */
ZH_API int zh_net_connect(struct zh_net_socket *socket, const struct sockaddr *address,
                          socklen_t length);
/* Frees the handle. As zh_stream_close. */
ZH_API void zh_net_close(struct zh_net_socket *socket);
/* SHUT_RD, SHUT_WR, SHUT_RDWR. */
ZH_API int zh_net_shutdown(struct zh_net_socket *socket, int how);

/* Copying calls (the bytes are counted). How many bytes were taken or given; 0 from zh_net_recv:
 * the end. MSG_PEEK for recv, MSG_MORE for send (RFC 9293 section 3.9.1: no push). */
ZH_API ssize_t zh_net_send(struct zh_net_socket *socket, const void *data, size_t size, int flags);
ZH_API ssize_t zh_net_recv(struct zh_net_socket *socket, void *data, size_t size, int flags);

/* Without copies: as zh_stream_send and zh_stream_take. */
ZH_API int zh_net_send_records(struct zh_net_socket *socket, const struct zh_stream_record *records,
                               unsigned count);
ZH_API int zh_net_take(struct zh_net_socket *socket, struct zh_stream_segment *segments,
                       unsigned count);
ZH_API void zh_net_release(struct zh_stream_segment *segment);

ZH_API int zh_net_getsockname(struct zh_net_socket *socket, struct sockaddr_storage *address);
ZH_API int zh_net_getpeername(struct zh_net_socket *socket, struct sockaddr_storage *address);

/* SOL_SOCKET: SO_ERROR (get), SO_KEEPALIVE, SO_LINGER, SO_RCVBUF, SO_SNDBUF, SO_REUSEADDR.
 * IPPROTO_TCP: TCP_NODELAY, TCP_CORK, TCP_MAXSEG, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT,
 * TCP_USER_TIMEOUT, TCP_CONGESTION, TCP_INFO (get), TCP_QUICKACK. Values as in tcp (7). */
ZH_API int zh_net_setsockopt(struct zh_net_socket *socket, int level, int option, const void *value,
                             socklen_t size);
ZH_API int zh_net_getsockopt(struct zh_net_socket *socket, int level, int option, void *value,
                             socklen_t *size);

/* Whatever the owner wants to find again. */
ZH_API void zh_net_set_user(struct zh_net_socket *socket, void *user);
ZH_API void *zh_net_user(const struct zh_net_socket *socket);

/* ZH_STREAM_* as it stands now; a listener is ZH_STREAM_IN when a connection can be accepted. */
ZH_API unsigned zh_net_ready(struct zh_net_socket *socket);

struct zh_net_event {
    struct zh_net_socket *socket;
    unsigned ready; /* ZH_STREAM_*, as it stands now */
};

/* Sockets whose readiness has grown since they were last given here (edge-triggered, as EPOLLET;
 * more data is growth too). Never waits. Returns how many. */
ZH_API int zh_net_wait(struct zh_net *net, struct zh_net_event *events, int count);

/* The socket's byte stream; closing it closes the socket. */
ZH_API struct zh_stream *zh_net_stream(struct zh_net_socket *socket);

/* --- asking for an echo ------------------------------------------------------------------------
 */

/* An echo request (RFC 792, RFC 4443) and its answer. The caller's, who leaves it alone from
 * zh_net_ping until it is received or stopped. */
struct zh_net_ping {
    uint16_t identifier, sequence;
    uint16_t size;                          /* of the payload, in bytes */
    uint8_t ttl;                            /* of the answer */
    void (*done)(struct zh_net_ping *ping); /* when it is received; or NULL */
    uint64_t sent, received;                /* 0: not yet */
    uint8_t peer[16];                       /* the stack's, as the next one is */
    struct zh_net_ping *next;
};

/* Ask; what identifier, sequence, size and done say is the caller's. 0 or a negative errno. */
ZH_API int zh_net_ping(struct zh_net *net, struct zh_net_ping *ping, const struct sockaddr *peer,
                       socklen_t length, uint64_t now);
/* Wait no longer. */
ZH_API void zh_net_ping_stop(struct zh_net *net, struct zh_net_ping *ping);

/* --- what it has done ------------------------------------------------------------------------- */

/* Counters, since the stack was created. */
#define ZH_NET_COUNTERS(X)                                                                         \
    X(ether_in, "frames received")                                                                 \
    X(ether_in_bytes, "bytes of these")                                                            \
    X(ether_out, "frames sent")                                                                    \
    X(ether_out_bytes, "bytes of these")                                                           \
    X(ether_out_dropped, "frames the port did not take")                                           \
    X(ether_in_foreign, "frames for another address or of another protocol")                       \
    X(arp_in, "ARP packets received")                                                              \
    X(arp_out, "ARP packets sent")                                                                 \
    X(arp_in_bad, "ARP packets that are malformed or not believed")                                \
    X(neighbour_failed, "neighbours that did not answer")                                          \
    X(neighbour_dropped, "packets dropped while a neighbour was unresolved")                       \
    X(ip_in, "IP packets received")                                                                \
    X(ip_in_bad, "IP packets with a bad header, length or checksum")                               \
    X(ip_in_foreign, "IP packets for another address or of an unknown protocol")                   \
    X(ip_out, "IP packets sent")                                                                   \
    X(ip_out_no_route, "IP packets without a route")                                               \
    X(fragments_in, "fragments received")                                                          \
    X(fragments_joined, "packets reassembled")                                                     \
    X(fragments_dropped, "fragments dropped: timed out, overlapping, over a limit")                \
    X(icmp_in, "ICMP messages received")                                                           \
    X(icmp_out, "ICMP messages sent")                                                              \
    X(icmp_in_bad, "ICMP messages that are malformed")                                             \
    X(icmp_limited, "ICMP messages not sent for the rate limit")                                   \
    X(icmp_errors_ignored, "ICMP errors whose quote is of no connection or out of window")         \
    X(tcp_in, "TCP segments received")                                                             \
    X(tcp_in_bad_header, "TCP segments with a bad header")                                         \
    X(tcp_in_bad_checksum, "TCP segments with a bad checksum")                                     \
    X(tcp_in_no_socket, "TCP segments of no connection")                                           \
    X(tcp_in_out_of_order, "TCP segments that came out of order")                                  \
    X(tcp_in_duplicate, "TCP segments of which all was received before")                           \
    X(tcp_in_out_of_window, "TCP segments beyond the window")                                      \
    X(tcp_in_dropped, "TCP segments dropped for want of memory")                                   \
    X(tcp_packets_low, "times the port had few packets left: payload is copied out of them")       \
    X(tcp_out, "TCP segments sent")                                                                \
    X(tcp_out_payload, "bytes of payload sent, retransmissions included")                          \
    X(tcp_out_retransmitted, "TCP segments retransmitted")                                         \
    X(tcp_out_reset, "resets sent")                                                                \
    X(tcp_out_no_memory, "TCP segments put off for want of packets")                               \
    X(tcp_rto, "retransmission timeouts")                                                          \
    X(tcp_fast_recovery, "recoveries entered without a timeout")                                   \
    X(tcp_tlp, "tail loss probes sent")                                                            \
    X(tcp_undo, "congestion window reductions undone")                                             \
    X(tcp_opened, "connections opened by connect")                                                 \
    X(tcp_accepted, "connections established by listeners")                                        \
    X(tcp_closed, "connections that have ended")                                                   \
    X(tcp_failed, "connections that could not be established")                                     \
    X(tcp_reset, "connections reset by the peer")                                                  \
    X(tcp_timed_out, "connections given up for want of an answer")                                 \
    X(tcp_listen_overflow, "SYNs dropped for a full backlog")                                      \
    X(cookies_sent, "SYNs answered by a cookie, for want of room")                                 \
    X(cookies_accepted, "connections established by a cookie's ACK")                               \
    X(cookies_bad, "ACKs to listeners that are of no cookie, while cookies were good")             \
    X(tcp_ecn_marked, "segments received that a router has marked (ECN)")                          \
    X(tcp_ecn_reduced, "congestion window reductions that ECN asked for")                          \
    X(tcp_challenge_ack, "challenge ACKs sent")                                                    \
    X(bytes_copied, "payload bytes copied by the stack, both directions")

struct zh_net_stats {
#define X(name, meaning) uint64_t name;
    ZH_NET_COUNTERS(X)
#undef X
};

ZH_API void zh_net_read_stats(const struct zh_net *net, struct zh_net_stats *stats);

/* Write all frames to a file in libpcap's format, as they come and as they are given to the port.
 * Takes over the descriptor. `clock_offset`: what to add to the stack's times, for times since
 * 1970. An fd of -1 ends it; else -EBUSY while one is written. 0 or a negative errno; what cannot
 * be written is missing in the file. */
ZH_API int zh_net_capture(struct zh_net *net, int fd, uint64_t clock_offset);

/* One line of the connection table. */
struct zh_net_connection {
    struct sockaddr_storage local, peer;
    const char *state; /* as RFC 9293 section 3.3.2 writes it: "ESTABLISHED", "TIME-WAIT" */
    const char *congestion_control;
    uint64_t receive_queue, send_queue; /* bytes */
    uint64_t cwnd, ssthresh;            /* bytes; ssthresh UINT64_MAX: not set */
    uint32_t rtt_us, rto_us, mss, retransmissions;
};

/* Copy the table's first `count` lines; returns how many connections there are. */
ZH_API size_t zh_net_connections(struct zh_net *net, struct zh_net_connection *lines, size_t count);

#endif
