/* The blocks of an image, found by what they have. */
#ifndef ZEROHOP_IMAGE_BLOCKS_H
#define ZEROHOP_IMAGE_BLOCKS_H

#include "zerohop/image.h"

/* Is it there only for those who still read it? */
static inline bool zh_block_is_kept(const struct zh_image_block *block)
{
    return !block->chunk && block->uses == 0;
}

/* Enter a block, which is the image's from then on; NULL when out of memory. */
struct zh_image_block *zh_block_add(struct zh_image *image, const struct zh_image_block *block);

/* The block around a reference to another segment than the root; NULL: none. `hint`: where to look
 * first, which follows. */
struct zh_image_block *zh_block_find(struct zh_image *image, zh_ref ref, uint32_t *hint);

/* Release a block; the last one takes its place. */
void zh_block_remove(struct zh_image *image, uint32_t at);

#endif
