/*
 * The ledger: what this process has lent on one link, in private memory. Not thread-safe by itself;
 * the link's mutex guards it.
 */
#ifndef ZEROHOP_LEDGER_H
#define ZEROHOP_LEDGER_H

#include <stdbool.h>
#include <stdint.h>

#include "zerohop/api.h"
#include "zerohop/arena.h"

#define ZH_LOANS 1024u /* loans open at once on a link; the return ring has an entry for each */

struct zh_loan {
    uint32_t id;         /* index into the ledger */
    uint32_t generation; /* guards against returns that come twice or late */
};

/* A block by its place: the first page of it in a segment. */
struct zh_block_place {
    uint32_t segment;
    uint32_t page;
};

/*
 * Something that the ledger's user keeps until a loan ends, whatever thread ends it. It is then in
 * the process's list of ended holds, for zh_holds_ended, which gives it back to its user.
 */
struct zh_hold {
    struct zh_hold *next;
    void *object;
};

struct zh_ledger_entry {
    uint32_t generation; /* odd while lent */
    uint32_t next_free;
    struct zh_block_place first;
    uint32_t count; /* blocks of the loan: `first` and those in `more` */
    struct zh_block_place *more;
    struct zh_hold *hold; /* what else must live as long as the loan, or NULL */
    uint64_t bytes;
    uint64_t tag; /* the caller's: who lent it (ZEROHOP_TRACE_LOANS) */
    bool posted;  /* the peer has it; until then it is being filled here */
};

struct zh_ledger {
    struct zh_arena *arena;
    uint64_t lent_bytes;
    uint64_t limit_bytes;
    uint32_t open;
    uint32_t holds; /* of these, such as have a hold */
    uint32_t free_head;
    struct zh_ledger_entry entries[ZH_LOANS];
};

/* `limit` bounds the bytes lent at once. */
ZH_API void zh_ledger_init(struct zh_ledger *ledger, struct zh_arena *arena, uint64_t limit);

/*
 * Enter `count` blocks as one loan, and a hold (may be NULL), which the ledger takes over; of
 * neither there need be any. The ledger takes over the caller's references to the blocks. A
 * single loan larger than the limit is allowed when nothing else is lent, so that a big message can
 * travel at all. Returns 0, -ENOBUFS (no entry free), -EDQUOT (limit of the link) or -ENOMEM.
 */
ZH_API int zh_ledger_lend(struct zh_ledger *ledger, const struct zh_block *blocks, uint32_t count,
                          uint64_t tag, struct zh_hold *hold, struct zh_loan *loan);

/* Is a block that begins at `segment`, `page` lent and posted? */
ZH_API bool zh_ledger_has(const struct zh_ledger *ledger, uint32_t segment, uint32_t page);

/* All holds that have ended since the last call, linked by `next`; the caller frees them. */
ZH_API struct zh_hold *zh_holds_ended(void);

/* The record of a loan is about to be posted: from now on the peer may return it. */
ZH_API void zh_ledger_post(struct zh_ledger *ledger, struct zh_loan loan);

/* Its owner takes back a loan that was not posted. Nothing happens to one that was. */
ZH_API void zh_ledger_unlend(struct zh_ledger *ledger, struct zh_loan loan);

/*
 * The peer gives a loan back. -EPROTO when it is unknown, was not posted yet or was returned
 * before: close the link.
 */
ZH_API int zh_ledger_return(struct zh_ledger *ledger, struct zh_loan loan);

/*
 * Take back everything that was posted: the peer is dead. What is still being filled stays lent
 * until zh_ledger_unlend, else its pages would have two writers. Returns how many loans that were.
 */
ZH_API uint32_t zh_ledger_reclaim(struct zh_ledger *ledger);

#endif
