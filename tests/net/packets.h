/* EAL and a pool of packets for tests of single parts, which have no port. */
#ifndef ZEROHOP_TESTS_PACKETS_H
#define ZEROHOP_TESTS_PACKETS_H

#include <rte_eal.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <sched.h>

#include "check.h"

/* Needs no root and no hugepages. */
static inline void start_eal(void)
{
    static char lcores[32];
    static char *arguments[] = {"test",        "--no-huge",      "-m",       "64",
                                "--no-shconf", "--no-telemetry", "--no-pci", "--lcores",
                                lcores,        "--log-level",    "error",    NULL};
    cpu_set_t cpus;
    int cpu = 0;
    CHECK(sched_getaffinity(0, sizeof cpus, &cpus) == 0);
    while (!CPU_ISSET(cpu, &cpus))
        cpu++;
    snprintf(lcores, sizeof lcores, "0@%d", cpu);
    CHECK(rte_eal_init(sizeof arguments / sizeof arguments[0] - 1, arguments) >= 0);
}

static inline struct rte_mempool *packet_pool(const char *name, unsigned count, uint16_t room)
{
    struct rte_mempool *pool = rte_pktmbuf_pool_create(
        name, count, 0, 0, (uint16_t)(room + RTE_PKTMBUF_HEADROOM), SOCKET_ID_ANY);
    CHECK(pool != NULL);
    return pool;
}

#endif
