"""The command line of ``zerohop bench net``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from zerohop.bench import machine
from zerohop.bench.net.cases import CASES, Failed, Result, Settings
from zerohop.bench.net.veth import VethError, missing

_EPILOG = """\
examples:
  zerohop bench net                          every case; takes some minutes, as root
  zerohop bench net --case 'echo-*'
  zerohop bench net --quick --json net.json

Client and server are pinned to a core each; what is compared takes turns in one run. Figures of a
run beside another load are no measurement: the last column says what share others had."""

_ROW = "  {:<34} {:>12} {:>12} {:>9}  {:<30} {}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="zerohop bench net",
        description="Measures the TCP/IP stack on DPDK beside the kernel's, over veth pairs in "
        "network namespaces of its own, and stack to stack.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--case", action="append", default=[], metavar="NAME", help="only this case (or glob)")
    add("--list", action="store_true", help="name the cases and their targets, and end")
    add("--json", type=Path, metavar="FILE", help="write everything that was found")
    add("--quick", action="store_true", help="few, short slices: to see that it works")
    options = parser.parse_args(argv)
    if options.list:
        for case in CASES:
            print(f"{case.name:<16} {case.title}\n{'':<18}target: {case.target}")
        return 0
    chosen = [case for case in CASES if case.is_chosen(options.case)]
    if not chosen:
        parser.error(f"no case is called {', '.join(options.case)}; --list names them")
    if reason := missing():
        print(f"zerohop bench net: {reason}", file=sys.stderr)
        return 1
    facts = machine.facts()
    print(f"{facts['cpu']}, {facts['cores_allowed']} cores, Linux {facts['kernel']}")
    print(_ROW.format("", "stack", "kernel", "ratio", "target", "others").rstrip(), flush=True)
    settings = Settings(slices=3, seconds=0.3) if options.quick else Settings()
    results: list[Result] = []
    failed = False
    meter = machine.CpuMeter()
    try:
        for case in chosen:
            print(f"{case.name} ...", end="\r", file=sys.stderr, flush=True)
            before = meter.sample()
            try:
                found = case.run(settings)
            except (Failed, VethError) as error:
                print(f"zerohop bench net: {case.name}: {error}", file=sys.stderr)
                failed = True
                continue
            others = machine.others_share(before, meter.sample())
            for result in found:
                results.append(result)
                print(_line(result, others), flush=True)
    except KeyboardInterrupt:
        return 130
    if options.json:
        options.json.write_text(
            json.dumps({"machine": facts, "results": [vars(one) for one in results]}, indent=2)
            + "\n"
        )
    return int(failed)


def _line(result: Result, others: float) -> str:
    verdict = "" if result.met is None else ("met" if result.met else "MISSED")
    return _ROW.format(
        result.title,
        result.figure(result.stack),
        result.figure(result.kernel),
        "" if result.ratio is None else f"{result.ratio:.2f}",
        f"{result.target} {verdict}".strip(),
        f"{others:.1%}",
    ).rstrip()
