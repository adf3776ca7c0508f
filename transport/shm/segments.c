/*
 * Which memory the two sides of a link know of each other: segments shown, mapped, dropped, and
 * handed on.
 *
 * A segment is shown with its memfd before a record refers to it, once a link. Within one user id
 * it may be handed on in the same way, under a number of the process that does so (foreign.h);
 * shown to its owner again it is a number for what the owner has anyway.
 *
 * What is handed on is lent by the owner to the process in the middle, whose loan lasts as long as
 * the one that it has given in turn. Should that process die, the owner must not take back what
 * somebody further on still reads. For that each side of a link has a lifeline: a pipe whose
 * reading end it keeps and whose writing end its peer has, and hands on with the memory. The
 * writing ends are closed when nothing is read any more or with the process that has them; when the
 * last one is, the owner hears of it. A side says that it has handed something on (zh_side.shared),
 * else nobody waits for lifelines.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "failpoint.h"
#include "foreign.h"
#include "link_internal.h"
#include "pump_internal.h"
#include "zerohop/fork.h"
#include "zerohop/image.h"
#include "zerohop/ring.h"

/* Between one user id only: these are the links with eventfds. */
static bool is_of_our_uid(const struct zh_link *link)
{
    return link->peer_bell >= 0;
}

/* --- what the peer has shown ----------------------------------------------------------------- */

static void close_entry(struct zh_peer_segment *entry)
{
    zh_foreign_remove(entry->foreign);
    *entry = (struct zh_peer_segment){0};
}

void zh_link_close_graves(struct zh_link *link)
{
    while (link->grave_count > 0)
        zh_mapping_close(&link->graves[--link->grave_count]);
}

void zh_link_close_lifelines(struct zh_link *link)
{
    for (int i = 0; i < ZH_LINK_SEGMENTS; i++) {
        zh_foreign_remove(link->segments[i].foreign);
        link->segments[i].foreign = NULL;
    }
    zh_fork_close_fd(link->peer_lifeline);
    link->peer_lifeline = -1;
}

void zh_link_close_segments(struct zh_link *link)
{
    zh_link_close_graves(link);
    for (int i = 0; i < ZH_LINK_SEGMENTS; i++) {
        if (link->segments[i].mapping.base != NULL)
            zh_mapping_close(&link->segments[i].mapping);
        close_entry(&link->segments[i]);
    }
    zh_link_close_lifelines(link);
}

/* A free entry for what is shown as `id`; NULL, and a dead link, where there can be none. */
static struct zh_peer_segment *new_entry(struct zh_link *link, uint32_t id)
{
    struct zh_peer_segment *entry = NULL;

    for (int i = 0; i < ZH_LINK_SEGMENTS; i++) {
        if (link->segments[i].id == 0 && entry == NULL)
            entry = &link->segments[i];
        if (link->segments[i].id == id && id != 0) {
            zh_link_die(link, false, "the peer sent segment %u twice", id);
            return NULL;
        }
    }
    if (id == 0 || entry == NULL) {
        zh_link_die(link, false, "the peer sent a bad or one too many segment");
        return NULL;
    }
    return entry;
}

void zh_link_on_segment(struct zh_link *link, const struct zh_message *message)
{
    const struct zh_segment_message *m = &message->segment;
    struct zh_peer_segment *entry = new_entry(link, m->id);

    if (entry == NULL)
        return;
    if (message->fd_count < 1) {
        zh_link_die(link, false, "the peer sent a bad segment, %u, without its memory", m->id);
        return;
    }
    int error = zh_mapping_open(&entry->mapping, message->fds[0], m->bytes);
    if (error != 0) {
        zh_link_die(link, false, "the peer's segment %u was refused: %s", m->id, strerror(-error));
        return;
    }
    entry->id = m->id;
    /* Without a lifeline nobody else may read it, but its owner may have it back. */
    bool shares = is_of_our_uid(link) && link->peer_lifeline >= 0;
    entry->foreign =
        zh_foreign_add(link, m->id, m->bytes, message->fds, shares ? message->fd_count : 0);
}

void zh_link_on_yours(struct zh_link *link, const struct zh_message *message)
{
    const struct zh_segment_message *m = &message->segment;
    struct zh_peer_segment *entry = new_entry(link, m->id);
    bool known = false;

    if (entry == NULL)
        return;
    pthread_mutex_lock(&link->lock);
    for (int i = 0; m->own != 0 && i < ZH_ARENA_SEGMENTS; i++)
        known = known || link->sent[i] == m->own;
    for (int i = 0; m->own != 0 && i < ZH_SHARED_SEGMENTS; i++)
        known = known || link->shared[i] == m->own;
    pthread_mutex_unlock(&link->lock);
    if (!known || message->fd_count != 0) {
        zh_link_die(link, false, "the peer speaks of segment %u, which it was not shown", m->own);
        return;
    }
    entry->id = m->id;
    entry->own = m->own;
}

void zh_link_on_lifeline(struct zh_link *link, const struct zh_message *message)
{
    if (message->fd_count != 1 || link->peer_lifeline >= 0 || !is_of_our_uid(link)) {
        zh_link_die(link, false, "the peer sent a lifeline too many");
        return;
    }
    link->peer_lifeline = fcntl(message->fds[0], F_DUPFD_CLOEXEC, 0);
    if (link->peer_lifeline >= 0)
        zh_fork_track_fd(link->peer_lifeline);
}

void zh_link_on_dropped(struct zh_link *link, uint32_t id)
{
    for (int i = 0; i < ZH_LINK_SEGMENTS; i++) {
        struct zh_peer_segment *entry = &link->segments[i];
        if (id == 0 || entry->id != id)
            continue;
        if (entry->mapping.base != NULL && link->held == 0) {
            zh_mapping_close(&entry->mapping);
        } else if (entry->mapping.base != NULL) {
            if (link->grave_count == ZH_LINK_SEGMENTS) {
                zh_link_die(link, false, "the peer drops segments that we may be reading");
                return;
            }
            /* An honest peer drops what nobody reads; whatever this one does, our views live on. */
            link->graves[link->grave_count++] = entry->mapping;
        }
        close_entry(entry);
        return;
    }
    zh_link_die(link, false, "the peer dropped segment %u, which it never sent", id);
}

static const struct zh_peer_segment *look_up(const struct zh_link *link, uint32_t id)
{
    for (int i = 0; id != 0 && i < ZH_LINK_SEGMENTS; i++) {
        if (link->segments[i].id == id)
            return &link->segments[i];
    }
    return NULL;
}

static const struct zh_peer_segment *find_segment(struct zh_link *link, uint32_t id)
{
    const struct zh_peer_segment *segment = look_up(link, id);

    /* Sent before the record was posted, so it is in the socket's queue. */
    bool more = link->fork_generation == zh_fork_now();
    for (int i = 0; segment == NULL && more && i < ZH_LINK_SERVES; i++) {
        more = zh_link_serve(link);
        segment = look_up(link, id);
    }
    return segment;
}

const uint8_t *zh_link_at(struct zh_link *link, uint32_t id, uint64_t offset, uint64_t bytes)
{
    const struct zh_peer_segment *segment = find_segment(link, id);

    if (segment == NULL || offset > segment->mapping.size ||
        bytes > segment->mapping.size - offset || segment->mapping.base == NULL)
        return NULL;
    return segment->mapping.base + offset;
}

uint32_t zh_link_yours(struct zh_link *link, uint32_t id)
{
    const struct zh_peer_segment *segment = find_segment(link, id);

    return segment == NULL ? 0 : segment->own;
}

int zh_link_lent(struct zh_link *link, uint32_t id, uint64_t offset, uint64_t bytes,
                 struct zh_block *block)
{
    const struct zh_peer_segment *segment = find_segment(link, id);
    int error = -ENOENT;

    if (segment == NULL || segment->own == 0)
        return -ENOENT;
    pthread_mutex_lock(&link->lock);
    /* Only what this peer has been lent, so that it cannot have us show it anything else. */
    if (link->arena != NULL && zh_arena_find(link->arena, segment->own, offset, block) == 0 &&
        zh_ledger_has(&link->ledger, block->segment, block->page) &&
        bytes <= (uint64_t)block->pages * ZH_PAGE - (offset - (uint64_t)block->page * ZH_PAGE))
        error = zh_arena_ref(link->arena, block->segment, block->page);
    pthread_mutex_unlock(&link->lock);
    return error;
}

int zh_link_place(struct zh_link *link, const uint8_t *data, size_t bytes, uint32_t *segment,
                  uint64_t *offset)
{
    /* Another user's is copied by whoever wants to keep it: its owner may change it at any time. */
    if (!is_of_our_uid(link))
        return -ENOENT;
    for (int i = 0; i < ZH_LINK_SEGMENTS; i++) {
        const struct zh_peer_segment *entry = &link->segments[i];
        const struct zh_mapping *mapping = &entry->mapping;
        if (entry->foreign == NULL || data < mapping->base || bytes > mapping->size ||
            data > mapping->base + (mapping->size - bytes))
            continue;
        *segment = entry->foreign->id;
        *offset = (uint64_t)(data - mapping->base);
        return 0;
    }
    return -ENOENT;
}

/* --- what we show ---------------------------------------------------------------------------- */

static int send_about(struct zh_link *link, uint32_t kind, uint32_t id, uint32_t own,
                      uint64_t bytes, const int *fds, int count)
{
    struct zh_segment_message m = {
        .magic = ZH_LINK_MAGIC,
        .version = ZH_LINK_VERSION,
        .kind = kind,
        .bytes = bytes,
        .id = id,
        .own = own,
    };
    int error = zh_message_send(link->socket, &m, sizeof(m), fds, count);
    /* EAGAIN: the peer does not read its socket; ETOOMANYREFS: too many descriptors in flight. */
    return error == 0 || error == -EPIPE ? error : -ENOBUFS;
}

/* With the lock held, before the first segment. Without one nothing is handed on, that is all. */
static int send_lifeline(struct zh_link *link)
{
    int ends[2];

    if (link->lifeline >= 0 || link->no_lifeline || !is_of_our_uid(link))
        return 0;
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) {
        link->no_lifeline = true;
        return 0;
    }
    zh_fork_track_fd(ends[1]); /* a child that had it would outlive the peer */
    int error = send_about(link, ZH_MSG_LIFELINE, 0, 0, 0, &ends[1], 1);
    zh_fork_close_fd(ends[1]);
    if (error != 0) {
        close(ends[0]);
        return error;
    }
    link->lifeline = ends[0];
    zh_fork_track_fd(link->lifeline);
    return 0;
}

bool zh_link_is_read_on(const struct zh_link *link)
{
    struct pollfd fd = {.fd = link->lifeline, .events = POLLIN};

    if (link->lifeline < 0 || link->peer.base == NULL ||
        atomic_load_explicit(&zh_link_peer(link)->shared, memory_order_acquire) == 0)
        return false;
    return poll(&fd, 1, 0) == 0 || (fd.revents & POLLHUP) == 0;
}

static uint32_t *free_entry(uint32_t *ids, int count)
{
    for (int i = 0; i < count; i++) {
        if (ids[i] == 0)
            return &ids[i];
    }
    return NULL;
}

int zh_link_send_segment(struct zh_link *link, uint32_t id)
{
    size_t bytes = 0;

    for (int i = 0; i < ZH_ARENA_SEGMENTS; i++) {
        if (link->sent[i] == id)
            return 0;
    }
    (void)zh_link_drop_segments(link);
    uint32_t *entry = free_entry(link->sent, ZH_ARENA_SEGMENTS);
    int fd = zh_arena_segment_fd(link->arena, id, &bytes);
    if (fd < 0 || entry == NULL)
        return -ENOBUFS;
    int error = send_lifeline(link);
    if (error == 0)
        error = send_about(link, ZH_MSG_SEGMENT, id, 0, bytes, &fd, 1);
    if (error != 0)
        return error;
    *entry = id;
    ZH_FAILPOINT(loan_segment_sent);
    return 0;
}

/* With the fork lock held: show what another link's peer, or this one's, has shown us. */
static int send_foreign(struct zh_link *link, struct zh_foreign *foreign)
{
    int fds[ZH_MESSAGE_FDS], count = 0;

    if (foreign->from == link)
        return send_about(link, ZH_MSG_YOURS, foreign->id, foreign->segment, 0, NULL, 0);
    if (foreign->fd < 0 || !is_of_our_uid(link) || link->lifeline < 0 ||
        foreign->lifeline_count + 2 > ZH_MESSAGE_FDS)
        return -ENOENT;
    fds[count++] = foreign->fd;
    for (int i = 0; i < foreign->lifeline_count; i++)
        fds[count++] = foreign->lifelines[i];
    fds[count++] = foreign->from->peer_lifeline;
    /* Before anybody can have it: the owner looks when we are dead. */
    atomic_store_explicit(&zh_link_own(foreign->from)->shared, 1, memory_order_seq_cst);
    return send_about(link, ZH_MSG_SEGMENT, foreign->id, 0, foreign->bytes, fds, count);
}

int zh_link_share(struct zh_link *link, uint32_t id)
{
    int error = 0;

    pthread_mutex_lock(&link->lock);
    for (int i = 0; i < ZH_SHARED_SEGMENTS; i++) {
        if (link->shared[i] == id) {
            pthread_mutex_unlock(&link->lock);
            return 0;
        }
    }
    if (zh_link_state(link) != ZH_LINK_OPEN)
        error = -EPIPE;
    if (error == 0) {
        (void)zh_link_drop_segments(link);
        error = send_lifeline(link);
    }
    uint32_t *entry = free_entry(link->shared, ZH_SHARED_SEGMENTS);
    if (error == 0 && entry == NULL)
        error = -ENOBUFS;
    if (error == 0) {
        zh_fork_lock();
        struct zh_foreign *foreign = zh_foreign_find(id);
        error = foreign == NULL ? -ENOENT : send_foreign(link, foreign);
        zh_fork_unlock();
    }
    if (error == 0)
        *entry = id;
    pthread_mutex_unlock(&link->lock);
    ZH_FAILPOINT(share_segment_sent);
    return error;
}

static bool is_gone(uint32_t id)
{
    zh_fork_lock();
    bool gone = zh_foreign_find(id) == NULL;
    zh_fork_unlock();
    return gone;
}

bool zh_link_drop_segments(struct zh_link *link)
{
    bool told = true;
    size_t bytes;

    for (int i = 0; i < ZH_ARENA_SEGMENTS; i++) {
        uint32_t id = link->sent[i];
        if (id == 0 || zh_arena_segment_fd(link->arena, id, &bytes) >= 0)
            continue;
        if (send_about(link, ZH_MSG_DROPPED, id, 0, 0, NULL, 0) == 0)
            link->sent[i] = 0;
        else
            told = false;
    }
    for (int i = 0; i < ZH_SHARED_SEGMENTS; i++) {
        uint32_t id = link->shared[i];
        if (id == 0 || !is_gone(id))
            continue;
        if (send_about(link, ZH_MSG_DROPPED, id, 0, 0, NULL, 0) == 0)
            link->shared[i] = 0;
        else
            told = false;
    }
    return told;
}

void zh_link_tidy(struct zh_link *link)
{
    if (zh_link_state(link) != ZH_LINK_OPEN)
        return;
    uint32_t gone = zh_arena_given_back(link->arena) + zh_foreign_removed();
    if (atomic_load_explicit(&link->gone, memory_order_relaxed) == gone)
        return;
    pthread_mutex_lock(&link->lock);
    /* Once more at the next sleep if the peer's socket is full. */
    if (zh_link_state(link) != ZH_LINK_OPEN || zh_link_drop_segments(link))
        atomic_store_explicit(&link->gone, gone, memory_order_relaxed);
    pthread_mutex_unlock(&link->lock);
}
