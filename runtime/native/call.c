/*
 * Calls: what the client's and the server's have in common, and the protocol of each. One struct
 * serves both; `client` tells them apart. See native.h for what each field means, call_type.c for
 * Python's view.
 */
#include "native.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "zerohop/fork.h"
#include "zerohop/stats.h"

bool call_ready(const Call *call, uint32_t mask)
{
    if (call->done)
        return true;
    if ((mask & EVENT_INITIAL) != 0 && call->got_initial)
        return true;
    if ((mask & EVENT_MESSAGE) != 0 && (call->inbox.used > 0 || call->got_end))
        return true;
    return (mask & EVENT_WRITABLE) != 0 && call->started && call->outbox == NULL &&
           call->send_credit > 0;
}

void call_event(Call *call, uint32_t events)
{
    for (Waiter *waiter = call->waiters; waiter != NULL; waiter = waiter->call_next)
        waiter_wake(waiter);
    if (call->pump != NULL && call->pump->asleep_for == call)
        zh_pump_wake(call->pump->pump); /* what happened did not come through the pump */
    call->events |= events;
    if (call->pump != NULL &&
        (call->on_event != NULL || (call->done && (call->waiter != NULL || call->pinned))))
        pump_push_event(call->pump, call);
}

static int flush(Link *link, Call *call)
{
    int error = 0;

    if (call->outbox != NULL) {
        if (call->send_credit <= 0) {
            link_starve(link, call, true);
            return 0;
        }
        call->flushing = true;
        PyObject *message = call->outbox;
        struct zh_record header = {.kind = ZH_MESSAGE, .call = call->id};
        if (call->want_end)
            header.flags |= ZH_END_STREAM;
        Py_INCREF(message);
        error = link_post_call(link, &header, NULL, message, call->images, ZH_CALLS, false);
        call->flushing = false;
        if (error == 0) {
            call->send_credit -= MESSAGE_COST(header.message_bytes + header.outside);
            Py_CLEAR(call->outbox);
            link_starve(link, call, call->send_credit <= 0 && !call->done);
            call->sent_end = call->sent_end || (header.flags & ZH_END_STREAM) != 0;
            zh_stat_add(ZH_STAT_STREAMS_MESSAGES_SENT, 1);
        }
        Py_DECREF(message);
    }
    /* The end may have been asked for while a large message was being copied. */
    if (error == 0 && !call->done && call->outbox == NULL && call->want_end && !call->sent_end) {
        struct zh_record header = {.kind = ZH_HALF_CLOSE, .call = call->id};
        error = link_post_call(link, &header, NULL, NULL, false, ZH_CALLS, false);
        call->sent_end = error == 0;
    }
    return error;
}

int call_flush(Call *call)
{
    Link *link = call->link;

    if (link == NULL || call->done || !call->started || call->flushing)
        return 0;
    /* A call that ends while a large message is being copied lets go of its link. */
    Py_INCREF((PyObject *)link);
    int error = flush(link, call);
    Py_DECREF((PyObject *)link);
    return call->done ? 0 : error;
}

int call_flush_or_stall(Call *call)
{
    int error = call_flush(call);

    if (is_exhaustion(error)) {
        link_stall(call->link, call);
        return 0;
    }
    return error;
}

void call_taken(Call *call, PyObject *message)
{
    if (call->done || call->link == NULL || call->got_end)
        return;
    call->consumed += MESSAGE_COST(message_bytes(message));
    if (call->consumed < STREAM_WINDOW / 2)
        return;
    uint32_t grant = call->consumed > UINT32_MAX ? UINT32_MAX : (uint32_t)call->consumed;
    if (zh_link_credit(call->link->link, call->id, grant) == 0) {
        call->consumed -= grant;
        call->recv_window += grant;
    }
}

/*
 * Out of everything that a call is in while it is open. The call may live on for long: an error
 * that was raised is in a cycle with its own traceback. So it keeps nothing of a peer that may have
 * died.
 */
static void leave(Call *call)
{
    if (call->pump != NULL)
        pump_remove_deadline(call->pump, call);
    if (call->link != NULL) {
        link_starve(call->link, call, false);
        if (!call->client && call->peer == NULL)
            call->peer = Py_XNewRef(link_peer(call->link));
    }
    Py_CLEAR(call->link);
    Py_CLEAR(call->outbox);
    Py_CLEAR(call->metadata_area);
    Py_CLEAR(call->owner);
    if (call->background) {
        call->background = false;
        pump_background(call->pump, -1);
    }
}

/* --- the client
 * ----------------------------------------------------------------------------------- */

/*
 * The number of a call's method on a link; posts its name first, with the fingerprints of its
 * messages, if they are generated, in `types` (then the number stands for both). ZH_NO_NAME: not to
 * be interned. Or -errno.
 */
static int64_t intern(Link *link, PyObject *method, PyObject *types)
{
    PyObject *known = PyDict_GetItemWithError(link->names, types != NULL ? types : method);
    if (known != NULL)
        return PyLong_AsLong(known);
    PyObject *text = PyUnicode_AsUTF8String(method);
    if (text == NULL || PyBytes_Size(text) > (Py_ssize_t)ZH_NAME_BYTES ||
        link->next_name == ZH_NAMES) {
        Py_XDECREF(text);
        PyErr_Clear();
        return ZH_NO_NAME;
    }
    struct zh_record header = {.kind = ZH_NAME, .method = link->next_name};
    const char *prints = types == NULL ? NULL : PyBytes_AsString(types);
    if (prints != NULL)
        header.metadata_bytes = ZH_TYPES_BYTES;
    int error = link_post_call(link, &header, prints, text, false, ZH_CALLS, false);
    Py_DECREF(text);
    if (error != 0)
        return error;
    link->agreed[link->next_name] = prints != NULL ? AGREED_ASKED : AGREED_UNASKED;
    PyObject *number = PyLong_FromUnsignedLong(link->next_name);
    if (number == NULL || PyDict_SetItem(link->names, types != NULL ? types : method, number) != 0)
        PyErr_Clear(); /* the name is spent; it will be posted again under another number */
    Py_XDECREF(number);
    return link->next_name++;
}

int client_post_start(Call *call)
{
    Link *link = call->link;
    struct zh_record header = {.kind = ZH_CALL, .deadline = call->deadline};
    const uint8_t *metadata = NULL;
    Buffer named;
    int error;

    if (link->dead || link->goaway)
        return -EPIPE;
    if (link->free_count == 0)
        return -EAGAIN;
    int64_t number = intern(link, call->method, call->types);
    if (number < 0)
        return (int)number;
    if (number != ZH_NO_NAME) {
        /* The first call of a method waits for the answer, so that no call's way is a race. */
        if (link->agreed[number] == AGREED_ASKED)
            return -EAGAIN;
        call->images = link->agreed[number] == AGREED_YES;
    }
    if (call->metadata_area != NULL) {
        metadata = (const uint8_t *)PyBytes_AsString(call->metadata_area);
        header.metadata_bytes = (uint32_t)PyBytes_Size(call->metadata_area);
    }
    buffer_init(&named);
    if (number == ZH_NO_NAME) {
        PyObject *text = PyUnicode_AsUTF8String(call->method);
        if (text == NULL ||
            metadata_encode_text(&named, SECTION_METHOD, PyBytes_AsString(text),
                                 (size_t)PyBytes_Size(text)) != 0 ||
            metadata_append_raw(&named, metadata, header.metadata_bytes) != 0) {
            PyErr_Clear();
            Py_XDECREF(text);
            buffer_free(&named);
            return -EINVAL;
        }
        Py_DECREF(text);
        metadata = named.data;
        header.metadata_bytes = (uint32_t)named.used;
    }
    uint16_t index = link->free_list[--link->free_count];
    uint64_t id = index | (uint64_t)(link->generations[index] + 1) << 32;
    bool end = call->want_end;
    header.method = (uint32_t)number;
    header.call = id;
    if (end)
        header.flags |= ZH_END_STREAM;
    if (call->images)
        header.flags |= ZH_TAKES_IMAGES;
    PyObject *message = Py_XNewRef(call->outbox);
    error = link_post_call(link, &header, metadata, message, call->images, ZH_CALLS, false);
    buffer_free(&named);
    Py_XDECREF(message);
    if (error != 0) {
        link->free_list[link->free_count++] = index;
        return error;
    }
    link->generations[index]++;
    link->open_calls++;
    zh_stat_add(ZH_STAT_CALLS_STARTED, 1);
    if (call->done) {
        /* Given up while the message was being copied: the server must hear of it. */
        struct zh_record cancel = {.kind = ZH_CANCEL, .call = id};
        link_post_call(link, &cancel, NULL, NULL, false, 0, false);
        link_gave_up(link, 1);
        return 0;
    }
    call->id = id;
    call->started = true;
    call->sent_end = end;
    Py_CLEAR(call->outbox);
    Py_CLEAR(call->metadata_area);
    link->calls[index] =
        call; /* borrowed: a call that its user drops is given up, as with grpcio */
    return 0;
}

int client_begin(Call *call, Link *link)
{
    call->link = (Link *)Py_NewRef((PyObject *)link);
    if (call->pump == NULL)
        call->pump = (Pump *)Py_NewRef((PyObject *)link->pump);
    int error = -EAGAIN;
    if (link->stalled == NULL) /* else it waits its turn */
        error = client_post_start(call);
    if (is_exhaustion(error)) {
        link_stall(link, call);
        return 0;
    }
    return error;
}

void client_finish(Call *call, int code, const char *details)
{
    if (call->done)
        return;
    call->done = true;
    call->code = code;
    if (details != NULL && call->details == NULL) {
        call->details = PyUnicode_DecodeUTF8(details, (Py_ssize_t)strlen(details), "replace");
        if (call->details == NULL)
            PyErr_Clear();
    }
    call->got_initial = call->got_end = true;
    leave(call);
    call_event(call, EVENT_INITIAL | EVENT_MESSAGE | EVENT_WRITABLE | EVENT_DONE);
}

void client_fail(Call *call, int error)
{
    if (error == -EPIPE)
        client_cancel(call, STATUS_UNAVAILABLE, "the link has ended");
    else
        client_cancel(call, STATUS_RESOURCE_EXHAUSTED,
                      "the message is larger than the arena's limit");
}

void client_cancel(Call *call, int code, const char *details)
{
    Link *link = call->link;

    if (call->done)
        return;
    if (call->started && link != NULL && !link->dead) {
        struct zh_record header = {.kind = ZH_CANCEL, .call = call->id};
        /* One slot is kept for it. */
        link_post_call(link, &header, NULL, NULL, false, 0, false);
        uint32_t index = (uint32_t)call->id;
        if (link->calls[index] == call) {
            link->calls[index] = NULL;
            link_gave_up(link, 1);
        }
    }
    client_finish(call, code, details);
}

void client_abandon(Call *call)
{
    Link *link = call->link;

    if (call->done || !call->started || link == NULL || link->dead ||
        call->fork_generation != zh_fork_now())
        return;
    struct zh_record header = {.kind = ZH_CANCEL, .call = call->id};
    link_post_call(link, &header, NULL, NULL, false, 0, false);
    link_starve(link, call, false);
    if (link->calls[(uint32_t)call->id] == call) {
        link->calls[(uint32_t)call->id] = NULL;
        link_gave_up(link, 1);
    }
    if (call->background)
        pump_background(call->pump, -1);
}

/* Has the server not answered yet what its method's messages are? */
static bool is_unanswered(const Call *call)
{
    const Link *link = call->link;
    PyObject *known = call->types == NULL ? NULL : PyDict_GetItem(link->names, call->types);

    return known != NULL && link->agreed[PyLong_AsLong(known)] == AGREED_ASKED;
}

void client_expired(Call *call)
{
    if (call->started || call->link == NULL || is_unanswered(call))
        client_cancel(call, STATUS_DEADLINE_EXCEEDED, "Deadline Exceeded");
    else
        client_cancel(call, STATUS_RESOURCE_EXHAUSTED,
                      "no slot or memory for the call until its deadline: the server does not take "
                      "what it has been sent");
}

/* --- the server
 * ----------------------------------------------------------------------------------- */

/* The status is posted, or nobody waits for it: out of the link's table. */
static void server_leave(Call *call)
{
    Link *link = call->link;

    call->done = true;
    call->got_end = true;
    if (link != NULL) {
        uint32_t index = (uint32_t)call->id;
        if (link->calls[index] == call) {
            link->calls[index] = NULL;
            link->open_calls--;
            Py_DECREF((PyObject *)call); /* not the last reference: the caller has one */
        }
        if (link->deferred != NULL)
            link_serve_deferred(link);
    }
    leave(call);
    server_call_closed(call);
    call_event(call, EVENT_INITIAL | EVENT_MESSAGE | EVENT_WRITABLE | EVENT_DONE);
}

/* What a status says that takes the place of a reply; short, for one slot is all it may need. */
#define NO_MEMORY "no memory for the reply"
#define TOO_LARGE "the reply exceeds the arena's limit"
_Static_assert(sizeof(TOO_LARGE) + 8 <= ZH_SLOT - sizeof(struct zh_record), "one slot");

/* Replace what the buffer has by these details. */
static void encode_only(Buffer *buffer, const char *details)
{
    buffer->used = buffer->counted = 0;
    if (metadata_encode_text(buffer, SECTION_DETAILS, details, strlen(details)) != 0)
        PyErr_Clear();
}

void server_finish(Call *call, int code, const char *details, PyObject *trailing, PyObject *message)
{
    server_finish_text(call, code, details, details == NULL ? 0 : strlen(details), trailing,
                       message);
}

void server_finish_text(Call *call, int code, const char *details, size_t details_bytes,
                        PyObject *trailing, PyObject *message)
{
    char refusal[METADATA_REFUSAL];
    Buffer buffer;
    int error = -ENOMEM;

    if (call->done || call->finishing)
        return;
    call->finishing = true;
    Link *link = (Link *)Py_NewRef((PyObject *)call->link);
    buffer_init(&buffer);
    bool encoded = (details_bytes == 0 ||
                    metadata_encode_text(&buffer, SECTION_DETAILS, details, details_bytes) == 0) &&
                   metadata_encode(&buffer, trailing, SECTION_TRAILING) == 0;
    if (!encoded) {
        code = metadata_was_invalid() ? STATUS_INTERNAL : STATUS_UNKNOWN;
        encode_only(&buffer,
                    code == STATUS_INTERNAL ? INVALID_METADATA : "malformed trailing metadata");
        PyErr_Clear();
        message = NULL;
    } else if (metadata_refused(&buffer, refusal)) {
        code = STATUS_RESOURCE_EXHAUSTED;
        encode_only(&buffer, refusal);
        message = NULL;
    }
    {
        struct zh_record header = {.kind = ZH_STATUS, .method = (uint32_t)code, .call = call->id};
        header.metadata_bytes = (uint32_t)buffer.used;
        size_t bytes = buffer.used + (message == NULL ? 0 : (size_t)message_bytes(message));
        /* What fits into one slot goes into the slot that is kept for it; more leaves the others
         * theirs. */
        uint32_t keep = bytes <= ZH_SLOT - sizeof(header) ? 0 : ZH_CALLS - 1;
        error = link_post_call(link, &header, buffer.data, message, call->images, keep, false);
        if (error == -EAGAIN && keep != 0) {
            header.flags = 0;
            error = link_post_call(link, &header, buffer.data, message, call->images, 0, true);
        }
    }
    if (is_exhaustion(error) || error == -EINVAL) {
        struct zh_record header = {
            .kind = ZH_STATUS, .method = STATUS_RESOURCE_EXHAUSTED, .call = call->id};
        encode_only(&buffer, error == -EINVAL ? TOO_LARGE : NO_MEMORY);
        header.metadata_bytes = (uint32_t)buffer.used;
        link_post_call(link, &header, buffer.data, NULL, false, 0, false);
    }
    buffer_free(&buffer);
    /* The link may have ended while a large message was being copied. */
    if (!call->done)
        server_leave(call);
    Py_DECREF((PyObject *)link);
}

/* gRPC's words for how the server's side ends a call. */
static const char *end_text(int code)
{
    if (code == STATUS_DEADLINE_EXCEEDED)
        return "Deadline Exceeded";
    return code == STATUS_UNAVAILABLE ? "Cancelling all calls" : "Cancelled";
}

void server_cancelled(Call *call, int code)
{
    if (call->done)
        return;
    call->cancelled = true;
    if (call->link != NULL && !call->link->dead) {
        /* The index is free for the client again, whatever the handler is doing. */
        server_finish(call, code, end_text(code), NULL, NULL);
    } else {
        server_leave(call);
    }
    server_call_cancelled(call);
}

void call_expired(Call *call)
{
    if (call->client)
        client_expired(call);
    else
        server_cancelled(call, STATUS_DEADLINE_EXCEEDED);
}
