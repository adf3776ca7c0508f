"""What a process is to others on its machine: pid, start time, namespaces."""

import os


def start_time(pid: int | None = None) -> int:
    """Field 22 of /proc/PID/stat: clock ticks from boot to the process's start; 0 if unknown.

    With the pid it names one process for ever: pids are reused, start times of a pid are not.
    """
    try:
        with open(f"/proc/{'self' if pid is None else pid}/stat", "rb") as file:
            # The second field is the command in parentheses, which may hold spaces and parentheses.
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def namespace(kind: str, pid: int | str = "self") -> int:
    """The inode of a namespace (`net`, `pid`, `user`, `ipc`, `mnt`, `time`); 0 if unknown."""
    try:
        return os.stat(f"/proc/{pid}/ns/{kind}").st_ino
    except OSError:
        return 0
