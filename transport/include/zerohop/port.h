/* Ports: what a stack sends packets through and its owner receives them from.
 *
 * A port is a DPDK device (zh_port_open) or one end of a wire in memory (zh_wire_create). One
 * thread at a time uses a port; received packets may be freed by any thread. EAL is started by the
 * first port or pool that needs it, once per process (zh_eal_start).
 *
 * Functions that return int give 0 or a negative errno; where they take `error`, a sentence that
 * says what is wrong and what to do is written there (ZH_PORT_ERROR_SIZE bytes). */
#ifndef ZEROHOP_PORT_H
#define ZEROHOP_PORT_H

#include <stdbool.h>
#include <stdint.h>

#include "zerohop/api.h"

#define ZH_PORT_ERROR_SIZE 512

struct rte_mbuf;
struct rte_mempool;

struct zh_port_stats {
    uint64_t rx_packets, rx_bytes; /* handed to the owner */
    uint64_t tx_packets, tx_bytes; /* taken by the device */
    uint64_t rx_dropped;           /* known to have been lost before they reached us */
    uint64_t tx_busy;              /* packets that a full device did not take at once */
    uint64_t tx_linearized;        /* chains copied into one buffer for a device without chains */
    uint64_t
        rx_checksum_blank; /* with trust: packets whose checksum the peer's kernel left undone */
};

struct zh_port;

struct zh_port_ops {
    /* Send up to `count` packets; returns how many were taken. Those belong to the port; the others
     * are the caller's still. A packet has at most zh_port.max_segments segments; where that is 1,
     * longer chains are copied into one buffer, which takes their place in `packets`. */
    uint16_t (*send)(struct zh_port *port, struct rte_mbuf **packets, uint16_t count);
    /* Receive up to `count` packets, which then are the caller's. */
    uint16_t (*receive)(struct zh_port *port, struct rte_mbuf **packets, uint16_t count);
    /* Let the device give back the buffers of packets that it has sent. */
    void (*reclaim)(struct zh_port *port);
    /* A descriptor that is readable when packets are there; -1 where there is none. That of
     * net_af_packet also shows an error when its interface is deleted; net_af_xdp's does not. */
    int (*descriptor)(struct zh_port *port);
    /* False once the device has gone (its interface was deleted, its peer has closed). A system
     * call: ask now and then, and when the descriptor is ready but no packet is there. */
    bool (*alive)(struct zh_port *port);
    void (*stats)(struct zh_port *port, struct zh_port_stats *stats);
    void (*close)(struct zh_port *port);
};

struct zh_port {
    const struct zh_port_ops *ops;
    const char *name;
    uint8_t mac[6];
    uint16_t mtu;          /* of the IP packet, without the Ethernet header */
    uint16_t max_segments; /* of a packet given to send; 1: the device knows no chains */
    bool tx_checksum;      /* the device fills in IPv4, TCP and UDP checksums (RTE_MBUF_F_TX_*) */
    bool rx_checksum;      /* the device tells whether they are right (RTE_MBUF_F_RX_*_CKSUM_*) */
    bool trust_checksum;   /* TCP segments whose checksum a local kernel left undone are received
                              with RTE_MBUF_F_RX_L4_CKSUM_NONE, to be accepted */
    struct rte_mempool *pool; /* of received packets */
};

/* EAL, once per process. `extra` are further arguments of a user's own, space-separated, or NULL;
 * they are refused (-EALREADY) once EAL runs with others. Any thread. */
ZH_API int zh_eal_start(const char *extra, char *error);

/* Gives the calling thread a cache of its own in the pools (rte_thread_register) until it ends;
 * more than once is harmless. Without it a thread may use packets too, at the price of the pool's
 * ring. zh_eal_start does it for its caller. -ENOMEM: all of EAL's threads are taken. */
ZH_API int zh_eal_thread(void);

/* Where DPDK's log lines go from now on; `level` is one of RTE_LOG_*. NULL, as at first: nowhere.
 * Called by any thread, one at a time; it must not call into this library. */
ZH_API void zh_eal_set_log(void (*log)(int level, const char *line));

struct zh_port_config {
    const char *device;  /* as DPDK writes it: "net_af_packet0,iface=veth1", "0000:03:00.0" */
    uint16_t mtu;        /* 0: the interface's own where there is one, else 1500 */
    uint32_t rx_packets; /* in the pool of received packets; 0: 16384 */
    bool trust_checksum; /* see struct zh_port */
    const char *eal;     /* see zh_eal_start */
};

/* Open a DPDK device: net_af_packet, net_af_xdp (both need `iface=`), net_memif, net_tap, net_ring,
 * or a NIC's PCI address. What the device needs and the user did not give is filled in. A memif's
 * two ends must both be drained before either is closed. */
ZH_API int zh_port_open(const struct zh_port_config *config, struct zh_port **port, char *error);

struct zh_port_ceiling {
    uint64_t frames, bytes; /* that the device took */
    uint64_t nanoseconds;   /* in this time */
};

/* What the port itself can do: send equal frames of `size` bytes, Ethernet header included, to
 * `dst` for `duration` ns, as fast as it takes them; what it receives meanwhile is dropped. Blocks.
 */
ZH_API int zh_port_ceiling(struct zh_port *port, uint16_t size, const uint8_t dst[6],
                           uint64_t duration, struct zh_port_ceiling *ceiling, char *error);

/* What a wire does to the packets of one direction. Probabilities are of 0 to 1, times in ns. All
 * is drawn from the seed: the same packets at the same times meet the same fate. */
struct zh_fault {
    double loss, duplicate, corrupt; /* corrupt: one bit of the packet, after the Ethernet header */
    double reorder;                  /* this share is held back by reorder_delay */
    uint64_t reorder_delay;
    uint64_t delay, jitter; /* jitter: 0 to jitter more, without reordering */
    uint64_t rate;          /* bits per second, Ethernet header included; 0: no limit */
    uint32_t queue;         /* packets that may wait for the rate; more are dropped; 0: 1000 */
};

struct zh_injector; /* one direction of a wire, without devices */

/* Takes packets in at a time, gives them out at theirs. Owns what it holds, whose bytes must be
 * writable where packets are to be corrupted; `pool` is where duplicates come from. -EINVAL: a
 * probability is not one. One thread. */
ZH_API int zh_injector_create(const struct zh_fault *fault, uint64_t seed, struct rte_mempool *pool,
                              struct zh_injector **injector);
ZH_API void zh_injector_destroy(struct zh_injector *injector);
ZH_API void zh_injector_put(struct zh_injector *injector, struct rte_mbuf *packet, uint64_t now);
/* Packets whose time has come, at most `count`. */
ZH_API uint16_t zh_injector_get(struct zh_injector *injector, struct rte_mbuf **packets,
                                uint16_t count, uint64_t now);
/* When the next packet is due; UINT64_MAX: none is held. */
ZH_API uint64_t zh_injector_next(const struct zh_injector *injector);

struct zh_injector_stats {
    uint64_t put, got;
    uint64_t lost;    /* by `loss` */
    uint64_t dropped; /* by a full queue, or for want of memory */
    uint64_t duplicated, corrupted, reordered;
};

ZH_API void zh_injector_stats(const struct zh_injector *injector, struct zh_injector_stats *stats);

struct zh_wire_config {
    uint16_t mtu;             /* 0: 1500 */
    struct zh_fault fault[2]; /* [0]: from end 0 to end 1 */
    uint64_t seed;
    uint32_t packets;      /* in each end's pool; 0: 4096 */
    uint16_t max_segments; /* 0: 8 */
};

struct zh_wire;

/* Two ports joined in memory, in virtual time. What is sent into one end is copied into a packet of
 * the other end's pool, as a device does; where that is empty, or the packet is larger than the MTU
 * allows, the packet is dropped (rx_dropped, which counts what the faults took too). Nothing is
 * ever refused. The ends are closed with the wire; packets may be freed after that. */
ZH_API int zh_wire_create(const struct zh_wire_config *config, struct zh_wire **wire, char *error);
ZH_API void zh_wire_destroy(struct zh_wire *wire);
ZH_API struct zh_port *zh_wire_end(struct zh_wire *wire, int end);
/* The time of the packets sent and received from now on. */
ZH_API void zh_wire_set_now(struct zh_wire *wire, uint64_t now);
/* When the next packet arrives at an end; UINT64_MAX: none is under way. */
ZH_API uint64_t zh_wire_next(const struct zh_wire *wire);

static inline uint16_t zh_port_send(struct zh_port *port, struct rte_mbuf **packets, uint16_t count)
{
    return port->ops->send(port, packets, count);
}

static inline uint16_t zh_port_receive(struct zh_port *port, struct rte_mbuf **packets,
                                       uint16_t count)
{
    return port->ops->receive(port, packets, count);
}

static inline void zh_port_reclaim(struct zh_port *port)
{
    port->ops->reclaim(port);
}

static inline int zh_port_descriptor(struct zh_port *port)
{
    return port->ops->descriptor(port);
}

static inline bool zh_port_alive(struct zh_port *port)
{
    return port->ops->alive(port);
}

static inline void zh_port_stats(struct zh_port *port, struct zh_port_stats *stats)
{
    port->ops->stats(port, stats);
}

/* Packets that came from the port may be freed after this. */
static inline void zh_port_close(struct zh_port *port)
{
    port->ops->close(port);
}

#endif
