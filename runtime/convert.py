"""Between generated messages and protobuf's own (`_pb2`): by wire bytes, so each is a copy.

For libraries that ask for protobuf's messages; `zerohop.json_format` and `zerohop.text_format` are
made with it.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import message_factory
from google.protobuf.message import Message as ProtobufMessage
from zerohop.generated import Message, message_class

__all__ = ["from_pb2", "to_pb2"]


def to_pb2(message: Message) -> Any:
    """protobuf's message of the same type with the same content, unknown fields too."""
    if not isinstance(message, Message):
        raise TypeError(f"a message of a generated class is wanted, not {type(message).__name__}")
    pb2 = message_factory.GetMessageClass(message.DESCRIPTOR)
    made: Any = pb2()
    made.MergeFromString(message.SerializePartialToString())
    return made


def from_pb2(message: ProtobufMessage) -> Any:
    """Our message of the same type with the same content; its generated module must be imported.

    KeyError if there is no generated class of that name.
    """
    if isinstance(message, Message) or not hasattr(message, "DESCRIPTOR"):
        raise TypeError(f"a message of protobuf's own is wanted, not {type(message).__name__}")
    name = message.DESCRIPTOR.full_name
    try:
        cls = message_class(name)
    except KeyError:
        raise KeyError(
            f"no generated class of {name}: import its _zerohop module "
            "(python -m zerohop.protoc makes it)"
        ) from None
    made = cls()
    made.MergeFromString(message.SerializePartialToString())
    return made


def replace(message: Message, content: ProtobufMessage) -> None:
    """Let one of ours be what one of protobuf's is."""
    message.Clear()
    message.MergeFromString(content.SerializePartialToString())
