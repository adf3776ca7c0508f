"""The pipe over which the runner tells a peer what to do: JSON lines, answers with bytes behind.

This is the peer's end; ``peers.py`` has the runner's.
"""

import json
import os
import sys
from typing import Any


class Control:
    """Commands come on standard input. Answers go where standard output went at the start;
    whatever else the process prints goes to standard error."""

    def __init__(self) -> None:
        self._commands = os.fdopen(os.dup(0), "rb")
        self._answers = os.fdopen(os.dup(1), "wb")
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)
        sys.stdout = sys.stderr

    def receive(self) -> dict[str, Any] | None:
        """The next command; None once the runner has gone or wants an end."""
        line = self._commands.readline()
        if not line:
            return None
        command: dict[str, Any] = json.loads(line)
        return None if command["do"] == "quit" else command

    def answer(self, blob: bytes = b"", **fields: object) -> None:
        head = json.dumps({**fields, "bytes": len(blob)})
        self._answers.write(head.encode() + b"\n" + blob)
        self._answers.flush()
