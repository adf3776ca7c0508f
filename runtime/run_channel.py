"""Channels of programs under `zerohop run`: each call takes the short way while there is one.

What a program gets for `grpc.insecure_channel` has a native channel, for the short way, and one of
grpcio's, made when a call first needs it. A blocking unary call stays in C while there is a link;
the native channel's `fallback` is asked when there is none.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from zerohop import channel as _channel
from zerohop._native import ClientCall, UnaryUnary
from zerohop.address import Target
from zerohop.calls import Deserializer, Serializer
from zerohop.channel import NoLink, answered
from zerohop.options import ChannelArguments
from zerohop.pumps import sync_pump
from zerohop.run_way import Way

CLOSED = "Cannot invoke RPC on closed channel!"

MakePlain = Callable[[str, ChannelArguments | None, grpc.Compression | None], grpc.Channel]


class Ways:
    """The two ways of a channel; shared by its multicallables."""

    def __init__(
        self,
        make: MakePlain,
        target: Target,
        options: ChannelArguments | None,
        compression: grpc.Compression | None,
    ) -> None:
        self._arguments = (make, target, options, compression)
        self.short = Way(sync_pump(), target, options)
        self.closed = False
        self._pid = os.getpid()
        self._plains: dict[int, grpc.Channel] = {}  # by process
        self.on_plain: Callable[[], None] | None = None

    def other(self, timeout: float | None) -> grpc.Channel | None:
        """The channel that a call goes over instead; None: there is the short way now."""
        if self.closed:
            raise ValueError(CLOSED)
        if os.getpid() == self._pid and self.short.choose(timeout):
            return None
        return self.plain()

    def plain(self) -> grpc.Channel:
        """grpcio's channel. In a process forked from the channel's, one made for that process."""
        pid = os.getpid()
        plain = self._plains.get(pid)
        if plain is None:
            make, target, options, compression = self._arguments
            if pid == self._pid:
                plain = make(target.text, options, compression)
            else:  # which may go the short way, with links of its own
                plain = RunChannel(make, target, options, compression)
            plain = self._plains.setdefault(pid, plain)
            if self.on_plain is not None:
                self.on_plain()
        return plain

    def peek_plain(self) -> grpc.Channel | None:
        """grpcio's channel, if there is one."""
        return self._plains.get(os.getpid())

    def close(self) -> None:
        self.closed = True
        self.short.links.close()
        plain = self.peek_plain()
        if plain is not None:
            plain.close()


class _Other:
    """One method over the other way; what the multicallables of the four kinds share."""

    def __init__(
        self,
        kind: str,
        ways: Ways,
        method: str,
        serializer: Serializer,
        deserializer: Deserializer,
    ) -> None:
        self._kind = kind
        self._ways = ways
        self._arguments = (method, serializer, deserializer)
        self._plain: tuple[grpc.Channel, Any] | None = None

    def choose(self, timeout: float | None) -> Any:
        """The multicallable to use in place of the short way's; None: use that."""
        for link in self._ways.short.links.channel.links:
            if link.alive:
                return None
        return self.look(timeout)

    def look(self, timeout: float | None) -> Any:
        """The same, when there was no link a moment ago."""
        channel = self._ways.other(timeout)
        return None if channel is None else self._of(channel)

    def gone(self) -> Any:
        """The multicallable to use when the last link has gone at the last moment."""
        return self._of(self._ways.plain())

    def _of(self, channel: grpc.Channel) -> Any:
        plain = self._plain
        if plain is None or plain[0] is not channel:
            make = getattr(channel, self._kind)
            plain = self._plain = (channel, make(*self._arguments))
        return plain[1]


def _timeout_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> float | None:
    """Of what a multicallable is called with: it comes after the request."""
    return args[1] if len(args) > 1 else kwargs.get("timeout")


def _fall_back(
    multicallable: _UnaryUnary,
    with_call: bool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None,
) -> Any:
    """Make a blocking unary call that has found no link."""
    kwargs = kwargs or {}
    other = multicallable.other.look(_timeout_of(args, kwargs))
    if other is None:
        other = multicallable
    return other.with_call(*args, **kwargs) if with_call else other(*args, **kwargs)


def _either_way(short: Callable[..., Any]) -> Any:
    """A method of a multicallable, of this signature: `short`, or the same of the other way."""
    name = short.__name__

    @functools.wraps(short)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        other = self.other.choose(_timeout_of(args, kwargs))
        if other is None:
            try:
                return short(self, *args, **kwargs)
            except NoLink:
                other = self.other.gone()
        return getattr(other, name)(*args, **kwargs)

    return call


class _UnaryUnary(_channel._UnaryUnary):
    other: _Other

    def __new__(cls, ways: Ways, *arguments: Any) -> _UnaryUnary:
        self = super().__new__(cls, ways.short.links, *arguments)
        assert isinstance(self, _UnaryUnary)
        self.other = _Other("unary_unary", ways, *arguments)
        return self

    def with_call(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        response, call = UnaryUnary.with_call(self, *args, **kwargs)
        return response, answered(call, response) if isinstance(call, ClientCall) else call

    future = _either_way(_channel._UnaryUnary.future)


class _Method(_channel._Method):
    """What the multicallables of the other three kinds share."""

    _kind: str

    def __init__(self, ways: Ways, *arguments: Any) -> None:
        super().__init__(ways.short.links, *arguments)
        self.other = _Other(self._kind, ways, *arguments)


class _UnaryStream(_Method, _channel._UnaryStream):
    _kind = "unary_stream"
    __call__ = _either_way(_channel._UnaryStream.__call__)


class _StreamUnary(_Method, _channel._StreamUnary):
    _kind = "stream_unary"
    __call__ = _either_way(_channel._StreamUnary.__call__)
    with_call = _either_way(_channel._StreamUnary.with_call)
    future = _either_way(_channel._StreamUnary.future)


class _StreamStream(_Method, _channel._StreamStream):
    _kind = "stream_stream"
    __call__ = _either_way(_channel._StreamStream.__call__)


class _BothWays:
    """The connectivity of both ways together, as Subscriptions want it of Links."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways
        self._links = ways.short.links
        self.pump = self._links.pump
        self._watched: grpc.Channel | None = None
        self._plain_state = grpc.ChannelConnectivity.IDLE
        self._poke: Callable[[], None] | None = None

    def state(self) -> grpc.ChannelConnectivity:
        if self._ways.closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        if self._ways.short.linked():
            return grpc.ChannelConnectivity.READY
        self._watch_plain(self._ways.peek_plain())
        return self._plain_state

    def connect(self) -> str:
        """Try the short way; without it, have grpcio try."""
        if not self._ways.short.choose(None):
            self._watch_plain(self._ways.plain())
        return ""

    def watch(self, watcher: Callable[[], None]) -> None:
        self._poke = self._ways.on_plain = watcher
        self._links.watch(watcher)

    def unwatch(self, watcher: Callable[[], None]) -> None:
        self._poke = self._ways.on_plain = None
        self._links.unwatch(watcher)
        if self._watched is not None:
            self._watched.unsubscribe(self._changed)
            self._watched = None

    def _watch_plain(self, plain: grpc.Channel | None) -> None:
        if plain is not None and plain is not self._watched:
            self._watched = plain
            plain.subscribe(self._changed, try_to_connect=True)

    def _changed(self, state: grpc.ChannelConnectivity) -> None:
        self._plain_state = state
        poke = self._poke
        if poke is not None:
            poke()


class RunChannel(_channel.Channel):
    """What `grpc.insecure_channel` returns under `zerohop run`."""

    _kinds: Mapping[str, Any] = {
        "unary_unary": _UnaryUnary,
        "unary_stream": _UnaryStream,
        "stream_unary": _StreamUnary,
        "stream_stream": _StreamStream,
    }

    def __init__(
        self,
        make: MakePlain,
        target: Target,
        options: ChannelArguments | None,
        compression: grpc.Compression | None,
    ) -> None:
        ways = self._ways = Ways(make, target, options, compression)
        self._open(ways.short.links, ways, _BothWays(ways))
        ways.short.links.channel.fallback = _fall_back

    def close(self) -> None:
        self._subscriptions.clear()
        self._ways.close()
