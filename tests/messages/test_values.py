"""Messages made of the same values by protobuf and by us are the same in all that can be asked."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgharness import NAMES, OURS, PB2, UNKNOWN, build, content, is_map, outcome, plans, same, wire

quick = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
each = pytest.mark.parametrize("name", NAMES)


def two(data: st.DataObject, name: str) -> tuple[Any, Any]:
    plan = data.draw(plans(PB2[name].DESCRIPTOR))
    return build(PB2[name], plan), build(OURS[name], plan)


@each
@quick
@given(data=st.data())
def test_construction_and_reading(name: str, data: st.DataObject) -> None:
    plan = data.draw(plans(PB2[name].DESCRIPTOR))
    theirs, ours = build(PB2[name], plan), build(OURS[name], plan)
    same(theirs, ours)
    assert str(ours) == str(theirs)
    assert repr(ours) == repr(theirs)
    # Messages as dicts; protobuf takes none in maps.
    if not any(is_map(f) for f in PB2[name].DESCRIPTOR.fields):
        direct = outcome(lambda: PB2[name](**plan))
        assert outcome(lambda: OURS[name](**plan)) == direct
    same(PB2[name](), OURS[name]())
    same(PB2[name](**{f: None for f in plan}), OURS[name](**{f: None for f in plan}))


@each
@quick
@given(data=st.data())
def test_wire_bytes(name: str, data: st.DataObject) -> None:
    theirs, ours = two(data, name)
    there = OURS[name].FromString(wire(theirs))
    back = PB2[name].FromString(ours.SerializePartialToString())
    same(theirs, there)
    same(back, ours)
    assert outcome(theirs.SerializeToString)[0] == outcome(ours.SerializeToString)[0]
    assert wire(ours) == ours.SerializePartialToString(deterministic=True)
    # Unknown fields are kept, wherever they are.
    for message in (theirs, ours):
        assert message.MergeFromString(UNKNOWN) == len(UNKNOWN)
    same(theirs, ours)
    same(PB2[name].FromString(wire(ours)), OURS[name].FromString(bytearray(wire(theirs))))
    same(theirs, copy.deepcopy(ours))
    for message in (theirs, ours):
        message.DiscardUnknownFields()
    same(theirs, ours)
    assert UNKNOWN not in wire(ours)


@each
@quick
@given(data=st.data())
def test_merging_and_copying(name: str, data: st.DataObject) -> None:
    theirs, ours = two(data, name)
    their_second, our_second = two(data, name)
    for message in (their_second, our_second):
        if data.draw(st.booleans(), label="unknown"):
            message.MergeFromString(UNKNOWN)
            continue
        break
    our_second = OURS[name].FromString(wire(their_second))
    theirs.MergeFrom(their_second)
    ours.MergeFrom(our_second)
    same(theirs, ours)
    same(their_second, our_second)
    theirs.MergeFrom(theirs)
    ours.MergeFrom(OURS[name].FromString(wire(ours)))
    same(theirs, copy.deepcopy(ours))
    theirs.CopyFrom(their_second)
    ours.CopyFrom(our_second)
    same(theirs, ours)
    theirs.CopyFrom(theirs)
    ours.CopyFrom(ours)
    same(theirs, ours)
    theirs.Clear()
    ours.Clear()
    same(theirs, ours)
    same(PB2[name](), ours)


@each
@quick
@given(data=st.data())
def test_copies_are_messages_of_their_own(name: str, data: st.DataObject) -> None:
    theirs, ours = two(data, name)
    ours.MergeFromString(UNKNOWN)
    theirs.MergeFromString(UNKNOWN)
    for made in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), copy.copy(ours)):
        same(theirs, made)
        made.Clear()
        same(theirs, ours)


@each
@quick
@given(data=st.data())
def test_equality(name: str, data: st.DataObject) -> None:
    theirs, ours = two(data, name)
    their_second, our_second = two(data, name)
    assert (ours == our_second) == (theirs == their_second)
    assert (ours != our_second) == (theirs != their_second)
    their_clone, our_clone = PB2[name].FromString(wire(theirs)), OURS[name].FromString(wire(ours))
    assert (ours == our_clone) == (theirs == their_clone)
    assert (ours == ours) == (theirs == theirs)
    assert ours != name
    assert ours is not None
    assert outcome(lambda: hash(ours)) == outcome(lambda: hash(theirs)) == ("error", "TypeError")


@each
@quick
@given(data=st.data())
def test_clearing_fields(name: str, data: st.DataObject) -> None:
    theirs, ours = two(data, name)
    descriptor = PB2[name].DESCRIPTOR
    names = [f.name for f in descriptor.fields] + [o.name for o in descriptor.oneofs] + ["nothing"]
    for field in data.draw(st.lists(st.sampled_from(names), max_size=5)):
        for method in ("HasField", "ClearField", "HasField", "WhichOneof"):
            assert asked(ours, method, field) == asked(theirs, method, field), method
        same(theirs, ours)


def asked(message: Any, method: str, field: str) -> Any:
    return outcome(lambda: getattr(message, method)(field))


def made(cls: Any, field: str, value: Any) -> Any:
    return outcome(lambda: cls(**{field: value}))


VALUES = (0, 1, -1, 2.5, "text", b"bytes", True, [1], ["a"], [b"b"], {1: 1}, {"a": "b"})


@each
def test_all_messages_with_every_field_alone(name: str) -> None:
    for field in PB2[name].DESCRIPTOR.fields:
        for value in VALUES:
            theirs, ours = (made(c[name], field.name, value) for c in (PB2, OURS))
            if is_map(field) and theirs[0] == "error":
                assert ours[0] == "error"  # upb's errors differ by what the map's values are
                continue
            assert ours == theirs, (field.name, value)


def test_nan_and_signs_of_zero() -> None:
    for short, field in (("Scalars", "ratio"), ("Scalars", "weight"), ("Everything", "share")):
        theirs = PB2[f"zerohop.vectors.{short}"](**{field: float("nan")})
        ours = OURS[f"zerohop.vectors.{short}"](**{field: float("nan")})
        assert (ours == ours) == (theirs == theirs)
        assert (ours == copy.deepcopy(ours)) == (theirs == copy.deepcopy(theirs))
    zero, minus = (OURS["zerohop.vectors.Optionals"](ratio=r) for r in (0.0, -0.0))
    their_zero, their_minus = (PB2["zerohop.vectors.Optionals"](ratio=r) for r in (0.0, -0.0))
    assert (zero == minus) == (their_zero == their_minus)


def test_text_form_is_text_formats() -> None:
    ours = OURS["zerohop.vectors.Everything"](id=3, words=["a"], by_flag={True: b"\1"})
    assert text_format.Parse(str(ours), PB2["zerohop.vectors.Everything"]()).id == 3
    assert content(ours)["id"] == ("value", ("int", 3))


@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"key": None}, {"key": len}])
def test_bytes_have_an_order(options: dict[str, Any]) -> None:
    pieces = [b"b", b"", b"a" * 5000, b"ab", b"b", b"a" * 4999, b"\xff"]
    message = OURS["zerohop.vectors.Everything"](pieces=pieces)
    message.pieces.sort(**options)
    assert list(message.pieces) == sorted(pieces, **options)
