/*
 * The memory that one side of a link owns: the ring it produces, its tail of the ring it consumes,
 * and the same for the small ring of returns. The owner writes; the peer maps it read-only.
 *
 * Counters run freely (64 bits, never wrapped); slot i lies at i modulo the ring's length. The head
 * is the only commit point of a record.
 */
#ifndef ZEROHOP_RING_H
#define ZEROHOP_RING_H

#include <stdatomic.h>
#include <stdint.h>

#include "zerohop/record.h"

#define ZH_LINK_MAGIC 0x706f686f72657aull /* "zerohop" */
#define ZH_LINK_VERSION 1u

enum zh_want {
    ZH_WANT_SPACE = 1,   /* ring when the tail of my ring moves */
    ZH_WANT_RETURNS = 2, /* ring when loans or credits come back */
    ZH_WANT_HELD = 4,    /* the same, since others wait for what the loans hold */
};

struct zh_side {
    _Alignas(64) _Atomic uint64_t head; /* of the ring this side produces */
    _Atomic uint64_t return_head;
    _Alignas(64) _Atomic uint64_t tail; /* of the ring that the peer produces */
    _Atomic uint64_t return_tail;
    _Alignas(64) _Atomic uint32_t want;
    _Atomic uint32_t shared; /* 1: memory of the peer's has been handed on to others */
    _Alignas(4096) uint8_t slots[ZH_RING_SLOTS * ZH_SLOT];
    struct zh_return returns[ZH_RETURN_ENTRIES];
};

_Static_assert(sizeof(struct zh_side) == 4096 + 131072 + 32768, "whole pages");

/* The page of a pump: odd while its process sleeps and wants its doorbell rung. */
struct zh_pump_page {
    _Alignas(64) _Atomic uint32_t epoch;
    uint8_t fill[4096 - 64];
};

_Static_assert(sizeof(struct zh_pump_page) == 4096, "one page");

#endif
