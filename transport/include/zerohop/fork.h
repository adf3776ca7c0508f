/*
 * What a forked child must not touch. Every shared mapping and every descriptor of a link is
 * tracked; the at-fork handler closes the descriptors and lays private zero pages over the
 * mappings, so that views taken before the fork read zeros and the parent's peers never hear from
 * the child.
 */
#ifndef ZEROHOP_FORK_H
#define ZEROHOP_FORK_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "zerohop/api.h"

/*
 * Counts the forks between the first process and this one. Objects remember the value they were
 * made under; one made under another value belongs to an ancestor and may only be dropped.
 */
ZH_API extern _Atomic uint32_t zh_fork_generation;

static inline uint32_t zh_fork_now(void)
{
    return atomic_load_explicit(&zh_fork_generation, memory_order_relaxed);
}

/* Hold off forks while a process-wide list is changed. No other call of this header meanwhile. */
ZH_API void zh_fork_lock(void);
ZH_API void zh_fork_unlock(void);

ZH_API int zh_fork_track_mapping(void *base, size_t size);
ZH_API void zh_fork_untrack_mapping(void *base);
ZH_API int zh_fork_track_fd(int fd);
/* For an fd that somebody else is about to close. */
ZH_API void zh_fork_untrack_fd(int fd);
/* Untrack and close. The fd is gone either way. */
ZH_API void zh_fork_close_fd(int fd);

#endif
