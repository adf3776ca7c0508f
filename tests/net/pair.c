#include "pair.h"

#include <rte_mempool.h>
#include <string.h>

enum { BURST = 32 };

/* DPDK keeps what it allocates at start for the life of the process. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

static void die(const char *error)
{
    fprintf(stderr, "%s\n", error);
    exit(1);
}

void stacks_start(struct stacks *stacks, const struct zh_wire_config *wire,
                  const struct zh_net_config *configs[2])
{
    static const char *const addresses[2][2] = {{"10.0.0.1/8", "fd00::1/64"},
                                                {"10.0.0.2/8", "fd00::2/64"}};
    static const struct zh_wire_config plain;
    char error[ZH_PORT_ERROR_SIZE];

    *stacks = (struct stacks){.now = 1000 * NET_SECOND};
    if (zh_wire_create(wire ? wire : &plain, &stacks->wire, error))
        die(error);
    zh_wire_set_now(stacks->wire, stacks->now);
    for (int i = 0; i < 2; i++) {
        struct zh_net_prefix prefixes[2];
        struct zh_net_config config = {0};
        if (configs && configs[i])
            config = *configs[i];
        for (int j = 0; j < 2; j++)
            CHECK_EQ(zh_net_prefix_parse(addresses[i][j], &prefixes[j]), 0);
        config.addresses = prefixes;
        config.address_count = 2;
        config.seed = config.seed ? config.seed : 1 + (uint64_t)i;
        stacks->ports[i] = zh_wire_end(stacks->wire, i);
        if (zh_net_create(&config, stacks->ports[i], &stacks->nets[i], error))
            die(error);
    }
    stacks_run(stacks, 5 * NET_SECOND); /* announcements of addresses */
}

void stacks_stop(struct stacks *stacks, unsigned held)
{
    for (int i = 0; i < 2; i++)
        zh_net_destroy(stacks->nets[i]);
    struct rte_mempool *pools[2] = {stacks->ports[0]->pool, stacks->ports[1]->pool};
    zh_wire_destroy(stacks->wire);
    CHECK_EQ(rte_mempool_in_use_count(pools[0]) + rte_mempool_in_use_count(pools[1]), held);
}

void stacks_step(struct stacks *stacks, uint64_t most)
{
    uint64_t next = NET_NEVER;
    for (int i = 0; i < 2; i++) {
        struct rte_mbuf *packets[BURST];
        uint16_t count = zh_port_receive(stacks->ports[i], packets, BURST);
        stacks->packets += count;
        for (uint16_t j = 0; j < count; j++)
            zh_net_input(stacks->nets[i], packets[j], stacks->now);
        uint64_t wanted = zh_net_poll(stacks->nets[i], stacks->now);
        next = RTE_MIN(next, wanted);
    }
    next = RTE_MIN(next, zh_wire_next(stacks->wire));
    if (next == NET_NEVER)
        next = stacks->now + NET_MS;
    next = RTE_MIN(next, stacks->now + most);
    stacks->now = RTE_MAX(next, stacks->now);
    zh_wire_set_now(stacks->wire, stacks->now);
}

void stacks_run(struct stacks *stacks, uint64_t duration)
{
    uint64_t end = stacks->now + duration;
    while (stacks->now < end)
        stacks_step(stacks, end - stacks->now);
}

static struct sockaddr_storage address_of(sa_family_t family, uint16_t port)
{
    struct sockaddr_storage address = {0};
    if (family == AF_INET) {
        struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = rte_cpu_to_be_16(port)};
        v4.sin_addr.s_addr = rte_cpu_to_be_32(UINT32_C(0x0a000001));
        memcpy(&address, &v4, sizeof v4);
    } else {
        struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = rte_cpu_to_be_16(port)};
        v6.sin6_addr.s6_addr[0] = 0xfd;
        v6.sin6_addr.s6_addr[15] = 1;
        memcpy(&address, &v6, sizeof v6);
    }
    return address;
}

struct zh_net_socket *stacks_listen(struct stacks *stacks, sa_family_t family, uint16_t port,
                                    int backlog)
{
    struct zh_net_socket *listener;
    struct sockaddr_storage address = address_of(family, port);
    CHECK_EQ(zh_net_socket(stacks->nets[0], family, &listener), 0);
    CHECK_EQ(zh_net_bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    CHECK_EQ(zh_net_listen(listener, backlog), 0);
    return listener;
}

void stacks_connect(struct stacks *stacks, struct zh_net_socket *listener,
                    struct zh_net_socket *ends[2])
{
    uint16_t port = rte_be_to_cpu_16(listener->entry.flow.local_port);
    struct sockaddr_storage address = address_of(listener->family, port);
    CHECK_EQ(zh_net_accept(listener, &ends[0]), -EAGAIN);
    CHECK_EQ(zh_net_socket(stacks->nets[1], listener->family, &ends[1]), 0);
    CHECK_EQ(zh_net_connect(ends[1], (struct sockaddr *)&address, sizeof address), -EINPROGRESS);
    STACKS_UNTIL(stacks, zh_net_accept(listener, &ends[0]) == 0);
    STACKS_UNTIL(stacks, zh_net_ready(ends[1]) & ZH_STREAM_OUT);
}

size_t stacks_leftover(const struct stacks *stacks)
{
    size_t total = 0;
    for (int i = 0; i < 2; i++) {
        const struct tcp *tcp = stacks->nets[i]->tcp;
        total += tcp->sockets + tcp->requests + tcp->time_waits;
        total += rte_mempool_in_use_count(stacks->nets[i]->pool);
        total += rte_mempool_in_use_count(stacks->ports[i]->pool);
    }
    return total;
}
