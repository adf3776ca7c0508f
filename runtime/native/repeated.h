/* What the files of repeated fields share. */
#ifndef ZEROHOP_NATIVE_REPEATED_H
#define ZEROHOP_NATIVE_REPEATED_H

#include "message.h"

typedef struct {
    Container base;
    uint32_t exports;
} Repeated;

/* Of scalars, text and bytes. */
extern PyTypeObject *Repeated_Type;

/* The slot as it is now. */
static inline struct zh_slot slot_of(Repeated *self)
{
    if (self->base.message->absent)
        message_refresh(self->base.message);
    return zh_load_slot(message_struct(self->base.message) + self->base.field->layout->offset);
}

static inline void set_slot(Repeated *self, struct zh_slot slot)
{
    memcpy(message_struct(self->base.message) + self->base.field->layout->offset, &slot,
           sizeof(slot));
}

static inline size_t width_of(const Repeated *self)
{
    return self->base.field->layout->width;
}

/* The array for reading; NULL with an exception where it is not. */
static inline const uint8_t *array_of(Repeated *self, struct zh_slot slot)
{
    return message_at(self->base.message, slot.ref, (uint64_t)slot.count * width_of(self));
}

/*
 * Room for `count` elements, in memory that nobody else reads; existing elements stay. 0, or -1
 * with an exception. The slot's count is not changed.
 */
int repeated_own_array(Repeated *self, uint32_t count);
/* An element of memory that is ours. */
uint8_t *repeated_element(Repeated *self, uint32_t at);

/* repeated_array.c: 1: extended by a copy of the whole; 0: not an array that can be copied so; -1
 * with an exception. */
int repeated_extend_whole(Repeated *self, PyObject *values);
int repeated_getbuffer(PyObject *object, Py_buffer *view, int flags);
void repeated_releasebuffer(PyObject *object, Py_buffer *view);

#endif
