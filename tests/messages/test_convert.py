"""convert, json_format and text_format: to protobuf's messages and back."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, message
from google.protobuf import json_format as their_json
from google.protobuf import text_format as their_text
from hypothesis import given, settings
from hypothesis import strategies as st
from msgharness import NAMES, OURS, PB2, UNKNOWN, build, content, outcome, pair, plans, same
from zerohop import json_format, text_format
from zerohop.convert import from_pb2, to_pb2

few = settings(max_examples=15, deadline=None)


@pytest.mark.parametrize("name", NAMES)
@few
@given(data=st.data())
def test_there_and_back(name: str, data: st.DataObject) -> None:
    plan = data.draw(plans(PB2[name].DESCRIPTOR))
    theirs, ours = build(PB2[name], plan), build(OURS[name], plan)
    for one in (theirs, ours):
        one.MergeFromString(UNKNOWN)
    assert type(to_pb2(ours)) is PB2[name]
    assert type(from_pb2(theirs)) is OURS[name]
    same(to_pb2(ours), from_pb2(theirs))
    assert text_format.MessageToString(ours) == their_text.MessageToString(theirs)
    assert text_format.MessageToString(ours, as_one_line=True) == their_text.MessageToString(
        theirs, as_one_line=True
    )
    as_json, sorted_keys = json_format.MessageToJson, {"sort_keys": True, "indent": 1}
    assert as_json(ours, **sorted_keys) == their_json.MessageToJson(theirs, **sorted_keys)
    options = {"preserving_proto_field_name": True, "use_integers_for_enums": True}
    as_dict = json_format.MessageToDict(ours, **options)
    assert as_dict == their_json.MessageToDict(theirs, **options)
    # Not always: protobuf refuses the largest float that it has written itself.
    back = outcome(lambda: json_format.ParseDict(as_dict, OURS[name]()))
    assert back == outcome(lambda: their_json.ParseDict(as_dict, PB2[name]()))


def test_parsing_merges_or_leaves_the_message() -> None:
    theirs, ours = pair("Everything")
    message = ours(id=3, words=["a"])
    assert json_format.Parse('{"colour": "COLOUR_RED", "words": ["b"]}', message) is message
    assert (message.id, message.colour, list(message.words)) == (3, 1, ["b"])
    with pytest.raises(their_json.ParseError):
        json_format.Parse('{"id": 5, "nothing": 1}', message)
    assert message.id == 3
    assert json_format.Parse('{"id": 5, "nothing": 1}', message, ignore_unknown_fields=True).id == 5
    assert text_format.Parse('last: "x"', message) is message
    assert (message.last, message.id) == ("x", 5)
    with pytest.raises(text_format.ParseError):
        text_format.Parse("id: 1 id: 2", message)
    assert text_format.Merge("id: 1 id: 2", message).id == 2
    assert content(theirs.FromString(message.SerializeToString())) == content(message)


def test_what_cannot_be_converted() -> None:
    with pytest.raises(KeyError, match=r"no generated class of google\.protobuf\.FileOptions"):
        from_pb2(descriptor_pb2.FileOptions())
    wrong: Any = 3
    for call, value in (
        (from_pb2, pair("Tree")[1]()),
        (to_pb2, pair("Tree")[0]()),
        (to_pb2, wrong),
    ):
        with pytest.raises(TypeError, match="is wanted, not"):
            call(value)


def test_errors_are_protobufs_too() -> None:
    ours = pair("Legacy")[1]
    with pytest.raises(message.DecodeError, match="Error parsing message"):
        ours.FromString(b"\x08")
    with pytest.raises(message.EncodeError, match=r"is missing required fields: id,child"):
        ours().SerializeToString()
    with pytest.raises(ValueError, match="missing required"):
        ours().SerializeToString()
    with pytest.raises(message.DecodeError):
        pair("Scalars")[1].FromString(b"\x22\x01\xff")
