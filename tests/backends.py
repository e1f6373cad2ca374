"""Fine-tuning with the backend of Keras that KERAS_BACKEND names, in a process of its own.

Keras takes its backend when it is loaded, and keeps it.

    python -m tests.backends OUT.json
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

from amc_tf.finetune import finetune
from amc_tf.plan import PruningPlan
from amc_tf.settings import FinetuneSettings
from tests.trained import IMAGE, NUM_CLASSES, RANGE, make_data

SETTINGS = FinetuneSettings(
    epochs=2,
    batch_size=16,
    learning_rate=0.002,
    distillation_weight=0.9,
    feature_weight=1.0,
    warmup_epochs=0.5,
)


def make_network(seed: int) -> Any:
    """Makes a classifier whose weights are the same with every backend."""
    layers = keras.layers
    images = keras.Input(IMAGE)
    hidden = layers.Conv2D(8, 3, use_bias=False, name="first")(images)
    hidden = layers.ReLU()(layers.BatchNormalization()(hidden))
    hidden = layers.Conv2D(8, 3, name="second")(hidden)
    hidden = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization()(hidden)))
    model = keras.Model(images, layers.Dense(NUM_CLASSES, activation="softmax")(hidden))
    generator = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(generator.normal(0.1, 0.3, variable.shape).astype(np.float32))
    return model


def main(out: str) -> None:
    """Fine-tunes a tiny network with each kind of batch norm; writes losses and sums of weights."""
    teacher, found = make_network(0), {}
    train, validation = make_data(96, 0), make_data(40, 1)
    for freezes in (False, True):
        result = finetune(
            make_network(1),
            train,
            validation,
            settings=dataclasses.replace(SETTINGS, freeze_batch_norm=freezes),
            input_range=RANGE,
            teacher=teacher,
            plan=PruningPlan({}, {}),
            unlabelled=make_data(32, 2).images,
        )
        found[f"freezes={freezes}"] = {
            "loss": [record.loss for record in result.history[1:]],
            "weights": [float(np.abs(weight).sum()) for weight in result.model.get_weights()],
        }
    Path(out).write_text(json.dumps({"backend": keras.backend.backend(), **found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
