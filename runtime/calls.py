"""The client's calls that outlive their making: futures and streams."""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NoReturn

import grpc
from zerohop import log
from zerohop._native import (
    EVENT_DONE,
    EVENT_INITIAL,
    EVENT_WRITABLE,
    ClientCall,
    Disposable,
    Received,
    now,
)
from zerohop.links import Links
from zerohop.status import CODES, NUMBERS, Metadata, Metadatum, Outcome

_log = log.logger("channel")

Serializer = Callable[[Any], bytes] | None
Deserializer = Callable[[bytes], Any] | None

_CANCELLED = NUMBERS[grpc.StatusCode.CANCELLED]
_UNKNOWN = NUMBERS[grpc.StatusCode.UNKNOWN]
_INTERNAL = NUMBERS[grpc.StatusCode.INTERNAL]

LOCALLY_CANCELLED = "Locally cancelled by application!"
BAD_REQUEST = "Exception serializing request!"
BAD_RESPONSE = "Exception deserializing response!"


def report(error: BaseException, text: str) -> None:
    """Log an exception of a (de)serializer or a request iterator, as grpcio does."""
    _log.error(text, exc_info=error)


def outcome_of(call: ClientCall) -> Outcome:
    """How a call that is done has ended."""
    number = call.code_number
    code = grpc.StatusCode.UNKNOWN if number is None else CODES[number]
    return Outcome(code, call.details_text or "", call.initial(Metadatum), call.trailing(Metadatum))


def deadline_after(timeout: float | None) -> int:
    """The deadline, in the nanoseconds of `_native.now`, of a timeout in seconds; 0 for none."""
    if timeout is None or timeout > 1e9:
        return 0
    return max(1, now() + int(timeout * 1e9))


class _MultiThreadedRendezvous(Disposable, grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """A call under way, its future, and the error that it may end with; the name is grpcio's.

    `call` is the native call. Dropping this object gives the call up, unless callbacks are waiting.
    """

    _deserializer: Deserializer = None
    _links: Links | None = None  # keeps the channel's links while the call is open
    _callbacks: list[Callable[[], None]] | None = None
    _response: Any = None
    _have_response = False
    _cancelled = False
    _local: tuple[grpc.StatusCode, str] | None = None  # an end that was made here, after the fact

    def __init__(self, call: ClientCall) -> None:
        super().__init__()
        self.call = call

    # --- grpc.RpcContext -----------------------------------------------------------------------

    def is_active(self) -> bool:
        return not self.call.is_done

    def time_remaining(self) -> float | None:  # type: ignore[override]
        deadline = self.call.deadline_ns
        return None if deadline == 0 else max(0.0, (deadline - now()) / 1e9)

    def cancel(self) -> bool:
        if self.call.cancel_with(_CANCELLED, LOCALLY_CANCELLED):
            self._cancelled = True
            return True
        return False

    def add_callback(self, callback: Callable[[], None]) -> bool:
        call = self.call
        if call.is_done:
            return False
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(callback)
        if call.on_event is None:
            call.on_event = self._on_event
            call.pinned = True
        return True

    def _on_event(self, events: int) -> None:
        if not events & EVENT_DONE:
            return
        self.call.on_event = None
        self.call.pinned = False
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            try:
                callback()
            except Exception:
                _log.exception("a callback of a call raised")

    # --- grpc.Call -----------------------------------------------------------------------------

    def initial_metadata(self) -> Metadata:
        self.call.wait(EVENT_INITIAL)
        return self.call.initial(Metadatum)

    def trailing_metadata(self) -> Metadata:  # type: ignore[override]
        self.call.wait(EVENT_DONE)
        return self.call.trailing(Metadatum)

    def code(self) -> grpc.StatusCode:
        self.call.wait(EVENT_DONE)
        return self._outcome().code

    def details(self) -> str:
        self.call.wait(EVENT_DONE)
        return self._outcome().details

    def debug_error_string(self) -> str:
        self.call.wait(EVENT_DONE)
        return self._outcome().debug_error_string()

    def _outcome(self) -> Outcome:
        outcome = outcome_of(self.call)
        if self._local is not None:
            outcome = outcome._replace(code=self._local[0], details=self._local[1])
        return outcome

    # --- grpc.Future ---------------------------------------------------------------------------

    def cancelled(self) -> bool:
        return self._cancelled

    def running(self) -> bool:
        return not self.call.is_done

    def done(self) -> bool:
        return self.call.is_done

    def result(self, timeout: float | None = None) -> Any:
        self._settle(timeout)
        if self._have_response:
            return self._response
        if self._cancelled:
            raise grpc.FutureCancelledError
        raise self

    def exception(self, timeout: float | None = None) -> Any:
        self._settle(timeout)
        if self._have_response:
            return None
        if self._cancelled:
            raise grpc.FutureCancelledError
        return self

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        error = self.exception(timeout)
        if error is None:
            return None
        try:
            raise error
        except grpc.RpcError:
            return sys.exc_info()[2]

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        if not self.add_callback(lambda: fn(self)):
            fn(self)

    def _settle(self, timeout: float | None) -> None:
        """Wait for the end and take the response of a unary one."""
        call = self.call
        if not call.is_done and not call.wait(EVENT_DONE, timeout):
            raise grpc.FutureTimeoutError
        if self._have_response or self._local is not None:
            return
        self._links = None
        if call.code_number == 0:
            self._take_response()

    def _take_response(self) -> None:
        message = self.call.recv()
        if not isinstance(message, (bytes, Received)):
            self._local = (grpc.StatusCode.INTERNAL, "the server sent no response")
        elif self._deserializer is None:
            self._response, self._have_response = message, True
        else:
            try:
                self._response = self._deserializer(message)
                self._have_response = True
            except Exception as error:
                report(error, "Exception deserializing message!")
                self._local = (grpc.StatusCode.INTERNAL, BAD_RESPONSE)

    def _dispose(self) -> None:
        if not self.call.is_done:
            self.call.cancel_with(_CANCELLED, "Cancelled upon garbage collection!")

    def __str__(self) -> str:
        if not self.call.is_done:
            return "<_MultiThreadedRendezvous object>"
        return self._outcome().describe("_MultiThreadedRendezvous")

    __repr__ = __str__


def drop_unread(call: ClientCall) -> bool:
    """Were there responses yet? To grpcio a call lasts until they have been read."""
    unread = False
    while isinstance(call.recv(), (bytes, Received)):
        unread = True
    return unread


class StreamRendezvous(_MultiThreadedRendezvous):
    """A call with a stream of responses: iterate over it."""

    def __iter__(self) -> StreamRendezvous:
        return self

    def cancel(self) -> bool:
        if super().cancel():
            return True
        unread = self._local is None and drop_unread(self.call)
        if unread:
            self._local = (grpc.StatusCode.CANCELLED, LOCALLY_CANCELLED)
            self._cancelled = True
        return unread

    def __next__(self) -> Any:
        message = self.call.next()
        if message is None:
            self._raise_end()
        deserializer = self._deserializer
        if deserializer is None:
            return message
        try:
            return deserializer(message)
        except Exception as error:
            report(error, "Exception deserializing message!")
            self._local = (grpc.StatusCode.INTERNAL, BAD_RESPONSE)
            self.call.cancel_with(_INTERNAL, BAD_RESPONSE)
            raise self from None

    next = __next__

    def _raise_end(self) -> NoReturn:
        call = self.call
        if not call.is_done:
            call.wait(EVENT_DONE)
        self._links = None
        if call.code_number == 0 and self._local is None:
            raise StopIteration
        raise self

    def _take_response(self) -> None:
        # The future of a stream has the call itself for a result.
        self._response, self._have_response = self, True


def feed(call: ClientCall, requests: Iterator[Any], serializer: Serializer) -> None:
    """Send the requests of an iterator from a thread of their own, as grpcio does.

    The thread does not keep the call alive while it waits for the next request.
    """
    threading.Thread(
        target=consume,
        args=(weakref.ref(call), requests, serializer),
        name="zerohop-requests",
        daemon=True,
    ).start()


def consume(
    reference: weakref.ref[ClientCall], requests: Iterator[Any], serializer: Serializer
) -> None:
    """Send requests until they or the call end; what `feed` runs."""
    while True:
        failure: Exception | None = None
        end = False
        request = None
        try:
            request = next(requests)  # a TypeError where it is no iterator, as in grpcio
        except StopIteration:
            end = True
        except Exception as error:
            failure = error
        call = reference()
        if call is None or call.is_done:
            return
        if end:
            call.half_close()
            return
        if failure is not None:
            report(failure, "Exception iterating requests!")
            call.cancel_with(_UNKNOWN, "Exception iterating requests!")
            return
        if serializer is not None:
            try:
                request = serializer(request)
            except Exception as error:
                report(error, "Exception serializing message!")
                request = None
        if request is None:
            call.cancel_with(_INTERNAL, BAD_REQUEST)
            return
        if not call.send(request) and not call.is_done:
            call.wait(EVENT_WRITABLE)
        del call


def wait_done(call: ClientCall) -> None:
    """Wait for the end of a call; a KeyboardInterrupt ends the call first."""
    try:
        call.wait(EVENT_DONE)
    except BaseException:
        call.cancel_with(_CANCELLED, LOCALLY_CANCELLED)
        raise


def monotonic_of(deadline_ns: int) -> float | None:
    """A deadline of `_native.now` on time.monotonic's scale."""
    return None if deadline_ns == 0 else time.monotonic() + (deadline_ns - now()) / 1e9
