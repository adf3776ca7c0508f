"""Clients that misbehave, as faulty programs of users do: what they leave of others' speed."""

from __future__ import annotations

import ctypes
import importlib
import itertools
import os
import signal
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from zerohop.bench import backends, memory
from zerohop.bench.cases import Fault
from zerohop.bench.control import Control
from zerohop.bench.peers import Peer, PeerFailed

_CONNECT_S = 30.0
_BEGIN_S = 10.0
_STREAMS = 4
_INFLIGHT = 64
_HOARDED = 1 << 20
"""Bytes of a hoarder's messages."""
_HOARDS = 24
"""Its streams, each with one message under way: more than it is lent."""
_ENDLESS = 1 << 40
_IDLE_S = 0.2
_PR_SET_PDEATHSIG = 1


def misbehave(spec: dict[str, Any], control: Control) -> None:
    """A second client of a measured server."""
    # It hears nothing any more, so the kernel has to end it where the runner cannot.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    messages: Any = importlib.import_module("bench_pb2")
    stubs: Any = importlib.import_module("bench_pb2_grpc")
    channel = backends.load(spec["backend"]).insecure_channel(spec["address"])
    stub = stubs.BenchStub(channel)
    request = messages.Payload(data=os.urandom(spec["size"]))
    stub.Echo(request, wait_for_ready=True, timeout=_CONNECT_S)

    def stream(size: int) -> Any:
        return stub.Stream(messages.StreamRequest(size=size, count=_ENDLESS))

    kinds = {"reader": _stop_reading, "peer": _keep_going, "hoarder": _hoard}
    kinds[spec["fault"]](control, stream, lambda: stub.Echo.future(request), spec["size"])


def _stop_reading(control: Control, stream: Any, _echo: Any, size: int) -> None:
    """Reads the first message of each stream and no other; the process itself is well."""
    streams = [stream(size) for _ in range(_STREAMS)]
    for one in streams:
        next(one)
    control.answer(pid=os.getpid())
    signal.pause()


def _keep_going(control: Control, stream: Any, echo: Any, size: int) -> None:
    """Reads streams and makes calls as fast as it can, until it is stopped in the middle."""

    def read(messages: Any) -> None:
        for _ in messages:
            pass

    for one in [stream(size) for _ in range(_STREAMS)]:
        next(one)
        threading.Thread(target=read, args=(one,), daemon=True).start()
    calls = deque(echo() for _ in range(_INFLIGHT))
    for count in itertools.count():
        calls.popleft().result()
        calls.append(echo())
        if count == _INFLIGHT:
            control.answer(pid=os.getpid())


def _hoard(control: Control, stream: Any, _echo: Any, _size: int) -> None:
    """Takes nothing of what it is lent, so that nothing is returned: no thread of its process
    comes to run, as beside an extension that blocks and keeps the GIL."""
    sys.setswitchinterval(_BEGIN_S)
    streams = [stream(_HOARDED) for _ in range(_HOARDS)]
    control.answer(pid=os.getpid())
    ctypes.PyDLL(None).pause()
    del streams


def begin(fault: Fault, faulty: Peer, server: Peer) -> None:
    """In the runner, with the faulty client ready: returns when its fault is in force and all that
    follows from it has happened, so that nothing of that falls into a measured slice."""
    faulty.deaf = True
    if fault == "peer":
        os.kill(faulty.pid, signal.SIGSTOP)
        _wait(lambda: _state(faulty.pid) == "T", "did not stop", faulty)
    _wait(lambda: _is_idle([faulty.pid, server.pid]), "goes on", faulty)
    if fault == "hoarder":
        counters = server.ask("counters")[0]["counters"]
        if counters["blocks_lent"] - counters["blocks_returned"] < 1:
            raise PeerFailed(f"{faulty.name}: holds nothing of what it was lent")


def _wait(condition: Any, failure: str, faulty: Peer) -> None:
    deadline = time.monotonic() + _BEGIN_S
    while not condition():
        if time.monotonic() > deadline:
            raise PeerFailed(f"{faulty.name}: {failure}")
        time.sleep(0.005)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _is_idle(pids: list[int]) -> bool:
    """Whether the processes used next to no CPU for a while."""
    before = sum(map(memory.cpu_ns, pids))
    time.sleep(_IDLE_S)
    return sum(map(memory.cpu_ns, pids)) - before < 0.1 * _IDLE_S * 1e9
