"""zerohop.transport.net in both roles, with the kernel as its peer."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable

import netns
import pytest
from stackharness import Program

Veth = Callable[..., netns.Pair]

TIMEOUT = 20


@pytest.fixture
def pair(veth: Veth) -> netns.Pair:
    """Side a is the kernel's, here; b is for a stack."""
    return veth(host=True, bare=("b",))


def connect(pair: netns.Pair, port: int = 7) -> socket.socket:
    return socket.create_connection((pair.b.v4, port), timeout=TIMEOUT)


def read_all(peer: socket.socket) -> bytes:
    got = bytearray()
    while data := peer.recv(1 << 18):
        got += data
    return bytes(got)


def exchange(peer: socket.socket, data: bytes) -> bytes:
    """Send all and half-close, while what comes back is read."""

    def send() -> None:
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    got = read_all(peer)
    sender.join()
    return got


ECHO = """
listener = stack.socket()
listener.bind(("", 7))
listener.listen()
line()
peer = listener.accept(timeout=20)
while view := peer.recv(timeout=20):
    assert view.readonly
    peer.sendall(view)
peer.close()
"""


def test_bulk_both_ways_arrives_as_it_was_sent(pair: netns.Pair) -> None:
    program = Program(
        pair,
        ECHO
        + """
del view
until = time.monotonic() + 5
while stack._lent and time.monotonic() < until:
    stack.run(0.05)
stats = stack.stats()
line([len(stack._lent), stats["bytes_copied"], stats["tcp_in_bad_checksum"]])
""",
    )
    program.line()
    data = os.urandom(8 << 20)
    with connect(pair) as peer:
        got = exchange(peer, data)
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
    lent, copied, bad = program.line()
    assert lent == 0, "what was sent is still kept"
    assert bad == 0
    # Only segments of at most 256 bytes may be copied beside their header.
    assert copied < len(data) / 100
    assert program.end() == (0, "")
