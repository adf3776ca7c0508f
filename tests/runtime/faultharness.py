"""For tests of faults: processes that a test commands line by line, and what a process holds."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from apiharness import WAIT, Impl, eventually

__all__ = ["home", "launch"]

PREAMBLE = """
import os, signal, sys, threading, time
from concurrent import futures
sys.path.insert(0, os.environ["ZEROHOP_TEST_HARNESS"])
import grpc, zerohop
from faultharness import *
from faultharness import commands, holdings, balance
if os.environ.get("ZEROHOP_TEST_GENERATED"):
    from zhtest import echo_zerohop as echo_pb2_grpc
    from zhtest.types_zerohop import EchoReply, EchoRequest
else:
    from zhtest import echo_pb2_grpc
    from zhtest.types_pb2 import EchoReply, EchoRequest
address = sys.argv[1]

def stub_of(target=address, options=None):
    return echo_pb2_grpc.EchoStub(zerohop.insecure_channel(target, options))
"""

# A server of Echo whose handlers do what the request says: sleep `count` ms, and reply with
# `index` bytes, or with the payload when that is 0.
SERVER = """
class Servicer(echo_pb2_grpc.EchoServicer):
    def Unary(self, request, context):
        if request.count:
            context.is_active() and time.sleep(request.count / 1000)
        return EchoReply(text=request.text, index=os.getpid(),
                         payload=request.payload or bytes(request.code))

    def ServerStream(self, request, context):
        for index in range(request.count):
            yield EchoReply(index=index, payload=request.payload or bytes(request.code))

    def ClientStream(self, requests, context):
        return EchoReply(index=sum(len(request.payload) for request in requests))

    def Bidi(self, requests, context):
        for request in requests:
            yield EchoReply(text=request.text, payload=request.payload or bytes(request.code))

def serve(target=address, workers=8, options=None):
    server = zerohop.server(futures.ThreadPoolExecutor(workers), options=options)
    echo_pb2_grpc.add_EchoServicer_to_server(Servicer(), server)
    server.add_insecure_port(target)
    server.start()
    return server
"""


def commands(scope: dict[str, Any]) -> None:
    """In a child: evaluate what the parent sends, a line at a time, and answer in JSON."""
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(eval(line, scope)), flush=True)


def settle() -> None:
    """Have this process take back what its peers have returned."""
    from zerohop.pumps import all_pumps

    for pump in all_pumps():
        pump.settle()


def balance() -> int:
    """The blocks that this process has lent and not got back."""
    import zerohop

    settle()
    counters = zerohop.stats()
    return counters["blocks_lent"] - counters["blocks_returned"]


def _is_ours(fd: str) -> bool:
    """Sockets, memfds, eventfds, pidfds: not the pipes to the children of a test.

    Nor the arena, which keeps an empty segment when it has had one.
    """
    try:
        name = os.readlink(f"/proc/self/fd/{fd}")
        return name.startswith(("socket:", "/memfd:", "anon_inode:")) and "-arena" not in name
    except OSError:  # the listing's own
        return False


def holdings() -> dict[str, int]:
    """What this process holds: descriptors, mappings of shared memory, threads, KiB of memory."""
    maps = Path("/proc/self/maps").read_text()
    status = Path("/proc/self/status").read_text()
    return {
        "fds": sum(map(_is_ours, os.listdir("/proc/self/fd"))),
        "maps": maps.count("memfd:zerohop"),
        "links": maps.count("memfd:zerohop-link"),
        "threads": int(re.search(r"Threads:\s*(\d+)", status)[1]),
        "rss": int(re.search(r"VmRSS:\s*(\d+)", status)[1]),
    }


class Child:
    """A process that runs a script and then what `ask` sends it."""

    def __init__(self, address: str, script: str, env: dict[str, str]) -> None:
        code = PREAMBLE + SERVER + textwrap.dedent(script) + "\ncommands(globals())\n"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "ZEROHOP_TEST_HARNESS": str(Path(__file__).parent), **env},
        )
        self.expect("ready")

    @property
    def pid(self) -> int:
        return self.process.pid

    def expect(self, line: str) -> None:
        """The next line that it prints."""
        said = self.process.stdout.readline().rstrip("\n")
        if said != line:
            self.kill()
            raise AssertionError(f"{said!r} in place of {line!r}: {self.process.stderr.read()}")

    def tell(self, expression: str) -> None:
        """Have it evaluate an expression, without waiting for that."""
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """What the expression told before came to."""
        said = self.process.stdout.readline()
        if not said:
            raise AssertionError(f"the process has ended: {self.process.stderr.read()}")
        return json.loads(said)

    def ask(self, expression: str) -> Any:
        self.tell(expression)
        return self.answer()

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self) -> None:
        """SIGSTOP, in force when this returns."""
        self.send(signal.SIGSTOP)
        state = Path(f"/proc/{self.pid}/stat")
        eventually(lambda: state.read_text().rpartition(")")[2].split()[0] == "T")

    def resume(self) -> None:
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> tuple[int, str]:
        """Let it end, for lack of commands: exit code and what it said to stderr."""
        _, err = self.process.communicate(timeout=WAIT)
        return self.process.returncode, err


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Impl]:
    """The synchronous API of zerohop alone."""
    harness = Impl("zerohop", tmp_path)
    yield harness
    harness.close()


@pytest.fixture
def launch(home: Impl) -> Iterator[Callable[..., Child]]:
    """Makes a process that has run a script, at the default address or another one."""
    children: list[Child] = []

    def run(script: str, address: str | None = None, **env: str) -> Child:
        children.append(Child(address or home.address(), script, env))
        return children[-1]

    yield run
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            child.resume()
        child.kill()
        for stream in child.process.stdin, child.process.stdout, child.process.stderr:
            with contextlib.suppress(OSError):
                stream.close()


def milliseconds(function: Callable[[], Any]) -> float:
    """How long a call of the function takes."""
    began = time.perf_counter()
    function()
    return (time.perf_counter() - began) * 1000
