"""The command line of ``zerohop bench``."""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from zerohop.bench import backends, machine, plot, raw_iceoryx2, report, stubs
from zerohop.bench.cases import CASES, Case, select
from zerohop.bench.idle import run_idle
from zerohop.bench.kills import run_kills
from zerohop.bench.local import run_local
from zerohop.bench.net.cli import main as net
from zerohop.bench.peers import ENDING, PeerFailed
from zerohop.bench.results import CaseResult, RunResult
from zerohop.bench.runner import Settings, Workplace, run_case

_EPILOG = """\
examples:
  zerohop bench                              every case; takes some minutes
  zerohop bench --quick                      the same with few, short slices: a first look
  zerohop bench --case unary-inline --case 'aio-*'
  zerohop bench --case 'gen-*'               only cases with generated messages alone
  zerohop bench --case 'size-*' --json sizes.json --plot sizes.png
  zerohop bench --case chain --spin-us 20    another spin time for zerohop
  zerohop bench --list                       the cases and their targets
  zerohop bench net --help                   the TCP/IP stack beside the kernel's

Where other processes take more than 10 % of the CPU meanwhile, the run says that it is no
measurement. The exit code is 0 all the same, and whether or not targets are met; it is 1 where
zerohop or grpcio failed."""

_RUNNERS = {"idle": run_idle, "kill": run_kills, "local": run_local}
_PACKAGES = {"idle": ("grpc_health", "grpcio-health-checking"), "fill": ("numpy", "numpy")}

_LONGEST_FOLDER = 60
"""A unix socket's path holds 107 bytes, and ours add up to 40 to the folder's."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["net"]:
        return net(arguments[1:])
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list:
        print(_listing())
        return 0
    try:
        cases = select(options.case)
    except ValueError as error:
        parser.error(str(error))
    for path in (options.json, options.plot):
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"there is no folder {path.parent} for {path.name}")
    if options.plot and options.plot.suffix not in plot.FORMATS:
        parser.error(f"--plot draws {', '.join(plot.FORMATS)}, not {options.plot.name}")
    if options.plot and (reason := plot.missing()):
        print(f"zerohop bench: {reason}", file=sys.stderr)
        return 1
    settings = _settings(options)
    run = RunResult(
        machine=machine.facts(),
        settings={
            **dataclasses.asdict(settings),
            "quick": options.quick,
            "environment": _environment(),
        },
        absent=_absent(options.backend),
    )
    print("\n".join(report.heading(run)), flush=True)
    try:
        with _workplace(settings, generated="zerohop" not in run.absent) as place:
            _run(place, cases, run)
    except stubs.StubsMissing as error:
        print(f"zerohop bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        run.interrupted = True
    print("\n" + report.table(run), flush=True)
    failed = _write(run, options.json, options.plot)
    return 130 if run.interrupted else failed or int(bool(run.failures))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zerohop bench",
        description="Measures zerohop against grpcio on a unix socket, and against iceoryx2 and "
        "pyzmq where they are installed, on this machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--case", action="append", default=[], metavar="NAME", help="only this case (or glob)")
    add("--list", action="store_true", help="name the cases and their targets, and end")
    add(
        "--backend", action="append", default=[], choices=backends.NAMES,
        help="only this one (may be given again)",
    )  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write everything that was found")
    add("--plot", type=Path, metavar="FILE", help=f"draw a chart ({', '.join(plot.FORMATS)})")
    add("--slice-ms", type=_positive, metavar="MS", help="length of a slice (200)")
    add("--slices", type=_positive, metavar="N", help="slices of each variant (15)")
    add("--quick", action="store_true", help="5 slices of 50 ms: to see that it works")
    add(
        "--spin-us", type=_not_negative, metavar="US",
        help="how long zerohop spins before it sleeps (ZEROHOP_SPIN_US; 0: not at all)",
    )  # fmt: skip
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("at least 0")
    return value


def _settings(options: argparse.Namespace) -> Settings:
    base = Settings(spin_us=options.spin_us)
    if options.quick:
        base = dataclasses.replace(
            base, slice_ms=50, slices=5, warmup=1, idle_s=1.0, idle_clients=3, kills=3
        )
    return dataclasses.replace(
        base,
        slice_ms=options.slice_ms or base.slice_ms,
        slices=options.slices or base.slices,
    )


def _environment() -> dict[str, str]:
    """What the user's environment tells zerohop; checks and traces would be measured too."""
    return {name: text for name, text in os.environ.items() if name.startswith("ZEROHOP_")}


def _listing() -> str:
    lines = []
    for case in CASES:
        lines.append(f"{case.name:<20} {case.title}")
        lines += [f"{'':<22}{case.text(target)}" for target in case.targets]
    return "\n".join(lines)


def _absent(wanted: Sequence[str]) -> dict[str, str]:
    """Backends that are left out, and why."""
    absent = {}
    for name in backends.NAMES:
        if wanted and name not in wanted:
            absent[name] = "not asked for (--backend)"
        elif (reason := backends.missing(name)) is not None:
            absent[name] = reason
    if reason := absent.get("zerohop") or backends.run_missing():
        absent["zerohop run"] = reason
    return absent


@contextlib.contextmanager
def _workplace(settings: Settings, generated: bool) -> Iterator[Workplace]:
    """The run's own folder with the compiled stubs; whatever ends the run, nothing stays."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    folder = Path(tempfile.mkdtemp(prefix="zerohop-bench-"))
    if len(str(folder)) > _LONGEST_FOLDER:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="zerohop-bench-", dir="/tmp"))
    before = {number: signal.signal(number, interrupt) for number in ENDING}
    try:
        (folder / "registry").mkdir(mode=0o700)
        made = folder / "stubs"
        made.mkdir()
        stubs.compile_into(made)
        if generated:
            stubs.generate_into(made)
        yield Workplace(folder, made, settings, settings.environment(folder))
    finally:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        shutil.rmtree(folder, ignore_errors=True)
        raw_iceoryx2.remove_files()
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(place: Workplace, cases: Sequence[Case], run: RunResult) -> None:
    for number, case in enumerate(cases, 1):
        label = f"[{number:>2}/{len(cases)}] {case.name}"
        progress = _Progress(label)
        variants = [one for one in case.variants if one.needs not in run.absent]
        if not variants:
            reasons = {f"{name}: {run.absent[name]}" for name in {v.needs for v in case.variants}}
            result = CaseResult(case, skipped="; ".join(sorted(reasons)))
        elif reason := _packages_missing(case):
            result = CaseResult(case, skipped=reason)
        else:
            try:
                measure = _RUNNERS.get(case.loop, run_case)
                result = measure(place, case, variants, progress)
            except PeerFailed as error:  # of a helper: a variant's own failure is in its result
                result = CaseResult(case, skipped=str(error))
        run.cases.append(result)
        run.others_share = place.ticks.share
        progress.done(result)


def _packages_missing(case: Case) -> str | None:
    module, package = _PACKAGES.get(case.loop, ("", ""))
    if not module or importlib.util.find_spec(module) is not None:
        return None
    return f"needs {package}: pip install 'zerohop[bench]'"


class _Progress:
    """One line a case: rewritten on a terminal, written once elsewhere."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._rewrites = sys.stderr.isatty()

    def __call__(self, what: str) -> None:
        if self._rewrites:
            print(f"\r\033[K{self._label}: {what}", end="", file=sys.stderr, flush=True)

    def done(self, result: CaseResult) -> None:
        start = "\r\033[K" if self._rewrites else ""
        if result.skipped is not None:
            what = "skipped"
        else:
            what = ", ".join(
                f"{one.variant.label} {'failed' if one.error else 'done'}"
                for one in result.variants
            )
            what += f"; others took {result.others_share:.1%} of the CPU"
        print(f"{start}{self._label}: {what}", file=sys.stderr, flush=True)


def _write(run: RunResult, json_path: Path | None, plot_path: Path | None) -> int:
    """Writes the files that were asked for; 1 where that fails."""
    try:
        if json_path is not None:
            json_path.write_text(json.dumps(report.as_json(run), indent=2) + "\n")
            print(f"Written: {json_path}")
        if plot_path is not None and run.cases:
            plot.draw(run, plot_path)
            print(f"Drawn: {plot_path}")
    except (OSError, ValueError) as error:
        print(f"zerohop bench: {error}", file=sys.stderr)
        return 1
    return 0
