/* Loans on a link: they travel, come back, are bounded; segments that come and go; credit. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "harness.h"
#include "shm/link_internal.h"
#include "zerohop/stats.h"

#define MIB ((size_t)1 << 20)

static struct pair pair;

static void take_returns(struct zh_link *link)
{
    struct zh_return credit;
    CHECK_EQ(zh_link_next_return(link, &credit), 0);
}

/* Take the next record, which must be a loan; it is not given back yet. */
static struct zh_received take_loan(struct zh_link *link)
{
    struct zh_received r;

    CHECK_EQ(zh_link_next(link, &r), 1);
    CHECK(r.loaned);
    zh_link_consume(link, &r);
    zh_link_flush(link);
    return r;
}

/* The receiver reads the sender's pages: same memfd, same place, nothing in between. */
static void in_place(void)
{
    struct zh_loaned loaned;
    struct zh_record header = {.kind = ZH_CALL,
                               .flags = ZH_HAS_MESSAGE | ZH_MESSAGE_IN_BLOCK | ZH_METADATA_IN_BLOCK,
                               .metadata_bytes = 3000,
                               .message_bytes = 5000};

    CHECK_EQ(zh_link_loan(pair.client, 8000, true, 77, &loaned), 0);
    memset(loaned.block.data, 'm', 3000);
    memset(loaned.block.data + 3000, 'b', 5000);
    CHECK_EQ(zh_link_post(pair.client, &header, NULL, NULL, &loaned, 0), 0);
    struct zh_received r = take_loan(pair.server);
    CHECK(r.metadata[0] == 'm' && r.metadata[2999] == 'm' && r.metadata + 3000 == r.message);
    CHECK(r.message[0] == 'b' && r.message[4999] == 'b');
    loaned.block.data[3000] = 'c';
    CHECK(r.message[0] == 'c');
    CHECK(r.message != loaned.block.data + 3000); /* by a mapping of its own, which is read-only */
    CHECK_EQ(loans_open(pair.client), 1);
    zh_link_give_back(pair.server, &r);
    CHECK_EQ(loans_open(pair.client), 1);
    take_returns(pair.client);
    CHECK_EQ(loans_open(pair.client), 0);
    CHECK_EQ(arena_used(), 0);

    /* Either one in the block, the other in the ring. */
    for (int which = 0; which < 2; which++) {
        header.flags = ZH_HAS_MESSAGE | (which == 0 ? ZH_MESSAGE_IN_BLOCK : ZH_METADATA_IN_BLOCK);
        header.metadata_bytes = which == 0 ? 20 : 3000;
        header.message_bytes = which == 0 ? 3000 : 30;
        CHECK_EQ(zh_link_loan(pair.client, 3000, true, 0, &loaned), 0);
        memset(loaned.block.data, 'x', 3000);
        CHECK_EQ(zh_link_post(pair.client, &header, "metadata of 20 bytes",
                              "a message of thirty bytes.....", &loaned, 0),
                 0);
        r = take_loan(pair.server);
        const uint8_t *large = which == 0 ? r.message : r.metadata;
        CHECK(large[0] == 'x' && large[2999] == 'x');
        if (which == 0)
            CHECK(memcmp(r.metadata, "metadata of 20 bytes", 20) == 0);
        else
            CHECK(memcmp(r.message, "a message of thirty bytes.....", 30) == 0);
        zh_link_give_back(pair.server, &r);
        take_returns(pair.client);
    }
    CHECK_EQ(arena_used(), 0);
}

struct seen {
    int count;
    uint64_t tags, bytes;
};

static void see(void *context, const struct zh_ledger_entry *entry)
{
    struct seen *seen = context;
    seen->count++;
    seen->tags += entry->tag;
    seen->bytes += entry->bytes;
}

static void bounds(void)
{
    static struct zh_received held[ZH_LOANS];
    struct zh_link_options quota = {.lend_limit = 10 * ZH_PAGE};
    struct zh_link *client, *server;
    struct zh_loaned loaned, more;

    /* What can never be had is said so; a segment is not committed without leave. */
    CHECK_EQ(zh_link_loan(pair.client, 0, true, 0, &loaned), -EINVAL);
    CHECK_EQ(zh_link_loan(pair.client, (size_t)1 << 40, true, 0, &loaned), -EINVAL);
    CHECK_EQ(zh_link_loan(pair.client, 5 * MIB, false, 0, &loaned), -EAGAIN);
    CHECK_EQ(zh_link_loan(pair.client, 5 * MIB, true, 0, &loaned), 0);
    zh_link_unloan(pair.client, &loaned);
    CHECK_EQ(zh_link_loan(pair.client, 5 * MIB, false, 0, &loaned), 0);
    zh_link_unloan(pair.client, &loaned);
    CHECK_EQ(arena_used(), 0);

    /* The quota of one link, which is not another's. */
    pair_link(&pair, &quota, NULL, &client, &server);
    for (int i = 0; i < 5; i++)
        CHECK_EQ(post_loan(client, ZH_CALL, 1, 2 * ZH_PAGE, 1), 0);
    CHECK_EQ(post_loan(client, ZH_CALL, 1, 1, 1), -EDQUOT);
    CHECK_EQ(arena_used(), 10 * ZH_PAGE); /* and nothing of what was refused is kept */
    CHECK_EQ(post_loan(pair.client, ZH_CALL, 1, 1, 1), 0);
    struct zh_link_info info;
    zh_link_info(client, &info);
    CHECK(info.loans_open == 5 && info.lent_bytes == 10 * ZH_PAGE);
    struct zh_received r = take_loan(server);
    zh_link_give_back(server, &r);
    take_returns(client);
    CHECK_EQ(post_loan(client, ZH_CALL, 1, 1, 1), 0);
    drop_link(&client);
    drop_link(&server);
    settle(pair.client_pump, MS(5));
    r = take_loan(pair.server);
    zh_link_give_back(pair.server, &r);
    take_returns(pair.client);
    CHECK_EQ(arena_used(), 0);

    /* Every entry of the ledger; the walk of the leak finder sees each. */
    for (uint32_t i = 0; i < ZH_LOANS; i++) {
        CHECK_EQ(zh_link_loan(pair.client, 1, true, i, &loaned), 0);
        struct zh_record header = {
            .kind = ZH_CALL, .flags = ZH_HAS_MESSAGE | ZH_MESSAGE_IN_BLOCK, .message_bytes = 1};
        CHECK_EQ(zh_link_post(pair.client, &header, NULL, NULL, &loaned, 0), 0);
        held[i] = take_loan(pair.server);
    }
    CHECK_EQ(zh_link_loan(pair.client, 1, true, 0, &more), -ENOBUFS);
    CHECK_EQ(arena_used(), ZH_LOANS * ZH_PAGE);
    struct seen seen = {0};
    zh_link_loans(pair.client, see, &seen);
    CHECK_EQ(seen.count, ZH_LOANS);
    CHECK_EQ(seen.tags, ZH_LOANS * (ZH_LOANS - 1) / 2);
    CHECK_EQ(seen.bytes, ZH_LOANS * ZH_PAGE);
    for (uint32_t i = 0; i < ZH_LOANS; i++)
        zh_link_give_back(pair.server, &held[(i * 5) % ZH_LOANS]);
    take_returns(pair.client);
    CHECK_EQ(loans_open(pair.client), 0);
    CHECK_EQ(arena_used(), 0);
}

/* The arena is full for all its links, and usable again as soon as something comes back. */
static void full_arena(void)
{
    struct zh_link *client, *server;
    struct zh_arena *small = zh_arena_create(4 * MIB);
    struct zh_arena_usage usage;

    pair_link(&pair, NULL, NULL, &client, &server);
    client->arena = client->ledger.arena = small;
    client->ledger.limit_bytes = UINT64_MAX;
    for (int round = 0; round < 10000; round++) {
        if (round < 4) {
            CHECK_EQ(post_loan(client, ZH_CALL, 1, MIB, 1), 0);
            continue;
        }
        CHECK_EQ(post_loan(client, ZH_CALL, 1, MIB, 1), -ENOMEM);
        if (round % 1000 == 0) {
            struct zh_received r = take_loan(server);
            zh_link_give_back(server, &r);
            take_returns(client);
            CHECK_EQ(post_loan(client, ZH_CALL, 1, MIB, 1), 0);
        }
    }
    zh_arena_usage(small, &usage);
    CHECK(usage.used == 4 * MIB && loans_open(client) == 4);
    zh_link_close(client, "end");
    drop_link(&server);
    settle(pair.client_pump, MS(5));
    CHECK_EQ(loans_open(client), 0);
    zh_arena_usage(small, &usage);
    CHECK_EQ(usage.used, 0);
    drop_link(&client);
    zh_arena_destroy(small);
}

/* Segments: announced before the first record that needs them, unmapped when they are gone. */
static void segments(void)
{
    struct zh_received held[6];
    struct zh_arena_usage usage;
    int most = 0;

    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 6; i++) {
            CHECK_EQ(post_loan(pair.client, ZH_CALL, 1, (2 * MIB) << (i % 4), (uint8_t)i), 0);
            held[i] = take_loan(pair.server);
            CHECK(held[i].message[0] == i);
            CHECK(held[i].message[held[i].header.message_bytes - 1] == i);
        }
        int maps = count_maps("zerohop-arena");
        most = maps > most ? maps : most;
        for (int i = 0; i < 6; i++)
            zh_link_give_back(pair.server, &held[i]);
        take_returns(pair.client);
        /* One mapping of the owner, and at most one of the peer, as soon as no thread commits ahead
         * any more and DROPPED has been read. */
        for (int i = 0; i < 500; i++) {
            CHECK(!zh_pump_arm(pair.client_pump));
            zh_pump_disarm(pair.client_pump);
            zh_link_serve(pair.server);
            zh_arena_usage(zh_arena_of_uid(geteuid()), &usage);
            if (usage.segments == 1 && count_maps("zerohop-arena") <= 2)
                break;
            usleep(10000);
        }
        CHECK_EQ(usage.used, 0);
        CHECK_EQ(usage.segments, 1);
        CHECK(count_maps("zerohop-arena") <= 2);
        CHECK_EQ(zh_link_state(pair.server), ZH_LINK_OPEN);
    }
    CHECK(most >= 6); /* three segments were there, mapped twice each */
}

/* A link that has fallen quiet makes its peer hold no segment that the arena has given up. */
static void quiet_links(void)
{
    struct zh_link *client, *server;
    struct zh_arena *arena = zh_arena_create(6 * MIB); /* no room for a third one */
    struct zh_block other[2];
    struct zh_arena_usage usage;

    /* Two segments, with a block of somebody else's in each. */
    pair_link(&pair, NULL, NULL, &client, &server);
    client->arena = client->ledger.arena = arena;
    CHECK_EQ(zh_arena_alloc(arena, MIB, true, &other[0]), 0);
    CHECK_EQ(post_loan(client, ZH_CALL, 1, MIB, 9), 0);
    CHECK_EQ(zh_arena_alloc(arena, 3 * MIB, true, &other[1]), 0);
    CHECK_EQ(post_loan(client, ZH_CALL, 1, MIB, 9), 0);
    for (int i = 0; i < 2; i++) {
        struct zh_received r = take_loan(server);
        zh_link_give_back(server, &r);
    }
    take_returns(client);
    CHECK_EQ(loans_open(client), 0);
    CHECK(server->segments[0].id != 0 && server->segments[1].id != 0);

    /* From here on the link's process only goes to sleep now and then. */
    for (int i = 0; i < 2; i++)
        CHECK_EQ(zh_arena_unref(arena, other[i].segment, other[i].page), 0);
    zh_arena_usage(arena, &usage);
    CHECK_EQ(usage.segments, 1);
    CHECK(!zh_pump_arm(pair.client_pump));
    zh_pump_disarm(pair.client_pump);
    zh_link_serve(server);
    CHECK_EQ((server->segments[0].id != 0) + (server->segments[1].id != 0), 1);
    CHECK_EQ(zh_link_state(server), ZH_LINK_OPEN);
    drop_link(&client);
    drop_link(&server);
    zh_arena_destroy(arena);
}

/* What is being filled belongs to whoever fills it, whatever becomes of the link. */
static void dying_while_filling(void)
{
    struct zh_link *client, *server;
    struct zh_loaned filling, other;
    struct zh_record header = {
        .kind = ZH_CALL, .flags = ZH_HAS_MESSAGE | ZH_MESSAGE_IN_BLOCK, .message_bytes = 100};

    pair_link(&pair, NULL, NULL, &client, &server);
    CHECK_EQ(zh_link_loan(client, 3 * ZH_PAGE, true, 0, &filling), 0);
    drop_link(&server);
    CHECK(serve_until_dead(pair.client_pump, client, SECONDS(5)));
    CHECK_EQ(arena_used(), 3 * ZH_PAGE);
    CHECK_EQ(zh_link_loan(pair.client, 3 * ZH_PAGE, true, 0, &other), 0);
    CHECK(other.block.data != filling.block.data);
    CHECK_EQ(zh_link_post(client, &header, NULL, NULL, &filling, 0), -EPIPE);
    CHECK_EQ(loans_open(client), 1);
    zh_link_unloan(client, &filling);
    CHECK_EQ(loans_open(client), 0);
    zh_link_unloan(pair.client, &other);
    CHECK_EQ(arena_used(), 0);
    CHECK_EQ(zh_link_loan(client, 1, true, 0, &other), -EPIPE);
    drop_link(&client);

    /* A peer that returns what it has not been given: the link ends, the block stays. */
    pair_link(&pair, NULL, NULL, &client, &server);
    CHECK_EQ(zh_link_loan(client, 3 * ZH_PAGE, true, 0, &filling), 0);
    struct zh_received guess = {
        .header = {.loan = filling.loan.id, .loan_generation = filling.loan.generation}};
    zh_link_give_back(server, &guess);
    struct zh_return credit;
    CHECK_EQ(zh_link_next_return(client, &credit), -EPROTO);
    CHECK_EQ(zh_link_state(client), ZH_LINK_DEAD);
    CHECK_EQ(arena_used(), 3 * ZH_PAGE);
    zh_link_unloan(client, &filling);
    CHECK_EQ(arena_used(), 0);
    drop_link(&client);
    drop_link(&server);
}

static void bad_returns(void)
{
    struct zh_return credit;

    for (int way = 0; way < 4; way++) {
        struct zh_link *client, *server;
        pair_link(&pair, NULL, NULL, &client, &server);
        CHECK_EQ(post_loan(client, ZH_CALL, 1, 1, 1), 0);
        CHECK_EQ(post_loan(client, ZH_CALL, 1, 1, 1), 0);
        struct zh_received r = take_loan(server);
        if (way == 0) /* twice */
            zh_link_give_back(server, &r);
        if (way == 1) /* never lent */
            r.header.loan = 900;
        if (way == 2) /* beyond the ledger */
            r.header.loan = UINT32_MAX;
        if (way == 3) /* of another generation */
            r.header.loan_generation += 2;
        zh_link_give_back(server, &r);
        CHECK_EQ(zh_link_next_return(client, &credit), -EPROTO);
        CHECK_EQ(zh_link_state(client), ZH_LINK_DEAD);
        CHECK_EQ(loans_open(client), 0);
        CHECK_EQ(zh_link_next_return(client, &credit), 0);
        drop_link(&client);
        CHECK(serve_until_dead(pair.server_pump, server, SECONDS(5)));
        drop_link(&server);
        CHECK_EQ(arena_used(), 0);
    }
}

static void credits(void)
{
    struct zh_return credit;
    uint64_t given = 0, taken = 0;

    for (uint64_t i = 0; i < 10000; i++) {
        CHECK_EQ(zh_link_credit(pair.server, i << 32 | 5, (uint32_t)i + 1), 0);
        given += i + 1;
        if (i % 500 != 499)
            continue;
        for (uint64_t j = i - 499; j <= i; j++) {
            CHECK_EQ(zh_link_next_return(pair.client, &credit), 1);
            CHECK(credit.object == (j << 32 | 5) && credit.value == (uint32_t)j + 1);
            taken += credit.value;
        }
        CHECK_EQ(zh_link_next_return(pair.client, &credit), 0);
    }
    CHECK_EQ(given, taken);

    /* Credit that nobody takes fills its part of the ring; loans still come back past it. */
    static struct zh_received held[ZH_LOANS];
    for (uint32_t i = 0; i < ZH_LOANS; i++) {
        CHECK_EQ(post_loan(pair.client, ZH_CALL, 1, 1, 1), 0);
        held[i] = take_loan(pair.server);
    }
    uint32_t credited = 0;
    for (uint32_t i = 0; i < ZH_LOANS; i++) {
        while (zh_link_credit(pair.server, 1, 1) == 0)
            CHECK(++credited <= ZH_RETURN_ENTRIES);
        CHECK_EQ(zh_link_credit(pair.server, 1, 1), -EAGAIN);
        zh_link_give_back(pair.server, &held[i]);
        CHECK_EQ(zh_link_state(pair.server), ZH_LINK_OPEN);
    }
    CHECK(credited > 0);
    for (uint32_t i = 0; i < credited; i++)
        CHECK_EQ(zh_link_next_return(pair.client, &credit), 1);
    take_returns(pair.client);
    CHECK_EQ(loans_open(pair.client), 0);
    CHECK_EQ(zh_link_credit(pair.server, 1, 1), 0);
    CHECK_EQ(zh_link_next_return(pair.client, &credit), 1);
}

/* Returns ring only whom they were asked to ring. */
static void ringing_returns(void)
{
    struct zh_event events[ZH_PUMP_EVENTS];
    struct zh_stats_snapshot before, after;

    for (int asked = 0; asked < 2; asked++) {
        CHECK_EQ(post_loan(pair.client, ZH_CALL, 1, 1, 1), 0);
        struct zh_received r = take_loan(pair.server);
        settle(pair.client_pump, MS(1));
        zh_link_want(pair.client, ZH_WANT_RETURNS, asked != 0);
        CHECK(!zh_pump_arm(pair.client_pump));
        zh_stats_read(&before);
        zh_link_give_back(pair.server, &r);
        zh_stats_read(&after);
        CHECK_EQ(after.wakeups - before.wakeups, asked);
        CHECK_EQ(zh_pump_events(pair.client_pump, events, (int64_t)MS(5)), asked);
        zh_pump_disarm(pair.client_pump);
        CHECK(zh_pump_arm(pair.client_pump)); /* but everybody looks before sleeping */
        take_returns(pair.client);
        CHECK(!zh_pump_arm(pair.client_pump));
        zh_pump_disarm(pair.client_pump);
    }
    zh_link_want(pair.client, ZH_WANT_RETURNS, false);
}

int main(void)
{
    struct zh_stats_snapshot stats;

    scratch("");
    int fds = count_fds();
    pair_open(&pair, NULL, NULL);
    in_place();
    bounds();
    full_arena();
    segments();
    quiet_links();
    dying_while_filling();
    bad_returns();
    credits();
    ringing_returns();
    pair_close(&pair);
    CHECK_EQ(arena_used(), 0);
    zh_stats_read(&stats);
    CHECK_EQ(stats.blocks_lent, stats.blocks_returned);
    CHECK_EQ(stats.links_opened, stats.links_closed);
    CHECK_EQ(count_fds(), fds + 1); /* the empty segment that the arena keeps */
    CHECK_EQ(count_maps("zerohop-"), 1);
    return 0;
}
