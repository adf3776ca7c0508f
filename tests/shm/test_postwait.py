"""The post/wait pair, checked exhaustively: spin tries every interleaving of postwait.pml."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).with_name("postwait.pml")

SOUND = [(), ("TWO_LINKS",), ("SPACE",)]
# What each of these leaves out is needed: without it the checker finds the sleeper nobody wakes.
BROKEN = [
    ("NO_POST_FENCE",),
    ("NO_ARM_FENCE",),
    ("TWO_LINKS", "NO_POST_FENCE"),
    ("TWO_LINKS", "NO_ARM_FENCE"),
    ("SPACE", "NO_DISARM_FENCE"),
    ("SPACE", "RING_ONLY_SLEEPERS"),
]

pytestmark = pytest.mark.skipif(
    not os.environ.get("CI") and None in (shutil.which("spin"), shutil.which("cc")),
    reason="needs the model checker spin and a C compiler",
)


def check(tmp_path: Path, options: tuple[str, ...]) -> tuple[int, str]:
    """How many errors there are, and the checker's report."""
    defines = [f"-D{option}" for option in options]
    subprocess.run(["spin", *defines, "-a", MODEL], cwd=tmp_path, check=True, timeout=60)
    compile_pan = ["cc", "-w", "-O2", "-DSAFETY", "-DCOLLAPSE", "-o", "pan", "pan.c"]
    subprocess.run(compile_pan, cwd=tmp_path, check=True, timeout=120)
    done = subprocess.run(
        ["./pan", "-m100000"], cwd=tmp_path, check=True, timeout=300, capture_output=True, text=True
    )
    errors = re.search(r"errors: (\d+)", done.stdout)
    assert errors is not None, done.stdout
    # A search that was cut short proves nothing.
    assert "max search depth too small" not in done.stdout
    assert options in BROKEN or "Search not completed" not in done.stdout
    return int(errors[1]), done.stdout


@pytest.mark.timeout(400)
@pytest.mark.parametrize("options", SOUND, ids="-".join)
def test_no_wakeup_is_lost(tmp_path: Path, options: tuple[str, ...]) -> None:
    errors, report = check(tmp_path, options)
    assert errors == 0, report


@pytest.mark.timeout(400)
@pytest.mark.parametrize("options", BROKEN, ids="-".join)
def test_each_part_is_needed(tmp_path: Path, options: tuple[str, ...]) -> None:
    errors, report = check(tmp_path, options)
    assert errors > 0, report
    assert "pan:1: invalid end state" in report, report
