/* Messages on a link's socket: bounded, with descriptors. */
#ifndef ZEROHOP_SHM_MESSAGE_H
#define ZEROHOP_SHM_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#include "zerohop/link.h"

#define ZH_MESSAGE_FDS 8

enum zh_message_kind {
    ZH_MSG_HELLO = 1,   /* client: fds of its side, its pump's page and, within one uid, its bell */
    ZH_MSG_WELCOME = 2, /* server: the same */
    ZH_MSG_REJECT = 3,  /* server: `text` says why */
    ZH_MSG_SEGMENT = 4, /* a segment, with its fd; if it is handed on, with lifelines */
    ZH_MSG_DROPPED = 5, /* ... that is gone: unmap */
    ZH_MSG_BELL = 6,    /* a doorbell between uids */
    ZH_MSG_LEAVING = 7, /* the sender has ended the link, but reads what it holds until the socket
                           ends */
    ZH_MSG_YOURS = 8,   /* what the receiver has shown as `own` is called `id` from now on */
    ZH_MSG_LIFELINE = 9, /* with a descriptor that the receiver keeps open while it, or somebody it
                            has handed memory of the sender's on to, reads that; see segments.c */
};

struct zh_hello {
    uint64_t magic;
    uint32_t version;
    uint32_t kind;
    uint64_t clock;      /* CLOCK_MONOTONIC of the sender: deadlines must mean the same to both */
    uint32_t side_bytes; /* sizeof(struct zh_side) */
    uint32_t slot_bytes;
    uint32_t ring_slots;
    uint32_t has_bell;
    char agent[ZH_AGENT_BYTES];
    char text[256];
};

struct zh_segment_message {
    uint64_t magic;
    uint32_t version;
    uint32_t kind;
    uint64_t bytes;
    uint32_t id;
    uint32_t own;
};

/* Both begin with magic, version, kind. */
struct zh_message {
    union {
        struct zh_hello hello;
        struct zh_segment_message segment;
    };
    size_t bytes;
    int fds[ZH_MESSAGE_FDS];
    int fd_count;
};

/* Send without blocking. 0 or -errno. */
int zh_message_send(int socket, const void *bytes, size_t size, const int *fds, int count);

/*
 * Receive one message without blocking. Every descriptor that came is in `fds` (the caller's to
 * close) or, if there were more than fit, closed here. 1; 0 at the end of the stream; -EAGAIN;
 * -EPROTO for a message that is cut, too short, of another magic or with too many descriptors;
 * other -errno.
 */
int zh_message_receive(int socket, struct zh_message *message);

void zh_message_close_fds(struct zh_message *message);

#endif
