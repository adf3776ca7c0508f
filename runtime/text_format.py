"""google.protobuf.text_format for generated messages: the same functions, options and errors."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf import text_format as _theirs
from google.protobuf.text_format import Error, ParseError
from zerohop.convert import replace, to_pb2
from zerohop.generated import Message

__all__ = ["Error", "Merge", "MessageToString", "Parse", "ParseError"]

_M = TypeVar("_M", bound=Message)


def MessageToString(message: Message, *args: Any, **options: Any) -> str:
    """The message as text. Options are those of google.protobuf.text_format.MessageToString."""
    return _theirs.MessageToString(to_pb2(message), *args, **options)


def Parse(text: str | bytes, message: _M, *args: Any, **options: Any) -> _M:
    """Merge text into the message, which is returned; a field may be set once. ParseError, with the
    message as it was. Options are those of google.protobuf.text_format.Parse."""
    made = to_pb2(message)
    _theirs.Parse(text, made, *args, **options)
    replace(message, made)
    return message


def Merge(text: str | bytes, message: _M, *args: Any, **options: Any) -> _M:
    """As Parse; of a field that is set several times the last one counts."""
    made = to_pb2(message)
    _theirs.Merge(text, made, *args, **options)
    replace(message, made)
    return message
