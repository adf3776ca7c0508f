"""Which way a handler is run: asynchronous ones in the loop, others in a pool."""

from __future__ import annotations

import inspect
from concurrent import futures
from typing import Any

import grpc
from zerohop._native import image_serializer
from zerohop.aio.handling import Plan, Run, run_generator, run_stream_unary, run_unary, run_writer
from zerohop.aio.migration import run_sync_stream, run_sync_unary
from zerohop.handlers import behavior_of


def _is_coroutine_function(behavior: Any) -> bool:
    return inspect.iscoroutinefunction(behavior) or inspect.iscoroutinefunction(
        getattr(behavior, "__call__", None)  # noqa: B004 - an object whose __call__ is async
    )


def _is_generator_function(behavior: Any) -> bool:
    return inspect.isasyncgenfunction(behavior) or inspect.isasyncgenfunction(
        getattr(behavior, "__call__", None)  # noqa: B004
    )


def plan(handler: grpc.RpcMethodHandler[Any, Any], pool: futures.Executor | None) -> Plan:
    """How to run this handler; `pool` is for those that are not asynchronous."""
    run: Run
    behavior = behavior_of(handler)
    if handler.response_streaming:
        if _is_generator_function(behavior):
            run = run_generator
        elif _is_coroutine_function(behavior):
            run = run_writer
        else:
            run = run_sync_stream
    elif not _is_coroutine_function(behavior):
        run = run_sync_unary
    elif handler.request_streaming:
        run = run_stream_unary
    else:
        run = run_unary
    return Plan(
        run,
        behavior,
        handler.request_deserializer,
        image_serializer(handler.response_serializer),
        bool(handler.request_streaming),
        pool,
    )
