"""`zerohop run`: programs that know nothing of zerohop do the same with it, over shared memory."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
from runharness import Programs

HELLOS = ["Greeter client received: Hello, Anna!", "Greeter client received: Hello, Ben!"]


def hello(
    programs: Programs, *, server_run: bool, client_run: bool, threads: int = 10, kind: str = ""
):
    """A server and its client, run to their ends: output and counters of both."""
    server = programs.start(f"{kind}greeter_server.py", "localhost:0", threads, run=server_run)
    target = f"localhost:{server.port()}"
    client = programs.start(f"{kind}greeter_client.py", target, run=client_run)
    said = [client.ask("Anna"), client.ask("Ben")]
    assert client.finish() == said
    assert server.stop()[-1] == "stopped"
    assert (client.stderr, server.stderr) == ("", "")
    return said, client.counted()["calls_started"], server.counted()["calls_handled"]


@pytest.mark.parametrize(
    ("server_run", "client_run", "short"),
    [(True, True, 2), (False, False, 0), (True, False, 0), (False, True, 0)],
    ids=["both", "neither", "server", "client"],
)
@pytest.mark.parametrize("kind", ["", "aio_"], ids=["sync", "aio"])
def test_hello(
    programs: Programs, kind: str, server_run: bool, client_run: bool, short: int
) -> None:
    said = hello(programs, server_run=server_run, client_run=client_run, kind=kind)
    assert said == (HELLOS, short, short)


def test_hello_with_a_pool_of_one_thread(programs: Programs) -> None:
    assert hello(programs, server_run=True, client_run=True, threads=1) == (HELLOS, 2, 2)


SYNC, AIO = ("guide_server.py", "guide_client.py"), ("aio_guide_server.py", "aio_guide_client.py")
CALLS = {"guide_client.py": 12, "aio_guide_client.py": 18}


@pytest.mark.parametrize("client", list(CALLS))
@pytest.mark.parametrize("server", ["guide_server.py", "aio_guide_server.py"])
def test_all_kinds_of_call(programs: Programs, server: str, client: str) -> None:
    outputs = []
    for run in (False, True):
        serving = programs.start(server, "127.0.0.1:0", run=run)
        calling = programs.start(client, f"127.0.0.1:{serving.port()}", run=run)
        outputs.append((calling.finish(), serving.stop()[1:], calling.stderr, serving.stderr))
        short = CALLS[client] if run else 0
        assert calling.counted()["calls_started"] == short
        assert serving.counted()["calls_handled"] == short
    assert outputs[0] == outputs[1]
    assert outputs[0][2:] == ("", "")


def test_a_plain_client_on_the_same_server_at_once(programs: Programs) -> None:
    server = programs.start("greeter_server.py", "127.0.0.1:0", 2)
    target = f"127.0.0.1:{server.port()}"
    plain = programs.start("greeter_client.py", target, run=False)
    ours = programs.start("greeter_client.py", target)
    for name in ("Anna", "Ben", "Carl"):
        plain.say(name)
        ours.say(name)
        assert plain.line() == ours.line() == f"Greeter client received: Hello, {name}!"
    plain.finish()
    ours.finish()
    server.stop()
    assert ours.counted()["calls_started"] == server.counted()["calls_handled"] == 3
    assert plain.counted()["calls_started"] == 0


def test_several_processes_on_one_port(programs: Programs) -> None:
    outputs = []
    for run in (False, True):
        workers = programs.start("workers_server.py", 3, run=run)
        target = f"localhost:{workers.port()}"
        pids = workers.line().split()
        client = programs.start("greeter_client.py", target, run=run)
        said = [client.ask("me").split()[3:] for _ in range(30)]
        assert {" ".join(words[1:]) for words in said} == {"greets me"}
        outputs.append(Counter(words[0] for words in said))
        assert set(outputs[-1]) <= set(pids)
        # One of them ends: the others go on.
        first, *others = pids
        assert workers.ask(first) == f"stopped {first}"
        left = Counter(client.ask("me").split()[3] for _ in range(20))
        assert set(left) <= set(others)
        client.finish()
        workers.finish()
        if run:
            assert left == {others[0]: 10, others[1]: 10}
            assert client.counted()["calls_started"] == 50
    # grpcio's client has one connection; ours goes to all of them.
    assert len(outputs[0]) == 1
    assert sorted(outputs[1].values()) == [10, 10, 10]


@pytest.mark.parametrize("first", ["first", "unused"])
def test_a_client_that_forks(programs: Programs, first: str) -> None:
    server = programs.start("greeter_server.py", "127.0.0.1:0")
    client = programs.start("fork_client.py", f"127.0.0.1:{server.port()}", first)
    names = ["inherited", "child", "parent after"]
    if first == "first":
        names.insert(0, "parent before")
    said = [f"Hello, {name}!" for name in names]
    said.insert(-1, "child ended with 0")
    assert client.finish() == said
    assert client.stderr == ""
    server.stop()
    assert server.counted()["calls_handled"] == len(names)


def test_a_server_program_that_forks_does_not_take_its_entry_along(programs: Programs) -> None:
    code = """
import os, sys
import greeter_server
import grpc
from concurrent import futures
import helloworld_pb2_grpc
server = grpc.server(futures.ThreadPoolExecutor(2))
helloworld_pb2_grpc.add_GreeterServicer_to_server(greeter_server.Greeter(), server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
pid = os.fork()
if pid == 0:
    del server
    sys.exit(0)
print("child ended with", os.waitpid(pid, 0)[1], flush=True)
print("listening on port", port, flush=True)
sys.stdin.read()
server.stop(None)
"""
    server = programs.start(code)
    assert server.line() == "child ended with 0"
    client = programs.start("greeter_client.py", f"127.0.0.1:{server.port()}")
    assert client.ask("Anna") == HELLOS[0]
    client.finish()
    assert client.counted()["calls_started"] == 1
    server.finish()
    assert server.stderr == ""


@pytest.mark.parametrize("kind", ["", "aio_"])
def test_opentelemetry_instrument(programs: Programs, kind: str) -> None:
    instrument = (sys.executable.rpartition("/")[0] + "/opentelemetry-instrument",)
    outputs = []
    for run in (False, True):
        server = programs.start(
            "traced.py", f"{kind}greeter_server.py", "127.0.0.1:0", prefix=instrument, run=run
        )
        client = programs.start(
            *("traced.py", f"{kind}greeter_client.py", f"127.0.0.1:{server.port()}"),
            prefix=instrument,
            run=run,
            options=("--explain",),
        )
        client.ask("Anna")
        outputs.append((sorted(client.finish()), sorted(server.stop()[1:])))
        assert ("over shared memory" in client.stderr) == run
        assert "over grpcio" not in client.stderr
    assert outputs[0] == outputs[1]
    name = "/zhrun.Greeter/SayHello"
    assert outputs[0][0] == [HELLOS[0], f"span {name} CLIENT UNSET"]
    assert outputs[0][1] == [f"span {name} SERVER UNSET", "stopped"]
