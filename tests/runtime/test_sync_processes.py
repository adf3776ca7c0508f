"""Two processes: calls between them, Ctrl-C, the interpreter's exit, and a peer that dies."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading

import grpc
import pytest
from apiharness import WAIT, code_and_details
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoReply, EchoRequest

PREAMBLE = """
import sys, threading
from concurrent import futures
import grpc
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoReply, EchoRequest
module = __import__(sys.argv[1])
address = sys.argv[2]

def say(text):
    print(text, flush=True)

def echo():
    channel = module.insecure_channel(address)
    return echo_pb2_grpc.EchoStub(channel)
"""

# What the C core of grpcio says of its connections.
CORE_LOG = re.compile(r"^(WARNING: All log messages|[IWE]\d{4} ).*$", re.MULTILINE)


class Child:
    """A Python process that runs a script with one implementation."""

    def __init__(self, impl, script, address=None):
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                PREAMBLE + textwrap.dedent(script),
                "zerohop" if impl.zerohop else "grpc",
                address or impl.address(),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def expect(self, line):
        """The next line that it prints."""
        said = self.process.stdout.readline().rstrip("\n")
        if said != line:
            self.process.kill()
            raise AssertionError(f"{said!r} in place of {line!r}: {self.process.stderr.read()}")

    def finish(self):
        """Waits for its end: exit code, the rest of its output, and what is wrong in stderr."""
        try:
            out, err = self.process.communicate(timeout=WAIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"the process hangs: {out!r} {err!r}") from None
        return self.process.returncode, out, CORE_LOG.sub("", err).strip()


@pytest.fixture
def start(impl):
    children = []

    def run(script, address=None):
        child = Child(impl, script, address)
        children.append(child)
        return child

    yield run
    for child in children:
        child.process.kill()
        child.process.wait()
        child.process.stdout.close()
        child.process.stderr.close()


SERVER = """
class Servicer(echo_pb2_grpc.EchoServicer):
    def Unary(self, request, context):
        if request.code:
            say("in the handler")
            threading.Event().wait(60)
        return EchoReply(text=request.text, payload=request.payload)

    def ServerStream(self, request, context):
        for index in range(request.count):
            yield EchoReply(index=index, payload=request.payload)
        if request.code:
            threading.Event().wait(60)

    def ClientStream(self, requests, context):
        size = sum(len(request.payload) for request in requests)
        return EchoReply(index=size)

    def Bidi(self, requests, context):
        for request in requests:
            yield EchoReply(text=request.text, payload=request.payload)

options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
server = module.server(futures.ThreadPoolExecutor(4), options=options)
echo_pb2_grpc.add_EchoServicer_to_server(Servicer(), server)
server.add_insecure_port(address)
server.start()
"""
SERVE = SERVER + 'say("ready")\nserver.wait_for_termination()\n'
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def test_calls_between_processes(impl, start):
    child = start(SERVE)
    child.expect("ready")
    stub = echo_pb2_grpc.EchoStub(impl.channel(options=UNLIMITED))
    for size in (0, 1, 1000, 1023, 1024, 1025, 4095, 4096, 4097, 65_536, 1 << 20, 5 << 20):
        payload = os.urandom(size)
        assert stub.Unary(EchoRequest(payload=payload), timeout=WAIT).payload == payload
        replies = list(stub.ServerStream(EchoRequest(payload=payload, count=3), timeout=WAIT))
        assert [reply.payload for reply in replies] == [payload] * 3
        requests = [EchoRequest(payload=payload)] * 3
        assert stub.ClientStream(iter(requests), timeout=WAIT).index == 3 * size
        replies = list(stub.Bidi(iter(requests), timeout=WAIT))
        assert [reply.payload for reply in replies] == [payload] * 3


def test_many_calls_between_processes(impl, start):
    child = start(SERVE)
    child.expect("ready")
    stub = echo_pb2_grpc.EchoStub(impl.channel())
    started = [stub.Unary.future(EchoRequest(text=str(number))) for number in range(1000)]
    assert [future.result(timeout=WAIT).text for future in started] == [
        str(number) for number in range(1000)
    ]
    replies = stub.ServerStream(EchoRequest(count=2000), timeout=WAIT)
    assert [reply.index for reply in replies] == list(range(2000))


def test_server_process_is_killed(impl, start):
    child = start(SERVE)
    child.expect("ready")
    stub = echo_pb2_grpc.EchoStub(impl.channel())
    future = stub.Unary.future(EchoRequest(code=1))
    child.expect("in the handler")
    call = stub.ServerStream(EchoRequest(code=1, count=1))
    assert next(call).index == 0
    child.process.kill()
    assert code_and_details(lambda: future.result(timeout=WAIT))[0] is grpc.StatusCode.UNAVAILABLE
    assert code_and_details(lambda: next(call))[0] is grpc.StatusCode.UNAVAILABLE
    code, _ = code_and_details(lambda: stub.Unary(EchoRequest(), timeout=WAIT))
    assert code is grpc.StatusCode.UNAVAILABLE
    # Another one at the same place is found.
    other = start(SERVE)
    other.expect("ready")
    reply = stub.Unary(EchoRequest(text="x"), timeout=WAIT, wait_for_ready=True)
    assert reply.text == "x"


def test_client_process_is_killed(impl, start):
    started, over = threading.Event(), threading.Event()

    def handler(request, context):
        context.add_callback(over.set)
        started.set()
        over.wait(WAIT)
        return EchoReply()

    peer = impl.serve(unary=handler)
    child = start("echo().Unary(EchoRequest())")
    assert started.wait(WAIT)
    child.process.kill()
    assert over.wait(WAIT)
    started.clear()
    assert peer.stub.ServerStream(EchoRequest(count=1), timeout=WAIT) is not None


# What is started, and what then waits. Between the two there is a sign of life, since Ctrl-C in the
# middle of starting a call makes grpcio complain of a half-made object.
WAITS = {
    "unary": ("call = stub.Unary", "call(EchoRequest())"),
    "unary with a deadline": ("call = stub.Unary", "call(EchoRequest(), timeout=100)"),
    "future": ("call = stub.Unary.future(EchoRequest())", "call.result()"),
    "future with a timeout": (
        "call = stub.Unary.future(EchoRequest())",
        "call.result(timeout=100)",
    ),
    "server stream": ("call = stub.ServerStream(EchoRequest())", "list(call)"),
    "client stream": ("call = stub.ClientStream", "call(iter([EchoRequest()]))"),
    "bidi": ("call = stub.Bidi(iter([EchoRequest()]))", "list(call)"),
    "trailing metadata": (
        "call = stub.Unary.future(EchoRequest())",
        "call.trailing_metadata()",
    ),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_ctrl_c_during_a_call(impl, start, wait):
    """It ends the wait at once, and the server learns that nobody waits any more."""
    started, over = threading.Event(), threading.Event()

    def unary(request, context):
        context.add_callback(over.set)
        started.set()
        over.wait(WAIT)
        return EchoReply()

    def stream(request, context):
        unary(request, context)
        yield EchoReply()

    impl.start(unary=unary, server_stream=stream, client_stream=unary, bidi=stream)
    # At exit, a call's __del__ of grpcio's may wait for a lock that a thread had which is no more.
    leave = "pass" if impl.zerohop else "os._exit(0)"
    child = start(
        f"""
        import os
        stub = echo()
        try:
            {wait[0]}
            say("waiting")
            {wait[1]}
        except KeyboardInterrupt:
            say("interrupted")
            {leave}
        """
    )
    child.expect("waiting")
    assert started.wait(WAIT)
    child.process.send_signal(signal.SIGINT)
    assert child.finish() == (0, "interrupted\n", "")
    assert over.wait(WAIT)


# grpcio's own: __del__ of a future whose __init__ the signal has interrupted.
HALF_MADE_FUTURE = re.compile(
    r"^Exception ignored [^\n]*<function _ChannelReadyFuture\.__del__ at 0x\w+>:?\n"
    r"Traceback \(most recent call last\):\n"
    r'  File "[^\n]*grpc/_utilities\.py", line \d+, in __del__\n'
    r"(?:    [^\n]*\n)*"
    r"AttributeError: '_ChannelReadyFuture' object has no attribute '_\w+'$",
    re.MULTILINE,
)


@pytest.mark.parametrize(
    "wait",
    [
        "echo().Unary(EchoRequest(), wait_for_ready=True)",
        "grpc.channel_ready_future(module.insecure_channel(address)).result()",
    ],
    ids=["wait_for_ready", "channel_ready_future"],
)
def test_ctrl_c_while_waiting_for_a_server(impl, start, wait):
    child = start(
        f"""
        try:
            say("waiting")
            {wait}
        except KeyboardInterrupt:
            say("interrupted")
        """
    )
    child.expect("waiting")
    child.process.send_signal(signal.SIGINT)
    code, out, err = child.finish()
    if "channel_ready_future" in wait:
        err = HALF_MADE_FUTURE.sub("", err, count=1).strip()
    assert (code, out, err) == (0, "interrupted\n", "")


def test_ctrl_c_in_a_server(impl, start):
    child = start(
        SERVER
        + textwrap.dedent(
            """
            try:
                say("ready")
                server.wait_for_termination()
            except KeyboardInterrupt:
                say("interrupted")
                server.stop(None)
            """
        )
    )
    child.expect("ready")
    stub = echo_pb2_grpc.EchoStub(impl.channel())
    assert stub.Unary(EchoRequest(text="x"), timeout=WAIT).text == "x"
    child.process.send_signal(signal.SIGINT)
    assert child.finish() == (0, "interrupted\n", "")


def test_ctrl_c_without_a_handler_for_it(impl, start):
    """Python's own traceback of KeyboardInterrupt, and nothing of threads or locks."""
    started, over = threading.Event(), threading.Event()

    def handler(request, context):
        context.add_callback(over.set)
        started.set()
        over.wait(WAIT)
        return EchoReply()

    impl.start(unary=handler)
    child = start("echo().Unary(EchoRequest())")
    assert started.wait(WAIT)
    child.process.send_signal(signal.SIGINT)
    _, out, err = child.finish()
    assert out == ""
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert err.count("Traceback") == 1
    assert over.wait(WAIT)


EXITS = {
    "future": "future = stub.Unary.future(EchoRequest())\nfuture.add_done_callback(print)",
    "dropped future": "stub.Unary.future(EchoRequest())",
    "server stream": "call = stub.ServerStream(EchoRequest())",
    "bidi": """
def requests():
    yield EchoRequest()
    threading.Event().wait()
call = stub.Bidi(requests())
""",
    "daemon thread": """
thread = threading.Thread(target=lambda: stub.Unary(EchoRequest()), daemon=True)
thread.start()
""",
    "subscription": """
channel = module.insecure_channel(address)
channel.subscribe(lambda state: None, try_to_connect=True)
""",
}


@pytest.mark.parametrize("script", EXITS.values(), ids=EXITS.keys())
def test_exit_in_the_middle_of_a_call(impl, start, script):
    """Silent and quick, whatever is still open."""
    calls = []
    gate = impl.gate()

    def unary(request, context):
        calls.append(1)
        gate.wait(WAIT)
        return EchoReply()

    def stream(request, context):
        unary(request, context)
        yield EchoReply()

    impl.start(unary=unary, server_stream=stream, bidi=stream, workers=4)
    child = start("stub = echo()\n" + script + "\nsay('end')\n")
    code, out, err = child.finish()
    assert (code, err) == (0, "")
    # grpcio calls back the future that ends with the channel.
    assert out.startswith("end\n")


def test_exit_with_a_running_server(impl, start):
    """A server that nobody stopped does not keep the process, nor does it complain."""
    child = start(SERVER + "say('end')\n")
    assert child.finish() == (0, "end\n", "")


def test_exit_with_a_server_that_was_called(impl, start):
    child = start(
        SERVER
        + textwrap.dedent(
            """
            stub = echo()
            assert stub.Unary(EchoRequest(text="x")).text == "x"
            assert len(list(stub.ServerStream(EchoRequest(count=3)))) == 3
            say("end")
            """
        )
    )
    assert child.finish() == (0, "end\n", "")


def test_fork(impl, start):
    """Parent and child of a fork make channels of their own."""
    impl.start()
    child = start(
        """
        import os
        pid = os.fork()
        if pid == 0:
            say(echo().Unary(EchoRequest(text="child"), timeout=30).text)
            os._exit(0)
        os.waitpid(pid, 0)
        say(echo().Unary(EchoRequest(text="parent"), timeout=30).text)
        """
    )
    assert child.finish() == (0, "child\nparent\n", "")
