/* Message classes: made from a layout table and the names that belong to it. */
#include "message.h"

PyObject *DecodeError, *EncodeError, *ArenaFull;
static PyTypeObject *Message_Type;

/* Classes by type, for calls that have only that: open addressing, never shrinks. */
static struct {
    Class **slots;
    size_t room, used;
} classes;

static size_t hash_type(const PyTypeObject *type, size_t room)
{
    return ((uintptr_t)type >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 20 & (room - 1);
}

Class *class_of(PyTypeObject *type)
{
    if (classes.room == 0)
        return NULL;
    for (size_t i = hash_type(type, classes.room);; i = (i + 1) & (classes.room - 1)) {
        if (classes.slots[i] == NULL || classes.slots[i]->type == type)
            return classes.slots[i];
    }
}

static int enter(Class *cls)
{
    if (classes.used * 2 >= classes.room) {
        size_t room = classes.room == 0 ? 64 : classes.room * 2;
        Class **slots = calloc(room, sizeof(*slots));
        if (slots == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        for (size_t n = 0; n < classes.room; n++) {
            if (classes.slots[n] == NULL)
                continue;
            size_t i = hash_type(classes.slots[n]->type, room);
            while (slots[i] != NULL)
                i = (i + 1) & (room - 1);
            slots[i] = classes.slots[n];
        }
        free(classes.slots);
        classes.slots = slots;
        classes.room = room;
    }
    size_t i = hash_type(cls->type, classes.room);
    while (classes.slots[i] != NULL)
        i = (i + 1) & (classes.room - 1);
    classes.slots[i] = cls;
    classes.used++;
    return 0;
}

bool is_message(PyObject *object)
{
    return PyType_IsSubtype(TYPE_OF(object), Message_Type) != 0;
}

/* --- new messages -------------------------------------------------------------------------------
 */

/* The field of a name, NULL with an exception: ValueError, or what the caller wants. */
const Field *class_field(Class *cls, PyObject *name)
{
    uint32_t count = cls->layout->field_count;

    /* Names in programs are interned. */
    for (uint32_t i = 0; i < count && i < 16; i++) {
        if (cls->fields[i].name == name)
            return &cls->fields[i];
    }
    PyObject *at = PyUnicode_Check(name) ? PyDict_GetItemWithError(cls->index, name) : NULL;
    if (at != NULL)
        return &cls->fields[PyLong_AsSsize_t(at)];
    if (!PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "Protocol message %U has no \"%S\" field.", cls->name, name);
    return NULL;
}

/* A message field from keyword arguments: a message of its class, or a dict of its fields. */
static int init_child(Message *self, const Field *field, PyObject *value)
{
    int result = -1;
    Message *child = message_child(self, field);

    if (child == NULL)
        return -1;
    if (TYPE_OF(value) == field->type->type) {
        if (message_writable(child) == 0)
            result = message_copy(child, (Message *)value);
    } else if (PyDict_Check(value) && !message_is_struct_content(field->type, value)) {
        if (message_writable(child) == 0)
            result = message_update(child, value);
    } else {
        result = message_convert(child, value); /* datetime for a Timestamp, ... */
    }
    Py_DECREF((PyObject *)child);
    return result;
}

int message_update(Message *self, PyObject *values)
{
    PyObject *name, *value;
    Py_ssize_t at = 0;

    while (PyDict_Next(values, &at, &name, &value)) {
        const Field *field = class_field(self->cls, name);
        int result;
        if (field == NULL)
            return -1;
        if (value == Py_None)
            continue;
        if (field->layout->label == ZH_REPEATED)
            result = repeated_extend(self, field, value);
        else if (field->layout->label == ZH_MAP)
            result = mapping_update(self, field, value);
        else if (field->type != NULL)
            result = init_child(self, field, value);
        else
            result = field_set(self, field, value);
        if (result != 0)
            return -1;
    }
    return 0;
}

static PyObject *new_message(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    Class *cls = class_of(type);

    if (cls == NULL) {
        PyErr_SetString(PyExc_TypeError, "make messages of generated classes");
        return NULL;
    }
    if (PyTuple_Size(args) != 0) {
        PyErr_SetString(PyExc_TypeError, "No positional arguments allowed");
        return NULL;
    }
    Message *self = message_new(cls);
    if (self != NULL && kwargs != NULL && message_update(self, kwargs) != 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

/* --- classes ------------------------------------------------------------------------------------
 */

/* What a field reads as that is not set, where it is not what zeros mean. */
static PyObject *default_of(const struct zh_field *f)
{
    uint64_t bits = f->default_bits;
    double wide;
    float narrow;

    switch (f->kind) {
    case ZH_STRING:
        return PyUnicode_DecodeUTF8((const char *)f->default_data, f->default_bytes, "strict");
    case ZH_BYTES:
        return PyBytes_FromStringAndSize((const char *)f->default_data, f->default_bytes);
    case ZH_DOUBLE:
        memcpy(&wide, &bits, sizeof(wide));
        return PyFloat_FromDouble(wide);
    case ZH_FLOAT:
        memcpy(&narrow, &bits, sizeof(narrow));
        return PyFloat_FromDouble((double)narrow);
    case ZH_BOOL:
        return PyBool_FromLong(bits != 0);
    case ZH_INT32:
    case ZH_SINT32:
    case ZH_SFIXED32:
    case ZH_ENUM:
        return PyLong_FromLong((int32_t)bits);
    case ZH_UINT32:
    case ZH_FIXED32:
        return PyLong_FromUnsignedLong((uint32_t)bits);
    case ZH_UINT64:
    case ZH_FIXED64:
        return PyLong_FromUnsignedLongLong(bits);
    default:
        return PyLong_FromLongLong((int64_t)bits);
    }
}

static int make_field(Class *cls, uint32_t at, PyObject *name, PyObject *oneofs)
{
    const struct zh_field *f = &cls->layout->fields[at];
    Field *field = &cls->fields[at];

    field->layout = f;
    field->cls = cls;
    field->name = Py_NewRef(name);
    PyUnicode_InternInPlace(&field->name);
    field->text = PyUnicode_AsUTF8AndSize(field->name, NULL);
    if (field->text == NULL)
        return -1;
    if (f->type != NULL) {
        field->type = f->type->owner;
    } else if (f->label < ZH_REPEATED) {
        field->absent = default_of(f);
        if (field->absent == NULL)
            return -1;
        /* Absent fields hold zeros; what a oneof's unit holds may be another member's. */
        field->guarded = f->label == ZH_ONEOF || f->default_bits != 0 || f->default_bytes != 0;
    }
    PyObject *position = PyLong_FromUnsignedLong(at);
    int result = position == NULL ? -1 : PyDict_SetItem(cls->index, field->name, position);
    Py_XDECREF(position);
    if (result == 0 && f->label == ZH_ONEOF) {
        uint32_t words = ZH_PRESENCE_AT + 4 * ((cls->layout->bits + 31u) / 32);
        PyObject *oneof = PyTuple_GetItem(oneofs, (Py_ssize_t)(f->case_at - words) / 4);
        if (oneof == NULL)
            return -1;
        field->oneof = Py_NewRef(oneof);
        PyObject *members = PyDict_GetItemWithError(cls->oneofs, oneof);
        if (members == NULL) {
            members = PyList_New(0);
            result = members == NULL ? -1 : PyDict_SetItem(cls->oneofs, oneof, members);
            Py_XDECREF(members);
        }
        if (result == 0)
            result = PyList_Append(members, field->name);
    }
    return result;
}

static PyMethodDef own_methods[] = {
    /* In every class by itself, so that the method tells whose it is: stubs are given it. */
    {"SerializeToString", (PyCFunction)(void (*)(void))message_py_serialize,
     METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("SerializeToString(*, deterministic=False)\n--\n\nProtobuf wire bytes. EncodeError "
               "if a required field is not set.")},
    {NULL, NULL, 0, NULL},
};

static int make_type(Class *cls, const char *qualified, PyObject *bases, PyObject *as_bytes)
{
    uint32_t count = cls->layout->field_count;
    PyGetSetDef *getset = calloc(count + 1u, sizeof(*getset));
    char *name = strdup(qualified);

    if (getset == NULL || name == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (uint32_t i = 0; i < count; i++) {
        int contains = PySequence_Contains(as_bytes, cls->fields[i].name);
        if (contains < 0)
            return -1;
        cls->fields[i].as_bytes = contains != 0;
        getset[i] = field_getset(&cls->fields[i]);
    }
    size_t inside = zh_image_root_least(cls->layout) + 64;
    cls->inside = (uint32_t)((inside + 15) & ~(size_t)15);
    PyType_Slot slots[] = {
        {Py_tp_new, (void *)new_message},
        {Py_tp_dealloc, (void *)message_dealloc},
        {Py_tp_getset, getset},
        {Py_tp_methods, own_methods},
        {Py_tp_hash, (void *)PyObject_HashNotImplemented},
        {Py_tp_richcompare, (void *)message_compare},
        {Py_bf_getbuffer, (void *)message_getbuffer},
        {Py_bf_releasebuffer, (void *)message_releasebuffer},
        {0, NULL},
    };
    PyType_Spec spec = {
        .name = name, /* 3.11 keeps the pointer; classes live as long as the process */
        .basicsize = (int)(sizeof(Message) + cls->inside),
        .flags = Py_TPFLAGS_DEFAULT,
        .slots = slots,
    };
    cls->type = (PyTypeObject *)PyType_FromSpecWithBases(&spec, bases);
    if (cls->type == NULL)
        return -1;
    cls->alloc = (allocfunc)PyType_GetSlot(cls->type, Py_tp_alloc);
    cls->release = (freefunc)PyType_GetSlot(cls->type, Py_tp_free);
    return enter(cls);
}

/* The oneofs that protoc makes up for optional fields can be asked for like others. */
static int add_made_up(Class *cls, PyObject *made_up)
{
    for (Py_ssize_t i = 0; i < PyTuple_Size(made_up); i++) {
        PyObject *oneof, *field;
        if (!PyArg_ParseTuple(PyTuple_GetItem(made_up, i), "UU", &oneof, &field))
            return -1;
        PyObject *members = Py_BuildValue("[O]", field);
        int result = members == NULL ? -1 : PyDict_SetItem(cls->oneofs, oneof, members);
        Py_XDECREF(members);
        if (result != 0)
            return -1;
    }
    return 0;
}

/* (full name, qualified Python name, field names, oneof names, names of fields read as bytes,
 * bases, made-up oneofs each with its field's name)
 */
static int make_class(Class *cls, PyObject *spec)
{
    const char *qualified;
    PyObject *full, *names, *oneofs, *as_bytes, *bases, *made_up;
    uint32_t count = cls->layout->field_count;

    if (!PyArg_ParseTuple(spec, "UsO!O!O!O!O!", &full, &qualified, &PyTuple_Type, &names,
                          &PyTuple_Type, &oneofs, &PyTuple_Type, &as_bytes, &PyTuple_Type, &bases,
                          &PyTuple_Type, &made_up))
        return -1;
    if ((uint32_t)PyTuple_Size(names) != count ||
        PyTuple_Size(oneofs) != (Py_ssize_t)cls->layout->oneofs) {
        PyErr_Format(PyExc_ValueError, "%U: names and layout table do not match", full);
        return -1;
    }
    cls->name = Py_NewRef(full);
    cls->name_text = PyUnicode_AsUTF8AndSize(full, NULL);
    if (cls->name_text == NULL)
        return -1;
    cls->index = PyDict_New();
    cls->oneofs = PyDict_New();
    cls->fields = calloc(count + 1u, sizeof(*cls->fields));
    cls->zeros = calloc(1, cls->layout->size);
    if (cls->index == NULL || cls->oneofs == NULL || cls->fields == NULL || cls->zeros == NULL) {
        if (!PyErr_Occurred())
            PyErr_NoMemory();
        return -1;
    }
    for (uint32_t i = 0; i < count; i++) {
        PyObject *name = PyTuple_GetItem(names, (Py_ssize_t)i);
        if (name == NULL || make_field(cls, i, name, oneofs) != 0)
            return -1;
    }
    return add_made_up(cls, made_up) == 0 ? make_type(cls, qualified, bases, as_bytes) : -1;
}

PyObject *native_message_classes(PyObject *Py_UNUSED(self), PyObject *args)
{
    const char *table;
    Py_ssize_t bytes;
    PyObject *externals, *specs;
    const struct zh_layout **external = NULL;
    const char *why = "";

    if (!PyArg_ParseTuple(args, "y#O!O!:message_classes", &table, &bytes, &PyTuple_Type, &externals,
                          &PyTuple_Type, &specs))
        return NULL;
    Py_ssize_t external_count = PyTuple_Size(externals);
    external = calloc((size_t)external_count + 1, sizeof(*external));
    if (external == NULL)
        return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < external_count; i++) {
        PyObject *type = PyTuple_GetItem(externals, i);
        Class *cls = PyType_Check(type) ? class_of((PyTypeObject *)type) : NULL;
        if (cls == NULL) {
            free(external);
            PyErr_Format(PyExc_TypeError, "%R is no message class", type);
            return NULL;
        }
        external[i] = cls->layout;
    }
    struct zh_layouts *layouts =
        zh_layouts_parse(table, (size_t)bytes, external, (size_t)external_count, &why);
    free(external);
    if (layouts == NULL) {
        PyErr_Format(PyExc_ImportError,
                     "the generated module's layout table was refused: %s; "
                     "generate it again with this version of zerohop",
                     why);
        return NULL;
    }
    size_t count = zh_layouts_count(layouts);
    if ((size_t)PyTuple_Size(specs) != count) {
        zh_layouts_free(layouts);
        PyErr_SetString(PyExc_ValueError, "as many names as messages");
        return NULL;
    }
    /* From here on nothing is freed: modules are imported once, and a failure ends the import. */
    Class *made = calloc(count + 1, sizeof(*made));
    PyObject *types = PyTuple_New((Py_ssize_t)count);
    if (made == NULL || types == NULL)
        return PyErr_NoMemory();
    for (size_t i = 0; i < count; i++) {
        made[i].layout = zh_layouts_get(layouts, i);
        zh_layouts_get(layouts, i)->owner = &made[i];
    }
    for (size_t i = 0; i < count; i++) {
        if (make_class(&made[i], PyTuple_GetItem(specs, (Py_ssize_t)i)) != 0) {
            Py_DECREF(types);
            return NULL;
        }
        PyTuple_SetItem(types, (Py_ssize_t)i, Py_NewRef((PyObject *)made[i].type));
    }
    return types;
}

/* --- the fingerprint ----------------------------------------------------------------------------
 */

const uint8_t *class_fingerprint(Class *cls)
{
    if (cls->fingerprinted)
        return cls->fingerprint;
    size_t bytes = zh_layout_canonical(cls->layout, NULL, 0);
    PyObject *form = bytes == 0 ? NULL : PyBytes_FromStringAndSize(NULL, (Py_ssize_t)bytes);
    if (form == NULL) {
        if (!PyErr_Occurred())
            PyErr_NoMemory();
        return NULL;
    }
    zh_layout_canonical(cls->layout, (uint8_t *)PyBytes_AsString(form), bytes);
    PyObject *hashlib = PyImport_ImportModule("hashlib");
    PyObject *hash = hashlib == NULL ? NULL : PyObject_CallMethod(hashlib, "sha256", "O", form);
    PyObject *digest = hash == NULL ? NULL : PyObject_CallMethod(hash, "digest", NULL);
    if (digest != NULL && PyBytes_Size(digest) == 32) {
        memcpy(cls->fingerprint, PyBytes_AsString(digest), sizeof(cls->fingerprint));
        cls->fingerprinted = true;
    }
    Py_XDECREF(digest);
    Py_XDECREF(hash);
    Py_XDECREF(hashlib);
    Py_DECREF(form);
    return cls->fingerprinted ? cls->fingerprint : NULL;
}

/* --- the base -----------------------------------------------------------------------------------
 */

static PyType_Slot base_slots[] = {
    {Py_tp_methods, NULL}, /* message_methods, see below */
    {Py_tp_repr, (void *)message_repr},
    {Py_sq_contains, (void *)message_contains},
    {Py_tp_doc, (void *)PyDoc_STR("What all generated messages are.")},
    {0, NULL},
};

static PyType_Spec base_spec = {
    .name = "zerohop._native.Message",
    .basicsize = sizeof(Message),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = base_slots,
};

int message_class_init(PyObject *module)
{
    ArenaFull = PyErr_NewExceptionWithDoc(
        "zerohop.ArenaFull",
        "The shared memory for messages is used up; the message is as it was before.",
        PyExc_MemoryError, NULL);
    base_slots[0].pfunc = message_methods;
    Message_Type = (PyTypeObject *)PyType_FromSpec(&base_spec);
    if (ArenaFull == NULL || Message_Type == NULL ||
        PyModule_AddObjectRef(module, "ArenaFull", ArenaFull) != 0)
        return -1;
    return PyModule_AddObjectRef(module, "Message", (PyObject *)Message_Type);
}
