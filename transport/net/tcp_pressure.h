/* When the port's packets run low. Received payload lies in the port's own packets until the
 * application gives it back; if it does not, the port has none left to receive with, and no
 * connection gets anything any more. So a quarter of them is kept for what holds none: when fewer
 * are free, out-of-order queues are dropped (RFC 2018 section 8 allows it), and from then on
 * payload is copied into memory of the stack's own (counted). That memory is bounded by as much as
 * the port's packets have. A connection may hold no more than is left of it; since those that give
 * nothing back could leave next to nothing, a quarter is for connections that hold nothing, whose
 * application has given everything back. They go on, slower, while those that give nothing back are
 * fewer than the segments of that quarter.
 *
 * Segments without payload, and all that is not TCP's, pass as ever. */
#ifndef ZEROHOP_NET_TCP_PRESSURE_H
#define ZEROHOP_NET_TCP_PRESSURE_H

#include "tcp.h"

/* 0 or -ENOMEM. */
int tcp_pressure_start(struct zh_net *net);
/* Copies that were taken stay valid. */
void tcp_pressure_stop(struct zh_net *net);
/* Once a round: look at what the port has left. */
void tcp_pressure_poll(struct zh_net *net);

/* A packet of own memory that holds the payload of `packet`, which stays the caller's, in a buffer
 * of `room` bytes or what is needed or possible. `held`: packet memory of the connection by now.
 * NULL: no memory, or not for this connection. */
struct rte_mbuf *tcp_pressure_copy(struct zh_net *net, const struct rte_mbuf *packet, uint64_t held,
                                   uint32_t room);
/* Is it one of these? */
static inline bool tcp_pressure_made(const struct zh_net *net, const struct rte_mbuf *packet)
{
    return packet->pool == net->tcp->pressure.headers;
}

#endif
