"""asyncio: channels: connectivity, waiting for a server, closing."""

from __future__ import annotations

import asyncio
import gc

import grpc
import grpc.aio
import pytest
from apiharness import WAIT, code_and_details_aio
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoReply, EchoRequest

pytestmark = pytest.mark.asyncio

READY = grpc.ChannelConnectivity.READY
IDLE = grpc.ChannelConnectivity.IDLE
SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN
TRANSIENT_FAILURE = grpc.ChannelConnectivity.TRANSIENT_FAILURE
# See test_sync_channel.py.
EAGER = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
]


async def _until(channel, wanted, try_to_connect=False):
    """Follows the channel's states until the wanted one."""
    async with asyncio.timeout(WAIT):
        state = channel.get_state(try_to_connect=try_to_connect)
        while state is not wanted:
            await channel.wait_for_state_change(state)
            state = channel.get_state(try_to_connect=try_to_connect)


async def test_nobody_listens(impl_aio):
    stub = echo_pb2_grpc.EchoStub(impl_aio.channel())
    for _ in range(3):
        code, details = await code_and_details_aio(stub.Unary(EchoRequest(), timeout=WAIT))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert details
    call = stub.ServerStream(EchoRequest(), timeout=WAIT)
    assert (await code_and_details_aio(call.read()))[0] is grpc.StatusCode.UNAVAILABLE
    call = stub.ClientStream(iter([EchoRequest()]), timeout=WAIT)
    assert (await code_and_details_aio(call))[0] is grpc.StatusCode.UNAVAILABLE


async def test_states(impl_aio):
    server = await impl_aio.start()
    channel = impl_aio.channel(options=EAGER)
    assert channel.get_state() is IDLE
    await _until(channel, READY, try_to_connect=True)
    assert await channel.unary_unary("/zhtest.Echo/Unary")(b"") == b""
    assert channel.get_state() is READY
    watch = asyncio.create_task(channel.wait_for_state_change(READY))
    await server.stop(None)
    async with asyncio.timeout(WAIT):
        await watch
    assert channel.get_state() is not READY


async def test_channel_ready(impl_aio):
    channel = impl_aio.channel(options=EAGER)
    ready = asyncio.create_task(channel.channel_ready())
    await _until(channel, TRANSIENT_FAILURE)
    assert not ready.done()
    await impl_aio.start()
    async with asyncio.timeout(WAIT):
        await ready
        assert channel.get_state() is READY
        await channel.channel_ready()


async def test_waiting_for_a_state_can_be_cancelled(impl_aio):
    channel = impl_aio.channel()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(channel.wait_for_state_change(IDLE), 0.1)
    assert channel.get_state() is IDLE


async def test_wait_for_ready(impl_aio):
    stub = echo_pb2_grpc.EchoStub(impl_aio.channel(options=EAGER))
    code, _ = await code_and_details_aio(
        stub.Unary(EchoRequest(), timeout=0.3, wait_for_ready=True)
    )
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    call = stub.Unary(EchoRequest(text="x"), timeout=WAIT, wait_for_ready=True)
    stream = stub.ServerStream(EchoRequest(count=2), timeout=WAIT, wait_for_ready=True)
    await asyncio.sleep(0.1)
    assert not call.done()
    await impl_aio.start()
    assert (await call).text == "x"
    assert [reply.index async for reply in stream] == [0, 1]


async def test_channel_finds_a_server_that_starts_later(impl_aio):
    stub = echo_pb2_grpc.EchoStub(impl_aio.channel(options=EAGER))
    code, _ = await code_and_details_aio(stub.Unary(EchoRequest()))
    assert code is grpc.StatusCode.UNAVAILABLE
    await impl_aio.start()
    async with asyncio.timeout(WAIT):
        while True:
            try:
                assert (await stub.Unary(EchoRequest(text="x"))).text == "x"
                break
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                await asyncio.sleep(0.01)


async def test_close_ends_running_calls(impl_aio):
    started, over = asyncio.Event(), asyncio.Event()

    async def handler(request, context):
        started.set()
        try:
            await asyncio.sleep(2 * WAIT)
        finally:
            over.set()
        return EchoReply()

    peer = await impl_aio.serve(unary=handler)
    call = peer.stub.Unary(EchoRequest())
    async with asyncio.timeout(WAIT):
        await started.wait()
        await peer.channel.close()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled() is True
        assert await call.code() is grpc.StatusCode.CANCELLED
        await over.wait()
    assert peer.channel.get_state() is SHUTDOWN


async def test_close_with_grace(impl_aio):
    started, gate = asyncio.Event(), asyncio.Event()

    async def handler(request, context):
        started.set()
        await gate.wait()
        return EchoReply(text="served")

    peer = await impl_aio.serve(unary=handler)
    call = peer.stub.Unary(EchoRequest())
    async with asyncio.timeout(WAIT):
        await started.wait()
        closing = asyncio.create_task(peer.channel.close(WAIT))
        await asyncio.sleep(0)
        gate.set()
        assert (await call).text == "served"
        await closing
        with pytest.raises(grpc.aio.UsageError):
            await peer.stub.Unary(EchoRequest())


async def test_grace_of_closing_runs_out(impl_aio):
    started = asyncio.Event()

    async def handler(request, context):
        started.set()
        await asyncio.sleep(2 * WAIT)
        return EchoReply()

    peer = await impl_aio.serve(unary=handler)
    call = peer.stub.Unary(EchoRequest())
    async with asyncio.timeout(WAIT):
        await started.wait()
        await peer.channel.close(0.1)
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_close_with_grace_right_after_the_call(impl_aio):
    peer = await impl_aio.serve()
    call = peer.stub.Unary(EchoRequest(text="x"))
    async with asyncio.timeout(WAIT):
        await peer.channel.close(WAIT)
        assert (await call).text == "x"


async def test_close_right_after_the_calls(impl_aio):
    """Their end is there when close() returns."""
    peer = await impl_aio.serve()
    stub = peer.stub
    calls = [
        stub.Unary(EchoRequest()),
        stub.ServerStream(EchoRequest(count=1)),
        stub.ClientStream(),
        stub.Bidi(),
    ]
    async with asyncio.timeout(WAIT):
        await peer.channel.close()
        for call in calls:
            assert call.cancelled() is True
            assert call.done() is True
            assert await call.code() is grpc.StatusCode.CANCELLED


async def test_waiting_on_a_channel_that_is_closed(impl_aio):
    peer = await impl_aio.serve()
    waiting = asyncio.create_task(peer.channel.wait_for_state_change(IDLE))
    await asyncio.sleep(0)
    async with asyncio.timeout(WAIT):
        await peer.channel.close()
        await waiting
        for state in (IDLE, SHUTDOWN):
            with pytest.raises(grpc.aio.UsageError, match="Channel is closed"):
                await peer.channel.wait_for_state_change(state)
        with pytest.raises(grpc.aio.UsageError, match="Channel is closed"):
            await peer.channel.channel_ready()


async def test_calls_on_a_closed_channel(impl_aio):
    peer = await impl_aio.serve()
    await peer.stub.Unary(EchoRequest())
    await peer.channel.close()
    for call in (
        lambda: peer.stub.Unary(EchoRequest()),
        lambda: peer.stub.ServerStream(EchoRequest()),
        lambda: peer.stub.ClientStream(),
        lambda: peer.stub.Bidi(),
    ):
        with pytest.raises(grpc.aio.UsageError, match="Channel is closed"):
            call()
    await peer.channel.close()


async def test_context_manager(impl_aio):
    await impl_aio.start()
    async with impl_aio.module.insecure_channel(impl_aio.address()) as channel:
        stub = echo_pb2_grpc.EchoStub(channel)
        assert (await stub.Unary(EchoRequest(text="x"))).text == "x"
    with pytest.raises(grpc.aio.UsageError):
        await stub.Unary(EchoRequest())


async def test_results_outlive_the_channel(impl_aio):
    peer = await impl_aio.serve()
    payload = b"x" * 100_000
    call = peer.stub.Unary(EchoRequest(payload=payload))
    reply = await call
    await peer.channel.close()
    await peer.server.stop(None)
    gc.collect()
    assert reply.payload == payload
    assert (await call).payload == payload
    assert await call.code() is grpc.StatusCode.OK


async def test_closing_one_channel_leaves_others(impl_aio):
    peer = await impl_aio.serve()
    other = echo_pb2_grpc.EchoStub(impl_aio.channel())
    await other.Unary(EchoRequest())
    await peer.stub.Unary(EchoRequest())
    await peer.channel.close()
    assert (await other.Unary(EchoRequest(text="y"))).text == "y"


async def test_many_channels_dropped_without_close(impl_aio):
    await impl_aio.start()
    for number in range(100):
        channel = impl_aio.module.insecure_channel(impl_aio.address())
        stub = echo_pb2_grpc.EchoStub(channel)
        assert (await stub.Unary(EchoRequest(text=str(number)), timeout=WAIT)).text == str(number)
        del channel, stub
    gc.collect()
    assert await impl_aio.channel().unary_unary("/zhtest.Echo/Unary")(b"") == b""


async def test_types_of_multicallables(impl_aio):
    channel = impl_aio.channel()
    assert isinstance(channel.unary_unary("/a/b"), grpc.aio.UnaryUnaryMultiCallable)
    assert isinstance(channel.unary_stream("/a/b"), grpc.aio.UnaryStreamMultiCallable)
    assert isinstance(channel.stream_unary("/a/b"), grpc.aio.StreamUnaryMultiCallable)
    assert isinstance(channel.stream_stream("/a/b"), grpc.aio.StreamStreamMultiCallable)
