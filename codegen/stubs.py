"""Compile .proto files to Python stubs (`_pb2.py`, `_pb2_grpc.py`), only when they are stale.

In a program, so that nobody has to run a compiler first:

    from zerohop.codegen.stubs import import_stubs

    hello_pb2, hello_pb2_grpc = import_stubs(Path(__file__).with_name("hello.proto"))

From a shell:

    python -m zerohop.codegen.stubs hello.proto --out generated/

A stamp beside the stubs holds the hashes of all sources they were made from and the version of
grpcio-tools. Files appear by rename and the stamp last, so that any number of processes may
compile the same file at once.
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
from pathlib import Path
from typing import Any

__all__ = ["StubsError", "compile_stubs", "import_stubs"]


class StubsError(RuntimeError):
    """Stubs could not be made or imported; the message says what to do."""


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
    _compile(Path(proto_path), Path(out_dir), [Path(root) for root in include])


def import_stubs(
    proto_path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str] | None = None,
    *,
    include: Sequence[str | os.PathLike[str]] = (),
) -> tuple[Any, Any]:
    """Compile if stale, import, and return the modules `(NAME_pb2, NAME_pb2_grpc)`.

    Without `out_dir` the stubs go to `__pycache__/stubs` beside the .proto file.
    """
    proto = Path(proto_path).absolute()
    out = Path(out_dir).absolute() if out_dir else proto.parent / "__pycache__" / "stubs"
    roots = [Path(root) for root in include]
    _compile(proto, out, roots)
    if str(out) not in sys.path:
        sys.path.insert(0, str(out))
    importlib.invalidate_caches()
    stem = _name_in_root(proto, _roots(proto, roots)).removesuffix(".proto").replace("/", ".")
    messages, services = (importlib.import_module(stem + end) for end in ("_pb2", "_pb2_grpc"))
    found = Path(messages.__file__ or "").absolute()
    if not found.is_relative_to(out):
        raise StubsError(
            f"{stem}_pb2 is taken in this process by {found}: protobuf can hold one file of a "
            f"name only. Rename {proto.name} or import the stubs in another process."
        )
    return messages, services


def _compile(proto: Path, out: Path, include: Sequence[Path]) -> bool:
    """True if the stubs were stale and have been made anew."""
    if not proto.is_file():
        raise StubsError(f"{proto}: no such file")
    roots = _roots(proto, include)
    name = _name_in_root(proto, roots)
    stamp = (out / name).with_suffix(".stubs.json")
    if _is_fresh(stamp, out):
        return False
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".stubs-", dir=out) as temporary:
            _generate(name, roots, Path(temporary), out, stamp)
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


def _is_fresh(stamp: Path, out: Path) -> bool:
    try:
        noted = json.loads(stamp.read_text())
        # Where grpcio-tools is not installed, stubs that somebody else made will do.
        return (
            noted["grpcio-tools"] == (_tools_version() or noted["grpcio-tools"])
            and all((out / made).is_file() for made in noted["outputs"])
            and all(_digest(Path(path)) == seen for path, seen in noted["sources"].items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _generate(name: str, roots: Sequence[Path], temporary: Path, out: Path, stamp: Path) -> None:
    """Run protoc into `temporary`, move what it made to `out`, then write the stamp."""
    names = _run_protoc([name], roots, temporary)
    if names != [name]:  # generate for the imported files too
        _run_protoc(names, roots, temporary)
    outputs = sorted(path.relative_to(temporary) for path in temporary.rglob("*.py"))
    for made in outputs:
        (out / made).parent.mkdir(parents=True, exist_ok=True)
        # A .pyc is matched by size and whole seconds, which two quick edits can share.
        Path(importlib.util.cache_from_source(str(out / made))).unlink(missing_ok=True)
        os.replace(temporary / made, out / made)
    noted = {
        "grpcio-tools": _tools_version(),
        "outputs": [made.as_posix() for made in outputs],
        "sources": {str(path): _digest(path) for path in (_find(n, roots) for n in names)},
    }
    draft = temporary / "stamp.json"
    draft.write_text(json.dumps(noted, indent=1))
    os.replace(draft, stamp)


def _run_protoc(names: Sequence[str], roots: Sequence[Path], temporary: Path) -> list[str]:
    """Compile `names`; return them and all that they import, without google's own files."""
    if _tools_version() is None:
        raise StubsError("stubs are made by grpcio-tools: pip install grpcio-tools")
    described = temporary / "described.binpb"
    command = [sys.executable, "-m", "grpc_tools.protoc"]
    command += [f"--proto_path={root}" for root in roots]
    command += [f"--python_out={temporary}", f"--grpc_python_out={temporary}"]
    command += [f"--descriptor_set_out={described}", "--include_imports", *names]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise StubsError(f"protoc cannot compile {', '.join(names)}:\n{ran.stderr.strip()}")
    from google.protobuf import descriptor_pb2

    files = descriptor_pb2.FileDescriptorSet.FromString(described.read_bytes()).file
    return [file.name for file in files if not file.name.startswith("google/protobuf/")]


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
            made = _compile(proto, options.out, options.include)
        except StubsError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(f"{proto}: {'compiled to' if made else 'is up to date in'} {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
