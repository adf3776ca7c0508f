"""``zerohop bench``: what it computes, what its JSON looks like, and that it leaves nothing behind.

Never how fast anything is.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from zerohop.bench import backends, inplace, local_loops, loops, machine, memory, report
from zerohop.bench.cases import CASES, GENERATED, GRPCIO, ZEROHOP, Case, Target, Variant, select
from zerohop.bench.results import CaseResult, IdleFigures, RunResult, VariantResult
from zerohop.bench.stats import Slice, Summary, median_ratio, percentile, summarize

TINY = ("--quick", "--slices", "2", "--slice-ms", "10")

needs_tools = pytest.mark.skipif(
    importlib.util.find_spec("grpc_tools") is None, reason="needs grpcio-tools"
)
needs_zerohop = pytest.mark.skipif(
    backends.missing("zerohop") is not None, reason="this build of zerohop has no channel yet"
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for the command's files with a path so short that sockets can lie in it."""
    with tempfile.TemporaryDirectory(prefix="zb", dir="/tmp") as path:
        yield Path(path)


def bench(*arguments: str, folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    found = subprocess.run(
        [sys.executable, "-m", "zerohop.bench", *arguments],
        capture_output=True, text=True, timeout=55, env={**os.environ, "TMPDIR": str(folder)},
    )  # fmt: skip
    assert found.returncode == code, found.stdout + found.stderr
    return found


def measure(folder: Path, *arguments: str) -> dict[str, Any]:
    target = folder / "found.json"
    bench(*TINY, "--json", str(target), *arguments, folder=folder)
    found: dict[str, Any] = json.loads(target.read_text())
    return found


def processes_of(folder: Path) -> list[str]:
    """Command lines of the running peers of a run whose folder lies in this one."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "zerohop.bench._peer" in line and str(folder) in line:
            lines.append(line)
    return lines


# Percentiles, medians, ratios


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([7], 0.5, 7),
        ([1, 2], 0.5, 1),
        ([1, 2, 3], 0.5, 2),
        (list(range(1, 101)), 0.5, 50),
        (list(range(1, 101)), 0.99, 99),
        (list(range(1, 1001)), 0.99, 990),
        ([1, 2, 3], 0.0, 1),
        ([1, 2, 3], 1.0, 3),
        ([5] * 99 + [1000], 0.99, 5),
        ([5] * 98 + [1000] * 2, 0.99, 1000),
    ],
)
def test_percentile_is_the_nearest_rank(values: list[int], share: float, expected: int) -> None:
    assert percentile(values, share) == expected


def test_percentile_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        percentile([1], 99)


def test_summary_pools_latencies_and_takes_the_median_rate() -> None:
    slices = [
        Slice(2, 1_000_000_000, array("q", [1000, 3000])),
        Slice(4, 1_000_000_000, array("q", [2000, 2000, 2000, 9000])),
        Slice(9, 1_000_000_000, array("q", [])),
    ]
    found = summarize(slices)
    assert (found.calls, found.rate) == (15, 4.0)
    assert (found.p50_us, found.p99_us, found.max_us) == (2.0, 9.0, 9.0)
    assert found.slice_p50_us == [1.0, 2.0, None]
    assert found.slice_rates == [2.0, 4.0, 9.0]


def test_ratios_are_taken_slice_by_slice() -> None:
    assert median_ratio([10.0, 100.0, 30.0], [1.0, 50.0, 1.0]) == 10.0
    assert median_ratio([10.0, None], [2.0, 5.0]) == 5.0
    assert median_ratio([None], [1.0]) is None


# The machine, from a /proc of our own


def fake_process(proc: Path, pid: int, parent: int, name: str, ticks: tuple[int, ...]) -> None:
    (proc / str(pid)).mkdir(exist_ok=True)
    before = " ".join(["0"] * 9)
    utime, stime, cutime, cstime = ticks
    (proc / str(pid) / "stat").write_text(
        f"{pid} ({name}) S {parent} {before} {utime} {stime} {cutime} {cstime} 20 0 1 0 99\n"
    )


def fake_cores(proc: Path, *cores: tuple[int, ...]) -> None:
    lines = ["cpu  9999 9999 9999 9999 9999 9999 9999 9999 0 0"]
    lines += [f"cpu{number} {' '.join(map(str, core))} 0 0" for number, core in enumerate(cores)]
    (proc / "stat").write_text("\n".join([*lines, "intr 1 2 3", "ctxt 7"]) + "\n")


def test_cpu_share_of_others(tmp_path: Path) -> None:
    # user nice system idle iowait irq softirq steal
    fake_cores(tmp_path, (0, 0, 0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0, 0, 0, 0), (0,) * 8)
    fake_process(tmp_path, 1, 0, "init", (5, 5, 0, 0))
    fake_process(tmp_path, 10, 1, "bench", (0, 0, 0, 0))
    fake_process(tmp_path, 11, 10, "a (peer) 1 2 3", (0, 0, 0, 0))
    fake_process(tmp_path, 12, 11, "grandchild", (0, 0, 0, 0))
    fake_process(tmp_path, 20, 1, "stranger", (0, 0, 0, 0))
    (tmp_path / "self").mkdir()
    meter = machine.CpuMeter(root_pid=10, cpus={0, 1}, proc=tmp_path)
    before = meter.sample()
    assert before == machine.CpuSample(0, 0, 0)

    fake_cores(
        tmp_path,
        (50, 5, 10, 20, 5, 4, 3, 3),
        (40, 0, 0, 60, 0, 0, 0, 0),
        (100, 0, 0, 0, 0, 0, 0, 0),
    )
    fake_process(tmp_path, 10, 1, "bench", (10, 5, 20, 3))  # a peer of its ended: 23 ticks
    fake_process(tmp_path, 11, 10, "a (peer) 1 2 3", (20, 5, 0, 0))
    fake_process(tmp_path, 12, 11, "grandchild", (5, 0, 0, 0))
    fake_process(tmp_path, 20, 1, "stranger", (90, 0, 0, 0))
    after = meter.sample()
    assert after == machine.CpuSample(total=200, used=108, ours=68)  # the third core is not ours
    assert machine.others_share(before, after) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (machine.CpuSample(0, 0, 0), 0.0),  # no time has passed
        (machine.CpuSample(100, 40, 55), 0.0),  # ticks of a process are finer than a core's
        (machine.CpuSample(100, 100, 0), 1.0),
        (machine.CpuSample(100, 60, 50), 0.1),
    ],
)
def test_cpu_share_stays_between_0_and_1(after: machine.CpuSample, expected: float) -> None:
    share = machine.others_share(machine.CpuSample(0, 0, 0), after)
    assert share == pytest.approx(expected)


def test_cpu_of_a_process_that_ends_is_kept_by_its_parent() -> None:
    meter = machine.CpuMeter()
    before = meter.sample().ours
    subprocess.run([sys.executable, "-c", "for _ in range(3_000_000): pass"], check=True)
    assert meter.sample().ours > before


def test_facts_say_what_a_reader_needs() -> None:
    facts = machine.facts()
    assert {"cores", "cores_allowed", "cpu", "kernel", "python", "versions"} <= facts.keys()


def test_shared_memory_is_counted_once_however_often_it_is_mapped() -> None:
    import mmap

    before = memory.shared_bytes([os.getpid()])
    descriptor = os.memfd_create("bench")
    size = 1 << 20
    os.posix_fallocate(descriptor, 0, size)
    first, second = mmap.mmap(descriptor, size), mmap.mmap(descriptor, size)
    assert memory.shared_bytes([os.getpid()]) - before == size
    duplicate = os.dup(descriptor)
    assert memory.shared_bytes([os.getpid(), os.getpid()]) - before == size
    os.close(descriptor)
    os.close(duplicate)
    # Python's mmap holds a descriptor of its own; closed or not, nothing is counted twice.
    assert memory.shared_bytes([os.getpid()]) - before == size
    first.close()
    second.close()
    assert memory.shared_bytes([os.getpid()]) == before


def test_shared_memory_that_is_mapped_only(tmp_path: Path) -> None:
    for pid in (7, 8):
        (tmp_path / str(pid)).mkdir()
    (tmp_path / "7" / "smaps").write_text(
        "7f0000000000-7f0000100000 rw-s 00000000 00:01 42   /memfd:arena (deleted)\n"
        "Size: 1024 kB\n"
        "7f0000200000-7f0000300000 r--s 00080000 00:01 42   /memfd:arena (deleted)\n"
        "7f0000400000-7f0000500000 r--p 00000000 08:01 42   /usr/lib/libc.so.6\n"
    )
    (tmp_path / "8" / "smaps").write_text(
        "7f0000000000-7f0000080000 r--s 00000000 00:01 42   /memfd:arena (deleted)\n"
        "7f0000600000-7f0000601000 r--s 00000000 00:01 43   /memfd:ring (deleted)\n"
    )
    # Inode 42 is mapped from 0 to 0x180000, inode 43 is one page.
    assert memory.shared_bytes([7, 8, 9], proc=tmp_path) == 0x180000 + 0x1000


def test_cpu_and_resident_memory_of_a_process() -> None:
    used = memory.cpu_ns(os.getpid())
    deadline = time.process_time() + 0.05
    while time.process_time() < deadline:
        pass
    assert memory.cpu_ns(os.getpid()) - used >= 40_000_000
    assert memory.resident_bytes(os.getpid()) > 5_000_000


# Cases and verdicts


def test_names_are_unique_and_globs_select() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
    assert [case.name for case in select(["aio-*", "unary-inline"])] == [
        "unary-inline", "aio-one", "aio-many",
    ]  # fmt: skip
    assert select([]) == list(CASES)
    with pytest.raises(ValueError, match="--list"):
        select(["no-such-case"])


def test_each_target_names_variants_of_its_case() -> None:
    for case in CASES:
        labels = {variant.label for variant in case.variants}
        for target in case.targets:
            assert target.variant in labels
            assert not target.against or target.against in labels


def summary(p50: float, rate: float = 100.0) -> Summary:
    return Summary(10, rate, p50, 2 * p50, 3 * p50, [rate], [p50])


def result(targets: tuple[Target, ...], ours: Summary | None, theirs: Summary) -> CaseResult:
    case = Case("one", "a case", "unary", (ZEROHOP, GRPCIO), targets)
    variants = [VariantResult(ZEROHOP, ours), VariantResult(GRPCIO, theirs)]
    if ours is None:
        variants[0].error = "zerohop-server: ended unasked"
    return CaseResult(case, variants)


def test_verdicts() -> None:
    targets = (
        Target("p50", 8),
        Target("p99", 9),
        Target("times_below", 60, "grpcio"),
        Target("slowdown", 1.25, "grpcio"),
        Target("rate", 1000),
    )
    found = result(targets, summary(5), summary(400))
    assert [(one.value, one.met) for one in found.verdicts()] == [
        (5, True), (10, False), (80, True), (5 / 400, True), (100, False),
    ]  # fmt: skip
    assert found.slower_by(found.variants[1]) == 80
    failed = result(targets, None, summary(400))
    assert all(one.met is None for one in failed.verdicts())


def test_verdicts_of_cases_with_faults() -> None:
    targets = (Target("kept", 0.8, "grpcio"), Target("max", 20))
    found = result(targets, summary(8000, rate=90), summary(8000, rate=100))
    assert [(one.value, one.met) for one in found.verdicts()] == [(0.9, True), (24, False)]
    assert [one.target.text for one in found.verdicts()] == [
        "rate >= 0.8 x grpcio", "max <= 20 ms",
    ]  # fmt: skip
    found.variants[1].error = "grpcio-server: ended unasked"
    assert found.verdicts()[0].met is None


def test_kills_have_no_rate() -> None:
    case = Case("one", "a case", "kill", (ZEROHOP, GRPCIO), (Target("max", 20),))
    found = CaseResult(case, [VariantResult(one, summary(3000)) for one in case.variants])
    text = report.table(run_result(found))
    assert "3.00 ms" in text
    assert "/s" not in text.partition("CPU taken")[0]


def test_verdicts_of_an_idle_server() -> None:
    targets = (Target("cpu", 1), Target("rss", 15), Target("shm", 4))
    case = Case("idle", "idle", "idle", (ZEROHOP,), targets)
    figures = IdleFigures(10, 5.0, 0.5, 15.0, 3.9, 3.9, 0.1)
    found = CaseResult(case, [VariantResult(ZEROHOP, idle=figures)])
    assert [one.met for one in found.verdicts()] == [True, False, True]


def test_verdicts_of_generated_messages() -> None:
    targets = tuple(
        Target(*limit, variant=GENERATED.label)
        for limit in (("times_below", 150, "grpcio"), ("slowdown", 1, "grpcio"), ("copied", 0))
    )
    case = Case("one", "a case", "futures", (ZEROHOP, GENERATED, GRPCIO), targets, timed=False)
    moved = {"client": {"bytes_copied": 0}, "server": {"bytes_copied": 64}}
    ours = VariantResult(GENERATED, summary(5, rate=800), counters=moved)
    found = CaseResult(case, [ours, VariantResult(GRPCIO, summary(400, rate=4))])
    # Where latencies do not count, times are those of the rates.
    assert [(one.value, one.met) for one in found.verdicts()] == [
        (200, True), (4 / 800, True), (64, False),
    ]  # fmt: skip
    ours.counters = {side: {"bytes_copied": 0} for side in moved}
    assert found.verdicts()[2].met
    ours.counters = {}
    assert found.verdicts()[2].met is None
    assert case.text(targets[2]) == "generated: 0 bytes copied"


def test_verdicts_within_one_process() -> None:
    case = next(case for case in CASES if case.name == "gen-get-scalar")
    results = [
        VariantResult(one, Summary(9, 1e9 / ns, None, None, None, [1e9 / ns]))
        for one, ns in zip(case.variants, (30, 40, 120), strict=True)
    ]
    found = CaseResult(case, results)
    assert [one.met for one in found.verdicts()] == [True, False]
    assert found.slower_by(results[2]) == pytest.approx(4)
    text = report.table(run_result(found))
    assert "30.0 ns" in text
    assert "received: <= 35 ns" in text
    assert "what the empty loop takes beside them is taken off" in text
    (told,) = report.as_json(run_result(found))["cases"]
    assert told["variants"][1]["ns_per_operation"] == pytest.approx(40)


def test_what_a_variant_needs() -> None:
    every = [variant for case in CASES for variant in case.variants if not variant.raw]
    assert {variant.needs for variant in every} == {"zerohop", "zerohop run", "grpcio"}
    assert Variant("upb", "protobuf", side="upb").needs == "zerohop"


def run_result(*cases: CaseResult, others: float = 0.0) -> RunResult:
    settings = {"slices": 1, "slice_ms": 1, "warmup": 0, "environment": {}}
    return RunResult(machine.facts(), settings, {}, list(cases), others)


def test_a_disturbed_run_says_that_it_is_no_measurement() -> None:
    one = result((Target("p50", 8),), summary(5), summary(400))
    quiet = run_result(one, others=0.05)
    assert "NO MEASUREMENT" not in report.table(quiet)
    assert "met (5)" in report.table(quiet)
    assert report.as_json(quiet)["measurement"] is True
    loud = run_result(one, others=0.11)
    assert "THIS IS NO MEASUREMENT" in report.table(loud)
    assert "met (5), but no measurement" in report.table(loud)
    assert report.as_json(loud)["measurement"] is False
    assert report.as_json(loud)["cases"][0]["measurement"] is False


def test_a_disturbed_case_in_a_quiet_run_is_marked() -> None:
    one = result((Target("p50", 8),), summary(5), summary(400))
    one.others_share = 0.3
    text = report.table(run_result(one, others=0.05))
    assert "others 30%: no measurement" in text
    assert "No measurement, since others took more than 10%: one." in text


def test_a_variant_that_failed_is_named() -> None:
    run = run_result(result((Target("p50", 8),), None, summary(400)))
    assert run.failures == ["one (zerohop)"]
    assert "FAILED: one (zerohop)." in report.table(run)
    assert "zerohop-server: ended unasked" in report.table(run)


def test_counters_that_did_not_move_are_noted() -> None:
    one = VariantResult(ZEROHOP, summary(5), counters={"client": {"bytes_inlined": 0}})
    assert any("another way" in note for note in report.notes(one))
    one.counters = {"client": {"bytes_inlined": 64}}
    assert not list(report.notes(one))


# Loops, over calls that are answered by a pool


def test_loops_of_futures_and_callbacks_count_every_call() -> None:
    made = 0
    with ThreadPoolExecutor(1) as pool:

        def submit(request: int) -> Future[int]:
            nonlocal made
            made += 1
            return pool.submit(int, request)

        times = array("q")
        calls, elapsed = loops.futures(submit, 1, 8, 20_000_000, times)
        assert calls + 8 == made  # the last eight are waited for, not counted
        assert elapsed >= 20_000_000
        assert len(times) == calls / 8
        made, times = 0, array("q")
        calls, elapsed = loops.callbacks(submit, 1, 8, 20_000_000, times)
        assert calls == made
        assert 1 <= len(times) <= calls


def test_an_error_in_a_done_callback_ends_the_loop() -> None:
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(ValueError, match="invalid literal"),
    ):
        loops.callbacks(lambda text: pool.submit(int, text), "x", 4, 10_000_000, array("q"))


def test_streams_learn_how_many_messages_fill_a_slice() -> None:
    streams = loops.Streams()
    asked: list[int] = []

    def open_stream(count: int) -> range:
        asked.append(count)
        return range(count)

    messages, elapsed = streams.run(open_stream, 5_000_000)
    assert messages == sum(asked)
    assert asked[0] < asked[-1]
    assert elapsed >= 5_000_000
    with pytest.raises(RuntimeError, match="ended after 0 of"):
        streams.run(lambda count: iter(()), 1_000_000)


class Payload:
    """In place of a message: what it was made of."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.value = 0


def answered(value: int) -> Payload:
    answer = Payload(b"")
    answer.value = value
    return answer


def test_buffers_are_filled_before_the_calls_that_are_timed() -> None:
    calls = 0

    def call(request: Payload) -> Payload:
        nonlocal calls
        calls += 1
        return answered(request.data[0] | request.data[-1] << 8)

    times = array("q")
    made, elapsed = inplace.ends(64, Payload, call)(1_000_000, times)
    assert made == len(times) < calls
    assert elapsed == sum(times) < 1_000_000_000
    with pytest.raises(RuntimeError, match="not those that were sent"):
        inplace.ends(64, Payload, lambda request: answered(7))(1, array("q"))


@pytest.mark.parametrize("parts", ["bytes", "words"])
def test_sums_are_checked(parts: str) -> None:
    pytest.importorskip("numpy")
    spec = {"size": 1 << 16, "work": parts}

    class Stub:
        def SumBytes(self, request: Payload) -> Payload:
            return answered(inplace.total(request.data, "bytes"))

        def SumWords(self, request: Payload) -> Payload:
            return answered(inplace.total(request.data, "words"))

    times = array("q")
    made, elapsed = inplace.fill(spec, Payload, Stub())(1_000_000, times)
    assert made == len(times) >= 1
    assert elapsed >= 1_000_000
    Stub.SumBytes, Stub.SumWords = Stub.SumWords, Stub.SumBytes  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="sum is not"):
        inplace.fill(spec, Payload, Stub())(1, array("q"))


def test_the_empty_loop_is_taken_off() -> None:
    names = {"number": 7}
    turns, took = local_loops.Timers("sum(range(1000))", names).run(5_000_000)
    assert turns >= 1
    assert took / turns > 1000
    _, took = local_loops.Timers("pass", names).run(5_000_000)
    assert took / turns < 1e6  # about nothing; never less than 1


def test_each_case_in_one_process_has_its_work() -> None:
    works = {case.work for case in CASES if case.group == "local"}
    assert works == set(local_loops.WORK)


# The command


def check_shape(found: dict[str, Any], *names: str) -> None:
    assert found["schema"] == report.SCHEMA
    assert isinstance(found["measurement"], bool)
    assert 0 <= found["others_cpu_share"] <= 1
    assert found["machine"]["cores"] >= 1
    assert found["settings"]["slices"] == 2
    assert [case["name"] for case in found["cases"]] == list(names)
    for case in found["cases"]:
        assert case["skipped"] is None
        for variant in case["variants"]:
            assert variant["error"] is None, variant["error"]
            if case["name"] == "idle":
                assert variant["idle"]["seconds"] > 0
                continue
            figures = variant["summary"]
            assert figures["calls"] >= 1
            assert figures["rate"] > 0
            killed = case["name"].startswith("fault-kill")
            assert len(figures["slice_rates"]) == (found["settings"]["kills"] if killed else 2)
            if case["timed"]:
                assert 0 < figures["p50_us"] <= figures["p99_us"] <= figures["max_us"]
        for target in case["targets"]:
            assert {"text", "metric", "limit", "value", "met"} <= target.keys()


@needs_tools
@pytest.mark.parametrize(
    "names",
    [
        ("unary-inline", "unary-busy", "run", "chain"),
        ("futures", "callbacks", "stream-sync"),
        ("aio-one", "aio-many", "stream-aio"),
        ("echo-1m", "size-unary-16MiB", "size-stream-16KiB"),
        ("fault-kill", "fault-kill-1m"),
    ],
)
def test_grpcio_alone(folder: Path, names: tuple[str, ...]) -> None:
    chosen = [word for name in names for word in ("--case", name)]
    found = measure(folder, "--backend", "grpcio", *chosen)
    check_shape(found, *names)
    for case in found["cases"]:
        assert [variant["label"] for variant in case["variants"]] == ["grpcio"]
        assert all(target["met"] is None for target in case["targets"])
    assert "zerohop" in found["absent"]
    assert [path.name for path in folder.iterdir()] == ["found.json"]
    assert processes_of(folder) == []


@needs_tools
@pytest.mark.skipif(
    importlib.util.find_spec("grpc_health") is None, reason="needs grpcio-health-checking"
)
def test_idle_grpcio(folder: Path) -> None:
    found = measure(folder, "--backend", "grpcio", "--case", "idle")
    check_shape(found, "idle")
    (variant,) = found["cases"][0]["variants"]
    assert variant["idle"]["clients"] == 3
    assert variant["idle"]["shared_mib"] == 0


@needs_tools
@pytest.mark.parametrize("backend", ["zmq", "iceoryx2"])
def test_raw_rows(folder: Path, backend: str) -> None:
    pytest.importorskip(backend)
    names = ("size-unary-64B", "size-unary-1MiB", "size-stream-64B", "size-stream-1MiB")
    chosen = [word for name in names for word in ("--case", name)]
    found = measure(folder, "--backend", backend, *chosen)
    check_shape(found, *names)
    assert all(case["variants"][0]["raw"] for case in found["cases"])
    assert "raw bytes" in found["cases"][0]["variants"][0]["label"]


@needs_tools
@needs_zerohop
@pytest.mark.parametrize(
    "names",
    [
        ("unary-inline", "unary-pool", "unary-busy"),
        ("run", "chain"),
        ("futures", "callbacks", "stream-sync"),
        ("aio-one", "aio-many", "stream-aio"),
        ("echo-1m", "echo-1m-tuned", "idle"),
        ("fault-stopped-reader", "fault-stopped-peer", "fault-hoarder"),
        ("fault-kill", "fault-kill-1m"),
        (
            "gen-large",
            "gen-fill-bytes-1m",
            "gen-fill-words-1m",
            "size-unary-16KiB",
            "size-stream-64KiB",
        ),
        ("gen-get-bytes", "gen-construct", "gen-serialize-records", "gen-parse-numbers"),
    ],
)
def test_both(folder: Path, names: tuple[str, ...]) -> None:
    chosen = [word for name in names for word in ("--case", name)]
    found = measure(folder, "--backend", "zerohop", "--backend", "grpcio", *chosen)
    check_shape(found, *names)
    for case in found["cases"]:
        if case["name"] == "run" and "zerohop run" in found["absent"]:
            continue
        assert len(case["variants"]) >= 2
        assert all(target["met"] is not None for target in case["targets"])
        for variant in case["variants"]:
            if case["group"] == "local":
                assert variant["ns_per_operation"] > 0
            if variant["counters"]:
                assert any(variant["counters"]["client"].values()), "calls took another way"
    assert processes_of(folder) == []


@needs_tools
@needs_zerohop
@pytest.mark.parametrize("fault", ["stopped-peer", "hoarder"])
def test_clients_that_hear_nothing_end_with_a_runner_that_is_killed(
    folder: Path, fault: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "zerohop.bench", "--case", f"fault-{fault}", "--slices", "500"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(folder)},
    ) as process:  # fmt: skip
        try:
            deadline = time.monotonic() + 40
            while not any(" faulty " in line for line in processes_of(folder)):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            time.sleep(1.5)  # it is stopped by now, or blocked
        finally:
            process.kill()
    deadline = time.monotonic() + 15
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(folder) == []


@needs_tools
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(folder: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [
            sys.executable, "-m", "zerohop.bench", "--backend", "grpcio",
            "--case", "unary-inline", "--slices", "500", "--json", str(folder / "found.json"),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 40
        while len(processes_of(folder)) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        output, _ = process.communicate(timeout=15)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, output
    assert "Interrupted" in output
    assert "Traceback" not in output
    assert json.loads((folder / "found.json").read_text())["interrupted"] is True
    assert [path.name for path in folder.iterdir()] == ["found.json"]
    # The peers end when their pipes do, a moment later.
    deadline = time.monotonic() + 10
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(folder) == []


@needs_tools
def test_a_chart_is_drawn(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    chart = folder / "chart.png"
    bench(
        *TINY, "--backend", "grpcio", "--case", "unary-inline", "--case", "stream-sync",
        "--plot", str(chart), folder=folder,
    )  # fmt: skip
    assert chart.read_bytes().startswith(b"\x89PNG")


@needs_tools
@needs_zerohop
def test_a_chart_of_generated_messages_is_drawn(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    chart = folder / "chart.svg"
    names = ("unary-inline", "gen-large", "gen-get-scalar", "size-unary-64B")
    chosen = [word for name in names for word in ("--case", name)]
    bench(*TINY, "--backend", "zerohop", *chosen, "--plot", str(chart), folder=folder)
    text = chart.read_text()
    assert "ns per operation" in text
    assert "gen-get-scalar" in text


def test_missing_packages_are_said(folder: Path) -> None:
    hidden = folder / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import sys\n"
        "for name in ('grpc_tools', 'grpc_tools.protoc', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
    )
    path = os.pathsep.join([str(hidden), os.environ.get("PYTHONPATH", "")])
    for arguments, message in [
        (("--case", "unary-inline"), "grpcio-tools: pip install 'zerohop[bench]'"),
        (("--plot", "x.png"), "matplotlib: pip install 'zerohop[bench]'"),
    ]:
        found = subprocess.run(
            [sys.executable, "-m", "zerohop.bench", *arguments],
            capture_output=True, text=True, timeout=50, cwd=folder,
            env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(folder)},
        )  # fmt: skip
        assert found.returncode == 1
        assert message in found.stderr
        assert "Traceback" not in found.stderr


def test_help_and_list(folder: Path) -> None:
    text = bench("--help", folder=folder).stdout
    assert "examples:" in text
    assert "--spin-us" in text
    listed = bench("--list", folder=folder).stdout
    assert all(case.name in listed for case in CASES)
    bench("--case", "no-such-case", folder=folder, code=2)
    bench("--slices", "0", folder=folder, code=2)
    bench("--json", "no/such/folder/x.json", folder=folder, code=2)
    bench("--plot", "x.doc", folder=folder, code=2)
