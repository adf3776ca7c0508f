"""What an idle server costs: CPU, resident and shared memory, with idle clients on open streams."""

import shutil
import sys
import time
from collections.abc import Sequence

from zerohop.bench import backends, memory
from zerohop.bench.cases import Case, Variant
from zerohop.bench.machine import CpuMeter
from zerohop.bench.peers import Peer, PeerFailed, Peers
from zerohop.bench.results import CaseResult, IdleFigures, VariantResult
from zerohop.bench.runner import Progress, Workplace

_SETTLE_S = 1.0
"""After the last client has its first answer, before idleness is measured."""

_BASELINE = """
import os, sys
import grpc
print('{"pid": %d, "bytes": 0}' % os.getpid(), flush=True)
sys.stdin.read()
"""


def run_idle(
    place: Workplace, case: Case, variants: Sequence[Variant], progress: Progress
) -> CaseResult:
    """Measures one variant after the other: idle processes do not disturb, but take memory."""
    folder = place.folder / case.name
    folder.mkdir()
    results = []
    meter = CpuMeter()
    before = meter.sample()
    for slot, variant in enumerate(variants):
        result = VariantResult(variant)
        results.append(result)
        with Peers(folder, place.env) as peers:
            try:
                result.idle = _measure(place, peers, case, variant, slot, progress)
            except (PeerFailed, OSError) as error:  # OSError: a process that we look at has ended
                result.error = str(error)
    share = place.ticks.add(before, meter.sample())
    shutil.rmtree(folder)
    return CaseResult(case, results, share)


def _measure(
    place: Workplace,
    peers: Peers,
    case: Case,
    variant: Variant,
    slot: int,
    progress: Progress,
) -> IdleFigures:
    progress(f"{variant.label}: starting")
    baseline = peers.start_command("import-grpc", [sys.executable, "-c", _BASELINE])
    address = backends.address(variant.backend, peers.folder, f"v{slot}h0")
    spec = {**place.spec(case, variant), "address": address}
    server = peers.start("server", "server", {**spec, "health": True})
    baseline.ready()
    server.ready()
    count = place.settings.idle_clients or case.inflight
    clients: list[Peer] = []
    for number in range(count):
        clients.append(peers.start(f"watcher{number}", "watcher", spec))
        # Not all at once: ten interpreters that start together are slow on two cores.
        if number % 2:
            clients[-1].ready()
    for client in clients:
        if not client.about:
            client.ready()
    time.sleep(_SETTLE_S)
    progress(f"{variant.label}: idle for {place.settings.idle_s:g} s")
    pids = [client.pid for client in clients]
    server_ns, client_ns = memory.cpu_ns(server.pid), sum(map(memory.cpu_ns, pids))
    start = time.perf_counter_ns()
    time.sleep(place.settings.idle_s)
    elapsed = time.perf_counter_ns() - start
    server_ns = memory.cpu_ns(server.pid) - server_ns
    client_ns = sum(map(memory.cpu_ns, pids)) - client_ns
    above = memory.resident_bytes(server.pid) - memory.resident_bytes(baseline.pid)
    return IdleFigures(
        clients=count,
        seconds=elapsed / 1e9,
        cpu_percent=100 * server_ns / elapsed,
        rss_above_mb=above / 1e6,
        shared_mib=memory.shared_bytes([server.pid, *pids]) / (1 << 20),
        server_shared_mib=memory.shared_bytes([server.pid]) / (1 << 20),
        clients_cpu_percent=100 * client_ns / elapsed,
    )
