/* Links as Python objects: delivery to calls, and what happens when a link ends. */
#include "native.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "zerohop/fork.h"
#include "zerohop/ring.h"
#include "zerohop/stats.h"

PyTypeObject *Link_Type;

/* Records delivered from one link before the next link has its turn. */
#define BATCH 256

/* --- delivery
 * ------------------------------------------------------------------------------------- */

/* The peer's message, in private memory: new bytes, or NULL with an exception. */
static PyObject *read_message(Link *link, const struct zh_received *received)
{
    size_t bytes = received->header.message_bytes;
    bool in_block = (received->header.flags & ZH_MESSAGE_IN_BLOCK) != 0;

    if (bytes < BIG_COPY && bytes > 0) {
        if (in_block)
            zh_stat_add(ZH_STAT_BYTES_COPIED, bytes);
        return PyBytes_FromStringAndSize((const char *)received->message, (Py_ssize_t)bytes);
    }
    PyObject *message = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)bytes);
    if (message != NULL && bytes > 0) {
        char *to = PyBytes_AsString(message);
        /* Another thread that reads an image meanwhile may find that the peer drops this memory. */
        zh_link_hold(link->link, NULL);
        Py_BEGIN_ALLOW_THREADS
            memcpy(to, received->message, bytes);
        Py_END_ALLOW_THREADS
        zh_link_let_go(link->link, NULL);
        zh_stat_add(ZH_STAT_BYTES_COPIED, bytes);
    }
    return message;
}

/* The record's metadata, private and checked: bytes, or NULL when there is none or it is malformed.
 */
static PyObject *read_metadata(Link *link, const struct zh_received *received)
{
    if (received->header.metadata_bytes == 0)
        return NULL;
    PyObject *raw = PyBytes_FromStringAndSize((const char *)received->metadata,
                                              (Py_ssize_t)received->header.metadata_bytes);
    if (raw == NULL) {
        PyErr_Clear();
        zh_link_fail(link->link, "metadata without memory for it");
        return NULL;
    }
    if ((received->header.flags & ZH_METADATA_IN_BLOCK) != 0)
        zh_stat_add(ZH_STAT_BYTES_COPIED, received->header.metadata_bytes);
    if (!metadata_check((const uint8_t *)PyBytes_AsString(raw), (size_t)PyBytes_Size(raw))) {
        Py_DECREF(raw);
        zh_link_fail(link->link, "malformed metadata");
        return NULL;
    }
    return raw;
}

static void too_large(Call *call, uint64_t bytes)
{
    char text[128];

    snprintf(text, sizeof(text), "Received message larger than max (%llu vs. %llu)",
             (unsigned long long)bytes, (unsigned long long)call->max_receive);
    if (call->client)
        client_cancel(call, STATUS_RESOURCE_EXHAUSTED, text);
    else
        server_finish(call, STATUS_RESOURCE_EXHAUSTED, text, NULL, NULL);
}

/* Take the record's message into the call's inbox. */
static void take_message(Link *link, Call *call, const struct zh_received *received, bool counts)
{
    bool image = (received->header.flags & ZH_IMAGE) != 0;
    uint64_t bytes = received->header.message_bytes + (image ? received->header.outside : 0);

    if (image && !call->images) {
        zh_link_fail(link->link, "an image that was not agreed upon");
        return;
    }
    if (bytes > call->max_receive) {
        too_large(call, bytes);
        return;
    }
    if (counts) {
        if (call->recv_window <= 0) {
            zh_link_fail(link->link, "a stream message without credit");
            return;
        }
        call->recv_window -= MESSAGE_COST(bytes);
        zh_stat_add(ZH_STAT_STREAMS_MESSAGES_RECEIVED, 1);
    }
    PyObject *message = image ? received_new(link, received) : read_message(link, received);
    if (message == NULL || queue_push(&call->inbox, message) != 0) {
        PyErr_Clear();
        if (call->client)
            client_cancel(call, STATUS_RESOURCE_EXHAUSTED, "no memory for the message");
        else
            server_finish(call, STATUS_RESOURCE_EXHAUSTED, "no memory for the message", NULL, NULL);
    }
}

static void deliver_to_client(Link *link, const struct zh_received *received)
{
    const struct zh_record *header = &received->header;
    uint32_t index = (uint32_t)header->call;
    uint32_t generation = (uint32_t)(header->call >> 32);

    if (header->kind == ZH_GOAWAY) {
        link->goaway = true;
        return;
    }
    if (header->kind == ZH_NAMED) {
        if (header->method >= link->next_name || link->agreed[header->method] != AGREED_ASKED)
            zh_link_fail(link->link, "an answer to what was not asked");
        else
            link->agreed[header->method] = header->call == 1 ? AGREED_YES : AGREED_NO;
        return;
    }
    if (index >= ZH_CALLS) {
        zh_link_fail(link->link, "a record for a call that cannot be");
        return;
    }
    if ((generation & 1) == 0 || link->generations[index] != generation)
        return; /* a message that was under way when the status overtook it */
    Call *call = link->calls[index];
    if (call == NULL) {
        /* Given up by us; with its status the index is free again. */
        if (header->kind == ZH_STATUS) {
            link->generations[index]++;
            link->free_list[link->free_count++] = (uint16_t)index;
            link->open_calls--;
            if (link->given_up > 0)
                link_gave_up(link, -1);
        }
        return;
    }
    Py_INCREF((PyObject *)call);
    PyObject *raw = read_metadata(link, received);
    if (header->kind == ZH_HEADERS) {
        if (call->initial_raw == NULL)
            call->initial_raw = Py_XNewRef(raw);
        call->got_initial = true;
        call_event(call, EVENT_INITIAL);
    } else if (header->kind == ZH_MESSAGE && (header->flags & ZH_HAS_MESSAGE) != 0) {
        call->got_initial = true;
        take_message(link, call, received, true);
        call_event(call, EVENT_INITIAL | EVENT_MESSAGE);
    } else if (header->kind == ZH_STATUS) {
        if ((header->flags & ZH_HAS_MESSAGE) != 0)
            take_message(link, call, received, false);
        if (link->calls[index] == call)
            link->calls[index] = NULL;
        link->generations[index]++;
        link->free_list[link->free_count++] = (uint16_t)index;
        link->open_calls--;
        if (!call->done) {
            call->trailing_raw = Py_XNewRef(raw);
            if (raw != NULL)
                call->details = metadata_text((const uint8_t *)PyBytes_AsString(raw),
                                              (size_t)PyBytes_Size(raw), SECTION_DETAILS);
            client_finish(
                call, header->method <= STATUS_LAST ? (int)header->method : STATUS_UNKNOWN, NULL);
        }
    }
    Py_XDECREF(raw);
    Py_DECREF((PyObject *)call);
}

/* Are these the fingerprints of the messages of our handler? */
static uint8_t lays_out_alike(Link *link, PyObject *method, const uint8_t *theirs)
{
    PyObject *resolve = link->server->types;
    PyObject *types = resolve == NULL ? NULL : PyObject_CallFunctionObjArgs(resolve, method, NULL);

    if (types == NULL && resolve != NULL)
        write_unraisable(resolve);
    bool alike = types != NULL && PyBytes_Check(types) && PyBytes_Size(types) == ZH_TYPES_BYTES &&
                 memcmp(PyBytes_AsString(types), theirs, ZH_TYPES_BYTES) == 0;
    Py_XDECREF(types);
    return alike ? AGREED_YES : AGREED_NO;
}

static void deliver_name(Link *link, const struct zh_received *received)
{
    const struct zh_record *header = &received->header;
    PyObject *name = NULL;

    /* Numbers are given in order, so that the list is the table. */
    if ((header->flags & ZH_HAS_MESSAGE) != 0 && header->message_bytes <= ZH_NAME_BYTES &&
        header->method < ZH_NAMES && header->method == (uint32_t)PyList_Size(link->names)) {
        PyObject *text = PyBytes_FromStringAndSize((const char *)received->message,
                                                   (Py_ssize_t)header->message_bytes);
        if (text != NULL)
            name = PyUnicode_FromEncodedObject(text, "utf-8", "strict");
        Py_XDECREF(text);
    }
    if (name == NULL || PyList_Append(link->names, name) != 0 ||
        PyList_Append(link->entries, Py_None) != 0) {
        PyErr_Clear();
        zh_link_fail(link->link, "a name that cannot be");
    } else if (header->metadata_bytes == ZH_TYPES_BYTES) {
        link->agreed[header->method] = lays_out_alike(link, name, received->metadata);
        link->unanswered = true;
    }
    Py_XDECREF(name);
}

static PyObject *method_of(Link *link, const struct zh_record *header, PyObject *raw)
{
    if (header->method != ZH_NO_NAME) {
        PyObject *name = PyList_GetItem(link->names, (Py_ssize_t)header->method);
        if (name == NULL)
            PyErr_Clear();
        return Py_XNewRef(name);
    }
    if (raw == NULL)
        return NULL;
    return metadata_text((const uint8_t *)PyBytes_AsString(raw), (size_t)PyBytes_Size(raw),
                         SECTION_METHOD);
}

/* HTTP/2 would have the client wait; here the call waits in the server, unserved. */
static void defer(Link *link, Call *call)
{
    call->next = NULL;
    *link->deferred_tail = (Call *)Py_NewRef((PyObject *)call);
    link->deferred_tail = &call->next;
    link->deferred_count++;
}

static Call *pop_deferred(Link *link)
{
    Call *call = link->deferred;

    if (call != NULL) {
        link->deferred = call->next;
        if (link->deferred == NULL)
            link->deferred_tail = &link->deferred;
        call->next = NULL;
        link->deferred_count--;
    }
    return call;
}

void link_serve_deferred(Link *link)
{
    while (link->deferred != NULL &&
           (link->deferred->done ||
            link->open_calls - link->deferred_count < link->server->max_streams)) {
        Call *call = pop_deferred(link);
        if (call->done) {
            server_call_retired(call);
        } else {
            pump_push_call(link->pump, call);
            pump_kick(link->pump);
        }
        Py_DECREF((PyObject *)call);
    }
}

static void deliver_call(Link *link, const struct zh_received *received)
{
    const struct zh_record *header = &received->header;
    uint32_t index = (uint32_t)header->call;
    Server *server = link->server;
    const char *why = NULL;

    if (index >= ZH_CALLS || link->calls[index] != NULL) {
        zh_link_fail(link->link, "a call number that is in use");
        return;
    }
    PyObject *raw = read_metadata(link, received);
    PyObject *method = method_of(link, header, raw);
    if (method == NULL) {
        Py_XDECREF(raw);
        zh_link_fail(link->link, "a call of no method");
        return;
    }
    int code = server_admit(server, link, &why);
    if (code != STATUS_OK) {
        link_refuse_call(link, header->call, code, why);
        Py_DECREF(method);
        Py_XDECREF(raw);
        return;
    }
    Call *call = (Call *)PyObject_CallNoArgs(server->call_type);
    if (call == NULL) {
        write_unraisable(server->call_type);
        link_refuse_call(link, header->call, STATUS_INTERNAL, "the server could not take the call");
        Py_DECREF(method);
        Py_XDECREF(raw);
        return;
    }
    zh_stat_add(ZH_STAT_CALLS_HANDLED, 1);
    call->link = (Link *)Py_NewRef((PyObject *)link);
    call->pump = (Pump *)Py_NewRef((PyObject *)link->pump);
    call->server = (Server *)Py_NewRef((PyObject *)server);
    call->id = header->call;
    call->deadline = header->deadline;
    call->method = method;
    call->initial_raw = raw;
    call->max_receive = server->max_receive;
    call->max_send = server->max_send;
    call->started = true;
    call->open = call->running = true;
    server->open++;
    server->running++;
    link->calls[index] = (Call *)Py_NewRef((PyObject *)call);
    link->open_calls++;
    if (header->method != ZH_NO_NAME)
        call->entry = Py_XNewRef(PyList_GetItem(link->entries, (Py_ssize_t)header->method));
    call->name = header->method;
    call->images = (header->flags & ZH_TAKES_IMAGES) != 0 && header->method < ZH_NAMES &&
                   link->agreed[header->method] == AGREED_YES;
    call->got_end = (header->flags & ZH_END_STREAM) != 0;
    if ((header->flags & ZH_HAS_MESSAGE) != 0)
        take_message(link, call, received, false);
    if (pump_add_deadline(link->pump, call) != 0)
        PyErr_Clear();
    if (call->done)
        server_call_retired(call);
    else if (server->max_streams != 0 &&
             link->open_calls - link->deferred_count > server->max_streams)
        defer(link, call);
    else
        pump_push_call(link->pump, call);
    Py_DECREF((PyObject *)call);
}

static void deliver_to_server(Link *link, const struct zh_received *received)
{
    const struct zh_record *header = &received->header;
    uint32_t index = (uint32_t)header->call;

    if (header->kind == ZH_NAME) {
        deliver_name(link, received);
        return;
    }
    if (header->kind == ZH_CALL) {
        deliver_call(link, received);
        return;
    }
    Call *call = index < ZH_CALLS ? link->calls[index] : NULL;
    if (call == NULL || call->id != header->call)
        return; /* ended by us; the client did not know yet */
    Py_INCREF((PyObject *)call);
    if (header->kind == ZH_CANCEL) {
        server_cancelled(call, STATUS_CANCELLED);
    } else if (call->got_end) {
        zh_link_fail(link->link, "a message after the end of its stream");
    } else {
        if (header->kind == ZH_MESSAGE && (header->flags & ZH_HAS_MESSAGE) != 0)
            take_message(link, call, received, true);
        if (header->kind == ZH_HALF_CLOSE || (header->flags & ZH_END_STREAM) != 0)
            call->got_end = true;
        call_event(call, EVENT_MESSAGE);
    }
    Py_DECREF((PyObject *)call);
}

static void deliver_credit(Link *link, const struct zh_return *credit)
{
    uint32_t index = (uint32_t)credit->object;
    Call *call = index < ZH_CALLS ? link->calls[index] : NULL;

    if (call == NULL || call->id != credit->object)
        return;
    if (call->send_credit > INT64_MAX / 2) {
        zh_link_fail(link->link, "credit beyond measure");
        return;
    }
    call->send_credit += credit->value;
    if (call->send_credit <= 0)
        return;
    Py_INCREF((PyObject *)call);
    link_starve(link, call, false);
    if (call->outbox != NULL && !call->stalled) {
        int error = call_flush(call);
        if (is_exhaustion(error))
            link_stall(link, call);
    }
    if (call_ready(call, EVENT_WRITABLE))
        call_event(call, EVENT_WRITABLE);
    Py_DECREF((PyObject *)call);
}

/* Every call of the link is over. */
static void end_calls(Link *link, int code, const char *why)
{
    for (uint32_t i = 0; i < ZH_CALLS; i++) {
        Call *call = link->calls[i];
        if (call == NULL)
            continue;
        Py_INCREF((PyObject *)call);
        if (link->server != NULL)
            server_cancelled(call, code);
        else
            client_finish(call, code, why);
        if (link->calls[i] == call) {
            link->calls[i] = NULL;
            if (link->server != NULL)
                Py_DECREF((PyObject *)call);
        }
        Py_DECREF((PyObject *)call);
    }
    while (link->stalled != NULL) {
        Call *call = link->stalled;
        link->stalled = call->stalled_next;
        call->stalled_next = NULL;
        call->stalled = false;
        if (call->client)
            client_finish(call, code, why);
        Py_DECREF((PyObject *)call);
    }
    link->stalled_tail = &link->stalled;
}

void link_close(Link *link, int code, const char *why)
{
    struct zh_link_info info;

    if (link->dead)
        return;
    link->dead = true;
    link_gave_up(link, -(int)link->given_up);
    if (link->greeting) {
        link->greeting = false;
        link->pump->greeting--;
    }
    zh_link_close(link->link, why);
    if (link->pump->fork_generation == zh_fork_now()) {
        zh_link_info(link->link, &info);
        end_calls(link, code, why != NULL && why[0] != '\0' ? why : info.error);
    } else {
        end_calls(link, code, why);
    }
    pump_remove_link(link->pump, link);
    if (link->on_dead != NULL) {
        PyObject *on_dead = link->on_dead;
        link->on_dead = NULL;
        PyObject *result = PyObject_CallNoArgs(on_dead);
        if (result == NULL)
            write_unraisable(on_dead);
        Py_XDECREF(result);
        Py_DECREF(on_dead);
    }
    holds_end(); /* of what had come back by now */
}

/* The peer has ended the link, and what it had posted has been delivered. */
static void link_ended(Link *link)
{
    struct zh_link_info info;
    char why[256];

    zh_link_info(link->link, &info);
    snprintf(why, sizeof(why), "%s", info.error);
    link_close(link, STATUS_UNAVAILABLE, why);
}

PyObject *link_peer(Link *link)
{
    struct zh_link_info info = {.agent = ""};

    if (link->peer == NULL) {
        if (link->pump->fork_generation == zh_fork_now())
            zh_link_info(link->link, &info);
        link->peer = Py_BuildValue("(iIs)", (int)info.pid, (unsigned)info.uid, info.agent);
        if (link->peer == NULL)
            PyErr_Clear();
    }
    return link->peer;
}

void link_take_returns(Link *link)
{
    struct zh_return credit;

    /* A ring of them at most: a peer that gives credit without end must not keep us here. */
    for (uint32_t i = 0; i < ZH_RETURN_ENTRIES && !link->dead; i++) {
        if (zh_link_next_return(link->link, &credit) != 1)
            break;
        deliver_credit(link, &credit);
    }
    holds_end();
}

void link_dispatch(Link *link)
{
    struct zh_received received;
    int n = 0;

    if (link->dead)
        return;
    link_take_returns(link);
    if (!link->greeting) {
        for (int i = 0; i < BATCH && !link->dead; i++) {
            n = zh_link_next(link->link, &received);
            if (n != 1)
                break;
            if (link->server != NULL)
                deliver_to_server(link, &received);
            else
                deliver_to_client(link, &received);
            /* An image's loan is given back by whoever has it. */
            if (received.loaned && !(link->kept && (received.header.flags & ZH_LOANED) != 0))
                zh_link_give_back(link->link, &received);
            link->kept = false;
            zh_link_consume(link->link, &received);
        }
        zh_link_flush(link->link);
        if (link->unanswered && !link->dead)
            link_answer(link);
    } else if (zh_link_state(link->link) == ZH_LINK_DEAD) {
        n = -EPIPE;
    }
    if (n < 0 && !link->dead)
        link_ended(link);
    else if (link->stalled != NULL && !link->dead)
        link_unstall(link);
}

void link_on_event(Link *link)
{
    Py_INCREF((PyObject *)link);
    if (!link->dead) {
        zh_link_serve(link->link);
        uint32_t state = zh_link_state(link->link);
        if (link->greeting && state != ZH_LINK_GREETING) {
            link->greeting = false;
            link->pump->greeting--;
        }
        if (state == ZH_LINK_DEAD)
            link_dispatch(link);
    }
    Py_DECREF((PyObject *)link);
}

/* --- the type
 * ------------------------------------------------------------------------------------- */

Link *link_wrap(Pump *pump, struct zh_link *zh, Server *server)
{
    own_arena_refresh(); /* the uid may have changed; its peers' arena is where we build */
    allocfunc alloc = (allocfunc)PyType_GetSlot(Link_Type, Py_tp_alloc);
    Link *link = (Link *)alloc(Link_Type, 0);

    if (link != NULL) {
        link->stalled_tail = &link->stalled;
        link->deferred_tail = &link->deferred;
        link->link = zh;
        link->pump = (Pump *)Py_NewRef((PyObject *)pump);
        link->server = (Server *)Py_XNewRef((PyObject *)server);
        link->greeting = server != NULL;
        link->names = server != NULL ? PyList_New(0) : PyDict_New();
        link->entries = server != NULL ? PyList_New(0) : NULL;
        for (uint32_t i = 0; i < ZH_CALLS; i++)
            link->free_list[i] = (uint16_t)(ZH_CALLS - 1 - i);
        link->free_count = ZH_CALLS;
        if (link->names != NULL && (server == NULL || link->entries != NULL) &&
            pump_add_link(pump, link) == 0) {
            pump->greeting += link->greeting;
            return link;
        }
        link->greeting = false;
        link->dead = true;
    }
    zh_link_close(zh, "out of memory");
    if (link != NULL)
        Py_DECREF((PyObject *)link);
    else
        zh_link_unref(zh);
    return NULL;
}

static int link_traverse(Link *link, visitproc visit, void *arg)
{
    Py_VISIT(TYPE_OF(link));
    Py_VISIT(link->pump);
    Py_VISIT(link->server);
    Py_VISIT(link->names);
    Py_VISIT(link->entries);
    Py_VISIT(link->on_dead);
    for (uint32_t i = 0; i < ZH_CALLS && link->server != NULL; i++)
        Py_VISIT(link->calls[i]);
    for (Call *call = link->stalled; call != NULL; call = call->stalled_next)
        Py_VISIT(call);
    return 0;
}

static int link_clear(Link *link)
{
    for (uint32_t i = 0; i < ZH_CALLS; i++) {
        Call *call = link->calls[i];
        link->calls[i] = NULL;
        if (link->server != NULL)
            Py_XDECREF((PyObject *)call);
    }
    while (link->stalled != NULL) {
        Call *call = link->stalled;
        link->stalled = call->stalled_next;
        call->stalled = false;
        Py_DECREF((PyObject *)call);
    }
    link->stalled_tail = &link->stalled;
    Call *call;
    while ((call = pop_deferred(link)) != NULL)
        Py_DECREF((PyObject *)call);
    Py_CLEAR(link->on_dead);
    Py_CLEAR(link->names);
    Py_CLEAR(link->entries);
    Py_CLEAR(link->server);
    return 0;
}

static void link_dealloc(Link *link)
{
    PyTypeObject *type = TYPE_OF(link);

    PyObject_GC_UnTrack(link);
    link_clear(link);
    zh_link_close(link->link, "the link was dropped");
    zh_link_unref(link->link);
    Py_CLEAR(link->peer);
    Py_CLEAR(link->pump);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(link);
    Py_DECREF(type);
}

static PyObject *link_py_close(Link *link, PyObject *args)
{
    const char *why;
    int code;

    if (!PyArg_ParseTuple(args, "is:close", &code, &why))
        return NULL;
    link_close(link, code, why);
    Py_RETURN_NONE;
}

static PyObject *link_py_info(Link *link, PyObject *Py_UNUSED(ignored))
{
    struct zh_link_info info = {.agent = "", .error = "made before fork"};

    if (link->pump->fork_generation == zh_fork_now())
        zh_link_info(link->link, &info);
    return Py_BuildValue(
        "{s:i,s:I,s:I,s:I,s:K,s:s,s:s}", "pid", (int)info.pid, "uid", (unsigned)info.uid,
        "open_calls", (unsigned)link->open_calls, "loans", (unsigned)info.loans_open, "lent_bytes",
        (unsigned long long)info.lent_bytes, "agent", info.agent, "error", info.error);
}

typedef struct {
    uint32_t count;
    struct {
        uint64_t bytes, tag;
    } loans[ZH_LOANS];
} LoanList;

/* Under the link's mutex: no Python here, which may collect garbage that posts. */
static void list_loan(void *context, const struct zh_ledger_entry *entry)
{
    LoanList *list = context;

    list->loans[list->count].bytes = entry->bytes;
    list->loans[list->count++].tag = entry->tag;
}

static PyObject *link_py_loans(Link *link, PyObject *Py_UNUSED(ignored))
{
    LoanList found = {0};

    if (link->pump->fork_generation == zh_fork_now())
        zh_link_loans(link->link, list_loan, &found);
    PyObject *list = PyList_New(found.count);
    for (uint32_t i = 0; list != NULL && i < found.count; i++) {
        PyObject *pair = Py_BuildValue("KK", (unsigned long long)found.loans[i].bytes,
                                       (unsigned long long)found.loans[i].tag);
        if (pair == NULL || PyList_SetItem(list, i, pair) != 0)
            Py_CLEAR(list);
    }
    return list;
}

static PyObject *link_get_alive(Link *link, void *Py_UNUSED(closure))
{
    bool alive = !link->dead && !link->goaway && link->pump->fork_generation == zh_fork_now() &&
                 zh_link_state(link->link) == ZH_LINK_OPEN;
    return PyBool_FromLong(alive);
}

static PyMethodDef link_methods[] = {
    {"close", (PyCFunction)link_py_close, METH_VARARGS,
     PyDoc_STR("close(code, why)\n--\n\nEnd the link; its calls end with this status.")},
    {"info", (PyCFunction)link_py_info, METH_NOARGS,
     PyDoc_STR("info()\n--\n\nWhat is known of the peer and of what is lent to it.")},
    {"loans", (PyCFunction)link_py_loans, METH_NOARGS,
     PyDoc_STR("loans()\n--\n\n(bytes, tag) of every open loan.")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef link_members[] = {
    {"on_dead", T_OBJECT, offsetof(Link, on_dead), 0,
     PyDoc_STR("Called once, without arguments, when the link has ended.")},
    {"goaway", T_BOOL, offsetof(Link, goaway), READONLY,
     PyDoc_STR("The server takes no more calls on this link.")},
    {"dead", T_BOOL, offsetof(Link, dead), READONLY, PyDoc_STR("The link has ended.")},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef link_getset[] = {
    {"alive", (getter)link_get_alive, NULL, PyDoc_STR("Can calls be started?"), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot link_slots[] = {
    {Py_tp_dealloc, (void *)link_dealloc},
    {Py_tp_traverse, (void *)link_traverse},
    {Py_tp_clear, (void *)link_clear},
    {Py_tp_methods, link_methods},
    {Py_tp_members, link_members},
    {Py_tp_getset, link_getset},
    {Py_tp_doc, (void *)PyDoc_STR("Shared memory and a socket between this process and another.")},
    {0, NULL},
};

static PyType_Spec link_spec = {
    .name = "zerohop._native.Link",
    .basicsize = sizeof(Link),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = link_slots,
};

int link_type_init(PyObject *module)
{
    Link_Type = (PyTypeObject *)PyType_FromSpec(&link_spec);
    if (Link_Type == NULL)
        return -1;
    return PyModule_AddObjectRef(module, "Link", (PyObject *)Link_Type);
}
