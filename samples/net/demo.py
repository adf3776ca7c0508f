"""zerohop's TCP/IP stack as a neighbour of the kernel's: files by curl, and figures side by side.

    make demo-net        or, as root: python samples/net/demo.py

Two network namespaces, `client` and `server`, with two veth pairs between them. On the first pair
`zerohop net serve` runs in `server`, through DPDK's net_af_packet, where the kernel has no address;
on the second both ends are the kernel's. Everything is named after this process, and is gone when
it ends.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ECHO, SINK, SOURCE = 7000, 7001, 7002
STACK, KERNEL = "10.77.0.1", "10.78.0.1"
OFFLOADS = ("tx", "rx", "sg", "tso", "gso", "gro")
BULK = 64 << 20
ROUNDS = 3


class DemoError(Exception):
    """What is missing, or has failed, in a sentence."""


# --- set-up ---------------------------------------------------------------------------------------


def command(*words: str, timeout: float = 60) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout)
    if done.returncode != 0:
        raise DemoError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def check() -> None:
    if os.geteuid() != 0:
        raise DemoError("network namespaces need root: run it with sudo")
    for tool, package in (("ip", "iproute2"), ("ethtool", "ethtool"), ("curl", "curl")):
        if shutil.which(tool) is None:
            raise DemoError(f"{tool} is missing: apt-get install {package}")
    try:
        import zerohop.transport.net  # noqa: F401
    except ImportError as error:
        raise DemoError(str(error)) from None


@contextlib.contextmanager
def namespaces() -> Iterator[tuple[list[str], list[str], str]]:
    """(what runs a command in the client's, in the server's, the stack's interface)."""
    tag = f"zhd{os.getpid()}"
    names = [f"{tag}client", f"{tag}server"]
    client, server = (["ip", "netns", "exec", name] for name in names)
    pairs = [(f"{tag}s0", f"{tag}s1"), (f"{tag}k0", f"{tag}k1")]
    try:
        for name in names:
            command("ip", "netns", "add", name)
            command("ip", "-n", name, "link", "set", "lo", "up")
        for pair in pairs:
            ends = zip(pair, names, strict=True)
            one, other = (["name", end, "netns", name] for end, name in ends)
            command("ip", "link", "add", *one, "type", "veth", "peer", *other)
            for end, name, inside in zip(pair, names, (client, server), strict=True):
                settings = [word for offload in OFFLOADS for word in (offload, "off")]
                command(*inside, "ethtool", "-K", end, *settings)
                # Of one CPU, since veth reorders otherwise.
                write(inside, f"/sys/class/net/{end}/queues/rx-0/rps_cpus", "1")
                write(inside, f"/proc/sys/net/ipv6/conf/{end}/disable_ipv6", "1")
                command("ip", "-n", name, "link", "set", end, "up")
        for address, name, end in (
            ("10.77.0.2/24", names[0], pairs[0][0]),
            ("10.78.0.2/24", names[0], pairs[1][0]),
            (f"{KERNEL}/24", names[1], pairs[1][1]),
        ):
            command("ip", "-n", name, "address", "add", address, "dev", end)
        yield client, server, pairs[0][1]
    finally:
        for (end, _), name in zip(pairs, (names[0], names[0]), strict=True):
            # By itself first: with its namespace it goes some time later only.
            subprocess.run(["ip", "-n", name, "link", "delete", end], capture_output=True)
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def write(inside: list[str], path: str, text: str) -> None:
    command(*inside, "sh", "-c", f"echo {text} >{path}")


@contextlib.contextmanager
def running(words: list[str], cpu: int | None) -> Iterator[subprocess.Popen[str]]:
    """A program, from its last line of greeting ("Ctrl-C ends it") to the end of the body."""
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=(lambda: os.sched_setaffinity(0, {cpu})) if cpu is not None else None,
    )
    said = ""
    try:
        assert process.stdout is not None
        while "Ctrl-C ends it" not in said.splitlines()[-1:]:
            line = process.stdout.readline()
            if not line:
                raise DemoError(f"{' '.join(words)}: {said.strip() or 'it has ended'}")
            said += line
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


# --- what is measured ---------------------------------------------------------------------------


def serve_kernel(host: str) -> None:
    """Echo, sink and source over the kernel's TCP."""

    def echo(peer: socket.socket) -> None:
        while data := peer.recv(1 << 16):
            peer.sendall(data)

    def sink(peer: socket.socket) -> None:
        buffer = bytearray(1 << 18)
        while peer.recv_into(buffer):
            pass

    def source(peer: socket.socket) -> None:
        zeros = bytes(1 << 20)
        while True:
            peer.sendall(zeros)

    def one(serve: object, peer: socket.socket) -> None:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with peer, contextlib.suppress(OSError):
            serve(peer)  # type: ignore[operator]

    def accept(serve: object, listener: socket.socket) -> None:
        while True:
            threading.Thread(target=one, args=(serve, listener.accept()[0]), daemon=True).start()

    for serve, port in ((echo, ECHO), (sink, SINK), (source, SOURCE)):
        listener = socket.create_server((host, port))
        threading.Thread(target=accept, args=(serve, listener), daemon=True).start()
    print("Ctrl-C ends it", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


def measure(host: str) -> dict[str, float]:
    """One round of a blocking client: us, and Gbit/s into the server and out of it."""
    found = {}
    with socket.create_connection((host, ECHO), timeout=20) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        message = b"x" * 64
        times = []
        for _ in range(3000):
            begun = time.perf_counter()
            peer.sendall(message)
            got = 0
            while got < len(message):
                more = len(peer.recv(64))
                if not more:
                    raise DemoError("the echo has ended")
                got += more
            times.append(time.perf_counter() - begun)
        found["echo"] = statistics.median(times[500:]) * 1e6
    with socket.create_connection((host, SINK), timeout=20) as peer:
        zeros = memoryview(bytes(BULK))
        begun = time.perf_counter()
        peer.sendall(zeros)
        peer.shutdown(socket.SHUT_WR)
        peer.recv(1)  # the end: all has arrived
        found["in"] = BULK * 8 / (time.perf_counter() - begun) / 1e9
    with socket.create_connection((host, SOURCE), timeout=20) as peer:
        buffer = bytearray(1 << 18)
        left, begun = BULK, time.perf_counter()
        while left > 0:
            left -= peer.recv_into(buffer)
        found["out"] = BULK * 8 / (time.perf_counter() - begun) / 1e9
    return found


# --- the demo -------------------------------------------------------------------------------------


def files(folder: Path) -> list[Path]:
    """A large one of random bytes, and one that is a program's."""
    large = folder / "random-50MB"
    large.write_bytes(os.urandom(50_000_000))
    library = Path(sysconfig.get_config_var("LIBDIR")) / str(sysconfig.get_config_var("LDLIBRARY"))
    real = library if library.is_file() else Path(sys.executable).resolve()
    copy = folder / real.name
    shutil.copy(real, copy)
    return [large, copy]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(client: list[str], served: Path, folder: Path) -> None:
    got = folder / "got"
    begun = time.perf_counter()
    url = f"http://{STACK}/{served.name}"
    command(*client, "curl", "--silent", "--show-error", "--fail", "--output", str(got), url)
    seconds = time.perf_counter() - begun
    want, have = sha256(served), sha256(got)
    size = served.stat().st_size
    if want != have:
        raise DemoError(f"{served.name} arrived with the checksum {have}, not {want}")
    print(
        f"  {served.name:<24} {size / 1e6:6.1f} MB in {seconds:.2f} s, sha256 {want[:16]}... equal"
    )


def demo() -> None:
    check()
    cpus = sorted(os.sched_getaffinity(0))
    # CPU 0 is where packets are steered to (rps_cpus), the client's among them.
    client_cpu, server_cpu = (cpus[0], cpus[1]) if len(cpus) > 1 else (None, None)
    with (
        tempfile.TemporaryDirectory() as work,
        tempfile.TemporaryDirectory() as root,
        namespaces() as (client, server, interface),
    ):
        os.environ["ZEROHOP_REGISTRY"] = os.path.join(work, "registry")
        served = files(Path(root))
        program = [sys.executable, "-m", "zerohop", "net", "serve", "--root", root]
        port = ["--port", f"net_af_packet0,iface={interface}", "--address", f"{STACK}/24"]
        itself = [sys.executable, __file__]
        pin = [] if client_cpu is None else ["taskset", "-c", str(client_cpu)]
        with running([*server, *program, *port], server_cpu):
            print(f"curl, from zerohop net serve on {interface}:")
            for one in served:
                fetch(client, one, Path(work))
            print("\na blocking Python client on the kernel's TCP, to", flush=True)
            found: dict[str, list[dict[str, float]]] = {STACK: [], KERNEL: []}
            with running([*server, *itself, "--serve-kernel", KERNEL], server_cpu):
                for _ in range(ROUNDS):
                    for host, rounds in found.items():
                        said = command(*client, *pin, *itself, "--measure", host)
                        rounds.append(json.loads(said))
    print(f"  {'':<26}{'zerohop':>12}{'kernel (Python)':>18}{'ratio':>8}")
    for key, what in (
        ("echo", "echo of 64 bytes, p50, us"),
        ("in", "bulk in, Gbit/s"),
        ("out", "bulk out, Gbit/s"),
    ):
        ours, theirs = (statistics.median(one[key] for one in found[h]) for h in (STACK, KERNEL))
        print(f"  {what:<26}{ours:>12.2f}{theirs:>18.2f}{ours / theirs:>8.2f}")
    print(f"  (veth, MTU 1500, no offloads, medians of {ROUNDS} alternating rounds)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--serve-kernel", metavar="ADDRESS", help=argparse.SUPPRESS)
    parser.add_argument("--measure", metavar="ADDRESS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.serve_kernel:
            serve_kernel(options.serve_kernel)
        elif options.measure:
            print(json.dumps(measure(options.measure)))
        else:
            demo()
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
