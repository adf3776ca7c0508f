"""The registry entry of a server under `zerohop run`."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from zerohop import log
from zerohop.address import advertised_address, split_address
from zerohop.registry import Registration
from zerohop.run_policy import explain

_log = log.logger("run")

_T = TypeVar("_T")


def listed(items: Iterable[_T] | None) -> tuple[_T, ...] | None:
    """A program's arguments, which two servers will iterate over."""
    return None if items is None else tuple(items)


class Core(Protocol):
    """The part of zerohop.server.Core, and of zerohop.aio's, that is needed here."""

    def enter(self) -> Registration: ...
    def start(self) -> None: ...


class Published:
    """The addresses of one server, and their entry. Failures cost the short way, nothing else."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self._registration: Registration | None = None

    def add(self, address: str) -> None:
        self.addresses.append(address)
        if self._registration is not None and not self._registration.closed:
            try:
                self._registration.update(addresses=self.addresses)
            except (OSError, ValueError) as error:
                _log.warning("%s is not entered in the registry: %s", address, error)

    def enter(self, make: Callable[[], Core]) -> None:
        """Make a core, start it and let others find it."""
        what = "server on " + ", ".join(self.addresses)
        try:
            core = make()
            registration = self._registration = core.enter()
            core.start()
            registration.commit([], self.addresses, self._advertised())
        except (OSError, ValueError, RuntimeError) as error:
            self.withdraw()
            _log.warning("%s: no short way to it: %s", what, error)
            return
        _servers.add(self)
        explain(what, "also over shared memory", registration.socket_path)

    def withdraw(self) -> None:
        """Let nobody find the server any more. Idempotent; nothing in a forked child."""
        if self._registration is not None:
            self._registration.close()

    def _ports(self) -> set[int]:
        return {split_address(a)[1] for a in self.addresses if not a.startswith("unix")}

    def _advertised(self) -> list[str]:
        """What of ZEROHOP_ADVERTISE is this server's.

        All of it, but the addresses whose ports are those of another server of this process.
        """
        texts = os.environ.get("ZEROHOP_ADVERTISE", "").split(",")
        found = [advertised_address(text.strip()) for text in texts if text.strip()]
        mine = self._ports()
        others = {port for server in list(_servers) for port in server._ports()} - mine
        return [text for text in found if split_address(text)[1] not in others]


_servers: weakref.WeakSet[Published] = weakref.WeakSet()
