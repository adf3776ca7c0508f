"""Raw bytes over iceoryx2's Python API: request-response for calls, publish-subscribe for streams.

Both sides poll, which is iceoryx2's fast way; bytes are copied in at the sender and out at the
receiver, as a program that has and wants ``bytes`` does. So that polling disturbs nobody else's
slice, the server polls from the runner's ``begin`` until the client's end mark only.
"""

import ctypes
import importlib
import os
import struct
import time
from pathlib import Path
from typing import Any

from zerohop.bench import loops
from zerohop.bench.client import obey
from zerohop.bench.control import Control
from zerohop.bench.process import settle

_OPEN = struct.Struct("!QQ")
"""A request of this length asks for a stream (echoes are longer): size and count."""
_END = b"."
_CONNECT_S = 30.0
_SHM = Path("/dev/shm")


def prefix() -> str:
    """What the names of the files of this process's run begin with."""
    return f"zhbench{os.getpid()}_"


def remove_files() -> None:
    """Removes what the ended processes of the run left behind."""
    if _SHM.is_dir():
        for path in _SHM.glob(prefix() + "*"):
            path.unlink(missing_ok=True)


class _Services:
    """The two services of a run, with no more memory than one client and one server need."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.iox: Any = importlib.import_module("iceoryx2")
        self.size: int = spec["size"]
        self.iox.set_log_level(self.iox.LogLevel.Fatal)
        config = self.iox.config.default()
        config.global_cfg.root_path = self.iox.Path.new(spec["folder"])
        config.global_cfg.prefix = self.iox.FileName.new(spec["prefix"])
        self.node = (
            self.iox.NodeBuilder.new()
            .config(config)
            .signal_handling_mode(self.iox.SignalHandlingMode.Disabled)
            .create(self.iox.ServiceType.Ipc)
        )
        octets = self.iox.Slice[ctypes.c_uint8]
        self.calls = (
            self.node.service_builder(self.iox.ServiceName.new("calls"))
            .request_response(octets, octets)
            .max_clients(1)
            .max_servers(1)
            .max_active_requests_per_client(2)
            .max_response_buffer_size(1)
            .max_borrowed_responses_per_pending_response(1)
            .max_loaned_requests(1)
            .open_or_create()
        )
        self.stream = (
            self.node.service_builder(self.iox.ServiceName.new("stream"))
            .publish_subscribe(octets)
            .max_publishers(1)
            .max_subscribers(1)
            .enable_safe_overflow(False)
            .history_size(0)
            .subscriber_max_buffer_size(max(2, min(256, (8 << 20) // self.size)))
            .open_or_create()
        )


def serve(spec: dict[str, Any], control: Control) -> None:
    services = _Services(spec)
    server = services.calls.server_builder().initial_max_slice_len(services.size).create()
    publisher = (
        services.stream.publisher_builder()
        .initial_max_slice_len(services.size)
        .backpressure_strategy(services.iox.BackpressureStrategy.RetryUntilDelivered)
        .create()
    )
    settle()
    control.answer(pid=os.getpid())
    while control.receive() is not None:
        control.answer()
        _serve_slice(server, publisher)


def _serve_slice(server: Any, publisher: Any) -> None:
    receive = server.receive
    length = 0
    while length != len(_END):
        request = receive()
        if request is not None:
            length = _answer(request, publisher)


def _answer(request: Any, publisher: Any) -> int:
    """Echoes a request; nothing of it may live on, since it counts against the client's limit."""
    copy = ctypes.memmove
    data = request.payload()
    length: int = data.len()
    response = request.loan_slice_uninit(length)
    copy(response.payload_ptr, data.as_ptr(), length)
    response.assume_init().send()
    if length == _OPEN.size:
        size, count = _OPEN.unpack(ctypes.string_at(data.as_ptr(), length))
        message = loops.FILL * size
        for _ in range(count):
            sample = publisher.loan_slice_uninit(size)
            copy(sample.payload_ptr, message, size)
            sample.assume_init().send()
    return length


def drive(spec: dict[str, Any], control: Control) -> None:
    services = _Services(spec)
    client = services.calls.client_builder().initial_max_slice_len(services.size).create()
    subscriber = services.stream.subscriber_builder().create()
    loan, take, copy, read = (
        client.loan_slice_uninit, subscriber.receive, ctypes.memmove, ctypes.string_at,
    )  # fmt: skip
    payload = os.urandom(services.size)

    def echo(data: bytes) -> bytes:
        request = loan(len(data))
        copy(request.payload_ptr, data, len(data))
        pending = request.assume_init().send()
        receive = pending.receive
        while (response := receive()) is None:
            pass
        answer = response.payload()
        return read(answer.as_ptr(), answer.len())

    def open_stream(count: int) -> Any:
        echo(_OPEN.pack(len(payload), count))
        for _ in range(count):
            while (sample := take()) is None:
                pass
            data = sample.payload()
            yield read(data.as_ptr(), data.len())

    streams = loops.Streams()

    def run(span: int, times: Any) -> loops.Outcome:
        try:
            if spec["loop"] == "stream":
                return streams.run(open_stream, span)
            return loops.unary(echo, payload, span, times)
        finally:
            echo(_END)

    deadline = time.monotonic() + _CONNECT_S
    while services.calls.dynamic_config.number_of_servers == 0:
        if time.monotonic() > deadline:
            raise TimeoutError("no server of iceoryx2 appeared")
        time.sleep(0.01)
    obey(control, run)
