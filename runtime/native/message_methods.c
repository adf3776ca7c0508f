/* The methods of messages: protobuf's Python API. */
#include "message.h"

static const char STRUCT[] = "google.protobuf.Struct", LIST_VALUE[] = "google.protobuf.ListValue";
static PyObject *hooks[HOOK_COUNT];

PyObject *native_set_message_hooks(PyObject *Py_UNUSED(self), PyObject *args)
{
    PyObject *given[HOOK_COUNT], *decode, *encode;

    if (!PyArg_ParseTuple(args, "OOOOO:set_message_hooks", &given[0], &given[1], &given[2], &decode,
                          &encode))
        return NULL;
    for (int i = 0; i < HOOK_COUNT; i++) {
        PyObject *old = hooks[i];
        hooks[i] = Py_NewRef(given[i]);
        Py_XDECREF(old);
    }
    DecodeError = Py_NewRef(decode);
    EncodeError = Py_NewRef(encode);
    Py_RETURN_NONE;
}

static PyObject *hook(int which, PyObject *a, PyObject *b)
{
    if (hooks[which] == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "zerohop.generated has not been imported");
        return NULL;
    }
    return PyObject_CallFunctionObjArgs(hooks[which], a, b, NULL);
}

int message_convert(Message *self, PyObject *value)
{
    PyObject *result = hook(HOOK_CONVERT, (PyObject *)self, value);

    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

bool message_is_struct_content(const Class *cls, PyObject *value)
{
    return strcmp(cls->name_text, STRUCT) == 0 && PyDict_GetItemString(value, "fields") == NULL;
}

PyObject *enum_number(const Field *field, PyObject *name)
{
    PyObject *place = Py_BuildValue("(OO)", field->cls->type, field->name);
    PyObject *number = place == NULL ? NULL : hook(HOOK_ENUM, place, name);

    Py_XDECREF(place);
    return number;
}

PyObject *message_repr(PyObject *self)
{
    return hook(HOOK_TEXT, self, NULL);
}

static void freshen(Message *self)
{
    if (self->absent)
        message_refresh(self);
}

/* --- required fields
 * ------------------------------------------------------------------------------ */

static int missing_in(Message *self, const char *path, PyObject *found);

static int missing_in_value(PyObject *value, const char *path, const Field *field, PyObject *found)
{
    char *inner = NULL;

    if (asprintf(&inner, "%s%s.", path, field->text) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    int result = missing_in((Message *)value, inner, found);
    free(inner);
    return result;
}

/* Append the paths of required fields that are not set. With `found` NULL: 1 if there is one. */
static int missing_in(Message *self, const char *path, PyObject *found)
{
    const struct zh_layout *layout = self->cls->layout;

    if (!layout->required)
        return 0;
    if (Py_EnterRecursiveCall(" while looking for required fields") != 0)
        return -1;
    int result = 0;
    for (uint32_t i = 0; i < layout->field_count && result == 0; i++) {
        const Field *field = &self->cls->fields[i];
        if (!field_is_set(self, field)) {
            if ((field->layout->flags & ZH_FIELD_REQUIRED) == 0)
                continue;
            PyObject *text = PyUnicode_FromFormat("%s%U", path, field->name);
            result = text == NULL ? -1 : PyList_Append(found, text);
            Py_XDECREF(text);
            continue;
        }
        if (field->type == NULL || !field->type->layout->required)
            continue;
        PyObject *value = field_get(self, field);
        if (value == NULL) {
            result = -1;
        } else if (field->layout->label == ZH_IMPLICIT || field->layout->label == ZH_ONEOF) {
            result = missing_in_value(value, path, field, found);
        } else {
            PyObject *items =
                field->layout->label == ZH_MAP ? PyMapping_Values(value) : PySequence_List(value);
            for (Py_ssize_t n = 0; items != NULL && result == 0 && n < PyList_Size(items); n++)
                result = missing_in_value(PyList_GetItem(items, n), path, field, found);
            if (items == NULL)
                result = -1;
            Py_XDECREF(items);
        }
        Py_XDECREF(value);
    }
    Py_LeaveRecursiveCall();
    return result;
}

static PyObject *missing(Message *self)
{
    PyObject *found = PyList_New(0);

    freshen(self);
    if (found != NULL && missing_in(self, "", found) != 0)
        Py_CLEAR(found);
    return found;
}

static PyObject *py_is_initialized(Message *self, PyObject *args)
{
    PyObject *errors = NULL;

    if (!PyArg_ParseTuple(args, "|O:IsInitialized", &errors))
        return NULL;
    PyObject *found = missing(self);
    if (found == NULL)
        return NULL;
    bool good = PyList_Size(found) == 0;
    if (errors != NULL && errors != Py_None && !good) {
        PyObject *result = PyObject_CallMethod(errors, "extend", "O", found);
        if (result == NULL) {
            Py_DECREF(found);
            return NULL;
        }
        Py_DECREF(result);
    }
    Py_DECREF(found);
    return PyBool_FromLong(good);
}

static PyObject *py_find_errors(Message *self, PyObject *Py_UNUSED(ignored))
{
    return missing(self);
}

/* --- wire bytes
 * ----------------------------------------------------------------------------------- */

int message_check_required(Message *self)
{
    PyObject *found = missing(self);

    if (found == NULL)
        return -1;
    bool good = PyList_Size(found) == 0;
    if (!good) {
        PyObject *comma = PyUnicode_FromString(",");
        PyObject *text = comma == NULL ? NULL : PyUnicode_Join(comma, found);
        if (text != NULL)
            PyErr_Format(EncodeError, "Message %U is missing required fields: %U", self->cls->name,
                         text);
        Py_XDECREF(text);
        Py_XDECREF(comma);
    }
    Py_DECREF(found);
    return good ? 0 : -1;
}

static PyObject *serialize(Message *self, PyObject *args, PyObject *kwargs, bool partial)
{
    static char *names[] = {"deterministic", NULL};
    int sorted = 0;

    if (kwargs != NULL || PyTuple_Size(args) != 0) {
        if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|p", names, &sorted))
            return NULL;
    }
    freshen(self);
    if (!partial && self->cls->layout->required && message_check_required(self) != 0)
        return NULL;
    return message_serialize(self, sorted != 0);
}

PyObject *message_py_serialize(PyObject *self, PyObject *args, PyObject *kwargs)
{
    return serialize((Message *)self, args, kwargs, false);
}

static PyObject *py_serialize_partial(PyObject *self, PyObject *args, PyObject *kwargs)
{
    return serialize((Message *)self, args, kwargs, true);
}

static PyObject *py_byte_size(Message *self, PyObject *Py_UNUSED(ignored))
{
    Py_ssize_t size = message_wire_size(self);

    return size < 0 ? NULL : PyLong_FromSsize_t(size);
}

static PyObject *consumed(PyObject *buffer)
{
    Py_ssize_t size = PyBytes_Check(buffer) ? PyBytes_Size(buffer) : PyObject_Size(buffer);
    return size < 0 ? NULL : PyLong_FromSsize_t(size);
}

static PyObject *py_merge_from_string(Message *self, PyObject *buffer)
{
    return message_parse(self, buffer) == 0 ? consumed(buffer) : NULL;
}

static PyObject *py_parse_from_string(Message *self, PyObject *buffer)
{
    return message_clear(self) == 0 && message_parse(self, buffer) == 0 ? consumed(buffer) : NULL;
}

static PyObject *py_from_string(PyObject *type, PyObject *source)
{
    Class *cls = class_of((PyTypeObject *)type);

    if (cls == NULL) {
        PyErr_SetString(PyExc_TypeError, "FromString is for generated classes");
        return NULL;
    }
    if (TYPE_OF(source) == Received_Type)
        return (PyObject *)received_message((Received *)source, cls);
    Message *self = message_new(cls);
    if (self != NULL && message_parse(self, source) != 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

/* --- fields
 * --------------------------------------------------------------------------------------- */

static PyObject *py_has_field(Message *self, PyObject *name)
{
    freshen(self);
    PyObject *members = PyDict_GetItemWithError(self->cls->oneofs, name);
    if (members != NULL) {
        for (Py_ssize_t i = 0; i < PyList_Size(members); i++) {
            const Field *field = class_field(self->cls, PyList_GetItem(members, i));
            if (field != NULL && field_is_set(self, field))
                Py_RETURN_TRUE;
        }
        Py_RETURN_FALSE;
    }
    if (PyErr_Occurred())
        return NULL;
    const Field *field = class_field(self->cls, name);
    if (field == NULL)
        return NULL;
    if (field->layout->label >= ZH_REPEATED ||
        (field->layout->label == ZH_IMPLICIT && field->type == NULL)) {
        PyErr_Format(PyExc_ValueError, "Field %U.%U does not have presence.", self->cls->name,
                     name);
        return NULL;
    }
    return PyBool_FromLong(!self->absent && field_is_set(self, field));
}

/* "field" in message */
int message_contains(PyObject *self, PyObject *name)
{
    const char *full_name = ((Message *)self)->cls->name_text;
    bool is_struct = strcmp(full_name, STRUCT) == 0;

    if (is_struct || strcmp(full_name, LIST_VALUE) == 0) {
        /* These are what they hold. */
        PyObject *held = is_struct ? PyObject_GetAttrString(self, "fields") : PySequence_List(self);
        int contains = held == NULL ? -1 : PySequence_Contains(held, name);
        Py_XDECREF(held);
        return contains;
    }
    PyObject *has = py_has_field((Message *)self, name);
    int result = has == NULL ? -1 : has == Py_True;

    Py_XDECREF(has);
    return result;
}

static PyObject *py_clear_field(Message *self, PyObject *name)
{
    PyObject *members = PyDict_GetItemWithError(self->cls->oneofs, name);

    freshen(self);
    if (members != NULL) {
        for (Py_ssize_t i = 0; i < PyList_Size(members); i++) {
            const Field *field = class_field(self->cls, PyList_GetItem(members, i));
            if (field == NULL || field_clear(self, field) != 0)
                return NULL;
        }
        Py_RETURN_NONE;
    }
    const Field *field = PyErr_Occurred() ? NULL : class_field(self->cls, name);
    if (field == NULL || field_clear(self, field) != 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *py_which_oneof(Message *self, PyObject *name)
{
    freshen(self);
    PyObject *members = PyDict_GetItemWithError(self->cls->oneofs, name);
    if (members == NULL) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "Protocol message %U has no oneof \"%S\" field.",
                         self->cls->name, name);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_Size(members); i++) {
        PyObject *member = PyList_GetItem(members, i);
        const Field *field = class_field(self->cls, member);
        if (field == NULL)
            return NULL;
        if (field_is_set(self, field))
            return Py_NewRef(member);
    }
    Py_RETURN_NONE;
}

static PyObject *py_list_fields(Message *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *list = PyList_New(0);
    PyObject *descriptor = PyObject_GetAttrString((PyObject *)self->cls->type, "DESCRIPTOR");
    PyObject *by_name =
        descriptor == NULL ? NULL : PyObject_GetAttrString(descriptor, "fields_by_name");

    freshen(self);
    if (by_name == NULL)
        Py_CLEAR(list);
    for (uint32_t i = 0; list != NULL && i < self->cls->layout->field_count; i++) {
        const Field *field = &self->cls->fields[i];
        if (!field_is_set(self, field))
            continue;
        PyObject *about = PyObject_GetItem(by_name, field->name);
        PyObject *value = about == NULL ? NULL : field_get(self, field);
        PyObject *pair = value == NULL ? NULL : PyTuple_Pack(2, about, value);
        if (pair == NULL || PyList_Append(list, pair) != 0)
            Py_CLEAR(list);
        Py_XDECREF(pair);
        Py_XDECREF(value);
        Py_XDECREF(about);
    }
    Py_XDECREF(by_name);
    Py_XDECREF(descriptor);
    return list;
}

/* --- whole messages
 * ------------------------------------------------------------------------------- */

static int same_class(Message *self, PyObject *other, const char *method)
{
    if (TYPE_OF(other) == self->cls->type)
        return 0;
    PyErr_Format(PyExc_TypeError,
                 "Parameter to %s() must be instance of same class: expected %U got %R.", method,
                 self->cls->name, TYPE_OF(other));
    return -1;
}

static PyObject *py_clear(Message *self, PyObject *Py_UNUSED(ignored))
{
    if (message_clear(self) != 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *py_copy_from(Message *self, PyObject *other)
{
    if (same_class(self, other, "CopyFrom") != 0 || message_copy(self, (Message *)other) != 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *py_merge_from(Message *self, PyObject *other)
{
    if (same_class(self, other, "MergeFrom") != 0 || message_merge(self, (Message *)other) != 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *py_set_in_parent(Message *self, PyObject *Py_UNUSED(ignored))
{
    if (message_writable(self) != 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *py_discard_unknown(Message *self, PyObject *Py_UNUSED(ignored))
{
    if (message_writable(self) != 0)
        return NULL;
    memset(message_struct(self) + ZH_UNKNOWN_AT, 0, sizeof(struct zh_slot));
    for (uint32_t i = 0; i < self->cls->layout->field_count; i++) {
        const Field *field = &self->cls->fields[i];
        if (field->type == NULL || !field_is_set(self, field))
            continue;
        PyObject *value = field_get(self, field);
        PyObject *items = NULL;
        if (value != NULL && field->layout->label < ZH_REPEATED)
            items = Py_BuildValue("[O]", value);
        else if (value != NULL && field->layout->label == ZH_REPEATED)
            items = PySequence_List(value);
        else if (value != NULL)
            items = PyMapping_Values(value);
        for (Py_ssize_t n = 0; items != NULL && n < PyList_Size(items); n++) {
            PyObject *item = PyList_GetItem(items, n);
            PyObject *done =
                is_message(item) ? py_discard_unknown((Message *)item, NULL) : Py_NewRef(Py_None);
            if (done == NULL)
                Py_CLEAR(items);
            Py_XDECREF(done);
        }
        Py_XDECREF(value);
        if (items == NULL)
            return NULL;
        Py_DECREF(items);
    }
    Py_RETURN_NONE;
}

static PyObject *py_deepcopy(Message *self, PyObject *Py_UNUSED(memo))
{
    Message *copy = message_new(self->cls);

    if (copy != NULL && message_copy(copy, self) != 0)
        Py_CLEAR(copy);
    return (PyObject *)copy;
}

static PyObject *py_reduce(Message *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *from_string = PyObject_GetAttrString((PyObject *)self->cls->type, "FromString");
    PyObject *bytes = from_string == NULL ? NULL : message_serialize(self, false);

    if (bytes == NULL) {
        Py_XDECREF(from_string);
        return NULL;
    }
    return Py_BuildValue("N(N)", from_string, bytes);
}

/* Struct and ListValue with a dict or list, as protobuf's helpers for them do it. */
static PyObject *compare_value(PyObject *a, PyObject *b, int op)
{
    const char *name = ((Message *)a)->cls->name_text;

    if (strcmp(name, PyDict_Check(b) ? STRUCT : LIST_VALUE) != 0)
        Py_RETURN_NOTIMPLEMENTED;
    PyObject *same = PyObject_CallMethod(a, "_internal_compare", "O", b);
    int truth = same == NULL ? -1 : PyObject_IsTrue(same);
    Py_XDECREF(same);
    return truth < 0 ? NULL : PyBool_FromLong((truth != 0) == (op == Py_EQ));
}

/* By content, as upb does: a NaN is equal to the same NaN, 0.0 is not -0.0. */
PyObject *message_compare(PyObject *a, PyObject *b, int op)
{
    if ((op != Py_EQ && op != Py_NE) || TYPE_OF(a) != TYPE_OF(b)) {
        if ((op == Py_EQ || op == Py_NE) && (PyDict_Check(b) || PyList_Check(b)))
            return compare_value(a, b, op);
        Py_RETURN_NOTIMPLEMENTED;
    }
    PyObject *left = message_serialize((Message *)a, true);
    PyObject *right = left == NULL ? NULL : message_serialize((Message *)b, true);
    PyObject *result = right == NULL ? NULL : PyObject_RichCompare(left, right, op);
    Py_XDECREF(left);
    Py_XDECREF(right);
    return result;
}

static PyObject *py_fingerprint(PyObject *type, PyObject *Py_UNUSED(ignored))
{
    Class *cls = class_of((PyTypeObject *)type);
    const uint8_t *print = cls == NULL ? NULL : class_fingerprint(cls);

    if (print != NULL)
        return PyBytes_FromStringAndSize((const char *)print, 16);
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_TypeError, "a generated class has a fingerprint");
    return NULL;
}

#define METHOD(name, function, flags, text)                                                        \
    {                                                                                              \
        name, (PyCFunction)(void (*)(void))function, flags, PyDoc_STR(text)                        \
    }

PyMethodDef message_methods[] = {
    METHOD("ByteSize", py_byte_size, METH_NOARGS,
           "ByteSize()\n--\n\nHow many wire bytes the message is."),
    METHOD("Clear", py_clear, METH_NOARGS, "Clear()\n--\n\nUnset every field."),
    METHOD("ClearField", py_clear_field, METH_O, "ClearField(name)\n--\n\nUnset a field or oneof."),
    METHOD("CopyFrom", py_copy_from, METH_O,
           "CopyFrom(other)\n--\n\nBecome a copy of a message of the same class."),
    METHOD("DiscardUnknownFields", py_discard_unknown, METH_NOARGS,
           "DiscardUnknownFields()\n--\n\nForget fields that the schema does not know."),
    METHOD("FindInitializationErrors", py_find_errors, METH_NOARGS,
           "FindInitializationErrors()\n--\n\nPaths of required fields that are not set."),
    METHOD("FromString", py_from_string, METH_O | METH_CLASS,
           "FromString(data)\n--\n\nA new message from wire bytes. DecodeError."),
    METHOD("HasField", py_has_field, METH_O, "HasField(name)\n--\n\nIs a field or oneof set?"),
    METHOD("IsInitialized", py_is_initialized, METH_VARARGS,
           "IsInitialized(errors=None)\n--\n\nAre all required fields set?"),
    METHOD("ListFields", py_list_fields, METH_NOARGS,
           "ListFields()\n--\n\n(FieldDescriptor, value) of the fields that are set, by number."),
    METHOD("MergeFrom", py_merge_from, METH_O, "MergeFrom(other)\n--\n\nAdd what `other` has."),
    METHOD("MergeFromString", py_merge_from_string, METH_O,
           "MergeFromString(data)\n--\n\nAdd what wire bytes say. DecodeError."),
    METHOD("ParseFromString", py_parse_from_string, METH_O,
           "ParseFromString(data)\n--\n\nBecome what wire bytes say. DecodeError."),
    METHOD("SerializePartialToString", py_serialize_partial, METH_VARARGS | METH_KEYWORDS,
           "SerializePartialToString(*, deterministic=False)\n--\n\nWire bytes, required fields or "
           "not."),
    METHOD("SetInParent", py_set_in_parent, METH_NOARGS,
           "SetInParent()\n--\n\nMake this field be set, if empty."),
    METHOD("WhichOneof", py_which_oneof, METH_O,
           "WhichOneof(name)\n--\n\nThe name of the member that is set, or None."),
    METHOD("_fingerprint", py_fingerprint, METH_NOARGS | METH_CLASS,
           "_fingerprint()\n--\n\nThe layout's fingerprint, see docs/image.md."),
    METHOD("__deepcopy__", py_deepcopy, METH_O, "__deepcopy__(memo)\n--\n\nA copy."),
    METHOD("__reduce__", py_reduce, METH_NOARGS, "__reduce__()\n--\n\nFor pickle."),
    {NULL, NULL, 0, NULL},
};
