/* Thawing: a message whose chunks are lent gets chunks of its own before they are written to. */
#include <errno.h>
#include <stdlib.h>

#include "zerohop/image.h"

/* A reference that was into an old chunk. */
static zh_ref moved(const struct zh_image_moves *moves, zh_ref ref)
{
    for (uint32_t i = 0; zh_ref_segment(ref) != 0 && i < moves->count; i++) {
        const struct zh_image_move *move = &moves->moves[i];
        if (ref >= move->from_ref && ref - move->from_ref < move->bytes)
            return move->to_ref + (ref - move->from_ref);
    }
    return ref;
}

static void move_ref(const struct zh_image_moves *moves, uint8_t *at)
{
    zh_ref ref = moved(moves, zh_load64(at));

    memcpy(at, &ref, sizeof(ref));
}

void zh_image_follow(struct zh_image *image, const struct zh_image_moves *t,
                     const struct zh_layout *layout, uint8_t *at)
{
    if (zh_load32(at + ZH_UNKNOWN_AT + 8) != 0)
        move_ref(t, at + ZH_UNKNOWN_AT);
    for (uint32_t i = 0; i < layout->field_count; i++) {
        const struct zh_field *field = &layout->fields[i];
        uint8_t *slot = at + field->offset;
        bool array = field->label >= ZH_REPEATED;
        if ((!array && field->width != 16 && field->type == NULL) || !zh_field_is_set(field, at))
            continue;
        if (!array && field->type != NULL) {
            move_ref(t, slot);
            uint8_t *child = zh_image_at(image, zh_load64(slot));
            if (child != NULL)
                zh_image_follow(image, t, field->type, child);
            continue;
        }
        struct zh_slot content = zh_load_slot(slot);
        if (content.count == 0)
            continue;
        move_ref(t, slot);
        if (!array || (field->width != 16 && field->type == NULL))
            continue;
        uint8_t *element = zh_image_at(image, zh_load64(slot));
        for (uint32_t n = 0; element != NULL && n < content.count; n++, element += field->width) {
            if (field->type == NULL && zh_load32(element + 8) == 0)
                continue;
            move_ref(t, element);
            uint8_t *child = field->type == NULL ? NULL : zh_image_at(image, zh_load64(element));
            if (child != NULL)
                zh_image_follow(image, t, field->type, child);
        }
    }
}

static void release(struct zh_image *image, struct zh_image_block *blocks, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (blocks[i].chunk)
            image->memory->release(image->context, &blocks[i]);
    }
}

int zh_image_thaw(struct zh_image *image, const struct zh_layout *layout, bool keep,
                  struct zh_image_moves *moves)
{
    uint32_t count = image->block_count;
    struct zh_image_block *fresh = calloc(2 * (size_t)count + 1, sizeof(*fresh));
    struct zh_image_block *old = image->blocks;

    *moves = (struct zh_image_moves){.moves = calloc(count + 1u, sizeof(*moves->moves))};
    if (fresh == NULL || moves->moves == NULL)
        goto fail;
    for (uint32_t i = 0; i < count; i++) {
        fresh[i] = old[i];
        if (!old[i].chunk)
            continue;
        fresh[i].chunk = false; /* until it is there */
        if (image->memory->alloc(image->context, old[i].bytes, &fresh[i]) != 0)
            goto fail;
        fresh[i].chunk = true;
        fresh[i].lent = false;
        fresh[i].used = old[i].used;
        memcpy(fresh[i].data, old[i].data, old[i].used);
        memset(fresh[i].data + old[i].used, 0, fresh[i].bytes - old[i].used);
        moves->moves[moves->count++] = (struct zh_image_move){
            .from = old[i].data,
            .to = fresh[i].data,
            .bytes = old[i].bytes,
            .from_ref = old[i].ref,
            .to_ref = fresh[i].ref,
        };
        moves->bytes += old[i].used;
    }
    image->blocks = fresh;
    image->block_room = 2 * count + 1;
    uint8_t *root = image->root;
    if (layout->size > ZH_IMAGE_NEAR) {
        move_ref(moves, root);
        root = zh_image_at(image, zh_load64(root));
    }
    zh_image_follow(image, moves, layout, root);
    if (keep) {
        for (uint32_t i = 0; i < count; i++) {
            if (old[i].chunk) {
                old[i].chunk = false;
                image->blocks[image->block_count++] = old[i];
            }
        }
    } else {
        release(image, old, count);
    }
    free(old);
    return 0;

fail:
    if (fresh != NULL)
        release(image, fresh, count);
    free(fresh);
    zh_image_moves_free(moves);
    return -ENOMEM;
}

uint8_t *zh_image_moved(const struct zh_image_moves *moves, uint8_t *at)
{
    for (uint32_t i = 0; i < moves->count; i++) {
        const struct zh_image_move *move = &moves->moves[i];
        if (at >= move->from && at < move->from + move->bytes)
            return move->to + (at - move->from);
    }
    return at;
}

void zh_image_moves_free(struct zh_image_moves *moves)
{
    free(moves->moves);
    moves->moves = NULL;
    moves->count = 0;
}
