"""The client's calls that outlive their making: futures and streams."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import grpc

from zerohop import log
from zerohop._native import EVENT_DONE, EVENT_INITIAL, EVENT_WRITABLE, ClientCall, now
from zerohop.links import Links
from zerohop.status import CODES, NUMBERS, Metadata, Metadatum, Outcome, _MultiThreadedRendezvous

_log = log.logger("channel")

Serializer = Callable[[Any], bytes] | None
Deserializer = Callable[[bytes], Any] | None

_CANCELLED = NUMBERS[grpc.StatusCode.CANCELLED]
_UNKNOWN = NUMBERS[grpc.StatusCode.UNKNOWN]
_INTERNAL = NUMBERS[grpc.StatusCode.INTERNAL]

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


class Call(ClientCall, grpc.Call, grpc.Future):  # type: ignore[misc]
    """A call under way: grpc.Call and grpc.Future, and for streams an iterator of responses."""

    _links: Links | None = None  # keeps the channel's links while the call is open
    _deserializer: Deserializer = None
    _callbacks: list[Callable[[], None]] | None = None
    _response: Any = None
    _have_response = False
    _cancelled = False
    _local: tuple[grpc.StatusCode, str] | None = None  # an end that was made here, after the fact

    # --- grpc.RpcContext -----------------------------------------------------------------------

    def is_active(self) -> bool:
        return not self.is_done

    def time_remaining(self) -> float | None:
        deadline = self.deadline_ns
        return None if deadline == 0 else max(0.0, (deadline - now()) / 1e9)

    def cancel(self) -> bool:
        if self.cancel_with(_CANCELLED, "Locally cancelled by application!"):
            self._cancelled = True
            return True
        return False

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if self.is_done:
            return False
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(callback)
        if self.on_event is None:
            self.on_event = self._on_event
        return True

    def _on_event(self, events: int) -> None:
        if not events & EVENT_DONE:
            return
        self.on_event = None
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            try:
                callback()
            except Exception:
                _log.exception("a callback of a call raised")

    # --- grpc.Call -----------------------------------------------------------------------------

    def initial_metadata(self) -> Metadata:
        self.wait(EVENT_INITIAL)
        return self.initial(Metadatum)

    def trailing_metadata(self) -> Metadata:
        self.wait(EVENT_DONE)
        return self.trailing(Metadatum)

    def code(self) -> grpc.StatusCode:
        self.wait(EVENT_DONE)
        return self._outcome().code

    def details(self) -> str:
        self.wait(EVENT_DONE)
        return self._outcome().details

    def debug_error_string(self) -> str:
        self.wait(EVENT_DONE)
        return self._outcome().debug_error_string()

    def _outcome(self) -> Outcome:
        outcome = outcome_of(self)
        if self._local is not None:
            outcome = outcome._replace(code=self._local[0], details=self._local[1])
        return outcome

    # --- grpc.Future ---------------------------------------------------------------------------

    def cancelled(self) -> bool:
        return self._cancelled

    def running(self) -> bool:
        return not self.is_done

    def done(self) -> bool:
        return self.is_done

    def result(self, timeout: float | None = None) -> Any:
        self._settle(timeout)
        if self._have_response:
            return self._response
        if self._cancelled:
            raise grpc.FutureCancelledError
        raise self._error()

    def exception(self, timeout: float | None = None) -> Any:
        self._settle(timeout)
        if self._have_response:
            return None
        if self._cancelled:
            raise grpc.FutureCancelledError
        return self._error()

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
        if not self.is_done and not self.wait(EVENT_DONE, timeout):
            raise grpc.FutureTimeoutError
        if self._have_response or self._local is not None:
            return
        self._links = None
        if self.code_number == 0:
            self._take_response()

    def _take_response(self) -> None:
        message = self.recv()
        if not isinstance(message, bytes):
            self._local = (grpc.StatusCode.INTERNAL, "the server sent no response")
        elif self._deserializer is None:
            self._response, self._have_response = message, True
        else:
            try:
                self._response = self._deserializer(message)
                self._have_response = True
            except Exception as error:
                report(error, BAD_RESPONSE)
                self._local = (grpc.StatusCode.INTERNAL, BAD_RESPONSE)

    def _error(self) -> _MultiThreadedRendezvous:
        return _MultiThreadedRendezvous(self._outcome())

    def __str__(self) -> str:
        if not self.is_done:
            return "<_MultiThreadedRendezvous object>"
        return self._outcome().describe("_MultiThreadedRendezvous")

    __repr__ = __str__


class StreamCall(Call):
    """A call with a stream of responses: iterate over it."""

    def __iter__(self) -> StreamCall:
        return self

    def __next__(self) -> Any:
        message = self.next()
        if message is not None:
            deserializer = self._deserializer
            if deserializer is None:
                return message
            try:
                return deserializer(message)
            except Exception as error:
                report(error, BAD_RESPONSE)
                self._local = (grpc.StatusCode.INTERNAL, BAD_RESPONSE)
                self.cancel_with(_INTERNAL, BAD_RESPONSE)
                raise self._error() from None
        if not self.is_done:
            self.wait(EVENT_DONE)
        self._links = None
        if self.code_number == 0 and self._local is None:
            raise StopIteration
        raise self._error()

    def _take_response(self) -> None:
        # The future of a stream has the call itself for a result.
        self._response, self._have_response = self, True

    def __del__(self) -> None:
        if not self.is_done:
            self.cancel_with(_CANCELLED, "Cancelled upon garbage collection!")


def feed(call: Call, requests: Iterator[Any], serializer: Serializer) -> None:
    """Send the requests of an iterator from a thread of their own, as grpcio does."""

    def consume() -> None:
        while not call.is_done:
            try:
                request = next(requests)
            except StopIteration:
                break
            except Exception as error:
                if not call.is_done:
                    report(error, "Exception iterating requests!")
                    call.cancel_with(_UNKNOWN, "Exception iterating requests!")
                return
            if serializer is None:
                message = request
            else:
                try:
                    message = serializer(request)
                except Exception as error:
                    report(error, BAD_REQUEST)
                    call.cancel_with(_INTERNAL, BAD_REQUEST)
                    return
            if not call.send(message) and not call.is_done:
                call.wait(EVENT_WRITABLE)
        call.half_close()

    threading.Thread(target=consume, name="zerohop-requests", daemon=True).start()


def wait_done(call: ClientCall) -> None:
    """Wait for the end of a call; a KeyboardInterrupt ends the call first."""
    try:
        call.wait(EVENT_DONE)
    except BaseException:
        call.cancel_with(_CANCELLED, "Locally cancelled by application!")
        raise


def monotonic_of(deadline_ns: int) -> float | None:
    """A deadline of `_native.now` on time.monotonic's scale."""
    return None if deadline_ns == 0 else time.monotonic() + (deadline_ns - now()) / 1e9
