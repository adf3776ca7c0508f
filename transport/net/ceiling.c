/* What a port itself can do: equal frames, one burst after another, nothing else. */
#include <errno.h>
#include <rte_mbuf.h>
#include <string.h>
#include <time.h>

#include "eal.h"
#include "pool.h"
#include "zerohop/port.h"

enum {
    ETHER_HEADER = 14,
    ETHER_TYPE_LOCAL = 0x88b5, /* IEEE 802: for local experiments */
    BURST = 32,
    PACKETS = 4095, /* more than any device keeps before it gives back */
};

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void fill(const struct zh_port *port, struct rte_mbuf *packet, uint16_t size,
                 const uint8_t dst[6])
{
    uint8_t *data = rte_pktmbuf_mtod(packet, uint8_t *);
    packet->data_len = packet->pkt_len = size;
    memcpy(data, dst, 6);
    memcpy(data + 6, port->mac, 6);
    data[12] = ETHER_TYPE_LOCAL >> 8;
    data[13] = ETHER_TYPE_LOCAL & 255;
}

int zh_port_ceiling(struct zh_port *port, uint16_t size, const uint8_t dst[6], uint64_t duration,
                    struct zh_port_ceiling *ceiling, char *error)
{
    struct rte_mbuf *packets[BURST], *received[BURST];
    uint16_t ready = 0;
    if (size < ETHER_HEADER || size > (uint32_t)port->mtu + ETHER_HEADER)
        return eal_error(error, -EINVAL, "frames on %s have %d to %u bytes, not %u", port->name,
                         ETHER_HEADER, port->mtu + ETHER_HEADER, size);
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
