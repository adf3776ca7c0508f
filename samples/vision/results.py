"""What was measured, and the table of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transports import Transport

HOPS = ("camera -> resize", "resize -> edges", "edges -> catalogue")

DEFINITION = (
    "hop latency: from the moment when the sender holds the picture as an array until the\n"
    "receiver holds it as an array: the message is built, sent, received and parsed. No service's\n"
    "own work is in it: where the array is a view of the sender's memory, its pixels are first\n"
    "read in the work. One frame is under way at a time. In all services malloc keeps what is\n"
    "freed, so that its trips to the kernel do not blur the comparison."
)

HANDED_ON = (
    "A picture handed on goes from the camera through resize and edges to the catalogue as it\n"
    "came: each service puts what it has received into the next message."
)

# What grpcio does at the least with a message between serializer and deserializer.
GRPCIO_COPIES = 3
GRPCIO_NOTE = (
    f">= computed, not counted: {GRPCIO_COPIES} x the payload (into the kernel, out of it, into "
    "Python's bytes)."
)
COUNTED_NOTE = (
    "Bytes copied by zerohop are counted by zerohop.stats() in all services: on the way, as\n"
    "bytes_copied, and into generated messages by assignment, as bytes_built (text too). What\n"
    "protobuf's own messages copy when they are built, serialized and parsed is in no figure."
)


def percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else float("nan")


@dataclass
class Results:
    """Of one transport."""

    transport: Transport
    frames: int = 0
    elapsed_ns: int = 0
    frame_ns: list[int] = field(default_factory=list)
    latency_ns: list[list[int]] = field(default_factory=lambda: [[] for _ in HOPS])
    # The call as the caller saw it, less what the handler took: the way there and back.
    overhead_ns: list[list[int]] = field(default_factory=lambda: [[] for _ in HOPS])
    compute_ns: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    payload: list[int] = field(default_factory=lambda: [0] * len(HOPS))
    counters: Counter[str] = field(default_factory=Counter)

    def add(self, reply: Any, counters: Counter[str]) -> None:
        """Add one slice: a ShootReply, and by how much the counters went up."""
        self.elapsed_ns += reply.elapsed_ns
        self.counters.update(counters)
        for shot in reply.shots:
            self.frames += 1
            self.frame_ns.append(shot.call_ns + shot.compute_ns)
            self.compute_ns["camera"] += shot.compute_ns
            call_ns = shot.call_ns
            for number, hop in enumerate(shot.hops):
                self.latency_ns[number].append(hop.latency_ns)
                self.overhead_ns[number].append(call_ns - hop.handler_ns)
                self.payload[number] = hop.payload
                self.compute_ns[hop.service] += hop.compute_ns
                call_ns = hop.call_ns

    @property
    def fps(self) -> float:
        return self.frames / self.elapsed_ns * 1e9 if self.elapsed_ns else 0.0

    @property
    def copied_per_frame(self) -> float:
        """In bytes; see `copied_is_counted`."""
        if not self.copied_is_counted:
            return float(GRPCIO_COPIES * sum(self.payload))
        return self._per_frame("bytes_copied")

    @property
    def built_per_frame(self) -> float:
        """Bytes copied into generated messages when something is assigned."""
        return self._per_frame("bytes_built")

    def _per_frame(self, counter: str) -> float:
        return self.counters[counter] / self.frames if self.frames else float("nan")

    @property
    def copied_is_counted(self) -> bool:
        return self.transport.counted

    def hop_us(self, number: int, percent: float) -> float:
        return percentile(self.latency_ns[number], percent) / 1e3

    def as_json(self) -> dict[str, Any]:
        per_frame = max(self.frames, 1)
        return {
            "label": self.transport.label,
            "frames": self.frames,
            "fps": round(self.fps, 2),
            "frame_us": _spread(self.frame_ns),
            "hops": {
                name: {
                    "payload": self.payload[number],
                    "latency_us": _spread(self.latency_ns[number]),
                    "there_and_back_us": _spread(self.overhead_ns[number]),
                }
                for number, name in enumerate(HOPS)
            },
            "compute_us_per_frame": {
                name: round(total / per_frame / 1e3, 1) for name, total in self.compute_ns.items()
            },
            "bytes_copied_per_frame": round(self.copied_per_frame),
            "bytes_copied_is": "counted" if self.copied_is_counted else "computed, at least",
            "bytes_built_per_frame": round(self.built_per_frame),
            "counters": dict(self.counters),
        }


def _spread(values_ns: Sequence[int]) -> dict[str, float]:
    return {f"p{percent}": round(percentile(values_ns, percent) / 1e3, 1) for percent in (50, 99)}


def table(results: Sequence[Results], handed_on: Sequence[Results]) -> str:
    """For the terminal; the first transport is what the others are compared with."""
    titles = ["", "payload"]
    for result in results:
        titles += [f"{result.transport.key} p50", "p99"]
    titles += [f"{result.transport.key} is" for result in results[1:]]
    rows = [titles]
    for number, name in enumerate(HOPS):
        rows.append([name, f"{results[0].payload[number] / 1024:,.0f} KiB", *_us(results, number)])
    rows.append(["the whole row", "", *_frame_ms(results)])
    size = handed_on[0].payload[0]
    rows.append(["a picture handed on", f"{size / 1024:,.0f} KiB", *_frame_ms(handed_on)])
    lines = _align(rows)
    lines.insert(1, "-" * len(lines[0]))

    facts = [["", *(result.transport.label for result in results)]]
    facts.append(["frames per second", *(f"{result.fps:,.1f}" for result in results)])
    facts += _copies("bytes copied per frame", results)
    facts += _copies("bytes copied, handed on", handed_on)
    measured = [
        result.frames + other.frames for result, other in zip(results, handed_on, strict=True)
    ]
    facts.append(["frames measured", *(f"{frames:,}" for frames in measured)])
    for name in results[0].compute_ns:
        mean = [result.compute_ns[name] / max(result.frames, 1) / 1e6 for result in results]
        facts.append([f"own work of {name}", *(f"{ms:.2f} ms" for ms in mean)])
    lines += ["", *_align(facts), "", DEFINITION, HANDED_ON]
    if not all(result.copied_is_counted for result in results):
        lines.append(GRPCIO_NOTE)
    lines.append(COUNTED_NOTE)
    return "\n".join(lines)


def _us(results: Sequence[Results], number: int) -> list[str]:
    cells = []
    for result in results:
        cells += [f"{result.hop_us(number, percent):,.0f} us" for percent in (50, 99)]
    return cells + _compared([result.hop_us(number, 50) for result in results])


def _frame_ms(results: Sequence[Results]) -> list[str]:
    cells = []
    for result in results:
        cells += [f"{percentile(result.frame_ns, percent) / 1e6:.2f} ms" for percent in (50, 99)]
    return cells + _compared([percentile(result.frame_ns, 50) for result in results])


def _compared(times: Sequence[float]) -> list[str]:
    """What the others' times are against the first one's."""
    return [
        f"{times[0] / time:.1f} x faster" if time <= times[0] else f"{time / times[0]:.1f} x slower"
        for time in times[1:]
    ]


def _copies(title: str, results: Sequence[Results]) -> list[list[str]]:
    """A line for copies on the way, and one for those of generated messages."""
    sign = ["" if result.copied_is_counted else ">= " for result in results]
    copied = [f"{mark}{r.copied_per_frame:,.0f}" for mark, r in zip(sign, results, strict=True)]
    built = [f"{r.built_per_frame:,.0f}" if r.transport.generated else "-" for r in results]
    return [[title, *copied], ["  and by assignment", *built]]


def _align(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
