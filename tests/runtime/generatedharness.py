"""Generated modules for the tests: those of tests/protos, and those of text."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import apiharness
import pytest

# What takes the place of what.
_STANDS_FOR = {
    "zhtest.types_pb2": "zhtest.types_zerohop",
    "zhtest.echo_pb2": "zhtest.echo_zerohop",
    "zhtest.echo_pb2_grpc": "zhtest.echo_zerohop",
}


def generate(include: Path, out: Path, *sources: str) -> None:
    """Runs protoc with our plugin."""
    command = [sys.executable, "-m", "zerohop.protoc", f"-I{include}", f"--zerohop_out={out}"]
    subprocess.run([*command, *sources], check=True, timeout=60)


def _generated_protos() -> Path:
    """The modules of tests/protos, generated once for what our generator is now."""
    codegen = Path(importlib.import_module("zerohop.codegen").__file__).parent
    digest = hashlib.sha256()
    sources = sorted(apiharness.PROTOS.rglob("*.proto"))
    for source in [*sources, *sorted(codegen.glob("*.py"))]:
        digest.update(source.read_bytes())
    stock = Path(importlib.import_module("zhtest.types_pb2").__file__).parent.parent
    out = stock.parent / f"generated-{digest.hexdigest()[:16]}"
    if not out.is_dir():
        scratch = Path(tempfile.mkdtemp(dir=stock.parent))
        names = [str(source.relative_to(apiharness.PROTOS)) for source in sources]
        generate(apiharness.PROTOS, scratch, *names)
        try:
            scratch.rename(out)
        except OSError:  # Another process was first.
            shutil.rmtree(scratch, ignore_errors=True)
    return out


def use_generated() -> None:
    """Makes `zhtest.types_zerohop` and `zhtest.echo_zerohop` importable, here and in children."""
    out = str(_generated_protos())
    package = importlib.import_module("zhtest")
    if str(Path(out) / "zhtest") not in package.__path__:
        package.__path__.append(str(Path(out) / "zhtest"))
    inherited = os.environ.get("PYTHONPATH", "")
    if out not in inherited.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [inherited, out]))


@contextlib.contextmanager
def in_place(module: ModuleType) -> Iterator[None]:
    """For a test of this module: what it has imported of the stock modules is ours, and what is
    imported meanwhile, too."""
    use_generated()
    package = importlib.import_module("zhtest")
    with pytest.MonkeyPatch.context() as patch:
        # Stock modules are named by their files, so that they are what is replaced, whatever they
        # are called here.
        replaced = {}
        for stock_name, own_name in _STANDS_FOR.items():
            stock, own = importlib.import_module(stock_name), importlib.import_module(own_name)
            replaced[id(stock)] = own
            for name, value in vars(stock).items():
                if not name.startswith("_") and isinstance(value, type) and hasattr(own, name):
                    replaced[id(value)] = getattr(own, name)
            patch.setitem(sys.modules, stock_name, own)
            patch.setattr(package, stock_name.rpartition(".")[2], own)
        for name, value in list(vars(module).items()):
            if id(value) in replaced:
                patch.setattr(module, name, replaced[id(value)])
        yield


def load(directory: Path, name: str, text: str) -> ModuleType:
    """The module generated from a .proto file of this text, under a name of its own; more than one
    version of a schema can be loaded in different processes only."""
    source = directory / f"{name}.proto"
    source.write_text(text)
    generate(directory, directory, source.name)
    sys.path.insert(0, str(directory))
    try:
        return importlib.import_module(f"{name}_zerohop")
    finally:
        sys.path.remove(str(directory))
