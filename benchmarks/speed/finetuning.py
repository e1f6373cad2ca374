"""Fine-tuning without a teacher beside Keras' own `fit` on the same network and images."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

from amc_tf.data import ImageData, to_input_range
from amc_tf.finetune import EpochRecord, finetune
from amc_tf.models.resnet import cifar_resnet
from amc_tf.settings import FinetuneSettings
from benchmarks.speed import networks
from benchmarks.speed.figures import Figure, Options, median, ratios, seconds

_NUM_IMAGES = 2560
_BATCH_SIZE = 128
_MAX_PIPELINE_SHARE = 0.5  # made beside the training, a batch ahead: below 1 it is not the limit


def measure(options: Options) -> list[Figure]:
    """Trains ResNet-20 epoch by epoch in both ways, ours with augmentation."""
    keras.utils.set_random_seed(0)
    data = ImageData(networks.noise(_NUM_IMAGES, 32), np.arange(_NUM_IMAGES) % 10, 10)
    images = to_input_range(data.images, networks.INPUT_RANGE)
    plain = cifar_resnet(20)
    plain.compile(keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True), "sparse_categorical_crossentropy")
    theirs: list[float] = []

    def fit() -> None:
        theirs.append(
            seconds(lambda: plain.fit(images, data.labels, batch_size=_BATCH_SIZE, epochs=1, verbose=0))
        )

    ours = _epochs(cifar_resnet(20), data, options.rounds, between=fit)
    pipeline = _epochs(_almost_nothing(), data, options.rounds, between=lambda: None)
    speeds = [_NUM_IMAGES / taken for taken in ours]
    return [
        median("finetuning.ratio_to_fit", ratios(theirs[1:], ours), "x", limit=1.0, at_least=True),
        median("finetuning.images_per_second", speeds, "images/s"),
        median("finetuning.pipeline_share", ratios(pipeline, ours), "of epoch", limit=_MAX_PIPELINE_SHARE),
    ]


def _epochs(model: keras.Model, data: ImageData, rounds: int, *, between: Callable[[], None]) -> list[float]:
    """Fine-tunes and returns the seconds of every epoch but the first, which compiles."""
    taken: list[float] = []

    def note(record: EpochRecord) -> None:
        if record.epoch > 1:
            taken.append(record.seconds)
        if record.epoch:
            between()

    settings = FinetuneSettings(epochs=rounds + 1, batch_size=_BATCH_SIZE, augment="crop_flip")
    one = data.take(np.arange(10))
    finetune(model, data, one, settings=settings, input_range=networks.INPUT_RANGE, on_epoch=note)
    return taken


def _almost_nothing() -> keras.Model:
    """Returns a classifier that takes no time to train, so that what is left is the input pipeline."""
    layers = keras.layers
    return keras.Sequential(
        [layers.Input((32, 32, 3)), layers.GlobalAveragePooling2D(), layers.Dense(10, activation="softmax")]
    )
