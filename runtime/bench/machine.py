"""The machine a run was made on, and how much of its CPU others took meanwhile."""

import importlib.metadata
import os
import platform
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

LIMIT = 0.10
"""The share of others above which figures are no measurement."""

_PROC = Path("/proc")


def facts() -> dict[str, object]:
    """What a reader needs to know about the machine to make sense of the figures."""
    return {
        "cores": os.cpu_count() or 1,
        "cores_allowed": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": {
            package: version
            for package in ("zerohop", "grpcio", "protobuf", "iceoryx2", "pyzmq")
            if (version := _version(package)) is not None
        },
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model(proc: Path = _PROC) -> str:
    for line in (proc / "cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Processor", "cpu model")):
            return line.partition(":")[2].strip()
    return platform.machine()


@dataclass(frozen=True)
class CpuSample:
    """Clock ticks since boot: of some cores, and of our processes."""

    total: int
    """All ticks, idle ones too."""
    used: int
    """Ticks that processes, or the hypervisor's other guests, had."""
    ours: int


def others_share(before: CpuSample, after: CpuSample) -> float:
    """The share of the cores' time that was neither idle nor ours."""
    total = after.total - before.total
    if total <= 0:
        return 0.0
    others = (after.used - before.used) - (after.ours - before.ours)
    return min(1.0, max(0.0, others / total))


class CpuMeter:
    """Reads the ticks of our process tree and of the cores that it may use."""

    def __init__(
        self,
        root_pid: int | None = None,
        cpus: Collection[int] | None = None,
        proc: Path = _PROC,
    ) -> None:
        self._root = os.getpid() if root_pid is None else root_pid
        self._cpus = frozenset(os.sched_getaffinity(0) if cpus is None else cpus)
        self._proc = proc

    def sample(self) -> CpuSample:
        total, used = self._core_ticks()
        return CpuSample(total, used, self._tree_ticks())

    def _core_ticks(self) -> tuple[int, int]:
        total = used = 0
        for line in (self._proc / "stat").read_text().splitlines():
            name, _, rest = line.partition(" ")
            number = name.removeprefix("cpu")
            if not name.startswith("cpu") or not number or int(number) not in self._cpus:
                continue
            # user nice system idle iowait irq softirq steal; guest is part of user
            ticks = [int(word) for word in rest.split()[:8]]
            ticks += [0] * (8 - len(ticks))
            user, nice, system, _idle, _iowait, _irq, _softirq, steal = ticks
            total += sum(ticks)
            # Interrupts belong to nobody: the kernel may have booked them to a process of ours.
            used += user + nice + system + steal
        return total, used

    def _tree_ticks(self) -> int:
        parents: dict[int, int] = {}
        ticks: dict[int, int] = {}
        for entry in self._proc.iterdir():
            if not entry.name.isdigit():
                continue
            try:
                # The name, in parentheses, may itself hold blanks and parentheses.
                words = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # ended while we looked
            pid = int(entry.name)
            parents[pid] = int(words[1])
            # utime, stime and those of children waited for: a process that ends moves its own
            # ticks to its parent, so that the sum over the tree never falls.
            ticks[pid] = sum(int(word) for word in words[11:15])
        return sum(count for pid, count in ticks.items() if self._is_ours(pid, parents))

    def _is_ours(self, pid: int, parents: dict[int, int]) -> bool:
        seen = set()
        while pid in parents and pid not in seen:
            if pid == self._root:
                return True
            seen.add(pid)
            pid = parents[pid]
        return False
