"""The checks of `zerohop doctor`: the kernel's mechanisms, each tried as the transport uses it."""

import contextlib
import errno
import fcntl
import importlib.metadata
import mmap
import os
import platform
import re
import select
import socket
import struct
import sys
import sysconfig
import time

from zerohop.doctor import Probe, Result, fail, ok, warn
from zerohop.probes_limits import arena, descriptors, file_size, huge_pages, mappings, processors
from zerohop.probes_place import dpdk, namespaces, registry_directory, sandbox

SO_PEERPIDFD = 77  # asm-generic/socket.h, Linux 6.5
F_SEAL_FUTURE_WRITE = 0x10  # linux/fcntl.h, Linux 5.1
MFD_NOEXEC_SEAL = 0x8  # linux/memfd.h, Linux 6.3
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | F_SEAL_FUTURE_WRITE
SIZE = 1 << 16
SLOW_CLOCK_NS = 400  # a read through the vDSO costs some 50 ns with Python's call around it
BOUNDED = 5.0  # seconds that a probe waits for the kernel at most


def system() -> Result:
    """Linux, 64 bits, little-endian, 5.1 or later."""
    found = f"{platform.system()} {platform.release()} on {platform.machine()}"
    if platform.system() != "Linux":
        return fail(found, "zerohop runs on Linux only.")
    if sys.maxsize < 1 << 32 or sys.byteorder != "little":
        return fail(found, "zerohop needs a 64-bit, little-endian machine.")
    if version(platform.release()) < (5, 1):
        return fail(found, "Linux 5.1 or later is needed (F_SEAL_FUTURE_WRITE).")
    return ok(found)


def version(text: str) -> tuple[int, int]:
    """(6, 1) of `6.1.0-18-amd64`."""
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def python() -> Result:
    """CPython, with the GIL. (An older Python than 3.11 could not have imported this.)"""
    found = f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"
    if platform.python_implementation() != "CPython":
        return fail(found, "zerohop's call path is a CPython extension: use CPython.")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return fail(found, "Free-threaded builds are not supported: use an ordinary build.")
    return ok(found)


def packages() -> Result:
    """zerohop's extension, and grpcio."""
    from zerohop import __version__, stats

    stats()  # the C library answers
    try:
        grpcio = importlib.metadata.version("grpcio")
    except importlib.metadata.PackageNotFoundError:
        return fail(f"zerohop {__version__}, no grpcio", "pip install grpcio")
    found = f"zerohop {__version__}, grpcio {grpcio}"
    if version(grpcio) < (1, 66):
        return fail(found, "grpcio 1.66 or later is needed: pip install -U grpcio")
    return ok(found)


def memfd() -> Result:
    """A sealed memfd, as a segment is one: committed, mapped, then sealed."""
    try:
        fd = os.memfd_create("zerohop-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        if error.errno == errno.EACCES and _noexec_is_forced():
            return fail(
                "vm.memfd_noexec=2 forbids a memfd that could be executed",
                "sysctl vm.memfd_noexec=1",
            )
        return fail(f"memfd_create: {error.strerror}", _seccomp_advice("memfd_create"))
    try:
        return _seal(fd)
    finally:
        os.close(fd)


def _seal(fd: int) -> Result:
    try:
        os.posix_fallocate(fd, 0, SIZE)
    except OSError as error:
        return fail(f"fallocate on a memfd: {error.strerror}", "Free memory, or raise its limit.")
    with mmap.mmap(fd, SIZE) as owner:
        try:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        except OSError as error:
            return fail(f"sealing a memfd: {error.strerror}", "Linux 5.1 or later is needed.")
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS != SEALS:
            return fail("the seals of a memfd do not stick", "This kernel is not usable.")
        owner[:4] = b"zero"
        with mmap.mmap(fd, SIZE, prot=mmap.PROT_READ) as reader:
            if reader[:4] != b"zero":
                return fail("two mappings of a memfd differ", "This kernel is not usable.")
        for name, attempt in (
            ("mapped for writing", lambda: mmap.mmap(fd, SIZE).close()),
            ("written", lambda: os.write(fd, b"x")),
            ("shrunk", lambda: os.ftruncate(fd, 0)),
            ("grown", lambda: os.ftruncate(fd, 2 * SIZE)),
        ):
            with contextlib.suppress(OSError):
                attempt()
                return fail(f"a sealed memfd can be {name}", "This kernel is not usable.")
    return ok("committed, mapped and sealed (shrink, grow, future writes)")


def _noexec_is_forced() -> bool:
    with contextlib.suppress(OSError), open("/proc/sys/vm/memfd_noexec") as file:
        return file.read().strip() == "2"
    return False


def _seccomp_advice(call: str) -> str:
    return f"Allow the system call {call} in the sandbox's seccomp profile."


def sockets() -> Result:
    """What links are made of: SOCK_SEQPACKET with descriptors and credentials."""
    try:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        return fail(
            f"unix SOCK_SEQPACKET sockets: {error.strerror}",
            "Allow AF_UNIX sockets (RestrictAddressFamilies, seccomp).",
        )
    with one, other:
        other.settimeout(BOUNDED)
        one.send(b"first")
        try:
            socket.send_fds(one, [b"second"], [one.fileno()])
        except OSError as error:
            return fail(
                f"SCM_RIGHTS: {error.strerror}", "Allow sendmsg in the sandbox's seccomp profile."
            )
        if other.recv(64) != b"first":
            return fail("SOCK_SEQPACKET does not keep messages apart", "Use another sandbox.")
        data, fds, _, _ = socket.recv_fds(other, 64, 4, socket.MSG_CMSG_CLOEXEC)
        for fd in fds:
            os.close(fd)
        if data != b"second" or len(fds) != 1:
            return fail(
                "a descriptor that was sent did not arrive",
                "A security module may forbid it: allow passing descriptors on unix sockets.",
            )
        size = struct.calcsize("3i")
        credentials = one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        pid, uid, _ = struct.unpack("3i", credentials)
        if (pid, uid) != (os.getpid(), os.geteuid()):
            return fail(f"SO_PEERCRED says pid {pid}, uid {uid}", "Use another sandbox.")
    return ok("unix SOCK_SEQPACKET with SCM_RIGHTS and SO_PEERCRED")


def pidfds() -> Result:
    """How the end of a peer is seen, beside the end of its socket."""
    try:
        os.close(os.pidfd_open(os.getpid()))
        opened = True
    except OSError:
        opened = False
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        try:
            os.close(one.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD))
        except OSError:
            if not opened:
                return warn(
                    "neither SO_PEERPIDFD nor pidfd_open",
                    "A killed peer that has forked is seen only when its children are gone too; "
                    "allow pidfd_open, or use Linux 6.5.",
                )
            return ok(
                "pidfd_open; SO_PEERPIDFD comes with Linux 6.5",
                "Peers in other containers need a shared pid namespace, or are watched by their "
                "socket alone.",
            )
    return ok("SO_PEERPIDFD" + (", pidfd_open" if opened else ""))


def doorbells() -> Result:
    """An eventfd in an edge-triggered epoll set that is never read."""
    try:
        bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    except OSError as error:
        return fail(f"eventfd: {error.strerror}", _seccomp_advice("eventfd2"))
    try:
        with select.epoll() as waiter:
            waiter.register(bell, select.EPOLLIN | select.EPOLLET)
            for _ in range(2):
                os.eventfd_write(bell, 1)
                if not waiter.poll(BOUNDED):
                    return fail("an eventfd does not wake epoll", "Use another sandbox.")
                if waiter.poll(0):
                    return fail("epoll is not edge-triggered", "Use another sandbox.")
    finally:
        os.close(bell)
    return ok("eventfd with edge-triggered epoll")


def clock() -> Result:
    """Deadlines and spinning read the clock often: it must not cost a system call."""
    source = _line("/sys/devices/system/clocksource/clocksource0/current_clocksource") or "unknown"
    best = min(_clock_cost() for _ in range(5))
    found = f"{source}, {best:.0f} ns a reading"
    if best <= SLOW_CLOCK_NS:
        return ok(found)
    return warn(
        found,
        "Each reading is a system call, which makes calls slower. Boot with clocksource=tsc, if "
        "the machine's TSC is stable.",
    )


def _clock_cost() -> float:
    rounds = 1000
    start = time.perf_counter_ns()
    for _ in range(rounds):
        time.monotonic_ns()
    return (time.perf_counter_ns() - start) / rounds


def _line(path: str) -> str:
    with contextlib.suppress(OSError), open(path) as file:
        return file.readline().strip()
    return ""


PROBES: list[tuple[str, Probe]] = [
    ("system", system),
    ("python", python),
    ("packages", packages),
    ("memfd", memfd),
    ("sockets", sockets),
    ("pidfd", pidfds),
    ("doorbell", doorbells),
    ("registry", registry_directory),
    ("memory", arena),
    ("descriptors", descriptors),
    ("mappings", mappings),
    ("file size", file_size),
    ("namespaces", namespaces),
    ("sandbox", sandbox),
    ("processors", processors),
    ("clock", clock),
    ("huge pages", huge_pages),
    ("dpdk", dpdk),
]
