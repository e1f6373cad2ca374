"""MobileNet-V1 builders, for ImageNet-sized and for small images.

Reference: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
Applications", 2017, https://arxiv.org/abs/1704.04861 (Table 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from amc_tf.errors import ModelError

BLOCK_CHANNELS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
BLOCK_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
STEM_CHANNELS = 32


def mobilenet_v1(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
    *,
    alpha: float = 1.0,
    stem_stride: int = 2,
    block_strides: Sequence[int] = BLOCK_STRIDES,
    dropout: float = 0.0,
    name: str = "mobilenet_v1",
) -> keras.Model:
    """Builds MobileNet-V1 with the layer names of ``keras.applications.MobileNet``.

    The weights are those of ``keras.applications.MobileNet(alpha=alpha)`` in number, shape and order, so
    that its weight files load. Strided depthwise layers pad with "same" instead of an explicit zero
    padding layer; for even sizes the outputs are equal.

    Args:
        input_shape: (height, width, channels) in pixels; the network expects -1..1.
        num_classes: number of classes, at least 2.
        alpha: width multiplier of every convolution, above 0.
        stem_stride: stride of the first convolution, 1 for 32x32 images.
        block_strides: stride of each depthwise layer; as many as blocks that are built, at most 13.
        dropout: fraction of the pooled features dropped while training, 0 <= dropout < 1.
        name: name of the model.

    Returns:
        An untrained model: float32 [batch, height, width, channels] -> probabilities [batch, classes].

    Raises:
        ModelError: if an argument is out of its range.
    """
    _check_arguments(num_classes, alpha, block_strides, dropout)
    inputs = keras.Input(input_shape, name="image")
    x = _stem(inputs, int(STEM_CHANNELS * alpha), stem_stride)
    for index, (channels, stride) in enumerate(zip(BLOCK_CHANNELS, block_strides, strict=False), start=1):
        x = _separable_block(x, int(channels * alpha), stride, index)
    x = keras.layers.GlobalAveragePooling2D(keepdims=True, name="global_average_pooling2d")(x)
    x = keras.layers.Dropout(dropout, name="dropout")(x)
    x = keras.layers.Conv2D(num_classes, 1, padding="same", name="conv_preds")(x)
    x = keras.layers.Reshape((num_classes,), name="reshape_2")(x)
    outputs = keras.layers.Activation("softmax", name="predictions")(x)
    return keras.Model(inputs, outputs, name=name)


def cifar_mobilenet(num_classes: int = 10, *, alpha: float = 0.5, dropout: float = 0.0) -> keras.Model:
    """Builds MobileNet-V1 for 32x32x3 images: the stem keeps the resolution.

    Args:
        num_classes: number of classes, at least 2.
        alpha: width multiplier, above 0.
        dropout: fraction of the pooled features dropped while training, 0 <= dropout < 1.

    Returns:
        An untrained model: float32 [batch, 32, 32, 3] in -1..1 -> probabilities float32 [batch, classes].

    Raises:
        ModelError: if an argument is out of its range.
    """
    return mobilenet_v1(
        (32, 32, 3), num_classes, alpha=alpha, stem_stride=1, dropout=dropout, name="cifar_mobilenet"
    )


def demo_mobilenet() -> keras.Model:
    """Builds the network of the demo: the first eight blocks at half width, for digits of 64x64x3 pixels.

    Most blocks keep 16x16 positions, so that the prunable pointwise layers take nearly all of the time,
    while the trained weights stay below a megabyte.

    Returns:
        An untrained model: float32 [batch, 64, 64, 3] in -1..1 -> probabilities float32 [batch, 10].
    """
    return mobilenet_v1(
        (64, 64, 3), 10, alpha=0.5, block_strides=(1, 2, 1, 1, 1, 1, 1, 1), name="demo_mobilenet"
    )


def _check_arguments(num_classes: int, alpha: float, block_strides: Sequence[int], dropout: float) -> None:
    if num_classes < 2:
        raise ModelError(f"num_classes is {num_classes}; a classifier needs at least 2 classes.")
    if int(STEM_CHANNELS * alpha) < 1:
        raise ModelError(
            f"alpha is {alpha}, which leaves no channel in the stem; use at least {1 / STEM_CHANNELS}."
        )
    if not 1 <= len(block_strides) <= len(BLOCK_CHANNELS):
        raise ModelError(
            f"block_strides has {len(block_strides)} entries; give one stride per block, "
            f"1 to {len(BLOCK_CHANNELS)} blocks."
        )
    if not 0.0 <= dropout < 1.0:
        raise ModelError(f"dropout is {dropout}; give a fraction of at least 0 and below 1.")


def _stem(inputs: keras.KerasTensor, channels: int, stride: int) -> keras.KerasTensor:
    x = keras.layers.Conv2D(channels, 3, strides=stride, padding="same", use_bias=False, name="conv1")(inputs)
    x = keras.layers.BatchNormalization(name="conv1_bn")(x)
    return keras.layers.ReLU(6.0, name="conv1_relu")(x)


def _separable_block(x: keras.KerasTensor, channels: int, stride: int, index: int) -> keras.KerasTensor:
    """A depthwise 3x3 and a pointwise 1x1 convolution, each with batch normalization and ReLU6."""
    x = keras.layers.DepthwiseConv2D(
        3, strides=stride, padding="same", use_bias=False, name=f"conv_dw_{index}"
    )(x)
    x = keras.layers.BatchNormalization(name=f"conv_dw_{index}_bn")(x)
    x = keras.layers.ReLU(6.0, name=f"conv_dw_{index}_relu")(x)
    x = keras.layers.Conv2D(channels, 1, padding="same", use_bias=False, name=f"conv_pw_{index}")(x)
    x = keras.layers.BatchNormalization(name=f"conv_pw_{index}_bn")(x)
    return keras.layers.ReLU(6.0, name=f"conv_pw_{index}_relu")(x)
