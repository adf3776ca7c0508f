/* Ten thousand connects: nothing is left of them, whoever ends them and when. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"
#include "harness.h"
#include "zerohop/fork.h"
#include "zerohop/stats.h"

enum { CONNECTS = SANITIZED ? 3000 : 10000, AT_ONCE = 16 };

static char path[128];
static _Atomic bool stop;
static uint64_t served;

/* A server as one thread: accept, greet, answer, close what its client has closed. */
static void *serve(void *arg)
{
    struct zh_pump *pump = new_pump();
    struct zh_link_options options = {0};
    struct zh_link *links[128] = {0};
    struct zh_event events[ZH_PUMP_EVENTS];
    struct zh_received r;
    int listener = *(int *)arg, error;

    CHECK_EQ(zh_pump_watch(pump, listener, 7), 0);
    while (!stop) {
        if (!zh_pump_arm(pump))
            zh_pump_events(pump, events, (int64_t)MS(5));
        zh_pump_disarm(pump);
        for (int i = 0; i < 128; i++) {
            if (links[i] == NULL)
                links[i] = zh_link_accept(pump, listener, &options, &error);
            if (links[i] == NULL)
                break;
        }
        for (int i = 0; i < 128; i++) {
            if (links[i] == NULL)
                continue;
            zh_link_serve(links[i]);
            struct zh_return credit;
            CHECK(zh_link_next_return(links[i], &credit) <= 0);
            int got;
            while ((got = zh_link_next(links[i], &r)) == 1) {
                served++;
                if (r.loaned)
                    zh_link_give_back(links[i], &r);
                zh_link_consume(links[i], &r);
                if (post_loan(links[i], ZH_STATUS, r.header.call, 5000, 1) != 0)
                    (void)post_bytes(links[i], ZH_STATUS, r.header.call, "", 0);
            }
            CHECK(got == 0 || got == -EPIPE);
            if (got == 0)
                zh_link_flush(links[i]);
            else
                drop_link(&links[i]);
        }
    }
    CHECK_EQ(zh_pump_unwatch(pump, listener), 0);
    for (int i = 0; i < 128; i++)
        drop_link(&links[i]);
    settle(pump, MS(20));
    zh_pump_destroy(pump);
    return NULL;
}

/* One connection: a call, a reply; the end comes at any of several points. */
static void connect_once(struct zh_pump *pump, int way)
{
    struct zh_received r;

    if (way == 0) { /* not even a hello */
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        strcpy(address.sun_path, path);
        int raw = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        CHECK(raw >= 0 && connect(raw, (struct sockaddr *)&address, sizeof(address)) == 0);
        close(raw);
        return;
    }
    struct zh_link *link = connect_link(pump, path);
    if (way >= 2)
        CHECK_EQ(post_loan(link, ZH_CALL, 1, 9000, 1), 0);
    if (way >= 3) {
        CHECK_EQ(next_within(pump, link, &r, SECONDS(10)), 1);
        if (way >= 4 && r.loaned)
            zh_link_give_back(link, &r);
        zh_link_consume(link, &r);
    }
    drop_link(&link);
}

int main(void)
{
    struct zh_stats_snapshot stats;
    pthread_t thread;

    strcpy(path, scratch("many"));
    int listener = listen_at(path);
    int fds = count_fds();
    CHECK(pthread_create(&thread, NULL, serve, &listener) == 0);
    struct zh_pump *pump = new_pump();
    uint64_t start = zh_now();
    for (int i = 0; i < CONNECTS; i++) {
        connect_once(pump, i % 6);
        if (i % AT_ONCE == 0)
            settle(pump, 0);
        if (i % 1000 == 999)
            CHECK(count_fds() < fds + 2000 && count_maps("zerohop-") < 2000);
    }
    for (uint64_t until = zh_now() + SECONDS(10); arena_used() != 0 && zh_now() < until;)
        settle(pump, MS(2));
    fprintf(stderr, "%d connects in %llu ms, %llu calls\n", CONNECTS,
            (unsigned long long)(zh_now() - start) / 1000000, (unsigned long long)served);
    stop = true;
    CHECK(pthread_join(thread, NULL) == 0);
    settle(pump, MS(5));
    zh_pump_destroy(pump);
    CHECK_EQ(arena_used(), 0);
    CHECK_EQ(count_fds(), fds + 1); /* the empty segment that the arena keeps */
    CHECK_EQ(count_maps("zerohop-"), 1);
    zh_stats_read(&stats);
    CHECK_EQ(stats.links_opened, stats.links_closed);
    CHECK_EQ(stats.blocks_lent, stats.blocks_returned);
    CHECK(served > CONNECTS / 3);
    return 0;
}
