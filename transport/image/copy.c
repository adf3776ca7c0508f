/*
 * A deep copy of a message. The original may be a hostile peer's: it is checked as for encoding,
 * and the copy is built anew from what is set, so that nothing in it is wrong but the values.
 */
#include <errno.h>

#include "wire_internal.h"

struct copier {
    struct zh_image *image;
    const struct zh_space *space;
    uint64_t left; /* bytes that may still be allocated */
    uint64_t copied;
    uint32_t steps;
    int depth; /* how many more messages may lie in each other */
};

static int copy_struct(struct copier *c, const struct zh_layout *layout, uint8_t *to,
                       const uint8_t *from);

/* Memory for the copy, zeroed or to be filled. */
static int get(struct copier *c, uint64_t bytes, bool zeroed, uint8_t **data, zh_ref *ref)
{
    if (bytes > c->left)
        return -EMSGSIZE;
    c->left -= bytes;
    *data =
        zeroed ? zh_image_alloc(c->image, bytes, ref) : zh_image_alloc_raw(c->image, bytes, ref);
    return *data == NULL ? -ENOMEM : 0;
}

static int step(struct copier *c, uint32_t steps)
{
    if (c->steps < steps)
        return -EMSGSIZE;
    c->steps -= steps;
    return 0;
}

/* `slot.count` elements of `width` bytes as they are; the slot at `to` refers to them. `data` is
 * the copy, NULL where there is none. */
static int copy_bytes(struct copier *c, uint8_t kind, struct zh_slot slot, uint32_t width,
                      uint8_t *to, uint8_t **data)
{
    const uint8_t *from = zh_space_slot(c->space, slot, width);
    size_t bytes = (size_t)slot.count * width, room = (bytes + 7) & ~(size_t)7;
    zh_ref ref;

    *data = NULL;
    if (from == NULL)
        return -EFAULT;
    if (slot.count == 0)
        return 0;
    if (room > UINT32_MAX)
        return -EMSGSIZE;
    if (zh_ref_segment(slot.ref) != 0 && c->image->memory->refer != NULL) {
        struct zh_slot same;
        int refers = c->image->memory->refer(c->image, c->space, kind, slot, from, bytes, &same);
        if (refers == 1)
            zh_store_slot(to, same.ref, same.count, same.room);
        if (refers != 0)
            return refers < 0 ? refers : 0;
    }
    int error = get(c, room, false, data, &ref);
    if (error != 0)
        return error;
    memcpy(*data, from, bytes);
    c->copied += bytes;
    memset(*data + bytes, 0, room - bytes);
    zh_store_slot(to, ref, slot.count, (uint32_t)room);
    return 0;
}

static int copy_text(struct copier *c, const struct zh_field *field, uint8_t *to,
                     const uint8_t *from)
{
    struct zh_slot slot = zh_load_slot(from);
    uint8_t *data;
    int error = copy_bytes(c, field->kind, slot, 1, to, &data);

    /* What is looked at is the copy. */
    if (error == 0 && data != NULL && (field->flags & ZH_FIELD_UTF8) != 0 &&
        !zh_utf8_valid(data, slot.count)) {
        zh_store_slot(to, 0, 0, 0);
        return -EILSEQ;
    }
    return error;
}

/* The struct at `from`: a new one, whose reference goes to `to`. */
static int copy_message(struct copier *c, const struct zh_layout *layout, uint8_t *to, zh_ref from)
{
    const uint8_t *at = zh_space_at(c->space, from, layout->size);
    uint8_t *data;
    zh_ref ref;
    int error;

    if (at == NULL)
        return -EFAULT;
    if (c->depth == 0)
        return -ELOOP;
    error = get(c, layout->size, true, &data, &ref);
    if (error != 0)
        return error;
    zh_store64(to, ref);
    c->depth--;
    error = copy_struct(c, layout, data, at);
    c->depth++;
    return error;
}

static int copy_array(struct copier *c, const struct zh_field *field, uint8_t *slot_at,
                      const uint8_t *from)
{
    struct zh_slot slot = zh_load_slot(from);
    uint64_t bytes = (uint64_t)slot.count * field->width;
    uint8_t *to;
    zh_ref ref;
    int error;

    if (slot.count == 0)
        return 0;
    if (field->width < 16 && field->kind != ZH_SUBMESSAGE) {
        error = copy_bytes(c, field->kind, slot, field->width, slot_at, &to);
        for (uint32_t i = 0; error == 0 && field->kind == ZH_BOOL && to != NULL && i < slot.count;
             i++)
            to[i] = to[i] != 0;
        return error;
    }
    from = zh_space_slot(c->space, slot, field->width);
    if (from == NULL)
        return -EFAULT;
    if (bytes > UINT32_MAX)
        return -EMSGSIZE;
    error = get(c, bytes, true, &to, &ref);
    for (uint32_t i = 0; error == 0 && i < slot.count; i++) {
        error = step(c, 1);
        if (error != 0)
            break;
        if (field->width == 16)
            error = copy_text(c, field, to, from);
        else
            error = copy_message(c, field->type, to, zh_load64(from));
        to += field->width;
        from += field->width;
    }
    /* The elements of a failed copy are left to whoever frees the image. */
    if (error == 0)
        zh_store_slot(slot_at, ref, slot.count, (uint32_t)bytes);
    return error;
}

/* Is the field set? Then the copy says so too. A oneof has at most one member, in whatever order a
 * peer writes its word while this goes on. */
static bool copy_presence(const struct zh_layout *layout, const struct zh_field *field, uint8_t *to,
                          const uint8_t *from)
{
    uint32_t word;

    switch (field->label) {
    case ZH_OPTIONAL:
        word = zh_presence_word(field);
        /* An entry has its key and its value, whatever its bits are. */
        if ((layout->flags & ZH_LAYOUT_ENTRY) == 0 &&
            (zh_load32(from + word) & zh_presence_bit(field)) == 0)
            return false;
        zh_store32(to + word, zh_load32(to + word) | zh_presence_bit(field));
        return true;
    case ZH_ONEOF:
        if (zh_load32(to + field->case_at) != 0 ||
            zh_load32(from + field->case_at) != field->number)
            return false;
        zh_store32(to + field->case_at, field->number);
        return true;
    default:
        return true; /* zeros are copied as zeros */
    }
}

static int copy_field(struct copier *c, const struct zh_layout *layout,
                      const struct zh_field *field, uint8_t *to_struct, const uint8_t *from_struct)
{
    uint8_t *to = to_struct + field->offset;
    const uint8_t *from = from_struct + field->offset;

    if (field->label == ZH_REPEATED || field->label == ZH_MAP)
        return copy_array(c, field, to, from);
    if (!copy_presence(layout, field, to_struct, from_struct))
        return 0;
    if (field->kind == ZH_SUBMESSAGE) {
        zh_ref ref = zh_load64(from);
        return ref == 0 ? 0 : copy_message(c, field->type, to, ref);
    }
    switch (field->width) {
    case 16:
        return copy_text(c, field, to, from);
    case 8:
        zh_store64(to, zh_load64(from));
        return 0;
    case 4:
        zh_store32(to, zh_load32(from));
        return 0;
    default:
        *to = zh_load8(from) != 0;
        return 0;
    }
}

static int copy_struct(struct copier *c, const struct zh_layout *layout, uint8_t *to,
                       const uint8_t *from)
{
    uint8_t *data;
    int error = step(c, zh_steps(layout));

    if (error == 0)
        error = copy_bytes(c, 0, zh_load_slot(from + ZH_UNKNOWN_AT), 1, to + ZH_UNKNOWN_AT, &data);
    for (uint32_t i = 0; error == 0 && i < layout->field_count; i++)
        error = copy_field(c, layout, &layout->fields[i], to, from);
    return error;
}

int zh_image_copy(struct zh_image *image, const struct zh_layout *layout, uint8_t *to,
                  const struct zh_space *space, const uint8_t *from, uint64_t *copied)
{
    struct copier c = {
        .image = image,
        .space = space,
        .left = ZH_IMAGE_MOST,
        .steps = zh_image_steps,
        .depth = ZH_IMAGE_DEPTH,
    };

    to = zh_settle_at(image, to);
    int error = to == NULL ? -ENOMEM : copy_struct(&c, layout, to, from);
    *copied = c.copied;
    return error;
}
