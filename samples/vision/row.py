"""The four services as processes: started together, asked for their counters, ended together."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transports import Transport

SERVICES = ("camera", "resize", "edges", "catalogue")

START_SECONDS = 30.0
END_SECONDS = 5.0

# What the services get unless the user's environment says otherwise. Without the first two, glibc
# returns freed blocks of a picture's size to the kernel and fetches them again page by page, but
# only in threads that came first: 1.7 times between two ways that were one and the same.
ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(64 << 20),
    "GRPC_VERBOSITY": "ERROR",
}

# A unix socket's path has at most 107 bytes; our longest name, with its slash, has less than 32.
LONGEST_DIRECTORY = 107 - 32


class RowError(Exception):
    """The services do not run; the message says what to do."""


class Row:
    """The running services."""

    def __init__(self, directory: str, processes: dict[str, subprocess.Popen[str]]):
        self.directory = directory
        self._processes = processes

    def counters(self, transport: Transport) -> Counter[str]:
        """The transport's counters, summed over the services."""
        total: Counter[str] = Counter()
        if transport.counted:
            for process in self._processes.values():
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError):  # _read says who has ended
                    process.stdin.write("counters\n")
                    process.stdin.flush()
            for name in self._processes:
                total.update(self._read(name, time.monotonic() + 10)[transport.key])
        return total

    def ended(self) -> list[str]:
        """Those that are no longer there."""
        return [name for name, process in self._processes.items() if process.poll() is not None]

    def failure(self, name: str) -> RowError:
        """That the service `name` has ended."""
        process = self._processes[name]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        code = process.returncode
        if code is not None and code < 0:
            return RowError(f"the service {name} was killed: {signal.Signals(-code).name}")
        return RowError(f"the service {name} ended with code {code}; its message is above")

    def wait_ready(self) -> None:
        until = time.monotonic() + START_SECONDS
        for name in self._processes:
            self._read(name, until)

    def _read(self, name: str, until: float) -> Any:
        """One line from the service `name`."""
        process = self._processes[name]
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(max(0.0, until - time.monotonic())):
                raise RowError(f"the service {name} does not answer; is the machine overloaded?")
        line = process.stdout.readline()
        if not line:
            raise self.failure(name)
        return json.loads(line)

    def close(self) -> None:
        """End all services: politely, then not.

        The first of the row ends first, so that nobody loses the service that it is calling.
        """
        until = time.monotonic() + END_SECONDS
        for process in self._processes.values():
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, until - time.monotonic()))
        for process in self._processes.values():
            assert process.stdout is not None
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stdout.close()


@contextlib.contextmanager
def running(transports: Sequence[Transport], size: str) -> Iterator[Row]:
    """Start the services, and end them whatever happens inside the `with`."""
    with tempfile.TemporaryDirectory(prefix="vision-", ignore_cleanup_errors=True) as directory:
        if len(os.fsencode(directory)) > LONGEST_DIRECTORY:
            raise RowError(f"{directory} is too long for sockets: set TMPDIR=/tmp")
        row = Row(directory, {})
        try:
            for name in SERVICES:
                row._processes[name] = _start(name, directory, transports, size)
            row.wait_ready()
            yield row
        finally:
            row.close()


def _start(
    name: str, directory: str, transports: Sequence[Transport], size: str
) -> subprocess.Popen[str]:
    program = Path(__file__).with_name(f"{name}.py")
    return subprocess.Popen(
        [sys.executable, str(program), directory, *(transport.key for transport in transports)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, **os.environ, "VISION_SIZE": size},
        process_group=0,  # so that Ctrl-C goes to the demo alone, which then ends the services
    )
