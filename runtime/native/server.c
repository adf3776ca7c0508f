/* Server: listening sockets, admission and the end of calls. */
#include "native.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "zerohop/fork.h"

PyTypeObject *Server_Type;

/* Connections accepted in one round: others have their turn. */
#define ACCEPT_BATCH 64

void server_accept(Server *server)
{
    uint32_t allow[64];
    size_t count = 0;
    int error = 0;

    if (server->allow_uids != NULL && PyTuple_Check(server->allow_uids)) {
        for (Py_ssize_t i = 0; i < PyTuple_Size(server->allow_uids) && count < 64; i++)
            allow[count++] =
                (uint32_t)PyLong_AsUnsignedLong(PyTuple_GetItem(server->allow_uids, i));
        if (PyErr_Occurred())
            PyErr_Clear();
    }
    struct zh_link_options options = {.agent = "", .allow_uids = allow, .allow_uids_count = count};
    Py_INCREF((PyObject *)server);
    for (uint32_t i = 0; i < server->listener_count; i++) {
        for (int n = 0; n < ACCEPT_BATCH; n++) {
            struct zh_link *zh =
                zh_link_accept(server->pump->pump, server->listeners[i], &options, &error);
            if (zh == NULL) {
                if (error == -EACCES)
                    continue; /* refused, with the reason; the next one may be welcome */
                break;
            }
            uint64_t until = zh_link_greeted_by(zh);
            Link *link = link_wrap(server->pump, zh, server);
            if (link == NULL) {
                PyErr_Clear();
                break;
            }
            zh_pump_timer(server->pump->pump, until);
            Py_DECREF((PyObject *)link);
        }
        /* Out of descriptors: the socket stays readable. Look away for a moment, or we would spin.
         */
        if ((error == -EMFILE || error == -ENFILE) && !server->paused) {
            server->paused = true;
            zh_pump_unwatch(server->pump->pump, server->listeners[i]);
            zh_pump_timer(server->pump->pump, zh_now() + UINT64_C(100000000));
        }
    }
    Py_DECREF((PyObject *)server);
}

void server_resume(Server *server)
{
    if (!server->paused)
        return;
    server->paused = false;
    for (uint32_t i = 0; i < server->listener_count; i++)
        zh_pump_watch(server->pump->pump, server->listeners[i], server->key);
}

int server_admit(Server *server, Link *link, const char **why)
{
    (void)link;
    if (server->stopping) {
        *why = "the server is stopping";
        return STATUS_UNAVAILABLE;
    }
    if (server->max_running >= 0 && server->running >= server->max_running) {
        *why = "Concurrent RPC limit exceeded!";
        return STATUS_RESOURCE_EXHAUSTED;
    }
    return STATUS_OK;
}

void server_call_retired(Call *call)
{
    if (call->running && call->server != NULL) {
        call->running = false;
        call->server->running--;
    }
}

/* Nothing more comes for this server, so that the pump needs to listen for it no longer. */
static void leave_pump(Server *server)
{
    if (!server->listened_for)
        return;
    server->listened_for = false;
    server->pump->servers--;
    if (server->submit != NULL)
        server->pump->pooled--;
}

void server_call_closed(Call *call)
{
    Server *server = call->server;

    if (!call->open || server == NULL)
        return;
    call->open = false;
    server->open--;
    if (server->open == 0 && server->stopping)
        leave_pump(server);
    if (server->open == 0 && server->stopping && server->on_idle != NULL) {
        PyObject *result = PyObject_CallNoArgs(server->on_idle);
        if (result == NULL)
            write_unraisable(server->on_idle);
        Py_XDECREF(result);
    }
}

void server_call_cancelled(Call *call)
{
    Server *server = call->server;

    if (server == NULL || server->on_cancel == NULL)
        return;
    PyObject *result = PyObject_CallFunctionObjArgs(server->on_cancel, (PyObject *)call, NULL);
    if (result == NULL)
        PyErr_WriteUnraisable(server->on_cancel);
    Py_XDECREF(result);
}

static PyObject *server_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *pump;

    if (!PyArg_ParseTuple(args, "O!:Server", Pump_Type, &pump))
        return NULL;
    (void)kwargs;
    if (pump_check_fork((Pump *)pump) != 0)
        return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Server *server = (Server *)alloc(type, 0);
    if (server != NULL) {
        server->pump = (Pump *)Py_NewRef(pump);
        server->call_type = Py_NewRef((PyObject *)ServerCall_Type);
        server->max_running = -1;
        server->max_receive = server->max_send = UINT64_MAX;
    }
    return (PyObject *)server;
}

static int server_traverse(Server *server, visitproc visit, void *arg)
{
    Py_VISIT(TYPE_OF(server));
    Py_VISIT(server->pump);
    Py_VISIT(server->call_type);
    Py_VISIT(server->resolve);
    Py_VISIT(server->types);
    Py_VISIT(server->submit);
    Py_VISIT(server->may_poll);
    Py_VISIT(server->on_call);
    Py_VISIT(server->conclude);
    Py_VISIT(server->on_idle);
    Py_VISIT(server->on_cancel);
    return 0;
}

static int server_clear(Server *server)
{
    Py_CLEAR(server->call_type);
    Py_CLEAR(server->resolve);
    Py_CLEAR(server->types);
    Py_CLEAR(server->submit);
    Py_CLEAR(server->may_poll);
    Py_CLEAR(server->on_call);
    Py_CLEAR(server->conclude);
    Py_CLEAR(server->on_idle);
    Py_CLEAR(server->on_cancel);
    return 0;
}

static void stop_listening(Server *server)
{
    Pump *pump = server->pump;

    if (server->listener_count == 0)
        return;
    if (pump->fork_generation == zh_fork_now()) {
        for (uint32_t i = 0; i < server->listener_count; i++) {
            if (server->serving && !server->paused)
                zh_pump_unwatch(pump->pump, server->listeners[i]);
            zh_fork_close_fd(server->listeners[i]);
        }
        if (server->open == 0) /* running calls may be cancelled, or their clients end */
            leave_pump(server);
    }
    server->listener_count = 0;
    if (server->serving) {
        server->serving = false;
        pump->listeners[server->key] = NULL;
        Py_DECREF((PyObject *)server); /* not the last reference: the caller has one */
    }
}

static void server_dealloc(Server *server)
{
    PyTypeObject *type = TYPE_OF(server);

    PyObject_GC_UnTrack(server);
    server_clear(server);
    Py_CLEAR(server->allow_uids);
    Py_CLEAR(server->pump);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(server);
    Py_DECREF(type);
}

/* A place in the pump's table of listeners: keys of epoll events. */
static int take_key(Server *server)
{
    Pump *pump = server->pump;
    uint32_t key = 0;

    while (key < pump->listener_count && pump->listeners[key] != NULL)
        key++;
    if (key == pump->listener_count) {
        Server **grown = realloc(pump->listeners, (key + 1) * sizeof(Server *));
        if (grown == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        pump->listeners = grown;
        pump->listener_count++;
    }
    pump->listeners[key] = (Server *)Py_NewRef((PyObject *)server);
    server->key = key;
    return 0;
}

static int watch_listener(Server *server, int fd)
{
    int error = zh_pump_watch(server->pump->pump, fd, server->key);
    if (error != 0) {
        errno = -error;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return error;
}

static PyObject *server_listen(Server *server, PyObject *args)
{
    const char *path;
    unsigned mode;
    char why[512];
    Pump *pump = server->pump;

    if (!PyArg_ParseTuple(args, "sI:listen", &path, &mode) || pump_check_fork(pump) != 0)
        return NULL;
    if (server->listener_count == SERVER_LISTENERS) {
        PyErr_SetString(PyExc_RuntimeError, "a server listens on 16 sockets at most");
        return NULL;
    }
    int fd = zh_link_listen(path, mode, why, sizeof(why));
    if (fd < 0) {
        PyObject *arguments = Py_BuildValue("is", -fd, why);
        if (arguments != NULL)
            PyErr_SetObject(PyExc_OSError, arguments);
        Py_XDECREF(arguments);
        return NULL;
    }
    server->listeners[server->listener_count++] = fd;
    if (server->serving && watch_listener(server, fd) != 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *server_start(Server *server, PyObject *Py_UNUSED(ignored))
{
    Pump *pump = server->pump;

    if (pump_check_fork(pump) != 0)
        return NULL;
    if (server->serving || server->listener_count == 0)
        Py_RETURN_NONE;
    if (take_key(server) != 0)
        return NULL;
    server->serving = server->listened_for = true;
    pump->servers++;
    if (server->submit != NULL)
        pump->pooled++;
    for (uint32_t i = 0; i < server->listener_count; i++) {
        if (watch_listener(server, server->listeners[i]) != 0)
            return NULL;
    }
    pump_kick(pump);
    Py_RETURN_NONE;
}

/* Call `each` for the links of this server; the list may change meanwhile. */
static void for_links(Server *server, void (*each)(Link *link))
{
    Pump *pump = server->pump;

    for (uint32_t i = pump->link_count; i-- > 0;) {
        if (i < pump->link_count && pump->links[i]->server == server) {
            Link *link = (Link *)Py_NewRef((PyObject *)pump->links[i]);
            each(link);
            Py_DECREF((PyObject *)link);
        }
    }
}

static void say_goaway(Link *link)
{
    struct zh_record header = {.kind = ZH_GOAWAY};

    if (!link->dead && !link->greeting)
        link_post_call(link, &header, NULL, NULL, false, 0, false);
}

static void cancel_calls(Link *link)
{
    for (uint32_t i = 0; i < ZH_CALLS; i++) {
        Call *call = link->calls[i];
        if (call != NULL) {
            Py_INCREF((PyObject *)call);
            server_cancelled(call, STATUS_UNAVAILABLE);
            Py_DECREF((PyObject *)call);
        }
    }
}

static void close_link(Link *link)
{
    link_close(link, STATUS_UNAVAILABLE, "the server has stopped");
}

static PyObject *server_stop(Server *server, PyObject *Py_UNUSED(ignored))
{
    stop_listening(server);
    server->stopping = true;
    if (server->pump->fork_generation == zh_fork_now())
        for_links(server, say_goaway);
    Py_RETURN_NONE;
}

static PyObject *server_cancel_all(Server *server, PyObject *Py_UNUSED(ignored))
{
    if (server->pump->fork_generation == zh_fork_now())
        for_links(server, cancel_calls);
    Py_RETURN_NONE;
}

static PyObject *server_close_links(Server *server, PyObject *Py_UNUSED(ignored))
{
    if (server->pump->fork_generation == zh_fork_now())
        for_links(server, close_link);
    Py_RETURN_NONE;
}

static PyObject *server_serve_in_pool(Server *server, PyObject *call)
{
    if (!PyObject_TypeCheck(call, ServerCall_Type)) {
        PyErr_SetString(PyExc_TypeError, "a ServerCall is wanted");
        return NULL;
    }
    if (pump_check_fork(server->pump) != 0)
        return NULL;
    return serve_in_pool(server->pump, (Call *)call, server->may_poll);
}

static PyMethodDef server_methods[] = {
    {"listen", (PyCFunction)server_listen, METH_VARARGS,
     PyDoc_STR("listen(path, mode)\n--\n\nBind to a unix socket; may be called again.\n\n"
               "Raises OSError with a sentence for the user.")},
    {"start", (PyCFunction)server_start, METH_NOARGS,
     PyDoc_STR("start()\n--\n\nAccept links and serve calls.")},
    {"stop", (PyCFunction)server_stop, METH_NOARGS,
     PyDoc_STR("stop()\n--\n\nTake no more links and calls; running calls go on.")},
    {"cancel_all", (PyCFunction)server_cancel_all, METH_NOARGS,
     PyDoc_STR("cancel_all()\n--\n\nCancel the running calls: UNAVAILABLE for their clients.")},
    {"close_links", (PyCFunction)server_close_links, METH_NOARGS,
     PyDoc_STR("close_links()\n--\n\nEnd all links of this server.")},
    {"serve_in_pool", (PyCFunction)server_serve_in_pool, METH_O,
     PyDoc_STR("serve_in_pool(call)\n--\n\nIn a pool's thread: run the call, poll on a little.")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef server_members[] = {
    {"call_type", T_OBJECT, offsetof(Server, call_type), 0, PyDoc_STR("Subclass of ServerCall.")},
    {"types", T_OBJECT, offsetof(Server, types), 0,
     PyDoc_STR("types(method) -> what method_types says of its messages.")},
    {"resolve", T_OBJECT, offsetof(Server, resolve), 0,
     PyDoc_STR(
         "resolve(method) -> (behavior, deserializer, serializer) of a unary method whose handler "
         "is the same for every call, or False.")},
    {"submit", T_OBJECT, offsetof(Server, submit), 0,
     PyDoc_STR(
         "submit(call): let a pool run serve_in_pool; unset: run inline. Set it before listen.")},
    {"may_poll", T_OBJECT, offsetof(Server, may_poll), 0,
     PyDoc_STR("may_poll(): may a thread of the pool poll on?")},
    {"on_call", T_OBJECT, offsetof(Server, on_call), 0,
     PyDoc_STR("on_call(call): run what resolve does not cover, and retire the call.")},
    {"conclude", T_OBJECT, offsetof(Server, conclude), 0,
     PyDoc_STR(
         "conclude(call, stage, value): an exception of the deserializer (0), the handler (1), the "
         "serializer (2), or a response (3) to be sent with what the handler has set.")},
    {"on_idle", T_OBJECT, offsetof(Server, on_idle), 0,
     PyDoc_STR("on_idle(): the last call has ended after stop.")},
    {"on_cancel", T_OBJECT, offsetof(Server, on_cancel), 0,
     PyDoc_STR("on_cancel(call): the client has given up, the deadline has passed or the link has "
               "ended.")},
    {"allow_uids", T_OBJECT, offsetof(Server, allow_uids), 0, PyDoc_STR("Tuple of further uids.")},
    {"max_running", T_LONGLONG, offsetof(Server, max_running), 0,
     PyDoc_STR("maximum_concurrent_rpcs, -1 for no limit.")},
    {"max_streams", T_UINT, offsetof(Server, max_streams), 0,
     PyDoc_STR("Calls served at once on a link, 0 for no limit.")},
    {"max_receive", T_ULONGLONG, offsetof(Server, max_receive), 0,
     PyDoc_STR("Bytes of a message.")},
    {"max_send", T_ULONGLONG, offsetof(Server, max_send), 0, PyDoc_STR("Bytes of a message.")},
    {"open", T_UINT, offsetof(Server, open), READONLY, PyDoc_STR("Calls without a status yet.")},
    {"running", T_UINT, offsetof(Server, running), READONLY,
     PyDoc_STR("Calls whose handler has not returned.")},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot server_slots[] = {
    {Py_tp_new, (void *)server_new},
    {Py_tp_dealloc, (void *)server_dealloc},
    {Py_tp_traverse, (void *)server_traverse},
    {Py_tp_clear, (void *)server_clear},
    {Py_tp_methods, server_methods},
    {Py_tp_members, server_members},
    {Py_tp_doc, (void *)PyDoc_STR("Accepts links and admits calls.")},
    {0, NULL},
};

static PyType_Spec server_spec = {
    .name = "zerohop._native.Server",
    .basicsize = sizeof(Server),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = server_slots,
};

int server_type_init(PyObject *module)
{
    Server_Type = (PyTypeObject *)PyType_FromSpec(&server_spec);
    if (Server_Type == NULL)
        return -1;
    return PyModule_AddObjectRef(module, "Server", (PyObject *)Server_Type);
}
