/* What the pump and its links know of each other. */
#ifndef ZEROHOP_SHM_PUMP_INTERNAL_H
#define ZEROHOP_SHM_PUMP_INTERNAL_H

#include "zerohop/pump.h"
#include "zerohop/segment.h"

/*
 * Add a link: from now on zh_pump_ready looks at it, and its key comes with the events of `socket`,
 * `pidfd` (or -1) and `bell` (or -1). Returns the key, never 0; 0 when out of memory or
 * descriptors.
 */
uint64_t zh_pump_add(struct zh_pump *pump, struct zh_link *link, int socket, int pidfd, int bell);
/* A doorbell that came about later. 0 or -errno. */
int zh_pump_add_bell(struct zh_pump *pump, uint64_t key, int bell);
void zh_pump_remove(struct zh_pump *pump, uint64_t key, int socket, int pidfd, int bell);
/* The link's peer is gone: from now on its key comes with the end of `lifeline` alone. 0 or -errno.
 */
int zh_pump_mourn(struct zh_pump *pump, uint64_t key, int socket, int pidfd, int bell,
                  int lifeline);

/*
 * The link is closed and holds a reference of the pump's: its events are no longer the caller's but
 * go to zh_link_linger.
 */
void zh_pump_linger(struct zh_pump *pump, uint64_t key);
/* Serve a lingering link: once the peer has ended its side, take the loans back, drop the reference
 * and return false. */
bool zh_link_linger(struct zh_link *link);
/* The pump of a lingering link ends: zh_link_sweep goes on in its place. */
void zh_link_orphan(struct zh_link *link);
/* Serve the lingering links that have no pump any more. Cheap while there are none. */
void zh_link_sweep(void);

/* Before sleeping: tell the peer of segments that the arena has given back meanwhile, so that a
 * link without traffic holds none of them. */
void zh_link_tidy(struct zh_link *link);

/* The memfd of the epoch's page. */
const struct zh_segment *zh_pump_page_segment(const struct zh_pump *pump);

#endif
