/* RFC 6937 section 3, with the slow start reduction bound (PRR-SSRB). */
#include "tcp_prr.h"

#include <rte_common.h>

void tcp_prr_begin(struct tcp_prr *prr, uint32_t flight)
{
    *prr = (struct tcp_prr){.recover_fs = flight};
}

uint32_t tcp_prr_ack(struct tcp_prr *prr, uint32_t delivered, uint32_t in_flight, uint64_t ssthresh,
                     uint16_t mss)
{
    prr->delivered += delivered;
    if (in_flight > ssthresh) {
        /* In proportion; rounded up. */
        uint64_t due = prr->recover_fs == 0
                           ? 0
                           : (prr->delivered * ssthresh + prr->recover_fs - 1) / prr->recover_fs;
        return due > prr->out ? (uint32_t)(due - prr->out) : 0;
    }
    uint32_t behind = prr->delivered > prr->out ? prr->delivered - prr->out : 0;
    uint64_t limit = (uint64_t)RTE_MAX(behind, delivered) + mss;
    return (uint32_t)RTE_MIN(ssthresh - in_flight, limit);
}
