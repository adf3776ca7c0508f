"""Make the modules in runtime/wellknown, which `PYTHONPATH=tests/image python THIS_FILE` writes.

They are checked in, so that a build of the package needs neither protoc nor zerohop.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from vectors import compiled
from zerohop.codegen.elements import Elements
from zerohop.codegen.interface import interface_text
from zerohop.codegen.layout import Layouts
from zerohop.codegen.module import module_text
from zerohop.codegen.names import AHEAD
from zerohop.codegen.source import Source

ROOT = Path(__file__).parents[2]
HERE = ROOT / "runtime" / "wellknown"


def texts() -> dict[Path, str]:
    """All files as they should be."""
    made = {}
    google = Path(str(files("grpc_tools") / "_proto"))
    ours = ROOT / "proto"
    for name, module in AHEAD.items():
        folder = ours if name.startswith("zerohop/") else google
        elements = Elements(compiled(folder, [name]))
        source = Source(elements.files[name], elements, Layouts(elements))
        path = HERE / module.rpartition(".")[2]
        made[path.with_suffix(".py")] = module_text(source)
        made[path.with_suffix(".pyi")] = interface_text(source)
    return made


if __name__ == "__main__":
    for path, text in texts().items():
        path.write_text(text)
