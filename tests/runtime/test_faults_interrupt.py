"""Ctrl-C at every moment of a wait: hundreds of signals, each at another point, none lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest
from apiharness import WAIT
from zhtest.types_pb2 import EchoReply

PREAMBLE = """
import os, random, signal, sys, threading, time
from concurrent import futures
import grpc, zerohop
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoReply, EchoRequest

address = sys.argv[1]
stub = echo_pb2_grpc.EchoStub(zerohop.insecure_channel(address))

def shoot(delay):
    end = time.perf_counter() + delay
    while time.perf_counter() < end:
        pass
    os.kill(os.getpid(), signal.SIGINT)

def interrupt(wait, times, longest):
    slowest = 0.0
    for number in range(times):
        began = time.monotonic()
        thread = threading.Thread(target=shoot, args=(longest * number / times,))
        try:
            thread.start()
            wait()
        except KeyboardInterrupt:
            pass
        else:
            sys.exit("a wait ended though nothing had happened")
        slowest = max(slowest, time.monotonic() - began)
        thread.join()
    print(slowest)
"""


def run(address: str, script: str) -> float:
    """Runs a script that ends with `interrupt`, and returns the time the slowest one took."""
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(script), address],
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return float(done.stdout)


@pytest.mark.parametrize(
    "wait",
    [
        "lambda: stub.Unary(EchoRequest(), timeout=30)",
        "lambda: stub.Unary.future(EchoRequest(), timeout=30).result()",
        "lambda: list(stub.ServerStream(EchoRequest(), timeout=30))",
        "lambda: stub.ClientStream(iter([EchoRequest()]), timeout=30)",
    ],
    ids=["unary", "future", "server stream", "client stream"],
)
def test_of_a_call(home, wait):
    def stream(request, context):
        over.wait(WAIT)
        yield EchoReply()

    over = home.gate()
    handlers = {
        "unary": lambda request, context: over.wait(WAIT) and EchoReply(),
        "client_stream": lambda requests, context: over.wait(WAIT) and EchoReply(),
        "server_stream": stream,
    }
    # The handlers go on after the client has gone: one thread for each.
    home.start(workers=250, **handlers)
    assert run(home.address(), f"interrupt({wait}, 200, 0.0006)") < 2


def test_of_the_search_for_a_server(home):
    """Making and dropping the channel within the try, too."""
    script = """
    def wait():
        stub = echo_pb2_grpc.EchoStub(zerohop.insecure_channel(address))
        stub.Unary(EchoRequest(), wait_for_ready=True, timeout=30)
    interrupt(wait, 200, 0.003)
    """
    assert run(home.address(), script) < 2


def test_while_channels_and_calls_are_dropped(home):
    home.start(workers=4)
    script = """
    def wait():
        end = time.monotonic() + 30
        while time.monotonic() < end:
            channel = zerohop.insecure_channel(address)
            call = echo_pb2_grpc.EchoStub(channel).Unary.future(EchoRequest())
            del call, channel
    interrupt(wait, 200, 0.003)
    """
    assert run(home.address(), script) < 2


def test_of_a_servers_end(home):
    script = """
    server = zerohop.server(futures.ThreadPoolExecutor(2))
    echo_pb2_grpc.add_EchoServicer_to_server(echo_pb2_grpc.EchoServicer(), server)
    server.add_insecure_port(address)
    server.start()
    interrupt(server.wait_for_termination, 200, 0.0006)
    """
    assert run(home.address(), script) < 2


def test_a_signal_handler_may_make_calls(home):
    """It runs in the middle of the wait of the main thread, which holds the pump."""
    over = home.gate()

    def unary(request, context):
        if request.code:
            over.wait(WAIT)
        return EchoReply(text=request.text)

    home.start(unary=unary)
    script = """
    def handler(number, frame):
        assert stub.Unary(EchoRequest(text="x"), timeout=20).text == "x"
        raise KeyboardInterrupt
    signal.signal(signal.SIGINT, handler)
    interrupt(lambda: stub.Unary(EchoRequest(code=1), timeout=30), 8, 0.0006)
    """
    assert run(home.address(), script) < 2


def test_a_signal_that_another_thread_takes(home):
    """Python's handler runs in the main thread, which nothing has interrupted."""
    over = home.gate()
    home.start(unary=lambda request, context: over.wait(WAIT) and EchoReply())
    script = """
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    threading.Thread(
        target=lambda: (signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT]),
                        time.sleep(60)), daemon=True).start()
    interrupt(lambda: stub.Unary(EchoRequest(), timeout=30), 3, 0.0006)
    """
    assert run(home.address(), script) < 2


def test_ctrl_c_of_a_whole_process_group(home):
    """As a terminal sends it: client and server end, both silently."""
    server = """
    server = zerohop.server(futures.ThreadPoolExecutor(2))
    class Servicer(echo_pb2_grpc.EchoServicer):
        def Unary(self, request, context):
            print("serving", flush=True)
            time.sleep(0.3)
            return EchoReply()
    echo_pb2_grpc.add_EchoServicer_to_server(Servicer(), server)
    server.add_insecure_port(address)
    server.start()
    try:
        print("ready", flush=True)
        server.wait_for_termination()
    except KeyboardInterrupt:
        server.stop(None)
    """
    client = """
    try:
        stub.Unary(EchoRequest(), wait_for_ready=True, timeout=30)
    except KeyboardInterrupt:
        sys.exit(7)
    """
    first = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(server), home.address()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    assert first.stdout.readline() == "ready\n"
    second = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(client), home.address()],
        stderr=subprocess.PIPE,
        text=True,
        process_group=first.pid,
    )
    assert first.stdout.readline() == "serving\n"
    os.killpg(first.pid, signal.SIGINT)
    for process, code in (first, 0), (second, 7):
        assert process.communicate(timeout=WAIT)[1] == ""
        assert process.returncode == code
