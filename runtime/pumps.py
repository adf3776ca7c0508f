"""The pumps of a process: one for all synchronous channels and servers, one per event loop."""

from __future__ import annotations

import _thread
import asyncio
import atexit
import contextlib
import os
import threading
import weakref
from typing import Protocol

from zerohop._native import Pump

_lock = threading.RLock()  # a call under it may find that its loop's pump needs a guardian
_sync: Pump | None = None
_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopPump] = weakref.WeakKeyDictionary()


def _spawn(pump: Pump) -> None:
    # Not a threading.Thread: the interpreter's exit must not wait for it, nor we for its start.
    _thread.start_new_thread(pump.run, ())


def sync_pump() -> Pump:
    """The pump of the synchronous channels and servers."""
    global _sync
    pump = _sync
    if pump is None:
        with _lock:
            if _sync is None:
                _sync = Pump(False, _spawn)
            pump = _sync
    return pump


def _guard(pump: Pump) -> None:
    """Others wait for what a loop has handed on, and it may not run when they have done."""
    with contextlib.suppress(OSError):  # no descriptors: the loop does it, when it runs
        sync_pump().guard(pump, _close_ended)


class Guest(Protocol):
    """Who must hear of the end of a loop."""

    def abandon(self) -> None: ...


class LoopPump:
    """A pump that an event loop polls, on any unmodified loop.

    The epoll descriptor is one reader of the loop; for a while after the last progress the rings
    are polled again at every turn of the loop, which is faster than a wake-up.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.pump = Pump(True, _guard)
        # The loop is not kept alive by us: it holds our callbacks.
        self._loop = weakref.ref(loop)
        self._scheduled = False
        self._pid = os.getpid()
        self._events = False  # the descriptor is readable
        self.guests: weakref.WeakSet[Guest] = weakref.WeakSet()
        loop.add_reader(self.pump.fileno(), self._readable)

    def _readable(self) -> None:
        self._events = True
        if not self._scheduled:
            self._poll()

    def _poll(self) -> None:
        self._scheduled = False
        events, self._events = self._events, False
        if self.pump.poll(events):
            self._again()

    def _again(self) -> None:
        if not self._scheduled:
            loop = self._loop()
            if loop is not None and not loop.is_closed():
                self._scheduled = True
                loop.call_soon(self._poll)

    def expect(self) -> None:
        """Something was posted: look for the answer at the next turns of the loop."""
        if not self._scheduled:
            self.pump.expect()
            self._again()

    def close(self) -> None:
        # A forked child shares the loop's epoll set with its parent, and must leave it alone.
        if self._pid == os.getpid():
            loop = self._loop()
            if loop is not None and not loop.is_closed():
                loop.remove_reader(self.pump.fileno())
            for guest in list(self.guests):
                guest.abandon()
        self.pump.close()

    def __del__(self) -> None:
        self.close()


def loop_pump(loop: asyncio.AbstractEventLoop) -> LoopPump:
    """The pump of an event loop; made at first use, closed with the loop's end."""
    _close_ended()
    with _lock:
        pump = _loops.get(loop)
        if pump is None:
            pump = _loops[loop] = LoopPump(loop)
        return pump


def _close_ended() -> None:
    with _lock:
        ended = [_loops.pop(loop) for loop in list(_loops) if loop.is_closed()]
    for pump in ended:
        pump.close()


def all_pumps() -> list[Pump]:
    """Every pump there is, for statistics."""
    with _lock:
        pumps = [pump.pump for pump in _loops.values()]
        return pumps if _sync is None else [_sync, *pumps]


def _forget() -> None:
    """In a forked child: the parent's pumps are the parent's."""
    global _sync, _lock
    _lock = threading.RLock()
    _sync = None
    _loops.clear()


def _close() -> None:
    pump = _sync
    if pump is not None:
        pump.close()


os.register_at_fork(after_in_child=_forget)
atexit.register(_close)
