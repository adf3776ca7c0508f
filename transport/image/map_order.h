/* The order of map entries on the wire. Private to transport/image. */
#ifndef ZEROHOP_IMAGE_MAP_ORDER_H
#define ZEROHOP_IMAGE_MAP_ORDER_H

#include "zerohop/image.h"

/*
 * The references of the `count` entries at `from`, at least one, in the order in which protobuf's
 * deterministic serialization has them; `order` is the caller's to free. 0 or a negative error.
 */
int zh_map_order(const struct zh_space *space, const struct zh_field *field, const uint8_t *from,
                 uint32_t count, zh_ref **order);

#endif
