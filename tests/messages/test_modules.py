"""A file's _pb2 and _zerohop modules in one process, in either order."""

from __future__ import annotations

import subprocess
import sys

import pytest
from msgharness import FOLDER, PROTOS

PROGRAM = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
first, second = (importlib.import_module(sys.argv[2] + end) for end in sys.argv[3:5])
assert first.DESCRIPTOR is second.DESCRIPTOR or first.DESCRIPTOR == second.DESCRIPTOR
for name in first.DESCRIPTOR.message_types_by_name:
    one, other = getattr(first, name), getattr(second, name)
    assert one.DESCRIPTOR == other.DESCRIPTOR
    assert one.DESCRIPTOR.fields_by_name.keys() == other.DESCRIPTOR.fields_by_name.keys()
    assert one().SerializePartialToString() == other().SerializePartialToString()
for enum in first.DESCRIPTOR.enum_types_by_name:
    assert getattr(first, enum).items() == getattr(second, enum).items()
    for key, value in getattr(first, enum).items():
        assert getattr(first, key) == getattr(second, key) == value
"""


@pytest.mark.parametrize("order", [("_pb2", "_zerohop"), ("_zerohop", "_pb2")])
@pytest.mark.parametrize("name", PROTOS)
def test_both_orders(name: str, order: tuple[str, str]) -> None:
    stem = name.removesuffix(".proto")
    command = [sys.executable, "-c", PROGRAM, str(FOLDER), stem, *order]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if stem == "legacy" and order[0] == "_zerohop":
        # protobuf refuses its own file then, as it does when asked twice: it prints the default 0.1
        # of a float in another way than protoc.
        assert "duplicate file name" in done.stderr
        return
    assert done.returncode == 0, done.stderr
