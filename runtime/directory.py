"""The registry's directory on disk: where it is, who may own it, locks, and what is stale.

Each entry is up to three files with one unique name, made by the server's process:

    NAME.lock   a POSIX record lock, held as long as the process lives
    NAME.sock   the unix socket on which it accepts links
    NAME.json   what it serves (see zerohop.entry); appears by rename, when the socket listens

An entry whose lock nobody holds is stale, and whoever lists the directory next removes it.

Why a POSIX record lock. It belongs to one process: a forked child does not inherit it, whichever
way it was forked, and the kernel drops it at the process's death and at exec. A flock or an OFD
lock belongs to the open file and would outlive a killed server in each worker that it has forked.
The price is that a process loses the lock when it closes *any* descriptor of the file; so a
process never opens the lock files of its own entries (`_own`).

How removal and creation do not collide. Names are never used twice. A remover holds a shared lock
while it unlinks; a creator, who has the exclusive lock, looks whether the file that it locked is
still the one under that name, and takes another name otherwise.
"""

import contextlib
import errno
import fcntl
import itertools
import logging
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterator

log = logging.getLogger("zerohop.registry")

MAX_ENTRIES = 4096
MAX_SOCKET_PATH = 107  # sun_path has 108 bytes, the last is NUL
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
CREATE = os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW

_KEY = re.compile(r"\d+-\d+-[0-9a-f]{8}\Z")
_SUFFIXES = (".json", ".tmp", ".sock", ".lock")  # in the order in which they are removed
_counter = itertools.count()

# Over `_own` and over every test of a lock file: a process's POSIX locks are one owner's, so that
# one thread's closing the file would end the lock under which another removes it.
_lock = threading.RLock()
_own: set[str] = set()  # keys whose lock file this process must not open


class RegistryError(OSError):
    """The registry directory cannot be used; the text says why and what would be accepted."""


def locate() -> tuple[str, str]:
    """The registry directory of this process, and what decided it."""
    if path := os.environ.get("ZEROHOP_REGISTRY"):
        return os.path.abspath(path), "ZEROHOP_REGISTRY"
    uid = os.geteuid()
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        # As the XDG specification has it, the directory is the user's own. It is not after sudo.
        with contextlib.suppress(OSError):
            if os.path.isabs(runtime) and os.stat(runtime).st_uid == uid:
                return os.path.join(runtime, "zerohop"), "XDG_RUNTIME_DIR"
    if uid == 0:
        return "/run/zerohop", "the default for root"
    return f"/tmp/zerohop-{uid}", "the default without XDG_RUNTIME_DIR"


@contextlib.contextmanager
def opened(path: str, *, create: bool = False) -> Iterator[int]:
    """A descriptor of the registry directory, which has been checked.

    FileNotFoundError if it is missing and not to be created, RegistryError for all else.
    """
    if create:
        _create(path)
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            what = "a symbolic link" if os.path.islink(path) else "no directory"
            raise _refused(path, f"it is {what}") from None
        raise RegistryError(f"the registry {path}: {error.strerror}") from None
    try:
        _check(path, os.fstat(directory))
        yield directory
    finally:
        os.close(directory)


def is_shared(directory: int) -> bool:
    """Whether several users publish here."""
    return bool(os.fstat(directory).st_mode & stat.S_IWGRP)


def _create(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except FileNotFoundError:
        raise RegistryError(
            f"the registry {path} cannot be made: there is no {os.path.dirname(path)}. "
            "Make it, or set ZEROHOP_REGISTRY."
        ) from None
    except OSError as error:
        raise RegistryError(
            f"the registry {path} cannot be made ({error.strerror}). "
            "Set ZEROHOP_REGISTRY to a directory of yours."
        ) from None


def _check(path: str, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in (0, os.geteuid()):
        raise _refused(path, f"it belongs to uid {status.st_uid}")
    if mode & stat.S_IWOTH:
        raise _refused(path, f"its mode is {mode:04o}: everybody may write to it")
    if mode & stat.S_IWGRP and not mode & stat.S_ISGID:
        raise _refused(path, f"its mode is {mode:04o}: a group may write to it by accident")


def _refused(path: str, reason: str) -> RegistryError:
    return RegistryError(
        f"the registry {path} is refused: {reason}. Accepted is a directory, not a symbolic link, "
        f"owned by root or uid {os.geteuid()}: of mode 0700 for one user, or 2770 with a group of "
        "their own for several. ZEROHOP_REGISTRY names another one."
    )


# --- this process's files -----------------------------------------------------------------------


def take_key(directory: int, path: str) -> tuple[str, int]:
    """A new entry's key and the descriptor that holds its lock."""
    with _lock:
        for _ in range(100):
            key = f"{os.getpid()}-{next(_counter)}-{secrets.token_hex(4)}"
            length = len(os.fsencode(os.path.join(path, key + ".sock")))
            if length > MAX_SOCKET_PATH:
                raise RegistryError(
                    f"the registry {path} has too long a path: a socket in it would have one of "
                    f"{length} bytes, and {MAX_SOCKET_PATH} are possible. "
                    "Set ZEROHOP_REGISTRY to a shorter one."
                )
            _own.add(key)  # first: from here on this process must not open the lock file
            lock = -1
            try:
                lock = _new_lock(directory, path, key + ".lock")
            finally:
                if lock < 0:
                    _own.discard(key)
            if lock >= 0:
                return key, lock
    raise RegistryError(f"the registry {path}: somebody locks every file that is made in it")


def _new_lock(directory: int, path: str, name: str) -> int:
    """Create and lock a lock file; -1 where somebody took it for stale meanwhile."""
    try:
        lock = os.open(name, os.O_RDWR | CREATE, 0o600, dir_fd=directory)
    except OSError as error:
        raise RegistryError(f"the registry {path}: cannot write to it ({error.strerror})") from None
    try:
        if is_shared(directory):
            os.fchmod(lock, 0o640)  # who may not open it cannot tell whether we live
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if os.path.samestat(found, os.fstat(lock)):
            return lock
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN, errno.ENOENT):
            os.close(lock)
            raise RegistryError(
                f"the registry {path}: no file can be locked there ({error.strerror})"
            ) from None
    os.close(lock)
    return -1


def drop_key(path: str, key: str, lock: int) -> None:
    """Remove an entry of this process and its lock."""
    with _lock:
        with contextlib.suppress(OSError), opened(path) as directory:
            _unlink(directory, key)
        os.close(lock)
        _own.discard(key)


def write(directory: int, path: str, key: str, data: bytes) -> None:
    """Put an entry's file in place, at once."""
    temporary = key + ".tmp"
    with _lock:
        if key not in _own:
            raise RegistryError(f"the registry {path}: the entry {key} is closed")
        if not _exists(directory, key + ".lock"):
            raise RegistryError(f"the registry {path}: somebody has removed {key}.lock")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        try:
            file = os.open(temporary, os.O_WRONLY | CREATE, 0o600, dir_fd=directory)
            try:
                if is_shared(directory):
                    os.fchmod(file, 0o640)
                    _open_socket_to_group(directory, key + ".sock")
                os.write(file, data)
            finally:
                os.close(file)
            os.rename(temporary, key + ".json", src_dir_fd=directory, dst_dir_fd=directory)
        except OSError as error:
            raise RegistryError(
                f"the registry {path}: cannot write to it ({error.strerror})"
            ) from None


def _exists(directory: int, name: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        os.stat(name, dir_fd=directory, follow_symlinks=False)
        return True
    return False


def _open_socket_to_group(directory: int, name: str) -> None:
    """Who connects to a socket writes to it. By descriptor: others may put a link in its place."""
    with contextlib.suppress(FileNotFoundError):
        file = os.open(name, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
        try:
            if stat.S_ISSOCK(os.fstat(file).st_mode):
                os.chmod(f"/proc/self/fd/{file}", 0o660)
        finally:
            os.close(file)


def forget_parent() -> None:
    """In a forked child: the parent's entries are the parent's."""
    global _lock
    _lock = threading.RLock()
    _own.clear()


# --- everybody's files --------------------------------------------------------------------------


def live_keys(directory: int) -> Iterator[tuple[str, int | None]]:
    """The keys whose lock is held, with the uid of the lock's owner (None for this process).

    Removes what is stale on the way.
    """
    keys: set[str] = set()
    for name in os.listdir(directory):
        key, dot, suffix = name.partition(".")
        if dot + suffix in _SUFFIXES and _KEY.match(key):
            keys.add(key)
    if len(keys) > MAX_ENTRIES:
        log.warning("the registry has %d entries, only %d are read", len(keys), MAX_ENTRIES)
    for key in itertools.islice(keys, MAX_ENTRIES):
        with _lock:
            if key in _own:
                owner = None
            elif (owner := _holder_else_remove(directory, key)) is None:
                continue
        yield key, owner


def _holder_else_remove(directory: int, key: str) -> int | None:
    """The uid of an entry's owner; None, and nothing left of the entry, if it is stale."""
    try:
        lock = os.open(key + ".lock", READ, dir_fd=directory)
    except FileNotFoundError:  # the lock is made first and removed last
        _unlink(directory, key)
        return None
    except OSError as error:
        log.debug("%s.lock: skipped: %s", key, error.strerror)
        return None
    try:
        try:
            fcntl.lockf(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return os.fstat(lock).st_uid
        _unlink(directory, key)  # while we hold the lock
        return None
    finally:
        os.close(lock)


def _unlink(directory: int, key: str) -> None:
    for suffix in _SUFFIXES:
        with contextlib.suppress(OSError):
            os.unlink(key + suffix, dir_fd=directory)
