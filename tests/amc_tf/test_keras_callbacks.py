"""Facts about amc_tf/keras_callbacks.py, with episodes that are made up."""

import csv
import math

import keras
import pytest
import tensorflow as tf
import tf_keras

from amc_tf.errors import SettingsError
from amc_tf.keras_callbacks import check_callbacks, listening
from amc_tf.progress import Progress
from amc_tf.search import DROPPED

REWARDS = (-0.4, -0.2, -0.3, -0.25, -0.2, -0.1)


def record_of(episode, *, latency_ms=None, kind="search"):
    accuracies = {"top1": 0.5, "top5": 0.9, "probability": 0.4}
    numbers = {**accuracies, "macs": 100, "params": 10, "bytes": 40, "latency_ms": latency_ms}
    best = max(REWARDS[: episode + 1]) if episode else None
    found = {"reward": REWARDS[episode], "best_reward": best, "feasible": episode > 0, **numbers}
    if kind == DROPPED:
        found = dict.fromkeys(found)
    return {"episode": episode, "kind": kind, "widths": [3, 4], "critic_loss": None, **found}


class Listener(keras.callbacks.Callback):
    """Takes down what it is told."""

    def __init__(self):
        super().__init__()
        self.told = []

    def on_train_begin(self, logs=None):
        self.told.append(("begin", self.params["epochs"]))

    def on_epoch_begin(self, epoch, logs=None):
        self.told.append(("epoch", epoch))

    def on_epoch_end(self, epoch, logs=None):
        self.told.append((epoch, logs))

    def on_train_end(self, logs=None):
        self.told.append(("end", logs))


def play(*callbacks, records=None, progress=None):
    """Tells of episodes until told to stop; returns the number of episodes."""
    records = [record_of(episode) for episode in range(len(REWARDS))] if records is None else records
    with listening(callbacks, progress or Progress(), len(records)) as tell:
        return next((number for number, record in enumerate(records, 1) if tell(record)), len(records))


def test_episodes_are_told_as_epochs():
    listener = Listener()
    assert play(listener, records=[record_of(0), record_of(1, latency_ms=2.5)]) == 2
    begin, first_begin, (first, first_logs), second_begin, (second, second_logs), end = listener.told
    assert (begin, first_begin, second_begin) == (("begin", 2), ("epoch", 0), ("epoch", 1))
    assert (first, second) == (0, 1)
    accuracies = {"top1": 0.5, "top5": 0.9, "probability": 0.4}
    common = {**accuracies, "macs": 100.0, "params": 10.0, "bytes": 40.0}
    assert first_logs == {"reward": -0.4, "best_reward": -math.inf, "feasible": 0.0, **common}
    assert second_logs == {
        "reward": -0.2, "best_reward": -0.2, "feasible": 1.0, "latency_ms": 2.5, **common
    }  # fmt: skip
    assert end == ("end", second_logs)
    assert {type(value) for value in second_logs.values()} == {float}


def test_dropped_episodes_are_told_to_the_progress_alone():
    class Count(Progress):
        def __init__(self):
            self.seen = []

        def episode(self, record, total):
            self.seen.append((record["episode"], total))

    listener, progress = Listener(), Count()
    play(listener, records=[record_of(0), record_of(1, kind=DROPPED), record_of(2)], progress=progress)
    assert [told[1] for told in listener.told if told[0] == "epoch"] == [0, 2]
    assert progress.seen == [(0, 3), (1, 3), (2, 3)]


@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_early_stopping_ends_the_search_when_patience_does(library):
    stopping = library.callbacks.EarlyStopping(
        "best_reward", mode="max", patience=2, restore_best_weights=True, verbose=0
    )
    assert play(stopping) == 4  # the best after episode 1 stays the best in 2 and 3
    assert stopping.stopped_epoch == 3


def test_a_search_that_fails_has_no_end():
    listener = Listener()
    failing = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        play(listener, failing)
    assert listener.told[-1][0] == 0


def test_the_loggers_of_keras_log(tmp_path):
    history = keras.callbacks.History()
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    board = keras.callbacks.TensorBoard(tmp_path / "events")
    lines = []
    printing = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: lines.append(logs["reward"]))
    play(history, logger, board, printing)
    assert history.history["reward"] == lines == list(REWARDS)
    with (tmp_path / "log.csv").open() as file:
        assert [float(row["reward"]) for row in csv.DictReader(file)] == list(REWARDS)
    (events,) = (tmp_path / "events" / "train").iterdir()
    values = {
        value.tag: tf.make_ndarray(value.tensor)
        for event in tf.compat.v1.train.summary_iterator(str(events))
        for value in event.summary.value
    }
    assert values["epoch_best_reward"] == pytest.approx(-0.1)


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        (print, "no Keras callback"),
        (keras.callbacks.EarlyStopping, "no Keras callback: give instances"),
        (keras.callbacks.ModelCheckpoint("x.keras"), "ModelCheckpoint works on a model in training"),
        (keras.callbacks.ReduceLROnPlateau("reward"), "ReduceLROnPlateau works on a model"),
        (
            tf_keras.callbacks.LearningRateScheduler(lambda epoch: 0.1),
            "LearningRateScheduler works on a model",
        ),
        (keras.callbacks.EarlyStopping(), r"monitors 'val_loss', but a search logs reward, best_reward"),
        (keras.callbacks.EarlyStopping("reward"), "whether reward is to rise: give mode='max' or 'min'"),
    ],
)
def test_callbacks_that_cannot_listen_to_a_search_are_refused(callback, words):
    with pytest.raises(SettingsError, match=words):
        check_callbacks([callback])
