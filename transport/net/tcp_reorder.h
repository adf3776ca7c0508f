/* Received segments that are not next in order. Owned by the connection; for the thread that runs
 * the stack. */
#ifndef ZEROHOP_NET_TCP_REORDER_H
#define ZEROHOP_NET_TCP_REORDER_H

#include <rte_mbuf_dyn.h>

#include "tcp.h"

/* What TCP keeps in a packet that it holds: a dynamic field of the mbuf (of a chain's first), at
 * struct tcp.meta. */
struct tcp_meta {
    union {
        struct rte_mbuf *next;       /* of a list of packets */
        struct tcp_account *account; /* of a buffer that the application has taken */
    };
    uint32_t seq, size; /* of the payload */
};

/* The field's offset, the same for all stacks of a process; EAL must run. Or a negative errno. */
int tcp_meta_register(void);

static inline struct tcp_meta *tcp_meta(struct rte_mbuf *packet, int meta)
{
    return RTE_MBUF_DYNFIELD(packet, meta, struct tcp_meta *);
}

/* The memory that a packet holds, which receive budgets count. */
static inline uint32_t tcp_packet_memory(const struct rte_mbuf *packet)
{
    uint32_t memory = 0;
    for (; packet; packet = packet->next)
        memory += packet->buf_len + (uint32_t)sizeof *packet;
    return memory;
}

/* Take bytes away from the front or the end, fewer than there are. Segments of a chain that become
 * empty are freed. Returns what is the packet's first mbuf then; struct tcp_meta goes with it, seq
 * and size as they are. */
struct rte_mbuf *tcp_packet_trim_front(struct rte_mbuf *packet, uint32_t bytes, int meta);
void tcp_packet_trim_end(struct rte_mbuf *packet, uint32_t bytes);

enum tcp_reorder_result {
    TCP_REORDER_ADDED,
    TCP_REORDER_DUPLICATE, /* all of it was there */
    TCP_REORDER_REFUSED,   /* there are TCP_RUNS_MAX runs, or no memory */
};

/* Add a segment whose payload is the packet's data, not empty; takes the packet. `seq` lies beyond
 * rcv_nxt, and everything within one window (less than 2^31 bytes): the caller has seen to that. Of
 * a segment that overlaps what is there, the first part that is new is kept; the first part that is
 * not is noted for D-SACK. */
enum tcp_reorder_result tcp_reorder_insert(struct tcp_reorder *reorder, int meta,
                                           struct rte_mbuf *packet, uint32_t seq);

/* rcv_nxt has moved to *rcv_nxt: take out what follows there without a gap, and free what lies
 * before. Moves *rcv_nxt past it. Returns the list's bytes; 0: the list is empty. Its packets,
 * linked by struct tcp_meta, are the caller's. */
uint32_t tcp_reorder_pop(struct tcp_reorder *reorder, int meta, uint32_t *rcv_nxt,
                         struct rte_mbuf **head, struct rte_mbuf **tail);

/* A duplicate of what was received before, to be reported by the next ACK (RFC 2883 section 4). */
static inline void tcp_reorder_note_duplicate(struct tcp_reorder *reorder, uint32_t start,
                                              uint32_t end)
{
    reorder->duplicate = (struct tcp_sack_block){start, end};
}

/* Whether an ACK has something to report. */
static inline bool tcp_reorder_has_news(const struct tcp_reorder *reorder)
{
    return reorder->count || reorder->duplicate.start != reorder->duplicate.end;
}

/* Blocks of an ACK, at most `most` (TCP_SACK_MAX or less); returns how many. A D-SACK comes first,
 * and is thereby reported; then the run that has the segment that came last, then those that grew
 * before (RFC 2018 section 4, RFC 2883 section 4). */
unsigned tcp_reorder_sack(struct tcp_reorder *reorder, struct tcp_sack_block *blocks,
                          unsigned most);

/* Throw away everything: RFC 2018 section 8 allows it. */
void tcp_reorder_drop(struct tcp_reorder *reorder, int meta);

#endif
