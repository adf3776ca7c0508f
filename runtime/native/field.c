/* Fields: one value, from a struct to Python and back. */
#include "message.h"

/* --- reading ------------------------------------------------------------------------------------
 */

static PyObject *load_text(Message *owner, struct zh_slot slot)
{
    char small[512];
    PyObject *text;

    if (slot.count == 0)
        return PyUnicode_FromStringAndSize("", 0);
    const uint8_t *data = message_at(owner, slot.ref, slot.count);
    if (data == NULL)
        return NULL;
    const char *chars = (const char *)data;
    char *copy = NULL;
    if (owner->root->received != NULL && zh_ref_segment(slot.ref) != 0) {
        /* Decoding in place would let the peer make a str that breaks CPython. */
        copy = slot.count <= sizeof(small) ? small : malloc(slot.count);
        if (copy == NULL)
            return PyErr_NoMemory();
        memcpy(copy, data, slot.count);
        __asm__ volatile("" : : "r"(copy) : "memory");
        chars = copy;
    }
    text = PyUnicode_DecodeUTF8(chars, (Py_ssize_t)slot.count, "strict");
    if (text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        if (owner->root->received != NULL)
            PyErr_SetString(DecodeError, "a string field contains invalid UTF-8");
        else /* text that the schema does not have checked: as protobuf gives it */
            text = PyBytes_FromStringAndSize(chars, (Py_ssize_t)slot.count);
    }
    if (copy != NULL && copy != small)
        free(copy);
    return text;
}

/* What the next PyMemoryView_FromObject shows: see message_getbuffer. */
static struct {
    const uint8_t *data;
    Py_ssize_t bytes;
} shown;

int message_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    Message *root = ((Message *)self)->root;

    if (shown.data == NULL) {
        PyErr_SetString(PyExc_TypeError,
                        "a message is no buffer; use SerializeToString() or a bytes field");
        view->obj = NULL;
        return -1;
    }
    if (PyBuffer_FillInfo(view, self, (void *)(uintptr_t)shown.data, shown.bytes, 1, flags) != 0)
        return -1;
    view->internal = (void *)(uintptr_t)message_export_begin(root);
    return 0;
}

void message_releasebuffer(PyObject *self, Py_buffer *view)
{
    message_export_end((Message *)self, (uint32_t)(uintptr_t)view->internal);
}

/* A read-only view of memory that lives as long as the message's root does. */
static PyObject *view_of(Message *owner, const uint8_t *data, size_t bytes)
{
    shown.data = data;
    shown.bytes = (Py_ssize_t)bytes;
    PyObject *view = PyMemoryView_FromObject((PyObject *)owner->root);
    shown.data = NULL;
    return view;
}

static PyObject *load_bytes(Message *owner, const Field *field, struct zh_slot slot)
{
    static const uint8_t nothing[1];
    const uint8_t *data = nothing;

    if (slot.count > 0) {
        data = message_at(owner, slot.ref, slot.count);
        if (data == NULL)
            return NULL;
    }
    if (field->as_bytes)
        return PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)slot.count);
    return view_of(owner, data, slot.count);
}

PyObject *value_load(Message *owner, const Field *field, const uint8_t *at)
{
    double wide;
    float narrow;

    switch (field->layout->kind) {
    case ZH_DOUBLE:
        memcpy(&wide, at, sizeof(wide));
        return PyFloat_FromDouble(wide);
    case ZH_FLOAT:
        memcpy(&narrow, at, sizeof(narrow));
        return PyFloat_FromDouble((double)narrow);
    case ZH_INT64:
    case ZH_SFIXED64:
    case ZH_SINT64:
        return PyLong_FromLongLong((int64_t)zh_load64(at));
    case ZH_UINT64:
    case ZH_FIXED64:
        return PyLong_FromUnsignedLongLong(zh_load64(at));
    case ZH_INT32:
    case ZH_SFIXED32:
    case ZH_SINT32:
    case ZH_ENUM:
        return PyLong_FromLong((int32_t)zh_load32(at));
    case ZH_UINT32:
    case ZH_FIXED32:
        return PyLong_FromUnsignedLong(zh_load32(at));
    case ZH_BOOL:
        return PyBool_FromLong(*(const volatile uint8_t *)at != 0);
    case ZH_STRING:
        return load_text(owner, zh_load_slot(at));
    case ZH_BYTES:
        return load_bytes(owner, field, zh_load_slot(at));
    default:
        return (PyObject *)message_part(owner, field->type, zh_load64(at));
    }
}

bool field_is_set(Message *self, const Field *field)
{
    const uint8_t *at = message_struct(self);

    if (field->layout->label == ZH_IMPLICIT && field->type != NULL)
        return zh_load64(at + field->layout->offset) != 0;
    return zh_field_is_set(field->layout, at);
}

static PyObject *absent_value(Message *self, const Field *field)
{
    if (field->layout->kind == ZH_BYTES && !field->as_bytes) {
        /* The default's bytes live as long as the class. */
        char *data;
        Py_ssize_t bytes;
        if (PyBytes_AsStringAndSize(field->absent, &data, &bytes) != 0)
            return NULL;
        return view_of(self, (const uint8_t *)data, (size_t)bytes);
    }
    return Py_NewRef(field->absent);
}

PyObject *field_get(Message *self, const Field *field)
{
    if (self->absent)
        message_refresh(self);
    if (field->layout->label == ZH_REPEATED)
        return repeated_get(self, field);
    if (field->layout->label == ZH_MAP)
        return mapping_get(self, field);
    if (field->type != NULL)
        return (PyObject *)message_child(self, field);
    if (field->guarded && !field_is_set(self, field))
        return absent_value(self, field);
    return value_load(self, field, message_struct(self) + field->layout->offset);
}

/* --- writing ------------------------------------------------------------------------------------
 */

static int wrong_type(const Field *field, PyObject *value, const char *wanted)
{
    PyErr_Format(PyExc_TypeError, "%U.%U has to be %s, not %R", field->cls->name, field->name,
                 wanted, TYPE_OF(value));
    return -1;
}

static int out_of_range(PyObject *value)
{
    PyErr_Clear();
    PyErr_Format(PyExc_ValueError, "Value out of range: %R", value);
    return -1;
}

/* An integer within [least, most], or with `unsign` within [0, most]. */
static int integer(const Field *field, PyObject *value, bool unsign, uint64_t most, int64_t least,
                   uint64_t *bits)
{
    if (!PyIndex_Check(value) || PyBool_Check(value))
        return wrong_type(field, value, "an integer");
    PyObject *number = PyNumber_Index(value);
    if (number == NULL)
        return -1;
    int result = 0;
    if (unsign) {
        *bits = PyLong_AsUnsignedLongLong(number);
        if ((*bits == UINT64_MAX && PyErr_Occurred()) || *bits > most)
            result = out_of_range(value);
    } else {
        int64_t signed_value = PyLong_AsLongLong(number);
        if ((signed_value == -1 && PyErr_Occurred()) || signed_value < least ||
            (signed_value > 0 && (uint64_t)signed_value > most))
            result = out_of_range(value);
        *bits = (uint64_t)signed_value;
    }
    Py_DECREF(number);
    return result;
}

static int real(const Field *field, PyObject *value, uint64_t *bits)
{
    if (PyUnicode_Check(value) || PyBytes_Check(value) || value == Py_None)
        return wrong_type(field, value, "a number");
    double number = PyFloat_AsDouble(value);
    if (number == -1.0 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_TypeError))
            return -1;
        PyErr_Clear();
        return wrong_type(field, value, "a number");
    }
    if (field->layout->kind == ZH_FLOAT) {
        float narrow = (float)number;
        *bits = 0;
        memcpy(bits, &narrow, sizeof(narrow));
    } else {
        memcpy(bits, &number, sizeof(number));
    }
    return 0;
}

static int enumerator(const Field *field, PyObject *value, uint64_t *bits)
{
    PyObject *number = NULL;

    if (PyUnicode_Check(value)) {
        number = enum_number(field, value);
        if (number == NULL)
            return -1;
        value = number;
    }
    int result = integer(field, value, false, INT32_MAX, INT32_MIN, bits);
    if (result == 0 && (field->layout->flags & ZH_FIELD_CLOSED) != 0) {
        int32_t wanted = (int32_t)(int64_t)*bits;
        bool found = false;
        for (uint32_t i = 0; i < field->layout->value_count && !found; i++)
            found = field->layout->values[i] == wanted;
        if (!found) {
            PyErr_Format(PyExc_ValueError, "invalid enumerator %d", (int)wanted);
            result = -1;
        }
    }
    Py_XDECREF(number);
    return result;
}

int value_scalar(const Field *field, PyObject *value, uint64_t *bits)
{
    int truth;

    switch (field->layout->kind) {
    case ZH_DOUBLE:
    case ZH_FLOAT:
        return real(field, value, bits);
    case ZH_INT64:
    case ZH_SFIXED64:
    case ZH_SINT64:
        return integer(field, value, false, INT64_MAX, INT64_MIN, bits);
    case ZH_UINT64:
    case ZH_FIXED64:
        return integer(field, value, true, UINT64_MAX, 0, bits);
    case ZH_INT32:
    case ZH_SFIXED32:
    case ZH_SINT32:
        return integer(field, value, false, INT32_MAX, INT32_MIN, bits);
    case ZH_UINT32:
    case ZH_FIXED32:
        return integer(field, value, true, UINT32_MAX, 0, bits);
    case ZH_ENUM:
        return enumerator(field, value, bits);
    default: /* bool */
        if (!PyBool_Check(value) && !PyIndex_Check(value))
            return wrong_type(field, value, "a bool");
        truth = PyObject_IsTrue(value);
        *bits = (uint64_t)truth;
        return truth < 0 ? -1 : 0;
    }
}

int value_slot(Message *owner, const Field *field, PyObject *value, struct zh_slot old,
               struct zh_slot *slot)
{
    Py_buffer view = {0};
    const char *data;
    Py_ssize_t bytes;
    uint32_t epoch = owner->root->image.epoch;
    Message *shows = NULL;
    int result = -1;

    if (field->layout->kind == ZH_STRING) {
        if (PyUnicode_Check(value)) {
            data = PyUnicode_AsUTF8AndSize(value, &bytes);
            if (data == NULL)
                return -1;
        } else if (PyBytes_Check(value)) {
            PyObject *text = PyUnicode_FromEncodedObject(value, "utf-8", "strict");
            if (text == NULL)
                return -1;
            Py_DECREF(text);
            if (PyBytes_AsStringAndSize(value, (char **)&data, &bytes) != 0)
                return -1;
        } else {
            return wrong_type(field, value, "a str");
        }
    } else if (PyBytes_Check(value)) {
        if (PyBytes_AsStringAndSize(value, (char **)&data, &bytes) != 0)
            return -1;
    } else {
        if (PyUnicode_Check(value) || !PyObject_CheckBuffer(value))
            return wrong_type(field, value, "bytes or another buffer");
        if (PyObject_GetBuffer(value, &view, PyBUF_SIMPLE) != 0)
            return -1;
        data = view.buf;
        bytes = view.len;
        shows = bytes >= ZH_IMAGE_BLOB ? received_shown_by(value) : NULL;
        /* Python code may have sent the message, and either may have renewed it. */
        if (message_writable(owner) != 0)
            goto done;
        if (owner->root->image.epoch != epoch)
            old = (struct zh_slot){0};
    }
    if (bytes > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "a field of more than 2 GiB");
        goto done;
    }
    if (bytes == 0) {
        *slot = (struct zh_slot){0};
        result = 0;
        goto done;
    }
    /* Not for `bytes`, which lie elsewhere. */
    result = view.obj == NULL ? 0 : blob_adopt(owner, data, (size_t)bytes, slot);
    if (result == 0 && shows != NULL)
        result = received_adopt(owner, shows, (const uint8_t *)data, (size_t)bytes, slot);
    if (result != 0) {
        result = result < 0 ? -1 : 0;
        goto done;
    }
    result = -1;
    uint8_t *to = NULL;
    *slot = (struct zh_slot){.count = (uint32_t)bytes, .room = (uint32_t)((bytes + 7) & ~7)};
    /* In place, if nobody sees it; a buffer may be a view of just this memory. */
    if ((size_t)bytes <= old.room && message_owns(owner, old.ref)) {
        to = zh_image_at(&owner->root->image, old.ref);
        slot->ref = old.ref;
        slot->room = old.room;
    }
    if (to == NULL)
        to = message_alloc_raw(owner, (size_t)bytes, &slot->ref);
    if (to != NULL) {
        memmove(to, data, (size_t)bytes);
        zh_stat_add(ZH_STAT_BYTES_BUILT, (uint64_t)bytes);
        result = 0;
    }
done:
    /* Not what was overwritten in place; but what is referred to once more, in place of before. */
    if (result == 0 && old.count > 0 && (slot->ref != old.ref || slot->room == 0) &&
        owner->root->image.epoch == epoch)
        message_drop(owner, old.ref);
    if (view.obj != NULL)
        PyBuffer_Release(&view);
    return result;
}

static void field_mark(Message *self, const Field *field, bool set)
{
    const struct zh_field *f = field->layout;
    uint8_t *at = message_struct(self);

    if (f->label == ZH_OPTIONAL) {
        uint8_t *word = at + ZH_PRESENCE_AT + f->bit / 32 * 4;
        uint32_t bits = zh_load32(word), bit = 1u << f->bit % 32;
        bits = set ? bits | bit : bits & ~bit;
        memcpy(word, &bits, sizeof(bits));
    } else if (f->label == ZH_ONEOF) {
        uint32_t number = set ? f->number : 0;
        if (zh_load32(at + f->case_at) != number)
            memset(at + f->offset, 0, f->unit);
        memcpy(at + f->case_at, &number, sizeof(number));
    }
}

int field_set(Message *self, const Field *field, PyObject *value)
{
    const struct zh_field *f = field->layout;
    struct zh_slot slot;
    uint64_t bits;

    if (f->label < ZH_REPEATED && field->type != NULL &&
        PyObject_HasAttrString((PyObject *)field->type->type, "_internal_assign")) {
        /* A datetime to a Timestamp, a dict to a Struct, and so on. */
        Message *child = message_child(self, field);
        int result = child == NULL ? -1 : message_convert(child, value);
        Py_XDECREF((PyObject *)child);
        return result;
    }
    if (f->label >= ZH_REPEATED || field->type != NULL) {
        PyErr_Format(PyExc_AttributeError,
                     "Assignment not allowed to message, map, or repeated field \"%U\" in protocol "
                     "message object.",
                     field->name);
        return -1;
    }
    if (f->width != 16) {
        if (value_scalar(field, value, &bits) != 0 || message_writable(self) != 0)
            return -1;
        field_mark(self, field, true);
        memcpy(message_struct(self) + f->offset, &bits, f->width);
        return 0;
    }
    if (message_writable(self) != 0)
        return -1;
    struct zh_slot old = {0};
    if (f->label != ZH_ONEOF || field_is_set(self, field))
        old = zh_load_slot(message_struct(self) + f->offset);
    if (value_slot(self, field, value, old, &slot) != 0)
        return -1;
    field_mark(self, field, true);
    memcpy(message_struct(self) + f->offset, &slot, sizeof(slot));
    return 0;
}

int field_clear(Message *self, const Field *field)
{
    const struct zh_field *f = field->layout;

    if (message_writable(self) != 0)
        return -1;
    if ((f->label >= ZH_REPEATED || field->type != NULL) && message_let_go(self, field) != 0)
        return -1;
    if (f->label == ZH_ONEOF && !field_is_set(self, field))
        return 0;
    if (f->kind == ZH_BYTES && f->label < ZH_REPEATED)
        message_drop(self, zh_load_slot(message_struct(self) + f->offset).ref);
    field_mark(self, field, false);
    memset(message_struct(self) + f->offset, 0, f->unit);
    return 0;
}

/* --- descriptors --------------------------------------------------------------------------------
 */

static PyObject *get_any(PyObject *self, void *closure)
{
    return field_get((Message *)self, closure);
}

static int set_any(PyObject *self, PyObject *value, void *closure)
{
    const Field *field = closure;

    if (value == NULL) {
        PyErr_Format(PyExc_AttributeError, "use ClearField(\"%U\")", field->name);
        return -1;
    }
    return field_set((Message *)self, field, value);
}

/* The short ways, for fields that are what their bytes say. */
#define PLAIN_GETTER(name, expression)                                                             \
    static PyObject *name(PyObject *object, void *closure)                                         \
    {                                                                                              \
        Message *self = (Message *)object;                                                         \
        if (self->absent)                                                                          \
            message_refresh(self);                                                                 \
        const uint8_t *at = message_struct(self) + ((const Field *)closure)->layout->offset;       \
        return expression;                                                                         \
    }

PLAIN_GETTER(get_i32, PyLong_FromLong((int32_t)zh_load32(at)))
PLAIN_GETTER(get_i64, PyLong_FromLongLong((int64_t)zh_load64(at)))
PLAIN_GETTER(get_text, load_text(self, zh_load_slot(at)))
PLAIN_GETTER(get_view, load_bytes(self, closure, zh_load_slot(at)))

PyGetSetDef field_getset(Field *field)
{
    const struct zh_field *f = field->layout;
    getter get = get_any;

    if (f->label < ZH_REPEATED && !field->guarded) {
        if (f->kind == ZH_INT32 || f->kind == ZH_SINT32 || f->kind == ZH_SFIXED32 ||
            f->kind == ZH_ENUM)
            get = get_i32;
        else if (f->kind == ZH_INT64 || f->kind == ZH_SINT64 || f->kind == ZH_SFIXED64)
            get = get_i64;
        else if (f->kind == ZH_STRING)
            get = get_text;
        else if (f->kind == ZH_BYTES)
            get = get_view;
    }
    return (PyGetSetDef){
        .name = field->text,
        .get = get,
        .set = set_any,
        .closure = field,
    };
}
