"""asyncio: several event loops in one process, one after another and in threads, and mixtures of
the asyncio and the synchronous API."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent import futures

import pytest
from apiharness import WAIT, AioImpl, Impl, make_servicer
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoReply, EchoRequest


@pytest.fixture
def start_sync_server(impl_name, tmp_path):
    """Starts a synchronous server of Echo, which ends with the test."""
    harness = Impl(impl_name, tmp_path)
    yield harness.start
    harness.close()


@pytest.fixture
def bare(impl_name, tmp_path):
    """The asyncio API without a loop: each test runs loops of its own."""
    return AioImpl(impl_name, tmp_path)


async def _serve_and_call(bare, name, text):
    async def unary(request, context):
        return EchoReply(text=request.text)

    server = bare.module.server()
    echo_pb2_grpc.add_EchoServicer_to_server(make_servicer({}, {"unary": unary}), server)
    server.add_insecure_port(bare.address(name))
    await server.start()
    async with bare.module.insecure_channel(bare.address(name)) as channel:
        stub = echo_pb2_grpc.EchoStub(channel)
        replies = await asyncio.gather(
            *(stub.Unary(EchoRequest(text=f"{text}/{number}")) for number in range(20))
        )
    await server.stop(None)
    return [reply.text for reply in replies]


def test_loops_one_after_another(bare):
    for number in range(5):
        texts = asyncio.run(_serve_and_call(bare, "s", str(number)))
        assert texts == [f"{number}/{index}" for index in range(20)]


def test_loops_with_different_addresses(bare):
    for number in range(5):
        texts = asyncio.run(_serve_and_call(bare, f"s{number}", str(number)))
        assert len(texts) == 20


def test_loops_in_several_threads(bare):
    """Each thread has a loop with a server and a channel of its own."""

    def work(number):
        return asyncio.run(_serve_and_call(bare, f"s{number}", str(number)))

    with futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(8)))
    assert results == [[f"{n}/{index}" for index in range(20)] for n in range(8)]


def test_clients_in_several_threads(bare, start_sync_server):
    """Loops in several threads call one synchronous server."""
    start_sync_server()

    async def call(number):
        async with bare.module.insecure_channel(bare.address()) as channel:
            stub = echo_pb2_grpc.EchoStub(channel)
            for index in range(20):
                text = f"{number}/{index}"
                assert (await stub.Unary(EchoRequest(text=text), timeout=WAIT)).text == text
                replies = stub.ServerStream(EchoRequest(count=5), timeout=WAIT)
                assert [reply.index async for reply in replies] == list(range(5))
        return number

    with futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda n: asyncio.run(call(n)), range(8))) == list(range(8))


def test_synchronous_client_of_an_asyncio_server(bare):
    """The loop runs in a thread of its own; the main thread calls with the synchronous API."""
    ready = threading.Event()
    stopping = []

    async def serve():
        async def unary(request, context):
            await asyncio.sleep(0)
            return EchoReply(text=request.text)

        async def stream(request, context):
            for index in range(request.count):
                yield EchoReply(index=index)

        server = bare.module.server()
        servicer = make_servicer({}, {"unary": unary, "server_stream": stream})
        echo_pb2_grpc.add_EchoServicer_to_server(servicer, server)
        server.add_insecure_port(bare.address())
        await server.start()
        stop = asyncio.Event()
        stopping.append((asyncio.get_running_loop(), stop))
        ready.set()
        await stop.wait()
        await server.stop(None)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(WAIT)
        with bare.root().insecure_channel(bare.address()) as channel:
            stub = echo_pb2_grpc.EchoStub(channel)
            for number in range(50):
                assert stub.Unary(EchoRequest(text=str(number)), timeout=WAIT).text == str(number)
            replies = stub.ServerStream(EchoRequest(count=20), timeout=WAIT)
            assert [reply.index for reply in replies] == list(range(20))
    finally:
        loop, stop = stopping[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(WAIT)
    assert not thread.is_alive()


def test_both_servers_in_one_process(bare, start_sync_server):
    """A synchronous server and an asyncio one, each called with both APIs."""
    start_sync_server("sync")

    async def main():
        async def unary(request, context):
            return EchoReply(text="asyncio")

        server = bare.module.server()
        echo_pb2_grpc.add_EchoServicer_to_server(make_servicer({}, {"unary": unary}), server)
        server.add_insecure_port(bare.address("aio"))
        await server.start()
        loop = asyncio.get_running_loop()
        with (
            bare.root().insecure_channel(bare.address("sync")) as to_sync,
            bare.root().insecure_channel(bare.address("aio")) as to_aio,
        ):
            request = EchoRequest(text="sync")
            for _ in range(10):
                async with bare.module.insecure_channel(bare.address("sync")) as channel:
                    reply = await echo_pb2_grpc.EchoStub(channel).Unary(request, timeout=WAIT)
                    assert reply.text == "sync"
                async with bare.module.insecure_channel(bare.address("aio")) as channel:
                    reply = await echo_pb2_grpc.EchoStub(channel).Unary(request, timeout=WAIT)
                    assert reply.text == "asyncio"
                stub = echo_pb2_grpc.EchoStub(to_aio)
                reply = await loop.run_in_executor(None, lambda s=stub: s.Unary(request, WAIT))
                assert reply.text == "asyncio"
                stub = echo_pb2_grpc.EchoStub(to_sync)
                reply = await loop.run_in_executor(None, lambda s=stub: s.Unary(request, WAIT))
                assert reply.text == "sync"
        await server.stop(None)

    asyncio.run(main())


def test_channel_made_before_the_loop_runs(bare, start_sync_server):
    """As in a module's top level or in a constructor: `asyncio.run` comes later."""
    start_sync_server()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        channel = bare.module.insecure_channel(bare.address())

        async def call():
            reply = await echo_pb2_grpc.EchoStub(channel).Unary(EchoRequest(text="x"))
            await channel.close()
            return reply.text

        assert loop.run_until_complete(call()) == "x"
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_loop_that_ends_with_open_calls(bare, start_sync_server):
    """asyncio.run cancels what is left; nothing hangs, and the next loop works."""
    gate = threading.Event()

    def blocked(request, context):
        gate.wait(WAIT)
        return EchoReply(text="late")

    start_sync_server(unary=blocked)

    async def leave():
        channel = bare.module.insecure_channel(bare.address())
        call = echo_pb2_grpc.EchoStub(channel).Unary(EchoRequest())
        await asyncio.sleep(0)
        return channel, call

    asyncio.run(leave())
    gate.set()

    async def again():
        async with bare.module.insecure_channel(bare.address()) as channel:
            return (await echo_pb2_grpc.EchoStub(channel).Unary(EchoRequest(), timeout=WAIT)).text

    assert asyncio.run(again()) == "late"


def test_eager_use_of_the_synchronous_api_inside_a_loop(bare, start_sync_server):
    """A blocking call in a coroutine is bad style, but it works when the server is elsewhere."""
    start_sync_server()

    async def main():
        with bare.root().insecure_channel(bare.address()) as channel:
            return echo_pb2_grpc.EchoStub(channel).Unary(EchoRequest(text="x"), timeout=WAIT).text

    assert asyncio.run(main()) == "x"


CHILD = """
import asyncio, importlib, sys
import grpc
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoReply, EchoRequest
aio = importlib.import_module(sys.argv[1])
address = sys.argv[2]

def say(text):
    print(text, flush=True)
"""


def _child(bare, script):
    module = "zerohop.aio" if bare.zerohop else "grpc.aio"
    return subprocess.Popen(
        [sys.executable, "-c", CHILD + textwrap.dedent(script), module, bare.address()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c(bare, start_sync_server):
    """asyncio turns it into a cancellation of the main task."""
    started, over = threading.Event(), threading.Event()

    def handler(request, context):
        context.add_callback(over.set)
        started.set()
        over.wait(WAIT)
        return EchoReply()

    start_sync_server(unary=handler)
    child = _child(
        bare,
        """
        async def main():
            async with aio.insecure_channel(address) as channel:
                await echo_pb2_grpc.EchoStub(channel).Unary(EchoRequest())
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            say("interrupted")
        """,
    )
    try:
        assert started.wait(WAIT)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=WAIT)
        assert (child.returncode, out) == (0, "interrupted\n"), err
        assert "Traceback" not in err
        assert over.wait(WAIT)
    finally:
        child.kill()
        child.communicate()


def test_exit_in_the_middle(bare, start_sync_server):
    """asyncio.run returns with a call, a stream and a server still open."""
    gate = threading.Event()

    def handler(request, context):
        gate.wait(WAIT)
        return EchoReply()

    start_sync_server(unary=handler)
    child = _child(
        bare,
        """
        async def main():
            channel = aio.insecure_channel(address)
            stub = echo_pb2_grpc.EchoStub(channel)
            replies = [reply.index async for reply in stub.ServerStream(EchoRequest(count=3))]
            call = stub.Unary(EchoRequest())
            stream = stub.Bidi()
            await stream.write(EchoRequest(text="x"))
            say(f"{replies} {(await stream.read()).text}")
        asyncio.run(main())
        """,
    )
    try:
        out, err = child.communicate(timeout=WAIT)
        assert (child.returncode, out) == (0, "[0, 1, 2] x\n"), err
        assert "Traceback" not in err
        if bare.zerohop:
            assert err == ""
    finally:
        gate.set()
        child.kill()
        child.communicate()
