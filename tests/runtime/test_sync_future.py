"""Futures of calls: results, errors, waiting, cancelling, and callbacks that nobody waits for."""

from __future__ import annotations

import threading
import traceback

import grpc
import pytest
from apiharness import WAIT, eventually
from zhtest.types_pb2 import EchoReply, EchoRequest


def _abort(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")


@pytest.mark.inline_ok
def test_result_of_a_finished_call(impl):
    peer = impl.serve()
    future = peer.stub.Unary.future(EchoRequest(text="a"))
    assert future.result(timeout=WAIT).text == "a"
    # It can be asked again, with and without a timeout.
    assert future.result().text == "a"
    assert future.result(timeout=0).text == "a"
    assert future.exception(timeout=WAIT) is None
    assert future.traceback(timeout=WAIT) is None
    assert future.done() is True
    assert future.running() is False
    assert future.cancelled() is False
    assert future.is_active() is False
    assert future.code() is grpc.StatusCode.OK
    assert future.details() == ""


@pytest.mark.inline_ok
def test_types(impl):
    peer = impl.serve()
    future = peer.stub.Unary.future(EchoRequest())
    assert isinstance(future, grpc.Future)
    assert isinstance(future, grpc.Call)
    assert isinstance(future, grpc.RpcContext)
    future.result(timeout=WAIT)


@pytest.mark.inline_ok
def test_failed_call(impl):
    peer = impl.serve(unary=_abort)
    future = peer.stub.Unary.future(EchoRequest())
    error = future.exception(timeout=WAIT)
    assert isinstance(error, grpc.RpcError)
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "no such thing"
    with pytest.raises(grpc.RpcError) as raised:
        future.result(timeout=WAIT)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert traceback.format_tb(future.traceback(timeout=WAIT))
    assert future.code() is grpc.StatusCode.NOT_FOUND
    assert future.details() == "no such thing"
    assert future.done() is True
    assert future.cancelled() is False
    assert future.cancel() is False


def test_waiting_times_out_and_the_call_goes_on(impl):
    gate = impl.gate()

    def handler(request, context):
        gate.wait(WAIT)
        return EchoReply(text="late")

    peer = impl.serve(unary=handler)
    future = peer.stub.Unary.future(EchoRequest())
    assert future.done() is False
    assert future.running() is True
    assert future.is_active() is True
    for wait in (future.result, future.exception, future.traceback):
        with pytest.raises(grpc.FutureTimeoutError):
            wait(timeout=0.05)
        with pytest.raises(grpc.FutureTimeoutError):
            wait(timeout=0)
    gate.set()
    assert future.result(timeout=WAIT).text == "late"


def test_cancel(impl):
    gate = impl.gate()
    peer = impl.serve(unary=lambda request, context: EchoReply(text=str(gate.wait(WAIT))))
    future = peer.stub.Unary.future(EchoRequest())
    assert future.cancel() is True
    assert future.cancelled() is True
    assert future.done() is True
    assert future.running() is False
    assert future.is_active() is False
    assert future.code() is grpc.StatusCode.CANCELLED
    assert future.details() == "Locally cancelled by application!"
    for wait in (future.result, future.exception, future.traceback):
        with pytest.raises(grpc.FutureCancelledError):
            wait(timeout=WAIT)
    # Only the first one cancels.
    assert future.cancel() is False


@pytest.mark.inline_ok
def test_cancel_after_the_end(impl):
    peer = impl.serve()
    future = peer.stub.Unary.future(EchoRequest(text="a"))
    assert future.result(timeout=WAIT).text == "a"
    assert future.cancel() is False
    assert future.cancelled() is False
    assert future.result().text == "a"


def test_callback_with_nobody_waiting(impl):
    """Tracing interceptors end their spans in such callbacks: nothing else drives the call."""
    gate = impl.gate()
    called = threading.Event()
    seen = []

    def handler(request, context):
        gate.wait(WAIT)
        return EchoReply(text="x")

    def callback(future):
        seen.append((future, future.result().text, future.code()))
        called.set()

    peer = impl.serve(unary=handler)
    future = peer.stub.Unary.future(EchoRequest())
    future.add_done_callback(callback)
    assert not called.is_set()
    gate.set()
    assert called.wait(WAIT)
    assert seen == [(future, "x", grpc.StatusCode.OK)]


def test_callback_of_a_call_that_nobody_holds(impl):
    called = threading.Event()
    peer = impl.serve()
    for _ in range(20):
        called.clear()
        peer.stub.Unary.future(EchoRequest()).add_done_callback(lambda future: called.set())
        assert called.wait(WAIT)


@pytest.mark.inline_ok
def test_callback_added_after_the_end(impl):
    peer = impl.serve()
    future = peer.stub.Unary.future(EchoRequest())
    future.result(timeout=WAIT)
    seen = []
    future.add_done_callback(seen.append)
    eventually(lambda: seen == [future])


def test_callbacks_run_in_order(impl):
    gate = impl.gate()
    called = threading.Event()
    seen = []
    peer = impl.serve(unary=lambda request, context: EchoReply(text=str(gate.wait(WAIT))))
    future = peer.stub.Unary.future(EchoRequest())
    for number in range(5):
        future.add_done_callback(lambda future, number=number: seen.append(number))
    future.add_done_callback(lambda future: called.set())
    gate.set()
    assert called.wait(WAIT)
    assert seen == [0, 1, 2, 3, 4]


def test_callback_of_a_failed_call(impl):
    called = threading.Event()
    seen = []

    def callback(future):
        seen.append(future.exception().code())
        called.set()

    peer = impl.serve(unary=_abort)
    peer.stub.Unary.future(EchoRequest()).add_done_callback(callback)
    assert called.wait(WAIT)
    assert seen == [grpc.StatusCode.NOT_FOUND]


def test_callback_of_a_cancelled_call(impl):
    gate = impl.gate()
    called = threading.Event()
    seen = []

    def callback(future):
        seen.append(future.cancelled())
        called.set()

    peer = impl.serve(unary=lambda request, context: EchoReply(text=str(gate.wait(WAIT))))
    future = peer.stub.Unary.future(EchoRequest())
    future.add_done_callback(callback)
    future.cancel()
    assert called.wait(WAIT)
    assert seen == [True]


def test_callback_at_the_deadline(impl):
    gate = impl.gate()
    called = threading.Event()
    seen = []

    def callback(future):
        seen.append(future.code())
        called.set()

    peer = impl.serve(unary=lambda request, context: EchoReply(text=str(gate.wait(WAIT))))
    peer.stub.Unary.future(EchoRequest(), timeout=0.2).add_done_callback(callback)
    assert called.wait(WAIT)
    assert seen == [grpc.StatusCode.DEADLINE_EXCEEDED]


def test_callback_that_raises_hurts_nobody(impl, caplog):
    called = threading.Event()
    gate = impl.gate()

    def bad(future):
        raise RuntimeError("callback gone wrong")

    peer = impl.serve(unary=lambda request, context: EchoReply(text=str(gate.wait(WAIT))))
    future = peer.stub.Unary.future(EchoRequest())
    future.add_done_callback(bad)
    future.add_done_callback(lambda future: called.set())
    gate.set()
    assert called.wait(WAIT)
    assert future.result(timeout=WAIT).text == "True"
    assert peer.stub.Unary(EchoRequest()).text == "True"
    eventually(lambda: "callback gone wrong" in caplog.text)


def test_callback_may_make_the_next_call(impl):
    """A chain of futures, each started in the callback of the one before."""
    done = threading.Event()
    seen = []
    peer = impl.serve()

    def again(future):
        seen.append(future.result().text)
        if len(seen) == 20:
            done.set()
        else:
            start()

    def start():
        peer.stub.Unary.future(EchoRequest(text=str(len(seen)))).add_done_callback(again)

    start()
    assert done.wait(WAIT)
    assert seen == [str(number) for number in range(20)]


@pytest.mark.inline_ok
def test_many_at_once(impl):
    peer = impl.serve()
    started = [peer.stub.Unary.future(EchoRequest(text=str(number))) for number in range(300)]
    assert [future.result(timeout=WAIT).text for future in reversed(started)] == [
        str(number) for number in reversed(range(300))
    ]


@pytest.mark.inline_ok
def test_many_callbacks(impl):
    peer = impl.serve()
    count = 300
    done = threading.Event()
    lock = threading.Lock()
    seen = set()

    def callback(future):
        with lock:
            seen.add(future.result().text)
            if len(seen) == count:
                done.set()

    for number in range(count):
        peer.stub.Unary.future(EchoRequest(text=str(number))).add_done_callback(callback)
    assert done.wait(WAIT)
    assert seen == {str(number) for number in range(count)}


def test_several_threads_wait_for_one_future(impl):
    gate = impl.gate()

    def handler(request, context):
        gate.wait(WAIT)
        return EchoReply(text="x")

    peer = impl.serve(unary=handler)
    future = peer.stub.Unary.future(EchoRequest())
    seen = []
    threads = [
        threading.Thread(target=lambda: seen.append(future.result(timeout=WAIT).text))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join(WAIT)
    assert seen == ["x"] * 8


def test_future_of_a_client_stream(impl):
    peer = impl.serve()
    future = peer.stub.ClientStream.future(EchoRequest(text=text) for text in "abc")
    called = threading.Event()
    future.add_done_callback(lambda future: called.set())
    assert called.wait(WAIT)
    assert future.result(timeout=WAIT) == EchoReply(text="a,b,c", index=3)
    assert future.code() is grpc.StatusCode.OK


def test_response_streams_are_futures_too(impl):
    """What tracing interceptors rely on: the object of a streaming call has done-callbacks."""
    peer = impl.serve()
    called = threading.Event()
    call = peer.stub.ServerStream(EchoRequest(count=3))
    assert isinstance(call, grpc.Call)
    assert isinstance(call, grpc.Future)
    assert isinstance(call, grpc.RpcError)
    call.add_done_callback(lambda future: called.set())
    assert [reply.index for reply in call] == [0, 1, 2]
    assert called.wait(WAIT)
    assert call.done() is True
    assert call.running() is False
    assert call.cancelled() is False


@pytest.mark.inline_ok
def test_initial_metadata_before_the_result(impl):
    def handler(request, context):
        context.send_initial_metadata((("a", "1"),))
        return EchoReply(text="x")

    peer = impl.serve(unary=handler)
    future = peer.stub.Unary.future(EchoRequest())
    assert tuple(future.initial_metadata()) == (("a", "1"),)
    assert future.result(timeout=WAIT).text == "x"
    assert tuple(future.trailing_metadata()) == ()


def test_code_and_details_wait_for_the_end(impl):
    gate = impl.gate()

    def handler(request, context):
        gate.wait(WAIT)
        context.abort(grpc.StatusCode.ABORTED, "in the end")

    peer = impl.serve(unary=handler)
    for ask, answer in (
        (lambda future: future.code(), grpc.StatusCode.ABORTED),
        (lambda future: future.details(), "in the end"),
        (lambda future: tuple(future.trailing_metadata()), ()),
        (lambda future: tuple(future.initial_metadata()), ()),
    ):
        gate.clear()
        future = peer.stub.Unary.future(EchoRequest())
        opener = threading.Timer(0.05, gate.set)
        opener.start()
        assert ask(future) == answer
        opener.join()
