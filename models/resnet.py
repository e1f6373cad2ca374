"""Residual and plain networks for CIFAR, and the weight files of trained ones.

Reference: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016. Section 4.2: depth 6n + 2,
three stages of 16, 32 and 64 channels, shortcuts of kind A; plain networks are the same without shortcuts.
Section 4.1: ResNet-50, four stages of bottleneck blocks, shortcuts of kind B.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping

import keras
import numpy as np

from amc_tf.errors import ModelError

STAGE_CHANNELS = (16, 32, 64)
# Of ResNet-50, for each stage: channels inside its blocks, and how many blocks.
BOTTLENECK_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
_EXPANSION = 4
_BATCH_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def cifar_resnet(depth: int = 56, num_classes: int = 10) -> keras.Model:
    """Builds a CIFAR ResNet, such as ResNet-20 or ResNet-56.

    Shortcuts are of kind A, without trained weights: where the resolution halves, every second pixel is taken
    and zero channels are put on both sides. Here that is a fixed 1x1 convolution with stride 2, whose kernel
    is the identity on the middle channels: a layer that every tool knows, and that shrinks with the channels
    around it. It adds 0.2 % to the MACs of ResNet-56. Strided 3x3 convolutions pad one pixel on every side.

    Args:
        depth: layers with weights, 6n + 2 for n blocks in each stage.
        num_classes: number of classes, at least 2.

    Returns:
        An untrained model: float32 [batch, 32, 32, 3], normalised by ImageNet's mean and deviation for the
        weight files that `load_weights` reads -> probabilities float32 [batch, classes].

    Raises:
        ModelError: if an argument is out of its range.
    """
    return _build(depth, num_classes, has_shortcuts=True)


def cifar_plain(depth: int = 20, num_classes: int = 10) -> keras.Model:
    """Builds the plain network of a depth, such as Plain-20: the ResNet without its shortcuts.

    Args:
        depth: layers with weights, 6n + 2 for n blocks in each stage.
        num_classes: number of classes, at least 2.

    Returns:
        An untrained model: float32 [batch, 32, 32, 3] -> probabilities float32 [batch, classes].

    Raises:
        ModelError: if an argument is out of its range.
    """
    return _build(depth, num_classes, has_shortcuts=False)


def cifar_resnet50(num_classes: int = 10) -> keras.Model:
    """Builds ResNet-50 for 32x32x3 images.

    The AMC paper gives the accuracy of a ResNet-50 on CIFAR-10, but not its structure. This is the network
    for ImageNet with a 3x3 stem of stride 1 and no pooling behind it, so that 4x4 positions are left at the
    end; the first block of a later stage has its stride in the 3x3 convolution. It is common for CIFAR
    (https://github.com/kuangliu/pytorch-cifar).

    Args:
        num_classes: number of classes, at least 2.

    Returns:
        An untrained model: float32 [batch, 32, 32, 3] -> probabilities float32 [batch, classes].

    Raises:
        ModelError: if an argument is out of its range.
    """
    _check_classes(num_classes)
    inputs = keras.Input((32, 32, 3), name="image")
    x = _convolution(inputs, BOTTLENECK_STAGES[0][0], 1, "conv1", "bn1")
    x = keras.layers.ReLU(name="relu")(x)
    for stage, (channels, blocks) in enumerate(BOTTLENECK_STAGES, start=1):
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            x = _bottleneck(x, channels, stride, f"layer{stage}_{block}")
    return keras.Model(inputs, _classify(x, num_classes), name="cifar_resnet50")


def load_weights(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Fills a model of `cifar_resnet` or `cifar_resnet50` from an .npz file.

    The arrays have the names that PyTorch's implementations use (`layer1.0.conv1.weight`,
    `bn1.running_mean`, `linear.bias`), their kernels the order of Keras (rows, columns, in, out).

    Args:
        model: a model of the depth and number of classes that the file was made from.
        path: the file.

    Raises:
        ModelError: if the file cannot be read, or an array is missing, left over, or of another shape.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(f"{os.fspath(path)} is missing or no .npz file of weights ({error}).") from error
    wanted = {name: variable for layer in model.layers for name, variable in _names(layer).items()}
    wrong = [name for name in wanted if name not in arrays or arrays[name].shape != wanted[name].shape]
    wrong += [name for name in arrays if name not in wanted]
    if wrong:
        raise ModelError(
            f"{os.fspath(path)} does not fit {model.name}: {len(wrong)} arrays, first of them {wrong[0]}, "
            "are missing, left over, or of another shape; build the model with the depth of the file."
        )
    for name, variable in wanted.items():
        variable.assign(arrays[name])


def _build(depth: int, num_classes: int, *, has_shortcuts: bool) -> keras.Model:
    if depth < 8 or (depth - 2) % 6:
        raise ModelError(f"A CIFAR ResNet has a depth of 6n + 2, such as 20 or 56, not {depth}.")
    _check_classes(num_classes)
    inputs = keras.Input((32, 32, 3), name="image")
    x = _convolution(inputs, STAGE_CHANNELS[0], 1, "conv1", "bn1")
    x = keras.layers.ReLU(name="relu")(x)
    for stage, channels in enumerate(STAGE_CHANNELS, start=1):
        for block in range((depth - 2) // 6):
            stride = 2 if stage > 1 and block == 0 else 1
            x = _block(x, channels, stride, f"layer{stage}_{block}", has_shortcuts=has_shortcuts)
    kind = "resnet" if has_shortcuts else "plain"
    model = keras.Model(inputs, _classify(x, num_classes), name=f"cifar_{kind}{depth}")
    _fix_shortcuts(model)
    return model


def _check_classes(num_classes: int) -> None:
    if num_classes < 2:
        raise ModelError(f"num_classes is {num_classes}; a classifier needs at least 2 classes.")


def _classify(x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.layers.Dense(num_classes, activation="softmax", name="linear")(x)


def _block(
    x: keras.KerasTensor, channels: int, stride: int, name: str, *, has_shortcuts: bool
) -> keras.KerasTensor:
    shortcut = x
    x = _convolution(x, channels, stride, f"{name}_conv1", f"{name}_bn1")
    x = keras.layers.ReLU(name=f"{name}_relu1")(x)
    x = _convolution(x, channels, 1, f"{name}_conv2", f"{name}_bn2")
    if has_shortcuts:
        if stride > 1:
            shortcut = keras.layers.Conv2D(
                channels, 1, strides=stride, use_bias=False, trainable=False, name=f"{name}_shortcut"
            )(shortcut)
        x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return keras.layers.ReLU(name=f"{name}_relu2")(x)


def _bottleneck(x: keras.KerasTensor, channels: int, stride: int, name: str) -> keras.KerasTensor:
    """Convolutions of 1x1, 3x3 and 1x1; the shortcut is trained where the number of channels changes."""
    shortcut, wide = x, _EXPANSION * channels
    if x.shape[-1] != wide:
        shortcut = _convolution(x, wide, stride, f"{name}_shortcut_0", f"{name}_shortcut_1", kernel_size=1)
    x = _convolution(x, channels, 1, f"{name}_conv1", f"{name}_bn1", kernel_size=1)
    x = keras.layers.ReLU(name=f"{name}_relu1")(x)
    x = _convolution(x, channels, stride, f"{name}_conv2", f"{name}_bn2")
    x = keras.layers.ReLU(name=f"{name}_relu2")(x)
    x = _convolution(x, wide, 1, f"{name}_conv3", f"{name}_bn3", kernel_size=1)
    x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return keras.layers.ReLU(name=f"{name}_relu3")(x)


def _convolution(
    x: keras.KerasTensor, channels: int, stride: int, name: str, norm_name: str, *, kernel_size: int = 3
) -> keras.KerasTensor:
    if stride > 1 and kernel_size > 1:
        x = keras.layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    x = keras.layers.Conv2D(
        channels,
        kernel_size,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=norm_name)(x)


def _fix_shortcuts(model: keras.Model) -> None:
    """Sets the kernel of each shortcut to the identity on the middle channels."""
    for layer in model.layers:
        if layer.name.endswith("_shortcut"):
            _, _, num_inputs, num_outputs = layer.kernel.shape
            before = (num_outputs - num_inputs) // 2
            layer.kernel.assign(np.eye(num_inputs, num_outputs, before, dtype=np.float32)[None, None])


def _names(layer: keras.Layer) -> Mapping[str, keras.Variable]:
    """Returns the trained variables of a layer under their names in the file."""
    stem = layer.name.replace("_", ".")  # Keras on PyTorch refuses dots
    if isinstance(layer, keras.layers.BatchNormalization):
        return {f"{stem}.{name}": getattr(layer, ours) for ours, name in _BATCH_NORM.items()}
    if isinstance(layer, keras.layers.Conv2D) and layer.trainable:
        return {f"{stem}.weight": layer.kernel}
    if isinstance(layer, keras.layers.Dense):
        return {f"{stem}.weight": layer.kernel, f"{stem}.bias": layer.bias}
    return {}
