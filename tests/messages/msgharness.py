"""protobuf's and our classes of the same files, plans of messages, and comparing the two."""

from __future__ import annotations

import atexit
import importlib
import math
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import EncodeError
from grpc_tools import protoc as grpc_protoc
from hypothesis import strategies as st
from zerohop.codegen import protoc

VECTORS = Path(__file__).parents[1] / "image" / "vectors"
PROTOS = tuple(sorted(path.name for path in VECTORS.glob("*.proto")))

# Unknown fields: a varint and text with numbers that no vector has.
UNKNOWN = b"\x98\xf4\x03\x07" + b"\xa2\xf4\x03\x02hi"


def _generate() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="zerohop-messages-"))
    atexit.register(shutil.rmtree, folder, True)
    for name in PROTOS:
        shutil.copy(VECTORS / name, folder)
    sources = [f"-I{folder}"]
    assert protoc.main([*sources, f"--zerohop_out={folder}", *PROTOS]) == 0
    assert grpc_protoc.main(["protoc", *sources, f"--python_out={folder}", *PROTOS]) == 0
    return folder


FOLDER = _generate()
sys.path.insert(0, str(FOLDER))

PB2: dict[str, Any] = {}
OURS: dict[str, Any] = {}


def _add(pb2: Any, ours: Any) -> None:
    PB2[pb2.DESCRIPTOR.full_name] = pb2
    OURS[pb2.DESCRIPTOR.full_name] = ours
    for nested in pb2.DESCRIPTOR.nested_types:
        _add(getattr(pb2, nested.name), getattr(ours, nested.name))


for _name in PROTOS:
    _stem = _name.removesuffix(".proto")
    _theirs = importlib.import_module(f"{_stem}_pb2")
    _ours = importlib.import_module(f"{_stem}_zerohop")
    for _message in _theirs.DESCRIPTOR.message_types_by_name:
        _add(getattr(_theirs, _message), getattr(_ours, _message))

# Without the entries of maps.
NAMES = sorted(n for n, c in PB2.items() if not c.DESCRIPTOR.GetOptions().map_entry)


def pair(short: str) -> tuple[Any, Any]:
    """protobuf's class and ours of `zerohop.vectors.SHORT`."""
    name = f"zerohop.vectors.{short}"
    return PB2[name], OURS[name]


# --- plans: what a message is made of -------------------------------------------------------------

_F = FieldDescriptor


def floats32() -> Any:
    return st.floats(width=32)


_SCALARS: dict[int, Any] = {
    _F.TYPE_DOUBLE: st.floats(),
    _F.TYPE_FLOAT: floats32(),
    _F.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    _F.TYPE_SINT64: st.integers(-(2**63), 2**63 - 1),
    _F.TYPE_SFIXED64: st.integers(-(2**63), 2**63 - 1),
    _F.TYPE_UINT64: st.integers(0, 2**64 - 1),
    _F.TYPE_FIXED64: st.integers(0, 2**64 - 1),
    _F.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    _F.TYPE_SINT32: st.integers(-(2**31), 2**31 - 1),
    _F.TYPE_SFIXED32: st.integers(-(2**31), 2**31 - 1),
    _F.TYPE_UINT32: st.integers(0, 2**32 - 1),
    _F.TYPE_FIXED32: st.integers(0, 2**32 - 1),
    _F.TYPE_BOOL: st.booleans(),
}
_TEXT = st.one_of(
    st.sampled_from(["", "a", "gr\u00fcn", "x" * 60, "y" * 700, "z" * 5000]),
    st.text(max_size=12),
)
_BYTES = st.one_of(
    st.sampled_from([b"", b"\0", b"\xff" * 80, b"b" * 900, b"c" * 5000]), st.binary(max_size=12)
)


def is_map(field: Any) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def is_closed(enum: Any) -> bool:
    return bool(enum.is_closed)


def values(field: Any, deep: int = 3) -> Any:
    """A strategy for one value of a field: a number, text, or the plan of a message."""
    if field.message_type:
        return plans(field.message_type, deep - 1)
    if field.enum_type:
        numbers = [value.number for value in field.enum_type.values]
        known = st.sampled_from(numbers)
        return known if is_closed(field.enum_type) else known | st.integers(-(2**31), 2**31 - 1)
    if field.type == _F.TYPE_STRING:
        return _TEXT
    if field.type == _F.TYPE_BYTES:
        return _BYTES
    return _SCALARS[field.type]


def plans(descriptor: Any, deep: int = 3) -> Any:
    """A strategy for the keyword arguments of a message, with those of others inside as dicts."""
    fields = [f for f in descriptor.fields if deep > 0 or not f.message_type]

    @st.composite
    def plan(draw: Any) -> dict[str, Any]:
        if not fields:
            return {}
        chosen = draw(st.lists(st.sampled_from(fields), unique_by=lambda f: f.name, max_size=6))
        made: dict[str, Any] = {}
        for field in chosen:
            if is_map(field):
                key, value = (field.message_type.fields_by_number[n] for n in (1, 2))
                made[field.name] = draw(
                    st.dictionaries(values(key), values(value, deep), max_size=3)
                )
            elif field.is_repeated:
                made[field.name] = draw(st.lists(values(field, deep), max_size=4))
            else:
                made[field.name] = draw(values(field, deep))
        return made

    return plan()


def build(cls: Any, plan: dict[str, Any]) -> Any:
    """A message of a plan, those inside made first."""
    classes = OURS if issubclass(cls, _OUR_BASE) else PB2
    made: dict[str, Any] = {}
    for name, value in plan.items():
        field = cls.DESCRIPTOR.fields_by_name[name]
        if is_map(field):
            inner = field.message_type.fields_by_number[2].message_type
            if inner:
                kind = classes[inner.full_name]
                value = {k: build(kind, v) for k, v in value.items()}
        elif field.message_type:
            kind = classes[field.message_type.full_name]
            one = isinstance(value, dict)
            value = build(kind, value) if one else [build(kind, v) for v in value]
        made[name] = value
    return cls(**made)


_OUR_BASE = importlib.import_module("zerohop.generated").Message


# --- comparing ------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """A value in a form that can be compared: NaN is equal to itself, buffers are bytes."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, float):
        return ("float", "nan" if math.isnan(value) else struct.pack("<d", value))
    if isinstance(value, (bool, int, str, bytes)) or value is None:
        return (type(value).__name__, value) if isinstance(value, (bool, int)) else value
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items()}
    if hasattr(value, "DESCRIPTOR"):
        return content(value)
    if hasattr(value, "keys"):
        return {plain(k): plain(value[k]) for k in value}
    if hasattr(value, "__getitem__"):
        return [plain(v) for v in value]
    return value


def content(message: Any) -> dict[str, Any]:
    """All that can be read of a message."""
    found: dict[str, Any] = {"": type(message).DESCRIPTOR.full_name}
    for field in message.DESCRIPTOR.fields:
        if field.message_type and not field.is_repeated:
            if message.HasField(field.name):
                found[field.name] = content(getattr(message, field.name))
            continue
        found[field.name] = outcome(lambda name=field.name: getattr(message, name))
        if field.has_presence:
            found[f"has {field.name}"] = message.HasField(field.name)
    for oneof in message.DESCRIPTOR.oneofs:
        found[f"oneof {oneof.name}"] = message.WhichOneof(oneof.name)
        found[f"has {oneof.name}"] = message.HasField(oneof.name)
    return found


def same(theirs: Any, ours: Any) -> None:
    """Everything that can be asked of two messages."""
    assert content(ours) == content(theirs)
    assert wire(ours) == wire(theirs)
    assert ours.ByteSize() == len(wire(theirs))  # upb refuses while required fields are missing
    assert [f.name for f, _ in ours.ListFields()] == [f.name for f, _ in theirs.ListFields()]
    assert [plain(v) for _, v in ours.ListFields()] == [plain(v) for _, v in theirs.ListFields()]
    assert ours.IsInitialized() == theirs.IsInitialized()
    assert sorted(ours.FindInitializationErrors()) == sorted(theirs.FindInitializationErrors())


def wire(message: Any) -> bytes:
    try:
        done: bytes = message.SerializePartialToString(deterministic=True)
    except EncodeError:
        # upb, of a message that was read and is not set: it does as if this were whole.
        assert not message.ListFields()
        return b""
    return done


def outcome(action: Callable[..., Any]) -> tuple[str, Any]:
    """What came of it: a value, or the kind of exception."""
    try:
        return ("value", plain(action()))
    except Exception as error:
        return ("error", kind_of(error))


def kind_of(error: BaseException) -> str:
    """The exception's type as users catch it: ours stand for protobuf's."""
    if type(error).__module__.startswith("zerohop"):
        return type(error).__mro__[1].__name__
    return type(error).__name__
