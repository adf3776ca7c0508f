"""The first service: photographs, one after the other, sent down the row."""

from __future__ import annotations

import os
import sys
from time import monotonic_ns
from typing import Any

import numpy as np
from photos import NoPhotos, find_photos, load
from stage import frame, host
from transports import Pixels, Transport


class Camera:
    """Shoots for one transport; each sees the photographs in the same order."""

    def __init__(self, transport: Transport, next_stage: Any, album: list[tuple[str, Pixels]]):
        self._transport = transport
        self._next = next_stage
        self._album = album
        self._taken = 0

    def Shoot(self, request: Any, context: Any) -> Any:
        messages = self._transport.messages
        send = self._next.HandOn if request.hand_on else self._next.Process
        shots = []
        started = monotonic_ns()
        end = started + request.milliseconds * 1_000_000
        while monotonic_ns() < end and context.is_active():
            exposed = monotonic_ns()
            photo, pixels = self._album[self._taken % len(self._album)]
            self._taken += 1
            picture = self._transport.canvas(pixels.shape)
            np.copyto(picture, pixels)  # as if it came from the sensor
            sent = monotonic_ns()
            receipt = send(frame(self._transport, photo, picture), timeout=10)
            call_ns = monotonic_ns() - sent
            shots.append(
                messages.Shot(call_ns=call_ns, compute_ns=sent - exposed, hops=receipt.hops)
            )
        return messages.ShootReply(elapsed_ns=monotonic_ns() - started, shots=shots)


def main() -> None:
    width, height = (int(side) for side in os.environ["VISION_SIZE"].split("x"))
    try:
        album = load(find_photos(), width, height)
    except NoPhotos as error:
        sys.exit(str(error))

    def add_to(transport: Transport, directory: str, server: Any) -> None:
        resize = transport.stubs.ResizeStub(transport.channel(directory, "resize"))
        camera = Camera(transport, resize, album)
        transport.stubs.add_CameraServicer_to_server(camera, server)

    host("camera", add_to)


if __name__ == "__main__":
    main()
