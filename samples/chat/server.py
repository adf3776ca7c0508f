"""A chat room: one asyncio server, one bidirectional stream for each member.

    python samples/chat/server.py                         # in one terminal
    python samples/chat/client.py --name anna             # in others

`--target` takes zerohop:///NAME, shm:/PATH and any gRPC target (unix:/PATH, HOST:PORT).
"""

import argparse
import asyncio
import importlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from zerohop.codegen.stubs import import_stubs

chat_pb2, chat_pb2_grpc = import_stubs(Path(__file__).with_name("chat.proto"))

# What a member may leave unread before the room lets go of them; else one slow reader would
# make the room hold everybody's lines for ever.
BACKLOG = 1000


class Room(chat_pb2_grpc.RoomServicer):
    """Who is here, and the lines that each of them has still to read (None: the end)."""

    def __init__(self) -> None:
        self._inboxes: dict[str, asyncio.Queue[Any]] = {}

    async def Join(self, lines: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """One member's stay: what is yielded goes to them, `lines` come from them."""
        name = (await anext(lines, chat_pb2.Line())).name.strip()
        if not name:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "the first line must carry a name"
            )
        if name in self._inboxes:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, f"{name} is here already")
        others = ", ".join(sorted(self._inboxes)) or "nobody else"
        self._tell_others(name, f"{name} joined")
        inbox = self._inboxes[name] = asyncio.Queue(BACKLOG)
        listener = asyncio.create_task(self._listen(name, lines, inbox))
        try:
            yield chat_pb2.Line(text=f"you are in the room with {others}")
            while (line := await inbox.get()) is not None:
                yield line
        finally:  # the member left, broke the connection or was let go
            listener.cancel()
            self._inboxes.pop(name, None)
            self._tell_others(name, f"{name} left")

    async def _listen(
        self, name: str, lines: AsyncIterator[Any], inbox: asyncio.Queue[Any]
    ) -> None:
        """Pass on what the member says, until they have said all."""
        async for line in lines:
            self._tell_others(name, line.text, speaker=name)
        await inbox.put(None)

    def _tell_others(self, name: str, text: str, speaker: str = "") -> None:
        line = chat_pb2.Line(name=speaker, text=text)
        for other, inbox in self._inboxes.items():
            if other == name:
                continue
            try:
                inbox.put_nowait(line)
            except asyncio.QueueFull:
                _end(inbox)

    def close(self) -> None:
        """End every member's stay."""
        for inbox in self._inboxes.values():
            _end(inbox)


def _end(inbox: asyncio.Queue[Any]) -> None:
    """Make `inbox` hold the end and nothing before it."""
    while not inbox.empty():
        inbox.get_nowait()
    inbox.put_nowait(None)


async def serve(target: str) -> None:
    # zerohop has grpcio's interfaces, so the module is all that differs between the two.
    module = "zerohop" if target.startswith(("zerohop:", "shm:")) else "grpc"
    aio = importlib.import_module(f"{module}.aio")

    room = Room()
    server = aio.server()
    chat_pb2_grpc.add_RoomServicer_to_server(room, server)
    try:
        server.add_insecure_port(target)
    except (RuntimeError, OSError) as error:
        sys.exit(f"cannot serve at {target}: {error}\nIs it in use, or its folder missing?")
    await server.start()
    print(f"The room is at {target}. Ctrl-C closes it.", flush=True)

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    room.close()
    await server.stop(grace=1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Open a chat room.")
    parser.add_argument("--target", default="zerohop:///chat", help="default: %(default)s")
    asyncio.run(serve(parser.parse_args().target))


if __name__ == "__main__":
    main()
