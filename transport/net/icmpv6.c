/* ICMPv6 (RFC 4443): as icmp.c does for IPv4. */
#include "headers.h"
#include "stack.h"

enum {
    ERROR_SIZE = 1280,       /* RFC 4443 section 2.4 (c) */
    QUOTE_PULL = 8 + 40 + 8, /* header, quoted IPv6 header, quoted start of a segment */
    MTU_MIN = 1280,          /* RFC 8200 section 5 */
};

void icmpv6_sum(struct rte_mbuf *message, const struct net_addr *src, const struct net_addr *dst)
{
    struct icmp_header *header = rte_pktmbuf_mtod(message, struct icmp_header *);
    uint64_t sum = net_sum_pseudo(src, dst, IPPROTO_ICMPV6, message->pkt_len);
    header->checksum = 0;
    sum += net_sum_fold(net_sum_packet(message, 0, message->pkt_len));
    header->checksum = (uint16_t)~net_sum_fold(sum);
}

static void reply_to(struct zh_net *net, struct rte_mbuf *reply, const struct net_packet *info,
                     uint8_t traffic_class)
{
    struct net_next_hop hop;
    const struct net_addr *src = &info->dst;
    if (info->broadcast) { /* a unicast address answers for a group (RFC 4443 section 2.2 (b)) */
        if (!net_route(net, &info->src, &hop)) {
            net->stats.ip_out_no_route++;
            rte_pktmbuf_free(reply);
            return;
        }
        src = hop.source;
    }
    icmpv6_sum(reply, src, &info->src);
    net->stats.icmp_out++;
    ip_output_fragments(net, reply, src, &info->src, IPPROTO_ICMPV6, traffic_class);
}

static bool is_unspecified(const struct net_addr *a)
{
    return !a->halves[0] && !a->halves[1];
}

static void echo(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info)
{
    if (is_unspecified(&info->src) || !icmp_echo_allowed(net)) {
        rte_pktmbuf_free(packet);
        return;
    }
    packet = net_packet_reuse(net, packet);
    if (!packet)
        return;
    rte_pktmbuf_mtod(packet, struct icmp_header *)->type = ICMPV6_ECHO_REPLY;
    reply_to(net, packet, info, info->traffic_class);
}

/* What an error means to a connection, as in RFC 5461 section 2.1. False: nothing. */
static bool meaning(const struct icmp_header *header, struct net_error *error)
{
    static const int unreachable[] = {/* by code: RFC 4443 section 3.1 */
                                      ENETUNREACH,  EACCES, EHOSTUNREACH, EHOSTUNREACH,
                                      ECONNREFUSED, EACCES, EACCES};
    switch (header->type) {
    case ICMPV6_UNREACHABLE:
        if (header->code >= sizeof unreachable / sizeof *unreachable)
            return false;
        error->error = unreachable[header->code];
        error->hard = header->code == ICMPV6_CODE_PORT;
        return true;
    case ICMPV6_TOO_BIG: {
        uint32_t mtu = rte_be_to_cpu_32(header->field);
        error->error = EMSGSIZE; /* less than the least is taken for that: RFC 8201 section 4 */
        error->mtu = (uint16_t)RTE_MAX(RTE_MIN(mtu, (uint32_t)UINT16_MAX), (uint32_t)MTU_MIN);
        return true;
    }
    case ICMPV6_TIME_EXCEEDED:
        error->error = EHOSTUNREACH;
        return true;
    case ICMPV6_PARAMETER_PROBLEM:
        error->error = EPROTO;
        error->hard = header->code == ICMPV6_CODE_NEXT_HEADER;
        return true;
    default:
        return false;
    }
}

void icmpv6_input(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info)
{
    const struct icmp_header *header = rte_pktmbuf_mtod(packet, const struct icmp_header *);
    struct net_error error = {0};
    net->stats.icmp_in++;
    if (packet->pkt_len < sizeof *header ||
        !net_packet_pull(packet, RTE_MIN(packet->pkt_len, (uint32_t)QUOTE_PULL)) ||
        net_sum_fold(net_sum_pseudo(&info->src, &info->dst, IPPROTO_ICMPV6, packet->pkt_len) +
                     net_sum_fold(net_sum_packet(packet, 0, packet->pkt_len))) != 0xffff) {
        net->stats.icmp_in_bad++;
        rte_pktmbuf_free(packet);
        return;
    }
    switch (header->type) {
    case ICMPV6_ECHO:
        echo(net, packet, info);
        return;
    case ICMPV6_ECHO_REPLY:
        ping_input(net, packet, info);
        rte_pktmbuf_free(packet);
        return;
    case ICMPV6_SOLICITATION:
    case ICMPV6_ADVERTISEMENT:
        nd_input(net, packet, info);
        return;
    default:
        if (meaning(header, &error)) {
            if (!info->broadcast && net_error_quote(net, (const uint8_t *)(header + 1),
                                                    packet->data_len - sizeof *header, &error))
                tcp_icmp_error(net, &error);
            else
                net->stats.icmp_errors_ignored++;
        }
        rte_pktmbuf_free(packet);
    }
}

void icmpv6_error(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info,
                  uint8_t type, uint8_t code, uint32_t field)
{
    /* RFC 4443 section 2.4 (e): not about errors, nor to nobody; about groups only where an option
     * asks for it. */
    if (info->protocol == IPPROTO_ICMPV6 &&
        (!packet->data_len || *rte_pktmbuf_mtod(packet, const uint8_t *) < ICMPV6_ECHO))
        return;
    if (is_unspecified(&info->src) ||
        (info->broadcast && !(type == ICMPV6_PARAMETER_PROBLEM && code == ICMPV6_CODE_OPTION)))
        return;
    if (!icmp_error_allowed(net))
        return;
    struct rte_mbuf *reply = net_packet_alloc(net);
    if (!reply)
        return;
    /* Of the data, what the first segment has is enough. */
    uint32_t most = ERROR_SIZE - sizeof(struct ipv6_header) - sizeof(struct icmp_header);
    uint32_t quoted = RTE_MIN((uint32_t)info->ip_header_size + packet->data_len, most);
    struct icmp_header *header =
        (void *)rte_pktmbuf_append(reply, (uint16_t)(sizeof *header + quoted));
    *header = (struct icmp_header){.type = type, .code = code, .field = rte_cpu_to_be_32(field)};
    memcpy(header + 1, rte_pktmbuf_mtod(packet, const uint8_t *) - info->ip_header_size, quoted);
    reply_to(net, reply, info, 0);
}
