"""The servicer's context: grpc.aio.ServicerContext of a call over shared memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

import grpc
import grpc.aio
from zerohop import log
from zerohop._native import EVENT_DONE, EVENT_MESSAGE, EVENT_WRITABLE, ArenaFull, now
from zerohop.aio.signals import Signals
from zerohop.context import CallContext, code_of, text_of
from zerohop.status import NUMBERS

_log = log.logger("server")

_UNKNOWN = NUMBERS[grpc.StatusCode.UNKNOWN]
_EXHAUSTED = NUMBERS[grpc.StatusCode.RESOURCE_EXHAUSTED]

# grpcio's words.
_FINISHED = "RPC already finished."
_LATE_COMPRESSION = "Compression setting must be specified before sending initial metadata"

EOF = grpc.aio.EOF


def check_trailing(metadata: Any) -> None:
    """Raise TypeError for what cannot be trailing metadata: when it is set, not when it is sent."""
    if not hasattr(metadata, "__iter__") or isinstance(metadata, dict):
        raise TypeError(
            f"Invalid trailing metadata type, expected Iterable[MetadataType]: {metadata}"
        )
    for item in metadata:
        if not isinstance(item, tuple):
            raise TypeError(f"Invalid metadatum type, expected tuple: {item}")
        if len(item) != 2:
            raise TypeError(f"Invalid metadatum format, expected (key, value): {item}")
        key, value = item
        if not isinstance(key, str):
            raise TypeError(f"Invalid key type, expected str: {key}")
        if not isinstance(value, (str, bytes)):
            raise TypeError(f"Invalid value type, expected str or bytes: {value!r}")


class Context(CallContext, grpc.aio.ServicerContext[Any, Any]):  # type: ignore[misc]
    """The context of asynchronous handlers."""

    # Set for every call by the server, before the handler runs.
    loop: asyncio.AbstractEventLoop
    task: asyncio.Task[None] | None = None
    deserializer: Callable[[bytes], Any] | None = None
    serializer: Callable[[Any], bytes] | None = None

    abort_error: BaseException | None = None
    callbacks: list[Callable[[Any], None]] | None = None
    _signals: Signals | None = None

    # --- messages ------------------------------------------------------------------------------

    async def wait_for(self, events: int) -> None:
        signals = self._signals
        if signals is None:
            signals = self._signals = Signals(self.loop)
            self.on_event = signals.tell
        await signals.wait(events)

    def raise_for_termination(self) -> None:
        """A handler may have gone on after abort(), or after the end of the call."""
        if self.abort_error is not None:
            raise self.abort_error
        if self.is_done:
            raise grpc.aio.UsageError(_FINISHED)

    async def read(self) -> Any:
        if self.abort_error is not None or self.is_done:
            self.raise_for_termination()
        message = self.recv()
        while message is False:
            await self.wait_for(EVENT_MESSAGE | EVENT_DONE)
            message = self.recv()
        if message is None:
            if self.abort_error is not None or self.is_done:
                self.raise_for_termination()
            return EOF
        return message if self.deserializer is None else self.deserializer(message)

    async def write(self, message: Any) -> None:
        if self.abort_error is not None or self.is_done:
            self.raise_for_termination()
        if self.serializer is not None:
            message = self.serializer(message)
        if not self.send(message):
            while not self.is_done and not self.writable:
                await self.wait_for(EVENT_WRITABLE | EVENT_DONE)

    def set_compression(self, compression: grpc.Compression) -> None:
        """Accepted and ignored, at the time at which grpcio accepts it."""
        if self.sent_initial:
            raise RuntimeError(_LATE_COMPRESSION)

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        self.raise_for_termination()
        if self.sent_initial:
            raise grpc.aio.UsageError("Send initial metadata failed: already sent")
        self.send_initial(initial_metadata)

    # --- the end -------------------------------------------------------------------------------

    def prepare_abort(self, code: Any, details: str, trailing_metadata: Any) -> BaseException:
        """Note what abort() shall send. Returns what it shall raise."""
        if self.abort_error is not None:
            raise grpc.aio.UsageError("Abort already called!")
        if trailing_metadata:
            check_trailing(trailing_metadata)
            self.user_trailing = tuple(trailing_metadata)
        if details:
            self.user_details = details
        self.user_code = code
        self.abort_error = grpc.aio.AbortError("Locally aborted.")
        return self.abort_error

    def finish_abort(self) -> None:
        if not self.is_done:
            number = NUMBERS[code_of(self.user_code) or grpc.StatusCode.UNKNOWN]
            self.finish(number or _UNKNOWN, text_of(self.user_details), self.user_trailing, None)

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        error = self.prepare_abort(code, details, trailing_metadata)
        self.finish_abort()
        raise error

    async def abort_with_status(self, status: Any) -> NoReturn:
        await self.abort(status.code, status.details, status.trailing_metadata)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        check_trailing(trailing_metadata)
        self.user_trailing = tuple(trailing_metadata)

    def trailing_metadata(self) -> Any:
        return self.user_trailing or ()

    def set_details(self, details: str) -> None:
        self.user_details = details

    def details(self) -> str:
        return self.user_details or ""

    def complete(self, message: bytes | None) -> None:
        """Send the status that the handler has set, with the response if that is OK."""
        number, details = self.completion()
        self.finish(number, details, self.user_trailing, message if number == 0 else None)

    def fail(self, error: BaseException) -> None:
        """End the call whose handler has raised, in grpcio's words."""
        otherwise = _EXHAUSTED if isinstance(error, ArenaFull) else _UNKNOWN
        number = NUMBERS[code_of(self.user_code) or grpc.StatusCode.OK] or otherwise
        try:
            details = f"Unexpected {type(error)}: {error}"
        except Exception:
            details = f"Unexpected {type(error)}"
        self.finish(number, text_of(details), self.user_trailing, None)

    # --- grpc.aio.RpcContext's share -----------------------------------------------------------

    def time_remaining(self) -> float | None:  # type: ignore[override]
        deadline = self.deadline_ns
        return None if deadline == 0 else max(0.0, (deadline - now()) / 1e9)

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self.callbacks is None:
            self.callbacks = []
        self.callbacks.append(callback)

    def run_callbacks(self) -> None:
        callbacks, self.callbacks = self.callbacks, None
        for callback in callbacks or ():
            try:
                callback(self)
            except Exception:
                _log.exception(f"Error in callback for method [{self.method}]")

    def done(self) -> bool:
        return self.is_done

    def cancelled(self) -> bool:
        """As in grpcio: is CANCELLED the status that the handler has set?"""
        return code_of(self.user_code) is grpc.StatusCode.CANCELLED


class Requests:
    """The requests of a client's stream, as an asynchronous handler iterates over them."""

    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    def __aiter__(self) -> Requests:
        return self

    async def __anext__(self) -> Any:
        message = await self._context.read()
        if message is EOF:
            raise StopAsyncIteration
        return message
