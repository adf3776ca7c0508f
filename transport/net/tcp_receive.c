/* Received payload: in order to the application, out of order to the reorder runs; and the window.
 *
 * The window is an amount of packet memory, not of payload: what queued, reordered and taken
 * packets occupy is counted by their buffers, and the window says how much payload the rest will
 * hold at the ratio that full segments have had. */
#include <stdlib.h>

#include "tcp_conn.h"
#include "tcp_pressure.h"
#include "tcp_reorder.h"

enum {
    QUICK_ACKS = 16,  /* at the start of a connection, so that the peer's window grows (as Linux) */
    ACK_SEGMENTS = 2, /* RFC 9293 section 3.8.6.3: at least every second full-sized segment */
    COPY_MIN = 4096,  /* bytes of a buffer for copies of what comes in order */
    BURST_SEGMENTS = 16, /* at most this many in one ACK of a burst, or 1/8 of the window */
};

/* Of struct tcp_meta; the same for every stack, since zh_net_release is told of none. */
static int meta_offset;

int tcp_receive_register(void)
{
    int meta = tcp_meta_register();
    if (meta >= 0)
        meta_offset = meta;
    return meta;
}

static struct tcp_meta *meta_of(struct rte_mbuf *packet)
{
    return tcp_meta(packet, meta_offset);
}

static uint64_t held(const struct zh_net_socket *s)
{
    uint64_t memory = s->rcv_memory + s->reorder.memory;
    if (s->account)
        memory += (uint64_t)atomic_load_explicit(&s->account->taken, memory_order_relaxed);
    return memory;
}

/* The payload for which there is room, as far as a window can say so. */
static uint32_t window_room(const struct zh_net_socket *s)
{
    uint64_t used = held(s), most = (uint64_t)UINT16_MAX << s->rcv_shift;
    uint64_t room = used < s->rcv_budget ? (s->rcv_budget - used) * s->rcv_ratio / 256 : 0;
    return (uint32_t)(room < most ? room : most);
}

uint32_t tcp_receive_window(struct zh_net_socket *s)
{
    uint32_t known = s->rcv_advertised - s->rcv_nxt; /* never taken back (RFC 9293 section 3.8.6) */
    uint32_t window = window_room(s);
    /* Silly window avoidance (section 3.8.6.2.2): the edge moves by a segment or half the budget.
     */
    uint64_t half = (uint64_t)s->rcv_budget * s->rcv_ratio / 512;
    uint32_t step = s->rcv_mss < half ? s->rcv_mss : (uint32_t)half;
    if (window < known + step)
        window = known;
    window = window >> s->rcv_shift << s->rcv_shift;
    if (window < known) /* rounding down must not take back either */
        window = known;
    s->rcv_advertised = s->rcv_nxt + window;
    bool closed = window < s->rcv_mss;
    s->flags = closed ? s->flags | TCP_NO_WINDOW : s->flags & ~TCP_NO_WINDOW;
    if (closed && !(s->flags & TCP_STARVED)) {
        s->flags |= TCP_STARVED;
        TAILQ_INSERT_TAIL(&s->net->tcp->starved, s, starved_link);
    }
    return window;
}

void tcp_receive_room(struct zh_net_socket *s)
{
    if (!tcp_synchronized(s) || s->flags & TCP_FIN_RECEIVED)
        return;
    uint32_t known = s->rcv_advertised - s->rcv_nxt, room = window_room(s);
    /* A window that was closed opens as soon as there is room for a segment; one that is open is
     * left to the ACKs that come anyway, until half of it is news. */
    bool tell = s->flags & TCP_NO_WINDOW ? room >= s->rcv_mss + (uint64_t)known
                                         : room >= 2ull * known + s->rcv_mss;
    if (tell) {
        s->flags |= TCP_ACK_NOW;
        tcp_want_output(s);
    }
}

/* Packets may be given back by any thread, which tells nobody: those whose window was closed are
 * looked at in each round. */
bool tcp_receive_poll(struct zh_net *net)
{
    struct zh_net_socket *s, *next;
    for (s = TAILQ_FIRST(&net->tcp->starved); s; s = next) {
        next = TAILQ_NEXT(s, starved_link);
        tcp_receive_room(s);
        if (!(s->flags & TCP_NO_WINDOW) || !tcp_synchronized(s)) {
            s->flags &= ~TCP_STARVED;
            TAILQ_REMOVE(&net->tcp->starved, s, starved_link);
        }
    }
    return !TAILQ_EMPTY(&net->tcp->starved);
}

/* A step of an eighth each time, so that one odd segment changes little. */
static void learn_ratio(struct zh_net_socket *s, uint32_t size, uint32_t memory)
{
    if (size < s->rcv_mss)
        return;
    s->rcv_mss = size > UINT16_MAX ? UINT16_MAX : (uint16_t)size;
    uint32_t ratio = (uint32_t)((uint64_t)size * 256 / memory);
    if (!ratio)
        ratio = 1;
    s->rcv_ratio = (uint16_t)(s->rcv_ratio + ((int)ratio - (int)s->rcv_ratio) / 8);
}

/* Queue packets that are in order, linked by their meta. */
static void append(struct zh_net_socket *s, struct rte_mbuf *head, struct rte_mbuf *tail,
                   uint32_t size, uint32_t memory)
{
    if (s->rcv_tail)
        meta_of(s->rcv_tail)->next = head;
    else
        s->rcv_head = head;
    s->rcv_tail = tail;
    s->rcv_nxt += size;
    s->rcv_queued += size;
    s->rcv_memory += memory;
    s->bytes_received += size;
}

/* A small packet joins the one before it, so that a peer's tiny segments cannot hold a buffer each.
 * Only when the connection holds much already: alone it is left where it lies. Any packet does,
 * when there are few left. */
static bool coalesce(struct zh_net_socket *s, struct rte_mbuf *packet, uint32_t size)
{
    struct rte_mbuf *tail = s->rcv_tail;
    bool wanted =
        s->net->tcp->pressure.low || (size <= TCP_COPY_MAX && held(s) >= s->rcv_budget / 4);
    if (!tail || !wanted || tail->next || rte_mbuf_refcnt_read(tail) != 1 ||
        !(RTE_MBUF_DIRECT(tail) || tcp_pressure_made(s->net, tail)) ||
        rte_pktmbuf_tailroom(tail) < size)
        return false;
    const void *data =
        rte_pktmbuf_read(packet, 0, size, rte_pktmbuf_mtod_offset(tail, void *, tail->data_len));
    void *to = rte_pktmbuf_append(tail, (uint16_t)size);
    if (data != to)
        memcpy(to, data, size);
    meta_of(tail)->size += size;
    s->rcv_nxt += size;
    s->rcv_queued += size;
    s->bytes_received += size;
    tcp_count_copied(s, size);
    return true;
}

static void ack_at_once(struct zh_net_socket *s)
{
    s->flags |= TCP_ACK_NOW;
    tcp_want_output(s);
}

/* When is the data just received acknowledged (RFC 9293 section 3.8.6.3, RFC 5681 section 4.2)? */
static void schedule_ack(struct zh_net_socket *s, uint32_t size)
{
    s->unacked += size;
    s->unacked_segments++;
    if (s->quick_acks) {
        s->quick_acks--;
        ack_at_once(s);
    } else if (s->unacked >= (uint32_t)ACK_SEGMENTS * s->rcv_mss) {
        ack_at_once(s);
    } else if (!s->deadline[TCP_DEADLINE_ACK]) {
        tcp_deadline_set(s, TCP_DEADLINE_ACK, s->net->now + s->net->config.delayed_ack);
    }
    /* Within a burst the ACK waits for its end, but not for too much of it. */
    if (s->flags & TCP_ACK_NOW && (s->unacked_segments >= BURST_SEGMENTS ||
                                   s->unacked >= (s->rcv_advertised - s->rcv_nxt) / 8))
        tcp_send_ack(s);
}

/* Take the packet out of the segment, its payload cut to [seq, seq + size). */
static struct rte_mbuf *cut(struct tcp_segment *segment, uint32_t seq, uint32_t size)
{
    struct rte_mbuf *packet = segment->packet;
    segment->packet = NULL;
    if (seq != segment->seq)
        packet = tcp_packet_trim_front(packet, seq - segment->seq, meta_offset);
    if (packet->pkt_len != size)
        tcp_packet_trim_end(packet, packet->pkt_len - size);
    *meta_of(packet) = (struct tcp_meta){.seq = seq, .size = size};
    return packet;
}

/* What was out of order may follow now. */
static void pull(struct zh_net_socket *s)
{
    struct rte_mbuf *head, *tail;
    uint32_t rcv_nxt = s->rcv_nxt, memory = 0;
    uint32_t size = tcp_reorder_pop(&s->reorder, meta_offset, &rcv_nxt, &head, &tail);
    if (!size)
        return;
    for (struct rte_mbuf *packet = head; packet; packet = meta_of(packet)->next)
        memory += tcp_packet_memory(packet);
    append(s, head, tail, size, memory);
}

void tcp_receive_renege(struct zh_net_socket *s)
{
    tcp_reorder_drop(&s->reorder, meta_offset);
}

/* A packet that is to be kept: itself, or while the port has few left a copy, with `room` for more.
 * NULL: no memory, and the packet is the caller's still. */
static struct rte_mbuf *keep(struct zh_net_socket *s, struct rte_mbuf *packet, uint32_t room)
{
    s->net->tcp->pressure.kept++;
    if (likely(!s->net->tcp->pressure.low))
        return packet;
    struct rte_mbuf *copy = tcp_pressure_copy(s->net, packet, held(s), room);
    if (!copy)
        return NULL;
    *meta_of(copy) = *meta_of(packet);
    tcp_count_copied(s, packet->pkt_len);
    rte_pktmbuf_free(packet);
    return copy;
}

/* The window has bounded payload; packets emptier than was reckoned can still be too many. */
static bool is_full(const struct zh_net_socket *s, uint32_t memory)
{
    return held(s) + memory > 2ull * s->rcv_budget;
}

/* Payload in order joins the queue. False: there is no memory for it. Takes the packet. */
static bool enqueue(struct zh_net_socket *s, struct rte_mbuf *packet, uint32_t size)
{
    if (coalesce(s, packet, size)) {
        rte_pktmbuf_free(packet);
        return true;
    }
    /* Twice as much as the copy before, which is full. */
    bool more = s->rcv_tail && tcp_pressure_made(s->net, s->rcv_tail);
    uint32_t room = more ? 2u * s->rcv_tail->buf_len : COPY_MIN, memory = tcp_packet_memory(packet);
    struct rte_mbuf *kept = is_full(s, memory) ? NULL : keep(s, packet, room);
    if (!kept && s->reorder.count) { /* nothing else would ever let the connection go on */
        tcp_receive_renege(s);
        kept = is_full(s, memory) ? NULL : keep(s, packet, room);
    }
    if (!kept) {
        rte_pktmbuf_free(packet);
        return false;
    }
    append(s, kept, kept, size, tcp_packet_memory(kept));
    return true;
}

static void drop(struct zh_net_socket *s)
{
    s->net->stats.tcp_in_dropped++;
    ack_at_once(s);
}

/* Each duplicate is reported by an ACK of its own (RFC 2883 section 4): the one before goes now. */
static void report_duplicate(struct zh_net_socket *s)
{
    if (s->reorder.duplicate.start != s->reorder.duplicate.end)
        tcp_send_ack(s);
}

static void receive_payload(struct zh_net_socket *s, struct tcp_segment *segment)
{
    struct zh_net *net = s->net;
    uint32_t seq = segment->seq, end = seq + segment->size;
    uint32_t first = seq_max(seq, s->rcv_nxt), last = seq_min(end, s->rcv_advertised);
    if (seq_geq(first, last)) { /* nothing new, or nothing that fits */
        if (seq_geq(s->rcv_nxt, end)) {
            net->stats.tcp_in_duplicate++;
            report_duplicate(s);
            tcp_reorder_note_duplicate(&s->reorder, seq, end);
        } else {
            net->stats.tcp_in_out_of_window++;
        }
        ack_at_once(s);
        return;
    }
    uint32_t size = last - first, memory = tcp_packet_memory(segment->packet);
    if (s->flags & TCP_SHUT_READ) { /* acknowledged and thrown away, as Linux */
        if (first == s->rcv_nxt) {
            s->rcv_nxt += size;
            tcp_receive_renege(s);
        }
        ack_at_once(s);
        return;
    }
    learn_ratio(s, segment->size, memory);
    report_duplicate(s);
    if (seq_lt(seq, first)) /* RFC 2883 section 4: of the segment, what was there already */
        tcp_reorder_note_duplicate(&s->reorder, seq, first);
    if (first == s->rcv_nxt) {
        if (!enqueue(s, cut(segment, first, size), size)) {
            drop(s);
            return;
        }
        bool filled = s->reorder.count;
        if (filled) {
            pull(s);
            ack_at_once(s); /* RFC 5681 section 4.2: a gap filled, wholly or in part */
        }
        schedule_ack(s, size);
        tcp_notify(s);
        return;
    }
    if (is_full(s, memory)) {
        drop(s);
        return;
    }
    net->stats.tcp_in_out_of_order++;
    enum tcp_reorder_result result = TCP_REORDER_REFUSED;
    struct rte_mbuf *packet = cut(segment, first, size), *kept = keep(s, packet, size);
    if (kept)
        result = tcp_reorder_insert(&s->reorder, meta_offset, kept, first);
    else
        rte_pktmbuf_free(packet);
    if (result == TCP_REORDER_REFUSED)
        net->stats.tcp_in_dropped++;
    else if (result == TCP_REORDER_DUPLICATE)
        net->stats.tcp_in_duplicate++;
    ack_at_once(s);
    tcp_send_ack(s); /* one for each, so that the peer can count them (RFC 5681 section 4.2) */
}

void tcp_receive(struct zh_net_socket *s, struct tcp_segment *segment)
{
    if (segment->size && s->flags & TCP_FIN_RECEIVED)
        ack_at_once(s); /* nothing comes after the end (RFC 9293 section 3.10.7.4, seventh) */
    else if (segment->size)
        receive_payload(s, segment);
    if (segment->flags & TCP_FIN && !(s->flags & TCP_FIN_RECEIVED)) {
        s->fin_seq = segment->seq + segment->size;
        s->has_fin_seq = true;
        if (!segment->size && s->fin_seq != s->rcv_nxt) /* out of order, as data would be */
            tcp_send_ack(s);
    }
    if (s->has_fin_seq && s->fin_seq == s->rcv_nxt && !(s->flags & TCP_FIN_RECEIVED)) {
        s->rcv_nxt++;
        if (seq_lt(s->rcv_advertised, s->rcv_nxt))
            s->rcv_advertised = s->rcv_nxt;
        s->flags |= TCP_FIN_RECEIVED;
        s->has_fin_seq = false;
        tcp_receive_renege(s);
        ack_at_once(s);
    }
}

void tcp_receive_unacceptable(struct zh_net_socket *s, const struct tcp_segment *segment)
{
    uint32_t end = tcp_segment_end(segment);
    if (seq_leq(end, s->rcv_nxt)) {
        s->net->stats.tcp_in_duplicate++;
        if (segment->size) {
            report_duplicate(s);
            tcp_reorder_note_duplicate(&s->reorder, segment->seq, segment->seq + segment->size);
        }
    } else {
        s->net->stats.tcp_in_out_of_window++;
    }
    ack_at_once(s);
}

void tcp_receive_start(struct zh_net_socket *s)
{
    s->quick_acks = QUICK_ACKS;
}

/* --- what the application takes --------------------------------------------------------------- */

/* Any thread: the memory is the pool's again, and the connection may offer it to its peer. */
void zh_net_release(struct zh_stream_segment *segment)
{
    struct rte_mbuf *packet = segment->owner;
    struct tcp_account *account = meta_of(packet)->account;
    atomic_fetch_sub_explicit(&account->taken, tcp_packet_memory(packet), memory_order_relaxed);
    rte_pktmbuf_free_seg(packet);
    tcp_account_put(account);
    segment->owner = NULL;
}

void tcp_account_put(struct tcp_account *account)
{
    if (atomic_fetch_sub_explicit(&account->references, 1, memory_order_acq_rel) == 1)
        free(account);
}

static bool have_account(struct zh_net_socket *s)
{
    if (!s->account && (s->account = malloc(sizeof *s->account))) {
        atomic_init(&s->account->references, 1);
        atomic_init(&s->account->taken, 0);
    }
    return s->account;
}

/* Cut the first buffer off a chain; the rest, if any, stays at the head of the queue. */
static struct rte_mbuf *detach_first(struct zh_net_socket *s)
{
    struct rte_mbuf *packet = s->rcv_head, *rest = packet->next;
    struct tcp_meta *meta = meta_of(packet);
    if (rest) {
        rest->pkt_len = packet->pkt_len - packet->data_len;
        rest->nb_segs = packet->nb_segs - 1;
        *meta_of(rest) = (struct tcp_meta){
            .next = meta->next, .seq = meta->seq + packet->data_len, .size = rest->pkt_len};
        packet->next = NULL;
        packet->nb_segs = 1;
        packet->pkt_len = packet->data_len;
        s->rcv_head = rest;
        if (s->rcv_tail == packet)
            s->rcv_tail = rest;
    } else {
        s->rcv_head = meta->next;
        if (!s->rcv_head)
            s->rcv_tail = NULL;
    }
    return packet;
}

int tcp_take(struct zh_net_socket *s, struct zh_stream_segment *segments, unsigned count)
{
    if (!have_account(s))
        return -ENOMEM;
    unsigned taken = 0;
    while (taken < count && s->rcv_head) {
        struct rte_mbuf *packet = detach_first(s);
        uint32_t memory = tcp_packet_memory(packet);
        s->rcv_memory -= memory;
        s->rcv_queued -= packet->data_len;
        atomic_fetch_add_explicit(&s->account->references, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&s->account->taken, memory, memory_order_relaxed);
        meta_of(packet)->account = s->account;
        segments[taken++] = (struct zh_stream_segment){
            .data = rte_pktmbuf_mtod(packet, const uint8_t *),
            .size = packet->data_len,
            .release = zh_net_release,
            .owner = packet,
        };
    }
    return (int)taken;
}

size_t tcp_read(struct zh_net_socket *s, void *data, size_t size, bool peek)
{
    uint8_t *to = data;
    size_t done = 0;
    struct rte_mbuf *whole = s->rcv_head, *part = whole;
    while (done < size && part) {
        size_t step = RTE_MIN(size - done, (size_t)part->data_len);
        memcpy(to + done, rte_pktmbuf_mtod(part, const void *), step);
        done += step;
        if (peek) {
            if (!part->next)
                whole = meta_of(whole)->next;
            part = part->next ? part->next : whole;
            continue;
        }
        s->rcv_queued -= (uint32_t)step;
        if (step < part->data_len) {
            rte_pktmbuf_adj(part, (uint16_t)step);
            meta_of(part)->seq += (uint32_t)step;
            meta_of(part)->size -= (uint32_t)step;
            break;
        }
        detach_first(s);
        s->rcv_memory -= tcp_packet_memory(part);
        rte_pktmbuf_free_seg(part);
        part = s->rcv_head;
    }
    tcp_count_copied(s, done);
    return done;
}

void tcp_receive_free(struct zh_net_socket *s)
{
    while (s->rcv_head) {
        struct rte_mbuf *packet = s->rcv_head;
        s->rcv_head = meta_of(packet)->next;
        rte_pktmbuf_free(packet);
    }
    s->rcv_tail = NULL;
    s->rcv_queued = s->rcv_memory = 0;
    tcp_reorder_drop(&s->reorder, meta_offset);
    if (s->account)
        tcp_account_put(s->account);
    s->account = NULL;
}
