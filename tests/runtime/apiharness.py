"""What the API suite runs on: one object per implementation, with grpcio as the oracle.

A test asks for the fixture `impl` (or `impl_aio`) and gets servers, channels and stubs of grpcio or
of zerohop; it must see the same answers from both.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib
import importlib.metadata
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import grpc.aio

PROTOS = Path(__file__).resolve().parent.parent / "protos"

# Longer than anything a noisy machine does to a call that is going to end, short of a hang.
WAIT = float(os.environ.get("ZEROHOP_TEST_WAIT", "30"))

_METHODS = {
    "unary": "Unary",
    "server_stream": "ServerStream",
    "client_stream": "ClientStream",
    "bidi": "Bidi",
}


def generate_protos(cache: Path | None) -> Path:
    """Generates stock `_pb2` and `_pb2_grpc` modules once, and returns their directory."""
    sources = sorted(PROTOS.rglob("*.proto"))
    digest = hashlib.sha256(importlib.metadata.version("grpcio-tools").encode())
    for source in sources:
        digest.update(source.read_bytes())
    root = cache if cache is not None else Path(tempfile.mkdtemp(prefix="zh-protos-"))
    root.mkdir(parents=True, exist_ok=True)
    out = root / f"protos-{digest.hexdigest()[:16]}"
    if not out.is_dir():
        import grpc_tools
        from grpc_tools import protoc

        scratch = Path(tempfile.mkdtemp(dir=root))
        include = Path(grpc_tools.__file__).parent / "_proto"
        status = protoc.main(
            [
                "protoc",
                f"-I{PROTOS}",
                f"-I{include}",
                f"--python_out={scratch}",
                f"--grpc_python_out={scratch}",
                *(str(source) for source in sources),
            ]
        )
        if status != 0:
            raise RuntimeError(f"protoc ended with {status}")
        try:
            scratch.rename(out)
        except OSError:  # Another process was first.
            shutil.rmtree(scratch, ignore_errors=True)
    return out


def use_protos(cache: Path | None) -> None:
    """Puts the generated modules on sys.path, and on the path of child processes."""
    out = str(generate_protos(cache))
    if out not in sys.path:
        sys.path.insert(0, out)
    inherited = os.environ.get("PYTHONPATH", "")
    if out not in inherited.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [out, inherited]))


def eventually(condition: Callable[[], Any], timeout: float = WAIT) -> None:
    """Waits until the condition holds; for what has no event to wait on."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("the condition did not come true")
        time.sleep(0.005)


def settled(counter: Callable[[], int], limit: int = 1 << 60) -> int:
    """Waits until a producer has made no progress for a while, and returns how far it got; gives
    up where it runs over the limit."""
    last, since = counter(), time.monotonic()
    end = since + WAIT
    while time.monotonic() < end:
        time.sleep(0.02)
        now = counter()
        if now >= limit:
            return now
        if now != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > 0.5:
            return now
    return max(last, limit)


async def eventually_aio(condition: Callable[[], Any], timeout: float = WAIT) -> None:
    """The same for coroutines."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("the condition did not come true")
        await asyncio.sleep(0.005)


def echo_reply(request: Any, index: int = 0) -> Any:
    """The reply that the default handlers give."""
    from zhtest import types_pb2

    return types_pb2.EchoReply(text=request.text, payload=request.payload, index=index)


def _unary(request: Any, context: Any) -> Any:
    return echo_reply(request)


def _server_stream(request: Any, context: Any) -> Iterator[Any]:
    for index in range(request.count):
        yield echo_reply(request, index)


def _client_stream(requests: Iterator[Any], context: Any) -> Any:
    from zhtest import types_pb2

    texts, payload = [], b""
    for request in requests:
        texts.append(request.text)
        payload += request.payload
    return types_pb2.EchoReply(text=",".join(texts), payload=payload, index=len(texts))


def _bidi(requests: Iterator[Any], context: Any) -> Iterator[Any]:
    for index, request in enumerate(requests):
        yield echo_reply(request, index)


async def _aio_unary(request: Any, context: Any) -> Any:
    return echo_reply(request)


async def _aio_server_stream(request: Any, context: Any) -> Any:
    for index in range(request.count):
        yield echo_reply(request, index)


async def _aio_client_stream(requests: Any, context: Any) -> Any:
    from zhtest import types_pb2

    texts, payload = [], b""
    async for request in requests:
        texts.append(request.text)
        payload += request.payload
    return types_pb2.EchoReply(text=",".join(texts), payload=payload, index=len(texts))


async def _aio_bidi(requests: Any, context: Any) -> Any:
    index = 0
    async for request in requests:
        yield echo_reply(request, index)
        index += 1


_DEFAULTS = {
    "unary": _unary,
    "server_stream": _server_stream,
    "client_stream": _client_stream,
    "bidi": _bidi,
}
_AIO_DEFAULTS = {
    "unary": _aio_unary,
    "server_stream": _aio_server_stream,
    "client_stream": _aio_client_stream,
    "bidi": _aio_bidi,
}


def make_servicer(defaults: dict[str, Any], behaviours: dict[str, Any]) -> Any:
    """A stock EchoServicer with the behaviours given as plain functions `(request, context)`."""
    from zhtest import echo_pb2_grpc

    unknown = set(behaviours) - set(_METHODS)
    if unknown:
        raise TypeError(f"no such methods: {sorted(unknown)}")
    chosen = {**defaults, **behaviours}
    members = {_METHODS[key]: staticmethod(behaviour) for key, behaviour in chosen.items()}
    return type("Servicer", (echo_pb2_grpc.EchoServicer,), members)()


def echo_servicer() -> Any:
    """A synchronous servicer that echoes."""
    return make_servicer(_DEFAULTS, {})


class Peer:
    """A started server of Echo and a client of it."""

    def __init__(self, target: str, server: Any, channel: Any) -> None:
        from zhtest import echo_pb2_grpc

        self.target = target
        self.server = server
        self.channel = channel
        self.stub = echo_pb2_grpc.EchoStub(channel)


class _Base:
    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.zerohop = name.startswith("zerohop")
        self.inline = name.endswith("-inline")
        self.generated = name.endswith("-generated")
        self._directory = directory
        self._gates: list[threading.Event] = []
        self._pools: list[futures.ThreadPoolExecutor] = []

    def address(self, name: str = "s") -> str:
        """An address on which a server may listen and to which a channel connects."""
        scheme = "shm" if self.zerohop else "unix"
        return f"{scheme}:{self._directory / name}.sock"

    def gate(self) -> threading.Event:
        """An event for handlers to block on; it is set at the end of the test at the latest."""
        gate = threading.Event()
        self._gates.append(gate)
        return gate

    def pool(self, workers: int = 10) -> futures.ThreadPoolExecutor:
        """A thread pool that ends with the test."""
        pool = futures.ThreadPoolExecutor(max_workers=workers)
        self._pools.append(pool)
        return pool

    def root(self) -> ModuleType:
        """`grpc` or `zerohop`. Imported late: without zerohop its tests fail, and only they do."""
        return importlib.import_module("zerohop" if self.zerohop else "grpc")

    def _close(self) -> None:
        for pool in self._pools:
            pool.shutdown(wait=False)


class Impl(_Base):
    """The synchronous API of one implementation."""

    @property
    def module(self) -> ModuleType:
        """The module that has `server` and `insecure_channel`."""
        return self.root()

    def __init__(self, name: str, directory: Path) -> None:
        super().__init__(name, directory)
        self._servers: list[Any] = []
        self._channels: list[Any] = []

    def server(self, *, workers: int = 10, **arguments: Any) -> Any:
        """A server with a thread pool (or none, inline), not started and without ports."""
        pool = None if self.inline else self.pool(workers)
        server = self.module.server(pool, **arguments)
        self._servers.append(server)
        return server

    def channel(self, target: str | None = None, **arguments: Any) -> Any:
        """A channel, by default to the default address."""
        channel = self.module.insecure_channel(target or self.address(), **arguments)
        self._channels.append(channel)
        return channel

    def start(self, name: str = "s", servicer: Any = None, **arguments: Any) -> Any:
        """A started server of Echo at the address of that name."""
        from zhtest import echo_pb2_grpc

        behaviours = {key: arguments.pop(key) for key in list(arguments) if key in _METHODS}
        server = self.server(**arguments)
        if servicer is None:
            servicer = make_servicer(_DEFAULTS, behaviours)
        echo_pb2_grpc.add_EchoServicer_to_server(servicer, server)
        server.add_insecure_port(self.address(name))
        server.start()
        return server

    def serve(self, name: str = "s", *, channel_options: Any = None, **arguments: Any) -> Peer:
        """A started server of Echo and a channel to it."""
        server = self.start(name, **arguments)
        return Peer(
            self.address(name), server, self.channel(self.address(name), options=channel_options)
        )

    def forget(self, server: Any) -> None:
        """Drops the harness's reference to a server."""
        self._servers.remove(server)

    def close(self) -> None:
        """Ends everything that the test started."""
        for gate in self._gates:
            gate.set()
        for channel in self._channels:
            channel.close()
        # grpcio may lose count of a call whose request it could not deserialize, and then never
        # stops: hence no stop(None), which would wait for ever.
        stopped = [server.stop(0).wait(WAIT if self.zerohop else 2) for server in self._servers]
        self._close()
        if self.zerohop:
            assert all(stopped), "a server did not stop"


class AioImpl(_Base):
    """The asyncio API of one implementation."""

    def __init__(self, name: str, directory: Path) -> None:
        super().__init__(name, directory)
        self._servers: list[Any] = []
        self._channels: list[Any] = []

    @property
    def module(self) -> ModuleType:
        """The module that has `server` and `insecure_channel`."""
        return importlib.import_module(("zerohop" if self.zerohop else "grpc") + ".aio")

    def server(self, **arguments: Any) -> Any:
        """A server, not started and without ports."""
        server = self.module.server(**arguments)
        self._servers.append(server)
        return server

    def channel(self, target: str | None = None, **arguments: Any) -> Any:
        """A channel, by default to the default address."""
        channel = self.module.insecure_channel(target or self.address(), **arguments)
        self._channels.append(channel)
        return channel

    async def start(self, name: str = "s", servicer: Any = None, **arguments: Any) -> Any:
        """A started server of Echo at the address of that name."""
        from zhtest import echo_pb2_grpc

        behaviours = {key: arguments.pop(key) for key in list(arguments) if key in _METHODS}
        server = self.server(**arguments)
        if servicer is None:
            servicer = make_servicer(_AIO_DEFAULTS, behaviours)
        echo_pb2_grpc.add_EchoServicer_to_server(servicer, server)
        server.add_insecure_port(self.address(name))
        await server.start()
        return server

    async def serve(
        self,
        name: str = "s",
        *,
        channel_options: Any = None,
        channel_interceptors: Any = None,
        **arguments: Any,
    ) -> Peer:
        """A started server of Echo and a channel to it."""
        server = await self.start(name, **arguments)
        channel = self.channel(
            self.address(name), options=channel_options, interceptors=channel_interceptors
        )
        return Peer(self.address(name), server, channel)

    def forget(self, server: Any) -> None:
        """Drops the harness's reference to a server."""
        self._servers.remove(server)

    async def close(self) -> None:
        """Ends everything that the test started."""
        for gate in self._gates:
            gate.set()
        try:
            async with asyncio.timeout(WAIT):
                for channel in self._channels:
                    await channel.close()
                for server in self._servers:
                    await server.stop(None)
        finally:
            self._close()


@contextlib.contextmanager
def shared_memory_used(harness: Any, calls: int = 1) -> Iterator[None]:
    """On zerohop: at least so many calls in this block went through shared memory, as the
    counters have it. Client and server are both in this process."""
    if not harness.zerohop:
        yield
        return
    zerohop = harness.root()
    before = zerohop.stats()
    yield
    for counter in ("calls_started", "calls_handled"):
        eventually(lambda c=counter: zerohop.stats()[c] - before[c] >= calls)


async def code_and_details_aio(call: Any) -> tuple[grpc.StatusCode, str]:
    """The status with which an awaitable fails."""
    try:
        async with asyncio.timeout(WAIT):
            await call
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError("the call did not fail")


def code_and_details(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    """The status with which a call fails."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError("the call did not fail")
