"""Reads from a TFLite file the operators that it runs, as far as they decide how long it takes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import struct
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from amc_tf.errors import MeasurementError, ModelError

_MAX_SIZE = 1 << 24  # of one axis; more is no image and no layer
_MAX_OPERATORS = 100_000
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
# What XNNPACK's profile and TFLite's own call one and the same work; the first pattern that is found decides.
_CLASSES = (
    ("depthwise", r"dwconv|depthwise"),
    ("transpose_conv", r"deconv|transpose_conv"),
    ("matmul", r"convolution|conv_?2d|fully"),
    ("mean", r"mean|global average"),
    ("average_pool", r"average[ _]pool"),
    ("max_pool", r"max[ _]pool"),
    ("pad", r"pad"),
)

Shape = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator of a network: what its time depends on besides the device.

    Attributes:
        kind: TFLite's name, such as "CONV_2D".
        input: (height, width, channels) of the first input that is no weight; 1 for axes it lacks.
        output: (height, width, channels) of the output.
        kernel: (height, width) of the window of a convolution or pooling, else (1, 1).
        stride: (vertical, horizontal).
        groups: Groups of a grouped convolution; 1 elsewhere, depthwise convolutions included.
        precision: "float32"; "float16" for weights stored so; "dynamic" for int8 weights with float
            arithmetic; else the type of the input, such as "int8".
    """

    kind: str
    input: Shape
    output: Shape
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    groups: int = 1
    precision: str = "float32"

    @property
    def num_weights(self) -> int:
        """Weights that are read, biases left out."""
        if self.kind not in _WEIGHTED:
            return 0
        window = self.kernel[0] * self.kernel[1] * self.output[2]
        return window if self.kind == "DEPTHWISE_CONV_2D" else window * self.input[2] // self.groups

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run; 0 for operators without weights."""
        height, width, _ = self.input if self.kind == "TRANSPOSE_CONV" else self.output
        return height * width * self.num_weights

    def to_row(self) -> list[Any]:
        """Returns the operator as a flat list for JSON; `from_row` is the inverse."""
        return [self.kind, *self.input, *self.output, *self.kernel, *self.stride, self.groups, self.precision]

    @classmethod
    def from_row(cls, row: Any) -> Operator:
        """Rebuilds an operator from `to_row`.

        Raises:
            MeasurementError: The row has another length, or a value no operator can have.
        """
        if isinstance(row, list) and len(row) == 13:
            kind, *numbers, precision = row
            sizes_fit = all(type(number) is int and 1 <= number <= _MAX_SIZE for number in numbers)
            if isinstance(kind, str) and isinstance(precision, str) and sizes_fit:
                height, width, channels, rows, columns, outputs, *window, groups = numbers
                kernel, stride = (window[0], window[1]), (window[2], window[3])
                source, output = (height, width, channels), (rows, columns, outputs)
                return cls(kind, source, output, kernel, stride, groups, precision)
        raise MeasurementError(
            f"{json.dumps(row)[:100]} is no operator: expected kind, 11 sizes from 1 to {_MAX_SIZE} and "
            "precision."
        )


def read_operators(tflite: bytes) -> tuple[Operator, ...]:
    """Lists the operators of a network in the order in which they run.

    Nothing is loaded or run. Operators that unpack constant weights are left out: runtimes do that once.

    Args:
        tflite: The contents of a `.tflite` file; only its first subgraph is read.

    Raises:
        ModelError: The bytes are no TFLite network, or are damaged.
    """
    if bytes(tflite[4:8]) != b"TFL3":
        raise ModelError(
            f"The {len(tflite)} bytes are no TFLite network; give the contents of a .tflite file."
        )
    try:
        return _Reader(bytes(tflite)).operators()
    except (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ModelError(
            f"The operators of the TFLite network ({len(tflite)} bytes) cannot be read ({error}): it is "
            "damaged; convert it again."
        ) from error


def structure(operators: Sequence[Operator]) -> str:
    """Returns a digest that is equal for networks which differ in nothing but the values of their weights."""
    text = json.dumps([operator.to_row() for operator in operators])
    return hashlib.sha256(text.encode()).hexdigest()


def assign_times(
    operators: Sequence[Operator], profile: Sequence[tuple[str, float]]
) -> tuple[float | None, ...] | None:
    """Finds the time of each operator in a profile.

    Delegates rename operators, add some and fuse others, but keep those of one class (convolutions and
    fully connected layers, depthwise convolutions, ...) in order. A class is assigned where it occurs equally
    often on both sides.

    Args:
        operators: Of the network that was profiled.
        profile: Kind and mean time in milliseconds of each profiled operator, in run order.

    Returns:
        A time in milliseconds or None for each operator; None altogether if that of an operator with weights
        is unknown, because then the profile is of other work than these operators.
    """
    rows: dict[str, list[float]] = defaultdict(list)
    for kind, time_ms in profile:
        rows[_class_of(kind)].append(time_ms)
    members: dict[str, list[int]] = defaultdict(list)
    for index, operator in enumerate(operators):
        members[_class_of(operator.kind)].append(index)
    times: list[float | None] = [None] * len(operators)
    for name, indices in members.items():
        if len(rows[name]) == len(indices):
            for index, time_ms in zip(indices, rows[name], strict=True):
                times[index] = time_ms
    known = zip(operators, times, strict=True)
    return None if any(time is None for operator, time in known if operator.num_weights) else tuple(times)


def _class_of(kind: str) -> str:
    text = kind.lower()
    for name, pattern in _CLASSES:
        if re.search(pattern, text):
            return name
    return re.split(r"[ (]", text, maxsplit=1)[0]


class _Reader:
    """Walks the flatbuffer of one network; whatever it finds out of range raises."""

    def __init__(self, tflite: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._schema = schema
        self._model = schema.Model.GetRootAs(tflite, 0)
        if self._model.SubgraphsLength() < 1:
            raise ValueError("it has no subgraph")
        self._graph = self._model.Subgraphs(0)
        self._kinds = {code: name for name, code in vars(schema.BuiltinOperator).items() if type(code) is int}
        self._types = {
            code: name.lower() for name, code in vars(schema.TensorType).items() if type(code) is int
        }
        self._unpacked: dict[int, str] = {}

    def operators(self) -> tuple[Operator, ...]:
        count = self._graph.OperatorsLength()
        if count > _MAX_OPERATORS:
            raise ValueError(f"it claims {count} operators")
        found = (self._operator(self._graph.Operators(index)) for index in range(count))
        return tuple(operator for operator in found if operator is not None)

    def _operator(self, node: Any) -> Operator | None:
        kind = self._kind(node.OpcodeIndex())
        if node.OutputsLength() < 1:
            raise ValueError(f"a {kind} has no output")
        inputs = [node.Inputs(index) for index in range(min(node.InputsLength(), 8))]
        inputs = [index for index in inputs if index >= 0]
        if kind == "DEQUANTIZE" and self._is_constant(inputs[0]):
            self._unpacked[node.Outputs(0)] = self._type(inputs[0])
            return None
        data = [index for index in inputs if not self._is_constant(index)]
        output = _three(self._shape(node.Outputs(0)))
        source = _three(self._shape(data[0])) if data else output
        weights = self._weights(kind, inputs)
        shape = self._shape(weights) if weights is not None else ()
        kernel, stride = self._window(kind, node, shape)
        groups = 1
        if kind == "FULLY_CONNECTED" and shape and shape[-1] != source[2]:
            source = (1, 1, shape[-1])
        elif kind == "CONV_2D" and shape and source[2] % shape[-1] == 0:
            groups = source[2] // shape[-1]
        precision = self._precision(data[0] if data else node.Outputs(0), weights)
        return Operator(kind, source, output, kernel, stride, groups, precision)

    def _kind(self, index: int) -> str:
        code = self._model.OperatorCodes(_checked(index, self._model.OperatorCodesLength(), "operator code"))
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        return self._kinds.get(number, f"OPERATOR_{number}")

    def _tensor(self, index: int) -> Any:
        return self._graph.Tensors(_checked(index, self._graph.TensorsLength(), "tensor"))

    def _shape(self, index: int) -> tuple[int, ...]:
        """Returns the shape of a tensor; sizes that are left open count as 1."""
        tensor = self._tensor(index)
        if tensor.ShapeLength() > 8:
            raise ValueError(f"tensor {index} claims {tensor.ShapeLength()} axes")
        sizes = tuple(max(int(tensor.Shape(axis)), 1) for axis in range(tensor.ShapeLength()))
        if any(size > _MAX_SIZE for size in sizes):
            raise ValueError(f"tensor {index} claims the shape {sizes}")
        return sizes

    def _type(self, index: int) -> str:
        return self._types.get(self._tensor(index).Type(), "unknown")

    def _is_constant(self, index: int) -> bool:
        if index in self._unpacked:
            return True
        buffer = self._model.Buffers(
            _checked(self._tensor(index).Buffer(), self._model.BuffersLength(), "buffer")
        )
        return bool(buffer.DataLength() > 0 or buffer.Size() > 1)

    def _weights(self, kind: str, inputs: Sequence[int]) -> int | None:
        return inputs[1] if kind in _WEIGHTED and len(inputs) > 1 else None

    def _precision(self, source: int, weights: int | None) -> str:
        """Names the arithmetic from the types of input and weights."""
        stored = None if weights is None else self._unpacked.get(weights, self._type(weights))
        if self._type(source) == "float32" and stored in ("float16", "int8"):
            return "float16" if stored == "float16" else "dynamic"
        return self._type(source)

    def _window(
        self, kind: str, node: Any, weights: Sequence[int]
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns kernel and stride of convolutions and poolings."""
        names = {"CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions"}
        names["TRANSPOSE_CONV"] = "TransposeConvOptions"
        names["AVERAGE_POOL_2D"] = names["MAX_POOL_2D"] = "Pool2DOptions"
        table = node.BuiltinOptions()
        if kind not in names or table is None:
            return (1, 1), (1, 1)
        options = getattr(self._schema, names[kind])()
        options.Init(table.Bytes, table.Pos)
        stride = (_size(options.StrideH()), _size(options.StrideW()))
        if names[kind] == "Pool2DOptions":
            return (_size(options.FilterHeight()), _size(options.FilterWidth())), stride
        if len(weights) != 4:
            raise ValueError(f"the weights of a {kind} have {len(weights)} axes instead of 4")
        return (weights[1], weights[2]), stride


def _three(shape: Sequence[int]) -> Shape:
    """Returns (height, width, channels) of a tensor whose first axis, from two axes on, is the batch."""
    sizes = (1, 1, 1, *(shape if len(shape) == 1 else shape[1:]))
    return sizes[-3], sizes[-2], sizes[-1]


def _size(number: int) -> int:
    if not 1 <= number <= _MAX_SIZE:
        raise ValueError(f"a window of size {number}")
    return int(number)


def _checked(index: int, count: int, what: str) -> int:
    if not 0 <= index < count:
        raise IndexError(f"{what} {index} of {count}")
    return index
