"""Serializers and handlers: generic handlers, bytes as they are, and what breaks in between."""

from __future__ import annotations

import json

import grpc
import pytest
from apiharness import WAIT, code_and_details
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoReply, EchoRequest

pytestmark = pytest.mark.inline_ok

SERIALIZE = (grpc.StatusCode.INTERNAL, "Exception serializing request!")
DESERIALIZE = (grpc.StatusCode.INTERNAL, "Exception deserializing response!")
SERVER_SERIALIZE = (grpc.StatusCode.INTERNAL, "Failed to serialize response!")
SERVER_DESERIALIZE = (grpc.StatusCode.INTERNAL, "Exception deserializing request!")


def _broken(data):
    raise ValueError("broken")


def _serve(impl, **methods):
    """A server of generic handlers under /t/, and a channel to it."""
    server = impl.server(handlers=[grpc.method_handlers_generic_handler("t", methods)])
    server.add_insecure_port(impl.address())
    server.start()
    return impl.channel()


def test_bytes_pass_through(impl):
    channel = _serve(
        impl,
        uu=grpc.unary_unary_rpc_method_handler(lambda request, context: request + b"!"),
        us=grpc.unary_stream_rpc_method_handler(lambda request, context: iter([request, b"2"])),
        su=grpc.stream_unary_rpc_method_handler(lambda requests, context: b"".join(requests)),
        ss=grpc.stream_stream_rpc_method_handler(lambda requests, context: (r for r in requests)),
    )
    assert channel.unary_unary("/t/uu")(b"\x00\xff") == b"\x00\xff!"
    assert list(channel.unary_stream("/t/us")(b"1")) == [b"1", b"2"]
    assert channel.stream_unary("/t/su")(iter([b"a", b"", b"b"])) == b"ab"
    assert list(channel.stream_stream("/t/ss")(iter([b"a", b"", b"b"]))) == [b"a", b"", b"b"]


def test_handlers_get_bytes(impl):
    seen = []

    def handler(request, context):
        seen.append(type(request))
        return b""

    channel = _serve(impl, uu=grpc.unary_unary_rpc_method_handler(handler))
    for size in (0, 10, 5000, 200_000):
        reply = channel.unary_unary("/t/uu")(b"x" * size)
        assert type(reply) is bytes
    assert seen == [bytes] * 4


def test_custom_serializers(impl):
    def dump(thing):
        return json.dumps(thing).encode()

    def handler(request, context):
        return {"sum": sum(request["numbers"])}

    channel = _serve(impl, uu=grpc.unary_unary_rpc_method_handler(handler, json.loads, dump))
    call = channel.unary_unary("/t/uu", dump, json.loads)
    assert call({"numbers": [1, 2, 3]}) == {"sum": 6}
    call = channel.unary_unary("/t/uu", request_serializer=dump, response_deserializer=json.loads)
    assert call.future({"numbers": [4]}).result(timeout=WAIT) == {"sum": 4}


def test_deserializers_always_get_bytes(impl):
    seen = []

    def note(data):
        seen.append(type(data))
        return data

    channel = _serve(
        impl, uu=grpc.unary_unary_rpc_method_handler(lambda request, context: request, note)
    )
    call = channel.unary_unary("/t/uu", response_deserializer=note)
    for size in (0, 10, 2000, 200_000):
        assert len(call(b"x" * size)) == size
    assert seen == [bytes] * 8


def test_one_method_with_two_serializers(impl):
    """What is cached by method must not confuse two multicallables of one method."""
    channel = _serve(impl, uu=grpc.unary_unary_rpc_method_handler(lambda request, context: request))
    plain = channel.unary_unary("/t/uu")
    upper = channel.unary_unary("/t/uu", lambda text: text.upper().encode(), bytes.decode)
    for _ in range(3):
        assert plain(b"a") == b"a"
        assert upper("a") == "A"


def test_multicallables_are_cheap_to_make_again(impl):
    """Interceptors make a new multicallable for each call, with positional arguments."""
    channel = _serve(impl, uu=grpc.unary_unary_rpc_method_handler(lambda request, context: request))
    for number in range(50):
        assert channel.unary_unary("/t/uu", None, None, True)(b"%d" % number) == b"%d" % number
        call = channel.unary_unary("/t/uu", None, None, _registered_method=True)
        assert call(b"%d" % number) == b"%d" % number


def test_registered_method_of_every_kind(impl):
    peer = impl.serve()
    channel = peer.channel
    send, receive = EchoRequest.SerializeToString, EchoReply.FromString
    one = EchoRequest(text="x", count=1)
    uu = channel.unary_unary("/zhtest.Echo/Unary", send, receive, _registered_method=True)
    us = channel.unary_stream("/zhtest.Echo/ServerStream", send, receive, _registered_method=True)
    su = channel.stream_unary("/zhtest.Echo/ClientStream", send, receive, _registered_method=True)
    ss = channel.stream_stream("/zhtest.Echo/Bidi", send, receive, _registered_method=True)
    assert uu(one).text == "x"
    assert [reply.text for reply in us(one)] == ["x"]
    assert su(iter([one])).text == "x"
    assert [reply.text for reply in ss(iter([one]))] == ["x"]


def test_same_path_from_stub_and_from_hand(impl):
    """A stock stub on a server that only has generic handlers, and bytes on a stock servicer."""
    server = impl.server(
        handlers=[
            grpc.method_handlers_generic_handler(
                "zhtest.Echo",
                {
                    "Unary": grpc.unary_unary_rpc_method_handler(
                        lambda request, context: EchoReply(text="g" + request.text),
                        EchoRequest.FromString,
                        EchoReply.SerializeToString,
                    )
                },
            )
        ]
    )
    server.add_insecure_port(impl.address())
    server.start()
    assert echo_pb2_grpc.EchoStub(impl.channel()).Unary(EchoRequest(text="x")).text == "gx"
    peer = impl.serve("other")
    raw = peer.channel.unary_unary("/zhtest.Echo/Unary")
    reply = raw(EchoRequest(text="x").SerializeToString())
    assert EchoReply.FromString(reply).text == "x"


def test_first_generic_handler_that_knows_the_method_wins(impl):
    def handlers(answer, *names):
        return grpc.method_handlers_generic_handler(
            "t",
            {
                name: grpc.unary_unary_rpc_method_handler(lambda request, context: answer)
                for name in names
            },
        )

    server = impl.server(handlers=[handlers(b"first", "a")])
    server.add_generic_rpc_handlers((handlers(b"second", "a", "b"),))
    server.add_generic_rpc_handlers([handlers(b"third", "b", "c")])
    server.add_insecure_port(impl.address())
    server.start()
    channel = impl.channel()
    answers = [channel.unary_unary("/t/" + name)(b"") for name in "abc"]
    assert answers == [b"first", b"second", b"third"]


def test_generic_handler_decides_by_path_and_metadata(impl):
    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details):
            assert isinstance(handler_call_details, grpc.HandlerCallDetails)
            path = handler_call_details.method
            metadata = dict(handler_call_details.invocation_metadata)
            if "wanted" not in metadata:
                return None
            return grpc.unary_unary_rpc_method_handler(
                lambda request, context: f"{path} {metadata['wanted']}".encode()
            )

    server = impl.server(handlers=(Handler(),))
    server.add_insecure_port(impl.address())
    server.start()
    channel = impl.channel()
    call = channel.unary_unary("/any.Thing/AtAll")
    assert call(b"", metadata=[("wanted", "yes")]) == b"/any.Thing/AtAll yes"
    assert code_and_details(lambda: call(b"")) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "Method not found!",
    )
    assert call(b"", metadata=[("wanted", "again")]) == b"/any.Thing/AtAll again"


def test_generic_handler_that_raises(impl):
    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details):
            raise ValueError("wrong")

    server = impl.server(handlers=(Handler(),))
    server.add_insecure_port(impl.address())
    server.start()
    call = impl.channel().unary_unary("/t/uu")
    for _ in range(2):
        assert code_and_details(lambda: call(b"", timeout=WAIT)) == (
            grpc.StatusCode.UNKNOWN,
            "Error in service handler!",
        )


def test_handlers_without_service_are_refused(impl):
    with pytest.raises(AttributeError, match="service"):
        impl.server(handlers=[object()])
    with pytest.raises(AttributeError, match="service"):
        impl.server().add_generic_rpc_handlers([object()])


def test_request_serializer_raises(impl, caplog):
    channel = _serve(
        impl,
        uu=grpc.unary_unary_rpc_method_handler(lambda request, context: request),
        us=grpc.unary_stream_rpc_method_handler(lambda request, context: iter([request])),
        su=grpc.stream_unary_rpc_method_handler(lambda requests, context: b"".join(requests)),
        ss=grpc.stream_stream_rpc_method_handler(lambda requests, context: (r for r in requests)),
    )
    uu = channel.unary_unary("/t/uu", request_serializer=_broken)
    assert code_and_details(lambda: uu(b"")) == SERIALIZE
    assert code_and_details(lambda: uu.with_call(b"")) == SERIALIZE
    # A unary request is serialized at once, so the call itself raises.
    assert code_and_details(lambda: uu.future(b"")) == SERIALIZE
    us = channel.unary_stream("/t/us", request_serializer=_broken)
    assert code_and_details(lambda: us(b"")) == SERIALIZE
    su = channel.stream_unary("/t/su", request_serializer=_broken)
    assert code_and_details(lambda: su(iter([b""]))) == SERIALIZE
    ss = channel.stream_stream("/t/ss", request_serializer=_broken)
    assert code_and_details(lambda: next(ss(iter([b""])))) == SERIALIZE
    assert "Exception serializing message!" in caplog.text
    assert channel.unary_unary("/t/uu")(b"x") == b"x"


def test_response_deserializer_raises(impl, caplog):
    channel = _serve(
        impl,
        uu=grpc.unary_unary_rpc_method_handler(lambda request, context: request),
        us=grpc.unary_stream_rpc_method_handler(lambda request, context: iter([request])),
        su=grpc.stream_unary_rpc_method_handler(lambda requests, context: b"".join(requests)),
        ss=grpc.stream_stream_rpc_method_handler(lambda requests, context: (r for r in requests)),
    )
    uu = channel.unary_unary("/t/uu", response_deserializer=_broken)
    assert code_and_details(lambda: uu(b"")) == DESERIALIZE
    assert code_and_details(lambda: uu.future(b"").result(timeout=WAIT)) == DESERIALIZE
    us = channel.unary_stream("/t/us", response_deserializer=_broken)
    assert code_and_details(lambda: next(us(b""))) == DESERIALIZE
    su = channel.stream_unary("/t/su", response_deserializer=_broken)
    assert code_and_details(lambda: su(iter([b""]))) == DESERIALIZE
    ss = channel.stream_stream("/t/ss", response_deserializer=_broken)
    assert code_and_details(lambda: next(ss(iter([b""])))) == DESERIALIZE
    assert "Exception deserializing message!" in caplog.text
    assert channel.unary_unary("/t/uu")(b"x") == b"x"


def test_request_deserializer_raises(impl):
    channel = _serve(
        impl,
        uu=grpc.unary_unary_rpc_method_handler(lambda request, context: request, _broken),
        us=grpc.unary_stream_rpc_method_handler(lambda request, context: iter([b""]), _broken),
        su=grpc.stream_unary_rpc_method_handler(lambda requests, c: b"".join(requests), _broken),
        ss=grpc.stream_stream_rpc_method_handler(
            lambda requests, c: (r for r in requests), _broken
        ),
        ok=grpc.unary_unary_rpc_method_handler(lambda request, context: request),
    )
    uu = channel.unary_unary("/t/uu")
    assert code_and_details(lambda: uu(b"", timeout=WAIT)) == SERVER_DESERIALIZE
    us = channel.unary_stream("/t/us")
    assert code_and_details(lambda: next(us(b"", timeout=WAIT))) == SERVER_DESERIALIZE
    su = channel.stream_unary("/t/su")
    assert code_and_details(lambda: su(iter([b""]), timeout=WAIT)) == SERVER_DESERIALIZE
    ss = channel.stream_stream("/t/ss")
    assert code_and_details(lambda: next(ss(iter([b""]), timeout=WAIT))) == SERVER_DESERIALIZE
    assert channel.unary_unary("/t/ok")(b"x") == b"x"


def test_response_serializer_raises(impl):
    handlers = {
        "uu": grpc.unary_unary_rpc_method_handler(
            lambda request, context: request, response_serializer=_broken
        ),
        "us": grpc.unary_stream_rpc_method_handler(
            lambda request, context: iter([b""]), response_serializer=_broken
        ),
        "su": grpc.stream_unary_rpc_method_handler(
            lambda requests, context: b"".join(requests), response_serializer=_broken
        ),
        "ok": grpc.unary_unary_rpc_method_handler(lambda request, context: request),
    }
    channel = _serve(impl, **handlers)
    uu = channel.unary_unary("/t/uu")
    assert code_and_details(lambda: uu(b"", timeout=WAIT)) == SERVER_SERIALIZE
    us = channel.unary_stream("/t/us")
    assert code_and_details(lambda: next(us(b"", timeout=WAIT))) == SERVER_SERIALIZE
    su = channel.stream_unary("/t/su")
    assert code_and_details(lambda: su(iter([b""]), timeout=WAIT)) == SERVER_SERIALIZE
    assert channel.unary_unary("/t/ok")(b"x") == b"x"


def test_handler_returns_none(impl):
    peer = impl.serve(
        unary=lambda request, context: None, client_stream=lambda requests, context: None
    )
    assert code_and_details(lambda: peer.stub.Unary(EchoRequest())) == SERVER_SERIALIZE
    assert code_and_details(lambda: peer.stub.ClientStream(iter(()))) == SERVER_SERIALIZE


def test_handler_returns_another_type(impl):
    peer = impl.serve(unary=lambda request, context: "no message")
    assert code_and_details(lambda: peer.stub.Unary(EchoRequest())) == SERVER_SERIALIZE


def test_request_of_another_type(impl):
    peer = impl.serve()
    assert code_and_details(lambda: peer.stub.Unary("no message")) == SERIALIZE
    assert code_and_details(lambda: peer.stub.Unary(None)) == SERIALIZE


def test_malformed_request(impl):
    """Bytes that are no message: the stock deserializer on the server raises."""
    peer = impl.serve()
    raw = peer.channel.unary_unary("/zhtest.Echo/Unary")
    assert code_and_details(lambda: raw(b"\xff\xff\xff", timeout=WAIT)) == SERVER_DESERIALIZE
    assert peer.stub.Unary(EchoRequest(text="x")).text == "x"


def test_none_without_serializer(impl):
    channel = _serve(impl, uu=grpc.unary_unary_rpc_method_handler(lambda request, context: request))
    assert code_and_details(lambda: channel.unary_unary("/t/uu")(None)) == SERIALIZE


def test_text_without_serializer(impl):
    """Neither bytes nor serialized to bytes: a mistake in the program, raised as such."""
    channel = _serve(impl, uu=grpc.unary_unary_rpc_method_handler(lambda request, context: request))
    with pytest.raises(TypeError):
        channel.unary_unary("/t/uu")("text")
    assert channel.unary_unary("/t/uu")(b"x") == b"x"


def test_stream_method_called_as_unary(impl):
    """Kinds are told apart by the handler, not on the wire: a unary call of a streaming method."""
    channel = _serve(
        impl,
        us=grpc.unary_stream_rpc_method_handler(lambda request, context: iter([request])),
        su=grpc.stream_unary_rpc_method_handler(lambda requests, context: b"".join(requests)),
        ss=grpc.stream_stream_rpc_method_handler(lambda requests, context: (r for r in requests)),
        uu=grpc.unary_unary_rpc_method_handler(lambda request, context: request),
    )
    assert channel.unary_unary("/t/us")(b"x", timeout=WAIT) == b"x"
    assert channel.unary_unary("/t/su")(b"x", timeout=WAIT) == b"x"
    assert channel.unary_unary("/t/ss")(b"x", timeout=WAIT) == b"x"
    assert list(channel.stream_stream("/t/uu")(iter([b"x"]), timeout=WAIT)) == [b"x"]


def test_unary_method_called_without_a_request(impl):
    channel = _serve(impl, uu=grpc.unary_unary_rpc_method_handler(lambda request, context: request))
    call = channel.stream_unary("/t/uu")
    code, details = code_and_details(lambda: call(iter(()), timeout=WAIT))
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert "requires exactly one request message" in details
