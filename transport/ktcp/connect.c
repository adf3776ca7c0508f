/* What streams are made from: listening, accepting, connecting, and the set of those that have
 * something queued. */
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "ktcp_internal.h"

enum { KTCP_EVENTS = 64 }; /* of one epoll_wait; the others are there at the next poll */

struct zh_ktcp_listener {
    struct zh_ktcp *ktcp;
    int fd; /* owned */
};

int zh_ktcp_create(const struct zh_ktcp_config *config, struct zh_ktcp **out)
{
    struct zh_ktcp *ktcp = calloc(1, sizeof *ktcp);
    int error = ENOMEM;

    if (!ktcp)
        return -error;
    if (config)
        ktcp->config = *config;
    if (!ktcp->config.queue_limit)
        ktcp->config.queue_limit = 1024 * 1024;
    if (!ktcp->config.hold_limit)
        ktcp->config.hold_limit = 4 * 1024 * 1024;
    if (ktcp->config.hold_limit < KTCP_BLOCK_SIZE)
        ktcp->config.hold_limit = KTCP_BLOCK_SIZE; /* less would take nothing */
    ktcp->pool = ktcp_pool_create();
    if (ktcp->pool) {
        ktcp->epoll = epoll_create1(EPOLL_CLOEXEC);
        if (ktcp->epoll >= 0) {
            *out = ktcp;
            return 0;
        }
        error = errno;
        ktcp_pool_unref(ktcp->pool);
    }
    free(ktcp);
    return -error;
}

void zh_ktcp_destroy(struct zh_ktcp *ktcp)
{
    while (ktcp->lingering)
        ktcp_stream_free(ktcp->lingering);
    close(ktcp->epoll);
    ktcp_pool_unref(ktcp->pool);
    free(ktcp);
}

unsigned zh_ktcp_poll(struct zh_ktcp *ktcp)
{
    struct epoll_event events[KTCP_EVENTS];
    int count = epoll_wait(ktcp->epoll, events, KTCP_EVENTS, 0);

    /* Each stream is there once, and none is freed but in its own step. */
    for (int i = 0; i < count; i++) {
        struct ktcp_stream *stream = events[i].data.ptr;
        if (stream->lingering)
            ktcp_linger_step(stream, events[i].events);
        else
            ktcp_flush(stream);
    }
    return ktcp->lingering_count;
}

int zh_ktcp_descriptor(const struct zh_ktcp *ktcp)
{
    return ktcp->epoll;
}

/* A copy of an address that is one; 0, -EINVAL or -EAFNOSUPPORT. */
static int check_address(const struct sockaddr *address, socklen_t length, union ktcp_address *copy)
{
    if (length < sizeof address->sa_family)
        return -EINVAL;
    if (address->sa_family != AF_INET && address->sa_family != AF_INET6)
        return -EAFNOSUPPORT;
    socklen_t size = address->sa_family == AF_INET ? sizeof copy->v4 : sizeof copy->v6;
    if (length < size)
        return -EINVAL;
    memset(copy, 0, sizeof *copy);
    memcpy(copy, address, size);
    return 0;
}

static socklen_t address_size(const union ktcp_address *address)
{
    return address->any.sa_family == AF_INET ? sizeof address->v4 : sizeof address->v6;
}

/* A socket with TCP_NODELAY, which accepted ones inherit. */
static int open_socket(sa_family_t family)
{
    int on = 1;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);

    if (fd < 0)
        return -errno;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

int zh_ktcp_listen(struct zh_ktcp *ktcp, const struct sockaddr *address, socklen_t length,
                   int backlog, struct zh_ktcp_listener **out)
{
    union ktcp_address own;
    int on = 1, result = check_address(address, length, &own);
    if (result < 0)
        return result;
    int fd = open_socket(own.any.sa_family);
    if (fd < 0)
        return fd;
    struct zh_ktcp_listener *listener = malloc(sizeof *listener);
    if (!listener) {
        close(fd);
        return -ENOMEM;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (own.any.sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    if (bind(fd, &own.any, address_size(&own)) < 0 ||
        listen(fd, backlog ? backlog : SOMAXCONN) < 0) {
        result = -errno;
        close(fd);
        free(listener);
        return result;
    }
    *listener = (struct zh_ktcp_listener){.ktcp = ktcp, .fd = fd};
    *out = listener;
    return 0;
}

int zh_ktcp_listener_address(const struct zh_ktcp_listener *listener,
                             struct sockaddr_storage *address)
{
    socklen_t length = sizeof *address;

    return getsockname(listener->fd, (struct sockaddr *)address, &length) < 0 ? -errno : 0;
}

int zh_ktcp_listener_descriptor(const struct zh_ktcp_listener *listener)
{
    return listener->fd;
}

int zh_ktcp_accept(struct zh_ktcp_listener *listener, struct zh_stream **out)
{
    union ktcp_address peer;
    int fd;

    do {
        socklen_t length = sizeof peer;
        memset(&peer, 0, sizeof peer);
        fd = accept4(listener->fd, &peer.any, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
        /* Errors of a connection that has ended meanwhile are not the listener's: accept(2). */
    } while (fd < 0 && (errno == EINTR || errno == ECONNABORTED || errno == EPROTO ||
                        errno == ENOPROTOOPT || errno == ENETDOWN || errno == ENETUNREACH ||
                        errno == EHOSTDOWN || errno == EHOSTUNREACH || errno == ENONET));
    if (fd < 0)
        return -errno;
    struct ktcp_stream *stream = ktcp_stream_create(listener->ktcp, fd, &peer, false);
    if (!stream) {
        close(fd);
        return -ENOMEM;
    }
    *out = &stream->stream;
    return 0;
}

void zh_ktcp_listener_close(struct zh_ktcp_listener *listener)
{
    close(listener->fd);
    free(listener);
}

int zh_ktcp_connect(struct zh_ktcp *ktcp, const struct sockaddr *address, socklen_t length,
                    struct zh_stream **out)
{
    union ktcp_address peer;
    int result = check_address(address, length, &peer);
    if (result < 0)
        return result;
    int fd = open_socket(peer.any.sa_family);
    if (fd < 0)
        return fd;
    bool connecting = connect(fd, &peer.any, address_size(&peer)) < 0;
    if (connecting && errno != EINPROGRESS) {
        result = -errno;
        close(fd);
        return result;
    }
    struct ktcp_stream *stream = ktcp_stream_create(ktcp, fd, &peer, connecting);
    if (!stream) {
        close(fd);
        return -ENOMEM;
    }
    *out = &stream->stream;
    return 0;
}

void ktcp_establish(struct ktcp_stream *stream)
{
    struct pollfd now = {.fd = stream->fd, .events = POLLOUT};

    if (poll(&now, 1, 0) <= 0)
        return;
    stream->connecting = false;
    ktcp_collect_error(stream);
    ktcp_shut_if_due(stream);
}
