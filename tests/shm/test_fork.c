/* Forks: the child reads zeros, holds nothing, starts anew; the parent notices nothing. */
#include "zerohop/fork.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "harness.h"
#include "zerohop/arena.h"

/* Links made before the fork, and views of all kinds of memory they have. */
static struct pair pair;
static struct zh_received received;
static struct zh_block block;
static int fds_without_links;
static uint32_t generation;

static void exchange(struct pair *p)
{
    struct zh_received r;

    CHECK_EQ(post_bytes(p->client, ZH_CALL, 1, "ping", 4), 0);
    CHECK_EQ(next_within(p->server_pump, p->server, &r, SECONDS(10)), 1);
    CHECK(r.header.message_bytes == 4 && memcmp(r.message, "ping", 4) == 0);
    zh_link_consume(p->server, &r);
    zh_link_flush(p->server);
    CHECK_EQ(post_loan(p->server, ZH_STATUS, 1, 100000, 0x77), 0);
    CHECK_EQ(next_within(p->client_pump, p->client, &r, SECONDS(10)), 1);
    CHECK(r.loaned && r.message[0] == 0x77 && r.message[99999] == 0x77);
    zh_link_give_back(p->client, &r);
    zh_link_consume(p->client, &r);
    zh_link_flush(p->client);
    struct zh_return credit;
    CHECK_EQ(zh_link_next_return(p->server, &credit), 0);
}

/* Everything that can still be done to an object of before: drop it. That closes nothing of ours.
 */
static void drop_inherited(void)
{
    int fds = count_fds();

    drop_link(&pair.client);
    drop_link(&pair.server);
    zh_pump_wake(pair.client_pump);
    zh_pump_destroy(pair.client_pump);
    zh_pump_destroy(pair.server_pump);
    CHECK_EQ(count_fds(), fds);
}

static int child(void *arg)
{
    int deeper = *(int *)arg;

    CHECK_EQ(zh_fork_now(), ++generation);
    CHECK_EQ(count_fds(), fds_without_links);
    CHECK_EQ(count_maps("zerohop-"), 0);
    for (size_t i = 0; i < received.header.message_bytes; i++)
        CHECK(received.message[i] == 0);
    for (size_t i = 0; i < 8192; i++)
        CHECK(block.data[i] == 0);
    block.data[0] = 99; /* the parent will look */

    /* Descriptors that take the numbers of the closed ones: nothing may write to or close them. */
    int pipes[16][2];
    for (int i = 0; i < 16; i++)
        CHECK(pipe2(pipes[i], O_CLOEXEC | O_NONBLOCK) == 0);
    drop_inherited();
    for (int i = 0; i < 16; i++) {
        char byte;
        CHECK(read(pipes[i][0], &byte, 1) < 0 && errno == EAGAIN);
        CHECK(write(pipes[i][1], "x", 1) == 1);
        CHECK(close(pipes[i][0]) == 0 && close(pipes[i][1]) == 0);
    }

    /* A life of its own: another arena, pumps and links that work. */
    CHECK_EQ(arena_used(), 0);
    unlink(scratch("pair"));
    pair_open(&pair, NULL, NULL);
    exchange(&pair);
    CHECK_EQ(arena_used(), 0);
    CHECK_EQ(post_loan(pair.client, ZH_CALL, 2, 9000, 0x5a), 0);
    CHECK_EQ(next_within(pair.server_pump, pair.server, &received, SECONDS(10)), 1);
    CHECK(received.message[8999] == 0x5a);
    zh_link_consume(pair.server, &received);
    CHECK_EQ(zh_arena_alloc(zh_arena_of_uid(geteuid()), 8192, true, &block), 0);
    memset(block.data, 0x11, 8192);
    if (deeper > 0) {
        deeper--;
        expect_exit(spawn(child, &deeper), 0, SECONDS(20));
        CHECK(received.message[8999] == 0x5a && block.data[0] == 0x11);
        pair.listener = listen_at(scratch("pair")); /* the child has replaced the file */
    }
    exchange(&pair);
    return 0;
}

static void views_and_links(void)
{
    fds_without_links = count_fds();
    pair_open(&pair, NULL, NULL);
    CHECK_EQ(post_loan(pair.client, ZH_CALL, 2, 9000, 0x5a), 0);
    CHECK_EQ(next_within(pair.server_pump, pair.server, &received, SECONDS(10)), 1);
    CHECK(received.loaned && received.message[8999] == 0x5a);
    zh_link_consume(pair.server, &received);
    CHECK_EQ(zh_arena_alloc(zh_arena_of_uid(geteuid()), 8192, true, &block), 0);
    memset(block.data, 0x11, 8192);

    int fds = count_fds(), deeper = 1;
    for (int i = 0; i < 3; i++) {
        expect_exit(spawn(child, &deeper), 0, SECONDS(30));
        /* The children read and wrote, closed and exited: none of it shows here. */
        CHECK_EQ(count_fds(), fds);
        CHECK_EQ(zh_fork_now(), generation);
        CHECK(received.message[0] == 0x5a && received.message[8999] == 0x5a);
        for (size_t j = 0; j < 8192; j++)
            CHECK(block.data[j] == 0x11);
        CHECK_EQ(loans_open(pair.client), 1);
        struct zh_event events[ZH_PUMP_EVENTS];
        int n = zh_pump_events(pair.server_pump, events, 0);
        for (int e = 0; e < n; e++)
            CHECK(events[e].kind == ZH_EVENT_BELL || events[e].kind == ZH_EVENT_LINK);
        zh_link_serve(pair.client);
        zh_link_serve(pair.server);
        CHECK_EQ(zh_link_state(pair.client), ZH_LINK_OPEN);
        CHECK_EQ(zh_link_state(pair.server), ZH_LINK_OPEN);
    }
    zh_link_give_back(pair.server, &received);
    exchange(&pair);
    CHECK_EQ(zh_arena_unref(zh_arena_of_uid(geteuid()), block.segment, block.page), 0);
    struct zh_return credit;
    CHECK_EQ(zh_link_next_return(pair.client, &credit), 0);
    CHECK_EQ(arena_used(), 0);
}

/* Threads that are in the middle of everything while the process forks. */
static _Atomic int stop;

static void *busy(void *arg)
{
    struct pair p = pair;
    struct zh_received r;

    while (!stop) {
        struct zh_event events[ZH_PUMP_EVENTS];
        if (zh_link_next(p.server, &r) == 1) {
            if (r.loaned)
                zh_link_give_back(p.server, &r);
            zh_link_consume(p.server, &r);
            zh_link_flush(p.server);
        }
        zh_pump_events(p.server_pump, events, 0);
        zh_link_serve(p.server);
    }
    return arg;
}

static void *poster(void *arg)
{
    while (!stop) {
        struct zh_return credit;
        (void)post_loan(pair.client, ZH_CALL, 3, 5000, 1);
        (void)post_bytes(pair.client, ZH_CALL, 3, "x", 1);
        (void)zh_link_next_return(pair.client, &credit);
        struct zh_pump *pump = new_pump(); /* tracks and untracks all the time */
        zh_pump_destroy(pump);
    }
    return arg;
}

static int young(void *arg)
{
    (void)arg;
    struct pair mine;
    /* A pump that a thread was making at that moment is not tracked yet: its four descriptors and
     * its page come along, unused, until the child ends. So does a segment that the arena was
     * committing ahead. */
    int fds = count_fds(), maps = count_maps("zerohop-");

    CHECK(fds >= fds_without_links && fds <= fds_without_links + 5);
    CHECK(maps <= 2);
    drop_inherited();
    unlink(scratch("pair"));
    pair_open(&mine, NULL, NULL);
    exchange(&mine);
    pair_close(&mine);
    CHECK_EQ(arena_used(), 0);
    CHECK_EQ(count_fds(), fds + 1); /* an empty segment that the arena keeps */
    CHECK_EQ(count_maps("zerohop-"), maps + 1);
    return 0;
}

static void among_threads(void)
{
    pthread_t threads[2];

    CHECK(pthread_create(&threads[0], NULL, busy, NULL) == 0);
    CHECK(pthread_create(&threads[1], NULL, poster, NULL) == 0);
    for (int i = 0; i < (SANITIZED ? 20 : 100); i++)
        expect_exit(spawn(young, NULL), 0, SECONDS(20));
    stop = 1;
    for (int i = 0; i < 2; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK_EQ(zh_link_state(pair.client), ZH_LINK_OPEN);
    CHECK_EQ(zh_link_state(pair.server), ZH_LINK_OPEN);
}

int main(void)
{
    scratch("pair");
    generation = zh_fork_now();
    views_and_links();
    /* The allocators of the sanitizers do not stand a fork while another thread allocates. */
    if (!SANITIZED)
        among_threads();
    pair_close(&pair);
    CHECK_EQ(arena_used(), 0);
    CHECK_EQ(count_fds(), fds_without_links + 1); /* as above */
    return 0;
}
