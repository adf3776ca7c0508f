/*
 * The order of map entries on the wire, which is upb's, so that bytes can be compared: integers
 * from the largest, as unsigned numbers of their width; text by its bytes, a longer one before its
 * own beginning. (upb sorts upwards and writes backwards.)
 *
 * Keys are copied before they are sorted: a sort may leave its array if keys change under it.
 */
#include "map_order.h"

#include <errno.h>
#include <stdlib.h>

#include "wire_internal.h"

struct key {
    uint64_t number;     /* an integer */
    const uint8_t *text; /* or text, in memory of ours */
    uint32_t bytes;
    uint32_t index;
    zh_ref ref;
};

static int compare(const void *left, const void *right)
{
    const struct key *l = left, *r = right;

    if (l->text != NULL) {
        uint32_t bytes = l->bytes < r->bytes ? l->bytes : r->bytes;
        int order = memcmp(l->text, r->text, bytes);
        if (order != 0)
            return order;
    }
    if (l->bytes != r->bytes)
        return l->bytes > r->bytes ? -1 : 1;
    if (l->number != r->number)
        return l->number > r->number ? -1 : 1;
    return l->index < r->index ? -1 : 1; /* of equal keys the last one counts */
}

/* Load the keys; text as slots (`number` is the reference), with the sum of their bytes. */
static int load(const struct zh_space *space, const struct zh_layout *type, const uint8_t *from,
                uint32_t count, struct key *keys, uint64_t *sum)
{
    const struct zh_field *field = &type->fields[0];

    for (uint32_t i = 0; i < count; i++) {
        zh_ref ref = zh_load64(from + 8 * (size_t)i);
        const uint8_t *at = ref == 0 ? NULL : zh_space_at(space, ref, type->size);
        if (at == NULL)
            return -EFAULT;
        at += field->offset;
        keys[i] = (struct key){.index = i, .ref = ref};
        if (field->width == 16) {
            struct zh_slot slot = zh_load_slot(at);
            keys[i].number = slot.ref;
            keys[i].bytes = slot.count;
            *sum += slot.count;
        } else if (field->width == 8) {
            keys[i].number = zh_load64(at);
        } else if (field->width == 4) {
            keys[i].number = zh_load32(at);
        } else {
            keys[i].number = zh_load8(at) != 0;
        }
    }
    return *sum > ZH_IMAGE_MOST ? -EMSGSIZE : 0;
}

/* Copy the text of the keys. */
static int copy(const struct zh_space *space, uint32_t count, struct key *keys, uint8_t *text)
{
    for (uint32_t i = 0; i < count; i++) {
        struct key *key = &keys[i];
        const uint8_t *from = zh_space_slot(space, (struct zh_slot){key->number, key->bytes, 0}, 1);
        if (from == NULL)
            return -EFAULT;
        memcpy(text, from, key->bytes);
        key->number = 0;
        key->text = text;
        text += key->bytes;
    }
    return 0;
}

int zh_map_order(const struct zh_space *space, const struct zh_field *field, const uint8_t *from,
                 uint32_t count, zh_ref **order)
{
    struct key *keys = malloc(count * sizeof(*keys));
    zh_ref *refs = malloc(count * sizeof(*refs));
    uint8_t *text = NULL;
    uint64_t sum = 0;
    int error = keys == NULL || refs == NULL ? -ENOMEM : 0;

    if (error == 0)
        error = load(space, field->type, from, count, keys, &sum);
    if (error == 0 && field->type->fields[0].width == 16) {
        text = malloc(sum + 1);
        error = text == NULL ? -ENOMEM : copy(space, count, keys, text);
    }
    if (error == 0) {
        qsort(keys, count, sizeof(*keys), compare);
        for (uint32_t i = 0; i < count; i++)
            refs[i] = keys[i].ref;
    }
    free(text);
    free(keys);
    if (error != 0) {
        free(refs);
        return error;
    }
    *order = refs;
    return 0;
}
