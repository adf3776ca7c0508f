/* The inside of the streams over the kernel's TCP, shared by the files that make one mechanism
 * each. All of it belongs to the thread that runs the struct zh_ktcp, except blocks. */
#ifndef ZEROHOP_KTCP_INTERNAL_H
#define ZEROHOP_KTCP_INTERNAL_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "zerohop/ktcp.h"

/* --- blocks of received bytes (block.c) ------------------------------------------------------- */

enum {
    KTCP_BLOCK_SIZE = 64 * 1024, /* with its header: what malloc serves without mmap */
    KTCP_BLOCKS_KEPT = 64,       /* free blocks of a pool; more go back to malloc */
    KTCP_ALIGN = 64,             /* of segments: two of them share no cache line */
};

/* Free blocks. Lives until its owner and the last hold have let go. Any thread. */
struct ktcp_pool {
    pthread_mutex_t lock; /* guards free_list and free_count */
    struct ktcp_block *free_list;
    unsigned free_count;
    atomic_uint refs;
};

/* What one stream keeps of blocks: `refs` is one for the stream and one for each of its blocks. It
 * outlives the stream where segments do. */
struct ktcp_hold {
    struct ktcp_pool *pool; /* one reference */
    atomic_uint refs;
};

struct ktcp_block {
    union {
        struct ktcp_hold *hold;  /* in use */
        struct ktcp_block *next; /* free */
    };
    atomic_uint refs; /* one for each segment, one for the stream that fills it */
    uint8_t data[KTCP_BLOCK_SIZE - KTCP_ALIGN] __attribute__((aligned(KTCP_ALIGN)));
};

struct ktcp_pool *ktcp_pool_create(void);
void ktcp_pool_unref(struct ktcp_pool *pool);
struct ktcp_hold *ktcp_hold_create(struct ktcp_pool *pool);
void ktcp_hold_unref(struct ktcp_hold *hold);
static inline unsigned ktcp_hold_blocks(struct ktcp_hold *hold)
{
    return atomic_load_explicit(&hold->refs, memory_order_relaxed) - 1;
}
/* A block with one reference, or NULL. */
struct ktcp_block *ktcp_block_get(struct ktcp_hold *hold);
/* Any thread. */
void ktcp_block_unref(struct ktcp_block *block);
/* Whether all that was given out of it has been released: by whoever holds the last reference. */
static inline bool ktcp_block_is_ours(struct ktcp_block *block)
{
    /* Acquire: the readers are done with the bytes before they are written over. */
    return atomic_load_explicit(&block->refs, memory_order_acquire) == 1;
}

/* --- streams ---------------------------------------------------------------------------------- */

union ktcp_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* A record that was accepted and that the kernel has not taken whole. */
struct ktcp_record {
    struct ktcp_record *next;
    void (*release)(void *opaque);
    void *opaque;
    unsigned first, count; /* pieces[first] to [count - 1] are to be written, none of them empty */
    struct iovec pieces[]; /* a copy; the one at `first` begins where writing goes on */
};

struct ktcp_stream {
    struct zh_stream stream; /* first: it is what the caller has */
    struct zh_ktcp *ktcp;
    int fd;            /* owned */
    int error;         /* 0, or the negative errno with which it has failed */
    uint32_t watched;  /* what the epoll set waits for; 0: it is not in the set */
    bool connecting;   /* by connect, and not yet established */
    bool ended;        /* the peer has ended its direction, and all was taken */
    bool shut;         /* by zh_stream_shutdown: nothing more is accepted */
    bool shut_done;    /* ... and the kernel knows */
    bool lingering;    /* closed; the struct zh_ktcp writes what is queued, then frees it */
    uint64_t written;  /* bytes the kernel has taken */
    uint64_t taken;    /* bytes given out in segments */
    uint64_t queued;   /* bytes in the queue */
    size_t queue_cost; /* memory of the queue itself */
    struct ktcp_record *queue, **queue_end;
    struct ktcp_hold *hold;
    struct ktcp_block *block; /* being filled, one reference; or NULL */
    size_t filled;            /* of its data */
    union ktcp_address local, peer;
    struct ktcp_stream *next, **link; /* among those that linger */
};

struct zh_ktcp {
    struct zh_ktcp_config config; /* defaults filled in */
    int epoll;                    /* of the streams that have something queued; owned */
    struct ktcp_pool *pool;
    struct ktcp_stream *lingering;
    unsigned lingering_count;
};

extern const struct zh_stream_ops ktcp_stream_ops;

/* A stream of a socket, non-blocking, which it owns from then on; NULL for want of memory. */
struct ktcp_stream *ktcp_stream_create(struct zh_ktcp *ktcp, int fd, const union ktcp_address *peer,
                                       bool connecting);
/* Free it and close its socket; its queue is empty, or is cut short by a reset. */
void ktcp_stream_free(struct ktcp_stream *stream);
/* The stream has failed with a (positive) errno: its records are released. The first one stays. */
void ktcp_fail(struct ktcp_stream *stream, int error);
/* The kernel's error, which it tells once, if there is one: it is kept, and the stream has failed.
 */
void ktcp_collect_error(struct ktcp_stream *stream);
/* End the kernel's sending direction, if that is due. */
void ktcp_shut_if_due(struct ktcp_stream *stream);
/* One that was closed and has something queued: `events` of epoll. May free it. */
void ktcp_linger_step(struct ktcp_stream *stream, uint32_t events);

/* send.c: see zh_stream_send. */
int ktcp_send(struct zh_stream *stream, const struct zh_stream_record *records, unsigned count);
/* Write what the kernel takes, within a bound that keeps one stream from holding up others. */
void ktcp_flush(struct ktcp_stream *stream);
/* Whether zh_stream_send accepts a record, as to the limit. */
bool ktcp_has_room(const struct ktcp_stream *stream);
/* Release what is queued. */
void ktcp_drop_queue(struct ktcp_stream *stream);
/* Wait in the epoll set for `events`; 0: for nothing. */
void ktcp_watch(struct ktcp_stream *stream, uint32_t events);

/* receive.c: see zh_stream_take. */
int ktcp_take(struct zh_stream *stream, struct zh_stream_segment *segments, unsigned count);
/* Whether there may be a place for received bytes. */
bool ktcp_has_place(struct ktcp_stream *stream);

/* connect.c: look whether the connection is established. */
void ktcp_establish(struct ktcp_stream *stream);

#endif
