"""Writes TFLite networks that differ from a converted one in their channel counts and weights only."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amc_tf.device.tflite_file import pack, unpack
from amc_tf.errors import ModelError

Arrays = Mapping[str, Mapping[str, NDArray[np.float32]]]  # by layer path and weight name

# How Keras lays out a weight, and how TFLite does; the first that fits is the one.
_LAYOUTS: tuple[Callable[[NDArray[np.float32]], NDArray[np.float32]], ...] = (
    lambda array: array,  # biases, slopes
    lambda array: array.T if array.ndim == 2 else array,  # dense: [in, out] -> [out, in]
    lambda array: array.transpose(3, 0, 1, 2) if array.ndim == 4 else array,  # convolution: HWIO -> OHWI
    lambda array: array.reshape(1, *array.shape[:2], -1) if array.ndim == 4 else array,  # depthwise
)
_CARRY_WIDTHS = (
    "BROADCAST_TO",
    "FILL",
    "SLICE",
    "SPLIT_V",
    "STRIDED_SLICE",
    "TRANSPOSE_CONV",
)  # in constants of theirs


@dataclasses.dataclass(frozen=True)
class _Source:
    """Where a constant comes from: a weight, laid out as TFLite has it, and what is added to it."""

    path: str
    name: str
    layout: int = 0
    shift: float = 0.0

    def values(self, weights: Arrays) -> NDArray[np.float32]:
        array = _LAYOUTS[self.layout](np.asarray(weights[self.path][self.name], np.float32))
        return np.ascontiguousarray(array + np.float32(self.shift) if self.shift else array)


class TFLiteTemplate:
    """A converted network of which others are made by exchanging its weights.

    Conversion spends its time in TensorFlow and MLIR, which find the same operators for every width. Here the
    file that they made once is written again with other constants, and the runtime itself infers the shapes
    between them.

    Args:
        tflite: a float32 network of one subgraph.
        markers: the arrays it was converted with. No two may be alike: each constant of the file is
            recognised by its values.

    Raises:
        ModelError: if a constant of the file is none of the arrays, or an operator holds channel counts in
            another way than is known here. Such a network has to be converted anew.
    """

    def __init__(self, tflite: bytes, markers: Arrays) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._schema = schema
        self._model = unpack(tflite)
        if len(self._model.subgraphs) != 1:
            raise ModelError(f"The TFLite network has {len(self._model.subgraphs)} subgraphs instead of one.")
        graph = self._model.subgraphs[0]
        kinds = {code: name for name, code in vars(schema.BuiltinOperator).items() if type(code) is int}
        self._kinds = [
            kinds[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in self._model.operatorCodes
        ]
        strange = {self._kinds[node.opcodeIndex] for node in graph.operators} & set(_CARRY_WIDTHS)
        if strange:
            raise ModelError(f"The channel counts that {min(strange)} holds are not known.")
        known = _Known(markers)
        self._sources: dict[int, _Source] = {}
        self._zero_biases: dict[int, int] = {}  # tensor of the weights, by that of the bias
        for index, values in self._float_constants():
            source = known.source(values)
            if source is not None:
                self._sources[index] = source
            elif not values.any() and index in (biases := self._biases()):
                self._zero_biases[index] = biases[index]
            elif values.size != 1:
                name = graph.tensors[index].name.decode(errors="replace")
                raise ModelError(f"The constant {name!r} {list(values.shape)} is no weight of a layer.")

    def fill(self, weights: Arrays) -> bytes:
        """Returns the network with other weights, of any channel counts.

        Args:
            weights: as `markers`, with axes of other lengths.
        """
        model, graph, operators = self._copy()
        for index, source in self._sources.items():
            self._set(model, index, source.values(weights))
        for index, of in self._zero_biases.items():
            self._set(model, index, np.zeros(graph.tensors[of].shape[0], np.float32))
        reshapes = [self._open_reshape(model, node) for node in operators if self._kind(node) == "RESHAPE"]
        file = pack(model)
        self._settle(file, _infer_shapes(file), reshapes)
        return bytes(file)

    def _float_constants(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        for index, tensor in enumerate(self._model.subgraphs[0].tensors):
            data = self._model.buffers[tensor.buffer].data
            if tensor.type == self._schema.TensorType.FLOAT32 and data is not None and len(data):
                yield index, np.asarray(data, np.uint8).view(np.float32).reshape(tensor.shape)

    def _biases(self) -> dict[int, int]:
        """Returns the tensor of the weights for each bias of a convolution or fully connected layer."""
        weighted = ("CONV_2D", "FULLY_CONNECTED")
        return {
            node.inputs[2]: node.inputs[1]
            for node in self._model.subgraphs[0].operators
            if self._kind(node) in weighted and len(node.inputs) > 2
        }

    def _kind(self, node: Any) -> str:
        return self._kinds[node.opcodeIndex]

    def _copy(self) -> tuple[Any, Any, list[Any]]:
        """Returns model, graph and operators that can be changed; constants are shared."""
        model = copy.copy(self._model)
        model.buffers = [copy.copy(buffer) for buffer in model.buffers]
        graph = copy.copy(model.subgraphs[0])
        graph.tensors = [copy.copy(tensor) for tensor in graph.tensors]
        graph.operators = [copy.copy(node) for node in graph.operators]
        model.subgraphs = [graph]
        return model, graph, graph.operators

    def _set(self, model: Any, index: int, array: NDArray[Any]) -> None:
        tensor = model.subgraphs[0].tensors[index]
        tensor.shape = list(array.shape)
        model.buffers[tensor.buffer].data = array.reshape(-1).view(np.uint8)

    def _add(self, model: Any, like: Any, values: NDArray[np.int32]) -> int:
        """Adds a constant: operators share those that are equal, of which one may have to change."""
        buffer = self._schema.BufferT()
        buffer.data = values.view(np.uint8)
        model.buffers = [*model.buffers, buffer]
        tensor = copy.copy(like)
        tensor.buffer = len(model.buffers) - 1
        graph = model.subgraphs[0]
        graph.tensors = [*graph.tensors, tensor]
        return len(graph.tensors) - 1

    def _open_reshape(self, model: Any, node: Any) -> tuple[int, int]:
        """Leaves the last axis of a reshape open, where channels run; returns its shape and its output."""
        tensors = model.subgraphs[0].tensors
        shape = _ints(model, tensors[node.inputs[1]])
        shape[-1] = -1
        node.inputs = [node.inputs[0], self._add(model, tensors[node.inputs[1]], shape)]
        node.builtinOptions = None  # the shape once more
        node.builtinOptionsType = self._schema.BuiltinOptions.NONE
        return node.inputs[1], node.outputs[0]

    def _settle(
        self, file: bytearray, shapes: Mapping[int, tuple[int, ...]], reshapes: list[tuple[int, int]]
    ) -> None:
        """Writes inferred shapes into a file: those of its tensors, and those that its reshapes ask for."""
        model = self._schema.Model.GetRootAs(file, 0)
        graph = model.Subgraphs(0)
        for index in range(graph.TensorsLength()):
            tensor = graph.Tensors(index)
            if tensor.ShapeLength():
                tensor.ShapeAsNumpy()[:] = shapes[index]
        for shape, output in reshapes:
            model.Buffers(graph.Tensors(shape).Buffer()).DataAsNumpy().view(np.int32)[:] = shapes[output]


class _Known:
    """Recognises the constants of a file."""

    def __init__(self, markers: Arrays) -> None:
        self._markers = markers
        self._exact: dict[tuple[tuple[int, ...], bytes], _Source] = {}
        self._vectors: dict[int, list[_Source]] = {}  # by length
        for path, arrays in markers.items():
            for name, array in arrays.items():
                if array.ndim == 1:
                    self._vectors.setdefault(len(array), []).append(_Source(path, name))
                for layout in range(len(_LAYOUTS)):
                    source = _Source(path, name, layout)
                    values = source.values(markers)
                    self._exact.setdefault((values.shape, values.tobytes()), source)

    def source(self, values: NDArray[np.float32]) -> _Source | None:
        """Tells where a constant comes from; None for one that is no weight."""
        exact = self._exact.get((values.shape, values.tobytes()))
        if exact is not None or values.ndim != 1:
            return exact
        # The converter adds what follows a layer to its bias, as the 3 of a hard sigmoid.
        for source in self._vectors.get(len(values), []):
            shift = float(np.float32(np.median(values - source.values(self._markers))).round(5))
            shifted = dataclasses.replace(source, shift=shift)
            if np.array_equal(shifted.values(self._markers), values):
                return shifted
        return None


def _ints(model: Any, tensor: Any) -> NDArray[np.int32]:
    """Returns a copy of an int32 constant."""
    data = model.buffers[tensor.buffer].data
    if data is None or not len(data):
        raise ModelError("A shape is computed while the TFLite network runs.")
    return np.array(data, np.uint8).view(np.int32)


def _infer_shapes(tflite: bytearray) -> dict[int, tuple[int, ...]]:
    """Returns the shape of every tensor, as the runtime infers it from the inputs and constants."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=bytes(tflite),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    return {
        details["index"]: tuple(int(size) for size in details["shape"])
        for details in interpreter.get_tensor_details()
    }
