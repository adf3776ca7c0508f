/* Snapshots: messages as they are sent. received.c is the other side. */
#include "message.h"

#include <errno.h>

PyTypeObject *Snapshot_Type;

/* --- sending ------------------------------------------------------------------------------------
 */

/*
 * What a message was when it was sent: a copy of its root, and references to its blocks, which
 * nobody writes to from then on (see zh_image_lend). Owns one reference to each block.
 */
typedef struct {
    PyObject_HEAD
    Class *cls;
    uint32_t root_bytes, block_count, blob_count;
    uint32_t outside;             /* bytes of the message outside its root */
    struct zh_arena *arena;       /* of `blocks` */
    struct zh_block *blocks;      /* by where they are */
    struct zh_image_block *blobs; /* the same, of peers: `owner` is a Received, strong */
    uint8_t *root;
    uint8_t small[256]; /* where most roots fit */
} Snapshot;

static void snapshot_dealloc(Snapshot *self)
{
    PyTypeObject *type = TYPE_OF(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    for (uint32_t i = 0; !zh_arena_inherited(self->arena) && i < self->block_count; i++)
        (void)zh_arena_unref(self->arena, self->blocks[i].segment, self->blocks[i].page);
    for (uint32_t i = 0; i < self->blob_count; i++)
        Py_DECREF((PyObject *)self->blobs[i].owner);
    free(self->blocks);
    free(self->blobs);
    if (self->root != self->small)
        free(self->root);
    release(self);
    Py_DECREF((PyObject *)type);
}

static Snapshot *snapshot_alloc(Class *cls, size_t root_bytes)
{
    static allocfunc alloc;

    if (alloc == NULL)
        alloc = (allocfunc)PyType_GetSlot(Snapshot_Type, Py_tp_alloc);
    Snapshot *self = (Snapshot *)alloc(Snapshot_Type, 0);
    if (self == NULL)
        return NULL;
    self->cls = cls;
    self->root = root_bytes <= sizeof(self->small) ? self->small : malloc(root_bytes);
    if (self->root == NULL) {
        self->root = self->small;
        Py_DECREF((PyObject *)self);
        PyErr_NoMemory();
        return NULL;
    }
    self->root_bytes = (uint32_t)root_bytes;
    return self;
}

static zh_ref block_ref(const struct zh_block *block)
{
    return zh_ref_make(block->segment, (uint64_t)block->page * ZH_PAGE);
}

static int compare_blocks(const void *a, const void *b)
{
    zh_ref one = block_ref(a), other = block_ref(b);

    return (one > other) - (one < other);
}

static int compare_blobs(const void *a, const void *b)
{
    const struct zh_image_block *one = a, *other = b;

    return (one->ref > other->ref) - (one->ref < other->ref);
}

static Snapshot *inherited(Snapshot *self)
{
    Py_DECREF((PyObject *)self);
    PyErr_SetString(PyExc_RuntimeError,
                    "this message was made before fork() or under another user id; make a new one");
    return NULL;
}

/* Of a message that is its own root, with memory that is ours. */
static Snapshot *snapshot_of(Message *message)
{
    struct zh_image *image = &message->image;
    if (message->exports == 0 && !message->busy)
        zh_image_purge(image);
    Snapshot *self = snapshot_alloc(message->cls, image->root_used);

    if (self == NULL)
        return NULL;
    memcpy(self->root, image->root, image->root_used);
    if (image->block_count == 0)
        return self;
    self->blocks = malloc(image->block_count * sizeof(*self->blocks));
    self->blobs = calloc(image->block_count, sizeof(*self->blobs));
    if (self->blocks == NULL || self->blobs == NULL) {
        Py_DECREF((PyObject *)self);
        PyErr_NoMemory();
        return NULL;
    }
    uint64_t outside = 0;
    for (uint32_t i = 0; i < image->block_count; i++) {
        const struct zh_image_block *block = &image->blocks[i];
        if (!block->chunk && block->uses == 0)
            continue; /* kept for those who still read it */
        outside += block->used;
        self->outside = outside > UINT32_MAX ? UINT32_MAX : (uint32_t)outside;
        if (is_foreign(block)) {
            if (received_inherited(block->owner))
                return inherited(self);
            self->blobs[self->blob_count++] = *block;
            Py_INCREF((PyObject *)block->owner);
            continue;
        }
        struct zh_block place = {
            .segment = zh_ref_segment(block->ref),
            .page = (uint32_t)(zh_ref_offset(block->ref) / ZH_PAGE),
            .pages = (uint32_t)((block->bytes + ZH_PAGE - 1) / ZH_PAGE),
            .blob = !block->chunk,
            .data = block->data,
        };
        if (zh_arena_inherited(block->owner) ||
            (self->arena != NULL && self->arena != block->owner) ||
            zh_arena_ref(block->owner, place.segment, place.page) != 0)
            return inherited(self);
        self->arena = block->owner;
        self->blocks[self->block_count++] = place;
    }
    qsort(self->blocks, self->block_count, sizeof(*self->blocks), compare_blocks);
    qsort(self->blobs, self->blob_count, sizeof(*self->blobs), compare_blobs);
    zh_image_lend(image);
    message->lent = self->block_count > 0 || message->lent;
    return self;
}

static uint64_t snapshot_bytes(PyObject *object)
{
    const Snapshot *self = (const Snapshot *)object;

    return (uint64_t)self->root_bytes + self->outside;
}

/* snapshot(message): in place of SerializeToString, for calls that may carry images. */
static PyObject *native_snapshot(PyObject *Py_UNUSED(module), PyObject *object)
{
    if (!is_message(object)) {
        PyErr_Format(PyExc_TypeError, "a message of a generated class is wanted, not %R",
                     TYPE_OF(object));
        return NULL;
    }
    Message *message = (Message *)object;
    if (message->cls->layout->required && message_check_required(message) != 0)
        return NULL;
    if (message->root == message && message->received == NULL)
        return (PyObject *)snapshot_of(message);
    /* A part of a message, or one whose memory is a peer's, becomes a message of its own. */
    Message *copy = message_new(message->cls);
    if (copy != NULL)
        copy->image.memory = &forwarding_memory; /* what a peer has is handed on as it is */
    if (copy == NULL || message_copy_counted(copy, message, -1) != 0) {
        Py_XDECREF((PyObject *)copy);
        return NULL;
    }
    Snapshot *self = snapshot_of(copy);
    /* A root is copied with every message; what had to go elsewhere was copied for this one. */
    for (uint32_t i = 0; i < copy->image.block_count; i++) {
        const struct zh_image_block *block = &copy->image.blocks[i];
        if (!is_foreign(block) && !block->adopted)
            zh_stat_add(ZH_STAT_BYTES_COPIED, block->used);
    }
    Py_DECREF((PyObject *)copy);
    return (PyObject *)self;
}

const struct zh_image_block *snapshot_blob(void *object, zh_ref ref, uint64_t bytes)
{
    const Snapshot *self = object;
    uint32_t low = 0, high = self->blob_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct zh_image_block *blob = &self->blobs[middle];
        if (ref < blob->ref)
            high = middle;
        else if (ref - blob->ref >= blob->bytes)
            low = middle + 1;
        else
            return bytes <= blob->bytes - (ref - blob->ref) ? blob : NULL;
    }
    return NULL;
}

static const uint8_t *snapshot_far(void *context, zh_ref ref, uint64_t bytes)
{
    const Snapshot *self = context;
    uint32_t low = 0, high = self->block_count;

    if ((zh_ref_segment(ref) & ZH_REF_FOREIGN) != 0) {
        const struct zh_image_block *blob = snapshot_blob(context, ref, bytes);
        return blob == NULL ? NULL : blob->data + (ref - blob->ref);
    }
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct zh_block *block = &self->blocks[middle];
        zh_ref begin = block_ref(block);
        uint64_t size = (uint64_t)block->pages * ZH_PAGE;
        if (ref < begin)
            high = middle;
        else if (ref - begin >= size)
            low = middle + 1;
        else
            return bytes <= size - (ref - begin) ? block->data + (ref - begin) : NULL;
    }
    return NULL;
}

PyObject *snapshot_wire(PyObject *object)
{
    Snapshot *self = (Snapshot *)object;
    struct zh_space space = {self->root, self->root_bytes, snapshot_far, self};
    struct zh_wire_bytes wire;
    const uint8_t *at = zh_space_root(&space, self->cls->layout);

    int error = at == NULL ? -EFAULT : zh_wire_encode(&space, self->cls->layout, at, false, &wire);
    if (error != 0) {
        image_error(error);
        return NULL;
    }
    PyObject *bytes = PyBytes_FromStringAndSize((char *)wire.data, (Py_ssize_t)wire.bytes);
    free(wire.memory);
    if (bytes != NULL)
        zh_stat_add(ZH_STAT_BYTES_COPIED, wire.bytes);
    return bytes;
}

bool snapshot_fits(PyObject *object, Link *link)
{
    const Snapshot *self = (const Snapshot *)object;

    /* Peers of another uid cannot read our own arena, nor what others have lent to us. */
    if (self->block_count > 0 && zh_link_arena(link->link) != self->arena)
        return false;
    for (uint32_t i = 0; i < self->blob_count; i++) {
        uint32_t segment = zh_ref_segment(self->blobs[i].ref);
        /* Those of one segment lie side by side. */
        if ((i == 0 || segment != zh_ref_segment(self->blobs[i - 1].ref)) &&
            zh_link_share(link->link, segment) != 0)
            return false;
    }
    return true;
}

/* A copy, the same but for where its memory is: all of it in our own arena. */
static Snapshot *localized(Snapshot *self)
{
    struct zh_space space = {self->root, self->root_bytes, snapshot_far, self};
    const uint8_t *at = zh_space_root(&space, self->cls->layout);
    Message *copy = message_new(self->cls);
    Snapshot *made = NULL;
    uint64_t copied = 0;

    if (copy != NULL) {
        int error = at == NULL ? -EFAULT : zh_image_settle(&copy->image);
        if (error == 0)
            error = zh_image_copy(&copy->image, self->cls->layout, message_struct(copy), &space, at,
                                  &copied);
        if (error != 0)
            image_error(error);
        else
            made = snapshot_of(copy);
        zh_stat_add(ZH_STAT_BYTES_COPIED, copied);
    }
    Py_XDECREF((PyObject *)copy);
    return made;
}

PyObject *snapshot_local(PyObject *object, Link *link)
{
    Snapshot *self = (Snapshot *)object;

    if (self->blob_count == 0 ||
        (self->block_count > 0 && zh_link_arena(link->link) != self->arena))
        return NULL;
    PyObject *local = (PyObject *)localized(self);
    if (local == NULL)
        PyErr_Clear(); /* wire bytes may fit where this did not */
    return local;
}

/* What others have lent to us and a loan of ours has in it: they wait for that loan's end. */
typedef struct {
    struct zh_hold hold;
    Pump *pump; /* strong: listens until then; NULL for an event loop's, which does anyway */
} Hold;

int snapshot_lend(PyObject *object, Link *link, uint64_t tag, struct zh_loaned *loaned)
{
    const Snapshot *self = (const Snapshot *)object;
    Hold *hold = NULL;

    if (self->blob_count > 0) {
        /* The peer reads what is lent to us: our loan lasts as long as this one. */
        hold = calloc(1, sizeof(*hold));
        if (hold == NULL)
            return -ENOMEM;
        hold->hold.object = Py_NewRef(object);
    }
    int error = zh_link_lend(link->link, self->blocks, self->block_count, tag,
                             hold != NULL ? &hold->hold : NULL, loaned);
    if (error != 0 && hold != NULL) {
        Py_DECREF(object);
        free(hold);
    } else if (hold != NULL && !link->pump->aio) {
        hold->pump = (Pump *)Py_NewRef((PyObject *)link->pump);
        pump_background(hold->pump, 1);
    }
    return error;
}

bool snapshot_lends_back(PyObject *object, Link *link)
{
    const Snapshot *self = (const Snapshot *)object;

    for (uint32_t i = 0; i < self->blob_count; i++) {
        if (received_link(self->blobs[i].owner) == link->link)
            return true;
    }
    return false;
}

void holds_end(void)
{
    struct zh_hold *next;

    for (struct zh_hold *hold = zh_holds_ended(); hold != NULL; hold = next) {
        Hold *ended = (Hold *)hold;
        next = hold->next;
        Py_DECREF((PyObject *)hold->object);
        if (ended->pump != NULL)
            pump_background(ended->pump, -1);
        Py_XDECREF((PyObject *)ended->pump);
        free(ended);
    }
}

const uint8_t *snapshot_root(PyObject *object, size_t *bytes, uint32_t *outside, bool *blocks)
{
    const Snapshot *self = (const Snapshot *)object;

    *bytes = self->root_bytes;
    *outside = self->outside;
    *blocks = self->block_count + self->blob_count > 0;
    return self->root;
}

bool is_snapshot(PyObject *message)
{
    return TYPE_OF(message) == Snapshot_Type;
}

bool is_outgoing(PyObject *message)
{
    return PyBytes_Check(message) || is_snapshot(message);
}

uint64_t message_bytes(PyObject *message)
{
    if (PyBytes_Check(message))
        return (uint64_t)PyBytes_Size(message);
    if (TYPE_OF(message) == Snapshot_Type)
        return snapshot_bytes(message);
    return received_bytes(message);
}

/* --- which methods ------------------------------------------------------------------------------
 */

/* The class whose SerializeToString or FromString this is; NULL without an exception. */
static Class *class_of_method(PyObject *method)
{
    static PyObject *objclass, *self_name, *name_name;
    Class *cls = NULL;

    if (objclass == NULL) {
        objclass = PyUnicode_InternFromString("__objclass__");
        self_name = PyUnicode_InternFromString("__self__");
        name_name = PyUnicode_InternFromString("__name__");
    }
    /* Builtins only: a Python function of that name is somebody else's. */
    bool out = TYPE_OF(method) == &PyMethodDescr_Type;
    if (!out && !PyCFunction_Check(method))
        return NULL;
    PyObject *name = PyObject_GetAttr(method, name_name);
    PyObject *type = PyObject_GetAttr(method, out ? objclass : self_name);
    if (name != NULL && type != NULL && PyType_Check(type) &&
        PyUnicode_CompareWithASCIIString(name, out ? "SerializeToString" : "FromString") == 0)
        cls = class_of((PyTypeObject *)type);
    Py_XDECREF(name);
    Py_XDECREF(type);
    PyErr_Clear();
    return cls;
}

static PyObject *method_types(PyObject *request, PyObject *response)
{
    Class *in = class_of_method(request), *out = in == NULL ? NULL : class_of_method(response);
    const uint8_t *first = out == NULL ? NULL : class_fingerprint(in);
    const uint8_t *second = first == NULL ? NULL : class_fingerprint(out);

    if (second == NULL) {
        if (PyErr_Occurred())
            return NULL;
        Py_RETURN_NONE;
    }
    PyObject *types = PyBytes_FromStringAndSize(NULL, 32);
    if (types != NULL) {
        memcpy(PyBytes_AsString(types), first, 16);
        memcpy(PyBytes_AsString(types) + 16, second, 16);
    }
    return types;
}

PyObject *method_key(PyObject *method, PyObject *serializer, PyObject *deserializer)
{
    PyObject *types = method_types(serializer, deserializer);

    if (types == NULL)
        return NULL;
    if (types == Py_None) {
        Py_DECREF(types);
        return Py_NewRef(method);
    }
    /* The key by which links know it; their table of names wants it to tell methods apart. */
    PyObject *text = PyUnicode_AsUTF8String(method);
    PyObject *key = text == NULL ? NULL : PySequence_Concat(types, text);
    PyObject *pair = key == NULL ? NULL : PyTuple_Pack(2, method, key);
    Py_XDECREF(key);
    Py_XDECREF(text);
    Py_DECREF(types);
    return pair;
}

static PyObject *native_method_types(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *request, *response;

    if (!PyArg_ParseTuple(args, "OO:method_types", &request, &response))
        return NULL;
    return method_types(request, response);
}

/* As a class's own SerializeToString: of its messages only, for the peer reads them as such. */
static PyObject *class_snapshot(PyObject *type, PyObject *object)
{
    if (!PyObject_TypeCheck(object, (PyTypeObject *)type)) {
        PyErr_Format(PyExc_TypeError, "a message of %R is wanted, not %R", type, TYPE_OF(object));
        return NULL;
    }
    return native_snapshot(NULL, object);
}

PyObject *image_serializer(PyObject *serializer)
{
    static PyMethodDef method = {"snapshot", class_snapshot, METH_O, NULL};
    Class *cls = class_of_method(serializer);

    return cls == NULL ? Py_NewRef(serializer) : PyCFunction_New(&method, (PyObject *)cls->type);
}

static PyObject *native_method_key(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *method, *serializer, *deserializer;

    if (!PyArg_ParseTuple(args, "OOO:method_key", &method, &serializer, &deserializer))
        return NULL;
    return method_key(method, serializer, deserializer);
}

static PyObject *native_image_serializer(PyObject *Py_UNUSED(module), PyObject *serializer)
{
    return image_serializer(serializer);
}

static PyMethodDef functions[] = {
    {"snapshot", native_snapshot, METH_O,
     PyDoc_STR(
         "snapshot(message)\n--\n\nWhat is sent of a message: it may be changed afterwards.")},
    {"method_types", native_method_types, METH_VARARGS,
     PyDoc_STR(
         "method_types(request, response)\n--\n\nThe fingerprints of a method's messages, from "
         "their (de)serializers; None unless both are generated.")},
    {"method_key", native_method_key, METH_VARARGS,
     PyDoc_STR("method_key(method, serializer, deserializer)\n--\n\nWhat start() takes as the "
               "method: with the fingerprints of its messages, if they are generated.")},
    {"image_serializer", native_image_serializer, METH_O,
     PyDoc_STR("image_serializer(serializer)\n--\n\nsnapshot for a generated class's, else the "
               "same.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot snapshot_slots[] = {
    {Py_tp_dealloc, (void *)snapshot_dealloc},
    {Py_tp_doc, (void *)PyDoc_STR("A message as it is sent.")},
    {0, NULL},
};

static PyType_Spec snapshot_spec = {
    .name = "zerohop._native.Snapshot",
    .basicsize = sizeof(Snapshot),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = snapshot_slots,
};

int snapshot_init(PyObject *module)
{
    Snapshot_Type = (PyTypeObject *)PyType_FromSpec(&snapshot_spec);
    if (Snapshot_Type == NULL ||
        PyModule_AddObjectRef(module, "Snapshot", (PyObject *)Snapshot_Type) != 0)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
