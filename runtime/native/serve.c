/* Serving: who runs the handler of a call, and how a unary one runs without leaving C more than it
 * must. */
#include "native.h"

#include "wait.h"
#include "zerohop/fork.h"

static PyObject *Context_Type; /* contextvars.Context */

/* How long a thread of the user's pool polls after its last call, before it is the pool's again. */
#define POOL_POLL_NS UINT64_C(50000)

/* What goes wrong where, for Server.conclude. */
enum { STAGE_DESERIALIZE, STAGE_HANDLE, STAGE_SERIALIZE, STAGE_RESPOND };

/*
 * The handler of a call whose method has one that is the same for every call: a tuple (behavior,
 * deserializer, serializer) of a unary-unary method. Borrowed; NULL when Python must look.
 */
static PyObject *fast_entry(Call *call)
{
    Server *server = call->server;

    if (call->entry == NULL || call->entry == Py_None) {
        if (server->resolve == NULL)
            return NULL;
        PyObject *entry = PyObject_CallFunctionObjArgs(server->resolve, call->method, NULL);
        if (entry == NULL) {
            write_unraisable(server->resolve);
            return NULL;
        }
        PyObject *old = call->entry;
        call->entry = entry;
        Py_XDECREF(old);
        if (call->name != ZH_NO_NAME && call->link != NULL && call->link->entries != NULL &&
            PyList_SetItem(call->link->entries, (Py_ssize_t)call->name, Py_NewRef(entry)) != 0)
            PyErr_Clear();
    }
    return PyTuple_Check(call->entry) ? call->entry : NULL;
}

/* Hand an exception or a response with more to it to Python; steals `value`. */
static void conclude(Call *call, int stage, PyObject *value)
{
    PyObject *number = PyLong_FromLong(stage);
    PyObject *conclude_in_python = call->server->conclude;

    if (number != NULL && value != NULL && conclude_in_python != NULL) {
        PyObject *result =
            PyObject_CallFunctionObjArgs(conclude_in_python, (PyObject *)call, number, value, NULL);
        if (result == NULL)
            write_unraisable(conclude_in_python);
        Py_XDECREF(result);
    }
    Py_XDECREF(number);
    Py_XDECREF(value);
    if (PyErr_Occurred())
        PyErr_Clear();
    server_finish(call, STATUS_UNKNOWN, "the handler left no status", NULL, NULL);
}

/* The current exception as an object with its traceback; clears it. */
static PyObject *take_exception(void)
{
    PyObject *type, *value, *traceback;

    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL && value != NULL)
        PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
}

static bool is_set(PyObject *value)
{
    return value != NULL && value != Py_None;
}

static void run_unary(Call *call, PyObject *entry)
{
    PyObject *behavior = PyTuple_GetItem(entry, 0);
    PyObject *deserializer = PyTuple_GetItem(entry, 1);
    PyObject *serializer = PyTuple_GetItem(entry, 2);
    PyObject *message = queue_pop(&call->inbox);
    PyObject *request, *context, *response = NULL, *reply;

    if (deserializer == Py_None) {
        request = message;
    } else {
        request = PyObject_CallFunctionObjArgs(deserializer, message, NULL);
        Py_DECREF(message);
    }
    if (request == NULL || (request == Py_None && deserializer != Py_None)) {
        conclude(call, STAGE_DESERIALIZE, request != NULL ? request : take_exception());
        return;
    }
    context = PyObject_CallNoArgs(Context_Type);
    if (context != NULL) {
        static PyObject *run;
        if (run == NULL)
            run = PyUnicode_InternFromString("run");
        response =
            PyObject_CallMethodObjArgs(context, run, behavior, request, (PyObject *)call, NULL);
        Py_DECREF(context);
    }
    Py_DECREF(request);
    if (response == NULL) {
        conclude(call, STAGE_HANDLE, take_exception());
        return;
    }
    if (call->done) { /* cancelled, expired or aborted meanwhile */
        Py_DECREF(response);
        return;
    }
    if (is_set(call->user_code) || is_set(call->user_details) || is_set(call->user_trailing) ||
        is_set(call->user_initial)) {
        conclude(call, STAGE_RESPOND, response);
        return;
    }
    if (serializer == Py_None) {
        reply = Py_NewRef(response);
    } else {
        reply = PyObject_CallFunctionObjArgs(serializer, response, NULL);
    }
    Py_DECREF(response);
    if (reply == NULL || !is_outgoing(reply)) {
        if (reply != NULL)
            PyErr_Format(PyExc_TypeError, "a serialized message is bytes, not %R", TYPE_OF(reply));
        Py_XDECREF(reply);
        conclude(call, STAGE_SERIALIZE, take_exception());
        return;
    }
    if (message_bytes(reply) > call->max_send) {
        char text[128];
        snprintf(text, sizeof(text), "Sent message larger than max (%llu vs. %llu)",
                 (unsigned long long)message_bytes(reply), (unsigned long long)call->max_send);
        server_finish(call, STATUS_RESOURCE_EXHAUSTED, text, NULL, NULL);
    } else {
        server_finish(call, STATUS_OK, NULL, NULL, reply);
    }
    Py_DECREF(reply);
}

/* Run the handler of a call in this thread. */
static void run_call(Call *call)
{
    if (call->done) { /* ended before anybody ran it */
        server_call_retired(call);
        return;
    }
    /* Without its request at hand the call is not an ordinary one. */
    PyObject *entry = call->inbox.used > 0 ? fast_entry(call) : NULL;
    if (entry != NULL) {
        Py_INCREF(entry);
        run_unary(call, entry);
        Py_DECREF(entry);
        server_call_retired(call);
        return;
    }
    PyObject *on_call = call->server->on_call;
    PyObject *result = NULL;
    if (on_call != NULL)
        result = PyObject_CallFunctionObjArgs(on_call, (PyObject *)call, NULL);
    if (result == NULL) {
        write_unraisable(on_call);
        server_finish(call, STATUS_INTERNAL, "the server could not run the handler", NULL, NULL);
        server_call_retired(call);
    }
    Py_XDECREF(result);
}

void serve_call(Call *call)
{
    PyObject *submit = call->server->submit;

    if (submit == NULL) {
        run_call(call);
        return;
    }
    PyObject *result = PyObject_CallFunctionObjArgs(submit, (PyObject *)call, NULL);
    if (result == NULL) {
        /* A pool that has been shut down. */
        PyErr_Clear();
        server_finish(call, STATUS_UNAVAILABLE, "the server's thread pool takes no more work", NULL,
                      NULL);
        server_call_retired(call);
    }
    Py_XDECREF(result);
}

/*
 * In a thread of the user's pool: run the call, then poll for the next one while that is polite:
 * not longer than POOL_POLL_NS, and only while `may_poll()` says that nobody waits for the thread.
 */
PyObject *serve_in_pool(Pump *pump, Call *call, PyObject *may_poll)
{
    int token; /* its address tells this thread's hold from others' */

    Py_INCREF((PyObject *)call);
    for (;;) {
        run_call(call);
        Py_DECREF((PyObject *)call);
        call = NULL;
        if (pump->closing || pump->aio)
            break;
        PyObject *answer = PyObject_CallNoArgs(may_poll);
        if (answer == NULL)
            return NULL;
        int polite = PyObject_IsTrue(answer);
        Py_DECREF(answer);
        call = pump_pop_call(pump);
        if (call == NULL && polite && spin_limit() != 0 && pump_hold(pump, &token)) {
            pump_dispatch(pump);
            if (pump->calls == NULL && pump_spin_held(pump, POOL_POLL_NS, &token))
                pump_dispatch(pump);
            call = pump_pop_call(pump);
            pump_release(pump, &token);
        }
        if (pump->calls != NULL || pump->events != NULL)
            pump_kick(pump); /* the others are not ours to run: our handler may block */
        if (call == NULL)
            break;
        if (call->server->submit == NULL || call->server->may_poll != may_poll) {
            /* Another server's of this process. */
            serve_call(call);
            Py_DECREF((PyObject *)call);
            break;
        }
    }
    Py_RETURN_NONE;
}

int serve_init(void)
{
    PyObject *module = PyImport_ImportModule("contextvars");
    if (module == NULL)
        return -1;
    Context_Type = PyObject_GetAttrString(module, "Context");
    Py_DECREF(module);
    return Context_Type == NULL ? -1 : 0;
}
