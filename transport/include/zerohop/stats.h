/*
 * Counters of this process. Added to with relaxed atomics from any thread; they only grow.
 * A forked child goes on from its parent's values.
 */
#ifndef ZEROHOP_STATS_H
#define ZEROHOP_STATS_H

#include <stdatomic.h>
#include <stdint.h>

#include "zerohop/api.h"

/* X(ENUMERATOR, field). New counters go to the end; shm_build.py and _native.pyi name them too. */
#define ZH_STATS(X)                                                                                \
    X(BLOCKS_LENT, blocks_lent)         /* blocks of our arena lent to peers */                    \
    X(BLOCKS_RETURNED, blocks_returned) /* ... and given back, or taken back at a peer's death */  \
    X(BYTES_BUILT, bytes_built)         /* copied into messages by assignment and parsing */       \
    X(BYTES_INLINED, bytes_inlined)     /* root images that travelled inside a ring */             \
    X(BYTES_COPIED, bytes_copied)       /* every other copy between the call and its reader */     \
    X(WAKEUPS, wakeups)                 /* doorbells rung: the peer was asleep */                  \
    X(SPINS, spins)                     /* waits that spun before they saw progress or slept */    \
    X(CALLS_STARTED, calls_started)     /* calls posted by this process as a client */             \
    X(CALLS_HANDLED, calls_handled)     /* calls taken by this process as a server */              \
    X(LINKS_OPENED, links_opened)                                                                  \
    X(LINKS_CLOSED, links_closed)                                                                  \
    X(STREAMS_MESSAGES_SENT, streams_messages_sent)                                                \
    X(STREAMS_MESSAGES_RECEIVED, streams_messages_received)

enum zh_stat {
#define X(name, field) ZH_STAT_##name,
    ZH_STATS(X)
#undef X
        ZH_STAT_COUNT
};

struct zh_stats {
    _Alignas(64) _Atomic uint64_t counter[ZH_STAT_COUNT];
};

struct zh_stats_snapshot {
#define X(name, field) uint64_t field;
    ZH_STATS(X)
#undef X
};

ZH_API extern struct zh_stats zh_stats;

static inline void zh_stat_add(enum zh_stat stat, uint64_t n)
{
    atomic_fetch_add_explicit(&zh_stats.counter[stat], n, memory_order_relaxed);
}

/* Each counter is read atomically; the snapshot as a whole is not one instant. */
ZH_API void zh_stats_read(struct zh_stats_snapshot *out);

#endif
