/* The ledger of loans. */
#include "zerohop/ledger.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "failpoint.h"
#include "zerohop/stats.h"

#define NO_ENTRY UINT32_MAX

void zh_ledger_init(struct zh_ledger *ledger, struct zh_arena *arena, uint64_t limit)
{
    ledger->arena = arena;
    ledger->lent_bytes = 0;
    ledger->limit_bytes = limit;
    ledger->open = 0;
    ledger->holds = 0;
    ledger->free_head = 0;
    for (uint32_t i = 0; i < ZH_LOANS; i++) {
        ledger->entries[i] = (struct zh_ledger_entry){
            .generation = 0,
            .next_free = i + 1 < ZH_LOANS ? i + 1 : NO_ENTRY,
        };
    }
}

/* Pushed by any thread, taken as a whole. */
static _Atomic(struct zh_hold *) ended;

struct zh_hold *zh_holds_ended(void)
{
    return atomic_exchange_explicit(&ended, NULL, memory_order_acquire);
}

static void end_hold(struct zh_hold *hold)
{
    hold->next = atomic_load_explicit(&ended, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&ended, &hold->next, hold, memory_order_release,
                                                  memory_order_relaxed)) {
    }
}

int zh_ledger_lend(struct zh_ledger *ledger, const struct zh_block *blocks, uint32_t count,
                   uint64_t tag, struct zh_hold *hold, struct zh_loan *loan)
{
    struct zh_block_place *more = NULL;
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < count; i++)
        bytes += (uint64_t)blocks[i].pages * ZH_PAGE;
    if (ledger->free_head == NO_ENTRY)
        return -ENOBUFS;
    if (ledger->open > 0 && ledger->lent_bytes + bytes > ledger->limit_bytes)
        return -EDQUOT;
    if (count > 1) {
        more = malloc((count - 1) * sizeof(*more));
        if (more == NULL)
            return -ENOMEM;
        for (uint32_t i = 1; i < count; i++)
            more[i - 1] = (struct zh_block_place){blocks[i].segment, blocks[i].page};
    }

    uint32_t id = ledger->free_head;
    struct zh_ledger_entry *entry = &ledger->entries[id];
    ledger->free_head = entry->next_free;
    entry->generation++;
    entry->count = count;
    if (count > 0)
        entry->first = (struct zh_block_place){blocks[0].segment, blocks[0].page};
    entry->more = more;
    entry->hold = hold;
    entry->bytes = bytes;
    entry->tag = tag;
    entry->posted = false;
    ledger->open++;
    ledger->holds += hold != NULL;
    ledger->lent_bytes += bytes;
    loan->id = id;
    loan->generation = entry->generation;
    zh_stat_add(ZH_STAT_BLOCKS_LENT, count);
    ZH_FAILPOINT(loan_entered);
    return 0;
}

static void release(struct zh_ledger *ledger, uint32_t id)
{
    struct zh_ledger_entry *entry = &ledger->entries[id];

    for (uint32_t i = 0; i < entry->count; i++) {
        const struct zh_block_place *place = i == 0 ? &entry->first : &entry->more[i - 1];
        zh_arena_unref(ledger->arena, place->segment, place->page);
    }
    zh_stat_add(ZH_STAT_BLOCKS_RETURNED, entry->count);
    free(entry->more);
    if (entry->hold != NULL) {
        ledger->holds--;
        end_hold(entry->hold);
    }
    entry->more = NULL;
    entry->hold = NULL;
    entry->count = 0;
    ledger->lent_bytes -= entry->bytes;
    ledger->open--;
    entry->generation++;
    entry->next_free = ledger->free_head;
    ledger->free_head = id;
}

static bool is_open(const struct zh_ledger *ledger, struct zh_loan loan)
{
    return loan.id < ZH_LOANS && (loan.generation & 1) != 0 &&
           ledger->entries[loan.id].generation == loan.generation;
}

bool zh_ledger_has(const struct zh_ledger *ledger, uint32_t segment, uint32_t page)
{
    for (uint32_t id = 0; id < ZH_LOANS; id++) {
        const struct zh_ledger_entry *entry = &ledger->entries[id];
        if ((entry->generation & 1) == 0 || !entry->posted)
            continue;
        for (uint32_t i = 0; i < entry->count; i++) {
            const struct zh_block_place *place = i == 0 ? &entry->first : &entry->more[i - 1];
            if (place->segment == segment && place->page == page)
                return true;
        }
    }
    return false;
}

void zh_ledger_post(struct zh_ledger *ledger, struct zh_loan loan)
{
    if (is_open(ledger, loan))
        ledger->entries[loan.id].posted = true;
}

void zh_ledger_unlend(struct zh_ledger *ledger, struct zh_loan loan)
{
    if (is_open(ledger, loan) && !ledger->entries[loan.id].posted)
        release(ledger, loan.id);
}

int zh_ledger_return(struct zh_ledger *ledger, struct zh_loan loan)
{
    if (!is_open(ledger, loan) || !ledger->entries[loan.id].posted)
        return -EPROTO;
    release(ledger, loan.id);
    ZH_FAILPOINT(return_taken);
    return 0;
}

uint32_t zh_ledger_reclaim(struct zh_ledger *ledger)
{
    uint32_t reclaimed = 0;

    for (uint32_t i = 0; i < ZH_LOANS; i++) {
        if ((ledger->entries[i].generation & 1) != 0 && ledger->entries[i].posted) {
            release(ledger, i);
            reclaimed++;
        }
    }
    return reclaimed;
}
