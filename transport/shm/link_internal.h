/* The inside of a link, shared by the files that make one mechanism each. */
#ifndef ZEROHOP_SHM_LINK_INTERNAL_H
#define ZEROHOP_SHM_LINK_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "message.h"
#include "zerohop/link.h"
#include "zerohop/ring.h"

/* A segment that the peer has shown: of its arena, of somebody else's, or of ours. */
struct zh_peer_segment {
    uint32_t id;  /* 0: free entry */
    uint32_t own; /* what we have shown, and the peer calls `id`; then there is no mapping */
    struct zh_mapping mapping;
    struct zh_foreign *foreign; /* by which it may be handed on, or NULL */
};

/* Segments of other peers that are shown on one link at a time. */
#define ZH_SHARED_SEGMENTS 64
#define ZH_LINK_SEGMENTS (ZH_ARENA_SEGMENTS + ZH_SHARED_SEGMENTS)

struct zh_link {
    _Atomic uint32_t refs;
    uint32_t fork_generation;
    bool client;
    bool detached;   /* no longer in the pump */
    bool lingering;  /* closed by us, in the pump until the peer has ended its side too */
    bool reading;    /* closed by us, and records are held: the socket is shut when they are not */
    bool peer_reads; /* dead, but what we lent is the peer's until the socket ends */
    bool closed;     /* zh_link_close was called: nothing more is delivered */
    bool mourning;   /* the peer is gone, and the pump watches the lifeline in its place */
    bool drain;      /* dead by the peer's end: what it posted before is still delivered */
    uint64_t drain_head;    /* ... up to here: the peer's process may live on, and post on */
    _Atomic uint32_t state; /* enum zh_link_state */
    pthread_mutex_t lock;   /* guards the producing half, the ledger, closing */

    struct zh_pump *pump;
    struct zh_link *next_orphan;
    uint64_t key;
    int socket;
    int pidfd;
    int bell;      /* the peer writes it, our pump polls it; -1: bells come through the socket */
    int peer_bell; /* we write it; -1: through the socket */
    pid_t pid;
    uid_t uid;
    uint64_t greeted_by; /* time by which the hello must have come */

    struct zh_segment own;       /* struct zh_side */
    struct zh_mapping peer;      /* the peer's struct zh_side */
    struct zh_mapping peer_page; /* the epoch of the peer's pump */

    /* Producing half. */
    uint64_t head;      /* slots posted */
    uint64_t tail_seen; /* the peer's tail when last looked at */
    uint64_t return_head;
    uint64_t return_tail_seen;
    _Atomic bool want_space;    /* somebody waits for slots: look at the peer's tail, too */
    _Atomic uint64_t want_tail; /* ... whether it has moved from here */
    uint32_t rung_epoch;        /* the epoch of the peer for which we rang last */
    struct zh_arena *arena;
    struct zh_ledger ledger;
    uint32_t sent[ZH_ARENA_SEGMENTS];    /* ids of our segments that the peer has; 0: free entry */
    uint32_t shared[ZH_SHARED_SEGMENTS]; /* and of others', which we have handed on */
    _Atomic uint32_t gone;               /* how many segments had gone when we last told the peer */
    int lifeline;                        /* the end that we keep, see segments.c; -1 */
    bool no_lifeline;                    /* there was no descriptor for one */

    /* Consuming half. The tails are atomic for zh_link_ready, which any thread may call; whoever
     * holds the pump alone moves them. */
    _Atomic uint64_t tail;
    uint64_t tail_published;
    _Atomic uint64_t return_tail;
    struct zh_peer_segment segments[ZH_LINK_SEGMENTS];
    int peer_lifeline;    /* the end that the peer has given us; -1 */
    uint32_t held_back;   /* of these, such as refer to what we have lent */
    bool reclaims;        /* the peer is gone: that comes back when they are let go */
    uint32_t held;        /* records whose loans are kept: what they refer to stays mapped */
    uint32_t grave_count; /* segments that the peer has dropped meanwhile */
    struct zh_mapping graves[ZH_LINK_SEGMENTS];

    uint32_t *allow_uids;
    size_t allow_uids_count;
    char agent[ZH_AGENT_BYTES]; /* ours, for the hello */
    char peer_agent[ZH_AGENT_BYTES];
    char error[256];
};

/* So many calls of zh_link_serve read whatever a socket's buffer can hold. */
#define ZH_LINK_SERVES 32

static inline uint64_t zh_link_tail(const _Atomic uint64_t *tail)
{
    return atomic_load_explicit(tail, memory_order_relaxed);
}

/* Not a read-modify-write: there is one writer. */
static inline void zh_link_advance(_Atomic uint64_t *tail, uint64_t by)
{
    atomic_store_explicit(tail, zh_link_tail(tail) + by, memory_order_relaxed);
}

static inline struct zh_side *zh_link_own(const struct zh_link *link)
{
    return (struct zh_side *)(void *)link->own.base;
}

static inline const struct zh_side *zh_link_peer(const struct zh_link *link)
{
    return (const struct zh_side *)(const void *)link->peer.base;
}

/* A link with its own side of the memory, not yet in a pump. `socket` is the link's from here on.
 */
struct zh_link *zh_link_new(struct zh_pump *pump, int socket, bool client,
                            const struct zh_link_options *options, int *error);

/* Take over what a checked hello brought: map, and be ready to post. The fds stay the caller's. */
int zh_link_adopt(struct zh_link *link, const struct zh_hello *hello, const int *fds, int count);

/* Ring the peer's doorbell, whatever its epoch. */
void zh_link_ring(struct zh_link *link);

/* With the lock held: take what comes back to a link that lingers; false for what cannot be. */
bool zh_link_last_returns(struct zh_link *link);

/* With the lock held: have the peer ring when it gives back what others wait for. */
void zh_link_want_held(struct zh_link *link);

/* segments.c. With the lock held: the peer must know the segment before a record refers to it. */
int zh_link_send_segment(struct zh_link *link, uint32_t id);
/* Tell the peer which segments are gone; false where its socket is full. With the lock held. */
bool zh_link_drop_segments(struct zh_link *link);
void zh_link_on_segment(struct zh_link *link, const struct zh_message *message);
void zh_link_on_yours(struct zh_link *link, const struct zh_message *message);
void zh_link_on_lifeline(struct zh_link *link, const struct zh_message *message);
void zh_link_on_dropped(struct zh_link *link, uint32_t id);
/* The peer is gone or about to be: may others still read what we have lent to it? */
bool zh_link_is_read_on(const struct zh_link *link);
/* Unmap what the peer has dropped and nobody reads any more; all that it has shown. */
void zh_link_close_graves(struct zh_link *link);
void zh_link_close_segments(struct zh_link *link);
/* Nothing that the peer has shown is read any more, nor will be. */
void zh_link_close_lifelines(struct zh_link *link);

/* Handle one message of an open link. */
void zh_link_on_message(struct zh_link *link, const struct zh_message *message);

/* Has the peer's process ended? */
bool zh_link_peer_exited(const struct zh_link *link);

/*
 * The link is dead, by the peer's end (`drain`: what it posted before is still delivered) or
 * because it broke the rules. Takes the lock.
 */
void zh_link_die(struct zh_link *link, bool drain, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
