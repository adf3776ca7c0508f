"""Make and read the vectors in tests/image/vectors: `python tests/image/vectors.py` writes them.

A file of vectors is text: `#` begins a comment; a line `[words ...]` begins a section; the other
lines are the section's bytes in hex.

NAME.txt belongs to NAME.proto:
    [external FILE INDEX FULL-NAME]     in the order of the table; no bytes
    [table]
    [canonical INDEX FULL-NAME]         INDEX: of the message in the table
    [fingerprint INDEX FULL-NAME]
images.txt:
    [image NAME FILE INDEX FULL-NAME]   begins an image; no bytes
    [root]
    [segment NUMBER]                    from offset 0 on
    [wire]                              what zh_wire_encode makes of it, maps by key
Keys are sorted as protobuf does where it is asked to be deterministic: numbers falling, as unsigned
ones of their width; text by its bytes, a longer one before its own beginning.
"""

from __future__ import annotations

import struct
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_tools import protoc
from reference import Reader, Writer
from zerohop.codegen.layout import (
    Field,
    Layouts,
    Message,
    Table,
    canonical,
    fingerprint,
)

HERE = Path(__file__).with_name("vectors")
PROTOS = ("edition.proto", "everything.proto", "legacy.proto", "recursive.proto", "scalars.proto")
PACKAGE = "zerohop.vectors"


def compiled(folder: Path, names: Sequence[str]) -> Sequence[descriptor_pb2.FileDescriptorProto]:
    """The descriptors of some files and of all that they import, imported ones first."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "files"
        google = files("grpc_tools") / "_proto"
        code = protoc.main(
            [
                "protoc",
                f"-I{folder}",
                f"-I{google}",
                "--include_imports",
                f"--descriptor_set_out={out}",
                *names,
            ]
        )
        assert code == 0
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file


class Vectors:
    def __init__(self) -> None:
        self.files = compiled(HERE, PROTOS)
        self.layouts = Layouts(self.files)
        self.tables: dict[str, Table] = {name: self.layouts.table(name) for name in PROTOS}
        self._pool = DescriptorPool()
        for file in self.files:
            self._pool.Add(file)

    def cls(self, name: str) -> Any:
        """protobuf's own class."""
        return message_factory.GetMessageClass(
            self._pool.FindMessageTypeByName(f"{PACKAGE}.{name}")
        )

    def layout(self, name: str) -> Message:
        return self.layouts.message(f"{PACKAGE}.{name}")

    def place(self, message: Message) -> str:
        index = [one.full_name for one in self.tables[message.file].messages].index(
            message.full_name
        )
        return f"{message.file} {index} {message.full_name}"

    # --- tables -----------------------------------------------------------------------------------

    def proto_text(self, name: str) -> str:
        table = self.tables[name]
        lines = [f"# The layouts of {name}. Made by tests/image/vectors.py.", ""]
        for external in table.externals:
            lines.append(f"[external {self.place(external)}]")
        lines += ["[table]", *self._table_lines(table)]
        for index, message in enumerate(table.messages):
            lines += ["", f"[canonical {index} {message.full_name}]"]
            lines += hexed(canonical(message))
            lines.append(f"[fingerprint {index} {message.full_name}]")
            lines += hexed(fingerprint(message))
        return "\n".join(lines) + "\n"

    def _table_lines(self, table: Table) -> Iterator[str]:
        at = 0

        def part(size: int, comment: str) -> str:
            nonlocal at
            data = table.data[at : at + size]
            at += size
            return f"{data.hex(' ', -4)}  # {comment}"

        counts = struct.unpack_from("<HHHHII", table.data, 8)
        yield part(
            32,
            "messages {}, external {}, closed enums {}, fields {}, values {}".format(
                *counts[:3], *counts[4:6]
            ),
        )
        for message in table.messages:
            yield part(24, f"{message.name}: {message.size} bytes")
        for message in table.messages:
            for field in message.fields:
                yield part(32, f"{message.name}.{field.name} = {field.number}")
        for _ in range(counts[2]):
            yield part(8, "closed enum")
        for comment in ("values", "defaults"):
            size = 4 * counts[5] if comment == "values" else len(table.data) - at
            for line in hexed(table.data[at : at + -(-size // 8) * 8]):
                yield f"{line}  # {comment}"
            at += -(-size // 8) * 8

    # --- images -----------------------------------------------------------------------------------

    def images_text(self) -> str:
        lines = ["# Images and the wire bytes they mean. Made by tests/image/vectors.py."]
        for make in IMAGES:
            name = make.__name__.removeprefix("image_")
            layout, writer = make(self)
            lines += ["", f"# {make.__doc__}", f"[image {name} {self.place(layout)}]", "[root]"]
            lines += hexed(bytes(writer.root))
            for number, data in sorted(writer.segments.items()):
                lines += [f"[segment {number}]", *hexed(bytes(data))]
            reader = Reader(
                bytes(writer.root), {n: bytes(data) for n, data in writer.segments.items()}
            )
            lines += ["[wire]", *hexed(reader.encode(layout))]
        return "\n".join(lines) + "\n"

    def build(
        self, name: str, message: Any, *, spread: bool = False, unknown: bytes = b""
    ) -> tuple[Message, Writer]:
        layout = self.layout(name)
        writer = Writer(layout, spread=spread)
        writer.write(layout, message, unknown)
        return layout, writer


def field_of(layout: Message, name: str) -> Field:
    return next(field for field in layout.fields if field.name == name)


def image_nothing(vectors: Vectors) -> tuple[Message, Writer]:
    """Nothing is set: a struct of zeros."""
    return vectors.build("Scalars", vectors.cls("Scalars")())


def image_scalars(vectors: Vectors) -> tuple[Message, Writer]:
    """A value of each type, the least or the greatest one."""
    return vectors.build(
        "Scalars",
        vectors.cls("Scalars")(
            flag=True,
            ratio=-0.0,
            small=-(2**31),
            text="grün",
            weight=1.5,
            large=-(2**63),
            count=2**32 - 1,
            total=2**64 - 1,
            delta=-(2**31),
            drift=-(2**63),
            mark=0xDEADBEEF,
            stamp=0x0123456789ABCDEF,
            level=-2,
            depth=-3,
            data=bytes(range(20)),
        ),
    )


def image_presence(vectors: Vectors) -> tuple[Message, Writer]:
    """Set to the value that is none: presence bits alone tell."""
    return vectors.build(
        "Optionals", vectors.cls("Optionals")(flag=False, small=0, text="", data=b"", ratio=0.0)
    )


def everything(vectors: Vectors) -> Any:
    cls = vectors.cls("Everything")
    inner = cls.Inner
    return cls(
        id=-5,
        colour=1,
        inner=inner(kind=7, deep=inner.Deep(value=11), name="inner"),
        deep=inner.Deep(),
        scalars=vectors.cls("Scalars")(text="other file", flag=True),
        maybe=0,
        maybe_inner=inner(),
        number=-1,
        word="one of",
        flags=[True, False, True],
        numbers=[1, -1, 300],
        stamps=[7, 2**63],
        colours=[0, -2, 99],
        words=["", "two", "three"],
        pieces=[b"\0\xff", b""],
        inners=[inner(name="a"), inner(), inner(kind=7)],
        ratios=[0.5, -1.0],
        totals={"b": 2, "a": -1, "": 0},
        by_number={3: inner(name="three"), -3: inner()},
        by_flag={True: b"yes", False: b""},
        by_stamp={2**63: -2, 1: 1},
        last="last",
    )


def image_everything(vectors: Vectors) -> tuple[Message, Writer]:
    """All kinds of fields; what the root has no room for lies in segment 1."""
    return vectors.build("Everything", everything(vectors))


def image_spread(vectors: Vectors) -> tuple[Message, Writer]:
    """The same message; only its first struct lies in the root."""
    return vectors.build("Everything", everything(vectors), spread=True)


def image_oneof_message(vectors: Vectors) -> tuple[Message, Writer]:
    """A message of default values as a member of a oneof, and a bool in a unit of four bytes."""
    cls = vectors.cls("Everything")
    return vectors.build("Everything", cls(below=cls.Inner.Deep(), yes=False))


def image_wide(vectors: Vectors) -> tuple[Message, Writer]:
    """A struct of 528 bytes: the root is a reference to it."""
    texts = {f"s{n:02}": f"text {n}" * (n % 3) for n in range(1, 33)}
    return vectors.build("Wide", vectors.cls("Wide")(**texts), spread=True)


def image_wide_near(vectors: Vectors) -> tuple[Message, Writer]:
    """A struct over 512 bytes may lie in the root too, behind the reference."""
    return vectors.build("Wide", vectors.cls("Wide")(s32="near"))


def image_blob(vectors: Vectors) -> tuple[Message, Writer]:
    """4,096 bytes lie in a block of their own, from its beginning on."""
    data = bytes(n * n % 251 for n in range(4096))
    return vectors.build("Scalars", vectors.cls("Scalars")(data=data, text="short"))


def image_legacy(vectors: Vectors) -> tuple[Message, Writer]:
    """proto2: required fields, a default value that is set, expanded arrays, a oneof."""
    cls = vectors.cls("Legacy")
    return vectors.build(
        "Legacy",
        cls(
            id=0,
            count=-7,
            grade=-3,
            side=2,
            child=vectors.cls("Child")(name="child"),
            numbers=[1, 2],
            packed_numbers=[-1, 1],
            grades=[5, 0],
            names={0: "zero", -1: ""},
            number=0,
        ),
    )


def image_unknown(vectors: Vectors) -> tuple[Message, Writer]:
    """Unknown fields, in the order of arrival: 9 and 2 of wire types 0 and 2."""
    return vectors.build(
        "Child", vectors.cls("Child")(name="c"), unknown=b"\x48\x96\x01\x92\x03\x02\xff\xfe"
    )


def image_recursive(vectors: Vectors) -> tuple[Message, Writer]:
    """Messages within themselves."""
    tree = vectors.cls("Tree")
    forest = vectors.cls("Forest")
    return vectors.build(
        "Tree",
        tree(
            value=1,
            left=tree(value=2, left=tree()),
            others=[tree(value=3, others=[tree()])],
            named={"k": tree(value=4), "empty": tree()},
            around=forest(trees=[tree(value=5)], next=forest(next=forest())),
        ),
    )


def image_edition(vectors: Vectors) -> tuple[Message, Writer]:
    """An edition: presence, packing and checks as its features say."""
    return vectors.build(
        "Edition",
        vectors.cls("Edition")(
            implicit=0,
            explicit=0,
            required=-1,
            raw="raw",
            text="text",
            open=77,
            shut=0,
            numbers=[1, 2],
            expanded=[3, 4],
            shuts=[-1, 4],
            inner=vectors.cls("Edition")(required=0),
            texts={"k": "v"},
            by_number={1: 2},
            word="",
        ),
    )


def image_untidy(vectors: Vectors) -> tuple[Message, Writer]:
    """Legal, if untidy: a bool of 2, an empty slot with a reference to nowhere, any room."""
    layout, writer = vectors.build("Scalars", vectors.cls("Scalars")(flag=True, text="abc"))
    writer.poke(field_of(layout, "flag").offset, b"\x02")
    writer.poke(field_of(layout, "text").offset + 12, b"\xff\xff\xff\xff")
    writer.poke(field_of(layout, "data").offset, struct.pack("<QII", 2**64 - 1, 0, 2**32 - 1))
    return layout, writer


IMAGES: tuple[Callable[[Vectors], tuple[Message, Writer]], ...] = (
    image_nothing,
    image_scalars,
    image_presence,
    image_everything,
    image_spread,
    image_oneof_message,
    image_wide,
    image_wide_near,
    image_blob,
    image_legacy,
    image_unknown,
    image_recursive,
    image_edition,
    image_untidy,
)


def hexed(data: bytes) -> list[str]:
    return [data[n : n + 32].hex(" ", -4) for n in range(0, len(data), 32)]


def parse(text: str) -> list[tuple[list[str], bytes]]:
    """The sections of a file of vectors: their words and bytes."""
    sections: list[tuple[list[str], bytes]] = []
    for line in text.splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("["):
            sections.append((line.strip("[]").split(), b""))
        elif line:
            words, data = sections[-1]
            sections[-1] = (words, data + bytes.fromhex(line))
    return sections


def texts() -> dict[Path, str]:
    """All files of vectors as they should be."""
    vectors = Vectors()
    made = {HERE / name.replace(".proto", ".txt"): vectors.proto_text(name) for name in PROTOS}
    made[HERE / "images.txt"] = vectors.images_text()
    return made


if __name__ == "__main__":
    for path, text in texts().items():
        path.write_text(text)
    sys.exit(0)
