"""Small classifiers with depthwise convolutions, batch norm and ReLU6, of both Keras flavours."""

import importlib
from typing import Any

import numpy as np
import pytest


def small_classifier(keras: Any, seed: int = 0) -> Any:
    """Returns a MobileNet-like classifier of 16x16x3 images with random batch-norm statistics."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    inputs = keras.Input((16, 16, 3))
    x = inputs
    for depthwise, channels, stride in ((False, 8, 2), (True, 16, 1), (True, 24, 2)):
        if depthwise:
            x = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False)(x)
            x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
            x = layers.Conv2D(channels, 1, use_bias=False)(x)
        else:
            x = layers.Conv2D(channels, 3, strides=stride, padding="same", use_bias=False)(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(5, activation="softmax")(x))
    rng = np.random.default_rng(seed)
    model.set_weights([_random_weight(weight, rng) for weight in model.weights])
    return model


def _random_weight(variable: Any, rng: np.random.Generator) -> np.ndarray:
    shape = tuple(variable.shape)
    path = getattr(variable, "path", variable.name)
    if "variance" in path or "gamma" in path:
        return rng.uniform(0.5, 1.5, shape)
    if len(shape) == 1:
        return rng.normal(0, 0.2, shape)
    fan_in = 9 if "depthwise" in path else np.prod(shape[:-1])
    return rng.normal(0, 3.0 if len(shape) == 2 else np.sqrt(2 / fan_in), shape)


@pytest.fixture(scope="session", params=["keras", "tf_keras"])
def any_classifier(request: pytest.FixtureRequest) -> Any:
    """The same classifier as a Keras 3 and as a tf_keras model; tests must not change it."""
    return small_classifier(importlib.import_module(request.param))


@pytest.fixture(scope="session")
def classifier() -> Any:
    """A Keras 3 classifier; tests must not change it."""
    return small_classifier(importlib.import_module("keras"))


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """float32 [64, 16, 16, 3] in -1..1, smooth enough for classes to differ."""
    rng = np.random.default_rng(1)
    coarse = rng.uniform(-1, 1, size=(64, 4, 4, 3)).astype(np.float32)
    return np.repeat(np.repeat(coarse, 4, axis=1), 4, axis=2)
