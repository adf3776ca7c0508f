/* Segments: sealed memfds, mapped by one writer and many readers. */
#include "zerohop/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "failpoint.h"
#include "zerohop/fork.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010 /* linux/fcntl.h, Linux 5.1 */
#endif

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* linux/memfd.h, Linux 6.3 */
#endif

#define ZH_SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE)

int zh_segment_create(struct zh_segment *segment, const char *name, size_t size)
{
    int error;
    void *base = MAP_FAILED;

    segment->base = NULL;
    segment->size = 0;
    segment->fd = -1;

    /* Where vm.memfd_noexec is 2, a memfd that could be executed is refused; before Linux 6.3 the
     * flag is unknown. */
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    /* posix semantics of fallocate: allocates and zeroes, and extends the file to `size`. */
    while (fallocate(fd, 0, 0, (off_t)size) != 0) {
        if (errno != EINTR)
            goto fail;
    }
    base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        goto fail;
    if (fcntl(fd, F_ADD_SEALS, ZH_SEALS) != 0)
        goto fail;
    if (zh_fork_track_mapping(base, size) != 0 || zh_fork_track_fd(fd) != 0) {
        errno = ENOMEM;
        goto fail;
    }
    segment->base = base;
    segment->size = size;
    segment->fd = fd;
    segment->fork_generation = zh_fork_now();
    ZH_FAILPOINT(segment_created);
    return 0;

fail:
    error = errno;
    if (base != MAP_FAILED) {
        zh_fork_untrack_mapping(base);
        munmap(base, size);
    }
    close(fd);
    return -error;
}

void zh_segment_destroy(struct zh_segment *segment)
{
    if (segment->base != NULL && segment->fork_generation == zh_fork_now()) {
        zh_fork_untrack_mapping(segment->base);
        munmap(segment->base, segment->size);
        zh_fork_close_fd(segment->fd);
    }
    segment->base = NULL;
    segment->size = 0;
    segment->fd = -1;
}

int zh_mapping_open(struct zh_mapping *mapping, int fd, size_t size)
{
    struct stat st;

    mapping->base = NULL;
    mapping->size = 0;
    /* F_GET_SEALS fails on everything that is not a memfd (or tmpfs file). */
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0)
        return -EINVAL;
    if ((seals & ZH_SEALS) != ZH_SEALS)
        return -EPERM;
    if (fstat(fd, &st) != 0)
        return -errno;
    if (!S_ISREG(st.st_mode) || size == 0 || st.st_size < 0 || (uint64_t)st.st_size != size)
        return -EINVAL;
    /* The seals also forbid punching holes, so what is committed now stays so. */
    if ((uint64_t)st.st_blocks * 512 < size)
        return -ENODATA;
    void *base = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    if (zh_fork_track_mapping(base, size) != 0) {
        munmap(base, size);
        return -ENOMEM;
    }
    mapping->base = base;
    mapping->size = size;
    ZH_FAILPOINT(mapping_opened);
    return 0;
}

void zh_mapping_close(struct zh_mapping *mapping)
{
    if (mapping->base != NULL) {
        zh_fork_untrack_mapping((void *)(uintptr_t)mapping->base);
        munmap((void *)(uintptr_t)mapping->base, mapping->size);
    }
    mapping->base = NULL;
    mapping->size = 0;
}
