"""Ports without a stack: opening them, a wire between two, and what one of them can do."""

from __future__ import annotations

import dataclasses
import errno
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from zerohop.transport.net._net import ffi, lib
from zerohop.transport.net.binding import chars, check, explained, nanoseconds

if TYPE_CHECKING:
    from types import TracebackType

SLICE = 0.1
"""Seconds after which a run looks whether a signal has come."""


def open_port(
    device: str,
    *,
    mtu: int = 0,
    rx_packets: int = 0,
    trust_checksum: bool = False,
    eal: str | None = None,
) -> Any:
    """A port, for close_port. OSError with a sentence."""
    name, arguments = chars(device), chars(eal)
    config = ffi.new(
        "struct zh_port_config *",
        {
            "device": name,
            "mtu": mtu,
            "rx_packets": rx_packets,
            "trust_checksum": trust_checksum,
            "eal": arguments,
        },
    )
    error = ffi.new("char[]", lib.ZH_PORT_ERROR_SIZE)
    port = ffi.new("struct zh_port **")
    explained(lib.zh_port_open(config, port, error), error)
    return port[0]


def close_port(port: Any) -> None:
    """Packets that came from it stay valid."""
    lib.zh_port_close(port)


@dataclasses.dataclass(frozen=True)
class Fault:
    """What a wire does to one direction; shares are of 0 to 1, times in seconds."""

    loss: float = 0
    duplicate: float = 0
    corrupt: float = 0
    """One bit of the packet, after the Ethernet header."""
    reorder: float = 0
    """This share is held back by `reorder_delay`."""
    reorder_delay: float = 0
    delay: float = 0
    jitter: float = 0
    """0 to so much more, without reordering."""
    rate: int = 0
    """Bits per second; 0: no limit."""
    queue: int = 0
    """Packets that may wait for the rate; 0: 1000."""

    def _c(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        for name in ("reorder_delay", "delay", "jitter"):
            values[name] = nanoseconds(values[name])
        return values


class Carried(NamedTuple):
    """What a wire did to one direction, in packets."""

    put: int
    got: int
    lost: int
    dropped: int
    duplicated: int
    corrupted: int
    reordered: int
    refused: int
    """That the device did not take."""


class Bridge:
    """A wire between two devices. One thread."""

    def __init__(
        self,
        a: str,
        b: str,
        a_to_b: Fault,
        b_to_a: Fault,
        *,
        seed: int = 1,
        eal: str | None = None,
    ) -> None:
        self._ports: list[Any] = []
        self._bridge: Any = None
        try:
            for device in (a, b):
                self._ports.append(open_port(device, eal=eal))
            faults = ffi.new("struct zh_fault[]", [a_to_b._c(), b_to_a._c()])
            error = ffi.new("char[]", lib.ZH_PORT_ERROR_SIZE)
            bridge = ffi.new("struct zh_bridge **")
            explained(lib.zh_bridge_create(*self._ports, faults, seed, bridge, error), error)
            self._bridge = bridge[0]
        except BaseException:
            self.close()
            raise

    def run(self, timeout: float | None = None) -> None:
        """Carry packets. OSError(ENETDOWN) where a device has gone."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while deadline is None or time.monotonic() < deadline:
            now = time.monotonic()
            until = now + SLICE if deadline is None else min(deadline, now + SLICE)
            result = lib.zh_bridge_run(self._bridge, nanoseconds(until))
            if result == -errno.ENETDOWN:
                raise OSError(errno.ENETDOWN, "a port has gone: its interface, or its peer")
            if result != -errno.EINTR:
                check(result)

    def stats(self) -> tuple[Carried, Carried]:
        """Of both directions."""
        return self._stats(0), self._stats(1)

    def _stats(self, direction: int) -> Carried:
        stats: Any = ffi.new("struct zh_injector_stats *")
        refused = ffi.new("uint64_t *")
        lib.zh_bridge_stats(self._bridge, direction, stats, refused)
        return Carried(
            stats.put,
            stats.got,
            stats.lost,
            stats.dropped,
            stats.duplicated,
            stats.corrupted,
            stats.reordered,
            refused[0],
        )

    def close(self) -> None:
        """Once, or more often."""
        if self._bridge is not None:
            lib.zh_bridge_destroy(self._bridge)
            self._bridge = None
        while self._ports:
            close_port(self._ports.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()


class Ceiling(NamedTuple):
    """What a port took."""

    frames: int
    bytes: int
    seconds: float


def ceiling(
    device: str, size: int, to: bytes, seconds: float, *, mtu: int = 0, eal: str | None = None
) -> Ceiling:
    """Send equal frames of `size` bytes to a hardware address as fast as the device takes them."""
    if len(to) != 6 or not 0 <= size <= 65535:
        raise ValueError("a hardware address has 6 bytes, and a frame less than 64 KiB")
    port = open_port(device, mtu=mtu, eal=eal)
    try:
        total = Ceiling(0, 0, 0.0)
        error = ffi.new("char[]", lib.ZH_PORT_ERROR_SIZE)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:  # in slices, between which signals come
            found: Any = ffi.new("struct zh_port_ceiling *")
            slice_ = nanoseconds(min(left, 0.5))
            explained(lib.zh_port_ceiling(port, size, to, slice_, found, error), error)
            total = Ceiling(
                total.frames + found.frames,
                total.bytes + found.bytes,
                total.seconds + found.nanoseconds / 1e9,
            )
        return total
    finally:
        close_port(port)
