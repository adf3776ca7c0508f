/* Timers: a heap of four children a node, earliest deadline first. Setting, moving and stopping
 * cost O(log n) of the timers that are set; connections without one cost nothing. Most timers of
 * TCP only ever move later, which their owner does without touching the heap (tcp_timer.c). */
#include <stdlib.h>

#include "stack.h"

static void place(struct net_timers *timers, uint32_t index, struct net_timer *timer)
{
    timers->heap[index] = timer;
    timer->index = index + 1;
}

static void sift_up(struct net_timers *timers, uint32_t index, struct net_timer *timer)
{
    while (index > 0) {
        uint32_t parent = (index - 1) / 4;
        if (timers->heap[parent]->deadline <= timer->deadline)
            break;
        place(timers, index, timers->heap[parent]);
        index = parent;
    }
    place(timers, index, timer);
}

static void sift_down(struct net_timers *timers, uint32_t index, struct net_timer *timer)
{
    for (;;) {
        uint32_t first = index * 4 + 1, least = first;
        if (first >= timers->count)
            break;
        for (uint32_t i = first + 1; i < first + 4 && i < timers->count; i++)
            if (timers->heap[i]->deadline < timers->heap[least]->deadline)
                least = i;
        if (timer->deadline <= timers->heap[least]->deadline)
            break;
        place(timers, index, timers->heap[least]);
        index = least;
    }
    place(timers, index, timer);
}

int net_timers_reserve(struct net_timers *timers, uint32_t count)
{
    count += NET_LAYER_TIMERS;
    if (count <= timers->capacity)
        return 0;
    uint32_t capacity = timers->capacity ? timers->capacity : 64;
    while (capacity < count)
        capacity *= 2;
    struct net_timer **heap = realloc(timers->heap, capacity * sizeof *heap);
    if (!heap)
        return -ENOMEM;
    timers->heap = heap;
    timers->capacity = capacity;
    return 0;
}

void net_timer_set(struct net_timers *timers, struct net_timer *timer, uint64_t deadline)
{
    if (!timer->index) {
        timer->deadline = deadline;
        sift_up(timers, timers->count++, timer);
        return;
    }
    bool later = deadline > timer->deadline;
    timer->deadline = deadline;
    if (later)
        sift_down(timers, timer->index - 1, timer);
    else
        sift_up(timers, timer->index - 1, timer);
}

void net_timer_stop(struct net_timers *timers, struct net_timer *timer)
{
    if (!timer->index)
        return;
    uint32_t index = timer->index - 1;
    timer->index = 0;
    struct net_timer *last = timers->heap[--timers->count];
    if (last == timer)
        return;
    last->index = index + 1;
    if (index > 0 && timers->heap[(index - 1) / 4]->deadline > last->deadline)
        sift_up(timers, index, last);
    else
        sift_down(timers, index, last);
}

void net_timers_run(struct zh_net *net, struct net_timers *timers, uint64_t now)
{
    while (timers->count && timers->heap[0]->deadline <= now) {
        struct net_timer *timer = timers->heap[0];
        net_timer_stop(timers, timer);
        timer->expire(net, timer);
    }
}

void net_timers_free(struct net_timers *timers)
{
    free(timers->heap);
    *timers = (struct net_timers){0};
}
