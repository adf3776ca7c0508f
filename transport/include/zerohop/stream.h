/* A byte stream between two nodes: what the wire sees of TCP, whoever provides it.
 *
 * Two providers: this project's own stack (net.h, zh_net_stream) and the kernel's TCP (ktcp.h).
 * Connecting and listening are the provider's; everything after that is here.
 *
 * Threads: one thread at a time calls the functions of a stream, the one that runs its provider
 * (for the stack: the thread that polls it). zh_stream_release alone may be called from any thread.
 *
 * Errors are returned as negative errno values: -EAGAIN (nothing now; see zh_stream_ready),
 * -EPIPE (sending after zh_stream_shutdown, or to a peer that has gone), -ECONNRESET, -ETIMEDOUT,
 * -EHOSTUNREACH and their like. A stream that has failed gives its error once more on every call.
 */
#ifndef ZEROHOP_STREAM_H
#define ZEROHOP_STREAM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "zerohop/api.h"

/* What is sent by reference. The pieces are the caller's memory and stay as they are until
 * `release` has been called; the array of pieces and the record itself may go when zh_stream_send
 * returns.
 *
 * `release` is called exactly once for each record that was accepted, when nothing will read the
 * memory again: it is acknowledged (or the stream has failed) and the device has let go. It is
 * called by the thread that calls the stream's or its provider's functions, inside such a call, and
 * may itself call none of them. Records are released in no particular order, and possibly after
 * zh_stream_close. NULL: the memory outlives the stream's provider. */
struct zh_stream_record {
    const struct iovec *pieces;
    unsigned piece_count;
    void (*release)(void *opaque);
    void *opaque;
};

/* Received bytes, in the memory in which they arrived. Read-only, valid until released, also after
 * the stream was closed. */
struct zh_stream_segment {
    const uint8_t *data;
    size_t size;
    void (*release)(struct zh_stream_segment *segment);
    void *owner; /* the provider's, as `release` is */
};

enum {
    ZH_STREAM_IN = 1,  /* zh_stream_take gives segments, the end of the stream, or an error */
    ZH_STREAM_OUT = 2, /* zh_stream_send accepts a record */
    ZH_STREAM_HUP = 4, /* both directions have ended */
    ZH_STREAM_ERR = 8, /* the stream has failed */
};

struct zh_stream_info {
    struct sockaddr_storage local, peer;
    uint64_t bytes_sent; /* acknowledged by the peer; the kernel's: handed to it and acknowledged */
    uint64_t bytes_queued;    /* accepted and not yet acknowledged */
    uint64_t bytes_received;  /* taken, or there to be taken */
    uint64_t bytes_copied;    /* of both directions, by us: not inside the kernel or a driver */
    uint64_t retransmissions; /* segments */
    uint32_t rtt_us;          /* smoothed; 0: not yet known */
    uint32_t mss;             /* payload bytes of a full segment */
};

struct zh_stream;

/* What a provider fills in. The functions below call these; their contracts are stated there. */
struct zh_stream_ops {
    int (*send)(struct zh_stream *stream, const struct zh_stream_record *records, unsigned count);
    int (*take)(struct zh_stream *stream, struct zh_stream_segment *segments, unsigned count);
    unsigned (*ready)(struct zh_stream *stream);
    int (*descriptor)(struct zh_stream *stream);
    int (*shutdown)(struct zh_stream *stream);
    void (*close)(struct zh_stream *stream);
    void (*info)(struct zh_stream *stream, struct zh_stream_info *info);
};

struct zh_stream {
    const struct zh_stream_ops *ops;
};

/* Queue records to be sent, in order. Returns how many were accepted, each of them whole: a record
 * is never split between two calls, and one of any size is accepted while the queue is below its
 * limit. -EAGAIN where none was: ZH_STREAM_OUT tells when to try again. Records that were not
 * accepted are the caller's still. A record that fits in a segment is not spread over two. */
static inline int zh_stream_send(struct zh_stream *stream, const struct zh_stream_record *records,
                                 unsigned count)
{
    return stream->ops->send(stream, records, count);
}

/* Take up to `count` received segments, none of them empty. 0: the peer has ended its direction and
 * everything before that was taken. -EAGAIN: nothing yet. Segments that were received before an
 * error are given before the error. */
static inline int zh_stream_take(struct zh_stream *stream, struct zh_stream_segment *segments,
                                 unsigned count)
{
    return stream->ops->take(stream, segments, count);
}

/* Give back a segment. Any thread; once. Segments that are not given back close the receive window.
 */
static inline void zh_stream_release(struct zh_stream_segment *segment)
{
    segment->release(segment);
}

/* ZH_STREAM_* as it stands now. */
static inline unsigned zh_stream_ready(struct zh_stream *stream)
{
    return stream->ops->ready(stream);
}

/* A descriptor that epoll can wait on, the stream's own; -1 where the provider is polled instead.
 */
static inline int zh_stream_descriptor(struct zh_stream *stream)
{
    return stream->ops->descriptor(stream);
}

/* End the sending direction: what was accepted is sent, then the end. Receiving goes on. 0 or an
 * error; a second call does nothing. */
static inline int zh_stream_shutdown(struct zh_stream *stream)
{
    return stream->ops->shutdown(stream);
}

/* End the stream and free it. What was accepted is still sent, as close(2) does; if received data
 * was not taken, or more arrives, the peer gets a reset (RFC 9293 section 3.6.1). */
static inline void zh_stream_close(struct zh_stream *stream)
{
    stream->ops->close(stream);
}

static inline void zh_stream_info(struct zh_stream *stream, struct zh_stream_info *info)
{
    stream->ops->info(stream, info);
}

#endif
