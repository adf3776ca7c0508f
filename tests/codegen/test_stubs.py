"""Stub compilation: made once, made anew when a source changes, by many at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from zerohop.codegen.stubs import StubsError, compile_stubs, import_generated, import_stubs

MAIN = """syntax = "proto3";
package stubs.test.{name};
import "google/protobuf/timestamp.proto";
{imports}
message {name} {{ google.protobuf.Timestamp when = 1; string text = 2; }}
service Teller {{ rpc Tell({name}) returns ({name}); }}
"""


@pytest.fixture
def proto(tmp_path: Path) -> Path:
    path = tmp_path / "main_story.proto"
    path.write_text(MAIN.format(name="Story", imports=""))
    return path


def inodes(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in out.glob("*.py")}


def test_makes_both_files_and_nothing_else(proto: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    compile_stubs(proto, out)
    names = sorted(path.name for path in out.iterdir())
    assert names == ["main_story.stubs.json", "main_story_pb2.py", "main_story_pb2_grpc.py"]


def test_fresh_stubs_are_left_alone(proto: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    compile_stubs(proto, out)
    before = inodes(out)
    compile_stubs(proto, out)
    assert inodes(out) == before


def test_a_change_makes_them_anew(proto: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    compile_stubs(proto, out)
    before = inodes(out)
    proto.write_text(proto.read_text().replace("text = 2", "word = 2"))
    compile_stubs(proto, out)
    assert inodes(out) != before
    assert "word" in (out / "main_story_pb2.py").read_text()


def test_a_lost_file_makes_them_anew(proto: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    compile_stubs(proto, out)
    (out / "main_story_pb2_grpc.py").unlink()
    compile_stubs(proto, out)
    assert (out / "main_story_pb2_grpc.py").is_file()


def test_a_spoiled_stamp_makes_them_anew(proto: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    compile_stubs(proto, out)
    for spoiled in ("", "[]", "{}", "{", '{"grpcio-tools": 1, "outputs": 2, "sources": 3}'):
        (out / "main_story.stubs.json").write_text(spoiled)
        (out / "main_story_pb2.py").write_text("spoiled")
        compile_stubs(proto, out)
        assert (out / "main_story_pb2.py").read_text() != "spoiled"


def test_imported_files_are_compiled_and_watched(proto: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "words.proto").write_text('syntax = "proto3"; message Word { string a = 1; }')
    proto.write_text(MAIN.format(name="Story", imports='import "words.proto";'))
    compile_stubs(proto, out, include=[shared])
    assert (out / "words_pb2.py").is_file()
    (shared / "words.proto").write_text('syntax = "proto3"; message Word { string b = 1; }')
    before = inodes(out)
    compile_stubs(proto, out, include=[shared])
    assert inodes(out) != before


def test_folders_below_a_root_become_packages(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    proto = tmp_path / "folder" / "below_story.proto"
    proto.write_text(MAIN.format(name="Below", imports=""))
    messages, services = import_stubs(proto, tmp_path / "out", include=[tmp_path])
    assert messages.__name__ == "folder.below_story_pb2"
    assert services.TellerStub


def test_import(tmp_path: Path) -> None:
    proto = tmp_path / "imported_story.proto"
    proto.write_text(MAIN.format(name="Imported", imports=""))
    messages, services = import_stubs(proto)
    assert messages.Imported(text="once").text == "once"
    assert services.TellerServicer
    assert (tmp_path / "__pycache__" / "stubs" / "imported_story_pb2.py").is_file()
    assert import_stubs(proto) == (messages, services)

    twin = tmp_path / "elsewhere" / "imported_story.proto"
    twin.parent.mkdir()
    twin.write_text(proto.read_text())
    with pytest.raises(StubsError, match="is taken in this process by"):
        import_stubs(twin)


def test_import_of_generated_messages(tmp_path: Path) -> None:
    proto = tmp_path / "generated-story.proto"
    proto.write_text(
        """syntax = "proto3"; package stubs.test.generated;
        message Story { bytes digest = 1; }
        service Teller { rpc Tell(Story) returns (Story); }"""
    )
    module = import_generated(proto)
    assert bytes(module.Story(digest=b"once").digest) == b"once"
    assert module.TellerStub
    out = tmp_path / "__pycache__" / "stubs"
    made = out / "generated_story_zerohop.py"
    assert made.with_suffix(".pyi").is_file()
    before = made.stat().st_ino
    assert import_generated(proto) is module
    assert made.stat().st_ino == before

    # A change of the generator counts as one of the source.
    stamp = out / "generated-story.zerohop.json"
    stamp.write_text(stamp.read_text().replace('"generator": "', '"generator": "other '))
    import_generated(proto)
    assert made.stat().st_ino != before


def test_stock_and_generated_stubs_beside_each_other(tmp_path: Path) -> None:
    proto = tmp_path / "both_story.proto"
    proto.write_text(
        'syntax = "proto3"; package stubs.test.both; message Both { string text = 1; }'
    )
    messages, _ = import_stubs(proto)
    generated = import_generated(proto)
    wire = generated.Both(text="once").SerializeToString()
    assert messages.Both.FromString(wire).text == "once"


def test_many_at_once(proto: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = (
        "import sys; from zerohop.codegen.stubs import import_stubs;"
        "print(import_stubs(*sys.argv[1:])[0].Story(text='once').text)"
    )
    command = [sys.executable, "-c", program, str(proto), str(out)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    assert [process.communicate(timeout=60)[0] for process in started] == ["once\n"] * 6
    assert len(list(out.glob("*_pb2*.py"))) == 2
    assert not list(out.glob(".stubs-*"))


def test_errors_say_what_is_wrong(proto: Path, tmp_path: Path) -> None:
    with pytest.raises(StubsError, match=r"missing\.proto: no such file"):
        compile_stubs(tmp_path / "missing.proto", tmp_path)
    with pytest.raises(StubsError, match="choose another folder"):
        compile_stubs(proto, "/proc/none")
    proto.write_text("message {")
    with pytest.raises(StubsError, match=r"main_story\.proto:1:"):
        compile_stubs(proto, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_command_line(proto: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "zerohop.codegen.stubs", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    out = str(tmp_path / "out")
    first, second = (run(str(proto), "--out", out) for _ in range(2))
    assert (first.returncode, first.stdout) == (0, f"{proto}: compiled to {out}\n")
    assert (second.returncode, second.stdout) == (0, f"{proto}: is up to date in {out}\n")
    wrong = run(str(tmp_path / "missing.proto"), "--out", out)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: ")
    assert "Traceback" not in wrong.stderr
    assert "example: " in run("--help").stdout
