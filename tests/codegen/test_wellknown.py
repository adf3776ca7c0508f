"""The modules of the well-known types and of our options, generated ahead."""

from __future__ import annotations

import importlib
from importlib.resources import files
from pathlib import Path

import pytest
from genharness import Protos, proto3
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import Default
from wellknown import HERE, texts
from zerohop.codegen.names import AHEAD
from zerohop.codegen.source import AS_BYTES, has_as_bytes


@pytest.mark.parametrize("path", texts(), ids=lambda path: path.name)
def test_files_are_current(path: Path) -> None:
    again = "run: PYTHONPATH=tests/image python tests/codegen/wellknown.py"
    assert path.read_text() == texts()[path], again


def test_all_are_installed() -> None:
    installed = Path(str(files("zerohop"))) / "wellknown"
    for path in HERE.glob("*.py*"):
        assert (installed / path.name).read_text() == path.read_text()
    assert len(list(HERE.glob("*_zerohop.py"))) == len(AHEAD) == len(texts()) / 2


def test_options_proto_is_installed_and_has_the_number() -> None:
    text = (files("zerohop") / "proto" / "zerohop" / "options.proto").read_text()
    assert f"optional bool as_bytes = {AS_BYTES};" in text


def test_the_option_is_read_whether_or_not_protobuf_knows_it(tmp_path: Path) -> None:
    protos = Protos(tmp_path, a=proto3('import "zerohop/options.proto"; message T {bytes a = 1;}'))
    ours = files("zerohop") / "proto" / "zerohop" / "options.proto"
    protos.write("zerohop/options.proto", ours.read_text())
    text = proto3(
        'import "zerohop/options.proto"; message T {bytes a = 1 [(zerohop.as_bytes)=true];}'
    )
    protos.write("b.proto", text.replace("package t", "package u"))
    fields = {file.name: file.message_type[0].field for file in protos.files() if file.message_type}
    assert [has_as_bytes(fields[name][0]) for name in ("a.proto", "b.proto")] == [False, True]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (
            "google/protobuf/any.proto",
            "google/protobuf/any.proto: zerohop has its module already:"
            " zerohop.wellknown.any_zerohop",
        ),
        (
            "google/protobuf/api.proto",
            "google/protobuf/api.proto: zerohop has no messages for this file",
        ),
    ],
)
def test_googles_files_are_not_generated_again(tmp_path: Path, name: str, error: str) -> None:
    protos = Protos(tmp_path, a=proto3(f'import "{name}"; message T {{}}'))
    assert protos.response(name).error == error


@pytest.mark.parametrize("name", [name for name in AHEAD if name.startswith("google/")])
def test_messages_mean_what_protobufs_do(name: str) -> None:
    pytest.importorskip("zerohop.generated", exc_type=ImportError)
    module = importlib.import_module(AHEAD[name])
    for message in module.DESCRIPTOR.message_types_by_name.values():
        ours = getattr(module, message.name)
        theirs = message_factory.GetMessageClass(Default().FindMessageTypeByName(message.full_name))
        assert ours.DESCRIPTOR is theirs.DESCRIPTOR
        assert ours().SerializeToString() == b""


def test_helpers() -> None:
    pytest.importorskip("zerohop.generated", exc_type=ImportError)
    timestamp = importlib.import_module("zerohop.wellknown.timestamp_zerohop")
    assert timestamp.Timestamp(seconds=3, nanos=5).ToNanoseconds() == 3_000_000_005
