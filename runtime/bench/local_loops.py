"""Loops within one process over generated messages and upb's: fields, constructors, wire bytes.

The empty loop runs beside each and is taken off.
"""

from __future__ import annotations

import importlib
import timeit
from collections.abc import Mapping
from typing import Any

from zerohop.bench import backends
from zerohop.bench.client import CONNECT_S
from zerohop.bench.control import Control
from zerohop.bench.process import settle

WORK = {
    "get-scalar": "record.number",
    "get-string": "record.text",
    "get-bytes": "record.data",
    "construct": "Record(number=number, text=text, data=data)",
    **{
        f"serialize-{kind}": f"{kind}.SerializeToString()"
        for kind in ("record", "records", "numbers")
    },
    **{
        f"parse-{kind}": f"{kind.capitalize()}.FromString({kind}_wire)"
        for kind in ("record", "records", "numbers")
    },
}
"""What is timed, by the case's ``work``."""

_CHUNK_S = 0.002
"""How long the loop runs at a stretch before the empty one has its turn."""

_FIELDS = {"number": 123_456_789, "text": "a string of 20 chars", "data": bytes(range(64))}


class Timers:
    """One statement and the empty one, over local variables as in a function of a program."""

    def __init__(self, statement: str, names: Mapping[str, object]) -> None:
        # timeit switches the collector off before the set-up, which comes before the clock.
        setup = ["gc.enable()", *(f"{name} = given[{name!r}]" for name in names)]
        variables = {"given": names, "gc": importlib.import_module("gc")}
        self._work = timeit.Timer(statement, "; ".join(setup), globals=variables)
        self._empty = timeit.Timer("pass", "; ".join(setup), globals=variables)
        self._count = 1
        while self._work.timeit(self._count) < _CHUNK_S:
            self._count *= 2

    def run(self, span_ns: int) -> tuple[int, int]:
        """How many turns, and the nanoseconds that they took more than so many empty ones."""
        turns, spent, took = 0, 0.0, 0.0
        while spent * 1e9 < span_ns:
            work, empty = self._work.timeit(self._count), self._empty.timeit(self._count)
            turns += self._count
            spent += work + empty
            took += work - empty
        return turns, max(1, round(took * 1e9))


def names(messages: Any) -> dict[str, Any]:
    """The variables of the statements, made with these classes."""
    record = messages.Record(**_FIELDS)
    records = messages.Records(
        records=[
            messages.Record(number=7 * number, text=f"record number {number}", data=_FIELDS["data"])
            for number in range(100)
        ],
        weights={f"weight {number}": number / 4 for number in range(20)},
    )
    numbers = messages.Numbers(
        doubles=[number / 8 for number in range(1000)],
        integers=[number**3 for number in range(1000)],
    )
    return {
        **_FIELDS,
        "Record": messages.Record,
        "Records": messages.Records,
        "Numbers": messages.Numbers,
        "record": record,
        "records": records,
        "numbers": numbers,
        "record_wire": record.SerializeToString(),
        "records_wire": records.SerializeToString(),
        "numbers_wire": numbers.SerializeToString(),
    }


def drive(spec: dict[str, Any], control: Control) -> None:
    """The process that measures all sides. Received messages come from the server of the run."""
    api: Any = importlib.import_module("google.protobuf.internal.api_implementation")
    if api.Type() != "upb":
        raise RuntimeError(f"protobuf's implementation in this process is {api.Type()}, not upb")
    stock, _ = backends.interface({})
    generated, stubs = backends.interface({"generated": True})
    sides = {"upb": names(stock), "zerohop": names(generated)}
    _compare(sides["zerohop"], sides["upb"])
    channel = backends.load("zerohop").insecure_channel(spec["address"])
    stub = stubs.BenchStub(channel)
    got = stub.Copy(sides["zerohop"]["record"], wait_for_ready=True, timeout=CONNECT_S)
    if got != sides["zerohop"]["record"]:
        raise RuntimeError("the message received is not what was sent")
    sides["received"] = {**sides["zerohop"], "record": got}
    timers = {side: Timers(WORK[spec["work"]], sides[side]) for side in spec["sides"]}
    settle()
    control.answer()
    while (command := control.receive()) is not None:
        turns, elapsed = timers[command["side"]].run(command["span_ns"])
        control.answer(calls=turns, elapsed_ns=elapsed)
    channel.close()


def _compare(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Both sides have to have made the same messages; maps have no order on the wire."""
    for kind in ("record", "records", "numbers"):
        if theirs[kind.capitalize()].FromString(ours[f"{kind}_wire"]) != theirs[kind]:
            raise RuntimeError(f"upb reads something else in the {kind} than was written")
        if ours[kind.capitalize()].FromString(theirs[f"{kind}_wire"]) != ours[kind]:
            raise RuntimeError(f"zerohop reads something else in the {kind} than upb wrote")
