/* Neighbour discovery (RFC 4861) for static addresses: solicitations are sent and answered, the
 * state is neighbour.c's. Router discovery, redirects and duplicate address detection are not done.
 */
#include "headers.h"
#include "stack.h"

static const struct net_addr all_nodes = {.bytes = {0xff, 0x02, [15] = 1}};

enum {
    HOP_LIMIT = 255, /* RFC 4861 section 4.3: no router has passed it on */
    FLAG_SOLICITED = 0x40,
    FLAG_OVERRIDE = 0x20,
    OPTION_SOURCE = 1, /* link-layer addresses: RFC 4861 section 4.6.1 */
    OPTION_TARGET = 2,
};

/* RFC 2464 section 7. */
static void group_mac(const struct net_addr *group, uint8_t mac[6])
{
    mac[0] = mac[1] = 0x33;
    memcpy(mac + 2, group->bytes + 12, 4);
}

/* RFC 4291 section 2.7.1. */
static struct net_addr solicited_node(const struct net_addr *address)
{
    const uint8_t *b = address->bytes;
    return (struct net_addr){
        .bytes = {0xff, 0x02, [11] = 1, [12] = 0xff, [13] = b[13], [14] = b[14], [15] = b[15]}};
}

bool nd_listens(const struct zh_net *net, const struct net_addr *group)
{
    if (net_addr_equal(group, &all_nodes))
        return true;
    for (unsigned i = 0; i < net->own_count; i++) {
        struct net_addr node = solicited_node(&net->own[i]);
        if (!net_addr_is_v4(&net->own[i]) && net_addr_equal(group, &node))
            return true;
    }
    return false;
}

bool nd_listens_mac(const struct zh_net *net, const uint8_t mac[6])
{
    uint8_t group[6];
    bool v6 = false;
    for (unsigned i = 0; i < net->own_count; i++) {
        if (net_addr_is_v4(&net->own[i]))
            continue;
        v6 = true;
        struct net_addr node = solicited_node(&net->own[i]);
        group_mac(&node, group);
        if (memcmp(group, mac, 6) == 0)
            return true;
    }
    group_mac(&all_nodes, group);
    return v6 && memcmp(group, mac, 6) == 0;
}

/* A message about `target`, ready but for its Ethernet header; NULL: no packets left. */
static struct rte_mbuf *message(struct zh_net *net, uint8_t type, uint8_t flags, uint8_t option,
                                const struct net_addr *target, const struct net_addr *src,
                                const struct net_addr *dst)
{
    struct rte_mbuf *packet = net_packet_alloc(net);
    if (!packet)
        return NULL;
    struct nd_header *header = (void *)rte_pktmbuf_append(packet, sizeof *header + 8);
    uint8_t *link = (uint8_t *)(header + 1);
    *header = (struct nd_header){.type = type, .flags = flags};
    memcpy(header->target, target, 16);
    link[0] = option;
    link[1] = 1;
    memcpy(link + 2, net->port->mac, 6);
    icmpv6_sum(packet, src, dst);
    ipv6_prepend(packet, src, dst, IPPROTO_ICMPV6, 0, HOP_LIMIT);
    net->stats.icmp_out++;
    net->stats.ip_out++;
    return packet;
}

void nd_solicit(struct zh_net *net, const struct net_addr *target, const uint8_t *mac)
{
    struct net_next_hop hop;
    struct net_addr dst = mac ? *target : solicited_node(target);
    uint8_t group[6];
    if (!net_route(net, target, &hop))
        return;
    group_mac(&dst, group);
    struct rte_mbuf *packet =
        message(net, ICMPV6_SOLICITATION, 0, OPTION_SOURCE, target, hop.source, &dst);
    if (packet)
        ether_output(net, packet, mac ? mac : group, ETHER_IPV6);
}

/* RFC 4861 section 7.2.4 and, to all, 7.2.6. `mac` NULL: as the neighbour cache has it. */
static void advertise(struct zh_net *net, const struct net_addr *target, const struct net_addr *dst,
                      const uint8_t *mac, uint8_t flags)
{
    struct rte_mbuf *packet =
        message(net, ICMPV6_ADVERTISEMENT, flags, OPTION_TARGET, target, target, dst);
    if (!packet)
        return;
    if (mac)
        ether_output(net, packet, mac, ETHER_IPV6);
    else
        neighbour_output(net, dst, packet);
}

void nd_announce(struct zh_net *net)
{
    uint8_t group[6];
    group_mac(&all_nodes, group);
    for (unsigned i = 0; i < net->own_count; i++)
        if (!net_addr_is_v4(&net->own[i]))
            advertise(net, &net->own[i], &all_nodes, group, FLAG_OVERRIDE);
}

/* Options after the header: false when one is malformed. `mac` becomes that of option `wanted`. */
static bool read_options(const uint8_t *option, size_t size, uint8_t wanted, const uint8_t **mac)
{
    *mac = NULL;
    while (size) {
        if (size < 8 || !option[1] || option[1] * 8u > size)
            return false;
        /* Of Ethernet's size, and one host's. */
        if (option[0] == wanted && option[1] == 1 && !(option[2] & 1))
            *mac = option + 2;
        size -= option[1] * 8u;
        option += option[1] * 8u;
    }
    return true;
}

static bool is_neighbour(const struct zh_net *net, const struct net_addr *address)
{
    struct net_next_hop hop;
    return net_route(net, address, &hop) && net_addr_equal(&hop.address, address);
}

/* RFC 4861 sections 7.1.1 and 7.2.3. False: malformed, or not believed. */
static bool solicitation(struct zh_net *net, const struct net_addr *target, const uint8_t *options,
                         size_t size, const struct net_packet *info)
{
    bool probe = !info->src.halves[0] && !info->src.halves[1];
    const uint8_t *mac;
    uint8_t group[6];
    if (!read_options(options, size, OPTION_SOURCE, &mac))
        return false;
    if (probe && (mac || !info->broadcast))
        return false;
    if (!net_is_own(net, target) || net_addr_is_v4(target))
        return true;
    if (probe) { /* another one wants this address; it is told that it is taken (RFC 4862 5.4.3) */
        group_mac(&all_nodes, group);
        advertise(net, target, &all_nodes, group, FLAG_OVERRIDE);
        return true;
    }
    if (!is_neighbour(net, &info->src))
        return false;
    struct neighbour_news news = {
        .address = info->src, .mac = mac, .may_create = true, .override = true};
    if (mac)
        neighbour_heard(net, &news);
    advertise(net, target, &info->src, mac, FLAG_SOLICITED | FLAG_OVERRIDE);
    return true;
}

/* RFC 4861 sections 7.1.2 and 7.2.5. */
static bool advertisement(struct zh_net *net, const struct net_addr *target, uint8_t flags,
                          const uint8_t *options, size_t size, const struct net_packet *info)
{
    const uint8_t *mac;
    if (!read_options(options, size, OPTION_TARGET, &mac))
        return false;
    if (info->broadcast && flags & FLAG_SOLICITED)
        return false;
    if (net_is_own(net, target) || net_addr_is_v4(target))
        return false;
    struct neighbour_news news = {
        .address = *target,
        .mac = mac,
        .solicited = flags & FLAG_SOLICITED,
        .override = flags & FLAG_OVERRIDE,
    };
    /* What nobody has asked for is not wrong: hosts announce themselves. */
    neighbour_heard(net, &news);
    return true;
}

void nd_input(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info)
{
    const struct nd_header *header = rte_pktmbuf_mtod(packet, const struct nd_header *);
    struct net_addr target;
    bool fine = false;
    /* Fragmented: RFC 6980 section 5. */
    if (info->ttl == HOP_LIMIT && !info->was_fragmented && packet->pkt_len >= sizeof *header &&
        net_packet_pull(packet, packet->pkt_len) && header->code == 0 &&
        header->target[0] != 0xff) {
        const uint8_t *options = (const uint8_t *)(header + 1);
        size_t size = packet->pkt_len - sizeof *header;
        memcpy(&target, header->target, 16);
        if (header->type == ICMPV6_SOLICITATION)
            fine = solicitation(net, &target, options, size, info);
        else
            fine = advertisement(net, &target, header->flags, options, size, info);
    }
    if (!fine)
        net->stats.icmp_in_bad++;
    rte_pktmbuf_free(packet);
}
