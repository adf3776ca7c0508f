/* ClientCall and ServerCall: calls as Python sees them. */
#include "native.h"

#include <errno.h>
#include <string.h>

#include "zerohop/fork.h"

PyTypeObject *ClientCall_Type, *ServerCall_Type;

static PyObject *call_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args;
    (void)kwargs;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Call *call = (Call *)alloc(type, 0);

    if (call != NULL) {
        call->fork_generation = zh_fork_now();
        call->code = -1;
        call->client = PyType_IsSubtype(type, ClientCall_Type);
        call->send_credit = STREAM_WINDOW;
        call->recv_window = STREAM_WINDOW;
        call->max_receive = call->max_send = UINT64_MAX;
    }
    return (PyObject *)call;
}

static int call_traverse(Call *call, visitproc visit, void *arg)
{
    Py_VISIT(TYPE_OF(call));
    Py_VISIT(call->link);
    Py_VISIT(call->pump);
    Py_VISIT(call->server);
    Py_VISIT(call->on_event);
    Py_VISIT(call->waiter);
    Py_VISIT(call->owner);
    Py_VISIT(call->entry);
    Py_VISIT(call->user_code);
    Py_VISIT(call->user_details);
    Py_VISIT(call->user_trailing);
    Py_VISIT(call->user_initial);
    return 0;
}

static int call_clear(Call *call)
{
    Py_CLEAR(call->on_event);
    Py_CLEAR(call->waiter);
    Py_CLEAR(call->owner);
    Py_CLEAR(call->entry);
    Py_CLEAR(call->user_code);
    Py_CLEAR(call->user_details);
    Py_CLEAR(call->user_trailing);
    Py_CLEAR(call->user_initial);
    Py_CLEAR(call->link);
    Py_CLEAR(call->server);
    return 0;
}

static void call_dealloc(Call *call)
{
    PyTypeObject *type = TYPE_OF(call);

    PyObject_GC_UnTrack(call);
    if (call->weakrefs != NULL)
        PyObject_ClearWeakRefs((PyObject *)call);
    if (call->pump != NULL)
        pump_remove_deadline(call->pump, call);
    if (call->client)
        client_abandon(call);
    else
        server_call_retired(call);
    call_clear(call);
    queue_clear(&call->inbox);
    Py_CLEAR(call->outbox);
    Py_CLEAR(call->types);
    Py_CLEAR(call->method);
    Py_CLEAR(call->metadata_area);
    Py_CLEAR(call->initial_raw);
    Py_CLEAR(call->trailing_raw);
    Py_CLEAR(call->details);
    Py_CLEAR(call->peer);
    Py_CLEAR(call->pump);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(call);
    Py_DECREF(type);
}

static int require_bytes(PyObject *message)
{
    if (is_outgoing(message))
        return 0;
    PyErr_Format(PyExc_TypeError, "a serialized message is bytes, not %R", TYPE_OF(message));
    return -1;
}

/* Does the message exceed what may be sent? `text` says so then. */
static bool over_limit(const Call *call, PyObject *message, char *text, size_t room)
{
    uint64_t bytes = message_bytes(message);

    if (bytes <= call->max_send)
        return false;
    snprintf(text, room, "Sent message larger than max (%llu vs. %llu)", (unsigned long long)bytes,
             (unsigned long long)call->max_send);
    return true;
}

int client_prepare(Call *call, PyObject *method, PyObject *message, PyObject *metadata,
                   uint64_t deadline, bool end)
{
    char text[128];
    Buffer buffer;

    if (message != NULL && require_bytes(message) != 0)
        return -1;
    if (PyTuple_Check(method)) {
        /* With the fingerprints of its messages: see method_key. */
        call->types = Py_XNewRef(PyTuple_GetItem(method, 1));
        method = PyTuple_GetItem(method, 0);
        if (method == NULL)
            return -1;
    }
    if (!PyUnicode_Check(method)) {
        PyErr_Format(PyExc_TypeError, "the name of a method is a str, not %R", method);
        return -1;
    }
    call->method = Py_NewRef(method);
    call->deadline = deadline;
    call->want_end = end;
    if (message != NULL) /* else send may have left one before the start */
        call->outbox = Py_NewRef(message);
    if (metadata != NULL && metadata != Py_None) {
        buffer_init(&buffer);
        int error = metadata_encode(&buffer, metadata, SECTION_INITIAL);
        char refusal[METADATA_REFUSAL];
        bool too_long = metadata_refused(&buffer, refusal);
        if (error == 0 && buffer.used > 0 && !too_long) {
            call->metadata_area =
                PyBytes_FromStringAndSize((char *)buffer.data, (Py_ssize_t)buffer.used);
            error = call->metadata_area == NULL ? -1 : 0;
        }
        buffer_free(&buffer);
        if (error != 0 && metadata_was_invalid()) {
            client_finish(call, STATUS_INTERNAL, INVALID_METADATA);
            return 0;
        }
        if (error != 0)
            return -1;
        if (too_long) {
            client_finish(call, STATUS_RESOURCE_EXHAUSTED, refusal);
            return 0;
        }
    }
    if (message != NULL && over_limit(call, message, text, sizeof(text)))
        client_finish(call, STATUS_RESOURCE_EXHAUSTED, text);
    else if (deadline != 0 && deadline <= zh_now())
        client_finish(call, STATUS_DEADLINE_EXCEEDED, "Deadline Exceeded");
    return 0;
}

/* A reference of the call to itself, which the garbage collector does not see. */
static void call_pin(Call *call)
{
    if (!call->pinned) {
        Py_INCREF((PyObject *)call);
        call->pinned = true;
    }
}

/* start(owner, link, method, message, metadata, deadline_ns, end, background) */
static PyObject *client_start(Call *call, PyObject *args)
{
    Link *link;
    PyObject *owner, *method, *message, *metadata;
    unsigned long long deadline;
    int end, background;

    if (!PyArg_ParseTuple(args, "OO!OOOKpp:start", &owner, Link_Type, &link, &method, &message,
                          &metadata, &deadline, &end, &background) ||
        pump_check_fork(link->pump) != 0)
        return NULL;
    if (call->done)
        Py_RETURN_NONE; /* cancelled before it started */
    if (call->owner != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a call can be started once");
        return NULL;
    }
    if (call->method == NULL && client_prepare(call, method, message == Py_None ? NULL : message,
                                               metadata, deadline, end != 0) != 0)
        return NULL;
    if (call->done)
        Py_RETURN_NONE;
    call->owner = Py_NewRef(owner);
    int error = client_begin(call, link);
    if (error != 0) {
        client_fail(call, error);
    } else if (!call->done) {
        if (pump_add_deadline(call->pump, call) != 0)
            return NULL;
        if (background && call->pump->aio) {
            call_pin(call);
        } else if (background && !call->background) {
            call->background = true;
            pump_background(call->pump, 1);
        }
    }
    Py_RETURN_NONE;
}

/* prepare(method, message, metadata, deadline_ns, end): what start would check and keep, for a call
 * that has no link yet. */
static PyObject *client_py_prepare(Call *call, PyObject *args)
{
    PyObject *method, *message, *metadata;
    unsigned long long deadline;
    int end;

    if (!PyArg_ParseTuple(args, "OOOKp:prepare", &method, &message, &metadata, &deadline, &end))
        return NULL;
    if (call->done)
        Py_RETURN_NONE;
    if (call->method != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a call can be prepared once");
        return NULL;
    }
    if (client_prepare(call, method, message == Py_None ? NULL : message, metadata, deadline,
                       end != 0) != 0)
        return NULL;
    Py_RETURN_NONE;
}

/* defer(channel, deadline_ns): the link is being looked for; waiting, deadline and cancelling work
 * already. */
static PyObject *client_defer(Call *call, PyObject *args)
{
    PyObject *channel;
    unsigned long long deadline;

    if (!PyArg_ParseTuple(args, "O!K:defer", Channel_Type, &channel, &deadline))
        return NULL;
    Pump *pump = channel_pump(channel);
    if (pump_check_fork(pump) != 0)
        return NULL;
    if (call->done || call->pump != NULL)
        Py_RETURN_NONE;
    call->pump = (Pump *)Py_NewRef((PyObject *)pump);
    call->deadline = deadline;
    call->background = true;
    pump_background(pump, 1);
    if (pump_add_deadline(pump, call) != 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *call_send(Call *call, PyObject *message)
{
    char text[128];

    if (require_bytes(message) != 0 || (call->pump != NULL && pump_check_fork(call->pump) != 0))
        return NULL;
    if (call->done || call->want_end)
        Py_RETURN_FALSE;
    if (call->outbox != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the message before has not been sent");
        return NULL;
    }
    int error = 0;
    if (over_limit(call, message, text, sizeof(text))) {
        if (call->client)
            client_cancel(call, STATUS_RESOURCE_EXHAUSTED, text);
        else
            server_finish(call, STATUS_RESOURCE_EXHAUSTED, text, NULL, NULL);
        Py_RETURN_FALSE;
    }
    call->outbox = Py_NewRef(message);
    if (!call->client)
        call->sent_initial = true; /* empty, ahead of the first message */
    if (call->started)
        error = call_flush_or_stall(call);
    if (error != 0 && call->client)
        client_fail(call, error);
    else if (error == -EINVAL)
        server_finish(call, STATUS_RESOURCE_EXHAUSTED,
                      "the message is larger than the arena's limit", NULL, NULL);
    return PyBool_FromLong(call->outbox == NULL && !call->done);
}

static PyObject *call_half_close(Call *call, PyObject *Py_UNUSED(ignored))
{
    if (call->pump != NULL && pump_check_fork(call->pump) != 0)
        return NULL;
    if (!call->done && !call->want_end) {
        call->want_end = true;
        if (call->started)
            call_flush_or_stall(call);
    }
    Py_RETURN_NONE;
}

static PyObject *call_recv(Call *call, PyObject *Py_UNUSED(ignored))
{
    PyObject *message = queue_pop(&call->inbox);

    if (message != NULL) {
        call_taken(call, message);
        return message;
    }
    if (call->got_end || call->done)
        Py_RETURN_NONE;
    Py_RETURN_FALSE;
}

/* When a wait of `timeout` seconds (None: for ever) ends; 0 for never. */
static int parse_until(PyObject *timeout, uint64_t *until)
{
    *until = 0;
    if (timeout == NULL || timeout == Py_None)
        return 0;
    double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred())
        return -1;
    if (seconds < 1e9)
        *until = zh_now() + (seconds > 0 ? (uint64_t)(seconds * 1e9) : 0) + 1;
    return 0;
}

static PyObject *call_wait(Call *call, PyObject *args)
{
    unsigned mask;
    PyObject *timeout = NULL;
    uint64_t until;

    if (!PyArg_ParseTuple(args, "I|O:wait", &mask, &timeout) || parse_until(timeout, &until) != 0)
        return NULL;
    if (call_ready(call, mask))
        Py_RETURN_TRUE;
    if (call->pump == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the call has not been started");
        return NULL;
    }
    if (pump_check_fork(call->pump) != 0)
        return NULL;
    int how = pump_wait(call->pump, call, mask, until);
    if (how < 0)
        return NULL;
    return PyBool_FromLong(how == 0);
}

static PyObject *call_next(Call *call, PyObject *Py_UNUSED(ignored))
{
    if (call->inbox.used == 0 && !call->done && !call->got_end && call->pump != NULL) {
        if (pump_check_fork(call->pump) != 0 || pump_wait(call->pump, call, EVENT_MESSAGE, 0) < 0)
            return NULL;
    }
    PyObject *message = queue_pop(&call->inbox);
    if (message == NULL)
        Py_RETURN_NONE;
    call_taken(call, message);
    return message;
}

static PyObject *client_py_cancel(Call *call, PyObject *args)
{
    int code;
    const char *details;

    if (!PyArg_ParseTuple(args, "is:cancel_with", &code, &details))
        return NULL;
    if (call->done)
        Py_RETURN_FALSE;
    call->cancelled = code == STATUS_CANCELLED;
    if (call->pump != NULL && call->pump->fork_generation != zh_fork_now())
        client_finish(call, code, details);
    else
        client_cancel(call, code, details);
    Py_RETURN_TRUE;
}

static PyObject *call_initial(Call *call, PyObject *make)
{
    return metadata_decode(call->initial_raw, SECTION_INITIAL, make);
}

static PyObject *client_trailing(Call *call, PyObject *make)
{
    return metadata_decode(call->trailing_raw, SECTION_TRAILING, make);
}

static PyObject *server_send_initial(Call *call, PyObject *metadata)
{
    struct zh_record header = {.kind = ZH_HEADERS, .call = call->id};
    char refusal[METADATA_REFUSAL];
    Buffer buffer;
    int error = 0;

    if (call->pump != NULL && pump_check_fork(call->pump) != 0)
        return NULL;
    if (call->done || call->sent_initial)
        Py_RETURN_NONE;
    buffer_init(&buffer);
    if (metadata_encode(&buffer, metadata, SECTION_INITIAL) != 0) {
        buffer_free(&buffer);
        if (!metadata_was_invalid())
            return NULL;
        server_finish(call, STATUS_INTERNAL, INVALID_METADATA, NULL, NULL);
        Py_RETURN_NONE;
    }
    if (call->done || call->sent_initial) { /* while Python was asked for the metadata */
        buffer_free(&buffer);
        Py_RETURN_NONE;
    }
    call->sent_initial = true;
    if (metadata_refused(&buffer, refusal)) {
        server_finish(call, STATUS_RESOURCE_EXHAUSTED, refusal, NULL, NULL);
    } else {
        header.metadata_bytes = (uint32_t)buffer.used;
        Link *link = (Link *)Py_NewRef((PyObject *)call->link);
        error = link_post_call(link, &header, buffer.data, NULL, false, ZH_CALLS, false);
        Py_DECREF((PyObject *)link);
    }
    buffer_free(&buffer);
    if (is_exhaustion(error) || error == -EINVAL)
        server_finish(call, STATUS_RESOURCE_EXHAUSTED, "no room for the initial metadata", NULL,
                      NULL);
    Py_RETURN_NONE;
}

static PyObject *server_py_finish(Call *call, PyObject *args)
{
    int code;
    char text[128];
    const char *details;
    Py_ssize_t details_bytes;
    PyObject *trailing, *message;

    if (!PyArg_ParseTuple(args, "iz#OO:finish", &code, &details, &details_bytes, &trailing,
                          &message))
        return NULL;
    if (message != Py_None && require_bytes(message) != 0)
        return NULL;
    if (message == Py_None)
        message = NULL;
    if (message != NULL && over_limit(call, message, text, sizeof(text))) {
        code = STATUS_RESOURCE_EXHAUSTED;
        details = text;
        details_bytes = (Py_ssize_t)strlen(text);
        message = NULL;
    }
    if (call->pump != NULL && call->pump->fork_generation == zh_fork_now())
        server_finish_text(call, code, details, (size_t)details_bytes, trailing, message);
    Py_RETURN_NONE;
}

static PyObject *server_py_cancel(Call *call, PyObject *args)
{
    int code;

    if (!PyArg_ParseTuple(args, "i:cancel_with", &code))
        return NULL;
    if (call->pump != NULL && call->pump->fork_generation == zh_fork_now())
        server_cancelled(call, code);
    Py_RETURN_NONE;
}

static PyObject *server_retire(Call *call, PyObject *Py_UNUSED(ignored))
{
    server_call_retired(call);
    Py_RETURN_NONE;
}

static PyObject *server_peer(Call *call, PyObject *Py_UNUSED(ignored))
{
    PyObject *peer = call->link != NULL ? link_peer(call->link) : call->peer;

    return peer != NULL ? Py_NewRef(peer) : Py_BuildValue("(iIs)", 0, 0u, "");
}

#define SEND_METHOD                                                                                \
    {                                                                                              \
        "send", (PyCFunction)call_send, METH_O,                                                    \
            PyDoc_STR(                                                                             \
                "send(message)\n--\n\nPost or queue one message; whether another may follow.")     \
    }
#define RECV_METHOD                                                                                \
    {                                                                                              \
        "recv", (PyCFunction)call_recv, METH_NOARGS,                                               \
            PyDoc_STR("recv()\n--\n\nA message, None at the end, False when there is none yet.")   \
    }
#define NEXT_METHOD                                                                                \
    {                                                                                              \
        "next", (PyCFunction)call_next, METH_NOARGS,                                               \
            PyDoc_STR("next()\n--\n\nWait for a message; None at the end.")                        \
    }
#define WAIT_METHOD                                                                                \
    {                                                                                              \
        "wait", (PyCFunction)call_wait, METH_VARARGS,                                              \
            PyDoc_STR("wait(events, timeout=None)\n--\n\nWait for one of the events; False on "    \
                      "time-out.")                                                                 \
    }
#define INITIAL_METHOD                                                                             \
    {                                                                                              \
        "initial", (PyCFunction)call_initial, METH_O,                                              \
            PyDoc_STR(                                                                             \
                "initial(make)\n--\n\nInitial metadata received: a tuple of make(key, value).")    \
    }

static PyMethodDef client_methods[] = {
    SEND_METHOD,
    RECV_METHOD,
    NEXT_METHOD,
    WAIT_METHOD,
    INITIAL_METHOD,
    {"start", (PyCFunction)client_start, METH_VARARGS,
     PyDoc_STR(
         "start(channel, link, method, message, metadata, deadline_ns, end, background)\n--\n\n"
         "Post the call, or queue it until there is room.")},
    {"prepare", (PyCFunction)client_py_prepare, METH_VARARGS,
     PyDoc_STR("prepare(method, message, metadata, deadline_ns, end)\n--\n\n"
               "Check and keep what start would, which looks at none of it again.")},
    {"defer", (PyCFunction)client_defer, METH_VARARGS,
     PyDoc_STR("defer(channel, deadline_ns)\n--\n\nLet it be waited for before it is started.")},
    {"half_close", (PyCFunction)call_half_close, METH_NOARGS,
     PyDoc_STR("half_close()\n--\n\nNo more messages.")},
    {"cancel_with", (PyCFunction)client_py_cancel, METH_VARARGS,
     PyDoc_STR("cancel_with(code, details)\n--\n\nGive the call up; False when it is over.")},
    {"trailing", (PyCFunction)client_trailing, METH_O,
     PyDoc_STR("trailing(make)\n--\n\nTrailing metadata: a tuple of make(key, value).")},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef server_methods[] = {
    SEND_METHOD,
    RECV_METHOD,
    NEXT_METHOD,
    WAIT_METHOD,
    INITIAL_METHOD,
    {"send_initial", (PyCFunction)server_send_initial, METH_O,
     PyDoc_STR("send_initial(metadata)\n--\n\nPost the initial metadata, once.")},
    {"finish", (PyCFunction)server_py_finish, METH_VARARGS,
     PyDoc_STR(
         "finish(code, details, trailing, message)\n--\n\nPost the status: the call is over.")},
    {"cancel_with", (PyCFunction)server_py_cancel, METH_VARARGS,
     PyDoc_STR("cancel_with(code)\n--\n\nEnd the call as if the client had given it up.")},
    {"retire", (PyCFunction)server_retire, METH_NOARGS,
     PyDoc_STR("retire()\n--\n\nThe handler has returned.")},
    {"link_peer", (PyCFunction)server_peer, METH_NOARGS,
     PyDoc_STR("link_peer()\n--\n\n(pid, uid, user agent) of the client.")},
    {NULL, NULL, 0, NULL},
};

static PyObject *call_get_code(Call *call, void *Py_UNUSED(closure))
{
    if (!call->done)
        Py_RETURN_NONE;
    return PyLong_FromLong(call->code);
}

static int call_set_on_event(Call *call, PyObject *value, void *Py_UNUSED(closure))
{
    PyObject *old = call->on_event;
    call->on_event = value == NULL || value == Py_None ? NULL : Py_NewRef(value);
    Py_XDECREF(old);
    /* What has happened already is told, too. */
    if (call->on_event != NULL && call->events != 0 && call->pump != NULL) {
        pump_push_event(call->pump, call);
        pump_kick(call->pump);
    }
    return 0;
}

static PyObject *call_get_pinned(Call *call, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(call->pinned);
}

static int call_set_pinned(Call *call, PyObject *value, void *Py_UNUSED(closure))
{
    int pinned = value == NULL ? 0 : PyObject_IsTrue(value);
    if (pinned < 0)
        return -1;
    if (pinned) {
        call_pin(call);
    } else if (call->pinned) {
        call->pinned = false;
        Py_DECREF((PyObject *)call); /* not the last reference: our caller has one */
    }
    return 0;
}

static PyObject *call_get_on_event(Call *call, void *Py_UNUSED(closure))
{
    return Py_NewRef(call->on_event != NULL ? call->on_event : Py_None);
}

static PyObject *call_get_method(Call *call, void *Py_UNUSED(closure))
{
    return Py_NewRef(call->method != NULL ? call->method : Py_None);
}

static PyObject *call_get_writable(Call *call, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(!call->done && call_ready(call, EVENT_WRITABLE));
}

static PyGetSetDef call_getset[] = {
    {"code_number", (getter)call_get_code, NULL, PyDoc_STR("The status code, None until done."),
     NULL},
    {"on_event", (getter)call_get_on_event, (setter)call_set_on_event,
     PyDoc_STR("callable(events): told what has happened, by a background thread or the loop."),
     NULL},
    {"pinned", (getter)call_get_pinned, (setter)call_set_pinned,
     PyDoc_STR("Kept alive until this is set to False again: somebody waits for a callback."),
     NULL},
    {"method", (getter)call_get_method, NULL, PyDoc_STR("The full method name."), NULL},
    {"writable", (getter)call_get_writable, NULL, PyDoc_STR("Would send post at once?"), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef call_members[] = {
    {"deadline_ns", T_ULONGLONG, offsetof(Call, deadline), READONLY,
     PyDoc_STR("CLOCK_MONOTONIC nanoseconds, 0 for none.")},
    {"is_done", T_BOOL, offsetof(Call, done), READONLY, PyDoc_STR("The status is known.")},
    {"was_cancelled", T_BOOL, offsetof(Call, cancelled), READONLY,
     PyDoc_STR(
         "Server: the client gave up, the deadline passed or the link ended. Client: given up "
         "here.")},
    {"got_end", T_BOOL, offsetof(Call, got_end), READONLY,
     PyDoc_STR("No more messages will come.")},
    {"got_initial", T_BOOL, offsetof(Call, got_initial), READONLY,
     PyDoc_STR("The initial metadata is there, or will never be.")},
    {"started", T_BOOL, offsetof(Call, started), READONLY, PyDoc_STR("The call has been posted.")},
    {"sent_initial", T_BOOL, offsetof(Call, sent_initial), READONLY,
     PyDoc_STR("Server: the initial metadata is out.")},
    {"max_receive", T_ULONGLONG, offsetof(Call, max_receive), 0, PyDoc_STR("Bytes of a message.")},
    {"max_send", T_ULONGLONG, offsetof(Call, max_send), 0, PyDoc_STR("Bytes of a message.")},
    {"details_text", T_OBJECT, offsetof(Call, details), READONLY,
     PyDoc_STR("Details of the status.")},
    {"entry", T_OBJECT, offsetof(Call, entry), READONLY,
     PyDoc_STR("Server: the method's handler.")},
    {"waiter", T_OBJECT, offsetof(Call, waiter), 0,
     PyDoc_STR("A future of the event loop, which poll resolves when the call is done.")},
    {"user_code", T_OBJECT, offsetof(Call, user_code), 0, PyDoc_STR("Set by the handler.")},
    {"user_details", T_OBJECT, offsetof(Call, user_details), 0, PyDoc_STR("Set by the handler.")},
    {"user_trailing", T_OBJECT, offsetof(Call, user_trailing), 0, PyDoc_STR("Set by the handler.")},
    {"user_initial", T_OBJECT, offsetof(Call, user_initial), 0, PyDoc_STR("Set by the handler.")},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Call, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot client_slots[] = {
    {Py_tp_new, (void *)call_new},
    {Py_tp_dealloc, (void *)call_dealloc},
    {Py_tp_traverse, (void *)call_traverse},
    {Py_tp_clear, (void *)call_clear},
    {Py_tp_methods, client_methods},
    {Py_tp_members, call_members},
    {Py_tp_getset, call_getset},
    {Py_tp_doc, (void *)PyDoc_STR("The client's side of a call.")},
    {0, NULL},
};

static PyType_Slot server_slots[] = {
    {Py_tp_new, (void *)call_new},
    {Py_tp_dealloc, (void *)call_dealloc},
    {Py_tp_traverse, (void *)call_traverse},
    {Py_tp_clear, (void *)call_clear},
    {Py_tp_methods, server_methods},
    {Py_tp_members, call_members},
    {Py_tp_getset, call_getset},
    {Py_tp_doc, (void *)PyDoc_STR("The server's side of a call.")},
    {0, NULL},
};

static PyType_Spec client_spec = {
    .name = "zerohop._native.ClientCall",
    .basicsize = sizeof(Call),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = client_slots,
};

static PyType_Spec server_spec = {
    .name = "zerohop._native.ServerCall",
    .basicsize = sizeof(Call),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = server_slots,
};

int call_type_init(PyObject *module)
{
    ClientCall_Type = (PyTypeObject *)PyType_FromSpec(&client_spec);
    ServerCall_Type = (PyTypeObject *)PyType_FromSpec(&server_spec);
    if (ClientCall_Type == NULL || ServerCall_Type == NULL ||
        PyModule_AddObjectRef(module, "ClientCall", (PyObject *)ClientCall_Type) != 0 ||
        PyModule_AddIntConstant(module, "EVENT_INITIAL", EVENT_INITIAL) != 0 ||
        PyModule_AddIntConstant(module, "EVENT_MESSAGE", EVENT_MESSAGE) != 0 ||
        PyModule_AddIntConstant(module, "EVENT_WRITABLE", EVENT_WRITABLE) != 0 ||
        PyModule_AddIntConstant(module, "EVENT_DONE", EVENT_DONE) != 0)
        return -1;
    return PyModule_AddObjectRef(module, "ServerCall", (PyObject *)ServerCall_Type);
}
