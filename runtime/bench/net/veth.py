"""Two network namespaces with a veth pair, for as long as a measurement lasts."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Self

# The kernel would leave checksums and segmentation to a device that is none.
_OFFLOADS = ("rx", "tx", "sg", "tso", "gso", "gro")


class VethError(RuntimeError):
    """Namespaces cannot be made here; the text says why, and what to do."""


def missing() -> str | None:
    """What stands in the way of namespaces; None: nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root: run it with sudo"
    for tool, package in (("ip", "iproute2"), ("ethtool", "ethtool")):
        if shutil.which(tool) is None:
            return f"{tool} is missing: apt-get install {package}"
    return None


class Veth:
    """A pair: side 0 is the client's, with an address of the kernel; side 1 the server's, with one
    of the kernel (``bare=False``) or for a stack. ``wired``: not one pair but two, whose inner ends
    lie in a namespace of their own, for a process that is the wire between them."""

    def __init__(
        self,
        tag: str,
        *,
        bare: bool,
        network: str = "198.18.0",
        mtu: int = 1500,
        wired: bool = False,
    ) -> None:
        base = f"zhb{os.getpid()}{tag}"
        self.namespaces = [f"{base}-c", f"{base}-s"] + ([f"{base}-w"] if wired else [])
        self.interfaces = ("vc", "vs")
        self.addresses = (f"{network}.1", f"{network}.2")
        self.mtu = mtu
        self._bare = bare

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def inside(self, side: int, *command: str) -> list[str]:
        """The command line that runs ``command`` on a side; 2: where the wire is."""
        return ["ip", "netns", "exec", self.namespaces[side], *command]

    def _make(self) -> None:
        for namespace in self.namespaces:
            _run("ip", "netns", "add", namespace)
        if len(self.namespaces) == 2:
            self._pair((0, "vc"), (1, "vs"))
        else:
            self._pair((0, "vc"), (2, "wc"))
            self._pair((1, "vs"), (2, "ws"))
        for side, interface in enumerate(self.interfaces):
            if not (side and self._bare):
                address = f"{self.addresses[side]}/24"
                _run(*self.inside(side, "ip", "address", "add", address, "dev", interface))

    def _pair(self, *ends: tuple[int, str]) -> None:
        words = [
            [name, "mtu", str(self.mtu), "netns", self.namespaces[side]] for side, name in ends
        ]
        _run("ip", "link", "add", *words[0], "type", "veth", "peer", "name", *words[1])
        for side, interface in ends:
            # The kernel must not speak in a stack's place, nor into a wire.
            quiet = f"net.ipv6.conf.{interface}.disable_ipv6=1"
            _run(*self.inside(side, "sysctl", "-qw", quiet))
            off = [word for name in _OFFLOADS for word in (name, "off")]
            _run(*self.inside(side, "ethtool", "-K", interface, *off))
            # One core receives, or veth reorders: the client's for the kernel; a stack takes
            # packets where they come.
            cores = 0 if side == 1 and self._bare else 1
            path = f"/sys/class/net/{interface}/queues/rx-0/rps_cpus"
            _run(*self.inside(side, "sh", "-c", f"echo {cores} > {path}"))
            for link in (interface, "lo"):
                _run(*self.inside(side, "ip", "link", "set", link, "up"))

    def _remove(self) -> None:
        for namespace in self.namespaces:
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise VethError(f"{' '.join(command)}: {said}")


def pinned(core: int, command: Sequence[str]) -> list[str]:
    """The command line that runs ``command`` on one core."""
    return ["taskset", "-c", str(core), *command]
