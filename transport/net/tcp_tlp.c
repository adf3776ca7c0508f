/* Tail loss probes: RFC 8985 section 7. */
#include "tcp_rack.h"

#include "tcp_sent.h"

enum { PTO_MIN = NET_MS }; /* below it are the delays of waking up, not of paths */

bool tcp_tlp_allowed(const struct tcp_tlp *tlp, const struct tcp_sent_ring *ring, bool in_recovery)
{
    return !in_recovery && !tlp->outstanding && tlp->sampled && ring->count > 0 &&
           ring->records_sacked == 0;
}

uint64_t tcp_tlp_timeout(uint64_t srtt, uint32_t segments, uint64_t ack_delay, uint64_t rto_left)
{
    uint64_t pto = srtt ? RTE_MAX(2 * srtt, (uint64_t)PTO_MIN) : NET_SECOND;
    if (srtt && segments == 1)
        pto += ack_delay;
    return RTE_MIN(pto, rto_left);
}

void tcp_tlp_sent(struct tcp_tlp *tlp, uint32_t snd_nxt, bool is_retrans)
{
    *tlp = (struct tcp_tlp){.end_seq = snd_nxt, .outstanding = true, .is_retrans = is_retrans};
}

bool tcp_tlp_ack(struct tcp_tlp *tlp, uint32_t ack, const struct tcp_sack_block *dsack,
                 bool duplicate)
{
    if (!tlp->outstanding || seq_lt(ack, tlp->end_seq))
        return false;
    if (!tlp->is_retrans || (dsack && dsack->end == tlp->end_seq)) {
        tlp->outstanding = false; /* new data; or both copies have arrived */
    } else if (seq_gt(ack, tlp->end_seq)) {
        tlp->outstanding = false; /* one of them only */
        return true;
    } else if (duplicate) {
        tlp->outstanding = false; /* both, says a peer that has no D-SACK */
    }
    return false;
}
