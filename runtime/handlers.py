"""Finding the handler of a call: registered methods, generic handlers, interceptors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import grpc
from grpc._utilities import DictionaryGenericHandler
from zerohop._native import method_types
from zerohop.status import Metadatum

Handler = Any  # grpc.RpcMethodHandler
Continuation = Callable[[Any], Handler | None]

# grpcio's words.
LATE_HANDLERS = "Cannot register method handlers once server has started"


def behavior_of(handler: Handler) -> Any:
    """The function of a handler. No other may be asked for: a handler need not have the others."""
    if handler.request_streaming:
        return handler.stream_stream if handler.response_streaming else handler.stream_unary
    return handler.unary_stream if handler.response_streaming else handler.unary_unary


class HandlerCallDetails(NamedTuple):
    """grpc.HandlerCallDetails: what interceptors and generic handlers see of a call."""

    method: str
    invocation_metadata: tuple[Metadatum, ...]


grpc.HandlerCallDetails.register(HandlerCallDetails)


class Handlers:
    """The handler table of a server; one for all addresses that it listens on."""

    def __init__(self, interceptors: Sequence[Any] | None) -> None:
        self.interceptors = tuple(interceptors or ())
        self._generic: list[grpc.GenericRpcHandler] = []
        self._registered: dict[str, Handler] = {}

    def add_generic(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        for handler in handlers:
            service = getattr(handler, "service", None)
            if not callable(service):
                raise AttributeError(
                    f'"{handler}" must conform to grpc.GenericRpcHandler type but does not have '
                    '"service" method!'
                )
            self._generic.append(handler)

    def add_registered(self, service_name: str, handlers: Mapping[str, Handler]) -> None:
        for method, handler in handlers.items():
            self._registered[f"/{service_name}/{method}"] = handler

    def query(self, details: Any) -> Handler | None:
        """The handler without interceptors."""
        handler = self._registered.get(details.method)
        if handler is not None:
            return handler
        for generic in self._generic:
            handler = generic.service(details)
            if handler is not None:
                return handler
        return None

    def find(self, details: HandlerCallDetails) -> Handler | None:
        """The handler that the chain of interceptors yields (grpc.ServerInterceptor)."""

        def level(index: int) -> Continuation:
            if index == len(self.interceptors):
                return self.query
            interceptor = self.interceptors[index]
            following = level(index + 1)
            return lambda context: interceptor.intercept_service(following, context)

        return level(0)(details)

    def types(self, method: str) -> bytes | None:
        """The fingerprints of a method's messages, if they are generated and always the same."""
        handler = self.constant(method)
        if handler is None:
            return None
        return method_types(handler.request_deserializer, handler.response_serializer)

    def constant(self, method: str) -> Handler | None:
        """The handler, if it is the same for every call whatever its metadata; else None."""
        if self.interceptors:
            return None
        handler = self._registered.get(method)
        if handler is not None:
            return handler
        details: Any = HandlerCallDetails(method, ())
        for generic in self._generic:
            if not isinstance(generic, DictionaryGenericHandler):
                return None
            handler = generic.service(details)
            if handler is not None:
                return handler
        return None
