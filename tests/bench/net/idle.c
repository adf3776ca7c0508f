/* Open idle connections: what each costs in memory, at one end, and whether polling notices them.
 *
 *     bench_idle [connections=100000] [slices=9] */
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <unistd.h>

#include "bench.h"

enum { SIZE = 64, POLLS = 200000, BATCH = 64, ECHOES = 5000 };

struct run {
    struct zh_net_socket *listener;
    struct zh_net_socket *active; /* of the client, whose exchanges are counted */
    uint64_t accepted, opened, replies;
};

static void ready(struct bench_pair *pair, int end, struct zh_net_event event)
{
    static const char message[SIZE];
    char buffer[SIZE];
    struct run *run = pair->user;
    struct zh_net_socket *socket;
    if (event.socket == run->listener) {
        while (zh_net_accept(run->listener, &socket) == 0)
            run->accepted++;
        return;
    }
    if (event.ready & ZH_STREAM_ERR)
        bench_fail("connection", "failed");
    bool came = zh_net_recv(event.socket, buffer, sizeof buffer, 0) == SIZE;
    if (end == 1 && came)
        zh_net_send(event.socket, message, SIZE, 0);
    if (end == 0) {
        /* Each makes one exchange, as a connection does that was used before it became idle. */
        if (!came)
            zh_net_send(event.socket, message, SIZE, 0);
        else
            run->replies++;
    }
}

static double resident(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file || fscanf(file, "%*s %ld", &pages) != 1)
        bench_fail("/proc/self/statm", "cannot be read");
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static double allocated(void)
{
    struct mallinfo2 info = mallinfo2();
    return (double)info.uordblks + (double)info.hblkhd;
}

static void open_until(struct bench_pair *pair, uint64_t count)
{
    struct run *run = pair->user;
    while (run->replies < count) {
        while (run->opened < count && run->opened - run->replies < BATCH) {
            struct zh_net_socket *socket =
                bench_connect(pair->nets[0], (int)(run->opened++ % BENCH_CLIENTS));
            if (!run->active)
                run->active = socket;
        }
        bench_pair_round(pair);
    }
    for (int i = 0; i < 200; i++) { /* ACKs that are delayed, timers that find nothing to do */
        pair->now += 10 * 1000 * 1000;
        bench_pair_round(pair);
    }
}

/* Of one end, which has nothing to do. */
static double poll_ns(struct bench_pair *pair)
{
    struct zh_net_event event;
    uint64_t start = bench_cpu_ns();
    for (int i = 0; i < POLLS; i++) {
        zh_net_wait(pair->nets[1], &event, 1);
        zh_net_poll(pair->nets[1], pair->now);
    }
    return (double)(bench_cpu_ns() - start) / POLLS;
}

/* Of an exchange of one connection while the others are idle. */
static double echo_ns(struct bench_pair *pair)
{
    static const char message[SIZE];
    struct run *run = pair->user;
    uint64_t start = bench_cpu_ns(), from = run->replies;
    for (int i = 0; i < ECHOES; i++) {
        uint64_t before = run->replies;
        zh_net_send(run->active, message, SIZE, 0);
        while (run->replies == before)
            bench_pair_round(pair);
    }
    double took = (double)(bench_cpu_ns() - start) / ECHOES;
    run->replies = from;
    return took;
}

int main(int argc, char **argv)
{
    uint64_t connections = bench_argument(argc, argv, "connections", 100000);
    unsigned slices = (unsigned)bench_argument(argc, argv, "slices", 9);
    const uint64_t steps[] = {1, 1000, connections};
    double polls[BENCH_SLICES_MAX], echoes[BENCH_SLICES_MAX];
    struct run run = {0};
    struct bench_pair pair = {.ready = ready, .user = &run};
    if (!slices || slices > BENCH_SLICES_MAX || connections < 1000)
        bench_fail("bench_idle", "a number is out of range");
    bench_pair_create(&pair, 1500, NULL);
    run.listener = bench_listen(pair.nets[1]);
    open_until(&pair, 1);
    double rss = resident(), heap = allocated();
    bench_json_begin("idle");
    bench_json("connections", (double)connections);
    for (unsigned step = 0; step < sizeof steps / sizeof *steps; step++) {
        char key[64];
        open_until(&pair, steps[step]);
        if (steps[step] == connections) {
            double both = 2 * (double)(connections - 1);
            bench_json("rss_bytes", (resident() - rss) / both);
            bench_json("malloc_bytes", (allocated() - heap) / both);
        }
        for (unsigned i = 0; i < slices; i++) {
            polls[i] = poll_ns(&pair);
            echoes[i] = echo_ns(&pair);
        }
        /* One connection, the one that is used, is not idle. */
        snprintf(key, sizeof key, "poll_ns_%llu", (unsigned long long)steps[step] - (step == 0));
        bench_json_slices(key, polls, slices, false);
        snprintf(key, sizeof key, "echo_ns_%llu", (unsigned long long)steps[step] - (step == 0));
        bench_json_slices(key, echoes, slices, false);
    }
    bench_json_end();
    bench_pair_destroy(&pair);
    return 0;
}
