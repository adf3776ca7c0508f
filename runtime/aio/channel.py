"""Channels: grpc.aio.Channel over shared memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import grpc
import grpc.aio
from zerohop._native import Channel as NativeChannel
from zerohop._native import image_serializer, method_key
from zerohop.address import Target
from zerohop.aio.calls import (
    NativeCall,
    StreamStreamCall,
    StreamUnaryCall,
    UnaryStreamCall,
    UnaryUnaryCall,
)
from zerohop.aio.connector import Connector, Waiting
from zerohop.aio.interceptors import (
    Chains,
    Intercepted,
    InterceptedStreamStreamCall,
    InterceptedStreamUnaryCall,
    InterceptedUnaryStreamCall,
    InterceptedUnaryUnaryCall,
)
from zerohop.aio.signals import working_loop
from zerohop.calls import (
    BAD_REQUEST,
    LOCALLY_CANCELLED,
    Deserializer,
    Serializer,
    deadline_after,
    report,
)
from zerohop.channel import NoLink
from zerohop.links import Links, route_of
from zerohop.makers import Makers
from zerohop.options import ChannelArguments, parse
from zerohop.pumps import LoopPump, loop_pump
from zerohop.status import FORKED, NUMBERS

_CANCELLED = NUMBERS[grpc.StatusCode.CANCELLED]
_FAILED_PRECONDITION = NUMBERS[grpc.StatusCode.FAILED_PRECONDITION]
_INTERNAL = NUMBERS[grpc.StatusCode.INTERNAL]
_READY = grpc.ChannelConnectivity.READY
_SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN

# grpcio's words.
_CLOSED = "Channel is closed."
_NO_CREDENTIALS = "Call credentials are only valid on secure channels"


class Core:
    """What a channel and its multicallables share; bound to an event loop at its first use."""

    loop: asyncio.AbstractEventLoop
    pump: LoopPump
    links: Links
    connector: Connector
    elsewhere = False  # is there another way than by links?

    def __init__(self, target: Target, options: ChannelArguments | None) -> None:
        self._target = target
        self._options = parse(options)
        self._pid = os.getpid()
        self.native: NativeChannel | None = None
        self.closed = False
        self.wants_connection = False

    def bind(self) -> NativeChannel:
        """The native channel, on the loop that runs or is set for this thread."""
        if self.native is None:
            self.loop = working_loop()
            self.pump = loop_pump(self.loop)
            self.links = self._make_links()
            self.connector = Connector(self.links, self.pump, self.loop)
            self.native = self.links.channel
        return self.native

    def _make_links(self) -> Links:
        route = route_of(self._target, self._options.allow_uids)
        return Links(self.pump.pump, route, self._options)

    def begin(
        self,
        call: NativeCall,
        method: str,
        message: bytes | None,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        wait_for_ready: bool | None,
        pinned: bool,
    ) -> int:
        """Start a call, or have it wait for a link. Returns its deadline, 0 for none.

        Raises NoLink in place of waiting where calls have another way to go.
        """
        native = self.native
        assert native is not None
        call.links = self.links
        call.max_receive = native.max_receive
        call.max_send = native.max_send
        deadline = 0 if timeout is None else deadline_after(timeout)
        end = message is not None
        link = native.pick()
        if link is not None:
            call.begin(native, link, method, message, metadata, deadline, end, pinned)
            self.pump.expect()
        elif self.elsewhere:
            raise NoLink
        elif self._pid != os.getpid():
            call.end(_FAILED_PRECONDITION, FORKED)
        elif call.await_link(method, message, metadata, deadline, end):
            arguments = (method, message, metadata, deadline, end, pinned)
            self.connector.add(Waiting(call, deadline, bool(wait_for_ready), arguments))
        return deadline

    def check_open(self) -> None:
        if self.closed:
            raise grpc.aio.UsageError(_CLOSED)

    def check(self, credentials: Any) -> None:
        self.check_open()
        if credentials is not None:
            raise grpc.aio.UsageError(_NO_CREDENTIALS)
        if self.native is None:
            self.bind()


class _Method:
    """What the multicallables of the four kinds share."""

    _intercepted: type[Any]

    def __init__(
        self,
        core: Core,
        method: str,
        serializer: Serializer,
        deserializer: Deserializer,
        interceptors: Sequence[Any],
        active: weakref.WeakSet[Intercepted],
    ) -> None:
        self._active = active
        self.core = core
        self.method = method
        self._key = method_key(method, serializer, deserializer)
        self._serializer = serializer
        self._outgoing = image_serializer(serializer)
        self._deserializer = deserializer
        self._interceptors = interceptors

    def _serialize(self, call: NativeCall, request: Any) -> bytes | None:
        """The request's bytes; None when the serializer raised, which ends the call."""
        if self._outgoing is None:
            return request  # type: ignore[no-any-return]
        try:
            return self._outgoing(request)  # type: ignore[no-any-return]
        except Exception as error:
            report(error, BAD_REQUEST)
            call.end(_INTERNAL, BAD_REQUEST)
            return None

    def _key_of(self, method: str) -> Any:
        """What the core knows a method by; an interceptor may have changed it."""
        if method is self.method:
            return self._key
        return method_key(method, self._serializer, self._deserializer)

    def invoke(
        self,
        method: str,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        wait_for_ready: bool | None,
    ) -> Any:
        """Make the call, past the interceptors."""
        raise NotImplementedError

    def _call(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        wait_for_ready: bool | None,
        compression: Any,
    ) -> Any:
        """Make the call, through the interceptors. There is no compression here."""
        del compression
        if not self._interceptors:
            return self.invoke(self.method, request, timeout, metadata, credentials, wait_for_ready)
        core = self.core
        core.check(None)
        call: Intercepted = self._intercepted(
            self,
            self.method,
            self._interceptors,
            core.loop,
            request,
            timeout,
            metadata,
            credentials,
            wait_for_ready,
        )
        self._active.add(call)
        return call


class _OneRequest(_Method):
    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        return self._call(request, timeout, metadata, credentials, wait_for_ready, compression)


class _UnaryUnary(_OneRequest, grpc.aio.UnaryUnaryMultiCallable[Any, Any]):
    _intercepted = InterceptedUnaryUnaryCall

    def invoke(
        self,
        method: str,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        wait_for_ready: bool | None,
    ) -> UnaryUnaryCall:
        core = self.core
        core.check(credentials)
        call = UnaryUnaryCall()
        call._loop = core.loop
        call._pump = core.pump
        call._deserializer = self._deserializer
        message = self._serialize(call, request)
        if message is not None:
            call._deadline = core.begin(
                call,
                self._key_of(method),
                message,
                timeout,
                metadata,
                credentials,
                wait_for_ready,
                True,
            )
        return call


class _UnaryStream(_OneRequest, grpc.aio.UnaryStreamMultiCallable[Any, Any]):
    _intercepted = InterceptedUnaryStreamCall

    def invoke(
        self,
        method: str,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        wait_for_ready: bool | None,
    ) -> UnaryStreamCall:
        core = self.core
        core.check(credentials)
        call = UnaryStreamCall(core.loop, core.pump, self._deserializer)
        native = call._native
        message = self._serialize(native, request)
        if message is not None:
            call._deadline = core.begin(
                native,
                self._key_of(method),
                message,
                timeout,
                metadata,
                credentials,
                wait_for_ready,
                False,
            )
        return call


class _StreamUnary(_Method, grpc.aio.StreamUnaryMultiCallable[Any, Any]):
    _kind: Any = StreamUnaryCall
    _intercepted: type[Any] = InterceptedStreamUnaryCall

    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        return self._call(
            request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )

    def invoke(
        self,
        method: str,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        wait_for_ready: bool | None,
    ) -> Any:
        core = self.core
        core.check(credentials)
        call = self._kind(core.loop, core.pump, self._deserializer)
        call._deadline = core.begin(
            call._native,
            self._key_of(method),
            None,
            timeout,
            metadata,
            credentials,
            wait_for_ready,
            False,
        )
        call.feed(request, self._outgoing)
        return call


class _StreamStream(_StreamUnary, grpc.aio.StreamStreamMultiCallable[Any, Any]):
    _kind = StreamStreamCall
    _intercepted = InterceptedStreamStreamCall


class Channel(Makers, grpc.aio.Channel):
    """A channel to the servers of a `shm:` or `zerohop:///` target; made by `insecure_channel`."""

    _kinds: Mapping[str, Any] = {
        "unary_unary": _UnaryUnary,
        "unary_stream": _UnaryStream,
        "stream_unary": _StreamUnary,
        "stream_stream": _StreamStream,
    }

    def __init__(
        self,
        target: Target,
        options: ChannelArguments | None,
        interceptors: Sequence[Any] | None,
    ) -> None:
        self._open(Core(target, options), interceptors)

    def _open(self, core: Core, interceptors: Sequence[Any] | None) -> None:
        self._chains = Chains(interceptors)
        self._core = core
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            self._core.bind()

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close(None)

    async def close(self, grace: float | None = None) -> None:
        core = self._core
        if core.closed:
            return
        if grace and grace < 0:
            raise ValueError(f"grace must be non-negative, got {grace}.")
        core.closed = True
        native = core.bind()
        if grace:
            open_calls = [
                *(call for call in native.calls() if isinstance(call, NativeCall)),
                *core.connector.calls(),
            ]
            waits = [core.loop.create_task(call.until_done(core.loop)) for call in open_calls]
            if waits:
                await asyncio.wait(waits, timeout=grace)
                for wait in waits:
                    wait.cancel()
        for call in list(self._chains.active):
            call.cancel()
        native.cancel_all(_CANCELLED, LOCALLY_CANCELLED)
        core.connector.close()
        core.links.close()
        core.pump.expect()

    # --- connectivity --------------------------------------------------------------------------

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        core = self._core
        if core.closed:
            return _SHUTDOWN
        core.bind()
        state = core.links.state()
        if try_to_connect:
            core.wants_connection = True
            if state is not _READY:
                core.connector.connect()
        return state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        core = self._core
        core.check_open()
        core.bind()
        loop, links = core.loop, core.links
        changed = asyncio.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(changed.set)

        links.watch(tell)
        persistent = core.wants_connection and last_observed_state is not _READY
        if persistent:
            core.connector.persist(1)
        try:
            while links.state() is last_observed_state:
                changed.clear()
                await changed.wait()
        finally:
            links.unwatch(tell)
            if persistent:
                core.connector.persist(-1)

    async def channel_ready(self) -> None:
        state = self.get_state(try_to_connect=True)
        while state is not _READY:
            await self.wait_for_state_change(state)
            state = self.get_state(try_to_connect=True)

    def _multicallable(
        self, kind: str, method: str, serializer: Serializer, deserializer: Deserializer
    ) -> Any:
        chains = self._chains
        make = self._kinds[kind]
        chain = getattr(chains, kind)
        return make(self._core, method, serializer, deserializer, chain, chains.active)
