"""The third service: where the picture changes fast. It hands on the picture and its edges."""

from __future__ import annotations

from time import monotonic_ns
from typing import Any

import numpy as np
from stage import HandsOn, Received, frame, host
from transports import Pixels, Transport


def sobel(picture: Pixels, into: Pixels) -> None:
    """The strength of Sobel's gradient of the green channel; the border stays black."""
    green = picture[:, :, 1].astype(np.int16)
    down = green[:-2] + 2 * green[1:-1] + green[2:]
    across = green[:, :-2] + 2 * green[:, 1:-1] + green[:, 2:]
    strength = np.abs(down[:, 2:] - down[:, :-2]) + np.abs(across[2:] - across[:-2])
    into.fill(0)
    np.minimum(strength >> 2, 255, out=into[1:-1, 1:-1, 0], casting="unsafe")


class Edges(HandsOn):
    name = "edges"

    def __init__(self, transport: Transport, next_stage: Any):
        self.transport = transport
        self.next_stage = next_stage

    def Process(self, request: Any, context: Any) -> Any:
        received = Received.of(request)
        height, width, _ = received.picture.shape
        edges = self.transport.canvas((height, width, 1))
        sobel(received.picture, into=edges)
        compute_ns = monotonic_ns() - received.at_ns
        onward = frame(self.transport, received.photo, request.picture, edges)
        receipt = self.next_stage.Process(onward, timeout=10)
        return received.receipt(self.transport, self.name, compute_ns, receipt.hops)


def add_to(transport: Transport, directory: str, server: Any) -> None:
    catalogue = transport.stubs.CatalogueStub(transport.channel(directory, "catalogue"))
    transport.stubs.add_EdgesServicer_to_server(Edges(transport, catalogue), server)


if __name__ == "__main__":
    host("edges", add_to)
