"""An interceptor's answer that is no call: a response, or an iterator of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, NoReturn

import grpc
import grpc.aio


class UnaryUnaryAnswer(grpc.aio.UnaryUnaryCall[Any, Any]):
    """A call that was over before it began, with this response."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)

    def time_remaining(self) -> float | None:
        return None

    async def initial_metadata(self) -> Any:
        return None

    async def trailing_metadata(self) -> Any:
        return None

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    async def details(self) -> str:
        return ""

    async def debug_error_string(self) -> str | None:
        return None

    async def wait_for_connection(self) -> None:
        pass

    def __await__(self) -> Generator[Any, None, Any]:
        return self._response
        yield  # a generator


class _StreamAnswer:
    """Responses of the interceptor's own; everything else is the call's."""

    def __init__(self, call: Any, responses: Any) -> None:
        self._call = call
        self._responses = responses

    def cancel(self) -> bool:
        return bool(self._call.cancel())

    def cancelled(self) -> bool:
        return bool(self._call.cancelled())

    def done(self) -> bool:
        return bool(self._call.done())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._call.add_done_callback(callback)

    def time_remaining(self) -> float | None:
        remaining: float | None = self._call.time_remaining()
        return remaining

    async def initial_metadata(self) -> Any:
        return await self._call.initial_metadata()

    async def trailing_metadata(self) -> Any:
        return await self._call.trailing_metadata()

    async def code(self) -> Any:
        return await self._call.code()

    async def details(self) -> Any:
        return await self._call.details()

    async def debug_error_string(self) -> Any:
        return await self._call.debug_error_string()

    async def wait_for_connection(self) -> None:
        await self._call.wait_for_connection()

    def __aiter__(self) -> AsyncIterator[Any]:
        iterator: AsyncIterator[Any] = self._responses.__aiter__()
        return iterator

    async def read(self) -> NoReturn:
        # The intercepted call in front iterates.
        raise NotImplementedError


class UnaryStreamAnswer(_StreamAnswer, grpc.aio.UnaryStreamCall[Any, Any]):
    """Of a call with one request."""


class StreamStreamAnswer(_StreamAnswer, grpc.aio.StreamStreamCall[Any, Any]):
    """Of a call with a stream of requests, which are the intercepted call's business."""

    async def write(self, request: Any) -> NoReturn:
        raise NotImplementedError

    async def done_writing(self) -> NoReturn:
        raise NotImplementedError
