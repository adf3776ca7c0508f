/* Stack to stack over net_memif, between two processes on two cores: the round trip of 64 bytes and
 * the throughput of one connection. Both ends run the library's loop, without sleeping.
 *
 *     bench_memif [mtu=1500] [slices=9] [slice_ms=200] [server_core=0] [client_core=1] */
#include <errno.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

enum {
    SIZE = 64,
    RECORD = 256 * 1024,
    ECHO_PORT = BENCH_PORT,
    SINK_PORT = BENCH_PORT + 1,
    TRIPS_MAX = 1 << 20,
    CONNECT_MS = 10000,
};
#define SPIN UINT64_C(3600000000000) /* an hour: never sleeps */

static char socket_path[64];

static void pin(int core)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        bench_fail("sched_setaffinity", "no such core");
}

struct end {
    struct zh_port *port;
    struct zh_net *net;
    struct zh_loop *loop;
};

static void open_end(struct end *end, const char *role, const char *address, uint16_t mtu)
{
    char error[ZH_PORT_ERROR_SIZE], device[128];
    snprintf(device, sizeof device, "net_memif0,role=%s,socket=%s,socket-abstract=no", role,
             socket_path);
    struct zh_port_config port = {.device = device, .mtu = mtu};
    struct zh_net_prefix prefix;
    bench_check(address, zh_net_prefix_parse(address, &prefix));
    struct zh_net_config net = {.addresses = &prefix, .address_count = 1};
    if (zh_port_open(&port, &end->port, error) || zh_net_create(&net, end->port, &end->net, error))
        bench_fail(role, error);
    bench_check("loop", zh_loop_create(end->net, end->port, SPIN, &end->loop));
}

_Noreturn static void serve(int ready, int core, uint16_t mtu)
{
    struct end end;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    pin(core);
    open_end(&end, "server", "10.77.0.1/24", mtu);
    bench_check("echo", zh_service_start(end.net, ZH_SERVICE_ECHO, ECHO_PORT));
    bench_check("sink", zh_service_start(end.net, ZH_SERVICE_SINK, SINK_PORT));
    if (write(ready, "", 1) != 1)
        exit(1);
    struct zh_net_event event;
    for (;;)
        zh_loop_run(end.loop, &event, 1, UINT64_MAX);
}

static struct zh_net_socket *connect_to(struct end *end, uint16_t port)
{
    struct zh_net_socket *socket;
    struct zh_net_event event = {0};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int on = 1;
    address.sin_addr.s_addr = htonl(0x0a4d0001);
    bench_check("socket", zh_net_socket(end->net, AF_INET, &socket));
    zh_net_setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    int error = zh_net_connect(socket, (struct sockaddr *)&address, sizeof address);
    bench_check("connect", error == -EINPROGRESS ? 0 : error);
    uint64_t deadline = zh_loop_now() + CONNECT_MS * UINT64_C(1000000);
    while (!(event.ready & ZH_STREAM_OUT) && zh_loop_now() < deadline)
        zh_loop_run(end->loop, &event, 1, deadline);
    if (!(event.ready & ZH_STREAM_OUT) || event.ready & ZH_STREAM_ERR)
        bench_fail("connect", "no answer");
    return socket;
}

static void echo_once(struct end *end, struct zh_net_socket *socket)
{
    static const char message[SIZE];
    char buffer[SIZE];
    struct zh_net_event event;
    if (zh_net_send(socket, message, SIZE, 0) != SIZE)
        bench_fail("echo", "cannot send");
    for (ssize_t got = 0; got < SIZE;) {
        zh_loop_run(end->loop, &event, 1, UINT64_MAX);
        ssize_t n = zh_net_recv(socket, buffer, sizeof buffer, 0);
        if (n == 0 || (n < 0 && n != -EAGAIN))
            bench_fail("echo", "the connection has ended");
        got += n > 0 ? n : 0;
    }
}

/* Medians and 99th percentiles of slices, in us. */
static void echo(struct end *end, unsigned slices, uint64_t slice, double *p50, double *p99)
{
    static double times[TRIPS_MAX];
    struct zh_net_socket *socket = connect_to(end, ECHO_PORT);
    for (unsigned i = 0; i <= slices; i++) { /* the first is to warm up */
        unsigned count = 0;
        uint64_t until = bench_wall_ns() + slice, now, before = bench_wall_ns();
        do {
            echo_once(end, socket);
            now = bench_wall_ns();
            times[count++] = (double)(now - before) / 1000;
            before = now;
        } while (now < until && count < TRIPS_MAX);
        if (i) {
            p50[i - 1] = bench_quantile(times, count, 0.5);
            p99[i - 1] = bench_quantile(times, count, 0.99);
        }
    }
    zh_net_close(socket);
}

static uint64_t acknowledged(struct zh_net_socket *socket)
{
    struct zh_stream_info info;
    zh_stream_info(zh_net_stream(socket), &info);
    return info.bytes_sent;
}

static void send_for(struct end *end, struct zh_net_socket *socket, uint64_t until)
{
    static uint8_t zeros[RECORD];
    struct iovec piece = {zeros, sizeof zeros};
    struct zh_stream_record record = {&piece, 1, NULL, NULL};
    struct zh_net_event event;
    int sent;
    do {
        do
            sent = zh_net_send_records(socket, &record, 1);
        while (sent == 1);
        if (sent != -EAGAIN)
            bench_fail("sink", "the connection has ended");
        zh_loop_run(end->loop, &event, 1, until);
    } while (bench_wall_ns() < until);
}

static void bulk(struct end *end, unsigned slices, uint64_t slice, double *rates)
{
    struct zh_net_socket *socket = connect_to(end, SINK_PORT);
    for (unsigned i = 0; i <= slices; i++) {
        uint64_t before = acknowledged(socket), start = bench_wall_ns();
        send_for(end, socket, start + slice);
        uint64_t took = bench_wall_ns() - start;
        if (i)
            rates[i - 1] = (double)(acknowledged(socket) - before) * 8 / (double)took;
    }
}

int main(int argc, char **argv)
{
    uint16_t mtu = (uint16_t)bench_argument(argc, argv, "mtu", 1500);
    unsigned slices = (unsigned)bench_argument(argc, argv, "slices", 9);
    uint64_t slice = bench_argument(argc, argv, "slice_ms", 200) * 1000000;
    int server_core = (int)bench_argument(argc, argv, "server_core", 0);
    int client_core = (int)bench_argument(argc, argv, "client_core", 1);
    double p50[BENCH_SLICES_MAX], p99[BENCH_SLICES_MAX], rates[BENCH_SLICES_MAX];
    int ready[2];
    char byte;
    if (!slices || slices > BENCH_SLICES_MAX)
        bench_fail("bench_memif", "slices is out of range");
    snprintf(socket_path, sizeof socket_path, "/tmp/zh_bench_memif_%d.sock", (int)getpid());
    if (pipe(ready))
        bench_fail("pipe", "cannot be made");
    pid_t server = fork(); /* before EAL starts */
    if (server == 0) {
        close(ready[0]);
        serve(ready[1], server_core, mtu);
    }
    close(ready[1]);
    struct end end;
    if (server < 0 || read(ready[0], &byte, 1) != 1)
        bench_fail("server", "did not start");
    pin(client_core);
    open_end(&end, "client", "10.77.0.2/24", mtu);
    echo(&end, slices, slice, p50, p99);
    bulk(&end, slices, slice, rates);
    struct zh_net_stats stats;
    zh_net_read_stats(end.net, &stats);
    bench_json_begin("memif");
    bench_json("mtu", mtu);
    bench_json_slices("echo_p50_us", p50, slices, false);
    bench_json_slices("echo_p99_us", p99, slices, false);
    bench_json_slices("bulk_gbit_per_s", rates, slices, true);
    bench_json("retransmitted", (double)stats.tcp_out_retransmitted);
    bench_json_end();
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    unlink(socket_path); /* which the driver leaves behind */
    _exit(0);            /* closing a memif whose peer has gone is not safe */
}
