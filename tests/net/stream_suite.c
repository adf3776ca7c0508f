#include "stream_suite.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "check.h"
#include "stream_harness.h"

/* Mostly small, some empty, a few of hundreds of KiB. */
static size_t random_size(void)
{
    switch (suite_draw(8)) {
    case 0:
        return suite_draw(3);
    case 1:
        return suite_draw(400 * KIB);
    case 2:
        return suite_draw(64 * KIB);
    default:
        return suite_draw(2000);
    }
}

static void random_transfer(uint64_t seed)
{
    suite_random_word = seed;
    struct pair pair = open_pair();
    uint64_t total = suite_draw(2 * MIB);
    bool shut_done[2] = {false, false};

    for (unsigned idle = 0; !pair.flows[0].end || !pair.flows[1].end;) {
        uint64_t before = suite_news;
        for (unsigned i = 0, first = (unsigned)suite_draw(2); i < 2; i++) {
            struct flow *flow = &pair.flows[i ^ first];
            unsigned side = i ^ first;
            if (suite_draw(3)) {
                while (flow->made < total && flow->offered_count < 1 + suite_draw(OFFERED)) {
                    size_t size = random_size();
                    suite_offer(flow, size, (unsigned)suite_draw(5) + (size > 0));
                }
                if (flow->offered_count) {
                    int result = send_offered(flow);
                    CHECK(result > 0 || result == -EAGAIN);
                } else if (!shut_done[side]) {
                    CHECK_EQ(suite_shut(flow->from), 0);
                    shut_done[side] = true;
                    suite_news++;
                }
            }
            if (suite_draw(3)) {
                int result = receive_held(flow, 1 + (unsigned)suite_draw(OFFERED));
                CHECK(result >= 0 || result == -EAGAIN);
                while (flow->held_count > 20 || (flow->held_count && suite_draw(4)))
                    release_held(flow, suite_draw(flow->held_count));
            }
        }
        idle = suite_news == before ? idle + 1 : 0;
        CHECK(idle < STEPS);
        if (idle)
            suite_step();
    }
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(pair.flows[i].received, pair.flows[i].made);
        CHECK_EQ(suite_info(pair.flows[i].to).bytes_received, pair.flows[i].made);
        UNTIL(suite_ready(pair.ends[i]) & ZH_STREAM_HUP);
    }
    close_both(&pair); /* with segments held */
}

static void random_transfers(void)
{
    for (unsigned seed = 1; seed <= suite_provider->transfers; seed++)
        random_transfer(seed);
}

/* One record that is larger than any buffer. */
static void big_record(void)
{
    struct pair pair = open_pair();

    send_one(&pair.flows[0], suite_provider->big, 5);
    suite_offer(&pair.flows[0], 10, 1);
    UNTIL(received_all(&pair.flows[0]) &
          (!pair.flows[0].offered_count || send_offered(&pair.flows[0]) != 1));
    UNTIL(!pair.flows[0].offered_count || send_offered(&pair.flows[0]) == 1);
    UNTIL(received_all(&pair.flows[0]));
    CHECK_EQ(pair.flows[0].received, suite_provider->big + 10);
    close_both(&pair);
}

/* Empty records, empty pieces, more pieces than a system call takes. */
static void odd_records(void)
{
    struct pair pair = open_pair();
    struct flow *flow = &pair.flows[0];

    send_one(flow, 0, 0);
    send_one(flow, 0, 7);
    suite_settle();
    for (int i = 0; i < 3; i++)
        suite_step();
    CHECK_EQ(suite_receive(flow), -EAGAIN);
    send_one(flow, 5000, 3000);
    send_one(flow, 3 * MIB, 2500);
    UNTIL(received_all(flow));
    /* Empty ones behind what is still queued. */
    send_until_full(flow, 256 * KIB);
    UNTIL(received_all(flow));
    for (int i = 0; i < 5; i++)
        suite_offer(flow, i == 2 ? 12345 : 0, i == 2 ? 1000 : 0);
    UNTIL(send_offered(flow) > 0 && !flow->offered_count);
    UNTIL(received_all(flow));
    suite_settle();
    close_both(&pair);
}

/* -EAGAIN at the limit, and ZH_STREAM_OUT when there is room again. */
static void full_queue(void)
{
    struct pair pair = open_pair();
    struct flow *flow = &pair.flows[0];

    CHECK(suite_ready(pair.ends[0]) & ZH_STREAM_OUT);
    CHECK(!(suite_ready(pair.ends[0]) & (ZH_STREAM_IN | ZH_STREAM_HUP | ZH_STREAM_ERR)));
    send_until_full(flow, 64 * KIB);
    CHECK(!(suite_ready(pair.ends[0]) & ZH_STREAM_OUT));
    CHECK(suite_ready(pair.ends[1]) & ZH_STREAM_IN);
    CHECK(suite_ready(pair.ends[1]) & ZH_STREAM_OUT); /* the other direction is free */
    send_one(&pair.flows[1], 1000, 1);
    UNTIL(received_all(&pair.flows[1]));
    uint64_t accepted = flow->sent;
    for (int round = 0; round < 3; round++) {
        UNTIL((suite_ready(pair.ends[0]) & ZH_STREAM_OUT) || (suite_receive(flow), false));
        send_one(flow, 64 * KIB, 1);
    }
    CHECK_EQ(flow->sent, accepted + (uint64_t)3 * 64 * KIB);
    UNTIL(received_all(flow));
    suite_settle();
    close_both(&pair);
}

/* Segments that are not given back close the window, and open it again when they are. */
static void held_segments(void)
{
    struct pair pair = open_pair();
    struct flow *flow = &pair.flows[0];
    size_t most = 0;

    for (unsigned idle = 0; idle < 10;) {
        uint64_t before = suite_news;
        if (!flow->offered_count)
            suite_offer(flow, 64 * KIB, 2);
        int result = send_offered(flow);
        CHECK(result > 0 || result == -EAGAIN);
        result = receive_held(flow, OFFERED);
        CHECK(result > 0 || result == -EAGAIN);
        CHECK(flow->sent < (uint64_t)512 * MIB);
        idle = suite_news == before ? idle + 1 : 0;
        if (idle)
            suite_step();
    }
    CHECK(flow->held_bytes < (size_t)64 * MIB);
    CHECK(!(suite_ready(pair.ends[1]) & ZH_STREAM_IN));
    most = flow->held_bytes;
    release_all(flow);
    UNTIL(suite_ready(pair.ends[1]) & ZH_STREAM_IN);
    withdraw(flow);
    UNTIL(received_all(flow));
    CHECK(flow->received >= most);
    suite_settle();
    close_both(&pair);
}

struct releaser {
    pthread_mutex_t lock;
    struct held queue[64];
    unsigned count;
    bool over;
};

static void *release_elsewhere(void *argument)
{
    struct releaser *releaser = argument;

    for (;;) {
        struct held held;
        pthread_mutex_lock(&releaser->lock);
        bool over = releaser->over, any = releaser->count > 0;
        if (any)
            held = releaser->queue[--releaser->count];
        pthread_mutex_unlock(&releaser->lock);
        if (!any && over)
            return NULL;
        if (!any)
            continue;
        suite_verify(held.segment.data, held.segment.size, held.seed, held.offset);
        zh_stream_release(&held.segment);
    }
}

/* Segments are released by another thread while this one goes on, and after the close. */
static void other_thread(void)
{
    struct pair pair = open_pair();
    struct flow *flow = &pair.flows[0];
    struct releaser releaser = {.lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_t thread;

    CHECK_EQ(pthread_create(&thread, NULL, release_elsewhere, &releaser), 0);
    for (unsigned idle = 0; flow->received < (uint64_t)16 * MIB; idle++) {
        uint64_t before = suite_news;
        while (flow->offered_count < OFFERED)
            suite_offer(flow, suite_draw(20000), 2);
        int result = send_offered(flow);
        CHECK(result > 0 || result == -EAGAIN);
        result = receive_held(flow, OFFERED);
        CHECK(result > 0 || result == -EAGAIN);
        pthread_mutex_lock(&releaser.lock);
        while (flow->held_count && releaser.count < 64) {
            releaser.queue[releaser.count++] = flow->held[--flow->held_count];
            flow->held_bytes -= flow->held[flow->held_count].segment.size;
        }
        pthread_mutex_unlock(&releaser.lock);
        if (suite_news != before)
            idle = 0;
        else
            suite_step();
        CHECK(idle < STEPS);
    }
    withdraw(flow);
    close_end(pair.ends[1]);
    close_end(pair.ends[0]);
    suite_settle();
    pthread_mutex_lock(&releaser.lock);
    releaser.over = true;
    pthread_mutex_unlock(&releaser.lock);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    pthread_mutex_destroy(&releaser.lock);
    release_all(flow);
}

/* Held across the close of both ends, and across other streams. */
static void held_across_close(void)
{
    struct pair pair = open_pair();
    struct flow *flow = &pair.flows[0];

    for (int i = 0; i < 40; i++) {
        send_one(flow, 1 + suite_draw(900), 2);
        UNTIL(flow->received == flow->sent || (receive_held(flow, OFFERED), false));
    }
    CHECK(flow->held_count >= 40);
    close_end(pair.ends[1]);
    close_end(pair.ends[0]);
    suite_settle();
    for (int i = 0; i < 3; i++) {
        struct pair other = open_pair();
        send_one(&other.flows[0], 100 * KIB, 1);
        UNTIL(received_all(&other.flows[0]));
        close_both(&other);
    }
    release_all(flow);
}

static void half_close(int first)
{
    struct pair pair = open_pair();
    struct flow *flow = &pair.flows[first], *back = &pair.flows[!first];

    for (int i = 0; i < 20; i++)
        send_one(flow, 10000, 2); /* below any limit */
    CHECK_EQ(suite_shut(flow->from), 0);
    CHECK_EQ(suite_shut(flow->from), 0);
    CHECK(!(suite_ready(flow->from) & ZH_STREAM_OUT));
    suite_offer(flow, 10, 1);
    CHECK_EQ(send_offered(flow), -EPIPE);
    CHECK_EQ(send_offered(flow), -EPIPE);
    withdraw(flow);
    UNTIL(suite_ended(flow));
    CHECK(suite_ready(flow->to) & ZH_STREAM_IN);
    CHECK(suite_ready(flow->to) & ZH_STREAM_OUT);
    CHECK(!(suite_ready(flow->to) & ZH_STREAM_HUP));
    /* The other direction goes on, for more than any buffer. */
    for (int i = 0; i < 300; i++) {
        suite_offer(back, 64 * KIB, 1);
        UNTIL((received_all(back), send_offered(back) == 1));
    }
    CHECK_EQ(suite_receive(back) == 0, 0);
    CHECK_EQ(suite_shut(back->from), 0);
    UNTIL(suite_ended(back));
    UNTIL(suite_ready(flow->from) & ZH_STREAM_HUP);
    UNTIL(suite_ready(flow->to) & ZH_STREAM_HUP);
    CHECK(!(suite_ready(flow->from) & ZH_STREAM_ERR));
    close_both(&pair);
}

static void half_closes(void)
{
    half_close(0);
    half_close(1);
    /* Both at once. */
    struct pair pair = open_pair();
    for (int i = 0; i < 2; i++) {
        send_one(&pair.flows[i], 50000, 3);
        CHECK_EQ(suite_shut(pair.ends[i]), 0);
    }
    for (int i = 0; i < 2; i++)
        UNTIL(suite_ended(&pair.flows[i]));
    close_both(&pair);
}

/* Shut with records queued: they are sent, and then the end. */
static void shut_queued(void)
{
    struct pair pair = open_pair();
    struct flow *flow = &pair.flows[0];

    send_until_full(flow, 100 * KIB);
    CHECK_EQ(suite_shut(flow->from), 0);
    CHECK(!(suite_ready(flow->from) & ZH_STREAM_HUP));
    suite_offer(flow, 10, 1);
    CHECK_EQ(send_offered(flow), -EPIPE);
    withdraw(flow);
    UNTIL(suite_ended(flow));
    suite_settle();
    /* Sending to a peer that has only shut its own direction is no error. */
    send_one(&pair.flows[1], 1000, 1);
    UNTIL(received_all(&pair.flows[1]));
    close_both(&pair);
}

/* A close with unread data, and one after which more arrives: a reset. */
static void close_unread(void)
{
    struct pair pair = open_pair();

    send_one(&pair.flows[0], 1000, 1);
    UNTIL(suite_ready(pair.ends[1]) & ZH_STREAM_IN);
    close_end(pair.ends[1]);
    CHECK_EQ(expect_failed(pair.ends[0]), -ECONNRESET);
    close_end(pair.ends[0]);
    suite_settle();

    pair = open_pair();
    close_end(pair.ends[1]);
    UNTIL(suite_ended(&pair.flows[1]) || (pair.flows[1].to = pair.ends[0], false));
    send_one(&pair.flows[0], 1000, 1);
    UNTIL(suite_ready(pair.ends[0]) & ZH_STREAM_ERR);
    int error = expect_failed(pair.ends[0]);
    CHECK(error == -EPIPE || error == -ECONNRESET);
    close_end(pair.ends[0]);
    suite_settle();

    /* With a queue too: nobody gets a part of it as if it were all. */
    pair = open_pair();
    send_one(&pair.flows[0], 1000, 1);
    UNTIL(suite_ready(pair.ends[1]) & ZH_STREAM_IN);
    send_until_full(&pair.flows[1], 100 * KIB);
    close_end(pair.ends[1]);
    suite_settle();
    int result;
    UNTIL((result = suite_receive(&pair.flows[1])) < 0 && result != -EAGAIN);
    CHECK_EQ(expect_failed(pair.ends[0]), -ECONNRESET);
    close_end(pair.ends[0]);
    suite_settle();
}

/* A close with records queued: the peer gets all of them, then the end. */
static void close_queued(void)
{
    for (int shut_first = 0; shut_first < 2; shut_first++) {
        struct pair pair = open_pair();
        struct flow *flow = &pair.flows[0];

        send_until_full(flow, 100 * KIB);
        if (shut_first)
            CHECK_EQ(suite_shut(pair.ends[0]), 0);
        close_end(pair.ends[0]);
        UNTIL(suite_ended(flow));
        suite_settle();
        close_end(pair.ends[1]);
    }
    /* Both at once: each has what was sent before it closes. */
    struct pair pair = open_pair();
    for (int i = 0; i < 2; i++) {
        send_one(&pair.flows[i], 30000, 3);
        UNTIL(received_all(&pair.flows[i]));
    }
    close_both(&pair);
}

/* What was received before the peer failed is given before the error. */
static void data_before_error(void)
{
    struct pair pair = open_pair();
    struct flow *flow = &pair.flows[0];

    send_one(flow, 100 * KIB, 1);
    UNTIL(suite_info(pair.ends[1]).bytes_received == (uint64_t)100 * KIB);
    vanish(pair.ends[0]);
    UNTIL(suite_ready(pair.ends[1]) & ZH_STREAM_ERR);
    /* Calls that tell the error already do not lose what was received. */
    CHECK(suite_shut(pair.ends[1]) < 0);
    while (flow->received < flow->sent)
        CHECK(suite_receive(flow) > 0);
    CHECK_EQ(expect_failed(pair.ends[1]), -ECONNRESET);
    close_end(pair.ends[1]);
    suite_settle();
}

/* The peer goes while both send. */
static void peer_vanishes(void)
{
    for (int full = 0; full < 2; full++) {
        struct pair pair = open_pair();

        for (int i = 0; i < 2; i++) {
            if (full)
                send_until_full(&pair.flows[i], 100 * KIB);
            else
                send_one(&pair.flows[i], 10000, 2);
        }
        vanish(pair.ends[1]);
        int result;
        UNTIL((result = suite_receive(&pair.flows[1])) < 0 && result != -EAGAIN);
        CHECK_EQ(expect_failed(pair.ends[0]), result);
        suite_settle(); /* before the close: a stream that has failed lets go of its records */
        close_end(pair.ends[0]);
    }
}

static uint16_t port_of(const struct sockaddr_storage *address)
{
    uint16_t port; /* at the same place in IPv4 and IPv6 */

    memcpy(&port, (const char *)address + sizeof(sa_family_t), sizeof port);
    return port;
}

static void counters(void)
{
    struct pair pair = open_pair();
    struct flow *flow = &pair.flows[0];
    struct zh_stream_info sender = suite_info(pair.ends[0]), receiver = suite_info(pair.ends[1]);

    CHECK_EQ(sender.bytes_sent + sender.bytes_queued + sender.bytes_received, 0);
    CHECK(port_of(&sender.local) && port_of(&sender.peer));
    CHECK_EQ(port_of(&sender.local), port_of(&receiver.peer));
    CHECK_EQ(port_of(&sender.peer), port_of(&receiver.local));
    CHECK(!memcmp(&sender.local, &receiver.peer, sizeof(struct sockaddr)));
    CHECK(!memcmp(&sender.peer, &receiver.local, sizeof(struct sockaddr)));

    send_until_full(flow, 100 * KIB);
    sender = suite_info(pair.ends[0]);
    receiver = suite_info(pair.ends[1]);
    CHECK_EQ(sender.bytes_sent + sender.bytes_queued, flow->sent);
    CHECK(sender.bytes_queued > 0);
    CHECK(receiver.bytes_received > 0 && receiver.bytes_received <= flow->sent);
    UNTIL(received_all(flow));
    UNTIL(suite_info(pair.ends[0]).bytes_queued == 0);
    sender = suite_info(pair.ends[0]);
    receiver = suite_info(pair.ends[1]);
    CHECK_EQ(sender.bytes_sent, flow->sent);
    CHECK_EQ(sender.bytes_received, 0);
    CHECK_EQ(receiver.bytes_received, flow->sent);
    CHECK_EQ(receiver.bytes_sent, 0);
    CHECK(sender.bytes_copied <= suite_provider->copied_per_record * flow->records);
    CHECK_EQ(receiver.bytes_copied, 0);
    CHECK(sender.rtt_us > 0 && sender.rtt_us < 10 * 1000 * 1000);
    CHECK(sender.mss >= 500 && sender.mss <= 65535);
    CHECK(sender.retransmissions < flow->sent / sender.mss + 10);
    /* The end is no byte. */
    CHECK_EQ(suite_shut(pair.ends[0]), 0);
    sender = suite_info(pair.ends[0]);
    CHECK_EQ(sender.bytes_sent, flow->sent);
    CHECK_EQ(sender.bytes_queued, 0);
    UNTIL(suite_ended(flow));
    CHECK_EQ(suite_info(pair.ends[1]).bytes_received, flow->sent);
    close_both(&pair);
}

/* Thousands of streams come and go, in all ways, and nothing stays. */
static void churn(void)
{
    size_t before = suite_provider->leftover(suite_provider);

    for (unsigned i = 0; i < suite_provider->churn; i++) {
        struct pair pair = open_pair();
        if (i % 4) {
            send_one(&pair.flows[0], 1 + suite_draw(3000), 2);
            UNTIL(received_all(&pair.flows[0]));
        }
        if (i % 4 == 2)
            send_one(&pair.flows[1], 500, 1); /* perhaps not taken */
        if (i % 4 == 3) {
            CHECK_EQ(suite_shut(pair.ends[0]), 0);
            UNTIL(suite_ended(&pair.flows[0]));
        }
        close_both(&pair);
    }
    UNTIL(suite_provider->leftover(suite_provider) <= before);
}

void stream_suite(struct stream_provider *which)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } tests[] = {
        {"random transfers", random_transfers},
        {"a big record", big_record},
        {"odd records", odd_records},
        {"a full queue", full_queue},
        {"held segments", held_segments},
        {"release by another thread", other_thread},
        {"held across close", held_across_close},
        {"half close", half_closes},
        {"shutdown with a queue", shut_queued},
        {"close with unread data", close_unread},
        {"close with a queue", close_queued},
        {"data before the error", data_before_error},
        {"the peer vanishes", peer_vanishes},
        {"counters", counters},
        {"churn", churn},
    };

    suite_begin(which);
    size_t before = suite_provider->leftover(suite_provider);
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        fprintf(stderr, "%s: %s\n", suite_provider->name, tests[i].name);
        suite_random_word = i + 1;
        tests[i].run();
        CHECK_EQ(suite_lent_count, 0);
        UNTIL(suite_provider->leftover(suite_provider) <= before);
    }
}
