/* One suite for whatever provides the streams of zerohop/stream.h. It neither sleeps nor reads a
 * clock: where something has to happen, it calls the provider's step until it has happened, or
 * until thousands of steps have brought nothing new. */
#ifndef ZEROHOP_TESTS_STREAM_SUITE_H
#define ZEROHOP_TESTS_STREAM_SUITE_H

#include <stddef.h>
#include <stdint.h>

#include "zerohop/stream.h"

struct stream_provider {
    const char *name;
    /* Two streams that are connected with each other. */
    void (*pair)(struct stream_provider *provider, struct zh_stream *ends[2]);
    /* Run what both ends need to be run, and let time pass until something may have changed. */
    void (*step)(struct stream_provider *provider);
    /* Close a stream in such a way that its peer gets an error and not an end. */
    void (*vanish)(struct stream_provider *provider, struct zh_stream *stream);
    /* What there is of descriptors, connections, buffers and the like; the same before streams are
     * made and after they are closed, perhaps some steps later. */
    size_t (*leftover)(struct stream_provider *provider);
    uint64_t copied_per_record; /* payload bytes that may be copied for a record sent */
    unsigned transfers;         /* seeds of random transfers */
    unsigned churn;             /* pairs to be opened and closed */
    size_t big;                 /* bytes of one record */
};

/* Runs all; ends the program where something is wrong. */
void stream_suite(struct stream_provider *provider);

#endif
