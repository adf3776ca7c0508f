"""How others ask a running stack: a unix socket in the registry's directory, of one's own user.

A request is one line, the answer is JSON, and then the connection ends. A thread of its own talks,
and the thread that runs the stack answers, so that nobody who asks can hold it up.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
from typing import TYPE_CHECKING, Any

from zerohop import directory

if TYPE_CHECKING:
    from zerohop.transport.net import Stack

_NAME = re.compile(r"net-(\d+)\.sock\Z")
TIMEOUT = 2.0
"""Seconds, of either side."""


class Control:
    """Answers while it is open."""

    def __init__(self, stack: Stack, port: str) -> None:
        path = directory.locate()[0]
        with directory.opened(path, create=True):
            self._path = os.path.join(path, f"net-{os.getpid()}.sock")
        self._stack, self._port = stack, port
        self._listener = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)  # of a process that was killed and had our number
        self._listener.bind(self._path)
        os.chmod(self._path, 0o600)
        self._listener.listen(8)
        threading.Thread(target=self._serve, daemon=True, name="zerohop-net-control").start()

    def close(self) -> None:
        """Nothing of it stays."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer, contextlib.suppress(OSError):
                peer.settimeout(TIMEOUT)
                request = peer.makefile().readline(4096).strip()
                peer.sendall(json.dumps(self._ask(request)).encode())

    def _ask(self, request: str) -> Any:
        done = threading.Event()
        answer: list[Any] = []

        def run() -> None:
            try:
                answer.append(self._answer(request))
            except (OSError, ValueError) as error:
                answer.append({"error": str(error)})
            done.set()

        self._stack.call_soon_threadsafe(run)
        done.wait(TIMEOUT)
        return answer[0] if answer else {"error": "the stack does not run"}

    def _answer(self, request: str) -> Any:
        word, _, rest = request.partition(" ")
        if word == "capture":
            self._stack.capture(rest or None)
            return {}
        return {
            "pid": os.getpid(),
            "port": self._port,
            "mac": self._stack.mac,
            "stats": self._stack.stats(),
            "port_stats": self._stack.port_stats(),
            "connections": [line._asdict() for line in self._stack.connections()],
        }


def running() -> list[int]:
    """The processes of this user's registry that may be asked."""
    path = directory.locate()[0]
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return []
    return sorted(int(match[1]) for name in names if (match := _NAME.match(name)))


def ask(pid: int, request: str) -> dict[str, Any]:
    """OSError with a sentence, where it does not answer; what a killed process left is removed."""
    path = os.path.join(directory.locate()[0], f"net-{pid}.sock")
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(TIMEOUT)
        try:
            peer.connect(path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if isinstance(error, ConnectionRefusedError):
                with contextlib.suppress(OSError):
                    os.unlink(path)
            raise ProcessLookupError(
                error.errno, f"process {pid} runs no stack that can be asked"
            ) from None
        peer.sendall(request.encode() + b"\n")
        data = bytearray()
        while more := peer.recv(1 << 16):
            data += more
    answer: dict[str, Any] = json.loads(data)
    if "error" in answer:
        raise OSError(0, answer["error"])
    return answer
