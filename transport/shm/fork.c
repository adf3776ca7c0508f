/* The at-fork handlers: a child keeps no link, no descriptor and no shared byte of its parent. */
#include "zerohop/fork.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

_Atomic uint32_t zh_fork_generation;

struct tracked_mapping {
    void *base;
    size_t size;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static struct tracked_mapping *mappings;
static size_t mappings_used, mappings_room;
static int *fds;
static size_t fds_used, fds_room;

static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void after_fork_parent(void)
{
    pthread_mutex_unlock(&lock);
}

static void after_fork_child(void)
{
    for (size_t i = 0; i < mappings_used; i++) {
        /* MAP_FIXED replaces the shared mapping in one step: there is no moment at which a read
         * faults. */
        void *over = mmap(mappings[i].base, mappings[i].size, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        if (over == MAP_FAILED)
            abort();
    }
    /* The overlays stay until exit: old views may read them, and nobody else will unmap them. */
    mappings_used = 0;
    for (size_t i = 0; i < fds_used; i++)
        close(fds[i]);
    fds_used = 0;
    atomic_fetch_add_explicit(&zh_fork_generation, 1, memory_order_relaxed);
    pthread_mutex_unlock(&lock);
}

void zh_fork_lock(void)
{
    pthread_mutex_lock(&lock);
}

void zh_fork_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

static void install(void)
{
    if (pthread_atfork(before_fork, after_fork_parent, after_fork_child) != 0)
        abort();
}

static int grow(void **array, size_t *room, size_t item)
{
    size_t more = *room == 0 ? 64 : *room * 2;
    void *bigger = realloc(*array, more * item);
    if (bigger == NULL)
        return -ENOMEM;
    *array = bigger;
    *room = more;
    return 0;
}

int zh_fork_track_mapping(void *base, size_t size)
{
    int error = 0;

    pthread_once(&once, install);
    pthread_mutex_lock(&lock);
    if (mappings_used == mappings_room)
        error = grow((void **)&mappings, &mappings_room, sizeof(*mappings));
    if (error == 0)
        mappings[mappings_used++] = (struct tracked_mapping){base, size};
    pthread_mutex_unlock(&lock);
    return error;
}

void zh_fork_untrack_mapping(void *base)
{
    pthread_mutex_lock(&lock);
    for (size_t i = mappings_used; i-- > 0;) {
        if (mappings[i].base == base) {
            mappings[i] = mappings[--mappings_used];
            break;
        }
    }
    pthread_mutex_unlock(&lock);
}

int zh_fork_track_fd(int fd)
{
    int error = 0;

    pthread_once(&once, install);
    pthread_mutex_lock(&lock);
    if (fds_used == fds_room)
        error = grow((void **)&fds, &fds_room, sizeof(*fds));
    if (error == 0)
        fds[fds_used++] = fd;
    pthread_mutex_unlock(&lock);
    return error;
}

/* Caller must hold the lock. */
static void forget_fd(int fd)
{
    for (size_t i = fds_used; i-- > 0;) {
        if (fds[i] == fd) {
            fds[i] = fds[--fds_used];
            break;
        }
    }
}

void zh_fork_untrack_fd(int fd)
{
    pthread_mutex_lock(&lock);
    forget_fd(fd);
    pthread_mutex_unlock(&lock);
}

void zh_fork_close_fd(int fd)
{
    if (fd < 0)
        return;
    pthread_mutex_lock(&lock);
    forget_fd(fd);
    /* Closed under the lock: a fork in between must not close a number that was reused. */
    close(fd);
    pthread_mutex_unlock(&lock);
}
