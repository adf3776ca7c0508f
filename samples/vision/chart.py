"""The chart: each hop's latency, frames per second, and what is copied."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from results import HOPS, Results

INK = "#1d2733"
FADED = "#6b7785"
FAINT = "#dfe3e8"
# In the order of transports.TRANSPORTS; grey is what the others are compared with.
COLOURS = ("#9aa5b1", "#1f7a8c", "#e07a3f", "#6a4c93")

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.bottom": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "ytick.left": False,
    "xtick.bottom": False,
}


def draw(results: Sequence[Results], path: Path, size: str) -> None:
    """Save the chart as `path`."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(14, 2.6 + 0.95 * len(results)))  # drawn without a display
        hops, rate, copied = figure.subplots(1, 3, width_ratios=(7, 3, 3))
        figure.subplots_adjust(left=0.115, right=0.98, top=0.7, bottom=0.1, wspace=0.12)
        _hops(hops, results)
        fps = [result.fps for result in results]
        _totals(rate, "Frames per second", fps, [f"{value:,.0f}" for value in fps])
        copies = [(result.copied_per_frame + result.built_per_frame) / 1e6 for result in results]
        least = ["" if result.copied_is_counted else "\u2265 " for result in results]
        texts = [f"{sign}{value:,.2f}" for sign, value in zip(least, copies, strict=True)]
        _totals(copied, "MB copied per frame", copies, texts)
        figure.text(
            0.02, 0.93, f"Pictures of {size} through four services", fontsize=15, weight="bold"
        )
        figure.legend(
            *hops.get_legend_handles_labels(),
            loc="upper left", bbox_to_anchor=(0.009, 0.91), frameon=False, ncols=len(results),
        )  # fmt: skip
        figure.savefig(path, dpi=130, facecolor="white")


def _places(results: Sequence[Results]) -> tuple[float, list[float]]:
    """How thick the bars of one group are, and where in it each lies."""
    thickness = 0.8 / len(results)
    return thickness, [(index + 0.5) * thickness - 0.4 for index in range(len(results))]


def _hops(axes: Axes, results: Sequence[Results]) -> None:
    """For each hop and way a bar to p50, and a faint one on to p99."""
    thickness, offsets = _places(results)
    longest = max(result.hop_us(hop, 99) for result in results for hop in range(len(HOPS)))
    for index, (result, offset) in enumerate(zip(results, offsets, strict=True)):
        places = [hop + offset for hop in range(len(HOPS))]
        p50 = [result.hop_us(hop, 50) for hop in range(len(HOPS))]
        p99 = [result.hop_us(hop, 99) for hop in range(len(HOPS))]
        colour = COLOURS[index % len(COLOURS)]
        axes.barh(places, p99, thickness * 0.88, color=colour, alpha=0.28)
        axes.barh(places, p50, thickness * 0.88, color=colour, label=result.transport.label)
        for place, low, high in zip(places, p50, p99, strict=True):
            median = axes.text(
                high + longest * 0.012, place, f"{low:,.0f}", va="center", weight="bold"
            )
            axes.annotate(
                f"p99 {high:,.0f}", (1, 0.5), (6, 0), xycoords=median,
                textcoords="offset points", va="center", fontsize=8.5, color=FADED,
            )  # fmt: skip
    axes.set_xlim(0, longest * 1.24)
    axes.set_xticks([])
    payloads = [f"{payload / 1024:,.0f} KiB" for payload in results[0].payload]
    names = [f"{hop}\n{size}" for hop, size in zip(HOPS, payloads, strict=True)]
    axes.set_yticks(range(len(HOPS)), names)
    axes.invert_yaxis()
    axes.set_title("Latency of a hop, array to array, in µs: p50, and faint to p99")


def _totals(axes: Axes, title: str, values: Sequence[float], texts: Sequence[str]) -> None:
    """A bar for each way."""
    colours = [COLOURS[index % len(COLOURS)] for index in range(len(values))]
    axes.barh(range(len(values)), values, 0.62, color=colours)
    longest = max(values) or 1.0
    for place, (value, text) in enumerate(zip(values, texts, strict=True)):
        axes.text(value + longest * 0.02, place, text, va="center", weight="bold")
    axes.set_xlim(0, longest * 1.3)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.invert_yaxis()
    axes.set_title(title)
