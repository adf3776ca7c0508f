"""Statuses and the errors that carry them, as grpcio has them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

import grpc

CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
NUMBERS: dict[grpc.StatusCode, int] = {code: number for number, code in CODES.items()}

FORKED = (
    "this object was made before fork() and belongs to the parent process; make new channels and "
    "servers in the child"
)


class Metadatum(NamedTuple):
    """One entry of metadata; `-bin` keys have bytes for a value."""

    key: str
    value: str | bytes


Metadata = tuple[Metadatum, ...]


class Outcome(NamedTuple):
    """How a call ended."""

    code: grpc.StatusCode
    details: str
    initial_metadata: Metadata = ()
    trailing_metadata: Metadata = ()

    def debug_error_string(self) -> str:
        """One line for a log: what grpcio's core puts there, without its file names. "" for OK."""
        if self.code is grpc.StatusCode.OK:
            return ""
        details = self.details.replace("\\", "\\\\").replace('"', '\\"')
        return (
            f"{self.code.name}: call ended "
            f'{{grpc_status:{self.code.value[0]}, grpc_message:"{details}"}}'
        )

    def describe(self, name: str) -> str:
        """grpcio's str() of a call that has ended."""
        if self.code is grpc.StatusCode.OK:
            return (
                f"<{name} of RPC that terminated with:\n"
                f"\tstatus = {self.code}\n"
                f'\tdetails = "{self.details}"\n'
                ">"
            )
        return (
            f"<{name} of RPC that terminated with:\n"
            f"\tstatus = {self.code}\n"
            f'\tdetails = "{self.details}"\n'
            f'\tdebug_error_string = "{self.debug_error_string()}"\n'
            ">"
        )


class _InactiveRpcError(grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """The error of a blocking unary call, which also answers as the call and future that it ended.

    The name is grpcio's, for str() and logs.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self._outcome = outcome

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._outcome,)

    def code(self) -> grpc.StatusCode:
        return self._outcome.code

    def details(self) -> str:
        return self._outcome.details

    def initial_metadata(self) -> Metadata:
        return self._outcome.initial_metadata

    def trailing_metadata(self) -> Metadata:  # type: ignore[override]
        return self._outcome.trailing_metadata

    def debug_error_string(self) -> str:
        return self._outcome.debug_error_string()

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float | None:  # type: ignore[override]
        return None

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return False

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def running(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> NoReturn:
        raise self

    def exception(self, timeout: float | None = None) -> _InactiveRpcError:
        return self

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        try:
            raise self
        except grpc.RpcError:
            return sys.exc_info()[2]

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        fn(self)

    def __str__(self) -> str:
        return self._outcome.describe(type(self).__name__)

    __repr__ = __str__


def failed(code: grpc.StatusCode, details: str) -> _InactiveRpcError:
    """The error of a call that was never made."""
    return _InactiveRpcError(Outcome(code, details))
