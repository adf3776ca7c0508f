"""Programs that know nothing of zerohop, as processes, with and without `zerohop run`."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).resolve().parent / "programs"
WAIT = 40.0

# In each process, at its end: what went over shared memory.
SITECUSTOMIZE = """
import atexit, json, os, sys
def count():
    if "zerohop" in sys.modules:
        stats = sys.modules["zerohop"].stats()
        with open(os.path.join(os.environ["TEST_COUNTERS"], str(os.getpid())), "w") as file:
            json.dump(stats, file)
atexit.register(count)
"""

# What the C core of grpcio says of its connections, and `zerohop run` before the program starts.
_NOISE = re.compile(
    r"^(WARNING: All log messages|[IWE]\d{4} |I0000 |zerohop: the registry ).*\n?", re.MULTILINE
)


class Program:
    """A running program. Its output is read by threads, so that nothing blocks it."""

    def __init__(self, command: list[str], env: dict[str, str], counters: Path) -> None:
        self._counters = counters
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            cwd=PROGRAMS,
        )
        self.pid = self._popen.pid
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._stderr: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._read_stderr, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        for line in self._popen.stdout:
            self.lines.append(line.rstrip("\n"))
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def _read_stderr(self) -> None:
        self._stderr.extend(self._popen.stderr)

    @property
    def stderr(self) -> str:
        return _NOISE.sub("", "".join(self._stderr))

    def line(self) -> str:
        """The next line that it prints."""
        line = self._queue.get(timeout=WAIT)
        assert line is not None, f"it has ended: {self.stderr}"
        return line

    def port(self) -> int:
        """The port that it says it listens on."""
        line = self.line()
        assert line.startswith("listening on port "), (line, self.stderr)
        return int(line.split()[-1])

    def say(self, text: str) -> None:
        self._popen.stdin.write(text + "\n")
        self._popen.stdin.flush()

    def ask(self, text: str) -> str:
        self.say(text)
        return self.line()

    def explained(self, text: str) -> None:
        """Wait until it has explained something (ZEROHOP_EXPLAIN)."""
        end = time.monotonic() + WAIT
        while text not in self.stderr:
            assert time.monotonic() < end, self.stderr
            time.sleep(0.01)

    def finish(self) -> list[str]:
        """Let it come to its end; all that it has printed."""
        self._popen.stdin.close()
        assert self._popen.wait(WAIT) == 0, self.stderr
        for reader in self._readers:
            reader.join(WAIT)
        return self.lines

    def stop(self) -> list[str]:
        self._popen.send_signal(signal.SIGTERM)
        return self.finish()

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait(WAIT)
        for reader in self._readers:
            reader.join(WAIT)
        self._popen.stdin.close()

    def counted(self, pid: int | None = None) -> dict[str, int]:
        """The counters of a process that has ended; zeroes where zerohop was not even loaded."""
        path = self._counters / str(pid or self.pid)
        found = json.loads(path.read_text()) if path.exists() else {}
        return {"calls_started": 0, "calls_handled": 0, **found}


class Programs:
    """Starts programs that share a registry of their own."""

    def __init__(self, folder: Path, stubs: Path) -> None:
        self.registry = folder / "registry"
        self._counters = folder / "counters"
        self._counters.mkdir()
        site = folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(SITECUSTOMIZE)
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("ZEROHOP_", "GRPC_"))}
        self.env = {
            **keep,
            "PYTHONPATH": os.pathsep.join([str(site), str(stubs), str(PROGRAMS)]),
            "PYTHONUNBUFFERED": "1",
            "TEST_COUNTERS": str(self._counters),
            "ZEROHOP_REGISTRY": str(self.registry),
        }
        self._running: list[Program] = []

    def start(
        self,
        program: str,
        *arguments: object,
        run: bool = True,
        options: tuple[str, ...] = (),
        prefix: tuple[str, ...] = (),
        **env: str,
    ) -> Program:
        """`program` is a file of tests/runtime/programs, or code. `prefix`: before python."""
        python = [sys.executable, program] if program.endswith(".py") else [sys.executable, "-c"]
        if not program.endswith(".py"):
            python.append(program)
        command = [*prefix, *python, *map(str, arguments)]
        if run:
            command = [sys.executable, "-m", "zerohop", "run", *options, *command]
        started = Program(command, {**self.env, **env}, self._counters)
        self._running.append(started)
        return started

    def close(self) -> None:
        for program in self._running:
            program.kill()


@pytest.fixture(scope="session")
def run_stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs' generated modules."""
    out = tmp_path_factory.mktemp("stubs")
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{PROGRAMS}"),
            *(f"--python_out={out}", f"--grpc_python_out={out}"),
            *map(str, sorted(PROGRAMS.glob("*.proto"))),
        ],
        check=True,
        timeout=60,
    )
    return out


@pytest.fixture
def programs(tmp_path: Path, run_stubs: Path) -> Iterator[Programs]:
    folder = tmp_path / "run"
    folder.mkdir()
    started = Programs(folder, run_stubs)
    yield started
    started.close()
