"""A stack on its port, and the loop that runs it."""

from __future__ import annotations

import atexit
import collections
import errno
import os
import threading
import time
import warnings
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from zerohop.transport.net._net import ffi, lib
from zerohop.transport.net.binding import (
    AF_INET,
    Address,
    address_of,
    chars,
    check,
    explained,
    nanoseconds,
    sockaddr,
    string,
)
from zerohop.transport.net.ports import close_port, open_port
from zerohop.transport.net.socket import Socket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

EVENTS = 64
SEGMENTS = 64
NAMES = 256
SLICE = 0.1
"""Seconds after which a run looks whether a signal has come: one may come just before it sleeps."""

_SERVICES = {
    "echo": lib.ZH_SERVICE_ECHO,
    "sink": lib.ZH_SERVICE_SINK,
    "source": lib.ZH_SERVICE_SOURCE,
}


class Route(NamedTuple):
    """The way to a network that is not on the link."""

    destination: str
    """As "10.1.0.0/16"."""
    gateway: str
    datacenter: bool = False
    """RTO of at least 5 ms rather than 200 ms (RFC 6298 has 1 s)."""


class Event(NamedTuple):
    """A socket that has become ready for something."""

    socket: Socket
    ready: int
    """IN, OUT, HUP and ERR, as they stood then."""


class Connection(NamedTuple):
    """A line of the connection table."""

    local: Address
    peer: Address
    state: str
    """As RFC 9293 writes it: "ESTABLISHED", "TIME-WAIT"."""
    congestion_control: str
    receive_queue: int
    send_queue: int
    """Bytes."""
    cwnd: int
    ssthresh: int | None
    """Bytes; None: not set."""
    rtt_us: int
    rto_us: int
    mss: int
    retransmissions: int


class Stack:
    """A TCP/IP stack on a DPDK port; nothing of it is the kernel's.

    `port` is a device as DPDK writes it ("net_af_packet0,iface=veth1", "0000:03:00.0"), `address`
    one or several own addresses with their prefix lengths. Numbers that are 0 mean the default that
    zerohop/net.h tells; times are in seconds. `eal` are further arguments for DPDK, which starts
    once in a process. OSError, with a sentence that says what to do, where it cannot be made.

    A stack that was made before a fork is of no use in the child.
    """

    def __init__(
        self,
        port: str,
        address: str | Iterable[str],
        *,
        gateway: str | None = None,
        routes: Iterable[Route] = (),
        mtu: int = 0,
        congestion_control: str | None = None,
        trust_checksum: bool = False,
        eal: str | None = None,
        spin: float = 0,
        rto_min: float = 0,
        delayed_ack: float = 0,
        time_wait: float = 0,
        rx_packets: int = 0,
        send_packets: int = 0,
        receive_budget: int = 0,
        send_limit: int = 0,
        max_connections: int = 0,
        max_half_open: int = 0,
        max_time_wait: int = 0,
        max_neighbours: int = 0,
    ) -> None:
        self._net: Any = None
        self._port: Any = None
        self._loop: Any = None
        self._forked = False
        self._lock = threading.Lock()
        self._sockets: weakref.WeakValueDictionary[int, Socket] = weakref.WeakValueDictionary()
        self._kept: dict[int, Socket] = {}
        self._orphans: collections.deque[Any] = collections.deque()
        self._calls: collections.deque[Callable[[], object]] = collections.deque()
        self._pending: list[Event] = []
        self._woken = False
        self._loans: Any = ffi.new("struct binding_loans *")
        self._lent: dict[int, list[Any]] = {}  # what C reads, by the name of the loan
        self._name = ffi.new("uintptr_t *")
        self._names = ffi.new("uintptr_t[]", NAMES)
        self._segments = ffi.new("struct zh_stream_segment[]", SEGMENTS)
        self._events = ffi.new("struct zh_net_event[]", EVENTS)
        self._thread = self._owner = threading.get_ident()

        addresses = [address] if isinstance(address, str) else list(address)
        ways = list(routes)
        if gateway is not None:
            ways.insert(0, Route("::/0" if ":" in gateway else "0.0.0.0/0", gateway))
        prefixes = ffi.new("struct zh_net_prefix[]", len(addresses))
        for prefix, text in zip(prefixes, addresses, strict=True):
            _parse(text, ffi.addressof(prefix))
        table = ffi.new("struct zh_net_route[]", len(ways))
        for entry, way in zip(table, ways, strict=True):
            _parse(way.destination, ffi.addressof(entry, "destination"))
            _parse(way.gateway, ffi.addressof(entry, "gateway"))
            entry.datacenter = way.datacenter
        congestion = chars(congestion_control)
        config = ffi.new(
            "struct zh_net_config *",
            {
                "addresses": prefixes,
                "address_count": len(addresses),
                "routes": table,
                "route_count": len(ways),
                "mtu": mtu,
                "congestion_control": congestion,
                "rto_min": nanoseconds(rto_min),
                "delayed_ack": nanoseconds(delayed_ack),
                "time_wait": nanoseconds(time_wait),
                "max_connections": max_connections,
                "max_half_open": max_half_open,
                "max_time_wait": max_time_wait,
                "max_neighbours": max_neighbours,
                "send_packets": send_packets,
                "receive_budget": receive_budget,
                "send_limit": send_limit,
            },
        )
        try:
            self._port = open_port(
                port, mtu=mtu, rx_packets=rx_packets, trust_checksum=trust_checksum, eal=eal
            )
            error = ffi.new("char[]", lib.ZH_PORT_ERROR_SIZE)
            net = ffi.new("struct zh_net **")
            explained(lib.zh_net_create(config, self._port, net, error), error)
            self._net = net[0]
            loop = ffi.new("struct zh_loop **")
            check(lib.zh_loop_create(self._net, self._port, nanoseconds(spin), loop))
            self._loop = loop[0]
        except BaseException:
            self._destroy()
            raise
        _stacks.add(self)

    # --- the end ----------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it is, or belongs to the process that this one was forked from."""
        return self._net is None

    def close(self, timeout: float = 0) -> None:
        """Close all sockets, then the port.

        Connections that have something to send, or whose end is not acknowledged, get `timeout`
        seconds for it; what is left then is not sent. Views on packets stay valid.
        """
        if self.closed:
            return
        deadline = time.monotonic() + timeout
        for socket in [*self._sockets.values()]:
            socket.close()
        self._pump(0)
        while (
            any(line.state not in ("LISTEN", "TIME-WAIT") for line in self.connections())
            and time.monotonic() < deadline
        ):
            self._pump(min(deadline, time.monotonic() + 0.01))
        self._enter()
        try:
            self._destroy()
        finally:
            self._lock.release()
            _stacks.discard(self)

    def _destroy(self) -> None:
        if self._loop is not None:
            lib.zh_loop_destroy(self._loop)
        if self._net is not None:
            lib.zh_net_destroy(self._net)
        if self._port is not None:
            close_port(self._port)
        self._loop = self._net = self._port = None
        self._kept.clear()
        self._orphans.clear()
        self._drain()
        if self._lent:
            _lingering.append((self._loans, self._lent))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_net", None) is not None:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=None, stacklevel=1)
            self._destroy()

    # --- sockets ----------------------------------------------------------------------------------

    def socket(self, family: int = AF_INET) -> Socket:
        """A new TCP socket, AF_INET or AF_INET6."""
        handle = ffi.new("struct zh_net_socket **")
        self._enter()
        try:
            check(lib.zh_net_socket(self._net, family, handle))
        finally:
            self._leave()
        return Socket(self, handle[0], family)

    def start_service(self, kind: str, port: int) -> None:
        """Serve "echo" (RFC 862), "sink" (RFC 863) or "source" (as RFC 864), in C."""
        self._enter()
        try:
            check(lib.zh_service_start(self._net, _SERVICES[kind], port))
        finally:
            self._leave()

    # --- running ----------------------------------------------------------------------------------

    def run(self, timeout: float | None = None) -> list[Event]:
        """Run the stack until sockets are ready, `timeout` seconds have gone by (0: once round) or
        it was woken; without the GIL while it waits.

        A socket is told of when its readiness has grown, more data included, and not again before
        that: use it until BlockingIOError. Sockets with `on_ready` are called instead.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if not self._pending:
                self._pump(0 if timeout == 0 else deadline)
            events = [event for event in self._pending if not event.socket.closed]
            self._pending.clear()
            if events or self._woken or (deadline and time.monotonic() >= deadline):
                self._woken = False
                return events

    def wake(self) -> None:
        """End the run, or the next one, at once. Any thread, and signal handlers."""
        self._woken = True
        loop = self._loop
        if loop is not None:
            lib.zh_loop_wake(loop)

    def call_soon_threadsafe(self, call: Callable[[], object]) -> None:
        """Have the thread that runs the stack call something. Any thread."""
        self._calls.append(call)
        loop = self._loop
        if loop is not None:
            lib.zh_loop_wake(loop)

    def _pump(self, deadline: float | None) -> None:
        """Run, at most for a slice, until something has happened; 0: once round."""
        until = 0
        if deadline != 0:
            now = time.monotonic()
            until = int(min(now + SLICE, deadline or now + SLICE) * 1e9)
        self._enter()
        try:
            if self._thread != threading.get_ident():
                self._thread = threading.get_ident()
                lib.zh_eal_thread()
            while self._orphans:
                lib.zh_net_close(self._orphans.popleft())
            count = lib.zh_loop_run(self._loop, self._events, EVENTS, until)
            ready = [
                (int(ffi.cast("uintptr_t", event.socket)), event.ready)
                for event in self._events[0 : max(count, 0)]
            ]
        finally:
            self._leave()
        if count == -errno.ENETDOWN:
            raise OSError(
                errno.ENETDOWN, "the port has gone: its interface was deleted, or its peer"
            )
        if count < 0 and count != -errno.EINTR:
            check(count)
        failed = None
        for key, what in ready:
            socket = self._sockets.get(key)
            if socket is None:
                continue  # closed by another's callback
            call = socket._on_ready
            if call is None:
                self._pending.append(Event(socket, what))
                continue
            try:
                call(socket, what)
            except BaseException as error:
                failed = failed or error
        if failed is not None:
            raise failed
        while self._calls:
            self._calls.popleft()()

    # --- facts ------------------------------------------------------------------------------------

    @property
    def mac(self) -> str:
        """The port's hardware address."""
        self._enter()
        try:
            return ":".join(f"{byte:02x}" for byte in self._port.mac)
        finally:
            self._leave()

    @property
    def mtu(self) -> int:
        """The port's."""
        self._enter()
        try:
            return int(self._port.mtu)
        finally:
            self._leave()

    def stats(self) -> dict[str, int]:
        """The counters of zerohop/net.h, since the stack was made."""
        stats = ffi.new("struct zh_net_stats *")
        self._enter()
        try:
            lib.zh_net_read_stats(self._net, stats)
        finally:
            self._leave()
        return {name: getattr(stats, name) for name in COUNTERS}

    def port_stats(self) -> dict[str, int]:
        """The port's counters: `rx_packets`, `tx_busy` and so on, as zerohop/port.h tells."""
        stats = ffi.new("struct zh_port_stats *")
        self._enter()
        try:
            lib.zh_port_stats(self._port, stats)
        finally:
            self._leave()
        return {name: getattr(stats, name) for name, _ in ffi.typeof(stats[0]).fields}

    def connections(self) -> list[Connection]:
        """The connection table, with those that are ending."""
        self._enter()
        try:
            count = lib.zh_net_connections(self._net, ffi.NULL, 0)
            lines = ffi.new("struct zh_net_connection[]", count)
            lib.zh_net_connections(self._net, lines, count)
        finally:
            self._leave()
        return [_connection(line) for line in lines]

    # --- tools ------------------------------------------------------------------------------------

    def ping(
        self, host: str, *, size: int = 56, sequence: int = 0, timeout: float = 1
    ) -> tuple[float, int] | None:
        """Ask for an echo (ICMP): (seconds, TTL of the answer), or None where none comes in time.

        OSError where there is no way to the host, or `size` is more than a packet has room for.
        """
        if not 0 <= size <= 65535:
            raise ValueError(f"a payload has 0 to 65535 bytes, not {size}")
        storage, length = sockaddr((host, 0), AF_INET)
        one: Any = ffi.new("struct binding_ping *")
        one.ping.identifier = os.getpid() & 0xFFFF
        one.ping.sequence = sequence & 0xFFFF
        one.ping.size = size
        one.loop = self._loop or ffi.NULL
        deadline = time.monotonic() + timeout
        self._enter()
        try:
            check(lib.binding_ping(self._net, one, storage, length))
        finally:
            self._leave()
        try:
            while not one.ping.received and time.monotonic() < deadline:
                self._pump(deadline)
        finally:
            if not self.closed and not one.ping.received:
                self._enter()
                lib.zh_net_ping_stop(self._net, ffi.addressof(one, "ping"))
                self._leave()
        if not one.ping.received:
            return None
        return (one.ping.received - one.ping.sent) / 1e9, one.ping.ttl

    def capture(self, path: str | os.PathLike[str] | None) -> None:
        """Write all frames to a file that tcpdump and tshark read, until it is None or closed."""
        fd = -1
        if path is not None:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._enter()
        try:
            check(lib.zh_net_capture(self._net, fd, time.time_ns() - time.monotonic_ns()))
        except OSError:
            if fd >= 0:
                os.close(fd)
            raise
        finally:
            self._leave()

    # --- within -----------------------------------------------------------------------------------

    def _enter(self) -> None:
        """Take the stack for this thread, until `_leave`."""
        # Ours already: an exception of a signal handler came between this and its `try`.
        if not self._lock.acquire(blocking=False) and self._owner != threading.get_ident():
            raise RuntimeError(
                "another thread uses this stack: one at a time may (call_soon_threadsafe hands "
                "over what the other one is to do)"
            )
        self._owner = threading.get_ident()
        if self._net is None:
            self._lock.release()
            if self._forked:
                raise OSError(
                    errno.ENOTSUP,
                    "this stack was made before the process was forked, and stays the parent's: "
                    "make stacks in the child only, or use spawn instead of fork",
                )
            raise OSError(errno.EBADF, "this stack is closed")

    def _leave(self) -> None:
        if self._loans.back:
            self._drain()
        self._lock.release()

    def _drain(self) -> None:
        """Let go of what C does not read any more."""
        while count := lib.binding_loans_back(self._loans, self._names, NAMES):
            for index in range(count):
                self._lent.pop(self._names[index], None)

    def _add(self, socket: Socket, handle: Any) -> None:
        self._sockets[int(ffi.cast("uintptr_t", handle))] = socket

    def _remove(self, handle: Any) -> None:
        key = int(ffi.cast("uintptr_t", handle))
        self._sockets.pop(key, None)
        self._kept.pop(key, None)

    def _keep(self, socket: Socket, handle: Any, keep: bool) -> None:
        key = int(ffi.cast("uintptr_t", handle))
        if keep:
            self._kept[key] = socket
        else:
            self._kept.pop(key, None)

    def _orphan(self, handle: Any) -> None:
        """Close the socket of an object that was dropped, in the next run. Any thread."""
        self._orphans.append(handle)


COUNTERS: dict[str, str] = {}
"""The counters, and what each of them counts."""
while True:
    _found = lib.binding_counter_name(len(COUNTERS))
    if _found == ffi.NULL:
        break
    COUNTERS[string(_found)] = string(lib.binding_counter_meaning(len(COUNTERS)))

_stacks: weakref.WeakSet[Stack] = weakref.WeakSet()
_lingering: list[Any] = []
"""What devices still read when their stack was closed."""


def _parse(text: str, prefix: Any) -> None:
    if lib.zh_net_prefix_parse(text.encode(), prefix) != 0:
        raise ValueError(f"{text!r} is no address such as 10.77.0.1/24 or fd00::1/64")


def _connection(line: Any) -> Connection:
    return Connection(
        address_of(line.local),
        address_of(line.peer),
        string(line.state),
        string(line.congestion_control),
        line.receive_queue,
        line.send_queue,
        line.cwnd,
        None if line.ssthresh == 2**64 - 1 else line.ssthresh,
        line.rtt_us,
        line.rto_us,
        line.mss,
        line.retransmissions,
    )


def _close_all() -> None:
    for stack in list(_stacks):
        if not stack._lock.locked():
            stack.close()


def _forget_parents() -> None:
    """In a forked child: its stacks are the parent's, and their memory reads as zeros."""
    for stack in list(_stacks):
        stack._forked = True
        stack._lock = threading.Lock()
        stack._net = stack._port = stack._loop = None
        stack._orphans.clear()
    _stacks.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_parents)
