/* What DPDK's AF_XDP driver leaves behind when its port is closed: the packets in its rings,
 * without which the pool soon can serve nobody else, and at times the socket, which then holds the
 * interface's queue for as long as the process lives. */
#include "port_xdp.h"

#include <inttypes.h>
#include <linux/if_xdp.h>
#include <rte_errno.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LOST_MAX = 16384, MAPPINGS_MAX = 4 /* receive, send, fill, completion */ };

struct port_xdp_lost {
    int descriptor;
    ino_t inode;
    struct rte_mbuf *packets[LOST_MAX]; /* their count set to 0 meanwhile */
    unsigned count;
};

struct mapping {
    void *base;
    size_t size;
    uint64_t offset;
};

static ino_t inode_of(int descriptor)
{
    struct stat status;
    return fstat(descriptor, &status) == 0 ? status.st_ino : 0;
}

static unsigned find_mappings(ino_t inode, struct mapping *mappings)
{
    char line[512];
    unsigned count = 0;
    FILE *file = fopen("/proc/self/maps", "re");
    while (file && count < MAPPINGS_MAX && fgets(line, sizeof line, file)) {
        uint64_t start, end, offset, found;
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %" SCNx64 " %*s %" SCNu64, &start, &end,
                   &offset, &found) == 4 &&
            found == inode && strstr(line, "socket:["))
            mappings[count++] = (struct mapping){(void *)(uintptr_t)start, end - start, offset};
    }
    if (file)
        fclose(file);
    return count;
}

/* A frame's address, as the driver counts: from the pool's first page to the object. */
static struct rte_mbuf *find_packet(struct rte_mempool *pool, uint64_t address)
{
    struct rte_mempool_memhdr *memory = STAILQ_FIRST(&pool->mem_list);
    uintptr_t first = (uintptr_t)memory->addr & ~(uintptr_t)(getpagesize() - 1);
    uintptr_t object = first + (address & XSK_UNALIGNED_BUF_ADDR_MASK);
    if (object < (uintptr_t)memory->addr || object >= (uintptr_t)memory->addr + memory->len)
        return NULL;
    struct rte_mbuf *packet = (void *)(object + pool->header_size);
    return packet->pool == pool && rte_mbuf_refcnt_read(packet) == 1 ? packet : NULL;
}

/* What the ring holds between consumer and producer: addresses, or descriptors that begin with one.
 */
static void collect(const struct mapping *mapping, const struct xdp_ring_offset *at,
                    struct rte_mempool *pool, struct port_xdp_lost *lost)
{
    const uint8_t *base = mapping->base;
    uint32_t producer, consumer, size = 1;
    size_t entry =
        mapping->offset < XDP_UMEM_PGOFF_FILL_RING ? sizeof(struct xdp_desc) : sizeof(uint64_t);
    memcpy(&producer, base + at->producer, sizeof producer);
    memcpy(&consumer, base + at->consumer, sizeof consumer);
    /* A power of two; the rest of its last page is smaller. */
    while ((size_t)size * 2 * entry <= mapping->size - at->desc)
        size *= 2;
    if (producer - consumer > size)
        return;
    for (; consumer != producer && lost->count < LOST_MAX; consumer++) {
        uint64_t address;
        memcpy(&address, base + at->desc + (consumer & (size - 1)) * entry, sizeof address);
        struct rte_mbuf *packet = find_packet(pool, address);
        if (packet) {
            rte_mbuf_refcnt_set(packet, 0);
            lost->packets[lost->count++] = packet;
        }
    }
}

struct port_xdp_lost *port_xdp_before_close(int descriptor, struct rte_mempool *pool)
{
    struct mapping mappings[MAPPINGS_MAX];
    struct xdp_mmap_offsets offsets;
    socklen_t size = sizeof offsets;
    struct port_xdp_lost *lost = calloc(1, sizeof *lost);
    if (!lost)
        return NULL;
    lost->descriptor = descriptor;
    lost->inode = inode_of(descriptor);
    if (!lost->inode || getsockopt(descriptor, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &size) != 0)
        return lost;
    unsigned count = find_mappings(lost->inode, mappings);
    /* The kernel moves packets from the fill ring to the receive ring, and from the send ring to
     * the completion ring: in this order none is missed, and what is seen twice is taken once. */
    static const uint64_t order[] = {XDP_UMEM_PGOFF_FILL_RING, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING,
                                     XDP_UMEM_PGOFF_COMPLETION_RING};
    const struct xdp_ring_offset *at[] = {&offsets.fr, &offsets.rx, &offsets.tx, &offsets.cr};
    for (unsigned i = 0; i < 4; i++)
        for (unsigned j = 0; j < count; j++)
            if (mappings[j].offset == order[i])
                collect(&mappings[j], at[i], pool, lost);
    return lost;
}

void port_xdp_after_close(struct port_xdp_lost *lost)
{
    struct mapping mappings[MAPPINGS_MAX];
    if (!lost)
        return;
    if (lost->inode && inode_of(lost->descriptor) == lost->inode) {
        unsigned count = find_mappings(lost->inode, mappings);
        for (unsigned i = 0; i < count; i++)
            munmap(mappings[i].base, mappings[i].size);
        close(lost->descriptor);
    }
    for (unsigned i = 0; i < lost->count; i++) {
        rte_mbuf_refcnt_set(lost->packets[i], 1);
        rte_pktmbuf_free(lost->packets[i]);
    }
    free(lost);
}
