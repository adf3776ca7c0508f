"""Server interceptors: order, what they see, and how they answer in place of the handler."""

from __future__ import annotations

import grpc
import pytest
from apiharness import WAIT, code_and_details
from zhtest.types_pb2 import EchoReply, EchoRequest

pytestmark = pytest.mark.inline_ok


class Note(grpc.ServerInterceptor):
    """Writes down its name, the method and a header of each call."""

    def __init__(self, name, log):
        self.name = name
        self.log = log

    def intercept_service(self, continuation, handler_call_details):
        metadata = dict(handler_call_details.invocation_metadata)
        self.log.append((self.name, handler_call_details.method, metadata.get("k")))
        handler = continuation(handler_call_details)
        self.log.append((self.name, "has", handler is not None))
        return handler


def _terminate(code, details):
    def abort(request, context):
        context.abort(code, details)

    return grpc.unary_unary_rpc_method_handler(abort)


def test_order_and_details(impl):
    log = []
    peer = impl.serve(interceptors=(Note("a", log), Note("b", log)))
    assert peer.stub.Unary(EchoRequest(text="x"), metadata=[("k", "v")]).text == "x"
    assert log == [
        ("a", "/zhtest.Echo/Unary", "v"),
        ("b", "/zhtest.Echo/Unary", "v"),
        ("b", "has", True),
        ("a", "has", True),
    ]


def test_every_kind_of_call(impl):
    log = []
    peer = impl.serve(interceptors=[Note("a", log)])
    peer.stub.Unary(EchoRequest())
    list(peer.stub.ServerStream(EchoRequest()))
    peer.stub.ClientStream(iter(()))
    list(peer.stub.Bidi(iter(())))
    assert [method for _, method, _ in log[::2]] == [
        "/zhtest.Echo/Unary",
        "/zhtest.Echo/ServerStream",
        "/zhtest.Echo/ClientStream",
        "/zhtest.Echo/Bidi",
    ]


def test_unknown_method(impl):
    """The interceptors run all the same, and the handler that they are given is None."""
    log = []
    peer = impl.serve(interceptors=[Note("a", log)])
    assert code_and_details(lambda: peer.channel.unary_unary("/zhtest.Echo/No")(b"")) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "Method not found!",
    )
    assert log == [("a", "/zhtest.Echo/No", None), ("a", "has", False)]


def test_refusing(impl):
    """The usual check of a token: the handler is never reached."""
    reached = []

    class Check(grpc.ServerInterceptor):
        def intercept_service(self, continuation, handler_call_details):
            if ("token", "secret") in tuple(handler_call_details.invocation_metadata):
                return continuation(handler_call_details)
            return _terminate(grpc.StatusCode.UNAUTHENTICATED, "no token")

    def handler(request, context):
        reached.append(1)
        return EchoReply(text="inside")

    peer = impl.serve(unary=handler, interceptors=[Check()])
    refused = (grpc.StatusCode.UNAUTHENTICATED, "no token")
    assert code_and_details(lambda: peer.stub.Unary(EchoRequest())) == refused
    assert code_and_details(lambda: next(peer.stub.ServerStream(EchoRequest()))) == refused
    assert reached == []
    assert peer.stub.Unary(EchoRequest(), metadata=[("token", "secret")]).text == "inside"
    assert reached == [1]


def test_inner_interceptors_are_not_reached(impl):
    log = []

    class Stop(grpc.ServerInterceptor):
        def intercept_service(self, continuation, handler_call_details):
            return _terminate(grpc.StatusCode.PERMISSION_DENIED, "stop")

    peer = impl.serve(interceptors=[Note("a", log), Stop(), Note("b", log)])
    code, _ = code_and_details(lambda: peer.stub.Unary(EchoRequest()))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert [name for name, _, _ in log] == ["a", "a"]


def test_wrapping_the_handler(impl):
    """How tracing works on a server: a new handler around the one that was found."""
    seen = []

    class Wrap(grpc.ServerInterceptor):
        def intercept_service(self, continuation, handler_call_details):
            handler = continuation(handler_call_details)
            if handler is None or handler.request_streaming or handler.response_streaming:
                return handler

            def wrapped(request, context):
                seen.append(request.text)
                reply = handler.unary_unary(request, context)
                return EchoReply(text=reply.text + "!")

            return grpc.unary_unary_rpc_method_handler(
                wrapped,
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )

    peer = impl.serve(interceptors=[Wrap()])
    assert peer.stub.Unary(EchoRequest(text="x")).text == "x!"
    assert seen == ["x"]
    assert [reply.text for reply in peer.stub.Bidi(iter([EchoRequest(text="y")]))] == ["y"]


def test_attributes_of_the_handler(impl):
    seen = []

    class Look(grpc.ServerInterceptor):
        def intercept_service(self, continuation, handler_call_details):
            handler = continuation(handler_call_details)
            seen.append(
                (
                    handler.request_streaming,
                    handler.response_streaming,
                    handler.unary_unary is not None,
                    handler.unary_stream is not None,
                    handler.stream_unary is not None,
                    handler.stream_stream is not None,
                    callable(handler.request_deserializer),
                    callable(handler.response_serializer),
                )
            )
            assert isinstance(handler, grpc.RpcMethodHandler)
            return handler

    peer = impl.serve(interceptors=[Look()])
    peer.stub.Unary(EchoRequest())
    list(peer.stub.ServerStream(EchoRequest()))
    peer.stub.ClientStream(iter(()))
    list(peer.stub.Bidi(iter(())))
    assert seen == [
        (False, False, True, False, False, False, True, True),
        (False, True, False, True, False, False, True, True),
        (True, False, False, False, True, False, True, True),
        (True, True, False, False, False, True, True, True),
    ]


def test_wrapped_context(impl):
    """Tracing wraps the context too: the handler's calls on it arrive."""

    class Context:
        def __init__(self, context):
            self._context = context

        def __getattr__(self, name):
            return getattr(self._context, name)

        def set_code(self, code):
            self._context.set_code(grpc.StatusCode.DATA_LOSS)

    class Wrap(grpc.ServerInterceptor):
        def intercept_service(self, continuation, handler_call_details):
            handler = continuation(handler_call_details)
            return grpc.unary_unary_rpc_method_handler(
                lambda request, context: handler.unary_unary(request, Context(context)),
                handler.request_deserializer,
                handler.response_serializer,
            )

    def handler(request, context):
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("d")
        return EchoReply()

    peer = impl.serve(unary=handler, interceptors=[Wrap()])
    assert code_and_details(lambda: peer.stub.Unary(EchoRequest())) == (
        grpc.StatusCode.DATA_LOSS,
        "d",
    )


def test_changed_details(impl):
    """An interceptor may ask for the handler of another method."""

    class Other(grpc.ServerInterceptor):
        def intercept_service(self, continuation, handler_call_details):
            class Details(grpc.HandlerCallDetails):
                method = "/t/b"
                invocation_metadata = handler_call_details.invocation_metadata

            return continuation(Details())

    def handlers(name):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: name.encode())

    server = impl.server(
        handlers=[grpc.method_handlers_generic_handler("t", {n: handlers(n) for n in "ab"})],
        interceptors=[Other()],
    )
    server.add_insecure_port(impl.address())
    server.start()
    assert impl.channel().unary_unary("/t/a")(b"", timeout=WAIT) == b"b"


def test_interceptor_raises(impl, caplog):
    class Bad(grpc.ServerInterceptor):
        def intercept_service(self, continuation, handler_call_details):
            if ("bad", "1") in tuple(handler_call_details.invocation_metadata):
                raise ValueError("interceptor gone wrong")
            return continuation(handler_call_details)

    peer = impl.serve(interceptors=[Bad()])
    call = peer.stub.Unary
    assert code_and_details(lambda: call(EchoRequest(), metadata=[("bad", "1")])) == (
        grpc.StatusCode.UNKNOWN,
        "Error in service handler!",
    )
    assert "interceptor gone wrong" in caplog.text
    assert call(EchoRequest(text="x")).text == "x"


def test_interceptor_returns_none(impl):
    class Hide(grpc.ServerInterceptor):
        def intercept_service(self, continuation, handler_call_details):
            return None

    peer = impl.serve(interceptors=[Hide()])
    assert code_and_details(lambda: peer.stub.Unary(EchoRequest())) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "Method not found!",
    )


def test_interceptor_with_generic_handlers(impl):
    log = []
    server = impl.server(
        handlers=[
            grpc.method_handlers_generic_handler(
                "t", {"uu": grpc.unary_unary_rpc_method_handler(lambda request, context: request)}
            )
        ],
        interceptors=[Note("a", log)],
    )
    server.add_insecure_port(impl.address())
    server.start()
    assert impl.channel().unary_unary("/t/uu")(b"x") == b"x"
    assert log == [("a", "/t/uu", None), ("a", "has", True)]
