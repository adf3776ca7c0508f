/* Entering map entries by key: one by one while they are few, with a temporary hash beyond. */
#include "map_index.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "wire_internal.h"

/* The index of one map. `slots` holds 1 + the place of an entry, by the hash of its key. */
struct zh_map_index {
    const uint8_t *slot;
    uint8_t **entries; /* in the order of the array */
    uint8_t *data;     /* the array itself */
    uint32_t *slots;
    uint32_t mask;
    uint32_t count, room; /* of entries */
};

struct key {
    const uint8_t *data;
    size_t bytes;
};

/* The key of an entry of our own. */
static struct key key_of(struct zh_image *image, const struct zh_layout *type, const uint8_t *entry)
{
    const struct zh_field *field = &type->fields[0];
    const uint8_t *at = entry + field->offset;

    if (field->width < 16)
        return (struct key){at, field->width};
    struct zh_slot slot = zh_load_slot(at);
    if (slot.count == 0)
        return (struct key){at, 0};
    return (struct key){zh_image_at(image, slot.ref), slot.count};
}

static bool same(struct key left, struct key right)
{
    return left.bytes == right.bytes && memcmp(left.data, right.data, left.bytes) == 0;
}

static uint64_t fold(uint64_t left, uint64_t right)
{
    unsigned __int128 product = (unsigned __int128)left * right;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Seeded, for whoever sends may choose the keys. */
static uint64_t hash(uint64_t seed, const uint8_t *data, size_t bytes)
{
    uint64_t h = seed ^ bytes, word;

    for (; bytes >= 8; bytes -= 8, data += 8) {
        memcpy(&word, data, 8);
        h = fold(h ^ word, UINT64_C(0x9e3779b97f4a7c15) ^ seed);
    }
    word = 0;
    memcpy(&word, data, bytes);
    h = fold(h ^ word, UINT64_C(0xd6e8feb86659fd93) ^ seed);
    return fold(h ^ seed, UINT64_C(0xa0761d6478bd642f));
}

/* Where the key is in the index, or the free place for it. */
static uint32_t *find(const struct zh_maps *maps, struct zh_map_index *index,
                      struct zh_image *image, const struct zh_layout *type, struct key key)
{
    for (uint32_t i = (uint32_t)hash(maps->seed, key.data, key.bytes);; i++) {
        uint32_t *place = &index->slots[i & index->mask];
        if (*place == 0 || same(key, key_of(image, type, index->entries[*place - 1])))
            return place;
    }
}

/* Room for twice the entries. Whatever fails, the index is as good as before. */
static int grow(const struct zh_maps *maps, struct zh_map_index *index, struct zh_image *image,
                const struct zh_layout *type, uint32_t least)
{
    uint32_t room = 4 * ZH_MAP_FEW;

    while (room < least) {
        if (room > UINT32_MAX / 4)
            return -EMSGSIZE;
        room *= 2;
    }
    uint8_t **entries = realloc(index->entries, room * sizeof(*entries));
    if (entries == NULL)
        return -ENOMEM;
    index->entries = entries;
    uint32_t *slots = calloc(2 * (size_t)room, sizeof(*slots));
    if (slots == NULL)
        return -ENOMEM;
    free(index->slots);
    index->slots = slots;
    index->mask = 2 * room - 1;
    index->room = room;
    /* Where keys are double, which a hostile peer's may be, the last one counts. */
    for (uint32_t i = 0; i < index->count; i++)
        *find(maps, index, image, type, key_of(image, type, entries[i])) = i + 1;
    return 0;
}

/* The place of a slot among the indexes, or a free one. */
static struct zh_map_index **index_place(const struct zh_maps *maps, const uint8_t *slot)
{
    uint64_t address = (uintptr_t)slot;

    for (uint32_t i = (uint32_t)hash(maps->seed, (const uint8_t *)&address, sizeof(address));;
         i++) {
        struct zh_map_index **place = &maps->indexes[i & (maps->index_room - 1)];
        if (*place == NULL || (*place)->slot == slot)
            return place;
    }
}

static int more_indexes(struct zh_maps *maps)
{
    struct zh_maps old = *maps;

    if (maps->index_room > UINT32_MAX / 2)
        return -EMSGSIZE;
    maps->index_room = old.index_room == 0 ? 8 : old.index_room * 2;
    maps->indexes = calloc(maps->index_room, sizeof(struct zh_map_index *));
    if (maps->indexes == NULL) {
        *maps = old;
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < old.index_room; i++) {
        if (old.indexes[i] != NULL)
            *index_place(maps, old.indexes[i]->slot) = old.indexes[i];
    }
    free(old.indexes);
    return 0;
}

static void free_index(struct zh_map_index *index)
{
    free(index->entries);
    free(index->slots);
    free(index);
}

/* The index of a map, made if there is none yet. */
static int get_index(struct zh_maps *maps, struct zh_image *image, const struct zh_layout *type,
                     const uint8_t *slot_at, struct zh_map_index **result)
{
    int error;

    if (maps->last_index != NULL && maps->last_index->slot == slot_at) {
        *result = maps->last_index;
        return 0;
    }
    if (maps->seed == 0) {
        /* Early in boot there may be no randomness; then an address has to do. */
        if (getrandom(&maps->seed, sizeof(maps->seed), GRND_NONBLOCK) != sizeof(maps->seed))
            maps->seed = (uintptr_t)slot_at;
        maps->seed |= 1;
    }
    if (maps->index_count >= maps->index_room / 2) {
        error = more_indexes(maps);
        if (error != 0)
            return error;
    }
    struct zh_map_index **place = index_place(maps, slot_at);
    if (*place == NULL) {
        struct zh_slot slot = zh_load_slot(slot_at);
        struct zh_map_index *index = calloc(1, sizeof(*index));
        if (index == NULL)
            return -ENOMEM;
        index->slot = slot_at;
        /* All entries that there are already: with count 0 first, so that they can be entered. */
        error = grow(maps, index, image, type, slot.count + 1);
        if (error != 0) {
            free_index(index);
            return error;
        }
        index->data = zh_image_at(image, slot.ref);
        for (uint32_t i = 0; i < slot.count; i++) {
            index->entries[i] = zh_image_at(image, zh_load64(index->data + 8 * (size_t)i));
            *find(maps, index, image, type, key_of(image, type, index->entries[i])) = i + 1;
        }
        index->count = slot.count;
        *place = index;
        maps->index_count++;
    }
    *result = maps->last_index = *place;
    return 0;
}

/* Put a new entry at the end of the array, which is at `data` if that is not NULL. */
static uint8_t *append(struct zh_image *image, uint8_t *slot_at, uint8_t *data, zh_ref ref,
                       int *error)
{
    uint32_t count = zh_load32(slot_at + 8);

    if (count == UINT32_MAX) {
        *error = -EMSGSIZE;
        return NULL;
    }
    data = zh_array_reserve(image, slot_at, 8, data, 1, error);
    if (data != NULL) {
        zh_store64(data + 8 * (size_t)count, ref);
        zh_store32(slot_at + 8, count + 1);
    }
    return data;
}

int zh_maps_enter(struct zh_maps *maps, struct zh_image *image, const struct zh_layout *type,
                  uint8_t *slot_at, uint8_t *entry, zh_ref ref, bool *taken)
{
    struct zh_slot slot = zh_load_slot(slot_at);
    struct key key = key_of(image, type, entry);
    struct zh_map_index *index;
    int error = 0;

    *taken = false;
    if (slot.count < ZH_MAP_FEW) {
        if (maps->last != slot_at && slot.count > 0) {
            const uint8_t *data = zh_image_at(image, slot.ref);
            for (uint32_t i = 0; i < slot.count; i++)
                maps->few[i] = zh_image_at(image, zh_load64(data + 8 * (size_t)i));
        }
        maps->last = slot_at;
        for (uint32_t i = slot.count; i-- > 0;) {
            if (same(key, key_of(image, type, maps->few[i]))) {
                memcpy(maps->few[i], entry, type->size);
                return 0;
            }
        }
        if (append(image, slot_at, NULL, ref, &error) == NULL)
            return error;
        maps->few[slot.count] = entry;
        *taken = true;
        return 0;
    }
    error = get_index(maps, image, type, slot_at, &index);
    if (error == 0 && index->count == index->room)
        error = grow(maps, index, image, type, index->count + 1);
    if (error != 0)
        return error;
    uint32_t *place = find(maps, index, image, type, key);
    if (*place != 0) {
        memcpy(index->entries[*place - 1], entry, type->size);
        return 0;
    }
    uint8_t *data = append(image, slot_at, index->data, ref, &error);
    if (data == NULL)
        return error;
    index->data = data;
    index->entries[index->count++] = entry;
    *place = index->count;
    *taken = true;
    return 0;
}

void zh_maps_free(struct zh_maps *maps)
{
    for (uint32_t i = 0; i < maps->index_room; i++) {
        if (maps->indexes[i] != NULL)
            free_index(maps->indexes[i]);
    }
    free(maps->indexes);
}
