/* Renewal: the same message in less memory, what is lent as it was, and nothing done by halves. */
#include <errno.h>

#include "check.h"
#include "image/wire_internal.h"
#include "sample.h"
#include "wire_cases.h"

static bool same(struct zh_wire_bytes left, struct zh_wire_bytes right)
{
    return left.bytes == right.bytes && memcmp(left.data, right.data, left.bytes) == 0;
}

/* Has the message these bytes? */
static void check_is(struct message *m, struct zh_wire_bytes expected)
{
    struct zh_wire_bytes now = message_encode(m, false);

    CHECK(same(now, expected));
    free(now.memory);
}

/* All that a message may have, many times over; texts, bytes and arrays of `size` bytes. */
static void fill(struct wire *w, size_t size, uint32_t count)
{
    struct wire inner = {0}, entry = {0};
    uint8_t *data = malloc(size + 8);

    memset(data, 'x', size + 8);
    wire_bytes(&inner, 7, data, size);
    wire_bytes(&inner, 11, data, size);
    wire_bytes(&inner, 60, data, size); /* unknown */
    wire_bytes(&inner, 15, data, size);
    for (uint32_t i = 0; i < count; i++) {
        memset(data, 'a' + (int)(i % 26), size + 8);
        wire_bytes(w, 7, data, size);
        wire_bytes(w, 8, data, size);
        wire_bytes(w, 11, data, size);
        wire_bytes(w, 15, data, size);
        wire_bytes(w, 17, inner.data, inner.used);
        wire_bytes(w, 18, inner.data, inner.used);
        wire_bytes(w, 20 + i % 2, inner.data, i % 2 == 0 ? inner.used : 0);
        entry.used = 0;
        wire_bytes(&entry, 1, data, i % 8);
        wire_bytes(&entry, 2, inner.data, inner.used);
        wire_bytes(w, 23, entry.data, entry.used);
    }
    free(data);
    wire_free(&entry);
    wire_free(&inner);
}

/* Renew it, with memory that ends at each possible place first. */
static void renew(struct message *m, struct zh_image_renewal *renewal)
{
    struct zh_wire_bytes before = message_encode(m, false);
    uint64_t bytes = m->memory.bytes;
    uint32_t blocks = m->image.block_count;
    int error;

    for (uint64_t left = 0;; left++) {
        struct zh_image_renewal asked = *renewal;
        m->memory.left = left;
        error = zh_image_renew(&m->image, m->layout, &asked);
        check_is(m, before);
        if (error == 0) {
            *renewal = asked;
            break;
        }
        CHECK_EQ(error, -ENOMEM);
        CHECK_EQ(m->memory.bytes, bytes);
        CHECK_EQ(m->image.block_count, blocks);
        CHECK(left < 10000);
    }
    m->memory.left = UINT64_MAX;
    uint64_t held = 0;
    for (uint32_t i = 0; i < m->image.block_count; i++)
        held += m->image.blocks[i].bytes;
    CHECK_EQ(m->image.held, held);
    CHECK_EQ(m->memory.bytes, held);
    free(before.memory);
}

static void test_cases(void)
{
    uint8_t in[4096];
    struct message m;

    message_init(&m, &thing);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct zh_image_renewal renewal = {0};
        if (cases[i].out == NULL)
            continue;
        size_t count = unhex(cases[i].in, in, sizeof(in));
        CHECK_EQ(message_decode(&m, in, count), 0);
        renew(&m, &renewal);
        CHECK_EQ(message_decode(&m, in, count), 0);
    }
    message_free(&m);
}

static void test_sizes(void)
{
    static const size_t sizes[] = {1, 8, 100, 600, 4095, 4096, 9000};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct wire w = {0}, half = {0};
        struct message m;
        fill(&w, sizes[i], i < 3 ? 700 : 30);
        fill(&half, sizes[i], 5);
        for (int large = 0; large < 2; large++) {
            struct wire all = {0};
            for (uint32_t n = 1; large != 0 && n <= 3; n++)
                wire_bytes(&all, n, half.data, half.used);
            for (int n = 0; n < 2; n++)
                wire_bytes(&all, 41, half.data, half.used);
            struct wire *what = large != 0 ? &all : &w;
            message_init(&m, large != 0 ? &wide : &thing);
            CHECK_EQ(message_decode(&m, what->data, what->used), 0);
            for (int n = 0; n < 3; n++) {
                struct zh_image_renewal renewal = {0};
                if (n == 1)
                    zh_image_lend(&m.image);
                renew(&m, &renewal);
            }
            /* What is gone over again finds nothing more to give back. */
            uint64_t bytes = m.memory.bytes;
            struct zh_image_renewal again = {.if_worth = true};
            CHECK_EQ(zh_image_renew(&m.image, m.layout, &again), 1);
            CHECK_EQ(m.memory.bytes, bytes);
            /* All of it may be built upon. */
            CHECK_EQ(message_decode(&m, what->data, what->used), 0);
            struct zh_image_renewal last = {0};
            renew(&m, &last);
            message_free(&m);
            wire_free(&all);
        }
        wire_free(&w);
        wire_free(&half);
    }
}

/* The same field for ever: what it had before goes. */
static void test_bounded(void)
{
    static const size_t sizes[] = {10, 700, 3000, 5000, 70000};
    struct message m;

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct wire w = {0};
        uint64_t most = 0;
        fill(&w, sizes[i], 1);
        message_init(&m, &thing);
        for (int n = 0; n < 3000; n++) {
            struct zh_image_renewal renewal = {.if_worth = true};
            memset(message_at(&m), 0, thing.size);
            CHECK_EQ(message_decode(&m, w.data, w.used), 0);
            if (zh_image_is_full(&m.image))
                CHECK(zh_image_renew(&m.image, &thing, &renewal) >= 0);
            most = m.memory.bytes > most ? m.memory.bytes : most;
        }
        CHECK(most < 10 * w.used + (1 << 18));
        message_free(&m);
        wire_free(&w);
    }
}

/* What others read: the root as it was, and the blocks. */
struct lent {
    uint8_t root[ZH_IMAGE_ROOT];
    struct zh_image_block *blocks;
    uint32_t count;
};

static const uint8_t *lent_far(void *context, zh_ref ref, uint64_t bytes)
{
    const struct lent *lent = context;

    for (uint32_t i = 0; i < lent->count; i++) {
        const struct zh_image_block *block = &lent->blocks[i];
        if (ref >= block->ref && ref - block->ref < block->bytes &&
            bytes <= block->bytes - (ref - block->ref))
            return block->data + (ref - block->ref);
    }
    return NULL;
}

/* What is lent stays as it is: the new structs and arrays lie elsewhere, other blobs are marked. */
static void test_lent(void)
{
    struct wire w = {0}, more = {0};
    struct message m;
    struct lent lent;
    struct zh_wire_bytes before, after;
    struct zh_image_renewal renewal = {.keep = true};

    fill(&w, 30, 900);
    fill(&w, 5000, 3);
    fill(&more, 5000, 2);
    message_init(&m, &thing);
    CHECK_EQ(message_decode(&m, w.data, w.used), 0);
    before = message_encode(&m, false);
    zh_image_lend(&m.image);
    lent.count = m.image.block_count;
    lent.blocks = malloc(lent.count * sizeof(*lent.blocks));
    memcpy(lent.blocks, m.image.blocks, lent.count * sizeof(*lent.blocks));
    memcpy(lent.root, m.image.root, m.image.root_used);
    struct zh_space space = {lent.root, m.image.root_used, lent_far, &lent};
    for (uint32_t i = 0; i < lent.count; i++)
        CHECK(!zh_image_owns(&m.image, lent.blocks[i].ref));
    renew(&m, &renewal);
    for (uint32_t i = 0; i < lent.count; i++)
        CHECK(!zh_image_owns(&m.image, lent.blocks[i].ref)); /* kept, or lent as before */
    const uint8_t *at = message_at(&m);
    static const uint32_t arrays[] = {15, 18, 23};
    for (int i = 0; i < 3; i++)
        CHECK(zh_image_owns(&m.image, zh_load_slot(at + field_of(&thing, arrays[i])->offset).ref));
    CHECK_EQ(message_decode(&m, more.data, more.used), 0);
    CHECK_EQ(zh_wire_encode(&space, &thing, lent.root, false, &after), 0);
    CHECK(same(before, after));
    CHECK(m.image.kept > 0);
    zh_image_purge(&m.image);
    CHECK_EQ(m.image.kept, 0);
    free(before.memory);
    free(after.memory);
    free(lent.blocks);
    message_free(&m);
    wire_free(&w);
    wire_free(&more);
}

/* Structs that the message has let go are moved, with all they have; so are those it has twice. */
static void test_parts(void)
{
    struct wire w = {0};
    struct message m;

    fill(&w, 400, 20);
    message_init(&m, &thing);
    CHECK_EQ(message_decode(&m, w.data, w.used), 0);
    uint8_t *at = message_at(&m);
    struct zh_slot things = zh_load_slot(at + field_of(&thing, 18)->offset);
    zh_ref own = zh_load64(at + field_of(&thing, 17)->offset);
    zh_ref gone = zh_load64(zh_image_at(&m.image, things.ref));
    zh_ref there = zh_load64(zh_image_at(&m.image, things.ref) + 8);
    struct zh_space space;
    struct zh_wire_bytes before, after;
    zh_image_space(&m.image, &space);
    CHECK_EQ(zh_wire_encode(&space, &thing, zh_image_at(&m.image, gone), false, &before), 0);
    zh_store64(zh_image_at(&m.image, things.ref), there); /* which it has twice now */
    struct zh_image_part parts[] = {
        {&thing, own, NULL}, {&thing, gone, NULL}, {&thing, there, NULL}, {&thing, gone, NULL}};
    struct zh_image_renewal renewal = {.parts = parts, .part_count = 4};
    CHECK_EQ(zh_image_renew(&m.image, &thing, &renewal), 0);
    at = message_at(&m);
    things = zh_load_slot(at + field_of(&thing, 18)->offset);
    CHECK_EQ(zh_load64(at + field_of(&thing, 17)->offset), parts[0].ref);
    CHECK(zh_image_at(&m.image, parts[0].ref) == parts[0].at);
    CHECK_EQ(zh_load64(zh_image_at(&m.image, things.ref)), parts[2].ref);
    CHECK_EQ(zh_load64(zh_image_at(&m.image, things.ref) + 8), parts[2].ref);
    CHECK(parts[1].ref == parts[3].ref && parts[1].at == parts[3].at && parts[1].ref != gone);
    zh_image_space(&m.image, &space);
    CHECK_EQ(zh_wire_encode(&space, &thing, parts[1].at, false, &after), 0);
    CHECK(same(before, after));
    free(before.memory);
    free(after.memory);
    message_free(&m);
    wire_free(&w);
}

/* An array of scalars that is pinned stays, and its block with it, as long as it is referred to. */
static void test_pinned(void)
{
    struct wire w = {0};
    struct message m;

    fill(&w, 900, 4);
    message_init(&m, &thing);
    CHECK_EQ(message_decode(&m, w.data, w.used), 0);
    uint8_t *at = message_at(&m) + field_of(&thing, 11)->offset;
    struct zh_slot slot = zh_load_slot(at);
    CHECK(zh_ref_segment(slot.ref) != 0);
    const uint8_t *data = zh_image_at(&m.image, slot.ref);
    for (int i = 0; i < 3; i++) {
        struct zh_image_renewal renewal = {.pinned = &slot.ref, .pinned_count = 1};
        renew(&m, &renewal);
        at = message_at(&m) + field_of(&thing, 11)->offset;
        CHECK_EQ(zh_load64(at), slot.ref);
        CHECK(zh_image_at(&m.image, slot.ref) == data);
        CHECK(zh_image_owns(&m.image, slot.ref));
    }
    memset(at, 0, 16);
    struct zh_image_renewal renewal = {.keep = true};
    renew(&m, &renewal);
    CHECK(zh_image_at(&m.image, slot.ref) == data && !zh_image_owns(&m.image, slot.ref));
    uint32_t epoch = m.image.epoch - 1;
    struct zh_image_readers readers[] = {{epoch, 1}, {epoch + 7, 1}};
    zh_image_purge_unread(&m.image, readers, 2, true);
    CHECK(zh_image_at(&m.image, slot.ref) == data);
    zh_image_purge_unread(&m.image, readers + 1, 1, true);
    CHECK(zh_image_at(&m.image, slot.ref) == NULL);
    message_free(&m);
    wire_free(&w);
}

static const struct zh_image_memory *usual;
static uint32_t released;

/* What is a peer's is in an array of ours. */
static void release(void *context, struct zh_image_block *block)
{
    if ((zh_ref_segment(block->ref) & ZH_REF_FOREIGN) != 0)
        released++;
    else
        usual->release(context, block);
}

/* Have the image refer to a part of a peer's memory. */
static zh_ref adopt_view(struct message *m, size_t begin, size_t end)
{
    static uint8_t theirs[40000];
    struct zh_image_block view = {
        .ref = zh_ref_make(ZH_REF_FOREIGN | 3, begin),
        .data = theirs + begin,
        .bytes = end - begin,
        .used = end - begin,
    };

    CHECK(zh_image_adopt(&m->image, &view) >= 0);
    return view.ref;
}

/* Views that overlap are one block, and as much memory as that. */
static void test_views(void)
{
    struct message m;

    message_init(&m, &thing);
    usual = m.image.memory;
    struct zh_image_memory memory = {.alloc = usual->alloc, .release = release};
    m.image.memory = &memory;
    zh_ref one = adopt_view(&m, 0, 8192);
    zh_ref two = adopt_view(&m, 16, 20000);
    zh_ref three = adopt_view(&m, 30000, 40000);
    CHECK_EQ(m.image.held, 30000);
    CHECK_EQ(m.image.block_count, 2);
    CHECK_EQ(released, 0); /* whoever adopts gives back what is not needed */
    zh_image_drop(&m.image, one, true);
    CHECK_EQ(m.image.kept, 0);
    zh_image_drop(&m.image, two, true);
    zh_image_drop(&m.image, three, true);
    CHECK_EQ(m.image.kept, 30000);
    /* Of what is kept, one part is used again; and then it is older than it was. */
    m.image.epoch = 5;
    struct zh_image_readers readers = {.epoch = 0, .count = 1};
    two = adopt_view(&m, 19000, 25000);
    CHECK_EQ(m.image.held, 35000);
    CHECK_EQ(m.image.kept, 10000);
    zh_image_purge_unread(&m.image, NULL, 0, true);
    CHECK_EQ(m.image.held, 25000);
    CHECK_EQ(released, 1);
    zh_image_drop(&m.image, two, true);
    zh_image_purge_unread(&m.image, &readers, 1, true);
    CHECK_EQ(m.image.held, 25000); /* that reader may have seen it */
    /* Three views, and one that joins them all. */
    (void)adopt_view(&m, 26000, 27000);
    (void)adopt_view(&m, 28000, 29000);
    CHECK_EQ(m.image.held, 27000);
    (void)adopt_view(&m, 24000, 28500);
    CHECK_EQ(m.image.held, 29000);
    CHECK_EQ(m.image.kept, 0);
    CHECK_EQ(m.image.block_count, 1);
    CHECK_EQ(released, 3);
    /* No slot refers to any of it. */
    struct zh_image_renewal renewal = {0};
    CHECK_EQ(zh_image_renew(&m.image, &thing, &renewal), 0);
    CHECK_EQ(m.image.held, 0);
    CHECK_EQ(released, 4);
    m.image.memory = usual;
    message_free(&m);
}

/* No stack is needed for messages that lie in each other. */
static void test_deep(void)
{
    struct message m;
    zh_ref ref;

    message_init(&m, &hollow);
    CHECK_EQ(zh_image_settle(&m.image), 0);
    uint8_t *at = message_at(&m);
    for (int i = 0; i < 300000; i++) {
        uint8_t *child = zh_image_alloc(&m.image, hollow.size, &ref);
        CHECK(child != NULL);
        zh_store64(at + field_of(&hollow, 2)->offset, ref);
        at = child;
    }
    struct zh_image_renewal renewal = {0};
    CHECK_EQ(zh_image_renew(&m.image, &hollow, &renewal), 0);
    int depth = 0;
    for (at = message_at(&m);; at = zh_image_at(&m.image, ref), depth++) {
        ref = zh_load64(at + field_of(&hollow, 2)->offset);
        if (ref == 0)
            break;
    }
    CHECK_EQ(depth, 300000);
    message_free(&m);
}

int main(void)
{
    samples_init();
    test_cases();
    test_sizes();
    test_bounded();
    test_lent();
    test_parts();
    test_pinned();
    test_views();
    test_deep();
    return 0;
}
