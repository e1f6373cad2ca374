import keras
import numpy as np
import pytest

from amc_tf.batch_norm import BatchNormEstimator
from amc_tf.network import NetworkFunction
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


def test_statistics_are_those_of_keras_in_training(library):
    model, images = two_norms(library), random_images()
    network = NetworkFunction(model)
    plan = random_plan(network.graph)
    slim = rebuild(model, plan)
    slim(images, training=True)  # a momentum of 0 leaves the statistics of this batch

    estimated = BatchNormEstimator(network, images)(network.slice(plan))

    for name in ("norm1", "norm2"):
        mean, variance = moving_statistics(slim, name)
        np.testing.assert_allclose(estimated[name]["moving_mean"], mean, atol=1e-5)
        # tf_keras stores the unbiased variance, here of 30 images with 16 positions or more.
        np.testing.assert_allclose(
            estimated[name]["moving_variance"], variance, rtol=1 / (30 * 16 - 1) + 1e-4
        )


def test_statistics_of_the_first_norm_are_those_of_its_inputs_over_all_batches():
    model, images = two_norms(keras), random_images()
    network = NetworkFunction(model)
    inputs = np.asarray(keras.Model(model.input, model.get_layer("conv1").output)(images), np.float64)

    estimated = BatchNormEstimator(network, images, batch_size=7)(network.weights)

    np.testing.assert_allclose(estimated["norm1"]["moving_mean"], inputs.mean(axis=(0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(estimated["norm1"]["moving_variance"], inputs.var(axis=(0, 1, 2)), rtol=1e-4)
    assert estimated["norm1"]["moving_mean"].dtype == np.float32


def test_no_batch_is_much_smaller_than_the_others():
    model, images = two_norms(keras), random_images(21)
    network = NetworkFunction(model)

    left_over = BatchNormEstimator(network, images, batch_size=20)(network.weights)
    halves = BatchNormEstimator(network, images, batch_size=11)(network.weights)

    np.testing.assert_array_equal(left_over["norm2"]["moving_variance"], halves["norm2"]["moving_variance"])


def test_weights_given_are_not_changed_and_all_else_is_passed_on():
    network = NetworkFunction(two_norms(keras))
    before = network.weights["norm1"]["moving_mean"].copy()

    estimated = BatchNormEstimator(network, random_images())(network.weights)

    np.testing.assert_array_equal(network.weights["norm1"]["moving_mean"], before)
    assert estimated["norm1"]["gamma"] is network.weights["norm1"]["gamma"]
    assert estimated["conv1"] is network.weights["conv1"]


def test_networks_of_any_width_share_one_trace():
    network, images = NetworkFunction(two_norms(keras)), random_images()
    estimator = BatchNormEstimator(network, images)
    for seed in range(3):
        estimator(network.slice(random_plan(network.graph, seed)))

    assert estimator._measure.experimental_get_tracing_count() == 1


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
    layer = model.get_layer("norm")
    gamma, beta, *_ = layer.get_weights()
    first = np.asarray(library.Model(model.input, model.get_layer("first").output)(images), np.float64)
    means, variances = first.mean(axis=(0, 1, 2)), first.var(axis=(0, 1, 2))
    kernel, bias = model.get_layer("between").get_weights()
    hidden = np.maximum((first - means) / np.sqrt(variances + layer.epsilon) * gamma + beta, 0)
    both = np.concatenate([first, hidden @ kernel[0, 0] + bias])

    found = BatchNormEstimator(network, images, batch_size=batch_size)(network.weights)["norm"]

    tolerance = 1e-4 if batch_size == 30 else 0.02  # the second call sees what the batch before it made
    np.testing.assert_allclose(found["moving_mean"], both.mean(axis=(0, 1, 2)), atol=tolerance)
    np.testing.assert_allclose(found["moving_variance"], both.var(axis=(0, 1, 2)), rtol=2 * tolerance)
