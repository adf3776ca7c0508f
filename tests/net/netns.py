"""Network namespaces with a veth pair between them, for tests with the kernel as a peer.

Everything is named zh<pid>-<number>a and ...b: the namespaces, and the interfaces in them. Offloads
are off, since the kernel otherwise leaves checksums and segmentation to a device that is none; one
CPU receives for each interface, since veth reorders otherwise.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

_NUMBERS = itertools.count()
_OFFLOADS = ("rx", "tx", "sg", "tso", "gso", "gro")
# RFC 2544, addresses of benchmarks: a /30 for each pair, since the host may have several at a time.
_V4 = ipaddress.ip_network("198.18.0.0/15")


class NetnsError(RuntimeError):
    """A command that sets up a namespace has failed; the text is what it said."""


def missing() -> str | None:
    """Why namespaces cannot be made here; None where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool, package in (("ip", "iproute2"), ("ethtool", "ethtool")):
        if shutil.which(tool) is None:
            return f"network namespaces need {tool}: apt-get install {package}"
    name = f"zh{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode != 0:
        return f"network namespaces cannot be made: {made.stderr.strip()}"
    _command("ip", "netns", "delete", name)
    return None


def require() -> None:
    """Skip the test where namespaces cannot be made; in CI that is a failure."""
    reason = missing()
    if reason is None:
        return
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _command(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise NetnsError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


@dataclass
class Side:
    """One end of a veth pair: an interface in a namespace."""

    namespace: str | None
    """None: the one that the tests run in."""
    interface: str
    v4: str
    v6: str
    """Addresses without prefix length. On a bare side nobody has them yet: they are a stack's."""
    v4_prefix: int
    v6_prefix: int
    mac: str = ""
    _processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def command(self, *command: str) -> list[str]:
        """The command line that runs `command` inside."""
        if self.namespace is None:
            return list(command)
        return ["ip", "netns", "exec", self.namespace, *command]

    def run(self, *command: str, timeout: float = 30, **kwargs: Any) -> str:
        """Run to the end, and give what was printed; raises CalledProcessError."""
        done = subprocess.run(
            self.command(*command),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=timeout,
            **kwargs,
        )
        return str(done.stdout)

    def start(self, *command: str, **kwargs: Any) -> subprocess.Popen[str]:
        """Start a process, its output a pipe; it is killed with the pair if it still runs then."""
        kwargs.setdefault("stdout", subprocess.PIPE)
        process = subprocess.Popen(self.command(*command), text=True, **kwargs)
        self._processes.append(process)
        return process

    def _set_up(self, *, bare: bool, mtu: int | None) -> None:
        ip = self.command("ip")
        self._write(f"/proc/sys/net/ipv6/conf/{self.interface}/accept_dad", "0")
        self._write(f"/proc/sys/net/ipv6/conf/{self.interface}/accept_ra", "0")
        if bare:
            self._write(f"/proc/sys/net/ipv6/conf/{self.interface}/disable_ipv6", "1")
        else:
            for address in (f"{self.v4}/{self.v4_prefix}", f"{self.v6}/{self.v6_prefix}"):
                nodad = ["nodad"] if ":" in address else []
                _command(*ip, "address", "add", address, "dev", self.interface, *nodad)
        if mtu is not None:
            _command(*ip, "link", "set", self.interface, "mtu", str(mtu))
        settings = [word for name in _OFFLOADS for word in (name, "off")]
        _command(*self.command("ethtool", "-K", self.interface, *settings))
        self._write(f"/sys/class/net/{self.interface}/queues/rx-0/rps_cpus", "1")
        if self.namespace is not None:
            _command(*ip, "link", "set", "lo", "up")
        _command(*ip, "link", "set", self.interface, "up")
        self.mac = self.read(f"/sys/class/net/{self.interface}/address")

    def read(self, path: str) -> str:
        """A file of /proc or /sys, as it is inside."""
        return _command(*self.command("cat", path)).strip()

    def _write(self, path: str, text: str) -> None:
        _command(*self.command("sh", "-c", f"echo {text} >{path}"))

    def _stop(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()


class Pair:
    """Two sides, `a` and `b`, and the wire between them.

    host: side `a` is in the namespace that the tests run in. bare: the sides ("a", "b") where the
    kernel has no address and answers nothing, because a stack of our own is to answer there.
    """

    def __init__(
        self, *, host: bool = False, bare: Sequence[str] = (), mtu: int | None = None
    ) -> None:
        number = next(_NUMBERS)
        name = f"zh{os.getpid()}-{number}"
        index = (os.getpid() * 64 + number) % (_V4.num_addresses // 4)
        v4 = _V4.network_address + index * 4
        v6 = ipaddress.ip_address("fd77::") + (index << 64)
        self.a, self.b = (
            Side(
                namespace=None if host and letter == "a" else name + letter,
                interface=name + letter,
                v4=str(v4 + place),
                v6=str(v6 + place),
                v4_prefix=30,
                v6_prefix=64,
            )
            for place, letter in enumerate("ab", start=1)
        )
        try:
            for side in (self.a, self.b):
                if side.namespace is not None:
                    _command("ip", "netns", "add", side.namespace)
            ends = []
            for side in (self.a, self.b):
                where = [] if side.namespace is None else ["netns", side.namespace]
                ends.append(["name", side.interface, *where])
            _command("ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1])
            for letter, side in (("a", self.a), ("b", self.b)):
                side._set_up(bare=letter in bare, mtu=mtu)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill what was started and still runs, and remove namespaces and interfaces."""
        for side in (self.a, self.b):
            side._stop()
        # The interface by itself first: with its namespace it goes some time later only.
        for side in (self.b, self.a):
            with contextlib.suppress(NetnsError):
                _command(*side.command("ip", "link", "delete", side.interface))
        for side in (self.a, self.b):
            if side.namespace is not None:
                with contextlib.suppress(NetnsError):
                    _command("ip", "netns", "delete", side.namespace)
