"""Calls of generated messages: images carry them, nothing is copied, and what is read is the memory
of the sender."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest
import zerohop
import zerohop.aio
from apiharness import WAIT, eventually
from faultharness import balance
from generatedharness import GENERATED
from zhtest.types_pb2 import EchoReply as StockReply

MIB = 1 << 20
SIZES = [0, 1, 100, 900, 1000, 1024, 1025, 2048, 4095, 4096, 4097, 65536, MIB, 16 * MIB]

# Replies of the server's own making, and what it counts.
SERVER = """
PATTERN = bytes(range(256)) * 16

class Maker(Servicer):
    def Unary(self, request, context):
        return EchoReply(text=request.text, payload=made(request.code), index=len(request.payload))

    def ServerStream(self, request, context):
        for index in range(request.count):
            yield EchoReply(index=index, payload=made(request.code))

    def ClientStream(self, requests, context):
        return EchoReply(index=sum(len(one.payload) for one in requests), payload=b"")

    def Bidi(self, requests, context):
        for request in requests:
            yield EchoReply(payload=made(request.code), index=len(request.payload))

def made(size):
    return PATTERN * (size // len(PATTERN)) + PATTERN[: size % len(PATTERN)]

Servicer = Maker
server = serve()
"""


def made(size):
    pattern = bytes(range(256)) * 16
    return pattern * (size // len(pattern)) + pattern[: size % len(pattern)]


@pytest.fixture
def server(own, launch):
    return launch(SERVER, **GENERATED)


@pytest.fixture
def stub(own, home, server):
    return own.EchoStub(home.channel())


class Counted:
    """What the counters of both processes have done in a block."""

    def __init__(self, server):
        self.server = server

    def _both(self):
        return zerohop.stats(), self.server.ask("zerohop.stats()")

    def __enter__(self):
        self.before = self._both()
        return self

    def __exit__(self, *failure):
        if failure[0] is None:
            self.client, self.remote = (
                {name: after[name] - before[name] for name in after}
                for before, after in zip(self.before, self._both(), strict=True)
            )


def all_back(server):
    eventually(lambda: balance() == 0)
    eventually(lambda: server.ask("balance()") == 0)
    assert zerohop.loans() == []
    assert server.ask("zerohop.loans()") == []


@pytest.mark.parametrize("size", SIZES)
def test_unary(own, stub, server, size):
    EchoRequest = own._zhtest_types.EchoRequest
    payload = made(size)
    stub.Unary(EchoRequest())
    with Counted(server) as counted:
        for _ in range(3):
            reply = stub.Unary(EchoRequest(text="t", payload=payload, code=size), timeout=WAIT)
            assert isinstance(reply.payload, memoryview)
            assert reply.payload.readonly
            assert reply.payload == payload
            assert (reply.text, reply.index) == ("t", size)
    assert counted.client["bytes_copied"] == counted.remote["bytes_copied"] == 0
    assert counted.client["bytes_built"] >= 3 * size
    for side in counted.client, counted.remote:
        assert 3 <= side["bytes_inlined"] <= 2 * 3 * 1024
        assert side["blocks_lent"] == (3 if size > 960 else 0)
    del reply
    all_back(server)


@pytest.mark.parametrize("size", SIZES)
def test_streams(own, stub, server, size):
    EchoRequest = own._zhtest_types.EchoRequest
    payload, count = made(size), 20 if size < MIB else 4
    requests = [EchoRequest(payload=payload, code=size) for _ in range(count)]
    stub.Unary(EchoRequest())
    # Each method's name is answered once.
    assert list(stub.ServerStream(EchoRequest())) == list(stub.Bidi(iter(()))) == []
    stub.ClientStream(iter(()))
    with Counted(server) as counted:
        replies = list(stub.ServerStream(EchoRequest(count=count, code=size), timeout=WAIT))
        assert [reply.payload for reply in replies] == [payload] * count
        del replies
        assert stub.ClientStream(iter(requests), timeout=WAIT).index == count * size
        for reply in stub.Bidi(iter(requests), timeout=WAIT):
            assert reply.payload == payload
            assert reply.index == size
    assert counted.client["bytes_copied"] == counted.remote["bytes_copied"] == 0
    lent = 2 * count if size > 960 else 0
    assert counted.client["blocks_lent"] == counted.remote["blocks_lent"] == lent
    del reply
    all_back(server)


@pytest.mark.parametrize("size", SIZES)
def test_asyncio(own, home, server, size):
    EchoRequest = own._zhtest_types.EchoRequest
    payload = made(size)

    async def calls():
        async with zerohop.aio.insecure_channel(home.address()) as channel:
            stub = own.EchoAsyncStub(channel)
            await stub.Unary(EchoRequest())
            async for _ in stub.Bidi(iter(())):
                pass
            with Counted(server) as counted:
                reply = await stub.Unary(EchoRequest(payload=payload, code=size), timeout=WAIT)
                assert reply.payload == payload
                call = stub.Bidi(iter([EchoRequest(payload=payload, code=size)] * 5), timeout=WAIT)
                async for reply in call:
                    assert reply.payload == payload
                    assert reply.index == size
            return counted

    counted = asyncio.run(calls())
    assert counted.client["bytes_copied"] == counted.remote["bytes_copied"] == 0
    assert counted.client["blocks_lent"] == (6 if size > 960 else 0)
    all_back(server)


def test_handlers_read_in_place_and_hand_back(own, launch, home):
    """A handler that echoes what it has received copies nothing, either."""
    server = launch("server = serve()", **GENERATED)
    stub = own.EchoStub(home.channel())
    EchoRequest = own._zhtest_types.EchoRequest
    stub.Unary(EchoRequest())
    for size in 4096, 65536, MIB:
        with Counted(server) as counted:
            reply = stub.Unary(EchoRequest(payload=made(size)), timeout=WAIT)
            assert reply.payload == made(size)
        assert counted.client["bytes_copied"] == counted.remote["bytes_copied"] == 0
    del reply
    all_back(server)


def mapping_of(pid, address):
    """Inode, name and offset of what is mapped there."""
    with open(f"/proc/{pid}/maps") as maps:
        for line in maps:
            begin, end, _, offset, _, inode, name = re.match(
                r"(\w+)-(\w+) (\S+) (\w+) (\S+) (\d+)\s*(.*)", line
            ).groups()
            if int(begin, 16) <= address < int(end, 16):
                return int(inode), name, address - int(begin, 16) + int(offset, 16)
    raise AssertionError("nothing is mapped there")


def address_of(view):
    numpy = pytest.importorskip("numpy")
    return numpy.frombuffer(view, numpy.uint8).__array_interface__["data"][0]


PLACES = """
import ctypes, generatedharness
from test_image_calls import address_of, mapping_of
kept = []

class Keeper(Servicer):
    def Unary(self, request, context):
        reply = EchoReply(payload=bytes([request.code]) * request.count)
        kept.append((request, reply))
        return reply

Servicer = Keeper
server = serve()

def places():
    request, reply = kept[-1]
    return [mapping_of("self", address_of(one.payload)) for one in (request, reply)]

"""


@pytest.mark.parametrize("size", [4096, 5000, MIB, 5 * MIB])
def test_what_is_read_is_the_senders_memory(own, home, launch, size):
    """Seen without our counters: both have the same page of the same memfd mapped, at the place
    where the message's bytes are, and whoever receives it cannot write there."""
    # The test writes to what the server has lent.
    server = launch(PLACES, **GENERATED, ZEROHOP_CHECK="")
    stub = own.EchoStub(home.channel())
    request = own._zhtest_types.EchoRequest(payload=b"q" * size, count=size, code=ord("r"))
    sent_from = address_of(request.payload)
    reply = stub.Unary(request, timeout=WAIT)
    request_there, reply_there = map(tuple, server.ask("places()"))
    request_here = mapping_of("self", sent_from)
    reply_here = mapping_of("self", address_of(reply.payload))
    assert request_here == request_there
    assert reply_here == reply_there
    assert "memfd:zerohop-arena" in request_here[1]
    assert request_here[0] != reply_here[0]
    # And it is the same memory: what the owner writes there is seen.
    assert bytes(reply.payload[:1]) == b"r" == bytes(reply.payload[-1:])
    with open(f"/proc/{server.pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(int(server.ask("address_of(kept[-1][1].payload)")))
        memory.write(b"!")
    assert bytes(reply.payload[:1]) == b"!"
    maps = Path("/proc/self/maps").read_text().splitlines()
    protections = [line.split()[1] for line in maps if "zerohop-arena" in line]
    assert {"rw-s", "r--s"} == set(protections)


def test_stock_stubs_are_counted(own, home, server):
    """That the counter counts: the same call of a stock stub copies."""
    from zhtest.echo_pb2_grpc import EchoStub
    from zhtest.types_pb2 import EchoRequest

    stub = EchoStub(home.channel())
    with Counted(server) as counted:
        reply = stub.Unary(EchoRequest(payload=made(MIB), code=MIB), timeout=WAIT)
    assert isinstance(reply, StockReply)
    assert reply.payload == made(MIB)
    assert counted.client["bytes_copied"] >= 2 * MIB
    assert counted.remote["bytes_copied"] >= 2 * MIB
    assert os.getpid() != server.pid
