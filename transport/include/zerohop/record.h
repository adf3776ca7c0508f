/*
 * Records: what travels in a ring. A record is 1 to 32 contiguous slots of 128 bytes: this header,
 * then metadata, then the message, if they fit; what does not goes into one arena block that the
 * header names. Both sides are the same build on the same machine: native byte order and alignment.
 */
#ifndef ZEROHOP_RECORD_H
#define ZEROHOP_RECORD_H

#include <stdint.h>

#define ZH_SLOT 128u
#define ZH_RING_SLOTS 1024u
#define ZH_RECORD_SLOTS                                                                            \
    32u /* at most, so that one record never needs more than 4 KiB in one piece */
#define ZH_RECORD_ROOM (ZH_RECORD_SLOTS * ZH_SLOT - 64u)
#define ZH_INLINE_METADATA 2048u
#define ZH_INLINE_MESSAGE 1024u

/* Calls open at once on a link; the rest wait at the client. A server closes a link that has more.
 */
#define ZH_CALLS 512u

/* Methods interned per link; further ones travel as literals. */
#define ZH_NAMES 1024u
#define ZH_NAME_BYTES 1024u
#define ZH_NO_NAME UINT32_MAX
/* The fingerprints of a method's request and response. */
#define ZH_TYPES_BYTES 32u

enum zh_kind {
    ZH_PAD = 1,    /* fills the end of the ring */
    ZH_NAME,       /* client: `method` stands from now on for the name in the message; metadata:
                      the fingerprints of its request and response, or nothing */
    ZH_CALL,       /* client: opens `call` of `method`; metadata; perhaps a message */
    ZH_MESSAGE,    /* both: one stream message */
    ZH_HALF_CLOSE, /* client: no more messages */
    ZH_CANCEL,     /* client: the last record of a call that it gives up */
    ZH_HEADERS,    /* server: initial metadata */
    ZH_STATUS, /* server: the last record of a call: status code in `method`, perhaps a message */
    ZH_GOAWAY, /* server: open no more calls on this link */
    ZH_NAMED,  /* server: answers a ZH_NAME with fingerprints; `call` is 1 where they are ours, too
                */
    ZH_KIND_END
};

enum zh_record_flags {
    ZH_HAS_MESSAGE = 1,       /* a message is there (it may be empty) */
    ZH_MESSAGE_IN_BLOCK = 2,  /* message in the block, behind the metadata if that is there too */
    ZH_METADATA_IN_BLOCK = 4, /* metadata at the start of the block */
    ZH_END_STREAM = 8,        /* the client's side is closed with this record */
    ZH_IMAGE = 16,            /* the message is the root of an image (docs/image.md) */
    ZH_LOANED = 32,           /* the loan is what the image refers to */
    ZH_TAKES_IMAGES = 64,     /* ZH_CALL: replies may be images */
    ZH_LENT_BACK = 128,       /* ZH_LOANED: the image refers to memory of the receiver's, too */
};

struct zh_record {
    uint8_t kind;
    uint8_t slots;
    uint16_t flags;
    uint32_t method;   /* interned name; in ZH_STATUS the status code */
    uint64_t call;     /* index | generation << 32 */
    uint64_t deadline; /* CLOCK_MONOTONIC nanoseconds, 0 for none */
    uint32_t metadata_bytes;
    uint32_t segment; /* the block, if a flag says so */
    uint64_t message_bytes;
    uint32_t page;
    uint32_t loan;
    uint32_t loan_generation;
    uint32_t outside; /* ZH_IMAGE: bytes of the image outside its root, as its sender says */
    uint64_t trace;   /* for sampled trace contexts; zero today */
};

_Static_assert(sizeof(struct zh_record) == 64, "the header is half a slot");

/* Entries of the return ring: loans that come back, and credit for streams. */
#define ZH_RETURN_ENTRIES 2048u

enum zh_return_kind { ZH_RETURN_LOAN = 1, ZH_RETURN_CREDIT = 2 };

struct zh_return {
    uint32_t kind;
    uint32_t value;  /* loan id; bytes of credit */
    uint64_t object; /* loan generation; call */
};

#endif
