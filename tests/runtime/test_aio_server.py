"""asyncio: servers: starting and stopping, limits, and synchronous handlers."""

from __future__ import annotations

import asyncio
import gc
import threading

import grpc
import grpc.aio
import pytest
from apiharness import WAIT, code_and_details_aio, eventually_aio
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoReply, EchoRequest

pytestmark = pytest.mark.asyncio


def _stopped(impl):
    """The codes with which a call ends that a stopping server cancels; see test_sync_server."""
    unavailable = grpc.StatusCode.UNAVAILABLE
    return (unavailable,) if impl.zerohop else (unavailable, grpc.StatusCode.CANCELLED)


class Blocked:
    """A unary behaviour that waits for an event and tells how its call ended."""

    def __init__(self):
        self.gate = asyncio.Event()
        self.started = asyncio.Event()
        self.over = asyncio.Event()
        self.ended_with = None

    async def unary(self, request, context):
        self.started.set()
        try:
            await self.gate.wait()
        except BaseException as error:
            self.ended_with = type(error)
            raise
        finally:
            self.over.set()
        return EchoReply(text="served")


async def _refused(impl_aio):
    """Whether a new channel is refused."""
    async with impl_aio.module.insecure_channel(impl_aio.address()) as channel:
        try:
            await channel.unary_unary("/zhtest.Echo/Unary")(b"", timeout=WAIT)
        except grpc.aio.AioRpcError as error:
            # While the server of grpcio is going, CANCELLED is possible too.
            return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


async def _until_refused(impl_aio):
    async with asyncio.timeout(WAIT):
        while not await _refused(impl_aio):
            await asyncio.sleep(0.01)


async def test_types(impl_aio):
    peer = await impl_aio.serve()
    assert isinstance(peer.server, grpc.aio.Server)
    assert isinstance(peer.channel, grpc.aio.Channel)


async def test_start_twice(impl_aio):
    """Unlike the synchronous one, the asyncio server takes it while it runs."""
    peer = await impl_aio.serve()
    await peer.server.start()
    assert (await peer.stub.Unary(EchoRequest(text="x"))).text == "x"


async def test_not_started(impl_aio):
    server = impl_aio.server()
    server.add_insecure_port(impl_aio.address())
    await server.stop(None)
    assert await server.wait_for_termination(0.05) is True


async def test_port_that_cannot_be_bound(impl_aio):
    scheme = impl_aio.address().split(":")[0]
    with pytest.raises(RuntimeError):
        impl_aio.server().add_insecure_port(f"{scheme}:/no/such/directory/x.sock")


async def test_stop_ends_running_calls(impl_aio):
    blocked = Blocked()
    peer = await impl_aio.serve(unary=blocked.unary)
    call = peer.stub.Unary(EchoRequest())
    async with asyncio.timeout(WAIT):
        await blocked.started.wait()
        await peer.server.stop(None)
        code, details = await code_and_details_aio(call)
        assert code in _stopped(impl_aio)
        assert details
        await blocked.over.wait()
        assert blocked.ended_with is asyncio.CancelledError
        assert await peer.server.wait_for_termination() is False


async def test_stop_ends_running_streams(impl_aio):
    over = asyncio.Event()

    async def handler(request, context):
        try:
            yield EchoReply(text="first")
            await asyncio.sleep(2 * WAIT)
        finally:
            over.set()

    peer = await impl_aio.serve(server_stream=handler)
    call = peer.stub.ServerStream(EchoRequest())
    async with asyncio.timeout(WAIT):
        assert (await call.read()).text == "first"
        await peer.server.stop(None)
        assert (await code_and_details_aio(call.read()))[0] in _stopped(impl_aio)
        await over.wait()


async def test_stop_refuses_new_calls(impl_aio):
    peer = await impl_aio.serve()
    await peer.stub.Unary(EchoRequest())
    await peer.server.stop(None)
    for _ in range(3):
        code, _ = await code_and_details_aio(peer.stub.Unary(EchoRequest(), timeout=WAIT))
        assert code is grpc.StatusCode.UNAVAILABLE
    await _until_refused(impl_aio)


async def test_grace_lets_running_calls_finish(impl_aio):
    blocked = Blocked()
    peer = await impl_aio.serve(unary=blocked.unary)
    call = peer.stub.Unary(EchoRequest())
    async with asyncio.timeout(WAIT):
        await blocked.started.wait()
        stopping = asyncio.create_task(peer.server.stop(WAIT))
        await _until_refused(impl_aio)
        assert not stopping.done()
        assert await peer.server.wait_for_termination(0.05) is True
        blocked.gate.set()
        assert (await call).text == "served"
        await stopping
        assert await peer.server.wait_for_termination() is False
    assert blocked.ended_with is None


async def test_grace_runs_out(impl_aio):
    blocked = Blocked()
    peer = await impl_aio.serve(unary=blocked.unary)
    call = peer.stub.Unary(EchoRequest())
    async with asyncio.timeout(WAIT):
        await blocked.started.wait()
        await peer.server.stop(0.2)
        assert (await code_and_details_aio(call))[0] in _stopped(impl_aio)
        await blocked.over.wait()
    assert blocked.ended_with is asyncio.CancelledError


async def test_grace_is_cut_short(impl_aio):
    blocked = Blocked()
    peer = await impl_aio.serve(unary=blocked.unary)
    call = peer.stub.Unary(EchoRequest())
    async with asyncio.timeout(WAIT):
        await blocked.started.wait()
        first = asyncio.create_task(peer.server.stop(5 * WAIT))
        await _until_refused(impl_aio)
        await peer.server.stop(None)
        await first
        assert (await code_and_details_aio(call))[0] in _stopped(impl_aio)


@pytest.mark.parametrize("grace", [None, 0, WAIT])
async def test_stop_without_calls(impl_aio, grace):
    peer = await impl_aio.serve()
    await peer.stub.Unary(EchoRequest())
    async with asyncio.timeout(WAIT):
        await peer.server.stop(grace)
        await peer.server.stop(grace)
        await peer.server.stop(None)


async def test_stopped_server_does_not_start_again(impl_aio):
    peer = await impl_aio.serve()
    await peer.server.stop(None)
    with pytest.raises(grpc.aio.UsageError):
        await peer.server.start()


async def test_wait_for_termination(impl_aio):
    peer = await impl_aio.serve()
    assert await peer.server.wait_for_termination(0.05) is True
    waiters = [asyncio.create_task(peer.server.wait_for_termination()) for _ in range(3)]
    await asyncio.sleep(0)
    async with asyncio.timeout(WAIT):
        await peer.server.stop(None)
        assert await asyncio.gather(*waiters) == [False] * 3
    assert await peer.server.wait_for_termination(0.05) is False


async def test_stop_within_a_handler(impl_aio):
    peers = []
    stopping = []

    async def handler(request, context):
        stopping.append(asyncio.create_task(peers[0].server.stop(WAIT)))
        return EchoReply(text="going")

    peers.append(await impl_aio.serve(unary=handler))
    async with asyncio.timeout(WAIT):
        assert (await peers[0].stub.Unary(EchoRequest())).text == "going"
        await stopping[0]
        assert await peers[0].server.wait_for_termination() is False


async def test_dropped_server_stops(impl_aio):
    server = await impl_aio.start()
    channel = impl_aio.channel()
    await channel.unary_unary("/zhtest.Echo/Unary")(b"", timeout=WAIT)
    impl_aio.forget(server)
    del server
    gc.collect()
    await _until_refused(impl_aio)


async def test_server_comes_back(impl_aio):
    options = [
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 200),
    ]
    stub = echo_pb2_grpc.EchoStub(impl_aio.channel(options=options))
    for number in range(3):

        async def handler(request, context, number=number):
            return EchoReply(index=number)

        server = await impl_aio.start(unary=handler)
        reply = await stub.Unary(EchoRequest(), timeout=WAIT, wait_for_ready=True)
        assert reply.index == number
        await server.stop(None)


async def test_limit_of_concurrent_calls(impl_aio):
    blocked = Blocked()
    started = []

    async def handler(request, context):
        started.append(1)
        return await blocked.unary(request, context)

    peer = await impl_aio.serve(unary=handler, maximum_concurrent_rpcs=2)
    exceeded = (grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!")
    running = [peer.stub.Unary(EchoRequest()) for _ in range(2)]
    await eventually_aio(lambda: len(started) == 2)
    for _ in range(3):
        assert await code_and_details_aio(peer.stub.Unary(EchoRequest())) == exceeded
    call = peer.stub.ServerStream(EchoRequest())
    assert await code_and_details_aio(call.read()) == exceeded
    blocked.gate.set()
    assert [(await call).text for call in running] == ["served"] * 2
    async with asyncio.timeout(WAIT):
        while True:
            try:
                assert (await peer.stub.Unary(EchoRequest())).text == "served"
                break
            except grpc.aio.AioRpcError as error:
                # The server counts a call until its task has ended, a little after the reply.
                assert (error.code(), error.details()) == exceeded


@pytest.mark.parametrize("limit", [0, -1])
async def test_limits_that_make_no_sense(impl_aio, limit):
    with pytest.raises(ValueError, match="maximum_concurrent_rpcs"):
        impl_aio.server(maximum_concurrent_rpcs=limit)


def _sync_behaviours(names):
    """Handlers as for a synchronous server, which say in which thread they run."""

    def unary(request, context):
        names.append(threading.current_thread())
        return EchoReply(text=request.text)

    def server_stream(request, context):
        names.append(threading.current_thread())
        for index in range(request.count):
            yield EchoReply(index=index)

    def client_stream(request_iterator, context):
        names.append(threading.current_thread())
        return EchoReply(text=",".join(request.text for request in request_iterator))

    def bidi(request_iterator, context):
        names.append(threading.current_thread())
        for request in request_iterator:
            yield EchoReply(text=request.text)

    return {
        "unary": unary,
        "server_stream": server_stream,
        "client_stream": client_stream,
        "bidi": bidi,
    }


async def _requests(*texts):
    for text in texts:
        yield EchoRequest(text=text)


async def test_synchronous_handlers(impl_aio):
    """They run in the pool that is there for the migration, and the loop stays free."""
    names = []
    peer = await impl_aio.serve(migration_thread_pool=impl_aio.pool(4), **_sync_behaviours(names))
    async with asyncio.timeout(WAIT):
        assert (await peer.stub.Unary(EchoRequest(text="x"))).text == "x"
        call = peer.stub.ServerStream(EchoRequest(count=20))
        assert [reply.index async for reply in call] == list(range(20))
        assert (await peer.stub.ClientStream(_requests("a", "b"))).text == "a,b"
        assert [reply.text async for reply in peer.stub.Bidi(_requests("a", "b"))] == ["a", "b"]
    assert len(names) == 4
    assert threading.current_thread() not in names


async def test_synchronous_handlers_without_a_pool(impl_aio):
    """asyncio's default executor runs them."""
    names = []
    peer = await impl_aio.serve(unary=_sync_behaviours(names)["unary"])
    assert (await peer.stub.Unary(EchoRequest(text="x"))).text == "x"
    assert threading.current_thread() not in names


async def test_synchronous_handlers_may_block(impl_aio):
    """While some block, the loop goes on."""
    gate = impl_aio.gate()
    started = threading.Semaphore(0)

    def handler(request, context):
        started.release()
        gate.wait(WAIT)
        return EchoReply(text="late")

    peer = await impl_aio.serve(unary=handler, migration_thread_pool=impl_aio.pool(4))
    calls = [peer.stub.Unary(EchoRequest()) for _ in range(4)]
    await eventually_aio(lambda: started._value == 4)
    call = peer.stub.ServerStream(EchoRequest(count=3))
    assert [reply.index async for reply in call] == [0, 1, 2]
    gate.set()
    assert [(await call).text for call in calls] == ["late"] * 4


async def test_context_of_synchronous_handlers(impl_aio):
    """The context that such a handler gets has the synchronous methods."""
    seen = []

    def unary(request, context):
        seen.append(dict(context.invocation_metadata())["k"])
        seen.append(context.time_remaining() > 0)
        seen.append(bool(context.peer()))
        context.send_initial_metadata((("i", "1"),))
        context.set_trailing_metadata((("t", "1"),))
        context.set_code(grpc.StatusCode.ABORTED)
        context.set_details("d")
        return EchoReply()

    peer = await impl_aio.serve(unary=unary, migration_thread_pool=impl_aio.pool(2))
    call = peer.stub.Unary(EchoRequest(), metadata=(("k", "v"),), timeout=WAIT)
    assert await code_and_details_aio(call) == (grpc.StatusCode.ABORTED, "d")
    assert tuple(await call.initial_metadata()) == (("i", "1"),)
    assert tuple(await call.trailing_metadata()) == (("t", "1"),)
    assert seen == ["v", True, True]


async def test_synchronous_handlers_abort_and_raise(impl_aio):
    def unary(request, context):
        if request.code == 1:
            context.abort(grpc.StatusCode.NOT_FOUND, "nope")
        raise ValueError("wrong")

    def stream(request, context):
        # In grpcio, aborting while a reply is still on its way loses the status.
        if request.code == 0:
            yield EchoReply(text="first")
        unary(request, context)

    peer = await impl_aio.serve(
        unary=unary, server_stream=stream, migration_thread_pool=impl_aio.pool(2)
    )
    aborted = (grpc.StatusCode.NOT_FOUND, "nope")
    raised = (grpc.StatusCode.UNKNOWN, "Unexpected <class 'ValueError'>: wrong")
    assert await code_and_details_aio(peer.stub.Unary(EchoRequest(code=1))) == aborted
    assert await code_and_details_aio(peer.stub.Unary(EchoRequest(code=0))) == raised
    call = peer.stub.ServerStream(EchoRequest(code=1))
    assert await code_and_details_aio(call.read()) == aborted
    call = peer.stub.ServerStream(EchoRequest(code=0))
    assert (await call.read()).text == "first"
    assert await code_and_details_aio(call.read()) == raised


async def test_callbacks_of_synchronous_handlers(impl_aio):
    called = threading.Event()

    def unary(request, context):
        context.add_callback(called.set)
        return EchoReply()

    peer = await impl_aio.serve(unary=unary, migration_thread_pool=impl_aio.pool(2))
    await peer.stub.Unary(EchoRequest())
    await eventually_aio(called.is_set)


async def test_generic_handlers(impl_aio):
    async def unary(request, context):
        return request + b"!"

    async def stream(request, context):
        yield request
        yield b""
        yield b"end"

    server = impl_aio.server(
        handlers=[
            grpc.method_handlers_generic_handler(
                "t", {"uu": grpc.unary_unary_rpc_method_handler(unary)}
            )
        ]
    )
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "s", {"us": grpc.unary_stream_rpc_method_handler(stream)}
            ),
        )
    )
    server.add_insecure_port(impl_aio.address())
    await server.start()
    channel = impl_aio.channel()
    assert await channel.unary_unary("/t/uu")(b"x") == b"x!"
    assert [reply async for reply in channel.unary_stream("/s/us")(b"x")] == [b"x", b"", b"end"]


async def test_compression_is_accepted(impl_aio):
    async def handler(request, context):
        context.set_compression(grpc.Compression.Gzip)
        context.disable_next_message_compression()
        return EchoReply(payload=request.payload)

    peer = await impl_aio.serve(unary=handler, compression=grpc.Compression.Gzip)
    reply = await peer.stub.Unary(
        EchoRequest(payload=b"x" * 5000), compression=grpc.Compression.Deflate
    )
    assert reply.payload == b"x" * 5000


async def test_compression_is_set_too_late(impl_aio):
    async def handler(request, context):
        yield EchoReply()
        try:
            context.set_compression(grpc.Compression.Gzip)
        except RuntimeError as error:
            yield EchoReply(text=str(error))

    peer = await impl_aio.serve(server_stream=handler)
    replies = [reply.text async for reply in peer.stub.ServerStream(EchoRequest(), timeout=WAIT)]
    assert len(replies) == 2
    assert "before sending initial metadata" in replies[1]


async def test_methods_registered_too_late(impl_aio, caplog):
    """Generic handlers may come after the start, registered methods may not."""

    async def late(request, context):
        return b"late"

    handler = grpc.unary_unary_rpc_method_handler(late)
    server = await impl_aio.start()
    server.add_registered_method_handlers("late", {"Registered": handler})
    assert "Cannot register method handlers" in caplog.text
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("late", {"Generic": handler}),)
    )
    channel = impl_aio.channel()
    code, _ = await code_and_details_aio(channel.unary_unary("/late/Registered")(b""))
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert await channel.unary_unary("/late/Generic")(b"") == b"late"
