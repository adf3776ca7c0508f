"""The asyncio client's loops; see ``loops.py``."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable
from typing import Any

from zerohop.bench.loops import Outcome


async def unary(
    call: Callable[[Any], Any], request: Any, span_ns: int, latencies: array[int]
) -> Outcome:
    """One call in flight; every call is timed."""
    now = time.perf_counter_ns
    add = latencies.append
    start = now()
    end = start + span_ns
    while True:
        begun = now()
        await call(request)
        done = now()
        add(done - begun)
        if done >= end:
            return len(latencies), done - start


async def many(
    call: Callable[[Any], Any], request: Any, inflight: int, span_ns: int, latencies: array[int]
) -> Outcome:
    """``inflight`` tasks with one call in flight each; one is timed and ends the others."""
    over = False
    start = time.perf_counter_ns()

    async def plain() -> int:
        calls = 0
        while not over:
            await call(request)
            calls += 1
        return calls

    async def timed() -> int:
        nonlocal over
        try:
            return (await unary(call, request, span_ns, latencies))[0]
        finally:
            over = True

    counts = await asyncio.gather(timed(), *(plain() for _ in range(inflight - 1)))
    return sum(counts), time.perf_counter_ns() - start
