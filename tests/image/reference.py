"""Images in plain Python: a writer, and an encoder that reads one; what the C ones are held to."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Type
from zerohop.codegen.layout import MAP, ONEOF, OPTIONAL, PACKED, REPEATED, Field, Message

ROOT = 1024
NEAR = 512
BLOB = 4096
OFFSET_BITS = 36

CODES = {
    Type.TYPE_DOUBLE: "<d",
    Type.TYPE_FLOAT: "<f",
    Type.TYPE_INT64: "<q",
    Type.TYPE_UINT64: "<Q",
    Type.TYPE_INT32: "<i",
    Type.TYPE_FIXED64: "<Q",
    Type.TYPE_FIXED32: "<I",
    Type.TYPE_BOOL: "<?",
    Type.TYPE_UINT32: "<I",
    Type.TYPE_ENUM: "<i",
    Type.TYPE_SFIXED32: "<i",
    Type.TYPE_SFIXED64: "<q",
    Type.TYPE_SINT32: "<i",
    Type.TYPE_SINT64: "<q",
}
FIXED = {
    Type.TYPE_DOUBLE: 1,
    Type.TYPE_FIXED64: 1,
    Type.TYPE_SFIXED64: 1,
    Type.TYPE_FLOAT: 5,
    Type.TYPE_FIXED32: 5,
    Type.TYPE_SFIXED32: 5,
}
TEXT = (Type.TYPE_STRING, Type.TYPE_BYTES)


class Writer:
    """Builds the image of a protobuf message. What does not fit into the root goes to segment 1,
    blobs to segments of their own. With `spread`, nothing but the first struct is in the root."""

    def __init__(self, layout: Message, *, spread: bool = False) -> None:
        self.root = bytearray()
        self.segments: dict[int, bytearray] = {}
        self._room = 0 if spread else ROOT
        if layout.size > NEAR:
            self.root += bytes(8)
            self._struct = self._alloc(layout.size)
            self.root[:8] = struct.pack("<Q", self._struct)
        else:
            self.root += bytes(layout.size)
            self._struct = 0

    def write(self, layout: Message, message: Any, unknown: bytes = b"") -> None:
        self._message(layout, message, self._struct, unknown)

    def poke(self, at: int, data: bytes) -> None:
        """Write over what lies in the root."""
        self.root[at : at + len(data)] = data

    def _alloc(self, size: int, *, blob: bool = False) -> int:
        padded = -(-size // 8) * 8
        if not blob and len(self.root) + padded <= self._room:
            at = len(self.root)
            self.root += bytes(padded)
            return at
        number = max(self.segments, default=1) + 1 if blob else 1
        held = self.segments.setdefault(number, bytearray() if blob else bytearray(64))
        at = len(held)
        held += bytes(padded)
        return number << OFFSET_BITS | at

    def _put(self, reference: int, data: bytes) -> None:
        number, at = reference >> OFFSET_BITS, reference & (1 << OFFSET_BITS) - 1
        held = self.segments[number] if number else self.root
        held[at : at + len(data)] = data

    def _slot(self, at: int, data: bytes, count: int, *, blob: bool = False) -> None:
        if count:
            reference = self._alloc(len(data), blob=blob and len(data) >= BLOB)
            self._put(reference, data)
            self._put(at, struct.pack("<QII", reference, count, -(-len(data) // 8) * 8))

    def _message(self, layout: Message, message: Any, at: int, unknown: bytes = b"") -> None:
        self._slot(at, unknown, len(unknown))
        presence = 0
        cases = {}
        for field in layout.fields:
            value = getattr(message, field.name)
            if field.label == REPEATED:
                self._array(field, list(value), at)
            elif field.label == MAP:
                self._map(field, value, at)
            elif (
                field.label in (OPTIONAL, ONEOF) or field.kind == Type.TYPE_MESSAGE
            ) and not message.HasField(field.name):
                continue
            else:
                if field.label == OPTIONAL:
                    presence |= 1 << field.bit
                elif field.label == ONEOF:
                    cases[field.bit] = field.number
                self._value(field, value, at + field.offset)
        words = -(-layout.bits // 32)
        self._put(at + 16, presence.to_bytes(4 * words, "little"))
        for oneof, number in cases.items():
            self._put(at + 16 + 4 * (words + oneof), struct.pack("<I", number))

    def _value(self, field: Field, value: Any, at: int) -> None:
        if field.kind in TEXT:
            data = value.encode() if isinstance(value, str) else value
            self._slot(at, data, len(data), blob=field.kind == Type.TYPE_BYTES)
        elif field.type is not None:
            reference = self._alloc(field.type.size)
            self._put(at, struct.pack("<Q", reference))
            self._message(field.type, value, reference)
        else:
            self._put(at, struct.pack(CODES[field.kind], value))

    def _array(self, field: Field, values: list[Any], at: int) -> None:
        if field.kind in TEXT:
            width = 16
        else:
            width = 8 if field.type is not None else struct.calcsize(CODES[field.kind])
        data = b""
        if field.kind not in TEXT and field.type is None:
            data = b"".join(struct.pack(CODES[field.kind], value) for value in values)
        size = width * len(values)
        if not values:
            return
        reference = self._alloc(size, blob=bool(data) and size >= BLOB)
        self._put(at + field.offset, struct.pack("<QII", reference, len(values), -(-size // 8) * 8))
        if data:
            self._put(reference, data)
            return
        for index, value in enumerate(values):
            self._value(field, value, reference + width * index)

    def _map(self, field: Field, value: Mapping[Any, Any], at: int) -> None:
        entry = field.type
        assert entry is not None
        if not value:
            return
        size = 8 * len(value)
        reference = self._alloc(size)
        self._put(at + field.offset, struct.pack("<QII", reference, len(value), size))
        words = -(-entry.bits // 32)
        # protobuf's own order differs from run to run; a reader must not rely on any.
        for index, key in enumerate(sorted(value, reverse=True)):
            pair = self._alloc(entry.size)
            self._put(reference + 8 * index, struct.pack("<Q", pair))
            self._put(pair + 16, ((1 << entry.bits) - 1).to_bytes(4 * words, "little"))
            self._value(entry.fields[0], key, pair + entry.fields[0].offset)
            self._value(entry.fields[1], value[key], pair + entry.fields[1].offset)


class Reader:
    """Encodes an image to wire bytes: by number, unknown fields last, maps in protobuf's order."""

    def __init__(self, root: bytes, far: Mapping[int, bytes]) -> None:
        self._segments = {0: root, **far}

    def encode(self, layout: Message) -> bytes:
        at = 0
        if layout.size > NEAR:
            (at,) = struct.unpack("<Q", self._at(0, 8))
        return self._message(layout, at)

    def _at(self, reference: int, size: int) -> bytes:
        held = self._segments[reference >> OFFSET_BITS]
        at = reference & (1 << OFFSET_BITS) - 1
        if at + size > len(held):
            raise ValueError(f"{size} bytes at {reference:#x} are not there")
        return bytes(held[at : at + size])

    def _slot(self, at: int, width: int) -> tuple[int, int, bytes]:
        reference, count, _ = struct.unpack("<QII", self._at(at, 16))
        return reference, count, self._at(reference, count * width) if count else b""

    def _message(self, layout: Message, at: int, *, whole: bool = False) -> bytes:
        """`whole`: unset fields too, as in the entry of a map."""
        struct_bytes = self._at(at, layout.size)
        words = -(-layout.bits // 32)
        out = b""
        for field in layout.fields:
            unit = struct_bytes[field.offset : field.offset + field.unit]
            if field.label in (REPEATED, MAP):
                out += self._repeated(field, at + field.offset)
                continue
            if field.label == OPTIONAL:
                is_set = bool(struct_bytes[16 + field.bit // 8] >> field.bit % 8 & 1)
            elif field.label == ONEOF:
                (case,) = struct.unpack_from("<I", struct_bytes, 16 + 4 * (words + field.bit))
                is_set = case == field.number
            elif field.kind in TEXT:
                is_set = unit[8:12] != bytes(4)
            else:
                is_set = any(unit)
            if is_set or whole:
                out += self._tagged(field, at + field.offset)
        return out + self._slot(at, 1)[2]

    def _tagged(self, field: Field, at: int) -> bytes:
        if field.kind in TEXT:
            return tag(field, 2) + sized(self._slot(at, 1)[2])
        if field.type is not None:
            (reference,) = struct.unpack("<Q", self._at(at, 8))
            return tag(field, 2) + sized(self._message(field.type, reference) if reference else b"")
        data = self._at(at, struct.calcsize(CODES[field.kind]))
        return tag(field, FIXED.get(field.kind, 0)) + scalar(field, data)

    def _repeated(self, field: Field, at: int) -> bytes:
        if field.kind in TEXT:
            reference, count, _ = self._slot(at, 16)
            return b"".join(self._tagged(field, reference + 16 * n) for n in range(count))
        if field.type is not None:
            reference, count, data = self._slot(at, 8)
            structs = struct.unpack(f"<{count}Q", data)
            if field.label == MAP:
                keyed = sorted(structs, key=self._by_key(field.type))
                return b"".join(
                    tag(field, 2) + sized(self._message(field.type, one, whole=True))
                    for one in keyed
                )
            return b"".join(tag(field, 2) + sized(self._message(field.type, n)) for n in structs)
        width = struct.calcsize(CODES[field.kind])
        _, count, data = self._slot(at, width)
        values = [scalar(field, data[width * n : width * (n + 1)]) for n in range(count)]
        if field.flags & PACKED:
            return tag(field, 2) + sized(b"".join(values)) if values else b""
        return b"".join(tag(field, FIXED.get(field.kind, 0)) + value for value in values)

    def _by_key(self, entry: Message) -> Callable[[int], Any]:
        key = entry.fields[0]

        def of(at: int) -> Any:
            if key.kind in TEXT:  # 256: a text comes behind the longer ones that begin with it
                return [*self._slot(at + key.offset, 1)[2], 256]
            data = self._at(at + key.offset, struct.calcsize(CODES[key.kind]))
            return -int.from_bytes(data, "little")

        return of


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def sized(data: bytes) -> bytes:
    return varint(len(data)) + data


def tag(field: Field, wire: int) -> bytes:
    return varint(field.number << 3 | wire)


def scalar(field: Field, data: bytes) -> bytes:
    """The wire bytes of a value that lies as `data` in a struct."""
    if field.kind in FIXED:
        return data
    if field.kind == Type.TYPE_BOOL:
        return varint(int(data != b"\0"))
    (value,) = struct.unpack(CODES[field.kind], data)
    if field.kind in (Type.TYPE_SINT32, Type.TYPE_SINT64):
        value = value << 1 if value >= 0 else (-value << 1) - 1
    return varint(value & (1 << 64) - 1)
