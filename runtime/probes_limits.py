"""The checks of `zerohop doctor` on limits: memory, descriptors, mappings, processors."""

import contextlib
import os
import resource

from zerohop.doctor import Result, fail, ok, warn
from zerohop.memory import meminfo, read_memory

MIB = 1 << 20
# Its socket, the peer's pidfd, an eventfd each way, the memfd of its own rings.
DESCRIPTORS_A_LINK = 5
# Its own rings, the peer's, the peer's sleep epoch; and the peer's arena, here of five segments.
MAPPINGS_A_LINK = 8
SEGMENT_MOST = 64 * MIB
SEGMENT_FIRST = 2 * MIB


def size(number: int | None) -> str:
    """Bytes as people write them."""
    if number is None:
        return "unlimited"
    return f"{number / 1024**3:.1f} GiB" if number >= 1 << 30 else f"{number / MIB:.0f} MiB"


def arena() -> Result:
    """Available memory, the cgroup's, and the arena's limit that follows."""
    memory = read_memory()
    cgroup = "no cgroup limit"
    if memory.cgroup_limit is not None:
        cgroup = (
            f"{size(memory.cgroup_left)} left of {size(memory.cgroup_limit)} "
            f"in the cgroup (v{memory.cgroup_version})"
        )
    limit = memory.arena_limit
    available = "unknown" if memory.available is None else size(memory.available)
    found = f"{available} available, {cgroup}: an arena grows to {size(limit)}"
    strict = _overcommit()
    if limit < SEGMENT_FIRST:
        return fail(found, "Not even one segment of 2 MiB fits: give it 16 MiB more at least.")
    if strict:
        return warn(found, strict)
    if limit < SEGMENT_MOST:
        return warn(
            found, "Messages of more bytes than that cannot be sent; raise the memory limit."
        )
    return ok(found)


def _overcommit() -> str:
    """What to say where the kernel counts committed memory strictly, and little is left."""
    with contextlib.suppress(OSError), open("/proc/sys/vm/overcommit_memory") as file:
        if file.read().strip() == "2":
            values = meminfo()
            left = values.get("CommitLimit", 0) - values.get("Committed_AS", 0)
            if left < 1 << 30:
                return (
                    f"vm.overcommit_memory=2 leaves {size(max(0, left))} to commit: "
                    "raise vm.overcommit_ratio."
                )
    return ""


def descriptors() -> Result:
    """RLIMIT_NOFILE: how many links fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return ok("no limit")
    links = max(0, soft - 64) // DESCRIPTORS_A_LINK
    found = f"{soft} (at most {'any' if hard == resource.RLIM_INFINITY else hard}), "
    found += f"enough for about {links} links"
    if links < 1:
        return fail(found, "ulimit -n 1024 in the shell that starts the program.")
    if links < 100:
        return warn(found, "ulimit -n 4096 in the shell that starts the program.")
    return ok(found)


def mappings() -> Result:
    """vm.max_map_count, RLIMIT_AS, and RLIMIT_MEMLOCK, which does not matter."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY and soft < 8 << 30:
        return warn(
            f"the address space is limited to {size(soft)}",
            "Mappings of peers' arenas count too: ulimit -v unlimited.",
        )
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    memlock = "unlimited" if locked == resource.RLIM_INFINITY else f"{locked >> 10} KiB"
    try:
        with open("/proc/sys/vm/max_map_count") as file:
            count = int(file.read())
    except (OSError, ValueError):
        return ok(f"vm.max_map_count unknown; locked memory {memlock}, none is needed")
    found = f"{count}, enough for about {count // MAPPINGS_A_LINK} links"
    if count // MAPPINGS_A_LINK < 1000:
        return warn(found, "sysctl vm.max_map_count=65530, the kernel's own default.")
    return ok(f"{found}; locked memory {memlock}, none is needed")


def file_size() -> Result:
    """RLIMIT_FSIZE holds for memfds as well, and exceeding it is a signal."""
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if soft == resource.RLIM_INFINITY:
        return ok("no limit")
    advice = "A larger segment ends the process with SIGXFSZ: ulimit -f unlimited."
    found = f"files, and so segments, have at most {size(soft)}"
    return (fail if soft < SEGMENT_FIRST else warn)(found, advice)


def processors() -> Result:
    """How many run at once: with one, a waiter that spins keeps its peer from running."""
    count = len(os.sched_getaffinity(0))
    quota = _cpu_quota()
    found = f"{count} usable" + (f", {quota:.1f} by the cgroup's quota" if quota else "")
    if min(count, quota or count) < 2:
        return warn(found, "Two peers cannot run at once: each call costs a switch of processes.")
    return ok(found)


def _cpu_quota() -> float | None:
    for path in ("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"):
        with contextlib.suppress(OSError, ValueError):
            with open(path) as file:
                words = file.read().split()
            if len(words) == 1:
                with open("/sys/fs/cgroup/cpu/cpu.cfs_period_us") as file:
                    words += file.read().split()
            if int(words[0]) > 0:
                return int(words[0]) / int(words[1])
    return None


def huge_pages() -> Result:
    """For information: shared memory takes ordinary pages."""
    reserved = meminfo().get("HugePages_Total", 0)
    shmem = ""
    path = "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
    with contextlib.suppress(OSError), open(path) as file:
        shmem = file.read().partition("[")[2].partition("]")[0]
    return ok(f"{reserved} reserved, for shared memory {shmem or 'unknown'}; none is needed")
