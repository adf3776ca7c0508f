"""What servers under `zerohop run` share, whether synchronous or asyncio.

grpcio's server and the core beside it are told the same; each kind starts and stops them itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import grpc
from zerohop.address import bound_address
from zerohop.handlers import Handlers
from zerohop.options import ChannelArguments
from zerohop.run_entry import Core, Published, listed
from zerohop.run_policy import with_defaults

PlainT = TypeVar("PlainT", grpc.Server, "grpc.aio.Server")
CoreT = TypeVar("CoreT", bound=Core)


class TwoWays(Generic[PlainT, CoreT]):
    """grpcio's server, and the handlers, addresses and arguments of the core that start() makes."""

    _make: Callable[..., CoreT]

    def __init__(
        self,
        make_plain: Callable[..., PlainT],
        thread_pool: Any,
        handlers: Sequence[grpc.GenericRpcHandler] | None,
        interceptors: Sequence[Any] | None,
        options: ChannelArguments | None,
        maximum_concurrent_rpcs: int | None,
        compression: grpc.Compression | None,
    ) -> None:
        handlers, interceptors = listed(handlers), listed(interceptors)
        self._plain: PlainT = make_plain(
            thread_pool, handlers, interceptors, options, maximum_concurrent_rpcs, compression
        )
        self._handlers = Handlers(interceptors)
        self._handlers.add_generic(handlers or ())
        self._arguments = (thread_pool, self._handlers, options, maximum_concurrent_rpcs)
        self._published = Published()
        self._core: CoreT | None = None
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

    def _enter(self) -> None:
        """grpcio's server has started: the short way follows."""
        if self._core is None and self._published.addresses:
            self._published.enter(self._make_core)

    def _make_core(self) -> CoreT:
        pool, handlers, options, limit = self._arguments
        self._core = core = type(self)._make(pool, handlers, with_defaults(options), limit)
        return core
