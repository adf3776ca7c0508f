/* Packet exchanges with one stack in virtual time, written as packetdrill's scripts are:
 *
 *     SCRIPT("+0.100 < S 0:0(0) win 32792 <mss 1460,sackOK,nop,nop,nop,wscale 7>",
 *            "+0     > S. 0:0(0) ack 1 <...>",
 *            "+0.100 < . 1:1(0) ack 1 win 257");
 *     struct zh_net_socket *s = script_accept();
 *     script_send(s, 1000);
 *     SCRIPT("+0 > P. 1:1001(1000) ack 1");
 *
 * A line is a time, a direction and a packet. `<`: the peer sends it at that time. `>`: the stack
 * sends it exactly then, and nothing before. A line of a time alone: it goes by, and nothing is
 * sent. Times count in seconds from the line before: `+0.2`; `+0.2~+0.3`: not before the first and
 * not after the second; `*`: whenever. Without a time: `+0`.
 *
 * A packet is `[ecn] flags start:end(size) [ack N] [win N] [<options>]`: flags of S F R P . E W
 * (`.` is ACK, E is ECE, W is CWR); sequence numbers relative to each side's first; windows as they
 * stand in the header; ecn one of [noecn] [ect0] [ect1] [ce]. Options: mss N, sackOK, wscale N,
 * TS val N ecr N, sack A:B C:D, nop, eol; `...` alone: any. Of a packet that is expected, win and
 * ecn are looked at where they are given, the others always: without <> it has no options; nops and
 * the order of options do not count. The stack's first timestamp of a flow counts as 100. An ICMP
 * error quotes a segment of the stack's:
 * `< [1:1461(1460)] icmp unreachable frag_needed mtu 1200`, of IPv6 `icmp packet_too_big mtu 1400`.
 *
 * Packets that come at one time (`+0 <`) are one burst: the stack is polled when time goes by or a
 * packet is expected. ARP is answered by itself. Everything here ends the test with what was
 * expected, what came and all that came before, when it does not come as it should. */
#ifndef ZEROHOP_TESTS_NET_SCRIPT_H
#define ZEROHOP_TESTS_NET_SCRIPT_H

#include <netinet/tcp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "net/tcp.h"

enum {
    SCRIPT_PORT = 80,        /* ours, of listeners */
    SCRIPT_PEER_PORT = 8080, /* the peer's, of listeners there */
    SCRIPT_CLIENT = 40000,   /* + the flow: the peer's port of connections that it opens */
    SCRIPT_FLOWS = 32,
};

#define SECONDS(n) ((uint64_t)((n)*1e9 + 0.5))

/* The stack of the test that runs; NULL between tests. */
extern struct zh_net *script_net;
/* The time. */
extern uint64_t script_now;
/* The stack of the next test has fd00::1/64 too, and listeners, connections and lines are of IPv6.
 * A listener takes IPv4 as well: lines are of that, where it is switched off within a test. */
extern bool script_ipv6;

/* EAL and the pool of what the peer sends; first in main. */
void script_start(void);
/* A new stack; what is zero in `config` (NULL: all) is as below: 10.0.0.1/24, NewReno, small pools.
 * `name` is for messages. */
void script_begin(const char *name, const struct zh_net_config *config);
/* No packet is left; connections in TIME-WAIT end; then nothing is left of any socket, no timer is
 * set, and every packet of both pools is back. */
void script_end(void);

#define RUN(test)                                                                                  \
    do {                                                                                           \
        script_begin(#test, NULL);                                                                 \
        test();                                                                                    \
        script_end();                                                                              \
    } while (0)
#define RUN_IPV6(test)                                                                             \
    do {                                                                                           \
        script_ipv6 = true;                                                                        \
        RUN(test);                                                                                 \
        script_ipv6 = false;                                                                       \
    } while (0)
#define RUN_WITH(test, ...)                                                                        \
    do {                                                                                           \
        script_begin(#test, &(struct zh_net_config){__VA_ARGS__});                                 \
        test();                                                                                    \
        script_end();                                                                              \
    } while (0)

/* Play lines. */
void script_play(const char *file, int line, const char *const *lines);
#define SCRIPT(...) script_play(__FILE__, __LINE__, (const char *const[]){__VA_ARGS__, NULL})
/* One line, made as by printf. */
void script_playf(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
#define SCRIPTF(...) script_playf(__FILE__, __LINE__, __VA_ARGS__)

/* The connection that lines and bytes are of from now on, 0 (where each test begins) to
 * SCRIPT_FLOWS - 1: its peer's port is SCRIPT_CLIENT + flow until script_connect. */
void script_flow(unsigned flow);
/* Take the flow's sequence numbers from its next SYNs: its ports are used again. */
void script_forget(void);
/* The stack's first sequence number of the flow. */
uint32_t script_iss(void);

/* An IP packet of the peer's, as it is: for what lines cannot say. */
void script_input(const uint8_t *ip, size_t size);
/* Poll, and throw away what the stack has sent: how many packets. */
unsigned script_discard(void);

/* Listen on SCRIPT_PORT. */
struct zh_net_socket *script_listen(int backlog);
/* The next connection of the listener. */
struct zh_net_socket *script_accept(struct zh_net_socket *listener);
/* Connect to the peer's SCRIPT_PEER_PORT; the SYN is to be expected. */
struct zh_net_socket *script_connect(void);
/* A connection without options but the MSS (of the peer: 1000), accepted; the peer's window is
 * `window` bytes, the round trip takes 100 ms. The listener is closed. */
struct zh_net_socket *script_open(unsigned window);
/* The same with the peer's options, its window as it stands in the header. With timestamps the last
 * segment of the peer's has 100 more than its first, and ecr 100. */
struct zh_net_socket *script_open_with(unsigned window, const char *options);
/* Close with a reset, whose packet is expected. For the end of tests that are about other things.
 */
void script_abort(struct zh_net_socket *socket);

/* Send bytes of the flow's outward stream, all of which must be taken. What packets carry of it is
 * checked wherever they are expected. */
void script_send(struct zh_net_socket *socket, size_t size);
void script_send_more(struct zh_net_socket *socket, size_t size); /* MSG_MORE */
/* Receive exactly so many bytes of the flow's inward stream, by one call. 0: the end. */
void script_recv(struct zh_net_socket *socket, size_t size);
/* Nothing can be received, for this reason (EAGAIN, ECONNRESET ...). */
void script_recv_error(struct zh_net_socket *socket, int error);
/* SO_ERROR is this. */
void script_socket_error(struct zh_net_socket *socket, int error);
void script_set(struct zh_net_socket *socket, int level, int option, int value);
struct tcp_info script_info(struct zh_net_socket *socket);
/* The state in the connection table of the flow's connection, as RFC 9293 writes it, or NULL. */
const char *script_state(void);
#define CHECK_STATE(name)                                                                          \
    do {                                                                                           \
        const char *state_ = script_state();                                                       \
        if (!state_ || strcmp(state_, name) != 0) {                                                \
            fprintf(stderr, "%s:%d: the state is %s, not %s\n", __FILE__, __LINE__,                \
                    state_ ? state_ : "none", name);                                               \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#endif
