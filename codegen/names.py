"""What things of a .proto file are called in Python."""

from __future__ import annotations

import keyword
from collections.abc import Iterable

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from zerohop.codegen.layout import LayoutError

__all__ = [
    "AHEAD",
    "Imports",
    "attribute",
    "docstring",
    "google_module_of",
    "is_google",
    "is_plain",
    "module_of",
    "output_of",
    "unique",
]

# The well-known files that this package has messages for, and its own, are generated ahead.
AHEAD = {
    f"google/protobuf/{name}.proto": f"zerohop.wellknown.{name}_zerohop"
    for name in ("any", "duration", "empty", "field_mask", "struct", "timestamp", "wrappers")
}
AHEAD["zerohop/options.proto"] = "zerohop.wellknown.options_zerohop"


def is_google(file_name: str) -> bool:
    return file_name.startswith("google/protobuf/")


def is_plain(name: str) -> bool:
    """Can it stand behind a dot? Keywords cannot, nor can what a class would mangle."""
    return name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("__")


def attribute(base: str, names: Iterable[str]) -> str:
    """An expression for what is inside `base`; "" is the module itself."""
    expression = base
    for name in names:
        if not expression:
            expression = name if is_plain(name) else f'globals()["{name}"]'
        elif is_plain(name):
            expression = f"{expression}.{name}"
        else:
            expression = f'getattr({expression}, "{name}")'
    return expression


def module_of(file_name: str) -> str | None:
    """The module of a .proto file; None for a file of google's without one here."""
    if file_name in AHEAD:
        return AHEAD[file_name]
    if is_google(file_name):
        return None
    return output_of(file_name).replace("/", ".")


def output_of(file_name: str) -> str:
    """The generated file, without .py or .pyi."""
    return file_name.removesuffix(".proto").replace("-", "_") + "_zerohop"


def google_module_of(file_name: str) -> str:
    """protobuf's own module of a well-known file: google.protobuf.descriptor_pb2."""
    return file_name.removesuffix(".proto").replace("/", ".") + "_pb2"


def unique(name: str, taken: Iterable[str]) -> str:
    """The name, with underscores behind it if it is taken."""
    taken = set(taken)
    while name in taken:
        name += "_"
    return name


class Imports:
    """The modules that a generated one imports, each with an alias."""

    def __init__(self, file: FileDescriptorProto, taken: Iterable[str]) -> None:
        self._file = file
        self._taken = set(taken)
        self._aliases: dict[str, str] = {}
        for dependency in file.dependency:
            self._add(dependency)

    def alias(self, file_name: str, used_by: str) -> str:
        """The alias of a file's module. `used_by`: the full name of what needs a message of it."""
        if module_of(file_name) is None:
            reason = f"zerohop has no messages for {file_name}"
            raise LayoutError(self._file.name, used_by, reason)
        self._add(file_name)  # a public import of an import is not among the dependencies
        return self._aliases[file_name]

    def dependencies(self) -> list[str]:
        """The aliases of all imported modules that zerohop generated."""
        return list(self._aliases.values())

    def lines(self, *, interface: bool = False) -> list[str]:
        lines = []
        for dependency in self._file.dependency:
            if module_of(dependency) is None and not interface:
                parent, _, name = google_module_of(dependency).rpartition(".")
                alias = unique(f"_{name}", self._taken)
                lines.append(f"from {parent} import {name} as {alias}  # registers its descriptor")
        for file_name, alias in self._aliases.items():
            module = module_of(file_name) or ""
            if all(is_plain(part) for part in module.split(".")):
                lines.append(f"import {module} as {alias}")
            elif not interface:
                lines.append(f'{alias} = __import__("importlib").import_module("{module}")')
        for index in [] if interface else self._file.public_dependency:
            module = module_of(self._file.dependency[index]) or ""
            if module and all(is_plain(part) for part in module.split(".")):
                lines.append(f"from {module} import *")
        return lines

    def _add(self, file_name: str) -> None:
        module = module_of(file_name)
        if module is None or file_name in self._aliases:
            return
        stem = module.removesuffix("_zerohop").replace(".", "_")
        if file_name in AHEAD:
            stem = stem.removeprefix("zerohop_wellknown_")
        alias = unique("_" + stem.lstrip("_"), self._taken)
        self._taken.add(alias)
        self._aliases[file_name] = alias


def docstring(text: str, indent: str) -> list[str]:
    """The lines of a docstring, or none."""
    if not text:
        return []
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    lines = [(indent + line).rstrip() for line in text.splitlines()]
    lines[0] = f'{indent}"""{lines[0].lstrip()}'
    if len(lines) == 1:
        return [lines[0] + '"""']
    return [*lines, f'{indent}"""']
