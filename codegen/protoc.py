"""`python -m zerohop.protoc`: the protoc of grpcio-tools with our plugin, whatever PATH says."""

from __future__ import annotations

import importlib
import importlib.resources
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["main"]

HELP = """\
usage: python -m zerohop.protoc [-I DIR]... --zerohop_out=DIR [PROTOC OPTION]... FILE.proto...

Make NAME_zerohop.py and NAME_zerohop.pyi for each NAME.proto: messages that are sent without
serialization, and the stubs and servicers of its services.

  -I DIR, --proto_path=DIR   where imported files are looked for; FILE.proto must lie in one of
                             them (default: the current folder)
  --zerohop_out=DIR          where the modules go

All other options are protoc's own, --python_out among them: python -m grpc_tools.protoc --help.
The files google/protobuf/*.proto and zerohop/options.proto are found without -I.

example: python -m zerohop.protoc -I. --zerohop_out=. echo.proto
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or "--help" in given or "-h" in given:
        print(HELP, end="", file=sys.stdout if given else sys.stderr)
        return 0 if given else 1
    try:
        protoc: Any = importlib.import_module("grpc_tools.protoc")
    except ImportError:
        print("modules are made with grpcio-tools: pip install grpcio-tools", file=sys.stderr)
        return 1
    if not any(one.startswith(("-I", "--proto_path", "--descriptor_set_in")) for one in given):
        given.append("-I.")
    ours = Path(__file__).parents[1] / "proto"
    google = importlib.resources.files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory(prefix="zerohop-protoc-") as folder:
        plugin = Path(folder) / "protoc-gen-zerohop"
        command = shlex.join([sys.executable, "-P", "-m", "zerohop.codegen.plugin"])
        plugin.write_text(f"#!/bin/sh\nexec {command}\n")
        plugin.chmod(0o700)
        added = [f"--plugin=protoc-gen-zerohop={plugin}", f"-I{ours}", f"-I{google}"]
        return int(protoc.main(["protoc", *given, *added]))
