"""Compile .proto files to Python modules, only when they are stale.

In a program, so that nobody has to run a compiler first:

    from zerohop.codegen.stubs import import_generated, import_stubs

    hello_pb2, hello_pb2_grpc = import_stubs(Path(__file__).with_name("hello.proto"))
    hello_zerohop = import_generated(Path(__file__).with_name("hello.proto"))

From a shell, the stock stubs (`python -m zerohop.protoc` makes the others):

    python -m zerohop.codegen.stubs hello.proto --out generated/

A stamp beside the modules holds the hashes of all sources they were made from and what made them.
Files appear by rename and the stamp last, so that any number of processes may compile the same file
at once.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["StubsError", "compile_stubs", "import_generated", "import_stubs"]


class StubsError(RuntimeError):
    """Stubs could not be made or imported; the message says what to do."""


@dataclass(frozen=True)
class _Kind:
    """What is made of a .proto file, and by which program."""

    stamp: str
    compiler: str
    outputs: tuple[str, ...]
    endings: tuple[str, ...]  # of the modules, for NAME.proto
    installed: tuple[str, ...]  # how files begin of which nothing is made
    ours: bool = False  # whether our generator makes it


_STOCK = _Kind(
    stamp=".stubs.json",
    compiler="grpc_tools.protoc",
    outputs=("python_out", "grpc_python_out"),
    endings=("_pb2", "_pb2_grpc"),
    installed=("google/protobuf/",),
)
_GENERATED = _Kind(
    stamp=".zerohop.json",
    compiler="zerohop.protoc",
    outputs=("zerohop_out",),
    endings=("_zerohop",),
    installed=("google/protobuf/", "zerohop/options.proto"),
    ours=True,
)


def compile_stubs(
    proto_path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    include: Sequence[str | os.PathLike[str]] = (),
) -> None:
    """Put the stubs of `proto_path`, and of the files it imports, into `out_dir` unless fresh.

    Imports are looked for in `include`, then in the file's own folder. To import the stubs,
    `out_dir` must be on `sys.path`; `import_stubs` sees to that.
    """
    _compile(_STOCK, Path(proto_path), Path(out_dir), [Path(root) for root in include])


def import_stubs(
    proto_path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str] | None = None,
    *,
    include: Sequence[str | os.PathLike[str]] = (),
) -> tuple[Any, Any]:
    """Compile if stale, import, and return the modules `(NAME_pb2, NAME_pb2_grpc)`.

    Without `out_dir` the stubs go to `__pycache__/stubs` beside the .proto file.
    """
    messages, services = _import(_STOCK, proto_path, out_dir, include)
    return messages, services


def import_generated(
    proto_path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str] | None = None,
    *,
    include: Sequence[str | os.PathLike[str]] = (),
) -> Any:
    """The same for generated messages: the module `NAME_zerohop`, which has messages and stubs."""
    (module,) = _import(_GENERATED, proto_path, out_dir, include)
    return module


def _import(
    kind: _Kind,
    proto_path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str] | None,
    include: Sequence[str | os.PathLike[str]],
) -> list[ModuleType]:
    proto = Path(proto_path).absolute()
    out = Path(out_dir).absolute() if out_dir else proto.parent / "__pycache__" / "stubs"
    roots = [Path(root) for root in include]
    _compile(kind, proto, out, roots)
    if str(out) not in sys.path:
        sys.path.insert(0, str(out))
    importlib.invalidate_caches()
    stem = _name_in_root(proto, _roots(proto, roots)).removesuffix(".proto").replace("/", ".")
    if kind.ours:
        stem = stem.replace("-", "_")
    modules = [importlib.import_module(stem + ending) for ending in kind.endings]
    found = Path(modules[0].__file__ or "").absolute()
    if not found.is_relative_to(out):
        raise StubsError(
            f"{modules[0].__name__} is taken in this process by {found}: protobuf can hold one "
            f"file of a name only. Rename {proto.name} or import the stubs in another process."
        )
    return modules


def _compile(kind: _Kind, proto: Path, out: Path, include: Sequence[Path]) -> bool:
    """True if the stubs were stale and have been made anew."""
    if not proto.is_file():
        raise StubsError(f"{proto}: no such file")
    roots = _roots(proto, include)
    name = _name_in_root(proto, roots)
    stamp = (out / name).with_suffix(kind.stamp)
    if _is_fresh(kind, stamp, out):
        return False
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".stubs-", dir=out) as temporary:
            _generate(kind, name, roots, Path(temporary), out, stamp)
    except OSError as error:
        raise StubsError(
            f"cannot write stubs to {out} ({error.strerror}): choose another folder"
        ) from error
    return True


def _roots(proto: Path, include: Sequence[Path]) -> list[Path]:
    return [root.absolute() for root in (*include, proto.absolute().parent)]


def _name_in_root(proto: Path, roots: Sequence[Path]) -> str:
    """The name by which protoc knows the file: relative to the first root that holds it."""
    path = proto.absolute()
    return next(path.relative_to(root).as_posix() for root in roots if path.is_relative_to(root))


def _tools_version() -> str | None:
    try:
        return importlib.metadata.version("grpcio-tools")
    except importlib.metadata.PackageNotFoundError:
        return None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _generator(kind: _Kind) -> str | None:
    """Our generator, as it is: its output may change while the version does not."""
    if not kind.ours:
        return None
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(map(Path.read_bytes, sources))).hexdigest()


def _is_fresh(kind: _Kind, stamp: Path, out: Path) -> bool:
    try:
        noted = json.loads(stamp.read_text())
        # Where grpcio-tools is not installed, stubs that somebody else made will do.
        return (
            noted["grpcio-tools"] == (_tools_version() or noted["grpcio-tools"])
            and noted.get("generator") == _generator(kind)
            and all((out / made).is_file() for made in noted["outputs"])
            and all(_digest(Path(path)) == seen for path, seen in noted["sources"].items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _generate(
    kind: _Kind, name: str, roots: Sequence[Path], temporary: Path, out: Path, stamp: Path
) -> None:
    """Run protoc into `temporary`, move what it made to `out`, then write the stamp."""
    names = _run_protoc(kind, [name], roots, temporary)
    if names != [name]:  # generate for the imported files too
        _run_protoc(kind, names, roots, temporary)
    outputs = sorted(path.relative_to(temporary) for path in temporary.rglob("*.py*"))
    for made in outputs:
        (out / made).parent.mkdir(parents=True, exist_ok=True)
        # A .pyc is matched by size and whole seconds, which two quick edits can share.
        Path(importlib.util.cache_from_source(str(out / made))).unlink(missing_ok=True)
        os.replace(temporary / made, out / made)
    noted = {
        "grpcio-tools": _tools_version(),
        "generator": _generator(kind),
        "outputs": [made.as_posix() for made in outputs],
        "sources": {str(path): _digest(path) for path in (_find(n, roots) for n in names)},
    }
    draft = temporary / "stamp.json"
    draft.write_text(json.dumps(noted, indent=1))
    os.replace(draft, stamp)


def _run_protoc(
    kind: _Kind, names: Sequence[str], roots: Sequence[Path], temporary: Path
) -> list[str]:
    """Compile `names`; return them and all that they import, without installed files."""
    if _tools_version() is None:
        raise StubsError("stubs are made by grpcio-tools: pip install grpcio-tools")
    described = temporary / "described.binpb"
    command = [sys.executable, "-m", kind.compiler]
    command += [f"--proto_path={root}" for root in roots]
    command += [f"--{output}={temporary}" for output in kind.outputs]
    command += [f"--descriptor_set_out={described}", "--include_imports", *names]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise StubsError(f"protoc cannot compile {', '.join(names)}:\n{ran.stderr.strip()}")
    from google.protobuf import descriptor_pb2

    files = descriptor_pb2.FileDescriptorSet.FromString(described.read_bytes()).file
    return [file.name for file in files if not file.name.startswith(kind.installed)]


def _find(name: str, roots: Sequence[Path]) -> Path:
    return next(root / name for root in roots if (root / name).is_file())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m zerohop.codegen.stubs",
        description="Compile .proto files to Python stubs, those that are stale.",
        epilog="example: python -m zerohop.codegen.stubs hello.proto --out generated/",
    )
    parser.add_argument("proto", nargs="+", type=Path, metavar="FILE.proto")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where stubs go")
    parser.add_argument(
        "--include",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="where imported .proto files are looked for first (may be given again)",
    )
    options = parser.parse_args(arguments)
    for proto in options.proto:
        try:
            made = _compile(_STOCK, proto, options.out, options.include)
        except StubsError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(f"{proto}: {'compiled to' if made else 'is up to date in'} {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
