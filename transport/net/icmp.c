/* ICMP (RFC 792, RFC 1122 section 3.2.2): echo is answered, errors are handed to TCP, which decides
 * whether they can be true (RFC 5927), and sent, both within limits. */
#include "headers.h"
#include "stack.h"

enum {
    /* As Linux (icmp_msgs_per_sec, icmp_msgs_burst); RFC 1812 section 4.3.2.8 asks for a limit. */
    ERROR_BURST = 50,
    ERROR_INTERVAL = NET_MS,
    ECHO_BURST = 1000,
    ECHO_INTERVAL = 100 * NET_US,
    ERROR_SIZE_V4 = 576,     /* RFC 1812 section 4.3.2.3 */
    QUOTE_PULL = 8 + 60 + 8, /* header, quoted IP header, quoted start of a segment */
};

bool net_limit_take(struct net_limit *limit, uint64_t now, uint64_t interval, uint32_t burst)
{
    uint64_t gained = (now - limit->refilled_at) / interval;
    if (gained >= burst - limit->tokens || !limit->refilled_at) {
        limit->tokens = burst;
        limit->refilled_at = now;
    } else {
        limit->tokens += (uint32_t)gained;
        limit->refilled_at += gained * interval;
    }
    if (!limit->tokens)
        return false;
    limit->tokens--;
    return true;
}

static bool allowed(struct zh_net *net, struct net_limit *limit, uint64_t interval, uint32_t burst)
{
    if (net_limit_take(limit, net->now, interval, burst))
        return true;
    net->stats.icmp_limited++;
    return false;
}

bool icmp_error_allowed(struct zh_net *net)
{
    return allowed(net, &net->icmp_limit, ERROR_INTERVAL, ERROR_BURST);
}

bool icmp_echo_allowed(struct zh_net *net)
{
    return allowed(net, &net->echo_limit, ECHO_INTERVAL, ECHO_BURST);
}

/* An answer to `info`, whose message begins at its data, without a checksum. Takes the reply. */
static void reply_to(struct zh_net *net, struct rte_mbuf *reply, const struct net_packet *info,
                     uint8_t traffic_class)
{
    struct icmp_header *header = rte_pktmbuf_mtod(reply, struct icmp_header *);
    header->checksum = 0;
    header->checksum = (uint16_t)~net_sum_fold(net_sum_packet(reply, 0, reply->pkt_len));
    net->stats.icmp_out++;
    ip_output_fragments(net, reply, &info->dst, &info->src, IPPROTO_ICMP, traffic_class);
}

static void echo(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info)
{
    if (!icmp_echo_allowed(net)) {
        rte_pktmbuf_free(packet);
        return;
    }
    packet = net_packet_reuse(net, packet);
    if (!packet)
        return;
    rte_pktmbuf_mtod(packet, struct icmp_header *)->type = ICMP_ECHO_REPLY;
    /* The reply has the request's type of service: RFC 1349 section 5.1. */
    reply_to(net, packet, info, info->traffic_class);
}

/* What an error means to a connection. Hard: RFC 1122 section 4.2.3.9. False: nothing. */
static bool meaning(const struct icmp_header *header, struct net_error *error)
{
    /* By code of unreachable; those from 6 on by RFC 1122 section 3.2.2.1 and RFC 1812 section
     * 5.2.7.1. */
    static const int unreachable[] = {
        ENETUNREACH,  EHOSTUNREACH, ENOPROTOOPT,  ECONNREFUSED, EMSGSIZE,     EOPNOTSUPP,
        ENETUNREACH,  EHOSTDOWN,    ENONET,       ENETUNREACH,  EHOSTUNREACH, ENETUNREACH,
        EHOSTUNREACH, EHOSTUNREACH, EHOSTUNREACH, EHOSTUNREACH,
    };
    switch (header->type) {
    case ICMP_UNREACHABLE:
        if (header->code >= sizeof unreachable / sizeof *unreachable)
            return false;
        error->error = unreachable[header->code];
        error->hard = header->code == ICMP_CODE_PROTOCOL || header->code == ICMP_CODE_PORT;
        if (header->code == ICMP_CODE_TOO_BIG) /* RFC 1191 section 4: the lower 16 bits */
            error->mtu = (uint16_t)rte_be_to_cpu_32(header->field);
        return true;
    case ICMP_TIME_EXCEEDED:
        error->error = EHOSTUNREACH;
        return true;
    case ICMP_PARAMETER_PROBLEM:
        error->error = EPROTO;
        return true;
    default: /* source quench: RFC 6633 section 4; redirects: routes are static here */
        return false;
    }
}

void icmp_input(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info)
{
    const struct icmp_header *header = rte_pktmbuf_mtod(packet, const struct icmp_header *);
    struct net_error error = {0};
    net->stats.icmp_in++;
    if (packet->pkt_len < sizeof *header ||
        !net_packet_pull(packet, RTE_MIN(packet->pkt_len, (uint32_t)QUOTE_PULL)) ||
        net_sum_fold(net_sum_packet(packet, 0, packet->pkt_len)) != 0xffff) {
        net->stats.icmp_in_bad++;
    } else if (header->type == ICMP_ECHO) {
        echo(net, packet, info);
        return;
    } else if (header->type == ICMP_ECHO_REPLY) {
        ping_input(net, packet, info);
    } else if (meaning(header, &error)) {
        if (net_error_quote(net, (const uint8_t *)(header + 1), packet->data_len - sizeof *header,
                            &error))
            tcp_icmp_error(net, &error);
        else
            net->stats.icmp_errors_ignored++;
    }
    rte_pktmbuf_free(packet);
}

void icmp_error(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info,
                uint8_t type, uint8_t code, uint32_t field)
{
    /* Not about ICMP, nor to many: RFC 1122 section 3.2.2. */
    if (info->broadcast || info->protocol == IPPROTO_ICMP)
        return;
    if (!icmp_error_allowed(net))
        return;
    struct rte_mbuf *reply = net_packet_alloc(net);
    if (!reply)
        return;
    /* The IP header still lies before the data; of the data, what the first segment has is enough.
     */
    uint32_t quoted =
        RTE_MIN((uint32_t)info->ip_header_size + packet->data_len,
                ERROR_SIZE_V4 - sizeof(struct ipv4_header) - sizeof(struct icmp_header));
    struct icmp_header *header =
        (void *)rte_pktmbuf_append(reply, (uint16_t)(sizeof *header + quoted));
    *header = (struct icmp_header){.type = type, .code = code, .field = rte_cpu_to_be_32(field)};
    memcpy(header + 1, rte_pktmbuf_mtod(packet, const uint8_t *) - info->ip_header_size, quoted);
    reply_to(net, reply, info, 0);
}

void icmp_unreachable(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info,
                      uint8_t code)
{
    icmp_error(net, packet, info, ICMP_UNREACHABLE, code, 0);
}
