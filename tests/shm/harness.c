#include "harness.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "zerohop/fork.h"

static char directory[64];
static pid_t directory_owner;

static void remove_directory(void)
{
    char path[512];

    if (directory_owner != getpid())
        return;
    DIR *dir = opendir(directory);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        snprintf(path, sizeof(path), "%s/%s", directory, e->d_name);
        unlink(path);
    }
    if (dir != NULL)
        closedir(dir);
    rmdir(directory);
}

const char *scratch(const char *name)
{
    static char path[128];

    if (directory[0] == '\0') {
        strcpy(directory, "/tmp/zerohop-test-XXXXXX");
        CHECK(mkdtemp(directory) != NULL);
        CHECK(chmod(directory, 0755) == 0);
        directory_owner = getpid();
        atexit(remove_directory);
    }
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    return path;
}

int count_fds_of(pid_t pid)
{
    char path[64];
    int n = 0;

    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    DIR *dir = opendir(path);
    if (dir == NULL)
        return -1;
    for (struct dirent *e; (e = readdir(dir)) != NULL;)
        n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

int count_fds(void)
{
    return count_fds_of(getpid()) - 1; /* without the directory's own */
}

int count_maps_of(pid_t pid, const char *needle)
{
    char path[64], line[512];
    int n = 0;

    snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return -1;
    while (fgets(line, sizeof(line), file) != NULL)
        n += strstr(line, needle) != NULL;
    fclose(file);
    return n;
}

int count_maps(const char *needle)
{
    return count_maps_of(getpid(), needle);
}

void sleep_ns(uint64_t ns)
{
    struct timespec ts = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    nanosleep(&ts, NULL);
}

uint64_t random_next(uint64_t *state)
{
    /* xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators". */
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * UINT64_C(2685821657736338717);
}

pid_t spawn(int (*child)(void *), void *arg)
{
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        /* Whatever becomes of the test, no child outlives it (for long: setuid ends the first). */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(60);
        _exit(child(arg));
    }
    return pid;
}

void expect_exit(pid_t pid, int code, uint64_t ns)
{
    uint64_t until = zh_now() + ns;
    int status;

    for (;;) {
        pid_t got = waitpid(pid, &status, WNOHANG);
        CHECK(got >= 0);
        if (got == pid)
            break;
        if (zh_now() > until) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            fprintf(stderr, "child %d did not end in time\n", (int)pid);
            exit(1);
        }
        sleep_ns(MS(1));
    }
    if (WIFSIGNALED(status))
        fprintf(stderr, "child %d was ended by signal %d\n", (int)pid, WTERMSIG(status));
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), code);
}

void kill_child(pid_t pid)
{
    int status;

    CHECK(kill(pid, SIGKILL) == 0);
    CHECK(waitpid(pid, &status, 0) == pid);
}

struct zh_pump *new_pump(void)
{
    int error;
    struct zh_pump *pump = zh_pump_create(&error);
    CHECK_EQ(error, 0);
    CHECK(pump != NULL);
    return pump;
}

int listen_at(const char *path)
{
    char why[256];
    int fd = zh_link_listen(path, 0666, why, sizeof(why));
    if (fd < 0)
        fprintf(stderr, "%s\n", why);
    CHECK(fd >= 0);
    return fd;
}

struct zh_link *accept_link(struct zh_pump *pump, int listener,
                            const struct zh_link_options *options, char *why)
{
    struct zh_link_options none = {0};
    struct zh_event events[ZH_PUMP_EVENTS];
    struct pollfd fd = {.fd = listener, .events = POLLIN};
    struct zh_link_info info;
    int error;

    CHECK(poll(&fd, 1, 20000) == 1);
    struct zh_link *link =
        zh_link_accept(pump, listener, options != NULL ? options : &none, &error);
    if (link == NULL) {
        if (why != NULL)
            snprintf(why, 256, "%s", strerror(-error));
        return NULL;
    }
    while (zh_link_state(link) == ZH_LINK_GREETING) {
        uint64_t now = zh_now(), by = zh_link_greeted_by(link);
        zh_pump_events(pump, events, now < by ? (int64_t)(by - now) : 0);
        zh_link_serve(link);
    }
    if (zh_link_state(link) == ZH_LINK_OPEN)
        return link;
    zh_link_info(link, &info);
    if (why != NULL)
        snprintf(why, 256, "%s", info.error);
    drop_link(&link);
    return NULL;
}

struct zh_link *connect_link(struct zh_pump *pump, const char *path)
{
    struct zh_link_options options = {.agent = "test/1"};
    char why[256];
    int error;

    struct zh_link *link =
        zh_link_connect(pump, path, &options, (int64_t)SECONDS(20), &error, why, sizeof(why));
    if (link == NULL)
        fprintf(stderr, "connect: %s\n", why);
    CHECK(link != NULL);
    return link;
}

struct connecting {
    struct zh_pump *pump;
    char path[128];
    const struct zh_link_options *options;
    struct zh_link *link;
};

static void *connect_thread(void *arg)
{
    struct connecting *c = arg;
    struct zh_link_options none = {.agent = "test/1"};
    char why[256];
    int error;

    c->link = zh_link_connect(c->pump, c->path, c->options != NULL ? c->options : &none,
                              (int64_t)SECONDS(20), &error, why, sizeof(why));
    if (c->link == NULL)
        fprintf(stderr, "connect: %s\n", why);
    return NULL;
}

void pair_link(struct pair *pair, const struct zh_link_options *client,
               const struct zh_link_options *server, struct zh_link **client_link,
               struct zh_link **server_link)
{
    struct connecting c = {.pump = pair->client_pump, .options = client};
    pthread_t thread;
    char why[256] = "";

    strcpy(c.path, scratch("pair"));
    CHECK(pthread_create(&thread, NULL, connect_thread, &c) == 0);
    *server_link = accept_link(pair->server_pump, pair->listener, server, why);
    if (*server_link == NULL)
        fprintf(stderr, "accept: %s\n", why);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(*server_link != NULL && c.link != NULL);
    *client_link = c.link;
}

void pair_open(struct pair *pair, const struct zh_link_options *client,
               const struct zh_link_options *server)
{
    pair->client_pump = new_pump();
    pair->server_pump = new_pump();
    pair->listener = listen_at(scratch("pair"));
    pair_link(pair, client, server, &pair->client, &pair->server);
}

void drop_link(struct zh_link **link)
{
    if (*link == NULL)
        return;
    zh_link_close(*link, "dropped by the test");
    zh_link_unref(*link);
    *link = NULL;
}

void settle(struct zh_pump *pump, uint64_t ns)
{
    struct zh_event events[ZH_PUMP_EVENTS];
    uint64_t until = zh_now() + ns;

    while (zh_now() < until && zh_pump_events(pump, events, (int64_t)MS(1)) > 0)
        ;
    zh_pump_events(pump, events, 0);
}

void pair_close(struct pair *pair)
{
    drop_link(&pair->client);
    drop_link(&pair->server);
    settle(pair->client_pump, MS(20));
    settle(pair->server_pump, MS(20));
    zh_pump_destroy(pair->client_pump);
    zh_pump_destroy(pair->server_pump);
    zh_fork_close_fd(pair->listener);
    unlink(scratch("pair"));
}

bool serve_until_dead(struct zh_pump *pump, struct zh_link *link, uint64_t ns)
{
    struct zh_event events[ZH_PUMP_EVENTS];
    uint64_t until = zh_now() + ns;

    while (zh_link_state(link) != ZH_LINK_DEAD) {
        uint64_t now = zh_now();
        if (now >= until)
            return false;
        int n = zh_pump_events(pump, events, (int64_t)(until - now));
        for (int i = 0; i < n; i++) {
            if (events[i].kind == ZH_EVENT_LINK && events[i].key == zh_link_key(link))
                zh_link_serve(link);
        }
    }
    return true;
}

int next_within(struct zh_pump *pump, struct zh_link *link, struct zh_received *received,
                uint64_t ns)
{
    struct zh_event events[ZH_PUMP_EVENTS];
    uint64_t until = zh_now() + ns;

    for (;;) {
        int got = zh_link_next(link, received);
        if (got != 0)
            return got;
        uint64_t now = zh_now();
        if (now >= until)
            return 0;
        int64_t wait = zh_pump_arm(pump) ? 0 : (int64_t)(until - now);
        int n = zh_pump_events(pump, events, wait);
        zh_pump_disarm(pump);
        for (int i = 0; i < n; i++) {
            if (events[i].kind == ZH_EVENT_LINK && events[i].key == zh_link_key(link))
                zh_link_serve(link);
        }
        struct zh_return credit;
        while (zh_link_next_return(link, &credit) == 1)
            ;
    }
}

int post_bytes(struct zh_link *link, uint8_t kind, uint64_t call, const void *message, size_t bytes)
{
    struct zh_record header = {
        .kind = kind, .flags = ZH_HAS_MESSAGE, .call = call, .message_bytes = bytes};
    return zh_link_post(link, &header, NULL, message, NULL, 0);
}

int post_loan(struct zh_link *link, uint8_t kind, uint64_t call, size_t bytes, uint8_t byte)
{
    struct zh_record header = {.kind = kind,
                               .flags = ZH_HAS_MESSAGE | ZH_MESSAGE_IN_BLOCK,
                               .call = call,
                               .message_bytes = bytes};
    struct zh_loaned loaned;

    int error = zh_link_loan(link, bytes, true, 0, &loaned);
    if (error != 0)
        return error;
    memset(loaned.block.data, byte, bytes);
    error = zh_link_post(link, &header, NULL, NULL, &loaned, 0);
    if (error != 0)
        zh_link_unloan(link, &loaned);
    return error;
}

uint32_t loans_open(struct zh_link *link)
{
    struct zh_link_info info;
    zh_link_info(link, &info);
    return info.loans_open;
}

uint64_t arena_used(void)
{
    struct zh_arena_usage usage;
    zh_arena_usage(zh_arena_of_uid(geteuid()), &usage);
    return usage.used;
}
