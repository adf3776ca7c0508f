/* Streams over this stack: the suite that the kernel's streams pass, on two stacks joined by a wire
 * in virtual time, without faults and with many. */
#include <netinet/tcp.h>

#include "pair.h"
#include "stream_suite.h"

struct provider {
    struct stream_provider suite; /* first */
    struct stacks stacks;
    struct zh_net_socket *listener;
};

static void make_pair(struct stream_provider *suite, struct zh_stream *ends[2])
{
    struct provider *provider = (struct provider *)suite;
    struct zh_net_socket *sockets[2];
    int on = 1, idle = 2;

    stacks_connect(&provider->stacks, provider->listener, sockets);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(zh_net_setsockopt(sockets[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), 0);
        /* A reset is sent once. Who waits for a peer whose reset is lost must ask. */
        CHECK_EQ(zh_net_setsockopt(sockets[i], IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle), 0);
        CHECK_EQ(zh_net_setsockopt(sockets[i], SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on), 0);
        ends[!i] = zh_net_stream(sockets[i]);
    }
}

/* Round trips, if packets come; else so long that retransmissions have their time. The suite takes
 * ten steps without anything new for the end. */
static void step(struct stream_provider *suite)
{
    struct stacks *stacks = &((struct provider *)suite)->stacks;
    uint64_t start = stacks->now, packets = stacks->packets;

    do
        stacks_step(stacks, NET_MS);
    while (stacks->now - start < NET_MS ||
           (stacks->packets == packets && stacks->now - start < 300 * (uint64_t)NET_MS));
}

static void vanish(struct stream_provider *suite, struct zh_stream *stream)
{
    struct linger now = {.l_onoff = 1};
    struct zh_net_socket *socket =
        (struct zh_net_socket *)((char *)stream - offsetof(struct zh_net_socket, stream));

    (void)suite;
    CHECK_EQ(zh_net_setsockopt(socket, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
    zh_stream_close(stream);
}

static size_t leftover(struct stream_provider *suite)
{
    return stacks_leftover(&((struct provider *)suite)->stacks);
}

static void run(const char *name, sa_family_t family, const struct zh_fault *fault,
                const struct zh_net_config *config, uint16_t max_segments, unsigned transfers)
{
    struct provider provider = {
        .suite = {
            .name = name,
            .pair = make_pair,
            .step = step,
            .vanish = vanish,
            .leftover = leftover,
            /* The last segment of a record, and one beside a full window;
             * everything, twice, for a port without chains. */
            .copied_per_record = max_segments == 1 ? 256 * 1024 : 2 * TCP_COPY_MAX,
            .transfers = transfers,
            .churn = 500,
            .big = (size_t)32 << 20,
        }};
    struct zh_wire_config wire = {
        .fault = {*fault, *fault}, .seed = 1, .packets = 8192, .max_segments = max_segments};

    stacks_start(&provider.stacks, &wire, (const struct zh_net_config *[2]){config, config});
    provider.listener = stacks_listen(&provider.stacks, family, 80, 16);
    stream_suite(&provider.suite);
    zh_net_close(provider.listener);
    CHECK_EQ(leftover(&provider.suite), 0);
    stacks_stop(&provider.stacks, 0);
}

int main(void)
{
    static const struct zh_fault clean = {.delay = 20 * NET_US, .rate = UINT64_C(10000000000)};
    static const struct zh_fault faulty = {
        .loss = 0.01,
        .duplicate = 0.01,
        .reorder = 0.02,
        .reorder_delay = 100 * NET_US,
        .delay = 50 * NET_US,
        .jitter = 20 * NET_US,
        .rate = UINT64_C(10000000000),
    };
    static const struct zh_net_config usual = {.time_wait = NET_SECOND, .send_packets = 8192};
    static const struct zh_net_config tight = {.time_wait = NET_SECOND,
                                               .send_packets = 8192,
                                               .receive_budget = 512 * 1024,
                                               .send_limit = 1,
                                               .congestion_control = "newreno"};

    run("stack, IPv4", AF_INET, &clean, &usual, 0, 30);
    run("stack, IPv6, low limits, no chains", AF_INET6, &clean, &tight, 1, 10);
    run("stack, IPv4, loss and reordering", AF_INET, &faulty, &usual, 0, 30);
    run("stack, IPv6, loss and reordering, low limits", AF_INET6, &faulty, &tight, 0, 10);
    return 0;
}
