"""What a field is: presence, packing, closed enums, UTF-8, by syntax or by an edition's features.

The rules are those of protobuf's "Feature Settings for Editions": a feature set on an element holds
for all it contains, until it is set anew.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    Edition,
    EnumDescriptorProto,
    FeatureSet,
    FieldDescriptorProto,
    FileDescriptorProto,
)

__all__ = ["enum_is_closed", "field_features", "file_features", "is_packable", "syntax"]

_PROTO3 = FeatureSet(
    field_presence=FeatureSet.IMPLICIT,
    enum_type=FeatureSet.OPEN,
    repeated_field_encoding=FeatureSet.PACKED,
    utf8_validation=FeatureSet.VERIFY,
    message_encoding=FeatureSet.LENGTH_PREFIXED,
)
_PROTO2 = FeatureSet(
    field_presence=FeatureSet.EXPLICIT,
    enum_type=FeatureSet.CLOSED,
    repeated_field_encoding=FeatureSet.EXPANDED,
    utf8_validation=FeatureSet.NONE,
    message_encoding=FeatureSet.LENGTH_PREFIXED,
)
_EDITION_2023 = FeatureSet(
    field_presence=FeatureSet.EXPLICIT,
    enum_type=FeatureSet.OPEN,
    repeated_field_encoding=FeatureSet.PACKED,
    utf8_validation=FeatureSet.VERIFY,
    message_encoding=FeatureSet.LENGTH_PREFIXED,
)

_NOT_PACKABLE = (
    FieldDescriptorProto.TYPE_STRING,
    FieldDescriptorProto.TYPE_BYTES,
    FieldDescriptorProto.TYPE_MESSAGE,
    FieldDescriptorProto.TYPE_GROUP,
)


def syntax(file: FileDescriptorProto) -> str:
    """`proto2`, `proto3`, `editions`, or another name, which nobody here knows."""
    return file.syntax or "proto2"


def file_features(file: FileDescriptorProto) -> FeatureSet | None:
    """The features of a file's elements, or None for an edition that is not supported."""
    if syntax(file) == "proto2":
        return _PROTO2
    if syntax(file) == "proto3":
        return _PROTO3
    if file.edition != Edition.EDITION_2023:
        return None
    return _inherit(_EDITION_2023, [file.options.features])


def field_features(
    file: FeatureSet, messages: Iterable[DescriptorProto], field: FieldDescriptorProto
) -> FeatureSet:
    """The features of a field; `messages` are those around it, the outermost first."""
    messages = list(messages)
    oneofs = messages[-1].oneof_decl
    sets = [message.options.features for message in messages]
    if field.HasField("oneof_index"):
        sets.append(oneofs[field.oneof_index].options.features)
    features = _inherit(file, [*sets, field.options.features])
    # What proto2 and proto3 say in words.
    if field.proto3_optional:
        features.field_presence = FeatureSet.EXPLICIT
    if field.label == FieldDescriptorProto.LABEL_REQUIRED:
        features.field_presence = FeatureSet.LEGACY_REQUIRED
    if field.options.HasField("packed"):
        features.repeated_field_encoding = (
            FeatureSet.PACKED if field.options.packed else FeatureSet.EXPANDED
        )
    return features


def enum_is_closed(
    file: FeatureSet, messages: Iterable[DescriptorProto], enum: EnumDescriptorProto
) -> bool:
    sets = [message.options.features for message in messages]
    return _inherit(file, [*sets, enum.options.features]).enum_type == FeatureSet.CLOSED


def is_packable(field: FieldDescriptorProto) -> bool:
    return field.label == FieldDescriptorProto.LABEL_REPEATED and field.type not in _NOT_PACKABLE


def _inherit(base: FeatureSet, sets: Iterable[FeatureSet]) -> FeatureSet:
    result = FeatureSet()
    result.CopyFrom(base)
    for features in sets:
        result.MergeFrom(features)
    return result
