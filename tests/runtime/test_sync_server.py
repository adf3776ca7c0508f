"""Servers: starting, stopping with and without grace, waiting for the end, and dropping them."""

from __future__ import annotations

import gc
import threading
import weakref

import grpc
import pytest
from apiharness import WAIT, code_and_details, echo_servicer, eventually
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoReply, EchoRequest


def _stopped(impl):
    """The codes with which a call ends that a stopping server cancels. In grpcio it depends on
    whether the end of the connection or the status is seen first."""
    unavailable = grpc.StatusCode.UNAVAILABLE
    return (unavailable,) if impl.zerohop else (unavailable, grpc.StatusCode.CANCELLED)


class Blocked:
    """A unary behaviour that blocks on a gate and tells when its call is over."""

    def __init__(self, impl):
        self.gate = impl.gate()
        self.started = threading.Event()
        self.over = threading.Event()
        self.active = []

    def __call__(self, request, context):
        context.add_callback(self.over.set)
        self.started.set()
        self.gate.wait(WAIT)
        self.active.append(context.is_active())
        return EchoReply(text="served")


def _refused(impl):
    """Whether a new channel is refused."""
    with impl.module.insecure_channel(impl.address()) as channel:
        try:
            channel.unary_unary("/zhtest.Echo/Unary")(b"", timeout=WAIT)
        except grpc.RpcError as error:
            # While the server of grpcio is going, CANCELLED is possible too.
            return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


@pytest.mark.inline_ok
def test_start_twice(impl):
    server = impl.start()
    with pytest.raises(ValueError, match="started"):
        server.start()
    assert impl.channel().unary_unary("/zhtest.Echo/Unary")(b"") == b""


@pytest.mark.inline_ok
def test_not_started(impl):
    """A server that was never started accepts no calls and has nothing to stop."""
    server = impl.server()
    server.add_insecure_port(impl.address())
    event = server.stop(None)
    assert event.is_set()
    # It did not run, so it did not end either: the wait times out.
    assert server.wait_for_termination(0.05) is True


@pytest.mark.inline_ok
def test_port_that_cannot_be_bound(impl):
    scheme = impl.address().split(":")[0]
    with pytest.raises(RuntimeError):
        impl.server().add_insecure_port(f"{scheme}:/no/such/directory/x.sock")


def test_stop_ends_running_calls(impl):
    blocked = Blocked(impl)
    peer = impl.serve(unary=blocked)
    future = peer.stub.Unary.future(EchoRequest())
    assert blocked.started.wait(WAIT)
    event = peer.server.stop(None)
    assert event.wait(WAIT)
    code, details = code_and_details(lambda: future.result(timeout=WAIT))
    assert code in _stopped(impl)
    assert details
    # The handler is told.
    assert blocked.over.wait(WAIT)
    blocked.gate.set()
    eventually(lambda: blocked.active == [False])
    assert peer.server.wait_for_termination(WAIT) is False


def test_stop_ends_running_streams(impl):
    gate = impl.gate()
    over = threading.Event()

    def stream(request, context):
        context.add_callback(over.set)
        yield EchoReply(text="first")
        gate.wait(WAIT)

    peer = impl.serve(server_stream=stream)
    call = peer.stub.ServerStream(EchoRequest())
    assert next(call).text == "first"
    peer.server.stop(None)
    assert code_and_details(lambda: next(call))[0] in _stopped(impl)
    assert over.wait(WAIT)


@pytest.mark.inline_ok
def test_stop_refuses_new_calls(impl):
    peer = impl.serve()
    assert peer.stub.Unary(EchoRequest(text="x")).text == "x"
    peer.server.stop(None)
    for _ in range(3):
        code, _ = code_and_details(lambda: peer.stub.Unary(EchoRequest(), timeout=WAIT))
        assert code is grpc.StatusCode.UNAVAILABLE
    assert _refused(impl)


def test_grace_lets_running_calls_finish(impl):
    blocked = Blocked(impl)
    peer = impl.serve(unary=blocked)
    future = peer.stub.Unary.future(EchoRequest())
    assert blocked.started.wait(WAIT)
    event = peer.server.stop(WAIT)
    # stop() itself does not wait.
    assert not event.is_set()
    assert peer.server.wait_for_termination(0.05) is True
    code, _ = code_and_details(lambda: peer.stub.Unary(EchoRequest(), timeout=WAIT))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert _refused(impl)
    blocked.gate.set()
    assert future.result(timeout=WAIT).text == "served"
    assert event.wait(WAIT)
    assert blocked.active == [True]
    assert peer.server.wait_for_termination(WAIT) is False


def test_grace_lets_running_streams_finish(impl):
    gate = impl.gate()

    def stream(request, context):
        for index in range(5):
            yield EchoReply(index=index)
            gate.wait(WAIT)

    peer = impl.serve(server_stream=stream)
    call = peer.stub.ServerStream(EchoRequest())
    assert next(call).index == 0
    event = peer.server.stop(WAIT)
    gate.set()
    assert [reply.index for reply in call] == [1, 2, 3, 4]
    assert event.wait(WAIT)


def test_grace_runs_out(impl):
    blocked = Blocked(impl)
    peer = impl.serve(unary=blocked)
    future = peer.stub.Unary.future(EchoRequest())
    assert blocked.started.wait(WAIT)
    event = peer.server.stop(0.2)
    assert code_and_details(lambda: future.result(timeout=WAIT))[0] in _stopped(impl)
    assert event.wait(WAIT)
    assert blocked.over.wait(WAIT)


def test_grace_is_cut_short(impl):
    """A second stop with less grace counts."""
    blocked = Blocked(impl)
    peer = impl.serve(unary=blocked)
    future = peer.stub.Unary.future(EchoRequest())
    assert blocked.started.wait(WAIT)
    first = peer.server.stop(5 * WAIT)
    second = peer.server.stop(None)
    assert first.wait(WAIT)
    assert second.wait(WAIT)
    assert code_and_details(lambda: future.result(timeout=WAIT))[0] in _stopped(impl)


@pytest.mark.inline_ok
@pytest.mark.parametrize("grace", [None, 0, WAIT])
def test_stop_without_calls(impl, grace):
    peer = impl.serve()
    peer.stub.Unary(EchoRequest())
    event = peer.server.stop(grace)
    assert isinstance(event, threading.Event)
    assert event.wait(WAIT)
    # Again, and again.
    assert peer.server.stop(None).is_set()
    assert peer.server.stop(5).is_set()


@pytest.mark.inline_ok
def test_stopped_server_does_not_start_again(impl):
    server = impl.start()
    server.stop(None)
    with pytest.raises(ValueError, match="started"):
        server.start()


def test_wait_for_termination(impl):
    server = impl.start()
    assert server.wait_for_termination(timeout=0.05) is True
    assert server.wait_for_termination(0) is True
    seen = []
    waiters = [
        threading.Thread(target=lambda: seen.append(server.wait_for_termination()))
        for _ in range(3)
    ]
    for waiter in waiters:
        waiter.start()
    server.stop(None)
    for waiter in waiters:
        waiter.join(WAIT)
    assert seen == [False] * 3
    assert server.wait_for_termination() is False
    assert server.wait_for_termination(timeout=0.05) is False


def test_dropped_server_stops(impl):
    server = impl.start()
    channel = impl.channel()
    call = channel.unary_unary("/zhtest.Echo/Unary")
    assert call(b"", timeout=WAIT) == b""
    reference = weakref.ref(server)
    impl.forget(server)
    del server
    gc.collect()
    assert reference() is None
    # In grpcio within a second.
    eventually(lambda: _refused(impl))


def test_thread_pool_is_the_users(impl):
    """Stopping a server leaves the pool that it was given."""
    pool = impl.pool(2)
    for _ in range(2):
        server = impl.module.server(pool)
        echo_pb2_grpc.add_EchoServicer_to_server(echo_servicer(), server)
        server.add_insecure_port(impl.address())
        server.start()
        with impl.module.insecure_channel(impl.address()) as channel:
            stub = echo_pb2_grpc.EchoStub(channel)
            reply = stub.Unary(EchoRequest(text="x"), timeout=WAIT, wait_for_ready=True)
            assert reply.text == "x"
        server.stop(None)
        assert pool.submit(lambda: "alive").result(timeout=WAIT) == "alive"


@pytest.mark.inline_ok
def test_generic_handlers_added_after_the_start(impl):
    server = impl.start()
    channel = impl.channel()
    assert channel.unary_unary("/zhtest.Echo/Unary")(b"") == b""
    code, _ = code_and_details(lambda: channel.unary_unary("/late/uu")(b""))
    assert code is grpc.StatusCode.UNIMPLEMENTED
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "late",
                {"uu": grpc.unary_unary_rpc_method_handler(lambda request, context: b"late")},
            ),
        )
    )
    assert channel.unary_unary("/late/uu")(b"") == b"late"


def test_stop_within_a_handler(impl):
    """A service whose method stops its own server."""
    events = []
    peers = []

    def handler(request, context):
        events.append(peers[0].server.stop(WAIT))
        return EchoReply(text="going")

    peers.append(impl.serve(unary=handler))
    assert peers[0].stub.Unary(EchoRequest(), timeout=WAIT).text == "going"
    assert events[0].wait(WAIT)
    assert peers[0].server.wait_for_termination(WAIT) is False


def test_many_servers_one_after_another(impl):
    for number in range(20):
        name = f"s{number % 3}"
        server = impl.start(name)
        with impl.module.insecure_channel(impl.address(name)) as channel:
            stub = echo_pb2_grpc.EchoStub(channel)
            reply = stub.Unary(EchoRequest(text="x"), timeout=WAIT, wait_for_ready=True)
            assert reply.text == "x"
        server.stop(None)


def test_stop_with_calls_waiting_for_a_worker(impl):
    blocked = Blocked(impl)
    peer = impl.serve(unary=blocked, workers=1)
    started = [peer.stub.Unary.future(EchoRequest()) for _ in range(20)]
    assert blocked.started.wait(WAIT)
    event = peer.server.stop(0)
    for future in started:
        assert code_and_details(lambda f=future: f.result(timeout=WAIT))[0] in _stopped(impl)
    blocked.gate.set()
    assert event.wait(WAIT)


@pytest.mark.inline_ok
def test_methods_registered_too_late(impl, caplog):
    """Generic handlers may come after the start, registered methods may not."""
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: b"late")
    server = impl.start()
    server.add_registered_method_handlers("late", {"Registered": handler})
    assert "Cannot register method handlers" in caplog.text
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("late", {"Generic": handler}),)
    )
    channel = impl.channel()
    code, _ = code_and_details(lambda: channel.unary_unary("/late/Registered")(b""))
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert channel.unary_unary("/late/Generic")(b"") == b"late"
