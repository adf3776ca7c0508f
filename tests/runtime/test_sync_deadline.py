"""Deadlines: what the client gets, what the server sees, and what is left at each side."""

from __future__ import annotations

import threading

import grpc
import pytest
from apiharness import WAIT, code_and_details
from zhtest.types_pb2 import EchoReply, EchoRequest

EXCEEDED = (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
# grpcio words it so when the deadline ends a stream that has begun.
STREAM_EXCEEDED = (EXCEEDED, (EXCEEDED[0], "Stream removed (Deadline Exceeded)"))


@pytest.fixture
def stuck(impl):
    """A server whose handlers block until the end of the test."""
    gate = impl.gate()

    def unary(request, context):
        gate.wait(WAIT)
        return EchoReply()

    def stream(request, context):
        yield EchoReply(text="first")
        gate.wait(WAIT)

    return impl.serve(unary=unary, server_stream=stream, client_stream=unary, bidi=stream)


def test_unary(stuck):
    assert code_and_details(lambda: stuck.stub.Unary(EchoRequest(), timeout=0.2)) == EXCEEDED
    assert (
        code_and_details(lambda: stuck.stub.Unary.with_call(EchoRequest(), timeout=0.2)) == EXCEEDED
    )


def test_future(stuck):
    future = stuck.stub.Unary.future(EchoRequest(), timeout=0.2)
    assert code_and_details(lambda: future.result(timeout=WAIT)) == EXCEEDED
    assert future.done() is True
    assert future.cancelled() is False
    assert future.cancel() is False
    assert (future.code(), future.details()) == EXCEEDED


def test_server_stream(stuck):
    call = stuck.stub.ServerStream(EchoRequest(), timeout=0.5)
    assert next(call).text == "first"
    assert code_and_details(lambda: next(call)) in STREAM_EXCEEDED
    assert code_and_details(lambda: next(call)) in STREAM_EXCEEDED
    assert (call.code(), call.details()) in STREAM_EXCEEDED


def test_server_stream_that_nobody_reads(stuck):
    """The deadline ends a stream whose reader does something else."""
    call = stuck.stub.ServerStream(EchoRequest(), timeout=0.2)
    ended = threading.Event()
    call.add_done_callback(lambda future: ended.set())
    assert ended.wait(WAIT)
    assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_client_stream(impl, stuck):
    gate = impl.gate()

    def requests():
        yield EchoRequest()
        gate.wait(WAIT)

    assert code_and_details(lambda: stuck.stub.ClientStream(requests(), timeout=0.2)) == EXCEEDED


def test_bidi(impl, stuck):
    gate = impl.gate()

    def requests():
        yield EchoRequest()
        gate.wait(WAIT)

    call = stuck.stub.Bidi(requests(), timeout=0.5)
    assert next(call).text == "first"
    assert code_and_details(lambda: next(call)) in STREAM_EXCEEDED


def test_channel_goes_on(impl):
    gate = impl.gate()

    def handler(request, context):
        if request.code:
            gate.wait(WAIT)
        return EchoReply(text="x")

    peer = impl.serve(unary=handler)
    stuck = EchoRequest(code=1)
    for _ in range(3):
        assert code_and_details(lambda: peer.stub.Unary(stuck, timeout=0.05)) == EXCEEDED
        assert peer.stub.Unary(EchoRequest(), timeout=WAIT).text == "x"


def test_deadlines_end_in_their_own_order(stuck):
    ended = []
    done = threading.Event()

    def callback(future, number):
        ended.append(number)
        if len(ended) == 3:
            done.set()

    for number, timeout in ((2, 1.5), (0, 0.3), (1, 0.9)):
        future = stuck.stub.Unary.future(EchoRequest(), timeout=timeout)
        future.add_done_callback(lambda future, number=number: callback(future, number))
    assert done.wait(WAIT)
    assert ended == [0, 1, 2]


@pytest.mark.inline_ok
def test_negative_timeout(impl):
    peer = impl.serve()
    for timeout in (-1, -0.001, -1000):
        assert code_and_details(lambda t=timeout: peer.stub.Unary(EchoRequest(), timeout=t)) == (
            EXCEEDED
        )
    assert peer.stub.Unary(EchoRequest(text="x"), timeout=WAIT).text == "x"


@pytest.mark.inline_ok
@pytest.mark.parametrize("timeout", [0, 1e-9])
def test_zero_timeout(impl, timeout):
    """grpcio may still make such a call: what counts is that it ends, and how."""
    peer = impl.serve()
    try:
        assert peer.stub.Unary(EchoRequest(text="x"), timeout=timeout).text == "x"
    except grpc.RpcError as error:
        assert (error.code(), error.details()) == EXCEEDED
    assert peer.stub.Unary(EchoRequest(text="x"), timeout=WAIT).text == "x"


@pytest.mark.inline_ok
def test_timeouts_that_are_no_float(impl):
    peer = impl.serve()
    assert peer.stub.Unary(EchoRequest(text="x"), timeout=30).text == "x"
    assert peer.stub.Unary(EchoRequest(text="x"), timeout=None).text == "x"
    assert peer.stub.Unary(EchoRequest(text="x"), 30).text == "x"
    with pytest.raises(TypeError):
        peer.stub.Unary(EchoRequest(text="x"), timeout="soon")


@pytest.mark.inline_ok
def test_day_long_timeout(impl):
    seen = []

    def handler(request, context):
        seen.append(context.time_remaining())
        return EchoReply()

    peer = impl.serve(unary=handler)
    peer.stub.Unary(EchoRequest(), timeout=86_400)
    # grpcio rounds such timeouts up to 100 seconds.
    assert 86_000 < seen[0] <= 86_501


@pytest.mark.inline_ok
def test_server_sees_the_deadline(impl):
    seen = []

    def unary(request, context):
        seen.append(context.time_remaining())
        return EchoReply()

    def stream(request, context):
        seen.append(context.time_remaining())
        yield EchoReply()

    peer = impl.serve(unary=unary, server_stream=stream, client_stream=unary, bidi=stream)
    peer.stub.Unary(EchoRequest(), timeout=100)
    peer.stub.Unary.future(EchoRequest(), timeout=100).result(timeout=WAIT)
    list(peer.stub.ServerStream(EchoRequest(), timeout=100))
    peer.stub.ClientStream(iter(()), timeout=100)
    list(peer.stub.Bidi(iter(()), timeout=100))
    assert len(seen) == 5
    # A little over is the rounding of the header in grpcio.
    assert all(100 - WAIT < remaining <= 101 for remaining in seen)


@pytest.mark.inline_ok
def test_server_sees_that_there_is_none(impl):
    """The documentation says None, grpcio's synchronous server says for ever: both are accepted."""
    seen = []

    def handler(request, context):
        seen.append(context.time_remaining())
        return EchoReply()

    peer = impl.serve(unary=handler)
    peer.stub.Unary(EchoRequest())
    assert seen[0] is None or seen[0] > 1e9


def test_time_remaining_at_the_client(impl):
    gate = impl.gate()

    def handler(request, context):
        gate.wait(WAIT)
        return EchoReply()

    peer = impl.serve(unary=handler)
    future = peer.stub.Unary.future(EchoRequest(), timeout=100)
    first = future.time_remaining()
    assert 0 < first <= 100
    assert future.time_remaining() <= first
    assert peer.stub.Unary.future(EchoRequest()).time_remaining() is None
    expired = peer.stub.Unary.future(EchoRequest(), timeout=0.05)
    with pytest.raises(grpc.RpcError):
        expired.result(timeout=WAIT)
    assert expired.time_remaining() == 0


def test_time_remaining_of_a_stream(stuck):
    call = stuck.stub.ServerStream(EchoRequest(), timeout=100)
    assert 0 < call.time_remaining() <= 100
    assert stuck.stub.ServerStream(EchoRequest()).time_remaining() is None
    call.cancel()


def test_server_is_told_when_the_deadline_passes(impl):
    """The handler's callbacks fire at the deadline, and the context says that nobody waits."""
    called = threading.Event()
    ended = threading.Event()
    seen = []

    def handler(request, context):
        seen.append(context.is_active())
        seen.append(context.add_callback(called.set))
        called.wait(WAIT)
        seen.append(context.is_active())
        seen.append(context.time_remaining())
        # Too late: it would never be called.
        seen.append(context.add_callback(called.clear))
        ended.set()
        return EchoReply()

    peer = impl.serve(unary=handler)
    assert code_and_details(lambda: peer.stub.Unary(EchoRequest(), timeout=0.3)) == EXCEEDED
    assert ended.wait(WAIT)
    assert seen[:3] == [True, True, False]
    assert seen[3] < 0.3
    assert seen[4] is False


def test_stream_handler_is_stopped_by_the_deadline(impl):
    """An endless stream: the generator is not asked for ever after the client has gone."""
    called = threading.Event()
    closed = threading.Event()

    def handler(request, context):
        context.add_callback(called.set)
        try:
            number = 0
            while True:
                yield EchoReply(index=number)
                number += 1
        finally:
            closed.set()

    peer = impl.serve(server_stream=handler)
    call = peer.stub.ServerStream(EchoRequest(), timeout=0.3)
    received = 0
    with pytest.raises(grpc.RpcError) as raised:
        for reply in call:
            assert reply.index == received
            received += 1
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert called.wait(WAIT)
    assert closed.wait(WAIT)


def test_callback_after_an_ordinary_end(impl):
    called = threading.Event()

    def handler(request, context):
        assert context.add_callback(called.set) is True
        return EchoReply()

    peer = impl.serve(unary=handler)
    peer.stub.Unary(EchoRequest())
    assert called.wait(WAIT)


def test_deadline_while_no_worker_is_free(impl):
    """A call that waits for a worker of the pool ends at its deadline as well."""
    gate = impl.gate()

    def handler(request, context):
        gate.wait(WAIT)
        return EchoReply(text="x")

    peer = impl.serve(unary=handler, workers=1)
    first = peer.stub.Unary.future(EchoRequest())
    assert code_and_details(lambda: peer.stub.Unary(EchoRequest(), timeout=0.2)) == EXCEEDED
    gate.set()
    assert first.result(timeout=WAIT).text == "x"
    assert peer.stub.Unary(EchoRequest(), timeout=WAIT).text == "x"


def test_handlers_own_deadline_exceeded(impl):
    """A status of the handler's making is not the client's deadline."""
    peer = impl.serve(
        unary=lambda request, context: context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "mine")
    )
    assert code_and_details(lambda: peer.stub.Unary(EchoRequest(), timeout=WAIT)) == (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "mine",
    )
