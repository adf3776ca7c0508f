/* Delivery: the consuming half of a link's rings. Everything is copied once, checked, then used. */
#include <errno.h>
#include <string.h>

#include "failpoint.h"
#include "link_internal.h"
#include "zerohop/fork.h"
#include "zerohop/image.h"

/* Slots consumed before the tail is published in the middle of a batch. */
#define PUBLISH_EVERY (ZH_RING_SLOTS / 8)

/* Metadata has a hard limit of 16 KiB; its encoding adds 8 bytes an entry. */
#define METADATA_MOST (128u * 1024)

/* What each side may receive, by kind. */
#define FROM_SERVER                                                                                \
    (1u << ZH_MESSAGE | 1u << ZH_HEADERS | 1u << ZH_STATUS | 1u << ZH_GOAWAY | 1u << ZH_NAMED)
#define FROM_CLIENT                                                                                \
    (1u << ZH_NAME | 1u << ZH_CALL | 1u << ZH_MESSAGE | 1u << ZH_HALF_CLOSE | 1u << ZH_CANCEL)

bool zh_link_ready(const struct zh_link *link)
{
    uint32_t state = zh_link_state(link);

    if (state != ZH_LINK_OPEN)
        return state == ZH_LINK_DEAD;
    const struct zh_side *peer = zh_link_peer(link);
    return atomic_load_explicit(&peer->head, memory_order_acquire) != zh_link_tail(&link->tail) ||
           atomic_load_explicit(&peer->return_head, memory_order_acquire) !=
               zh_link_tail(&link->return_tail) ||
           /* The bell for space alone would not do: whoever hears it may leave the work to another.
            */
           (atomic_load_explicit(&link->want_space, memory_order_acquire) &&
            atomic_load_explicit(&peer->tail, memory_order_acquire) !=
                atomic_load_explicit(&link->want_tail, memory_order_relaxed));
}

/* Copy out of the peer's memory, once: the compiler may not read it again. */
static void copy_once(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
    atomic_signal_fence(memory_order_seq_cst);
    __asm__ volatile("" : : "r"(to) : "memory");
}

static int violation(struct zh_link *link, const char *what)
{
    /* Closed by another thread meanwhile, zh_link_serve reads nothing more for us. */
    bool closed = zh_link_state(link) == ZH_LINK_DEAD && !link->drain;

    zh_link_die(link, false, "the peer broke the protocol: %s", what);
    link->drain = false; /* if it was dead before: nothing more is delivered */
    return closed ? -EPIPE : -EPROTO;
}

int zh_link_next(struct zh_link *link, struct zh_received *received)
{
    const struct zh_side *peer = zh_link_peer(link);
    struct zh_record *header = &received->header;

    for (;;) {
        uint32_t state = zh_link_state(link);
        if (state != ZH_LINK_OPEN && !link->drain)
            return state == ZH_LINK_DEAD ? -EPIPE : 0;
        uint64_t head = state == ZH_LINK_DEAD
                            ? link->drain_head
                            : atomic_load_explicit(&peer->head, memory_order_acquire);
        uint64_t tail = zh_link_tail(&link->tail);
        if (head == tail)
            return state == ZH_LINK_DEAD ? -EPIPE : 0;
        uint64_t available = head - tail;
        if (available > ZH_RING_SLOTS)
            return violation(link, "its head is outside what is possible");

        uint32_t at = (uint32_t)(tail % ZH_RING_SLOTS);
        const uint8_t *slot = peer->slots + (size_t)at * ZH_SLOT;
        copy_once(header, slot, sizeof(*header));
        ZH_FAILPOINT(deliver_header_copied);
        if (header->slots == 0 || header->slots > ZH_RECORD_SLOTS || header->slots > available ||
            at + header->slots > ZH_RING_SLOTS)
            return violation(link, "a record's length");
        if (header->kind == ZH_PAD) {
            /* One, up to the ring's end: a peer must not keep us here with pads. */
            if (at + header->slots != ZH_RING_SLOTS)
                return violation(link, "a pad inside the ring");
            zh_link_advance(&link->tail, header->slots);
            continue;
        }
        uint32_t allowed = link->client ? FROM_SERVER : FROM_CLIENT;
        if (header->kind >= ZH_KIND_END || (allowed >> header->kind & 1) == 0)
            return violation(link, "a record's kind");

        const uint16_t flags = header->flags;
        const uint16_t block_flags = ZH_MESSAGE_IN_BLOCK | ZH_METADATA_IN_BLOCK;
        if ((flags & ~(ZH_HAS_MESSAGE | block_flags | ZH_END_STREAM | ZH_IMAGE | ZH_LOANED |
                       ZH_TAKES_IMAGES | ZH_LENT_BACK)) != 0 ||
            ((flags & (ZH_MESSAGE_IN_BLOCK | ZH_IMAGE)) != 0 && (flags & ZH_HAS_MESSAGE) == 0) ||
            ((flags & ZH_LOANED) != 0 && (flags & ZH_IMAGE) == 0) ||
            ((flags & ZH_IMAGE) != 0 && header->message_bytes > ZH_IMAGE_ROOT) ||
            ((flags & ZH_HAS_MESSAGE) == 0 && header->message_bytes != 0) ||
            header->metadata_bytes > METADATA_MOST)
            return violation(link, "a record's flags or sizes");

        uint64_t inline_room = (uint64_t)header->slots * ZH_SLOT - sizeof(*header);
        const uint8_t *at_inline = slot + sizeof(*header);
        const uint8_t *block = NULL;
        received->loaned = (flags & (block_flags | ZH_LOANED)) != 0;
        if (received->loaned && (header->loan >= ZH_LOANS || (header->loan_generation & 1) == 0))
            return violation(link, "a loan's number");
        if ((flags & block_flags) != 0) {
            uint64_t in_block = 0;
            if ((flags & ZH_METADATA_IN_BLOCK) != 0)
                in_block += header->metadata_bytes;
            if ((flags & ZH_MESSAGE_IN_BLOCK) != 0) {
                if (header->message_bytes > UINT64_MAX / 2)
                    return violation(link, "a message's length");
                in_block += header->message_bytes;
            }
            block = zh_link_at(link, header->segment, (uint64_t)header->page * ZH_PAGE, in_block);
            if (block == NULL)
                return violation(link, "a reference outside the memory it has shown");
        }
        received->metadata = at_inline;
        if ((flags & ZH_METADATA_IN_BLOCK) != 0) {
            received->metadata = block;
            block += header->metadata_bytes;
        } else {
            if (header->metadata_bytes > inline_room)
                return violation(link, "metadata longer than its record");
            at_inline += header->metadata_bytes;
            inline_room -= header->metadata_bytes;
        }
        received->message = NULL;
        if ((flags & ZH_MESSAGE_IN_BLOCK) != 0) {
            received->message = block;
        } else if ((flags & ZH_HAS_MESSAGE) != 0) {
            if (header->message_bytes > inline_room)
                return violation(link, "a message longer than its record");
            received->message = at_inline;
        }
        return 1;
    }
}

void zh_link_consume(struct zh_link *link, const struct zh_received *received)
{
    zh_link_advance(&link->tail, received->header.slots);
    if (zh_link_tail(&link->tail) - link->tail_published >= PUBLISH_EVERY)
        zh_link_flush(link);
}

/* With the lock held: take what has been returned, up to the next credit unless `credit` is NULL,
 * which leaves credits out. 1: there is a credit; -ERANGE for a head that cannot be, or -EPROTO. */
static int take_returns(struct zh_link *link, struct zh_return *credit)
{
    const struct zh_side *peer = zh_link_peer(link);
    uint64_t head = atomic_load_explicit(&peer->return_head, memory_order_acquire);
    uint64_t tail = zh_link_tail(&link->return_tail);
    int result = 0;

    if (head - tail > ZH_RETURN_ENTRIES)
        return -ERANGE;
    while (result == 0 && tail != head) {
        struct zh_return entry;
        copy_once(&entry, &peer->returns[tail % ZH_RETURN_ENTRIES], sizeof(entry));
        tail++;
        if (entry.kind == ZH_RETURN_LOAN) {
            struct zh_loan loan = {entry.value, (uint32_t)entry.object};
            if (entry.object > UINT32_MAX || zh_ledger_return(&link->ledger, loan) != 0)
                result = -EPROTO;
        } else if (entry.kind != ZH_RETURN_CREDIT) {
            result = -EPROTO;
        } else if (credit != NULL) {
            *credit = entry;
            result = 1;
        }
    }
    atomic_store_explicit(&link->return_tail, tail, memory_order_relaxed);
    atomic_store_explicit(&zh_link_own(link)->return_tail, tail, memory_order_release);
    return result;
}

int zh_link_next_return(struct zh_link *link, struct zh_return *credit)
{
    int result = 0;

    if (zh_link_state(link) != ZH_LINK_OPEN ||
        atomic_load_explicit(&zh_link_peer(link)->return_head, memory_order_acquire) ==
            zh_link_tail(&link->return_tail))
        return 0;
    pthread_mutex_lock(&link->lock);
    if (zh_link_state(link) == ZH_LINK_OPEN) {
        uint32_t open = link->ledger.open;
        result = take_returns(link, credit);
        if (link->ledger.open < open) {
            (void)zh_link_drop_segments(link);
            zh_link_want_held(link);
        }
    }
    pthread_mutex_unlock(&link->lock);
    if (result == -ERANGE)
        return violation(link, "its return head is outside what is possible");
    return result == -EPROTO ? violation(link, "a return of what was not lent") : result;
}

bool zh_link_last_returns(struct zh_link *link)
{
    return link->peer.base == NULL || take_returns(link, NULL) == 0;
}
