"""What a layer rule answers, and the rule for layers whose channels must be left alone."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from amc_tf.layers.labels import Labels, LabelSets
from amc_tf.trace import Call

# Activations that treat each channel by itself, by the names of their functions in either Keras.
_ACTIVATIONS = frozenset(
    "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu linear "
    "log_sigmoid mish relu relu6 selu sigmoid silu soft_shrink softplus softsign sparse_plus sparse_sigmoid "
    "squareplus swish tanh tanh_shrink threshold ReLU LeakyReLU ELU".split()
)


@dataclasses.dataclass(frozen=True)
class Wiring:
    """How the channels of one call hang together.

    Attributes:
        outputs: labels of the last axis of each output, int64 [channels].
        axes: for each weight that shrinks, the labels of each axis; None for an axis that never does.
    """

    outputs: list[Labels]
    axes: dict[str, tuple[Labels | None, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the kernel named by `LayerRule.reads` slides over.

    Attributes:
        tensor: float32 [batch, height, width, channels].
        kernel_size: rows and columns that one output position sees.
        strides: steps between output positions.
        dilation: steps between the rows and columns seen.
        padding: "SAME" or "VALID".
    """

    tensor: Any
    kernel_size: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: str = "VALID"


class LayerRule:
    """Knowledge about one kind of layer; the base serves layers that treat each channel by itself.

    Attributes:
        reads: (weight, axis) that the channels of the input run along, None if the layer sums over none.
        writes: (weight, axis) that the channels of the output run along, None if it makes no new ones.
    """

    reads: tuple[str, int] | None = None
    writes: tuple[str, int] | None = None

    def weight_names(self, layer: Any) -> tuple[str, ...]:
        """Names the arrays of `layer.weights`, in their order."""
        return ()

    def connect(self, call: Call, inputs: Sequence[Labels], labels: LabelSets) -> Wiring:
        """Labels the outputs and the weight axes of a call from the labels of its inputs."""
        return Wiring([inputs[0]])

    def mac_positions(self, call: Call) -> dict[str, int]:
        """Tells for each weight how often one of its elements is multiplied per image."""
        return {}

    def apply(self, call: Call, inputs: Sequence[Any], weights: Mapping[str, Any]) -> list[Any]:
        """Computes the call in inference mode from TensorFlow tensors and weights given from outside."""
        return as_float32(call.replay(inputs))

    def reading(self, call: Call, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Reading:
        """Tells what the reading kernel sees of the inputs; for rules with `reads`."""
        return Reading(inputs[0])

    def slim_config(self, config: dict[str, Any], num_outputs: Sequence[int]) -> dict[str, Any]:
        """Returns the layer's configuration for the number of channels left in each output."""
        return config


class OpaqueRule(LayerRule):
    """A layer run as it is: the channels that enter it and leave it are frozen.

    Args:
        reason: why, as the user will read it after the layer's name.
        keeps_channels: the output has the channels of the input (so they are frozen once).
        counted_as: the rule that knows the layer's weights and how often they are multiplied.
    """

    def __init__(
        self, reason: str, *, keeps_channels: bool = False, counted_as: LayerRule | None = None
    ) -> None:
        self._reason = reason
        self._keeps_channels = keeps_channels
        self._counted_as = counted_as or LayerRule()

    def weight_names(self, layer: Any) -> tuple[str, ...]:
        """Names what the other rule knows; weights beyond that get numbers."""
        names = self._counted_as.weight_names(layer)
        return (*names, *map(str, range(len(names), len(getattr(layer, "weights", ())))))

    def mac_positions(self, call: Call) -> dict[str, int]:
        """Counts like the other rule."""
        return self._counted_as.mac_positions(call)

    def connect(self, call: Call, inputs: Sequence[Labels], labels: LabelSets) -> Wiring:
        """Freezes what goes in and what comes out."""
        for group in inputs:
            labels.freeze(group, call.path, self._reason)
        if self._keeps_channels:
            return Wiring([inputs[0]])
        outputs = [labels.new(shape[-1] if shape else 0) for shape in call.output_shapes]
        for group in outputs:
            labels.freeze(group, call.path, self._reason)
        return Wiring(outputs)

    def apply(self, call: Call, inputs: Sequence[Any], weights: Mapping[str, Any]) -> list[Any]:
        """Calls the layer itself, with its own weights.

        Its inputs are frozen, so their shapes are known even where the calls before it left them open.
        """
        for tensor, shape in zip(inputs, call.input_shapes, strict=True):
            tensor.set_shape((None, *shape))
        if not takes_training(call.layer):
            return as_float32(call.replay(inputs, function=call.layer))
        return as_float32(call.replay(inputs, function=functools.partial(call.layer, training=False)))


class IdentityRule(LayerRule):
    """A layer that does nothing in inference (dropout, noise)."""

    def apply(self, call: Call, inputs: Sequence[Any], weights: Mapping[str, Any]) -> list[Any]:
        """Returns the input."""
        return [inputs[0]]


def as_float32(tensors: Sequence[Any]) -> list[Any]:
    """Casts what a layer of another precision has put out to the precision of the network function."""
    return [
        tf.cast(tensor, tf.float32) if tf.as_dtype(tensor.dtype).is_floating else tensor for tensor in tensors
    ]


def takes_training(layer: Any) -> bool:
    """Tells whether a layer, by being called, must be told that it is not trained (augmentation, dropout)."""
    return "training" in inspect.signature(layer.call).parameters


def activate(layer: Any, outputs: Any) -> Any:
    """Applies the activation built into a layer, if it has one."""
    activation = getattr(layer, "activation", None)
    return outputs if activation is None else activation(outputs)


def freeze_mixed(call: Call, outputs: Labels, labels: LabelSets) -> None:
    """Freezes the channels that the activation of a layer does not treat each by itself."""
    activation = getattr(call.layer, "activation", None)
    name = getattr(activation, "__name__", type(activation).__name__)
    if name == "softmax":
        labels.freeze(outputs, call.path, "its softmax normalises over the channels")
    elif activation is not None and name not in _ACTIVATIONS:
        labels.freeze(outputs, call.path, f"its activation {name} may mix the channels")
