"""Between Python's values and C's: addresses, errors, views on packets."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

from zerohop.transport.net._net import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Iterable

IN: int = lib.ZH_STREAM_IN
"""Something can be received or accepted, or the peer has ended, or an error is to be told."""
OUT: int = lib.ZH_STREAM_OUT
"""Something can be sent."""
HUP: int = lib.ZH_STREAM_HUP
"""Both directions have ended."""
ERR: int = lib.ZH_STREAM_ERR
"""The connection has failed."""

Address = tuple[str, int]
"""An IPv4 or IPv6 address, or "" for every one, and a port."""

AF_INET = 2
AF_INET6 = 10
_HOST_SIZE = 46  # INET6_ADDRSTRLEN


def check(result: int) -> int:
    """A result of C's; OSError, of the subclass that its number has, where it is an error."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def string(text: Any) -> str:
    """A C string, of ASCII or what a user wrote."""
    found = ffi.string(text)
    return found.decode(errors="replace") if isinstance(found, bytes) else str(found)


def explained(result: int, error: Any) -> None:
    """OSError with C's sentence, where the result is an error."""
    if result < 0:
        raise OSError(-result, string(error) or os.strerror(-result))


def chars(text: str | None) -> Any:
    """A C string, to be kept while it is read; NULL for None."""
    return ffi.NULL if text is None else ffi.new("char[]", text.encode())


def nanoseconds(seconds: float) -> int:
    """Of C's times."""
    return int(seconds * 1e9)


def sockaddr(address: Address, family: int) -> tuple[Any, Any]:
    """(struct sockaddr_storage *, its size), of the family where the host is "". ValueError."""
    host, port = address[0], address[1]
    if not 0 <= port <= 65535:
        raise ValueError(f"a port is a number from 0 to 65535, not {port}")
    if not host:
        host = "0.0.0.0" if family == AF_INET else "::"
    elif family == AF_INET6 and ":" not in host:
        host = "::ffff:" + host  # RFC 3493 section 3.7
    storage = ffi.new("struct sockaddr_storage *")
    size = ffi.new("socklen_t *")
    if lib.binding_address(host.encode(), port, storage, size) != 0:
        raise ValueError(f"{address[0]!r} is no IPv4 or IPv6 address (names are not looked up)")
    return storage, size[0]


def address_of(storage: Any) -> Address:
    """What a struct sockaddr_storage says."""
    host = ffi.new("char[]", _HOST_SIZE)
    port = ffi.new("uint16_t *")
    lib.binding_host(ffi.addressof(storage), host, port)
    return string(host), port[0]


def view(segment: Any) -> memoryview:
    """A received segment. It goes back to the stack with the last view on it, in any thread."""
    kept: Any = ffi.new("struct zh_stream_segment *", segment)
    data = ffi.gc(kept.data, functools.partial(lib.binding_release, kept))
    return memoryview(ffi.buffer(data, kept.size)).toreadonly()


def iovecs(buffers: Iterable[Any]) -> tuple[Any, int, list[Any], int]:
    """(array, its length, what keeps the memory, bytes) of buffers that are contiguous."""
    kept = [ffi.from_buffer("uint8_t[]", buffer) for buffer in buffers]
    array = ffi.new("struct iovec[]", len(kept))
    size = 0
    for piece, one in zip(array, kept, strict=True):
        piece.iov_base = one
        piece.iov_len = len(one)
        size += len(one)
    return array, len(kept), kept, size
