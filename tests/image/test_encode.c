/* Images into wire bytes, of peers too that send what cannot be. */
#include <errno.h>
#include <time.h>

#include "check.h"
#include "image/wire_internal.h"
#include "sample.h"

/* A peer's memory: a root, and one segment, number 1. */
struct peer {
    uint8_t root[ZH_IMAGE_ROOT];
    uint8_t *segment;
    size_t bytes;
    struct zh_space space;
};

static const uint8_t *far(void *context, zh_ref ref, uint64_t bytes)
{
    struct peer *peer = context;
    uint64_t offset = zh_ref_offset(ref);

    if (zh_ref_segment(ref) != 1 || offset > peer->bytes || bytes > peer->bytes - offset)
        return NULL;
    return peer->segment + offset;
}

static void peer_init(struct peer *peer, size_t bytes)
{
    *peer = (struct peer){.bytes = bytes, .segment = calloc(1, bytes)};
    peer->space = (struct zh_space){peer->root, sizeof(peer->root), far, peer};
}

static void put_slot(uint8_t *at, zh_ref ref, uint32_t count)
{
    zh_store_slot(at, ref, count, 0xdeadbeef); /* readers ignore the room */
}

/* Encoding and sizing, which must agree (text that is no UTF-8 aside); the bytes or an error. */
static int64_t encode(struct peer *peer, const struct zh_layout *layout)
{
    struct zh_wire_bytes out = {0};
    const uint8_t *at = zh_space_root(&peer->space, layout);
    int64_t size = zh_wire_size(&peer->space, layout, at);
    int error = zh_wire_encode(&peer->space, layout, at, false, &out);
    int sorted_error;
    size_t bytes = out.bytes;

    free(out.memory);
    if (error == -EILSEQ)
        return error;
    CHECK_EQ(size, error != 0 ? error : (int64_t)bytes);
    out = (struct zh_wire_bytes){0};
    sorted_error = zh_wire_encode(&peer->space, layout, at, true, &out);
    CHECK_EQ(sorted_error, error);
    CHECK(error != 0 || out.bytes == bytes);
    free(out.memory);
    return error != 0 ? error : (int64_t)bytes;
}

/* The field of a thing in the peer's root. */
static uint8_t *root_field(struct peer *peer, uint32_t number)
{
    return peer->root + field_of(&thing, number)->offset;
}

/* References and counts that lead out of what the peer has sent. */
static void test_ranges(void)
{
    static const struct {
        zh_ref ref;
        uint32_t count;
        bool good; /* as text */
    } slots[] = {
        {0, 0, true},
        {UINT64_MAX, 0, true},
        {0, 1, false},
        {ZH_IMAGE_ROOT - 1, 1, true},
        {ZH_IMAGE_ROOT - 1, 2, false},
        {ZH_IMAGE_ROOT, 1, false},
        {8, UINT32_MAX, false},
        {(UINT64_C(1) << ZH_REF_OFFSET_BITS) - 1, 1, false},
        {(UINT64_C(1) << ZH_REF_OFFSET_BITS), 64, true},
        {(UINT64_C(1) << ZH_REF_OFFSET_BITS), 65, false},
        {(UINT64_C(1) << ZH_REF_OFFSET_BITS) + 63, 1, true},
        {(UINT64_C(1) << ZH_REF_OFFSET_BITS) + 64, 1, false},
        {(UINT64_C(2) << ZH_REF_OFFSET_BITS), 1, false},
        {UINT64_MAX, 1, false},
    };
    static const uint32_t numbers[] = {7, 8, 11, 12, 13, 14, 15, 16, 18, 21, 22, 23, 24, 25, 26};

    for (size_t i = 0; i < sizeof(slots) / sizeof(slots[0]); i++) {
        for (size_t j = 0; j < sizeof(numbers) / sizeof(numbers[0]); j++) {
            const struct zh_field *field = field_of(&thing, numbers[j]);
            struct peer peer;
            peer_init(&peer, 64);
            put_slot(root_field(&peer, numbers[j]), slots[i].ref, slots[i].count);
            if (field->label == ZH_OPTIONAL)
                zh_store32(peer.root + zh_presence_word(field), zh_presence_bit(field));
            if (field->label == ZH_ONEOF)
                zh_store32(peer.root + field->case_at, field->number);
            int64_t bytes = encode(&peer, &thing);
            if (!slots[i].good)
                CHECK_EQ(bytes, -EFAULT);
            else if (field->width == 1 || (field->width == 16 && field->label != ZH_REPEATED))
                CHECK(bytes >= slots[i].count);
            else
                CHECK(bytes >= 0 || bytes == -EFAULT);
            free(peer.segment);
        }
        /* As unknown fields. */
        struct peer peer;
        peer_init(&peer, 64);
        put_slot(peer.root, slots[i].ref, slots[i].count);
        CHECK_EQ(encode(&peer, &thing), slots[i].good ? (int64_t)slots[i].count : -EFAULT);
        free(peer.segment);
    }
}

/* Messages at references that cannot be, one by one and in arrays and maps. */
static void test_references(void)
{
    const zh_ref far_segment = UINT64_C(1) << ZH_REF_OFFSET_BITS;
    const zh_ref bad[] = {
        ZH_IMAGE_ROOT - thing.size + 1, far_segment + 1, /* those two: an entry of a map would fit
                                                          */
        far_segment + thing.size,       far_segment * 2, ZH_IMAGE_ROOT, UINT64_MAX,
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct peer peer;
        peer_init(&peer, thing.size);
        zh_store64(root_field(&peer, 17), bad[i]);
        CHECK_EQ(encode(&peer, &thing), -EFAULT);
        zh_store64(root_field(&peer, 17), far_segment); /* its first byte: just fits */
        CHECK_EQ(encode(&peer, &thing), 3);
        zh_store64(root_field(&peer, 17), 0);
        static const uint32_t arrays[] = {18, 22, 23, 24, 28};
        for (size_t j = 0; j < (i < 2 ? 1u : sizeof(arrays) / sizeof(arrays[0])); j++) {
            put_slot(root_field(&peer, arrays[j]), 1000, 2);
            zh_store64(peer.root + 1000, bad[i]);
            zh_store64(peer.root + 1008, bad[i]);
            CHECK_EQ(encode(&peer, &thing), -EFAULT);
            zh_store64(peer.root + 1000, 0); /* nothing is no element */
            zh_store64(peer.root + 1008, 0);
            CHECK_EQ(encode(&peer, &thing), -EFAULT);
            put_slot(root_field(&peer, arrays[j]), 1000, 0);
        }
        CHECK_EQ(encode(&peer, &thing), 0);
        free(peer.segment);
    }
}

/* A oneof's message and a map's value that nothing refers to. */
static void test_no_message(void)
{
    struct peer peer;
    const struct zh_field *other = field_of(&thing, 20);

    peer_init(&peer, 8);
    zh_store32(peer.root + other->case_at, 20);
    CHECK_EQ(encode(&peer, &thing), 0);
    zh_store32(peer.root + other->case_at, 12345); /* no member */
    CHECK_EQ(encode(&peer, &thing), 0);
    put_slot(root_field(&peer, 23), 1000, 1);
    zh_store64(peer.root + 1000, 600);
    CHECK_EQ(encode(&peer, &thing), 7); /* key and value are there, empty */
    free(peer.segment);
}

/* --- cycles and shares ------------------------------------------------------------------------ */

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void test_cycles(void)
{
    struct peer peer;
    double start = seconds();
    const zh_ref copy = zh_ref_make(1, 0);

    /* A message in itself. */
    peer_init(&peer, 4096);
    zh_store64(root_field(&peer, 17), copy);
    zh_store64(peer.segment + field_of(&thing, 17)->offset, copy);
    CHECK_EQ(encode(&peer, &thing), -ELOOP);
    free(peer.segment);

    /* Three times in itself: 3^100 ways. */
    peer_init(&peer, 4096);
    zh_store64(peer.root + field_of(&hollow, 2)->offset, copy);
    zh_store64(peer.segment + field_of(&hollow, 2)->offset, copy);
    zh_store64(peer.segment + field_of(&hollow, 3)->offset, copy);
    put_slot(peer.segment + field_of(&hollow, 1)->offset, zh_ref_make(1, 1000), 1);
    zh_store64(peer.segment + 1000, copy);
    CHECK_EQ(encode(&peer, &hollow), -ELOOP);
    free(peer.segment);

    /* No cycle: 60 structs, of which each refers to the next one twice. */
    uint32_t steps = zh_image_steps;
    zh_image_steps = 1000000; /* for the sanitizers; as it is, it takes a second or two */
    peer_init(&peer, 60 * (size_t)hollow.size);
    zh_store64(peer.root + field_of(&hollow, 2)->offset, copy);
    for (uint32_t i = 0; i < 59; i++) {
        uint8_t *at = peer.segment + i * hollow.size;
        zh_store64(at + field_of(&hollow, 2)->offset, zh_ref_make(1, (i + 1) * hollow.size));
        zh_store64(at + field_of(&hollow, 3)->offset, zh_ref_make(1, (i + 1) * hollow.size));
    }
    CHECK_EQ(encode(&peer, &hollow), -EMSGSIZE);
    free(peer.segment);

    /* An array of one message, 1,000 times, three deep. */
    peer_init(&peer, 3 * 8000 + 3 * (size_t)hollow.size);
    put_slot(peer.root + field_of(&hollow, 1)->offset, zh_ref_make(1, 0), 1000);
    for (uint32_t i = 0; i < 3; i++) {
        for (uint32_t n = 0; n < 1000; n++)
            zh_store64(peer.segment + i * 8000 + n * 8, zh_ref_make(1, 24000 + i * hollow.size));
        if (i < 2)
            put_slot(peer.segment + 24000 + i * hollow.size + field_of(&hollow, 1)->offset,
                     zh_ref_make(1, (i + 1) * 8000), 1000);
    }
    CHECK_EQ(encode(&peer, &hollow), -EMSGSIZE);
    free(peer.segment);
    zh_image_steps = steps;
    CHECK(seconds() - start < 60);
}

/* More than 2 GiB of output from 1 MiB: the size says so (encoding would take the memory). */
static void test_most(void)
{
    enum { SLOTS = 4096, BYTES = 1 << 20 };
    struct peer peer;

    peer_init(&peer, BYTES);
    put_slot(root_field(&peer, 15), zh_ref_make(1, 0), SLOTS);
    for (uint32_t i = 0; i < SLOTS; i++)
        put_slot(peer.segment + 16 * i, zh_ref_make(1, 0), BYTES);
    CHECK_EQ(zh_wire_size(&peer.space, &thing, peer.root), -EMSGSIZE);
    free(peer.segment);
}

/* --- values ----------------------------------------------------------------------------------- */

static void test_text(void)
{
    static const uint32_t numbers[] = {7, 15, 21, 23, 29};

    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        struct peer peer;
        const struct zh_field *field = field_of(&thing, numbers[i]);
        uint8_t *slot = root_field(&peer, numbers[i]);
        peer_init(&peer, 2048);
        if (field->label == ZH_ONEOF)
            zh_store32(peer.root + field->case_at, field->number);
        if (field->label >= ZH_REPEATED) {
            put_slot(slot, zh_ref_make(1, 1024), 1);
            slot = peer.segment + 1024;
        }
        if (field->label == ZH_MAP) {
            zh_store64(slot, zh_ref_make(1, 1040));
            slot = peer.segment + 1040 +
                   field->type->fields[field->type->fields[0].width == 16 ? 0 : 1].offset;
        }
        put_slot(slot, zh_ref_make(1, 0), 10);
        memcpy(peer.segment, "0123456789", 10);
        CHECK(encode(&peer, &thing) > 10);
        peer.segment[9] = 0xc3;
        CHECK_EQ(encode(&peer, &thing), -EILSEQ);
        free(peer.segment);
    }
}

/* One byte that is wrong is found in text of any length, wherever it is, and nothing in bytes is.
 */
static void test_text_lengths(void)
{
    static const uint32_t numbers[] = {7, 8};

    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        const struct zh_field *field = field_of(&thing, numbers[i]);
        for (uint32_t count = 1; count <= 80; count++) {
            struct peer peer;
            uint8_t *slot = root_field(&peer, numbers[i]);
            peer_init(&peer, count); /* not a byte more */
            if (field->label == ZH_OPTIONAL)
                zh_store32(peer.root + zh_presence_word(field), zh_presence_bit(field));
            put_slot(slot, zh_ref_make(1, 0), count);
            memset(peer.segment, 'x', count);
            CHECK_EQ(encode(&peer, &thing), count + 2);
            for (uint32_t at = 0; at < count; at++) {
                peer.segment[at] = 0xff;
                CHECK_EQ(encode(&peer, &thing), numbers[i] == 7 ? -EILSEQ : (int64_t)count + 2);
                peer.segment[at] = 'x';
            }
            free(peer.segment);
        }
    }
}

/* A bool is true whatever it is, on the wire 1; values of a closed enum are values. */
static void test_values(void)
{
    struct peer peer;
    struct zh_wire_bytes out;
    uint8_t expected[64];

    peer_init(&peer, 8);
    *root_field(&peer, 4) = 0x80;
    put_slot(root_field(&peer, 13), 1000, 3);
    memcpy(peer.root + 1000, "\x00\x02\xff", 3);
    put_slot(root_field(&peer, 16), 1004, 1);
    zh_store32(peer.root + 1004, 99);
    CHECK_EQ(encode(&peer, &thing), 11);
    CHECK_EQ(zh_wire_encode(&peer.space, &thing, peer.root, false, &out), 0);
    CHECK_EQ(out.bytes, unhex("20016a0300010182010163", expected, sizeof(expected)));
    CHECK(memcmp(out.data, expected, out.bytes) == 0);
    free(out.memory);
    free(peer.segment);
}

/* Packed varints of every length, around the sizes at which room is reserved. */
static void test_packed(void)
{
    for (uint32_t count = 1; count < 300; count++) {
        struct wire numbers = {0}, w = {0};
        struct message m;
        for (uint32_t i = 0; i < count; i++)
            wire_varint(&numbers, UINT64_MAX >> (i * 7 + count) % 64);
        wire_bytes(&w, 25, numbers.data, numbers.used);
        message_init(&m, &thing);
        CHECK_EQ(message_decode(&m, w.data, w.used), 0);
        struct zh_wire_bytes out = message_encode(&m, false);
        CHECK(out.bytes == w.used && memcmp(out.data, w.data, w.used) == 0);
        free(out.memory);
        message_free(&m);
        wire_free(&numbers);
        wire_free(&w);
    }
}

/* The root may lie at any address. */
static void test_unaligned(void)
{
    struct wire w = {0};
    struct message m;

    wire_number(&w, 1, 300);
    wire_number(&w, 9, 1);
    wire_bytes(&w, 15, "text", 4);
    message_init(&m, &thing);
    CHECK_EQ(message_decode(&m, w.data, w.used), 0);
    uint32_t used = m.image.root_used;
    for (size_t shift = 0; shift < 8; shift++) {
        uint8_t *memory = malloc(used + shift);
        struct zh_space space = {memory + shift, used, NULL, NULL};
        struct zh_wire_bytes out;
        memcpy(memory + shift, m.image.root, used);
        CHECK_EQ(zh_wire_encode(&space, &thing, memory + shift, false, &out), 0);
        CHECK(out.bytes == w.used && memcmp(out.data, w.data, w.used) == 0);
        CHECK_EQ(zh_wire_size(&space, &thing, memory + shift), w.used);
        free(out.memory);
        free(memory);
    }
    message_free(&m);
    wire_free(&w);
}

int main(void)
{
    samples_init();
    test_ranges();
    test_references();
    test_no_message();
    test_cycles();
    test_most();
    test_text();
    test_text_lengths();
    test_values();
    test_packed();
    test_unaligned();
    return 0;
}
