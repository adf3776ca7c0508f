/* Entering map entries by key while wire bytes are decoded. Private to transport/image. */
#ifndef ZEROHOP_IMAGE_MAP_INDEX_H
#define ZEROHOP_IMAGE_MAP_INDEX_H

#include "zerohop/image.h"

/* Up to so many entries are searched one by one; half as many by text. */
#define ZH_MAP_FEW 16u

struct zh_map_index;

/*
 * What is known about the maps of one image during one decoding. Zeros: nothing. The entries of the
 * map that was last written to, and the indexes of all maps with more than ZH_MAP_FEW entries: all
 * of them are kept to the end, since a message that is merged again and again comes back to them.
 */
struct zh_maps {
    const uint8_t *last; /* slot of the map whose entries are in `few` */
    uint8_t *few[ZH_MAP_FEW];
    struct zh_map_index **indexes; /* by slot; open addressing */
    uint32_t index_count, index_room;
    struct zh_map_index *last_index;
    uint64_t seed; /* of their hashes; 0: there are none yet */
};

/*
 * Enter `entry`, a struct of our own at `ref`, into the map of the slot. If there is an entry with
 * its key, that one is overwritten with it, and `*taken` is false: the struct is free again. 0,
 * -ENOMEM or -EMSGSIZE.
 */
int zh_maps_enter(struct zh_maps *maps, struct zh_image *image, const struct zh_layout *type,
                  uint8_t *slot, uint8_t *entry, zh_ref ref, bool *taken);
void zh_maps_free(struct zh_maps *maps);

#endif
