/* The loop: see loop.h. DESIGN: spin about 50 us since the last progress, then poll a descriptor.
 */
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "stack.h"
#include "zerohop/loop.h"

enum {
    RECEIVE_BURST = 32,
    EVENT_BURST = 32,
    SPIN_DEFAULT = 50 * NET_US,
    SLEEP_FIRST = 50 * NET_US, /* of ports without a descriptor */
    SLEEP_LAST = NET_MS,
    ALIVE_INTERVAL = 100 * NET_MS,
    RECLAIM_AFTER = NET_MS, /* of quiet: devices free what they have sent lazily */
};

struct zh_loop {
    struct zh_net *net; /* the caller's, as the port */
    struct zh_port *port;
    uint64_t spin;
    uint64_t busy_at;  /* when the last packet came */
    uint64_t alive_at; /* when the port was last asked whether it is alive */
    uint64_t sleep;    /* of the next wait without a descriptor */
    int wake;          /* eventfd */
    bool reclaimed;    /* since the last packet */
};

uint64_t zh_loop_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NET_SECOND + (uint64_t)now.tv_nsec;
}

int zh_loop_create(struct zh_net *net, struct zh_port *port, uint64_t spin, struct zh_loop **out)
{
    struct zh_loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return -ENOMEM;
    loop->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->wake < 0) {
        int error = -errno;
        free(loop);
        return error;
    }
    loop->net = net;
    loop->port = port;
    loop->spin = spin ? spin : SPIN_DEFAULT;
    loop->sleep = SLEEP_FIRST;
    *out = loop;
    return 0;
}

void zh_loop_destroy(struct zh_loop *loop)
{
    close(loop->wake);
    free(loop);
}

void zh_loop_wake(struct zh_loop *loop)
{
    uint64_t one = 1;
    ssize_t written = write(loop->wake, &one, sizeof one); /* EAGAIN: it is awake enough */
    (void)written;
}

static bool woken(struct zh_loop *loop)
{
    uint64_t count;
    return read(loop->wake, &count, sizeof count) == sizeof count;
}

/* Give handlers their events; the others' go to `events`. */
static int dispatch(struct zh_loop *loop, struct zh_net_event *events, int count)
{
    struct zh_net_event all[EVENT_BURST];
    int given = 0;
    while (given < count || !count) {
        int room = count ? count - given : EVENT_BURST;
        int n = zh_net_wait(loop->net, all, room < EVENT_BURST ? room : EVENT_BURST);
        if (!n)
            break;
        for (int i = 0; i < n; i++) {
            struct zh_loop_handler *handler = zh_net_user(all[i].socket);
            if (handler)
                handler->ready(handler, all[i].socket, all[i].ready);
            else if (given < count)
                events[given++] = all[i];
        }
    }
    return given;
}

/* Receive, handle, send: once. True: something came. */
static bool round_once(struct zh_loop *loop, struct zh_net_event *events, int count, int *given,
                       uint64_t *next)
{
    struct rte_mbuf *packets[RECEIVE_BURST];
    uint16_t received = zh_port_receive(loop->port, packets, RECEIVE_BURST);
    uint64_t now = zh_loop_now();
    for (uint16_t i = 0; i < received; i++)
        zh_net_input(loop->net, packets[i], now);
    *given = dispatch(loop, events, count);
    *next = zh_net_poll(loop->net, now);
    if (received) {
        loop->busy_at = now;
        loop->sleep = SLEEP_FIRST;
        loop->reclaimed = false;
    } else if (!loop->reclaimed && now - loop->busy_at > RECLAIM_AFTER) {
        zh_port_reclaim(loop->port);
        loop->reclaimed = true;
    }
    return received;
}

/* Wait until something may have come. False: a signal has. */
static bool wait(struct zh_loop *loop, uint64_t until)
{
    uint64_t now = zh_loop_now();
    int descriptor = zh_port_descriptor(loop->port);
    if (!loop->reclaimed && until > now + RECLAIM_AFTER)
        until = now + RECLAIM_AFTER;
    if (until > now + ALIVE_INTERVAL * 10)
        until = now + ALIVE_INTERVAL * 10;
    if (descriptor < 0) {
        if (until > now + loop->sleep)
            until = now + loop->sleep;
        if (loop->sleep < SLEEP_LAST)
            loop->sleep *= 2;
    }
    if (until <= now)
        return true;
    struct timespec timeout = {.tv_sec = (time_t)((until - now) / NET_SECOND),
                               .tv_nsec = (long)((until - now) % NET_SECOND)};
    struct pollfd fds[2] = {{.fd = loop->wake, .events = POLLIN},
                            {.fd = descriptor, .events = POLLIN}};
    return ppoll(fds, descriptor < 0 ? 1 : 2, &timeout, NULL) >= 0 || errno != EINTR;
}

int zh_loop_run(struct zh_loop *loop, struct zh_net_event *events, int count, uint64_t deadline)
{
    for (;;) {
        int given;
        uint64_t next;
        if (round_once(loop, events, count, &given, &next) && !given && deadline &&
            loop->net->now < deadline)
            continue;
        if (given || !deadline)
            return given;
        uint64_t now = zh_loop_now();
        if (now - loop->alive_at > ALIVE_INTERVAL) {
            loop->alive_at = now;
            if (!zh_port_alive(loop->port))
                return -ENETDOWN;
        }
        if (now >= deadline)
            return 0;
        if (now - loop->busy_at < loop->spin || next <= now) {
            rte_pause();
            continue;
        }
        if (woken(loop))
            return 0;
        if (!wait(loop, next < deadline ? next : deadline))
            return -EINTR;
        if (woken(loop))
            return 0;
    }
}
