/* Sockets, in the ways of BSD: what the application calls. */
#include <stdlib.h>

#include "tcp_conn.h"

/* --- addresses
 * ------------------------------------------------------------------------------------- */

/* 0, -EINVAL or -EAFNOSUPPORT. A socket of IPv6 takes IPv4 addresses mapped (RFC 3493 section 3.7).
 */
static int read_address(const struct zh_net_socket *s, const struct sockaddr *address,
                        socklen_t length, struct net_addr *addr, uint16_t *port)
{
    if (length < sizeof address->sa_family)
        return -EINVAL;
    if (address->sa_family != s->family)
        return -EAFNOSUPPORT;
    if (s->family == AF_INET) {
        struct sockaddr_in v4;
        if (length < sizeof v4)
            return -EINVAL;
        memcpy(&v4, address, sizeof v4);
        *addr = net_addr_v4(v4.sin_addr.s_addr);
        *port = v4.sin_port;
    } else {
        struct sockaddr_in6 v6;
        if (length < sizeof v6)
            return -EINVAL;
        memcpy(&v6, address, sizeof v6);
        memcpy(addr, &v6.sin6_addr, sizeof *addr);
        *port = v6.sin6_port;
    }
    return 0;
}

void tcp_write_address(const struct net_addr *addr, uint16_t port, sa_family_t family,
                       struct sockaddr_storage *out)
{
    memset(out, 0, sizeof *out);
    if (family == AF_INET) {
        struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = port};
        v4.sin_addr.s_addr = addr->words[3];
        memcpy(out, &v4, sizeof v4);
    } else {
        struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = port};
        memcpy(&v6.sin6_addr, addr, sizeof *addr);
        memcpy(out, &v6, sizeof v6);
    }
}

static bool is_any(const struct net_addr *addr)
{
    return !addr->halves[0] && !addr->words[3] &&
           (!addr->words[2] || addr->words[2] == NET_V4_MAPPED);
}

/* --- birth
 * ------------------------------------------------------------------------------------------- */

int zh_net_socket(struct zh_net *net, int domain, struct zh_net_socket **socket)
{
    if (domain != AF_INET && domain != AF_INET6)
        return -EAFNOSUPPORT;
    if (net->tcp->sockets >= net->config.max_connections)
        return -ENOBUFS;
    struct zh_net_socket *s = tcp_socket_new(net, (sa_family_t)domain);
    if (!s)
        return -ENOMEM;
    if (domain == AF_INET)
        s->entry.flow.local = net_addr_v4(INADDR_ANY);
    *socket = s;
    return 0;
}

/* Does another socket listen on just this address and port? */
static bool is_listened_on(const struct zh_net *net, const struct net_addr *addr, uint16_t port)
{
    struct zh_net_socket *other;
    TAILQ_FOREACH(other, &net->tcp->listeners, accept_link)
    if (other->entry.flow.local_port == port && net_addr_equal(&other->entry.flow.local, addr))
        return true;
    return false;
}

int zh_net_bind(struct zh_net_socket *s, const struct sockaddr *address, socklen_t length)
{
    struct net_addr addr;
    uint16_t port;
    int error = read_address(s, address, length, &addr, &port);
    if (error)
        return error;
    if (s->state != TCPS_CLOSED || s->flags & TCP_BOUND)
        return -EINVAL;
    if (!is_any(&addr) && !net_is_own(s->net, &addr))
        return -EADDRNOTAVAIL;
    if (port && is_listened_on(s->net, &addr, port))
        return -EADDRINUSE;
    s->entry.flow.local = addr;
    s->entry.flow.local_port = port;
    s->flags |= TCP_BOUND;
    return 0;
}

int zh_net_listen(struct zh_net_socket *s, int backlog)
{
    if (s->state == TCPS_LISTEN) {
        s->listener->backlog = backlog > 0 ? (uint32_t)backlog : 1;
        return 0;
    }
    if (s->state != TCPS_CLOSED || s->error)
        return -EINVAL;
    uint16_t port = s->entry.flow.local_port;
    if (port ? is_listened_on(s->net, &s->entry.flow.local, port)
             : !tcp_table_choose_port(s->net, &s->entry.flow))
        return -EADDRINUSE;
    struct tcp_listener *listener = calloc(1, sizeof *listener);
    if (!listener)
        return -ENOMEM;
    TAILQ_INIT(&listener->accepted);
    TAILQ_INIT(&listener->requests);
    listener->backlog = backlog > 0 ? (uint32_t)backlog : 1;
    s->listener = listener;
    s->state = TCPS_LISTEN;
    s->flags |= TCP_BOUND;
    TAILQ_INSERT_TAIL(&s->net->tcp->listeners, s, accept_link);
    return 0;
}

int zh_net_accept(struct zh_net_socket *listener, struct zh_net_socket **socket)
{
    if (listener->state != TCPS_LISTEN)
        return -EINVAL;
    struct zh_net_socket *s = TAILQ_FIRST(&listener->listener->accepted);
    if (!s)
        return -EAGAIN;
    TAILQ_REMOVE(&listener->listener->accepted, s, accept_link);
    listener->listener->accepted_count--;
    s->from_listener = NULL;
    if (zh_net_ready(s) & ~ZH_STREAM_OUT) /* what came before it was accepted */
        tcp_notify(s);
    *socket = s;
    return 0;
}

int zh_net_connect(struct zh_net_socket *s, const struct sockaddr *address, socklen_t length)
{
    struct zh_net *net = s->net;
    struct tcp_flow flow = s->entry.flow;
    int error = read_address(s, address, length, &flow.remote, &flow.remote_port);
    if (error)
        return error;
    if (s->state == TCPS_SYN_SENT || s->state == TCPS_SYN_RECEIVED)
        return -EALREADY;
    if (s->state != TCPS_CLOSED || s->error || s->snd_nxt != s->iss)
        return s->error ? -s->error : -EISCONN;
    struct net_next_hop hop;
    if (!flow.remote_port || is_any(&flow.remote))
        return -EADDRNOTAVAIL;
    if (!net_route(net, &flow.remote, &hop))
        return -ENETUNREACH;
    if (is_any(&flow.local))
        flow.local = *hop.source;
    if (flow.local_port) {
        struct tcp_entry *entry = tcp_table_find(net, &flow);
        if (entry)
            return -EADDRINUSE;
    } else if (!tcp_table_choose_port(net, &flow)) {
        return -EADDRNOTAVAIL;
    }
    s->entry.flow = flow;
    s->iss = tcp_isn(net, &flow);
    s->ts_offset = tcp_ts_offset(net, &flow);
    s->snd_una = s->snd_nxt = s->iss;
    s->rcv_shift = tcp_window_shift(s->rcv_budget);
    s->flags |= TCP_HAS_TIMESTAMPS | TCP_HAS_SACK | TCP_HAS_SCALE;
    if (net->config.ecn)
        s->flags |= TCP_HAS_ECN;
    tcp_socket_route(s);
    tcp_update_mss(s);
    error = tcp_sent_reserve(&s->sent, 1);
    if (error)
        return error;
    s->state = TCPS_SYN_SENT;
    s->flags |= TCP_IN_TABLE | TCP_BOUND;
    tcp_table_add(net, &s->entry);
    tcp_want_output(s); /* not here, where the time is not known: the timer counts from the SYN */
    return -EINPROGRESS;
}

/* --- end
 * ------------------------------------------------------------------------------------------------
 */

/* No more is sent by the application: the FIN follows what is queued. */
static void end_sending(struct zh_net_socket *s)
{
    if (s->flags & TCP_SHUT_WRITE)
        return;
    s->flags |= TCP_SHUT_WRITE;
    if (s->state == TCPS_ESTABLISHED)
        s->state = TCPS_FIN_WAIT_1;
    else if (s->state == TCPS_CLOSE_WAIT)
        s->state = TCPS_LAST_ACK;
    tcp_want_output(s);
}

void zh_net_close(struct zh_net_socket *s)
{
    s->flags |= TCP_DETACHED;
    if (s->flags & TCP_QUEUED_READY) {
        s->flags &= ~TCP_QUEUED_READY;
        TAILQ_REMOVE(&s->net->tcp->ready, s, ready_link);
    }
    switch (s->state) {
    case TCPS_CLOSED:
    case TCPS_LISTEN:
    case TCPS_SYN_SENT:
        tcp_socket_free(s);
        return;
    default:
        break;
    }
    /* RFC 9293 section 3.6.1: data that nobody will read is told of by a reset, lest the peer take
     * it for delivered. */
    if (s->rcv_queued || s->reorder.count || s->flags & TCP_LINGER_RESET) {
        tcp_send_reset(s);
        tcp_socket_end(s, 0);
        return;
    }
    end_sending(s);
    if (s->state == TCPS_FIN_WAIT_2)
        tcp_deadline_set(s, TCP_DEADLINE_LINGER, s->net->now + 60 * NET_SECOND);
}

int zh_net_shutdown(struct zh_net_socket *s, int how)
{
    if (how != SHUT_RD && how != SHUT_WR && how != SHUT_RDWR)
        return -EINVAL;
    if (s->state < TCPS_SYN_RECEIVED && s->error)
        return -s->error;
    if (s->state < TCPS_SYN_RECEIVED)
        return s->flags & TCP_SHUT_WRITE ? 0 : -ENOTCONN;
    if (how != SHUT_WR) {
        s->flags |= TCP_SHUT_READ;
        tcp_notify(s);
    }
    if (how != SHUT_RD)
        end_sending(s);
    return 0;
}

/* --- data
 * ---------------------------------------------------------------------------------------------------
 */

/* 0 where data may be queued. */
static int may_send(struct zh_net_socket *s)
{
    if (s->flags & TCP_SHUT_WRITE)
        return s->error ? -s->error : -EPIPE;
    if (s->state == TCPS_CLOSED || s->state == TCPS_LISTEN)
        return s->error ? -s->error : s->flags & TCP_IN_TABLE ? -EPIPE : -ENOTCONN;
    if (!tcp_can_queue(s) || !tcp_synchronized(s)) {
        s->flags |= TCP_SEND_BLOCKED;
        return -EAGAIN;
    }
    return 0;
}

ssize_t zh_net_send(struct zh_net_socket *s, const void *data, size_t size, int flags)
{
    int error = may_send(s);
    if (error)
        return error;
    uint64_t room = s->send_limit - (s->queue.end - s->una_offset);
    ssize_t taken = tcp_queue_append_copy(&s->queue, data, size < room ? size : (size_t)room);
    if (taken < 0)
        return taken;
    tcp_count_copied(s, (size_t)taken);
    s->flags = flags & MSG_MORE ? s->flags | TCP_MORE : s->flags & ~TCP_MORE;
    tcp_want_output(s);
    if ((size_t)taken < size)
        s->flags |= TCP_SEND_BLOCKED;
    return taken;
}

int zh_net_send_records(struct zh_net_socket *s, const struct zh_stream_record *records,
                        unsigned count)
{
    unsigned accepted = 0;
    for (int error; accepted < count; accepted++) {
        error = may_send(s);
        if (!error)
            error = tcp_queue_append(&s->queue, &records[accepted]);
        if (error) {
            if (!accepted)
                return error;
            break;
        }
    }
    s->flags &= ~TCP_MORE;
    tcp_want_output(s);
    return (int)accepted;
}

/* What an empty queue means: 1: data may come. */
static int end_of_data(struct zh_net_socket *s)
{
    if (s->error && s->state == TCPS_CLOSED)
        return -s->error;
    if (s->flags & (TCP_FIN_RECEIVED | TCP_SHUT_READ))
        return 0;
    if (s->state == TCPS_CLOSED || s->state == TCPS_LISTEN)
        return -ENOTCONN;
    return 1;
}

int zh_net_take(struct zh_net_socket *s, struct zh_stream_segment *segments, unsigned count)
{
    if (!s->rcv_head) {
        int end = end_of_data(s);
        return end == 1 ? -EAGAIN : end;
    }
    return tcp_take(s, segments, count);
}

ssize_t zh_net_recv(struct zh_net_socket *s, void *data, size_t size, int flags)
{
    if (!s->rcv_head) {
        int end = end_of_data(s);
        return end == 1 ? -EAGAIN : end;
    }
    size_t done = tcp_read(s, data, size, flags & MSG_PEEK);
    if (!(flags & MSG_PEEK))
        tcp_receive_room(s);
    return (ssize_t)done;
}

/* --- readiness
 * -------------------------------------------------------------------------------------------------
 */

unsigned zh_net_ready(struct zh_net_socket *s)
{
    unsigned ready = 0;
    if (s->state == TCPS_LISTEN)
        return s->listener->accepted_count ? ZH_STREAM_IN : 0;
    if (s->rcv_head || end_of_data(s) != 1)
        ready |= ZH_STREAM_IN;
    if (tcp_synchronized(s) && tcp_can_queue(s) && !(s->flags & TCP_SHUT_WRITE))
        ready |= ZH_STREAM_OUT;
    if (s->state == TCPS_CLOSED || ((s->flags & TCP_FIN_RECEIVED) && (s->flags & TCP_SHUT_WRITE)))
        ready |= ZH_STREAM_HUP;
    if (s->error)
        ready |= ZH_STREAM_ERR;
    return ready;
}

int zh_net_wait(struct zh_net *net, struct zh_net_event *events, int count)
{
    int given = 0;
    struct zh_net_socket *s;
    while (given < count && (s = TAILQ_FIRST(&net->tcp->ready))) {
        TAILQ_REMOVE(&net->tcp->ready, s, ready_link);
        s->flags &= ~TCP_QUEUED_READY;
        events[given++] = (struct zh_net_event){.socket = s, .ready = zh_net_ready(s)};
    }
    return given;
}

void zh_net_set_user(struct zh_net_socket *s, void *user)
{
    s->user = user;
}

void *zh_net_user(const struct zh_net_socket *s)
{
    return s->user;
}

int zh_net_getsockname(struct zh_net_socket *s, struct sockaddr_storage *address)
{
    tcp_write_address(&s->entry.flow.local, s->entry.flow.local_port, s->family, address);
    return 0;
}

int zh_net_getpeername(struct zh_net_socket *s, struct sockaddr_storage *address)
{
    if (!s->entry.flow.remote_port || s->state == TCPS_CLOSED)
        return -ENOTCONN;
    tcp_write_address(&s->entry.flow.remote, s->entry.flow.remote_port, s->family, address);
    return 0;
}
