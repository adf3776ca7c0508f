"""Join the chat room; samples/chat/server.py opens it.

    python samples/chat/client.py --name anna             # type lines; Ctrl-D leaves
    printf 'hello\\nbye\\n' | python samples/chat/client.py --name ben

What others say comes as `name: text`, what the room says as `* text`.
"""

import argparse
import asyncio
import contextlib
import importlib
import os
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from zerohop.codegen.stubs import import_stubs

chat_pb2, chat_pb2_grpc = import_stubs(Path(__file__).with_name("chat.proto"))


def read_stdin() -> asyncio.Queue[str | None]:
    """A queue of the lines of standard input: terminal, pipe or file; None is the end.

    A thread reads, since files cannot be waited for by an event loop. It reads the bare
    descriptor, because a thread blocked inside `sys.stdin` would hold up the interpreter's exit.
    """
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue()

    def put(line: str | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed
            loop.call_soon_threadsafe(lines.put_nowait, line)

    def read() -> None:
        rest = b""
        with contextlib.suppress(OSError):  # closed, or a terminal that is gone: the end too
            while block := os.read(0, 4096):
                *whole, rest = (rest + block).split(b"\n")
                for line in whole:
                    put(line.decode(errors="replace"))
        if rest:
            put(rest.decode(errors="replace"))
        put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


async def say(name: str) -> AsyncIterator[Any]:
    """What this member sends: first the name, then what is typed."""
    yield chat_pb2.Line(name=name)
    lines = read_stdin()
    while (text := await lines.get()) is not None:
        if text.strip():
            yield chat_pb2.Line(name=name, text=text)


async def chat(target: str, name: str) -> None:
    # zerohop has grpcio's interfaces, so the module is all that differs between the two.
    module = "zerohop" if target.startswith(("zerohop:", "shm:")) else "grpc"
    aio = importlib.import_module(f"{module}.aio")

    async with aio.insecure_channel(target) as channel:
        room = chat_pb2_grpc.RoomStub(channel)
        async for line in room.Join(say(name)):
            print(f"{line.name}: {line.text}" if line.name else f"* {line.text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Join the chat room: lines from standard input are said, Ctrl-D leaves."
    )
    parser.add_argument(
        "--name", default=os.environ.get("USER", "guest"), help="default: %(default)s"
    )
    parser.add_argument("--target", default="zerohop:///chat", help="default: %(default)s")
    options = parser.parse_args()
    try:
        asyncio.run(chat(options.target, options.name))
    except KeyboardInterrupt:
        sys.exit(130)
    except grpc.RpcError as error:  # zerohop's errors are grpc's errors
        if error.code() is grpc.StatusCode.ALREADY_EXISTS:
            sys.exit(f"{error.details()}: choose another --name")
        sys.exit(
            f"out of the room: {error.code().name}: {error.details()}\n"
            f"Is it open? python samples/chat/server.py --target {options.target}"
        )


if __name__ == "__main__":
    main()
