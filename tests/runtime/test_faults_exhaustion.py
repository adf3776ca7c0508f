"""Ring, arena or slots full: a wait to the deadline, then RESOURCE_EXHAUSTED; others go on.

Ten thousand such ends leave the counters balanced and the process as large as it was.
"""

from __future__ import annotations

import threading
import time

import grpc
import pytest
import zerohop
from apiharness import WAIT, eventually
from faultharness import balance, holdings
from test_faults_stop import Traffic, failures
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoReply, EchoRequest

MIB = 1 << 20
DEADLINE = grpc.StatusCode.DEADLINE_EXCEEDED
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED

# A client with an arena of 8 MiB, of which one link may have 2.
SMALL = {"ZEROHOP_ARENA_LIMIT": str(8 * MIB)}
CLIENT = """
stubs = [stub_of(target) for target in sys.argv[1].split(",")]
stub = stubs[0]

def codes(calls):
    return [call.exception(timeout=30) and call.exception().code().name for call in calls]

def flood(number, size, timeout):
    return codes([stub.Unary.future(EchoRequest(payload=bytes(size)), timeout=timeout)
                  for _ in range(number)])

def rounds(times, number, size, timeout):
    found = {}
    for _ in range(times):
        for code in flood(number, size, timeout):
            found[str(code)] = found.get(str(code), 0) + 1
    return found
"""


def test_arena_is_full(home, launch):
    """Loans of one link are bounded, so a stopped server leaves the others memory."""
    launch("server = serve()", home.address("other"))
    server = launch("server = serve()")
    client = launch(CLIENT, f"{home.address()},{home.address('other')}", **SMALL)
    for index in 0, 1:
        client.ask(f"stubs[{index}].Unary(EchoRequest(), timeout=30).index")
    server.stop()
    began = time.monotonic()
    codes = client.ask("flood(8, 600_000, 0.5)")
    assert 0.5 <= time.monotonic() - began < 5
    # Three of 600 kB are within a quarter of 8 MiB.
    assert (codes.count("DEADLINE_EXCEEDED"), codes.count("RESOURCE_EXHAUSTED")) == (3, 5)
    # Small ones need no memory; large ones to the other server have theirs.
    assert client.ask("flood(1, 10, 0.2)") == ["DEADLINE_EXCEEDED"]
    size = client.ask(
        "len(stubs[1].Unary(EchoRequest(payload=bytes(600_000)), timeout=30).payload)"
    )
    assert size == 600_000
    server.resume()
    assert client.ask("flood(8, 600_000, 30)") == [None] * 8
    eventually(lambda: client.ask("balance()") == 0)
    eventually(lambda: server.ask("balance()") == 0)


def test_a_message_that_can_never_fit(home, launch):
    launch("server = serve()")
    client = launch(CLIENT, **SMALL)
    began = time.monotonic()
    assert client.ask("flood(1, 9 << 20, 30)") == ["RESOURCE_EXHAUSTED"]
    assert client.ask("flood(1, 9 << 20, None)") == ["RESOURCE_EXHAUSTED"]
    assert time.monotonic() - began < 5
    # One message may exceed its link's share while nothing else is lent.
    assert client.ask("flood(1, 5 << 20, 30)") == [None]


def test_a_reply_without_memory_ends_at_once(home, launch):
    """The handler does not wait for a client that keeps its replies, or has asked for too much."""
    server = launch("server = serve()", **SMALL)
    stub = echo_pb2_grpc.EchoStub(home.channel())
    with pytest.raises(grpc.RpcError) as caught:
        stub.Unary(EchoRequest(code=9 * MIB), timeout=WAIT)
    assert caught.value.code() is EXHAUSTED
    assert "arena" in caught.value.details()
    client = launch(CLIENT)
    client.ask("stub.Unary(EchoRequest(), timeout=30).index")
    client.ask(
        "globals().update(calls=[stub.Unary.future(EchoRequest(code=900_000, count=300)) "
        "for _ in range(6)]) or 1"
    )
    client.stop()
    native = "[server._core.native.open, server._core.native.running]"
    eventually(lambda: server.ask(native) == [0, 0])
    assert len(stub.Unary(EchoRequest(code=900_000), timeout=WAIT).payload) == 900_000
    client.resume()
    codes = client.ask("codes(calls)")
    assert (codes.count(None), codes.count("RESOURCE_EXHAUSTED")) == (2, 4)
    assert "no memory" in client.ask(
        "next(call for call in calls if call.exception()).exception().details()"
    )
    assert client.ask("[len(call.result().payload) for call in calls if not call.exception()]") == [
        900_000,
        900_000,
    ]
    eventually(lambda: server.ask("balance()") == 0)


def test_ring_is_full(home, launch):
    """Streams that the server's process does not take: the sender waits, and others go on."""
    server = launch("server = serve()")
    launch("server = serve()", home.address("other"))
    stub = echo_pb2_grpc.EchoStub(home.channel())
    stub.Unary(EchoRequest(), timeout=WAIT)
    sent = [0] * 40

    def requests(index):
        while True:
            yield EchoRequest(payload=bytes(900))
            sent[index] += 1

    with Traffic(echo_pb2_grpc.EchoStub(home.channel(home.address("other")))) as traffic:
        server.stop()
        calls = [stub.ClientStream.future(requests(index), timeout=1) for index in range(40)]
        time.sleep(0.3)
        # 1,024 slots less those kept for the ends of calls, and eight for each message.
        assert sum(sent) < 200
        traffic.progress()
        call = stub.Unary.future(EchoRequest(), timeout=0.2)
        assert failures([call]) == [EXHAUSTED]
        assert "does not take" in call.details()
        # Those of them that could not even be posted say so.
        codes = failures(calls)
        assert set(codes) <= {DEADLINE, EXHAUSTED}
        assert DEADLINE in codes
        traffic.progress()
        server.resume()
        assert stub.Unary(EchoRequest(text="x"), timeout=WAIT).text == "x"
    eventually(lambda: server.ask("server._core.native.running") == 0)


@pytest.mark.parametrize("size", [100, 100_000])
def test_a_client_that_does_not_read_its_stream(home, launch, size):
    """The handler waits for credit, in its own thread; other streams and calls of the same client
    and of others go on."""
    states = []

    def stream(request, context):
        index = 0
        try:
            while True:
                yield EchoReply(index=index, payload=bytes(size))
                index += 1
        finally:
            states.append(index)

    peer = home.serve(server_stream=stream, workers=8)
    other = echo_pb2_grpc.EchoStub(home.channel())
    with Traffic(other) as traffic:
        unread = [peer.stub.ServerStream(EchoRequest(), timeout=2) for _ in range(3)]
        read = peer.stub.ServerStream(EchoRequest())
        assert [next(read).index for _ in range(2000)] == list(range(2000))
        traffic.progress()
        read.cancel()
        assert [call.code() for call in unread] == [DEADLINE] * 3
    eventually(lambda: len(states) == 4)
    native = peer.server._core.native
    eventually(lambda: native.open == 0 and native.running == 0)
    eventually(lambda: balance() == 0)


def test_all_slots_of_a_link_are_taken(home):
    """The 513th call waits at the client; it goes when another one ends."""
    gate = home.gate()
    begun = threading.Semaphore(0)

    def unary(request, context):
        begun.release()
        gate.wait(WAIT)
        return EchoReply(text=request.text)

    peer = home.serve(unary=unary, workers=520)
    calls = [peer.stub.Unary.future(EchoRequest(text="x")) for _ in range(512)]
    for _ in calls:
        assert begun.acquire(timeout=WAIT)
    late = [peer.stub.Unary.future(EchoRequest(), timeout=0.2) for _ in range(3)]
    waiting = [peer.stub.Unary.future(EchoRequest(text="y")) for _ in range(3)]
    assert failures(late) == [EXHAUSTED] * 3
    for call in calls[:3]:
        call.cancel()
    for _ in waiting:
        assert begun.acquire(timeout=WAIT)
    gate.set()
    assert {call.result(timeout=WAIT).text for call in calls[3:]} == {"x"}
    assert {call.result(timeout=WAIT).text for call in waiting} == {"y"}


@pytest.mark.timeout(240)
def test_ten_thousand_times(home, launch):
    """Full slots, full ring, full arena, over and over: what was lent comes back, nothing grows."""
    server = launch("server = serve()", **SMALL)
    client = launch(CLIENT, **SMALL)
    client.ask("stub.Unary(EchoRequest(), timeout=30).index")

    def exhaust() -> int:
        server.stop()
        found = client.ask("rounds(1, 1500, 16, 0.25)")
        assert set(found) == {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
        total = found["RESOURCE_EXHAUSTED"]
        server.resume()
        assert client.ask("flood(20, 16, 30)") == [None] * 20
        server.stop()
        found = client.ask("rounds(1, 400, 300_000, 0.25)")
        total += found["RESOURCE_EXHAUSTED"]
        server.resume()
        # One after the other: replies do not wait for memory.
        assert client.ask("rounds(20, 1, 300_000, 30)") == {"None": 20}
        return total

    events = exhaust()
    before = [process.ask("holdings()") for process in (server, client)]
    while events < 10_000:
        events += exhaust()
    eventually(lambda: client.ask("balance()") == 0)
    eventually(lambda: server.ask("balance()") == 0)
    native = "[server._core.native.open, server._core.native.running]"
    eventually(lambda: server.ask(native) == [0, 0])
    for process, first in zip((server, client), before, strict=True):
        now = process.ask("holdings()")
        assert now["fds"] <= first["fds"] + 2
        assert now["maps"] <= first["maps"] + 4
        assert now["threads"] <= 16  # the pool's eight, the main one and those that listen
        assert now["rss"] < first["rss"] + 40_000
    assert zerohop.stats()["blocks_lent"] == zerohop.stats()["blocks_returned"]
    assert holdings()["links"] >= 0
