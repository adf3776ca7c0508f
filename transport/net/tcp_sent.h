/* Segments that were transmitted and are not wholly acknowledged: what ACKs, SACK blocks and loss
 * detection do to them. Owned by the connection; for the thread that runs the stack.
 *
 * Records follow one another without gaps from snd_una to snd_nxt. What they keep of the pipe (RFC
 * 6675 section 4) needs no walk: see tcp_sent_in_flight. The ring is memory only while there is a
 * record. */
#ifndef ZEROHOP_NET_TCP_SENT_H
#define ZEROHOP_NET_TCP_SENT_H

#include "tcp.h"

/* Told of each record that the peer has now for the first time: acknowledged cumulatively and not
 * selectively before, or newly selectively. From lowest to highest sequence number, as RFC 8985
 * section 6.2 wants it. The record is as it was until then; the ring must not be changed. */
typedef void (*tcp_sent_each)(void *context, const struct tcp_sent *record);

/* What an ACK has acknowledged; tcp_sent_ack and tcp_sent_sack add to it. Begin with {0}. */
struct tcp_delivered {
    uint32_t acked;     /* sequence space cumulatively acknowledged */
    uint32_t sacked;    /* newly selectively acknowledged */
    uint32_t delivered; /* `sacked`, and of `acked` what had not been selectively before */
    /* Karn's rule (RFC 6298 section 3): when the latest segment was sent of those that the peer has
     * now for the first time and that were sent once; 0: there is none. */
    uint64_t sent_at;
    bool retransmitted; /* a segment that was sent more than once was among them */
};

static inline uint32_t tcp_sent_size(const struct tcp_sent *record)
{
    return record->end - record->seq;
}

/* The i-th record from snd_una, i < count. */
static inline struct tcp_sent *tcp_sent_at(const struct tcp_sent_ring *ring, uint32_t i)
{
    return &ring->records[(ring->first + i) & (ring->capacity - 1)];
}

/* The first record from the i-th on that is not selectively acknowledged; count: all are. What was
 * walked over once is not again. */
static inline uint32_t tcp_sent_skip_sacked(struct tcp_sent_ring *ring, uint32_t i)
{
    if (i == ring->count || !(tcp_sent_at(ring, i)->flags & TCP_SENT_SACKED))
        return i;
    uint32_t first = i;
    do {
        uint32_t skip = tcp_sent_at(ring, i)->skip;
        i += skip ? skip : 1;
    } while (i < ring->count && tcp_sent_at(ring, i)->flags & TCP_SENT_SACKED);
    tcp_sent_at(ring, first)->skip = i - first;
    return i;
}

/* Bytes under way: RFC 6675's pipe, with loss as it was marked here. */
static inline uint32_t tcp_sent_in_flight(const struct tcp_sent_ring *ring, uint32_t snd_una,
                                          uint32_t snd_nxt)
{
    return snd_nxt - snd_una - ring->bytes_sacked - ring->bytes_lost;
}

int tcp_sent_grow(struct tcp_sent_ring *ring, uint32_t more);
/* Make room for `more` records, so that adding these cannot fail. 0 or -ENOMEM. */
static inline int tcp_sent_reserve(struct tcp_sent_ring *ring, uint32_t more)
{
    return more <= ring->capacity - ring->count ? 0 : tcp_sent_grow(ring, more);
}
/* A segment of [seq, end), end > seq, was sent; it follows the last one. `flags`: TCP_SENT_SYN,
 * TCP_SENT_FIN. 0 or -ENOMEM. */
int tcp_sent_add(struct tcp_sent_ring *ring, uint32_t seq, uint32_t end, uint8_t flags,
                 uint64_t now);
/* A record was sent again. It is in flight again, if it was lost. */
void tcp_sent_retransmitted(struct tcp_sent_ring *ring, struct tcp_sent *record, uint64_t now);
/* The path takes smaller segments than it did: two records of the i-th, the second from `seq` on
 * (within it). Pointers to records are no longer valid. 0 or -ENOMEM. */
int tcp_sent_split(struct tcp_sent_ring *ring, uint32_t i, uint32_t seq);

/* snd_una moves to `ack`, at most the last record's end: records before it go, the one it cuts
 * shrinks. `each` may be NULL. */
void tcp_sent_ack(struct tcp_sent_ring *ring, uint32_t ack, struct tcp_delivered *delivered,
                  tcp_sent_each each, void *context);
/* Mark what lies wholly in a block; a record that is only partly covered is not (RFC 2018 section
 * 8). Blocks in any order, at most TCP_SACK_MAX; what of them lies outside the records is ignored.
 * Call tcp_sent_ack first. */
void tcp_sent_sack(struct tcp_sent_ring *ring, const struct tcp_sack_block *blocks, unsigned count,
                   struct tcp_delivered *delivered, tcp_sent_each each, void *context);
/* The peer may have thrown away what it acknowledged selectively (RFC 2018 section 8): a timeout
 * finds the first record so marked. */
void tcp_sent_forget_sacked(struct tcp_sent_ring *ring);

/* Take a record for lost, its retransmission too. Returns the bytes newly so: 0 if it was already,
 * or is selectively acknowledged. */
uint32_t tcp_sent_lose(struct tcp_sent_ring *ring, struct tcp_sent *record);
/* All that are not selectively acknowledged. */
uint32_t tcp_sent_lose_all(struct tcp_sent_ring *ring);
/* Loss was a mistake: nothing is lost (RFC 4015 section 3.2). */
void tcp_sent_recover_all(struct tcp_sent_ring *ring);
/* The first lost record; its index in *i. NULL: none. Costs nothing where nothing is lost, and does
 * not walk twice over what was found before. */
struct tcp_sent *tcp_sent_next_lost(struct tcp_sent_ring *ring, uint32_t *i);

void tcp_sent_free(struct tcp_sent_ring *ring);

#endif
