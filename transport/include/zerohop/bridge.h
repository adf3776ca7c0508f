/* A wire between two ports, with the faults of port.h in either direction: what comes in at one
 * leaves at the other, unread. For trying a stack, or two kernels, at a distance. */
#ifndef ZEROHOP_BRIDGE_H
#define ZEROHOP_BRIDGE_H

#include "zerohop/port.h"

struct zh_bridge;

/* The ports stay the caller's, and outlive the bridge. fault[0]: from a to b. 0 or a negative errno
 * with a sentence in `error` (ZH_PORT_ERROR_SIZE). */
ZH_API int zh_bridge_create(struct zh_port *a, struct zh_port *b, const struct zh_fault fault[2],
                            uint64_t seed, struct zh_bridge **bridge, char *error);
/* What is under way is lost. */
ZH_API void zh_bridge_destroy(struct zh_bridge *bridge);

/* Carry packets until `deadline` (CLOCK_MONOTONIC, ns). One thread; it waits where nothing comes.
 * 0; -ENETDOWN: a port has gone; -EINTR: a signal has come. */
ZH_API int zh_bridge_run(struct zh_bridge *bridge, uint64_t deadline);

/* What the faults did to one direction (0: from a to b), and how many packets the device at its end
 * did not take. */
ZH_API void zh_bridge_stats(const struct zh_bridge *bridge, int direction,
                            struct zh_injector_stats *stats, uint64_t *refused);

#endif
