"""Write the C source of ``zerohop.transport.net._net``, the TCP/IP stack through cffi."""

import re
import sys
from pathlib import Path

from cffi import FFI

CDEF = """
typedef int... socklen_t;
struct sockaddr { ...; };
struct sockaddr_storage { ...; };
struct iovec { void *iov_base; size_t iov_len; };

/* port.h */
#define ZH_PORT_ERROR_SIZE ...
struct zh_port_stats {
    uint64_t rx_packets, rx_bytes, tx_packets, tx_bytes;
    uint64_t rx_dropped, tx_busy, tx_linearized, rx_checksum_blank;
};
struct zh_port { const char *name; uint8_t mac[6]; uint16_t mtu; ...; };
struct zh_port_config {
    const char *device;
    uint16_t mtu;
    uint32_t rx_packets;
    bool trust_checksum;
    const char *eal;
    ...;
};
int zh_eal_thread(void);
int zh_port_open(const struct zh_port_config *config, struct zh_port **port, char *error);
void zh_port_stats(struct zh_port *port, struct zh_port_stats *stats);
void zh_port_close(struct zh_port *port);
struct zh_port_ceiling { uint64_t frames, bytes, nanoseconds; };
int zh_port_ceiling(struct zh_port *port, uint16_t size, const uint8_t dst[6], uint64_t duration,
                    struct zh_port_ceiling *ceiling, char *error);
struct zh_fault {
    double loss, duplicate, corrupt, reorder;
    uint64_t reorder_delay, delay, jitter, rate;
    uint32_t queue;
};
struct zh_injector_stats {
    uint64_t put, got, lost, dropped, duplicated, corrupted, reordered;
};

/* bridge.h */
struct zh_bridge;
int zh_bridge_create(struct zh_port *a, struct zh_port *b, const struct zh_fault fault[2],
                     uint64_t seed, struct zh_bridge **bridge, char *error);
void zh_bridge_destroy(struct zh_bridge *bridge);
int zh_bridge_run(struct zh_bridge *bridge, uint64_t deadline);
void zh_bridge_stats(const struct zh_bridge *bridge, int direction,
                     struct zh_injector_stats *stats, uint64_t *refused);

/* stream.h */
#define ZH_STREAM_IN ...
#define ZH_STREAM_OUT ...
#define ZH_STREAM_HUP ...
#define ZH_STREAM_ERR ...
struct zh_stream_segment { const uint8_t *data; size_t size; ...; };

/* net.h */
struct zh_net_prefix { ...; };
int zh_net_prefix_parse(const char *text, struct zh_net_prefix *prefix);
struct zh_net_route {
    struct zh_net_prefix destination, gateway;
    bool datacenter;
    ...;
};
struct zh_net_config {
    const struct zh_net_prefix *addresses;
    unsigned address_count;
    const struct zh_net_route *routes;
    unsigned route_count;
    uint16_t mtu;
    const char *congestion_control;
    uint64_t rto_min, delayed_ack, time_wait;
    uint32_t max_connections, max_half_open, max_time_wait, max_neighbours, send_packets;
    size_t receive_budget, send_limit;
    uint64_t seed;
    ...;
};
struct zh_net;
struct zh_net_socket;
int zh_net_create(const struct zh_net_config *config, struct zh_port *port, struct zh_net **net,
                  char *error);
void zh_net_destroy(struct zh_net *net);
int zh_net_socket(struct zh_net *net, int domain, struct zh_net_socket **socket);
int zh_net_bind(struct zh_net_socket *socket, const struct sockaddr *address, socklen_t length);
int zh_net_listen(struct zh_net_socket *socket, int backlog);
int zh_net_accept(struct zh_net_socket *listener, struct zh_net_socket **socket);
int zh_net_connect(struct zh_net_socket *socket, const struct sockaddr *address, socklen_t length);
void zh_net_close(struct zh_net_socket *socket);
int zh_net_shutdown(struct zh_net_socket *socket, int how);
ssize_t zh_net_send(struct zh_net_socket *socket, const void *data, size_t size, int flags);
ssize_t zh_net_recv(struct zh_net_socket *socket, void *data, size_t size, int flags);
int zh_net_getsockname(struct zh_net_socket *socket, struct sockaddr_storage *address);
int zh_net_getpeername(struct zh_net_socket *socket, struct sockaddr_storage *address);
int zh_net_setsockopt(struct zh_net_socket *socket, int level, int option, const void *value,
                      socklen_t size);
int zh_net_getsockopt(struct zh_net_socket *socket, int level, int option, void *value,
                      socklen_t *size);
unsigned zh_net_ready(struct zh_net_socket *socket);
struct zh_net_event { struct zh_net_socket *socket; unsigned ready; };
struct zh_net_stats { %(counters)s };
void zh_net_read_stats(const struct zh_net *net, struct zh_net_stats *stats);
struct zh_net_connection {
    struct sockaddr_storage local, peer;
    const char *state;
    const char *congestion_control;
    uint64_t receive_queue, send_queue, cwnd, ssthresh;
    uint32_t rtt_us, rto_us, mss, retransmissions;
};
size_t zh_net_connections(struct zh_net *net, struct zh_net_connection *lines, size_t count);

int zh_net_capture(struct zh_net *net, int fd, uint64_t clock_offset);
struct zh_net_ping {
    uint16_t identifier, sequence, size;
    uint8_t ttl;
    uint64_t sent, received;
    ...;
};
void zh_net_ping_stop(struct zh_net *net, struct zh_net_ping *ping);

/* loop.h */
struct zh_loop;
int zh_loop_create(struct zh_net *net, struct zh_port *port, uint64_t spin, struct zh_loop **loop);
void zh_loop_destroy(struct zh_loop *loop);
int zh_loop_run(struct zh_loop *loop, struct zh_net_event *events, int count, uint64_t deadline);
void zh_loop_wake(struct zh_loop *loop);
uint64_t zh_loop_now(void);
enum zh_service_kind { ZH_SERVICE_ECHO, ZH_SERVICE_SINK, ZH_SERVICE_SOURCE };
int zh_service_start(struct zh_net *net, enum zh_service_kind kind, uint16_t port);

/* binding.h */
struct binding_ping { struct zh_net_ping ping; struct zh_loop *loop; };
int binding_ping(struct zh_net *net, struct binding_ping *ping,
                 const struct sockaddr_storage *peer, socklen_t length);

struct binding_loan;
struct binding_loans { struct binding_loan *back; size_t out; };
int binding_send(struct zh_net_socket *socket, struct binding_loans *loans,
                 const struct iovec *pieces, unsigned count, uintptr_t *name);
size_t binding_loans_back(struct binding_loans *loans, uintptr_t *names, size_t count);
int binding_take(struct zh_net_socket *socket, struct zh_stream_segment *segments, unsigned count);
void binding_release(struct zh_stream_segment *segment, const uint8_t *data);
int binding_address(const char *host, uint16_t port, struct sockaddr_storage *out,
                    socklen_t *length);
int binding_host(const struct sockaddr_storage *address, char *host, uint16_t *port);

/* Of the counters in net.h: what each of them counts. */
const char *binding_counter_name(unsigned index);
const char *binding_counter_meaning(unsigned index);
"""

SOURCE = """
#include "binding.h"

static const char *const counters[][2] = {
#define X(name, meaning) {#name, meaning},
    ZH_NET_COUNTERS(X)
#undef X
};

static const char *binding_counter_name(unsigned index)
{
    return index < sizeof counters / sizeof *counters ? counters[index][0] : NULL;
}

static const char *binding_counter_meaning(unsigned index)
{
    return index < sizeof counters / sizeof *counters ? counters[index][1] : NULL;
}
"""


def counters(header: str) -> str:
    """The members of struct zh_net_stats, which net.h makes from a list."""
    names = re.findall(r"^ +X\((\w+), \"", header, re.MULTILINE)
    return " ".join(f"uint64_t {name};" for name in names)


def main(header: str, output: str) -> None:
    ffi = FFI()
    ffi.cdef(CDEF % {"counters": counters(Path(header).read_text())})
    ffi.set_source("zerohop.transport.net._net", SOURCE)
    ffi.emit_c_code(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
