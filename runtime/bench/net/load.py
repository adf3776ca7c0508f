"""The kernel's side of a measurement: a blocking client, and the server that it has beside ours.

    python -m zerohop.bench.net.load serve
    python -m zerohop.bench.net.load echo HOST SIZE SECONDS
    python -m zerohop.bench.net.load in|out HOST SECONDS
    python -m zerohop.bench.net.load first HOST COUNT IDLE_MS

A client prints one line of JSON; the server says "ready", and ends with its standard input.
"""

import contextlib
import json
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable

ECHO, SINK, SOURCE = 7000, 7001, 7002
_CHUNK = 1 << 20


def _set_up(made: socket.socket) -> None:
    """Accepted sockets have their listener's options."""
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # What the stack's is compared with; the machine's own default may be another.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")


def _connect(host: str, port: int) -> socket.socket:
    made = socket.create_connection((host, port), timeout=10)
    _set_up(made)
    return made


def echo(host: str, size: int, seconds: float) -> dict[str, object]:
    """Round trips of ``size`` bytes: p50 and p99 in us."""
    sent, got = bytes(size), bytearray(size)
    view = memoryview(got)
    times: list[int] = []
    with _connect(host, ECHO) as peer:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter_ns()
            peer.sendall(sent)
            done = 0
            while done < size:
                count = peer.recv_into(view[done:])
                if not count:
                    raise ConnectionError("the server has closed")
                done += count
            times.append(time.perf_counter_ns() - start)
    times.sort()
    return {
        "calls": len(times),
        "p50_us": statistics.median(times) / 1e3,
        "p99_us": times[int(len(times) * 0.99)] / 1e3,
    }


def bulk_in(host: str, seconds: float) -> dict[str, object]:
    """Bytes into the server, in Gb/s."""
    block, count = bytes(_CHUNK), 0
    with _connect(host, SINK) as peer:
        start = time.perf_counter()
        while (now := time.perf_counter()) - start < seconds:
            count += peer.send(block)
    return {"gbit": count * 8 / (now - start) / 1e9}


def bulk_out(host: str, seconds: float) -> dict[str, object]:
    """Bytes out of the server, in Gb/s."""
    block, count = bytearray(_CHUNK), 0
    with _connect(host, SOURCE) as peer:
        start = time.perf_counter()
        while (now := time.perf_counter()) - start < seconds:
            got = peer.recv_into(block)
            if not got:
                raise ConnectionError("the server has closed")
            count += got
    return {"gbit": count * 8 / (now - start) / 1e9}


def first(host: str, count: int, idle_ms: float) -> dict[str, object]:
    """The first round trip after a quiet time: p50 in us."""
    times = []
    with _connect(host, ECHO) as peer:
        for _ in range(count):
            time.sleep(idle_ms / 1e3)
            start = time.perf_counter_ns()
            peer.sendall(b"x" * 64)
            peer.recv(64)
            times.append(time.perf_counter_ns() - start)
    return {"p50_us": statistics.median(times) / 1e3}


def _echo_all(peer: socket.socket) -> None:
    block = bytearray(65536)
    view = memoryview(block)
    while count := peer.recv_into(block):
        peer.sendall(view[:count])


def _sink(peer: socket.socket) -> None:
    block = bytearray(_CHUNK)
    while peer.recv_into(block):
        pass


def _source(peer: socket.socket) -> None:
    block = bytes(_CHUNK)
    while True:
        peer.sendall(block)


def serve() -> None:
    """Echo, sink and source on the kernel's TCP, a thread for each connection."""

    def work(peer: socket.socket, what: Callable[[socket.socket], None]) -> None:
        with peer, contextlib.suppress(ConnectionError):
            what(peer)

    def accept(listener: socket.socket, what: Callable[[socket.socket], None]) -> None:
        while True:
            peer, _ = listener.accept()
            threading.Thread(target=work, args=(peer, what), daemon=True).start()

    for port, what in ((ECHO, _echo_all), (SINK, _sink), (SOURCE, _source)):
        listener = socket.create_server(("", port))
        _set_up(listener)
        threading.Thread(target=accept, args=(listener, what), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()


def main(arguments: list[str]) -> None:
    what, *rest = arguments
    if what == "serve":
        serve()
        return
    match what, rest:
        case "echo", [host, size, seconds]:
            found = echo(host, int(size), float(seconds))
        case "in", [host, seconds]:
            found = bulk_in(host, float(seconds))
        case "out", [host, seconds]:
            found = bulk_out(host, float(seconds))
        case "first", [host, count, idle_ms]:
            found = first(host, int(count), float(idle_ms))
        case _:
            raise SystemExit(__doc__)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
