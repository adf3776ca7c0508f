/* The ring of transmitted segments: each operation, then all of them at random beside a model that
 * keeps a state for every byte. */
#include <string.h>

#include "check.h"
#include "harness.h"
#include "net/tcp_sent.h"

static struct tcp_sent_ring ring;
static struct tcp_delivered delivered;

static void ack(uint32_t to)
{
    delivered = (struct tcp_delivered){0};
    tcp_sent_ack(&ring, to, &delivered, NULL, NULL);
}

static void sack(uint32_t start, uint32_t end)
{
    delivered = (struct tcp_delivered){0};
    tcp_sent_sack(&ring, &(struct tcp_sack_block){start, end}, 1, &delivered, NULL, NULL);
}

static void send_ten(uint32_t seq)
{
    for (uint32_t i = 0; i < 10; i++)
        CHECK_EQ(tcp_sent_add(&ring, seq + i * 100, seq + i * 100 + 100, 0, 1000 + i), 0);
}

/* Around the wrap of sequence numbers. */
static const uint32_t iss = UINT32_MAX - 450;

static void test_ack(void)
{
    CHECK_EQ(tcp_sent_add(&ring, iss, iss + 1, TCP_SENT_SYN, 1), 0);
    ack(iss);
    CHECK_EQ(tcp_sent_at(&ring, 0)->flags, TCP_SENT_SYN);
    ack(iss + 1);
    CHECK(ring.records == NULL);
    send_ten(iss);
    CHECK_EQ(ring.count, 10);
    CHECK_EQ(tcp_sent_in_flight(&ring, iss, iss + 1000), 1000);
    ack(iss); /* nothing new */
    CHECK_EQ(delivered.acked, 0);
    CHECK_EQ(delivered.sent_at, 0);
    ack(iss + 300);
    CHECK_EQ(delivered.acked, 300);
    CHECK_EQ(delivered.delivered, 300);
    CHECK_EQ(delivered.sent_at, 1002);
    CHECK(!delivered.retransmitted);
    ack(iss + 350); /* half a segment gives no sample */
    CHECK_EQ(delivered.acked, 50);
    CHECK_EQ(delivered.sent_at, 0);
    CHECK_EQ(tcp_sent_at(&ring, 0)->seq, iss + 350);
    ack(iss + 1000);
    CHECK_EQ(delivered.acked, 650);
    CHECK_EQ(delivered.sent_at, 1009);
    CHECK(ring.records == NULL && ring.count == 0);
}

/* RFC 6298 section 3: no sample of what was sent twice. */
static void test_karn(void)
{
    send_ten(iss);
    tcp_sent_lose(&ring, tcp_sent_at(&ring, 1));
    tcp_sent_retransmitted(&ring, tcp_sent_at(&ring, 1), 5000);
    ack(iss + 200);
    CHECK_EQ(delivered.sent_at, 1000);
    CHECK(delivered.retransmitted);
    /* Nor of what was selectively acknowledged before. */
    sack(iss + 900, iss + 1000);
    CHECK_EQ(delivered.sent_at, 1009);
    ack(iss + 1000);
    CHECK_EQ(delivered.sent_at, 1008);
    CHECK_EQ(delivered.acked, 800);
    CHECK_EQ(delivered.delivered, 700);
}

static uint32_t seen[16], seen_count;

static void see(void *context, const struct tcp_sent *record)
{
    CHECK(context == &seen_count);
    CHECK(!(record->flags & TCP_SENT_SACKED));
    seen[seen_count++] = record->seq - iss;
}

static void test_sack(void)
{
    send_ten(iss);
    sack(iss + 150, iss + 400); /* not the half of the second */
    CHECK_EQ(delivered.sacked, 200);
    CHECK_EQ(delivered.sent_at, 1003);
    CHECK_EQ(ring.bytes_sacked, 200);
    CHECK_EQ(tcp_sent_in_flight(&ring, iss, iss + 1000), 800);
    sack(iss + 150, iss + 599);
    CHECK_EQ(delivered.sacked, 100);
    /* Of what was not sent, was acknowledged, reversed. */
    sack(iss + 900, iss + 1100);
    CHECK_EQ(delivered.sacked, 0);
    sack(iss - 500, iss);
    CHECK_EQ(delivered.sacked, 0);
    sack(iss + 800, iss + 700);
    CHECK_EQ(delivered.sacked, 0);
    /* Any order of blocks; the records come in theirs. */
    const struct tcp_sack_block blocks[] = {
        {iss + 900, iss + 1000}, {iss + 600, iss + 800}, {iss + 100, iss + 600}};
    delivered = (struct tcp_delivered){0};
    tcp_sent_sack(&ring, blocks, 3, &delivered, see, &seen_count);
    CHECK_EQ(seen_count, 5);
    CHECK_EQ(seen[0], 100);
    CHECK_EQ(seen[1], 500);
    CHECK_EQ(seen[2], 600);
    CHECK_EQ(seen[4], 900);
    CHECK_EQ(delivered.sent_at, 1009);
    CHECK_EQ(tcp_sent_in_flight(&ring, iss, iss + 1000), 200);
    tcp_sent_forget_sacked(&ring);
    CHECK_EQ(tcp_sent_in_flight(&ring, iss, iss + 1000), 1000);
    tcp_sent_free(&ring);
    sack(iss, iss + 100); /* nothing there */
    CHECK_EQ(delivered.sacked, 0);
}

static void test_lost(void)
{
    uint32_t i;
    send_ten(iss);
    CHECK(tcp_sent_next_lost(&ring, &i) == NULL);
    sack(iss + 500, iss + 600);
    CHECK_EQ(tcp_sent_lose(&ring, tcp_sent_at(&ring, 7)), 100);
    CHECK_EQ(tcp_sent_lose(&ring, tcp_sent_at(&ring, 7)), 0);
    CHECK_EQ(tcp_sent_lose(&ring, tcp_sent_at(&ring, 5)), 0); /* the peer has it */
    CHECK_EQ(tcp_sent_lose(&ring, tcp_sent_at(&ring, 2)), 100);
    CHECK_EQ(tcp_sent_in_flight(&ring, iss, iss + 1000), 700);
    CHECK_EQ(tcp_sent_next_lost(&ring, &i)->seq, iss + 200);
    CHECK_EQ(i, 2);
    tcp_sent_retransmitted(&ring, tcp_sent_at(&ring, 2), 2000);
    CHECK_EQ(tcp_sent_at(&ring, 2)->transmissions, 2);
    CHECK_EQ(tcp_sent_in_flight(&ring, iss, iss + 1000), 800);
    CHECK_EQ(tcp_sent_next_lost(&ring, &i)->seq, iss + 700);
    sack(iss + 700, iss + 800); /* it was not */
    CHECK(tcp_sent_next_lost(&ring, &i) == NULL);
    CHECK_EQ(tcp_sent_lose_all(&ring), 800);
    CHECK_EQ(tcp_sent_in_flight(&ring, iss, iss + 1000), 0);
    ack(iss + 50);
    CHECK_EQ(ring.bytes_lost, 750);
    CHECK_EQ(tcp_sent_next_lost(&ring, &i)->seq, iss + 50);
    tcp_sent_recover_all(&ring);
    CHECK_EQ(tcp_sent_in_flight(&ring, iss + 50, iss + 1000), 750);
    CHECK(tcp_sent_next_lost(&ring, &i) == NULL);
    tcp_sent_free(&ring);
}

static void test_split(void)
{
    CHECK_EQ(tcp_sent_add(&ring, 0, 1000, TCP_SENT_FIN, 1), 0);
    CHECK_EQ(tcp_sent_split(&ring, 0, 600), 0);
    CHECK_EQ(tcp_sent_split(&ring, 0, 300), 0);
    CHECK_EQ(ring.count, 3);
    CHECK_EQ(tcp_sent_at(&ring, 1)->seq, 300);
    CHECK_EQ(tcp_sent_at(&ring, 1)->end, 600);
    CHECK_EQ(tcp_sent_at(&ring, 1)->flags, 0);
    CHECK_EQ(tcp_sent_at(&ring, 2)->flags, TCP_SENT_FIN);
    ack(1000);
    CHECK_EQ(delivered.acked, 1000);
}

/* --- the model: a flat array of records, everything recomputed ----------------------------------
 */

enum { MODEL_MAX = 4096 };

static struct tcp_sent model[MODEL_MAX];
static uint32_t model_count;

static void model_remove_first(void)
{
    memmove(model, model + 1, --model_count * sizeof model[0]);
}

static void compare(uint32_t una, uint32_t nxt)
{
    uint32_t sacked = 0, records = 0, lost = 0, i, first_lost = UINT32_MAX;
    CHECK_EQ(ring.count, model_count);
    for (i = 0; i < model_count; i++) {
        const struct tcp_sent *m = &model[i], *r = tcp_sent_at(&ring, i);
        CHECK(m->seq == r->seq && m->end == r->end && m->flags == r->flags);
        CHECK(m->sent_at == r->sent_at && m->transmissions == r->transmissions);
        sacked += m->flags & TCP_SENT_SACKED ? m->end - m->seq : 0;
        records += m->flags & TCP_SENT_SACKED ? 1 : 0;
        lost += m->flags & TCP_SENT_LOST ? m->end - m->seq : 0;
        if (m->flags & TCP_SENT_LOST && first_lost == UINT32_MAX)
            first_lost = i;
    }
    for (i = 0; i < model_count; i++)
        for (uint32_t j = 0; j < tcp_sent_at(&ring, i)->skip; j++)
            CHECK(i + j < model_count && model[i + j].flags & TCP_SENT_SACKED);
    CHECK_EQ(ring.bytes_sacked, sacked);
    CHECK_EQ(ring.records_sacked, records);
    CHECK_EQ(ring.bytes_lost, lost);
    CHECK_EQ(tcp_sent_in_flight(&ring, una, nxt), nxt - una - sacked - lost);
    struct tcp_sent *found = tcp_sent_next_lost(&ring, &i);
    CHECK((found != NULL) == (first_lost != UINT32_MAX));
    CHECK(!found || i == first_lost);
    CHECK((ring.records == NULL) == (model_count == 0));
}

static void run(uint64_t seed)
{
    uint64_t random = seed;
#define PICK(n) ((uint32_t)((random_next(&random) >> 16) % (n)))
    uint32_t una = (uint32_t)random_next(&random), nxt = una;
    uint64_t now = 1;
    uint32_t burst = 1 + PICK(40);
    model_count = 0;
    for (int step = 0; step < 400; step++) {
        struct tcp_delivered expected = {0}, got = {0};
        uint32_t i;
        now += PICK(3);
        switch (PICK(8)) {
        case 0:
        case 1:
            for (uint32_t n = PICK(burst); n > 0 && model_count < MODEL_MAX; n--) {
                uint32_t size = 1 + PICK(1460);
                CHECK_EQ(tcp_sent_add(&ring, nxt, nxt + size, 0, now), 0);
                model[model_count++] = (struct tcp_sent){now, nxt, nxt + size, 0, 1, 0};
                nxt += size;
            }
            break;
        case 2: { /* acknowledge: a boundary, or anywhere */
            uint32_t to = una + (nxt == una ? 0 : PICK(nxt - una + 1));
            if (model_count > 0 && PICK(2))
                to = model[PICK(model_count)].end;
            while (model_count > 0 && seq_lt(model[0].seq, to)) {
                struct tcp_sent *m = &model[0];
                bool whole = seq_leq(m->end, to);
                uint32_t size = (whole ? m->end : to) - m->seq;
                expected.acked += size;
                if (!(m->flags & TCP_SENT_SACKED)) {
                    expected.delivered += size;
                    if (whole && m->transmissions > 1)
                        expected.retransmitted = true;
                    else if (whole && m->sent_at > expected.sent_at)
                        expected.sent_at = m->sent_at;
                }
                if (!whole) {
                    m->seq = to;
                    break;
                }
                model_remove_first();
            }
            tcp_sent_ack(&ring, to, &got, NULL, NULL);
            una = to;
            break;
        }
        case 3:
        case 4: { /* blocks, sensible ones and others */
            struct tcp_sack_block blocks[TCP_SACK_MAX];
            unsigned count = PICK(TCP_SACK_MAX + 1);
            for (unsigned b = 0; b < count; b++) {
                uint32_t span = nxt - una + 200, start = una - 100 + PICK(span);
                blocks[b] = (struct tcp_sack_block){start, start + PICK(5000)};
                if (model_count > 0 && PICK(4)) {
                    i = PICK(model_count);
                    blocks[b].start = model[i].seq;
                    i += PICK(model_count - i < 20 ? model_count - i : 20);
                    blocks[b].end = model[i].end;
                }
            }
            for (i = 0; i < model_count; i++) {
                struct tcp_sent *m = &model[i];
                bool covered = false;
                for (unsigned b = 0; b < count; b++)
                    covered |= seq_leq(blocks[b].end, nxt) && seq_leq(blocks[b].start, m->seq) &&
                               seq_leq(m->end, blocks[b].end);
                if (!covered || m->flags & TCP_SENT_SACKED)
                    continue;
                expected.sacked += m->end - m->seq;
                expected.delivered += m->end - m->seq;
                if (m->transmissions > 1)
                    expected.retransmitted = true;
                else if (m->sent_at > expected.sent_at)
                    expected.sent_at = m->sent_at;
                m->flags = (uint8_t)((m->flags & ~TCP_SENT_LOST) | TCP_SENT_SACKED);
            }
            tcp_sent_sack(&ring, blocks, count, &got, NULL, NULL);
            break;
        }
        case 5: /* lose some */
            for (uint32_t n = PICK(burst); n > 0 && model_count > 0; n--) {
                i = PICK(model_count);
                bool fresh = !(model[i].flags & (TCP_SENT_SACKED | TCP_SENT_LOST));
                CHECK_EQ(tcp_sent_lose(&ring, tcp_sent_at(&ring, i)),
                         fresh ? model[i].end - model[i].seq : 0);
                if (fresh)
                    model[i].flags |= TCP_SENT_LOST;
            }
            break;
        case 6: /* retransmit what is lost */
            for (uint32_t n = PICK(burst); n > 0; n--) {
                struct tcp_sent *record = tcp_sent_next_lost(&ring, &i);
                if (!record)
                    break;
                tcp_sent_retransmitted(&ring, record, now);
                model[i].flags =
                    (uint8_t)((model[i].flags & ~TCP_SENT_LOST) | TCP_SENT_RETRANSMITTED);
                model[i].transmissions++;
                model[i].sent_at = now;
            }
            break;
        case 7:
            switch (PICK(8)) {
            case 0:
                tcp_sent_lose_all(&ring);
                for (i = 0; i < model_count; i++)
                    if (!(model[i].flags & TCP_SENT_SACKED))
                        model[i].flags |= TCP_SENT_LOST;
                break;
            case 1:
                tcp_sent_forget_sacked(&ring);
                for (i = 0; i < model_count; i++)
                    model[i].flags &= (uint8_t)~TCP_SENT_SACKED;
                break;
            case 2:
                tcp_sent_recover_all(&ring);
                for (i = 0; i < model_count; i++)
                    model[i].flags &= (uint8_t)~TCP_SENT_LOST;
                break;
            case 3:
                if (model_count == 0 || model_count == MODEL_MAX)
                    break;
                i = PICK(model_count);
                if (model[i].end - model[i].seq < 2)
                    break;
                uint32_t at = model[i].seq + 1 + PICK(model[i].end - model[i].seq - 1);
                CHECK_EQ(tcp_sent_split(&ring, i, at), 0);
                memmove(&model[i + 1], &model[i], (model_count++ - i) * sizeof model[0]);
                model[i].end = model[i + 1].seq = at;
                break;
            }
            break;
        }
        CHECK_EQ(got.acked, expected.acked);
        CHECK_EQ(got.sacked, expected.sacked);
        CHECK_EQ(got.delivered, expected.delivered);
        CHECK_EQ(got.sent_at, expected.sent_at);
        CHECK_EQ(got.retransmitted, expected.retransmitted);
        compare(una, nxt);
    }
    tcp_sent_free(&ring);
}

int main(void)
{
    test_ack();
    test_karn();
    test_sack();
    test_lost();
    test_split();
    for (uint64_t seed = 1; seed <= 300; seed++)
        run(seed);
    return 0;
}
