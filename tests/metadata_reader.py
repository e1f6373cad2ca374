"""Reads TFLite Model Metadata from a file, field by field as metadata_schema.fbs numbers them."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import number_types as types
from flatbuffers.table import Table


def metadata_buffer(tflite: bytes) -> bytes:
    """Returns the one buffer that is named TFLITE_METADATA."""
    model = schema.Model.GetRootAs(tflite, 0)
    entries = [model.Metadata(index) for index in range(model.MetadataLength())]
    (number,) = [entry.Buffer() for entry in entries if entry.Name() == b"TFLITE_METADATA"]
    return model.Buffers(number).DataAsNumpy().tobytes()


def read_metadata(tflite: bytes) -> dict[str, Any]:
    """Returns what the metadata of a classifier tell."""
    data = metadata_buffer(tflite)
    assert data[4:8] == b"M001"
    root = _View(data, flatbuffers.encode.Get(types.UOffsetTFlags.packer_type, data, 0))
    (graph,) = root.tables(3)
    (image,), (scores,) = graph.tables(2), graph.tables(3)
    (unit,) = image.tables(4)
    (labels,) = scores.tables(6)
    assert (image.table(3).number(0, types.Uint8Flags), unit.number(0, types.Uint8Flags)) == (2, 1)
    assert scores.table(3).number(0, types.Uint8Flags) == 1  # FeatureProperties
    properties, normalization, stats = image.table(3).table(1), unit.table(1), image.table(5)
    size = properties.table(1)
    return {
        "name": root.text(0),
        "description": root.text(1),
        "min_parser_version": root.text(7),
        "color_space": properties.number(0, types.Int8Flags),
        "width": size.number(0, types.Uint32Flags),
        "height": size.number(1, types.Uint32Flags),
        "mean": normalization.floats(0),
        "std": normalization.floats(1),
        "max": stats.floats(0),
        "min": stats.floats(1),
        "output": scores.text(0),
        "labels_file": labels.text(0),
        "labels_type": labels.number(2, types.Int8Flags),
    }


def packed_files(tflite: bytes) -> dict[str, bytes]:
    """Returns the files in the ZIP archive behind a network; they are stored without compression."""
    with zipfile.ZipFile(io.BytesIO(tflite)) as archive:
        assert archive.testzip() is None
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        return {name: archive.read(name) for name in archive.namelist()}


class _View(Table):
    """A table whose fields are named by their number."""

    def _place(self, field: int) -> int:
        offset = self.Offset(4 + 2 * field)
        assert offset, f"field {field} is not there"
        return int(offset)

    def number(self, field: int, kind: Any) -> int:
        return int(self.Get(kind, self.Pos + self._place(field)))

    def text(self, field: int) -> str:
        return bytes(self.String(self.Pos + self._place(field))).decode()

    def table(self, field: int) -> _View:
        return _View(self.Bytes, self.Indirect(self.Pos + self._place(field)))

    def tables(self, field: int) -> list[_View]:
        place = self._place(field)
        start = self.Vector(place)
        return [_View(self.Bytes, self.Indirect(start + 4 * i)) for i in range(self.VectorLen(place))]

    def floats(self, field: int) -> list[float]:
        found = self.GetVectorAsNumpy(types.Float32Flags, self._place(field))
        return np.asarray(found).tolist()
