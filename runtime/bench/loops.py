"""The client's loops, the same for every backend: nothing in them but the call and the clock.

Each runs for about ``span_ns``, appends latencies in nanoseconds to ``latencies`` and returns how
many calls (messages) it made in how many nanoseconds.
"""

from __future__ import annotations

import itertools
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable
from typing import Any

Outcome = tuple[int, int]
Run = Callable[[int, "array[int]"], Outcome]

FILL = b"z"
"""What streamed messages consist of: memory that was written, not the one page of zeros."""

_ROUND = 4
"""Streams of about a quarter of a slice each: opening one is then no part of the figure."""


def unary(call: Callable[[Any], Any], request: Any, span_ns: int, latencies: array[int]) -> Outcome:
    """One call in flight; every call is timed."""
    now = time.perf_counter_ns
    add = latencies.append
    start = now()
    end = start + span_ns
    while True:
        begun = now()
        call(request)
        done = now()
        add(done - begun)
        if done >= end:
            return len(latencies), done - start


def futures(
    submit: Callable[[Any], Any], request: Any, inflight: int, span_ns: int, latencies: array[int]
) -> Outcome:
    """``inflight`` futures, waited for in order; one of each round is timed."""
    now = time.perf_counter_ns
    pending: deque[Any] = deque()
    take, put = pending.popleft, pending.append
    start = begun = now()
    end = start + span_ns
    for _ in range(inflight):
        put(submit(request))
    calls = 0
    while True:
        take().result()
        done = now()
        latencies.append(done - begun)
        begun = done
        put(submit(request))
        for _ in itertools.repeat(None, inflight - 1):
            take().result()
            put(submit(request))
        calls += inflight
        if done >= end:
            break
    elapsed = now() - start
    for future in pending:
        future.result()
    return calls, elapsed


def callbacks(
    submit: Callable[[Any], Any], request: Any, inflight: int, span_ns: int, latencies: array[int]
) -> Outcome:
    """``inflight`` chains of calls: the done-callback of one makes the next. One chain is timed."""
    now = time.perf_counter_ns
    over = False
    ended = threading.Event()
    errors: list[BaseException] = []
    # Callbacks may run in several threads; next() of a counter is atomic.
    counter, endings = itertools.count(), itertools.count(1)
    start = begun = now()
    end = start + span_ns

    def finish() -> None:
        nonlocal over
        over = True
        if next(endings) == inflight:
            ended.set()

    def fail(error: BaseException) -> None:
        errors.append(error)
        finish()

    def chain(future: Any) -> None:
        try:
            future.result()
            next(counter)
            if over:
                finish()
            else:
                submit(request).add_done_callback(chain)
        except BaseException as error:
            fail(error)

    def timed_chain(future: Any) -> None:
        nonlocal begun
        try:
            future.result()
            next(counter)
            done = now()
            latencies.append(done - begun)
            if done >= end or over:
                finish()
            else:
                begun = done
                submit(request).add_done_callback(timed_chain)
        except BaseException as error:
            fail(error)

    submit(request).add_done_callback(timed_chain)
    for _ in range(inflight - 1):
        submit(request).add_done_callback(chain)
    if not ended.wait(span_ns / 1e9 + 60):
        raise TimeoutError("a done-callback was not called within a minute")
    elapsed = now() - start
    if errors:
        raise errors[0]
    return next(counter), elapsed


class Streams:
    """Streams of so many messages that a few fit into a slice; learns how many that is."""

    def __init__(self) -> None:
        self._count = 16

    def run(self, open_stream: Callable[[int], Any], span_ns: int) -> Outcome:
        now = time.perf_counter_ns
        messages = 0
        start = done = now()
        end = start + span_ns
        while done < end:
            begun, got = done, 0
            for got, _ in enumerate(open_stream(self._count), 1):  # noqa: B007
                pass
            done = now()
            self.note(got, done - begun, span_ns)
            messages += got
        return messages, done - start

    async def run_async(self, open_stream: Callable[[int], Any], span_ns: int) -> Outcome:
        now = time.perf_counter_ns
        messages = 0
        start = done = now()
        end = start + span_ns
        while done < end:
            begun, got = done, 0
            async for _ in open_stream(self._count):
                got += 1
            done = now()
            self.note(got, done - begun, span_ns)
            messages += got
        return messages, done - start

    def note(self, got: int, took_ns: int, span_ns: int) -> None:
        if got != self._count:
            raise RuntimeError(f"a stream ended after {got} of {self._count} messages")
        wanted = got * span_ns // (_ROUND * max(1, took_ns))
        self._count = max(1, min(wanted, 8 * got))
