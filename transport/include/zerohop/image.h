/*
 * Message images: what docs/image.md specifies. Pure memory: no links, no Python.
 *
 * Nothing here locks. Whoever holds an object calls; a layout never changes and may be used by all.
 */
#ifndef ZEROHOP_IMAGE_H
#define ZEROHOP_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "zerohop/api.h"

#define ZH_IMAGE_ROOT 1024u     /* bytes of a root at most */
#define ZH_IMAGE_NEAR 512u      /* a larger struct does not lie in the root */
#define ZH_IMAGE_BLOB 4096u     /* from here on, a block of its own */
#define ZH_IMAGE_DEPTH 100      /* protobuf's default limit */
#define ZH_IMAGE_MOST INT32_MAX /* bytes of a message on the wire, as in protobuf */
#define ZH_IMAGE_GARBAGE 65536u /* bytes outside the root that nobody minds */

/* --- layouts -------------------------------------------------------------------------------- */

/* FieldDescriptorProto.Type. */
enum zh_field_kind {
    ZH_DOUBLE = 1,
    ZH_FLOAT = 2,
    ZH_INT64 = 3,
    ZH_UINT64 = 4,
    ZH_INT32 = 5,
    ZH_FIXED64 = 6,
    ZH_FIXED32 = 7,
    ZH_BOOL = 8,
    ZH_STRING = 9,
    ZH_SUBMESSAGE = 11,
    ZH_BYTES = 12,
    ZH_UINT32 = 13,
    ZH_ENUM = 14,
    ZH_SFIXED32 = 15,
    ZH_SFIXED64 = 16,
    ZH_SINT32 = 17,
    ZH_SINT64 = 18,
};

enum zh_field_label { ZH_IMPLICIT = 0, ZH_OPTIONAL = 1, ZH_ONEOF = 2, ZH_REPEATED = 3, ZH_MAP = 4 };

enum { ZH_FIELD_PACKED = 1, ZH_FIELD_UTF8 = 2, ZH_FIELD_CLOSED = 4, ZH_FIELD_REQUIRED = 8 };
enum { ZH_LAYOUT_ENTRY = 1 };

/* Offsets within every struct. */
#define ZH_UNKNOWN_AT 0u
#define ZH_PRESENCE_AT 16u

struct zh_layout;

struct zh_field {
    uint32_t number;
    uint8_t kind;     /* enum zh_field_kind */
    uint8_t label;    /* enum zh_field_label */
    uint8_t flags;    /* ZH_FIELD_... */
    uint8_t width;    /* bytes of one element: 1, 4, 8, or 16 for a slot */
    uint32_t offset;  /* of its unit in the struct */
    uint16_t bit;     /* ZH_OPTIONAL: its presence bit */
    uint16_t case_at; /* ZH_ONEOF: offset of the oneof's word in the struct */
    uint16_t unit;    /* bytes of the unit: the width, 16 for arrays, more in a shared oneof */
    uint16_t value_count;
    uint32_t tag; /* on the wire, before one element that is not in a packed array */
    const struct zh_layout *type; /* ZH_SUBMESSAGE */
    const int32_t *values;        /* ZH_FIELD_CLOSED: rising */
    uint64_t default_bits;        /* the value's bytes; of text and bytes see below */
    const uint8_t *default_data;
    uint32_t default_bytes;
};

struct zh_layout {
    uint32_t size;
    uint16_t field_count;
    uint16_t bits;                 /* presence bits */
    uint16_t oneofs;               /* their words follow the presence words */
    uint16_t flags;                /* ZH_LAYOUT_ENTRY */
    const struct zh_field *fields; /* by number */
    /* fields[lookup[n]] has number n, for n below lookup_count; 0xffff: none. For small numbers. */
    const uint16_t *lookup;
    uint32_t lookup_count;
    bool required; /* it, or what it contains, has required fields */
    void *owner;   /* of whoever registered it: its Python class */
};

/* The layouts of one table. */
struct zh_layouts;

/*
 * Check a table and make its layouts; `externals` are those that other tables have described, in
 * the order in which the generated module names them. They must outlive the result. NULL with the
 * reason in `why` (static text).
 */
ZH_API struct zh_layouts *zh_layouts_parse(const void *table, size_t bytes,
                                           const struct zh_layout *const *externals,
                                           size_t external_count, const char **why);
ZH_API size_t zh_layouts_count(const struct zh_layouts *layouts);
ZH_API struct zh_layout *zh_layouts_get(struct zh_layouts *layouts, size_t index);
ZH_API void zh_layouts_free(struct zh_layouts *layouts);

/*
 * The canonical form whose SHA-256 is the fingerprint. Returns its bytes, which may be more than
 * `room` (then `to` has only the beginning), or 0 when out of memory.
 */
ZH_API size_t zh_layout_canonical(const struct zh_layout *layout, uint8_t *to, size_t room);

/* The field of a number, or NULL. */
ZH_API const struct zh_field *zh_layout_find(const struct zh_layout *layout, uint32_t number);

/* --- references, slots, loads --------------------------------------------------------------- */

typedef uint64_t zh_ref;

#define ZH_REF_OFFSET_BITS 36
/* Numbers of the writer's own segments are below this; with it, the memory is somebody else's. */
#define ZH_REF_FOREIGN (1u << 27)

static inline zh_ref zh_ref_make(uint32_t segment, uint64_t offset)
{
    return (zh_ref)segment << ZH_REF_OFFSET_BITS | offset;
}

static inline uint32_t zh_ref_segment(zh_ref ref)
{
    return (uint32_t)(ref >> ZH_REF_OFFSET_BITS);
}

static inline uint64_t zh_ref_offset(zh_ref ref)
{
    return ref & (((zh_ref)1 << ZH_REF_OFFSET_BITS) - 1);
}

struct zh_slot {
    zh_ref ref;
    uint32_t count;
    uint32_t room;
};

/* Loads that read memory once, whatever happens to it meanwhile, and need no alignment. */
static inline uint64_t zh_load64(const uint8_t *from)
{
    uint64_t value;
    memcpy(&value, from, sizeof(value));
    __asm__ volatile("" : "+r"(value));
    return value;
}

static inline uint32_t zh_load32(const uint8_t *from)
{
    uint32_t value;
    memcpy(&value, from, sizeof(value));
    __asm__ volatile("" : "+r"(value));
    return value;
}

static inline struct zh_slot zh_load_slot(const uint8_t *from)
{
    uint64_t counts = zh_load64(from + 8);
    return (struct zh_slot){zh_load64(from), (uint32_t)counts, (uint32_t)(counts >> 32)};
}

/* --- reading -------------------------------------------------------------------------------- */

/* What the references of one message are resolved in. */
struct zh_space {
    const uint8_t *root;
    size_t root_bytes;
    /* `bytes` bytes (at least 1) at a reference to another segment than the root, or NULL. */
    const uint8_t *(*far)(void *context, zh_ref ref, uint64_t bytes);
    void *context;
};

/* `bytes` bytes at `ref`, or NULL where they are not. */
ZH_API const uint8_t *zh_space_at(const struct zh_space *space, zh_ref ref, uint64_t bytes);

/* The struct of the root message; NULL where it is not. */
ZH_API const uint8_t *zh_space_root(const struct zh_space *space, const struct zh_layout *layout);

/* The text, bytes or array of a slot; NULL where it is not. A slot of count 0 gives a valid
 * pointer.
 */
static inline const uint8_t *zh_space_slot(const struct zh_space *space, struct zh_slot slot,
                                           uint32_t width)
{
    static const uint8_t nothing[16];
    return slot.count == 0 ? nothing : zh_space_at(space, slot.ref, (uint64_t)slot.count * width);
}

/* Is the field set (not: is it repeated and not empty), by presence or by value? */
ZH_API bool zh_field_is_set(const struct zh_field *field, const uint8_t *at);

/* --- building ------------------------------------------------------------------------------- */

struct zh_image;

/* Memory outside the root, the arena's for instance. Both may be called by whoever holds the image.
 */
struct zh_image_block {
    zh_ref ref; /* of its first byte */
    uint8_t *data;
    size_t bytes;
    size_t used;         /* of a blob: all of what its slot has */
    void *owner;         /* of whoever allocated it */
    bool chunk;          /* holds many things, structs among them */
    bool adopted;        /* a blob: it was allocated for somebody else */
    uint32_t uses;       /* a blob: slots that refer to it; 0: kept for those who still read it */
    size_t lent;         /* bytes from the first one on that others read: see zh_image_lend */
    uint32_t born, kept; /* the image's epochs when it came, and when its last use went */
};

struct zh_image_memory {
    /* A block of at least `bytes`, 8-aligned, with any content; ref, data and bytes are filled in.
     * 0, or a negative errno. */
    int (*alloc)(void *context, size_t bytes, struct zh_image_block *block);
    void (*release)(void *context, struct zh_image_block *block);
    /* May be NULL. zh_image_copy asks whether the copy may refer to what a slot of text, bytes or
     * scalars (`kind`; 0: unknown fields) in `space` does, `bytes` at `data`, in place of copying
     * it: 1 with `to` filled, else 0 or a negative errno. */
    int (*refer)(struct zh_image *image, const struct zh_space *space, uint8_t kind,
                 struct zh_slot from, const uint8_t *data, size_t bytes, struct zh_slot *to);
};

/*
 * A message that is being built, and the memory that it has outside its root. Owner: whoever made
 * it; it is not shared between threads without a lock.
 *
 * Pointers into blocks stay valid while the image lives, but for zh_image_drop and zh_image_renew;
 * those into the root until something is allocated, unless zh_image_settle has been called.
 */
struct zh_image {
    const struct zh_image_memory *memory;
    void *context;
    uint8_t *root;
    uint32_t root_used, root_room;
    bool root_owned; /* by malloc; else it lies where zh_image_init was told */
    uint32_t block_count, block_room;
    uint32_t open;     /* 1 + the block that is being filled; 0: none */
    uint32_t found;    /* the block in which a reader of our own found something last, */
    uint32_t hit;      /* and that in which a writer did */
    uint32_t expected; /* bytes that somebody is going to need: the next chunk is made for them */
    uint32_t epoch;    /* grows with every renewal */
    uint64_t held;     /* bytes of all blocks, */
    uint64_t kept;     /* of those that are kept, */
    uint64_t worth;    /* and of how many on it is worth to look for garbage */
    struct zh_image_block *blocks;
    uint32_t *order; /* where the first `ordered` blocks are, by reference */
    uint32_t ordered, order_room;
};

/*
 * An empty message. `inside`: zeroed memory of `room` bytes that lives as long as the image, for
 * the root to begin in; at least zh_image_root_least(layout).
 */
ZH_API int zh_image_init(struct zh_image *image, const struct zh_layout *layout,
                         const struct zh_image_memory *memory, void *context, uint8_t *inside,
                         size_t room);
ZH_API size_t zh_image_root_least(const struct zh_layout *layout);
ZH_API void zh_image_free(struct zh_image *image);

/* From here on the root has its full room and does not move any more. 0 or -ENOMEM. */
ZH_API int zh_image_settle(struct zh_image *image);

/*
 * `bytes` zeroed bytes (at least 1), 8-aligned, and their reference: in the root, a chunk, or (from
 * ZH_IMAGE_BLOB on) a block of their own. NULL when out of memory: nothing has changed then.
 * zh_image_alloc_raw leaves what it gives from ZH_IMAGE_BLOB on as it was: for who fills all of it.
 */
ZH_API uint8_t *zh_image_alloc_raw(struct zh_image *image, size_t bytes, zh_ref *ref);
ZH_API uint8_t *zh_image_alloc(struct zh_image *image, size_t bytes, zh_ref *ref);

/* The bytes at a reference of our own. */
ZH_API uint8_t *zh_image_at(struct zh_image *image, zh_ref ref);
ZH_API void zh_image_space(struct zh_image *image, struct zh_space *space);
/* The block of a reference in a space of zh_image_space; NULL in another. */
ZH_API const struct zh_image_block *zh_space_block(const struct zh_space *space, zh_ref ref);

/*
 * A slot is going to refer to a block that was allocated elsewhere with the same memory: the image
 * takes over the caller's reference to it, unless it has one (1). 0, 1 or -ENOMEM.
 */
ZH_API int zh_image_adopt(struct zh_image *image, const struct zh_image_block *block);

/*
 * A slot no longer refers to what lies at `ref`. With its last use a blob is given back, at once or
 * (`later`: somebody may be reading it) by the next call of zh_image_purge.
 */
ZH_API void zh_image_drop(struct zh_image *image, zh_ref ref, bool later);

/* Give back all blocks that are kept, since nobody reads them any more. */
ZH_API void zh_image_purge(struct zh_image *image);
/* Readers that came in one epoch of the image. */
struct zh_image_readers {
    uint32_t epoch, count;
};
/* Give back those kept blocks that none of these can have seen; `now`: nor those of this epoch. */
ZH_API void zh_image_purge_unread(struct zh_image *image, const struct zh_image_readers *readers,
                                  uint32_t count, bool now);

/* Others read from now on what the image has outside its root: it is not overwritten any more. */
ZH_API void zh_image_lend(struct zh_image *image);
/* May what lies at `ref` be overwritten, for nobody but us reads it? */
ZH_API bool zh_image_owns(struct zh_image *image, zh_ref ref);

/* Has so much been allocated that zh_image_renew may find garbage? */
static inline bool zh_image_is_full(const struct zh_image *image)
{
    return image->held > image->worth;
}

/* A struct of the image that somebody outside refers to. */
struct zh_image_part {
    const struct zh_layout *layout;
    zh_ref ref;  /* where it is; afterwards: where it is then */
    uint8_t *at; /* the same afterwards */
};

struct zh_image_renewal {
    bool if_worth; /* only if there is much more garbage than content */
    bool keep;     /* somebody reads the old blocks: they are not given back at once */
    /* Structs that stay, with all they have, whether the message itself has them or not. */
    struct zh_image_part *parts;
    size_t part_count;
    /* Arrays of scalars that stay where they are, unless they are lent. */
    const zh_ref *pinned;
    uint32_t pinned_count;
    /* References to arrays of maps, which follow them. */
    zh_ref **watched;
    uint32_t watched_count;
    uint64_t needed; /* afterwards: bytes of new blocks, also when there were none, */
    uint64_t copied; /* and how many were copied */
};

/*
 * Move all that the message and `parts` have out of its chunks, and what holds references out of
 * lent blocks, into new ones: all structs are ours to write to then. Old blocks in which nothing is
 * left are given back or kept. `layout`: of the root. The root's own memory stays where it is. 0;
 * 1: not worth it; or a negative errno of the memory's, with everything as before.
 */
ZH_API int zh_image_renew(struct zh_image *image, const struct zh_layout *layout,
                          struct zh_image_renewal *renewal);

/* --- protobuf's wire encoding ---------------------------------------------------------------- */

/*
 * Errors of these: -EBADMSG (malformed), -EILSEQ (text is not UTF-8), -ELOOP (too deep), -EFAULT (a
 * reference or count that cannot be), -EMSGSIZE (over ZH_IMAGE_MOST), -ENOMEM.
 */

/*
 * Merge wire bytes into the struct at `at`, as MergeFromString does. `bytes` is private memory. The
 * image is settled first. After an error the message is valid, with part of the fields merged.
 * `*copied`: bytes of text, bytes and arrays, as they lie in the image.
 */
ZH_API int zh_wire_decode(struct zh_image *image, const struct zh_layout *layout, uint8_t *at,
                          const uint8_t *bytes, size_t count, uint64_t *copied);

/* The result of zh_wire_encode: `data` lies within `memory`, which is the caller's to free. */
struct zh_wire_bytes {
    uint8_t *data;
    size_t bytes;
    void *memory;
};

/*
 * Encode the struct at `at`, whose references are resolved in `space`, which a peer may change
 * meanwhile. Fields in the order of their numbers, unknown ones last. `sorted`: maps by key.
 */
ZH_API int zh_wire_encode(const struct zh_space *space, const struct zh_layout *layout,
                          const uint8_t *at, bool sorted, struct zh_wire_bytes *out);

/* The bytes that zh_wire_encode would make, or a negative error. */
ZH_API int64_t zh_wire_size(const struct zh_space *space, const struct zh_layout *layout,
                            const uint8_t *at);

/* --- whole messages -------------------------------------------------------------------------- */

/* Copy the struct at `from` with all it refers to over the struct `to` of the image, which is
 * empty. `*copied`: bytes of text, bytes and arrays. Errors as above. */
ZH_API int zh_image_copy(struct zh_image *image, const struct zh_layout *layout, uint8_t *to,
                         const struct zh_space *space, const uint8_t *from, uint64_t *copied);

#endif
