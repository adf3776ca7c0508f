/*
 * Hostile peers, of our own uid and of another that is allowed, against a server in this process:
 * it must end with errors alone, lose nothing, and serve an honest client all the while.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "harness.h"
#include "hostile.h"
#include "shm/link_internal.h"
#include "zerohop/fork.h"
#include "zerohop/stats.h"

enum { LINKS = 400, OTHER_UID = 54321, HONEST_UID = 54322 };

static uint64_t attack_ns = SECONDS(2);
static char path[128];
static uint32_t allowed[] = {OTHER_UID, HONEST_UID};

static int honest_client(void *arg)
{
    uint64_t until = *(uint64_t *)arg, calls = 0, worst = 0;
    struct zh_received r;

    struct zh_pump *pump = new_pump();
    struct zh_link *link = connect_link(pump, path);
    while (zh_now() < until) {
        uint64_t start = zh_now();
        CHECK_EQ(post_bytes(link, ZH_CALL, calls, "honest", 6), 0);
        CHECK_EQ(next_within(pump, link, &r, SECONDS(10)), 1);
        CHECK_EQ(r.header.call, calls);
        if (r.loaned) {
            for (uint64_t i = 0; i < r.header.message_bytes; i++)
                CHECK(r.message[i] == (uint8_t)calls);
            zh_link_give_back(link, &r);
        }
        zh_link_consume(link, &r);
        zh_link_flush(link);
        calls++;
        worst = zh_now() - start > worst ? zh_now() - start : worst;
        sleep_ns(200000);
    }
    CHECK_EQ(zh_link_state(link), ZH_LINK_OPEN);
    drop_link(&link);
    fprintf(stderr, "  honest: %llu calls, the slowest took %llu us\n", (unsigned long long)calls,
            (unsigned long long)worst / 1000);
    return calls >= 10 && worst < SECONDS(3) ? 0 : 1;
}

static struct zh_pump *pump;
static struct zh_link *links[LINKS];
static uint64_t records, accepted, broken;

/* Everything that is in a record is read, into memory of its exact size. */
static uint64_t read_all(const uint8_t *from, uint64_t bytes)
{
    uint8_t *copy = malloc(bytes);
    uint64_t sum = 0;

    CHECK(bytes == 0 || copy != NULL);
    if (bytes > 0)
        memcpy(copy, from, bytes);
    for (uint64_t i = 0; i < bytes; i += 64)
        sum += copy[i];
    free(copy);
    return sum;
}

/* Images that are held for a while, whatever becomes of their links. */
enum { HELD = 200 };
static struct {
    struct zh_link *link;
    struct zh_received record;
    const uint8_t *view;
} held[HELD];

static void let_go(int i)
{
    if (held[i].link == NULL)
        return;
    zh_link_let_go(held[i].link, &held[i].record);
    held[i].link = NULL;
}

static uint64_t hold(struct zh_link *link, const struct zh_received *r)
{
    static int next;
    uint64_t words[128], sum = 0;
    int i = next++ % HELD;

    let_go(i);
    zh_link_hold(link, r);
    held[i].link = link;
    held[i].record = *r;
    held[i].view = NULL;
    memcpy(words, r->message, r->header.message_bytes);
    for (uint64_t w = 0; w < r->header.message_bytes / 8; w++) {
        const uint8_t *at =
            zh_link_at(link, (uint32_t)(words[w] >> 36), words[w] & ((UINT64_C(1) << 36) - 1), 100);
        sum += at != NULL ? at[0] + at[99] : 0;
        held[i].view = at != NULL ? at : held[i].view;
    }
    /* Old views are as good as new ones. */
    for (int j = 0; j < HELD; j++)
        sum += held[j].link != NULL && held[j].view != NULL ? held[j].view[99] : 0;
    return sum;
}

static void serve_link(struct zh_link **slot)
{
    static volatile uint64_t sink;
    struct zh_link *link = *slot;
    struct zh_received r;
    struct zh_return credit;
    int got = 0;

    zh_link_serve(link);
    for (int i = 0; i < 64 && (got = zh_link_next_return(link, &credit)) == 1; i++)
        ;
    /* A fair share, then the next one's turn. */
    for (int i = 0; i < 64 && (got = zh_link_next(link, &r)) == 1; i++) {
        uint64_t call = r.header.call;
        records++;
        sink += read_all(r.metadata, r.header.metadata_bytes);
        if (r.message != NULL)
            sink += read_all(r.message, r.header.message_bytes);
        if ((r.header.flags & ZH_LOANED) != 0)
            sink += hold(link, &r);
        else if (r.loaned)
            zh_link_give_back(link, &r);
        zh_link_consume(link, &r);
        (void)zh_link_credit(link, call, 64);
        if (post_loan(link, ZH_STATUS, call, 5000, (uint8_t)call) != 0)
            (void)post_bytes(link, ZH_STATUS, call, "sorry", 5);
    }
    zh_link_flush(link);
    if (zh_link_state(link) != ZH_LINK_DEAD || got == 1)
        return;
    struct zh_link_info info;
    zh_link_info(link, &info);
    broken += strstr(info.error, "has closed") == NULL && strstr(info.error, "has exited") == NULL;
    drop_link(slot);
}

static void turn(int listener)
{
    struct zh_link_options options = {
        .allow_uids = allowed, .allow_uids_count = 2, .lend_limit = 1 << 20};
    struct zh_event events[ZH_PUMP_EVENTS];
    int error;

    if (!zh_pump_arm(pump))
        zh_pump_events(pump, events, (int64_t)MS(2));
    zh_pump_disarm(pump);
    for (int i = 0; i < LINKS; i++) {
        if (links[i] == NULL && listener >= 0) {
            links[i] = zh_link_accept(pump, listener, &options, &error);
            if (links[i] == NULL && error == -EAGAIN)
                listener = -1;
            accepted += links[i] != NULL;
        }
        if (links[i] != NULL)
            serve_link(&links[i]);
    }
}

static void under(const char *name, int (*attack)(void *), uint32_t uid)
{
    uint64_t until = zh_now() + attack_ns, slowest = 0;
    struct attack attacks[2];
    pid_t hostile[2];

    strcpy(path, scratch("hostile"));
    int fds = count_fds(), maps = count_maps("zerohop-link"), listener = listen_at(path);
    CHECK(chmod(path, 0666) == 0);
    pump = new_pump();
    CHECK_EQ(zh_pump_watch(pump, listener, 1), 0);
    records = accepted = broken = 0;
    pid_t honest = spawn(honest_client, &until);
    for (int i = 0; i < 2; i++) {
        attacks[i] = (struct attack){path, zh_now() * 2 + (uint64_t)i + 1, until, uid};
        hostile[i] = spawn(attack, &attacks[i]);
    }
    while (zh_now() < until + MS(300)) {
        uint64_t start = zh_now();
        turn(listener);
        slowest = zh_now() - start > slowest ? zh_now() - start : slowest;
    }
    fprintf(stderr, "%s by uid %u: %llu links, %llu records, %llu broken; slowest turn %llu us\n",
            name, uid, (unsigned long long)accepted, (unsigned long long)records,
            (unsigned long long)broken, (unsigned long long)slowest / 1000);
    for (int i = 0; i < 2; i++)
        expect_exit(hostile[i], 0, SECONDS(20));
    expect_exit(honest, 0, SECONDS(20));
    CHECK(accepted > 3 && records > 100 && broken > 0);

    for (int i = 0; i < HELD; i++)
        let_go(i);
    /* They are gone; so is all they held. */
    for (uint64_t end = zh_now() + SECONDS(10); zh_now() < end;) {
        int open = 0;
        turn(-1);
        for (int i = 0; i < LINKS; i++)
            open += links[i] != NULL;
        if (open == 0)
            break;
    }
    for (int i = 0; i < LINKS; i++)
        CHECK(links[i] == NULL);
    settle(pump, MS(5));
    CHECK_EQ(zh_pump_unwatch(pump, listener), 0);
    zh_pump_destroy(pump);
    zh_fork_close_fd(listener);
    struct zh_arena_usage ours, theirs;
    zh_arena_usage(zh_arena_of_uid(geteuid()), &ours);
    zh_arena_usage(zh_arena_of_uid(OTHER_UID), &theirs);
    CHECK_EQ(ours.used, 0);
    CHECK_EQ(theirs.used, 0);
    CHECK_EQ(count_maps("zerohop-link"), maps);
    CHECK_EQ(count_maps("zerohop-arena"), ours.segments + theirs.segments);
    CHECK(count_fds() <= fds + 2); /* an empty segment for each arena */
}

/* The other way round: a client against servers that greet it wrongly. */
static void *serve_wrongly(void *arg)
{
    struct pollfd listener = {.fd = *(int *)arg, .events = POLLIN};
    uint64_t random = 77;
    int fd;

    while (poll(&listener, 1, 500) == 1 && (fd = accept4(listener.fd, NULL, NULL, 0)) >= 0) {
        for (uint64_t n = random_next(&random) % 3; n > 0; n--)
            send_wrong_greeting(fd, ZH_MSG_WELCOME, &random);
        for (uint64_t n = random_next(&random) % 20; n > 0; n--)
            send_wrong_message(fd, &random);
        close(fd);
    }
    return NULL;
}

static void hostile_servers(void)
{
    strcpy(path, scratch("server"));
    int listener = listen_at(path), fds = count_fds(), came_about = 0, rounds = 0;
    pthread_t thread;
    struct zh_link_options options = {0};
    char why[256];
    int error;

    pump = new_pump();
    CHECK(pthread_create(&thread, NULL, serve_wrongly, &listener) == 0);
    for (uint64_t until = zh_now() + attack_ns / 2; zh_now() < until; rounds++) {
        struct zh_link *link =
            zh_link_connect(pump, path, &options, (int64_t)MS(300), &error, why, sizeof(why));
        CHECK(link != NULL || why[0] != '\0');
        came_about += link != NULL;
        for (int i = 0; link != NULL && i < 4; i++)
            zh_link_serve(link);
        drop_link(&link);
    }
    fprintf(stderr, "hostile servers: %d of %d links came about\n", came_about, rounds);
    CHECK(came_about > 0 && came_about < rounds);
    CHECK(pthread_join(thread, NULL) == 0);
    zh_pump_destroy(pump);
    CHECK_EQ(count_fds(), fds);
    zh_fork_close_fd(listener);
}

int main(int argc, char **argv)
{
    const struct {
        const char *name;
        int (*attack)(void *);
    } attacks[] = {
        {"memory", attack_memory}, {"greeting", attack_greeting}, {"loans", attack_loans},
        {"images", attack_images}, {"bells", attack_bells},
    };

    if (argc > 1)
        attack_ns = SECONDS(atoi(argv[1]));
    hostile_servers();
    for (size_t i = 0; i < sizeof(attacks) / sizeof(attacks[0]); i++) {
        under(attacks[i].name, attacks[i].attack, 0);
        if (geteuid() == 0)
            under(attacks[i].name, attacks[i].attack, OTHER_UID);
    }
    return 0;
}
