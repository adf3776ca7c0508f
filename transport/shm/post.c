/* Posting: the producing half of a link's rings, and the doorbell. */
#include <errno.h>
#include <string.h>

#include "failpoint.h"
#include "link_internal.h"
#include "zerohop/stats.h"

/*
 * Ring if the peer sleeps and has not been rung for this sleep. Called after the release of a head;
 * the fence pairs with the one in zh_pump_arm: either the sleeper sees our head, or we see its odd
 * epoch.
 */
static void ring_if(struct zh_link *link, bool awake_too)
{
    const struct zh_pump_page *page = (const void *)link->peer_page.base;

    atomic_thread_fence(memory_order_seq_cst);
    uint32_t epoch = atomic_load_explicit(&page->epoch, memory_order_relaxed);
    if ((epoch & 1) != 0 ? epoch != link->rung_epoch : awake_too) {
        link->rung_epoch = epoch;
        zh_link_ring(link);
    }
}

static void ring_if_asleep(struct zh_link *link)
{
    ring_if(link, false);
}

/*
 * Ring a peer that wants space, also one that is awake: between its last look at the ring and its
 * sleep lies zh_pump_arm, which looks at heads, not at our tail.
 */
static void ring_for_space(struct zh_link *link)
{
    ring_if(link, true);
}

/* With the lock held: free slots of our ring, or -EPROTO for a tail that cannot be. */
static int64_t room(struct zh_link *link, uint32_t needed)
{
    uint64_t free_slots = ZH_RING_SLOTS - (link->head - link->tail_seen);

    if (free_slots >= needed)
        return (int64_t)free_slots;
    uint64_t tail = atomic_load_explicit(&zh_link_peer(link)->tail, memory_order_acquire);
    if (tail - link->tail_seen > link->head - link->tail_seen)
        return -EPROTO;
    link->tail_seen = tail;
    return (int64_t)(ZH_RING_SLOTS - (link->head - tail));
}

int zh_link_post(struct zh_link *link, const struct zh_record *header, const void *metadata,
                 const void *message, const struct zh_loaned *loaned, uint32_t keep)
{
    size_t metadata_inline =
        (header->flags & ZH_METADATA_IN_BLOCK) != 0 ? 0 : header->metadata_bytes;
    size_t message_inline = 0;
    if ((header->flags & ZH_HAS_MESSAGE) != 0 && (header->flags & ZH_MESSAGE_IN_BLOCK) == 0)
        message_inline = header->message_bytes;
    if (metadata_inline > ZH_RECORD_ROOM || message_inline > ZH_RECORD_ROOM - metadata_inline)
        return -EMSGSIZE;

    size_t bytes = sizeof(struct zh_record) + metadata_inline + message_inline;
    uint32_t slots = (uint32_t)((bytes + ZH_SLOT - 1) / ZH_SLOT);
    int error = 0;

    pthread_mutex_lock(&link->lock);
    uint32_t at = (uint32_t)(link->head % ZH_RING_SLOTS);
    uint32_t pad = at + slots > ZH_RING_SLOTS ? ZH_RING_SLOTS - at : 0;
    int64_t free_slots = 0;
    if (zh_link_state(link) != ZH_LINK_OPEN)
        error = -EPIPE;
    else if ((free_slots = room(link, pad + slots + keep)) < 0)
        error = -EPROTO;
    else if (free_slots < (int64_t)(pad + slots + keep))
        error = -EAGAIN;
    if (error != 0) {
        pthread_mutex_unlock(&link->lock);
        if (error == -EPROTO) {
            zh_link_die(link, false, "the peer's tail is outside what is possible");
            error = -EPIPE;
        }
        return error;
    }

    struct zh_side *own = zh_link_own(link);
    if (pad != 0) {
        struct zh_record *record = (void *)(own->slots + (size_t)at * ZH_SLOT);
        *record = (struct zh_record){.kind = ZH_PAD, .slots = (uint8_t)pad};
        at = 0;
    }
    uint8_t *slot = own->slots + (size_t)at * ZH_SLOT;
    struct zh_record record = *header;
    record.slots = (uint8_t)slots;
    if (loaned != NULL) {
        record.segment = loaned->block.segment;
        record.page = loaned->block.page;
        record.loan = loaned->loan.id;
        record.loan_generation = loaned->loan.generation;
        zh_ledger_post(&link->ledger, loaned->loan);
    }
    memcpy(slot, &record, sizeof(record));
    slot += sizeof(record);
    if (metadata_inline != 0)
        memcpy(slot, metadata, metadata_inline);
    if (message_inline != 0)
        memcpy(slot + metadata_inline, message, message_inline);
    ZH_FAILPOINT(post_record_stored);
    link->head += pad + slots;
    atomic_store_explicit(&own->head, link->head, memory_order_release);
    ZH_FAILPOINT(post_head_released);
    ring_if_asleep(link);
    pthread_mutex_unlock(&link->lock);
    if (header->kind != ZH_NAME)
        zh_stat_add(ZH_STAT_BYTES_INLINED, message_inline);
    return 0;
}

void zh_link_want(struct zh_link *link, uint32_t want, bool on)
{
    struct zh_side *own = zh_link_own(link);
    bool space = (want & ZH_WANT_SPACE) != 0;

    pthread_mutex_lock(&link->lock);
    if (on && space) {
        /* What the last post saw that found no room; asked again, what a retry will see from now
         * on. */
        uint64_t seen = link->tail_seen;
        if (atomic_load_explicit(&link->want_space, memory_order_relaxed))
            seen = atomic_load_explicit(&zh_link_peer(link)->tail, memory_order_acquire);
        atomic_store_explicit(&link->want_tail, seen, memory_order_relaxed);
    }
    if (space)
        atomic_store_explicit(&link->want_space, on, memory_order_release);
    if (on)
        atomic_fetch_or_explicit(&own->want, want, memory_order_relaxed);
    else
        atomic_fetch_and_explicit(&own->want, ~want, memory_order_relaxed);
    pthread_mutex_unlock(&link->lock);
    /* The caller looks at the ring or the returns once more after this. */
    atomic_thread_fence(memory_order_seq_cst);
}

void zh_link_want_held(struct zh_link *link)
{
    struct zh_side *own = zh_link_own(link);
    bool wanted = (atomic_load_explicit(&own->want, memory_order_relaxed) & ZH_WANT_HELD) != 0;

    /* Set before the loan is posted, so the peer sees it before it can give that back. */
    if (!wanted && link->ledger.holds > 0)
        atomic_fetch_or_explicit(&own->want, ZH_WANT_HELD, memory_order_relaxed);
    else if (wanted && link->ledger.holds == 0)
        atomic_fetch_and_explicit(&own->want, ~(uint32_t)ZH_WANT_HELD, memory_order_relaxed);
}

/* Post an entry of the return ring; -EAGAIN unless `keep` entries stay free. With the lock held. */
static int post_return(struct zh_link *link, struct zh_return entry, uint32_t keep)
{
    struct zh_side *own = zh_link_own(link);

    if (link->return_head - link->return_tail_seen >= ZH_RETURN_ENTRIES - keep) {
        uint64_t tail =
            atomic_load_explicit(&zh_link_peer(link)->return_tail, memory_order_acquire);
        if (tail - link->return_tail_seen > link->return_head - link->return_tail_seen)
            return -EPROTO;
        link->return_tail_seen = tail;
        if (link->return_head - tail >= ZH_RETURN_ENTRIES - keep)
            return -EAGAIN;
    }
    own->returns[link->return_head % ZH_RETURN_ENTRIES] = entry;
    ZH_FAILPOINT(return_entry_stored);
    link->return_head++;
    atomic_store_explicit(&own->return_head, link->return_head, memory_order_release);
    ZH_FAILPOINT(return_head_released);
    /* The owner polls its returns when it needs them; it says so when it sleeps for one. */
    atomic_thread_fence(memory_order_seq_cst);
    if ((atomic_load_explicit(&zh_link_peer(link)->want, memory_order_relaxed) &
         (ZH_WANT_RETURNS | ZH_WANT_HELD)) != 0)
        ring_if_asleep(link);
    return 0;
}

void zh_link_give_back(struct zh_link *link, const struct zh_received *received)
{
    struct zh_return entry = {
        .kind = ZH_RETURN_LOAN,
        .value = received->header.loan,
        .object = received->header.loan_generation,
    };
    int error = 0;

    pthread_mutex_lock(&link->lock);
    bool dead = zh_link_state(link) == ZH_LINK_DEAD;
    if (link->peer.base != NULL)
        error = post_return(link, entry, 0);
    /* The owner may linger, whose pump looks at no returns before it sleeps. */
    if (dead && error == 0)
        zh_link_ring(link);
    pthread_mutex_unlock(&link->lock);
    /* There is an entry for each possible loan: only a peer that breaks the rules fills the ring.
     */
    if (error != 0)
        zh_link_die(link, false, "the peer does not take its returns back");
}

int zh_link_credit(struct zh_link *link, uint64_t call, uint32_t bytes)
{
    struct zh_return entry = {.kind = ZH_RETURN_CREDIT, .value = bytes, .object = call};
    int error = -EPIPE;

    pthread_mutex_lock(&link->lock);
    if (zh_link_state(link) == ZH_LINK_OPEN)
        error = post_return(link, entry, ZH_LOANS); /* those are for loans, which must not wait */
    pthread_mutex_unlock(&link->lock);
    if (error == -EPROTO)
        zh_link_die(link, false, "the peer's return tail is outside what is possible");
    return error;
}

void zh_link_flush(struct zh_link *link)
{
    struct zh_side *own = zh_link_own(link);

    uint64_t tail = zh_link_tail(&link->tail);
    if (tail == link->tail_published)
        return;
    link->tail_published = tail;
    atomic_store_explicit(&own->tail, tail, memory_order_release);
    ZH_FAILPOINT(deliver_tail_released);
    atomic_thread_fence(memory_order_seq_cst);
    if ((atomic_load_explicit(&zh_link_peer(link)->want, memory_order_relaxed) & ZH_WANT_SPACE) !=
        0) {
        pthread_mutex_lock(&link->lock);
        if (zh_link_state(link) == ZH_LINK_OPEN)
            ring_for_space(link);
        pthread_mutex_unlock(&link->lock);
    }
}
