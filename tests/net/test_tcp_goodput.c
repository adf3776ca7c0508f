/* Goodput over a path that loses one packet in a hundred: 1 Gb/s, a round trip of 1 ms, segments of
 * 1448 bytes, in virtual time. What a window that is halved for each loss gets is known (Mathis et
 * al., 1997): MSS / RTT * sqrt(3 / (2 p)), here 12.2 segments a round trip, 142 Mb/s, without what
 * recovering takes. The bars are less, so that a change of the random numbers does not break them,
 * and more than a stack gets that waits for timeouts.
 *
 * Run by hand it prints what each seed gives, of any path:
 * test_net_tcp_goodput -v [SECONDS [LOSS [RTT in ms [Mb/s [REORDERED [by ms]]]]]] */
#include <math.h>
#include <string.h>

#include "net/tcp.h"
#include "pair.h"

enum { SEEDS = 5, MSS = 1448, CHUNK = 65536 };
static const double LOSS = 0.01, RTT = 0.001;

static uint8_t data[CHUNK];

struct result {
    double goodput, window; /* Mb/s; segments in flight on average */
    double efficiency;      /* segments that were not sent again, of all */
    uint64_t timeouts, recoveries, undone, probes;
};

static void read_all(struct zh_net_socket *s)
{
    struct zh_stream_segment segments[32];
    int n;
    while ((n = zh_net_take(s, segments, 32)) > 0)
        for (int i = 0; i < n; i++)
            zh_net_release(&segments[i]);
}

static struct result transfer(const char *congestion_control, uint64_t seed, double seconds,
                              const struct zh_fault *fault)
{
    const struct zh_wire_config wire = {.fault = {*fault, *fault}, .seed = seed};
    const struct zh_net_config config = {.congestion_control = congestion_control};
    const struct zh_net_config *configs[2] = {&config, &config};
    struct stacks stacks;
    struct zh_net_socket *ends[2];

    stacks_start(&stacks, &wire, configs);
    struct zh_net_socket *listener = stacks_listen(&stacks, AF_INET, 80, 1);
    stacks_connect(&stacks, listener, ends);
    uint64_t start = stacks.now, end = start + (uint64_t)(seconds * 1e9), window = 0, steps = 0;
    uint64_t first = ends[1]->una_offset;
    while (stacks.now < end) {
        while (zh_net_send(ends[1], data, CHUNK, 0) > 0)
            ;
        read_all(ends[0]);
        stacks_step(&stacks, NET_MS);
        window += ends[1]->snd_nxt - ends[1]->snd_una;
        steps++;
    }
    struct zh_net_stats stats;
    zh_net_read_stats(stacks.nets[1], &stats);
    struct result result = {
        .goodput =
            (double)(ends[1]->una_offset - first) * 8 / 1e6 / ((double)(stacks.now - start) / 1e9),
        .window = (double)window / (double)steps / MSS,
        .efficiency = 1 - (double)stats.tcp_out_retransmitted / (double)stats.tcp_out,
        .timeouts = stats.tcp_rto,
        .recoveries = stats.tcp_fast_recovery,
        .undone = stats.tcp_undo,
        .probes = stats.tcp_tlp,
    };
    read_all(ends[0]);
    for (int i = 0; i < 2; i++)
        zh_net_close(ends[i]);
    zh_net_close(listener);
    zh_net_destroy(stacks.nets[0]);
    zh_net_destroy(stacks.nets[1]);
    zh_wire_destroy(stacks.wire);
    return result;
}

/* The mean of some seeds. */
static struct result mean(const char *name, double seconds, const struct zh_fault *fault,
                          bool verbose)
{
    struct result sum = {0};
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct result r = transfer(name, seed, seconds, fault);
        if (verbose)
            printf("%-8s seed %d: %6.1f Mb/s, %4.1f segments in flight, %5.1f %% sent once, %3d "
                   "recoveries, %d undone, %d timeouts, %d probes\n",
                   name, (int)seed, r.goodput, r.window, 100 * r.efficiency, (int)r.recoveries,
                   (int)r.undone, (int)r.timeouts, (int)r.probes);
        sum.goodput += r.goodput / SEEDS;
        sum.window += r.window / SEEDS;
        sum.efficiency += r.efficiency / SEEDS;
        sum.timeouts += r.timeouts;
        sum.recoveries += r.recoveries;
        sum.undone += r.undone;
        sum.probes += r.probes;
    }
    return sum;
}

static double argument(int argc, char **argv, int i, double otherwise)
{
    return argc > i ? atof(argv[i]) : otherwise;
}

int main(int argc, char **argv)
{
    bool by_hand = argc > 1 && strcmp(argv[1], "-v") == 0;
    double seconds = argument(argc, argv, 2, 2), loss = argument(argc, argv, 3, LOSS);
    double rtt = argument(argc, argv, 4, RTT * 1000) / 1000;
    const double theory = MSS * 8 / rtt * sqrt(1.5 / loss) / 1e6;
    static const char *const names[] = {"cubic", "newreno"};
    const struct zh_fault fault = {
        .loss = loss,
        .delay = (uint64_t)(rtt * 5e8),
        .rate = (uint64_t)(argument(argc, argv, 5, 1000) * 1e6),
        .reorder = argument(argc, argv, 6, 0),
        .reorder_delay = (uint64_t)(argument(argc, argv, 7, 0) * 1e6),
    };
    for (int i = 0; i < 2; i++) {
        struct result r = mean(names[i], seconds, &fault, by_hand);
        printf("%-8s %.1f Mb/s, %.2f of Mathis's %.0f; %d timeouts in %.0f s\n", names[i],
               r.goodput, r.goodput / theory, theory, (int)r.timeouts, SEEDS * seconds);
        if (by_hand)
            continue;
        CHECK(r.goodput > 0.8 * theory);
        CHECK(r.timeouts <= 1 + SEEDS * seconds);
        /* Nothing but what was lost is sent again, and probes. */
        CHECK(r.efficiency > 0.97);
        CHECK_EQ(r.undone, 0);
    }
    return 0;
}
