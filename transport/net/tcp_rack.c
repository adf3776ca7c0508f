/* RACK: RFC 8985 section 6. */
#include "tcp_rack.h"

#include "tcp_sent.h"

enum {
    /* The least reordering window. Links between a host's own interfaces reorder within their
     * queues' delays, which a quarter of their round trips does not cover. */
    REO_WND_MIN = 100 * NET_US,
    PERSIST = 16, /* recoveries without DSACK: section 6.2 step 4 */
};
#define MIN_RTT_PERIOD (300 * NET_SECOND) /* as Linux's tcp_min_rtt_wlen */

const struct tcp_sack_block *tcp_find_dsack(const struct tcp_options *options, uint32_t ack)
{
    const struct tcp_sack_block *block = options->sack;
    if (options->sack_count == 0)
        return NULL;
    if (seq_lt(block->start, ack))
        return block;
    if (options->sack_count > 1 && seq_leq(block[1].start, block->start) &&
        seq_leq(block->end, block[1].end))
        return block;
    return NULL;
}

void tcp_rack_begin(struct tcp_rack *rack, uint32_t snd_una)
{
    *rack = (struct tcp_rack){.fack = snd_una, .reo_wnd_mult = 1};
}

void tcp_rack_sample(struct tcp_rack *rack, uint64_t rtt, uint64_t now)
{
    uint32_t sample = (uint32_t)RTE_MIN(RTE_MAX(rtt, UINT64_C(1)), (uint64_t)UINT32_MAX);
    if (!rack->min_now || now - rack->min_since >= MIN_RTT_PERIOD) {
        /* One that is two periods old says nothing any more. */
        rack->min_before = now - rack->min_since < 2 * MIN_RTT_PERIOD ? rack->min_now : 0;
        rack->min_since = now;
        rack->min_now = sample;
    } else if (sample < rack->min_now) {
        rack->min_now = sample;
    }
}

uint64_t tcp_rack_min_rtt(const struct tcp_rack *rack)
{
    return rack->min_before && rack->min_before < rack->min_now ? rack->min_before : rack->min_now;
}

static bool sent_after(uint64_t a_ts, uint32_t a_end, uint64_t b_ts, uint32_t b_end)
{
    return a_ts > b_ts || (a_ts == b_ts && seq_gt(a_end, b_end));
}

/* Step 2: whether an ACK may be that of an earlier transmission. */
static bool ambiguous(const struct tcp_rack_ack *ack, const struct tcp_sent *record, uint64_t rtt)
{
    uint32_t sent_ts = (uint32_t)(record->sent_at / NET_MS) + ack->ts_offset;
    return (ack->has_timestamps && seq_lt(ack->tsecr, sent_ts)) ||
           rtt < tcp_rack_min_rtt(ack->rack);
}

void tcp_rack_delivered(void *context, const struct tcp_sent *record)
{
    const struct tcp_rack_ack *ack = context;
    struct tcp_rack *rack = ack->rack;
    bool retransmitted = record->flags & TCP_SENT_RETRANSMITTED;
    uint64_t rtt = ack->now - record->sent_at;

    if (!retransmitted)
        tcp_rack_sample(rack, rtt, ack->now);
    if (!retransmitted || !ambiguous(ack, record, rtt)) {
        rack->rtt = rtt;
        if (!rack->xmit_ts ||
            sent_after(record->sent_at, record->end, rack->xmit_ts, rack->end_seq)) {
            rack->xmit_ts = record->sent_at;
            rack->end_seq = record->end;
        }
    }
    if (seq_gt(record->end, rack->fack))
        rack->fack = record->end;
    else if (seq_lt(record->end, rack->fack) && !retransmitted)
        rack->reordering_seen = true;
}

void tcp_rack_adapt(struct tcp_rack *rack, uint32_t snd_una, uint32_t snd_nxt, bool dsack)
{
    if (rack->in_dsack_round && seq_geq(snd_una, rack->dsack_round))
        rack->in_dsack_round = false;
    if (!dsack || rack->in_dsack_round)
        return;
    rack->in_dsack_round = true;
    rack->dsack_round = snd_nxt;
    if (rack->reo_wnd_mult < UINT8_MAX)
        rack->reo_wnd_mult++;
    rack->reo_wnd_persist = PERSIST;
}

void tcp_rack_recovered(struct tcp_rack *rack)
{
    if (rack->reo_wnd_persist > 0 && --rack->reo_wnd_persist == 0)
        rack->reo_wnd_mult = 1;
}

uint64_t tcp_rack_window(const struct tcp_rack *rack, const struct tcp_sent_ring *ring,
                         uint64_t srtt, bool in_recovery)
{
    if (!rack->reordering_seen && (in_recovery || ring->records_sacked >= TCP_DUPACK_THRESHOLD))
        return REO_WND_MIN;
    uint64_t window = rack->reo_wnd_mult * tcp_rack_min_rtt(rack) / 4;
    return RTE_MAX(RTE_MIN(window, srtt), (uint64_t)REO_WND_MIN);
}

/* Step 5. A record that was sent once, and after the one that RACK stands at, is followed only by
 * such as were sent later: what is in flight and in order costs nothing. */
uint32_t tcp_rack_detect_loss(struct tcp_rack *rack, struct tcp_sent_ring *ring, uint64_t now,
                              uint64_t srtt, bool in_recovery, uint64_t *timeout)
{
    uint32_t lost = 0;
    *timeout = 0;
    if (!rack->xmit_ts)
        return 0;
    uint64_t allowed = rack->rtt + tcp_rack_window(rack, ring, srtt, in_recovery);
    for (uint32_t i = 0; (i = tcp_sent_skip_sacked(ring, i)) < ring->count; i++) {
        struct tcp_sent *record = tcp_sent_at(ring, i);
        if (!sent_after(rack->xmit_ts, rack->end_seq, record->sent_at, record->end)) {
            if (!(record->flags & TCP_SENT_RETRANSMITTED))
                break;
            continue;
        }
        if (record->flags & TCP_SENT_LOST)
            continue;
        if (record->sent_at + allowed <= now)
            lost += tcp_sent_lose(ring, record);
        else
            *timeout = RTE_MAX(*timeout, record->sent_at + allowed - now);
    }
    return lost;
}

uint32_t tcp_rack_mark_on_timeout(struct tcp_rack *rack, struct tcp_sent_ring *ring, uint64_t now,
                                  uint64_t srtt)
{
    uint64_t allowed = rack->rtt + tcp_rack_window(rack, ring, srtt, true);
    uint32_t lost = 0;
    for (uint32_t i = 0; i < ring->count; i++) {
        struct tcp_sent *record = tcp_sent_at(ring, i);
        if (i == 0 || record->sent_at + allowed <= now)
            lost += tcp_sent_lose(ring, record);
    }
    return lost;
}
