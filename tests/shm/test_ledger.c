/* The ledger: what comes back must have been lent, once; quota; reclaim. */
#include "zerohop/ledger.h"

#include <errno.h>

#include "check.h"
#include "harness.h"
#include "zerohop/stats.h"

static struct zh_arena *arena;
static struct zh_ledger ledger;

static uint64_t used(void)
{
    struct zh_arena_usage usage;
    zh_arena_usage(arena, &usage);
    return usage.used;
}

static int lend(size_t bytes, struct zh_loan *loan)
{
    struct zh_block block;
    CHECK_EQ(zh_arena_alloc(arena, bytes, true, &block), 0);
    int error = zh_ledger_lend(&ledger, &block, 1, 7, NULL, loan);
    if (error != 0)
        CHECK_EQ(zh_arena_unref(arena, block.segment, block.page), 0);
    else
        CHECK_EQ(ledger.entries[loan->id].tag, 7);
    return error;
}

static int lend_and_post(size_t bytes, struct zh_loan *loan)
{
    int error = lend(bytes, loan);
    if (error == 0)
        zh_ledger_post(&ledger, *loan);
    return error;
}

static void returns(void)
{
    struct zh_loan a, b, c;

    zh_ledger_init(&ledger, arena, 1 << 20);
    CHECK_EQ(lend_and_post(1, &a), 0);
    CHECK_EQ(lend_and_post(5000, &b), 0);
    CHECK_EQ(ledger.open, 2);
    CHECK_EQ(ledger.lent_bytes, 3 * ZH_PAGE);
    CHECK_EQ(used(), 3 * ZH_PAGE);
    CHECK(a.id != b.id && (a.generation & 1) == 1);

    CHECK_EQ(zh_ledger_return(&ledger, a), 0);
    CHECK_EQ(used(), 2 * ZH_PAGE);
    CHECK_EQ(zh_ledger_return(&ledger, a), -EPROTO); /* twice */
    CHECK_EQ(zh_ledger_return(&ledger, (struct zh_loan){a.id, a.generation + 1}), -EPROTO);
    CHECK_EQ(zh_ledger_return(&ledger, (struct zh_loan){b.id, b.generation + 2}), -EPROTO);
    CHECK_EQ(zh_ledger_return(&ledger, (struct zh_loan){ZH_LOANS, 1}), -EPROTO);
    CHECK_EQ(zh_ledger_return(&ledger, (struct zh_loan){UINT32_MAX, 1}), -EPROTO);
    CHECK_EQ(zh_ledger_return(&ledger, (struct zh_loan){a.id + b.id + 1, 0}), -EPROTO);
    CHECK_EQ(zh_ledger_return(&ledger, (struct zh_loan){a.id + b.id + 1, 1}), -EPROTO);
    CHECK_EQ(ledger.open, 1);
    CHECK_EQ(ledger.lent_bytes, 2 * ZH_PAGE);

    /* The entry is used again under another generation: a late return of the first is refused. */
    CHECK_EQ(lend_and_post(1, &c), 0);
    CHECK_EQ(c.id, a.id);
    CHECK(c.generation != a.generation);
    CHECK_EQ(zh_ledger_return(&ledger, a), -EPROTO);
    CHECK_EQ(used(), 3 * ZH_PAGE);
    CHECK_EQ(zh_ledger_return(&ledger, c), 0);
    CHECK_EQ(zh_ledger_return(&ledger, b), 0);
    CHECK_EQ(ledger.open, 0);
    CHECK_EQ(used(), 0);
}

static void quota(void)
{
    struct zh_loan a, b;

    zh_ledger_init(&ledger, arena, 10 * ZH_PAGE);
    CHECK_EQ(lend_and_post(6 * ZH_PAGE, &a), 0);
    CHECK_EQ(lend_and_post(5 * ZH_PAGE, &b), -EDQUOT);
    CHECK_EQ(lend_and_post(4 * ZH_PAGE, &b), 0);
    CHECK_EQ(lend_and_post(1, &b), -EDQUOT);
    CHECK_EQ(zh_ledger_reclaim(&ledger), 2);
    CHECK_EQ(ledger.lent_bytes, 0);

    /* One loan over the limit, when it is alone. */
    CHECK_EQ(lend_and_post(20 * ZH_PAGE, &a), 0);
    CHECK_EQ(lend_and_post(1, &b), -EDQUOT);
    CHECK_EQ(zh_ledger_return(&ledger, a), 0);
    CHECK_EQ(lend_and_post(1, &a), 0);
    CHECK_EQ(lend_and_post(20 * ZH_PAGE, &b), -EDQUOT);
    CHECK_EQ(zh_ledger_return(&ledger, a), 0);
    CHECK_EQ(used(), 0);
}

static void exhaustion(void)
{
    static struct zh_loan loans[ZH_LOANS];
    struct zh_loan more;

    zh_ledger_init(&ledger, arena, UINT64_MAX);
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < ZH_LOANS; i++)
            CHECK_EQ(lend_and_post(1, &loans[i]), 0);
        CHECK_EQ(lend_and_post(1, &more), -ENOBUFS);
        CHECK_EQ(ledger.open, ZH_LOANS);
        for (uint32_t i = 0; i < ZH_LOANS; i++)
            CHECK_EQ(zh_ledger_return(&ledger, loans[(i * 7 + round) % ZH_LOANS]), 0);
        CHECK_EQ(ledger.open, 0);
        CHECK_EQ(used(), 0);
    }
}

/* What is lent but not posted is still being written: neither a return nor a reclaim frees it. */
static void unposted(void)
{
    struct zh_loan building, posted;

    zh_ledger_init(&ledger, arena, 1 << 20);
    CHECK_EQ(lend(1, &building), 0);
    CHECK_EQ(lend_and_post(1, &posted), 0);
    CHECK_EQ(zh_ledger_return(&ledger, building), -EPROTO);
    CHECK_EQ(zh_ledger_reclaim(&ledger), 1);
    CHECK_EQ(ledger.open, 1);
    CHECK_EQ(used(), ZH_PAGE);
    zh_ledger_unlend(&ledger, posted); /* taken back already: nothing happens */
    CHECK_EQ(ledger.open, 1);
    zh_ledger_unlend(&ledger, building);
    CHECK_EQ(ledger.open, 0);
    CHECK_EQ(used(), 0);
    zh_ledger_unlend(&ledger, building);
    CHECK_EQ(ledger.open, 0);

    /* Once posted it is the peer's, and not to be taken back. */
    CHECK_EQ(lend_and_post(1, &posted), 0);
    zh_ledger_unlend(&ledger, posted);
    CHECK_EQ(ledger.open, 1);
    CHECK_EQ(zh_ledger_return(&ledger, posted), 0);
    CHECK_EQ(used(), 0);
}

int main(void)
{
    struct zh_stats_snapshot stats;

    arena = zh_arena_create(32 << 20);
    CHECK(arena != NULL);
    returns();
    quota();
    exhaustion();
    unposted();
    zh_stats_read(&stats);
    CHECK(stats.blocks_lent > 3 * ZH_LOANS);
    CHECK_EQ(stats.blocks_lent, stats.blocks_returned);
    zh_arena_destroy(arena);
    return 0;
}
