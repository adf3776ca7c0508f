"""Running the handlers of calls: one coroutine for each kind of call, and how each of them ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent import futures
from typing import Any, NamedTuple

import grpc.aio
from zerohop import log
from zerohop._native import EVENT_DONE, EVENT_MESSAGE, EVENT_WRITABLE, Received
from zerohop.aio.context import Context, Requests

_log = log.logger("server")

Run = Callable[["Context", "Plan"], Coroutine[Any, Any, None]]


class Plan(NamedTuple):
    """How to run a handler; made once for handlers that are the same for every call."""

    run: Run
    behavior: Callable[..., Any]
    deserializer: Callable[[bytes], Any] | None
    serializer: Callable[[Any], bytes] | None
    request_streaming: bool
    pool: futures.Executor | None


class NoRequest(Exception):
    """The client has sent no request; there is nothing to run."""


async def first_request(context: Context, plan: Plan) -> Any:
    """The request of a call with one, or the iterator of a stream's."""
    if plan.request_streaming:
        context.deserializer = plan.deserializer
        return Requests(context)
    message = context.recv()
    while message is False:
        await context.wait_for(EVENT_MESSAGE | EVENT_DONE)
        message = context.recv()
    if not isinstance(message, (bytes, Received)):
        raise NoRequest
    return message if plan.deserializer is None else plan.deserializer(message)


async def run_unary(context: Context, plan: Plan) -> None:
    message = context.recv()
    if not isinstance(message, (bytes, Received)):
        request = await first_request(context, plan)
    elif plan.deserializer is None:
        request = message
    else:
        request = plan.deserializer(message)
    response = await plan.behavior(request, context)
    if context.abort_error is not None or context.is_done:
        context.raise_for_termination()
    respond(context, plan, response)


def respond(context: Context, plan: Plan, response: Any) -> None:
    """Send the response of a handler that has returned, and the status."""
    code = context.user_code
    if code is not None and context.completion()[0] != 0:
        context.complete(None)  # grpcio sends no response then
        return
    message = response if plan.serializer is None else plan.serializer(response)
    if code is None and context.user_details is None:
        context.finish(0, None, context.user_trailing, message)
    else:
        context.complete(message)


async def run_stream_unary(context: Context, plan: Plan) -> None:
    response = await plan.behavior(await first_request(context, plan), context)
    context.raise_for_termination()
    respond(context, plan, response)


async def run_generator(context: Context, plan: Plan) -> None:
    request = await first_request(context, plan)
    serializer = context.serializer = plan.serializer
    send = context.send
    responses = plan.behavior(request, context)
    try:
        async for response in responses:
            if context.abort_error is not None or context.is_done:
                context.raise_for_termination()
            message = response if serializer is None else serializer(response)
            if not send(message):
                while not context.is_done and not context.writable:
                    await context.wait_for(EVENT_WRITABLE | EVENT_DONE)
    except BaseException:
        await responses.aclose()  # it may be in the middle, at a yield
        raise
    context.raise_for_termination()
    context.complete(None)


async def run_writer(context: Context, plan: Plan) -> None:
    """A coroutine that writes its responses through the context."""
    request = await first_request(context, plan)
    context.serializer = plan.serializer
    await plan.behavior(request, context)
    context.raise_for_termination()
    context.complete(None)


async def serve(context: Context, plan: Plan, ended: Callable[[Context], None]) -> None:
    """The task of a call: run its handler, and end the call whatever comes of it."""
    try:
        await plan.run(context, plan)
    except BaseException as error:
        conclude(context, error)
    finally:
        ended(context)


def conclude(context: Context, error: BaseException) -> None:
    """End the call whose handler has raised: log and answer as grpcio does."""
    if error is context.abort_error:
        context.finish_abort()
        return
    if isinstance(error, asyncio.CancelledError):
        _log.debug("RPC cancelled for servicer method [%s]", context.method)
        if not context.is_done:
            context.finish(1, "", context.user_trailing, None)
        return
    if isinstance(error, NoRequest):
        if not context.is_done:
            context.finish(
                12, f'"{context.method}" requires exactly one request message.', None, None
            )
        return
    if not isinstance(error, Exception):  # KeyboardInterrupt, SystemExit
        context.fail(error)
        raise error
    if context.was_cancelled and isinstance(error, grpc.aio.UsageError):
        _log.debug("the call of [%s] ended before its handler", context.method)
        return
    _log.error(
        "Unexpected [%s] raised by servicer method [%s]",
        type(error).__name__,
        context.method,
        exc_info=error,
    )
    if not context.is_done:
        context.fail(error)
