"""The checks of `zerohop doctor` on the place: registry, namespaces, sandbox, DPDK."""

import contextlib
import glob
import os
import socket
import stat

from zerohop.directory import locate
from zerohop.doctor import Result, fail, ok, warn
from zerohop.process import namespace
from zerohop.registry import Registry, RegistryError

# include/linux/proc_ns.h: the inodes of the namespaces that the machine booted with. The network
# namespace has none that is fixed.
INITIAL = {"ipc": 0xEFFFFFFF, "user": 0xEFFFFFFD, "pid": 0xEFFFFFFC, "time": 0xEFFFFFFA}
SECCOMP = {"0": "no seccomp", "1": "seccomp in strict mode", "2": "a seccomp filter"}


def registry_directory() -> Result:
    """Publish a server there, find it, connect to it, take it back."""
    path, why = locate()
    found = f"{path} ({why})"
    name = f"zerohop-doctor-{os.getpid()}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def listen(socket_path: str) -> None:
        listener.bind(socket_path)
        listener.listen()

    try:
        with listener, Registry().publish([name], listen=listen):
            entries = Registry().lookup(name)
            if len(entries) != 1:
                return fail(f"{found}: an entry is not found again", "Use another file system.")
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
                client.connect(entries[0].socket_path)
        mode = stat.S_IMODE(os.stat(path).st_mode)
        others = len(Registry().entries())
    except RegistryError as error:
        return fail(str(error), "zerohop run and zerohop:/// targets need it.")
    except OSError as error:
        return fail(
            f"{found}: {error.strerror}",
            "ZEROHOP_REGISTRY must name a directory on a file system with sockets and locks.",
        )
    found += f", mode {mode:04o}, {others} server{'' if others == 1 else 's'}"
    if path.startswith("/tmp/"):
        return warn(
            found,
            "systemd-tmpfiles removes files in /tmp after 10 days: for servers that run longer set "
            "ZEROHOP_REGISTRY to a directory elsewhere.",
        )
    return ok(found)


def namespaces() -> Result:
    """Which of the machine's namespaces this is, and what containers must share."""
    inodes = {kind: namespace(kind) for kind in ("net", "pid", "ipc", "user", "time")}
    if not inodes["net"]:
        return warn("/proc does not tell", "Mount /proc: peers are told apart by namespace.")
    found = ", ".join(f"{kind} {inode}" for kind, inode in inodes.items())
    if _clock_offset():
        return warn(
            f"{found}, with the clock set off",
            "A time namespace makes deadlines mean another time to peers outside: use none.",
        )
    own = [kind for kind, inode in INITIAL.items() if inodes[kind] not in (0, inode)]
    if not own:
        return ok(found)
    advice = (
        "In a container: peers must share the registry directory (a volume, and ZEROHOP_REGISTRY "
        "in each) and the network namespace, or be reached by --advertise."
    )
    if "user" in own:
        advice += " Its uids must mean the same in all of them (one user namespace)."
    if "pid" in own and not _peer_pidfd():
        advice += " Before Linux 6.5 share the pid namespace, so that a peer's end is seen at once."
        return warn(f"{found}: own {', '.join(own)}", advice)
    return ok(f"{found}: own {', '.join(own)}", advice)


def _clock_offset() -> bool:
    with contextlib.suppress(OSError), open("/proc/self/timens_offsets") as file:
        return any(set(line.split()[1:]) - {"0"} for line in file)
    return False


def _peer_pidfd() -> bool:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other, contextlib.suppress(OSError):
        os.close(one.getsockopt(socket.SOL_SOCKET, 77))
        return True
    return False


def sandbox() -> Result:
    """Seccomp and security modules. What they forbid shows in the other checks."""
    mode = ""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        mode = dict(line.split(":\t", 1) for line in file if ":\t" in line).get("Seccomp", "")
    found = f"{SECCOMP.get(mode.strip(), 'seccomp unknown')}; /dev/shm is not used"
    with contextlib.suppress(OSError), open("/sys/fs/selinux/enforce") as file:
        if file.read().strip() == "1":
            return ok(
                f"{found}; SELinux enforces",
                "It forbids passing descriptors between containers of different labels: run peers "
                "with one level (--security-opt label=level:...).",
            )
    return ok(found)


def dpdk() -> Result:
    """For information: between processes of one machine it plays no part."""
    folders = ("/usr/lib/*", "/usr/lib64", "/usr/local/lib", "/usr/local/lib/*")
    libraries = [path for folder in folders for path in glob.glob(f"{folder}/librte_eal.so*")]
    where = libraries[0] if libraries else "not installed"
    return ok(f"{where}; not needed on one machine")
