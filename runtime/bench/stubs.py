"""The stock stubs of bench.proto, compiled into the run's own folder."""

import importlib
from pathlib import Path
from typing import Any

PROTO = Path(__file__).with_name("bench.proto")
_HINT = "zerohop bench needs grpcio-tools: pip install 'zerohop[bench]'"


class StubsMissing(RuntimeError):
    """The stubs cannot be made on this machine."""


def compile_into(folder: Path) -> None:
    """Writes ``bench_pb2.py`` and ``bench_pb2_grpc.py``, as ``grpc_tools.protoc`` makes them."""
    try:
        _compiler()(PROTO, folder)
    except ImportError as error:
        raise StubsMissing(f"{_HINT} ({error})") from error
    absent = [
        name for name in ("bench_pb2.py", "bench_pb2_grpc.py") if not (folder / name).exists()
    ]
    if absent:
        raise StubsMissing(f"compiling {PROTO.name} made no {' and no '.join(absent)}")


def _compiler() -> Any:
    try:
        return importlib.import_module("zerohop.codegen.stubs").compile_stubs
    except ImportError:
        importlib.import_module("grpc_tools.protoc")  # a missing package is said before any work
        return _protoc


def _protoc(proto: Path, folder: Path) -> None:
    protoc = importlib.import_module("grpc_tools.protoc")
    code = protoc.main(
        [
            "protoc",
            f"--proto_path={proto.parent}",
            f"--python_out={folder}",
            f"--grpc_python_out={folder}",
            str(proto),
        ]
    )
    if code != 0:
        raise StubsMissing(f"protoc ended with {code} on {proto.name}")
