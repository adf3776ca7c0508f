/* The ledger of loans. */
#include "zerohop/ledger.h"

#include <errno.h>
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
    ledger->free_head = 0;
    for (uint32_t i = 0; i < ZH_LOANS; i++) {
        ledger->entries[i] = (struct zh_ledger_entry){
            .generation = 0,
            .next_free = i + 1 < ZH_LOANS ? i + 1 : NO_ENTRY,
        };
    }
}

int zh_ledger_lend(struct zh_ledger *ledger, const struct zh_block *blocks, uint32_t count,
                   uint64_t tag, struct zh_loan *loan)
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
    entry->first = (struct zh_block_place){blocks[0].segment, blocks[0].page};
    entry->more_count = count - 1;
    entry->more = more;
    entry->bytes = bytes;
    entry->tag = tag;
    entry->posted = false;
    ledger->open++;
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

    zh_arena_unref(ledger->arena, entry->first.segment, entry->first.page);
    for (uint32_t i = 0; i < entry->more_count; i++)
        zh_arena_unref(ledger->arena, entry->more[i].segment, entry->more[i].page);
    zh_stat_add(ZH_STAT_BLOCKS_RETURNED, 1 + (uint64_t)entry->more_count);
    free(entry->more);
    entry->more = NULL;
    entry->more_count = 0;
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
