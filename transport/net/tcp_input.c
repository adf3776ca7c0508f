/* Segment arrives (RFC 9293 section 3.10.7): from the packet to the state it changes. */
#include "tcp_conn.h"

#define STRAY_INTERVAL (NET_SECOND / 10) /* as of challenge ACKs (tcp_output.c) */

/* The checks of a header, before anything is looked up. False: dropped, counted. The header is
 * copied out; the packet begins with the payload afterwards. */
static bool parse(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info,
                  struct tcp_segment *segment, struct tcp_flow *flow)
{
    uint32_t size = rte_pktmbuf_pkt_len(packet);
    if (size < sizeof(struct tcp_header) ||
        rte_pktmbuf_data_len(packet) < sizeof(struct tcp_header)) {
        net->stats.tcp_in_bad_header++;
        return false;
    }
    struct tcp_header header;
    memcpy(&header, rte_pktmbuf_mtod(packet, const void *), sizeof header);
    uint32_t header_size = (header.offset >> 4) * 4u;
    if (header_size < sizeof header || header_size > rte_pktmbuf_data_len(packet) ||
        !header.src_port || !header.dst_port) {
        net->stats.tcp_in_bad_header++;
        return false;
    }
    /* The port says so of what its device has checked (GOOD), and of what a local kernel has left
     * undone where it was told to trust that (NONE). */
    uint64_t told = packet->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK;
    bool checked = (net->port->rx_checksum && told == RTE_MBUF_F_RX_L4_CKSUM_GOOD) ||
                   (net->port->trust_checksum && told == RTE_MBUF_F_RX_L4_CKSUM_NONE);
    if (!checked && net_sum_fold(net_sum_pseudo(&info->src, &info->dst, IPPROTO_TCP, size) +
                                 net_sum_packet(packet, 0, size)) != 0xffff) {
        net->stats.tcp_in_bad_checksum++;
        return false;
    }
    *flow = (struct tcp_flow){
        .local = info->dst,
        .remote = info->src,
        .local_port = header.dst_port,
        .remote_port = header.src_port,
    };
    *segment = (struct tcp_segment){
        .seq = rte_be_to_cpu_32(header.seq),
        .ack = rte_be_to_cpu_32(header.ack),
        .size = size - header_size,
        .window = rte_be_to_cpu_16(header.window),
        .flags = header.flags,
        .info = info,
    };
    if (header_size > sizeof header)
        tcp_options_parse(rte_pktmbuf_mtod_offset(packet, const uint8_t *, sizeof header),
                          header_size - sizeof header, header.flags & TCP_SYN, &segment->options);
    rte_pktmbuf_adj(packet, (uint16_t)header_size);
    segment->packet = packet;
    return true;
}

/* SYN-SENT (RFC 9293 section 3.10.7.3). */
static void input_syn_sent(struct zh_net_socket *s, struct tcp_segment *segment)
{
    struct zh_net *net = s->net;
    const struct tcp_options *options = &segment->options;
    bool acks = segment->flags & TCP_ACK;
    if (acks && (seq_leq(segment->ack, s->iss) || seq_gt(segment->ack, s->snd_nxt))) {
        tcp_send_refusal(net, &s->entry.flow, segment);
        return;
    }
    if (segment->flags & TCP_RST) {
        if (acks) {
            net->stats.tcp_failed++;
            tcp_socket_end(s, ECONNREFUSED);
        }
        return;
    }
    if (!(segment->flags & TCP_SYN))
        return;
    s->irs = segment->seq;
    s->rcv_nxt = s->last_ack_sent = segment->seq + 1;
    s->rcv_advertised = s->rcv_nxt + tcp_syn_window(s);
    s->mss_peer = options->has_mss ? options->mss : 0;
    if (options->has_window_shift)
        s->snd_shift = options->window_shift;
    else /* RFC 7323 section 2.2: both or none */
        s->rcv_shift = 0;
    s->flags &= ~((options->has_window_shift ? 0 : TCP_HAS_SCALE) |
                  (options->sack_permitted ? 0 : TCP_HAS_SACK) |
                  (options->has_timestamps ? 0 : TCP_HAS_TIMESTAMPS) |
                  (tcp_ecn_agreed(segment) ? 0 : TCP_HAS_ECN));
    s->ts_recent = options->tsval;
    s->ts_recent_at = net->now;
    s->snd_wnd = s->snd_wnd_max = segment->window;
    s->snd_wl1 = segment->seq;
    s->snd_wl2 = segment->ack;
    tcp_update_mss(s);
    if (acks) {
        const struct tcp_sent *syn = tcp_sent_at(&s->sent, 0);
        if (syn->transmissions == 1) /* Karn; with back-off RFC 6298 (5.7) */
            tcp_rto_sample(s, net->now - syn->sent_at);
        else
            s->rto = TCP_RTO_AFTER_SYN;
        tcp_sent_free(&s->sent);
        s->snd_una = segment->ack;
        s->una_offset = s->nxt_offset = 0;
        net->stats.tcp_opened++;
        tcp_establish(s);
        tcp_notify(s);
        s->flags |= TCP_ACK_NOW;
    } else { /* simultaneous open */
        s->state = TCPS_SYN_RECEIVED;
        if (s->sent.count) /* else our SYN is still to be sent, and will acknowledge */
            tcp_send_syn(s);
        return;
    }
    tcp_rto_rearm(s);
    tcp_receive(s, segment);
    tcp_want_output(s);
}

/* Are any of the segment's sequence numbers in the window (RFC 9293 section 3.10.7.4, first)? */
static bool acceptable(const struct zh_net_socket *s, const struct tcp_segment *segment)
{
    uint32_t window = s->rcv_advertised - s->rcv_nxt, end = tcp_segment_end(segment);
    if (end == segment->seq)
        return window ? segment->seq - s->rcv_nxt < window : segment->seq == s->rcv_nxt;
    if (!window) /* the peer's probe: nothing of it is kept, its ACK is looked at */
        return segment->seq == s->rcv_nxt;
    return seq_lt(segment->seq, s->rcv_advertised) && seq_gt(end, s->rcv_nxt);
}

/* PAWS (RFC 7323 section 5.3 R1). True: the segment is older than what was received. */
static bool is_old(const struct zh_net_socket *s, const struct tcp_segment *segment)
{
    if (!(s->flags & TCP_HAS_TIMESTAMPS) || !segment->options.has_timestamps ||
        segment->flags & TCP_RST || !seq_lt(segment->options.tsval, s->ts_recent))
        return false;
    /* Section 5.5: after 24 days without a segment ts_recent says nothing any more. */
    return s->net->now - s->ts_recent_at < 24 * 86400 * NET_SECOND;
}

/* Nothing that was sent is needed any more, and this the peer's FIN has confirmed or not: the
 * states that an ACK of our FIN leads to. True: the connection has ended. */
static bool fin_acknowledged(struct zh_net_socket *s)
{
    switch (s->state) {
    case TCPS_FIN_WAIT_1:
        s->state = TCPS_FIN_WAIT_2;
        if (s->flags & TCP_DETACHED) /* no limit in RFC 9293; as Linux's tcp_fin_timeout */
            tcp_deadline_set(s, TCP_DEADLINE_LINGER, s->net->now + 60 * NET_SECOND);
        return false;
    case TCPS_CLOSING:
        tcp_time_wait_enter(s);
        return true;
    case TCPS_LAST_ACK:
        tcp_socket_end(s, 0);
        return true;
    default:
        return false;
    }
}

/* The peer's FIN, and all before it, has been received: RFC 9293 section 3.10.7.4, eighth. */
static void fin_received(struct zh_net_socket *s)
{
    switch (s->state) {
    case TCPS_SYN_RECEIVED:
    case TCPS_ESTABLISHED:
        s->state = TCPS_CLOSE_WAIT;
        break;
    case TCPS_FIN_WAIT_1: /* our FIN is not acknowledged, or fin_acknowledged had come first */
        s->state = TCPS_CLOSING;
        break;
    case TCPS_FIN_WAIT_2:
        tcp_send_ack(s);
        tcp_notify(s);
        tcp_time_wait_enter(s);
        return;
    default:
        return;
    }
    s->flags |= TCP_ACK_NOW;
    tcp_notify(s);
}

/* A segment without data that is not acceptable is answered now and then only: the answer may be
 * as unacceptable to the peer, whose answer would be answered for ever. */
static bool may_answer(struct zh_net_socket *s, const struct tcp_segment *segment)
{
    if (tcp_segment_end(segment) != segment->seq)
        return true;
    if (s->stray_at && s->net->now - s->stray_at < STRAY_INTERVAL)
        return false;
    s->stray_at = s->net->now;
    return true;
}

/* RFC 9293 section 3.10.7.4, for the states from SYN-RECEIVED on. */
static void input_synchronized(struct zh_net_socket *s, struct tcp_segment *segment)
{
    struct zh_net *net = s->net;
    const struct tcp_options *options = &segment->options;
    s->last_received = net->now;
    if (is_old(s, segment)) {
        if (may_answer(s, segment)) {
            s->flags |= TCP_ACK_NOW;
            tcp_want_output(s);
        }
        return;
    }
    if (!acceptable(s, segment)) {
        if (segment->flags & TCP_RST)
            return;
        if (s->state == TCPS_SYN_RECEIVED && segment->flags & TCP_SYN && segment->seq == s->irs &&
            segment->flags & TCP_ACK) /* simultaneous open: the peer's SYN-ACK */
            goto ack;
        if (may_answer(s, segment))
            tcp_receive_unacceptable(s, segment);
        return;
    }
    if (segment->flags & TCP_RST) { /* second; RFC 5961 section 3.2 */
        if (segment->seq == s->rcv_nxt) {
            net->stats.tcp_reset++;
            tcp_socket_end(s, s->state == TCPS_SYN_RECEIVED ? ECONNREFUSED
                              : s->state == TCPS_CLOSE_WAIT ? EPIPE
                                                            : ECONNRESET);
        } else {
            tcp_challenge(s);
        }
        return;
    }
    if (segment->flags & TCP_SYN) { /* fourth; RFC 5961 section 4.2 */
        tcp_challenge(s);
        return;
    }
    if (s->flags & TCP_HAS_TIMESTAMPS && !options->has_timestamps) /* RFC 7323 section 3.2 */
        return;
    if (options->has_timestamps && seq_leq(segment->seq, s->last_ack_sent)) { /* section 4.3 */
        s->ts_recent = options->tsval;
        s->ts_recent_at = net->now;
    }
ack:
    if (!(segment->flags & TCP_ACK)) /* fifth */
        return;
    if (s->state == TCPS_SYN_RECEIVED) {
        if (seq_leq(segment->ack, s->snd_una) || seq_gt(segment->ack, s->snd_nxt)) {
            tcp_send_refusal(net, &s->entry.flow, segment);
            return;
        }
        tcp_sent_free(&s->sent);
        s->snd_una = s->iss + 1;
        s->una_offset = s->nxt_offset = 0;
        s->snd_wnd = s->snd_wnd_max = segment->window << s->snd_shift;
        s->snd_wl1 = segment->seq;
        s->snd_wl2 = segment->ack;
        net->stats.tcp_opened++;
        tcp_establish(s);
        tcp_notify(s);
    }
    if (!tcp_ack_input(s, segment))
        return;
    if (s->flags & TCP_FIN_SENT && s->snd_una == s->snd_nxt && fin_acknowledged(s))
        return;
    if (segment->size || segment->flags & TCP_FIN) { /* seventh and eighth */
        if (s->flags & TCP_DETACHED && segment->size &&
            seq_gt(segment->seq + segment->size, s->rcv_nxt)) {
            /* RFC 9293 section 3.6.1: nobody will read it. */
            tcp_send_reset(s);
            tcp_socket_end(s, ECONNRESET);
            return;
        }
        bool had_fin = s->flags & TCP_FIN_RECEIVED;
        tcp_ecn_receive(s, segment);
        tcp_receive(s, segment);
        if (!had_fin && s->flags & TCP_FIN_RECEIVED)
            fin_received(s);
    }
}

static void input_socket(struct zh_net_socket *s, struct tcp_segment *segment)
{
    if (s->state == TCPS_SYN_SENT)
        input_syn_sent(s, segment);
    else
        input_synchronized(s, segment);
}

/* CLOSED or LISTEN: no connection has the segment's addresses and ports. */
static void input_unknown(struct zh_net *net, struct tcp_segment *segment,
                          const struct tcp_flow *flow)
{
    struct zh_net_socket *listener = tcp_table_listener(net, &flow->local, flow->local_port);
    if (listener) {
        struct zh_net_socket *s = tcp_listen_input(listener, segment, flow);
        if (s)
            input_socket(s, segment);
        return;
    }
    net->stats.tcp_in_no_socket++;
    if (!segment->info->broadcast)
        tcp_send_refusal(net, flow, segment);
}

void tcp_input(struct zh_net *net, struct rte_mbuf *packet, const struct net_packet *info)
{
    struct tcp_segment segment;
    struct tcp_flow flow;
    net->stats.tcp_in++;
    if (!parse(net, packet, info, &segment, &flow)) {
        rte_pktmbuf_free(packet);
        return;
    }
    struct tcp_entry *entry = tcp_table_find(net, &flow);
    if (!entry) {
        input_unknown(net, &segment, &flow);
    } else if (entry->kind == TCP_ENTRY_SOCKET) {
        input_socket((struct zh_net_socket *)entry, &segment);
    } else if (entry->kind == TCP_ENTRY_REQUEST) {
        struct zh_net_socket *s;
        if (tcp_request_input(net, (struct tcp_request *)entry, &segment, &s))
            input_socket(s, &segment);
    } else if (tcp_time_wait_input(net, (struct tcp_time_wait *)entry, &segment)) {
        input_unknown(net, &segment, &flow);
    }
    rte_pktmbuf_free(segment.packet); /* unless it was kept: then NULL */
}

void tcp_icmp_error(struct zh_net *net, const struct net_error *error)
{
    struct tcp_flow flow = {
        .local = error->local,
        .remote = error->remote,
        .local_port = error->local_port,
        .remote_port = error->remote_port,
    };
    struct tcp_entry *entry = tcp_table_find(net, &flow);
    if (entry && entry->kind == TCP_ENTRY_REQUEST) {
        tcp_request_error(net, (struct tcp_request *)entry, error);
        return;
    }
    struct zh_net_socket *s = (struct zh_net_socket *)entry;
    /* RFC 5927 section 4.1: it must quote something that is under way. */
    if (!entry || entry->kind != TCP_ENTRY_SOCKET || s->snd_una == s->snd_nxt ||
        !seq_between(error->seq, s->snd_una, s->snd_nxt)) {
        net->stats.icmp_errors_ignored++;
        return;
    }
    if (error->error == EMSGSIZE) {
        tcp_path_changed(s, error);
    } else if (tcp_synchronized(s) || !error->hard) {
        /* RFC 5927 section 5.2 and RFC 1122 section 4.2.3.9: a hint, nothing more. */
        s->error_soft = error->error;
    } else {
        net->stats.tcp_failed++;
        tcp_socket_end(s, error->error);
    }
}
