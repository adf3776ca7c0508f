"""The servicer's context: grpc.ServicerContext of a call over shared memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import grpc
from zerohop import log
from zerohop._native import EVENT_DONE, ServerCall, now
from zerohop.status import CODES, NUMBERS, Metadata, Metadatum

_log = log.logger("server")

_UNKNOWN = grpc.StatusCode.UNKNOWN


def code_of(code: Any) -> grpc.StatusCode | None:
    """A status code as handlers set it: grpc.StatusCode, its number, or nothing."""
    if code is None or isinstance(code, grpc.StatusCode):
        return code
    return CODES.get(code, _UNKNOWN)


class CallContext(ServerCall):
    """What the synchronous and the asyncio context share."""

    _invocation: Metadata | None = None
    _aborted = False

    def invocation_metadata(self) -> Metadata:
        if self._invocation is None:
            agent = self.link_peer()[2]
            received = self.initial(Metadatum)
            self._invocation = (*received, Metadatum("user-agent", agent)) if agent else received
        return self._invocation

    def peer(self) -> str:
        pid, uid, _ = self.link_peer()
        return f"shm:pid={pid}:uid={uid}"  # two colons, as tracing tools split addresses

    def peer_identities(self) -> Sequence[bytes] | None:
        return None

    def peer_identity_key(self) -> str | None:
        return None

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """What the kernel says of the peer: its process and user ids."""
        pid, uid, _ = self.link_peer()
        return {
            "transport_security_type": [b"shm"],
            "peer_pid": [str(pid).encode()],
            "peer_uid": [str(uid).encode()],
        }

    def set_compression(self, compression: grpc.Compression) -> None:
        """Accepted and ignored: nothing is sent that compression could save."""

    def disable_next_message_compression(self) -> None:
        """Accepted and ignored, as set_compression."""

    def trailing_metadata(self) -> Any:
        return self.user_trailing

    def set_code(self, code: Any) -> None:
        self.user_code = code

    def code(self) -> Any:
        return self.user_code

    def chosen_code(self) -> grpc.StatusCode | None:
        """The status code that the handler has set."""
        return code_of(self.user_code)

    def completion(self) -> tuple[int, str]:
        """Status and details when the handler has returned."""
        code = self.chosen_code()
        number = NUMBERS[grpc.StatusCode.OK if code is None else code]
        return number, text_of(self.user_details)

    def abortion(self, code: grpc.StatusCode, details: str) -> tuple[int, str]:
        """Status and details when the call ends early; what the handler has set comes first."""
        own = self.chosen_code()
        if own is None or own is grpc.StatusCode.OK:
            own = code
        return NUMBERS[own], details if self.user_details is None else text_of(self.user_details)


def text_of(details: Any) -> str:
    """Details as text, whether they were set as text or as bytes."""
    if details is None:
        return ""
    return details.decode("utf-8", "replace") if isinstance(details, bytes) else str(details)


class Context(CallContext, grpc.ServicerContext):  # type: ignore[misc]
    """The context of synchronous handlers."""

    _callbacks: list[Callable[[], None]] | None = None
    _rpc_error: grpc.RpcError | None = None

    def chosen_code(self) -> grpc.StatusCode | None:
        code = self.user_code  # grpcio takes numbers on asyncio servers only
        return code if code is None or isinstance(code, grpc.StatusCode) else _UNKNOWN

    def is_active(self) -> bool:
        return not self.is_done

    def time_remaining(self) -> float | None:  # type: ignore[override]
        deadline = self.deadline_ns
        return None if deadline == 0 else max(0.0, (deadline - now()) / 1e9)

    def cancel(self) -> None:  # type: ignore[override]
        self.cancel_with(NUMBERS[grpc.StatusCode.CANCELLED])

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

    def raise_cancelled(self) -> NoReturn:
        """What handlers see when they use a call that the client has given up."""
        self._rpc_error = grpc.RpcError()
        raise self._rpc_error

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        if self.was_cancelled:
            self.raise_cancelled()
        if self.sent_initial:
            raise ValueError("Initial metadata no longer allowed!")
        self.send_initial(initial_metadata)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self.user_trailing = trailing_metadata

    def set_details(self, details: str) -> None:
        self.user_details = details.encode() if isinstance(details, str) else details

    def details(self) -> Any:
        return self.user_details

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        if code == grpc.StatusCode.OK:
            _log.error("abort() called with StatusCode.OK; returning UNKNOWN")
            code = grpc.StatusCode.UNKNOWN
            details = ""
        self.user_code = code
        self.set_details(details)
        self._aborted = True
        raise Exception

    def abort_with_status(self, status: Any) -> NoReturn:
        self.user_trailing = status.trailing_metadata
        self.abort(status.code, status.details)


class RequestIterator:
    """The requests of a client's stream, as the handler iterates over them."""

    def __init__(self, context: Context, deserializer: Callable[[bytes], Any] | None) -> None:
        self._context = context
        self._deserializer = deserializer

    def __iter__(self) -> RequestIterator:
        return self

    def __next__(self) -> Any:
        context = self._context
        message = context.next()
        if message is None:
            if context.was_cancelled:
                context.raise_cancelled()
            raise StopIteration
        if self._deserializer is None:
            return message
        try:
            return self._deserializer(message)
        except Exception as error:
            _log.error("Exception deserializing message!", exc_info=error)
            number, details = context.abortion(
                grpc.StatusCode.INTERNAL, "Exception deserializing request!"
            )
            context.finish(number, details, context.user_trailing, None)
            raise StopIteration from None

    next = __next__
