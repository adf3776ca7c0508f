/* Receiving: the kernel's bytes into blocks, a segment for each recv. */
#include <errno.h>

#include "ktcp_internal.h"

/* What is left of a block is worth a recv from here on. */
enum { KTCP_MIN_ROOM = 4096 };

static void release_segment(struct zh_stream_segment *segment)
{
    ktcp_block_unref(segment->owner);
}

static bool block_has_room(struct ktcp_stream *stream)
{
    if (!stream->block)
        return false;
    if (ktcp_block_is_ours(stream->block))
        stream->filled = 0;
    return sizeof stream->block->data - stream->filled >= KTCP_MIN_ROOM;
}

bool ktcp_has_place(struct ktcp_stream *stream)
{
    size_t limit = stream->ktcp->config.hold_limit;

    /* A full block that is left behind still counts as held. */
    return block_has_room(stream) ||
           (size_t)(ktcp_hold_blocks(stream->hold) + 1) * KTCP_BLOCK_SIZE <= limit;
}

/* 0, -EAGAIN at the limit, -ENOMEM. */
static int make_room(struct ktcp_stream *stream)
{
    if (block_has_room(stream))
        return 0;
    if (!ktcp_has_place(stream))
        return -EAGAIN;
    if (stream->block)
        ktcp_block_unref(stream->block);
    stream->filled = 0;
    stream->block = ktcp_block_get(stream->hold);
    return stream->block ? 0 : -ENOMEM;
}

/* A stream that has nothing to take keeps no block, so that idle ones cost none. */
static void leave_empty_block(struct ktcp_stream *stream)
{
    if (stream->block && ktcp_block_is_ours(stream->block)) {
        ktcp_block_unref(stream->block);
        stream->block = NULL;
    }
}

/* One segment: 1; none: 0, when the end has come, or a negative errno. A failed stream still gives
 * what had been received before. `whole`: the room was filled, so there may be more. */
static int take_one(struct ktcp_stream *stream, struct zh_stream_segment *segment, bool *whole)
{
    int result = make_room(stream);
    if (result < 0)
        return result;

    struct ktcp_block *block = stream->block;
    uint8_t *data = block->data + stream->filled;
    size_t room = sizeof block->data - stream->filled;
    ssize_t got;
    do
        got = recv(stream->fd, data, room, MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    if (got > 0) {
        atomic_fetch_add_explicit(&block->refs, 1, memory_order_relaxed);
        *segment = (struct zh_stream_segment){
            .data = data, .size = (size_t)got, .release = release_segment, .owner = block};
        stream->filled += ((size_t)got + KTCP_ALIGN - 1) & ~(size_t)(KTCP_ALIGN - 1);
        stream->taken += (uint64_t)got;
        *whole = (size_t)got == room;
        return 1;
    }
    if (got == 0)
        stream->ended = true;
    else if (errno == ENOMEM || errno == ENOBUFS)
        result = -errno;
    else if (errno == EAGAIN || errno == EWOULDBLOCK)
        result = -EAGAIN;
    else {
        ktcp_fail(stream, errno);
        result = stream->error;
    }
    leave_empty_block(stream);
    return result;
}

int ktcp_take(struct zh_stream *base, struct zh_stream_segment *segments, unsigned count)
{
    struct ktcp_stream *stream = (struct ktcp_stream *)base;
    unsigned taken = 0;
    int result = 0;

    if (stream->connecting)
        ktcp_establish(stream);
    if (stream->connecting)
        return -EAGAIN;
    for (bool whole = true; taken < count && whole && !stream->ended; taken++) {
        result = take_one(stream, &segments[taken], &whole);
        if (result <= 0)
            break;
    }
    if (taken)
        return (int)taken;
    /* At the limit there may be segments yet, which come before the error. */
    if (stream->error && (result != -EAGAIN || ktcp_has_place(stream)))
        return stream->error;
    return result;
}
