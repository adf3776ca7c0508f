/* The end of a link: orderly, lingering, drained, by two threads at once, with its pump. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "harness.h"
#include "shm/link_internal.h"
#include "zerohop/fork.h"

static struct pair pair;

static void expect_record(struct zh_link *link, uint64_t call, size_t bytes, uint8_t byte)
{
    struct zh_received r;

    CHECK_EQ(zh_link_next(link, &r), 1);
    CHECK_EQ(r.header.call, call);
    CHECK_EQ(r.header.message_bytes, bytes);
    for (size_t i = 0; i < bytes; i++)
        CHECK(r.message[i] == byte);
    zh_link_consume(link, &r);
    zh_link_flush(link);
}

/* What was posted before the close arrives; what was lent stays as it is until the reader ends. */
static void orderly(void)
{
    struct zh_link *client, *server;
    struct zh_received r;
    struct zh_block other[64];
    struct zh_link_info info;
    uint8_t ones[100];
    int fds = count_fds();

    memset(ones, 1, sizeof(ones));
    pair_link(&pair, NULL, NULL, &client, &server);
    CHECK_EQ(post_bytes(client, ZH_CALL, 1, ones, 100), 0);
    CHECK_EQ(post_loan(client, ZH_CALL, 2, 100000, 2), 0);
    CHECK_EQ(post_loan(client, ZH_CALL, 3, 3 << 20, 3), 0); /* in a segment of its own */
    CHECK_EQ(zh_link_next(server, &r), 1);
    zh_link_close(client, "enough");
    CHECK_EQ(zh_link_state(client), ZH_LINK_DEAD);
    CHECK_EQ(post_bytes(client, ZH_CALL, 4, ones, 100), -EPIPE);
    CHECK_EQ(post_loan(client, ZH_CALL, 4, 1, 1), -EPIPE);
    drop_link(&client); /* the pump keeps it */

    /* Its pages are nobody else's meanwhile. */
    struct zh_arena *arena = zh_arena_of_uid(geteuid());
    for (int i = 0; i < 64; i++) {
        CHECK_EQ(zh_arena_alloc(arena, 50000, true, &other[i]), 0);
        memset(other[i].data, 0xff, 50000);
    }
    CHECK(serve_until_dead(pair.server_pump, server, SECONDS(5)));
    settle(pair.client_pump, MS(5));
    expect_record(server, 1, 100, 1);
    expect_record(server, 2, 100000, 2);
    expect_record(server, 3, 3 << 20, 3);
    CHECK_EQ(zh_link_next(server, &r), -EPIPE);
    CHECK_EQ(zh_link_next(server, &r), -EPIPE);
    zh_link_info(server, &info);
    CHECK(strstr(info.error, "closed the link") != NULL);
    CHECK(arena_used() > 64u * 50000 + (3 << 20));
    drop_link(&server);
    settle(pair.client_pump, MS(5));
    for (int i = 0; i < 64; i++)
        CHECK_EQ(zh_arena_unref(arena, other[i].segment, other[i].page), 0);
    CHECK_EQ(arena_used(), 0);
    struct zh_arena_usage usage;
    zh_arena_usage(arena, &usage);
    CHECK_EQ(usage.segments, 1);
    CHECK(count_fds() <= fds + 1);
}

static void both_at_once(void)
{
    int fds = count_fds();

    for (int i = 0; i < 100; i++) {
        struct zh_link *client, *server;
        pair_link(&pair, NULL, NULL, &client, &server);
        CHECK_EQ(post_loan(client, ZH_CALL, 1, 1, 1), 0);
        CHECK_EQ(post_loan(server, ZH_STATUS, 1, 1, 1), 0);
        zh_link_close(client, "c");
        zh_link_close(server, "s");
        zh_link_close(client, "c again");
        struct zh_link_info info;
        zh_link_info(client, &info);
        CHECK(strcmp(info.error, "c") == 0);
        drop_link(&client);
        drop_link(&server);
        settle(pair.client_pump, MS(1));
        settle(pair.server_pump, MS(1));
        CHECK_EQ(arena_used(), 0);
    }
    CHECK_EQ(count_fds(), fds);
}

/* --- a peer that is another process --- */

static int stubborn_server(void *arg)
{
    struct zh_pump *pump = new_pump();
    struct zh_link *link = accept_link(pump, *(int *)arg, NULL, NULL);
    CHECK(link != NULL);
    CHECK_EQ(post_bytes(link, ZH_STATUS, 1, "up", 2), 0);
    for (;;)
        pause(); /* reads nothing, ends nothing */
    return 0;
}

static void dead_while_lingering(void)
{
    char path[128];
    strcpy(path, scratch("stubborn"));
    int listener = listen_at(path), fds = count_fds(), inherited = fcntl(listener, F_DUPFD, 100);
    pid_t child = spawn(stubborn_server, &inherited);
    struct zh_link *link = connect_link(pair.client_pump, path);
    struct zh_received r;

    CHECK_EQ(next_within(pair.client_pump, link, &r, SECONDS(10)), 1);
    CHECK_EQ(post_loan(link, ZH_CALL, 1, 50000, 1), 0);
    drop_link(&link);
    settle(pair.client_pump, MS(50));
    CHECK_EQ(arena_used(), 53248); /* the peer lives and may read it: no timer takes it back */
    CHECK(kill(child, SIGSTOP) == 0);
    settle(pair.client_pump, MS(20));
    CHECK_EQ(arena_used(), 53248);
    CHECK(kill(child, SIGKILL) == 0);
    uint64_t start = zh_now();
    while (arena_used() != 0) {
        CHECK(zh_now() - start < SECONDS(5));
        settle(pair.client_pump, MS(1));
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    close(inherited);
    CHECK_EQ(count_fds(), fds);
    zh_fork_close_fd(listener);
}

/* --- peers that do not end --- */

static _Atomic int stop;

static void *post_on(void *arg)
{
    struct zh_link *link = arg;
    struct zh_side *own = zh_link_own(link);
    uint64_t head = link->head;

    /* As many records as the ring takes, for ever, whatever the other side has read. */
    while (!stop)
        atomic_store(&own->head, head += 1);
    return NULL;
}

/* A peer that has ended its half of the socket but goes on posting is read up to its end. */
static void drain_is_bounded(void)
{
    struct zh_link *client, *server;
    struct zh_received r;
    pthread_t thread;

    pair_link(&pair, NULL, NULL, &client, &server);
    for (uint32_t i = 0; i < ZH_RING_SLOTS; i++)
        CHECK_EQ(post_bytes(client, ZH_CALL, 1, "x", 1), 0);
    for (int i = 0; i < 1000; i++)
        expect_record(server, 1, 1, 'x');
    CHECK(shutdown(client->socket, SHUT_WR) == 0);
    CHECK(serve_until_dead(pair.server_pump, server, SECONDS(5)));
    CHECK(pthread_create(&thread, NULL, post_on, client) == 0);
    sleep_ns(MS(10));
    for (int i = 0; i < 24; i++)
        expect_record(server, 1, 1, 'x');
    CHECK_EQ(zh_link_next(server, &r), -EPIPE);
    stop = 1;
    CHECK(pthread_join(thread, NULL) == 0);
    stop = 0;
    drop_link(&client);
    drop_link(&server);
}

/* Garbage that a dead peer has left is an error once, then the end. */
static void garbage_at_the_end(void)
{
    struct zh_link *client, *server;
    struct zh_received r;

    pair_link(&pair, NULL, NULL, &client, &server);
    CHECK_EQ(post_bytes(client, ZH_STATUS, 1, "x", 1), 0); /* not a client's */
    drop_link(&client);
    CHECK(serve_until_dead(pair.server_pump, server, SECONDS(5)));
    CHECK_EQ(zh_link_next(server, &r), -EPROTO);
    CHECK_EQ(zh_link_next(server, &r), -EPIPE);
    drop_link(&server);
}

/* Fill the peer's end of a socket; how many messages went in. */
static int flood(struct zh_link *link)
{
    struct zh_segment_message bell = {
        .magic = ZH_LINK_MAGIC, .version = ZH_LINK_VERSION, .kind = ZH_MSG_BELL};
    int sent = 0;

    while (zh_message_send(link->socket, &bell, sizeof(bell), NULL, 0) == 0)
        sent++;
    return sent;
}

/* A peer that floods the socket of a link, open or lingering, gets so much attention and no more.
 */
static void floods(void)
{
    struct zh_link *client, *server;
    struct zh_event events[ZH_PUMP_EVENTS];

    for (int lingering = 0; lingering < 2; lingering++) {
        pair_link(&pair, NULL, NULL, &client, &server);
        CHECK_EQ(post_loan(server, ZH_STATUS, 1, 1, 1), 0);
        if (lingering)
            zh_link_close(server, "enough");
        CHECK(flood(client) > 100);
        for (int i = 0; i < 10; i++) {
            CHECK(zh_pump_events(pair.server_pump, events, 0) == (lingering ? 0 : 1));
            zh_link_serve(server);
            int taken = flood(client);
            CHECK(taken > 0 && taken < 100);
        }
        drop_link(&client);
        settle(pair.server_pump, MS(5));
        drop_link(&server);
        settle(pair.server_pump, MS(5));
        CHECK_EQ(arena_used(), 0);
    }
}

/* --- threads --- */

struct closing {
    struct zh_link *link;
    pthread_barrier_t *barrier;
    uint64_t delay;
};

static void *close_it(void *arg)
{
    struct closing *c = arg;

    pthread_barrier_wait(c->barrier);
    for (uint64_t until = zh_now() + c->delay; zh_now() < until;)
        ;
    zh_link_close(c->link, "by a thread");
    zh_link_unref(c->link);
    return NULL;
}

/*
 * Two threads close one link while the pump is served and its slots are used again: the next link,
 * which has the slot of the last one, must be whole.
 */
static void two_closers(void)
{
    pthread_barrier_t barrier;
    uint64_t state = 99;
    int fds = count_fds();

    CHECK(pthread_barrier_init(&barrier, NULL, 3) == 0);
    for (int round = 0; round < (SANITIZED ? 200 : 600); round++) {
        struct zh_link *client, *server, *next_client, *next_server;
        pthread_t threads[2];
        struct closing closing[2];

        pair_link(&pair, NULL, NULL, &client, &server);
        CHECK_EQ(post_loan(client, ZH_CALL, 1, 1, 1), 0);
        for (int i = 0; i < 2; i++) {
            zh_link_ref(client);
            closing[i] = (struct closing){client, &barrier, random_next(&state) % 2000};
            CHECK(pthread_create(&threads[i], NULL, close_it, &closing[i]) == 0);
        }
        zh_link_unref(client);
        pthread_barrier_wait(&barrier);
        pair_link(&pair, NULL, NULL, &next_client, &next_server);
        for (int i = 0; i < 2; i++)
            CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(serve_until_dead(pair.server_pump, server, SECONDS(5)));
        drop_link(&server);
        settle(pair.client_pump, 0);

        struct zh_received r;
        CHECK_EQ(zh_link_state(next_client), ZH_LINK_OPEN);
        CHECK_EQ(post_bytes(next_server, ZH_STATUS, 1, "y", 1), 0);
        CHECK(zh_pump_ready(pair.client_pump));
        CHECK_EQ(next_within(pair.client_pump, next_client, &r, SECONDS(5)), 1);
        zh_link_consume(next_client, &r);
        drop_link(&next_client);
        drop_link(&next_server);
        settle(pair.client_pump, 0);
        CHECK_EQ(arena_used(), 0);
    }
    settle(pair.client_pump, MS(5));
    CHECK_EQ(count_fds(), fds);
}

static void *listen_along(void *arg)
{
    struct zh_event events[ZH_PUMP_EVENTS];

    while (!stop)
        zh_pump_events(pair.client_pump, events, 0);
    return arg;
}

/* Lingering links end while two threads collect a pump's events. */
static void two_listeners(void)
{
    enum { AT_ONCE = 32 };
    struct zh_link *clients[AT_ONCE], *servers[AT_ONCE];
    pthread_t threads[2];

    for (int round = 0; round < 20; round++) {
        stop = 0;
        for (int i = 0; i < AT_ONCE; i++) {
            pair_link(&pair, NULL, NULL, &clients[i], &servers[i]);
            CHECK_EQ(post_loan(clients[i], ZH_CALL, 1, 1, 1), 0);
            drop_link(&clients[i]);
        }
        for (int i = 0; i < 2; i++)
            CHECK(pthread_create(&threads[i], NULL, listen_along, NULL) == 0);
        for (int i = 0; i < AT_ONCE; i++)
            drop_link(&servers[i]);
        for (uint64_t until = zh_now() + SECONDS(10); arena_used() != 0; sleep_ns(100000))
            CHECK(zh_now() < until);
        stop = 1;
        for (int i = 0; i < 2; i++)
            CHECK(pthread_join(threads[i], NULL) == 0);
    }
}

struct connecting_link {
    struct zh_pump *pump;
    const char *path;
    struct zh_link *link;
};

static void *connect_anyhow(void *arg)
{
    struct connecting_link *c = arg;
    struct zh_link_options options = {0};
    char why[256];
    int error;

    c->link =
        zh_link_connect(c->pump, c->path, &options, (int64_t)SECONDS(5), &error, why, sizeof(why));
    return NULL;
}

/* A link that is closed while its hello is served stays closed. */
static void closed_while_greeting(void)
{
    char path[128];
    strcpy(path, scratch("greeting"));
    int listener = listen_at(path), error, fds = count_fds();
    struct zh_link_options options = {0};
    pthread_barrier_t barrier;
    uint64_t state = 17;

    CHECK(pthread_barrier_init(&barrier, NULL, 2) == 0);
    CHECK(fcntl(listener, F_SETFL, 0) == 0);
    for (int round = 0; round < (SANITIZED ? 200 : 1000); round++) {
        pthread_t threads[2];
        struct connecting_link connecting = {pair.client_pump, path, NULL};
        CHECK(pthread_create(&threads[0], NULL, connect_anyhow, &connecting) == 0);
        struct zh_link *link = zh_link_accept(pair.server_pump, listener, &options, &error);
        CHECK(link != NULL);
        struct closing closing = {link, &barrier, random_next(&state) % 100000};
        zh_link_ref(link);
        CHECK(pthread_create(&threads[1], NULL, close_it, &closing) == 0);
        struct pollfd hello = {.fd = link->socket, .events = POLLIN};
        CHECK(poll(&hello, 1, 5000) == 1);
        pthread_barrier_wait(&barrier);
        while (zh_link_state(link) == ZH_LINK_GREETING)
            zh_link_serve(link);
        CHECK(pthread_join(threads[1], NULL) == 0);
        CHECK_EQ(zh_link_state(link), ZH_LINK_DEAD);
        /* Had it come to life again, it would have died of our own hanging up. */
        CHECK(strcmp(link->error, "by a thread") == 0);
        zh_link_unref(link);
        CHECK(pthread_join(threads[0], NULL) == 0);
        drop_link(&connecting.link);
        settle(pair.server_pump, 0);
    }
    CHECK_EQ(count_fds(), fds);
    zh_fork_close_fd(listener);
}

/* --- the pump's end --- */

/* A pump that is destroyed while a link lingers: the loan still ends when the peer does. */
static void pump_ends_first(void)
{
    int fds = count_fds();

    for (int i = 0; i < 20; i++) {
        struct pair p = pair;
        struct zh_link *client, *server;
        struct zh_received r;

        p.client_pump = new_pump();
        pair_link(&p, NULL, NULL, &client, &server);
        CHECK_EQ(post_loan(client, ZH_CALL, 1, 60000, 6), 0);
        drop_link(&client);
        zh_pump_destroy(p.client_pump);
        CHECK_EQ(arena_used(), 61440);
        CHECK(serve_until_dead(p.server_pump, server, SECONDS(5)));
        CHECK_EQ(zh_link_next(server, &r), 1);
        CHECK(r.message[0] == 6 && r.message[59999] == 6);
        zh_link_consume(server, &r);
        drop_link(&server);
        /* Whoever makes a pump or a link next finds the memory free. */
        zh_pump_destroy(new_pump());
        CHECK_EQ(arena_used(), 0);
        CHECK_EQ(count_fds(), fds);
    }
}

int main(void)
{
    scratch("");
    int fds = count_fds();
    pair_open(&pair, NULL, NULL);
    orderly();
    both_at_once();
    dead_while_lingering();
    drain_is_bounded();
    garbage_at_the_end();
    floods();
    two_closers();
    two_listeners();
    closed_while_greeting();
    pump_ends_first();
    pair_close(&pair);
    CHECK_EQ(arena_used(), 0);
    CHECK_EQ(count_fds(), fds + 1);
    CHECK_EQ(count_maps("zerohop-"), 1);
    return 0;
}
