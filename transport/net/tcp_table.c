/* The flow table: connections, and the small entries that stand for their first and last states, by
 * addresses and ports. The hash is keyed, so that a peer cannot choose ports that collide. The
 * number of buckets is fixed by max_connections; memory for them is touched as they are used. */
#include <stdlib.h>

#include "tcp_conn.h"
#include "tcp_pressure.h"

enum {
    EPHEMERAL_FIRST = 32768, /* as Linux's ip_local_port_range */
    EPHEMERAL_COUNT = 28232,
};

static bool same_flow(const struct tcp_flow *a, const struct tcp_flow *b)
{
    return a->local_port == b->local_port && a->remote_port == b->remote_port &&
           net_addr_equal(&a->remote, &b->remote) && net_addr_equal(&a->local, &b->local);
}

/* Two rounds of multiply and fold over what differs between flows, keyed: not a MAC, but finding
 * collisions without seeing the order of a chain is out of a peer's reach. */
static uint32_t bucket_of(const struct zh_net *net, const struct tcp_flow *flow)
{
    uint64_t key[2];
    memcpy(key, net->key, sizeof key);
    uint64_t ports = (uint64_t)flow->local_port << 16 | flow->remote_port;
    uint64_t remote = flow->remote.halves[0] ^ (flow->remote.halves[1] + ports * key[1]);
    uint64_t local = flow->local.halves[0] ^ flow->local.halves[1];
    __uint128_t product = (__uint128_t)(remote ^ key[0]) * (local ^ key[1] ^ ports);
    uint64_t folded = (uint64_t)product ^ (uint64_t)(product >> 64);
    product = (__uint128_t)(folded ^ key[1]) * (key[0] | 1);
    folded = (uint64_t)product ^ (uint64_t)(product >> 64);
    return (uint32_t)(folded ^ folded >> 32) & net->tcp->bucket_mask;
}

struct tcp_entry *tcp_table_find(struct zh_net *net, const struct tcp_flow *flow)
{
    struct tcp_entry *entry = net->tcp->buckets[bucket_of(net, flow)];
    while (entry && !same_flow(&entry->flow, flow))
        entry = entry->next;
    return entry;
}

void tcp_table_add(struct zh_net *net, struct tcp_entry *entry)
{
    struct tcp_entry **bucket = &net->tcp->buckets[bucket_of(net, &entry->flow)];
    entry->next = *bucket;
    *bucket = entry;
}

void tcp_table_remove(struct zh_net *net, struct tcp_entry *entry)
{
    struct tcp_entry **link = &net->tcp->buckets[bucket_of(net, &entry->flow)];
    while (*link != entry)
        link = &(*link)->next;
    *link = entry->next;
}

struct zh_net_socket *tcp_table_listener(struct zh_net *net, const struct net_addr *local,
                                         uint16_t port)
{
    static const struct net_addr any_v6, any_v4 = {.words = {0, 0, NET_V4_MAPPED, 0}};
    struct zh_net_socket *s, *found = NULL;
    TAILQ_FOREACH(s, &net->tcp->listeners, accept_link)
    {
        const struct net_addr *bound = &s->entry.flow.local;
        if (s->entry.flow.local_port != port)
            continue;
        if (net_addr_equal(bound, local))
            return s;
        /* A wildcard of IPv6 takes IPv4 too, unless a socket of IPv4 is there (as ipv6 (7)). */
        if (net_addr_is_v4(local) && net_addr_equal(bound, &any_v4))
            found = s;
        else if (net_addr_equal(bound, &any_v6) && !found)
            found = s;
    }
    return found;
}

/* Is a local port in use for this flow's peer, or by a listener? */
static bool port_is_free(struct zh_net *net, const struct tcp_flow *flow)
{
    return !tcp_table_find(net, flow) && !tcp_table_listener(net, &flow->local, flow->local_port);
}

bool tcp_table_choose_port(struct zh_net *net, struct tcp_flow *flow)
{
    uint64_t hash = tcp_flow_hash(net, &flow->local, &flow->remote, 0, flow->remote_port);
    uint16_t *next = &net->tcp->port_table[hash >> 32 & 63];
    for (unsigned tries = 0; tries < EPHEMERAL_COUNT; tries++) {
        uint32_t number = ((uint32_t)hash + (*next)++) % EPHEMERAL_COUNT;
        flow->local_port = rte_cpu_to_be_16((uint16_t)(EPHEMERAL_FIRST + number));
        if (port_is_free(net, flow))
            return true;
    }
    return false;
}

static unsigned table_size(uint32_t connections)
{
    unsigned size = 1024;
    while (size < connections && size < 1u << 24)
        size *= 2;
    return size;
}

int tcp_create(struct zh_net *net)
{
    int meta = tcp_receive_register();
    if (meta < 0)
        return meta;
    struct tcp *tcp = calloc(1, sizeof *tcp);
    if (!tcp)
        return -ENOMEM;
    unsigned size = table_size(net->config.max_connections);
    tcp->buckets = calloc(size, sizeof *tcp->buckets);
    if (!tcp->buckets) {
        free(tcp);
        return -ENOMEM;
    }
    tcp->bucket_mask = size - 1;
    TAILQ_INIT(&tcp->out);
    TAILQ_INIT(&tcp->ready);
    TAILQ_INIT(&tcp->listeners);
    TAILQ_INIT(&tcp->starved);
    TAILQ_INIT(&tcp->all);
    TAILQ_INIT(&tcp->time_wait);
    net->tcp = tcp;
    return tcp_pressure_start(net);
}

void tcp_free(struct zh_net *net)
{
    struct tcp *tcp = net->tcp;
    struct zh_net_socket *s;
    while ((s = TAILQ_FIRST(&tcp->all)))
        tcp_socket_free(s);
    struct tcp_time_wait *entry;
    while ((entry = TAILQ_FIRST(&tcp->time_wait)))
        tcp_time_wait_free(net, entry);
    net_timer_stop(&net->timers, &tcp->time_wait_timer);
    tcp_pressure_stop(net);
    free(tcp->buckets);
    free(tcp);
    net->tcp = NULL;
}

size_t zh_net_connections(struct zh_net *net, struct zh_net_connection *lines, size_t count)
{
    size_t total = 0;
    for (uint32_t i = 0; i <= net->tcp->bucket_mask; i++) {
        for (struct tcp_entry *entry = net->tcp->buckets[i]; entry; entry = entry->next) {
            if (total < count)
                tcp_describe(entry, &lines[total]);
            total++;
        }
    }
    struct zh_net_socket *s;
    TAILQ_FOREACH(s, &net->tcp->listeners, accept_link)
    {
        if (total < count)
            tcp_describe(&s->entry, &lines[total]);
        total++;
    }
    return total;
}
