/* HyStart++: RFC 9406 section 4. */
#include "tcp_congestion.h"

enum {                            /* RFC 9406 section 4.3 */
       MIN_RTT_THRESHOLD = 4000,  /* us */
       MAX_RTT_THRESHOLD = 16000, /* us */
       MIN_RTT_DIVISOR = 8,
       RTT_SAMPLES = 8,
       CSS_GROWTH_DIVISOR = 4,
       CSS_ROUNDS = 5,
       LIMIT = 8, /* L of a sender that does not pace */
};
#define NO_RTT UINT32_MAX

static void begin_round(struct tcp_hystart *h, uint32_t snd_nxt)
{
    h->window_end = snd_nxt;
    h->last_min = h->current_min;
    h->current_min = NO_RTT;
    h->samples = 0;
}

void tcp_hystart_begin(struct tcp_hystart *h, uint32_t snd_nxt)
{
    *h = (struct tcp_hystart){.current_min = NO_RTT, .baseline = NO_RTT};
    begin_round(h, snd_nxt);
}

static void look_for_growth(struct tcp_hystart *h)
{
    /* Without a round before it, last_min is NO_RTT, and nothing has grown. */
    uint32_t threshold = h->last_min / MIN_RTT_DIVISOR;
    threshold =
        RTE_MAX(RTE_MIN(threshold, (uint32_t)MAX_RTT_THRESHOLD), (uint32_t)MIN_RTT_THRESHOLD);
    if (h->current_min < h->last_min || h->current_min - h->last_min < threshold)
        return;
    h->baseline = h->current_min;
    h->css = true;
    h->css_rounds = 0;
}

uint32_t tcp_hystart_ack(struct tcp_hystart *h, uint32_t snd_una, uint32_t snd_nxt, uint32_t acked,
                         uint64_t rtt, uint16_t mss, bool *leave)
{
    uint32_t growth = RTE_MIN(acked, (uint32_t)LIMIT * mss);
    if (h->css)
        growth /= CSS_GROWTH_DIVISOR;
    *leave = false;
    if (rtt) {
        h->current_min = (uint32_t)RTE_MIN(rtt / NET_US, (uint64_t)h->current_min);
        if (h->samples < RTT_SAMPLES)
            h->samples++;
    }
    if (h->samples == RTT_SAMPLES) {
        if (!h->css) {
            look_for_growth(h);
        } else if (h->current_min < h->baseline) {
            h->baseline = NO_RTT; /* it was a passing one */
            h->css = false;
        }
    }
    if (seq_geq(snd_una, h->window_end)) {
        if (h->css && ++h->css_rounds == CSS_ROUNDS)
            *leave = true;
        begin_round(h, snd_nxt);
    }
    return growth;
}
