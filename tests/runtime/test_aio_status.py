"""asyncio: statuses, exceptions and metadata."""

from __future__ import annotations

import asyncio
import pickle
import re

import grpc
import grpc.aio
import pytest
from apiharness import WAIT, code_and_details_aio
from google.rpc import code_pb2, status_pb2
from grpc_status import rpc_status
from zhtest.types_pb2 import EchoReply, EchoRequest

pytestmark = pytest.mark.asyncio

FAILURES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


async def _failing(impl_aio, behaviour):
    peer = await impl_aio.serve(unary=behaviour)
    return await code_and_details_aio(peer.stub.Unary(EchoRequest(text="x"), timeout=WAIT))


@pytest.mark.parametrize("code", FAILURES, ids=lambda code: code.name)
async def test_abort(impl_aio, code):
    async def handler(request, context):
        await context.abort(code, f"because of {code.name}")

    assert await _failing(impl_aio, handler) == (code, f"because of {code.name}")


async def test_set_code(impl_aio):
    async def handler(request, context):
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("d\u00e9tails")
        return EchoReply()

    assert await _failing(impl_aio, handler) == (grpc.StatusCode.NOT_FOUND, "d\u00e9tails")


async def test_what_the_context_tells(impl_aio):
    seen = []

    async def handler(request, context):
        seen.append((context.code(), context.details(), tuple(context.trailing_metadata())))
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("d")
        context.set_trailing_metadata((("t", "1"),))
        seen.append((context.code(), context.details(), tuple(context.trailing_metadata())))
        return EchoReply()

    await _failing(impl_aio, handler)
    assert not seen[0][0]
    assert seen[0][1:] == ("", ())
    assert seen[1] == (grpc.StatusCode.NOT_FOUND, "d", (("t", "1"),))


async def test_abort_with_metadata(impl_aio):
    async def handler(request, context):
        await context.abort(grpc.StatusCode.ABORTED, "d", trailing_metadata=(("t", "1"),))

    peer = await impl_aio.serve(unary=handler)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await peer.stub.Unary(EchoRequest())
    assert tuple(raised.value.trailing_metadata()) == (("t", "1"),)


async def test_abort_takes_what_was_set_before(impl_aio):
    async def handler(request, context):
        context.set_details("set before")
        context.set_trailing_metadata((("t", "1"),))
        await context.abort(grpc.StatusCode.ABORTED)

    peer = await impl_aio.serve(unary=handler)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await peer.stub.Unary(EchoRequest())
    assert raised.value.details() == "set before"
    assert tuple(raised.value.trailing_metadata()) == (("t", "1"),)


async def test_abort_raises(impl_aio):
    seen = []

    async def handler(request, context):
        try:
            await context.abort(grpc.StatusCode.ABORTED, "d")
        except grpc.aio.AbortError:
            seen.append("abort")
        try:
            await context.abort(grpc.StatusCode.INTERNAL, "twice")
        except grpc.aio.UsageError:
            seen.append("usage")
        return EchoReply(text="after all")

    assert await _failing(impl_aio, handler) == (grpc.StatusCode.ABORTED, "d")
    assert seen == ["abort", "usage"]


async def test_abort_with_ok(impl_aio):
    """grpcio answers nothing at all, so that the deadline ends it; anything but OK will do."""

    async def handler(request, context):
        await context.abort(grpc.StatusCode.OK, "d")

    peer = await impl_aio.serve(unary=handler)
    code, _ = await code_and_details_aio(peer.stub.Unary(EchoRequest(), timeout=0.5))
    assert code is not grpc.StatusCode.OK


async def test_abort_with_status(impl_aio):
    rich = status_pb2.Status(code=code_pb2.FAILED_PRECONDITION, message="r\u00efch")

    async def handler(request, context):
        await context.abort_with_status(rpc_status.to_status(rich))

    peer = await impl_aio.serve(unary=handler)
    call = peer.stub.Unary(EchoRequest())
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert raised.value.details() == "r\u00efch"
    from grpc_status._async import from_call

    assert await from_call(call) == rich


async def test_handler_raises(impl_aio, caplog):
    async def handler(request, context):
        raise ValueError("wrong")

    assert await _failing(impl_aio, handler) == (
        grpc.StatusCode.UNKNOWN,
        "Unexpected <class 'ValueError'>: wrong",
    )
    message = "Unexpected [ValueError] raised by servicer method [/zhtest.Echo/Unary]"
    logged = [record for record in caplog.records if record.getMessage() == message]
    assert len(logged) == 1
    assert isinstance(logged[0].exc_info[1], ValueError)


async def test_handler_raises_after_set_code(impl_aio):
    async def handler(request, context):
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("set before")
        raise ValueError("wrong")

    # The code stays, the details are those of the exception.
    assert await _failing(impl_aio, handler) == (
        grpc.StatusCode.NOT_FOUND,
        "Unexpected <class 'ValueError'>: wrong",
    )


async def test_server_goes_on_after_failures(impl_aio):
    async def handler(request, context):
        if request.code:
            raise ValueError("wrong")
        return EchoReply(text="fine")

    peer = await impl_aio.serve(unary=handler)
    for _ in range(20):
        code, _ = await code_and_details_aio(peer.stub.Unary(EchoRequest(code=1)))
        assert code is grpc.StatusCode.UNKNOWN
        assert (await peer.stub.Unary(EchoRequest())).text == "fine"


async def test_stream_handler_raises(impl_aio):
    async def handler(request, context):
        yield EchoReply(text="1")
        raise ValueError("midway")

    peer = await impl_aio.serve(server_stream=handler)
    call = peer.stub.ServerStream(EchoRequest())
    received = []
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for reply in call:
            received.append(reply.text)
    assert received == ["1"]
    assert raised.value.code() is grpc.StatusCode.UNKNOWN
    assert raised.value.details() == "Unexpected <class 'ValueError'>: midway"
    assert await call.code() is grpc.StatusCode.UNKNOWN


async def test_stream_handler_aborts(impl_aio):
    async def handler(request, context):
        yield EchoReply(text="1")
        await context.abort(grpc.StatusCode.NOT_FOUND, "no more")

    peer = await impl_aio.serve(server_stream=handler)
    call = peer.stub.ServerStream(EchoRequest())
    assert (await call.read()).text == "1"
    answer = (grpc.StatusCode.NOT_FOUND, "no more")
    assert await code_and_details_aio(call.read()) == answer
    assert await code_and_details_aio(call.read()) == answer


async def test_unimplemented(impl_aio):
    peer = await impl_aio.serve()
    answer = (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
    for _ in range(2):
        call = peer.channel.unary_unary("/zhtest.Echo/Nope")(b"")
        assert await code_and_details_aio(call) == answer
        call = peer.channel.unary_stream("/zhtest.Echo/Nope")(b"")
        assert await code_and_details_aio(call.read()) == answer
        call = peer.channel.stream_unary("/zhtest.Echo/Nope")(iter([b""]))
        assert await code_and_details_aio(call) == answer


async def test_handler_returns_none(impl_aio):
    async def handler(request, context):
        return None

    code, details = await _failing(impl_aio, handler)
    assert code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
    assert details


async def test_serializers_of_the_server_raise(impl_aio):
    def broken(data):
        raise ValueError("broken")

    async def handler(request, context):
        return request

    server = impl_aio.server(
        handlers=[
            grpc.method_handlers_generic_handler(
                "t",
                {
                    "in": grpc.unary_unary_rpc_method_handler(handler, broken),
                    "out": grpc.unary_unary_rpc_method_handler(handler, response_serializer=broken),
                    "ok": grpc.unary_unary_rpc_method_handler(handler),
                },
            )
        ]
    )
    server.add_insecure_port(impl_aio.address())
    await server.start()
    channel = impl_aio.channel()
    for name in ("in", "out"):
        # grpcio's asyncio server treats them as exceptions of the handler; the synchronous one
        # says INTERNAL.
        code, details = await code_and_details_aio(
            channel.unary_unary(f"/t/{name}")(b"", timeout=WAIT)
        )
        assert code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
        assert details
    assert await channel.unary_unary("/t/ok")(b"x") == b"x"


async def test_serializers_of_the_client_raise(impl_aio):
    """grpcio's asyncio client goes on with an empty request, or answers None: an INTERNAL, as the
    synchronous one has it, is accepted too."""

    def broken(data):
        raise ValueError("broken")

    peer = await impl_aio.serve()
    for arguments in ((broken, None), (None, broken)):
        call = peer.channel.unary_unary("/zhtest.Echo/Unary", *arguments)
        try:
            reply = await call(b"", timeout=WAIT)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.INTERNAL
        else:
            assert not reply
    assert (await peer.stub.Unary(EchoRequest(text="x"))).text == "x"


async def test_text_of_an_error(impl_aio):
    async def handler(request, context):
        await context.abort(grpc.StatusCode.NOT_FOUND, "nope")

    peer = await impl_aio.serve(unary=handler)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await peer.stub.Unary(EchoRequest())
    pattern = (
        r"\A<AioRpcError of RPC that terminated with:\n"
        r"\tstatus = StatusCode\.NOT_FOUND\n"
        r'\tdetails = "nope"\n'
        r'\tdebug_error_string = ".*"\n'
        r">\Z"
    )
    assert re.match(pattern, str(raised.value))
    assert repr(raised.value) == str(raised.value)
    assert isinstance(raised.value, grpc.RpcError)
    assert "NOT_FOUND" in raised.value.debug_error_string()


async def test_error_can_be_pickled(impl_aio):
    async def handler(request, context):
        await context.abort(grpc.StatusCode.NOT_FOUND, "nope", (("t", "1"),))

    peer = await impl_aio.serve(unary=handler)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await peer.stub.Unary(EchoRequest())
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (copy.code(), copy.details()) == (grpc.StatusCode.NOT_FOUND, "nope")
    assert str(copy) == str(raised.value)


class Recorder:
    """A unary handler that keeps the metadata of the last call."""

    def __init__(self):
        self.all = None

    async def handle(self, request, context):
        self.all = context.invocation_metadata()
        return EchoReply()

    @property
    def own(self):
        return [(key, value) for key, value in self.all if key != "user-agent"]


@pytest.mark.parametrize("container", [tuple, list, lambda pairs: grpc.aio.Metadata(*pairs)])
async def test_metadata_containers(impl_aio, container):
    recorder = Recorder()
    peer = await impl_aio.serve(unary=recorder.handle)
    pairs = [("a", "1"), ("b", "2"), ("b", "3"), ("c-bin", b"\x00\xff"), ("e", "")]
    await peer.stub.Unary(EchoRequest(), metadata=container(pairs))
    assert recorder.own == pairs
    assert recorder.all[0].key
    await peer.stub.Unary(EchoRequest(), metadata=container([]))
    assert recorder.own == []
    assert [key for key, _ in recorder.all] == ["user-agent"]


async def test_metadata_groups_repeated_keys(impl_aio):
    """grpc.aio.Metadata keeps the order of the values of one key, not across keys."""
    recorder = Recorder()
    peer = await impl_aio.serve(unary=recorder.handle)
    await peer.stub.Unary(EchoRequest(), metadata=(("k", "1"), ("j", "2"), ("k", "3")))
    assert [value for key, value in recorder.own if key == "k"] == ["1", "3"]
    assert sorted(recorder.own) == [("j", "2"), ("k", "1"), ("k", "3")]


@pytest.mark.parametrize("pair", [("Upper", "v"), ("k", "caf\u00e9"), ("k", "a\nb")], ids=repr)
async def test_metadata_refused(impl_aio, pair):
    """grpcio raises its InternalError; an error of the call with that code is as good."""
    recorder = Recorder()
    peer = await impl_aio.serve(unary=recorder.handle)
    try:
        await peer.stub.Unary(EchoRequest(), metadata=(pair,))
    except grpc.aio.InternalError:
        pass
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.INTERNAL
    else:
        raise AssertionError("not refused")
    assert recorder.all is None
    await peer.stub.Unary(EchoRequest(), metadata=(("k", "v"),))
    assert recorder.own == [("k", "v")]


@pytest.mark.parametrize("kind", ["unary_stream", "stream_stream"])
async def test_metadata_refused_before_there_is_a_server(impl_aio, kind):
    make = getattr(impl_aio.channel(), kind)("/zhtest.Echo/Any")
    arguments = (b"",) if kind == "unary_stream" else ()
    call = make(*arguments, metadata=(("Upper", "v"),), wait_for_ready=True)
    async with asyncio.timeout(WAIT):
        assert await call.code() is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("metadata", [(("k-bin", "text"),), (("k", 1),)], ids=repr)
async def test_not_metadata_at_all(impl_aio, metadata):
    peer = await impl_aio.serve()
    with pytest.raises(TypeError):
        await peer.stub.Unary(EchoRequest(), metadata=metadata)
    await peer.stub.Unary(EchoRequest())


async def test_metadata_size_limit(impl_aio):
    recorder = Recorder()
    peer = await impl_aio.serve(unary=recorder.handle)
    code, details = await code_and_details_aio(
        peer.stub.Unary(EchoRequest(), metadata=(("k", "x" * 20_000),))
    )
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "metadata size exceeds hard limit" in details
    assert recorder.all is None
    await peer.stub.Unary(EchoRequest(), metadata=(("k", "x" * 7000),))
    assert len(recorder.own[0][1]) == 7000


async def test_initial_and_trailing_metadata(impl_aio):
    initial = (("i", "1"), ("i", "2"), ("i-bin", b"\x00"))
    trailing = (("t", "1"), ("t", "2"), ("t-bin", b"\xff"))
    seen = []

    async def handler(request, context):
        await context.send_initial_metadata(initial)
        try:
            await context.send_initial_metadata(initial)
        except grpc.aio.UsageError as error:
            seen.append(str(error))
        context.set_trailing_metadata(trailing)
        return EchoReply()

    peer = await impl_aio.serve(unary=handler)
    call = peer.stub.Unary(EchoRequest())
    assert tuple(await call.initial_metadata()) == initial
    assert tuple(await call.trailing_metadata()) == trailing
    assert isinstance(await call.initial_metadata(), grpc.aio.Metadata)
    assert (await call.initial_metadata())["i"] == "1"
    assert (await call.initial_metadata()).get_all("i") == ["1", "2"]
    await call
    assert seen == ["Send initial metadata failed: already sent"]


async def test_initial_metadata_arrives_early(impl_aio):
    gate = asyncio.Event()

    async def unary(request, context):
        await context.send_initial_metadata((("early", "1"),))
        await gate.wait()
        return EchoReply()

    async def stream(request, context):
        await unary(request, context)
        yield EchoReply()

    peer = await impl_aio.serve(unary=unary, server_stream=stream)
    async with asyncio.timeout(WAIT):
        call = peer.stub.ServerStream(EchoRequest())
        assert tuple(await call.initial_metadata()) == (("early", "1"),)
        gate.set()
        assert len([reply async for reply in call]) == 1


async def test_metadata_of_an_error(impl_aio):
    async def handler(request, context):
        await context.send_initial_metadata((("i", "1"),))
        context.set_trailing_metadata((("t", "1"),))
        await context.abort(grpc.StatusCode.DATA_LOSS, "gone")

    peer = await impl_aio.serve(unary=handler)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await peer.stub.Unary(EchoRequest())
    assert tuple(raised.value.initial_metadata()) == (("i", "1"),)
    assert tuple(raised.value.trailing_metadata()) == (("t", "1"),)


async def test_peer_and_auth_context(impl_aio):
    seen = {}

    async def handler(request, context):
        seen["peer"] = context.peer()
        seen["identities"] = context.peer_identities()
        seen["key"] = context.peer_identity_key()
        seen["auth"] = context.auth_context()
        return EchoReply()

    peer = await impl_aio.serve(unary=handler)
    await peer.stub.Unary(EchoRequest())
    assert isinstance(seen["peer"], str)
    assert seen["peer"]
    assert all(isinstance(key, str) for key in seen["auth"])


async def test_call_credentials_are_refused(impl_aio):
    peer = await impl_aio.serve()
    credentials = grpc.access_token_call_credentials("secret")
    with pytest.raises(grpc.aio.UsageError, match="secure channels"):
        await peer.stub.Unary(EchoRequest(), credentials=credentials)
    with pytest.raises(grpc.aio.UsageError, match="secure channels"):
        peer.stub.ServerStream(EchoRequest(), credentials=credentials)
