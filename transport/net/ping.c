/* Asking others for an echo (RFC 792, RFC 4443 section 4.1), and knowing their answers. */
#include "headers.h"
#include "stack.h"

static struct net_addr read_peer(const struct sockaddr *peer, socklen_t length)
{
    struct net_addr address = {.halves = {0, 0}};
    if (peer->sa_family == AF_INET && length >= sizeof(struct sockaddr_in)) {
        struct sockaddr_in v4;
        memcpy(&v4, peer, sizeof v4);
        address = net_addr_v4(v4.sin_addr.s_addr);
    } else if (peer->sa_family == AF_INET6 && length >= sizeof(struct sockaddr_in6)) {
        struct sockaddr_in6 v6;
        memcpy(&v6, peer, sizeof v6);
        memcpy(&address, &v6.sin6_addr, sizeof address);
    }
    return address;
}

/* Bytes that differ from one request to the next. */
static uint8_t pattern(const struct zh_net_ping *ping, size_t index)
{
    return (uint8_t)(index + ping->sequence);
}

int zh_net_ping(struct zh_net *net, struct zh_net_ping *ping, const struct sockaddr *peer,
                socklen_t length, uint64_t now)
{
    struct net_addr dst = read_peer(peer, length);
    struct net_next_hop hop;
    bool v4 = net_addr_is_v4(&dst);
    size_t headers =
        (v4 ? sizeof(struct ipv4_header) : sizeof(struct ipv6_header)) + sizeof(struct icmp_header);
    if (!dst.halves[0] && !dst.halves[1])
        return -EINVAL;
    if (ping->size + headers > net_path_mtu(net, &dst))
        return -EMSGSIZE;
    if (!net_route(net, &dst, &hop))
        return -ENETUNREACH;
    struct rte_mbuf *packet = net_packet_alloc(net);
    struct icmp_header *header =
        packet ? (void *)rte_pktmbuf_append(packet, (uint16_t)(sizeof *header + ping->size)) : NULL;
    if (!header) {
        rte_pktmbuf_free(packet);
        return -ENOBUFS;
    }
    net->now = now;
    memcpy(ping->peer, &dst, sizeof ping->peer);
    ping->sent = now;
    ping->received = 0;
    *header = (struct icmp_header){.type = v4 ? ICMP_ECHO : ICMPV6_ECHO};
    header->field = rte_cpu_to_be_32((uint32_t)ping->identifier << 16 | (uint32_t)ping->sequence);
    for (size_t i = 0; i < ping->size; i++)
        ((uint8_t *)(header + 1))[i] = pattern(ping, i);
    if (v4)
        header->checksum = (uint16_t)~net_sum_fold(net_sum_packet(packet, 0, packet->pkt_len));
    else
        icmpv6_sum(packet, hop.source, &dst);
    net->stats.icmp_out++;
    ping->next = net->pings;
    net->pings = ping;
    int error = ip_output(net, packet, hop.source, &dst, v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6, 0);
    if (error)
        zh_net_ping_stop(net, ping);
    return error;
}

void zh_net_ping_stop(struct zh_net *net, struct zh_net_ping *ping)
{
    for (struct zh_net_ping **at = &net->pings; *at; at = &(*at)->next)
        if (*at == ping) {
            *at = ping->next;
            return;
        }
}

void ping_input(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info)
{
    struct icmp_header header;
    uint8_t copy[256];
    memcpy(&header, rte_pktmbuf_mtod(packet, const void *), sizeof header);
    uint32_t field = rte_be_to_cpu_32(header.field);
    for (struct zh_net_ping *ping = net->pings; ping; ping = ping->next) {
        if (((uint32_t)ping->identifier << 16 | ping->sequence) != field ||
            memcmp(ping->peer, &info->src, sizeof ping->peer) != 0)
            continue;
        /* RFC 1122 section 3.2.2.6: the data comes back as it was sent. */
        if (packet->pkt_len != sizeof header + ping->size)
            return;
        for (uint32_t done = 0; done < ping->size;) {
            uint32_t step = RTE_MIN((uint32_t)sizeof copy, (uint32_t)ping->size - done);
            const uint8_t *data = rte_pktmbuf_read(packet, sizeof header + done, step, copy);
            for (uint32_t i = 0; i < step; i++)
                if (!data || data[i] != pattern(ping, done + i))
                    return;
            done += step;
        }
        ping->received = net->now;
        ping->ttl = info->ttl;
        zh_net_ping_stop(net, ping);
        if (ping->done)
            ping->done(ping);
        return;
    }
}
