"""Many calls at once, limits on how many, and the context in which handlers run."""

from __future__ import annotations

import contextvars
import random
import threading
from concurrent import futures

import grpc
import pytest
from apiharness import WAIT, code_and_details, echo_servicer, eventually
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoReply, EchoRequest

EXCEEDED = (grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!")

variable = contextvars.ContextVar("variable", default="default")


@pytest.mark.inline_ok
def test_fifty_threads(impl):
    """Fifty threads on one channel, each with its own payloads."""
    peer = impl.serve()

    def work(worker):
        rng = random.Random(worker)
        for number in range(20):
            payload = rng.randbytes(rng.choice([0, 10, 500, 2000, 70_000]))
            text = f"{worker}/{number}"
            reply = peer.stub.Unary(EchoRequest(text=text, payload=payload), timeout=60)
            assert reply == EchoReply(text=text, payload=payload)
        return worker

    with futures.ThreadPoolExecutor(50) as pool:
        assert sorted(pool.map(work, range(50))) == list(range(50))


@pytest.mark.inline_ok
def test_a_channel_for_each_thread(impl):
    impl.start()
    channels = [impl.channel() for _ in range(20)]

    def work(channel):
        call = channel.unary_unary("/zhtest.Echo/Unary")
        body = EchoRequest(text="x").SerializeToString()
        return [call(body, timeout=60) for _ in range(20)]

    with futures.ThreadPoolExecutor(20) as pool:
        results = list(pool.map(work, channels))
    assert results == [[EchoReply(text="x").SerializeToString()] * 20] * 20


def test_all_kinds_at_once(impl):
    peer = impl.serve(workers=20)

    def work(number):
        kind = number % 5
        text = str(number)
        if kind == 0:
            return peer.stub.Unary(EchoRequest(text=text), timeout=60).text
        if kind == 1:
            return peer.stub.Unary.future(EchoRequest(text=text)).result(timeout=60).text
        if kind == 2:
            replies = list(peer.stub.ServerStream(EchoRequest(text=text, count=20), timeout=60))
            assert [reply.index for reply in replies] == list(range(20))
            return replies[0].text
        if kind == 3:
            requests = (EchoRequest(text=text) for _ in range(20))
            return peer.stub.ClientStream(requests, timeout=60).text.split(",")[19]
        requests = (EchoRequest(text=text) for _ in range(20))
        return {reply.text for reply in peer.stub.Bidi(requests, timeout=60)}.pop()

    with futures.ThreadPoolExecutor(12) as pool:
        assert list(pool.map(work, range(120))) == [str(number) for number in range(120)]


def test_handlers_run_side_by_side(impl):
    """As many handlers as the pool has threads meet at a barrier."""
    barrier = threading.Barrier(8)

    def handler(request, context):
        barrier.wait(WAIT)
        return EchoReply(text="met")

    peer = impl.serve(unary=handler, workers=8)
    started = [peer.stub.Unary.future(EchoRequest()) for _ in range(8)]
    assert [future.result(timeout=WAIT).text for future in started] == ["met"] * 8


def test_pool_of_one_thread(impl):
    """Calls wait for their turn, in the order in which they came."""
    gate = impl.gate()
    order = []

    def handler(request, context):
        gate.wait(WAIT)
        order.append(request.text)
        return EchoReply()

    peer = impl.serve(unary=handler, workers=1)
    started = []
    for number in range(20):
        started.append(peer.stub.Unary.future(EchoRequest(text=str(number))))
    gate.set()
    for future in started:
        future.result(timeout=WAIT)
    assert sorted(order, key=int) == [str(number) for number in range(20)]


def test_pool_that_is_shared_with_other_work(impl):
    """The user's pool: its threads serve the user's own tasks while the server is idle, all of
    them, and the last one too."""
    pool = impl.pool(2)
    server = impl.module.server(pool)

    class Servicer(echo_pb2_grpc.EchoServicer):
        def Unary(self, request, context):
            return EchoReply(text=threading.current_thread().name)

    echo_pb2_grpc.add_EchoServicer_to_server(Servicer(), server)
    server.add_insecure_port(impl.address())
    server.start()
    stub = echo_pb2_grpc.EchoStub(impl.channel())
    name = stub.Unary(EchoRequest(), timeout=WAIT).text
    assert "ThreadPoolExecutor" in name
    barrier = threading.Barrier(2)
    for _ in range(5):
        tasks = [pool.submit(barrier.wait, WAIT) for _ in range(2)]
        assert sorted(task.result(timeout=WAIT) for task in tasks) == [0, 1]
        assert stub.Unary(EchoRequest(), timeout=WAIT).text.startswith(name.rsplit("_", 1)[0])
    assert server.stop(0).wait(WAIT)


def test_two_servers_share_a_pool(impl):
    pool = impl.pool(2)
    servers = []
    for name in "ab":
        server = impl.module.server(pool)
        echo_pb2_grpc.add_EchoServicer_to_server(echo_servicer(), server)
        server.add_insecure_port(impl.address(name))
        server.start()
        servers.append(server)
    stubs = [echo_pb2_grpc.EchoStub(impl.channel(impl.address(name))) for name in "ab"]
    for number in range(20):
        for stub in stubs:
            assert stub.Unary(EchoRequest(text=str(number)), timeout=WAIT).text == str(number)
    for server in servers:
        assert server.stop(0).wait(WAIT)


def test_limit_of_concurrent_calls(impl):
    gate = impl.gate()
    started = threading.Semaphore(0)

    def handler(request, context):
        started.release()
        gate.wait(WAIT)
        return EchoReply(text="served")

    peer = impl.serve(unary=handler, maximum_concurrent_rpcs=2)
    running = [peer.stub.Unary.future(EchoRequest()) for _ in range(2)]
    for _ in running:
        assert started.acquire(timeout=WAIT)
    for _ in range(3):
        assert code_and_details(lambda: peer.stub.Unary(EchoRequest(), timeout=WAIT)) == EXCEEDED
    call = peer.stub.ServerStream(EchoRequest(), timeout=WAIT)
    assert code_and_details(lambda: next(call)) == EXCEEDED
    gate.set()
    assert [future.result(timeout=WAIT).text for future in running] == ["served"] * 2

    def served():
        # The server counts a call until its handler has returned, a little after the reply.
        try:
            return peer.stub.Unary(EchoRequest(), timeout=WAIT).text == "served"
        except grpc.RpcError as error:
            assert (error.code(), error.details()) == EXCEEDED
            return False

    eventually(served)


def test_limit_counts_streams(impl):
    gate = impl.gate()

    def handler(request, context):
        yield EchoReply()
        gate.wait(WAIT)

    peer = impl.serve(server_stream=handler, maximum_concurrent_rpcs=1)
    call = peer.stub.ServerStream(EchoRequest())
    next(call)
    assert code_and_details(lambda: peer.stub.Unary(EchoRequest(), timeout=WAIT)) == EXCEEDED
    gate.set()
    assert list(call) == []


@pytest.mark.inline_ok
def test_limit_does_not_hide_unknown_methods(impl):
    peer = impl.serve(maximum_concurrent_rpcs=1)
    for _ in range(5):
        assert code_and_details(lambda: peer.channel.unary_unary("/zhtest.Echo/No")(b"")) == (
            grpc.StatusCode.UNIMPLEMENTED,
            "Method not found!",
        )
    assert peer.stub.Unary(EchoRequest(text="x")).text == "x"


@pytest.mark.inline_ok
def test_fresh_context_for_each_call(impl):
    """What one call sets, the next does not see, though it runs in the same thread."""
    seen = []

    def handler(request, context):
        seen.append(variable.get())
        variable.set(request.text)
        seen.append(variable.get())
        return EchoReply()

    peer = impl.serve(unary=handler, workers=1)
    token = variable.set("of the test")
    try:
        for text in "abc":
            peer.stub.Unary(EchoRequest(text=text))
    finally:
        variable.reset(token)
    assert seen == ["default", "a", "default", "b", "default", "c"]


@pytest.mark.inline_ok
def test_handler_does_not_touch_the_callers_context(impl):
    peer = impl.serve(unary=lambda request, context: (variable.set("handler's"), EchoReply())[1])
    token = variable.set("mine")
    try:
        peer.stub.Unary(EchoRequest())
        assert variable.get() == "mine"
    finally:
        variable.reset(token)


def test_context_of_a_generator_handler(impl):
    """All steps of one generator run in one context."""
    seen = []

    def handler(request, context):
        seen.append(variable.get())
        variable.set(request.text)
        for _ in range(5):
            yield EchoReply()
            seen.append(variable.get())

    peer = impl.serve(server_stream=handler)
    for text in "ab":
        list(peer.stub.ServerStream(EchoRequest(text=text)))
    assert seen == ["default", *"a" * 5, "default", *"b" * 5]


@pytest.mark.inline_ok
def test_interceptor_and_handler_share_a_context(impl):
    """What tracing does: the interceptor sets, the handler reads."""
    seen = []

    class Interceptor(grpc.ServerInterceptor):
        def intercept_service(self, continuation, handler_call_details):
            variable.set(dict(handler_call_details.invocation_metadata)["k"])
            return continuation(handler_call_details)

    def handler(request, context):
        seen.append(variable.get())
        return EchoReply()

    peer = impl.serve(unary=handler, interceptors=[Interceptor()])
    for text in "ab":
        peer.stub.Unary(EchoRequest(), metadata=[("k", text)])
    assert seen == ["a", "b"]


def test_futures_from_many_threads(impl):
    """Threads start futures, others wait for them."""
    peer = impl.serve()
    results = []
    lock = threading.Lock()

    def start(worker):
        for number in range(40):
            future = peer.stub.Unary.future(EchoRequest(text=f"{worker}/{number}"))
            future.add_done_callback(note)

    def note(future):
        with lock:
            results.append(future.result().text)

    threads = [threading.Thread(target=start, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    eventually(lambda: len(results) == 320)
    assert len(set(results)) == 320


def test_more_calls_in_flight_than_any_table_holds(impl):
    """The rest waits, nothing is refused."""
    gate = impl.gate()
    # A server of grpcio begins to refuse calls when a thousand wait for it.
    count = 2000 if impl.zerohop else 700

    def handler(request, context):
        gate.wait(WAIT)
        return EchoReply(text=request.text)

    peer = impl.serve(unary=handler, workers=4)
    started = [peer.stub.Unary.future(EchoRequest(text=str(n))) for n in range(count)]
    gate.set()
    assert [future.result(timeout=60).text for future in started] == [str(n) for n in range(count)]
