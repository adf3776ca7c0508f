"""Publishing servers and finding them, through a directory that a node's processes share.

How the directory keeps dead servers out is told in zerohop.directory; what an entry says and
which targets it matches, in zerohop.entry.
"""

import atexit
import contextlib
import itertools
import logging
import os
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from zerohop import directory
from zerohop.address import (
    Candidate,
    advertised_address,
    check_name,
    format_address,
    listening_addresses,
    network_namespace,
)
from zerohop.directory import RegistryError, locate
from zerohop.entry import MAX_BYTES, Entry, Malformed, decode, encode, matching, socket_inode
from zerohop.process import namespace, start_time

__all__ = ["Entry", "Generation", "Registration", "Registry", "RegistryError", "describe", "locate"]

log = logging.getLogger("zerohop.registry")

Generation = tuple[int, int, int, int]

# A directory's time has the granularity of the kernel's tick, 10 ms at most. A change that is
# younger than this may be followed by another with the same time.
RACY_NS = 50_000_000

_registrations: "dict[str, Registration]" = {}
_pid = os.getpid()


def _forget_parent() -> None:
    """In a forked child: what the parent registered is the parent's."""
    global _pid
    _pid = os.getpid()
    directory.forget_parent()
    for registration in _registrations.values():
        registration._drop()
    _registrations.clear()


def _check_forked() -> None:
    if os.getpid() != _pid:  # in C, past Python's at-fork handlers
        _forget_parent()


def _close_all() -> None:
    for registration in list(_registrations.values()):
        registration.close()


os.register_at_fork(after_in_child=_forget_parent)
atexit.register(_close_all)


class Registration:
    """One entry of this process. Made by `Registry.reserve`; visible from `commit` to `close`.

    It belongs to the process that made it: in a forked child it is dead, and closing it there
    does nothing. A registration lives until it is closed or the process ends; dropping the object
    does not end it.
    """

    def __init__(self, path: str, key: str, lock: int) -> None:
        self._path = path
        self._key = key
        self._lock_fd = lock
        self._pid = os.getpid()
        self._entry: Entry | None = None

    @property
    def key(self) -> str:
        """The entry's unique name."""
        return self._key

    @property
    def socket_path(self) -> str:
        """Where the caller listens (SOCK_SEQPACKET) before it calls `commit`."""
        return os.path.join(self._path, self._key + ".sock")

    @property
    def entry(self) -> Entry | None:
        """What others see; None before `commit` and after `close`."""
        return self._entry

    @property
    def closed(self) -> bool:
        """Whether the entry is gone, or belongs to the process that this one was forked from."""
        return self._lock_fd < 0 or self._pid != os.getpid()

    def commit(
        self, names: Sequence[str], addresses: Sequence[str] = (), advertise: Sequence[str] = ()
    ) -> None:
        """Make the entry visible to others, or replace it as a whole.

        `names` are found by `zerohop:///name`. `addresses` are what a server was bound to, in
        grpcio's spelling and with the real port; names in them are looked up here. `advertise` are
        HOST:PORT by which others know this server. Raises ValueError for what is none of these.
        """
        self._write(_names(names), _listening(addresses), _advertised(advertise))

    def update(
        self,
        names: Sequence[str] | None = None,
        addresses: Sequence[str] | None = None,
        advertise: Sequence[str] | None = None,
    ) -> None:
        """Replace some parts of a committed entry; None leaves a part as it is."""
        entry = self._entry
        if entry is None:
            self._check_alive()
            raise RegistryError("this registration is not committed: commit() comes first")
        self._write(
            entry.names if names is None else _names(names),
            entry.addresses if addresses is None else _listening(addresses),
            entry.advertise if advertise is None else _advertised(advertise),
        )

    def close(self) -> None:
        """Remove the entry, its socket and its lock. Idempotent; nothing in a forked child."""
        if self.closed or _registrations.pop(self._key, None) is None:
            return
        directory.drop_key(self._path, self._key, self._lock_fd)
        self._lock_fd = -1
        self._entry = None

    def __enter__(self) -> "Registration":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "committed" if self._entry else "reserved"
        return f"<zerohop registration {self._key} in {self._path}, {state}>"

    def _write(
        self, names: tuple[str, ...], addresses: tuple[str, ...], advertise: tuple[str, ...]
    ) -> None:
        self._check_alive()
        inodes = {a: socket_inode(a) for a in addresses if a.startswith("unix:")}
        entry = Entry(
            key=self._key,
            names=names,
            addresses=addresses,
            advertise=advertise,
            netns=network_namespace(),
            pid=self._pid,
            pidns=namespace("pid"),
            start_time=start_time(),
            uid=os.geteuid(),
            socket_path=self.socket_path,
            inodes={address: inode for address, inode in inodes.items() if inode},
        )
        data = encode(entry)
        try:
            with directory.opened(self._path) as folder:
                directory.write(folder, self._path, self._key, data)
        except FileNotFoundError:
            raise RegistryError(f"the registry {self._path}: somebody has removed it") from None
        self._entry = entry

    def _check_alive(self) -> None:
        if self._pid != os.getpid():
            raise RegistryError(
                f"this registration was made by process {self._pid} before it forked: "
                "reserve a new one in the child"
            )
        if self.closed:
            raise RegistryError("this registration is closed")

    def _drop(self) -> None:
        """In a forked child: let go of the parent's descriptor. The lock was never the child's."""
        if self._lock_fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._lock_fd)
        self._lock_fd = -1
        self._entry = None


def _names(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(check_name(name) for name in names))


def _listening(addresses: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one for text in addresses for one in listening_addresses(text)))


def _advertised(addresses: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(advertised_address(text) for text in addresses))


class Registry:
    """A registry directory. Cheap to make: nothing is opened or created until it is used."""

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, allow_uids: Iterable[int] | None = None
    ) -> None:
        """`path` defaults to `locate()`. `allow_uids` are the other users whose entries `lookup`
        and `lookup_address` return; it defaults to ZEROHOP_ALLOW_UIDS, uids with commas between.
        """
        self._path = locate()[0] if path is None else os.path.abspath(os.fspath(path))
        self._allowed = frozenset(_uids_from_environment() if allow_uids is None else allow_uids)
        self._unsettled = itertools.count(1)

    @property
    def path(self) -> str:
        """The directory, as an absolute path."""
        return self._path

    # --- publishing ---------------------------------------------------------------------------

    def reserve(self) -> Registration:
        """Take a new entry: its lock and its socket's path. Others see nothing until `commit`.

        Creates the directory (0700) if it is missing. Raises RegistryError where it is unusable.
        """
        _check_forked()
        with directory.opened(self._path, create=True) as folder:
            key, lock = directory.take_key(folder, self._path)
        registration = Registration(self._path, key, lock)
        _registrations[key] = registration
        return registration

    def publish(
        self,
        names: Sequence[str],
        addresses: Sequence[str] = (),
        advertise: Sequence[str] = (),
        *,
        listen: Callable[[str], object] | None = None,
    ) -> Registration:
        """`reserve`, `listen(socket_path)`, `commit`. On failure nothing stays."""
        registration = self.reserve()
        try:
            if listen is not None:
                listen(registration.socket_path)
            registration.commit(names, addresses, advertise)
        except BaseException:
            registration.close()
            raise
        return registration

    # --- finding ------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """All live entries, of every user and namespace, oldest first; removes stale ones.

        An entry that makes no sense is skipped. A missing directory has no entries. Raises
        RegistryError where the directory is not to be trusted.
        """
        _check_forked()
        try:
            with directory.opened(self._path) as folder:
                return sorted(self._scan(folder), key=lambda e: (e.start_time, e.key))
        except FileNotFoundError:
            return []

    def lookup(self, name: str) -> list[Entry]:
        """The live entries with a name, in the caller's network namespace, of allowed users."""
        netns = network_namespace()
        return [e for e in self._admitted() if name in e.names and e.netns == netns]

    def lookup_address(self, addresses: Sequence[Candidate]) -> list[Entry]:
        """The live entries of allowed users that a plain gRPC target reaches.

        `addresses` is what `zerohop.address.candidates(target)` gives: (ip, port) pairs in
        grpcio's order, `unix:` paths, and the target's own `name:port`. See `entry.matching`.
        """
        return list(matching(self._admitted(), addresses, network_namespace()))

    def why_not(self, addresses: Sequence[Candidate]) -> str:
        """Why `lookup_address` finds nothing, for a person who asks."""
        entries = self.entries()
        for entry in matching(entries, addresses, network_namespace()):
            return (
                f"{describe(entry)}: another user's, whom uid {os.geteuid()} does not admit "
                "(ZEROHOP_ALLOW_UIDS)"
            )
        for entry in entries:
            if matching([entry], addresses, entry.netns):
                return (
                    f"{describe(entry)}: in another network namespace, where it is reached by what "
                    "it advertises"
                )
        texts = [a if isinstance(a, str) else format_address(*a) for a in addresses]
        return (
            f"no server in {self._path} listens on {' or '.join(texts) or 'an address like that'}"
        )

    def generation(self) -> Generation:
        """A value that stays the same while nothing is published, updated or removed.

        One stat. Take it *before* looking up, and look up again once it differs. What was written
        less than 50 ms ago might be followed by another change at the same time on the
        directory's clock, so until then every call gives a value of its own. A process that is
        killed changes nothing here: its callers see that at once by the end of their link.
        """
        try:
            status = os.stat(self._path, follow_symlinks=False)
        except OSError:
            return (0, 0, 0, 0)
        age = time.time_ns() - status.st_mtime_ns
        settled = 0 if abs(age) > RACY_NS else next(self._unsettled)  # the clock may be set back
        return (status.st_ino, status.st_mtime_ns, status.st_size, settled)

    def _admitted(self) -> list[Entry]:
        uid = os.geteuid()
        return [e for e in self.entries() if e.uid == uid or e.uid in self._allowed]

    def _scan(self, folder: int) -> Iterator[Entry]:
        for key, owner in directory.live_keys(folder):
            try:
                yield self._read(folder, key, owner)
            except FileNotFoundError:
                pass  # reserved and not committed, or just closed
            except (Malformed, OSError) as error:
                log.debug("%s/%s.json: skipped: %s", self._path, key, error)

    def _read(self, folder: int, key: str, owner: int | None) -> Entry:
        file = os.open(key + ".json", directory.READ, dir_fd=folder)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise Malformed("no file")
            if owner not in (None, status.st_uid):
                raise Malformed("its lock belongs to another user")
            path = os.path.join(self._path, key + ".sock")
            return decode(os.read(file, MAX_BYTES + 1), key, status.st_uid, path)
        finally:
            os.close(file)


def _uids_from_environment() -> Collection[int]:
    text = os.environ.get("ZEROHOP_ALLOW_UIDS", "")
    try:
        return [int(uid) for uid in text.split(",") if uid.strip()]
    except ValueError:
        raise RegistryError(
            f"ZEROHOP_ALLOW_UIDS={text!r}: expected numbers of users with commas between"
        ) from None


def describe(entry: Entry) -> str:
    """An entry in one line, for logs."""
    where = [*entry.names, *entry.addresses, *(f"{a} (advertised)" for a in entry.advertise)]
    return f"process {entry.pid} of uid {entry.uid}: {', '.join(where) or 'no name'}"
