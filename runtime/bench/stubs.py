"""The stubs of bench.proto, stock and generated, compiled into the run's own folder."""

import importlib.util
import subprocess
import sys
from pathlib import Path

from zerohop.codegen.stubs import StubsError, compile_stubs

PROTO = Path(__file__).with_name("bench.proto")
_HINT = "stock stubs are made by grpcio-tools: pip install 'zerohop[bench]'"


class StubsMissing(RuntimeError):
    """The stubs cannot be made on this machine."""


def compile_into(folder: Path) -> None:
    """Writes ``bench_pb2.py`` and ``bench_pb2_grpc.py``, as ``grpc_tools.protoc`` makes them."""
    if importlib.util.find_spec("grpc_tools") is None:
        raise StubsMissing(_HINT)
    try:
        compile_stubs(PROTO, folder)
    except StubsError as error:
        raise StubsMissing(str(error)) from error


def generate_into(folder: Path) -> None:
    """Writes ``bench_zerohop.py``, as ``zerohop.protoc`` makes it."""
    command = [sys.executable, "-P", "-m", "zerohop.protoc", f"-I{PROTO.parent}"]
    command += [f"--zerohop_out={folder}", PROTO.name]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise StubsMissing(f"zerohop.protoc cannot compile {PROTO}:\n{ran.stderr.strip()}")
