/* What a connection sends: segments built from the queue, ACKs, and what is sent once more. */
#include "tcp_conn.h"
#include "tcp_pressure.h"
#include "tcp_reorder.h"

enum {
    ROUND_SEGMENTS =
        64, /* of one connection in one poll round, so that others come to their turn */
    TIMESTAMPS_SIZE = 12,
};
/* Of the option, its padding included (RFC 2018 section 3). */
#define SACK_SIZE(blocks) (4 + (blocks) * sizeof(struct tcp_sack_block))

/* Fill in a header before the packet's data and send it. Takes the packet. */
static void transmit(struct zh_net *net, const struct tcp_flow *flow, struct rte_mbuf *packet,
                     uint32_t seq, uint32_t ack, uint8_t flags, uint8_t traffic_class,
                     uint16_t window, const uint8_t *options, size_t options_size)
{
    uint16_t header_size = (uint16_t)(sizeof(struct tcp_header) + options_size);
    struct tcp_header *header = (void *)rte_pktmbuf_prepend(packet, header_size);
    *header = (struct tcp_header){
        .src_port = flow->local_port,
        .dst_port = flow->remote_port,
        .seq = rte_cpu_to_be_32(seq),
        .ack = rte_cpu_to_be_32(ack),
        .offset = (uint8_t)(header_size / 4 << 4),
        .flags = flags,
        .window = rte_cpu_to_be_16(window),
    };
    memcpy(header + 1, options, options_size);
    uint32_t size = rte_pktmbuf_pkt_len(packet);
    uint64_t pseudo = net_sum_pseudo(&flow->local, &flow->remote, IPPROTO_TCP, size);
    if (net->port->tx_checksum) {
        bool v4 = net_addr_is_v4(&flow->local);
        packet->ol_flags |=
            RTE_MBUF_F_TX_TCP_CKSUM | (v4 ? RTE_MBUF_F_TX_IPV4 : RTE_MBUF_F_TX_IPV6);
        packet->l4_len = header_size;
        header->checksum = net_sum_fold(pseudo);
    } else {
        header->checksum = (uint16_t)~net_sum_fold(pseudo + net_sum_packet(packet, 0, size));
    }
    net->stats.tcp_out++;
    ip_output(net, packet, &flow->local, &flow->remote, IPPROTO_TCP, traffic_class);
}

bool tcp_send_bare(struct zh_net *net, const struct tcp_flow *flow, uint32_t seq, uint32_t ack,
                   uint8_t flags, uint16_t window, const struct tcp_options *options)
{
    uint8_t buffer[TCP_HEADER_MAX];
    size_t size = options ? tcp_options_emit(options, buffer) : 0;
    struct rte_mbuf *packet = net_packet_alloc(net);
    if (!packet) {
        net->stats.tcp_out_no_memory++;
        return false;
    }
    if (flags & TCP_RST)
        net->stats.tcp_out_reset++;
    transmit(net, flow, packet, seq, ack, flags, 0, window, buffer, size);
    return true;
}

void tcp_send_refusal(struct zh_net *net, const struct tcp_flow *flow,
                      const struct tcp_segment *segment)
{
    if (segment->flags & TCP_RST)
        return;
    if (segment->flags & TCP_ACK)
        tcp_send_bare(net, flow, segment->ack, 0, TCP_RST, 0, NULL);
    else
        tcp_send_bare(net, flow, 0, tcp_segment_end(segment), TCP_RST | TCP_ACK, 0, NULL);
}

/* The options of every segment after the SYN. `room`: for SACK blocks. */
static size_t usual_options(struct zh_net_socket *s, uint8_t *buffer, uint32_t room)
{
    struct tcp_options options = {0};
    if (s->flags & TCP_HAS_TIMESTAMPS) {
        options.has_timestamps = true;
        options.tsval = tcp_ts_now(s->net, s->ts_offset);
        options.tsecr = s->ts_recent;
    }
    if (s->flags & TCP_HAS_SACK && tcp_reorder_has_news(&s->reorder)) {
        unsigned most = options.has_timestamps ? TCP_SACK_MAX - 1 : TCP_SACK_MAX;
        if (room < SACK_SIZE(most))
            most = room < SACK_SIZE(1) ? 0 : (room - SACK_SIZE(0)) / sizeof(struct tcp_sack_block);
        struct tcp_sack_block duplicate = s->reorder.duplicate; /* reported once it is sent */
        options.sack_count = (uint8_t)tcp_reorder_sack(&s->reorder, options.sack, most);
        s->reorder.duplicate = duplicate;
    }
    if (!options.has_timestamps && !options.sack_count)
        return 0;
    return tcp_options_emit(&options, buffer);
}

/* The peer has been told all that was received: ACKs that were due are done with. */
static void acknowledged(struct zh_net_socket *s, size_t options_size)
{
    /* Beside a full segment there was no room for blocks: the next ACK has them. */
    if (options_size > (s->flags & TCP_HAS_TIMESTAMPS ? TIMESTAMPS_SIZE : 0) ||
        !(s->flags & TCP_HAS_SACK))
        s->reorder.duplicate = (struct tcp_sack_block){0};
    s->last_ack_sent = s->rcv_nxt;
    s->unacked = 0;
    s->unacked_segments = 0;
    s->flags &= ~TCP_ACK_NOW;
    tcp_deadline_stop(s, TCP_DEADLINE_ACK);
}

/* Send a packet that holds the payload of a segment (or none). Takes it. */
static void send_segment(struct zh_net_socket *s, struct rte_mbuf *packet, uint32_t seq,
                         uint8_t flags, const uint8_t *options, size_t options_size)
{
    uint32_t window = tcp_receive_window(s) >> s->rcv_shift;
    uint8_t traffic_class = tcp_ecn_output(s, seq, rte_pktmbuf_pkt_len(packet), &flags);
    acknowledged(s, options_size);
    transmit(s->net, &s->entry.flow, packet, seq, s->rcv_nxt, flags | TCP_ACK, traffic_class,
             (uint16_t)(window < UINT16_MAX ? window : UINT16_MAX), options, options_size);
}

static bool send_empty(struct zh_net_socket *s, uint32_t seq, uint8_t flags)
{
    struct rte_mbuf *packet = net_packet_alloc(s->net);
    if (!packet) {
        s->net->stats.tcp_out_no_memory++;
        return false;
    }
    uint8_t options[TCP_HEADER_MAX];
    size_t size = usual_options(s, options, UINT32_MAX);
    send_segment(s, packet, seq, flags, options, size);
    return true;
}

bool tcp_send_ack(struct zh_net_socket *s)
{
    return send_empty(s, s->snd_nxt, 0);
}

bool tcp_send_probe(struct zh_net_socket *s)
{
    return send_empty(s, s->snd_una - 1, 0);
}

void tcp_send_reset(struct zh_net_socket *s)
{
    if (s->state == TCPS_SYN_SENT)
        return;
    tcp_send_bare(s->net, &s->entry.flow, s->snd_nxt, s->rcv_nxt, TCP_RST | TCP_ACK, 0, NULL);
}

void tcp_challenge(struct zh_net_socket *s)
{
    struct zh_net *net = s->net;
    /* RFC 5961 section 7 and RFC 9293: a few a second for each connection, so that the count tells
     * nothing of others (CVE-2016-5696). */
    if (net->now - s->challenged_at < NET_SECOND / 10 && s->challenged_at)
        return;
    s->challenged_at = net->now;
    net->stats.tcp_challenge_ack++;
    tcp_send_ack(s);
}

bool tcp_send_syn(struct zh_net_socket *s)
{
    bool passive = s->state == TCPS_SYN_RECEIVED;
    struct tcp_options options = {
        .has_mss = true,
        .mss = tcp_own_mss(s->net, &s->entry.flow, s->mss_user),
        .has_window_shift = s->flags & TCP_HAS_SCALE,
        .window_shift = s->rcv_shift,
        .sack_permitted = s->flags & TCP_HAS_SACK,
        .has_timestamps = s->flags & TCP_HAS_TIMESTAMPS,
        .tsval = tcp_ts_now(s->net, s->ts_offset),
        .tsecr = passive ? s->ts_recent : 0,
    };
    return tcp_send_bare(s->net, &s->entry.flow, s->iss, passive ? s->rcv_nxt : 0,
                         (passive ? TCP_SYN | TCP_ACK : TCP_SYN) | tcp_ecn_syn_flags(s),
                         tcp_syn_window(s), &options);
}

/* The segment [offset, offset + size) of the stream, at `seq`. */
static bool send_payload(struct zh_net_socket *s, uint32_t seq, uint64_t offset, uint32_t size,
                         uint8_t flags, const uint8_t *options, size_t options_size)
{
    struct zh_net *net = s->net;
    struct rte_mbuf *packet = net_packet_alloc(net);
    if (!packet) {
        net->stats.tcp_out_no_memory++;
        return false;
    }
    if (size) {
        int copied =
            tcp_queue_attach(&s->queue, offset, size, packet, net->pool, net->port->max_segments);
        if (copied < 0) {
            net->stats.tcp_out_no_memory++;
            rte_pktmbuf_free(packet);
            return false;
        }
        tcp_count_copied(s, (uint32_t)copied);
        net->stats.tcp_out_payload += size;
        if (offset + size == s->queue.end)
            flags |= TCP_PSH;
    }
    send_segment(s, packet, seq, flags, options, options_size);
    return true;
}

/* The payload of a segment with these options: mss has timestamps taken off already, SACK blocks
 * come in its place (RFC 6691 section 2). */
static uint32_t payload_most(const struct zh_net_socket *s, size_t options_size)
{
    uint32_t usual = s->flags & TCP_HAS_TIMESTAMPS ? TIMESTAMPS_SIZE : 0;
    return s->mss - ((uint32_t)options_size - usual);
}

bool tcp_retransmit(struct zh_net_socket *s, struct tcp_sent *sent)
{
    uint64_t now = s->net->now;
    uint8_t options[TCP_HEADER_MAX];
    if (sent->flags & TCP_SENT_SYN) {
        tcp_ecn_syn_lost(s);
        if (!tcp_send_syn(s))
            return false;
    } else {
        uint32_t fin = sent->flags & TCP_SENT_FIN ? 1 : 0;
        uint32_t size = sent->end - sent->seq - fin, seq = sent->seq;
        /* Blocks only where they fit beside the segment, whose size is given. */
        size_t options_size = usual_options(s, options, size < s->mss ? s->mss - size : 0);
        uint64_t offset = s->una_offset + (sent->seq - s->snd_una);
        /* A segment that was cut larger than the path or the options allow now goes in pieces. */
        uint32_t most = payload_most(s, options_size);
        do {
            uint32_t step = size < most ? size : most;
            if (!send_payload(s, seq, offset, step, fin && step == size ? TCP_FIN : 0, options,
                              options_size))
                return false;
            seq += step;
            offset += step;
            size -= step;
        } while (size);
    }
    s->net->stats.tcp_out_retransmitted++;
    s->retransmissions++;
    tcp_undo_retransmitted(s);
    if (s->flags & TCP_IN_RECOVERY)
        tcp_prr_sent(&s->prr, sent->end - sent->seq);
    tcp_sent_retransmitted(&s->sent, sent, now);
    return true;
}

/* Room for a packet in the burst; a device that is full stops the connection, not the stack. */
static bool port_has_room(struct zh_net *net)
{
    if (net->out_count < NET_BURST)
        return true;
    ether_flush(net);
    return net->out_count < NET_BURST;
}

/* What was taken for lost, within the congestion window. False: nothing more can be sent now;
 * *limited: for cwnd. */
static bool send_lost(struct zh_net_socket *s, bool *limited)
{
    struct tcp_sent *sent;
    unsigned count = 0;
    for (uint32_t i; (sent = tcp_sent_next_lost(&s->sent, &i));) {
        uint32_t size = sent->end - sent->seq;
        uint64_t in_flight = tcp_in_flight(s);
        if (in_flight && in_flight + size > s->cwnd) {
            *limited = true;
            return false;
        }
        if (count++ == ROUND_SEGMENTS || !port_has_room(s->net) || !tcp_retransmit(s, sent)) {
            tcp_want_output(s);
            return false;
        }
        /* RFC 6675 section 6: recovery that goes on is given the time for it. */
        if (s->flags & TCP_HAS_SACK && !(s->flags & TCP_AFTER_RTO))
            tcp_rto_rearm(s);
    }
    return true;
}

/* May a segment that is not full go (Nagle and silly window avoidance, RFC 9293 sections 3.7.4 and
 * 3.8.6.2.1)? `rest`: all that is queued. */
static bool may_send_part(const struct zh_net_socket *s, uint32_t size, uint64_t rest)
{
    if (s->flags & (TCP_CORKED | TCP_MORE) && !(s->flags & TCP_SHUT_WRITE))
        return false;
    if (size == rest)
        return s->flags & (TCP_NO_DELAY | TCP_SHUT_WRITE) || s->snd_una == s->snd_nxt;
    return size >= s->snd_wnd_max / 2;
}

/* The next `size` bytes of the queue, and the FIN. False: no packet, no memory. */
static bool send_next(struct zh_net_socket *s, uint32_t size, bool fin, const uint8_t *options,
                      size_t options_size)
{
    struct zh_net *net = s->net;
    if (tcp_sent_reserve(&s->sent, 1) < 0 ||
        !send_payload(s, s->snd_nxt, s->nxt_offset, size, fin ? TCP_FIN : 0, options, options_size))
        return false;
    tcp_sent_add(&s->sent, s->snd_nxt, s->snd_nxt + size + fin, fin ? TCP_SENT_FIN : 0, net->now);
    s->snd_nxt += size + fin;
    s->nxt_offset += size;
    if (fin)
        s->flags |= TCP_FIN_SENT;
    if (s->flags & TCP_IN_RECOVERY)
        tcp_prr_sent(&s->prr, size);
    if (s->sent.count == 1) {
        s->last_progress = net->now; /* what the user timeout counts from */
        tcp_rto_rearm(s);
    }
    return true;
}

/* The next new segment that the peer's window and Nagle's algorithm let go: its payload, and
 * whether the FIN goes with it. False: none. */
static bool choose(struct zh_net_socket *s, size_t options_size, uint32_t *size, bool *fin)
{
    uint64_t rest = s->queue.end - s->nxt_offset;
    bool fin_due = s->flags & TCP_SHUT_WRITE && !(s->flags & TCP_FIN_SENT);
    *size = 0;
    if (rest) {
        uint32_t window = s->snd_una + s->snd_wnd - s->snd_nxt;
        if (seq_lt(s->snd_una + s->snd_wnd, s->snd_nxt))
            window = 0;
        uint32_t most = payload_most(s, options_size);
        uint32_t wanted = tcp_queue_segment(&s->queue, s->nxt_offset, most);
        bool whole = (wanted == most || wanted < rest) && wanted <= window;
        *size = RTE_MIN(wanted, window);
        if (!*size || (!whole && !may_send_part(s, *size, rest)))
            return false;
    }
    *fin = fin_due && *size == rest;
    return *size || *fin;
}

static void send_new(struct zh_net_socket *s, bool *limited)
{
    uint8_t options[TCP_HEADER_MAX];
    uint32_t size;
    bool fin, sent = false;
    if (s->queue.end == s->nxt_offset && !(s->flags & TCP_SHUT_WRITE))
        return;
    tcp_path_recheck(s);
    tcp_validation_expire(s);
    size_t options_size = usual_options(s, options, UINT32_MAX);
    for (unsigned count = 0; choose(s, options_size, &size, &fin); count++) {
        bool duplicate = s->reorder.duplicate.start != s->reorder.duplicate.end;
        if (size && (uint64_t)tcp_in_flight(s) + size > s->cwnd) {
            *limited = true;
            break;
        }
        if (count == ROUND_SEGMENTS || !port_has_room(s->net) ||
            !send_next(s, size, fin, options, options_size)) {
            tcp_want_output(s);
            break;
        }
        sent = true;
        if (duplicate) /* it was reported, once (RFC 2883 section 4) */
            options_size = usual_options(s, options, UINT32_MAX);
    }
    if (sent)
        tcp_recovery_probe(s);
}

bool tcp_send_beyond_cwnd(struct zh_net_socket *s)
{
    uint8_t options[TCP_HEADER_MAX];
    uint32_t size;
    bool fin;
    size_t options_size = usual_options(s, options, UINT32_MAX);
    return choose(s, options_size, &size, &fin) && send_next(s, size, fin, options, options_size);
}

bool tcp_must_probe(const struct zh_net_socket *s)
{
    bool queued =
        s->queue.end > s->nxt_offset || (s->flags & TCP_SHUT_WRITE && !(s->flags & TCP_FIN_SENT));
    return tcp_synchronized(s) && queued && s->snd_una == s->snd_nxt;
}

void tcp_send_window_probe(struct zh_net_socket *s)
{
    uint8_t options[TCP_HEADER_MAX];
    size_t options_size = usual_options(s, options, UINT32_MAX);
    if (s->snd_wnd && s->queue.end > s->nxt_offset) {
        /* Held back by silly window avoidance: the override of RFC 9293 section 3.8.6.2.1. */
        uint64_t rest = s->queue.end - s->nxt_offset;
        uint32_t size = (uint32_t)RTE_MIN((uint64_t)RTE_MIN(s->snd_wnd, (uint32_t)s->mss), rest);
        send_next(s, size, false, options, options_size);
        return;
    }
    tcp_send_probe(
        s); /* as Linux: an old sequence number has to be answered, and carries nothing */
}

/* Room for its record was reserved by connect. */
static void send_first_syn(struct zh_net_socket *s)
{
    if (!tcp_send_syn(s)) {
        tcp_want_output(s);
        return;
    }
    s->snd_nxt = s->iss + 1;
    tcp_sent_add(&s->sent, s->iss, s->snd_nxt, TCP_SENT_SYN, s->net->now);
    tcp_deadline_set(s, TCP_DEADLINE_RTO, s->net->now + tcp_rto_now(s));
}

/* How much of cwnd is used, by the strongest that a round trip has shown: of the ACKs that come
 * together only the first sees what was in flight. */
static void note_use(struct zh_net_socket *s, bool limited)
{
    uint32_t in_flight = tcp_in_flight(s);
    if (seq_geq(s->snd_una, s->used_until) || limited ||
        (!s->used_up && in_flight > s->used_most)) {
        s->used_up = limited;
        s->used_most = in_flight;
        s->used_until = s->snd_nxt;
    }
}

void tcp_output(struct zh_net_socket *s)
{
    if (tcp_synchronized(s)) {
        bool limited = false;
        if (s->undo.frto == TCP_FRTO_NEW_DATA || send_lost(s, &limited))
            send_new(s, &limited);
        note_use(s, limited);
        if (s->flags & TCP_ACK_NOW && !tcp_send_ack(s))
            tcp_want_output(s);
        if (!s->deadline[TCP_DEADLINE_RTO] && tcp_must_probe(s))
            tcp_rto_rearm(s);
    } else if ((s->state == TCPS_SYN_SENT || s->state == TCPS_SYN_RECEIVED) && !s->sent.count) {
        send_first_syn(s);
    } else if (s->state == TCPS_SYN_SENT || s->state == TCPS_SYN_RECEIVED) {
        uint32_t i;
        struct tcp_sent *syn = tcp_sent_next_lost(&s->sent, &i);
        if (syn)
            tcp_retransmit(s, syn);
    }
}

uint64_t tcp_poll(struct zh_net *net)
{
    tcp_pressure_poll(net);
    bool starved = tcp_receive_poll(net);
    /* Those that ask again in this round are for the next. */
    struct zh_net_socket *s, *last = TAILQ_LAST(&net->tcp->out, tcp_out_list);
    while ((s = TAILQ_FIRST(&net->tcp->out))) {
        TAILQ_REMOVE(&net->tcp->out, s, out_link);
        s->flags &= ~TCP_QUEUED_OUT;
        bool end = s == last;
        tcp_output(s);
        if (end)
            break;
    }
    if (!TAILQ_EMPTY(&net->tcp->out))
        return net->now;
    return starved ? net->now + NET_MS : NET_NEVER;
}
