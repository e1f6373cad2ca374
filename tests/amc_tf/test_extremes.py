"""Networks at the edge of what there is: one channel, a thousand layers; and the memory that a run takes."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from amc_tf.budget import Budget
from amc_tf.device.convert import TFLiteRunner, to_tflite
from amc_tf.errors import ModelError
from amc_tf.graph import ChannelGraph, count_cost
from amc_tf.image_data import to_input_range
from amc_tf.plan import widths_to_plan
from amc_tf.rebuild import rebuild
from amc_tf.session import PruningSession
from amc_tf.settings import AgentSettings, SearchSettings
from tests.harness import check_conversion, randomize
from tests.networks import classifier
from tests.trained import IMAGE, NUM_CLASSES, RANGE, make_data, make_split

ROOT = Path(__file__).parents[2]
GIB = 1 << 20  # in KiB
SETTINGS = SearchSettings(
    episodes=2,
    warmup_episodes=1,
    round_to=1,
    num_calibration_images=8,
    num_search_images=100,
    agent=AgentSettings(hidden_units=(8, 8), batch_size=8, updates_per_transition=1),
)


def classifier_of(body, *, scale=1.0):
    """Makes a classifier that is right on `make_data`: random layers, and classes fitted to them."""
    images = keras.Input(IMAGE)
    features = keras.layers.GlobalAveragePooling2D()(body(images))
    outputs = keras.layers.Dense(NUM_CLASSES, activation="softmax", name="classes")(features)
    model = randomize(keras.Model(images, outputs))
    for layer in model.layers:
        layer.set_weights([scale * array for array in layer.get_weights()])
    train = make_data(240, 0)
    values = np.asarray(keras.Model(images, features)(to_input_range(train.images, RANGE)))
    values = np.concatenate([values, np.ones((len(values), 1))], axis=1)
    solution = np.linalg.lstsq(values, 8.0 * np.eye(NUM_CLASSES)[train.labels], rcond=None)[0]
    model.get_layer("classes").set_weights([solution[:-1], solution[-1]])
    return model


def search(model, budget):
    session = PruningSession(model, make_split(8, 100), budget=budget, settings=SETTINGS, input_range=RANGE)
    return session.search()


def through_one_channel(images):
    hidden = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(images)
    narrow = keras.layers.Conv2D(1, 1, name="one")(hidden)
    narrow = keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise")(narrow)
    narrow = keras.layers.BatchNormalization(name="norm")(narrow)
    wide = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="second")(narrow)
    return keras.layers.Concatenate()([wide, hidden])


def test_a_search_goes_through_a_layer_of_one_channel_and_leaves_it():
    model = classifier_of(through_one_channel)
    check_conversion(model)
    result = search(model, Budget(macs=0.6))
    graph = ChannelGraph.from_model(model)
    assert [group.name for group in graph.groups] == ["first", "second"]
    assert result.best.cost.macs <= 0.6 * graph.count().macs
    slim = rebuild(model, widths_to_plan(graph, result.best.widths))
    assert count_cost(slim) == result.best.cost
    assert slim.get_layer("one").output.shape[-1] == 1


def test_every_group_can_be_left_with_one_channel():
    def body(hidden):
        hidden = keras.layers.DepthwiseConv2D(3)(keras.layers.BatchNormalization()(hidden))
        return keras.layers.Conv2D(6, 3, name="second")(hidden)

    model = randomize(classifier(keras, body))
    graph = ChannelGraph.from_model(model)
    slim = rebuild(model, widths_to_plan(graph, [1, 1]))
    assert graph.count((1, 1)) == count_cost(slim)
    images = np.random.default_rng(0).uniform(-1, 1, (8, *IMAGE)).astype(np.float32)
    outputs = np.asarray(slim(images))
    np.testing.assert_allclose(TFLiteRunner(to_tflite(slim)).predict(images), outputs, atol=1e-5)
    assert np.ptp(outputs, axis=0).max() > 1e-3


def test_a_network_of_single_channels_has_nothing_to_prune():
    model = classifier_of(
        lambda images: keras.layers.Conv2D(1, 1, name="b")(keras.layers.Conv2D(1, 3, name="a")(images))
    )
    with pytest.raises(
        ModelError, match=r"Nothing .* can be pruned \(a: a single channel cannot shrink; b: a"
    ):
        search(model, Budget(macs=0.6))


def many_blocks(images):
    hidden = keras.layers.Conv2D(8, 3, padding="same", name="stem")(images)
    for number in range(250):
        inner = keras.layers.ReLU()(keras.layers.Conv2D(12, 1, name=f"wide{number}")(hidden))
        inner = keras.layers.Conv2D(8, 1, name=f"narrow{number}")(inner)
        hidden = keras.layers.Add()([hidden, inner])
    return hidden


@pytest.mark.slow
def test_a_network_of_a_thousand_layers_is_searched():
    model = classifier_of(many_blocks, scale=0.3)
    assert len(model.layers) > 1000
    graph = ChannelGraph.from_model(model)
    assert len(graph.groups) == 251
    result = search(model, Budget(macs=0.7))
    assert len(result.episodes) == 2
    assert all(np.isfinite(record["reward"]) for record in result.episodes)
    assert result.best.cost.macs <= 0.7 * graph.count().macs
    assert count_cost(rebuild(model, widths_to_plan(graph, result.best.widths))) == result.best.cost


# Runs a command and prints its peak in KiB. A program inherits the peak of the one that starts it, which here
# would be that of all tests before.
MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in other units elsewhere")
def test_a_whole_run_fits_into_4_gib(tmp_path):
    words = (
        "compress demo --data digits --budget macs=0.5 --meter none --episodes 3 --warmup-episodes 1 "
        "--finalists 1 --finetune-epochs 1 --quiet --out run"
    ).split()
    process = subprocess.run(
        [sys.executable, "-c", MEASURED, sys.executable, "-m", "amc_tf.cli", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert 0.5 * GIB < int(process.stdout) < 4 * GIB
