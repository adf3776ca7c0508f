"""Packages that were written for gRPC, used as they are: health checking, reflection, status."""

from __future__ import annotations

import asyncio
import queue
import threading

import grpc
import grpc.aio
import pytest
from apiharness import WAIT, code_and_details, eventually, eventually_aio, shared_memory_used
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status
from zhtest import echo_pb2
from zhtest.types_pb2 import EchoReply, EchoRequest

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def _request(service=""):
    return health_pb2.HealthCheckRequest(service=service)


def _health(impl, servicer, workers=10):
    server = impl.server(workers=workers)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(impl.address())
    server.start()
    return server, health_pb2_grpc.HealthStub(impl.channel())


@pytest.mark.inline_ok
def test_health_check(impl):
    servicer = health.HealthServicer()
    _, stub = _health(impl, servicer)
    with shared_memory_used(impl, 5):
        assert stub.Check(_request()).status == SERVING
        servicer.set("a", NOT_SERVING)
        assert stub.Check(_request("a")).status == NOT_SERVING
        servicer.set("a", SERVING)
        assert stub.Check(_request("a")).status == SERVING
        code, _ = code_and_details(lambda: stub.Check(_request("unknown")))
        assert code is grpc.StatusCode.NOT_FOUND
        servicer.enter_graceful_shutdown()
        assert stub.Check(_request("a")).status == NOT_SERVING


@pytest.mark.inline_ok
@pytest.mark.parametrize(
    "kind", ["non-blocking", "non-blocking with a pool", "blocking"], ids=lambda kind: kind
)
def test_health_watch(impl, kind):
    servicer = health.HealthServicer(
        experimental_non_blocking=kind.startswith("non-blocking"),
        experimental_thread_pool=impl.pool(1) if kind.endswith("pool") else None,
    )
    _, stub = _health(impl, servicer)
    with shared_memory_used(impl):
        watch = stub.Watch(_request("a"))
        assert next(watch).status == UNKNOWN
        for status in (SERVING, NOT_SERVING, SERVING):
            servicer.set("a", status)
            assert next(watch).status == status
        servicer.enter_graceful_shutdown()
        assert next(watch).status == NOT_SERVING
        watch.cancel()
    # The servicer is told that the watcher has gone.
    eventually(lambda: not servicer._send_response_callbacks["a"])


def test_health_watch_with_many_watchers(impl):
    """More of them than the server has threads, and calls are served beside them."""
    servicer = health.HealthServicer(
        experimental_non_blocking=True, experimental_thread_pool=impl.pool(2)
    )
    _, stub = _health(impl, servicer, workers=2)
    watches = [stub.Watch(_request("a")) for _ in range(20)]
    assert [next(watch).status for watch in watches] == [UNKNOWN] * 20
    assert stub.Check(_request(), timeout=WAIT).status == SERVING
    servicer.set("a", SERVING)
    assert [next(watch).status for watch in watches] == [SERVING] * 20
    for watch in watches:
        watch.cancel()
    eventually(lambda: not servicer._send_response_callbacks["a"])


def test_health_watch_in_a_thread(impl):
    """As in grpcio's example: a thread puts what it sees into a queue."""
    servicer = health.HealthServicer(
        experimental_non_blocking=True, experimental_thread_pool=impl.pool(1)
    )
    server, stub = _health(impl, servicer)
    seen = queue.Queue()
    watch = stub.Watch(_request("a"))

    def consume():
        try:
            for response in watch:
                seen.put(response.status)
        except grpc.RpcError as error:
            seen.put(error.code())

    thread = threading.Thread(target=consume)
    thread.start()
    assert seen.get(timeout=WAIT) == UNKNOWN
    servicer.set("a", SERVING)
    assert seen.get(timeout=WAIT) == SERVING
    server.stop(0)
    assert seen.get(timeout=WAIT) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    thread.join(WAIT)


@pytest.mark.asyncio
async def test_health_asyncio(impl_aio):
    servicer = health.aio.HealthServicer()
    server = impl_aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(impl_aio.address())
    await server.start()
    stub = health_pb2_grpc.HealthStub(impl_aio.channel())
    with shared_memory_used(impl_aio, 3):
        async with asyncio.timeout(WAIT):
            assert (await stub.Check(_request())).status == SERVING
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.Check(_request("unknown"))
            assert raised.value.code() is grpc.StatusCode.NOT_FOUND
            watch = stub.Watch(_request("a"))
            assert (await watch.read()).status == UNKNOWN
            for status in (SERVING, NOT_SERVING, SERVING):
                await servicer.set("a", status)
                assert (await watch.read()).status == status
            await servicer.enter_graceful_shutdown()
            assert (await watch.read()).status == NOT_SERVING
            watch.cancel()
            await eventually_aio(lambda: "a" not in servicer._watcher_count_by_service)


SERVICES = ["zhtest.Echo", "zhtest.Second", reflection.SERVICE_NAME]


@pytest.mark.inline_ok
def test_reflection(impl):
    server = impl.server()
    reflection.enable_server_reflection(SERVICES, server)
    server.add_insecure_port(impl.address())
    server.start()
    stub = reflection_pb2_grpc.ServerReflectionStub(impl.channel())
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="zhtest.Echo"),
        reflection_pb2.ServerReflectionRequest(file_by_filename="zhtest/types.proto"),
        reflection_pb2.ServerReflectionRequest(file_by_filename="no/such.proto"),
    ]
    with shared_memory_used(impl):
        responses = list(stub.ServerReflectionInfo(iter(requests), timeout=WAIT))
    _check_reflection(responses)


def _check_reflection(responses):
    listed = {service.name for service in responses[0].list_services_response.service}
    assert listed == set(SERVICES)
    names = []
    for response in responses[1:3]:
        for data in response.file_descriptor_response.file_descriptor_proto:
            names.append(descriptor_pb2.FileDescriptorProto.FromString(data).name)
    assert set(names) == {"zhtest/echo.proto", "zhtest/types.proto"}
    assert responses[3].error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.asyncio
async def test_reflection_asyncio(impl_aio):
    server = impl_aio.server()
    reflection.enable_server_reflection(SERVICES, server)
    server.add_insecure_port(impl_aio.address())
    await server.start()
    stub = reflection_pb2_grpc.ServerReflectionStub(impl_aio.channel())
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="zhtest.Echo"),
        reflection_pb2.ServerReflectionRequest(file_by_filename="zhtest/types.proto"),
        reflection_pb2.ServerReflectionRequest(file_by_filename="no/such.proto"),
    ]
    with shared_memory_used(impl_aio):
        call = stub.ServerReflectionInfo(iter(requests), timeout=WAIT)
        responses = [response async for response in call]
    _check_reflection(responses)


def test_reflection_descriptor_database(impl):
    """A client that knows nothing of the service calls it by what reflection tells."""
    peer = impl.serve()
    other = impl.server()
    reflection.enable_server_reflection(SERVICES, other)
    other.add_insecure_port(impl.address("reflection"))
    other.start()
    with shared_memory_used(impl, 3):
        database = ProtoReflectionDescriptorDatabase(impl.channel(impl.address("reflection")))
        assert set(database.get_services()) == set(SERVICES)
        pool = descriptor_pool.DescriptorPool(database)
        service = pool.FindServiceByName("zhtest.Echo")
        method = service.FindMethodByName("Unary")
        assert method.input_type.full_name == "zhtest.EchoRequest"
        request_class = message_factory.GetMessageClass(method.input_type)
        reply_class = message_factory.GetMessageClass(method.output_type)
        call = peer.channel.unary_unary(
            f"/{service.full_name}/{method.name}",
            request_class.SerializeToString,
            reply_class.FromString,
        )
        assert call(request_class(text="x"), timeout=WAIT).text == "x"
    assert set(pool.FindFileByName("zhtest/echo.proto").services_by_name) == set(
        echo_pb2.DESCRIPTOR.services_by_name
    )


@pytest.mark.inline_ok
def test_rich_status(impl):
    """grpcio-status, as in its example: details that the client unpacks."""
    detail = any_pb2.Any()
    violation = error_details_pb2.QuotaFailure.Violation(subject="x", description="too many")
    detail.Pack(error_details_pb2.QuotaFailure(violations=[violation]))
    rich = status_pb2.Status(
        code=code_pb2.RESOURCE_EXHAUSTED, message="limit reached", details=[detail]
    )

    def handler(request, context):
        if request.code:
            context.abort_with_status(rpc_status.to_status(rich))
        return EchoReply(text="fine")

    peer = impl.serve(unary=handler)
    with shared_memory_used(impl, 2):
        assert peer.stub.Unary(EchoRequest()).text == "fine"
        with pytest.raises(grpc.RpcError) as raised:
            peer.stub.Unary(EchoRequest(code=1))
    status = rpc_status.from_call(raised.value)
    assert status == rich
    unpacked = error_details_pb2.QuotaFailure()
    assert status.details[0].Unpack(unpacked)
    assert unpacked.violations[0].description == "too many"


@pytest.mark.inline_ok
def test_large_rich_status(impl):
    """Details of several kilobytes, still under the limit of metadata."""
    rich = status_pb2.Status(code=code_pb2.ABORTED, message="m")
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.DebugInfo(detail="x" * 4000))
    rich.details.append(detail)

    def handler(request, context):
        context.abort_with_status(rpc_status.to_status(rich))

    peer = impl.serve(unary=handler)
    with pytest.raises(grpc.RpcError) as raised:
        peer.stub.Unary(EchoRequest())
    assert rpc_status.from_call(raised.value) == rich
