"""Rebuilds a Keras 3 model as its `tf_keras` twin, and a `tf_keras` model as its Keras 3 twin."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from amc_tf.clone import (
    check_functional,
    clone_with,
    copy_weights,
    functional_of,
    is_tf_keras,
    iterate_layers,
    policy_name,
)
from amc_tf.errors import ModelError

_LEGACY_KERAS = "TF_USE_LEGACY_KERAS"
# Options that only one side has, at the value that the other side takes for granted.
_NEUTRAL = {"data_format": "channels_last", "rms_scaling": False, "rng_type": "stateful"}
_RENAMED = {"LeakyReLU": {"negative_slope": "alpha", "alpha": "negative_slope"}}
# Arithmetic by its name among Keras 3 operations and TensorFlow functions, and the layer that does it.
_ARITHMETIC = {
    "add": "Add", "subtract": "Subtract", "sub": "Subtract", "multiply": "Multiply", "mul": "Multiply",
    "divide": "Divide", "truediv": "Divide",
}  # fmt: skip
_ACTIVATIONS = frozenset("relu relu6 sigmoid silu tanh elu selu gelu softplus hard_sigmoid hard_silu".split())
# Options of these operations in Keras 3, with which they are what the name means on both sides.
_ACTIVATION_OPTIONS = {"alpha": 1.0, "approximate": False}


def to_tf_keras(model: Any) -> Any:
    """Rebuilds a Keras 3 model in `tf_keras` (Keras 2), as tensorflow-model-optimization needs it.

    Every layer is made anew from its configuration and every call of it is repeated, so names, nesting and
    shared layers stay; then the weights are moved layer by layer. Arithmetic on tensors (`x + 3.0`) becomes a
    Rescaling, Add, Subtract or Multiply layer, which both sides have.

    Args:
        model: a built functional or Sequential model; it is not changed. One of `tf_keras` is copied.

    Returns:
        A `tf_keras` model with equal outputs, not compiled.

    Raises:
        ModelError: if it is no such model, or `tf_keras` has no layer like one of its layers.
    """
    import tf_keras

    return _copy(model) if is_tf_keras(model) else _rebuild(model, tf_keras)


def to_keras3(model: Any) -> Any:
    """Rebuilds a `tf_keras` model in Keras 3; the way back from `to_tf_keras`.

    A slash in a layer's name, which Keras 3 forbids, becomes an underscore.

    Args:
        model: a built functional or Sequential model; it is not changed. One of Keras 3 is copied.

    Returns:
        A Keras 3 model with equal outputs, not compiled.

    Raises:
        ModelError: if it is no such model, or Keras 3 has no layer like one of its layers.
    """
    return _rebuild(model, keras) if is_tf_keras(model) else _copy(model)


@contextlib.contextmanager
def keeping_keras3() -> Iterator[None]:
    """Lets the import of tensorflow-model-optimization leave the process as it was otherwise.

    It sets a variable that makes TensorFlow's own Keras version 2 for all that use it for the first time
    after it, in this process and in those that it starts.
    """
    before = os.environ.get(_LEGACY_KERAS)
    vars(tf)["keras"].__name__  # noqa: B018, the first use of this lazy module settles what it is
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_LEGACY_KERAS, None)
        else:
            os.environ[_LEGACY_KERAS] = before


def hard_silu(x: Any) -> Any:
    """Computes x * relu6(x + 3) / 6; `tf_keras` has no such activation."""
    return x * hard_sigmoid(x)


def hard_sigmoid(x: Any) -> Any:
    """Computes relu6(x + 3) / 6 as Keras 3 does; that of `tf_keras` has the slope 0.2."""
    return tf.nn.relu6(x + 3.0) / 6.0


def _copy(model: Any) -> Any:
    copy = clone_with(model, lambda _, config: config)
    copy_weights(model, copy)
    return copy


def _rebuild(model: Any, library: ModuleType) -> Any:
    check_functional(model)
    rebuilder = _Rebuilder(library)
    twin = rebuilder.model(model)
    for path, layer in iterate_layers(model):
        if layer.weights:
            _move_weights(layer, rebuilder.twin(layer), path)
    return twin


class _Rebuilder:
    """Makes layers and models of one flavour from those of the other; a layer met again is the same twin."""

    def __init__(self, library: ModuleType) -> None:
        self._library = library
        self._twins: dict[int, Any] = {}

    def twin(self, layer: Any) -> Any:
        """Returns the twin of a layer that was met."""
        return self._twins[id(layer)]

    def model(self, model: Any, prefix: str = "") -> Any:
        """Returns the twin of a model without its weights; `prefix` is the path of the models around it."""
        functional = functional_of(model)
        inputs = [self._input(tensor._keras_history[0]) for tensor in functional.inputs]
        if type(model).__name__ == "Sequential":
            layers = [self._layer(layer, prefix) for layer in model.layers]
            return self._library.Sequential([*inputs, *layers], name=model.name)
        outputs = self._replay(functional, inputs, prefix)
        return self._library.Model(_one_or_all(inputs), _one_or_all(outputs), name=model.name)

    def _input(self, layer: Any) -> Any:
        shape = getattr(layer, "batch_shape", None) or layer.get_config()["batch_input_shape"]
        return self._library.Input(
            tuple(shape[1:]), batch_size=shape[0], dtype=layer.get_config()["dtype"], name=layer.name
        )

    def _replay(self, functional: Any, inputs: Sequence[Any], prefix: str) -> list[Any]:
        """Repeats every call of a model on its twin's tensors; returns the outputs."""
        tensors = {id(tensor): twin for tensor, twin in zip(functional.inputs, inputs, strict=True)}
        for depth in sorted(functional._nodes_by_depth, reverse=True):
            for node in functional._nodes_by_depth[depth]:
                if not node.is_input:
                    outputs = self._call(node, tensors, prefix)
                    made = zip(_leaves(node.outputs), _leaves(outputs), strict=True)
                    tensors.update((id(tensor), twin) for tensor, twin in made)
        return [tensors[id(tensor)] for tensor in functional.outputs]

    def _call(self, node: Any, tensors: dict[int, Any], prefix: str) -> Any:
        layer = getattr(node, "operation", None) or node.layer
        arguments = getattr(node, "arguments", None)
        args = arguments.args if arguments is not None else node.call_args
        kwargs = arguments.kwargs if arguments is not None else node.call_kwargs
        args, kwargs = keras.tree.map_structure(
            lambda leaf: tensors[id(leaf)] if _is_symbolic(leaf) else leaf, (args, kwargs)
        )
        if not hasattr(layer, "weights") or type(layer).__name__ == "TFOpLambda":
            operands = [leaf for leaf in _leaves((args, kwargs)) if leaf is not None]
            return self._operate(layer, operands, prefix + layer.name)
        kept = {name: value for name, value in kwargs.items() if value is not None}
        return self._layer(layer, prefix)(*args, **kept)

    def _layer(self, layer: Any, prefix: str) -> Any:
        if id(layer) not in self._twins:
            is_model = functional_of(layer) is not None
            self._twins[id(layer)] = (
                self.model(layer, f"{prefix}{layer.name}/")
                if is_model
                else self._make(layer, prefix + layer.name)
            )
        return self._twins[id(layer)]

    def _make(self, layer: Any, path: str) -> Any:
        kind = type(layer).__name__
        known = getattr(self._library.layers, kind, None)
        if known is None or type(layer).__module__.partition(".")[0] not in {"keras", "tf_keras"}:
            raise self._missing(path, kind)
        try:
            config = {**_translate(layer, known), "name": self._name(layer)}
            if "activation" in config:
                config["activation"] = self._activation(layer, config["activation"])
            return known.from_config(config)
        except (TypeError, ValueError, KeyError) as error:
            raise ModelError(
                f"'{path}' ({kind}) cannot be rebuilt in {self._library.__name__} ({_reason(error)}): use "
                "options that both Keras 3 and tf_keras have."
            ) from error

    def _name(self, layer: Any) -> str:
        return layer.name.replace("/", "_") if self._library is keras else layer.name

    def _activation(self, layer: Any, activation: Any) -> Any:
        """Returns the activation of a layer as the other side is to compute it.

        Raises:
            ModelError: if the other side cannot.
        """
        name = getattr(layer.activation, "__name__", None)
        if self._library is not keras:
            own = {"hard_silu": hard_silu, "hard_swish": hard_silu, "hard_sigmoid": hard_sigmoid}
            return own.get(str(name), activation)
        if layer.activation in (hard_silu, hard_sigmoid):
            return name
        if name == "hard_sigmoid":
            raise ModelError("its activation hard_sigmoid has another slope in Keras 3")
        return activation

    def _operate(self, operation: Any, operands: Sequence[Any], path: str) -> Any:
        """Does what an operation does by a layer of its name."""
        layers, name = self._library.layers, self._name(operation)
        kind = _operation_kind(operation)
        tensors = [operand for operand in operands if _is_symbolic(operand)]
        if kind in _ACTIVATIONS and len(operands) == 1:
            for option, value in _ACTIVATION_OPTIONS.items():
                if getattr(operation, option, value) != value:
                    raise self._missing(
                        path, f"the operation {kind} with {option}={getattr(operation, option)}"
                    )
            own = {"hard_silu": hard_silu, "hard_sigmoid": hard_sigmoid} if self._library is not keras else {}
            return layers.Activation(own.get(kind, kind), name=name)(operands[0])
        arithmetic = _ARITHMETIC.get(kind)
        if arithmetic is not None and arithmetic != "Divide" and len(tensors) == len(operands) == 2:
            return getattr(layers, arithmetic)(name=name)(tensors)
        scaling = _as_rescaling(arithmetic, operands) if len(tensors) == 1 else None
        if scaling is None:
            raise self._missing(path, f"the operation {kind}")
        return layers.Rescaling(*scaling, name=name)(tensors[0])

    def _missing(self, path: str, what: str) -> ModelError:
        return ModelError(
            f"'{path}' ({what}) cannot be rebuilt in {self._library.__name__}, which has nothing like it: "
            "replace it by layers that both Keras 3 and tf_keras have."
        )


def _translate(layer: Any, target: type) -> dict[str, Any]:
    """Returns the configuration of a layer with the option names of its twin's class.

    Raises:
        ModelError: if an option that is in use has no counterpart.
    """
    renamed = _RENAMED.get(target.__name__, {})
    known, defaults = _options(target), _options(type(layer))
    translated: dict[str, Any] = {}
    for name, value in layer.get_config().items():
        if name == "dtype":
            value = policy_name(value)
        elif name == "axis" and isinstance(value, list) and len(value) == 1:  # as tf_keras lists it
            value = value[0]
        if name in known:
            translated[name] = value
        elif renamed.get(name) in known:
            translated[renamed[name]] = float(value)
        elif not _is_without_effect(name, value, defaults):
            raise ModelError(f"its option {name}={value!r} is unknown there")
    return translated


def _is_without_effect(name: str, value: Any, defaults: dict[str, Any]) -> bool:
    """Tells whether an option may be left out: its value is what happens without it."""
    if name == "batch_input_shape" or name.endswith("_initializer"):  # the weights are moved
        return True
    return value is None or value == _NEUTRAL.get(name, defaults.get(name, inspect.Parameter.empty))


def _options(kind: type) -> dict[str, Any]:
    """Returns what a layer class can be made with, and the defaults, those of its bases included."""
    options: dict[str, Any] = {}
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]  # of a class
        for parameter in parameters:
            options.setdefault(parameter.name, parameter.default)
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            break
    return options


def _reason(error: Exception) -> str:
    """Returns what went wrong, without the configuration that Keras repeats before it."""
    return str(error).rpartition("Exception encountered: ")[2].strip().partition("\n")[0].rstrip(".")


def _operation_kind(operation: Any) -> str:
    """Returns the name of an operation in lower case with underscores: "add", "hard_sigmoid"."""
    if type(operation).__name__ == "TFOpLambda":
        return str(operation.get_config()["function"]).rpartition(".")[2]
    name = type(operation).__name__.replace("True", "")
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def _as_rescaling(arithmetic: str | None, operands: Sequence[Any]) -> tuple[float, float] | None:
    """Returns the scale and the offset of one tensor's arithmetic with one number, None if it is no such."""
    if arithmetic is None or len(operands) != 2:
        return None
    is_first = _is_symbolic(operands[0])
    number = operands[1] if is_first else operands[0]
    if np.size(number) != 1:
        return None
    number = float(number)  # tf_keras records a number before an operator as a tensor
    if arithmetic == "Add":
        return 1.0, number
    if arithmetic == "Multiply":
        return number, 0.0
    if arithmetic == "Subtract":
        return (1.0, -number) if is_first else (-1.0, number)
    return (1.0 / number, 0.0) if is_first else None


def _move_weights(source: Any, target: Any, path: str) -> None:
    arrays, wanted = source.get_weights(), [tuple(variable.shape) for variable in target.weights]
    if [array.shape for array in arrays] != wanted:
        raise ModelError(
            f"'{path}' ({type(source).__name__}) keeps its weights in another way in its twin: shapes "
            f"{[array.shape for array in arrays]} and {wanted}."
        )
    target.set_weights(arrays)
    if hasattr(target, "finalize_state"):
        target.finalize_state()


def _one_or_all(tensors: list[Any]) -> Any:
    return tensors[0] if len(tensors) == 1 else tensors


def _leaves(structure: Any) -> list[Any]:
    return keras.tree.flatten(structure)


def _is_symbolic(leaf: Any) -> bool:
    return type(leaf).__name__.endswith("KerasTensor")
