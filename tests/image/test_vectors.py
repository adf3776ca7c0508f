"""The vectors are what the code makes, and protobuf agrees with what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
from vectors import HERE, PROTOS, Vectors, everything, parse, texts

IMAGES = parse((HERE / "images.txt").read_text())


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return Vectors()


@pytest.mark.parametrize("path", texts(), ids=lambda path: path.name)
def test_files_are_current(path: Path) -> None:
    assert path.read_text() == texts()[path], "run: python tests/image/vectors.py"


@pytest.mark.parametrize("name", PROTOS)
def test_hex_and_comments_are_the_table(vectors: Vectors, name: str) -> None:
    sections = parse((HERE / name.replace(".proto", ".txt")).read_text())
    assert dict((words[0], data) for words, data in sections)["table"] == vectors.tables[name].data


def wires() -> list[tuple[str, str, bytes]]:
    found = []
    for words, data in IMAGES:
        if words[0] == "image":
            named = words[1], words[4].rpartition(".")[2]
        elif words[0] == "wire":
            found.append((*named, data))
    return found


@pytest.mark.parametrize(("image", "message", "wire"), wires(), ids=lambda value: str(value)[:20])
def test_protobuf_reads_the_wire_bytes_so_too(
    vectors: Vectors, image: str, message: str, wire: bytes
) -> None:
    cls = vectors.cls(message)
    parsed = cls.FromString(wire)
    assert parsed.SerializeToString(deterministic=True) == wire, image


@pytest.mark.parametrize("image", ["everything", "spread"])
def test_maps_and_all_else_come_back(vectors: Vectors, image: str) -> None:
    wire = next(wire for name, _, wire in wires() if name == image)
    assert vectors.cls("Everything").FromString(wire) == everything(vectors)


def test_there_are_images_of_each_kind() -> None:
    images = [words[1] for words, _ in IMAGES if words[0] == "image"]
    segments = [data for words, data in IMAGES if words[0] == "segment"]
    roots = [data for words, data in IMAGES if words[0] == "root"]
    assert len(images) == len(set(images)) == len(roots) >= 5
    assert max(map(len, segments)) >= 4096
    assert max(map(len, roots)) <= 1024
