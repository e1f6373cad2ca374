import keras
import numpy as np
import pytest

from amc_tf.batch_norm import BatchNormEstimator
from amc_tf.network import NetworkFunction
from amc_tf.plan import widths_to_plan
from amc_tf.rebuild import rebuild
from tests.harness import random_plan, randomize
from tests.networks import classifier


def two_norms(library):
    def body(hidden):
        for number in (1, 2):
            hidden = library.layers.Conv2D(6, 3, name=f"conv{number}")(hidden)
            hidden = library.layers.BatchNormalization(momentum=0.0, name=f"norm{number}")(hidden)
            hidden = library.layers.ReLU()(hidden)
        return hidden

    return randomize(classifier(library, body))


def random_images(count=30):
    return np.random.default_rng(0).normal(0, 1, (count, 8, 8, 3)).astype(np.float32)


def moving_statistics(model, name):
    return model.get_layer(name).get_weights()[2:]


def trained_on(images, model):
    """Leaves the statistics of these images in the model, whose momentum is 0."""
    model(images, training=True)
    return model


def test_statistics_are_those_of_keras_in_training():
    images = random_images()
    model = trained_on(images, two_norms(keras))
    network = NetworkFunction(model)
    plan = random_plan(network.graph)
    slim = trained_on(images, rebuild(model, plan))

    estimated = BatchNormEstimator(network, images)(network.slice(plan), plan)

    for name in ("norm1", "norm2"):
        mean, variance = moving_statistics(slim, name)
        np.testing.assert_allclose(estimated[name]["moving_mean"], mean, atol=1e-5)
        np.testing.assert_allclose(estimated[name]["moving_variance"], variance, rtol=1e-4)


def test_a_network_that_lost_nothing_keeps_its_averages(library):
    network = NetworkFunction(two_norms(library))
    estimated = BatchNormEstimator(network, random_images(), batch_size=7)(network.weights)
    for name in ("norm1", "norm2"):
        for statistic in ("moving_mean", "moving_variance"):
            np.testing.assert_allclose(
                estimated[name][statistic], network.weights[name][statistic], rtol=1e-5, atol=1e-6
            )
            assert estimated[name][statistic].dtype == np.float32


def test_what_few_images_have_of_their_own_drops_out():
    many, model = random_images(1000), two_norms(keras)
    kernel, bias = model.get_layer("conv1").get_weights()
    kernel[:, :, -1] *= 0.2  # the channel that goes: pruning takes those that matter little
    model.get_layer("conv1").set_weights([kernel, bias])
    network = NetworkFunction(trained_on(many, model))
    widths = network.graph.full_widths
    plan = widths_to_plan(network.graph, (widths[0] - 1, *widths[1:]))
    expected, _ = moving_statistics(trained_on(many, rebuild(model, plan)), "norm2")
    moved, alone = [], []
    for first in range(0, 20, 5):
        few = many[first : first + 5]
        found = BatchNormEstimator(network, few)(network.slice(plan), plan)["norm2"]
        moved.append(found["moving_mean"] - expected)
        alone.append(moving_statistics(trained_on(few, rebuild(model, plan)), "norm2")[0] - expected)
    assert np.linalg.norm(moved) < 0.6 * np.linalg.norm(alone)


def test_a_channel_without_variance_gets_finite_statistics():
    model = two_norms(keras)
    kernel, bias = model.get_layer("conv1").get_weights()
    kernel[..., 2] = 0.0
    model.get_layer("conv1").set_weights([kernel, bias])
    network = NetworkFunction(model)
    plan = random_plan(network.graph)
    estimated = BatchNormEstimator(network, random_images())(network.slice(plan), plan)
    for name in ("norm1", "norm2"):
        assert np.isfinite(estimated[name]["moving_mean"]).all()
        assert (estimated[name]["moving_variance"] >= 0).all()


def test_no_batch_is_much_smaller_than_the_others():
    model, images = two_norms(keras), random_images(21)
    network = NetworkFunction(model)
    plan = random_plan(network.graph)

    left_over, halves = (
        BatchNormEstimator(network, images, batch_size=size)(network.slice(plan), plan) for size in (20, 11)
    )

    np.testing.assert_array_equal(left_over["norm2"]["moving_variance"], halves["norm2"]["moving_variance"])


def test_weights_given_are_not_changed_and_all_else_is_passed_on():
    network = NetworkFunction(two_norms(keras))
    before = network.weights["norm1"]["moving_mean"].copy()

    estimated = BatchNormEstimator(network, random_images())(network.weights)

    np.testing.assert_array_equal(network.weights["norm1"]["moving_mean"], before)
    assert estimated["norm1"]["gamma"] is network.weights["norm1"]["gamma"]
    assert estimated["conv1"] is network.weights["conv1"]


def test_networks_of_any_width_and_all_estimators_share_one_trace():
    network, images = NetworkFunction(two_norms(keras)), random_images()
    estimators = [BatchNormEstimator(network, images[:count]) for count in (20, len(images))]
    for seed in range(3):
        plan = random_plan(network.graph, seed)
        for estimator in estimators:
            estimator(network.slice(plan), plan)

    assert network.batch_statistics.experimental_get_tracing_count() == 1


def test_a_network_without_batch_norm_passes_through():
    network = NetworkFunction(classifier(keras, keras.layers.ReLU()))
    assert BatchNormEstimator(network, random_images())(network.weights) is network.weights


@pytest.mark.parametrize("batch_size", [30, 10])
def test_a_norm_that_is_called_twice_gets_the_statistics_of_both_calls(library, batch_size):
    norm = library.layers.BatchNormalization(momentum=0.5, name="norm")

    def body(hidden):
        hidden = library.layers.ReLU()(norm(hidden))
        return norm(library.layers.Conv2D(8, 1, name="between")(hidden))

    model, images = randomize(classifier(library, body)), random_images()
    network = NetworkFunction(model)
    estimator = BatchNormEstimator(network, images, batch_size=batch_size)
    doubled = {**network.weights, "first": {**network.weights["first"]}}
    doubled["first"]["kernel"] = 2 * network.weights["first"]["kernel"]
    doubled["first"]["bias"] = 2 * network.weights["first"]["bias"]

    found, own = estimator(doubled)["norm"], network.weights["norm"]

    # The first call sees twice the values, the second what it saw before: the first call normalises.
    layer = model.get_layer("norm")
    gamma, beta, *_ = layer.get_weights()
    first = np.asarray(library.Model(model.input, model.get_layer("first").output)(images), np.float64)
    means, variances = first.mean(axis=(0, 1, 2)), first.var(axis=(0, 1, 2))
    kernel, bias = model.get_layer("between").get_weights()
    hidden = np.maximum((first - means) / np.sqrt(variances + layer.epsilon) * gamma + beta, 0)
    second = hidden @ kernel[0, 0] + bias
    (before, old), (after, new) = (
        (both.mean(axis=(0, 1, 2)), both.var(axis=(0, 1, 2)) + layer.epsilon)
        for both in (np.concatenate([first, second]), np.concatenate([2 * first, second]))
    )
    average = own["moving_variance"] + layer.epsilon
    tolerance = 1e-3 if batch_size == 30 else 0.05  # the second call sees what the batch before it made
    np.testing.assert_allclose(found["moving_variance"] + layer.epsilon, average * new / old, rtol=tolerance)
    np.testing.assert_allclose(
        found["moving_mean"], own["moving_mean"] + (after - before) * np.sqrt(average / old), atol=tolerance
    )
