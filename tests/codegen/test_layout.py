"""The rules of docs/image.md, one small message at a time, and protobuf's view of each field."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from genharness import Protos, edition, proto2, proto3
from google.protobuf import descriptor_pb2, struct_pb2, type_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import Vectors
from zerohop.codegen.layout import (
    CLOSED,
    MAP,
    ONEOF,
    OPTIONAL,
    PACKED,
    REPEATED,
    REQUIRED,
    UTF8,
    Field,
    LayoutError,
    Layouts,
    Message,
    canonical,
    fingerprint,
)

WIDTHS = {
    "double": 8,
    "float": 4,
    "int32": 4,
    "int64": 8,
    "uint32": 4,
    "uint64": 8,
    "sint32": 4,
    "sint64": 8,
    "fixed32": 4,
    "fixed64": 8,
    "sfixed32": 4,
    "sfixed64": 8,
    "bool": 1,
    "string": 16,
    "bytes": 16,
    "E": 4,
    "M": 8,
}
EXTRA = " enum E { ZERO = 0; } message M {}"


def field(message: Message, name: str) -> Field:
    return next(one for one in message.fields if one.name == name)


def offsets(message: Message) -> dict[str, int]:
    return {one.name: one.offset for one in message.fields}


# --- structs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WIDTHS)
def test_width_of_each_type(tmp_path: Path, kind: str) -> None:
    body = f"message T {{ {kind} a = 1; {kind} b = 2; repeated {kind} c = 3; }}"
    message = Protos(tmp_path, a=proto3(body + EXTRA)).layout("t.T")
    width = WIDTHS[kind]
    first = 16 if width == 16 else 32
    assert offsets(message)["b"] - offsets(message)["a"] == width
    assert offsets(message) == {
        "a": first,
        "b": first + width,
        "c": first + 2 * width if width == 16 else 16,
    }
    assert message.size == -(-(16 + 16 + 2 * width) // 8) * 8


def test_units_by_width_then_by_number(tmp_path: Path) -> None:
    body = """message T { bool a = 9; bytes b = 8; int32 c = 7; double d = 6; string e = 5;
        float f = 4; M g = 3; bool h = 2; repeated bool i = 1; map<int32, bool> j = 10; }"""
    message = Protos(tmp_path, a=proto3(body + EXTRA)).layout("t.T")
    assert [one.number for one in message.fields] == list(range(1, 11))
    assert offsets(message) == {
        "i": 16,
        "e": 32,
        "b": 48,
        "j": 64,
        "g": 80,
        "d": 88,
        "f": 96,
        "c": 100,
        "h": 104,
        "a": 105,
    }
    assert message.size == 112


def test_an_empty_message_has_room_for_unknown_fields(tmp_path: Path) -> None:
    message = Protos(tmp_path, a=proto3("message T {}")).layout("t.T")
    assert (message.size, message.fields) == (16, [])


@pytest.mark.parametrize(("count", "first"), [(1, 24), (32, 24), (33, 24), (64, 24), (65, 32)])
def test_presence_words(tmp_path: Path, count: int, first: int) -> None:
    fields = " ".join(f"optional bool f{n} = {n};" for n in range(1, count + 1))
    message = Protos(tmp_path, a=proto3(f"message T {{ {fields} }}")).layout("t.T")
    assert [one.bit for one in message.fields] == list(range(count))
    assert (message.bits, message.oneofs) == (count, 0)
    assert message.fields[0].offset == first


def test_a_oneof_shares_a_unit_in_the_place_of_its_smallest_number(tmp_path: Path) -> None:
    body = """message T { double a = 1; oneof x { bool c = 5; int64 b = 3; float d = 9; } M e = 4;
        oneof y { bool f = 7; bool g = 2; } bool h = 6; }"""
    message = Protos(tmp_path, a=proto3(body + EXTRA)).layout("t.T")
    assert offsets(message) == {
        "a": 24,
        "b": 32,
        "c": 32,
        "d": 32,
        "e": 40,
        "g": 48,
        "f": 48,
        "h": 49,
    }
    assert {one.name: one.bit for one in message.fields if one.label == ONEOF} == {
        "b": 0,
        "c": 0,
        "d": 0,
        "f": 1,
        "g": 1,
    }
    assert (message.oneofs, message.bits) == (2, 0)


def test_what_protoc_makes_up_for_optional_is_no_oneof(tmp_path: Path) -> None:
    body = "message T { optional M a = 1; optional int32 b = 2; oneof x { int32 c = 3; } }"
    message = Protos(tmp_path, a=proto3(body + EXTRA)).layout("t.T")
    assert (message.bits, message.oneofs) == (1, 1)
    assert [one.label for one in message.fields] == [0, OPTIONAL, ONEOF]


def test_words_of_presence_come_before_those_of_oneofs(tmp_path: Path) -> None:
    fields = " ".join(f"optional bool f{n} = {n};" for n in range(1, 34))
    body = f"message T {{ {fields} oneof x {{ bool y = 40; }} }}"
    message = Protos(tmp_path, a=proto3(body)).layout("t.T")
    assert field(message, "f1").offset == 32  # 16 + 2 * 4 + 4, and up to a multiple of 8


def test_an_entry_of_a_map(tmp_path: Path) -> None:
    body = "message T { map<string, M> a = 1; map<bool, E> b = 2; }"
    table = Protos(tmp_path, a=proto3(body + EXTRA)).table("a.proto")
    names = {one.name: one for one in table.messages}
    assert list(names) == ["T", "T.AEntry", "T.BEntry", "M"]
    assert [one.label for one in names["T"].fields] == [MAP, MAP]
    assert [one.flags for one in names.values()] == [0, 1, 1, 0]
    assert offsets(names["T.AEntry"]) == {"key": 16, "value": 32}
    assert offsets(names["T.BEntry"]) == {"key": 20, "value": 16}


# --- what fields are ------------------------------------------------------------------------------


def google_files() -> list[FileDescriptorProto]:
    files = []
    for module in (descriptor_pb2, type_pb2, struct_pb2):
        for one in (*module.DESCRIPTOR.dependencies, module.DESCRIPTOR):
            file = FileDescriptorProto()
            one.CopyToProto(file)
            files.append(file)
    return files


@pytest.mark.parametrize("files", [google_files, lambda: Vectors().files], ids=["google", "ours"])
def test_agrees_with_protobuf(files: Callable[[], Sequence[FileDescriptorProto]]) -> None:
    made = files()
    pool = DescriptorPool()
    for file in dict((file.name, file) for file in made).values():
        pool.Add(file)
    layouts = Layouts(made)
    checked = 0
    for file in made:
        for message in layouts.table(file.name).messages:
            known = pool.FindMessageTypeByName(message.full_name).fields_by_number
            assert len(known) == len(message.fields)
            for one in message.fields:
                theirs = known[one.number]
                assert theirs.type == one.kind
                single = one.type is not None and one.label not in (REPEATED, MAP)
                assert theirs.has_presence == (one.label in (OPTIONAL, ONEOF) or single)
                assert theirs.is_packed == bool(one.flags & PACKED)
                assert theirs.is_required == bool(one.flags & REQUIRED)
                if theirs.enum_type is not None:
                    assert theirs.enum_type.is_closed == bool(one.flags & CLOSED)
                if one.default and not one.has_text and not single:
                    code = {1: "d", 2: "f", 8: "?"}.get(one.kind, "q")
                    padded = one.default if code in "df?" else one.default.ljust(8, b"\0")
                    if code == "q" and theirs.default_value < 0:
                        padded = one.default.ljust(8, b"\xff")
                    code = "Q" if theirs.default_value >= 2**63 else code
                    (value,) = struct.unpack("<" + code, padded)
                    assert value == theirs.default_value or value != value
                checked += 1
    assert checked > 50


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (proto3("message T { string a = 1; }"), UTF8),
        (proto3("message T { repeated string a = 1; }"), UTF8),
        (proto3("message T { bytes a = 1; }"), 0),
        (proto3("message T { repeated int32 a = 1; }"), PACKED),
        (proto3("message T { repeated int32 a = 1 [packed = false]; }"), 0),
        (proto3("message T { repeated bytes a = 1; }"), 0),
        (proto2("message T { repeated int32 a = 1; }"), 0),
        (proto2("message T { repeated int32 a = 1 [packed = true]; }"), PACKED),
        (proto2("message T { optional string a = 1; }"), 0),
        (proto2("message T { required string a = 1; }"), REQUIRED),
        (proto2("message T { required T a = 1; }"), REQUIRED),
        (proto2("enum E { X = 1; } message T { optional E a = 1; }"), CLOSED),
        (
            proto2("enum E { X = 1; } message T { repeated E a = 1 [packed = true]; }"),
            CLOSED | PACKED,
        ),
        (edition("message T { string a = 1; }"), UTF8),
        (edition("message T { string a = 1 [features.utf8_validation = NONE]; }"), 0),
        (edition("message T { repeated int32 a = 1; }"), PACKED),
        (
            edition(
                "option features.repeated_field_encoding = EXPANDED;"
                "message T { repeated int32 a = 1; }"
            ),
            0,
        ),
        (
            edition(
                "option features.repeated_field_encoding = EXPANDED; message T {"
                "repeated int32 a = 1 [features.repeated_field_encoding = PACKED]; }"
            ),
            PACKED,
        ),
        (edition("message T { T a = 1 [features.field_presence = LEGACY_REQUIRED]; }"), REQUIRED),
        (edition("enum E { X = 0; } message T { E a = 1; }"), 0),
        (
            edition("option features.enum_type = CLOSED; enum E { X = 1; } message T { E a = 1; }"),
            CLOSED,
        ),
        (
            edition(
                "option features.enum_type = CLOSED;"
                "enum E { option features.enum_type = OPEN; X = 0; } message T { E a = 1; }"
            ),
            0,
        ),
    ],
)
def test_flags(tmp_path: Path, text: str, flags: int) -> None:
    assert field(Protos(tmp_path, a=text).layout("t.T"), "a").flags == flags


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (proto3("message T { int32 a = 1; }"), 0),
        (proto3("message T { optional int32 a = 1; }"), OPTIONAL),
        (proto3("message T { oneof x { int32 a = 1; } }"), ONEOF),
        (proto2("message T { optional int32 a = 1; }"), OPTIONAL),
        (proto2("message T { required int32 a = 1; }"), OPTIONAL),
        (proto2("message T { optional T a = 1; }"), 0),
        (edition("message T { int32 a = 1; }"), OPTIONAL),
        (edition("message T { int32 a = 1 [features.field_presence = IMPLICIT]; }"), 0),
        (edition("option features.field_presence = IMPLICIT; message T { int32 a = 1; }"), 0),
    ],
)
def test_labels(tmp_path: Path, text: str, label: int) -> None:
    assert field(Protos(tmp_path, a=text).layout("t.T"), "a").label == label


@pytest.mark.parametrize(
    ("default", "kind", "expected"),
    [
        ("3.5e38", "float", struct.pack("<f", float("inf"))),
        ("3.4028235e38", "float", b"\xff\xff\x7f\x7f"),
        ("-inf", "float", struct.pack("<f", -float("inf"))),
        ("0x10", "int64", struct.pack("<q", 16)),
        ("-2147483648", "sint32", struct.pack("<i", -(2**31))),
        ("false", "bool", b"\0"),
        (r'"\x00\x80\n\\\""', "bytes", b'\x00\x80\n\\"'),
        ('"\u00fc"', "string", "\u00fc".encode()),
    ],
)
def test_defaults(tmp_path: Path, default: str, kind: str, expected: bytes) -> None:
    text = proto2(f"message T {{ optional {kind} a = 1 [default = {default}]; }}")
    assert field(Protos(tmp_path, a=text).layout("t.T"), "a").default == expected


# --- tables ---------------------------------------------------------------------------------------


def test_order_of_messages_externals_and_enums(tmp_path: Path) -> None:
    protos = Protos(
        tmp_path,
        other=proto2("enum F { F_ONE = 1; } message X {} message Y {} message Z {}"),
        a=proto2(
            """import "other.proto"; enum E { E_TWO = 2; E_ONE = -1; }
            message B { message C { optional Y y = 1; optional Unused.D d = 2; }
                optional F f = 9; optional E e = 8; optional X x = 7; optional Y again = 6; }
            message Unused { enum G { G_ONE = 1; } message D { optional E e = 1; } }"""
        ),
    )
    table = protos.table("a.proto")
    assert [one.name for one in table.messages] == ["B", "B.C", "Unused", "Unused.D"]
    assert [one.full_name for one in table.externals] == ["t.Y", "t.X"]
    counts = struct.unpack_from("<4sIHHHHIIII", table.data)
    assert counts[1:] == (len(table.data), 4, 2, 2, 0, 7, 3, 0, 0)
    lists = table.data[32 + 4 * 24 + 7 * 32 :]
    assert struct.unpack("<IIIIiiii", lists) == (0, 2, 2, 1, -1, 2, 1, 0)


def test_a_file_without_messages_has_a_header(tmp_path: Path) -> None:
    table = Protos(tmp_path, a=proto3("enum E { ZERO = 0; }")).table("a.proto")
    assert table.data == b"ZHL1" + (32).to_bytes(4, "little") + bytes(24)


# --- the fingerprint ------------------------------------------------------------------------------


def print_of(folder: Path, text: str) -> bytes:
    return fingerprint(Protos(folder, a=text).layout("t.T"))


BASE = "message T { M m = 1; E e = 2; } message M { int32 a = 1; } enum E { ZERO = 0; ONE = 1; }"


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (BASE.replace(" m ", " other ").replace(" a ", " b "), True),
        (BASE.replace("M", "N"), True),
        ("message Before { T t = 1; } " + BASE, True),
        (BASE.replace("ONE", "TWO = 2; ONE"), True),  # the enum is open
        (BASE.replace("e = 2", "e = 3"), False),
        (BASE.replace("a = 1", "a = 2"), False),
        (BASE.replace("int32", "sint32"), False),
        (BASE.replace("int32", "optional int32"), False),
        (BASE.replace("int32", "repeated int32"), False),
        (BASE.replace("M m", "T m"), False),
        (BASE.replace("int32 a", "int32 b = 2; int32 a"), False),
    ],
)
def test_fingerprint_is_of_the_layout_alone(tmp_path: Path, text: str, same: bool) -> None:
    (tmp_path / "base").mkdir()
    base = print_of(tmp_path / "base", proto3(BASE))
    (tmp_path / "changed").mkdir()
    assert (print_of(tmp_path / "changed", proto3(text)) == base) == same


@pytest.mark.parametrize(
    ("values", "default", "same"),
    [("A = 1; B = 2;", "B", True), ("B = 2; A = 1;", "A", True), ("A = 1; B = 3;", "A", False)],
)
def test_values_of_closed_enums_count_and_defaults_do_not(
    tmp_path: Path, values: str, default: str, same: bool
) -> None:
    text = "enum E {{ {} }} message T {{ optional E e = 1 [default = {}]; }}"
    (tmp_path / "base").mkdir()
    base = print_of(tmp_path / "base", proto2(text.format("A = 1; B = 2;", "A")))
    (tmp_path / "changed").mkdir()
    assert (print_of(tmp_path / "changed", proto2(text.format(values, default))) == base) == same


def test_canonical_form_is_breadth_first(tmp_path: Path) -> None:
    body = """message T { B b = 2; A a = 1; } message A { D d = 1; T t = 2; }
        message B { D d = 1; C c = 2; } message C { int32 x = 1; }
        message D { int64 x = 1; int64 y = 2; }"""
    form = canonical(Protos(tmp_path, a=proto3(body)).layout("t.T"))
    at, places, counts = 4, [], []
    while at < len(form):
        (count,) = struct.unpack_from("<H", form, at + 4)
        counts.append(count)
        for n in range(count):
            places.append(struct.unpack_from("<H", form, at + 12 + 16 * n + 14)[0])
        at += 12 + 16 * count
    assert counts == [2, 2, 2, 2, 1]  # T, A, B, D, C
    assert places == [1, 2, 3, 0, 3, 4, 0, 0, 0]


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            proto2("message T { optional group G = 1 { } }"),
            "a.proto: t.T.g: groups are not supported",
        ),
        (
            proto2("message T { oneof x { group G = 1 { } } }"),
            "a.proto: t.T.g: groups are not supported",
        ),
        (
            edition("message T { T a = 1 [features.message_encoding = DELIMITED]; }"),
            "a.proto: t.T.a: groups (features.message_encoding = DELIMITED) are not supported",
        ),
        (
            edition(
                "option features.message_encoding = DELIMITED; message T { repeated T a = 1; }"
            ),
            "a.proto: t.T.a: groups (features.message_encoding = DELIMITED) are not supported",
        ),
        (
            proto2("message T { extensions 1 to 9; } extend T { optional int32 a = 2; }"),
            "a.proto: t.a: extensions are not supported (extend t.T)",
        ),
        (
            proto2("message T { extensions 1 to 9; extend T { optional int32 a = 2; } }"),
            "a.proto: t.T.a: extensions are not supported (extend t.T)",
        ),
        (
            proto2("message T { option message_set_wire_format = true; extensions 4 to max; }"),
            "a.proto: t.T: message sets are not supported",
        ),
        (
            'edition = "2024"; package t; message T { int32 a = 1; }',
            "a.proto: this edition is not supported: proto2, proto3 and edition 2023 are",
        ),
    ],
)
def test_what_images_do_not_have(tmp_path: Path, text: str, error: str) -> None:
    protos = Protos(tmp_path, a=text)
    with pytest.raises(LayoutError) as raised:
        protos.table("a.proto")
    assert str(raised.value) == error


@pytest.mark.parametrize(
    "text",
    [
        proto2("message T { extensions 1 to 9; }"),
        edition("option features.message_encoding = DELIMITED; message T { map<int32, T> a = 1; }"),
        proto2(
            'import "google/protobuf/descriptor.proto";'
            "extend google.protobuf.FieldOptions { optional int32 mine = 50001; } message T {}"
        ),
    ],
    ids=["extension range", "delimited map", "custom option"],
)
def test_what_they_put_up_with(tmp_path: Path, text: str) -> None:
    assert Protos(tmp_path, a=text).table("a.proto").messages


@pytest.mark.parametrize(("count", "fits"), [(16379, True), (16380, False)])
def test_words_of_oneofs_end_where_16_bits_reach(count: int, fits: bool) -> None:
    file = FileDescriptorProto(name="a.proto", syntax="proto3")
    message = file.message_type.add(name="T")
    for index in range(count):
        message.oneof_decl.add(name=f"o{index}")
        message.field.add(name=f"f{index}", number=index + 1, type=8, label=1, oneof_index=index)
    if fits:
        assert Layouts([file]).message("T").fields[0].offset == 65536
    else:
        with pytest.raises(LayoutError, match=r"a\.proto: T: too many oneofs"):
            Layouts([file]).message("T")


def test_missing_dependencies_are_named() -> None:
    file = FileDescriptorProto(name="a.proto", syntax="proto3")
    message = file.message_type.add(name="T")
    message.field.add(name="a", number=1, type=11, type_name=".x.Gone", label=1)
    with pytest.raises(LayoutError, match=r"a\.proto: T\.a: no message x\.Gone in the given files"):
        Layouts([file]).table("a.proto")


# --- all together ---------------------------------------------------------------------------------

KINDS = [
    kind
    for kind in FieldDescriptorProto.Type.values()
    if kind not in (FieldDescriptorProto.TYPE_GROUP, FieldDescriptorProto.TYPE_ENUM)
]


@st.composite
def messages(draw: st.DrawFn) -> FileDescriptorProto:
    file = FileDescriptorProto(name="a.proto", syntax="proto3")
    message = file.message_type.add(name="T")
    oneofs = draw(st.integers(0, 3))
    numbers = draw(st.lists(st.integers(1, 2**29 - 1), max_size=40, unique=True))
    used = set()
    for number in numbers:
        kind = draw(st.sampled_from(KINDS))
        made = message.field.add(name=f"f{number}", number=number, type=kind, label=1)
        if kind == FieldDescriptorProto.TYPE_MESSAGE:
            made.type_name = ".T"
        way = draw(st.sampled_from(["plain", "repeated", "oneof"]))
        if way == "repeated":
            made.label = FieldDescriptorProto.LABEL_REPEATED
        elif way == "oneof" and oneofs:
            made.oneof_index = draw(st.integers(0, oneofs - 1))
            used.add(made.oneof_index)
    for index in range(oneofs):
        message.oneof_decl.add(name=f"o{index}")
    return file


@settings(max_examples=150, deadline=None)
@given(messages())
def test_units_fit_are_aligned_and_overlap_in_oneofs_only(file: FileDescriptorProto) -> None:
    message = Layouts([file]).message("T")
    start = 16 + 4 * message.oneofs
    assert message.size % 8 == 0
    for one in message.fields:
        assert start <= one.offset <= message.size - one.unit
        assert one.offset % min(one.unit, 8) == 0
    for one, other in combinations(message.fields, 2):
        apart = one.offset + one.unit <= other.offset or other.offset + other.unit <= one.offset
        together = one.label == other.label == ONEOF and one.bit == other.bit
        assert one.offset == other.offset if together else apart
    assert all(one.number < other.number for one, other in pairwise(message.fields))
