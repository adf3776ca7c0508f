/* Arrays of an image that is being built: room grows by doubling. */
#include <errno.h>

#include "wire_internal.h"

uint8_t *zh_array_reserve(struct zh_image *image, uint8_t *slot_at, uint32_t width, uint8_t *data,
                          uint64_t more, int *error)
{
    struct zh_slot slot = zh_load_slot(slot_at);
    uint64_t used = (uint64_t)slot.count * width, needed = used + more * width;
    zh_ref ref;

    /* What has been sent stays as it is, also behind its end. */
    if (needed <= slot.room && slot.room > 0 && (data != NULL || zh_image_owns(image, slot.ref)))
        return data != NULL ? data : zh_image_at(image, slot.ref);
    /* At least four elements; an array filled at once (packed) gets just its size. */
    uint64_t room = needed <= slot.room ? slot.room
                    : used > 0          ? (uint64_t)slot.room * 2
                    : more > 1          ? 0
                                        : 4u * width;
    if (room > (UINT32_MAX & ~UINT32_C(7)))
        room = UINT32_MAX & ~UINT32_C(7);
    if (room < needed)
        room = (needed + 7) & ~UINT64_C(7);
    if (room > UINT32_MAX) {
        *error = -EMSGSIZE;
        return NULL;
    }
    if (used > 0 && data == NULL)
        data = zh_image_at(image, slot.ref);
    uint8_t *to = zh_image_alloc_raw(image, room, &ref);
    if (to == NULL) {
        *error = -ENOMEM;
        return NULL;
    }
    if (used > 0)
        memcpy(to, data, used);
    /* What is left for later must not show what was there before. */
    memset(to + needed, 0, room - needed);
    zh_store_slot(slot_at, ref, slot.count, (uint32_t)room);
    return to;
}

uint8_t *zh_settle_at(struct zh_image *image, uint8_t *at)
{
    /* As numbers: `at` may lie in another block, which pointers must not be compared with. */
    uintptr_t offset = (uintptr_t)at - (uintptr_t)image->root;
    bool in_root = offset < image->root_used;

    if (zh_image_settle(image) != 0)
        return NULL;
    return in_root ? image->root + offset : at;
}
