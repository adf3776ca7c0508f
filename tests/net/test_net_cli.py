"""zerohop net, as a user runs it: with curl, wrk, tshark and the kernel."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import netns
import pytest

Veth = Callable[..., netns.Pair]

LO = "net_af_packet0,iface=lo"
ZEROHOP = str(Path(sys.executable).with_name("zerohop"))


def require(tool: str) -> None:
    """Skip without a tool; in CI that is a failure."""
    if shutil.which(tool) is None:
        if os.environ.get("CI"):
            pytest.fail(f"{tool} is missing")
        pytest.skip(f"{tool} is missing")


def device(side: netns.Side, number: int = 0) -> str:
    return f"net_af_packet{number},iface={side.interface}"


class Serving:
    """zerohop net serve on side b, and what is asked of it from side a."""

    def __init__(self, pair: netns.Pair, folder: Path, *more: str) -> None:
        self.pair, self.registry = pair, folder / "registry"
        self.root = folder / "root"
        (self.root / "sub").mkdir(parents=True)
        (self.root / "index.html").write_text("<p>index</p>\n")
        (self.root / "hello world.txt").write_text("0123456789")
        (self.root / "empty").write_bytes(b"")
        (self.root / "large").write_bytes(os.urandom(20_000_000))
        (folder / "secret").write_text("secret")
        (self.root / "link").symlink_to(folder / "secret")
        self.environment = {**os.environ, "ZEROHOP_REGISTRY": str(self.registry)}
        side = pair.b
        address = ["--address", f"{side.v4}/{side.v4_prefix}", "--address", f"{side.v6}/64"]
        self.process = side.start(
            *(ZEROHOP, "net", "serve", "--port", device(side), *address),
            *("--root", str(self.root), *more),
            env=self.environment,
            stderr=subprocess.STDOUT,
        )
        assert self.process.stdout is not None
        self.said = ""
        while "Ctrl-C" not in self.said:
            line = self.process.stdout.readline()
            assert line, self.said
            self.said += line

    def curl(self, *arguments: str) -> str:
        require("curl")
        return self.pair.a.run("curl", "-s", "-S", "--max-time", "20", *arguments)

    def url(self, path: str) -> str:
        return f"http://{self.pair.b.v4}{path}"

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ZEROHOP, "net", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=30,
        )

    def end(self, number: int = signal.SIGINT) -> str:
        """What it prints at the end."""
        self.process.send_signal(number)
        said, _ = self.process.communicate(timeout=10)
        assert self.process.returncode == 0, said
        return str(said)


@pytest.fixture
def serving(veth: Veth, tmp_path: Path) -> Serving:
    return Serving(veth(host=True, bare=("b",)), tmp_path)


def test_curl_gets_files_and_parts_of_them(serving: Serving, tmp_path: Path) -> None:
    large = (serving.root / "large").read_bytes()
    got = tmp_path / "got"
    serving.curl("-o", str(got), serving.url("/large"))
    assert hashlib.sha256(got.read_bytes()).digest() == hashlib.sha256(large).digest()
    serving.curl("-o", str(got), "-r", "1000000-1999999", serving.url("/large"))
    assert got.read_bytes() == large[1_000_000:2_000_000]
    got.write_bytes(large[:5_000_000])
    serving.curl("-o", str(got), "-C", "-", serving.url("/large"))  # goes on where it ended
    assert got.read_bytes() == large
    assert serving.curl(serving.url("/")) == "<p>index</p>\n"
    assert serving.curl(serving.url("/hello%20world.txt")) == "0123456789"
    assert serving.curl(f"http://[{serving.pair.b.v6}]/hello%20world.txt") == "0123456789"
    assert serving.curl(serving.url("/empty")) == ""


@pytest.mark.parametrize("again", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_behind(serving: Serving, again: int) -> None:
    assert "http://" in serving.said
    assert "7000: echo" in serving.said
    serving.curl(serving.url("/"))
    said = serving.end(again)
    assert re.search(r"\d TCP segments received", said), said
    assert "Traceback" not in said
    assert os.listdir(serving.registry) == []


def test_answers_are_those_of_http(serving: Serving) -> None:
    def head(*arguments: str) -> tuple[int, dict[str, str]]:
        said = serving.curl("-i", "-o", "-", *arguments).partition("\n\n")[0]
        first, *lines = said.split("\n")
        headers = dict(line.split(": ", 1) for line in lines)
        return int(first.split()[1]), {key.lower(): value for key, value in headers.items()}

    file = serving.url("/hello%20world.txt")
    code, headers = head(file)
    assert (code, headers["content-length"]) == (200, "10")
    assert headers["content-type"] == "text/plain"
    modified = headers["last-modified"]
    code, headers = head("-I", file)
    assert (code, headers["content-length"]) == (200, "10")
    assert head("-H", f"If-Modified-Since: {modified}", file)[0] == 304
    for asked, part in (
        ("0-3", "bytes 0-3/10"),
        ("8-", "bytes 8-9/10"),
        ("-4", "bytes 6-9/10"),
        ("5-99", "bytes 5-9/10"),
        ("-99", "bytes 0-9/10"),
    ):
        code, headers = head("-r", asked, file)
        assert (code, headers["content-range"]) == (206, part), asked
    for asked in ("10-", "10-20", "-0"):
        code, headers = head("-r", asked, file)
        assert (code, headers["content-range"]) == (416, "bytes */10"), asked
    for ignored in ("3-1", "a-b", "0-1,3-4", "-"):
        assert head("-H", f"Range: bytes={ignored}", file)[0] == 200, ignored
    assert head("-H", "If-Range: something", "-r", "0-3", file)[0] == 200
    code, headers = head("-X", "DELETE", file)
    assert (code, headers["allow"]) == (405, "GET, HEAD")
    assert head("-d", "a body", file)[0] == 405
    assert head(serving.url("/missing"))[0] == 404
    assert head(serving.url("/sub/"))[0] == 404
    assert head(serving.url("/%00"))[0] == 400


def test_what_lies_outside_the_root_is_not_found(serving: Serving) -> None:
    for path in ("/../secret", "/%2e%2e/secret", "/sub/../../secret", "//../secret", "/link"):
        said = serving.curl("-i", "--path-as-is", serving.url(path))
        assert "secret" not in said.partition("\n\n")[2], path
        assert said.split()[1] == "404", path


def test_one_connection_serves_many_requests_and_what_is_none_ends_it(serving: Serving) -> None:
    get = b"GET /hello%%20world.txt HTTP/1.1\r\nHost: x\r\n%s\r\n"
    with socket.create_connection((serving.pair.b.v4, 80), timeout=10) as peer:
        peer.sendall(get % b"" * 20 + get % b"Connection: close\r\n")  # pipelined
        said = b""
        while data := peer.recv(1 << 16):
            said += data
    assert said.count(b"HTTP/1.1 200 OK") == 21
    assert said.count(b"0123456789") == 21
    for wrong in (
        b"\r\n\r\nnonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\n\r\n",
    ):
        with socket.create_connection((serving.pair.b.v4, 80), timeout=10) as peer:
            peer.sendall(wrong)
            assert peer.recv(100).startswith(b"HTTP/1.1 400 "), wrong
    with socket.create_connection((serving.pair.b.v4, 80), timeout=10) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 20000)
        assert peer.recv(100).startswith(b"HTTP/1.1 431 ")
    assert serving.curl(serving.url("/")) == "<p>index</p>\n"


def test_wrk_with_a_hundred_connections(serving: Serving) -> None:
    require("wrk")
    said = serving.pair.a.run("wrk", "-c100", "-t1", "-d2", serving.url("/hello%20world.txt"))
    assert re.search(r"[1-9]\d* requests in", said), said
    assert "Socket errors" not in said, said
    assert "Non-2xx" not in said, said


def test_stats_are_told_to_others(serving: Serving, tmp_path: Path) -> None:
    with socket.create_connection((serving.pair.b.v4, 7000), timeout=10) as peer:
        peer.sendall(b"echo")
        assert peer.recv(10) == b"echo"
        done = serving.command("stats")
        assert done.returncode == 0, done.stderr
        assert re.search(r"\d TCP segments received", done.stdout)
        mine = f"{peer.getsockname()[0]}:{peer.getsockname()[1]}"
        [line] = [one for one in done.stdout.splitlines() if mine in one]
        assert line.startswith("ESTABLISHED")
        assert "cubic" in line
        facts = json.loads(serving.command("stats", "--json").stdout)
        assert facts["stats"]["tcp_accepted"] == 1
        assert len(facts["connections"]) == 5
    capture = tmp_path / "later.pcap"
    assert serving.command("stats", "--pcap", str(capture)).returncode == 0
    serving.curl(serving.url("/"))
    assert serving.command("stats", "--pcap", "").returncode == 0
    assert capture.stat().st_size > 500
    assert serving.command("stats", "--pid", "1").returncode == 1
    serving.process.kill()
    serving.process.wait()
    done = serving.command("stats")
    assert done.returncode == 1
    assert "no stack runs here" in done.stderr
    assert os.listdir(serving.registry) == [], "what a killed process left is removed"


def test_tshark_finds_nothing_malformed(veth: Veth, tmp_path: Path) -> None:
    """Neither in what the stack writes down nor in what the kernel saw."""
    require("tshark")
    ours, theirs = tmp_path / "ours.pcap", tmp_path / "theirs.pcap"
    pair = veth(bare=("b",))
    watcher = pair.a.start(
        "tshark", "-q", "-i", pair.a.interface, "-w", str(theirs), stderr=subprocess.PIPE
    )
    assert watcher.stderr is not None
    while "Capturing on" not in (line := watcher.stderr.readline()):
        assert line, "tshark has ended"
    time.sleep(0.5)
    serving = Serving(pair, tmp_path, "--pcap", str(ours))
    serving.curl("-o", "/dev/null", "-r", "0-2999999", serving.url("/large"))
    serving.curl(serving.url("/"), serving.url("/missing"))
    serving.curl(f"http://[{pair.b.v6}]/")
    serving.end()
    time.sleep(0.5)
    watcher.send_signal(signal.SIGINT)
    watcher.wait(timeout=10)
    for file in (ours, theirs):
        assert tshark(file, "tcp") > 1000
        assert tshark(file, "http.response.code == 200") == 2
        assert tshark(file, "ipv6 and tcp") > 5
        for wrong in (
            "_ws.malformed",
            "_ws.expert.severity == 8388608",  # error
            "tcp.checksum.status == 0",
            "ip.checksum.status == 0",
            "icmpv6.checksum.status == 0",
        ):
            assert tshark(file, wrong) == 0, (file.name, wrong)


def tshark(file: Path, condition: str) -> int:
    """How many packets a condition holds for."""
    checks = [word for one in ("tcp.check", "ip.check") for word in ("-o", f"{one}_checksum:TRUE")]
    done = subprocess.run(
        [
            "tshark",
            "-n",
            *checks,
            "-r",
            str(file),
            "-Y",
            condition,
            "-T",
            "fields",
            "-e",
            "frame.number",
        ],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    return len(done.stdout.split())


def run(side: netns.Side, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        side.command(ZEROHOP, "net", *arguments), capture_output=True, text=True, timeout=30
    )


def test_ping_asks_the_kernel(veth: Veth) -> None:
    pair = veth(bare=("b",))
    stack = ["--port", device(pair.b)]
    stack += ["--address", f"{pair.b.v4}/30", "--address", f"{pair.b.v6}/64"]
    for host, size in ((pair.a.v4, "56"), (pair.a.v6, "1000"), (pair.a.v4, "0")):
        done = run(pair.b, "ping", host, "-c", "3", "-i", "10ms", "-s", size, *stack)
        assert "3 sent, 3 received, 0 % lost" in done.stdout, done
        assert "ttl=64" in done.stdout
        assert done.returncode == 0
    done = run(pair.b, "ping", pair.a.v4, "-c", "1", "-s", "1473", *stack)
    assert "Message too long" in done.stderr
    done = run(pair.b, "ping", "192.0.2.1", "-c", "1", *stack)
    assert "unreachable" in done.stderr
    pair.a.run("ip", "address", "flush", "dev", pair.a.interface)
    done = run(pair.b, "ping", pair.a.v4, "-c", "2", "-i", "10ms", "-W", "100ms", *stack)
    assert "2 sent, 0 received" in done.stdout
    assert done.returncode == 1


def test_the_kernel_pings_the_stack(serving: Serving) -> None:
    """Without the program, which a machine may lack: a request of our own."""
    packet = b"\x08\0\0\0\x12\x34\0\x01" + b"data"
    total = sum(int.from_bytes(packet[at : at + 2], "big") for at in range(0, len(packet), 2))
    total = (total & 0xFFFF) + (total >> 16)
    packet = packet[:2] + (~total & 0xFFFF).to_bytes(2, "big") + packet[4:]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.settimeout(5)
        raw.connect((serving.pair.b.v4, 0))
        raw.send(packet)
        answer = raw.recv(100)[20:]
    assert answer[0] == 0
    assert answer[4:] == packet[4:]


def test_ceiling_says_what_a_port_takes(veth: Veth) -> None:
    pair = veth(bare=("b",))
    done = run(pair.b, "ceiling", "--port", device(pair.b), "--seconds", "0.3", "--size", "1514")
    match = re.search(r"1514 bytes: +([\d,]+) frames/s +([\d.]+) Gbit/s", done.stdout)
    assert match, done
    assert int(match[1].replace(",", "")) > 1000
    done = run(pair.b, "ceiling", "--port", device(pair.b), "--size", "9999")
    assert done.returncode == 1
    assert "not 9999" in done.stderr


def test_a_wire_delays_and_loses(veth: Veth) -> None:
    """Two kernels through a wire: the round trip, and that all arrives all the same."""
    left, right = veth(bare=("b",)), veth(bare=("b",))
    middle, other = left.b, right.b
    assert middle.namespace is not None
    other.run("ip", "link", "set", other.interface, "netns", middle.namespace)
    middle.run("sh", "-c", f"echo 1 >/proc/sys/net/ipv6/conf/{other.interface}/disable_ipv6")
    middle.run("ip", "link", "set", other.interface, "up")
    right.a.run("ip", "address", "add", f"{middle.v4}/30", "dev", right.a.interface)
    wire = middle.start(
        *(ZEROHOP, "net", "wire", "--a", device(middle), "--b", device(other, 1)),
        *("--delay", "2ms", "--loss", "2%", "--reorder", "1%", "--duplicate", "1%", "--seed", "5"),
        stderr=subprocess.STDOUT,
    )
    assert wire.stdout is not None
    assert "joined" in wire.stdout.readline()
    server = right.a.start(
        sys.executable,
        "-c",
        "import hashlib, socket\n"
        "listener = socket.create_server(('', 5000)); print(flush=True)\n"
        "peer, _ = listener.accept(); got = hashlib.sha256()\n"
        "peer.send(peer.recv(1))\n"
        "while data := peer.recv(65536): got.update(data)\n"
        "print(got.hexdigest())",
    )
    assert server.stdout is not None
    server.stdout.readline()
    said = left.a.run(
        sys.executable,
        "-c",
        "import hashlib, os, socket, time\n"
        f"peer = socket.create_connection(('{middle.v4}', 5000), timeout=20)\n"
        "begun = time.perf_counter(); peer.send(b'x'); peer.recv(1)\n"
        "print(time.perf_counter() - begun)\n"
        "data = os.urandom(1000000); peer.sendall(data); peer.close()\n"
        "print(hashlib.sha256(data).hexdigest())",
    )
    seconds, digest = said.split()
    assert float(seconds) >= 0.004
    assert server.communicate(timeout=20)[0].strip() == digest
    wire.send_signal(signal.SIGINT)
    told, _ = wire.communicate(timeout=10)
    assert wire.returncode == 0
    assert re.search(r"a to b: .*\d lost", told), told


@pytest.mark.parametrize("command", ["serve", "ping", "stats", "ceiling", "wire"])
def test_help_has_examples(command: str) -> None:
    for arguments in ([], ["--help"], [command, "--help"]):
        done = subprocess.run(
            [ZEROHOP, "net", *arguments], capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0
        assert "examples:" in done.stdout
        assert command in done.stdout
    assert "zerohop net " + command in done.stdout.partition("examples:")[2]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["fly"], 2, "no command 'fly'"),
        (["serve"], 2, "--port"),
        (
            ["serve", "--port", "net_af_packet0,iface=nosuch", "--address", "10.0.0.1/8"],
            1,
            "nosuch",
        ),
        (["serve", "--port", LO, "--address", "10"], 1, "is no address"),
        (
            ["serve", "--port", "x", "--address", "10.0.0.1/8", "--root", "/nosuch"],
            1,
            "no such folder",
        ),
        (["ceiling", "--port", LO, "--to", "1"], 2, "hardware address"),
        (["wire", "--a", "x", "--b", "y", "--loss", "200%"], 2, "at most 100%"),
        (["wire", "--a", "x", "--b", "y", "--delay", "5"], 2, "a time with its unit"),
        (["wire", "--a", "x", "--b", "y", "--rate", "fast"], 2, "a rate"),
        (["wire", "--a", "x", "--b", "y"], 1, "is no device"),
        (["ceiling", "--port", LO, "--eal=--nonsense"], 1, "--nonsense"),
    ],
)
def test_what_is_wrong_is_a_sentence(
    netns_here: None, tmp_path: Path, arguments: list[str], status: int, words: str
) -> None:
    done = subprocess.run(
        [ZEROHOP, "net", *arguments],
        env={**os.environ, "ZEROHOP_REGISTRY": str(tmp_path / "registry")},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
