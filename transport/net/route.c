/* Own addresses and routes: fixed by the configuration, few, and so searched one by one. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>

#include "stack.h"

int zh_net_prefix_parse(const char *text, struct zh_net_prefix *prefix)
{
    struct zh_net_prefix parsed = {.family = strchr(text, ':') ? AF_INET6 : AF_INET};
    unsigned most = parsed.family == AF_INET6 ? 128 : 32, length = most;
    char address[INET6_ADDRSTRLEN];
    const char *slash = strchr(text, '/');
    size_t size = slash ? (size_t)(slash - text) : strlen(text);
    if (size >= sizeof address)
        return -EINVAL;
    memcpy(address, text, size);
    address[size] = '\0';
    if (inet_pton(parsed.family, address, &parsed.v6) != 1)
        return -EINVAL;
    if (slash) {
        const char *digit = slash + 1;
        if (!*digit)
            return -EINVAL;
        for (length = 0; *digit; digit++) {
            if (*digit < '0' || *digit > '9')
                return -EINVAL;
            length = length * 10 + (unsigned)(*digit - '0');
            if (length > most)
                return -EINVAL;
        }
    }
    parsed.length = (uint8_t)length;
    *prefix = parsed;
    return 0;
}

static struct net_addr address_of(const struct zh_net_prefix *prefix)
{
    struct net_addr address;
    if (prefix->family == AF_INET)
        return net_addr_v4(prefix->v4.s_addr);
    memcpy(address.bytes, &prefix->v6, sizeof address.bytes);
    return address;
}

static struct net_addr mask_of(unsigned length)
{
    struct net_addr mask = {.halves = {0, 0}};
    for (unsigned i = 0; i < length; i++)
        mask.bytes[i / 8] |= (uint8_t)(0x80 >> i % 8);
    return mask;
}

static bool is_link_local(const struct net_addr *a)
{
    return a->bytes[0] == 0xfe && (a->bytes[1] & 0xc0) == 0x80; /* RFC 4291 section 2.5.6 */
}

static inline bool matches(const struct net_route *route, const struct net_addr *dst)
{
    return (dst->halves[0] & route->mask.halves[0]) == route->dst.halves[0] &&
           (dst->halves[1] & route->mask.halves[1]) == route->dst.halves[1];
}

bool net_is_own(const struct zh_net *net, const struct net_addr *address)
{
    for (unsigned i = 0; i < net->own_count; i++)
        if (net_addr_equal(&net->own[i], address))
            return true;
    return false;
}

static const struct net_route *find(const struct zh_net *net, const struct net_addr *dst)
{
    /* A mapped address is no IPv6 one: the default route of IPv6 is not its own. */
    bool v4 = net_addr_is_v4(dst);
    for (unsigned i = 0; i < net->route_count; i++)
        if (net->routes[i].v4 == v4 && matches(&net->routes[i], dst))
            return &net->routes[i];
    return NULL;
}

bool net_route(const struct zh_net *net, const struct net_addr *dst, struct net_next_hop *hop)
{
    const struct net_route *route = find(net, dst);
    if (!route)
        return false;
    hop->address = route->has_gateway ? route->gateway : *dst;
    hop->source = &route->source;
    hop->datacenter = route->datacenter;
    return true;
}

static const char *name_of(const struct net_addr *address, char text[INET6_ADDRSTRLEN])
{
    bool v4 = net_addr_is_v4(address);
    return inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? address->bytes + 12 : address->bytes, text,
                     INET6_ADDRSTRLEN);
}

/* Whether a host may have it: RFC 1122 section 3.2.1.3, RFC 4291 sections 2.5.2, 2.5.3 and 2.7. */
static bool is_unicast(const struct net_addr *a)
{
    static const struct net_addr none, loopback = {.bytes = {[15] = 1}};
    if (net_addr_is_v4(a))
        return a->bytes[12] != 0 && a->bytes[12] != 127 && a->bytes[12] < 224;
    return a->bytes[0] != 0xff && !net_addr_equal(a, &none) && !net_addr_equal(a, &loopback);
}

/* The network's first and last IPv4 address are not a host's (RFC 1122 section 3.2.1.3), but with
 * 31 bits, where there are no others (RFC 3021), and with 32. */
static bool is_network(const struct net_addr *a, unsigned length)
{
    if (!net_addr_is_v4(a) || length >= 31)
        return false;
    uint32_t host = rte_be_to_cpu_32(a->words[3]) & (UINT32_MAX >> length);
    return host == 0 || host == UINT32_MAX >> length;
}

static int check_prefix(const struct zh_net_prefix *prefix, const char *what, char *error)
{
    if (prefix->family != AF_INET && prefix->family != AF_INET6) {
        snprintf(error, ZH_PORT_ERROR_SIZE, "%s has family %u: it must be AF_INET or AF_INET6.",
                 what, prefix->family);
        return -EAFNOSUPPORT;
    }
    unsigned most = prefix->family == AF_INET ? 32 : 128;
    if (prefix->length > most) {
        snprintf(error, ZH_PORT_ERROR_SIZE, "%s has a prefix of %u bits: it can have %u at most.",
                 what, prefix->length, most);
        return -EINVAL;
    }
    return 0;
}

/* Kept in order of length; those of equal length in the order in which they were added. */
static void add(struct zh_net *net, struct net_route route)
{
    route.mask = mask_of(route.length);
    route.v4 = net_addr_is_v4(&route.dst);
    for (int i = 0; i < 2; i++)
        route.dst.halves[i] &= route.mask.halves[i];
    uint32_t at = net->route_count++;
    for (; at > 0 && net->routes[at - 1].length < route.length; at--)
        net->routes[at] = net->routes[at - 1];
    net->routes[at] = route;
}

static int add_address(struct zh_net *net, const struct zh_net_prefix *prefix, char *error)
{
    char text[INET6_ADDRSTRLEN];
    int rc = check_prefix(prefix, "An address", error);
    if (rc)
        return rc;
    struct net_addr address = address_of(prefix);
    if (!is_unicast(&address) || is_network(&address, prefix->length)) {
        snprintf(error, ZH_PORT_ERROR_SIZE,
                 "%s/%u is not a host's address: give one that is, such as 10.77.0.1/24.",
                 name_of(&address, text), prefix->length);
        return -EINVAL;
    }
    if (net_is_own(net, &address)) {
        snprintf(error, ZH_PORT_ERROR_SIZE, "The address %s is given twice.",
                 name_of(&address, text));
        return -EINVAL;
    }
    net->own[net->own_count++] = address;
    add(net, (struct net_route){
                 .dst = address,
                 .source = address,
                 .length = (uint8_t)(prefix->length + (net_addr_is_v4(&address) ? 96 : 0)),
             });
    return 0;
}

/* RFC 4291 sections 2.1 and 2.5.6 and appendix A: every interface has one, made of its MAC. */
static void add_link_local(struct zh_net *net)
{
    bool v6 = false;
    for (unsigned i = 0; i < net->own_count; i++) {
        v6 |= !net_addr_is_v4(&net->own[i]);
        if (is_link_local(&net->own[i]))
            return;
    }
    if (!v6)
        return;
    const uint8_t *mac = net->port->mac;
    struct net_addr address = {.bytes = {0xfe, 0x80, [8] = mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe,
                                         mac[3], mac[4], mac[5]}};
    net->own[net->own_count++] = address;
    add(net, (struct net_route){.dst = address, .source = address, .length = 64});
}

static int add_route(struct zh_net *net, const struct zh_net_route *from, char *error)
{
    char text[INET6_ADDRSTRLEN], gateway_text[INET6_ADDRSTRLEN];
    int rc = check_prefix(&from->destination, "A route's destination", error);
    if (rc)
        return rc;
    if (from->gateway.family != from->destination.family) {
        snprintf(error, ZH_PORT_ERROR_SIZE,
                 "A route's destination and its gateway are of different families.");
        return -EINVAL;
    }
    struct net_addr dst = address_of(&from->destination), gateway = address_of(&from->gateway);
    bool v4 = net_addr_is_v4(&dst);
    const struct net_route *link = find(net, &gateway);
    if (!link || link->has_gateway || net_is_own(net, &gateway) || !is_unicast(&gateway)) {
        snprintf(error, ZH_PORT_ERROR_SIZE,
                 "The gateway %s of the route to %s/%u is no neighbour: it must be in the network "
                 "of one of the own addresses, and not be one itself.",
                 name_of(&gateway, gateway_text), name_of(&dst, text), from->destination.length);
        return -ENETUNREACH;
    }
    struct net_route route = {
        .dst = dst,
        .gateway = gateway,
        .source = link->source,
        .length = (uint8_t)(from->destination.length + (v4 ? 96 : 0)),
        .has_gateway = true,
        .datacenter = from->datacenter,
    };
    /* What is not on the link cannot answer a link-local address (RFC 4291 section 2.5.6). */
    for (unsigned i = 0; i < net->own_count && is_link_local(&route.source); i++)
        if (!net_addr_is_v4(&net->own[i]))
            route.source = net->own[i];
    add(net, route);
    return 0;
}

int routes_create(struct zh_net *net, char *error)
{
    const struct zh_net_config *config = &net->config;
    net->routes = calloc(config->address_count + config->route_count + 1, sizeof *net->routes);
    if (!net->routes) {
        snprintf(error, ZH_PORT_ERROR_SIZE, "There is no memory for the routes.");
        return -ENOMEM;
    }
    int rc = 0;
    for (unsigned i = 0; i < config->address_count && !rc; i++)
        rc = add_address(net, &config->addresses[i], error);
    if (!rc)
        add_link_local(net);
    /* A gateway is found among the own networks, which are all there by now; routes added since may
     * be longer, so that one within a route is refused. */
    for (unsigned i = 0; i < config->route_count && !rc; i++)
        rc = add_route(net, &config->routes[i], error);
    return rc;
}

void routes_free(struct zh_net *net)
{
    free(net->routes);
}
