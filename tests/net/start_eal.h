/* EAL for a test: no hugepages, no files, no devices. */
#ifndef ZEROHOP_TESTS_NET_START_EAL_H
#define ZEROHOP_TESTS_NET_START_EAL_H

#include <rte_eal.h>
#include <rte_errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

static inline void start_eal(void)
{
    char lcores[32];
    snprintf(lcores, sizeof lcores, "0@%d", sched_getcpu());
    char *argv[] = {"test",     "--no-huge", "-m",   "64",          "--no-shconf", "--no-telemetry",
                    "--no-pci", "--lcores",  lcores, "--log-level", "error",       NULL};
    if (rte_eal_init((int)(sizeof argv / sizeof *argv) - 1, argv) < 0) {
        fprintf(stderr, "EAL: %s\n", rte_strerror(rte_errno));
        exit(1);
    }
}

#endif
