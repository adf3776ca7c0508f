/* zerohop._native: the call path, thin over libzerohop. This file is the module itself. */
#include "message.h"

#include <malloc.h>

#include "zerohop/api.h"
#include "zerohop/stats.h"

/*
 * The module is built for the stable ABI of 3.11, whose headers do not have this slot (3.12 added
 * it) and whose interpreter refuses slots it does not know. So it is given by number, and only
 * where the interpreter that runs us knows it.
 */
#define SLOT_MULTIPLE_INTERPRETERS 3
#define MULTIPLE_INTERPRETERS_NOT_SUPPORTED ((void *)0)

static PyObject *native_stats(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    (void)self;
    struct zh_stats_snapshot now;
    zh_stats_read(&now);
    PyObject *dict = PyDict_New();
    if (dict == NULL)
        return NULL;
    const struct {
        const char *name;
        uint64_t value;
    } items[] = {
#define X(name, field) {#field, now.field},
        ZH_STATS(X)
#undef X
    };
    for (size_t i = 0; i < sizeof items / sizeof *items; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(items[i].value);
        if (value == NULL || PyDict_SetItemString(dict, items[i].name, value) < 0) {
            Py_XDECREF(value);
            Py_DECREF(dict);
            return NULL;
        }
        Py_DECREF(value);
    }
    return dict;
}

static int native_exec(PyObject *module)
{
    if (PyInterpreterState_GetID(PyInterpreterState_Get()) != 0) {
        PyErr_SetString(PyExc_ImportError,
                        "zerohop does not support sub-interpreters: its links and arenas belong to "
                        "the process; import it in the main interpreter");
        return -1;
    }
    InvalidMetadata = PyErr_NewExceptionWithDoc("zerohop._native.InvalidMetadata",
                                                "A metadata key or value that gRPC forbids.",
                                                PyExc_ValueError, NULL);
    if (InvalidMetadata == NULL || interrupt_init(module) != 0 || serve_init() != 0 ||
        pump_type_init(module) != 0 || link_type_init(module) != 0 || call_type_init(module) != 0 ||
        server_type_init(module) != 0 || client_type_init(module) != 0 ||
        message_class_init(module) != 0 || repeated_init(module) != 0 ||
        mapping_init(module) != 0 || snapshot_init(module) != 0 || received_init(module) != 0 ||
        blob_init(module) != 0)
        return -1;
    return PyModule_AddStringConstant(module, "__version__", zh_version());
}

static PyObject *native_set_loan_tracer(PyObject *self, PyObject *tracer)
{
    (void)self;
    PyObject *old = loan_tracer;
    loan_tracer = tracer == Py_None ? NULL : Py_NewRef(tracer);
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

static PyObject *native_now(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    (void)self;
    return PyLong_FromUnsignedLongLong(zh_now());
}

static PyObject *native_tune_malloc(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    (void)self;
    /* Blocks up to 64 MiB from the heap, and the heap's top kept: their pages are faulted in once.
     */
    return PyBool_FromLong(mallopt(M_MMAP_THRESHOLD, 64 << 20) == 1 &&
                           mallopt(M_TRIM_THRESHOLD, 512 << 20) == 1);
}

static PyMethodDef native_methods[] = {
    {"message_classes", native_message_classes, METH_VARARGS,
     PyDoc_STR("message_classes(table, externals, specs)\n--\n\nThe classes of a generated "
               "module.")},
    {"set_message_hooks", native_set_message_hooks, METH_VARARGS,
     PyDoc_STR("set_message_hooks(text, convert, enum)\n--\n\nWhat messages need of Python.")},
    {"now", native_now, METH_NOARGS,
     PyDoc_STR("now()\n--\n\nCLOCK_MONOTONIC in nanoseconds: the clock of deadlines.")},
    {"set_loan_tracer", native_set_loan_tracer, METH_O,
     PyDoc_STR("set_loan_tracer(tracer)\n--\n\ntracer(method) gives the tag of each new loan.")},
    {"tune_malloc", native_tune_malloc, METH_NOARGS,
     PyDoc_STR("tune_malloc()\n--\n\nKeep freed memory for large messages.")},
    {"stats", native_stats, METH_NOARGS,
     PyDoc_STR("stats()\n--\n\nThe counters of this process, by name.")},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot native_slots[] = {
    {Py_mod_exec, (void *)native_exec},
    {0, NULL}, /* from 3.12 on: SLOT_MULTIPLE_INTERPRETERS */
    {0, NULL},
};

static PyModuleDef native_module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "zerohop._native",
    .m_doc = PyDoc_STR("The call path, in C."),
    .m_size = 0,
    .m_methods = native_methods,
    .m_slots = native_slots,
};

PyMODINIT_FUNC PyInit__native(void);
PyMODINIT_FUNC PyInit__native(void)
{
    if (Py_Version >= 0x030C0000) {
        native_slots[1].slot = SLOT_MULTIPLE_INTERPRETERS;
        native_slots[1].value = MULTIPLE_INTERPRETERS_NOT_SUPPORTED;
    }
    return PyModuleDef_Init(&native_module);
}
