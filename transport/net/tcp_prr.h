/* Proportional rate reduction (RFC 6937): how much may be sent during recovery. */
#ifndef ZEROHOP_NET_TCP_PRR_H
#define ZEROHOP_NET_TCP_PRR_H

#include <stdint.h>

/* Bytes, since recovery began. */
struct tcp_prr {
    uint32_t delivered, out;
    uint32_t recover_fs; /* in flight when it began: snd_nxt - snd_una */
};

/* Recovery begins, with `flight` bytes between snd_una and snd_nxt. */
void tcp_prr_begin(struct tcp_prr *prr, uint32_t flight);
/* An ACK during recovery, the first included, says that `delivered` bytes have arrived; `in_flight`
 * is the pipe after it. Returns how many bytes may be sent: cwnd is in_flight and these. The first
 * lost segment is sent again whatever this says. When recovery ends, cwnd is ssthresh. */
uint32_t tcp_prr_ack(struct tcp_prr *prr, uint32_t delivered, uint32_t in_flight, uint64_t ssthresh,
                     uint16_t mss);
/* Bytes were sent, new ones or again. */
static inline void tcp_prr_sent(struct tcp_prr *prr, uint32_t bytes)
{
    prr->out += bytes;
}

#endif
