"""Channels of asyncio programs under `zerohop run`: calls take the short way while there is one.

As in zerohop.run_channel, but nothing blocks the loop: calls that are made before the first look
into the registry has ended are tasks that wait for its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio
from zerohop.address import Target
from zerohop.aio import channel as _channel
from zerohop.channel import NoLink
from zerohop.links import Links
from zerohop.options import ChannelArguments
from zerohop.run_aio_deferred import (
    DeferredStreamStreamCall,
    DeferredStreamUnaryCall,
    DeferredUnaryStreamCall,
    DeferredUnaryUnaryCall,
)
from zerohop.run_policy import run_options
from zerohop.run_way import FIRST_SECONDS, LOOK_SECONDS, Way

_READY = grpc.ChannelConnectivity.READY
_SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN

MakePlain = Callable[..., grpc.aio.Channel]


class Core(_channel.Core):
    """The two ways of a channel; shared by its multicallables."""

    elsewhere = True
    way: Way

    def __init__(
        self,
        make: MakePlain,
        target: Target,
        options: ChannelArguments | None,
        compression: grpc.Compression | None,
    ) -> None:
        super().__init__(target, ())
        self._options = run_options(options)
        self._given = options
        self._make = make
        self._arguments = (target.text, options, compression)
        self._plain: grpc.aio.Channel | None = None

    def _make_links(self) -> Links:
        self.way = Way(self.pump.pump, self._target, self._given)
        return self.way.links

    def short(self) -> bool:
        """Is there a link, or does one come of looking now?"""
        return self.way.linked() or (self._pid == os.getpid() and self._look_and_see())

    def _look_and_see(self) -> bool:
        self.way.look()
        return self.way.linked()

    def undecided(self) -> bool:
        """Is the first look still under way?"""
        return not self.way.looked and self.way.looking is not None

    def plain(self) -> grpc.aio.Channel:
        """grpcio's channel; without the interceptors, which are run here."""
        if self._plain is None:
            self._plain = self._make(*self._arguments)
        return self._plain

    def peek_plain(self) -> grpc.aio.Channel | None:
        return self._plain

    async def decide(self, timeout: float | None) -> None:
        """Wait for the end of the first look, within reason."""
        loop = self.loop
        ended = loop.create_future()

        def end() -> None:
            if not ended.done():
                ended.set_result(None)

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(end)

        self.way.on_looked.append(tell)
        try:
            if self.undecided():
                patience = FIRST_SECONDS if timeout is None else min(FIRST_SECONDS, timeout / 4)
                await asyncio.wait((ended,), timeout=max(0.0, patience))
        finally:
            self.way.on_looked.remove(tell)


class _Chooser:
    """The last interceptor of calls that have to wait for the first look."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def _intercept(self, continuation: Any, details: Any, request: Any) -> Any:
        await self._core.decide(details.timeout)
        return await continuation(details, request)

    intercept_unary_unary = intercept_unary_stream = _intercept
    intercept_stream_unary = intercept_stream_stream = _intercept


class _Method(_channel._Method):
    """What the multicallables of the four kinds share."""

    core: Core
    _grpc_kind: str
    _deferred: Any
    _plain: Any = None

    def _call(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        wait_for_ready: bool | None,
        compression: Any,
    ) -> Any:
        core = self.core
        core.check(credentials)
        interceptors = self._interceptors
        kind = self._intercepted if interceptors else self._deferred
        if not core.short() and core.undecided():
            interceptors = [*interceptors, _Chooser(core)]
        if not interceptors:
            arguments = (request, timeout, metadata, credentials, wait_for_ready)
            return self.invoke(self.method, *arguments, compression)
        call = kind(
            self,
            self.method,
            interceptors,
            core.loop,
            request,
            timeout,
            metadata,
            credentials,
            wait_for_ready,
        )
        self._active.add(call)
        return call

    def invoke(
        self,
        method: str,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        wait_for_ready: bool | None,
        compression: Any = None,
    ) -> Any:
        if self.core.short():
            with contextlib.suppress(NoLink):  # it has gone at the last moment
                return super().invoke(
                    method, request, timeout, metadata, credentials, wait_for_ready
                )
        return self._multicallable(method)(
            request,
            timeout=timeout,
            metadata=metadata,
            credentials=credentials,
            wait_for_ready=wait_for_ready,
            compression=compression,
        )

    def _multicallable(self, method: str) -> Any:
        make = getattr(self.core.plain(), self._grpc_kind)
        if method != self.method:  # an interceptor's doing
            return make(method, self._serializer, self._deserializer)
        if self._plain is None:
            self._plain = make(method, self._serializer, self._deserializer)
        return self._plain


class _UnaryUnary(_Method, _channel._UnaryUnary):
    _grpc_kind = "unary_unary"
    _deferred = DeferredUnaryUnaryCall


class _UnaryStream(_Method, _channel._UnaryStream):
    _grpc_kind = "unary_stream"
    _deferred = DeferredUnaryStreamCall


class _StreamUnary(_Method, _channel._StreamUnary):
    _grpc_kind = "stream_unary"
    _deferred = DeferredStreamUnaryCall


class _StreamStream(_Method, _channel._StreamStream):
    _grpc_kind = "stream_stream"
    _deferred = DeferredStreamStreamCall


class RunChannel(_channel.Channel):
    """What `grpc.aio.insecure_channel` returns under `zerohop run`."""

    _kinds: Mapping[str, Any] = {
        "unary_unary": _UnaryUnary,
        "unary_stream": _UnaryStream,
        "stream_unary": _StreamUnary,
        "stream_stream": _StreamStream,
    }
    _core: Core

    def __init__(
        self,
        make: MakePlain,
        target: Target,
        options: ChannelArguments | None,
        compression: grpc.Compression | None,
        interceptors: Sequence[Any] | None,
    ) -> None:
        self._open(Core(make, target, options, compression), interceptors)

    async def close(self, grace: float | None = None) -> None:
        core = self._core
        if grace and grace > 0 and not core.closed and core.native is not None:
            grace -= await self._until_decided(grace)
        plain = core.peek_plain()
        if plain is None:
            await super().close(grace)
        else:
            await asyncio.gather(super().close(grace), plain.close(grace))

    async def _until_decided(self, grace: float) -> float:
        """Let the calls that wait for the first look go their way. Returns how long that took."""
        loop = self._core.loop
        begin = loop.time()
        tasks = [call.making for call in self._chains.active]
        if tasks and self._core.undecided():
            await asyncio.wait(tasks, timeout=grace)
        return min(grace, loop.time() - begin)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        core = self._core
        if core.closed:
            return _SHUTDOWN
        core.bind()
        core.wants_connection = core.wants_connection or try_to_connect
        if core.way.linked() or (try_to_connect and core.short()):
            return _READY
        plain = core.peek_plain()
        if try_to_connect and not core.undecided():
            plain = core.plain()
        if plain is None:
            return grpc.ChannelConnectivity.IDLE
        return plain.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        core = self._core
        core.check_open()
        core.bind()
        loop, way = core.loop, core.way
        changed = asyncio.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(changed.set)

        way.links.watch(tell)
        way.on_looked.append(tell)
        waits: list[asyncio.Future[Any]] = []
        try:
            while self.get_state(core.wants_connection) is last_observed_state:
                changed.clear()
                waits = [loop.create_task(changed.wait())]
                plain = core.peek_plain()
                if plain is not None and not way.linked():
                    waits.append(loop.create_task(_leave(plain, plain.get_state())))
                # Servers that come are seen by looking.
                looks = core.wants_connection and last_observed_state is not _READY
                await asyncio.wait(
                    waits,
                    timeout=2 * LOOK_SECONDS if looks else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for wait in waits:
                    wait.cancel()
        finally:
            for wait in waits:
                wait.cancel()
            way.links.unwatch(tell)
            way.on_looked.remove(tell)


async def _leave(plain: grpc.aio.Channel, state: grpc.ChannelConnectivity) -> None:
    with contextlib.suppress(grpc.aio.UsageError):  # it has been closed
        await plain.wait_for_state_change(state)
