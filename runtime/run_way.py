"""Which way a channel under `zerohop run` goes at the moment, and looking for the short one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from zerohop import log
from zerohop._native import ForkError, Pump
from zerohop.address import Target
from zerohop.links import AddressRoute, Links
from zerohop.options import ChannelArguments
from zerohop.run_policy import explain, explaining, run_options

_log = log.logger("run")

# While there is no link, the registry is asked at most so often whether it has changed.
LOOK_SECONDS = 0.025

# A server that is in the registry and does not greet: time for an attempt, and between attempts.
CONNECT_SECONDS = 1.0
RETRY_FIRST, RETRY_LAST = 0.05, 2.0

# For so long, and a quarter of its time-out at most, a channel's first calls wait for the first
# look to end, so that their way is no race.
FIRST_SECONDS = 0.5

SHORT, LONG = "over shared memory", "over grpcio"


class Way:
    """The short way of one channel: its links, and a thread that looks for servers on demand.

    A call never waits for the resolver or a server but in the first moments of its channel.
    """

    def __init__(self, pump: Pump, target: Target, options: ChannelArguments | None) -> None:
        parsed = run_options(options)
        self.name = target.text
        self.route = AddressRoute(target, parsed.allow_uids)
        self.links = Links(pump, self.route, parsed)
        self._lock = threading.Lock()
        self._next = 0.0
        self._retry = RETRY_FIRST
        self._seen: object = None  # the registry's generation at the last look
        self._was_linked = False
        self._told = ""
        self.looking: threading.Event | None = None
        self.on_looked: list[Callable[[], None]] = []  # called, from any thread, after a look
        self.looked = False  # has the first look ended?

    def linked(self) -> bool:
        """Is there a server to which calls can go?"""
        return any(link.alive for link in self.links.channel.links)

    def look(self) -> threading.Event | None:
        """Look for a server if that makes sense by now; does not block.

        Returns what will be set at the end of a look that is under way, if there is one.
        """
        now = time.monotonic()
        if self.looking is not None or now < self._next or self.links.closed:
            return self.looking
        with self._lock:
            if self.looking is None and now >= self._next:
                self._next = now + LOOK_SECONDS
                if self._was_linked:
                    self._lost()
                seen = self.route.generation()
                if seen != self._seen:
                    self._start(seen)
            return self.looking

    def choose(self, timeout: float | None) -> bool:
        """May a call take the short way, when it has found no link at first?"""
        looking = self.look()
        if looking is not None and not self.looked:
            looking.wait(
                FIRST_SECONDS if timeout is None else max(0.0, min(FIRST_SECONDS, timeout / 4))
            )
        return self.linked()

    def _start(self, seen: object) -> None:
        done = self.looking = threading.Event()
        thread = threading.Thread(
            target=self._look, args=(seen, done), name="zerohop-look", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # the interpreter is on its way out
            self.looking = None

    def _look(self, seen: object, done: threading.Event) -> None:
        reason = ""
        try:
            reason = self.links.connect(CONNECT_SECONDS)
            if reason and self.route.found:  # it is there and does not answer
                self._next = time.monotonic() + self._retry
                self._retry = min(self._retry * 2, RETRY_LAST)
                seen = None
            else:
                self._retry = RETRY_FIRST
        except ForkError:
            return
        except Exception as error:
            reason = str(error)
            _log.debug("%s: %s", self.name, reason, exc_info=True)
        finally:
            self._seen = seen
            self._was_linked = self.linked()
            self.looked = True
            self.looking = None
            done.set()
            for callback in list(self.on_looked):
                callback()
        if self._was_linked:
            self._tell(SHORT, self._peers())
        else:
            self._tell(LONG, reason)

    def _lost(self) -> None:
        """The links that there were are gone: the registry may not have changed since."""
        self._was_linked = False
        self._seen = None
        self._tell(LONG, "the server has gone")

    def _peers(self) -> str:
        infos = [link.info() for link in list(self.links.channel.links)]
        return ", ".join(f"process {info['pid']} of uid {info['uid']}" for info in infos)

    def _tell(self, way: str, why: str) -> None:
        if way != self._told:
            self._told = way
            if explaining():
                explain(self.name, way, why)
