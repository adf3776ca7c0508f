"""The interpreter's exit in the middle of calls, and channels that nobody closes."""

from __future__ import annotations

import gc
import textwrap
import time

import pytest
import zerohop
from apiharness import WAIT, eventually
from faultharness import balance, holdings
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoRequest

# What is under way when the process runs out of commands and ends.
SCRIPTS = {
    "a thread in a call": """
        threading.Thread(target=lambda: stub.Unary(EchoRequest(count=1500)), daemon=True).start()
        time.sleep(0.05)
    """,
    "large calls": """
        calls = [stub.Unary.future(EchoRequest(payload=bytes(1 << 20), count=i)) for i in range(30)]
    """,
    "futures with callbacks": """
        calls = [stub.Unary.future(EchoRequest(count=1500)) for _ in range(50)]
        for call in calls:
            call.add_done_callback(lambda call: call.code())
    """,
    "callbacks that fire meanwhile": """
        def again(call):
            next_call = stub.Unary.future(EchoRequest(payload=bytes(3000)))
            next_call.add_done_callback(again)
        for _ in range(8):
            again(None)
        time.sleep(0.1)
    """,
    "a stream half read": """
        stream = stub.ServerStream(EchoRequest(count=1 << 30, payload=bytes(10_000)))
        next(stream)
    """,
    "a stream being read": """
        stream = stub.ServerStream(EchoRequest(count=1 << 30, payload=bytes(10_000)))
        threading.Thread(target=lambda: sum(1 for _ in stream), daemon=True).start()
        time.sleep(0.05)
    """,
    "a stream being written": """
        def endless():
            while True:
                yield EchoRequest(payload=bytes(10_000))
        stream = stub.Bidi(endless())
        next(stream)
    """,
    "a server in its handlers": """
        mine = serve(address + ".mine")
        other = stub_of(address + ".mine")
        calls = [other.Unary.future(EchoRequest(count=300)) for _ in range(8)]
        stream = other.ServerStream(EchoRequest(count=1 << 30, payload=bytes(10_000)))
        next(stream)
    """,
    "an inline server": """
        mine = zerohop.server()
        echo_pb2_grpc.add_EchoServicer_to_server(Servicer(), mine)
        mine.add_insecure_port(address + ".mine")
        mine.start()
        calls = [stub_of(address + ".mine").Unary.future(EchoRequest(count=200)) for _ in "123"]
    """,
    "waiting for a server": """
        nobody = stub_of(address + ".nobody")
        call = nobody.Unary.future(EchoRequest(), wait_for_ready=True)
        stream = nobody.ServerStream(EchoRequest(), wait_for_ready=True)
    """,
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_in_the_middle_of_calls(home, launch, script):
    server = launch("server = serve()")
    client = launch("stub = stub_of()\n" + textwrap.dedent(script))
    began = time.monotonic()
    assert client.end() == (0, "")
    assert time.monotonic() - began < 2
    eventually(lambda: server.ask("balance()") == 0)
    eventually(lambda: server.ask("holdings()['links']") == 0)
    native = "[server._core.native.open, server._core.native.running]"
    eventually(lambda: server.ask(native) in ([0, 0], [0, 1]))  # one sleeps on


def test_thousands_of_channels_are_dropped(home, launch):
    """Each with a call made and another one open; nobody closes them."""
    server = launch("server = serve(workers=16)")

    def one(number):
        channel = zerohop.insecure_channel(
            home.address(), [("grpc.primary_user_agent", str(number))]
        )
        stub = echo_pb2_grpc.EchoStub(channel)
        if number % 10 == 0:
            stub.Unary(EchoRequest(payload=bytes(2000)), timeout=WAIT)
            stub.Unary.future(EchoRequest(payload=bytes(20_000)))
            next(stub.ServerStream(EchoRequest(count=1 << 30)))
        elif number % 10 == 1:
            channel.subscribe(lambda state: None, try_to_connect=True)
            stub.Unary(EchoRequest(), timeout=WAIT)

    for number in range(100):
        one(number)
    gc.collect()
    eventually(lambda: holdings()["links"] == 0)
    before, there = holdings(), server.ask("holdings()")
    for number in range(5000):
        one(number)
    gc.collect()
    for what in "fds", "maps", "links", "threads":
        slack = 4 if what == "threads" else 0
        eventually(lambda what=what, slack=slack: holdings()[what] <= before[what] + slack)
    assert holdings()["rss"] < before["rss"] + 30_000
    eventually(lambda: balance() == 0)
    eventually(lambda: server.ask("holdings()['links']") == 0)
    now = server.ask("holdings()")
    assert now["fds"] <= there["fds"] + 2
    assert now["threads"] <= there["threads"] + 16
    assert now["rss"] < there["rss"] + 30_000
    eventually(lambda: server.ask("balance()") == 0)
    eventually(lambda: server.ask("server._core.native.running") == 0)


def test_channels_to_one_place_share_a_link(home, launch):
    server = launch("server = serve()")
    stubs = [echo_pb2_grpc.EchoStub(zerohop.insecure_channel(home.address())) for _ in range(1000)]
    for stub in stubs:
        stub.Unary(EchoRequest(), timeout=WAIT)
    assert server.ask("holdings()['links']") == 2  # a side of each process
    del stubs, stub
    gc.collect()
    eventually(lambda: server.ask("holdings()['links']") == 0)
