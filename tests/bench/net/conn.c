/* New connections a second: open, send 64 bytes, get 64 back, close. Both ends on one core, over
 * the wire in memory; its copies and the program's own work are counted too.
 *
 *     bench_conn [slices=9] [connections=50000] [concurrent=64] */
#include <errno.h>

#include "bench.h"

enum { SIZE = 64 };

struct run {
    struct zh_net_socket *listener;
    uint64_t opened, closed, failed, wanted;
};

static void open_next(struct bench_pair *pair)
{
    struct run *run = pair->user;
    if (run->opened < run->wanted)
        bench_connect(pair->nets[0], (int)(run->opened++ % BENCH_CLIENTS));
}

static void client(struct bench_pair *pair, struct zh_net_event event)
{
    static const char request[SIZE];
    char reply[SIZE];
    struct run *run = pair->user;
    if (event.ready & ZH_STREAM_IN) {
        ssize_t size = zh_net_recv(event.socket, reply, sizeof reply, 0);
        if (size == -EAGAIN)
            return;
        run->failed += size != SIZE;
        zh_net_close(event.socket);
        run->closed++;
        open_next(pair);
    } else if (event.ready & ZH_STREAM_OUT) {
        run->failed += zh_net_send(event.socket, request, SIZE, 0) != SIZE;
    }
}

static void server(struct bench_pair *pair, struct zh_net_event event)
{
    char request[SIZE];
    struct run *run = pair->user;
    struct zh_net_socket *socket;
    if (event.socket == run->listener) {
        while (zh_net_accept(run->listener, &socket) == 0)
            ;
        return;
    }
    ssize_t size = zh_net_recv(event.socket, request, sizeof request, 0);
    if (size == -EAGAIN)
        return;
    if (size <= 0)
        zh_net_close(event.socket);
    else
        run->failed += zh_net_send(event.socket, request, (size_t)size, 0) != size;
}

static void ready(struct bench_pair *pair, int end, struct zh_net_event event)
{
    (end == 0 ? client : server)(pair, event);
}

static void open_and_close(struct bench_pair *pair, uint64_t count, uint64_t concurrent)
{
    struct run *run = pair->user;
    run->wanted += count;
    while (run->opened < run->wanted && run->opened - run->closed < concurrent)
        open_next(pair);
    while (run->closed < run->wanted)
        bench_pair_round(pair);
}

/* Not inlined: what callgrind is told to look at. */
__attribute__((noinline, noclone)) static void bench_measured(struct bench_pair *pair,
                                                              uint64_t count, uint64_t concurrent)
{
    open_and_close(pair, count, concurrent);
}

int main(int argc, char **argv)
{
    unsigned slices = (unsigned)bench_argument(argc, argv, "slices", 9);
    uint64_t each = bench_argument(argc, argv, "connections", 50000);
    uint64_t concurrent = bench_argument(argc, argv, "concurrent", 64);
    double rates[BENCH_SLICES_MAX];
    struct run run = {0};
    struct bench_pair pair = {.ready = ready, .user = &run};
    if (!slices || slices > BENCH_SLICES_MAX || !each || !concurrent)
        bench_fail("bench_conn", "a number is out of range");
    bench_pair_create(&pair, 1500, NULL);
    run.listener = bench_listen(pair.nets[1]);
    open_and_close(&pair, BENCH_CLIENTS, 1); /* each address is resolved */
    open_and_close(&pair, each, concurrent); /* and caches are filled */
    for (unsigned i = 0; i < slices; i++) {
        uint64_t start = bench_cpu_ns();
        bench_measured(&pair, each, concurrent);
        rates[i] = (double)each * 1e9 / (double)(bench_cpu_ns() - start);
    }
    bench_json_begin("conn");
    bench_json("concurrent", (double)concurrent);
    bench_json("connections", (double)each);
    bench_json("failed", (double)run.failed);
    bench_json_slices("connections_per_s", rates, slices, true);
    bench_json_end();
    bench_pair_destroy(&pair);
    return run.failed != 0;
}
