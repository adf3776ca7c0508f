/* A wire between two ports: see bridge.h. */
#include "zerohop/bridge.h"

#include <errno.h>
#include <poll.h>
#include <rte_mbuf.h>
#include <rte_pause.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "eal.h"
#include "zerohop/loop.h"

enum {
    BURST = 32,
    NS_PER_MS = 1000 * 1000,
    SPIN = 50 * 1000,         /* since the last packet, and before the next is due: a sleep is that
                                 much late (the kernel's timer slack) */
    SLEEP_BLIND = 100 * 1000, /* of ports without a descriptor */
    SLEEP_MAX = 100 * NS_PER_MS,
    CHECK_INTERVAL = 100 * NS_PER_MS,
    TRIES = 100, /* of a device that is full */
};

struct direction {
    struct zh_port *from, *to; /* the caller's */
    struct zh_injector *injector;
    uint64_t refused;
};

struct zh_bridge {
    struct direction directions[2];
    uint64_t busy_at, checked_at;
    bool reclaimed; /* since the last packet */
};

int zh_bridge_create(struct zh_port *a, struct zh_port *b, const struct zh_fault fault[2],
                     uint64_t seed, struct zh_bridge **out, char *error)
{
    struct zh_bridge *bridge = calloc(1, sizeof *bridge);
    int result = bridge ? 0 : -ENOMEM;
    for (int i = 0; i < 2 && result == 0; i++) {
        struct direction *direction = &bridge->directions[i];
        direction->from = i ? b : a;
        direction->to = i ? a : b;
        /* As wire.c: seeds of the two directions that differ in all bits on average. */
        result =
            zh_injector_create(&fault[i], seed ^ (UINT64_C(0xd1b54a32d192ed03) * (uint64_t)(2 - i)),
                               direction->from->pool, &direction->injector);
    }
    if (result != 0) {
        if (bridge)
            zh_bridge_destroy(bridge);
        return eal_error(error, result, "a wire's faults: %s (probabilities are of 0 to 1)",
                         strerror(-result));
    }
    *out = bridge;
    return 0;
}

void zh_bridge_destroy(struct zh_bridge *bridge)
{
    for (int i = 0; i < 2; i++)
        if (bridge->directions[i].injector)
            zh_injector_destroy(bridge->directions[i].injector);
    free(bridge);
}

/* Whether anything came or went. */
static bool carry(struct direction *direction)
{
    struct rte_mbuf *packets[BURST];
    uint16_t received = zh_port_receive(direction->from, packets, BURST);
    uint64_t now = zh_loop_now();
    for (uint16_t i = 0; i < received; i++)
        zh_injector_put(direction->injector, packets[i], now);
    uint16_t due = zh_injector_get(direction->injector, packets, BURST, now), sent = 0;
    for (int tries = 0; sent < due && tries < TRIES; tries++)
        sent += zh_port_send(direction->to, packets + sent, (uint16_t)(due - sent));
    direction->refused += (uint64_t)(due - sent);
    rte_pktmbuf_free_bulk(packets + sent, (unsigned)(due - sent));
    return received || due;
}

/* Wait until something may have come. False: a signal has. */
static bool wait(struct zh_bridge *bridge, uint64_t until, uint64_t now)
{
    struct pollfd fds[2];
    for (int i = 0; i < 2; i++) {
        fds[i] =
            (struct pollfd){.fd = zh_port_descriptor(bridge->directions[i].from), .events = POLLIN};
        if (fds[i].fd < 0)
            until = RTE_MIN(until, now + SLEEP_BLIND);
    }
    until = RTE_MIN(until, now + (bridge->reclaimed ? SLEEP_MAX : NS_PER_MS));
    struct timespec timeout = {.tv_nsec = (long)(until - now)};
    return ppoll(fds, 2, &timeout, NULL) >= 0 || errno != EINTR;
}

int zh_bridge_run(struct zh_bridge *bridge, uint64_t deadline)
{
    for (;;) {
        bool busy = carry(&bridge->directions[0]);
        busy |= carry(&bridge->directions[1]);
        uint64_t now = zh_loop_now();
        if (busy) {
            bridge->busy_at = now;
            bridge->reclaimed = false;
        } else if (!bridge->reclaimed && now - bridge->busy_at > NS_PER_MS) {
            for (int i = 0; i < 2; i++)
                zh_port_reclaim(bridge->directions[i].to);
            bridge->reclaimed = true;
        }
        if (now - bridge->checked_at > CHECK_INTERVAL) {
            bridge->checked_at = now;
            for (int i = 0; i < 2; i++)
                if (!zh_port_alive(bridge->directions[i].from))
                    return -ENETDOWN;
        }
        if (now >= deadline)
            return 0;
        uint64_t next = RTE_MIN(zh_injector_next(bridge->directions[0].injector),
                                zh_injector_next(bridge->directions[1].injector));
        next = RTE_MIN(next, deadline);
        if (busy || now - bridge->busy_at < SPIN || next < now + SPIN) {
            rte_pause();
            continue;
        }
        if (!wait(bridge, next - SPIN, now))
            return -EINTR;
    }
}

void zh_bridge_stats(const struct zh_bridge *bridge, int direction, struct zh_injector_stats *stats,
                     uint64_t *refused)
{
    zh_injector_stats(bridge->directions[direction].injector, stats);
    *refused = bridge->directions[direction].refused;
}
