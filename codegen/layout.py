"""From descriptors of .proto files to the layouts of messages: docs/image.md, byte for byte.

`Layouts` knows a set of files; `table` makes what a generated module carries. `canonical` and
`fingerprint` are the reference for those in C.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FeatureSet,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from zerohop.codegen.elements import Elements, extensions_of
from zerohop.codegen.features import (
    enum_is_closed,
    field_features,
    file_features,
    is_packable,
    syntax,
)

__all__ = [
    "Field",
    "LayoutError",
    "Layouts",
    "Message",
    "Table",
    "canonical",
    "fingerprint",
]

MAGIC = b"ZHL1"

# Labels.
IMPLICIT, OPTIONAL, ONEOF, REPEATED, MAP = range(5)
# Flags of fields.
PACKED, UTF8, CLOSED, REQUIRED = 1, 2, 4, 8
# Flags of messages.
ENTRY = 1

_Type = FieldDescriptorProto
# How a value lies in a struct and in a table's default. Slots (16) and references (8) have no code.
_CODES = {
    _Type.TYPE_DOUBLE: "d",
    _Type.TYPE_FLOAT: "f",
    _Type.TYPE_INT64: "q",
    _Type.TYPE_UINT64: "Q",
    _Type.TYPE_INT32: "i",
    _Type.TYPE_FIXED64: "Q",
    _Type.TYPE_FIXED32: "I",
    _Type.TYPE_BOOL: "?",
    _Type.TYPE_UINT32: "I",
    _Type.TYPE_ENUM: "i",
    _Type.TYPE_SFIXED32: "i",
    _Type.TYPE_SFIXED64: "q",
    _Type.TYPE_SINT32: "i",
    _Type.TYPE_SINT64: "q",
}
_SLOT = 16
_REFERENCE = 8
_PRESENCE_AT = 16


class LayoutError(ValueError):
    """A file asks for what images do not have. `element` is the full name of what does."""

    def __init__(self, file: str, element: str, reason: str) -> None:
        super().__init__(f"{file}: {element}: {reason}" if element else f"{file}: {reason}")
        self.file = file
        self.element = element
        self.reason = reason


@dataclass
class Field:
    name: str
    number: int
    kind: int
    label: int
    flags: int
    offset: int = 0
    bit: int = 0  # the presence bit, or the oneof
    type: Message | None = None
    closed: str = ""  # the full name of a closed enum
    values: tuple[int, ...] = ()  # of a closed enum, rising
    default: bytes = b""  # as in a struct; the text itself for strings and bytes

    @property
    def has_text(self) -> bool:
        return self.kind in (_Type.TYPE_STRING, _Type.TYPE_BYTES)

    @property
    def unit(self) -> int:
        """The bytes it needs in the struct."""
        if self.label in (REPEATED, MAP) or self.has_text:
            return _SLOT
        if self.kind == _Type.TYPE_MESSAGE:
            return _REFERENCE
        return struct.calcsize(_CODES[self.kind])  # type: ignore[index]


@dataclass
class Message:
    full_name: str
    file: str
    name: str  # within the file, dotted
    proto: DescriptorProto
    fields: list[Field] = field(default_factory=list)
    size: int = 0
    bits: int = 0
    oneofs: int = 0
    flags: int = 0


@dataclass
class Table:
    messages: list[Message]
    externals: list[Message]
    data: bytes


@dataclass
class _Enum:
    """Of a file; `values` as declared."""

    closed: bool
    values: list[tuple[str, int]]


class Layouts:
    """The messages of some files. Each file's dependencies must be among them."""

    def __init__(self, files: Iterable[FileDescriptorProto] | Elements) -> None:
        self._elements = files if isinstance(files, Elements) else Elements(files)
        self._messages: dict[str, Message] = {}
        self._pending: list[Message] = []

    def message(self, full_name: str) -> Message:
        """The layout of a message. After a LayoutError this object is of no more use."""
        message = self._declared(full_name, full_name, "")
        while self._pending:
            self._lay_out(self._pending.pop())
        return message

    def table(self, file_name: str) -> Table:
        """The table of one file."""
        _refuse_extensions(self._elements.files[file_name])
        declared = self._elements.messages_of(file_name)
        messages = [self.message(one.full_name) for one in declared]
        known = {message.full_name for message in messages}
        externals = _unique(
            (one.type.full_name, one.type)
            for message in messages
            for one in message.fields
            if one.type is not None and one.type.full_name not in known
        )
        if len(messages) + len(externals) > 0xFFFF:
            raise LayoutError(file_name, "", "more than 65535 messages are used")
        return Table(messages, externals, _pack_table(file_name, messages, externals))

    def _declared(self, full_name: str, used_by: str, used_in: str) -> Message:
        if full_name in self._messages:
            return self._messages[full_name]
        declared = self._elements.messages.get(full_name)
        if declared is None:
            raise LayoutError(used_in, used_by, f"no message {full_name} in the given files")
        name = ".".join(declared.names)
        message = Message(full_name, declared.file.name, name, declared.proto)
        self._messages[full_name] = message
        self._pending.append(message)  # its fields come later: messages may contain themselves
        return message

    def _lay_out(self, message: Message) -> None:
        declared_message = self._elements.messages[message.full_name]
        file, around = declared_message.file, declared_message.around
        proto = message.proto
        features = _supported(file)
        if proto.options.message_set_wire_format:
            raise LayoutError(file.name, message.full_name, "message sets are not supported")
        message.flags = ENTRY if proto.options.map_entry else 0
        made_up = {one.oneof_index for one in proto.field if one.proto3_optional}
        real = [index for index in range(len(proto.oneof_decl)) if index not in made_up]
        message.oneofs = len(real)
        for declared in sorted(proto.field, key=lambda one: one.number):
            made = self._field(message, file, features, around, declared)
            if made.label == ONEOF:
                made.bit = real.index(declared.oneof_index)
            elif made.label == OPTIONAL:
                made.bit = message.bits
                message.bits += 1
            message.fields.append(made)
        if len(message.fields) > 0xFFFF:
            raise LayoutError(file.name, message.full_name, "more than 65535 fields")
        _place(message)

    def _field(
        self,
        message: Message,
        file: FileDescriptorProto,
        file_set: FeatureSet,
        around: Sequence[DescriptorProto],
        declared: FieldDescriptorProto,
    ) -> Field:
        full_name = f"{message.full_name}.{declared.name}"
        features = field_features(file_set, around, declared)
        if declared.type == _Type.TYPE_GROUP:
            raise LayoutError(file.name, full_name, "groups are not supported")
        made = Field(declared.name, declared.number, declared.type, IMPLICIT, 0)
        if declared.type == _Type.TYPE_MESSAGE:
            made.type = self._declared(declared.type_name.lstrip("."), full_name, file.name)
            in_map = made.type.proto.options.map_entry or message.flags & ENTRY
            if features.message_encoding == FeatureSet.DELIMITED and not in_map:
                reason = "groups (features.message_encoding = DELIMITED) are not supported"
                raise LayoutError(file.name, full_name, reason)
        if declared.label == _Type.LABEL_REPEATED:
            is_map = made.type is not None and made.type.proto.options.map_entry
            made.label = MAP if is_map else REPEATED
        elif declared.HasField("oneof_index") and not declared.proto3_optional:
            made.label = ONEOF
        elif declared.type != _Type.TYPE_MESSAGE and features.field_presence != FeatureSet.IMPLICIT:
            made.label = OPTIONAL
        if is_packable(declared) and features.repeated_field_encoding == FeatureSet.PACKED:
            made.flags |= PACKED
        if declared.type == _Type.TYPE_STRING and features.utf8_validation == FeatureSet.VERIFY:
            made.flags |= UTF8
        if made.label not in (REPEATED, MAP, ONEOF) and (
            features.field_presence == FeatureSet.LEGACY_REQUIRED
        ):
            made.flags |= REQUIRED
        enum = None
        if declared.type == _Type.TYPE_ENUM:
            enum = self._enum(declared.type_name.lstrip("."), full_name, file.name)
            if enum.closed:
                if len(enum.values) > 0xFFFF:
                    raise LayoutError(file.name, full_name, "more than 65535 values")
                made.flags |= CLOSED
                made.closed = declared.type_name.lstrip(".")
                made.values = tuple(sorted({number for _, number in enum.values}))
        if made.label not in (REPEATED, MAP):
            made.default = _default(declared, enum)
        return made

    def _enum(self, full_name: str, used_by: str, used_in: str) -> _Enum:
        declared = self._elements.enums.get(full_name)
        if declared is None:
            raise LayoutError(used_in, used_by, f"no enum {full_name} in the given files")
        enum = declared.proto
        closed = enum_is_closed(_supported(declared.file), declared.around, enum)
        return _Enum(closed, [(value.name, value.number) for value in enum.value])


def canonical(message: Message) -> bytes:
    """What the fingerprint hashes."""
    found = [message]
    places = {message.full_name: 0}
    for each in found:  # grows meanwhile: breadth first
        for one in each.fields:
            if one.type is not None and one.type.full_name not in places:
                places[one.type.full_name] = len(found)
                found.append(one.type)
    parts = [MAGIC]
    for each in found:
        parts.append(
            struct.pack("<IHHHH", each.size, len(each.fields), each.bits, each.oneofs, each.flags)
        )
        for one in each.fields:
            last = 0
            if one.type is not None:
                last = places[one.type.full_name]
            elif one.closed:
                last = len(one.values)
            parts.append(_pack_field(one, last))
            parts.append(struct.pack(f"<{len(one.values)}i", *one.values))
    return b"".join(parts)


def fingerprint(message: Message) -> bytes:
    return hashlib.sha256(canonical(message)).digest()[:16]


def _supported(file: FileDescriptorProto) -> FeatureSet:
    features = file_features(file)
    if features is None:
        said = syntax(file) if syntax(file) != "editions" else "this edition"
        raise LayoutError(
            file.name, "", f"{said} is not supported: proto2, proto3 and edition 2023 are"
        )
    return features


def _refuse_extensions(file: FileDescriptorProto) -> None:
    """Custom options may be declared: they extend no message that anyone sends."""

    for full_name, one in extensions_of(file):
        extendee = one.extendee.lstrip(".")
        if not (extendee.startswith("google.protobuf.") and extendee.endswith("Options")):
            reason = f"extensions are not supported (extend {extendee})"
            raise LayoutError(file.name, full_name, reason)


def _place(message: Message) -> None:
    """Give offsets: units of 16 bytes, then of 8, 4 and 1, each in the order of numbers."""
    units: list[list[Field]] = []
    of_oneof: dict[int, list[Field]] = {}
    for one in message.fields:
        if one.label == ONEOF and one.bit in of_oneof:
            of_oneof[one.bit].append(one)
            continue
        units.append([one])
        if one.label == ONEOF:
            of_oneof[one.bit] = units[-1]
    words_end = _PRESENCE_AT + 4 * (-(-message.bits // 32) + message.oneofs)
    if words_end > 0xFFFF:
        raise LayoutError(message.file, message.full_name, "too many oneofs")
    at = _aligned(words_end)
    for width in (16, 8, 4, 1):
        for members in units:
            if max(one.unit for one in members) == width:
                for one in members:
                    one.offset = at
                at += width
    message.size = _aligned(at)


def _aligned(count: int) -> int:
    return -(-count // 8) * 8


def _default(declared: FieldDescriptorProto, enum: _Enum | None) -> bytes:
    """The value of an absent field: text and bytes as such, others as they lie in a struct."""
    text = declared.default_value
    if declared.type == _Type.TYPE_STRING:
        return text.encode()
    if declared.type == _Type.TYPE_BYTES:  # in C's escapes
        return text.encode("ascii").decode("unicode_escape").encode("latin-1")
    if declared.type == _Type.TYPE_MESSAGE:
        return b""
    code = "<" + _CODES[declared.type]
    if enum is not None:
        named = dict(enum.values)
        return struct.pack(code, named[text] if text else enum.values[0][1])
    if not text:
        return b""
    if declared.type == _Type.TYPE_BOOL:
        return struct.pack(code, text == "true")
    if declared.type == _Type.TYPE_DOUBLE:
        return struct.pack(code, float(text))
    if declared.type == _Type.TYPE_FLOAT:
        return struct.pack(code, _single(float(text)))
    return struct.pack(code, int(text))


def _single(value: float) -> float:
    """What pack can take: what rounds to no float is infinity."""
    try:
        struct.pack("<f", value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    return value


def _unique(pairs: Iterator[tuple[str, Message]]) -> list[Message]:
    return list(dict(pairs).values())


def _pack_field(one: Field, last: int) -> bytes:
    """The first 16 bytes, the same in tables and in the canonical form."""
    return struct.pack(
        "<IBBBxIHH", one.number, one.kind, one.label, one.flags, one.offset, one.bit, last
    )


def _pack_table(file_name: str, messages: Sequence[Message], externals: Sequence[Message]) -> bytes:
    index = {message.full_name: n for n, message in enumerate([*messages, *externals])}
    enums: dict[str, int] = {}
    values: list[tuple[int, ...]] = []
    fields: list[bytes] = []
    entries = []
    defaults = b""
    for message in messages:
        entries.append(
            struct.pack(
                "<IIHHHH8x",
                message.size,
                len(fields),
                len(message.fields),
                message.bits,
                message.oneofs,
                message.flags,
            )
        )
        for one in message.fields:
            last = 0
            if one.type is not None:
                last = index[one.type.full_name]
            elif one.closed:
                if one.closed not in enums:
                    enums[one.closed] = len(enums)
                    values.append(one.values)
                last = enums[one.closed]
            default = one.default.ljust(8, b"\0")
            if one.has_text:
                default = struct.pack("<II", len(defaults), len(one.default))
                if not one.default:
                    default = bytes(8)
                defaults += one.default
            fields.append(_pack_field(one, last) + default + bytes(8))
    if len(enums) > 0xFFFF:
        raise LayoutError(file_name, "", "more than 65535 closed enums are used")
    lists = b""
    first = 0
    for each in values:
        lists += struct.pack("<II", first, len(each))
        first += len(each)
    body = b"".join([*entries, *fields, lists])
    flat = [value for each in values for value in each]
    body += _filled(struct.pack(f"<{len(flat)}i", *flat)) + _filled(defaults)
    header = struct.pack(
        "<4sIHHHHIIII",
        MAGIC,
        32 + len(body),
        len(messages),
        len(externals),
        len(enums),
        0,
        len(fields),
        len(flat),
        len(defaults),
        0,
    )
    return header + body


def _filled(data: bytes) -> bytes:
    return data.ljust(_aligned(len(data)), b"\0")
