/* What goes over the port, written to a file that tcpdump and Wireshark read: libpcap's format with
 * times in ns (draft-ietf-opsawg-pcap section 4: magic 0xa1b23c4d). */
#include <stdio.h>
#include <stdlib.h>

#include "stack.h"

enum {
    LINK_ETHERNET = 1, /* LINKTYPE_ETHERNET */
    SNAP_LENGTH = 65535 + 14,
    FLUSH_INTERVAL = 100 * NET_MS,
};
#define PCAP_MAGIC_NS UINT32_C(0xa1b23c4d)

struct pcap {
    FILE *file; /* owned */
    uint64_t clock_offset;
    uint64_t flushed_at;
};

struct pcap_file {
    uint32_t magic;
    uint16_t major, minor;
    uint32_t reserved[2];
    uint32_t snap_length, link_type;
};

struct pcap_record {
    uint32_t seconds, nanoseconds, captured, length;
};

int zh_net_capture(struct zh_net *net, int fd, uint64_t clock_offset)
{
    if (fd < 0) {
        int result = 0;
        if (net->pcap && fclose(net->pcap->file) != 0)
            result = -errno;
        free(net->pcap);
        net->pcap = NULL;
        return result;
    }
    if (net->pcap)
        return -EBUSY;
    struct pcap *pcap = calloc(1, sizeof *pcap);
    if (!pcap)
        return -ENOMEM;
    pcap->clock_offset = clock_offset;
    pcap->file = fdopen(fd, "w");
    if (!pcap->file) {
        int error = -errno;
        free(pcap);
        return error;
    }
    struct pcap_file header = {.magic = PCAP_MAGIC_NS,
                               .major = 2,
                               .minor = 4,
                               .snap_length = SNAP_LENGTH,
                               .link_type = LINK_ETHERNET};
    fwrite(&header, sizeof header, 1, pcap->file);
    net->pcap = pcap;
    return 0;
}

void pcap_write(struct zh_net *net, const struct rte_mbuf *packet)
{
    struct pcap *pcap = net->pcap;
    uint64_t time = net->now + pcap->clock_offset;
    uint32_t size = RTE_MIN(packet->pkt_len, (uint32_t)SNAP_LENGTH), left = size;
    struct pcap_record record = {.seconds = (uint32_t)(time / NET_SECOND),
                                 .nanoseconds = (uint32_t)(time % NET_SECOND),
                                 .captured = size,
                                 .length = packet->pkt_len};
    fwrite(&record, sizeof record, 1, pcap->file);
    for (const struct rte_mbuf *part = packet; part && left; part = part->next) {
        uint32_t step = RTE_MIN((uint32_t)part->data_len, left);
        fwrite(rte_pktmbuf_mtod(part, const void *), 1, step, pcap->file);
        left -= step;
    }
}

void pcap_flush(struct zh_net *net)
{
    if (net->now - net->pcap->flushed_at < FLUSH_INTERVAL)
        return;
    net->pcap->flushed_at = net->now;
    fflush(net->pcap->file);
}
