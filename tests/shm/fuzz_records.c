/*
 * Fuzz what a peer can write into its side of a link: records, returns, counters.
 *
 * Input: 16 bytes of counters (struct prelude), then `returns` entries of the return ring, then the
 * ring from our tail on. The memory of the peer is malloc'ed to its exact length, and what the head
 * does not release is poisoned, so that the address sanitizer sees every read too many.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "fuzz.h"
#include "harness.h"
#include "shm/link_internal.h"
#include "zerohop/fork.h"
#include "zerohop/image.h"

#if defined(__SANITIZE_ADDRESS__)
#define ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ADDRESS_SANITIZER 1
#endif
#endif
#ifdef ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#endif

struct prelude {
    uint8_t client, returns, drain, want;
    uint16_t tail; /* where we stand in the ring */
    uint16_t head; /* slots that the peer says it has posted since */
    uint16_t return_head;
    uint16_t peer_tail; /* the peer's place in our ring, which has 3 records */
    uint16_t peer_return_tail;
    uint16_t epoch;
};

enum { LOANS = 4, SEGMENTS = 2 };
static const size_t segment_bytes[SEGMENTS] = {3 * ZH_PAGE, 5000};

static void touch(const uint8_t *from, uint64_t bytes)
{
    uint8_t *copy = malloc(bytes > 0 ? bytes : 1);
    CHECK(copy != NULL);
    if (bytes > 0)
        memcpy(copy, from, bytes);
    free(copy);
}

/* Follow what an image may hold: 64-bit words that may be references, each with a count behind it.
 */
static void follow(struct zh_link *link, const struct zh_received *r)
{
    uint64_t word[2];

    for (uint64_t at = 0; at + sizeof(word) <= r->header.message_bytes; at += 8) {
        memcpy(word, r->message + at, sizeof(word));
        uint64_t bytes = word[1] == 0 ? 1 : (uint32_t)word[1];
        const uint8_t *far =
            zh_link_at(link, zh_ref_segment(word[0]), zh_ref_offset(word[0]), bytes);
        if (far != NULL)
            touch(far, bytes);
    }
}

static void *exactly(size_t bytes)
{
    void *memory = NULL;
    CHECK(posix_memalign(&memory, 4096, bytes) == 0);
    memset(memory, 0, bytes);
    return memory;
}

/* A link as a greeting leaves it, but with the peer's memory on the heap. */
static struct zh_link *make_link(struct zh_pump *pump, struct zh_arena *arena, int socket)
{
    struct zh_link *link = calloc(1, sizeof(*link));
    struct zh_loaned loaned;
    struct zh_record header = {
        .kind = ZH_CALL, .flags = ZH_HAS_MESSAGE | ZH_MESSAGE_IN_BLOCK, .message_bytes = 1};

    CHECK(link != NULL);
    atomic_init(&link->refs, 1);
    pthread_mutex_init(&link->lock, NULL);
    link->fork_generation = zh_fork_now();
    link->detached = true;
    link->pump = pump;
    link->socket = socket;
    link->pidfd = link->bell = link->peer_bell = -1;
    link->own.base = exactly(sizeof(struct zh_side));
    link->peer = (struct zh_mapping){exactly(sizeof(struct zh_side)), sizeof(struct zh_side)};
    link->peer_page = (struct zh_mapping){exactly(sizeof(struct zh_pump_page)), 4096};
    link->arena = arena;
    zh_ledger_init(&link->ledger, arena, UINT64_MAX);
    for (int i = 0; i < SEGMENTS; i++) {
        link->segments[i].id = (uint32_t)i + 1;
        link->segments[i].mapping.size = segment_bytes[i];
        link->segments[i].mapping.base = malloc(segment_bytes[i]);
        memset((void *)(uintptr_t)link->segments[i].mapping.base, 7, segment_bytes[i]);
    }
    atomic_init(&link->state, ZH_LINK_OPEN);
    /* Loans that the peer may return, and one that is still being filled. */
    link->sent[0] = 1;
    for (int i = 0; i < LOANS; i++) {
        CHECK_EQ(zh_arena_alloc(arena, 1, true, &loaned.block), 0);
        link->sent[0] = loaned.block.segment;
        CHECK_EQ(zh_ledger_lend(&link->ledger, &loaned.block, 1, 0, NULL, &loaned.loan), 0);
        if (i + 1 < LOANS)
            CHECK_EQ(zh_link_post(link, &header, NULL, NULL, &loaned, 0), 0);
    }
    return link;
}

static void free_link(struct zh_link *link)
{
    (void)zh_ledger_reclaim(&link->ledger);
    for (uint32_t i = 0; i < LOANS; i++) {
        struct zh_loan loan = {i, link->ledger.entries[i].generation};
        zh_ledger_unlend(&link->ledger, loan);
    }
    CHECK_EQ(link->ledger.open, 0);
    for (int i = 0; i < SEGMENTS; i++)
        free((void *)(uintptr_t)link->segments[i].mapping.base);
    free(link->own.base);
    free((void *)(uintptr_t)link->peer.base);
    free((void *)(uintptr_t)link->peer_page.base);
    pthread_mutex_destroy(&link->lock);
    free(link);
}

static void drain(struct zh_link *link)
{
    struct zh_received r;
    struct zh_return credit;
    int got, taken = 0;

    while ((got = zh_link_next(link, &r)) == 1) {
        CHECK(++taken <= (int)ZH_RING_SLOTS);
        touch(r.metadata, r.header.metadata_bytes);
        if (r.message != NULL)
            touch(r.message, r.header.message_bytes);
        CHECK((r.message != NULL) == ((r.header.flags & ZH_HAS_MESSAGE) != 0));
        if ((r.header.flags & ZH_LOANED) != 0) {
            CHECK(r.loaned && (r.header.flags & ZH_IMAGE) != 0);
            CHECK(r.header.message_bytes <= ZH_IMAGE_ROOT);
            zh_link_hold(link, &r);
            follow(link, &r);
            zh_link_let_go(link, &r);
        } else if (r.loaned) {
            zh_link_give_back(link, &r);
        }
        zh_link_consume(link, &r);
    }
    zh_link_flush(link);
    CHECK(got == 0 || got == -EPROTO || got == -EPIPE);
    CHECK(got == 0 || zh_link_next(link, &r) == -EPIPE);
    for (taken = 0; (got = zh_link_next_return(link, &credit)) == 1;)
        CHECK(++taken <= (int)ZH_RETURN_ENTRIES);
    CHECK(got == 0 || got == -EPROTO);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct zh_pump *pump;
    static struct zh_arena *arena;
    struct prelude p;
    int sockets[2];

    if (size < sizeof(p))
        return 0;
    memcpy(&p, data, sizeof(p));
    data += sizeof(p);
    size -= sizeof(p);
    if (pump == NULL) {
        pump = new_pump();
        arena = zh_arena_create(16 << 20);
    }
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) == 0);
    struct zh_link *link = make_link(pump, arena, sockets[0]);
    struct zh_side *peer = (struct zh_side *)(uintptr_t)link->peer.base;
    link->client = p.client & 1;

    for (uint32_t i = 0; i < p.returns && size >= sizeof(struct zh_return); i++) {
        memcpy(&peer->returns[i], data, sizeof(struct zh_return));
        data += sizeof(struct zh_return);
        size -= sizeof(struct zh_return);
    }
    uint32_t at = p.tail % ZH_RING_SLOTS;
    for (size_t done = 0; done < size && done < sizeof(peer->slots);) {
        size_t offset = ((size_t)at * ZH_SLOT + done) % sizeof(peer->slots);
        size_t piece = sizeof(peer->slots) - offset;
        piece = piece < size - done ? piece : size - done;
        memcpy(peer->slots + offset, data + done, piece);
        done += piece;
    }
    link->tail = link->tail_published = p.tail;
    atomic_store(&peer->head, (uint64_t)p.tail + (p.head <= 1030 ? p.head : p.head * 77777u));
    atomic_store(&peer->return_head, p.return_head);
    atomic_store(&peer->tail, p.peer_tail);
    atomic_store(&peer->return_tail, p.peer_return_tail);
    atomic_store(&peer->want, p.want);
    atomic_store((_Atomic uint32_t *)(uintptr_t)link->peer_page.base, p.epoch);
    /* Slots that are not released: nobody has a reason to look at them. */
    for (uint32_t i = p.head; i < ZH_RING_SLOTS; i++)
        ASAN_POISON_MEMORY_REGION(peer->slots + (at + i) % ZH_RING_SLOTS * ZH_SLOT, ZH_SLOT);

    if ((p.drain & 1) != 0)
        zh_link_die(link, true, "the fuzzer has closed the link");
    drain(link);
    struct zh_record header = {.kind = ZH_MESSAGE};
    for (int i = 0; i < 40; i++) {
        (void)zh_link_credit(link, 1, 1);
        (void)zh_link_post(link, &header, NULL, NULL, NULL, i < 20 ? 0 : ZH_RING_SLOTS - 64);
    }
    drain(link);

    ASAN_UNPOISON_MEMORY_REGION(peer, sizeof(*peer));
    free_link(link);
    close(sockets[0]);
    close(sockets[1]);
    return 0;
}
