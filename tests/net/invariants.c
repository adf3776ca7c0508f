#include "invariants.h"

#include "check.h"
#include "net/tcp_conn.h"
#include "net/tcp_reorder.h"

static int meta;

static void check_queue(const struct zh_net_socket *s)
{
    const struct tcp_queue *queue = &s->queue;
    uint64_t at = 0;
    CHECK(s->una_offset <= s->nxt_offset && s->nxt_offset <= queue->end);
    for (uint32_t i = 0; i < queue->count; i++) {
        const struct tcp_chunk *chunk = &queue->chunks[(queue->first + i) & (queue->capacity - 1)];
        CHECK(i == 0 || chunk->start == at);
        if (i == 0)
            CHECK(chunk->start <= s->una_offset);
        at = chunk->start + chunk->size;
        CHECK(at > s->una_offset);
        CHECK(rte_mbuf_ext_refcnt_read(&chunk->loan->shared) > 0);
    }
    if (queue->count)
        CHECK(at == queue->end);
    else if (tcp_synchronized(s))
        CHECK(s->una_offset == queue->end);
}

static void check_sent(const struct zh_net_socket *s)
{
    const struct tcp_sent_ring *ring = &s->sent;
    uint32_t at = s->snd_una, sacked = 0, lost = 0, records = 0;
    for (uint32_t i = 0; i < ring->count; i++) {
        const struct tcp_sent *record = tcp_sent_at(ring, i);
        CHECK(record->seq == at);
        CHECK(seq_lt(record->seq, record->end));
        CHECK(record->transmissions > 0);
        CHECK(record->sent_at <= s->net->now);
        CHECK(!(record->flags & TCP_SENT_SACKED) || !(record->flags & TCP_SENT_LOST));
        at = record->end;
        if (record->flags & TCP_SENT_SACKED) {
            sacked += record->end - record->seq;
            records++;
        }
        if (record->flags & TCP_SENT_LOST)
            lost += record->end - record->seq;
    }
    CHECK_EQ(at, s->snd_nxt);
    CHECK_EQ(sacked, ring->bytes_sacked);
    CHECK_EQ(lost, ring->bytes_lost);
    CHECK_EQ(records, ring->records_sacked);
}

static void check_received(struct zh_net_socket *s)
{
    uint32_t bytes = 0;
    uint64_t memory = 0;
    struct rte_mbuf *last = NULL;
    for (struct rte_mbuf *m = s->rcv_head; m; m = tcp_meta(m, meta)->next) {
        CHECK(m->pkt_len > 0);
        CHECK_EQ(m->pkt_len, tcp_meta(m, meta)->size);
        bytes += m->pkt_len;
        memory += tcp_packet_memory(m);
        last = m;
    }
    CHECK(last == s->rcv_tail);
    CHECK_EQ(bytes, s->rcv_queued);
    CHECK_EQ(memory, s->rcv_memory);
    memory = 0;
    CHECK(s->reorder.count <= TCP_RUNS_MAX);
    for (uint32_t i = 0; i < s->reorder.count; i++) {
        const struct tcp_run *run = &s->reorder.runs[i];
        uint32_t at = run->start;
        CHECK(seq_gt(run->start, s->rcv_nxt));
        CHECK(seq_lt(run->start, run->end) && seq_leq(run->end, s->rcv_advertised));
        if (i)
            CHECK(seq_gt(run->start, s->reorder.runs[i - 1].end));
        for (struct rte_mbuf *m = run->head; m; m = tcp_meta(m, meta)->next) {
            CHECK_EQ(tcp_meta(m, meta)->seq, at);
            CHECK_EQ(tcp_meta(m, meta)->size, m->pkt_len);
            at += m->pkt_len;
            memory += tcp_packet_memory(m);
            if (!tcp_meta(m, meta)->next)
                CHECK(m == run->tail);
        }
        CHECK_EQ(at, run->end);
    }
    CHECK_EQ(memory, s->reorder.memory);
    CHECK(s->rcv_memory + memory <= 2ull * s->rcv_budget + UINT16_MAX + 256);
    CHECK(!s->account || atomic_load(&s->account->taken) >= 0);
}

static void check_socket(struct zh_net_socket *s)
{
    check_received(s);
    if (s->state == TCPS_CLOSED || s->state == TCPS_LISTEN) {
        CHECK(!s->sent.count && !s->timer.index);
        return;
    }
    CHECK(s->flags & TCP_IN_TABLE);
    CHECK(tcp_table_find(s->net, &s->entry.flow) == &s->entry);
    CHECK(seq_leq(s->snd_una, s->snd_nxt));
    check_sent(s);
    for (int i = 0; i < TCP_DEADLINES; i++)
        if (s->deadline[i])
            CHECK(s->timer.index && s->timer.deadline <= s->deadline[i]);
    if (!tcp_synchronized(s))
        return;
    check_queue(s);
    CHECK_EQ(s->snd_nxt - s->snd_una,
             s->nxt_offset - s->una_offset +
                 (s->flags & TCP_FIN_SENT && s->snd_una != s->snd_nxt ? 1 : 0));
    CHECK(seq_leq(s->rcv_nxt, s->rcv_advertised));
    CHECK(seq_leq(s->last_ack_sent, s->rcv_nxt));
    CHECK(s->cwnd > 0 && s->mss > 0);
    /* Nothing waits for an ACK without a timer. */
    if (s->sent.count)
        CHECK(s->deadline[TCP_DEADLINE_RTO] || s->flags & TCP_QUEUED_OUT);
}

void check_invariants(struct zh_net *net)
{
    struct tcp *tcp = net->tcp;
    struct zh_net_socket *s;
    struct tcp_request *request;
    struct tcp_time_wait *entry;
    uint32_t sockets = 0, requests = 0, waits = 0, entries = 0, in_table = 0;
    meta = tcp_receive_register();
    TAILQ_FOREACH(s, &tcp->all, all_link)
    {
        sockets++;
        in_table += !!(s->flags & TCP_IN_TABLE);
        check_socket(s);
    }
    CHECK_EQ(sockets, tcp->sockets);
    TAILQ_FOREACH(s, &tcp->listeners, accept_link)
    {
        uint32_t count = 0, accepted = 0;
        struct zh_net_socket *other;
        TAILQ_FOREACH(request, &s->listener->requests, link)
        count++;
        TAILQ_FOREACH(other, &s->listener->accepted, accept_link)
        accepted++;
        CHECK_EQ(count, s->listener->request_count);
        CHECK_EQ(accepted, s->listener->accepted_count);
        requests += count;
    }
    CHECK_EQ(requests, tcp->requests);
    TAILQ_FOREACH(entry, &tcp->time_wait, link)
    waits++;
    CHECK_EQ(waits, tcp->time_waits);
    for (uint32_t i = 0; i <= tcp->bucket_mask; i++)
        for (struct tcp_entry *e = tcp->buckets[i]; e; e = e->next)
            entries++;
    CHECK_EQ(entries, in_table + requests + waits);
    for (uint32_t i = 0; i < net->timers.count; i++) {
        CHECK_EQ(net->timers.heap[i]->index, i + 1);
        CHECK(!i || net->timers.heap[(i - 1) / 4]->deadline <= net->timers.heap[i]->deadline);
    }
}
