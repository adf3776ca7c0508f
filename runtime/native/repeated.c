/* Repeated fields: a sequence over the array in the message. */
#include "repeated.h"

PyTypeObject *Repeated_Type;
static PyTypeObject *RepeatedMessages_Type;

PyObject *repeated_get(Message *self, const Field *field)
{
    PyTypeObject *type = field->type != NULL ? RepeatedMessages_Type : Repeated_Type;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Repeated *repeated = (Repeated *)alloc(type, 0);

    if (repeated != NULL)
        container_enter(&repeated->base, self, field);
    return (PyObject *)repeated;
}

static void repeated_dealloc(Repeated *self)
{
    PyTypeObject *type = TYPE_OF(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    container_leave(&self->base);
    release(self);
    Py_DECREF((PyObject *)type);
}

bool repeated_is_exported(const Container *container)
{
    return ((const Repeated *)container)->exports > 0;
}

/* Another thread may have changed or renewed it while memory was committed. */
static bool changed_since(Repeated *self, struct zh_slot slot)
{
    struct zh_slot now = slot_of(self);

    return now.ref != slot.ref || now.count != slot.count || now.room != slot.room;
}

/* The same as repeated_own_array, where the message itself is writable. It is not renewed. */
static int own_memory(Repeated *self, uint32_t count)
{
    for (;;) {
        struct zh_slot slot = slot_of(self);
        uint64_t need = (uint64_t)count * width_of(self);
        if (need == 0 || (need <= slot.room && message_owns(self->base.message, slot.ref)))
            return 0;
        if (self->exports > 0) {
            PyErr_SetString(PyExc_BufferError,
                            "Existing exports of data: object cannot be re-sized");
            return -1;
        }
        uint64_t room = need <= slot.room         ? slot.room
                        : need > slot.room * 2ull ? need
                                                  : slot.room * 2ull;
        room = (room + 7) & ~(uint64_t)7;
        if (need > INT32_MAX) {
            PyErr_SetString(PyExc_ValueError, "a repeated field of more than 2 GiB");
            return -1;
        }
        if (room > INT32_MAX)
            room = INT32_MAX & ~7;
        zh_ref ref;
        uint8_t *to = message_alloc_raw(self->base.message, (size_t)room, &ref);
        if (to == NULL)
            return -1;
        if (changed_since(self, slot))
            continue;
        size_t used = (size_t)slot.count * width_of(self);
        const uint8_t *from = used > 0 ? array_of(self, slot) : NULL;
        if (used > 0 && from == NULL)
            return -1;
        if (used > 0)
            memcpy(to, from, used);
        set_slot(self, (struct zh_slot){ref, slot.count, (uint32_t)room});
        return 0;
    }
}

int repeated_own_array(Repeated *self, uint32_t count)
{
    return message_writable(self->base.message) != 0 ? -1 : own_memory(self, count);
}

uint8_t *repeated_element(Repeated *self, uint32_t at)
{
    struct zh_slot slot = slot_of(self);
    return zh_image_at(&self->base.message->root->image, slot.ref + (uint64_t)at * width_of(self));
}

/* Write a value that is no message at a place that is there. */
static int put(Repeated *self, uint32_t at, PyObject *value)
{
    const Field *field = self->base.field;
    struct zh_slot slot;
    uint64_t bits;

    if (field->layout->width == 16) {
        struct zh_slot old = {0};
        if (at < slot_of(self).count)
            old = zh_load_slot(repeated_element(self, at));
        if (value_slot(self->base.message, field, value, old, &slot) != 0)
            return -1;
        /* Asking it for its memory may have sent the message. */
        if (!zh_image_owns(&self->base.message->root->image, slot_of(self).ref) &&
            own_memory(self, at + 1) != 0)
            return -1;
        memcpy(repeated_element(self, at), &slot, sizeof(slot));
        return 0;
    }
    if (value_scalar(field, value, &bits) != 0)
        return -1;
    /* Python code of the value's may have sent the message. */
    if (!PyFloat_CheckExact(value) && !PyLong_CheckExact(value) &&
        repeated_own_array(self, at + 1) != 0)
        return -1;
    memcpy(repeated_element(self, at), &bits, field->layout->width);
    return 0;
}

static int append(Repeated *self, PyObject *value)
{
    struct zh_slot slot = slot_of(self);

    if (repeated_own_array(self, slot.count + 1) != 0 || put(self, slot.count, value) != 0)
        return -1;
    slot = slot_of(self);
    slot.count++;
    set_slot(self, slot);
    return 0;
}

/* A new message at the end; new reference. */
static Message *add(Repeated *self)
{
    Class *type = self->base.field->type;
    struct zh_slot slot;
    zh_ref ref;

    do {
        if (repeated_own_array(self, slot_of(self).count + 1) != 0)
            return NULL;
        slot = slot_of(self);
        if (message_alloc(self->base.message, type->layout->size, &ref) == NULL)
            return NULL;
    } while (changed_since(self, slot));
    memcpy(repeated_element(self, slot.count), &ref, sizeof(ref));
    slot.count++;
    set_slot(self, slot);
    return message_part(self->base.message, type, ref);
}

/* Append a copy of a message, or one made of a dict. */
static int append_message(Repeated *self, PyObject *value)
{
    if (TYPE_OF(value) != self->base.field->type->type && !PyDict_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%U.%U has messages of %U, not %R",
                     self->base.field->cls->name, self->base.field->name,
                     self->base.field->type->name, TYPE_OF(value));
        return -1;
    }
    Message *added = add(self);
    if (added == NULL)
        return -1;
    int result =
        PyDict_Check(value) ? message_update(added, value) : message_copy(added, (Message *)value);
    Py_DECREF((PyObject *)added);
    return result;
}

static int extend_by_each(Repeated *self, PyObject *values)
{
    PyObject *value;

    PyObject *iterator = PyObject_GetIter(values);
    if (iterator == NULL)
        return -1;
    /* Of text, bytes and messages each one counts itself. */
    bool messages = self->base.field->type != NULL;
    size_t counted = messages || width_of(self) == 16 ? 0 : width_of(self);
    uint64_t built = 0;
    int result = 0;
    while (result == 0 && (value = PyIter_Next(iterator)) != NULL) {
        result = messages ? append_message(self, value) : append(self, value);
        built += result == 0 ? counted : 0;
        Py_DECREF(value);
    }
    Py_DECREF(iterator);
    if (built > 0)
        zh_stat_add(ZH_STAT_BYTES_BUILT, built);
    return result != 0 || PyErr_Occurred() ? -1 : 0;
}

static int extend(Repeated *self, PyObject *values)
{
    int result = repeated_extend_whole(self, values);

    if (result != 0)
        return result < 0 ? -1 : 0;
    return extend_by_each(self, values);
}

int repeated_extend(Message *self, const Field *field, PyObject *values)
{
    Repeated *repeated = (Repeated *)repeated_get(self, field);

    if (repeated == NULL)
        return -1;
    int result = extend(repeated, values);
    Py_DECREF((PyObject *)repeated);
    return result;
}

/* --- the sequence
 * --------------------------------------------------------------------------------- */

static Py_ssize_t repeated_length(Repeated *self)
{
    return (Py_ssize_t)slot_of(self).count;
}

static PyObject *load(Repeated *self, uint32_t at)
{
    struct zh_slot slot = slot_of(self);
    const uint8_t *array = array_of(self, slot);

    if (array == NULL)
        return NULL;
    return value_load(self->base.message, self->base.field, array + (size_t)at * width_of(self));
}

static PyObject *repeated_item(Repeated *self, Py_ssize_t at)
{
    if (at < 0 || at >= repeated_length(self)) {
        PyErr_SetString(PyExc_IndexError, "list index out of range");
        return NULL;
    }
    return load(self, (uint32_t)at);
}

static PyObject *as_list(Repeated *self)
{
    Py_ssize_t count = repeated_length(self);
    PyObject *list = PyList_New(count);

    for (Py_ssize_t i = 0; list != NULL && i < count; i++) {
        PyObject *item = repeated_item(self, i);
        if (item == NULL || PyList_SetItem(list, i, item) != 0)
            Py_CLEAR(list);
    }
    return list;
}

/* An index of Python's, checked; -1 with an exception. */
static Py_ssize_t index_of(Repeated *self, PyObject *key)
{
    Py_ssize_t count = repeated_length(self);
    Py_ssize_t at = PyNumber_AsSsize_t(key, PyExc_IndexError);

    if (at == -1 && PyErr_Occurred())
        return -1;
    if (at < 0)
        at += count;
    if (at < 0 || at >= count) {
        PyErr_SetString(PyExc_IndexError, "list index out of range");
        return -1;
    }
    return at;
}

static PyObject *repeated_subscript(Repeated *self, PyObject *key)
{
    if (PySlice_Check(key)) {
        PyObject *list = as_list(self);
        PyObject *part = list == NULL ? NULL : PyObject_GetItem(list, key);
        Py_XDECREF(list);
        return part;
    }
    Py_ssize_t at = index_of(self, key);
    return at < 0 ? NULL : load(self, (uint32_t)at);
}

static int clear(Repeated *self)
{
    if (message_writable(self->base.message) != 0)
        return -1;
    if (self->exports > 0) {
        PyErr_SetString(PyExc_BufferError, "Existing exports of data: object cannot be re-sized");
        return -1;
    }
    struct zh_slot slot = slot_of(self);
    uint8_t *array = slot.room > 0 ? zh_image_at(&self->base.message->root->image, slot.ref) : NULL;
    if (array != NULL && width_of(self) == 16 && message_owns(self->base.message, slot.ref))
        memset(array, 0, (size_t)slot.count * 16); /* no slot left that could be taken for room */
    slot.count = 0;
    set_slot(self, slot);
    return 0;
}

/* Take `count` elements out at `at`. References and slots move; nothing else does. */
static int cut(Repeated *self, uint32_t at, uint32_t count)
{
    struct zh_slot slot = slot_of(self);

    if (count == 0)
        return 0;
    if (self->exports > 0) {
        PyErr_SetString(PyExc_BufferError, "Existing exports of data: object cannot be re-sized");
        return -1;
    }
    if (repeated_own_array(self, slot.count) != 0)
        return -1;
    slot = slot_of(self);
    size_t width = width_of(self);
    uint8_t *array = repeated_element(self, 0);
    memmove(array + at * width, array + (at + count) * width, (slot.count - at - count) * width);
    memset(array + (slot.count - count) * width, 0, count * width);
    slot.count -= count;
    set_slot(self, slot);
    return 0;
}

/* Replace everything by these values. */
static int replace(Repeated *self, PyObject *list)
{
    PyObject *values = PySequence_List(list); /* which may be made of what is cleared */

    if (values == NULL)
        return -1;
    int result = clear(self) != 0 ? -1 : extend(self, values);
    Py_DECREF(values);
    return result;
}

static int assign_slice(Repeated *self, PyObject *key, PyObject *value)
{
    Py_ssize_t start, stop, step;

    if (value == NULL) {
        if (PySlice_Unpack(key, &start, &stop, &step) != 0)
            return -1;
        Py_ssize_t count = PySlice_AdjustIndices(repeated_length(self), &start, &stop, step);
        /* From the end, so that the places before keep their numbers. */
        if (step < 0) {
            start += (count - 1) * step;
            step = -step;
        }
        if (step == 1)
            return count > 0 ? cut(self, (uint32_t)start, (uint32_t)count) : 0;
        for (Py_ssize_t i = count; i-- > 0;) {
            if (cut(self, (uint32_t)(start + i * step), 1) != 0)
                return -1;
        }
        return 0;
    }
    if (self->base.field->type != NULL) {
        PyErr_SetString(PyExc_TypeError, "messages cannot be assigned; use add() or append()");
        return -1;
    }
    PyObject *list = as_list(self);
    int result = list == NULL ? -1 : PyObject_SetItem(list, key, value);
    if (result == 0)
        result = replace(self, list);
    Py_XDECREF(list);
    return result;
}

static int repeated_assign(Repeated *self, PyObject *key, PyObject *value)
{
    if (PySlice_Check(key))
        return assign_slice(self, key, value);
    Py_ssize_t at = index_of(self, key);
    if (at < 0)
        return -1;
    if (value == NULL)
        return cut(self, (uint32_t)at, 1);
    if (self->base.field->type != NULL) {
        PyErr_SetString(PyExc_TypeError, "messages cannot be assigned; use add() or append()");
        return -1;
    }
    if (repeated_own_array(self, slot_of(self).count) != 0)
        return -1;
    return put(self, (uint32_t)at, value);
}

static PyObject *repeated_compare(PyObject *a, PyObject *b, int op)
{
    if (op != Py_EQ && op != Py_NE)
        Py_RETURN_NOTIMPLEMENTED;
    bool ours = TYPE_OF(b) == Repeated_Type || TYPE_OF(b) == RepeatedMessages_Type;
    if (!ours && !PyList_Check(b) && !PyTuple_Check(b))
        Py_RETURN_NOTIMPLEMENTED;
    PyObject *left = as_list((Repeated *)a);
    PyObject *right = ours ? as_list((Repeated *)b) : PySequence_List(b);
    PyObject *result = left == NULL || right == NULL ? NULL : PyObject_RichCompare(left, right, op);
    Py_XDECREF(left);
    Py_XDECREF(right);
    return result;
}

static PyObject *repeated_repr(Repeated *self)
{
    PyObject *list = as_list(self);
    PyObject *text = list == NULL ? NULL : PyObject_Repr(list);

    Py_XDECREF(list);
    return text;
}

/* --- methods
 * -------------------------------------------------------------------------------------- */

static PyObject *py_append(Repeated *self, PyObject *value)
{
    int result = self->base.field->type != NULL ? append_message(self, value) : append(self, value);
    if (result != 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *py_extend(Repeated *self, PyObject *values)
{
    if (values != Py_None) {
        int result = repeated_extend_whole(self, values);
        if (result == 0) {
            PyObject *list = PySequence_List(values); /* it may be this sequence */
            result = list == NULL ? -1 : extend(self, list);
            Py_XDECREF(list);
        }
        if (result < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *py_add(Repeated *self, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_Size(args) != 0) {
        PyErr_SetString(PyExc_TypeError, "add() takes the new message's fields by name");
        return NULL;
    }
    Message *added = add(self);
    if (added != NULL && kwargs != NULL && message_update(added, kwargs) != 0)
        Py_CLEAR(added);
    return (PyObject *)added;
}

static PyObject *py_insert(Repeated *self, PyObject *args)
{
    Py_ssize_t at;
    PyObject *value;

    if (!PyArg_ParseTuple(args, "nO:insert", &at, &value) || py_append(self, value) == NULL)
        return NULL;
    Py_DECREF(Py_None); /* py_append's */
    Py_ssize_t last = repeated_length(self) - 1;
    if (at < 0)
        at = at + last < 0 ? 0 : at + last;
    if (at >= last)
        Py_RETURN_NONE;
    uint8_t moved[16];
    size_t width = width_of(self);
    uint8_t *array = repeated_element(self, 0);
    memcpy(moved, array + (size_t)last * width, width);
    memmove(array + (size_t)(at + 1) * width, array + (size_t)at * width,
            (size_t)(last - at) * width);
    memcpy(array + (size_t)at * width, moved, width);
    Py_RETURN_NONE;
}

static PyObject *py_pop(Repeated *self, PyObject *args)
{
    PyObject *key = NULL;

    if (!PyArg_ParseTuple(args, "|O:pop", &key))
        return NULL;
    Py_ssize_t at = repeated_length(self) - 1;
    if (key != NULL) {
        at = index_of(self, key);
    } else if (at < 0) {
        PyErr_SetString(PyExc_IndexError, "pop from empty list");
    }
    PyObject *item = at < 0 ? NULL : load(self, (uint32_t)at);
    if (item != NULL && cut(self, (uint32_t)at, 1) != 0)
        Py_CLEAR(item);
    return item;
}

static PyObject *py_remove(Repeated *self, PyObject *value)
{
    for (Py_ssize_t i = 0; i < repeated_length(self); i++) {
        PyObject *item = load(self, (uint32_t)i);
        int same = item == NULL ? -1 : PyObject_RichCompareBool(item, value, Py_EQ);
        Py_XDECREF(item);
        if (same < 0 || (same > 0 && cut(self, (uint32_t)i, 1) != 0))
            return NULL;
        if (same > 0)
            Py_RETURN_NONE;
    }
    PyErr_SetString(PyExc_ValueError, "list.remove(x): x not in list");
    return NULL;
}

static PyObject *py_clear(Repeated *self, PyObject *Py_UNUSED(ignored))
{
    if (clear(self) != 0)
        return NULL;
    Py_RETURN_NONE;
}

/* Views have no order; bytes have. 0, or -1 with an exception. */
static int views_to_bytes(PyObject *list)
{
    for (Py_ssize_t i = 0; i < PyList_Size(list); i++) {
        PyObject *bytes = PyBytes_FromObject(PyList_GetItem(list, i));
        if (bytes == NULL || PyList_SetItem(list, i, bytes) != 0)
            return -1;
    }
    return 0;
}

/* sort and reverse: of references where the elements are messages. */
static PyObject *reorder(Repeated *self, const char *method, PyObject *args, PyObject *kwargs)
{
    uint32_t count = (uint32_t)repeated_length(self);
    size_t width = width_of(self);
    PyObject *result = NULL;

    if (repeated_own_array(self, count) != 0)
        return NULL;
    PyObject *list = as_list(self);
    PyObject *key = kwargs == NULL ? NULL : PyDict_GetItemString(kwargs, "key");
    if (list != NULL && self->base.field->layout->kind == ZH_BYTES &&
        (key == NULL || key == Py_None) && views_to_bytes(list) != 0)
        Py_CLEAR(list);
    PyObject *before = list == NULL ? NULL : PyList_GetSlice(list, 0, PyList_Size(list));
    PyObject *call = before == NULL ? NULL : PyObject_GetAttrString(list, method);
    PyObject *done = call == NULL ? NULL : PyObject_Call(call, args, kwargs);
    /* Python code of the key's may have sent the message. */
    bool owned = done != NULL && repeated_own_array(self, count) == 0;
    uint8_t *copy = owned ? malloc((size_t)count * width + 1) : NULL;
    if (copy != NULL && (uint32_t)repeated_length(self) == count && count > 0) {
        /* By identity: each object of `before` is one element. */
        memcpy(copy, repeated_element(self, 0), (size_t)count * width);
        bool *used = calloc(count, sizeof(bool));
        for (uint32_t i = 0; used != NULL && i < count; i++) {
            for (uint32_t j = 0; j < count; j++) {
                if (!used[j] &&
                    PyList_GetItem(before, (Py_ssize_t)j) == PyList_GetItem(list, (Py_ssize_t)i)) {
                    memcpy(repeated_element(self, i), copy + j * width, width);
                    used[j] = true;
                    break;
                }
            }
        }
        if (used == NULL)
            PyErr_NoMemory();
        free(used);
    }
    if (copy != NULL && !PyErr_Occurred())
        result = Py_NewRef(Py_None);
    free(copy);
    Py_XDECREF(done);
    Py_XDECREF(call);
    Py_XDECREF(before);
    Py_XDECREF(list);
    return result;
}

static PyObject *py_sort(Repeated *self, PyObject *args, PyObject *kwargs)
{
    return reorder(self, "sort", args, kwargs);
}

static PyObject *py_reverse(Repeated *self, PyObject *args)
{
    return reorder(self, "reverse", args, NULL);
}

static PyObject *py_index(Repeated *self, PyObject *args)
{
    PyObject *list = as_list(self);
    PyObject *call = list == NULL ? NULL : PyObject_GetAttrString(list, "index");
    PyObject *result = call == NULL ? NULL : PyObject_Call(call, args, NULL);

    Py_XDECREF(call);
    Py_XDECREF(list);
    return result;
}

static PyObject *py_count(Repeated *self, PyObject *value)
{
    PyObject *list = as_list(self);
    PyObject *result = list == NULL ? NULL : PyObject_CallMethod(list, "count", "O", value);

    Py_XDECREF(list);
    return result;
}

static PyObject *py_merge_from(Repeated *self, PyObject *other)
{
    if (TYPE_OF(other) != TYPE_OF(self)) {
        PyErr_SetString(PyExc_TypeError, "MergeFrom() wants a repeated field");
        return NULL;
    }
    return py_extend(self, other);
}

static PyObject *py_reserve(Repeated *self, PyObject *count)
{
    Py_ssize_t wanted = PyNumber_AsSsize_t(count, PyExc_OverflowError);

    if (wanted == -1 && PyErr_Occurred())
        return NULL;
    if (wanted < 0 || wanted > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "how many elements there shall be room for");
        return NULL;
    }
    if (repeated_own_array(self, (uint32_t)wanted) != 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *py_deepcopy(Repeated *self, PyObject *memo)
{
    PyObject *list = as_list(self);

    if (self->base.field->type == NULL || list == NULL)
        return list;
    PyObject *copy = PyImport_ImportModule("copy");
    PyObject *result =
        copy == NULL ? NULL : PyObject_CallMethod(copy, "deepcopy", "OO", list, memo);
    Py_XDECREF(copy);
    Py_DECREF(list);
    return result;
}

static PyObject *py_reduce(Repeated *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *list = as_list(self);
    return list == NULL ? NULL : Py_BuildValue("O(N)", &PyList_Type, list);
}

/* --- the types
 * ------------------------------------------------------------------------------------ */

#define METHOD(name, function, flags, text)                                                        \
    {                                                                                              \
        name, (PyCFunction)(void (*)(void))function, flags, PyDoc_STR(text)                        \
    }

#define COMMON_METHODS                                                                             \
    METHOD("append", py_append, METH_O, "append(value)\n--\n\nA copy of it at the end."),          \
        METHOD("extend", py_extend, METH_O, "extend(values)\n--\n\nAppend each of them."),         \
        METHOD("insert", py_insert, METH_VARARGS, "insert(index, value)\n--\n\nBefore an index."), \
        METHOD("pop", py_pop, METH_VARARGS, "pop(index=-1)\n--\n\nTake one out."),                 \
        METHOD("remove", py_remove, METH_O, "remove(value)\n--\n\nThe first that is equal."),      \
        METHOD("clear", py_clear, METH_NOARGS, "clear()\n--\n\nTake all out."),                    \
        METHOD("sort", py_sort, METH_VARARGS | METH_KEYWORDS,                                      \
               "sort(*, key=None, reverse=False)\n--\n\nAs a list's."),                            \
        METHOD("reverse", py_reverse, METH_VARARGS, "reverse()\n--\n\nAs a list's."),              \
        METHOD("index", py_index, METH_VARARGS, "index(value)\n--\n\nAs a list's."),               \
        METHOD("count", py_count, METH_O, "count(value)\n--\n\nAs a list's."),                     \
        METHOD("MergeFrom", py_merge_from, METH_O,                                                 \
               "MergeFrom(other)\n--\n\nAppend its elements."),                                    \
        METHOD("reserve", py_reserve, METH_O,                                                      \
               "reserve(count)\n--\n\nHave room for so many elements, so that appending moves "    \
               "nothing."),                                                                        \
        METHOD("__deepcopy__", py_deepcopy, METH_O, "__deepcopy__(memo)\n--\n\nA list."),          \
        METHOD("__reduce__", py_reduce, METH_NOARGS, "__reduce__()\n--\n\nPickles as a list.")

static PyMethodDef repeated_methods[] = {
    COMMON_METHODS,
    {NULL, NULL, 0, NULL},
};

static PyMethodDef repeated_messages_methods[] = {
    COMMON_METHODS,
    METHOD("add", py_add, METH_VARARGS | METH_KEYWORDS,
           "add(**fields)\n--\n\nA new message at the end."),
    {NULL, NULL, 0, NULL},
};

#define COMMON_SLOTS                                                                               \
    {Py_tp_dealloc, (void *)repeated_dealloc}, {Py_sq_length, (void *)repeated_length},            \
        {Py_sq_item, (void *)repeated_item}, {Py_mp_length, (void *)repeated_length},              \
        {Py_mp_subscript, (void *)repeated_subscript},                                             \
        {Py_mp_ass_subscript, (void *)repeated_assign},                                            \
        {Py_tp_richcompare, (void *)repeated_compare},                                             \
        {Py_tp_hash, (void *)PyObject_HashNotImplemented},                                         \
    {                                                                                              \
        Py_tp_repr, (void *)repeated_repr                                                          \
    }

static PyType_Slot repeated_slots[] = {
    COMMON_SLOTS,
    {Py_tp_methods, repeated_methods},
    {Py_bf_getbuffer, (void *)repeated_getbuffer},
    {Py_bf_releasebuffer, (void *)repeated_releasebuffer},
    {Py_tp_doc, (void *)PyDoc_STR("A repeated field of scalars, text or bytes; a buffer of the "
                                  "scalars.")},
    {0, NULL},
};

static PyType_Slot repeated_messages_slots[] = {
    COMMON_SLOTS,
    {Py_tp_methods, repeated_messages_methods},
    {Py_tp_doc, (void *)PyDoc_STR("A repeated field of messages.")},
    {0, NULL},
};

static PyType_Spec repeated_spec = {
    .name = "zerohop._native.Repeated",
    .basicsize = sizeof(Repeated),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = repeated_slots,
};

static PyType_Spec repeated_messages_spec = {
    .name = "zerohop._native.RepeatedMessages",
    .basicsize = sizeof(Repeated),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = repeated_messages_slots,
};

int repeated_init(PyObject *module)
{
    Repeated_Type = (PyTypeObject *)PyType_FromSpec(&repeated_spec);
    RepeatedMessages_Type = (PyTypeObject *)PyType_FromSpec(&repeated_messages_spec);
    if (Repeated_Type == NULL || RepeatedMessages_Type == NULL ||
        PyModule_AddObjectRef(module, "Repeated", (PyObject *)Repeated_Type) != 0)
        return -1;
    return PyModule_AddObjectRef(module, "RepeatedMessages", (PyObject *)RepeatedMessages_Type);
}
