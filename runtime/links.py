"""Links to the servers of a target: where they are, who shares them, and what state that makes.

Channels of one process to one place share one link per pump, as grpcio shares subchannels; it
ends with the last channel that uses it.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from math import inf
from typing import Protocol

import grpc
from zerohop import log
from zerohop._native import Channel, Disposable, ForkError, Link, Pump
from zerohop.address import Candidate, Target, candidates
from zerohop.options import Options
from zerohop.registry import Entry, Registry
from zerohop.status import NUMBERS

_log = log.logger("channel")

# A server that does not greet within this time is as good as absent.
CONNECT_SECONDS = 5.0

# Between attempts while somebody waits for a server to come.
RETRY_FIRST, RETRY_LAST = 0.002, 0.1

# For so long a name's addresses are believed.
RESOLVE_SECONDS = 30.0


class Route(Protocol):
    """Where the servers of a target are."""

    def paths(self) -> list[str]:
        """The sockets of the servers there are now. Raises OSError."""

    def absent(self) -> str:
        """What to say when there is none."""

    def generation(self) -> object:
        """Changes when paths() may have changed; None where it never does."""

    def owner(self, path: str) -> int | None:
        """The user who has published a server's socket; None where nobody says."""


class PathRoute:
    """`shm:/path`: one place."""

    def __init__(self, path: str) -> None:
        self._path = path

    def paths(self) -> list[str]:
        return [self._path]

    def absent(self) -> str:
        return f"no server at {self._path}"

    def generation(self) -> object:
        return None

    def owner(self, path: str) -> int | None:
        return None


class _RegistryRoute:
    """What the routes through the registry share."""

    def __init__(self, allow_uids: tuple[int, ...] | None) -> None:
        self._registry = Registry(allow_uids=allow_uids)
        self._owners: dict[str, int] = {}

    def _find(self) -> list[Entry]:
        raise NotImplementedError

    def paths(self) -> list[str]:
        self._owners = {entry.socket_path: entry.uid for entry in self._find()}
        return list(self._owners)

    @property
    def found(self) -> bool:
        """Were there servers when paths() was asked last?"""
        return bool(self._owners)

    def generation(self) -> object:
        return self._registry.generation()

    def owner(self, path: str) -> int | None:
        return self._owners.get(path)


class NameRoute(_RegistryRoute):
    """`zerohop:///name`: whoever has published the name in the registry."""

    def __init__(self, name: str, allow_uids: tuple[int, ...] | None = None) -> None:
        super().__init__(allow_uids)
        self._name = name

    def _find(self) -> list[Entry]:
        return self._registry.lookup(self._name)

    def absent(self) -> str:
        return (
            f"no server has published the name {self._name!r} in {self._registry.path} "
            "(`zerohop ps` lists who has)"
        )


class AddressRoute(_RegistryRoute):
    """A plain gRPC target: whoever has entered in the registry an address that it reaches.

    Asks the resolver, and then blocks as long as it takes, for a name, and only while there are
    servers in the registry at all.
    """

    def __init__(self, target: Target, allow_uids: tuple[int, ...]) -> None:
        super().__init__(allow_uids)
        self._target = target
        self._candidates: list[Candidate] = []
        self._resolve_at = 0.0

    def candidates(self) -> list[Candidate]:
        """What the target may be called in the registry; names are looked up now and then."""
        now = time.monotonic()
        if not self._candidates or now >= self._resolve_at:
            self._candidates = candidates(self._target)
            self._resolve_at = now + RESOLVE_SECONDS if self._target.needs_lookup else inf
        return self._candidates

    def _find(self) -> list[Entry]:
        if self._target.needs_lookup and not self._registry.entries():
            return []
        return self._registry.lookup_address(self.candidates())

    def absent(self) -> str:
        try:
            if not self._registry.entries():
                return f"there is no server in {self._registry.path}"
            return self._registry.why_not(self.candidates())
        except OSError as error:
            return str(error)


def route_of(target: Target, allow_uids: tuple[int, ...] | None = None) -> Route:
    """The route of a target of ours (`Target.native`)."""
    if target.kind == "shm":
        return PathRoute(target.path)
    return NameRoute(target.name, allow_uids)


class _Shared:
    """A link and who uses it."""

    def __init__(self) -> None:
        self.link: Link | None = None
        self.error: OSError | None = None
        self.ready = threading.Event()
        self.users: weakref.WeakSet[Links] = weakref.WeakSet()


_Key = tuple[int, str, str, tuple[int, ...]]
# Reentrant, and never held across what blocks: a link's end is told wherever it is noticed.
_lock = threading.RLock()
_shared: dict[_Key, _Shared] = {}


def _forget() -> None:
    global _lock
    _lock = threading.RLock()
    _shared.clear()


os.register_at_fork(after_in_child=_forget)


class Links(Disposable):
    """The links of one channel, kept in a native Channel from which calls pick.

    Thread-safe. `connect` blocks; everything else returns at once.
    """

    def __init__(self, pump: Pump, route: Route, options: Options) -> None:
        self.pump = pump
        self.route = route
        self.options = options
        self.channel = Channel(pump)
        self.channel.max_receive = options.max_receive
        self.channel.max_send = options.max_send
        self.closed = False
        self._state = grpc.ChannelConnectivity.IDLE
        self._generation: object = None
        self._refreshing = False
        self._paths: dict[str, _Key] = {}
        self._watchers: list[Callable[[], None]] = []
        if route.generation() is not None:
            reference = weakref.ref(self)
            self.channel.refresh = lambda: Links._refresh_of(reference)

    # --- state ---------------------------------------------------------------------------------

    def state(self) -> grpc.ChannelConnectivity:
        """The connectivity, as grpc.Channel.subscribe tells it."""
        if self.closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        if any(link.alive for link in self.channel.links):
            return grpc.ChannelConnectivity.READY
        state = self._state
        return grpc.ChannelConnectivity.IDLE if state is grpc.ChannelConnectivity.READY else state

    def watch(self, watcher: Callable[[], None]) -> None:
        """Have `watcher()` called, from any thread, when the state may have changed."""
        with _lock:
            self._watchers.append(watcher)

    def unwatch(self, watcher: Callable[[], None]) -> None:
        with _lock:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

    def _set(self, state: grpc.ChannelConnectivity) -> None:
        with _lock:
            if self._state is state:
                return
            self._state = state
        self._tell()

    def _tell(self) -> None:
        for watcher in list(self._watchers):
            watcher()

    # --- connecting ----------------------------------------------------------------------------

    def connect(self, timeout: float = CONNECT_SECONDS) -> str:
        """Connect to every server of the target that has no link yet.

        Returns "" when at least one link is there, else why not. Blocks up to `timeout` seconds.
        """
        self._generation = self.route.generation()
        try:
            paths = self.route.paths()
        except OSError as error:
            paths, reason = [], str(error)
        else:
            reason = self.route.absent()
        missing = [path for path in paths if path not in self._paths]
        if missing and not any(link.alive for link in self.channel.links):
            self._set(grpc.ChannelConnectivity.CONNECTING)
        for path in missing:
            try:
                self._join(path, timeout)
            except ForkError:
                raise
            except OSError as error:
                reason = error.strerror or str(error)
                _log.debug("%s: %s", path, reason)
        if any(link.alive for link in self.channel.links):
            self._set(grpc.ChannelConnectivity.READY)
            return ""
        self._set(grpc.ChannelConnectivity.TRANSIENT_FAILURE)
        return reason

    def _join(self, path: str, timeout: float) -> None:
        key = (id(self.pump), path, self.options.user_agent, self.options.allow_uids)
        until = time.monotonic() + timeout
        while True:
            with _lock:
                shared = _shared.get(key)
                ours = shared is None or (shared.ready.is_set() and not _usable(shared))
                if ours:
                    shared = _shared[key] = _Shared()
            assert shared is not None
            left = max(0.0, until - time.monotonic())
            if ours:
                self._attempt(key, shared, path, left)
            elif not shared.ready.wait(left):
                raise TimeoutError(0, f"no greeting from the server at {path} in time")
            if shared.link is not None:
                break
            # Another's attempt, and all that it had less of than we have may be time.
            if not isinstance(shared.error, TimeoutError) or time.monotonic() >= until:
                raise shared.error or ConnectionError(0, f"no link to {path}")
        with _lock:
            if self.closed or shared.link.dead:
                self._abandon(key, shared)
                if self.closed:
                    return
                raise ConnectionError(0, f"the server at {path} has ended the link")
            shared.users.add(self)
            if path not in self._paths:
                self._paths[path] = key
                self.channel.links.append(shared.link)

    def _attempt(self, key: _Key, shared: _Shared, path: str, timeout: float) -> None:
        """Make the link that others wait for, too."""
        try:
            shared.link = self._connect(path, timeout)
            shared.link.on_dead = lambda: _ended(key, shared)
            _log.debug("linked with pid %s at %s", shared.link.info()["pid"], path)
        except OSError as error:
            shared.error = error
            with _lock:
                if _shared.get(key) is shared:
                    del _shared[key]
            raise
        finally:
            shared.ready.set()

    def _connect(self, path: str, timeout: float) -> Link:
        link = self.pump.connect(path, self.options.user_agent, self.options.allow_uids, timeout)
        owner, uid = self.route.owner(path), link.info()["uid"]
        if owner not in (None, uid):
            why = f"the server at {path} is uid {uid}, and uid {owner} has published it"
            link.close(NUMBERS[grpc.StatusCode.UNAVAILABLE], why)
            raise PermissionError(0, why)
        return link

    def _abandon(self, key: _Key, shared: _Shared) -> None:
        shared.users.discard(self)
        if not shared.users and shared.link is not None and _shared.get(key) is shared:
            del _shared[key]
            shared.link.close(NUMBERS[grpc.StatusCode.CANCELLED], "Channel closed!")

    def _lost(self, path: str, link: Link) -> None:
        with _lock:
            self._paths.pop(path, None)
            if link in self.channel.links:
                self.channel.links.remove(link)
            if not self.channel.links and self._state is grpc.ChannelConnectivity.READY:
                self._state = grpc.ChannelConnectivity.IDLE
        self._tell()

    @staticmethod
    def _refresh_of(reference: weakref.ref[Links]) -> None:
        links = reference()
        if links is not None:
            links._refresh()

    def _refresh(self) -> None:
        """Servers may have come: connect to them beside the calls that go on."""
        if self._refreshing or not self.channel.links:
            return
        if self.route.generation() == self._generation:
            return
        self._refreshing = True

        def connect() -> None:
            try:
                self.connect()
            finally:
                self._refreshing = False

        threading.Thread(target=connect, name="zerohop-connect", daemon=True).start()

    def retry(self, deadline: float | None, stop: Callable[[], bool]) -> str:
        """Connect until there is a link, `deadline` (time.monotonic) or stop(). Blocks.

        Returns "" or the last reason.
        """
        pause = RETRY_FIRST
        while True:
            reason = self.connect()
            if not reason or stop() or self.closed:
                return reason
            if deadline is not None and time.monotonic() + pause > deadline:
                time.sleep(max(0.0, deadline - time.monotonic()))
                return self.connect()
            time.sleep(pause)
            pause = min(pause * 2, RETRY_LAST)

    def close(self) -> None:
        """End this channel's calls and leave its links. Idempotent."""
        with _lock:
            if self.closed:
                return
            self.closed = True
            self.channel.cancel_all(NUMBERS[grpc.StatusCode.CANCELLED], "Channel closed!")
            for key in self._paths.values():
                shared = _shared.get(key)
                if shared is not None:
                    self._abandon(key, shared)
            self._paths.clear()
            self.channel.links.clear()
        self._tell()

    def _dispose(self) -> None:
        try:
            self.close()
        except Exception:  # the interpreter is on its way out
            _log.debug("a channel was not closed", exc_info=True)


def _usable(shared: _Shared) -> bool:
    return shared.link is not None and not shared.link.dead


def _ended(key: _Key, shared: _Shared) -> None:
    with _lock:
        if _shared.get(key) is shared:
            del _shared[key]
        users = list(shared.users)
    link = shared.link
    if link is None:
        return
    _log.debug("link to %s has ended", key[1])
    for user in users:
        user._lost(key[1], link)
