/* Between wait.c and pump.c, the two halves of a pump. */
#ifndef ZEROHOP_NATIVE_WAIT_H
#define ZEROHOP_NATIVE_WAIT_H

#include "native.h"

/* A bound on threads that block in handlers without a pool. */
#define BACKGROUND_THREADS 64u

/* What a waiter may spin at most, in ns: 50 us, or less by ZEROHOP_SPIN_US. */
uint64_t spin_limit(void);

/* Act on events of epoll. With the GIL, by any thread. */
void pump_handle_events(Pump *pump, const struct zh_event *events, int count);
/* Ask epoll without sleeping, and act. */
void pump_poll_events(Pump *pump);

PyObject *pump_run(Pump *pump, PyObject *ignored);

#endif
