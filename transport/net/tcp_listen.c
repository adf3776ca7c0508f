/* Passive open: a SYN makes a small request (RFC 9293 section 3.10.7.2), its ACK a connection. */
#include <stdlib.h>

#include "tcp_conn.h"

static bool send_syn_ack(struct zh_net *net, struct tcp_request *request)
{
    const struct zh_net_socket *listener = request->listener;
    struct tcp_options options = {
        .has_mss = true,
        .mss = tcp_own_mss(net, &request->entry.flow, listener->mss_user),
        .has_window_shift = request->has_scale,
        .window_shift = tcp_window_shift(listener->rcv_budget),
        .sack_permitted = request->has_sack,
        .has_timestamps = request->has_timestamps,
        .tsval = tcp_ts_now(net, request->ts_offset),
        .tsecr = request->ts_recent,
    };
    request->sent_at = net->now;
    return tcp_send_bare(net, &request->entry.flow, request->iss, request->irs + 1,
                         TCP_SYN | TCP_ACK | (request->has_ecn ? TCP_ECE : 0),
                         tcp_syn_window(listener), &options);
}

static void request_expire(struct zh_net *net, struct net_timer *timer)
{
    struct tcp_request *request =
        (struct tcp_request *)((char *)timer - offsetof(struct tcp_request, timer));
    if (request->retries >= TCP_SYNACK_RETRIES) {
        net->stats.tcp_failed++;
        tcp_request_free(net, request);
        return;
    }
    request->retries++;
    net->stats.tcp_out_retransmitted++;
    send_syn_ack(net, request);
    net_timer_set(&net->timers, &request->timer, net->now + (TCP_RTO_INITIAL << request->retries));
}

static void receive_syn(struct zh_net_socket *listener, const struct tcp_segment *segment,
                        const struct tcp_flow *flow)
{
    struct zh_net *net = listener->net;
    struct tcp_listener *l = listener->listener;
    if (l->accepted_count >= l->backlog || net->tcp->sockets >= net->config.max_connections) {
        net->stats.tcp_listen_overflow++;
        return;
    }
    if (net->config.always_cookies || l->accepted_count + l->request_count >= l->backlog ||
        net->tcp->requests >= net->config.max_half_open) {
        tcp_cookie_send(listener, segment, flow);
        return;
    }
    struct tcp_request *request = NULL;
    if (net_timers_reserve(&net->timers, net->tcp->sockets + net->tcp->requests + 64) == 0)
        request = malloc(sizeof *request);
    if (!request) {
        net->stats.tcp_listen_overflow++;
        return;
    }
    const struct tcp_options *options = &segment->options;
    *request = (struct tcp_request){
        .entry = {.flow = *flow, .kind = TCP_ENTRY_REQUEST},
        .listener = listener,
        .timer.expire = request_expire,
        .iss = tcp_isn(net, flow),
        .irs = segment->seq,
        .ts_recent = options->tsval,
        .ts_offset = tcp_ts_offset(net, flow),
        .window = segment->window,
        .mss = options->mss,
        .window_shift = options->window_shift,
        .has_scale = options->has_window_shift,
        .has_sack = options->sack_permitted,
        .has_ecn = tcp_ecn_asked(segment),
        .has_timestamps = options->has_timestamps,
    };
    tcp_table_add(net, &request->entry);
    TAILQ_INSERT_TAIL(&l->requests, request, link);
    l->request_count++;
    net->tcp->requests++;
    net_timer_set(&net->timers, &request->timer, net->now + TCP_RTO_INITIAL);
    send_syn_ack(net, request);
}

void tcp_request_free(struct zh_net *net, struct tcp_request *request)
{
    struct tcp_listener *l = request->listener->listener;
    net_timer_stop(&net->timers, &request->timer);
    tcp_table_remove(net, &request->entry);
    TAILQ_REMOVE(&l->requests, request, link);
    l->request_count--;
    net->tcp->requests--;
    free(request);
}

/* The request's ACK has come: the connection in its full form. `rtt`: 0, if not known. `queued`:
 * the request is in the table; it is freed. NULL: out of memory. */
static struct zh_net_socket *promote(struct zh_net *net, struct tcp_request *request,
                                     const struct tcp_segment *segment, uint64_t rtt, bool queued)
{
    struct zh_net_socket *listener = request->listener;
    struct zh_net_socket *s = tcp_socket_new(net, listener->family);
    if (!s)
        return NULL;
    s->entry.flow = request->entry.flow;
    s->flags |=
        TCP_BOUND | TCP_IN_TABLE |
        (listener->flags & (TCP_NO_DELAY | TCP_CORKED | TCP_KEEPALIVE_ON | TCP_LINGER_RESET)) |
        (request->has_scale ? TCP_HAS_SCALE : 0) | (request->has_sack ? TCP_HAS_SACK : 0) |
        (request->has_timestamps ? TCP_HAS_TIMESTAMPS : 0);
    s->user = listener->user;
    s->congestion = listener->congestion;
    s->rcv_budget = listener->rcv_budget;
    s->send_limit = listener->send_limit;
    s->mss_user = listener->mss_user;
    s->mss_peer = request->mss;
    s->keepalive_idle = listener->keepalive_idle;
    s->keepalive_interval = listener->keepalive_interval;
    s->keepalive_count = listener->keepalive_count;
    s->user_timeout = listener->user_timeout;
    s->iss = request->iss;
    s->snd_una = s->snd_nxt = request->iss + 1;
    s->irs = request->irs;
    s->rcv_nxt = request->irs + 1;
    s->snd_shift = request->has_scale ? request->window_shift : 0;
    s->rcv_shift = request->has_scale ? tcp_window_shift(listener->rcv_budget) : 0;
    s->rcv_advertised = s->rcv_nxt + tcp_syn_window(listener);
    s->last_ack_sent = s->rcv_nxt;
    s->ts_recent = request->ts_recent;
    s->ts_recent_at = net->now;
    s->ts_offset = request->ts_offset;
    s->snd_wnd = segment->window << s->snd_shift;
    s->snd_wnd_max = s->snd_wnd;
    s->snd_wl1 = segment->seq;
    s->snd_wl2 = segment->ack;
    if (request->retries) /* RFC 6298 (5.7) */
        s->rto = TCP_RTO_AFTER_SYN;
    if (request->has_ecn)
        s->flags |= TCP_HAS_ECN;
    if (queued)
        tcp_request_free(net, request);
    tcp_table_add(net, &s->entry);
    if (tcp_socket_route(s) < 0) { /* the address was taken away meanwhile */
        tcp_socket_free(s);
        return NULL;
    }
    tcp_update_mss(s);
    if (rtt)
        tcp_rto_sample(s, rtt);
    s->from_listener = listener;
    TAILQ_INSERT_TAIL(&listener->listener->accepted, s, accept_link);
    listener->listener->accepted_count++;
    net->stats.tcp_accepted++;
    tcp_establish(s);
    tcp_notify(listener);
    return s;
}

/* RFC 9293 section 3.10.7.2. */
struct zh_net_socket *tcp_listen_input(struct zh_net_socket *listener, struct tcp_segment *segment,
                                       const struct tcp_flow *flow)
{
    struct zh_net *net = listener->net;
    struct tcp_listener *l = listener->listener;
    struct tcp_request cookie;
    if (segment->flags & TCP_RST || segment->info->broadcast)
        return NULL;
    if (segment->flags & TCP_ACK) {
        if (segment->flags & TCP_SYN || !tcp_cookie_check(listener, segment, flow, &cookie)) {
            tcp_cookie_refuse(listener, segment, flow);
            return NULL;
        }
        if (l->accepted_count >= l->backlog || net->tcp->sockets >= net->config.max_connections) {
            net->stats.tcp_listen_overflow++; /* what the peer sends next is as good */
            return NULL;
        }
        net->stats.cookies_accepted++;
        return promote(net, &cookie, segment, 0, false);
    }
    if (segment->flags & TCP_SYN)
        receive_syn(listener, segment, flow);
    return NULL;
}

bool tcp_request_input(struct zh_net *net, struct tcp_request *request, struct tcp_segment *segment,
                       struct zh_net_socket **socket)
{
    uint32_t irs = request->irs, end = irs + 1 + tcp_syn_window(request->listener);
    if (request->has_timestamps && segment->options.has_timestamps &&
        !(segment->flags & (TCP_RST | TCP_SYN)) &&
        seq_lt(segment->options.tsval, request->ts_recent)) { /* PAWS, RFC 7323 section 5.3 */
        tcp_send_bare(net, &request->entry.flow, request->iss + 1, irs + 1, TCP_ACK,
                      tcp_syn_window(request->listener), NULL);
        return false;
    }
    if (segment->flags & TCP_SYN) {
        if (segment->seq == irs && !(segment->flags & TCP_ACK)) /* the SYN once more */
            send_syn_ack(net, request);
        return false;
    }
    if (!seq_between(segment->seq, irs + 1, end)) { /* RFC 9293 section 3.10.7.4, first */
        if (!(segment->flags & TCP_RST))
            tcp_send_bare(net, &request->entry.flow, request->iss + 1, irs + 1, TCP_ACK,
                          tcp_syn_window(request->listener), NULL);
        return false;
    }
    if (segment->flags & TCP_RST) {
        if (segment->seq == irs + 1) { /* RFC 5961 section 3.2 */
            net->stats.tcp_failed++;
            tcp_request_free(net, request);
        }
        return false;
    }
    if (!(segment->flags & TCP_ACK))
        return false;
    if (segment->ack != request->iss + 1) {
        struct tcp_request cookie; /* its SYN came twice, and was answered by a cookie first */
        struct tcp_flow flow = request->entry.flow;
        if (tcp_cookie_check(request->listener, segment, &flow, &cookie)) {
            tcp_request_free(net, request);
            net->stats.cookies_accepted++;
            *socket = promote(net, &cookie, segment, 0, false);
            return *socket != NULL;
        }
        tcp_send_refusal(net, &flow, segment);
        return false;
    }
    *socket =
        promote(net, request, segment, request->retries ? 0 : net->now - request->sent_at, true);
    return *socket != NULL;
}

void tcp_request_error(struct zh_net *net, struct tcp_request *request,
                       const struct net_error *error)
{
    /* RFC 5927 section 4: only what quotes the SYN-ACK itself; a soft error is left to the timer.
     */
    if (error->seq == request->iss && error->hard) {
        net->stats.tcp_failed++;
        tcp_request_free(net, request);
    } else {
        net->stats.icmp_errors_ignored++;
    }
}

void tcp_listener_close(struct zh_net_socket *listener)
{
    struct zh_net *net = listener->net;
    struct tcp_listener *l = listener->listener;
    struct tcp_request *request;
    while ((request = TAILQ_FIRST(&l->requests)))
        tcp_request_free(net, request);
    struct zh_net_socket *s;
    while ((s = TAILQ_FIRST(&l->accepted))) { /* nobody will: as Linux, reset */
        tcp_send_reset(s);
        tcp_socket_free(s);
    }
    TAILQ_REMOVE(&net->tcp->listeners, listener, accept_link);
    free(l);
    listener->listener = NULL;
}
