"""Arrays and other buffers given to repeated fields: the values that protobuf takes from them."""

from __future__ import annotations

import array
import ctypes
import importlib
import itertools
import sys
import tracemalloc
from typing import Any

import numpy
import pytest
import zerohop
from grpc_tools import protoc as grpc_protoc
from zerohop.codegen import protoc

KINDS = [
    *("double", "float", "int32", "int64", "uint32", "uint64", "sint32", "sint64"),
    *("fixed32", "fixed64", "sfixed32", "sfixed64", "bool", "Open"),
]
FIELDS = "".join(f"repeated {kind} f_{kind} = {n};" for n, kind in enumerate(KINDS, 1))
OPEN = f"""
syntax = "proto3";
package arrays;
enum Open {{ ZERO = 0; ONE = 1; }}
message Arrays {{ {FIELDS} repeated bytes f_bytes = 20; Arrays inner = 21; }}
"""
CLOSED = """
syntax = "proto2";
package arrays;
enum Closed { FIRST = 1; SECOND = 2; }
message Old { repeated Closed values = 1; repeated sint32 expanded = 2; }
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """protobuf's and our modules of the two files."""
    folder = tmp_path_factory.mktemp("arrays")
    for name, text in {"arrays_open": OPEN, "arrays_closed": CLOSED}.items():
        (folder / f"{name}.proto").write_text(text)
    names = [path.name for path in folder.glob("*.proto")]
    assert protoc.main([f"-I{folder}", f"--zerohop_out={folder}", *names]) == 0
    assert grpc_protoc.main(["protoc", f"-I{folder}", f"--python_out={folder}", *names]) == 0
    sys.path.insert(0, str(folder))
    try:
        return {
            stem: importlib.import_module(stem)
            for name in ("arrays_open", "arrays_closed")
            for stem in (f"{name}_pb2", f"{name}_zerohop")
        }
    finally:
        sys.path.remove(str(folder))


@pytest.fixture
def theirs(modules: dict[str, Any]) -> Any:
    return modules["arrays_open_pb2"].Arrays


@pytest.fixture
def ours(modules: dict[str, Any]) -> Any:
    return modules["arrays_open_zerohop"].Arrays


def outcome(function: Any) -> Any:
    try:
        return function()
    except (TypeError, ValueError):
        return "refused"


def sources() -> dict[str, Any]:
    """Buffers of all types, orders and shapes."""
    made: dict[str, Any] = {}
    for order, code in itertools.product("<>", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]):
        dtype = numpy.dtype(order + code)
        limits = numpy.iinfo(dtype)
        made[dtype.str] = numpy.array([0, 1, 77, limits.min, limits.max], dtype)
    for order, code in itertools.product("<>", ["f2", "f4", "f8"]):
        made[f"{order}{code}"] = numpy.array([0.0, -0.0, 1.5, numpy.inf], order + code)
    made["bools"] = numpy.array([True, False, True])
    made["odd bools"] = memoryview(b"\x00\x01\x02\xff").cast("?")
    for code in "bBhHiIlLqQfd":
        made[f"array {code}"] = array.array(code, [0, 1, 100])
        made[f"view {code}"] = memoryview(array.array(code, [3, 2, 1]))
        made[f"part {code}"] = memoryview(array.array(code, range(9)))[2:5]
        made[f"steps {code}"] = memoryview(array.array(code, range(9)))[::2]
    for kind in ctypes.c_int32, ctypes.c_uint64, ctypes.c_double, ctypes.c_bool:
        made[f"ctypes {kind.__name__}"] = (kind * 3)(1, 0, 1)
    # Of another byte order than the machine's.
    made["ctypes turned"] = (ctypes.c_int32.__ctype_be__ * 3)(1, 2, 3)
    for code in "i4", "f8":
        whole = numpy.arange(12, dtype=code)
        made[f"turned {code}"] = whole[::-1]
        made[f"every other {code}"] = whole[1::2]
        made[f"square {code}"] = whole.reshape(3, 4)
        made[f"nothing {code}"] = whole[:0]
        made[f"one {code}"] = whole[3]  # no array
        made[f"point {code}"] = numpy.array(5, code)  # of no dimension
    made["structs"] = numpy.zeros(2, "i4,i4")
    made["times"] = numpy.zeros(2, "M8[s]")
    made["objects"] = numpy.array([1, 2], object)
    for kind in bytes, bytearray, memoryview:
        made[kind.__name__] = kind(b"\x00\x01\x02")
    return made


SOURCES = sources()


def items(source: Any) -> list[Any]:
    """What the source has, as Python's own numbers: upb does not take all of numpy's."""
    return [one.item() if isinstance(one, numpy.generic) else one for one in source]


@pytest.mark.parametrize("what", list(SOURCES))
@pytest.mark.parametrize("kind", KINDS)
def test_what_protobuf_takes(theirs: Any, ours: Any, kind: str, what: str) -> None:
    source, name = SOURCES[what], f"f_{kind}"
    if kind == "bool" and what.endswith("u8"):
        source = source[:-1]  # upb asks what is larger than a C long for no truth

    def constructed(cls: Any, source: Any) -> Any:
        return list(getattr(cls(**{name: source}), name))

    def extended(cls: Any, source: Any) -> Any:
        message = cls()
        getattr(message, name).append(1)
        getattr(message, name).extend(source)
        assert message == cls.FromString(message.SerializeToString())
        return message.SerializeToString()

    for use in constructed, extended:
        # repr tells 0.0 from -0.0, and bools from numbers.
        wanted = outcome(lambda use=use: use(theirs, items(source)))
        assert repr(outcome(lambda use=use: use(ours, source))) == repr(wanted)


@pytest.mark.parametrize("source", [numpy.array([1, 2, 1], "i4"), array.array("i", [2, 3])])
def test_closed_enums_are_looked_at(modules: dict[str, Any], source: Any) -> None:
    outcomes = [
        outcome(lambda m=modules[f"arrays_closed_{end}"]: list(m.Old(values=source).values))
        for end in ("pb2", "zerohop")
    ]
    assert outcomes[0] == outcomes[1]


def test_fields_of_fields(theirs: Any, ours: Any) -> None:
    """A repeated field is given another one, of each type: of the same message, too."""
    for kind, other in itertools.product(KINDS, KINDS):
        sums = []
        for cls in theirs, ours:
            message = cls(**{f"f_{kind}": [1, 0, 1, 1]})
            # Lists, since upb has no two fields of one message at once for this.
            mine = getattr(message, f"f_{kind}")
            it = getattr(message, f"f_{other}")
            it.append(1)

            def extend(mine: Any = mine, it: Any = it, cls: Any = cls) -> None:
                mine.extend(it if cls is ours else list(it))
                mine.extend(mine if cls is ours else list(mine))

            sums.append((outcome(extend), message.SerializeToString()))
        assert sums[0] == sums[1], (kind, other)


@pytest.mark.parametrize("size", [1, 100, 5000])
def test_itself_and_views_of_itself(ours: Any, size: int) -> None:
    message = ours(f_int64=range(size))
    values = message.f_int64
    values.extend(values)
    assert list(values) == [*range(size)] * 2
    values.MergeFrom(values)
    assert list(values) == [*range(size)] * 4
    view = memoryview(message.f_int64)
    message.f_int64.extend(view)  # by another object than that which lends the view
    assert list(message.f_int64) == [*range(size)] * 8
    assert list(view) == [*range(size)] * 4
    with pytest.raises(BufferError):
        held = memoryview(values)
        values.extend(held)
    copy = ours()
    copy.inner.f_int64.extend(message.f_int64)
    assert list(copy.inner.f_int64) == [*range(size)] * 8


def test_nothing_sets_nothing(ours: Any) -> None:
    message = ours()
    message.inner.f_double.extend(numpy.zeros(0))
    message.inner.f_double.extend(ours().f_double)
    assert not message.HasField("inner")


def test_a_copy_at_once(ours: Any) -> None:
    """No object is made for an element."""
    source = numpy.arange(1 << 18, dtype="f8")
    before = zerohop.stats()["bytes_built"]
    tracemalloc.start()
    try:
        message = ours(f_double=source)
        message.f_double.extend(source)
        message.f_double.extend(message.f_double)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert zerohop.stats()["bytes_built"] - before == 4 * source.nbytes
    assert numpy.array_equal(message.f_double, numpy.tile(source, 4))


def test_bytes_built(theirs: Any, ours: Any) -> None:
    """Text, bytes and arrays count, however they come into a message."""
    content: dict[str, Any] = dict(f_double=[1.5] * 9, f_bool=[True], f_bytes=[b"1234", b"56"])
    bytes_of_it = 9 * 8 + 1 + 6
    wire = theirs(**content).SerializeToString()
    expanded = b"\x09" + bytes(8) + b"\x09" + bytes(8)  # two doubles, not packed
    unknown = b"\x98\xf4\x03\x07"
    message = ours(**content)

    def built(function: Any) -> int:
        before = zerohop.stats()["bytes_built"]
        function()
        return int(zerohop.stats()["bytes_built"] - before)

    assert built(lambda: ours(**content)) == bytes_of_it
    assert built(lambda: ours.FromString(wire)) == bytes_of_it
    assert built(lambda: ours().MergeFromString(wire)) == bytes_of_it
    assert built(lambda: ours().ParseFromString(bytearray(wire))) == bytes_of_it
    assert built(lambda: ours().MergeFrom(message)) == bytes_of_it
    assert built(lambda: ours().CopyFrom(message)) == bytes_of_it
    assert built(lambda: ours().inner.CopyFrom(message)) == bytes_of_it
    assert built(lambda: ours.FromString(expanded)) == 16
    assert built(lambda: ours.FromString(unknown)) == len(unknown)
    assert built(lambda: message.f_double.extend([1, 2, 3])) == 24
    assert built(lambda: message.f_double.append(1)) == 0  # as of any single number
    assert built(lambda: message.f_bytes.extend([b"abc"])) == 3
