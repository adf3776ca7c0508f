/*
 * Renewal: what a message still has is copied out of its chunks, and out of blocks that peers may
 * be reading; what it no longer has goes. Two passes over the same things in the same order: the
 * first one counts, then there is memory, and the second one cannot fail.
 */
#include <errno.h>
#include <stdlib.h>

#include "wire_internal.h"

#define CHUNK_MOST 65536u

#define ROUND_8(n) (((n) + 7) & ~(size_t)7)

/* A block as it is found by reference. */
struct range {
    zh_ref ref;
    uint64_t bytes;
    uint32_t block;
};

/* A struct that is referred to from outside. */
struct known {
    zh_ref from, to;
    uint8_t *at;
    bool seen;
};

struct job {
    const struct zh_layout *layout;
    uint8_t *at;
};

struct mover {
    struct zh_image *image;
    struct zh_image_renewal *asked;
    struct range *ranges;
    const struct range *last; /* where something was found last */
    uint32_t *uses;           /* of the blocks, from now on */
    uint64_t in_root[2];      /* what has been seen there, by multiples of 8 */
    struct known *known;      /* by reference; open addressing */
    uint32_t known_mask;
    struct job *jobs; /* structs whose fields are still to be gone through */
    size_t job_count, job_room;
    bool moving;     /* the second pass */
    uint32_t chunks; /* small things: chunks that have been begun, */
    size_t fill;     /* and what is in the last one */
    size_t *large;   /* the others: bytes of each */
    uint32_t large_count, large_room, chunk_count;
    struct zh_image_block *fresh; /* the chunks, then the large ones */
    uint64_t live, needed;        /* bytes; of those, bytes that move */
    int error;
};

static int by_ref(const void *a, const void *b)
{
    const struct range *left = a, *right = b;

    return left->ref < right->ref ? -1 : left->ref > right->ref;
}

/* The block around a reference to one of the blocks there were before. */
static const struct range *find_range(struct mover *m, zh_ref ref, uint64_t bytes)
{
    const struct range *last = m->last;
    uint32_t low = 0, high = m->image->block_count;

    if (last != NULL && ref >= last->ref && ref - last->ref < last->bytes &&
        bytes <= last->bytes - (ref - last->ref))
        return last;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (m->ranges[middle].ref <= ref)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return NULL;
    const struct range *range = &m->ranges[low - 1];
    if (ref - range->ref >= range->bytes || bytes > range->bytes - (ref - range->ref))
        return NULL;
    return m->last = range;
}

static uint8_t *at_range(const struct mover *m, const struct range *range, zh_ref ref)
{
    return m->image->blocks[range->block].data + (ref - range->ref);
}

/* Is it for us alone to read what lies there? */
static bool is_ours(const struct zh_image_block *block, zh_ref ref)
{
    return ref - block->ref >= block->lent;
}

static bool seen_in_root(struct mover *m, zh_ref ref)
{
    uint64_t bit = UINT64_C(1) << ref / 8 % 64, *word = &m->in_root[ref / 8 / 64 % 2];
    bool seen = (*word & bit) != 0;

    *word |= bit;
    return seen;
}

static struct known *find_known(struct mover *m, zh_ref ref)
{
    if (m->known == NULL)
        return NULL;
    for (uint32_t i = (uint32_t)((ref * UINT64_C(0x9e3779b97f4a7c15)) >> 32);; i++) {
        struct known *known = &m->known[i & m->known_mask];
        if (known->from == ref || known->from == 0)
            return known;
    }
}

/* The place for a thing. In the first pass there is none yet. */
static uint8_t *place(struct mover *m, size_t bytes, zh_ref *ref)
{
    if (bytes >= ZH_IMAGE_BLOB) {
        uint32_t i = m->large_count++;
        if (m->moving) {
            struct zh_image_block *block = &m->fresh[m->chunk_count + i];
            block->used = bytes;
            block->uses = 1;
            memset(block->data, 0, bytes);
            *ref = block->ref;
            return block->data;
        }
        if (i == m->large_room) {
            uint32_t room = m->large_room == 0 ? 8 : m->large_room * 2;
            size_t *large = realloc(m->large, room * sizeof(*large));
            if (large == NULL) {
                m->large_count--;
                m->error = -ENOMEM;
                return NULL;
            }
            m->large = large;
            m->large_room = room;
        }
        m->large[i] = bytes;
        m->live += bytes;
        m->needed += bytes;
        return NULL;
    }
    size_t need = ROUND_8(bytes), offset;
    if (m->chunks == 0 || need > CHUNK_MOST - m->fill) {
        m->chunks++;
        m->fill = 0;
    }
    offset = m->fill;
    m->fill += need;
    if (!m->moving) {
        m->live += need;
        m->needed += need;
        return NULL;
    }
    struct zh_image_block *block = &m->fresh[m->chunks - 1];
    block->used = m->fill;
    *ref = block->ref + offset;
    return block->data + offset;
}

static void push(struct mover *m, const struct zh_layout *layout, uint8_t *at)
{
    if (m->job_count == m->job_room) {
        size_t room = m->job_room == 0 ? 64 : m->job_room * 2;
        struct job *jobs = realloc(m->jobs, room * sizeof(*jobs));
        if (jobs == NULL) {
            m->error = -ENOMEM; /* in the first pass: the second one needs no more */
            return;
        }
        m->jobs = jobs;
        m->job_room = room;
    }
    m->jobs[m->job_count++] = (struct job){layout, at};
}

/* A block of which something stays where it is. Was it seen before? */
static bool stay(struct mover *m, uint32_t block)
{
    if (m->uses[block]++ > 0)
        return true;
    m->live += m->moving ? 0 : m->image->blocks[block].bytes;
    return false;
}

/* A struct; returns its reference from now on. */
static zh_ref move_struct(struct mover *m, const struct zh_layout *layout, zh_ref ref)
{
    struct known *known = find_known(m, ref);
    zh_ref to = ref;
    uint8_t *at;

    if (known != NULL && known->from == 0)
        known = NULL;
    if (known != NULL && known->seen)
        return known->to;
    if (zh_ref_segment(ref) == 0) {
        if (ref >= m->image->root_used || seen_in_root(m, ref))
            return ref;
        at = m->image->root + ref;
    } else {
        const struct range *range = find_range(m, ref, layout->size);
        if (range == NULL)
            return ref;
        at = at_range(m, range, ref);
        const struct zh_image_block *block = &m->image->blocks[range->block];
        if (block->chunk || !is_ours(block, ref)) {
            uint8_t *copy = place(m, layout->size, &to);
            if (copy != NULL)
                at = memcpy(copy, at, layout->size);
        } else if (stay(m, range->block)) {
            return ref;
        }
    }
    if (known != NULL) {
        known->seen = true;
        known->to = to;
        known->at = at;
    }
    push(m, layout, at);
    return to;
}

/* The reference to a struct. */
static void move_message(struct mover *m, const struct zh_layout *layout, uint8_t *ref_at)
{
    zh_ref ref = zh_load64(ref_at), to = ref == 0 ? 0 : move_struct(m, layout, ref);

    if (to != ref)
        zh_store64(ref_at, to);
}

/* Text or bytes, or unknown fields. */
static void move_text(struct mover *m, uint8_t *slot_at)
{
    struct zh_slot slot = zh_load_slot(slot_at);
    zh_ref to;

    if (slot.count == 0) {
        if (m->moving)
            zh_store_slot(slot_at, 0, 0, 0); /* no room where it was */
        return;
    }
    const struct range *range =
        zh_ref_segment(slot.ref) == 0 ? NULL : find_range(m, slot.ref, slot.count);
    if (range == NULL)
        return;
    if (!m->image->blocks[range->block].chunk) {
        (void)stay(m, range->block);
        return;
    }
    uint8_t *data = place(m, slot.count, &to);
    if (data != NULL) {
        memcpy(data, at_range(m, range, slot.ref), slot.count);
        zh_store_slot(slot_at, to, slot.count, (uint32_t)ROUND_8(slot.count));
    }
}

static bool is_pinned(const struct mover *m, zh_ref ref)
{
    for (uint32_t i = 0; i < m->asked->pinned_count; i++) {
        if (m->asked->pinned[i] == ref)
            return true;
    }
    return false;
}

/* An array of the field, which keeps its room. */
static void move_array(struct mover *m, const struct zh_field *field, uint8_t *slot_at)
{
    struct zh_slot slot = zh_load_slot(slot_at);
    size_t used = (size_t)slot.count * field->width, room = slot.room > used ? slot.room : used;
    bool elements = field->width == 16 || field->type != NULL;
    uint8_t *at;

    if (room == 0)
        return;
    if (zh_ref_segment(slot.ref) == 0) {
        if (slot.ref >= m->image->root_used || (elements && seen_in_root(m, slot.ref)))
            return;
        at = m->image->root + slot.ref;
    } else {
        const struct range *range = find_range(m, slot.ref, room);
        if (range == NULL)
            return;
        at = at_range(m, range, slot.ref);
        const struct zh_image_block *block = &m->image->blocks[range->block];
        bool ours = is_ours(block, slot.ref);
        bool moves =
            block->chunk ? elements || !ours || !is_pinned(m, slot.ref) : elements && !ours;
        if (moves) {
            zh_ref to;
            uint8_t *copy = place(m, room, &to);
            if (copy != NULL) {
                at = memcpy(copy, at, used);
                zh_store_slot(slot_at, to, slot.count, (uint32_t)room);
                for (uint32_t i = 0; field->label == ZH_MAP && i < m->asked->watched_count; i++) {
                    if (*m->asked->watched[i] == slot.ref)
                        *m->asked->watched[i] = to;
                }
            }
        } else if (stay(m, range->block) && elements) {
            return;
        }
    }
    for (uint32_t i = 0; elements && i < slot.count; i++, at += field->width) {
        if (field->type == NULL)
            move_text(m, at);
        else
            move_message(m, field->type, at);
    }
}

static void move_fields(struct mover *m, const struct zh_layout *layout, uint8_t *at)
{
    move_text(m, at + ZH_UNKNOWN_AT);
    for (uint32_t i = 0; i < layout->field_count; i++) {
        const struct zh_field *field = &layout->fields[i];
        uint8_t *slot = at + field->offset;
        if (field->label >= ZH_REPEATED) {
            move_array(m, field, slot);
            continue;
        }
        if ((field->width != 16 && field->type == NULL) ||
            (field->label == ZH_ONEOF && zh_load32(at + field->case_at) != field->number))
            continue;
        if (field->type == NULL) {
            move_text(m, slot);
            continue;
        }
        move_message(m, field->type, slot);
    }
}

static void go_on(struct mover *m)
{
    while (m->job_count > 0 && m->error == 0) {
        struct job job = m->jobs[--m->job_count];
        move_fields(m, job.layout, job.at);
    }
}

/* One pass over all there is. */
static void pass(struct mover *m, const struct zh_layout *layout)
{
    uint8_t *root = m->image->root;

    m->chunks = m->large_count = 0;
    m->fill = 0;
    memset(m->in_root, 0, sizeof(m->in_root));
    memset(m->uses, 0, m->image->block_count * sizeof(*m->uses));
    for (uint32_t i = 0; m->known != NULL && i <= m->known_mask; i++)
        m->known[i].seen = false;
    (void)seen_in_root(m, 0);
    if (layout->size > ZH_IMAGE_NEAR)
        move_message(m, layout, root);
    else
        push(m, layout, root);
    go_on(m);
    for (size_t i = 0; i < m->asked->part_count && m->error == 0; i++) {
        (void)move_struct(m, m->asked->parts[i].layout, m->asked->parts[i].ref);
        go_on(m);
    }
}

/* What both passes need. */
static int prepare(struct mover *m)
{
    uint32_t count = m->image->block_count;
    size_t room = 16;

    m->ranges = malloc((count + 1u) * sizeof(*m->ranges));
    m->uses = malloc((count + 1u) * sizeof(*m->uses));
    if (m->ranges == NULL || m->uses == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < count; i++) {
        const struct zh_image_block *block = &m->image->blocks[i];
        m->ranges[i] = (struct range){block->ref, block->bytes, i};
    }
    qsort(m->ranges, count, sizeof(*m->ranges), by_ref);
    if (m->asked->part_count == 0)
        return 0;
    while (room < 2 * m->asked->part_count)
        room *= 2;
    if (room > UINT32_MAX / 2)
        return -ENOMEM;
    m->known = calloc(room, sizeof(*m->known));
    m->known_mask = (uint32_t)(room - 1);
    if (m->known == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < m->asked->part_count; i++)
        find_known(m, m->asked->parts[i].ref)->from = m->asked->parts[i].ref;
    return 0;
}

static void release_fresh(struct mover *m)
{
    for (uint32_t i = 0; i < m->chunk_count + m->large_count; i++) {
        if (m->fresh[i].data != NULL)
            m->image->memory->release(m->image->context, &m->fresh[i]);
    }
}

static int get_memory(struct mover *m)
{
    uint32_t count = m->chunk_count + m->large_count;

    m->fresh = calloc(count + 1u, sizeof(*m->fresh));
    if (m->fresh == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < count; i++) {
        struct zh_image_block block = {0};
        /* The last chunk has some room for what comes next. */
        size_t bytes = i >= m->chunk_count      ? m->large[i - m->chunk_count]
                       : i + 1 < m->chunk_count ? CHUNK_MOST
                                                : m->fill + ZH_IMAGE_BLOB / 2;
        int error = m->image->memory->alloc(
            m->image->context, bytes > CHUNK_MOST && i < m->chunk_count ? CHUNK_MOST : bytes,
            &block);
        if (error != 0) {
            release_fresh(m);
            return error;
        }
        block.used = 0;
        block.chunk = i < m->chunk_count;
        block.born = m->image->epoch + 1;
        if (block.chunk)
            memset(block.data, 0, block.bytes);
        m->fresh[i] = block;
    }
    return 0;
}

/* The image has its new blocks, and of the old ones what is still of use. */
static void replace_blocks(struct mover *m, struct zh_image_block *blocks, uint32_t room)
{
    struct zh_image *image = m->image;
    struct zh_image_block *old = image->blocks;
    uint32_t count = 0, old_count = image->block_count, gone = 0;

    image->held = image->kept = 0;
    for (uint32_t i = 0; i < old_count; i++) {
        struct zh_image_block block = old[i];
        bool was_kept = !block.chunk && block.uses == 0;
        block.uses = m->uses[i];
        if (block.uses == 0 && !m->asked->keep) {
            old[gone++] = block;
            continue;
        }
        block.chunk = false;
        if (block.uses == 0 && !was_kept)
            block.kept = image->epoch;
        image->kept += block.uses == 0 ? block.bytes : 0;
        image->held += block.bytes;
        blocks[count++] = block;
    }
    /* The chunk that is being filled is the last one. */
    image->open = m->chunk_count > 0 ? count + m->chunk_count : 0;
    for (uint32_t i = 0; i < m->chunk_count + m->large_count; i++) {
        image->held += m->fresh[i].bytes;
        blocks[count++] = m->fresh[i];
    }
    image->blocks = blocks;
    image->ordered = 0;
    image->block_count = count;
    image->block_room = room;
    image->found = image->hit = 0;
    image->epoch++;
    for (uint32_t i = 0; i < gone; i++)
        image->memory->release(image->context, &old[i]);
    free(old);
}

/* When to look for garbage again: after so much that the walk does not matter. */
static void look_again(struct mover *m)
{
    uint64_t more = 4 * m->live;

    m->image->worth = m->image->held + (more > ZH_IMAGE_GARBAGE ? more : ZH_IMAGE_GARBAGE);
}

static int renew(struct mover *m, const struct zh_layout *layout)
{
    struct zh_image *image = m->image;

    int error = prepare(m);
    if (error == 0) {
        pass(m, layout);
        error = m->error;
    }
    if (error != 0)
        return error;
    m->asked->needed = m->needed;
    look_again(m);
    if (m->asked->if_worth && image->held <= ZH_IMAGE_GARBAGE + 2 * m->live)
        return 1;
    m->chunk_count = m->chunks;
    uint32_t room = image->block_count + m->chunk_count + m->large_count + 4;
    struct zh_image_block *blocks = malloc(room * sizeof(*blocks));
    if (blocks == NULL)
        return -ENOMEM;
    error = get_memory(m);
    if (error != 0) {
        free(blocks);
        return error;
    }
    m->moving = true;
    m->job_count = 0;
    pass(m, layout);
    for (size_t i = 0; i < m->asked->part_count; i++) {
        const struct known *known = find_known(m, m->asked->parts[i].ref);
        if (known->seen) {
            m->asked->parts[i].ref = known->to;
            m->asked->parts[i].at = known->at;
        }
    }
    m->asked->copied = m->needed;
    replace_blocks(m, blocks, room);
    look_again(m);
    return 0;
}

int zh_image_renew(struct zh_image *image, const struct zh_layout *layout,
                   struct zh_image_renewal *renewal)
{
    struct mover m = {.image = image, .asked = renewal};

    renewal->copied = 0;
    int result = renew(&m, layout);
    free(m.fresh);
    free(m.large);
    free(m.jobs);
    free(m.known);
    free(m.uses);
    free(m.ranges);
    return result;
}
