"""Channels: grpc.Channel over shared memory."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import grpc
from zerohop._native import (
    ClientCall,
    Disposable,
    ForkError,
    Link,
    UnaryUnary,
    image_serializer,
    method_key,
)
from zerohop.address import Target
from zerohop.calls import (
    BAD_REQUEST,
    Deserializer,
    Serializer,
    StreamRendezvous,
    _MultiThreadedRendezvous,
    consume,
    deadline_after,
    feed,
    monotonic_of,
    outcome_of,
    report,
    wait_done,
)
from zerohop.connectivity import States, Subscriptions
from zerohop.links import Links, route_of
from zerohop.makers import Makers
from zerohop.options import ChannelArguments, parse
from zerohop.pumps import sync_pump
from zerohop.status import (
    FORKED,
    NUMBERS,
    Outcome,
    _InactiveRpcError,
    failed,
)

# grpcio's words; the second for call credentials on an insecure channel.
CHANNEL_CLOSED = "Channel closed!"
NO_CREDENTIALS = (
    "Established channel does not have a sufficient security level to transfer call credential."
)


def acquire(
    links: Links, deadline_ns: int, wait_for_ready: bool, stop: Callable[[], bool] = lambda: False
) -> Link:
    """A link for a call when `pick` had none. Blocks, until stop() at most.

    Raises RpcError: UNAVAILABLE at once without `wait_for_ready`, else DEADLINE_EXCEEDED.
    """
    if links.closed:
        raise ValueError("Cannot invoke RPC on closed channel!")
    deadline = monotonic_of(deadline_ns)
    try:
        if wait_for_ready:
            reason = links.retry(deadline, stop)
        elif deadline is None:
            reason = links.connect()
        else:
            reason = links.connect(max(0.0, deadline - time.monotonic()))
    except ForkError:
        raise failed(grpc.StatusCode.FAILED_PRECONDITION, FORKED) from None
    link = links.channel.pick()
    if link is not None:
        return link
    if links.closed:
        raise failed(grpc.StatusCode.CANCELLED, CHANNEL_CLOSED)
    if wait_for_ready or (deadline is not None and time.monotonic() >= deadline):
        raise failed(grpc.StatusCode.DEADLINE_EXCEEDED, f"Deadline Exceeded ({reason})")
    raise failed(grpc.StatusCode.UNAVAILABLE, reason or "the server has just gone")


# Of a call: timeout, metadata, credentials, wait_for_ready.
_Options = tuple[float | None, Any, Any, bool | None]


class NoLink(Exception):
    """There is no link for a call that has another way to go (`native.Channel.fallback`)."""


def _fail(call: ClientCall) -> NoReturn:
    raise _InactiveRpcError(outcome_of(call))


def answered(call: ClientCall, response: Any) -> _MultiThreadedRendezvous:
    """What with_call returns of a call that has been answered."""
    rendezvous = _MultiThreadedRendezvous(call)
    rendezvous._response, rendezvous._have_response = response, True
    return rendezvous


class _Method:
    """What the multicallables of the four kinds share."""

    def __init__(
        self, links: Links, method: str, serializer: Serializer, deserializer: Deserializer
    ) -> None:
        self._links = links
        self._method = method_key(method, serializer, deserializer)
        self._serializer = image_serializer(serializer)
        self._deserializer = deserializer

    def _begin(
        self,
        rendezvous: _MultiThreadedRendezvous,
        message: bytes | None,
        requests: Iterator[Any] | None,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        wait_for_ready: bool | None,
        background: bool = True,
    ) -> None:
        """Start a call, with a message or a stream of requests, without blocking.

        A failure to start is the call's status, as with grpcio's futures.
        """
        links = self._links
        if links.closed:
            raise ValueError("Cannot invoke RPC on closed channel!")
        native = links.channel
        call = rendezvous.call
        rendezvous._deserializer = self._deserializer
        rendezvous._links = links
        call.max_receive = native.max_receive
        call.max_send = native.max_send
        if credentials is not None:
            call.cancel_with(NUMBERS[grpc.StatusCode.UNAUTHENTICATED], NO_CREDENTIALS)
            return
        deadline = deadline_after(timeout)

        end = requests is None

        def start(link: Link) -> None:
            call.start(native, link, self._method, message, metadata, deadline, end, background)

        link = native.pick()
        if link is None and native.fallback is not None:
            raise NoLink
        if link is not None:
            start(link)
            if requests is not None:
                feed(call, requests, self._serializer)
            return

        def look_for_a_link() -> None:
            try:
                start(acquire(links, deadline, bool(wait_for_ready), lambda: call.is_done))
            except _InactiveRpcError as error:
                call.cancel_with(NUMBERS[error.code()], error.details())
            except ValueError:  # the channel has been closed before it was looked at
                call.cancel_with(NUMBERS[grpc.StatusCode.CANCELLED], CHANNEL_CLOSED)
            if requests is not None:
                consume(weakref.ref(call), requests, self._serializer)

        # At once: the caller may change the metadata, and may be waiting for a server for long.
        call.prepare(self._method, message, metadata, deadline, end)
        if call.is_done:
            return
        try:
            call.defer(native, deadline)
        except ForkError:
            raise failed(grpc.StatusCode.FAILED_PRECONDITION, FORKED) from None
        threading.Thread(target=look_for_a_link, name="zerohop-connect", daemon=True).start()

    def _serialize(self, call: ClientCall, request: Any) -> bytes | None:
        """The request's bytes; None when the serializer raised, which ends the call."""
        message: bytes | None = None
        try:
            message = request if self._serializer is None else self._serializer(request)
        except Exception as error:
            report(error, "Exception serializing message!")
        if message is None:
            call.cancel_with(NUMBERS[grpc.StatusCode.INTERNAL], BAD_REQUEST)
        return message


class _UnaryUnary(UnaryUnary, grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    """Blocking calls are the native base class's; futures go through _Method."""

    _async: _Method

    def __new__(
        cls, links: Links, method: str, serializer: Serializer, deserializer: Deserializer
    ) -> _UnaryUnary:
        self: Any = super().__new__(cls, links.channel, method, serializer, deserializer)
        self._async = _Method(links, method, serializer, deserializer)
        return self  # type: ignore[no-any-return]

    def with_call(  # type: ignore[override]
        self, *args: Any, **kwargs: Any
    ) -> tuple[Any, _MultiThreadedRendezvous]:
        response, call = super().with_call(*args, **kwargs)
        return response, answered(call, response)

    def future(  # type: ignore[override]
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> _MultiThreadedRendezvous:
        call = ClientCall()
        method = self._async
        message = method._serialize(call, request)
        if message is None:
            raise _InactiveRpcError(outcome_of(call))
        rendezvous = _MultiThreadedRendezvous(call)
        method._begin(rendezvous, message, None, timeout, metadata, credentials, wait_for_ready)
        return rendezvous


class _UnaryStream(_Method, grpc.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    def __call__(  # type: ignore[override]
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> StreamRendezvous:
        call = ClientCall()
        message = self._serialize(call, request)
        if message is None:
            raise _InactiveRpcError(outcome_of(call))
        stream = StreamRendezvous(call)
        self._begin(stream, message, None, timeout, metadata, credentials, wait_for_ready)
        return stream


class _StreamUnary(_Method, grpc.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    def _start(
        self, requests: Iterator[Any], options: _Options, background: bool = True
    ) -> _MultiThreadedRendezvous:
        rendezvous = _MultiThreadedRendezvous(ClientCall())
        self._begin(rendezvous, None, requests, *options, background)
        return rendezvous

    def _blocking(
        self, requests: Iterator[Any], options: _Options
    ) -> tuple[Any, _MultiThreadedRendezvous]:
        rendezvous = self._start(requests, options, background=False)
        wait_done(rendezvous.call)
        rendezvous._settle(None)
        if not rendezvous._have_response:
            raise _InactiveRpcError(rendezvous._outcome())
        return rendezvous._response, rendezvous

    def __call__(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        return self._blocking(request_iterator, (timeout, metadata, credentials, wait_for_ready))[0]

    def with_call(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> tuple[Any, _MultiThreadedRendezvous]:
        return self._blocking(request_iterator, (timeout, metadata, credentials, wait_for_ready))

    def future(  # type: ignore[override]
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> _MultiThreadedRendezvous:
        return self._start(request_iterator, (timeout, metadata, credentials, wait_for_ready))


class _StreamStream(_Method, grpc.StreamStreamMultiCallable):  # type: ignore[type-arg]
    def __call__(  # type: ignore[override]
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> StreamRendezvous:
        stream = StreamRendezvous(ClientCall())
        self._begin(stream, None, request_iterator, timeout, metadata, credentials, wait_for_ready)
        return stream


class Channel(Disposable, Makers, grpc.Channel):
    """A channel to the servers of a `shm:` or `zerohop:///` target; made by `insecure_channel`."""

    _kinds: Mapping[str, Any] = {
        "unary_unary": _UnaryUnary,
        "unary_stream": _UnaryStream,
        "stream_unary": _StreamUnary,
        "stream_stream": _StreamStream,
    }

    def __init__(self, target: Target, options: ChannelArguments | None) -> None:
        parsed = parse(options)
        self._open(Links(sync_pump(), route_of(target, parsed.allow_uids), parsed))

    def _open(self, links: Links, owner: Any = None, states: States | None = None) -> None:
        """Be the channel of these links; `owner` is what multicallables are made with."""
        native = links.channel
        native.fail = _fail
        native.report = report
        native.acquire = _acquirer(links)
        self._links = links
        self._owner = links if owner is None else owner
        self._subscriptions = Subscriptions(links if states is None else states)
        # grpc.intercept_channel and OpenTelemetry ask for the multicallable at every call.
        self._methods: dict[tuple[Any, ...], Any] = {}

    def subscribe(
        self, callback: Callable[[Any], None], try_to_connect: bool | None = None
    ) -> None:
        self._subscriptions.add(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[Any], None]) -> None:
        self._subscriptions.remove(callback)

    def _multicallable(
        self, kind: str, method: str, serializer: Serializer, deserializer: Deserializer
    ) -> Any:
        key = (kind, method, serializer, deserializer)
        make = self._kinds[kind]
        try:
            return self._methods[key]
        except KeyError:
            pass
        except TypeError:  # a serializer that cannot be hashed
            return make(self._owner, method, serializer, deserializer)
        if len(self._methods) > 4096:  # serializers made anew for every call
            self._methods.clear()
        return self._methods.setdefault(key, make(self._owner, method, serializer, deserializer))

    def close(self) -> None:
        self._subscriptions.clear()
        self._links.close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _dispose(self) -> None:
        subscriptions = getattr(self, "_subscriptions", None)
        if subscriptions is not None:
            subscriptions.clear()


def _acquirer(links: Links) -> Callable[[int, bool], Link]:
    """`acquire` for the native channel, which must not keep its Links alive."""
    reference = weakref.ref(links)

    def acquire_link(deadline_ns: int, wait_for_ready: bool) -> Link:
        alive = reference()
        if alive is None:
            raise failed(grpc.StatusCode.CANCELLED, CHANNEL_CLOSED)
        return acquire(alive, deadline_ns, wait_for_ready)

    return acquire_link


__all__ = ["Channel", "Outcome", "acquire"]
