/* What the tests of the suite are written with: streams that check what is received, records that
 * are scribbled over when they are released, and calls that know when that may be. */
#ifndef ZEROHOP_TESTS_STREAM_HARNESS_H
#define ZEROHOP_TESTS_STREAM_HARNESS_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "stream_suite.h"

enum {
    STEPS = 5000, /* without anything new */
    OFFERED = 8,  /* records of one send */
    KIB = 1024,
    MIB = 1024 * 1024,
};

extern struct stream_provider *suite_provider;
extern uint64_t suite_news;        /* changes whenever something moves */
extern uint64_t suite_random_word; /* state of the generator */
extern size_t suite_lent_count;    /* records made and not yet released */

/* Run on this suite_provider, in this thread. */
void suite_begin(struct stream_provider *which);

/* Step until `condition`, which may itself move things along. */
#define UNTIL(condition)                                                                           \
    do {                                                                                           \
        uint64_t until_news_ = suite_news;                                                         \
        for (unsigned until_n_ = 0; !(condition); until_n_++) {                                    \
            if (suite_news != until_news_) {                                                       \
                until_news_ = suite_news;                                                          \
                until_n_ = 0;                                                                      \
                continue;                                                                          \
            }                                                                                      \
            if (until_n_ == STEPS) {                                                               \
                fprintf(stderr, "%s:%d: never: %s\n", __FILE__, __LINE__, #condition);             \
                exit(1);                                                                           \
            }                                                                                      \
            suite_step();                                                                          \
        }                                                                                          \
    } while (0)

/* The memory of a record. */
struct lent {
    struct lent *next;
    struct iovec *pieces;
    unsigned count;
    size_t size;
    uint8_t *memory; /* NULL once released */
};

/* A segment that was taken, and what it has to hold. */
struct held {
    struct zh_stream_segment segment;
    uint64_t seed, offset;
};

/* One direction of a pair. */
struct flow {
    struct zh_stream *from, *to;
    uint64_t seed;
    uint64_t made, sent, received; /* bytes; sent: accepted */
    unsigned records;              /* accepted */
    struct lent *offered[OFFERED];
    unsigned offered_count;
    bool end; /* take has given it */
    struct held *held;
    size_t held_count, held_room, held_bytes;
};

struct pair {
    struct zh_stream *ends[2];
    struct flow flows[2]; /* [0]: from ends[0] to ends[1] */
};

/* splitmix64's mixing: all bits depend on all bits. */
uint64_t suite_mix(uint64_t x);
/* A random number below `below`, which is not 0. */
uint64_t suite_draw(uint64_t below);
/* That these are the bytes of the stream `seed` from `offset` on. */
void suite_verify(const uint8_t *data, size_t size, uint64_t seed, uint64_t offset);
void suite_step(void);
/* Step until all records have been released, and forget them. */
void suite_settle(void);
/* The calls of stream.h, inside which records may be released. */
unsigned suite_ready(struct zh_stream *stream);
int send_records(struct zh_stream *stream, const struct zh_stream_record *records, unsigned count);
int suite_take(struct zh_stream *stream, struct zh_stream_segment *segments, unsigned count);
int suite_shut(struct zh_stream *stream);
void close_end(struct zh_stream *stream);
/* See struct stream_provider. */
void vanish(struct zh_stream *stream);
struct zh_stream_info suite_info(struct zh_stream *stream);
struct pair open_pair(void);
/* Make a record of the flow's next bytes, to be sent. */
void suite_offer(struct flow *flow, size_t size, unsigned pieces);
/* Try to send what is offered; the result of zh_stream_send. */
int send_offered(struct flow *flow);
/* Take back what was not accepted. */
void withdraw(struct flow *flow);
/* Make one and send it. */
void send_one(struct flow *flow, size_t size, unsigned pieces);
/* Send until the queue is at its limit and time does not help. */
void send_until_full(struct flow *flow, size_t size);
/* Compare once more, and release. */
void release_held(struct flow *flow, size_t index);
void release_all(struct flow *flow);
/* Take what is there, at most `count` segments, and keep it; the result of zh_stream_take. */
int receive_held(struct flow *flow, unsigned count);
/* Take and release; the result of zh_stream_take. */
int suite_receive(struct flow *flow);
/* Receive; whether all that was sent has come. */
bool received_all(struct flow *flow);
/* As received_all, and then the end, again and again. */
bool suite_ended(struct flow *flow);
/* Both ends, in any order; then the segments that are held. */
void close_both(struct pair *pair);
/* A stream that fails, and of which all was taken: every call gives the same error, which is
 * returned. */
int expect_failed(struct zh_stream *stream);

#endif
