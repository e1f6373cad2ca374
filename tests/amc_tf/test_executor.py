"""Facts about amc_tf/executor.py."""

import keras
import numpy as np
import pytest
from keras import layers

from amc_tf import executor as executor_module
from amc_tf.device.convert import TFLiteRunner, to_tflite
from amc_tf.device.operators import read_operators
from amc_tf.evaluate import accuracy
from amc_tf.executor import Executor
from amc_tf.network import NetworkFunction
from amc_tf.plan import uniform_plan, widths_to_plan
from tests.networks import classifier
from tests.trained import RANGE, make_classifier, make_data

HALF = (8, 12, 8)


@pytest.fixture(scope="module")
def network():
    return NetworkFunction(make_classifier(keras))


@pytest.fixture(scope="module")
def executor(network):
    return Executor(network)


@pytest.fixture(scope="module")
def slim(network):
    return network.slice(widths_to_plan(network.graph, HALF))


def normalized_twice(hidden):
    return layers.BatchNormalization()(layers.ReLU()(layers.BatchNormalization()(hidden)))


def converted(network, weights, **options):
    return to_tflite(network.bind(weights), input_shape=network.input_shape, **options)


def test_accuracy_is_the_same_number_on_either_path(network, executor, slim):
    data = make_data(200, 5)
    assert executor.runs_litert
    found = accuracy(executor.predictor(slim), data, input_range=RANGE)
    expected = accuracy(network.predictor(slim), data, input_range=RANGE)
    assert (found.top1, found.top5) == (expected.top1, expected.top5)
    assert found.probability == pytest.approx(expected.probability, abs=1e-6)
    images = np.random.default_rng(0).uniform(-1, 1, (8, *network.input_shape)).astype(np.float32)
    np.testing.assert_allclose(
        executor.predictor(slim)(images), network.predictor(slim)(images), rtol=1e-5, atol=1e-6
    )


def test_a_converted_network_is_the_one_that_conversion_makes(network, executor, slim):
    found, expected = executor.to_tflite(slim), converted(network, slim)
    assert read_operators(found) == read_operators(expected)
    images = np.random.default_rng(0).uniform(-1, 1, (8, *network.input_shape)).astype(np.float32)
    np.testing.assert_array_equal(TFLiteRunner(found).predict(images), TFLiteRunner(expected).predict(images))


def test_conversion_runs_for_the_template_only(network, slim, monkeypatch):
    calls = []

    def count(*arguments, **options):
        calls.append(options)
        return to_tflite(*arguments, **options)

    monkeypatch.setattr(executor_module, "to_tflite", count)
    executor = Executor(network)
    for _ in range(3):
        executor.to_tflite(slim)
    assert len(calls) == 2  # the original and the check
    executor.to_tflite(slim, precision="float16")
    assert len(calls) == 3
    assert calls[-1]["precision"] == "float16"


def test_a_network_that_no_template_fits_is_converted_anew():
    network = NetworkFunction(
        classifier(keras, lambda hidden: normalized_twice(layers.DepthwiseConv2D(3)(hidden)))
    )
    executor = Executor(network)
    assert not executor.runs_litert
    weights = network.slice(uniform_plan(network.graph, keep_ratio=0.5))
    assert executor.to_tflite(weights) == converted(network, weights)


def test_a_template_that_makes_another_network_is_not_used(network, slim, monkeypatch):
    monkeypatch.setattr(
        executor_module.TFLiteTemplate, "fill", lambda *_: converted(network, network.weights)
    )
    executor = Executor(network)
    assert executor.to_tflite(slim) == converted(network, slim)
    assert not executor.runs_litert


def test_tensorflow_evaluates_networks_without_depthwise_convolutions_and_on_a_gpu(monkeypatch):
    plain = NetworkFunction(classifier(keras, layers.ReLU()))
    depthwise = NetworkFunction(classifier(keras, layers.DepthwiseConv2D(3)))
    assert not Executor(plain).runs_litert
    assert Executor(depthwise).runs_litert
    monkeypatch.setattr(executor_module.tf.config, "list_physical_devices", lambda kind: [kind])
    assert not Executor(depthwise).runs_litert
