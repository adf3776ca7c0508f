"""The processes of a run: started, asked, and ended, whatever happened to them."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a run; what it started ends with it."""

START_S = 60.0
ANSWER_S = 60.0
_QUIT_S = 3.0


class PeerFailed(RuntimeError):
    """A process of the run ended, said that it failed, or said nothing in time."""


class Peer:
    """One process, in a session of its own, so that a Ctrl-C reaches the runner only."""

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], folder: Path
    ) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                env=dict(env),
                start_new_session=True,
            )
        self._buffer = bytearray()
        self.about: dict[str, Any] = {}
        self.deaf = False
        """It does not listen to what it is told, and is killed in the end."""

    def ready(self) -> dict[str, Any]:
        """Waits until the process has set itself up; what it says about itself."""
        self.about = self._read_answer(START_S)[0]
        return self.about

    @property
    def pid(self) -> int:
        """The pid of the program itself, also where a command in front of it stayed."""
        return int(self.about["pid"])

    def ask(
        self, what: str, within: float = ANSWER_S, **fields: object
    ) -> tuple[dict[str, Any], bytes]:
        self.tell(what, **fields)
        return self._read_answer(within)

    def tell(self, what: str, **fields: object) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": what, **fields}).encode() + b"\n")
        except BrokenPipeError:
            raise self._failure("has ended") from None

    def answer(self, within: float = ANSWER_S) -> tuple[dict[str, Any], bytes]:
        return self._read_answer(within)

    def _read_answer(self, within: float) -> tuple[dict[str, Any], bytes]:
        deadline = time.monotonic() + within
        while (newline := self._buffer.find(b"\n")) < 0:
            self._fill(deadline)
        line = bytes(self._buffer[:newline])
        del self._buffer[: newline + 1]
        try:
            head: dict[str, Any] = json.loads(line)
        except ValueError:
            raise self._failure(f"answered with {line[:80]!r}") from None
        if "failed" in head:
            raise self._failure(head["failed"])
        while len(self._buffer) < head["bytes"]:
            self._fill(deadline)
        blob = bytes(self._buffer[: head["bytes"]])
        del self._buffer[: head["bytes"]]
        return head, blob

    def _fill(self, deadline: float) -> None:
        assert self._process.stdout is not None
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
            raise self._failure("gave no answer in time")
        data = os.read(self._process.stdout.fileno(), 1 << 20)
        if not data:
            raise self._failure("ended unasked")
        self._buffer += data

    def _failure(self, what: str) -> PeerFailed:
        tail = self._log.read_text(errors="replace").strip().splitlines()[-15:]
        return PeerFailed("\n    ".join([f"{self.name}: {what}", *tail]))

    def quit(self) -> None:
        """Asks the process to end, without waiting."""
        if self.deaf:
            os.killpg(self._process.pid, signal.SIGKILL)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(b'{"do": "quit"}\n')
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def close(self, deadline: float) -> None:
        """Ends the process, by then at the latest, and whatever it started."""
        pid = self._process.pid
        while not self._ended(pid) and time.monotonic() < deadline:
            time.sleep(0.005)
        # Not waited for yet, so that the number still means this process and its session.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    @staticmethod
    def _ended(pid: int) -> bool:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class Peers:
    """The peers of one case, ended together."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        self._env = env
        self._peers: list[Peer] = []

    def start(
        self,
        name: str,
        role: str,
        spec: Mapping[str, object],
        env: Mapping[str, str] | None = None,
        front: Sequence[str] = (),
    ) -> Peer:
        """Starts ``role`` of ``_peer.py``, with a command such as ``zerohop run`` in front."""
        program = [sys.executable, "-m", "zerohop.bench._peer", role, json.dumps(dict(spec))]
        return self.start_command(name, [*front, *program], env)

    def start_command(
        self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> Peer:
        peer = Peer(name, command, {**self._env, **(env or {})}, self.folder)
        self._peers.append(peer)
        return peer

    def close(self, peers: Sequence[Peer] | None = None) -> None:
        """Ends these peers, or all; clients first, as they were started last."""
        ending = [peer for peer in reversed(self._peers) if peers is None or peer in peers]
        for peer in ending:
            peer.quit()
        deadline = time.monotonic() + _QUIT_S
        for peer in ending:
            peer.close(deadline)
            self._peers.remove(peer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A second Ctrl-C waits until no process is left.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            self.close()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
