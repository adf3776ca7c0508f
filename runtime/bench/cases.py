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
    "unary", "futures", "callbacks", "stream", "aio", "aio-many", "aio-stream", "idle", "kill",
    "ends", "fill", "local",
]  # fmt: skip
Fault = Literal["", "reader", "peer", "hoarder"]
Metric = Literal[
    "p50",
    "p99",
    "max",
    "rate",
    "times_below",
    "slowdown",
    "kept",
    "copied",
    "ns",
    "cpu",
    "rss",
    "shm",
]

_METRICS: Mapping[Metric, tuple[str, str]] = {
    "p50": ("<=", "p50 {sign} {limit:g} us"),
    "p99": ("<=", "p99 {sign} {limit:g} us"),
    "max": ("<=", "max {sign} {limit:g} ms"),
    "rate": (">=", "{sign} {limit:,.0f} /s"),
    "times_below": (">=", "{sign} {limit:g} x below {against}"),
    "slowdown": ("<=", "time {sign} {limit:g} x {against}"),
    "kept": (">=", "rate {sign} {limit:g} x {against}"),
    "copied": ("<=", "{limit:g} bytes copied"),
    "ns": ("<=", "{sign} {limit:g} ns"),
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
    generated: bool = False
    """The messages, stubs and servicers of ``zerohop.protoc`` in place of stock ones."""
    size: int = 0
    """Bytes of a message, where the variants of a case differ in that."""
    side: str = ""
    """What a loop in one process works on."""
    alone: bool = False
    """A process without a server."""
    raw: bool = False
    """Bytes without protobuf or RPC: what the machine can do, not a rival."""

    @property
    def needs(self) -> str:
        """What has to be there for it, as a run's ``absent`` names it."""
        if self.side or self.alone:  # there for comparison with zerohop in the same case only
            return "zerohop"
        return "zerohop run" if self.under_run else self.backend


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
    work: str = ""
    """What a loop in one process does (``local_loops.WORK``), or what one that fills sums."""
    group: Literal["table", "sizes", "local"] = "table"
    timed: bool = True
    """Latencies are what counts (else the rate)."""

    def size_of(self, variant: Variant) -> int:
        return variant.size or self.size

    def text(self, target: Target) -> str:
        """The target, and whose it is, unless it is the first variant's."""
        if target.variant == self.variants[0].label:
            return target.text
        return f"{target.variant.removeprefix('zerohop ')}: {target.text}"


ZEROHOP = Variant("zerohop", "zerohop")
ZEROHOP_POOL = Variant("zerohop", "zerohop", pool=POOL)
GRPCIO = Variant("grpcio", "grpcio", pool=POOL)
WITH, WITHOUT = "with the fault", "without the fault"
GENERATED = Variant("zerohop generated", "zerohop", generated=True)
GENERATED_POOL = Variant("zerohop generated", "zerohop", pool=POOL, generated=True)
ICEORYX2 = Variant("iceoryx2 (raw bytes)", "iceoryx2", raw=True)
ZMQ = Variant("pyzmq (raw bytes)", "zmq", raw=True)


def _generated(metric: Metric, limit: float, against: str = "") -> Target:
    return Target(metric, limit, against, variant=GENERATED.label)


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
        (ZEROHOP, GENERATED, GRPCIO),
        (
            Target("p50", 8), Target("p99", 50), Target("times_below", 60, "grpcio"),
            _generated("p50", 3), _generated("p99", 25),
            _generated("times_below", 150, "grpcio"), _generated("copied", 0),
        ),
    ),
    Case(
        "unary-pool", f"unary 64 B, sync, server with a pool of {POOL} threads", "unary",
        (ZEROHOP_POOL, GENERATED_POOL, GRPCIO),
        (Target("p50", 20), _generated("p50", 12)),
    ),
    Case(
        "unary-busy", "unary 64 B, sync, inline, a third process busy", "unary",
        (ZEROHOP, GENERATED, GRPCIO),
        (Target("p50", 25), _generated("p50", 15)),
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
        (ZEROHOP, GENERATED, GRPCIO),
        (Target("rate", 100_000), _generated("rate", 250_000)),
        inflight=64, timed=False,
    ),
    Case(
        "callbacks", "unary 64 B, 64 in flight, futures with done-callbacks", "callbacks",
        (ZEROHOP, GENERATED, GRPCIO),
        (Target("rate", 60_000), _generated("rate", 120_000)),
        inflight=64, timed=False,
    ),
    Case(
        "aio-one", "asyncio client and server, 64 B, one in flight", "aio",
        (ZEROHOP, GENERATED, GRPCIO),
        (Target("p50", 20), _generated("p50", 15)),
    ),
    Case(
        "aio-many", "asyncio client and server, 64 B, 64 in flight", "aio-many",
        (ZEROHOP, GENERATED, GRPCIO),
        (Target("rate", 80_000), _generated("rate", 120_000), _generated("copied", 0)),
        inflight=64, timed=False,
    ),
    Case(
        "stream-sync", "server stream of 64 B messages, sync", "stream",
        (ZEROHOP, GENERATED, GRPCIO),
        (Target("rate", 300_000), _generated("rate", 700_000), _generated("copied", 0)),
        timed=False,
    ),
    Case(
        "stream-aio", "server stream of 64 B messages, asyncio", "aio-stream",
        (ZEROHOP, GENERATED, GRPCIO),
        (Target("rate", 100_000), _generated("rate", 150_000)),
        timed=False,
    ),
    Case(
        "echo-1m", "1 MiB echo, sync, one in flight", "unary",
        (ZEROHOP, GENERATED, GRPCIO),
        (
            Target("slowdown", 1.25, "grpcio"),
            _generated("times_below", 50, "grpcio"),
            _generated("copied", 0),
        ),
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
    everybody = (ZEROHOP, GENERATED, GRPCIO, ICEORYX2, ZMQ)
    targets = (_generated("copied", 0),)
    for text, size in _SIZES.items():
        yield Case(
            f"size-unary-{text}", f"unary, {text}, sync, one in flight", "unary",
            everybody, targets, size=size, group="sizes",
        )  # fmt: skip
    for text, size in _SIZES.items():
        yield Case(
            f"size-stream-{text}", f"server stream, {text}, sync", "stream",
            everybody, targets, size=size, group="sizes", timed=False,
        )  # fmt: skip


# Generated messages in place: what is sent is filled where it lies.

_ENDS = tuple(
    Variant(text, "zerohop", generated=True, size=size)
    for text, size in (("64 B", 64), ("1 MiB", 1 << 20), ("16 MiB", 1 << 24))
)
_ONE_PROCESS = Variant("one process", "numpy", alone=True)


def _in_place() -> Iterable[Case]:
    yield Case(
        "gen-large", "generated, unary, buffer from alloc, filled before, both ends read", "ends",
        _ENDS,
        (
            *(Target("slowdown", 1.5, _ENDS[0].label, variant.label) for variant in _ENDS[1:]),
            *(Target("copied", 0, variant=variant.label) for variant in _ENDS),
        ),
    )  # fmt: skip
    for parts in ("bytes", "words"):
        for mib in (1, 16):
            yield Case(
                f"gen-fill-{parts}-{mib}m",
                f"generated, unary {mib} MiB: alloc, memset, and numpy's sum of the {parts}",
                "fill", (GENERATED, _ONE_PROCESS),
                (_generated("slowdown", 1.2, _ONE_PROCESS.label), _generated("copied", 0)),
                size=mib << 20, work=parts,
            )  # fmt: skip


# Generated messages in one process, beside upb's.

_BUILT = Variant(GENERATED.label, "zerohop", generated=True, side="zerohop")
_RECEIVED = Variant("received", "zerohop", generated=True, side="received")
_UPB = Variant("upb", "protobuf", side="upb")


def _local(name: str, title: str, *variants: Variant, ns: float = 0) -> Case:
    ours = [variant.label for variant in variants if variant is not _UPB]
    return Case(
        f"gen-{name}", f"in one process: {title}", "local", variants,
        tuple(
            Target("ns", ns, variant=label) if ns else Target("slowdown", 1, _UPB.label, label)
            for label in ours
        ),
        work=name, group="local", timed=False,
    )  # fmt: skip


_LOCAL = (
    _local("get-scalar", "get a uint64 field", _BUILT, _RECEIVED, _UPB, ns=35),
    _local("get-string", "get a string of 20 characters", _BUILT, _RECEIVED, _UPB, ns=60),
    _local("get-bytes", "get a bytes field of 64 B", _BUILT, _RECEIVED, _UPB, ns=100),
    _local("construct", "construct with these three fields", _BUILT, _UPB, ns=300),
    _local("serialize-record", "serialize these three fields", _BUILT, _RECEIVED, _UPB),
    _local("serialize-records", "serialize 100 of them and a map of 20", _BUILT, _UPB),
    _local("serialize-numbers", "serialize 1,000 doubles, 1,000 int64", _BUILT, _UPB),
    _local("parse-record", "parse these three fields", _BUILT, _UPB),
    _local("parse-records", "parse 100 of them and a map of 20", _BUILT, _UPB),
    _local("parse-numbers", "parse 1,000 doubles, 1,000 int64", _BUILT, _UPB),
)

CASES: Sequence[Case] = (*_TABLE, *_in_place(), *_LOCAL, *_sweep())


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
