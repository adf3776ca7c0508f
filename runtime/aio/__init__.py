"""The asyncio API: what grpc.aio offers, under the same names.

The objects are grpc.aio's: a channel is a grpc.aio.Channel, an error a grpc.aio.AioRpcError.
Objects of one event loop may only be used in its thread.

    from zerohop import aio
    async with aio.insecure_channel("zerohop:///greeter") as channel:
        reply = await greeter_pb2_grpc.GreeterStub(channel).SayHello(request)
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent import futures
from typing import Any

import grpc
import grpc.aio
from grpc.aio import (
    EOF,
    AbortError,
    AioRpcError,
    BaseError,
    Call,
    Channel,
    ClientCallDetails,
    ClientInterceptor,
    InternalError,
    Metadata,
    RpcContext,
    Server,
    ServerInterceptor,
    ServicerContext,
    StreamStreamCall,
    StreamStreamClientInterceptor,
    StreamStreamMultiCallable,
    StreamUnaryCall,
    StreamUnaryClientInterceptor,
    StreamUnaryMultiCallable,
    UnaryStreamCall,
    UnaryStreamClientInterceptor,
    UnaryStreamMultiCallable,
    UnaryUnaryCall,
    UnaryUnaryClientInterceptor,
    UnaryUnaryMultiCallable,
    UsageError,
    init_grpc_aio,
    shutdown_grpc_aio,
)
from zerohop.address import parse_target
from zerohop.aio import channel as _channel
from zerohop.aio import server as _server
from zerohop.aio.interceptors import InterceptedUnaryUnaryCall
from zerohop.options import ChannelArguments


def insecure_channel(
    target: str,
    options: ChannelArguments | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[ClientInterceptor] | None = None,
) -> Channel:
    """A channel to `target`.

    `shm:/path` and `zerohop:///name` go over shared memory; every other target is grpcio's.
    `options` are grpcio's channel arguments, and `zerohop.allow_uids` (user ids that may be linked
    with beside our own); those that mean nothing here are ignored. `compression` is accepted and
    ignored on shared memory.
    """
    parsed = parse_target(target)
    if parsed.native:
        return _channel.Channel(parsed, options, interceptors)
    return grpc.aio.insecure_channel(target, options, compression, interceptors)


def secure_channel(
    target: str,
    credentials: grpc.ChannelCredentials,
    options: ChannelArguments | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[ClientInterceptor] | None = None,
) -> Channel:
    """A channel with credentials: grpcio's. Raises ValueError for a target on shared memory."""
    if parse_target(target).native:
        raise ValueError(
            f"{target} is shared memory, which the kernel protects by user id: use "
            "insecure_channel (and zerohop.allow_uids for other users)"
        )
    return grpc.aio.secure_channel(target, credentials, options, compression, interceptors)


def server(
    migration_thread_pool: futures.Executor | None = None,
    handlers: Sequence[grpc.GenericRpcHandler] | None = None,
    interceptors: Sequence[Any] | None = None,
    options: ChannelArguments | None = None,
    maximum_concurrent_rpcs: int | None = None,
    compression: grpc.Compression | None = None,
) -> Server:
    """A server; see zerohop.aio.server.Server."""
    return _server.Server(
        migration_thread_pool, handlers, interceptors, options, maximum_concurrent_rpcs, compression
    )


__all__ = [
    "EOF",
    "AbortError",
    "AioRpcError",
    "BaseError",
    "Call",
    "Channel",
    "ClientCallDetails",
    "ClientInterceptor",
    "InterceptedUnaryUnaryCall",
    "InternalError",
    "Metadata",
    "RpcContext",
    "Server",
    "ServerInterceptor",
    "ServicerContext",
    "StreamStreamCall",
    "StreamStreamClientInterceptor",
    "StreamStreamMultiCallable",
    "StreamUnaryCall",
    "StreamUnaryClientInterceptor",
    "StreamUnaryMultiCallable",
    "UnaryStreamCall",
    "UnaryStreamClientInterceptor",
    "UnaryStreamMultiCallable",
    "UnaryUnaryCall",
    "UnaryUnaryClientInterceptor",
    "UnaryUnaryMultiCallable",
    "UsageError",
    "init_grpc_aio",
    "insecure_channel",
    "secure_channel",
    "server",
    "shutdown_grpc_aio",
]
