/* Segments: memory of fixed size behind a sealed memfd, written by one process, read by its peers.
 */
#ifndef ZEROHOP_SEGMENT_H
#define ZEROHOP_SEGMENT_H

#include <stddef.h>
#include <stdint.h>

#include "zerohop/api.h"

/* A segment that this process owns: mapped read-write here, and nowhere else. */
struct zh_segment {
    uint8_t *base;
    size_t size; /* bytes, a multiple of the page size */
    int fd;
    uint32_t fork_generation; /* an ancestor's segment is overlaid and left alone */
};

/* A segment of a peer, mapped read-only. The peer may change every byte at any time. */
struct zh_mapping {
    const uint8_t *base;
    size_t size;
};

/*
 * Create a segment: committed by fallocate before anybody can be lent a byte of it, mapped, then
 * sealed against shrinking, growing and further writable mappings. `name` shows in /proc only.
 * Returns 0 or a negative errno; on error `segment` is zeroed with fd -1.
 */
ZH_API int zh_segment_create(struct zh_segment *segment, const char *name, size_t size);

/* Unmap and close. Idempotent. */
ZH_API void zh_segment_destroy(struct zh_segment *segment);

/*
 * Map a peer's memfd read-only after checking what the peer claims about it: the four seals, a size
 * of exactly `size`, and as many pages committed (a sparse file would be charged to the reader).
 * Who commits pages beyond the end in their place gains nothing: a hole reads as zeros, and costs
 * the reader no more than it cost him. The fd stays the caller's. Returns 0, -EPERM (seals),
 * -EINVAL (size or kind), -ENODATA (holes), or the errno of mmap.
 */
ZH_API int zh_mapping_open(struct zh_mapping *mapping, int fd, size_t size);

ZH_API void zh_mapping_close(struct zh_mapping *mapping);

#endif
