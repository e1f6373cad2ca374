import keras
import numpy as np
import pytest
import tf_keras

from amc_tf.errors import ModelError
from amc_tf.graph import ChannelGraph
from amc_tf.layers.base import OpaqueRule
from amc_tf.layers.rules import find_rule
from amc_tf.layers.weighted import Conv2DRule
from amc_tf.network import NetworkFunction
from amc_tf.plan import uniform_plan
from amc_tf.rebuild import rebuild
from amc_tf.trace import trace_model
from tests.harness import check_network, randomize, relative_error
from tests.networks import classifier, frozen_reasons, widths_by_group


class KerasDouble(keras.layers.Layer):
    def call(self, inputs):
        return 2.0 * inputs


class KerasConv(keras.layers.Conv2D):
    pass


class TfKerasDouble(tf_keras.layers.Layer):
    def call(self, inputs):
        return 2.0 * inputs


class TfKerasConv(tf_keras.layers.Conv2D):
    pass


DOUBLE = {"keras": KerasDouble, "tf_keras": TfKerasDouble}
CONV = {"keras": KerasConv, "tf_keras": TfKerasConv}


def between_convolutions(library, layer):
    def body(hidden):
        hidden = library.layers.Conv2D(6, 1, name="before")(hidden)
        return library.layers.Conv2D(5, 1, name="after")(layer(hidden))

    return classifier(library, body)


def test_every_layer_of_the_package_has_its_own_rule(library):
    model = classifier(library, library.layers.Conv2D(6, 1))
    rules = [find_rule(call) for call in trace_model(model).calls]
    assert [type(rule) is Conv2DRule for rule in rules] == [True, True, False, False]


@pytest.mark.parametrize("kind", [DOUBLE, CONV], ids=["own_layer", "derived_layer"])
def test_a_layer_of_the_users_own_is_run_as_it_is(library, kind):
    own = kind[library.__name__]
    layer = own(6, 1, name="own") if kind is CONV else own(name="own")
    graph = check_network(between_convolutions(library, layer))

    assert widths_by_group(graph) == {"first": 8, "after": 5}
    assert frozen_reasons(graph)["own"] == f"{own.__name__} is no layer of Keras itself"
    assert graph.layer_macs().get("own", 0) == (8 * 8 * 6 * 6 if kind is CONV else 0)


def test_a_lambda_layer_is_run_as_it_is_but_not_copied(library):
    layer = library.layers.Lambda(lambda hidden: hidden * 2.0, name="twice")
    model = randomize(between_convolutions(library, layer))
    network = NetworkFunction(model)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)

    assert frozen_reasons(network.graph)["twice"] == "no pruning rule for Lambda"
    assert relative_error(network(images, network.weights), model(images)) < 1e-5
    with pytest.raises(ModelError, match="replace Lambda layers"):
        rebuild(model, uniform_plan(network.graph, 0.5, round_to=1))


def test_channels_first_layers_are_frozen_with_the_reason(library):
    images = library.Input((3, 8, 8))
    hidden = library.layers.Conv2D(6, 3, data_format="channels_first", name="first")(images)
    hidden = library.layers.Flatten()(hidden)
    hidden = library.layers.Dense(8, name="hidden")(hidden)
    graph = ChannelGraph.from_model(library.Model(images, library.layers.Dense(4, name="classes")(hidden)))

    assert widths_by_group(graph) == {"hidden": 8}
    assert frozen_reasons(graph)["first"] == "its channels come first: only channels-last layers are pruned"
    assert graph.layer_macs()["first"] == 6 * 6 * 3 * 3 * 3 * 6


def test_layer_normalization_of_positions_freezes_its_channels(library):
    graph = check_network(
        between_convolutions(library, library.layers.LayerNormalization(axis=[1, 2], name="norm"))
    )
    assert frozen_reasons(graph) == {"before": "it has weights for each position (norm)"}


def test_an_unknown_operation_is_named():
    graph = check_network(between_convolutions(keras, lambda hidden: keras.ops.roll(hidden, 1, axis=-1)))
    assert "no pruning rule for the operation Roll" in frozen_reasons(graph)["before"]


def test_an_unknown_tensorflow_operation_is_named():
    import tensorflow as tf

    graph = check_network(between_convolutions(tf_keras, lambda hidden: tf.roll(hidden, 1, axis=-1)))
    assert "no pruning rule for the operation roll" in frozen_reasons(graph)["before"]


def test_slicing_operators_are_run_as_they_are(library):
    graph = check_network(between_convolutions(library, lambda hidden: hidden[:, ::2, 1:]))
    assert widths_by_group(graph) == {"first": 8, "after": 5}


def test_weights_that_the_rule_does_not_know_make_a_layer_opaque():
    norm = tf_keras.layers.BatchNormalization(renorm=True, name="norm")
    graph = ChannelGraph.from_model(between_convolutions(tf_keras, norm))
    assert widths_by_group(graph) == {"first": 8, "after": 5}
    reason = "it has weights beyond gamma, beta, moving_mean, moving_variance"
    assert frozen_reasons(graph) == {"before": f"{reason} (norm)"}


def test_single_numbers_for_each_image_are_run_as_they_are():
    def body(hidden):
        factor = keras.layers.Reshape((1,))(keras.ops.mean(hidden, axis=(1, 2, 3)))
        hidden = keras.layers.Flatten()(keras.layers.Conv2D(5, 1, name="after")(hidden))
        return keras.layers.Dense(6, name="dense")(hidden) * factor

    graph = check_network(classifier(keras, body))
    assert widths_by_group(graph) == {"after": 5, "dense": 6}
    assert frozen_reasons(graph)["first"].startswith("a tensor of single numbers has no channels")


def test_opaque_rules_freeze_what_enters_and_what_leaves():
    graph = ChannelGraph.from_model(
        between_convolutions(keras, keras.layers.Permute((2, 1, 3), name="permute"))
    )
    call, rule = next(
        (call, rule)
        for call, rule in zip(graph.trace.calls, graph.rules, strict=True)
        if call.path == "permute"
    )
    assert isinstance(rule, OpaqueRule)
    assert call.input_shapes == ((8, 8, 6),)
    assert set(frozen_reasons(graph)) == {"before", "permute"}
