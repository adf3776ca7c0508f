/* The parts of loss recovery together, in virtual time: a sender of the ring, RACK-TLP, rate
 * reduction and CUBIC, a receiver of the out-of-order queue, and a path that loses and reorders
 * between them. */
#include <string.h>

#include "harness.h"
#include "net/tcp_congestion.h"
#include "net/tcp_reorder.h"
#include "net/tcp_sent.h"
#include "packets.h"

enum { MSS = 100, SLOTS = 8192, DELAY = 10 * NET_MS /* one way */, ACK_DELAY = 40 * NET_MS };

struct packet { /* of data (size > 0) or an ACK, under way */
    uint64_t at;
    uint32_t seq, size;
    struct tcp_sack_block sack[3];
    unsigned sacks;
};

static struct rte_mempool *pool;
static int meta;
static uint64_t random_state;
static struct packet path[SLOTS];
static unsigned path_count;

static struct {
    double loss, reorder;
    uint32_t lose_seq; /* the first transmission of this one; UINT32_MAX: none */
    uint32_t lost;
} fault;

static struct {
    struct zh_net net;
    struct zh_net_socket *s;
    uint32_t total;
    uint64_t rack_at, probe_at, rto_at; /* NET_NEVER: not set */
    uint32_t retransmissions, probes, timeouts, recoveries;
    bool recovering;
} tx;

static struct {
    uint32_t rcv_nxt, duplicates;
    struct tcp_reorder reorder;
} rx;

static double chance(void)
{
    return (double)(random_next(&random_state) >> 11) / 9007199254740992.0;
}

static void put(struct packet packet, bool data)
{
    packet.at = tx.net.now + DELAY;
    if (data && packet.seq == fault.lose_seq) {
        fault.lose_seq = UINT32_MAX;
        fault.lost++;
        return;
    }
    if (data && chance() < fault.loss) {
        fault.lost++;
        return;
    }
    if (data && chance() < fault.reorder)
        packet.at += NET_MS;
    CHECK(path_count < SLOTS);
    path[path_count++] = packet;
}

/* --- the receiver
 * --------------------------------------------------------------------------------- */

static void receive(const struct packet *p)
{
    uint32_t end = p->seq + p->size;
    if (seq_leq(end, rx.rcv_nxt)) {
        rx.duplicates++;
        tcp_reorder_note_duplicate(&rx.reorder, p->seq, end);
    } else if (p->seq == rx.rcv_nxt) {
        struct rte_mbuf *head, *tail;
        rx.rcv_nxt = end;
        tcp_reorder_pop(&rx.reorder, meta, &rx.rcv_nxt, &head, &tail);
        while (head) {
            struct rte_mbuf *next = tcp_meta(head, meta)->next;
            rte_pktmbuf_free(head);
            head = next;
        }
    } else {
        struct rte_mbuf *m = rte_pktmbuf_alloc(pool);
        CHECK(m != NULL && rte_pktmbuf_append(m, (uint16_t)p->size) != NULL);
        rx.duplicates += tcp_reorder_insert(&rx.reorder, meta, m, p->seq) == TCP_REORDER_DUPLICATE;
    }
    struct packet ack = {.seq = rx.rcv_nxt};
    ack.sacks = tcp_reorder_sack(&rx.reorder, ack.sack, 3);
    put(ack, false);
}

/* --- the sender
 * ----------------------------------------------------------------------------------- */

static uint32_t in_flight(void)
{
    return tcp_sent_in_flight(&tx.s->sent, tx.s->snd_una, tx.s->snd_nxt);
}

static void transmit(uint32_t seq, uint32_t size)
{
    put((struct packet){.seq = seq, .size = size}, true);
    tcp_prr_sent(&tx.s->prr, size);
}

static void transmit_again(struct tcp_sent *record)
{
    tcp_sent_retransmitted(&tx.s->sent, record, tx.net.now);
    transmit(record->seq, tcp_sent_size(record));
    tx.retransmissions++;
}

static bool transmit_new(void)
{
    struct zh_net_socket *s = tx.s;
    if (s->snd_nxt - s->iss == tx.total)
        return false;
    CHECK_EQ(tcp_sent_add(&s->sent, s->snd_nxt, s->snd_nxt + MSS, 0, tx.net.now), 0);
    transmit(s->snd_nxt, MSS);
    s->snd_nxt += MSS;
    return true;
}

static void transmit_all(bool first)
{
    struct zh_net_socket *s = tx.s;
    for (; first || in_flight() + MSS <= s->cwnd; first = false) {
        uint32_t i;
        struct tcp_sent *lost = tcp_sent_next_lost(&s->sent, &i);
        if (lost)
            transmit_again(lost);
        else if (!transmit_new())
            return;
    }
}

static void arm(void)
{
    struct zh_net_socket *s = tx.s;
    tx.probe_at = tx.rto_at = NET_NEVER;
    if (s->sent.count == 0)
        return;
    tx.rto_at = tx.net.now + s->rto;
    if (tx.rack_at == NET_NEVER && tcp_tlp_allowed(&s->tlp, &s->sent, tx.recovering))
        tx.probe_at = tx.net.now + tcp_tlp_timeout(s->srtt, s->sent.count, ACK_DELAY, s->rto);
}

static void enter(uint32_t flight)
{
    struct zh_net_socket *s = tx.s;
    tx.recovering = true;
    tx.recoveries++;
    s->recover = s->snd_nxt;
    s->congestion->on_loss(s);
    tcp_prr_begin(&s->prr, flight);
}

static void detect(uint32_t delivered, uint32_t flight)
{
    struct zh_net_socket *s = tx.s;
    uint64_t timeout;
    uint32_t lost =
        tcp_rack_detect_loss(&s->rack, &s->sent, tx.net.now, s->srtt, tx.recovering, &timeout);
    bool first = lost && !tx.recovering;
    tx.rack_at = timeout ? tx.net.now + timeout : NET_NEVER;
    if (first)
        enter(flight);
    if (tx.recovering)
        s->cwnd = in_flight() + tcp_prr_ack(&s->prr, delivered, in_flight(), s->ssthresh, MSS);
    transmit_all(first);
}

static void acknowledged(const struct packet *p)
{
    struct zh_net_socket *s = tx.s;
    struct tcp_delivered delivered = {0};
    struct tcp_options options = {.sack_count = (uint8_t)p->sacks};
    struct tcp_rack_ack ack = {.rack = &s->rack, .now = tx.net.now};
    uint32_t flight = s->snd_nxt - s->snd_una;
    bool limited = in_flight() + MSS <= s->cwnd;
    uint32_t una = seq_max(p->seq, s->snd_una);

    memcpy(options.sack, p->sack, sizeof p->sack);
    const struct tcp_sack_block *dsack = tcp_find_dsack(&options, p->seq);
    tcp_sent_ack(&s->sent, una, &delivered, tcp_rack_delivered, &ack);
    tcp_sent_sack(&s->sent, options.sack, options.sack_count, &delivered, tcp_rack_delivered, &ack);
    s->snd_una = una;
    if (delivered.sent_at) {
        uint64_t rtt = tx.net.now - delivered.sent_at;
        s->srtt = s->srtt ? s->srtt - s->srtt / 8 + rtt / 8 : rtt;
        s->rto = 200 * (uint64_t)NET_MS + 2 * s->srtt;
        s->tlp.sampled = true;
    }
    tcp_rack_adapt(&s->rack, s->snd_una, s->snd_nxt, dsack != NULL);
    if (tcp_tlp_ack(&s->tlp, p->seq, dsack, delivered.delivered == 0 && !p->sacks)) {
        s->congestion->on_loss(s);
        s->cwnd = s->ssthresh;
    }
    if (tx.recovering && seq_geq(s->snd_una, s->recover)) {
        tx.recovering = false;
        s->cwnd = s->ssthresh;
        tcp_rack_recovered(&s->rack);
    } else if (!tx.recovering && delivered.acked) {
        const struct tcp_ack a = {.acked = delivered.acked, .app_limited = limited, .rtt = s->srtt};
        s->congestion->on_ack(s, &a);
    }
    detect(delivered.delivered, flight);
    arm();
}

static void probe(void)
{
    struct zh_net_socket *s = tx.s;
    bool fresh = transmit_new();
    if (!fresh)
        transmit_again(tcp_sent_at(&s->sent, s->sent.count - 1));
    tcp_tlp_sent(&s->tlp, s->snd_nxt, !fresh);
    tx.probes++;
    arm();
}

static void time_out(void)
{
    struct zh_net_socket *s = tx.s;
    tx.timeouts++;
    tcp_rack_mark_on_timeout(&s->rack, &s->sent, tx.net.now, s->srtt);
    s->congestion->on_timeout(s);
    tx.recovering = true;
    s->recover = s->snd_nxt;
    s->cwnd = MSS;
    tcp_prr_begin(&s->prr, s->snd_nxt - s->snd_una);
    transmit_all(true);
    arm();
}

/* --- a transfer
 * ----------------------------------------------------------------------------------- */

/* Returns how long it took. */
static uint64_t transfer(uint64_t seed, uint32_t segments, uint64_t cwnd)
{
    struct zh_net_socket *s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    memset(&tx, 0, sizeof tx);
    memset(&rx, 0, sizeof rx);
    fault.lost = path_count = 0;
    random_state = seed;
    tx.net.now = NET_SECOND;
    tx.s = s;
    tx.total = segments * MSS;
    tx.rack_at = NET_NEVER;
    s->net = &tx.net;
    s->mss = MSS;
    s->iss = s->snd_una = s->snd_nxt = rx.rcv_nxt = UINT32_MAX - 777;
    s->cwnd = cwnd;
    s->ssthresh = UINT64_MAX;
    s->rto = NET_SECOND;
    s->srtt = 2 * DELAY;
    s->tlp.sampled = true;
    s->congestion = &tcp_cubic;
    s->congestion->start(s);
    tcp_rack_begin(&s->rack, s->snd_una);
    tcp_rack_sample(&s->rack, 2 * DELAY, tx.net.now);
    if (fault.lose_seq != UINT32_MAX)
        fault.lose_seq = s->iss + fault.lose_seq * MSS;
    transmit_all(false);
    arm();
    while (s->snd_una - s->iss < tx.total) {
        unsigned first = 0;
        for (unsigned i = 1; i < path_count; i++)
            if (path[i].at < path[first].at)
                first = i;
        uint64_t timer = RTE_MIN(tx.rack_at, RTE_MIN(tx.probe_at, tx.rto_at));
        if (path_count > 0 && path[first].at <= timer) {
            struct packet p = path[first];
            memmove(path + first, path + first + 1, (--path_count - first) * sizeof p);
            tx.net.now = p.at;
            if (p.size)
                receive(&p);
            else
                acknowledged(&p);
        } else {
            CHECK(timer != NET_NEVER);
            tx.net.now = timer;
            if (timer == tx.rack_at) {
                detect(0, s->snd_nxt - s->snd_una);
                arm();
            } else if (timer == tx.probe_at) {
                probe();
            } else {
                time_out();
            }
        }
        CHECK(tx.net.now < 1000 * NET_SECOND);
    }
    CHECK_EQ(rx.rcv_nxt, s->iss + tx.total);
    CHECK(s->sent.records == NULL);
    CHECK(rx.reorder.count == 0);
    CHECK_EQ(rte_mempool_in_use_count(pool), 0);
    free(s);
    return tx.net.now - NET_SECOND;
}

/* One lost packet costs a round trip and the reordering window: 100 us where three segments after
 * it have arrived, else a quarter of the round trip (RFC 8985 section 6.2). The last one costs the
 * probe timeout, with the peer's delay of a lone segment's ACK (section 7.2), and a round trip. */
static void test_one_lost(void)
{
    const uint64_t rtt = 2 * DELAY;
    fault.lose_seq = UINT32_MAX;
    CHECK_EQ(transfer(1, 40, 40 * MSS), rtt);
    CHECK_EQ(tx.retransmissions + tx.probes, 0);
    CHECK_EQ(transfer(1, 40, 10 * MSS), 3 * rtt); /* 10, 20, 10 */
    for (uint32_t lost = 0; lost < 40; lost++) {
        fault.lose_seq = lost;
        uint64_t took = transfer(1, 40, 40 * MSS);
        CHECK_EQ(fault.lost, 1);
        CHECK_EQ(tx.timeouts, 0);
        CHECK_EQ(rx.duplicates, 0);
        CHECK_EQ(tx.retransmissions, 1);
        CHECK_EQ(tx.probes, lost == 39);
        if (lost < 37)
            CHECK_EQ(took, 2 * rtt + 100 * NET_US);
        else if (lost < 39)
            CHECK_EQ(took, 2 * rtt + rtt / 4);
        else
            CHECK_EQ(took, rtt + 2 * rtt + ACK_DELAY + rtt);
    }
}

static void test_random(void)
{
    uint32_t sent = 0, probes = 0, timeouts = 0, duplicates = 0, lost = 0;
    fault.lose_seq = UINT32_MAX;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        fault.loss = seed % 4 * 0.01;
        fault.reorder = 0;
        transfer(seed, 2000, 10 * MSS);
        sent += tx.retransmissions;
        probes += tx.probes;
        timeouts += tx.timeouts;
        duplicates += rx.duplicates;
        lost += fault.lost;
    }
    /* In order, nothing but probes is sent in vain. */
    CHECK(lost > 2000);
    CHECK(sent >= lost - probes && sent <= lost + probes);
    CHECK(duplicates <= probes + timeouts);
    CHECK(timeouts <= 5);

    /* Of a hundred segments that come a millisecond late a few are sent in vain, until reordering
     * was seen: then that is within the window, a quarter of the round trip. */
    for (uint64_t seed = 1; seed <= 20; seed++) {
        fault.loss = 0;
        fault.reorder = 0.05;
        transfer(seed, 2000, 10 * MSS);
        CHECK(tx.retransmissions <= 15);
        CHECK_EQ(tx.retransmissions, rx.duplicates);
        CHECK_EQ(tx.timeouts, 0);
    }
    fault.loss = 0.02;
    for (uint64_t seed = 1; seed <= 20; seed++)
        transfer(seed, 2000, 10 * MSS);
    fault.reorder = fault.loss = 0;
}

int main(void)
{
    start_eal();
    pool = packet_pool("packets", 4095, 128);
    meta = tcp_meta_register();
    CHECK(meta > 0);
    test_one_lost();
    test_random();
    return 0;
}
