"""Generated modules at work: in the real run time, over grpcio and over zerohop."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
import zerohop
from genharness import Protos
from vectors import HERE, PROTOS, Vectors, parse
from zerohop.codegen.layout import fingerprint
from zerohop.codegen.protoc import main

TALK = """
syntax = "proto3";
package zerohop.test.generated;
import "google/protobuf/timestamp.proto";
import "zerohop/options.proto";
message Word {
  enum Kind { PLAIN = 0; LOUD = 1; }
  string text = 1;
  google.protobuf.Timestamp at = 2;
  bytes seen = 3;
  bytes kept = 4 [(zerohop.as_bytes) = true];
  Kind class = 5;
}
service Talk {
  rpc Say(Word) returns (Word);
  rpc Join(stream Word) returns (Word);
  rpc Split(Word) returns (stream Word);
  rpc pass(stream Word) returns (stream Word);
  rpc Never(Word) returns (Word);
}
"""


def generated(folder: Path, *names: str) -> list[ModuleType]:
    assert main([f"-I{folder}", f"--zerohop_out={folder}", *names]) == 0
    sys.path.insert(0, str(folder))
    try:
        return [importlib.import_module(f"{Path(name).stem}_zerohop") for name in names]
    finally:
        sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModuleType]:
    folder = tmp_path_factory.mktemp("generated")
    for name in PROTOS:
        (folder / name).write_bytes((HERE / name).read_bytes())
    return dict(zip(PROTOS, generated(folder, *PROTOS), strict=True))


@pytest.mark.parametrize("name", PROTOS)
def test_fingerprints_of_both_languages(modules: dict[str, ModuleType], name: str) -> None:
    for message in Vectors().tables[name].messages:
        cls: Any = modules[name]
        for part in message.name.split("."):
            cls = getattr(cls, part)
        assert cls._fingerprint() == fingerprint(message), message.name


@pytest.mark.parametrize(
    "image",
    [words for words, _ in parse((HERE / "images.txt").read_text()) if words[0] == "image"],
    ids=lambda words: words[1],
)
def test_wire_bytes_of_the_vectors(modules: dict[str, ModuleType], image: list[str]) -> None:
    sections = parse((HERE / "images.txt").read_text())
    at = next(n for n, (words, _) in enumerate(sections) if words == image)
    wire = next(data for words, data in sections[at:] if words[0] == "wire")
    cls = getattr(modules[image[2]], image[4].rpartition(".")[2])
    assert cls.FromString(wire).SerializeToString(deterministic=True) == wire


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("talk")
    Protos(folder, generated_talk=TALK)
    (module,) = generated(folder, "generated_talk.proto")
    return module


def test_messages(talk: Any) -> None:
    word = talk.Word(text="a", at={"seconds": 3}, seen=b"seen", kept=bytearray(b"kept"))
    setattr(word, "class", talk.Word.LOUD)
    assert (bytes(word.seen), type(word.seen)) == (b"seen", memoryview)
    assert word.kept == b"kept"
    assert word.at.ToSeconds() == 3
    assert getattr(word, "class") == talk.Word.Kind.Value("LOUD") == 1
    assert talk.DESCRIPTOR.message_types_by_name["Word"] is talk.Word.DESCRIPTOR


@pytest.fixture(params=["grpcio", "zerohop"])
def stub(request: pytest.FixtureRequest, talk: Any, tmp_path: Path) -> Iterator[Any]:
    class Talk(talk.TalkServicer):  # type: ignore[misc]
        def Say(self, request: Any, context: Any) -> Any:
            return talk.Word(text=request.text.upper(), seen=request.seen)

        def Join(self, request_iterator: Any, context: Any) -> Any:
            return talk.Word(text="".join(one.text for one in request_iterator))

        def Split(self, request: Any, context: Any) -> Any:
            return (talk.Word(text=one) for one in request.text)

    def both(request_iterator: Any, context: Any) -> Any:
        yield from request_iterator

    servicer = Talk()
    setattr(servicer, "pass", both)
    with ThreadPoolExecutor(4) as pool:
        of: Any = grpc if request.param == "grpcio" else zerohop
        server = of.server(pool)
        talk.add_TalkServicer_to_server(servicer, server)
        scheme = "unix" if request.param == "grpcio" else "shm"
        target = f"{scheme}:{tmp_path}/socket"
        server.add_insecure_port(target)
        server.start()
        with of.insecure_channel(target) as channel:
            yield talk.TalkStub(channel)
        server.stop(None).wait()


def test_stub_and_servicer(talk: Any, stub: Any) -> None:
    said = stub.Say(talk.Word(text="abc", seen=bytes(5000)), timeout=20)
    assert (said.text, bytes(said.seen)) == ("ABC", bytes(5000))
    words = [talk.Word(text="a"), talk.Word(text="b")]
    assert stub.Join(iter(words), timeout=20).text == "ab"
    assert [one.text for one in stub.Split(talk.Word(text="xyz"), timeout=20)] == ["x", "y", "z"]
    assert list(getattr(stub, "pass")(iter(words), timeout=20)) == words
    with pytest.raises(grpc.RpcError) as raised:
        stub.Never(talk.Word(), timeout=20)
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert raised.value.details() == "Method not implemented!"
