"""Statuses: how a handler ends a call, what the client sees, and what is logged."""

from __future__ import annotations

import contextlib
import re

import grpc
import pytest
from apiharness import WAIT, code_and_details
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from zhtest.types_pb2 import EchoReply, EchoRequest

pytestmark = pytest.mark.inline_ok

FAILURES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


def _failing(impl, behaviour):
    """The status of a unary call to that handler."""
    peer = impl.serve(unary=behaviour)
    return code_and_details(lambda: peer.stub.Unary(EchoRequest(text="x"), timeout=WAIT))


def _exceptions(caplog, message):
    """The log records with that message that carry an exception, whoever logged them."""
    return [
        record.exc_info[1]
        for record in caplog.records
        if record.getMessage() == message and record.exc_info
    ]


@pytest.mark.parametrize("code", FAILURES, ids=lambda code: code.name)
def test_abort(impl, code):
    def handler(request, context):
        context.abort(code, f"because of {code.name}")

    assert _failing(impl, handler) == (code, f"because of {code.name}")


@pytest.mark.parametrize("code", FAILURES, ids=lambda code: code.name)
def test_set_code(impl, code):
    def handler(request, context):
        context.set_code(code)
        context.set_details(f"because of {code.name}")
        return EchoReply(text="not delivered")

    assert _failing(impl, handler) == (code, f"because of {code.name}")


def test_set_code_without_details(impl):
    def handler(request, context):
        context.set_code(grpc.StatusCode.NOT_FOUND)
        return EchoReply()

    assert _failing(impl, handler) == (grpc.StatusCode.NOT_FOUND, "")


def test_set_code_ok(impl):
    def handler(request, context):
        context.set_code(grpc.StatusCode.OK)
        context.set_details("for nobody")
        return EchoReply(text="x")

    peer = impl.serve(unary=handler)
    reply, call = peer.stub.Unary.with_call(EchoRequest())
    assert reply.text == "x"
    assert call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("code", [99, 5, 0, "NOT_FOUND"])
def test_set_code_that_is_none(impl, code):
    """What is no StatusCode becomes UNKNOWN, plain integers included."""

    def handler(request, context):
        context.set_code(code)
        context.set_details("d")
        return EchoReply()

    assert _failing(impl, handler) == (grpc.StatusCode.UNKNOWN, "d")


@pytest.mark.parametrize("code", [99, 5, 0, None])
def test_abort_with_a_code_that_is_none(impl, code):
    def handler(request, context):
        context.abort(code, "d")

    assert _failing(impl, handler) == (grpc.StatusCode.UNKNOWN, "d")


def test_what_the_context_tells(impl):
    seen = []

    def handler(request, context):
        seen.append((context.code(), context.details()))
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("d")
        seen.append((context.code(), context.details()))
        return EchoReply()

    _failing(impl, handler)
    assert seen == [(None, None), (grpc.StatusCode.NOT_FOUND, b"d")]


@pytest.mark.parametrize(
    "details",
    ["", "plain", "d\u00e9tails \u20ac \U0001f600", 'a\nb\r\t"q" %41 \\', "x" * 5000],
    ids=["empty", "plain", "unicode", "special", "long"],
)
def test_details(impl, details):
    def handler(request, context):
        context.abort(grpc.StatusCode.ABORTED, details)

    assert _failing(impl, handler) == (grpc.StatusCode.ABORTED, details)


def test_abort_raises_a_plain_exception_in_the_handler(impl):
    seen = []

    def handler(request, context):
        try:
            context.abort(grpc.StatusCode.ABORTED, "d")
        except Exception as error:
            seen.append(type(error))
            raise
        finally:
            seen.append("finally")

    assert _failing(impl, handler) == (grpc.StatusCode.ABORTED, "d")
    assert seen == [Exception, "finally"]


def test_swallowed_abort_holds(impl):
    def handler(request, context):
        with contextlib.suppress(Exception):
            context.abort(grpc.StatusCode.ABORTED, "d")
        return EchoReply(text="after all")

    assert _failing(impl, handler) == (grpc.StatusCode.ABORTED, "d")


def test_abort_replaced_by_another_exception_holds(impl):
    def handler(request, context):
        try:
            context.abort(grpc.StatusCode.ABORTED, "d")
        except Exception as error:
            raise ValueError("another") from error

    assert _failing(impl, handler) == (grpc.StatusCode.ABORTED, "d")


def test_abort_is_not_logged_as_an_error_of_the_handler(impl, caplog):
    def handler(request, context):
        context.abort(grpc.StatusCode.ABORTED, "d")

    _failing(impl, handler)
    assert "Exception calling application" not in caplog.text


def test_abort_with_ok(impl, caplog):
    def handler(request, context):
        context.abort(grpc.StatusCode.OK, "d")

    assert _failing(impl, handler) == (grpc.StatusCode.UNKNOWN, "")
    assert "abort() called with StatusCode.OK; returning UNKNOWN" in caplog.text


def test_abort_with_trailing_metadata(impl):
    def handler(request, context):
        context.set_trailing_metadata((("t", "1"),))
        context.abort(grpc.StatusCode.ABORTED, "d")

    peer = impl.serve(unary=handler)
    with pytest.raises(grpc.RpcError) as raised:
        peer.stub.Unary(EchoRequest())
    assert tuple(raised.value.trailing_metadata()) == (("t", "1"),)


def _rich():
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.RetryInfo(retry_delay={"seconds": 7}))
    return status_pb2.Status(
        code=code_pb2.FAILED_PRECONDITION, message="r\u00efch", details=[detail]
    )


def test_abort_with_status(impl):
    """grpcio-status: the rich status travels in trailing metadata and is found at the client."""

    def handler(request, context):
        context.abort_with_status(rpc_status.to_status(_rich()))

    peer = impl.serve(unary=handler)
    with pytest.raises(grpc.RpcError) as raised:
        peer.stub.Unary(EchoRequest())
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert raised.value.details() == "r\u00efch"
    assert rpc_status.from_call(raised.value) == _rich()
    keys = [datum.key for datum in raised.value.trailing_metadata()]
    assert keys == ["grpc-status-details-bin"]


def test_rich_status_of_a_future_and_of_a_stream(impl):
    def handler(request, context):
        context.abort_with_status(rpc_status.to_status(_rich()))

    peer = impl.serve(unary=handler, server_stream=handler)
    future = peer.stub.Unary.future(EchoRequest())
    assert rpc_status.from_call(future.exception(timeout=WAIT)) == _rich()
    call = peer.stub.ServerStream(EchoRequest())
    with pytest.raises(grpc.RpcError):
        next(call)
    assert rpc_status.from_call(call) == _rich()


def test_no_rich_status(impl):
    peer = impl.serve()
    _, call = peer.stub.Unary.with_call(EchoRequest())
    assert rpc_status.from_call(call) is None


def test_handler_raises(impl, caplog):
    def handler(request, context):
        raise ValueError("h\u00e9 wrong")

    details = "Exception calling application: h\u00e9 wrong"
    assert _failing(impl, handler) == (grpc.StatusCode.UNKNOWN, details)
    logged = _exceptions(caplog, details)
    assert len(logged) == 1
    assert isinstance(logged[0], ValueError)


def test_handler_raises_after_set_code(impl):
    """The code and details that were set win over those of the exception."""

    def handler(request, context):
        context.set_code(grpc.StatusCode.NOT_FOUND)
        if request.text == "x":
            context.set_details("set before")
        raise ValueError("wrong")

    assert _failing(impl, handler) == (grpc.StatusCode.NOT_FOUND, "set before")


def test_handler_raises_something_unprintable(impl):
    class Unprintable(Exception):
        def __str__(self):
            raise ValueError("no text")

    def handler(request, context):
        raise Unprintable

    assert _failing(impl, handler) == (
        grpc.StatusCode.UNKNOWN,
        "Calling application raised unprintable Exception!",
    )


def test_handler_raises_an_rpc_error(impl):
    """An RpcError of a call that the handler made is an exception like any other."""
    back = impl.serve("back", unary=lambda request, context: context.abort(*_NOT_FOUND))

    def handler(request, context):
        return back.stub.Unary(request)

    code, details = _failing(impl, handler)
    assert code is grpc.StatusCode.UNKNOWN
    assert details.startswith("Exception calling application: <")
    assert "inner" in details


_NOT_FOUND = (grpc.StatusCode.NOT_FOUND, "inner")


def test_server_goes_on_after_failures(impl):
    def handler(request, context):
        if request.code:
            raise ValueError("wrong")
        return EchoReply(text="fine")

    peer = impl.serve(unary=handler)
    for _ in range(20):
        code, _ = code_and_details(lambda: peer.stub.Unary(EchoRequest(code=1)))
        assert code is grpc.StatusCode.UNKNOWN
        assert peer.stub.Unary(EchoRequest()).text == "fine"


def test_stream_handler_raises(impl, caplog):
    def handler(request, context):
        yield EchoReply(text="1")
        raise ValueError("midway")

    peer = impl.serve(server_stream=handler)
    call = peer.stub.ServerStream(EchoRequest())
    assert next(call).text == "1"
    details = "Exception iterating responses: midway"
    assert code_and_details(lambda: next(call)) == (grpc.StatusCode.UNKNOWN, details)
    assert [type(error) for error in _exceptions(caplog, details)] == [ValueError]
    # Asking again gives the same answer.
    assert code_and_details(lambda: next(call)) == (grpc.StatusCode.UNKNOWN, details)


def test_stream_handler_raises_before_it_iterates(impl):
    """A handler that is no generator raises when called, not when iterated."""

    def handler(request, context):
        raise ValueError("at once")

    peer = impl.serve(server_stream=handler)
    assert code_and_details(lambda: next(peer.stub.ServerStream(EchoRequest()))) == (
        grpc.StatusCode.UNKNOWN,
        "Exception calling application: at once",
    )


def test_stream_handler_aborts(impl):
    def handler(request, context):
        yield EchoReply(text="1")
        context.abort(grpc.StatusCode.NOT_FOUND, "no more")

    peer = impl.serve(server_stream=handler)
    call = peer.stub.ServerStream(EchoRequest())
    assert next(call).text == "1"
    assert code_and_details(lambda: next(call)) == (grpc.StatusCode.NOT_FOUND, "no more")
    assert call.code() is grpc.StatusCode.NOT_FOUND
    assert call.details() == "no more"


def test_stream_handler_sets_a_code(impl):
    def handler(request, context):
        yield EchoReply(text="1")
        context.set_code(grpc.StatusCode.OUT_OF_RANGE)
        context.set_details("the end")

    peer = impl.serve(server_stream=handler)
    call = peer.stub.ServerStream(EchoRequest())
    assert next(call).text == "1"
    assert code_and_details(lambda: next(call)) == (grpc.StatusCode.OUT_OF_RANGE, "the end")


def test_stream_handler_without_an_iterator(impl):
    peer = impl.serve(server_stream=lambda request, context: None)
    code, details = code_and_details(lambda: next(peer.stub.ServerStream(EchoRequest())))
    assert code is grpc.StatusCode.UNKNOWN
    assert details.startswith("Exception iterating responses: 'NoneType' object is not")


def test_unimplemented(impl):
    peer = impl.serve()
    answer = (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
    channel = peer.channel
    assert code_and_details(lambda: channel.unary_unary("/zhtest.Echo/Nope")(b"")) == answer
    assert code_and_details(lambda: channel.unary_unary("/none.Such/Unary")(b"")) == answer
    assert code_and_details(lambda: next(channel.unary_stream("/zhtest.Echo/No")(b""))) == answer
    assert code_and_details(lambda: channel.stream_unary("/zhtest.Echo/No")(iter([]))) == answer
    call = channel.stream_stream("/zhtest.Echo/No")(iter([b"a", b"b"]))
    assert code_and_details(lambda: next(call)) == answer
    # The next call of the same method gets the same answer, and known methods are served.
    assert code_and_details(lambda: channel.unary_unary("/zhtest.Echo/Nope")(b"")) == answer
    assert peer.stub.Unary(EchoRequest(text="x")).text == "x"


ERROR = re.compile(
    r"\A<(_InactiveRpcError|_MultiThreadedRendezvous) of RPC that terminated with:\n"
    r"\tstatus = StatusCode\.NOT_FOUND\n"
    r'\tdetails = "nope"\n'
    r'\tdebug_error_string = ".*"\n'
    r">\Z"
)


def test_text_of_an_error(impl):
    def handler(request, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "nope")

    peer = impl.serve(unary=handler, server_stream=handler)
    with pytest.raises(grpc.RpcError) as raised:
        peer.stub.Unary(EchoRequest())
    for text in (str(raised.value), repr(raised.value)):
        assert ERROR.match(text)
        assert text.startswith("<_InactiveRpcError of RPC")
    future = peer.stub.Unary.future(EchoRequest())
    future.exception(timeout=WAIT)
    assert ERROR.match(str(future))
    call = peer.stub.ServerStream(EchoRequest())
    with pytest.raises(grpc.RpcError) as raised:
        next(call)
    assert ERROR.match(str(raised.value))
    assert "NOT_FOUND" in raised.value.debug_error_string()


def test_text_of_a_call(impl):
    gate = impl.gate()

    def handler(request, context):
        gate.wait(WAIT)
        yield EchoReply()

    peer = impl.serve(server_stream=handler)
    _, call = peer.stub.Unary.with_call(EchoRequest())
    ended = r'\A<\w+ of RPC that terminated with:\n\tstatus = StatusCode\.OK\n\tdetails = ""\n>\Z'
    assert re.match(ended, str(call))
    assert call.debug_error_string() == ""
    call = peer.stub.ServerStream(EchoRequest())
    assert re.match(r"\A<\w+ object>\Z", repr(call))
    gate.set()
    list(call)
    assert re.match(ended, repr(call))
    assert call.debug_error_string() == ""


def test_interfaces_of_an_error(impl):
    def handler(request, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "nope")

    peer = impl.serve(unary=handler)
    with pytest.raises(grpc.RpcError) as raised:
        peer.stub.Unary(EchoRequest())
    error = raised.value
    assert isinstance(error, grpc.RpcError)
    assert isinstance(error, grpc.Call)
    assert isinstance(error, grpc.Future)
    assert error.done() is True
    assert error.running() is False
    assert error.cancelled() is False
    assert error.cancel() is False
    assert error.exception() is error
    with pytest.raises(grpc.RpcError):
        error.result()
    assert error.traceback() is not None
    seen = []
    error.add_done_callback(seen.append)
    assert seen == [error]
    assert "NOT_FOUND" in error.debug_error_string()
    assert tuple(error.initial_metadata()) == ()
    assert tuple(error.trailing_metadata()) == ()
