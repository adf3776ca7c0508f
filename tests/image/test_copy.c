/* Deep copies: the same bytes on the wire, nothing shared, nothing taken over that is not set. */
#include <errno.h>

#include "check.h"
#include "image/wire_internal.h"
#include "sample.h"
#include "wire_cases.h"

static int copy(struct message *to, const struct zh_space *space)
{
    uint64_t bytes;

    return zh_image_copy(&to->image, to->layout, message_at(to), space,
                         zh_space_root(space, to->layout), &bytes);
}

/* The copy of a message has its bytes, also after the message is gone. */
static void check_copy(const struct zh_layout *layout, const uint8_t *bytes, size_t count)
{
    struct message from, to;
    struct zh_space space;

    message_init(&from, layout);
    CHECK_EQ(message_decode(&from, bytes, count), 0);
    struct zh_wire_bytes before = message_encode(&from, false);
    message_init(&to, layout);
    zh_image_space(&from.image, &space);
    CHECK_EQ(copy(&to, &space), 0);
    memset(from.image.root, 0xee, from.image.root_used);
    for (uint32_t i = 0; i < from.image.block_count; i++)
        memset(from.image.blocks[i].data, 0xee, from.image.blocks[i].bytes);
    message_free(&from);
    struct zh_wire_bytes after = message_encode(&to, false);
    CHECK(before.bytes == after.bytes && memcmp(before.data, after.data, before.bytes) == 0);
    free(before.memory);
    free(after.memory);
    message_free(&to);
}

static void test_cases(void)
{
    struct wire all = {0}, w = {0};
    uint8_t in[4096];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (cases[i].out == NULL)
            continue;
        size_t count = unhex(cases[i].in, in, sizeof(in));
        check_copy(&thing, in, count);
        wire_raw(&all, in, count);
    }
    check_copy(&thing, all.data, all.used);
    for (uint32_t i = 1; i <= 40; i++)
        wire_bytes(&w, i, all.data, all.used);
    for (int i = 0; i < 100; i++)
        wire_bytes(&w, 41, all.data, all.used);
    check_copy(&wide, w.data, w.used);
    wire_free(&w);
    wire_free(&all);
}

/* What a peer has left in fields that are not set does not get into the copy: there, references
 * are trusted. */
static void test_garbage(void)
{
    uint8_t root[ZH_IMAGE_ROOT];
    struct zh_space space = {root, sizeof(root), NULL, NULL};
    struct message m;
    uint8_t *zeros = calloc(1, thing.size);

    memset(root, 0xff, sizeof(root));
    memset(root, 0, ZH_PRESENCE_AT + 4); /* no unknown fields, no presence bit */
    zh_store32(root + field_of(&thing, 19)->case_at, 4711);
    for (uint16_t i = 0; i < thing.field_count; i++) {
        const struct zh_field *field = &thing.fields[i];
        if (field->label == ZH_IMPLICIT || field->label >= ZH_REPEATED)
            memset(root + field->offset, 0, field->width > 8 ? 16 : field->width);
        if (field->label >= ZH_REPEATED || field->width == 16) {
            zh_store64(root + field->offset, UINT64_MAX); /* of count 0 */
            zh_store32(root + field->offset + 8, field->label == ZH_OPTIONAL ? 77 : 0);
        }
    }
    message_init(&m, &thing);
    CHECK_EQ(copy(&m, &space), 0);
    CHECK(memcmp(message_at(&m), zeros, thing.size) == 0);
    message_free(&m);
    free(zeros);

    /* A bool that is neither 0 nor 1, alone and in an array. */
    memset(root, 0, sizeof(root));
    root[field_of(&thing, 4)->offset] = 0x40;
    zh_store_slot(root + field_of(&thing, 13)->offset, 1000, 4, 0);
    memcpy(root + 1000, "\x00\x01\x02\xff", 4);
    message_init(&m, &thing);
    CHECK_EQ(copy(&m, &space), 0);
    CHECK_EQ(message_at(&m)[field_of(&thing, 4)->offset], 1);
    struct zh_slot slot = zh_load_slot(message_at(&m) + field_of(&thing, 13)->offset);
    CHECK(memcmp(zh_image_at(&m.image, slot.ref), "\x00\x01\x01\x01", 4) == 0);
    message_free(&m);
}

static void test_errors(void)
{
    uint8_t root[ZH_IMAGE_ROOT] = {0};
    struct zh_space space = {root, sizeof(root), NULL, NULL};
    struct message m;

    /* In itself, by a copy of the struct at 512. */
    zh_store64(root + field_of(&hollow, 2)->offset, 512);
    zh_store64(root + 512 + field_of(&hollow, 2)->offset, 512);
    message_init(&m, &hollow);
    CHECK_EQ(copy(&m, &space), -ELOOP);
    free(message_encode(&m, false).memory);
    message_free(&m);
    zh_store64(root + 512 + field_of(&hollow, 3)->offset, 512);
    message_init(&m, &hollow);
    CHECK_EQ(copy(&m, &space), -ELOOP);
    message_free(&m);

    /* Eight structs, of which each refers to the next one twice: 256 copies, and no cycle. */
    memset(root, 0, sizeof(root));
    CHECK(512 + hollow.size * 8 <= ZH_IMAGE_ROOT);
    zh_store64(root + field_of(&hollow, 2)->offset, 512);
    for (uint32_t i = 0; i < 7; i++) {
        uint8_t *at = root + 512 + i * hollow.size;
        zh_store64(at + field_of(&hollow, 2)->offset, 512 + (i + 1) * hollow.size);
        zh_store64(at + field_of(&hollow, 3)->offset, 512 + (i + 1) * hollow.size);
    }
    uint32_t steps = zh_image_steps;
    zh_image_steps = 200;
    message_init(&m, &hollow);
    CHECK_EQ(copy(&m, &space), -EMSGSIZE);
    message_free(&m);
    zh_image_steps = 300;
    message_init(&m, &hollow);
    CHECK_EQ(copy(&m, &space), 0);
    message_free(&m);
    zh_image_steps = steps;

    /* References that cannot be, and text that is none. */
    for (uint16_t i = 0; i < thing.field_count; i++) {
        const struct zh_field *field = &thing.fields[i];
        memset(root, 0, sizeof(root));
        if (field->label == ZH_OPTIONAL)
            zh_store32(root + zh_presence_word(field), zh_presence_bit(field));
        if (field->label == ZH_ONEOF)
            zh_store32(root + field->case_at, field->number);
        if (field->label >= ZH_REPEATED || field->width == 16)
            zh_store_slot(root + field->offset, 1017, 8, 0);
        else if (field->kind == ZH_SUBMESSAGE)
            zh_store64(root + field->offset, 1000);
        else
            continue;
        message_init(&m, &thing);
        CHECK_EQ(copy(&m, &space), -EFAULT);
        free(message_encode(&m, false).memory);
        message_free(&m);
        if (field->width == 16 && (field->flags & ZH_FIELD_UTF8) != 0) {
            uint8_t *slot = root + field->offset;
            if (field->label == ZH_REPEATED) {
                zh_store_slot(slot, 1000, 1, 0);
                slot = root + 1000;
            }
            zh_store_slot(slot, 1020, 4, 0);
            memcpy(root + 1020, "abc\xe2", 4);
            message_init(&m, &thing);
            CHECK_EQ(copy(&m, &space), -EILSEQ);
            free(message_encode(&m, false).memory);
            message_free(&m);
        }
    }
}

static void test_out_of_memory(void)
{
    struct wire w = {0};
    struct message from, to;
    struct zh_space space;
    static char text[6000];
    int error;

    for (int i = 0; i < 20; i++) {
        wire_bytes(&w, 8, text, sizeof(text));
        wire_bytes(&w, 15, text, 900);
        wire_bytes(&w, 18, "\x08\x05", 2);
        wire_bytes(&w, 60, text, 400);
    }
    message_init(&from, &thing);
    CHECK_EQ(message_decode(&from, w.data, w.used), 0);
    zh_image_space(&from.image, &space);
    for (uint64_t blocks = 0;; blocks++) {
        message_init(&to, &thing);
        to.memory.left = blocks;
        error = copy(&to, &space);
        free(message_encode(&to, false).memory);
        message_free(&to);
        if (error == 0)
            break;
        CHECK_EQ(error, -ENOMEM);
        CHECK(blocks < 1000);
    }
    message_free(&from);
    wire_free(&w);
}

int main(void)
{
    samples_init();
    test_cases();
    test_garbage();
    test_errors();
    test_out_of_memory();
    return 0;
}
