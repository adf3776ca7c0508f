/* Each rule of what a peer may write or send, broken alone: the link ends, and says which it was.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"
#include "harness.h"
#include "shm/link_internal.h"
#include "zerohop/fork.h"
#include "zerohop/stats.h"

static struct pair pair;
static struct zh_link *client, *server;

/* The server's link is dead, and the reason holds `why`. */
static void expect_dead(const char *why)
{
    struct zh_link_info info;

    zh_link_info(server, &info);
    if (info.state != ZH_LINK_DEAD || strstr(info.error, why) == NULL)
        fprintf(stderr, "state %u, error \"%s\", and not \"%s\"\n", info.state, info.error, why);
    CHECK(info.state == ZH_LINK_DEAD && strstr(info.error, why) != NULL);
}

/* A link whose client has lent segment 1 .. n to the server and knows its id. */
static void open_link(void)
{
    pair_link(&pair, NULL, NULL, &client, &server);
}

static void close_link(void)
{
    drop_link(&client);
    drop_link(&server);
    settle(pair.client_pump, 0);
    CHECK_EQ(arena_used(), 0);
}

/* --- records --- */

/* Write `record` at the client's head as it is, and release `slots`. */
static void post_raw(struct zh_record record, uint64_t slots)
{
    struct zh_side *own = zh_link_own(client);

    memcpy(own->slots + client->head % ZH_RING_SLOTS * ZH_SLOT, &record, sizeof(record));
    client->head += slots;
    atomic_store(&own->head, client->head);
}

/* At slot `at` of the ring: right as it stands, and wrong as `broken`. */
static void record_rule(uint64_t at, struct zh_record right, struct zh_record broken,
                        uint64_t released, const char *why)
{
    for (int wrong = 0; wrong < 2; wrong++) {
        struct zh_received r;
        open_link();
        for (uint64_t i = 0; i < at; i++) {
            CHECK_EQ(post_bytes(client, ZH_CALL, 1, "", 0), 0);
            CHECK_EQ(zh_link_next(server, &r), 1);
            zh_link_consume(server, &r);
        }
        /* So that the server knows a segment, of which the client's record may speak. */
        struct zh_loaned loaned;
        CHECK_EQ(zh_link_loan(client, 1, true, 0, &loaned), 0);
        zh_link_serve(server);
        struct zh_record record = wrong ? broken : right;
        if (record.segment == 1)
            record.segment = loaned.block.segment;
        post_raw(record, wrong ? released : record.slots);
        int got = zh_link_next(server, &r);
        if (wrong) {
            CHECK_EQ(got, -EPROTO);
            expect_dead(why);
            CHECK_EQ(zh_link_next(server, &r), -EPIPE);
        } else {
            CHECK(got == (record.kind == ZH_PAD ? 0 : 1));
            CHECK_EQ(zh_link_state(server), ZH_LINK_OPEN);
        }
        zh_link_unloan(client, &loaned);
        close_link();
    }
}

static void records(void)
{
    struct zh_arena_usage usage;
    zh_arena_usage(zh_arena_of_uid(geteuid()), &usage);
    const uint32_t pages = (uint32_t)(usage.committed / ZH_PAGE);
    const struct zh_record one = {.kind = ZH_CALL, .slots = 1};
    const struct zh_record many = {.kind = ZH_CALL, .slots = 4};
    const struct zh_record block = {.kind = ZH_CALL,
                                    .slots = 1,
                                    .flags = ZH_HAS_MESSAGE | ZH_MESSAGE_IN_BLOCK,
                                    .message_bytes = (uint64_t)pages * ZH_PAGE,
                                    .segment = 1,
                                    .loan_generation = 1};
    struct zh_record bad;

    CHECK_EQ(usage.segments, 1);
#define RULE(at, right, released, why, ...)                                                        \
    do {                                                                                           \
        bad = right;                                                                               \
        __VA_ARGS__;                                                                               \
        record_rule(at, right, bad, released, why);                                                \
    } while (0)

    RULE(0, one, ZH_RING_SLOTS + 1, "head", (void)bad);
    RULE(0, one, UINT64_MAX, "head", (void)bad);
    RULE(0, one, 1, "length", bad.slots = 0);
    RULE(0, many, 3, "length", (void)bad);
    RULE(0, many, 40, "length", bad.slots = 33);
    RULE(1020, many, 8, "length", bad.slots = 5);
    RULE(1020, ((struct zh_record){.kind = ZH_PAD, .slots = 4}), 4, "pad", bad.slots = 3);
    RULE(0, one, 1, "kind", bad.kind = 0);
    RULE(0, one, 1, "kind", bad.kind = ZH_STATUS);
    RULE(0, one, 1, "kind", bad.kind = ZH_KIND_END);
    RULE(0, one, 1, "kind", bad.kind = 255);
    RULE(0, one, 1, "flags", bad.flags = 16);
    RULE(0, one, 1, "flags", bad.flags = 0x8000);
    RULE(0, one, 1, "flags", bad.message_bytes = 1);
    RULE(0, block, 1, "flags", bad.flags = ZH_MESSAGE_IN_BLOCK);
    RULE(0, block, 1, "sizes", bad.flags |= ZH_METADATA_IN_BLOCK;
         bad.metadata_bytes = 128 * 1024 + 1; bad.message_bytes = 0);
    RULE(0, one, 1, "metadata", bad.metadata_bytes = 65);
    RULE(0, ((struct zh_record){.kind = ZH_CALL, .slots = 1, .metadata_bytes = 64}), 1, "metadata",
         bad.metadata_bytes = UINT16_MAX);
    RULE(0,
         ((struct zh_record){
             .kind = ZH_CALL, .slots = 1, .flags = ZH_HAS_MESSAGE, .message_bytes = 64}),
         1, "message", bad.message_bytes = 65);
    RULE(0,
         ((struct zh_record){.kind = ZH_CALL,
                             .slots = 1,
                             .flags = ZH_HAS_MESSAGE,
                             .metadata_bytes = 60,
                             .message_bytes = 4}),
         1, "message", bad.message_bytes = 5);
    RULE(0, block, 1, "reference", bad.message_bytes++);
    RULE(0, block, 1, "reference", bad.page = 1);
    RULE(0, block, 1, "reference", bad.page = pages + 1; bad.message_bytes = 0);
    RULE(0, block, 1, "reference", bad.page = UINT32_MAX; bad.message_bytes = 1);
    RULE(0, block, 1, "reference", bad.segment = 0);
    RULE(0, block, 1, "reference", bad.segment = 4711);
    RULE(0, block, 1, "length", bad.message_bytes = UINT64_MAX);
    RULE(0, block, 1, "reference", bad.message_bytes = UINT64_MAX / 2);
    RULE(0, block, 1, "reference", bad.metadata_bytes = 1; bad.flags |= ZH_METADATA_IN_BLOCK);
    RULE(0, block, 1, "loan", bad.loan = ZH_LOANS);
    RULE(0, block, 1, "loan", bad.loan_generation = 2);
#undef RULE
}

/* --- returns and tails --- */

static void returns(void)
{
    const struct {
        struct zh_return entry;
        uint64_t head;
        const char *why;
    } rules[] = {
        {{ZH_RETURN_CREDIT, 1, 1}, ZH_RETURN_ENTRIES + 1, "return head"},
        {{ZH_RETURN_CREDIT, 1, 1}, UINT64_MAX, "return head"},
        {{0, 0, 1}, 1, "not lent"},
        {{3, 0, 1}, 1, "not lent"},
        {{ZH_RETURN_LOAN, 0, 1}, 1, "not lent"},
        {{ZH_RETURN_LOAN, ZH_LOANS, 1}, 1, "not lent"},
        {{ZH_RETURN_LOAN, 1, UINT64_C(1) << 32 | 1}, 1, "not lent"},
    };
    struct zh_return credit;

    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        open_link();
        /* The server has lent entry 1, generation 1; 0 has come back, so that its turn is over. */
        CHECK_EQ(post_loan(server, ZH_STATUS, 1, 1, 1), 0);
        struct zh_loaned building;
        CHECK_EQ(zh_link_loan(server, 1, true, 0, &building), 0);
        CHECK_EQ(building.loan.id, 1);
        zh_link_unloan(server, &building);
        CHECK_EQ(post_loan(server, ZH_STATUS, 1, 1, 1), 0);
        struct zh_received r;
        CHECK_EQ(zh_link_next(client, &r), 1);
        zh_link_give_back(client, &r);
        CHECK_EQ(zh_link_next_return(server, &credit), 0);

        struct zh_side *own = zh_link_own(client);
        own->returns[1] = rules[i].entry;
        atomic_store(&own->return_head, rules[i].head == 1            ? 2
                                        : rules[i].head == UINT64_MAX ? 0
                                                                      : 1 + rules[i].head);
        CHECK_EQ(zh_link_next_return(server, &credit), -EPROTO);
        expect_dead(rules[i].why);
        close_link();
    }

    for (int way = 0; way < 4; way++) {
        struct zh_record header = {.kind = ZH_STATUS};
        open_link();
        struct zh_side *own = zh_link_own(client);
        for (int i = 0; i < 10; i++)
            CHECK_EQ(zh_link_post(server, &header, NULL, NULL, NULL, 0), 0);
        if (way == 0)
            atomic_store(&own->tail, 11); /* more than there is */
        if (way == 1)
            atomic_store(&own->tail, UINT64_MAX); /* backwards */
        if (way < 2) {
            CHECK_EQ(zh_link_post(server, &header, NULL, NULL, NULL, ZH_RING_SLOTS - 5), -EPIPE);
            expect_dead("tail");
        } else {
            atomic_store(&own->return_tail, way == 2 ? UINT64_MAX : ZH_RETURN_ENTRIES);
            int error, credits = 0;
            while ((error = zh_link_credit(server, 1, 1)) == 0)
                CHECK(++credits <= (int)ZH_RETURN_ENTRIES);
            CHECK_EQ(error, -EPROTO);
            expect_dead("return tail");
        }
        close_link();
    }
}

/* --- messages --- */

static int memfd(off_t size)
{
    int fd = memfd_create("broken", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0 && fallocate(fd, 0, 0, size) == 0);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | 0x10) == 0);
    return fd;
}

static void send_message(uint32_t kind, uint32_t id, uint64_t bytes, int fd)
{
    struct zh_segment_message m = {
        .magic = ZH_LINK_MAGIC, .version = ZH_LINK_VERSION, .kind = kind, .bytes = bytes, .id = id};
    CHECK_EQ(zh_message_send(client->socket, &m, sizeof(m), &fd, fd >= 0 ? 1 : 0), 0);
    zh_link_serve(server);
}

static void messages(void)
{
    int fd = memfd(8192), fds = count_fds();

    for (int way = 0; way < 10; way++) {
        const char *why = "?";
        open_link();
        send_message(ZH_MSG_SEGMENT, 100, 8192, fd);
        send_message(ZH_MSG_BELL, 0, 0, -1);
        CHECK_EQ(zh_link_state(server), ZH_LINK_OPEN);
        switch (way) {
        case 0:
            send_message(ZH_MSG_SEGMENT, 100, 8192, fd);
            why = "twice";
            break;
        case 1:
            send_message(ZH_MSG_SEGMENT, 0, 8192, fd);
            why = "bad";
            break;
        case 2:
            send_message(ZH_MSG_SEGMENT, 101, 8192, -1);
            why = "bad";
            break;
        case 3:
            for (uint32_t i = 1; i < ZH_LINK_SEGMENTS; i++)
                send_message(ZH_MSG_SEGMENT, 100 + i, 8192, fd);
            CHECK_EQ(zh_link_state(server), ZH_LINK_OPEN);
            send_message(ZH_MSG_SEGMENT, 1000, 8192, fd);
            why = "one too many";
            break;
        case 4:
            send_message(ZH_MSG_SEGMENT, 101, 12288, fd);
            why = "refused";
            break;
        case 5:
            send_message(ZH_MSG_DROPPED, 101, 0, -1);
            why = "never sent";
            break;
        case 6:
            send_message(ZH_MSG_DROPPED, 100, 0, -1);
            CHECK_EQ(zh_link_state(server), ZH_LINK_OPEN);
            send_message(ZH_MSG_DROPPED, 100, 0, -1);
            why = "never sent";
            break;
        case 7:
            send_message(ZH_MSG_DROPPED, 0, 0, -1);
            why = "never sent";
            break;
        case 8:
            send_message(ZH_MSG_HELLO, 0, 0, -1);
            why = "message kind 1";
            break;
        default:
            send_message(77, 0, 0, -1);
            why = "message kind 77";
        }
        expect_dead(why);
        close_link();
        CHECK_EQ(count_fds(), fds);
        CHECK_EQ(count_maps("memfd:broken"), 0);
    }
    close(fd);
}

/* --- clients that are gone --- */

/* Clients that go away before they have said anything, and what may be called on such a link. */
static void gone_before_greeting(void)
{
    char path[128];
    strcpy(path, scratch("gone"));
    struct zh_link_options options = {0};
    struct zh_record header = {.kind = ZH_STATUS};
    struct zh_received r;
    struct zh_return credit;
    struct zh_loaned loaned;
    int listener = listen_at(path), error, fds = count_fds();

    for (int i = 0; i < 2; i++) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        strcpy(address.sun_path, path);
        int raw = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        CHECK(raw >= 0 && connect(raw, (struct sockaddr *)&address, sizeof(address)) == 0);
        struct zh_link *link = zh_link_accept(pair.server_pump, listener, &options, &error);
        CHECK(link != NULL);
        for (int dead = 0; dead < 2; dead++) {
            CHECK_EQ(zh_link_next(link, &r), dead ? -EPIPE : 0);
            CHECK_EQ(zh_link_next_return(link, &credit), 0);
            CHECK_EQ(zh_link_post(link, &header, NULL, NULL, NULL, ZH_RING_SLOTS), -EPIPE);
            CHECK_EQ(zh_link_loan(link, 1, true, 0, &loaned), -EPIPE);
            CHECK_EQ(zh_link_credit(link, 1, 1), -EPIPE);
            CHECK_EQ(loans_open(link), 0);
            zh_link_flush(link);
            CHECK(zh_link_ready(link) == (dead == 1));
            if (dead)
                break;
            if (i == 0)
                close(raw);
            else
                zh_link_close(link, "no");
            zh_link_serve(link);
            CHECK_EQ(zh_link_state(link), ZH_LINK_DEAD);
        }
        if (i == 1)
            close(raw);
        drop_link(&link);
        CHECK_EQ(count_fds(), fds);
    }
    zh_fork_close_fd(listener);
}

static int connect_and_exit(void *arg)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char byte;

    strcpy(address.sun_path, scratch("exits"));
    int raw = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    CHECK(raw >= 0 && connect(raw, (struct sockaddr *)&address, sizeof(address)) == 0);
    int *hold = arg;
    close(hold[1]);
    if (fork() == 0) /* keeps the socket, until the test has seen enough */
        _exit(read(hold[0], &byte, 1) == 0 ? 0 : 1);
    return 0;
}

/* A client that exits before its hello, while a child of it holds the socket open. */
static void exits_before_greeting(void)
{
    struct zh_link_options options = {0};
    struct zh_link_info info;
    struct zh_received r;
    int listener = listen_at(scratch("exits")), error, hold[2];

    CHECK(pipe2(hold, O_CLOEXEC) == 0);
    CHECK(fcntl(listener, F_SETFL, 0) == 0);
    int fds = count_fds();
    pid_t child = spawn(connect_and_exit, hold);
    struct zh_link *link = zh_link_accept(pair.server_pump, listener, &options, &error);
    CHECK(link != NULL);
    CHECK(serve_until_dead(pair.server_pump, link, SECONDS(1)));
    zh_link_info(link, &info);
    CHECK(strstr(info.error, "has exited") != NULL);
    CHECK_EQ(zh_link_next(link, &r), -EPIPE);
    drop_link(&link);
    expect_exit(child, 0, SECONDS(5));
    CHECK_EQ(count_fds(), fds);
    close(hold[0]);
    close(hold[1]);
    zh_fork_close_fd(listener);
}

/* Not a rule for peers but for us: one bell for one sleep, however much is posted. */
static void one_bell(void)
{
    struct zh_stats_snapshot before, after;
    struct zh_received r;

    open_link();
    settle(pair.server_pump, 0);
    CHECK(!zh_pump_arm(pair.server_pump));
    zh_stats_read(&before);
    for (int i = 0; i < 10; i++)
        CHECK_EQ(post_bytes(client, ZH_CALL, 1, "", 0), 0);
    zh_stats_read(&after);
    CHECK_EQ(after.wakeups - before.wakeups, 1);
    zh_pump_disarm(pair.server_pump);
    CHECK_EQ(post_bytes(client, ZH_CALL, 1, "", 0), 0); /* awake: none */
    while (zh_link_next(server, &r) == 1)
        zh_link_consume(server, &r);
    CHECK(!zh_pump_arm(pair.server_pump));
    CHECK_EQ(post_bytes(client, ZH_CALL, 1, "", 0), 0); /* another sleep, another bell */
    zh_stats_read(&after);
    CHECK_EQ(after.wakeups - before.wakeups, 2);
    zh_pump_disarm(pair.server_pump);
    close_link();
}

int main(void)
{
    struct zh_block block;

    scratch("");
    CHECK_EQ(zh_arena_alloc(zh_arena_of_uid(geteuid()), 1, true, &block), 0);
    CHECK_EQ(zh_arena_unref(zh_arena_of_uid(geteuid()), block.segment, block.page), 0);
    int fds = count_fds();
    pair_open(&pair, NULL, NULL);
    records();
    returns();
    messages();
    gone_before_greeting();
    exits_before_greeting();
    one_bell();
    pair_close(&pair);
    CHECK_EQ(count_fds(), fds);
    CHECK_EQ(count_maps("zerohop-"), 1);
    return 0;
}
