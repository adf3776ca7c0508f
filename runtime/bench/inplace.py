"""Messages whose bytes lie in memory from ``zerohop.alloc``: filled there, sent without a copy."""

from __future__ import annotations

import importlib
import os
import time
from array import array
from collections.abc import Callable, Mapping
from typing import Any

from zerohop.bench.control import Control
from zerohop.bench.loops import Outcome, Run

_BLOB = 4096
"""From that size on ``bytes`` fields lie in blocks of their own."""

_ROUND = 16
"""Buffers that are filled ahead of the timed calls, and how many bytes they have at most."""
_ROUND_BYTES = 64 << 20

_AWAKE = 8
"""Small calls after filling, which lets the server sleep and empties the caches."""

_SUMMED = {"bytes": "uint8", "words": "uint64"}
_WORD = 0x0101010101010101
_MASK = (1 << 64) - 1


def content(spec: Mapping[str, Any]) -> Any:
    """Random bytes to be sent; for generated messages in shared memory, where that is of use."""
    data = os.urandom(spec["size"])
    return _filled(data) if spec["generated"] and spec["size"] >= _BLOB else data


def _filled(data: bytes) -> Any:
    zerohop: Any = importlib.import_module("zerohop")
    blob = zerohop.alloc(len(data))
    memoryview(blob)[:] = data
    return blob


def total(data: Any, parts: str) -> int:
    """The sum of the bytes or words of a buffer, by numpy."""
    numpy: Any = importlib.import_module("numpy")
    return int(numpy.frombuffer(data, _SUMMED[parts]).sum())


def ends(size: int, message: Any, call: Callable[[Any], Any]) -> Run:
    """Calls with a fresh buffer each. A round's buffers are filled before; some untimed calls then
    let both sides be awake, whatever the filling took. What is timed is making the message, the
    call and reading the answer."""
    pattern = os.urandom(size - 1) + b"\x01"
    count = max(1, min(_ROUND, _ROUND_BYTES // size))
    small = message(data=b"\x01")

    def filled(number: int) -> Any:
        if size < _BLOB:
            return bytes([number]) + pattern[1:]
        blob = _filled(pattern)
        memoryview(blob)[0] = number
        return blob

    def run(span_ns: int, latencies: array[int]) -> Outcome:
        now = time.perf_counter_ns
        end = now() + span_ns
        while True:
            ready = [filled(number) for number in range(count)]
            found = []
            for _ in range(_AWAKE):
                call(small)
            for data in ready:
                begun = now()
                value = call(message(data=data)).value
                done = now()
                latencies.append(done - begun)
                found.append(value)
            if found != [number | 1 << 8 for number in range(count)]:
                raise RuntimeError("the bytes that the server read are not those that were sent")
            if now() >= end:
                return len(latencies), sum(latencies)

    return run


def fill(spec: Mapping[str, Any], message: Any, stub: Any) -> Run:
    """Allocating, filling, sending and summing, all of it timed."""
    zerohop: Any = importlib.import_module("zerohop")
    numpy: Any = importlib.import_module("numpy")
    size = spec["size"]
    call = {"bytes": stub.SumBytes, "words": stub.SumWords}[spec["work"]]

    def once(byte: int) -> int:
        blob = zerohop.alloc(size)
        numpy.frombuffer(blob, numpy.uint8).fill(byte)
        return int(call(message(data=blob)).value)

    return _summed(spec, once)


def drive_alone(spec: Mapping[str, Any], control: Control) -> None:
    """The same filling and summing in one process, without calls, always in one buffer."""
    from zerohop.bench.client import obey

    numpy: Any = importlib.import_module("numpy")
    buffer = numpy.empty(spec["size"], numpy.uint8)
    parts = buffer.view(_SUMMED[spec["work"]])

    def once(byte: int) -> int:
        buffer.fill(byte)
        return int(parts.sum())

    obey(control, _summed(spec, once))


def _summed(spec: Mapping[str, Any], once: Callable[[int], int]) -> Run:
    """Every turn with another byte, and its sum checked."""
    # What each turn's byte is to be multiplied with.
    factor = spec["size"] if spec["work"] == "bytes" else spec["size"] // 8 * _WORD

    def run(span_ns: int, latencies: array[int]) -> Outcome:
        now = time.perf_counter_ns
        start = done = now()
        end = start + span_ns
        byte = 0
        while done < end:
            byte = byte % 255 + 1
            begun = now()
            value = once(byte)
            done = now()
            latencies.append(done - begun)
            if value != byte * factor & _MASK:
                raise RuntimeError("the sum is not that of what was filled in")
        return len(latencies), done - start

    return run
