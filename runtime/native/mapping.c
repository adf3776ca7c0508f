/* Map fields: a mapping over the array of entries in the message. */
#include "message.h"

#include <errno.h>

/*
 * Entries are searched for one after the other, newest first (of equal keys the last counts). From
 * so many on, a dict of the keys is made. It is right as long as nobody changes one of the
 * message's maps; whoever does so in a way that the dict can follow keeps it. When the mapping
 * goes, its dict stays with the root, for the next one: programs write `message.map[key]`.
 */
#define INDEX_FROM 8u

typedef struct {
    Container base;
    struct map_index index;
    PyObject *told; /* of a received map: the keys that Python has been told; dict, or NULL */
} Mapping;

static PyTypeObject *ScalarMap_Type, *MessageMap_Type;
static PyObject *views[3]; /* collections.abc's of keys, values and items */

static const Field *key_field(const Mapping *self)
{
    return &self->base.field->type->fields[0];
}

static const Field *value_field(const Mapping *self)
{
    return &self->base.field->type->fields[1];
}

PyObject *mapping_get(Message *self, const Field *field)
{
    PyTypeObject *type = field->type->fields[1].type != NULL ? MessageMap_Type : ScalarMap_Type;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Mapping *mapping = (Mapping *)alloc(type, 0);

    if (mapping != NULL)
        container_enter(&mapping->base, self, field);
    return (PyObject *)mapping;
}

static void mapping_dealloc(Mapping *self)
{
    PyTypeObject *type = TYPE_OF(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    struct map_index *kept = &self->base.message->root->map_index, old = *kept;
    if (self->index.keys != NULL) {
        *kept = self->index;
        Py_XDECREF(old.keys);
    }
    Py_XDECREF(self->told);
    container_leave(&self->base);
    release(self);
    Py_DECREF((PyObject *)type);
}

struct map_index *mapping_index(Container *container)
{
    return &((Mapping *)container)->index;
}

static struct zh_slot slot_of(Mapping *self)
{
    if (self->base.message->absent)
        message_refresh(self->base.message);
    return zh_load_slot(message_struct(self->base.message) + self->base.field->layout->offset);
}

static void set_slot(Mapping *self, struct zh_slot slot)
{
    memcpy(message_struct(self->base.message) + self->base.field->layout->offset, &slot,
           sizeof(slot));
}

/* The entry at a position, as a message; new reference. */
static Message *entry_at(Mapping *self, uint32_t at)
{
    struct zh_slot slot = slot_of(self);
    const uint8_t *array = message_at(self->base.message, slot.ref, (uint64_t)slot.count * 8);

    /* A peer may have changed it since the position was found. */
    if (array != NULL && at >= slot.count) {
        image_error(-EFAULT);
        return NULL;
    }
    return array == NULL ? NULL
                         : message_part(self->base.message, self->base.field->type,
                                        zh_load64(array + (size_t)at * 8));
}

static PyObject *entry_key(Mapping *self, uint32_t at)
{
    Message *entry = entry_at(self, at);
    PyObject *key = entry == NULL ? NULL : field_get(entry, key_field(self));

    Py_XDECREF((PyObject *)entry);
    return key;
}

/* Check a key and give it the form that entries have; new reference. */
static PyObject *normal_key(Mapping *self, PyObject *key)
{
    const Field *field = key_field(self);
    uint8_t memory[8] = {0};
    uint64_t bits;

    if (field->layout->kind == ZH_STRING) {
        if (PyUnicode_Check(key))
            return Py_NewRef(key);
        if (PyBytes_Check(key))
            return PyUnicode_FromEncodedObject(key, "utf-8", "strict");
        PyErr_Format(PyExc_TypeError, "the keys of %U.%U are str, not %R",
                     self->base.field->cls->name, self->base.field->name, TYPE_OF(key));
        return NULL;
    }
    if (value_scalar(field, key, &bits) != 0)
        return NULL;
    memcpy(memory, &bits, sizeof(bits));
    return value_load(self->base.message, field, memory);
}

static bool is_right(const Mapping *self, const struct map_index *index, struct zh_slot slot)
{
    return index->keys != NULL && index->array == slot.ref && index->count == slot.count &&
           index->changes == self->base.message->root->map_changes;
}

/* Make the index anew if it does not stand for what is there now. */
static int refresh_index(Mapping *self, struct zh_slot slot)
{
    struct map_index *kept = &self->base.message->root->map_index;

    if (is_right(self, &self->index, slot))
        return 0;
    Py_CLEAR(self->index.keys);
    if (is_right(self, kept, slot)) {
        self->index = *kept;
        kept->keys = NULL;
        return 0;
    }
    PyObject *keys = PyDict_New();
    for (uint32_t i = 0; keys != NULL && i < slot.count; i++) {
        PyObject *key = entry_key(self, i);
        PyObject *position = key == NULL ? NULL : PyLong_FromUnsignedLong(i);
        if (position == NULL || PyDict_SetItem(keys, key, position) != 0)
            Py_CLEAR(keys);
        Py_XDECREF(position);
        Py_XDECREF(key);
    }
    self->index =
        (struct map_index){keys, slot.ref, slot.count, self->base.message->root->map_changes};
    return keys == NULL ? -1 : 0;
}

/* The map has changed to `slot`. An index that was right and still is goes on being that. */
static void changed(Mapping *self, bool right, struct zh_slot slot)
{
    self->base.message->root->map_changes++;
    if (right) {
        self->index.array = slot.ref;
        self->index.count = slot.count;
        self->index.changes = self->base.message->root->map_changes;
    } else {
        Py_CLEAR(self->index.keys);
    }
}

/* Note the position of a key in a right index; false: it is not right any more. */
static bool note(Mapping *self, PyObject *key, uint32_t at)
{
    PyObject *position = PyLong_FromUnsignedLong(at);
    bool noted = position != NULL && PyDict_SetItem(self->index.keys, key, position) == 0;

    if (!noted)
        PyErr_Clear();
    Py_XDECREF(position);
    return noted;
}

/* The position of a key (normal), -1 if it is not there, -2 with an exception. */
static int64_t find(Mapping *self, PyObject *key)
{
    struct zh_slot slot = slot_of(self);

    if (slot.count >= INDEX_FROM) {
        if (refresh_index(self, slot) != 0)
            return -2;
        PyObject *at = PyDict_GetItemWithError(self->index.keys, key);
        return at != NULL ? PyLong_AsLongLong(at) : PyErr_Occurred() ? -2 : -1;
    }
    for (uint32_t i = slot.count; i-- > 0;) {
        PyObject *has = entry_key(self, i);
        int same = has == NULL ? -1 : PyObject_RichCompareBool(has, key, Py_EQ);
        Py_XDECREF(has);
        if (same != 0)
            return same < 0 ? -2 : (int64_t)i;
    }
    return -1;
}

/* Room for `count` entries in an array of our own. Others may change the map meanwhile. */
static int own_array(Mapping *self, uint64_t count)
{
    for (;;) {
        struct zh_slot slot = slot_of(self);
        uint64_t need = count * 8;
        if (need <= slot.room && message_owns(self->base.message, slot.ref))
            return 0;
        zh_ref ref;
        uint64_t room = need > slot.room && need <= slot.room * 2ull ? slot.room * 2ull : need;
        uint8_t *to = message_alloc_raw(self->base.message, (size_t)room, &ref);
        if (to == NULL)
            return -1;
        struct zh_slot now = slot_of(self);
        if (now.ref != slot.ref || now.count != slot.count || now.room != slot.room)
            continue;
        if (slot.count > 0) {
            const uint8_t *from =
                message_at(self->base.message, slot.ref, (uint64_t)slot.count * 8);
            if (from == NULL)
                return -1;
            memcpy(to, from, (size_t)slot.count * 8);
        }
        if (self->index.keys != NULL && self->index.array == slot.ref)
            self->index.array = ref;
        set_slot(self, (struct zh_slot){ref, slot.count, (uint32_t)room});
        return 0;
    }
}

/* A new entry with this key at the end; new reference. */
static Message *add(Mapping *self, PyObject *key)
{
    Class *type = self->base.field->type;
    struct zh_slot slot;
    zh_ref ref;

    if (message_writable(self->base.message) != 0 ||
        own_array(self, (uint64_t)slot_of(self).count + 1) != 0 ||
        message_alloc(self->base.message, type->layout->size, &ref) == NULL)
        return NULL;
    Message *entry = message_part(self->base.message, type, ref);
    /* Both may have had the message renewed, and entries by others. */
    if (entry == NULL || field_set(entry, key_field(self), key) != 0 ||
        own_array(self, (uint64_t)slot_of(self).count + 1) != 0) {
        Py_XDECREF((PyObject *)entry);
        return NULL;
    }
    slot = slot_of(self);
    bool right = is_right(self, &self->index, slot) && note(self, key, slot.count);
    uint8_t *array = zh_image_at(&self->base.message->root->image, slot.ref);
    memcpy(array + (size_t)slot.count * 8, &entry->place, sizeof(entry->place));
    slot.count++;
    set_slot(self, slot);
    changed(self, right, slot);
    return entry;
}

/* Take an entry out; the last one goes to its place. */
static int cut(Mapping *self, uint32_t at)
{
    if (message_writable(self->base.message) != 0 || own_array(self, slot_of(self).count) != 0)
        return -1;
    struct zh_slot slot = slot_of(self);
    if (at >= slot.count) {
        PyErr_Format(PyExc_RuntimeError, "%U is being changed by another thread",
                     self->base.field->cls->name);
        return -1;
    }
    bool right = false;
    if (is_right(self, &self->index, slot)) {
        PyObject *key = entry_key(self, at);
        PyObject *last = key == NULL ? NULL : entry_key(self, slot.count - 1);
        right = last != NULL && note(self, last, at) && PyDict_DelItem(self->index.keys, key) == 0;
        Py_XDECREF(last);
        Py_XDECREF(key);
        PyErr_Clear();
    }
    uint8_t *array = zh_image_at(&self->base.message->root->image, slot.ref);
    slot.count--;
    memcpy(array + (size_t)at * 8, array + (size_t)slot.count * 8, 8);
    set_slot(self, slot);
    changed(self, right, slot);
    return 0;
}

/* --- the mapping
 * ---------------------------------------------------------------------------------- */

/* Distinct keys, in the order in which they came; a peer's image may have some twice. */
static PyObject *keys_of(Mapping *self)
{
    struct zh_slot slot = slot_of(self);
    PyObject *keys = PyDict_New();

    for (uint32_t i = 0; keys != NULL && i < slot.count; i++) {
        PyObject *key = entry_key(self, i);
        if (key == NULL || PyDict_SetItem(keys, key, Py_None) != 0)
            Py_CLEAR(keys);
        Py_XDECREF(key);
    }
    PyObject *list = keys == NULL ? NULL : PyDict_Keys(keys);
    if (list != NULL && self->base.message->root->readonly) {
        Py_XDECREF(self->told);
        self->told = Py_NewRef(keys);
    }
    Py_XDECREF(keys);
    return list;
}

static Py_ssize_t mapping_length(Mapping *self)
{
    struct zh_slot slot = slot_of(self);

    if (self->base.message->root->received == NULL || slot.count < 2)
        return (Py_ssize_t)slot.count;
    if (refresh_index(self, slot) != 0)
        return -1;
    return PyDict_Size(self->index.keys);
}

static PyObject *value_at(Mapping *self, uint32_t at)
{
    Message *entry = entry_at(self, at);
    PyObject *value = NULL;

    if (entry != NULL && value_field(self)->type != NULL && !entry->root->readonly) {
        /* A value that no one has set is there all the same. */
        Message *child = message_child(entry, value_field(self));
        if (child != NULL && child->absent && message_writable(child) != 0)
            Py_CLEAR(child);
        value = (PyObject *)child;
    } else if (entry != NULL) {
        value = field_get(entry, value_field(self));
    }
    Py_XDECREF((PyObject *)entry);
    return value;
}

static PyObject *mapping_subscript(Mapping *self, PyObject *given)
{
    PyObject *key = normal_key(self, given);
    PyObject *value = NULL;

    if (key == NULL)
        return NULL;
    int64_t at = find(self, key);
    if (at >= 0) {
        value = value_at(self, (uint32_t)at);
    } else if (at == -1 && self->base.message->root->readonly) {
        int told = self->told == NULL ? 0 : PyDict_Contains(self->told, key);
        if (told > 0)
            PyErr_SetString(DecodeError, "a map has changed while it was read");
        else if (told == 0)
            PyErr_SetObject(PyExc_KeyError, given);
    } else if (at == -1) {
        /* protobuf's maps make what is asked for. */
        Message *entry = add(self, key);
        if (entry != NULL) {
            Py_DECREF((PyObject *)entry);
            value = value_at(self, slot_of(self).count - 1);
        }
    }
    Py_DECREF(key);
    return value;
}

static int mapping_assign(Mapping *self, PyObject *given, PyObject *value)
{
    if (value != NULL && value_field(self)->type != NULL) {
        PyErr_SetString(PyExc_ValueError, "May not set values directly, call my_map[key].foo = 5");
        return -1;
    }
    if (message_writable(self->base.message) != 0)
        return -1;
    PyObject *key = normal_key(self, given);
    int result = -1;
    if (key == NULL)
        return -1;
    int64_t at = find(self, key);
    if (value == NULL) {
        if (at >= 0)
            result = cut(self, (uint32_t)at);
        else if (at == -1)
            PyErr_SetObject(PyExc_KeyError, given);
    } else if (at != -2) {
        Message *entry = at >= 0 ? entry_at(self, (uint32_t)at) : add(self, key);
        result = entry == NULL ? -1 : field_set(entry, value_field(self), value);
        if (result != 0 && entry != NULL && at == -1) {
            PyObject *type, *error, *traceback;
            PyErr_Fetch(&type, &error, &traceback);
            (void)cut(self, slot_of(self).count - 1);
            PyErr_Restore(type, error, traceback);
        }
        Py_XDECREF((PyObject *)entry);
    }
    Py_DECREF(key);
    return result;
}

static int mapping_contains(Mapping *self, PyObject *given)
{
    PyObject *key = normal_key(self, given);

    if (key == NULL)
        return -1;
    int64_t at = find(self, key);
    Py_DECREF(key);
    return at == -2 ? -1 : at >= 0;
}

static PyObject *mapping_iterate(Mapping *self)
{
    PyObject *keys = keys_of(self);
    PyObject *iterator = keys == NULL ? NULL : PyObject_GetIter(keys);

    Py_XDECREF(keys);
    return iterator;
}

/* A dict with the same content; message values are parts. */
static PyObject *as_dict(Mapping *self)
{
    PyObject *keys = keys_of(self);
    PyObject *dict = keys == NULL ? NULL : PyDict_New();

    for (Py_ssize_t i = 0; dict != NULL && i < PyList_Size(keys); i++) {
        PyObject *key = PyList_GetItem(keys, i);
        PyObject *value = mapping_subscript(self, key);
        if (value == NULL || PyDict_SetItem(dict, key, value) != 0)
            Py_CLEAR(dict);
        Py_XDECREF(value);
    }
    Py_XDECREF(keys);
    return dict;
}

static PyObject *mapping_repr(Mapping *self)
{
    PyObject *dict = as_dict(self);
    PyObject *text = dict == NULL ? NULL : PyObject_Repr(dict);

    Py_XDECREF(dict);
    return text;
}

static PyObject *mapping_compare(PyObject *a, PyObject *b, int op)
{
    if (op != Py_EQ && op != Py_NE)
        Py_RETURN_NOTIMPLEMENTED;
    bool ours = TYPE_OF(b) == ScalarMap_Type || TYPE_OF(b) == MessageMap_Type;
    if (!ours && !PyDict_Check(b))
        Py_RETURN_NOTIMPLEMENTED;
    PyObject *left = as_dict((Mapping *)a);
    PyObject *right = left == NULL ? NULL : ours ? as_dict((Mapping *)b) : Py_NewRef(b);
    PyObject *result = right == NULL ? NULL : PyObject_RichCompare(left, right, op);
    Py_XDECREF(left);
    Py_XDECREF(right);
    return result;
}

/* --- methods
 * -------------------------------------------------------------------------------------- */

static int update(Mapping *self, PyObject *values)
{
    PyObject *pairs = PyMapping_Items(values);
    int result = pairs == NULL ? -1 : 0;

    if (result != 0 && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        /* Pairs, or what a dict refuses. */
        PyErr_Clear();
        PyObject *dict = PyDict_New();
        PyObject *done = dict == NULL ? NULL : PyObject_CallMethod(dict, "update", "O", values);
        pairs = done == NULL ? NULL : PyDict_Items(dict);
        result = pairs == NULL ? -1 : 0;
        Py_XDECREF(done);
        Py_XDECREF(dict);
    }
    for (Py_ssize_t i = 0; result == 0 && i < PyList_Size(pairs); i++) {
        PyObject *pair = PyList_GetItem(pairs, i);
        PyObject *key = PyTuple_GetItem(pair, 0), *value = PyTuple_GetItem(pair, 1);
        if (key == NULL || value == NULL) {
            result = -1;
        } else if (value_field(self)->type == NULL) {
            result = mapping_assign(self, key, value);
        } else {
            Message *child = (Message *)mapping_subscript(self, key);
            if (child == NULL)
                result = -1;
            else if (PyDict_Check(value))
                result = message_update(child, value);
            else if (TYPE_OF(value) == TYPE_OF(child))
                result = message_copy(child, (Message *)value);
            else
                result = message_convert(child, value);
            Py_XDECREF((PyObject *)child);
        }
    }
    Py_XDECREF(pairs);
    return result;
}

int mapping_update(Message *self, const Field *field, PyObject *values)
{
    Mapping *mapping = (Mapping *)mapping_get(self, field);

    if (mapping == NULL)
        return -1;
    int result = update(mapping, values);
    Py_DECREF((PyObject *)mapping);
    return result;
}

static PyObject *py_get(Mapping *self, PyObject *args)
{
    PyObject *key, *otherwise = Py_None;

    if (!PyArg_ParseTuple(args, "O|O:get", &key, &otherwise))
        return NULL;
    int contains = mapping_contains(self, key);
    if (contains < 0)
        return NULL;
    return contains != 0 ? mapping_subscript(self, key) : Py_NewRef(otherwise);
}

static PyObject *py_keys(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyObject_CallFunctionObjArgs(views[0], self, NULL);
}

static PyObject *py_values(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyObject_CallFunctionObjArgs(views[1], self, NULL);
}

static PyObject *py_items(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyObject_CallFunctionObjArgs(views[2], self, NULL);
}

static PyObject *py_clear(Mapping *self, PyObject *Py_UNUSED(ignored))
{
    if (message_writable(self->base.message) != 0)
        return NULL;
    set_slot(self, (struct zh_slot){0});
    changed(self, false, (struct zh_slot){0});
    Py_RETURN_NONE;
}

/* protobuf's maps make what is asked for, and so find what is to be taken out. */
static PyObject *take(Mapping *self, PyObject *key)
{
    PyObject *value = mapping_subscript(self, key);

    if (value != NULL && mapping_assign(self, key, NULL) != 0)
        Py_CLEAR(value);
    return value;
}

static PyObject *py_pop(Mapping *self, PyObject *args)
{
    PyObject *key, *otherwise = NULL;

    return PyArg_ParseTuple(args, "O|O:pop", &key, &otherwise) ? take(self, key) : NULL;
}

static PyObject *py_popitem(Mapping *self, PyObject *Py_UNUSED(ignored))
{
    if (slot_of(self).count == 0) {
        PyErr_SetString(PyExc_KeyError, "popitem(): the map is empty");
        return NULL;
    }
    PyObject *key = entry_key(self, 0);
    PyObject *value = key == NULL ? NULL : take(self, key);
    if (value == NULL) {
        Py_XDECREF(key);
        return NULL;
    }
    return Py_BuildValue("(NN)", key, value);
}

static PyObject *py_setdefault(Mapping *self, PyObject *args)
{
    PyObject *key, *value = Py_None;

    if (value_field(self)->type != NULL) {
        PyErr_SetString(PyExc_NotImplementedError,
                        "Set message map value directly is not supported.");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "O|O:setdefault", &key, &value))
        return NULL;
    int contains = mapping_contains(self, key);
    if (contains < 0 || (contains == 0 && mapping_assign(self, key, value) != 0))
        return NULL;
    return mapping_subscript(self, key);
}

static PyObject *py_entry_class(Mapping *self, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef((PyObject *)self->base.field->type->type);
}

static PyObject *py_update(Mapping *self, PyObject *args, PyObject *kwargs)
{
    PyObject *values = NULL;

    if (!PyArg_ParseTuple(args, "|O:update", &values))
        return NULL;
    if (values != NULL) {
        PyObject *dict = PyDict_New();
        PyObject *done = dict == NULL ? NULL : PyObject_CallMethod(dict, "update", "O", values);
        int result = done == NULL ? -1 : update(self, dict);
        Py_XDECREF(done);
        Py_XDECREF(dict);
        if (result != 0)
            return NULL;
    }
    if (kwargs != NULL && update(self, kwargs) != 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *py_merge_from(Mapping *self, PyObject *other)
{
    if (TYPE_OF(other) != TYPE_OF(self)) {
        PyErr_SetString(PyExc_TypeError, "MergeFrom() wants a map field");
        return NULL;
    }
    PyObject *dict = as_dict((Mapping *)other);
    int result = dict == NULL ? -1 : update(self, dict);
    Py_XDECREF(dict);
    if (result != 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *py_get_or_create(Mapping *self, PyObject *key)
{
    return mapping_subscript(self, key);
}

static PyObject *py_reduce(Mapping *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *dict = as_dict(self);
    return dict == NULL ? NULL : Py_BuildValue("O(N)", &PyDict_Type, dict);
}

#define METHOD(name, function, flags, text)                                                        \
    {                                                                                              \
        name, (PyCFunction)(void (*)(void))function, flags, PyDoc_STR(text)                        \
    }

#define COMMON_METHODS                                                                             \
    METHOD("get", py_get, METH_VARARGS, "get(key, default=None)\n--\n\nWithout making it."),       \
        METHOD("keys", py_keys, METH_NOARGS, "keys()\n--\n\nThe keys, a view."),                   \
        METHOD("values", py_values, METH_NOARGS, "values()\n--\n\nThe values, a view."),           \
        METHOD("items", py_items, METH_NOARGS, "items()\n--\n\nPairs, a view."),                   \
        METHOD("clear", py_clear, METH_NOARGS, "clear()\n--\n\nTake all out."),                    \
        METHOD("pop", py_pop, METH_VARARGS,                                                        \
               "pop(key[, default])\n--\n\nTake one out, which is made if need be."),              \
        METHOD("popitem", py_popitem, METH_NOARGS, "popitem()\n--\n\nTake some pair out."),        \
        METHOD("setdefault", py_setdefault, METH_VARARGS,                                          \
               "setdefault(key, value)\n--\n\nThe value; this one if there is none."),             \
        METHOD("GetEntryClass", py_entry_class, METH_NOARGS,                                       \
               "GetEntryClass()\n--\n\nThe class of the entries."),                                \
        METHOD("MergeFrom", py_merge_from, METH_O, "MergeFrom(other)\n--\n\nAdd its entries."),    \
        METHOD("__reduce__", py_reduce, METH_NOARGS, "__reduce__()\n--\n\nPickles as a dict.")

static PyMethodDef scalar_methods[] = {
    COMMON_METHODS,
    METHOD("update", py_update, METH_VARARGS | METH_KEYWORDS,
           "update(values, **more)\n--\n\nAs a dict's."),
    {NULL, NULL, 0, NULL},
};

static PyMethodDef message_map_methods[] = {
    COMMON_METHODS,
    METHOD("get_or_create", py_get_or_create, METH_O,
           "get_or_create(key)\n--\n\nThe message of a key, new if need be."),
    METHOD("update", py_update, METH_VARARGS | METH_KEYWORDS,
           "update(values, **more)\n--\n\nTake copies of messages, in place of what is there."),
    {NULL, NULL, 0, NULL},
};

#define COMMON_SLOTS                                                                               \
    {Py_tp_dealloc, (void *)mapping_dealloc}, {Py_mp_length, (void *)mapping_length},              \
        {Py_mp_subscript, (void *)mapping_subscript},                                              \
        {Py_mp_ass_subscript, (void *)mapping_assign}, {Py_sq_contains, (void *)mapping_contains}, \
        {Py_tp_iter, (void *)mapping_iterate}, {Py_tp_richcompare, (void *)mapping_compare},       \
        {Py_tp_hash, (void *)PyObject_HashNotImplemented},                                         \
    {                                                                                              \
        Py_tp_repr, (void *)mapping_repr                                                           \
    }

static PyType_Slot scalar_slots[] = {
    COMMON_SLOTS,
    {Py_tp_methods, scalar_methods},
    {Py_tp_doc, (void *)PyDoc_STR("A map field of scalars, text or bytes.")},
    {0, NULL},
};

static PyType_Slot message_map_slots[] = {
    COMMON_SLOTS,
    {Py_tp_methods, message_map_methods},
    {Py_tp_doc, (void *)PyDoc_STR("A map field of messages.")},
    {0, NULL},
};

static PyType_Spec scalar_spec = {
    .name = "zerohop._native.ScalarMap",
    .basicsize = sizeof(Mapping),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = scalar_slots,
};

static PyType_Spec message_map_spec = {
    .name = "zerohop._native.MessageMap",
    .basicsize = sizeof(Mapping),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = message_map_slots,
};

int mapping_init(PyObject *module)
{
    static const char *const names[] = {"KeysView", "ValuesView", "ItemsView"};
    PyObject *abc = PyImport_ImportModule("collections.abc");

    for (int i = 0; abc != NULL && i < 3; i++)
        views[i] = PyObject_GetAttrString(abc, names[i]);
    Py_XDECREF(abc);
    if (views[0] == NULL || views[1] == NULL || views[2] == NULL)
        return -1;
    ScalarMap_Type = (PyTypeObject *)PyType_FromSpec(&scalar_spec);
    MessageMap_Type = (PyTypeObject *)PyType_FromSpec(&message_map_spec);
    if (ScalarMap_Type == NULL || MessageMap_Type == NULL ||
        PyModule_AddObjectRef(module, "ScalarMap", (PyObject *)ScalarMap_Type) != 0)
        return -1;
    return PyModule_AddObjectRef(module, "MessageMap", (PyObject *)MessageMap_Type);
}
