/* What decoding, encoding, sizing and copying of images share. Private to transport/image. */
#ifndef ZEROHOP_IMAGE_WIRE_INTERNAL_H
#define ZEROHOP_IMAGE_WIRE_INTERNAL_H

#include "zerohop/image.h"

/* Arrays of fixed width are copied as they are. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "wire and image have one byte order");

#define ZH_LIKELY(condition) __builtin_expect(!!(condition), 1)
#define ZH_UNLIKELY(condition) __builtin_expect(!!(condition), 0)

/* https://protobuf.dev/programming-guides/encoding/#structure */
enum {
    ZH_WIRE_VARINT = 0,
    ZH_WIRE_FIXED64 = 1,
    ZH_WIRE_BYTES = 2,
    ZH_WIRE_GROUP = 3,
    ZH_WIRE_GROUP_END = 4,
    ZH_WIRE_FIXED32 = 5,
};

#define ZH_VARINT_MOST 10 /* bytes of 64 bits */
#define ZH_TAG_MOST 5     /* bytes of 32 bits */

/* The wire type of one element of a kind, outside packed arrays; index enum zh_field_kind. */
static const uint8_t zh_wire_types[19] = {
    [ZH_DOUBLE] = ZH_WIRE_FIXED64,   [ZH_FLOAT] = ZH_WIRE_FIXED32,
    [ZH_FIXED64] = ZH_WIRE_FIXED64,  [ZH_FIXED32] = ZH_WIRE_FIXED32,
    [ZH_STRING] = ZH_WIRE_BYTES,     [ZH_SUBMESSAGE] = ZH_WIRE_BYTES,
    [ZH_BYTES] = ZH_WIRE_BYTES,      [ZH_SFIXED32] = ZH_WIRE_FIXED32,
    [ZH_SFIXED64] = ZH_WIRE_FIXED64,
};

static inline uint32_t zh_tag(uint32_t number, uint32_t wire_type)
{
    return number << 3 | wire_type;
}

static inline uint32_t zh_wire_type(const struct zh_field *field)
{
    return field->tag & 7;
}

/* Where a presence bit is. */
static inline uint32_t zh_presence_word(const struct zh_field *field)
{
    return ZH_PRESENCE_AT + field->bit / 32 * 4;
}

static inline uint32_t zh_presence_bit(const struct zh_field *field)
{
    return UINT32_C(1) << field->bit % 32;
}

/* Stores for memory of our own, which need no alignment as the loads do not. */
static inline void zh_store32(uint8_t *to, uint32_t value)
{
    memcpy(to, &value, sizeof(value));
}

static inline void zh_store64(uint8_t *to, uint64_t value)
{
    memcpy(to, &value, sizeof(value));
}

static inline uint8_t zh_load8(const uint8_t *from)
{
    return *(const volatile uint8_t *)from;
}

/* Has a field without presence bit, which is neither repeated nor a map, a value? */
static inline bool zh_field_nonzero(const struct zh_field *field, const uint8_t *from)
{
    switch (field->width) {
    case 1:
        return zh_load8(from) != 0;
    case 4:
        return zh_load32(from) != 0;
    case 8:
        return zh_load64(from) != 0;
    default:
        return zh_load32(from + 8) != 0;
    }
}

static inline void zh_store_slot(uint8_t *to, zh_ref ref, uint32_t count, uint32_t room)
{
    zh_store64(to, ref);
    zh_store32(to + 8, count);
    zh_store32(to + 12, room);
}

/* Is it UTF-8 as RFC 3629 has it? Of memory that nobody else changes. */
bool zh_utf8_valid(const uint8_t *text, size_t bytes);

#define ZH_SHORT 32u /* bytes of text for which no function is called */

/*
 * Copy up to ZH_SHORT bytes by words that overlap. Of those that may change meanwhile, what is
 * written is what has been looked at: is all of it ASCII?
 */
static inline bool zh_copy_short(uint8_t *to, const uint8_t *from, size_t bytes)
{
    uint64_t all;

    if (bytes >= 8) {
        uint64_t first = zh_load64(from), last = zh_load64(from + bytes - 8);
        all = first | last;
        if (bytes > 16) {
            uint64_t second = zh_load64(from + 8), third = zh_load64(from + bytes - 16);
            all |= second | third;
            zh_store64(to + 8, second);
            zh_store64(to + bytes - 16, third);
        }
        zh_store64(to, first);
        zh_store64(to + bytes - 8, last);
    } else if (bytes >= 4) {
        uint32_t first = zh_load32(from), last = zh_load32(from + bytes - 4);
        all = first | last;
        zh_store32(to, first);
        zh_store32(to + bytes - 4, last);
    } else {
        all = 0;
        for (size_t i = 0; i < bytes; i++) {
            uint8_t one = zh_load8(from + i);
            all |= one;
            to[i] = one;
        }
    }
    return (all & UINT64_C(0x8080808080808080)) == 0;
}

/*
 * Steps that encoding, sizing or copying of one message may take: one for each struct (more for one
 * of many fields) and each text in an array. No limit of output or depth ends a message soon whose
 * empty structs refer to each other again and again. One that was built without sharing has at
 * least 16 bytes for a step, so the steps suffice for 2 GiB. A variable, for tests to lower.
 */
extern uint32_t zh_image_steps;

static inline uint32_t zh_steps(const struct zh_layout *layout)
{
    return 1 + layout->field_count / 16u;
}

/*
 * `bytes` zeroed bytes, a multiple of 8, of a settled image, as zh_image_alloc gives them; NULL if
 * there are none at hand, which says nothing about whether it has some.
 */
static inline uint8_t *zh_image_take(struct zh_image *image, size_t bytes, zh_ref *ref)
{
    if (bytes <= image->root_room - image->root_used) {
        *ref = image->root_used;
        image->root_used += (uint32_t)bytes;
        return image->root + *ref;
    }
    if (image->open == 0 || ZH_UNLIKELY(bytes >= ZH_IMAGE_BLOB))
        return NULL;
    struct zh_image_block *block = &image->blocks[image->open - 1];
    size_t used = block->used;
    if (ZH_UNLIKELY(bytes > block->bytes - used))
        return NULL;
    *ref = block->ref + used;
    block->used = used + bytes;
    return block->data + used;
}

/*
 * Room for `more` elements behind those in the array of a slot of our own image; `data`: where they
 * are, or NULL (then it is looked up). Returns where they are now; `count` is not changed, and the
 * caller fills all of the new ones. NULL: -ENOMEM or -EMSGSIZE in `error`, and nothing has changed.
 */
uint8_t *zh_array_reserve(struct zh_image *image, uint8_t *slot, uint32_t width, uint8_t *data,
                          uint64_t more, int *error);

/*
 * Settle an image of which `at` is a struct, or NULL when out of memory: where the struct is then
 * (the root may move when it is settled).
 */
uint8_t *zh_settle_at(struct zh_image *image, uint8_t *at);

#endif
