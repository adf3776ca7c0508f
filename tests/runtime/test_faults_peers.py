"""Peers that are not what they should be: other sockets, other versions, and garbage."""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import mmap
import os
import random
import socket
import struct
import threading
import time

import grpc
import pytest
import zerohop
from apiharness import WAIT, eventually
from faultharness import balance, holdings
from test_faults_stop import Traffic
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoRequest

# transport/include/zerohop/ring.h and record.h, transport/shm/message.h.
MAGIC, VERSION = 0x706F686F72657A, 1
HELLO = struct.Struct("=QIIQIIII256s256s")
SEGMENT = struct.Struct("=QIIQII")
MSG_HELLO, MSG_REJECT, MSG_SEGMENT = 1, 3, 4
SLOT, SLOTS, RETURNS = 128, 1024, 2048
SIDE_BYTES = 4096 + SLOT * SLOTS + 16 * RETURNS
RECORD = struct.Struct("=BBHIQQIIQIIIIQ")
SEALS = 0x0001 | 0x0002 | 0x0004 | 0x0010  # SEAL, SHRINK, GROW, FUTURE_WRITE
F_ADD_SEALS = 1033


def failure(call) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


@contextlib.contextmanager
def listening(path: str, kind: socket.SocketKind, serve):
    """Something that is no zerohop server, behind a socket at the path."""
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.bind(path)
    listener.listen()
    stop = threading.Event()

    def run():
        with contextlib.suppress(OSError):
            while not stop.is_set():
                connection, _ = listener.accept()
                with connection:
                    serve(connection)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    stop.set()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(WAIT)


def hello(kind: int = MSG_HELLO, *, version: int = VERSION, clock: int | None = None, **fields):
    """A greeting, right but for what is given. It is good for a minute: its clock is now."""
    values = {"side": SIDE_BYTES, "slot": SLOT, "slots": SLOTS, "bell": 1, "agent": b"hostile"}
    values.update(fields)
    now = time.monotonic_ns() if clock is None else clock
    return HELLO.pack(
        MAGIC,
        version,
        kind,
        now,
        values["side"],
        values["slot"],
        values["slots"],
        values["bell"],
        values["agent"],
        b"",
    )


def test_a_stream_socket(home):
    path = home.address()[4:]
    stub = echo_pb2_grpc.EchoStub(home.channel())
    with listening(path, socket.SOCK_STREAM, lambda connection: None):
        error = failure(lambda: stub.Unary(EchoRequest(), timeout=WAIT))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert path in error.details()
    assert "another kind" in error.details()


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"", "closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(40), "something else"),
        (bytes(616), "something else"),
        (b"x" * 5000, "something else"),
        (lambda: hello(2, version=7), "version 7"),
        (lambda: hello(9), "message kind 9"),
        (lambda: hello(2), "wrong descriptors"),
        (lambda: hello(2, clock=1), "clocks"),
    ],
    ids=["nothing", "http", "zeros", "long", "version", "kind", "no descriptors", "clock"],
)
def test_a_server_of_something_else(home, reply, words):
    """The error says what is there and who we are, and a later server is found."""
    path = home.address()[4:]
    stub = echo_pb2_grpc.EchoStub(home.channel())

    def serve(connection):
        connection.recv(4096)
        if reply:
            connection.send(reply() if callable(reply) else reply)
            time.sleep(0.05)

    with listening(path, socket.SOCK_SEQPACKET, serve):
        error = failure(lambda: stub.Unary(EchoRequest(), timeout=WAIT))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert words in error.details()
    if "version" in words:
        assert f"pid {os.getpid()}" in error.details()
    os.unlink(path)
    home.start()
    assert stub.Unary(EchoRequest(text="x"), timeout=WAIT, wait_for_ready=True).text == "x"


# --- a hostile client ----------------------------------------------------------------------------


def memfd(size: int, seals: int = SEALS) -> tuple[int, mmap.mmap]:
    fd = os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.posix_fallocate(fd, 0, size)
    memory = mmap.mmap(fd, size)
    fcntl.fcntl(fd, F_ADD_SEALS, seals)
    return fd, memory


class Hostile:
    """A client that greets as it should, and then has the rings to write into as it likes."""

    def __init__(self, path: str, greeting: bytes | None = None, fds: int = 3) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(WAIT)
        self.socket.connect(path)
        side, self.side = memfd(SIDE_BYTES)
        page, self.page = memfd(4096)
        bell = os.eventfd(0, os.EFD_NONBLOCK)
        self.fds = [side, page, bell]
        try:
            self.send(greeting or hello(), self.fds[:fds])
            _, received, _, _ = socket.recv_fds(self.socket, 4096, 8)[0:4]
            self.received = received
        except OSError:
            self.received = []

    def send(self, data: bytes, fds=()) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([data], ancillary)

    def word(self, offset: int, value: int) -> None:
        ctypes.c_uint64.from_buffer(self.side, offset).value = value & (1 << 64) - 1

    def ring(self) -> None:
        for fd in self.received[2:3]:
            with contextlib.suppress(OSError):
                os.eventfd_write(fd, 1)

    def record(self, at: int, kind: int, slots: int = 1, body: bytes = b"", **fields) -> None:
        values = dict.fromkeys(
            ("flags", "method", "call", "deadline", "metadata", "segment", "message", "page"), 0
        )
        values.update(loan=0, generation=0)
        values.update(fields)
        data = RECORD.pack(
            kind,
            slots,
            values["flags"],
            values["method"],
            values["call"],
            values["deadline"],
            values["metadata"],
            values["segment"],
            values["message"],
            values["page"],
            values["loan"],
            values["generation"],
            0,
            0,
        )
        start = 4096 + at % SLOTS * SLOT
        self.side[start : start + len(data) + len(body)] = data + body

    def post(self, head: int) -> None:
        self.word(0, head)
        self.ring()

    def dropped(self) -> bool:
        """Waits until the server has ended the link."""
        with contextlib.suppress(OSError):
            while self.socket.recv(4096):
                pass
        return True

    def close(self) -> None:
        self.socket.close()
        self.side.close()  # they have descriptors of their own
        self.page.close()
        for fd in [*self.fds, *self.received]:
            os.close(fd)


@contextlib.contextmanager
def hostile(home, *arguments, **keywords):
    client = Hostile(home.address()[4:], *arguments, **keywords)
    try:
        yield client
    finally:
        client.close()


CALL = {"method": 0, "call": 1 << 32, "flags": 8 | 1}


def a_name(client: Hostile) -> None:
    client.record(0, 2, body=b"/zhtest.Echo/Unary", flags=1, message=18)


def test_the_hostile_client_can_do_right(home):
    """Else the tests below would show nothing: its call is served."""
    peer = home.serve()
    before = zerohop.stats()["calls_handled"]
    with hostile(home) as client:
        assert len(client.received) == 3
        a_name(client)
        client.record(1, 3, **CALL)
        client.post(2)
        eventually(lambda: zerohop.stats()["calls_handled"] == before + 1)
    eventually(lambda: peer.server._core.native.open == 0)


VIOLATIONS = {
    "head far ahead": lambda client: client.post(1 << 40),
    "head behind": lambda client: client.post(-1),
    "no length": lambda client: (client.record(0, 3, 0), client.post(1)),
    "long record": lambda client: (client.record(0, 3, 33), client.post(40)),
    "beyond the head": lambda client: (client.record(0, 3, 4), client.post(1)),
    "unknown kind": lambda client: (client.record(0, 77), client.post(1)),
    "a server's kind": lambda client: (client.record(0, 8), client.post(1)),
    "flags": lambda client: (client.record(0, 3, flags=0xFFFF), client.post(1)),
    "no method": lambda client: (client.record(0, 3, **CALL), client.post(1)),
    "message too long": lambda client: (
        a_name(client),
        client.record(1, 3, **CALL, message=1 << 20),
        client.post(2),
    ),
    "message of endless length": lambda client: (
        a_name(client),
        client.record(1, 3, **{**CALL, "flags": 3}, message=(1 << 64) - 1, generation=1),
        client.post(2),
    ),
    "no such segment": lambda client: (
        a_name(client),
        client.record(1, 3, **{**CALL, "flags": 3}, message=10, segment=9, generation=1),
        client.post(2),
    ),
    "garbage metadata": lambda client: (
        a_name(client),
        client.record(1, 3, **CALL, metadata=40, body=b"\xff" * 40),
        client.post(2),
    ),
    "call out of range": lambda client: (
        a_name(client),
        client.record(1, 3, **{**CALL, "call": 5000}),
        client.post(2),
    ),
    "a name that is no text": lambda client: (
        client.record(0, 2, body=b"\xff\xfe", flags=1, message=2),
        client.post(1),
    ),
    "a return of nothing": lambda client: (
        client.side.__setitem__(slice(4096 + SLOT * SLOTS, None), b"\x01" * 16 * RETURNS),
        client.word(8, 1),
        client.ring(),
    ),
    "unknown message": lambda client: client.send(SEGMENT.pack(MAGIC, VERSION, 99, 0, 0, 0)),
    "a segment without memory": lambda client: client.send(
        SEGMENT.pack(MAGIC, VERSION, MSG_SEGMENT, 4096, 1, 0)
    ),
    "no message at all": lambda client: client.send(b"x"),
}


@pytest.mark.parametrize("violate", VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_a_client_that_breaks_the_rules(home, violate):
    """Its link is ended, and no other call feels it."""
    peer = home.serve()
    peer.stub.Unary(EchoRequest(), timeout=WAIT)
    before = holdings()
    with hostile(home) as client:
        violate(client)
        client.ring()
        assert client.dropped()
    assert peer.stub.Unary(EchoRequest(text="x"), timeout=WAIT).text == "x"
    native = peer.server._core.native
    eventually(lambda: native.open == 0 and native.running == 0)
    eventually(lambda: holdings()["links"] <= before["links"])
    eventually(lambda: holdings()["fds"] <= before["fds"])


GREETINGS = {
    "version": (lambda: hello(version=2), 3, b"version 2"),
    "kind": (lambda: hello(5), 3, b"message kind 5"),
    "ring": (lambda: hello(slots=512), 3, b"another ring layout"),
    "descriptors": (lambda: hello(), 1, b"wrong descriptors"),
    "old": (lambda: hello(clock=1), 3, b"clocks"),
    "short": (lambda: hello()[:100], 3, b"message kind 1"),
}


@pytest.mark.parametrize("case", GREETINGS.values(), ids=GREETINGS.keys())
def test_a_wrong_greeting_is_told_why(home, case):
    greeting, fds, words = case
    peer = home.serve()
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with client:
        client.settimeout(WAIT)
        client.connect(home.address()[4:])
        memory = [memfd(SIDE_BYTES)[0], memfd(4096)[0], os.eventfd(0, os.EFD_NONBLOCK)]
        socket.send_fds(client, [greeting()], memory[:fds])
        said = client.recv(4096)
        for fd in memory:
            os.close(fd)
    kind, text = HELLO.unpack(said)[2], HELLO.unpack(said)[9].rstrip(b"\0")
    assert kind == MSG_REJECT
    assert words in text
    assert str(os.getpid()).encode() in text
    assert peer.stub.Unary(EchoRequest(text="x"), timeout=WAIT).text == "x"


@pytest.mark.timeout(120)
def test_hundreds_of_sessions_of_garbage(home):
    """Random bytes over everything that a peer may write, while another client's calls go on."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    peer = home.serve()
    peer.stub.Unary(EchoRequest(payload=bytes(5000)), timeout=WAIT)
    before, sessions = holdings(), 0
    end = time.monotonic() + 6
    with Traffic(peer.stub, 5000) as traffic:
        while time.monotonic() < end or sessions < 200:
            sessions += 1
            with hostile(home) as client:
                garbage(client, rng)
            if sessions % 50 == 0:
                traffic.progress()
        traffic.progress()
    native = peer.server._core.native
    eventually(lambda: native.open == 0 and native.running == 0)
    eventually(lambda: holdings()["links"] <= before["links"])
    eventually(lambda: holdings()["fds"] <= before["fds"])
    eventually(lambda: balance() == 0)


def garbage(client: Hostile, rng: random.Random) -> None:
    """Records that are nearly right, or bytes that are not, in a random order."""
    a_name(client)
    head = 1
    for _ in range(rng.randrange(1, 30)):
        choice = rng.random()
        if choice < 0.6:
            client.record(
                head,
                rng.choice((1, 2, 3, 3, 3, 4, 5, 6, rng.randrange(256))),
                rng.choice((1, 1, 1, 2, rng.randrange(256))),
                body=rng.randbytes(rng.randrange(64)) if head % SLOTS != SLOTS - 1 else b"",
                flags=rng.choice((0, 1, 8, 9, 9, 3, 4, rng.randrange(1 << 16))),
                method=rng.choice((0, 0, 0, 1, rng.randrange(1 << 32))),
                call=rng.choice((1 << 32, 1 << 32, 3 << 32 | 5, rng.getrandbits(64))),
                deadline=rng.choice((0, 1, rng.getrandbits(64))),
                metadata=rng.choice((0, 0, 8, 60, rng.randrange(1 << 32))),
                message=rng.choice((0, 0, 10, 60, rng.getrandbits(64))),
                segment=rng.choice((0, 1, rng.randrange(1 << 32))),
                loan=rng.choice((0, 5, rng.randrange(1 << 32))),
                generation=rng.choice((0, 1, rng.randrange(1 << 32))),
            )
            head += rng.choice((1, 1, 1, 2))
            client.post(head)
        elif choice < 0.8:
            start = rng.randrange(SIDE_BYTES)
            data = rng.randbytes(rng.randrange(1, 300))[: SIDE_BYTES - start]
            client.side[start : start + len(data)] = data
            client.ring()
        elif choice < 0.9:
            client.page[:4] = rng.randbytes(4)
        else:
            with contextlib.suppress(OSError):
                client.send(rng.randbytes(rng.randrange(1, 600)))
    client.ring()
