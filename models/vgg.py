"""VGG-16 for CIFAR, with and without batch normalisation.

References: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR
2015, configuration D; for 32x32 images with one hidden dense layer of 512 units, as in Li et al., "Pruning
Filters for Efficient ConvNets", ICLR 2017.
"""

from __future__ import annotations

import keras

from amc_tf.errors import ModelError

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_HIDDEN_UNITS = 512


def cifar_vgg16(
    num_classes: int = 10, *, alpha: float = 1.0, batch_norm: bool = True, dropout: float = 0.5
) -> keras.Model:
    """Builds VGG-16 for 32x32x3 images.

    Args:
        num_classes: number of classes, at least 2.
        alpha: width multiplier of the convolutions and of the hidden dense layer, at least 1/64.
        batch_norm: whether a batch normalisation stands behind every convolution and the hidden dense layer.
        dropout: fraction of the hidden units dropped while training, 0 <= dropout < 1.

    Returns:
        An untrained model: float32 [batch, 32, 32, 3] -> probabilities float32 [batch, classes].

    Raises:
        ModelError: if an argument is out of its range.
    """
    if num_classes < 2:
        raise ModelError(f"num_classes is {num_classes}; a classifier needs at least 2 classes.")
    if int(BLOCKS[0][0] * alpha) < 1:
        raise ModelError(f"alpha is {alpha}, which leaves no channel; use at least {1 / BLOCKS[0][0]}.")
    if not 0.0 <= dropout < 1.0:
        raise ModelError(f"dropout is {dropout}; give a fraction from 0 to below 1.")
    x = inputs = keras.Input((32, 32, 3), name="image")
    for block, widths in enumerate(BLOCKS, start=1):
        for number, channels in enumerate(widths, start=1):
            name = f"conv{block}_{number}"
            x = keras.layers.Conv2D(
                int(channels * alpha),
                3,
                padding="same",
                use_bias=not batch_norm,
                kernel_initializer="he_normal",
                name=name,
            )(x)
            x = _activate(x, name, batch_norm=batch_norm)
        x = keras.layers.MaxPooling2D(name=f"pool{block}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(
        int(_HIDDEN_UNITS * alpha), use_bias=not batch_norm, kernel_initializer="he_normal", name="hidden"
    )(x)
    x = _activate(x, "hidden", batch_norm=batch_norm)
    x = keras.layers.Dropout(dropout, name="dropout")(x)
    outputs = keras.layers.Dense(num_classes, activation="softmax", name="classes")(x)
    return keras.Model(inputs, outputs, name="cifar_vgg16_bn" if batch_norm else "cifar_vgg16")


def _activate(x: keras.KerasTensor, name: str, *, batch_norm: bool) -> keras.KerasTensor:
    if batch_norm:
        x = keras.layers.BatchNormalization(name=f"{name}_bn")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)
