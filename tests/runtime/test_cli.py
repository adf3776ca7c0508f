"""The `zerohop` command: help, ps, how it ends."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import zerohop
from zerohop import cli
from zerohop.registry import Registry


def command(*arguments: str, **env: str):
    return subprocess.run(
        [sys.executable, "-m", "zerohop", *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=50,
    )


def test_version() -> None:
    done = command("--version")
    assert (done.returncode, done.stdout) == (0, f"zerohop {zerohop.__version__}\n")


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_command_it_says_what_there_is(arguments) -> None:
    done = command(*arguments)
    assert done.returncode == 0
    for name in ("run", "ps", "doctor", "bench"):
        assert f"  {name} " in done.stdout
    assert "examples:" in done.stdout


@pytest.mark.parametrize("name", ["run", "ps", "list", "doctor"])
def test_every_command_has_help_with_examples(name: str) -> None:
    done = command(name, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: zerohop ")
    assert "examples:\n  zerohop" in done.stdout


def test_an_unknown_command() -> None:
    done = command("rum")
    assert done.returncode == 2
    assert "invalid choice: 'rum'" in done.stderr
    assert "'run'" in done.stderr


def test_a_command_does_not_load_what_others_need() -> None:
    code = "import sys, zerohop.cli; print({'zerohop.bench', 'zerohop.probes'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n"


# --- ps -----------------------------------------------------------------------------------------


def test_ps_without_servers(folder) -> None:
    done = command("ps", ZEROHOP_REGISTRY=str(folder))
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"no servers in {folder}\n"
    assert command("ps", "--json", ZEROHOP_REGISTRY=str(folder)).stdout == "[]\n"


def test_ps_lists_servers(registry: Registry, folder, spawn) -> None:
    other = spawn("publish(['b'], ['127.0.0.1:1', 'unix:/a'], ['far.example:80'])")
    gone = spawn("publish(['gone'])")
    gone.kill()
    with registry.publish(["a.Service", "a.Other"]):
        done = command("list", ZEROHOP_REGISTRY=str(folder))
        document = json.loads(command("ps", "--json", ZEROHOP_REGISTRY=str(folder)).stdout)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["PID", "USER", "UP", "NAMES", "ADDRESSES"]
    assert lines[1][0] == str(os.getpid())
    assert lines[1][3:] == ["a.Service,", "a.Other", "-"]
    assert lines[2][0] == str(other.popen.pid)
    assert lines[2][2].endswith("s")
    assert lines[2][3:] == ["b", "127.0.0.1:1", "unix:/a", "=far.example:80"]
    assert lines[3] == ["=", "advertised"]
    assert [one["pid"] for one in document] == [os.getpid(), other.popen.pid]
    assert document[1]["names"] == ["b"]
    assert document[1]["uid"] == os.geteuid()
    assert 0 <= document[1]["uptime_seconds"] < 60


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_ps_marks_servers_of_other_namespaces(folder, spawn) -> None:
    spawn(
        "publish(['far'])", *["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    )
    done = command("ps", ZEROHOP_REGISTRY=str(folder))
    assert done.stdout.splitlines()[1].split()[0] == "1*"
    assert "* in another pid namespace" in done.stdout
    assert "+ in another network namespace" in done.stdout


def test_ps_where_the_registry_is_refused(folder) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    done = command("ps", ZEROHOP_REGISTRY=str(folder))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"zerohop: error: the registry {folder} is refused: ")
    assert done.stderr.count("\n") == 1
    done = command("ps", ZEROHOP_ALLOW_UIDS="x")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_ps_whose_reader_has_gone(registry: Registry, folder) -> None:
    with registry.publish(["a"]):
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "wb") as output:
            done = subprocess.run(
                [sys.executable, "-m", "zerohop", "ps"],
                env={**os.environ, "ZEROHOP_REGISTRY": str(folder)},
                stdout=output,
                stderr=subprocess.PIPE,
            )
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_durations() -> None:
    seconds = [0, 59, 60, 3599, 3600, 86399, 86400, 10 * 86400]
    texts = ["0s", "59s", "1m00s", "59m59s", "1h00m", "23h59m", "1d00h", "10d00h"]
    assert [cli._duration(one) for one in seconds] == texts


# --- bench ----------------------------------------------------------------------------------------

# A stand-in for the benchmark, which has tests of its own.
BENCH = """
import sys, time, types
module = types.ModuleType("zerohop.bench")
def main(argv):
    print(argv, flush=True)
    {body}
module.main = main
sys.modules["zerohop.bench"] = module
from zerohop.cli import main
sys.exit(main(["bench", "--json", "x", "--help"]))
"""


@pytest.mark.parametrize(
    ("body", "status"), [("return 3", 3), ("return None", 0), ("sys.exit(4)", 4)]
)
def test_bench_gets_all_its_arguments(body: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BENCH.format(body=body)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (status, "['--json', 'x', '--help']\n")


def test_control_c_ends_it_quietly() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BENCH.format(body="time.sleep(50)")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert time.monotonic() - start < 5
    assert (process.returncode, errors) == (130, b"")
