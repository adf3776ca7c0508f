"""zerohop.transport.net in both roles, with the kernel as its peer."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import struct
import subprocess
import sys
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
    assert copied < len(data) / 20
    assert program.end() == (0, "")


def test_bulk_both_ways_to_a_server_of_the_kernels(pair: netns.Pair) -> None:
    with socket.create_server((pair.a.v4, 0)) as listener:
        listener.settimeout(TIMEOUT)
        port = listener.getsockname()[1]
        program = Program(
            pair,
            f"""
            import hashlib
            data = os.urandom(8 << 20)
            peer = stack.socket()
            peer.connect((PEER, {port}), timeout=20)
            line([peer.getsockname(), peer.getpeername()])
            view = memoryview(data)
            sent, got = 0, hashlib.sha256()
            while (more := peer.recv_views() if peer.ready & IN else None) != []:
                for one in more or ():
                    got.update(one)
                more = one = None  # the packets go back
                if sent < len(data):
                    try:
                        sent += peer.send(view[sent : sent + 100_000])
                    except BlockingIOError:
                        pass
                    if sent == len(data):
                        peer.shutdown(socket.SHUT_WR)
                stack.run(0.001)
            line(got.digest() == hashlib.sha256(data).digest())
            """,
        )
        with listener.accept()[0] as peer:
            peer.settimeout(TIMEOUT)
            own, remote = program.line()
            assert own == [pair.b.v4, peer.getpeername()[1]]
            assert remote == [pair.a.v4, port]
            while data := peer.recv(1 << 16):
                peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            assert program.line() is True
    assert program.end() == (0, "")


def test_two_thousand_short_connections(pair: netns.Pair) -> None:
    program = Program(
        pair,
        """
        listener = stack.socket()
        listener.bind(("", 7))
        listener.listen(64)
        served = 0

        def answer(peer, ready):
            global served
            try:
                while view := peer.recv():
                    peer.send(view)
                peer.close()
                served += 1
            except BlockingIOError:
                pass

        def accept(_, ready):
            while True:
                try:
                    peer = listener.accept()
                except BlockingIOError:
                    return
                peer.on_ready = answer
                answer(peer, peer.ready)

        listener.on_ready = accept
        line()
        until = time.monotonic() + 40
        while served < 2000 and time.monotonic() < until:
            stack.run(0.1)
        stack.run(0.1)
        stats = stack.stats()
        line([served, stats["tcp_accepted"], stats["tcp_reset"], len(stack._lent)])
        """,
    )
    program.line()
    for number in range(2000):
        with connect(pair) as peer:
            message = str(number).encode()
            peer.sendall(message)
            peer.shutdown(socket.SHUT_WR)
            assert read_all(peer) == message
    assert program.line() == [2000, 2000, 0, 0]
    assert program.end() == (0, "")


def test_short_connections_to_the_kernel(pair: netns.Pair) -> None:
    with socket.create_server((pair.a.v4, 0)) as listener:
        listener.settimeout(TIMEOUT)
        program = Program(
            pair,
            f"""
            for number in range(300):
                with stack.socket() as peer:
                    peer.connect((PEER, {listener.getsockname()[1]}), timeout=20)
                    peer.sendall(b"%d" % number)
                    peer.shutdown(socket.SHUT_WR)
                    assert bytes(peer.recv(timeout=20)) == b"%d" % number
                    assert not peer.recv(timeout=20)
            line()
            """,
        )
        for _ in range(300):
            with listener.accept()[0] as peer:
                peer.settimeout(TIMEOUT)
                peer.sendall(read_all(peer))
        program.line()
    assert program.end() == (0, "")


def test_each_side_may_end_its_direction_first(pair: netns.Pair) -> None:
    program = Program(
        pair,
        """
        listener = stack.socket()
        listener.bind(("", 7))
        listener.listen()
        line()
        peer = listener.accept(timeout=20)
        peer.shutdown(socket.SHUT_WR)
        try:
            peer.send(b"more")
        except BrokenPipeError:
            line("EPIPE")
        got = b""
        while view := peer.recv(timeout=20):
            got += view
        line(got.decode())
        """,
    )
    program.line()
    with connect(pair) as peer:
        assert program.line() == "EPIPE"
        assert peer.recv(10) == b""  # ours may go on
        peer.sendall(b"after ")
        peer.sendall(b"the end")
        peer.shutdown(socket.SHUT_WR)
        assert program.line() == "after the end"
    assert program.end() == (0, "")


def test_resets_are_connection_reset_on_both_sides(pair: netns.Pair) -> None:
    program = Program(
        pair,
        """
        import struct
        listener = stack.socket()
        listener.bind(("", 7))
        listener.listen()
        line()
        peer = listener.accept(timeout=20)
        try:
            while peer.recv(timeout=20):
                pass
        except ConnectionResetError as error:
            line(error.errno)
        peer = listener.accept(timeout=20)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        stack.run(0.1)
        refused = stack.socket()
        try:
            refused.connect((PEER, 9), timeout=20)
        except ConnectionRefusedError as error:
            line(error.errno)
        """,
    )
    program.line()
    peer = connect(pair)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    assert program.line() == errno.ECONNRESET
    with pytest.raises(ConnectionResetError), connect(pair) as peer:
        peer.recv(1)
    assert program.line() == errno.ECONNREFUSED
    assert program.end() == (0, "")


def test_a_port_where_nobody_listens_is_refused(pair: netns.Pair) -> None:
    program = Program(pair, "line()\nstack.run(3)")
    program.line()
    with pytest.raises(ConnectionRefusedError):
        connect(pair, 9)


def test_kept_views_close_the_window_and_open_it_again(pair: netns.Pair) -> None:
    program = Program(
        pair,
        """
        import threading
        listener = stack.socket()
        listener.bind(("", 7))
        listener.listen()
        line()
        peer = listener.accept(timeout=20)
        kept, until = [], time.monotonic() + 1.5
        while time.monotonic() < until:
            try:
                kept += peer.recv_views()
            except BlockingIOError:
                stack.run(0.05)
        line(sum(map(len, kept)))
        start = bytes(kept[0][:8])
        dropper = threading.Thread(target=kept.clear)  # by another thread
        dropper.start()
        dropper.join()
        total = 0
        while views := peer.recv_views(timeout=20):
            total += sum(map(len, views))
            last = views[-1]
        line([start.decode(), total])
        stack.close()
        line(bytes(last[-4:]).decode())  # the packet outlives its stack
        del last, views
        """,
        options="receive_budget=1 << 20",
    )
    program.line()
    size = 4 << 20
    data = b"begin..." + bytes(size - 12) + b"end!"
    with connect(pair) as peer:
        sender = threading.Thread(target=lambda: (peer.sendall(data), peer.shutdown(1)))
        sender.start()
        held = program.line()
        assert 100_000 < held < 2 << 20
        wscale = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 16)[6] & 15
        assert wscale > 0, "the stack did not offer window scaling"
        assert program.line() == ["begin...", size - held]
        sender.join()
        assert program.line() == "end!"
    assert program.end() == (0, "")


def test_any_buffer_is_sent_by_reference_and_kept(pair: netns.Pair) -> None:
    program = Program(
        pair,
        """
        import array, mmap, zerohop
        listener = stack.socket()
        listener.bind(("", 7))
        listener.listen()
        line()
        peer = listener.accept(timeout=20)
        arena = zerohop.alloc(300_000)
        with memoryview(arena) as view:
            view[:] = b"a" * 300_000
        mapping = mmap.mmap(-1, 5000)
        mapping[:] = b"m" * 5000
        array_ = bytearray(b"b" * 2000)
        for data in (arena, mapping, array_, array.array("H", [0x6363] * 50), b"", b"d"):
            peer.send(data)
        del arena, mapping, data
        assert len(stack._lent) == 5, len(stack._lent)
        try:
            array_.append(1)
        except BufferError:
            line("kept")
        try:
            peer.send(memoryview(b"1234")[::2])
        except (BufferError, ValueError):
            line("not contiguous")
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(timeout=20):
            pass
        assert not stack._lent, len(stack._lent)
        array_.append(1)
        line("back")
        """,
    )
    program.line()
    with connect(pair) as peer:
        assert program.line() == "kept"
        assert program.line() == "not contiguous"
        want = b"a" * 300_000 + b"m" * 5000 + b"b" * 2000 + b"c" * 100 + b"d"
        assert read_all(peer) == want
        peer.shutdown(socket.SHUT_WR)
        assert program.line() == "back"
    assert program.end() == (0, "")


def test_readiness_options_and_errors(pair: netns.Pair) -> None:
    """What needs no peer, or hardly one."""
    program = Program(
        pair,
        """
        import errno, threading, warnings

        def raised(call, *arguments, **more):
            try:
                call(*arguments, **more)
            except Exception as error:
                return [type(error).__name__, getattr(error, "errno", None)]
            return None

        one = stack.socket()
        one.bind((ME, 7))
        assert one.getsockname() == (ME, 7)
        one.listen()
        other = stack.socket()
        found = {
            "accept": raised(one.accept),
            "accept in time": raised(one.accept, timeout=0.01),
            "in use": raised(other.bind, (ME, 7)),
            "not mine": raised(other.bind, ("192.0.2.1", 7)),
            "no address": raised(other.bind, ("localhost", 7)),
            "no port": raised(other.bind, ("", 70000)),
            "not connected": raised(other.send, b"x"),
            "no route": raised(other.connect, ("192.0.2.1", 7)),
        }
        other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert other.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        other.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"newreno")
        name = other.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        assert name.rstrip(b"\\0") == b"newreno", name
        found["no option"] = raised(other.getsockopt, 99, 99)

        other.close()
        other.close()
        found["closed"] = raised(other.send, b"x")

        # One thread at a time, others by call_soon_threadsafe.
        seen = []
        def meddle():
            time.sleep(0.1)
            seen.append(raised(stack.stats))
            stack.call_soon_threadsafe(lambda: seen.append(threading.get_ident()))
            time.sleep(0.1)
            stack.wake()
        thread = threading.Thread(target=meddle)
        thread.start()
        begun = time.monotonic()
        assert stack.run(5) == []
        assert time.monotonic() - begun < 2
        thread.join()
        found["thread"] = seen[0]
        assert seen[1] == threading.get_ident()

        begun = time.process_time()
        stack.run(1)
        assert time.process_time() - begun < 0.2, "an idle stack is busy"

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            dropped = stack.socket()
            del dropped
        assert [str(one.category) for one in caught] == ["<class 'ResourceWarning'>"], caught

        pid = os.fork()
        if pid == 0:
            told = raised(stack.run, 0)
            stack.close()
            one.close()
            os._exit(told != ["OSError", errno.ENOTSUP])
        assert os.waitpid(pid, 0)[1] == 0, "in a forked child"
        assert raised(stack.run, 0) is None
        line(found)
        stack.close()
        assert raised(stack.run, 0) == ["OSError", errno.EBADF]
        assert one.closed

        # The device can be had again; one that is dropped is closed.
        import gc
        again = Stack(DEVICE, ADDRESSES)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del again
            gc.collect()
        assert [str(one.category) for one in caught] == ["<class 'ResourceWarning'>"], caught
        Stack(DEVICE, ADDRESSES).close()
        """,
    )
    assert program.line() == {
        "accept": ["BlockingIOError", errno.EAGAIN],
        "accept in time": ["TimeoutError", None],
        "in use": ["OSError", errno.EADDRINUSE],
        "not mine": ["OSError", errno.EADDRNOTAVAIL],
        "no address": ["ValueError", None],
        "no port": ["ValueError", None],
        "not connected": ["OSError", errno.ENOTCONN],
        "no route": ["OSError", errno.ENETUNREACH],
        "no option": ["OSError", errno.ENOPROTOOPT],
        "closed": ["OSError", errno.EBADF],
        "thread": ["RuntimeError", None],
    }
    assert program.end() == (0, "")


def test_events_tell_of_growth_once(pair: netns.Pair) -> None:
    program = Program(
        pair,
        """
        listener = stack.socket()
        listener.bind(("", 7))
        listener.listen()
        line()
        [(socket_, ready)] = stack.run(20)
        assert socket_ is listener and ready == IN
        peer = listener.accept()
        line()
        while not (events := [e for e in stack.run(20) if e.ready & IN]):
            pass
        assert events[0].socket is peer
        assert stack.run(0.2) == [], "told of the same twice"
        assert bytes(peer.recv()) == b"one"
        line()
        while not [e for e in stack.run(20) if e.ready & HUP or not peer.recv(timeout=20)]:
            pass
        """,
    )
    program.line()
    with connect(pair) as peer:
        program.line()
        peer.sendall(b"one")
        program.line()
    assert program.end() == (0, "")


@pytest.mark.parametrize(
    ("device", "address", "kind", "words"),
    [
        ("net_af_packet0,iface=nosuch", "10.0.0.1/24", OSError, "no interface"),
        ("net_af_packet0", "10.0.0.1/24", OSError, "iface=NAME"),
        ("nonsense0", "10.0.0.1/24", OSError, "is no device"),
        ("net_af_packet0,iface=lo", "10.0.0.1/33", ValueError, "is no address"),
        ("net_af_packet0,iface=lo", "host", ValueError, "is no address"),
    ],
)
def test_what_is_wrong_is_said(
    netns_here: None, device: str, address: str, kind: type[Exception], words: str
) -> None:
    code = f"""
from zerohop.transport.net import Stack
try:
    Stack({device!r}, {address!r})
except {kind.__name__} as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert words in done.stdout, done
    assert done.stderr == ""


def test_a_missing_capability_is_said(netns_here: None) -> None:
    code = "from zerohop.transport.net import Stack; Stack('net_af_packet0,iface=lo', '10.0.0.1/8')"
    drop = ["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw"]
    done = subprocess.run(
        [*drop, sys.executable, "-c", code], capture_output=True, text=True, timeout=30
    )
    assert "PermissionError" in done.stderr
    assert "CAP_NET_RAW" in done.stderr


def test_without_dpdk_it_says_what_to_do() -> None:
    code = (
        "import sys; sys.modules['zerohop.transport.net._net'] = None\n"
        "from zerohop.cli import main\n"
        "sys.exit(main(['net', 'ceiling', '--port', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "install libdpdk-dev" in done.stderr
    assert "Traceback" not in done.stderr
