/* Initial sequence numbers (RFC 6528) and timestamp offsets (RFC 7323 section 5.4). */
#include "tcp_conn.h"

uint32_t tcp_isn_hash(struct zh_net *net, const struct tcp_flow *flow)
{
    struct {
        struct net_addr local, remote;
        uint16_t local_port, remote_port;
    } __attribute__((packed)) seen = {
        flow->local,
        flow->remote,
        flow->local_port,
        flow->remote_port,
    };
    return (uint32_t)net_siphash(net->key, &seen, sizeof seen);
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
    struct net_addr pair[2] = {flow->local, flow->remote};
    return (uint32_t)(net_siphash(net->key, pair, sizeof pair) >> 32);
}
