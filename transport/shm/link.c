/* Links: their life, their socket's messages, loans. Posting is in post.c, delivery in deliver.c.
 */
#include "link_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "failpoint.h"
#include "pump_internal.h"
#include "zerohop/fork.h"
#include "zerohop/stats.h"

struct zh_link *zh_link_new(struct zh_pump *pump, int socket, bool client,
                            const struct zh_link_options *options, int *error)
{
    struct zh_link *link = calloc(1, sizeof(*link));
    size_t uids = options->allow_uids_count;

    *error = -ENOMEM;
    zh_fork_track_fd(socket);
    if (link == NULL) {
        zh_fork_close_fd(socket);
        return NULL;
    }
    atomic_init(&link->refs, 1);
    atomic_init(&link->state, ZH_LINK_GREETING);
    pthread_mutex_init(&link->lock, NULL);
    link->fork_generation = zh_fork_now();
    link->client = client;
    link->detached = true;
    link->pump = pump;
    link->socket = socket;
    link->pidfd = link->bell = link->peer_bell = link->lifeline = link->peer_lifeline = -1;
    link->own.fd = -1;
    snprintf(link->agent, sizeof(link->agent), "%s", options->agent != NULL ? options->agent : "");
    link->ledger.limit_bytes = options->lend_limit;
    if (uids > 0) {
        link->allow_uids = malloc(uids * sizeof(uint32_t));
        if (link->allow_uids == NULL)
            goto fail;
        memcpy(link->allow_uids, options->allow_uids, uids * sizeof(uint32_t));
        link->allow_uids_count = uids;
    }
    *error = zh_segment_create(&link->own, "zerohop-link", sizeof(struct zh_side));
    if (*error != 0)
        goto fail;
    return link;

fail:
    zh_link_die(link, false, "out of memory");
    zh_link_unref(link);
    return NULL;
}

/*
 * A bell must be of an anonymous inode, which of those that can be written to only an eventfd is: a
 * pipe would end us with SIGPIPE, a socket or a terminal block us. Then it does not block either.
 */
static int check_bell(int fd)
{
    struct stat st;

    if (fstat(fd, &st) != 0)
        return -errno;
    if ((st.st_mode & S_IFMT) != 0)
        return -EPROTO;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
        return -errno;
    return 0;
}

int zh_link_adopt(struct zh_link *link, const struct zh_hello *hello, const int *fds, int count)
{
    struct zh_arena_usage usage;
    int error;

    if (hello->side_bytes != sizeof(struct zh_side) || hello->slot_bytes != ZH_SLOT ||
        hello->ring_slots != ZH_RING_SLOTS || count != (hello->has_bell ? 3 : 2))
        return -EPROTO;
    error = zh_mapping_open(&link->peer, fds[0], sizeof(struct zh_side));
    if (error == 0)
        error = zh_mapping_open(&link->peer_page, fds[1], sizeof(struct zh_pump_page));
    if (error != 0)
        return error;
    if (hello->has_bell) {
        /* Only between processes of one uid: whoever holds an eventfd can fill it and make writers
         * block. */
        if (link->uid != geteuid())
            return -EPROTO;
        error = check_bell(fds[2]);
        if (error != 0)
            return error;
        link->peer_bell = fcntl(fds[2], F_DUPFD_CLOEXEC, 0);
        if (link->peer_bell < 0)
            return -errno;
        zh_fork_track_fd(link->peer_bell);
    }
    link->arena = zh_arena_of_uid(link->uid);
    if (link->arena == NULL)
        return -ENOMEM;
    zh_arena_usage(link->arena, &usage);
    uint64_t limit = link->ledger.limit_bytes != 0 ? link->ledger.limit_bytes : usage.limit / 4;
    zh_ledger_init(&link->ledger, link->arena, limit);
    memcpy(link->peer_agent, hello->agent, sizeof(link->peer_agent));
    link->peer_agent[sizeof(link->peer_agent) - 1] = '\0';
    return 0;
}

void zh_link_ring(struct zh_link *link)
{
    zh_stat_add(ZH_STAT_WAKEUPS, 1);
    if (link->peer_bell >= 0) {
        uint64_t one = 1;
        if (write(link->peer_bell, &one, sizeof(one)) < 0) {
            /* EAGAIN: full, so readable. The edge was given when it became so. */
        }
    } else {
        struct zh_segment_message bell = {
            .magic = ZH_LINK_MAGIC, .version = ZH_LINK_VERSION, .kind = ZH_MSG_BELL};
        /* EAGAIN: the peer has unread messages, and their event is its bell. */
        (void)zh_message_send(link->socket, &bell, sizeof(bell), NULL, 0);
    }
    ZH_FAILPOINT(post_bell_rung);
}

/* With the lock held. */
static void mark_dead(struct zh_link *link)
{
    if (zh_link_state(link) == ZH_LINK_OPEN)
        zh_stat_add(ZH_STAT_LINKS_CLOSED, 1);
    atomic_store_explicit(&link->state, ZH_LINK_DEAD, memory_order_release);
}

static void reclaim(struct zh_link *link)
{
    link->reclaims = link->held_back > 0;
    if (link->ledger.arena != NULL && !link->reclaims)
        zh_ledger_reclaim(&link->ledger);
}

static bool is_lent_back(const struct zh_received *received)
{
    return received != NULL && (received->header.flags & ZH_LENT_BACK) != 0;
}

void zh_link_die(struct zh_link *link, bool drain, const char *format, ...)
{
    va_list args;

    pthread_mutex_lock(&link->lock);
    if (zh_link_state(link) != ZH_LINK_DEAD) {
        va_start(args, format);
        vsnprintf(link->error, sizeof(link->error), format, args);
        va_end(args);
        link->drain = drain && link->peer.base != NULL;
        if (link->drain)
            link->drain_head =
                atomic_load_explicit(&zh_link_peer(link)->head, memory_order_acquire);
        mark_dead(link);
        /* The peer has ended the link, or broke its rules: nothing that it may still read is
         * promised, unless it says that it does. But others may read it, and broke none. */
        link->peer_reads = (drain && link->peer_reads) || zh_link_is_read_on(link);
        if (!link->peer_reads)
            reclaim(link);
        /* Before a forked child of ours closes its copy, the peer learns of it by this. When
         * draining, zh_link_close does it afterwards: the peer keeps its loans to us until it
         * hears. */
        if (!drain)
            shutdown(link->socket, SHUT_RDWR);
        ZH_FAILPOINT(close_socket_shut);
    }
    pthread_mutex_unlock(&link->lock);
    /* Whoever holds the pump has calls to fail. */
    zh_pump_wake(link->pump);
}

void zh_link_fail(struct zh_link *link, const char *why)
{
    zh_link_die(link, false, "the peer broke the protocol: %s", why);
}

/* With the lock held: is it the caller who is to take the link out of the pump? Nobody else is
 * then. */
static bool detaches(struct zh_link *link)
{
    bool was = link->detached;
    link->detached = true;
    return !was;
}

static void leave_pump(struct zh_link *link, int bell)
{
    if (link->mourning)
        zh_pump_unwatch(link->pump, link->lifeline);
    zh_pump_remove(link->pump, link->key, link->socket, link->pidfd, bell);
}

/*
 * With the lock held: our side has ended. The peer takes back all that it has lent when it learns
 * of the shutdown, so that this waits for what is held; `tell`: the peer does not know yet.
 */
static void end_side(struct zh_link *link, bool linger, bool tell)
{
    const struct zh_segment_message leaving = {
        .magic = ZH_LINK_MAGIC, .version = ZH_LINK_VERSION, .kind = ZH_MSG_LEAVING};

    /* EAGAIN: it does not read its socket. That the link ends matters more than what it has lent.
     */
    if (link->held > 0 &&
        (!tell || zh_message_send(link->socket, &leaving, sizeof(leaving), NULL, 0) == 0)) {
        link->reading = true;
        /* If it lingers already: it was not told of what we gave back while we were open. */
        zh_link_ring(link);
    } else {
        shutdown(link->socket, linger ? SHUT_WR : SHUT_RDWR);
    }
}

void zh_link_close(struct zh_link *link, const char *why)
{
    bool linger = false, leave = false;
    int bell = -1;

    if (link->fork_generation != zh_fork_now()) {
        /* An ancestor's: its descriptors are closed, its memory overlaid, its mutex perhaps held.
         */
        atomic_store(&link->state, ZH_LINK_DEAD);
        return;
    }
    /* What is held may lie in segments that the peer has announced, but nobody has mapped yet. */
    for (int i = 0; link->held > 0 && zh_link_state(link) == ZH_LINK_OPEN && i < ZH_LINK_SERVES;
         i++) {
        if (!zh_link_serve(link))
            break;
    }
    pthread_mutex_lock(&link->lock);
    uint32_t state = zh_link_state(link);
    /* While it is greeting, the bell and the ledger are its server's to set up (serve_hello). */
    if (state != ZH_LINK_GREETING)
        bell = link->bell;
    if (state != ZH_LINK_DEAD) {
        snprintf(link->error, sizeof(link->error), "%s", why);
        mark_dead(link);
        /* What we lent stays the peer's until it ends its side too: it may be reading this moment.
         */
        linger = state == ZH_LINK_OPEN && !link->detached && link->ledger.open > 0;
        link->lingering = linger;
        end_side(link, linger, true);
        ZH_FAILPOINT(close_socket_shut);
    } else if (!link->lingering && !link->reading) {
        linger = link->peer_reads && !link->detached && link->ledger.open > 0;
        link->lingering = linger;
        end_side(link, linger, false);
    }
    link->closed = true;
    if (linger)
        (void)zh_link_last_returns(link); /* what cannot be is seen once more in zh_link_linger */
    bool unread = link->held == 0;
    if (linger)
        zh_link_ref(link); /* the pump's, until zh_link_linger lets go */
    else if (!link->lingering)
        leave = detaches(link);
    pthread_mutex_unlock(&link->lock);
    if (linger)
        zh_pump_linger(link->pump, link->key);
    if (leave)
        leave_pump(link, bell);
    if (unread)
        zh_link_close_lifelines(link);
}

bool zh_link_linger(struct zh_link *link)
{
    struct zh_message message;
    bool gone = zh_link_peer_exited(link);

    /* Bounded, as in zh_link_serve. */
    for (int i = 0; !gone && i < 16; i++) {
        int n = zh_message_receive(link->socket, &message);
        if (n == 1)
            zh_message_close_fds(&message);
        else if (n == -EAGAIN)
            break;
        else
            gone = true;
    }
    /* Two threads that collect events may both come here; one of them ends it. */
    pthread_mutex_lock(&link->lock);
    if (link->lingering && !gone && zh_link_last_returns(link)) {
        pthread_mutex_unlock(&link->lock);
        return true;
    }
    if (link->lingering && zh_link_is_read_on(link)) {
        /* The peer's end would wake us without end: wait for that of the lifeline alone. Where the
         * pump cannot (no memory), what is read stays lent, and the next sweep looks. */
        bool unwatched = !link->mourning && !link->detached &&
                         zh_pump_mourn(link->pump, link->key, link->socket, link->pidfd, link->bell,
                                       link->lifeline) != 0;
        if (unwatched)
            (void)detaches(link);
        link->mourning = !link->detached;
        pthread_mutex_unlock(&link->lock);
        if (unwatched) {
            leave_pump(link, link->bell);
            zh_link_orphan(link); /* with the pump's reference */
        }
        return true;
    }
    bool ends = link->lingering, leave = ends && detaches(link);
    link->lingering = false;
    if (ends) {
        reclaim(link);
        if (!link->reading)
            shutdown(link->socket, SHUT_RDWR);
    }
    pthread_mutex_unlock(&link->lock);
    if (leave)
        leave_pump(link, link->bell);
    if (ends)
        zh_link_unref(link);
    return false;
}

/* Lingering links whose pump is gone. Changed under zh_fork_lock, so that a fork finds them whole.
 */
static _Atomic(struct zh_link *) orphans;

void zh_link_orphan(struct zh_link *link)
{
    pthread_mutex_lock(&link->lock);
    (void)detaches(link);
    link->mourning = false;
    pthread_mutex_unlock(&link->lock);
    zh_fork_lock();
    link->next_orphan = atomic_load(&orphans);
    atomic_store(&orphans, link);
    zh_fork_unlock();
}

void zh_link_sweep(void)
{
    struct zh_link *next;

    if (atomic_load_explicit(&orphans, memory_order_relaxed) == NULL)
        return;
    zh_fork_lock();
    struct zh_link *link = atomic_exchange(&orphans, NULL);
    zh_fork_unlock();
    for (; link != NULL; link = next) {
        next = link->next_orphan;
        if (link->fork_generation != zh_fork_now())
            zh_link_unref(link); /* an ancestor's */
        else if (zh_link_linger(link))
            zh_link_orphan(link);
    }
}

void zh_link_ref(struct zh_link *link)
{
    atomic_fetch_add_explicit(&link->refs, 1, memory_order_relaxed);
}

void zh_link_unref(struct zh_link *link)
{
    if (atomic_fetch_sub_explicit(&link->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (link->fork_generation == zh_fork_now()) {
        zh_link_close_segments(link);
        zh_mapping_close(&link->peer);
        zh_mapping_close(&link->peer_page);
        zh_segment_destroy(&link->own);
        zh_fork_close_fd(link->socket);
        zh_fork_close_fd(link->pidfd);
        zh_fork_close_fd(link->bell);
        zh_fork_close_fd(link->peer_bell);
        zh_fork_close_fd(link->lifeline);
        pthread_mutex_destroy(&link->lock);
        ZH_FAILPOINT(close_unmapped);
    }
    free(link->allow_uids);
    free(link);
}

uint32_t zh_link_state(const struct zh_link *link)
{
    return atomic_load_explicit(&link->state, memory_order_acquire);
}

uint64_t zh_link_key(const struct zh_link *link)
{
    return link->key;
}

void zh_link_info(struct zh_link *link, struct zh_link_info *info)
{
    pthread_mutex_lock(&link->lock);
    *info = (struct zh_link_info){
        .pid = link->pid,
        .uid = link->uid,
        .state = atomic_load(&link->state),
        .loans_open = link->ledger.open,
        .lent_bytes = link->ledger.lent_bytes,
        .holds = link->ledger.holds,
        .agent = link->peer_agent,
        .error = link->error,
    };
    pthread_mutex_unlock(&link->lock);
}

void zh_link_loans(struct zh_link *link,
                   void (*each)(void *context, const struct zh_ledger_entry *entry), void *context)
{
    pthread_mutex_lock(&link->lock);
    for (uint32_t i = 0; i < ZH_LOANS; i++) {
        if ((link->ledger.entries[i].generation & 1) != 0)
            each(context, &link->ledger.entries[i]);
    }
    pthread_mutex_unlock(&link->lock);
}

void zh_link_hold(struct zh_link *link, const struct zh_received *received)
{
    zh_link_ref(link);
    pthread_mutex_lock(&link->lock);
    link->held++;
    link->held_back += is_lent_back(received);
    pthread_mutex_unlock(&link->lock);
}

void zh_link_let_go(struct zh_link *link, const struct zh_received *received)
{
    if (link->fork_generation == zh_fork_now()) {
        if (received != NULL)
            zh_link_give_back(link, received);
        pthread_mutex_lock(&link->lock);
        bool last = --link->held == 0, unread = last && link->closed;
        link->held_back -= is_lent_back(received);
        if (link->reclaims)
            reclaim(link);
        if (last && link->reading) {
            link->reading = false;
            shutdown(link->socket, link->lingering ? SHUT_WR : SHUT_RDWR);
        }
        pthread_mutex_unlock(&link->lock);
        if (last)
            zh_link_close_graves(link);
        if (unread)
            zh_link_close_lifelines(link);
    }
    zh_link_unref(link);
}

void zh_link_on_message(struct zh_link *link, const struct zh_message *message)
{
    switch (message->segment.kind) {
    case ZH_MSG_SEGMENT:
        zh_link_on_segment(link, message);
        return;
    case ZH_MSG_YOURS:
        zh_link_on_yours(link, message);
        return;
    case ZH_MSG_LIFELINE:
        zh_link_on_lifeline(link, message);
        return;
    case ZH_MSG_DROPPED:
        zh_link_on_dropped(link, message->segment.id);
        return;
    case ZH_MSG_BELL:
        return;
    case ZH_MSG_LEAVING:
        pthread_mutex_lock(&link->lock);
        link->peer_reads = true;
        pthread_mutex_unlock(&link->lock);
        zh_link_die(link, true, "the peer (pid %d) has closed the link", (int)link->pid);
        return;
    default:
        zh_link_die(link, false, "the peer sent message kind %u", message->segment.kind);
    }
}

int zh_link_loan(struct zh_link *link, size_t bytes, bool grow, uint64_t tag,
                 struct zh_loaned *loaned)
{
    if (zh_link_state(link) != ZH_LINK_OPEN)
        return -EPIPE;
    /* Without the link's mutex: growing takes milliseconds. */
    int error = zh_arena_alloc(link->arena, bytes, grow, &loaned->block);
    if (error == -ENOMEM) {
        zh_link_sweep();
        error = zh_arena_alloc(link->arena, bytes, grow, &loaned->block);
    }
    if (error != 0)
        return error;
    pthread_mutex_lock(&link->lock);
    if (zh_link_state(link) != ZH_LINK_OPEN)
        error = -EPIPE;
    if (error == 0)
        error = zh_link_send_segment(link, loaned->block.segment);
    if (error == 0)
        error = zh_ledger_lend(&link->ledger, &loaned->block, 1, tag, NULL, &loaned->loan);
    pthread_mutex_unlock(&link->lock);
    if (error != 0)
        zh_arena_unref(link->arena, loaned->block.segment, loaned->block.page);
    return error;
}

int zh_link_lend(struct zh_link *link, const struct zh_block *blocks, uint32_t count, uint64_t tag,
                 struct zh_hold *hold, struct zh_loaned *loaned)
{
    uint32_t held = 0;
    int error = 0;

    while (held < count && zh_arena_ref(link->arena, blocks[held].segment, blocks[held].page) == 0)
        held++;
    if (held < count)
        error = -EINVAL;
    pthread_mutex_lock(&link->lock);
    if (error == 0 && zh_link_state(link) != ZH_LINK_OPEN)
        error = -EPIPE;
    for (uint32_t i = 0; error == 0 && i < count; i++)
        error = zh_link_send_segment(link, blocks[i].segment);
    if (error == 0)
        error = zh_ledger_lend(&link->ledger, blocks, count, tag, hold, &loaned->loan);
    if (error == 0)
        zh_arena_protect(link->arena, blocks, count);
    if (error == 0 && hold != NULL)
        zh_link_want_held(link);
    pthread_mutex_unlock(&link->lock);
    loaned->block = (struct zh_block){0};
    while (error != 0 && held-- > 0)
        zh_arena_unref(link->arena, blocks[held].segment, blocks[held].page);
    return error;
}

struct zh_arena *zh_link_arena(const struct zh_link *link)
{
    return link->arena;
}

void zh_link_pin(struct zh_link *link, const struct zh_loaned *loaned, bool on)
{
    if (on)
        zh_arena_ref(link->arena, loaned->block.segment, loaned->block.page);
    else
        zh_arena_unref(link->arena, loaned->block.segment, loaned->block.page);
}

void zh_link_unloan(struct zh_link *link, struct zh_loaned *loaned)
{
    pthread_mutex_lock(&link->lock);
    zh_ledger_unlend(&link->ledger, loaned->loan);
    pthread_mutex_unlock(&link->lock);
}
