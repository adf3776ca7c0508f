/* Echo, sink and source: see loop.h. */
#include <netinet/tcp.h>
#include <stdlib.h>

#include "stack.h"
#include "zerohop/loop.h"

enum {
    TAKE_BURST = 16,
    SOURCE_RECORD = 1 << 20,
};

/* The packet that was sent back is acknowledged. */
static void echo_done(void *opaque)
{
    struct zh_stream_segment *lent = opaque;
    zh_stream_release(lent);
    free(lent);
}

/* Send one segment back, its memory lent until it is acknowledged. False: the connection has
 * failed, and the segment is released. */
static bool echo_segment(struct zh_net_socket *socket, struct zh_stream_segment *segment)
{
    struct zh_stream_segment *lent = malloc(sizeof *lent);
    if (lent) {
        *lent = *segment;
        struct iovec piece = {(void *)(uintptr_t)segment->data, segment->size};
        struct zh_stream_record record = {&piece, 1, echo_done, lent};
        if (zh_net_send_records(socket, &record, 1) == 1)
            return true;
        free(lent);
    }
    zh_stream_release(segment);
    return false;
}

static void echo_ready(struct zh_loop_handler *handler, struct zh_net_socket *socket,
                       unsigned ready)
{
    (void)handler;
    int taken;
    do {
        /* What cannot be sent stays with the peer: its window closes. */
        if (!(zh_net_ready(socket) & ZH_STREAM_OUT)) {
            ssize_t blocked = zh_net_send(socket, "", 0, 0); /* asks to be told of room */
            if (blocked == -EAGAIN)
                return;
        }
        struct zh_stream_segment segments[TAKE_BURST];
        taken = zh_net_take(socket, segments, TAKE_BURST);
        bool failed = false;
        for (int i = 0; i < taken; i++) {
            if (failed)
                zh_stream_release(&segments[i]);
            else if (!echo_segment(socket, &segments[i]))
                failed = true;
        }
        if (failed) {
            zh_net_close(socket);
            return;
        }
    } while (taken > 0); /* edge-triggered: up to the end or to EAGAIN */
    if (taken == 0 || (taken < 0 && taken != -EAGAIN) || ready & ZH_STREAM_ERR)
        zh_net_close(socket);
}

static void sink_ready(struct zh_loop_handler *handler, struct zh_net_socket *socket,
                       unsigned ready)
{
    (void)handler;
    (void)ready;
    struct zh_stream_segment segments[TAKE_BURST];
    int taken;
    do {
        taken = zh_net_take(socket, segments, TAKE_BURST);
        for (int i = 0; i < taken; i++)
            zh_stream_release(&segments[i]);
    } while (taken > 0); /* edge-triggered: up to the end or to EAGAIN */
    if (taken <= 0 && taken != -EAGAIN)
        zh_net_close(socket);
}

static void source_ready(struct zh_loop_handler *handler, struct zh_net_socket *socket,
                         unsigned ready)
{
    static const uint8_t zeros[SOURCE_RECORD];
    struct iovec piece = {(void *)(uintptr_t)zeros, sizeof zeros};
    struct zh_stream_record record = {&piece, 1, NULL, NULL};
    (void)handler;
    (void)ready;
    /* What a client says is thrown away; that it has ended its side changes nothing. */
    struct zh_stream_segment segment;
    int taken;
    while ((taken = zh_net_take(socket, &segment, 1)) == 1)
        zh_stream_release(&segment);
    int sent;
    do
        sent = zh_net_send_records(socket, &record, 1);
    while (sent == 1);
    if (sent != -EAGAIN || (taken < 0 && taken != -EAGAIN))
        zh_net_close(socket);
}

static struct zh_loop_handler services[] = {
    [ZH_SERVICE_ECHO] = {echo_ready},
    [ZH_SERVICE_SINK] = {sink_ready},
    [ZH_SERVICE_SOURCE] = {source_ready},
};

/* A listener's: `accepted` serves the connections. */
struct acceptor {
    struct zh_loop_handler handler; /* first */
    struct zh_loop_handler *accepted;
};

static void acceptor_ready(struct zh_loop_handler *handler, struct zh_net_socket *listener,
                           unsigned ready)
{
    (void)ready;
    struct acceptor *acceptor = (struct acceptor *)handler;
    struct zh_net_socket *socket;
    int on = 1;
    while (zh_net_accept(listener, &socket) == 0) {
        zh_net_set_user(socket, acceptor->accepted);
        zh_net_setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        acceptor->accepted->ready(acceptor->accepted, socket, zh_net_ready(socket));
    }
}

static struct acceptor acceptors[] = {
    [ZH_SERVICE_ECHO] = {{acceptor_ready}, &services[ZH_SERVICE_ECHO]},
    [ZH_SERVICE_SINK] = {{acceptor_ready}, &services[ZH_SERVICE_SINK]},
    [ZH_SERVICE_SOURCE] = {{acceptor_ready}, &services[ZH_SERVICE_SOURCE]},
};

int zh_service_start(struct zh_net *net, enum zh_service_kind kind, uint16_t port)
{
    struct zh_net_socket *listener;
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = rte_cpu_to_be_16(port)};
    int error = zh_net_socket(net, AF_INET6, &listener);
    if (error)
        return error;
    error = zh_net_bind(listener, (const struct sockaddr *)&any, sizeof any);
    if (!error)
        error = zh_net_listen(listener, 1024);
    if (error) {
        zh_net_close(listener);
        return error;
    }
    zh_net_set_user(listener, &acceptors[kind].handler);
    return 0;
}
