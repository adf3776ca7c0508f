/* Posting for calls: records, the blocks they borrow, and what waits for room. */
#include "native.h"

#include <errno.h>
#include <string.h>

#include "zerohop/ring.h"
#include "zerohop/stats.h"

PyObject *loan_tracer;

/* Without returns to wait for, memory is asked for again after so long. */
#define RETRY_NS UINT64_C(5000000)

bool is_exhaustion(int error)
{
    return error == -EAGAIN || error == -ENOMEM || error == -EDQUOT || error == -ENOBUFS;
}

/* Who lends: the leak finder's word for the code that is running and the call that it is for. */
static uint64_t loan_tag(const Link *link, uint64_t id)
{
    uint32_t index = (uint32_t)id;
    const Call *call = index < ZH_CALLS ? link->calls[index] : NULL;
    PyObject *method = call != NULL && call->id == id ? call->method : NULL;
    uint64_t tag = 0;

    PyObject *result =
        PyObject_CallFunctionObjArgs(loan_tracer, method != NULL ? method : Py_None, NULL);
    if (result != NULL)
        tag = PyLong_AsUnsignedLongLong(result);
    Py_XDECREF(result);
    if (PyErr_Occurred())
        write_unraisable(loan_tracer);
    return tag;
}

/* Borrow a block and fill it. */
static int fill_block(Link *link, uint64_t call, const void *metadata, size_t metadata_bytes,
                      PyObject *message, size_t message_bytes, struct zh_loaned *loaned)
{
    uint64_t tag = loan_tracer != NULL ? loan_tag(link, call) : 0;
    size_t bytes = metadata_bytes + message_bytes;

    int error = zh_link_loan(link->link, bytes > 0 ? bytes : 1, false, tag, loaned);
    if (error == -EAGAIN) {
        Py_BEGIN_ALLOW_THREADS
            error = zh_link_loan(link->link, bytes > 0 ? bytes : 1, true, tag, loaned);
        Py_END_ALLOW_THREADS
    }
    if (error != 0)
        return error;
    if (metadata_bytes > 0)
        memcpy(loaned->block.data, metadata, metadata_bytes);
    if (message_bytes >= BIG_COPY) {
        const char *from = PyBytes_AsString(message);
        Py_INCREF(message);
        /* The link may die meanwhile and its loans come back: the block must stay ours until we are
         * done. */
        zh_link_pin(link->link, loaned, true);
        Py_BEGIN_ALLOW_THREADS
            memcpy(loaned->block.data + metadata_bytes, from, message_bytes);
        Py_END_ALLOW_THREADS
        zh_link_pin(link->link, loaned, false);
        Py_DECREF(message);
    } else if (message_bytes > 0) {
        memcpy(loaned->block.data + metadata_bytes, PyBytes_AsString(message), message_bytes);
    }
    zh_stat_add(ZH_STAT_BYTES_COPIED, bytes);
    return 0;
}

int link_post_call(Link *link, struct zh_record *header, const void *metadata, PyObject *message,
                   uint32_t keep, bool spill)
{
    size_t metadata_bytes = header->metadata_bytes;
    size_t message_bytes = message == NULL ? 0 : (size_t)PyBytes_Size(message);
    struct zh_loaned loaned;

    if (message != NULL)
        header->flags |= ZH_HAS_MESSAGE;
    header->message_bytes = message_bytes;
    if (message_bytes > ZH_INLINE_MESSAGE || (spill && message != NULL))
        header->flags |= ZH_MESSAGE_IN_BLOCK;
    if (metadata_bytes > ZH_INLINE_METADATA || (spill && metadata_bytes > 0))
        header->flags |= ZH_METADATA_IN_BLOCK;
    bool in_block = (header->flags & (ZH_MESSAGE_IN_BLOCK | ZH_METADATA_IN_BLOCK)) != 0;
    if (in_block) {
        bool with_metadata = (header->flags & ZH_METADATA_IN_BLOCK) != 0;
        bool with_message = (header->flags & ZH_MESSAGE_IN_BLOCK) != 0;
        int error = fill_block(link, header->call, metadata, with_metadata ? metadata_bytes : 0,
                               message, with_message ? message_bytes : 0, &loaned);
        if (error != 0)
            return error;
    }
    const char *data = message == NULL ? NULL : PyBytes_AsString(message);
    int error = zh_link_post(link->link, header, metadata, data, in_block ? &loaned : NULL, keep);
    if (error != 0 && in_block)
        zh_link_unloan(link->link, &loaned);
    return error;
}

/* Have the peer ring for slots and returns while anybody waits for one. */
static void update_want(Link *link)
{
    bool space = link->stalled != NULL;
    bool returns = space || link->starved > 0;

    if (link->dead)
        return;
    /* Space only for those that a retry serves: it makes the link ready until somebody has looked.
     */
    if (space != link->wants_space) {
        link->wants_space = space;
        zh_link_want(link->link, ZH_WANT_SPACE, space);
    }
    if (returns != link->wants_returns) {
        link->wants_returns = returns;
        zh_link_want(link->link, ZH_WANT_RETURNS, returns);
    }
}

void link_starve(Link *link, Call *call, bool starved)
{
    if (call->starved == starved)
        return;
    call->starved = starved;
    link->starved = starved ? link->starved + 1 : link->starved - 1;
    update_want(link);
    /* Credit that came before the peer was told to ring for it wakes nobody else. */
    if (starved && zh_link_ready(link->link))
        zh_pump_wake(link->pump->pump);
}

void link_gave_up(Link *link, int change)
{
    PyObject *type, *value, *traceback;

    /* A Ctrl-C may be why the call was given up, or its destructor. */
    PyErr_Fetch(&type, &value, &traceback);
    link->given_up = (uint32_t)((int)link->given_up + change);
    pump_background(link->pump, change);
    PyErr_Restore(type, value, traceback);
}

static uint64_t blocks_returned(void)
{
    return atomic_load_explicit(&zh_stats.counter[ZH_STAT_BLOCKS_RETURNED], memory_order_relaxed);
}

void link_stall(Link *link, Call *call)
{
    if (call->stalled)
        return;
    if (link->stalled == NULL) {
        link->retry_at = zh_now() + RETRY_NS;
        link->retry_returned = blocks_returned();
    }
    call->stalled = true;
    call->stalled_next = NULL;
    Py_INCREF((PyObject *)call);
    *link->stalled_tail = call;
    link->stalled_tail = &call->stalled_next;
    update_want(link);
    /* Memory may become free on another link, too. */
    zh_pump_timer(link->pump->pump, link->retry_at);
}

bool link_may_unstall(Link *link, uint64_t now)
{
    /* What the link itself has freed makes it ready, see update_want. A first one that is done was
     * in the way of the others. */
    if (now >= link->retry_at || link->stalled->done || link->retry_returned != blocks_returned())
        return true;
    /* The timer may have rung for something else. */
    zh_pump_timer(link->pump->pump, link->retry_at);
    return false;
}

void link_unstall(Link *link)
{
    Call *list = link->stalled;
    bool ring_full = false;

    if (link->wants_space && !link->dead) /* space that comes from here on is news */
        zh_link_want(link->link, ZH_WANT_SPACE, true);
    link->stalled = NULL;
    link->stalled_tail = &link->stalled;
    while (list != NULL) {
        Call *call = list;
        list = call->stalled_next;
        call->stalled_next = NULL;
        call->stalled = false;
        if (!call->done && call->link == link) {
            int error = -EAGAIN;
            if (!ring_full)
                error = call->client && !call->started ? client_post_start(call) : call_flush(call);
            if (error == -EAGAIN)
                ring_full = true; /* smaller ones must not overtake for ever: keep the order */
            if (is_exhaustion(error))
                link_stall(link, call);
            else if (error != 0 && call->client)
                client_fail(call, error);
            else if (call_ready(call, EVENT_WRITABLE))
                call_event(call, EVENT_WRITABLE);
        }
        Py_DECREF((PyObject *)call);
    }
    update_want(link);
}

void link_refuse_call(Link *link, uint64_t id, int code, const char *details)
{
    struct zh_record header = {.kind = ZH_STATUS, .method = (uint32_t)code, .call = id};
    Buffer buffer;

    buffer_init(&buffer);
    if (metadata_encode_text(&buffer, SECTION_DETAILS, details, strlen(details)) == 0) {
        header.metadata_bytes = (uint32_t)buffer.used;
        if (link_post_call(link, &header, buffer.data, NULL, ZH_CALLS - 1, false) != 0) {
            header.metadata_bytes = 0;
            header.flags = 0;
            link_post_call(link, &header, NULL, NULL, 0, false);
        }
    } else {
        PyErr_Clear();
    }
    buffer_free(&buffer);
}
