/* A connection's deadlines share one timer of the heap. Nearly all of them only ever move later
 * (each ACK restarts the retransmission timer), so the heap's deadline may be earlier than any of
 * them: then the timer finds nothing due and is set again. */
#include "tcp_conn.h"

void tcp_deadline_set(struct zh_net_socket *s, enum tcp_deadline which, uint64_t when)
{
    s->deadline[which] = when;
    if (!s->timer.index || when < s->timer.deadline)
        net_timer_set(&s->net->timers, &s->timer, when);
}

void tcp_timer_expire(struct zh_net *net, struct net_timer *timer)
{
    struct zh_net_socket *s =
        (struct zh_net_socket *)((char *)timer - offsetof(struct zh_net_socket, timer));
    enum tcp_deadline due = TCP_DEADLINES;
    uint64_t next = NET_NEVER;
    for (enum tcp_deadline i = 0; i < TCP_DEADLINES; i++) {
        uint64_t deadline = s->deadline[i];
        if (!deadline)
            continue;
        if (deadline <= net->now && due == TCP_DEADLINES) {
            due = i;
            s->deadline[i] = 0;
        } else if (deadline < next) {
            next = deadline;
        }
    }
    /* Before the handler, which may free the socket; another one that is due is run right after. */
    if (next != NET_NEVER)
        net_timer_set(&net->timers, &s->timer, next);
    switch (due) {
    case TCP_DEADLINE_RTO:
        tcp_rto_expired(s);
        break;
    case TCP_DEADLINE_REORDER:
        tcp_recovery_reorder_expired(s);
        break;
    case TCP_DEADLINE_PROBE:
        tcp_recovery_probe_expired(s);
        break;
    case TCP_DEADLINE_ACK:
        s->flags |= TCP_ACK_NOW;
        tcp_want_output(s);
        break;
    case TCP_DEADLINE_KEEPALIVE:
        tcp_keepalive_expired(s);
        break;
    case TCP_DEADLINE_LINGER:
        tcp_socket_end(s, 0);
        break;
    case TCP_DEADLINES:
        break;
    }
}
