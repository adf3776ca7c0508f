"""A peer stopped with SIGSTOP: its own calls expire, and nobody else notices."""

from __future__ import annotations

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
DEADLINE = grpc.StatusCode.DEADLINE_EXCEEDED
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


class Traffic:
    """A thread that calls a server over and over, and how often it did."""

    def __init__(self, stub, size=100):
        self._stub, self._request = stub, EchoRequest(payload=bytes(size))
        self._stop = threading.Event()
        self.count, self.error = 0, None
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            while not self._stop.is_set():
                self._stub.Unary(self._request, timeout=WAIT)
                self.count += 1
        except grpc.RpcError as error:
            self.error = error

    def __enter__(self):
        self._thread.start()
        return self

    def progress(self, calls=20):
        """Waits until so many more calls have succeeded."""
        goal = self.count + calls
        eventually(lambda: self.count >= goal or self.error)
        assert self.error is None

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(WAIT)
        assert self.error is None


def failures(calls) -> list[grpc.StatusCode]:
    return [call.exception(timeout=WAIT).code() for call in calls]


@pytest.mark.parametrize("size", [16, MIB], ids=["small", "1 MiB"])
def test_server(home, launch, size):
    """Calls of all kinds to it end at their deadline; another server's calls go on meanwhile, and
    after SIGCONT so do its own."""
    server = launch("server = serve()")
    launch("server = serve()", home.address("other"))
    stub = echo_pb2_grpc.EchoStub(home.channel())
    other = echo_pb2_grpc.EchoStub(home.channel(home.address("other")))
    request = EchoRequest(payload=bytes(size))
    stub.Unary(request, timeout=WAIT)
    with Traffic(other, size) as traffic:
        traffic.progress()
        server.stop()
        began = time.monotonic()
        calls = [stub.Unary.future(request, timeout=0.5) for _ in range(5)]
        streams = [stub.ServerStream(EchoRequest(count=3), timeout=0.5) for _ in range(2)]
        streams.append(stub.Bidi(iter([request] * 3), timeout=0.5))
        calls.append(stub.ClientStream.future(iter([request] * 3), timeout=0.5))
        with pytest.raises(grpc.RpcError) as caught:
            stub.Unary(request, timeout=0.5)
        assert caught.value.code() is DEADLINE
        assert failures(calls) == [DEADLINE] * 6
        for stream in streams:
            with pytest.raises(grpc.RpcError) as caught:
                list(stream)
            assert caught.value.code() is DEADLINE
        assert 0.5 <= time.monotonic() - began < 2
        traffic.progress()
        server.resume()
        assert stub.Unary(request, timeout=WAIT).index == server.pid
        traffic.progress()
    eventually(lambda: balance() == 0)


def test_queued_calls(home, launch):
    """More calls than a link takes: those not posted say so. Then all is as before."""
    server = launch("server = serve()")
    stub = echo_pb2_grpc.EchoStub(home.channel())
    launch("server = serve()", home.address("other"))
    other = echo_pb2_grpc.EchoStub(home.channel(home.address("other")))
    stub.Unary(EchoRequest(), timeout=WAIT)
    with Traffic(other) as traffic:
        server.stop()
        calls = [stub.Unary.future(EchoRequest(), timeout=1) for _ in range(700)]
        codes = failures(calls)
        assert codes.count(DEADLINE) == 512
        assert codes.count(EXHAUSTED) == 188
        traffic.progress()
        # The slots of calls that were given up are free when the server has said that it knows.
        assert failures([stub.Unary.future(EchoRequest(), timeout=0.1)]) == [EXHAUSTED]
        server.resume()
        assert stub.Unary(EchoRequest(text="x"), timeout=WAIT).text == "x"
        traffic.progress()
    eventually(lambda: server.ask("server._core.native.open") == 0)


def test_killed_while_stopped(home, launch):
    server = launch("server = serve()")
    stub = echo_pb2_grpc.EchoStub(home.channel())
    stub.Unary(EchoRequest(), timeout=WAIT)
    server.stop()
    call = stub.Unary.future(EchoRequest(payload=bytes(MIB)))
    server.kill()
    assert failures([call]) == [grpc.StatusCode.UNAVAILABLE]
    eventually(lambda: balance() == 0)


def test_a_stopped_server_that_nobody_has_linked_with(home, launch):
    """It accepts in its kernel and never greets: a call waits for its deadline."""
    server = launch("server = serve()")
    launch("server = serve()", home.address("other"))
    stub = echo_pb2_grpc.EchoStub(home.channel())
    with Traffic(echo_pb2_grpc.EchoStub(home.channel(home.address("other")))) as traffic:
        server.stop()
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            stub.Unary(EchoRequest(), timeout=0.3)
        assert caught.value.code() is DEADLINE
        assert time.monotonic() - began < 2
        assert failures([stub.Unary.future(EchoRequest(), timeout=0.3)]) == [DEADLINE]
        traffic.progress()
        server.resume()
        assert stub.Unary(EchoRequest(text="x"), timeout=WAIT).text == "x"


def test_somebody_elses_short_deadline(home, launch):
    """Two callers wait for one greeting; the time of the first one ends, and that of the second
    goes on."""
    server = launch("server = serve()")
    stub = echo_pb2_grpc.EchoStub(home.channel())
    server.stop()
    short = threading.Thread(target=lambda: failures([stub.Unary.future(EchoRequest(), timeout=1)]))
    short.start()
    time.sleep(0.2)
    threading.Timer(1.5, server.resume).start()
    assert stub.Unary(EchoRequest(text="x"), timeout=WAIT).text == "x"
    short.join(WAIT)


CLIENT = """
stub = stub_of()
def start(method, **fields):
    call = getattr(stub, method)
    call = call.future if method == "Unary" else call
    globals().setdefault("calls", []).append(call(EchoRequest(**fields)))
"""


@pytest.mark.parametrize("size", [16, MIB], ids=["small", "1 MiB"])
def test_client(home, launch, size):
    """A server with a client that has stopped: it posts what fits, and serves the others."""
    over = threading.Event()

    def unary(request, context):
        if request.text == "wait":
            context.add_callback(over.set)
        return EchoReply(text=request.text, payload=request.payload)

    peer = home.serve(unary=unary, workers=16)
    client = launch(CLIENT)
    client.ask(f"start('Unary', payload=bytes({size}))")
    client.ask("len(calls[0].result(timeout=30).payload)")
    with Traffic(peer.stub, size) as traffic:
        traffic.progress()
        client.ask(f"start('ServerStream', payload=bytes({size}), count=1 << 30)")
        for _ in range(3):
            client.ask(f"start('Unary', payload=bytes({size}))")
        client.stop()
        traffic.progress(50)
        native = peer.server._core.native
        assert native.running >= 1  # the stream, which waits for credit
        client.resume()
        assert (
            client.ask("[len(call.result(timeout=30).payload) for call in calls[2:]]") == [size] * 3
        )
        assert client.ask("next(calls[1]).index") == 0
        client.ask("calls[1].cancel()")
        traffic.progress()
    eventually(lambda: native.open == 0 and native.running == 0)
    eventually(lambda: balance() == 0)


def test_clients_deadline_passes_while_it_is_stopped(home, launch):
    """The server ends the call by itself at its deadline."""
    states = []

    def stream(request, context):
        context.add_callback(lambda: states.append("over"))
        try:
            while True:
                yield EchoReply(payload=request.payload)
        finally:
            states.append("returned")

    peer = home.serve(server_stream=stream)
    client = launch(CLIENT)
    client.ask(
        "globals().update(call=stub.ServerStream(EchoRequest(payload=bytes(100_000)), timeout=1)) "
        "or next(call).index"
    )
    client.stop()
    eventually(lambda: sorted(states) == ["over", "returned"], timeout=10)
    native = peer.server._core.native
    eventually(lambda: native.open == 0 and native.running == 0)
    before = holdings()
    client.kill()
    eventually(lambda: balance() == 0)
    eventually(lambda: holdings()["links"] < before["links"])
    assert zerohop.loans() == []
