"""What a run found, and how it stands to the targets."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from zerohop.bench.cases import Case, Target, Variant
from zerohop.bench.machine import LIMIT
from zerohop.bench.stats import Summary, median_ratio


@dataclass(frozen=True)
class IdleFigures:
    """What an idle server costs."""

    clients: int
    seconds: float
    cpu_percent: float
    rss_above_mb: float
    """Resident memory above a process that only did ``import grpc``."""
    shared_mib: float
    """Committed memfds of the server and its clients, each once."""
    server_shared_mib: float
    clients_cpu_percent: float


@dataclass
class VariantResult:
    variant: Variant
    summary: Summary | None = None
    idle: IdleFigures | None = None
    counters: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """How far zerohop's counters moved, in client and server, warm-up included."""
    error: str | None = None

    @property
    def copied(self) -> float | None:
        """Bytes that all its processes copied between a call and its reader."""
        if not self.counters:
            return None
        return sum(side.get("bytes_copied", math.nan) for side in self.counters.values())


@dataclass(frozen=True)
class Verdict:
    """A target, the figure that answers it, and whether it is met (None: there is no figure)."""

    target: Target
    value: float | None
    met: bool | None


@dataclass
class CaseResult:
    case: Case
    variants: Sequence[VariantResult] = ()
    others_share: float = 0.0
    skipped: str | None = None

    def failed(self, label: str) -> bool:
        """Whether that variant was to be measured and could not be."""
        one = self._find(label)
        return one is not None and one.error is not None

    @property
    def disturbed(self) -> bool:
        return self.others_share > LIMIT

    def verdicts(self) -> list[Verdict]:
        found = []
        for target in self.case.targets:
            value = self._value(target)
            found.append(Verdict(target, value, None if value is None else target.met(value)))
        return found

    def slower_by(self, result: VariantResult) -> float | None:
        """How many times slower than the case's first variant, slice by slice."""
        first = self.variants[0]
        if result is first or result.summary is None or first.summary is None:
            return None
        return self._times(result.summary, first.summary)

    def _times(self, slower: Summary | None, faster: Summary | None) -> float | None:
        """The ratio of their times; where latencies do not count, of the times of their rates."""
        if slower is None or faster is None:
            return None
        if self.case.timed:
            return median_ratio(slower.slice_p50_us, faster.slice_p50_us)
        return median_ratio(faster.slice_rates, slower.slice_rates)

    def _find(self, label: str) -> VariantResult | None:
        return next((one for one in self.variants if one.variant.label == label), None)

    def _value(self, target: Target) -> float | None:
        one = self._find(target.variant)
        if one is None or one.error is not None:
            return None
        if one.idle is not None:
            return {
                "cpu": one.idle.cpu_percent,
                "rss": one.idle.rss_above_mb,
                "shm": one.idle.shared_mib,
            }.get(target.metric)
        if one.summary is None:
            return None
        if target.against:
            other = self._find(target.against)
            if other is None or other.summary is None or other.error is not None:
                return None
            if target.metric == "kept":
                return median_ratio(one.summary.slice_rates, other.summary.slice_rates)
            faster, slower = (one, other) if target.metric == "times_below" else (other, one)
            return self._times(slower.summary, faster.summary)
        if target.metric == "copied":
            return one.copied
        return {
            "ns": 1e9 / one.summary.rate,
            "p50": one.summary.p50_us,
            "p99": one.summary.p99_us,
            "max": None if one.summary.max_us is None else one.summary.max_us / 1e3,
            "rate": one.summary.rate,
        }.get(target.metric)


@dataclass
class RunResult:
    machine: Mapping[str, object]
    settings: Mapping[str, object]
    absent: Mapping[str, str] = field(default_factory=dict)
    """Backends that were not measured, and why."""
    cases: list[CaseResult] = field(default_factory=list)
    others_share: float = 0.0
    interrupted: bool = False

    @property
    def failures(self) -> list[str]:
        """What went wrong, but for raw rows, which are there for comparison only."""
        return [
            f"{case.case.name} ({one.variant.label})"
            for case in self.cases
            for one in case.variants
            if one.error is not None and not one.variant.raw
        ]

    @property
    def is_measurement(self) -> bool:
        return self.others_share <= LIMIT
