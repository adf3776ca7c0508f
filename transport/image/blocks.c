/*
 * The blocks of an image. No two overlap. An image of a few is searched from the end; one of many
 * has their places in the order of their references, which is made when it is first needed and kept
 * up to date from then on.
 */
#include "blocks.h"

#include <errno.h>
#include <stdlib.h>

#define FEW 16u

static zh_ref ref_at(const struct zh_image *image, uint32_t place)
{
    return image->blocks[image->order[place]].ref;
}

/* How many of those in order begin before `ref`. */
static uint32_t before(const struct zh_image *image, zh_ref ref)
{
    uint32_t low = 0, high = image->ordered;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (ref_at(image, middle) < ref)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* One that is not in order yet. */
static void enter(struct zh_image *image, uint32_t at)
{
    uint32_t place = before(image, image->blocks[at].ref);

    memmove(&image->order[place + 1], &image->order[place],
            (image->ordered - place) * sizeof(*image->order));
    image->order[place] = at;
    image->ordered++;
}

/* All in order; false when there are few, or no memory for it. */
static bool in_order(struct zh_image *image)
{
    if (image->block_count <= FEW)
        return false;
    if (image->order_room < image->block_count) {
        uint32_t room = image->block_room;
        uint32_t *order = realloc(image->order, room * sizeof(*order));
        if (order == NULL)
            return false;
        image->order = order;
        image->order_room = room;
    }
    /* Those that came since are the last ones. */
    while (image->ordered < image->block_count)
        enter(image, image->ordered);
    return true;
}

struct zh_image_block *zh_block_add(struct zh_image *image, const struct zh_image_block *block)
{
    if (image->block_count == image->block_room) {
        uint32_t room = image->block_room == 0 ? 4 : image->block_room * 2;
        struct zh_image_block *blocks = realloc(image->blocks, room * sizeof(*blocks));
        if (blocks == NULL)
            return NULL;
        image->blocks = blocks;
        image->block_room = room;
    }
    struct zh_image_block *added = &image->blocks[image->block_count++];
    *added = *block;
    added->born = image->epoch;
    added->lent = 0;
    image->held += block->bytes;
    return added;
}

static bool has(const struct zh_image_block *block, zh_ref ref)
{
    return ref >= block->ref && ref - block->ref < block->bytes;
}

struct zh_image_block *zh_block_find(struct zh_image *image, zh_ref ref, uint32_t *hint)
{
    if (*hint < image->block_count && has(&image->blocks[*hint], ref))
        return &image->blocks[*hint];
    if (in_order(image)) {
        uint32_t place = before(image, ref + 1);
        uint32_t at = place == 0 ? 0 : image->order[place - 1];
        if (place == 0 || !has(&image->blocks[at], ref))
            return NULL;
        *hint = at;
        return &image->blocks[at];
    }
    /* The last ones are the likeliest. */
    for (uint32_t i = image->block_count; i-- > 0;) {
        if (has(&image->blocks[i], ref)) {
            *hint = i;
            return &image->blocks[i];
        }
    }
    return NULL;
}

/* Out of the list: the caller's from then on. */
static struct zh_image_block take_out(struct zh_image *image, uint32_t at)
{
    struct zh_image_block block = image->blocks[at];
    uint32_t last = image->block_count - 1;

    if (image->ordered == 0 || !in_order(image)) {
        image->ordered = 0;
    } else {
        uint32_t place = before(image, block.ref), moved = before(image, image->blocks[last].ref);
        image->order[moved] = at;
        memmove(&image->order[place], &image->order[place + 1],
                (last - place) * sizeof(*image->order));
        image->ordered--;
    }
    image->block_count = last;
    if (image->open == last + 1)
        image->open = at + 1; /* the last one, which takes the place */
    image->blocks[at] = image->blocks[last];
    image->held -= block.bytes;
    if (zh_block_is_kept(&block))
        image->kept -= block.bytes;
    return block;
}

void zh_block_remove(struct zh_image *image, uint32_t at)
{
    struct zh_image_block block = take_out(image, at);
    /* What there was does not count for ever. */
    uint64_t most = ZH_IMAGE_GARBAGE + 5 * image->held;

    image->worth = image->worth < most ? image->worth : most;
    image->memory->release(image->context, &block);
}

static bool overlap(const struct zh_image_block *one, const struct zh_image_block *other)
{
    return !one->chunk && one->ref < other->ref + other->bytes &&
           other->ref < one->ref + one->bytes;
}

/* A block that overlaps with one that is not in the list, or NULL. */
static struct zh_image_block *overlapping(struct zh_image *image,
                                          const struct zh_image_block *block)
{
    if (in_order(image)) {
        uint32_t place = before(image, block->ref + block->bytes);
        uint32_t at = place == 0 ? 0 : image->order[place - 1];
        return place > 0 && overlap(&image->blocks[at], block) ? &image->blocks[at] : NULL;
    }
    for (uint32_t i = image->block_count; i-- > 0;) {
        if (overlap(&image->blocks[i], block))
            return &image->blocks[i];
    }
    return NULL;
}

/* As if `one` had been shown as a part of `all`, which grows. */
static void widen(struct zh_image_block *all, const struct zh_image_block *one)
{
    zh_ref end = all->ref + all->bytes, one_end = one->ref + one->bytes;

    if (one->ref < all->ref) {
        all->ref = one->ref;
        all->data = one->data;
    }
    all->bytes = all->used = (size_t)((end > one_end ? end : one_end) - all->ref);
    all->uses += one->uses;
    if (one->born < all->born)
        all->born = one->born;
}

/*
 * Views of a peer's memory may overlap: they become one block, so that each reference is in one
 * alone. What overlaps is of one block of the peer's, so that any of the owners keeps all of it.
 */
static bool join_views(struct zh_image *image, const struct zh_image_block *block)
{
    struct zh_image_block all = *block;
    struct zh_image_block *other = overlapping(image, &all);

    if (other == NULL)
        return false;
    all.uses = 1;
    all.born = image->epoch;
    all.owner = other->owner;
    widen(&all, other);
    (void)take_out(image, (uint32_t)(other - image->blocks)); /* whose owner `all` has */
    while ((other = overlapping(image, &all)) != NULL) {
        widen(&all, other);
        zh_block_remove(image, (uint32_t)(other - image->blocks));
    }
    other = zh_block_add(image, &all); /* in the room of the first */
    other->born = all.born;
    return true;
}

int zh_image_adopt(struct zh_image *image, const struct zh_image_block *block)
{
    if ((zh_ref_segment(block->ref) & ZH_REF_FOREIGN) != 0 && join_views(image, block))
        return 1;
    struct zh_image_block *same = zh_block_find(image, block->ref, &image->hit);
    if (same != NULL) {
        if (zh_block_is_kept(same))
            image->kept -= same->bytes;
        same->uses++;
        return 1;
    }
    struct zh_image_block *added = zh_block_add(image, block);
    if (added == NULL)
        return -ENOMEM;
    added->uses = 1;
    added->chunk = false;
    added->adopted = true;
    return 0;
}
