"""Calls of asyncio programs under `zerohop run` that wait for the first look to choose their way.

They are intercepted calls without the differences: once the way is chosen, whatever is done with
them is done with the call that they have become.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
from zerohop.aio.calls import ALREADY_FINISHED, STYLES_MIXED
from zerohop.aio.interceptors import (
    Intercepted,
    InterceptedStreamStreamCall,
    InterceptedStreamUnaryCall,
    InterceptedUnaryStreamCall,
    InterceptedUnaryUnaryCall,
)


class _Deferred(Intercepted):
    _given_up = False

    async def _when_made(self) -> Any:
        return await asyncio.shield(self._task)

    def cancel(self) -> bool:
        """The task hears of it later, whoever asks must see it now."""
        if self._task.done():
            return super().cancel()
        if self._given_up:
            return False
        self._given_up = True
        return self._task.cancel()

    def cancelled(self) -> bool:
        return self._given_up or super().cancelled()

    def done(self) -> bool:
        return self._given_up or super().done()


class _StreamResponse(_Deferred):
    _responses: AsyncIterator[Any] | None = None
    _read = False

    def __aiter__(self) -> AsyncIterator[Any]:
        call = self._call()
        if call is not None and self._responses is None:
            return call.__aiter__()  # type: ignore[no-any-return]
        if self._read:
            raise grpc.aio.UsageError(STYLES_MIXED)
        if self._responses is None:
            self._responses = self._iterate()
        return self._responses

    async def _iterate(self) -> AsyncIterator[Any]:
        async for response in await self._task:
            yield response

    async def read(self) -> Any:
        if self._responses is not None:
            raise grpc.aio.UsageError(STYLES_MIXED)
        self._read = True
        return await (await self._task).read()


class _StreamRequest(_Deferred):
    def _requests_of(self, request: Any) -> Any:
        return request

    async def _made_call(self) -> Any:
        try:
            return await self._task
        except asyncio.CancelledError:
            if not self._task.cancelled():
                raise
            raise asyncio.InvalidStateError(ALREADY_FINISHED) from None

    async def write(self, request: Any) -> None:
        await (await self._made_call()).write(request)

    async def done_writing(self) -> None:
        try:
            call = await self._made_call()
        except asyncio.InvalidStateError:
            return  # a call that is over has nothing against it
        await call.done_writing()


class DeferredUnaryUnaryCall(_Deferred, InterceptedUnaryUnaryCall):
    def __del__(self) -> None:
        """It runs whoever keeps it."""


class DeferredUnaryStreamCall(_StreamResponse, InterceptedUnaryStreamCall):
    pass


class DeferredStreamUnaryCall(_StreamRequest, InterceptedStreamUnaryCall):
    pass


class DeferredStreamStreamCall(_StreamResponse, _StreamRequest, InterceptedStreamStreamCall):
    pass
