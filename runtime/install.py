"""`zerohop.install()`: from now on, `grpc.server` and `grpc.insecure_channel` take the short way.

What they return are grpc's own kinds of objects, which use grpcio for whatever has no short way;
see zerohop.run_server, zerohop.run_channel and, for grpc.aio, zerohop.run_aio_server and
zerohop.run_aio_channel. `zerohop run` calls this when a program imports grpc.

The module can be called, because it has the name of its function: `zerohop.install()`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from functools import wraps
from types import ModuleType
from typing import Any

import grpc
import grpc.aio
import zerohop
from zerohop import run_policy
from zerohop.address import Target, parse_target
from zerohop.options import ChannelArguments
from zerohop.run_channel import RunChannel
from zerohop.run_entry import listed
from zerohop.run_server import RunServer

_lock = threading.Lock()
_originals: dict[tuple[ModuleType, str], Any] = {}


def install() -> None:
    """Let the servers and channels that grpc makes from now on take the short way. Idempotent."""
    with _lock:
        if _originals:
            return
        run_policy.configure()
        _replace(grpc, "server", _server)
        _replace(grpc, "insecure_channel", _insecure_channel)
        _replace(grpc.aio, "server", _aio_server)
        _replace(grpc.aio, "insecure_channel", _aio_insecure_channel)


def uninstall() -> None:
    """Give grpc its functions back, where nobody else has replaced them since."""
    with _lock:
        for (module, name), original in _originals.items():
            if getattr(getattr(module, name), "_zerohop_run", False):
                setattr(module, name, original)
        _originals.clear()


def _replace(module: ModuleType, name: str, make: Callable[[Any], Any]) -> None:
    original = _originals[module, name] = getattr(module, name)
    ours: Any = wraps(original)(make(original))
    ours._zerohop_run = True
    setattr(module, name, ours)


def _insecure_channel(original: Callable[..., grpc.Channel]) -> Callable[..., grpc.Channel]:
    def insecure_channel(
        target: str,
        options: ChannelArguments | None = None,
        compression: grpc.Compression | None = None,
    ) -> grpc.Channel:
        options = listed(options)
        parsed = _may_be_short(target, options)
        if parsed is None:
            return original(target, options, compression)
        if parsed.native:
            return zerohop.insecure_channel(target, options, compression)
        return RunChannel(original, parsed, options, compression)

    return insecure_channel


def _aio_insecure_channel(
    original: Callable[..., grpc.aio.Channel],
) -> Callable[..., grpc.aio.Channel]:
    def insecure_channel(
        target: str,
        options: ChannelArguments | None = None,
        compression: grpc.Compression | None = None,
        interceptors: Sequence[Any] | None = None,
    ) -> grpc.aio.Channel:
        # Here, because most programs have no use for them.
        from zerohop import aio
        from zerohop.run_aio_channel import RunChannel

        options, interceptors = listed(options), listed(interceptors)
        parsed = _may_be_short(target, options)
        if parsed is None:
            return original(target, options, compression, interceptors)
        if parsed.native:
            return aio.insecure_channel(target, options, compression, interceptors)
        return RunChannel(original, parsed, options, compression, interceptors)

    return insecure_channel


def _may_be_short(target: str, options: ChannelArguments | None) -> Target | None:
    """The parsed target of a channel that need not stay on grpcio."""
    try:
        parsed = parse_target(target)
    except (TypeError, ValueError):  # grpcio has its own words for it
        return None
    reason = "" if parsed.native else run_policy.why_grpcio(parsed, options)
    if reason:
        run_policy.explain(target, "over grpcio", reason)
        return None
    return parsed


def _server(original: Callable[..., grpc.Server]) -> Callable[..., grpc.Server]:
    def server(
        thread_pool: futures.Executor,
        handlers: Sequence[grpc.GenericRpcHandler] | None = None,
        interceptors: Sequence[Any] | None = None,
        options: ChannelArguments | None = None,
        maximum_concurrent_rpcs: int | None = None,
        compression: grpc.Compression | None = None,
        xds: bool = False,
    ) -> grpc.Server:
        if xds:
            return original(
                thread_pool,
                handlers,
                interceptors,
                options,
                maximum_concurrent_rpcs,
                compression,
                xds,
            )
        return RunServer(
            original,
            thread_pool,
            handlers,
            interceptors,
            options,
            maximum_concurrent_rpcs,
            compression,
        )

    return server


def _aio_server(original: Callable[..., grpc.aio.Server]) -> Callable[..., grpc.aio.Server]:
    def server(
        migration_thread_pool: futures.Executor | None = None,
        handlers: Sequence[grpc.GenericRpcHandler] | None = None,
        interceptors: Sequence[Any] | None = None,
        options: ChannelArguments | None = None,
        maximum_concurrent_rpcs: int | None = None,
        compression: grpc.Compression | None = None,
    ) -> grpc.aio.Server:
        from zerohop.run_aio_server import RunServer

        return RunServer(
            original,
            migration_thread_pool,
            handlers,
            interceptors,
            options,
            maximum_concurrent_rpcs,
            compression,
        )

    return server


class _Module(ModuleType):
    """This module, which `zerohop.install` names after it has been imported."""

    def __call__(self) -> None:
        install()


sys.modules[__name__].__class__ = _Module
