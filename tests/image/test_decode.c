/* Wire bytes into images: what protobuf does, limits, and what happens when memory runs out. */
#include <errno.h>
#include <time.h>

#include "check.h"
#include "image/wire_internal.h"
#include "sample.h"
#include "wire_cases.h"

enum { CASES = sizeof(cases) / sizeof(cases[0]) };

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void expect(struct message *m, const uint8_t *bytes, size_t count, const char *name)
{
    struct zh_wire_bytes out = message_encode(m, true);

    if (out.bytes != count || (count > 0 && memcmp(out.data, bytes, count) != 0)) {
        fprintf(stderr, "%s: got ", name);
        for (size_t i = 0; i < out.bytes; i++)
            fprintf(stderr, "%02x", out.data[i]);
        fprintf(stderr, "\n");
        exit(1);
    }
    free(out.memory);
}

static void test_cases(void)
{
    uint8_t in[4096], out[4096];

    for (int i = 0; i < CASES; i++) {
        struct message m;
        size_t count = unhex(cases[i].in, in, sizeof(in));
        message_init(&m, &thing);
        int error = message_decode(&m, in, count);
        if ((error == 0) != (cases[i].out != NULL)) {
            fprintf(stderr, "%s: %d\n", cases[i].name, error);
            exit(1);
        }
        if (error == 0) {
            expect(&m, out, unhex(cases[i].out, out, sizeof(out)), cases[i].name);
        } else {
            CHECK_EQ(error, strstr(cases[i].name, "UTF-8") != NULL ? -EILSEQ : -EBADMSG);
            free(message_encode(&m, true).memory); /* it is valid all the same */
        }
        message_free(&m);
    }
}

/* Each beginning of each case: over-reads would be seen by the sanitizers. */
static void test_cut(void)
{
    uint8_t in[4096];

    for (int i = 0; i < CASES; i++) {
        size_t count = unhex(cases[i].in, in, sizeof(in));
        for (size_t cut = 0; cut < count && cut < 200; cut++) {
            struct message m;
            message_init(&m, &thing);
            message_decode(&m, in, cut);
            free(message_encode(&m, true).memory);
            message_free(&m);
        }
    }
}

/* Two calls merge as one call with all the bytes. */
static void test_merge(void)
{
    struct wire w = {0};
    struct message one, two;

    for (int i = 0; i < CASES; i++) {
        uint8_t in[4096];
        if (cases[i].out == NULL)
            continue;
        size_t count = unhex(cases[i].in, in, sizeof(in));
        message_init(&two, &thing);
        CHECK_EQ(message_decode(&two, in, count), 0);
        CHECK_EQ(message_decode(&two, in, count), 0);
        wire_raw(&w, in, count);
        wire_raw(&w, in, count);
        message_init(&one, &thing);
        CHECK_EQ(message_decode(&one, w.data, w.used), 0);
        struct zh_wire_bytes out = message_encode(&two, true);
        expect(&one, out.data, out.bytes, cases[i].name);
        free(out.memory);
        message_free(&one);
        message_free(&two);
        w.used = 0;
    }
    wire_free(&w);
}

/* Foreign fields make the whole entry of a map an unknown field, and a field 0 within an unknown
 * group passes: as in upb. */
static void test_unknown_parts(void)
{
    struct wire entry = {0}, w = {0};
    struct message m;
    uint8_t out[64];

    wire_number(&entry, 1, 3);
    wire_number(&entry, 7, 9);
    wire_bytes(&entry, 2, "ab", 2);
    wire_number(&entry, 2, 4);
    wire_bytes(&w, 24, entry.data, entry.used);
    message_init(&m, &thing);
    CHECK_EQ(message_decode(&m, w.data, w.used), 0);
    expect(&m, out, unhex("c2010a08033809120261621004", out, sizeof(out)), "foreign fields");
    message_free(&m);
    wire_free(&entry);
    w.used = 0;

    wire_tag(&w, 50, 3);
    wire_number(&w, 0, 0);
    wire_tag(&w, 50, 4);
    message_init(&m, &thing);
    CHECK_EQ(message_decode(&m, w.data, w.used), 0);
    message_free(&m);
    wire_free(&w);
}

/* 100 messages, groups or entries within each other, and not one more. */
static void test_depth(void)
{
    for (int i = 98; i <= 102; i++) {
        struct wire w = {0}, groups = {0};
        struct message m;
        for (int n = 0; n < i; n++)
            wire_wrap(&w, n % 2 == 0 ? 17 : 18);
        message_init(&m, &thing);
        CHECK_EQ(message_decode(&m, w.data, w.used), i <= 100 ? 0 : -ELOOP);
        free(message_encode(&m, true).memory);
        message_free(&m);
        wire_free(&w);

        for (int n = 0; n < i / 2; n++) {
            wire_wrap(&w, 2);
            wire_wrap(&w, 23);
        }
        message_init(&m, &thing);
        CHECK_EQ(message_decode(&m, w.data, w.used), i / 2 <= 50 ? 0 : -ELOOP);
        free(message_encode(&m, true).memory);
        message_free(&m);
        wire_free(&w);

        /* An entry without value, which has no level left for it. */
        wire_wrap(&w, 23);
        for (int n = 0; n < i - 1; n++)
            wire_wrap(&w, 17);
        message_init(&m, &thing);
        CHECK_EQ(message_decode(&m, w.data, w.used), i <= 100 ? 0 : -ELOOP);
        free(message_encode(&m, true).memory);
        message_free(&m);
        wire_free(&w);

        for (int n = 0; n < i - 50; n++)
            wire_tag(&groups, 60, 3);
        for (int n = 0; n < i - 50; n++)
            wire_tag(&groups, 60, 4);
        wire_raw(&w, groups.data, groups.used);
        for (int n = 0; n < 50; n++)
            wire_wrap(&w, 17);
        message_init(&m, &thing);
        CHECK_EQ(message_decode(&m, w.data, w.used), i <= 100 ? 0 : -ELOOP);
        message_free(&m);
        wire_free(&w);
        wire_free(&groups);
    }
}

/* Arrays take no more than a few times their size, however they come. */
static void test_growth(void)
{
    enum { COUNT = 100000 };
    static const uint32_t numbers[] = {11, 12, 14, 15, 18, 26, 50};

    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        struct wire w = {0};
        struct message m;
        uint32_t number = numbers[i];
        for (int n = 0; n < COUNT; n++) {
            if (number == 15 || number == 18) {
                wire_bytes(&w, number, NULL, 0);
            } else if (number == 14 || number == 26) {
                wire_tag(&w, number, number == 14 ? 5 : 1);
                wire_raw(&w, &(uint64_t){(uint64_t)n}, number == 14 ? 4 : 8);
            } else {
                wire_number(&w, number, (uint64_t)n);
            }
        }
        message_init(&m, &thing);
        CHECK_EQ(message_decode(&m, w.data, w.used), 0);
        uint64_t least = number == 50   ? w.used
                         : number == 18 ? COUNT * (8u + thing.size)
                                        : COUNT * (uint64_t)field_of(&thing, number)->width;
        CHECK(m.memory.bytes <= 4 * least + 200000);
        struct zh_wire_bytes out = message_encode(&m, false);
        if (number != 11 && number != 14) /* those are packed now */
            CHECK(out.bytes == w.used && memcmp(out.data, w.data, w.used) == 0);
        free(out.memory);
        message_free(&m);
        wire_free(&w);
    }
}

/* Packed scalars and bytes from 4,096 bytes on begin a block of their own. */
static void test_blobs(void)
{
    static uint8_t bytes[8192];

    for (uint32_t size = 4088; size <= 4104; size += 8) {
        struct wire w = {0};
        struct message m;
        wire_bytes(&w, 8, bytes, size);
        wire_bytes(&w, 14, bytes, size);
        wire_bytes(&w, 13, bytes, size);
        message_init(&m, &thing);
        CHECK_EQ(message_decode(&m, w.data, w.used), 0);
        static const uint32_t numbers[] = {8, 13, 14};
        for (int i = 0; i < 3; i++) {
            struct zh_slot slot =
                zh_load_slot(message_at(&m) + field_of(&thing, numbers[i])->offset);
            bool begins = false;
            for (uint32_t b = 0; b < m.image.block_count; b++)
                begins = begins || m.image.blocks[b].ref == slot.ref;
            CHECK(size < ZH_IMAGE_BLOB || begins);
        }
        struct zh_wire_bytes out = message_encode(&m, false);
        CHECK(out.bytes == w.used);
        free(out.memory);
        message_free(&m);
        wire_free(&w);
    }
}

/* Many small things get one chunk, made for all of them; what is needed later does not. */
static void test_expected(void)
{
    struct wire w = {0};
    struct message m;

    for (int i = 0; i < 100; i++)
        wire_bytes(&w, 15, "a text of some length, as there are many", 40);
    message_init(&m, &thing);
    CHECK_EQ(message_decode(&m, w.data, w.used), 0);
    CHECK_EQ(m.image.block_count, 1);
    CHECK_EQ(m.image.blocks[0].bytes, 2 * w.used);
    CHECK_EQ(m.image.expected, 0);
    message_free(&m);

    wire_raw(&w, "\x80", 1);
    message_init(&m, &thing);
    CHECK_EQ(message_decode(&m, w.data, w.used), -EBADMSG);
    CHECK_EQ(m.image.expected, 0);
    message_free(&m);
    wire_free(&w);
}

/* The bytes behind what is set in an image are zeros, whatever the blocks held before. */
static void test_zeros_between(void)
{
    struct message m;
    struct wire w = {0};
    static const char text[4100] = "text";

    wire_bytes(&w, 8, text, 4099); /* its room is 4,104 */
    message_init(&m, &thing);
    CHECK_EQ(message_decode(&m, w.data, w.used), 0);
    struct zh_slot slot = zh_load_slot(message_at(&m) + field_of(&thing, 8)->offset);
    const uint8_t *data = zh_image_at(&m.image, slot.ref);
    CHECK_EQ(slot.room, 4104);
    for (uint32_t i = slot.count; i < slot.room; i++)
        CHECK_EQ(data[i], 0);
    message_free(&m);
    wire_free(&w);

    /* An array that has grown into a block with room for more. */
    for (int i = 0; i < 1500; i++)
        wire_number(&w, 12, 1);
    message_init(&m, &thing);
    CHECK_EQ(message_decode(&m, w.data, w.used), 0);
    slot = zh_load_slot(message_at(&m) + field_of(&thing, 12)->offset);
    data = zh_image_at(&m.image, slot.ref);
    CHECK(slot.count == 1500 && slot.room > 4 * slot.count && slot.room >= ZH_IMAGE_BLOB);
    for (uint32_t i = 4 * slot.count; i < slot.room; i++)
        CHECK_EQ(data[i], 0);
    message_free(&m);
    wire_free(&w);

    /* A member of a oneof over a wider one. */
    wire_bytes(&w, 21, "something longer", 16);
    wire_number(&w, 19, 5);
    message_init(&m, &thing);
    CHECK_EQ(message_decode(&m, w.data, w.used), 0);
    const struct zh_field *number = field_of(&thing, 19);
    const uint8_t *unit = message_at(&m) + number->offset;
    CHECK_EQ(number->unit, 16);
    CHECK_EQ(zh_load32(unit), 5);
    for (uint32_t i = 4; i < number->unit; i++)
        CHECK_EQ(unit[i], 0);
    message_free(&m);
    wire_free(&w);
}

/* --- maps ------------------------------------------------------------------------------------- */

static void put_number_entry(struct wire *w, uint64_t key, uint64_t value)
{
    struct wire entry = {0};

    wire_number(&entry, 1, key);
    wire_number(&entry, 2, value);
    wire_bytes(w, 24, entry.data, entry.used);
    wire_free(&entry);
}

static void put_text_entry(struct wire *w, const char *key, uint64_t small)
{
    struct wire entry = {0}, value = {0};

    wire_number(&value, 1, small);
    wire_bytes(&entry, 1, key, strlen(key));
    wire_bytes(&entry, 2, value.data, value.used);
    wire_bytes(w, 23, entry.data, entry.used);
    wire_free(&entry);
    wire_free(&value);
}

/* Every count around the limits where maps are searched in another way; two maps in turn. */
static void test_maps(void)
{
    for (int count = 1; count < 140; count++) {
        struct wire w = {0};
        struct message m;
        char key[16];
        for (int round = 0; round < 3; round++) {
            for (int i = 0; i < count; i++) {
                snprintf(key, sizeof(key), "%*d", i % 12, i);
                put_number_entry(&w, (uint64_t)(i * 7919), (uint64_t)(i + round));
                put_text_entry(&w, key, (uint64_t)(i + round));
            }
        }
        message_init(&m, &thing);
        /* In two calls: what is there already is found too. */
        CHECK_EQ(message_decode(&m, w.data, w.used), 0);
        CHECK_EQ(message_decode(&m, w.data, w.used), 0);
        w.used = 0;
        for (int i = 0; i < count; i++) {
            snprintf(key, sizeof(key), "%*d", i % 12, i);
            put_text_entry(&w, key, (uint64_t)(i + 2));
        }
        for (int i = 0; i < count; i++)
            put_number_entry(&w, (uint64_t)(i * 7919), (uint64_t)(i + 2));
        struct zh_wire_bytes out = message_encode(&m, false);
        CHECK(out.bytes == w.used && memcmp(out.data, w.data, w.used) == 0);
        free(out.memory);
        message_free(&m);
        wire_free(&w);
    }
}

/* An entry that was not needed, as its key was there, leaves nothing in the one that follows. */
static void test_spare_entry(void)
{
    struct wire w = {0};
    struct message m;
    uint8_t out[64];

    put_number_entry(&w, 1, 5);
    put_number_entry(&w, 1, 6);
    wire_bytes(&w, 24, "\x08\x02", 2); /* key 2, no value */
    message_init(&m, &thing);
    CHECK_EQ(message_decode(&m, w.data, w.used), 0);
    struct zh_wire_bytes bytes = message_encode(&m, false);
    CHECK_EQ(bytes.bytes, unhex("c2010408011006c2010408021000", out, sizeof(out)));
    CHECK(memcmp(bytes.data, out, bytes.bytes) == 0);
    free(bytes.memory);
    message_free(&m);
    wire_free(&w);
}

/* A million entries, and a map whose message is merged again and again, are not quadratic. */
static void test_large_maps(void)
{
    enum { ENTRIES = 1000000, MERGES = 100000 };
    struct wire w = {0}, all = {0};
    struct message m;
    double start = seconds();

    for (uint32_t i = 0; i < ENTRIES; i++)
        put_number_entry(&w, i * UINT32_C(2654435761) & 0x7fffffff, i);
    message_init(&m, &thing);
    CHECK_EQ(message_decode(&m, w.data, w.used), 0);
    CHECK_EQ(zh_load32(message_at(&m) + field_of(&thing, 24)->offset + 8), ENTRIES);
    message_free(&m);
    w.used = 0;

    for (uint32_t i = 0; i < MERGES; i++)
        put_number_entry(&w, i, i);
    wire_wrap(&w, 17);
    wire_raw(&all, w.data, w.used);
    for (uint32_t i = 0; i < MERGES; i++) {
        w.used = 0;
        put_number_entry(&w, MERGES + i, i);
        put_text_entry(&w, i % 2 == 0 ? "a" : "b", i); /* another map between */
        wire_wrap(&w, 17);
        wire_raw(&all, w.data, w.used);
    }
    message_init(&m, &thing);
    CHECK_EQ(message_decode(&m, all.data, all.used), 0);
    message_free(&m);
    wire_free(&w);
    wire_free(&all);
    CHECK(seconds() - start < 60); /* about 1 s; quadratic: hours */
}

/* --- memory that runs out --------------------------------------------------------------------- */

/* At whichever block memory ends, the message is valid, and what was there before still is. */
static void test_out_of_memory(void)
{
    struct wire w = {0}, before = {0};
    static char text[5000];
    struct message m;
    int error;

    memset(text, 'x', sizeof(text));
    wire_number(&before, 1, 42);
    wire_bytes(&before, 7, "before", 6);
    for (int i = 0; i < 40; i++) {
        char key[16];
        snprintf(key, sizeof(key), "key %d", i);
        wire_bytes(&w, 15, text, 1 + (size_t)i * 100);
        wire_bytes(&w, 8, text, sizeof(text));
        wire_number(&w, 12, (uint64_t)i);
        wire_bytes(&w, 13, text, 1000);
        put_text_entry(&w, key, (uint64_t)i);
        put_number_entry(&w, (uint64_t)i, 1);
        wire_bytes(&w, 18, before.data, before.used);
        wire_bytes(&w, 20, before.data, before.used);
        wire_bytes(&w, 60, text, 300); /* unknown */
    }
    for (uint64_t blocks = 0;; blocks++) {
        message_init(&m, &thing);
        CHECK_EQ(message_decode(&m, before.data, before.used), 0);
        m.memory.left = blocks;
        error = message_decode(&m, w.data, w.used);
        struct zh_wire_bytes out = message_encode(&m, true);
        CHECK(out.bytes >= before.used);
        CHECK(memcmp(out.data, before.data, before.used) == 0);
        free(out.memory);
        if (error != 0) {
            /* With more memory it goes on. */
            CHECK_EQ(error, -ENOMEM);
            m.memory.left = UINT64_MAX;
            CHECK_EQ(message_decode(&m, w.data, w.used), 0);
        }
        message_free(&m);
        if (error == 0)
            break;
        CHECK(blocks < 1000);
    }
    wire_free(&w);
    wire_free(&before);
}

/* A struct that does not lie in the root. */
static void test_wide(void)
{
    struct wire w = {0};
    struct message m;

    for (uint32_t i = 1; i <= 40; i++)
        wire_bytes(&w, i, "some bytes for each", 10 + i % 8);
    for (int i = 0; i < 50; i++)
        wire_bytes(&w, 41, "\x08\x05", 2);
    message_init(&m, &wide);
    CHECK_EQ(message_decode(&m, w.data, w.used), 0);
    expect(&m, w.data, w.used, "wide");
    message_free(&m);
    wire_free(&w);
}

/* Decoded in a message, and encoded again if it is valid. */
static void check_text(const uint8_t *text, size_t bytes, bool valid)
{
    struct wire w = {0};
    struct message m;

    wire_bytes(&w, 8, text, bytes); /* as bytes it is good in any case */
    wire_bytes(&w, 15, text, bytes);
    message_init(&m, &thing);
    CHECK_EQ(message_decode(&m, w.data, w.used), valid ? 0 : -EILSEQ);
    if (valid) {
        struct zh_wire_bytes out = message_encode(&m, false);
        CHECK(out.bytes == w.used && memcmp(out.data, w.data, w.used) == 0);
        free(out.memory);
    }
    message_free(&m);
    wire_free(&w);
}

static void test_utf8(void)
{
    static const struct {
        const char *text;
        bool valid;
    } texts[] = {
        {"", true},
        {"a", true},
        {"\xc2\x80", true},
        {"\xdf\xbf", true},
        {"\xe0\xa0\x80", true},
        {"\xed\x9f\xbf", true},
        {"\xee\x80\x80", true},
        {"\xef\xbf\xbf", true},
        {"\xf0\x90\x80\x80", true},
        {"\xf4\x8f\xbf\xbf", true},
        {"\x80", false},
        {"\xbf", false},
        {"\xc0\x80", false},
        {"\xc1\xbf", false},
        {"\xc2", false},
        {"\xc2 ", false},
        {"\xc2\xc2", false},
        {"\xe0\x9f\xbf", false},
        {"\xe0\xa0", false},
        {"\xe1\x80 ", false},
        {"\xed\xa0\x80", false},
        {"\xed\xbf\xbf", false},
        {"\xf0\x8f\xbf\xbf", false},
        {"\xf0\x90\x80", false},
        {"\xf1\x80\x80 ", false},
        {"\xf4\x90\x80\x80", false},
        {"\xf5\x80\x80\x80", false},
        {"\xff", false},
    };

    /* Each after and before ASCII of every length up to 20. */
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        for (size_t before = 0; before <= 20; before++) {
            for (size_t after = 0; after <= 20; after++) {
                size_t n = strlen(texts[i].text);
                uint8_t *all = malloc(before + n + after + 1);
                memset(all, 'x', before + n + after);
                memcpy(all + before, texts[i].text, n);
                uint8_t *exact = malloc(before + n + after);
                memcpy(exact, all, before + n + after);
                CHECK(zh_utf8_valid(exact, before + n + after) == texts[i].valid);
                check_text(exact, before + n + after, texts[i].valid);
                free(exact);
                free(all);
            }
        }
    }
}

int main(void)
{
    samples_init();
    test_cases();
    test_cut();
    test_merge();
    test_unknown_parts();
    test_depth();
    test_growth();
    test_blobs();
    test_expected();
    test_zeros_between();
    test_maps();
    test_spare_entry();
    test_large_maps();
    test_out_of_memory();
    test_wide();
    test_utf8();
    return 0;
}
