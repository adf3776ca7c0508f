"""The client's calls: grpc.aio's four kinds over `_native.ClientCall`.

A unary call is the core's object itself, which runs whoever keeps it. A stream is a handle beside
it: when the handle is dropped, so is the core's object, and with it the call.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterable, Callable, Generator
from typing import Any, NoReturn

import grpc
import grpc.aio
from zerohop import log
from zerohop._native import (
    EVENT_DONE,
    EVENT_INITIAL,
    EVENT_MESSAGE,
    EVENT_WRITABLE,
    Channel,
    ClientCall,
    ForkError,
    Link,
    Received,
    now,
)
from zerohop.aio.signals import EVENT_CONNECTED, EVERYTHING, Signals
from zerohop.calls import (
    BAD_REQUEST,
    BAD_RESPONSE,
    LOCALLY_CANCELLED,
    Deserializer,
    Serializer,
    drop_unread,
    outcome_of,
    report,
)
from zerohop.links import Links
from zerohop.pumps import LoopPump
from zerohop.status import CODES, FORKED, NUMBERS, Metadatum, Outcome

_log = log.logger("channel")

_CANCELLED = NUMBERS[grpc.StatusCode.CANCELLED]
_INTERNAL = NUMBERS[grpc.StatusCode.INTERNAL]
_FAILED_PRECONDITION = NUMBERS[grpc.StatusCode.FAILED_PRECONDITION]

# grpcio's words.
ALREADY_FINISHED = "RPC already finished."
HALF_CLOSED = 'RPC is half closed after calling "done_writing".'
STYLES_MIXED = "The iterator and read/write APIs may not be mixed on a single RPC."

EOF = grpc.aio.EOF


class NativeCall(ClientCall):
    """A call of the core and what belongs to it whoever holds it."""

    signals: Signals | None = None
    links: Links | None = None  # keeps the channel's links while the call is open
    failure: Exception | None = None  # what awaiting raises, when it is no status
    connecting = False
    future: asyncio.Future[None] | None = None  # of those who await the response

    def begin(
        self,
        channel: Channel,
        link: Link,
        method: str,
        message: bytes | None,
        metadata: Any,
        deadline: int,
        end: bool,
        pinned: bool,
    ) -> None:
        """Start it on a link. A failure to is how the call ends."""
        self._try(self.start, channel, link, method, message, metadata, deadline, end, pinned)
        if self.is_done:
            self.settle()
        elif self.connecting:
            self.connecting = False
            if self.signals is not None:
                self.signals.tell(EVENT_CONNECTED)

    def await_link(
        self, method: str, message: bytes | None, metadata: Any, deadline: int, end: bool
    ) -> bool:
        """Prepare it for a link that is looked for. False when that has failed and so ended it."""
        self._try(self.prepare, method, message, metadata, deadline, end)
        self.connecting = not self.is_done
        if self.is_done:
            self.settle()
        return self.connecting

    def _try(self, step: Callable[..., None], *arguments: Any) -> None:
        try:
            step(*arguments)
        except TypeError as error:
            self.failure = error
            self.cancel_with(_INTERNAL, str(error))
        except ValueError as error:
            self.failure = grpc.aio.InternalError(str(error))
            self.cancel_with(_INTERNAL, str(error))
        except ForkError:
            self.cancel_with(_FAILED_PRECONDITION, FORKED)

    def listen(self, loop: asyncio.AbstractEventLoop) -> Signals:
        """Its signals; made when somebody wants to know more than the end."""
        signals = self.signals
        if signals is None:
            signals = self.signals = Signals(loop)
            self.on_event = signals.tell
        return signals

    async def until_done(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self.is_done:
            await self.listen(loop).wait(EVENT_DONE)

    def end(self, code: int, details: str) -> bool:
        """End it here; who waits hears of it. False when it is over already."""
        if not self.cancel_with(code, details):
            return False
        self.settle()
        return True

    def settle(self) -> None:
        """Tell of an end that was made here, which no pump may tell of."""
        self.connecting = False
        self.links = None
        if self.signals is not None:
            self.signals.tell(EVERYTHING)
        future = self.future
        if future is not None and not future.done():
            future.set_result(None)


class _Call:
    """What the four kinds share: grpc.aio.Call."""

    _native: NativeCall
    _loop: asyncio.AbstractEventLoop
    _pump: LoopPump
    _deserializer: Deserializer
    _deadline = 0
    _local: Outcome | None = None  # an end that was found out here, after the core's

    def _signals(self) -> Signals:
        return self._native.listen(self._loop)

    async def _wait(self, events: int) -> None:
        """Wait for an event; as in grpcio, to cancel who waits cancels the call."""
        try:
            await self._signals().wait(events)
        except asyncio.CancelledError:
            self.cancel()
            raise

    # --- grpc.aio.RpcContext -------------------------------------------------------------------

    def cancelled(self) -> bool:
        return self._native.code_number == _CANCELLED

    def done(self) -> bool:
        return self._native.is_done

    def time_remaining(self) -> float | None:
        deadline = self._deadline
        return None if deadline == 0 else max(0.0, (deadline - now()) / 1e9)

    def cancel(self) -> bool:
        return self._cancel(_CANCELLED, LOCALLY_CANCELLED)

    def _cancel(self, code: int, details: str) -> bool:
        if not self._native.end(code, details):
            return False
        self._pump.expect()
        return True

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self._native.is_done:
            callback(self)
        else:
            self._signals().at_end(functools.partial(callback, self))
            self._native.pinned = True  # until it is done

    # --- grpc.aio.Call -------------------------------------------------------------------------

    async def _until_done(self) -> Outcome:
        await self._native.until_done(self._loop)
        return self._outcome()

    def _outcome(self) -> Outcome:
        return outcome_of(self._native) if self._local is None else self._local

    async def initial_metadata(self) -> grpc.aio.Metadata:
        native = self._native
        if not native.is_done and not native.got_initial:
            await self._signals().wait(EVENT_INITIAL | EVENT_DONE)
        return grpc.aio.Metadata(*native.initial(Metadatum))

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata(*(await self._until_done()).trailing_metadata)

    async def code(self) -> grpc.StatusCode:
        return (await self._until_done()).code

    async def details(self) -> str:
        return (await self._until_done()).details

    async def debug_error_string(self) -> str:
        return (await self._until_done()).debug_error_string()

    async def wait_for_connection(self) -> None:
        while self._native.connecting:
            await self._wait(EVENT_CONNECTED)
        if self._native.is_done:
            self._raise_for_status()

    def _raise_for_status(self) -> None:
        """Raise what stands for the status of a call that is over; nothing for OK."""
        native = self._native
        native.links = None
        if native.was_cancelled:
            raise asyncio.CancelledError
        if native.failure is not None:
            raise native.failure
        if native.code_number != 0 or self._local is not None:
            self._raise(self._outcome())

    @staticmethod
    def _raise(outcome: Outcome) -> NoReturn:
        raise grpc.aio.AioRpcError(
            outcome.code,
            grpc.aio.Metadata(*outcome.initial_metadata),
            grpc.aio.Metadata(*outcome.trailing_metadata),
            details=outcome.details,
            debug_error_string=outcome.debug_error_string(),
        )

    def _broken_response(self, error: Exception) -> NoReturn:
        report(error, BAD_RESPONSE)
        self._native.cancel_with(_INTERNAL, BAD_RESPONSE)
        outcome = outcome_of(self._native)
        self._local = outcome._replace(code=grpc.StatusCode.INTERNAL, details=BAD_RESPONSE)
        self._raise(self._local)

    def _response(self) -> Any:
        """The response of a call with a unary one that is over; or raise."""
        if self._native.code_number != 0 or self._local is not None:
            self._raise_for_status()
        self._native.links = None
        message = self._native.recv()
        if not isinstance(message, (bytes, Received)):
            self._local = Outcome(grpc.StatusCode.INTERNAL, "the server sent no response")
            self._raise(self._local)
        if self._deserializer is None:
            return message
        try:
            return self._deserializer(message)
        except Exception as error:
            self._broken_response(error)

    def __repr__(self) -> str:
        name = type(self).__name__
        return self._outcome().describe(name) if self._native.is_done else f"<{name} object>"

    __str__ = __repr__


_NOTHING = object()


class UnaryUnaryCall(_Call, NativeCall, grpc.aio.UnaryUnaryCall[Any, Any]):
    """One request, one response: the whole call is one object."""

    _result: Any = _NOTHING

    @property
    def _native(self) -> NativeCall:  # type: ignore[override]
        return self

    def __await__(self) -> Generator[Any, None, Any]:
        if not self.is_done:
            future = self.future
            if future is None:
                future = self.future = self.waiter = self._loop.create_future()
            try:
                yield from future
            except asyncio.CancelledError:
                self.cancel()
                raise
        if self._result is _NOTHING:
            self._result = self._response()
        return self._result


class _Stream(_Call):
    """A call whose handle is not the core's object."""

    _half_closed = False

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pump: LoopPump, deserializer: Deserializer
    ) -> None:
        self._loop = loop
        self._pump = pump
        self._deserializer = deserializer
        self._native = NativeCall()
        self._native.listen(loop)


_ANY_STYLE, _ITERATOR_STYLE, _READ_STYLE = range(3)


class _StreamResponse(_Stream):
    """Reading a stream of responses: by iteration or by read()."""

    _style = _ANY_STYLE
    _drained = False  # nothing more to read
    _given_up = False  # cancelled after the core's end, before its responses had been read

    def cancelled(self) -> bool:
        return self._given_up or super().cancelled()

    def _cancel(self, code: int, details: str) -> bool:
        if super()._cancel(code, details):
            return True
        unread = self._local is None and drop_unread(self._native)
        if unread:
            self._given_up = True
            self._local = Outcome(CODES[code], details)
        return unread

    def _use(self, style: int) -> None:
        if self._style == _ANY_STYLE:
            self._style = style
        elif self._style != style:
            raise grpc.aio.UsageError(STYLES_MIXED)

    def __aiter__(self) -> Any:
        self._use(_ITERATOR_STYLE)
        return self

    async def __anext__(self) -> Any:
        native = self._native
        message = native.recv()
        while message is False:
            await self._wait(EVENT_MESSAGE | EVENT_DONE)
            message = native.recv()
        if message is None or native.was_cancelled:
            self._drained = True
            if self._given_up:
                raise asyncio.CancelledError
            self._raise_for_status()
            raise StopAsyncIteration
        if self._deserializer is None:
            return message
        try:
            return self._deserializer(message)
        except Exception as error:
            self._broken_response(error)

    async def read(self) -> Any:
        if not self._drained:
            self._use(_READ_STYLE)
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            return EOF


class _StreamRequest(_Stream):
    """Writing a stream of requests: from an iterator or by write()."""

    _feeder: asyncio.Task[None] | None = None
    _fed = False
    _serializer: Serializer

    @property
    def _done_writing_flag(self) -> bool:  # grpcio's name, which its interceptors ask for
        return self._half_closed

    def feed(self, requests: Any, serializer: Serializer) -> None:
        """Where the requests come from; None: from write()."""
        self._serializer = serializer
        if requests is not None:
            self._fed = True
            self._feeder = self._loop.create_task(self._consume(requests))

    async def _consume(self, requests: Any) -> None:
        try:
            if isinstance(requests, AsyncIterable):
                async for request in requests:
                    await self._write(request)
            else:
                for request in requests:
                    await self._write(request)
            await self._done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            _log.debug("the call ended while its requests were read: %s", error)
        except asyncio.CancelledError:
            self.cancel()
        except Exception:
            _log.debug("the request iterator raised", exc_info=True)
            self.cancel()
        finally:
            self._feeder = None

    def cancel(self) -> bool:
        feeder = self._feeder
        if feeder is not None and not self._native.is_done:
            feeder.cancel()
        return super().cancel()

    async def _connected(self) -> None:
        while self._native.connecting:
            await self._wait(EVENT_CONNECTED)
        if self._native.is_done:
            self._raise_for_status()

    async def _write(self, request: Any) -> None:
        native = self._native
        if native.is_done:
            raise asyncio.InvalidStateError(ALREADY_FINISHED)
        if self._half_closed:
            raise asyncio.InvalidStateError(HALF_CLOSED)
        if native.connecting:
            await self._connected()
        message = request
        if self._serializer is not None:
            try:
                message = self._serializer(request)
            except Exception as error:
                report(error, BAD_REQUEST)
                self._cancel(_INTERNAL, BAD_REQUEST)
                self._raise_for_status()
        if not native.send(message):
            self._pump.expect()
            while not native.is_done and not native.writable:
                await self._wait(EVENT_WRITABLE | EVENT_DONE)
            if native.is_done:
                self._raise_for_status()
        else:
            self._pump.expect()

    async def _done_writing(self) -> None:
        if self._native.is_done or self._half_closed:
            return
        self._half_closed = True
        if self._native.connecting:
            await self._connected()
        self._native.half_close()
        self._pump.expect()

    async def write(self, request: Any) -> None:
        if self._fed:
            raise grpc.aio.UsageError(STYLES_MIXED)
        await self._write(request)

    async def done_writing(self) -> None:
        if self._fed:
            raise grpc.aio.UsageError(STYLES_MIXED)
        await self._done_writing()


class UnaryStreamCall(_StreamResponse, grpc.aio.UnaryStreamCall[Any, Any]):
    """One request, a stream of responses."""


class StreamUnaryCall(_StreamRequest, grpc.aio.StreamUnaryCall[Any, Any]):
    """A stream of requests, one response."""

    _result: Any = _NOTHING

    def __await__(self) -> Generator[Any, None, Any]:
        native = self._native
        if not native.is_done:
            future = native.future
            if future is None:
                future = native.future = native.waiter = self._loop.create_future()
            try:
                yield from future
            except asyncio.CancelledError:
                self.cancel()
                raise
        if self._result is _NOTHING:
            self._result = self._response()
        return self._result

    async def _done_writing(self) -> None:
        await super()._done_writing()
        # All requests are out: as in grpcio, the call goes on without anybody.
        if not self._native.is_done:
            self._native.pinned = True


class StreamStreamCall(_StreamRequest, _StreamResponse, grpc.aio.StreamStreamCall[Any, Any]):
    """A stream of requests, a stream of responses."""
