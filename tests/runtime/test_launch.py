"""`zerohop run`: what the program finds when it starts, and what happens when it imports grpc."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from zerohop.launch import AUTOLOAD, environment, ignored_options

# Runs as the program's own sitecustomize and stands in for zerohop.install: what install() makes
# of grpc is tested elsewhere.
STUB = """
import sys, types
module = types.ModuleType("zerohop.install")
def install():
    import grpc, grpc.aio
    calls.append("grpc" in sys.modules)
    grpc.server = grpc.aio.server = "ours"
calls = module.calls = []
module.install = install
sys.modules["zerohop.install"] = module
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder on the program's PYTHONPATH with a sitecustomize of its own."""
    (tmp_path / "sitecustomize.py").write_text(STUB)
    return tmp_path


def run(site: Path, code: str, *, python: str = sys.executable, **env: str):
    """Run a program as `zerohop run` does."""
    base = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [python, "-c", textwrap.dedent(code)],
        env={**environment(base), **env},
        capture_output=True,
        text=True,
        timeout=50,
    )


def output(site: Path, code: str, **keywords: str) -> str:
    done = run(site, code, **keywords)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def zerohop(*arguments: str, **keywords):
    return subprocess.run(
        [sys.executable, "-m", "zerohop", *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        **keywords,
    )


# --- the environment ----------------------------------------------------------------------------


def test_the_environment() -> None:
    assert environment({}) == {"PYTHONPATH": AUTOLOAD, "ZEROHOP_RUN": "1"}
    assert environment({"PYTHONPATH": "", "A": "b"})["A"] == "b"
    assert environment({"PYTHONPATH": ""})["PYTHONPATH"] == AUTOLOAD
    twice = environment(environment({"PYTHONPATH": "/a:/b"}))
    assert twice["PYTHONPATH"] == f"{AUTOLOAD}:/a:/b"
    full = environment({}, explain=True, advertise=["A.example:80", "10.0.0.1:81"])
    assert full["ZEROHOP_EXPLAIN"] == "1"
    assert full["ZEROHOP_ADVERTISE"] == "a.example:80,10.0.0.1:81"
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        environment({}, advertise=["a"])


# --- when grpc is imported ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "from grpc import server",
        "import grpc; server = grpc.server",
        "import grpc.aio; server = grpc.aio.server",
        "from grpc.aio import server",
        "import grpc._channel; from grpc import server",
        "import importlib; server = importlib.import_module('grpc').server",
        "import importlib.util as u; assert u.find_spec('grpc'); from grpc import server",
        "import threading as t; x = t.Thread(target=__import__, args=('grpc',)); x.start(); "
        "from grpc import server; x.join()",
    ],
)
def test_the_program_gets_what_install_has_made_of_grpc(site: Path, code: str) -> None:
    code += "\nimport sys; print(server, sys.modules['zerohop.install'].calls)"
    assert output(site, code) == "ours [True]"


def test_a_program_without_grpc_loads_nothing_of_zerohop(site: Path) -> None:
    code = """
        import sys
        print([name for name in sys.modules if name.partition(".")[0] in ("zerohop", "grpc")])
        print([type(finder).__module__ for finder in sys.meta_path[:1]])
    """
    assert output(site, code) == "['zerohop.install']\n['zerohop_autoload']"  # the stub


def test_grpc_is_loaded_as_without_us(site: Path) -> None:
    code = """
        import sys, grpc, importlib, importlib.resources, inspect
        print(type(grpc.__spec__.loader).__name__, "exec_module" in vars(grpc.__spec__.loader))
        print(len(inspect.getsource(grpc)) > 1000)
        print(importlib.resources.files("grpc").joinpath("__init__.py").is_file())
        print([f for f in sys.meta_path if type(f).__module__ == "zerohop_autoload"])
        importlib.reload(grpc)
    """
    assert output(site, code) == "SourceFileLoader False\nTrue\nTrue\n[]"


def test_install_waits_until_zerohop_itself_is_imported(site: Path) -> None:
    # A program that imports both: grpc is imported in the middle of zerohop's own import.
    package = site / "zerohop"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import grpc, sys; assert not sys.modules['zerohop.install'].calls; complete = True"
    )
    code = """
        import zerohop, sys
        assert zerohop.complete
        print(sys.modules["zerohop.install"].calls)
        from grpc import server
        print(server)
    """
    assert output(site, code) == "[True]\nours"


def test_without_grpc_the_import_fails_as_ever(site: Path) -> None:
    code = """
        import sys
        sys.path[:] = [p for p in sys.path if "site-packages" not in p]
        try:
            import grpc
        except ModuleNotFoundError as error:
            print(error)
    """
    assert output(site, code) == "No module named 'grpc'"


def test_a_broken_grpc_fails_as_ever_and_may_be_tried_again(site: Path) -> None:
    (site / "grpc.py").write_text("raise ImportError('broken')")
    code = """
        import os, sys
        try:
            import grpc
        except ImportError as error:
            print(error)
        os.remove(os.path.join(os.environ["SITE"], "grpc.py"))
        sys.path_importer_cache.clear()
        from grpc import server
        print(server)
    """
    assert output(site, code, SITE=str(site)) == "broken\nours"


def test_the_program_goes_on_if_install_fails(site: Path) -> None:
    (site / "sitecustomize.py").write_text(STUB.replace("calls.append(", "raise OSError("))
    done = run(site, "import grpc; print(callable(grpc.server))")
    assert (done.returncode, done.stdout) == (0, "True\n")
    assert done.stderr == (
        "zerohop: no short way in this program, it goes on with grpcio: OSError: True\n"
    )


def test_a_python_that_has_no_zerohop(tmp_path: Path) -> None:
    (tmp_path / "grpc.py").write_text("server = 'theirs'")
    base = os.path.realpath(sys.executable)
    probe = subprocess.run([base, "-c", "import zerohop"], capture_output=True, cwd="/")
    if probe.returncode == 0:
        pytest.skip("this Python has zerohop")
    done = run(tmp_path, "from grpc import server; print(server)", python=base)
    assert done.stdout == "theirs\n"
    assert f"it is not installed for {base}" in done.stderr


# --- the program's own sitecustomize ------------------------------------------------------------


def test_the_programs_own_sitecustomize_runs(site: Path) -> None:
    code = """
        import sys, sitecustomize
        print(sitecustomize.__file__)
        print(any("autoload" in path for path in sys.path))
    """
    assert output(site, code) == f"{site}/sitecustomize.py\nFalse"


def test_there_need_not_be_another(tmp_path: Path) -> None:
    code = "import sitecustomize; print(sitecustomize.__file__)"
    assert output(tmp_path, code).endswith("/sitecustomize.py")


@pytest.mark.parametrize("fault", ["1 / 0", "import no_such_module"])
def test_its_errors_are_shown_as_ever_and_are_not_ours(site: Path, fault: str) -> None:
    (site / "sitecustomize.py").write_text(STUB + fault)
    done = run(site, "import grpc; print(grpc.server)")
    assert (done.returncode, done.stdout) == (0, "ours\n")
    assert "Error in sitecustomize" in done.stderr
    assert "no short way" not in done.stderr


# --- children -------------------------------------------------------------------------------------


def test_programs_that_the_program_starts_are_included(site: Path) -> None:
    code = """
        import subprocess, sys
        subprocess.run([sys.executable, "-c", "import grpc; print(grpc.server)"], check=True)
    """
    assert output(site, code) == "ours"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_multiprocessing_are_included(site: Path, method: str) -> None:
    (site / "work.py").write_text("def work(_):\n    import grpc\n    return grpc.server")
    code = f"""
        import multiprocessing, work
        if __name__ == "__main__":
            with multiprocessing.get_context("{method}").Pool(1) as pool:
                print(pool.map(work.work, [0]))
    """
    assert output(site, code) == "['ours']"


def test_zerohop_run_0_leaves_a_program_out(site: Path) -> None:
    assert output(site, "import grpc; print(grpc.server == 'ours')", ZEROHOP_RUN="0") == "False"


@pytest.mark.skipif(
    not (Path(sys.executable).parent / "opentelemetry-instrument").exists(),
    reason="needs OpenTelemetry",
)
@pytest.mark.parametrize("first", ["zerohop", "opentelemetry"])
def test_under_opentelemetry_instrument(tmp_path: Path, first: str) -> None:
    (tmp_path / "app.py").write_text(
        "import sys, grpc\n"
        "print(sys.modules['zerohop_autoload']._finder.called)\n"
        "print('opentelemetry.instrumentation.grpc' in sys.modules)\n"
    )
    ours = [sys.executable, "-m", "zerohop", "run"]
    theirs = ["opentelemetry-instrument"]
    done = subprocess.run(
        [*(ours + theirs if first == "zerohop" else theirs + ours), "python", "app.py"],
        env={
            **os.environ,
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        timeout=50,
    )
    assert done.stdout == "True\nTrue\n"


# --- the command ----------------------------------------------------------------------------------


def test_the_program_takes_the_commands_place() -> None:
    code = (
        "import os, sys; print(os.getpid(), sys.argv[1:], os.environ['ZEROHOP_RUN']); sys.exit(7)"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "zerohop", "run", "python", "-c", code, "--explain", "--", "-h"],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        text, _ = process.communicate(timeout=50)
    assert text == f"{process.pid} ['--explain', '--', '-h'] 1\n"
    assert process.returncode == 7


def test_options_come_before_the_program() -> None:
    shell = 'echo "$ZEROHOP_EXPLAIN $ZEROHOP_ADVERTISE $1"'
    options = ["--explain", "--advertise", "a:1", "--advertise=b:2"]
    for separator in ([], ["--"]):
        done = zerohop("run", *options, *separator, "sh", "-c", shell, "sh", "--advertise")
        assert done.stdout == "1 a:1,b:2 --advertise\n"
        assert "the registry" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ([], 2, "which program? For example: zerohop run python server.py"),
        (["--explain"], 2, "which program?"),
        (["--"], 2, "which program?"),
        (["--no-such"], 2, "unrecognized arguments: --no-such"),
        (["--advertise"], 2, "expected one argument"),
        (["--advertise", "localhost:1", "true"], 2, "cannot advertise 'localhost:1'"),
        (["no-such-program"], 127, "cannot find the program 'no-such-program': it is not on PATH"),
        (["./none"], 127, "cannot find the program './none': there is no such file"),
        (["plain.py"], 126, "for a script: zerohop run python plain.py"),
        (["./plain.py"], 126, "for a script: zerohop run python ./plain.py"),
        (["./plain"], 126, "chmod +x"),
        (["./bare"], 126, "for a Python script: zerohop run python ./bare"),
        (["./dangling"], 126, "No such file or directory"),
    ],
)
def test_programs_that_cannot_be_run(arguments, status, text, tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text("")
    (tmp_path / "plain").write_text("")
    (tmp_path / "bare").write_text("print(1)")
    (tmp_path / "bare").chmod(0o755)
    (tmp_path / "dangling").write_text("#!/no/such/interpreter\n")
    (tmp_path / "dangling").chmod(0o755)
    done = zerohop("run", *arguments, cwd=tmp_path)
    assert done.returncode == status
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python app.py -S", ""),
        ("python -S app.py", "-S"),
        ("/usr/bin/python3.11 -I app.py", "-I"),
        ("python -uEs -m app -S", "-E"),
        ("python -IEm app", "-I, -E"),
        ("python -c -S", ""),
        ("python -X dev -W error -S app.py", "-S"),
        ("python -Xdev -Werror -B - -S", ""),
        ("python -WS app.py", ""),
        ("python --check-hash-based-pycs always -S app.py", "-S"),
        ("python --version -S", "-S"),
        ("python", ""),
        ("gunicorn -S app", ""),
    ],
)
def test_options_with_which_python_does_not_load_us(command: str, expected: str) -> None:
    assert ignored_options(command.split()) == expected


def test_a_warning_where_python_will_not_load_us() -> None:
    done = zerohop("run", sys.executable, "-I", "-c", "print(1)")
    assert done.stdout == "1\n"
    assert done.stderr == (
        "zerohop: with -I Python does not load zerohop: "
        "this program has to call zerohop.install() itself\n"
    )
