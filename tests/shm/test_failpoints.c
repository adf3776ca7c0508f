/*
 * A peer that is killed, and one that is stopped, at every failpoint: the survivor sees its death,
 * gets back what it lent, keeps nothing, is never blocked, and its other links go on.
 *
 * The victim is this program again, with ZEROHOP_FAILPOINT set; it must be hit.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "harness.h"
#include "shm/failpoint.h"
#include "shm/link_internal.h"
#include "zerohop/fork.h"

extern char **environ;

enum { ROUNDS = 4, CALLS = 4, LARGE = 3 << 20 };
static const size_t sizes[CALLS] = {100, 5000, 100000, LARGE};

/* --- the session that both play --- */

static int post_call(struct zh_link *link, uint8_t kind, uint64_t call)
{
    static uint8_t bytes[100];
    size_t size = sizes[call % CALLS];

    memset(bytes, (int)call, sizeof(bytes));
    return size <= sizeof(bytes) ? post_bytes(link, kind, call, bytes, size)
                                 : post_loan(link, kind, call, size, (uint8_t)call);
}

/* Check a record, give back and consume it. */
static uint64_t finish(struct zh_link *link, const struct zh_received *r)
{
    uint64_t call = r->header.call;

    CHECK_EQ(r->header.message_bytes, sizes[call % CALLS]);
    for (uint64_t i = 0; i < r->header.message_bytes; i += 997)
        CHECK(r->message[i] == (uint8_t)call);
    if (r->loaned) {
        uint32_t segment;
        uint64_t offset;
        /* As if it went back to its owner; a link that is dead by now shares nothing. */
        CHECK_EQ(zh_link_place(link, r->message, 1, &segment, &offset), 0);
        (void)zh_link_share(link, segment);
        zh_link_give_back(link, r);
    }
    zh_link_consume(link, r);
    zh_link_flush(link);
    return call;
}

static void expect_reply(struct zh_pump *pump, struct zh_link *link, uint64_t call)
{
    struct zh_received r;
    struct zh_return credit;

    CHECK_EQ(next_within(pump, link, &r, SECONDS(10)), 1);
    CHECK_EQ(finish(link, &r), call);
    CHECK_EQ(zh_link_next_return(link, &credit), 0);
}

/* Call by call, so that both sides sleep and ring; in the last round all calls at once. */
static void client_session(struct zh_pump *pump, struct zh_link *link)
{
    for (uint64_t call = 0; call < ROUNDS * CALLS; call++) {
        sleep_ns(MS(1));
        CHECK_EQ(post_call(link, ZH_CALL, call), 0);
        if (call < (ROUNDS - 1) * CALLS)
            expect_reply(pump, link, call);
    }
    for (uint64_t call = (ROUNDS - 1) * CALLS; call < ROUNDS * CALLS; call++)
        expect_reply(pump, link, call);
}

static int victim_client(const char *path, bool fork_first, int life)
{
    struct zh_pump *pump = new_pump();
    struct zh_link *link = connect_link(pump, path);

    if (fork_first) {
        /* One child as fork() makes it, and one that no handler has seen: it keeps everything. */
        if (fork() == 0 || syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) == 0) {
            char byte;
            _exit(read(life, &byte, 1) == 0 ? 0 : 1); /* for as long as the driver wants */
        }
    }
    client_session(pump, link);
    CHECK_EQ(loans_open(link), 0);
    drop_link(&link);
    return 3; /* never hit */
}

static int victim_server(const char *path, int ready)
{
    struct zh_pump *pump = new_pump();
    struct zh_received r;
    int listener = listen_at(path);

    CHECK(write(ready, "r", 1) == 1);
    struct zh_link *link = accept_link(pump, listener, NULL, NULL);
    CHECK(link != NULL);
    for (uint64_t i = 0; i < ROUNDS * CALLS; i++) {
        CHECK_EQ(next_within(pump, link, &r, SECONDS(10)), 1);
        uint64_t call = finish(link, &r);
        sleep_ns(MS(1));
        CHECK_EQ(post_call(link, ZH_STATUS, call), 0);
    }
    for (uint64_t until = zh_now() + SECONDS(10); loans_open(link) > 0;) {
        struct zh_return credit;
        CHECK(zh_now() < until);
        CHECK_EQ(zh_link_next_return(link, &credit), 0);
    }
    drop_link(&link);
    return 3;
}

/* --- a process that has nothing to do with it --- */

static char echo_path[128];

static int echo_process(void *arg)
{
    struct zh_pump *pump = new_pump();
    struct zh_event events[ZH_PUMP_EVENTS];
    struct zh_link *links[2];
    struct zh_received r;
    int listener = listen_at(echo_path);

    alarm(0); /* the driver kills it */
    CHECK(write(*(int *)arg, "r", 1) == 1);
    for (int i = 0; i < 2; i++)
        CHECK((links[i] = accept_link(pump, listener, NULL, NULL)) != NULL);
    for (;;) {
        if (!zh_pump_arm(pump))
            zh_pump_events(pump, events, -1);
        zh_pump_disarm(pump);
        for (int i = 0; i < 2; i++) {
            while (zh_link_next(links[i], &r) == 1) {
                zh_link_consume(links[i], &r);
                zh_link_flush(links[i]);
                CHECK_EQ(post_bytes(links[i], ZH_STATUS, r.header.call, "x", 1), 0);
            }
        }
    }
}

static void ping(struct zh_pump *pump, struct zh_link *link)
{
    struct zh_received r;
    CHECK_EQ(post_bytes(link, ZH_CALL, 1, "x", 1), 0);
    CHECK_EQ(next_within(pump, link, &r, SECONDS(10)), 1);
    zh_link_consume(link, &r);
    zh_link_flush(link);
}

static _Atomic uint64_t pings;
static _Atomic bool enough;

static void *ping_for_ever(void *arg)
{
    struct zh_pump *pump = new_pump();
    struct zh_link *link = connect_link(pump, echo_path);

    while (!enough) {
        ping(pump, link);
        pings++;
        sleep_ns(200000);
    }
    drop_link(&link);
    zh_pump_destroy(pump);
    return arg;
}

/* --- the driver --- */

struct victim {
    pid_t pid;
    pthread_t watcher;
    _Atomic uint64_t stopped_at, ended_at; /* 0: not yet */
    int status;
};

static void *watch(void *arg)
{
    struct victim *v = arg;
    siginfo_t info;

    for (;;) {
        CHECK(waitid(P_PID, (id_t)v->pid, &info, WEXITED | WSTOPPED) == 0);
        if (info.si_code == CLD_STOPPED) {
            v->stopped_at = zh_now();
        } else {
            v->status = info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
            v->ended_at = zh_now();
            return NULL;
        }
    }
}

static void start(struct victim *v, const char *point, const char *role, int fd)
{
    char setting[128], number[16], path[128];
    char *argv[] = {"test_failpoints", (char *)(uintptr_t)role, path, number, NULL};
    char *env[256] = {setting};
    size_t n = 1;

    strcpy(path, scratch("victim"));
    snprintf(setting, sizeof(setting), "ZEROHOP_FAILPOINT=%s", point);
    snprintf(number, sizeof(number), "%d", fd);
    for (char **e = environ; *e != NULL && n < 255; e++)
        env[n++] = *e;
    env[n] = NULL;
    v->stopped_at = v->ended_at = 0;
    CHECK(posix_spawn(&v->pid, "/proc/self/exe", NULL, NULL, argv, env) == 0);
    CHECK(pthread_create(&v->watcher, NULL, watch, v) == 0);
}

static bool hit(const struct victim *v)
{
    return v->stopped_at != 0 || v->ended_at != 0;
}

static struct zh_pump *pump;
static struct zh_link *neighbour;
static uint64_t worst_notice, worst_call;

/* The survivor's half, until the victim has been hit, and everything that is to be read by then. */
static void survive(struct victim *v, struct zh_link *link, bool client)
{
    struct zh_event events[ZH_PUMP_EVENTS];
    struct zh_received r;
    struct zh_return credit;
    uint64_t posted = 0, answered = 0, until = zh_now() + SECONDS(20);

    while (zh_link_state(link) != ZH_LINK_DEAD && (!hit(v) || v->ended_at != 0)) {
        CHECK(zh_now() < until);
        if (client && posted == answered && posted < ROUNDS * CALLS) {
            sleep_ns(MS(1)); /* the victim sleeps by now */
            posted += post_call(link, ZH_CALL, posted) == 0;
        }
        if (!zh_pump_arm(pump))
            zh_pump_events(pump, events, (int64_t)MS(2));
        zh_pump_disarm(pump);
        zh_link_serve(link);
        while (zh_link_next(link, &r) == 1) {
            uint64_t call = finish(link, &r);
            answered++;
            if (!client) {
                sleep_ns(MS(1)); /* as above */
                (void)post_call(link, ZH_STATUS, call);
            }
        }
        CHECK_EQ(zh_link_next_return(link, &credit), 0);
    }
}

/* While the victim is stopped: no call blocks, the neighbour on the same pump is served, and so is
 * everybody else. */
static void while_stopped(struct zh_link *link, bool client)
{
    uint64_t before = pings, until = zh_now() + MS(60), calls = 0;

    while (zh_now() < until || pings - before < 20) {
        CHECK(zh_now() < until + SECONDS(10));
        ping(pump, neighbour);
        uint64_t start = zh_now();
        for (int i = 0; link != NULL && i < 20; i++) {
            struct zh_return credit;
            int error = post_call(link, client ? ZH_CALL : ZH_STATUS, calls++);
            CHECK(error == 0 || error == -EAGAIN || error == -EDQUOT || error == -ENOBUFS ||
                  error == -ENOMEM || error == -EPIPE);
            (void)zh_link_credit(link, 1, 1);
            CHECK_EQ(zh_link_next_return(link, &credit), 0);
            zh_link_serve(link);
        }
        worst_call = zh_now() - start > worst_call ? zh_now() - start : worst_call;
    }
}

static struct zh_link *meet(struct victim *v, bool client, int ready, int listener)
{
    struct zh_link_options options = {.lend_limit = 32 << 20};
    struct zh_link *link = NULL;
    char why[256];
    int error = 0;

    /* Until the victim is there, or never will be. */
    for (uint64_t until = zh_now() + SECONDS(20); !hit(v);) {
        struct pollfd fd = {.fd = client ? ready : listener, .events = POLLIN};
        CHECK(zh_now() < until);
        if (poll(&fd, 1, 2) == 1)
            break;
    }
    if (client) {
        link = zh_link_connect(pump, scratch("victim"), &options, (int64_t)MS(300), &error, why,
                               sizeof(why));
        if (link == NULL)
            CHECK(error == -ENOENT || error == -ECONNREFUSED || error == -ECONNRESET ||
                  error == -ETIMEDOUT || error == -EPIPE);
        return link;
    }
    link = zh_link_accept(pump, listener, &options, &error);
    if (link != NULL)
        link->greeted_by = zh_now() + MS(300); /* the test has no 2 s for each */
    return link;
}

static void run(const char *name, int nth, bool stop, bool victim_is_client, bool forks)
{
    char point[64];
    int ready[2], life[2];
    struct victim v;

    snprintf(point, sizeof(point), "%s:%s:%d", name, stop ? "stop" : "kill", nth);
    unlink(scratch("victim"));
    int listener = victim_is_client ? listen_at(scratch("victim")) : -1;
    CHECK(pipe(ready) == 0 && pipe2(life, 0) == 0);
    CHECK(fcntl(life[1], F_SETFD, FD_CLOEXEC) == 0 && fcntl(ready[0], F_SETFD, FD_CLOEXEC) == 0);
    int fds = count_fds(), maps = count_maps("zerohop-link") + count_maps("zerohop-pump");

    start(&v, point,
          forks              ? "forking"
          : victim_is_client ? "client"
                             : "server",
          victim_is_client ? life[0] : ready[1]);
    bool client = !victim_is_client;
    struct zh_link *link = meet(&v, client, ready[0], listener);
    if (link != NULL)
        survive(&v, link, client);
    for (uint64_t until = zh_now() + SECONDS(20); !hit(&v); sleep_ns(100000))
        CHECK(zh_now() < until);
    if (v.stopped_at != 0) {
        while_stopped(link, client);
        /* Some wait for the end of the stopped peer, some have ended the link by then. */
        if (nth % 2 == 0)
            drop_link(&link);
        CHECK(kill(v.pid, SIGKILL) == 0);
    }
    /* Death is noticed, and soon. */
    if (link != NULL) {
        uint64_t noticed = serve_until_dead(pump, link, SECONDS(5)) ? zh_now() : UINT64_MAX;
        CHECK(pthread_join(v.watcher, NULL) == 0);
        if (noticed > v.ended_at + SECONDS(1)) {
            fprintf(stderr, "%s: its peer's death was noticed late or not at all\n", point);
            exit(1);
        }
        if (noticed > v.ended_at && noticed - v.ended_at > worst_notice)
            worst_notice = noticed - v.ended_at;
        struct zh_received r;
        int got;
        while ((got = zh_link_next(link, &r)) == 1)
            (void)finish(link, &r);
        CHECK_EQ(got, -EPIPE); /* whatever it left half done, no record is broken */
        CHECK_EQ(loans_open(link), 0);
        drop_link(&link);
    } else {
        CHECK(pthread_join(v.watcher, NULL) == 0);
    }
    if (v.status != -SIGKILL || (stop && v.stopped_at == 0)) {
        fprintf(stderr, "%s was never hit by the %s (it ended with %d)\n", point,
                victim_is_client ? "client" : "server", v.status);
        exit(1);
    }
    for (uint64_t until = zh_now() + SECONDS(5); arena_used() != 0 && zh_now() < until;)
        settle(pump, MS(1)); /* lingering links */
    settle(pump, 0);
    CHECK_EQ(arena_used(), 0);
    struct zh_arena_usage usage;
    zh_arena_usage(zh_arena_of_uid(geteuid()), &usage);
    CHECK(count_maps("zerohop-arena") == (int)usage.segments && usage.segments <= 1);
    CHECK_EQ(count_maps("zerohop-link") + count_maps("zerohop-pump"), maps);
    CHECK_EQ(count_fds(), fds); /* the arena's one segment is there since main */
    ping(pump, neighbour);
    close(life[0]);
    close(life[1]);
    close(ready[0]);
    close(ready[1]);
    zh_fork_close_fd(listener);
}

static const char *const names[] = {
#define NAME(name) #name,
    ZH_FAILPOINTS_LIST(NAME)
#undef NAME
};

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

static void run_all(void)
{
    int runs = 0;

    for (int i = 0; i < ZH_FAILPOINT_COUNT; i++) {
        const char *name = names[i];
        bool as_client = !begins(name, "accept_"), as_server = !begins(name, "connect_");
        /* The first time; a later one, in the middle of the session, where there is one. */
        bool once = !as_client || !as_server || begins(name, "close_") ||
                    strcmp(name, "loan_segment_sent") == 0 ||
                    strcmp(name, "share_segment_sent") == 0;
        int times = begins(name, "segment_") || begins(name, "mapping_") ? 3 : once ? 1 : 2;
        for (int t = 1; t <= times; t++) {
            for (int stop = 0; stop < 2; stop++) {
                int nth = times == 2 && t == 2 ? 4 : t;
                if (as_client)
                    run(name, nth, stop, true, false);
                if (as_server)
                    run(name, nth, stop, false, false);
                runs += as_client + as_server;
            }
        }
    }
    /* Peers that have forked, one child of which holds a copy of all that the dead peer had. */
    for (int nth = 1; nth <= 5; nth += 2) {
        run("post_head_released", nth, false, true, true);
        run("wait_slept", nth, true, true, true);
        runs += 2;
    }
    fprintf(stderr, "%d runs; death noticed after at most %llu us; worst 20 calls %llu us\n", runs,
            (unsigned long long)worst_notice / 1000, (unsigned long long)worst_call / 1000);
}

int main(int argc, char **argv)
{
    if (argc == 4) {
        alarm(60);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int fd = atoi(argv[3]);
        if (strcmp(argv[1], "server") == 0)
            return victim_server(argv[2], fd);
        return victim_client(argv[2], strcmp(argv[1], "forking") == 0, fd);
    }

    int ready[2];
    char byte;
    pthread_t thread;
    strcpy(echo_path, scratch("echo"));
    CHECK(pipe2(ready, O_CLOEXEC) == 0);
    pid_t echo = spawn(echo_process, &ready[1]);
    CHECK(read(ready[0], &byte, 1) == 1);
    pump = new_pump();
    neighbour = connect_link(pump, echo_path);
    struct zh_block block;
    CHECK_EQ(zh_arena_alloc(zh_arena_of_uid(geteuid()), LARGE, true, &block), 0);
    CHECK_EQ(zh_arena_unref(zh_arena_of_uid(geteuid()), block.segment, block.page), 0);
    CHECK(pthread_create(&thread, NULL, ping_for_ever, NULL) == 0);
    while (pings == 0)
        sleep_ns(MS(1));
    run_all();
    enough = true;
    CHECK(pthread_join(thread, NULL) == 0);
    drop_link(&neighbour);
    zh_pump_destroy(pump);
    kill_child(echo);
    return 0;
}
