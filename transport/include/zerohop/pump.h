/*
 * Pumps: what one waiter polls: a set of links, an epoll set of their doorbells and sockets, one
 * sleep epoch that all their peers read, and one timer.
 *
 * Who may call: zh_pump_ready, zh_pump_arm and zh_pump_events from any thread; the others from one
 * thread at a time, which the caller sees to. Links are added and removed under the pump's own
 * lock. There is one epoch: whoever disarms a pump in which another thread sleeps must arm it
 * again, or wake that thread, before it stops looking.
 */
#ifndef ZEROHOP_PUMP_H
#define ZEROHOP_PUMP_H

#include <stdbool.h>
#include <stdint.h>

#include "zerohop/api.h"

struct zh_pump;
struct zh_link;

enum zh_event_kind {
    ZH_EVENT_BELL = 1,  /* a doorbell: look at the rings */
    ZH_EVENT_LINK = 2,  /* a link's socket or its peer's pidfd: call zh_link_serve */
    ZH_EVENT_USER = 3,  /* a descriptor added with zh_pump_watch */
    ZH_EVENT_WAKE = 4,  /* zh_pump_wake */
    ZH_EVENT_TIMER = 5, /* the time given to zh_pump_timer has come */
};

struct zh_event {
    uint32_t kind;
    uint64_t key; /* link: zh_link_key; user: the caller's */
};

#define ZH_PUMP_EVENTS 64

/* CLOCK_MONOTONIC in nanoseconds: the clock of deadlines. */
ZH_API uint64_t zh_now(void);

ZH_API struct zh_pump *zh_pump_create(int *error);
/* All links must have been closed. */
ZH_API void zh_pump_destroy(struct zh_pump *pump);

/* The epoll descriptor, for an event loop to watch. Readable when zh_pump_events has something. */
ZH_API int zh_pump_fd(const struct zh_pump *pump);

/* Watch a further descriptor (level-triggered, for reading). `key` below 2^56. */
ZH_API int zh_pump_watch(struct zh_pump *pump, int fd, uint64_t key);
ZH_API int zh_pump_unwatch(struct zh_pump *pump, int fd);

/*
 * For a pump whose own waiter may be away: another one looks after it. That one hears of each event
 * of `other` from now on, once (until zh_pump_unwatch of its zh_pump_fd), as ZH_EVENT_USER; takes
 * none of them from it; and has the peers ring anew by zh_pump_renew, after which it is to look at
 * the rings.
 */
ZH_API int zh_pump_watch_pump(struct zh_pump *pump, const struct zh_pump *other, uint64_t key);
/* Make the epoch odd, and another one than it was. Not beside zh_pump_arm and zh_pump_disarm. */
ZH_API void zh_pump_renew(struct zh_pump *pump);
/* Loans of the pump's links, also of such as linger, that hold something (zh_hold). */
ZH_API uint32_t zh_pump_holds(struct zh_pump *pump);
/* Serve the lingering links, whatever has happened. */
ZH_API void zh_pump_serve_lingering(struct zh_pump *pump);

/* Is there a record or a return in any link? Reads only the heads. */
ZH_API bool zh_pump_ready(struct zh_pump *pump);

/*
 * Before sleeping: make the epoch odd, fence, look at all heads once more. Returns true when
 * something is there (the epoch is even again, do not sleep).
 */
ZH_API bool zh_pump_arm(struct zh_pump *pump);
/* After sleeping, or when somebody polls again: make the epoch even. */
ZH_API void zh_pump_disarm(struct zh_pump *pump);

/*
 * Spin until zh_pump_ready, `until` (nanoseconds) or `*stop` is nonzero: pauses, with a sched_yield
 * every 64 of them. Returns whether something is there.
 */
ZH_API bool zh_pump_spin(struct zh_pump *pump, uint64_t until, const _Atomic uint32_t *stop);

/*
 * Collect events, sleeping up to `timeout` nanoseconds (negative: for ever, 0: not at all).
 * Returns their number, 0 on time-out or -EINTR.
 */
ZH_API int zh_pump_events(struct zh_pump *pump, struct zh_event *events, int64_t timeout);

/* Let a sleeper return, from any thread or a signal handler. */
ZH_API void zh_pump_wake(struct zh_pump *pump);

/* Arm the timer for CLOCK_MONOTONIC `when`, if that is earlier than what it is armed for; it may
 * ring early, never late. A system call only when the time gets earlier. */
ZH_API void zh_pump_timer(struct zh_pump *pump, uint64_t when);

#endif
