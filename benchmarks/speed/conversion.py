"""From slim weights to TFLite, beside a rebuilt Keras model and TensorFlow's own converter."""

from __future__ import annotations

from collections import Counter

import keras
import numpy as np
import tensorflow as tf

from amc_tf.device.convert import TFLiteRunner
from amc_tf.device.operators import read_operators
from amc_tf.executor import Executor
from amc_tf.graph import ChannelGraph
from amc_tf.network import NetworkFunction
from amc_tf.plan import PruningPlan, widths_to_plan
from amc_tf.rebuild import rebuild
from benchmarks.speed.figures import Figure, Options, in_turn, median, ratios

_MIN_SPEEDUP = 10.0
_NUM_IMAGES = 4
_SHAPE_ARITHMETIC = ("SHAPE", "STRIDED_SLICE", "PACK")  # of an unknown batch size, which ours does without


def measure(options: Options) -> list[Figure]:
    """Converts half of MobileNet-V1 at 224x224 in both ways, with random weights."""
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNet(weights=None)
    network = NetworkFunction(model)
    plan = half(network.graph)
    weights = network.slice(plan)

    executor = Executor(network)

    def ours() -> bytes:
        return executor.to_tflite(weights)

    def theirs() -> bytes:
        return tf.lite.TFLiteConverter.from_keras_model(rebuild(model, plan)).convert()

    fast, slow = in_turn(options.rounds, ours, theirs)
    return [
        median("conversion.speedup", ratios(slow, fast), "x", limit=_MIN_SPEEDUP, at_least=True),
        median("conversion.seconds", fast, "s"),
        median("conversion.keras_seconds", slow, "s"),
        *_compare(ours(), theirs()),
    ]


def half(graph: ChannelGraph) -> PruningPlan:
    """Keeps the first half of the channels of each group."""
    return widths_to_plan(graph, [group.num_channels // 2 for group in graph.groups])


def _compare(ours: bytes, theirs: bytes) -> list[Figure]:
    images = np.random.default_rng(0).uniform(-1, 1, (_NUM_IMAGES, 224, 224, 3)).astype(np.float32)
    found, expected = (TFLiteRunner(tflite).predict(images) for tflite in (ours, theirs))
    kinds = [Counter(operator.kind for operator in read_operators(tflite)) for tflite in (ours, theirs)]
    different = (kinds[0] - kinds[1]) + (kinds[1] - kinds[0])
    for kind in _SHAPE_ARITHMETIC:
        del different[kind]
    error = float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))
    return [
        Figure("conversion.max_difference", error, "of largest", limit=1e-5),
        Figure("conversion.different_operators", float(different.total()), "operators", limit=0),
    ]
