"""numpy arrays in messages, without a copy on either side."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zerohop
from numpy.typing import NDArray
from zerohop.codegen.stubs import import_generated

# Made the first time and after each change of the .proto file. By hand it is
# `python -m zerohop.protoc -I. --zerohop_out=. arrays.proto` and `import arrays_zerohop`.
arrays_zerohop = import_generated(Path(__file__).with_name("arrays.proto"))

Numbers = NDArray[np.float64]


def empty(shape: Sequence[int]) -> Numbers:
    """An array in shared memory, to be filled. ArenaFull."""
    memory = zerohop.alloc(math.prod(shape) * np.dtype(np.float64).itemsize)
    return np.ndarray(tuple(shape), np.float64, buffer=memory)


def put(numbers: Numbers, message: Any) -> None:
    """Have an Array hold `numbers`: the memory of `empty` as it is, any other copied once.

    From now on others may read it: it must not be written to any more.
    """
    message.shape[:] = numbers.shape
    message.numbers = numbers


def view(message: Any) -> Numbers:
    """The numbers of an Array, where the sender has them: read-only, and held while it is used."""
    return np.ndarray(tuple(message.shape), np.float64, buffer=message.numbers)


def copied() -> tuple[int, int]:
    """What this process has copied so far: on the way, and into messages."""
    counters = zerohop.stats()
    return counters["bytes_copied"], counters["bytes_built"]


def no_room(who: str, count: int, error: zerohop.ArenaFull) -> str:
    """What to do where there is no shared memory for an array of `count` bytes."""
    return (
        f"the {who} has no shared memory for {count / 1e6:,.0f} MB: {error}\n"
        f"Start it with a higher limit, as in ZEROHOP_ARENA_LIMIT={4 * count} (bytes; the default "
        "is 1 GiB, or 1/8 of the available memory if that is less), or send less: --megabytes 10"
    )


def target(text: str) -> str:
    """A target on shared memory, for the command line."""
    if not text.startswith(("zerohop:", "shm:")):
        raise argparse.ArgumentTypeError(f"{text}: zerohop:///NAME or shm:/PATH")
    return text
