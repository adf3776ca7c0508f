"""One file to generate from: its layouts, its imports, what its options say, its descriptor."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor_pb2 import (
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from zerohop.codegen.elements import DeclaredMessage, Elements, Path, comments
from zerohop.codegen.layout import LayoutError, Layouts
from zerohop.codegen.names import Imports, attribute, docstring

__all__ = ["AS_BYTES", "RESERVED", "Source", "top_names"]

# The number of the option (zerohop.as_bytes), as in proto/zerohop/options.proto.
AS_BYTES = 72070

# Names that a generated module or its interface uses itself.
RESERVED = {
    "DESCRIPTOR",
    "_FILE",
    "_abc",
    "_aio",
    "_builtins",
    "_collections",
    "_datetime",
    "_descriptor",
    "_enum",
    "_extensions",
    "_generated",
    "_google",
    "_grpc",
    "_message",
    "_typing",
    "_AnyContext",
    "_AnyIterator",
    "_T",
    "_well_known",
}


class Source:
    def __init__(self, file: FileDescriptorProto, elements: Elements, layouts: Layouts) -> None:
        self.file = file
        self.elements = elements
        self.table = layouts.table(file.name)
        self.messages = elements.messages_of(file.name)
        self._comments = comments(file)
        self.top_names = top_names(file)
        self._check_names()
        self.imports = Imports(file, {*RESERVED, *self.top_names})
        for external in self.table.externals:
            self.imports.alias(external.file, self._first_user(external.full_name))
        for service in file.service:
            for method in service.method:
                for type_name in (method.input_type, method.output_type):
                    self._expression(type_name, self._method_name(service, method))

    def top_level(self, package_name: str) -> str:
        return f"{self.file.package}.{package_name}" if self.file.package else package_name

    def docstring(self, path: Path, indent: str) -> list[str]:
        """The lines of the docstring that an element's comment makes, or none."""
        return docstring(self._comments.get(path, ""), indent)

    def externals(self) -> list[str]:
        """Expressions for the classes of other files, in the table's order."""
        return [self._expression(one.full_name, "") for one in self.table.externals]

    def request(self, method: MethodDescriptorProto) -> str:
        return self._expression(method.input_type, "")

    def reply(self, method: MethodDescriptorProto) -> str:
        return self._expression(method.output_type, "")

    def as_bytes(self) -> list[tuple[str, str]]:
        """The fields with the option, by message and name; for a map the value of its entry."""
        found = []
        for message in self.messages:
            for field in message.proto.field:
                if not has_as_bytes(field):
                    continue
                entry = self._entry(field)
                value = entry.proto.field[1] if entry else field
                if value.type != FieldDescriptorProto.TYPE_BYTES:
                    full_name = f"{message.full_name}.{field.name}"
                    reason = "the option (zerohop.as_bytes) is for fields of type bytes"
                    raise LayoutError(self.file.name, full_name, reason)
                found.append((".".join((entry or message).names), value.name))
        return found

    def descriptor(self) -> bytes:
        """As protobuf's own generator has it, so that both may register it in one process."""
        bare = FileDescriptorProto()
        bare.CopyFrom(self.file)
        bare.ClearField("source_code_info")
        for field in _fields_of(bare):
            if field.json_name == _json_name(field.name):
                field.ClearField("json_name")
        return bare.SerializeToString(deterministic=True)

    def _entry(self, field: FieldDescriptorProto) -> DeclaredMessage | None:
        entry = self.elements.messages.get(field.type_name.lstrip("."))
        return entry if entry and entry.proto.options.map_entry else None

    def _expression(self, type_name: str, used_by: str) -> str:
        declared = self.elements.messages[type_name.lstrip(".")]
        base = ""
        if declared.file.name != self.file.name:
            base = self.imports.alias(declared.file.name, used_by)
        return attribute(base, declared.names)

    def _first_user(self, full_name: str) -> str:
        return next(
            f"{message.full_name}.{field.name}"
            for message in self.table.messages
            for field in message.fields
            if field.type is not None and field.type.full_name == full_name
        )

    def _method_name(self, service: ServiceDescriptorProto, method: MethodDescriptorProto) -> str:
        return self.top_level(f"{service.name}.{method.name}")

    def _check_names(self) -> None:
        taken = set(RESERVED)
        for service in self.file.service:
            taken |= {service.name + end for end in ("Stub", "AsyncStub", "Servicer")}
            taken.add(f"add_{service.name}Servicer_to_server")
        for name in self.top_names:
            if name in taken:
                reason = "the generated module uses this name itself"
                raise LayoutError(self.file.name, self.top_level(name), reason)


def top_names(file: FileDescriptorProto) -> list[str]:
    """The messages, enums and their values that a module has by name."""
    return [
        *(message.name for message in file.message_type),
        *(enum.name for enum in file.enum_type),
        *(value.name for enum in file.enum_type for value in enum.value),
    ]


def has_as_bytes(field: FieldDescriptorProto) -> bool:
    options: Any = _options_class().FromString(field.options.SerializeToString())
    return bool(options.as_bytes)


@functools.cache
def _options_class() -> type[Message]:
    """Reads our option out of FieldOptions, whether or not the process knows the extension."""
    file = FileDescriptorProto(name="as_bytes.proto", package="zerohop.reader", syntax="proto3")
    file.message_type.add(name="Options").field.add(
        name="as_bytes",
        number=AS_BYTES,
        type=FieldDescriptorProto.TYPE_BOOL,
        label=FieldDescriptorProto.LABEL_OPTIONAL,
    )
    pool = DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName("zerohop.reader.Options")
    return message_factory.GetMessageClass(found)


def _fields_of(file: FileDescriptorProto) -> Iterator[FieldDescriptorProto]:
    yield from file.extension
    for message in Elements([file]).messages.values():
        yield from message.proto.field
        yield from message.proto.extension


def _json_name(name: str) -> str:
    head, *words = name.split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in words)
