"""Runs a case: every variant's processes stand ready, and their clients take turns in slices."""

import os
import shutil
import sys
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from zerohop.bench import backends, faults, raw_iceoryx2
from zerohop.bench.cases import Case, Variant
from zerohop.bench.machine import CpuMeter, CpuSample, others_share
from zerohop.bench.peers import ANSWER_S, Peer, PeerFailed, Peers
from zerohop.bench.results import CaseResult, VariantResult
from zerohop.bench.stats import Slice, summarize

Progress = Callable[[str], None]

RUN = (sys.executable, "-m", "zerohop", "run")


@dataclass(frozen=True)
class Settings:
    slice_ms: int = 200
    slices: int = 15
    warmup: int = 2
    idle_s: float = 5.0
    idle_clients: int | None = None
    """None: as many as the case says."""
    kills: int = 20
    spin_us: int | None = None

    def environment(self, folder: Path) -> dict[str, str]:
        """What every process of the run gets: a registry of its own, and the spin time."""
        env = {**os.environ, "ZEROHOP_REGISTRY": str(folder / "registry")}
        env.setdefault("GRPC_VERBOSITY", "ERROR")
        if self.spin_us is not None:
            env["ZEROHOP_SPIN_US"] = str(self.spin_us)
        return env


@dataclass
class Ticks:
    """CPU ticks of all measured stretches of a run."""

    total: int = 0
    others: float = 0.0

    def add(self, before: CpuSample, after: CpuSample) -> float:
        """Notes a stretch; returns the others' share of it."""
        share = others_share(before, after)
        self.total += after.total - before.total
        self.others += share * (after.total - before.total)
        return share

    @property
    def share(self) -> float:
        return self.others / self.total if self.total else 0.0


@dataclass
class Workplace:
    """What the cases of one run share."""

    folder: Path
    stubs: Path
    settings: Settings
    env: Mapping[str, str]
    ticks: Ticks = field(default_factory=Ticks)

    def cpus(self, case: Case) -> list[int]:
        allowed = sorted(os.sched_getaffinity(0))
        return allowed[: case.cores] if case.cores else allowed

    def spec(self, case: Case, variant: Variant) -> dict[str, object]:
        """What all processes of a variant are told."""
        return {
            "backend": variant.backend,
            "loop": case.loop,
            "size": case.size_of(variant),
            "generated": variant.generated,
            "work": case.work,
            "inflight": case.inflight,
            "pool": variant.pool,
            "tune_malloc": variant.tune_malloc,
            "stubs": str(self.stubs),
            "cpus": self.cpus(case) if case.cores else [],
            "folder": str(self.folder / "iceoryx2"),
            "prefix": raw_iceoryx2.prefix(),
        }


class Party:
    """One variant's processes in one case: its servers and the client that drives them."""

    def __init__(
        self, place: Workplace, peers: Peers, case: Case, variant: Variant, slot: int
    ) -> None:
        self.result = VariantResult(variant)
        self.slices: list[Slice] = []
        self._variant = variant
        self._peers = peers
        self._spec = place.spec(case, variant)
        self._hops = case.hops
        self._slot = slot
        self._servers: list[Peer] = []
        self._client: Peer | None = None
        self._faulty: Peer | None = None
        self._before: dict[str, dict[str, float]] = {}
        self._address = ""
        self._suffix = "-asyncio" if case.loop.startswith("aio") else ""

    @property
    def alive(self) -> bool:
        return self.result.error is None

    def attempt(self, step: Callable[[], None]) -> None:
        """Does a step; a failure ends this party and leaves the others at work."""
        if not self.alive:
            return
        try:
            step()
        except PeerFailed as error:
            self.result.error = str(error)
            self.close()

    def start_servers(self) -> None:
        if self._variant.alone:
            return
        addresses = [
            backends.address(self._variant.backend, self._peers.folder, f"v{self._slot}h{hop}")
            for hop in range(self._hops)
        ]
        self._address = addresses[0]
        if self._variant.tcp:
            addresses[0] = "127.0.0.1:0"
        for hop, address in enumerate(addresses):
            onward = addresses[hop + 1] if hop + 1 < self._hops else ""
            server = self._start("server", {"address": address, "next": onward}, hop)
            self._servers.append(server)

    def start_client(self) -> None:
        for server in self._servers:
            server.ready()
        if self._variant.tcp:
            self._address = f"127.0.0.1:{self._servers[0].about['port']}"
        self._client = self._start("client", {"address": self._address})

    def await_client(self) -> None:
        self._driver.ready()
        if self._variant.fault:
            self._begin_fault()
        self._before = self._counters()

    def _begin_fault(self) -> None:
        """Has another client misbehave, and makes sure of it."""
        more = {"address": self._address, "fault": self._variant.fault}
        self._faulty = self._start("faulty", more)
        self._faulty.ready()
        faults.begin(self._variant.fault, self._faulty, self._servers[0])

    def run_slice(self, span_ms: int, keep: bool) -> None:
        if self._variant.backend == "iceoryx2":
            self._servers[0].ask("begin")
        within = ANSWER_S + span_ms / 1e3
        head, blob = self._driver.ask("run", within, span_ns=span_ms * 1_000_000)
        if keep:
            self.slices.append(Slice(head["calls"], head["elapsed_ns"], array("q", blob)))

    def finish(self) -> None:
        """Sums up, and reads how far zerohop's counters moved where calls should go through it."""
        self.result.summary = summarize(self.slices)
        self.result.counters = {
            side: {name: value - self._before[side].get(name, 0) for name, value in now.items()}
            for side, now in self._counters().items()
        }

    def _counters(self) -> dict[str, dict[str, float]]:
        if self._variant.backend != "zerohop" and not self._variant.under_run:
            return {}
        return {
            "client": self._driver.ask("counters")[0]["counters"],
            "server": self._servers[0].ask("counters")[0]["counters"],
        }

    def close(self) -> None:
        mine = [*self._servers, *filter(None, (self._client, self._faulty))]
        self._peers.close(mine)

    @property
    def _driver(self) -> Peer:
        if self._client is None:
            raise PeerFailed("the client was not started")
        return self._client

    def _start(self, kind: str, more: Mapping[str, object], hop: int = 0) -> Peer:
        own = self._variant.raw or self._variant.alone
        role = f"{self._variant.backend}-{kind}" if own else kind + self._suffix
        front = RUN if self._variant.under_run else ()
        name = f"{self._variant.label.partition(' (')[0].replace(' ', '-')}-{kind}{hop or ''}"
        return self._peers.start(
            name, role, {**self._spec, **more}, env=self._variant.env, front=front
        )


def run_case(
    place: Workplace, case: Case, variants: Sequence[Variant], progress: Progress
) -> CaseResult:
    """Measures these variants of a case against each other."""
    folder = place.folder / case.name
    folder.mkdir()
    settings = place.settings
    with Peers(folder, place.env) as peers:
        parties = [
            Party(place, peers, case, variant, slot) for slot, variant in enumerate(variants)
        ]
        progress("starting")
        for party in parties:
            party.attempt(party.start_servers)
        for party in parties:
            party.attempt(party.start_client)
        for party in parties:
            party.attempt(party.await_client)
        if case.busy:
            peers.start("busy", "busy", {}).ready()
        meter = CpuMeter(cpus=place.cpus(case))
        before = meter.sample()
        for number in range(-settings.warmup, settings.slices):
            if not any(party.alive for party in parties):
                break
            progress(f"slice {number + 1}/{settings.slices}" if number >= 0 else "warming up")
            for party in parties:
                party.attempt(partial(party.run_slice, settings.slice_ms, keep=number >= 0))
        share = place.ticks.add(before, meter.sample())
        for party in parties:
            party.attempt(party.finish)
    shutil.rmtree(folder)
    return CaseResult(case, [party.result for party in parties], share)
