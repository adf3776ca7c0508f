"""ZEROHOP_CHECK=1: who writes to what has been sent is stopped there; nobody else notices."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faultharness import balance
from generatedharness import GENERATED, generate
from runharness import PROGRAMS

WAIT = 30

# A server and a client in one process. Each way takes a writable view, sends, and gives a function
# that writes through the view.
WAYS = """
import os, sys
import changes_zerohop as types
import numpy
import zerohop

received, replies = [], []

class Keeper(types.KeeperServicer):
    def Keep(self, request, context):
        received.append(request)
        reply = types.Tree()
        if request.text:
            replies.append(memoryview(memory := zerohop.alloc(5000)))
            reply.data = memory
        return reply

server = zerohop.server()
types.add_KeeperServicer_to_server(Keeper(), server)
server.add_insecure_port("shm:" + sys.argv[1])
server.start()
stub = types.KeeperStub(zerohop.insecure_channel("shm:" + sys.argv[1]))
tree = types.Tree()

def alloc(first):
    memory = zerohop.alloc(100_000)
    view = memoryview(memory)
    tree.data = memory
    stub.Keep(tree)
    return view[: 1] if first else view[-1:]

def array(first):
    tree.doubles.extend(range(512))
    view = numpy.asarray(tree.doubles)
    stub.Keep(tree)
    return view[:1] if first else view[-1:]

def part(first):
    tree.child.children.add().doubles.extend(range(2000))
    view = memoryview(tree.child.children[0].doubles)
    stub.Keep(tree)
    tree.number = 5
    tree.child.children.add()
    return view[:1] if first else view[-1:]

def returned(first):
    view = alloc(first)
    received.clear()  # nobody reads it any more, but it has been sent
    return view

def reply(first):
    tree.text = "reply"
    tree.data = bytes(stub.Keep(tree).data)
    return replies[0][:1] if first else replies[0][-1:]

def smashes(view):
    view[0] = 1

def reads(view):
    with open("/dev/zero", "rb", buffering=0) as zeros:
        zeros.readinto(view)

view = globals()[sys.argv[2]](sys.argv[3] == "first")
globals()[sys.argv[4]](view)
print("written")
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("changes")
    generate(PROGRAMS, out, "changes.proto")
    return out


def run(modules, *arguments, **env):
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(modules), **env},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("way", ["alloc", "array", "part", "returned", "reply"])
def test_writing_to_what_was_sent(modules, tmp_path, way, place):
    line = 1 + WAYS.splitlines().index("    view[0] = 1")
    program = "-c", WAYS, tmp_path / "socket", way, place, "smashes"
    done = run(modules, *program, ZEROHOP_CHECK="1")
    assert done.returncode == -signal.SIGSEGV, done.stderr
    assert re.search(rf'^  File "<string>", line {line} in smashes$', done.stderr, re.MULTILINE)
    for unset in "", "0":
        done = run(modules, *program, ZEROHOP_CHECK=unset)
        assert (done.returncode, done.stdout) == (0, "written\n"), done.stderr


def test_reading_a_file_into_what_was_sent(modules, tmp_path):
    """The kernel says no; it raises no signal."""
    program = "-c", WAYS, tmp_path / "socket", "alloc", "first", "reads"
    done = run(modules, *program, ZEROHOP_CHECK="1")
    assert done.returncode == 1
    assert "OSError: [Errno 14] Bad address" in done.stderr
    assert run(modules, *program, ZEROHOP_CHECK="").stdout == "written\n"


@pytest.mark.parametrize("seed", range(10, 14))
def test_changes_at_random(modules, tmp_path, seed):
    program = PROGRAMS / "changes.py", tmp_path / "socket", seed, 150
    done = run(modules, *program, ZEROHOP_CHECK="1")
    assert (done.returncode, done.stdout) == (0, "as sent\n"), done.stderr


RELAY = """
stub = stub_of(address + "-end")
class Servicer(Servicer):
    def Unary(self, request, context):
        return stub.Unary(request)  # there and back without a copy
    def Bidi(self, requests, context):
        yield from stub.Bidi(requests)
server = serve()
"""

CLIENT = """
stub = stub_of()

def filled(size, byte):
    memory = zerohop.alloc(size)
    memoryview(memory)[:] = bytes([byte]) * size
    return memory

def calls():
    request = EchoRequest(text="t")
    for round in range(60):
        request.payload = filled(5000 + 4096 * round, round) if round % 2 else bytes([round]) * 9000
        for again in range(3):
            reply = stub.Unary(request, timeout=30)
            assert reply.payload == request.payload and reply.payload[0] == round
        request = EchoRequest(text="u", payload=reply.payload) if round % 5 == 0 else request
        request.count = 0
    return True

def streams():
    requests = [EchoRequest(payload=bytes([number]) * 50_000) for number in range(20)]
    replies = list(stub.Bidi(iter(requests * 3), timeout=30))
    assert [one.payload for one in replies] == [one.payload for one in requests * 3]
    for number, request in enumerate(requests):
        request.payload = bytes([number + 1]) * 50_000
    replies = [stub.Unary.future(one, timeout=30) for one in requests]
    for number, request in enumerate(requests):
        request.payload = bytes(50_000)
    assert [one.result().payload[0] for one in replies] == [*range(1, 21)]
    return True

def full():
    # What is given back is written to by the next who has it.
    held, made = [], 0
    for round in range(4):
        try:
            while True:
                held.append(EchoRequest(payload=bytes([made % 256]) * 200_000))
                made += 1
        except zerohop.ArenaFull:
            pass
        for one in held[:: len(held) // 8]:
            try:
                stub.Unary(one, timeout=1)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error
        del held[round % 2 :: 2]
    held.clear()
    assert stub.Unary(EchoRequest(payload=b"x" * 100_000), timeout=30).payload == b"x" * 100_000
    return made

def fork():
    memory = zerohop.alloc(100_000)
    view = memoryview(memory)
    request = EchoRequest()
    request.payload = memory
    future = stub.Unary.future(request, timeout=30)
    pid = os.fork()
    if pid == 0:
        view[0] = 1  # the child has pages of its own there
        del future, request, memory
        os._exit(0 if view[0] == 1 else 1)
    assert len(future.result().payload) == 100_000
    return os.waitpid(pid, 0)[1]
"""


def test_a_session(own, home, launch):
    """Echo, forwarding, mutation, one message often, streams, a full arena, fork."""
    env = {**GENERATED, "ZEROHOP_CHECK": "1", "PYTHONFAULTHANDLER": "1"}
    end = launch("server = serve()", home.address() + "-end", **env)
    relay = launch(RELAY, **env)
    client = launch(CLIENT, ZEROHOP_ARENA_LIMIT=str(16 << 20), **env)
    assert client.ask("calls()")
    assert client.ask("streams()")
    assert client.ask("full()") > 60
    assert client.ask("fork()") == 0
    assert client.ask("calls()")
    for child in client, relay, end:
        assert child.end() == (0, "")
    assert balance() == 0
