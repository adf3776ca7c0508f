"""Compile .proto text and run the generator, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from vectors import compiled
from zerohop.codegen.layout import Layouts, Message, Table
from zerohop.codegen.plugin import generate


class Protos:
    """Some .proto files in a folder."""

    def __init__(self, folder: Path, **texts: str) -> None:
        self.folder = folder
        for name, text in texts.items():
            self.write(f"{name}.proto", text)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def files(self) -> Sequence[FileDescriptorProto]:
        found = self.folder.rglob("*.proto")
        return compiled(self.folder, sorted(str(one.relative_to(self.folder)) for one in found))

    def layout(self, full_name: str) -> Message:
        return Layouts(self.files()).message(full_name)

    def table(self, file_name: str) -> Table:
        return Layouts(self.files()).table(file_name)

    def response(self, *names: str) -> CodeGeneratorResponse:
        return generate(CodeGeneratorRequest(file_to_generate=names, proto_file=self.files()))

    def texts(self, *names: str) -> dict[str, str]:
        response = self.response(*names)
        assert response.error == ""
        return {file.name: file.content for file in response.file}


def proto3(body: str) -> str:
    return 'syntax = "proto3"; package t; ' + body


def proto2(body: str) -> str:
    return 'syntax = "proto2"; package t; ' + body


def edition(body: str) -> str:
    return 'edition = "2023"; package t; ' + body
