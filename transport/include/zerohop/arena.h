/*
 * Arenas: where a process builds what it lends. One per process and trust domain, shared by its
 * links.
 *
 * All bookkeeping is in private memory; the segments hold payload only. Blocks are whole pages.
 * Thread-safe: every call takes the arena's mutex; nobody takes the GIL while holding it.
 */
#ifndef ZEROHOP_ARENA_H
#define ZEROHOP_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "zerohop/api.h"
#include "zerohop/segment.h"

#define ZH_PAGE 4096u
#define ZH_ARENA_FIRST_SEGMENT ((size_t)2 << 20)
#define ZH_ARENA_LARGEST_SEGMENT ((size_t)64 << 20)
/* Segments alive at once in one arena; also the bound on what a peer may ask a receiver to map. */
#define ZH_ARENA_SEGMENTS 128

struct zh_arena;

/* A block of whole pages. `segment` and `page` name it to every reader; `data` is the owner's view.
 */
struct zh_block {
    uint32_t segment; /* id, never reused while the process lives */
    uint32_t page;    /* first page in the segment */
    uint32_t pages;
    bool blob; /* of one thing, which programs may have views of: see zh_arena_protect */
    uint8_t *data;
};

struct zh_arena_usage {
    uint64_t limit;
    uint64_t committed; /* bytes of all segments */
    uint64_t used;      /* bytes of all blocks in use */
    uint32_t segments;
};

/*
 * Default limit: ZEROHOP_ARENA_LIMIT (bytes) where the environment has it, else min(1 GiB, 1/8 of
 * available memory, 1/8 of what the cgroup still allows).
 */
ZH_API uint64_t zh_arena_default_limit(void);

/* `limit` in bytes, 0 for the default. No memory is committed yet. NULL when out of memory. */
ZH_API struct zh_arena *zh_arena_create(uint64_t limit);
ZH_API void zh_arena_destroy(struct zh_arena *arena);
/* Was it made before a fork? Then it is the parent's, and nothing is done with it. NULL is not. */
ZH_API bool zh_arena_inherited(const struct zh_arena *arena);

/*
 * The arena of this process for peers of `uid`, created at first use and kept for life (a link of a
 * forked child gets the child's own). NULL when out of memory.
 */
ZH_API struct zh_arena *zh_arena_of_uid(uint32_t uid);

/*
 * Allocate a block of at least `size` bytes with one reference. With `grow` false, -EAGAIN means
 * that a segment would have to be committed first (milliseconds: release the GIL, call again with
 * `grow`). Returns 0, -EAGAIN, -ENOMEM (limit reached or no system memory) or -EINVAL (size 0 or
 * over the limit).
 */
ZH_API int zh_arena_alloc(struct zh_arena *arena, size_t size, bool grow, struct zh_block *block);

/* One more / one less reference. The last one frees the pages. Returns -EINVAL for what is no
 * block. */
ZH_API int zh_arena_ref(struct zh_arena *arena, uint32_t segment, uint32_t page);
ZH_API int zh_arena_unref(struct zh_arena *arena, uint32_t segment, uint32_t page);

/*
 * With ZEROHOP_CHECK=1 in the environment when the arena is made: have whoever writes to these
 * blobs through our mapping fault, until their last reference goes. Else, and for other blocks,
 * nothing.
 */
ZH_API void zh_arena_protect(struct zh_arena *arena, const struct zh_block *blocks, uint32_t count);

/* The block around an offset in a segment. 0, or -ENOENT where there is none. */
ZH_API int zh_arena_find(struct zh_arena *arena, uint32_t segment, uint64_t offset,
                         struct zh_block *block);

/* The memfd of a live segment (still the arena's) and its size; -ENOENT when it is gone. */
ZH_API int zh_arena_segment_fd(struct zh_arena *arena, uint32_t segment, size_t *size);

/* How many segments have gone back to the system; their readers are to be told. */
ZH_API uint32_t zh_arena_given_back(struct zh_arena *arena);

ZH_API void zh_arena_usage(struct zh_arena *arena, struct zh_arena_usage *usage);

#endif
