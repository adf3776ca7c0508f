/*
 * Memory of peers that this process may hand on to others: every segment that a peer has shown us,
 * under a number of ours that means the same on all our links.
 *
 * One list for the process, under the lock that holds off forks; short, and looked at when a
 * segment is shown to a peer for the first time.
 */
#ifndef ZEROHOP_SHM_FOREIGN_H
#define ZEROHOP_SHM_FOREIGN_H

#include <stddef.h>
#include <stdint.h>

#include "message.h"

/* Owners and hops between whom memory is handed on; further on it is copied. */
#define ZH_LIFELINES (ZH_MESSAGE_FDS - 1)

struct zh_foreign {
    uint32_t id; /* with ZH_REF_FOREIGN */
    uint32_t fork_generation;
    struct zh_link *from; /* whose peer showed it, and as what; it outlives the entry */
    uint32_t segment;
    int fd; /* the memfd, or -1: for nobody but its owner */
    uint64_t bytes;
    int lifelines[ZH_LIFELINES]; /* of the links behind `from`, see segments.c */
    int lifeline_count;
    struct zh_foreign *next;
};

/*
 * Enter a segment that `link`'s peer has shown with `fds`: its memfd and lifelines, which stay the
 * caller's. NULL when out of memory or numbers; without descriptors the entry has none.
 */
struct zh_foreign *zh_foreign_add(struct zh_link *link, uint32_t segment, uint64_t bytes,
                                  const int *fds, int count);
void zh_foreign_remove(struct zh_foreign *foreign);

/* The entry of a number, or NULL. Between zh_fork_lock and zh_fork_unlock. */
struct zh_foreign *zh_foreign_find(uint32_t id);

/* How many entries have been removed; whoever was shown one of them is to be told. */
uint32_t zh_foreign_removed(void);

#endif
