/* ARP for IPv4 over Ethernet: RFC 826, with the announcements and the defence of RFC 5227. */
#include "headers.h"
#include "stack.h"

static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

#define DEFEND_INTERVAL (10 * NET_SECOND) /* RFC 5227 section 1.1 */

static void transmit(struct zh_net *net, uint16_t operation, const uint8_t *dst, uint32_t sender,
                     const uint8_t *target_mac, uint32_t target)
{
    struct rte_mbuf *packet = net_packet_alloc(net);
    if (!packet)
        return;
    struct arp_header *header = (void *)rte_pktmbuf_append(packet, sizeof *header);
    *header = (struct arp_header){
        .hardware = rte_cpu_to_be_16(ARP_ETHERNET),
        .protocol = rte_cpu_to_be_16(ETHER_IPV4),
        .hardware_size = 6,
        .protocol_size = 4,
        .operation = rte_cpu_to_be_16(operation),
        .sender = sender,
        .target = target,
    };
    memcpy(header->sender_mac, net->port->mac, 6);
    if (target_mac)
        memcpy(header->target_mac, target_mac, 6);
    net->stats.arp_out++;
    ether_output(net, packet, dst, ETHER_ARP);
}

void arp_request(struct zh_net *net, const struct net_addr *target, const uint8_t *mac)
{
    struct net_next_hop hop;
    if (net_route(net, target, &hop))
        transmit(net, ARP_REQUEST, mac ? mac : everybody, hop.source->words[3], mac,
                 target->words[3]);
}

static void announce(struct zh_net *net, uint32_t address)
{
    transmit(net, ARP_REQUEST, everybody, address, NULL, address);
}

void arp_announce(struct zh_net *net)
{
    for (unsigned i = 0; i < net->own_count; i++)
        if (net_addr_is_v4(&net->own[i]))
            announce(net, net->own[i].words[3]);
}

/* Another one uses an address of ours: RFC 5227 section 2.4 (c), the address is kept. */
static void defend(struct zh_net *net, uint32_t address)
{
    if (net->defended_at && net->now - net->defended_at < DEFEND_INTERVAL)
        return;
    net->defended_at = net->now;
    announce(net, address);
}

void arp_input(struct zh_net *net, struct rte_mbuf *packet)
{
    net->stats.arp_in++;
    const struct arp_header *header = rte_pktmbuf_mtod(packet, const struct arp_header *);
    if (!net_packet_pull(packet, sizeof *header) ||
        header->hardware != rte_cpu_to_be_16(ARP_ETHERNET) ||
        header->protocol != rte_cpu_to_be_16(ETHER_IPV4) || header->hardware_size != 6 ||
        header->protocol_size != 4 || header->sender_mac[0] & 1)
        goto bad;
    uint16_t operation = rte_be_to_cpu_16(header->operation);
    if (operation != ARP_REQUEST && operation != ARP_REPLY)
        goto bad;
    struct net_addr sender = net_addr_v4(header->sender), target = net_addr_v4(header->target);
    bool for_us = net_is_own(net, &target), probe = header->sender == 0;
    struct net_next_hop hop;
    if (net_is_own(net, &sender)) {
        if (memcmp(header->sender_mac, net->port->mac, 6) != 0)
            defend(net, header->sender);
        goto bad;
    }
    /* RFC 5227 section 1.1: a probe tells of no sender. */
    if (!probe) {
        if (!net_route(net, &sender, &hop) || !net_addr_equal(&hop.address, &sender))
            goto bad; /* not on the link */
        struct neighbour_news news = {
            .address = sender,
            .mac = header->sender_mac,
            .may_create = operation == ARP_REQUEST && for_us,
            .solicited = operation == ARP_REPLY && for_us,
            .override = true,
        };
        if (!neighbour_heard(net, &news) && operation == ARP_REPLY)
            goto bad;
    }
    if (operation == ARP_REQUEST && for_us) {
        uint8_t mac[6];
        memcpy(mac, header->sender_mac, 6);
        transmit(net, ARP_REPLY, mac, target.words[3], mac, sender.words[3]);
    }
    rte_pktmbuf_free(packet);
    return;
bad:
    net->stats.arp_in_bad++;
    rte_pktmbuf_free(packet);
}
