"""Servers of asyncio programs under `zerohop run`: grpcio's, and the short way to its handlers.

As in zerohop.run_server. Handlers of both ways run in the server's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio
from zerohop.address import bound_address
from zerohop.aio.server import Core
from zerohop.handlers import Handlers
from zerohop.options import ChannelArguments
from zerohop.run_entry import Published, listed
from zerohop.run_policy import with_defaults

MakePlain = Callable[..., grpc.aio.Server]


class RunServer(grpc.aio.Server):
    """What `grpc.aio.server` returns under `zerohop run`."""

    def __init__(
        self,
        make: MakePlain,
        migration_thread_pool: Any,
        handlers: Sequence[grpc.GenericRpcHandler] | None,
        interceptors: Sequence[Any] | None,
        options: ChannelArguments | None,
        maximum_concurrent_rpcs: int | None,
        compression: grpc.Compression | None,
    ) -> None:
        handlers, interceptors = listed(handlers), listed(interceptors)
        self._plain = make(
            migration_thread_pool,
            handlers,
            interceptors,
            options,
            maximum_concurrent_rpcs,
            compression,
        )
        self._handlers = Handlers(interceptors)
        self._handlers.add_generic(handlers or ())
        self._arguments = (migration_thread_pool, self._handlers, options, maximum_concurrent_rpcs)
        self._published = Published()
        self._core: Core | None = None
        self._pid = os.getpid()

    def __getattr__(self, name: str) -> Any:
        # What programs know of grpcio's own server.
        if name.startswith("__") or "_plain" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self._plain, name)

    def add_generic_rpc_handlers(
        self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]
    ) -> None:
        handlers = tuple(generic_rpc_handlers)
        self._plain.add_generic_rpc_handlers(handlers)
        self._handlers.add_generic(handlers)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        self._plain.add_registered_method_handlers(service_name, method_handlers)
        if self._core is None:  # grpcio takes none once it has started
            self._handlers.add_registered(service_name, method_handlers)

    def add_insecure_port(self, address: str) -> int:
        port = self._plain.add_insecure_port(address)
        self._published.add(bound_address(address, port))
        return port

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        return self._plain.add_secure_port(address, server_credentials)

    async def start(self) -> None:
        await self._plain.start()
        if self._core is None and self._published.addresses:
            self._published.enter(self._make_core)

    def _make_core(self) -> Core:
        pool, handlers, options, limit = self._arguments
        core = Core(pool, handlers, with_defaults(options), limit)
        self._core = core
        return core

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
