/* Pumps as Python objects: links, deadlines, queues, and polling by an event loop. */
#include "native.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "wait.h"
#include "zerohop/fork.h"
#include "zerohop/ring.h"

PyTypeObject *Pump_Type;
static PyObject *ForkError;

/* How often a busy pump looks at its sockets, see wait.c. */
#define EVENTS_EVERY_NS UINT64_C(2000000)

/* A loop that has spun for so long in vain lets others run, if there are any. */
#define YIELD_AFTER_NS UINT64_C(5000)

int pump_check_fork(Pump *pump)
{
    if (pump->fork_generation == zh_fork_now())
        return 0;
    PyErr_SetString(
        ForkError, "this object was made before fork() and belongs to the parent process; make new "
                   "channels and servers in the child");
    return -1;
}

/* --- deadlines: a binary heap, earliest first
 * ----------------------------------------------------- */

static void heap_put(Pump *pump, uint32_t at, Call *call)
{
    pump->heap[at] = call;
    call->heap_index = at + 1;
}

static void heap_up(Pump *pump, uint32_t at, Call *call)
{
    while (at > 0 && pump->heap[(at - 1) / 2]->deadline > call->deadline) {
        heap_put(pump, at, pump->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    heap_put(pump, at, call);
}

static void heap_down(Pump *pump, uint32_t at, Call *call)
{
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= pump->heap_used)
            break;
        if (child + 1 < pump->heap_used &&
            pump->heap[child + 1]->deadline < pump->heap[child]->deadline)
            child++;
        if (pump->heap[child]->deadline >= call->deadline)
            break;
        heap_put(pump, at, pump->heap[child]);
        at = child;
    }
    heap_put(pump, at, call);
}

int pump_add_deadline(Pump *pump, Call *call)
{
    if (call->deadline == 0 || call->heap_index != 0)
        return 0;
    if (pump->heap_used == pump->heap_room) {
        uint32_t room = pump->heap_room == 0 ? 64 : pump->heap_room * 2;
        Call **heap = realloc(pump->heap, room * sizeof(Call *));
        if (heap == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        pump->heap = heap;
        pump->heap_room = room;
    }
    heap_up(pump, pump->heap_used++, call);
    zh_pump_timer(pump->pump, pump->heap[0]->deadline);
    return 0;
}

void pump_remove_deadline(Pump *pump, Call *call)
{
    if (call->heap_index == 0)
        return;
    uint32_t at = call->heap_index - 1;
    call->heap_index = 0;
    Call *last = pump->heap[--pump->heap_used];
    if (last == call)
        return;
    if (last->deadline < call->deadline)
        heap_up(pump, at, last);
    else
        heap_down(pump, at, last);
}

/* Links whose peers stay silent. */
static void expire_greetings(Pump *pump)
{
    for (uint32_t i = pump->link_count; i-- > 0;) {
        if (i < pump->link_count && pump->links[i]->greeting)
            link_on_event(pump->links[i]);
    }
}

static void expire(Pump *pump)
{
    pump->overdue = false;
    if (pump->greeting > 0)
        expire_greetings(pump);
    if (pump->ward_count > 0)
        guard_run(pump);
    for (uint32_t i = 0; i < pump->listener_count; i++) {
        if (pump->listeners[i] != NULL)
            server_resume(pump->listeners[i]);
    }
    if (pump->heap_used == 0)
        return;
    uint64_t now = zh_now();
    while (pump->heap_used > 0 && pump->heap[0]->deadline <= now) {
        Call *call = (Call *)Py_NewRef((PyObject *)pump->heap[0]);
        pump_remove_deadline(pump, call);
        call_expired(call);
        Py_DECREF((PyObject *)call);
    }
    if (pump->heap_used > 0)
        zh_pump_timer(pump->pump, pump->heap[0]->deadline);
}

/* --- queues
 * --------------------------------------------------------------------------------------- */

void pump_push_call(Pump *pump, Call *call)
{
    Py_INCREF((PyObject *)call);
    call->next = NULL;
    *pump->calls_tail = call;
    pump->calls_tail = &call->next;
}

Call *pump_pop_call(Pump *pump)
{
    Call *call = pump->calls;

    if (call != NULL) {
        pump->calls = call->next;
        if (pump->calls == NULL)
            pump->calls_tail = &pump->calls;
        call->next = NULL;
    }
    return call;
}

void pump_push_event(Pump *pump, Call *call)
{
    if (call->queued_event)
        return;
    Py_INCREF((PyObject *)call);
    call->queued_event = true;
    call->event_next = NULL;
    *pump->events_tail = call;
    pump->events_tail = &call->event_next;
    pump_kick(pump);
}

/* Resolve the future that waits for the end of a call, unless it has been cancelled. */
static void resolve(Call *call)
{
    static PyObject *done, *set_result;
    PyObject *waiter = call->waiter;

    call->waiter = NULL;
    if (done == NULL)
        done = PyUnicode_InternFromString("done");
    if (set_result == NULL)
        set_result = PyUnicode_InternFromString("set_result");
    PyObject *result = PyObject_CallMethodObjArgs(waiter, done, NULL);
    if (result == Py_False) {
        Py_DECREF(result);
        result = PyObject_CallMethodObjArgs(waiter, set_result, Py_None, NULL);
    }
    if (result == NULL)
        PyErr_WriteUnraisable(waiter);
    Py_XDECREF(result);
    Py_DECREF(waiter);
}

void pump_run_events(Pump *pump)
{
    /* Only what is there now: callbacks that make events shall not keep us for ever. */
    Call *list = pump->events;

    pump->events = NULL;
    pump->events_tail = &pump->events;
    while (list != NULL) {
        Call *call = list;
        list = call->event_next;
        call->event_next = NULL;
        call->queued_event = false;
        uint32_t events = call->events;
        call->events = 0;
        if (call->waiter != NULL && call->done)
            resolve(call);
        PyObject *on_event = call->on_event;
        if (on_event != NULL && events != 0) {
            Py_INCREF(on_event);
            PyObject *mask = PyLong_FromUnsignedLong(events);
            PyObject *result =
                mask == NULL ? NULL : PyObject_CallFunctionObjArgs(on_event, mask, NULL);
            if (result == NULL)
                write_unraisable(on_event);
            Py_XDECREF(result);
            Py_XDECREF(mask);
            Py_DECREF(on_event);
        }
        if (pump->aio && call->done && call->pinned) {
            call->pinned = false;
            Py_DECREF((PyObject *)call); /* not the last reference: the list has one */
        }
        Py_DECREF((PyObject *)call);
    }
}

void pump_background(Pump *pump, int change)
{
    pump->background = (uint32_t)((int)pump->background + change);
    if (change > 0 && pump->background == 1 && pump->sleepers == 0 &&
        (pump->threads == 0 || pump->parked_for_good > 0))
        pump_kick(pump);
}

/* --- links
 * ---------------------------------------------------------------------------------------- */

int pump_add_link(Pump *pump, Link *link)
{
    if (pump->link_count == pump->link_room) {
        uint32_t room = pump->link_room == 0 ? 16 : pump->link_room * 2;
        Link **links = realloc(pump->links, room * sizeof(Link *));
        if (links == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        pump->links = links;
        pump->link_room = room;
    }
    pump->links[pump->link_count++] = (Link *)Py_NewRef((PyObject *)link);
    return 0;
}

void pump_remove_link(Pump *pump, Link *link)
{
    for (uint32_t i = 0; i < pump->link_count; i++) {
        if (pump->links[i] == link) {
            pump->links[i] = pump->links[--pump->link_count];
            Py_DECREF((PyObject *)link);
            return;
        }
    }
}

/* Deliver what every link has, and what time has brought. Only by the holder. */
void pump_dispatch(Pump *pump)
{
    /* First, since what follows may set a timer, whose last ring must be taken before. */
    uint64_t now = zh_now();
    if (now - pump->last_events > EVENTS_EVERY_NS)
        pump_poll_events(pump);
    for (uint32_t i = pump->link_count; i-- > 0;) {
        /* A link that dies takes another one's place in the list; that one comes at the next call.
         */
        if (i >= pump->link_count)
            continue;
        Link *link = pump->links[i];
        if (zh_link_ready(link->link) || (link->stalled != NULL && link_may_unstall(link, now))) {
            Py_INCREF((PyObject *)link);
            link_dispatch(link);
            Py_DECREF((PyObject *)link);
        }
    }
    expire(pump);
}

/*
 * Slots that came free while the epoch was even rang nobody, and they make no link ready: look once
 * more before the sleep. Returns whether that has helped anybody.
 */
static bool retry_stalled(Pump *pump)
{
    pump->holder = pump;
    for (uint32_t i = pump->link_count; i-- > 0;) {
        if (i < pump->link_count && pump->links[i]->stalled != NULL) {
            Link *link = (Link *)Py_NewRef((PyObject *)pump->links[i]);
            link_unstall(link);
            Py_DECREF((PyObject *)link);
        }
    }
    pump->holder = NULL;
    return pump->events != NULL;
}

/* --- the type
 * ------------------------------------------------------------------------------------- */

static PyObject *pump_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"aio", "spawn", NULL};
    int aio = 0;
    PyObject *spawn = NULL;
    int error;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|pO:Pump", names, &aio, &spawn))
        return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Pump *pump = (Pump *)alloc(type, 0);
    if (pump == NULL)
        return NULL;
    pump->calls_tail = &pump->calls;
    pump->events_tail = &pump->events;
    pump->fork_generation = zh_fork_now();
    pump->aio = aio != 0;
    pump->spin_ns = spin_limit();
    pump->spawn = Py_XNewRef(spawn);
    pump->pump = zh_pump_create(&error);
    if (pump->pump == NULL) {
        errno = -error;
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF((PyObject *)pump);
        return NULL;
    }
    return (PyObject *)pump;
}

static int pump_traverse(Pump *pump, visitproc visit, void *arg)
{
    Py_VISIT(TYPE_OF(pump));
    Py_VISIT(pump->spawn);
    Py_VISIT(pump->before);
    for (uint32_t i = 0; i < pump->ward_count; i++)
        Py_VISIT(pump->wards[i]);
    for (uint32_t i = 0; i < pump->link_count; i++)
        Py_VISIT(pump->links[i]);
    for (uint32_t i = 0; i < pump->listener_count; i++)
        Py_VISIT(pump->listeners[i]);
    for (Call *call = pump->calls; call != NULL; call = call->next)
        Py_VISIT(call);
    for (Call *call = pump->events; call != NULL; call = call->event_next)
        Py_VISIT(call);
    return 0;
}

static int pump_clear(Pump *pump)
{
    Py_CLEAR(pump->spawn);
    Py_CLEAR(pump->before);
    guard_clear(pump);
    while (pump->link_count > 0) {
        Link *link = pump->links[pump->link_count - 1];
        Py_INCREF((PyObject *)link);
        link_close(link, STATUS_CANCELLED, "the pump was dropped");
        pump_remove_link(pump, link);
        Py_DECREF((PyObject *)link);
    }
    for (uint32_t i = 0; i < pump->listener_count; i++)
        Py_CLEAR(pump->listeners[i]);
    Call *call;
    while ((call = pump_pop_call(pump)) != NULL)
        Py_DECREF((PyObject *)call);
    while ((call = pump->events) != NULL) {
        pump->events = call->event_next;
        if (pump->events == NULL)
            pump->events_tail = &pump->events;
        call->event_next = NULL;
        call->queued_event = false;
        Py_DECREF((PyObject *)call);
    }
    return 0;
}

static void pump_dealloc(Pump *pump)
{
    PyTypeObject *type = TYPE_OF(pump);

    PyObject_GC_UnTrack(pump);
    if (pump->pump != NULL)
        pump_clear(pump);
    zh_pump_destroy(pump->pump);
    free(pump->links);
    free(pump->listeners);
    free(pump->heap);
    free(pump->wards);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(pump);
    Py_DECREF(type);
}

static PyObject *pump_connect(Pump *pump, PyObject *args)
{
    const char *path, *agent;
    PyObject *uids;
    double timeout;
    uint32_t allow[64];
    char why[512];
    int error = 0;

    if (!PyArg_ParseTuple(args, "ssO!d:connect", &path, &agent, &PyTuple_Type, &uids, &timeout) ||
        pump_check_fork(pump) != 0)
        return NULL;
    Py_ssize_t count = PyTuple_Size(uids);
    if (count > 64)
        count = 64;
    for (Py_ssize_t i = 0; i < count; i++)
        allow[i] = (uint32_t)PyLong_AsUnsignedLong(PyTuple_GetItem(uids, i));
    if (PyErr_Occurred())
        return NULL;
    struct zh_link_options options = {
        .agent = agent, .allow_uids = allow, .allow_uids_count = (size_t)count};
    struct zh_link *zh;
    int64_t ns = timeout < 0     ? 0
                 : timeout > 1e6 ? INT64_C(1000000000000000)
                                 : (int64_t)(timeout * 1e9);
    Py_BEGIN_ALLOW_THREADS
        zh = zh_link_connect(pump->pump, path, &options, ns, &error, why, sizeof(why));
    Py_END_ALLOW_THREADS
    if (zh == NULL) {
        if (error == -EINTR && PyErr_CheckSignals() != 0)
            return NULL;
        PyObject *arguments = Py_BuildValue("is", -error, why);
        if (arguments != NULL) {
            PyErr_SetObject(PyExc_OSError, arguments);
            Py_DECREF(arguments);
        }
        return NULL;
    }
    return (PyObject *)link_wrap(pump, zh, NULL);
}

static PyObject *pump_fileno(Pump *pump, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(zh_pump_fd(pump->pump));
}

/*
 * One round for an event loop: deliver, run callbacks, hand new calls to their servers. `events`:
 * the descriptor is readable. Returns whether the loop should call again soon; if not, the epoch is
 * odd and the descriptor will tell.
 */
static PyObject *pump_poll(Pump *pump, PyObject *events)
{
    if (pump->fork_generation != zh_fork_now() || pump->closing)
        Py_RETURN_FALSE;
    if (pump->holder != NULL) /* a callback that runs the loop again, as nested loops do */
        Py_RETURN_TRUE;
    guard_polled(pump);
    pump->holder = pump;
    zh_pump_disarm(pump->pump);
    bool progress = zh_pump_ready(pump->pump);
    /* A loop that polls busily looks at its descriptors itself: no system call for it here. */
    if (events == Py_True)
        pump_poll_events(pump);
    pump_dispatch(pump);
    pump->holder = NULL;
    uint64_t now = zh_now();
    progress = progress || pump->events != NULL || pump->calls != NULL;
    Call *call;
    while ((call = pump_pop_call(pump)) != NULL) {
        serve_call(call);
        Py_DECREF((PyObject *)call);
    }
    pump_run_events(pump);
    if (progress)
        pump->last_progress = now;
    if (pump->closing)
        Py_RETURN_FALSE;
    if (!progress && now - pump->last_progress >= YIELD_AFTER_NS)
        sched_yield();
    if (pump->events != NULL || now - pump->last_progress < spin_limit() ||
        zh_pump_arm(pump->pump) || retry_stalled(pump))
        Py_RETURN_TRUE;
    Py_RETURN_FALSE;
}

/* A caller has posted: the answer may come within the time that the loop polls for. */
static PyObject *pump_expect(Pump *pump, PyObject *Py_UNUSED(ignored))
{
    pump->last_progress = zh_now();
    Py_RETURN_NONE;
}

/* Somebody wants to hear of links that end, though no call is open: listen, or listen no more. */
static PyObject *pump_watch(Pump *pump, PyObject *args)
{
    int change;

    if (!PyArg_ParseTuple(args, "i:watch", &change) || pump_check_fork(pump) != 0)
        return NULL;
    pump_background(pump, change);
    Py_RETURN_NONE;
}

static PyObject *pump_close(Pump *pump, PyObject *Py_UNUSED(ignored))
{
    if (pump->fork_generation != zh_fork_now()) {
        pump->closing = true;
        Py_RETURN_NONE;
    }
    while (pump->link_count > 0) {
        Link *link = pump->links[pump->link_count - 1];
        Py_INCREF((PyObject *)link);
        link_close(link, STATUS_CANCELLED, "the process closes");
        Py_DECREF((PyObject *)link);
    }
    pump_run_events(pump);
    pump->closing = true;
    for (Waiter *waiter = pump->parking; waiter != NULL; waiter = waiter->pump_next)
        waiter_wake(waiter);
    zh_pump_wake(pump->pump);
    Py_RETURN_NONE;
}

static PyObject *pump_links(Pump *pump, PyObject *Py_UNUSED(ignored))
{
    PyObject *list = PyList_New(0);

    for (uint32_t i = 0; list != NULL && i < pump->link_count; i++) {
        if (PyList_Append(list, (PyObject *)pump->links[i]) != 0)
            Py_CLEAR(list);
    }
    return list;
}

/*
 * Take back what peers have returned since anybody looked. Returns do not ring, so on an idle pump
 * they wait; counters and the leak finder want to know now.
 */
static PyObject *pump_settle(Pump *pump, PyObject *Py_UNUSED(ignored))
{
    int token;

    if (pump_check_fork(pump) != 0)
        return NULL;
    if (!pump_hold(pump, &token)) /* whoever holds it looks */
        Py_RETURN_NONE;
    /* Also at the sockets, for links that we have closed and peers still have loans of. An event
     * loop's are its own thread's to look at. */
    if (!pump->aio || pump->closing)
        pump_poll_events(pump);
    for (uint32_t i = pump->link_count; i-- > 0;) {
        if (i < pump->link_count) {
            Link *link = (Link *)Py_NewRef((PyObject *)pump->links[i]);
            link_take_returns(link);
            Py_DECREF((PyObject *)link);
        }
    }
    pump_release(pump, &token);
    if (pump->aio)
        zh_pump_wake(pump->pump);
    Py_RETURN_NONE;
}

static PyMethodDef pump_methods[] = {
    {"connect", (PyCFunction)pump_connect, METH_VARARGS,
     PyDoc_STR(
         "connect(path, agent, allow_uids, timeout)\n--\n\nA link to the server at `path`.\n\n"
         "Raises OSError with a sentence for the user.")},
    {"fileno", (PyCFunction)pump_fileno, METH_NOARGS,
     PyDoc_STR("fileno()\n--\n\nThe epoll descriptor, for an event loop.")},
    {"poll", (PyCFunction)pump_poll, METH_O,
     PyDoc_STR("poll(events)\n--\n\nOne round for an event loop; whether to poll again soon.")},
    {"expect", (PyCFunction)pump_expect, METH_NOARGS,
     PyDoc_STR("expect()\n--\n\nPoll for a while: an answer is on its way.")},
    {"run", (PyCFunction)pump_run, METH_NOARGS,
     PyDoc_STR("run()\n--\n\nBe a background thread of this pump until it closes.")},
    {"watch", (PyCFunction)pump_watch, METH_VARARGS,
     PyDoc_STR("watch(change)\n--\n\nListen for the end of links (+1), or no more (-1).")},
    {"guard", (PyCFunction)guard_add, METH_VARARGS,
     PyDoc_STR("guard(ward, before)\n--\n\nLook after an event loop's pump.")},
    {"links", (PyCFunction)pump_links, METH_NOARGS, PyDoc_STR("links()\n--\n\nThe live links.")},
    {"settle", (PyCFunction)pump_settle, METH_NOARGS,
     PyDoc_STR("settle()\n--\n\nTake back what peers have returned.")},
    {"close", (PyCFunction)pump_close, METH_NOARGS,
     PyDoc_STR("close()\n--\n\nClose all links and end the background threads.")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef pump_members[] = {
    {"threads", T_UINT, offsetof(Pump, threads), READONLY, PyDoc_STR("Background threads.")},
    {"background", T_UINT, offsetof(Pump, background), READONLY,
     PyDoc_STR("Open calls that nobody may be waiting for.")},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot pump_slots[] = {
    {Py_tp_new, (void *)pump_new},
    {Py_tp_dealloc, (void *)pump_dealloc},
    {Py_tp_traverse, (void *)pump_traverse},
    {Py_tp_clear, (void *)pump_clear},
    {Py_tp_methods, pump_methods},
    {Py_tp_members, pump_members},
    {Py_tp_doc, (void *)PyDoc_STR("What one waiter polls: links, listening sockets, deadlines.")},
    {0, NULL},
};

static PyType_Spec pump_spec = {
    .name = "zerohop._native.Pump",
    .basicsize = sizeof(Pump),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = pump_slots,
};

int pump_type_init(PyObject *module)
{
    Pump_Type = (PyTypeObject *)PyType_FromSpec(&pump_spec);
    ForkError = PyErr_NewExceptionWithDoc("zerohop._native.ForkError",
                                          "An object made before a fork was used in the child.",
                                          PyExc_RuntimeError, NULL);
    if (Pump_Type == NULL || ForkError == NULL ||
        PyModule_AddObjectRef(module, "Pump", (PyObject *)Pump_Type) != 0)
        return -1;
    return PyModule_AddObjectRef(module, "ForkError", ForkError);
}
