/* The retransmission timer (RFC 6298), and the persist timer that shares its place: a connection
 * either has something under way or waits for the window to open. */
#include "tcp_conn.h"

#define CLOCK_GRANULARITY NET_MS /* RFC 6298's G */

void tcp_rto_sample(struct zh_net_socket *s, uint64_t rtt)
{
    if (!rtt)
        rtt = 1;
    s->backoff = 0; /* section 5, last paragraph; RFC 1122 section 4.2.3.1: not before */
    if (!s->srtt) { /* (2.2) */
        s->srtt = rtt;
        s->rttvar = rtt / 2;
    } else { /* (2.3): beta 1/4, alpha 1/8, in this order */
        uint64_t off = s->srtt > rtt ? s->srtt - rtt : rtt - s->srtt;
        s->rttvar += ((int64_t)off - (int64_t)s->rttvar) / 4;
        s->srtt += ((int64_t)rtt - (int64_t)s->srtt) / 8;
    }
    uint64_t margin = 4 * s->rttvar; /* K = 4 */
    /* The floor is the margin's, as in Linux: an RTO of at least SRTT + rto_min survives a peer
     * that delays its ACKs. */
    if (margin < s->rto_min)
        margin = s->rto_min > CLOCK_GRANULARITY ? s->rto_min : CLOCK_GRANULARITY;
    s->rto = s->srtt + margin;
    if (s->rto > TCP_RTO_MAX)
        s->rto = TCP_RTO_MAX;
}

uint64_t tcp_rto_now(const struct zh_net_socket *s)
{
    uint64_t rto = s->rto;
    for (unsigned i = 0; i < s->backoff && rto < TCP_RTO_MAX; i++) /* (5.5) */
        rto *= 2;
    return rto < TCP_RTO_MAX ? rto : TCP_RTO_MAX;
}

/* Not later than the user timeout ends (RFC 5482), if data is under way. */
static void start(struct zh_net_socket *s)
{
    uint64_t now = s->net->now, when = now + tcp_rto_now(s);
    uint64_t limit = s->last_progress + s->user_timeout;
    if (s->user_timeout && s->sent.count && tcp_synchronized(s) && limit > now && limit < when)
        when = limit;
    tcp_deadline_set(s, TCP_DEADLINE_RTO, when);
}

void tcp_rto_rearm(struct zh_net_socket *s)
{
    if (s->sent.count || tcp_must_probe(s)) /* (5.1), (5.3) */
        start(s);
    else /* (5.2) */
        tcp_deadline_stop(s, TCP_DEADLINE_RTO);
}

/* R2 (RFC 9293 section 3.8.3), or the user timeout. */
static bool given_up(const struct zh_net_socket *s)
{
    if (s->user_timeout && tcp_synchronized(s))
        return s->net->now - s->last_progress >= s->user_timeout;
    return s->retries >= (tcp_synchronized(s) ? TCP_RETRIES : TCP_SYN_RETRIES);
}

void tcp_rto_expired(struct zh_net_socket *s)
{
    /* A peer that answers probes keeps a closed window open for ever (RFC 9293 section 3.8.6.1),
     * but not for a socket that nobody holds any more. */
    bool probing = !s->sent.count && tcp_must_probe(s);
    if (!s->sent.count && !probing)
        return;
    /* So does one that has closed it over what was sent already: retransmissions probe then. */
    bool closed = probing || (tcp_synchronized(s) && !s->snd_wnd);
    bool answered = closed && s->last_received >= s->last_progress &&
                    s->net->now - s->last_received < 2 * TCP_RTO_MAX && !(s->flags & TCP_DETACHED);
    if (given_up(s) && !answered) {
        s->net->stats.tcp_timed_out++;
        if (s->state == TCPS_SYN_SENT || s->state == TCPS_SYN_RECEIVED)
            s->net->stats.tcp_failed++;
        tcp_socket_end(s, s->error_soft ? s->error_soft : ETIMEDOUT);
        return;
    }
    if (s->backoff < TCP_RETRIES)
        s->backoff++;
    if (s->retries < UINT8_MAX)
        s->retries++;
    if (probing) {
        tcp_send_window_probe(s);
        start(s);
        return;
    }
    s->net->stats.tcp_rto++;
    s->retries_before = s->retries - 1;
    tcp_recovery_timeout(s);
    tcp_want_output(s);
    start(s); /* (5.6) */
}
