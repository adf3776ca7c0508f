"""Messages dropped in all orders while views, parts and buffers of them are alive."""

from __future__ import annotations

import gc
import itertools
from typing import Any

import numpy
import pytest
from msgharness import pair

EVERYTHING = pair("Everything")[1]
SCALARS = pair("Scalars")[1]


def holders(size: int) -> list[tuple[Any, Any]]:
    """What refers to one message, each with how to read it."""
    message = EVERYTHING(ratios=[1.5] * size, pieces=[b"p" * size], words=["w" * size])
    message.scalars.data = b"d" * size
    message.by_number[3].name = "n" * size
    return [
        (message, lambda m: m.words[0] == "w" * size),
        (message.scalars, lambda s: bytes(s.data) == b"d" * size),
        (message.scalars.data, lambda v: bytes(v) == b"d" * size),
        (message.pieces, lambda p: bytes(p[0]) == b"p" * size),
        (numpy.asarray(message.ratios), lambda a: (a == 1.5).all() and len(a) == size),
        (message.by_number[3], lambda i: i.name == "n" * size),
        (message.by_number, lambda m: m[3].name == "n" * size),
    ]


@pytest.mark.parametrize("size", [3, 300, 5000])
def test_dropped_in_all_orders(size: int) -> None:
    for order in itertools.islice(itertools.permutations(range(7)), 0, None, 37):
        held: dict[int, Any] = dict(enumerate(holders(size)))
        for last in order:
            del held[last]
            gc.collect(0)
            assert all(read(one) for one, read in held.values())


@pytest.mark.parametrize("size", [3, 300, 5000])
def test_views_outlive_changes(size: int) -> None:
    message = SCALARS(data=b"a" * size)
    view = message.data
    message.data = b"b" * size
    message.text = "t" * 900
    assert bytes(view) == b"a" * size
    message.Clear()
    message.data = b"c" * size
    assert bytes(view) == b"a" * size
    del message
    assert bytes(view) == b"a" * size


def test_an_array_is_the_field() -> None:
    message = EVERYTHING(ratios=[1.0, 2.0])
    array = numpy.asarray(message.ratios)
    message.last = "text " * 100
    array[1] = 5.0
    assert list(message.ratios) == [1.0, 5.0]


def test_a_map_is_not_found_in_an_old_index() -> None:
    message = EVERYTHING()
    first = message.totals
    for key in range(20):
        first[f"a{key}"] = key
    assert "a3" in first
    second = message.totals
    del second["a3"]
    second["b"] = 5
    assert "a3" not in first
    assert first["b"] == 5
    message.Clear()
    assert "a4" not in message.totals
    for key in range(20):
        message.totals[f"c{key}"] = key
    assert "a4" not in message.totals
    assert [message.totals[f"c{key}"] for key in range(20)] == list(range(20))
