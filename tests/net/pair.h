/* Two stacks joined by a wire in memory, in virtual time: 10.0.0.1 at its end 0, 10.0.0.2 at its
 * end 1, both with an IPv6 address too (fd00::1, fd00::2). */
#ifndef ZEROHOP_TESTS_NET_PAIR_H
#define ZEROHOP_TESTS_NET_PAIR_H

#include <stdbool.h>

#include "check.h"
#include "net/tcp.h"

struct stacks {
    struct zh_wire *wire;
    struct zh_port *ports[2];
    struct zh_net *nets[2];
    uint64_t now, next; /* when the stacks want to be polled; stacks_step */
    uint64_t packets;   /* received by both ends */
};

/* EAL starts with the first. What is zero in a configuration is the stack's default, but for the
 * addresses and the seed; NULL: all zero. */
void stacks_start(struct stacks *stacks, const struct zh_wire_config *wire,
                  const struct zh_net_config *configs[2]);
/* Frees all, and sees that every packet of the ports is back, but for `held`. */
void stacks_stop(struct stacks *stacks, unsigned held);
/* Everything that is due now, then on to the time of what comes next (or 1 ms, if nothing does, or
 * it is more than `most` away). */
void stacks_step(struct stacks *stacks, uint64_t most);
/* Step until so much time has gone by. */
void stacks_run(struct stacks *stacks, uint64_t duration);

#define PAIR_MOST (3600 * NET_SECOND)
#define STACKS_UNTIL(stacks, condition)                                                            \
    do {                                                                                           \
        for (unsigned until_ = 0; !(condition); until_++) {                                        \
            CHECK(until_ < 10 * 1000 * 1000 && "never: " #condition);                              \
            stacks_step(stacks, PAIR_MOST);                                                        \
        }                                                                                          \
    } while (0)

/* A listener at end 0. */
struct zh_net_socket *stacks_listen(struct stacks *stacks, sa_family_t family, uint16_t port,
                                    int backlog);
/* A connection: [0] at end 0, accepted from the listener, [1] at end 1, connected. */
void stacks_connect(struct stacks *stacks, struct zh_net_socket *listener,
                    struct zh_net_socket *ends[2]);
/* Packets of both stacks and ports that are in use, and entries of their tables. */
size_t stacks_leftover(const struct stacks *stacks);

#endif
