"""grpc.max_concurrent_streams: a server serves so many calls of one client at once; others wait."""

import threading

import apiharness
import grpc
import pytest
from apiharness import WAIT
from zhtest.types_pb2 import EchoReply, EchoRequest


@pytest.fixture
def ours(tmp_path):
    """Not grpcio: its client exceeds the limit until it has heard of it, and some calls fail."""
    harness = apiharness.Impl("zerohop", tmp_path)
    yield harness
    harness.close()


@pytest.mark.parametrize("limit", [1, 3])
def test_calls_beyond_the_limit_wait(ours, limit):
    impl = ours
    lock = threading.Lock()
    running = most = 0
    full = threading.Event()
    gate = impl.gate()

    def handler(request, context):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == limit:
                full.set()
        gate.wait(WAIT)
        with lock:
            running -= 1
        return EchoReply(text=request.text)

    peer = impl.serve(unary=handler, options=[("grpc.max_concurrent_streams", limit)])
    calls = [peer.stub.Unary.future(EchoRequest(text=str(n)), timeout=WAIT) for n in range(8)]
    assert full.wait(WAIT)
    assert not any(call.done() for call in calls)
    gate.set()
    assert [call.result().text for call in calls] == [str(n) for n in range(8)]
    assert most == limit


def test_a_call_that_waits_keeps_its_deadline(impl):
    gate = impl.gate()

    def handler(request, context):
        gate.wait(WAIT)
        return EchoReply()

    peer = impl.serve(unary=handler, options=[("grpc.max_concurrent_streams", 1)])
    first = peer.stub.Unary.future(EchoRequest(), timeout=WAIT)
    second = peer.stub.Unary.future(EchoRequest(), timeout=0.2)
    with pytest.raises(grpc.RpcError) as raised:
        second.result()
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    gate.set()
    first.result()
