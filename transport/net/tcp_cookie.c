/* SYN cookies (RFC 4987 section 3.6): when there is no room for one more half-open connection, all
 * that would be kept of it travels in the SYN-ACK and comes back with the peer's ACK.
 *
 * Of the sequence number, which as ever is M + F(flow) (RFC 6528 section 3), the upper 8 bits of M
 * stay, and with them that later connections have later numbers; the lower 24, which M goes through
 * in 67 s, become a keyed hash of the flow, the peer's sequence number and the upper bits, plus the
 * place of the peer's MSS in a table. A blind guess is right once in 2^28.
 *
 * The other options need 6 bits more, the lowest of TSval. They are put there so that TSval is at
 * most 63 ms older than the clock, and never newer: what is sent next must not be older than it
 * (RFC 7323 section 5). Without timestamps there is no window scale, no SACK and no ECN. */
#include "tcp_conn.h"

enum {
    HASH_BITS = 24,
    HASH_MASK = (1 << HASH_BITS) - 1,
    AGE_MAX = 1, /* in steps of 67 s: a cookie is good for that long at least, twice that at most */
    STAMP_BITS = 6,
    STAMP_MASK = (1 << STAMP_BITS) - 1,
    STAMP_SCALE = 0x0f,
    STAMP_NO_SCALE = 0x0f, /* a shift is at most 14 (RFC 7323 section 2.3) */
    STAMP_SACK = 0x10,
    STAMP_ECN = 0x20,
    RESET_BURST = 50, /* as of ICMP errors (icmp.c) */
};
#define STEP (UINT64_C(4000) << HASH_BITS) /* ns; M has ticks of 4 us */
#define RESET_INTERVAL NET_MS

/* The least that is taken; the defaults, IPv4's and IPv6's; what tunnels and DSL leave; Ethernet
 * with IPv6 and IPv4; jumbo frames. */
static const uint16_t mss_table[] = {
    TCP_MSS_MIN, TCP_MSS_DEFAULT_V4, TCP_MSS_DEFAULT_V6, 1360, 1400, 1440, 1460, 8940};
enum { MSS_COUNT = sizeof mss_table / sizeof *mss_table };

static uint32_t hash(struct zh_net *net, const struct tcp_flow *flow, uint32_t irs, uint64_t step)
{
    struct {
        struct net_addr local, remote;
        uint16_t local_port, remote_port;
        uint32_t irs;
        uint64_t step;
    } __attribute__((packed)) seen = {
        flow->local, flow->remote, flow->local_port, flow->remote_port, irs, step,
    };
    return (uint32_t)net_siphash(net->key, &seen, sizeof seen);
}

static uint32_t mss_index(const struct tcp_flow *flow, const struct tcp_options *options)
{
    uint32_t mss = options->has_mss                ? options->mss
                   : net_addr_is_v4(&flow->remote) ? TCP_MSS_DEFAULT_V4
                                                   : TCP_MSS_DEFAULT_V6;
    uint32_t index = MSS_COUNT - 1;
    while (index && mss_table[index] > mss)
        index--;
    return index;
}

/* The newest time of the clock that ends in these bits. */
static uint32_t stamp(uint32_t now, uint32_t bits)
{
    uint32_t value = (now & ~(uint32_t)STAMP_MASK) | bits;
    return value > now ? value - (1u << STAMP_BITS) : value;
}

void tcp_cookie_send(struct zh_net_socket *listener, const struct tcp_segment *segment,
                     const struct tcp_flow *flow)
{
    struct zh_net *net = listener->net;
    const struct tcp_options *asked = &segment->options;
    bool stamped = asked->has_timestamps;
    bool scale = stamped && asked->has_window_shift, sack = stamped && asked->sack_permitted;
    bool ecn = stamped && tcp_ecn_asked(segment);
    uint64_t step = net->now / STEP;
    uint32_t low = hash(net, flow, segment->seq, step) + mss_index(flow, asked);
    uint32_t iss =
        tcp_isn_hash(net, flow) + ((uint32_t)step << HASH_BITS) + (low & (uint32_t)HASH_MASK);
    uint32_t bits = (scale ? asked->window_shift : (uint32_t)STAMP_NO_SCALE) |
                    (sack ? STAMP_SACK : 0) | (ecn ? STAMP_ECN : 0);
    struct tcp_options options = {
        .has_mss = true,
        .mss = tcp_own_mss(net, flow, listener->mss_user),
        .has_window_shift = scale,
        .window_shift = tcp_window_shift(listener->rcv_budget),
        .sack_permitted = sack,
        .has_timestamps = stamped,
        .tsval = stamp(tcp_ts_now(net, tcp_ts_offset(net, flow)), bits),
        .tsecr = asked->tsval,
    };
    listener->listener->cookie_sent_at = net->now;
    net->stats.cookies_sent++;
    tcp_send_bare(net, flow, iss, segment->seq + 1, TCP_SYN | TCP_ACK | (ecn ? TCP_ECE : 0),
                  tcp_syn_window(listener), &options);
}

/* In steps; of what is not a cookie any number. */
static uint32_t cookie_age(const struct zh_net *net, uint32_t cookie)
{
    return (uint8_t)((uint32_t)(net->now / STEP) - (cookie >> HASH_BITS));
}

bool tcp_cookie_check(struct zh_net_socket *listener, const struct tcp_segment *segment,
                      const struct tcp_flow *flow, struct tcp_request *request)
{
    struct zh_net *net = listener->net;
    uint64_t sent_at = listener->listener->cookie_sent_at, step = net->now / STEP;
    if (!sent_at || net->now - sent_at >= (AGE_MAX + 1) * STEP || segment->flags & TCP_RST ||
        !(segment->flags & TCP_ACK))
        return false;
    uint32_t irs = segment->seq - 1, cookie = segment->ack - 1 - tcp_isn_hash(net, flow);
    uint32_t age = cookie_age(net, cookie);
    if (age > AGE_MAX || age > step)
        return false;
    uint32_t index = (cookie - hash(net, flow, irs, step - age)) & (uint32_t)HASH_MASK;
    if (index >= MSS_COUNT)
        return false;
    const struct tcp_options *options = &segment->options;
    uint32_t bits = options->tsecr & (uint32_t)STAMP_MASK;
    bool stamped = options->has_timestamps;
    *request = (struct tcp_request){
        .entry = {.flow = *flow, .kind = TCP_ENTRY_REQUEST},
        .listener = listener,
        .iss = segment->ack - 1,
        .irs = irs,
        .ts_recent = options->tsval,
        .ts_offset = tcp_ts_offset(net, flow),
        .mss = mss_table[index],
        .window_shift = bits & STAMP_SCALE,
        .has_scale = stamped && (bits & STAMP_SCALE) != STAMP_NO_SCALE,
        .has_sack = stamped && bits & STAMP_SACK,
        .has_ecn = stamped && bits & STAMP_ECN,
        .has_timestamps = stamped,
    };
    return true;
}

/* The peer of a cookie whose ACK and first data were lost: it acknowledges what may be a cookie,
 * but from its sequence number nothing can be told. It will send the first again. */
static bool may_be_late(const struct tcp_segment *segment, uint32_t age)
{
    return age <= AGE_MAX && (segment->size || segment->flags & TCP_FIN);
}

void tcp_cookie_refuse(struct zh_net_socket *listener, const struct tcp_segment *segment,
                       const struct tcp_flow *flow)
{
    struct zh_net *net = listener->net;
    uint64_t sent_at = listener->listener->cookie_sent_at;
    if (sent_at && net->now - sent_at < (AGE_MAX + 1) * STEP) {
        uint32_t cookie = segment->ack - 1 - tcp_isn_hash(net, flow);
        net->stats.cookies_bad++;
        if (may_be_late(segment, cookie_age(net, cookie)) ||
            !net_limit_take(&net->tcp->cookie_resets, net->now, RESET_INTERVAL, RESET_BURST))
            return;
    }
    tcp_send_refusal(net, flow, segment);
}
