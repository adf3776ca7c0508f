/* Keepalive (RFC 9293 section 3.8.4): off unless asked for; probes an idle connection. */
#include "tcp_conn.h"

void tcp_keepalive_rearm(struct zh_net_socket *s)
{
    if (s->flags & TCP_KEEPALIVE_ON && tcp_synchronized(s))
        tcp_deadline_set(s, TCP_DEADLINE_KEEPALIVE, s->last_received + s->keepalive_idle);
    else
        tcp_deadline_stop(s, TCP_DEADLINE_KEEPALIVE);
}

void tcp_keepalive_expired(struct zh_net_socket *s)
{
    struct zh_net *net = s->net;
    if (!tcp_synchronized(s))
        return;
    uint64_t idle = net->now - s->last_received;
    if (idle < s->keepalive_idle + s->keepalive_interval) /* the last probe was answered */
        s->keepalive_probes = 0;
    if (idle < s->keepalive_idle) { /* heard from since: the timer was left where it was */
        tcp_keepalive_rearm(s);
        return;
    }
    if (s->sent.count) { /* the retransmission timer is at work */
        tcp_deadline_set(s, TCP_DEADLINE_KEEPALIVE, net->now + s->keepalive_idle);
        return;
    }
    bool over = s->user_timeout ? s->keepalive_probes && idle >= s->user_timeout
                                : s->keepalive_probes >= s->keepalive_count;
    if (over) {
        net->stats.tcp_timed_out++;
        tcp_send_reset(s);
        tcp_socket_end(s, ETIMEDOUT);
        return;
    }
    s->keepalive_probes++;
    tcp_send_probe(s);
    tcp_deadline_set(s, TCP_DEADLINE_KEEPALIVE, net->now + s->keepalive_interval);
}
