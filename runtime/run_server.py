"""Servers of programs under `zerohop run`: grpcio's, and the short way to the same handlers.

What a program gets for `grpc.server` is grpcio's server on all its addresses, with a core of ours
beside it from `start()` to `stop()`, entered in the registry under the insecure ones. Both ways run
handlers in the program's pool. `maximum_concurrent_rpcs` holds for each way by itself.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time

import grpc
from zerohop._native import Disposable
from zerohop.run_handlers import TwoWays
from zerohop.server import Both, Core


class RunServer(TwoWays[grpc.Server, Core], Disposable, grpc.Server):
    """What `grpc.server` returns under `zerohop run`."""

    _make = Core

    def start(self) -> None:
        self._plain.start()
        self._enter()

    def stop(self, grace: float | None) -> threading.Event:
        self._published.withdraw()
        core = self._core
        if core is None or not core.started:
            return self._plain.stop(grace)
        return Both(core.stop(grace), self._plain.stop(grace))

    def wait_for_termination(self, timeout: float | None = None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        if self._plain.wait_for_termination(timeout):
            return True
        core = self._core
        if core is None or not core.started:
            return False
        return not core.termination.wait(None if end is None else max(0.0, end - time.monotonic()))

    def _dispose(self) -> None:
        # grpcio's server is dropped with this object, and stops.
        if self.__dict__.get("_pid") != os.getpid():  # the parent's goes on
            return
        with contextlib.suppress(Exception):
            self._published.withdraw()
        core = self.__dict__.get("_core")
        if core is not None and not core.termination.is_set():
            with contextlib.suppress(Exception):
                core.stop(None)
