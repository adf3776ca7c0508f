/* What a message no longer has, or has not for itself: its memory is renewed. And its readers. */
#include "message.h"

#include <errno.h>

/* --- readers ------------------------------------------------------------------------------------
 */

/* Readers that came since the last renewal. */
static uint32_t readers_now(const Message *root)
{
    uint32_t count = root->exports;

    for (uint32_t i = 0; i < root->older; i++)
        count -= root->readers[i].count;
    return count;
}

/* What is kept goes, as far as it was kept for those who have gone. */
static void purge(Message *root)
{
    /* Whoever builds holds pointers to the blocks that are there. */
    if (root->image.kept > 0 && !root->busy)
        zh_image_purge_unread(&root->image, root->readers, root->older, readers_now(root) == 0);
}

uint32_t message_export_begin(Message *self)
{
    Message *root = self->root;

    root->exports++;
    return root->image.epoch;
}

void message_export_end(Message *self, uint32_t epoch)
{
    Message *root = self->root;

    root->exports--;
    for (uint32_t i = 0; i < root->older; i++) {
        if (root->readers[i].epoch != epoch)
            continue;
        if (--root->readers[i].count == 0)
            root->readers[i] = root->readers[--root->older];
        break;
    }
    if (root->image.kept > 0)
        purge(root);
}

/* --- renewal ------------------------------------------------------------------------------------
 */

/* Without letting other threads run, for they might change the message. */
static int near_alloc(void *context, size_t bytes, struct zh_image_block *block)
{
    (void)context;
    return arena_block(bytes, false, block);
}

static int growing_alloc(void *context, size_t bytes, struct zh_image_block *block)
{
    (void)context;
    return arena_block(bytes, true, block);
}

/* What Python knows of a message, in memory of our own. */
struct known {
    struct zh_image_part *parts;
    zh_ref *pinned;
    zh_ref **watched;
};

static void known_free(struct known *known)
{
    free(known->parts);
    free(known->pinned);
    free(known->watched);
}

static int known_of(Message *root, struct known *known, struct zh_image_renewal *renewal)
{
    size_t parts = 0, containers = 0;

    for (Message *part = root->parts; part != NULL; part = part->next)
        parts++;
    for (Container *one = root->containers; one != NULL; one = one->next)
        containers++;
    *known = (struct known){
        .parts = malloc((parts + 1) * sizeof(*known->parts)),
        .pinned = malloc((containers + 1) * sizeof(*known->pinned)),
        .watched = malloc((containers + 1) * sizeof(*known->watched)),
    };
    if (known->parts == NULL || known->pinned == NULL || known->watched == NULL)
        return -ENOMEM;
    renewal->parts = known->parts;
    renewal->pinned = known->pinned;
    renewal->watched = known->watched;
    for (Message *part = root->parts; part != NULL; part = part->next)
        known->parts[renewal->part_count++] =
            (struct zh_image_part){.layout = part->cls->layout, .ref = part->place};
    for (Container *one = root->containers; one != NULL; one = one->next) {
        if (one->field->layout->label == ZH_MAP) {
            struct map_index *index = mapping_index(one);
            if (index->keys != NULL)
                known->watched[renewal->watched_count++] = &index->array;
        } else if (repeated_is_exported(one)) {
            const uint8_t *slot = message_struct(one->message) + one->field->layout->offset;
            known->pinned[renewal->pinned_count++] = zh_load_slot(slot).ref;
        }
    }
    if (root->map_index.keys != NULL)
        known->watched[renewal->watched_count++] = &root->map_index.array;
    return 0;
}

/* Everything is where the image has it now. */
static void follow(Message *root, const struct zh_image_part *parts)
{
    if (root->base == &root->fixed) {
        root->place = zh_load64(root->image.root);
        root->fixed = zh_image_at(&root->image, root->place);
    }
    for (Message *part = root->parts; part != NULL; part = part->next, parts++) {
        part->place = parts->ref;
        if (part->base == &part->fixed && parts->at != NULL)
            part->fixed = parts->at;
    }
}

static int try_renewal(Message *root, struct zh_image_renewal *renewal,
                       int (*alloc)(void *, size_t, struct zh_image_block *))
{
    const struct zh_image_memory *usual = root->image.memory;
    struct zh_image_memory memory = {alloc, usual->release, NULL};
    uint32_t epoch = root->image.epoch, now = readers_now(root);
    struct known known;

    /* Those who read now are to be told from those who come later. */
    struct zh_image_readers *readers =
        realloc(root->readers, (root->older + 2) * sizeof(*root->readers));
    if (readers == NULL)
        return -ENOMEM;
    root->readers = readers;
    int result = known_of(root, &known, renewal);
    if (result == 0) {
        root->image.memory = &memory;
        renewal->keep = root->exports > 0;
        result = zh_image_renew(&root->image, root->cls->layout, renewal);
        root->image.memory = usual;
    }
    if (result == 0) {
        follow(root, known.parts);
        root->lent = false;
        if (now > 0)
            root->readers[root->older++] = (struct zh_image_readers){epoch, now};
        zh_stat_add(ZH_STAT_BYTES_COPIED, renewal->copied);
        purge(root);
    }
    known_free(&known);
    return result;
}

/* 0, 1 or a negative errno: see zh_image_renew. */
static int renew(Message *root, bool if_worth)
{
    struct zh_image_renewal renewal = {.if_worth = if_worth};
    struct zh_image_block block;

    int result = try_renewal(root, &renewal, near_alloc);
    if (result != -EAGAIN)
        return result;
    /* Have memory committed, while others run, and then begin anew. */
    if (arena_memory.alloc(NULL, renewal.needed, &block) == 0)
        arena_memory.release(NULL, &block);
    if (root->busy)
        return -EBUSY;
    renewal = (struct zh_image_renewal){.if_worth = if_worth};
    return try_renewal(root, &renewal, growing_alloc);
}

int message_thaw(Message *root)
{
    int error = renew(root, false);

    if (error == -EBUSY) {
        PyErr_Format(PyExc_RuntimeError, "%U is being changed by another thread", root->cls->name);
        return -1;
    }
    return error == 0 ? 0 : image_error(error);
}

void message_tidy(Message *root)
{
    /* Also without the memory for it, it is not tried at once again. */
    uint64_t worth = root->image.held + ZH_IMAGE_GARBAGE;

    if (renew(root, true) < 0 && root->image.worth < worth)
        root->image.worth = worth;
}
