/* A wire in memory: two ports, each sending into an injector that the other receives from. The
 * packet is copied into the receiver's pool when it is sent, as a device does, and the sender's
 * buffers are free from then on. */
#include <errno.h>
#include <rte_errno.h>
#include <rte_mbuf.h>
#include <stdlib.h>
#include <string.h>

#include "eal.h"
#include "pool.h"
#include "zerohop/port.h"

enum {
    ETHER_HEADER = 14,
    MTU_DEFAULT = 1500,
    MTU_MIN = 68, /* RFC 791 section 3.2: every host forwards this */
    PACKETS_DEFAULT = 4096,
    SEGMENTS_DEFAULT = 8,
    BATCH = 64,
};

struct wire_end {
    struct zh_port port; /* first */
    struct zh_wire *wire;
    struct zh_injector *arriving; /* what the other end sent */
    struct zh_port_stats stats;
};

struct zh_wire {
    struct wire_end ends[2];
    uint64_t now;
};

static struct wire_end *other_end(struct wire_end *end)
{
    return &end->wire->ends[end == end->wire->ends];
}

static void copy_packet(const struct rte_mbuf *from, struct rte_mbuf *to)
{
    uint8_t *data = rte_pktmbuf_mtod(to, uint8_t *);
    to->pkt_len = from->pkt_len;
    to->data_len = (uint16_t)from->pkt_len;
    for (; from; from = from->next) {
        memcpy(data, rte_pktmbuf_mtod(from, const void *), from->data_len);
        data += from->data_len;
    }
}

static void send_batch(struct wire_end *from, struct wire_end *to, struct rte_mbuf **packets,
                       uint16_t count)
{
    struct rte_mbuf *copies[BATCH];
    uint16_t used = 0, room = count;
    if (rte_pktmbuf_alloc_bulk(to->port.pool, copies, count) != 0)
        for (room = 0; room < count; room++)
            if (!(copies[room] = rte_pktmbuf_alloc(to->port.pool)))
                break;
    for (uint16_t i = 0; i < count; i++) {
        from->stats.tx_bytes += packets[i]->pkt_len;
        if (used == room || packets[i]->pkt_len > (uint32_t)to->port.mtu + ETHER_HEADER) {
            to->stats.rx_dropped++;
            continue;
        }
        RTE_ASSERT(packets[i]->nb_segs <= from->port.max_segments);
        copy_packet(packets[i], copies[used]);
        zh_injector_put(to->arriving, copies[used++], from->wire->now);
    }
    from->stats.tx_packets += count;
    rte_pktmbuf_free_bulk(copies + used, room - used);
    rte_pktmbuf_free_bulk(packets, count);
}

static uint16_t wire_send(struct zh_port *port, struct rte_mbuf **packets, uint16_t count)
{
    struct wire_end *from = (struct wire_end *)port, *to = other_end(from);
    for (uint16_t sent = 0; sent < count; sent += BATCH)
        send_batch(from, to, packets + sent, RTE_MIN(count - sent, BATCH));
    return count;
}

static uint16_t wire_receive(struct zh_port *port, struct rte_mbuf **packets, uint16_t count)
{
    struct wire_end *end = (struct wire_end *)port;
    uint16_t got = zh_injector_get(end->arriving, packets, count, end->wire->now);
    for (uint16_t i = 0; i < got; i++)
        end->stats.rx_bytes += packets[i]->pkt_len;
    end->stats.rx_packets += got;
    return got;
}

static void wire_reclaim(struct zh_port *port)
{
    (void)port;
}

static int wire_descriptor(struct zh_port *port)
{
    (void)port;
    return -1;
}

static bool wire_alive(struct zh_port *port)
{
    (void)port;
    return true;
}

static void wire_stats(struct zh_port *port, struct zh_port_stats *stats)
{
    struct wire_end *end = (struct wire_end *)port;
    struct zh_injector_stats lost;
    zh_injector_stats(end->arriving, &lost);
    *stats = end->stats;
    stats->rx_dropped += lost.lost + lost.dropped;
}

static void wire_close(struct zh_port *port)
{
    (void)port; /* with the wire */
}

static const struct zh_port_ops wire_ops = {
    .send = wire_send,
    .receive = wire_receive,
    .reclaim = wire_reclaim,
    .descriptor = wire_descriptor,
    .alive = wire_alive,
    .stats = wire_stats,
    .close = wire_close,
};

static int create_end(struct zh_wire *wire, int index, const struct zh_wire_config *config,
                      char *error)
{
    static const char *const names[2] = {"wire0", "wire1"};
    struct wire_end *end = &wire->ends[index];
    uint32_t packets = config->packets ? config->packets : PACKETS_DEFAULT;
    end->wire = wire;
    end->port = (struct zh_port){
        .ops = &wire_ops,
        .name = names[index],
        /* The second bit of the first byte: of local meaning (IEEE 802 section 8.2). */
        .mac = {0x02, 'z', 'h', 0, 0, (uint8_t)(index + 1)},
        .mtu = config->mtu ? config->mtu : MTU_DEFAULT,
        .max_segments = config->max_segments ? config->max_segments : SEGMENTS_DEFAULT,
    };
    if (end->port.mtu < MTU_MIN || end->port.mtu > UINT16_MAX - RTE_PKTMBUF_HEADROOM - ETHER_HEADER)
        return eal_error(error, -EINVAL, "a wire's MTU is %d to %d, not %u", MTU_MIN,
                         UINT16_MAX - RTE_PKTMBUF_HEADROOM - ETHER_HEADER, end->port.mtu);
    end->port.pool = net_pool_create(packets, end->port.mtu + ETHER_HEADER, false);
    if (!end->port.pool)
        return eal_error(error, -rte_errno,
                         "no memory for a wire's %u packets of %u bytes: ask for fewer, or start "
                         "DPDK with more (the argument -m MEGABYTES)",
                         packets, end->port.mtu);
    /* Seeds of the two directions that differ in all bits on average. */
    int result =
        zh_injector_create(&config->fault[1 - index],
                           config->seed ^ (UINT64_C(0xd1b54a32d192ed03) * (uint64_t)(1 + index)),
                           end->port.pool, &end->arriving);
    if (result != 0)
        return eal_error(error, result,
                         "a wire's faults: %s (probabilities are numbers from 0 to 1)",
                         strerror(-result));
    return 0;
}

int zh_wire_create(const struct zh_wire_config *config, struct zh_wire **out, char *error)
{
    int result = zh_eal_start(NULL, error);
    if (result != 0)
        return result;
    struct zh_wire *wire = calloc(1, sizeof *wire);
    if (!wire)
        return eal_error(error, -ENOMEM, "no memory for a wire");
    for (int i = 0; i < 2 && result == 0; i++)
        result = create_end(wire, i, config, error);
    if (result != 0) {
        zh_wire_destroy(wire);
        return result;
    }
    *out = wire;
    return 0;
}

void zh_wire_destroy(struct zh_wire *wire)
{
    if (!wire)
        return;
    for (int i = 0; i < 2 && !eal_is_forked(); i++) {
        zh_injector_destroy(wire->ends[i].arriving);
        net_pool_retire(wire->ends[i].port.pool);
    }
    free(wire);
}

struct zh_port *zh_wire_end(struct zh_wire *wire, int end)
{
    return &wire->ends[end].port;
}

void zh_wire_set_now(struct zh_wire *wire, uint64_t now)
{
    wire->now = now;
}

uint64_t zh_wire_next(const struct zh_wire *wire)
{
    uint64_t first = zh_injector_next(wire->ends[0].arriving);
    uint64_t second = zh_injector_next(wire->ends[1].arriving);
    return first < second ? first : second;
}
