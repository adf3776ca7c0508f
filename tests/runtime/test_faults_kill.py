"""A peer killed in the middle of calls: its calls end at once, and nothing of it stays."""

from __future__ import annotations

import os
import threading
import time

import grpc
import pytest
import zerohop
from apiharness import WAIT, eventually
from faultharness import balance, holdings
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoReply, EchoRequest

MIB = 1 << 20
# The design asks for 20 ms; the rest is for machines that are busy with other things.
PROMPT = 1.0

pytestmark = pytest.mark.parametrize("size", [16, MIB], ids=["small", "1 MiB"])

# A child that goes on living with all that it has inherited, but for the pipes to the test.
FORK = "os.fork() or (os.close(1), os.close(2), time.sleep(60), os._exit(0))"

KINDS = {
    "unary": lambda stub, size: stub.Unary.future(EchoRequest(payload=bytes(size), count=60_000)),
    "server stream": lambda stub, size: started(
        stub.ServerStream(EchoRequest(payload=bytes(size), count=1 << 30))
    ),
    "client stream": lambda stub, size: stub.ClientStream.future(endless(size)),
    "bidi": lambda stub, size: started(stub.Bidi(endless(size))),
}


def endless(size):
    while True:
        yield EchoRequest(payload=bytes(size))
        time.sleep(0.002)


def started(call):
    next(call)
    return call


def ended(call) -> grpc.StatusCode:
    try:
        for _ in call if hasattr(call, "__next__") else [call.result(timeout=WAIT)]:
            pass
    except grpc.RpcError as error:
        return error.code()
    raise AssertionError("the call succeeded")


def nothing_stays(before):
    """Waits until this process holds no more than before, and has got back what it has lent."""
    eventually(lambda: balance() == 0)
    for what in "fds", "links":
        eventually(lambda what=what: holdings()[what] <= before[what])


@pytest.mark.parametrize("kind", KINDS)
def test_server_in_the_middle_of_a_call(home, launch, size, kind):
    other = launch("server = serve()", home.address("other"))
    bystander = echo_pb2_grpc.EchoStub(home.channel(home.address("other")))
    bystander.Unary(EchoRequest(payload=bytes(size)), timeout=WAIT)
    before = holdings()
    server = launch("server = serve()")
    stub = echo_pb2_grpc.EchoStub(home.channel())
    calls = [KINDS[kind](stub, size) for _ in range(3)]
    results = []

    def wait(call):
        results.append((ended(call), time.monotonic()))

    waiting = [threading.Thread(target=wait, args=(call,)) for call in calls]
    for thread in waiting:
        thread.start()
    time.sleep(0.1)
    killed = time.monotonic()
    server.process.kill()
    for thread in waiting:
        thread.join(WAIT)
    assert [code for code, _ in results] == [grpc.StatusCode.UNAVAILABLE] * 3
    assert max(when for _, when in results) - killed < PROMPT
    nothing_stays(before)
    assert bystander.Unary(EchoRequest(text="x"), timeout=WAIT).index == other.pid


def test_server_that_has_forked(home, launch, size):
    """The child of the dead peer still has its end of the socket, were it not closed at fork."""
    before = holdings()
    server = launch("server = serve()")
    stub = echo_pb2_grpc.EchoStub(home.channel())
    stub.Unary(EchoRequest(payload=bytes(size)), timeout=WAIT)
    child = server.ask(FORK)
    try:
        call = stub.Unary.future(EchoRequest(payload=bytes(size), count=60_000))
        stream = started(stub.ServerStream(EchoRequest(payload=bytes(size), count=1 << 30)))
        began = time.monotonic()
        server.process.kill()
        assert ended(call) is grpc.StatusCode.UNAVAILABLE
        assert ended(stream) is grpc.StatusCode.UNAVAILABLE
        assert time.monotonic() - began < PROMPT
        os.kill(child, 0)  # it is still there
        nothing_stays(before)
    finally:
        os.kill(child, 9)


def test_client_that_has_forked(home, launch, size):
    begun, over = threading.Event(), threading.Event()

    def handler(request, context):
        context.add_callback(over.set)
        begun.set()
        over.wait(WAIT)
        return EchoReply()

    home.start(unary=handler)
    before = holdings()
    client = launch("stub = stub_of()\ncall = None")
    client.ask(f"(call := stub.Unary.future(EchoRequest(payload=bytes({size})))) and 1")
    assert begun.wait(WAIT)
    child = client.ask(FORK)
    try:
        began = time.monotonic()
        client.process.kill()
        assert over.wait(WAIT)
        assert time.monotonic() - began < PROMPT
        os.kill(child, 0)
        nothing_stays(before)
    finally:
        os.kill(child, 9)


CLIENT = """
stub = stub_of()
def endless():
    while True:
        yield EchoRequest(payload=bytes(size))
        time.sleep(0.002)
"""
CLIENT_KINDS = {
    "unary": "stub.Unary.future(EchoRequest(payload=bytes(size)))",
    "server stream": "stub.ServerStream(EchoRequest(payload=bytes(size)))",
    "client stream": "stub.ClientStream.future(endless())",
    "bidi": "stub.Bidi(endless())",
}


@pytest.mark.parametrize("kind", CLIENT_KINDS)
def test_client_in_the_middle_of_a_call(home, launch, size, kind):
    """The handler learns of it, and the server keeps nothing; others' calls go on."""
    begun, over = threading.Semaphore(0), threading.Semaphore(0)
    when = []

    def unary(request, context):
        if request.text:
            return EchoReply(text=request.text)
        context.add_callback(lambda: (when.append(time.monotonic()), over.release()))
        begun.release()
        while context.is_active():
            time.sleep(0.001)
        return EchoReply(payload=request.payload)

    def stream(request, context):
        context.add_callback(lambda: (when.append(time.monotonic()), over.release()))
        yield EchoReply(payload=request.payload)
        begun.release()
        while context.is_active():
            yield EchoReply(payload=request.payload)

    def client_stream(requests, context):
        context.add_callback(lambda: (when.append(time.monotonic()), over.release()))
        for number, _ in enumerate(requests):
            if number == 0:
                begun.release()
        return EchoReply()

    def bidi(requests, context):
        context.add_callback(lambda: (when.append(time.monotonic()), over.release()))
        for number, request in enumerate(requests):
            if number == 0:
                begun.release()
            yield EchoReply(payload=request.payload)

    peer = home.serve(unary=unary, server_stream=stream, client_stream=client_stream, bidi=bidi)
    assert peer.stub.Unary(EchoRequest(text="x"), timeout=WAIT).text == "x"
    before = holdings()
    client = launch(f"size = {size}\n" + CLIENT)
    for _ in range(3):
        client.ask(f"globals().setdefault('calls', []).append({CLIENT_KINDS[kind]})")
        assert begun.acquire(timeout=WAIT)
    killed = time.monotonic()
    client.process.kill()
    for _ in range(3):
        assert over.acquire(timeout=WAIT)
    assert max(when) - killed < PROMPT
    assert peer.stub.Unary(EchoRequest(text="x"), timeout=WAIT).text == "x"
    native = peer.server._core.native
    eventually(lambda: native.open == 0 and native.running == 0)
    nothing_stays(before)


def test_over_and_over(home, launch, size):
    """Peers that die one after the other leave nothing behind, whoever polls."""
    stub = echo_pb2_grpc.EchoStub(home.channel())
    before = None
    for _ in range(6):
        server = launch("server = serve()")
        request = EchoRequest(payload=bytes(size))
        stub.Unary(request, timeout=WAIT, wait_for_ready=True)
        calls = [stub.Unary.future(EchoRequest(payload=bytes(size), count=60_000)) for _ in "123"]
        server.process.kill()
        assert [ended(call) for call in calls] == [grpc.StatusCode.UNAVAILABLE] * 3
        server.process.wait()
        if before is None:
            eventually(lambda: balance() == 0)
            before = holdings()
    nothing_stays(before)
    assert holdings()["maps"] <= before["maps"]


def test_how_prompt(home, launch, size, record_property):
    """How long after SIGKILL a waiting call ends; the slowest of ten is recorded."""
    slowest = 0.0
    for number in range(10):
        server = launch("server = serve()", home.address(str(number)))
        stub = echo_pb2_grpc.EchoStub(home.channel(home.address(str(number))))
        call = stub.Unary.future(EchoRequest(payload=bytes(size), count=60_000))
        time.sleep(0.02)
        began = time.perf_counter()
        server.process.kill()
        assert ended(call) is grpc.StatusCode.UNAVAILABLE
        slowest = max(slowest, time.perf_counter() - began)
    record_property("slowest_ms", round(slowest * 1000, 2))
    print(f"{size} bytes: {slowest * 1000:.1f} ms from SIGKILL to UNAVAILABLE, at most")
    assert slowest < PROMPT
    assert zerohop.stats()["links_closed"] > 0
