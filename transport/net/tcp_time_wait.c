/* TIME-WAIT (RFC 9293 section 3.6.1): a small entry answers in place of the connection for 2 MSL.
 * All last equally long, so that a queue and one timer will do. */
#include <stdlib.h>

#include "tcp_conn.h"

static void arm(struct zh_net *net)
{
    struct tcp_time_wait *first = TAILQ_FIRST(&net->tcp->time_wait);
    if (first)
        net_timer_set(&net->timers, &net->tcp->time_wait_timer, first->expires);
    else
        net_timer_stop(&net->timers, &net->tcp->time_wait_timer);
}

void tcp_time_wait_free(struct zh_net *net, struct tcp_time_wait *entry)
{
    tcp_table_remove(net, &entry->entry);
    TAILQ_REMOVE(&net->tcp->time_wait, entry, link);
    net->tcp->time_waits--;
    free(entry);
}

static void expire(struct zh_net *net, struct net_timer *timer)
{
    (void)timer;
    struct tcp_time_wait *entry;
    while ((entry = TAILQ_FIRST(&net->tcp->time_wait)) && entry->expires <= net->now)
        tcp_time_wait_free(net, entry);
    arm(net);
}

static void restart(struct zh_net *net, struct tcp_time_wait *entry)
{
    entry->expires = net->now + net->config.time_wait;
    TAILQ_INSERT_TAIL(&net->tcp->time_wait, entry, link);
    arm(net);
}

void tcp_time_wait_enter(struct zh_net_socket *s)
{
    struct zh_net *net = s->net;
    struct tcp *tcp = net->tcp;
    if (tcp->time_waits >= net->config.max_time_wait) /* RFC 9293 asks for none to be dropped; a cap
                                                       * must: the oldest has waited longest */
        tcp_time_wait_free(net, TAILQ_FIRST(&tcp->time_wait));
    struct tcp_time_wait *entry = malloc(sizeof *entry);
    if (entry) {
        *entry = (struct tcp_time_wait){
            .entry = {.flow = s->entry.flow, .kind = TCP_ENTRY_TIME_WAIT},
            .snd_nxt = s->snd_nxt,
            .rcv_nxt = s->rcv_nxt,
            .rcv_wnd = s->rcv_advertised - s->rcv_nxt,
            .ts_recent = s->ts_recent,
            .ts_offset = s->ts_offset,
            .has_timestamps = s->flags & TCP_HAS_TIMESTAMPS,
        };
        tcp->time_wait_timer.expire = expire;
    }
    tcp_table_remove(net, &s->entry);
    s->flags &= ~TCP_IN_TABLE;
    if (entry) {
        tcp_table_add(net, &entry->entry);
        tcp->time_waits++;
        restart(net, entry);
    }
    tcp_socket_end(s, 0);
}

bool tcp_time_wait_input(struct zh_net *net, struct tcp_time_wait *entry,
                         struct tcp_segment *segment)
{
    const struct tcp_options *options = &segment->options;
    bool newer_stamp = entry->has_timestamps && options->has_timestamps &&
                       seq_gt(options->tsval, entry->ts_recent);
    if (segment->flags & TCP_RST) /* RFC 1337 section 3, fix F1: no assassination */
        return false;
    if ((segment->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN &&
        (newer_stamp || (!entry->has_timestamps && seq_gt(segment->seq, entry->rcv_nxt)))) {
        /* RFC 9293 section 3.6.1: a new SYN beyond the old sequence numbers reopens. */
        tcp_time_wait_free(net, entry);
        arm(net);
        return true;
    }
    if (!(segment->flags & TCP_ACK) && !(segment->flags & TCP_SYN))
        return false;
    struct tcp_options reply = {
        .has_timestamps = entry->has_timestamps,
        .tsval = tcp_ts_now(net, entry->ts_offset),
        .tsecr = entry->ts_recent,
    };
    /* An ACK for whatever is not the bare last ACK; the FIN once more restarts the wait (RFC 9293
     * section 3.10.7.4, eighth). */
    if (segment->flags & TCP_FIN && tcp_segment_end(segment) == entry->rcv_nxt) {
        TAILQ_REMOVE(&net->tcp->time_wait, entry, link);
        restart(net, entry);
    }
    if (tcp_segment_end(segment) != segment->seq || segment->seq != entry->rcv_nxt)
        tcp_send_bare(net, &entry->entry.flow, entry->snd_nxt, entry->rcv_nxt, TCP_ACK,
                      (uint16_t)(entry->rcv_wnd > UINT16_MAX ? UINT16_MAX : entry->rcv_wnd),
                      &reply);
    return false;
}
