"""Reads a TFLite file into objects of its schema that can be changed, and writes such objects as a file."""

from __future__ import annotations

import copy
import struct
from typing import Any

import numpy as np

from amc_tf.errors import ModelError

_ALIGNMENT = 16  # of every constant, as the schema of TFLite asks for
_HEADROOM = 1 << 16  # bytes a file takes beside its constants, to begin with


def unpack(tflite: bytes) -> Any:
    """Returns a network as a `ModelT` of `ai_edge_litert.schema_py_generated`.

    Args:
        tflite: the contents of a `.tflite` file.

    Raises:
        ModelError: if it is damaged.
    """
    from ai_edge_litert import schema_py_generated as schema

    try:
        return schema.ModelT.InitFromPackedBuf(tflite, 0)
    except (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ModelError(
            f"The TFLite network ({len(tflite)} bytes) is damaged ({error}); convert it again."
        ) from error


def pack(model: Any) -> bytearray:
    """Writes a network, its constants aligned as the schema asks for.

    Args:
        model: a `ModelT`; it is not changed.

    Returns:
        The contents of a `.tflite` file.
    """
    import flatbuffers

    size = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    builder = flatbuffers.Builder(size + _HEADROOM)
    model = copy.copy(model)
    model.buffers = [_Aligned(buffer) for buffer in model.buffers]
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return builder.Output()  # a copy


class _Aligned:
    """A buffer whose bytes begin where the schema wants them: flatbuffers' Python writer does not heed it."""

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer

    def Pack(self, builder: Any) -> int:  # noqa: N802  # called by the schema's own code
        from ai_edge_litert import schema_py_generated as schema

        data = self._buffer.data
        if data is None:
            return int(self._buffer.Pack(builder))
        content = np.ascontiguousarray(data, np.uint8).data
        builder.StartVector(1, len(content), _ALIGNMENT)
        builder.head -= len(content)
        builder.Bytes[builder.head : builder.head + len(content)] = content
        vector = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, vector)
        return int(schema.BufferEnd(builder))
