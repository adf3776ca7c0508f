"""How much memory there is: the machine's, the cgroup's, and the arena's limit that follows."""

import dataclasses
import os

UNLIMITED = 1 << 62  # cgroup v1 writes 2**63 less a page for no limit
ARENA_MOST = 1 << 30


@dataclasses.dataclass(frozen=True, slots=True)
class Memory:
    """Bytes; None where there is no such limit or it cannot be read."""

    available: int | None  # MemAvailable
    cgroup_limit: int | None
    cgroup_left: int | None  # limit less usage, of the tightest group on the way up
    cgroup_version: int  # 2, 1, or 0 for none

    @property
    def arena_limit(self) -> int:
        """The default limit of an arena, as the transport computes it (zh_arena_default_limit).

        ZEROHOP_ARENA_LIMIT in the environment, in bytes, overrides it.
        """
        given = os.environ.get("ZEROHOP_ARENA_LIMIT", "")
        if given.isdecimal() and int(given) > 0:
            return int(given)
        known = [one for one in (self.available, self.cgroup_left) if one is not None]
        return min([ARENA_MOST, *(one // 8 for one in known)])


def read_memory(root: str = "/") -> Memory:
    """Read what is there now. `root` is for tests."""
    available = meminfo(root).get("MemAvailable")
    limits = list(_cgroup_limits(root))
    if not limits:
        return Memory(available, None, None, _cgroup_version(root))
    left, limit, version = min(limits)
    return Memory(available, limit, left, version)


def meminfo(root: str = "/") -> dict[str, int]:
    """/proc/meminfo, in bytes (counts, as of huge pages, as they are)."""
    found = {}
    for line in _read(os.path.join(root, "proc/meminfo")).splitlines():
        name, _, value = line.partition(":")
        number, _, unit = value.strip().partition(" ")
        if number.isdigit():
            found[name] = int(number) * (1024 if unit == "kB" else 1)
    return found


def _cgroup_limits(root: str) -> list[tuple[int, int, int]]:
    """(left, limit, version) for each limit on the way from the process's groups to the root.

    In a container the group's path may be the host's, which is not mounted; what counts then is
    the mount's own top, which is the container's group.
    """
    found = []
    for line in _read(os.path.join(root, "proc/self/cgroup")).splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:
            mount, names, version = "sys/fs/cgroup", ("memory.max", "memory.current"), 2
        elif "memory" in controllers.split(","):
            mount, version = "sys/fs/cgroup/memory", 1
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        parts = [part for part in group.split("/") if part]
        for depth in range(len(parts), -1, -1):
            folder = os.path.join(root, mount, *parts[:depth])
            limit, usage = (_number(os.path.join(folder, name)) for name in names)
            if limit is not None and limit < UNLIMITED:
                found.append((max(0, limit - (usage or 0)), limit, version))
    return found


def _cgroup_version(root: str) -> int:
    lines = _read(os.path.join(root, "proc/self/cgroup")).splitlines()
    if any(":memory:" in line or ",memory" in line for line in lines):
        return 1
    return 2 if any(line.startswith("0::") for line in lines) else 0


def _number(path: str) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
