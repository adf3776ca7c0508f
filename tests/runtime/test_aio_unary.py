"""asyncio: unary calls, what a call tells of itself, and many of them at once."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import random

import grpc
import grpc.aio
import pytest
from apiharness import WAIT, code_and_details_aio, eventually_aio
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoReply, EchoRequest

pytestmark = pytest.mark.asyncio

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
variable = contextvars.ContextVar("variable", default="default")


async def test_await(impl_aio):
    peer = await impl_aio.serve()
    reply = await peer.stub.Unary(EchoRequest(text="hello", payload=b"\0\xff"))
    assert reply == EchoReply(text="hello", payload=b"\0\xff")


async def test_many_calls(impl_aio):
    peer = await impl_aio.serve()
    for number in range(300):
        assert (await peer.stub.Unary(EchoRequest(text=str(number)))).text == str(number)


async def test_call_object(impl_aio):
    peer = await impl_aio.serve()
    call = peer.stub.Unary(EchoRequest(text="x"))
    assert isinstance(call, grpc.aio.Call)
    assert isinstance(call, grpc.aio.UnaryUnaryCall)
    assert isinstance(call, grpc.aio.RpcContext)
    assert inspect.isawaitable(call)
    assert call.done() is False
    assert call.cancelled() is False
    assert (await call).text == "x"
    assert call.done() is True
    assert call.cancelled() is False
    assert call.cancel() is False
    # It can be awaited again, and by several.
    assert (await call).text == "x"
    assert [reply.text for reply in await asyncio.gather(*(_await(call) for _ in range(5)))] == [
        "x"
    ] * 5


async def _await(call):
    return await call


async def test_status_of_a_call(impl_aio):
    peer = await impl_aio.serve()
    call = peer.stub.Unary(EchoRequest())
    # Each of them waits for the end by itself.
    assert await call.code() is grpc.StatusCode.OK
    assert await call.details() == ""
    assert tuple(await call.initial_metadata()) == ()
    assert tuple(await call.trailing_metadata()) == ()
    assert isinstance(await call.trailing_metadata(), grpc.aio.Metadata)
    assert await call.debug_error_string() == ""
    assert call.done()


async def test_status_of_a_failed_call(impl_aio):
    async def handler(request, context):
        await context.abort(grpc.StatusCode.NOT_FOUND, "nope")

    peer = await impl_aio.serve(unary=handler)
    call = peer.stub.Unary(EchoRequest())
    assert await call.code() is grpc.StatusCode.NOT_FOUND
    assert await call.details() == "nope"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    # Again, also after the first one has been taken.
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    assert call.done() is True
    assert call.cancelled() is False


async def test_call_is_made_without_being_awaited(impl_aio):
    reached = asyncio.Event()

    async def handler(request, context):
        reached.set()
        return EchoReply()

    peer = await impl_aio.serve(unary=handler)
    call = peer.stub.Unary(EchoRequest())
    async with asyncio.timeout(WAIT):
        await reached.wait()
        await call


async def test_keyword_arguments_only(impl_aio):
    """Unlike the synchronous one, the asyncio multicallable takes only the request by position."""
    peer = await impl_aio.serve()
    with pytest.raises(TypeError):
        peer.stub.Unary(EchoRequest(), 5)
    reply = await peer.stub.Unary(
        EchoRequest(text="x"),
        timeout=WAIT,
        metadata=(("k", "v"),),
        credentials=None,
        wait_for_ready=True,
        compression=grpc.Compression.Gzip,
    )
    assert reply.text == "x"


async def test_done_callback(impl_aio):
    peer = await impl_aio.serve()
    seen = []
    call = peer.stub.Unary(EchoRequest())
    call.add_done_callback(seen.append)
    assert seen == []
    await call
    await eventually_aio(lambda: seen == [call])
    # Too late is at once.
    call.add_done_callback(seen.append)
    await eventually_aio(lambda: seen == [call, call])


async def test_done_callback_of_a_failed_call(impl_aio):
    async def handler(request, context):
        raise ValueError("wrong")

    peer = await impl_aio.serve(unary=handler)
    seen = []
    call = peer.stub.Unary(EchoRequest())
    call.add_done_callback(seen.append)
    await eventually_aio(lambda: seen == [call])
    assert await call.code() is grpc.StatusCode.UNKNOWN


async def test_gather(impl_aio):
    peer = await impl_aio.serve()
    calls = [peer.stub.Unary(EchoRequest(text=str(number))) for number in range(100)]
    replies = await asyncio.gather(*calls)
    assert [reply.text for reply in replies] == [str(number) for number in range(100)]


async def test_handlers_overlap(impl_aio):
    """A hundred handlers wait for each other."""
    waiting = []
    everybody = asyncio.Event()

    async def handler(request, context):
        waiting.append(1)
        if len(waiting) == 100:
            everybody.set()
        await everybody.wait()
        return EchoReply(text=request.text)

    peer = await impl_aio.serve(unary=handler)
    async with asyncio.timeout(WAIT):
        replies = await asyncio.gather(
            *(peer.stub.Unary(EchoRequest(text=str(number))) for number in range(100))
        )
    assert [reply.text for reply in replies] == [str(number) for number in range(100)]


async def test_more_calls_than_any_table_holds(impl_aio):
    """The rest waits, nothing is refused."""
    # A server of grpcio begins to refuse calls when a thousand wait for it.
    count = 2000 if impl_aio.zerohop else 700
    peer = await impl_aio.serve()
    replies = await asyncio.gather(
        *(peer.stub.Unary(EchoRequest(text=str(number))) for number in range(count))
    )
    assert [reply.text for reply in replies] == [str(number) for number in range(count)]


async def test_workers_with_payloads(impl_aio):
    peer = await impl_aio.serve()

    async def work(worker):
        rng = random.Random(worker)
        for number in range(20):
            payload = rng.randbytes(rng.choice([0, 10, 500, 2000, 70_000]))
            text = f"{worker}/{number}"
            reply = await peer.stub.Unary(EchoRequest(text=text, payload=payload))
            assert reply == EchoReply(text=text, payload=payload)

    await asyncio.gather(*(work(worker) for worker in range(50)))


async def test_other_tasks_run_during_a_call(impl_aio):
    gate = asyncio.Event()

    async def handler(request, context):
        await gate.wait()
        return EchoReply()

    peer = await impl_aio.serve(unary=handler)
    ticks = []

    async def tick():
        for number in range(20):
            ticks.append(number)
            await asyncio.sleep(0)
        gate.set()

    async with asyncio.timeout(WAIT):
        await asyncio.gather(tick(), peer.stub.Unary(EchoRequest()))
    assert len(ticks) == 20


@pytest.mark.parametrize(
    "size", [0, 1, 127, 1023, 1024, 1025, 4095, 4096, 4097, 65535, 65536, 1 << 20]
)
async def test_sizes(impl_aio, size):
    peer = await impl_aio.serve()
    payload = random.Random(size).randbytes(size)
    for _ in range(3):
        assert (await peer.stub.Unary(EchoRequest(payload=payload))).payload == payload


async def test_five_mebibytes(impl_aio):
    peer = await impl_aio.serve(options=UNLIMITED, channel_options=UNLIMITED)
    payload = bytes(range(256)) * (5 * (1 << 20) // 256)
    assert (await peer.stub.Unary(EchoRequest(payload=payload))).payload == payload


async def test_size_limits(impl_aio):
    peer = await impl_aio.serve(
        options=[("grpc.max_receive_message_length", 2000)],
        channel_options=[("grpc.max_send_message_length", 5000)],
    )
    for size in (3000, 10_000):
        code, details = await code_and_details_aio(
            peer.stub.Unary(EchoRequest(payload=b"x" * size))
        )
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in details
    assert (await peer.stub.Unary(EchoRequest(text="x"))).text == "x"


async def test_request_is_a_snapshot(impl_aio):
    """grpcio serializes in a task of its own, so only what is changed after the call has left
    counts here."""
    reached = asyncio.Event()
    gate = asyncio.Event()

    async def handler(request, context):
        reached.set()
        await gate.wait()
        return EchoReply(text=request.text)

    peer = await impl_aio.serve(unary=handler)
    request = EchoRequest(text="before")
    call = peer.stub.Unary(request)
    async with asyncio.timeout(WAIT):
        await reached.wait()
        request.text = "after"
        gate.set()
        assert (await call).text == "before"


async def test_call_within_a_handler(impl_aio):
    back = await impl_aio.serve("back")

    async def handler(request, context):
        return await back.stub.Unary(EchoRequest(text=request.text + "!"))

    front = await impl_aio.serve("front", unary=handler)
    assert (await front.stub.Unary(EchoRequest(text="a"), timeout=WAIT)).text == "a!"


async def test_custom_serializers(impl_aio):
    def dump(number):
        return b"%d" % number

    async def handler(request, context):
        assert type(request) is int
        return request + 1

    server = impl_aio.server(
        handlers=[
            grpc.method_handlers_generic_handler(
                "t",
                {
                    "number": grpc.unary_unary_rpc_method_handler(handler, int, dump),
                    "raw": grpc.unary_unary_rpc_method_handler(_same),
                },
            )
        ]
    )
    server.add_insecure_port(impl_aio.address())
    await server.start()
    channel = impl_aio.channel()
    assert await channel.unary_unary("/t/number", dump, int)(1) == 2
    assert await channel.unary_unary("/t/number")(b"5") == b"6"
    for size in (0, 10, 5000, 200_000):
        reply = await channel.unary_unary("/t/raw")(b"x" * size)
        assert type(reply) is bytes
        assert len(reply) == size


async def _same(request, context):
    return request


async def test_registered_method(impl_aio):
    peer = await impl_aio.serve()
    for _ in range(3):
        call = peer.channel.unary_unary(
            "/zhtest.Echo/Unary",
            request_serializer=EchoRequest.SerializeToString,
            response_deserializer=EchoReply.FromString,
            _registered_method=True,
        )
        assert isinstance(call, grpc.aio.UnaryUnaryMultiCallable)
        assert (await call(EchoRequest(text="x"))).text == "x"


async def test_two_services(impl_aio):
    class Second(echo_pb2_grpc.SecondServicer):
        async def Ping(self, request, context):
            return EchoReply(text="pong " + request.text)

    server = impl_aio.server()
    echo_pb2_grpc.add_SecondServicer_to_server(Second(), server)
    server.add_insecure_port(impl_aio.address())
    await server.start()
    channel = impl_aio.channel()
    stub = echo_pb2_grpc.SecondStub(channel)
    assert (await stub.Ping(EchoRequest(text="x"))).text == "pong x"
    assert await code_and_details_aio(echo_pb2_grpc.EchoStub(channel).Unary(EchoRequest())) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "Method not found!",
    )


async def test_fresh_context_for_each_call(impl_aio):
    seen = []

    async def handler(request, context):
        seen.append(variable.get())
        variable.set(request.text)
        await asyncio.sleep(0)
        seen.append(variable.get())
        return EchoReply()

    peer = await impl_aio.serve(unary=handler)
    for text in "abc":
        await peer.stub.Unary(EchoRequest(text=text))
    assert seen == ["default", "a", "default", "b", "default", "c"]


async def test_handlers_context_is_not_the_callers(impl_aio):
    async def handler(request, context):
        variable.set("handler's")
        return EchoReply()

    peer = await impl_aio.serve(unary=handler)
    variable.set("mine")
    await peer.stub.Unary(EchoRequest())
    assert variable.get() == "mine"
