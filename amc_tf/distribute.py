"""Trains one model on several devices, or on several machines, at once: strategies of tf.distribute."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from amc_tf.clone import keras_of
from amc_tf.errors import ClusterError, SettingsError

STRATEGIES = ("mirrored", "multiworker")
_EXAMPLE = '{"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, "task": {"type": "worker", "index": 0}}'


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Makes a strategy, before anything else is asked of TensorFlow.

    Args:
        name: "mirrored" for all GPUs of this machine, or "multiworker" for the machines that the environment
            variable TF_CONFIG lists, each of which runs the same program with its own index.

    Raises:
        SettingsError: if there is no such strategy, TF_CONFIG is missing or malformed, or TensorFlow has been
            at work already.
    """
    if name not in STRATEGIES:
        raise SettingsError(f"There is no strategy {name!r}; choose one of {', '.join(STRATEGIES)}.")
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    _check_config(os.environ.get("TF_CONFIG", ""))
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (RuntimeError, ValueError) as error:
        raise SettingsError(f"The workers of TF_CONFIG cannot be joined: {error}") from error


def is_chief(strategy: tf.distribute.Strategy | None) -> bool:
    """Returns whether this process is the one that writes: the only one, or the worker 0."""
    resolver = None if strategy is None else strategy.cluster_resolver
    return resolver is None or resolver.task_id in (None, 0)


def _check_config(text: str) -> None:
    try:
        config = json.loads(text)
        workers, index = config["cluster"]["worker"], config["task"]["index"]
        is_whole = config["task"]["type"] == "worker" and 0 <= index < len(workers)
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"The strategy multiworker needs the environment variable TF_CONFIG, such as {_EXAMPLE}: "
            f"{'it is not set' if not text else f'it is no such JSON ({error!r})'}."
        ) from error
    if not is_whole:
        raise SettingsError(
            f"TF_CONFIG must describe one of its workers, by an index from 0 to {len(workers) - 1}, such as "
            f"{_EXAMPLE}."
        )


class Replicas:
    """Trains a model whose copies each take an equal part of a batch; the mean of their gradients is applied.

    Keras' own loop does not run on several workers: `Model.fit` and `train_on_batch` of Keras 3.12 fail under
    `MultiWorkerMirroredStrategy`. Its training step does, and is what runs here.

    Args:
        strategy: under whose scope the model was built and compiled.
        model: of either Keras flavour; the loss is a mean over the batch.
        batch_size: images of each step, on all replicas together.

    Raises:
        SettingsError: if the replicas cannot have equal parts of a batch.
        ClusterError: while it trains, if another worker is lost.
    """

    def __init__(self, strategy: tf.distribute.Strategy, model: Any, *, batch_size: int) -> None:
        count = strategy.num_replicas_in_sync
        if batch_size % count:
            below = batch_size // count * count
            raise SettingsError(
                f"A batch of {batch_size} images cannot be shared out among {count} replicas: make it "
                f"{f'{below} or ' if below else ''}{below + count}."
            )
        self._strategy = strategy
        self._model = model
        self._part = batch_size // count
        self._step = tf.function(self._run)
        if keras_of(model) is keras:  # which would make its variables in the midst of a step
            with strategy.scope():
                model.optimizer.build(model.trainable_variables)

    def train_on_batch(self, make: Callable[[slice], tuple[np.ndarray, np.ndarray]]) -> float:
        """Trains on one batch and returns the mean loss since the metrics of the model were reset.

        Args:
            make: returns images float32 [P, H, W, C] and targets float32 [P, ...] of a part of the batch; it
                is called for the parts of this process.
        """
        parts: dict[int, tuple[np.ndarray, np.ndarray]] = {}

        def value(context: tf.distribute.ValueContext, index: int) -> tf.Tensor:
            replica = context.replica_id_in_sync_group
            if replica not in parts:
                parts[replica] = make(slice(replica * self._part, (replica + 1) * self._part))
            return tf.convert_to_tensor(parts[replica][index])

        shared = [
            self._strategy.experimental_distribute_values_from_function(
                lambda context, index=index: value(context, index)
            )
            for index in range(2)
        ]
        with _told():
            return float(self._step(*shared))

    def average_statistics(self) -> None:
        """Gives all replicas the mean of their batch-norm statistics; each has seen other images."""
        variables = [
            variable
            for variable in self._model.non_trainable_variables
            if tf.as_dtype(variable.dtype).is_floating  # the others are states of random layers
        ]
        with _told():
            local = self._strategy.run(lambda: [tf.convert_to_tensor(variable) + 0 for variable in variables])
            for variable, value in zip(variables, local, strict=True):
                variable.assign(self._strategy.reduce(tf.distribute.ReduceOp.MEAN, value, axis=None))

    def _run(self, images: Any, targets: Any) -> tf.Tensor:
        losses = self._strategy.run(
            lambda *batch: self._model.train_step(batch)["loss"], args=(images, targets)
        )
        return self._strategy.reduce(tf.distribute.ReduceOp.MEAN, losses, axis=None)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turns what TensorFlow makes of a lost worker into a sentence."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ClusterError(f"Another worker was lost ({reason}): start all of them again.") from error
