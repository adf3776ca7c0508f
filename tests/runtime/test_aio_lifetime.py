"""asyncio on zerohop: what is dropped goes away, loops of other kinds and in threads, plain
addresses beside our own, forks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from concurrent import futures

import grpc
import grpc.aio
import pytest
from apiharness import WAIT, AioImpl, code_and_details_aio, eventually_aio, make_servicer
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoReply, EchoRequest

zerohop = pytest.importorskip("zerohop")
from zerohop import aio, pumps  # noqa: E402


@pytest.fixture
def bare(tmp_path):
    """zerohop's asyncio API without a loop: each test runs loops of its own."""
    return AioImpl("zerohop", tmp_path)


@pytest.fixture
async def impl(tmp_path):
    """zerohop's asyncio API in the test's loop."""
    harness = AioImpl("zerohop", tmp_path)
    yield harness
    await harness.close()


class Endless:
    """Handlers that go on until they are cancelled, and say that they were."""

    def __init__(self):
        self.started = 0
        self.over = 0

    async def stream(self, request, context):
        self.started += 1
        try:
            while True:
                yield EchoReply(text="more")
                await asyncio.sleep(0.01)
        finally:
            self.over += 1

    async def bidi(self, request_iterator, context):
        async for reply in self.stream(None, context):
            yield reply

    async def unary(self, request, context):
        self.started += 1
        try:
            await asyncio.sleep(0.05)
            return EchoReply(text=request.text)
        finally:
            self.over += 1


def open_calls():
    """Calls that links of any loop of this process hold open."""
    gc.collect()
    return sum(link.info()["open_calls"] for pump in pumps.all_pumps() for link in pump.links())


async def test_dropped_streams_are_given_up(impl):
    endless = Endless()
    peer = await impl.serve(server_stream=endless.stream, bidi=endless.bidi)
    async with asyncio.timeout(WAIT):
        call = peer.stub.ServerStream(EchoRequest())
        await call.read()
        del call
        async for _ in peer.stub.ServerStream(EchoRequest()):
            break
        call = peer.stub.Bidi()
        await call.read()
        del call
        await eventually_aio(lambda: endless.over == 3)
        await eventually_aio(lambda: open_calls() == 0)
    assert endless.started == 3


async def test_dropped_unary_call_is_made(impl):
    """As in grpcio: nobody need await it."""
    endless = Endless()
    peer = await impl.serve(unary=endless.unary)
    await peer.channel.channel_ready()
    for _ in range(5):
        peer.stub.Unary(EchoRequest())
    gc.collect()
    await eventually_aio(lambda: endless.over == 5)
    await eventually_aio(lambda: open_calls() == 0)


async def test_dropped_upload_is_made(impl):
    received = []

    async def handler(request_iterator, context):
        async for request in request_iterator:
            received.append(request.text)
            await asyncio.sleep(0.01)
        received.append("end")
        return EchoReply()

    peer = await impl.serve(client_stream=handler)
    peer.stub.ClientStream([EchoRequest(text="a"), EchoRequest(text="b")])
    await eventually_aio(lambda: received == ["a", "b", "end"])


async def test_done_callback_of_a_dropped_call(impl):
    endless = Endless()
    peer = await impl.serve(unary=endless.unary)
    codes = []

    def callback(call):
        codes.append(call.code)

    peer.stub.Unary(EchoRequest()).add_done_callback(callback)
    gc.collect()
    await eventually_aio(lambda: codes)
    assert await codes[0]() is grpc.StatusCode.OK


async def test_nothing_of_a_call_stays(impl):
    peer = await impl.serve()
    calls = []

    async def one_of_each():
        unary = peer.stub.Unary(EchoRequest(text="x"))
        await unary
        stream = peer.stub.ServerStream(EchoRequest(count=3))
        _ = [reply async for reply in stream]
        bidi = peer.stub.Bidi()
        await bidi.write(EchoRequest())
        await bidi.done_writing()
        assert [reply.index async for reply in bidi] == [0]
        failed = peer.channel.unary_unary("/zhtest.Echo/No")(b"")
        await code_and_details_aio(failed)
        cancelled = peer.stub.Unary(EchoRequest())
        cancelled.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await cancelled
        calls.extend(map(weakref.ref, (unary, stream, bidi, failed, cancelled)))

    await one_of_each()
    gc.collect()
    await eventually_aio(lambda: not any(call() is not None for call in calls))


async def test_no_garbage_for_the_collector(impl):
    """Unary calls and streams that end are freed by their references alone."""
    peer = await impl.serve()
    await peer.stub.Unary(EchoRequest())
    gc.collect()
    gc.disable()
    try:
        calls = []
        for _ in range(3):
            call = peer.stub.Unary(EchoRequest())
            await call
            calls.append(weakref.ref(call))
            call = peer.stub.ServerStream(EchoRequest(count=2))
            async for _ in call:
                pass
            calls.append(weakref.ref(call))
            del call
        await asyncio.sleep(0.05)
        assert [call() for call in calls] == [None] * 6
    finally:
        gc.enable()


async def test_dropped_channels_close_their_links(impl):
    await impl.start()

    def links():
        return sum(len(pump.links()) for pump in pumps.all_pumps())

    before = links()
    for _ in range(50):
        channel = aio.insecure_channel(impl.address())
        await channel.unary_unary("/zhtest.Echo/Unary")(b"")
        del channel
    gc.collect()
    await eventually_aio(lambda: links() == before)


async def test_call_keeps_its_channel(impl):
    """A call goes on when nobody has its channel any more."""
    endless = Endless()
    await impl.start(unary=endless.unary)
    call = aio.insecure_channel(impl.address()).unary_unary("/zhtest.Echo/Unary")(b"")
    gc.collect()
    assert await call == b""


async def test_cancelled_before_there_is_a_link(impl):
    """The calls of a channel that has not connected yet, ended in every way."""
    channel = impl.channel(impl.address("nobody"))
    stub = echo_pb2_grpc.EchoStub(channel)
    call = stub.Unary(EchoRequest(), wait_for_ready=True)
    assert call.cancel() is True
    with pytest.raises(asyncio.CancelledError):
        await call
    call = stub.Unary(EchoRequest(), wait_for_ready=True, timeout=0.1)
    assert 0 < call.time_remaining() <= 0.1
    assert (await code_and_details_aio(call))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    stream = stub.Bidi(wait_for_ready=True)
    writing = asyncio.create_task(stream.write(EchoRequest()))
    waiting = stub.Unary(EchoRequest(), wait_for_ready=True)
    await asyncio.sleep(0.05)
    await channel.close()
    for awaitable in (writing, waiting):
        with pytest.raises(asyncio.CancelledError):
            await awaitable


async def test_stream_that_waits_for_its_server(impl):
    channel = impl.channel(impl.address("late"))
    call = echo_pb2_grpc.EchoStub(channel).Bidi(wait_for_ready=True, timeout=WAIT)
    writing = asyncio.create_task(call.write(EchoRequest(text="x")))
    await asyncio.sleep(0.05)
    assert not writing.done()
    await impl.start("late")
    await writing
    await call.done_writing()
    assert [reply.text async for reply in call] == ["x"]


async def test_plain_address_beside_ours(impl):
    """One server listens on shared memory and on TCP, with the same handlers and interceptors."""
    methods = []

    class Note(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation, handler_call_details):
            methods.append(handler_call_details.method)
            return await continuation(handler_call_details)

    server = impl.server(interceptors=[Note()])
    port = server.add_insecure_port("127.0.0.1:0")
    assert port > 0
    assert server.add_insecure_port(impl.address()) == 1

    async def unary(request, context):
        return EchoReply(text=context.peer().split(":")[0])

    echo_pb2_grpc.add_EchoServicer_to_server(make_servicer({}, {"unary": unary}), server)
    await server.start()
    for target, scheme in ((f"127.0.0.1:{port}", "ipv4"), (impl.address(), "shm")):
        async with aio.insecure_channel(target) as channel:
            reply = await echo_pb2_grpc.EchoStub(channel).Unary(EchoRequest(), timeout=WAIT)
            assert reply.text == scheme
    assert methods == ["/zhtest.Echo/Unary"] * 2
    assert await server.wait_for_termination(0.05) is True
    waiting = asyncio.create_task(server.wait_for_termination())
    await server.stop(None)
    assert await waiting is False


async def test_secure_is_refused(impl):
    with pytest.raises(ValueError, match="shared memory"):
        aio.secure_channel(impl.address(), grpc.ssl_channel_credentials())
    with pytest.raises(ValueError, match="shared memory"):
        impl.server().add_secure_port(impl.address(), grpc.ssl_server_credentials(((b"", b""),)))


async def test_same_names_as_grpcio():
    assert set(aio.__all__) == set(grpc.aio.__all__)
    for name in grpc.aio.__all__:
        assert hasattr(aio, name)


async def _serve_and_call(bare, name):
    """A bit of everything in the running loop."""

    async def unary(request, context):
        await asyncio.sleep(0)
        return EchoReply(text=request.text)

    async def stream(request, context):
        for index in range(request.count):
            yield EchoReply(index=index)

    async def bidi(request_iterator, context):
        async for request in request_iterator:
            yield EchoReply(text=request.text)

    def sync(request_iterator, context):
        return EchoReply(index=sum(1 for _ in request_iterator))

    server = aio.server()
    behaviours = {"unary": unary, "server_stream": stream, "bidi": bidi, "client_stream": sync}
    echo_pb2_grpc.add_EchoServicer_to_server(make_servicer({}, behaviours), server)
    server.add_insecure_port(bare.address(name))
    await server.start()
    async with asyncio.timeout(WAIT), aio.insecure_channel(bare.address(name)) as channel:
        stub = echo_pb2_grpc.EchoStub(channel)
        replies = await asyncio.gather(
            *(stub.Unary(EchoRequest(text=str(number))) for number in range(100))
        )
        assert [reply.text for reply in replies] == [str(number) for number in range(100)]
        call = stub.ServerStream(EchoRequest(count=5000))
        assert [reply.index async for reply in call] == list(range(5000))
        call = stub.Bidi(iter([EchoRequest(text="a"), EchoRequest(text="b")]))
        assert [reply.text async for reply in call] == ["a", "b"]
        assert (await stub.ClientStream(iter([EchoRequest()] * 3))).index == 3
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(channel.wait_for_state_change(channel.get_state()), 0.01)
    await server.stop(None)
    return type(asyncio.get_running_loop()).__module__


def test_uvloop(bare):
    uvloop = pytest.importorskip("uvloop")
    for _ in range(2):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            assert runner.run(_serve_and_call(bare, "s")).startswith("uvloop")


def test_uvloops_in_threads(bare):
    uvloop = pytest.importorskip("uvloop")

    def work(number):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve_and_call(bare, f"s{number}"))

    with futures.ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(work, range(8)))) == 8


def test_task_factory_of_the_user(bare):
    """Also one of before Python 3.11, which knows no context."""

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coroutine: asyncio.Task(coroutine, loop=loop))
        await _serve_and_call(bare, "s")

    asyncio.run(main())


def test_debug_mode_of_the_loop(bare):
    """asyncio's debug mode finds calls from the wrong thread."""
    asyncio.run(_serve_and_call(bare, "s"), debug=True)


def test_streams_between_loops_in_threads(bare):
    """Client and server have a thread and a loop each: every order of waking and sleeping."""
    ready = threading.Event()
    stop = []

    async def stream(request, context):
        for index in range(request.count):
            yield EchoReply(index=index)

    async def client_stream(request_iterator, context):
        count = 0
        async for _ in request_iterator:
            count += 1
        return EchoReply(index=count)

    async def serve():
        server = aio.server()
        behaviours = {"server_stream": stream, "client_stream": client_stream}
        echo_pb2_grpc.add_EchoServicer_to_server(make_servicer({}, behaviours), server)
        server.add_insecure_port(bare.address())
        await server.start()
        event = asyncio.Event()
        stop.append((asyncio.get_running_loop(), event))
        ready.set()
        await event.wait()
        await server.stop(None)

    async def call():
        async with asyncio.timeout(WAIT), aio.insecure_channel(bare.address()) as channel:
            stub = echo_pb2_grpc.EchoStub(channel)
            for count in (1, 10, 3000, 30_000):
                received = 0
                async for reply in stub.ServerStream(EchoRequest(count=count)):
                    assert reply.index == received
                    received += 1
                assert received == count
                requests = (EchoRequest() for _ in range(count))
                assert (await stub.ClientStream(requests)).index == count

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(WAIT)
        asyncio.run(call())
    finally:
        loop, event = stop[0]
        loop.call_soon_threadsafe(event.set)
        thread.join(WAIT)
    assert not thread.is_alive()


def test_loop_that_ends_with_a_server(bare):
    """A server that nobody stopped goes with its loop, and the next one has its address."""

    async def leave():
        await bare.start()
        channel = aio.insecure_channel(bare.address())
        await channel.unary_unary("/zhtest.Echo/Unary")(b"")
        call = echo_pb2_grpc.EchoStub(channel).Bidi()
        await call.write(EchoRequest())
        return call

    for _ in range(3):
        call = asyncio.run(leave())
        bare._servers.clear()
        del call
    gc.collect()
    asyncio.run(_serve_and_call(bare, "s"))


def test_descriptors_of_loops_are_closed(bare):
    def descriptors():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    asyncio.run(_serve_and_call(bare, "s"))
    before = descriptors()
    for _ in range(10):
        asyncio.run(_serve_and_call(bare, "s"))
    assert descriptors() <= before + 8


def test_fork(bare):
    """A channel of the parent says so in the child; a new one works there."""
    script = """
    import asyncio, os, sys
    import grpc
    from zerohop import aio
    from zhtest import echo_pb2_grpc
    from zhtest.types_pb2 import EchoReply, EchoRequest
    address = sys.argv[1]

    class Servicer(echo_pb2_grpc.EchoServicer):
        async def Unary(self, request, context):
            return EchoReply(text=request.text)

    async def child(stub):
        try:
            await stub.Unary(EchoRequest())
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION, error
            assert "fork" in error.details(), error
        else:
            raise AssertionError("not refused")
        async with aio.insecure_channel(address) as channel:
            stub = echo_pb2_grpc.EchoStub(channel)
            reply = await stub.Unary(EchoRequest(text="child"), timeout=20)
            assert reply.text == "child"

    async def main():
        server = aio.server()
        echo_pb2_grpc.add_EchoServicer_to_server(Servicer(), server)
        server.add_insecure_port(address)
        await server.start()
        channel = aio.insecure_channel(address)
        stub = echo_pb2_grpc.EchoStub(channel)
        await stub.Unary(EchoRequest())
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                asyncio.events._set_running_loop(None)
                loop = asyncio.new_event_loop()
                loop.run_until_complete(child(stub))
                status = 0
            except BaseException as error:
                print(repr(error), flush=True)
            finally:
                os._exit(status)
        loop = asyncio.get_running_loop()
        _, status = await loop.run_in_executor(None, os.waitpid, pid, 0)
        assert (await stub.Unary(EchoRequest(text="parent"), timeout=20)).text == "parent"
        await server.stop(None)
        print(os.waitstatus_to_exitcode(status))

    asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), bare.address()],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


async def test_name_of_two_servers(impl, folder, monkeypatch):
    """Calls are balanced over the servers of a name, and one that stops is left out at once."""
    monkeypatch.setenv("ZEROHOP_REGISTRY", str(folder))
    servers = []
    for number in range(2):

        async def unary(request, context, number=number):
            return EchoReply(index=number)

        server = impl.server()
        echo_pb2_grpc.add_EchoServicer_to_server(make_servicer({}, {"unary": unary}), server)
        assert server.add_insecure_port("zerohop:///pair") == 1
        await server.start()
        servers.append(server)
    stub = echo_pb2_grpc.EchoStub(impl.channel("zerohop:///pair"))

    async def answers(count):
        return {(await stub.Unary(EchoRequest(), timeout=WAIT)).index for _ in range(count)}

    assert await answers(10) == {0, 1}
    await servers[0].stop(None)
    assert await answers(10) == {1}
    await servers[1].stop(None)
    code, details = await code_and_details_aio(stub.Unary(EchoRequest()))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "pair" in details


def test_server_is_killed(bare):
    """Its calls end at once with UNAVAILABLE, a unary one and a stream in its middle."""
    script = """
    import asyncio, sys
    from zerohop import aio
    from zhtest import echo_pb2_grpc
    from zhtest.types_pb2 import EchoReply

    class Servicer(echo_pb2_grpc.EchoServicer):
        async def Unary(self, request, context):
            await asyncio.sleep(100)

        async def ServerStream(self, request, context):
            yield EchoReply()
            await asyncio.sleep(100)

    async def main():
        server = aio.server()
        echo_pb2_grpc.add_EchoServicer_to_server(Servicer(), server)
        server.add_insecure_port(sys.argv[1])
        await server.start()
        print("up", flush=True)
        await server.wait_for_termination()

    asyncio.run(main())
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), bare.address()],
        stdout=subprocess.PIPE,
        text=True,
    )

    async def main():
        async with asyncio.timeout(WAIT), aio.insecure_channel(bare.address()) as channel:
            stub = echo_pb2_grpc.EchoStub(channel)
            stream = stub.ServerStream(EchoRequest())
            await stream.read()
            calls = [asyncio.ensure_future(stub.Unary(EchoRequest())) for _ in range(20)]
            await asyncio.sleep(0.05)
            process.kill()
            for awaitable in (*calls, stream.read()):
                code, details = await code_and_details_aio(awaitable)
                assert code is grpc.StatusCode.UNAVAILABLE
                assert str(process.pid) in details
            assert channel.get_state() is grpc.ChannelConnectivity.IDLE

    try:
        assert process.stdout.readline() == "up\n"
        asyncio.run(main())
    finally:
        process.kill()
        process.communicate()
