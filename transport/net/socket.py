"""Sockets of a stack, in the ways of BSD."""

from __future__ import annotations

import errno
import socket as kernel
import time
import warnings
from typing import TYPE_CHECKING, Any, Self

from zerohop.transport.net._net import ffi, lib
from zerohop.transport.net.binding import (
    ERR,
    OUT,
    Address,
    address_of,
    check,
    iovecs,
    sockaddr,
    view,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from typing_extensions import Buffer
    from zerohop.transport.net.stack import Stack

__all__ = ["Address", "Socket"]

_OPTION_SIZE = 256  # struct tcp_info is the largest


class Socket:
    """A TCP socket; made by `Stack.socket` and by `accept`.

    Without `timeout`, or with 0, a call that cannot be done now raises BlockingIOError, and
    `Stack.run` tells when to try again. With a number of seconds, or None for as long as it takes,
    the call runs the stack meanwhile; then TimeoutError. What is sent leaves with the next
    `Stack.run`, or within a call that has a timeout.

    Errors are OSError, of the subclass that the number has: ConnectionResetError and its like.
    """

    def __init__(self, stack: Stack, handle: Any, family: int) -> None:
        self._stack = stack
        self._handle = handle
        self._family = family
        self._on_ready: Callable[[Socket, int], object] | None = None
        stack._add(self, handle)

    # --- birth and end ----------------------------------------------------------------------------

    @property
    def stack(self) -> Stack:
        """Whose socket it is."""
        return self._stack

    @property
    def family(self) -> int:
        """AF_INET or AF_INET6; one of IPv6 speaks IPv4 too."""
        return self._family

    @property
    def closed(self) -> bool:
        """Whether it is, or its stack."""
        return self._handle is None or self._stack.closed

    def bind(self, address: Address) -> None:
        """Take an own address, "" for every one of the stack's, and a port, 0 for a free one."""
        storage, size = sockaddr(address, self._family)
        self._call(lambda s: lib.zh_net_bind(s, ffi.cast("struct sockaddr *", storage), size))

    def listen(self, backlog: int = 128) -> None:
        """Take connections; `backlog` of them may wait for accept."""
        self._call(lambda s: lib.zh_net_listen(s, backlog))

    def accept(self, timeout: float | None = 0) -> Socket:
        """The next connection; `getpeername` tells whose."""
        handle = ffi.new("struct zh_net_socket **")
        self._until(lambda s: lib.zh_net_accept(s, handle), timeout)
        return Socket(self._stack, handle[0], self._family)

    def connect(self, address: Address, timeout: float | None = 0) -> None:
        """Connect. Without timeout BlockingIOError(EINPROGRESS): then OUT, or ERR, will be told."""
        storage, size = sockaddr(address, self._family)
        peer = ffi.cast("struct sockaddr *", storage)
        handle = self._enter()
        try:
            result = lib.zh_net_connect(handle, peer, size)
        finally:
            self._stack._leave()
        if result != -errno.EINPROGRESS or timeout == 0:
            check(result)
        self._until(self._connected, timeout)

    @staticmethod
    def _connected(handle: Any) -> int:
        ready = lib.zh_net_ready(handle)
        if ready & ERR:
            return -int(_option(handle, kernel.SOL_SOCKET, kernel.SO_ERROR))
        return 0 if ready & OUT else -errno.EAGAIN

    def shutdown(self, how: int) -> None:
        """End one direction or both: SHUT_RD, SHUT_WR, SHUT_RDWR of the socket module."""
        self._call(lambda s: lib.zh_net_shutdown(s, how))

    def close(self) -> None:
        """End the connection: what was sent goes out, then the end. Once, or more often."""
        if not self.closed:
            self._call(self._close)
        self._handle = None

    def _close(self, handle: Any) -> int:
        self._stack._remove(handle)
        lib.zh_net_close(handle)
        return 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None and not self._stack.closed:
            text = f"unclosed {self!r}"
            # Before the warning, in which this object may live on.
            handle, self._handle = self._handle, None
            self._stack._remove(handle)
            self._stack._orphan(handle)
            warnings.warn(text, ResourceWarning, source=self, stacklevel=1)

    def __repr__(self) -> str:
        if self.closed:
            return "<zerohop socket, closed>"
        return f"<zerohop socket 0x{int(ffi.cast('uintptr_t', self._handle)):x}>"

    # --- data -------------------------------------------------------------------------------------

    def send(self, data: Buffer, timeout: float | None = 0) -> int:
        """Send any contiguous buffer by reference, all of it; returns its size.

        The memory is kept until the peer has acknowledged it, and must not be changed meanwhile
        (bytes cannot be; a bytearray cannot be resized).
        """
        return self.sendmsg((data,), timeout)

    def sendall(self, data: Buffer, timeout: float | None = None) -> None:
        """`send`, waiting where it has to."""
        self.sendmsg((data,), timeout)

    def sendmsg(self, buffers: Iterable[Buffer], timeout: float | None = 0) -> int:
        """Send several buffers as one, as `send` does."""
        stack = self._stack
        pieces, count, kept, size = iovecs(buffers)
        if size == 0:
            return 0
        name = stack._name

        def call(handle: Any) -> int:
            result: int = lib.binding_send(handle, stack._loans, pieces, count, name)
            if result == 0:
                stack._lent[name[0]] = kept
            return result

        self._until(call, timeout)
        if timeout != 0:
            stack._pump(0)
        return size

    def recv(self, timeout: float | None = 0) -> memoryview:
        """What has come next, in the packet in which it came; an empty view at the end.

        The view is read-only. The packet goes back when the last view on it is dropped, or
        released; packets that are kept take from what the peer may send (`receive_budget`).
        """
        views = self.recv_views(1, timeout)
        return views[0] if views else _END

    def recv_views(self, most: int = 64, timeout: float | None = 0) -> list[memoryview]:
        """Up to `most` views, as `recv` gives one; an empty list at the end."""
        segments = self._stack._segments
        most = min(most, len(segments))
        count = self._until(lambda s: lib.binding_take(s, segments, most), timeout)
        return [view(segments[index]) for index in range(count)]

    def recv_into(
        self, buffer: Buffer, nbytes: int = 0, flags: int = 0, timeout: float | None = 0
    ) -> int:
        """Copy what has come; how many bytes, 0 at the end. `flags`: MSG_PEEK."""
        into = ffi.from_buffer("uint8_t[]", buffer, require_writable=True)
        size = min(nbytes, len(into)) if nbytes else len(into)
        return self._until(lambda s: lib.zh_net_recv(s, into, size, flags), timeout)

    # --- readiness --------------------------------------------------------------------------------

    @property
    def ready(self) -> int:
        """IN, OUT, HUP and ERR as they stand now."""
        return self._call(lib.zh_net_ready)

    @property
    def on_ready(self) -> Callable[[Socket, int], object] | None:
        """Called by `Stack.run` with the socket and what it is ready for, in place of an event.

        While it has one the stack keeps the socket. An exception goes to the caller of run.
        """
        return self._on_ready

    @on_ready.setter
    def on_ready(self, call: Callable[[Socket, int], object] | None) -> None:
        self._on_ready = call
        if not self.closed:
            self._stack._keep(self, self._handle, call is not None)

    # --- facts and options ------------------------------------------------------------------------

    def getsockname(self) -> Address:
        """The own address and port."""
        return self._address(lib.zh_net_getsockname)

    def getpeername(self) -> Address:
        """The peer's."""
        return self._address(lib.zh_net_getpeername)

    def setsockopt(self, level: int, option: int, value: int | Buffer) -> None:
        """An option by the socket module's names, such as TCP_NODELAY and TCP_CONGESTION."""
        data = ffi.new("int *", value) if isinstance(value, int) else ffi.from_buffer(value)
        size = ffi.sizeof("int") if isinstance(value, int) else len(data)
        self._call(lambda s: lib.zh_net_setsockopt(s, level, option, data, size))

    def getsockopt(self, level: int, option: int, buflen: int = 0) -> int | bytes:
        """A number, or up to `buflen` bytes."""
        handle = self._enter()
        try:
            return _option(handle, level, option, buflen)
        finally:
            self._stack._leave()

    # --- within -----------------------------------------------------------------------------------

    def _enter(self) -> Any:
        """The handle. The stack is this thread's until `Stack._leave`."""
        self._stack._enter()
        if self._handle is None:
            self._stack._leave()
            raise OSError(errno.EBADF, "this socket is closed")
        return self._handle

    def _call(self, call: Callable[[Any], int]) -> int:
        handle = self._enter()
        try:
            return check(call(handle))
        finally:
            self._stack._leave()

    def _until(self, call: Callable[[Any], int], timeout: float | None) -> int:
        """Call until it does not say EAGAIN."""
        stack = self._stack
        deadline = None
        while True:
            handle = self._enter()
            try:
                result = call(handle)
            finally:
                stack._leave()
            if result != -errno.EAGAIN or timeout == 0:
                return check(result)
            if timeout is not None:
                now = time.monotonic()
                deadline = now + timeout if deadline is None else deadline
                if now >= deadline:
                    raise TimeoutError("timed out")
            stack._pump(deadline)

    def _address(self, call: Callable[[Any, Any], int]) -> Address:
        storage = ffi.new("struct sockaddr_storage *")
        self._call(lambda s: call(s, storage))
        return address_of(storage[0])


_END = memoryview(b"")


def _option(handle: Any, level: int, option: int, buflen: int = 0) -> int | bytes:
    data = ffi.new("uint8_t[]", _OPTION_SIZE)
    size = ffi.new("socklen_t *", min(buflen, _OPTION_SIZE) if buflen else ffi.sizeof("int"))
    check(lib.zh_net_getsockopt(handle, level, option, data, size))
    if buflen:
        return bytes(ffi.buffer(data, size[0]))
    return int(ffi.cast("int *", data)[0])
