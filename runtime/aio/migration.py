"""Handlers written for the synchronous server, on an asyncio server: in a pool, as in grpcio."""

from __future__ import annotations

import asyncio
import collections
import contextvars
import threading
from collections.abc import Callable, Coroutine
from concurrent import futures
from typing import Any, NoReturn

import grpc
from zerohop._native import EVENT_DONE, EVENT_WRITABLE
from zerohop.aio.context import EOF, Context
from zerohop.aio.handling import Plan, first_request, respond
from zerohop.status import Metadata

# How far a generator may be ahead of what has been sent.
_AHEAD = 64

# How often a blocked thread looks whether its loop is still there.
_LOOK = 1.0


def _in_loop(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine in the loop, from a thread of the pool."""
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    while True:
        try:
            return future.result(_LOOK)
        except futures.TimeoutError:
            if future.done():
                raise
            if loop.is_closed():
                raise RuntimeError("the event loop of the server has been closed") from None


class SyncContext(grpc.ServicerContext):
    """grpc.ServicerContext for a handler in a pool, over the asyncio context of its call."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def is_active(self) -> bool:
        return not self._context.is_done

    def time_remaining(self) -> float | None:  # type: ignore[override]
        return self._context.time_remaining()

    def cancel(self) -> None:  # type: ignore[override]
        self._context.loop.call_soon_threadsafe(self._context.cancel_with, 1)

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if self._context.is_done:
            return False
        self._context.add_done_callback(lambda _: callback())
        return True

    def invocation_metadata(self) -> Metadata:
        return self._context.invocation_metadata()

    def peer(self) -> str:
        return self._context.peer()

    def peer_identities(self) -> Any:
        return self._context.peer_identities()

    def peer_identity_key(self) -> str | None:
        return self._context.peer_identity_key()

    def auth_context(self) -> Any:
        return self._context.auth_context()

    def set_compression(self, compression: grpc.Compression) -> None:
        self._context.set_compression(compression)

    def disable_next_message_compression(self) -> None:
        """Accepted and ignored."""

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        _in_loop(self._context.loop, self._context.send_initial_metadata(initial_metadata))

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self._context.set_trailing_metadata(trailing_metadata)

    def trailing_metadata(self) -> Any:
        return self._context.trailing_metadata()

    def set_code(self, code: Any) -> None:
        self._context.set_code(code)

    def code(self) -> Any:
        return self._context.code()

    def set_details(self, details: str) -> None:
        self._context.set_details(details)

    def details(self) -> str:
        return self._context.details()

    def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        # What has been yielded goes first: the loop sends the status when the handler has returned.
        raise self._context.prepare_abort(code, details, trailing_metadata)

    def abort_with_status(self, status: Any) -> NoReturn:
        self.abort(status.code, status.details, status.trailing_metadata)


class SyncRequests:
    """The requests of a client's stream, as a handler in a pool iterates over them."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __iter__(self) -> SyncRequests:
        return self

    def __next__(self) -> Any:
        message = _in_loop(self._context.loop, self._context.read())
        if message is EOF:
            raise StopIteration
        return message

    next = __next__


async def _argument(context: Context, plan: Plan) -> Any:
    request = await first_request(context, plan)
    return SyncRequests(context) if plan.request_streaming else request


async def run_sync_unary(context: Context, plan: Plan) -> None:
    """A handler that returns its response."""
    argument = await _argument(context, plan)
    variables = contextvars.copy_context()
    response = await context.loop.run_in_executor(
        plan.pool, variables.run, plan.behavior, argument, SyncContext(context)
    )
    context.raise_for_termination()
    respond(context, plan, response)


class _Stopped(Exception):
    """The call is over: the generator shall end."""


class _Pipe:
    """Messages on their way from a generator in the pool to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.messages: collections.deque[bytes] = collections.deque()
        self._loop = loop
        self._room = threading.Semaphore(_AHEAD)
        self._wanted = asyncio.Event()
        self._stopped = False

    # In the pool's thread:

    def produce(self, plan: Plan, argument: Any, context: SyncContext) -> None:
        responses = plan.behavior(argument, context)
        try:
            for response in responses:
                self._put(response if plan.serializer is None else plan.serializer(response))
        except _Stopped:
            close = getattr(responses, "close", None)
            if close is not None:
                close()

    def _put(self, message: bytes) -> None:
        while not self._room.acquire(timeout=_LOOK):
            if self._loop.is_closed():
                raise _Stopped
        if self._stopped:
            raise _Stopped
        self.messages.append(message)
        self._loop.call_soon_threadsafe(self._wanted.set)

    # In the loop:

    async def wait(self) -> None:
        await self._wanted.wait()
        self._wanted.clear()

    def wake(self, _: Any) -> None:
        self._wanted.set()

    def sent(self) -> None:
        self._room.release()

    def stop(self) -> None:
        self._stopped = True
        self._room.release()


async def run_sync_stream(context: Context, plan: Plan) -> None:
    """A generator, or a function that returns an iterator."""
    argument = await _argument(context, plan)
    pipe = _Pipe(context.loop)
    variables = contextvars.copy_context()
    producing = context.loop.run_in_executor(
        plan.pool, variables.run, pipe.produce, plan, argument, SyncContext(context)
    )
    producing.add_done_callback(pipe.wake)
    try:
        while pipe.messages or not producing.done():
            if not pipe.messages:
                await pipe.wait()
                continue
            if not context.send(pipe.messages.popleft()):
                while not context.is_done and not context.writable:
                    await context.wait_for(EVENT_WRITABLE | EVENT_DONE)
            pipe.sent()
        await producing
    finally:
        pipe.stop()
    context.raise_for_termination()
    context.complete(None)
