/* Images on a link: loans of several blocks, records that are held, what of the peer's memory may
 * be read, and for how long. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "harness.h"
#include "shm/link_internal.h"
#include "shm/message.h"
#include "zerohop/image.h"
#include "zerohop/stats.h"

#define MIB ((size_t)1 << 20)
enum { BLOCKS = 5 };

static struct pair pair;

static struct zh_arena *arena(void)
{
    return zh_arena_of_uid(geteuid());
}

static uint64_t lent_and_not_returned(void)
{
    struct zh_stats_snapshot stats;
    zh_stats_read(&stats);
    return stats.blocks_lent - stats.blocks_returned;
}

/* Blocks as a message would have them, each full of its number. */
static void build(struct zh_block *blocks, uint32_t count, size_t most)
{
    for (uint32_t i = 0; i < count; i++) {
        CHECK_EQ(zh_arena_alloc(arena(), i % 2 == 0 ? 100 : most, true, &blocks[i]), 0);
        memset(blocks[i].data, (int)i + 1, (size_t)blocks[i].pages * ZH_PAGE);
    }
}

static void discard(const struct zh_block *blocks, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        CHECK_EQ(zh_arena_unref(arena(), blocks[i].segment, blocks[i].page), 0);
}

static int lend(struct zh_link *link, const struct zh_block *blocks, uint32_t count)
{
    struct zh_loaned loaned;
    struct zh_record header = {
        .kind = ZH_CALL, .flags = ZH_HAS_MESSAGE | ZH_IMAGE | ZH_LOANED, .message_bytes = 4};

    int error = zh_link_lend(link, blocks, count, 9, NULL, &loaned);
    if (error == 0)
        CHECK_EQ(zh_link_post(link, &header, NULL, "root", &loaned, 0), 0);
    return error;
}

static struct zh_received take(struct zh_link *link)
{
    struct zh_received r;

    CHECK_EQ(zh_link_next(link, &r), 1);
    CHECK(r.loaned && (r.header.flags & ZH_LOANED) != 0);
    CHECK(memcmp(r.message, "root", 4) == 0);
    zh_link_hold(link, &r);
    zh_link_consume(link, &r);
    zh_link_flush(link);
    return r;
}

static void take_returns(struct zh_link *link)
{
    struct zh_return credit;
    CHECK_EQ(zh_link_next_return(link, &credit), 0);
}

static const uint8_t *see(struct zh_link *link, const struct zh_block *block)
{
    return zh_link_at(link, block->segment, (uint64_t)block->page * ZH_PAGE,
                      (uint64_t)block->pages * ZH_PAGE);
}

static void check_blocks(struct zh_link *link, const struct zh_block *blocks, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *at = see(link, &blocks[i]);
        CHECK(at != NULL && at != blocks[i].data);
        CHECK(at[0] == i + 1 && at[(size_t)blocks[i].pages * ZH_PAGE - 1] == i + 1);
    }
}

/* One loan for all blocks of a message: read where they lie, returned as one. */
static void several_blocks(void)
{
    struct zh_block blocks[BLOCKS];
    struct zh_link_info info;
    uint64_t bytes = 0;

    build(blocks, BLOCKS, 3 * MIB); /* of more than one segment */
    CHECK(blocks[0].segment != blocks[1].segment);
    for (uint32_t i = 0; i < BLOCKS; i++)
        bytes += (uint64_t)blocks[i].pages * ZH_PAGE;
    for (uint32_t count = 1; count <= BLOCKS; count++) {
        uint64_t before = lent_and_not_returned();
        CHECK_EQ(lend(pair.client, blocks, count), 0);
        CHECK_EQ(lent_and_not_returned() - before, count);
        CHECK_EQ(loans_open(pair.client), 1);
        struct zh_received r = take(pair.server);
        check_blocks(pair.server, blocks, count);
        zh_link_let_go(pair.server, &r);
        take_returns(pair.client);
        CHECK_EQ(lent_and_not_returned(), before);
        CHECK_EQ(loans_open(pair.client), 0);
    }

    /* Often at once, the same block twice in one too; the sender lets go first. */
    struct zh_received held[20];
    for (int i = 0; i < 20; i++) {
        struct zh_block twice[2] = {blocks[0], blocks[0]};
        CHECK_EQ(i % 2 == 0 ? lend(pair.client, blocks, BLOCKS) : lend(pair.client, twice, 2), 0);
        held[i] = take(pair.server);
    }
    discard(blocks, BLOCKS);
    CHECK_EQ(arena_used(), bytes);
    zh_link_info(pair.client, &info);
    CHECK_EQ(info.lent_bytes, 10 * bytes + 10 * 2 * ZH_PAGE);
    check_blocks(pair.server, blocks, BLOCKS);
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(arena_used(), i < 19 ? bytes : ZH_PAGE); /* the last one lent has but one block */
        zh_link_let_go(pair.server, &held[(i * 7) % 20]);
        take_returns(pair.client);
    }
    CHECK_EQ(arena_used(), 0);
    CHECK_EQ(lent_and_not_returned(), 0);
}

static void unlend(void)
{
    struct zh_block blocks[BLOCKS];
    struct zh_loaned loaned;

    build(blocks, BLOCKS, 9000);
    uint64_t used = arena_used();
    CHECK_EQ(zh_link_lend(pair.client, blocks, BLOCKS, 0, NULL, &loaned), 0);
    CHECK_EQ(loans_open(pair.client), 1);
    zh_link_unloan(pair.client, &loaned);
    CHECK_EQ(loans_open(pair.client), 0);
    zh_link_unloan(pair.client, &loaned);
    CHECK_EQ(arena_used(), used);
    CHECK_EQ(lent_and_not_returned(), 0);
    discard(blocks, BLOCKS);
    CHECK_EQ(arena_used(), 0);
}

/* What cannot be lent as a whole is not lent in part. */
static void failures(void)
{
    struct zh_link_options quota = {.lend_limit = 10 * ZH_PAGE};
    struct zh_block blocks[BLOCKS], wrong[3];
    static struct zh_received held[ZH_LOANS];
    struct zh_loaned loaned;
    struct zh_link *client, *server;

    build(blocks, BLOCKS, 3 * ZH_PAGE); /* 9 pages */
    uint64_t used = arena_used();
    memcpy(wrong, blocks, sizeof(wrong));
    wrong[2].page++;
    wrong[2].segment += 7;
    CHECK_EQ(zh_link_lend(pair.client, wrong, 3, 0, NULL, &loaned), -EINVAL);
    wrong[2] = blocks[1];
    wrong[2].page++; /* inside a block, but none */
    CHECK_EQ(zh_link_lend(pair.client, wrong, 3, 0, NULL, &loaned), -EINVAL);

    pair_link(&pair, &quota, NULL, &client, &server);
    CHECK_EQ(lend(client, blocks, BLOCKS), 0);
    CHECK_EQ(lend(client, blocks, 2), -EDQUOT);
    CHECK_EQ(lend(client, blocks, 1), 0);
    CHECK_EQ(loans_open(client), 2);
    CHECK_EQ(lent_and_not_returned(), BLOCKS + 1);

    /* The second of two segments cannot be sent: the peer does not read its socket. */
    struct zh_block far[2];
    build(far, 1, 1);
    CHECK_EQ(zh_arena_alloc(arena(), 40 * MIB, true, &far[1]), 0);
    client->ledger.limit_bytes = UINT64_MAX;
    while (zh_message_send(client->socket,
                           &(struct zh_segment_message){.magic = ZH_LINK_MAGIC,
                                                        .version = ZH_LINK_VERSION,
                                                        .kind = ZH_MSG_BELL},
                           sizeof(struct zh_segment_message), NULL, 0) == 0)
        ;
    CHECK_EQ(lend(client, far, 2), -ENOBUFS);
    CHECK_EQ(loans_open(client), 2);
    while (zh_link_serve(server))
        ;
    CHECK_EQ(lend(client, far, 2), 0);
    discard(far, 2);
    zh_link_close(server, "end");
    CHECK(serve_until_dead(pair.client_pump, client, SECONDS(5)));
    CHECK_EQ(loans_open(client), 0); /* reclaimed, with all blocks */
    CHECK_EQ(lent_and_not_returned(), 0);
    CHECK_EQ(arena_used(), used);
    CHECK_EQ(zh_link_lend(client, blocks, BLOCKS, 0, NULL, &loaned), -EPIPE);
    CHECK_EQ(arena_used(), used);
    drop_link(&client);
    drop_link(&server);

    /* No entry in the ledger. */
    for (uint32_t i = 0; i < ZH_LOANS; i++) {
        CHECK_EQ(lend(pair.client, blocks, BLOCKS), 0);
        held[i] = take(pair.server);
    }
    CHECK_EQ(lend(pair.client, blocks, 2), -ENOBUFS);
    CHECK_EQ(lent_and_not_returned(), BLOCKS * ZH_LOANS);
    for (uint32_t i = 0; i < ZH_LOANS; i++)
        zh_link_let_go(pair.server, &held[i]);
    take_returns(pair.client);
    CHECK_EQ(lent_and_not_returned(), 0);
    discard(blocks, BLOCKS);
    CHECK_EQ(arena_used(), 0);
}

/* Everything that may be wrong with a place. */
static void places(void)
{
    struct zh_block block;
    uint64_t size = ZH_ARENA_FIRST_SEGMENT;

    CHECK_EQ(zh_arena_alloc(arena(), 100, true, &block), 0);
    CHECK_EQ(lend(pair.client, &block, 1), 0);
    struct zh_received r = take(pair.server);
    uint32_t id = block.segment;
    const uint8_t *base = zh_link_at(pair.server, id, 0, 1);
    size_t bytes = 0;
    CHECK(zh_arena_segment_fd(arena(), id, &bytes) >= 0);
    size = bytes;
    CHECK(base != NULL);
    CHECK(zh_link_at(pair.server, id, 0, size) == base);
    CHECK(zh_link_at(pair.server, id, size - 1, 1) == base + size - 1);
    CHECK(zh_link_at(pair.server, id, size - 1, 2) == NULL);
    CHECK(zh_link_at(pair.server, id, size, 1) == NULL);
    CHECK(zh_link_at(pair.server, id, 0, size + 1) == NULL);
    CHECK(zh_link_at(pair.server, id, 1, UINT64_MAX) == NULL);
    CHECK(zh_link_at(pair.server, id, UINT64_MAX, 1) == NULL);
    CHECK(zh_link_at(pair.server, id, UINT64_MAX, UINT64_MAX) == NULL);
    CHECK(zh_link_at(pair.server, 0, 0, 1) == NULL);
    CHECK(zh_link_at(pair.server, id + 1000, 0, 1) == NULL);
    CHECK(zh_link_at(pair.server, UINT32_MAX, 0, 1) == NULL);
    CHECK(zh_link_at(pair.client, id, 0, 1) == NULL); /* the other side has been shown none */
    zh_link_let_go(pair.server, &r);
    take_returns(pair.client);
    discard(&block, 1);
}

static void announce(struct zh_link *link, uint32_t kind, uint32_t id, struct zh_segment *segment)
{
    struct zh_segment_message m = {
        .magic = ZH_LINK_MAGIC, .version = ZH_LINK_VERSION, .kind = kind, .id = id};

    if (segment != NULL)
        m.bytes = segment->size;
    CHECK_EQ(zh_message_send(link->socket, &m, sizeof(m), segment != NULL ? &segment->fd : NULL,
                             segment != NULL),
             0);
}

/* A peer that drops what it has lent takes it away from nobody who reads it. */
static void dropped_while_held(void)
{
    struct zh_link *client, *server;
    struct zh_block block;
    struct zh_segment segment;

    CHECK_EQ(zh_arena_alloc(arena(), 5000, true, &block), 0);
    memset(block.data, 'v', 5000);
    pair_link(&pair, NULL, NULL, &client, &server);
    CHECK_EQ(lend(client, &block, 1), 0);
    CHECK_EQ(lend(client, &block, 1), 0);
    struct zh_received first = take(server), second = take(server);
    const uint8_t *view = see(server, &block);
    CHECK(view != NULL && view[4999] == 'v');
    int maps = count_maps("zerohop-arena");
    announce(client, ZH_MSG_DROPPED, block.segment, NULL);
    zh_link_serve(server);
    CHECK_EQ(server->grave_count, 1);
    CHECK_EQ(count_maps("zerohop-arena"), maps);
    CHECK(view[0] == 'v' && view[4999] == 'v');
    CHECK(see(server, &block) == NULL);
    zh_link_let_go(server, &first);
    CHECK_EQ(count_maps("zerohop-arena"), maps);
    CHECK(view[4999] == 'v');
    zh_link_let_go(server, &second);
    CHECK_EQ(count_maps("zerohop-arena"), maps - 1);
    CHECK_EQ(server->grave_count, 0);
    take_returns(client);
    CHECK_EQ(lent_and_not_returned(), 0);
    drop_link(&client);
    drop_link(&server);

    /* Graves are bounded: who drops on and on while we read ends the link, not our view. */
    pair_link(&pair, NULL, NULL, &client, &server);
    CHECK_EQ(lend(client, &block, 1), 0);
    first = take(server);
    view = see(server, &block);
    maps = count_maps("hostile");
    int sent = 0;
    CHECK_EQ(zh_segment_create(&segment, "hostile", 8192), 0);
    for (uint32_t id = 1000; zh_link_state(server) == ZH_LINK_OPEN; id++, sent++) {
        CHECK(sent <= ZH_LINK_SEGMENTS);
        announce(client, ZH_MSG_SEGMENT, id, &segment);
        announce(client, ZH_MSG_DROPPED, id, NULL);
        zh_link_serve(server);
    }
    CHECK_EQ(sent, ZH_LINK_SEGMENTS + 1);
    CHECK(view[0] == 'v' && view[4999] == 'v');
    zh_link_unref(server); /* as the runtime would; what holds keeps it */
    CHECK(view[0] == 'v' && view[4999] == 'v');
    zh_link_close(server, "end");
    zh_link_let_go(server, &first);
    CHECK(serve_until_dead(pair.client_pump, client, SECONDS(5)));
    CHECK_EQ(lent_and_not_returned(), 0);
    drop_link(&client);
    zh_segment_destroy(&segment);
    CHECK_EQ(count_maps("hostile"), maps > 1 ? maps - 1 : 0);
    discard(&block, 1);
    CHECK_EQ(arena_used(), 0);
}

/* The arena would give these pages to the next block, if it got them back too early. */
static void reuse(size_t bytes)
{
    struct zh_block next[8];

    for (int i = 0; i < 8; i++) {
        CHECK_EQ(zh_arena_alloc(arena(), bytes, true, &next[i]), 0);
        memset(next[i].data, 'z', bytes);
    }
    discard(next, 8);
}

static void serve_both(void)
{
    settle(pair.client_pump, MS(3));
    settle(pair.server_pump, MS(3));
}

/*
 * Either side closes, in either order, while one or both hold what the other has lent: the views
 * stay what they are until they are let go, and then everything comes back.
 */
static void closed_while_held(void)
{
    for (int way = 0; way < 16; way++) {
        bool reader_first = (way & 1) != 0, both_hold = (way & 2) != 0;
        bool serve_between = (way & 4) != 0, lender_lets_go_first = (way & 8) != 0;
        struct zh_link *client, *server;
        struct zh_block block, back;
        struct zh_received r, other;
        const uint8_t *view, *view_back = NULL;

        CHECK_EQ(zh_arena_alloc(arena(), 5000, true, &block), 0);
        CHECK_EQ(zh_arena_alloc(arena(), 5000, true, &back), 0);
        memset(block.data, 'v', 5000);
        memset(back.data, 'w', 5000);
        pair_link(&pair, NULL, NULL, &client, &server);
        CHECK_EQ(lend(client, &block, 1), 0);
        r = take(server);
        view = see(server, &block);
        if (both_hold) {
            struct zh_loaned loaned;
            struct zh_record header = {.kind = ZH_STATUS,
                                       .flags = ZH_HAS_MESSAGE | ZH_IMAGE | ZH_LOANED,
                                       .message_bytes = 4};
            CHECK_EQ(zh_link_lend(server, &back, 1, 9, NULL, &loaned), 0);
            CHECK_EQ(zh_link_post(server, &header, NULL, "root", &loaned, 0), 0);
            other = take(client);
            view_back = see(client, &back);
        }
        discard(&block, 1);
        discard(&back, 1);

        struct zh_link *first = reader_first ? server : client;
        struct zh_link *second = reader_first ? client : server;
        zh_link_close(first, "end");
        if (serve_between)
            CHECK(serve_until_dead(reader_first ? pair.client_pump : pair.server_pump, second,
                                   SECONDS(5)));
        zh_link_close(second, "end");
        zh_link_close(second, "again");
        zh_link_close(first, "again");
        serve_both();
        reuse(5000);
        CHECK(view[0] == 'v' && view[4999] == 'v');
        CHECK(view_back == NULL || (view_back[0] == 'w' && view_back[4999] == 'w'));
        if (both_hold && lender_lets_go_first) {
            zh_link_let_go(client, &other);
            serve_both();
            reuse(5000);
            CHECK(view[0] == 'v' && view[4999] == 'v');
        }
        zh_link_let_go(server, &r);
        serve_both();
        CHECK_EQ(loans_open(client), 0);
        if (both_hold && !lender_lets_go_first) {
            reuse(5000);
            CHECK(view_back[0] == 'w' && view_back[4999] == 'w');
            zh_link_let_go(client, &other);
            serve_both();
        }
        CHECK_EQ(loans_open(server), 0);
        CHECK(!client->lingering && !server->lingering && client->detached && server->detached);
        zh_link_unref(client);
        zh_link_unref(server);
        CHECK_EQ(arena_used(), 0);
        CHECK_EQ(lent_and_not_returned(), 0);
    }
}

/* What we have lent, and the peer's image refers to, comes back when that is let go, should the
 * peer be gone by then. */
static void lent_back(void)
{
    for (int back = 0; back < 2; back++) {
        struct zh_link *client, *server;
        struct zh_block block, found, theirs;
        uint32_t called;
        uint64_t offset;
        struct zh_loaned loaned;
        struct zh_record header = {.kind = ZH_STATUS,
                                   .flags = ZH_HAS_MESSAGE | ZH_IMAGE | ZH_LOANED |
                                            (back != 0 ? ZH_LENT_BACK : 0),
                                   .message_bytes = 4};

        build(&block, 1, 1);
        build(&theirs, 1, 1);
        pair_link(&pair, NULL, NULL, &client, &server);
        CHECK_EQ(lend(client, &block, 1), 0);
        struct zh_received request = take(server);
        const uint8_t *at = zh_link_at(server, block.segment, (uint64_t)block.page * ZH_PAGE, 1);
        CHECK(at != NULL);
        CHECK_EQ(zh_link_place(server, at, 1, &called, &offset), 0);
        CHECK(called != block.segment);
        CHECK_EQ(zh_link_share(server, called), 0);
        CHECK_EQ(zh_link_share(server, called), 0);
        CHECK_EQ(zh_link_lend(server, &theirs, 1, 9, NULL, &loaned), 0);
        CHECK_EQ(zh_link_post(server, &header, NULL, "root", &loaned, 0), 0);
        struct zh_received reply = take(client);
        discard(&block, 1);
        discard(&theirs, 1);
        CHECK_EQ(zh_link_lent(client, called, offset, 1, &found), 0);
        CHECK_EQ(zh_arena_unref(arena(), found.segment, found.page), 0);
        shutdown(server->socket, SHUT_RDWR); /* as by its death */
        CHECK(serve_until_dead(pair.client_pump, client, SECONDS(5)));
        zh_link_close(client, "end");
        CHECK_EQ(loans_open(client), back);
        reuse(5000);
        CHECK_EQ(zh_link_lent(client, called, offset, 1, &found), back != 0 ? 0 : -ENOENT);
        if (back != 0) {
            CHECK(found.data[0] == 1);
            CHECK_EQ(zh_arena_unref(arena(), found.segment, found.page), 0);
        }
        zh_link_let_go(client, &reply);
        CHECK_EQ(loans_open(client), 0);
        zh_link_close(server, "end");
        zh_link_let_go(server, &request);
        serve_both();
        zh_link_unref(client);
        zh_link_unref(server);
        CHECK_EQ(lent_and_not_returned(), 0);
        CHECK_EQ(arena_used(), 0);
    }
}

/* A segment that nobody has mapped yet when the link is closed is what has been held, too. */
static void closed_before_mapped(void)
{
    struct zh_link *client, *server;
    struct zh_block blocks[BLOCKS];

    build(blocks, BLOCKS, 3 * MIB);
    pair_link(&pair, NULL, NULL, &client, &server);
    CHECK_EQ(lend(client, blocks, BLOCKS), 0);
    struct zh_received r = take(server);
    CHECK_EQ(server->segments[0].id, 0);
    zh_link_close(server, "end");
    check_blocks(server, blocks, BLOCKS);
    zh_link_let_go(server, &r);
    drop_link(&client);
    zh_link_unref(server);
    settle(pair.client_pump, MS(5));
    discard(blocks, BLOCKS);
    CHECK_EQ(arena_used(), 0);
}

/* More announcements than one look at the socket takes. */
static void many_segments(void)
{
    struct zh_link *client, *server;
    struct zh_segment segment;
    struct zh_block block;

    CHECK_EQ(zh_arena_alloc(arena(), 100, true, &block), 0);
    CHECK_EQ(zh_segment_create(&segment, "hostile", 8192), 0);
    pair_link(&pair, NULL, NULL, &client, &server);
    for (uint32_t id = 1000; id < 1000 + 100; id++)
        announce(client, ZH_MSG_SEGMENT, id, &segment);
    CHECK_EQ(lend(client, &block, 1), 0);
    struct zh_received r = take(server);
    CHECK(see(server, &block) != NULL);
    CHECK(zh_link_at(server, 1099, 8191, 1) != NULL);
    zh_link_let_go(server, &r);
    drop_link(&client);
    drop_link(&server);
    settle(pair.client_pump, MS(5));
    zh_segment_destroy(&segment);
    discard(&block, 1);
    CHECK_EQ(arena_used(), 0);
}

static int reading_child(void *arg)
{
    uint64_t random = 7;
    (void)arg;

    struct zh_pump *pump = new_pump();
    struct zh_link *link = connect_link(pump, scratch("pair"));
    struct zh_received r;
    /* Holds what it gets, lets go of some, and lends itself, until it is killed. */
    for (int i = 0;; i++) {
        struct zh_block blocks[2];
        CHECK_EQ(zh_arena_alloc(arena(), 5000, true, &blocks[0]), 0);
        CHECK_EQ(zh_arena_alloc(arena(), 50000, true, &blocks[1]), 0);
        memset(blocks[0].data, 'c', 5000);
        memset(blocks[1].data, 'd', 50000);
        (void)lend(link, blocks, 2);
        discard(blocks, 2);
        if (next_within(pump, link, &r, MS(1)) == 1) {
            zh_link_hold(link, &r);
            zh_link_consume(link, &r);
            zh_link_flush(link);
            if (random_next(&random) % 4 != 0)
                zh_link_let_go(link, &r);
        }
    }
    return 1;
}

/* The peer is killed while each holds what the other has lent. */
static void killed_while_held(void)
{
    for (int round = 0; round < 5; round++) {
        struct zh_received held[64], r;
        const uint8_t *views[64];
        struct zh_block blocks[BLOCKS];
        uint32_t count = 0;

        pid_t child = spawn(reading_child, NULL);
        struct zh_link *link = accept_link(pair.server_pump, pair.listener, NULL, NULL);
        CHECK(link != NULL);
        build(blocks, BLOCKS, 9000);
        for (uint64_t until = zh_now() + MS(30 + 20 * round); zh_now() < until;) {
            struct zh_loaned loaned;
            struct zh_record header = {.kind = ZH_STATUS,
                                       .flags = ZH_HAS_MESSAGE | ZH_IMAGE | ZH_LOANED,
                                       .message_bytes = 4};
            if (zh_link_lend(link, blocks, BLOCKS, 9, NULL, &loaned) == 0 &&
                zh_link_post(link, &header, NULL, "root", &loaned, 0) != 0)
                zh_link_unloan(link, &loaned);
            if (next_within(pair.server_pump, link, &r, MS(1)) != 1)
                continue;
            zh_link_hold(link, &r);
            zh_link_consume(link, &r);
            zh_link_flush(link);
            if (count < 64)
                held[count++] = r;
            else
                zh_link_let_go(link, &r);
        }
        discard(blocks, BLOCKS);
        kill_child(child);
        CHECK(serve_until_dead(pair.server_pump, link, SECONDS(5)));
        zh_link_close(link, "end");
        CHECK_EQ(loans_open(link), 0);
        CHECK_EQ(lent_and_not_returned(), 0);
        CHECK_EQ(arena_used(), 0);
        /* Its arena's first segment, where all its blocks were. */
        for (uint32_t i = 0; i < count; i++) {
            views[i] = zh_link_at(link, 1, 0, 5000);
            CHECK(views[i] != NULL && (views[i][0] == 'c' || views[i][0] == 'd'));
        }
        CHECK(count > 0);
        zh_link_unref(link);
        for (uint32_t i = 0; i < count; i++)
            zh_link_let_go(link, &held[i]);
    }
}

static int forked_reader(void *arg)
{
    const uint8_t *const *views = arg;
    /* Zeros, and no fault. */
    return views[0][0] == 0 && views[0][4999] == 0 ? 0 : 1;
}

static void forked_while_held(void)
{
    struct zh_block block;
    const uint8_t *view;

    CHECK_EQ(zh_arena_alloc(arena(), 5000, true, &block), 0);
    memset(block.data, 'v', 5000);
    CHECK_EQ(lend(pair.client, &block, 1), 0);
    struct zh_received r = take(pair.server);
    view = see(pair.server, &block);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        int wrong = forked_reader(&view);
        wrong |= zh_link_at(pair.server, 77, 0, 1) != NULL;
        zh_link_let_go(pair.server, &r);
        _exit(wrong);
    }
    expect_exit(child, 0, SECONDS(10));
    CHECK(view[0] == 'v' && view[4999] == 'v');
    CHECK_EQ(loans_open(pair.client), 1);
    zh_link_let_go(pair.server, &r);
    take_returns(pair.client);
    CHECK_EQ(loans_open(pair.client), 0);
    CHECK_EQ(zh_link_state(pair.client), ZH_LINK_OPEN);
    discard(&block, 1);
}

/* A link has ended, and one side still reads: what it lets go comes back at once, the rest not. */
static void back_one_by_one(bool lender_closes, bool before)
{
    struct zh_link *client, *server;
    struct zh_block block;
    struct zh_received r[3];

    pair_link(&pair, NULL, NULL, &client, &server);
    for (int i = 0; i < 3; i++) {
        build(&block, 1, 100);
        CHECK_EQ(lend(client, &block, 1), 0);
        r[i] = take(server);
        discard(&block, 1);
    }
    struct zh_link *first = lender_closes ? client : server;
    struct zh_link *second = lender_closes ? server : client;
    if (before)
        zh_link_let_go(server, &r[0]);
    zh_link_close(first, "end");
    /* Where the lender has closed, the reader does not know yet. */
    if (!before)
        zh_link_let_go(server, &r[0]);
    CHECK(
        serve_until_dead(lender_closes ? pair.server_pump : pair.client_pump, second, SECONDS(5)));
    zh_link_close(second, "end");
    serve_both();
    CHECK_EQ(loans_open(client), 2);
    zh_link_let_go(server, &r[1]);
    serve_both();
    CHECK_EQ(loans_open(client), 1);
    CHECK(client->lingering);
    zh_link_let_go(server, &r[2]);
    serve_both();
    CHECK_EQ(loans_open(client), 0);
    CHECK(!client->lingering && client->detached && server->detached);
    zh_link_unref(client);
    zh_link_unref(server);
    CHECK_EQ(arena_used(), 0);
    CHECK_EQ(lent_and_not_returned(), 0);
}

int main(void)
{
    scratch("");
    int fds = count_fds();
    pair_open(&pair, NULL, NULL);
    several_blocks();
    unlend();
    failures();
    places();
    dropped_while_held();
    closed_while_held();
    lent_back();
    closed_before_mapped();
    for (int way = 0; way < 4; way++)
        back_one_by_one((way & 1) != 0, (way & 2) != 0);
    many_segments();
    killed_while_held();
    forked_while_held();
    pair_close(&pair);
    CHECK_EQ(arena_used(), 0);
    CHECK_EQ(lent_and_not_returned(), 0);
    struct zh_arena_usage usage;
    zh_arena_usage(arena(), &usage);
    CHECK_EQ(count_fds(), fds + (int)usage.segments);
    CHECK_EQ(count_maps("zerohop-"), usage.segments);
    return 0;
}
