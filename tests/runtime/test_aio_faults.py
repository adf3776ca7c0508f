"""Faults of peers and of the program itself under asyncio: calls end as they should, the loop is
never blocked, and what goes on in the same loop goes on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import time

import grpc
import grpc.aio
import pytest
from apiharness import WAIT, AioImpl, eventually, eventually_aio
from faultharness import PREAMBLE, SERVER, balance, holdings
from test_faults_kill import CLIENT as KILLED_CLIENT
from test_faults_kill import CLIENT_KINDS
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoReply, EchoRequest

zerohop = pytest.importorskip("zerohop")

MIB = 1 << 20
# The design asks for 20 ms; the rest is for machines that are busy with other things.
PROMPT = 1.0
DEADLINE = grpc.StatusCode.DEADLINE_EXCEEDED
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE

sizes = pytest.mark.parametrize("size", [16, MIB], ids=["small", "1 MiB"])

# What a child needs to run a loop in a thread of its own, and a server of Echo there.
LOOP = """
import asyncio
from zerohop import aio
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()

def run(coroutine):
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)
"""
AIO_SERVER = (
    LOOP
    + """
class AioServicer(echo_pb2_grpc.EchoServicer):
    async def Unary(self, request, context):
        await asyncio.sleep(request.count / 1000)
        return EchoReply(text=request.text, index=os.getpid(), payload=request.payload)

    async def ServerStream(self, request, context):
        for index in range(request.count):
            yield EchoReply(index=index, payload=request.payload)

    async def ClientStream(self, requests, context):
        return EchoReply(index=sum([len(request.payload) async for request in requests]))

    async def Bidi(self, requests, context):
        async for request in requests:
            yield EchoReply(text=request.text, payload=request.payload)

async def start():
    server = aio.server()
    echo_pb2_grpc.add_EchoServicer_to_server(AioServicer(), server)
    server.add_insecure_port(address)
    await server.start()
    return server

server = run(start())
"""
)
SERVERS = {"sync": "server = serve()", "aio": AIO_SERVER}


@pytest.fixture
async def here(tmp_path):
    """zerohop's asyncio API in the test's loop, at the addresses of `launch`."""
    harness = AioImpl("zerohop", tmp_path)
    yield harness
    await harness.close()


class Traffic:
    """A task that calls a server over and over; how often it did, and for how long at most the loop
    was not its."""

    def __init__(self, stub, size=100):
        self._stub, self._request = stub, EchoRequest(payload=bytes(size))
        self.count, self.away = 0, 0.0
        self._tasks = []

    async def _call(self):
        while True:
            await self._stub.Unary(self._request, timeout=WAIT)
            self.count += 1

    async def _tick(self):
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            self.away = max(self.away, time.monotonic() - began - 0.005)

    async def __aenter__(self):
        self._tasks = [asyncio.create_task(self._call()), asyncio.create_task(self._tick())]
        await self.progress()
        return self

    async def progress(self, calls=20):
        """Waits until so many more calls have succeeded."""
        goal = self.count + calls
        await eventually_aio(lambda: self.count >= goal or self._tasks[0].done())
        assert self.count >= goal, self._tasks[0].exception()

    async def __aexit__(self, *_):
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert self.away < PROMPT


async def endless(size):
    while True:
        yield EchoRequest(payload=bytes(size))
        await asyncio.sleep(0.002)


async def drain(call):
    async for _ in call:
        pass


async def read_and_write(call, size):
    """A bidirectional stream by its methods, both ways at once."""

    async def write():
        while True:
            await call.write(EchoRequest(payload=bytes(size)))
            await asyncio.sleep(0.002)

    async def read():
        while await call.read() is not grpc.aio.EOF:
            pass

    writing = asyncio.create_task(write())
    try:
        await read()
    finally:
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError, grpc.RpcError, asyncio.InvalidStateError):
            await writing


def every_kind(stub, size, **options):
    """Calls of every kind that do not end by themselves, as coroutines that wait for their end."""
    request = EchoRequest(payload=bytes(size))

    async def unary():
        await stub.Unary(EchoRequest(payload=bytes(size), count=60_000), **options)

    async def many():
        many = EchoRequest(payload=bytes(size), count=1 << 30)
        await drain(stub.ServerStream(many, **options))

    async def upload():
        await stub.ClientStream(endless(size), **options)

    async def both():
        await drain(stub.Bidi(endless(size), **options))

    async def unread():
        call = stub.ServerStream(EchoRequest(payload=bytes(size), count=1 << 30), **options)
        assert await call.code() is not grpc.StatusCode.OK
        raise grpc.aio.AioRpcError(await call.code(), (), ())

    async def by_hand():
        call = stub.Bidi(**options)
        await call.write(request)
        await read_and_write(call, size)

    return [kind() for kind in (unary, many, upload, both, unread, by_hand)]


async def ending(coroutine):
    """The status with which it fails, and when."""
    try:
        async with asyncio.timeout(WAIT):
            await coroutine
    except grpc.RpcError as error:
        return error.code(), time.monotonic()
    raise AssertionError("the call did not fail")


def start_all(coroutines):
    return [asyncio.create_task(ending(coroutine)) for coroutine in coroutines]


async def nothing_stays(before):
    await eventually_aio(lambda: balance() == 0)
    for what in "fds", "links":
        await eventually_aio(lambda what=what: holdings()[what] <= before[what])
    assert zerohop.loans() == []


# --- killed --------------------------------------------------------------------------------------


@sizes
@pytest.mark.parametrize("kind", SERVERS)
async def test_server_is_killed(here, launch, kind, size):
    """Calls of every kind end at once; another server's go on in the same loop."""
    launch("server = serve()", here.address("other"))
    bystander = echo_pb2_grpc.EchoStub(here.channel(here.address("other")))
    await bystander.Unary(EchoRequest(payload=bytes(size)), timeout=WAIT)
    before = holdings()
    server = launch(SERVERS[kind])
    stub = echo_pb2_grpc.EchoStub(here.channel())
    await stub.Unary(EchoRequest(payload=bytes(size)), timeout=WAIT)
    async with Traffic(bystander) as traffic:
        calls = start_all([*every_kind(stub, size), *every_kind(stub, size)])
        await asyncio.sleep(0.1)
        assert not any(call.done() for call in calls)
        killed = time.monotonic()
        server.process.kill()
        ends = await asyncio.gather(*calls)
        assert [code for code, _ in ends] == [UNAVAILABLE] * 12
        assert max(when for _, when in ends) - killed < PROMPT
        await traffic.progress()
    server.process.wait()
    await nothing_stays(before)


async def test_server_is_killed_and_another_comes(here, launch):
    """A call that waits for one goes to the new one, and to nobody who is dead."""
    stub = echo_pb2_grpc.EchoStub(here.channel())
    for _ in range(3):
        server = launch(AIO_SERVER)
        reply = await stub.Unary(EchoRequest(), timeout=WAIT, wait_for_ready=True)
        assert reply.index == server.pid
        calls = start_all(every_kind(stub, 16))
        await asyncio.sleep(0.02)
        server.kill()
        assert {code for code, _ in await asyncio.gather(*calls)} == {UNAVAILABLE}
    await eventually_aio(lambda: balance() == 0)


@sizes
@pytest.mark.parametrize("kind", CLIENT_KINDS)
async def test_client_is_killed(here, launch, kind, size):
    """Handlers are cancelled, their callbacks run, and what was lent is back."""
    begun, cancelled, done = [], [], []

    async def hang(context, requests=None):
        context.add_done_callback(lambda context: done.append(context.cancelled()))
        try:
            begun.append(1)
            if requests is not None:
                await drain(requests)
            await asyncio.sleep(WAIT)
        except asyncio.CancelledError:
            cancelled.append(time.monotonic())
            raise

    async def unary(request, context):
        if request.text:
            return EchoReply(text=request.text)
        await hang(context)

    async def client_stream(requests, context):
        await hang(context, requests)

    async def flood(request, context):
        context.add_done_callback(lambda context: done.append(context.cancelled()))
        begun.append(1)
        try:
            while True:
                yield EchoReply(payload=request.payload)
        except (asyncio.CancelledError, GeneratorExit):
            cancelled.append(time.monotonic())
            raise

    async def bidi(requests, context):
        async for request in requests:
            async for reply in flood(request, context):
                yield reply

    peer = await here.serve(
        unary=unary, server_stream=flood, client_stream=client_stream, bidi=bidi
    )
    await peer.stub.Unary(EchoRequest(text="x", payload=bytes(size)), timeout=WAIT)
    before, native = holdings(), peer.server._core.native
    handled = zerohop.stats()["calls_handled"]

    class Echo:
        Unary = staticmethod(
            lambda request, timeout: peer.stub.Unary(EchoRequest(text="x"), timeout=timeout)
        )

    client = launch(f"size = {size}\n" + KILLED_CLIENT)
    async with Traffic(Echo) as traffic:
        for number in range(3):
            client.ask(f"globals().setdefault('calls', []).append({CLIENT_KINDS[kind]})")
            await eventually_aio(lambda number=number: len(begun) > number)
        await traffic.progress()
        killed = time.monotonic()
        client.process.kill()
        await eventually_aio(lambda: len(cancelled) == 3 and len(done) == 3)
        assert max(cancelled) - killed < PROMPT
        await traffic.progress()
    await eventually_aio(lambda: native.open == 0 and native.running == 0)
    client.process.wait()
    await nothing_stays(before)
    assert zerohop.stats()["calls_handled"] >= handled + 3


# --- stopped -------------------------------------------------------------------------------------


@sizes
async def test_server_is_stopped(here, launch, size):
    """Its calls of every kind end at their deadline; after SIGCONT it answers again."""
    launch("server = serve()", here.address("other"))
    server = launch(AIO_SERVER)
    bystander = echo_pb2_grpc.EchoStub(here.channel(here.address("other")))
    stub = echo_pb2_grpc.EchoStub(here.channel())
    await stub.Unary(EchoRequest(payload=bytes(size)), timeout=WAIT)
    async with Traffic(bystander, size) as traffic:
        server.stop()
        began = time.monotonic()
        calls = start_all(every_kind(stub, size, timeout=0.5))
        await traffic.progress()
        ends = await asyncio.gather(*calls)
        assert {code for code, _ in ends} <= {DEADLINE, EXHAUSTED}
        assert DEADLINE in {code for code, _ in ends}
        assert 0.4 <= max(when for _, when in ends) - began < 2
        await traffic.progress()
        server.resume()
        assert (await stub.Unary(EchoRequest(), timeout=WAIT)).index == server.pid
    await eventually_aio(lambda: balance() == 0)
    await eventually_aio(lambda: server.ask("balance()") == 0)
    native = "[server._core.native.open, server._core.native.running]"
    await eventually_aio(lambda: server.ask(native) == [0, 0])


async def test_stopped_and_then_killed(here, launch):
    server = launch(AIO_SERVER)
    stub = echo_pb2_grpc.EchoStub(here.channel())
    await stub.Unary(EchoRequest(), timeout=WAIT)
    server.stop()
    calls = start_all(every_kind(stub, MIB))
    await asyncio.sleep(0.1)
    killed = time.monotonic()
    server.process.kill()
    ends = await asyncio.gather(*calls)
    assert {code for code, _ in ends} == {UNAVAILABLE}
    assert max(when for _, when in ends) - killed < PROMPT
    await eventually_aio(lambda: balance() == 0)


@sizes
async def test_client_is_stopped(here, launch, size):
    """An asyncio server posts what fits and serves the others; the rest goes out after SIGCONT."""
    peer = await here.serve()
    native = peer.server._core.native
    client = launch(
        f"stub = stub_of()\nrequest = EchoRequest(count=1 << 30, payload=bytes({size}))"
    )
    loop = asyncio.get_running_loop()

    async def ask(expression):  # it needs the loop for its answer
        return await loop.run_in_executor(None, client.ask, expression)

    async with Traffic(peer.stub, size) as traffic:
        await ask("(streams := [stub.ServerStream(request) for _ in range(3)]) and 1")
        await ask("[next(stream).index for stream in streams]")
        await ask("(calls := [stub.Unary.future(request) for _ in range(20)]) and 1")
        client.stop()
        await traffic.progress(50)
        assert native.running >= 3
        client.resume()
        assert await ask("[len(call.result(30).payload) for call in calls]") == [size] * 20
        assert await ask("next(streams[0]).index") == 1
        await ask("[stream.cancel() for stream in streams]")
        await traffic.progress()
    await eventually_aio(lambda: native.open == 0 and native.running == 0)
    await eventually_aio(lambda: balance() == 0)


# --- exhaustion ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, 100_000])
async def test_streams_that_are_not_read(here, launch, size):
    """Their handlers wait for credit; a stream and calls over the same link in the same loop go on.
    Dropped, they leave nothing."""
    server = launch(AIO_SERVER)
    stub = echo_pb2_grpc.EchoStub(here.channel())
    request = EchoRequest(count=1 << 30, payload=bytes(size))
    async with Traffic(stub) as traffic:
        unread = [stub.ServerStream(request, timeout=1.5) for _ in range(20)]
        for call in unread[:10]:
            assert (await call.read()).index == 0
        await traffic.progress()
        read = stub.ServerStream(EchoRequest(count=1000, payload=bytes(size)))
        assert [reply.index async for reply in read] == list(range(1000))
        await traffic.progress()
        assert {await call.code() for call in unread} == {DEADLINE}
        dropped = [stub.ServerStream(request) for _ in range(20)]
        await dropped[0].read()
        del dropped, call
        gc.collect()
        await traffic.progress()
    native = "[server._core.native.open, server._core.native.running]"
    await eventually_aio(lambda: server.ask(native) == [0, 0])
    await eventually_aio(lambda: server.ask("balance()") == 0)
    await eventually_aio(lambda: balance() == 0)


async def test_ring_is_full(here, launch):
    """Uploads that a stopped server does not take wait, one by one; nobody else does."""
    launch("server = serve()", here.address("other"))
    server = launch(AIO_SERVER)
    stub = echo_pb2_grpc.EchoStub(here.channel())
    bystander = echo_pb2_grpc.EchoStub(here.channel(here.address("other")))
    await stub.Unary(EchoRequest(), timeout=WAIT)
    sent = 0

    async def requests():
        nonlocal sent
        while True:
            yield EchoRequest(payload=bytes(900))
            sent += 1

    async def upload():
        await stub.ClientStream(requests(), timeout=1)

    async with Traffic(bystander) as traffic:
        server.stop()
        calls = start_all(upload() for _ in range(40))
        await asyncio.sleep(0.3)
        assert sent < 200
        await traffic.progress()
        code, _ = await ending(stub.Unary(EchoRequest(), timeout=0.2))
        assert code is EXHAUSTED
        codes = {code for code, _ in await asyncio.gather(*calls)}
        assert DEADLINE in codes
        assert codes <= {DEADLINE, EXHAUSTED}
        # More calls than a link has room for.
        calls = start_all(stub.Unary(EchoRequest(), timeout=0.3) for _ in range(700))
        assert {code for code, _ in await asyncio.gather(*calls)} <= {DEADLINE, EXHAUSTED}
        await traffic.progress()
        server.resume()
        assert (await stub.Unary(EchoRequest(text="x"), timeout=WAIT)).text == "x"
    await eventually_aio(lambda: server.ask("server._core.native.running") == 0)


def test_arena_is_full(home, launch):
    """A program whose arena is lent to a stopped server: large calls to it end with
    RESOURCE_EXHAUSTED, small ones and those to others in the same loop do not."""
    launch("server = serve()", home.address("other"))
    server = launch("server = serve()")
    script = """
    async def make():
        return [echo_pb2_grpc.EchoStub(aio.insecure_channel(target))
                for target in sys.argv[1].split(",")]

    stub, other = run(make())

    async def codes(calls):
        return [getattr(found, "code", lambda: found)().name if found is not None else None
                for found in await asyncio.gather(*calls)]

    async def one(stub, size, timeout):
        try:
            await stub.Unary(EchoRequest(payload=bytes(size)), timeout=timeout)
        except grpc.RpcError as error:
            return error

    async def flood(number, size, timeout):
        return await codes([one(stub, size, timeout) for _ in range(number)])

    async def both():
        began = time.monotonic()
        flooding = asyncio.create_task(flood(8, 600_000, 1.0))
        await asyncio.sleep(0.05)
        error = await one(other, 600_000, 30)
        return [error is None, time.monotonic() - began < 0.9, await flooding]
    """
    client = launch(
        LOOP + textwrap.dedent(script),
        f"{home.address()},{home.address('other')}",
        ZEROHOP_ARENA_LIMIT=str(8 * MIB),
    )
    assert client.ask("run(flood(1, 10, 30))") == [None]
    server.stop()
    fine, in_time, codes = client.ask("run(both())")
    assert fine
    assert in_time
    assert (codes.count("DEADLINE_EXCEEDED"), codes.count("RESOURCE_EXHAUSTED")) == (3, 5)
    server.resume()
    assert client.ask("run(flood(8, 600_000, 30))") == [None] * 8
    eventually(lambda: client.ask("balance()") == 0)


# --- the program's own doing ---------------------------------------------------------------------


def program(address, script, **arguments):
    """A process that runs a script to its end."""
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + SERVER + textwrap.dedent(script), address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ZEROHOP_TEST_HARNESS": os.path.dirname(__file__)},
        **arguments,
    )


def outcome(process):
    try:
        out, err = process.communicate(timeout=WAIT)
    finally:
        process.kill()
        process.communicate()
    return process.returncode, out, err


OPEN = """
import asyncio
from zerohop import aio

async def open_calls(target=address):
    channel = aio.insecure_channel(target)
    stub = echo_pb2_grpc.EchoStub(channel)
    many = EchoRequest(count=1 << 30, payload=bytes(10_000))
    calls = [stub.Unary(EchoRequest(count=1500)), stub.ServerStream(many), stub.ServerStream(many),
             stub.ClientStream(), stub.Bidi()]
    await calls[2].read()
    await calls[3].write(EchoRequest())
    await calls[4].write(EchoRequest())
    await calls[4].read()
    return channel, stub, calls
"""


def test_fork_with_calls_open(home, launch):
    """The child's every use of them says why not; those of the parent go on, and its server's."""
    launch("server = serve()", home.address("other"))
    script = (
        OPEN
        + """
class Own(echo_pb2_grpc.EchoServicer):
    async def Unary(self, request, context):
        await asyncio.sleep(request.count / 1000)
        return EchoReply(text=request.text, index=os.getpid())

async def serve_own(target):
    own = aio.server()
    echo_pb2_grpc.add_EchoServicer_to_server(Own(), own)
    own.add_insecure_port(target)
    await own.start()
    return own

async def refused(awaitable):
    try:
        await asyncio.wait_for(awaitable, 5)
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION, error
        assert "fork" in error.details(), error
    except RuntimeError as error:
        assert "fork" in str(error), error
    else:
        raise AssertionError("an inherited object worked")

async def drained(call):
    async for _ in call:
        pass

async def child(stub):
    await refused(stub.Unary(EchoRequest(), timeout=5))
    await refused(stub.Unary(EchoRequest(), timeout=5, wait_for_ready=True))
    await refused(drained(stub.ServerStream(EchoRequest(count=1), timeout=5)))
    await refused(stub.ClientStream(iter([EchoRequest()]), timeout=5))
    await refused(drained(stub.Bidi(iter([EchoRequest()]), timeout=5)))
    own = await serve_own(address + ".child")
    async with aio.insecure_channel(address + ".child") as channel:
        reply = await echo_pb2_grpc.EchoStub(channel).Unary(EchoRequest(), timeout=30)
        assert reply.index == os.getpid()
    await own.stop(None)

async def main():
    own = await serve_own(address + ".own")
    channel, stub, calls = await open_calls(OTHER)
    own_channel = aio.insecure_channel(address + ".own")
    own_stub = echo_pb2_grpc.EchoStub(own_channel)
    pending = own_stub.Unary(EchoRequest(count=1000, text="own"))
    await own_stub.Unary(EchoRequest(), timeout=30)
    for leave in os._exit, sys.exit:
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.events._set_running_loop(None)
                asyncio.set_event_loop(None)
                asyncio.run(child(stub))
            except BaseException as error:
                import traceback
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert status == 0, status
    assert (await calls[2].read()).index == 1
    await calls[4].write(EchoRequest(text="y"))
    assert (await calls[4].read()).text == "y"
    assert (await pending).text == "own"
    for call in calls:
        call.cancel()
    await own_channel.close()
    await channel.close()
    await own.stop(None)

asyncio.run(main())
""".replace("OTHER", repr(home.address("other")))
    )
    assert outcome(program(home.address(), script)) == (0, "", "")


@pytest.mark.parametrize("debug", [False, True])
def test_ctrl_c_with_calls_open(home, launch, debug):
    """asyncio.run cancels its tasks and ends with KeyboardInterrupt; the calls end."""
    server = launch("server = serve()")
    script = (
        OPEN
        + f"""
async def main():
    channel, stub, calls = await open_calls()
    tasks = [asyncio.create_task(calls[0].code()), asyncio.create_task(calls[1].read()),
             asyncio.create_task(calls[3].wait_for_connection())]
    print("open", flush=True)
    async with channel:
        while await calls[2].read():
            pass

try:
    asyncio.run(main(), debug={debug})
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    )
    process = program(home.address(), script)
    assert process.stdout.readline() == "open\n"
    time.sleep(0.05)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert outcome(process) == (0, "interrupted\n", "")
    assert time.monotonic() - began < 5
    native = "[server._core.native.open, server._core.native.running]"
    eventually(lambda: server.ask(native) in ([0, 0], [0, 1]))  # one sleeps on
    eventually(lambda: server.ask("holdings()['links']") == 0)
    eventually(lambda: server.ask("balance()") == 0)


def test_ctrl_c_at_any_moment(home, launch):
    """Hundreds of signals, each at another point of calls in flight: one KeyboardInterrupt each,
    and the next loop works."""
    launch("server = serve()")
    script = """
    import asyncio, random
    from zerohop import aio

    async def main(delay):
        async with aio.insecure_channel(address) as channel:
            stub = echo_pb2_grpc.EchoStub(channel)

            async def calls():
                while True:
                    await stub.Unary(EchoRequest(payload=bytes(random.choice([10, 5000]))))

            async def streams():
                while True:
                    async for _ in stub.Bidi(iter([EchoRequest()] * 3)):
                        pass

            tasks = [asyncio.create_task(work()) for work in [calls, streams] * 4]
            shooter = threading.Thread(
                target=lambda: (time.sleep(delay), os.kill(os.getpid(), signal.SIGINT)))
            shooter.start()
            await asyncio.gather(*tasks)

    for number in range(150):
        try:
            asyncio.run(main(0.0001 * number))
        except KeyboardInterrupt:
            pass
        else:
            sys.exit("no KeyboardInterrupt")
    async def last():
        async with aio.insecure_channel(address) as channel:
            await echo_pb2_grpc.EchoStub(channel).Unary(EchoRequest(), timeout=30)
    asyncio.run(last())
    assert zerohop.loans() == []
    """
    assert outcome(program(home.address(), script)) == (0, "", "")


@pytest.mark.parametrize("order", ["loop first", "calls first", "nothing dropped"])
def test_loop_is_closed_with_calls_open(home, launch, order):
    """Its calls are given up, and whatever is asked of them later says so or does nothing; another
    loop of the process is none the wiser."""
    server = launch("server = serve(workers=40)")
    script = (
        OPEN
        + f"""
import gc
order = {order!r}
loop = asyncio.new_event_loop()
other = asyncio.new_event_loop()
other_channel, other_stub, other_calls = other.run_until_complete(open_calls())
held = loop.run_until_complete(open_calls())
done = []
held[2][1].add_done_callback(done.append)
loop.close()
if order == "loop first":
    del loop
    gc.collect()
elif order == "calls first":
    del held
    gc.collect()

async def go_on():
    index = (await other_calls[2].read()).index
    await other_calls[4].write(EchoRequest(text="z"))
    assert (await other_calls[4].read()).text == "z"
    await other_stub.Unary(EchoRequest(), timeout=30)
    return index

assert other.run_until_complete(go_on()) == 1
if order != "calls first":
    for call in held[2]:
        call.cancel()
        call.done()
        call.time_remaining()

async def again():
    channel, stub, calls = await open_calls()
    for call in calls:
        call.cancel()
    await channel.close()

asyncio.run(again())
assert other.run_until_complete(go_on()) == 2
assert zerohop.loans() == []
print("links", flush=True)
sys.stdin.read()
"""
    )
    process = program(home.address(), script, stdin=subprocess.PIPE)
    try:
        assert process.stdout.readline() == "links\n", process.stderr.read()
        # The other loop's are left, but for the unary one.
        eventually(lambda: server.ask("server._core.native.open") == 4)
        eventually(lambda: server.ask("holdings()['links']") == 2)
        process.stdin.close()
        process.stdin = None
        assert outcome(process) == (0, "", "")
    finally:
        process.kill()
    eventually(lambda: server.ask("holdings()['links']") == 0)
    eventually(lambda: server.ask("balance()") == 0)
