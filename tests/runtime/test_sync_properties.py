"""Random payloads, metadata and statuses: what arrives is what was sent."""

from __future__ import annotations

import grpc
import pytest
from apiharness import WAIT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zhtest.types_pb2 import EchoReply, EchoRequest

pytestmark = pytest.mark.inline_ok

# One server serves all examples of a test.
quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

payloads = st.one_of(
    st.binary(max_size=100),
    st.integers(0, 20_000).map(lambda size: bytes(index & 255 for index in range(size))),
    st.sampled_from([1022, 1023, 1024, 1025, 4095, 4096, 4097, 65_535, 65_537]).map(bytes),
)
texts = st.text(max_size=40)
keys = st.from_regex(r"\A[a-z0-9_.][a-z0-9_.-]{0,20}\Z").filter(
    lambda key: not key.endswith("-bin") and not key.startswith("grpc-")
)
# What means something to HTTP/2 itself.
taken = {"te", "host", "user-agent", "content-type", "content-length", "connection", "date"}
pairs = st.one_of(
    st.tuples(
        keys.filter(lambda key: key not in taken),
        st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=30),
    ),
    st.tuples(keys.map(lambda key: key + "-bin"), st.binary(max_size=30)),
)
metadata = st.lists(pairs, max_size=12)


class Echo:
    """Sends metadata and status back as the client asks for them."""

    def __init__(self):
        self.seen = None
        self.initial = ()
        self.trailing = ()
        self.status = None

    def __call__(self, request, context):
        self.seen = [
            (key, value) for key, value in context.invocation_metadata() if key != "user-agent"
        ]
        context.send_initial_metadata(self.initial)
        context.set_trailing_metadata(self.trailing)
        if self.status is not None:
            context.abort(*self.status)
        return EchoReply(text=request.text, payload=request.payload, index=request.code)


def _grouped(sent):
    """The values of each key in order: across keys the order may change."""
    found = {}
    for key, value in sent:
        found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def echo():
    return Echo()


@pytest.fixture
def peer(impl, echo):
    return impl.serve(unary=echo)


def test_payloads(peer):
    @quick
    @given(texts, payloads, st.integers(-(2**31), 2**31 - 1))
    def check(text, payload, number):
        reply = peer.stub.Unary(EchoRequest(text=text, payload=payload, code=number), timeout=WAIT)
        assert reply == EchoReply(text=text, payload=payload, index=number)

    check()


def test_metadata(peer, echo):
    @quick
    @given(metadata, metadata, metadata)
    def check(sent, initial, trailing):
        echo.initial, echo.trailing = tuple(initial), tuple(trailing)
        _, call = peer.stub.Unary.with_call(EchoRequest(), metadata=sent, timeout=WAIT)
        assert _grouped(echo.seen) == _grouped(sent)
        assert _grouped(call.initial_metadata()) == _grouped(initial)
        assert _grouped(call.trailing_metadata()) == _grouped(trailing)

    check()


def test_statuses(peer, echo):
    @quick
    @given(st.sampled_from([code for code in grpc.StatusCode if code.value[0]]), texts, metadata)
    def check(code, details, trailing):
        echo.status, echo.trailing = (code, details), tuple(trailing)
        with pytest.raises(grpc.RpcError) as raised:
            peer.stub.Unary(EchoRequest(), timeout=WAIT)
        assert raised.value.code() is code
        assert raised.value.details() == details
        assert _grouped(raised.value.trailing_metadata()) == _grouped(trailing)

    check()


def test_streams(impl):
    peer = impl.serve()

    @quick
    @given(st.lists(payloads, max_size=20))
    def check(sent):
        call = peer.stub.Bidi((EchoRequest(payload=payload) for payload in sent), timeout=WAIT)
        assert [reply.payload for reply in call] == sent
        reply = peer.stub.ClientStream(
            (EchoRequest(payload=payload) for payload in sent), timeout=WAIT
        )
        assert reply.payload == b"".join(sent)

    check()
