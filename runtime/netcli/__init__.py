"""The command line of ``zerohop net``: programs on the project's own TCP/IP stack."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

TOP = """\
usage: zerohop net COMMAND ...

Programs on zerohop's own TCP/IP stack, which reaches the network through a DPDK port.

commands:
  serve    serve files over HTTP/1.1, and echo, sink and source for measurements
  ping     ask a host for echoes (ICMP), from the stack
  stats    counters and connections of a stack that runs here, and a capture of its packets
  ceiling  how many frames a port itself can send
  wire     join two ports with delay, loss and other faults between them

examples:
  zerohop net serve --port net_af_packet0,iface=veth1 --address 10.77.0.1/24 --root /srv
  zerohop net COMMAND --help
"""

_COMMANDS = ("serve", "ping", "stats", "ceiling", "wire")


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    if not argv or argv[0] in ("-h", "--help"):
        print(TOP, end="")
        return 0
    if argv[0] not in _COMMANDS:
        known = ", ".join(_COMMANDS)
        print(f"zerohop net: error: no command {argv[0]!r}; there are {known}", file=sys.stderr)
        return 2
    try:
        command = importlib.import_module(f"zerohop.netcli.{argv[0]}")
        return int(command.main(argv[1:]))
    except BrokenPipeError:
        raise  # as in `zerohop net stats | head -1`
    except (OSError, ValueError, ImportError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if isinstance(error, OSError) and error.filename:
            text = f"{error.filename}: {text}"
        print(f"zerohop net {argv[0]}: error: {text}", file=sys.stderr)
        return 1
