"""Lets Keras callbacks listen to a search, whose episodes are to them what epochs are in `model.fit`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from amc_tf.errors import SettingsError
from amc_tf.progress import Progress
from amc_tf.search import DROPPED, EpisodeCallback

LOGS = (
    "reward", "best_reward", "top1", "top5", "probability", "fidelity", "macs", "params", "bytes",
    "latency_ms", "feasible",
)  # fmt: skip
# What these save, restore or change belongs to a model that is trained, which a search does not have.
_UNFIT = (
    "BackupAndRestore", "LearningRateScheduler", "ModelCheckpoint", "ReduceLROnPlateau", "SwapEMAWeights",
)  # fmt: skip


@contextlib.contextmanager
def listening(callbacks: Sequence[Any], progress: Progress, num_episodes: int) -> Iterator[EpisodeCallback]:
    """Lets Keras callbacks and a progress listen to one search.

    | method                       | when                                                                  |
    | ---------------------------- | --------------------------------------------------------------------- |
    | on_train_begin               | before the first episode                                              |
    | on_epoch_begin, on_epoch_end | one right behind the other when an episode has ended; dropped ones    |
    |                              | are left out, those of a resumed search are told again                |
    | on_train_end                 | when the search has ended or was stopped; not when it has failed      |

    The epoch is the number of the episode, from 0. The logs are floats: "reward" of the episode and
    "best_reward" so far (-inf until a network is within the budget), "top1", "top5", "probability" and
    "fidelity" on the search images (see `amc_tf.evaluate.Accuracy`), "macs", "params", "bytes", "latency_ms"
    where it is measured, "feasible" (1 within the budget, else 0). `model` is an empty object:
    `model.stop_training = True` ends the search.

    What a callback remembers it remembers in the next search, too: EarlyStopping of Keras 3 its best value,
    so that a compression of several stages would compare each stage with those before.

    Args:
        callbacks: of Keras 3, as `EarlyStopping("best_reward", mode="max", patience=50)`, `CSVLogger`,
            `TensorBoard`, `LambdaCallback`, `History`, `RemoteMonitor`, or a class of your own.
        progress: is told of every episode, the dropped ones too.
        num_episodes: of the whole search.

    Yields:
        What `Search.run` takes as `on_episode`.

    Raises:
        SettingsError: as `check_callbacks`.
    """
    check_callbacks(callbacks)
    model = _NoModel()
    for callback in callbacks:
        callback.set_params({"epochs": num_episodes, "steps": 1, "verbose": 0})
        callback.set_model(model)
        callback.on_train_begin()
    logs: dict[str, float] = {}

    def tell(record: Mapping[str, Any]) -> bool:
        progress.episode(record, num_episodes)
        if record["kind"] != DROPPED:
            logs.update(_logs_of(record))
            for callback in callbacks:
                callback.on_epoch_begin(record["episode"])
                callback.on_epoch_end(record["episode"], dict(logs))
        return model.stop_training

    yield tell
    for callback in callbacks:
        callback.on_train_end(dict(logs))


def check_callbacks(callbacks: Sequence[Any]) -> None:
    """Checks, before any long work, that callbacks can listen to a search.

    Raises:
        SettingsError: if one is no Keras callback, works on the weights or the learning rate of a model, or
            monitors what a search does not log.
    """
    for callback in callbacks:
        name = type(callback).__name__
        if not hasattr(callback, "on_epoch_end") or isinstance(callback, type):
            raise SettingsError(
                f"{callback!r} is no Keras callback: give instances of keras.callbacks.Callback."
            )
        if {base.__name__ for base in type(callback).__mro__} & set(_UNFIT):
            raise SettingsError(
                f"{name} works on a model in training, but a search trains none: leave it out. A search is "
                "saved in its run folder (out=...)."
            )
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor not in LOGS:
            raise SettingsError(
                f"{name} monitors {monitor!r}, but a search logs {', '.join(LOGS)}: monitor one of these."
            )
        if monitor is not None and getattr(callback, "mode", None) == "auto":
            raise SettingsError(
                f"{name} does not know whether {monitor} is to rise: give mode='max' or 'min'."
            )


class _NoModel:
    """Stands for the model of a callback: it has neither weights nor layers, metrics or optimizer.

    Attributes:
        stop_training: what callbacks set to end the search.
    """

    def __init__(self) -> None:
        self.stop_training = False
        self.layers = self.metrics = ()
        self.optimizer = None

    def get_weights(self) -> list[Any]:
        """Returns none."""
        return []

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Takes none."""


def _logs_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers of an episode; each has the same ones."""
    known = {name: record.get(name) for name in LOGS}
    if known["best_reward"] is None:
        known["best_reward"] = -math.inf
    return {name: float(value) for name, value in known.items() if value is not None}
