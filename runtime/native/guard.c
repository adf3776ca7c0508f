/*
 * Guardians: looking after event loops that others wait for.
 *
 * What a process has handed on it gives back to its owner when the last reader has done so. On a
 * link of an event loop that is the loop's to do: asleep it is woken, but it may have been stopped
 * or closed, or be busy with something else for long. So while loans of a loop's pump hold what
 * others have lent to us, the pump is the ward of the process's synchronous pump, its guardian,
 * whose background thread takes those loans back when the loop has not polled for a while.
 *
 * A loop that polls does it itself; then the guardian looks only whether it still does, by time.
 * Once it does not, the guardian watches the ward's epoll set, for which nobody has to wake up. It
 * collects none of the ward's events and delivers nothing, for which the loop is there.
 *
 * All of this with the GIL. A ward is its guardian's, strong, until it has nothing lent that holds
 * anything; only the holder of the guardian adds to a ward's life or ends it there.
 */
#include "native.h"

#include <stdlib.h>

#include "zerohop/fork.h"
#include "zerohop/ring.h"

/* A loop that has not polled for so long does not run, or has nothing to do. */
#define QUIET_NS UINT64_C(100000000)

/* No listener's: those count from 0. */
#define WARDS_KEY UINT32_MAX

void guard_lent(Link *link)
{
    struct zh_link_info info;
    Pump *pump = link->pump;

    if (pump->guardian != NULL || pump->spawn == NULL)
        return;
    zh_link_info(link->link, &info);
    if (info.holds == 0)
        return;
    PyObject *result = PyObject_CallFunctionObjArgs(pump->spawn, (PyObject *)pump, NULL);
    if (result == NULL)
        write_unraisable(pump->spawn);
    Py_XDECREF(result);
}

static void look_later(Pump *guardian, Pump *ward)
{
    ward->look_at = zh_now() + QUIET_NS;
    zh_pump_timer(guardian->pump, ward->look_at);
}

PyObject *guard_add(Pump *guardian, PyObject *args)
{
    PyObject *object, *before;

    if (!PyArg_ParseTuple(args, "O!O:guard", Pump_Type, &object, &before) ||
        pump_check_fork(guardian) != 0)
        return NULL;
    Pump *ward = (Pump *)object;
    if (ward->guardian != NULL)
        Py_RETURN_NONE;
    if (guardian->ward_count == guardian->ward_room) {
        uint32_t room = guardian->ward_room == 0 ? 4 : guardian->ward_room * 2;
        Pump **wards = realloc(guardian->wards, room * sizeof(Pump *));
        if (wards == NULL)
            return PyErr_NoMemory();
        guardian->wards = wards;
        guardian->ward_room = room;
    }
    guardian->wards[guardian->ward_count++] = (Pump *)Py_NewRef(object);
    ward->guardian = guardian;
    ward->before = Py_NewRef(before);
    ward->polls_seen = ward->polls;
    look_later(guardian, ward);
    pump_background(guardian, 1);
    Py_RETURN_NONE;
}

static void overhear(Pump *guardian, Pump *ward, bool on)
{
    if (ward->overheard == on)
        return;
    if (on)
        ward->overheard = zh_pump_watch_pump(guardian->pump, ward->pump, WARDS_KEY) == 0;
    else if (zh_pump_unwatch(guardian->pump, zh_pump_fd(ward->pump)) == 0)
        ward->overheard = false;
}

static void let_go(Pump *guardian, Pump *ward)
{
    if (guardian->fork_generation == zh_fork_now()) {
        overhear(guardian, ward, false);
        pump_background(guardian, -1);
    }
    ward->guardian = NULL;
    Py_CLEAR(ward->before);
    Py_DECREF((PyObject *)ward);
}

void guard_clear(Pump *guardian)
{
    while (guardian->ward_count > 0)
        let_go(guardian, guardian->wards[--guardian->ward_count]);
}

/* The loop does not poll: take back what its peers have returned, and have them ring next time. */
static void take_back(Pump *ward)
{
    bool idle = ward->events == NULL;

    ward->holder = ward; /* a poll that begins meanwhile is told to come again */
    zh_pump_renew(ward->pump);
    zh_pump_serve_lingering(ward->pump);
    for (uint32_t i = ward->link_count; i-- > 0;) {
        if (i >= ward->link_count || ward->links[i]->greeting)
            continue;
        Link *link = (Link *)Py_NewRef((PyObject *)ward->links[i]);
        /* A link that ends by this is ready, and so left to the loop. */
        zh_link_serve(link->link);
        link_take_returns(link);
        Py_DECREF((PyObject *)link);
    }
    holds_end(); /* also those of links that were closed */
    ward->holder = NULL;
    if (idle && ward->events != NULL)
        zh_pump_wake(ward->pump);
}

static void look(Pump *guardian, Pump *ward)
{
    bool polled = ward->polls != ward->polls_seen || ward->holder != NULL;

    ward->polls_seen = ward->polls;
    ward->look_at = 0;
    if (polled) {
        overhear(guardian, ward, false);
    } else {
        PyObject *result = PyObject_CallNoArgs(ward->before);
        if (result == NULL)
            write_unraisable(ward->before);
        Py_XDECREF(result);
        if (ward->holder == NULL)
            take_back(ward);
        overhear(guardian, ward, true);
    }
    if (!ward->overheard)
        look_later(guardian, ward);
}

void guard_run(Pump *guardian)
{
    uint64_t now = zh_now();

    for (uint32_t i = guardian->ward_count; i-- > 0;) {
        Pump *ward = guardian->wards[i];
        if (ward->look_at == 0)
            continue;
        if (now < ward->look_at) {
            zh_pump_timer(guardian->pump, ward->look_at);
            continue;
        }
        look(guardian, ward);
        if (zh_pump_holds(ward->pump) == 0) {
            guardian->wards[i] = guardian->wards[--guardian->ward_count];
            let_go(guardian, ward);
        }
    }
}

void guard_hear(Pump *guardian, const struct zh_event *events, int count)
{
    for (int i = 0; i < count; i++) {
        if (events[i].kind != ZH_EVENT_USER || events[i].key != WARDS_KEY)
            continue;
        for (uint32_t j = 0; j < guardian->ward_count; j++) {
            if (guardian->wards[j]->look_at == 0)
                look_later(guardian, guardian->wards[j]);
        }
    }
}

void guard_polled(Pump *ward)
{
    /* It runs, and may stop again unheard. Its events it may have collected before the guardian
     * could see any. */
    if (ward->overheard && ward->look_at == 0)
        look_later(ward->guardian, ward);
    ward->polls++;
}
