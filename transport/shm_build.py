"""Write the C source of ``zerohop.transport._shm``: what is not hot, through cffi (API mode)."""

import sys

from cffi import FFI

CDEF = """
const char *zh_version(void);

struct zh_stats_snapshot {
    uint64_t blocks_lent;
    uint64_t blocks_returned;
    uint64_t bytes_built;
    uint64_t bytes_inlined;
    uint64_t bytes_copied;
    uint64_t wakeups;
    uint64_t spins;
    uint64_t calls_started;
    uint64_t calls_handled;
    uint64_t links_opened;
    uint64_t links_closed;
    uint64_t streams_messages_sent;
    uint64_t streams_messages_received;
};
void zh_stats_read(struct zh_stats_snapshot *out);
"""

SOURCE = """
#include "zerohop/api.h"
#include "zerohop/stats.h"
"""


def main(output: str) -> None:
    ffi = FFI()
    ffi.cdef(CDEF)
    ffi.set_source("zerohop.transport._shm", SOURCE)
    ffi.emit_c_code(output)


if __name__ == "__main__":
    main(sys.argv[1])
