/*
 * Arenas. Each segment is divided into runs of pages, free or used; boundary tags in private memory
 * let a freed run join its neighbours in constant time, and free runs hang in lists by the power of
 * two of their length, last freed first, so that warm pages are used again.
 */
#include "zerohop/arena.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "memory.h"
#include "zerohop/fork.h"

#define BINS 32
#define NONE UINT32_MAX
#define FREE_BIT 0x80000000u

struct arena_segment {
    struct zh_segment memory;
    uint32_t id;
    uint32_t pages;
    uint32_t used_pages;
    uint32_t bins_filled;  /* bit b: bins[b] is not empty */
    uint32_t bins[BINS];   /* first free run of 2^b to 2^(b+1)-1 pages */
    uint32_t *tag;         /* at the first and the last page of a run: its length, | FREE_BIT */
    uint32_t *refs;        /* at the first page of a used run: references; 0 elsewhere */
    uint32_t *next, *prev; /* at the first page of a free run: its list */
    bool *protected;       /* at the first page of a used run; NULL where nothing ever is */
};

struct zh_arena {
    pthread_mutex_t lock; /* guards all but growing; held for microseconds */
    pthread_mutex_t grow; /* one thread commits memory at a time; taken before `lock` */
    pthread_t ahead;      /* commits the next segment before it is needed; guarded by `lock` */
    bool ahead_started, ahead_runs;
    bool check; /* ZEROHOP_CHECK: lent blobs are write-protected */
    uint32_t fork_generation;
    uint64_t limit;
    uint64_t committed;
    uint64_t used;
    uint32_t next_id;
    uint32_t count;
    _Atomic uint32_t given_back;
    bool spare; /* more than one segment is empty, for now */
    struct arena_segment *segments[ZH_ARENA_SEGMENTS];
};

static uint32_t log2_floor(uint32_t n)
{
    return 31u - (uint32_t)__builtin_clz(n);
}

static void run_insert(struct arena_segment *s, uint32_t page, uint32_t pages)
{
    uint32_t bin = log2_floor(pages);

    s->tag[page] = pages | FREE_BIT;
    s->tag[page + pages - 1] = pages | FREE_BIT;
    s->prev[page] = NONE;
    s->next[page] = s->bins[bin];
    if (s->bins[bin] != NONE)
        s->prev[s->bins[bin]] = page;
    s->bins[bin] = page;
    s->bins_filled |= 1u << bin;
}

static void run_remove(struct arena_segment *s, uint32_t page, uint32_t pages)
{
    uint32_t bin = log2_floor(pages);

    if (s->prev[page] != NONE)
        s->next[s->prev[page]] = s->next[page];
    else
        s->bins[bin] = s->next[page];
    if (s->next[page] != NONE)
        s->prev[s->next[page]] = s->prev[page];
    if (s->bins[bin] == NONE)
        s->bins_filled &= ~(1u << bin);
}

static uint32_t pages_of(size_t bytes)
{
    return (uint32_t)((bytes + ZH_PAGE - 1) / ZH_PAGE);
}

/* Take `pages` pages out of a segment; NONE when no run is long enough. */
static uint32_t segment_take(struct arena_segment *s, uint32_t pages)
{
    uint32_t bin = log2_floor(pages);
    uint32_t page = NONE;

    if (s->pages - s->used_pages < pages)
        return NONE;
    for (uint32_t p = s->bins[bin]; p != NONE; p = s->next[p]) {
        if ((s->tag[p] & ~FREE_BIT) >= pages) {
            page = p;
            break;
        }
    }
    if (page == NONE && bin + 1 < BINS) {
        uint32_t larger = s->bins_filled & ~((2u << bin) - 1);
        if (larger == 0)
            return NONE;
        page = s->bins[__builtin_ctz(larger)];
    }
    if (page == NONE)
        return NONE;

    uint32_t length = s->tag[page] & ~FREE_BIT;
    run_remove(s, page, length);
    if (length > pages)
        run_insert(s, page + pages, length - pages);
    s->tag[page] = pages;
    s->tag[page + pages - 1] = pages;
    s->refs[page] = 1;
    s->used_pages += pages;
    return page;
}

static void segment_give(struct arena_segment *s, uint32_t page)
{
    uint32_t pages = s->tag[page];

    s->used_pages -= pages;
    if (page > 0 && (s->tag[page - 1] & FREE_BIT) != 0) {
        uint32_t before = s->tag[page - 1] & ~FREE_BIT;
        run_remove(s, page - before, before);
        page -= before;
        pages += before;
    }
    if (page + pages < s->pages && (s->tag[page + pages] & FREE_BIT) != 0) {
        uint32_t after = s->tag[page + pages] & ~FREE_BIT;
        run_remove(s, page + pages, after);
        pages += after;
    }
    run_insert(s, page, pages);
}

static void segment_free(struct arena_segment *s)
{
    if (s == NULL)
        return;
    zh_segment_destroy(&s->memory);
    free(s->protected);
    free(s->tag);
    free(s);
}

static struct arena_segment *segment_new(size_t size, bool check, int *error)
{
    struct arena_segment *s = calloc(1, sizeof(*s));
    uint32_t pages = (uint32_t)(size / ZH_PAGE);

    *error = -ENOMEM;
    if (s == NULL)
        return NULL;
    s->memory.fd = -1;
    s->tag = calloc((size_t)pages * 4, sizeof(uint32_t));
    if (check)
        s->protected = calloc(pages, sizeof(bool));
    if (s->tag != NULL && (s->protected != NULL || !check))
        *error = zh_segment_create(&s->memory, "zerohop-arena", size);
    if (*error != 0) {
        segment_free(s);
        return NULL;
    }
    s->refs = s->tag + pages;
    s->next = s->refs + pages;
    s->prev = s->next + pages;
    s->pages = pages;
    memset(s->bins, 0xff, sizeof(s->bins));
    run_insert(s, 0, pages);
    return s;
}

static struct arena_segment *find(struct zh_arena *arena, uint32_t id)
{
    for (uint32_t i = 0; i < arena->count; i++) {
        if (arena->segments[i]->id == id)
            return arena->segments[i];
    }
    return NULL;
}

uint64_t zh_arena_default_limit(void)
{
    const char *text = getenv("ZEROHOP_ARENA_LIMIT");
    char *end;

    if (text != NULL && text[0] >= '0' && text[0] <= '9') {
        uint64_t given = strtoull(text, &end, 10);
        if (*end == '\0' && given > 0)
            return given;
    }
    uint64_t available = zh_memory_available();
    uint64_t limit = (uint64_t)1 << 30;
    if (available != UINT64_MAX && available / 8 < limit)
        limit = available / 8;
    return limit;
}

struct zh_arena *zh_arena_create(uint64_t limit)
{
    struct zh_arena *arena = calloc(1, sizeof(*arena));
    if (arena == NULL)
        return NULL;
    pthread_mutex_init(&arena->lock, NULL);
    pthread_mutex_init(&arena->grow, NULL);
    /* Whole pages, so that a block as large as the limit can be had. */
    arena->limit = (limit != 0 ? limit : zh_arena_default_limit()) + ZH_PAGE - 1;
    arena->limit -= arena->limit % ZH_PAGE;
    const char *check = getenv("ZEROHOP_CHECK");
    arena->check = check != NULL && strcmp(check, "1") == 0;
    arena->next_id = 1;
    arena->fork_generation = zh_fork_now();
    return arena;
}

bool zh_arena_inherited(const struct zh_arena *arena)
{
    return arena != NULL && arena->fork_generation != zh_fork_now();
}

void zh_arena_destroy(struct zh_arena *arena)
{
    if (arena == NULL)
        return;
    if (arena->ahead_started)
        pthread_join(arena->ahead, NULL);
    for (uint32_t i = 0; i < arena->count; i++)
        segment_free(arena->segments[i]);
    pthread_mutex_destroy(&arena->lock);
    pthread_mutex_destroy(&arena->grow);
    free(arena);
}

/* Take from the segments that are there, oldest first, so that younger ones run empty. */
static int take(struct zh_arena *arena, uint32_t pages, struct zh_block *block)
{
    for (uint32_t i = 0; i < arena->count; i++) {
        struct arena_segment *s = arena->segments[i];
        uint32_t page = segment_take(s, pages);
        if (page != NONE) {
            arena->used += (uint64_t)pages * ZH_PAGE;
            *block = (struct zh_block){
                .segment = s->id,
                .page = page,
                .pages = pages,
                .data = s->memory.base + (size_t)page * ZH_PAGE,
            };
            return 0;
        }
    }
    return -EAGAIN;
}

/* The size of the next segment for a block of `bytes` bytes, or 0 when the limit forbids it. */
static size_t next_size(struct zh_arena *arena, size_t bytes)
{
    size_t size = ZH_ARENA_FIRST_SEGMENT;
    size_t need = (bytes + ZH_ARENA_FIRST_SEGMENT - 1) & ~(ZH_ARENA_FIRST_SEGMENT - 1);

    if (arena->count > 0) {
        size = arena->segments[arena->count - 1]->memory.size * 2;
        if (size > ZH_ARENA_LARGEST_SEGMENT)
            size = ZH_ARENA_LARGEST_SEGMENT;
    }
    if (size < need)
        size = need;
    if (arena->committed + size > arena->limit)
        size = need;
    if (arena->committed + size > arena->limit)
        size = pages_of(bytes) * (size_t)ZH_PAGE;
    if (arena->committed + size > arena->limit || arena->count == ZH_ARENA_SEGMENTS)
        return 0;
    return size;
}

/* With the lock held: take a segment out, for segment_free to give it back to the system. */
static struct arena_segment *take_out(struct zh_arena *arena, uint32_t at)
{
    struct arena_segment *s = arena->segments[at];

    atomic_fetch_add_explicit(&arena->given_back, 1, memory_order_relaxed);
    arena->committed -= s->memory.size;
    arena->count--;
    memmove(&arena->segments[at], &arena->segments[at + 1],
            (arena->count - at) * sizeof(arena->segments[0]));
    return s;
}

/* With `grow` held: add a segment of `bytes`, and take `pages` of it, if any, before others do. */
static int commit(struct zh_arena *arena, size_t bytes, uint32_t pages, struct zh_block *block)
{
    struct arena_segment *s = NULL;
    int error = -ENOMEM;

    /* The kernel does not bound fallocate on a memfd: asking for what is not there gets processes
     * killed, so look first, and leave as much again for everybody else. */
    if (bytes != 0 && zh_memory_available() / 2 >= bytes)
        s = segment_new(bytes, arena->check, &error);
    if (s == NULL)
        return error;
    pthread_mutex_lock(&arena->lock);
    s->id = arena->next_id++;
    arena->segments[arena->count++] = s;
    arena->committed += bytes;
    error = pages == 0 ? 0 : take(arena, pages, block);
    pthread_mutex_unlock(&arena->lock);
    return error;
}

/*
 * Hysteresis: of the empty segments one stays, the largest that an arena makes of itself, so that a
 * block that comes and goes does not take its segment along each time; and of the others as much as
 * is in use, for what comes as the next of its kind when that goes. With the lock held: take out
 * one to give back to the system; NULL when there is none.
 */
static struct arena_segment *surplus(struct zh_arena *arena)
{
    uint32_t keep = NONE, give = NONE;
    uint64_t empty = 0;

    for (uint32_t i = 0; i < arena->count; i++) {
        const struct arena_segment *s = arena->segments[i];
        if (s->used_pages != 0)
            continue;
        empty += s->memory.size;
        if (keep == NONE) {
            keep = i;
            continue;
        }
        size_t kept = arena->segments[keep]->memory.size;
        bool larger = s->memory.size > kept && s->memory.size <= ZH_ARENA_LARGEST_SEGMENT;
        if (larger || kept > ZH_ARENA_LARGEST_SEGMENT) {
            give = keep;
            keep = i;
        } else {
            give = i;
        }
    }
    arena->spare = give != NONE && empty - arena->segments[keep]->memory.size <= arena->used;
    return give == NONE || arena->spare ? NULL : take_out(arena, give);
}

/* Give back all that is too much. */
static void trim(struct zh_arena *arena)
{
    struct arena_segment *empty;

    do {
        pthread_mutex_lock(&arena->lock);
        empty = surplus(arena);
        pthread_mutex_unlock(&arena->lock);
        segment_free(empty);
    } while (empty != NULL);
}

/* With the lock held: is so little left that the next segment should be on its way? */
static bool wants_ahead(const struct zh_arena *arena)
{
    return arena->committed > 0 && arena->committed - arena->used < arena->committed / 4;
}

static void *commit_ahead(void *context)
{
    struct zh_arena *arena = context;

    pthread_mutex_lock(&arena->grow);
    pthread_mutex_lock(&arena->lock);
    size_t bytes = wants_ahead(arena) ? next_size(arena, 1) : 0;
    pthread_mutex_unlock(&arena->lock);
    /* Near the limit only what is asked for is committed. */
    if (bytes >= ZH_ARENA_FIRST_SEGMENT)
        (void)commit(arena, bytes, 0, NULL);
    trim(arena); /* others may have emptied theirs meanwhile */
    pthread_mutex_lock(&arena->lock);
    arena->ahead_runs = false;
    pthread_mutex_unlock(&arena->lock);
    pthread_mutex_unlock(&arena->grow);
    return NULL;
}

/* With the lock held: have another thread commit the next segment, so that no call waits for it. */
static void start_ahead(struct zh_arena *arena)
{
    sigset_t all, before;

    if (arena->ahead_runs || !wants_ahead(arena) || next_size(arena, 1) < ZH_ARENA_FIRST_SEGMENT)
        return;
    if (arena->ahead_started)
        pthread_join(arena->ahead, NULL); /* it has nothing left to do */
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before); /* signals are Python's main thread's */
    arena->ahead_started = pthread_create(&arena->ahead, NULL, commit_ahead, arena) == 0;
    arena->ahead_runs = arena->ahead_started;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int zh_arena_alloc(struct zh_arena *arena, size_t size, bool grow, struct zh_block *block)
{
    struct arena_segment *empty[ZH_ARENA_SEGMENTS];
    uint32_t count = 0;

    if (size == 0 || size > arena->limit)
        return -EINVAL;

    uint32_t pages = pages_of(size);
    pthread_mutex_lock(&arena->lock);
    int error = take(arena, pages, block);
    if (error == 0)
        start_ahead(arena);
    pthread_mutex_unlock(&arena->lock);
    if (error == 0 || !grow)
        return error;

    pthread_mutex_lock(&arena->grow);
    /* Whoever held `grow` before us may have made room. */
    pthread_mutex_lock(&arena->lock);
    error = take(arena, pages, block);
    size_t bytes = error == 0 ? 0 : next_size(arena, size);
    /* Empty segments that are too small give their room to one that is not. */
    for (uint32_t i = arena->count; error != 0 && bytes == 0 && i-- > 0;) {
        if (arena->segments[i]->used_pages != 0)
            continue;
        empty[count++] = take_out(arena, i);
        bytes = next_size(arena, size);
    }
    pthread_mutex_unlock(&arena->lock);
    while (count > 0)
        segment_free(empty[--count]);
    if (error != 0)
        error = commit(arena, bytes, pages, block);
    pthread_mutex_unlock(&arena->grow);
    return error;
}

int zh_arena_ref(struct zh_arena *arena, uint32_t segment, uint32_t page)
{
    int error = -EINVAL;

    pthread_mutex_lock(&arena->lock);
    struct arena_segment *s = find(arena, segment);
    if (s != NULL && page < s->pages && s->refs[page] > 0) {
        s->refs[page]++;
        error = 0;
    }
    pthread_mutex_unlock(&arena->lock);
    return error;
}

static int protect(const struct arena_segment *s, uint32_t page, int how)
{
    return mprotect(s->memory.base + (size_t)page * ZH_PAGE, (size_t)s->tag[page] * ZH_PAGE, how);
}

static void unprotect(struct arena_segment *s, uint32_t page)
{
    s->protected[page] = false;
    if (protect(s, page, PROT_READ | PROT_WRITE) == 0)
        return;
    /* No room for one mapping more (vm.max_map_count). As one, the segment needs less than now. */
    if (mprotect(s->memory.base, s->memory.size, PROT_READ | PROT_WRITE) != 0)
        abort();
    memset(s->protected, 0, s->pages * sizeof(bool));
}

void zh_arena_protect(struct zh_arena *arena, const struct zh_block *blocks, uint32_t count)
{
    if (!arena->check)
        return;
    pthread_mutex_lock(&arena->lock);
    for (uint32_t i = 0; i < count; i++) {
        struct arena_segment *s = blocks[i].blob ? find(arena, blocks[i].segment) : NULL;
        uint32_t page = blocks[i].page;
        if (s == NULL || page >= s->pages || s->refs[page] == 0 || s->protected[page])
            continue;
        /* Where it cannot be done, it is one check less. */
        s->protected[page] = protect(s, page, PROT_READ) == 0;
    }
    pthread_mutex_unlock(&arena->lock);
}

int zh_arena_unref(struct zh_arena *arena, uint32_t segment, uint32_t page)
{
    bool less = false;

    pthread_mutex_lock(&arena->lock);
    struct arena_segment *s = find(arena, segment);
    if (s == NULL || page >= s->pages || s->refs[page] == 0) {
        pthread_mutex_unlock(&arena->lock);
        return -EINVAL;
    }
    if (--s->refs[page] == 0) {
        if (s->protected != NULL && s->protected[page])
            unprotect(s, page);
        arena->used -= (uint64_t)s->tag[page] * ZH_PAGE;
        segment_give(s, page);
        less = s->used_pages == 0 || arena->spare;
    }
    pthread_mutex_unlock(&arena->lock);
    if (less)
        trim(arena);
    return 0;
}

int zh_arena_find(struct zh_arena *arena, uint32_t segment, uint64_t offset, struct zh_block *block)
{
    int error = -ENOENT;

    pthread_mutex_lock(&arena->lock);
    struct arena_segment *s = find(arena, segment);
    if (s != NULL && offset / ZH_PAGE < s->pages) {
        uint32_t page = (uint32_t)(offset / ZH_PAGE);
        /* References are counted at a block's first page. */
        while (page > 0 && s->refs[page] == 0)
            page--;
        if (s->refs[page] > 0 && offset / ZH_PAGE - page < s->tag[page]) {
            *block = (struct zh_block){
                .segment = segment,
                .page = page,
                .pages = s->tag[page],
                .data = s->memory.base + (size_t)page * ZH_PAGE,
            };
            error = 0;
        }
    }
    pthread_mutex_unlock(&arena->lock);
    return error;
}

int zh_arena_segment_fd(struct zh_arena *arena, uint32_t segment, size_t *size)
{
    int fd = -ENOENT;

    pthread_mutex_lock(&arena->lock);
    struct arena_segment *s = find(arena, segment);
    if (s != NULL) {
        fd = s->memory.fd;
        *size = s->memory.size;
    }
    pthread_mutex_unlock(&arena->lock);
    return fd;
}

uint32_t zh_arena_given_back(struct zh_arena *arena)
{
    return atomic_load_explicit(&arena->given_back, memory_order_relaxed);
}

void zh_arena_usage(struct zh_arena *arena, struct zh_arena_usage *usage)
{
    pthread_mutex_lock(&arena->lock);
    *usage = (struct zh_arena_usage){
        .limit = arena->limit,
        .committed = arena->committed,
        .used = arena->used,
        .segments = arena->count,
    };
    pthread_mutex_unlock(&arena->lock);
}

/* The process's arenas by uid of the peers. A handful of entries, never removed. */
struct domain {
    struct domain *next;
    struct zh_arena *arena;
    uint32_t uid;
    uint32_t fork_generation;
};

static struct domain *domains; /* guarded by zh_fork_lock: a fork finds it whole */

struct zh_arena *zh_arena_of_uid(uint32_t uid)
{
    struct zh_arena *arena = NULL;

    zh_fork_lock();
    for (struct domain *d = domains; d != NULL; d = d->next) {
        if (d->uid == uid && d->fork_generation == zh_fork_now())
            arena = d->arena;
    }
    if (arena == NULL) {
        struct domain *d = calloc(1, sizeof(*d));
        if (d != NULL)
            d->arena = zh_arena_create(0);
        if (d != NULL && d->arena != NULL) {
            d->uid = uid;
            d->fork_generation = zh_fork_now();
            d->next = domains;
            domains = d;
            arena = d->arena;
        } else {
            free(d);
        }
    }
    zh_fork_unlock();
    return arena;
}
