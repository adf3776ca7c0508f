"""`zerohop run`: channels change over by themselves when servers come, go and restart."""

from __future__ import annotations

import signal
import socket
import time

import pytest
from runharness import WAIT, Program, Programs

KINDS = pytest.mark.parametrize("kind", ["", "aio_"], ids=["sync", "aio"])
EXPLAIN = ("--explain",)


def greet(client: Program, name: str) -> str:
    return client.ask(name).removeprefix("Greeter client ")


def greet_until(client: Program, text: str) -> list[str]:
    """Greet until it has explained something; what the answers were."""
    answers = []
    end = time.monotonic() + WAIT
    while text not in client.stderr:
        assert time.monotonic() < end, (client.stderr, answers[-5:])
        answers.append(greet(client, "Anna"))
        time.sleep(0.01)
    return answers


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@KINDS
def test_a_server_that_restarts(programs: Programs, port: int, kind: str) -> None:
    address = f"127.0.0.1:{port}"
    client = programs.start(f"{kind}greeter_client.py", address, options=EXPLAIN)
    assert greet(client, "Anna") == "failed: UNAVAILABLE"  # as grpcio says it
    calls = 0
    for _ in range(2):
        server = programs.start(f"{kind}greeter_server.py", address)
        server.port()
        known = len(client.stderr)
        answers = []
        while "over shared memory" not in client.stderr[known:]:
            answers.append(greet(client, "Anna"))
            time.sleep(0.01)
        # grpcio waits a while before it connects again; what came is the answer or that.
        assert set(answers) <= {"received: Hello, Anna!", "failed: UNAVAILABLE"}
        for number in range(5):
            assert greet(client, str(number)) == f"received: Hello, {number}!"
        server.stop()
        calls += server.counted()["calls_handled"]
        assert greet(client, "Ben") == "failed: UNAVAILABLE"
    client.finish()
    assert client.counted()["calls_started"] == calls >= 10


@KINDS
def test_from_a_server_under_run_to_a_plain_one_and_back(
    programs: Programs, port: int, kind: str
) -> None:
    address = f"127.0.0.1:{port}"
    first = programs.start(f"{kind}greeter_server.py", address)
    first.port()
    client = programs.start(f"{kind}greeter_client.py", address, options=EXPLAIN)
    assert greet(client, "1") == "received: Hello, 1!"
    first.stop()
    plain = programs.start(f"{kind}greeter_server.py", address, run=False)
    plain.port()
    assert greet(client, "2") == "received: Hello, 2!"
    client.explained("over grpcio")
    plain.stop()
    again = programs.start(f"{kind}greeter_server.py", address)
    again.port()
    assert set(greet_until(client, f"process {again.pid}")) <= {
        "received: Hello, Anna!",
        "failed: UNAVAILABLE",
    }
    assert greet(client, "3") == "received: Hello, 3!"
    client.finish()
    again.stop()
    assert first.counted()["calls_handled"] == 1
    assert again.counted()["calls_handled"] >= 1
    ways = [line.partition(": over ")[2].split(" (")[0] for line in client.stderr.splitlines()]
    assert ways == ["shared memory", "grpcio", "shared memory"]


@KINDS
def test_a_server_that_is_killed(programs: Programs, kind: str) -> None:
    server = programs.start(f"{kind}greeter_server.py", "127.0.0.1:0")
    address = f"127.0.0.1:{server.port()}"
    client = programs.start(f"{kind}greeter_client.py", address, options=EXPLAIN)
    assert greet(client, "1") == "received: Hello, 1!"
    server.kill()
    assert greet(client, "2") == "failed: UNAVAILABLE"
    again = programs.start(f"{kind}greeter_server.py", address)
    again.port()
    greet_until(client, f"process {again.pid}")
    assert greet(client, "3") == "received: Hello, 3!"
    client.finish()
    again.stop()


CALL_IN_FLIGHT = """
import sys, threading
import grpc
import guide_pb2_grpc
channel = grpc.insecure_channel(sys.argv[1])
stub = guide_pb2_grpc.GuideStub(channel)
asked = threading.Event()
def requests():
    asked.set()
    threading.Event().wait(60)
    yield
call = stub.RecordRoute.future(requests())
asked.wait()
print("calling", flush=True)
print(call.code(), flush=True)
"""


@pytest.mark.parametrize("run", [False, True], ids=["plain", "run"])
def test_calls_in_flight_end_as_with_grpcio(programs: Programs, run: bool) -> None:
    server = programs.start("guide_server.py", "127.0.0.1:0", run=run)
    client = programs.start(CALL_IN_FLIGHT, f"127.0.0.1:{server.port()}", run=run)
    assert client.line() == "calling"
    time.sleep(0.3)  # for the call to arrive
    server.kill()
    assert client.line() == "StatusCode.UNAVAILABLE"
    client.kill()


CALLS_ON_DEMAND = """
import sys
import grpc
import guide_pb2
import guide_pb2_grpc
channel = grpc.insecure_channel(sys.argv[1])
stub = guide_pb2_grpc.GuideStub(channel)
point = guide_pb2.Point(latitude=2, longitude=4)
forms = [
    lambda: stub.GetPlace(point),
    lambda: stub.GetPlace.with_call(point)[0],
    lambda: stub.GetPlace.future(point).result(),
    lambda: next(stub.ListPlaces(guide_pb2.Box(low=point, high=point))),
]
for line in sys.stdin:
    try:
        print(forms[int(line)]().name, flush=True)
    except grpc.RpcError as error:
        print(error.code(), error.details(), flush=True)
"""


@pytest.mark.parametrize("form", range(4))
def test_a_server_that_stops_gracefully_loses_no_call(
    programs: Programs, port: int, form: int
) -> None:
    """With a call still running on the old one, so that links to it stay, new ones do not go there.

    Nobody polls the client's link between its calls, so what the server has said lies there unread.
    """
    address = f"127.0.0.1:{port}"
    old = programs.start("guide_server.py", address)
    old.port()
    holder = programs.start(CALL_IN_FLIGHT, address)
    assert holder.line() == "calling"
    client = programs.start(CALLS_ON_DEMAND, address, options=EXPLAIN)
    assert client.ask(str(form)) == "Place 2/4"
    new = programs.start("guide_server.py", address, run=False)  # SO_REUSEPORT is the default
    new.port()
    old._popen.send_signal(signal.SIGTERM)
    while any(programs.registry.glob("*.json")):
        time.sleep(0.005)
    for _ in range(3):
        assert client.ask(str(form)) == "Place 2/4"
    assert old._popen.poll() is None
    client.finish()
    assert client.counted()["calls_started"] == 1
    holder.kill()
    begun = time.monotonic()
    old.finish()
    assert time.monotonic() - begun < 4  # it waits for its calls, no longer, though it may for 5 s
    new.stop()


def test_a_server_that_is_stopped_costs_its_calls_alone(programs: Programs) -> None:
    """A server in the registry that does not greet: the channel goes over grpcio meanwhile."""
    server = programs.start("greeter_server.py", "127.0.0.1:0")
    address = f"127.0.0.1:{server.port()}"
    server._popen.send_signal(signal.SIGSTOP)
    try:
        client = programs.start("greeter_client.py", address, options=EXPLAIN)
        client.say("Anna")
        client.explained("over grpcio")
    finally:
        server._popen.send_signal(signal.SIGCONT)
    assert client.line() == "Greeter client received: Hello, Anna!"
    greet_until(client, "over shared memory")
    client.finish()
    server.stop()
