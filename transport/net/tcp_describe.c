/* What a connection tells of itself: to zh_net_connections and through its byte stream. */
#include "tcp_conn.h"

static const char *const states[] = {
    [TCPS_CLOSED] = "CLOSED",           [TCPS_LISTEN] = "LISTEN",
    [TCPS_SYN_SENT] = "SYN-SENT",       [TCPS_SYN_RECEIVED] = "SYN-RECEIVED",
    [TCPS_ESTABLISHED] = "ESTABLISHED", [TCPS_FIN_WAIT_1] = "FIN-WAIT-1",
    [TCPS_FIN_WAIT_2] = "FIN-WAIT-2",   [TCPS_CLOSE_WAIT] = "CLOSE-WAIT",
    [TCPS_CLOSING] = "CLOSING",         [TCPS_LAST_ACK] = "LAST-ACK",
    [TCPS_TIME_WAIT] = "TIME-WAIT",
};

void tcp_describe(const struct tcp_entry *entry, struct zh_net_connection *line)
{
    sa_family_t family = net_addr_is_v4(&entry->flow.local) ? AF_INET : AF_INET6;
    *line = (struct zh_net_connection){.congestion_control = "", .ssthresh = UINT64_MAX};
    tcp_write_address(&entry->flow.local, entry->flow.local_port, family, &line->local);
    tcp_write_address(&entry->flow.remote, entry->flow.remote_port, family, &line->peer);
    if (entry->kind != TCP_ENTRY_SOCKET) {
        line->state = states[entry->kind == TCP_ENTRY_REQUEST ? TCPS_SYN_RECEIVED : TCPS_TIME_WAIT];
        return;
    }
    const struct zh_net_socket *s = (const struct zh_net_socket *)entry;
    line->state = states[s->state];
    line->congestion_control = s->congestion->name;
    line->receive_queue = s->rcv_queued;
    line->send_queue = s->queue.end - s->una_offset;
    line->cwnd = s->cwnd;
    line->ssthresh = s->ssthresh;
    line->rtt_us = (uint32_t)(s->srtt / NET_US);
    line->rto_us = (uint32_t)(tcp_rto_now(s) / NET_US);
    line->mss = s->mss;
    line->retransmissions = s->retransmissions;
}

/* --- struct zh_stream
 * ------------------------------------------------------------------------------ */

static struct zh_net_socket *of(struct zh_stream *stream)
{
    return (struct zh_net_socket *)((char *)stream - offsetof(struct zh_net_socket, stream));
}

static int stream_send(struct zh_stream *stream, const struct zh_stream_record *records,
                       unsigned count)
{
    return zh_net_send_records(of(stream), records, count);
}

static int stream_take(struct zh_stream *stream, struct zh_stream_segment *segments, unsigned count)
{
    return zh_net_take(of(stream), segments, count);
}

static unsigned stream_ready(struct zh_stream *stream)
{
    return zh_net_ready(of(stream));
}

static int stream_descriptor(struct zh_stream *stream)
{
    (void)stream;
    return -1;
}

static int stream_shutdown(struct zh_stream *stream)
{
    return zh_net_shutdown(of(stream), SHUT_WR);
}

static void stream_close(struct zh_stream *stream)
{
    zh_net_close(of(stream));
}

static void stream_info(struct zh_stream *stream, struct zh_stream_info *info)
{
    struct zh_net_socket *s = of(stream);
    *info = (struct zh_stream_info){
        .bytes_sent = s->una_offset,
        .bytes_queued = s->queue.end - s->una_offset,
        .bytes_received = s->bytes_received,
        .bytes_copied = s->bytes_copied,
        .retransmissions = s->retransmissions,
        .rtt_us = (uint32_t)(s->srtt / NET_US),
        .mss = s->mss,
    };
    tcp_write_address(&s->entry.flow.local, s->entry.flow.local_port, s->family, &info->local);
    tcp_write_address(&s->entry.flow.remote, s->entry.flow.remote_port, s->family, &info->peer);
}

const struct zh_stream_ops tcp_stream_ops = {
    .send = stream_send,
    .take = stream_take,
    .ready = stream_ready,
    .descriptor = stream_descriptor,
    .shutdown = stream_shutdown,
    .close = stream_close,
    .info = stream_info,
};

struct zh_stream *zh_net_stream(struct zh_net_socket *socket)
{
    return &socket->stream;
}
