/* Messages: their life, the memory of their images, and their parts. */
#include "message.h"

#include <errno.h>
#include <unistd.h>

#include "zerohop/fork.h"

/* --- memory outside the root: the arena for peers of our own uid -------------------------------
 */

static struct zh_arena *cached;
static uint32_t cached_generation = UINT32_MAX;

void own_arena_refresh(void)
{
    cached = zh_arena_of_uid(geteuid());
    cached_generation = zh_fork_now();
}

struct zh_arena *own_arena(void)
{
    if (cached_generation != zh_fork_now())
        own_arena_refresh();
    return cached;
}

/* What was found, as an image has it. */
static int take_block(struct zh_arena *arena, const struct zh_block *found,
                      struct zh_image_block *block)
{
    if (found->segment >= ZH_REF_FOREIGN) {
        (void)zh_arena_unref(arena, found->segment, found->page);
        return -ENOMEM;
    }
    *block = (struct zh_image_block){
        .ref = zh_ref_make(found->segment, (uint64_t)found->page * ZH_PAGE),
        .data = found->data,
        .bytes = (size_t)found->pages * ZH_PAGE,
        .owner = arena,
    };
    return 0;
}

int arena_block(size_t bytes, bool grow, struct zh_image_block *block)
{
    struct zh_arena *arena = own_arena();
    struct zh_block found;

    int error = arena == NULL ? -ENOMEM : zh_arena_alloc(arena, bytes, grow, &found);
    return error != 0 ? error : take_block(arena, &found, block);
}

static int arena_alloc(void *context, size_t bytes, struct zh_image_block *block)
{
    struct zh_arena *arena = own_arena();
    struct zh_block found;
    int error;

    (void)context;
    if (arena == NULL)
        return -ENOMEM;
    error = zh_arena_alloc(arena, bytes, false, &found);
    if (error == -EAGAIN) {
        Py_BEGIN_ALLOW_THREADS
            error = zh_arena_alloc(arena, bytes, true, &found);
        Py_END_ALLOW_THREADS
    }
    return error != 0 ? error : take_block(arena, &found, block);
}

static void arena_release(void *context, struct zh_image_block *block)
{
    (void)context;
    if (is_foreign(block)) {
        Py_DECREF((PyObject *)block->owner); /* a peer's blob: see received_adopt */
        return;
    }
    if (!zh_arena_inherited(block->owner))
        (void)zh_arena_unref(block->owner, zh_ref_segment(block->ref),
                             (uint32_t)(zh_ref_offset(block->ref) / ZH_PAGE));
}

const struct zh_image_memory arena_memory = {arena_alloc, arena_release, message_refer};
const struct zh_image_memory forwarding_memory = {arena_alloc, arena_release, forwarding_refer};

int image_error(int error)
{
    switch (error) {
    case -ENOMEM:
        PyErr_SetString(ArenaFull, "the arena has no room for this message (ZEROHOP_ARENA_LIMIT)");
        break;
    case -EILSEQ:
        PyErr_SetString(DecodeError, "a string field contains invalid UTF-8");
        break;
    case -ELOOP:
        PyErr_SetString(DecodeError, "messages are nested too deeply");
        break;
    case -EFAULT:
        PyErr_SetString(DecodeError, "a reference outside the message's memory");
        break;
    case -EMSGSIZE:
        PyErr_SetString(PyExc_ValueError, "the message is larger than 2 GiB");
        break;
    default:
        PyErr_SetString(DecodeError, "Error parsing message");
    }
    return -1;
}

/*
 * The same, for what was made of `source`. One that a peer lends may say that it is of any size;
 * only one that was built here is really too large.
 */
static int source_error(const Message *source, int error)
{
    if (error != -EMSGSIZE || source->root->received == NULL)
        return image_error(error);
    PyErr_SetString(DecodeError, "a received message of more than 2 GiB");
    return -1;
}

/* --- life ---------------------------------------------------------------------------------------
 */

static int begin_image(Message *self, const struct zh_image_memory *memory)
{
    Class *cls = self->cls;
    int error = zh_image_init(&self->image, cls->layout, memory, NULL, self->inside, cls->inside);

    if (error != 0)
        return image_error(error);
    self->base = &self->image.root;
    if (cls->layout->size > ZH_IMAGE_NEAR) {
        self->fixed = self->image.blocks[0].data;
        self->base = &self->fixed;
        self->place = self->image.blocks[0].ref;
    }
    return 0;
}

Message *message_new(Class *cls)
{
    Message *self = (Message *)cls->alloc(cls->type, 0);

    if (self == NULL)
        return NULL;
    self->cls = cls;
    self->root = self;
    if (begin_image(self, &arena_memory) != 0) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return self;
}

/* A part is in the list of those that are there, or in that of those that are not. */
static void enter(Message *part)
{
    Message **first = part->absent ? &part->root->absents : &part->root->parts;

    part->prev = NULL;
    part->next = *first;
    if (*first != NULL)
        (*first)->prev = part;
    *first = part;
}

static void leave(Message *part)
{
    Message *root = part->root;

    if (part->prev != NULL)
        part->prev->next = part->next;
    else if (root->parts == part)
        root->parts = part->next;
    else if (root->absents == part)
        root->absents = part->next;
    if (part->next != NULL)
        part->next->prev = part->prev;
    part->next = part->prev = NULL;
}

void container_enter(Container *container, Message *message, const Field *field)
{
    Message *root = message->root;

    container->message = (Message *)Py_NewRef((PyObject *)message);
    container->field = field;
    container->prev = NULL;
    container->next = root->containers;
    if (root->containers != NULL)
        root->containers->prev = container;
    root->containers = container;
}

void container_leave(Container *container)
{
    if (container->prev != NULL)
        container->prev->next = container->next;
    else
        container->message->root->containers = container->next;
    if (container->next != NULL)
        container->next->prev = container->prev;
    Py_DECREF((PyObject *)container->message);
}

void message_dealloc(Message *self)
{
    PyTypeObject *type = TYPE_OF(self);
    freefunc release = self->cls->release;

    if (self->root == self) {
        zh_image_free(&self->image);
        free(self->readers);
        Py_XDECREF((PyObject *)self->received);
        Py_XDECREF(self->map_index.keys);
    } else {
        leave(self);
        Py_DECREF((PyObject *)self->root);
    }
    Py_XDECREF((PyObject *)self->parent);
    release(self);
    Py_DECREF((PyObject *)type);
}

/* --- parts --------------------------------------------------------------------------------------
 */

/* Make `part` be the struct at `ref`, which is in its root's image. */
static int attach(Message *part, zh_ref ref)
{
    Message *root = part->root;
    const uint8_t *at = message_at(root, ref, part->cls->layout->size);

    if (at == NULL)
        return -1;
    if (zh_ref_segment(ref) == 0) {
        part->base = &root->image.root;
        part->offset = (size_t)ref;
    } else {
        part->fixed = (uint8_t *)(uintptr_t)at;
        part->base = &part->fixed;
        part->offset = 0;
    }
    part->place = ref;
    leave(part);
    part->absent = false;
    enter(part);
    Py_CLEAR(part->parent);
    return 0;
}

static Message *new_part(Message *self, Class *cls)
{
    Message *part = (Message *)cls->alloc(cls->type, 0);

    if (part != NULL) {
        part->cls = cls;
        part->root = (Message *)Py_NewRef((PyObject *)self->root);
        part->base = &cls->zeros;
    }
    return part;
}

Message *message_part(Message *self, Class *cls, zh_ref ref)
{
    Message *part = new_part(self, cls);

    if (part != NULL && attach(part, ref) != 0)
        Py_CLEAR(part);
    return part;
}

/* The reference in a singular message field, 0 if it is not set. */
static zh_ref child_ref(const Message *self, const struct zh_field *field)
{
    const uint8_t *at = message_struct(self);

    if (field->label == ZH_ONEOF && zh_load32(at + field->case_at) != field->number)
        return 0;
    return zh_load64(at + field->offset);
}

Message *message_child(Message *self, const Field *field)
{
    if (self->absent)
        message_refresh(self);
    zh_ref ref = self->absent ? 0 : child_ref(self, field->layout);
    if (ref != 0)
        return message_part(self, field->type, ref);
    Message *part = new_part(self, field->type);
    if (part != NULL) {
        part->absent = true;
        part->parent = (Message *)Py_NewRef((PyObject *)self);
        part->field = field;
        enter(part);
    }
    return part;
}

void message_refresh(Message *self)
{
    Message *parent = self->parent;

    if (parent->absent)
        message_refresh(parent);
    if (parent->absent)
        return;
    zh_ref ref = child_ref(parent, self->field->layout);
    if (ref != 0 && attach(self, ref) != 0)
        PyErr_Clear(); /* a hostile peer's; it stays absent */
}

/* Give an absent message a struct that nothing refers to. */
static int stand_alone(Message *part)
{
    zh_ref ref;

    if (message_alloc(part, part->cls->layout->size, &ref) == NULL)
        return -1;
    return attach(part, ref);
}

/* A container goes to a message that has nothing else, and others of the same field with it. */
static int move_out(Container *container)
{
    Message *from = container->message;
    const Field *field = container->field;
    Message *to = new_part(from, from->cls);

    if (to == NULL || stand_alone(to) != 0) {
        Py_XDECREF((PyObject *)to);
        return -1;
    }
    memcpy(message_struct(to) + field->layout->offset, message_struct(from) + field->layout->offset,
           sizeof(struct zh_slot));
    for (Container *one = from->root->containers; one != NULL; one = one->next) {
        if (one->message == from && one->field == field) {
            one->message = (Message *)Py_NewRef((PyObject *)to);
            Py_DECREF((PyObject *)from); /* which the caller holds */
        }
    }
    Py_DECREF((PyObject *)to);
    return 0;
}

/* What holds something (`filled`), or all. */
static int let_containers_go(Message *self, const Field *field, bool filled)
{
    for (Container *one = self->root->containers; one != NULL; one = one->next) {
        if (one->message != self || (field != NULL && one->field != field))
            continue;
        const uint8_t *slot = message_struct(self) + one->field->layout->offset;
        if ((!filled || zh_load_slot(slot).count > 0) && move_out(one) != 0)
            return -1;
    }
    return 0;
}

int message_let_go(Message *self, const Field *field)
{
    Message *root = self->root;

    for (Message *part = root->absents, *next; part != NULL; part = next) {
        next = part->next;
        if (part->parent != self || part->field != field)
            continue;
        Py_INCREF((PyObject *)self); /* the part may hold it alone */
        message_refresh(part);
        int result = part->absent ? stand_alone(part) : 0;
        Py_DECREF((PyObject *)self);
        if (result != 0)
            return -1;
    }
    return let_containers_go(self, field, false);
}

/* Make an absent message be there. */
static int materialize(Message *self)
{
    zh_ref ref;

    if (message_writable(self->parent) != 0)
        return -1;
    message_refresh(self);
    if (!self->absent)
        return 0;
    if (message_alloc(self, self->cls->layout->size, &ref) == NULL)
        return -1;
    const struct zh_field *field = self->field->layout;
    uint8_t *at = message_struct(self->parent);
    if (field->label == ZH_ONEOF) {
        memset(at + field->offset, 0, field->unit);
        memcpy(at + field->case_at, &field->number, sizeof(field->number));
    }
    memcpy(at + field->offset, &ref, sizeof(ref));
    return attach(self, ref);
}

int message_writable(Message *self)
{
    Message *root = self->root;

    if (root->readonly) {
        PyErr_Format(PyExc_AttributeError,
                     "%U was received and cannot be changed; change a copy: new = type(message)(); "
                     "new.CopyFrom(message)",
                     self->cls->name);
        return -1;
    }
    /* Committing memory lets other threads run. */
    if (root->busy) {
        PyErr_Format(PyExc_RuntimeError, "%U is being changed by another thread", self->cls->name);
        return -1;
    }
    if (self->absent && materialize(self) != 0)
        return -1;
    if (root->lent && self->base == &self->fixed && !zh_image_owns(&root->image, self->place))
        return message_thaw(root);
    if (zh_image_is_full(&root->image))
        message_tidy(root);
    return 0;
}

int message_writable_below(Message *self)
{
    if (message_writable(self) != 0)
        return -1;
    return self->root->lent ? message_thaw(self->root) : 0;
}

/* --- memory -------------------------------------------------------------------------------------
 */

void message_space(Message *self, struct zh_space *space)
{
    Message *root = self->root;

    zh_image_space(&root->image, space);
    if (root->received != NULL)
        received_space(root->received, space);
}

const uint8_t *message_at(Message *self, zh_ref ref, uint64_t bytes)
{
    struct zh_image *image = &self->root->image;
    const uint8_t *at;

    if (zh_ref_segment(ref) == 0 && ref != 0 && ref <= image->root_used &&
        bytes <= image->root_used - ref)
        return image->root + ref;
    struct zh_space space;
    message_space(self, &space);
    at = zh_space_at(&space, ref, bytes);
    if (at == NULL)
        image_error(-EFAULT);
    return at;
}

uint8_t *message_alloc(Message *self, size_t bytes, zh_ref *ref)
{
    uint8_t *data = zh_image_alloc(&self->root->image, bytes, ref);

    if (data == NULL)
        image_error(-ENOMEM);
    return data;
}

uint8_t *message_alloc_raw(Message *self, size_t bytes, zh_ref *ref)
{
    uint8_t *data = zh_image_alloc_raw(&self->root->image, bytes, ref);

    if (data == NULL)
        image_error(-ENOMEM);
    return data;
}

bool message_owns(Message *self, zh_ref ref)
{
    Message *root = self->root;

    return root->exports == 0 && zh_image_owns(&root->image, ref);
}

void message_drop(Message *self, zh_ref ref)
{
    Message *root = self->root;

    zh_image_drop(&root->image, ref, root->exports > 0);
}

/* --- whole messages ------------------------------------------------------------------------------
 */

int message_clear(Message *self)
{
    if (self->root == self && self->parts == NULL && self->absents == NULL &&
        self->containers == NULL && self->exports == 0 && !self->readonly && !self->busy) {
        /* Nobody else knows this memory. */
        zh_image_free(&self->image);
        memset(self->inside, 0, self->cls->inside);
        self->lent = false;
        self->map_changes++;
        return begin_image(self, self->image.memory);
    }
    /* Absent parts and empty containers remain with the message, as in protobuf. */
    if (message_writable(self) != 0 || let_containers_go(self, NULL, true) != 0)
        return -1;
    self->root->map_changes++;
    memset(message_struct(self), 0, self->cls->layout->size);
    return 0;
}

int message_copy(Message *self, Message *from)
{
    return message_copy_counted(self, from, ZH_STAT_BYTES_BUILT);
}

int message_copy_counted(Message *self, Message *from, int stat)
{
    Message *between = NULL;
    struct zh_space space;
    uint64_t copied = 0;
    int error;

    if (self == from)
        return 0;
    if (from->absent)
        message_refresh(from);
    if (self->root == from->root) {
        /* One may lie in the other. */
        between = message_new(from->cls);
        if (between == NULL || message_copy_counted(between, from, stat) != 0) {
            Py_XDECREF((PyObject *)between);
            return -1;
        }
        from = between;
    }
    error = message_clear(self);
    if (error == 0)
        error = message_writable(self);
    if (error == 0) {
        message_space(from, &space);
        error = zh_image_settle(&self->root->image);
        self->root->busy = true;
        uint32_t epoch = message_export_begin(from);
        if (error == 0)
            error = zh_image_copy(&self->root->image, self->cls->layout, message_struct(self),
                                  &space, message_struct(from), &copied);
        message_export_end(from, epoch);
        self->root->busy = false;
        if (stat >= 0)
            zh_stat_add((enum zh_stat)stat, copied);
        if (error != 0)
            source_error(from, error);
    }
    Py_XDECREF((PyObject *)between);
    return error == 0 ? 0 : -1;
}

Py_ssize_t message_wire_size(Message *self)
{
    struct zh_space space;

    if (self->absent)
        message_refresh(self);
    message_space(self, &space);
    int64_t size = zh_wire_size(&space, self->cls->layout, message_struct(self));
    return size < 0 ? source_error(self, (int)size) : (Py_ssize_t)size;
}

PyObject *message_serialize(Message *self, bool sorted)
{
    struct zh_wire_bytes wire;
    struct zh_space space;

    if (self->absent)
        message_refresh(self);
    message_space(self, &space);
    int error = zh_wire_encode(&space, self->cls->layout, message_struct(self), sorted, &wire);
    if (error != 0) {
        source_error(self, error);
        return NULL;
    }
    PyObject *bytes = PyBytes_FromStringAndSize((char *)wire.data, (Py_ssize_t)wire.bytes);
    free(wire.memory);
    return bytes;
}

/* Merge wire bytes, which are private memory. */
static int merge_wire(Message *self, const uint8_t *bytes, size_t count)
{
    /* What is merged may go anywhere below. */
    if (message_writable_below(self) != 0)
        return -1;
    self->root->map_changes++;
    uint64_t copied = 0;
    int error = zh_image_settle(&self->root->image);
    self->root->busy = true;
    if (error == 0)
        error = zh_wire_decode(&self->root->image, self->cls->layout, message_struct(self), bytes,
                               count, &copied);
    if (copied > 0)
        zh_stat_add(ZH_STAT_BYTES_BUILT, copied);
    self->root->busy = false;
    if (error == -EMSGSIZE)
        error = -EBADMSG; /* of any size, what does not parse is a DecodeError, as in protobuf */
    return error == 0 ? 0 : image_error(error);
}

int message_parse(Message *self, PyObject *buffer)
{
    Py_buffer view;
    int result = -1;

    if (PyBytes_Check(buffer))
        return merge_wire(self, (const uint8_t *)PyBytes_AsString(buffer),
                          (size_t)PyBytes_Size(buffer));
    if (PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE) != 0)
        return -1;
    /* Somebody may write to it meanwhile. */
    uint8_t *copy = malloc((size_t)view.len + 1);
    if (copy != NULL) {
        memcpy(copy, view.buf, (size_t)view.len);
        result = merge_wire(self, copy, (size_t)view.len);
        free(copy);
    } else {
        PyErr_NoMemory();
    }
    PyBuffer_Release(&view);
    return result;
}

int message_merge(Message *self, Message *from)
{
    PyObject *bytes = message_serialize(from, false);

    if (bytes == NULL)
        return -1;
    int result = message_parse(self, bytes);
    Py_DECREF(bytes);
    return result;
}
