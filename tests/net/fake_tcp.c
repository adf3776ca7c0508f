/* A TCP that writes down what the layers below gave it. */
#include "layers.h"
#include "tcp.h"

struct tcp_seen tcp_seen;
void (*tcp_on_error)(struct zh_net *net, const struct net_error *error);

int tcp_create(struct zh_net *net)
{
    (void)net;
    return 0;
}

void tcp_free(struct zh_net *net)
{
    (void)net;
}

void tcp_input(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info)
{
    net->stats.tcp_in++;
    tcp_seen.packets++;
    tcp_seen.info = *info;
    tcp_seen.size = packet->pkt_len;
    /* The headers are in one piece. */
    CHECK(packet->data_len >= (packet->pkt_len < 60 ? packet->pkt_len : 60));
    CHECK(packet->pkt_len <= sizeof tcp_seen.data);
    const void *data = rte_pktmbuf_read(packet, 0, packet->pkt_len, tcp_seen.data);
    if (data != tcp_seen.data)
        memcpy(tcp_seen.data, data, packet->pkt_len);
    rte_pktmbuf_free(packet);
}

void tcp_icmp_error(struct zh_net *net, const struct net_error *error)
{
    tcp_seen.errors++;
    tcp_seen.error = *error;
    if (tcp_on_error)
        tcp_on_error(net, error);
}

uint64_t tcp_poll(struct zh_net *net)
{
    (void)net;
    return NET_NEVER;
}

const struct tcp_congestion *tcp_congestion_find(const char *name)
{
    static const struct tcp_congestion newreno = {.name = "newreno"};
    return strcmp(name, newreno.name) == 0 ? &newreno : NULL;
}
