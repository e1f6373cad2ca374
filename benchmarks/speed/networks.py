"""The networks and sessions that the parts measure."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from amc_tf.budget import Budget
from amc_tf.data import DataSplit, ImageData, split_data, to_input_range
from amc_tf.evaluate import compiled
from amc_tf.session import PruningSession
from amc_tf.settings import SearchSettings
from benchmarks.shared_data import load_imagenet_samples, load_imagenet_test

INPUT_RANGE = "-1..1"
NUM_IMAGES = 500  # to validate and to calibrate, as the authors' code was measured
_NUM_TEST = 10
_NUM_PROBES = 200


def imagenet_mobilenet(data_dir: Path) -> keras.Model:
    """Returns MobileNet-V1 1.0 at 224x224 with the published weights."""
    model = keras.applications.MobileNet(weights=None)
    model.load_weights(data_dir / "weights" / "mobilenet_v1_1.0_224.weights.h5")
    return model


def imagenet_split(data_dir: Path) -> DataSplit:
    """Returns 500 pictures to calibrate on and 500 to validate on."""
    return split_data(
        load_imagenet_samples(data_dir),
        load_imagenet_test(data_dir),
        num_calibration=NUM_IMAGES,
        num_search=NUM_IMAGES,
        seed=0,
    )


def noise(count: int, size: int) -> NDArray[np.uint8]:
    """Returns random pictures: enough where only time counts."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def noise_split(model: keras.Model, *, num_search: int, num_calibration: int = NUM_IMAGES) -> DataSplit:
    """Returns noise with the labels that the model gives it, so that it is always right.

    An untrained network puts all noise into one class, which no search takes: its batch-norm statistics and
    its last bias are set first, so that it tells the images apart.
    """
    num_train = max(2 * num_search, num_search + num_calibration)
    images = noise(num_train + _NUM_TEST, model.input_shape[1])
    _tell_apart(model, to_input_range(images[:_NUM_PROBES], INPUT_RANGE))
    labels = np.argmax(compiled(model)(to_input_range(images, INPUT_RANGE)), axis=-1)
    data = ImageData(images, labels, model.output_shape[-1])
    train, test = data.take(np.arange(num_train)), data.take(np.arange(num_train, len(data)))
    return split_data(train, test, num_calibration=num_calibration, num_search=num_search, seed=0)


def _tell_apart(model: keras.Model, images: NDArray[np.float32]) -> None:
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(images, training=True)
    last = next(layer for layer in reversed(model.layers) if layer.weights)
    kernel, bias = last.get_weights()
    last.set_weights([kernel, bias - np.log(keras.ops.convert_to_numpy(model(images))).mean(axis=0)])


def session(model: keras.Model, split: DataSplit, settings: SearchSettings) -> PruningSession:
    """Returns a session for half the operations."""
    return PruningSession(model, split, budget=Budget(macs=0.5), settings=settings, input_range=INPUT_RANGE)
