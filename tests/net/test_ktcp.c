/* Streams over the kernel's TCP: the suite, and what is the provider's own. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "check.h"
#include "harness.h"
#include "ktcp/ktcp_internal.h"
#include "stream_suite.h"

enum { TURN_MS = 10, TURNS = 2000 };

struct provider {
    struct stream_provider suite;
    struct zh_ktcp *ktcp[2]; /* of the accepting and of the connecting side */
    struct zh_ktcp_listener *listener;
    int epoll; /* edge-triggered, of all streams; and the two ktcp's descriptors */
    bool by_descriptor;
};

static void wait_for(int fd, short events)
{
    struct pollfd now = {.fd = fd, .events = events};

    CHECK_EQ(poll(&now, 1, TURN_MS * TURNS), 1);
}

static union ktcp_address loopback(sa_family_t family)
{
    union ktcp_address address = {0};

    if (family == AF_INET)
        address.v4 =
            (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    else
        address.v6 =
            (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    return address;
}

static void watch(struct provider *provider, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events};

    CHECK_EQ(epoll_ctl(provider->epoll, EPOLL_CTL_ADD, fd, &event), 0);
}

static void start(struct provider *provider, sa_family_t family,
                  const struct zh_ktcp_config *config)
{
    union ktcp_address address = loopback(family);

    for (int i = 0; i < 2; i++)
        CHECK_EQ(zh_ktcp_create(config, &provider->ktcp[i]), 0);
    CHECK_EQ(
        zh_ktcp_listen(provider->ktcp[0], &address.any, sizeof address, 0, &provider->listener), 0);
    provider->epoll = epoll_create1(EPOLL_CLOEXEC);
    CHECK(provider->epoll >= 0);
    for (int i = 0; i < 2; i++)
        watch(provider, zh_ktcp_descriptor(provider->ktcp[i]), EPOLLIN);
}

static void stop(struct provider *provider)
{
    zh_ktcp_listener_close(provider->listener);
    for (int i = 0; i < 2; i++)
        zh_ktcp_destroy(provider->ktcp[i]);
    close(provider->epoll);
}

static void make_pair(struct provider *provider, struct zh_stream *ends[2])
{
    struct sockaddr_storage address;

    CHECK_EQ(zh_ktcp_listener_address(provider->listener, &address), 0);
    CHECK_EQ(zh_ktcp_accept(provider->listener, &ends[1]), -EAGAIN);
    CHECK_EQ(
        zh_ktcp_connect(provider->ktcp[1], (struct sockaddr *)&address, sizeof address, &ends[0]),
        0);
    wait_for(zh_ktcp_listener_descriptor(provider->listener), POLLIN);
    CHECK_EQ(zh_ktcp_accept(provider->listener, &ends[1]), 0);
    wait_for(zh_stream_descriptor(ends[0]), POLLOUT);
    CHECK_EQ(zh_stream_ready(ends[0]), ZH_STREAM_OUT);
    for (int i = 0; i < 2; i++)
        watch(provider, zh_stream_descriptor(ends[i]), EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
}

static void suite_pair(struct stream_provider *suite, struct zh_stream *ends[2])
{
    make_pair((struct provider *)suite, ends);
}

/* Sleeps until an event of any stream, so that what waits for the kernel's timers gets its time.
 * The suite takes and sends all it can before it steps: no edge is missed. */
static void step(struct stream_provider *suite)
{
    struct provider *provider = (struct provider *)suite;
    struct epoll_event events[8];

    CHECK(epoll_wait(provider->epoll, events, 8, TURN_MS) >= 0);
    for (int i = 0; i < 2; i++)
        zh_ktcp_poll(provider->ktcp[i]);
}

static void vanish(struct stream_provider *suite, struct zh_stream *stream)
{
    struct linger now = {.l_onoff = 1};

    (void)suite;
    CHECK_EQ(setsockopt(zh_stream_descriptor(stream), SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
    zh_stream_close(stream);
}

static size_t leftover(struct stream_provider *suite)
{
    struct provider *provider = (struct provider *)suite;

    return (size_t)count_fds() + zh_ktcp_poll(provider->ktcp[0]) + zh_ktcp_poll(provider->ktcp[1]);
}

static void run_suite(const char *name, sa_family_t family, const struct zh_ktcp_config *config)
{
    struct provider provider = {.suite = {
                                    .name = name,
                                    .pair = suite_pair,
                                    .step = step,
                                    .vanish = vanish,
                                    .leftover = leftover,
                                    .transfers = 30,
                                    .churn = 2000,
                                    .big = (size_t)64 << 20,
                                }};
    int fds = count_fds();

    start(&provider, family, config);
    stream_suite(&provider.suite);
    stop(&provider);
    CHECK_EQ(count_fds(), fds);
}

/* --- the provider's own ----------------------------------------------------------------------- */

static struct provider own;
static unsigned releases;

static void count_release(void *opaque)
{
    CHECK(opaque == &releases);
    releases++;
}

static int send_memory(struct zh_stream *stream, const void *data, size_t size)
{
    struct iovec piece = {(void *)(uintptr_t)data, size};
    struct zh_stream_record record = {&piece, 1, count_release, &releases};

    return zh_stream_send(stream, &record, 1);
}

/* Queue so much that records stay in user space; how many were accepted. */
static unsigned fill_queue(struct zh_stream *stream)
{
    static uint8_t data[100000];
    unsigned accepted = 0;

    while (send_memory(stream, data, sizeof data) == 1)
        accepted++;
    CHECK(accepted > releases);
    return accepted;
}

/* Take all there is; the result of the last take, which is not -EAGAIN. */
static int drain(struct zh_stream *stream, uint64_t *bytes)
{
    struct zh_stream_segment segment;
    int result;

    for (int turn = 0; turn < TURNS; turn++) {
        while ((result = zh_stream_take(stream, &segment, 1)) == 1) {
            *bytes += segment.size;
            zh_stream_release(&segment);
        }
        if (result != -EAGAIN)
            return result;
        step(&own.suite);
    }
    CHECK(!"nothing more comes");
    return 0;
}

/* A record of 1 GiB, of memory that is nowhere but in the page tables. */
static void huge_record(void)
{
    static const uint8_t zeros[65536];
    size_t size = (size_t)1 << 30, received = 0;
    uint8_t *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    struct zh_stream *ends[2];
    struct zh_stream_segment segments[16];
    struct rusage before, after;

    CHECK(data != MAP_FAILED);
    CHECK_EQ(madvise(data, size, MADV_NOHUGEPAGE), 0);
    make_pair(&own, ends);
    releases = 0;
    getrusage(RUSAGE_SELF, &before);
    CHECK_EQ(send_memory(ends[0], data, size), 1);
    CHECK_EQ(releases, 0);
    CHECK_EQ(send_memory(ends[0], data, 1), -EAGAIN);
    while (received < size) {
        int count = zh_stream_take(ends[1], segments, 16);
        CHECK(count > 0 || count == -EAGAIN);
        for (int i = 0; i < count; i++) {
            CHECK(segments[i].size <= sizeof zeros);
            CHECK(!memcmp(segments[i].data, zeros, segments[i].size));
            received += segments[i].size;
            zh_stream_release(&segments[i]);
        }
        if (count < 0)
            step(&own.suite);
    }
    getrusage(RUSAGE_SELF, &after);
    CHECK_EQ(received, size);
    CHECK_EQ(releases, 1);
    CHECK(after.ru_maxrss - before.ru_maxrss < 32 * 1024); /* KiB */
    zh_stream_close(ends[0]);
    zh_stream_close(ends[1]);
    CHECK_EQ(munmap(data, size), 0);
}

/* Data that arrives while a closed stream is still being written: a reset. */
static void data_after_close(void)
{
    struct zh_stream *ends[2];
    uint64_t bytes = 0;

    make_pair(&own, ends);
    releases = 0;
    unsigned accepted = fill_queue(ends[0]);
    zh_stream_close(ends[0]);
    CHECK_EQ(zh_ktcp_poll(own.ktcp[1]), 1);
    CHECK(releases < accepted);
    CHECK_EQ(send_memory(ends[1], "x", 1), 1);
    for (int turn = 0; turn < TURNS && zh_ktcp_poll(own.ktcp[1]); turn++)
        step(&own.suite);
    CHECK_EQ(zh_ktcp_poll(own.ktcp[1]), 0);
    CHECK_EQ(releases, accepted + 1);
    CHECK_EQ(drain(ends[1], &bytes), -ECONNRESET);
    CHECK(bytes < (uint64_t)accepted * 100000);
    zh_stream_close(ends[1]);
}

/* The peer's end, while a closed stream is being written, changes nothing. */
static void end_after_close(void)
{
    struct zh_stream *ends[2];
    uint64_t bytes = 0;

    make_pair(&own, ends);
    releases = 0;
    unsigned accepted = fill_queue(ends[0]);
    zh_stream_close(ends[0]);
    CHECK_EQ(zh_stream_shutdown(ends[1]), 0);
    for (int turn = 0; turn < 5; turn++)
        step(&own.suite);
    /* What is closed does not keep the descriptor readable for it. */
    struct pollfd now = {.fd = zh_ktcp_descriptor(own.ktcp[1]), .events = POLLIN};
    CHECK_EQ(poll(&now, 1, 0), 0);
    CHECK_EQ(drain(ends[1], &bytes), 0);
    CHECK_EQ(bytes, (uint64_t)accepted * 100000);
    CHECK_EQ(releases, accepted);
    CHECK_EQ(zh_ktcp_poll(own.ktcp[1]), 0);
    zh_stream_close(ends[1]);
}

/* Where close(2) would reset, what is queued is let go at once: with unread data, and with a linger
 * time of 0. */
static void closes_that_reset(void)
{
    for (int unread = 0; unread < 2; unread++) {
        struct zh_stream *ends[2];
        uint64_t bytes = 0;

        make_pair(&own, ends);
        releases = 0;
        unsigned accepted = fill_queue(ends[0]);
        if (unread) {
            CHECK_EQ(send_memory(ends[1], "x", 1), 1);
            accepted++;
            wait_for(zh_stream_descriptor(ends[0]), POLLIN);
            zh_stream_close(ends[0]);
        } else {
            vanish(&own.suite, ends[0]);
        }
        CHECK_EQ(releases, accepted);
        CHECK_EQ(drain(ends[1], &bytes), -ECONNRESET);
        zh_stream_close(ends[1]);
    }
}

/* The first call that meets the error tells it, whichever it is; no signal comes with it. The peer
 * has ended its direction (EPIPE), or has not. On loopback, a reset is there when what caused it
 * returns. */
static void first_to_fail(void)
{
    for (int call = 0; call < 3; call++) {
        for (int ended = 0; ended < 2; ended++) {
            int error = ended ? -EPIPE : -ECONNRESET;
            struct zh_stream_segment segment;
            struct zh_stream *ends[2];

            make_pair(&own, ends);
            if (ended) {
                zh_stream_close(ends[1]);
                CHECK_EQ(send_memory(ends[0], "x", 1), 1);
            } else {
                vanish(&own.suite, ends[1]);
            }
            if (call == 0)
                CHECK(send_memory(ends[0], "x", 1) == 1); /* accepted, and lost */
            else if (call == 1)
                CHECK_EQ(zh_stream_shutdown(ends[0]), error);
            else if (!ended)
                CHECK_EQ(zh_stream_take(ends[0], &segment, 1), error);
            CHECK(zh_stream_ready(ends[0]) & ZH_STREAM_ERR);
            CHECK_EQ(send_memory(ends[0], "x", 1), error);
            CHECK_EQ(zh_stream_take(ends[0], &segment, 1), error);
            CHECK_EQ(zh_stream_shutdown(ends[0]), error);
            zh_stream_close(ends[0]);
        }
    }
}

/* A struct zh_ktcp that is destroyed cuts streams short: the peer can tell. */
static void destroyed_while_writing(void)
{
    struct sockaddr_storage address;
    struct zh_ktcp *ktcp;
    struct zh_stream *ends[2];
    uint64_t bytes = 0;

    CHECK_EQ(zh_ktcp_create(NULL, &ktcp), 0);
    CHECK_EQ(zh_ktcp_listener_address(own.listener, &address), 0);
    CHECK_EQ(zh_ktcp_connect(ktcp, (struct sockaddr *)&address, sizeof address, &ends[0]), 0);
    wait_for(zh_ktcp_listener_descriptor(own.listener), POLLIN);
    CHECK_EQ(zh_ktcp_accept(own.listener, &ends[1]), 0);
    wait_for(zh_stream_descriptor(ends[0]), POLLOUT);
    releases = 0;
    unsigned accepted = fill_queue(ends[0]);
    zh_stream_close(ends[0]);
    zh_ktcp_destroy(ktcp);
    CHECK_EQ(releases, accepted);
    CHECK_EQ(drain(ends[1], &bytes), -ECONNRESET);
    zh_stream_close(ends[1]);
}

/* Segments outlive everything. */
static void segments_outlive(void)
{
    struct provider other = {0};
    struct zh_stream *ends[2];
    struct zh_stream_segment segment;

    start(&other, AF_INET, NULL);
    make_pair(&other, ends);
    releases = 0;
    CHECK_EQ(send_memory(ends[0], "still here", 10), 1);
    wait_for(zh_stream_descriptor(ends[1]), POLLIN);
    CHECK_EQ(zh_stream_take(ends[1], &segment, 1), 1);
    zh_stream_close(ends[0]);
    zh_stream_close(ends[1]);
    stop(&other);
    CHECK_EQ(segment.size, 10);
    CHECK(!memcmp(segment.data, "still here", 10));
    zh_stream_release(&segment);
}

/* Blocks are used again, and idle streams keep none. */
static void blocks(void)
{
    struct zh_stream *ends[2];
    struct zh_stream_segment first, second, last;

    make_pair(&own, ends);
    struct ktcp_stream *stream = (struct ktcp_stream *)ends[1];
    CHECK_EQ(ktcp_hold_blocks(stream->hold), 0);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(send_memory(ends[0], "abc", 3), 1);
        wait_for(zh_stream_descriptor(ends[1]), POLLIN);
        CHECK_EQ(zh_stream_take(ends[1], i ? &second : &first, 1), 1);
    }
    CHECK_EQ(ktcp_hold_blocks(stream->hold), 1); /* two segments of one block */
    CHECK_EQ(second.data - first.data, KTCP_ALIGN);
    zh_stream_release(&first);
    zh_stream_release(&second);
    CHECK_EQ(send_memory(ends[0], "abc", 3), 1);
    wait_for(zh_stream_descriptor(ends[1]), POLLIN);
    CHECK_EQ(zh_stream_take(ends[1], &last, 1), 1);
    CHECK(last.data == first.data);
    zh_stream_release(&last);
    CHECK_EQ(zh_stream_take(ends[1], &last, 1), -EAGAIN);
    CHECK_EQ(ktcp_hold_blocks(stream->hold), 0);
    zh_stream_close(ends[0]);
    zh_stream_close(ends[1]);
}

static void addresses(void)
{
    union ktcp_address address = loopback(AF_INET), six = loopback(AF_INET6);
    struct sockaddr local = {.sa_family = AF_UNIX};
    struct sockaddr_storage where;
    struct zh_ktcp_listener *listener, *other;
    struct zh_stream *stream, *ends[2];
    struct zh_stream_segment segment;
    int fds = count_fds(), on = 0;
    socklen_t size = sizeof on;

    CHECK_EQ(zh_ktcp_listen(own.ktcp[0], &local, sizeof local, 0, &listener), -EAFNOSUPPORT);
    CHECK_EQ(zh_ktcp_connect(own.ktcp[0], &local, sizeof local, &stream), -EAFNOSUPPORT);
    CHECK_EQ(zh_ktcp_connect(own.ktcp[0], &address.any, 1, &stream), -EINVAL);
    CHECK_EQ(zh_ktcp_connect(own.ktcp[0], &address.any, sizeof address.v4 - 1, &stream), -EINVAL);
    CHECK_EQ(zh_ktcp_connect(own.ktcp[0], &six.any, sizeof address.v4, &stream), -EINVAL);
    CHECK_EQ(count_fds(), fds);

    /* One port for both wildcards, and not twice for one. */
    CHECK_EQ(zh_ktcp_listen(own.ktcp[0], &address.any, sizeof address.v4, 5, &listener), 0);
    CHECK_EQ(zh_ktcp_listener_address(listener, &where), 0);
    address.v4.sin_port = six.v6.sin6_port = ((struct sockaddr_in *)&where)->sin_port;
    six.v6.sin6_addr = in6addr_any;
    CHECK_EQ(zh_ktcp_listen(own.ktcp[0], &address.any, sizeof address.v4, 5, &other), -EADDRINUSE);
    CHECK_EQ(zh_ktcp_listen(own.ktcp[0], &six.any, sizeof six.v6, 5, &other), 0);
    zh_ktcp_listener_close(other);
    zh_ktcp_listener_close(listener);

    /* Nobody listens there any more. On loopback the kernel may know at once. */
    int result = zh_ktcp_connect(own.ktcp[0], &address.any, sizeof address.v4, &stream);
    if (result == 0) {
        wait_for(zh_stream_descriptor(stream), POLLOUT);
        CHECK(zh_stream_ready(stream) & ZH_STREAM_ERR);
        CHECK_EQ(zh_stream_take(stream, &segment, 1), -ECONNREFUSED);
        CHECK_EQ(send_memory(stream, "x", 1), -ECONNREFUSED);
        CHECK_EQ(zh_stream_shutdown(stream), -ECONNREFUSED);
        zh_stream_close(stream);
    } else {
        CHECK_EQ(result, -ECONNREFUSED);
    }

    make_pair(&own, ends);
    for (int i = 0; i < 2; i++) {
        on = 0;
        CHECK_EQ(getsockopt(zh_stream_descriptor(ends[i]), IPPROTO_TCP, TCP_NODELAY, &on, &size),
                 0);
        CHECK(on);
        zh_stream_close(ends[i]);
    }
    CHECK_EQ(count_fds(), fds);
}

/* A listener whose backlog is full does not answer: what can be seen of a connection under way. */
static void connecting(void)
{
    union ktcp_address address = loopback(AF_INET);
    struct sockaddr_storage where;
    struct zh_ktcp_listener *listener;
    struct zh_stream *streams[8];
    struct zh_stream_segment segment;
    struct zh_stream_info info;
    int fds = count_fds(), under_way = 0;

    CHECK_EQ(zh_ktcp_listen(own.ktcp[0], &address.any, sizeof address.v4, 1, &listener), 0);
    CHECK_EQ(zh_ktcp_listener_address(listener, &where), 0);
    for (int i = 0; i < 8; i++) {
        struct sockaddr *to = (struct sockaddr *)&where;
        CHECK_EQ(zh_ktcp_connect(own.ktcp[1], to, sizeof where, &streams[i]), 0);
        if (zh_stream_ready(streams[i]))
            continue;
        under_way++;
        CHECK_EQ(send_memory(streams[i], "x", 1), -EAGAIN);
        CHECK_EQ(zh_stream_take(streams[i], &segment, 1), -EAGAIN);
        zh_stream_info(streams[i], &info);
        CHECK_EQ(info.bytes_sent + info.bytes_queued + info.bytes_received, 0);
        CHECK_EQ(zh_stream_shutdown(streams[i]), 0);
        CHECK_EQ(send_memory(streams[i], "x", 1), -EPIPE);
    }
    CHECK(under_way > 0);
    for (int i = 0; i < 8; i++)
        zh_stream_close(streams[i]);
    zh_ktcp_listener_close(listener);
    CHECK_EQ(count_fds(), fds);
}

int main(void)
{
    static const struct zh_ktcp_config tight = {.queue_limit = 1, .hold_limit = 1};

    run_suite("ktcp, IPv4", AF_INET, NULL);
    run_suite("ktcp, IPv6, least limits", AF_INET6, &tight);

    start(&own, AF_INET, NULL);
    addresses();
    connecting();
    blocks();
    segments_outlive();
    data_after_close();
    end_after_close();
    closes_that_reset();
    first_to_fail();
    destroyed_while_writing();
    huge_record();
    stop(&own);
    return 0;
}
