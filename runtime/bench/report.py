"""What a run found, as a table for people and as JSON for programs."""

import dataclasses
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from zerohop.bench.cases import POOL, Case
from zerohop.bench.machine import LIMIT
from zerohop.bench.results import CaseResult, IdleFigures, RunResult, VariantResult, Verdict
from zerohop.bench.stats import Summary

SCHEMA = 1

_ROW = "  {:<22} {:>9} {:>9} {:>11} {:>10} {:>10}  {:<34} {}"


def table(run: RunResult) -> str:
    """All cases: a line for each variant, the targets beside them."""
    lines = [
        _ROW.format("", "p50", "p99", "rate", "data", "slower by", "target", "").rstrip(),
        *(line for result in run.cases for line in _case_lines(result, run)),
        *closing(run),
    ]
    return "\n".join(lines)


def heading(run: RunResult) -> Iterator[str]:
    """The machine and the method: what the figures mean nothing without."""
    machine, settings = run.machine, run.settings
    versions: Any = machine["versions"]
    yield (
        f"{machine['cpu']}, {machine['cores_allowed']} of {machine['cores']} cores, "
        f"{machine['memory_mib']} MiB, Linux {machine['kernel']}"
    )
    yield ", ".join(
        [str(machine["python"]), *(f"{name} {version}" for name, version in versions.items())]
    )
    yield (
        f"Client and server are processes of their own. What is compared takes turns: "
        f"{settings['slices']} slices of {settings['slice_ms']} ms each,"
    )
    yield (
        f"after {settings['warmup']} to warm up. In all of them alike: gc.freeze() after set-up, "
        f"collector on; the same loop and clock."
    )
    yield (
        f"grpcio's sync servers have {POOL} threads, since they need a pool; zerohop's have one "
        f"only where the case says so."
    )
    environment: Any = settings["environment"]
    if environment:
        yield "Environment: " + " ".join(f"{name}={text}" for name, text in environment.items())
    for name, reason in run.absent.items():
        yield f"Not measured: {name}: {reason}"


def closing(run: RunResult) -> Iterator[str]:
    yield ""
    if run.interrupted and not run.cases:
        yield "Interrupted before anything had been measured."
        return
    if run.interrupted:
        yield "Interrupted: what is above had been measured by then."
    if any(one.variant.raw for case in run.cases for one in case.variants):
        yield (
            "Raw bytes: neither protobuf nor calls, deadlines or status; iceoryx2's two sides poll "
            "without sleeping."
        )
    if any(one.variant.generated for case in run.cases for one in case.variants):
        yield (
            "Generated: messages, stubs and servicers of zerohop.protoc; bytes copied are both "
            "sides' bytes_copied, warm-up included."
        )
    if any(case.case.group == "local" for case in run.cases):
        yield (
            "In one process: its loops take turns, and what the empty loop takes beside them is "
            "taken off; the collector is on."
        )
    if run.failures:
        yield f"FAILED: {', '.join(run.failures)}."
    yield f"CPU taken by other processes while measuring: {run.others_share:.1%}."
    if not run.is_measurement:
        yield (
            f"THIS IS NO MEASUREMENT: others took more than {LIMIT:.0%} of the CPU. "
            f"Run it on a quiet machine."
        )
    elif disturbed := [result.case.name for result in run.cases if result.disturbed]:
        yield f"No measurement, since others took more than {LIMIT:.0%}: {', '.join(disturbed)}."


def _case_lines(result: CaseResult, run: RunResult) -> Iterator[str]:
    yield ""
    share = f" (others {result.others_share:.0%}: no measurement)" if result.disturbed else ""
    yield f"{result.case.name}: {result.case.title}{share}"
    if result.skipped is not None:
        yield f"  skipped: {result.skipped}"
        return
    valid = run.is_measurement and not result.disturbed
    figures = [_figures(result, one) for one in result.variants]
    verdicts = [
        (result.case.text(one.target), _verdict(result, one, valid)) for one in result.verdicts()
    ]
    for cells, (target, verdict) in zip_longest(figures, verdicts, fillvalue=("", "")):
        row = (*cells, "", "", "", "", "", "")[:6]
        yield _ROW.format(*row, target, verdict).rstrip()
    for one in result.variants:
        if one.idle is not None:
            yield f"  {one.variant.label}: {_idle_text(one.idle)}"
        for note in notes(one):
            yield f"  {one.variant.label}: {note}"


def _figures(result: CaseResult, one: VariantResult) -> tuple[str, ...]:
    if one.error is not None:
        return (one.variant.label, "failed")
    if one.summary is None:
        return (one.variant.label,)
    summary = one.summary
    slower = result.slower_by(one)
    local = result.case.group == "local"
    per_turn = 1e6 / summary.rate if local else summary.p50_us
    times = (one.variant.label, _time(per_turn), _time(summary.p99_us))
    if result.case.loop == "kill":
        return (*times, "", "", "" if slower is None else _factor(slower))
    return (
        *times,
        _rate(summary.rate),
        "" if local else _data(summary.rate * result.case.size_of(one.variant)),
        "" if slower is None else _factor(slower),
    )


def _verdict(result: CaseResult, verdict: Verdict, valid: bool) -> str:
    if verdict.met is None or verdict.value is None:
        return "failed" if result.failed(verdict.target.variant) else "not measured"
    word = "met" if verdict.met else "MISSED"
    value = f"{verdict.value:,.0f}" if verdict.value >= 1000 else f"{verdict.value:.3g}"
    return f"{word} ({value})" if valid else f"{word} ({value}), but no measurement"


def notes(one: VariantResult) -> Iterator[str]:
    """What a reader has to know about a variant beyond its figures."""
    if one.error is not None:
        yield one.error
    client = one.counters.get("client")
    if client is not None and not any(client.values()):
        yield "zerohop's counters did not move: the calls went another way"


def _idle_text(idle: IdleFigures) -> str:
    return (
        f"server {idle.cpu_percent:.2f} % of a core, {idle.rss_above_mb:.1f} MB above import grpc, "
        f"{idle.shared_mib:.2f} MiB shared ({idle.server_shared_mib:.2f} in the server); "
        f"{idle.clients} clients {idle.clients_cpu_percent:.2f} % together, "
        f"{idle.seconds:.1f} s"
    )


def _factor(slower: float) -> str:
    if slower < 0.1:
        return f"1/{1 / slower:.0f} x"
    return f"{slower:.3g} x" if slower < 100 else f"{slower:.0f} x"


def _time(us: float | None) -> str:
    if us is None:
        return ""
    if us < 1:
        return f"{us * 1000:.1f} ns"
    return f"{us:.1f} us" if us < 1000 else f"{us / 1000:.2f} ms"


def _rate(rate: float) -> str:
    return f"{rate / 1000:,.1f} k/s" if rate >= 1000 else f"{rate:.1f} /s"


def _data(per_second: float) -> str:
    """Payload in one direction."""
    if per_second >= 1e12:
        return f"{per_second / 1e12:.2f} TB/s"
    if per_second >= 1e9:
        return f"{per_second / 1e9:.2f} GB/s"
    return f"{per_second / 1e6:.1f} MB/s"


def as_json(run: RunResult) -> dict[str, Any]:
    """Everything, for programs; times in us, rates per second."""
    return {
        "schema": SCHEMA,
        "measurement": run.is_measurement,
        "interrupted": run.interrupted,
        "others_cpu_share": run.others_share,
        "others_cpu_limit": LIMIT,
        "machine": dict(run.machine),
        "settings": dict(run.settings),
        "absent": dict(run.absent),
        "cases": [_case_json(result, run) for result in run.cases],
    }


def _case_json(result: CaseResult, run: RunResult) -> dict[str, Any]:
    case: Case = result.case
    return {
        "name": case.name,
        "title": case.title,
        "group": case.group,
        "loop": case.loop,
        "size": case.size,
        "inflight": case.inflight,
        "timed": case.timed,
        "skipped": result.skipped,
        "others_cpu_share": result.others_share,
        "measurement": run.is_measurement and not result.disturbed,
        "variants": [_variant_json(result, one) for one in result.variants],
        "targets": [
            {
                "text": case.text(one.target),
                "metric": one.target.metric,
                "limit": one.target.limit,
                "variant": one.target.variant,
                "against": one.target.against or None,
                "value": one.value,
                "met": one.met,
            }
            for one in result.verdicts()
        ],
    }


def _variant_json(result: CaseResult, one: VariantResult) -> dict[str, Any]:
    summary: Summary | None = one.summary
    counters: dict[str, Mapping[str, float]] = dict(one.counters)
    local = result.case.group == "local"
    return {
        "label": one.variant.label,
        "backend": one.variant.backend,
        "generated": one.variant.generated,
        "size": result.case.size_of(one.variant),
        "raw": one.variant.raw,
        "error": one.error,
        "summary": None if summary is None else dataclasses.asdict(summary),
        "ns_per_operation": 1e9 / summary.rate if local and summary is not None else None,
        "bytes_copied": one.copied,
        "idle": None if one.idle is None else dataclasses.asdict(one.idle),
        "slower_by": result.slower_by(one),
        "counters": counters,
    }
