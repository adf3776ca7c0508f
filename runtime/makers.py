"""The methods of a channel that make its multicallables."""

from __future__ import annotations

from typing import Any

from zerohop.calls import Deserializer, Serializer


class Makers:
    """grpc.Channel's and grpc.aio.Channel's, by way of one method that is told the kind."""

    def _multicallable(
        self, kind: str, method: str, serializer: Serializer, deserializer: Deserializer
    ) -> Any:
        raise NotImplementedError

    def unary_unary(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._multicallable("unary_unary", method, request_serializer, response_deserializer)

    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._multicallable(
            "unary_stream", method, request_serializer, response_deserializer
        )

    def stream_unary(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._multicallable(
            "stream_unary", method, request_serializer, response_deserializer
        )

    def stream_stream(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._multicallable(
            "stream_stream", method, request_serializer, response_deserializer
        )
