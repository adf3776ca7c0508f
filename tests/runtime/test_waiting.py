"""Who polls: every thread that waits is woken, whoever listened for it and has stopped to."""

from __future__ import annotations

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
