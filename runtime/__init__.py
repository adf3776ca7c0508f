"""An RPC transport with gRPC's interfaces; inside a node, over shared memory.

What grpc offers under these names is here as well, and the objects are grpc's: a channel is a
grpc.Channel, a server a grpc.Server, an error a grpc.RpcError.

    import zerohop
    channel = zerohop.insecure_channel("zerohop:///greeter")
    stub = greeter_pb2_grpc.GreeterStub(channel)
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent import futures
from typing import Any

import grpc
from zerohop import log as _log
from zerohop._native import (
    ArenaFull,
    __version__,
    alloc,
    stats,
    tune_malloc,
)
from zerohop.address import parse_target
from zerohop.channel import Channel
from zerohop.loans import loans
from zerohop.options import ChannelArguments
from zerohop.server import Server

_log.configure()


def insecure_channel(
    target: str,
    options: ChannelArguments | None = None,
    compression: grpc.Compression | None = None,
) -> grpc.Channel:
    """A channel to `target`.

    `shm:/path` and `zerohop:///name` go over shared memory; every other target is grpcio's.
    `options` are grpcio's channel arguments, and `zerohop.allow_uids` (user ids that may be linked
    with beside our own); those that mean nothing here are ignored. `compression` is accepted and
    ignored on shared memory.
    """
    parsed = parse_target(target)
    if parsed.native:
        return Channel(parsed, options)
    return grpc.insecure_channel(target, options, compression)


def secure_channel(
    target: str,
    credentials: grpc.ChannelCredentials,
    options: ChannelArguments | None = None,
    compression: grpc.Compression | None = None,
) -> grpc.Channel:
    """A channel with credentials: grpcio's. Raises ValueError for a target on shared memory."""
    if parse_target(target).native:
        raise ValueError(
            f"{target} is shared memory, which the kernel protects by user id: use "
            "insecure_channel (and zerohop.allow_uids for other users)"
        )
    return grpc.secure_channel(target, credentials, options, compression)


def server(
    thread_pool: futures.Executor | None = None,
    handlers: Sequence[grpc.GenericRpcHandler] | None = None,
    interceptors: Sequence[Any] | None = None,
    options: ChannelArguments | None = None,
    maximum_concurrent_rpcs: int | None = None,
    compression: grpc.Compression | None = None,
    xds: bool = False,
) -> grpc.Server:
    """A server; see zerohop.server.Server. `xds` is refused: there is no xDS on shared memory."""
    if xds:
        raise ValueError("xds=True does not apply to zerohop; use grpc.server")
    return Server(
        thread_pool, handlers, interceptors, options, maximum_concurrent_rpcs, compression
    )


def __getattr__(name: str) -> Any:
    if name == "install":
        import importlib

        # The module, which can be called: most programs have no use for it.
        return importlib.import_module("zerohop.install")
    if name in ("DecodeError", "EncodeError"):
        from zerohop import generated  # which imports protobuf

        return getattr(generated, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "ArenaFull",
    "DecodeError",
    "EncodeError",
    "__version__",
    "alloc",
    "insecure_channel",
    "install",
    "loans",
    "secure_channel",
    "server",
    "stats",
    "tune_malloc",
]
