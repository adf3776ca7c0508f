/* Repeated scalars as arrays: copied whole from buffers and other fields, and shown as buffers. */
#include "repeated.h"

#include "zerohop/stats.h"

static const char *format_of(uint8_t kind)
{
    switch (kind) {
    case ZH_DOUBLE:
        return "d";
    case ZH_FLOAT:
        return "f";
    case ZH_INT64:
    case ZH_SINT64:
    case ZH_SFIXED64:
        return "q";
    case ZH_UINT64:
    case ZH_FIXED64:
        return "Q";
    case ZH_UINT32:
    case ZH_FIXED32:
        return "I";
    case ZH_BOOL:
        return "?";
    case ZH_STRING:
    case ZH_BYTES:
        return NULL;
    default:
        return "i";
    }
}

/* What a format of one character is of, whatever its size: d for any real, q and Q for integers. */
static char class_of_format(const char *format)
{
    /* '<' is native here: segments are little-endian, and so is every machine that maps them. */
    if (*format == '@' || *format == '=' || *format == '<')
        format++;
    if (format[0] == 0 || format[1] != 0)
        return 0;
    if (strchr("bhilqn", *format) != NULL)
        return 'q';
    if (strchr("BHILQN", *format) != NULL)
        return 'Q';
    return *format == 'f' || *format == 'd' ? 'd' : *format == '?' ? '?' : 0;
}

/* May the field have whatever bits an element of its width has? (Of a bool, those it is made of.)
 */
static bool takes_arrays(const struct zh_field *field)
{
    return field->kind != ZH_SUBMESSAGE && field->width < 16 &&
           (field->flags & ZH_FIELD_CLOSED) == 0;
}

/* Room for `more` elements at the end, or NULL with an exception. */
static uint8_t *room_behind(Repeated *self, uint64_t more)
{
    struct zh_slot slot = slot_of(self);

    if (more > INT32_MAX || slot.count + more > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "a repeated field of more than 2 GiB");
        return NULL;
    }
    if (repeated_own_array(self, slot.count + (uint32_t)more) != 0)
        return NULL;
    struct zh_slot now = slot_of(self);
    if (now.count != slot.count || (now.count + more) * width_of(self) > now.room) {
        PyErr_Format(PyExc_RuntimeError, "%U is being changed by another thread",
                     self->base.field->cls->name);
        return NULL;
    }
    return repeated_element(self, now.count);
}

/* `count` elements that lie at `from`, which may be a peer's memory, into the room behind. */
static void put_behind(Repeated *self, uint8_t *to, const uint8_t *from, uint32_t count)
{
    size_t bytes = count * width_of(self);
    struct zh_slot slot = slot_of(self);

    memmove(to, from, bytes);
    for (size_t i = 0; self->base.field->layout->kind == ZH_BOOL && i < bytes; i++)
        to[i] = to[i] != 0; /* the copy is looked at: the original may be another by now */
    slot.count += count;
    set_slot(self, slot);
    zh_stat_add(ZH_STAT_BYTES_BUILT, bytes);
}

/* 1: done; 0: the other field has elements of another type; -1 with an exception. */
static int extend_by_field(Repeated *self, Repeated *other)
{
    const struct zh_field *ours = self->base.field->layout, *theirs = other->base.field->layout;
    uint32_t count = slot_of(other).count;

    if (!takes_arrays(ours) || theirs->width != ours->width ||
        class_of_format(format_of(ours->kind)) != class_of_format(format_of(theirs->kind)))
        return 0;
    if (count == 0)
        return 1;
    uint8_t *to = room_behind(self, count);
    if (to == NULL)
        return -1;
    /* It may have moved with that, if it is a field of the same message or this one. */
    struct zh_slot slot = slot_of(other);
    const uint8_t *from = array_of(other, slot);
    if (from == NULL)
        return -1;
    put_behind(self, to, from, slot.count < count ? slot.count : count);
    return 1;
}

/* The same for a buffer: 0 also if it is none, or not of one piece. */
static int extend_by_buffer(Repeated *self, PyObject *values)
{
    const struct zh_field *field = self->base.field->layout;
    Py_buffer view;
    int result = 0;

    if (!takes_arrays(field))
        return 0;
    if (PyObject_GetBuffer(values, &view, PyBUF_ND | PyBUF_FORMAT) != 0) {
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return -1;
        PyErr_Clear();
        return 0;
    }
    if (view.ndim == 1 && view.itemsize == field->width &&
        class_of_format(view.format != NULL ? view.format : "B") ==
            class_of_format(format_of(field->kind))) {
        uint64_t count = (uint64_t)view.len / field->width;
        uint8_t *to = count == 0 ? NULL : room_behind(self, count);
        result = count == 0 || to != NULL ? 1 : -1;
        if (to != NULL)
            put_behind(self, to, view.buf, (uint32_t)count);
    }
    PyBuffer_Release(&view);
    return result;
}

int repeated_extend_whole(Repeated *self, PyObject *values)
{
    if (TYPE_OF(values) == Repeated_Type)
        return extend_by_field(self, (Repeated *)values);
    return PyObject_CheckBuffer(values) ? extend_by_buffer(self, values) : 0;
}

/* --- the buffer protocol
 * -------------------------------------------------------------------------- */

int repeated_getbuffer(PyObject *object, Py_buffer *view, int flags)
{
    static uint64_t nothing;
    Repeated *self = (Repeated *)object;
    const char *format = format_of(self->base.field->layout->kind);
    Message *root = self->base.message->root;
    bool writable = !root->readonly;

    view->obj = NULL;
    if (format == NULL || ((flags & PyBUF_WRITABLE) != 0 && !writable)) {
        PyErr_SetString(PyExc_BufferError, format == NULL
                                               ? "a repeated field of text or bytes is no array"
                                               : "the message was received and is read-only");
        return -1;
    }
    /* Whoever may write gets memory that no peer reads, and that does not move. */
    if (writable && zh_image_settle(&root->image) != 0) {
        PyErr_NoMemory();
        return -1;
    }
    if (writable && slot_of(self).count > 0 && repeated_own_array(self, slot_of(self).count) != 0)
        return -1;
    struct zh_slot slot = slot_of(self);
    const uint8_t *array = slot.count == 0 ? (const uint8_t *)&nothing : array_of(self, slot);
    if (array == NULL)
        return -1;
    Py_ssize_t *dimensions = PyMem_Malloc(3 * sizeof(Py_ssize_t));
    if (dimensions == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    size_t width = width_of(self);
    dimensions[0] = (Py_ssize_t)slot.count;
    dimensions[1] = (Py_ssize_t)width;
    dimensions[2] = (Py_ssize_t)message_export_begin(root);
    *view = (Py_buffer){
        .buf = (void *)(uintptr_t)array,
        .obj = Py_NewRef(object),
        .len = (Py_ssize_t)(slot.count * width),
        .itemsize = (Py_ssize_t)width,
        .readonly = !writable,
        .ndim = 1,
        .format = (flags & PyBUF_FORMAT) != 0 ? (char *)(uintptr_t)format : NULL,
        .shape = (flags & PyBUF_ND) != 0 ? &dimensions[0] : NULL,
        .strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? &dimensions[1] : NULL,
        .internal = dimensions,
    };
    self->exports++;
    return 0;
}

void repeated_releasebuffer(PyObject *object, Py_buffer *view)
{
    Repeated *self = (Repeated *)object;

    uint32_t epoch = (uint32_t)((const Py_ssize_t *)view->internal)[2];
    PyMem_Free(view->internal);
    self->exports--;
    message_export_end(self->base.message, epoch);
}
