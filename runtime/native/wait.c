/*
 * Waiting: who polls a pump, who sleeps, and who takes over.
 *
 * One thread holds the pump: it alone delivers what arrives, for everybody. A thread that waits for
 * a call takes the pump if nobody has it, spins politely, then sleeps in epoll; others sleep on a
 * futex of their own and are woken by whoever delivers. A background thread serves what nobody
 * waits for. At most one background thread sleeps in epoll (a "sleeper"); while there is one, the
 * epoch is odd unless somebody holds the pump, and a waiter whose spin failed leaves the sleeping
 * to it.
 */
#include "native.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "wait.h"
#include "zerohop/fork.h"
#include "zerohop/stats.h"

/* Invariant 8 of the design: at most 50 us since the last progress, the first 5 with the GIL held.
 */
#define SPIN_NS UINT64_C(50000)
#define SPIN_WITH_GIL_NS UINT64_C(5000)
/* Below this a spin is not worth its start. */
#define SPIN_LEAST_NS UINT64_C(1000)

/* A parked background thread looks this often whether somebody still polls, while calls are open
 * that nobody may be waiting for. */
#define PARK_NS UINT64_C(1000000)

/*
 * The main thread sleeps no longer than this before it looks for signals. One that arrives between
 * the last look and the system call interrupts nothing, and one that another thread takes does not
 * either.
 */
#define SIGNALS_NS UINT64_C(200000000)

static _Atomic uint32_t spinners; /* threads of this process that spin without the GIL */

/* When to wake from a sleep until `until` (0: for ever) to look for signals; may be that time. */
static uint64_t until_signals(uint64_t until)
{
    uint64_t look = zh_now() + SIGNALS_NS;

    return in_main_thread() && (until == 0 || look < until) ? look : until;
}

uint64_t spin_limit(void)
{
    static uint64_t limit = UINT64_MAX;

    if (limit == UINT64_MAX) {
        const char *text = getenv("ZEROHOP_SPIN_US");
        limit = text == NULL ? SPIN_NS : strtoull(text, NULL, 10) * 1000;
        if (limit > SPIN_NS)
            limit = SPIN_NS;
    }
    return limit;
}

static void futex_wait(_Atomic uint32_t *word, uint64_t until)
{
    struct timespec ts = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};

    /* FUTEX_WAIT_BITSET takes an absolute CLOCK_MONOTONIC time. */
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, 0, until != 0 ? &ts : NULL, NULL,
            FUTEX_BITSET_MATCH_ANY);
}

void waiter_wake(Waiter *waiter)
{
    if (atomic_exchange_explicit(&waiter->word, 1, memory_order_release) == 0)
        syscall(SYS_futex, &waiter->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Sleep until woken or `until`, without the GIL. -1 with an exception after a signal that raised
 * one. */
static int waiter_sleep(Waiter *waiter, uint64_t until)
{
    if (!interrupt_pending()) {
        until = until_signals(until);
        Py_BEGIN_ALLOW_THREADS
            if (atomic_load_explicit(&waiter->word, memory_order_acquire) == 0)
                futex_wait(&waiter->word, until);
        Py_END_ALLOW_THREADS
    }
    return PyErr_CheckSignals();
}

static void enlist(Pump *pump, Call *call, Waiter *waiter)
{
    waiter->call_next = call->waiters;
    call->waiters = waiter;
    waiter->pump_next = NULL;
    waiter->pump_prev = pump->waiters_last;
    if (pump->waiters_last != NULL)
        pump->waiters_last->pump_next = waiter;
    else
        pump->waiters = waiter;
    pump->waiters_last = waiter;
}

static void delist(Pump *pump, Call *call, Waiter *waiter)
{
    Waiter **at = &call->waiters;

    while (*at != waiter)
        at = &(*at)->call_next;
    *at = waiter->call_next;
    if (waiter->pump_prev != NULL)
        waiter->pump_prev->pump_next = waiter->pump_next;
    else
        pump->waiters = waiter->pump_next;
    if (waiter->pump_next != NULL)
        waiter->pump_next->pump_prev = waiter->pump_prev;
    else
        pump->waiters_last = waiter->pump_prev;
}

/* Does the pump need somebody who listens when no caller does? */
static bool needs_listener(const Pump *pump)
{
    return pump->servers > 0 || pump->background > 0;
}

bool pump_hold(Pump *pump, void *token)
{
    if (pump->holder != NULL && !pump->holder_idle)
        return false;
    if (pump->holder_idle) {
        pump->holder_idle = false;
        atomic_store_explicit(&pump->evict, 1, memory_order_relaxed);
    }
    pump->holder = token;
    zh_pump_disarm(pump->pump);
    return true;
}

/* Is there something that a background thread must run? */
static bool queued(const Pump *pump)
{
    return pump->calls != NULL || pump->events != NULL;
}

void pump_release(Pump *pump, void *token)
{
    if (pump->holder != token)
        return;
    pump->holder = NULL;
    pump->holder_idle = false;
    if (pump->sleepers > 0) {
        /* Whoever sleeps in epoll listens again, from this moment on. */
        if (zh_pump_arm(pump->pump) || pump->overdue)
            zh_pump_wake(pump->pump);
    } else if (pump->waiters != NULL) {
        waiter_wake(pump->waiters);
    } else if (pump->parked_for_good > 0 && needs_listener(pump)) {
        pump_kick(pump);
    }
    /* What has been delivered to be served, too: the holder may have found what it waited for in
     * the same round, and sleepers do not hear of what lies in our queues. */
    if (queued(pump))
        pump_kick(pump);
}

void pump_handle_events(Pump *pump, const struct zh_event *events, int count)
{
    pump->last_events = zh_now();
    guard_hear(pump, events, count);
    for (int i = 0; i < count; i++) {
        if (events[i].kind == ZH_EVENT_USER && events[i].key < pump->listener_count &&
            pump->listeners[events[i].key] != NULL) {
            server_accept(pump->listeners[events[i].key]);
        } else if (events[i].kind == ZH_EVENT_LINK) {
            for (uint32_t j = 0; j < pump->link_count; j++) {
                if (zh_link_key(pump->links[j]->link) == events[i].key) {
                    link_on_event(pump->links[j]);
                    break;
                }
            }
        }
    }
    holds_end(); /* also those of links that were closed, and whose peers have ended now */
}

void pump_poll_events(Pump *pump)
{
    struct zh_event events[ZH_PUMP_EVENTS];
    int n = zh_pump_events(pump->pump, events, 0);

    pump_handle_events(pump, events, n);
    /* An edge is given once: one that was meant for the thread that sleeps in epoll, so that it
     * serves what is queued, goes on to it. */
    for (int i = 0; i < n; i++) {
        if (events[i].kind == ZH_EVENT_WAKE && pump->sleepers > 0) {
            zh_pump_wake(pump->pump);
            break;
        }
    }
}

/* Spin at most `budget` ns without the GIL. The caller holds the pump. */
bool pump_spin_held(Pump *pump, uint64_t budget, void *token)
{
    bool ready = false;

    if (budget < SPIN_LEAST_NS)
        return zh_pump_ready(pump->pump);
    zh_stat_add(ZH_STAT_SPINS, 1);
    Py_BEGIN_ALLOW_THREADS
        /* One spinner a process: a second one would only take the first one's core. */
        if (atomic_fetch_add_explicit(&spinners, 1, memory_order_relaxed) == 0)
            ready = zh_pump_spin(pump->pump, zh_now() + budget, &pump->evict);
        else
            ready = zh_pump_ready(pump->pump);
        atomic_fetch_sub_explicit(&spinners, 1, memory_order_relaxed);
    Py_END_ALLOW_THREADS
    if (pump->holder != token)
        return false;
    pump->spin_ns = ready ? spin_limit() : pump->spin_ns / 2;
    return ready;
}

/*
 * Sleep in epoll, without the GIL. Not to `arm` is for a thread that sleeps while another one holds
 * the pump: that one arms when it lets go. Returns what zh_pump_events does.
 */
static int sleep_in_epoll(Pump *pump, struct zh_event *events, uint64_t until, bool arm)
{
    uint64_t start = zh_now();
    int64_t timeout = until == 0 ? -1 : until > start ? (int64_t)(until - start) : 0;
    int n = 0;

    Py_BEGIN_ALLOW_THREADS
        if (!arm || !zh_pump_arm(pump->pump)) {
            n = zh_pump_events(pump->pump, events, timeout);
            if (arm)
                zh_pump_disarm(pump->pump);
        }
    Py_END_ALLOW_THREADS
    /* Had we spun on, we would have seen it: so next time do. */
    if (n > 0 && zh_now() - start < SPIN_NS)
        pump->spin_ns = spin_limit();
    return n;
}

enum { WAIT_READY, WAIT_EXPIRED, WAIT_SIGNALS, WAIT_ELSEWHERE };

/* Poll on behalf of a call until it is ready. The caller holds the pump with `token`. */
static int wait_holding(Pump *pump, Call *call, uint32_t mask, uint64_t until, void *token)
{
    struct zh_event events[ZH_PUMP_EVENTS];
    uint64_t start = zh_now();

    for (;;) {
        pump_dispatch(pump);
        if (call_ready(call, mask))
            return WAIT_READY;
        if (queued(pump))
            pump_kick(pump);
        uint64_t now = zh_now();
        uint64_t budget = pump->spin_ns;
        if (until != 0 && now >= until)
            return WAIT_EXPIRED;
        /* Signal handlers run when the pump is no longer ours: they may make calls, too. */
        if (interrupt_pending() || now - start > SIGNALS_NS)
            return WAIT_SIGNALS;
        if (spin_limit() != 0) {
            if (zh_pump_spin(pump->pump, now + SPIN_WITH_GIL_NS, NULL)) {
                pump->spin_ns = spin_limit();
                continue;
            }
            if (until != 0 && until - now < budget)
                budget = until - now;
            if (pump_spin_held(pump, budget, token))
                continue;
        }
        if (call_ready(call, mask))
            return WAIT_READY;
        if (interrupt_pending())
            return WAIT_SIGNALS;
        if (pump->sleepers > 0)
            return WAIT_ELSEWHERE;
        if (pump->overdue)
            continue;
        uint64_t wake = until_signals(until);
        pump->asleep_for = call;
        int n = sleep_in_epoll(pump, events, wake, true);
        pump->asleep_for = NULL;
        pump_handle_events(pump, events, n);
        if (n == -EINTR || (n == 0 && wake != until))
            return WAIT_SIGNALS;
    }
}

/*
 * Whoever held the pump woke us to take it over, perhaps, and we have no use for it: wake the next.
 * (The wake and the end of our own wait may have been one.)
 */
static void pass_on(Pump *pump)
{
    if (pump->holder == NULL && pump->sleepers == 0 && pump->waiters != NULL)
        waiter_wake(pump->waiters);
}

int pump_wait(Pump *pump, Call *call, uint32_t mask, uint64_t until)
{
    Waiter waiter;

    while (!call_ready(call, mask)) {
        if (pump_hold(pump, &waiter)) {
            int how = wait_holding(pump, call, mask, until, &waiter);
            pump_release(pump, &waiter);
            if (how == WAIT_READY)
                return 0;
            if (how == WAIT_EXPIRED)
                return 1;
            if (how == WAIT_SIGNALS) {
                if (PyErr_CheckSignals() != 0)
                    return -1;
                continue;
            }
            if (call_ready(call, mask))
                return 0;
        }
        if (until != 0 && zh_now() >= until) {
            pass_on(pump);
            return 1;
        }
        atomic_init(&waiter.word, 0);
        enlist(pump, call, &waiter);
        int raised = waiter_sleep(&waiter, until);
        delist(pump, call, &waiter);
        if (raised != 0) {
            pass_on(pump);
            return -1;
        }
    }
    pass_on(pump);
    return 0;
}

bool pump_kick(Pump *pump)
{
    if (pump->aio || pump->closing)
        return false;
    /* A background thread that is neither busy with a handler nor asleep will see for itself. */
    if (pump->kicked || pump->threads > pump->serving + pump->parked + pump->sleepers)
        return true;
    if (pump->parking != NULL) {
        Waiter *waiter = pump->parking;
        pump->parking = waiter->pump_next;
        waiter->pump_next = NULL;
        pump->parked--;
        waiter_wake(waiter);
    } else if (pump->sleepers > 0) {
        pump->kicked = true; /* until it has woken */
        zh_pump_wake(pump->pump);
    } else if (pump->threads < BACKGROUND_THREADS && pump->spawn != NULL) {
        pump->threads++;
        PyObject *result = PyObject_CallFunctionObjArgs(pump->spawn, (PyObject *)pump, NULL);
        if (result == NULL) {
            pump->threads--;
            write_unraisable(pump->spawn);
        }
        Py_XDECREF(result);
        return result != NULL;
    } else {
        return false;
    }
    return true;
}

/* This background thread is about to be busy: is another one on its way to listen? */
static bool call_listener(Pump *pump)
{
    if (pump->servers == 0)
        return false;
    pump->serving++; /* this thread, in a moment */
    bool coming = pump_kick(pump);
    pump->serving--;
    return coming;
}

/*
 * A background thread lets go of the pump to run handlers and callbacks, which may be long. Those
 * who wait for calls need somebody who listens meanwhile: on a server another background thread,
 * which then stays asleep in epoll while this one comes back from short handlers and polls on. A
 * waiter would take the pump for itself, and each call would have to be handed over by it.
 */
static void leave_to_serve(Pump *pump, void *token)
{
    bool coming = pump->sleepers == 0 && pump->waiters != NULL && call_listener(pump);

    /* One that was started ran meanwhile, perhaps, and sleeps already: it counts on us to arm. */
    if (coming && pump->sleepers == 0)
        pump->holder = NULL;
    else
        pump_release(pump, token);
}

/*
 * A background thread that has been called to listen finds something to serve first: if nobody
 * listens, somebody else must.
 */
static void before_serving(Pump *pump)
{
    if (pump->holder == NULL && pump->sleepers == 0 && pump->waiters != NULL &&
        !call_listener(pump))
        pass_on(pump);
}

/* Leave the list of parked threads, if a kick has not taken us off. */
static void unpark(Pump *pump, Waiter *waiter)
{
    for (Waiter **at = &pump->parking; *at != NULL; at = &(*at)->pump_next) {
        if (*at == waiter) {
            *at = waiter->pump_next;
            pump->parked--;
            return;
        }
    }
}

/* Look every PARK_NS for so many rounds after the last open call, then sleep for good. */
#define PARK_ROUNDS 100

static int park(Pump *pump, uint32_t *rounds)
{
    Waiter waiter = {.pump_next = pump->parking};
    uint64_t until = 0;

    if (pump->background > 0)
        *rounds = 0;
    if (pump->sleepers == 0 && *rounds < PARK_ROUNDS)
        until = zh_now() + PARK_NS;
    ++*rounds;
    pump->parking = &waiter;
    pump->parked++;
    pump->parked_for_good += until == 0;
    int raised = waiter_sleep(&waiter, until);
    pump->parked_for_good -= until == 0;
    unpark(pump, &waiter);
    return raised;
}

/* Holding the pump with nothing left to deliver: spin where that is ours to do. Is there something?
 */
static bool idle_spin(Pump *pump, void *token)
{
    bool ready;

    /* In front of a pool the pool's threads spin. */
    if (pump->pooled || spin_limit() == 0)
        return false;
    if (zh_pump_spin(pump->pump, zh_now() + SPIN_WITH_GIL_NS, NULL))
        return true;
    pump->holder_idle = true; /* a caller who comes may take the pump over */
    ready = pump_spin_held(pump, pump->spin_ns, token);
    if (pump->holder == token)
        pump->holder_idle = false;
    else
        atomic_store_explicit(&pump->evict, 0, memory_order_relaxed);
    return ready;
}

/* Signals are the main thread's: taken here they would not interrupt what it waits for. */
static void block_signals(void)
{
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
}

static bool took_timer(const struct zh_event *events, int count)
{
    for (int i = 0; i < count; i++) {
        if (events[i].kind == ZH_EVENT_TIMER)
            return true;
    }
    return false;
}

/*
 * The life of a background thread: serve what is queued; listen, if nobody else does; else park.
 * Returns when the pump closes.
 */
PyObject *pump_run(Pump *pump, PyObject *Py_UNUSED(ignored))
{
    struct zh_event events[ZH_PUMP_EVENTS];
    uint32_t rounds = 0;
    int token; /* its address tells this thread's hold from others' */
    int raised = 0;
    int n = 0;
    bool hot = false; /* has served something since it last looked for more */

    block_signals();
    while (!pump->closing && raised == 0) {
        if (queued(pump))
            before_serving(pump);
        if (pump->events != NULL) {
            pump->serving++;
            pump_run_events(pump);
            pump->serving--;
            hot = pump->servers > 0;
            continue;
        }
        if (pump->calls != NULL) {
            Call *call = pump_pop_call(pump);
            pump->serving++;
            serve_call(call);
            pump->serving--;
            Py_DECREF((PyObject *)call);
            hot = pump->servers > 0;
            continue;
        }
        /* Beside a sleeper, poll for what follows what was served, and no longer. */
        if ((pump->sleepers > 0 && !hot) || pump->asleep_for != NULL || !needs_listener(pump)) {
            pass_on(pump); /* to a caller who has left the listening to us */
            raised = park(pump, &rounds);
            continue;
        }
        rounds = 0;
        hot = false;
        /* One that spins idly gives way to callers, not to another one of its kind. */
        bool held = pump->holder == NULL && pump_hold(pump, &token);
        if (held) {
            pump_handle_events(pump, events, n);
            n = 0;
            pump_dispatch(pump);
            if (queued(pump)) {
                leave_to_serve(pump, &token);
                continue;
            }
            if (idle_spin(pump, &token)) {
                hot = pump->servers > 0;
                if (hot && pump->holder == &token && !queued(pump))
                    pump->holder = NULL; /* to be held again at once */
                else
                    pump_release(pump, &token); /* to a caller, if one waits */
                continue;
            }
            if (pump->holder != &token)
                continue;
        } else {
            pump->overdue = pump->overdue || took_timer(events, n);
            guard_hear(pump, events, n);
        }
        /* While we spun, others ran: what they queued they have left to us, who were awake. */
        if (pump->sleepers > 0 || queued(pump) || pump->closing) {
            pump_release(pump, &token);
            continue;
        }
        if (held)
            pump->holder = NULL;
        /* While another thread holds the pump, this one is there for the moment when it lets go.
         * Events that it collects meanwhile will be reported again to whoever holds the pump; the
         * timer's, which are not, it passes on as `overdue`, and wards are looked at by time. */
        pump->sleepers++;
        n = sleep_in_epoll(pump, events, 0, held);
        pump->sleepers--;
        pump->kicked = false;
        raised = PyErr_CheckSignals();
    }
    pump->threads--;
    if (raised != 0)
        return NULL;
    Py_RETURN_NONE;
}
