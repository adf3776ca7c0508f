"""The table of cases: what is compared with what, and which target each has.

Targets are for two cores. A case's variants take turns in slices within one run.
"""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

POOL = 10
"""Threads of a server that has a pool: what grpcio's own examples use."""

Loop = Literal[
    "unary", "futures", "callbacks", "stream", "aio", "aio-many", "aio-stream", "idle", "kill"
]
Fault = Literal["", "reader", "peer", "hoarder"]
Metric = Literal[
    "p50", "p99", "max", "rate", "times_below", "slowdown", "kept", "cpu", "rss", "shm"
]

_METRICS: Mapping[Metric, tuple[str, str]] = {
    "p50": ("<=", "p50 {sign} {limit:g} us"),
    "p99": ("<=", "p99 {sign} {limit:g} us"),
    "max": ("<=", "max {sign} {limit:g} ms"),
    "rate": (">=", "{sign} {limit:,.0f} /s"),
    "times_below": (">=", "{sign} {limit:g} x below {against}"),
    "slowdown": ("<=", "time {sign} {limit:g} x {against}"),
    "kept": (">=", "rate {sign} {limit:g} x {against}"),
    "cpu": ("<", "CPU {sign} {limit:g} %"),
    "rss": ("<", "RSS {sign} {limit:g} MB above import grpc"),
    "shm": ("<", "shared memory {sign} {limit:g} MiB"),
}


@dataclass(frozen=True)
class Target:
    """One limit that one variant of a case has to keep."""

    metric: Metric
    limit: float
    against: str = ""
    variant: str = "zerohop"

    @property
    def text(self) -> str:
        sign, form = _METRICS[self.metric]
        return form.format(sign=sign, limit=self.limit, against=self.against)

    def met(self, value: float) -> bool:
        sign = _METRICS[self.metric][0]
        if sign == "<":
            return value < self.limit
        return value <= self.limit if sign == "<=" else value >= self.limit


@dataclass(frozen=True)
class Variant:
    """One side of a comparison: its own server and client processes."""

    label: str
    backend: str
    pool: int = 0
    """Threads of a sync server; 0: ``server()`` without a pool (handlers run inline)."""
    tcp: bool = False
    """The address is 127.0.0.1:PORT, as an ordinary grpcio program has it."""
    under_run: bool = False
    """Server and client are plain grpcio programs, started by ``zerohop run``."""
    tune_malloc: bool = False
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    fault: Fault = ""
    """What another client of the same server does wrong meanwhile (``faults.py``)."""
    raw: bool = False
    """Bytes without protobuf or RPC: what the machine can do, not a rival."""


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    loop: Loop
    variants: Sequence[Variant]
    targets: Sequence[Target] = ()
    size: int = 64
    inflight: int = 1
    hops: int = 1
    busy: bool = False
    """One more process runs an endless loop meanwhile."""
    cores: int = 0
    """The processes are kept on that many cores; 0: wherever the system puts them."""
    group: Literal["table", "sizes"] = "table"
    timed: bool = True
    """Latencies are what counts (else the rate)."""


ZEROHOP = Variant("zerohop", "zerohop")
ZEROHOP_POOL = Variant("zerohop", "zerohop", pool=POOL)
GRPCIO = Variant("grpcio", "grpcio", pool=POOL)
WITH, WITHOUT = "with the fault", "without the fault"
ICEORYX2 = Variant("iceoryx2 (raw bytes)", "iceoryx2", raw=True)
ZMQ = Variant("pyzmq (raw bytes)", "zmq", raw=True)


def _fault(
    name: str, title: str, fault: Fault, env: Mapping[str, str] = MappingProxyType({})
) -> Case:
    """What another client's fault leaves of the rate of a client that does all right."""
    return Case(
        f"fault-{name}", f"unary 64 B, sync, inline, beside {title}", "unary",
        (
            Variant(WITH, "zerohop", fault=fault, env=env),
            Variant(WITHOUT, "zerohop", env=env),
        ),
        (Target("kept", 0.8, WITHOUT, variant=WITH),),
    )  # fmt: skip


_TABLE = (
    Case(
        "unary-inline", "unary 64 B, sync, one in flight, inline handler", "unary",
        (ZEROHOP, GRPCIO),
        (Target("p50", 8), Target("p99", 50), Target("times_below", 60, "grpcio")),
    ),
    Case(
        "unary-pool", f"unary 64 B, sync, server with a pool of {POOL} threads", "unary",
        (ZEROHOP_POOL, GRPCIO),
        (Target("p50", 20),),
    ),
    Case(
        "unary-busy", "unary 64 B, sync, inline, a third process busy", "unary",
        (ZEROHOP, GRPCIO),
        (Target("p50", 25),),
        busy=True,
    ),
    Case(
        "run", f"unmodified grpcio programs, 64 B, pool of {POOL}, `zerohop run`", "unary",
        (
            Variant("zerohop run", "grpcio", pool=POOL, tcp=True, under_run=True),
            Variant("grpcio", "grpcio", pool=POOL, tcp=True),
        ),
        (Target("times_below", 20, "grpcio", variant="zerohop run"),),
    ),
    Case(
        "futures", "unary 64 B, 64 in flight, futures", "futures",
        (ZEROHOP, GRPCIO),
        (Target("rate", 100_000),),
        inflight=64, timed=False,
    ),
    Case(
        "callbacks", "unary 64 B, 64 in flight, futures with done-callbacks", "callbacks",
        (ZEROHOP, GRPCIO),
        (Target("rate", 60_000),),
        inflight=64, timed=False,
    ),
    Case(
        "aio-one", "asyncio client and server, 64 B, one in flight", "aio",
        (ZEROHOP, GRPCIO),
        (Target("p50", 20),),
    ),
    Case(
        "aio-many", "asyncio client and server, 64 B, 64 in flight", "aio-many",
        (ZEROHOP, GRPCIO),
        (Target("rate", 80_000),),
        inflight=64, timed=False,
    ),
    Case(
        "stream-sync", "server stream of 64 B messages, sync", "stream",
        (ZEROHOP, GRPCIO),
        (Target("rate", 300_000),),
        timed=False,
    ),
    Case(
        "stream-aio", "server stream of 64 B messages, asyncio", "aio-stream",
        (ZEROHOP, GRPCIO),
        (Target("rate", 100_000),),
        timed=False,
    ),
    Case(
        "echo-1m", "1 MiB echo, sync, one in flight", "unary",
        (ZEROHOP, GRPCIO),
        (Target("slowdown", 1.25, "grpcio"),),
        size=1 << 20,
    ),
    Case(
        "echo-1m-tuned", "1 MiB echo, zerohop.tune_malloc() on our two sides", "unary",
        (Variant("zerohop", "zerohop", tune_malloc=True), GRPCIO),
        (Target("times_below", 3, "grpcio"),),
        size=1 << 20,
    ),
    Case(
        "chain", "chain of 4 hops on 2 cores, spinning on and off", "unary",
        (
            ZEROHOP,
            Variant("no spinning", "zerohop", env=MappingProxyType({"ZEROHOP_SPIN_US": "0"})),
            GRPCIO,
        ),
        (Target("slowdown", 1.0, "no spinning"),),
        hops=4, cores=2,
    ),
    Case(
        "idle", "idle server, 10 idle clients, each with an open health Watch", "idle",
        (ZEROHOP, GRPCIO),
        (Target("cpu", 1), Target("rss", 15), Target("shm", 4)),
        inflight=10, timed=False,
    ),
    _fault("stopped-reader", "a client that stops reading its streams", "reader"),
    _fault("stopped-peer", "a client that is stopped in its calls and streams", "peer"),
    _fault(
        "hoarder", "a client that keeps all that it is lent", "hoarder",
        MappingProxyType({"ZEROHOP_ARENA_LIMIT": str(64 << 20)}),
    ),
    Case(
        "fault-kill", "SIGKILL of the server until a call's UNAVAILABLE, 16 B", "kill",
        (ZEROHOP_POOL, GRPCIO),
        (Target("max", 20),),
        size=16,
    ),
    Case(
        "fault-kill-1m", "the same after messages of 1 MiB, and in a call of that size", "kill",
        (ZEROHOP_POOL, GRPCIO),
        (Target("max", 20),),
        size=1 << 20,
    ),
)  # fmt: skip

_SIZES = {
    "64B": 64,
    "1KiB": 1 << 10,
    "16KiB": 1 << 14,
    "64KiB": 1 << 16,
    "1MiB": 1 << 20,
    "16MiB": 1 << 24,
}


def _sweep() -> Iterable[Case]:
    everybody = (ZEROHOP, GRPCIO, ICEORYX2, ZMQ)
    for text, size in _SIZES.items():
        yield Case(
            f"size-unary-{text}", f"unary, {text}, sync, one in flight", "unary",
            everybody, size=size, group="sizes",
        )  # fmt: skip
    for text, size in _SIZES.items():
        yield Case(
            f"size-stream-{text}", f"server stream, {text}, sync", "stream",
            everybody, size=size, group="sizes", timed=False,
        )  # fmt: skip


CASES: Sequence[Case] = (*_TABLE, *_sweep())


def select(patterns: Sequence[str]) -> list[Case]:
    """The cases whose names match one of the globs, in the table's order; all without a glob."""
    if not patterns:
        return list(CASES)
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(case.name, pattern) for case in CASES):
            raise ValueError(f"no case matches {pattern!r}; `zerohop bench --list` names them")
    return [
        case for case in CASES if any(fnmatch.fnmatchcase(case.name, glob) for glob in patterns)
    ]
