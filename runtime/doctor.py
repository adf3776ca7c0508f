"""`zerohop doctor`: what this machine can do, and what stands in the way.

Each check tries the thing itself, where that is possible, and a failure says what to do.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

Status = Literal["ok", "warn", "FAIL"]

EPILOG = """\
ok: works. warn: works, with a drawback that is named. FAIL: calls cannot take the short way.
The exit status is 1 if a check failed.

examples:
  zerohop doctor
  zerohop doctor --json
  docker run ... zerohop doctor      # what a container can do
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What a check found: one line, and for all but `ok` what to do about it."""

    status: Status
    found: str
    advice: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """A result with the name of its check."""

    name: str
    result: Result


Probe = Callable[[], Result]


def ok(found: str, advice: str = "") -> Result:
    """It works; `advice` is a hint then."""
    return Result("ok", found, advice)


def warn(found: str, advice: str) -> Result:
    """It works, with a drawback."""
    return Result("warn", found, advice)


def fail(found: str, advice: str) -> Result:
    """Calls cannot take the short way."""
    return Result("FAIL", found, advice)


def examine(probes: Sequence[tuple[str, Probe]] | None = None) -> Iterator[Check]:
    """Run the probes one after another. None of them raises."""
    if probes is None:
        from zerohop.probes import PROBES

        probes = PROBES
    for name, probe in probes:
        try:
            result = probe()
        except Exception as error:
            result = fail(
                f"{type(error).__name__}: {error}",
                "This check itself failed; please report it with the output of zerohop doctor.",
            )
        yield Check(name, result)


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="zerohop doctor",
        description="Say what this machine can do, and what stands in the way.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    options = parser.parse_args(argv)
    checks = []
    for check in examine():
        checks.append(check)
        if not options.json:
            print(line(check), flush=True)
    statuses = [check.result.status for check in checks]
    if options.json:
        print(json.dumps(document(checks), indent=2))
    else:
        print(f"\n{summary(statuses.count('FAIL'), statuses.count('warn'))}")
    return 1 if "FAIL" in statuses else 0


def summary(failed: int, warned: int) -> str:
    """The last line."""
    if failed:
        return f"{failed} failed: calls go over grpcio until that is mended."
    if warned:
        return f"Calls take the short way. Warnings: {warned}."
    return "Calls take the short way."


def line(check: Check) -> str:
    """One check on one line, so that `| grep FAIL` keeps the advice."""
    result = check.result
    text = f"{result.status:<4}  {check.name}: {result.found}"
    return f"{text} -> {result.advice}" if result.advice else text


def document(checks: Sequence[Check]) -> dict[str, object]:
    """What --json prints."""
    return {
        "ok": all(check.result.status != "FAIL" for check in checks),
        "checks": [{"name": c.name, **dataclasses.asdict(c.result)} for c in checks],
    }
