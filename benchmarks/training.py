"""Trains a network from scratch: SGD with Nesterov momentum under one warm-up and cosine cycle.

The networks that the demo and the CIFAR benchmark compress were made with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np

from amc_tf.augment import augmentation
from amc_tf.data import ImageData, to_input_range
from amc_tf.fused_norm import with_fused_norm

MOMENTUM = 0.9

OnEpoch = Callable[[int, float], None]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        epochs: Passes over the training images.
        warmup_epochs: Epochs in which the learning rate rises linearly.
        batch_size: Images per step; the remainder of an epoch is dropped.
        learning_rate: Peak of the schedule.
        weight_decay: As of an L2 term on the convolution kernels, depthwise ones excepted.
        norm_momentum: Momentum of the batch-norm statistics while training.
        augment: A name that `amc_tf.augment.augmentation` knows.
        input_range: How images are scaled, one of `amc_tf.data.INPUT_RANGES`.
    """

    epochs: int
    warmup_epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 5e-4
    norm_momentum: float = 0.99
    augment: str = "auto"
    input_range: str = "-1..1"


class Batches(keras.utils.PyDataset):
    """Shuffled, augmented batches.

    Args:
        data: Training images, uint8.
        recipe: Names the batch size, the augmentation and the input range.
        seed: Decides the order and the augmentation.
    """

    def __init__(self, data: ImageData, recipe: Recipe, *, seed: int) -> None:
        super().__init__()
        self._data = data
        self._batch_size = recipe.batch_size
        self._input_range = recipe.input_range
        self._augment = augmentation(recipe.augment, data)
        self._rng = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self) -> int:
        return len(self._data) // self._batch_size

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        images = self._data.images[chosen]
        if self._augment is not None:
            images = self._augment(images, self._rng)
        return to_input_range(images, self._input_range), self._data.labels[chosen]

    def on_epoch_end(self) -> None:
        """Draws the order of the next epoch."""
        self._order = self._rng.permutation(len(self._data))


def train(
    model: keras.Model,
    data: ImageData,
    *,
    recipe: Recipe,
    seed: int,
    on_epoch: OnEpoch,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Trains a model in place, without choosing among its epochs.

    Args:
        model: A classifier that ends in a softmax; it stays uncompiled.
        data: Training images, uint8.
        recipe: How to train.
        seed: Decides the order of the images and their augmentation.
        on_epoch: Called after each epoch with its number from 1 and the training loss; the model then holds
            the weights of that epoch.
        callbacks: More of them; their model is the copy that is trained, whose layers have the same names.
    """
    twin = with_fused_norm(model, momentum=recipe.norm_momentum)
    batches = Batches(data, recipe, seed=seed)
    twin.compile(
        _optimizer(twin, recipe, len(batches)),
        keras.losses.SparseCategoricalCrossentropy(),
        # XLA takes five times as long for these convolutions on a CPU; JAX has nothing else.
        jit_compile=keras.backend.backend() == "jax",
    )

    def hand_over(epoch: int, logs: dict[str, float]) -> None:
        model.set_weights(twin.get_weights())
        on_epoch(epoch + 1, logs["loss"])

    report = keras.callbacks.LambdaCallback(on_epoch_end=hand_over)
    twin.fit(batches, epochs=recipe.epochs, verbose=0, callbacks=[report, *callbacks], shuffle=False)


def _optimizer(model: keras.Model, recipe: Recipe, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    num_warmup_steps = recipe.warmup_epochs * steps_per_epoch
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if num_warmup_steps else recipe.learning_rate,
        recipe.epochs * steps_per_epoch - num_warmup_steps,
        warmup_target=recipe.learning_rate if num_warmup_steps else None,
        warmup_steps=num_warmup_steps,
    )
    # Keras decays weights outside the momentum, which makes it 1 - momentum times weaker than an L2 term.
    decay = recipe.weight_decay / (1.0 - MOMENTUM)
    optimizer = keras.optimizers.SGD(schedule, MOMENTUM, nesterov=True, weight_decay=decay)
    is_full = [len(v.shape) == 4 and v.shape[-1] > 1 for v in model.trainable_variables]
    optimizer.exclude_from_weight_decay(
        [v for v, full in zip(model.trainable_variables, is_full, strict=True) if not full]
    )
    return optimizer
