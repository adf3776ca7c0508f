"""Percentiles, medians and ratios of slices."""

from __future__ import annotations

import math
import statistics
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field


def percentile(ordered: Sequence[int], share: float) -> int:
    """The smallest value that at least ``share`` of the values do not exceed (nearest rank)."""
    if not ordered:
        raise ValueError("no values")
    if not 0 <= share <= 1:
        raise ValueError(f"a share lies between 0 and 1, not {share}")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True)
class Slice:
    """What one client did in one slice."""

    calls: int
    elapsed_ns: int
    latencies_ns: array[int]

    @property
    def rate(self) -> float:
        """Calls or messages per second."""
        return self.calls * 1e9 / self.elapsed_ns

    @property
    def p50_us(self) -> float | None:
        if not self.latencies_ns:
            return None
        return percentile(sorted(self.latencies_ns), 0.5) / 1e3


@dataclass(frozen=True)
class Summary:
    """All slices of one variant: percentiles over all calls, the median of the slices' rates."""

    calls: int
    rate: float
    p50_us: float | None
    p99_us: float | None
    max_us: float | None
    slice_rates: list[float] = field(default_factory=list)
    slice_p50_us: list[float | None] = field(default_factory=list)


def summarize(slices: Sequence[Slice]) -> Summary:
    every: array[int] = array("q")
    for one in slices:
        every.extend(one.latencies_ns)
    ordered = sorted(every)
    rates = [one.rate for one in slices]
    return Summary(
        calls=sum(one.calls for one in slices),
        rate=statistics.median(rates),
        p50_us=percentile(ordered, 0.5) / 1e3 if ordered else None,
        p99_us=percentile(ordered, 0.99) / 1e3 if ordered else None,
        max_us=ordered[-1] / 1e3 if ordered else None,
        slice_rates=rates,
        slice_p50_us=[one.p50_us for one in slices],
    )


def median_ratio(
    numerators: Sequence[float | None], denominators: Sequence[float | None]
) -> float | None:
    """The median of the ratios of neighbouring slices, which saw the same state of the machine."""
    ratios = [
        over / under
        for over, under in zip(numerators, denominators, strict=False)
        if over is not None and under
    ]
    return statistics.median(ratios) if ratios else None
