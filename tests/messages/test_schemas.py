"""Random schemas: layouts, classes and wire bytes of messages of all shapes, against protobuf's."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgharness import UNKNOWN, content, outcome, plans, same, wire
from zerohop import generated
from zerohop.codegen.elements import Elements
from zerohop.codegen.layout import Layouts

_F = FieldDescriptorProto
SCALARS = [n for n in range(1, 19) if n not in (_F.TYPE_GROUP, _F.TYPE_MESSAGE, _F.TYPE_ENUM)]
KEYS = [n for n in SCALARS if n not in (_F.TYPE_DOUBLE, _F.TYPE_FLOAT, _F.TYPE_BYTES)]
NUMBERS = st.integers(1, 40) | st.integers(1, 18999) | st.integers(20000, 2**29 - 1)
_count = itertools.count()


@st.composite
def files(draw: Any, syntax: str) -> FileDescriptorProto:
    unique = next(_count)
    file = FileDescriptorProto(name=f"random{unique}.proto", package=f"r{unique}", syntax=syntax)
    file.enum_type.add(name="Kind")
    first = 0 if syntax == "proto3" else draw(st.integers(-3, 3))
    numbers = draw(st.lists(st.integers(-(2**31), 2**31 - 1), unique=True, max_size=5))
    for n in [first, *(n for n in numbers if n != first)]:
        file.enum_type[0].value.add(name=f"V{n}".replace("-", "_"), number=n)
    names = ["A", "B", "A.C"]
    for name in ("A", "B"):
        file.message_type.add(name=name)
    file.message_type[0].nested_type.add(name="C")
    messages = [file.message_type[0], file.message_type[1], file.message_type[0].nested_type[0]]
    for message, full in zip(messages, names, strict=True):
        _fields(draw, file, message, full, names)
    return file


def _fields(draw: Any, file: Any, message: Any, full: str, names: list[str]) -> None:
    taken = draw(st.lists(NUMBERS, unique=True, max_size=14))
    types = [*SCALARS, _F.TYPE_ENUM, _F.TYPE_MESSAGE, _F.TYPE_MESSAGE]
    for index in range(draw(st.integers(0, 2))):
        message.oneof_decl.add(name=f"one{index}")
    used: set[int] = set()
    made_up = []
    for at, number in enumerate(taken):
        shape = draw(
            st.sampled_from(["single", "optional", "oneof", "repeated", "repeated", "map"])
        )
        field = message.field.add(name=f"f{at}", number=number, label=_F.LABEL_OPTIONAL)
        field.type = draw(st.sampled_from(types))
        if field.type == _F.TYPE_MESSAGE:
            field.type_name = f".{file.package}.{draw(st.sampled_from(names))}"
        elif field.type == _F.TYPE_ENUM:
            field.type_name = f".{file.package}.Kind"
        if shape == "map":
            _map(draw, file, message, full, field)
        elif shape == "repeated":
            field.label = _F.LABEL_REPEATED
            if field.type not in (_F.TYPE_STRING, _F.TYPE_BYTES, _F.TYPE_MESSAGE):
                packed = draw(st.sampled_from([None, True, False]))
                if packed is not None:
                    field.options.packed = packed
        elif shape == "oneof" and message.oneof_decl:
            field.oneof_index = draw(st.integers(0, len(message.oneof_decl) - 1))
            used.add(field.oneof_index)
        elif shape == "optional" and file.syntax == "proto3" and field.type != _F.TYPE_MESSAGE:
            field.proto3_optional = True
            made_up.append(field)
    # A oneof has members; those that are made up come last.
    kept = {old: new for new, old in enumerate(sorted(used))}
    del message.oneof_decl[:]
    for old in kept:
        message.oneof_decl.add(name=f"one{old}")
    for field in message.field:
        if field.HasField("oneof_index"):
            field.oneof_index = kept[field.oneof_index]
    for field in made_up:
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{field.name}")


def _map(draw: Any, file: Any, message: Any, full: str, field: Any) -> None:
    entry = message.nested_type.add(name=f"F{field.name[1:]}Entry")
    entry.options.map_entry = True
    key = draw(st.sampled_from(KEYS))
    entry.field.add(name="key", number=1, label=_F.LABEL_OPTIONAL, type=key)
    if field.type == _F.TYPE_ENUM and file.enum_type[0].value[0].number != 0:
        field.type = _F.TYPE_INT32  # such an enum may not be a map's value
        field.ClearField("type_name")
    value = entry.field.add(name="value", number=2, label=_F.LABEL_OPTIONAL, type=field.type)
    if field.type_name:
        value.type_name = field.type_name
    field.label = _F.LABEL_REPEATED
    field.type = _F.TYPE_MESSAGE
    field.type_name = f".{file.package}.{full}.{entry.name}"


def classes(file: FileDescriptorProto) -> tuple[dict[str, Any], dict[str, Any]]:
    """protobuf's and ours."""
    elements = Elements([file])
    table = Layouts(elements).table(file.name)
    made = generated.file(
        name=file.name,
        descriptor=file.SerializeToString(deterministic=True),
        table=table.data,
        messages=tuple((m.name, tuple(f.name for f in m.fields)) for m in table.messages),
    )
    about = descriptor_pool.Default().FindFileByName(file.name)
    theirs, ours = {}, {}
    for name, descriptor in about.message_types_by_name.items():
        theirs[name] = message_factory.GetMessageClass(descriptor)
        ours[name] = made.message(name)
    return theirs, ours


@pytest.mark.parametrize("syntax", ["proto2", "proto3"])
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_messages_of_random_schemas(syntax: str, data: st.DataObject) -> None:
    theirs, ours = classes(data.draw(files(syntax)))
    for name, their_class in theirs.items():
        for _ in range(3):
            plan = data.draw(plans(their_class.DESCRIPTOR, 2))
            bytes_of = wire(_built(their_class, plan))
            their_message, our_message = _built(their_class, plan), ours[name].FromString(bytes_of)
            same(their_message, our_message)
            for message in (their_message, our_message):
                message.MergeFromString(UNKNOWN + bytes_of)
            same(their_message, our_message)
            assert content(type(our_message).FromString(wire(our_message))) == content(our_message)
            broken = bytes_of[: len(bytes_of) // 2]
            assert outcome(lambda b=broken, n=name: ours[n].FromString(b)) == outcome(
                lambda b=broken, c=their_class: c.FromString(b)
            )


def _built(cls: Any, plan: dict[str, Any]) -> Any:
    """As build, with classes of the pool."""
    made: dict[str, Any] = {}
    for name, value in plan.items():
        field = cls.DESCRIPTOR.fields_by_name[name]
        entry = field.message_type
        if entry and entry.GetOptions().map_entry:
            entry = entry.fields_by_number[2].message_type
            if entry:
                kind = message_factory.GetMessageClass(entry)
                value = {k: _built(kind, v) for k, v in value.items()}
        elif entry:
            kind = message_factory.GetMessageClass(entry)
            one = isinstance(value, dict)
            value = _built(kind, value) if one else [_built(kind, v) for v in value]
        made[name] = value
    return cls(**made)
