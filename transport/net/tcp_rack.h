/* RACK-TLP (RFC 8985): loss found by time (tcp_rack.c) and probes for it (tcp_tlp.c), as functions
 * of the ring of transmitted segments and the states here. Names as in RFC 8985 section 5. Times
 * are ns. For the thread that runs the stack. */
#ifndef ZEROHOP_NET_TCP_RACK_H
#define ZEROHOP_NET_TCP_RACK_H

#include <stdbool.h>
#include <stdint.h>

struct tcp_options;
struct tcp_sack_block;
struct tcp_sent;
struct tcp_sent_ring;

struct tcp_rack {
    uint64_t xmit_ts;   /* of the segment sent last of those that were delivered; 0: none was */
    uint64_t rtt;       /* of the one delivered last */
    uint64_t min_since; /* when min_now began */
    uint32_t min_now, min_before; /* least round trip in this period and the one before; 0: none */
    uint32_t end_seq;             /* goes with xmit_ts */
    uint32_t fack;                /* the highest sequence number delivered */
    uint32_t dsack_round; /* with in_dsack_round: no DSACK counts until this is acknowledged */
    uint8_t reo_wnd_mult, reo_wnd_persist;
    bool reordering_seen, in_dsack_round;
};

struct tcp_tlp {
    uint32_t end_seq; /* with outstanding: snd_nxt after the probe was sent */
    bool outstanding, is_retrans;
    bool sampled; /* a round trip was measured since the last probe: the connection sets it */
};

/* The block of an ACK that reports a duplicate (RFC 2883 section 4); NULL. `ack`: the segment's. */
const struct tcp_sack_block *tcp_find_dsack(const struct tcp_options *options, uint32_t ack);

/* --- tcp_rack.c ---------------------------------------------------------------------------------
 */

/* The connection is established. */
void tcp_rack_begin(struct tcp_rack *rack, uint32_t snd_una);
/* A round trip of a segment that was sent once: of the handshake; tcp_rack_delivered has the
 * others. */
void tcp_rack_sample(struct tcp_rack *rack, uint64_t rtt, uint64_t now);
/* The least round trip of the last five to ten minutes; 0: none. */
uint64_t tcp_rack_min_rtt(const struct tcp_rack *rack);

/* What tcp_rack_delivered is told of the ACK that is looked at. */
struct tcp_rack_ack {
    struct tcp_rack *rack;
    uint64_t now;
    bool has_timestamps;
    uint32_t tsecr;     /* of the ACK */
    uint32_t ts_offset; /* what is added to `now` in ms for TSval */
};

/* A tcp_sent_each, whose context is a struct tcp_rack_ack: section 6.2, steps 1 to 3. */
void tcp_rack_delivered(void *ack, const struct tcp_sent *record);

/* Step 4, for each ACK of new data or with SACK blocks: `dsack` says whether a duplicate was
 * reported.
 */
void tcp_rack_adapt(struct tcp_rack *rack, uint32_t snd_una, uint32_t snd_nxt, bool dsack);
/* Recovery, fast or after a timeout, has ended. */
void tcp_rack_recovered(struct tcp_rack *rack);
/* The reordering window. `srtt` 0: not known. */
uint64_t tcp_rack_window(const struct tcp_rack *rack, const struct tcp_sent_ring *ring,
                         uint64_t srtt, bool in_recovery);

/* Step 5: mark what is lost. Returns the bytes newly so; *timeout: after how long to call again,
 * for segments that may yet come (0: none). */
uint32_t tcp_rack_detect_loss(struct tcp_rack *rack, struct tcp_sent_ring *ring, uint64_t now,
                              uint64_t srtt, bool in_recovery, uint64_t *timeout);
/* Section 6.3: a retransmission timeout. The first segment and all whose time is over are lost.
 * Returns the bytes newly so. */
uint32_t tcp_rack_mark_on_timeout(struct tcp_rack *rack, struct tcp_sent_ring *ring, uint64_t now,
                                  uint64_t srtt);

/* --- tcp_tlp.c ----------------------------------------------------------------------------------
 */

/* Section 7.2: whether a probe may be scheduled, where SACK is in use: nothing is being recovered
 * or was selectively acknowledged; section 7.3: no probe is under way, and a round trip was
 * measured since. */
bool tcp_tlp_allowed(const struct tcp_tlp *tlp, const struct tcp_sent_ring *ring, bool in_recovery);
/* After how long to probe. `srtt` 0: not known. `segments` in flight; `ack_delay`: the longest by
 * which the peer delays an ACK; `rto_left`: until the retransmission timeout. */
uint64_t tcp_tlp_timeout(uint64_t srtt, uint32_t segments, uint64_t ack_delay, uint64_t rto_left);
/* A probe was sent: the lowest new segment, cwnd notwithstanding, or where there is none the
 * highest again (section 7.3). `snd_nxt` after that. */
void tcp_tlp_sent(struct tcp_tlp *tlp, uint32_t snd_nxt, bool is_retrans);
/* Section 7.4.2, for each ACK. `dsack` as tcp_find_dsack gives it; `duplicate`: a duplicate ACK
 * (RFC 5681 section 2) without SACK blocks. True: the probe has repaired a loss, to which
 * congestion control is to react. */
bool tcp_tlp_ack(struct tcp_tlp *tlp, uint32_t ack, const struct tcp_sack_block *dsack,
                 bool duplicate);

#endif
