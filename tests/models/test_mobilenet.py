"""MobileNet-V1 builders: weights, shapes and costs."""

import keras
import numpy as np
import pytest

from amc_tf.errors import ModelError
from amc_tf.models.mobilenet import BLOCK_CHANNELS, cifar_mobilenet, demo_mobilenet, mobilenet_v1


def weight_shapes(model: keras.Model) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in model.weights]


def hand_count(size: int, stem: tuple[int, int], blocks: list[tuple[int, int]], num_classes: int) -> int:
    """MACs of the stem (channels, stride) and of blocks (channels, stride) on a square RGB image."""
    channels, size = stem[0], size // stem[1]
    macs = size * size * channels * 27
    for out_channels, stride in blocks:
        size //= stride
        macs += size * size * channels * (9 + out_channels)
        channels = out_channels
    return macs + channels * num_classes


def counted(model: keras.Model) -> int:
    """MACs from the kernels and the output sizes that Keras reports."""
    macs = 0
    for layer in model.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
            macs += int(np.prod(layer.output.shape[1:3])) * int(np.prod(layer.kernel.shape))
    return macs


@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_weights_are_those_of_keras_applications(alpha: float) -> None:
    ours = mobilenet_v1((32, 32, 3), 7, alpha=alpha)
    reference = keras.applications.MobileNet((32, 32, 3), alpha=alpha, weights=None, classes=7)
    assert ours.count_params() == reference.count_params()
    assert weight_shapes(ours) == weight_shapes(reference)


def test_outputs_are_those_of_keras_applications_with_the_same_weights() -> None:
    reference = keras.applications.MobileNet((64, 64, 3), alpha=0.25, weights=None, classes=10)
    ours = mobilenet_v1((64, 64, 3), 10, alpha=0.25)
    ours.set_weights(reference.get_weights())
    images = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    np.testing.assert_allclose(ours(images), reference(images), rtol=1e-4, atol=1e-6)


def test_layers_with_weights_are_named_as_in_keras_applications() -> None:
    reference = keras.applications.MobileNet((32, 32, 3), alpha=0.25, weights=None, classes=10)
    ours = mobilenet_v1((32, 32, 3), 10, alpha=0.25)
    with_weights = [[layer.name for layer in model.layers if layer.weights] for model in (ours, reference)]
    assert with_weights[0] == with_weights[1]


def test_imagenet_network_has_the_papers_size() -> None:
    model = mobilenet_v1()
    assert model.count_params() == 4_253_864
    assert counted(model) == 568_740_352  # 569 M in Table 8 of the paper


def test_cifar_network_keeps_the_resolution_in_the_stem() -> None:
    model = cifar_mobilenet(10, alpha=0.5)
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    assert model.input_shape == (None, 32, 32, 3)
    assert model.output_shape == (None, 10)
    assert model.get_layer("conv1").output.shape == (None, 32, 32, 16)
    assert model.get_layer("conv_pw_13").output.shape == (None, 2, 2, 512)
    blocks = [(channels // 2, stride) for channels, stride in zip(BLOCK_CHANNELS, strides, strict=True)]
    assert counted(model) == hand_count(32, (16, 1), blocks, 10) == 12_167_168


def test_demo_network_spends_nine_tenths_of_its_macs_in_pointwise_layers() -> None:
    model = demo_mobilenet()
    channels = (32, 64, 64, 128, 128, 256, 256, 256)
    blocks = list(zip(channels, (1, 2, 1, 1, 1, 1, 1, 1), strict=True))
    assert model.output_shape == (None, 10)
    assert model.get_layer("conv_pw_8").output.shape == (None, 16, 16, 256)
    assert counted(model) == hand_count(64, (16, 2), blocks, 10) == 53_062_144
    pointwise = sum(
        int(np.prod(layer.output.shape[1:3])) * int(np.prod(layer.kernel.shape))
        for layer in model.layers
        if layer.name.startswith("conv_pw") and isinstance(layer, keras.layers.Conv2D)
    )
    assert pointwise / counted(model) > 0.9


def test_outputs_are_probabilities() -> None:
    outputs = cifar_mobilenet(5, alpha=0.25)(np.zeros((3, 32, 32, 3), np.float32))
    np.testing.assert_allclose(np.sum(outputs, axis=-1), np.ones(3), rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_classes": 1}, "at least 2 classes"),
        ({"alpha": 0.01}, "no channel in the stem"),
        ({"block_strides": ()}, "one stride per block"),
        ({"block_strides": (1,) * 14}, "1 to 13 blocks"),
        ({"dropout": 1.0}, "below 1"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        mobilenet_v1((32, 32, 3), **{"num_classes": 10, **arguments})
