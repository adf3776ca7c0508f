/* Pumps: waiting for many links at once, politely. */
#include "zerohop/pump.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "failpoint.h"
#include "pump_internal.h"
#include "zerohop/fork.h"
#include "zerohop/link.h"
#include "zerohop/ring.h"

#if defined(__x86_64__) || defined(__i386__)
#define cpu_pause() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define cpu_pause() __asm__ volatile("yield" ::: "memory")
#else
#define cpu_pause() atomic_signal_fence(memory_order_seq_cst)
#endif

/* Pauses between two looks at the clock; and, four times that, between two sched_yields. */
#define SPIN_BATCH 16

struct pump_slot {
    struct zh_link *link; /* NULL: free */
    uint32_t generation;
    bool lingering;
};

struct zh_pump {
    pthread_mutex_t lock; /* guards slots; taken by every look at the heads */
    struct pump_slot *slots;
    uint32_t used; /* slots below this have been in use */
    uint32_t room;
    struct zh_segment page;
    uint32_t fork_generation;
    int epoll;
    int wake;
    int timer;
    _Atomic uint64_t timer_at; /* 0: off */
};

/* The top byte of epoll_data says what an event is; the rest is its key. */
#define KEY_BITS 56
#define KEY(kind, key) ((uint64_t)(kind) << KEY_BITS | (key))
/* 24 bits of slot and 32 of generation make a link's key. */
#define SLOT_BITS 24

uint64_t zh_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static struct zh_pump_page *page_of(const struct zh_pump *pump)
{
    return (struct zh_pump_page *)(void *)pump->page.base;
}

static int epoll_add(int epoll, int fd, uint32_t events, uint64_t key)
{
    struct epoll_event event = {.events = events, .data.u64 = key};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : -errno;
}

struct zh_pump *zh_pump_create(int *error)
{
    zh_link_sweep();
    struct zh_pump *pump = calloc(1, sizeof(*pump));
    if (pump == NULL) {
        *error = -ENOMEM;
        return NULL;
    }
    pthread_mutex_init(&pump->lock, NULL);
    pump->fork_generation = zh_fork_now();
    pump->wake = pump->timer = -1;
    pump->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (pump->epoll >= 0)
        pump->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (pump->wake >= 0)
        pump->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    *error = pump->timer < 0 ? -errno : 0;
    pump->page.fd = -1;
    if (*error == 0)
        *error = zh_segment_create(&pump->page, "zerohop-pump", sizeof(struct zh_pump_page));
    if (*error == 0)
        *error = epoll_add(pump->epoll, pump->wake, EPOLLIN | EPOLLET, KEY(ZH_EVENT_WAKE, 0));
    if (*error == 0)
        *error = epoll_add(pump->epoll, pump->timer, EPOLLIN | EPOLLET, KEY(ZH_EVENT_TIMER, 0));
    zh_fork_track_fd(pump->epoll);
    zh_fork_track_fd(pump->wake);
    zh_fork_track_fd(pump->timer);
    if (*error != 0) {
        zh_pump_destroy(pump);
        return NULL;
    }
    return pump;
}

void zh_pump_destroy(struct zh_pump *pump)
{
    if (pump == NULL)
        return;
    /* An ancestor's: its descriptors are closed, and their numbers may be somebody else's by now.
     */
    if (pump->fork_generation == zh_fork_now()) {
        for (uint32_t i = 0; i < pump->used; i++) {
            if (pump->slots[i].link != NULL && pump->slots[i].lingering)
                zh_link_orphan(pump->slots[i].link);
        }
        zh_segment_destroy(&pump->page);
        zh_fork_close_fd(pump->epoll);
        zh_fork_close_fd(pump->wake);
        zh_fork_close_fd(pump->timer);
        pthread_mutex_destroy(&pump->lock);
    }
    free(pump->slots);
    free(pump);
}

int zh_pump_fd(const struct zh_pump *pump)
{
    return pump->epoll;
}

const struct zh_segment *zh_pump_page_segment(const struct zh_pump *pump)
{
    return &pump->page;
}

int zh_pump_watch(struct zh_pump *pump, int fd, uint64_t key)
{
    return epoll_add(pump->epoll, fd, EPOLLIN, KEY(ZH_EVENT_USER, key));
}

int zh_pump_watch_pump(struct zh_pump *pump, const struct zh_pump *other, uint64_t key)
{
    /* An edge: its events stay there until its own waiter collects them. */
    return epoll_add(pump->epoll, other->epoll, EPOLLIN | EPOLLET, KEY(ZH_EVENT_USER, key));
}

int zh_pump_unwatch(struct zh_pump *pump, int fd)
{
    return epoll_ctl(pump->epoll, EPOLL_CTL_DEL, fd, NULL) == 0 ? 0 : -errno;
}

/* With the lock held: a free slot, or -1. */
static int64_t free_slot(struct zh_pump *pump)
{
    for (uint32_t i = 0; i < pump->used; i++) {
        if (pump->slots[i].link == NULL)
            return i;
    }
    if (pump->used == pump->room) {
        uint32_t room = pump->room == 0 ? 16 : pump->room * 2;
        if (room > 1u << SLOT_BITS)
            return -1;
        struct pump_slot *slots = realloc(pump->slots, room * sizeof(*slots));
        if (slots == NULL)
            return -1;
        memset(slots + pump->room, 0, (room - pump->room) * sizeof(*slots));
        pump->slots = slots;
        pump->room = room;
    }
    return pump->used++;
}

uint64_t zh_pump_add(struct zh_pump *pump, struct zh_link *link, int socket, int pidfd, int bell)
{
    uint64_t key = 0;

    zh_link_sweep();
    pthread_mutex_lock(&pump->lock);
    int64_t slot = free_slot(pump);
    if (slot >= 0) {
        uint32_t generation = ++pump->slots[slot].generation;
        pump->slots[slot].link = link;
        pump->slots[slot].lingering = false;
        key = (uint64_t)generation << SLOT_BITS | (uint64_t)slot;
    }
    pthread_mutex_unlock(&pump->lock);
    if (key == 0)
        return 0;
    if (epoll_add(pump->epoll, socket, EPOLLIN | EPOLLRDHUP, KEY(ZH_EVENT_LINK, key)) != 0 ||
        (pidfd >= 0 && epoll_add(pump->epoll, pidfd, EPOLLIN, KEY(ZH_EVENT_LINK, key)) != 0) ||
        (bell >= 0 &&
         epoll_add(pump->epoll, bell, EPOLLIN | EPOLLET, KEY(ZH_EVENT_BELL, key)) != 0)) {
        zh_pump_remove(pump, key, socket, pidfd, bell);
        return 0;
    }
    return key;
}

int zh_pump_add_bell(struct zh_pump *pump, uint64_t key, int bell)
{
    return epoll_add(pump->epoll, bell, EPOLLIN | EPOLLET, KEY(ZH_EVENT_BELL, key));
}

/* Explicitly: a descriptor that a child inherited would stay in the set after our close. */
static void unwatch_all(struct zh_pump *pump, int socket, int pidfd, int bell)
{
    epoll_ctl(pump->epoll, EPOLL_CTL_DEL, socket, NULL);
    if (pidfd >= 0)
        epoll_ctl(pump->epoll, EPOLL_CTL_DEL, pidfd, NULL);
    if (bell >= 0)
        epoll_ctl(pump->epoll, EPOLL_CTL_DEL, bell, NULL);
}

void zh_pump_remove(struct zh_pump *pump, uint64_t key, int socket, int pidfd, int bell)
{
    uint32_t slot = (uint32_t)(key & ((1u << SLOT_BITS) - 1));

    if (key == 0)
        return;
    pthread_mutex_lock(&pump->lock);
    pump->slots[slot].link = NULL;
    pump->slots[slot].lingering = false;
    pthread_mutex_unlock(&pump->lock);
    unwatch_all(pump, socket, pidfd, bell);
}

int zh_pump_mourn(struct zh_pump *pump, uint64_t key, int socket, int pidfd, int bell, int lifeline)
{
    int error = epoll_add(pump->epoll, lifeline, EPOLLHUP, KEY(ZH_EVENT_LINK, key));

    if (error == 0)
        unwatch_all(pump, socket, pidfd, bell);
    return error;
}

void zh_pump_linger(struct zh_pump *pump, uint64_t key)
{
    pthread_mutex_lock(&pump->lock);
    pump->slots[key & ((1u << SLOT_BITS) - 1)].lingering = true;
    pthread_mutex_unlock(&pump->lock);
}

/* The lingering link of a key, with a reference; NULL when it is another kind or gone. */
static struct zh_link *lingering(struct zh_pump *pump, uint64_t key)
{
    struct zh_link *link = NULL;
    uint32_t slot = (uint32_t)(key & ((1u << SLOT_BITS) - 1));

    pthread_mutex_lock(&pump->lock);
    if (slot < pump->used && pump->slots[slot].lingering &&
        pump->slots[slot].generation == (uint32_t)(key >> SLOT_BITS)) {
        link = pump->slots[slot].link;
        zh_link_ref(link);
    }
    pthread_mutex_unlock(&pump->lock);
    return link;
}

void zh_pump_serve_lingering(struct zh_pump *pump)
{
    uint32_t used = UINT32_MAX;

    for (uint32_t i = 0; i < used; i++) {
        struct zh_link *link = NULL;
        pthread_mutex_lock(&pump->lock);
        used = pump->used;
        if (i < used && pump->slots[i].lingering) {
            link = pump->slots[i].link;
            zh_link_ref(link);
        }
        pthread_mutex_unlock(&pump->lock);
        if (link != NULL) {
            (void)zh_link_linger(link);
            zh_link_unref(link);
        }
    }
}

uint32_t zh_pump_holds(struct zh_pump *pump)
{
    uint32_t holds = 0;

    pthread_mutex_lock(&pump->lock);
    for (uint32_t i = 0; i < pump->used; i++) {
        struct zh_link_info info;
        if (pump->slots[i].link == NULL)
            continue;
        zh_link_info(pump->slots[i].link, &info);
        holds += info.holds;
    }
    pthread_mutex_unlock(&pump->lock);
    return holds;
}

bool zh_pump_ready(struct zh_pump *pump)
{
    bool ready = false;

    pthread_mutex_lock(&pump->lock);
    for (uint32_t i = 0; i < pump->used && !ready; i++)
        ready = pump->slots[i].link != NULL && !pump->slots[i].lingering &&
                zh_link_ready(pump->slots[i].link);
    pthread_mutex_unlock(&pump->lock);
    return ready;
}

static void tidy(struct zh_pump *pump)
{
    pthread_mutex_lock(&pump->lock);
    for (uint32_t i = 0; i < pump->used; i++) {
        if (pump->slots[i].link != NULL && !pump->slots[i].lingering)
            zh_link_tidy(pump->slots[i].link);
    }
    pthread_mutex_unlock(&pump->lock);
}

bool zh_pump_arm(struct zh_pump *pump)
{
    _Atomic uint32_t *epoch = &page_of(pump)->epoch;

    /* Pairs with the poster's fence in zh_link_post: either it sees the odd epoch and rings, or we
     * see its head. Two threads may arm at once; the epoch moves only from even to odd here. */
    uint32_t seen = atomic_load_explicit(epoch, memory_order_relaxed);
    if ((seen & 1) == 0)
        atomic_compare_exchange_strong_explicit(epoch, &seen, seen + 1, memory_order_relaxed,
                                                memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    ZH_FAILPOINT(wait_epoch_odd);
    if (zh_pump_ready(pump)) {
        zh_pump_disarm(pump);
        return true;
    }
    tidy(pump);
    return false;
}

void zh_pump_disarm(struct zh_pump *pump)
{
    _Atomic uint32_t *epoch = &page_of(pump)->epoch;

    uint32_t seen = atomic_load_explicit(epoch, memory_order_relaxed);
    if ((seen & 1) == 0)
        return;
    atomic_compare_exchange_strong_explicit(epoch, &seen, seen + 1, memory_order_relaxed,
                                            memory_order_relaxed);
    /* Whoever still saw the old epoch does not ring for it again: what it did before, the caller
     * sees from here on. */
    atomic_thread_fence(memory_order_seq_cst);
}

void zh_pump_renew(struct zh_pump *pump)
{
    _Atomic uint32_t *epoch = &page_of(pump)->epoch;
    uint32_t seen = atomic_load_explicit(epoch, memory_order_relaxed);

    atomic_store_explicit(epoch, (seen | 1) == seen ? seen + 2 : seen + 1, memory_order_relaxed);
    /* Pairs with the poster's, as the one in zh_pump_arm. */
    atomic_thread_fence(memory_order_seq_cst);
}

bool zh_pump_spin(struct zh_pump *pump, uint64_t until, const _Atomic uint32_t *stop)
{
    for (unsigned batch = 1;; batch++) {
        for (int i = 0; i < SPIN_BATCH; i++) {
            if (zh_pump_ready(pump))
                return true;
            cpu_pause();
        }
        if (stop != NULL && atomic_load_explicit(stop, memory_order_relaxed) != 0)
            return false;
        if (zh_now() >= until)
            return false;
        if (batch % 4 == 0)
            sched_yield();
    }
}

int zh_pump_events(struct zh_pump *pump, struct zh_event *events, int64_t timeout)
{
    struct epoll_event raw[ZH_PUMP_EVENTS];
    int milliseconds = -1;

    /* The timer descriptor keeps exact times; epoll's own time-out is rounded up. */
    if (timeout >= 0)
        milliseconds = timeout > 3600000000000 ? 3600000 : (int)((timeout + 999999) / 1000000);
    int n = epoll_wait(pump->epoll, raw, ZH_PUMP_EVENTS, milliseconds);
    if (n < 0)
        return -errno;
    ZH_FAILPOINT(wait_slept);
    int kept = 0;
    for (int i = 0; i < n; i++) {
        struct zh_event event = {
            .kind = (uint32_t)(raw[i].data.u64 >> KEY_BITS),
            .key = raw[i].data.u64 & ((UINT64_C(1) << KEY_BITS) - 1),
        };
        if (event.kind == ZH_EVENT_LINK || event.kind == ZH_EVENT_BELL) {
            struct zh_link *link = lingering(pump, event.key);
            if (link != NULL) {
                (void)zh_link_linger(link);
                zh_link_unref(link);
                continue;
            }
        }
        /* The timer is armed anew by whoever looks at the deadlines next. */
        if (event.kind == ZH_EVENT_TIMER)
            atomic_store_explicit(&pump->timer_at, 0, memory_order_relaxed);
        events[kept++] = event;
    }
    return kept;
}

void zh_pump_wake(struct zh_pump *pump)
{
    uint64_t one = 1;

    if (pump->fork_generation != zh_fork_now())
        return;
    /* Edge-triggered and never read, like the doorbells: the counter only grows, by one each time.
     */
    if (write(pump->wake, &one, sizeof(one)) < 0) {
        /* EAGAIN after 2^64 - 2 wakes: the descriptor is readable, which is all that is wanted. */
    }
}

void zh_pump_timer(struct zh_pump *pump, uint64_t when)
{
    struct itimerspec spec = {
        .it_value = {(time_t)(when / 1000000000u), (long)(when % 1000000000u)}};

    uint64_t at = atomic_load_explicit(&pump->timer_at, memory_order_relaxed);
    if (when == 0 || (at != 0 && at <= when))
        return; /* an early ring is harmless: the waiter looks at its deadlines and arms again */
    atomic_store_explicit(&pump->timer_at, when, memory_order_relaxed);
    timerfd_settime(pump->timer, TFD_TIMER_ABSTIME, &spec, NULL);
}
