/* Two stacks on a wire that loses, repeats, reorders, delays and corrupts, all at random: what is
 * received is what was sent, everything ends, and nothing is left over.
 *
 *     test_tcp_random [FIRST [COUNT]]
 *
 * plays the runs of the seeds FIRST to FIRST + COUNT - 1; a failure prints its seed. With a third
 * argument it tells of each run. */
#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <rte_mempool.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "net/tcp.h"

enum {
    STREAM_MAX = 300000, /* bytes of one direction */
    PATTERN = 1 << 20,
    CONNECTIONS_MAX = 3,
    HELD_MAX = 8,
    STEPS_MAX = 4000000,
    RUN_SECONDS = 60, /* of real time */
    BURST = 32,
};

#define PORT 7000
#define TIME_MAX (24 * 3600 * NET_SECOND) /* of a run */

static uint8_t pattern[PATTERN];
static uint64_t seed;
static uint64_t random_state;
static uint64_t now;

/* --- chance
 * ---------------------------------------------------------------------------------------- */

/* splitmix64 */
static uint64_t draw(void)
{
    uint64_t x = random_state += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* 0 to n - 1 */
static uint64_t below(uint64_t n)
{
    return draw() % n;
}

static bool chance(unsigned percent)
{
    return below(100) < percent;
}

/* A size up to `most`, small ones as likely as large ones. */
static uint64_t size_up_to(uint64_t most)
{
    unsigned bits = 1;
    while (bits < 63 && UINT64_C(1) << bits < most)
        bits++;
    uint64_t size = below(UINT64_C(1) << (1 + below(bits)));
    return size < most ? size : most;
}

/* --- failing
 * ---------------------------------------------------------------------------------------- */

#define FAIL(...)                                                                                  \
    do {                                                                                           \
        fprintf(stderr, "seed %" PRIu64 ": %s:%d: at %.6f s: ", seed, __FILE__, __LINE__,          \
                (double)now / 1e9);                                                                \
        fprintf(stderr, __VA_ARGS__);                                                              \
        fprintf(stderr, "\n");                                                                     \
        exit(1);                                                                                   \
    } while (0)
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            FAIL("not so: %s", #condition);                                                        \
    } while (0)

/* --- one end of a connection
 * ------------------------------------------------------------------------ */

struct end {
    struct zh_net_socket *socket; /* NULL: not yet, or not any more */
    struct end *peer;
    const uint8_t *out, *in;  /* the streams, in the pattern */
    uint64_t to_send, to_get; /* bytes in all */
    uint64_t sent, got;       /* bytes so far */
    uint64_t wakes;           /* when it next does something */
    uint64_t idle_most;       /* the longest it does nothing */
    uint64_t closed_at;       /* 0: not yet */
    uint64_t gives_up;        /* when it closes, come what may; NET_NEVER: at the end */
    bool connected, shut, got_end, broken, done;
    bool no_input, no_room; /* told so by the last call: the stack's to say when that has changed */
    unsigned held_count;
    struct zh_stream_segment held[HELD_MAX]; /* taken and not given back yet */
};

static struct zh_net *nets[2];
static struct zh_wire *wire;
static struct end ends[2][CONNECTIONS_MAX]; /* [0]: who connects */
static struct zh_net_socket *listener;
static unsigned connections;
static uint64_t lent, given_back; /* records */
static bool aborting;             /* ends close at random: what is received is a beginning */
static bool verbose;

static void release_record(void *opaque)
{
    (void)opaque;
    given_back++;
}

static void release_held(struct end *e, unsigned keep)
{
    while (e->held_count > keep) {
        unsigned i = (unsigned)below(e->held_count);
        zh_net_release(&e->held[i]);
        e->held[i] = e->held[--e->held_count];
    }
}

static void close_end(struct end *e)
{
    if (chance(50))
        release_held(e, 0);
    zh_net_close(e->socket);
    e->socket = NULL;
    e->closed_at = now;
    e->done = true;
}

static void tell_connections(void)
{
    for (int i = 0; i < 2; i++) {
#define X(name, meaning)                                                                           \
    if (nets[i]->stats.name)                                                                       \
        fprintf(stderr, " " #name " %" PRIu64, nets[i]->stats.name);
        fprintf(stderr, "net %d:", i);
        ZH_NET_COUNTERS(X)
#undef X
        fprintf(stderr, "\n");
    }
    for (int i = 0; i < 2; i++)
        for (unsigned c = 0; c < connections; c++) {
            const struct zh_net_socket *s = ends[i][c].socket;
            if (s)
                fprintf(
                    stderr,
                    "net %d, connection %u: state %u, flags %x, una %u, nxt %u, window %u, queued "
                    "%" PRIu64 ", cwnd %" PRIu64 ", mss %u, retries %u, backoff %u; rcv_nxt %u, "
                    "window %u, queued %u, memory %u, reordered %u (%u), ratio %u\n",
                    i, c, s->state, s->flags, s->snd_una - s->iss, s->snd_nxt - s->iss, s->snd_wnd,
                    s->queue.end, s->cwnd, s->mss, s->retries, s->backoff, s->rcv_nxt - s->irs,
                    s->rcv_advertised - s->rcv_nxt, s->rcv_queued, s->rcv_memory, s->reorder.count,
                    s->reorder.memory, s->rcv_ratio);
        }
}

/* The connection has failed: only where an end has closed early may it. */
static void broken(struct end *e, int error)
{
    if (!aborting)
        tell_connections();
    if (!aborting)
        FAIL("end %d of connection %d: error %d, sent %" PRIu64 " of %" PRIu64 ", got %" PRIu64
             " of %" PRIu64,
             (int)(e >= ends[1]), (int)((e - ends[0]) % CONNECTIONS_MAX), error, e->sent,
             e->to_send, e->got, e->to_get);
    e->broken = true;
}

static void set_number(struct end *e, int level, int option, int value)
{
    int result = zh_net_setsockopt(e->socket, level, option, &value, sizeof value);
    if (result)
        FAIL("option %d: %d", option, result);
}

static void random_options(struct end *e)
{
    if (chance(40))
        set_number(e, IPPROTO_TCP, TCP_NODELAY, chance(70));
    if (chance(10))
        set_number(e, IPPROTO_TCP, TCP_CORK, 1);
    if (chance(20))
        set_number(e, IPPROTO_TCP, TCP_QUICKACK, chance(50));
    if (chance(10))
        set_number(e, SOL_SOCKET, SO_KEEPALIVE, 1);
    if (chance(20))
        set_number(e, SOL_SOCKET, SO_SNDBUF, 16384 << below(5));
    if (chance(10))
        set_number(e, IPPROTO_TCP, TCP_MAXSEG, 88 + (int)below(1400));
}

static void check_bytes(struct end *e, uint64_t offset, const uint8_t *data, size_t size)
{
    if (offset + size > e->to_get)
        FAIL("%" PRIu64 " bytes received of %" PRIu64, offset + size, e->to_get);
    if (memcmp(data, e->in + offset, size) != 0)
        FAIL("bytes %" PRIu64 " to %" PRIu64 " are not those that were sent", offset,
             offset + size);
}

static void end_received(struct end *e)
{
    if (e->got != e->to_get && !aborting)
        FAIL("the end came after %" PRIu64 " bytes of %" PRIu64, e->got, e->to_get);
    /* Not even then: an end is sent after the data, or not at all. */
    if (e->got != e->peer->sent)
        FAIL("the end came after %" PRIu64 " bytes, %" PRIu64 " were sent", e->got, e->peer->sent);
    e->got_end = true;
}

static void do_recv(struct end *e)
{
    static uint8_t buffer[65536];
    size_t size = 1 + size_up_to(sizeof buffer - 1);
    if (chance(10)) {
        ssize_t n = zh_net_recv(e->socket, buffer, size, MSG_PEEK);
        if (n > 0)
            check_bytes(e, e->got, buffer, (size_t)n);
    }
    ssize_t n = zh_net_recv(e->socket, buffer, size, 0);
    if (n > 0) {
        check_bytes(e, e->got, buffer, (size_t)n);
        e->got += (uint64_t)n;
    } else if (n == 0) {
        end_received(e);
    } else if (n != -EAGAIN) {
        broken(e, (int)n);
    }
    e->no_input = n == -EAGAIN;
}

static void do_take(struct end *e)
{
    if (e->held_count == HELD_MAX || chance(30))
        release_held(e, (unsigned)below(e->held_count + 1));
    if (e->held_count == HELD_MAX)
        return;
    unsigned room = 1 + (unsigned)below(HELD_MAX - e->held_count);
    int n = zh_net_take(e->socket, e->held + e->held_count, room);
    if (n == 0)
        end_received(e);
    else if (n < 0 && n != -EAGAIN)
        broken(e, n);
    e->no_input = n == -EAGAIN;
    for (int i = 0; i < n; i++) {
        const struct zh_stream_segment *segment = &e->held[e->held_count++];
        MUST(segment->size > 0);
        check_bytes(e, e->got, segment->data, segment->size);
        e->got += segment->size;
    }
}

static void do_send(struct end *e)
{
    uint64_t left = e->to_send - e->sent;
    ssize_t n = zh_net_send(e->socket, e->out + e->sent, 1 + size_up_to(left - 1),
                            chance(20) ? MSG_MORE : 0);
    if (n > 0)
        e->sent += (uint64_t)n;
    else if (n != -EAGAIN)
        broken(e, (int)n);
    e->no_room = n == -EAGAIN;
}

static void do_send_records(struct end *e)
{
    struct iovec pieces[3][4];
    struct zh_stream_record records[3];
    uint64_t at = e->sent, sizes[3];
    unsigned count = 0;
    for (unsigned most = 1 + (unsigned)below(3); count < most && at < e->to_send; count++) {
        unsigned parts = 1 + (unsigned)below(4), used = 0;
        sizes[count] = 0;
        for (; used < parts && at < e->to_send; used++) {
            uint64_t size = size_up_to(e->to_send - at);
            pieces[count][used] = (struct iovec){(void *)(uintptr_t)(e->out + at), size};
            at += size;
            sizes[count] += size;
        }
        records[count] = (struct zh_stream_record){
            .pieces = pieces[count], .piece_count = used, .release = release_record};
    }
    int n = zh_net_send_records(e->socket, records, count);
    if (n < 0 && n != -EAGAIN)
        broken(e, n);
    e->no_room = n == -EAGAIN;
    for (int i = 0; i < n; i++) {
        e->sent += sizes[i];
        lent++;
    }
}

/* There is nothing to do until the stack says so: what edge-triggered readiness must not miss. */
static bool waits(const struct end *e)
{
    return !e->held_count && (e->no_input || e->got_end) &&
           (e->sent == e->to_send ? e->shut : e->no_room);
}

/* What the end does when it wakes. */
static void act(struct end *e)
{
    if (now >= e->gives_up) {
        close_end(e);
        return;
    }
    if (!e->connected && !(zh_net_ready(e->socket) & (ZH_STREAM_OUT | ZH_STREAM_ERR))) {
        e->wakes = e->gives_up;
        return;
    }
    e->connected = true;
    for (unsigned i = 1 + (unsigned)below(3); i > 0 && !e->broken && !e->got_end; i--)
        chance(50) ? do_recv(e) : do_take(e);
    for (unsigned i = 1 + (unsigned)below(3); i > 0 && !e->broken && e->sent < e->to_send; i--)
        chance(50) ? do_send(e) : do_send_records(e);
    if (e->got_end || e->broken)
        release_held(e, (unsigned)below(e->held_count + 1));
    if (e->sent == e->to_send && !e->shut && !e->broken && chance(50)) {
        if (e->got_end) { /* a close says it as well */
            close_end(e);
            return;
        }
        int result = zh_net_shutdown(e->socket, SHUT_WR);
        if (result)
            broken(e, result);
        e->shut = true;
    }
    bool alone = aborting && e->peer->done;
    if (e->broken || (e->shut && e->got_end))
        close_end(e);
    /* Of an end that has gone away without our hearing of it: nothing would ever come. */
    else if (alone && now - e->peer->closed_at > 300 * NET_SECOND)
        close_end(e);
    else if (!waits(e))
        e->wakes = now + below(e->idle_most);
    else
        e->wakes = aborting ? RTE_MIN(e->gives_up, now + 100 * NET_SECOND) : NET_NEVER;
}

/* Readiness that has grown. */
static void wake(int i)
{
    struct zh_net_event events[4];
    int n;
    while ((n = zh_net_wait(nets[i], events, 4)) > 0)
        for (int j = 0; j < n; j++) {
            struct end *e = zh_net_user(events[j].socket);
            if (e)
                e->wakes = RTE_MIN(e->wakes, now + (chance(70) ? 0 : below(e->idle_most)));
        }
}

/* --- a run
 * -------------------------------------------------------------------------------------------- */

static double probability(double most)
{
    return chance(40) ? 0 : (double)below(1000000) / 1e6 * most;
}

static struct zh_fault random_fault(void)
{
    struct zh_fault fault = {
        .loss = probability(0.05),
        .duplicate = probability(0.05),
        .corrupt = probability(0.02),
        .reorder = probability(0.2),
        .delay = size_up_to(50 * NET_MS),
    };
    if (fault.reorder > 0)
        fault.reorder_delay = size_up_to(20 * NET_MS);
    if (chance(30))
        fault.jitter = size_up_to(5 * NET_MS);
    if (chance(40)) {
        fault.rate = 1000000 + size_up_to(1000000000);
        fault.queue = 20 + (uint32_t)below(200);
    }
    return fault;
}

static void make_nets(uint16_t mtu)
{
    char error[ZH_PORT_ERROR_SIZE];
    struct zh_wire_config config = {
        .mtu = mtu,
        .fault = {random_fault(), random_fault()},
        .seed = draw(),
        .packets = 1023,
    };
    if (zh_wire_create(&config, &wire, error) != 0)
        FAIL("%s", error);
    for (int i = 0; i < 2; i++) {
        struct zh_net_prefix address;
        MUST(zh_net_prefix_parse(i ? "10.0.0.2/24" : "10.0.0.1/24", &address) == 0);
        struct zh_net_config net = {
            .addresses = &address,
            .address_count = 1,
            .congestion_control = chance(50) ? "newreno" : "cubic",
            .rto_min = chance(30) ? 5 * NET_MS : 0,
            .delayed_ack = chance(30) ? 1 + below(200 * NET_MS) : 0,
            .time_wait = 1 + below(60 * NET_SECOND),
            .max_connections = 64,
            .max_half_open = 16,
            .max_neighbours = 16,
            .send_packets = 1023,
            .receive_budget = 16384u << below(6),
            .send_limit = 4096u << below(7),
            .seed = draw() | 1,
        };
        if (zh_net_create(&net, zh_wire_end(wire, i), &nets[i], error) != 0)
            FAIL("%s", error);
        if (verbose)
            printf("  net %d: MTU %u, %s, delayed ACK %.3f ms, budget %zu, limit %zu; loss %.3f, "
                   "duplicate %.3f, corrupt %.3f, reorder %.3f by %.3f ms, delay %.3f + %.3f ms, "
                   "rate %" PRIu64 ", queue %u\n",
                   i, mtu, net.congestion_control, (double)net.delayed_ack / 1e6,
                   net.receive_budget, net.send_limit, config.fault[i].loss,
                   config.fault[i].duplicate, config.fault[i].corrupt, config.fault[i].reorder,
                   (double)config.fault[i].reorder_delay / 1e6, (double)config.fault[i].delay / 1e6,
                   (double)config.fault[i].jitter / 1e6, config.fault[i].rate,
                   config.fault[i].queue);
    }
}

static void make_ends(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    connections = 1 + (unsigned)below(CONNECTIONS_MAX);
    MUST(zh_net_socket(nets[1], AF_INET, &listener) == 0);
    MUST(zh_net_bind(listener, (struct sockaddr *)&address, sizeof address) == 0);
    MUST(zh_net_listen(listener, 16) == 0);
    inet_pton(AF_INET, "10.0.0.2", &address.sin_addr);
    for (unsigned c = 0; c < connections; c++) {
        uint64_t sizes[2];
        for (int i = 0; i < 2; i++) /* every fourth a long one */
            sizes[i] = chance(25) ? below(STREAM_MAX) : size_up_to(STREAM_MAX);
        const uint8_t *streams[2] = {pattern + below(PATTERN - STREAM_MAX),
                                     pattern + below(PATTERN - STREAM_MAX)};
        for (int i = 0; i < 2; i++) {
            ends[i][c] = (struct end){
                .peer = &ends[!i][c],
                .out = streams[i],
                .in = streams[!i],
                .to_send = sizes[i],
                .to_get = sizes[!i],
                .wakes = now,
                .idle_most = 10 * NET_US + size_up_to(30 * NET_MS),
                .gives_up = aborting && chance(70) ? now + size_up_to(4 * NET_SECOND) : NET_NEVER,
            };
        }
        struct end *e = &ends[0][c];
        MUST(zh_net_socket(nets[0], AF_INET, &e->socket) == 0);
        zh_net_set_user(e->socket, e);
        random_options(e);
        MUST(zh_net_connect(e->socket, (struct sockaddr *)&address, sizeof address) ==
             -EINPROGRESS);
    }
}

static uint16_t client_port(const struct sockaddr_storage *address)
{
    return ((const struct sockaddr_in *)address)->sin_port;
}

/* Whose connection is it? The client has the same port. */
static void accept_all(void)
{
    struct zh_net_socket *s;
    while (listener && zh_net_accept(listener, &s) == 0) {
        struct end *found = NULL;
        uint16_t port = s->entry.flow.remote_port;
        for (unsigned c = 0; c < connections; c++) {
            struct sockaddr_storage local;
            if (ends[1][c].socket || ends[1][c].done)
                continue;
            if (!ends[0][c].socket) { /* it has closed already: any such will do */
                if (aborting && !found)
                    found = &ends[1][c];
                continue;
            }
            MUST(zh_net_getsockname(ends[0][c].socket, &local) == 0);
            if (client_port(&local) == port)
                found = &ends[1][c];
        }
        if (!found || (!found->peer->socket && aborting)) {
            zh_net_close(s); /* which streams are whose can no longer be told */
            if (found)
                found->done = true;
            continue;
        }
        found->socket = s;
        found->connected = true;
        found->wakes = now;
        zh_net_set_user(s, found);
        random_options(found);
    }
}

static bool all_done(void)
{
    for (unsigned c = 0; c < connections; c++) {
        /* A client that has closed or failed before its server was made has no server. */
        bool server = ends[1][c].done || (aborting && ends[0][c].done && !ends[1][c].socket &&
                                          now - ends[0][c].closed_at > 600 * NET_SECOND);
        if (!ends[0][c].done || !server)
            return false;
    }
    return true;
}

static void receive(int i)
{
    struct rte_mbuf *packets[BURST];
    uint16_t n;
    while ((n = zh_port_receive(zh_wire_end(wire, i), packets, (uint16_t)(1 + below(BURST)))) > 0) {
        for (uint16_t p = 0; p < n; p++)
            zh_net_input(nets[i], packets[p], now);
        if (chance(20))
            break;
    }
}

static bool idle(const struct zh_net *net)
{
    return !net->tcp->sockets && !net->tcp->requests && !net->tcp->time_waits && !net->timers.count;
}

/* Runs until everything has ended, or the time is over. */
static void play(void)
{
    uint64_t next[2], began = now, steps = 0;
    for (;;) {
        if (++steps > STEPS_MAX)
            FAIL("no end after %d steps", STEPS_MAX);
        zh_wire_set_now(wire, now);
        for (int i = 0; i < 2; i++)
            receive(i);
        accept_all();
        for (int i = 0; i < 2; i++)
            wake(i);
        uint64_t wakes = NET_NEVER;
        for (unsigned c = 0; c < connections; c++)
            for (int i = 0; i < 2; i++) {
                struct end *e = &ends[i][c];
                if (e->socket && e->wakes <= now)
                    act(e);
                if (e->socket && e->wakes < wakes)
                    wakes = e->wakes;
            }
        if (listener && all_done()) {
            zh_net_close(listener);
            listener = NULL;
        }
        for (int i = 0; i < 2; i++)
            next[i] = zh_net_poll(nets[i], now);
        if (!listener && idle(nets[0]) && idle(nets[1]) && zh_wire_next(wire) == NET_NEVER)
            return;
        uint64_t then = RTE_MIN(RTE_MIN(next[0], next[1]), RTE_MIN(zh_wire_next(wire), wakes));
        if (listener && then == NET_NEVER) /* only for clients that ended early */
            then = now + NET_SECOND;
        if (then == NET_NEVER)
            FAIL(
                "something is left, and nothing is waited for: %u and %u sockets, %u and %u timers",
                nets[0]->tcp->sockets, nets[1]->tcp->sockets, nets[0]->timers.count,
                nets[1]->timers.count);
        now = RTE_MAX(now, then);
        if (now - began > TIME_MAX)
            FAIL("no end: %u and %u sockets", nets[0]->tcp->sockets, nets[1]->tcp->sockets);
    }
}

static void run(void)
{
    static const uint16_t mtus[] = {576, 1500, 1500, 9000};
    random_state = seed;
    now = NET_SECOND + below(UINT64_C(1) << 50);
    lent = given_back = 0;
    aborting = chance(25);
    memset(ends, 0, sizeof ends);
    make_nets(mtus[below(4)]);
    make_ends();
    uint64_t began = now;
    play();
    uint64_t bytes = 0;
    for (unsigned c = 0; c < connections; c++)
        for (int i = 0; i < 2; i++) {
            struct end *e = &ends[i][c];
            release_held(e, 0);
            bytes += e->got;
            if (!aborting && (e->got != e->to_get || e->sent != e->to_send || !e->got_end))
                FAIL("connection %u ended before all was there", c);
        }
    if (lent != given_back)
        FAIL("%" PRIu64 " records lent, %" PRIu64 " given back", lent, given_back);
    if (verbose) {
        struct zh_net_stats stats[2];
        for (int i = 0; i < 2; i++) {
            zh_net_read_stats(nets[i], &stats[i]);
            printf("  net %d: %" PRIu64 " segments, %" PRIu64 " retransmitted, %" PRIu64
                   " timeouts\n",
                   i, stats[i].tcp_out, stats[i].tcp_out_retransmitted, stats[i].tcp_rto);
        }
        printf("seed %" PRIu64 ": %u connections%s, %" PRIu64 " bytes, %.3f s\n", seed, connections,
               aborting ? ", aborting" : "", bytes, (double)(now - began) / 1e9);
    }
    for (int i = 0; i < 2; i++) {
        unsigned out = rte_mempool_in_use_count(nets[i]->pool);
        unsigned in = rte_mempool_in_use_count(zh_wire_end(wire, i)->pool);
        if (out || in)
            FAIL("net %d: %u packets of its own and %u received ones are not back", i, out, in);
    }
    for (int i = 0; i < 2; i++)
        zh_net_destroy(nets[i]);
    zh_wire_destroy(wire);
}

/* DPDK keeps what it allocates at start for the life of the process. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

/* Whatever ends the test says which run it was; a run that does not end is stopped. */
static void tell_seed(int number)
{
    fprintf(stderr, "seed %" PRIu64 ": signal %d\n", seed, number);
    _exit(1);
}

void __asan_on_error(void);
void __asan_on_error(void)
{
    fprintf(stderr, "seed %" PRIu64 "\n", seed);
}

int main(int argc, char **argv)
{
    char error[ZH_PORT_ERROR_SIZE];
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : 100;
    verbose = argc > 3;
    if (zh_eal_start(NULL, error) != 0) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    random_state = 1;
    for (size_t i = 0; i < PATTERN; i++)
        pattern[i] = (uint8_t)draw();
    signal(SIGALRM, tell_seed);
    signal(SIGABRT, tell_seed);
#ifndef __SANITIZE_ADDRESS__
    signal(SIGSEGV, tell_seed);
#endif
    for (seed = first; seed < first + count; seed++) {
        alarm(RUN_SECONDS);
        run();
    }
    return 0;
}
