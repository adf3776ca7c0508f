"""What is declared in a set of files: messages, enums, their places, comments and lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

__all__ = ["DeclaredEnum", "DeclaredMessage", "Elements", "comments", "line_of"]

# Numbers of fields in descriptor.proto, of which the paths in SourceCodeInfo are made.
FILE_MESSAGE, FILE_ENUM, FILE_SERVICE, FILE_EXTENSION = 4, 5, 6, 7
MESSAGE_FIELD, MESSAGE_NESTED, MESSAGE_ENUM, MESSAGE_EXTENSION = 2, 3, 4, 6
SERVICE_METHOD = 2

Path = tuple[int, ...]


@dataclass(frozen=True)
class DeclaredMessage:
    file: FileDescriptorProto
    around: tuple[DescriptorProto, ...]  # from the outermost message to itself
    path: Path

    @property
    def proto(self) -> DescriptorProto:
        return self.around[-1]

    @property
    def names(self) -> tuple[str, ...]:
        """Within the file."""
        return tuple(one.name for one in self.around)

    @property
    def full_name(self) -> str:
        return _join(self.file.package, *self.names)


@dataclass(frozen=True)
class DeclaredEnum:
    file: FileDescriptorProto
    around: tuple[DescriptorProto, ...]  # the messages around it
    proto: EnumDescriptorProto
    path: Path

    @property
    def names(self) -> tuple[str, ...]:
        return (*(one.name for one in self.around), self.proto.name)

    @property
    def full_name(self) -> str:
        return _join(self.file.package, *self.names)


class Elements:
    """Index of some files. Messages come as declared, each before those nested in it."""

    def __init__(self, files: Iterable[FileDescriptorProto]) -> None:
        self.files: dict[str, FileDescriptorProto] = {}
        self.messages: dict[str, DeclaredMessage] = {}
        self.enums: dict[str, DeclaredEnum] = {}
        for file in files:
            if file.name not in self.files:
                self.files[file.name] = file
                for index, enum in enumerate(file.enum_type):
                    self._add_enum(DeclaredEnum(file, (), enum, (FILE_ENUM, index)))
                for index, message in enumerate(file.message_type):
                    self._add(DeclaredMessage(file, (message,), (FILE_MESSAGE, index)))

    def messages_of(self, file_name: str) -> list[DeclaredMessage]:
        return [one for one in self.messages.values() if one.file.name == file_name]

    def _add(self, message: DeclaredMessage) -> None:
        self.messages[message.full_name] = message
        for index, enum in enumerate(message.proto.enum_type):
            path = (*message.path, MESSAGE_ENUM, index)
            self._add_enum(DeclaredEnum(message.file, message.around, enum, path))
        for index, nested in enumerate(message.proto.nested_type):
            path = (*message.path, MESSAGE_NESTED, index)
            self._add(DeclaredMessage(message.file, (*message.around, nested), path))

    def _add_enum(self, enum: DeclaredEnum) -> None:
        self.enums[enum.full_name] = enum


def extensions_of(file: FileDescriptorProto) -> Iterator[tuple[str, FieldDescriptorProto]]:
    """What `extend` declares in a file, with full names."""
    for one in file.extension:
        yield _join(file.package, one.name), one
    for message in Elements([file]).messages.values():
        for one in message.proto.extension:
            yield f"{message.full_name}.{one.name}", one


def comments(file: FileDescriptorProto) -> dict[Path, str]:
    """The comment before (or else behind) each element that has one, without blanks around it."""
    found = {}
    for location in file.source_code_info.location:
        text = location.leading_comments or location.trailing_comments
        if text.strip():
            lines = [line.strip() for line in text.strip().splitlines()]
            found[tuple(location.path)] = "\n".join(lines)
    return found


def line_of(file: FileDescriptorProto, full_name: str) -> tuple[int, int] | None:
    """Line and column, from 1, of a message, a field or an extension."""
    path = _paths(file).get(full_name)
    for location in file.source_code_info.location:
        if tuple(location.path) == path:
            return location.span[0] + 1, location.span[1] + 1
    return None


def _paths(file: FileDescriptorProto) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for index, one in enumerate(file.extension):
        paths[_join(file.package, one.name)] = (FILE_EXTENSION, index)
    for index, service in enumerate(file.service):
        paths[_join(file.package, service.name)] = (FILE_SERVICE, index)
        for at, method in enumerate(service.method):
            name = _join(file.package, service.name, method.name)
            paths[name] = (FILE_SERVICE, index, SERVICE_METHOD, at)
    for message in Elements([file]).messages.values():
        paths[message.full_name] = message.path
        for index, one in enumerate(message.proto.field):
            paths[f"{message.full_name}.{one.name}"] = (*message.path, MESSAGE_FIELD, index)
        for index, one in enumerate(message.proto.extension):
            paths[f"{message.full_name}.{one.name}"] = (*message.path, MESSAGE_EXTENSION, index)
    return paths


def _join(*names: str) -> str:
    return ".".join(name for name in names if name)
