/* Threads on one link, and the search for lost wake-ups: a million round trips between two waiters
 * who spin, arm and sleep as they please. */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "check.h"
#include "harness.h"
#include "shm/link_internal.h"
#include "zerohop/stats.h"

enum {
    ROUND_TRIPS = SANITIZED ? 200000 : 1000000,
    POSTERS = 3,
    POSTS = SANITIZED ? 30000 : 100000,
};

/* How long a sleeper waits for a bell that must come: on a loaded machine, seconds. */
#define BELL_NS ((int64_t)SECONDS(10))

static struct pair pair;

struct waiter {
    struct zh_pump *pump;
    struct zh_link *link;
    uint64_t random;
    uint64_t slept;
    const char *name;
};

/* The next record, by spinning for a random while (often not at all), then arming, then sleeping.
 */
static void wait_next(struct waiter *w, struct zh_received *r)
{
    struct zh_event events[ZH_PUMP_EVENTS];

    for (;;) {
        struct zh_return credit;
        int got = zh_link_next(w->link, r);
        CHECK(got >= 0);
        CHECK_EQ(zh_link_next_return(w->link, &credit), 0);
        if (got == 1)
            return;
        uint64_t dice = random_next(&w->random);
        if (dice % 16 != 0 && zh_pump_spin(w->pump, zh_now() + (dice >> 8) % 20000, NULL))
            continue;
        if (zh_pump_arm(w->pump))
            continue;
        w->slept++;
        if (zh_pump_events(w->pump, events, BELL_NS) == 0) {
            got = zh_link_next(w->link, r);
            fprintf(stderr, "%s slept through its bell (a record is there: %d)\n", w->name, got);
            exit(1);
        }
        zh_pump_disarm(w->pump);
    }
}

static void *echo(void *arg)
{
    struct waiter *w = arg;
    struct zh_received r;

    for (uint64_t i = 0; i < ROUND_TRIPS; i++) {
        wait_next(w, &r);
        CHECK_EQ(r.header.call, i);
        zh_link_consume(w->link, &r);
        zh_link_flush(w->link);
        CHECK_EQ(post_bytes(w->link, ZH_STATUS, i, "pong", 4), 0);
    }
    return NULL;
}

static void ping_pong(void)
{
    struct waiter server = {pair.server_pump, pair.server, 1, 0, "the server"};
    struct waiter client = {pair.client_pump, pair.client, 2, 0, "the client"};
    struct zh_stats_snapshot before, after;
    struct zh_received r;
    pthread_t thread;

    zh_stats_read(&before);
    CHECK(pthread_create(&thread, NULL, echo, &server) == 0);
    uint64_t start = zh_now();
    for (uint64_t i = 0; i < ROUND_TRIPS; i++) {
        CHECK_EQ(post_bytes(pair.client, ZH_CALL, i, "ping", 4), 0);
        wait_next(&client, &r);
        CHECK_EQ(r.header.call, i);
        zh_link_consume(pair.client, &r);
        zh_link_flush(pair.client);
    }
    CHECK(pthread_join(thread, NULL) == 0);
    zh_stats_read(&after);
    uint64_t rang = after.wakeups - before.wakeups;
    fprintf(stderr, "%d round trips in %llu ms; slept %llu and %llu times, rang %llu times\n",
            ROUND_TRIPS, (unsigned long long)(zh_now() - start) / 1000000,
            (unsigned long long)client.slept, (unsigned long long)server.slept,
            (unsigned long long)rang);
    /* The dice have let both sleep, and nobody rings who need not: once a sleep at most. */
    CHECK(client.slept > ROUND_TRIPS / 1000 && server.slept > ROUND_TRIPS / 1000);
    CHECK(rang > ROUND_TRIPS / 1000);
}

/* --- several threads post, lend and return on one link --- */

struct poster {
    int number;
    struct zh_link *link;
};

static void *post_many(void *arg)
{
    struct poster *p = arg;
    uint64_t state = (uint64_t)p->number + 1;
    uint8_t bytes[512];

    memset(bytes, p->number, sizeof(bytes));
    for (uint64_t i = 0; i < POSTS; i++) {
        uint64_t call = i << 8 | (uint64_t)p->number;
        size_t size = random_next(&state) % sizeof(bytes);
        bool lend = random_next(&state) % 16 == 0;
        uint64_t until = zh_now() + SECONDS(20);
        int error;
        while ((error = lend ? post_loan(p->link, ZH_MESSAGE, call, size + 4097, (uint8_t)p->number)
                             : post_bytes(p->link, ZH_MESSAGE, call, bytes, size)) != 0) {
            CHECK(error == -EAGAIN || error == -ENOBUFS || error == -EDQUOT || error == -ENOMEM);
            CHECK(zh_now() < until);
            sleep_ns(10000);
        }
    }
    return NULL;
}

struct sink {
    struct waiter waiter;
    uint64_t total;
};

static _Atomic bool all_posted, all_done;

/* Everything arrives whole, each thread's records in its order; loans go back. */
static void *consume_many(void *arg)
{
    struct sink *s = arg;
    uint64_t next[POSTERS] = {0};
    struct zh_received r;

    for (uint64_t got = 0; got < s->total; got++) {
        wait_next(&s->waiter, &r);
        uint64_t number = r.header.call & 0xff;
        CHECK(number < POSTERS);
        CHECK_EQ(r.header.call >> 8, next[number]);
        next[number]++;
        for (uint64_t i = 0; i < r.header.message_bytes; i++)
            CHECK(r.message[i] == number);
        if (r.loaned)
            zh_link_give_back(s->waiter.link, &r);
        zh_link_consume(s->waiter.link, &r);
        zh_link_flush(s->waiter.link);
    }
    /* Its own side's posters may still need what they lent. */
    while (!all_posted) {
        struct zh_return credit;
        CHECK_EQ(zh_link_next_return(s->waiter.link, &credit), 0);
        sleep_ns(50000);
    }
    return NULL;
}

/* Somebody else polls what may be polled by anybody. */
static void *poll_along(void *arg)
{
    struct zh_link_info info;

    while (!all_done) {
        (void)zh_pump_ready(pair.client_pump);
        (void)zh_pump_ready(pair.server_pump);
        zh_link_info(pair.client, &info);
        zh_link_info(pair.server, &info);
        zh_pump_wake(pair.client_pump);
        sleep_ns(100000);
    }
    return arg;
}

/* Both directions at once: three posters and one reader on each side. */
static void posters(void)
{
    pthread_t threads[2][POSTERS], sinks[2], along;
    struct poster args[2][POSTERS];
    struct zh_return credit;
    struct sink sink[2] = {
        {{pair.server_pump, pair.server, 3, 0, "the server"}, POSTERS * (uint64_t)POSTS},
        {{pair.client_pump, pair.client, 4, 0, "the client"}, POSTERS * (uint64_t)POSTS},
    };

    CHECK(pthread_create(&along, NULL, poll_along, NULL) == 0);
    for (int side = 0; side < 2; side++) {
        /* Posters that find no loan wait for what the reader of their side takes back. */
        zh_link_want(sink[side].waiter.link, ZH_WANT_RETURNS, true);
        CHECK(pthread_create(&sinks[side], NULL, consume_many, &sink[side]) == 0);
        for (int i = 0; i < POSTERS; i++) {
            args[side][i] = (struct poster){i, side == 0 ? pair.client : pair.server};
            CHECK(pthread_create(&threads[side][i], NULL, post_many, &args[side][i]) == 0);
        }
    }
    for (int side = 0; side < 2; side++) {
        for (int i = 0; i < POSTERS; i++)
            CHECK(pthread_join(threads[side][i], NULL) == 0);
    }
    all_posted = true;
    for (int side = 0; side < 2; side++)
        CHECK(pthread_join(sinks[side], NULL) == 0);
    all_done = true;
    CHECK(pthread_join(along, NULL) == 0);
    CHECK_EQ(zh_link_next_return(pair.client, &credit), 0);
    CHECK_EQ(zh_link_next_return(pair.server, &credit), 0);
    CHECK_EQ(loans_open(pair.client), 0);
    CHECK_EQ(loans_open(pair.server), 0);
    CHECK_EQ(arena_used(), 0);
}

/* Threads that post, lend and return while the link ends under them. */
struct ending {
    struct zh_link *link;
    struct zh_pump *pump;
    uint8_t kind;
};

static void *post_until_the_end(void *arg)
{
    struct ending *e = arg;
    int error = 0;

    while (error != -EPIPE)
        error = post_loan(e->link, e->kind, 1, 6000, 1);
    return NULL;
}

static void *read_until_the_end(void *arg)
{
    struct ending *e = arg;
    struct zh_received r;
    int got;

    while ((got = next_within(e->pump, e->link, &r, SECONDS(10))) == 1) {
        zh_link_give_back(e->link, &r);
        zh_link_consume(e->link, &r);
        zh_link_flush(e->link);
    }
    CHECK_EQ(got, -EPIPE);
    return NULL;
}

static void ending_under_threads(void)
{
    for (int round = 0; round < (SANITIZED ? 30 : 200); round++) {
        struct zh_link *client, *server;
        pair_link(&pair, NULL, NULL, &client, &server);
        struct ending ends[2] = {{client, pair.client_pump, ZH_CALL},
                                 {server, pair.server_pump, ZH_STATUS}};
        pthread_t threads[6];
        for (int i = 0; i < 6; i++)
            CHECK(pthread_create(&threads[i], NULL, i < 4 ? post_until_the_end : read_until_the_end,
                                 &ends[i % 2]) == 0);
        sleep_ns(MS(1) + (uint64_t)round * 10000);
        if (round % 3 == 0)
            zh_link_fail(client, "the test says so");
        else
            zh_link_close(round % 3 == 1 ? client : server, "the test says so");
        for (int i = 0; i < 6; i++)
            CHECK(pthread_join(threads[i], NULL) == 0);
        drop_link(&client);
        drop_link(&server);
        settle(pair.client_pump, 0);
        settle(pair.server_pump, 0);
        CHECK_EQ(arena_used(), 0);
    }
}

int main(void)
{
    scratch("");
    pair_open(&pair, NULL, NULL);
    ping_pong();
    posters();
    ending_under_threads();
    pair_close(&pair);
    CHECK_EQ(arena_used(), 0);
    CHECK_EQ(count_maps("zerohop-"), 1);
    return 0;
}
