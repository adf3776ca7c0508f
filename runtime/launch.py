"""`zerohop run PROGRAM`: start a program whose gRPC calls take the short way, unchanged.

The program is started with the folder `autoload` first on PYTHONPATH. Python runs the
`sitecustomize` there at its start, which calls `zerohop.install()` when grpc is imported. So do
the Python programs that it starts in turn, and processes that it forks have it anyway.

Python does not look at PYTHONPATH with -E or -I and runs no sitecustomize with -S or -I. Such a
program calls `zerohop.install()` itself.
"""

import errno
import importlib
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from zerohop.address import advertised_address
from zerohop.registry import Registry, locate

AUTOLOAD = str(Path(__file__).resolve().parent / "autoload")

_PYTHON = re.compile(r"(?:python|pypy)[0-9.]*\Z")
_WITH_VALUE = "WX"  # options of Python whose value may be the next argument


class LaunchError(Exception):
    """The program cannot be started. `status` is what a shell would return."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def environment(
    base: Mapping[str, str], *, explain: bool = False, advertise: Sequence[str] = ()
) -> dict[str, str]:
    """The environment of the program. Raises ValueError for what cannot be advertised."""
    old = base.get("PYTHONPATH", "")
    rest = [path for path in old.split(os.pathsep) if path != AUTOLOAD] if old else []
    new = {**base, "PYTHONPATH": os.pathsep.join([AUTOLOAD, *rest]), "ZEROHOP_RUN": "1"}
    if explain:
        new["ZEROHOP_EXPLAIN"] = "1"
    if advertise:
        new["ZEROHOP_ADVERTISE"] = ",".join(advertised_address(text) for text in advertise)
    return new


def launch(
    command: Sequence[str], *, explain: bool = False, advertise: Sequence[str] = ()
) -> NoReturn:
    """Become the program. Raises LaunchError or ValueError if that is impossible."""
    program = _find(command[0])
    new = environment(os.environ, explain=explain, advertise=advertise)
    options = ignored_options(command)
    if options:
        print(
            f"zerohop: with {options} Python does not load zerohop: "
            "this program has to call zerohop.install() itself",
            file=sys.stderr,
        )
    if explain:
        path, why = locate()
        print(f"zerohop: {_registry_state(path)} ({why})", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(program, list(command), new)
    except OSError as error:
        hint = ""
        if error.errno == errno.ENOEXEC:
            hint = f"; for a Python script: zerohop run python {command[0]}"
        raise LaunchError(f"cannot run {program}: {error.strerror}{hint}", 126) from None


def _find(name: str) -> str:
    found = shutil.which(name)
    if found:
        return found
    if os.path.isfile(name):
        if name.endswith(".py"):
            raise LaunchError(f"{name} is no program; for a script: zerohop run python {name}", 126)
        if os.sep in name:
            raise LaunchError(f"{name} is not executable: chmod +x makes it so", 126)
    where = "there is no such file" if os.sep in name else "it is not on PATH"
    raise LaunchError(f"cannot find the program {name!r}: {where}", 127)


def ignored_options(command: Sequence[str]) -> str:
    """The options in `python OPTIONS script` that keep Python from loading sitecustomize."""
    if not _PYTHON.match(os.path.basename(command[0])):
        return ""
    found: list[str] = []
    arguments = iter(command[1:])
    for argument in arguments:
        if not argument.startswith("-") or argument in ("-", "--"):
            break
        if argument.startswith("--"):
            if argument == "--check-hash-based-pycs":
                next(arguments, None)
            continue
        for position, letter in enumerate(argument[1:], 1):
            if letter in "cm":  # what follows is the program's
                return ", ".join(found)
            if letter in _WITH_VALUE:
                if position == len(argument) - 1:
                    next(arguments, None)
                break
            if letter in "SEI" and f"-{letter}" not in found:
                found.append(f"-{letter}")
    return ", ".join(found)


def _registry_state(path: str) -> str:
    try:
        count = len(Registry(path).entries())
    except OSError as error:
        return str(error)
    return f"the registry {path} holds {count} server{'' if count == 1 else 's'}"


def watch() -> None:
    """Do what `autoload/sitecustomize.py` does, in a process where it has not run."""
    sys.path.append(AUTOLOAD)
    try:
        module = importlib.import_module("zerohop_autoload")
    finally:
        sys.path.remove(AUTOLOAD)
    module.watch()


def under_opentelemetry() -> None:
    """Entry point of the group `opentelemetry_pre_instrument`.

    `zerohop run opentelemetry-instrument PROGRAM` puts OpenTelemetry's sitecustomize before ours,
    and theirs calls no other. It calls this, before its instrumentors wrap grpc.
    """
    if os.environ.get("ZEROHOP_RUN") == "1":
        watch()
