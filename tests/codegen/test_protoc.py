"""The plugin as users run it: `python -m zerohop.protoc`, and protoc with the plugin on PATH."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest
from genharness import Protos, proto2, proto3

SCRIPTS = sysconfig.get_path("scripts")


def run(
    folder: Path, module: str, *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=bare | dict(env or {}),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    """echo.proto, which imports a file of another folder, ours and one of google's."""
    Protos(
        tmp_path / "src",
        echo=proto3(
            'import "common/thing.proto"; import "zerohop/options.proto";'
            'import "google/protobuf/timestamp.proto";'
            "message Echo { common.Thing thing = 1; google.protobuf.Timestamp at = 2;"
            " bytes data = 3 [(zerohop.as_bytes) = true]; }"
        ),
    )
    Protos(tmp_path / "lib").write(
        "common/thing.proto", 'syntax = "proto3"; package common; message Thing {}'
    )
    (tmp_path / "out").mkdir()
    return tmp_path


def made(folder: Path) -> list[str]:
    return sorted(str(one.relative_to(folder)) for one in folder.rglob("*.py*"))


def test_import_from_another_folder(echo: Path) -> None:
    arguments = ("-Isrc", "--proto_path=lib", "--zerohop_out=out", "echo.proto")
    ran = run(echo, "zerohop.protoc", *arguments, "common/thing.proto")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert made(echo / "out") == [
        "common/thing_zerohop.py",
        "common/thing_zerohop.pyi",
        "echo_zerohop.py",
        "echo_zerohop.pyi",
    ]
    text = (echo / "out/echo_zerohop.py").read_text()
    assert "import common.thing_zerohop as _common_thing\n" in text
    assert "import zerohop.wellknown.timestamp_zerohop as _timestamp\n" in text
    assert "import zerohop.wellknown.options_zerohop as _options\n" in text


def test_the_current_folder_is_the_default(tmp_path: Path) -> None:
    Protos(tmp_path, a=proto3("message T {}"))
    ran = run(tmp_path, "zerohop.protoc", "--zerohop_out=.", "a.proto")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert made(tmp_path) == ["a_zerohop.py", "a_zerohop.pyi"]


def test_modules_of_the_current_folder_are_not_imported(tmp_path: Path) -> None:
    Protos(tmp_path, a=proto3("message T {}"))
    (tmp_path / "google").mkdir()
    (tmp_path / "google" / "__init__.py").write_text("raise SystemExit('wrong google')")
    arguments = ("-I.", "--zerohop_out=.", "a.proto")
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "zerohop.protoc", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_same_by_grpcio_tools_with_the_plugin_on_path(echo: Path) -> None:
    """Where our options are not imported, since nobody adds their folder."""
    Protos(echo / "src", plain=proto3("message T { int32 a = 1; }"))
    path = {"PATH": f"{SCRIPTS}:/usr/bin:/bin"}
    (echo / "tools").mkdir()
    ours = run(echo, "zerohop.protoc", "-Isrc", "--zerohop_out=out", "plain.proto")
    theirs = run(echo, "grpc_tools.protoc", "-Isrc", "--zerohop_out=tools", "plain.proto", env=path)
    assert (ours.returncode, theirs.returncode) == (0, 0), ours.stderr + theirs.stderr
    for name in ("plain_zerohop.py", "plain_zerohop.pyi"):
        assert (echo / "out" / name).read_text() == (echo / "tools" / name).read_text()


def test_other_outputs_beside_ours(tmp_path: Path) -> None:
    Protos(tmp_path, a=proto3("message T {}"))
    arguments = ("-I.", "--python_out=.", "--pyi_out=.", "--zerohop_out=.", "a.proto")
    assert run(tmp_path, "zerohop.protoc", *arguments).returncode == 0
    assert made(tmp_path) == ["a_pb2.py", "a_pb2.pyi", "a_zerohop.py", "a_zerohop.pyi"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('syntax = "proto3";\nmessage T { Gone a = 1; }', 'a.proto:2:13: "Gone" is not defined.'),
        ('syntax = "proto3";\nmessage T { int32 a = ; }', "a.proto:2:23: Expected field number."),
        (
            'syntax = "proto2";\npackage t;\nmessage T {\n  repeated group G = 1 {}\n}',
            "--zerohop_out: a.proto:4:3: t.T.g: groups are not supported",
        ),
        (
            proto2("message T { extensions 2; }\nextend T { optional int32 x = 2; }"),
            "--zerohop_out: a.proto:2:12: t.x: extensions are not supported (extend t.T)",
        ),
        (
            proto3("message T {}\nenum DESCRIPTOR { NONE = 0; }"),
            "--zerohop_out: a.proto: t.DESCRIPTOR: the generated module uses this name itself",
        ),
    ],
)
def test_errors_are_protocs(tmp_path: Path, text: str, error: str) -> None:
    Protos(tmp_path, a=text)
    ran = run(tmp_path, "zerohop.protoc", "--zerohop_out=.", "a.proto")
    assert ran.returncode == 1
    assert ran.stderr.strip() == error
    assert made(tmp_path) == []


def test_all_files_with_errors_are_named(tmp_path: Path) -> None:
    group = proto2("message {} {{ optional group G = 1 {{}} }}")
    Protos(tmp_path, a=group.format("A"), b=proto3("message B {}"), c=group.format("C"))
    ran = run(tmp_path, "zerohop.protoc", "--zerohop_out=.", "a.proto", "b.proto", "c.proto")
    assert ran.returncode == 1
    assert ran.stderr.strip().splitlines() == [
        "--zerohop_out: a.proto:1:43: t.A.g: groups are not supported",
        "c.proto:1:43: t.C.g: groups are not supported",
    ]
    assert made(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--zerohop_out=.", "gone.proto"], "gone.proto: No such file or directory"),
        (["--zerohop_out=gone", "a.proto"], "gone/: No such file or directory"),
        (["--zerohop_out=x=1:.", "a.proto"], "--zerohop_out: unknown option x=1: zerohop has none"),
        (["a.proto"], "Missing output directives."),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: list[str], error: str) -> None:
    Protos(tmp_path, a=proto3("message T {}"))
    ran = run(tmp_path, "zerohop.protoc", *arguments)
    assert ran.returncode == 1
    assert error in ran.stderr


def test_help(tmp_path: Path) -> None:
    helped = run(tmp_path, "zerohop.protoc", "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    example = "example: python -m zerohop.protoc -I. --zerohop_out=. echo.proto"
    assert example in helped.stdout
    alone = run(tmp_path, "zerohop.protoc")
    assert (alone.returncode, alone.stdout) == (1, "")
    assert example in alone.stderr


def test_without_grpcio_tools(tmp_path: Path) -> None:
    (tmp_path / "grpc_tools.py").write_text("raise ImportError")
    ran = run(tmp_path, "zerohop.protoc", "--zerohop_out=.", "a.proto")
    assert ran.returncode == 1
    assert ran.stderr == "modules are made with grpcio-tools: pip install grpcio-tools\n"


def test_the_plugin_alone_says_what_it_is_for(tmp_path: Path) -> None:
    ran = subprocess.run(
        [os.path.join(SCRIPTS, "protoc-gen-zerohop"), "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert "protoc -I. --zerohop_out=. FILE.proto" in ran.stderr
