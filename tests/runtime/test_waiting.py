"""Who polls: every thread that waits is woken, whoever listened for it and has stopped to."""

from __future__ import annotations

import queue
import threading
import time

import pytest
from apiharness import WAIT, eventually
from faultharness import milliseconds
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoRequest


@pytest.fixture
def stub(home, launch):
    launch("server = serve(workers=32)")
    return echo_pb2_grpc.EchoStub(home.channel())


@pytest.mark.parametrize("ending", ["result", "cancel", "drop", "deadline"])
def test_the_last_call_that_needed_a_background_thread_ends(stub, ending):
    """A caller leaves the listening to the background thread, whose own reason to listen goes."""
    stub.Unary(EchoRequest(), timeout=WAIT)
    for _ in range(5):
        timeout = 0.03 if ending == "deadline" else WAIT
        future = stub.Unary.future(EchoRequest(count=60), timeout=timeout)
        time.sleep(0.01)  # the background thread sleeps now
        took = []
        thread = threading.Thread(
            target=lambda took=took: took.append(
                milliseconds(lambda: stub.Unary(EchoRequest(count=120), timeout=WAIT))
            )
        )
        thread.start()
        time.sleep(0.02)
        if ending == "result":
            future.result(timeout=WAIT)
        elif ending == "cancel":
            future.cancel()
        elif ending == "drop":
            del future
        thread.join(WAIT)
        assert took
        assert took[0] < 1000


def test_callers_and_futures_in_any_order(stub):
    """Short and long ones, waited for and not, from many threads: none is forgotten."""
    slow = []

    def run(seed):
        for number in range(60):
            call = EchoRequest(count=(seed * 7 + number * 13) % 5)
            if (seed + number) % 3 == 0:
                future = stub.Unary.future(call, timeout=WAIT)
                if number % 2:
                    future.cancel()
            took = milliseconds(lambda call=call: stub.Unary(call, timeout=WAIT))
            if took > 1000:
                slow.append(took)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert slow == []
    eventually(lambda: not any(thread.is_alive() for thread in threads))


INLINE = """
class Slow(Servicer):
    def Unary(self, request, context):
        time.sleep(request.count / 1000)  # in the thread that polls
        return EchoReply(text=request.text)

server = zerohop.server()
echo_pb2_grpc.add_EchoServicer_to_server(Slow(), server)
server.add_insecure_port(address)
server.start()
"""


def test_a_handler_that_blocks_beside_streams_that_wait(home, launch):
    """Without a pool: somebody listens for the streams, whose handlers wait for credit and for
    messages, while the thread that polled is in a handler; short calls in between or not."""
    launch(INLINE)
    stub = echo_pb2_grpc.EchoStub(home.channel())
    messages = queue.SimpleQueue()
    unread = [stub.ServerStream(EchoRequest(count=1 << 30, payload=bytes(900))) for _ in range(3)]
    echoes = stub.Bidi(iter(messages.get, None))
    for number in range(6):
        for _ in range(200 * (number % 2)):
            stub.Unary(EchoRequest(), timeout=WAIT)
        slow = stub.Unary.future(EchoRequest(count=1000), timeout=WAIT)
        time.sleep(0.002)
        for _ in range(5):
            messages.put(EchoRequest(text=str(number)))
            assert next(echoes).text == str(number)
        indexes = [next(unread[0]).index for _ in range(600)]
        assert indexes == list(range(number * 600, (number + 1) * 600))
        assert not slow.done()
        assert stub.Unary(EchoRequest(text="x"), timeout=WAIT).text == "x"
        slow.result(timeout=WAIT)
    messages.put(None)
    for stream in unread:
        stream.cancel()


def test_what_waits_behind_a_call_that_expires(home, launch):
    """Memory is short, the first one that waits for it is too large to get it: those behind it go
    when it has expired."""
    launch("server = serve()")
    client = launch(
        "stub = stub_of()\n"
        "def start(size, **options):\n"
        "    calls.append(stub.Unary.future(EchoRequest(payload=bytes(size)), **options))\n"
        "calls = []",
        ZEROHOP_ARENA_LIMIT=str(8 << 20),
    )
    client.ask("len(stub.Unary(EchoRequest(payload=bytes(2000)), timeout=30).payload)")
    client.ask(
        "[start(1_500_000, timeout=30), start(6 << 20, timeout=0.05), start(1000, timeout=30)]"
    )
    assert client.ask("[call.exception(timeout=30) is None for call in calls][::2]") == [True, True]


CALLS_ITSELF = """
import sys

sys.setswitchinterval(0.5)  # the handler's two posts are seen in one round
gate = threading.Event()

class Twice(Servicer):
    def Unary(self, request, context):
        if request.text == "gate":
            gate.wait(30)
        elif request.text == "twice":
            futures.append(other.Unary.future(EchoRequest(text="second"), timeout=10))
        elif request.text == "second":
            served.set()
        return EchoReply(text=request.text)

futures = []
served = threading.Event()
server = zerohop.server()
echo_pb2_grpc.add_EchoServicer_to_server(Twice(), server)
server.add_insecure_port(address)
server.start()
stub = echo_pb2_grpc.EchoStub(zerohop.insecure_channel(address))
other = echo_pb2_grpc.EchoStub(zerohop.insecure_channel(address))

def burst(rounds):
    for number in range(rounds):
        if number % 10 == 0:  # two threads in handlers, a third one listens; then one of them parks
            gate.clear()
            blocked = [stub.Unary.future(EchoRequest(text="gate"), timeout=30) for _ in range(2)]
            time.sleep(0.01)
            gate.set()
            for call in blocked:
                call.result()
        assert stub.Unary(EchoRequest(text="twice"), timeout=10).text == "twice"
        assert served.wait(5), number  # nothing in this thread polls meanwhile
        served.clear()
        futures.pop().result()
    return rounds
"""


def test_a_call_that_arrives_together_with_what_the_holder_waits_for(launch):
    """The caller who polls finds its own answer and a call to be served in one round: somebody
    serves that call, though the caller leaves at once."""
    assert launch(CALLS_ITSELF).ask("burst(300)") == 300
