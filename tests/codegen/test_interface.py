"""What mypy --strict makes of generated interfaces, in a project of a user."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from genharness import Protos, proto2, proto3
from zerohop.codegen.protoc import main

PROTO = proto3(
    """
    import "parts/other.proto"; import "google/protobuf/timestamp.proto";
    import "google/protobuf/any.proto"; import "zerohop/options.proto"; import public "old.proto";
    enum Colour { RED = 0; BLUE = 1; }
    message Request {
      enum Kind { PLAIN = 0; FANCY = 1; }
      message Part { int32 size = 1; Part inner = 2; }
      string text = 1;
      int32 count = 2;
      bytes data = 3;
      bytes digest = 4 [(zerohop.as_bytes) = true];
      Colour colour = 5;
      Kind kind = 6;
      Part part = 7;
      repeated double values = 8;
      repeated Part parts = 9;
      repeated bytes pieces = 10;
      map<string, int32> counts = 11;
      map<int32, Part> by_number = 12;
      map<bool, bytes> by_flag = 13;
      optional int32 maybe = 14;
      oneof one { string word = 15; Part other_part = 16; }
      oneof two { bool flag = 17; float ratio = 18; }
      parts.Other other = 19;
      google.protobuf.Timestamp at = 20;
      int32 class = 21;
      int32 self = 22;
      repeated Colour colours = 23;
      Old old = 24;
    }
    message Reply { string text = 1; }
    message Envelope { google.protobuf.Any content = 1; }
    // Says it.
    service Echo {
      // Says it once.
      rpc Call(Request) returns (Reply);
      rpc Up(stream Request) returns (Reply);
      rpc Down(Request) returns (stream Reply);
      rpc Both(stream Request) returns (stream Reply);
    }
    service Empty {}
    """
)
HARD = proto3(
    """
    message Ping {
      message Pong { Ping Ping = 1; }
      enum Inner { keys = 0; None = 1; Name = 2; }
      Pong pong = 1; int32 property = 2; bool bytes = 3; string str = 4; int32 int = 5;
      repeated bool memoryview = 6; string HasField = 7; Enum Enum = 8; Inner inner = 9;
      map<int32, Ping> list = 10; int32 _typing = 11; int32 __mangled = 12;
    }
    message Pong {
      oneof Pong { int32 Pong_ = 1; string value = 2; }
      int32 kwargs = 3; int32 if = 4;
    }
    message Any { Ping.Pong Pong = 1; }
    enum Enum { True = 0; OTHER = 1; }
    message None { int32 x = 1; }
    service Service {
      rpc Ping(.t.Ping) returns (.t.Pong);
      rpc Pong(stream .t.Pong) returns (stream .t.Ping.Pong);
      rpc pass(None) returns (None);
      rpc Hidden(None) returns (.t.Ping);
    }
    """
)
OLD = proto2(
    """
    enum Grade { GOOD = 5; BAD = 3; }
    message Old { required int32 id = 1; optional Grade grade = 2 [default = BAD]; extensions 9; }
    """
)
OTHER = 'syntax = "proto3"; package parts; message Other { int32 number = 1; }'

GOOD = """\
from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Iterator
from typing import assert_type

import grpc
import grpc.aio
from echo_zerohop import (
    BLUE, Colour, EchoAsyncStub, EchoServicer, EchoStub, EmptyServicer, Envelope, Old, Reply,
    Request,
    add_EchoServicer_to_server, add_EmptyServicer_to_server,
)
from parts.other_zerohop import Other
from zerohop.wellknown.timestamp_zerohop import Timestamp

import hard_zerohop as hard

request = Request(
    text="a", count=1, data=memoryview(b""), digest=bytearray(1), colour=BLUE, kind=Request.FANCY,
    part=Request.Part(size=1), values=[1.0, 2], parts=[Request.Part(), {"size": 2}],
    pieces=[b"a", bytearray(2)], counts={"a": 1}, by_number={1: Request.Part()},
    by_flag={True: b""}, maybe=None, word="w", other=Other(number=1), at=Timestamp(seconds=1),
    self=3, colours=["RED", 1, BLUE], old=Old(id=1, grade=3),
)
assert_type(request.text, str)
assert_type(request.count, int)
assert_type(request.data, memoryview)
assert_type(request.digest, bytes)
assert_type(request.part, Request.Part)
assert_type(request.part.inner.inner.size, int)
assert_type(request.values[0], float)
assert_type(request.parts[0], Request.Part)
assert_type(request.pieces[0], memoryview)
assert_type(request.counts["a"], int)
assert_type(request.by_number[1], Request.Part)
assert_type(request.by_flag[True], memoryview)
assert_type(request.other, Other)
assert_type(request.at.ToSeconds(), int)
assert_type(request.old.id, int)
assert_type(Request.TEXT_FIELD_NUMBER, int)
assert_type(Request.FromString(b""), Request)
assert_type(request.SerializeToString(), bytes)
request.data = b"bytes"
request.data = bytearray(3)
request.digest = memoryview(b"")
request.colour = BLUE
request.colour = 1
request.values.append(1)
request.values[0] = 2.5
request.pieces.append(b"x")
request.pieces.extend([bytearray(1), memoryview(b"")])
request.counts["b"] = 2
request.by_flag[False] = b"x"
request.parts.add(size=3).inner.size = 4
request.by_number.get_or_create(1).size = 5
request.colours.append(BLUE)
request.colours.append(1)
request.at.FromSeconds(1)
Request(at=datetime.datetime.now())
Envelope(content={"type_url": ""}).content.Pack(request)
request.part.CopyFrom(Request.Part())
assert_type(request.HasField("maybe"), bool)
assert_type(request.HasField("one"), bool)
request.ClearField("class")
if request.WhichOneof("one") == "word":
    request.ClearField("one")
request.WhichOneof("two")
assert_type(Colour.Name(BLUE), str)
assert_type(Colour.Value("RED"), Colour.ValueType)
colour: Colour.ValueType = request.colour
kind: Request.Kind.ValueType = Request.Kind.FANCY


class Threads(EchoServicer):
    def Call(self, request: Request, context: grpc.ServicerContext) -> Reply:
        return Reply(text=request.text)

    def Up(self, request_iterator: Iterator[Request], context: grpc.ServicerContext) -> Reply:
        return Reply(text=next(request_iterator).text)

    def Down(self, request: Request, context: grpc.ServicerContext) -> Iterator[Reply]:
        yield Reply()

    def Both(
        self, request_iterator: Iterator[Request], context: grpc.ServicerContext
    ) -> Iterator[Reply]:
        yield Reply()


Context = grpc.aio.ServicerContext[Request, Reply]


class Async(EchoServicer):
    async def Call(self, request: Request, context: Context) -> Reply:
        return Reply(text=request.text)

    async def Up(self, request_iterator: AsyncIterator[Request], context: Context) -> Reply:
        async for each in request_iterator:
            return Reply(text=each.text)
        return Reply()

    async def Down(self, request: Request, context: Context) -> AsyncIterator[Reply]:
        yield Reply()


def serve(server: grpc.Server, other: grpc.aio.Server) -> None:
    add_EchoServicer_to_server(Threads(), server)
    add_EchoServicer_to_server(Async(), other)
    add_EmptyServicer_to_server(EmptyServicer(), server)


def call(channel: grpc.Channel) -> None:
    stub = EchoStub(channel)
    assert_type(stub.Call(Request(), timeout=1), Reply)
    assert_type(stub.Up(iter([Request()])), Reply)
    for reply in stub.Down(Request()):
        assert_type(reply, Reply)
    for reply in stub.Both(iter([Request()])):
        assert_type(reply, Reply)


async def call_async(channel: grpc.aio.Channel) -> None:
    stub = EchoAsyncStub(channel)
    assert_type(await stub.Call(Request(), timeout=1), Reply)
    async for reply in stub.Down(Request()):
        assert_type(reply, Reply)


def hard_names(stub: hard.ServiceStub) -> None:
    ping = hard.Ping(property=1, bytes=True, str="", int=2, memoryview=[True], HasField="x")
    assert_type(ping.bytes, bool)
    assert_type(ping.pong.Ping.property, int)
    assert_type(ping.Enum, hard.Enum.ValueType)
    assert_type(ping.list[1].str, str)
    assert_type(stub.Ping(ping), hard.Pong)
    assert_type(hard.Any().Pong.Ping, hard.Ping)
    hard.Pong(kwargs=1).WhichOneof("Pong")
"""

BAD = """\
import grpc
from echo_zerohop import EchoServicer, EchoStub, Reply, Request

request = Request()
Reply(txt="a")  # call-arg
Reply("a")  # call-arg
Request(count="a")  # arg-type
request.gone  # attr-defined
request.text = b""  # assignment
request.data = "text"  # assignment
request.part = Request.Part()  # misc
request.HasField("text")  # arg-type
request.WhichOneof("three")  # call-overload
request.values.append("x")  # arg-type
Reply().HasField("text")  # arg-type
Reply().CopyFrom(request)  # arg-type


class Wrong(EchoServicer):
    def Call(self, request: Reply, context: grpc.ServicerContext) -> Reply:  # override
        return Reply()


def call(channel: grpc.Channel, other: grpc.aio.Channel) -> None:
    EchoStub(channel).Call(Reply())  # arg-type
    EchoStub(channel).Gone(Reply())  # attr-defined
    EchoStub(other)  # arg-type
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's files with what was generated for them."""
    folder = tmp_path_factory.mktemp("project")
    protos = Protos(folder, echo=PROTO, hard=HARD, old=OLD)
    protos.write("parts/other.proto", OTHER)
    names = ["echo.proto", "hard.proto", "old.proto", "parts/other.proto"]
    assert main([f"-I{folder}", f"--zerohop_out={folder}", *names]) == 0
    (folder / "good.py").write_text(GOOD)
    (folder / "bad.py").write_text(BAD)
    return folder


def errors_of(folder: Path, *modules: str) -> list[str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary"]
    command += [f"--cache-dir={folder / 'cache'}", "--python-executable", sys.executable]
    ran = subprocess.run(
        [*command, *(f"-m{module}" for module in modules)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr == ""
    return ran.stdout.splitlines()


@pytest.mark.timeout(300)
def test_mypy_strict(project: Path) -> None:
    """No word about right use or about the interfaces themselves; each wrong use is found."""
    interfaces = ["echo_zerohop", "hard_zerohop", "old_zerohop", "parts.other_zerohop"]
    assert errors_of(project, "good", *interfaces) == []
    found = set()
    for line in errors_of(project, "bad"):
        if matched := re.fullmatch(r"bad\.py:(\d+): error: .*\[([a-z-]+)\]", line):
            found.add((int(matched[1]), matched[2]))
    expected = set()
    for number, line in enumerate(BAD.splitlines(), 1):
        if "  # " in line:
            expected.add((number, line.rpartition("  # ")[2]))
    assert found == expected


def test_comments_are_docstrings(project: Path) -> None:
    text = (project / "echo_zerohop.pyi").read_text()
    assert text.count('"""Says it."""') == 3  # both stubs and the servicer
    assert text.count('"""Says it once."""') == 1


def test_interfaces_are_python(project: Path) -> None:
    for path in project.rglob("*_zerohop.py*"):
        compile(path.read_text(), str(path), "exec")
