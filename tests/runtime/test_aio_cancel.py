"""asyncio: cancellation and deadlines."""

from __future__ import annotations

import asyncio
import contextlib

import grpc
import grpc.aio
import pytest
from apiharness import WAIT, code_and_details_aio, eventually_aio
from zhtest.types_pb2 import EchoReply, EchoRequest

pytestmark = pytest.mark.asyncio

CANCELLED = (grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
EXCEEDED = (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
# grpcio words it so when the deadline ends a stream that has begun.
STREAM_EXCEEDED = (EXCEEDED, (EXCEEDED[0], "Stream removed (Deadline Exceeded)"))


class Blocked:
    """Behaviours that block until they are cancelled."""

    def __init__(self):
        self.started = asyncio.Event()
        self.over = asyncio.Event()
        self.ended_with = None
        self.context = None

    async def _block(self, context):
        self.context = context
        self.started.set()
        try:
            await asyncio.sleep(2 * WAIT)
        except BaseException as error:
            self.ended_with = type(error)
            raise
        finally:
            self.over.set()

    async def unary(self, request, context):
        await self._block(context)
        return EchoReply()

    async def stream(self, request, context):
        yield EchoReply(text="first")
        await self._block(context)


async def test_cancel(impl_aio):
    blocked = Blocked()
    peer = await impl_aio.serve(unary=blocked.unary)
    call = peer.stub.Unary(EchoRequest())
    async with asyncio.timeout(WAIT):
        await blocked.started.wait()
        assert call.cancel() is True
        assert call.cancel() is False
        assert call.cancelled() is True
        assert call.done() is True
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await call.code(), await call.details()) == CANCELLED
        assert tuple(await call.trailing_metadata()) == ()
        # The handler's task is cancelled.
        await blocked.over.wait()
    assert blocked.ended_with is asyncio.CancelledError


async def test_cancel_at_once(impl_aio):
    peer = await impl_aio.serve()
    for _ in range(50):
        call = peer.stub.Unary(EchoRequest())
        assert call.cancel() is True
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled() is True
    assert (await peer.stub.Unary(EchoRequest(text="x"))).text == "x"


async def test_cancelling_the_task_that_waits(impl_aio):
    blocked = Blocked()
    peer = await impl_aio.serve(unary=blocked.unary)
    calls = []

    async def work():
        calls.append(peer.stub.Unary(EchoRequest()))
        return await calls[0]

    task = asyncio.create_task(work())
    async with asyncio.timeout(WAIT):
        await blocked.started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await blocked.over.wait()
        assert calls[0].cancelled() is True
        assert await calls[0].code() is grpc.StatusCode.CANCELLED
    assert blocked.ended_with is asyncio.CancelledError


async def test_wait_for(impl_aio):
    """asyncio's own timeout ends the call like any cancellation."""
    blocked = Blocked()
    peer = await impl_aio.serve(unary=blocked.unary)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(peer.stub.Unary(EchoRequest()), 0.3)
    async with asyncio.timeout(WAIT):
        await blocked.over.wait()


async def test_cancelling_the_task_that_iterates(impl_aio):
    blocked = Blocked()
    peer = await impl_aio.serve(server_stream=blocked.stream)
    received = []
    calls = []

    async def work():
        calls.append(peer.stub.ServerStream(EchoRequest()))
        async for reply in calls[0]:
            received.append(reply.text)

    task = asyncio.create_task(work())
    async with asyncio.timeout(WAIT):
        await blocked.started.wait()
        await eventually_aio(lambda: received)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await blocked.over.wait()
    assert received == ["first"]
    assert calls[0].cancelled() is True


async def test_cancelling_a_read(impl_aio):
    blocked = Blocked()
    peer = await impl_aio.serve(server_stream=blocked.stream)
    call = peer.stub.ServerStream(EchoRequest())
    assert (await call.read()).text == "first"
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(call.read(), 0.2)
    # As in grpcio, a read that was cancelled has cancelled the call.
    assert call.cancelled() is True
    async with asyncio.timeout(WAIT):
        await blocked.over.wait()


async def test_cancel_a_stream(impl_aio):
    blocked = Blocked()
    peer = await impl_aio.serve(server_stream=blocked.stream)
    call = peer.stub.ServerStream(EchoRequest())
    assert (await call.read()).text == "first"
    assert call.cancel() is True
    with pytest.raises(asyncio.CancelledError):
        await call.read()
    with pytest.raises(asyncio.CancelledError):
        await call.read()
    assert (await call.code(), await call.details()) == CANCELLED
    async with asyncio.timeout(WAIT):
        await blocked.over.wait()
    call = peer.stub.ServerStream(EchoRequest())
    with pytest.raises(asyncio.CancelledError):
        async for _ in call:
            call.cancel()


async def test_cancel_while_reading(impl_aio):
    blocked = Blocked()
    peer = await impl_aio.serve(server_stream=blocked.stream)
    call = peer.stub.ServerStream(EchoRequest())

    async def read():
        with pytest.raises(asyncio.CancelledError):
            async for _ in call:
                pass
        return "cancelled"

    task = asyncio.create_task(read())
    async with asyncio.timeout(WAIT):
        await blocked.started.wait()
        call.cancel()
        assert await task == "cancelled"


async def test_cancel_a_client_stream(impl_aio):
    received, over = asyncio.Event(), asyncio.Event()

    async def handler(request_iterator, context):
        try:
            async for _ in request_iterator:
                received.set()
        finally:
            over.set()
        return EchoReply()

    peer = await impl_aio.serve(client_stream=handler)
    call = peer.stub.ClientStream()
    async with asyncio.timeout(WAIT):
        await call.write(EchoRequest())
        await received.wait()
        assert call.cancel() is True
        with pytest.raises(asyncio.CancelledError):
            await call
        await over.wait()
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(EchoRequest())


async def test_cancel_a_bidi_stream(impl_aio):
    over = asyncio.Event()

    async def handler(request_iterator, context):
        try:
            async for request in request_iterator:
                yield EchoReply(text=request.text)
        finally:
            over.set()

    peer = await impl_aio.serve(bidi=handler)
    call = peer.stub.Bidi()
    async with asyncio.timeout(WAIT):
        await call.write(EchoRequest(text="x"))
        assert (await call.read()).text == "x"
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.read()
        await over.wait()


async def test_handler_cleans_up_with_awaits(impl_aio):
    """A cancelled handler may still await in its finally clause."""
    started, cleaned = asyncio.Event(), asyncio.Event()

    async def handler(request, context):
        try:
            started.set()
            await asyncio.sleep(2 * WAIT)
        finally:
            for _ in range(3):
                await asyncio.sleep(0)
            cleaned.set()
        return EchoReply()

    peer = await impl_aio.serve(unary=handler)
    call = peer.stub.Unary(EchoRequest())
    async with asyncio.timeout(WAIT):
        await started.wait()
        call.cancel()
        await cleaned.wait()
        assert (await peer.stub.ServerStream(EchoRequest(count=1)).read()).index == 0


async def test_done_callbacks_of_the_context(impl_aio):
    seen = []

    async def handler(request, context):
        context.add_done_callback(lambda context: seen.append(context))
        assert context.done() is False
        assert context.cancelled() is False
        seen.append(context)
        return EchoReply()

    peer = await impl_aio.serve(unary=handler)
    await peer.stub.Unary(EchoRequest())
    await eventually_aio(lambda: len(seen) == 2)
    assert seen[0] is seen[1]
    assert seen[0].done() is True
    assert seen[0].cancelled() is False


async def test_done_callbacks_after_a_cancellation(impl_aio):
    called = asyncio.Event()
    started = asyncio.Event()

    async def handler(request, context):
        context.add_done_callback(lambda context: called.set())
        started.set()
        await asyncio.sleep(2 * WAIT)
        return EchoReply()

    peer = await impl_aio.serve(unary=handler)
    call = peer.stub.Unary(EchoRequest())
    async with asyncio.timeout(WAIT):
        await started.wait()
        call.cancel()
        await called.wait()


async def test_cancelled_is_a_code_of_the_context(impl_aio):
    """context.cancelled() says whether the status is CANCELLED."""
    contexts = []

    async def handler(request, context):
        contexts.append(context)
        await context.abort(grpc.StatusCode.CANCELLED, "mine")

    peer = await impl_aio.serve(unary=handler)
    assert await code_and_details_aio(peer.stub.Unary(EchoRequest())) == (
        grpc.StatusCode.CANCELLED,
        "mine",
    )
    assert contexts[0].cancelled() is True
    assert contexts[0].done() is True


async def test_deadline(impl_aio):
    blocked = Blocked()
    peer = await impl_aio.serve(unary=blocked.unary, server_stream=blocked.stream)
    assert await code_and_details_aio(peer.stub.Unary(EchoRequest(), timeout=0.3)) == EXCEEDED
    async with asyncio.timeout(WAIT):
        await blocked.over.wait()
    assert blocked.ended_with is asyncio.CancelledError
    call = peer.stub.ServerStream(EchoRequest(), timeout=0.5)
    assert (await call.read()).text == "first"
    assert await code_and_details_aio(call.read()) in STREAM_EXCEEDED
    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert call.cancelled() is False
    assert call.done() is True


async def test_deadline_of_streams_of_requests(impl_aio):
    blocked = Blocked()
    peer = await impl_aio.serve(client_stream=blocked.unary)
    call = peer.stub.ClientStream(timeout=0.3)
    await call.write(EchoRequest())
    assert await code_and_details_aio(call) in STREAM_EXCEEDED
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(EchoRequest())


async def test_deadline_of_a_call_that_nobody_awaits(impl_aio):
    blocked = Blocked()
    peer = await impl_aio.serve(unary=blocked.unary)
    call = peer.stub.Unary(EchoRequest(), timeout=0.2)
    await eventually_aio(call.done)
    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("timeout", [-1, -1000, 0])
async def test_no_time_left(impl_aio, timeout):
    """With 0, grpcio may still make the call."""
    peer = await impl_aio.serve()
    try:
        await peer.stub.Unary(EchoRequest(), timeout=timeout)
        assert timeout == 0
    except grpc.aio.AioRpcError as error:
        assert (error.code(), error.details()) == EXCEEDED
    assert (await peer.stub.Unary(EchoRequest(text="x"), timeout=WAIT)).text == "x"


async def test_time_remaining(impl_aio):
    seen = []

    async def handler(request, context):
        seen.append(context.time_remaining())
        return EchoReply()

    peer = await impl_aio.serve(unary=handler)
    call = peer.stub.Unary(EchoRequest(), timeout=100)
    assert 0 < call.time_remaining() <= 100
    await call
    call = peer.stub.Unary(EchoRequest())
    assert call.time_remaining() is None
    await call
    # A little over is the rounding of the header in grpcio.
    assert 100 - WAIT < seen[0] <= 101
    assert seen[1] is None


async def test_deadline_and_many_others(impl_aio):
    """Calls with a deadline and calls without, all at once: each ends as it should."""
    blocked = Blocked()

    async def handler(request, context):
        if request.code:
            await blocked.unary(request, context)
        return EchoReply(text=request.text)

    peer = await impl_aio.serve(unary=handler)
    stuck = [peer.stub.Unary(EchoRequest(code=1), timeout=0.3) for _ in range(20)]
    fine = [peer.stub.Unary(EchoRequest(text=str(n)), timeout=WAIT) for n in range(100)]
    assert [reply.text for reply in await asyncio.gather(*fine)] == [str(n) for n in range(100)]
    for call in stuck:
        assert await code_and_details_aio(call) == EXCEEDED


async def test_cancelling_many(impl_aio):
    over = []

    async def handler(request, context):
        if request.code:
            try:
                await asyncio.sleep(2 * WAIT)
            finally:
                over.append(1)
        return EchoReply(text="fine")

    peer = await impl_aio.serve(unary=handler)
    calls = [peer.stub.Unary(EchoRequest(code=1)) for _ in range(100)]
    assert (await peer.stub.Unary(EchoRequest())).text == "fine"
    for call in calls:
        call.cancel()
    for call in calls:
        with contextlib.suppress(asyncio.CancelledError):
            await call
    assert all(call.cancelled() for call in calls)
    assert (await peer.stub.Unary(EchoRequest())).text == "fine"


_KINDS = {
    "unary": lambda stub: stub.Unary(EchoRequest(text="x")),
    "server_stream": lambda stub: stub.ServerStream(EchoRequest(count=1)),
    "client_stream": lambda stub: stub.ClientStream(),
    "bidi": lambda stub: stub.Bidi(),
}


@pytest.mark.parametrize("kind", _KINDS)
async def test_cancel_before_anything_has_run(impl_aio, kind):
    """Nothing has run yet between the call and its end, and whoever asks sees it."""
    peer = await impl_aio.serve()
    call = _KINDS[kind](peer.stub)
    assert call.cancelled() is False
    assert call.done() is False
    assert call.cancel() is True
    assert call.cancel() is False
    assert call.cancelled() is True
    assert call.done() is True
    seen = []
    call.add_done_callback(seen.append)
    async with asyncio.timeout(WAIT):
        if kind in ("unary", "client_stream"):
            with pytest.raises(asyncio.CancelledError):
                await call
        if kind in ("client_stream", "bidi"):
            with pytest.raises(asyncio.InvalidStateError):
                await call.write(EchoRequest())
            await call.done_writing()
        assert (await call.code(), await call.details()) == CANCELLED
    await eventually_aio(lambda: seen == [call])


@pytest.mark.parametrize(
    "question",
    ["code", "details", "initial_metadata", "trailing_metadata", "debug_error_string"],
)
async def test_giving_up_a_question_does_not_cancel_the_call(impl_aio, question):
    peer = await impl_aio.serve()
    call = peer.stub.Unary(EchoRequest(text="x"))
    asking = asyncio.create_task(getattr(call, question)())
    await asyncio.sleep(0)
    asking.cancel()
    async with asyncio.timeout(WAIT):
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert (await call).text == "x"
        assert await call.code() is grpc.StatusCode.OK
