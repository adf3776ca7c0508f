"""The second service: half the width and half the height."""

from __future__ import annotations

from time import monotonic_ns
from typing import Any

import numpy as np
from PIL import Image
from stage import HandsOn, Received, frame, host
from transports import Pixels, Transport


def halve(picture: Pixels, into: Pixels) -> None:
    """Each pixel of `into` is the mean of four of `picture`."""
    height, width, _ = into.shape
    image = Image.fromarray(picture[: 2 * height, : 2 * width])
    np.copyto(into, np.asarray(image.reduce(2)))


class Resize(HandsOn):
    name = "resize"

    def __init__(self, transport: Transport, next_stage: Any):
        self.transport = transport
        self.next_stage = next_stage

    def Process(self, request: Any, context: Any) -> Any:
        received = Received.of(request)
        height, width, channels = received.picture.shape
        smaller = self.transport.canvas((height // 2, width // 2, channels))
        halve(received.picture, into=smaller)
        compute_ns = monotonic_ns() - received.at_ns
        onward = frame(self.transport, received.photo, smaller)
        receipt = self.next_stage.Process(onward, timeout=10)
        return received.receipt(self.transport, self.name, compute_ns, receipt.hops)


def add_to(transport: Transport, directory: str, server: Any) -> None:
    edges = transport.stubs.EdgesStub(transport.channel(directory, "edges"))
    transport.stubs.add_ResizeServicer_to_server(Resize(transport, edges), server)


if __name__ == "__main__":
    host("resize", add_to)
