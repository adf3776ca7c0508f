"""How soon a call ends whose server is killed: from SIGKILL until the caller has its status."""

import os
import shutil
import signal
import time
from array import array
from collections.abc import Sequence

from zerohop.bench import backends
from zerohop.bench.cases import Case, Variant
from zerohop.bench.machine import CpuMeter
from zerohop.bench.peers import Peer, PeerFailed, Peers
from zerohop.bench.results import CaseResult, VariantResult
from zerohop.bench.runner import Progress, Workplace
from zerohop.bench.stats import Slice, summarize

_SETTLE_S = 0.02
"""After the call has reached its handler, before the kill: both sides sleep by then."""


class _Party:
    """One variant: a client that stays, and a server that is killed, and another, and so on."""

    def __init__(self, place: Workplace, peers: Peers, case: Case, variant: Variant) -> None:
        self.result = VariantResult(variant)
        self.slices: list[Slice] = []
        self._spec = place.spec(case, variant)
        self._peers = peers
        self._variant = variant
        self._client: Peer | None = None

    def kill(self, number: int) -> None:
        """Measures one kill, unless one of this variant has failed before."""
        if self.result.error is not None:
            return
        try:
            took = self._kill(number)
        except PeerFailed as error:
            self.result.error = str(error)
        else:
            self.slices.append(Slice(1, took, array("q", [took])))

    def _kill(self, number: int) -> int:
        name = self._variant.label
        if self._client is None:
            self._client = self._peers.start(f"{name}-client", "caller", self._spec)
            self._client.ready()
        client = self._client
        address = backends.address(self._variant.backend, self._peers.folder, f"{name}{number}")
        server = self._peers.start(f"{name}-server", "server", {**self._spec, "address": address})
        server.ready()
        client.ask("exchange", address=address)
        client.tell("hold")
        server.ask("held")
        time.sleep(_SETTLE_S)
        killed = time.perf_counter_ns()
        os.kill(server.pid, signal.SIGKILL)
        ended = client.answer()[0]
        self._peers.close([server])
        if ended["code"] != "UNAVAILABLE":
            raise PeerFailed(f"{name}-client: the call ended with {ended['code']}")
        # The clock is one for all processes.
        return int(ended["ended_ns"]) - killed


def run_kills(
    place: Workplace, case: Case, variants: Sequence[Variant], progress: Progress
) -> CaseResult:
    """Kills servers of these variants in turn."""
    folder = place.folder / case.name
    folder.mkdir()
    meter = CpuMeter()
    before = meter.sample()
    with Peers(folder, place.env) as peers:
        parties = [_Party(place, peers, case, variant) for variant in variants]
        for number in range(place.settings.kills):
            progress(f"kill {number + 1}/{place.settings.kills}")
            for party in parties:
                party.kill(number)
    share = place.ticks.add(before, meter.sample())
    shutil.rmtree(folder)
    for party in parties:
        if party.slices:
            party.result.summary = summarize(party.slices)
    return CaseResult(case, [party.result for party in parties], share)
