"""Rules of the layers that multiply: convolutions, Dense, and the ones with a weight per channel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from amc_tf.layers.base import LayerRule, Reading, Wiring, activate, freeze_mixed
from amc_tf.layers.labels import Labels, LabelSets
from amc_tf.trace import Call


class Conv2DRule(LayerRule):
    """Conv2D without groups: kernel float32 [height, width, in, out], bias [out]."""

    reads = ("kernel", 2)
    writes = ("kernel", 3)

    def weight_names(self, layer: Any) -> tuple[str, ...]:
        """Names the kernel and, where used, the bias."""
        return ("kernel", "bias") if layer.use_bias else ("kernel",)

    def connect(self, call: Call, inputs: Sequence[Labels], labels: LabelSets) -> Wiring:
        """Makes new channels; the kernel reads the old ones."""
        made = labels.new(call.output_shapes[0][-1])
        freeze_mixed(call, made, labels)
        return Wiring([made], {"kernel": (None, None, inputs[0], made), "bias": (made,)})

    def mac_positions(self, call: Call) -> dict[str, int]:
        """Counts the positions of the output."""
        return {"kernel": _num_positions(call)}

    def apply(self, call: Call, inputs: Sequence[Any], weights: Mapping[str, Any]) -> list[Any]:
        """Convolves, adds the bias and applies the activation."""
        layer = call.layer
        outputs = tf.nn.conv2d(
            inputs[0], weights["kernel"], layer.strides, layer.padding.upper(), dilations=layer.dilation_rate
        )
        return [_finish(layer, outputs, weights)]

    def reading(self, call: Call, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Reading:
        """Windows of the input."""
        layer = call.layer
        return Reading(
            inputs[0], layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding.upper()
        )

    def slim_config(self, config: dict[str, Any], num_outputs: Sequence[int]) -> dict[str, Any]:
        """Sets the number of filters."""
        return {**config, "filters": num_outputs[0]}


class DepthwiseConv2DRule(LayerRule):
    """DepthwiseConv2D: kernel float32 [height, width, in, multiplier], bias [in * multiplier]."""

    def weight_names(self, layer: Any) -> tuple[str, ...]:
        """Names the kernel and, where used, the bias."""
        return ("kernel", "bias") if layer.use_bias else ("kernel",)

    def connect(self, call: Call, inputs: Sequence[Labels], labels: LabelSets) -> Wiring:
        """Repeats each channel by the depth multiplier."""
        outputs = np.repeat(inputs[0], call.layer.depth_multiplier)
        freeze_mixed(call, outputs, labels)
        return Wiring([outputs], {"kernel": (None, None, inputs[0], None), "bias": (outputs,)})

    def mac_positions(self, call: Call) -> dict[str, int]:
        """Counts the positions of the output."""
        return {"kernel": _num_positions(call)}

    def apply(self, call: Call, inputs: Sequence[Any], weights: Mapping[str, Any]) -> list[Any]:
        """Convolves each channel by itself, adds the bias and applies the activation."""
        outputs = _depthwise(call.layer, inputs[0], weights["kernel"])
        return [_finish(call.layer, outputs, weights)]


class SeparableConv2DRule(LayerRule):
    """SeparableConv2D: kernels [height, width, in, multiplier] and [1, 1, in * multiplier, out]."""

    reads = ("pointwise_kernel", 2)
    writes = ("pointwise_kernel", 3)

    def weight_names(self, layer: Any) -> tuple[str, ...]:
        """Names both kernels and, where used, the bias."""
        names = ("depthwise_kernel", "pointwise_kernel")
        return (*names, "bias") if layer.use_bias else names

    def connect(self, call: Call, inputs: Sequence[Labels], labels: LabelSets) -> Wiring:
        """Repeats each channel by the multiplier, then makes new ones."""
        between = np.repeat(inputs[0], call.layer.depth_multiplier)
        made = labels.new(call.output_shapes[0][-1])
        freeze_mixed(call, made, labels)
        axes = {
            "depthwise_kernel": (None, None, inputs[0], None),
            "pointwise_kernel": (None, None, between, made),
            "bias": (made,),
        }
        return Wiring([made], axes)

    def mac_positions(self, call: Call) -> dict[str, int]:
        """Counts the positions of the output, which both kernels share."""
        positions = _num_positions(call)
        return {"depthwise_kernel": positions, "pointwise_kernel": positions}

    def apply(self, call: Call, inputs: Sequence[Any], weights: Mapping[str, Any]) -> list[Any]:
        """Convolves depthwise, then pointwise, adds the bias and applies the activation."""
        between = _depthwise(call.layer, inputs[0], weights["depthwise_kernel"])
        outputs = tf.nn.conv2d(between, weights["pointwise_kernel"], 1, "VALID")
        return [_finish(call.layer, outputs, weights)]

    def reading(self, call: Call, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Reading:
        """Positions between the two convolutions."""
        return Reading(_depthwise(call.layer, inputs[0], weights["depthwise_kernel"]))

    def slim_config(self, config: dict[str, Any], num_outputs: Sequence[int]) -> dict[str, Any]:
        """Sets the number of filters."""
        return {**config, "filters": num_outputs[0]}


class DenseRule(LayerRule):
    """Dense on the last axis: kernel float32 [in, out], bias [out]."""

    reads = ("kernel", 0)
    writes = ("kernel", 1)

    def weight_names(self, layer: Any) -> tuple[str, ...]:
        """Names the kernel and, where used, the bias."""
        return ("kernel", "bias") if layer.use_bias else ("kernel",)

    def connect(self, call: Call, inputs: Sequence[Labels], labels: LabelSets) -> Wiring:
        """Makes new channels; the kernel reads the old ones."""
        made = labels.new(call.output_shapes[0][-1])
        freeze_mixed(call, made, labels)
        return Wiring([made], {"kernel": (inputs[0], made), "bias": (made,)})

    def mac_positions(self, call: Call) -> dict[str, int]:
        """Counts the positions that the layer is applied to: 1 for a flat input."""
        return {"kernel": _num_positions(call)}

    def apply(self, call: Call, inputs: Sequence[Any], weights: Mapping[str, Any]) -> list[Any]:
        """Multiplies, adds the bias and applies the activation."""
        if len(call.input_shapes[0]) == 1:
            outputs = tf.linalg.matmul(inputs[0], weights["kernel"])
        else:
            outputs = tf.tensordot(inputs[0], weights["kernel"], 1)
        return [_finish(call.layer, outputs, weights)]

    def reading(self, call: Call, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Reading:
        """Every position the layer is applied to, in one row."""
        positions = math.prod(call.input_shapes[0][:-1])
        return Reading(tf.reshape(inputs[0], (-1, 1, positions, weights["kernel"].shape[0])))

    def slim_config(self, config: dict[str, Any], num_outputs: Sequence[int]) -> dict[str, Any]:
        """Sets the number of units."""
        return {**config, "units": num_outputs[0]}


class BatchNormalizationRule(LayerRule):
    """BatchNormalization on the last axis: gamma, beta, mean and variance, each float32 [channels]."""

    def weight_names(self, layer: Any) -> tuple[str, ...]:
        """Names the statistics and the scale and centre that are in use."""
        learned = (("gamma", layer.scale), ("beta", layer.center))
        return (*(name for name, is_used in learned if is_used), "moving_mean", "moving_variance")

    def connect(self, call: Call, inputs: Sequence[Labels], labels: LabelSets) -> Wiring:
        """Passes the channels on."""
        return Wiring([inputs[0]], dict.fromkeys(self.weight_names(call.layer), (inputs[0],)))

    def apply(self, call: Call, inputs: Sequence[Any], weights: Mapping[str, Any]) -> list[Any]:
        """Scales and shifts by the stored statistics."""
        scale, offset = scale_and_offset(call.layer, weights)
        return [inputs[0] * scale + offset]


class PReLURule(LayerRule):
    """PReLU: slopes float32 of the shape of the input, 1 on shared axes."""

    def weight_names(self, layer: Any) -> tuple[str, ...]:
        """Names the slopes."""
        return ("alpha",)

    def connect(self, call: Call, inputs: Sequence[Labels], labels: LabelSets) -> Wiring:
        """Passes the channels on; the slopes shrink unless the channels share them."""
        rank = len(call.input_shapes[0])
        shared = rank in (call.layer.shared_axes or ())
        return Wiring([inputs[0]], {"alpha": (*[None] * (rank - 1), None if shared else inputs[0])})

    def apply(self, call: Call, inputs: Sequence[Any], weights: Mapping[str, Any]) -> list[Any]:
        """Multiplies what is negative by the slope."""
        return [tf.nn.relu(inputs[0]) - weights["alpha"] * tf.nn.relu(-inputs[0])]


def scale_and_offset(layer: Any, weights: Mapping[str, Any]) -> tuple[Any, Any]:
    """Returns the batch normalisation as y = x * scale + offset; both float32 [channels].

    Args:
        layer: the BatchNormalization layer.
        weights: its arrays or tensors by name; float32 [channels] each.
    """
    scale = (weights["moving_variance"] + layer.epsilon) ** -0.5
    if "gamma" in weights:
        scale = scale * weights["gamma"]
    offset = -weights["moving_mean"] * scale
    return scale, offset + weights["beta"] if "beta" in weights else offset


def _num_positions(call: Call) -> int:
    shape = call.output_shapes[0]
    is_first = getattr(call.layer, "data_format", None) == "channels_first"
    return math.prod(shape[1:] if is_first else shape[:-1])


def _depthwise(layer: Any, inputs: Any, kernel: Any) -> Any:
    strides, padding = (1, *layer.strides, 1), layer.padding.upper()
    return tf.nn.depthwise_conv2d(inputs, kernel, strides, padding, dilations=layer.dilation_rate)


def _finish(layer: Any, outputs: Any, weights: Mapping[str, Any]) -> Any:
    if "bias" in weights:
        outputs = tf.nn.bias_add(outputs, weights["bias"])
    return activate(layer, outputs)
