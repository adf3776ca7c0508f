"""Long streams, large messages in streams, and producers that must not run ahead for ever."""

from __future__ import annotations

import itertools
import threading

import grpc
import pytest
from apiharness import WAIT, code_and_details, settled
from zhtest.types_pb2 import EchoReply, EchoRequest

# What is in flight without anybody reading is bounded. The bound is any implementation's own; the
# tests only tell a bound from none: 64 MiB in messages of 16 KiB.
PAYLOAD = b"x" * (16 << 10)
BOUND = 4096


@pytest.mark.inline_ok
def test_thousand_replies(impl):
    peer = impl.serve()
    call = peer.stub.ServerStream(EchoRequest(text="x", count=1000))
    assert [reply.index for reply in call] == list(range(1000))


@pytest.mark.inline_ok
def test_thousand_requests(impl):
    peer = impl.serve()
    reply = peer.stub.ClientStream(EchoRequest(text="x") for _ in range(1000))
    assert reply.index == 1000


@pytest.mark.inline_ok
def test_thousand_both_ways(impl):
    peer = impl.serve()
    call = peer.stub.Bidi(EchoRequest(text=str(number)) for number in range(1000))
    assert [reply.text for reply in call] == [str(number) for number in range(1000)]


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 4095, 4096, 4097, 65536, 1 << 20])
def test_sizes(impl, size):
    peer = impl.serve()
    count = 8 if size > 100_000 else 30
    payloads = [bytes([number]) * size for number in range(count)]
    call = peer.stub.Bidi(EchoRequest(payload=payload) for payload in payloads)
    assert [reply.payload for reply in call] == payloads
    reply = peer.stub.ClientStream(
        iter([EchoRequest(payload=payload) for payload in payloads[:3]]), timeout=WAIT
    )
    assert reply.payload == b"".join(payloads[:3])


def test_mixed_sizes(impl):
    """Small and large messages keep their order among each other."""
    peer = impl.serve()
    sizes = [0, 100_000, 3, 1 << 20, 1000, 1024, 500_000, 1, 4097] * 4
    requests = (EchoRequest(text=str(n), payload=b"y" * size) for n, size in enumerate(sizes))
    replies = [(reply.text, len(reply.payload)) for reply in peer.stub.Bidi(requests)]
    assert replies == [(str(number), size) for number, size in enumerate(sizes)]


def test_slow_reader_holds_back_the_server(impl):
    produced = itertools.count()
    count = [0]
    over = threading.Event()

    def handler(request, context):
        context.add_callback(over.set)
        for number in produced:
            count[0] = number
            yield EchoReply(index=number, payload=PAYLOAD)

    peer = impl.serve(server_stream=handler)
    call = peer.stub.ServerStream(EchoRequest())
    assert next(call).index == 0
    assert settled(lambda: count[0], BOUND) < BOUND
    # It goes on when somebody reads, and nothing is lost.
    stuck = count[0]
    for number in range(1, stuck + 50):
        assert next(call).index == number
    call.cancel()
    assert over.wait(WAIT)


def test_slow_handler_holds_back_the_client(impl):
    gate = impl.gate()
    count = [0]
    received = []

    def handler(requests, context):
        received.append(next(requests).text)
        gate.wait(WAIT)
        received.extend(request.text for request in itertools.islice(requests, count[0] + 50))
        return EchoReply()

    def endless():
        for number in itertools.count():
            count[0] = number
            yield EchoRequest(text=str(number), payload=PAYLOAD)

    peer = impl.serve(client_stream=handler)
    future = peer.stub.ClientStream.future(endless())
    assert settled(lambda: count[0], BOUND) < BOUND
    gate.set()
    future.result(timeout=WAIT)
    assert received == [str(number) for number in range(len(received))]
    assert len(received) > 50


def test_stuck_stream_does_not_hold_up_others(impl):
    """One stream is not read; other calls of the same channel go on, large ones too."""

    def handler(request, context):
        for number in range(request.count):
            yield EchoReply(index=number, payload=PAYLOAD)

    peer = impl.serve(server_stream=handler)
    stuck = peer.stub.ServerStream(EchoRequest(count=1_000_000))
    assert next(stuck).index == 0
    for _ in range(20):
        assert peer.stub.Unary(EchoRequest(text="x")).text == "x"
        assert len(peer.stub.Unary(EchoRequest(payload=PAYLOAD * 8)).payload) == 8 * len(PAYLOAD)
        assert len(list(peer.stub.ServerStream(EchoRequest(count=20)))) == 20
    stuck.cancel()


def test_deadline_of_a_sender_that_nobody_reads(impl):
    """A call whose requests are stuck ends at its deadline."""
    gate = impl.gate()
    count = [0]

    def handler(requests, context):
        gate.wait(WAIT)
        return EchoReply()

    def endless():
        for number in itertools.count():
            count[0] = number
            yield EchoRequest(payload=PAYLOAD)

    peer = impl.serve(client_stream=handler)
    code, _ = code_and_details(lambda: peer.stub.ClientStream(endless(), timeout=0.5))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert settled(lambda: count[0], BOUND) < BOUND


def test_late_reader(impl):
    """The stream is complete at the server long before the client begins to read."""
    done = threading.Event()

    def handler(request, context):
        for index in range(5):
            yield EchoReply(index=index)
        done.set()

    peer = impl.serve(server_stream=handler)
    call = peer.stub.ServerStream(EchoRequest())
    assert done.wait(WAIT)
    assert peer.stub.Unary(EchoRequest(text="x")).text == "x"
    assert [reply.index for reply in call] == [0, 1, 2, 3, 4]
    assert call.code() is grpc.StatusCode.OK
