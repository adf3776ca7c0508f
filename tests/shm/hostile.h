/* Peers that break every rule they can. Each attack is run in a process of its own. */
#ifndef ZEROHOP_TESTS_HOSTILE_H
#define ZEROHOP_TESTS_HOSTILE_H

#include <stdint.h>

#include "shm/message.h"

struct attack {
    const char *path; /* of the server's socket */
    uint64_t seed;
    uint64_t until; /* zh_now() at which to end */
    uint32_t uid;   /* whom to be; 0: whoever we are */
};

/* Greet in order, then write garbage over everything that may be written, while reading on. */
int attack_memory(void *attack);
/* Greet with wrong, missing or too many descriptors, cut and false messages; misuse the socket. */
int attack_greeting(void *attack);
/* Greet in order, borrow and lend, and break the rules of that: never or twice returned, unread. */
int attack_loans(void *attack);
/* Send images, and drop, change and forge what they lie in. */
int attack_images(void *attack);
/* Hold what there is of a doorbell, and connections that say nothing. */
int attack_bells(void *attack);

/* Write garbage into all that `link` lets its owner write; once. */
struct zh_link;
void scribble(struct zh_link *link, uint64_t *random);

/* A greeting of `kind` that may be wrong in any way, sent over `socket`. */
void send_wrong_greeting(int socket, uint32_t kind, uint64_t *random);
/* Messages that an open link may get, right or wrong. */
void send_wrong_message(int socket, uint64_t *random);

#endif
