"""MobileNet V2 and V3 for 32x32 images, made from the networks of `keras.applications`.

References: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018,
https://arxiv.org/abs/1801.04381; Howard et al., "Searching for MobileNetV3", ICCV 2019,
https://arxiv.org/abs/1905.02244. Both halve the resolution five times, which leaves 7x7 positions of a
224x224 image but a single one of a 32x32 image. Here the first two of the five strides are 1, and 4x4
positions are left. V2 is used so for CIFAR elsewhere too (https://github.com/kuangliu/pytorch-cifar); for V3
there is no usual way, and the same rule holds.
"""

from __future__ import annotations

from typing import Any

import keras

from amc_tf.clone import clone_with
from amc_tf.errors import ModelError

IMAGE = (32, 32, 3)
# The first two layers with a stride of 2, and the layer that pads for the second of them.
_STRIDED_V2 = ("Conv1", "block_1_pad", "block_1_depthwise")
_STRIDED_V3_SMALL = ("conv", "expanded_conv_depthwise_pad", "expanded_conv_depthwise")
_STRIDED_V3_LARGE = ("conv", "expanded_conv_1_depthwise_pad", "expanded_conv_1_depthwise")


def cifar_mobilenet_v2(num_classes: int = 10, *, alpha: float = 1.0, dropout: float = 0.0) -> keras.Model:
    """Builds MobileNet-V2 for 32x32x3 images, with the layer names of `keras.applications.MobileNetV2`.

    Args:
        num_classes: number of classes, at least 2.
        alpha: width multiplier, above 0; no layer falls below 8 channels.
        dropout: fraction of the pooled features dropped while training, 0 <= dropout < 1.

    Returns:
        An untrained model: float32 [batch, 32, 32, 3] in -1..1 -> probabilities float32 [batch, classes].

    Raises:
        ModelError: if an argument is out of its range.
    """
    _check_arguments(num_classes, alpha, dropout)
    original = keras.applications.MobileNetV2(IMAGE, alpha=alpha, include_top=False, weights=None)
    body = _without_strides(original, _STRIDED_V2)
    x = keras.layers.GlobalAveragePooling2D(name="global_average_pooling2d")(body.output)
    x = keras.layers.Dropout(dropout, name="dropout")(x)
    outputs = keras.layers.Dense(num_classes, activation="softmax", name="predictions")(x)
    return keras.Model(body.input, outputs, name="cifar_mobilenet_v2")


def cifar_mobilenet_v3_small(
    num_classes: int = 10, *, alpha: float = 1.0, dropout: float = 0.0
) -> keras.Model:
    """Builds MobileNet-V3 Small for 32x32x3 images.

    Layers with weights are named as in `keras.applications.MobileNetV3Small`. Scaling of the pixels is not
    part of the network, as it is there by default.

    Args:
        num_classes: number of classes, at least 2.
        alpha: width multiplier, above 0; no layer of the trunk falls below 8 channels.
        dropout: fraction of the last hidden features dropped while training, 0 <= dropout < 1.

    Returns:
        An untrained model: float32 [batch, 32, 32, 3] in -1..1 -> probabilities float32 [batch, classes].

    Raises:
        ModelError: if an argument is out of its range.
    """
    _check_arguments(num_classes, alpha, dropout)
    original = keras.applications.MobileNetV3Small(**_v3_arguments(num_classes, alpha, dropout))
    model = _without_strides(original, _STRIDED_V3_SMALL)
    return keras.Model(model.input, model.output, name="cifar_mobilenet_v3_small")


def cifar_mobilenet_v3_large(
    num_classes: int = 10, *, alpha: float = 1.0, dropout: float = 0.0
) -> keras.Model:
    """Builds MobileNet-V3 Large for 32x32x3 images; all else is that of `cifar_mobilenet_v3_small`.

    Args:
        num_classes: number of classes, at least 2.
        alpha: width multiplier, above 0; no layer of the trunk falls below 8 channels.
        dropout: fraction of the last hidden features dropped while training, 0 <= dropout < 1.

    Returns:
        An untrained model: float32 [batch, 32, 32, 3] in -1..1 -> probabilities float32 [batch, classes].

    Raises:
        ModelError: if an argument is out of its range.
    """
    _check_arguments(num_classes, alpha, dropout)
    original = keras.applications.MobileNetV3Large(**_v3_arguments(num_classes, alpha, dropout))
    model = _without_strides(original, _STRIDED_V3_LARGE)
    return keras.Model(model.input, model.output, name="cifar_mobilenet_v3_large")


def _v3_arguments(num_classes: int, alpha: float, dropout: float) -> dict[str, Any]:
    return {
        "input_shape": IMAGE,
        "alpha": alpha,
        "weights": None,
        "classes": num_classes,
        "dropout_rate": dropout,
        "include_preprocessing": False,
    }


def _without_strides(model: keras.Model, strided: tuple[str, ...]) -> keras.Model:
    """Copies a model with a stride of 1 in the named layers; those of them that only pad no longer do."""

    def edit(path: str, config: dict[str, Any]) -> dict[str, Any]:
        if path not in strided:
            return config
        if "strides" in config:
            return {**config, "strides": (1, 1), "padding": "same"}
        return {**config, "padding": ((0, 0), (0, 0))}

    return clone_with(model, edit)


def _check_arguments(num_classes: int, alpha: float, dropout: float) -> None:
    if num_classes < 2:
        raise ModelError(f"num_classes is {num_classes}; a classifier needs at least 2 classes.")
    if not alpha > 0.0:
        raise ModelError(f"alpha is {alpha}; give a width multiplier above 0, such as 0.5 or 1.0.")
    if not 0.0 <= dropout < 1.0:
        raise ModelError(f"dropout is {dropout}; give a fraction of at least 0 and below 1.")
