/*
 * The client's fast path: Channel, which picks a link for each call, and UnaryUnary, which makes a
 * blocking call in one C call.
 */
#include "native.h"

#include <errno.h>
#include <string.h>

#include "wait.h"
#include "zerohop/fork.h"

PyTypeObject *Channel_Type, *UnaryUnary_Type;

/* A channel whose pump nobody has polled for so long looks first whether its links still live. */
#define STALE_NS UINT64_C(2000000)

/* How often a channel by name looks whether servers have come. */
#define REFRESH_NS UINT64_C(50000000)

/* grpcio's words (grpc/_channel.py), which programs and tests look for. */
#define BAD_REQUEST "Exception serializing request!"
#define BAD_RESPONSE "Exception deserializing response!"
#define NO_CREDENTIALS                                                                             \
    "Established channel does not have a sufficient security level to transfer call credential."

typedef struct {
    PyObject_HEAD
    Pump *pump;        /* strong */
    PyObject *links;   /* list of Link, kept by Python */
    Py_ssize_t next;   /* where the round robin is */
    PyObject *acquire; /* callable(deadline_ns, wait_for_ready) -> Link; raises RpcError */
    PyObject *fail;    /* callable(call): raises the RpcError of a call that ended badly */
    PyObject *report;  /* callable(exception, text): logs a serializer's exception */
    PyObject
        *refresh; /* callable(): look for servers that have come; NULL: there is one place only */
    PyObject *fallback; /* callable(multicallable, with_call, args, kwargs): what makes blocking
                           calls while there is no link; NULL: acquire blocks for one */
    uint64_t next_refresh;
    PyObject *call_type;
    uint64_t max_receive;
    uint64_t max_send;
    bool wait_for_ready;
} Channel;

typedef struct {
    PyObject_HEAD
    Channel *channel;
    PyObject *method, *serializer, *deserializer;
} UnaryUnary;

/* --- Channel
 * -------------------------------------------------------------------------------------- */

Pump *channel_pump(PyObject *channel)
{
    return ((Channel *)channel)->pump;
}

static bool alive(const Link *link)
{
    return !link->dead && !link->goaway && zh_link_state(link->link) == ZH_LINK_OPEN;
}

/* Notice the death of links that nobody has been polling. */
static void freshen(Pump *pump)
{
    int token;

    if (pump->aio || pump->sleepers > 0 || pump->holder != NULL ||
        zh_now() - pump->last_events < STALE_NS)
        return;
    if (pump_hold(pump, &token)) {
        pump_poll_events(pump);
        pump_release(pump, &token);
    }
}

/*
 * Nobody polls between a loop's callbacks, or between one thread's calls: what a server has said
 * last, that it takes no more calls, may still lie in the ring.
 */
static void catch_up(Channel *channel)
{
    Pump *pump = channel->pump;
    int token;

    for (Py_ssize_t i = PyList_Size(channel->links); i-- > 0;) {
        if (i >= PyList_Size(channel->links))
            continue; /* one that ended has taken itself out */
        Link *link = (Link *)PyList_GetItem(channel->links, i);
        if (TYPE_OF(link) != Link_Type || link->dead || !zh_link_ready(link->link))
            continue;
        if (pump->aio ? pump->holder != NULL : !pump_hold(pump, &token))
            return;
        if (pump->aio)
            pump->holder = &token;
        Py_INCREF((PyObject *)link);
        link_dispatch(link);
        Py_DECREF((PyObject *)link);
        if (pump->aio)
            pump->holder = NULL;
        else
            pump_release(pump, &token);
    }
}

/* A live link, borrowed; NULL without an exception when there is none. */
static Link *pick(Channel *channel)
{
    Py_ssize_t count = PyList_Size(channel->links);

    if (channel->pump->fork_generation != zh_fork_now())
        return NULL;
    if (channel->refresh != NULL && zh_now() >= channel->next_refresh) {
        channel->next_refresh = zh_now() + REFRESH_NS;
        PyObject *result = PyObject_CallNoArgs(channel->refresh);
        if (result == NULL)
            write_unraisable(channel->refresh);
        Py_XDECREF(result);
    }
    if (count > 0) {
        freshen(channel->pump);
        catch_up(channel);
    }
    count = PyList_Size(channel->links);
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_ssize_t at = (channel->next + i) % count;
        Link *link = (Link *)PyList_GetItem(channel->links, at);
        if (TYPE_OF(link) == Link_Type && alive(link)) {
            channel->next = at + 1;
            return link;
        }
    }
    return NULL;
}

static PyObject *channel_pick(Channel *channel, PyObject *Py_UNUSED(ignored))
{
    Link *link = pick(channel);
    return Py_NewRef(link != NULL ? (PyObject *)link : Py_None);
}

/* End this channel's calls; others may share its links. */
static PyObject *channel_cancel_all(Channel *channel, PyObject *args)
{
    int code;
    const char *details;

    if (!PyArg_ParseTuple(args, "is:cancel_all", &code, &details))
        return NULL;
    if (channel->pump->fork_generation != zh_fork_now())
        Py_RETURN_NONE;
    for (Py_ssize_t i = PyList_Size(channel->links); i-- > 0;) {
        Link *link = (Link *)PyList_GetItem(channel->links, i);
        if (link == NULL || TYPE_OF(link) != Link_Type) {
            PyErr_Clear();
            continue;
        }
        Py_INCREF((PyObject *)link);
        for (uint32_t index = 0; index < ZH_CALLS; index++) {
            Call *call = link->calls[index];
            if (call != NULL && call->owner == (PyObject *)channel) {
                Py_INCREF((PyObject *)call);
                call->cancelled = code == STATUS_CANCELLED;
                client_cancel(call, code, details);
                Py_DECREF((PyObject *)call);
            }
        }
        for (Call *call = link->stalled; call != NULL; call = call->stalled_next) {
            if (!call->started && call->owner == (PyObject *)channel) {
                call->cancelled = code == STATUS_CANCELLED;
                client_cancel(call, code, details);
            }
        }
        Py_DECREF((PyObject *)link);
    }
    Py_RETURN_NONE;
}

/* This channel's open calls; others may share its links. */
static PyObject *channel_calls(Channel *channel, PyObject *Py_UNUSED(ignored))
{
    PyObject *calls = PyList_New(0);

    for (Py_ssize_t i = PyList_Size(channel->links); calls != NULL && i-- > 0;) {
        Link *link = (Link *)PyList_GetItem(channel->links, i);
        if (TYPE_OF(link) != Link_Type)
            continue;
        for (uint32_t index = 0; index < ZH_CALLS && calls != NULL; index++) {
            Call *call = link->calls[index];
            if (call != NULL && call->owner == (PyObject *)channel &&
                PyList_Append(calls, (PyObject *)call) != 0)
                Py_CLEAR(calls);
        }
        for (Call *call = link->stalled; call != NULL && calls != NULL; call = call->stalled_next) {
            if (!call->started && call->owner == (PyObject *)channel &&
                PyList_Append(calls, (PyObject *)call) != 0)
                Py_CLEAR(calls);
        }
    }
    return calls;
}

static PyObject *channel_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *pump;

    (void)kwargs;
    if (!PyArg_ParseTuple(args, "O!:Channel", Pump_Type, &pump))
        return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Channel *channel = (Channel *)alloc(type, 0);
    if (channel == NULL)
        return NULL;
    channel->pump = (Pump *)Py_NewRef(pump);
    channel->max_receive = channel->max_send = UINT64_MAX;
    channel->call_type = Py_NewRef((PyObject *)ClientCall_Type);
    channel->links = PyList_New(0);
    if (channel->links == NULL) {
        Py_DECREF(channel);
        return NULL;
    }
    return (PyObject *)channel;
}

static int channel_traverse(Channel *channel, visitproc visit, void *arg)
{
    Py_VISIT(TYPE_OF(channel));
    Py_VISIT(channel->pump);
    Py_VISIT(channel->links);
    Py_VISIT(channel->acquire);
    Py_VISIT(channel->fail);
    Py_VISIT(channel->report);
    Py_VISIT(channel->refresh);
    Py_VISIT(channel->fallback);
    Py_VISIT(channel->call_type);
    return 0;
}

static int channel_clear(Channel *channel)
{
    Py_CLEAR(channel->links);
    Py_CLEAR(channel->acquire);
    Py_CLEAR(channel->fail);
    Py_CLEAR(channel->report);
    Py_CLEAR(channel->refresh);
    Py_CLEAR(channel->fallback);
    Py_CLEAR(channel->call_type);
    return 0;
}

static void channel_dealloc(Channel *channel)
{
    PyTypeObject *type = TYPE_OF(channel);

    PyObject_GC_UnTrack(channel);
    channel_clear(channel);
    Py_CLEAR(channel->pump);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(channel);
    Py_DECREF(type);
}

/* --- UnaryUnary
 * ----------------------------------------------------------------------------------- */

typedef struct {
    PyObject *request, *timeout, *metadata, *credentials, *wait_for_ready, *compression;
} Arguments;

static bool given(PyObject *value)
{
    return value != NULL && value != Py_None;
}

static int parse_arguments(PyObject *args, PyObject *kwargs, Arguments *a)
{
    static char *names[] = {"request",        "timeout",     "metadata", "credentials",
                            "wait_for_ready", "compression", NULL};

    memset(a, 0, sizeof(*a));
    if (kwargs == NULL && PyTuple_Size(args) == 1) {
        a->request = PyTuple_GetItem(args, 0);
        return 0;
    }
    return PyArg_ParseTupleAndKeywords(args, kwargs, "O|OOOOO", names, &a->request, &a->timeout,
                                       &a->metadata, &a->credentials, &a->wait_for_ready,
                                       &a->compression)
               ? 0
               : -1;
}

static int parse_deadline(PyObject *timeout, uint64_t *deadline)
{
    *deadline = 0;
    if (!given(timeout))
        return 0;
    double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred())
        return -1;
    if (seconds > 1e9) /* 30 years: none, as with grpcio's infinite future */
        return 0;
    *deadline = seconds <= 0 ? 1 : zh_now() + (uint64_t)(seconds * 1e9);
    return 0;
}

/* A (de)serializer raised: log it as grpcio does. Clears the exception. */
static void report(Channel *channel, const char *text)
{
    PyObject *type, *value, *traceback;

    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL && value != NULL)
        PyException_SetTraceback(value, traceback);
    if (channel->report != NULL && value != NULL) {
        PyObject *words = PyUnicode_FromString(text);
        PyObject *result = words == NULL
                               ? NULL
                               : PyObject_CallFunctionObjArgs(channel->report, value, words, NULL);
        if (result == NULL)
            write_unraisable(channel->report);
        Py_XDECREF(result);
        Py_XDECREF(words);
    }
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
}

/*
 * Start the call on `link` (NULL: look for one) and wait for its end. 0, or -1 with an exception;
 * 1 when the link has ended before the call could be posted and there is another way.
 */
static int run(UnaryUnary *self, Call *call, const Arguments *a, Link *link)
{
    Channel *channel = self->channel;
    PyObject *message;
    uint64_t deadline;

    if (channel->pump->fork_generation != zh_fork_now()) {
        client_finish(call, STATUS_FAILED_PRECONDITION, FORKED);
        return 0;
    }
    call->max_receive = channel->max_receive;
    call->max_send = channel->max_send;
    if (parse_deadline(a->timeout, &deadline) != 0)
        return -1;
    if (self->serializer == Py_None)
        message = Py_NewRef(a->request);
    else
        message = PyObject_CallFunctionObjArgs(self->serializer, a->request, NULL);
    if (message == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return -1;
        report(channel, "Exception serializing message!");
        client_finish(call, STATUS_INTERNAL, BAD_REQUEST);
        return 0;
    }
    if (message == Py_None) { /* what a serializer gives that has failed, to grpcio */
        Py_DECREF(message);
        client_finish(call, STATUS_INTERNAL, BAD_REQUEST);
        return 0;
    }
    int error = client_prepare(call, self->method, message, a->metadata, deadline, true);
    Py_DECREF(message);
    if (error != 0)
        return -1;
    if (given(a->credentials))
        client_finish(call, STATUS_LAST, NO_CREDENTIALS);
    if (call->done)
        return 0;

    if (link == NULL)
        link = pick(channel);
    if (link != NULL) {
        Py_INCREF((PyObject *)link);
    } else {
        int wait = channel->wait_for_ready;
        if (given(a->wait_for_ready))
            wait = PyObject_IsTrue(a->wait_for_ready);
        PyObject *ns = PyLong_FromUnsignedLongLong(deadline);
        PyObject *found = ns == NULL ? NULL
                                     : PyObject_CallFunctionObjArgs(
                                           channel->acquire, ns, wait ? Py_True : Py_False, NULL);
        Py_XDECREF(ns);
        if (found == NULL)
            return -1;
        if (TYPE_OF(found) != Link_Type) {
            Py_DECREF(found);
            PyErr_SetString(PyExc_TypeError, "acquire must return a Link");
            return -1;
        }
        link = (Link *)found;
    }
    call->owner = Py_NewRef((PyObject *)channel);
    error = client_begin(call, link);
    Pump *pump = (Pump *)Py_NewRef((PyObject *)link->pump);
    Py_DECREF((PyObject *)link);
    if (error == -EPIPE && channel->fallback != NULL) {
        error = 1;
    } else if (error != 0) {
        client_fail(call, error);
    } else if (!call->done) {
        int how = pump_wait(pump, call, EVENT_DONE, deadline);
        if (how < 0)
            client_cancel(call, STATUS_CANCELLED, "Locally cancelled by application!");
        else if (how > 0)
            client_expired(call);
        error = how < 0 ? -1 : 0;
    }
    Py_DECREF((PyObject *)pump);
    return error < 0 ? (PyErr_Occurred() ? -1 : 0) : error;
}

/* The response of a call that is done, or NULL with the exception that stands for its status. */
static PyObject *conclude(UnaryUnary *self, Call *call)
{
    Channel *channel = self->channel;

    if (call->code == STATUS_OK) {
        PyObject *message = queue_pop(&call->inbox);
        if (message == NULL) {
            call->code = STATUS_INTERNAL;
            call->details = PyUnicode_FromString("the server sent no response");
        } else if (self->deserializer == Py_None) {
            return message;
        } else {
            PyObject *response = PyObject_CallFunctionObjArgs(self->deserializer, message, NULL);
            Py_DECREF(message);
            if (response != NULL)
                return response;
            if (!PyErr_ExceptionMatches(PyExc_Exception))
                return NULL;
            report(channel, "Exception deserializing message!");
            call->code = STATUS_INTERNAL;
            PyObject *details = PyUnicode_FromString(BAD_RESPONSE);
            Py_XDECREF(call->details);
            call->details = details;
        }
    }
    PyObject *result = PyObject_CallFunctionObjArgs(channel->fail, (PyObject *)call, NULL);
    if (result != NULL) {
        Py_DECREF(result);
        PyErr_SetString(PyExc_SystemError, "fail() must raise");
    }
    return NULL;
}

/* The call goes another way: what `fallback` returns. */
static PyObject *fall_back(UnaryUnary *self, PyObject *with_call, PyObject *args, PyObject *kwargs)
{
    return PyObject_CallFunctionObjArgs(self->channel->fallback, (PyObject *)self, with_call, args,
                                        kwargs != NULL ? kwargs : Py_None, NULL);
}

static PyObject *unary_invoke(UnaryUnary *self, PyObject *args, PyObject *kwargs,
                              PyObject *with_call)
{
    Channel *channel = self->channel;
    Link *link = NULL;
    Arguments a;

    if (parse_arguments(args, kwargs, &a) != 0)
        return NULL;
    if (channel->fallback != NULL) {
        link = pick(channel);
        if (link == NULL)
            return fall_back(self, with_call, args, kwargs);
    } else if (pump_check_fork(channel->pump) != 0) {
        return NULL;
    }
    Py_XINCREF((PyObject *)link);
    PyObject *response = NULL;
    Call *call = (Call *)PyObject_CallNoArgs(with_call == Py_True ? channel->call_type
                                                                  : (PyObject *)ClientCall_Type);
    int result = call == NULL ? -1 : run(self, call, &a, link);
    Py_XDECREF((PyObject *)link);
    if (result == 0)
        response = conclude(self, call);
    else if (result > 0)
        response = fall_back(self, with_call, args, kwargs);
    if (result == 0 && response != NULL && with_call == Py_True)
        return Py_BuildValue("(NN)", response, (PyObject *)call);
    Py_XDECREF((PyObject *)call);
    return response;
}

static PyObject *unary_call(UnaryUnary *self, PyObject *args, PyObject *kwargs)
{
    return unary_invoke(self, args, kwargs, Py_False);
}

static PyObject *unary_with_call(UnaryUnary *self, PyObject *args, PyObject *kwargs)
{
    return unary_invoke(self, args, kwargs, Py_True);
}

static PyObject *unary_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *channel, *method, *serializer, *deserializer;

    (void)kwargs;
    if (!PyArg_ParseTuple(args, "O!UOO:UnaryUnary", Channel_Type, &channel, &method, &serializer,
                          &deserializer))
        return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    UnaryUnary *self = (UnaryUnary *)alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->channel = (Channel *)Py_NewRef(channel);
    self->method = method_key(method, serializer, deserializer);
    self->serializer = image_serializer(serializer);
    self->deserializer = Py_NewRef(deserializer);
    if (self->method == NULL || self->serializer == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int unary_traverse(UnaryUnary *self, visitproc visit, void *arg)
{
    Py_VISIT(TYPE_OF(self));
    Py_VISIT(self->channel);
    Py_VISIT(self->serializer);
    Py_VISIT(self->deserializer);
    return 0;
}

static void unary_dealloc(UnaryUnary *self)
{
    PyTypeObject *type = TYPE_OF(self);

    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->channel);
    Py_CLEAR(self->method);
    Py_CLEAR(self->serializer);
    Py_CLEAR(self->deserializer);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyMethodDef channel_methods[] = {
    {"pick", (PyCFunction)channel_pick, METH_NOARGS,
     PyDoc_STR("pick()\n--\n\nThe next live link, or None.")},
    {"calls", (PyCFunction)channel_calls, METH_NOARGS,
     PyDoc_STR("calls()\n--\n\nThis channel's open calls.")},
    {"cancel_all", (PyCFunction)channel_cancel_all, METH_VARARGS,
     PyDoc_STR("cancel_all(code, details)\n--\n\nEnd this channel's calls.")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef channel_members[] = {
    {"links", T_OBJECT, offsetof(Channel, links), READONLY, PyDoc_STR("list of Link, to be kept.")},
    {"acquire", T_OBJECT, offsetof(Channel, acquire), 0,
     PyDoc_STR("acquire(deadline_ns, wait_for_ready) -> Link; raises RpcError.")},
    {"fail", T_OBJECT, offsetof(Channel, fail), 0, PyDoc_STR("fail(call): raise its RpcError.")},
    {"report", T_OBJECT, offsetof(Channel, report), 0,
     PyDoc_STR("report(exception, text): log a serializer's exception.")},
    {"refresh", T_OBJECT, offsetof(Channel, refresh), 0,
     PyDoc_STR("refresh(): look for servers that have come; asked by pick now and then.")},
    {"fallback", T_OBJECT, offsetof(Channel, fallback), 0,
     PyDoc_STR("fallback(multicallable, with_call, args, kwargs): make a blocking unary call while "
               "there is no link, in place of acquire.")},
    {"wait_for_ready", T_BOOL, offsetof(Channel, wait_for_ready), 0,
     PyDoc_STR("What calls do that do not say.")},
    {"call_type", T_OBJECT, offsetof(Channel, call_type), 0, PyDoc_STR("What with_call returns.")},
    {"max_receive", T_ULONGLONG, offsetof(Channel, max_receive), 0,
     PyDoc_STR("Bytes of a message.")},
    {"max_send", T_ULONGLONG, offsetof(Channel, max_send), 0, PyDoc_STR("Bytes of a message.")},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot channel_slots[] = {
    {Py_tp_new, (void *)channel_new},
    {Py_tp_dealloc, (void *)channel_dealloc},
    {Py_tp_traverse, (void *)channel_traverse},
    {Py_tp_clear, (void *)channel_clear},
    {Py_tp_methods, channel_methods},
    {Py_tp_members, channel_members},
    {Py_tp_doc, (void *)PyDoc_STR("Picks a link for each call.")},
    {0, NULL},
};

static PyType_Spec channel_spec = {
    .name = "zerohop._native.Channel",
    .basicsize = sizeof(Channel),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = channel_slots,
};

static PyMethodDef unary_methods[] = {
    {"with_call", (PyCFunction)(void (*)(void))unary_with_call, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("with_call(request, timeout=None, ...)\n--\n\n(response, call).")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot unary_slots[] = {
    {Py_tp_new, (void *)unary_new},
    {Py_tp_dealloc, (void *)unary_dealloc},
    {Py_tp_traverse, (void *)unary_traverse},
    {Py_tp_call, (void *)unary_call},
    {Py_tp_methods, unary_methods},
    {Py_tp_doc, (void *)PyDoc_STR("A unary-unary method of a channel; calling it blocks.")},
    {0, NULL},
};

static PyType_Spec unary_spec = {
    .name = "zerohop._native.UnaryUnary",
    .basicsize = sizeof(UnaryUnary),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = unary_slots,
};

int client_type_init(PyObject *module)
{
    Channel_Type = (PyTypeObject *)PyType_FromSpec(&channel_spec);
    UnaryUnary_Type = (PyTypeObject *)PyType_FromSpec(&unary_spec);
    if (Channel_Type == NULL || UnaryUnary_Type == NULL ||
        PyModule_AddObjectRef(module, "Channel", (PyObject *)Channel_Type) != 0)
        return -1;
    return PyModule_AddObjectRef(module, "UnaryUnary", (PyObject *)UnaryUnary_Type);
}
