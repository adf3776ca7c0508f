"""The namespaces themselves, kernel to kernel: what a test of the stack takes for granted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import netns
import pytest

Make = Callable[..., netns.Pair]

# One echo request and its answer, for where there is no ping(8). ICMPv6's checksum is the kernel's.
_PING = """
import socket, struct, sys
address, wait = sys.argv[1], float(sys.argv[2])
six = ":" in address
data = bytes(range(56))
body = struct.pack("!HH", 0x7a68, 1) + data
head = struct.pack("!BBH", 128 if six else 8, 0, 0)
if not six:
    words = struct.unpack(f"!{len(head + body) // 2}H", head + body)
    total = sum(words)
    total = (total & 0xffff) + (total >> 16)
    head = struct.pack("!BBH", 8, 0, ~((total & 0xffff) + (total >> 16)) & 0xffff)
family, protocol = (socket.AF_INET6, 58) if six else (socket.AF_INET, 1)
with socket.socket(family, socket.SOCK_RAW, protocol) as raw:
    raw.settimeout(wait)
    raw.sendto(head + body, (address, 0))
    while True:
        answer, sender = raw.recvfrom(2048)
        answer = answer if six else answer[20:]
        if answer[0] == (129 if six else 0) and answer[4:] == body:
            break
print("answered by", sender[0])
"""

_SERVE = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.create_server((sys.argv[1], 0), family=family) as server:
    print(server.getsockname()[1], flush=True)
    connection, _ = server.accept()
    with connection:
        data = connection.makefile("rb").read()
        print(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG), flush=True)
        connection.sendall(data[::-1])
"""

_FETCH = """
import hashlib, socket, sys
data = bytes(i * 7 % 251 for i in range(1 << 20)) * 4
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as connection:
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
    back = connection.makefile("rb").read()
print(len(back), hashlib.sha256(back[::-1]).hexdigest() == hashlib.sha256(data).hexdigest())
"""


def _ping(side: netns.Side, address: str, wait: float = 10) -> str:
    return side.run(sys.executable, "-c", _PING, address, str(wait), stderr=subprocess.PIPE)


def _transfer(server: netns.Side, client: netns.Side, address: str) -> int:
    """4 MiB there and back; the size of the server's segments."""
    process = server.start(sys.executable, "-c", _SERVE, address)
    assert process.stdout is not None
    port = process.stdout.readline().strip()
    assert client.run(sys.executable, "-c", _FETCH, address, port).split() == [str(4 << 20), "True"]
    size = int(process.stdout.readline())
    assert process.wait(timeout=20) == 0
    return size


@pytest.mark.parametrize("host", [False, True], ids=["two", "host"])
def test_ping(veth: Make, host: bool) -> None:
    pair = veth(host=host)
    for address in ("v4", "v6"):
        for side, other in ((pair.a, pair.b), (pair.b, pair.a)):
            target = getattr(other, address)
            assert _ping(side, target).split() == ["answered", "by", target]


@pytest.mark.parametrize("host", [False, True], ids=["two", "host"])
def test_tcp(veth: Make, host: bool) -> None:
    pair = veth(host=host)
    assert _transfer(pair.a, pair.b, pair.a.v4) == 1500 - 20 - 20 - 12
    assert _transfer(pair.b, pair.a, pair.b.v6) == 1500 - 40 - 20 - 12


def test_mtu(veth: Make) -> None:
    for mtu in (1280, 9000):
        pair = veth(mtu=mtu)
        assert pair.a.read(f"/sys/class/net/{pair.a.interface}/mtu") == str(mtu)
        assert _transfer(pair.a, pair.b, pair.a.v4) == mtu - 20 - 20 - 12


def test_offloads_are_off(veth: Make) -> None:
    pair = veth()
    for side in (pair.a, pair.b):
        features = side.run("ethtool", "-k", side.interface)
        for name in (
            "rx-checksumming",
            "tx-checksumming",
            "scatter-gather",
            "tcp-segmentation-offload",
            "generic-segmentation-offload",
            "generic-receive-offload",
        ):
            assert f"{name}: off" in features
        queue = f"/sys/class/net/{side.interface}/queues/rx-0/rps_cpus"
        assert int(side.read(queue).replace(",", ""), 16) == 1


def test_a_bare_side_answers_nothing(veth: Make) -> None:
    pair = veth(bare=("b",))
    assert pair.b.run("ip", "-brief", "address", "show", pair.b.interface).split()[2:] == []
    for target in (pair.b.v4, pair.b.v6):
        with pytest.raises(subprocess.CalledProcessError):
            _ping(pair.a, target, 0.5)


@pytest.mark.usefixtures("netns_here")
def test_nothing_is_left() -> None:
    with_host = netns.Pair(host=True)
    pairs = [netns.Pair(), with_host]
    sleeper = pairs[0].b.start("sleep", "1000")
    names = [side.interface for pair in pairs for side in (pair.a, pair.b)]
    assert all(len(name) < 16 for name in names)
    there = subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
    assert with_host.a.interface in there
    for pair in pairs:
        pair.close()
        pair.close()
    assert sleeper.returncode == -9
    for command in (["ip", "netns", "list"], ["ip", "link"]):
        left = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert not any(name in left for name in names)


@pytest.mark.usefixtures("netns_here")
def test_what_fails_is_told_and_cleaned_up() -> None:
    with pytest.raises(netns.NetnsError, match="mtu"):
        netns.Pair(mtu=1)
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    assert f"zh{os.getpid()}-" not in left.stdout


def test_without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert netns.missing() == "network namespaces need root"
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="need root"):
        netns.require()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="need root"):
        netns.require()
