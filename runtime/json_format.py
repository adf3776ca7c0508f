"""google.protobuf.json_format for generated messages: the same functions, options and errors.

What it offers beyond these functions is protobuf's own.
"""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf import json_format as _theirs
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import Error, ParseError, SerializeToJsonError
from zerohop.convert import replace, to_pb2
from zerohop.generated import Message

__all__ = [
    "Error",
    "MessageToDict",
    "MessageToJson",
    "Parse",
    "ParseDict",
    "ParseError",
    "SerializeToJsonError",
]

_M = TypeVar("_M", bound=Message)


def MessageToJson(
    message: Message,
    preserving_proto_field_name: bool = False,
    indent: int | None = 2,
    sort_keys: bool = False,
    use_integers_for_enums: bool = False,
    descriptor_pool: DescriptorPool | None = None,
    ensure_ascii: bool = True,
    always_print_fields_with_no_presence: bool = False,
) -> str:
    """The message as JSON."""
    return _theirs.MessageToJson(
        to_pb2(message),
        preserving_proto_field_name=preserving_proto_field_name,
        indent=indent,
        sort_keys=sort_keys,
        use_integers_for_enums=use_integers_for_enums,
        descriptor_pool=descriptor_pool,
        ensure_ascii=ensure_ascii,
        always_print_fields_with_no_presence=always_print_fields_with_no_presence,
    )


def MessageToDict(
    message: Message,
    always_print_fields_with_no_presence: bool = False,
    preserving_proto_field_name: bool = False,
    use_integers_for_enums: bool = False,
    descriptor_pool: DescriptorPool | None = None,
) -> dict[str, Any]:
    """The message as what json.loads would make of its JSON."""
    return _theirs.MessageToDict(
        to_pb2(message),
        always_print_fields_with_no_presence=always_print_fields_with_no_presence,
        preserving_proto_field_name=preserving_proto_field_name,
        use_integers_for_enums=use_integers_for_enums,
        descriptor_pool=descriptor_pool,
    )


def Parse(
    text: str | bytes,
    message: _M,
    ignore_unknown_fields: bool = False,
    descriptor_pool: DescriptorPool | None = None,
    max_recursion_depth: int = 100,
) -> _M:
    """Merge JSON into the message, which is returned. ParseError, with the message as it was."""
    made = to_pb2(message)
    _theirs.Parse(text, made, ignore_unknown_fields, descriptor_pool, max_recursion_depth)
    replace(message, made)
    return message


def ParseDict(
    js_dict: Any,
    message: _M,
    ignore_unknown_fields: bool = False,
    descriptor_pool: DescriptorPool | None = None,
    max_recursion_depth: int = 100,
) -> _M:
    """Merge what MessageToDict makes into the message, which is returned. ParseError."""
    made = to_pb2(message)
    _theirs.ParseDict(js_dict, made, ignore_unknown_fields, descriptor_pool, max_recursion_depth)
    replace(message, made)
    return message
