import numpy as np
import pytest
import tensorflow as tf

from amc_tf.device.convert import TFLiteRunner, to_tflite
from amc_tf.errors import ModelError, PlanError
from amc_tf.graph import ChannelGraph
from amc_tf.network import NetworkFunction
from amc_tf.plan import PruningPlan
from tests.harness import random_plan, randomize, relative_error
from tests.networks import classifier

IMAGES = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)


@pytest.fixture
def model(library):
    def body(hidden):
        hidden = library.layers.BatchNormalization(name="norm")(hidden)
        hidden = library.layers.DepthwiseConv2D(3, name="depthwise")(library.layers.ReLU()(hidden))
        hidden = library.layers.BatchNormalization(name="depthwise_norm")(hidden)
        hidden = library.layers.BatchNormalization(name="lonely_norm")(library.layers.ReLU()(hidden))
        return library.layers.Conv2D(6, 1, name="second")(hidden)

    return randomize(classifier(library, body))


def test_batch_normalization_after_a_linear_layer_is_folded(model):
    network = NetworkFunction(model)
    assert network.folded == {"norm": "first", "depthwise_norm": "depthwise"}
    folded = network.fold(network.weights)
    assert "norm" not in folded
    assert "lonely_norm" in folded


def test_folding_leaves_the_weights_given_untouched(model):
    network = NetworkFunction(model)
    kernel = network.weights["first"]["kernel"].copy()
    network.fold(network.weights)
    np.testing.assert_array_equal(network.weights["first"]["kernel"], kernel)


def test_all_plans_share_one_trace(model):
    network = NetworkFunction(model)
    for seed in range(3):
        network(IMAGES, network.slice(random_plan(network.graph, seed)))
    network(IMAGES[:1], network.weights)
    assert network._compiled.experimental_get_tracing_count() == 1


def test_a_bound_function_holds_the_weights_as_constants(model):
    network = NetworkFunction(model)
    weights = network.slice(random_plan(network.graph))
    bound = tf.function(network.bind(weights), input_signature=[tf.TensorSpec((1, 8, 8, 3), tf.float32)])
    concrete = bound.get_concrete_function()
    assert not concrete.captured_inputs
    assert relative_error(concrete(tf.constant(IMAGES[:1])), network(IMAGES[:1], weights)) < 1e-5


def test_layers_run_as_they_are_survive_the_conversion_to_tflite(library):
    layers = library.layers

    def body(hidden):
        hidden = layers.LayerNormalization()(layers.Conv2D(8, 1)(hidden))
        hidden = layers.Conv2D(8, 3, groups=2, activation="relu")(hidden)
        return layers.Conv2D(6, 1)(hidden)

    network = NetworkFunction(randomize(classifier(library, body)))
    weights = network.slice(random_plan(network.graph))
    tflite = to_tflite(network.bind(weights), precision="float32", input_shape=network.input_shape)
    assert relative_error(TFLiteRunner(tflite).predict(IMAGES), network(IMAGES, weights)) < 1e-4


def test_a_predictor_serves_batches_of_any_size(model):
    network = NetworkFunction(model)
    predict = network.predictor(network.weights)
    whole = np.asarray(predict(IMAGES))
    parts = [np.asarray(predict(IMAGES[:1])), np.asarray(predict(IMAGES[1:]))]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-5, atol=1e-6)
    assert network.input_shape == (8, 8, 3)


def test_observers_see_every_call_in_order(model):
    network = NetworkFunction(model)
    seen = []
    network.run(tf.constant(IMAGES), network.weights, observer=lambda call, inputs: seen.append(call.path))
    assert seen == [call.path for call in network.graph.trace.calls]


def test_statistics_are_those_of_the_batch(model, library):
    network = NetworkFunction(model)
    statistics = {}
    network.run(tf.constant(IMAGES), network.weights, statistics=statistics)
    first = library.Model(model.inputs, model.get_layer("first").output)
    features = np.asarray(first(IMAGES))

    assert set(statistics) == {"norm", "depthwise_norm", "lonely_norm"}
    ((mean, variance),) = statistics["norm"]
    np.testing.assert_allclose(mean, features.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variance, features.var(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)


def test_slicing_with_the_plan_of_another_model_is_refused(model):
    with pytest.raises(PlanError, match="another model"):
        NetworkFunction(model).slice(PruningPlan({"other": (0,)}, {"other": 2}))


def test_weights_read_once_do_not_follow_the_model(model):
    network = NetworkFunction(model, ChannelGraph.from_model(model))
    before = np.asarray(network(IMAGES, network.weights))
    randomize(model, seed=9)
    np.testing.assert_array_equal(network(IMAGES, network.weights), before)


def test_a_second_input_or_output_is_refused(library):
    left, right = library.Input((8, 8, 3)), library.Input((8, 8, 3))
    hidden = library.layers.Conv2D(6, 3)(library.layers.Add()([left, right]))
    classes = library.layers.Dense(4)(library.layers.GlobalAveragePooling2D()(hidden))
    with pytest.raises(
        ModelError, match="2 inputs and 1 outputs: one image batch and one output were expected"
    ):
        NetworkFunction(library.Model([left, right], classes))
    images = library.Input((8, 8, 3))
    hidden = library.layers.GlobalAveragePooling2D()(library.layers.Conv2D(6, 3)(images))
    hidden = library.layers.Dense(5)(hidden)
    with pytest.raises(ModelError, match="1 inputs and 2 outputs"):
        NetworkFunction(
            library.Model(images, [library.layers.Dense(4)(hidden), library.layers.Dense(2)(hidden)])
        )
    with pytest.raises(ModelError, match=r"returns a dictionary, .* keras.Model\(model.inputs\[0\]"):
        NetworkFunction(library.Model(images, {"logits": hidden}))
