"""What was sent stays what it was, whatever is changed of the message afterwards."""

from __future__ import annotations

import gc
import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import zerohop
from apiharness import eventually
from faultharness import balance
from generatedharness import generate
from runharness import PROGRAMS

WAIT = 30


@pytest.fixture(scope="module")
def modules(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("changes")
    generate(PROGRAMS, out, "changes.proto")
    return out


@pytest.fixture(scope="module")
def types(modules):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(modules))
        return importlib.import_module("changes_zerohop")


class Sent:
    """Sends messages, and knows what they were and what has come."""

    def __init__(self, stub, received):
        self.stub, self.received, self.expected = stub, received, []

    def __call__(self, message):
        self.expected.append(content(message))
        self.stub.Keep(message, timeout=WAIT)

    def check(self):
        assert [content(message) for message in self.received] == self.expected


def content(message):
    return message.SerializeToString(deterministic=True)


@pytest.fixture
def sent(types, tmp_path):
    received = []

    class Keeper(types.KeeperServicer):
        def Keep(self, request, context):
            received.append(request)
            return types.Tree()

    target = f"shm:{tmp_path}/keeper"
    server = zerohop.server()
    types.add_KeeperServicer_to_server(Keeper(), server)
    server.add_insecure_port(target)
    server.start()
    with zerohop.insecure_channel(target) as channel:
        yield Sent(types.KeeperStub(channel), received)
    received.clear()
    server.stop(None)


def overflowing(types, **fields):
    """A message whose child lies outside its root."""
    message = types.Tree(text="x" * 900, **fields)
    message.child.number = 1
    message.child.text = "y" * 200
    return message


def test_bytes_after_a_part(types, sent):
    message = overflowing(types, data=b"a" * 8000)
    sent(message)
    message.child.number = 2  # gives the message chunks of its own
    message.data = b"b" * 8000
    sent(message)
    message.data = b"c" * 8000
    sent.check()
    assert message.data == b"c" * 8000


@pytest.mark.parametrize("count", [3, 300, 3000])
def test_numbers_after_a_part(types, sent, count):
    message = overflowing(types, doubles=[1.5] * count)
    sent(message)
    message.child.number = 2
    message.doubles[0] = 2.5
    sent(message)
    message.doubles.append(3.5)
    del message.doubles[1]
    sent.check()
    assert message.doubles == [2.5] + [1.5] * (count - 2) + [3.5]


@pytest.mark.parametrize("count", [3, 300, 3000])
def test_long_lists_of_text(types, sent, count):
    message = overflowing(types, texts=["t" * 9] * count)
    sent(message)
    message.child.number = 2
    message.texts[0] = "u" * 9
    sent(message)
    message.texts.append("v" * 9)
    sent(message)
    del message.texts[1]
    sent.check()
    assert message.texts == ["u" * 9] + ["t" * 9] * (count - 2) + ["v" * 9]


@pytest.mark.parametrize("count", [3, 700, 3000])
def test_long_lists_of_messages(types, sent, count):
    message = overflowing(types)
    for number in range(count):
        message.children.add(number=number)
    sent(message)
    message.children[0].number = 77
    sent(message)
    message.children.add(number=78)
    sent(message)
    del message.children[1]
    sent.check()
    assert [one.number for one in message.children] == [77, *range(2, count), 78]


@pytest.mark.parametrize("count", [1, 3, 700])
def test_entries_of_maps(types, sent, count):
    message = overflowing(types)
    for number in range(count):
        message.named[str(number)].number = number
    for number in range(4):
        sent(message)
        message.named[f"new {number}"].number = number
        message.named["0"].number = 100 + number
    sent(message)
    del message.named["new 1"]
    sent.check()
    assert message.named["0"].number == 103
    assert len(message.named) == count + 3


def test_what_is_merged(types, sent):
    message = overflowing(types, doubles=[1.5] * 600, texts=["t"] * 300)
    message.doubles.append(2.5)  # with room for more
    message.named["a"].number = 1
    more = types.Tree(child=types.Tree(number=5), doubles=[3.5], texts=["u"], text="short")
    more.named["a"].number = 2
    sent(message)
    message.MergeFromString(content(more))
    sent(message)
    message.MergeFrom(more)
    sent(message)
    message.child.MergeFrom(types.Tree(number=6))
    sent.check()
    assert message.doubles == [1.5] * 600 + [2.5, 3.5, 3.5]
    assert message.named["a"].number == 2
    assert (message.child.number, message.text) == (6, "short")


def test_sent_by_what_is_assigned(types, sent):
    """Python code of a value's sends the message in the middle of being changed."""

    class Number:
        def __float__(self):
            sent(message)
            return 3.5

    def key(number):
        if not sorted_once:
            sorted_once.append(number)
            sent(message)
        return -number

    sorted_once = []
    message = types.Tree(doubles=[float(number) for number in range(1000)])
    message.doubles[0] = Number()
    message.doubles.append(Number())
    message.doubles.insert(5, Number())
    message.doubles.sort(key=key)
    assert len(sent.expected) == 4
    sent.check()
    assert message.doubles == sorted([3.5, 3.5, 3.5, *map(float, range(1, 1000))], reverse=True)


class Asking(numpy.ndarray):
    """An array that runs Python code when it is asked where it has its memory from."""

    @property
    def base(self):
        self.run()
        return super().base


def test_sent_by_what_has_the_bytes(types, sent):
    def run():
        sent(message)
        for number in range(300):  # until it gets other memory
            message.ClearField("text")
            message.text = str(number) * 1000
        sent(message)

    def asking(values):
        values = values.view(Asking)
        values.run = run
        return values

    def array(number):
        return asking(numpy.full(5000, number, "u1"))

    sent(types.Tree(data=bytes(5000)))
    shown = asking(numpy.asarray(sent.received[0].data))  # which is referred to
    message = overflowing(types, blobs=[b"b"] * 600)
    for number in range(3):
        message.blobs[number] = array(number)
        message.child.data = array(number + 1)
        message.chunks[number] = array(number)
        message.child.one_data = shown
    message.blobs.append(shown)
    sent(message)
    sent.check()
    assert [bytes(blob)[:1] for blob in message.blobs[:4]] == [b"\0", b"\1", b"\2", b"b"]
    assert message.child.data == bytes([3]) * 5000
    assert message.child.one_data == message.blobs[600] == bytes(5000)
    assert message.chunks[2] == bytes([2]) * 5000


def keeping(types, kept):
    class Keeper(types.KeeperServicer):
        def Keep(self, request, context):
            kept.append(request)
            return types.Tree(data=request.data)

    return Keeper()


@pytest.mark.parametrize("closes", ["channel", "server"])
@pytest.mark.parametrize("dropped", ["before", "after", "the first before"])
@pytest.mark.parametrize("count", [1, 16])
def test_closed_while_lent_to_itself(types, tmp_path, closes, dropped, count):
    """What a loan holds had come by the same link: neither waits for the other."""
    gc.collect()
    eventually(lambda: balance() == 0)
    kept = []
    target = f"shm:{tmp_path}/keeper"
    server = zerohop.server()
    types.add_KeeperServicer_to_server(keeping(types, kept), server)
    server.add_insecure_port(target)
    server.start()
    channel = zerohop.insecure_channel(target)
    stub = types.KeeperStub(channel)
    stub.Keep(types.Tree(data=b"d" * 5000), timeout=WAIT)
    for _ in range(count):
        stub.Keep(types.Tree(data=kept[-1].data), timeout=WAIT)
    assert balance() > 0
    if dropped == "before":
        kept.clear()
    elif dropped == "the first before":
        del kept[0]
    if closes == "channel":
        channel.close()
    server.stop(None).wait(WAIT)
    channel.close()
    assert all(one.data == b"d" * 5000 for one in kept)
    kept.clear()
    eventually(lambda: balance() == 0)


@pytest.mark.parametrize("seed", range(4))
def test_at_random(modules, tmp_path, seed):
    program = [sys.executable, "-X", "faulthandler", PROGRAMS / "changes.py"]
    done = subprocess.run(
        [*program, tmp_path / "socket", str(seed), "150"],
        env={**os.environ, "PYTHONPATH": str(modules)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "as sent\n"), done.stderr
