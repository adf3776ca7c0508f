/* What congestion control algorithms share, and HyStart++. For the thread that runs the stack. */
#ifndef ZEROHOP_NET_TCP_CONGESTION_H
#define ZEROHOP_NET_TCP_CONGESTION_H

#include "tcp.h"

/* RFC 6928 section 2. */
uint64_t tcp_initial_window(uint16_t mss);

static inline bool tcp_in_slow_start(const struct zh_net_socket *s)
{
    return s->cwnd < s->ssthresh;
}

/* Grow cwnd by `bytes`, at most to ssthresh; returns what is left of them. */
uint32_t tcp_slow_start(struct zh_net_socket *s, uint32_t bytes);
/* Grow cwnd by `bytes`, at most to TCP_CWND_MAX. */
void tcp_window_grow(struct zh_net_socket *s, uint64_t bytes);

/* HyStart++ (RFC 9406): finds the end of the first slow start by the growth of the round trip. */
struct tcp_hystart {
    uint32_t window_end;                      /* the round ends when this is acknowledged */
    uint32_t last_min, current_min, baseline; /* us; HYSTART_NO_RTT: none */
    uint8_t samples;
    uint8_t css_rounds; /* conservative slow start: rounds completed */
    bool css;
};

void tcp_hystart_begin(struct tcp_hystart *hystart, uint32_t snd_nxt);
/* An ACK of `acked` bytes has moved snd_una; `rtt` in ns, 0: no sample. Returns by how many bytes
 * cwnd is to grow; *leave: slow start is over. */
uint32_t tcp_hystart_ack(struct tcp_hystart *hystart, uint32_t snd_una, uint32_t snd_nxt,
                         uint32_t acked, uint64_t rtt, uint16_t mss, bool *leave);

#endif
