"""What the services have in common: pictures in messages, measurement, and the process itself."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic_ns
from typing import Any

import numpy as np
from transports import BY_KEY, Pixels, Transport


def view(image: Any) -> Pixels:
    """The pixels of a received Image as an array, rows `stride` bytes apart; copies nothing.

    `image.pixels` is read once: protobuf's own messages make new bytes of it each time. Those of
    generated messages are a memoryview of the sender's memory, which lives as long as the view.
    """
    shape = (image.height, image.width, image.channels)
    return np.ndarray(
        shape, np.uint8, buffer=image.pixels, strides=(image.stride, image.channels, 1)
    )


def pack(transport: Transport, pixels: Pixels, image: Any) -> None:
    """Fill the Image of a message with `pixels`.

    An Image made apart would be copied when it is put into the message, as protobuf does.
    """
    image.height, image.width, image.channels = pixels.shape
    image.stride = image.width * image.channels
    image.pixels = transport.pixels(pixels)


@dataclass
class Received:
    """A frame in a service's hands, and since when."""

    photo: str
    picture: Pixels
    edges: Pixels | None
    at_ns: int
    latency_ns: int

    @classmethod
    def of(cls, frame: Any) -> Received:
        picture = view(frame.picture)
        edges = view(frame.edges) if frame.HasField("edges") else None
        now = monotonic_ns()
        return cls(frame.photo, picture, edges, now, now - frame.sent_ns)

    def receipt(self, transport: Transport, name: str, compute_ns: int, later: Any = ()) -> Any:
        """The answer: this service's measurement, then those of the `later` services."""
        now = monotonic_ns()
        hop = transport.messages.Hop(
            service=name,
            latency_ns=self.latency_ns,
            handler_ns=now - self.at_ns,
            compute_ns=compute_ns,
            call_ns=now - self.at_ns - compute_ns if later else 0,
            payload=self.picture.nbytes + (0 if self.edges is None else self.edges.nbytes),
        )
        return transport.messages.Receipt(hops=[hop, *later])


def frame(transport: Transport, photo: str, picture: Any, edges: Pixels | None = None) -> Any:
    """The message that takes a picture to the next service; its clock starts here.

    A picture of our own is an array; one that is handed on is the received Image.
    """
    message = transport.messages.Frame(photo=photo, sent_ns=monotonic_ns())
    if isinstance(picture, np.ndarray):
        pack(transport, picture, message.picture)
    else:
        message.picture.CopyFrom(picture)
    if edges is not None:
        pack(transport, edges, message.edges)
    return message


class HandsOn:
    """What all services behind the camera can do: hand a picture on as it came."""

    transport: Transport
    name: str
    next_stage: Any = None  # the last one has none

    def HandOn(self, request: Any, context: Any) -> Any:
        received = Received.of(request)
        if self.next_stage is None:
            return received.receipt(self.transport, self.name, compute_ns=0)
        onward = frame(self.transport, request.photo, request.picture)
        receipt = self.next_stage.HandOn(onward, timeout=10)
        return received.receipt(self.transport, self.name, 0, receipt.hops)


def host(name: str, add_to: Callable[[Transport, str, Any], None]) -> None:
    """Be the service `name` over each transport that the command line names, until told to end.

    `add_to(transport, directory, server)` puts a servicer into a server. The demo holds the other
    end of standard input and output: it learns from a line when the service is ready, asks for
    counters with a line, and ends the service by closing the pipe, which also happens when the
    demo itself is killed.
    """
    directory, *keys = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the demo's to handle
    transports = [BY_KEY[key] for key in keys]
    servers = []
    for transport in transports:
        server = transport.server(directory, name)
        add_to(transport, directory, server)
        server.start()
        servers.append(server)
    print(json.dumps({"ready": name}), flush=True)
    for _ in sys.stdin:
        counters = {transport.key: transport.counters() for transport in transports}
        print(json.dumps(counters), flush=True)
    for stopped in [server.stop(grace=0) for server in servers]:
        stopped.wait(timeout=2)
