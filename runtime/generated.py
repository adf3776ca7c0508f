"""What generated modules (`NAME_zerohop.py`) are made with, and the types of their fields.

Programs import the classes from the generated module; of this module they need, if anything, the
names in `__all__`, for annotations and `isinstance`.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping, MutableSequence, Sequence
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf import message as protobuf_message
from google.protobuf.internal import well_known_types
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from zerohop import _native
from zerohop._native import (
    ArenaFull,
    Message,
    MessageMap,
    Repeated,
    RepeatedMessages,
    ScalarMap,
)

__all__ = [
    "ArenaFull",
    "DecodeError",
    "EncodeError",
    "Message",
    "MessageMap",
    "Repeated",
    "RepeatedMessages",
    "ScalarMap",
    "message_class",
]


class DecodeError(protobuf_message.DecodeError, ValueError):
    """Bytes or a peer's memory that are no message. Also protobuf's DecodeError."""


class EncodeError(protobuf_message.EncodeError, ValueError):
    """A message whose required fields are not all set. Also protobuf's EncodeError."""


for _sequence in (Repeated, RepeatedMessages):
    MutableSequence.register(_sequence)
for _mapping in (ScalarMap, MessageMap):
    MutableMapping.register(_mapping)

_POOL: Final = descriptor_pool.Default()
_CLASSES: Final[dict[str, type[Message]]] = {}


def message_class(full_name: str) -> type[Message]:
    """The generated class of a message, `package.Name`. KeyError before its module is imported."""
    return _CLASSES[full_name]


class File:
    """The messages and enums of one .proto file: what `file` returns."""

    def __init__(self, module: str, descriptor: Any, messages: dict[str, type[Message]]) -> None:
        self.descriptor = descriptor
        self._module = module
        self._messages = messages

    def message(self, name: str) -> type[Message]:
        """The class of a top-level message."""
        return self._messages[name]

    def enum(self, name: str) -> EnumTypeWrapper:
        """The wrapper of a top-level enum, as in a `_pb2` module."""
        return _enum(self.descriptor.enum_types_by_name[name], self._module)


def _enum(descriptor: Any, module: str) -> EnumTypeWrapper:
    wrapper = EnumTypeWrapper(descriptor)
    wrapper.__module__ = module
    return wrapper


def _find(descriptor: Any, name: str) -> Any:
    first, *rest = name.split(".")
    found = descriptor.message_types_by_name[first]
    for part in rest:
        found = found.nested_types_by_name[part]
    return found


def _find_proto(proto: descriptor_pb2.FileDescriptorProto, name: str) -> Any:
    first, *rest = name.split(".")
    found = next(m for m in proto.message_type if m.name == first)
    for part in rest:
        found = next(m for m in found.nested_type if m.name == part)
    return found


def _oneofs(proto: Any) -> tuple[str, ...]:
    """The oneofs that a user wrote: those of `optional` fields come last and do not count."""
    made_up = {f.oneof_index for f in proto.field if f.proto3_optional}
    return tuple(o.name for i, o in enumerate(proto.oneof_decl) if i not in made_up)


def _made_up_oneofs(proto: Any) -> tuple[tuple[str, str], ...]:
    """The others, each with its field."""
    return tuple(
        (proto.oneof_decl[f.oneof_index].name, f.name) for f in proto.field if f.proto3_optional
    )


def file(
    *,
    name: str,
    descriptor: bytes,
    table: bytes,
    messages: Sequence[tuple[str, tuple[str, ...]]],
    externals: Sequence[type[Message]] = (),
    dependencies: Sequence[File] = (),
    as_bytes: Sequence[tuple[str, str]] = (),
) -> File:
    """Make the classes of a .proto file. Called by generated code only.

    messages: names within the file, in the table's order, each with its fields' names by number.
    ImportError if the table is not what this version of zerohop understands.
    """
    del dependencies  # being there is all that is asked of them: their files are in the pool
    module = sys._getframe(1).f_globals.get("__name__", name)
    about = _register(name, descriptor)
    proto = descriptor_pb2.FileDescriptorProto.FromString(descriptor)
    found = [_find(about, message) for message, _ in messages]
    specs = tuple(
        (
            what.full_name,
            f"{module}.{what.name}",
            fields,
            _oneofs(_find_proto(proto, message)),
            tuple(field for owner, field in as_bytes if owner == message),
            _bases(what.full_name),
            _made_up_oneofs(_find_proto(proto, message)),
        )
        for what, (message, fields) in zip(found, messages, strict=True)
    )
    made = _native.message_classes(table, tuple(externals), specs)
    classes = {message: cls for (message, _), cls in zip(messages, made, strict=True)}
    for (message, _), what, cls in zip(messages, found, made, strict=True):
        _furnish(cls, what, message, module, classes)
        _CLASSES[what.full_name] = cls
    return File(module, about, {m: c for m, c in classes.items() if "." not in m})


def _register(name: str, descriptor: bytes) -> Any:
    """The file in the pool, entered if need be. TypeError if another one has its name."""
    try:
        _POOL.AddSerializedFile(descriptor)
    except TypeError:
        # upb compares with what it makes of the file that it has, where the default 0.1 of a float
        # has become 0.100000001. So both are compared in that form.
        if not _is_known(name, descriptor):
            raise
    return _POOL.FindFileByName(name)


def _is_known(name: str, descriptor: bytes) -> bool:
    try:
        known = _POOL.FindFileByName(name)
    except KeyError:
        return False
    pool = descriptor_pool.DescriptorPool()
    _copy_dependencies(known, pool, set())
    try:
        pool.AddSerializedFile(descriptor)
    except TypeError:
        return False
    return bool(pool.FindFileByName(name).serialized_pb == known.serialized_pb)


def _copy_dependencies(about: Any, pool: Any, done: set[str]) -> None:
    for dependency in about.dependencies:
        if dependency.name not in done:
            done.add(dependency.name)
            _copy_dependencies(dependency, pool, done)
            pool.AddSerializedFile(dependency.serialized_pb)


def _bases(full_name: str) -> tuple[type, ...]:
    helper = well_known_types.WKTBASES.get(full_name)
    return (Message,) if helper is None else (helper, Message)


def _furnish(
    cls: Any, descriptor: Any, name: str, module: str, classes: dict[str, type[Message]]
) -> None:
    """Give a class what a `_pb2` class has beside its fields."""
    cls.DESCRIPTOR = descriptor
    cls.__module__ = module
    cls.__qualname__ = name
    for field in descriptor.fields:
        setattr(cls, field.name.upper() + "_FIELD_NUMBER", field.number)
    for enum in descriptor.enum_types:
        setattr(cls, enum.name, _enum(enum, module))
        for value in enum.values:
            setattr(cls, value.name, value.number)
    for nested in descriptor.nested_types:
        setattr(cls, nested.name, classes[f"{name}.{nested.name}"])


def _text(message: Any) -> str:
    """protobuf's text form."""
    pb2 = message_factory.GetMessageClass(message.DESCRIPTOR)
    return str(pb2.FromString(message.SerializePartialToString()))


def _convert(message: Any, value: Any) -> None:
    """Make a well-known type mean what a value of Python's does, as protobuf's constructors do."""
    assign = getattr(message, "_internal_assign", None)
    if assign is None:
        raise TypeError(
            f"{message.DESCRIPTOR.full_name} is made of a message of its class or of a dict, "
            f"not of {type(value).__name__}"
        )
    message.SetInParent()
    assign(value)


def _enum_number(place: tuple[Any, str], name: str) -> int:
    cls, field = place
    enum = cls.DESCRIPTOR.fields_by_name[field].enum_type
    try:
        return int(enum.values_by_name[name].number)
    except KeyError:
        raise ValueError(f'unknown enum label "{name}" of {enum.full_name}') from None


_native.set_message_hooks(_text, _convert, _enum_number, DecodeError, EncodeError)
