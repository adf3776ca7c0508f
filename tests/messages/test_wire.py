"""Wire bytes, valid and hostile: accepted and refused exactly as upb does, with equal results."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgharness import NAMES as ALL
from msgharness import OURS, PB2, build, content, pair, plans, wire

# upb takes field 0 for an unknown one where a message has no fields at all.
NAMES = [name for name in ALL if PB2[name].DESCRIPTOR.fields]

many = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def parsed(cls: Any, data: bytes) -> Any:
    try:
        return cls.FromString(data)
    except DecodeError:
        return None


def equal(name: str, data: bytes) -> bool:
    """Both parse it, to the same, or none does."""
    theirs, ours = parsed(PB2[name], data), parsed(OURS[name], data)
    assert (ours is None) == (theirs is None), data
    if theirs is None:
        return False
    # Not by bytes: an entry with unknown fields is kept as it came, where upb writes it anew.
    assert content(ours) == content(theirs)
    assert content(PB2[name].FromString(wire(ours))) == content(theirs)
    assert OURS[name].FromString(wire(ours)) == ours
    return True


PIECES = st.sampled_from(
    [
        b"",
        b"\0",
        b"\x80",
        b"\xff" * 9 + b"\x01",
        b"\xff" * 10,
        b"\x80" * 9 + b"\x02",
        b"\x80\x80\x80\x80\x00",
        b"\x07",
        b"\x0b\x0c",
        b"\x13\x14",
        b"\x0b",
        b"\x0c",
        b"\xff\xff\xff\xff\x0f",
        b"\xf8\xff\xff\xff\x0f\x01",
        b"\xf8\xff\xff\xff\x1f\x01",
    ]
)


@pytest.mark.parametrize("name", NAMES)
@many
@given(data=st.data())
def test_mutated(name: str, data: st.DataObject) -> None:
    valid = bytearray(wire(build(PB2[name], data.draw(plans(PB2[name].DESCRIPTOR)))))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(valid)))
        change = data.draw(st.sampled_from(["set", "insert", "cut", "end", "piece", "again"]))
        if change == "set" and at < len(valid):
            valid[at] = data.draw(st.integers(0, 255))
        elif change == "insert":
            valid.insert(at, data.draw(st.integers(0, 255)))
        elif change == "cut":
            del valid[at : at + data.draw(st.integers(1, 4))]
        elif change == "end":
            del valid[at:]
        elif change == "piece":
            valid[at:at] = data.draw(PIECES)
        else:
            valid += valid[at:]
    equal(name, bytes(valid))


@pytest.mark.parametrize("name", NAMES)
@many
@given(fields=st.data())
def test_fields_of_any_wire_type(name: str, fields: st.DataObject) -> None:
    """Numbers that exist, with values of every wire type, also inside of each other."""
    numbers = [f.number for f in PB2[name].DESCRIPTOR.fields] or [1]

    def one(deep: int) -> bytes:
        number = fields.draw(st.sampled_from([*numbers, *numbers, 1, 2, 3, 99, 536870911]))
        wire_type = fields.draw(st.sampled_from([0, 0, 1, 2, 2, 2, 3, 5]))
        tag = varint(number << 3 | wire_type)
        if wire_type == 0:
            return tag + varint(fields.draw(st.integers(0, 2**64 - 1) | st.integers(0, 9)))
        if wire_type == 1:
            return tag + fields.draw(st.binary(min_size=8, max_size=8))
        if wire_type == 5:
            return tag + fields.draw(st.binary(min_size=4, max_size=4))
        inside = b"".join(
            one(deep - 1) for _ in range(fields.draw(st.integers(0, 3)) if deep else 0)
        )
        if wire_type == 3:
            return tag + inside + varint(number << 3 | 4)
        inside = inside or fields.draw(st.binary(max_size=9))
        return tag + varint(len(inside)) + inside

    equal(name, b"".join(one(3) for _ in range(fields.draw(st.integers(1, 5)))))


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, inside: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(inside)) + inside


def nested(depth: int, number: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = field(number, data)
    return data


def grouped(depth: int, number: int) -> bytes:
    return varint(number << 3 | 3) * depth + varint(number << 3 | 4) * depth


@pytest.mark.parametrize("depth", [1, 50, 98, 99, 100, 101, 102, 200, 20000])
def test_nesting(depth: int) -> None:
    results = [
        equal("zerohop.vectors.Tree", nested(depth, 2)),
        equal("zerohop.vectors.Tree", nested(depth, 4)),
        equal("zerohop.vectors.Tree", grouped(depth, 77)),
        equal("zerohop.vectors.Scalars", grouped(depth, 1)),
        equal("zerohop.vectors.Forest", field(2, grouped(depth, 9))),
        equal("zerohop.vectors.Tree", field(5, field(2, nested(depth, 2)))),
        equal("zerohop.vectors.Tree", field(5, grouped(depth, 9))),
    ]
    assert results[0] == (depth <= 100)


HOSTILE = {
    "overlong varint": b"\x18" + b"\x80" * 9 + b"\x00",
    "ten bytes": b"\x18" + b"\xff" * 9 + b"\x7f",
    "eleven bytes": b"\x18" + b"\x80" * 10 + b"\x00",
    "overlong tag": b"\x98\x80\x80\x80\x00\x05",
    "long tag": b"\x98\x80\x80\x80\x80\x00\x05",
    "tag over 32 bits": b"\x98\x80\x80\x80\x10\x05",
    "field 0": b"\x00\x01",
    "field 0, bytes": b"\x02\x00",
    "wire type 6": b"\x0e\x00",
    "wire type 7": b"\x0f\x00",
    "lone end of a group": b"\x0c",
    "wrong end of a group": b"\x0b\x14",
    "open group": b"\x0b\x08\x01",
    "group with field 0": b"\x0b\x00\x01\x0c",
    "long length": b"\x22\xff\xff\xff\xff\x0f",
    "length of 64 bits": b"\x22\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    "length as 0, overlong": b"\x22\x80\x80\x00",
    "bool of many bits": b"\x08\x80\x80\x80\x80\x10",
    "int32 of 64 bits": b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    "uint32 of 33 bits": b"\x38\x80\x80\x80\x80\x10",
    "sint32 of 64 bits": b"\x48\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    "not UTF-8": b"\x22\x02\xc3\x28",
    "surrogate": b"\x22\x03\xed\xa0\x80",
    "overlong UTF-8": b"\x22\x02\xc0\x80",
    "too large UTF-8": b"\x22\x04\xf4\x90\x80\x80",
    "twice": b"\x18\x01\x18\x02\x22\x01a\x22\x01b",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile(what: str) -> None:
    for name in NAMES:
        equal(name, HOSTILE[what])


PACKED = {
    "packed and not": b"\xa8\x01\x05\xaa\x01\x02\x01\x02\xa8\x01\x07",
    "packed, broken": b"\xaa\x01\x02\x01\x80",
    "packed, too long a varint": b"\xaa\x01\x0b" + b"\x80" * 10 + b"\x01",
    "fixed, not a multiple": b"\xb2\x01\x09" + bytes(9),
    "fixed, packed where declared unpacked": b"\xb2\x01\x10" + bytes(range(16)),
    "bools": b"\xa2\x01\x04\x00\x01\x02\x7f",
    "enums": b"\xba\x01\x03\x01\x05\x00\xb8\x01\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    "wrong type for packed": b"\xa9\x01" + bytes(8),
    "text as varint": b"\xc0\x01\x05",
}


@pytest.mark.parametrize("what", PACKED)
def test_packed(what: str) -> None:
    equal("zerohop.vectors.Everything", PACKED[what])


def test_closed_enums() -> None:
    for number in (9, 10, 11, 15):
        for value in (0, 1, 2, 5, 7, 2**32 - 3, 2**64 - 3, 2**32 + 5):
            equal("zerohop.vectors.Legacy", varint(number << 3) + varint(value))
            equal("zerohop.vectors.Legacy", field(number, varint(value) + varint(5)))
    for value in (0, 4, 5, 2**64 - 1):
        for number in (7, 10):
            equal("zerohop.vectors.Edition", varint(number << 3) + varint(value))
            equal("zerohop.vectors.Edition", field(number, varint(value) * 2))


ENTRIES = {
    "empty": b"",
    "key only": b"\x0a\x01a",
    "value only": b"\x10\x05",
    "foreign field": b"\x0a\x01a\x10\x05\x18\x07",
    "foreign group": b"\x0a\x01a\x1b\x1c\x10\x05",
    "value first": b"\x10\x05\x0a\x01a",
    "key twice": b"\x0a\x01a\x0a\x01b\x10\x05",
    "value twice": b"\x0a\x01a\x10\x05\x10\x06",
    "wrong type of key": b"\x08\x01\x10\x05",
    "wrong type of value": b"\x0a\x01a\x12\x01b",
    "field 0": b"\x00\x01",
    "broken": b"\x0a\x05a",
    "not UTF-8": b"\x0a\x01\xff\x10\x01",
    "end of a group": b"\x0a\x01a\x0c",
}


@pytest.mark.parametrize("what", ENTRIES)
def test_entries_of_maps(what: str) -> None:
    entry = ENTRIES[what]
    for number in (30, 31, 32, 33):
        equal("zerohop.vectors.Everything", field(number, entry))
        equal("zerohop.vectors.Everything", field(number, entry) + field(number, b"\x0a\x01a") * 2)
    equal("zerohop.vectors.Tree", field(5, entry))
    equal("zerohop.vectors.Tree", field(5, b"\x0a\x01a" + field(2, b"\x08\x05") * 2) * 2)
    for number in (12, 13):
        equal("zerohop.vectors.Edition", field(number, entry))
    equal("zerohop.vectors.Legacy", field(16, entry))


def test_messages_are_merged() -> None:
    theirs, ours = pair("Everything")
    data = field(3, b"\x08\x07") + field(3, b"\x1a\x01x") + field(14, b"\x08\x01") + field(14, b"")
    assert equal("zerohop.vectors.Everything", data + field(8, b"w"))
    assert equal("zerohop.vectors.Everything", field(8, b"w") + data + b"\x60\x01" + data)
    for one in (theirs(), ours()):
        with pytest.raises(DecodeError):
            one.MergeFromString(b"\x08\x05\x08")
        assert one.MergeFromString(memoryview(b"\x08\x05")) == 2
