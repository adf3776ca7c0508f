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
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import grpc
from zerohop._native import Disposable
from zerohop.address import bound_address
from zerohop.handlers import Handlers
from zerohop.options import ChannelArguments
from zerohop.run_entry import Published, listed
from zerohop.run_policy import with_defaults
from zerohop.server import Both, Core

MakePlain = Callable[..., grpc.Server]


class RunServer(Disposable, grpc.Server):
    """What `grpc.server` returns under `zerohop run`."""

    def __init__(
        self,
        make: MakePlain,
        thread_pool: Any,
        handlers: Sequence[grpc.GenericRpcHandler] | None,
        interceptors: Sequence[Any] | None,
        options: ChannelArguments | None,
        maximum_concurrent_rpcs: int | None,
        compression: grpc.Compression | None,
    ) -> None:
        handlers, interceptors = listed(handlers), listed(interceptors)
        self._plain = make(
            thread_pool, handlers, interceptors, options, maximum_concurrent_rpcs, compression
        )
        self._handlers = Handlers(interceptors)
        self._handlers.add_generic(handlers or ())
        self._arguments = (thread_pool, self._handlers, options, maximum_concurrent_rpcs)
        self._published = Published()
        self._core: Core | None = None
        self._pid = os.getpid()

    def __getattr__(self, name: str) -> Any:
        # What programs know of grpcio's own server.
        if name.startswith("__") or "_plain" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self._plain, name)

    # --- before it starts ----------------------------------------------------------------------

    def add_generic_rpc_handlers(
        self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]
    ) -> None:
        handlers = tuple(generic_rpc_handlers)
        self._plain.add_generic_rpc_handlers(handlers)
        self._handlers.add_generic(handlers)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Any]
    ) -> None:
        self._plain.add_registered_method_handlers(service_name, method_handlers)
        if self._core is None:  # grpcio takes none once it has started
            self._handlers.add_registered(service_name, method_handlers)

    def add_insecure_port(self, address: str) -> int:
        port = self._plain.add_insecure_port(address)
        self._published.add(bound_address(address, port))
        return port

    def add_secure_port(self, address: str, server_credentials: Any) -> int:
        return self._plain.add_secure_port(address, server_credentials)

    # --- from start to stop --------------------------------------------------------------------

    def start(self) -> None:
        self._plain.start()
        if self._core is None and self._published.addresses:
            self._published.enter(self._make_core)

    def _make_core(self) -> Core:
        pool, handlers, options, limit = self._arguments
        core = Core(pool, handlers, with_defaults(options), limit)
        self._core = core
        return core

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
