"""Messages that are changed for ever: their memory is bounded by their content, and what refers to
parts of them follows when they move."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import zerohop
from msgharness import pair
from zerohop import _native

EVERYTHING = pair("Everything")[1]
WIDE = pair("Wide")[1]
INNER = EVERYTHING.Inner

# --- loops, in a process whose arena is soon full -------------------------------------------------

CHANGES = 100_000
LIMIT = 6 << 20  # a segment of 2 MiB, and one of 4


def text(m: Any, i: int) -> None:
    if i % 5 == 0:
        m.ClearField("last")
    m.last = f"{i} " * (i % 500)


def wide_text(m: Any, i: int) -> None:
    if i % 5 == 0:
        m.Clear()
    m.s01 = "a" * (i % 700)
    m.s32 = "b" * (i % 500)


def small_bytes(m: Any, i: int) -> None:
    m.scalars.data = bytes(i % 4096)


def large_bytes(m: Any, i: int) -> None:
    m.scalars.data = bytes(4096 + i % 9000)


def pieces(m: Any, i: int) -> None:
    if i % 9 == 0:
        del m.pieces[:]
    m.pieces.append(bytes(i % 9 * 1000))


def scalars(m: Any, i: int) -> None:
    if i % 3000 == 0:
        m.ClearField("ratios")
    m.ratios.append(i)


def arrays(m: Any, i: int) -> None:
    m.ClearField("ratios")
    m.ratios.extend(range(i % 100))


def strings(m: Any, i: int) -> None:
    if i % 100 == 0:
        m.words.clear()
    m.words.append("w" * (i % 200))
    m.words[i % 7 % len(m.words)] = "x" * (i % 300)


def messages(m: Any, i: int) -> None:
    if i % 700 == 0:
        del m.inners[:]
    m.inners.add(name="n" * (i % 50)).deep.value = i


def popped(m: Any, i: int) -> None:
    m.inners.append(INNER(name="popped"))
    if len(m.inners) > 3:
        m.inners.pop(i % 3)


def map_values(m: Any, i: int) -> None:
    m.totals[f"key{i % 200}"] = i
    m.by_flag[i % 2 == 0] = b"v" * (i % 300)


def map_entries(m: Any, i: int) -> None:
    m.by_number[i].name = "n" * (i % 100)
    if i >= 50:
        del m.by_number[i - 50]


def sub_message(m: Any, i: int) -> None:
    m.inner.CopyFrom(INNER(name="n" * (i % 300), deep=INNER.Deep(value=i)))


def cleared(m: Any, i: int) -> None:
    m.ClearField("inner")
    m.inner.deep.value = i


def oneof(m: Any, i: int) -> None:
    if i % 2:
        m.word = "w" * (i % 200)
    else:
        m.below.value = i


def merged(m: Any, i: int) -> None:
    if i % 100 == 0:
        m.ClearField("words")
    m.MergeFrom(EVERYTHING(words=["w" * (i % 100)], inner=INNER(name="n" * (i % 500))))


LOOPS: list[Callable[[Any, int], None]] = [
    text,
    wide_text,
    small_bytes,
    large_bytes,
    pieces,
    scalars,
    arrays,
    strings,
    messages,
    popped,
    map_values,
    map_entries,
    sub_message,
    cleared,
    oneof,
    merged,
]


def run_all() -> None:
    found = {}
    for change in LOOPS:
        # Seldom and often; what is sent is held until the next one is.
        for every in 0, 1, 10, 1000:
            message = (WIDE if change is wide_text else EVERYTHING)()
            sent = None
            views: list[Any] = []
            try:
                for i in range(CHANGES if every == 0 else CHANGES // 10):
                    change(message, i)
                    if every > 0 and i % every == 0:
                        sent = _native.snapshot(message)
                    if every == 10 and message is not None and change is not wide_text:
                        # There is always some view of the message.
                        views = [message.scalars.data, *views[:1]]
                outcome = "good"
            except (zerohop.ArenaFull, RuntimeError) as error:
                outcome = repr(error)
            del sent
            found[f"{change.__name__} {every}"] = outcome
    print(json.dumps(found))


@pytest.fixture(scope="module")
def outcomes() -> Any:
    run = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "ZEROHOP_ARENA_LIMIT": str(LIMIT)},
        check=True,
        stdout=subprocess.PIPE,
        timeout=90,
    )
    return json.loads(run.stdout)


@pytest.mark.parametrize("every", [0, 1, 10, 1000])
@pytest.mark.parametrize("change", [loop.__name__ for loop in LOOPS])
def test_changes_for_ever(outcomes: Any, change: str, every: int) -> None:
    assert outcomes[f"{change} {every}"] == "good"


# --- what is held meanwhile -----------------------------------------------------------------------


def churn(message: Any) -> None:
    """Much garbage, several renewals."""
    before = zerohop.stats()["bytes_copied"]
    for _ in range(1500):
        message.ClearField("last")  # so that there is no room for the next one
        message.last = "t" * 2000
    message.last = "end"
    assert zerohop.stats()["bytes_copied"] > before


def full() -> Any:
    message = EVERYTHING(
        ratios=[1.5] * 300,
        numbers=range(2000),
        words=[f"word {i}" for i in range(300)],
        pieces=[b"p" * 500, b"q" * 5000],
        totals={f"k{i}": i for i in range(100)},
    )
    message.scalars.data = b"d" * 700
    message.inner.name = "inner"
    message.inner.deep.value = 5
    for i in range(600):
        message.inners.add(name=f"n{i}").deep.value = i
        message.by_number[i % 40].name = f"b{i % 40}"
    return message


@pytest.mark.parametrize("sent", [False, True])
def test_parts_follow(sent: bool) -> None:
    message = full()
    inner, deep, one = message.inner, message.inner.deep, message.inners[599]
    words, inners, totals, by_number = (
        message.words,
        message.inners,
        message.totals,
        message.by_number,
    )
    entry, absent = message.by_number[7], message.maybe_inner
    popped = message.inners.pop(3)
    assert totals["k50"] == 50
    snapshots = []
    for turn in range(4):
        if sent:
            snapshots.append(_native.snapshot(message))
        churn(message)
        assert (inner.name, deep.value, one.name, one.deep.value) == (
            "inner",
            5 + turn,
            "n599",
            599 + turn,
        )
        assert popped.name == "n3"
        assert popped.deep.value == 3 + turn
        deep.value += 1
        one.deep.value += 1
        popped.deep.value += 1
        assert message.inner.deep.value == 6 + turn
        assert message.inners[598].deep.value == 600 + turn
        words.append("more")
        words[5] = "other" * turn
        assert len(message.words) == 301 + turn
        assert message.words[5] == "other" * turn
        inners.add(name="last")
        assert message.inners[-1].name == "last"
        assert len(message.inners) == 600 + turn
        totals[f"t{turn}"] = turn
        totals["k50"] += 1
        del totals[f"k{turn}"]
        assert message.totals["k50"] == 51 + turn
        assert len(message.totals) == 100
        entry.name += "!"
        assert message.by_number[7].name == "b7" + "!" * (turn + 1)
        assert by_number[8].name == "b8"
    assert not message.HasField("maybe_inner")
    absent.name = "there"
    churn(message)
    assert message.maybe_inner.name == "there"
    again = EVERYTHING.FromString(message.SerializeToString())
    assert again == message


@pytest.mark.parametrize("size", [10, 700, 4095, 4096, 20000])
def test_views_stay(size: int) -> None:
    message = full()
    views = []
    for turn in range(8):
        message.scalars.data = bytes([turn]) * size
        views.append((message.scalars.data, bytes([turn]) * size))
        churn(message)
        assert all(view == content for view, content in views)
        if turn % 3 == 2:
            del views[1]
    del message
    assert all(view == content for view, content in views)


@pytest.mark.parametrize("count", [3, 100, 300, 2000])
def test_an_array_stays_the_field(count: int) -> None:
    message = full()
    message.ClearField("ratios")
    churn(message)
    message.ratios.extend([0.5] * count)
    ratios = message.ratios
    array = numpy.asarray(ratios)
    for turn in range(5):
        churn(message)
        array[turn % count] += turn
        assert message.ratios[turn % count] == array[turn % count]
        assert list(message.ratios) == list(array)
        with pytest.raises(BufferError):
            ratios.append(1.0)
    del array
    ratios.append(1.0)
    churn(message)
    assert len(message.ratios) == count + 1


def test_what_was_reserved_stays() -> None:
    message = full()
    churn(message)
    message.ClearField("ratios")
    message.ratios.reserve(400)
    message.ratios.append(1.0)
    churn(message)
    message.ratios.extend([2.0] * 399)
    message.words.clear()
    churn(message)
    message.words.append("first")
    assert list(message.words) == ["first"]
    assert list(message.ratios) == [1.0] + [2.0] * 399


def test_a_field_of_the_same_message() -> None:
    """Its buffer is asked for in the middle of the change."""
    message = full()
    for i in range(300):
        snapshot = _native.snapshot(message) if i % 3 == 0 else None
        message.scalars.data = message.numbers
        message.pieces[0] = message.scalars.data
        message.pieces.append(message.pieces[0])
        message.ratios.extend(message.ratios[:2])
        message.pieces.pop()
        del snapshot
    assert bytes(message.pieces[0]) == numpy.arange(2000, dtype="i4").tobytes()
    assert len(message.ratios) == 900


def test_deep_messages() -> None:
    tree = pair("Tree")[1]
    message = tree()
    names = [f.name for f in message.DESCRIPTOR.fields if f.message_type is message.DESCRIPTOR]
    field = next(n for n in names if not message.DESCRIPTOR.fields_by_name[n].is_repeated)
    part = message
    for _ in range(20_000):
        part = getattr(part, field)
        part.SetInParent()
    _native.snapshot(message)
    getattr(message, field).SetInParent()
    depth, part = 0, message
    while part.HasField(field):
        depth, part = depth + 1, getattr(part, field)
    assert depth == 20_000


if __name__ == "__main__":
    run_all()
