"""Client interceptors: `grpc.intercept_channel` over a channel, all four kinds of call."""

from __future__ import annotations

import collections
import threading

import grpc
import pytest
from apiharness import WAIT, code_and_details
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoReply, EchoRequest

pytestmark = pytest.mark.inline_ok


class Details(
    collections.namedtuple(
        "Details",
        ("method", "timeout", "metadata", "credentials", "wait_for_ready", "compression"),
    ),
    grpc.ClientCallDetails,
):
    """Call details as interceptors make them anew."""


def with_metadata(details, *pairs):
    return Details(
        details.method,
        details.timeout,
        (*(details.metadata or ()), *pairs),
        details.credentials,
        details.wait_for_ready,
        details.compression,
    )


class All(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Writes down when it is entered and left, and adds a header."""

    def __init__(self, name, log):
        self.name = name
        self.log = log

    def _intercept(self, continuation, details, request):
        self.log.append(f"{self.name} in")
        call = continuation(with_metadata(details, ("via", self.name)), request)
        self.log.append(f"{self.name} out")
        return call

    intercept_unary_unary = _intercept
    intercept_unary_stream = _intercept
    intercept_stream_unary = _intercept
    intercept_stream_stream = _intercept


@pytest.fixture
def vias():
    """The headers that the server saw."""
    return []


@pytest.fixture
def peer(impl, vias):
    def note(context):
        vias.append([value for key, value in context.invocation_metadata() if key == "via"])

    def unary(request, context):
        note(context)
        return EchoReply(text=request.text)

    def client_stream(requests, context):
        note(context)
        return EchoReply(text=",".join(request.text for request in requests))

    def server_stream(request, context):
        note(context)
        yield EchoReply(text=request.text)

    def bidi(requests, context):
        note(context)
        for request in requests:
            yield EchoReply(text=request.text)

    return impl.serve(
        unary=unary, server_stream=server_stream, client_stream=client_stream, bidi=bidi
    )


def _stub(peer, *interceptors):
    return echo_pb2_grpc.EchoStub(grpc.intercept_channel(peer.channel, *interceptors))


ORDER = ["a in", "b in", "b out", "a out"]


def test_unary(peer, vias):
    log = []
    stub = _stub(peer, All("a", log), All("b", log))
    assert stub.Unary(EchoRequest(text="x")).text == "x"
    assert log == ORDER
    assert vias == [["a", "b"]]
    reply, call = stub.Unary.with_call(EchoRequest(text="y"), timeout=WAIT)
    assert reply.text == "y"
    assert call.code() is grpc.StatusCode.OK
    assert log == ORDER * 2
    assert stub.Unary.future(EchoRequest(text="z")).result(timeout=WAIT).text == "z"
    assert log == ORDER * 3
    assert vias == [["a", "b"]] * 3


def test_server_stream(peer, vias):
    log = []
    stub = _stub(peer, All("a", log), All("b", log))
    assert [reply.text for reply in stub.ServerStream(EchoRequest(text="x"))] == ["x"]
    assert log == ORDER
    assert vias == [["a", "b"]]


def test_client_stream(peer, vias):
    log = []
    stub = _stub(peer, All("a", log), All("b", log))
    requests = [EchoRequest(text="x"), EchoRequest(text="y")]
    assert stub.ClientStream(iter(requests)).text == "x,y"
    assert stub.ClientStream.with_call(iter(requests))[0].text == "x,y"
    assert stub.ClientStream.future(iter(requests)).result(timeout=WAIT).text == "x,y"
    assert log == ORDER * 3
    assert vias == [["a", "b"]] * 3


def test_bidi(peer, vias):
    log = []
    stub = _stub(peer, All("a", log), All("b", log))
    requests = [EchoRequest(text="x"), EchoRequest(text="y")]
    assert [reply.text for reply in stub.Bidi(iter(requests))] == ["x", "y"]
    assert log == ORDER
    assert vias == [["a", "b"]]


def test_many_calls(peer, vias):
    log = []
    stub = _stub(peer, All("a", log))
    for number in range(50):
        assert stub.Unary(EchoRequest(text=str(number))).text == str(number)
    assert vias == [["a"]] * 50


def test_interceptors_of_one_kind_only(peer, vias):
    class UnaryOnly(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation, client_call_details, request):
            return continuation(with_metadata(client_call_details, ("via", "u")), request)

    stub = _stub(peer, UnaryOnly())
    stub.Unary(EchoRequest())
    list(stub.ServerStream(EchoRequest()))
    stub.ClientStream(iter(()))
    list(stub.Bidi(iter(())))
    assert vias == [["u"], [], [], []]


def test_not_an_interceptor(peer):
    with pytest.raises(TypeError):
        grpc.intercept_channel(peer.channel, object())


def test_details_that_it_is_given(peer):
    seen = []

    class Note(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation, client_call_details, request):
            details = client_call_details
            seen.append((details.method, details.timeout, details.metadata))
            seen.append((details.wait_for_ready, details.compression, details.credentials))
            return continuation(client_call_details, request)

    stub = _stub(peer, Note())
    stub.Unary(
        EchoRequest(),
        timeout=25,
        metadata=(("k", "v"),),
        wait_for_ready=True,
        compression=grpc.Compression.Gzip,
    )
    assert seen == [
        ("/zhtest.Echo/Unary", 25, (("k", "v"),)),
        (True, grpc.Compression.Gzip, None),
    ]


def test_changing_request_and_response(peer):
    class Changed:
        """A call whose result is another."""

        def __init__(self, call):
            self._call = call

        def __getattr__(self, name):
            return getattr(self._call, name)

        def result(self, timeout=None):
            return EchoReply(text=self._call.result(timeout).text.upper() + "!")

    class Change(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation, client_call_details, request):
            request = EchoRequest(text=request.text + "?")
            return Changed(continuation(client_call_details, request))

    stub = _stub(peer, Change())
    assert stub.Unary(EchoRequest(text="a")).text == "A?!"
    assert stub.Unary.future(EchoRequest(text="b")).result(timeout=WAIT).text == "B?!"


def test_changing_streams(peer):
    class Change(grpc.StreamStreamClientInterceptor):
        def intercept_stream_stream(self, continuation, client_call_details, request_iterator):
            requests = (EchoRequest(text=request.text + "?") for request in request_iterator)
            for reply in continuation(client_call_details, requests):
                yield EchoReply(text=reply.text.upper())

    stub = _stub(peer, Change())
    requests = iter([EchoRequest(text="a"), EchoRequest(text="b")])
    assert [reply.text for reply in stub.Bidi(requests)] == ["A?", "B?"]


def test_calling_another_method(peer):
    """An interceptor may send the call elsewhere on the same channel."""

    class Elsewhere(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation, client_call_details, request):
            details = with_metadata(client_call_details)._replace(method="/zhtest.Echo/Nope")
            return continuation(details, request)

    assert code_and_details(lambda: _stub(peer, Elsewhere()).Unary(EchoRequest())) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "Method not found!",
    )


def test_short_circuit(peer, vias):
    class Answer(grpc.Future, grpc.Call):
        """An outcome that never was a call."""

        def result(self, timeout=None):
            return EchoReply(text="from the cache")

        def exception(self, timeout=None):
            return None

        def traceback(self, timeout=None):
            return None

        def code(self):
            return grpc.StatusCode.OK

        def done(self):
            return True

        def details(self):
            return ""

        def add_done_callback(self, fn):
            fn(self)

        def cancel(self):
            return False

        cancelled = running = is_active = cancel

        def initial_metadata(self):
            return ()

        trailing_metadata = initial_metadata

        def time_remaining(self):
            return None

        def add_callback(self, callback):
            return False

    class Cache(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation, client_call_details, request):
            return Answer()

    stub = _stub(peer, Cache())
    assert stub.Unary(EchoRequest()).text == "from the cache"
    assert stub.Unary.future(EchoRequest()).result().text == "from the cache"
    assert vias == []


def test_retry(impl):
    """An interceptor that calls the continuation again after a failure."""
    failures = [3]

    def handler(request, context):
        if failures[0]:
            failures[0] -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "try again")
        return EchoReply(text="in the end")

    class Retry(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation, client_call_details, request):
            for _ in range(5):
                call = continuation(client_call_details, request)
                if call.code() is not grpc.StatusCode.UNAVAILABLE:
                    break
            return call

    peer = impl.serve(unary=handler)
    assert _stub(peer, Retry()).Unary(EchoRequest()).text == "in the end"
    assert failures == [0]
    failures[0] = 3
    assert _stub(peer, Retry()).Unary.future(EchoRequest()).result(WAIT).text == "in the end"


def test_error_comes_back_as_an_outcome(impl):
    """The continuation does not raise: what it returns says what happened."""
    seen = []

    class Note(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation, client_call_details, request):
            call = continuation(client_call_details, request)
            seen.append((call.code(), call.details(), call.exception() is not None))
            return call

    def handler(request, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "nope")

    peer = impl.serve(unary=handler)
    stub = _stub(peer, Note())
    failure = (grpc.StatusCode.NOT_FOUND, "nope")
    assert code_and_details(lambda: stub.Unary(EchoRequest())) == failure
    assert code_and_details(lambda: stub.Unary.future(EchoRequest()).result(WAIT)) == failure
    assert seen == [(*failure, True)] * 2


def test_interceptor_raises(peer, vias):
    class Bad(
        grpc.UnaryUnaryClientInterceptor,
        grpc.UnaryStreamClientInterceptor,
        grpc.StreamUnaryClientInterceptor,
        grpc.StreamStreamClientInterceptor,
    ):
        def intercept_unary_unary(self, *arguments):
            raise ValueError("interceptor gone wrong")

        intercept_unary_stream = intercept_stream_unary = intercept_unary_unary
        intercept_stream_stream = intercept_unary_unary

    stub = _stub(peer, Bad())
    with pytest.raises(ValueError, match="interceptor gone wrong"):
        stub.Unary(EchoRequest())
    future = stub.Unary.future(EchoRequest())
    assert isinstance(future.exception(), ValueError)
    with pytest.raises(ValueError, match="interceptor gone wrong"):
        next(stub.ServerStream(EchoRequest()))
    with pytest.raises(ValueError, match="interceptor gone wrong"):
        stub.ClientStream(iter(()))
    with pytest.raises(ValueError, match="interceptor gone wrong"):
        next(stub.Bidi(iter(())))
    assert vias == []
    # The channel itself is untouched.
    assert peer.stub.Unary(EchoRequest(text="x")).text == "x"


def test_callbacks_of_intercepted_futures(peer):
    """How tracing ends its spans: a done-callback added by the interceptor, nobody waiting."""
    ended = threading.Event()
    seen = []

    class Trace(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation, client_call_details, request):
            call = continuation(client_call_details, request)
            call.add_done_callback(self.note)
            return call

        def note(self, call):
            seen.append(call.code())
            ended.set()

    stub = _stub(peer, Trace())
    stub.Unary.future(EchoRequest())
    # Nobody holds the future now; the callback keeps the call.
    assert ended.wait(WAIT)
    assert seen == [grpc.StatusCode.OK]
    ended.clear()
    stub.Unary(EchoRequest())
    assert ended.wait(WAIT)
    assert seen == [grpc.StatusCode.OK] * 2


def test_intercepted_channel_is_a_channel(peer):
    log = []
    channel = grpc.intercept_channel(peer.channel, All("a", log))
    assert isinstance(channel, grpc.Channel)
    grpc.channel_ready_future(channel).result(timeout=WAIT)
    with channel:
        assert echo_pb2_grpc.EchoStub(channel).Unary(EchoRequest(text="x")).text == "x"
    with pytest.raises(ValueError, match="closed"):
        peer.stub.Unary(EchoRequest())


def test_interceptors_around_interceptors(peer, vias):
    log = []
    inner = grpc.intercept_channel(peer.channel, All("b", log), All("c", log))
    outer = grpc.intercept_channel(inner, All("a", log))
    assert echo_pb2_grpc.EchoStub(outer).Unary(EchoRequest(text="x")).text == "x"
    assert log == ["a in", "b in", "c in", "c out", "b out", "a out"]
    assert vias == [["a", "b", "c"]]
