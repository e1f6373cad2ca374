"""Writes flatbuffers of TFLite Model Metadata, by the tables of Google's metadata_schema.fbs.

Known here are the tables and fields that a classifier of images needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

MIN_PARSER_VERSION = "1.0.0"  # no field is written that a later version of the schema has added
FEATURE_PROPERTIES, IMAGE_PROPERTIES = 1, 2  # of the union ContentProperties
NORMALIZATION_OPTIONS = 1  # of the union ProcessUnitOptions
RGB, GRAYSCALE = 1, 2  # a ColorSpaceType
TENSOR_AXIS_LABELS = 2  # an AssociatedFileType

_IDENTIFIER = b"M001"
# Fields in the order of the schema, up to the last that is written; a union is two of them.
_FIELDS = {
    "ModelMetadata": (
        "name",
        "description",
        "version",
        "subgraph_metadata",
        "author",
        "license",
        "associated_files",
        "min_parser_version",
    ),
    "SubGraphMetadata": ("name", "description", "input_tensor_metadata", "output_tensor_metadata"),
    "TensorMetadata": (
        "name",
        "description",
        "dimension_names",
        "content",
        "process_units",
        "stats",
        "associated_files",
    ),
    "Content": ("content_properties_type", "content_properties"),
    "FeatureProperties": (),
    "ImageProperties": ("color_space", "default_size"),
    "ImageSize": ("width", "height"),
    "ProcessUnit": ("options_type", "options"),
    "NormalizationOptions": ("mean", "std"),
    "Stats": ("max", "min"),
    "AssociatedFile": ("name", "description", "type"),
}
_UINT_FIELDS = ("width", "height")  # the other numbers take a byte


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the schema.

    Attributes:
        kind: its name in the schema.
        fields: values of the fields that are not left at their defaults: text, whole numbers, float32 arrays,
            tables, or lists of tables.
    """

    kind: str
    fields: Mapping[str, Any]


def table(kind: str, **fields: Any) -> Table:
    """Returns a table with its fields as keywords."""
    return Table(kind, fields)


def to_flatbuffer(root: Table) -> bytes:
    """Writes a table and all that it holds.

    Args:
        root: a "ModelMetadata".
    """
    import flatbuffers

    builder = flatbuffers.Builder()
    builder.Finish(_write(builder, root), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _write(builder: Any, value: Any) -> int:
    """Writes a string, float32 array, list of tables, or table, and returns its offset."""
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, np.ndarray):
        return int(builder.CreateNumpyVector(value))
    if isinstance(value, list):
        offsets = [_write(builder, item) for item in value]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())
    return _write_table(builder, value)


def _write_table(builder: Any, value: Table) -> int:
    numbers = {name: field for name, field in value.fields.items() if isinstance(field, int)}
    references = {name: _write(builder, field) for name, field in value.fields.items() if name not in numbers}
    order = _FIELDS[value.kind]
    builder.StartObject(len(order))
    for name, offset in references.items():
        builder.PrependUOffsetTRelativeSlot(order.index(name), offset, 0)
    for name, number in numbers.items():
        prepend = builder.PrependUint32Slot if name in _UINT_FIELDS else builder.PrependUint8Slot
        prepend(order.index(name), number, 0)
    return int(builder.EndObject())
