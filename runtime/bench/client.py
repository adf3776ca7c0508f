"""The client processes: connected once, then told to run a slice at a time."""

from __future__ import annotations

import asyncio
import importlib
import os
import time
from array import array
from collections.abc import Callable
from typing import Any

from zerohop.bench import aioloops, backends, inplace, loops
from zerohop.bench.control import Control
from zerohop.bench.process import counters, settle

CONNECT_S = 30.0
_TRIAL = 3
"""Messages of the stream that is checked before anything is measured."""

_EXCHANGED = 20
"""Calls that a server has answered before it is killed."""


def drive(spec: dict[str, Any], control: Control) -> None:
    """A sync client."""
    messages, stub, close = _connect(backends.load(spec["backend"]), spec)
    request = messages.Payload(data=inplace.content(spec))
    if stub.Echo(request, wait_for_ready=True, timeout=CONNECT_S) != request:
        raise RuntimeError("the echo is not what was sent")
    if spec["loop"] == "stream":
        stream = stub.Stream(messages.StreamRequest(size=spec["size"], count=_TRIAL))
        _check_stream([message.data for message in stream], spec)
    obey(control, _sync_loop(spec, messages, stub, request))
    close()


def _sync_loop(spec: dict[str, Any], messages: Any, stub: Any, request: Any) -> loops.Run:
    inflight = spec["inflight"]
    if spec["loop"] == "futures":
        return lambda span, times: loops.futures(stub.Echo.future, request, inflight, span, times)
    if spec["loop"] == "callbacks":
        return lambda span, times: loops.callbacks(stub.Echo.future, request, inflight, span, times)
    if spec["loop"] == "stream":
        streams = loops.Streams()

        def open_stream(count: int) -> Any:
            return stub.Stream(messages.StreamRequest(size=spec["size"], count=count))

        return lambda span, times: streams.run(open_stream, span)
    if spec["loop"] == "ends":
        return inplace.ends(spec["size"], messages.Payload, stub.Ends)
    if spec["loop"] == "fill":
        return inplace.fill(spec, messages.Payload, stub)
    return lambda span, times: loops.unary(stub.Echo, request, span, times)


def drive_asyncio(spec: dict[str, Any], control: Control) -> None:
    """An asyncio client. Its loop runs during slices only."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)

    async def connect() -> tuple[Any, Any, Callable[[], Any], Any]:
        messages, stub, close = _connect(backends.load_aio(spec["backend"]), spec)
        request = messages.Payload(data=inplace.content(spec))
        if await stub.Echo(request, wait_for_ready=True, timeout=CONNECT_S) != request:
            raise RuntimeError("the echo is not what was sent")
        if spec["loop"] == "aio-stream":
            stream = stub.Stream(messages.StreamRequest(size=spec["size"], count=_TRIAL))
            _check_stream([message.data async for message in stream], spec)
        return messages, stub, close, request

    messages, stub, close, request = loop.run_until_complete(connect())
    streams = loops.Streams()

    def open_stream(count: int) -> Any:
        return stub.Stream(messages.StreamRequest(size=spec["size"], count=count))

    def run(span: int, times: array[int]) -> loops.Outcome:
        if spec["loop"] == "aio-stream":
            return loop.run_until_complete(streams.run_async(open_stream, span))
        if spec["loop"] == "aio-many":
            work = aioloops.many(stub.Echo, request, spec["inflight"], span, times)
            return loop.run_until_complete(work)
        return loop.run_until_complete(aioloops.unary(stub.Echo, request, span, times))

    obey(control, run)
    loop.run_until_complete(close())
    loop.close()


def watch(spec: dict[str, Any], control: Control) -> None:
    """An idle client with an open ``Watch``, of which nobody reads more than the first answer."""
    stubs: Any = importlib.import_module("grpc_health.v1.health_pb2_grpc")
    messages: Any = importlib.import_module("grpc_health.v1.health_pb2")
    channel = backends.load(spec["backend"]).insecure_channel(
        spec["address"], options=backends.options(spec["size"])
    )
    answers = stubs.HealthStub(channel).Watch(messages.HealthCheckRequest(), wait_for_ready=True)
    if next(answers).status != messages.HealthCheckResponse.SERVING:
        raise RuntimeError("the server says that it does not serve")
    settle()
    control.answer(pid=os.getpid())
    while control.receive() is not None:
        control.answer()
    answers.cancel()
    channel.close()


def be_held(spec: dict[str, Any], control: Control) -> None:
    """A client that waits in a call that is not answered; the runner kills the server."""
    grpc: Any = importlib.import_module("grpc")
    messages: Any = importlib.import_module("bench_pb2")
    request = messages.Payload(data=os.urandom(spec["size"]))
    api = backends.load(spec["backend"])
    settle()
    control.answer(pid=os.getpid())
    while (command := control.receive()) is not None:
        if command["do"] == "exchange":
            _, stub, close = _connect(api, {**spec, **command})
            for _ in range(_EXCHANGED):
                stub.Echo(request, wait_for_ready=True, timeout=CONNECT_S)
            control.answer()
            continue
        try:
            stub.Hold(request, timeout=CONNECT_S)
            code, ended = "OK", time.perf_counter_ns()
        except grpc.RpcError as error:
            ended = time.perf_counter_ns()
            code = error.code().name
        control.answer(code=code, ended_ns=ended)
        close()


def _check_stream(found: list[Any], spec: dict[str, Any]) -> None:
    if found != [loops.FILL * spec["size"]] * _TRIAL:
        raise RuntimeError("the stream is not what was asked for")


def _connect(api: Any, spec: dict[str, Any]) -> tuple[Any, Any, Callable[[], Any]]:
    messages, stubs = backends.interface(spec)
    channel = api.insecure_channel(spec["address"], options=backends.options(spec["size"]))
    return messages, stubs.BenchStub(channel), channel.close


def obey(control: Control, run: loops.Run) -> None:
    """Says that all is set up, then runs slices as the runner asks for them."""
    settle()
    control.answer(pid=os.getpid())
    while (command := control.receive()) is not None:
        if command["do"] == "counters":
            control.answer(counters=counters())
            continue
        latencies = array("q")
        used = time.process_time_ns()
        calls, elapsed = run(command["span_ns"], latencies)
        used = time.process_time_ns() - used
        control.answer(latencies.tobytes(), calls=calls, elapsed_ns=elapsed, cpu_ns=used)
