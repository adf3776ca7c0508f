"""make demo-net: that it runs, what it says, and that nothing of it stays."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "samples" / "net" / "demo.py"


def left_behind(pid: int) -> list[str]:
    """Namespaces and interfaces of a demo's."""
    said = "".join(
        subprocess.run(["ip", *what], capture_output=True, text=True, check=True).stdout
        for what in (["netns", "list"], ["-o", "link"])
    )
    return re.findall(rf"zhd{pid}\w+", said)


@pytest.mark.timeout(150)
def test_the_demo_compares_checksums_and_shows_figures(netns_here: None) -> None:
    process = subprocess.Popen(
        [sys.executable, DEMO], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    said, errors = process.communicate(timeout=140)
    assert process.returncode == 0, errors
    assert len(re.findall(r"sha256 [0-9a-f]+\.* equal", said)) == 2, said
    for what in ("echo of 64 bytes", "bulk in", "bulk out"):
        [line] = [line for line in said.splitlines() if what in line]
        assert all(float(number) > 0 for number in re.findall(r"\d+\.\d+", line))
    assert left_behind(process.pid) == []


def test_ctrl_c_leaves_nothing(netns_here: None) -> None:
    process = subprocess.Popen(
        [sys.executable, DEMO], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    until = time.monotonic() + 30
    while not left_behind(process.pid) and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert left_behind(process.pid) == []


def test_without_root_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("net_demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", [str(DEMO)])
    monkeypatch.setattr(module.signal, "signal", lambda *_: None)
    assert module.main() == 1
    assert "need root" in capsys.readouterr().err
