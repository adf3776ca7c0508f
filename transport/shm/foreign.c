/* The list of peers' segments that may be handed on. */
#include "foreign.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "zerohop/fork.h"
#include "zerohop/image.h"

static struct zh_foreign *entries;
static uint32_t last_id;
static _Atomic uint32_t removed;

/* A copy of a descriptor that a fork closes, or -1. */
static int keep(int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

    if (copy >= 0)
        zh_fork_track_fd(copy);
    return copy;
}

static void drop_fds(struct zh_foreign *foreign)
{
    zh_fork_close_fd(foreign->fd);
    for (int i = 0; i < foreign->lifeline_count; i++)
        zh_fork_close_fd(foreign->lifelines[i]);
    foreign->fd = -1;
    foreign->lifeline_count = 0;
}

struct zh_foreign *zh_foreign_add(struct zh_link *link, uint32_t segment, uint64_t bytes,
                                  const int *fds, int count)
{
    struct zh_foreign *foreign = calloc(1, sizeof(*foreign));

    if (foreign == NULL)
        return NULL;
    foreign->fork_generation = zh_fork_now();
    foreign->from = link;
    foreign->segment = segment;
    foreign->bytes = bytes;
    foreign->fd = count > 0 ? keep(fds[0]) : -1;
    for (int i = 1; foreign->fd >= 0 && i < count; i++) {
        int copy = keep(fds[i]);
        if (copy < 0)
            drop_fds(foreign); /* whoever is not told of it cannot wait for it */
        else
            foreign->lifelines[foreign->lifeline_count++] = copy;
    }
    zh_fork_lock();
    if (last_id + 1 < ZH_REF_FOREIGN) {
        foreign->id = ++last_id | ZH_REF_FOREIGN;
        foreign->next = entries;
        entries = foreign;
    }
    zh_fork_unlock();
    if (foreign->id == 0) {
        drop_fds(foreign);
        free(foreign);
        return NULL;
    }
    return foreign;
}

void zh_foreign_remove(struct zh_foreign *foreign)
{
    if (foreign == NULL)
        return;
    zh_fork_lock();
    for (struct zh_foreign **at = &entries; *at != NULL; at = &(*at)->next) {
        if (*at == foreign) {
            *at = foreign->next;
            break;
        }
    }
    zh_fork_unlock();
    drop_fds(foreign);
    free(foreign);
    atomic_fetch_add_explicit(&removed, 1, memory_order_release);
}

struct zh_foreign *zh_foreign_find(uint32_t id)
{
    for (struct zh_foreign *foreign = entries; foreign != NULL; foreign = foreign->next) {
        if (foreign->id == id)
            return foreign->fork_generation == zh_fork_now() ? foreign : NULL;
    }
    return NULL;
}

uint32_t zh_foreign_removed(void)
{
    return atomic_load_explicit(&removed, memory_order_acquire);
}
