/* The bytes that encoding a message would take. What text holds is not looked at. */
#include <errno.h>

#include "wire_internal.h"

struct sizer {
    const struct zh_space *space;
    uint32_t steps;
    int depth; /* how many more messages may lie in each other */
};

/* All of these: bytes, or a negative error. */
static int64_t size_struct(struct sizer *s, const struct zh_layout *layout, const uint8_t *at);

static inline int64_t size_varint(uint64_t value)
{
    /* 7 bits a byte: 9 * bits / 64 is bits / 7, rounded up, for 1 to 64 bits. */
    return ((64 - __builtin_clzll(value | 1)) * 9 + 64) / 64;
}

static inline int64_t size_tag(const struct zh_field *field)
{
    return size_varint(field->tag);
}

/* So many bytes with their length before them. */
static inline int64_t size_delimited(int64_t bytes)
{
    if (bytes > ZH_IMAGE_MOST)
        return -EMSGSIZE;
    return bytes < 0 ? bytes : bytes + size_varint((uint64_t)bytes);
}

/* One number, without its tag. */
static inline int64_t size_number(const struct zh_field *field, const uint8_t *from)
{
    uint32_t n;
    uint64_t w;

    switch (field->kind) {
    case ZH_INT64:
    case ZH_UINT64:
        return size_varint(zh_load64(from));
    case ZH_SINT64:
        w = zh_load64(from);
        return size_varint(w << 1 ^ (0u - (w >> 63)));
    case ZH_INT32:
    case ZH_ENUM:
        return size_varint((uint64_t)(int64_t)(int32_t)zh_load32(from));
    case ZH_UINT32:
        return size_varint(zh_load32(from));
    case ZH_SINT32:
        n = zh_load32(from);
        return size_varint((uint32_t)(n << 1 ^ (0u - (n >> 31))));
    default:
        return field->width;
    }
}

static int64_t size_message(struct sizer *s, const struct zh_field *field, zh_ref ref)
{
    const uint8_t *at = zh_space_at(s->space, ref, field->type->size);
    int64_t bytes;

    if (at == NULL)
        return -EFAULT;
    if (s->depth == 0)
        return -ELOOP;
    s->depth--;
    bytes = size_struct(s, field->type, at);
    s->depth++;
    return size_delimited(bytes);
}

/* One value, without its tag. */
static int64_t size_value(struct sizer *s, const struct zh_field *field, const uint8_t *from)
{
    if (field->width == 16) {
        struct zh_slot slot = zh_load_slot(from);
        return zh_space_slot(s->space, slot, 1) == NULL ? -EFAULT : size_delimited(slot.count);
    }
    if (field->kind == ZH_SUBMESSAGE) {
        zh_ref ref = zh_load64(from);
        return ref == 0 ? 1 : size_message(s, field, ref); /* of a map entry: an empty one */
    }
    return size_number(field, from);
}

static int64_t size_entry(struct sizer *s, const struct zh_layout *type, zh_ref ref)
{
    const uint8_t *at = ref == 0 ? NULL : zh_space_at(s->space, ref, type->size);
    int64_t sum = 0;

    if (at == NULL)
        return -EFAULT;
    if (s->depth == 0)
        return -ELOOP;
    s->depth--;
    for (uint32_t i = 0; i < type->field_count; i++) {
        int64_t bytes = size_value(s, &type->fields[i], at + type->fields[i].offset);
        if (bytes < 0)
            return bytes;
        sum += size_tag(&type->fields[i]) + bytes;
    }
    s->depth++;
    return size_delimited(sum);
}

/* A repeated field or a map, with its tags. */
static int64_t size_array(struct sizer *s, const struct zh_field *field, const uint8_t *at)
{
    struct zh_slot slot = zh_load_slot(at);
    const uint8_t *from = zh_space_slot(s->space, slot, field->width);
    bool packed = (field->flags & ZH_FIELD_PACKED) != 0;
    bool fixed = field->kind == ZH_BOOL || zh_wire_type(field) != ZH_WIRE_VARINT;
    int64_t sum = 0, bytes;

    if (slot.count == 0)
        return 0;
    if (from == NULL)
        return -EFAULT;
    if (field->width == 16 || field->kind == ZH_SUBMESSAGE) {
        for (uint32_t i = 0; i < slot.count; i++, from += field->width) {
            if (s->steps == 0 || sum > ZH_IMAGE_MOST)
                return -EMSGSIZE;
            s->steps--;
            zh_ref ref = field->width == 16 ? 1 : zh_load64(from);
            if (ref == 0)
                bytes = -EFAULT;
            else if (field->width == 16)
                bytes = size_value(s, field, from);
            else if (field->label == ZH_MAP)
                bytes = size_entry(s, field->type, ref);
            else
                bytes = size_message(s, field, ref);
            if (bytes < 0)
                return bytes;
            sum += bytes;
        }
    } else if (fixed) {
        sum = (int64_t)slot.count * field->width;
    } else {
        for (uint32_t i = 0; i < slot.count; i++, from += field->width)
            sum += size_number(field, from);
    }
    if (!packed)
        return sum + slot.count * size_tag(field);
    bytes = size_delimited(sum);
    return bytes < 0 ? bytes : bytes + size_tag(field);
}

static int64_t size_field(struct sizer *s, const struct zh_field *field, const uint8_t *at)
{
    const uint8_t *from = at + field->offset;
    int64_t bytes;

    switch (field->label) {
    case ZH_REPEATED:
    case ZH_MAP:
        return size_array(s, field, from);
    case ZH_OPTIONAL:
        if ((zh_load32(at + zh_presence_word(field)) & zh_presence_bit(field)) == 0)
            return 0;
        break;
    case ZH_ONEOF:
        if (zh_load32(at + field->case_at) != field->number)
            return 0;
        break;
    default:
        if (!zh_field_nonzero(field, from))
            return 0;
    }
    if (field->kind == ZH_SUBMESSAGE) {
        zh_ref ref = zh_load64(from);
        if (ref == 0)
            return 0;
        bytes = size_message(s, field, ref);
    } else {
        bytes = size_value(s, field, from);
    }
    return bytes < 0 ? bytes : bytes + size_tag(field);
}

static int64_t size_struct(struct sizer *s, const struct zh_layout *layout, const uint8_t *at)
{
    struct zh_slot unknown = zh_load_slot(at + ZH_UNKNOWN_AT);
    int64_t sum = unknown.count;

    if (zh_space_slot(s->space, unknown, 1) == NULL)
        return -EFAULT;
    if (s->steps < zh_steps(layout))
        return -EMSGSIZE;
    s->steps -= zh_steps(layout);
    for (uint32_t i = 0; i < layout->field_count; i++) {
        int64_t bytes = size_field(s, &layout->fields[i], at);
        if (bytes < 0)
            return bytes;
        sum += bytes;
        if (sum > ZH_IMAGE_MOST)
            return -EMSGSIZE;
    }
    return sum;
}

int64_t zh_wire_size(const struct zh_space *space, const struct zh_layout *layout,
                     const uint8_t *at)
{
    struct sizer s = {.space = space, .depth = ZH_IMAGE_DEPTH, .steps = zh_image_steps};
    int64_t bytes = size_struct(&s, layout, at);

    return bytes > ZH_IMAGE_MOST ? -EMSGSIZE : bytes;
}
