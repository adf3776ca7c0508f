/* Blobs: arena memory that a program fills before it is sent, and bytes fields that take it over.
 */
#include "message.h"

#include <errno.h>
#include <unistd.h>

#include "zerohop/fork.h"

PyTypeObject *Blob_Type;

/*
 * Owns one reference to its block; messages that have taken it over have their own. All live blobs
 * are in a list, in which memory is found again that comes by way of numpy.
 */
typedef struct Blob {
    PyObject_HEAD
    struct Blob *next, *prev;
    struct zh_image_block block;
    size_t bytes;
    bool adopted; /* a message has it: no new writable view is given */
} Blob;

static Blob *live;

static PyObject *blob_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"bytes", NULL};
    Py_ssize_t bytes;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "n:alloc", names, &bytes))
        return NULL;
    if (bytes < 0 || bytes > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "a blob has 0 to 2**31 - 1 bytes");
        return NULL;
    }
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Blob *self = (Blob *)alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->bytes = (size_t)bytes;
    int error = arena_memory.alloc(NULL, bytes == 0 ? 1 : (size_t)bytes, &self->block);
    if (error != 0) {
        self->bytes = 0;
        Py_DECREF((PyObject *)self);
        image_error(-ENOMEM);
        return NULL;
    }
    self->next = live;
    if (live != NULL)
        live->prev = self;
    live = self;
    return (PyObject *)self;
}

static void blob_dealloc(Blob *self)
{
    PyTypeObject *type = TYPE_OF(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    if (self->block.data != NULL) {
        if (self->prev != NULL)
            self->prev->next = self->next;
        else
            live = self->next;
        if (self->next != NULL)
            self->next->prev = self->prev;
        arena_memory.release(NULL, &self->block);
    }
    release(self);
    Py_DECREF((PyObject *)type);
}

static int blob_getbuffer(PyObject *object, Py_buffer *view, int flags)
{
    Blob *self = (Blob *)object;

    return PyBuffer_FillInfo(view, object, self->block.data, (Py_ssize_t)self->bytes, self->adopted,
                             flags);
}

static Py_ssize_t blob_length(Blob *self)
{
    return (Py_ssize_t)self->bytes;
}

int blob_adopt(Message *owner, const void *data, size_t bytes, struct zh_slot *slot)
{
    const uint8_t *at = data;

    if (bytes == 0)
        return 0;
    for (Blob *blob = live; blob != NULL; blob = blob->next) {
        if (at < blob->block.data || bytes > blob->bytes ||
            at > blob->block.data + (blob->bytes - bytes) || zh_arena_inherited(blob->block.owner))
            continue;
        *slot = (struct zh_slot){.ref = blob->block.ref + (zh_ref)(at - blob->block.data),
                                 .count = (uint32_t)bytes};
        struct zh_image_block block = blob->block;
        block.used = blob->bytes;
        if (zh_arena_ref(block.owner, zh_ref_segment(block.ref),
                         (uint32_t)(zh_ref_offset(block.ref) / ZH_PAGE)) != 0)
            return 0;
        int has = zh_image_adopt(&owner->root->image, &block);
        if (has != 0)
            arena_memory.release(NULL, &block);
        if (has < 0)
            return image_error(-ENOMEM);
        blob->adopted = true;
        return 1;
    }
    return 0;
}

static PyType_Slot slots[] = {
    {Py_tp_new, (void *)blob_new},
    {Py_tp_dealloc, (void *)blob_dealloc},
    {Py_sq_length, (void *)blob_length},
    {Py_mp_length, (void *)blob_length},
    {Py_bf_getbuffer, (void *)blob_getbuffer},
    {Py_tp_doc,
     (void *)PyDoc_STR(
         "alloc(bytes)\n--\n\nShared memory to be filled and then assigned to a bytes field, which "
         "takes it over without a copy. A buffer; writable until a message has it. The content is "
         "undefined at first. ArenaFull.")},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "zerohop.alloc",
    .basicsize = sizeof(Blob),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

int blob_init(PyObject *module)
{
    Blob_Type = (PyTypeObject *)PyType_FromSpec(&spec);
    return Blob_Type == NULL ? -1 : PyModule_AddObjectRef(module, "alloc", (PyObject *)Blob_Type);
}
