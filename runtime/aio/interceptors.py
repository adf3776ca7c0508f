"""Interceptors of the client: grpc.aio's, over our calls.

grpcio's own intercepted calls make its own calls underneath; these behave like them.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from typing import Any, ClassVar, Protocol, cast

import grpc
import grpc.aio
from zerohop._native import now
from zerohop.aio.answers import (
    StreamStreamAnswer,
    UnaryStreamAnswer,
    UnaryUnaryAnswer,
)
from zerohop.aio.calls import (
    ALREADY_FINISHED,
    EOF,
    HALF_CLOSED,
    STYLES_MIXED,
)
from zerohop.calls import LOCALLY_CANCELLED, deadline_after


class Invoker(Protocol):
    """A multicallable, past the interceptors."""

    def invoke(
        self,
        method: str,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        wait_for_ready: bool | None,
    ) -> Any: ...


class Chains:
    """The interceptors of a channel by the kind of call that they are for."""

    def __init__(self, interceptors: Sequence[Any] | None) -> None:
        self.unary_unary: list[Any] = []
        self.unary_stream: list[Any] = []
        self.stream_unary: list[Any] = []
        self.stream_stream: list[Any] = []
        # What goes through them now; the core does not know calls that are still in an interceptor.
        self.active: weakref.WeakSet[Intercepted] = weakref.WeakSet()
        kinds = (
            (grpc.aio.UnaryUnaryClientInterceptor, self.unary_unary),
            (grpc.aio.UnaryStreamClientInterceptor, self.unary_stream),
            (grpc.aio.StreamUnaryClientInterceptor, self.stream_unary),
            (grpc.aio.StreamStreamClientInterceptor, self.stream_stream),
        )
        for interceptor in interceptors or ():
            for kind, chain in kinds:
                if isinstance(interceptor, kind):
                    chain.append(interceptor)
                    break
            else:
                names = " or ".join(kind.__name__ for kind, _ in kinds)
                raise ValueError(f"Interceptor {interceptor} must be {names}.")


def as_metadata(metadata: Any) -> grpc.aio.Metadata:
    """What interceptors get to see, whatever the caller gave."""
    if isinstance(metadata, grpc.aio.Metadata):
        return metadata
    return grpc.aio.Metadata(*(metadata or ()))


class Intercepted:
    """A call through interceptors: a task until they have made the call, then that call."""

    _hook: ClassVar[str]  # the method of the interceptors

    def __init__(
        self,
        invoker: Invoker,
        method: str,
        interceptors: Sequence[Any],
        loop: asyncio.AbstractEventLoop,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        wait_for_ready: bool | None,
    ) -> None:
        self._invoker = invoker
        self._interceptors = tuple(interceptors)
        self._loop = loop
        self._deadline = deadline_after(timeout)
        self._callbacks: list[Callable[[Any], None]] = []
        details = grpc.aio.ClientCallDetails(
            cast(str, method.encode()),  # bytes in grpcio, whatever its types say
            timeout,
            as_metadata(metadata),
            credentials,
            wait_for_ready,
        )
        self._task: asyncio.Task[Any] = loop.create_task(
            self._run(0, details, self._requests_of(request))
        )
        self._task.add_done_callback(self._made)

    def __del__(self) -> None:
        if hasattr(self, "_task") and not self._loop.is_closed():
            self.cancel()

    # --- the chain -----------------------------------------------------------------------------

    def _requests_of(self, request: Any) -> Any:
        return request

    async def _run(self, index: int, details: Any, request: Any) -> Any:
        """What the interceptor number `index` and those after it make of the call."""
        if index == len(self._interceptors):
            return self._invoke(details, request)
        intercept = getattr(self._interceptors[index], self._hook)
        continuation = functools.partial(self._run, index + 1)
        return self._answer(await intercept(continuation, details, request))

    def _invoke(self, details: Any, request: Any) -> Any:
        method = details.method
        if isinstance(method, bytes):
            method = method.decode()
        return self._invoker.invoke(
            method,
            request,
            details.timeout,
            details.metadata,
            details.credentials,
            details.wait_for_ready,
        )

    def _answer(self, answer: Any) -> Any:
        """The call that an interceptor's answer is, or stands for."""
        return answer

    def _made(self, task: asyncio.Task[Any]) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self.add_done_callback(callback)
        if not task.cancelled():
            task.exception()  # whoever awaits the call hears of it

    @property
    def making(self) -> asyncio.Task[Any]:
        """What makes the call."""
        return self._task

    async def _when_made(self) -> Any:
        """The call, once it is made. As in grpcio, to give up waiting is to give up the call."""
        return await self._task

    def _call(self) -> Any:
        """The call that the interceptors have made, None when there is none (yet)."""
        task = self._task
        if not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()

    # --- grpc.aio.RpcContext -------------------------------------------------------------------

    def cancel(self) -> bool:
        if not self._task.done():
            return self._task.cancel()
        call = self._call()
        return False if call is None else bool(call.cancel())

    def cancelled(self) -> bool:
        task = self._task
        if task.cancelled():
            return True
        if not task.done():
            return False
        error = task.exception()
        if error is not None:
            return (
                isinstance(error, grpc.aio.AioRpcError)
                and error.code() is grpc.StatusCode.CANCELLED
            )
        return bool(task.result().cancelled())

    def done(self) -> bool:
        if not self._task.done():
            return False
        call = self._call()
        return True if call is None else bool(call.done())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if not self._task.done():
            self._callbacks.append(callback)
            return
        call = self._call()
        if call is None or call.done():
            callback(self)
        else:
            call.add_done_callback(lambda _: callback(self))

    def time_remaining(self) -> float | None:
        call = self._call()
        if call is not None:
            remaining: float | None = call.time_remaining()
            return remaining
        return None if self._deadline == 0 else max(0.0, (self._deadline - now()) / 1e9)

    # --- grpc.aio.Call -------------------------------------------------------------------------

    async def _ask(self, what: str, given_up: Any) -> Any:
        """What the call or its error says; `given_up` if it was cancelled before it was made."""
        try:
            call = await self._when_made()
        except grpc.aio.AioRpcError as error:
            return getattr(error, what)()
        except asyncio.CancelledError:
            if not self._task.cancelled():
                raise
            return given_up
        return await getattr(call, what)()

    async def initial_metadata(self) -> Any:
        return await self._ask("initial_metadata", None)

    async def trailing_metadata(self) -> Any:
        return await self._ask("trailing_metadata", None)

    async def code(self) -> Any:
        return await self._ask("code", grpc.StatusCode.CANCELLED)

    async def details(self) -> Any:
        return await self._ask("details", LOCALLY_CANCELLED)

    async def debug_error_string(self) -> Any:
        return await self._ask("debug_error_string", "")

    async def wait_for_connection(self) -> None:
        call = await self._task
        await call.wait_for_connection()


class _UnaryResponse(Intercepted):
    def __await__(self) -> Generator[Any, None, Any]:
        call = yield from self._task.__await__()
        return (yield from call.__await__())


class _StreamResponse(Intercepted):
    _responses: AsyncIterator[Any] | None = None
    _last: Any = None  # the call that responses of an interceptor's own belong to

    async def _iterate(self) -> AsyncIterator[Any]:
        call = await self._task
        async for response in call:
            yield response

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._responses is None:
            self._responses = self._iterate()
        return self._responses

    async def read(self) -> Any:
        return await anext(self.__aiter__(), EOF)


class _StreamRequest(Intercepted):
    _queue: asyncio.Queue[Any] | None = None
    _ended: asyncio.Task[Any] | None = None
    _half_closed = False

    def _requests_of(self, request: Any) -> Any:
        if request is not None:
            return request
        # Interceptors get an iterator; what is written goes into it.
        self._queue = asyncio.Queue(maxsize=1)
        return self._written(self._queue)

    @staticmethod
    async def _written(queue: asyncio.Queue[Any]) -> AsyncIterator[Any]:
        while (request := await queue.get()) is not EOF:
            yield request

    async def _put(self, request: Any) -> None:
        """Hand the request to the iterator, unless the call ends first."""
        if self._queue is None:
            raise grpc.aio.UsageError(STYLES_MIXED)
        try:
            call = await self._task
        except asyncio.CancelledError:
            if not self._task.cancelled():
                raise
            raise asyncio.InvalidStateError(ALREADY_FINISHED) from None
        except grpc.aio.AioRpcError:
            raise asyncio.InvalidStateError(ALREADY_FINISHED) from None
        if request is not EOF:
            if call.done():
                raise asyncio.InvalidStateError(ALREADY_FINISHED)
            if self._half_closed:
                raise asyncio.InvalidStateError(HALF_CLOSED)
        elif call.done() or self._half_closed:
            return
        else:
            self._half_closed = True
        if self._ended is None:
            self._ended = self._loop.create_task(call.code())
        put = self._loop.create_task(self._queue.put(request))
        try:
            await asyncio.wait((put, self._ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not put.done():
                put.cancel()
        if request is not EOF and call.done():
            raise asyncio.InvalidStateError(ALREADY_FINISHED)

    async def write(self, request: Any) -> None:
        await self._put(request)

    async def done_writing(self) -> None:
        await self._put(EOF)


class InterceptedUnaryUnaryCall(_UnaryResponse, grpc.aio.UnaryUnaryCall[Any, Any]):
    """A unary call through interceptors, which may also return a response in place of a call."""

    _hook = "intercept_unary_unary"

    def _answer(self, answer: Any) -> Any:
        if isinstance(answer, grpc.aio.UnaryUnaryCall):
            return answer
        return UnaryUnaryAnswer(answer)


class InterceptedUnaryStreamCall(_StreamResponse, grpc.aio.UnaryStreamCall[Any, Any]):
    """A call with a stream of responses; an interceptor may return any asynchronous iterator."""

    _hook = "intercept_unary_stream"

    def _invoke(self, details: Any, request: Any) -> Any:
        self._last = super()._invoke(details, request)
        return self._last

    def _answer(self, answer: Any) -> Any:
        if not isinstance(answer, grpc.aio.UnaryStreamCall):
            answer = UnaryStreamAnswer(self._last, answer)
        self._last = answer
        return answer


class InterceptedStreamUnaryCall(
    _UnaryResponse, _StreamRequest, grpc.aio.StreamUnaryCall[Any, Any]
):
    """A call with a stream of requests."""

    _hook = "intercept_stream_unary"


class InterceptedStreamStreamCall(
    _StreamResponse, _StreamRequest, grpc.aio.StreamStreamCall[Any, Any]
):
    """A call with streams both ways; an interceptor may return any asynchronous iterator."""

    _hook = "intercept_stream_stream"

    def _invoke(self, details: Any, request: Any) -> Any:
        self._last = super()._invoke(details, request)
        return self._last

    def _answer(self, answer: Any) -> Any:
        if not isinstance(answer, grpc.aio.StreamStreamCall):
            answer = StreamStreamAnswer(self._last, answer)
        self._last = answer
        return answer
