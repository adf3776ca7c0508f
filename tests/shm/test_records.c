/* Records: every size and place in the ring, a full ring, slots that are kept, waiting for space.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "check.h"
#include "harness.h"
#include "shm/link_internal.h"

static struct pair pair;
static uint8_t noise[2 * ZH_RECORD_ROOM];

/* Header for a record whose bytes begin somewhere in the noise. */
static struct zh_record header_of(uint64_t call, uint32_t metadata, uint32_t message)
{
    return (struct zh_record){.kind = ZH_CALL,
                              .flags = ZH_HAS_MESSAGE | ZH_END_STREAM,
                              .method = (uint32_t)call ^ 0x5555u,
                              .call = call,
                              .deadline = call * 3,
                              .metadata_bytes = metadata,
                              .message_bytes = message};
}

static int post_noise(uint64_t call, uint32_t metadata, uint32_t message, uint32_t keep)
{
    struct zh_record header = header_of(call, metadata, message);
    const uint8_t *from = noise + call % ZH_RECORD_ROOM;
    return zh_link_post(pair.client, &header, from, from + metadata, NULL, keep);
}

static void expect_noise(uint64_t call, uint32_t metadata, uint32_t message)
{
    struct zh_received r;
    struct zh_record sent = header_of(call, metadata, message);
    const uint8_t *from = noise + call % ZH_RECORD_ROOM;

    CHECK_EQ(zh_link_next(pair.server, &r), 1);
    CHECK(r.header.kind == sent.kind && r.header.flags == sent.flags);
    CHECK(r.header.method == sent.method && r.header.call == call);
    CHECK(r.header.deadline == sent.deadline && !r.loaned);
    CHECK_EQ(r.header.metadata_bytes, metadata);
    CHECK_EQ(r.header.message_bytes, message);
    CHECK(memcmp(r.metadata, from, metadata) == 0);
    CHECK(memcmp(r.message, from + metadata, message) == 0);
    zh_link_consume(pair.server, &r);
}

static void sizes(void)
{
    uint64_t call = 1;

    for (uint32_t message = 0; message <= ZH_RECORD_ROOM; message++, call++) {
        CHECK_EQ(post_noise(call, 0, message, 0), 0);
        expect_noise(call, 0, message);
    }
    for (uint32_t metadata = 0; metadata <= ZH_RECORD_ROOM; metadata += 61, call++) {
        for (uint32_t message = 0; message <= ZH_RECORD_ROOM - metadata; message += 67, call++) {
            CHECK_EQ(post_noise(call, metadata, message, 0), 0);
            expect_noise(call, metadata, message);
        }
    }
    CHECK_EQ(post_noise(call, 0, ZH_RECORD_ROOM + 1, 0), -EMSGSIZE);
    CHECK_EQ(post_noise(call, ZH_RECORD_ROOM + 1, 0, 0), -EMSGSIZE);
    CHECK_EQ(post_noise(call, 64, ZH_RECORD_ROOM - 63, 0), -EMSGSIZE);
    CHECK_EQ(post_noise(call, UINT32_MAX, UINT32_MAX, 0), -EMSGSIZE);
    struct zh_record huge = header_of(call, 0, 0);
    huge.message_bytes = UINT64_MAX - 31;
    CHECK_EQ(zh_link_post(pair.client, &huge, NULL, noise, NULL, 0), -EMSGSIZE);

    /* Without a message, however long it is said to be. */
    struct zh_received r;
    struct zh_record none = {.kind = ZH_HALF_CLOSE, .call = 9};
    CHECK_EQ(zh_link_post(pair.client, &none, NULL, NULL, NULL, 0), 0);
    CHECK_EQ(zh_link_next(pair.server, &r), 1);
    CHECK(r.header.kind == ZH_HALF_CLOSE && r.message == NULL && r.header.slots == 1);
    zh_link_consume(pair.server, &r);
    CHECK_EQ(zh_link_next(pair.server, &r), 0);
    zh_link_flush(pair.server);
}

/* Random sizes for many laps of the ring, with a consumer that lags: order and bytes stay. */
static void laps(void)
{
    enum { QUEUE = 1024 };
    static struct {
        uint64_t call;
        uint32_t metadata, message;
    } queue[QUEUE];
    uint64_t state = 7, put = 0, got = 0;
    int full = 0;

    while (got < 100000) {
        uint32_t metadata = (uint32_t)(random_next(&state) % 300);
        uint32_t message = (uint32_t)(random_next(&state) % (ZH_RECORD_ROOM - 300));
        if (random_next(&state) % 2 == 0)
            message %= 100;
        int error = put - got == QUEUE ? -EAGAIN : post_noise(put, metadata, message, 0);
        if (error == 0) {
            queue[put % QUEUE].call = put;
            queue[put % QUEUE].metadata = metadata;
            queue[put % QUEUE].message = message;
            put++;
        } else {
            CHECK_EQ(error, -EAGAIN);
            full++;
        }
        uint64_t take = error != 0 ? 1 + random_next(&state) % (put - got) : 0;
        for (; take > 0; take--, got++) {
            CHECK(queue[got % QUEUE].call == got);
            expect_noise(got, queue[got % QUEUE].metadata, queue[got % QUEUE].message);
        }
        if (error != 0)
            zh_link_flush(pair.server);
    }
    CHECK(full > 100);
    CHECK(pair.client->head > 50 * ZH_RING_SLOTS);
    for (; got < put; got++)
        expect_noise(got, queue[got % QUEUE].metadata, queue[got % QUEUE].message);
    zh_link_flush(pair.server);
}

/* However the ring stands, `keep` slots remain for records that must not wait. */
static void full_and_kept(void)
{
    const uint32_t keeps[] = {0, 1, 31, 512};
    uint64_t state = 11;

    for (int round = 0; round < 400; round++) {
        uint32_t keep = keeps[round % 4];
        uint64_t put = 0, got = 0;
        uint32_t sizes[ZH_RING_SLOTS];

        for (;;) {
            uint32_t message = (uint32_t)(random_next(&state) % ZH_RECORD_ROOM);
            if (post_noise(put, 0, message, keep) != 0)
                break;
            sizes[put++] = message;
        }
        CHECK(pair.client->head - pair.server->tail <= ZH_RING_SLOTS - keep);
        for (uint32_t i = 0; i < keep; i++) {
            CHECK_EQ(post_noise(put, 0, 64, 0), 0);
            sizes[put++] = 64;
        }
        /* Full to the last slot, exactly. */
        while (put < ZH_RING_SLOTS && post_noise(put, 0, 64, 0) == 0)
            sizes[put++] = 64;
        CHECK_EQ(pair.client->head - pair.server->tail, ZH_RING_SLOTS);
        CHECK_EQ(post_noise(put, 0, 0, 0), -EAGAIN);
        for (; got < put; got++)
            expect_noise(got, 0, sizes[got]);
        struct zh_received r;
        CHECK_EQ(zh_link_next(pair.server, &r), 0);
        /* Not given back before the flush, but for the batches; all of it after. */
        zh_link_flush(pair.server);
        CHECK_EQ(post_noise(0, 0, 0, ZH_RING_SLOTS - 64), 0);
        expect_noise(0, 0, 0);
        zh_link_flush(pair.server);
    }
    CHECK_EQ(post_noise(0, 0, 0, ZH_RING_SLOTS), -EAGAIN);
}

/* Each side may send only what is its part. */
static void wrong_kinds(void)
{
    struct zh_received r;

    for (int from_client = 0; from_client < 2; from_client++) {
        for (int kind = 0; kind < 256; kind++) {
            bool names = kind == ZH_MESSAGE;
            bool clients =
                kind == ZH_NAME || kind == ZH_CALL || kind == ZH_HALF_CLOSE || kind == ZH_CANCEL;
            bool servers =
                kind == ZH_HEADERS || kind == ZH_STATUS || kind == ZH_GOAWAY || kind == ZH_NAMED;
            if (kind == ZH_PAD || names || (from_client ? clients : servers))
                continue;
            if (kind > ZH_KIND_END + 1 && kind % 51 != 0)
                continue;
            struct zh_link *client, *server;
            pair_link(&pair, NULL, NULL, &client, &server);
            struct zh_link *from = from_client ? client : server;
            struct zh_link *to = from_client ? server : client;
            CHECK_EQ(post_bytes(from, (uint8_t)kind, 1, "x", 1), 0);
            CHECK_EQ(zh_link_next(to, &r), -EPROTO);
            CHECK_EQ(zh_link_state(to), ZH_LINK_DEAD);
            CHECK_EQ(zh_link_next(to, &r), -EPIPE);
            drop_link(&client);
            drop_link(&server);
        }
    }
}

/* What the flags say must go together: images are roots with a message, loans are of images. */
static void wrong_flags(void)
{
    const struct {
        uint16_t flags;
        uint32_t bytes;
        bool right;
    } cases[] = {
        {ZH_HAS_MESSAGE | ZH_IMAGE, 0, true},
        {ZH_HAS_MESSAGE | ZH_IMAGE, 1024, true},
        {ZH_HAS_MESSAGE | ZH_IMAGE | ZH_TAKES_IMAGES | ZH_END_STREAM, 16, true},
        {ZH_HAS_MESSAGE | ZH_IMAGE, 1025, false},
        {ZH_IMAGE, 0, false},
        {ZH_HAS_MESSAGE | ZH_LOANED, 16, false},
        {ZH_LOANED, 0, false},
        {ZH_HAS_MESSAGE | ZH_IMAGE | ZH_LOANED, 16, false}, /* of loan 0, generation 0 */
        {256, 0, false},
        {0x8000, 0, false},
    };
    struct zh_received r;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct zh_link *client, *server;
        struct zh_record header = {
            .kind = ZH_CALL, .flags = cases[i].flags, .message_bytes = cases[i].bytes};
        pair_link(&pair, NULL, NULL, &client, &server);
        CHECK_EQ(zh_link_post(client, &header, NULL, noise, NULL, 0), 0);
        CHECK_EQ(zh_link_next(server, &r), cases[i].right ? 1 : -EPROTO);
        if (cases[i].right) {
            CHECK(!r.loaned && r.header.flags == cases[i].flags);
            CHECK(memcmp(r.message, noise, cases[i].bytes) == 0);
            zh_link_consume(server, &r);
        }
        drop_link(&client);
        drop_link(&server);
    }
}

/* --- waiting for space --- */

enum { SPACE_RECORDS = SANITIZED ? 60000 : 400000 };

static void *consume_all(void *arg)
{
    uint64_t state = 5;
    struct zh_received r;

    for (int got = 0; got < SPACE_RECORDS;) {
        CHECK(next_within(pair.server_pump, pair.server, &r, SECONDS(10)) == 1);
        do {
            CHECK_EQ(r.header.call, got);
            zh_link_consume(pair.server, &r);
            got++;
            if (random_next(&state) % 7 == 0)
                zh_link_flush(pair.server);
        } while (zh_link_next(pair.server, &r) == 1);
        zh_link_flush(pair.server);
    }
    return arg;
}

/* Space that comes between the last look at the ring and the arming is not missed: nobody looks at
 * tails there, so the bell must have been rung. */
static void space_before_arming(void)
{
    struct zh_event events[ZH_PUMP_EVENTS];
    uint64_t put = 0, got = 0;

    settle(pair.client_pump, MS(1));
    while (post_noise(put, 0, 64, 0) == 0)
        put++;
    zh_link_want(pair.client, ZH_WANT_SPACE, true);
    CHECK_EQ(post_noise(put, 0, 64, 0), -EAGAIN);
    for (; got < put; got++)
        expect_noise(got, 0, 64);
    zh_link_flush(pair.server);
    CHECK(zh_pump_arm(pair.client_pump) ||
          zh_pump_events(pair.client_pump, events, (int64_t)MS(200)) > 0);
    zh_pump_disarm(pair.client_pump);
    zh_link_want(pair.client, ZH_WANT_SPACE, false);

    /* Without the wish nobody rings. */
    settle(pair.client_pump, MS(1));
    CHECK_EQ(post_noise(0, 0, 0, 0), 0);
    expect_noise(0, 0, 0);
    CHECK(!zh_pump_arm(pair.client_pump));
    zh_link_flush(pair.server);
    CHECK_EQ(zh_pump_events(pair.client_pump, events, (int64_t)MS(5)), 0);
    zh_pump_disarm(pair.client_pump);
}

/* A poster that sleeps whenever the ring is full, and is woken each time. */
static void waiting_for_space(void)
{
    struct zh_event events[ZH_PUMP_EVENTS];
    pthread_t thread;
    int slept = 0;

    CHECK(pthread_create(&thread, NULL, consume_all, NULL) == 0);
    for (uint64_t i = 0; i < SPACE_RECORDS; i++) {
        uint32_t bytes = (uint32_t)(i % 1900);
        /* Now and then nearly the whole ring is wanted, which only the consumer's last flush gives:
         * no later one makes up for a bell that was missed. */
        uint32_t keep = i % 50 == 0 ? ZH_RING_SLOTS - 64 : 0;
        while (post_noise(i, 0, bytes, keep) != 0) {
            zh_link_want(pair.client, ZH_WANT_SPACE, true);
            if (post_noise(i, 0, bytes, keep) == 0)
                break;
            if (!zh_pump_arm(pair.client_pump)) {
                slept++;
                if (zh_pump_events(pair.client_pump, events, (int64_t)SECONDS(5)) == 0) {
                    fprintf(stderr, "the ring has had space for 5 s and nobody rang\n");
                    exit(1);
                }
            }
            zh_pump_disarm(pair.client_pump);
        }
        zh_link_want(pair.client, ZH_WANT_SPACE, false);
    }
    CHECK(pthread_join(thread, NULL) == 0);
    fprintf(stderr, "slept %d times for space\n", slept);
    CHECK(slept > (SANITIZED ? 5 : 50));
}

int main(void)
{
    uint64_t state = 3;
    for (size_t i = 0; i < sizeof(noise); i++)
        noise[i] = (uint8_t)random_next(&state);

    scratch("");
    int fds = count_fds();
    pair_open(&pair, NULL, NULL);
    sizes();
    laps();
    full_and_kept();
    wrong_kinds();
    wrong_flags();
    space_before_arming();
    waiting_for_space();
    pair_close(&pair);
    CHECK_EQ(count_fds(), fds);
    CHECK_EQ(count_maps("zerohop-"), 0);
    return 0;
}
