"""asyncio: interceptors of the server."""

from __future__ import annotations

import asyncio
import contextvars

import grpc
import grpc.aio
import pytest
from apiharness import WAIT, code_and_details_aio
from zhtest.types_pb2 import EchoReply, EchoRequest

pytestmark = pytest.mark.asyncio

variable = contextvars.ContextVar("variable", default="default")


async def _requests(*texts):
    for text in texts:
        yield EchoRequest(text=text)


class ServerNote(grpc.aio.ServerInterceptor):
    def __init__(self, name, log):
        self.name = name
        self.log = log

    async def intercept_service(self, continuation, handler_call_details):
        metadata = dict(handler_call_details.invocation_metadata)
        self.log.append((self.name, handler_call_details.method, metadata.get("k")))
        handler = await continuation(handler_call_details)
        self.log.append((self.name, "has", handler is not None))
        return handler


async def test_server_interceptors(impl_aio):
    log = []
    peer = await impl_aio.serve(interceptors=(ServerNote("a", log), ServerNote("b", log)))
    await peer.stub.Unary(EchoRequest(), metadata=(("k", "v"),))
    assert log == [
        ("a", "/zhtest.Echo/Unary", "v"),
        ("b", "/zhtest.Echo/Unary", "v"),
        ("b", "has", True),
        ("a", "has", True),
    ]
    del log[:]
    assert [reply async for reply in peer.stub.ServerStream(EchoRequest())] == []
    await peer.stub.ClientStream(_requests())
    assert [reply async for reply in peer.stub.Bidi(_requests())] == []
    assert [entry[1].rsplit("/")[-1] for entry in log[::4]] == [
        "ServerStream",
        "ClientStream",
        "Bidi",
    ]
    del log[:]
    code, _ = await code_and_details_aio(peer.channel.unary_unary("/zhtest.Echo/No")(b""))
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert log[0][1] == "/zhtest.Echo/No"
    assert log[-1] == ("a", "has", False)


async def test_server_interceptor_refuses(impl_aio):
    reached = []

    class Check(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation, handler_call_details):
            if ("token", "secret") in tuple(handler_call_details.invocation_metadata):
                return await continuation(handler_call_details)
            return grpc.unary_unary_rpc_method_handler(self.refuse)

        async def refuse(self, request, context):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")

    async def handler(request, context):
        reached.append(1)
        return EchoReply(text="inside")

    peer = await impl_aio.serve(unary=handler, interceptors=[Check()])
    assert await code_and_details_aio(peer.stub.Unary(EchoRequest())) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "no token",
    )
    assert reached == []
    reply = await peer.stub.Unary(EchoRequest(), metadata=(("token", "secret"),))
    assert reply.text == "inside"


async def test_server_interceptor_wraps_the_handler(impl_aio):
    class Wrap(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation, handler_call_details):
            handler = await continuation(handler_call_details)
            if handler.response_streaming:
                return handler

            async def wrapped(request, context):
                reply = await handler.unary_unary(request, context)
                return EchoReply(text=reply.text + "!")

            return grpc.unary_unary_rpc_method_handler(
                wrapped, handler.request_deserializer, handler.response_serializer
            )

    peer = await impl_aio.serve(interceptors=[Wrap()])
    assert (await peer.stub.Unary(EchoRequest(text="x"))).text == "x!"
    call = peer.stub.ServerStream(EchoRequest(count=2))
    assert [reply.index async for reply in call] == [0, 1]


async def test_server_interceptor_and_handler_share_a_context(impl_aio):
    seen = []

    class Set(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation, handler_call_details):
            variable.set(dict(handler_call_details.invocation_metadata)["k"])
            return await continuation(handler_call_details)

    async def handler(request, context):
        await asyncio.sleep(0)
        seen.append(variable.get())
        return EchoReply()

    peer = await impl_aio.serve(unary=handler, interceptors=[Set()])
    for text in "ab":
        await peer.stub.Unary(EchoRequest(), metadata=(("k", text),))
    assert seen == ["a", "b"]


async def test_server_interceptor_raises(impl_aio):
    class Bad(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation, handler_call_details):
            if ("bad", "1") in tuple(handler_call_details.invocation_metadata):
                raise ValueError("interceptor gone wrong")
            return await continuation(handler_call_details)

    peer = await impl_aio.serve(interceptors=[Bad()])
    code, details = await code_and_details_aio(
        peer.stub.Unary(EchoRequest(), metadata=(("bad", "1"),), timeout=WAIT)
    )
    assert code is grpc.StatusCode.UNKNOWN
    assert details
    assert (await peer.stub.Unary(EchoRequest(text="x"))).text == "x"
