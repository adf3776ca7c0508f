/* Echo, sink and source on a device, for clients elsewhere: ports 7000, 7001 and 7002.
 *
 *     bench_serve net_af_packet0,iface=veth1 10.77.0.1/24 [core=0] [seconds=3600] [spin_us=50]
 *
 * Prints a line of JSON once it serves, and one when it ends (SIGTERM, SIGINT, time), with what it
 * has used of its core. `ceiling=SIZE` and `to=MAC` instead: what the port itself can send. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

static struct zh_loop *loop;
static volatile sig_atomic_t stopped;

static void stop(int signal)
{
    (void)signal;
    stopped = 1;
    zh_loop_wake(loop);
}

static const char *text_argument(int argc, char **argv, const char *name)
{
    size_t size = strlen(name);
    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], name, size) == 0 && argv[i][size] == '=')
            return argv[i] + size + 1;
    return NULL;
}

static int measure_ceiling(struct zh_port *port, uint16_t size, const char *to, uint64_t seconds)
{
    uint8_t mac[6];
    char error[ZH_PORT_ERROR_SIZE];
    struct zh_port_ceiling ceiling;
    if (!to || sscanf(to, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", mac, mac + 1, mac + 2, mac + 3, mac + 4,
                      mac + 5) != 6)
        bench_fail("to", "give a MAC address");
    if (zh_port_ceiling(port, size, mac, seconds * 1000000000, &ceiling, error))
        bench_fail("ceiling", error);
    bench_json_begin("ceiling");
    bench_json("frame_bytes", size);
    bench_json("frames_per_s", (double)ceiling.frames * 1e9 / (double)ceiling.nanoseconds);
    bench_json("gbit_per_s", (double)ceiling.bytes * 8 / (double)ceiling.nanoseconds);
    bench_json_end();
    zh_port_close(port);
    return 0;
}

int main(int argc, char **argv)
{
    char error[ZH_PORT_ERROR_SIZE];
    struct zh_port *port;
    struct zh_net *net;
    struct zh_net_prefix address;
    cpu_set_t set;
    if (argc < 3 || zh_net_prefix_parse(argv[2], &address))
        bench_fail("usage", "bench_serve DEVICE ADDRESS/LENGTH [core=N] [seconds=N] [spin_us=N]");
    uint64_t core = bench_argument(argc, argv, "core", CPU_SETSIZE);
    uint64_t seconds = bench_argument(argc, argv, "seconds", 3600);
    uint64_t spin = bench_argument(argc, argv, "spin_us", 50) * 1000;
    uint64_t ceiling = bench_argument(argc, argv, "ceiling", 0);
    if (core < CPU_SETSIZE) {
        CPU_ZERO(&set);
        CPU_SET(core, &set);
        if (sched_setaffinity(0, sizeof set, &set))
            bench_fail("core", strerror(errno));
    }
    if (zh_port_open(&(struct zh_port_config){.device = argv[1]}, &port, error))
        bench_fail(argv[1], error);
    if (ceiling)
        return measure_ceiling(port, (uint16_t)ceiling, text_argument(argc, argv, "to"), seconds);
    struct zh_net_config config = {.addresses = &address, .address_count = 1};
    if (zh_net_create(&config, port, &net, error))
        bench_fail(argv[2], error);
    for (int kind = ZH_SERVICE_ECHO; kind <= ZH_SERVICE_SOURCE; kind++)
        bench_check("service", zh_service_start(net, (enum zh_service_kind)kind,
                                                (uint16_t)(BENCH_PORT + kind)));
    bench_check("loop", zh_loop_create(net, port, spin, &loop));
    signal(SIGINT, stop);
    signal(SIGTERM, stop);
    bench_json_begin("serve");
    bench_json_end();
    uint64_t start = bench_wall_ns(), cpu = bench_cpu_ns(), until = start + seconds * 1000000000;
    struct zh_net_event event;
    int result = 0;
    while (!stopped && bench_wall_ns() < until && result != -ENETDOWN)
        result = zh_loop_run(loop, &event, 1, until);
    struct zh_net_stats stats;
    zh_net_read_stats(net, &stats);
    bench_json_begin("served");
    bench_json("seconds", (double)(bench_wall_ns() - start) / 1e9);
    bench_json("cpu", (double)(bench_cpu_ns() - cpu) / (double)(bench_wall_ns() - start));
    bench_json("tcp_in", (double)stats.tcp_in);
    bench_json("tcp_out", (double)stats.tcp_out);
    bench_json("tcp_out_retransmitted", (double)stats.tcp_out_retransmitted);
    bench_json_end();
    zh_loop_destroy(loop);
    zh_net_destroy(net);
    zh_port_close(port);
    return result == -ENETDOWN;
}
