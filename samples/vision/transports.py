"""The ways a picture can travel from one service to the next.

A way more is one entry more in TRANSPORTS; services, measurement, table and chart take all
that the list names.

What changes when one moves from stock messages to generated ones is in three of an entry's lines:
which modules are imported, where pixels are computed, and what a message is given of them. The
services are the same, and so are the modules that serve and call.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zerohop.codegen.stubs import import_generated, import_stubs

Pixels = NDArray[np.uint8]

PROTO = Path(__file__).with_name("vision.proto")

# grpcio refuses messages above 4 MiB unless it is told otherwise.
OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


def stock_stubs() -> tuple[Any, Any]:
    """The modules that grpcio-tools makes of vision.proto: messages, stubs."""
    return import_stubs(PROTO)


def generated_stubs() -> tuple[Any, Any]:
    """The same of zerohop's generator, which makes one module: python -m zerohop.protoc."""
    module = import_generated(PROTO)
    return module, module


@dataclass(frozen=True)
class Transport:
    """One way: which module serves and calls, with which messages, at which addresses."""

    key: str  # on the command line, in the results, in socket names
    label: str  # in the table and in the chart
    module: str  # "grpc", or what has the same interfaces
    address: str  # for str.format, with {directory} and {name}
    counted: bool  # whether the module has stats()
    # What the messages want of pixels: room to compute them in, and the value of a bytes field.
    canvas: Callable[[tuple[int, ...]], Pixels]
    pixels: Callable[[Pixels], Any]
    load_stubs: Callable[[], tuple[Any, Any]] = stock_stubs

    @property
    def generated(self) -> bool:
        """Whether the messages are zerohop's."""
        return self.load_stubs is generated_stubs

    @cached_property
    def rpc(self) -> Any:
        """The module; imported when first asked for, so that grpcio alone needs nothing else."""
        return importlib.import_module(self.module)

    @cached_property
    def messages(self) -> Any:
        return self.load_stubs()[0]

    @cached_property
    def stubs(self) -> Any:
        return self.load_stubs()[1]

    def _address(self, directory: str, service: str) -> str:
        return self.address.format(directory=directory, name=f"{self.key}-{service}")

    def channel(self, directory: str, service: str) -> Any:
        """A channel to `service`; `directory` holds the run's sockets."""
        return self.rpc.insecure_channel(self._address(directory, service), options=OPTIONS)

    def server(self, directory: str, service: str) -> Any:
        """A server at the place where `channel` looks for `service`, to be filled and started."""
        server = self.rpc.server(ThreadPoolExecutor(max_workers=4), options=OPTIONS)
        server.add_insecure_port(self._address(directory, service))
        return server

    def counters(self) -> dict[str, int]:
        """This process's transport counters; empty where the transport has none."""
        if not self.counted:
            return {}
        return {name: count for name, count in self.rpc.stats().items() if isinstance(count, int)}


def _empty(shape: tuple[int, ...]) -> Pixels:
    return np.empty(shape, np.uint8)


def _to_bytes(pixels: Pixels) -> bytes:
    """protobuf's own messages take bytes and nothing else."""
    return pixels.tobytes()


def _shared(shape: tuple[int, ...]) -> Pixels:
    """Memory that the next service will read where it lies."""
    import zerohop  # here, so that grpcio alone needs nothing else

    return np.ndarray(shape, np.uint8, buffer=zerohop.alloc(math.prod(shape)))


def _as_is(pixels: Pixels) -> Pixels:
    """Generated messages take any buffer, and keep one of zerohop.alloc's as it is."""
    return pixels


TRANSPORTS = (
    Transport(
        key="grpcio",
        label="grpcio, unix socket",
        module="grpc",
        address="unix:{directory}/{name}.sock",
        counted=False,
        canvas=_empty,
        pixels=_to_bytes,
    ),
    Transport(
        key="zerohop",
        label="zerohop, stock stubs",
        module="zerohop",
        address="shm:{directory}/{name}.sock",
        counted=True,
        canvas=_empty,
        pixels=_to_bytes,
    ),
    Transport(
        key="generated",
        label="zerohop, generated messages",
        module="zerohop",
        address="shm:{directory}/{name}.sock",
        counted=True,
        canvas=_shared,
        pixels=_as_is,
        load_stubs=generated_stubs,
    ),
)

BY_KEY = {transport.key: transport for transport in TRANSPORTS}
