"""Channels: connectivity, waiting for a server, servers that come and go, and closing."""

from __future__ import annotations

import gc
import queue
import threading

import grpc
import pytest
from apiharness import WAIT, code_and_details, eventually
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoReply, EchoRequest

READY = grpc.ChannelConnectivity.READY
IDLE = grpc.ChannelConnectivity.IDLE
CONNECTING = grpc.ChannelConnectivity.CONNECTING
TRANSIENT_FAILURE = grpc.ChannelConnectivity.TRANSIENT_FAILURE

# grpcio waits a second and more between attempts to connect unless told otherwise.
EAGER = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
]
# What grpcio says of a blocking call and of any other.
CLOSED = r"^Cannot invoke RPC( on closed channel!|: Channel closed!)$"


def _unavailable(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


@pytest.mark.inline_ok
def test_nobody_listens(impl):
    stub = echo_pb2_grpc.EchoStub(impl.channel())
    for _ in range(3):
        code, details = code_and_details(lambda: stub.Unary(EchoRequest(), timeout=WAIT))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert details
    future = stub.Unary.future(EchoRequest(), timeout=WAIT)
    assert future.code() is grpc.StatusCode.UNAVAILABLE
    call = stub.ServerStream(EchoRequest(), timeout=WAIT)
    assert code_and_details(lambda: next(call))[0] is grpc.StatusCode.UNAVAILABLE
    code, _ = code_and_details(lambda: stub.ClientStream(iter([EchoRequest()]), timeout=WAIT))
    assert code is grpc.StatusCode.UNAVAILABLE
    call = stub.Bidi(iter([EchoRequest()]), timeout=WAIT)
    assert code_and_details(lambda: next(call))[0] is grpc.StatusCode.UNAVAILABLE


@pytest.mark.inline_ok
def test_wait_for_ready_until_the_deadline(impl):
    stub = echo_pb2_grpc.EchoStub(impl.channel())
    code, _ = code_and_details(lambda: stub.Unary(EchoRequest(), timeout=0.3, wait_for_ready=True))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.inline_ok
def test_wait_for_ready_and_a_server_that_comes(impl):
    stub = echo_pb2_grpc.EchoStub(impl.channel(options=EAGER))
    future = stub.Unary.future(EchoRequest(text="x"), timeout=WAIT, wait_for_ready=True)
    call = stub.ServerStream(EchoRequest(count=2), timeout=WAIT, wait_for_ready=True)
    results = queue.Queue()

    def blocking():
        reply = stub.Unary(EchoRequest(text="y"), timeout=WAIT, wait_for_ready=True)
        results.put(reply.text)

    waiter = threading.Thread(target=blocking)
    waiter.start()
    with pytest.raises(grpc.FutureTimeoutError):
        future.result(timeout=0.2)
    impl.start()
    assert future.result(timeout=WAIT).text == "x"
    assert [reply.index for reply in call] == [0, 1]
    assert results.get(timeout=WAIT) == "y"
    waiter.join(WAIT)


def test_cancel_while_waiting_for_a_server(impl):
    stub = echo_pb2_grpc.EchoStub(impl.channel())
    future = stub.Unary.future(EchoRequest(), wait_for_ready=True)
    assert future.cancel() is True
    assert future.code() is grpc.StatusCode.CANCELLED


@pytest.mark.inline_ok
def test_channel_finds_a_server_that_starts_later(impl):
    stub = echo_pb2_grpc.EchoStub(impl.channel(options=EAGER))
    assert _unavailable(lambda: stub.Unary(EchoRequest(), timeout=WAIT))
    impl.start()

    def works():
        return not _unavailable(lambda: stub.Unary(EchoRequest(), timeout=WAIT))

    eventually(works)


@pytest.mark.inline_ok
def test_server_comes_back_at_the_same_address(impl):
    stub = echo_pb2_grpc.EchoStub(impl.channel(options=EAGER))
    for number in range(3):
        server = impl.start(unary=lambda request, context, n=number: EchoReply(index=n))
        reply = stub.Unary(EchoRequest(), timeout=WAIT, wait_for_ready=True)
        assert reply.index == number
        server.stop(None)
        eventually(lambda: _unavailable(lambda: stub.Unary(EchoRequest(), timeout=WAIT)))


def _expect(states, wanted, others):
    """The wanted state comes, after those others at most."""
    while True:
        state = states.get(timeout=WAIT)
        if state is wanted:
            return
        assert state in others


def test_connectivity(impl):
    channel = impl.channel(options=EAGER)
    states = queue.Queue()
    channel.subscribe(states.put)
    # Nobody has asked it to connect.
    assert states.get(timeout=WAIT) is IDLE
    server = impl.start()
    channel.subscribe(lambda state: None, try_to_connect=True)
    _expect(states, READY, {CONNECTING, TRANSIENT_FAILURE})
    server.stop(None)
    _expect(states, IDLE, {CONNECTING, TRANSIENT_FAILURE})


def test_connectivity_without_a_server(impl):
    channel = impl.channel(options=EAGER)
    states = queue.Queue()
    channel.subscribe(states.put, try_to_connect=True)
    _expect(states, TRANSIENT_FAILURE, {IDLE, CONNECTING})
    impl.start()
    channel.subscribe(lambda state: None, try_to_connect=True)
    _expect(states, READY, {CONNECTING, TRANSIENT_FAILURE, IDLE})


def test_unsubscribe(impl):
    channel = impl.channel(options=EAGER)
    first, second = queue.Queue(), queue.Queue()
    put = first.put
    channel.subscribe(put)
    assert first.get(timeout=WAIT) is IDLE
    channel.unsubscribe(put)
    # What was never subscribed does no harm.
    channel.unsubscribe(print)
    channel.subscribe(second.put, try_to_connect=True)
    impl.start()
    echo_pb2_grpc.EchoStub(channel).Unary(EchoRequest(), timeout=WAIT, wait_for_ready=True)
    _expect(second, READY, {IDLE, CONNECTING, TRANSIENT_FAILURE})
    assert first.empty()


def test_callback_of_a_subscription_that_raises(impl, caplog):
    channel = impl.channel()
    states = queue.Queue()

    def bad(state):
        raise RuntimeError("subscriber gone wrong")

    channel.subscribe(bad)
    channel.subscribe(states.put)
    assert states.get(timeout=WAIT) is IDLE
    eventually(lambda: "subscriber gone wrong" in caplog.text)


def test_channel_ready_future(impl):
    impl.start()
    channel = impl.channel()
    future = grpc.channel_ready_future(channel)
    future.result(timeout=WAIT)
    assert future.done() is True
    # And once more on a channel that is ready.
    grpc.channel_ready_future(channel).result(timeout=WAIT)


def test_channel_ready_future_without_a_server(impl):
    channel = impl.channel(options=EAGER)
    future = grpc.channel_ready_future(channel)
    with pytest.raises(grpc.FutureTimeoutError):
        future.result(timeout=0.2)
    called = threading.Event()
    future.add_done_callback(lambda future: called.set())
    impl.start()
    future.result(timeout=WAIT)
    assert called.wait(WAIT)
    cancelled = grpc.channel_ready_future(impl.channel(impl.address("nobody")))
    assert cancelled.cancel() is True
    with pytest.raises(grpc.FutureCancelledError):
        cancelled.result(timeout=WAIT)


def test_close_ends_running_calls(impl):
    gate = impl.gate()
    started = threading.Semaphore(0)

    def unary(request, context):
        started.release()
        gate.wait(WAIT)
        return EchoReply()

    def stream(request, context):
        yield EchoReply(text="first")
        started.release()
        gate.wait(WAIT)

    peer = impl.serve(unary=unary, server_stream=stream)
    future = peer.stub.Unary.future(EchoRequest())
    call = peer.stub.ServerStream(EchoRequest())
    failures = queue.Queue()

    def blocking():
        try:
            peer.stub.Unary(EchoRequest())
        except grpc.RpcError as error:
            failures.put((error.code(), error.details()))

    waiter = threading.Thread(target=blocking)
    waiter.start()
    assert next(call).text == "first"
    for _ in range(3):
        assert started.acquire(timeout=WAIT)
    peer.channel.close()
    closed = (grpc.StatusCode.CANCELLED, "Channel closed!")
    assert code_and_details(lambda: future.result(timeout=WAIT)) == closed
    assert future.cancelled() is False
    # grpcio words it so where the stream has begun.
    removed = (grpc.StatusCode.CANCELLED, "Stream removed (Channel closed!)")
    assert code_and_details(lambda: next(call)) in (closed, removed)
    assert failures.get(timeout=WAIT) == closed
    waiter.join(WAIT)


def test_close_is_seen_by_the_server(impl):
    started, over = threading.Event(), threading.Event()

    def handler(request, context):
        context.add_callback(over.set)
        started.set()
        over.wait(WAIT)
        return EchoReply()

    peer = impl.serve(unary=handler)
    future = peer.stub.Unary.future(EchoRequest())
    assert started.wait(WAIT)
    peer.channel.close()
    assert over.wait(WAIT)
    assert future.code() is grpc.StatusCode.CANCELLED


@pytest.mark.inline_ok
def test_calls_on_a_closed_channel(impl):
    peer = impl.serve()
    assert peer.stub.Unary(EchoRequest(text="x")).text == "x"
    peer.channel.close()
    stub = peer.stub
    for call in (
        lambda: stub.Unary(EchoRequest()),
        lambda: stub.Unary.with_call(EchoRequest()),
        lambda: stub.Unary.future(EchoRequest()),
        lambda: stub.ServerStream(EchoRequest()),
        lambda: stub.ClientStream(iter([EchoRequest()])),
        lambda: stub.ClientStream.future(iter([EchoRequest()])),
        lambda: stub.Bidi(iter([EchoRequest()])),
    ):
        with pytest.raises(ValueError, match=CLOSED):
            call()
    with pytest.raises(ValueError, match=r"^Cannot invoke RPC on closed channel!$"):
        stub.Unary(EchoRequest())
    # A multicallable of a closed channel can be made; only calling it fails.
    call = peer.channel.unary_unary("/zhtest.Echo/Unary")
    with pytest.raises(ValueError, match=CLOSED):
        call(b"")


@pytest.mark.inline_ok
def test_close_twice(impl):
    peer = impl.serve()
    peer.stub.Unary(EchoRequest())
    peer.channel.close()
    peer.channel.close()


@pytest.mark.inline_ok
def test_close_before_use(impl):
    impl.channel().close()


@pytest.mark.inline_ok
def test_results_outlive_the_channel(impl):
    peer = impl.serve()
    payload = b"x" * 100_000
    reply, call = peer.stub.Unary.with_call(EchoRequest(payload=payload))
    future = peer.stub.Unary.future(EchoRequest(payload=payload))
    future.result(timeout=WAIT)
    peer.channel.close()
    peer.server.stop(None)
    gc.collect()
    assert reply.payload == payload
    assert future.result(timeout=WAIT).payload == payload
    assert call.code() is grpc.StatusCode.OK


@pytest.mark.inline_ok
def test_closing_one_channel_leaves_others(impl):
    peer = impl.serve()
    other = echo_pb2_grpc.EchoStub(impl.channel())
    assert other.Unary(EchoRequest(text="x")).text == "x"
    assert peer.stub.Unary(EchoRequest(text="x")).text == "x"
    peer.channel.close()
    assert other.Unary(EchoRequest(text="y")).text == "y"


@pytest.mark.inline_ok
def test_context_manager(impl):
    impl.start()
    with impl.module.insecure_channel(impl.address()) as channel:
        assert isinstance(channel, grpc.Channel)
        stub = echo_pb2_grpc.EchoStub(channel)
        assert stub.Unary(EchoRequest(text="x")).text == "x"
    with pytest.raises(ValueError, match=CLOSED):
        stub.Unary(EchoRequest())
    with (
        pytest.raises(RuntimeError, match="of the body"),
        impl.module.insecure_channel(impl.address()),
    ):
        raise RuntimeError("of the body")


@pytest.mark.inline_ok
def test_stub_keeps_the_channel_alive(impl):
    impl.start()

    def make():
        return echo_pb2_grpc.EchoStub(impl.module.insecure_channel(impl.address()))

    stub = make()
    gc.collect()
    assert stub.Unary(EchoRequest(text="x")).text == "x"


@pytest.mark.inline_ok
def test_many_channels_dropped_without_close(impl):
    impl.start()
    for number in range(200):
        channel = impl.module.insecure_channel(impl.address())
        stub = echo_pb2_grpc.EchoStub(channel)
        assert stub.Unary(EchoRequest(text=str(number)), timeout=WAIT).text == str(number)
        del channel, stub
    gc.collect()
    assert impl.channel().unary_unary("/zhtest.Echo/Unary")(b"") is not None


def test_close_while_another_thread_calls(impl):
    """Closing races with calls: each of them ends, with a result or an error that says so."""
    impl.start()
    for _ in range(10):
        channel = impl.module.insecure_channel(impl.address())
        stub = echo_pb2_grpc.EchoStub(channel)
        running = threading.Event()
        outcomes = []

        def work(stub=stub, running=running, outcomes=outcomes):
            try:
                while True:
                    stub.Unary(EchoRequest(), timeout=WAIT)
                    running.set()
            except grpc.RpcError as error:
                outcomes.append(error.code())
            except ValueError as error:
                outcomes.append(str(error))

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert running.wait(WAIT)
        channel.close()
        for thread in threads:
            thread.join(WAIT)
        assert len(outcomes) == 3
        assert set(outcomes) <= {
            grpc.StatusCode.CANCELLED,
            "Cannot invoke RPC on closed channel!",
            "Cannot invoke RPC: Channel closed!",
        }
