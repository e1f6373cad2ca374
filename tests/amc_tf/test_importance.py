"""Every importance against a hand computation on a network of two filters and one reading kernel."""

import keras
import numpy as np
import pytest

from amc_tf.calibration import Calibration, InputStatistics
from amc_tf.errors import SettingsError
from amc_tf.graph import ChannelGraph
from amc_tf.importance import IMPORTANCES, find_importance
from amc_tf.network import NetworkFunction

WRITTEN = np.array([[1.0, -3.0]], np.float32)  # the 1x1 kernel that makes channels 0 and 1
READ = np.array([[2.0, -1.0], [0.5, 0.5]], np.float32)  # rows: how the next layer weighs channels 0 and 1
MEAN = np.array([1.0, 2.0], np.float32)
COVARIANCE = np.array([[3.0, 1.0], [1.0, 5.0]], np.float32)


def make_model():
    """One image channel, two filters "first", a reader "second" of two outputs, and the classes."""
    images = keras.Input((1, 1, 1))
    hidden = keras.layers.Conv2D(2, 1, use_bias=False, name="first")(images)
    hidden = keras.layers.Conv2D(2, 1, use_bias=False, name="second")(hidden)
    model = keras.Model(images, keras.layers.Dense(3, name="classes")(keras.layers.Flatten()(hidden)))
    model.get_layer("first").set_weights([WRITTEN[None, None]])
    model.get_layer("second").set_weights([READ[None, None]])
    return model


def scores_of(name, calibration):
    network = NetworkFunction(make_model())
    return find_importance(name)(network.graph, network.weights, calibration)["first"]


STATISTICS = Calibration({"second": InputStatistics(MEAN, COVARIANCE, 10)})
NOTHING = Calibration({})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l1_consumer", [3.0, 1.0]),
        ("l2_consumer", [np.sqrt(5.0), np.sqrt(0.5)]),
        ("l1_producer", [1.0, 3.0]),
        ("l2_producer", [1.0, 3.0]),
        ("activation", [2.0, 3.0]),  # mean squares: 3 + 1² and 5 + 2²
        ("l2_consumer_activation", [np.sqrt(5.0) * 2.0, np.sqrt(0.5) * 3.0]),
        ("backward_elimination", [2.0, 1.0]),  # |w|² / (H⁻¹)_jj: 5 * 2.8 and 0.5 * 4.7
    ],
)
def test_importance_equals_the_hand_computation(name, expected):
    np.testing.assert_allclose(scores_of(name, STATISTICS), expected, rtol=1e-5)


def test_every_importance_is_tested_here():
    assert set(IMPORTANCES) == {
        "l1_consumer",
        "l2_consumer",
        "l1_producer",
        "l2_producer",
        "activation",
        "l2_consumer_activation",
        "backward_elimination",
    }


def test_without_statistics_only_the_kernel_counts():
    np.testing.assert_allclose(scores_of("activation", NOTHING), [1.0, 1.0])
    np.testing.assert_allclose(scores_of("l2_consumer_activation", NOTHING), np.sqrt([5.0, 0.5]))
    np.testing.assert_allclose(scores_of("backward_elimination", NOTHING), [2.0, 1.0])


def test_of_channels_that_say_the_same_one_stays_longest():
    """Channels 0 and 1 are copies with large kernels; 2 is weaker than either, but nothing replaces it."""
    rng = np.random.default_rng(0)
    single, other = rng.normal(0, 1, (2, 4000))
    features = np.stack([single, single + rng.normal(0, 0.05, 4000), other], axis=1)
    covariance = np.cov(features.T, bias=True).astype(np.float32)
    statistics = InputStatistics(np.zeros(3, np.float32), covariance, 4000)
    images = keras.Input((1, 1, 1))
    hidden = keras.layers.Conv2D(3, 1, use_bias=False, name="first")(images)
    hidden = keras.layers.Conv2D(2, 1, use_bias=False, name="second")(hidden)
    model = keras.Model(images, keras.layers.Dense(3)(keras.layers.Flatten()(hidden)))
    kernel = np.array([[2.0, 2.0], [1.9, 1.9], [1.0, -1.0]], np.float32)
    model.get_layer("second").set_weights([kernel[None, None]])
    network = NetworkFunction(model)
    calibration = Calibration({"second": statistics})

    scores, energies = (
        find_importance(name)(network.graph, network.weights, calibration)["first"]
        for name in ("backward_elimination", "l2_consumer_activation")
    )

    assert sorted(np.argsort(scores)[1:]) in ([0, 2], [1, 2])
    assert sorted(np.argsort(energies)[1:]) == [0, 1]


def test_one_reader_of_two_groups_orders_the_channels_of_both():
    images = keras.Input((1, 1, 1))
    branches = [keras.layers.Conv2D(2, 1, use_bias=False, name=name)(images) for name in ("left", "right")]
    hidden = keras.layers.Conv2D(1, 1, use_bias=False, name="reader")(keras.layers.Concatenate()(branches))
    model = keras.Model(images, keras.layers.Dense(3)(keras.layers.Flatten()(hidden)))
    model.get_layer("reader").set_weights([np.array([3.0, 1.0, 4.0, 2.0])[None, None, :, None]])
    network = NetworkFunction(model)
    scores = find_importance("backward_elimination")(network.graph, network.weights, NOTHING)
    assert scores["left"].tolist() == [2.0, 1.0] and scores["right"].tolist() == [2.0, 1.0]


def test_scores_of_all_positions_and_readers_of_a_channel_add_up():
    images = keras.Input((2, 2, 3))
    hidden = keras.layers.Conv2D(4, 1, name="first")(images)
    flat = keras.layers.Flatten()(hidden)
    both = keras.layers.Add()([keras.layers.Dense(2, name=name)(flat) for name in ("one", "two")])
    network = NetworkFunction(keras.Model(images, both))
    kernels = [network.weights[name]["kernel"].reshape(4, 4, 2) for name in ("one", "two")]

    scores = find_importance("l1_consumer")(network.graph, network.weights, Calibration({}))

    np.testing.assert_allclose(
        scores["first"], sum(np.abs(kernel).sum(axis=(0, 2)) for kernel in kernels), rtol=1e-5
    )


def test_producers_of_a_residual_sum_add_up():
    images = keras.Input((2, 2, 3))
    branches = [keras.layers.Conv2D(4, 1, name=name)(images) for name in ("one", "two")]
    flat = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()(branches))
    graph = ChannelGraph.from_model(keras.Model(images, keras.layers.Dense(2)(flat)))
    network = NetworkFunction(keras.Model(images, keras.layers.Dense(2)(flat)))
    squares = [np.square(network.weights[name]["kernel"]).sum(axis=(0, 1, 2)) for name in ("one", "two")]

    scores = find_importance("l2_producer")(network.graph, network.weights, Calibration({}))

    assert [group.name for group in graph.groups] == ["one"]
    np.testing.assert_allclose(scores["one"], np.sqrt(sum(squares)), rtol=1e-5)


def test_unknown_importance_lists_the_valid_names():
    with pytest.raises(SettingsError, match=r"importance is 'best'; choose one of l1_consumer, .*activation"):
        find_importance("best")


@pytest.mark.parametrize("name", IMPORTANCES)
def test_channels_that_never_change_get_finite_scores(name):
    constant = InputStatistics(MEAN, np.full((2, 2), -1e-10, np.float32), 10)
    assert np.isfinite(scores_of(name, Calibration({"second": constant}))).all()
