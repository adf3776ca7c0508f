"""Options of channels and servers: those of grpcio that mean something here, and our own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from zerohop._native import __version__

UNLIMITED = (1 << 64) - 1

ChannelArguments = Sequence[tuple[str, Any]]


@dataclass(frozen=True)
class Options:
    """What we honour. An option that we do not know is ignored, as grpcio does.

    max_receive, max_send: bytes of a message; unlimited by default on shared memory, where no
    buffer is reserved for it (grpcio's own default is 4 MiB for receiving).
    """

    max_receive: int = UNLIMITED
    max_send: int = UNLIMITED
    user_agent: str = ""
    allow_uids: tuple[int, ...] = ()
    max_concurrent_streams: int | None = None


def _limit(value: Any) -> int:
    number = int(value)
    return UNLIMITED if number < 0 else number


def _uids(value: Any) -> tuple[int, ...]:
    if isinstance(value, str):
        value = [part for part in value.replace(",", " ").split() if part]
    elif isinstance(value, int):
        value = [value]
    return tuple(int(uid) for uid in value)


def parse(options: Iterable[tuple[str, Any]] | None) -> Options:
    """Options from channel arguments and the environment. ValueError for what is malformed."""
    given: dict[str, Any] = {}
    for pair in options or ():
        name, value = pair
        given[name] = value
    agent = " ".join(
        part
        for part in (
            str(given.get("grpc.primary_user_agent", "")),
            f"zerohop/{__version__}",
            str(given.get("grpc.secondary_user_agent", "")),
        )
        if part
    )
    streams = given.get("grpc.max_concurrent_streams")
    return Options(
        max_receive=_limit(given.get("grpc.max_receive_message_length", -1)),
        max_send=_limit(given.get("grpc.max_send_message_length", -1)),
        user_agent=agent[:255],
        allow_uids=_uids(given.get("zerohop.allow_uids", os.environ.get("ZEROHOP_ALLOW_UIDS", ()))),
        max_concurrent_streams=None if streams is None else int(streams),
    )
