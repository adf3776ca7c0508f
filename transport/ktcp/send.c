/* Sending: the queue of records that the kernel has not taken, and writing it on. */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "ktcp_internal.h"

enum {
    KTCP_PIECES = 128,                /* of one sendmsg */
    KTCP_WRITE_SIZE = 1024 * 1024,    /* of one sendmsg, at most */
    KTCP_TURN_SIZE = 4 * 1024 * 1024, /* of one flush, about: then others have their turn */
};

static size_t record_cost(const struct ktcp_record *record)
{
    return sizeof *record + record->count * sizeof record->pieces[0];
}

bool ktcp_has_room(const struct ktcp_stream *stream)
{
    /* The cost as well, so that empty records and tiny pieces do not queue without limit. */
    size_t limit = stream->ktcp->config.queue_limit;
    return stream->queued < limit && stream->queue_cost < limit;
}

void ktcp_watch(struct ktcp_stream *stream, uint32_t events)
{
    if (stream->watched == events)
        return;
    struct epoll_event event = {.events = events, .data.ptr = stream};
    int operation = !events ? EPOLL_CTL_DEL : !stream->watched ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    stream->watched = events;
    if (epoll_ctl(stream->ktcp->epoll, operation, stream->fd, &event) == 0)
        return;
    /* Only adding can fail, for want of memory or at a limit of the system. Nobody would write on.
     */
    stream->watched = 0;
    ktcp_fail(stream, errno);
}

/* Take the first record from the queue and release it. */
static void finish_first(struct ktcp_stream *stream)
{
    struct ktcp_record *record = stream->queue;
    void (*release)(void *) = record->release;
    void *opaque = record->opaque;

    stream->queue = record->next;
    if (!stream->queue)
        stream->queue_end = &stream->queue;
    stream->queue_cost -= record_cost(record);
    free(record);
    if (release)
        release(opaque);
}

void ktcp_drop_queue(struct ktcp_stream *stream)
{
    while (stream->queue)
        finish_first(stream);
    stream->queued = 0;
}

/* 0 or -ENOMEM. */
static int enqueue(struct ktcp_stream *stream, const struct zh_stream_record *from)
{
    struct ktcp_record *record =
        malloc(sizeof *record + from->piece_count * sizeof record->pieces[0]);
    if (!record)
        return -ENOMEM;
    *record = (struct ktcp_record){.release = from->release, .opaque = from->opaque};
    for (unsigned i = 0; i < from->piece_count; i++) {
        if (!from->pieces[i].iov_len)
            continue;
        record->pieces[record->count++] = from->pieces[i];
        stream->queued += from->pieces[i].iov_len;
    }
    stream->queue_cost += record_cost(record);
    *stream->queue_end = record;
    stream->queue_end = &record->next;
    return 0;
}

/* The first bytes of the queue as at most KTCP_PIECES pieces and KTCP_WRITE_SIZE bytes. */
static unsigned gather(const struct ktcp_stream *stream, struct iovec *pieces, size_t *size)
{
    unsigned count = 0;

    *size = 0;
    for (const struct ktcp_record *record = stream->queue; record; record = record->next) {
        for (unsigned i = record->first; i < record->count; i++) {
            if (count == KTCP_PIECES || *size == KTCP_WRITE_SIZE)
                return count;
            pieces[count] = record->pieces[i];
            if (pieces[count].iov_len > KTCP_WRITE_SIZE - *size)
                pieces[count].iov_len = KTCP_WRITE_SIZE - *size;
            *size += pieces[count++].iov_len;
        }
    }
    return count;
}

/* The kernel has taken `size` bytes. */
static void advance(struct ktcp_stream *stream, size_t size)
{
    stream->written += size;
    stream->queued -= size;
    for (struct ktcp_record *record; (record = stream->queue);) {
        for (; record->first < record->count; record->first++) {
            struct iovec *piece = &record->pieces[record->first];
            if (size < piece->iov_len) {
                piece->iov_base = (char *)piece->iov_base + size;
                piece->iov_len -= size;
                return;
            }
            size -= piece->iov_len;
        }
        finish_first(stream);
    }
}

static void write_queue(struct ktcp_stream *stream)
{
    struct iovec pieces[KTCP_PIECES];

    for (size_t size, total = 0; total < KTCP_TURN_SIZE && stream->queue; total += size) {
        struct msghdr message = {.msg_iov = pieces, .msg_iovlen = gather(stream, pieces, &size)};
        ssize_t sent = 0;
        if (size) { /* 0: nothing but empty records */
            do
                sent = sendmsg(stream->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
            while (sent < 0 && errno == EINTR);
        }
        if (sent < 0) {
            /* Want of memory in the kernel passes: the epoll set tries again. */
            if (errno != EAGAIN && errno != EWOULDBLOCK && errno != ENOMEM && errno != ENOBUFS)
                ktcp_fail(stream, errno);
            return;
        }
        advance(stream, (size_t)sent);
        if ((size_t)sent < size)
            return;
    }
}

void ktcp_flush(struct ktcp_stream *stream)
{
    write_queue(stream);
    if (stream->error)
        return;
    if (!stream->queue)
        ktcp_watch(stream, 0);
    else if (!stream->watched)
        ktcp_watch(stream, EPOLLOUT);
    ktcp_shut_if_due(stream);
}

int ktcp_send(struct zh_stream *base, const struct zh_stream_record *records, unsigned count)
{
    struct ktcp_stream *stream = (struct ktcp_stream *)base;
    unsigned accepted = 0;

    if (stream->connecting)
        ktcp_establish(stream);
    if (stream->error)
        return stream->error;
    if (stream->shut)
        return -EPIPE;
    if (stream->connecting)
        return -EAGAIN;
    if (!ktcp_has_room(stream))
        ktcp_flush(stream);
    while (accepted < count && !stream->error && ktcp_has_room(stream)) {
        do {
            if (enqueue(stream, &records[accepted]) < 0) {
                ktcp_flush(stream);
                return accepted ? (int)accepted : -ENOMEM;
            }
        } while (++accepted < count && ktcp_has_room(stream));
        ktcp_flush(stream);
    }
    if (accepted || !count)
        return (int)accepted;
    return stream->error ? stream->error : -EAGAIN;
}
