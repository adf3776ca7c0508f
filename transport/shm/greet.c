/*
 * Greeting: how a link comes about. The client sends a hello with its side of the memory, the
 * server checks it and answers with its own, or with the reason why not. Neither trusts what the
 * other says: the kernel tells who it is (SO_PEERCRED), and zh_mapping_open looks at the memory
 * itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "failpoint.h"
#include "link_internal.h"
#include "pump_internal.h"
#include "zerohop/fork.h"
#include "zerohop/stats.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* asm-generic/socket.h, Linux 6.5 */
#endif

/* A connected peer that says nothing for so long is dropped. */
#define GREETING_NS UINT64_C(2000000000)

/* How old a hello may be when it is read: it waited in the backlog of a busy server. */
#define CLOCK_BEHIND_NS INT64_C(60000000000)
/* A clock from the future is another time namespace's; the slack is for cores that disagree a
 * little. */
#define CLOCK_AHEAD_NS INT64_C(1000000)

static int address_of(const char *path, struct sockaddr_un *address, char *why, size_t room)
{
    memset(address, 0, sizeof(*address));
    address->sun_family = AF_UNIX;
    if (strlen(path) >= sizeof(address->sun_path)) {
        snprintf(why, room,
                 "the socket path %s is longer than the %zu bytes a unix socket may have", path,
                 sizeof(address->sun_path) - 1);
        return -ENAMETOOLONG;
    }
    strcpy(address->sun_path, path);
    return 0;
}

/* Who is at the other end, as the kernel has it; and a pidfd, where there can be one. */
static int identify(struct zh_link *link)
{
    struct ucred ucred;
    socklen_t size = sizeof(ucred);

    if (getsockopt(link->socket, SOL_SOCKET, SO_PEERCRED, &ucred, &size) != 0)
        return -errno;
    link->pid = ucred.pid;
    link->uid = ucred.uid;
    int fd = -1;
    size = sizeof(fd);
    if (getsockopt(link->socket, SOL_SOCKET, SO_PEERPIDFD, &fd, &size) != 0)
        fd = -1;
    /* Before Linux 6.5: by number. In another pid namespace the number is 0, and the socket must
     * do. */
    if (fd < 0 && link->pid > 0)
        fd = (int)syscall(SYS_pidfd_open, link->pid, 0);
    if (fd >= 0)
        zh_fork_track_fd(fd);
    link->pidfd = fd;
    return 0;
}

static bool allowed(const struct zh_link *link)
{
    if (link->uid == geteuid())
        return true;
    for (size_t i = 0; i < link->allow_uids_count; i++) {
        if (link->allow_uids[i] == link->uid)
            return true;
    }
    return false;
}

bool zh_link_peer_exited(const struct zh_link *link)
{
    struct pollfd fd = {.fd = link->pidfd, .events = POLLIN};
    return link->pidfd >= 0 && poll(&fd, 1, 0) == 1;
}

/* Say who we are, with our side of the memory. */
static int send_hello(struct zh_link *link, uint32_t kind)
{
    struct zh_hello hello = {
        .magic = ZH_LINK_MAGIC,
        .version = ZH_LINK_VERSION,
        .kind = kind,
        .clock = zh_now(),
        .side_bytes = sizeof(struct zh_side),
        .slot_bytes = ZH_SLOT,
        .ring_slots = ZH_RING_SLOTS,
        .has_bell = link->uid == geteuid(),
    };
    int fds[3] = {link->own.fd, zh_pump_page_segment(link->pump)->fd, -1};

    if (hello.has_bell) {
        link->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (link->bell < 0)
            return -errno;
        zh_fork_track_fd(link->bell);
        fds[2] = link->bell;
    }
    memcpy(hello.agent, link->agent, sizeof(hello.agent));
    return zh_message_send(link->socket, &hello, sizeof(hello), fds, hello.has_bell ? 3 : 2);
}

static void send_reject(struct zh_link *link, const char *text)
{
    struct zh_hello hello = {
        .magic = ZH_LINK_MAGIC, .version = ZH_LINK_VERSION, .kind = ZH_MSG_REJECT};

    snprintf(hello.text, sizeof(hello.text), "%s", text);
    (void)zh_message_send(link->socket, &hello, sizeof(hello), NULL, 0);
}

/* What is wrong with a hello, for both sides to read; "" when nothing is. */
static void check_hello(const struct zh_link *link, const struct zh_message *message, uint32_t kind,
                        char *why, size_t room)
{
    const struct zh_hello *hello = &message->hello;
    int64_t behind = (int64_t)(zh_now() - hello->clock);

    why[0] = '\0';
    if (hello->version != ZH_LINK_VERSION)
        snprintf(why, room, "pid %d speaks version %u of the link protocol, pid %d version %u",
                 (int)link->pid, hello->version, (int)getpid(), ZH_LINK_VERSION);
    else if (message->bytes != sizeof(*hello) || hello->kind != kind)
        snprintf(why, room, "pid %d sent no greeting but message kind %u of %zu bytes",
                 (int)link->pid, hello->kind, message->bytes);
    else if (behind > CLOCK_BEHIND_NS || behind < -CLOCK_AHEAD_NS)
        snprintf(
            why, room,
            "the monotonic clocks of pid %d and pid %d differ by %lld ms (two time namespaces?)",
            (int)link->pid, (int)getpid(), (long long)(behind / 1000000));
}

static void adopt_failed(const struct zh_link *link, int error, char *why, size_t room)
{
    snprintf(why, room, "pid %d refused the memory of pid %d: %s", (int)getpid(), (int)link->pid,
             error == -EPERM     ? "a memfd without the seals"
             : error == -ENODATA ? "a memfd with holes"
             : error == -EPROTO  ? "wrong descriptors or another ring layout"
                                 : strerror(-error));
}

static int poll_in(int fd, uint64_t until)
{
    for (;;) {
        uint64_t now = zh_now();
        struct pollfd pollfd = {.fd = fd, .events = POLLIN};
        if (now >= until)
            return -ETIMEDOUT;
        int n = poll(&pollfd, 1, (int)((until - now + 999999) / 1000000));
        if (n > 0)
            return 0;
        if (n < 0)
            return -errno; /* EINTR goes to the caller, who may have a Ctrl-C to honour */
    }
}

static int connect_socket(const char *path, uint64_t until, int *error, char *why, size_t room)
{
    struct sockaddr_un address;

    *error = address_of(path, &address, why, room);
    if (*error != 0)
        return -1;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        *error = -errno;
        snprintf(why, room, "no socket: %s", strerror(errno));
        return -1;
    }
    while (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        *error = -errno;
        /* EAGAIN: the backlog is full. There is no readiness to wait for, so try again shortly. */
        if (*error == -EAGAIN && zh_now() < until) {
            poll(NULL, 0, 1);
            continue;
        }
        if (*error == -EINTR)
            continue;
        if (*error == -EPROTOTYPE)
            snprintf(why, room, "%s is a socket of another kind, not a zerohop server's", path);
        else
            snprintf(why, room, "failed to connect to %s: %s", path, strerror(-*error));
        close(fd);
        return -1;
    }
    *error = 0;
    return fd;
}

/*
 * The server's answer. A server that refuses us at once has closed the socket before it read our
 * hello: the kernel reports that first, once, and then gives what the server said.
 */
static int receive_answer(struct zh_link *link, uint64_t until, struct zh_message *message)
{
    int n = poll_in(link->socket, until);
    if (n != 0)
        return n;
    n = zh_message_receive(link->socket, message);
    if (n == -ECONNRESET)
        n = zh_message_receive(link->socket, message);
    return n == 1 ? 0 : n == 0 ? -ECONNRESET : n;
}

static int finish_connect(struct zh_link *link, const char *path, uint64_t until, char *why,
                          size_t room)
{
    struct zh_message message;

    int error = identify(link);
    if (error == 0 && !allowed(link)) {
        snprintf(
            why, room,
            "the server at %s runs as uid %u, this process as uid %u; allow it with the option "
            "zerohop.allow_uids or ZEROHOP_ALLOW_UIDS",
            path, (unsigned)link->uid, (unsigned)geteuid());
        return -EACCES;
    }
    if (error == 0)
        error = send_hello(link, ZH_MSG_HELLO);
    ZH_FAILPOINT(connect_hello_sent);
    if (error == 0 || error == -EPIPE || error == -ECONNRESET)
        error = receive_answer(link, until, &message);
    if (error != 0) {
        snprintf(why, room, "no greeting from the server at %s: %s", path,
                 error == -ECONNRESET ? "it closed the connection"
                 : error == -EPROTO   ? "it sent something else (not a zerohop server?)"
                                      : strerror(-error));
        return error;
    }
    if (message.hello.kind == ZH_MSG_REJECT) {
        message.hello.text[sizeof(message.hello.text) - 1] = '\0';
        snprintf(why, room, "the server at %s refused the link: %s", path, message.hello.text);
        error = -EACCES;
    } else {
        check_hello(link, &message, ZH_MSG_WELCOME, why, room);
        if (why[0] != '\0')
            error = -EPROTO;
    }
    if (error == 0) {
        error = zh_link_adopt(link, &message.hello, message.fds, message.fd_count);
        if (error != 0)
            adopt_failed(link, error, why, room);
    }
    zh_message_close_fds(&message);
    return error;
}

static int enter_pump(struct zh_link *link)
{
    link->key = zh_pump_add(link->pump, link, link->socket, link->pidfd, link->bell);
    if (link->key == 0)
        return -ENOMEM;
    link->detached = false;
    return 0;
}

struct zh_link *zh_link_connect(struct zh_pump *pump, const char *path,
                                const struct zh_link_options *options, int64_t timeout, int *error,
                                char *why, size_t room)
{
    uint64_t until = zh_now() + (uint64_t)timeout;

    why[0] = '\0';
    int fd = connect_socket(path, until, error, why, room);
    if (fd < 0)
        return NULL;
    ZH_FAILPOINT(connect_socket);
    struct zh_link *link = zh_link_new(pump, fd, true, options, error);
    if (link == NULL) {
        snprintf(why, room, "no memory for a link: %s", strerror(-*error));
        return NULL;
    }
    *error = finish_connect(link, path, until, why, room);
    if (*error == 0) {
        atomic_store_explicit(&link->state, ZH_LINK_OPEN, memory_order_release);
        *error = enter_pump(link);
        if (*error != 0)
            snprintf(why, room, "no descriptors or memory left for a link");
    }
    if (*error != 0) {
        zh_link_close(link, why);
        zh_link_unref(link);
        return NULL;
    }
    zh_stat_add(ZH_STAT_LINKS_OPENED, 1);
    ZH_FAILPOINT(connect_ready);
    return link;
}

/* Does somebody listen at the address? A file that nobody listens on is left over from a dead
 * server. */
static bool somebody_listens(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return true;
    bool refused = connect(fd, (const struct sockaddr *)address, sizeof(*address)) != 0 &&
                   errno == ECONNREFUSED;
    close(fd);
    return !refused;
}

int zh_link_listen(const char *path, mode_t mode, char *why, size_t room)
{
    struct sockaddr_un address;

    why[0] = '\0';
    int error = address_of(path, &address, why, room);
    if (error != 0)
        return error;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    zh_fork_track_fd(fd);
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        struct stat st;
        error = -errno;
        if (error == -EADDRINUSE && lstat(path, &st) == 0 && S_ISSOCK(st.st_mode) &&
            !somebody_listens(&address) && unlink(path) == 0) {
            error = bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 ? 0 : -errno;
        }
    }
    /* Nobody can connect before listen, so the mode is in force in time. */
    if (error == 0 && chmod(path, mode) != 0)
        error = -errno;
    if (error == 0 && listen(fd, 4096) != 0)
        error = -errno;
    if (error != 0) {
        snprintf(why, room, "cannot listen on %s: %s", path,
                 error == -EADDRINUSE ? "another server is there" : strerror(-error));
        zh_fork_close_fd(fd);
        return error;
    }
    return fd;
}

struct zh_link *zh_link_accept(struct zh_pump *pump, int listener,
                               const struct zh_link_options *options, int *error)
{
    int fd;

    do {
        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    } while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
    if (fd < 0) {
        *error = -errno;
        return NULL;
    }
    ZH_FAILPOINT(accept_socket);
    struct zh_link *link = zh_link_new(pump, fd, false, options, error);
    if (link == NULL)
        return NULL;
    link->greeted_by = zh_now() + GREETING_NS;
    *error = identify(link);
    if (*error == 0 && !allowed(link)) {
        char why[256];
        snprintf(
            why, sizeof(why),
            "the client (pid %d) runs as uid %u, the server (pid %d) as uid %u; allow it at the "
            "server with the option zerohop.allow_uids or ZEROHOP_ALLOW_UIDS",
            (int)link->pid, (unsigned)link->uid, (int)getpid(), (unsigned)geteuid());
        send_reject(link, why);
        *error = -EACCES;
    }
    if (*error == 0)
        *error = enter_pump(link);
    if (*error != 0) {
        zh_link_close(link, "refused");
        zh_link_unref(link);
        return NULL;
    }
    return link;
}

uint64_t zh_link_greeted_by(const struct zh_link *link)
{
    return link->greeted_by;
}

/* The hello of a client: check, adopt, answer. */
static void serve_hello(struct zh_link *link, const struct zh_message *message)
{
    char why[256];

    ZH_FAILPOINT(accept_hello_read);
    check_hello(link, message, ZH_MSG_HELLO, why, sizeof(why));
    if (why[0] == '\0') {
        int error = zh_link_adopt(link, &message->hello, message->fds, message->fd_count);
        if (error != 0)
            adopt_failed(link, error, why, sizeof(why));
    }
    if (why[0] == '\0') {
        int old_bell = link->bell;
        int error = send_hello(link, ZH_MSG_WELCOME);
        if (error == 0 && link->bell != old_bell)
            error = zh_pump_add_bell(link->pump, link->key, link->bell);
        if (error != 0)
            snprintf(why, sizeof(why), "pid %d could not answer: %s", (int)getpid(),
                     strerror(-error));
    }
    if (why[0] != '\0') {
        send_reject(link, why);
        zh_link_die(link, false, "%s", why);
        return;
    }
    pthread_mutex_lock(&link->lock);
    bool closed = zh_link_state(link) != ZH_LINK_GREETING;
    if (!closed)
        atomic_store_explicit(&link->state, ZH_LINK_OPEN, memory_order_release);
    pthread_mutex_unlock(&link->lock);
    if (closed) {
        /* By another thread meanwhile, which did not know of the bell. */
        if (link->bell >= 0)
            zh_pump_unwatch(link->pump, link->bell);
        return;
    }
    zh_stat_add(ZH_STAT_LINKS_OPENED, 1);
    ZH_FAILPOINT(accept_reply_sent);
}

bool zh_link_serve(struct zh_link *link)
{
    struct zh_message message;
    bool exited = false;

    /* Bounded: a peer that floods its socket gets its turn again at the next event. */
    for (int i = 0; i < 16; i++) {
        uint32_t state = zh_link_state(link);
        if (state == ZH_LINK_DEAD)
            return false;
        int n = zh_message_receive(link->socket, &message);
        if (n == 1) {
            if (state == ZH_LINK_GREETING)
                serve_hello(link, &message);
            else
                zh_link_on_message(link, &message);
            zh_message_close_fds(&message);
            continue;
        }
        if (n == -EAGAIN) {
            /* What it sent between our look at the socket and its exit is there now. */
            if (!exited && zh_link_peer_exited(link)) {
                exited = true;
                continue;
            }
            if (exited)
                zh_link_die(link, true, "the peer (pid %d) has exited", (int)link->pid);
            else if (state == ZH_LINK_GREETING && zh_now() >= link->greeted_by)
                zh_link_die(link, false, "the peer (pid %d) did not greet in time", (int)link->pid);
            return false;
        }
        if (n == -EPROTO)
            zh_link_die(link, false, "the peer sent a malformed message");
        else
            zh_link_die(link, state == ZH_LINK_OPEN, "the peer (pid %d) has closed the link",
                        (int)link->pid);
        return false;
    }
    return true;
}
