"""Metadata: what travels, in which order, what is refused and with which error."""

from __future__ import annotations

import grpc
import pytest
from apiharness import WAIT, code_and_details
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoReply, EchoRequest

pytestmark = pytest.mark.inline_ok

INVALID = (grpc.StatusCode.INTERNAL, "Invalid metadata")


class Recorder:
    """A unary handler that keeps the metadata of the last call."""

    def __init__(self):
        self.all = None

    def __call__(self, request, context):
        self.all = context.invocation_metadata()
        return EchoReply()

    @property
    def own(self):
        """Without what the transport adds."""
        return [(key, value) for key, value in self.all if key != "user-agent"]


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def peer(impl, recorder):
    return impl.serve(unary=recorder)


def test_none_given(peer, recorder):
    peer.stub.Unary(EchoRequest())
    assert recorder.own == []
    peer.stub.Unary(EchoRequest(), metadata=())
    assert recorder.own == []
    peer.stub.Unary(EchoRequest(), metadata=[])
    assert recorder.own == []


@pytest.mark.parametrize("container", [tuple, list, lambda pairs: grpc.aio.Metadata(*pairs)])
def test_containers(peer, recorder, container):
    pairs = [("a", "1"), ("b", "2"), ("c-bin", b"\x00\xff")]
    peer.stub.Unary(EchoRequest(), metadata=container(pairs))
    assert recorder.own == pairs


def test_repeated_keys_keep_their_order(peer, recorder):
    pairs = [("k", "3"), ("k", "1"), ("other", "x"), ("k", "2"), ("k", "1")]
    peer.stub.Unary(EchoRequest(), metadata=pairs)
    assert [value for key, value in recorder.own if key == "k"] == ["3", "1", "2", "1"]
    assert sorted(recorder.own) == sorted(pairs)


def test_pairs_have_key_and_value(peer, recorder):
    """Handlers and interceptors use `datum.key` and `datum.value` as well as unpacking."""
    peer.stub.Unary(EchoRequest(), metadata=[("a", "1")])
    datum = next(datum for datum in recorder.all if datum[0] == "a")
    assert (datum.key, datum.value) == ("a", "1")
    assert datum == ("a", "1")
    key, value = datum
    assert (key, value) == ("a", "1")
    assert isinstance(recorder.all, tuple)
    assert dict(recorder.all)["a"] == "1"


@pytest.mark.parametrize("value", [b"", b"\x00", b"a,b", bytes(range(256)), b"x" * 1000])
def test_binary_values(peer, recorder, value):
    peer.stub.Unary(EchoRequest(), metadata=[("k-bin", value)])
    assert recorder.own == [("k-bin", value)]
    assert type(recorder.own[0][1]) is bytes


@pytest.mark.parametrize("value", ["", "x", "a b", "~!@#$%^&*()=+[]{}|;:'\",.<>/?`", "x" * 1000])
def test_text_values(peer, recorder, value):
    peer.stub.Unary(EchoRequest(), metadata=[("k", value)])
    assert recorder.own == [("k", value)]
    assert type(recorder.own[0][1]) is str


def test_bytes_for_a_text_key_arrive_as_text(peer, recorder):
    peer.stub.Unary(EchoRequest(), metadata=[("k", b"abc")])
    assert recorder.own == [("k", "abc")]


@pytest.mark.parametrize("key", ["a", "a1", "a.b", "a_b", "a-b", "0", "x" * 200])
def test_keys(peer, recorder, key):
    peer.stub.Unary(EchoRequest(), metadata=[(key, "v")])
    assert recorder.own == [(key, "v")]


@pytest.mark.parametrize(
    "pair",
    [
        ("Upper", "v"),
        ("UPPER", "v"),
        ("k\u00e9", "v"),
        ("a b", "v"),
        ("", "v"),
        (":path", "v"),
        ("k", "caf\u00e9"),
        ("k", "a\nb"),
        ("k", "a\tb"),
        ("k", "a\x00b"),
        ("k", "a\x7fb"),
        ("k", b"\xff"),
    ],
    ids=repr,
)
def test_refused(peer, recorder, pair):
    assert code_and_details(lambda: peer.stub.Unary(EchoRequest(), metadata=[pair])) == INVALID
    assert recorder.all is None
    # The channel is as good as before.
    peer.stub.Unary(EchoRequest(), metadata=[("k", "v")])
    assert recorder.own == [("k", "v")]


def test_refused_in_a_future(peer):
    future = peer.stub.Unary.future(EchoRequest(), metadata=[("Upper", "v")])
    assert (future.code(), future.details()) == INVALID
    with pytest.raises(grpc.RpcError):
        future.result(timeout=WAIT)


def test_refused_in_streams(impl):
    peer = impl.serve()
    metadata = [("Upper", "v")]
    call = peer.stub.ServerStream(EchoRequest(count=1), metadata=metadata)
    assert code_and_details(lambda: next(call)) == INVALID
    assert code_and_details(lambda: peer.stub.ClientStream(iter(()), metadata=metadata)) == INVALID
    call = peer.stub.Bidi(iter(()), metadata=metadata)
    assert code_and_details(lambda: next(call)) == INVALID


@pytest.mark.parametrize(
    "metadata",
    [[("k-bin", "text")], [("k", 1)], [("k", "v", "w")], ["k"], 5],
    ids=repr,
)
def test_not_metadata_at_all(peer, metadata):
    """A mistake in the program and no status: TypeError or ValueError, as grpcio raises."""
    with pytest.raises((TypeError, ValueError)):
        peer.stub.Unary(EchoRequest(), metadata=metadata)
    peer.stub.Unary(EchoRequest())


@pytest.mark.parametrize(
    "key", ["grpc-timeout", "grpc-encoding", "te", "content-type", "user-agent"]
)
def test_keys_of_the_protocol_do_not_pass_for_metadata(peer, recorder, key):
    """grpcio drops them on the way; refusing them is as good. The handler never sees them."""
    try:
        peer.stub.Unary(EchoRequest(), metadata=[(key, "5S"), ("own", "1")])
    except grpc.RpcError as error:
        assert (error.code(), error.details()) == INVALID
    else:
        assert recorder.own == [("own", "1")]
        assert (key, "5S") not in tuple(recorder.all)


def test_unknown_keys_with_the_reserved_prefix(peer, recorder):
    """gRPC reserves `grpc-` for itself, yet grpcio passes on those it does not know. Refusing
    them, as the specification allows, is accepted too; losing them silently is not."""
    try:
        peer.stub.Unary(EchoRequest(), metadata=[("grpc-own-thing", "1")])
    except grpc.RpcError as error:
        assert (error.code(), error.details()) == INVALID
    else:
        assert recorder.own == [("grpc-own-thing", "1")]


def test_user_agent(impl, recorder):
    peer = impl.serve(unary=recorder)
    peer.stub.Unary(EchoRequest(), metadata=[("a", "1")])
    agents = [value for key, value in recorder.all if key == "user-agent"]
    assert len(agents) == 1
    assert agents[0].split("/")[0] in ("grpc-python", "zerohop")


def test_user_agent_prefix(impl, recorder):
    impl.serve(unary=recorder)
    channel = impl.channel(options=[("grpc.primary_user_agent", "mine/1.0")])
    channel.unary_unary("/zhtest.Echo/Unary")(b"")
    agent = dict(recorder.all)["user-agent"]
    assert agent.startswith("mine/1.0 ")


def test_metadata_in_every_kind_of_call(impl):
    seen = []

    def note(context):
        seen.append(dict(context.invocation_metadata())["k"])

    def unary(request, context):
        note(context)
        return EchoReply()

    def stream(request, context):
        note(context)
        yield EchoReply()

    peer = impl.serve(unary=unary, server_stream=stream, client_stream=unary, bidi=stream)
    peer.stub.Unary(EchoRequest(), metadata=[("k", "uu")])
    list(peer.stub.ServerStream(EchoRequest(), metadata=[("k", "us")]))
    peer.stub.ClientStream(iter(()), metadata=[("k", "su")])
    list(peer.stub.Bidi(iter(()), metadata=[("k", "ss")]))
    assert seen == ["uu", "us", "su", "ss"]


def test_initial_and_trailing(impl):
    initial = (("i", "1"), ("i", "2"), ("i-bin", b"\x00"))
    trailing = (("t", "1"), ("t", "2"), ("t-bin", b"\xff"), ("empty", ""))

    def handler(request, context):
        context.send_initial_metadata(initial)
        context.set_trailing_metadata(trailing)
        return EchoReply()

    peer = impl.serve(unary=handler)
    _, call = peer.stub.Unary.with_call(EchoRequest())
    assert tuple(call.initial_metadata()) == initial
    assert tuple(call.trailing_metadata()) == trailing
    assert call.trailing_metadata()[0].key == "t"
    assert call.trailing_metadata()[0].value == "1"


def test_initial_and_trailing_of_a_failure(impl):
    def handler(request, context):
        context.send_initial_metadata((("i", "1"),))
        context.set_trailing_metadata((("t", "1"), ("t-bin", b"\x01")))
        context.abort(grpc.StatusCode.DATA_LOSS, "gone")

    peer = impl.serve(unary=handler)
    with pytest.raises(grpc.RpcError) as raised:
        peer.stub.Unary(EchoRequest())
    assert tuple(raised.value.initial_metadata()) == (("i", "1"),)
    assert tuple(raised.value.trailing_metadata()) == (("t", "1"), ("t-bin", b"\x01"))


def test_none_sent(impl):
    peer = impl.serve()
    _, call = peer.stub.Unary.with_call(EchoRequest())
    assert tuple(call.initial_metadata()) == ()
    assert tuple(call.trailing_metadata()) == ()
    call = peer.stub.ServerStream(EchoRequest())
    assert tuple(call.initial_metadata()) == ()
    assert tuple(call.trailing_metadata()) == ()


def test_initial_metadata_arrives_before_the_first_reply(impl):
    gate = impl.gate()

    def handler(request, context):
        context.send_initial_metadata((("early", "1"),))
        gate.wait(WAIT)
        yield EchoReply()

    peer = impl.serve(server_stream=handler)
    call = peer.stub.ServerStream(EchoRequest())
    assert tuple(call.initial_metadata()) == (("early", "1"),)
    gate.set()
    assert len(list(call)) == 1


def test_initial_metadata_twice(impl):
    raised = []

    def handler(request, context):
        context.send_initial_metadata((("a", "1"),))
        try:
            context.send_initial_metadata((("b", "2"),))
        except ValueError as error:
            raised.append(str(error))
        return EchoReply()

    peer = impl.serve(unary=handler)
    _, call = peer.stub.Unary.with_call(EchoRequest())
    assert raised == ["Initial metadata no longer allowed!"]
    assert tuple(call.initial_metadata()) == (("a", "1"),)


def test_initial_metadata_after_a_reply(impl):
    raised = []

    def handler(request, context):
        yield EchoReply()
        try:
            context.send_initial_metadata((("b", "2"),))
        except ValueError as error:
            raised.append(str(error))

    peer = impl.serve(server_stream=handler)
    assert len(list(peer.stub.ServerStream(EchoRequest()))) == 1
    assert raised == ["Initial metadata no longer allowed!"]


def test_trailing_metadata_of_the_context(impl):
    seen = []

    def handler(request, context):
        seen.append(context.trailing_metadata())
        context.set_trailing_metadata((("t", "1"),))
        seen.append(tuple(context.trailing_metadata()))
        context.set_trailing_metadata((("t", "2"),))
        return EchoReply()

    peer = impl.serve(unary=handler)
    _, call = peer.stub.Unary.with_call(EchoRequest())
    # The last one set is sent.
    assert tuple(call.trailing_metadata()) == (("t", "2"),)
    assert not seen[0]
    assert seen[1] == (("t", "1"),)


@pytest.mark.parametrize("which", ["send_initial_metadata", "set_trailing_metadata"])
def test_server_refuses_too(impl, which):
    def handler(request, context):
        getattr(context, which)((("Upper", "v"),))
        return EchoReply()

    peer = impl.serve(unary=handler)
    assert code_and_details(lambda: peer.stub.Unary(EchoRequest(), timeout=WAIT)) == INVALID
    # The server is as good as before.
    assert code_and_details(lambda: peer.stub.Unary(EchoRequest(), timeout=WAIT)) == INVALID


def test_size_under_the_soft_limit(peer, recorder):
    value = "x" * 7000
    for _ in range(20):
        peer.stub.Unary(EchoRequest(), metadata=[("k", value)])
        assert recorder.own == [("k", value)]


def test_size_over_the_hard_limit(peer, recorder):
    metadata = [("k", "x" * 20_000)]
    code, details = code_and_details(lambda: peer.stub.Unary(EchoRequest(), metadata=metadata))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "metadata size exceeds hard limit" in details
    assert recorder.all is None
    peer.stub.Unary(EchoRequest())
    assert recorder.own == []


@pytest.mark.parametrize("which", ["send_initial_metadata", "set_trailing_metadata"])
def test_size_over_the_hard_limit_from_the_server(impl, which):
    def handler(request, context):
        if request.code:
            getattr(context, which)((("k", "x" * 20_000),))
        return EchoReply()

    peer = impl.serve(unary=handler)
    code, details = code_and_details(lambda: peer.stub.Unary(EchoRequest(code=1), timeout=WAIT))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "metadata size exceeds hard limit" in details
    peer.stub.Unary(EchoRequest())


def test_size_between_the_limits(peer, recorder):
    """Between soft and hard limit gRPC refuses with a probability that grows with the size."""
    metadata = [("k", "x" * 12_000)]
    refused = 0
    for _ in range(100):
        try:
            peer.stub.Unary(EchoRequest(), metadata=metadata)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "metadata size exceeds soft limit" in error.details()
            refused += 1
        else:
            assert recorder.own == metadata
    assert 0 < refused < 100  # about half of them


def test_many_keys(peer, recorder):
    pairs = [(f"key-{number}", str(number)) for number in range(60)]
    peer.stub.Unary(EchoRequest(), metadata=pairs)
    assert recorder.own == pairs


def test_many_different_keys_over_the_life_of_a_channel(peer, recorder):
    """Names may be interned, but not without end: later ones must arrive all the same."""
    for start in range(0, 3000, 50):
        pairs = [(f"key-{number}", str(number)) for number in range(start, start + 50)]
        peer.stub.Unary(EchoRequest(), metadata=pairs)
        assert recorder.own == pairs


_KINDS = {
    "unary": lambda stub, **call: stub.Unary(EchoRequest(), **call),
    "future": lambda stub, **call: stub.Unary.future(EchoRequest(), **call).result(),
    "server_stream": lambda stub, **call: list(stub.ServerStream(EchoRequest(), **call)),
    "client_stream": lambda stub, **call: stub.ClientStream(iter(()), **call),
    "client_future": lambda stub, **call: stub.ClientStream.future(iter(()), **call).result(),
    "bidi": lambda stub, **call: list(stub.Bidi(iter(()), **call)),
}


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("wait", [False, True])
def test_refused_before_there_is_a_server(impl, kind, wait):
    stub = echo_pb2_grpc.EchoStub(impl.channel())
    metadata = [("Upper", "v")]
    assert (
        code_and_details(lambda: _KINDS[kind](stub, metadata=metadata, wait_for_ready=wait))
        == INVALID
    )
    with pytest.raises(TypeError):
        _KINDS[kind](stub, metadata=42, wait_for_ready=wait)


def test_changed_after_the_call(impl, recorder):
    """What the caller does with its list while there is no server yet, does not matter."""
    metadata = [("k", "v")]
    stub = echo_pb2_grpc.EchoStub(impl.channel())
    future = stub.Unary.future(EchoRequest(), metadata=metadata, wait_for_ready=True, timeout=WAIT)
    metadata[:] = [("later", "x")]
    impl.start(unary=recorder)
    future.result()
    assert recorder.own == [("k", "v")]
