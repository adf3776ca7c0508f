/* A stack's beginning and end, and its two entries: a packet has come, time has gone by. */
#include <rte_errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "pool.h"
#include "stack.h"
#include "tcp.h"

enum {
    MTU_MIN_V4 = 576,  /* RFC 791 section 3.1: what every host takes */
    MTU_MIN_V6 = 1280, /* RFC 8200 section 5 */
};
/* A port that was full is tried again after this. */
#define PORT_RETRY (20 * NET_US)

static void set_defaults(struct zh_net_config *config, const struct zh_port *port)
{
#define DEFAULT(field, value) config->field = config->field ? config->field : (value)
    DEFAULT(mtu, port->mtu);
    DEFAULT(congestion_control, "cubic");
    DEFAULT(rto_min, 200 * (uint64_t)NET_MS);
    DEFAULT(delayed_ack, 40 * (uint64_t)NET_MS);
    DEFAULT(time_wait, 60 * NET_SECOND);
    DEFAULT(max_connections, 131072);
    DEFAULT(max_half_open, 4096);
    DEFAULT(max_time_wait, 65536);
    DEFAULT(max_neighbours, 1024);
    DEFAULT(send_packets, 16384);
    DEFAULT(receive_budget, 4 * 1024 * 1024);
    DEFAULT(send_limit, 4 * 1024 * 1024);
#undef DEFAULT
}

/* What routes_create does not look at. */
static int check(const struct zh_net_config *given, const struct zh_port *port, char *error)
{
    if (!given->address_count || !given->addresses) {
        snprintf(error, ZH_PORT_ERROR_SIZE, "A stack needs an address, such as 10.77.0.1/24.");
        return -EINVAL;
    }
    if (given->address_count > NET_ADDRESSES_MAX) {
        snprintf(error, ZH_PORT_ERROR_SIZE, "A stack can have %d addresses, not %u.",
                 NET_ADDRESSES_MAX, given->address_count);
        return -E2BIG;
    }
    uint16_t least = MTU_MIN_V4;
    for (unsigned i = 0; i < given->address_count; i++)
        if (given->addresses[i].family == AF_INET6)
            least = MTU_MIN_V6;
    if (given->mtu > port->mtu) {
        snprintf(error, ZH_PORT_ERROR_SIZE,
                 "An MTU of %u is more than the %u of the port %s: give the port a larger one, or "
                 "the stack a smaller.",
                 given->mtu, port->mtu, port->name);
        return -EINVAL;
    }
    if ((given->mtu ? given->mtu : port->mtu) < least) {
        snprintf(error, ZH_PORT_ERROR_SIZE, "An MTU of %u is too small: %s needs %u.",
                 given->mtu ? given->mtu : port->mtu, least == MTU_MIN_V6 ? "IPv6" : "IPv4", least);
        return -EINVAL;
    }
    if (given->congestion_control && !tcp_congestion_find(given->congestion_control)) {
        snprintf(error, ZH_PORT_ERROR_SIZE,
                 "There is no congestion control called \"%s\": there are cubic and newreno.",
                 given->congestion_control);
        return -EINVAL;
    }
    return 0;
}

/* Owned copies of the arrays. */
static int copy_config(struct zh_net *net, const struct zh_net_config *given)
{
    struct zh_net_config *config = &net->config;
    *config = *given;
    config->addresses = NULL;
    config->routes = NULL;
    config->congestion_control = NULL;
    set_defaults(config, net->port);
    struct zh_net_prefix *addresses = calloc(given->address_count, sizeof *addresses);
    struct zh_net_route *routes = calloc(given->route_count + 1, sizeof *routes);
    config->addresses = addresses;
    config->routes = routes;
    config->congestion_control =
        strdup(given->congestion_control ? given->congestion_control : config->congestion_control);
    if (!addresses || !routes || !config->congestion_control)
        return -ENOMEM;
    memcpy(addresses, given->addresses, given->address_count * sizeof *addresses);
    if (given->route_count)
        memcpy(routes, given->routes, given->route_count * sizeof *routes);
    return 0;
}

static int create_pool(struct zh_net *net, char *error)
{
    uint32_t count = net->config.send_packets;
    net->pool = net_pool_create(count, RTE_MBUF_DEFAULT_DATAROOM, true);
    if (net->pool)
        return 0;
    int rc = rte_errno ? -rte_errno : -ENOMEM;
    snprintf(error, ZH_PORT_ERROR_SIZE,
             "There is no memory for a pool of %u packets (%s): ask for fewer (send_packets), or "
             "give EAL more.",
             count, strerror(-rc));
    return rc;
}

int zh_net_create(const struct zh_net_config *config, struct zh_port *port, struct zh_net **out,
                  char *error)
{
    char unread[ZH_PORT_ERROR_SIZE];
    error = error ? error : unread;
    *error = '\0';
    *out = NULL;
    int rc = check(config, port, error);
    if (rc)
        return rc;
    struct zh_net *net = calloc(1, sizeof *net);
    rc = net ? 0 : -ENOMEM;
    if (net) {
        net->port = port;
        rc = copy_config(net, config);
    }
    if (!rc)
        rc = net_random_start(net, config->seed);
    if (!rc)
        rc = routes_create(net, error);
    if (!rc)
        rc = net_timers_reserve(&net->timers, 0);
    if (!rc)
        rc = neighbours_create(net);
    if (!rc)
        rc = fragments_create(net);
    if (!rc)
        rc = create_pool(net, error);
    if (!rc)
        rc = tcp_create(net);
    if (rc) {
        if (!*error)
            snprintf(error, ZH_PORT_ERROR_SIZE, "The stack could not be made: %s.", strerror(-rc));
        if (net)
            zh_net_destroy(net);
        return rc;
    }
    net->ip_id = (uint16_t)net_random(net);
    *out = net;
    return 0;
}

void zh_net_destroy(struct zh_net *net)
{
    if (net->tcp)
        tcp_free(net);
    zh_net_capture(net, -1, 0);
    for (unsigned i = 0; i < net->out_count; i++)
        rte_pktmbuf_free(net->out[i]);
    neighbours_free(net);
    fragments_free(net);
    net_timers_free(&net->timers);
    routes_free(net);
    zh_port_reclaim(net->port);
    net_pool_retire(net->pool);
    free((void *)net->config.addresses);
    free((void *)net->config.routes);
    free((void *)net->config.congestion_control);
    free(net);
}

void zh_net_input(struct zh_net *net, struct rte_mbuf *packet, uint64_t now)
{
    net->now = now;
    ether_input(net, packet);
}

uint64_t zh_net_poll(struct zh_net *net, uint64_t now)
{
    net->now = now;
    net_timers_run(net, &net->timers, now);
    uint64_t next = tcp_poll(net);
    ether_flush(net);
    if (unlikely(net->pcap))
        pcap_flush(net);
    next = RTE_MIN(next, net_timers_next(&net->timers));
    return net->out_count ? RTE_MIN(next, now + PORT_RETRY) : next;
}

void zh_net_read_stats(const struct zh_net *net, struct zh_net_stats *stats)
{
    *stats = net->stats;
}
