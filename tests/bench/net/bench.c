#include "bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BURST = 32, EVENTS = 32 };

void bench_fail(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

void bench_check(const char *what, int error)
{
    if (error)
        bench_fail(what, strerror(-error));
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

uint64_t bench_cpu_ns(void)
{
    return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

uint64_t bench_wall_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

/* --- stacks ----------------------------------------------------------------------------------- */

static struct zh_net_prefix address_of(int end, int client)
{
    char text[32];
    struct zh_net_prefix prefix;
    if (end == 0)
        snprintf(text, sizeof text, "10.77.1.%d/16", client + 1);
    else
        snprintf(text, sizeof text, "10.77.0.1/16");
    bench_check(text, zh_net_prefix_parse(text, &prefix));
    return prefix;
}

void bench_pair_create(struct bench_pair *pair, uint16_t mtu, const struct zh_net_config *limits)
{
    char error[ZH_PORT_ERROR_SIZE];
    struct zh_wire_config wire = {.mtu = mtu};
    struct zh_net_prefix addresses[BENCH_CLIENTS];
    if (zh_wire_create(&wire, &pair->wire, error))
        bench_fail("wire", error);
    for (int end = 0; end < 2; end++) {
        struct zh_net_config config = limits ? *limits : (struct zh_net_config){0};
        config.seed = 1; /* the same work in each run */
        config.addresses = addresses;
        config.address_count = end == 0 ? BENCH_CLIENTS : 1;
        for (unsigned i = 0; i < config.address_count; i++)
            addresses[i] = address_of(end, (int)i);
        pair->ports[end] = zh_wire_end(pair->wire, end);
        if (zh_net_create(&config, pair->ports[end], &pair->nets[end], error))
            bench_fail("stack", error);
    }
    pair->now = 1000000000;
}

void bench_pair_destroy(struct bench_pair *pair)
{
    for (int end = 0; end < 2; end++)
        zh_net_destroy(pair->nets[end]);
    zh_wire_destroy(pair->wire);
}

static void round_of(struct bench_pair *pair, int end)
{
    struct rte_mbuf *packets[BURST];
    struct zh_net_event events[EVENTS];
    uint16_t received;
    int count;
    do {
        received = zh_port_receive(pair->ports[end], packets, BURST);
        for (uint16_t i = 0; i < received; i++)
            zh_net_input(pair->nets[end], packets[i], pair->now);
    } while (received == BURST);
    while ((count = zh_net_wait(pair->nets[end], events, EVENTS)) > 0)
        for (int i = 0; i < count; i++)
            pair->ready(pair, end, events[i]);
    zh_net_poll(pair->nets[end], pair->now);
}

void bench_pair_round(struct bench_pair *pair)
{
    pair->now += BENCH_ROUND_NS;
    zh_wire_set_now(pair->wire, pair->now);
    round_of(pair, 0);
    round_of(pair, 1);
}

static socklen_t sockaddr_of(const char *address, uint16_t port, struct sockaddr_in *out)
{
    *out = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, address, &out->sin_addr);
    return sizeof *out;
}

struct zh_net_socket *bench_listen(struct zh_net *net)
{
    struct zh_net_socket *listener;
    struct sockaddr_in any;
    socklen_t size = sockaddr_of("0.0.0.0", BENCH_PORT, &any);
    bench_check("socket", zh_net_socket(net, AF_INET, &listener));
    bench_check("bind", zh_net_bind(listener, (struct sockaddr *)&any, size));
    bench_check("listen", zh_net_listen(listener, 4096));
    return listener;
}

struct zh_net_socket *bench_connect(struct zh_net *net, int client)
{
    struct zh_net_socket *socket;
    struct sockaddr_in address;
    bench_check("socket", zh_net_socket(net, AF_INET, &socket));
    if (client >= 0) {
        char own[32];
        snprintf(own, sizeof own, "10.77.1.%d", client + 1);
        socklen_t size = sockaddr_of(own, 0, &address);
        bench_check("bind", zh_net_bind(socket, (struct sockaddr *)&address, size));
    }
    socklen_t size = sockaddr_of("10.77.0.1", BENCH_PORT, &address);
    int error = zh_net_connect(socket, (struct sockaddr *)&address, size);
    bench_check("connect", error == -EINPROGRESS ? 0 : error);
    return socket;
}

/* --- figures ---------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

double bench_quantile(const double *values, unsigned count, double quantile)
{
    double *sorted = malloc(count * sizeof *sorted);
    if (!sorted || !count)
        bench_fail("quantile", "no memory");
    memcpy(sorted, values, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, compare);
    double found = sorted[(unsigned)((double)(count - 1) * quantile + 0.5)];
    free(sorted);
    return found;
}

uint64_t bench_argument(int argc, char **argv, const char *name, uint64_t missing)
{
    size_t size = strlen(name);
    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], name, size) == 0 && argv[i][size] == '=')
            return strtoull(argv[i] + size + 1, NULL, 0);
    return missing;
}

void bench_json_begin(const char *name)
{
    printf("{\"benchmark\": \"%s\"", name);
}

void bench_json(const char *key, double value)
{
    printf(", \"%s\": %.6g", key, value);
}

void bench_json_slices(const char *key, const double *values, unsigned count, bool more_is_better)
{
    bench_json(key, bench_quantile(values, count, 0.5));
    printf(", \"%s_best\": %.6g, \"%s_slices\": [", key,
           bench_quantile(values, count, more_is_better), key);
    for (unsigned i = 0; i < count; i++)
        printf("%s%.6g", i ? ", " : "", values[i]);
    printf("]");
}

void bench_json_end(void)
{
    printf("}\n");
    fflush(stdout);
}
