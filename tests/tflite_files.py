"""Small TFLite files written without TensorFlow: chains of depthwise and pointwise convolutions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

CODES = schema.BuiltinOperator


def chain(widths: Sequence[int], *, size: int = 16, seed: int = 0) -> bytes:
    """Returns a network of 3x3 stem, a depthwise and a 1x1 convolution for each further width, and a mean.

    Args:
        widths: channels of the stem and of each 1x1 convolution.
        size: rows and columns of the image.
        seed: of the weights.
    """
    writer = _Writer(np.random.default_rng(seed))
    image = writer.tensor((1, size, size, 3))
    hidden = writer.convolution(image, (1, size, size, widths[0]), (widths[0], 3, 3, 3))
    for before, after in itertools.pairwise(widths):
        hidden = writer.convolution(
            hidden, (1, size, size, before), (1, 3, 3, before), code=CODES.DEPTHWISE_CONV_2D
        )
        hidden = writer.convolution(hidden, (1, size, size, after), (after, 1, 1, before))
    axes = writer.tensor((2,), data=np.array([1, 2], np.int32), kind=schema.TensorType.INT32)
    output = writer.tensor((1, widths[-1]))
    writer.operator(CODES.MEAN, [hidden, axes], output, schema.ReducerOptionsT())
    return writer.file([image], [output])


class _Writer:
    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._buffers = [schema.BufferT()]
        self._codes: list[int] = []

    def tensor(
        self, shape: tuple[int, ...], *, data: Any = None, kind: int = schema.TensorType.FLOAT32
    ) -> int:
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.buffer = list(shape), kind, 0
        tensor.name = f"tensor_{len(self._graph.tensors)}".encode()
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            self._buffers.append(buffer)
            tensor.buffer = len(self._buffers) - 1
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def convolution(
        self, source: int, output: tuple[int, ...], weights: tuple[int, ...], *, code: int = CODES.CONV_2D
    ) -> int:
        depthwise = code == CODES.DEPTHWISE_CONV_2D
        options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.strideH = options.strideW = 1
        if depthwise:
            options.depthMultiplier = 1
        values = self._rng.normal(size=weights).astype(np.float32)
        inputs = [source, self.tensor(weights, data=values)]
        inputs.append(self.tensor((output[-1],), data=np.zeros(output[-1], np.float32)))
        result = self.tensor(output)
        self.operator(code, inputs, result, options)
        return result

    def operator(self, code: int, inputs: list[int], output: int, options: Any) -> None:
        if code not in self._codes:
            self._codes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = self._codes.index(code)
        operator.inputs, operator.outputs = inputs, [output]
        operator.builtinOptions = options
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__[:-1])
        self._graph.operators.append(operator)

    def file(self, inputs: list[int], outputs: list[int]) -> bytes:
        model = schema.ModelT()
        model.version, model.buffers, model.subgraphs = 3, self._buffers, [self._graph]
        self._graph.inputs, self._graph.outputs = inputs, outputs
        model.operatorCodes = []
        for number in self._codes:
            code = schema.OperatorCodeT()
            code.builtinCode = code.deprecatedBuiltinCode = number
            code.version = 1
            model.operatorCodes.append(code)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())
