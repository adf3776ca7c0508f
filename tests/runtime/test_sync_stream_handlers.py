"""Handlers of streams: how they end, and those that are given a callback for their replies."""

from __future__ import annotations

import queue
import threading

import grpc
import pytest
from apiharness import WAIT, eventually
from zhtest.types_pb2 import EchoReply, EchoRequest


@pytest.mark.inline_ok
def test_generator_is_closed_at_the_end(impl):
    closed = threading.Event()

    def handler(request, context):
        try:
            yield EchoReply()
        finally:
            closed.set()

    peer = impl.serve(server_stream=handler)
    assert len(list(peer.stub.ServerStream(EchoRequest()))) == 1
    assert closed.wait(WAIT)


@pytest.mark.inline_ok
def test_yielding_none_ends_the_stream(impl):
    """An oddity of grpcio's that non-blocking handlers are built on: None is the end."""

    def handler(request, context):
        yield EchoReply(text="1")
        yield None

    peer = impl.serve(server_stream=handler)
    assert [reply.text for reply in peer.stub.ServerStream(EchoRequest(), timeout=WAIT)] == ["1"]


def test_non_blocking_handler(impl):
    """What health checking's Watch is made of: a handler that is given a callback for replies."""
    pool = impl.pool(1)
    callbacks = queue.Queue()
    threads = []
    over = threading.Event()

    def handler(request, context, send):
        threads.append(threading.current_thread().name)
        context.add_callback(over.set)
        callbacks.put(send)

    handler.experimental_non_blocking = True
    handler.experimental_thread_pool = pool
    peer = impl.serve(server_stream=handler)
    # More of them than the server has threads.
    calls = [peer.stub.ServerStream(EchoRequest()) for _ in range(20)]
    senders = [callbacks.get(timeout=WAIT) for _ in calls]
    for number in range(3):
        for send in senders:
            send(EchoReply(index=number))
    for send in senders:
        send(None)
    for call in calls:
        assert [reply.index for reply in call] == [0, 1, 2]
        assert call.code() is grpc.StatusCode.OK
    # They all ran in the pool that the handler named.
    assert len(set(threads)) == 1
    assert over.wait(WAIT)


def test_non_blocking_handler_and_a_client_that_goes(impl):
    over = threading.Event()
    sent = threading.Event()

    def handler(request, context, send):
        context.add_callback(over.set)
        send(EchoReply(text="first"))
        sent.set()

    handler.experimental_non_blocking = True
    handler.experimental_thread_pool = impl.pool(1)
    peer = impl.serve(server_stream=handler)
    call = peer.stub.ServerStream(EchoRequest())
    assert next(call).text == "first"
    assert sent.wait(WAIT)
    call.cancel()
    assert over.wait(WAIT)


def test_reading_requests_after_their_end(impl):
    seen = []

    def handler(requests, context):
        seen.extend(request.text for request in requests)
        for _ in range(2):
            try:
                next(requests)
            except StopIteration:
                seen.append("end")
        return EchoReply()

    peer = impl.serve(client_stream=handler)
    peer.stub.ClientStream(iter([EchoRequest(text="a")]), timeout=WAIT)
    assert seen == ["a", "end", "end"]


def test_server_context_after_the_end(impl):
    contexts = []
    over = threading.Event()

    def handler(request, context):
        contexts.append(context)
        context.add_callback(over.set)
        yield EchoReply()

    peer = impl.serve(server_stream=handler)
    list(peer.stub.ServerStream(EchoRequest()))
    assert over.wait(WAIT)
    eventually(lambda: contexts[0].is_active() is False)
    assert contexts[0].add_callback(over.clear) is False


def test_non_blocking_bidi_handler(impl):
    """The same for a stream of requests: they come through the first argument as always."""

    def handler(requests, context, send):
        for request in requests:
            send(EchoReply(text=request.text))
        send(None)

    handler.experimental_non_blocking = True
    peer = impl.serve(bidi=handler)
    call = peer.stub.Bidi(iter([EchoRequest(text=str(i)) for i in range(5)]), timeout=WAIT)
    assert [reply.text for reply in call] == ["0", "1", "2", "3", "4"]
    assert call.code() is grpc.StatusCode.OK


class _Bare(grpc.RpcMethodHandler):
    """A handler with nothing but what it needs: grpc.RpcMethodHandler sets no attributes."""

    request_deserializer = None
    response_serializer = None

    def __init__(self, kind):
        streams = [side == "stream" for side in kind.split("_")]
        self.request_streaming, self.response_streaming = streams
        setattr(self, kind, self._stream if streams[1] else self._unary)

    def _unary(self, argument, context):
        return b"".join(argument) if self.request_streaming else argument

    def _stream(self, argument, context):
        yield self._unary(argument, context)


@pytest.mark.inline_ok
@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
def test_handler_with_only_its_own_function(impl, kind):
    class Handlers(grpc.GenericRpcHandler):
        def service(self, handler_call_details):
            return _Bare(kind)

    server = impl.server(handlers=[Handlers()])
    server.add_insecure_port(impl.address())
    server.start()
    sends, receives = kind.split("_")
    request = iter([b"a", b"b"]) if sends == "stream" else b"ab"
    reply = getattr(impl.channel(), kind)("/any/Method")(request, timeout=WAIT)
    assert (b"".join(reply) if receives == "stream" else reply) == b"ab"
