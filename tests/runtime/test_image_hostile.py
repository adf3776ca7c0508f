"""Peers that rewrite what they have lent while it is read, or send what was not agreed upon.

Errors or values come of it, no crash; who is honest is served."""

from __future__ import annotations

import contextlib
import os

import grpc
import pytest
import zerohop
from apiharness import WAIT, eventually
from faultharness import balance
from generatedharness import GENERATED, load
from test_image_mixing import BOX, V2, generate

SECONDS = float(os.environ.get("ZEROHOP_SOAK_SECONDS", "3"))

# The victim does to each request whatever can be done to a message.
VICTIM = """
from collections import Counter
outcomes, wrong = Counter(), []
kept = []

def uses(request, other):
    yield lambda: request.name
    yield lambda: bytes(request.data)
    yield lambda: [bytes(part.more) + part.name.encode() for part in request.parts]
    yield lambda: [part.name for part in reversed(request.parts)]
    yield lambda: sum(request.numbers)
    yield lambda: request.numbers[len(request.numbers) // 2] if request.numbers else None
    yield lambda: list(memoryview(request.numbers))[:50]
    yield lambda: dict(request.counts)
    yield lambda: request.counts.get("a")
    yield lambda: "b" in request.counts
    yield request.SerializeToString
    yield request.ByteSize
    yield lambda: mixed.Item.FromString(request.SerializeToString())
    yield lambda: request == request
    yield lambda: request == other
    yield lambda: mixed.Item().CopyFrom(request)
    yield lambda: other.MergeFrom(request)
    yield lambda: repr(request)[:100]
    yield lambda: request.ListFields()
    yield lambda: request.HasField
    yield lambda: mixed.Item(data=request.data, parts=request.parts)
    yield lambda: request.UnknownFields if hasattr(request, "UnknownFields") else None

class Victim(mixed.BoxServicer):
    def Same(self, request, context):
        for _ in range(3):
            for use in uses(request, filled(100)):
                try:
                    use()
                    outcomes["value"] += 1
                except zerohop.DecodeError:
                    outcomes["DecodeError"] += 1
                except Exception as error:
                    if len(wrong) < 10:
                        import traceback
                        wrong.append(traceback.format_exc())
        kept.append(request)
        if len(kept) > 40:
            del kept[::2]
        return request

    Name = Same

Box = Victim
server = serve_box()
"""

# The attacker writes all over its own memory: its arena, and with `ring` what it posts, too.
ATTACKER = """
import ctypes, random, re

def regions(name):
    for line in open("/proc/self/maps"):
        found = re.match(r"(\\w+)-(\\w+) rw-s .*" + name, line)
        if found:
            begin, end = (int(part, 16) for part in found.groups())
            yield begin, end - begin

def scribble(seed, ring):
    rng = random.Random(seed)
    places = []
    for round_ in range(1 << 60):
        if round_ % 500 == 0 or not places:
            places = [(begin, min(size, 1 << 17)) for begin, size in regions("zerohop-arena")]
            if ring:
                places += [(begin + 4096, 1 << 17) for begin, _ in regions("zerohop-link")]
            time.sleep(0)
        if not places:
            time.sleep(0.01)
            continue
        begin, size = rng.choice(places)
        at = begin + rng.randrange(size // 8) * 8
        value = ctypes.c_uint64.from_address(at)
        kind = rng.randrange(7)
        if kind == 0:
            value.value = rng.randrange(1 << 64)
        elif kind == 1:  # a reference somewhere near
            value.value = rng.choice([0, 1, 2, 3]) << 36 | rng.randrange(size)
        elif kind == 2:  # to itself: a cycle
            value.value = 1 << 36 | (at - begin) & ~7
        elif kind == 3:  # a count, and a room
            value.value = rng.choice([1, 7, 1000, 1 << 20, (1 << 32) - 1, 1 << 63])
        elif kind == 4:
            value.value ^= 1 << rng.randrange(64)
        elif kind == 5:
            value.value = 1 << 63 | rng.randrange(1 << 40)  # the reader's own memory
        else:
            value.value = 0

def attack(seconds, ring, seed):
    rng = random.Random(seed)
    # Not in C: a crash here is no finding, so its own reads are few.
    threading.Thread(target=scribble, args=(seed, ring), daemon=True).start()
    end, calls = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        with zerohop.insecure_channel(address) as channel:
            method = channel.unary_unary(
                "/mixed.Box/Same", mixed.Item.SerializeToString, mixed.Item.FromString)
            try:
                for _ in range(50):
                    futures_ = [method.future(filled(rng.choice([300, 2000, 6000])), timeout=5)
                                for _ in range(8)]
                    for future in futures_:
                        future.exception(timeout=5)
                        calls += 1
                    if time.monotonic() > end:
                        break
            except Exception:
                pass
    return calls
"""


HUGE = """
syntax = "proto3";
message Many { repeated bytes parts = 1; }
service Huge { rpc Send(Many) returns (Many); }
"""


@pytest.mark.parametrize("ring", [False, True], ids=["arena", "arena and ring"])
def test_memory_that_changes_while_it_is_read(tmp_path, launch, own, ring):
    (tmp_path / "mixed.proto").write_text(V2)
    generate(tmp_path, tmp_path, "mixed.proto")
    head = f"sys.path.insert(0, {str(tmp_path)!r})\n{BOX}\n"
    victim = launch(head + VICTIM)
    outcomes: dict[str, int] = {}
    # Whether a reader meets what the attacker writes is chance: less so the longer they go on.
    for seed in range(12):
        if seed >= 3 and outcomes["DecodeError"] > 10:
            break
        attacker = launch(head + ATTACKER)
        attacker.tell(f"attack({SECONDS}, {ring}, {seed})")
        with contextlib.suppress(AssertionError):
            attacker.answer()  # it may as well have died of what it did to itself
        attacker.kill()
        assert victim.process.poll() is None, "the victim has died"
        assert victim.ask("wrong") == []
        outcomes = victim.ask("{'value': 0, 'DecodeError': 0} | outcomes")
    print(outcomes)
    assert outcomes["value"] > 1000
    assert outcomes["DecodeError"] > 10
    # Whoever is honest is served, and all comes back.
    honest = launch(head + "box = mixed.BoxStub(zerohop.insecure_channel(address))")
    assert honest.ask("box.Same(filled(3000), timeout=30) == filled(3000)") is True
    victim.ask("kept.clear()")
    eventually(lambda: victim.ask("balance()") == 0)
    eventually(lambda: honest.ask("balance()") == 0)


def test_a_received_message_that_is_too_large(home, tmp_path):
    """One blob again and again is small in memory and of any size when it is encoded."""

    class Servicer:
        def Send(self, request, context):
            for use in request.ByteSize, request.SerializeToString:
                with pytest.raises(zerohop.DecodeError):
                    use()
            return huge.Many(parts=[b"refused"])

    huge = load(tmp_path, "huge", HUGE)
    server = home.server()
    huge.add_HugeServicer_to_server(type("Both", (Servicer, huge.HugeServicer), {})(), server)
    server.add_insecure_port(home.address())
    server.start()
    blob = zerohop.alloc(1 << 20)
    many = huge.Many(parts=[blob] * 2100)
    with pytest.raises(ValueError, match="larger than 2 GiB"):
        many.ByteSize()
    reply = huge.HugeStub(home.channel()).Send(many, timeout=WAIT)
    assert list(reply.parts) == [b"refused"]


# Changes the key of an entry of a map in the memory that it has lent.
RENAMES = """
import ctypes, re
stub = mixed.BoxStub(zerohop.insecure_channel(address))
message = mixed.Item()
for i in range(COUNT):
    message.counts["x" * 600 + "key %04d" % i] = i
call = stub.Same.future(message)

def rename():
    for line in open("/proc/self/maps"):
        found = re.match(r"(\\w+)-(\\w+) rw-s .*zerohop-arena", line)
        if found is None:
            continue
        begin, end = (int(part, 16) for part in found.groups())
        held = ctypes.string_at(begin, end - begin)
        for at in re.finditer(b"key [0-9]{4}", held):
            ctypes.memmove(begin + at.start(), b"new", 3)
    return True
"""
HOLDS = """
import threading
came, kept = threading.Event(), []

class Holder(mixed.BoxServicer):
    def Same(self, request, context):
        kept.append(request.counts)
        return mixed.Item()

Box = Holder
server = serve_box()

def ask(key):
    try:
        return counts["x" * 600 + key]
    except Exception as error:
        return type(error).__name__

def told():
    global counts
    counts = kept[0]
    return sorted(key[600:] for key in counts)

def as_dict():
    try:
        return len(dict(counts))
    except Exception as error:
        return type(error).__name__
"""


@pytest.mark.parametrize("count", [7, 200])
def test_a_map_whose_keys_change(tmp_path, launch, own, count):
    """What was told to be there does not seem never to have been there."""
    (tmp_path / "mixed.proto").write_text(V2)
    generate(tmp_path, tmp_path, "mixed.proto")
    head = f"COUNT = {count}\nsys.path.insert(0, {str(tmp_path)!r})\n{BOX}\n"
    holder = launch(head + HOLDS)
    renames = launch(head + RENAMES)
    renames.ask("call.result(timeout=30).name")
    last = f"key {count - 1:04}"
    assert holder.ask("told()")[-1] == last
    renames.ask("rename()")
    assert holder.ask(f"ask({last!r})") in ("DecodeError", count - 1)
    if count < 8:  # without an index
        assert holder.ask(f"ask({last!r})") == "DecodeError"
    assert holder.ask("ask('never')") == "KeyError"
    assert holder.ask("as_dict()") in ("DecodeError", count)


# Records of one's own making, in the ring of the only link that this process has.
FORGER = """
import ctypes, re, struct

def side():
    for line in open("/proc/self/maps"):
        found = re.match(r"(\\w+)-\\w+ rw-s .*zerohop-link", line)
        if found:
            return int(found[1], 16)

def forge(kind, flags, body=b"", method=0, call=0, metadata=0, message=0, loan=0, generation=1):
    slots = -(-(64 + len(body)) // 128)
    header = struct.pack("<BBHIQQIIQIIIIQ", kind, slots, flags, method, call, 0, metadata, 1,
                         message, 0, loan, generation, 5000, 0)
    base = side()
    head = ctypes.c_uint64.from_address(base)
    at = base + 4096 + head.value % 1024 * 128
    record = (header + body).ljust(slots * 128, b"\\0")
    ctypes.memmove(at, record, len(record))
    head.value += slots
    return True
"""
NAME, CALL, MESSAGE, STATUS, NAMED = 2, 3, 4, 8, 10
HAS, IMAGE, LOANED, TAKES, LENT_BACK = 1, 16, 32, 64, 128

CLIENT_FORGERIES = {
    "an image that was not agreed upon": (False, dict(kind=CALL, flags=HAS | IMAGE, message=0)),
    "an answer from a client": (True, dict(kind=NAMED, flags=0, call=1)),
    "a loan without an image": (True, dict(kind=CALL, flags=HAS | LOANED, message=0)),
    "a loan that cannot be": (
        True,
        dict(kind=CALL, flags=HAS | IMAGE | LOANED | TAKES, call=100 | 1 << 32, loan=1 << 20),
    ),
    "a root that is too long": (True, dict(kind=CALL, flags=HAS | IMAGE, message=1 << 40)),
}


@pytest.mark.parametrize("what", list(CLIENT_FORGERIES))
def test_a_client_that_forges(home, launch, own, what):
    generated, record = CLIENT_FORGERIES[what]
    server = launch("server = serve()", **GENERATED)
    stub = own.EchoStub(home.channel())
    request = own._zhtest_types.EchoRequest(text="x")
    stub.Unary(request, timeout=WAIT)
    forger = launch(FORGER + "stub = stub_of()", **(GENERATED if generated else {}))
    forger.ask("stub.Unary(EchoRequest(text='x'), timeout=30).text")
    closed = server.ask("zerohop.stats()['links_closed']")
    arguments = ", ".join(f"{name}={value}" for name, value in record.items())
    assert forger.ask(f"forge({arguments})") is True

    def is_ended():
        assert stub.Unary(request, timeout=WAIT).text == "x"
        return server.ask("zerohop.stats()['links_closed']") == closed + 1

    eventually(is_ended)
    forger.kill()
    eventually(lambda: server.ask("balance()") == 0)


def test_a_client_that_lends_what_it_has_not(home, launch, own):
    """An image with a loan that there is not, and references to nowhere, is read like any other."""
    server = launch("server = serve()", **GENERATED)
    stub = own.EchoStub(home.channel())
    request = own._zhtest_types.EchoRequest(text="x")
    forger = launch(FORGER + "stub = stub_of()", **GENERATED)
    forger.ask("stub.Unary(EchoRequest(text='x'), timeout=30).text")
    for flags in HAS | IMAGE | LOANED | TAKES, HAS | IMAGE | LOANED | TAKES | LENT_BACK:
        for reference in 1 << 36, 9 << 36 | 77, 1 << 63 | 1 << 36, 1 << 63, (1 << 64) - 1, 56, 8:
            forger.ask(
                f"forge({CALL}, {flags | 8}, struct.pack('<QQQQQQQ', 0, 0, {reference},"
                f" 5 << 32 | 5, {reference}, 1 << 63 | 5000, 0), call=100 | 1 << 32, message=56)"
            )
            assert stub.Unary(request, timeout=WAIT).text == "x"
    forger.kill()
    eventually(lambda: server.ask("balance()") == 0)
    assert stub.Unary(request, timeout=WAIT).text == "x"


@pytest.mark.parametrize(
    "record",
    [
        dict(kind=NAMED, flags=0, method=700, call=1),
        dict(kind=NAMED, flags=0, method=0, call=1),  # a second time
        dict(kind=NAMED, flags=0, method=1 << 31, call=0),
        dict(kind=NAME, flags=HAS),
    ],
    ids=["unasked", "twice", "cannot be", "a name"],
)
def test_a_server_that_forges(home, launch, own, record):
    forger = launch(FORGER + "server = serve()", **GENERATED)
    request = own._zhtest_types.EchoRequest(text="x", count=300)
    channel = home.channel()
    stub = own.EchoStub(channel)
    request.count = 0
    assert stub.Unary(request, timeout=WAIT).text == "x"
    arguments = ", ".join(f"{name}={value}" for name, value in record.items())
    before = zerohop.stats()["links_closed"]
    waiting = stub.Unary.future(own._zhtest_types.EchoRequest(count=300), timeout=WAIT)
    assert forger.ask(f"forge({arguments})") is True
    error = waiting.exception(timeout=WAIT)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert zerohop.stats()["links_closed"] == before + 1
    assert stub.Unary(request, timeout=WAIT).text == "x"  # by another link
    eventually(lambda: balance() == 0)
