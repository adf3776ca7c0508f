"""Generated and stock code, versions of a schema, and other ways to come by a method, mixed.

The same calls succeed, as images where both sides agree, else as wire bytes."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from concurrent import futures

import grpc
import pytest
import zerohop
import zerohop.aio
from apiharness import WAIT, code_and_details, echo_servicer, eventually
from faultharness import balance
from generatedharness import GENERATED, generate
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoReply, EchoRequest

SIZES = [0, 10, 1000, 1025, 5000, 100_000, 1 << 20]


def own_servicer(own):
    """An echo of generated messages."""
    Reply = own._zhtest_types.EchoReply

    class Servicer(own.EchoServicer):
        def Unary(self, request, context):
            return Reply(text=request.text, payload=request.payload)

        def ServerStream(self, request, context):
            for index in range(request.count):
                yield Reply(text=request.text, payload=request.payload, index=index)

        def ClientStream(self, requests, context):
            texts, payload = [], b""
            for request in requests:
                texts.append(request.text)
                payload += request.payload
            return Reply(text=",".join(texts), payload=payload, index=len(texts))

        def Bidi(self, requests, context):
            for index, request in enumerate(requests):
                yield Reply(text=request.text, payload=request.payload, index=index)

    return Servicer()


def serve(home, own=None, name="s", **arguments):
    """A server of generated code, or of stock code."""
    server = home.server(**arguments)
    if own is not None:
        own.add_EchoServicer_to_server(own_servicer(own), server)
    else:
        echo_pb2_grpc.add_EchoServicer_to_server(echo_servicer(), server)
    server.add_insecure_port(home.address(name))
    server.start()
    return server


def all_kinds(stub, Request, size):
    """The four kinds of call, and what they must answer."""
    payload = random.Random(size).randbytes(size)
    request = Request(text="ä", payload=payload, count=3)
    reply = stub.Unary(request, timeout=WAIT)
    assert (reply.text, reply.payload) == ("ä", payload)
    replies = list(stub.ServerStream(request, timeout=WAIT))
    assert [(one.index, one.payload) for one in replies] == [(n, payload) for n in range(3)]
    reply = stub.ClientStream(iter([request] * 3), timeout=WAIT)
    assert (reply.text, reply.payload, reply.index) == ("ä,ä,ä", payload * 3, 3)
    replies = list(stub.Bidi(iter([request] * 3), timeout=WAIT))
    assert [(one.index, one.payload) for one in replies] == [(n, payload) for n in range(3)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("server_generated", [False, True])
@pytest.mark.parametrize("client_generated", [False, True])
def test_both_sides_of_either_kind(home, own, client_generated, server_generated, size):
    serve(home, own if server_generated else None)
    channel = home.channel()
    before = zerohop.stats()["bytes_copied"]
    if client_generated:
        all_kinds(own.EchoStub(channel), own._zhtest_types.EchoRequest, size)
    else:
        all_kinds(echo_pb2_grpc.EchoStub(channel), EchoRequest, size)
    copied = zerohop.stats()["bytes_copied"] - before
    if not client_generated or not server_generated:
        assert copied >= (size if size > 1024 else 0)
    eventually(lambda: balance() == 0)


@pytest.mark.parametrize("client_generated", [False, True])
def test_asyncio_of_either_kind(home, own, client_generated):
    """Clients of asyncio against servers of the other kind."""
    serve(home, None if client_generated else own)
    grpc_module = own if client_generated else echo_pb2_grpc
    Request = own._zhtest_types.EchoRequest if client_generated else EchoRequest

    async def calls():
        async with zerohop.aio.insecure_channel(home.address()) as channel:
            stub = grpc_module.EchoStub(channel)
            for size in SIZES:
                request = Request(text="t", payload=bytes(size), count=2)
                assert (await stub.Unary(request, timeout=WAIT)).payload == bytes(size)
                async for reply in stub.ServerStream(request, timeout=WAIT):
                    assert reply.payload == bytes(size)
                assert (await stub.ClientStream(iter([request] * 2), timeout=WAIT)).index == 2
                async for reply in stub.Bidi(iter([request] * 2), timeout=WAIT):
                    assert reply.payload == bytes(size)

    asyncio.run(calls())
    eventually(lambda: balance() == 0)


def test_both_stubs_on_one_link(home, own):
    """One process, one link, one method: images and wire bytes, alternating and at once."""
    serve(home, own)
    channel = home.channel()
    own_stub, stock_stub = own.EchoStub(channel), echo_pb2_grpc.EchoStub(channel)
    OwnRequest = own._zhtest_types.EchoRequest

    def work(seed):
        rng = random.Random(seed)
        for _ in range(100):
            payload = rng.randbytes(rng.choice(SIZES[:-1]))
            stub, Request = rng.choice([(own_stub, OwnRequest), (stock_stub, EchoRequest)])
            reply = stub.Unary(Request(payload=payload), timeout=WAIT)
            assert reply.payload == payload
            assert isinstance(reply, EchoReply) == (stub is stock_stub)
        return True

    with futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    eventually(lambda: balance() == 0)


def test_a_plain_grpcio_server(own):
    """Wire bytes to and from a server that grpcio serves, by either package's channel."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    own.add_EchoServicer_to_server(own_servicer(own), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    for module in grpc, zerohop:
        with module.insecure_channel(f"localhost:{port}") as channel:
            for size in SIZES:
                all_kinds(own.EchoStub(channel), own._zhtest_types.EchoRequest, size)
                all_kinds(echo_pb2_grpc.EchoStub(channel), EchoRequest, size)
    server.stop(0)


class Passes(grpc.ServerInterceptor):
    def intercept_service(self, continuation, details):
        return continuation(details)


class Wraps(grpc.ServerInterceptor):
    """Puts a handler in place that has (de)serializers of its own."""

    def intercept_service(self, continuation, details):
        handler = continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        take, make = handler.request_deserializer, handler.response_serializer
        return grpc.unary_unary_rpc_method_handler(
            handler.unary_unary, lambda data: take(data), lambda message: make(message)
        )


@pytest.mark.parametrize("interceptors", [[Passes()], [Wraps()], [Passes(), Wraps(), Passes()]])
def test_server_interceptors(home, own, interceptors):
    serve(home, own, interceptors=interceptors)
    channel = home.channel()
    for size in SIZES:
        all_kinds(own.EchoStub(channel), own._zhtest_types.EchoRequest, size)
        all_kinds(echo_pb2_grpc.EchoStub(channel), EchoRequest, size)
    eventually(lambda: balance() == 0)


def test_serializers_of_all_kinds(home, own):
    """Each side's serializer and deserializer from another world."""
    types = own._zhtest_types
    serve(home, own)
    channel = home.channel()
    serializers = [
        types.EchoRequest.SerializeToString,
        lambda message: types.EchoRequest.SerializeToString(message),
        lambda message: EchoRequest(
            text=message.text, payload=bytes(message.payload)
        ).SerializeToString(),
    ]
    deserializers = [
        types.EchoReply.FromString,
        lambda data: types.EchoReply.FromString(data),
        EchoReply.FromString,
        None,
    ]
    for size in SIZES:
        for serializer in serializers:
            for deserializer in deserializers:
                call = channel.unary_unary("/zhtest.Echo/Unary", serializer, deserializer)
                reply = call(types.EchoRequest(payload=bytes(size)), timeout=WAIT)
                if deserializer is None:
                    assert type(reply) is bytes
                    reply = EchoReply.FromString(reply)
                assert reply.payload == bytes(size)
        raw = channel.unary_unary("/zhtest.Echo/Unary")
        reply = raw(EchoRequest(payload=bytes(size)).SerializeToString(), timeout=WAIT)
        assert EchoReply.FromString(reply).payload == bytes(size)
    eventually(lambda: balance() == 0)


def test_a_reply_of_another_class(home, own):
    """A handler that returns what its serializer does not take ends its call, and no more."""
    types = own._zhtest_types

    class Servicer(own.EchoServicer):
        def Unary(self, request, context):
            return {"own": types.EchoRequest, "stock": EchoReply, "text": str}[request.text]()

    server = home.server()
    own.add_EchoServicer_to_server(Servicer(), server)
    server.add_insecure_port(home.address())
    server.start()
    stub = own.EchoStub(home.channel())
    for text in "own", "stock", "text":
        code, _ = code_and_details(
            lambda text=text: stub.Unary(types.EchoRequest(text=text), timeout=WAIT)
        )
        assert code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


class AllNames(grpc.GenericRpcHandler):
    def __init__(self, handler):
        self.handler = handler

    def service(self, details):
        return self.handler if details.method.startswith("/many/") else None


def many(own, home, **arguments):
    """A server that takes any method's name, and calls by name."""
    types = own._zhtest_types
    handler = grpc.unary_unary_rpc_method_handler(
        lambda request, context: types.EchoReply(payload=request.payload),
        types.EchoRequest.FromString,
        types.EchoReply.SerializeToString,
    )
    server = home.server(handlers=[AllNames(handler)], **arguments)
    server.add_insecure_port(home.address())
    server.start()
    channel = home.channel()

    def call(name, payload):
        method = channel.unary_unary(
            f"/many/{name}", types.EchoRequest.SerializeToString, types.EchoReply.FromString
        )
        return method(types.EchoRequest(payload=payload), timeout=WAIT).payload

    return call


def test_more_methods_than_names(own, home):
    call = many(own, home)
    for number in range(1100):
        payload = bytes([number % 256]) * (number * 7)
        assert call(number, payload) == payload
    for number in 0, 1023, 1024, 1099:
        assert call(number, bytes(10_000)) == bytes(10_000)
    eventually(lambda: balance() == 0)


@pytest.mark.parametrize("workers", [1, 10])
def test_first_calls_at_once(own, home, workers):
    """Many threads make the first call of many methods: none waits for ever."""
    call = many(own, home, workers=workers)
    start = threading.Barrier(32)

    def work(seed):
        rng = random.Random(seed)
        names = [rng.randrange(40) for _ in range(60)]
        start.wait(WAIT)
        for name in names:
            payload = rng.randbytes(rng.choice([0, 100, 5000]))
            assert call(name, payload) == payload
        return True

    with futures.ThreadPoolExecutor(32) as pool:
        assert all(pool.map(work, range(32)))
    eventually(lambda: balance() == 0)


# --- versions of a schema ------------------------------------------------------------------------

V1 = """
syntax = "proto3";
package mixed;
message Part { string name = 1; }
message Item {
  string name = 1; bytes data = 2; repeated Part parts = 3; map<string, int32> counts = 4;
}
service Box { rpc Same(Item) returns (Item); rpc Name(Item) returns (Item); }
"""
V2 = V1.replace("string name = 1; }", "string name = 1; bytes more = 2; }", 1).replace(
    "bytes data = 2;", "bytes data = 2; bytes extra = 9; repeated int32 numbers = 10;"
)

BOX = """
import random
import mixed_zerohop as mixed

class Box(mixed.BoxServicer):
    def Same(self, request, context):
        return request
    def Name(self, request, context):
        return mixed.Item(name=request.name, data=request.data)

def serve_box(target=address):
    server = zerohop.server(futures.ThreadPoolExecutor(4))
    mixed.add_BoxServicer_to_server(Box(), server)
    server.add_insecure_port(target)
    server.start()
    return server

def filled(size):
    item = mixed.Item(name="n" * size, data=bytes(size), counts={"a": 1, "b" * size: 2})
    for index in range(3):
        item.parts.add(name=str(index) * size)
    if hasattr(item, "extra"):
        item.extra = b"e" * size
        item.numbers.extend(range(size))
        for part in item.parts:
            part.more = b"m" * size
    return item

def check(size, rounds=3):
    for _ in range(rounds):
        item = filled(size)
        same = box.Same(item, timeout=30)
        assert same == item, (same, item)
        named = box.Name(item, timeout=30)
        assert named == mixed.Item(name=item.name, data=item.data)
    return True

def copied(size):
    check(size)
    before = zerohop.stats()["bytes_copied"]
    check(size)
    return zerohop.stats()["bytes_copied"] - before
"""
BOX_SIZES = [0, 1, 100, 2000, 20_000]


@pytest.fixture
def versions(tmp_path, own):
    """Directories with the module of each version."""
    made = {}
    for name, text in {"1": V1, "2": V2}.items():
        made[name] = tmp_path / f"v{name}"
        made[name].mkdir()
        (made[name] / "mixed.proto").write_text(text)
        generate(made[name], made[name], "mixed.proto")
    return made


def box_of(versions, version, what):
    return f"sys.path.insert(0, {str(versions[version])!r})\n{BOX}\n{what}\n"


SERVING, CALLING = "server = serve_box()", "box = mixed.BoxStub(zerohop.insecure_channel(address))"


@pytest.mark.parametrize("client", ["1", "2"])
@pytest.mark.parametrize("server", ["1", "2"])
def test_versions_of_a_schema(launch, versions, server, client):
    """Fields that the other side does not know come back as they were."""
    serving = launch(box_of(versions, server, SERVING))
    calling = launch(box_of(versions, client, CALLING))
    for size in BOX_SIZES:
        assert calling.ask(f"check({size})") is True
    if server != client:
        assert calling.ask("copied(2000)") > 2000
    for child in serving, calling:
        eventually(lambda child=child: child.ask("balance()") == 0)


def test_a_server_restarts_with_another_schema(launch, versions):
    calling = None
    for version in "2", "1", "2":
        serving = launch(box_of(versions, version, SERVING))
        if calling is None:
            calling = launch(box_of(versions, "2", CALLING))
        else:
            eventually(lambda c=calling: c.ask("ready()"))
        for size in BOX_SIZES:
            assert calling.ask(f"check({size})") is True
        calling.ask(
            "exec('''def ready():\\n"
            "    try: return bool(box.Name(filled(1), timeout=5))\\n"
            "    except grpc.RpcError: return False''', globals())"
        )
        serving.kill()
    assert calling.ask("balance()") == 0


# --- while the answer is awaited ------------------------------------------------------------------


@pytest.fixture
def stopped(own, home, launch):
    """A stub with a link to a server that has stopped before it could answer to a name."""
    server = launch("server = serve()", **GENERATED)
    channel = home.channel()
    stock = echo_pb2_grpc.EchoStub(channel)
    assert stock.Unary(EchoRequest(text="x"), timeout=WAIT).text == "x"
    server.stop()
    return server, own.EchoStub(channel), stock


def test_deadline_while_the_name_is_unanswered(own, stopped):
    server, stub, _ = stopped
    OwnRequest = own._zhtest_types.EchoRequest
    for size in 0, 100_000:
        began = time.monotonic()
        code, _ = code_and_details(
            lambda size=size: stub.Unary(OwnRequest(payload=bytes(size)), timeout=0.3)
        )
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert 0.25 < time.monotonic() - began < 5
        call = stub.Bidi(iter([OwnRequest(payload=bytes(size))]), timeout=0.3)
        assert code_and_details(lambda call=call: list(call))[0] in (
            grpc.StatusCode.DEADLINE_EXCEEDED,
        )
    server.resume()
    assert stub.Unary(OwnRequest(payload=bytes(5000)), timeout=WAIT).payload == bytes(5000)
    before = zerohop.stats()["bytes_copied"]
    assert stub.Unary(OwnRequest(payload=bytes(5000)), timeout=WAIT).payload == bytes(5000)
    assert zerohop.stats()["bytes_copied"] == before
    eventually(lambda: balance() == 0)


def test_cancelled_while_the_name_is_unanswered(own, stopped):
    server, stub, stock = stopped
    OwnRequest = own._zhtest_types.EchoRequest
    calls = [stub.Unary.future(OwnRequest(payload=bytes(10_000))) for _ in range(600)]
    other = stock.Unary.future(EchoRequest(text="behind"))
    kept = calls[::100]
    for call in calls:
        if call not in kept:
            assert call.cancel()
            assert call.code() is grpc.StatusCode.CANCELLED
    time.sleep(0.05)
    server.resume()
    for call in kept:
        assert call.result(timeout=WAIT).payload == bytes(10_000)
    assert other.result(timeout=WAIT).text == "behind"
    del calls, call, kept
    eventually(lambda: balance() == 0)
    assert zerohop.loans() == []


def test_killed_while_the_name_is_unanswered(own, stopped):
    server, stub, _ = stopped
    OwnRequest = own._zhtest_types.EchoRequest
    call = stub.Unary.future(OwnRequest(payload=bytes(10_000)))
    stream = stub.Bidi(iter([OwnRequest(payload=bytes(10_000))]))
    server.kill()
    for one in call.result, lambda: list(stream):
        assert code_and_details(one)[0] is grpc.StatusCode.UNAVAILABLE
    eventually(lambda: balance() == 0)


def test_asyncio_while_the_name_is_unanswered(own, home, launch):
    server = launch("server = serve()", **GENERATED)
    OwnRequest = own._zhtest_types.EchoRequest

    async def calls():
        async with zerohop.aio.insecure_channel(home.address()) as channel:
            await channel.channel_ready()
            server.stop()
            stub = own.EchoStub(channel)
            with pytest.raises(grpc.RpcError) as failure:
                await stub.Unary(OwnRequest(), timeout=0.3)
            assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            call, other = stub.Unary(OwnRequest()), stub.Unary(OwnRequest(text="t"))
            await asyncio.sleep(0.05)
            assert call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            server.resume()
            async with asyncio.timeout(WAIT):
                assert (await other).text == "t"

    asyncio.run(calls())
    eventually(lambda: balance() == 0)
