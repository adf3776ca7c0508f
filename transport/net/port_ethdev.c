/* A port on a DPDK device: one receive and one transmit queue. */
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/if_xdp.h>
#include <pthread.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "eal.h"
#include "pool.h"
#include "port_checksum.h"
#include "port_device.h"
#include "port_xdp.h"
#include "zerohop/fork.h"

enum {
    RX_PACKETS_DEFAULT = 16384,
    DESCRIPTORS = 1024,        /* of a queue, where the device has nothing else to say */
    DESCRIPTORS_AF_XDP = 2048, /* the driver's own rings have this size */
    XDP_SETTLE_US = 100000,    /* it takes some ms */
    SEGMENTS_MAX = 8,          /* more than headers and payload are ever spread over */
};

struct ethdev_port {
    struct zh_port port; /* first */
    struct port_device device;
    struct ethdev_port *next; /* of those that are open */
    uint16_t id;
    int descriptor;     /* the driver's; -1: none */
    bool linearize;     /* it knows no chains */
    bool opened, added; /* how far opening came */
    bool was_up;        /* memif: a peer has been there */
    uint64_t dropped;   /* as the kernel told: reading resets its count */
    struct zh_port_stats stats;
};

/* Opening and closing: descriptors are found by comparing. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct timespec xdp_closed; /* when a port of AF_XDP was last */
static struct ethdev_port *ports;  /* that are open; DPDK would give one device out twice */

/* --- packets ---------------------------------------------------------------------------------- */

static uint16_t ethdev_receive(struct zh_port *port, struct rte_mbuf **packets, uint16_t count)
{
    struct ethdev_port *self = (struct ethdev_port *)port;
    uint16_t got = rte_eth_rx_burst(self->id, 0, packets, count);
    uint64_t bytes = 0;
    for (uint16_t i = 0; i < got; i++)
        bytes += packets[i]->pkt_len;
    if (unlikely(port->trust_checksum))
        for (uint16_t i = 0; i < got; i++)
            self->stats.rx_checksum_blank += port_checksum_blank(packets[i]);
    self->stats.rx_packets += got;
    self->stats.rx_bytes += bytes;
    return got;
}

/* One buffer for each packet. The driver of AF_XDP sends what lies in its own pool in place, and
 * finds it by the packet's address: data attached from elsewhere is copied too. Returns up to where
 * there was memory. */
static uint16_t linearize(struct ethdev_port *self, struct rte_mbuf **packets, uint16_t count)
{
    for (uint16_t i = 0; i < count; i++) {
        struct rte_mbuf *packet = packets[i];
        if (packet->nb_segs == 1 && (RTE_MBUF_DIRECT(packet) || packet->pool != self->port.pool))
            continue;
        packets[i] = rte_pktmbuf_copy(packet, self->port.pool, 0, UINT32_MAX);
        if (!packets[i] || packets[i]->nb_segs > 1) {
            rte_pktmbuf_free(packets[i]);
            packets[i] = packet;
            return i;
        }
        rte_pktmbuf_free(packet);
        self->stats.tx_linearized++;
    }
    return count;
}

static uint16_t ethdev_send(struct zh_port *port, struct rte_mbuf **packets, uint16_t count)
{
    struct ethdev_port *self = (struct ethdev_port *)port;
    uint16_t ready = self->linearize ? linearize(self, packets, count) : count;
    if (port->tx_checksum)
        ready = rte_eth_tx_prepare(self->id, 0, packets, ready);
    uint64_t bytes = 0;
    for (uint16_t i = 0; i < ready; i++)
        bytes += packets[i]->pkt_len;
    uint16_t sent = rte_eth_tx_burst(self->id, 0, packets, ready);
    for (uint16_t i = sent; i < ready; i++)
        bytes -= packets[i]->pkt_len;
    self->stats.tx_packets += sent;
    self->stats.tx_bytes += bytes;
    self->stats.tx_busy += count - sent;
    return sent;
}

static void ethdev_reclaim(struct zh_port *port)
{
    struct ethdev_port *self = (struct ethdev_port *)port;
    rte_eth_tx_done_cleanup(self->id, 0, 0); /* -ENOTSUP: the device frees as it takes */
}

/* --- state ------------------------------------------------------------------------------------ */

static int ethdev_descriptor(struct zh_port *port)
{
    return ((struct ethdev_port *)port)->descriptor;
}

static bool ethdev_alive(struct zh_port *port)
{
    struct ethdev_port *self = (struct ethdev_port *)port;
    if (self->device.kind == PORT_MEMIF) {
        struct rte_eth_link link;
        if (rte_eth_link_get_nowait(self->id, &link) != 0)
            return false;
        if (link.link_status)
            self->was_up = true;
        return link.link_status || !self->was_up;
    }
    return port_device_present(&self->device);
}

/* What the kernel dropped for want of room since it was last asked. */
static void count_dropped(struct ethdev_port *self)
{
    struct tpacket_stats packet;
    struct xdp_statistics xdp;
    socklen_t size = sizeof packet;
    if (self->device.kind == PORT_AF_PACKET &&
        getsockopt(self->descriptor, SOL_PACKET, PACKET_STATISTICS, &packet, &size) == 0)
        self->dropped += packet.tp_drops;
    size = sizeof xdp;
    if (self->device.kind == PORT_AF_XDP &&
        getsockopt(self->descriptor, SOL_XDP, XDP_STATISTICS, &xdp, &size) == 0)
        self->dropped = xdp.rx_dropped + xdp.rx_ring_full; /* this one is a sum */
}

static void ethdev_stats(struct zh_port *port, struct zh_port_stats *stats)
{
    struct ethdev_port *self = (struct ethdev_port *)port;
    struct rte_eth_stats device;
    if (self->descriptor >= 0)
        count_dropped(self);
    *stats = self->stats;
    stats->rx_dropped = self->dropped;
    if (self->device.kind != PORT_AF_XDP && rte_eth_stats_get(self->id, &device) == 0)
        stats->rx_dropped += device.imissed + device.rx_nombuf + device.ierrors;
}

/* Undo what opening has done so far. */
static void detach(struct ethdev_port *self)
{
    bool is_xdp = self->device.kind == PORT_AF_XDP && self->descriptor >= 0;
    struct port_xdp_lost *lost = NULL;
    struct rte_mbuf *packets[32];
    if (self->descriptor >= 0)
        zh_fork_untrack_fd(self->descriptor);
    for (uint16_t got; is_xdp && (got = rte_eth_rx_burst(self->id, 0, packets, 32)) > 0;)
        rte_pktmbuf_free_bulk(packets, got);
    if (is_xdp)
        lost = port_xdp_before_close(self->descriptor, self->port.pool);
    if (self->opened)
        rte_eth_dev_stop(self->id);
    if (self->added)
        rte_eal_hotplug_remove(self->device.kind == PORT_PCI ? "pci" : "vdev", self->device.name);
    port_xdp_after_close(lost);
    if (is_xdp)
        clock_gettime(CLOCK_MONOTONIC, &xdp_closed);
    net_pool_retire(self->port.pool);
    self->port.pool = NULL;
    self->descriptor = -1;
    self->opened = self->added = false;
}

static void ethdev_close(struct zh_port *port)
{
    struct ethdev_port *self = (struct ethdev_port *)port;
    if (!eal_is_forked()) {
        pthread_mutex_lock(&lock);
        for (struct ethdev_port **at = &ports; *at; at = &(*at)->next) {
            if (*at == self) {
                *at = self->next;
                break;
            }
        }
        detach(self);
        if (self->device.socket[0])
            unlink(self->device.socket);
        pthread_mutex_unlock(&lock);
    }
    port_device_release(&self->device);
    free(self);
}

static const struct zh_port_ops ethdev_ops = {
    .send = ethdev_send,
    .receive = ethdev_receive,
    .reclaim = ethdev_reclaim,
    .descriptor = ethdev_descriptor,
    .alive = ethdev_alive,
    .stats = ethdev_stats,
    .close = ethdev_close,
};

/* --- opening ---------------------------------------------------------------------------------- */

static int find_id(struct ethdev_port *self)
{
    char selector[sizeof self->device.name + 8];
    struct rte_dev_iterator iterator;
    uint16_t id;
    if (self->device.kind != PORT_PCI)
        return rte_eth_dev_get_port_by_name(self->device.name, &self->id);
    snprintf(selector, sizeof selector, "pci:%s", self->device.name);
    RTE_ETH_FOREACH_MATCHING_DEV(id, selector, &iterator)
    {
        self->id = id;
        rte_eth_iterator_cleanup(&iterator);
        return 0;
    }
    return -ENODEV;
}

static void choose_offloads(struct ethdev_port *self, const struct rte_eth_dev_info *info,
                            struct rte_eth_conf *conf)
{
    enum { HAVE_TX = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_TCP_CKSUM };
    struct zh_port *port = &self->port;
    port->max_segments = 1;
    if (info->tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS) {
        conf->txmode.offloads |= RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
        uint16_t most = info->tx_desc_lim.nb_mtu_seg_max;
        port->max_segments = most && most < SEGMENTS_MAX ? most : SEGMENTS_MAX;
    } else if (self->device.kind == PORT_RING) {
        port->max_segments = SEGMENTS_MAX; /* packets go as they are */
    }
    self->linearize = port->max_segments == 1;
    /* Drivers without a device do in software what is done better above. */
    if (self->device.kind != PORT_PCI)
        return;
    if ((info->tx_offload_capa & HAVE_TX) == HAVE_TX) {
        conf->txmode.offloads |= HAVE_TX;
        port->tx_checksum = true;
    }
    uint64_t receive = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
    if ((info->rx_offload_capa & receive) == receive) {
        conf->rxmode.offloads |= receive;
        port->rx_checksum = true;
    }
}

static int setup_queues(struct ethdev_port *self, const struct rte_eth_dev_info *info,
                        const struct rte_eth_conf *conf)
{
    uint16_t rx = DESCRIPTORS, tx = DESCRIPTORS;
    if (self->device.kind == PORT_AF_XDP)
        rx = tx = DESCRIPTORS_AF_XDP;
    int result = rte_eth_dev_adjust_nb_rx_tx_desc(self->id, &rx, &tx);
    struct rte_eth_rxconf rx_conf = info->default_rxconf;
    struct rte_eth_txconf tx_conf = info->default_txconf;
    rx_conf.offloads = conf->rxmode.offloads;
    tx_conf.offloads = conf->txmode.offloads;
    if (result == 0)
        result = rte_eth_rx_queue_setup(self->id, 0, rx, SOCKET_ID_ANY, &rx_conf, self->port.pool);
    if (result == 0)
        result = rte_eth_tx_queue_setup(self->id, 0, tx, SOCKET_ID_ANY, &tx_conf);
    return result;
}

static uint16_t buffer_size(const struct ethdev_port *self)
{
    uint32_t size = self->port.mtu + PORT_ETHER_HEADER + PORT_VLAN_TAG;
    if (self->device.data_size)
        return self->device.data_size;
    /* NICs count buffers in KiB. */
    return (uint16_t)RTE_ALIGN(size, self->device.kind == PORT_PCI ? 1024 : 64);
}

static void choose_mac(struct ethdev_port *self)
{
    struct rte_ether_addr address = {{0}};
    if (self->device.interface[0]) {
        memcpy(self->port.mac, self->device.mac, 6);
        return;
    }
    rte_eth_macaddr_get(self->id, &address);
    if (rte_is_zero_ether_addr(&address) || rte_is_multicast_ether_addr(&address)) {
        rte_eth_random_addr(address.addr_bytes);
    } else if (self->device.kind == PORT_TAP) {
        /* The driver's is the kernel's end of the tap. Ours is another, of local meaning. */
        address.addr_bytes[0] |= 2;
        address.addr_bytes[5] ^= 1;
    }
    memcpy(self->port.mac, address.addr_bytes, 6);
}

/* After rte_eal_hotplug_add. On failure the caller closes. */
static int start(struct ethdev_port *self, const struct zh_port_config *config, char *error)
{
    struct rte_eth_dev_info info;
    struct rte_eth_conf conf = {0};
    enum port_kind kind = self->device.kind;
    int result = find_id(self);
    if (result == 0)
        result = rte_eth_dev_info_get(self->id, &info);
    if (result != 0)
        return port_device_explain(&self->device, result, error);
    if (kind != PORT_AF_PACKET && info.max_mtu && self->port.mtu > info.max_mtu)
        return eal_error(error, -EMSGSIZE, "%s carries an MTU of at most %u, not %u",
                         self->device.name, info.max_mtu, self->port.mtu);
    choose_offloads(self, &info, &conf);
    if (kind == PORT_PCI)
        conf.rxmode.mtu = self->port.mtu;
    uint32_t packets = config->rx_packets ? config->rx_packets : RX_PACKETS_DEFAULT;
    self->port.pool = net_pool_create(packets, buffer_size(self), kind == PORT_PCI);
    if (!self->port.pool)
        return eal_error(
            error, -rte_errno,
            "no memory for %u received packets of %u bytes: ask for fewer "
            "(rx_packets), or start DPDK with more (the argument -m MEGABYTES, or free "
            "hugepages)",
            packets, buffer_size(self));
    result = rte_eth_dev_configure(self->id, 1, 1, &conf);
    if (result == 0)
        result = setup_queues(self, &info, &conf);
    if (result == 0 && kind == PORT_TAP && config->mtu)
        result = rte_eth_dev_set_mtu(self->id, self->port.mtu);
    if (result == 0)
        result = rte_eth_dev_start(self->id);
    if (result != 0)
        return port_device_explain(&self->device, result, error);
    self->opened = true;
    if (kind == PORT_PCI)
        rte_eth_allmulticast_enable(self->id); /* neighbour discovery */
    choose_mac(self);
    return 0;
}

static int find_descriptor(struct ethdev_port *self, const struct port_descriptors *before)
{
    int result = 0, one = 1;
    switch (self->device.kind) {
    case PORT_AF_PACKET:
        self->descriptor = port_descriptors_find(before, AF_PACKET, self->device.interface_index);
        /* Else what the kernel itself sends on the interface comes in as well. */
        if (self->descriptor >= 0)
            setsockopt(self->descriptor, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one);
        break;
    case PORT_AF_XDP:
        self->descriptor = port_descriptors_find(before, AF_XDP, 0);
        break;
    case PORT_TAP:
        self->descriptor = port_descriptors_find(before, 0, 0);
        if (self->descriptor >= 0)
            result = port_tap_signals(self->descriptor);
        break;
    case PORT_MEMIF:
    case PORT_RING:
    case PORT_PCI:
        break;
    }
    if (self->descriptor >= 0 && result == 0)
        result = zh_fork_track_fd(self->descriptor);
    return result;
}

/* A closed socket of AF_XDP holds its queue until the kernel gets round to it, and DPDK's driver
 * loses packets when it meets such a queue. */
static void wait_for_xdp(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t past = (int64_t)(now.tv_sec - xdp_closed.tv_sec) * 1000000 +
                   (now.tv_nsec - xdp_closed.tv_nsec) / 1000;
    if (xdp_closed.tv_sec && past < XDP_SETTLE_US)
        usleep((useconds_t)(XDP_SETTLE_US - past));
}

/* On failure the caller closes, which undoes what was done. */
static int attach(struct ethdev_port *self, const struct zh_port_config *config,
                  struct port_descriptors *before, char *error)
{
    const struct port_device *device = &self->device;
    for (const struct ethdev_port *other = ports; other; other = other->next)
        if (strcmp(other->device.name, device->name) == 0)
            return eal_error(error, -EEXIST,
                             "%s is open in this process already: close it first, or use another "
                             "number or device",
                             device->name);
    if (device->kind == PORT_AF_XDP)
        wait_for_xdp();
    eal_log_forget();
    /* A tap's queue is opened by `start`; what its probing opens is only held. */
    if (device->kind != PORT_TAP)
        port_descriptors_now(before);
    int result = rte_eal_hotplug_add(device->kind == PORT_PCI ? "pci" : "vdev", device->name,
                                     device->arguments);
    if (device->kind == PORT_TAP)
        port_descriptors_now(before);
    if (result != 0 && result != -EEXIST) /* EAL's own arguments have named it */
        return port_device_explain(device, result, error);
    self->added = true;
    if ((result = start(self, config, error)) != 0)
        return result;
    if ((result = find_descriptor(self, before)) != 0)
        return eal_error(error, result, "%s: %s", device->name, strerror(-result));
    return 0;
}

int port_ethdev_open(const struct port_device *device, const struct zh_port_config *config,
                     struct zh_port **port, char *error)
{
    struct ethdev_port *self = calloc(1, sizeof *self);
    struct port_descriptors *before = malloc(sizeof *before);
    if (!self || !before) {
        free(self);
        free(before);
        close(device->control);
        return eal_error(error, -ENOMEM, "no memory for a port");
    }
    self->device = *device;
    self->descriptor = -1;
    self->port = (struct zh_port){.ops = &ethdev_ops,
                                  .name = self->device.name,
                                  .mtu = device->mtu,
                                  .trust_checksum = config->trust_checksum};
    pthread_mutex_lock(&lock);
    int result = attach(self, config, before, error);
    if (result == 0) {
        self->next = ports;
        ports = self;
    }
    pthread_mutex_unlock(&lock);
    free(before);
    if (result != 0) {
        ethdev_close(&self->port);
        return result;
    }
    *port = &self->port;
    return 0;
}

int zh_port_open(const struct zh_port_config *config, struct zh_port **port, char *error)
{
    struct port_device device;
    int result = port_device_prepare(&device, config, error);
    if (result == 0)
        result = zh_eal_start(config->eal, error);
    if (result == 0)
        return port_ethdev_open(&device, config, port, error);
    port_device_release(&device);
    return result;
}
