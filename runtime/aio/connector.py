"""Connecting without blocking the loop: a thread does it, and calls wait for it in the loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import grpc
from zerohop._native import ForkError, Link, now
from zerohop.aio.calls import NativeCall
from zerohop.links import RETRY_FIRST, RETRY_LAST, Links
from zerohop.pumps import LoopPump
from zerohop.status import FORKED, NUMBERS

_DEADLINE_EXCEEDED = NUMBERS[grpc.StatusCode.DEADLINE_EXCEEDED]
_FAILED_PRECONDITION = NUMBERS[grpc.StatusCode.FAILED_PRECONDITION]
_UNAVAILABLE = NUMBERS[grpc.StatusCode.UNAVAILABLE]
_CANCELLED = NUMBERS[grpc.StatusCode.CANCELLED]


class Waiting:
    """A call that has no link yet, and what it will be started with."""

    __slots__ = ("arguments", "call", "deadline", "late", "timer", "wait_for_ready")

    def __init__(
        self, call: NativeCall, deadline: int, wait_for_ready: bool, arguments: tuple[Any, ...]
    ) -> None:
        self.call = call
        self.deadline = deadline
        self.wait_for_ready = wait_for_ready
        self.arguments = arguments
        self.late = False  # came while an attempt was under way, so its failure says little
        self.timer: asyncio.TimerHandle | None = None

    def begin(self, links: Links, link: Link) -> None:
        self._stop_timer()
        self.call.begin(links.channel, link, *self.arguments)

    def fail(self, code: int, details: str) -> None:
        self._stop_timer()
        self.call.end(code, details)

    def _stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class Connector:
    """Finds links for the calls of a channel, one attempt at a time."""

    def __init__(self, links: Links, pump: LoopPump, loop: asyncio.AbstractEventLoop) -> None:
        self._links = links
        self._pump = pump
        self._loop = loop
        self._waiting: list[Waiting] = []
        self._running = False
        self._retry: asyncio.TimerHandle | None = None
        self._pause = RETRY_FIRST
        self._persistent = 0
        self._reason = ""

    def add(self, waiting: Waiting) -> None:
        """Start the call as soon as there is a link, or end it as grpcio would."""
        waiting.late = self._running
        if waiting.deadline:
            waiting.timer = self._loop.call_later(
                max(0.0, (waiting.deadline - now()) / 1e9), self._expire, waiting
            )
        self._waiting.append(waiting)
        self.connect()

    def persist(self, change: int) -> None:
        """Somebody waits for the channel to become ready (+1), or no more (-1)."""
        self._persistent += change
        if self._persistent:
            self.connect()

    def connect(self) -> None:
        """Try now, if nobody does."""
        if self._running:
            return
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._running = True
        threading.Thread(target=self._attempt, name="zerohop-connect", daemon=True).start()

    def calls(self) -> list[NativeCall]:
        """Those that wait."""
        return [waiting.call for waiting in self._waiting if not waiting.call.is_done]

    def close(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.fail(_CANCELLED, "Channel closed!")

    def _attempt(self) -> None:
        """In a thread: the loop goes on."""
        forked = False
        try:
            reason = self._links.connect()
        except ForkError:
            forked, reason = True, FORKED
        except Exception as error:
            reason = str(error)
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._attempted, reason, forked)

    def _attempted(self, reason: str, forked: bool) -> None:
        self._running = False
        self._reason = reason
        if self._links.closed:
            self.close()
            return
        if not reason:
            self._pause = RETRY_FIRST
        waiting, self._waiting = self._waiting, []
        late = False
        for one in waiting:
            if one.call.is_done:
                continue
            link = self._links.channel.pick()
            if link is not None:
                one.begin(self._links, link)
            elif forked:
                one.fail(_FAILED_PRECONDITION, FORKED)
            elif one.late or one.wait_for_ready:
                late = late or one.late
                one.late = False
                self._waiting.append(one)
            else:
                one.fail(_UNAVAILABLE, reason or "the server has just gone")
        self._pump.expect()
        if forked:
            return
        if late:
            self.connect()
        elif self._waiting or (self._persistent and reason):
            self._retry = self._loop.call_later(self._pause, self.connect)
            self._pause = min(self._pause * 2, RETRY_LAST)

    def _expire(self, waiting: Waiting) -> None:
        waiting.timer = None
        reason = f" ({self._reason})" if self._reason else ""
        waiting.fail(_DEADLINE_EXCEEDED, f"Deadline Exceeded{reason}")
