/* The stack's own cost for a packet, over the wire in memory, as a workload for callgrind
 * (instructions.py): `bulk` sends one way, `echo` sends 64 bytes to and fro.
 *
 *     bench_packets [slices=9] [bulk=64] [echo=20000] [mtu=1500]     MiB, round trips; 0: not done
 */
#include <errno.h>

#include "bench.h"

enum { SIZE = 64, RECORD = 256 * 1024, TAKE = 32 };

struct run {
    struct zh_net_socket *client, *server, *listener;
    uint64_t to_send, received, round_trips, wanted;
};

static void send_more(struct run *run)
{
    static uint8_t zeros[RECORD];
    struct iovec piece = {zeros, sizeof zeros};
    struct zh_stream_record record = {&piece, 1, NULL, NULL};
    while (run->to_send && zh_net_send_records(run->client, &record, 1) == 1)
        run->to_send -= RECORD;
}

static uint64_t take_all(struct zh_net_socket *socket)
{
    struct zh_stream_segment segments[TAKE];
    uint64_t size = 0;
    int count;
    while ((count = zh_net_take(socket, segments, TAKE)) > 0)
        for (int i = 0; i < count; i++) {
            size += segments[i].size;
            zh_stream_release(&segments[i]);
        }
    return size;
}

static void ready(struct bench_pair *pair, int end, struct zh_net_event event)
{
    static const char message[SIZE];
    struct run *run = pair->user;
    if (event.socket == run->listener) {
        bench_check("accept", zh_net_accept(run->listener, &run->server));
        return;
    }
    if (event.ready & ZH_STREAM_ERR)
        bench_fail("connection", "failed");
    uint64_t size = take_all(event.socket);
    if (end == 1) {
        run->received += size;
        if (run->wanted && size == SIZE)
            zh_net_send(run->server, message, SIZE, 0);
    } else if (size == SIZE && ++run->round_trips < run->wanted) {
        zh_net_send(run->client, message, SIZE, 0);
    }
    if (end == 0 && run->to_send)
        send_more(run);
}

static void bulk(struct bench_pair *pair, uint64_t size)
{
    struct run *run = pair->user;
    run->wanted = run->received = 0;
    run->to_send = size;
    send_more(run);
    while (run->received < size)
        bench_pair_round(pair);
}

static void echo(struct bench_pair *pair, uint64_t count)
{
    static const char message[SIZE];
    struct run *run = pair->user;
    run->round_trips = 0;
    run->wanted = count;
    zh_net_send(run->client, message, SIZE, 0);
    while (run->round_trips < count)
        bench_pair_round(pair);
}

/* Not inlined: what callgrind is told to look at. */
__attribute__((noinline, noclone)) static void bench_measured_bulk(struct bench_pair *pair,
                                                                   uint64_t size)
{
    bulk(pair, size);
}

__attribute__((noinline, noclone)) static void bench_measured_echo(struct bench_pair *pair,
                                                                   uint64_t count)
{
    echo(pair, count);
}

int main(int argc, char **argv)
{
    unsigned slices = (unsigned)bench_argument(argc, argv, "slices", 9);
    uint64_t size = bench_argument(argc, argv, "bulk", 64) << 20;
    uint64_t trips = bench_argument(argc, argv, "echo", 20000);
    uint16_t mtu = (uint16_t)bench_argument(argc, argv, "mtu", 1500);
    double bulk_rates[BENCH_SLICES_MAX], echo_times[BENCH_SLICES_MAX],
        segment_times[BENCH_SLICES_MAX];
    struct run run = {0};
    struct bench_pair pair = {.ready = ready, .user = &run};
    if (!slices || slices > BENCH_SLICES_MAX)
        bench_fail("bench_packets", "slices is out of range");
    bench_pair_create(&pair, mtu, NULL);
    run.listener = bench_listen(pair.nets[1]);
    run.client = bench_connect(pair.nets[0], -1);
    while (!run.server)
        bench_pair_round(&pair);
    bulk(&pair, 8 << 20); /* opens the window and fills caches */
    echo(&pair, 1000);
    for (unsigned i = 0; i < slices; i++) {
        struct zh_net_stats before, after;
        zh_net_read_stats(pair.nets[0], &before);
        uint64_t start = bench_cpu_ns();
        if (size)
            bench_measured_bulk(&pair, size);
        uint64_t took = bench_cpu_ns() - start;
        zh_net_read_stats(pair.nets[0], &after);
        bulk_rates[i] = (double)size * 8 / (double)took;
        segment_times[i] = (double)took / (double)(after.tcp_out - before.tcp_out + !size);
        start = bench_cpu_ns();
        if (trips)
            bench_measured_echo(&pair, trips);
        echo_times[i] = (double)(bench_cpu_ns() - start) / (double)(trips + !trips);
    }
    bench_json_begin("packets");
    bench_json("mtu", mtu);
    if (size) {
        bench_json_slices("bulk_gbit_per_s", bulk_rates, slices, true);
        bench_json_slices("bulk_segment_ns", segment_times, slices, false);
    }
    if (trips)
        bench_json_slices("echo_ns", echo_times, slices, false);
    bench_json_end();
    bench_pair_destroy(&pair);
    return 0;
}
