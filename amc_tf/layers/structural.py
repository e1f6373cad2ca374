"""Rules of the layers without weights that join, reshape or rescale channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from amc_tf.layers.base import IdentityRule, LayerRule, OpaqueRule, Wiring, freeze_mixed
from amc_tf.layers.labels import Labels, LabelSets
from amc_tf.trace import Call, TensorRef

_ARRAY_REASON = "it combines the channels with a constant array"


class NestedInputRule(IdentityRule):
    """The input layer of a nested model: it passes the channels on and states how many they are."""

    def connect(self, call: Call, inputs: Sequence[Labels], labels: LabelSets) -> Wiring:
        """Passes the channels on; those of every call of the nested model belong together."""
        return Wiring([inputs[0]], {"shape": (*[None] * (len(call.input_shapes[0]) - 1), inputs[0])})

    def slim_config(self, config: dict[str, Any], num_outputs: Sequence[int]) -> dict[str, Any]:
        """Sets the last axis of the shape."""
        key = "batch_shape" if "batch_shape" in config else "batch_input_shape"
        return {**config, key: (*config[key][:-1], num_outputs[0])}


class ActivationRule(LayerRule):
    """An activation as a layer of its own."""

    def connect(self, call: Call, inputs: Sequence[Labels], labels: LabelSets) -> Wiring:
        """Passes the channels on; freezes them under a softmax and its kin."""
        freeze_mixed(call, inputs[0], labels)
        return Wiring([inputs[0]])


class ChannelwiseOperationRule(LayerRule):
    """An operation that treats each number by itself, given constants that are single numbers."""

    def connect(self, call: Call, inputs: Sequence[Labels], labels: LabelSets) -> Wiring:
        """Passes the channels on."""
        if _has_array_argument(call):
            return OpaqueRule(_ARRAY_REASON).connect(call, inputs, labels)
        return Wiring([inputs[0]])


class ElementwiseRule(LayerRule):
    """Add, Multiply, Maximum and their like: equal channels of all inputs belong together."""

    def connect(self, call: Call, inputs: Sequence[Labels], labels: LabelSets) -> Wiring:
        """Ties the inputs channel by channel; an input with one channel serves all and stays."""
        num_channels = call.output_shapes[0][-1]
        if _has_array_argument(call):
            return OpaqueRule(_ARRAY_REASON).connect(call, inputs, labels)
        wide = [group for group in inputs if len(group) == num_channels]
        for group in inputs:
            if len(group) != num_channels:
                labels.freeze(group, call.path, "it is one channel that serves all of another tensor")
        for group in wide[1:]:
            labels.tie(wide[0], group)
        return Wiring([wide[0]])


class ConcatenateRule(LayerRule):
    """Concatenate: along the channels they stand side by side, along another axis they belong together."""

    def connect(self, call: Call, inputs: Sequence[Labels], labels: LabelSets) -> Wiring:
        """Joins or ties the inputs."""
        rank = len(call.output_shapes[0])
        if _axis(call) in (-1, rank):
            return Wiring([np.concatenate(inputs)])
        for group in inputs[1:]:
            labels.tie(inputs[0], group)
        return Wiring([inputs[0]])


class ReshapeRule(LayerRule):
    """Reshape and Flatten, where the channels stay on (or are repeated along) the last axis."""

    def connect(self, call: Call, inputs: Sequence[Labels], labels: LabelSets) -> Wiring:
        """Follows every element; freezes the channels unless the last axis holds them alike everywhere.

        Where the target shape is written in the layer, all calls of the layer must shrink alike.
        """
        shape, target = call.input_shapes[0], call.output_shapes[0]
        rows = np.broadcast_to(inputs[0], shape).reshape(-1, target[-1])
        if (rows == rows[0]).all():
            wiring = Wiring([rows[0].copy()])
        else:
            wiring = OpaqueRule("it moves channels to another axis").connect(call, inputs, labels)
        if hasattr(call.layer, "target_shape"):
            wiring.axes["target_shape"] = (wiring.outputs[0],)
        return wiring

    def apply(self, call: Call, inputs: Sequence[Any], weights: Mapping[str, Any]) -> list[Any]:
        """Reshapes; the last axis takes what is left."""
        fixed = call.output_shapes[0][:-1]
        batch = inputs[0].shape[0]
        if batch is not None:
            return [tf.reshape(inputs[0], (batch, *fixed, -1))]
        return [tf.reshape(inputs[0], tf.concat([tf.shape(inputs[0])[:1], [*fixed, -1]], axis=0))]

    def slim_config(self, config: dict[str, Any], num_outputs: Sequence[int]) -> dict[str, Any]:
        """Sets the last axis of the target; Flatten has none to set."""
        if "target_shape" not in config:
            return config
        return {**config, "target_shape": (*config["target_shape"][:-1], num_outputs[0])}


class ReductionRule(LayerRule):
    """Mean, Max and Sum operations over the spatial axes."""

    def connect(self, call: Call, inputs: Sequence[Labels], labels: LabelSets) -> Wiring:
        """Passes the channels on, unless they are reduced."""
        rank = len(call.input_shapes[0]) + 1
        axis = _axis(call)
        axes = np.atleast_1d(range(rank) if axis is None else axis)
        if rank - 1 in {axis % rank for axis in axes.tolist()}:
            return OpaqueRule("it reduces over the channels").connect(call, inputs, labels)
        return Wiring([inputs[0]])


class RescalingRule(LayerRule):
    """Rescaling by one number; a number for each channel freezes them."""

    def connect(self, call: Call, inputs: Sequence[Labels], labels: LabelSets) -> Wiring:
        """Passes the channels on."""
        if np.size(call.layer.scale) > 1 or np.size(call.layer.offset) > 1:
            rule = OpaqueRule("it holds a constant for each channel", keeps_channels=True)
            return rule.connect(call, inputs, labels)
        return Wiring([inputs[0]])


def _axis(call: Call) -> Any:
    """Returns the axis that a layer or operation works along, as it was given: number, numbers or None."""
    if hasattr(call.layer, "axis"):
        return call.layer.axis
    return call.kwargs.get("axis", call.args[1] if len(call.args) > 1 else None)


def _has_array_argument(call: Call) -> bool:
    """Tells whether a constant with more than one element is among the arguments."""
    leaves = [*call.args, *call.kwargs.values()]
    flat = [item for leaf in leaves for item in (leaf if isinstance(leaf, list | tuple) else [leaf])]
    return any(not isinstance(item, TensorRef | str) and np.size(item) > 1 for item in flat)
