"""samples/net/echo.c, compiled against the installed library as its first lines say."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import netns
import pytest
import zerohop

SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "net" / "echo.c"


@pytest.fixture(scope="module")
def flags() -> list[str]:
    """What pkg-config says of the installed package."""
    for tool in ("cc", "pkg-config"):
        if shutil.which(tool) is None:
            pytest.fail(f"{tool} is missing")
    folder = Path(zerohop.__file__).parent / "pkgconfig"
    done = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "zerohop"],
        env={**os.environ, "PKG_CONFIG_PATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_the_sample_echoes(
    veth: Callable[..., netns.Pair], flags: list[str], tmp_path: Path
) -> None:
    program = tmp_path / "echo"
    warnings = ["-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", *warnings, str(SAMPLE), "-o", str(program), *flags], check=True)
    pair = veth(host=True, bare=("b",))
    side = pair.b
    process = side.start(
        str(program), f"net_af_packet0,iface={side.interface}", f"{side.v4}/{side.v4_prefix}"
    )
    assert process.stdout is not None
    assert "7000" in process.stdout.readline()
    with socket.create_connection((side.v4, 7000), timeout=10) as peer:
        peer.settimeout(10)
        for number in range(50):
            message = str(number).encode() * 100
            peer.sendall(message)
            got = b""
            while len(got) < len(message):
                got += peer.recv(4096)
            assert got == message
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 0


def test_what_is_wrong_is_said(flags: list[str], tmp_path: Path, netns_here: None) -> None:
    program = tmp_path / "echo"
    subprocess.run(["cc", str(SAMPLE), "-o", str(program), *flags], check=True)
    done = subprocess.run(
        [program, "net_af_packet0,iface=nosuch", "10.0.0.1/24"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert "no interface" in done.stderr
