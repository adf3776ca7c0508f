/* A connection's birth, the limits that its path gives it, and its end. */
#include <stdlib.h>

#include "tcp_conn.h"
#include "tcp_reorder.h"

enum {
    IPV4_HEADER = 20,
    IPV6_HEADER = 40,
    TIMESTAMPS_SIZE = 12,
    DATACENTER_RTO_MS = 5,
};

struct zh_net_socket *tcp_socket_new(struct zh_net *net, sa_family_t family)
{
    /* One timer for each socket and request, and some for the layers below. */
    if (net_timers_reserve(&net->timers, net->tcp->sockets + net->tcp->requests + 64 +
                                             net->config.max_neighbours) < 0)
        return NULL;
    struct zh_net_socket *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->entry.kind = TCP_ENTRY_SOCKET;
    s->net = net;
    s->family = family;
    s->stream.ops = &tcp_stream_ops;
    s->timer.expire = tcp_timer_expire;
    s->congestion = tcp_congestion_find(net->config.congestion_control);
    s->rcv_budget = (uint32_t)net->config.receive_budget;
    s->rcv_ratio =
        128; /* until full segments have come: half, as Linux's tcp_adv_win_scale had it */
    s->rcv_mss = TCP_MSS_DEFAULT_V4;
    s->send_limit = net->config.send_limit;
    s->rto_min = net->config.rto_min;
    s->rto = TCP_RTO_INITIAL;
    s->ssthresh = UINT64_MAX;
    /* As tcp (7): tcp_keepalive_time, tcp_keepalive_intvl, tcp_keepalive_probes. */
    s->keepalive_idle = 7200 * NET_SECOND;
    s->keepalive_interval = 75 * NET_SECOND;
    s->keepalive_count = 9;
    TAILQ_INSERT_TAIL(&net->tcp->all, s, all_link);
    net->tcp->sockets++;
    return s;
}

/* Out of the lists that the stack works on; nothing of the connection is left but what can be read.
 */
static void stop(struct zh_net_socket *s)
{
    struct zh_net *net = s->net;
    net_timer_stop(&net->timers, &s->timer);
    memset(s->deadline, 0, sizeof s->deadline);
    if (s->flags & TCP_IN_TABLE)
        tcp_table_remove(net, &s->entry);
    if (s->flags & TCP_QUEUED_OUT)
        TAILQ_REMOVE(&net->tcp->out, s, out_link);
    if (s->flags & TCP_STARVED)
        TAILQ_REMOVE(&net->tcp->starved, s, starved_link);
    s->flags &= ~(TCP_IN_TABLE | TCP_QUEUED_OUT | TCP_STARVED);
    tcp_queue_clear(&s->queue);
    tcp_sent_free(&s->sent);
}

void tcp_socket_free(struct zh_net_socket *s)
{
    struct zh_net *net = s->net;
    if (s->state == TCPS_LISTEN)
        tcp_listener_close(s);
    stop(s);
    tcp_receive_free(s);
    if (s->from_listener) {
        TAILQ_REMOVE(&s->from_listener->listener->accepted, s, accept_link);
        s->from_listener->listener->accepted_count--;
    }
    if (s->flags & TCP_QUEUED_READY)
        TAILQ_REMOVE(&net->tcp->ready, s, ready_link);
    TAILQ_REMOVE(&net->tcp->all, s, all_link);
    net->tcp->sockets--;
    free(s);
}

void tcp_socket_end(struct zh_net_socket *s, int error)
{
    s->net->stats.tcp_closed++;
    stop(s);
    s->state = TCPS_CLOSED;
    if (!s->error)
        s->error = error;
    if (s->flags & TCP_DETACHED)
        tcp_socket_free(s);
    else
        tcp_notify(s);
}

void tcp_notify(struct zh_net_socket *s)
{
    if (s->flags & (TCP_QUEUED_READY | TCP_DETACHED) || s->from_listener)
        return;
    s->flags |= TCP_QUEUED_READY;
    TAILQ_INSERT_TAIL(&s->net->tcp->ready, s, ready_link);
}

void tcp_want_output(struct zh_net_socket *s)
{
    if (s->flags & TCP_QUEUED_OUT)
        return;
    s->flags |= TCP_QUEUED_OUT;
    TAILQ_INSERT_TAIL(&s->net->tcp->out, s, out_link);
}

bool tcp_can_queue(const struct zh_net_socket *s)
{
    return s->queue.end - s->una_offset < s->send_limit;
}

/* --- limits
 * --------------------------------------------------------------------------------------- */

static uint16_t headers_of(const struct net_addr *address)
{
    return (net_addr_is_v4(address) ? IPV4_HEADER : IPV6_HEADER) + sizeof(struct tcp_header);
}

uint16_t tcp_own_mss(const struct zh_net *net, const struct tcp_flow *flow, uint16_t user)
{
    uint16_t mss = (uint16_t)(net->config.mtu - headers_of(&flow->remote));
    return user && user < mss ? user : mss;
}

uint8_t tcp_window_shift(uint32_t budget)
{
    uint8_t shift = 0;
    while (shift < TCP_WINDOW_SHIFT_MAX && (uint64_t)UINT16_MAX << shift < budget)
        shift++;
    return shift;
}

uint16_t tcp_syn_window(const struct zh_net_socket *s)
{
    uint64_t window = (uint64_t)s->rcv_budget * s->rcv_ratio / 256;
    return window < UINT16_MAX ? (uint16_t)window : UINT16_MAX;
}

int tcp_socket_route(struct zh_net_socket *s)
{
    struct net_next_hop hop;
    if (!net_route(s->net, &s->entry.flow.remote, &hop))
        return -EHOSTUNREACH;
    if (hop.datacenter && s->rto_min > DATACENTER_RTO_MS * (uint64_t)NET_MS)
        s->rto_min = DATACENTER_RTO_MS * (uint64_t)NET_MS;
    return 0;
}

void tcp_update_mss(struct zh_net_socket *s)
{
    const struct net_addr *remote = &s->entry.flow.remote;
    uint32_t mss = net_path_mtu(s->net, remote) - headers_of(remote);
    uint32_t peer = s->mss_peer              ? s->mss_peer
                    : net_addr_is_v4(remote) ? TCP_MSS_DEFAULT_V4
                                             : TCP_MSS_DEFAULT_V6;
    if (peer < TCP_MSS_MIN)
        peer = TCP_MSS_MIN;
    if (mss > peer)
        mss = peer;
    if (s->mss_user && mss > s->mss_user)
        mss = s->mss_user;
    if (s->flags & TCP_HAS_TIMESTAMPS) /* RFC 6691 section 2: options count against it */
        mss -= TIMESTAMPS_SIZE;
    s->mss = (uint16_t)mss;
    s->path_expires = net_path_expires(s->net, remote);
}

void tcp_establish(struct zh_net_socket *s)
{
    s->state = TCPS_ESTABLISHED;
    s->last_received = s->last_progress = s->validated_at = s->net->now;
    s->backoff = s->retries = 0;
    s->recover = s->snd_una - 1;
    s->used_until = s->snd_una;
    s->cwnd = tcp_initial_window(s->mss);
    s->congestion->start(s);
    tcp_rack_begin(&s->rack, s->snd_una);
    s->tlp.sampled = s->srtt != 0;
    if (s->srtt)
        tcp_rack_sample(&s->rack, s->srtt, s->net->now);
    tcp_receive_start(s);
    tcp_deadline_stop(s, TCP_DEADLINE_RTO);
    tcp_keepalive_rearm(s);
    if (s->queue.end || s->flags & TCP_SHUT_WRITE)
        tcp_want_output(s);
}
