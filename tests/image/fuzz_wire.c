/*
 * Fuzz decoding. Input: a byte that chooses the message, then wire bytes. What has been decoded is
 * encoded, and those bytes decode to the same again; a copy has the same bytes. What has been
 * refused leaves a valid message.
 */
#include "check.h"
#include "fuzz.h"
#include "sample.h"

static void check_same(struct zh_wire_bytes left, struct zh_wire_bytes right)
{
    CHECK_EQ(left.bytes, right.bytes);
    CHECK(left.bytes == 0 || memcmp(left.data, right.data, left.bytes) == 0);
}

static void check_again(const struct zh_layout *layout, struct zh_wire_bytes once, bool sorted)
{
    struct message m;

    message_init(&m, layout);
    CHECK_EQ(message_decode(&m, once.data, once.bytes), 0);
    struct zh_wire_bytes twice = message_encode(&m, sorted);
    check_same(once, twice);
    free(twice.memory);
    message_free(&m);
}

static void check_copy(struct message *from, struct zh_wire_bytes once)
{
    struct message to;
    struct zh_space space;
    uint64_t bytes;

    message_init(&to, from->layout);
    zh_image_space(&from->image, &space);
    CHECK_EQ(zh_image_copy(&to.image, to.layout, message_at(&to), &space, message_at(from), &bytes),
             0);
    struct zh_wire_bytes twice = message_encode(&to, false);
    check_same(once, twice);
    free(twice.memory);
    message_free(&to);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct message m;

    if (size == 0)
        return 0;
    if (thing.size == 0)
        samples_init();
    const struct zh_layout *layouts[] = {&thing, &hollow, &wide, &thing};
    message_init(&m, layouts[data[0] & 3]);
    int error = message_decode(&m, data + 1, size - 1);
    struct zh_wire_bytes once = message_encode(&m, false);
    struct zh_wire_bytes sorted = message_encode(&m, true);
    CHECK_EQ(once.bytes, sorted.bytes);
    if (error == 0) {
        check_again(m.layout, once, false);
        check_again(m.layout, sorted, true);
        check_copy(&m, once);
    }
    free(once.memory);
    free(sorted.memory);
    message_free(&m);
    return 0;
}
