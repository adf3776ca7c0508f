"""`zerohop doctor`: on a sound machine, and where each thing stands in the way, for real."""

import ctypes
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import zerohop
from zerohop import probes
from zerohop.doctor import Check, Result, examine, line
from zerohop.memory import ARENA_MOST, read_memory
from zerohop.probes_limits import size

NAMES = [name for name, _ in probes.PROBES]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
MIB = 1 << 20


def doctor(*, prefix: tuple[str, ...] = (), setup: str = "", **env: str):
    """(exit status, checks by name) of the command, run after `setup` in its process."""
    code = f"{setup}\nfrom zerohop.cli import main\nraise SystemExit(main(['doctor', '--json']))"
    done = subprocess.run(
        [*prefix, sys.executable, "-c", code],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        text=True,
        timeout=50,
    )
    document = json.loads(done.stdout)
    checks = {check["name"]: check for check in document["checks"]}
    assert list(checks) == NAMES
    failed = [name for name, check in checks.items() if check["status"] == "FAIL"]
    assert document["ok"] == (not failed)
    assert done.returncode == (1 if failed else 0)
    # Whatever is not plainly well says what to do.
    assert all(check["advice"] for check in checks.values() if check["status"] != "ok")
    return done.returncode, checks


def test_this_machine(folder) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "zerohop", "doctor"],
        env={**os.environ, "ZEROHOP_REGISTRY": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    *lines, empty, last = done.stdout.splitlines()
    assert empty == ""
    assert last.startswith("Calls take the short way.")
    assert [one.partition("  ")[2].split(":")[0].strip() for one in lines] == NAMES
    assert {one.split()[0] for one in lines} <= {"ok", "warn"}
    assert list(folder.iterdir()) == []  # nothing stays of what it tried


def test_a_check_is_one_line() -> None:
    assert line(Check("a", Result("ok", "b"))) == "ok    a: b"
    assert line(Check("a", Result("FAIL", "b", "Do c."))) == "FAIL  a: b -> Do c."


def test_a_probe_that_breaks_is_a_failure_of_its_own() -> None:
    def broken() -> Result:
        raise RuntimeError("oops")

    (check,) = examine([("broken", broken)])
    assert check.result.status == "FAIL"
    assert check.result.found == "RuntimeError: oops"
    assert "report it" in check.result.advice


# --- what stands in the way -----------------------------------------------------------------------


def limit(name: str, value: int) -> str:
    return f"import resource as r; r.setrlimit(r.{name}, ({value}, r.getrlimit(r.{name})[1]))"


@pytest.mark.parametrize(
    ("setup", "check", "status", "advice"),
    [
        (limit("RLIMIT_NOFILE", 66), "descriptors", "FAIL", "ulimit -n"),
        (limit("RLIMIT_NOFILE", 256), "descriptors", "warn", "ulimit -n"),
        (limit("RLIMIT_FSIZE", MIB), "file size", "FAIL", "SIGXFSZ"),
        (limit("RLIMIT_FSIZE", 32 * MIB), "file size", "warn", "SIGXFSZ"),
        (limit("RLIMIT_AS", 4096 * MIB), "mappings", "warn", "ulimit -v"),
        ("import os; os.sched_setaffinity(0, {0})", "processors", "warn", "cannot run at once"),
    ],
)
def test_limits(folder, setup: str, check: str, status: str, advice: str) -> None:
    _, checks = doctor(setup=setup, ZEROHOP_REGISTRY=str(folder))
    assert checks[check]["status"] == status
    assert advice in checks[check]["advice"]


# Installs a seccomp filter that answers one system call with EPERM.
SECCOMP = """
import ctypes, struct
number = {number}
program = b"".join(struct.pack("HBBI", *one) for one in (
    (0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)))
text = ctypes.create_string_buffer(program)
prog = struct.pack("HxxxxxxP", 4, ctypes.addressof(text))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, prog, 0, 0) == 0, ctypes.get_errno()
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of system calls")
@pytest.mark.parametrize(
    ("number", "check", "status", "text"),
    [
        (319, "memfd", "FAIL", "memfd_create: Operation not permitted"),
        (285, "memfd", "FAIL", "fallocate on a memfd"),
        (290, "doorbell", "FAIL", "eventfd: Operation not permitted"),
        (46, "sockets", "FAIL", "SCM_RIGHTS"),
        (434, "pidfd", "ok", "SO_PEERPIDFD"),
        (49, "registry", "FAIL", "Operation not permitted"),
    ],
)
def test_system_calls_that_a_sandbox_forbids(folder, number, check, status, text) -> None:
    _, checks = doctor(setup=SECCOMP.format(number=number), ZEROHOP_REGISTRY=str(folder))
    assert checks[check]["status"] == status
    assert text in checks[check]["found"]
    assert "a seccomp filter" in checks["sandbox"]["found"]


def test_a_registry_that_is_refused(folder) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    status, checks = doctor(ZEROHOP_REGISTRY=str(folder))
    assert status == 1
    assert "everybody may write to it" in checks["registry"]["found"]


def test_a_registry_in_tmp_is_a_warning() -> None:
    path = Path(f"/tmp/zerohop-doctor-{os.getpid()}")
    try:
        _, checks = doctor(ZEROHOP_REGISTRY=str(path))
    finally:
        shutil.rmtree(path)
    assert checks["registry"]["status"] == "warn"
    assert "systemd-tmpfiles" in checks["registry"]["advice"]


@needs_root
@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--pid", "--fork", "--mount-proc"), "own pid"),
        (("--ipc",), "own ipc"),
        (("--user", "--map-root-user"), "own user"),
    ],
)
def test_namespaces_of_a_container(folder, options, text: str) -> None:
    _, checks = doctor(prefix=("unshare", *options), ZEROHOP_REGISTRY=str(folder))
    found = checks["namespaces"]
    assert text in found["found"]
    assert "share the registry directory" in found["advice"]
    assert ("uids must mean the same" in found["advice"]) == ("--user" in options)


@needs_root
def test_a_clock_that_is_set_off(folder) -> None:
    prefix = ("unshare", "--time", "--monotonic", "1000", "--fork")
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("no time namespaces")
    _, checks = doctor(prefix=prefix, ZEROHOP_REGISTRY=str(folder))
    assert checks["namespaces"]["status"] == "warn"
    assert "deadlines" in checks["namespaces"]["advice"]


def test_other_systems_and_pythons(monkeypatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: "5.0.21-generic")
    assert probes.system().status == "FAIL"
    monkeypatch.setattr(platform, "release", lambda: "5.10.0")
    assert probes.system().status == "ok"
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert "Linux only" in probes.system().advice
    monkeypatch.setattr("sysconfig.get_config_var", lambda name: 1)
    assert "Free-threaded" in probes.python().advice
    monkeypatch.setattr(platform, "python_implementation", lambda: "PyPy")
    assert "CPython" in probes.python().advice
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.60.1")
    assert "grpcio 1.66" in probes.packages().advice
    monkeypatch.setattr(probes, "_clock_cost", lambda: 1500.0)
    assert "clocksource=tsc" in probes.clock().advice


# --- memory -------------------------------------------------------------------------------------


def tree(root: Path, **files: str) -> str:
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return str(root)


def machine(root: Path, cgroup: str, files: dict[str, str]) -> str:
    files = {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:  4194304 kB\n", **files}
    return tree(root, **{"proc/self/cgroup": cgroup, **files})


def test_memory_without_a_cgroup(tmp_path) -> None:
    memory = read_memory(machine(tmp_path, "0::/\n", {}))
    assert (memory.available, memory.cgroup_left, memory.cgroup_version) == (4 << 30, None, 2)
    assert memory.arena_limit == 512 * MIB
    assert read_memory(str(tmp_path / "nothing")).arena_limit == ARENA_MOST


def test_memory_in_a_cgroup_of_version_2(tmp_path) -> None:
    # The tightest group on the way up counts: here the middle one, not the deepest.
    files = {
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        "sys/fs/cgroup/a/memory.max": str(512 * MIB),
        "sys/fs/cgroup/a/memory.current": str(112 * MIB),
        "sys/fs/cgroup/memory.max": str(1024 * MIB),
    }
    memory = read_memory(machine(tmp_path, "0::/a/b\n", files))
    assert (memory.cgroup_limit, memory.cgroup_left) == (512 * MIB, 400 * MIB)
    assert memory.arena_limit == 50 * MIB


def test_memory_in_a_container_with_cgroups_of_version_1(tmp_path) -> None:
    # The path is the host's and is not mounted; the mount's top is the container's group.
    files = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(64 * MIB),
        "sys/fs/cgroup/memory/memory.usage_in_bytes": str(65 * MIB),
    }
    cgroup = "5:devices:/docker/x\n4:hugetlb,memory:/docker/x\n0::/docker/x\n"
    memory = read_memory(machine(tmp_path, cgroup, files))
    assert (memory.cgroup_limit, memory.cgroup_left) == (64 * MIB, 0)
    assert memory.cgroup_version == 1
    assert memory.arena_limit == 0


def test_no_limit_in_version_1_is_a_large_number(tmp_path) -> None:
    files = {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}
    assert read_memory(machine(tmp_path, "4:memory:/\n", files)).cgroup_limit is None


def test_the_arenas_limit_is_what_the_transport_takes() -> None:
    library = ctypes.CDLL(str(Path(zerohop.__file__).parent / "libzerohop.so"))
    library.zh_arena_default_limit.restype = ctypes.c_uint64
    assert read_memory().arena_limit == pytest.approx(library.zh_arena_default_limit(), rel=0.2)


@needs_root
def test_a_real_memory_cgroup(folder) -> None:
    parent = Path("/sys/fs/cgroup/memory")
    name = "memory.limit_in_bytes"
    if not (parent / name).exists():
        parent, name = Path("/sys/fs/cgroup"), "memory.max"
    group = parent / f"zh-doctor-{os.getpid()}"
    try:
        group.mkdir()
        (group / name).write_text(str(256 * MIB))
    except OSError as error:
        shutil.rmtree(group, ignore_errors=True)
        pytest.skip(f"no cgroup can be made: {error}")
    try:
        enter = f"open('{group}/cgroup.procs', 'w').write('0')"
        _, checks = doctor(setup=enter, ZEROHOP_REGISTRY=str(folder))
    finally:
        group.rmdir()
    found = checks["memory"]
    assert "left of 256 MiB in the cgroup" in found["found"]
    assert found["status"] == "warn"
    assert "raise the memory limit" in found["advice"]


def test_sizes() -> None:
    assert [size(one) for one in (None, MIB, 1 << 30)] == ["unlimited", "1 MiB", "1.0 GiB"]


def test_resources_are_untouched() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE), len(os.listdir("/proc/self/fd"))
    list(examine())
    after = resource.getrlimit(resource.RLIMIT_NOFILE), len(os.listdir("/proc/self/fd"))
    assert after == before
