"""Unary calls: the three ways to make one, what a call tells of itself, and payload integrity."""

from __future__ import annotations

import hashlib

import grpc
import pytest
from apiharness import WAIT, code_and_details, make_servicer
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoReply, EchoRequest

pytestmark = pytest.mark.inline_ok

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def test_call(impl):
    peer = impl.serve()
    reply = peer.stub.Unary(EchoRequest(text="hello", payload=b"\0\xff"))
    assert reply == EchoReply(text="hello", payload=b"\0\xff")


def test_many_calls_on_one_channel(impl):
    peer = impl.serve()
    for number in range(200):
        assert peer.stub.Unary(EchoRequest(text=str(number))).text == str(number)


def test_with_call(impl):
    peer = impl.serve()
    reply, call = peer.stub.Unary.with_call(EchoRequest(text="a"), timeout=WAIT)
    assert reply.text == "a"
    assert call.code() is grpc.StatusCode.OK
    assert call.details() == ""
    assert tuple(call.trailing_metadata()) == ()
    assert isinstance(call, grpc.Call)
    assert isinstance(call, grpc.RpcContext)
    assert call.is_active() is False
    assert call.cancel() is False
    assert call.add_callback(lambda: None) is False


def test_future(impl):
    peer = impl.serve()
    future = peer.stub.Unary.future(EchoRequest(text="a"))
    assert future.result(timeout=WAIT).text == "a"
    assert future.code() is grpc.StatusCode.OK


def test_two_services_on_one_server(impl):
    from zhtest import echo_pb2

    class Second(echo_pb2_grpc.SecondServicer):
        def Ping(self, request, context):
            return EchoReply(text="pong " + request.text)

    server = impl.server()
    echo_pb2_grpc.add_EchoServicer_to_server(make_servicer({}, {}), server)
    echo_pb2_grpc.add_SecondServicer_to_server(Second(), server)
    server.add_insecure_port(impl.address())
    server.start()
    channel = impl.channel()
    assert echo_pb2_grpc.SecondStub(channel).Ping(EchoRequest(text="x")).text == "pong x"
    # The methods of a stock base class say that they are not implemented.
    assert code_and_details(lambda: echo_pb2_grpc.EchoStub(channel).Unary(EchoRequest())) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "Method not implemented!",
    )
    assert {service.name for service in echo_pb2.DESCRIPTOR.services_by_name.values()} == {
        "Echo",
        "Second",
    }


def test_two_channels_to_one_server(impl):
    peer = impl.serve()
    other = echo_pb2_grpc.EchoStub(impl.channel())
    assert peer.stub.Unary(EchoRequest(text="1")).text == "1"
    assert other.Unary(EchoRequest(text="2")).text == "2"
    assert peer.stub.Unary(EchoRequest(text="3")).text == "3"


def test_two_ports_of_one_server(impl):
    server = impl.server()
    echo_pb2_grpc.add_EchoServicer_to_server(
        make_servicer({}, {"unary": lambda request, context: EchoReply(text="one")}), server
    )
    assert server.add_insecure_port(impl.address("a")) > 0
    assert server.add_insecure_port(impl.address("b")) > 0
    server.start()
    for name in ("a", "b"):
        stub = echo_pb2_grpc.EchoStub(impl.channel(impl.address(name)))
        assert stub.Unary(EchoRequest()).text == "one"


def test_reply_is_not_the_request_object(impl):
    """A reply is a new message: changing what was sent, after the call, changes nothing."""
    peer = impl.serve()
    request = EchoRequest(text="before", payload=b"x" * 5000)
    reply = peer.stub.Unary(request)
    request.text = "after"
    request.payload = b"y" * 5000
    assert reply == EchoReply(text="before", payload=b"x" * 5000)


def test_request_is_a_snapshot(impl):
    """Changing the request after a future has been started does not change the call."""
    peer = impl.serve()
    request = EchoRequest(text="before", payload=b"x" * 5000)
    future = peer.stub.Unary.future(request)
    request.text = "after"
    request.payload = b"y" * 5000
    assert future.result(timeout=WAIT) == EchoReply(text="before", payload=b"x" * 5000)


@pytest.mark.parametrize(
    "size",
    [0, 1, 127, 128, 900, 1023, 1024, 1025, 2047, 2048, 4095, 4096, 4097, 65535, 65536, 1 << 20],
)
def test_sizes(impl, size):
    peer = impl.serve()
    payload = hashlib.sha256(str(size).encode()).digest() * (size // 32 + 1)
    payload = payload[:size]
    for _ in range(3):
        reply = peer.stub.Unary(EchoRequest(payload=payload))
        assert reply.payload == payload


def test_five_mebibytes(impl):
    peer = impl.serve(options=UNLIMITED, channel_options=UNLIMITED)
    payload = bytes(range(256)) * (5 * (1 << 20) // 256)
    assert peer.stub.Unary(EchoRequest(payload=payload)).payload == payload


def test_big_reply_to_a_small_request(impl):
    peer = impl.serve(
        unary=lambda request, context: EchoReply(payload=b"z" * request.count),
        channel_options=UNLIMITED,
    )
    for size in (10, 100_000, 4, 3_000_000, 0):
        assert peer.stub.Unary(EchoRequest(count=size)).payload == b"z" * size


def test_calls_within_a_handler(impl):
    """A handler that calls another server: A calls B, B calls C."""
    back = impl.serve("back")
    front = impl.serve(
        "front",
        unary=lambda request, context: back.stub.Unary(EchoRequest(text=request.text + "!")),
    )
    assert front.stub.Unary(EchoRequest(text="a"), timeout=WAIT).text == "a!"


def test_a_to_b_to_a(impl):
    """A's handler calls B, whose handler calls A again: no deadlock, with inline handlers too."""
    peers = {}

    def handle_a(request, context):
        if request.code:
            return peers["b"].stub.Unary(EchoRequest(text="from a"), timeout=WAIT)
        return EchoReply(text=request.text + ", back in a")

    def handle_b(request, context):
        return peers["a"].stub.Unary(EchoRequest(text=request.text + " over b"), timeout=WAIT)

    peers["a"] = impl.serve("a", unary=handle_a)
    peers["b"] = impl.serve("b", unary=handle_b)
    for _ in range(20):
        reply = peers["a"].stub.Unary(EchoRequest(code=1), timeout=WAIT)
        assert reply.text == "from a over b, back in a"
