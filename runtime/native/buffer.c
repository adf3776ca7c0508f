/* Metadata: its encoding in records, and private buffers to make it in. */
#include "native.h"

#include <stdlib.h>
#include <string.h>

/* One entry: section, flags, key length (2), value length (4), key, value; packed, native order. */
#define ENTRY_HEAD 8u
/* What HPACK counts for an entry beside its text (RFC 7541 section 4.1). */
#define ENTRY_OVERHEAD 32u

enum { FLAG_BINARY = 1 };

PyObject *InvalidMetadata;

void buffer_init(Buffer *buffer)
{
    buffer->data = buffer->small;
    buffer->used = 0;
    buffer->room = sizeof(buffer->small);
    buffer->counted = 0;
}

void buffer_free(Buffer *buffer)
{
    if (buffer->data != buffer->small)
        free(buffer->data);
}

static uint8_t *buffer_extend(Buffer *buffer, size_t bytes)
{
    if (bytes > buffer->room - buffer->used) {
        size_t room = buffer->room * 2;
        while (room - buffer->used < bytes)
            room *= 2;
        uint8_t *data = malloc(room);
        if (data == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        memcpy(data, buffer->data, buffer->used);
        if (buffer->data != buffer->small)
            free(buffer->data);
        buffer->data = data;
        buffer->room = room;
    }
    uint8_t *at = buffer->data + buffer->used;
    buffer->used += bytes;
    return at;
}

static int append(Buffer *buffer, int section, int flags, const void *key, size_t key_bytes,
                  const void *value, size_t value_bytes)
{
    uint16_t key_16 = (uint16_t)key_bytes;
    uint32_t value_32 = (uint32_t)value_bytes;
    uint8_t *at = buffer_extend(buffer, ENTRY_HEAD + key_bytes + value_bytes);

    if (at == NULL)
        return -1;
    at[0] = (uint8_t)section;
    at[1] = (uint8_t)flags;
    memcpy(at + 2, &key_16, sizeof(key_16));
    memcpy(at + 4, &value_32, sizeof(value_32));
    if (key_bytes > 0)
        memcpy(at + ENTRY_HEAD, key, key_bytes);
    if (value_bytes > 0)
        memcpy(at + ENTRY_HEAD + key_bytes, value, value_bytes);
    return 0;
}

bool metadata_refused(const Buffer *buffer, char text[METADATA_REFUSAL])
{
    const bool hard = buffer->counted > METADATA_HARD_LIMIT;

    if (buffer->counted <= METADATA_SOFT_LIMIT)
        return false;
    if (!hard) {
        uint32_t range = METADATA_HARD_LIMIT - METADATA_SOFT_LIMIT;
        if ((uint32_t)random() % range >= buffer->counted - METADATA_SOFT_LIMIT)
            return false;
    }
    snprintf(text, METADATA_REFUSAL, "received metadata size exceeds %s limit (%zu vs. %u)",
             hard ? "hard" : "soft", buffer->counted,
             hard ? METADATA_HARD_LIMIT : METADATA_SOFT_LIMIT);
    return true;
}

int metadata_encode_text(Buffer *buffer, int section, const char *text, size_t bytes)
{
    return append(buffer, section, 0, NULL, 0, text, bytes);
}

int metadata_append_raw(Buffer *buffer, const uint8_t *raw, size_t bytes)
{
    uint8_t *at = buffer_extend(buffer, bytes);
    if (at == NULL)
        return -1;
    if (bytes > 0)
        memcpy(at, raw, bytes);
    return 0;
}

/* Header names of gRPC over HTTP/2: lower-case letters, digits, "_", "-" and ".". */
static bool key_is_legal(const char *key, Py_ssize_t bytes)
{
    for (Py_ssize_t i = 0; i < bytes; i++) {
        char c = key[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.'))
            return false;
    }
    return bytes > 0 && bytes <= UINT16_MAX;
}

static bool value_is_legal(const char *value, Py_ssize_t bytes)
{
    for (Py_ssize_t i = 0; i < bytes; i++) {
        if (value[i] < 0x20 || value[i] > 0x7e)
            return false;
    }
    return true;
}

/*
 * What gRPC says itself and a program cannot: grpcio drops these keys, and so do we. All others
 * with the prefix "grpc-" are refused, but for those that libraries beside gRPC's core use.
 */
static const char *const dropped_keys[] = {"te", "content-type", "user-agent"};
static const char *const known_keys[] = {"grpc-status-details-bin", "grpc-trace-bin",
                                         "grpc-tags-bin"};

static bool is_among(const char *key, const char *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(key, list[i]) == 0)
            return true;
    }
    return false;
}

static int invalid(PyObject *key)
{
    PyErr_Format(InvalidMetadata, "metadata was invalid: key %R", key);
    return -1;
}

/* One pair of text or bytes, both as bytes objects. */
static int encode_checked(Buffer *buffer, PyObject *key, PyObject *key_text, PyObject *value,
                          int section)
{
    char *key_data = PyBytes_AsString(key_text);
    Py_ssize_t key_bytes = PyBytes_Size(key_text);

    if (!key_is_legal(key_data, key_bytes))
        return invalid(key);
    if (strncmp(key_data, "grpc-", 5) == 0 && !is_among(key_data, known_keys, 3))
        return invalid(key);
    bool binary = key_bytes > 4 && memcmp(key_data + key_bytes - 4, "-bin", 4) == 0;
    PyObject *value_text = NULL;
    if (PyBytes_Check(value)) {
        value_text = Py_NewRef(value);
    } else if (PyUnicode_Check(value) && !binary) {
        value_text = PyUnicode_AsUTF8String(value);
    } else {
        PyErr_Format(PyExc_TypeError, "the value of metadata key %R is %s, not %R", key,
                     binary ? "bytes" : "str or bytes", TYPE_OF(value));
    }
    if (value_text == NULL)
        return -1;
    char *value_data = PyBytes_AsString(value_text);
    Py_ssize_t value_bytes = PyBytes_Size(value_text);
    int result = 0;
    if (!binary && !value_is_legal(value_data, value_bytes)) {
        result = invalid(key);
    } else if (!is_among(key_data, dropped_keys, 3)) {
        buffer->counted += (size_t)key_bytes + (size_t)value_bytes + ENTRY_OVERHEAD;
        /* What is over the limit will not be sent; do not copy it. */
        if (buffer->counted <= METADATA_HARD_LIMIT)
            result = append(buffer, section, binary ? FLAG_BINARY : 0, key_data, (size_t)key_bytes,
                            value_data, (size_t)value_bytes);
    }
    Py_DECREF(value_text);
    return result;
}

static int encode_pair(Buffer *buffer, PyObject *pair, int section)
{
    int result = -1;

    if (PyUnicode_Check(pair) || PyBytes_Check(pair) || PySequence_Size(pair) != 2) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "metadata is pairs of key and value, not %R", pair);
        return -1;
    }
    PyObject *key = PySequence_GetItem(pair, 0);
    PyObject *value = key == NULL ? NULL : PySequence_GetItem(pair, 1);
    PyObject *key_text = NULL;
    if (value != NULL && PyUnicode_Check(key))
        key_text = PyUnicode_AsUTF8String(key);
    else if (value != NULL && PyBytes_Check(key))
        key_text = Py_NewRef(key);
    else if (value != NULL)
        PyErr_Format(PyExc_TypeError, "metadata keys are str, not %R", TYPE_OF(key));
    if (key_text != NULL)
        result = encode_checked(buffer, key, key_text, value, section);
    Py_XDECREF(key);
    Py_XDECREF(value);
    Py_XDECREF(key_text);
    return result;
}

bool metadata_was_invalid(void)
{
    if (PyErr_Occurred() == NULL || !PyErr_ExceptionMatches(InvalidMetadata))
        return false;
    PyErr_Clear();
    return true;
}

int metadata_encode(Buffer *buffer, PyObject *metadata, int section)
{
    PyObject *pair;

    if (metadata == NULL || metadata == Py_None)
        return 0;
    PyObject *pairs = PyObject_GetIter(metadata);
    if (pairs == NULL)
        return -1;
    while ((pair = PyIter_Next(pairs)) != NULL) {
        int error = encode_pair(buffer, pair, section);
        Py_DECREF(pair);
        if (error != 0)
            break;
    }
    Py_DECREF(pairs);
    return PyErr_Occurred() != NULL ? -1 : 0;
}

/* The next entry at *data, with everything inside; false at the end or at what is no entry. */
typedef struct {
    int section, flags;
    const uint8_t *key, *value;
    size_t key_bytes, value_bytes;
} Entry;

static bool next_entry(const uint8_t **data, size_t *bytes, Entry *entry)
{
    uint16_t key_bytes;
    uint32_t value_bytes;

    if (*bytes < ENTRY_HEAD)
        return false;
    entry->section = (*data)[0];
    entry->flags = (*data)[1];
    memcpy(&key_bytes, *data + 2, sizeof(key_bytes));
    memcpy(&value_bytes, *data + 4, sizeof(value_bytes));
    size_t left = *bytes - ENTRY_HEAD;
    if (key_bytes > left || value_bytes > left - key_bytes)
        return false;
    entry->key = *data + ENTRY_HEAD;
    entry->key_bytes = key_bytes;
    entry->value = entry->key + key_bytes;
    entry->value_bytes = value_bytes;
    *data = entry->value + value_bytes;
    *bytes = left - key_bytes - value_bytes;
    return true;
}

bool metadata_check(const uint8_t *data, size_t bytes)
{
    Entry entry;

    while (bytes > 0) {
        if (!next_entry(&data, &bytes, &entry) || entry.section > SECTION_METHOD)
            return false;
        if (entry.section <= SECTION_TRAILING &&
            !key_is_legal((const char *)entry.key, (Py_ssize_t)entry.key_bytes))
            return false;
        if (entry.section <= SECTION_TRAILING && (entry.flags & FLAG_BINARY) == 0 &&
            !value_is_legal((const char *)entry.value, (Py_ssize_t)entry.value_bytes))
            return false;
    }
    return true;
}

static PyObject *decode_entry(const Entry *entry, PyObject *make)
{
    PyObject *key =
        PyUnicode_DecodeUTF8((const char *)entry->key, (Py_ssize_t)entry->key_bytes, NULL);
    PyObject *value, *pair = NULL;

    if ((entry->flags & FLAG_BINARY) != 0)
        value =
            PyBytes_FromStringAndSize((const char *)entry->value, (Py_ssize_t)entry->value_bytes);
    else
        value =
            PyUnicode_DecodeUTF8((const char *)entry->value, (Py_ssize_t)entry->value_bytes, NULL);
    if (key != NULL && value != NULL)
        pair = PyObject_CallFunctionObjArgs(make, key, value, NULL);
    Py_XDECREF(key);
    Py_XDECREF(value);
    return pair;
}

PyObject *metadata_decode(PyObject *raw, int section, PyObject *make)
{
    PyObject *list = PyList_New(0);
    Entry entry;

    if (list == NULL)
        return NULL;
    if (raw != NULL) {
        const uint8_t *data = (const uint8_t *)PyBytes_AsString(raw);
        size_t bytes = (size_t)PyBytes_Size(raw);
        while (next_entry(&data, &bytes, &entry)) {
            if (entry.section != section)
                continue;
            PyObject *pair = decode_entry(&entry, make);
            int error = pair == NULL ? -1 : PyList_Append(list, pair);
            Py_XDECREF(pair);
            if (error != 0) {
                Py_DECREF(list);
                return NULL;
            }
        }
    }
    PyObject *tuple = PyList_AsTuple(list);
    Py_DECREF(list);
    return tuple;
}

PyObject *metadata_text(const uint8_t *data, size_t bytes, int section)
{
    Entry entry;

    while (next_entry(&data, &bytes, &entry)) {
        if (entry.section == section) {
            PyObject *text = PyUnicode_DecodeUTF8((const char *)entry.value,
                                                  (Py_ssize_t)entry.value_bytes, "replace");
            if (text == NULL)
                PyErr_Clear();
            return text;
        }
    }
    return NULL;
}
