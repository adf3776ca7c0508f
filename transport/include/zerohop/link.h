/*
 * Links: two processes, a ring each way, the loans between them, and the socket that carries the
 * handshake and memory descriptors. Calls run from the connecting side (client) to the accepting
 * one.
 *
 * Threads: zh_link_loan, zh_link_post, zh_link_give_back and zh_link_credit may be called by any
 * thread (they take the link's mutex, hold it for microseconds and never call back). zh_link_next,
 * zh_link_consume, zh_link_next_return and zh_link_serve are for one thread at a time: the one that
 * holds the pump. zh_link_close and zh_link_unref from any thread.
 */
#ifndef ZEROHOP_LINK_H
#define ZEROHOP_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "zerohop/api.h"
#include "zerohop/ledger.h"
#include "zerohop/pump.h"
#include "zerohop/record.h"

#define ZH_AGENT_BYTES 256

struct zh_link;

enum zh_link_state {
    ZH_LINK_GREETING = 1, /* accepted, the client's hello has not come */
    ZH_LINK_OPEN,
    ZH_LINK_DEAD, /* the peer is gone, misbehaved, or zh_link_close was called */
};

/* What a side says of itself, and of whom it will talk to. */
struct zh_link_options {
    const char *agent;          /* user agent of the client; at most 255 bytes */
    const uint32_t *allow_uids; /* further uids that may link with us */
    size_t allow_uids_count;
    uint64_t lend_limit; /* bytes lent at once on the link; 0: a quarter of the arena's limit */
};

struct zh_link_info {
    pid_t pid; /* as seen from here; 0 when it is not visible (pid namespaces) */
    uid_t uid;
    uint32_t state;
    uint32_t loans_open;
    uint64_t lent_bytes;
    uint32_t holds;    /* of these loans, such as hold something (zh_hold) */
    const char *agent; /* the peer's; lives as long as the link */
    const char *error; /* why the link is dead; "" while it is not */
};

/* A record, copied to private memory and checked. The pointers lead into the peer's memory: copy
 * from them once, before zh_link_consume. */
struct zh_received {
    struct zh_record header;
    const uint8_t *metadata; /* header.metadata_bytes */
    const uint8_t *message;  /* header.message_bytes; NULL without ZH_HAS_MESSAGE */
    bool loaned;             /* give the loan back when both have been read */
};

/* A block that is being filled for one record. */
struct zh_loaned {
    struct zh_loan loan;
    struct zh_block block;
};

/*
 * Connect to the socket at `path` and greet, within `timeout` ns. Blocks: call without the GIL.
 * On failure returns NULL, `*error` a negative errno and `why` (of `room` bytes) a sentence for the
 * user.
 */
ZH_API struct zh_link *zh_link_connect(struct zh_pump *pump, const char *path,
                                       const struct zh_link_options *options, int64_t timeout,
                                       int *error, char *why, size_t room);

/* Bind and listen. Replaces a socket file that nobody listens on. Returns a descriptor, to be
 * closed with zh_fork_close_fd, or -errno. */
ZH_API int zh_link_listen(const char *path, mode_t mode, char *why, size_t room);

/*
 * Accept one connection of a listening socket and start the greeting; does not block. The link's
 * socket is in `pump` from now on: call zh_link_serve when it has events, until its state is
 * ZH_LINK_OPEN. Returns NULL with `*error` -EAGAIN when there is none.
 */
ZH_API struct zh_link *zh_link_accept(struct zh_pump *pump, int listener,
                                      const struct zh_link_options *options, int *error);

/* Read and act on what the socket or the pidfd has: greeting, segments, death. True when there may
 * be more: a call's share is bounded. */
ZH_API bool zh_link_serve(struct zh_link *link);

/* The time by which an accepted link must have been greeted: serve it then. */
ZH_API uint64_t zh_link_greeted_by(const struct zh_link *link);

ZH_API uint32_t zh_link_state(const struct zh_link *link);
ZH_API uint64_t zh_link_key(const struct zh_link *link);
ZH_API void zh_link_info(struct zh_link *link, struct zh_link_info *info);

/* Is there a record, a return or, where zh_link_want asked for it, space? */
ZH_API bool zh_link_ready(const struct zh_link *link);

/*
 * Borrow `bytes` of the arena for one record to this peer. `grow`: see zh_arena_alloc.
 * Returns 0, -EAGAIN (grow first), -ENOMEM, -EDQUOT, -ENOBUFS (exhausted: wait for returns),
 * -EPIPE (link dead) or -EINVAL (can never fit).
 */
ZH_API int zh_link_loan(struct zh_link *link, size_t bytes, bool grow, uint64_t tag,
                        struct zh_loaned *loaned);
/*
 * Lend blocks of the link's own arena (see zh_link_arena), `count` of them as one loan, each with
 * one reference more; the caller keeps its own. `hold`: what else must live until the loan ends, or
 * NULL; taken over. For zh_link_post with ZH_LOANED. Returns as zh_link_loan, and -EINVAL for what
 * is no block of that arena; then the hold is still the caller's.
 */
ZH_API int zh_link_lend(struct zh_link *link, const struct zh_block *blocks, uint32_t count,
                        uint64_t tag, struct zh_hold *hold, struct zh_loaned *loaned);
ZH_API struct zh_arena *zh_link_arena(const struct zh_link *link);
/*
 * Have this peer read memory that we hold (zh_link_hold) and have not lent: its own, or another
 * peer's. `segment` is what zh_link_place says. To be called before what refers to it is posted.
 * Returns 0, -ENOENT where it must be copied (another user id, or too far from its owner), -ENOBUFS
 * or -EPIPE.
 */
ZH_API int zh_link_share(struct zh_link *link, uint32_t segment);

/*
 * Keep the block of a loan that is being filled from being used again, should the link end
 * meanwhile; `false` ends that. To be called before anything that could end the link.
 */
ZH_API void zh_link_pin(struct zh_link *link, const struct zh_loaned *loaned, bool on);
/* Take back a loan that was not posted, also when the link is dead by now: until then its block is
 * the caller's to write. */
ZH_API void zh_link_unloan(struct zh_link *link, struct zh_loaned *loaned);

/*
 * Post a record. metadata_bytes, message_bytes, flags, kind, method, call and deadline of `header`
 * are the caller's; with a `loaned` block its bytes are in there already (as the flags say), else
 * they are copied into the ring from `metadata` and `message`. `keep` slots stay free afterwards
 * for records that must not wait. Returns 0, -EAGAIN (ring full), -EMSGSIZE (does not fit inline)
 * or -EPIPE.
 */
ZH_API int zh_link_post(struct zh_link *link, const struct zh_record *header, const void *metadata,
                        const void *message, const struct zh_loaned *loaned, uint32_t keep);

/* Ask the peer to ring when it frees slots or returns something; `false` ends that. Try once more
 * after asking, and after every bell. */
ZH_API void zh_link_want(struct zh_link *link, uint32_t want, bool on);

/*
 * Look at the next record: 1 when `received` is filled, 0 when there is none, -EPROTO when the peer
 * broke the rules (the link is dead now), -EPIPE when the link is dead and drained.
 */
ZH_API int zh_link_next(struct zh_link *link, struct zh_received *received);
/*
 * Done with the record: the pointers of zh_received are invalid. The slots go back to the peer in
 * batches; call zh_link_flush after the last one.
 */
ZH_API void zh_link_consume(struct zh_link *link, const struct zh_received *received);
ZH_API void zh_link_flush(struct zh_link *link);
/* Return the loan of a record. */
ZH_API void zh_link_give_back(struct zh_link *link, const struct zh_received *received);

/*
 * Keep what a record refers to after zh_link_consume: the loan and the peer's segments stay, also
 * when the link is closed or the peer gone; so does what we have lent, if the record refers to it.
 * The record is let go in place of zh_link_give_back. NULL for one whose loan is another's. To be
 * called by whoever may call zh_link_next, or under the same lock; while something is held, so is
 * zh_link_close.
 */
ZH_API void zh_link_hold(struct zh_link *link, const struct zh_received *received);
ZH_API void zh_link_let_go(struct zh_link *link, const struct zh_received *received);
/*
 * Memory of our own that the peer refers to, since we have lent it to it: the block around `offset`
 * in what the peer calls `segment`, with a reference for the caller (zh_arena_unref). -ENOENT where
 * that is not lent on this link, or `bytes` are more than the block has.
 */
ZH_API int zh_link_lent(struct zh_link *link, uint32_t segment, uint64_t offset, uint64_t bytes,
                        struct zh_block *block);
/* What we have shown as which the peer calls `segment`: of our arena, or handed on; 0 for others.
 */
ZH_API uint32_t zh_link_yours(struct zh_link *link, uint32_t segment);
/* Where `data` lies, which zh_link_at has given: `segment` is the number under which it can be
 * handed on (zh_link_share). 0 or -ENOENT, as for all of another user id. */
ZH_API int zh_link_place(struct zh_link *link, const uint8_t *data, size_t bytes, uint32_t *segment,
                         uint64_t *offset);
/* `bytes` (at least 1) in a segment that the peer has shown; NULL where they are not, and for our
 * own (zh_link_lent). Whose memory it is may change it. Valid while a record is held. */
ZH_API const uint8_t *zh_link_at(struct zh_link *link, uint32_t segment, uint64_t offset,
                                 uint64_t bytes);

/* Give the peer credit for `bytes` more of a call's stream. 0, -EAGAIN (no entry: later) or -EPIPE.
 */
ZH_API int zh_link_credit(struct zh_link *link, uint64_t call, uint32_t bytes);
/* Take back returned loans; 1 when `credit` has a credit entry, 0 when there is none, -EPROTO. */
ZH_API int zh_link_next_return(struct zh_link *link, struct zh_return *credit);

/*
 * Walk the open loans (leak finder): `each` gets every entry, under the link's mutex.
 */
ZH_API void zh_link_loans(struct zh_link *link,
                          void (*each)(void *context, const struct zh_ledger_entry *entry),
                          void *context);

/* The peer broke a rule that only the caller knows: dead at once, loans come back. */
ZH_API void zh_link_fail(struct zh_link *link, const char *why);

/*
 * End the link in order, with a reason (copied), or, when the peer has ended it, leave the pump.
 * What is still lent stays the peer's until it has ended its side; what is held stays ours until it
 * is let go. Idempotent.
 */
ZH_API void zh_link_close(struct zh_link *link, const char *why);

ZH_API void zh_link_ref(struct zh_link *link);
/* The last reference unmaps and frees. The link must be closed. */
ZH_API void zh_link_unref(struct zh_link *link);

#endif
