/* How the files of a connection call each other: what comes in, what goes out, what ends. A
 * function that may free the socket says so; others never do. */
#ifndef ZEROHOP_NET_TCP_CONN_H
#define ZEROHOP_NET_TCP_CONN_H

#include "tcp.h"
#include "tcp_congestion.h"
#include "tcp_queue.h"
#include "tcp_sent.h"

/* A received segment, its header checked and in private memory. */
struct tcp_segment {
    uint32_t seq, ack;
    uint32_t size;   /* bytes of payload */
    uint32_t window; /* as it stands in the header */
    uint8_t flags;
    struct tcp_options options;
    const struct net_packet *info;
    struct rte_mbuf *packet; /* begins with the payload; owned by who holds the segment */
};

/* The sequence number after a segment. */
static inline uint32_t tcp_segment_end(const struct tcp_segment *segment)
{
    return segment->seq + segment->size + !!(segment->flags & TCP_SYN) +
           !!(segment->flags & TCP_FIN);
}

/* Payload was copied. */
static inline void tcp_count_copied(struct zh_net_socket *s, size_t size)
{
    s->bytes_copied += size;
    s->net->stats.bytes_copied += size;
}

static inline bool tcp_synchronized(const struct zh_net_socket *s)
{
    return s->state >= TCPS_ESTABLISHED;
}

/* What has been sent and not acknowledged, as the congestion window counts it. */
uint32_t tcp_in_flight(const struct zh_net_socket *s);

/* --- tcp_socket.c: birth and end ----------------------------------------------------------------
 */

struct zh_net_socket *tcp_socket_new(struct zh_net *net, sa_family_t family);
/* Take it out of every list and free it. */
void tcp_socket_free(struct zh_net_socket *s);
/* The connection has ended with `error` (0: orderly): nothing is sent or awaited any more. Frees
 * the socket if the application has closed it; else it stays to be read and to give the error. */
void tcp_socket_end(struct zh_net_socket *s, int error);
/* Its readiness has grown: zh_net_wait shall give it. */
void tcp_notify(struct zh_net_socket *s);
/* It has something to send at the end of this round. */
void tcp_want_output(struct zh_net_socket *s);
/* Limits that follow from addresses: route, path MTU, RTO floor. -EHOSTUNREACH. */
int tcp_socket_route(struct zh_net_socket *s);
/* The largest payload of a segment: path, peer's option and TCP_MAXSEG, less the options that every
 * segment has. */
void tcp_update_mss(struct zh_net_socket *s);
/* The MSS to announce to a peer: what our link takes, at most `user` (TCP_MAXSEG; 0: not set). */
uint16_t tcp_own_mss(const struct zh_net *net, const struct tcp_flow *flow, uint16_t user);
/* The window of our SYN: it is not scaled (RFC 7323 section 2.2). */
uint16_t tcp_syn_window(const struct zh_net_socket *s);
/* The least window scale with which the whole budget can be announced (RFC 7323 section 2.3). */
uint8_t tcp_window_shift(uint32_t budget);
/* State of a connection on which SYNs have been exchanged (RFC 9293 section 3.10.7.3). */
void tcp_establish(struct zh_net_socket *s);

void tcp_write_address(const struct net_addr *addr, uint16_t port, sa_family_t family,
                       struct sockaddr_storage *out);
/* A socket as a byte stream (tcp_describe.c). */
extern const struct zh_stream_ops tcp_stream_ops;
/* A line of zh_net_connections (tcp_describe.c). */
void tcp_describe(const struct tcp_entry *entry, struct zh_net_connection *line);

/* May more be queued to be sent? */
bool tcp_can_queue(const struct zh_net_socket *s);

/* --- tcp_pmtu.c (RFC 1191, RFC 8201) ------------------------------------------------------------
 */

/* A segment that is under way was too large. */
void tcp_path_changed(struct zh_net_socket *s, const struct net_error *error);
/* Before new segments are cut: what was learned of the path may be too old to be heeded. */
static inline void tcp_path_recheck(struct zh_net_socket *s)
{
    if (s->net->now >= s->path_expires)
        tcp_update_mss(s);
}

/* --- tcp_isn.c ----------------------------------------------------------------------------------
 */

/* A keyed hash of addresses and ports, any of which may be left out as 0. */
uint64_t tcp_flow_hash(const struct zh_net *net, const struct net_addr *local,
                       const struct net_addr *remote, uint16_t local_port, uint16_t remote_port);
uint32_t tcp_isn(struct zh_net *net, const struct tcp_flow *flow);
/* The part of it that does not grow: F of RFC 6528 section 3. */
uint32_t tcp_isn_hash(struct zh_net *net, const struct tcp_flow *flow);
uint32_t tcp_ts_offset(struct zh_net *net, const struct tcp_flow *flow);
/* The timestamp clock: 1 ms ticks (RFC 7323 section 5.4) from the flow's offset. */
static inline uint32_t tcp_ts_now(const struct zh_net *net, uint32_t offset)
{
    return (uint32_t)(net->now / NET_MS) + offset;
}

/* --- tcp_listen.c: passive open
 * --------------------------------------------------------------------- */

/* A segment for a listener. The new connection, to which it is to be given, if it answers a cookie;
 * else NULL. */
struct zh_net_socket *tcp_listen_input(struct zh_net_socket *listener, struct tcp_segment *segment,
                                       const struct tcp_flow *flow);
/* A segment for a request. True: the connection is established, and the segment is to be given to
 * the new *socket. */
bool tcp_request_input(struct zh_net *net, struct tcp_request *request, struct tcp_segment *segment,
                       struct zh_net_socket **socket);
void tcp_request_free(struct zh_net *net, struct tcp_request *request);
/* An ICMP error for a request that has not been answered. */
void tcp_request_error(struct zh_net *net, struct tcp_request *request,
                       const struct net_error *error);
/* Ends a listener's requests and what nobody has accepted. */
void tcp_listener_close(struct zh_net_socket *listener);

/* --- tcp_cookie.c (RFC 4987 section 3.6)
 * ----------------------------------------------------------------------- */

/* Answer a SYN by a SYN-ACK that keeps nothing here. */
void tcp_cookie_send(struct zh_net_socket *listener, const struct tcp_segment *segment,
                     const struct tcp_flow *flow);
/* True: the segment acknowledges a cookie of this listener's, and `request` is filled in with what
 * was in it. The request is in no list and no table, has no timer and no time of sending. */
bool tcp_cookie_check(struct zh_net_socket *listener, const struct tcp_segment *segment,
                      const struct tcp_flow *flow, struct tcp_request *request);
/* The reset for one that does not (RFC 9293 section 3.10.7.2, second), limited in rate while there
 * are cookies to be guessed. */
void tcp_cookie_refuse(struct zh_net_socket *listener, const struct tcp_segment *segment,
                       const struct tcp_flow *flow);

/* --- tcp_ecn.c (RFC 3168) -----------------------------------------------------------------------
 */

/* Is the segment an ECN-setup SYN? One that came ECN-capable itself is not believed: the path has
 * overwritten the field. */
static inline bool tcp_ecn_asked(const struct tcp_segment *segment)
{
    return (segment->flags & (TCP_SYN | TCP_ECE | TCP_CWR)) == (TCP_SYN | TCP_ECE | TCP_CWR) &&
           !(segment->flags & TCP_ACK) && !(segment->info->traffic_class & TCP_ECN_MASK);
}
/* Has the peer agreed, by the SYN or SYN-ACK that answers ours? */
bool tcp_ecn_agreed(const struct tcp_segment *segment);
/* Flags of our SYN, or SYN-ACK. */
uint8_t tcp_ecn_syn_flags(const struct zh_net_socket *s);
/* Our SYN goes again. */
void tcp_ecn_syn_lost(struct zh_net_socket *s);
/* A segment of `size` bytes at `seq` is sent: adds to its flags; returns its traffic class. */
uint8_t tcp_ecn_output(struct zh_net_socket *s, uint32_t seq, uint32_t size, uint8_t *flags);
/* An acceptable segment has come, whose payload is not yet taken in. */
void tcp_ecn_receive(struct zh_net_socket *s, const struct tcp_segment *segment);
/* The window was reduced, for whatever reason. */
void tcp_ecn_reduced(struct zh_net_socket *s);
/* It was for what is under way, and is not to be once more. */
bool tcp_ecn_in_reduction(const struct zh_net_socket *s);
/* An ACK, taken in already, echoes a mark. */
void tcp_ecn_echoed(struct zh_net_socket *s);

/* --- tcp_time_wait.c
 * ---------------------------------------------------------------------------------- */

/* A socket's connection has come to TIME-WAIT: its place in the table is taken by a small entry
 * (none, if memory is out), and the socket ends in order. May free the socket. */
void tcp_time_wait_enter(struct zh_net_socket *s);
/* True: the segment opens a new connection, and the entry is gone. */
bool tcp_time_wait_input(struct zh_net *net, struct tcp_time_wait *entry,
                         struct tcp_segment *segment);
void tcp_time_wait_free(struct zh_net *net, struct tcp_time_wait *entry);

/* --- tcp_ack.c: what an ACK does
 * ------------------------------------------------------------------------ */

/* Process the acknowledgment of an acceptable segment (RFC 9293 section 3.10.7.4, fifth). False:
 * the segment is to be dropped. */
bool tcp_ack_input(struct zh_net_socket *s, const struct tcp_segment *segment);

/* --- tcp_receive.c
 * ------------------------------------------------------------------------------------------ */

/* Payload and FIN of an acceptable segment; takes its packet where it keeps it. */
void tcp_receive(struct zh_net_socket *s, struct tcp_segment *segment);
/* The window to advertise now, in bytes; moves rcv_advertised. */
uint32_t tcp_receive_window(struct zh_net_socket *s);
/* Taken or released memory has made room: send a window update if the peer should know (RFC 9293
 * section 3.8.6.2.2). */
void tcp_receive_room(struct zh_net_socket *s);
/* A segment that is not acceptable, and no reset: answered by an ACK. */
void tcp_receive_unacceptable(struct zh_net_socket *s, const struct tcp_segment *segment);
void tcp_receive_start(struct zh_net_socket *s);
/* Hand up to `count` buffers of the queue to the application; how many, or -ENOMEM. */
int tcp_take(struct zh_net_socket *s, struct zh_stream_segment *segments, unsigned count);
/* Copy bytes of the queue out; how many. */
size_t tcp_read(struct zh_net_socket *s, void *data, size_t size, bool peek);
/* Drop what came out of order. */
void tcp_receive_renege(struct zh_net_socket *s);
/* Before the first packet comes; a negative errno. */
int tcp_receive_register(void);
/* Look for room that other threads have made; true: some still wait for it. */
bool tcp_receive_poll(struct zh_net *net);
/* Any thread. */
void tcp_account_put(struct tcp_account *account);
void tcp_receive_free(struct zh_net_socket *s);

/* --- tcp_output.c
 * --------------------------------------------------------------------------------------------- */

/* Send what may be sent: retransmissions, new data, FIN, an ACK that is due. */
void tcp_output(struct zh_net_socket *s);
/* Our SYN, or SYN-ACK of a simultaneous open. False: no packet. */
bool tcp_send_syn(struct zh_net_socket *s);
/* An ACK without data, now. False: no packet was to be had. */
bool tcp_send_ack(struct zh_net_socket *s);
/* The record's payload once more, with new headers. False: no packet, or the peer's window has
 * gone. */
bool tcp_retransmit(struct zh_net_socket *s, struct tcp_sent *sent);
/* A segment at snd_una - 1 with no data: a probe that the peer must answer (RFC 9293
 * section 3.8.4). */
bool tcp_send_probe(struct zh_net_socket *s);
/* One byte beyond the peer's closed window (RFC 9293 section 3.8.6.1). */
void tcp_send_window_probe(struct zh_net_socket *s);
void tcp_send_reset(struct zh_net_socket *s);
/* A tail loss probe: the next new segment, whatever cwnd says. False: there is none that may go. */
bool tcp_send_beyond_cwnd(struct zh_net_socket *s);
/* The bytes that may be sent but are held back by the peer's window are probed for. */
bool tcp_must_probe(const struct zh_net_socket *s);

/* A segment of no connection: SYN-ACKs, resets, ACKs of TIME-WAIT. `options` may be NULL. */
bool tcp_send_bare(struct zh_net *net, const struct tcp_flow *flow, uint32_t seq, uint32_t ack,
                   uint8_t flags, uint16_t window, const struct tcp_options *options);
/* The reset that answers a segment without connection (RFC 9293 section 3.10.7.1). */
void tcp_send_refusal(struct zh_net *net, const struct tcp_flow *flow,
                      const struct tcp_segment *segment);
/* An ACK for a suspicious segment, limited in rate (RFC 5961 section 7). */
void tcp_challenge(struct zh_net_socket *s);

/* --- tcp_timer.c
 * ------------------------------------------------------------------------------------------------
 */

void tcp_deadline_set(struct zh_net_socket *s, enum tcp_deadline which, uint64_t when);
static inline void tcp_deadline_stop(struct zh_net_socket *s, enum tcp_deadline which)
{
    s->deadline[which] = 0;
}
void tcp_timer_expire(struct zh_net *net, struct net_timer *timer);

/* --- tcp_rto.c (RFC 6298)
 * ---------------------------------------------------------------------------------------- */

void tcp_rto_sample(struct zh_net_socket *s, uint64_t rtt);
/* The RTO with back-off applied. */
uint64_t tcp_rto_now(const struct zh_net_socket *s);
/* Start, restart or stop the timer, whichever what is under way asks for. */
void tcp_rto_rearm(struct zh_net_socket *s);
/* The timer has expired. May free the socket. */
void tcp_rto_expired(struct zh_net_socket *s);

/* --- tcp_keepalive.c
 * ------------------------------------------------------------------------------------------------
 */

void tcp_keepalive_rearm(struct zh_net_socket *s);
/* May free the socket. */
void tcp_keepalive_expired(struct zh_net_socket *s);

/* --- tcp_undo.c ----------------------------------------------------------------------------------
 */

/* A reduction begins: what there is to go back to. */
void tcp_undo_remember(struct zh_net_socket *s);
void tcp_undo_retransmitted(struct zh_net_socket *s);
/* An ACK has come. True: the reduction was a mistake, and has been undone. */
bool tcp_undo_ack(struct zh_net_socket *s, const struct tcp_segment *segment,
                  const struct tcp_ack *ack, const struct tcp_sack_block *dsack);

/* --- tcp_validation.c (RFC 7661) ----------------------------------------------------------------
 */

/* An ACK has moved snd_una. */
void tcp_validation_ack(struct zh_net_socket *s);
/* Before new segments are sent: a window that was long not used shrinks. */
void tcp_validation_expire(struct zh_net_socket *s);

/* --- tcp_recovery.c
 * ------------------------------------------------------------------------------------------------------
 */

/* After an ACK was taken in: enter, go on with or leave recovery; grow the window. */
void tcp_recovery_ack(struct zh_net_socket *s, const struct tcp_segment *segment,
                      struct tcp_ack *ack, bool duplicate);
/* Set, move or stop the timer of the tail loss probe, after an ACK or a new segment. */
void tcp_recovery_probe(struct zh_net_socket *s);
/* Timers. */
void tcp_recovery_reorder_expired(struct zh_net_socket *s);
void tcp_recovery_probe_expired(struct zh_net_socket *s);
/* A timeout: all that is under way is lost (RFC 5681 section 3.1, RFC 6675 section 5.1). */
void tcp_recovery_timeout(struct zh_net_socket *s);

#endif
