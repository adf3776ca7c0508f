"""Cases within one process: generated messages and upb's take turns in slices."""

import shutil
from array import array
from collections.abc import Sequence

from zerohop.bench import backends
from zerohop.bench.cases import Case, Variant
from zerohop.bench.machine import CpuMeter
from zerohop.bench.peers import ANSWER_S, PeerFailed, Peers
from zerohop.bench.results import CaseResult, VariantResult
from zerohop.bench.runner import Progress, Workplace
from zerohop.bench.stats import Slice, summarize


def run_local(
    place: Workplace, case: Case, variants: Sequence[Variant], progress: Progress
) -> CaseResult:
    """One process has all variants; a second one sends it what it is to have received."""
    folder = place.folder / case.name
    folder.mkdir()
    results = [VariantResult(variant) for variant in variants]
    meter = CpuMeter()
    before = meter.sample()
    with Peers(folder, place.env) as peers:
        try:
            _measure(place, peers, case, results, progress)
        except PeerFailed as error:
            for result in results:
                result.error = str(error)
    share = place.ticks.add(before, meter.sample())
    shutil.rmtree(folder)
    return CaseResult(case, results, share)


def _measure(
    place: Workplace,
    peers: Peers,
    case: Case,
    results: Sequence[VariantResult],
    progress: Progress,
) -> None:
    progress("starting")
    settings = place.settings
    variants = [result.variant for result in results]
    address = backends.address("zerohop", peers.folder, "v0h0")
    spec = {**place.spec(case, variants[0]), "address": address, "generated": True}
    peers.start("server", "server", spec).ready()
    sides = [variant.side for variant in variants]
    client = peers.start("client", "client-local", {**spec, "sides": sides})
    client.ready()
    within = ANSWER_S + settings.slice_ms / 1e3
    slices: dict[str, list[Slice]] = {side: [] for side in sides}
    for number in range(-settings.warmup, settings.slices):
        progress(f"slice {number + 1}/{settings.slices}" if number >= 0 else "warming up")
        for side in sides:
            head, _ = client.ask("run", within, side=side, span_ns=settings.slice_ms * 1_000_000)
            if number >= 0:
                slices[side].append(Slice(head["calls"], head["elapsed_ns"], array("q")))
    for result in results:
        result.summary = summarize(slices[result.variant.side])
