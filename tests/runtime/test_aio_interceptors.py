"""asyncio: interceptors of the client, one class for each kind of call."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest
from apiharness import WAIT, code_and_details_aio, eventually_aio
from zhtest.types_pb2 import EchoReply, EchoRequest

pytestmark = pytest.mark.asyncio


def with_metadata(details, *pairs):
    """The same call with more metadata."""
    return grpc.aio.ClientCallDetails(
        details.method,
        details.timeout,
        grpc.aio.Metadata(*tuple(details.metadata or ()), *pairs),
        details.credentials,
        details.wait_for_ready,
    )


class _Note:
    """Writes down when it is entered and left, and adds a header."""

    def __init__(self, name, log):
        self.name = name
        self.log = log

    async def _intercept(self, continuation, details, request):
        self.log.append(f"{self.name} in")
        call = await continuation(with_metadata(details, ("via", self.name)), request)
        self.log.append(f"{self.name} out")
        return call


class UnaryUnary(_Note, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation, client_call_details, request):
        return await self._intercept(continuation, client_call_details, request)


class UnaryStream(_Note, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation, client_call_details, request):
        return await self._intercept(continuation, client_call_details, request)


class StreamUnary(_Note, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation, client_call_details, request_iterator):
        return await self._intercept(continuation, client_call_details, request_iterator)


class StreamStream(_Note, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation, client_call_details, request_iterator):
        return await self._intercept(continuation, client_call_details, request_iterator)


KINDS = (UnaryUnary, UnaryStream, StreamUnary, StreamStream)
ORDER = ["a in", "b in", "b out", "a out"]


async def _requests(*texts):
    for text in texts:
        yield EchoRequest(text=text)


async def _serve(impl_aio, vias, interceptors):
    """A server that notes the `via` headers, and a channel with those interceptors."""

    def note(context):
        vias.append([value for key, value in context.invocation_metadata() if key == "via"])

    async def unary(request, context):
        note(context)
        return EchoReply(text=request.text)

    async def client_stream(request_iterator, context):
        note(context)
        texts = [request.text async for request in request_iterator]
        return EchoReply(text=",".join(texts))

    async def server_stream(request, context):
        note(context)
        for index in range(request.count):
            yield EchoReply(text=request.text, index=index)

    async def bidi(request_iterator, context):
        note(context)
        async for request in request_iterator:
            yield EchoReply(text=request.text)

    return await impl_aio.serve(
        unary=unary,
        server_stream=server_stream,
        client_stream=client_stream,
        bidi=bidi,
        channel_interceptors=interceptors,
    )


async def test_every_kind(impl_aio):
    log, vias = [], []
    interceptors = [kind(name, log) for name in "ab" for kind in KINDS]
    peer = await _serve(impl_aio, vias, interceptors)
    assert (await peer.stub.Unary(EchoRequest(text="x"))).text == "x"
    assert log == ORDER
    call = peer.stub.ServerStream(EchoRequest(text="x", count=2))
    assert [reply.index async for reply in call] == [0, 1]
    assert log == ORDER * 2
    assert (await peer.stub.ClientStream(_requests("x", "y"))).text == "x,y"
    assert log == ORDER * 3
    assert [reply.text async for reply in peer.stub.Bidi(_requests("x", "y"))] == ["x", "y"]
    assert log == ORDER * 4
    assert vias == [["a", "b"]] * 4


async def test_read_and_write_through_interceptors(impl_aio):
    log, vias = [], []
    peer = await _serve(impl_aio, vias, [kind("a", log) for kind in KINDS])
    async with asyncio.timeout(WAIT):
        call = peer.stub.Bidi()
        assert isinstance(call, grpc.aio.StreamStreamCall)
        for number in range(20):
            await call.write(EchoRequest(text=str(number)))
            assert (await call.read()).text == str(number)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        call = peer.stub.ClientStream()
        await call.write(EchoRequest(text="x"))
        await call.write(EchoRequest(text="y"))
        await call.done_writing()
        assert (await call).text == "x,y"
        call = peer.stub.ServerStream(EchoRequest(count=2))
        assert [(await call.read()).index for _ in range(2)] == [0, 1]
        assert await call.read() is grpc.aio.EOF
    assert vias == [["a"]] * 3


async def test_only_its_own_kind(impl_aio):
    log, vias = [], []
    peer = await _serve(impl_aio, vias, [UnaryUnary("u", log)])
    await peer.stub.Unary(EchoRequest())
    assert [reply async for reply in peer.stub.ServerStream(EchoRequest())] == []
    await peer.stub.ClientStream(_requests())
    assert [reply async for reply in peer.stub.Bidi(_requests())] == []
    assert vias == [["u"], [], [], []]


async def test_not_an_interceptor(impl_aio):
    with pytest.raises(ValueError, match="Interceptor"):
        impl_aio.channel(interceptors=[object()])
    with pytest.raises(ValueError, match="Interceptor"):
        impl_aio.server(interceptors=[object()])


async def test_details(impl_aio):
    seen = []

    class Note(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation, client_call_details, request):
            seen.append(client_call_details)
            return await continuation(client_call_details, request)

    peer = await impl_aio.serve(channel_interceptors=[Note()])
    await peer.stub.Unary(EchoRequest(), timeout=25, metadata=(("k", "v"),), wait_for_ready=True)
    await peer.stub.Unary(EchoRequest())
    details = seen[0]
    assert isinstance(details, grpc.ClientCallDetails)
    assert isinstance(details, grpc.aio.ClientCallDetails)
    # Bytes in grpcio.
    assert details.method in (b"/zhtest.Echo/Unary", "/zhtest.Echo/Unary")
    assert details.timeout == 25
    assert tuple(details.metadata) == (("k", "v"),)
    assert isinstance(details.metadata, grpc.aio.Metadata)
    assert details.wait_for_ready is True
    assert details.credentials is None
    assert seen[1].timeout is None
    assert tuple(seen[1].metadata) == ()


async def test_call_object_through_interceptors(impl_aio):
    log, vias = [], []
    peer = await _serve(impl_aio, vias, [UnaryUnary("a", log)])
    seen = []
    call = peer.stub.Unary(EchoRequest(text="x"))
    assert isinstance(call, grpc.aio.UnaryUnaryCall)
    assert call.done() is False
    assert call.cancelled() is False
    call.add_done_callback(seen.append)
    assert (await call).text == "x"
    assert (await call).text == "x"
    assert await call.code() is grpc.StatusCode.OK
    assert await call.details() == ""
    assert tuple(await call.initial_metadata()) == ()
    assert tuple(await call.trailing_metadata()) == ()
    assert call.done() is True
    assert call.cancel() is False
    await eventually_aio(lambda: seen == [call])


async def test_changing_the_request(impl_aio):
    class Change(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation, client_call_details, request):
            return await continuation(client_call_details, EchoRequest(text=request.text + "?"))

    peer = await impl_aio.serve(channel_interceptors=[Change()])
    assert (await peer.stub.Unary(EchoRequest(text="a"))).text == "a?"


async def test_answering_without_a_call(impl_aio):
    """An interceptor may return a response in place of a call."""

    class Cache(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation, client_call_details, request):
            return EchoReply(text="from the cache")

    vias = []
    peer = await _serve(impl_aio, vias, [Cache()])
    call = peer.stub.Unary(EchoRequest())
    assert (await call).text == "from the cache"
    assert await call.code() is grpc.StatusCode.OK
    assert vias == []


async def test_changing_the_response(impl_aio):
    class Change(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation, client_call_details, request):
            call = await continuation(client_call_details, request)
            return EchoReply(text=(await call).text.upper())

    peer = await impl_aio.serve(channel_interceptors=[Change()])
    assert (await peer.stub.Unary(EchoRequest(text="a"))).text == "A"


async def test_changing_streams_of_responses(impl_aio):
    """An asynchronous iterator in place of the call."""

    async def upper(call):
        async for reply in call:
            yield EchoReply(text=reply.text.upper())

    class Stream(grpc.aio.UnaryStreamClientInterceptor):
        async def intercept_unary_stream(self, continuation, client_call_details, request):
            return upper(await continuation(client_call_details, request))

    class Bidi(grpc.aio.StreamStreamClientInterceptor):
        async def intercept_stream_stream(self, continuation, details, request_iterator):
            return upper(await continuation(details, request_iterator))

    vias = []
    peer = await _serve(impl_aio, vias, [Stream(), Bidi()])
    call = peer.stub.ServerStream(EchoRequest(text="a", count=2))
    assert [reply.text async for reply in call] == ["A", "A"]
    assert await call.code() is grpc.StatusCode.OK
    call = peer.stub.Bidi(_requests("b", "c"))
    assert [reply.text async for reply in call] == ["B", "C"]


async def test_changing_streams_of_requests(impl_aio):
    async def louder(request_iterator):
        async for request in request_iterator:
            yield EchoRequest(text=request.text + "!")

    class Change(grpc.aio.StreamUnaryClientInterceptor):
        async def intercept_stream_unary(self, continuation, details, request_iterator):
            return await continuation(details, louder(request_iterator))

    vias = []
    peer = await _serve(impl_aio, vias, [Change()])
    assert (await peer.stub.ClientStream(_requests("a", "b"))).text == "a!,b!"


async def test_retry(impl_aio):
    failures = [3]

    async def handler(request, context):
        if failures[0]:
            failures[0] -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "try again")
        return EchoReply(text="in the end")

    class Retry(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation, client_call_details, request):
            for _ in range(5):
                call = await continuation(client_call_details, request)
                if await call.code() is not grpc.StatusCode.UNAVAILABLE:
                    break
            return call

    peer = await impl_aio.serve(unary=handler, channel_interceptors=[Retry()])
    assert (await peer.stub.Unary(EchoRequest())).text == "in the end"
    assert failures == [0]


async def test_errors_pass_through(impl_aio):
    async def handler(request, context):
        await context.abort(grpc.StatusCode.NOT_FOUND, "nope", (("t", "1"),))

    log = []
    peer = await impl_aio.serve(unary=handler, channel_interceptors=[UnaryUnary("a", log)])
    call = peer.stub.Unary(EchoRequest())
    assert await code_and_details_aio(call) == (grpc.StatusCode.NOT_FOUND, "nope")
    assert await call.code() is grpc.StatusCode.NOT_FOUND
    assert tuple(await call.trailing_metadata()) == (("t", "1"),)
    assert call.done() is True


async def test_interceptor_raises(impl_aio):
    class Bad(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation, client_call_details, request):
            raise ValueError("interceptor gone wrong")

    class Refuse(grpc.aio.UnaryStreamClientInterceptor):
        async def intercept_unary_stream(self, continuation, client_call_details, request):
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.PERMISSION_DENIED,
                grpc.aio.Metadata(),
                grpc.aio.Metadata(),
                details="not here",
            )

    vias = []
    peer = await _serve(impl_aio, vias, [Bad(), Refuse()])
    with pytest.raises(ValueError, match="interceptor gone wrong"):
        await peer.stub.Unary(EchoRequest())
    call = peer.stub.ServerStream(EchoRequest(count=1))
    assert await code_and_details_aio(call.read()) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "not here",
    )
    assert await call.code() is grpc.StatusCode.PERMISSION_DENIED
    assert vias == []
    assert (await peer.stub.ClientStream(_requests("x"))).text == "x"


async def test_cancel_while_in_the_interceptor(impl_aio):
    reached = asyncio.Event()

    class Slow(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation, client_call_details, request):
            reached.set()
            await asyncio.sleep(2 * WAIT)
            return await continuation(client_call_details, request)

    vias = []
    peer = await _serve(impl_aio, vias, [Slow()])
    call = peer.stub.Unary(EchoRequest())
    async with asyncio.timeout(WAIT):
        await reached.wait()
        assert call.cancel() is True
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled() is True
        assert await call.code() is grpc.StatusCode.CANCELLED
    assert vias == []


async def test_cancel_through_interceptors(impl_aio):
    started, over = asyncio.Event(), asyncio.Event()

    async def handler(request, context):
        started.set()
        try:
            await asyncio.sleep(2 * WAIT)
        finally:
            over.set()
        return EchoReply()

    log = []
    peer = await impl_aio.serve(unary=handler, channel_interceptors=[UnaryUnary("a", log)])
    call = peer.stub.Unary(EchoRequest())
    async with asyncio.timeout(WAIT):
        await started.wait()
        assert call.cancel() is True
        with pytest.raises(asyncio.CancelledError):
            await call
        await over.wait()
    assert call.cancelled() is True
