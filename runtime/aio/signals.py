"""What coroutines wait for: the events of one call, told by the loop's pump."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from zerohop import log
from zerohop._native import EVENT_DONE, EVENT_INITIAL, EVENT_MESSAGE, EVENT_WRITABLE

_log = log.logger("channel")

# Of our own, beside those of the core: a link has been found for the call, or will never be.
EVENT_CONNECTED = 1 << 16

EVERYTHING = EVENT_INITIAL | EVENT_MESSAGE | EVENT_WRITABLE | EVENT_DONE | EVENT_CONNECTED


def working_loop() -> asyncio.AbstractEventLoop:
    """The running loop, else the one that is set for this thread: as grpcio chooses."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.get_event_loop_policy().get_event_loop()


class Signals:
    """Who waits for the events of a call. Does not refer to the call: dropping that frees it."""

    __slots__ = ("_callbacks", "_loop", "_waiters")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._callbacks: list[Callable[[], object]] = []

    def tell(self, events: int) -> None:
        """The call's `on_event`."""
        waiters = self._waiters
        if waiters:
            self._waiters = []
            for waiter in waiters:
                mask, future = waiter
                if not mask & events:
                    self._waiters.append(waiter)
                elif not future.done():
                    future.set_result(None)
        if events & EVENT_DONE and self._callbacks:
            callbacks, self._callbacks = self._callbacks, []
            for callback in callbacks:
                try:
                    callback()
                except Exception:
                    _log.exception("a callback of a call raised")

    def wait(self, events: int) -> asyncio.Future[None]:
        """A future of the next of these events. Look first whether what it tells of is there."""
        future = self._loop.create_future()
        self._waiters.append((events, future))
        return future

    def at_end(self, callback: Callable[[], object]) -> None:
        self._callbacks.append(callback)
