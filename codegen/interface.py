"""The text of a generated module's interface, NAME_zerohop.pyi, for type checkers and editors.

Inside a class the names of its members hide those of the module. So everything imported has an
alias that no .proto file uses, and types that are hidden somewhere get one, `_global_NAME`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from google.protobuf.descriptor_pb2 import (
    EnumDescriptorProto,
    FieldDescriptorProto,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)
from zerohop.codegen.elements import (
    FILE_SERVICE,
    SERVICE_METHOD,
    DeclaredEnum,
    DeclaredMessage,
    Elements,
)
from zerohop.codegen.layout import MAP, ONEOF, OPTIONAL, REPEATED, Field, Message
from zerohop.codegen.module import header, kind_of_call
from zerohop.codegen.names import is_plain, module_of, unique
from zerohop.codegen.source import RESERVED, Source, top_names

__all__ = ["interface_text"]

_Type = FieldDescriptorProto
_READ = {
    _Type.TYPE_STRING: "_builtins.str",
    _Type.TYPE_BYTES: "_builtins.memoryview",
    _Type.TYPE_BOOL: "_builtins.bool",
    _Type.TYPE_DOUBLE: "_builtins.float",
    _Type.TYPE_FLOAT: "_builtins.float",
}
_BUFFER = "_extensions.Buffer"

# Members of every message; a field of such a name is reached by getattr alone.
_API = {
    "ByteSize",
    "Clear",
    "ClearExtension",
    "ClearField",
    "CopyFrom",
    "DESCRIPTOR",
    "DiscardUnknownFields",
    "Extensions",
    "FindInitializationErrors",
    "FromString",
    "HasExtension",
    "HasField",
    "IsInitialized",
    "ListFields",
    "MergeFrom",
    "MergeFromString",
    "ParseFromString",
    "RegisterExtension",
    "SerializePartialToString",
    "SerializeToString",
    "SetInParent",
    "UnknownFields",
    "WhichOneof",
}
# Messages with methods of protobuf's own, which the run time adds. Those of Any are declared here:
# protobuf's take protobuf's messages alone.
_WELL_KNOWN = {
    f"google.protobuf.{name}": f"_well_known.{name}, "
    for name in ("Duration", "FieldMask", "ListValue", "Struct", "Timestamp")
}
_ANY = "google.protobuf.Any"
_ANY_METHODS = """\
    def Pack(
        self,
        msg: _generated.Message | _message.Message,
        type_url_prefix: _builtins.str = "type.googleapis.com/",
        deterministic: _builtins.bool | None = None,
    ) -> None: ...
    def Unpack(self, msg: _generated.Message | _message.Message) -> _builtins.bool: ...
    def TypeName(self) -> _builtins.str: ...
    def Is(self, descriptor: _descriptor.Descriptor) -> _builtins.bool: ...
"""
# What else a field of such a message may be given.
_PYTHONS = {
    ".google.protobuf.Timestamp": " | _datetime.datetime",
    ".google.protobuf.Duration": " | _datetime.timedelta",
    ".google.protobuf.ListValue": " | _collections.Iterable[_typing.Any]",
}
_ENUM_API = {"DESCRIPTOR", "Name", "Value", "items", "keys", "values"}

_IMPORTS = """\
import builtins as _builtins
import collections.abc as _collections
import datetime as _datetime
import google.protobuf.descriptor as _descriptor
import google.protobuf.internal.enum_type_wrapper as _enum
import typing as _typing
import typing_extensions as _extensions
"""
_SERVICE_IMPORTS = """\
import abc as _abc
import grpc as _grpc
import grpc.aio as _aio
"""
# A servicer may be written for threads or for asyncio: what it is given is declared as both.
_SERVICE_TYPES = """
_T = _typing.TypeVar("_T")

class _AnyIterator(
    _collections.AsyncIterator[_T], _collections.Iterator[_T], metaclass=_abc.ABCMeta
): ...

class _AnyContext(  # type: ignore[misc]
    _grpc.ServicerContext, _aio.ServicerContext[_typing.Any, _typing.Any]
): ...
"""


def interface_text(source: Source) -> str:
    return "\n".join(_Interface(source).lines()) + "\n"


class _Interface:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._file = source.file
        self._elements: Elements = source.elements
        self._as_bytes = set(source.as_bytes())
        self._layouts = {one.full_name: one for one in source.table.messages}
        hidden = set()
        for message in source.messages:
            hidden |= {one.name for one in message.proto.field}
            hidden |= {one.name for one in message.proto.nested_type}
            for enum in message.proto.enum_type:
                hidden |= {enum.name, *(value.name for value in enum.value)}
        for service in self._file.service:
            hidden |= {method.name for method in service.method}
        own = {one.name for one in self._file.message_type}
        own |= {one.name for one in self._file.enum_type}
        self._hidden = own & hidden

    def lines(self) -> Iterator[str]:
        yield header(self._file.name)
        yield from _IMPORTS.splitlines()
        if self._file.service:
            yield from _SERVICE_IMPORTS.splitlines()
        if any(message.full_name in _WELL_KNOWN for message in self._source.messages):
            yield "import google.protobuf.internal.well_known_types as _well_known"
        if any(message.full_name == _ANY for message in self._source.messages):
            yield "import google.protobuf.message as _message"
        yield "from zerohop import generated as _generated"
        yield from self._source.imports.lines(interface=True)
        yield from self._exports()
        if self._file.service:
            yield from _SERVICE_TYPES.splitlines()
        yield from ["", "DESCRIPTOR: _descriptor.FileDescriptor"]
        for enum in self._file.enum_type:
            full_name = self._source.top_level(enum.name)
            yield from ["", *self._enum(self._elements.enums[full_name], "")]
        for message in self._file.message_type:
            if is_plain(message.name):
                full_name = self._source.top_level(message.name)
                yield from ["", *self._message(self._elements.messages[full_name], "")]
        for name in sorted(self._hidden):
            if is_plain(name):
                yield from ["", f"_global_{name}: _typing.TypeAlias = {name}"]
        for index, service in enumerate(self._file.service):
            yield from self._service(service, index)

    def _exports(self) -> Iterator[str]:
        """What public imports bring; by name, since a `*` would bring DESCRIPTOR too."""
        known = set(self._source.top_names)
        pending = [(self._file, "")]
        for file, through in pending:  # grows meanwhile
            for index in file.public_dependency:
                dependency = self._elements.files[file.dependency[index]]
                module = through or module_of(dependency.name) or ""
                pending.append((dependency, module))
                for name in top_names(dependency) if module else ():
                    if is_plain(name) and name not in known:
                        known.add(name)
                        yield f"from {module} import {name} as {name}"

    # --- types ------------------------------------------------------------------------------------

    def _type(self, declared: DeclaredMessage | DeclaredEnum, used_by: str = "") -> str:
        names = list(declared.names)
        if not all(is_plain(name) for name in names):
            return "_typing.Any"
        if declared.file.name != self._file.name:
            return ".".join([self._source.imports.alias(declared.file.name, used_by), *names])
        if names[0] in self._hidden:
            names[0] = f"_global_{names[0]}"
        return ".".join(names)

    def _message_type(self, type_name: str) -> str:
        return self._type(self._elements.messages[type_name.lstrip(".")])

    def _enum_type(self, field: FieldDescriptorProto, used_by: str) -> str:
        declared = self._elements.enums[field.type_name.lstrip(".")]
        named = self._type(declared, used_by)
        return named if named == "_typing.Any" else f"{named}.ValueType"

    def _read(self, message: DeclaredMessage, field: FieldDescriptorProto) -> str:
        """The type of one value as it is read."""
        if field.type == _Type.TYPE_MESSAGE:
            return self._message_type(field.type_name)
        if field.type == _Type.TYPE_ENUM:
            return self._enum_type(field, f"{message.full_name}.{field.name}")
        if (".".join(message.names), field.name) in self._as_bytes:
            return "_builtins.bytes"
        return _READ.get(field.type, "_builtins.int")

    def _written(self, message: DeclaredMessage, field: FieldDescriptorProto) -> str:
        """The type of one value as it may be given."""
        read = self._read(message, field)
        if field.type == _Type.TYPE_MESSAGE:
            other = _PYTHONS.get(field.type_name, "")
            return f"{read} | _collections.Mapping[_builtins.str, _typing.Any]{other}"
        if field.type == _Type.TYPE_ENUM:
            return f"{read} | _builtins.int | _builtins.str"
        return _BUFFER if field.type == _Type.TYPE_BYTES else read

    def _container(self, message: DeclaredMessage, field: FieldDescriptorProto) -> str:
        entry = self._entry(field)
        value_of, value = (entry, entry.proto.field[1]) if entry else (message, field)
        read, written = self._read(value_of, value), self._written(value_of, value)
        arguments = [self._read(entry, entry.proto.field[0])] if entry else []
        arguments.append(read)
        if value.type == _Type.TYPE_MESSAGE:
            name = "MessageMap" if entry else "RepeatedMessages"
        else:
            name = "ScalarMap" if entry else "Repeated"
            if written != read:
                arguments.append(written)
        return f"_generated.{name}[{', '.join(arguments)}]"

    def _entry(self, field: FieldDescriptorProto) -> DeclaredMessage | None:
        declared = self._elements.messages.get(field.type_name.lstrip("."))
        return declared if declared and declared.proto.options.map_entry else None

    # --- enums ------------------------------------------------------------------------------------

    def _enum(self, declared: DeclaredEnum, indent: str) -> Iterator[str]:
        enum = declared.proto
        siblings = self._siblings(declared)
        holder = unique(f"_{enum.name.lstrip('_')}", siblings)
        wrapper = unique(f"{holder}EnumTypeWrapper", siblings)
        outer = self._type_prefix(declared)
        values = [value.name for value in enum.value if is_plain(value.name)]
        if is_plain(enum.name):
            yield f"{indent}class {holder}:"
            yield f'{indent}    ValueType = _typing.NewType("ValueType", _builtins.int)'
            yield ""
            base = f"_enum._EnumTypeWrapper[{outer}{holder}.ValueType]"
            yield f"{indent}class {wrapper}({base}, _builtins.type):"
            yield f"{indent}    DESCRIPTOR: _descriptor.EnumDescriptor"
            for name in values:
                if name not in _ENUM_API:
                    yield f"{indent}    {name}: {outer}{holder}.ValueType"
            yield ""
            yield f"{indent}class {enum.name}({holder}, metaclass={wrapper}):"
            yield from self._source.docstring(declared.path, indent + "    ")
            yield f"{indent}    ..."
            yield ""
        kind = f"{outer}{enum.name}.ValueType" if is_plain(enum.name) else "_builtins.int"
        if not outer and enum.name in self._hidden:
            kind = f"_global_{kind}"
        for name in values:
            yield f"{indent}{name}: {kind}"

    def _siblings(self, declared: DeclaredEnum) -> set[str]:
        if not declared.around:
            return {*RESERVED, *self._source.top_names}
        inside = declared.around[-1]
        named: list[Sequence[FieldDescriptorProto | EnumDescriptorProto]] = [
            inside.field,
            inside.enum_type,
        ]
        names = {one.name for group in named for one in group}
        return names | {one.name for one in inside.nested_type}

    def _type_prefix(self, declared: DeclaredEnum) -> str:
        if not declared.around:
            return ""
        names = [one.name for one in declared.around]
        if names[0] in self._hidden:
            names[0] = f"_global_{names[0]}"
        return ".".join(names) + "."

    # --- messages ---------------------------------------------------------------------------------

    def _message(self, declared: DeclaredMessage, indent: str) -> Iterator[str]:
        layout = self._layouts[declared.full_name]
        inner = indent + "    "
        helper = _WELL_KNOWN.get(declared.full_name, "")
        yield f"{indent}class {declared.proto.name}({helper}_generated.Message):"
        yield from self._source.docstring(declared.path, inner)
        for one in declared.proto.enum_type:
            enum = self._elements.enums[f"{declared.full_name}.{one.name}"]
            yield from [*self._enum(enum, inner), ""]
        for proto in declared.proto.nested_type:
            nested = self._elements.messages[f"{declared.full_name}.{proto.name}"]
            if is_plain(proto.name):
                yield from [*self._message(nested, inner), ""]
        for field in layout.fields:
            name = f"{field.name.upper()}_FIELD_NUMBER"
            if is_plain(name):
                yield f"{inner}{name}: _typing.Final[_builtins.int]"
        by_name = {field.name: field for field in declared.proto.field}
        for field in layout.fields:
            if is_plain(field.name) and field.name not in _API | RESERVED:
                yield from self._property(declared, by_name[field.name], field, inner)
        yield from self._constructor(declared, by_name, layout, inner)
        yield from self._presence(declared, layout, inner)
        if declared.full_name == _ANY:
            yield from _ANY_METHODS.splitlines()

    def _property(
        self, message: DeclaredMessage, field: FieldDescriptorProto, layout: Field, indent: str
    ) -> Iterator[str]:
        is_many = layout.label in (REPEATED, MAP)
        read = self._container(message, field) if is_many else self._read(message, field)
        yield f"{indent}@_builtins.property"
        yield f"{indent}def {field.name}(self) -> {read}: ..."
        if not is_many and field.type != _Type.TYPE_MESSAGE:
            yield f"{indent}@{field.name}.setter"
            written = self._written(message, field)
            yield f"{indent}def {field.name}(self, value: {written}) -> None: ..."

    def _constructor(
        self,
        message: DeclaredMessage,
        by_name: dict[str, FieldDescriptorProto],
        layout: Message,
        indent: str,
    ) -> Iterator[str]:
        names = [field.name for field in layout.fields if is_plain(field.name)]
        yield f"{indent}def __init__("
        yield f"{indent}    {unique('self', names)},"
        if names:
            yield f"{indent}    *,"
        for field in layout.fields:
            if field.name not in names:
                continue
            declared = by_name[field.name]
            entry = self._entry(declared)
            if layout.flags == 0 and field.label == MAP and entry:
                key, value = entry.proto.field
                given = f"{self._read(entry, key)}, {self._written(entry, value)}"
                kind = f"_collections.Mapping[{given}]"
            elif field.label == REPEATED:
                kind = f"_collections.Iterable[{self._written(message, declared)}]"
            else:
                kind = self._written(message, declared)
            yield f"{indent}    {field.name}: {kind} | None = ...,"
        if len(names) < len(layout.fields):
            rest = unique("kwargs", names)
            yield f"{indent}    **{rest}: _typing.Any,"
        yield f"{indent}) -> None: ..."

    def _presence(self, message: DeclaredMessage, layout: Message, indent: str) -> Iterator[str]:
        oneofs: dict[str, list[str]] = {}
        present = []
        for field in layout.fields:
            is_one = field.label not in (REPEATED, MAP)
            if field.label == ONEOF:
                declared = next(one for one in message.proto.field if one.name == field.name)
                oneof = message.proto.oneof_decl[declared.oneof_index].name
                oneofs.setdefault(oneof, []).append(field.name)
            if field.label in (OPTIONAL, ONEOF) or (is_one and field.type is not None):
                present.append(field.name)
        clearable = [*(field.name for field in layout.fields), *oneofs]
        arguments = {
            "HasField": ([*present, *oneofs], "_builtins.bool"),
            "ClearField": (clearable, "None"),
        }
        for method, (names, returned) in arguments.items():
            kind = _literal(names) if names else "_typing.Never"
            yield f"{indent}def {method}(self, field_name: {kind}, /) -> {returned}: ..."
        if not oneofs:
            yield f"{indent}def WhichOneof(self, oneof_group: _typing.Never, /) -> None: ..."
        for oneof, members in oneofs.items():
            if len(oneofs) > 1:
                yield f"{indent}@_typing.overload"
            argument, returned = _literal([oneof]), f"{_literal(members)} | None"
            yield f"{indent}def WhichOneof(self, oneof_group: {argument}, /) -> {returned}: ..."

    # --- services ---------------------------------------------------------------------------------

    def _service(self, service: ServiceDescriptorProto, index: int) -> Iterator[str]:
        path = (FILE_SERVICE, index)
        doc = self._source.docstring(path, "    ")
        methods = [
            (method, self._message_type(method.input_type), self._message_type(method.output_type))
            for method in service.method
        ]
        plain = [one for one in methods if is_plain(one[0].name)]
        for name, module in (("Stub", "_grpc"), ("AsyncStub", "_aio")):
            yield from ["", f"class {service.name}{name}:", *doc]
            yield f"    def __init__(self, channel: {module}.Channel) -> None: ..."
            for method, request, reply in plain:
                kind = "".join(way.title() for way in kind_of_call(method).split("_"))
                yield f"    {method.name}: {module}.{kind}MultiCallable[{request}, {reply}]"
        yield from ["", f"class {service.name}Servicer:", *doc]
        for at, (method, request, reply) in enumerate(methods):
            if is_plain(method.name):
                said = self._source.docstring((*path, SERVICE_METHOD, at), "        ")
                yield from _handler(method, request, reply, said)
        if not plain and not doc:
            yield "    ..."
        yield ""
        yield f"def add_{service.name}Servicer_to_server("
        yield f"    servicer: {service.name}Servicer, server: _grpc.Server | _aio.Server"
        yield ") -> None: ..."


def _handler(
    method: MethodDescriptorProto, request: str, reply: str, said: list[str]
) -> Iterator[str]:
    argument = f"request: {request}"
    if method.client_streaming:
        argument = f"request_iterator: _AnyIterator[{request}]"
    returned = f"{reply} | _collections.Awaitable[{reply}]"
    if method.server_streaming:
        returned = f"_collections.Iterator[{reply}] | _collections.AsyncIterator[{reply}]"
    yield f"    def {method.name}("
    yield f"        self, {argument}, context: _AnyContext"
    yield f"    ) -> {returned}:"
    yield from said
    yield "        ..."


def _literal(names: Sequence[str]) -> str:
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"_typing.Literal[{quoted}]"
