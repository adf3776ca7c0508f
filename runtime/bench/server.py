"""The server processes: stock or generated stubs over a backend, sync or asyncio."""

import asyncio
import importlib
import os
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from zerohop.bench import backends, inplace
from zerohop.bench.control import Control
from zerohop.bench.loops import FILL
from zerohop.bench.process import counters, settle

_STOP_S = 1.0


def serve(spec: dict[str, Any], control: Control) -> None:
    """A sync server, until the runner has had enough."""
    api = backends.load(spec["backend"])
    pool = ThreadPoolExecutor(spec["pool"]) if spec["pool"] else None
    server = api.server(pool, options=backends.options(spec["size"]))
    onward = None
    if spec.get("next"):
        channel = api.insecure_channel(spec["next"], options=backends.options(spec["size"]))
        onward = backends.interface(spec)[1].BenchStub(channel).Echo
    held = threading.Event()
    messages, stubs = backends.interface(spec)
    stubs.add_BenchServicer_to_server(_servicer(messages, stubs, onward, held), server)
    if spec.get("health"):
        _add_health(server)
    port = server.add_insecure_port(spec["address"])
    server.start()
    settle()
    control.answer(pid=os.getpid(), port=port)
    while (command := control.receive()) is not None:
        if command["do"] == "held":
            held.wait()
            control.answer()
            continue
        control.answer(counters=counters() if command["do"] == "counters" else {})
    server.stop(_STOP_S).wait(_STOP_S)


def serve_asyncio(spec: dict[str, Any], control: Control) -> None:
    """The same with asyncio."""
    asyncio.run(_serve_asyncio(spec, control))


async def _serve_asyncio(spec: dict[str, Any], control: Control) -> None:
    server = backends.load_aio(spec["backend"]).server(options=backends.options(spec["size"]))
    messages, stubs = backends.interface(spec)
    stubs.add_BenchServicer_to_server(_async_servicer(messages, stubs), server)
    port = server.add_insecure_port(spec["address"])
    await server.start()
    settle()
    control.answer(pid=os.getpid(), port=port)
    while (command := await asyncio.to_thread(control.receive)) is not None:
        control.answer(counters=counters() if command["do"] == "counters" else {})
    await server.stop(_STOP_S)


def _servicer(messages: Any, stubs: Any, onward: Any, held: threading.Event) -> Any:
    class Bench(stubs.BenchServicer):  # type: ignore[misc]
        def Echo(self, request: Any, context: Any) -> Any:
            return request if onward is None else onward(request)

        def Stream(self, request: Any, context: Any) -> Iterator[Any]:
            message = messages.Payload(data=FILL * request.size)
            for _ in range(request.count):
                yield message

        def Hold(self, request: Any, context: Any) -> Any:
            over = threading.Event()
            if context.add_callback(over.set):
                held.set()
                over.wait()
            return request

        def Ends(self, request: Any, context: Any) -> Any:
            data = request.data
            return messages.Value(value=data[0] | data[-1] << 8)

        def SumBytes(self, request: Any, context: Any) -> Any:
            return messages.Value(value=inplace.total(request.data, "bytes"))

        def SumWords(self, request: Any, context: Any) -> Any:
            return messages.Value(value=inplace.total(request.data, "words"))

        def Copy(self, request: Any, context: Any) -> Any:
            return messages.Record(
                number=request.number, text=request.text, data=bytes(request.data)
            )

    return Bench()


def _async_servicer(messages: Any, stubs: Any) -> Any:
    class Bench(stubs.BenchServicer):  # type: ignore[misc]
        async def Echo(self, request: Any, context: Any) -> Any:
            return request

        async def Stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
            message = messages.Payload(data=FILL * request.size)
            for _ in range(request.count):
                yield message

    return Bench()


def _add_health(server: Any) -> None:
    health: Any = importlib.import_module("grpc_health.v1.health")
    stubs: Any = importlib.import_module("grpc_health.v1.health_pb2_grpc")
    stubs.add_HealthServicer_to_server(health.HealthServicer(), server)
