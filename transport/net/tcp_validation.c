/* Congestion window validation (RFC 7661). A window that was not used says little about the path as
 * it is now, but an application that pauses for less than minutes keeps it: requests and replies
 * come in bursts, and the restart from the initial window after one RTO of silence (RFC 5681
 * section 4.1) would have each burst pay for it in round trips. What is not used does not grow
 * either (app_limited, tcp_recovery.c).
 *
 * For section 4.3's pipeACK, the volume acknowledged in a round trip, stands the most that was in
 * flight during one (used_most). */
#include "tcp_conn.h"

#define NON_VALIDATED_PERIOD (300 * NET_SECOND) /* section 4.4: five minutes */

void tcp_validation_ack(struct zh_net_socket *s)
{
    if (s->used_up || 2ull * s->used_most >= s->cwnd) /* section 4.2 */
        s->validated_at = s->net->now;
}

void tcp_validation_expire(struct zh_net_socket *s)
{
    uint64_t least = tcp_initial_window(s->mss);
    while (s->cwnd > least && s->net->now - s->validated_at >= NON_VALIDATED_PERIOD) {
        s->ssthresh = RTE_MAX(s->ssthresh, s->cwnd - s->cwnd / 4); /* section 4.4.3 */
        s->cwnd = RTE_MAX(s->cwnd / 2, least);
        s->validated_at += NON_VALIDATED_PERIOD;
    }
}
