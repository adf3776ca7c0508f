"""Programs on a stack of ours, in a namespace, with the kernel as their peer."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any

import netns

# What each program begins with. `line` prints for the test, which reads with Program.line.
PROLOGUE = """
import json, os, socket, sys, time
from zerohop.transport.net import ERR, HUP, IN, OUT, Stack

def line(value=None):
    print(json.dumps(value), flush=True)

ME, PEER = {me!r}, {peer!r}
DEVICE, ADDRESSES = {device!r}, {addresses!r}
stack = Stack(DEVICE, ADDRESSES, {options})
with stack:
"""


class Program:
    """A Python program whose `stack` is on one side of a pair; its code is the body of a `with`."""

    def __init__(
        self, pair: netns.Pair, code: str, *, options: str = "", driver: str = "net_af_packet0"
    ) -> None:
        side = pair.b
        self.source = PROLOGUE.format(
            me=side.v4,
            peer=pair.a.v4,
            device=f"{driver},iface={side.interface}",
            addresses=[f"{side.v4}/{side.v4_prefix}", f"{side.v6}/{side.v6_prefix}"],
            options=options,
        ) + textwrap.indent(textwrap.dedent(code), "    ")
        self.process = side.start(sys.executable, "-c", self.source, stderr=subprocess.PIPE)

    def line(self) -> Any:
        """What the program says next; AssertionError with its errors where it has ended."""
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        if not text:
            raise AssertionError(f"the program has ended: {self.end()}")
        return json.loads(text)

    def end(self, timeout: float = 20) -> tuple[int, str]:
        """(exit status, what it wrote to stderr), once it has ended by itself."""
        _, errors = self.process.communicate(timeout=timeout)
        return self.process.returncode, errors
