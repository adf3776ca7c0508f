"""Message size limits, channel options, and the interfaces that grpcio's users rely on."""

from __future__ import annotations

import os

import grpc
import pytest
from apiharness import WAIT, code_and_details
from zhtest.types_pb2 import EchoReply, EchoRequest

pytestmark = pytest.mark.inline_ok

RECEIVE, SEND = "grpc.max_receive_message_length", "grpc.max_send_message_length"
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def _request(size):
    """A request that is exactly that long on the wire."""
    head = EchoRequest(payload=b"x" * size).ByteSize() - size
    request = EchoRequest(payload=b"x" * (size - head))
    assert request.ByteSize() == size
    return request


def _of_limit(impl, size):
    """A request of at most that size as limits count it: on the wire, or as an image."""
    return _request(size - 100 if impl.generated else size)


def test_server_receives_too_much(impl):
    peer = impl.serve(options=[(RECEIVE, 1000)])
    assert len(peer.stub.Unary(_of_limit(impl, 1000)).payload) < 1000
    code, details = code_and_details(lambda: peer.stub.Unary(_request(1001)))
    assert code is EXHAUSTED
    assert "larger than max" in details
    assert ("vs. 1000" if impl.generated else "1001 vs. 1000") in details
    # Over and over, and the channel is as good as before.
    for _ in range(5):
        assert code_and_details(lambda: peer.stub.Unary(_request(100_000)))[0] is EXHAUSTED
        assert peer.stub.Unary(EchoRequest(text="x")).text == "x"


def test_client_receives_too_much(impl):
    peer = impl.serve(
        unary=lambda request, context: EchoReply(payload=b"x" * request.count),
        channel_options=[(RECEIVE, 1000)],
    )
    assert len(peer.stub.Unary(EchoRequest(count=900)).payload) == 900
    code, details = code_and_details(lambda: peer.stub.Unary(EchoRequest(count=5000)))
    assert code is EXHAUSTED
    assert "larger than max" in details
    assert "vs. 1000" in details
    assert len(peer.stub.Unary(EchoRequest(count=900)).payload) == 900


def test_client_sends_too_much(impl):
    peer = impl.serve(channel_options=[(SEND, 1000)])
    peer.stub.Unary(_of_limit(impl, 1000))
    code, details = code_and_details(lambda: peer.stub.Unary(_request(1001)))
    assert code is EXHAUSTED
    assert "larger than max" in details
    assert ("vs. 1000" if impl.generated else "1001 vs. 1000") in details
    future = peer.stub.Unary.future(_request(5000))
    assert code_and_details(lambda: future.result(timeout=WAIT))[0] is EXHAUSTED
    assert peer.stub.Unary(EchoRequest(text="x")).text == "x"


def test_server_sends_too_much(impl):
    peer = impl.serve(
        unary=lambda request, context: EchoReply(payload=b"x" * request.count),
        options=[(SEND, 1000)],
    )
    assert len(peer.stub.Unary(EchoRequest(count=900)).payload) == 900
    code, details = code_and_details(lambda: peer.stub.Unary(EchoRequest(count=5000)))
    assert code is EXHAUSTED
    assert "larger than max" in details
    assert len(peer.stub.Unary(EchoRequest(count=900)).payload) == 900


def test_limits_in_streams(impl):
    peer = impl.serve(options=[(RECEIVE, 1000)], channel_options=[(RECEIVE, 2000)])
    small, large = _request(500), _request(1500)
    code, _ = code_and_details(lambda: peer.stub.ClientStream(iter([small, large]), timeout=WAIT))
    assert code is EXHAUSTED
    call = peer.stub.Bidi(iter([small, large]), timeout=WAIT)
    assert code_and_details(lambda: list(call))[0] is EXHAUSTED


def test_stream_reply_over_the_clients_limit(impl):
    def handler(request, context):
        yield EchoReply(text="small")
        yield EchoReply(payload=b"x" * 5000)

    peer = impl.serve(server_stream=handler, channel_options=[(RECEIVE, 1000)])
    call = peer.stub.ServerStream(EchoRequest(), timeout=WAIT)
    code, details = code_and_details(lambda: list(call))
    assert code is EXHAUSTED
    assert "larger than max" in details


def test_limits_are_the_channels_own(impl):
    """Two channels of one process to one server, with different limits."""
    peer = impl.serve(channel_options=[(RECEIVE, 1000)])
    other = impl.channel(options=[(RECEIVE, 100_000)])
    body = EchoRequest(payload=b"x" * 5000).SerializeToString()
    assert code_and_details(lambda: peer.stub.Unary(EchoRequest.FromString(body)))[0] is EXHAUSTED
    reply = other.unary_unary("/zhtest.Echo/Unary")(body)
    assert len(EchoReply.FromString(reply).payload) == 5000
    assert code_and_details(lambda: peer.stub.Unary(EchoRequest.FromString(body)))[0] is EXHAUSTED


@pytest.mark.parametrize(
    "option",
    [
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_concurrent_streams", 100),
        ("grpc.so_reuseport", 0),
        ("grpc.enable_retries", 0),
        ("grpc.lb_policy_name", "round_robin"),
        ("grpc.use_local_subchannel_pool", 1),
        ("SingleThreadedUnaryStream", 1),
        ("no.such.option", "x"),
        ("no.such.number", 7),
    ],
    ids=lambda option: option[0],
)
def test_options_are_accepted(impl, option):
    server_options = [] if option[0] == "SingleThreadedUnaryStream" else [option]
    peer = impl.serve(options=server_options, channel_options=[option])
    assert peer.stub.Unary(EchoRequest(text="x")).text == "x"
    replies = peer.stub.ServerStream(EchoRequest(count=3))
    assert [reply.index for reply in replies] == [0, 1, 2]


@pytest.mark.parametrize("container", [list, tuple])
def test_options_in_any_sequence(impl, container):
    options = container([(RECEIVE, 1000)])
    peer = impl.serve(options=options, channel_options=options)
    assert peer.stub.Unary(EchoRequest(text="x")).text == "x"


def test_compression_is_accepted(impl):
    """Whether anything is compressed is not for the caller to see."""
    for compression in (
        grpc.Compression.NoCompression,
        grpc.Compression.Deflate,
        grpc.Compression.Gzip,
    ):
        name = f"s{int(compression)}"
        impl.start(name, compression=compression)
        channel = impl.channel(impl.address(name), compression=compression)
        call = channel.unary_unary("/zhtest.Echo/Unary")
        body = EchoRequest(payload=b"x" * 5000).SerializeToString()
        reply = EchoReply.FromString(call(body, compression=compression))
        assert reply.payload == b"x" * 5000


def test_compression_in_the_context(impl):
    def unary(request, context):
        context.set_compression(grpc.Compression.Gzip)
        context.disable_next_message_compression()
        return EchoReply(text="x")

    def stream(request, context):
        context.set_compression(grpc.Compression.Gzip)
        yield EchoReply(text="1")
        context.disable_next_message_compression()
        yield EchoReply(text="2")

    peer = impl.serve(unary=unary, server_stream=stream)
    reply, call = peer.stub.Unary.with_call(EchoRequest(), compression=grpc.Compression.Gzip)
    assert reply.text == "x"
    assert tuple(call.trailing_metadata()) == ()
    call = peer.stub.ServerStream(EchoRequest(), compression=grpc.Compression.Deflate)
    assert [reply.text for reply in call] == ["1", "2"]


def test_wait_for_ready_is_accepted(impl):
    peer = impl.serve()
    for value in (True, False, None):
        assert peer.stub.Unary(EchoRequest(text="x"), wait_for_ready=value).text == "x"


def test_call_credentials_are_refused(impl):
    """The channel is not secure, so credentials must not travel on it."""
    seen = []
    peer = impl.serve(unary=lambda request, context: seen.append(1) or EchoReply())
    for credentials in (
        grpc.access_token_call_credentials("secret"),
        grpc.metadata_call_credentials(lambda context, callback: callback((("k", "v"),), None)),
    ):
        code, details = code_and_details(
            lambda credentials=credentials: peer.stub.Unary(
                EchoRequest(), credentials=credentials, timeout=WAIT
            )
        )
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "security level" in details
        future = peer.stub.Unary.future(EchoRequest(), credentials=credentials, timeout=WAIT)
        assert future.code() is grpc.StatusCode.UNAUTHENTICATED
        call = peer.stub.ServerStream(EchoRequest(), credentials=credentials, timeout=WAIT)
        assert code_and_details(lambda call=call: next(call))[0] is grpc.StatusCode.UNAUTHENTICATED
    assert seen == []


def test_peer_and_auth_context(impl):
    seen = {}

    def handler(request, context):
        seen["peer"] = context.peer()
        seen["identities"] = context.peer_identities()
        seen["key"] = context.peer_identity_key()
        seen["auth"] = context.auth_context()
        return EchoReply()

    peer = impl.serve(unary=handler)
    peer.stub.Unary(EchoRequest())
    assert isinstance(seen["peer"], str)
    assert seen["peer"]
    assert seen["identities"] is None or all(isinstance(i, bytes) for i in seen["identities"])
    assert seen["key"] is None or isinstance(seen["key"], str)
    for key, values in seen["auth"].items():
        assert isinstance(key, str)
        assert all(isinstance(value, bytes) for value in values)
    if impl.zerohop:
        # What the kernel says of the peer; here it is this process.
        text = repr(seen["auth"]) + seen["peer"]
        assert str(os.getpid()) in text
        assert str(os.getuid()) in text


def test_types_at_the_server(impl):
    seen = []

    def handler(request, context):
        seen.append(isinstance(context, grpc.ServicerContext))
        seen.append(isinstance(context, grpc.RpcContext))
        return EchoReply()

    peer = impl.serve(unary=handler)
    peer.stub.Unary(EchoRequest())
    assert seen == [True, True]
    assert isinstance(peer.server, grpc.Server)
    assert isinstance(peer.channel, grpc.Channel)


def test_types_of_multicallables(impl):
    channel = impl.channel()
    assert isinstance(channel.unary_unary("/a/b"), grpc.UnaryUnaryMultiCallable)
    assert isinstance(channel.unary_stream("/a/b"), grpc.UnaryStreamMultiCallable)
    assert isinstance(channel.stream_unary("/a/b"), grpc.StreamUnaryMultiCallable)
    assert isinstance(channel.stream_stream("/a/b"), grpc.StreamStreamMultiCallable)


def test_positional_arguments(impl):
    """The order of the arguments, which wrappers pass on by position."""
    peer = impl.serve()
    request = EchoRequest(text="x", count=1)
    rest = (WAIT, (("k", "v"),), None, True, None)
    assert peer.stub.Unary(request, *rest).text == "x"
    assert peer.stub.Unary.with_call(request, *rest)[0].text == "x"
    assert peer.stub.Unary.future(request, *rest).result().text == "x"
    assert next(peer.stub.ServerStream(request, *rest)).text == "x"
    assert peer.stub.ClientStream(iter([request]), *rest).text == "x"
    assert peer.stub.ClientStream.with_call(iter([request]), *rest)[0].text == "x"
    assert peer.stub.ClientStream.future(iter([request]), *rest).result().text == "x"
    assert next(peer.stub.Bidi(iter([request]), *rest)).text == "x"
