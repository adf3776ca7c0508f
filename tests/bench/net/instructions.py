"""Instructions per packet and per connection, as callgrind counts them: comparable between commits.

    python tests/bench/net/instructions.py BUILD [--functions 25]

Runs the programs of a build directory over the wire in memory and prints what each of the stack's
entry points costs for a unit of work, and the dearest functions. Wall-clock time depends on the
machine's other work; these figures do not.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Workload:
    name: str
    program: str
    function: str
    arguments: tuple[str, ...]
    units: int  # of work that the function does
    unit: str


MIB = 1 << 20
PAYLOAD = 1448
WORKLOADS = (
    Workload("bulk", "bench_packets", "bench_measured_bulk",
             ("slices=1", "bulk=16", "echo=0"), 16 * MIB // PAYLOAD, "segment"),
    Workload("echo", "bench_packets", "bench_measured_echo",
             ("slices=1", "bulk=0", "echo=2000"), 2000, "round trip"),
    Workload("conn", "bench_conn", "bench_measured",
             ("slices=1", "connections=2000"), 2000, "connection"),
)  # fmt: skip


def callgrind(build: Path, work: Workload, folder: Path) -> Path:
    out = folder / f"{work.name}.out"
    command = [
        "valgrind", "--tool=callgrind", f"--toggle-collect={work.function}",
        f"--callgrind-out-file={out}", str(build / "tests/bench/net" / work.program),
        *work.arguments,
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if found.returncode:
        sys.exit(f"{work.name}: {found.stderr}")
    return out


def table(out: Path, inclusive: bool) -> dict[str, int]:
    """Function to instructions."""
    found = subprocess.run(
        ["callgrind_annotate", "--threshold=100", "--auto=no", "--show-percs=no",
         f"--inclusive={'yes' if inclusive else 'no'}", str(out)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    costs: dict[str, int] = {}
    for line in found.splitlines():
        match = re.match(r"\s*([\d,]+)\s+(?:\S+?:)?([^\s\[]+)(?:\s+\[.*)?$", line)
        if match:
            costs[match[2]] = costs.get(match[2], 0) + int(match[1].replace(",", ""))
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=Path)
    parser.add_argument("--functions", type=int, default=12)
    parser.add_argument("--only", choices=[work.name for work in WORKLOADS])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for work in WORKLOADS:
            if options.only not in (None, work.name):
                continue
            out = callgrind(options.build, work, Path(folder))
            total, own = table(out, inclusive=True), table(out, inclusive=False)
            print(f"{work.name}: instructions per {work.unit}, both ends")
            for name in ("zh_net_input", "zh_net_poll", "zh_net_wait"):
                print(f"  {total.get(name, 0) / work.units:8.1f}  in {name}")
            print(f"  {sum(own.values()) / work.units:8.1f}  in all, the wire and the program too")
            dearest = sorted(own.items(), key=lambda item: -item[1])[: options.functions]
            for name, count in dearest:
                print(f"    {count / work.units:8.1f}  {name}")


if __name__ == "__main__":
    main()
