/* Initial sequence numbers (RFC 6528) and timestamp offsets (RFC 7323 section 5.4). */
#include "tcp_conn.h"

uint64_t tcp_flow_hash(const struct zh_net *net, const struct net_addr *local,
                       const struct net_addr *remote, uint16_t local_port, uint16_t remote_port)
{
    /* Of IPv4 what differs: a hash of 12 bytes costs less than half of one of 36, and since it is
     * of another length, none of IPv6 is the same. */
    if (net_addr_is_v4(local) && net_addr_is_v4(remote)) {
        uint32_t seen[3] = {local->words[3], remote->words[3],
                            (uint32_t)local_port << 16 | remote_port};
        return net_siphash(net->key, seen, sizeof seen);
    }
    struct {
        struct net_addr local, remote;
        uint16_t local_port, remote_port;
    } __attribute__((packed)) seen = {*local, *remote, local_port, remote_port};
    return net_siphash(net->key, &seen, sizeof seen);
}

uint32_t tcp_isn_hash(struct zh_net *net, const struct tcp_flow *flow)
{
    return (uint32_t)tcp_flow_hash(net, &flow->local, &flow->remote, flow->local_port,
                                   flow->remote_port);
}

/* ISN = M + F(flow, key): M ticks every 4 us, F is a keyed hash. */
uint32_t tcp_isn(struct zh_net *net, const struct tcp_flow *flow)
{
    return (uint32_t)(net->now / (4 * NET_US)) + tcp_isn_hash(net, flow);
}

/* The same for all connections of two hosts, so that a later connection of the same ports goes on
 * where the former was (RFC 7323 section 5.4 and appendix B.2); another for each pair of hosts, so
 * that none learns the others' or the time since boot. */
uint32_t tcp_ts_offset(struct zh_net *net, const struct tcp_flow *flow)
{
    return (uint32_t)(tcp_flow_hash(net, &flow->local, &flow->remote, 0, 0) >> 32);
}
