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

/* What goes into a record: parts of it inline, the others into one block. */
typedef struct {
    const void *metadata;
    size_t metadata_bytes;
    const char *message;
    size_t message_bytes;
    PyObject *owner; /* of the message's bytes */
} Content;

/* Borrow a block and fill it with what the header's flags send there. */
static int fill_block(Link *link, const struct zh_record *header, const Content *content,
                      struct zh_loaned *loaned)
{
    uint64_t tag = loan_tracer != NULL ? loan_tag(link, header->call) : 0;
    bool with_metadata = (header->flags & ZH_METADATA_IN_BLOCK) != 0;
    bool with_message = (header->flags & ZH_MESSAGE_IN_BLOCK) != 0;
    size_t metadata_bytes = with_metadata ? content->metadata_bytes : 0;
    size_t message_bytes = with_message ? content->message_bytes : 0;
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
        memcpy(loaned->block.data, content->metadata, metadata_bytes);
    if (message_bytes >= BIG_COPY) {
        Py_INCREF(content->owner);
        /* The link may die meanwhile and its loans come back: the block must stay ours until we are
         * done. */
        zh_link_pin(link->link, loaned, true);
        Py_BEGIN_ALLOW_THREADS
            memcpy(loaned->block.data + metadata_bytes, content->message, message_bytes);
        Py_END_ALLOW_THREADS
        zh_link_pin(link->link, loaned, false);
        Py_DECREF(content->owner);
    } else if (message_bytes > 0) {
        memcpy(loaned->block.data + metadata_bytes, content->message, message_bytes);
    }
    zh_stat_add(ZH_STAT_BYTES_COPIED, bytes);
    return 0;
}

static int post(Link *link, struct zh_record *header, const Content *content, uint32_t keep,
                bool spill)
{
    struct zh_loaned loaned;
    bool present = content->owner != NULL;

    if (content->message_bytes > ZH_INLINE_MESSAGE || (spill && present))
        header->flags |= ZH_MESSAGE_IN_BLOCK;
    if (content->metadata_bytes > ZH_INLINE_METADATA || (spill && content->metadata_bytes > 0))
        header->flags |= ZH_METADATA_IN_BLOCK;
    bool in_block = (header->flags & (ZH_MESSAGE_IN_BLOCK | ZH_METADATA_IN_BLOCK)) != 0;
    if (in_block) {
        int error = fill_block(link, header, content, &loaned);
        if (error != 0)
            return error;
    }
    int error = zh_link_post(link->link, header, content->metadata, content->message,
                             in_block ? &loaned : NULL, keep);
    if (error != 0 && in_block)
        zh_link_unloan(link->link, &loaned);
    return error;
}

/* A snapshot with blocks: they are the record's loan, so that nothing else can be. */
static int post_image(Link *link, struct zh_record *header, const Content *content, uint32_t keep)
{
    uint64_t tag = loan_tracer != NULL ? loan_tag(link, header->call) : 0;
    struct zh_loaned loaned;

    int error = snapshot_lend(content->owner, link, tag, &loaned);
    if (error != 0)
        return error;
    if (link->pump->aio)
        guard_lent(link);
    header->flags |= ZH_LOANED | (snapshot_lends_back(content->owner, link) ? ZH_LENT_BACK : 0);
    error = zh_link_post(link->link, header, content->metadata, content->message, &loaned, keep);
    if (error != 0)
        zh_link_unloan(link->link, &loaned);
    return error;
}

static int post_snapshot(Link *link, struct zh_record *header, const void *metadata,
                         PyObject *message, bool images, uint32_t keep, bool spill)
{
    Content content = {.metadata = metadata, .metadata_bytes = header->metadata_bytes};
    bool blocks;

    content.owner = message;
    uint32_t outside;
    content.message =
        (const char *)snapshot_root(message, &content.message_bytes, &outside, &blocks);
    header->flags |= ZH_HAS_MESSAGE;
    /* Where the blocks need the record's loan, everything else must fit the record. */
    images = images && !(blocks && (spill || content.metadata_bytes > ZH_INLINE_METADATA));
    if (images && !snapshot_fits(message, link)) {
        PyObject *local = snapshot_local(message, link);
        if (local != NULL) {
            int error = post_snapshot(link, header, metadata, local, true, keep, spill);
            Py_DECREF(local);
            return error;
        }
        images = false;
    }
    if (images) {
        header->flags |= ZH_IMAGE;
        header->message_bytes = content.message_bytes;
        header->outside = outside;
        return blocks ? post_image(link, header, &content, keep)
                      : post(link, header, &content, keep, spill);
    }
    PyObject *wire = snapshot_wire(message);
    if (wire == NULL) {
        PyErr_Clear();
        return -ENOMEM;
    }
    content.owner = wire;
    content.message = PyBytes_AsString(wire);
    content.message_bytes = (size_t)PyBytes_Size(wire);
    header->message_bytes = content.message_bytes;
    int error = post(link, header, &content, keep, spill);
    Py_DECREF(wire);
    return error;
}

int link_post_call(Link *link, struct zh_record *header, const void *metadata, PyObject *message,
                   bool images, uint32_t keep, bool spill)
{
    Content content = {.metadata = metadata, .metadata_bytes = header->metadata_bytes};

    if (message != NULL && is_snapshot(message))
        return post_snapshot(link, header, metadata, message, images, keep, spill);
    if (message != NULL) {
        header->flags |= ZH_HAS_MESSAGE;
        content.owner = message;
        content.message = PyBytes_AsString(message);
        content.message_bytes = (size_t)PyBytes_Size(message);
    }
    header->message_bytes = content.message_bytes;
    return post(link, header, &content, keep, spill);
}

/* Have the peer ring for slots and returns while anybody waits for one. */
static void update_want(Link *link)
{
    bool space = link->stalled != NULL || link->unanswered;
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

void link_answer(Link *link)
{
    uint32_t count = (uint32_t)PyList_Size(link->names);
    int error = 0;

    for (; link->answered < count && error == 0; link->answered += error == 0) {
        uint8_t agreed = link->agreed[link->answered];
        if (agreed == AGREED_UNASKED)
            continue;
        struct zh_record header = {
            .kind = ZH_NAMED, .method = link->answered, .call = agreed == AGREED_YES};
        error = link_post_call(link, &header, NULL, NULL, false, ZH_CALLS, false);
    }
    link->unanswered = is_exhaustion(error); /* it is tried again when there is space */
    update_want(link);
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
        if (link_post_call(link, &header, buffer.data, NULL, false, ZH_CALLS - 1, false) != 0) {
            header.metadata_bytes = 0;
            header.flags = 0;
            link_post_call(link, &header, NULL, NULL, false, 0, false);
        }
    } else {
        PyErr_Clear();
    }
    buffer_free(&buffer);
}
