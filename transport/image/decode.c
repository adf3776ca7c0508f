/*
 * protobuf's wire bytes into an image, merged as protobuf merges.
 *
 * The bytes are private and of a known length. What is read from them is checked against the end of
 * the message that it lies in before it is used.
 */
#include <errno.h>

#include "map_index.h"
#include "wire_internal.h"

struct decoder {
    struct zh_image *image;
    uint64_t copied; /* bytes of text, bytes and arrays */
    int depth;       /* how many more messages may lie in each other */
    int error;
    bool stray; /* an entry had something unknown, or a value that its closed enum does not have */
    struct zh_maps maps;
    /* An entry that was not needed after all, zeroed, for the next one of its type. */
    const struct zh_layout *spare_type;
    uint8_t *spare;
    zh_ref spare_ref;
};

/* One message that is being decoded. Arrays that were written to last need no looking up. */
struct frame {
    const struct zh_layout *layout;
    uint8_t *at;
    const struct zh_field *array; /* the repeated field that was appended to last, */
    uint8_t *data;                /* and where its elements are */
    uint8_t *unknown;             /* where the unknown fields are, or NULL */
};

static const uint8_t *decode_message(struct decoder *d, const struct zh_layout *layout, uint8_t *at,
                                     const uint8_t *p, const uint8_t *end);

static __attribute__((noinline, cold)) const uint8_t *fail(struct decoder *d, int error)
{
    if (d->error == 0)
        d->error = error;
    return NULL;
}

/* --- numbers on the wire ---------------------------------------------------------------------- */

static __attribute__((noinline)) const uint8_t *
read_long_varint(const uint8_t *p, const uint8_t *end, uint64_t *value)
{
    uint64_t sum = 0;
    size_t most = (size_t)(end - p) < ZH_VARINT_MOST ? (size_t)(end - p) : ZH_VARINT_MOST;

    for (size_t i = 0; i < most; i++) {
        sum |= (uint64_t)(p[i] & 0x7f) << 7 * i; /* of the tenth byte, one bit */
        if (p[i] < 0x80) {
            *value = sum;
            return p + i + 1;
        }
    }
    return NULL;
}

/* The place behind a varint; NULL where there is none. */
static inline const uint8_t *read_varint(const uint8_t *p, const uint8_t *end, uint64_t *value)
{
    if (ZH_LIKELY(end - p >= 2)) {
        if (p[0] < 0x80) {
            *value = p[0];
            return p + 1;
        }
        if (p[1] < 0x80) {
            *value = (p[0] & 0x7fu) | (uint32_t)p[1] << 7;
            return p + 2;
        }
    }
    return read_long_varint(p, end, value);
}

static inline const uint8_t *read_tag(const uint8_t *p, const uint8_t *end, uint32_t *tag)
{
    uint64_t value;
    const uint8_t *after = read_varint(p, end, &value);

    if (ZH_UNLIKELY(after == NULL || after - p > ZH_TAG_MOST || value > UINT32_MAX))
        return NULL;
    *tag = (uint32_t)value;
    return after;
}

static __attribute__((noinline)) const uint8_t *read_long_length(const uint8_t *p,
                                                                 const uint8_t *end, size_t *bytes)
{
    const uint8_t *begin = p;
    uint64_t value;

    p = read_varint(p, end, &value);
    if (ZH_UNLIKELY(p == NULL || value > (uint64_t)(end - p)))
        return NULL;
    /* Of a number, bits beyond 64 are dropped; a length has none. */
    if (ZH_UNLIKELY(p - begin == ZH_VARINT_MOST && p[-1] > 1))
        return NULL;
    *bytes = (size_t)value;
    return p;
}

/* A length and the bytes that it counts: returns their beginning. */
static inline const uint8_t *read_length(const uint8_t *p, const uint8_t *end, size_t *bytes)
{
    if (ZH_LIKELY(p < end && *p < 0x80)) {
        *bytes = *p++;
        return ZH_LIKELY(*bytes <= (size_t)(end - p)) ? p : NULL;
    }
    return read_long_length(p, end, bytes);
}

static inline uint32_t unzigzag32(uint64_t value)
{
    uint32_t n = (uint32_t)value;
    return n >> 1 ^ (0u - (n & 1));
}

static inline uint64_t unzigzag64(uint64_t value)
{
    return value >> 1 ^ (0u - (value & 1));
}

static size_t put_varint(uint8_t *to, uint64_t value)
{
    size_t bytes = 0;

    for (; value >= 0x80; value >>= 7)
        to[bytes++] = (uint8_t)(value | 0x80);
    to[bytes++] = (uint8_t)value;
    return bytes;
}

/* --- unknown fields --------------------------------------------------------------------------- */

/* Skip the value of a field with this tag. Groups count as nested messages. */
static const uint8_t *skip(struct decoder *d, uint32_t tag, const uint8_t *p, const uint8_t *end)
{
    uint64_t value;
    uint32_t inner;
    size_t bytes;

    switch (tag & 7) {
    case ZH_WIRE_VARINT:
        p = read_varint(p, end, &value);
        break;
    case ZH_WIRE_FIXED64:
        p = end - p >= 8 ? p + 8 : NULL;
        break;
    case ZH_WIRE_FIXED32:
        p = end - p >= 4 ? p + 4 : NULL;
        break;
    case ZH_WIRE_BYTES:
        p = read_length(p, end, &bytes);
        p = p == NULL ? NULL : p + bytes;
        break;
    case ZH_WIRE_GROUP:
        if (d->depth == 0)
            return fail(d, -ELOOP);
        d->depth--;
        for (;;) {
            p = read_tag(p, end, &inner);
            if (p == NULL)
                return fail(d, -EBADMSG);
            if ((inner & 7) == ZH_WIRE_GROUP_END)
                break;
            p = skip(d, inner, p, end);
            if (p == NULL)
                return NULL;
        }
        d->depth++;
        p = inner >> 3 == tag >> 3 ? p : NULL;
        break;
    default:
        p = NULL;
    }
    return p == NULL ? fail(d, -EBADMSG) : p;
}

/* Append bytes to the unknown fields. An entry with such goes to those of its message as it is. */
static bool keep(struct decoder *d, struct frame *f, const uint8_t *from, size_t bytes)
{
    uint8_t *slot = f->at + ZH_UNKNOWN_AT;
    uint32_t count = zh_load32(slot + 8);

    if ((f->layout->flags & ZH_LAYOUT_ENTRY) != 0) {
        d->stray = true;
        return true;
    }
    if (bytes > UINT32_MAX - count)
        return fail(d, -EMSGSIZE) != NULL;
    f->unknown = zh_array_reserve(d->image, slot, 1, f->unknown, bytes, &d->error);
    if (f->unknown == NULL)
        return false;
    memcpy(f->unknown + count, from, bytes);
    d->copied += bytes;
    zh_store32(slot + 8, count + (uint32_t)bytes);
    return true;
}

/* A field that is none of ours, whose tag begins at `start` and whose value is at `p`. */
static __attribute__((noinline)) const uint8_t *unknown_field(struct decoder *d, struct frame *f,
                                                              uint32_t tag, const uint8_t *start,
                                                              const uint8_t *p, const uint8_t *end)
{
    if (tag >> 3 == 0)
        return fail(d, -EBADMSG);
    p = skip(d, tag, p, end);
    if (p == NULL || !keep(d, f, start, (size_t)(p - start)))
        return NULL;
    return p;
}

/* --- closed enums ----------------------------------------------------------------------------- */

static bool has_value(const struct zh_field *field, uint64_t number)
{
    int32_t value = (int32_t)(uint32_t)number;
    uint32_t low = 0, high = field->value_count;

    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (field->values[middle] < value)
            low = middle + 1;
        else
            high = middle;
    }
    return low < field->value_count && field->values[low] == value;
}

static inline bool is_stray(const struct zh_field *field, uint64_t number)
{
    return (field->flags & ZH_FIELD_CLOSED) != 0 && !has_value(field, number);
}

/* An element of a packed array that is not in the list: a field of its own. */
static bool keep_stray(struct decoder *d, struct frame *f, const struct zh_field *field,
                       uint64_t number)
{
    uint8_t bytes[ZH_TAG_MOST + ZH_VARINT_MOST];
    size_t count = put_varint(bytes, zh_tag(field->number, ZH_WIRE_VARINT));

    count += put_varint(bytes + count, number);
    return keep(d, f, bytes, count);
}

/* --- where values go -------------------------------------------------------------------------- */

static __attribute__((noinline)) uint8_t *append_slow(struct decoder *d, struct frame *f,
                                                      const struct zh_field *field)
{
    uint8_t *slot = f->at + field->offset;
    uint32_t count = zh_load32(slot + 8);

    if (count == UINT32_MAX) {
        fail(d, -EMSGSIZE);
        return NULL;
    }
    uint8_t *data = f->array == field ? f->data : NULL;
    data = zh_array_reserve(d->image, slot, field->width, data, 1, &d->error);
    if (data == NULL)
        return NULL;
    f->array = field;
    f->data = data;
    zh_store32(slot + 8, count + 1);
    return data + (size_t)count * field->width;
}

/* One more element of a repeated field; the caller writes all of it at once. */
static inline uint8_t *append(struct decoder *d, struct frame *f, const struct zh_field *field)
{
    uint8_t *slot = f->at + field->offset;
    uint32_t count = zh_load32(slot + 8);

    if (ZH_UNLIKELY(f->array != field ||
                    ((uint64_t)count + 1) * field->width > zh_load32(slot + 12)))
        return append_slow(d, f, field);
    zh_store32(slot + 8, count + 1);
    return f->data + (size_t)count * field->width;
}

/* Mark a member of a oneof as the one that is set. Another's content is gone with that. */
static inline void choose(uint8_t *at, const struct zh_field *field)
{
    if (zh_load32(at + field->case_at) == field->number)
        return;
    memset(at + field->offset, 0, field->unit);
    zh_store32(at + field->case_at, field->number);
}

/* Where the next value of a field goes, which is set with that. NULL after an error. */
static inline uint8_t *place(struct decoder *d, struct frame *f, const struct zh_field *field)
{
    switch (field->label) {
    case ZH_OPTIONAL: {
        uint8_t *word = f->at + zh_presence_word(field);
        zh_store32(word, zh_load32(word) | zh_presence_bit(field));
        break;
    }
    case ZH_ONEOF:
        choose(f->at, field);
        break;
    case ZH_REPEATED:
        return append(d, f, field);
    default:
        break;
    }
    return f->at + field->offset;
}

static const uint8_t *text_field(struct decoder *d, struct frame *f, const struct zh_field *field,
                                 const uint8_t *p, const uint8_t *end)
{
    size_t bytes;
    zh_ref ref = 0;

    p = read_length(p, end, &bytes);
    if (ZH_UNLIKELY(p == NULL))
        return fail(d, -EBADMSG);
    bool text = (field->flags & ZH_FIELD_UTF8) != 0;
    if (bytes > ZH_SHORT && text && ZH_UNLIKELY(!zh_utf8_valid(p, bytes)))
        return fail(d, -EILSEQ);
    size_t room = (bytes + 7) & ~(size_t)7;
    if (bytes > 0) {
        uint8_t *to = zh_image_take(d->image, room, &ref);
        if (ZH_UNLIKELY(to == NULL))
            to = zh_image_alloc_raw(d->image, room, &ref);
        if (ZH_UNLIKELY(to == NULL))
            return fail(d, -ENOMEM);
        if (bytes <= ZH_SHORT) {
            if (ZH_UNLIKELY(!zh_copy_short(to, p, bytes)) && text && !zh_utf8_valid(p, bytes))
                return fail(d, -EILSEQ);
        } else {
            memcpy(to, p, bytes);
            if (room >= ZH_IMAGE_BLOB) /* else it was zeroed */
                memset(to + bytes, 0, room - bytes);
        }
    }
    d->copied += bytes;
    uint8_t *slot = place(d, f, field);
    if (ZH_UNLIKELY(slot == NULL))
        return NULL;
    zh_store_slot(slot, ref, (uint32_t)bytes, (uint32_t)room);
    return p + bytes;
}

/* A new struct. */
static inline uint8_t *new_struct(struct decoder *d, const struct zh_layout *layout, zh_ref *ref)
{
    uint8_t *at = zh_image_take(d->image, layout->size, ref);

    if (ZH_UNLIKELY(at == NULL))
        at = zh_image_alloc(d->image, layout->size, ref);
    if (ZH_UNLIKELY(at == NULL))
        fail(d, -ENOMEM);
    return at;
}

/* The bytes from `p` to `end` into the struct at `at`, one level deeper, which there must be. */
static inline const uint8_t *descend(struct decoder *d, const struct zh_layout *layout, uint8_t *at,
                                     const uint8_t *p, const uint8_t *end)
{
    d->depth--;
    p = decode_message(d, layout, at, p, end);
    d->depth++;
    return p;
}

/* The length of a message that may lie in this one. Asked before there is a struct for it, so that
 * what has been decoded can be encoded. */
static inline const uint8_t *read_message(struct decoder *d, const uint8_t *p, const uint8_t *end,
                                          size_t *bytes)
{
    *bytes = 0;
    p = read_length(p, end, bytes);
    if (ZH_UNLIKELY(p == NULL))
        return fail(d, -EBADMSG);
    return ZH_LIKELY(d->depth > 0) ? p : fail(d, -ELOOP);
}

static const uint8_t *message_field(struct decoder *d, struct frame *f,
                                    const struct zh_field *field, const uint8_t *p,
                                    const uint8_t *end)
{
    uint8_t *at, *to;
    size_t bytes;
    zh_ref ref;

    p = read_message(d, p, end, &bytes);
    if (ZH_UNLIKELY(p == NULL))
        return NULL;
    if (field->label == ZH_REPEATED) {
        at = new_struct(d, field->type, &ref);
        to = at == NULL ? NULL : append(d, f, field);
        if (to == NULL)
            return NULL;
        zh_store64(to, ref);
        return descend(d, field->type, at, p, p + bytes);
    }
    if (field->label == ZH_ONEOF)
        choose(f->at, field);
    to = f->at + field->offset;
    ref = zh_load64(to);
    if (ref == 0) {
        at = new_struct(d, field->type, &ref);
        if (at == NULL)
            return NULL;
        zh_store64(to, ref);
    } else {
        at = zh_image_at(d->image, ref);
    }
    return descend(d, field->type, at, p, p + bytes);
}

/* An entry that has been decoded: complete what was left out. Where a message would be too deep,
 * reference 0 means an empty one too. */
static bool finish_entry(struct decoder *d, const struct zh_layout *type, uint8_t *entry)
{
    for (uint32_t i = 0; i < type->field_count; i++) {
        const struct zh_field *field = &type->fields[i];
        zh_ref ref;
        if (field->label == ZH_OPTIONAL) {
            uint8_t *word = entry + zh_presence_word(field);
            zh_store32(word, zh_load32(word) | zh_presence_bit(field));
        }
        if (field->kind == ZH_SUBMESSAGE && zh_load64(entry + field->offset) == 0 && d->depth > 1) {
            if (new_struct(d, field->type, &ref) == NULL)
                return false;
            zh_store64(entry + field->offset, ref);
        }
    }
    return true;
}

/* One entry of a map. `start`: where its tag begins. */
static const uint8_t *map_field(struct decoder *d, struct frame *f, const struct zh_field *field,
                                const uint8_t *start, const uint8_t *p, const uint8_t *end)
{
    const struct zh_layout *type = field->type;
    uint8_t *entry;
    size_t bytes;
    zh_ref ref;
    bool taken = false, outer = d->stray, stray;

    p = read_message(d, p, end, &bytes);
    if (p == NULL)
        return NULL;
    if (d->spare_type == type) {
        /* Nobody else's while it is filled: its value may hold maps of this type. */
        entry = d->spare;
        ref = d->spare_ref;
        d->spare_type = NULL;
    } else {
        entry = new_struct(d, type, &ref);
        if (entry == NULL)
            return NULL;
    }
    d->stray = false;
    p = descend(d, type, entry, p, p + bytes);
    if (p == NULL)
        return NULL;
    stray = d->stray;
    d->stray = outer; /* this map may lie in a value of another */
    if (stray) {
        if (!keep(d, f, start, (size_t)(p - start)))
            return NULL;
    } else {
        if (!finish_entry(d, type, entry))
            return NULL;
        int error =
            zh_maps_enter(&d->maps, d->image, type, f->at + field->offset, entry, ref, &taken);
        if (error != 0)
            return fail(d, error);
    }
    if (!taken) {
        memset(entry, 0, type->size);
        d->spare_type = type;
        d->spare = entry;
        d->spare_ref = ref;
    }
    return p;
}

/* --- packed arrays ---------------------------------------------------------------------------- */

/* How many varints end in these bytes: those bytes without the upper bit. */
static size_t count_varints(const uint8_t *p, size_t bytes)
{
    size_t count = 0;

    for (; bytes >= 8; bytes -= 8, p += 8) {
        uint64_t ends = ~zh_load64(p) >> 7 & UINT64_C(0x0101010101010101);
        count += ends * UINT64_C(0x0101010101010101) >> 56;
    }
    for (; bytes > 0; bytes--, p++)
        count += *p < 0x80;
    return count;
}

/* A varint of an array whose last byte ends one, so that it needs no other end. */
static inline const uint8_t *read_packed(const uint8_t *p, uint64_t *value)
{
    if (p[0] < 0x80) {
        *value = p[0];
        return p + 1;
    }
    if (p[1] < 0x80) {
        *value = (p[0] & 0x7fu) | (uint32_t)p[1] << 7;
        return p + 2;
    }
    return read_long_varint(p, p + ZH_VARINT_MOST, value);
}

#define EACH(type, expression)                                                                     \
    do {                                                                                           \
        while (p < end) {                                                                          \
            p = read_packed(p, &v);                                                                \
            if (ZH_UNLIKELY(p == NULL))                                                            \
                return NULL;                                                                       \
            type element = (type)(expression);                                                     \
            memcpy(to, &element, sizeof(element));                                                 \
            to += sizeof(element);                                                                 \
        }                                                                                          \
    } while (0)

/* The varints from `p` to `end` as elements at `to`. NULL: one is too long. Aligned and on its own,
 * for where these loops lie in memory is worth a tenth of their time. */
static __attribute__((noinline, aligned(64))) const uint8_t *
unpack_varints(const struct zh_field *field, uint8_t *to, const uint8_t *p, const uint8_t *end)
{
    uint64_t v;

    switch (field->kind) {
    case ZH_INT64:
    case ZH_UINT64:
        EACH(uint64_t, v);
        break;
    case ZH_SINT64:
        EACH(uint64_t, unzigzag64(v));
        break;
    case ZH_SINT32:
        EACH(uint32_t, unzigzag32(v));
        break;
    case ZH_BOOL:
        EACH(uint8_t, v != 0);
        break;
    default:
        EACH(uint32_t, v);
    }
    return p;
}

#undef EACH

static const uint8_t *packed_enums(struct decoder *d, struct frame *f, const struct zh_field *field,
                                   const uint8_t *p, const uint8_t *end)
{
    uint64_t v;

    while (p < end) {
        p = read_packed(p, &v);
        if (p == NULL)
            return fail(d, -EBADMSG);
        if (is_stray(field, v)) {
            if (!keep_stray(d, f, field, v))
                return NULL;
            continue;
        }
        uint8_t *to = append(d, f, field);
        if (to == NULL)
            return NULL;
        zh_store32(to, (uint32_t)v);
        d->copied += sizeof(uint32_t);
    }
    return p;
}

static const uint8_t *packed_field(struct decoder *d, struct frame *f, const struct zh_field *field,
                                   const uint8_t *p, const uint8_t *end)
{
    uint8_t *slot = f->at + field->offset;
    uint32_t count = zh_load32(slot + 8);
    bool fixed = zh_wire_type(field) != ZH_WIRE_VARINT;
    size_t bytes, more;

    p = read_length(p, end, &bytes);
    if (p == NULL)
        return fail(d, -EBADMSG);
    if (bytes == 0)
        return p;
    end = p + bytes;
    if (fixed ? bytes % field->width != 0 : end[-1] >= 0x80)
        return fail(d, -EBADMSG);
    if ((field->flags & ZH_FIELD_CLOSED) != 0)
        return packed_enums(d, f, field, p, end);
    more = fixed ? bytes / field->width : count_varints(p, bytes);
    if (more > UINT32_MAX - count)
        return fail(d, -EMSGSIZE);
    uint8_t *data = f->array == field ? f->data : NULL;
    data = zh_array_reserve(d->image, slot, field->width, data, more, &d->error);
    if (data == NULL)
        return NULL;
    f->array = field;
    f->data = data;
    uint8_t *to = data + (size_t)count * field->width;
    if (fixed) {
        memcpy(to, p, bytes); /* little-endian on both sides */
    } else if (unpack_varints(field, to, p, end) == NULL) {
        memset(to, 0, more * field->width);
        return fail(d, -EBADMSG);
    }
    zh_store32(slot + 8, count + (uint32_t)more);
    d->copied += more * field->width;
    return end;
}

/* --- messages --------------------------------------------------------------------------------- */

static inline bool packable(const struct zh_field *field)
{
    return field->label == ZH_REPEATED && zh_wire_type(field) != ZH_WIRE_BYTES;
}

/* A value of one byte or of 4 or 8, in the form that the image has. */
static inline const uint8_t *scalar(struct decoder *d, struct frame *f,
                                    const struct zh_field *field, uint64_t value, const uint8_t *p)
{
    uint8_t *to = place(d, f, field);

    if (ZH_UNLIKELY(to == NULL))
        return NULL;
    if (field->width == 8)
        zh_store64(to, value);
    else if (field->width == 4)
        zh_store32(to, (uint32_t)value);
    else
        *to = (uint8_t)value;
    if (field->label == ZH_REPEATED)
        d->copied += field->width;
    return p;
}

/* The value at `p` of a field whose wire type fits. */
static inline const uint8_t *known_field(struct decoder *d, struct frame *f,
                                         const struct zh_field *field, const uint8_t *start,
                                         const uint8_t *p, const uint8_t *end)
{
    uint64_t v;

    switch (field->kind) {
    case ZH_STRING:
    case ZH_BYTES:
        return text_field(d, f, field, p, end);
    case ZH_SUBMESSAGE:
        if (field->label == ZH_MAP)
            return map_field(d, f, field, start, p, end);
        return message_field(d, f, field, p, end);
    case ZH_DOUBLE:
    case ZH_FIXED64:
    case ZH_SFIXED64:
        if (end - p < 8)
            return fail(d, -EBADMSG);
        return scalar(d, f, field, zh_load64(p), p + 8);
    case ZH_FLOAT:
    case ZH_FIXED32:
    case ZH_SFIXED32:
        if (end - p < 4)
            return fail(d, -EBADMSG);
        return scalar(d, f, field, zh_load32(p), p + 4);
    default:
        break;
    }
    p = read_varint(p, end, &v);
    if (ZH_UNLIKELY(p == NULL))
        return fail(d, -EBADMSG);
    switch (field->kind) {
    case ZH_SINT32:
        v = unzigzag32(v);
        break;
    case ZH_SINT64:
        v = unzigzag64(v);
        break;
    case ZH_BOOL:
        v = v != 0;
        break;
    case ZH_ENUM:
        if (ZH_UNLIKELY(is_stray(field, v))) {
            return keep(d, f, start, (size_t)(p - start)) ? p : NULL;
        }
        break;
    default:
        break;
    }
    return scalar(d, f, field, v, p);
}

static inline const struct zh_field *find_field(const struct zh_layout *layout, uint32_t number)
{
    if (ZH_LIKELY(number < layout->lookup_count)) {
        uint16_t index = layout->lookup[number];
        return index < layout->field_count ? &layout->fields[index] : NULL;
    }
    return zh_layout_find(layout, number);
}

static const uint8_t *decode_message(struct decoder *d, const struct zh_layout *layout, uint8_t *at,
                                     const uint8_t *p, const uint8_t *end)
{
    const struct zh_field *next = layout->fields, *last = next + layout->field_count;
    struct frame f = {.layout = layout, .at = at};

    while (p < end) {
        const uint8_t *start = p;
        const struct zh_field *field = next;
        uint32_t tag = *p++;

        if (ZH_UNLIKELY(tag >= 0x80)) {
            p = read_tag(start, end, &tag);
            if (ZH_UNLIKELY(p == NULL))
                return fail(d, -EBADMSG);
        }
        /* Mostly the field that follows, or another element of the same. */
        if (ZH_UNLIKELY(next >= last || next->tag != tag))
            field = find_field(layout, tag >> 3);
        if (ZH_LIKELY(field != NULL && field->tag == tag)) {
            next = field + (field->label < ZH_REPEATED);
            p = known_field(d, &f, field, start, p, end);
        } else if (field != NULL && (tag & 7) == ZH_WIRE_BYTES && packable(field)) {
            next = field + 1;
            p = packed_field(d, &f, field, p, end);
        } else {
            p = unknown_field(d, &f, tag, start, p, end);
        }
        if (ZH_UNLIKELY(p == NULL))
            return NULL;
    }
    return p;
}

int zh_wire_decode(struct zh_image *image, const struct zh_layout *layout, uint8_t *at,
                   const uint8_t *bytes, size_t count, uint64_t *copied)
{
    struct decoder d = {.image = image, .depth = ZH_IMAGE_DEPTH};

    *copied = 0;
    if (count > ZH_IMAGE_MOST)
        return -EMSGSIZE;
    at = zh_settle_at(image, at);
    if (at == NULL)
        return -ENOMEM;
    /* Small messages and short text take about twice their bytes on the wire. */
    image->expected = 2 * (uint32_t)count;
    if (count > 0)
        decode_message(&d, layout, at, bytes, bytes + count);
    image->expected = 0;
    zh_maps_free(&d.maps);
    *copied = d.copied;
    return d.error;
}
