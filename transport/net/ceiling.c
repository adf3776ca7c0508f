/* What a port itself can do: equal frames, one burst after another, nothing else. */
#include <errno.h>
#include <rte_mbuf.h>
#include <string.h>
#include <time.h>

#include "eal.h"
#include "headers.h"
#include "pool.h"
#include "stack.h"
#include "zerohop/port.h"

enum {
    ETHER_HEADER = sizeof(struct ether_header),
    LEAST = ETHER_HEADER + sizeof(struct ipv4_header),
    BURST = 32,
    PACKETS = 4095, /* more than any device keeps before it gives back */
};

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* An IPv4 packet between addresses that nobody has (RFC 5737), which the far end drops as soon as
 * it has looked at them: on veth the sender pays for some of that, as it does for TCP's segments.
 */
static void fill(const struct zh_port *port, struct rte_mbuf *packet, uint16_t size,
                 const uint8_t dst[6])
{
    struct ether_header *ether = rte_pktmbuf_mtod(packet, struct ether_header *);
    struct ipv4_header *ip = (struct ipv4_header *)(ether + 1);
    packet->data_len = packet->pkt_len = size;
    memcpy(ether->dst, dst, 6);
    memcpy(ether->src, port->mac, 6);
    ether->type = rte_cpu_to_be_16(ETHER_IPV4);
    *ip = (struct ipv4_header){
        .version_ihl = 0x45,
        .total_length = rte_cpu_to_be_16((uint16_t)(size - ETHER_HEADER)),
        .ttl = 1,
        .protocol = IPPROTO_TCP,
        .src = RTE_BE32(UINT32_C(0xc0000201)),
        .dst = RTE_BE32(UINT32_C(0xc0000202)),
    };
    ip->checksum = (uint16_t)~net_sum_fold(net_sum(ip, sizeof *ip));
}

int zh_port_ceiling(struct zh_port *port, uint16_t size, const uint8_t dst[6], uint64_t duration,
                    struct zh_port_ceiling *ceiling, char *error)
{
    struct rte_mbuf *packets[BURST], *received[BURST];
    uint16_t ready = 0;
    if (size < LEAST || size > (uint32_t)port->mtu + ETHER_HEADER)
        return eal_error(error, -EINVAL, "frames on %s have %d to %u bytes, not %u", port->name,
                         LEAST, port->mtu + ETHER_HEADER, size);
    struct rte_mempool *pool = net_pool_create(PACKETS, port->mtu + ETHER_HEADER, true);
    if (!pool)
        return eal_error(error, -ENOMEM,
                         "no memory for frames: start DPDK with more (the argument "
                         "-m MEGABYTES)");
    uint64_t start = now_ns(), now = start;
    *ceiling = (struct zh_port_ceiling){0};
    while ((now = now_ns()) - start < duration) {
        for (; ready < BURST && (packets[ready] = rte_pktmbuf_alloc(pool)); ready++)
            fill(port, packets[ready], size, dst);
        uint16_t sent = zh_port_send(port, packets, ready);
        ceiling->frames += sent;
        ready -= sent;
        memmove(packets, packets + sent, ready * sizeof *packets);
        if (ready)
            zh_port_reclaim(port);
        /* What comes meanwhile must not fill the device. */
        rte_pktmbuf_free_bulk(received, zh_port_receive(port, received, BURST));
    }
    ceiling->nanoseconds = now - start;
    ceiling->bytes = ceiling->frames * size;
    rte_pktmbuf_free_bulk(packets, ready);
    zh_port_reclaim(port);
    net_pool_retire(pool);
    if (!zh_port_alive(port))
        return eal_error(error, -ENODEV, "%s went away", port->name);
    return 0;
}
