/* What the tests of links share: two pumps, a socket to meet at, children, and counts of what a
 * process holds. Every function here ends the test when it cannot do its work. */
#ifndef ZEROHOP_TESTS_HARNESS_H
#define ZEROHOP_TESTS_HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "zerohop/link.h"
#include "zerohop/pump.h"

#define MS(n) ((uint64_t)(n)*1000000u)
#define SECONDS(n) ((uint64_t)(n)*1000000000u)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* A path in a directory of this test's own, removed at exit. The string is static. */
const char *scratch(const char *name);

/* Open descriptors of this process. */
int count_fds(void);
/* Lines of /proc/self/maps that hold `needle`. */
int count_maps(const char *needle);
/* ... of another process; -1 when it is gone. */
int count_maps_of(pid_t pid, const char *needle);
int count_fds_of(pid_t pid);

void sleep_ns(uint64_t ns);
/* A generator of its own, so that a test runs the same way each time. */
uint64_t random_next(uint64_t *state);

/* Run `child` in a forked process, which exits with what it returns. */
pid_t spawn(int (*child)(void *), void *arg);
/* Wait for a child, which must exit with `code` within `ns`. */
void expect_exit(pid_t pid, int code, uint64_t ns);
/* Kill with SIGKILL and reap. */
void kill_child(pid_t pid);

struct zh_pump *new_pump(void);
int listen_at(const char *path);

/* Accept one connection and greet it; NULL when the link died, with `why` (may be NULL) of 256
 * bytes. */
struct zh_link *accept_link(struct zh_pump *pump, int listener,
                            const struct zh_link_options *options, char *why);
/* Connect; the link must come about. */
struct zh_link *connect_link(struct zh_pump *pump, const char *path);

/* Both ends in this process. */
struct pair {
    struct zh_pump *client_pump, *server_pump;
    int listener;
    struct zh_link *client, *server;
};
void pair_open(struct pair *pair, const struct zh_link_options *client,
               const struct zh_link_options *server);
/* One more link between the pumps of a pair. */
void pair_link(struct pair *pair, const struct zh_link_options *client,
               const struct zh_link_options *server, struct zh_link **client_link,
               struct zh_link **server_link);
/* Close both sides, if that has not been done, and let go of everything. */
void pair_close(struct pair *pair);
/* Both processes' halves have ended: serve until no link lingers. */
void settle(struct zh_pump *pump, uint64_t ns);

/* Close, drop the reference, forget. */
void drop_link(struct zh_link **link);

/* Serve whatever the pump has for `link` until it is dead; false when `ns` have gone by. */
bool serve_until_dead(struct zh_pump *pump, struct zh_link *link, uint64_t ns);
/* Sleep as a waiter does (arm, sleep, disarm) and serve, until there is a record: zh_link_next's
 * answer, 0 when `ns` have gone by. */
int next_within(struct zh_pump *pump, struct zh_link *link, struct zh_received *received,
                uint64_t ns);

/* Post a record with an inline message. */
int post_bytes(struct zh_link *link, uint8_t kind, uint64_t call, const void *message,
               size_t bytes);
/* Loan, fill with `byte`, post. Gives the loan back itself when it cannot be posted. */
int post_loan(struct zh_link *link, uint8_t kind, uint64_t call, size_t bytes, uint8_t byte);

/* Loans open and their bytes. */
uint32_t loans_open(struct zh_link *link);
/* Bytes in use in the arena for links of our own uid. */
uint64_t arena_used(void);

#endif
