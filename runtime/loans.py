"""Who holds what: the memory that this process has lent to its peers and not got back.

With ZEROHOP_TRACE_LOANS=1 in the environment every loan is tagged with the line of the program that
made it, and what is still lent at exit, when all channels and servers are closed, is printed to
standard error.
Without it `loans` lists the same loans without their lines, and the call path pays nothing.
"""

from __future__ import annotations

import atexit
import collections
import itertools
import os
import sys
import time
from dataclasses import dataclass

from zerohop import pumps
from zerohop._native import set_loan_tracer, stats

# Who lends on behalf of a handler: threads that were started for it, and grpcio's pool of them.
_PACKAGE = os.path.dirname(__file__)
_BETWEEN = (
    _PACKAGE + os.sep,
    os.path.dirname(os.__file__) + os.sep + "threading.py",
    os.path.join(os.path.dirname(os.__file__), "concurrent", "futures", ""),
)

# After the last link is closed a peer may take so long to end its side, which ends its loans.
EXIT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Loan:
    """A block of this process's memory that a peer has and has not returned."""

    bytes: int
    peer_pid: int
    peer_uid: int
    where: str
    """`file:line function` of the program, or the method for which zerohop itself lent it; empty
    unless ZEROHOP_TRACE_LOANS is set."""


_numbers = itertools.count(1)
_tags: dict[str, int] = {}
_places: dict[int, str] = {0: ""}


def _tag(place: str) -> int:
    tag = _tags.get(place)
    if tag is None:
        tag = _tags.setdefault(place, next(_numbers))
        _places[tag] = place
    return tag


def _trace(method: str | None) -> int:
    """The tag of a loan that the calling code makes: its first frame outside of zerohop."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith(_BETWEEN):
            return _tag(f"{code.co_filename}:{frame.f_lineno} {code.co_qualname}")
        frame = frame.f_back  # type: ignore[assignment]
    return _tag(f"a message of {method}" if method else "a thread of zerohop")


def loans() -> list[Loan]:
    """The loans that are open now, on all links of this process."""
    found = []
    for pump in pumps.all_pumps():
        pump.settle()
        for link in pump.links():
            info = link.info()
            for size, tag in link.loans():
                found.append(Loan(size, info["pid"], info["uid"], _places.get(tag, "")))
    return found


def _outstanding() -> int:
    for pump in pumps.all_pumps():
        pump.settle()
    counters = stats()
    return counters["blocks_lent"] - counters["blocks_returned"]


def _report() -> None:
    """At exit: close what is open, wait a moment for what comes back, and say what does not."""
    before = loans()
    for pump in pumps.all_pumps():
        pump.close()
    end = time.monotonic() + EXIT_SECONDS
    while (left := _outstanding()) > 0 and time.monotonic() < end:
        time.sleep(0.005)
    if left <= 0:
        return
    print(f"zerohop: {left} blocks are still lent at exit", file=sys.stderr)
    for loan, count in collections.Counter(before).most_common():
        print(
            f"zerohop: {count} of {loan.bytes} bytes to pid {loan.peer_pid} (uid {loan.peer_uid}), "
            f"lent by {loan.where}",
            file=sys.stderr,
        )


def _forget() -> None:
    """In a forked child: the parent's loans are not its own."""
    atexit.unregister(_report)


def install() -> None:
    """Trace from now on, if the environment says so; called at import."""
    if os.environ.get("ZEROHOP_TRACE_LOANS", "0") not in ("", "0"):
        set_loan_tracer(_trace)
        atexit.register(_report)
        os.register_at_fork(after_in_child=_forget)


install()
