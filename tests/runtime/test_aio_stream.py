"""asyncio: streams, with iterators and with read and write, in every order."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest
from apiharness import WAIT, code_and_details_aio, eventually_aio
from zhtest.types_pb2 import EchoReply, EchoRequest

pytestmark = pytest.mark.asyncio

CANCELLED = (grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
PAYLOAD = b"x" * (16 << 10)
# See test_sync_flow.py.
BOUND = 4096


async def requests(*texts):
    for text in texts:
        yield EchoRequest(text=text)


async def settled(count):
    """Waits until a producer has stopped, and returns how far it got."""
    last, quiet = count[0], 0
    for _ in range(1500):
        await asyncio.sleep(0.02)
        quiet = quiet + 1 if count[0] == last else 0
        last = count[0]
        if quiet > 25 or last >= BOUND:
            break
    return last


async def test_server_stream(impl_aio):
    peer = await impl_aio.serve()
    call = peer.stub.ServerStream(EchoRequest(text="x", count=5))
    assert isinstance(call, grpc.aio.UnaryStreamCall)
    received = [(reply.text, reply.index) async for reply in call]
    assert received == [("x", index) for index in range(5)]
    assert await call.code() is grpc.StatusCode.OK
    assert call.done() is True


async def test_server_stream_by_read(impl_aio):
    peer = await impl_aio.serve()
    call = peer.stub.ServerStream(EchoRequest(count=3))
    assert [(await call.read()).index for _ in range(3)] == [0, 1, 2]
    assert await call.read() is grpc.aio.EOF
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    assert not grpc.aio.EOF


async def test_client_stream(impl_aio):
    peer = await impl_aio.serve()
    call = peer.stub.ClientStream(requests("a", "b", "c"))
    assert isinstance(call, grpc.aio.StreamUnaryCall)
    assert (await call) == EchoReply(text="a,b,c", index=3)
    assert await call.code() is grpc.StatusCode.OK
    # A synchronous iterator and a list are taken too.
    for iterable in (iter([EchoRequest(text="x")]), [EchoRequest(text="x")]):
        assert (await peer.stub.ClientStream(iterable)).text == "x"


async def test_client_stream_by_write(impl_aio):
    peer = await impl_aio.serve()
    call = peer.stub.ClientStream()
    for text in "abc":
        await call.write(EchoRequest(text=text))
    await call.done_writing()
    # It may be said twice.
    await call.done_writing()
    assert (await call).text == "a,b,c"


async def test_bidi(impl_aio):
    peer = await impl_aio.serve()
    call = peer.stub.Bidi(requests("a", "b", "c"))
    assert isinstance(call, grpc.aio.StreamStreamCall)
    received = [(reply.text, reply.index) async for reply in call]
    assert received == [("a", 0), ("b", 1), ("c", 2)]
    assert await call.code() is grpc.StatusCode.OK


async def test_bidi_by_read_and_write(impl_aio):
    peer = await impl_aio.serve()
    call = peer.stub.Bidi()
    for number in range(200):
        await call.write(EchoRequest(text=str(number)))
        assert (await call.read()).text == str(number)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_empty_streams(impl_aio):
    peer = await impl_aio.serve()
    assert [reply async for reply in peer.stub.ServerStream(EchoRequest())] == []
    assert await peer.stub.ClientStream(requests()) == EchoReply()
    assert [reply async for reply in peer.stub.Bidi(requests())] == []
    call = peer.stub.Bidi()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_write_after_the_half_close(impl_aio):
    gate = asyncio.Event()

    async def handler(request_iterator, context):
        await gate.wait()
        yield EchoReply()

    peer = await impl_aio.serve(bidi=handler)
    call = peer.stub.Bidi()
    await call.write(EchoRequest())
    await call.done_writing()
    with pytest.raises(asyncio.InvalidStateError, match="half closed"):
        await call.write(EchoRequest())
    gate.set()
    assert await call.read() is not grpc.aio.EOF
    assert await call.read() is grpc.aio.EOF
    with pytest.raises(asyncio.InvalidStateError, match="finished"):
        await call.write(EchoRequest())
    # Nothing to do any more, and no error.
    await call.done_writing()


async def test_styles_do_not_mix(impl_aio):
    peer = await impl_aio.serve()
    call = peer.stub.ServerStream(EchoRequest(count=3))
    await call.read()
    with pytest.raises(grpc.aio.UsageError, match="may not be mixed"):
        call.__aiter__()
    call = peer.stub.ServerStream(EchoRequest(count=3))
    async for _ in call:
        break
    with pytest.raises(grpc.aio.UsageError, match="may not be mixed"):
        await call.read()
    call = peer.stub.Bidi(requests("a"))
    with pytest.raises(grpc.aio.UsageError, match="may not be mixed"):
        await call.write(EchoRequest())
    with pytest.raises(grpc.aio.UsageError, match="may not be mixed"):
        await call.done_writing()
    assert [reply.text async for reply in call] == ["a"]


async def test_iterator_for_requests_and_read_for_replies(impl_aio):
    peer = await impl_aio.serve()
    call = peer.stub.Bidi(requests("a", "b"))
    assert (await call.read()).text == "a"
    assert (await call.read()).text == "b"
    assert await call.read() is grpc.aio.EOF
    call = peer.stub.Bidi()
    await call.write(EchoRequest(text="x"))
    await call.done_writing()
    assert [reply.text async for reply in call] == ["x"]


async def test_wait_for_connection(impl_aio):
    peer = await impl_aio.serve()
    call = peer.stub.Bidi()
    async with asyncio.timeout(WAIT):
        await call.wait_for_connection()
        assert call.done() is False
        await call.write(EchoRequest(text="x"))
        await call.done_writing()
        assert [reply.text async for reply in call] == ["x"]
        call = peer.stub.Unary(EchoRequest(text="x"))
        await call.wait_for_connection()
        assert (await call).text == "x"
        call = peer.stub.ServerStream(EchoRequest(count=1))
        await call.wait_for_connection()
        assert len([reply async for reply in call]) == 1


async def test_wait_for_connection_to_nobody(impl_aio):
    peer_channel = impl_aio.channel()
    call = peer_channel.stream_stream("/zhtest.Echo/Bidi")()
    code, _ = await code_and_details_aio(call.wait_for_connection())
    assert code is grpc.StatusCode.UNAVAILABLE


async def test_reader_writer_handler(impl_aio):
    """The other style of handlers: a coroutine that reads and writes through its context."""
    seen = []

    async def bidi(request_iterator, context):
        while True:
            request = await context.read()
            if request is grpc.aio.EOF:
                break
            await context.write(EchoReply(text=request.text + "!"))
        seen.append(await context.read() is grpc.aio.EOF)
        await context.write(EchoReply(text="end"))

    async def server_stream(request, context):
        for index in range(request.count):
            await context.write(EchoReply(index=index))

    async def client_stream(request_iterator, context):
        count = 0
        while await context.read() is not grpc.aio.EOF:
            count += 1
        return EchoReply(index=count)

    peer = await impl_aio.serve(bidi=bidi, server_stream=server_stream, client_stream=client_stream)
    call = peer.stub.Bidi(requests("a", "b"))
    assert [reply.text async for reply in call] == ["a!", "b!", "end"]
    assert seen == [True]
    call = peer.stub.ServerStream(EchoRequest(count=3))
    assert [reply.index async for reply in call] == [0, 1, 2]
    assert (await peer.stub.ClientStream(requests("a", "b"))).index == 2


async def test_reply_before_all_requests_are_read(impl_aio):
    async def handler(request_iterator, context):
        async for request in request_iterator:
            return EchoReply(text=request.text)

    peer = await impl_aio.serve(client_stream=handler)
    call = peer.stub.ClientStream()
    await call.write(EchoRequest(text="first"))
    async with asyncio.timeout(WAIT):
        assert (await call).text == "first"
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(EchoRequest())


async def test_server_ends_without_reading(impl_aio):
    async def unary(request_iterator, context):
        return EchoReply(text="unread")

    async def stream(request_iterator, context):
        yield EchoReply(text="unread")

    gate = asyncio.Event()

    async def late():
        await gate.wait()
        yield EchoRequest()

    peer = await impl_aio.serve(client_stream=unary, bidi=stream)
    async with asyncio.timeout(WAIT):
        assert (await peer.stub.ClientStream(late())).text == "unread"
        assert [reply.text async for reply in peer.stub.Bidi(late())] == ["unread"]
    gate.set()


async def test_server_speaks_first_and_last(impl_aio):
    async def handler(request_iterator, context):
        yield EchoReply(text="welcome")
        async for request in request_iterator:
            yield EchoReply(text=request.text)
        for index in range(3):
            yield EchoReply(text="after", index=index)

    peer = await impl_aio.serve(bidi=handler)
    call = peer.stub.Bidi()
    async with asyncio.timeout(WAIT):
        assert (await call.read()).text == "welcome"
        await call.write(EchoRequest(text="x"))
        assert (await call.read()).text == "x"
        await call.done_writing()
        assert [(await call.read()).index for _ in range(3)] == [0, 1, 2]
        assert await call.read() is grpc.aio.EOF


async def test_request_iterator_raises(impl_aio):
    """The call is cancelled; the synchronous API ends it with UNKNOWN."""

    async def broken():
        yield EchoRequest(text="a")
        raise ValueError("no more requests")

    peer = await impl_aio.serve()
    call = peer.stub.ClientStream(broken())
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await call.code() is grpc.StatusCode.CANCELLED
    call = peer.stub.Bidi(broken())
    with pytest.raises(asyncio.CancelledError):
        async for _ in call:
            pass
    assert (await call.code(), await call.details()) == CANCELLED


async def test_server_fails_while_the_client_writes(impl_aio):
    async def handler(request_iterator, context):
        async for _ in request_iterator:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")
        yield EchoReply()

    peer = await impl_aio.serve(bidi=handler)
    call = peer.stub.Bidi()
    await call.write(EchoRequest())
    answer = (grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")
    assert await code_and_details_aio(call.read()) == answer
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(EchoRequest())
    assert (await call.code(), await call.details()) == answer


async def test_writing_to_a_server_that_fails_meanwhile(impl_aio):
    """Sooner or later a write raises; grpcio may then say INTERNAL, as it does not wait for the
    status that is on its way."""

    async def handler(request_iterator, context):
        async for _ in request_iterator:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")
        yield EchoReply()

    peer = await impl_aio.serve(bidi=handler)
    call = peer.stub.Bidi()
    with pytest.raises((grpc.aio.AioRpcError, asyncio.InvalidStateError)):
        async with asyncio.timeout(WAIT):
            while True:
                await call.write(EchoRequest())
    assert await call.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL)


async def test_thousand_messages(impl_aio):
    peer = await impl_aio.serve()
    call = peer.stub.ServerStream(EchoRequest(count=1000))
    assert [reply.index async for reply in call] == list(range(1000))
    reply = await peer.stub.ClientStream(requests(*(str(number) for number in range(1000))))
    assert reply.index == 1000
    call = peer.stub.Bidi(requests(*(str(number) for number in range(1000))))
    assert [reply.text async for reply in call] == [str(number) for number in range(1000)]


@pytest.mark.parametrize("size", [0, 1, 1023, 1025, 4095, 4097, 65536, 1 << 20])
async def test_sizes(impl_aio, size):
    peer = await impl_aio.serve()
    payloads = [bytes([number]) * size for number in range(8)]

    async def messages():
        for payload in payloads:
            yield EchoRequest(payload=payload)

    received = [reply.payload async for reply in peer.stub.Bidi(messages())]
    assert received == payloads


async def test_many_streams_at_once(impl_aio):
    peer = await impl_aio.serve()
    calls = [peer.stub.Bidi() for _ in range(50)]
    for round_ in range(10):
        for number, call in enumerate(calls):
            await call.write(EchoRequest(text=f"{number}/{round_}"))
        for number, call in reversed(list(enumerate(calls))):
            assert (await call.read()).text == f"{number}/{round_}"
    for call in calls:
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def test_reading_and_writing_tasks(impl_aio):
    """One task writes, another reads, on one call."""
    peer = await impl_aio.serve()
    call = peer.stub.Bidi()

    async def write():
        for number in range(500):
            await call.write(EchoRequest(text=str(number)))
        await call.done_writing()

    async def read():
        return [reply.text async for reply in call]

    _, received = await asyncio.gather(write(), read())
    assert received == [str(number) for number in range(500)]


async def test_slow_reader_holds_back_the_server(impl_aio):
    count = [0]
    over = asyncio.Event()

    async def handler(request, context):
        try:
            while True:
                yield EchoReply(index=count[0], payload=PAYLOAD)
                count[0] += 1
        finally:
            over.set()

    peer = await impl_aio.serve(server_stream=handler)
    call = peer.stub.ServerStream(EchoRequest())
    assert (await call.read()).index == 0
    stuck = await settled(count)
    assert stuck < BOUND
    for number in range(1, stuck + 20):
        assert (await call.read()).index == number
    call.cancel()
    async with asyncio.timeout(WAIT):
        await over.wait()


async def test_slow_handler_holds_back_the_client(impl_aio):
    count = [0]
    gate = asyncio.Event()

    async def handler(request_iterator, context):
        await gate.wait()
        received = 0
        async for _ in request_iterator:
            received += 1
        return EchoReply(index=received)

    async def endless():
        while not gate.is_set():
            yield EchoRequest(payload=PAYLOAD)
            count[0] += 1

    peer = await impl_aio.serve(client_stream=handler)
    call = peer.stub.ClientStream(endless())
    assert await settled(count) < BOUND
    gate.set()
    async with asyncio.timeout(WAIT):
        assert (await call).index == count[0]


async def test_stuck_stream_does_not_hold_up_others(impl_aio):
    async def handler(request, context):
        for index in range(request.count):
            yield EchoReply(index=index, payload=PAYLOAD)

    peer = await impl_aio.serve(server_stream=handler)
    stuck = peer.stub.ServerStream(EchoRequest(count=1_000_000))
    assert (await stuck.read()).index == 0
    for _ in range(20):
        assert (await peer.stub.Unary(EchoRequest(text="x"))).text == "x"
        assert len((await peer.stub.Unary(EchoRequest(payload=PAYLOAD * 8))).payload) == 8 << 14
    stuck.cancel()


async def test_stream_within_a_handler(impl_aio):
    back = await impl_aio.serve("back")

    async def handler(request, context):
        async for reply in back.stub.ServerStream(request):
            yield reply

    front = await impl_aio.serve("front", server_stream=handler)
    call = front.stub.ServerStream(EchoRequest(count=50), timeout=WAIT)
    assert [reply.index async for reply in call] == list(range(50))


async def test_done_callback_of_a_stream(impl_aio):
    peer = await impl_aio.serve()
    seen = []
    call = peer.stub.ServerStream(EchoRequest(count=2))
    call.add_done_callback(seen.append)
    assert len([reply async for reply in call]) == 2
    await eventually_aio(lambda: seen == [call])
