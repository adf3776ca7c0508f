/* The stream: readiness, failure, shutdown, close and what is left to be written after it. */
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "ktcp_internal.h"

/* How long a closed stream's peer may make no progress, in ms. */
enum { KTCP_LINGER_MS = 60 * 1000 };

struct ktcp_stream *ktcp_stream_create(struct zh_ktcp *ktcp, int fd, const union ktcp_address *peer,
                                       bool connecting)
{
    struct ktcp_stream *stream = calloc(1, sizeof *stream);
    socklen_t length = sizeof stream->local;

    if (!stream)
        return NULL;
    stream->hold = ktcp_hold_create(ktcp->pool);
    if (!stream->hold) {
        free(stream);
        return NULL;
    }
    stream->stream.ops = &ktcp_stream_ops;
    stream->ktcp = ktcp;
    stream->fd = fd;
    stream->connecting = connecting;
    stream->queue_end = &stream->queue;
    stream->peer = *peer;
    /* Now, since the kernel forgets it with the connection. It fails for no socket of ours. */
    getsockname(fd, &stream->local.any, &length);
    return stream;
}

/* close(2) then sends a reset. */
static void set_reset(int fd)
{
    struct linger now = {.l_onoff = 1};

    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

void ktcp_stream_free(struct ktcp_stream *stream)
{
    if (stream->lingering) {
        *stream->link = stream->next;
        if (stream->next)
            stream->next->link = stream->link;
        stream->ktcp->lingering_count--;
    }
    if (stream->queue) {
        set_reset(stream->fd);
        ktcp_drop_queue(stream);
    }
    /* Not left to close(2): a forked child may have the socket too. */
    ktcp_watch(stream, 0);
    close(stream->fd);
    if (stream->block)
        ktcp_block_unref(stream->block);
    ktcp_hold_unref(stream->hold);
    free(stream);
}

void ktcp_fail(struct ktcp_stream *stream, int error)
{
    if (stream->error)
        return;
    stream->error = -error;
    if (stream->queue) {
        set_reset(stream->fd); /* for want of memory, say: the connection itself may still stand */
        ktcp_drop_queue(stream);
    }
    if (stream->watched)
        ktcp_watch(stream, 0);
}

void ktcp_collect_error(struct ktcp_stream *stream)
{
    int error = 0;
    socklen_t size = sizeof error;

    if (getsockopt(stream->fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error)
        ktcp_fail(stream, error);
}

void ktcp_shut_if_due(struct ktcp_stream *stream)
{
    if (!stream->shut || stream->shut_done || stream->connecting || stream->queue || stream->error)
        return;
    stream->shut_done = true;
    if (shutdown(stream->fd, SHUT_WR) == 0)
        return;
    int error = errno; /* ENOTCONN, of a connection that is gone: why, the kernel may know */
    ktcp_collect_error(stream);
    ktcp_fail(stream, error);
}

static int stream_shutdown(struct zh_stream *base)
{
    struct ktcp_stream *stream = (struct ktcp_stream *)base;

    if (!stream->error && !stream->shut) {
        stream->shut = true;
        ktcp_shut_if_due(stream);
    }
    return stream->error;
}

static unsigned stream_ready(struct zh_stream *base)
{
    struct ktcp_stream *stream = (struct ktcp_stream *)base;
    struct pollfd now = {.fd = stream->fd, .events = POLLIN | POLLOUT | POLLRDHUP};
    unsigned ready = 0;

    if (stream->connecting)
        ktcp_establish(stream);
    if (stream->connecting)
        return 0;
    if (poll(&now, 1, 0) < 0)
        now.revents = 0;
    if (now.revents & POLLERR)
        ktcp_collect_error(stream);
    if (now.revents & POLLOUT && stream->queue)
        ktcp_flush(stream);
    if (stream->error)
        return ZH_STREAM_IN | ZH_STREAM_HUP | ZH_STREAM_ERR;
    if (stream->ended || (now.revents & (POLLIN | POLLRDHUP) && ktcp_has_place(stream)))
        ready |= ZH_STREAM_IN;
    if (!stream->shut && ktcp_has_room(stream))
        ready |= ZH_STREAM_OUT;
    if (now.revents & POLLHUP)
        ready |= ZH_STREAM_HUP;
    return ready;
}

static int stream_descriptor(struct zh_stream *base)
{
    return ((struct ktcp_stream *)base)->fd;
}

/* Whether received bytes wait; the peer's end is none. */
static bool has_unread(const struct ktcp_stream *stream)
{
    int size = 0;

    return ioctl(stream->fd, SIOCINQ, &size) == 0 && size > 0;
}

/* Whether closing now means a reset, so that what is queued is not sent: RFC 9293 section 3.6.1,
 * and socket(7) of SO_LINGER. */
static bool close_resets(const struct ktcp_stream *stream)
{
    struct linger linger = {0};
    socklen_t size = sizeof linger;

    return has_unread(stream) ||
           (getsockopt(stream->fd, SOL_SOCKET, SO_LINGER, &linger, &size) == 0 && linger.l_onoff &&
            !linger.l_linger);
}

static void stream_close(struct zh_stream *base)
{
    struct ktcp_stream *stream = (struct ktcp_stream *)base;
    struct zh_ktcp *ktcp = stream->ktcp;
    unsigned limit = KTCP_LINGER_MS;

    if (!stream->queue || close_resets(stream)) {
        ktcp_stream_free(stream);
        return;
    }
    if (stream->block) {
        ktcp_block_unref(stream->block);
        stream->block = NULL;
    }
    setsockopt(stream->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &limit, sizeof limit);
    stream->lingering = true;
    stream->next = ktcp->lingering;
    stream->link = &ktcp->lingering;
    if (stream->next)
        stream->next->link = &stream->next;
    ktcp->lingering = stream;
    ktcp->lingering_count++;
    ktcp_watch(stream, EPOLLIN | EPOLLOUT);
    if (stream->error)
        ktcp_stream_free(stream);
}

void ktcp_linger_step(struct ktcp_stream *stream, uint32_t events)
{
    bool over = events & (EPOLLERR | EPOLLHUP);

    if (!over && events & EPOLLIN) {
        if (has_unread(stream))
            over = true;
        else
            ktcp_watch(stream, EPOLLOUT); /* it was the peer's end: nothing more can come */
    }
    if (!over)
        ktcp_flush(stream);
    if (over || !stream->queue)
        ktcp_stream_free(stream);
}

static void copy_address(struct sockaddr_storage *to, const union ktcp_address *from)
{
    memset(to, 0, sizeof *to);
    memcpy(to, from, sizeof *from);
}

static void stream_info(struct zh_stream *base, struct zh_stream_info *info)
{
    struct ktcp_stream *stream = (struct ktcp_stream *)base;
    struct tcp_info tcp = {0};
    socklen_t size = sizeof tcp;
    int unread = 0, unacknowledged = 0;

    *info = (struct zh_stream_info){0};
    copy_address(&info->local, &stream->local);
    copy_address(&info->peer, &stream->peer);
    ioctl(stream->fd, SIOCINQ, &unread);
    ioctl(stream->fd, SIOCOUTQ, &unacknowledged);
    /* The end of the direction is one octet of sequence space (RFC 9293 section 3.4), the last. */
    if (stream->shut_done && unacknowledged > 0)
        unacknowledged--;
    if (unacknowledged < 0 || (uint64_t)unacknowledged > stream->written)
        unacknowledged = 0;
    info->bytes_sent = stream->written - (uint64_t)unacknowledged;
    info->bytes_queued = stream->queued + (uint64_t)unacknowledged;
    info->bytes_received = stream->taken + (uint64_t)(unread > 0 ? unread : 0);
    if (getsockopt(stream->fd, IPPROTO_TCP, TCP_INFO, &tcp, &size) == 0) {
        info->retransmissions = tcp.tcpi_total_retrans;
        info->rtt_us = tcp.tcpi_rtt;
        info->mss = tcp.tcpi_snd_mss;
    }
}

const struct zh_stream_ops ktcp_stream_ops = {
    .send = ktcp_send,
    .take = ktcp_take,
    .ready = stream_ready,
    .descriptor = stream_descriptor,
    .shutdown = stream_shutdown,
    .close = stream_close,
    .info = stream_info,
};
