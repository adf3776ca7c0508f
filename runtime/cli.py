"""The `zerohop` command."""

import argparse
import importlib
import json
import os
import pwd
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from zerohop import __version__, doctor
from zerohop.entry import Entry
from zerohop.launch import LaunchError, launch
from zerohop.process import namespace
from zerohop.registry import Registry, RegistryError

TOP = """\
commands:
  run      start a program whose gRPC calls take the short way, without changing it
  ps       list the servers of this machine that can be reached over shared memory
  doctor   say what this machine can do, and what stands in the way
  bench    measure calls over shared memory, side by side with grpcio
  net      programs on zerohop's own TCP/IP stack: serve files, ping, and others

examples:
  zerohop run python server.py
  zerohop ps
  zerohop COMMAND --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    try:
        status = _main(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # as in `zerohop ps | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except LaunchError as error:
        return _fail(error, error.status)
    except RegistryError as error:
        return _fail(error, 1)


def _fail(error: Exception, status: int) -> int:
    print(f"zerohop: error: {error}", file=sys.stderr)
    return status


def _main(argv: list[str]) -> int:
    if argv and argv[0] in _COMMANDS:
        return _COMMANDS[argv[0]](argv[1:])
    parser = _parser(
        None, "gRPC for Python over shared memory.", TOP, usage="zerohop [--version] COMMAND ..."
    )
    parser.add_argument("--version", action="version", version=f"zerohop {__version__}")
    parser.add_argument("command", nargs="?", choices=list(_COMMANDS), help=argparse.SUPPRESS)
    parser.parse_args(argv[:1])
    parser.print_help()
    return 0


def _parser(
    command: str | None, description: str, epilog: str, usage: str | None = None
) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"zerohop {command}" if command else "zerohop",
        usage=usage,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


# --- run ----------------------------------------------------------------------------------------

RUN = """\
PROGRAM is any program that uses grpcio: python with a script, gunicorn, a console script. Programs
that it starts and processes that it forks are included. Where both ends of a call run under
zerohop on this machine, the call goes over shared memory; every other call goes as before.

Python reads no PYTHONPATH with -E or -I and no sitecustomize with -S or -I: such a program calls
zerohop.install() itself.

examples:
  zerohop run python recommendation_server.py --port 8080
  zerohop run --explain python client.py
  zerohop run --advertise catalogue:50051 gunicorn app:app
  zerohop run opentelemetry-instrument python server.py
"""


def _run(argv: list[str]) -> int:
    parser = _parser(
        "run",
        "Start a program whose gRPC calls take the short way, without changing it.",
        RUN,
        usage="zerohop run [--explain] [--advertise HOST:PORT]... [--] PROGRAM [ARGUMENT ...]",
    )
    parser.add_argument(
        "--explain", action="store_true", help="log which way each channel goes, and why"
    )
    parser.add_argument(
        "--advertise",
        metavar="HOST:PORT",
        action="append",
        default=[],
        help="a name by which others know this program's servers, such as a Kubernetes service; "
        "may be repeated",
    )
    # Split by hand: everything from the program's name on is the program's, whatever it looks like.
    end = 0
    while end < len(argv) and argv[end].startswith("-") and argv[end] != "--":
        end += 2 if argv[end] == "--advertise" else 1
    options = parser.parse_args(argv[:end])
    command = argv[end + 1 :] if argv[end : end + 1] == ["--"] else argv[end:]
    if not command:
        parser.error("which program? For example: zerohop run python server.py")
    try:
        launch(command, explain=options.explain, advertise=options.advertise)
    except ValueError as error:
        parser.error(str(error))


# --- ps -----------------------------------------------------------------------------------------

PS = """\
Whose lock nobody holds is gone and is removed from the registry by this command.

examples:
  zerohop ps
  zerohop ps --json | jq '.[].names'
  ZEROHOP_REGISTRY=/run/shared zerohop ps
"""


def _ps(argv: list[str]) -> int:
    parser = _parser(
        "ps", "List the servers of this machine that can be reached over shared memory.", PS
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(argv)
    registry = Registry()
    entries = registry.entries()
    if options.json:
        print(json.dumps([_facts(entry) for entry in entries], indent=2))
    elif entries:
        for line in _table(entries):
            print(line)
    else:
        print(f"no servers in {registry.path}", file=sys.stderr)
    return 0


def _facts(entry: Entry) -> dict[str, object]:
    return {
        "names": entry.names,
        "addresses": entry.addresses,
        "advertise": entry.advertise,
        "pid": entry.pid,
        "pid_namespace": entry.pidns,
        "network_namespace": entry.netns,
        "uid": entry.uid,
        "uptime_seconds": round(_uptime(entry), 2),
        "socket": entry.socket_path,
    }


def _uptime(entry: Entry) -> float:
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - entry.started)


def _table(entries: Iterable[Entry]) -> list[str]:
    rows = [("PID", "USER", "UP", "NAMES", "ADDRESSES")]
    notes = set()
    for entry in entries:
        pid = str(entry.pid)
        if entry.pidns != namespace("pid"):
            pid += "*"
            notes.add("* in another pid namespace")
        addresses = [*entry.addresses, *(f"={address}" for address in entry.advertise)]
        if entry.netns != namespace("net"):
            addresses.append("+")
            notes.add("+ in another network namespace: only advertised addresses are reached")
        if entry.advertise:
            notes.add("= advertised")
        names = ", ".join(entry.names) or "-"
        where = " ".join(addresses) or "-"
        rows.append((pid, _user(entry.uid), _duration(_uptime(entry)), names, where))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]])
        for row in rows
    ]
    return lines + sorted(notes)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _duration(seconds: float) -> str:
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days}d{hours % 24:02}h"
    if hours:
        return f"{hours}h{minutes % 60:02}m"
    return f"{minutes}m{int(seconds) % 60:02}s" if minutes else f"{int(seconds)}s"


# --- the others -----------------------------------------------------------------------------------


def _bench(argv: list[str]) -> int:
    return int(importlib.import_module("zerohop.bench").main(argv) or 0)


def _net(argv: list[str]) -> int:
    return int(importlib.import_module("zerohop.netcli").main(argv))


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": _run,
    "ps": _ps,
    "list": _ps,
    "doctor": doctor.main,
    "bench": _bench,
    "net": _net,
}
