"""Servers of asyncio programs under `zerohop run`: grpcio's, and the short way to its handlers.

As in zerohop.run_server. Handlers of both ways run in the server's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import grpc.aio
from zerohop.aio.server import Core
from zerohop.run_handlers import TwoWays


class RunServer(TwoWays[grpc.aio.Server, Core], grpc.aio.Server):
    """What `grpc.aio.server` returns under `zerohop run`."""

    _make = Core

    async def start(self) -> None:
        await self._plain.start()
        self._enter()

    async def stop(self, grace: float | None) -> None:
        self._published.withdraw()
        core = self._running()
        if core is None:
            await self._plain.stop(grace)
        else:
            if not core.stopping:
                core.stop_accepting()
            await asyncio.gather(core.stop(grace), self._plain.stop(grace))

    def _running(self) -> Core | None:
        core = self._core
        return core if core is not None and core.started and not core.forked() else None

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        if await self._plain.wait_for_termination(timeout):
            return True
        core = self._running()
        if core is None:
            return False
        left = None if end is None else max(0.0, end - time.monotonic())
        await asyncio.wait((core.termination,), timeout=left)
        return not core.termination.done()

    def __del__(self) -> None:
        # grpcio's server is dropped with this object, and stops.
        core = self.__dict__.get("_core")
        if core is None or core.termination.done() or core.forked():
            return
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            core.loop.call_soon_threadsafe(core.abandon)
            return
        with contextlib.suppress(Exception):
            core.abandon()
