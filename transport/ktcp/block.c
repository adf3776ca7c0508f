/* Blocks in which received bytes lie: counted, given back by any thread, used again. */
#include <stdlib.h>

#include "ktcp_internal.h"

_Static_assert(sizeof(struct ktcp_block) == KTCP_BLOCK_SIZE, "a block is what it says");

/* One reference less; true for the last, which then sees what all others did before. */
static bool let_go(atomic_uint *refs)
{
    return atomic_fetch_sub_explicit(refs, 1, memory_order_acq_rel) == 1;
}

struct ktcp_pool *ktcp_pool_create(void)
{
    struct ktcp_pool *pool = calloc(1, sizeof *pool);

    if (!pool)
        return NULL;
    pthread_mutex_init(&pool->lock, NULL);
    atomic_init(&pool->refs, 1);
    return pool;
}

void ktcp_pool_unref(struct ktcp_pool *pool)
{
    if (!let_go(&pool->refs))
        return;
    for (struct ktcp_block *block = pool->free_list, *next; block; block = next) {
        next = block->next;
        free(block);
    }
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

struct ktcp_hold *ktcp_hold_create(struct ktcp_pool *pool)
{
    struct ktcp_hold *hold = malloc(sizeof *hold);

    if (!hold)
        return NULL;
    atomic_fetch_add_explicit(&pool->refs, 1, memory_order_relaxed);
    hold->pool = pool;
    atomic_init(&hold->refs, 1);
    return hold;
}

void ktcp_hold_unref(struct ktcp_hold *hold)
{
    if (!let_go(&hold->refs))
        return;
    ktcp_pool_unref(hold->pool);
    free(hold);
}

struct ktcp_block *ktcp_block_get(struct ktcp_hold *hold)
{
    struct ktcp_pool *pool = hold->pool;

    pthread_mutex_lock(&pool->lock);
    struct ktcp_block *block = pool->free_list;
    if (block) {
        pool->free_list = block->next;
        pool->free_count--;
    }
    pthread_mutex_unlock(&pool->lock);
    if (!block) {
        block = aligned_alloc(KTCP_ALIGN, sizeof *block);
        if (!block)
            return NULL;
    }
    atomic_fetch_add_explicit(&hold->refs, 1, memory_order_relaxed);
    block->hold = hold;
    atomic_init(&block->refs, 1);
    return block;
}

void ktcp_block_unref(struct ktcp_block *block)
{
    if (!let_go(&block->refs))
        return;
    struct ktcp_hold *hold = block->hold;
    struct ktcp_pool *pool = hold->pool;

    pthread_mutex_lock(&pool->lock);
    bool keep = pool->free_count < KTCP_BLOCKS_KEPT;
    if (keep) {
        block->next = pool->free_list;
        pool->free_list = block;
        pool->free_count++;
    }
    pthread_mutex_unlock(&pool->lock);
    if (!keep)
        free(block);
    ktcp_hold_unref(hold);
}
