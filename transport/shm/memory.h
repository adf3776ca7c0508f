/* How much memory this process may still take. */
#ifndef ZEROHOP_SHM_MEMORY_H
#define ZEROHOP_SHM_MEMORY_H

#include <stdint.h>

/*
 * The smaller of MemAvailable and what the limits of the process's cgroup (v2 and v1, with all
 * parents) leave; UINT64_MAX when neither can be read. Bytes.
 */
uint64_t zh_memory_available(void);

#endif
