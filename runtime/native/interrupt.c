/*
 * Ctrl-C: Python raises KeyboardInterrupt in whatever code the main thread runs. Where that is a
 * callback or a finalizer, whose exceptions lead nowhere, it is put off until the next code that
 * can raise it.
 */
#include "native.h"

#include <unistd.h>

static PyObject *dispose_name;

bool in_main_thread(void)
{
    return gettid() == getpid();
}

bool interrupt_pending(void)
{
    if (!PyOS_InterruptOccurred()) /* which forgets it */
        return false;
    PyErr_SetInterrupt();
    return true;
}

/* Is the exception a Ctrl-C? Clears it then, to be raised again. */
static bool put_off(void)
{
    if (!PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) || !in_main_thread())
        return false;
    PyErr_Clear();
    PyErr_SetInterrupt();
    return true;
}

void write_unraisable(PyObject *where)
{
    if (!put_off())
        PyErr_WriteUnraisable(where);
}

static void disposable_finalize(PyObject *self)
{
    PyObject *type, *value, *traceback;
    PyObject *result = NULL;
    bool interrupted = false;

    PyErr_Fetch(&type, &value, &traceback);
    /* Interrupted half-way: again from the start. */
    for (int i = 0; i < 3 && result == NULL; i++) {
        result = PyObject_CallMethodObjArgs(self, dispose_name, NULL);
        if (result == NULL && PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) {
            PyErr_Clear();
            interrupted = true;
        } else if (result == NULL) {
            PyErr_WriteUnraisable(self);
            break;
        }
    }
    Py_XDECREF(result);
    if (interrupted && in_main_thread())
        PyErr_SetInterrupt();
    PyErr_Restore(type, value, traceback);
}

static PyType_Slot disposable_slots[] = {
    {Py_tp_finalize, (void *)disposable_finalize},
    {Py_tp_doc, (void *)PyDoc_STR("A base class whose objects' _dispose() is called when they are "
                                  "dropped; unlike __del__ it loses no Ctrl-C.")},
    {0, NULL},
};

static PyType_Spec disposable_spec = {
    .name = "zerohop._native.Disposable",
    .basicsize = 0,
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = disposable_slots,
};

int interrupt_init(PyObject *module)
{
    dispose_name = PyUnicode_InternFromString("_dispose");
    PyObject *type = PyType_FromSpec(&disposable_spec);
    if (dispose_name == NULL || type == NULL)
        return -1;
    return PyModule_AddObjectRef(module, "Disposable", type);
}
