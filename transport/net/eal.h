/* EAL's errors, for the sentences of those who call DPDK. Any thread. */
#ifndef ZEROHOP_NET_EAL_H
#define ZEROHOP_NET_EAL_H

#include <stdbool.h>
#include <stddef.h>

/* Take DPDK's log; before EAL starts. 0 or -ENOMEM. */
int eal_log_start(void);
/* The same of the libraries under AF_XDP, which write to stderr; once EAL has loaded its drivers.
 */
void eal_log_bpf(void);
/* Forget the error lines that DPDK has logged up to now. */
void eal_log_forget(void);
/* The last lines of level error that DPDK has logged since, joined by "; ". False: none. */
bool eal_log_errors(char *text, size_t size);

/* True in a child forked after EAL started: DPDK's memory is gone there. */
bool eal_is_forked(void);

/* Write a sentence to `error`, which may be NULL, and return `code`. */
int eal_error(char *error, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
