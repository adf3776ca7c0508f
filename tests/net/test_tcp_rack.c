/* RACK-TLP in virtual time: the steps of RFC 8985, then loss and reordering at random beside its
 * pseudocode, which looks at every segment each time. */
#include <string.h>

#include "check.h"
#include "harness.h"
#include "net/tcp_sent.h"

_Static_assert(sizeof(struct zh_net_socket) <= 960,
               "100,000 idle connections cost less than 1 KB each, their timers included");

static struct tcp_sent_ring ring;
static struct tcp_rack rack;
static uint64_t now, timeout;
static uint32_t una, nxt;
static bool recovering;

static const uint32_t iss = UINT32_MAX - 2500; /* wraps after the third segment */

enum { MSS = 1000 };

static void begin(void)
{
    tcp_sent_free(&ring);
    tcp_rack_begin(&rack, iss);
    now = NET_SECOND;
    una = nxt = iss;
    recovering = false;
}

static void send_at(uint64_t at, unsigned segments)
{
    now = NET_SECOND + at;
    for (; segments > 0; segments--, nxt += MSS)
        CHECK_EQ(tcp_sent_add(&ring, nxt, nxt + MSS, 0, now), 0);
}

/* An ACK: `acked` segments in all cumulatively, and [from, to) selectively. Returns segments newly
 * lost. */
static uint32_t ack_at(uint64_t at, uint32_t acked, uint32_t from, uint32_t to)
{
    struct tcp_delivered delivered = {0};
    const struct tcp_sack_block block = {iss + from * MSS, iss + to * MSS};
    struct tcp_rack_ack ack = {.rack = &rack, .now = NET_SECOND + at};
    now = NET_SECOND + at;
    una = iss + acked * MSS;
    tcp_sent_ack(&ring, una, &delivered, tcp_rack_delivered, &ack);
    tcp_sent_sack(&ring, &block, to > from, &delivered, tcp_rack_delivered, &ack);
    return tcp_rack_detect_loss(&rack, &ring, now, 100 * (uint64_t)NET_MS, recovering, &timeout) /
           MSS;
}

static uint32_t look_at(uint64_t at)
{
    now = NET_SECOND + at;
    return tcp_rack_detect_loss(&rack, &ring, now, 100 * (uint64_t)NET_MS, recovering, &timeout) /
           MSS;
}

#define AT_MS(n) ((uint64_t)(n)*NET_MS)

/* Section 6.2: sent a quarter of a round trip before one that arrived. */
static void test_detect(void)
{
    begin();
    send_at(0, 4);
    CHECK_EQ(ack_at(AT_MS(100), 1, 2, 3), 0); /* the first and the third; of one burst */
    CHECK_EQ(timeout, AT_MS(25));             /* min_RTT / 4 */
    CHECK_EQ(look_at(AT_MS(124)), 0);
    CHECK_EQ(timeout, AT_MS(1));
    CHECK_EQ(look_at(AT_MS(125)), 1);
    CHECK(tcp_sent_at(&ring, 0)->flags & TCP_SENT_LOST);
    CHECK_EQ(timeout, 0); /* the fourth was sent after the third */

    /* Three of them selectively acknowledged, or in recovery: DupThresh of step 4. The window is
     * the floor's 100 us. */
    begin();
    send_at(0, 5);
    CHECK_EQ(ack_at(AT_MS(100), 0, 1, 4), 0);
    CHECK_EQ(timeout, 100 * NET_US);
    CHECK_EQ(look_at(AT_MS(100) + 100 * NET_US), 1);
    begin();
    send_at(0, 5);
    recovering = true;
    CHECK_EQ(ack_at(AT_MS(100), 0, 1, 2), 0);
    CHECK_EQ(timeout, 100 * NET_US);
}

/* A lost retransmission is found by what was sent after it. */
static void test_lost_retransmission(void)
{
    begin();
    send_at(0, 3); /* the first two are lost */
    ack_at(AT_MS(100), 0, 2, 3);
    CHECK_EQ(look_at(AT_MS(125)), 2);
    recovering = true;
    tcp_sent_retransmitted(&ring, tcp_sent_at(&ring, 0), now);
    tcp_sent_retransmitted(&ring, tcp_sent_at(&ring, 1), now + NET_US);
    /* The second's retransmission arrives, the first's does not. */
    CHECK_EQ(ack_at(AT_MS(225) + NET_US, 0, 1, 3), 0);
    CHECK_EQ(look_at(AT_MS(225) + 101 * NET_US), 1);
    CHECK_EQ(tcp_sent_at(&ring, 0)->flags, TCP_SENT_LOST | TCP_SENT_RETRANSMITTED);
}

/* Step 2: an ACK faster than any round trip, or with an older timestamp, is of the first
 * transmission. */
static void test_ambiguous(void)
{
    begin();
    send_at(0, 3);
    ack_at(AT_MS(100), 0, 2, 3);
    look_at(AT_MS(125));
    tcp_sent_retransmitted(&ring, tcp_sent_at(&ring, 0), now);
    uint64_t was = rack.xmit_ts;
    ack_at(AT_MS(130), 1, 0, 0);
    CHECK_EQ(rack.xmit_ts, was);
    CHECK_EQ(rack.rtt, AT_MS(100));

    const struct tcp_sent record = {.sent_at = 5 * NET_SECOND,
                                    .seq = iss + MSS,
                                    .end = iss + 2 * MSS,
                                    .flags = TCP_SENT_RETRANSMITTED};
    struct tcp_rack_ack ack = {.rack = &rack,
                               .now = 6 * NET_SECOND,
                               .has_timestamps = true,
                               .ts_offset = UINT32_MAX - 100,
                               .tsecr = UINT32_MAX - 100 + 4999};
    tcp_rack_delivered(&ack, &record);
    CHECK_EQ(rack.xmit_ts, was);
    ack.tsecr++;
    tcp_rack_delivered(&ack, &record);
    CHECK_EQ(rack.xmit_ts, 5 * NET_SECOND);
    CHECK_EQ(rack.rtt, NET_SECOND);
}

/* Step 3. */
static void test_reordering_seen(void)
{
    begin();
    send_at(0, 6);
    ack_at(AT_MS(100), 0, 1, 2);
    CHECK(!rack.reordering_seen);
    ack_at(AT_MS(101), 2, 3, 6);
    CHECK(rack.reordering_seen);
    /* Then DupThresh no longer counts. */
    CHECK_EQ(timeout, AT_MS(25));
    /* Blocks of one ACK do not look like it, whatever their order; nor do retransmissions. */
    begin();
    send_at(0, 6);
    const struct tcp_sack_block blocks[] = {{iss + 4 * MSS, iss + 5 * MSS},
                                            {iss + 2 * MSS, iss + 3 * MSS}};
    struct tcp_delivered delivered = {0};
    struct tcp_rack_ack ack = {.rack = &rack, .now = now + AT_MS(100)};
    tcp_sent_sack(&ring, blocks, 2, &delivered, tcp_rack_delivered, &ack);
    CHECK_EQ(rack.fack, iss + 5 * MSS);
    tcp_sent_retransmitted(&ring, tcp_sent_at(&ring, 0), now + AT_MS(101));
    ack.now = now + AT_MS(300);
    tcp_sent_ack(&ring, iss + MSS, &delivered, tcp_rack_delivered, &ack);
    CHECK(!rack.reordering_seen);
}

/* Step 4. */
static void test_window(void)
{
    begin();
    send_at(0, 2);
    ack_at(AT_MS(40), 1, 0, 0);
    rack.reordering_seen = true;
    CHECK_EQ(tcp_rack_window(&rack, &ring, AT_MS(50), true), AT_MS(10));
    tcp_rack_adapt(&rack, una, nxt, true);
    CHECK_EQ(tcp_rack_window(&rack, &ring, AT_MS(50), true), AT_MS(20));
    tcp_rack_adapt(&rack, una, nxt, true); /* once a round */
    CHECK_EQ(tcp_rack_window(&rack, &ring, AT_MS(50), true), AT_MS(20));
    tcp_rack_adapt(&rack, nxt, nxt + MSS, true);
    CHECK_EQ(tcp_rack_window(&rack, &ring, AT_MS(50), true), AT_MS(30));
    CHECK_EQ(tcp_rack_window(&rack, &ring, AT_MS(25), true), AT_MS(25)); /* at most SRTT */
    CHECK_EQ(tcp_rack_window(&rack, &ring, 30 * NET_US, true), 100 * NET_US);
    for (int i = 0; i < 15; i++)
        tcp_rack_recovered(&rack);
    CHECK_EQ(rack.reo_wnd_mult, 3);
    tcp_rack_recovered(&rack); /* the sixteenth without */
    CHECK_EQ(rack.reo_wnd_mult, 1);
    tcp_rack_recovered(&rack);
    CHECK_EQ(rack.reo_wnd_mult, 1);
    for (int i = 0; i < 300; i++)
        tcp_rack_adapt(&rack, nxt + MSS + (uint32_t)i, nxt + MSS + (uint32_t)i, true);
    CHECK_EQ(rack.reo_wnd_mult, UINT8_MAX);
}

static void test_min_rtt(void)
{
    begin();
    CHECK_EQ(tcp_rack_min_rtt(&rack), 0);
    tcp_rack_sample(&rack, 5000, now);
    tcp_rack_sample(&rack, 7000, now + 200 * NET_SECOND);
    CHECK_EQ(tcp_rack_min_rtt(&rack), 5000);
    tcp_rack_sample(&rack, 8000, now + 310 * NET_SECOND);
    CHECK_EQ(tcp_rack_min_rtt(&rack), 5000);
    tcp_rack_sample(&rack, 9000, now + 620 * NET_SECOND);
    CHECK_EQ(tcp_rack_min_rtt(&rack), 8000);
    tcp_rack_sample(&rack, 10000, now + 2000 * NET_SECOND);
    CHECK_EQ(tcp_rack_min_rtt(&rack), 10000);
    tcp_rack_sample(&rack, 5 * NET_SECOND, now + 4000 * NET_SECOND);
    CHECK_EQ(tcp_rack_min_rtt(&rack), UINT32_MAX);
}

/* Section 6.3. */
static void test_timeout(void)
{
    begin();
    send_at(0, 1);
    ack_at(AT_MS(100), 1, 0, 0);
    send_at(AT_MS(200), 2);
    send_at(AT_MS(390), 1);
    now = NET_SECOND + AT_MS(400);
    CHECK_EQ(tcp_rack_mark_on_timeout(&rack, &ring, now, AT_MS(100)), 2 * MSS);
    CHECK_EQ(tcp_sent_at(&ring, 2)->flags, 0);
    /* The first whatever its time. */
    begin();
    send_at(0, 1);
    ack_at(AT_MS(100), 1, 0, 0);
    send_at(AT_MS(200), 2);
    CHECK_EQ(tcp_rack_mark_on_timeout(&rack, &ring, now, AT_MS(100)), MSS);
}

static void test_dsack(void)
{
    struct tcp_options options = {0};
    CHECK(tcp_find_dsack(&options, 1000) == NULL);
    options = (struct tcp_options){.sack_count = 1, .sack = {{500, 1000}}};
    CHECK(tcp_find_dsack(&options, 1000) == &options.sack[0]);
    CHECK(tcp_find_dsack(&options, 500) == NULL);
    CHECK(tcp_find_dsack(&options, 400) == NULL);
    options = (struct tcp_options){.sack_count = 2, .sack = {{2000, 2500}, {1500, 3000}}};
    CHECK(tcp_find_dsack(&options, 1000) == &options.sack[0]);
    options.sack[1].end = 2400;
    CHECK(tcp_find_dsack(&options, 1000) == NULL);
}

/* --- TLP -----------------------------------------------------------------------------------------
 */

static void test_tlp(void)
{
    struct tcp_tlp tlp = {0};
    /* Section 7.2, with the floor of 1 ms. */
    CHECK_EQ(tcp_tlp_timeout(AT_MS(50), 3, AT_MS(40), NET_SECOND), AT_MS(100));
    CHECK_EQ(tcp_tlp_timeout(AT_MS(50), 1, AT_MS(40), NET_SECOND), AT_MS(140));
    CHECK_EQ(tcp_tlp_timeout(30 * NET_US, 3, AT_MS(40), NET_SECOND), AT_MS(1));
    CHECK_EQ(tcp_tlp_timeout(30 * NET_US, 1, AT_MS(40), NET_SECOND), AT_MS(41));
    CHECK_EQ(tcp_tlp_timeout(0, 1, AT_MS(40), 3 * NET_SECOND), NET_SECOND);
    CHECK_EQ(tcp_tlp_timeout(AT_MS(50), 3, AT_MS(40), AT_MS(70)), AT_MS(70)); /* not after RTO */

    begin();
    tlp.sampled = true;
    CHECK(!tcp_tlp_allowed(&tlp, &ring, false)); /* nothing is in flight */
    send_at(0, 3);
    CHECK(tcp_tlp_allowed(&tlp, &ring, false));
    CHECK(!tcp_tlp_allowed(&tlp, &ring, true));
    tlp.sampled = false;
    CHECK(!tcp_tlp_allowed(&tlp, &ring, false));
    tlp.sampled = true;
    struct tcp_delivered delivered = {0};
    tcp_sent_sack(&ring, &(struct tcp_sack_block){iss + MSS, iss + 2 * MSS}, 1, &delivered, NULL,
                  NULL);
    CHECK(!tcp_tlp_allowed(&tlp, &ring, false));

    /* Section 7.4.2: new data says nothing of a loss. */
    const struct tcp_sack_block dsack = {nxt - MSS, nxt}, other = {nxt - 2 * MSS, nxt - MSS};
    tcp_tlp_sent(&tlp, nxt, false);
    CHECK(!tcp_tlp_allowed(&tlp, &ring, false));
    CHECK(!tcp_tlp_ack(&tlp, nxt - MSS, NULL, false));
    CHECK(tlp.outstanding);
    CHECK(!tcp_tlp_ack(&tlp, nxt, NULL, false));
    CHECK(!tlp.outstanding && !tlp.sampled);
    /* Sent again: a D-SACK for it says that nothing was lost, */
    tcp_tlp_sent(&tlp, nxt, true);
    CHECK(!tcp_tlp_ack(&tlp, nxt, NULL, false)); /* this may be of either */
    CHECK(tlp.outstanding);
    CHECK(!tcp_tlp_ack(&tlp, nxt, &dsack, false));
    CHECK(!tlp.outstanding);
    /* so does a duplicate ACK, */
    tcp_tlp_sent(&tlp, nxt, true);
    CHECK(!tcp_tlp_ack(&tlp, nxt, &other, false));
    CHECK(tlp.outstanding);
    CHECK(!tcp_tlp_ack(&tlp, nxt, NULL, true));
    CHECK(!tlp.outstanding);
    /* but an ACK of what came after it without either says that it was. */
    tcp_tlp_sent(&tlp, nxt, true);
    CHECK(tcp_tlp_ack(&tlp, nxt + MSS, NULL, false));
    CHECK(!tlp.outstanding);
    CHECK(!tcp_tlp_ack(&tlp, nxt + MSS, NULL, false));
}

/* --- the pseudocode ------------------------------------------------------------------------------
 */

static void run(uint64_t seed)
{
    uint64_t random = seed;
#define PICK(n) ((uint32_t)((random_next(&random) >> 16) % (n)))
    begin();
    for (int step = 0; step < 300; step++) {
        uint32_t i;
        now += PICK(4) ? PICK(NET_MS) : 0;
        send_at(now - NET_SECOND, PICK(6));
        for (uint32_t n = PICK(4); n > 0; n--) {
            struct tcp_sent *record = tcp_sent_next_lost(&ring, &i);
            if (record)
                tcp_sent_retransmitted(&ring, record, now);
        }
        now += PICK(4) ? PICK(NET_MS) : 0;
        struct tcp_delivered delivered = {0};
        struct tcp_rack_ack ack = {.rack = &rack, .now = now};
        if (ring.count > 0 && PICK(2)) {
            i = PICK(ring.count);
            const struct tcp_sack_block block = {tcp_sent_at(&ring, i)->seq,
                                                 tcp_sent_at(&ring, i)->end};
            if (PICK(3))
                tcp_sent_sack(&ring, &block, 1, &delivered, tcp_rack_delivered, &ack);
            else
                tcp_sent_ack(&ring, una = block.end, &delivered, tcp_rack_delivered, &ack);
        }
        tcp_rack_adapt(&rack, una, nxt, PICK(10) == 0);
        uint64_t srtt = PICK(3 * NET_MS), expected_timeout = 0;
        bool recovery = PICK(2);
        uint32_t expected = 0;
        uint64_t window = tcp_rack_window(&rack, &ring, srtt, recovery);
        for (i = 0; i < ring.count && rack.xmit_ts; i++) {
            const struct tcp_sent *r = tcp_sent_at(&ring, i);
            bool before = rack.xmit_ts > r->sent_at ||
                          (rack.xmit_ts == r->sent_at && seq_gt(rack.end_seq, r->end));
            if (!before || r->flags & (TCP_SENT_SACKED | TCP_SENT_LOST))
                continue;
            int64_t remaining = (int64_t)(r->sent_at + rack.rtt + window - now);
            if (remaining <= 0)
                expected += MSS;
            else if ((uint64_t)remaining > expected_timeout)
                expected_timeout = (uint64_t)remaining;
        }
        CHECK_EQ(tcp_rack_detect_loss(&rack, &ring, now, srtt, recovery, &timeout), expected);
        CHECK_EQ(timeout, expected_timeout);
    }
    tcp_sent_free(&ring);
}

int main(void)
{
    test_detect();
    test_lost_retransmission();
    test_ambiguous();
    test_reordering_seen();
    test_window();
    test_min_rtt();
    test_timeout();
    test_dsack();
    test_tlp();
    for (uint64_t seed = 1; seed <= 300; seed++)
        run(seed);
    return 0;
}
