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

import numpy as np
import tensorflow as tf

from amc_tf.distribute import is_chief, make_strategy
from amc_tf.finetune import finetune
from amc_tf.settings import FinetuneSettings
from tests.trained import RANGE, make_classifier, make_data

SETTINGS = FinetuneSettings(epochs=3, batch_size=40, learning_rate=0.001, warmup_epochs=0.5)


def main(name: str, library: str, out: str) -> None:
    """Fine-tunes a tiny network, and writes its history and a sum of its weights."""
    strategy = None
    if name == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    elif name == "multiworker":
        strategy = make_strategy(name)
    model = make_classifier(importlib.import_module(library))
    result = finetune(
        model,
        make_data(240, 0),
        make_data(100, 1),
        settings=SETTINGS,
        input_range=RANGE,
        teacher=model,
        strategy=strategy,
    )
    found = {
        "top1": [record.top1 for record in result.history],
        "loss": [record.loss for record in result.history],
        "weights": [float(np.abs(weight).sum()) for weight in result.model.get_weights()],
        "replicas": 1 if strategy is None else strategy.num_replicas_in_sync,
        "is_chief": is_chief(strategy),
    }
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
