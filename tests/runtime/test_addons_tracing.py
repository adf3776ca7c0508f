"""OpenTelemetry's interceptors, used as they are, on clients and servers of every kind."""

from __future__ import annotations

import asyncio
import logging

import grpc
import grpc.aio
import pytest
from apiharness import (
    WAIT,
    code_and_details,
    code_and_details_aio,
    eventually,
    eventually_aio,
    shared_memory_used,
)
from opentelemetry import trace
from opentelemetry.instrumentation.grpc import (
    aio_client_interceptors,
    aio_server_interceptor,
    client_interceptor,
    server_interceptor,
)
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoReply, EchoRequest

CLIENT, SERVER = trace.SpanKind.CLIENT, trace.SpanKind.SERVER


class Spans:
    """A tracer provider that keeps the spans in memory."""

    def __init__(self):
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def of(self, kind):
        return [span for span in self.exporter.get_finished_spans() if span.kind is kind]

    def pair(self):
        """The one span of the client and the one of the server, which is its child."""
        (client,), (server,) = self.of(CLIENT), self.of(SERVER)
        assert server.context.trace_id == client.context.trace_id
        assert server.parent.span_id == client.context.span_id
        assert server.parent.is_remote
        self.exporter.clear()
        return client, server

    def complete(self):
        return bool(self.of(CLIENT) and self.of(SERVER))


@pytest.fixture
def spans(caplog):
    found = Spans()
    yield found
    # Contexts that are left in another one than they were entered in are logged, not raised.
    assert "Failed to detach context" not in caplog.text
    complaints = [
        record
        for record in caplog.records
        if record.name.startswith("opentelemetry") and record.levelno >= logging.WARNING
    ]
    assert complaints == []


def _traced(impl, spans, **behaviours):
    peer = impl.serve(interceptors=[server_interceptor(spans.provider)], **behaviours)
    channel = intercept_channel(peer.channel, client_interceptor(spans.provider))
    return echo_pb2_grpc.EchoStub(channel)


def _check(spans, method, code=grpc.StatusCode.OK):
    eventually(spans.complete)
    for span in spans.pair():
        assert span.name == f"/zhtest.Echo/{method}"
        assert span.attributes["rpc.system"] == "grpc"
        assert span.attributes["rpc.service"] == "zhtest.Echo"
        assert span.attributes["rpc.method"] == method
        assert span.attributes["rpc.grpc.status_code"] == code.value[0]


@pytest.mark.inline_ok
def test_unary(impl, spans):
    stub = _traced(impl, spans)
    with shared_memory_used(impl, 2):
        assert stub.Unary(EchoRequest(text="x")).text == "x"
        _check(spans, "Unary")
        reply, call = stub.Unary.with_call(EchoRequest(text="x"))
        assert reply.text == "x"
        assert call.code() is grpc.StatusCode.OK
        _check(spans, "Unary")


@pytest.mark.inline_ok
def test_future(impl, spans):
    """The span ends in a done-callback, whether or not somebody waits."""
    stub = _traced(impl, spans)
    with shared_memory_used(impl, 2):
        assert stub.Unary.future(EchoRequest(text="x")).result(timeout=WAIT).text == "x"
        _check(spans, "Unary")
        future = stub.Unary.future(EchoRequest(text="x"))
        _check(spans, "Unary")
        assert future.done()


def test_streams(impl, spans):
    stub = _traced(impl, spans)
    requests = [EchoRequest(text="a"), EchoRequest(text="b")]
    with shared_memory_used(impl, 4):
        replies = list(stub.ServerStream(EchoRequest(count=3)))
        assert [reply.index for reply in replies] == [0, 1, 2]
        _check(spans, "ServerStream")
        assert stub.ClientStream(iter(requests)).text == "a,b"
        _check(spans, "ClientStream")
        future = stub.ClientStream.future(iter(requests))
        assert future.result(timeout=WAIT).text == "a,b"
        _check(spans, "ClientStream")
        assert [reply.text for reply in stub.Bidi(iter(requests))] == ["a", "b"]
        _check(spans, "Bidi")


@pytest.mark.inline_ok
def test_failure(impl, spans):
    def handler(request, context):
        if request.code == 1:
            context.abort(grpc.StatusCode.INTERNAL, "gone wrong")
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("not there")
        return EchoReply()

    stub = _traced(impl, spans, unary=handler)
    assert code_and_details(lambda: stub.Unary(EchoRequest(code=1))) == (
        grpc.StatusCode.INTERNAL,
        "gone wrong",
    )
    eventually(spans.complete)
    client, server = spans.pair()
    assert client.status.status_code is trace.StatusCode.ERROR
    assert server.status.status_code is trace.StatusCode.ERROR
    assert server.status.description.endswith("INTERNAL:gone wrong")
    assert code_and_details(lambda: stub.Unary(EchoRequest())) == (
        grpc.StatusCode.NOT_FOUND,
        "not there",
    )
    _check(spans, "Unary", grpc.StatusCode.NOT_FOUND)


def test_failing_stream(impl, spans):
    def handler(request, context):
        yield EchoReply(text="first")
        context.abort(grpc.StatusCode.INTERNAL, "gone wrong")

    stub = _traced(impl, spans, server_stream=handler)
    call = stub.ServerStream(EchoRequest())
    assert next(call).text == "first"
    assert code_and_details(lambda: next(call))[0] is grpc.StatusCode.INTERNAL
    _check(spans, "ServerStream", grpc.StatusCode.INTERNAL)


@pytest.mark.inline_ok
def test_current_span_in_the_handler(impl, spans):
    """What the handler records belongs to the span of its call."""
    seen = []

    def handler(request, context):
        span = trace.get_current_span()
        span.add_event("in the handler")
        seen.append(span.get_span_context().span_id)
        return EchoReply()

    stub = _traced(impl, spans, unary=handler)
    for _ in range(3):
        stub.Unary(EchoRequest())
        eventually(spans.complete)
        _, server = spans.pair()
        assert seen.pop() == server.context.span_id
        assert [event.name for event in server.events] == ["in the handler"]
    assert not trace.get_current_span().get_span_context().is_valid


@pytest.mark.inline_ok
def test_span_of_the_caller_is_the_parent(impl, spans):
    stub = _traced(impl, spans)
    tracer = spans.provider.get_tracer("test")
    with tracer.start_as_current_span("caller") as caller:
        stub.Unary(EchoRequest())
        future = stub.Unary.future(EchoRequest())
        future.result(timeout=WAIT)
    eventually(lambda: len(spans.of(CLIENT)) == len(spans.of(SERVER)) == 2)
    parents = {span.parent.span_id for span in spans.of(CLIENT)}
    assert parents == {caller.get_span_context().span_id}
    assert len({span.context.trace_id for span in spans.exporter.get_finished_spans()}) == 1


def test_spans_through_a_chain(impl, spans):
    """A handler that calls another server: one trace over both hops."""
    back = _ChainLink(impl, spans, "back")
    front = _ChainLink(impl, spans, "front", back.stub)
    assert front.stub.Unary(EchoRequest(text="x"), timeout=WAIT).text == "x"
    eventually(lambda: len(spans.exporter.get_finished_spans()) == 4)
    finished = spans.exporter.get_finished_spans()
    assert len({span.context.trace_id for span in finished}) == 1
    by_id = {span.context.span_id: span for span in finished}
    depth = []
    for span in finished:
        level = 0
        while span.parent is not None:
            span = by_id[span.parent.span_id]
            level += 1
        depth.append(level)
    assert sorted(depth) == [0, 1, 2, 3]


class _ChainLink:
    def __init__(self, impl, spans, name, next_stub=None):
        def handler(request, context):
            return EchoReply(text=request.text) if next_stub is None else next_stub.Unary(request)

        interceptors = [server_interceptor(spans.provider)]
        peer = impl.serve(name, unary=handler, interceptors=interceptors)
        channel = intercept_channel(peer.channel, client_interceptor(spans.provider))
        self.stub = echo_pb2_grpc.EchoStub(channel)


@pytest.mark.inline_ok
def test_many_calls(impl, spans):
    stub = _traced(impl, spans)
    for _ in range(50):
        stub.Unary(EchoRequest())
    futures = [stub.Unary.future(EchoRequest()) for _ in range(50)]
    for future in futures:
        future.result(timeout=WAIT)
    eventually(lambda: len(spans.of(CLIENT)) == len(spans.of(SERVER)) == 100)


async def _traced_aio(impl_aio, spans, **behaviours):
    return await impl_aio.serve(
        interceptors=[aio_server_interceptor(spans.provider)],
        channel_interceptors=aio_client_interceptors(spans.provider),
        **behaviours,
    )


async def _check_aio(spans, method, code=grpc.StatusCode.OK):
    await eventually_aio(spans.complete)
    client, server = spans.pair()
    for span in (client, server):
        assert span.name == f"/zhtest.Echo/{method}"
        assert span.attributes["rpc.service"] == "zhtest.Echo"
    assert client.attributes["rpc.grpc.status_code"] == code.value[0]
    assert server.attributes["rpc.grpc.status_code"] == code.value[0]


async def _requests(*texts):
    for text in texts:
        yield EchoRequest(text=text)


@pytest.mark.asyncio
async def test_asyncio(impl_aio, spans):
    peer = await _traced_aio(impl_aio, spans)
    with shared_memory_used(impl_aio, 4):
        async with asyncio.timeout(WAIT):
            assert (await peer.stub.Unary(EchoRequest(text="x"))).text == "x"
            await _check_aio(spans, "Unary")
            call = peer.stub.ServerStream(EchoRequest(count=3))
            assert [reply.index async for reply in call] == [0, 1, 2]
            await _check_aio(spans, "ServerStream")
            assert (await peer.stub.ClientStream(_requests("a", "b"))).text == "a,b"
            await _check_aio(spans, "ClientStream")
            call = peer.stub.Bidi(_requests("a", "b"))
            assert [reply.text async for reply in call] == ["a", "b"]
            await _check_aio(spans, "Bidi")


@pytest.mark.asyncio
async def test_asyncio_failure(impl_aio, spans):
    async def handler(request, context):
        await context.abort(grpc.StatusCode.INTERNAL, "gone wrong")

    async def stream(request, context):
        yield EchoReply(text="first")
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("no more")

    peer = await _traced_aio(impl_aio, spans, unary=handler, server_stream=stream)
    assert await code_and_details_aio(peer.stub.Unary(EchoRequest())) == (
        grpc.StatusCode.INTERNAL,
        "gone wrong",
    )
    await _check_aio(spans, "Unary", grpc.StatusCode.INTERNAL)
    received = []
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for reply in peer.stub.ServerStream(EchoRequest()):
            received.append(reply.text)
    assert received == ["first"]
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    await _check_aio(spans, "ServerStream", grpc.StatusCode.NOT_FOUND)


@pytest.mark.asyncio
async def test_asyncio_gather(impl_aio, spans):
    peer = await _traced_aio(impl_aio, spans)
    await asyncio.gather(*(peer.stub.Unary(EchoRequest(text=str(n))) for n in range(50)))
    await eventually_aio(lambda: len(spans.of(CLIENT)) == len(spans.of(SERVER)) == 50)
    servers = {span.parent.span_id for span in spans.of(SERVER)}
    assert servers == {span.context.span_id for span in spans.of(CLIENT)}
