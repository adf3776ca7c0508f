"""The chart of a run, drawn with matplotlib where that is installed."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from zerohop.bench.cases import Case
from zerohop.bench.results import CaseResult, RunResult
from zerohop.bench.stats import Summary

FORMATS = (".png", ".svg", ".pdf")
HINT = "--plot needs matplotlib: pip install 'zerohop[bench]'"


def missing() -> str | None:
    """Why no chart can be drawn here, or None."""
    return HINT if importlib.util.find_spec("matplotlib") is None else None


def draw(run: RunResult, path: Path) -> None:
    """Bars for the cases of the table, lines over the sizes; only what was measured."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    with_figures = [case for case in run.cases if any(one.summary for one in case.variants)]
    fixed = [case for case in with_figures if case.case.group == "table"]
    sizes = [case for case in with_figures if case.case.group == "sizes"]
    panels = [
        (_bars, "p50, whisker to p99 (us)", [case for case in fixed if case.case.timed]),
        (_bars, "calls or messages per second", [case for case in fixed if not case.case.timed]),
        (_bars, "ns per operation", [case for case in with_figures if case.case.group == "local"]),
        (_lines, "unary p50 (us)", [case for case in sizes if case.case.timed]),
        (_lines, "stream MB/s", [case for case in sizes if not case.case.timed]),
    ]
    panels = [panel for panel in panels if panel[2]]
    if not panels:
        raise ValueError("no case of this run has figures to draw")
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(10, 3.6 * len(panels)), layout="constrained", squeeze=False
    )
    for axis, (painter, label, cases) in zip(axes[:, 0], panels, strict=True):
        painter(axis, cases)
        axis.set_ylabel(label)
        axis.set_yscale("log")
        axis.grid(axis="y", alpha=0.3)
        axis.legend(fontsize=8)
    title = f"zerohop bench: {run.machine['cpu']}, {run.machine['cores_allowed']} cores"
    if not run.is_measurement:
        title += "\nNO MEASUREMENT: others used the CPU"
    figure.suptitle(title)
    figure.savefig(path)
    pyplot.close(figure)


def _labels(cases: list[CaseResult]) -> list[str]:
    """Every variant's label once, in the order of appearance."""
    return list(dict.fromkeys(one.variant.label for case in cases for one in case.variants))


def _bars(axis: Any, cases: list[CaseResult]) -> None:
    labels = _labels(cases)
    width = 0.8 / max(len(case.variants) for case in cases)
    for label in labels:
        places, heights, whiskers = [], [], []
        for place, case in enumerate(cases):
            for number, one in enumerate(case.variants):
                if one.variant.label != label or one.summary is None:
                    continue
                height, whisker = _bar(case.case, one.summary)
                places.append(place + (number - (len(case.variants) - 1) / 2) * width)
                heights.append(height)
                whiskers.append(whisker)
        error = [[0] * len(whiskers), whiskers] if any(whiskers) else None
        axis.bar(places, heights, width, label=label, yerr=error, capsize=3)
    axis.set_xticks(range(len(cases)), [case.case.name for case in cases], rotation=20)


def _bar(case: Case, summary: Summary) -> tuple[float, float]:
    """The height of a bar and of the whisker upon it."""
    if case.group == "local":
        return 1e9 / summary.rate, 0
    if not case.timed or summary.p50_us is None or summary.p99_us is None:
        return summary.rate, 0
    return summary.p50_us, summary.p99_us - summary.p50_us


def _lines(axis: Any, cases: list[CaseResult]) -> None:
    for label in _labels(cases):
        points = [
            (case.case.size, one.summary.p50_us if case.case.timed else rate)
            for case in cases
            for one in case.variants
            if one.variant.label == label and one.summary is not None
            for rate in [one.summary.rate * case.case.size / 1e6]
        ]
        axis.plot(*zip(*points, strict=True), marker="o", label=label)
    axis.set_xscale("log", base=2)
    sizes = [case.case.size for case in cases]
    axis.set_xticks(sizes, [case.case.name.rpartition("-")[2] for case in cases])
