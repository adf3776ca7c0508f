/* A loop that runs a stack on a port: the clock, bursts of packets, and what to do while nothing
 * comes. For whoever has no loop of his own.
 *
 * While packets come, and for a moment after, it polls the port without pause; then it waits for
 * the port's descriptor, for the stack's next timer and for zh_loop_wake. A port without a
 * descriptor is looked at in intervals that double from 50 us to 1 ms. One thread runs a loop and
 * uses its stack's sockets; zh_loop_wake may be called by any. */
#ifndef ZEROHOP_LOOP_H
#define ZEROHOP_LOOP_H

#include "zerohop/net.h"

struct zh_loop;

/* On a loop, a socket's user (zh_net_set_user; an accepted socket has its listener's) is one of
 * these, or NULL. `ready` is called by zh_loop_run with the socket's ZH_STREAM_*, and may close it.
 */
struct zh_loop_handler {
    void (*ready)(struct zh_loop_handler *handler, struct zh_net_socket *socket, unsigned ready);
};

/* The stack and the port stay the caller's, and outlive the loop. spin: ns without a packet after
 * which it waits rather than polls; 0: 50 us. 0 or a negative errno. */
ZH_API int zh_loop_create(struct zh_net *net, struct zh_port *port, uint64_t spin,
                          struct zh_loop **loop);
ZH_API void zh_loop_destroy(struct zh_loop *loop);

/* Run until sockets without a handler are ready, `deadline` has come (of zh_loop_now; 0: one round
 * without waiting) or zh_loop_wake was called. Returns how many events there are; -ENETDOWN: the
 * port has gone; -EINTR: a signal has come. */
ZH_API int zh_loop_run(struct zh_loop *loop, struct zh_net_event *events, int count,
                       uint64_t deadline);
/* End the run, or the next one, at once. Any thread, and signal handlers. */
ZH_API void zh_loop_wake(struct zh_loop *loop);
/* The clock of the loop: CLOCK_MONOTONIC in ns. */
ZH_API uint64_t zh_loop_now(void);

/* Services for tests and benchmarks, as inetd had them: echo (RFC 862) sends back what comes, sink
 * (RFC 863) takes it, source (as RFC 864, of zero bytes) sends without end. No payload is copied.
 * `port` in host byte order, at the stack's every address. 0 or a negative errno. */
enum zh_service_kind { ZH_SERVICE_ECHO, ZH_SERVICE_SINK, ZH_SERVICE_SOURCE };
ZH_API int zh_service_start(struct zh_net *net, enum zh_service_kind kind, uint16_t port);

#endif
