/* Images: resolving references, and memory for what is built. */
#include "zerohop/image.h"

#include <errno.h>
#include <stdlib.h>

#include "blocks.h"

/* Chunks outside the root: the first, and the largest. Larger needs get a block of their own. */
#define CHUNK_FIRST 4096u
#define CHUNK_MOST 65536u

#define ROUND_8(n) (((n) + 7) & ~(size_t)7)

/* --- reading ---------------------------------------------------------------------------------- */

const uint8_t *zh_space_at(const struct zh_space *space, zh_ref ref, uint64_t bytes)
{
    if (zh_ref_segment(ref) != 0)
        return ref == 0 ? NULL : space->far(space->context, ref, bytes);
    if (ref == 0 || ref > space->root_bytes || bytes > space->root_bytes - ref)
        return NULL;
    return space->root + ref;
}

const uint8_t *zh_space_root(const struct zh_space *space, const struct zh_layout *layout)
{
    if (layout->size > ZH_IMAGE_NEAR) {
        if (space->root_bytes < sizeof(zh_ref))
            return NULL;
        zh_ref ref = zh_load64(space->root);
        /* Never in the root, so that there is one form. */
        return zh_ref_segment(ref) == 0 ? NULL : zh_space_at(space, ref, layout->size);
    }
    return layout->size > space->root_bytes ? NULL : space->root;
}

bool zh_field_is_set(const struct zh_field *field, const uint8_t *at)
{
    switch (field->label) {
    case ZH_OPTIONAL:
        return (zh_load32(at + ZH_PRESENCE_AT + field->bit / 32 * 4) >> field->bit % 32 & 1) != 0;
    case ZH_ONEOF:
        return zh_load32(at + field->case_at) == field->number;
    case ZH_REPEATED:
    case ZH_MAP:
        return zh_load32(at + field->offset + 8) != 0;
    default:
        break;
    }
    switch (field->width) {
    case 1:
        return at[field->offset] != 0;
    case 4:
        return zh_load32(at + field->offset) != 0;
    case 8:
        return zh_load64(at + field->offset) != 0;
    default:
        return zh_load32(at + field->offset + 8) != 0;
    }
}

/* --- building --------------------------------------------------------------------------------- */

size_t zh_image_root_least(const struct zh_layout *layout)
{
    return layout->size > ZH_IMAGE_NEAR ? sizeof(zh_ref) : layout->size;
}

static struct zh_image_block *alloc_block(struct zh_image *image, size_t bytes)
{
    struct zh_image_block block = {0};

    /* Into our own variable: `alloc` may let other threads run. */
    if (image->memory->alloc(image->context, bytes, &block) != 0)
        return NULL;
    block.used = 0;
    struct zh_image_block *added = zh_block_add(image, &block);
    if (added == NULL)
        image->memory->release(image->context, &block);
    return added;
}

int zh_image_init(struct zh_image *image, const struct zh_layout *layout,
                  const struct zh_image_memory *memory, void *context, uint8_t *inside, size_t room)
{
    size_t least = zh_image_root_least(layout);

    *image = (struct zh_image){
        .memory = memory,
        .context = context,
        .root = inside,
        .root_used = (uint32_t)least,
        .root_room = (uint32_t)(room > ZH_IMAGE_ROOT ? ZH_IMAGE_ROOT : room),
        .worth = ZH_IMAGE_GARBAGE,
    };
    if (layout->size > ZH_IMAGE_NEAR) {
        struct zh_image_block *block = alloc_block(image, layout->size);
        if (block == NULL) {
            zh_image_free(image);
            return -ENOMEM;
        }
        memset(block->data, 0, block->bytes);
        block->used = layout->size;
        block->chunk = true;
        image->open = image->block_count;
        memcpy(image->root, &block->ref, sizeof(block->ref));
    }
    return 0;
}

void zh_image_free(struct zh_image *image)
{
    for (uint32_t i = 0; i < image->block_count; i++)
        image->memory->release(image->context, &image->blocks[i]);
    free(image->blocks);
    free(image->order);
    if (image->root_owned)
        free(image->root);
    image->blocks = NULL;
    image->order = NULL;
    image->ordered = image->order_room = 0;
    image->block_count = image->block_room = image->open = 0;
    image->held = image->kept = 0;
    image->root = NULL;
    image->root_owned = false;
}

int zh_image_settle(struct zh_image *image)
{
    if (image->root_room >= ZH_IMAGE_ROOT)
        return 0;
    uint8_t *root = calloc(1, ZH_IMAGE_ROOT);
    if (root == NULL)
        return -ENOMEM;
    memcpy(root, image->root, image->root_used);
    if (image->root_owned)
        free(image->root);
    image->root = root;
    image->root_owned = true;
    image->root_room = ZH_IMAGE_ROOT;
    return 0;
}

/* Bytes of a block of their own, as they were left by whoever had it before. */
static uint8_t *alloc_blob(struct zh_image *image, size_t bytes, zh_ref *ref)
{
    struct zh_image_block *block = alloc_block(image, bytes);

    if (block == NULL)
        return NULL;
    block->used = bytes;
    block->uses = 1;
    *ref = block->ref;
    return block->data;
}

uint8_t *zh_image_alloc_raw(struct zh_image *image, size_t bytes, zh_ref *ref)
{
    size_t need = ROUND_8(bytes);

    if (bytes >= ZH_IMAGE_BLOB)
        return alloc_blob(image, bytes, ref);
    if (need <= image->root_room - image->root_used ||
        (need <= ZH_IMAGE_ROOT - image->root_used && zh_image_settle(image) == 0)) {
        *ref = zh_ref_make(0, image->root_used);
        image->root_used += (uint32_t)need;
        return image->root + *ref;
    }
    struct zh_image_block *block = image->open == 0 ? NULL : &image->blocks[image->open - 1];
    if (block == NULL || need > block->bytes - block->used) {
        /* The first one may hold just the struct of a large message. */
        size_t size =
            block == NULL || block->bytes * 2 < CHUNK_FIRST ? CHUNK_FIRST : block->bytes * 2;
        if (size < image->expected)
            size = image->expected;
        block = alloc_block(image, size > CHUNK_MOST ? CHUNK_MOST : size);
        if (block == NULL)
            return NULL;
        memset(block->data, 0, block->bytes);
        block->chunk = true;
        image->open = image->block_count;
    }
    uint8_t *data = block->data + block->used;
    *ref = block->ref + block->used;
    block->used += need;
    return data;
}

uint8_t *zh_image_alloc(struct zh_image *image, size_t bytes, zh_ref *ref)
{
    uint8_t *data = zh_image_alloc_raw(image, bytes, ref);

    /* Smaller pieces come from memory that was zeroed as a whole. */
    if (data != NULL && bytes >= ZH_IMAGE_BLOB)
        memset(data, 0, bytes);
    return data;
}

uint8_t *zh_image_at(struct zh_image *image, zh_ref ref)
{
    if (zh_ref_segment(ref) == 0)
        return ref < image->root_used ? image->root + ref : NULL;
    /* Whoever appends comes back to the array, and allocates elsewhere. */
    const struct zh_image_block *block = zh_block_find(image, ref, &image->hit);
    return block == NULL ? NULL : block->data + (ref - block->ref);
}

static const uint8_t *own_far(void *context, zh_ref ref, uint64_t bytes)
{
    struct zh_image *image = context;
    /* What lies together is read together: first where the last one was found. */
    const struct zh_image_block *block = zh_block_find(image, ref, &image->found);

    if (block == NULL || bytes > block->bytes - (ref - block->ref))
        return NULL;
    return block->data + (ref - block->ref);
}

void zh_image_space(struct zh_image *image, struct zh_space *space)
{
    *space = (struct zh_space){
        .root = image->root,
        .root_bytes = image->root_used,
        .far = own_far,
        .context = image,
    };
}

const struct zh_image_block *zh_space_block(const struct zh_space *space, zh_ref ref)
{
    struct zh_image *image = space->context;

    return space->far == own_far ? zh_block_find(image, ref, &image->found) : NULL;
}

void zh_image_drop(struct zh_image *image, zh_ref ref, bool later)
{
    if (zh_ref_segment(ref) == 0)
        return;
    struct zh_image_block *block = zh_block_find(image, ref, &image->hit);
    if (block == NULL || block->chunk || block->uses == 0 || --block->uses > 0)
        return;
    image->kept += block->bytes;
    block->kept = image->epoch;
    if (!later)
        zh_block_remove(image, (uint32_t)(block - image->blocks));
}

void zh_image_purge(struct zh_image *image)
{
    zh_image_purge_unread(image, NULL, 0, true);
}

static bool is_read(const struct zh_image_block *block, const struct zh_image_readers *readers,
                    uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (readers[i].epoch >= block->born && readers[i].epoch <= block->kept)
            return true;
    }
    return false;
}

void zh_image_purge_unread(struct zh_image *image, const struct zh_image_readers *readers,
                           uint32_t count, bool now)
{
    for (uint32_t i = image->block_count; i-- > 0 && image->kept > 0;) {
        const struct zh_image_block *block = &image->blocks[i];
        if (!zh_block_is_kept(block) || (!now && block->kept == image->epoch) ||
            is_read(block, readers, count))
            continue;
        /* As if it had not been there when that was found. */
        image->worth -= image->worth < block->bytes ? image->worth : block->bytes;
        zh_block_remove(image, i);
    }
}

void zh_image_lend(struct zh_image *image)
{
    for (uint32_t i = 0; i < image->block_count; i++) {
        struct zh_image_block *block = &image->blocks[i];
        block->lent = block->chunk ? block->used : block->bytes;
    }
}

bool zh_image_owns(struct zh_image *image, zh_ref ref)
{
    if (zh_ref_segment(ref) == 0)
        return true;
    const struct zh_image_block *block = zh_block_find(image, ref, &image->hit);
    return block != NULL && !zh_block_is_kept(block) && ref - block->ref >= block->lent;
}
