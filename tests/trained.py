"""A tiny classifier that is right on tiny images, made in milliseconds, and a meter with scripted times."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np

from amc_tf.device.convert import to_tflite
from amc_tf.device.latency import Latency
from amc_tf.device.operators import read_operators
from amc_tf.device.table import LatencyTable
from amc_tf.device.table_samples import TableSample
from amc_tf.image_data import DataSplit, ImageData, split_data, to_input_range
from amc_tf.network import NetworkFunction
from amc_tf.plan import uniform_plan
from tests.harness import randomize

NUM_CLASSES = 4
IMAGE = (8, 8, 3)
RANGE = "-1..1"


def make_data(num_images: int, seed: int) -> ImageData:
    """Makes uint8 images: one coarse pattern for each class, shifted at random, under noise."""
    patterns = np.random.default_rng(99).uniform(40, 215, (NUM_CLASSES, 4, 4, 3))
    generator = np.random.default_rng(seed)
    labels = np.arange(num_images) % NUM_CLASSES
    images = patterns[labels].repeat(2, axis=1).repeat(2, axis=2)
    images = np.stack([np.roll(image, generator.integers(-1, 2), axis=1) for image in images])
    noisy = images + generator.normal(0, 25, images.shape)
    return ImageData(noisy.clip(0, 255).astype(np.uint8), labels, NUM_CLASSES)


def make_split(num_calibration: int = 64, num_search: int = 100) -> DataSplit:
    """Splits 240 training images; 100 others are the validation images."""
    return split_data(
        make_data(240, 0), make_data(100, 1), num_calibration=num_calibration, num_search=num_search, seed=0
    )


def make_classifier(library: Any) -> Any:
    """Makes a classifier of three channel groups (16, 24 and 16) that is right on `make_data`.

    The convolutions are random, batch normalisation has the statistics of the training images, and the
    last layer is fitted by least squares.
    """
    layers = library.layers
    images = library.Input(IMAGE)
    hidden = layers.Conv2D(16, 3, padding="same", use_bias=False, name="first")(images)
    hidden = layers.ReLU()(layers.BatchNormalization(momentum=0.0, name="first_norm")(hidden))
    hidden = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(hidden)
    hidden = layers.ReLU()(layers.BatchNormalization(momentum=0.0, name="depthwise_norm")(hidden))
    hidden = layers.Conv2D(24, 1, use_bias=False, name="pointwise")(hidden)
    hidden = layers.ReLU()(layers.BatchNormalization(momentum=0.0, name="pointwise_norm")(hidden))
    hidden = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="last")(hidden)
    features = layers.GlobalAveragePooling2D()(hidden)
    outputs = layers.Dense(NUM_CLASSES, activation="softmax", name="classes")(features)
    model = randomize(library.Model(images, outputs, name="tiny"))
    train = make_data(240, 0)
    pixels = to_input_range(train.images, RANGE)
    model(pixels, training=True)  # with a momentum of 0 the moving statistics are those of this batch
    values = np.asarray(library.Model(images, features)(pixels, training=False))
    values = np.concatenate([values, np.ones((len(values), 1))], axis=1)
    logits = 8.0 * np.eye(NUM_CLASSES)[train.labels]
    solution = np.linalg.lstsq(values, logits, rcond=None)[0]
    model.get_layer("classes").set_weights([solution[:-1], solution[-1]])
    return model


def make_table(model: Any, *, ms_per_kb: float = 0.1) -> LatencyTable:
    """Makes the table of a device on which times follow from size, as those of `ScriptedMeter` do."""
    network = NetworkFunction(model)
    samples = []
    for ratio in (1.0, 0.75, 0.5, 0.25):
        weights = network.slice(uniform_plan(network.graph, ratio, round_to=4))
        tflite = to_tflite(network.bind(weights), input_shape=network.input_shape)
        ms = ms_per_kb * len(tflite) / 1000
        samples.append(
            TableSample(f"uniform {ratio}", read_operators(tflite), ms, 0.9 * ms, 1.1 * ms, 0.1, 50)
        )
    return LatencyTable("scripted", {}, "by hand", tuple(samples))


@dataclasses.dataclass(frozen=True)
class ScriptedMeter:
    """A `LatencyMeter` whose times follow from the network's size: `ms_per_kb` for each 1000 bytes.

    Attributes:
        reference: the network beside which candidates are timed.
        drift: factor on all times, of the reference too, as on a device that is slow for a while.
        ms_per_kb: as above.
        name: for people.
        runs_elsewhere: whether other work may go on meanwhile.
        seen: takes down the SHA-256 of every network that was timed.
    """

    reference: bytes | None = None
    drift: float = 1.0
    ms_per_kb: float = 0.1
    name: str = "scripted"
    runs_elsewhere: bool = False
    seen: list[str] = dataclasses.field(default_factory=list, compare=False)

    def fingerprint(self) -> str:
        """Tells meters apart."""
        reference = hashlib.sha256(self.reference).hexdigest() if self.reference else None
        return f"{self.name} {self.ms_per_kb} {reference}"

    def with_reference(self, tflite: bytes) -> ScriptedMeter:
        """Returns a meter that times the reference too."""
        return dataclasses.replace(self, reference=tflite)

    def measure(self, tflite: bytes) -> Latency:
        """Returns the scripted time."""
        self.seen.append(hashlib.sha256(tflite).hexdigest())
        samples = [self._ms(tflite) * factor for factor in (1.0, 0.9, 1.1)]
        if self.reference is None:
            return Latency.from_samples(samples)
        return Latency.from_samples(
            samples,
            reference_median_ms=self._ms(self.reference),
            paired_ratio=self._ms(tflite) / self._ms(self.reference),
        )

    def _ms(self, tflite: bytes) -> float:
        return self.drift * self.ms_per_kb * len(tflite) / 1000
