"""CPU time, resident and shared memory of processes, from /proc."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")
_MAPPING = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) (\d+) +/memfd:", re.MULTILINE
)

_Inode = tuple[str, int]


def cpu_ns(pid: int, proc: Path = _PROC) -> int:
    """Nanoseconds on a CPU, of all living threads; ticks where the kernel has no finer figure."""
    total = 0
    try:
        for task in (proc / str(pid) / "task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    except (OSError, IndexError, ValueError):
        words = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return total


def resident_bytes(pid: int, proc: Path = _PROC) -> int:
    """Resident memory; ``smaps_rollup`` counts pages, ``status`` may lag behind by some."""
    for name, label in (("smaps_rollup", "Rss:"), ("status", "VmRSS:")):
        try:
            text = (proc / str(pid) / name).read_text()
        except OSError:
            continue
        for line in text.splitlines():
            if line.startswith(label):
                return int(line.split()[1]) * 1024
    raise OSError(f"no resident size of process {pid} in {proc}")


def shared_bytes(pids: Iterable[int], proc: Path = _PROC) -> int:
    """Memory committed to the memfds that these processes have open or mapped, each counted once.

    An open memfd says how many blocks it holds. One that is mapped only cannot be asked, and is
    counted with what is mapped of it.
    """
    blocks: dict[_Inode, int] = {}
    mapped: dict[_Inode, set[tuple[int, int]]] = {}
    for pid in pids:
        folder = proc / str(pid)
        for descriptor in _entries(folder / "fd"):
            try:
                if not os.readlink(descriptor).startswith("/memfd:"):
                    continue
                status = os.stat(descriptor)
            except OSError:
                continue  # closed while we looked
            device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
            blocks[device, status.st_ino] = status.st_blocks * 512
        try:
            text = (folder / "smaps").read_text()
        except OSError:
            continue
        for found in _MAPPING.finditer(text):
            start, end, offset = (int(found[number], 16) for number in (1, 2, 3))
            ranges = mapped.setdefault((found[4], int(found[5])), set())
            ranges.add((offset, offset + end - start))
    unseen = (ranges for key, ranges in mapped.items() if key not in blocks)
    return sum(blocks.values()) + sum(_covered(ranges) for ranges in unseen)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _covered(ranges: Iterable[tuple[int, int]]) -> int:
    """The length of the union of ranges."""
    total = reached = 0
    for start, end in sorted(ranges):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total
