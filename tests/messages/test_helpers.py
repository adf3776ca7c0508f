"""The methods of well-known types: the same calls on protobuf's classes and on ours."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf import (
    any_pb2,
    duration_pb2,
    field_mask_pb2,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from zerohop.wellknown import (
    any_zerohop,
    duration_zerohop,
    field_mask_zerohop,
    struct_zerohop,
    timestamp_zerohop,
    wrappers_zerohop,
)


def names(*modules: Any) -> SimpleNamespace:
    return SimpleNamespace(**{n: v for m in modules for n, v in vars(m).items() if n[0].isupper()})


PB2 = names(any_pb2, duration_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2)
OURS = names(
    any_zerohop,
    duration_zerohop,
    field_mask_zerohop,
    struct_zerohop,
    timestamp_zerohop,
    wrappers_zerohop,
)


def said(action: Callable[[], Any]) -> str:
    try:
        value = action()
    except Exception as error:
        return type(error).__name__
    return repr(bytes(value)) if isinstance(value, memoryview) else repr(value)


DAY = datetime.timedelta(days=1)
WHEN = datetime.datetime(2020, 1, 2, 3, 4, 5, 678901)
HELD = {"a": 1, "b": [1, "x", None, {"c": True}], "d": {"e": {}}}


def struct(c: SimpleNamespace) -> Iterator[Callable[[], Any]]:
    s = c.Struct()
    yield lambda: s.update(HELD)
    yield lambda: (s["a"], list(s["b"]), s["d"]["e"], len(s), sorted(s))
    yield lambda: ("a" in s, "z" in s, s == HELD, s == {"a": 1}, s["d"] == {"e": {}})
    yield lambda: (s["b"] == HELD["b"], s["b"] == [], sorted(s.keys()), len(s.values()))
    yield lambda: sorted(k for k, _ in s.items())
    yield lambda: s["b"][3]["c"]
    yield lambda: s.get_or_create_list("q").extend([1, 2])
    yield lambda: s.get_or_create_struct("r").update({"k": "v"})
    yield lambda: s.__delitem__("a")
    yield lambda: s.__setitem__("f", object())
    yield lambda: s.SerializeToString(deterministic=True)
    yield lambda: c.Struct(fields={"a": c.Value(number_value=1)})
    yield lambda: c.Value(struct_value={"a": 2})
    yield lambda: c.Value(list_value=[1, 2])
    v = c.Value()
    yield lambda: setattr(v, "struct_value", {"a": 1})
    yield lambda: v
    yield lambda: setattr(v, "list_value", [1, "a"])
    yield lambda: (v, v.list_value[1], v.WhichOneof("kind"))
    yield lambda: setattr(v, "list_value", 3)


def list_value(c: SimpleNamespace) -> Iterator[Callable[[], Any]]:
    held = c.ListValue()
    yield lambda: held.append(None)
    yield lambda: held.add_struct().update({"x": 1})
    yield lambda: held.add_list().append(2)
    yield lambda: (len(held), held[1]["x"], list(held.items()))
    yield lambda: (held == [None, {"x": 1}, [2]], held == [])
    yield lambda: held.__setitem__(0, "s")
    yield lambda: held.__delitem__(1)
    yield lambda: ("s" in held, 7 in held, list(held))


def timestamp(c: SimpleNamespace) -> Iterator[Callable[[], Any]]:
    t = c.Timestamp()
    yield lambda: t.FromDatetime(WHEN)
    yield lambda: (t.seconds, t.nanos, t.ToDatetime(), t.ToJsonString(), t.ToMicroseconds())
    yield lambda: t.ToDatetime(tzinfo=datetime.UTC)
    yield lambda: t.FromJsonString("1972-01-01T10:00:20.021-05:00")
    yield lambda: (t.ToNanoseconds(), t.ToMilliseconds(), t.ToSeconds())
    yield lambda: (t - t, t + DAY, t - DAY, t - c.Timestamp())
    yield lambda: t.FromNanoseconds(5)
    yield lambda: t.FromMilliseconds(-5)
    yield lambda: t
    yield lambda: t.FromJsonString("x")
    yield lambda: c.Timestamp(seconds=10**18).ToJsonString()
    yield t.GetCurrentTime
    yield lambda: c.Timestamp() == datetime.datetime(1970, 1, 1)


def duration(c: SimpleNamespace) -> Iterator[Callable[[], Any]]:
    d = c.Duration()
    yield lambda: d.FromTimedelta(datetime.timedelta(1, 2, 3))
    yield lambda: (d.ToTimedelta(), d.ToJsonString(), d + DAY, d + c.Timestamp(), d - DAY)
    yield lambda: d.FromJsonString("1.5s")
    yield lambda: (d.ToMilliseconds(), d.seconds, d.nanos)
    yield lambda: d.FromJsonString("1.5")
    yield lambda: d.FromSeconds(-3)
    yield lambda: d


def field_mask(c: SimpleNamespace) -> Iterator[Callable[[], Any]]:
    mask = c.FieldMask(paths=["a.b", "c"])
    number, both, message = c.FieldMask(paths=["number_value"]), c.FieldMask(), c.Value()
    yield mask.ToJsonString
    yield lambda: mask.FromJsonString("fooBar,x")
    yield lambda: mask
    yield lambda: mask.IsValidForDescriptor(c.Value.DESCRIPTOR)
    yield lambda: mask.AllFieldsFromDescriptor(c.Value.DESCRIPTOR)
    yield lambda: (mask, mask.IsValidForDescriptor(c.Value.DESCRIPTOR))
    yield lambda: both.Union(mask, number)
    yield lambda: both.Intersect(mask, number)
    yield lambda: both
    yield lambda: both.CanonicalFormFromMask(mask)
    yield lambda: number.MergeMessage(c.Value(number_value=3), message)
    yield lambda: message


def any_(c: SimpleNamespace) -> Iterator[Callable[[], Any]]:
    box, held = c.Any(), c.Value(number_value=2)
    out = [c.Value(), struct_pb2.Value(), struct_zerohop.Value()]
    yield lambda: box.Pack(held)
    yield lambda: (box.type_url, box.TypeName(), box.Is(c.Value.DESCRIPTOR))
    yield lambda: box.Is(c.Struct.DESCRIPTOR)
    yield lambda: [box.Unpack(one) for one in out]
    yield lambda: [one.number_value for one in out]
    yield lambda: box.Unpack(c.Struct())
    yield lambda: box.Pack(struct_pb2.Value(bool_value=True), type_url_prefix="x")
    yield lambda: (box.type_url, bytes(box.value))
    yield lambda: box.Pack(struct_zerohop.Value(string_value="y"), deterministic=True)
    yield lambda: (box, bytes(box.value))


def wrappers(c: SimpleNamespace) -> Iterator[Callable[[], Any]]:
    yield lambda: [c.StringValue(value="x"), c.BytesValue(value=b"x"), c.BoolValue(value=True)]
    yield lambda: [c.Int64Value(value=-1), c.UInt32Value(value=1), c.DoubleValue(value=0.5)]
    yield lambda: c.UInt32Value(value=-1)
    yield lambda: "x" in c.StringValue()


@pytest.mark.parametrize(
    "calls", [struct, list_value, timestamp, duration, field_mask, any_, wrappers]
)
def test_the_same_is_said(calls: Callable[[SimpleNamespace], Iterator[Any]]) -> None:
    for number, (theirs, ours) in enumerate(zip(calls(PB2), calls(OURS), strict=True)):
        assert said(ours) == said(theirs), number
