/*
 * An image into protobuf's wire bytes, in one pass, written backwards: the length of a message is
 * known when its content has been written.
 *
 * Whoever owns the image may change it meanwhile. So everything is loaded once and checked then;
 * what was written is in memory of our own, and its lengths are those of what was written.
 *
 * `p` is always where the last byte was written: bytes from `p` to the end are done, those before
 * it are free. NULL: an error, in `error`.
 */
#include <errno.h>
#include <stdlib.h>

#include "map_order.h"
#include "wire_internal.h"

#define FIRST_ROOM 1024u
#define GROW_FAST 65536u
#define CHUNK 64u /* elements of a packed array for which room is reserved at once */

struct encoder {
    const struct zh_space *space;
    uint8_t *memory; /* ours until it is handed out */
    uint8_t *end;    /* of it */
    uint32_t steps;
    int depth; /* how many more messages may lie in each other */
    int error;
    bool sorted;
    /* What was found last: `near_bytes` from the reference `near` on. Of memory that is not of one
     * image of our own, the root alone. */
    zh_ref near;
    const uint8_t *near_data;
    uint64_t near_bytes;
};

uint32_t zh_image_steps = UINT32_C(1) << 27;

static uint8_t *encode_struct(struct encoder *e, const struct zh_layout *layout, const uint8_t *at,
                              uint8_t *p);

static __attribute__((noinline, cold)) uint8_t *fail(struct encoder *e, int error)
{
    if (e->error == 0)
        e->error = error;
    return NULL;
}

/* --- references ------------------------------------------------------------------------------- */

static __attribute__((noinline)) const uint8_t *find_far(struct encoder *e, zh_ref ref,
                                                         uint64_t bytes)
{
    const struct zh_image_block *block = zh_space_block(e->space, ref);

    if (block == NULL)
        return zh_space_at(e->space, ref, bytes);
    e->near = block->ref;
    e->near_data = block->data;
    e->near_bytes = block->bytes;
    return bytes <= block->bytes - (ref - block->ref) ? block->data + (ref - block->ref) : NULL;
}

/* `bytes` bytes (at least 1) at `ref`, or NULL where they are not. */
static inline const uint8_t *find(struct encoder *e, zh_ref ref, uint64_t bytes)
{
    uint64_t offset = ref - e->near;

    if (ZH_LIKELY(offset < e->near_bytes && bytes <= e->near_bytes - offset))
        return e->near_data + offset;
    return find_far(e, ref, bytes);
}

/* --- room ------------------------------------------------------------------------------------- */

static __attribute__((noinline)) uint8_t *grow(struct encoder *e, uint8_t *p, size_t bytes)
{
    size_t used = (size_t)(e->end - p), room = (size_t)(e->end - e->memory);
    /* A little beyond the limit, for what is reserved and then not needed. */
    const size_t most = ZH_IMAGE_MOST + CHUNK * (size_t)ZH_VARINT_MOST;

    if (bytes > most - used)
        return fail(e, -EMSGSIZE);
    do
        room *= room < GROW_FAST ? 4 : 2;
    while (room < used + bytes);
    if (room > most)
        room = most;
    uint8_t *memory = malloc(room);
    if (memory == NULL)
        return fail(e, -ENOMEM);
    if (used > 0)
        memcpy(memory + room - used, p, used);
    free(e->memory);
    e->memory = memory;
    e->end = memory + room;
    return e->end - used;
}

/* Room for so many bytes before `p`. */
static inline uint8_t *reserve(struct encoder *e, uint8_t *p, size_t bytes)
{
    return ZH_LIKELY((size_t)(p - e->memory) >= bytes) ? p : grow(e, p, bytes);
}

/* How far `p` is from the end: the same wherever the memory moves. */
static inline size_t written(const struct encoder *e, const uint8_t *p)
{
    return (size_t)(e->end - p);
}

static inline bool step(struct encoder *e, uint32_t steps)
{
    if (ZH_UNLIKELY(e->steps < steps))
        return fail(e, -EMSGSIZE) != NULL;
    e->steps -= steps;
    return true;
}

/* --- numbers, into room that is there --------------------------------------------------------- */

static inline uint8_t *put_varint(uint8_t *p, uint64_t value)
{
    if (value < 0x80) {
        *--p = (uint8_t)value;
        return p;
    }
    if (value < 0x4000) {
        p -= 2;
        p[0] = (uint8_t)(value | 0x80);
        p[1] = (uint8_t)(value >> 7);
        return p;
    }
    /* 7 bits a byte: 9 * bits / 64 is bits / 7, rounded up, for 1 to 64 bits. */
    unsigned bits = 64 - (unsigned)__builtin_clzll(value);
    p -= (bits * 9 + 64) / 64;
    uint8_t *to = p;
    for (; value >= 0x80; value >>= 7)
        *to++ = (uint8_t)(value | 0x80);
    *to = (uint8_t)value;
    return p;
}

/* For one element. */
static inline uint8_t *put_tag(uint8_t *p, const struct zh_field *field)
{
    return put_varint(p, field->tag);
}

static inline uint8_t *put_fixed32(uint8_t *p, uint32_t value)
{
    zh_store32(p - 4, value);
    return p - 4;
}

static inline uint8_t *put_fixed64(uint8_t *p, uint64_t value)
{
    zh_store64(p - 8, value);
    return p - 8;
}

/* Values as their varints. */
static inline uint64_t load_int32(const uint8_t *from)
{
    return (uint64_t)(int64_t)(int32_t)zh_load32(from);
}

static inline uint64_t load_sint32(const uint8_t *from)
{
    uint32_t n = zh_load32(from);
    return (uint32_t)(n << 1 ^ (0u - (n >> 31)));
}

static inline uint64_t load_sint64(const uint8_t *from)
{
    uint64_t n = zh_load64(from);
    return n << 1 ^ (0u - (n >> 63));
}

static inline uint64_t load_bool(const uint8_t *from)
{
    return zh_load8(from) != 0;
}

/* --- values ----------------------------------------------------------------------------------- */

/* Text or bytes, at least one, without tag and length; with room for both. */
static inline uint8_t *put_bytes(struct encoder *e, bool text, struct zh_slot slot, uint8_t *p)
{
    const uint8_t *from = find(e, slot.ref, slot.count);

    if (ZH_UNLIKELY(from == NULL))
        return fail(e, -EFAULT);
    p = reserve(e, p, (size_t)slot.count + ZH_TAG_MOST + ZH_VARINT_MOST);
    if (ZH_UNLIKELY(p == NULL))
        return NULL;
    p -= slot.count;
    if (slot.count <= ZH_SHORT)
        text = !zh_copy_short(p, from, slot.count) && text;
    else
        memcpy(p, from, slot.count);
    /* The copy is what is looked at: the original may be another by now. */
    if (ZH_UNLIKELY(text && !zh_utf8_valid(p, slot.count)))
        return fail(e, -EILSEQ);
    return p;
}

static uint8_t *put_text(struct encoder *e, const struct zh_field *field, struct zh_slot slot,
                         uint8_t *p)
{
    if (slot.count > 0)
        p = put_bytes(e, (field->flags & ZH_FIELD_UTF8) != 0, slot, p);
    else
        p = reserve(e, p, ZH_TAG_MOST + ZH_VARINT_MOST);
    if (ZH_UNLIKELY(p == NULL))
        return NULL;
    return put_tag(put_varint(p, slot.count), field);
}

/* The struct at a reference with tag and length. Reference 0 is an empty one. */
static uint8_t *put_message(struct encoder *e, const struct zh_field *field, zh_ref ref, uint8_t *p)
{
    size_t before = written(e, p);

    if (ref != 0) {
        const uint8_t *at = find(e, ref, field->type->size);
        if (ZH_UNLIKELY(at == NULL))
            return fail(e, -EFAULT);
        if (ZH_UNLIKELY(e->depth == 0))
            return fail(e, -ELOOP);
        e->depth--;
        p = encode_struct(e, field->type, at, p);
        if (ZH_UNLIKELY(p == NULL))
            return NULL;
        e->depth++;
    }
    size_t bytes = written(e, p) - before;
    p = reserve(e, p, ZH_TAG_MOST + ZH_VARINT_MOST);
    return ZH_UNLIKELY(p == NULL) ? NULL : put_tag(put_varint(p, bytes), field);
}

/* One value, which is at `from`, with its tag. Zero and an absent message only if it is `set`. */
static inline uint8_t *put_value(struct encoder *e, const struct zh_field *field,
                                 const uint8_t *from, bool set, uint8_t *p)
{
    struct zh_slot slot;
    uint64_t value;

    switch (field->kind) {
    case ZH_STRING:
    case ZH_BYTES:
        slot = zh_load_slot(from);
        return set || slot.count > 0 ? put_text(e, field, slot, p) : p;
    case ZH_SUBMESSAGE:
        value = zh_load64(from);
        return set || value != 0 ? put_message(e, field, value, p) : p;
    case ZH_DOUBLE:
    case ZH_FIXED64:
    case ZH_SFIXED64:
    case ZH_INT64:
    case ZH_UINT64:
        value = zh_load64(from);
        break;
    case ZH_SINT64:
        value = load_sint64(from);
        break;
    case ZH_FLOAT:
    case ZH_FIXED32:
    case ZH_SFIXED32:
    case ZH_UINT32:
        value = zh_load32(from);
        break;
    case ZH_SINT32:
        value = load_sint32(from);
        break;
    case ZH_BOOL:
        value = load_bool(from);
        break;
    default:
        value = load_int32(from);
    }
    if (!set && value == 0)
        return p;
    p = reserve(e, p, ZH_TAG_MOST + ZH_VARINT_MOST);
    if (ZH_UNLIKELY(p == NULL))
        return NULL;
    switch (zh_wire_type(field)) {
    case ZH_WIRE_VARINT:
        p = put_varint(p, value);
        break;
    case ZH_WIRE_FIXED64:
        p = put_fixed64(p, value);
        break;
    default:
        p = put_fixed32(p, (uint32_t)value);
    }
    return put_tag(p, field);
}

/* --- arrays ----------------------------------------------------------------------------------- */

/* Mostly numbers are small together. */
static inline uint8_t *put_four(uint8_t *p, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    if ((a | b | c | d) < 0x80) {
        zh_store32(p - 4, (uint32_t)(a | b << 8 | c << 16 | d << 24));
        return p - 4;
    }
    return put_varint(put_varint(put_varint(put_varint(p, d), c), b), a);
}

/* `count` numbers of `width` bytes, which end at `from`; the last ones first. */
#define EACH(width, load)                                                                          \
    while (count > 0) {                                                                            \
        uint32_t n = count < CHUNK ? count : CHUNK;                                                \
        p = reserve(e, p, (size_t)n * ZH_VARINT_MOST);                                             \
        if (ZH_UNLIKELY(p == NULL))                                                                \
            return NULL;                                                                           \
        count -= n;                                                                                \
        for (; n >= 4; n -= 4) {                                                                   \
            from -= 4 * (width);                                                                   \
            p = put_four(p, load(from), load(from + (width)), load(from + 2 * (width)),            \
                         load(from + 3 * (width)));                                                \
        }                                                                                          \
        for (; n > 0; n--) {                                                                       \
            from -= (width);                                                                       \
            p = put_varint(p, load(from));                                                         \
        }                                                                                          \
    }                                                                                              \
    return p

static uint8_t *pack_varints(struct encoder *e, const struct zh_field *field, const uint8_t *from,
                             uint32_t count, uint8_t *p)
{
    switch (field->kind) {
    case ZH_INT64:
    case ZH_UINT64:
        EACH(8, zh_load64);
    case ZH_SINT64:
        EACH(8, load_sint64);
    case ZH_UINT32:
        EACH(4, zh_load32);
    case ZH_SINT32:
        EACH(4, load_sint32);
    case ZH_BOOL:
        EACH(1, load_bool);
    default:
        EACH(4, load_int32);
    }
}

#undef EACH

static uint8_t *put_packed(struct encoder *e, const struct zh_field *field, const uint8_t *from,
                           uint32_t count, uint8_t *p)
{
    size_t before = written(e, p);

    if (zh_wire_type(field) == ZH_WIRE_VARINT) {
        p = pack_varints(e, field, from + (size_t)count * field->width, count, p);
        if (ZH_UNLIKELY(p == NULL))
            return NULL;
        p = reserve(e, p, ZH_TAG_MOST + ZH_VARINT_MOST);
    } else {
        size_t bytes = (size_t)count * field->width;
        p = reserve(e, p, bytes + ZH_TAG_MOST + ZH_VARINT_MOST);
        if (ZH_LIKELY(p != NULL)) {
            p -= bytes;
            memcpy(p, from, bytes); /* little-endian on both sides */
        }
    }
    if (ZH_UNLIKELY(p == NULL))
        return NULL;
    return put_varint(put_varint(p, written(e, p) - before), zh_tag(field->number, ZH_WIRE_BYTES));
}

static uint8_t *put_array(struct encoder *e, const struct zh_field *field, struct zh_slot slot,
                          uint8_t *p)
{
    const uint8_t *from = find(e, slot.ref, (uint64_t)slot.count * field->width);

    if (ZH_UNLIKELY(from == NULL))
        return fail(e, -EFAULT);
    if ((field->flags & ZH_FIELD_PACKED) != 0)
        return put_packed(e, field, from, slot.count, p);
    for (uint32_t i = slot.count; i-- > 0 && ZH_LIKELY(p != NULL);) {
        const uint8_t *element = from + (size_t)i * field->width;
        if (field->kind == ZH_SUBMESSAGE) {
            zh_ref ref = zh_load64(element);
            p = ref == 0 ? fail(e, -EFAULT) : put_message(e, field, ref, p);
        } else if (field->width < 16 || step(e, 1)) {
            p = put_value(e, field, element, true, p);
        } else {
            p = NULL;
        }
    }
    return p;
}

/* --- maps ------------------------------------------------------------------------------------- */

/* An entry has its key and its value on the wire whatever they are. */
static uint8_t *put_entry(struct encoder *e, const struct zh_field *field, zh_ref ref, uint8_t *p)
{
    const struct zh_layout *type = field->type;
    const uint8_t *at = ref == 0 ? NULL : find(e, ref, type->size);
    size_t before = written(e, p);

    if (ZH_UNLIKELY(at == NULL))
        return fail(e, -EFAULT);
    if (ZH_UNLIKELY(e->depth == 0))
        return fail(e, -ELOOP);
    if (!step(e, 1))
        return NULL;
    e->depth--;
    for (uint32_t i = type->field_count; i-- > 0;) {
        p = put_value(e, &type->fields[i], at + type->fields[i].offset, true, p);
        if (ZH_UNLIKELY(p == NULL))
            return NULL;
    }
    e->depth++;
    size_t bytes = written(e, p) - before;
    p = reserve(e, p, ZH_TAG_MOST + ZH_VARINT_MOST);
    return ZH_UNLIKELY(p == NULL) ? NULL : put_tag(put_varint(p, bytes), field);
}

static uint8_t *put_map(struct encoder *e, const struct zh_field *field, struct zh_slot slot,
                        uint8_t *p)
{
    const uint8_t *from = find(e, slot.ref, (uint64_t)slot.count * 8);
    zh_ref *order;

    if (ZH_UNLIKELY(from == NULL))
        return fail(e, -EFAULT);
    if (!e->sorted || slot.count < 2) {
        for (uint32_t i = slot.count; i-- > 0 && ZH_LIKELY(p != NULL);)
            p = put_entry(e, field, zh_load64(from + (size_t)i * 8), p);
        return p;
    }
    if (!step(e, slot.count))
        return NULL;
    int error = zh_map_order(e->space, field, from, slot.count, &order);
    if (error != 0)
        return fail(e, error);
    for (uint32_t i = slot.count; i-- > 0 && ZH_LIKELY(p != NULL);)
        p = put_entry(e, field, order[i], p);
    free(order);
    return p;
}

/* --- messages --------------------------------------------------------------------------------- */

static inline uint8_t *put_field(struct encoder *e, const struct zh_field *field, const uint8_t *at,
                                 uint8_t *p)
{
    const uint8_t *from = at + field->offset;
    struct zh_slot slot;

    switch (field->label) {
    case ZH_REPEATED:
        slot = zh_load_slot(from);
        return slot.count == 0 ? p : put_array(e, field, slot, p);
    case ZH_MAP:
        slot = zh_load_slot(from);
        return slot.count == 0 ? p : put_map(e, field, slot, p);
    case ZH_OPTIONAL:
        if ((zh_load32(at + zh_presence_word(field)) & zh_presence_bit(field)) == 0)
            return p;
        break;
    case ZH_ONEOF:
        if (zh_load32(at + field->case_at) != field->number)
            return p;
        break;
    default:
        return put_value(e, field, from, false, p);
    }
    /* Of a oneof, a message that is not there is none. */
    return put_value(e, field, from, field->kind != ZH_SUBMESSAGE, p);
}

/* There were some; now there may be others, or none. */
static __attribute__((noinline)) uint8_t *put_unknown(struct encoder *e, struct zh_slot slot,
                                                      uint8_t *p)
{
    return slot.count > 0 ? put_bytes(e, false, slot, p) : p;
}

static uint8_t *encode_struct(struct encoder *e, const struct zh_layout *layout, const uint8_t *at,
                              uint8_t *p)
{
    if (!step(e, zh_steps(layout)))
        return NULL;
    if (ZH_UNLIKELY(zh_load32(at + ZH_UNKNOWN_AT + 8) > 0)) {
        p = put_unknown(e, zh_load_slot(at + ZH_UNKNOWN_AT), p);
        if (p == NULL)
            return NULL;
    }
    for (const struct zh_field *field = layout->fields + layout->field_count;
         field > layout->fields;) {
        p = put_field(e, --field, at, p);
        if (ZH_UNLIKELY(p == NULL))
            return NULL;
    }
    return p;
}

int zh_wire_encode(const struct zh_space *space, const struct zh_layout *layout, const uint8_t *at,
                   bool sorted, struct zh_wire_bytes *out)
{
    struct encoder e = {
        .space = space, .depth = ZH_IMAGE_DEPTH, .sorted = sorted, .steps = zh_image_steps};

    if (space->root_bytes > 0) { /* reference 0 is none */
        e.near = 1;
        e.near_data = space->root + 1;
        e.near_bytes = space->root_bytes - 1;
    }

    e.memory = malloc(FIRST_ROOM);
    if (e.memory == NULL)
        return -ENOMEM;
    e.end = e.memory + FIRST_ROOM;
    uint8_t *p = encode_struct(&e, layout, at, e.end);
    if (p != NULL && written(&e, p) > ZH_IMAGE_MOST)
        p = fail(&e, -EMSGSIZE);
    if (p == NULL) {
        free(e.memory);
        return e.error;
    }
    *out = (struct zh_wire_bytes){p, written(&e, p), e.memory};
    return 0;
}
