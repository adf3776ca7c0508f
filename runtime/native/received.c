/* Received: messages as they have come, and how others refer to what they refer to. */
#include "message.h"

#include <errno.h>

#include "zerohop/fork.h"

PyTypeObject *Received_Type;

/* What the peer has sent back of what we had lent to it: memory of ours, or of another peer. */
struct come_back {
    zh_ref begin; /* by which the peer refers to it */
    uint64_t size;
    struct zh_image_block block; /* with a reference to it, or its `owner`, a Received */
};

struct Received {
    PyObject_HEAD
    struct zh_link *link; /* held, while there is a loan; else NULL */
    struct zh_received record;
    uint32_t fork_generation;
    uint32_t back_count, back_room;
    uint32_t back_last;     /* what was asked for last */
    struct come_back *back; /* by `begin` */
    uint32_t root_bytes;
    uint8_t *root; /* private */
    uint8_t small[256];
};

PyObject *received_new(Link *link, const struct zh_received *record)
{
    static allocfunc alloc;

    if (alloc == NULL)
        alloc = (allocfunc)PyType_GetSlot(Received_Type, Py_tp_alloc);
    Received *self = (Received *)alloc(Received_Type, 0);
    size_t bytes = record->header.message_bytes;
    if (self == NULL)
        return NULL;
    self->root = bytes <= sizeof(self->small) ? self->small : malloc(bytes);
    if (self->root == NULL) {
        self->root = self->small;
        Py_DECREF((PyObject *)self);
        return PyErr_NoMemory();
    }
    self->fork_generation = zh_fork_now();
    self->root_bytes = (uint32_t)bytes;
    memcpy(self->root, record->message, bytes);
    self->record = *record;
    if ((record->header.flags & ZH_LOANED) != 0) {
        zh_link_hold(link->link, record);
        link->kept = true;
        self->link = link->link;
    }
    return (PyObject *)self;
}

static void received_dealloc(Received *self)
{
    PyTypeObject *type = TYPE_OF(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    bool ours = self->fork_generation == zh_fork_now();
    for (uint32_t i = 0; i < self->back_count; i++) {
        if (ours || is_foreign(&self->back[i].block))
            arena_memory.release(NULL, &self->back[i].block);
    }
    free(self->back);
    if (self->link != NULL)
        zh_link_let_go(self->link, &self->record);
    if (self->root != self->small)
        free(self->root);
    release(self);
    Py_DECREF((PyObject *)type);
}

/* A blob that a loan of ours to the peer has in it, which another peer had lent to us. */
struct search {
    zh_ref ref;
    uint64_t bytes;
    struct zh_image_block found; /* `owner` NULL: none */
};

static void search_loan(void *context, const struct zh_ledger_entry *entry)
{
    struct search *search = context;
    const struct zh_image_block *blob;

    if (search->found.owner != NULL || entry->hold == NULL || !entry->posted)
        return;
    blob = snapshot_blob(entry->hold->object, search->ref, search->bytes);
    if (blob != NULL) {
        search->found = *blob;
        Py_INCREF((PyObject *)blob->owner);
    }
}

/* Take hold of what the peer calls (called, offset), if it is in what we have lent to it. */
static bool take_back(Received *self, uint32_t called, uint64_t offset, uint64_t bytes,
                      struct zh_image_block *block)
{
    uint32_t ours = zh_link_yours(self->link, called);
    struct zh_block found;

    if ((ours & ZH_REF_FOREIGN) != 0) {
        struct search search = {.ref = zh_ref_make(ours, offset), .bytes = bytes};
        zh_link_loans(self->link, search_loan, &search);
        *block = search.found;
        return block->owner != NULL;
    }
    if (zh_link_lent(self->link, called, offset, bytes, &found) != 0)
        return false;
    *block = (struct zh_image_block){
        .ref = zh_ref_make(found.segment, (uint64_t)found.page * ZH_PAGE),
        .data = found.data,
        .bytes = (size_t)found.pages * ZH_PAGE,
        .owner = zh_link_arena(self->link),
    };
    return true;
}

/* How many of them begin at or before a reference. */
static uint32_t back_before(const Received *self, zh_ref ref)
{
    uint32_t low = 0, high = self->back_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (self->back[middle].begin <= ref)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Enter what has been taken back: its place, or UINT32_MAX when out of memory. */
static uint32_t back_enter(Received *self, const struct come_back *back)
{
    if (self->back_count == self->back_room) {
        uint32_t room = self->back_room == 0 ? 4 : self->back_room * 2;
        struct come_back *more = realloc(self->back, room * sizeof(*more));
        if (more == NULL)
            return UINT32_MAX;
        self->back = more;
        self->back_room = room;
    }
    uint32_t place = back_before(self, back->begin);
    memmove(&self->back[place + 1], &self->back[place],
            (self->back_count - place) * sizeof(*self->back));
    self->back[place] = *back;
    self->back_count++;
    return place;
}

/* Memory that we have lent to the peer, and it refers to. */
static const uint8_t *come_back(Received *self, zh_ref ref, uint64_t bytes)
{
    uint32_t place = back_before(self, ref);

    /* What others had lent may overlap; blocks of our own do not. */
    for (uint32_t i = place; i-- > 0;) {
        const struct come_back *found = &self->back[i];
        if (ref - found->begin < found->size && bytes <= found->size - (ref - found->begin)) {
            self->back_last = i;
            return found->block.data + (ref - found->begin);
        }
        if (!is_foreign(&found->block))
            break;
    }
    if (self->fork_generation != zh_fork_now())
        return NULL;
    uint32_t called = zh_ref_segment(ref);
    struct come_back back = {0};
    if (!take_back(self, called, zh_ref_offset(ref), bytes, &back.block))
        return NULL;
    back.begin = zh_ref_make(called, zh_ref_offset(back.block.ref));
    back.size = back.block.bytes;
    self->back_last = back_enter(self, &back);
    if (self->back_last == UINT32_MAX) {
        arena_memory.release(NULL, &back.block);
        return NULL;
    }
    return back.block.data + (ref - back.begin);
}

static const uint8_t *received_far(void *context, zh_ref ref, uint64_t bytes)
{
    Received *self = context;
    uint32_t segment = zh_ref_segment(ref);

    if (self->link == NULL)
        return NULL;
    const uint8_t *at = zh_link_at(self->link, segment, zh_ref_offset(ref), bytes);
    if (at == NULL && (segment & ZH_REF_FOREIGN) != 0)
        at = come_back(self, ref, bytes);
    return at;
}

struct zh_link *received_link(const void *received)
{
    return ((const Received *)received)->link;
}

Message *received_shown_by(PyObject *value)
{
    static PyObject *obj, *base;
    Message *found = NULL;

    if (obj == NULL)
        obj = PyUnicode_InternFromString("obj");
    if (base == NULL)
        base = PyUnicode_InternFromString("base");
    Py_INCREF(value);
    for (int depth = 0; depth < 8 && value != NULL && value != Py_None; depth++) {
        if (is_message(value)) {
            found = ((Message *)value)->root; /* which the view keeps */
            break;
        }
        PyObject *next = PyObject_GetAttr(value, TYPE_OF(value) == &PyMemoryView_Type ? obj : base);
        if (next == NULL)
            PyErr_Clear();
        Py_DECREF(value);
        value = next;
    }
    Py_XDECREF(value);
    return found;
}

/* One more reference to a block that an image has, for another image. Not to what is for peers of
 * another uid: an image has memory of one arena. */
static bool hold_block(const struct zh_image_block *block)
{
    if (is_foreign(block)) {
        Py_INCREF((PyObject *)block->owner);
        return true;
    }
    return block->owner == own_arena() &&
           zh_arena_ref(block->owner, zh_ref_segment(block->ref),
                        (uint32_t)(zh_ref_offset(block->ref) / ZH_PAGE)) == 0;
}

/* Have the image refer to (a part of) a block that is held for it. 1 or -ENOMEM. */
static int adopt_held(struct zh_image *image, const struct zh_image_block *block, zh_ref ref,
                      size_t bytes, struct zh_slot *slot)
{
    int has = zh_image_adopt(image, block);

    if (has != 0) {
        struct zh_image_block extra = *block;
        arena_memory.release(NULL, &extra);
    }
    *slot = (struct zh_slot){.ref = ref, .count = (uint32_t)bytes};
    return has < 0 ? has : 1;
}

static bool is_in(const struct zh_image_block *block, const uint8_t *data, size_t bytes)
{
    return data >= block->data && bytes <= block->bytes &&
           data <= block->data + (block->bytes - bytes);
}

/* The same for what has come back: it is a block as any other. */
static int refer_to_back(struct zh_image *image, Received *received, const uint8_t *data,
                         size_t bytes, struct zh_slot *slot)
{
    uint32_t i = received->back_last;

    if (i >= received->back_count || !is_in(&received->back[i].block, data, bytes)) {
        for (i = 0; i < received->back_count; i++) {
            if (is_in(&received->back[i].block, data, bytes))
                break;
        }
    }
    if (i >= received->back_count || !hold_block(&received->back[i].block))
        return 0;
    struct zh_image_block block = received->back[i].block;
    block.used = bytes;
    return adopt_held(image, &block, block.ref + (zh_ref)(data - block.data), bytes, slot);
}

/* Make the image refer to memory that came with a message, and hold that: 1, 0 if it cannot be, or
 * -ENOMEM. */
static int refer_to(struct zh_image *image, Received *received, const uint8_t *data, size_t bytes,
                    struct zh_slot *slot)
{
    uint32_t segment;
    uint64_t offset;

    if (received == NULL || received->link == NULL)
        return 0;
    if (zh_link_place(received->link, data, bytes, &segment, &offset) != 0)
        return refer_to_back(image, received, data, bytes, slot);
    struct zh_image_block block = {
        .ref = zh_ref_make(segment, offset),
        .data = (uint8_t *)(uintptr_t)data,
        .bytes = bytes,
        .used = bytes,
        .owner = received,
    };
    (void)hold_block(&block);
    return adopt_held(image, &block, block.ref, bytes, slot);
}

int received_adopt(Message *owner, Message *from, const uint8_t *data, size_t bytes,
                   struct zh_slot *slot)
{
    int has = refer_to(&owner->root->image, from->received, data, bytes, slot);

    return has < 0 ? image_error(has) : has;
}

/* Each has an entry in lists of the process and of the loan, which are to be short. */
#define REFER_MOST 4096u
/* Less than this is sooner copied than referred to. */
#define REFER_LEAST 512u

/* A blob of a message of our own, which stays as it is: it came from alloc or a peer, and slots of
 * such blobs have no room for another value. */
static int refer_to_blob(struct zh_image *image, const struct zh_space *space, struct zh_slot from,
                         struct zh_slot *to)
{
    const struct zh_image_block *found = zh_space_block(space, from.ref);

    if (found == NULL || found->chunk || from.room != 0)
        return 0;
    struct zh_image_block block = *found;
    return hold_block(&block) ? adopt_held(image, &block, from.ref, from.count, to) : 0;
}

static int refer(struct zh_image *image, const struct zh_space *space, struct zh_slot from,
                 const uint8_t *data, size_t bytes, struct zh_slot *to)
{
    if (image->block_count >= REFER_MOST)
        return 0;
    if (space->far != received_far)
        return refer_to_blob(image, space, from, to);
    int refers = refer_to(image, space->context, data, bytes, to);
    to->count = from.count;
    return refers;
}

int message_refer(struct zh_image *image, const struct zh_space *space, uint8_t kind,
                  struct zh_slot from, const uint8_t *data, size_t bytes, struct zh_slot *to)
{
    return kind == ZH_BYTES && bytes >= ZH_IMAGE_BLOB ? refer(image, space, from, data, bytes, to)
                                                      : 0;
}

int forwarding_refer(struct zh_image *image, const struct zh_space *space, uint8_t kind,
                     struct zh_slot from, const uint8_t *data, size_t bytes, struct zh_slot *to)
{
    (void)kind;
    return bytes >= REFER_LEAST ? refer(image, space, from, data, bytes, to) : 0;
}

void received_space(Received *received, struct zh_space *space)
{
    space->far = received_far;
    space->context = received;
}

Message *received_message(Received *received, Class *cls)
{
    Message *self = (Message *)cls->alloc(cls->type, 0);

    if (self == NULL)
        return NULL;
    self->cls = cls;
    self->root = self;
    self->readonly = true;
    self->received = (Received *)Py_NewRef((PyObject *)received);
    /* The root stays in the object that has come; nothing is ever built here. */
    self->image = (struct zh_image){
        .memory = &arena_memory,
        .root = received->root,
        .root_used = received->root_bytes,
        .root_room = ZH_IMAGE_ROOT,
    };
    self->base = &self->image.root;
    struct zh_space space;
    message_space(self, &space);
    const uint8_t *at = zh_space_root(&space, cls->layout);
    if (at == NULL) {
        image_error(-EFAULT);
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    if (cls->layout->size > ZH_IMAGE_NEAR) {
        self->fixed = (uint8_t *)(uintptr_t)at;
        self->base = &self->fixed;
    }
    return self;
}

bool received_inherited(const void *received)
{
    return ((const Received *)received)->fork_generation != zh_fork_now();
}

uint64_t received_bytes(PyObject *object)
{
    const Received *self = (const Received *)object;

    return (uint64_t)self->root_bytes + self->record.header.outside;
}

static PyType_Slot received_slots[] = {
    {Py_tp_dealloc, (void *)received_dealloc},
    {Py_tp_doc, (void *)PyDoc_STR("An image as it has come; FromString makes a message of it.")},
    {0, NULL},
};

static PyType_Spec received_spec = {
    .name = "zerohop._native.Received",
    .basicsize = sizeof(Received),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = received_slots,
};

int received_init(PyObject *module)
{
    Received_Type = (PyTypeObject *)PyType_FromSpec(&received_spec);
    return Received_Type == NULL
               ? -1
               : PyModule_AddObjectRef(module, "Received", (PyObject *)Received_Type);
}
