"""Fine-tuning under a strategy in a process of its own, which tests start once for each worker.

A strategy must be made before TensorFlow has begun to work, and a worker has one place in a cluster: neither
can be done twice in one process.

    python -m tests.strategies one|mirrored|multiworker keras|tf_keras OUT.json
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from amc_tf.distribute import is_chief, make_strategy
from amc_tf.finetune import finetune
from amc_tf.settings import FinetuneSettings
from tests.harness import randomize
from tests.trained import IMAGE, NUM_CLASSES, RANGE, make_classifier, make_data

SETTINGS = FinetuneSettings(epochs=3, batch_size=40, learning_rate=0.0002, warmup_epochs=0.5)


def make_plain(library: Any) -> Any:
    """Makes a classifier without batch normalization, whose replicas compute what one does."""
    layers = library.layers
    images = library.Input(IMAGE)
    hidden = layers.Conv2D(8, 3, activation="relu")(images)
    outputs = layers.Dense(NUM_CLASSES, activation="softmax")(layers.GlobalAveragePooling2D()(hidden))
    return randomize(library.Model(images, outputs))


def main(name: str, library: str, out: str) -> None:
    """Fine-tunes two tiny networks, and writes their histories and sums of their weights."""
    strategy = None
    if name == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    elif name == "multiworker":
        strategy = make_strategy(name)
    found = {"is_chief": is_chief(strategy), "replicas": strategy.num_replicas_in_sync if strategy else 1}
    for kind, make in (("plain", make_plain), ("normalized", make_classifier)):
        model = make(importlib.import_module(library))
        data = make_data(240, 0), make_data(100, 1)
        result = finetune(
            model, *data, settings=SETTINGS, input_range=RANGE, teacher=model, strategy=strategy
        )
        found[kind] = {
            "top1": [record.top1 for record in result.history],
            "loss": [record.loss for record in result.history[1:]],
            "weights": [float(np.abs(weight).sum()) for weight in result.model.get_weights()],
        }
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
