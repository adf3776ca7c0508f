/* Arenas: random work against a simple model, joining of free runs, the limit, hysteresis, threads.
 */
#include "zerohop/arena.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "harness.h"

#define MIB ((size_t)1 << 20)

static struct zh_arena_usage usage_of(struct zh_arena *arena)
{
    struct zh_arena_usage usage;
    zh_arena_usage(arena, &usage);
    return usage;
}

/* The first and the last eight bytes of a block name it; whoever overlaps it destroys them. */
static void stamp(const struct zh_block *b, uint64_t mark)
{
    memcpy(b->data, &mark, 8);
    memcpy(b->data + (size_t)b->pages * ZH_PAGE - 8, &mark, 8);
}

static void verify(const struct zh_block *b, uint64_t mark)
{
    CHECK(memcmp(b->data, &mark, 8) == 0);
    CHECK(memcmp(b->data + (size_t)b->pages * ZH_PAGE - 8, &mark, 8) == 0);
}

/* The model: who has which page of which segment. */
enum { MODEL_SEGMENTS = 4096, MODEL_BLOCKS = 400 };
struct model {
    uint8_t *pages[MODEL_SEGMENTS];
    struct {
        struct zh_block block;
        uint32_t refs;
    } blocks[MODEL_BLOCKS];
    uint64_t used;
};

static void model_mark(struct model *m, const struct zh_block *b, uint8_t from, uint8_t to)
{
    CHECK(b->segment > 0 && b->segment < MODEL_SEGMENTS);
    if (m->pages[b->segment] == NULL)
        m->pages[b->segment] = calloc(64 * MIB / ZH_PAGE, 1);
    CHECK(b->page + b->pages <= 64 * MIB / ZH_PAGE);
    for (uint32_t i = 0; i < b->pages; i++) {
        CHECK(m->pages[b->segment][b->page + i] == from);
        m->pages[b->segment][b->page + i] = to;
    }
}

static void random_work(uint64_t seed, int rounds, uint64_t limit)
{
    struct zh_arena *arena = zh_arena_create(limit);
    struct model *m = calloc(1, sizeof(*m));
    uint64_t state = seed;
    int refused = 0;

    for (int round = 0; round < rounds; round++) {
        int i = (int)(random_next(&state) % MODEL_BLOCKS);
        struct zh_block *b = &m->blocks[i].block;
        uint64_t what = random_next(&state);

        if (m->blocks[i].refs > 0 && what % 8 == 0) {
            CHECK_EQ(zh_arena_ref(arena, b->segment, b->page), 0);
            m->blocks[i].refs++;
        } else if (m->blocks[i].refs > 0) {
            verify(b, (uint64_t)i);
            if (m->blocks[i].refs == 1) {
                model_mark(m, b, 1, 0);
                m->used -= (uint64_t)b->pages * ZH_PAGE;
            }
            CHECK_EQ(zh_arena_unref(arena, b->segment, b->page), 0);
            m->blocks[i].refs--;
        } else {
            /* Mostly small, some large: a size's number of bits is what is evenly spread. */
            size_t size = (random_next(&state) % ((size_t)4096 << what % 10)) + 1;
            int error = zh_arena_alloc(arena, size, true, b);
            if (error != 0) {
                CHECK_EQ(error, -ENOMEM);
                refused++;
            } else {
                CHECK_EQ(b->pages, (size + ZH_PAGE - 1) / ZH_PAGE);
                CHECK((uintptr_t)b->data % ZH_PAGE == 0);
                model_mark(m, b, 0, 1);
                stamp(b, (uint64_t)i);
                m->blocks[i].refs = 1;
                m->used += (uint64_t)b->pages * ZH_PAGE;
            }
        }
        struct zh_arena_usage usage = usage_of(arena);
        CHECK_EQ(usage.used, m->used);
        CHECK(usage.committed <= usage.limit && usage.used <= usage.committed);
    }
    CHECK(refused > 0); /* the limit was met, else it is not tested */
    for (int i = 0; i < MODEL_BLOCKS; i++) {
        for (; m->blocks[i].refs > 0; m->blocks[i].refs--)
            CHECK_EQ(zh_arena_unref(arena, m->blocks[i].block.segment, m->blocks[i].block.page), 0);
    }
    CHECK_EQ(usage_of(arena).used, 0);
    CHECK_EQ(usage_of(arena).segments, 1);
    zh_arena_destroy(arena);
    for (int i = 0; i < MODEL_SEGMENTS; i++)
        free(m->pages[i]);
    free(m);
}

/* However a full segment is freed, its pages join into one run again. */
static void coalescing(void)
{
    enum { PAGES = 512 };
    struct zh_arena *arena = zh_arena_create(2 * MIB);
    struct zh_block blocks[PAGES], whole;
    uint64_t state = 42;

    for (int way = 0; way < 4; way++) {
        for (int i = 0; i < PAGES; i++)
            CHECK_EQ(zh_arena_alloc(arena, 1, true, &blocks[i]), 0);
        CHECK_EQ(zh_arena_alloc(arena, 1, true, &whole), -ENOMEM);
        CHECK_EQ(zh_arena_alloc(arena, 1, false, &whole), -EAGAIN);
        for (int i = PAGES - 1; i > 0; i--) {
            int j = way == 0   ? i
                    : way == 1 ? PAGES - 1 - i
                               : (int)(random_next(&state) % (uint64_t)i);
            struct zh_block swap = blocks[i];
            blocks[i] = blocks[j];
            blocks[j] = swap;
        }
        for (int i = 0; i < PAGES; i++) {
            CHECK_EQ(zh_arena_alloc(arena, 2 * MIB, false, &whole), -EAGAIN);
            CHECK_EQ(zh_arena_unref(arena, blocks[i].segment, blocks[i].page), 0);
        }
        CHECK_EQ(zh_arena_alloc(arena, 2 * MIB, false, &whole), 0);
        CHECK_EQ(whole.pages, PAGES);
        CHECK_EQ(zh_arena_unref(arena, whole.segment, whole.page), 0);
    }
    zh_arena_destroy(arena);
}

static void growing(void)
{
    struct zh_arena *arena = zh_arena_create(64 * MIB);
    struct zh_block blocks[8], big;
    int fds = count_fds();

    CHECK_EQ(usage_of(arena).segments, 0); /* nothing before the first need */
    CHECK_EQ(zh_arena_alloc(arena, 1, false, &big), -EAGAIN);
    CHECK_EQ(zh_arena_alloc(arena, 0, true, &big), -EINVAL);
    CHECK_EQ(zh_arena_alloc(arena, 64 * MIB + 1, true, &big), -EINVAL);
    CHECK_EQ(usage_of(arena).committed, 0);

    /* 2, then 4, then 8 MiB. */
    uint64_t expected = 0;
    for (int i = 0; i < 3; i++) {
        expected += (2 * MIB) << i;
        CHECK_EQ(zh_arena_alloc(arena, (2 * MIB) << i, true, &blocks[i]), 0);
        CHECK_EQ(usage_of(arena).committed, expected);
        CHECK_EQ(blocks[i].page, 0);
    }
    CHECK_EQ(count_fds(), fds + 3);

    /* A segment's descriptor while it lives. */
    size_t size = 0;
    CHECK(zh_arena_segment_fd(arena, blocks[1].segment, &size) >= 0);
    CHECK_EQ(size, 4 * MIB);
    CHECK_EQ(zh_arena_segment_fd(arena, 4711, &size), -ENOENT);

    /* One empty segment stays, the larger; the other goes back. */
    CHECK_EQ(zh_arena_unref(arena, blocks[1].segment, 0), 0);
    CHECK_EQ(usage_of(arena).committed, expected);
    CHECK_EQ(zh_arena_unref(arena, blocks[2].segment, 0), 0);
    CHECK_EQ(usage_of(arena).committed, 10 * MIB);
    CHECK_EQ(zh_arena_segment_fd(arena, blocks[1].segment, &size), -ENOENT);
    CHECK_EQ(count_fds(), fds + 2);

    /* What stays is used again, without the system, however large the block that comes and goes. */
    for (int i = 0; i < 1000; i++) {
        CHECK_EQ(zh_arena_alloc(arena, 5 * MIB, false, &big), 0);
        CHECK_EQ(big.segment, blocks[2].segment);
        CHECK_EQ(zh_arena_unref(arena, big.segment, big.page), 0);
    }
    CHECK_EQ(count_fds(), fds + 2);

    /* A segment's number never comes back. */
    CHECK_EQ(zh_arena_alloc(arena, 16 * MIB, true, &big), 0);
    CHECK(big.segment > blocks[2].segment);
    CHECK_EQ(zh_arena_unref(arena, big.segment, big.page), 0);
    CHECK_EQ(zh_arena_unref(arena, big.segment, big.page), -EINVAL);
    CHECK_EQ(usage_of(arena).committed, 18 * MIB);
    zh_arena_destroy(arena);

    /* Not so one that was made for a single huge block. */
    arena = zh_arena_create(128 * MIB);
    CHECK_EQ(zh_arena_alloc(arena, 1, true, &blocks[0]), 0);
    CHECK_EQ(zh_arena_alloc(arena, 65 * MIB, true, &big), 0);
    CHECK_EQ(zh_arena_unref(arena, blocks[0].segment, blocks[0].page), 0);
    CHECK_EQ(zh_arena_unref(arena, big.segment, big.page), 0);
    CHECK_EQ(usage_of(arena).committed, 2 * MIB);
    CHECK_EQ(zh_arena_alloc(arena, 65 * MIB, true, &big), 0);
    CHECK_EQ(zh_arena_unref(arena, big.segment, big.page), 0);
    CHECK_EQ(usage_of(arena).committed, 2 * MIB);
    zh_arena_destroy(arena);
    CHECK_EQ(count_fds(), fds);
}

static bool comes_to(struct zh_arena *arena, uint64_t committed)
{
    for (int i = 0; i < 1000 && usage_of(arena).committed != committed; i++)
        usleep(10000);
    return usage_of(arena).committed == committed;
}

/* The next segment is committed before it is needed, and not beyond the limit. */
static void ahead(void)
{
    struct zh_arena *arena = zh_arena_create(7 * MIB);
    struct zh_block a, b, c;

    CHECK_EQ(zh_arena_alloc(arena, 1, true, &a), 0);
    CHECK_EQ(zh_arena_alloc(arena, 1 * MIB, false, &b), 0);
    CHECK_EQ(usage_of(arena).committed, 2 * MIB);
    CHECK_EQ(zh_arena_alloc(arena, 640 << 10, false, &c), 0);
    CHECK(comes_to(arena, 6 * MIB));
    CHECK_EQ(zh_arena_alloc(arena, 4 * MIB, false, &c), 0);
    usleep(20000);
    CHECK_EQ(usage_of(arena).committed, 6 * MIB);
    zh_arena_destroy(arena);

    /* Nobody waits for what is on its way when the arena ends. */
    for (int i = 0; i < 50; i++) {
        arena = zh_arena_create(16 * MIB);
        CHECK_EQ(zh_arena_alloc(arena, 1, true, &a), 0);
        CHECK_EQ(zh_arena_alloc(arena, 1900 << 10, false, &b), 0);
        zh_arena_destroy(arena);
    }
}

/* Empty segments do not keep a block from the room that the limit leaves. */
static void empty_segments(void)
{
    struct zh_arena *arena = zh_arena_create(8 * MIB);
    struct zh_block b;

    CHECK_EQ(zh_arena_alloc(arena, 2 * MIB, true, &b), 0);
    CHECK_EQ(zh_arena_unref(arena, b.segment, b.page), 0);
    uint32_t given_back = zh_arena_given_back(arena);
    CHECK_EQ(zh_arena_alloc(arena, 8 * MIB, true, &b), 0);
    CHECK_EQ(zh_arena_given_back(arena), given_back + 1);
    CHECK_EQ(usage_of(arena).committed, 8 * MIB);
    zh_arena_destroy(arena);
}

/* As much as is in use stays empty for what follows, and goes when that is less. */
static void spare_segments(void)
{
    struct zh_arena *arena = zh_arena_create(30 * MIB); /* nothing is committed ahead of need */
    struct zh_block first, b, c, d, small;

    CHECK_EQ(zh_arena_alloc(arena, 2 * MIB, true, &first), 0);
    CHECK_EQ(zh_arena_alloc(arena, 4 * MIB, true, &b), 0);
    CHECK_EQ(zh_arena_alloc(arena, 8 * MIB, true, &c), 0);
    CHECK_EQ(zh_arena_alloc(arena, 15 * MIB, true, &d), 0);
    CHECK_EQ(zh_arena_alloc(arena, 1 * MIB, false, &small), 0);
    CHECK_EQ(small.segment, d.segment);
    CHECK_EQ(zh_arena_unref(arena, b.segment, b.page), 0);
    CHECK_EQ(zh_arena_unref(arena, c.segment, c.page), 0);
    CHECK_EQ(usage_of(arena).committed, 30 * MIB);
    CHECK_EQ(zh_arena_alloc(arena, 4 * MIB, false, &b), 0);
    CHECK_EQ(zh_arena_unref(arena, b.segment, b.page), 0);
    CHECK_EQ(usage_of(arena).committed, 30 * MIB);
    /* No segment runs empty, but 3 MiB are not 4. */
    CHECK_EQ(zh_arena_unref(arena, d.segment, d.page), 0);
    CHECK_EQ(usage_of(arena).committed, 26 * MIB);
    CHECK_EQ(zh_arena_unref(arena, small.segment, small.page), 0);
    CHECK_EQ(usage_of(arena).committed, 18 * MIB);
    zh_arena_destroy(arena);
}

static void references(void)
{
    struct zh_arena *arena = zh_arena_create(4 * MIB);
    struct zh_block b;

    CHECK_EQ(zh_arena_alloc(arena, 3 * ZH_PAGE, true, &b), 0);
    CHECK_EQ(zh_arena_ref(arena, b.segment, b.page + 1), -EINVAL);
    CHECK_EQ(zh_arena_unref(arena, b.segment, b.page + 1), -EINVAL);
    CHECK_EQ(zh_arena_ref(arena, b.segment, b.page + 3), -EINVAL);
    CHECK_EQ(zh_arena_ref(arena, b.segment, UINT32_MAX), -EINVAL);
    CHECK_EQ(zh_arena_unref(arena, b.segment, 512), -EINVAL);
    CHECK_EQ(zh_arena_ref(arena, b.segment + 1, b.page), -EINVAL);
    CHECK_EQ(zh_arena_ref(arena, b.segment, b.page), 0);
    CHECK_EQ(zh_arena_unref(arena, b.segment, b.page), 0);
    CHECK_EQ(usage_of(arena).used, 3 * ZH_PAGE);
    CHECK_EQ(zh_arena_unref(arena, b.segment, b.page), 0);
    CHECK_EQ(usage_of(arena).used, 0);
    CHECK_EQ(zh_arena_unref(arena, b.segment, b.page), -EINVAL);
    CHECK_EQ(usage_of(arena).used, 0);
    zh_arena_destroy(arena);
}

/* The whole limit can be had, also one that is no multiple of a first segment. */
static void limits(void)
{
    const uint64_t limits[] = {ZH_PAGE, 1 * MIB, 2 * MIB, 3 * MIB, 7 * MIB + 5 * ZH_PAGE, 10000};
    struct zh_block b, one;

    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        struct zh_arena *arena = zh_arena_create(limits[i]);
        CHECK_EQ(zh_arena_alloc(arena, limits[i] + 2 * ZH_PAGE, true, &b), -EINVAL);
        CHECK_EQ(zh_arena_alloc(arena, limits[i], true, &b), 0);
        CHECK_EQ(zh_arena_alloc(arena, 1, true, &one), -ENOMEM);
        CHECK_EQ(zh_arena_unref(arena, b.segment, b.page), 0);
        CHECK_EQ(zh_arena_alloc(arena, 1, true, &one), 0);
        zh_arena_destroy(arena);
    }
    struct zh_arena *arena = zh_arena_create(0);
    CHECK(usage_of(arena).limit > 0 && usage_of(arena).limit <= (uint64_t)1 << 30);
    zh_arena_destroy(arena);
}

enum { THREADS = 4, HELD = 16 };
struct worker {
    struct zh_arena *arena;
    uint64_t seed;
    int rounds;
};

static void *work(void *arg)
{
    struct worker *w = arg;
    struct zh_block held[HELD] = {{0}};
    uint64_t state = w->seed;

    for (int i = 0; i < w->rounds; i++) {
        struct zh_block *b = &held[random_next(&state) % HELD];
        uint64_t mark = w->seed ^ (uint64_t)(b - held);
        if (b->pages != 0) {
            verify(b, mark);
            CHECK_EQ(zh_arena_unref(w->arena, b->segment, b->page), 0);
            b->pages = 0;
        } else if (zh_arena_alloc(w->arena, random_next(&state) % (256 << 10) + 1,
                                  random_next(&state) % 2 == 0, b) == 0) {
            stamp(b, mark);
        } else {
            b->pages = 0;
        }
    }
    for (int i = 0; i < HELD; i++) {
        if (held[i].pages != 0)
            CHECK_EQ(zh_arena_unref(w->arena, held[i].segment, held[i].page), 0);
    }
    return NULL;
}

static void threads(void)
{
    struct zh_arena *arena = zh_arena_create(6 * MIB);
    pthread_t thread[THREADS];
    struct worker workers[THREADS];

    for (int i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){arena, (uint64_t)i * 7919 + 1, SANITIZED ? 20000 : 100000};
        CHECK(pthread_create(&thread[i], NULL, work, &workers[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(thread[i], NULL) == 0);
    CHECK_EQ(usage_of(arena).used, 0);
    zh_arena_destroy(arena);
}

static void domains(void)
{
    struct zh_arena *own = zh_arena_of_uid(geteuid());
    CHECK(own != NULL);
    CHECK(zh_arena_of_uid(geteuid()) == own);
    CHECK(zh_arena_of_uid(geteuid() + 1) != own);
}

/* Would a write through our mapping fault? The kernel says so without a signal. */
static bool writable(uint8_t *at)
{
    int ends[2];
    char byte = 1;

    CHECK(pipe(ends) == 0 && write(ends[1], &byte, 1) == 1);
    bool is = read(ends[0], at, 1) == 1;
    CHECK(is || errno == EFAULT);
    close(ends[0]);
    close(ends[1]);
    return is;
}

/* All of a block, from its first byte to its last, and nothing beside it. */
static void check_block(const struct zh_block *b, bool is)
{
    for (uint32_t i = 0; i < b->pages; i++) {
        CHECK(writable(b->data + (size_t)i * ZH_PAGE) == is);
        CHECK(writable(b->data + (size_t)i * ZH_PAGE + ZH_PAGE - 1) == is);
    }
}

static void protection(bool on)
{
    struct zh_block b[5];

    setenv("ZEROHOP_CHECK", on ? "1" : "0", 1);
    struct zh_arena *arena = zh_arena_create(4 * MIB);
    unsetenv("ZEROHOP_CHECK"); /* asked for when an arena is made */
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(zh_arena_alloc(arena, ((size_t)i + 1) * ZH_PAGE, true, &b[i]), 0);
        b[i].blob = i != 2;
    }
    zh_arena_protect(arena, b + 1, 3); /* of which the second is no blob */
    zh_arena_protect(arena, b + 1, 1); /* as lent once more */
    for (int i = 0; i < 5; i++)
        check_block(&b[i], !on || (i != 1 && i != 3));
    /* Until the last reference goes. */
    CHECK_EQ(zh_arena_ref(arena, b[1].segment, b[1].page), 0);
    CHECK_EQ(zh_arena_unref(arena, b[1].segment, b[1].page), 0);
    check_block(&b[1], !on);
    CHECK_EQ(zh_arena_unref(arena, b[1].segment, b[1].page), 0);
    check_block(&b[1], true);
    check_block(&b[3], !on);
    /* The next one who has these pages can write. */
    struct zh_block again;
    CHECK_EQ(zh_arena_alloc(arena, 2 * ZH_PAGE, true, &again), 0);
    CHECK_EQ(again.page, b[1].page);
    memset(again.data, 1, 2 * (size_t)ZH_PAGE);
    /* No block, or one that is gone. */
    CHECK_EQ(zh_arena_unref(arena, b[4].segment, b[4].page), 0);
    zh_arena_protect(arena, &b[4], 1);
    check_block(&b[4], true);
    zh_arena_destroy(arena);
}

int main(void)
{
    int fds = count_fds();

    references();
    growing();
    ahead();
    empty_segments();
    spare_segments();
    limits();
    coalescing();
    random_work(1, SANITIZED ? 30000 : 150000, 12 * MIB);
    random_work(2, SANITIZED ? 30000 : 150000, 40 * MIB);
    threads();
    protection(true);
    protection(false);
    CHECK_EQ(count_fds(), fds);
    CHECK_EQ(count_maps("zerohop-"), 0);
    domains();
    return 0;
}
