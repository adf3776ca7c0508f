/* The queue of segments that came out of order: sorted runs that neither overlap nor touch, each a
 * list of packets. RFC 9293 section 3.10.7.4, RFC 2018, RFC 2883. */
#include "tcp_reorder.h"

#include <rte_errno.h>
#include <stdlib.h>

enum { RUNS_MIN = 4 };

int tcp_meta_register(void)
{
    static const struct rte_mbuf_dynfield field = {
        .name = "zerohop_tcp_meta",
        .size = sizeof(struct tcp_meta),
        .align = _Alignof(struct tcp_meta),
    };
    int offset = rte_mbuf_dynfield_register(&field);
    return offset < 0 ? -rte_errno : offset;
}

struct rte_mbuf *tcp_packet_trim_front(struct rte_mbuf *packet, uint32_t bytes, int meta)
{
    while (bytes >= packet->data_len) {
        struct rte_mbuf *next = packet->next;
        bytes -= packet->data_len;
        next->pkt_len = packet->pkt_len - packet->data_len;
        next->nb_segs = (uint16_t)(packet->nb_segs - 1);
        *tcp_meta(next, meta) = *tcp_meta(packet, meta);
        rte_pktmbuf_free_seg(packet);
        packet = next;
    }
    rte_pktmbuf_adj(packet, (uint16_t)bytes);
    return packet;
}

void tcp_packet_trim_end(struct rte_mbuf *packet, uint32_t bytes)
{
    struct rte_mbuf *last = packet;
    uint32_t keep = packet->pkt_len - bytes;
    uint16_t segments = 1;
    packet->pkt_len = keep;
    for (; keep > last->data_len; segments++) {
        keep -= last->data_len;
        last = last->next;
    }
    last->data_len = (uint16_t)keep;
    rte_pktmbuf_free(last->next);
    last->next = NULL;
    packet->nb_segs = segments;
}

/* The first run that ends at `seq` or later; count: none does. Most segments follow the last run.
 */
static uint32_t find(const struct tcp_reorder *reorder, uint32_t seq)
{
    uint32_t low = 0, high = reorder->count;
    if (high > 0 && seq_geq(seq, reorder->runs[high - 1].end))
        return seq == reorder->runs[high - 1].end ? high - 1 : high;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (seq_lt(reorder->runs[middle].end, seq))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Runs that grew or were hit by duplicates, latest first; any byte stands for its run. */
static void note_recent(struct tcp_reorder *reorder, uint32_t seq, const struct tcp_run *run)
{
    unsigned at = 0;
    while (at < TCP_SACK_MAX - 1 && !seq_between(reorder->recent[at], run->start, run->end))
        at++;
    for (; at > 0; at--)
        reorder->recent[at] = reorder->recent[at - 1];
    reorder->recent[0] = seq;
}

static void remove_runs(struct tcp_reorder *reorder, uint32_t first, uint32_t count)
{
    reorder->count = (uint16_t)(reorder->count - count);
    memmove(reorder->runs + first, reorder->runs + first + count,
            (reorder->count - first) * sizeof *reorder->runs);
    if (reorder->count == 0) {
        free(reorder->runs);
        reorder->runs = NULL;
    }
}

/* Room for one more at `at`. The array's capacity is the power of two above the count, or more. */
static bool open_run(struct tcp_reorder *reorder, uint32_t at)
{
    uint32_t count = reorder->count;
    if (count == TCP_RUNS_MAX)
        return false;
    if (count == 0 || (count >= RUNS_MIN && (count & (count - 1)) == 0)) {
        uint32_t capacity = count ? count * 2 : RUNS_MIN;
        struct tcp_run *runs = realloc(reorder->runs, capacity * sizeof *runs);
        if (!runs)
            return false;
        reorder->runs = runs;
    }
    memmove(reorder->runs + at + 1, reorder->runs + at, (count - at) * sizeof *reorder->runs);
    reorder->count++;
    return true;
}

/* Put in [seq, end), which touches run `at` or lies before it, and overlaps none. */
static bool place(struct tcp_reorder *reorder, int meta, uint32_t at, struct rte_mbuf *packet,
                  uint32_t seq, uint32_t end)
{
    struct tcp_meta *m = tcp_meta(packet, meta);
    bool after = at < reorder->count && reorder->runs[at].end == seq;
    uint32_t next = after ? at + 1 : at;
    bool before = next < reorder->count && reorder->runs[next].start == end;

    *m = (struct tcp_meta){.seq = seq, .size = end - seq};
    if (after) {
        struct tcp_run *run = &reorder->runs[at];
        tcp_meta(run->tail, meta)->next = packet;
        run->tail = packet;
        run->end = end;
        if (before) {
            m->next = reorder->runs[next].head;
            run->tail = reorder->runs[next].tail;
            run->end = reorder->runs[next].end;
            remove_runs(reorder, next, 1);
        }
    } else if (before) {
        m->next = reorder->runs[next].head;
        reorder->runs[next].head = packet;
        reorder->runs[next].start = seq;
    } else {
        if (!open_run(reorder, at))
            return false;
        reorder->runs[at] = (struct tcp_run){seq, end, packet, packet};
    }
    reorder->memory += tcp_packet_memory(packet);
    note_recent(reorder, seq, &reorder->runs[at]);
    return true;
}

enum tcp_reorder_result tcp_reorder_insert(struct tcp_reorder *reorder, int meta,
                                           struct rte_mbuf *packet, uint32_t seq)
{
    uint32_t end = seq + packet->pkt_len, at = find(reorder, seq), next = at;
    struct tcp_sack_block duplicate = {0};

    if (at < reorder->count && seq_leq(reorder->runs[at].start, seq)) {
        const struct tcp_run *run = &reorder->runs[at];
        if (seq_leq(end, run->end)) {
            tcp_reorder_note_duplicate(reorder, seq, end);
            note_recent(reorder, seq, run);
            rte_pktmbuf_free(packet);
            return TCP_REORDER_DUPLICATE;
        }
        if (seq != run->end) {
            duplicate = (struct tcp_sack_block){seq, run->end};
            packet = tcp_packet_trim_front(packet, run->end - seq, meta);
            seq = run->end;
        }
        next++;
    }
    if (next < reorder->count && seq_lt(reorder->runs[next].start, end)) {
        const struct tcp_run *run = &reorder->runs[next];
        if (duplicate.start == duplicate.end)
            duplicate = (struct tcp_sack_block){run->start, seq_min(end, run->end)};
        tcp_packet_trim_end(packet, end - run->start);
        end = run->start;
    }
    if (!place(reorder, meta, at, packet, seq, end)) {
        rte_pktmbuf_free(packet);
        return TCP_REORDER_REFUSED;
    }
    if (duplicate.start != duplicate.end)
        reorder->duplicate = duplicate;
    return TCP_REORDER_ADDED;
}

/* Free the packets of a list that end at `seq` or before, and trim the one that `seq` cuts. Returns
 * what is left. */
static struct rte_mbuf *skip_to(struct tcp_reorder *reorder, int meta, struct rte_mbuf *packet,
                                uint32_t seq)
{
    while (packet) {
        struct tcp_meta m = *tcp_meta(packet, meta);
        if (seq_leq(seq, m.seq))
            break;
        if (seq_lt(seq, m.seq + m.size)) {
            uint32_t bytes = seq - m.seq, before = tcp_packet_memory(packet);
            packet = tcp_packet_trim_front(packet, bytes, meta);
            tcp_meta(packet, meta)->seq = seq;
            tcp_meta(packet, meta)->size = m.size - bytes;
            reorder->memory -= before - tcp_packet_memory(packet);
            break;
        }
        reorder->memory -= tcp_packet_memory(packet);
        rte_pktmbuf_free(packet);
        packet = m.next;
    }
    return packet;
}

uint32_t tcp_reorder_pop(struct tcp_reorder *reorder, int meta, uint32_t *rcv_nxt,
                         struct rte_mbuf **head, struct rte_mbuf **tail)
{
    uint32_t start = *rcv_nxt, passed = 0;
    *head = *tail = NULL;
    while (passed < reorder->count && seq_leq(reorder->runs[passed].start, *rcv_nxt)) {
        struct tcp_run *run = &reorder->runs[passed++];
        if (run->start != *rcv_nxt)
            tcp_reorder_note_duplicate(reorder, run->start, seq_min(run->end, *rcv_nxt));
        struct rte_mbuf *packet = skip_to(reorder, meta, run->head, *rcv_nxt);
        if (!packet)
            continue;
        /* Runs do not touch: the next one can begin at *rcv_nxt no more. */
        *head = packet;
        *tail = run->tail;
        /* Trimmed at the front, a run of one packet may have a new first mbuf. */
        if (!tcp_meta(packet, meta)->next)
            *tail = packet;
        for (; packet; packet = tcp_meta(packet, meta)->next)
            reorder->memory -= tcp_packet_memory(packet);
        *rcv_nxt = run->end;
    }
    if (passed)
        remove_runs(reorder, 0, passed);
    return *rcv_nxt - start;
}

unsigned tcp_reorder_sack(struct tcp_reorder *reorder, struct tcp_sack_block *blocks, unsigned most)
{
    unsigned count = 0, first = 0;
    if (most == 0)
        return 0;
    if (reorder->duplicate.start != reorder->duplicate.end) {
        blocks[count++] = reorder->duplicate;
        reorder->duplicate = (struct tcp_sack_block){0};
        first = 1;
    }
    /* The latest ones, then from the lowest on, each once. */
    for (unsigned i = 0; count < most && i < TCP_SACK_MAX + (unsigned)reorder->count; i++) {
        uint32_t seq =
            i < TCP_SACK_MAX ? reorder->recent[i] : reorder->runs[i - TCP_SACK_MAX].start;
        uint32_t at = find(reorder, seq + 1);
        if (at == reorder->count || seq_lt(seq, reorder->runs[at].start))
            continue;
        const struct tcp_run *run = &reorder->runs[at];
        unsigned j = first;
        while (j < count && blocks[j].start != run->start)
            j++;
        if (j == count)
            blocks[count++] = (struct tcp_sack_block){run->start, run->end};
    }
    return count;
}

void tcp_reorder_drop(struct tcp_reorder *reorder, int meta)
{
    for (uint32_t i = 0; i < reorder->count; i++) {
        struct rte_mbuf *packet = reorder->runs[i].head;
        while (packet) {
            struct rte_mbuf *next = tcp_meta(packet, meta)->next;
            rte_pktmbuf_free(packet);
            packet = next;
        }
    }
    free(reorder->runs);
    *reorder = (struct tcp_reorder){0};
}
