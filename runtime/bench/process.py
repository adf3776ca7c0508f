"""What every measured process does alike: memory, counters, cores."""

import gc
import os
import sys
from collections.abc import Mapping
from typing import Any


def prepare(spec: Mapping[str, Any]) -> None:
    """Before anything is imported: the cores, the stubs' folder, malloc where the case says so."""
    if spec.get("cpus"):
        os.sched_setaffinity(0, spec["cpus"])
    if spec.get("stubs"):
        sys.path.insert(0, spec["stubs"])
    if spec.get("tune_malloc"):
        from zerohop.bench import backends

        backends.load("zerohop").tune_malloc()


def settle() -> None:
    """After set-up, on every side alike: what exists by then is no work for the collector,
    which stays on, as in a user's program."""
    gc.collect()
    gc.freeze()


def counters() -> dict[str, float]:
    """zerohop's counters in this process, where there are any."""
    read = getattr(sys.modules.get("zerohop"), "stats", None)
    if read is None:
        return {}
    found = read()
    if not isinstance(found, Mapping):
        found = found._asdict() if hasattr(found, "_asdict") else vars(found)
    return {str(name): value for name, value in found.items() if isinstance(value, (int, float))}
