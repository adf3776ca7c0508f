"""The protoc plugin, `protoc-gen-zerohop`: from a request on stdin to a response on stdout."""

from __future__ import annotations

import sys

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import Edition
from zerohop.codegen.elements import Elements, line_of
from zerohop.codegen.interface import interface_text
from zerohop.codegen.layout import LayoutError, Layouts
from zerohop.codegen.module import module_text
from zerohop.codegen.names import AHEAD, is_google, output_of
from zerohop.codegen.source import Source

__all__ = ["generate", "main"]


def generate(request: CodeGeneratorRequest) -> CodeGeneratorResponse:
    """Two files for each asked for, or the errors of all of them."""
    response = CodeGeneratorResponse(
        supported_features=CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
        | CodeGeneratorResponse.FEATURE_SUPPORTS_EDITIONS,
        minimum_edition=Edition.EDITION_PROTO2,
        maximum_edition=Edition.EDITION_2023,
    )
    if request.parameter:
        response.error = f"unknown option {request.parameter}: zerohop has none"
        return response
    elements = Elements(request.proto_file)
    errors = []
    for name in request.file_to_generate:
        try:
            _refuse_googles(name)
            source = Source(elements.files[name], elements, Layouts(elements))
            for end, text in ((".py", module_text(source)), (".pyi", interface_text(source))):
                response.file.add(name=output_of(name) + end, content=text)
        except LayoutError as error:
            errors.append(_located(error, elements))
    if errors:
        del response.file[:]
        response.error = "\n".join(dict.fromkeys(errors))
    return response


def _refuse_googles(name: str) -> None:
    if name in AHEAD:
        raise LayoutError(name, "", f"zerohop has its module already: {AHEAD[name]}")
    if is_google(name):
        raise LayoutError(name, "", "zerohop has no messages for this file")


def _located(error: LayoutError, elements: Elements) -> str:
    """The error with line and column, as protoc has it: echo.proto:3:5: pkg.Echo.f: why."""
    file = elements.files.get(error.file)
    place = line_of(file, error.element) if file else None
    if place is None:
        return str(error)
    return f"{error.file}:{place[0]}:{place[1]}: {error.element}: {error.reason}"


def main() -> None:
    """The program protoc runs."""
    if sys.stdin.isatty() or len(sys.argv) > 1:
        sys.exit("protoc runs this program: protoc -I. --zerohop_out=. FILE.proto")
    response = generate(CodeGeneratorRequest.FromString(sys.stdin.buffer.read()))
    sys.stdout.buffer.write(response.SerializeToString())


if __name__ == "__main__":
    main()
