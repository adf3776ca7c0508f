/* Greeting: who links with whom, and what each side says when they do not. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"
#include "harness.h"
#include "shm/link_internal.h"
#include "zerohop/fork.h"
#include "zerohop/stats.h"

#define OTHER_UID 54321u

static bool has_number(const char *text, const char *before, long number)
{
    char wanted[64];

    snprintf(wanted, sizeof(wanted), "%s%ld", before, number);
    bool found = strstr(text, wanted) != NULL;
    if (!found)
        fputs(text, stderr);
    return found;
}

/* A client or server that speaks for itself. */
static int raw_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    strcpy(address.sun_path, path);
    CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    return fd;
}

static struct zh_hello good_hello(uint32_t kind)
{
    return (struct zh_hello){
        .magic = ZH_LINK_MAGIC,
        .version = ZH_LINK_VERSION,
        .kind = kind,
        .clock = zh_now(),
        .side_bytes = sizeof(struct zh_side),
        .slot_bytes = ZH_SLOT,
        .ring_slots = ZH_RING_SLOTS,
        .agent = "raw/1",
    };
}

/* The server's answer to a hello of our making; its link must die, for the reason given to both. */
static void rejected(const char *path, int listener, const struct zh_hello *hello, char *why)
{
    struct zh_pump *pump = new_pump();
    struct zh_message answer;
    struct pollfd readable = {.events = POLLIN};

    readable.fd = raw_connect(path);
    CHECK(send(readable.fd, hello, sizeof(*hello), 0) == sizeof(*hello));
    CHECK(accept_link(pump, listener, NULL, why) == NULL);
    CHECK(poll(&readable, 1, 1000) == 1);
    if (hello->magic == ZH_LINK_MAGIC) {
        CHECK_EQ(zh_message_receive(readable.fd, &answer), 1);
        CHECK_EQ(answer.hello.kind, ZH_MSG_REJECT);
        CHECK(strcmp(answer.hello.text, why) == 0);
    }
    CHECK_EQ(zh_message_receive(readable.fd, &answer), 0);
    close(readable.fd);
    zh_pump_destroy(pump);
}

static void bad_hellos(void)
{
    char path[128], why[256];
    strcpy(path, scratch("bad"));
    int listener = listen_at(path), fds = count_fds();
    struct zh_hello hello;

    hello = good_hello(ZH_MSG_HELLO);
    hello.version = ZH_LINK_VERSION + 41;
    rejected(path, listener, &hello, why);
    CHECK(has_number(why, "pid ", getpid()) && has_number(why, "version ", ZH_LINK_VERSION + 41) &&
          has_number(why, "version ", ZH_LINK_VERSION));

    hello = good_hello(ZH_MSG_HELLO);
    hello.magic++;
    rejected(path, listener, &hello, why);
    CHECK(strstr(why, "malformed") != NULL);

    hello = good_hello(ZH_MSG_WELCOME);
    rejected(path, listener, &hello, why);
    CHECK(strstr(why, "no greeting") != NULL);

    hello = good_hello(ZH_MSG_HELLO);
    hello.clock -= SECONDS(3600);
    rejected(path, listener, &hello, why);
    CHECK(strstr(why, "clocks") != NULL);
    hello.clock = zh_now() + SECONDS(5);
    rejected(path, listener, &hello, why);
    CHECK(strstr(why, "clocks") != NULL);

    hello = good_hello(ZH_MSG_HELLO);
    hello.ring_slots *= 2;
    rejected(path, listener, &hello, why);
    CHECK(has_number(why, "pid ", getpid()) && strstr(why, "ring layout") != NULL);

    hello = good_hello(ZH_MSG_HELLO); /* without the memory */
    rejected(path, listener, &hello, why);
    CHECK(strstr(why, "wrong descriptors") != NULL);

    CHECK_EQ(count_fds(), fds);
    zh_fork_close_fd(listener);
}

/* Servers that are none. */
enum answer { OLD_VERSION, GARBAGE, CLOSE, SILENCE, NO_MEMORY };
struct raw_server {
    int listener;
    enum answer answer;
};

static void *raw_serve(void *arg)
{
    struct raw_server *s = arg;
    struct zh_hello hello = good_hello(ZH_MSG_WELCOME);
    struct pollfd ended = {.fd = accept(s->listener, NULL, NULL)};

    CHECK(ended.fd >= 0);
    hello.version += s->answer == OLD_VERSION;
    if (s->answer == OLD_VERSION || s->answer == NO_MEMORY)
        CHECK(send(ended.fd, &hello, sizeof(hello), 0) == sizeof(hello));
    if (s->answer == GARBAGE)
        CHECK(send(ended.fd, "HTTP/1.1 400 Bad Request\r\n", 26, 0) == 26);
    if (s->answer != CLOSE)
        CHECK(poll(&ended, 1, 20000) == 1); /* until the client hangs up */
    close(ended.fd);
    return NULL;
}

static int refused_by(struct raw_server *server, const char *path, char *why)
{
    struct zh_link_options options = {0};
    struct zh_pump *pump = new_pump();
    pthread_t thread;
    int error;

    CHECK(pthread_create(&thread, NULL, raw_serve, server) == 0);
    uint64_t start = zh_now();
    CHECK(zh_link_connect(pump, path, &options, (int64_t)MS(200), &error, why, 256) == NULL);
    CHECK(zh_now() - start < SECONDS(5));
    CHECK(server->answer != SILENCE || zh_now() - start >= MS(199));
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(strstr(why, path) != NULL || has_number(why, "pid ", getpid()));
    zh_pump_destroy(pump);
    return error;
}

static void bad_servers(void)
{
    char path[128], why[256];
    strcpy(path, scratch("fake"));
    struct raw_server server = {.listener = listen_at(path)};
    int fds = count_fds();

    CHECK(fcntl(server.listener, F_SETFL, 0) == 0); /* blocking: it is a simple server */
    server.answer = OLD_VERSION;
    CHECK_EQ(refused_by(&server, path, why), -EPROTO);
    CHECK(has_number(why, "version ", ZH_LINK_VERSION + 1) && has_number(why, "version ", 1));
    server.answer = GARBAGE;
    CHECK_EQ(refused_by(&server, path, why), -EPROTO);
    CHECK(strstr(why, "not a zerohop server") != NULL);
    server.answer = CLOSE;
    CHECK_EQ(refused_by(&server, path, why), -ECONNRESET);
    CHECK(strstr(why, "closed the connection") != NULL);
    server.answer = SILENCE;
    CHECK_EQ(refused_by(&server, path, why), -ETIMEDOUT);
    server.answer = NO_MEMORY;
    CHECK_EQ(refused_by(&server, path, why), -EPROTO);
    CHECK_EQ(count_fds(), fds);
    zh_fork_close_fd(server.listener);
}

static int connect_error(const char *path, char *why)
{
    struct zh_link_options options = {0};
    struct zh_pump *pump = new_pump();
    int error;

    CHECK(zh_link_connect(pump, path, &options, (int64_t)MS(200), &error, why, 256) == NULL);
    CHECK(why[0] != '\0');
    zh_pump_destroy(pump);
    return error;
}

static void addresses(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char path[128], why[256], longer[200];
    int fds = count_fds();

    strcpy(path, scratch("address"));
    CHECK_EQ(connect_error(path, why), -ENOENT);
    CHECK(strstr(why, path) != NULL);
    memset(longer, 'x', sizeof(longer));
    longer[sizeof(longer) - 1] = '\0';
    CHECK_EQ(connect_error(longer, why), -ENAMETOOLONG);
    CHECK_EQ(zh_link_listen(longer, 0600, why, sizeof(why)), -ENAMETOOLONG);

    int first = zh_link_listen(path, 0600, why, sizeof(why));
    CHECK(first >= 0);
    struct stat st;
    CHECK(stat(path, &st) == 0 && (st.st_mode & 0777) == 0600);
    CHECK_EQ(zh_link_listen(path, 0600, why, sizeof(why)), -EADDRINUSE);
    CHECK(strstr(why, "another server") != NULL);
    /* That server is still there, and left undisturbed but for a connection that ended at once. */
    struct zh_pump *pump = new_pump();
    CHECK(accept_link(pump, first, NULL, why) == NULL);
    zh_pump_destroy(pump);
    zh_fork_close_fd(first);

    CHECK_EQ(connect_error(path, why), -ECONNREFUSED); /* left over from a dead server */
    first = zh_link_listen(path, 0600, why, sizeof(why));
    CHECK(first >= 0);
    zh_fork_close_fd(first);
    unlink(path);

    FILE *file = fopen(path, "we"); /* no socket: not ours to replace */
    CHECK(file != NULL && fclose(file) == 0);
    CHECK_EQ(zh_link_listen(path, 0600, why, sizeof(why)), -EADDRINUSE);
    CHECK(access(path, F_OK) == 0);
    unlink(path);

    int stream = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    strcpy(address.sun_path, path);
    CHECK(bind(stream, (struct sockaddr *)&address, sizeof(address)) == 0);
    CHECK(listen(stream, 1) == 0);
    CHECK_EQ(connect_error(path, why), -EPROTOTYPE);
    CHECK(strstr(why, "another kind") != NULL);
    close(stream);
    CHECK_EQ(count_fds(), fds);
}

static void good(void)
{
    struct zh_stats_snapshot before, after;
    struct zh_link_options client = {.agent = "client/7"}, server = {.agent = "server/8"};
    struct zh_link_info info;
    struct pair pair;

    zh_stats_read(&before);
    pair_open(&pair, &client, &server);
    zh_stats_read(&after);
    CHECK_EQ(after.links_opened - before.links_opened, 2);
    zh_link_info(pair.client, &info);
    CHECK(info.pid == getpid() && info.uid == geteuid() && info.state == ZH_LINK_OPEN);
    CHECK(strcmp(info.agent, "server/8") == 0 && info.error[0] == '\0');
    zh_link_info(pair.server, &info);
    CHECK(info.pid == getpid() && strcmp(info.agent, "client/7") == 0);
    CHECK(pair.client->bell >= 0 && pair.client->peer_bell >= 0);
    pair_close(&pair);
    zh_stats_read(&after);
    CHECK_EQ(after.links_closed - before.links_closed, 2);
}

/* One client says nothing; others are greeted and served meanwhile; the silent one is dropped. */
static void silence(void)
{
    char path[128];
    strcpy(path, scratch("silent"));
    int listener = listen_at(path), error;
    struct zh_pump *pump = new_pump();
    struct zh_link_options options = {0};
    struct zh_link_info info;

    int raw = raw_connect(path);
    struct zh_link *silent = zh_link_accept(pump, listener, &options, &error);
    CHECK(silent != NULL);
    CHECK_EQ(zh_link_state(silent), ZH_LINK_GREETING);
    uint64_t by = zh_link_greeted_by(silent);
    CHECK(by > zh_now() && by < zh_now() + SECONDS(10));
    zh_link_serve(silent);
    CHECK_EQ(zh_link_state(silent), ZH_LINK_GREETING);
    CHECK(zh_link_accept(pump, listener, &options, &error) == NULL);
    CHECK_EQ(error, -EAGAIN);

    struct pair pair;
    uint64_t start = zh_now();
    pair_open(&pair, NULL, NULL);
    CHECK(zh_now() - start < SECONDS(1));

    struct zh_event events[ZH_PUMP_EVENTS];
    zh_pump_timer(pump, by);
    while (zh_link_state(silent) == ZH_LINK_GREETING) {
        CHECK(zh_now() < by + SECONDS(5));
        int n = zh_pump_events(pump, events, (int64_t)SECONDS(5));
        for (int i = 0; i < n; i++)
            zh_link_serve(silent);
    }
    CHECK(zh_now() >= by);
    zh_link_info(silent, &info);
    CHECK(strstr(info.error, "did not greet") != NULL && has_number(info.error, "pid ", getpid()));
    char byte;
    CHECK(recv(raw, &byte, 1, 0) == 0);
    close(raw);
    pair_close(&pair);
    drop_link(&silent);
    zh_pump_destroy(pump);
    zh_fork_close_fd(listener);
}

/* --- another uid --- */

struct foreign {
    char path[128];
    uint32_t allow[1];
    bool allowing; /* does the client allow the server's uid? */
    bool expected; /* is a link expected to come about? */
    const char *says[4];
};

static int foreign_client(void *arg)
{
    struct foreign *f = arg;
    struct zh_link_options options = {
        .agent = "foreign/1", .allow_uids = f->allow, .allow_uids_count = f->allowing ? 1 : 0};
    char why[256];
    int error;

    CHECK(setgid(OTHER_UID) == 0 && setuid(OTHER_UID) == 0);
    struct zh_pump *pump = new_pump();
    struct zh_link *link =
        zh_link_connect(pump, f->path, &options, (int64_t)SECONDS(10), &error, why, sizeof(why));
    if (!f->expected) {
        fprintf(stderr, "refused: %s\n", why);
        CHECK(link == NULL);
        CHECK_EQ(error, -EACCES);
        for (int i = 0; i < 4 && f->says[i] != NULL; i++)
            CHECK(strstr(why, f->says[i]) != NULL);
        return 0;
    }
    if (link == NULL)
        fprintf(stderr, "%s\n", why);
    CHECK(link != NULL);
    CHECK(link->bell == -1 && link->peer_bell == -1);
    struct zh_received r;
    for (int i = 0; i < 200; i++) {
        /* The server sleeps by now: the socket wakes it, and its answer us. */
        if (i < 20)
            sleep_ns(MS(2));
        CHECK_EQ(post_loan(link, ZH_CALL, (uint64_t)i, 5000, (uint8_t)i), 0);
        CHECK_EQ(next_within(pump, link, &r, SECONDS(10)), 1);
        CHECK(r.header.call == (uint64_t)i && r.loaned && r.message[4999] == (uint8_t)i);
        zh_link_give_back(link, &r);
        zh_link_consume(link, &r);
        zh_link_flush(link);
    }
    drop_link(&link);
    return 0;
}

static void other_uid(void)
{
    struct foreign f = {.allow = {geteuid()}, .allowing = true};
    uint32_t allow[] = {1, OTHER_UID};
    struct zh_link_options options = {.allow_uids = allow};
    struct zh_stats_snapshot before, after;
    char why[256], pid[32];

    if (geteuid() != 0) {
        fprintf(stderr, "not root: links between uids are not tested\n");
        return;
    }
    strcpy(f.path, scratch("uids"));
    int listener = listen_at(f.path);
    struct zh_pump *pump = new_pump();

    /* The server does not allow it (somebody else it does), and says so to the client. */
    options.allow_uids_count = 1;
    snprintf(pid, sizeof(pid), "pid %d", (int)getpid());
    f.says[0] = "uid 54321";
    f.says[1] = "uid 0";
    f.says[2] = pid;
    f.says[3] = "allow_uids";
    for (int i = 0; i < 10; i++) {
        pid_t child = spawn(foreign_client, &f);
        sleep_ns(MS(i)); /* before and after the hello has come */
        CHECK(accept_link(pump, listener, &options, why) == NULL);
        expect_exit(child, 0, SECONDS(20));
    }
    /* The client does not: it never says hello. */
    options.allow_uids_count = 2;
    f.allowing = false;
    f.says[2] = f.path;
    pid_t child = spawn(foreign_client, &f);
    CHECK(accept_link(pump, listener, &options, why) == NULL);
    expect_exit(child, 0, SECONDS(20));

    /* Both do. */
    f.allowing = f.expected = true;
    child = spawn(foreign_client, &f);
    struct zh_link *link = accept_link(pump, listener, &options, why);
    CHECK(link != NULL);
    CHECK_EQ(link->uid, OTHER_UID);
    CHECK(link->bell == -1 && link->peer_bell == -1);
    CHECK(link->arena != zh_arena_of_uid(geteuid())); /* an arena of its own for each domain */
    zh_stats_read(&before);
    struct zh_received r;
    int got;
    while ((got = next_within(pump, link, &r, SECONDS(10))) == 1) {
        sleep_ns(r.header.call < 20 ? MS(2) : 0);
        CHECK(r.loaned);
        uint8_t byte = r.message[0];
        zh_link_give_back(link, &r);
        zh_link_consume(link, &r);
        zh_link_flush(link);
        CHECK_EQ(post_loan(link, ZH_STATUS, r.header.call, 5000, byte), 0);
    }
    CHECK_EQ(got, -EPIPE); /* the client has closed */
    zh_stats_read(&after);
    CHECK(after.wakeups > before.wakeups);
    expect_exit(child, 0, SECONDS(20));
    drop_link(&link);
    zh_pump_destroy(pump);
    zh_fork_close_fd(listener);
}

int main(void)
{
    scratch("");
    int fds = count_fds();

    good();
    addresses();
    bad_hellos();
    bad_servers();
    other_uid();
    silence();
    struct zh_arena_usage usage;
    zh_arena_usage(zh_arena_of_uid(OTHER_UID), &usage);
    CHECK_EQ(usage.used, 0);
    zh_arena_usage(zh_arena_of_uid(geteuid()), &usage);
    CHECK_EQ(count_fds(), fds + (int)usage.segments + (geteuid() == 0));
    return 0;
}
