/* Entering map entries by key: one by one while they are few, with a temporary hash beyond. */
#include "map_index.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/random.h>

#include "wire_internal.h"

/* An entry by its key: the upper half of the key's hash, and 1 + its place in the array; 0: none.
 */
struct place {
    uint32_t hash;
    uint32_t entry;
};

/* The index of one map: open addressing by the lower half of the hash. */
struct zh_map_index {
    const uint8_t *slot;
    uint8_t **entries; /* in the order of the array */
    uint8_t *data;     /* the array itself */
    struct place *places;
    uint64_t *hashes; /* of the entries' keys */
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

static uint64_t hash_key(const struct zh_maps *maps, struct key key)
{
    return hash(maps->seed, key.data, key.bytes);
}

/* Where the key is in the index, or the free place for it. */
static struct place *find(struct zh_map_index *index, struct zh_image *image,
                          const struct zh_layout *type, struct key key, uint64_t hashed)
{
    for (uint32_t i = (uint32_t)hashed;; i++) {
        struct place *place = &index->places[i & index->mask];
        if (place->entry == 0)
            return place;
        if (place->hash == (uint32_t)(hashed >> 32) &&
            same(key, key_of(image, type, index->entries[place->entry - 1])))
            return place;
    }
}

/* Enter entry `i` at the place of its key. If there was an entry before (in a hostile peer's map
 * that was copied), the later one counts. */
static void enter(struct zh_map_index *index, struct place *place, uint64_t hashed, uint32_t i)
{
    *place = (struct place){(uint32_t)(hashed >> 32), i + 1};
    index->hashes[i] = hashed;
}

/* Room for twice the entries, at least. Whatever fails, the index is as good as before. */
static int grow(struct zh_map_index *index, uint32_t least)
{
    uint32_t room = index->room == 0 ? 2 * ZH_MAP_FEW : index->room * 2;

    while (room < least && room <= UINT32_MAX / 4)
        room *= 2;
    if (room > UINT32_MAX / 4 || room < least)
        return -EMSGSIZE;
    uint8_t **entries = realloc(index->entries, room * sizeof(*entries));
    if (entries == NULL)
        return -ENOMEM;
    index->entries = entries;
    uint64_t *hashes = realloc(index->hashes, room * sizeof(*hashes));
    if (hashes == NULL)
        return -ENOMEM;
    index->hashes = hashes;
    struct place *places = calloc(2 * (size_t)room, sizeof(*places));
    if (places == NULL)
        return -ENOMEM;
    uint32_t mask = 2 * room - 1;
    /* No keys are compared, for those in the index differ. */
    for (uint32_t at = 0; index->places != NULL && at <= index->mask; at++) {
        struct place place = index->places[at];
        if (place.entry == 0)
            continue;
        uint32_t i = (uint32_t)index->hashes[place.entry - 1];
        while (places[i & mask].entry != 0)
            i++;
        places[i & mask] = place;
    }
    free(index->places);
    index->places = places;
    index->mask = mask;
    index->room = room;
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
    free(index->hashes);
    free(index->places);
    free(index);
}

/* One for the process, never 0. */
static uint64_t get_seed(void)
{
    static _Atomic uint64_t known;
    uint64_t seed = atomic_load_explicit(&known, memory_order_relaxed), none = 0;

    if (seed != 0)
        return seed;
    /* Early in boot there may be no randomness; then an address has to do. */
    if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) != sizeof(seed))
        seed = (uintptr_t)&none;
    seed |= 1;
    return atomic_compare_exchange_strong(&known, &none, seed) ? seed : none;
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
    if (maps->seed == 0)
        maps->seed = get_seed();
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
        error = grow(index, slot.count + 1);
        if (error != 0) {
            free_index(index);
            return error;
        }
        index->data = zh_image_at(image, slot.ref);
        for (uint32_t i = 0; i < slot.count; i++) {
            index->entries[i] = zh_image_at(image, zh_load64(index->data + 8 * (size_t)i));
            struct key key = key_of(image, type, index->entries[i]);
            uint64_t hashed = hash_key(maps, key);
            enter(index, find(index, image, type, key, hashed), hashed, i);
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
    /* Text takes longer to compare than to hash. */
    if (slot.count < (type->fields[0].width < 16 ? ZH_MAP_FEW : ZH_MAP_FEW / 2)) {
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
        error = grow(index, index->count + 1);
    if (error != 0)
        return error;
    uint64_t hashed = hash_key(maps, key);
    struct place *place = find(index, image, type, key, hashed);
    if (place->entry != 0) {
        memcpy(index->entries[place->entry - 1], entry, type->size);
        return 0;
    }
    uint8_t *data = append(image, slot_at, index->data, ref, &error);
    if (data == NULL)
        return error;
    index->data = data;
    index->entries[index->count] = entry;
    enter(index, place, hashed, index->count++);
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
