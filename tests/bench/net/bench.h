/* What the stack's benchmarks share: two stacks on a wire in memory, time, medians, and one line of
 * JSON. A benchmark that cannot run says why and exits with 1. */
#ifndef BENCH_H
#define BENCH_H

#include <stdint.h>

#include "zerohop/loop.h"
#include "zerohop/net.h"

enum {
    BENCH_SLICES_MAX = 101,
    BENCH_CLIENTS = 16,   /* addresses of end 0: 10.77.1.1 and so on; end 1 is 10.77.0.1 */
    BENCH_PORT = 7000,    /* that end 1 listens on */
    BENCH_ROUND_NS = 1000 /* what a round takes in virtual time */
};

/* Two stacks in one thread, in virtual time. What happens to sockets is up to `ready`, which is
 * given the end and one event after another. */
struct bench_pair {
    struct zh_wire *wire;
    struct zh_port *ports[2];
    struct zh_net *nets[2];
    uint64_t now;
    void (*ready)(struct bench_pair *pair, int end, struct zh_net_event event);
    void *user;
};

void bench_pair_create(struct bench_pair *pair, uint16_t mtu, const struct zh_net_config *limits);
void bench_pair_destroy(struct bench_pair *pair);
/* Time goes on by BENCH_ROUND_NS; both ends receive, serve and send. */
void bench_pair_round(struct bench_pair *pair);

/* A listener on a stack's every address, at BENCH_PORT. */
struct zh_net_socket *bench_listen(struct zh_net *net);
/* Connect to 10.77.0.1; `client` is the own address's number, -1: the stack chooses. */
struct zh_net_socket *bench_connect(struct zh_net *net, int client);

/* `error` is a negative errno. */
void bench_check(const char *what, int error);
_Noreturn void bench_fail(const char *what, const char *why);

uint64_t bench_cpu_ns(void); /* of this thread */
uint64_t bench_wall_ns(void);
/* 0: the least, 0.5: the median, 1: the greatest. */
double bench_quantile(const double *values, unsigned count, double quantile);

/* A number of the command line; `missing` where it is not given. */
uint64_t bench_argument(int argc, char **argv, const char *name, uint64_t missing);

/* {"benchmark": "name", "key": value, ...}: begin, keys, end. */
void bench_json_begin(const char *name);
void bench_json(const char *key, double value);
/* Median, best and all of the slices, in the order of time. */
void bench_json_slices(const char *key, const double *values, unsigned count, bool more_is_better);
void bench_json_end(void);

#endif
