/* A queue of objects: a ring that grows. */
#include "native.h"

#include <stdlib.h>

int queue_push(Queue *queue, PyObject *item)
{
    if (queue->used == queue->room) {
        uint32_t room = queue->room == 0 ? 8 : queue->room * 2;
        PyObject **items = malloc(room * sizeof(*items));
        if (items == NULL) {
            Py_DECREF(item);
            PyErr_NoMemory();
            return -1;
        }
        for (uint32_t i = 0; i < queue->used; i++)
            items[i] = queue->items[(queue->head + i) & (queue->room - 1)];
        free(queue->items);
        queue->items = items;
        queue->head = 0;
        queue->room = room;
    }
    queue->items[(queue->head + queue->used++) & (queue->room - 1)] = item;
    return 0;
}

PyObject *queue_pop(Queue *queue)
{
    if (queue->used == 0)
        return NULL;
    PyObject *item = queue->items[queue->head];
    queue->head = (queue->head + 1) & (queue->room - 1);
    queue->used--;
    return item;
}

void queue_clear(Queue *queue)
{
    PyObject *item;

    while ((item = queue_pop(queue)) != NULL)
        Py_DECREF(item);
    free(queue->items);
    *queue = (Queue){0};
}
