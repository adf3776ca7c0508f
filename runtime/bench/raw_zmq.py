"""Raw bytes over pyzmq: REQ/REP for calls, PUSH/PULL for streams, with its default settings."""

import importlib
import os
import struct
import threading
from typing import Any

from zerohop.bench import loops
from zerohop.bench.client import obey
from zerohop.bench.control import Control
from zerohop.bench.process import settle

_OPEN = struct.Struct("!QQ")
"""A request of this length asks for a stream (echoes are longer): size and count."""

_CONNECT_MS = 30_000


def _backlog(size: int) -> int:
    """Messages that may wait in a queue: zmq's default, but not more than about 16 MiB."""
    return max(2, min(1000, (16 << 20) // size))


def serve(spec: dict[str, Any], control: Control) -> None:
    zmq: Any = importlib.import_module("zmq")
    context = zmq.Context()
    calls, stream = context.socket(zmq.REP), context.socket(zmq.PUSH)
    stream.setsockopt(zmq.SNDHWM, _backlog(spec["size"]))
    calls.bind(spec["address"])
    stream.bind(spec["address"] + ".stream")

    def wait() -> None:
        while control.receive() is not None:
            control.answer()
        os._exit(0)  # the other thread is inside zmq

    threading.Thread(target=wait, daemon=True).start()
    settle()
    control.answer(pid=os.getpid())
    while True:
        request = calls.recv()
        calls.send(request)
        if len(request) == _OPEN.size:
            size, count = _OPEN.unpack(request)
            message = loops.FILL * size
            for _ in range(count):
                stream.send(message)


def drive(spec: dict[str, Any], control: Control) -> None:
    zmq: Any = importlib.import_module("zmq")
    context = zmq.Context()
    calls, stream = context.socket(zmq.REQ), context.socket(zmq.PULL)
    stream.setsockopt(zmq.RCVHWM, _backlog(spec["size"]))
    calls.setsockopt(zmq.RCVTIMEO, _CONNECT_MS)
    stream.setsockopt(zmq.RCVTIMEO, _CONNECT_MS)
    calls.connect(spec["address"])
    stream.connect(spec["address"] + ".stream")
    send, receive, receive_one = calls.send, calls.recv, stream.recv
    payload = os.urandom(spec["size"])

    def echo(data: bytes) -> bytes:
        send(data)
        answer: bytes = receive()
        return answer

    def open_stream(count: int) -> Any:
        echo(_OPEN.pack(len(payload), count))
        for _ in range(count):
            yield receive_one()

    if echo(payload) != payload:
        raise RuntimeError("the echo is not what was sent")
    if list(open_stream(2)) != [loops.FILL * len(payload)] * 2:
        raise RuntimeError("the stream is not what was asked for")
    streams = loops.Streams()
    if spec["loop"] == "stream":
        obey(control, lambda span, times: streams.run(open_stream, span))
    else:
        obey(control, lambda span, times: loops.unary(echo, payload, span, times))
    context.destroy(linger=0)
