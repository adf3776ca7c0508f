"""What is measured, and the targets."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zerohop.bench.net.veth import Veth, pinned

_PROGRAMS = Path(__file__).parent
_CLIENT_CORE, _SERVER_CORE = 0, 1
_START_S = 20.0


class Failed(RuntimeError):
    """A process of the run has failed; the text is what it said."""


@dataclass(frozen=True)
class Settings:
    slices: int = 9
    """Of each variant; the variants take turns."""
    seconds: float = 0.6
    """The length of a slice."""


@dataclass(frozen=True)
class Result:
    """One row: medians over the slices."""

    title: str
    unit: str
    stack: float
    target: str
    met: bool | None
    kernel: float | None = None
    """What it is compared with: the kernel's figure, or the port's ceiling."""

    @property
    def ratio(self) -> float | None:
        return self.stack / self.kernel if self.kernel else None

    def figure(self, value: float | None) -> str:
        return "" if value is None else f"{value:,.{1 if value < 1000 else 0}f} {self.unit}"


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    target: str
    run: Callable[[Settings], list[Result]]

    def is_chosen(self, patterns: Sequence[str]) -> bool:
        return not patterns or any(fnmatch.fnmatch(self.name, one) for one in patterns)


# --- processes ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _server(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A server that says a line when it is ready, until the block ends."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            assert process.stderr is not None
            raise Failed(process.stderr.read().strip() or "the server ended at once")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _stack_server(veth: Veth, device: str) -> list[str]:
    address = f"{veth.addresses[1]}/24"
    return veth.inside(1, str(_PROGRAMS / "bench_serve"), device, address, f"core={_SERVER_CORE}")


def _kernel_server(veth: Veth) -> list[str]:
    program = [sys.executable, "-m", "zerohop.bench.net.load", "serve"]
    return veth.inside(1, *pinned(_SERVER_CORE, program))


def _ask(command: Sequence[str], timeout: float = 120) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise Failed(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no answer")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _load(figure: str, veth: Veth, what: str, *arguments: object) -> float:
    """One slice of a client at the near end (load.py)."""
    words = [what, veth.addresses[1], *(str(one) for one in arguments)]
    program = [sys.executable, "-m", "zerohop.bench.net.load", *words]
    return float(_ask(veth.inside(0, *pinned(_CLIENT_CORE, program)))[figure])


def _measure(figure: str, veth: Veth, what: str, *arguments: object) -> Callable[[], float]:
    return lambda: _load(figure, veth, what, *arguments)


def _program(name: str, *arguments: object, core: int | None = None) -> dict[str, Any]:
    command = [str(_PROGRAMS / name), *(str(one) for one in arguments)]
    return _ask(command if core is None else pinned(core, command), timeout=600)


@contextlib.contextmanager
def _both(device: str, mtu: int = 1500) -> Iterator[tuple[Veth, Veth]]:
    """A pair with the stack at its far end, and one with the kernel at both."""
    with (
        Veth("n", bare=True, network="198.18.1", mtu=mtu) as ours,
        Veth("k", bare=False, network="198.18.2", mtu=mtu) as theirs,
        _server(_stack_server(ours, device)),
        _server(_kernel_server(theirs)),
    ):
        yield ours, theirs


def _device(kind: str) -> str:
    return f"net_{kind}0,iface=vs"


def _alternate(settings: Settings, *measures: Callable[[], float]) -> list[float]:
    """The median of each measure's slices, taken in turns."""
    found: list[list[float]] = [[] for _ in measures]
    for number in range(settings.slices + 1):
        for values, measure in zip(found, measures, strict=True):
            value = measure()
            if number:  # the first is to warm up
                values.append(value)
    return [statistics.median(values) for values in found]


# --- cases ----------------------------------------------------------------------------------------


def _echo(size: int, most: float, limit_us: float | None) -> Callable[[Settings], list[Result]]:
    def run(settings: Settings) -> list[Result]:
        rows = []
        for kind in ("af_packet", "af_xdp"):
            with _both(_device(kind)) as (ours, theirs):
                stack, kernel = _alternate(
                    settings,
                    *(
                        _measure("p50_us", veth, "echo", size, settings.seconds)
                        for veth in (ours, theirs)
                    ),
                )
            met = stack <= most * kernel and (limit_us is None or stack <= limit_us)
            target = f"<= {most} x" + (f", <= {limit_us:.0f} us" if limit_us else "")
            title = f"echo {size} B, {kind}"
            rows.append(Result(title, "us", stack, target, met, kernel))
        return rows

    return run


def _bulk(settings: Settings) -> list[Result]:
    rows = []
    for kind, least_in, least_out in (("af_packet", 0.5, 0.35), ("af_xdp", 0.7, 0.55)):
        with _both(_device(kind)) as (ours, theirs):
            found = _alternate(
                settings,
                *(
                    _measure("gbit", veth, way, settings.seconds)
                    for way in ("in", "out")
                    for veth in (ours, theirs)
                ),
            )
        into, kernel_into, out, kernel_out = found
        for way, stack, kernel, least in (
            ("in", into, kernel_into, least_in),
            ("out", out, kernel_out, least_out),
        ):
            title = f"bulk {way}, {kind}"
            rows.append(
                Result(title, "Gb/s", stack, f">= {least} x", stack >= least * kernel, kernel)
            )
    return rows


def _ceiling(settings: Settings) -> list[Result]:
    """Outward bulk beside what the port can send, in turns: each needs the interface alone."""
    rows = []
    for kind in ("af_packet", "af_xdp"):
        device = _device(kind)
        with Veth("n", bare=True, network="198.18.1") as veth:
            mac = subprocess.run(
                veth.inside(0, "cat", "/sys/class/net/vc/address"),
                capture_output=True, text=True, check=True,
            ).stdout.strip()  # fmt: skip

            def blast(veth: Veth = veth, device: str = device, mac: str = mac) -> float:
                command = [
                    str(_PROGRAMS / "bench_serve"), device, f"{veth.addresses[1]}/24",
                    "ceiling=1514", f"to={mac}", "seconds=1",
                ]  # fmt: skip
                found = _ask(veth.inside(1, *pinned(_SERVER_CORE, command)))
                # Frames of 1514 B carry 1448 B of payload each.
                return float(found["gbit_per_s"]) * 1448 / 1514

            def send(veth: Veth = veth, device: str = device) -> float:
                with _server(_stack_server(veth, device)):
                    return _load("gbit", veth, "out", settings.seconds)

            out, ceiling = _alternate(settings, send, blast)
        title = f"bulk out of the port's ceiling, {kind}"
        rows.append(Result(title, "Gb/s", out, ">= 0.85 x", out >= 0.85 * ceiling, ceiling))
    return rows


_SEEDS = 5


def _wire(veth: Veth, seed: int) -> list[str]:
    program = [
        sys.executable, "-m", "zerohop", "net", "wire", "--a", "net_af_packet0,iface=wc",
        "--b", "net_af_packet1,iface=ws", "--delay", "500us", "--loss", "1%", "--seed", str(seed),
    ]  # fmt: skip
    return veth.inside(2, *pinned(_CLIENT_CORE, program))


def _loss(settings: Settings) -> list[Result]:
    """The same wire, seed by seed: 1 % of the packets lost each way, 1 ms there and back."""
    found: list[list[float]] = [[], []]
    with (
        Veth("n", bare=True, network="198.18.1", wired=True) as ours,
        Veth("k", bare=False, network="198.18.2", wired=True) as theirs,
        _server(_stack_server(ours, _device("af_packet"))),
        _server(_kernel_server(theirs)),
    ):
        for seed in range(1, _SEEDS + 1):
            for veth, values in zip((ours, theirs), found, strict=True):
                with _server(_wire(veth, seed)):
                    values.append(_load("gbit", veth, "out", 8 * settings.seconds) * 1000)
    stack, kernel = (statistics.median(values) for values in found)
    met = stack >= 0.95 * kernel
    return [Result("goodput at 1 % loss, 1 ms", "Mb/s", stack, ">= 0.95 x", met, kernel)]


def _idle(settings: Settings) -> list[Result]:
    """What an idle stack costs, and how soon it answers: after 2 ms, when it sleeps, and after
    100 ms, when the machine's cores sleep too, the client's and the kernel's among them."""
    rows = []
    with (
        Veth("n", bare=True, network="198.18.1") as ours,
        Veth("k", bare=False, network="198.18.2") as theirs,
        _server(_stack_server(ours, _device("af_packet"))) as server,
        _server(_kernel_server(theirs)),
    ):
        time.sleep(1)
        before, start = _cpu_seconds(server.pid), time.monotonic()
        time.sleep(3)
        share = (_cpu_seconds(server.pid) - before) / (time.monotonic() - start)
        rows.append(Result("idle, af_packet", "% of a core", share * 100, "< 1 %", share < 0.01))
        for idle_ms, count in ((2, 200), (100, 10)):
            stack, kernel = _alternate(
                settings,
                *(_measure("p50_us", veth, "first", count, idle_ms) for veth in (ours, theirs)),
            )
            title = f"first request after {idle_ms} ms"
            rows.append(Result(title, "us", stack, "<= 60 us", stack <= 60, kernel))
    return rows


def _cpu_seconds(pid: int) -> float:
    """Of a process and all its threads; `ip netns exec` becomes the program that it starts."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _memif(settings: Settings) -> list[Result]:
    rows = []
    for mtu, least in ((1500, 12), (9000, 30)):
        found = _program("bench_memif", f"slices={settings.slices}", f"mtu={mtu}")
        if mtu == 1500:
            p50 = found["echo_p50_us"]
            title = "memif, two processes, 64 B echo"
            rows.append(Result(title, "us", p50, "<= 2 us", p50 <= 2))
        rate = found["bulk_gbit_per_s"]
        title = f"memif, two processes, MTU {mtu}"
        rows.append(Result(title, "Gb/s", rate, f">= {least} Gb/s", rate >= least))
    return rows


def _connections(settings: Settings) -> list[Result]:
    found = _program("bench_conn", f"slices={settings.slices}", core=_SERVER_CORE)
    rate = found["connections_per_s"]
    return [Result("new connections, in memory", "/s", rate, ">= 200 k/s", rate >= 200_000)]


def _many(settings: Settings) -> list[Result]:
    found = _program("bench_idle", core=_SERVER_CORE)
    size = found["malloc_bytes"]
    return [Result("100,000 idle connections", "B each", size, "<= 1 KB", size <= 1024)]


CASES = [
    Case(
        "echo-64",
        "64 B there and back, a kernel client over veth",
        "p50 <= 0.6 of kernel to kernel, and <= 35 us",
        _echo(64, 0.6, 35),
    ),
    Case(
        "echo-16k",
        "16 KiB there and back",
        "p50 <= 1.05 of kernel to kernel",
        _echo(16384, 1.05, None),
    ),
    Case(
        "bulk",
        "one flow in, one out",
        "of kernel to kernel: af_xdp >= 0.7 in, 0.55 out; af_packet 0.5, 0.35",
        _bulk,
    ),
    Case("ceiling", "one flow out beside what the port can send", ">= 0.85", _ceiling),
    Case(
        "loss",
        f"one flow out at 1 % loss and 1 ms there and back, median of {_SEEDS} seeds",
        ">= 0.95 of kernel to kernel (CUBIC, SACK)",
        _loss,
    ),
    Case(
        "idle",
        "an idle stack, and the first request after that",
        "< 1 % of a core; <= 60 us",
        _idle,
    ),
    Case("memif", "stack to stack between two processes", "<= 2 us; 12 and 30 Gb/s", _memif),
    Case("connections", "open, one exchange, close, in memory", ">= 200 k/s", _connections),
    Case("many", "100,000 open idle connections", "<= 1 KB each", _many),
]
