"""Reads a Keras model as a flat list of layer calls in network order.

Functional and Sequential models of Keras 3 and of `tf_keras` are read alike; nested models are entered, so
that the rest of the toolkit sees one flat network. Nothing of the model is changed or run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from amc_tf.clone import check_functional, clone_with, copy_weights, functional_of, in_float32
from amc_tf.errors import ModelError

DEFAULT_IMAGE_SIZE = (224, 224)


@dataclasses.dataclass(frozen=True)
class TensorRef:
    """Stands for a tensor inside the recorded arguments of a call.

    Attributes:
        index: number of the tensor, unique in its `Trace`.
    """

    index: int


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of one layer.

    Attributes:
        path: name of the layer, prefixed by the names of the nested models around it ("backbone/conv1");
            the same for every call of a shared layer.
        layer: the Keras layer or operation.
        args: positional arguments, tensors replaced by `TensorRef`.
        kwargs: keyword arguments, likewise.
        inputs: numbers of the tensors read, in the order of the arguments.
        outputs: numbers of the tensors made.
        input_shapes: their shapes without the batch axis.
        output_shapes: likewise.
    """

    path: str
    layer: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    output_shapes: tuple[tuple[int, ...], ...]

    def replay(self, tensors: Sequence[Any], function: Callable[..., Any] | None = None) -> list[Any]:
        """Calls the layer again on other tensors and returns the outputs as a list.

        Args:
            tensors: one tensor for each of `inputs`.
            function: what to call with the recorded arguments; the layer's own `call` by default.
        """
        values = dict(zip(self.inputs, tensors, strict=True))
        args, kwargs = _map_leaves(
            (self.args, self.kwargs), lambda leaf: values[leaf.index] if isinstance(leaf, TensorRef) else leaf
        )
        result = (function or self.layer.call)(*args, **kwargs)
        return list(result) if isinstance(result, list | tuple) else [result]


@dataclasses.dataclass(frozen=True)
class Trace:
    """A network as calls in an order in which they can be run.

    Attributes:
        name: name of the model.
        calls: the calls.
        inputs: numbers of the tensors that the model is given.
        outputs: numbers of the tensors that it returns.
        input_shapes: shapes of the inputs without the batch axis.
    """

    name: str
    calls: tuple[Call, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_shapes: tuple[tuple[int, ...], ...]

    def most_images(self, max_bytes: int, *, start: int = 0) -> int:
        """Returns of how many images each float32 feature map takes at most so many bytes, at least 1.

        Args:
            max_bytes: for one feature map of all images.
            start: number of the first call that counts.
        """
        calls = self.calls[start:]
        largest = max(
            math.prod(shape) for call in calls for shape in (*call.input_shapes, *call.output_shapes)
        )
        return max(1, max_bytes // (4 * largest))


def trace_model(model: Any, *, image_size: tuple[int, int] = DEFAULT_IMAGE_SIZE) -> Trace:
    """Records the calls of a model.

    A model of mixed precision is read as a copy in float32, with the weights that it has now.

    Args:
        model: a built functional or Sequential model of Keras 3 or `tf_keras`.
        image_size: rows and columns to assume where the model takes images of any size, as
            `keras.applications.MobileNetV3Small(weights=None)` does.

    Returns:
        The calls of the model and of every model nested in it.

    Raises:
        ModelError: if it is no such model, or a size other than that of the image is left open.
    """
    model = in_float32(model)
    check_functional(model)
    functional = functional_of(model)
    if any(tuple(tensor.shape)[1:3] == (None, None) for tensor in functional.inputs):
        model = _with_image_size(model, image_size)
        functional = functional_of(model)
    recorder = _Recorder()
    shapes = tuple(_shape(tensor, model.name) for tensor in functional.inputs)
    inputs = tuple(recorder.new_tensor() for _ in functional.inputs)
    outputs = recorder.record(functional, inputs, prefix="")
    return Trace(model.name, tuple(recorder.calls), inputs, tuple(outputs), shapes)


def outputs_by_layer(model: Any) -> dict[str, Any]:
    """Returns the symbolic outputs of the layers of a model by their names.

    Layers in nested models and layers with several outputs are left out. A wrapper goes by the name of what
    it wraps; a layer that is called more than once has its last output.

    Args:
        model: a built functional or Sequential model of Keras 3 or `tf_keras`. Its layers may have been
            called in other models before: the outputs are those in this one.
    """
    functional = functional_of(model)
    found = {}
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for node in functional._nodes_by_depth[depth]:
            layer, outputs = _layer_of(node), _leaves(node.outputs)
            if len(outputs) == 1 and functional_of(layer) is None:
                found[getattr(layer, "layer", layer).name] = outputs[0]
    return found


class _Recorder:
    """Collects the calls of a model, entering nested models."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._num_tensors = 0

    def new_tensor(self) -> int:
        self._num_tensors += 1
        return self._num_tensors - 1

    def record(self, model: Any, inputs: Sequence[int], prefix: str) -> list[int]:
        """Records one pass through `model` and returns the numbers of its outputs."""
        numbers = {id(tensor): number for tensor, number in zip(model.inputs, inputs, strict=True)}
        nodes = [
            node
            for depth in sorted(model._nodes_by_depth, reverse=True)
            for node in model._nodes_by_depth[depth]
        ]
        if prefix:
            for node in nodes:
                if node.is_input:
                    self._record_nested_input(node, numbers, prefix)
        for node in nodes:
            if not node.is_input:
                self._record_node(node, numbers, prefix)
        return [numbers[id(tensor)] for tensor in model.outputs]

    def _record_nested_input(self, node: Any, numbers: dict[int, int], prefix: str) -> None:
        """Records the input layer of a nested model, whose shape shrinks with what it is given."""
        (tensor,) = _leaves(node.outputs)
        layer, read, made = _layer_of(node), numbers[id(tensor)], self.new_tensor()
        path = prefix + layer.name
        shape = _shape(tensor, path)
        self.calls.append(Call(path, layer, (TensorRef(read),), {}, (read,), (made,), (shape,), (shape,)))
        numbers[id(tensor)] = made

    def _record_node(self, node: Any, numbers: dict[int, int], prefix: str) -> None:
        layer = _layer_of(node)
        arguments = getattr(node, "arguments", None)
        args = arguments.args if arguments is not None else node.call_args
        kwargs = arguments.kwargs if arguments is not None else node.call_kwargs
        tensors = [leaf for leaf in _leaves((args, kwargs)) if _is_symbolic(leaf)]
        outputs = _leaves(node.outputs)
        read = tuple(numbers[id(tensor)] for tensor in tensors)
        path = prefix + layer.name
        inner = functional_of(layer)
        if inner is not None:
            made = self.record(inner, read, path + "/")
        else:
            made = [self.new_tensor() for _ in outputs]
            args, kwargs = _map_leaves(
                (args, kwargs), lambda leaf: TensorRef(numbers[id(leaf)]) if _is_symbolic(leaf) else leaf
            )
            kept = {name: value for name, value in kwargs.items() if value is not None and name != "training"}
            shapes = [tuple(_shape(tensor, path) for tensor in group) for group in (tensors, outputs)]
            self.calls.append(Call(path, layer, tuple(args), kept, read, tuple(made), shapes[0], shapes[1]))
        numbers.update({id(tensor): number for tensor, number in zip(outputs, made, strict=True)})


def _with_image_size(model: Any, image_size: tuple[int, int]) -> Any:
    """Returns a copy of the model, weights included, whose images have a fixed size."""

    def fix(_path: str, config: dict[str, Any]) -> dict[str, Any]:
        for key in {"batch_shape", "batch_input_shape"} & set(config):
            batch, *size, channels = config[key]
            config[key] = (batch, *(image_size if size == [None, None] else size), channels)
        return config

    copy = clone_with(model, fix)
    copy_weights(model, copy)
    return copy


def _shape(tensor: Any, where: str) -> tuple[int, ...]:
    shape = tuple(tensor.shape)[1:]
    if any(size is None for size in shape):
        raise ModelError(
            f"A tensor of '{where}' has the open shape {shape}: build the model for one size, for example "
            "keras.Input((224, 224, 3)), because costs and latency depend on it."
        )
    return tuple(int(size) for size in shape)


def _layer_of(node: Any) -> Any:
    """Returns the layer or operation that a node calls; Keras 3 and `tf_keras` name it differently."""
    return getattr(node, "operation", None) or node.layer


def _is_symbolic(leaf: Any) -> bool:
    return type(leaf).__name__.endswith("KerasTensor")


def _leaves(structure: Any) -> list[Any]:
    found: list[Any] = []
    _map_leaves(structure, found.append)
    return found


def _map_leaves(structure: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(structure, list | tuple):
        return type(structure)([_map_leaves(item, function) for item in structure])
    if isinstance(structure, dict):
        return {key: _map_leaves(value, function) for key, value in structure.items()}
    return function(structure)
