"""Finds the rule of a layer by its kind."""

from __future__ import annotations

from typing import Any

from amc_tf.layers.base import IdentityRule, LayerRule, OpaqueRule
from amc_tf.layers.structural import (
    ActivationRule,
    ChannelwiseOperationRule,
    ConcatenateRule,
    ElementwiseRule,
    NestedInputRule,
    ReductionRule,
    RescalingRule,
    ReshapeRule,
)
from amc_tf.layers.weighted import (
    BatchNormalizationRule,
    Conv2DRule,
    DenseRule,
    DepthwiseConv2DRule,
    PReLURule,
    SeparableConv2DRule,
)
from amc_tf.trace import Call

_WEIGHTED: dict[str, LayerRule] = {
    "Conv2D": Conv2DRule(),
    "DepthwiseConv2D": DepthwiseConv2DRule(),
    "SeparableConv2D": SeparableConv2DRule(),
    "Dense": DenseRule(),
    "BatchNormalization": BatchNormalizationRule(),
    "PReLU": PReLURule(),
}
_PER_CHANNEL = (
    "ReLU LeakyReLU ELU ThresholdedReLU ZeroPadding2D Cropping2D UpSampling2D MaxPooling2D AveragePooling2D "
    "GlobalAveragePooling2D GlobalMaxPooling2D GlobalAveragePooling1D GlobalMaxPooling1D"
).split()
_IDENTITY = (
    "Dropout SpatialDropout2D GaussianDropout GaussianNoise AlphaDropout ActivityRegularization Identity"
).split()
_ELEMENTWISE = "Add Subtract Multiply Average Maximum Minimum".split()
_LAYERS: dict[str, LayerRule] = {
    **_WEIGHTED,
    **dict.fromkeys(_PER_CHANNEL, LayerRule()),
    **dict.fromkeys(_IDENTITY, IdentityRule()),
    **dict.fromkeys(_ELEMENTWISE, ElementwiseRule()),
    "Activation": ActivationRule(),
    "Concatenate": ConcatenateRule(),
    "InputLayer": NestedInputRule(),
    "Flatten": ReshapeRule(),
    "Reshape": ReshapeRule(),
    "Rescaling": RescalingRule(),
    "LayerNormalization": OpaqueRule("it normalises over the channels", keeps_channels=True),
    "GroupNormalization": OpaqueRule("it normalises over the channels", keeps_channels=True),
    "Normalization": OpaqueRule("it holds a constant for each channel", keeps_channels=True),
    "Softmax": OpaqueRule("it normalises over the channels", keeps_channels=True),
}
# Keras 3 operations by their class, the operations in a tf_keras model by the TensorFlow function they call.
_OPERATIONS: dict[str, LayerRule] = {
    **dict.fromkeys(
        (
            *_ELEMENTWISE,
            *"Divide TrueDivide add subtract multiply divide truediv maximum minimum".split(),
        ),
        ElementwiseRule(),
    ),
    **dict.fromkeys(
        (
            "ReLU Relu Relu6 Sigmoid HardSigmoid Silu HardSwish HardSilu Gelu Tanh Elu LeakyRelu Selu "
            "Softplus Softsign Celu Mish LogSigmoid HardTanh Clip Negative Square Sqrt Exp Absolute "
            "relu relu6 sigmoid silu swish tanh elu gelu leaky_relu selu softplus softsign "
            "clip_by_value negative square sqrt exp abs identity"
        ).split(),
        ChannelwiseOperationRule(),
    ),
    **dict.fromkeys("Mean Max Sum reduce_mean reduce_max reduce_sum".split(), ReductionRule()),
    "Concatenate": ConcatenateRule(),
    "concat": ConcatenateRule(),
}


def find_rule(call: Call) -> LayerRule:
    """Returns the rule for the layer of a call.

    A layer that no rule knows, that derives from a known one, or that has an option the rule does not cover
    (grouped convolution, channels first, a normalised axis other than the last) gets an `OpaqueRule` whose
    reason says so.
    """
    layer = call.layer
    kind = type(layer).__name__
    if _keras_kind(layer) != kind:
        return OpaqueRule(f"{kind} is no layer of Keras itself", counted_as=_WEIGHTED.get(_keras_kind(layer)))
    if () in (*call.input_shapes, *call.output_shapes):
        return OpaqueRule("a tensor of single numbers has no channels")
    if not hasattr(layer, "weights") or kind == "TFOpLambda":
        name = layer.get_config()["function"].rpartition(".")[2] if kind == "TFOpLambda" else kind
        return _OPERATIONS.get(name) or OpaqueRule(f"no pruning rule for the operation {name}")
    reason = _why_opaque(call, kind)
    if reason is not None:
        is_norm = kind in {"BatchNormalization", "LayerNormalization"}
        return OpaqueRule(reason, keeps_channels=is_norm, counted_as=_WEIGHTED.get(kind))
    return _LAYERS.get(kind) or OpaqueRule(f"no pruning rule for {kind}")


def _keras_kind(layer: Any) -> str:
    """Returns the name of the class of Keras itself that a layer is or derives from."""
    bases = (
        base for base in type(layer).__mro__ if base.__module__.partition(".")[0] in {"keras", "tf_keras"}
    )
    return next((base.__name__ for base in bases), "")


def _why_opaque(call: Call, kind: str) -> str | None:
    """Names the option of a layer that the rule of this kind does not cover, None if all are covered."""
    layer: Any = call.layer
    rank = len(call.input_shapes[0])
    activation = getattr(layer, "activation", None)
    names = _LAYERS.get(kind, LayerRule()).weight_names(layer)
    if getattr(layer, "data_format", None) == "channels_first":
        return "its channels come first: only channels-last layers are pruned"
    if hasattr(activation, "weights") and type(activation).__name__ not in {"ReLU", "LeakyReLU", "ELU"}:
        return "its activation is a layer: put that layer behind it instead"
    if kind == "Conv2D" and layer.groups != 1:
        return "a grouped convolution ties its channels into fixed groups"
    if kind == "BatchNormalization" and _axes(layer.axis, rank) != {rank}:
        return "it normalises along an axis other than the last"
    if kind == "LayerNormalization" and rank not in _axes(layer.axis, rank):
        return "it has weights for each position"
    if kind in _WEIGHTED and len(names) != len(layer.weights):
        return f"it has weights beyond {', '.join(names)}"
    return None


def _axes(axis: Any, rank: int) -> set[int]:
    """Returns axes as numbers counted from the batch axis, 0."""
    axes = axis if isinstance(axis, list | tuple) else [axis]
    return {int(item) % (rank + 1) for item in axes}
