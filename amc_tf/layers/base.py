"""What a layer rule answers, and the rule for layers whose channels must be left alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from amc_tf.layers.labels import Labels, LabelSets
from amc_tf.trace import Call


@dataclasses.dataclass(frozen=True)
class Wiring:
    """How the channels of one call hang together.

    Attributes:
        outputs: labels of the last axis of each output, int64 [channels].
        axes: for each weight that shrinks, the labels of each axis; None for an axis that never does.
    """

    outputs: list[Labels]
    axes: dict[str, tuple[Labels | None, ...]] = dataclasses.field(default_factory=dict)


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
        return call.replay(inputs)

    def slim_config(self, config: dict[str, Any], num_outputs: Sequence[int]) -> dict[str, Any]:
        """Returns the layer's configuration for the number of channels left in each output."""
        return config


class OpaqueRule(LayerRule):
    """A layer run as it is: the channels that enter it and leave it are frozen.

    Args:
        reason: why, as the user will read it after the layer's name.
        keeps_channels: the output has the channels of the input (so they are frozen once).
    """

    def __init__(self, reason: str, *, keeps_channels: bool = False) -> None:
        self._reason = reason
        self._keeps_channels = keeps_channels

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
        """Calls the layer itself, with its own weights."""
        return call.replay(inputs, function=call.layer)


class IdentityRule(LayerRule):
    """A layer that does nothing in inference (dropout, noise)."""

    def apply(self, call: Call, inputs: Sequence[Any], weights: Mapping[str, Any]) -> list[Any]:
        """Returns the input."""
        return [inputs[0]]


def activate(layer: Any, outputs: Any) -> Any:
    """Applies the activation built into a layer, if it has one."""
    activation = getattr(layer, "activation", None)
    return outputs if activation is None else activation(outputs)


def mixes_channels(layer: Any) -> bool:
    """Tells whether the activation of a layer normalises over the channels (softmax and its kin)."""
    activation = getattr(layer, "activation", None)
    return getattr(activation, "__name__", "") in {"softmax", "log_softmax", "sparsemax", "glu"}


def freeze_softmax(call: Call, outputs: Labels, labels: LabelSets) -> None:
    """Freezes the channels that a layer normalises over."""
    if mixes_channels(call.layer):
        labels.freeze(outputs, call.path, "its softmax normalises over the channels")
