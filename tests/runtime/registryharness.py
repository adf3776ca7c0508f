"""A registry of a test's own, and processes that publish in it."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from zerohop.registry import Registry

PRELUDE = """
import os, signal, socket, sys, time
from zerohop.registry import Registry
keep = []
def listen(path):
    keep.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    keep[-1].bind(path)
    keep[-1].listen()
def publish(*args, **keywords):
    return Registry().publish(*args, listen=listen, **keywords)
"""


class Process:
    """A Python process that has run `code`, has printed `output`, and waits until it is ended."""

    def __init__(self, folder: Path, code: str, *prefix: str) -> None:
        script = PRELUDE + textwrap.dedent(code) + "\nprint('ready', flush=True)\nsys.stdin.read()"
        self.popen = subprocess.Popen(
            [*prefix, sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "ZEROHOP_REGISTRY": str(folder)},
        )
        self.output: list[str] = []
        for line in self.popen.stdout:
            if line.strip() == "ready":
                return
            self.output.append(line.strip())
        raise AssertionError(f"ended before it was ready: {self.popen.wait()}, {self.output}")

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def end(self) -> int:
        self.popen.stdin.close()
        return self.popen.wait(20)

    def rest(self) -> str:
        return self.popen.stdout.read()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the registry is going to be. Not in tmp_path: a socket's path has 107 bytes."""
    parent = Path(tempfile.mkdtemp(prefix="zh-"))
    yield parent / "reg"
    shutil.rmtree(parent, ignore_errors=True)  # who is killed may still be removing his own


@pytest.fixture
def registry(folder: Path) -> Registry:
    return Registry(folder)


@pytest.fixture
def left(folder: Path) -> Callable[[], list[str]]:
    """The suffixes of the files in the registry."""
    return lambda: sorted(path.suffix for path in folder.iterdir())


@pytest.fixture
def spawn(folder: Path) -> Iterator[Callable[..., Process]]:
    """Starts a Process: spawn(code, *command_before_python)."""
    with contextlib.ExitStack() as stack:

        def start(code: str, *prefix: str) -> Process:
            process = Process(folder, code, *prefix)
            stack.enter_context(process.popen)
            stack.callback(process.popen.kill)
            return process

        yield start


@pytest.fixture
def run(spawn: Callable[..., Process]) -> Callable[..., list[str]]:
    """What a process printed that has done its work and ended."""

    def run(code: str, *prefix: str) -> list[str]:
        process = spawn(code, *prefix)
        assert process.end() == 0
        return process.output

    return run
