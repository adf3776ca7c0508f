"""Runs each sample as a user would: as programs, judged by what they print and leave behind.

Every sample runs over grpcio and over zerohop; where zerohop is not built its cases fail.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SAMPLES = Path(__file__).resolve().parents[2] / "samples"

TARGETS = {
    "grpcio": "unix:{folder}/s.sock",
    "shm": "shm:{folder}/s.sock",
    "by-name": "zerohop:///sample-{unique}",
}


@dataclass
class Shell:
    """Starts samples with a folder, a registry and a mark in the environment of their own."""

    folder: Path
    unique: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: list[Program] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "tmp").mkdir()
        (self.folder / "registry").mkdir(mode=0o700)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "SAMPLE_MARK": self.unique,
            "TMPDIR": str(self.folder / "tmp"),
            "ZEROHOP_REGISTRY": str(self.folder / "registry"),
        }

    def start(self, program: str, *arguments: str) -> Program:
        process = subprocess.Popen(
            [sys.executable, str(SAMPLES / program), *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "stderr").open("ab"),
            bufsize=0,
        )
        self.started.append(Program(process, self.folder / "stderr"))
        return self.started[-1]

    def run(self, program: str, *arguments: str, said: str = "") -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        ran = subprocess.run(
            [sys.executable, str(SAMPLES / program), *arguments],
            cwd=self.folder,
            env=self.environment,
            input=said,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return ran.returncode, ran.stdout, ran.stderr

    def left_behind(self) -> list[str]:
        """Command lines of processes that carry our mark, and temporary files."""
        mark = f"SAMPLE_MARK={self.unique}".encode()
        left = [str(path) for path in (self.folder / "tmp").iterdir()]
        for process in Path("/proc").iterdir():
            try:
                if process.name.isdigit() and mark in (process / "environ").read_bytes():
                    left.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:  # gone, or not ours
                continue
        return left


@dataclass
class Program:
    """A sample that runs."""

    process: subprocess.Popen[bytes]
    errors: Path
    _rest: bytes = b""

    def line(self, timeout: float = 30) -> str:
        """The next line of output."""
        assert self.process.stdout is not None
        until = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                assert selector.select(max(0.0, until - time.monotonic())), (
                    f"no line within {timeout} s; {self.errors.read_text()}"
                )
                block = os.read(self.process.stdout.fileno(), 4096)
                assert block, f"ended after {self._rest!r}; {self.errors.read_text()}"
                self._rest += block
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode()

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())

    def end(self, number: int | None = None) -> int:
        """Send a signal, or end its input; its exit code."""
        assert self.process.stdin is not None
        if number is None:
            self.process.stdin.close()
        else:
            self.process.send_signal(number)
        return self.process.wait(timeout=15)


@pytest.fixture
def shell() -> Iterator[Shell]:
    # Not tmp_path: its name may be too long for a socket's.
    folder = Path(tempfile.mkdtemp(prefix="zs-"))
    shell = Shell(folder)
    yield shell
    for program in shell.started:
        program.process.kill()
        program.process.wait()
    shutil.rmtree(folder)


@pytest.fixture(params=list(TARGETS.values()), ids=list(TARGETS))
def target(request: pytest.FixtureRequest, shell: Shell) -> str:
    return str(request.param).format(folder=shell.folder, unique=shell.unique)


def test_hello(shell: Shell, target: str) -> None:
    server = shell.start("hello/server.py", "--target", target)
    assert server.line() == f"The greeter is at {target}. Ctrl-C stops it."
    assert shell.run("hello/client.py", "--target", target) == (0, "Hello, world!\n", "")
    assert shell.run("hello/client.py", "Zoë", "--target", target) == (0, "Hello, Zoë!\n", "")
    assert server.end(signal.SIGINT) == 0
    assert not shell.left_behind()
    assert server.errors.read_text() == ""


def test_hello_without_a_server(shell: Shell, target: str) -> None:
    code, output, errors = shell.run("hello/client.py", "--target", target)
    assert (code, output) == (1, "")
    assert "UNAVAILABLE" in errors
    assert f"python samples/hello/server.py --target {target}" in errors
    assert "Traceback" not in errors


def test_hello_where_nobody_can_serve(shell: Shell) -> None:
    nowhere = f"unix:{shell.folder}/missing/s.sock"
    code, _, errors = shell.run("hello/server.py", "--target", nowhere)
    assert code == 1
    assert f"cannot serve at {nowhere}" in errors
    assert "Traceback" not in errors


def test_chat(shell: Shell, target: str) -> None:
    room = shell.start("chat/server.py", "--target", target)
    assert room.line() == f"The room is at {target}. Ctrl-C closes it."
    anna = shell.start("chat/client.py", "--name", "anna", "--target", target)
    assert anna.line() == "* you are in the room with nobody else"
    ben = shell.start("chat/client.py", "--name", "ben", "--target", target)
    assert ben.line() == "* you are in the room with anna"
    assert anna.line() == "* ben joined"

    anna.say("hello ben\n")
    assert ben.line() == "anna: hello ben"
    ben.say("hello anna\n\nhow are you?\n")
    assert [anna.line(), anna.line()] == ["ben: hello anna", "ben: how are you?"]

    # Input from a pipe that ends, its last line without a newline: said, then left.
    piped = ("chat/client.py", "--name", "cleo", "--target", target)
    assert shell.run(*piped, said="one\ntwo") == (0, "* you are in the room with anna, ben\n", "")
    for member in (anna, ben):
        heard = [member.line() for _ in range(4)]
        assert heard == ["* cleo joined", "cleo: one", "cleo: two", "* cleo left"]

    code, _, errors = shell.run("chat/client.py", "--name", "ben", "--target", target)
    assert (code, errors) == (1, "ben is here already: choose another --name\n")

    assert ben.end() == 0  # end of input
    assert anna.line() == "* ben left"
    assert room.end(signal.SIGTERM) == 0
    assert anna.process.wait(timeout=15) == 0  # the room's end is the members' end
    assert not shell.left_behind()
    assert room.errors.read_text() == ""


def test_chat_survives_a_killed_member(shell: Shell, target: str) -> None:
    room = shell.start("chat/server.py", "--target", target)
    room.line()
    anna = shell.start("chat/client.py", "--name", "anna", "--target", target)
    anna.line()
    ben = shell.start("chat/client.py", "--name", "ben", "--target", target)
    ben.line()
    assert anna.line() == "* ben joined"
    ben.end(signal.SIGKILL)
    assert anna.line() == "* ben left"
    assert anna.end(signal.SIGINT) == 130
    assert room.end(signal.SIGINT) == 0
    assert room.errors.read_text() == ""


SHARED_MEMORY = [TARGETS["shm"], TARGETS["by-name"]]


@pytest.mark.parametrize("form", SHARED_MEMORY, ids=["shm", "by-name"])
def test_numpy(shell: Shell, form: str) -> None:
    target = form.format(folder=shell.folder, unique=shell.unique)
    server = shell.start("numpy/server.py", "--target", target)
    assert server.line() == f"The calculator is at {target}. Ctrl-C stops it."
    size = ("--megabytes", "20", "--calls", "2")
    code, output, errors = shell.run("numpy/client.py", *size, "--target", target)
    assert (code, errors) == (0, "")
    *calls, copied, built = output.splitlines()
    assert len(calls) == 2
    for call in calls:
        assert call.startswith("20 MB there, 20 MB back: ")
        assert call.endswith(": right")
    assert copied == "bytes_copied: 0 by the client, 0 by the server"
    # Of each array its shape: two numbers of 8 bytes.
    assert built == "bytes_built:  32 by the client, 32 by the server"
    assert server.end(signal.SIGINT) == 0
    assert not shell.left_behind()
    assert server.errors.read_text() == ""


@pytest.mark.parametrize("limited", ["server", "client"])
def test_numpy_without_room(shell: Shell, limited: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = SHARED_MEMORY[0].format(folder=shell.folder)
    with monkeypatch.context() as patch:
        if limited == "server":
            patch.setenv("ZEROHOP_ARENA_LIMIT", str(10_000_000))
        server = shell.start("numpy/server.py", "--target", target)
    server.line()
    if limited == "client":
        monkeypatch.setenv("ZEROHOP_ARENA_LIMIT", str(10_000_000))
    arguments = ("--megabytes", "20", "--target", target)
    code, output, errors = shell.run("numpy/client.py", *arguments)
    assert (code, output) == (1, "")
    assert f"the {limited} has no shared memory for 20 MB" in errors
    assert "ZEROHOP_ARENA_LIMIT=80000000" in errors
    assert "Traceback" not in errors
    assert server.end(signal.SIGINT) == 0
    assert "Traceback" not in server.errors.read_text()


def test_numpy_without_a_server(shell: Shell) -> None:
    target = SHARED_MEMORY[0].format(folder=shell.folder)
    code, output, errors = shell.run("numpy/client.py", "--target", target)
    assert (code, output) == (1, "")
    assert "UNAVAILABLE" in errors
    assert f"python samples/numpy/server.py --target {target}" in errors
    code, _, errors = shell.run("numpy/client.py", "--target", "localhost:50051")
    assert code == 2
    assert "zerohop:///NAME or shm:/PATH" in errors


def vision(shell: Shell, transports: str) -> tuple[str, ...]:
    out = str(shell.folder / "out")
    return ("vision/demo.py", "--seconds", "3", "--transports", transports, "--out", out)


@pytest.mark.parametrize(
    "transports", ["grpcio", "zerohop", "generated", "grpcio,zerohop,generated"]
)
def test_vision(shell: Shell, transports: str) -> None:
    code, output, errors = shell.run(*vision(shell, transports))
    assert (code, errors) == (0, "")
    assert not shell.left_behind()
    for expected in ("camera -> resize", "edges -> catalogue", "frames per second", "handed on"):
        assert expected in output

    out = shell.folder / "out"
    keys = transports.split(",")
    written = json.loads((out / "vision.json").read_text())
    measured, handed_on = written["transports"], written["handed_on"]
    assert list(measured) == list(handed_on) == keys
    for figures in handed_on.values():
        (payload,) = {hop["payload"] for hop in figures["hops"].values()}
        assert payload == 800 * 600 * 3
        assert figures["frames"] > 3
    for figures in measured.values():
        assert figures["frames"] > 10
        assert figures["fps"] > 0
        assert set(figures["compute_us_per_frame"]) == {"camera", "resize", "edges", "catalogue"}
        for hop in figures["hops"].values():
            assert 0 < hop["latency_us"]["p50"] <= hop["latency_us"]["p99"]
            assert hop["there_and_back_us"]["p50"] > 0
    if "zerohop" in keys:  # the frames did go that way
        zerohop = measured["zerohop"]
        assert zerohop["counters"]["calls_handled"] >= 3 * zerohop["frames"]
        payload = sum(hop["payload"] for hop in zerohop["hops"].values())
        assert zerohop["bytes_copied_per_frame"] >= 2 * payload
    if "generated" in keys:  # at most what is handed on was copied, when it was put into a message
        for figures, most in (
            (measured["generated"], 400 * 300 * 3),
            (handed_on["generated"], 2 * 800 * 600 * 3),
        ):
            assert figures["bytes_copied_per_frame"] == 0
            assert figures["bytes_built_per_frame"] < most + 1000

    rows = json.loads((out / "index.json").read_text())
    assert len(rows) > 5
    page = (out / "index.html").read_text()
    for row in rows:
        assert set(row["frames"]) == set(keys)
        assert len(set(row["crc32"].values())) == 1, "the ways brought different pixels"
        for picture in (row["thumbnail"], row["edges"]):
            assert picture in page
            with Image.open(out / picture) as image:
                assert image.width >= 100
                assert image.convert("L").getextrema() != (0, 0)
    with Image.open(out / "vision.png") as chart:
        assert chart.width > 1000


def test_vision_shows_the_users_photographs(shell: Shell) -> None:
    photos = shell.folder / "photos"
    photos.mkdir()
    Image.new("RGB", (64, 48), "red").save(photos / "red <&> square.png")
    (photos / "broken.jpg").write_bytes(b"no picture")
    environment = {**shell.environment, "IMAGES": str(photos)}
    arguments = vision(shell, "grpcio")
    ran = subprocess.run(
        [sys.executable, str(SAMPLES / arguments[0]), *arguments[1:], "--size", "64x48"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "broken.jpg left out" in ran.stderr
    (row,) = json.loads((shell.folder / "out" / "index.json").read_text())
    assert (row["photo"], row["width"], row["height"]) == ("red <&> square.png", 32, 24)
    assert "red &lt;&amp;&gt; square.png" in (shell.folder / "out" / "index.html").read_text()
    with Image.open(shell.folder / "out" / row["thumbnail"]) as image:
        red, green, _ = np.asarray(image.convert("RGB")).mean(axis=(0, 1))
    assert red > 240
    assert green < 15


@pytest.mark.parametrize("transports", ["grpcio", "grpcio,zerohop,generated"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_vision_interrupted(shell: Shell, transports: str, number: int) -> None:
    demo = shell.start(*vision(shell, transports), "--seconds", "60")
    while "fps" not in demo.line():
        pass
    started = time.monotonic()
    assert demo.end(number) == 128 + number
    assert time.monotonic() - started < 5
    assert not shell.left_behind()
    assert "Traceback" not in demo.errors.read_text()
    assert not list((shell.folder / "out").iterdir())


@pytest.mark.parametrize("transport", ["grpcio", "zerohop", "generated"])
def test_vision_says_which_service_died(shell: Shell, transport: str) -> None:
    demo = shell.start(*vision(shell, transport), "--seconds", "60")
    while "fps" not in demo.line():
        pass
    (edges,) = (
        int(process.name)
        for process in Path("/proc").iterdir()
        if process.name.isdigit()
        and f"{shell.folder}".encode() in (command := _command(process))
        and b"vision/edges.py" in command
    )
    os.kill(edges, signal.SIGKILL)
    assert demo.process.wait(timeout=15) == 1
    # Before that, the services whose calls fail may have logged it.
    said = demo.errors.read_text().splitlines()
    assert said[-1] == "error: the service edges was killed: SIGKILL"
    assert not shell.left_behind()


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("environment", "arguments", "message"),
    [
        ({"IMAGES": "/missing"}, [], "IMAGES=/missing: no such folder"),
        ({}, ["--size", "3"], "WIDTHxHEIGHT"),
        ({}, ["--transports", "pigeon"], "no pigeon; there are grpcio, zerohop"),
        ({}, ["--seconds", "0"], "--seconds 0"),
        ({}, ["--out", "/proc/none"], "choose another --out"),
    ],
)
def test_vision_refuses(
    shell: Shell, environment: dict[str, str], arguments: list[str], message: str
) -> None:
    command = [*vision(shell, "grpcio"), *arguments]
    ran = subprocess.run(
        [sys.executable, str(SAMPLES / command[0]), *command[1:]],
        env={**shell.environment, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode in (1, 2)
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not shell.left_behind()


@pytest.mark.parametrize(
    "program",
    [
        *("hello/server.py", "hello/client.py", "chat/server.py", "chat/client.py"),
        *("numpy/server.py", "numpy/client.py", "vision/demo.py"),
    ],
)
def test_help(shell: Shell, program: str) -> None:
    code, output, errors = shell.run(program, "--help")
    assert (code, errors) == (0, "")
    assert output.startswith("usage: ")
