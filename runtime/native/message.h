/*
 * Messages: what the files about generated message classes share. Guarded by the GIL, like all of
 * the extension.
 */
#ifndef ZEROHOP_MESSAGE_H
#define ZEROHOP_MESSAGE_H

#include <stdlib.h>
#include <string.h>

#include "native.h"
#include "zerohop/arena.h"
#include "zerohop/image.h"
#include "zerohop/stats.h"

typedef struct Class Class;
typedef struct Message Message;
typedef struct Received Received;

/* A field as its descriptors (the closures of getters and setters) know it. */
typedef struct {
    const struct zh_field *layout;
    Class *cls;       /* of the message that has it */
    Class *type;      /* of a message field; of a map its entries' */
    PyObject *name;   /* interned */
    const char *text; /* the same */
    PyObject *absent; /* string and bytes: the default */
    PyObject *oneof;  /* name of the oneof, or NULL */
    bool guarded;     /* what an absent field reads as is not what its zeros mean */
    bool as_bytes;
} Field;

/* A generated class. Lives as long as the process: so do the modules that generated code makes. */
struct Class {
    const struct zh_layout *layout;
    PyTypeObject *type; /* strong */
    allocfunc alloc;
    freefunc release;
    Field *fields;   /* parallel to layout->fields */
    PyObject *index; /* dict: name to position */
    PyObject *name;  /* full name, str */
    const char *name_text;
    PyObject *oneofs; /* dict: name of a oneof to the list of its members' names */
    uint8_t *zeros;   /* an empty struct, for reading what is not there */
    uint32_t inside;  /* bytes of the root that lie in the object itself */
    uint8_t fingerprint[16];
    bool fingerprinted;
};

/* A repeated field or a map, as Python knows it: what their types begin with. */
typedef struct Container {
    PyObject_HEAD
    Message *message; /* strong: where the field is */
    const Field *field;
    struct Container *next, *prev;
} Container;

/* A dict of the keys of a map, which is right as long as nothing of this changes. */
struct map_index {
    PyObject *keys; /* to positions; NULL: none */
    zh_ref array;
    uint32_t count, changes;
};

/*
 * A message, or a part of one. A root owns the image; the others (`root` is another message) refer
 * to a struct in it. One that was asked for and is not there yet is absent: it has a parent and a
 * field, reads as empty, and comes to be when it is written to.
 */
struct Message {
    PyObject_HEAD
    Class *cls;
    uint8_t **base;  /* what the struct's place is counted from: the root, which may move, or... */
    uint8_t *fixed;  /* ... the struct itself, in a block or a peer's memory */
    size_t offset;   /* from *base */
    zh_ref place;    /* the struct by reference, if it is there */
    Message *root;   /* strong, but for the root's own */
    Message *parent; /* strong, while absent */
    const Field *field;
    Message *next, *prev;  /* in one of the two lists of a root; borrowed */
    Message *parts;        /* root: those that are there, */
    Message *absents;      /* and those that are not */
    Container *containers; /* root: its repeated fields and maps that Python knows; borrowed */
    /* Root: which of its maps have changed, and the index of one of them; see mapping.c. */
    uint32_t map_changes;
    struct map_index map_index;
    Received *received; /* strong, of the root of a received message: what keeps its memory */
    uint32_t exports;   /* root: views of its memory, */
    uint32_t older;     /* and how many epochs of its image before this one they are of: */
    struct zh_image_readers *readers; /* those of each, with room for one more */
    bool absent;
    bool readonly;         /* root: received */
    bool lent;             /* root: a peer may be reading structs in its blocks */
    bool busy;             /* root: the image library holds pointers into it */
    struct zh_image image; /* root only */
    uint8_t inside[];
};

extern PyTypeObject *Received_Type, *Snapshot_Type;
extern PyObject *ArenaFull;
extern PyObject *DecodeError, *EncodeError; /* of zerohop.generated, which sets them */

/* Where the struct is now. */
static inline uint8_t *message_struct(const Message *self)
{
    return *self->base + self->offset;
}

/* renewal.c: what is no longer of use, or not ours alone */
/* Structs that a peer may be reading are replaced. 0, or -1 with an exception. */
int message_thaw(Message *root);
/* Much has been allocated: garbage goes, if it is much. Never fails. */
void message_tidy(Message *root);
/* Somebody reads memory of the message: it stays until the end, which is told what begin gave. */
uint32_t message_export_begin(Message *self);
void message_export_end(Message *self, uint32_t epoch);

/* message_class.c */
int message_class_init(PyObject *module);
Class *class_of(PyTypeObject *type);                  /* NULL: none of ours */
const uint8_t *class_fingerprint(Class *cls);         /* 16 bytes; NULL with an exception */
const Field *class_field(Class *cls, PyObject *name); /* NULL with an exception */
bool is_message(PyObject *object);
PyObject *native_message_classes(PyObject *self, PyObject *args);
/* Set fields from a dict, as the constructor does. 0, or -1 with an exception. */
int message_update(Message *self, PyObject *values);

/* message.c: life, memory and parts */
Message *message_new(Class *cls);
/* The part of `self` at a reference that its image has; new reference, NULL with an exception. */
Message *message_part(Message *self, Class *cls, zh_ref ref);
/* The message in a singular field, absent or not. */
Message *message_child(Message *self, const Field *field);
/*
 * Before what a field holds is dropped: the parts and containers that Python has of it keep it for
 * themselves. 0, or -1 with an exception. The message is there and may be written to.
 */
int message_let_go(Message *self, const Field *field);
/* Containers are entered where they come to be, and taken out before they go. */
void container_enter(Container *container, Message *message, const Field *field);
void container_leave(Container *container);
/* An absent one is looked for again: somebody else may have made it. */
void message_refresh(Message *self);
/* Before any change: 0, or -1 with an exception. Pointers into the message are void afterwards. */
int message_writable(Message *self);
/* The same, for what it contains as well. References into chunks are void afterwards, too. */
int message_writable_below(Message *self);
/* `bytes` bytes at a reference, or NULL with DecodeError. */
const uint8_t *message_at(Message *self, zh_ref ref, uint64_t bytes);
void message_space(Message *self, struct zh_space *space);
/* Memory in the image of `self`, or NULL with ArenaFull. Void: pointers into the message. See
 * zh_image_alloc and zh_image_alloc_raw. */
uint8_t *message_alloc(Message *self, size_t bytes, zh_ref *ref);
uint8_t *message_alloc_raw(Message *self, size_t bytes, zh_ref *ref);
void message_dealloc(Message *self);
/* Does nobody but us read what lies there, so that it can be overwritten? */
bool message_owns(Message *self, zh_ref ref);
/* A slot of the message no longer refers to what lies there: a blob is given back. */
void message_drop(Message *self, zh_ref ref);
/* Forget everything; parts keep what they had. */
int message_clear(Message *self);
/* Replace by a copy of another message of the same class, counted as `bytes_built` or as told.
 * 0, or -1 with an exception. */
int message_copy(Message *self, Message *from);
int message_copy_counted(Message *self, Message *from, int stat);
int message_merge(Message *self, Message *from);
int message_parse(Message *self, PyObject *buffer);
/* The length of its wire bytes; -1 with an exception. */
Py_ssize_t message_wire_size(Message *self);
/* New bytes. */
PyObject *message_serialize(Message *self, bool sorted);
/* Turn a negative result of the image library into an exception; returns -1. */
int image_error(int error);
/* A block of the arena of our own. `grow`: also if memory has to be committed first, else -EAGAIN.
 * Other threads do not run meanwhile. 0 or a negative errno. */
int arena_block(size_t bytes, bool grow, struct zh_image_block *block);
/* The second has copies refer to peers' blobs, where the first copies them. */
extern const struct zh_image_memory arena_memory, forwarding_memory;
/* The arena for peers of our own uid: where messages are built. What geteuid says is asked for at
 * the first use, after a fork, and with every new link. NULL when out of memory. */
struct zh_arena *own_arena(void);

/* field.c: one value */
PyGetSetDef field_getset(Field *field);
PyObject *field_get(Message *self, const Field *field);
int field_set(Message *self, const Field *field, PyObject *value);
/* For a message that is there, or reads as empty. */
bool field_is_set(Message *self, const Field *field);
int field_clear(Message *self, const Field *field);
int message_getbuffer(PyObject *self, Py_buffer *view, int flags);
void message_releasebuffer(PyObject *self, Py_buffer *view);
/* An element of the field's kind at a place, for fields and containers alike; new reference. */
PyObject *value_load(Message *owner, const Field *field, const uint8_t *at);
/* Check a scalar and give its bits. 0, or -1 with TypeError or ValueError. */
int value_scalar(const Field *field, PyObject *value, uint64_t *bits);
/*
 * Put text or bytes into the image: in place of what `old` refers to, if it fits and nobody else
 * reads that. Fills `slot`, which is the caller's to store. Void: pointers into the message.
 */
int value_slot(Message *owner, const Field *field, PyObject *value, struct zh_slot old,
               struct zh_slot *slot);

/* blob.c */
int blob_init(PyObject *module);
/*
 * If these bytes lie in a blob, make the message have it, too: 1 with the slot filled; 0 if not; -1
 * with an exception.
 */
int blob_adopt(Message *owner, const void *data, size_t bytes, struct zh_slot *slot);

/* repeated.c, mapping.c */
int repeated_init(PyObject *module);
int mapping_init(PyObject *module);
PyObject *repeated_get(Message *self, const Field *field);
int repeated_extend(Message *self, const Field *field, PyObject *values);
PyObject *mapping_get(Message *self, const Field *field);
/* The index of a container that is a map. */
struct map_index *mapping_index(Container *container);
/* Do buffers of it exist, so that its array must not move? */
bool repeated_is_exported(const Container *container);
int mapping_update(Message *self, const Field *field, PyObject *values);

/* message_methods.c */
extern PyMethodDef message_methods[];
PyObject *message_compare(PyObject *a, PyObject *b, int op);
PyObject *message_repr(PyObject *self);
int message_contains(PyObject *self, PyObject *name);
PyObject *message_py_serialize(PyObject *self, PyObject *args, PyObject *kwargs);
/* What Python does for us, see set_message_hooks. */
enum { HOOK_TEXT, HOOK_CONVERT, HOOK_ENUM, HOOK_COUNT };
PyObject *native_set_message_hooks(PyObject *self, PyObject *args);
/* Make a well-known type be what a value of Python's means. 0, or -1 with TypeError. */
int message_convert(Message *self, PyObject *value);
/* Is the dict what a Struct of this class shall hold, and not its fields by name? */
bool message_is_struct_content(const Class *cls, PyObject *value);
/* The number of an enum's value by name: new reference, NULL with ValueError. */
PyObject *enum_number(const Field *field, PyObject *name);

/* 0, or -1 with EncodeError if a required field is not set. */
int message_check_required(Message *self);

/* snapshot.c */
int snapshot_init(PyObject *module);
/* The blob of a Snapshot, a peer's, that has `bytes` at `ref`; NULL if there is none. */
const struct zh_image_block *snapshot_blob(void *object, zh_ref ref, uint64_t bytes);

/* received.c */
int received_init(PyObject *module);
/* Does a block lie in a peer's memory? Then its `owner` is the Received that holds it. */
static inline bool is_foreign(const struct zh_image_block *block)
{
    return (zh_ref_segment(block->ref) & ZH_REF_FOREIGN) != 0;
}
/* The link that it came by, NULL where it has no loan; and its size, as its sender says. */
struct zh_link *received_link(const void *received);
/* Did it come to an ancestor of this process? Then its memory is gone. */
bool received_inherited(const void *received);
uint64_t received_bytes(PyObject *object);
/* Resolve references to other segments in what has been received. */
void received_space(Received *received, struct zh_space *space);
/* The message behind a memoryview, also when numpy has made an array of it; NULL: none. Borrowed of
 * the value; asking may run Python code. */
Message *received_shown_by(PyObject *value);
/*
 * If these bytes, which the message `from` shows, lie in a peer's memory, make the owner refer to
 * them and hold them: 1 with the slot filled; 0 if not; -1 with an exception.
 */
int received_adopt(Message *owner, Message *from, const uint8_t *data, size_t bytes,
                   struct zh_slot *slot);
/*
 * The `refer` of images. Of messages: blobs of bytes, in what has been received and where nobody
 * writes to them any more. Of copies that are made to be sent, which nobody here reads: also text
 * and arrays.
 */
int message_refer(struct zh_image *image, const struct zh_space *space, uint8_t kind,
                  struct zh_slot from, const uint8_t *data, size_t bytes, struct zh_slot *to);
int forwarding_refer(struct zh_image *image, const struct zh_space *space, uint8_t kind,
                     struct zh_slot from, const uint8_t *data, size_t bytes, struct zh_slot *to);
/* The message that has been received, of this class; new reference. */
Message *received_message(Received *received, Class *cls);

#endif
