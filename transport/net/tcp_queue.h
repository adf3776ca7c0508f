/* What a connection has to send and what of it is not acknowledged. Bytes are named by their stream
 * offset. Owned by the connection; for the thread that runs the stack. */
#ifndef ZEROHOP_NET_TCP_QUEUE_H
#define ZEROHOP_NET_TCP_QUEUE_H

#include "tcp.h"

/* Append a record by reference, whole. Afterwards its `release` is called once, when it was dropped
 * and no packet refers to it; for an empty record that is within this call. 0 or -ENOMEM: the
 * record is the caller's still. */
int tcp_queue_append(struct tcp_queue *queue, const struct zh_stream_record *record);
/* Append a copy. Returns how many bytes were taken (for want of memory fewer than `size`), or
 * -ENOMEM. */
ssize_t tcp_queue_append_copy(struct tcp_queue *queue, const void *data, size_t size);
/* Everything before `offset` is acknowledged. */
void tcp_queue_drop(struct tcp_queue *queue, uint64_t offset);
/* Everything. `end` stays. */
void tcp_queue_clear(struct tcp_queue *queue);

/* How many bytes from `offset` (< end) on belong into a segment of at most `mss`: as many as there
 * are, but a record that fits in a segment of its own is not begun where it cannot be ended. A
 * result below mss and below what is queued is such a boundary: Nagle's algorithm has nothing to
 * wait for. */
uint32_t tcp_queue_segment(struct tcp_queue *queue, uint64_t offset, uint32_t mss);

/* Put [offset, offset + size), which is in the queue and below 64 KiB, at the end of `packet`: up
 * to TCP_COPY_MAX bytes copied into it, more by reference, each piece in an mbuf of its own from
 * `pool`. Where that makes more than `max_segments` mbufs, a copy in as few as can be. Returns the
 * bytes copied, or an error, which leaves the packet as it was: -ENOMEM (no mbufs), -EAGAIN (the
 * loan is attached to as many packets as can be counted: when the device gives some back),
 * -EMSGSIZE (the pool's buffers are so small that a copy takes too many). */
int tcp_queue_attach(struct tcp_queue *queue, uint64_t offset, uint32_t size,
                     struct rte_mbuf *packet, struct rte_mempool *pool, uint16_t max_segments);

#endif
