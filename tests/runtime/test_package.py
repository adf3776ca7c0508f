"""The package as it is installed: what it holds, and that a wheel works away from the tree."""

import importlib.metadata
import json
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import zerohop

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = Path(zerohop.__file__).parent

# Prints, from an interpreter of its own, what is imported, counted and mapped.
PROBE = """
import json, zerohop
from zerohop.transport import _shm
snapshot = _shm.ffi.new("struct zh_stats_snapshot *")
_shm.lib.zh_stats_read(snapshot)
with open("/proc/self/maps") as maps:
    mapped = {line.split()[-1] for line in maps if "libzerohop" in line}
print(json.dumps({
    "file": zerohop.__file__,
    "version": zerohop.__version__,
    "stats": zerohop.stats(),
    "cffi_fields": [name for name, _ in _shm.ffi.typeof("struct zh_stats_snapshot").fields],
    "mapped": sorted(mapped),
}))
"""


def probe(python: Path | str) -> dict:
    done = subprocess.run([python, "-c", PROBE], cwd="/", check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def make_venv(where: Path) -> Path:
    """A venv that holds what zerohop declares that it needs, and nothing else.

    The distributions are linked from this environment instead of being downloaded.
    """
    venv.create(where, with_pip=False, symlinks=True)
    site = where / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    todo, seen = ["zerohop"], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        dist = importlib.metadata.distribution(name)
        for requirement in dist.requires or []:
            if "extra ==" not in requirement:
                todo.append(re.match(r"[\w.-]+", requirement)[0])
        if name != "zerohop":
            for top in {file.parts[0] for file in dist.files} - {"..", "__pycache__"}:
                if not (site / top).exists():
                    (site / top).symlink_to(dist.locate_file(top))
    return where / "bin/python"


def run(*command: str | Path) -> None:
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout


def pip(*args: str | Path) -> None:
    run(sys.executable, "-m", "pip", *args)


def test_one_library_is_mapped_by_both_bindings():
    seen = probe(sys.executable)
    assert seen["mapped"] == [str(INSTALLED / "libzerohop.so")]


def test_every_source_is_installed():
    """meson.build lists files by name; one that was forgotten would be missing for users only."""
    missing = []
    for folder, package in (("runtime", "."), ("transport", "transport"), ("codegen", "codegen")):
        for source in (ROOT / folder).rglob("*"):
            if source.suffix in {".py", ".pyi"} or source.name == "py.typed":
                relative = Path(package) / source.relative_to(ROOT / folder)
                if not source.name.endswith("_build.py") and not (INSTALLED / relative).exists():
                    missing.append(str(source.relative_to(ROOT)))
    assert missing == []


def test_every_compiled_module_has_a_stub():
    compiled = [p for p in INSTALLED.rglob("*.so") if not p.name.startswith("lib")]
    assert {p.name.split(".")[0] for p in compiled} >= {"_native", "_shm"}
    for module in compiled:
        assert module.name.endswith(".abi3.so")
        assert module.with_name(module.name.split(".")[0] + ".pyi").exists()


@pytest.mark.timeout(300)
def test_wheel_works_outside_the_tree(tmp_path):
    pip(
        "wheel", "--no-build-isolation", "--no-deps", "-w", tmp_path, "-Cbuild-dir=build/wheel", "."
    )
    (wheel,) = tmp_path.glob("zerohop-*.whl")
    assert re.search(r"-cp311-abi3-linux_\w+\.whl$", wheel.name)
    python = make_venv(tmp_path / "venv")
    pip("--python", python, "install", "--no-deps", "--no-index", wheel)

    seen = probe(python)
    assert Path(seen["file"]).is_relative_to(tmp_path)
    assert seen["version"] == importlib.metadata.version("zerohop")
    assert set(seen["stats"].values()) == {0}
    assert list(seen["stats"]) == seen["cffi_fields"]
    assert seen["mapped"] == [str(Path(seen["file"]).parent / "libzerohop.so")]
    for command in ([python.parent / "zerohop"], [python, "-m", "zerohop"]):
        out = subprocess.check_output([*command, "--version"], cwd="/", text=True)
        assert out == f"zerohop {seen['version']}\n"


@pytest.mark.timeout(300)
def test_editable_install_maps_one_library(tmp_path):
    """An editable install loads from the build tree, which must hold the library once as well."""
    hook = "import sys, mesonpy; mesonpy.build_editable(sys.argv[1], {'build-dir': sys.argv[2]})"
    run(sys.executable, "-c", hook, tmp_path, tmp_path / "build")
    (wheel,) = tmp_path.glob("zerohop-*.whl")
    python = make_venv(tmp_path / "venv")
    pip("--python", python, "install", "--no-deps", "--no-index", wheel)

    seen = probe(python)
    assert Path(seen["file"]) == ROOT / "runtime/__init__.py"
    assert seen["mapped"] == [str(tmp_path / "build/transport/libzerohop.so")]


def test_sub_interpreters_are_refused():
    module = "import _xxsubinterpreters as s"
    if sys.version_info >= (3, 13):
        module = "import _interpreters as s"
    script = f"""
import sys
{module}
i = s.create()
try:
    problem = s.run_string(i, "import sys; sys.path[:] = %r; import zerohop" % sys.path)
except s.RunFailedError as error:
    problem = error
print(problem)
"""
    if sys.version_info >= (3, 13):
        script = script.replace("except s.RunFailedError", "except ImportError")
    out = subprocess.check_output([sys.executable, "-c", script], cwd="/", text=True)
    assert "ImportError" in out
    assert re.search(r"sub-?interpreters", out)


def test_the_gil_is_there():
    assert not sysconfig.get_config_var("Py_GIL_DISABLED")
