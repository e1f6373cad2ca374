import keras
import numpy as np
import pytest
import tensorflow as tf

from amc_tf.graph import ChannelGraph
from amc_tf.layers.base import as_float32
from amc_tf.network import NetworkFunction
from tests.harness import check_network, randomize, relative_error
from tests.networks import classifier, frozen_reasons, widths_by_group


def centre(tensor):
    return tensor - tf.reduce_mean(tensor, axis=-1, keepdims=True)


def between_convolutions(library, layer):
    def body(hidden):
        hidden = library.layers.Conv2D(6, 1, name="before")(hidden)
        return library.layers.Conv2D(5, 1, name="after")(layer(hidden))

    return classifier(library, body)


def test_an_unknown_layer_of_keras_is_run_as_it_is_and_freezes_its_channels(library):
    model = between_convolutions(library, library.layers.Conv2DTranspose(6, 2, strides=2, name="unknown"))
    graph = check_network(model)

    assert widths_by_group(graph) == {"first": 8, "after": 5}
    reason = "no pruning rule for Conv2DTranspose"
    assert frozen_reasons(graph) == {"before": f"{reason} (unknown)", "unknown": reason}


def test_a_layer_run_as_it_is_knows_its_channels_behind_a_reshape(library):
    def body(hidden):
        hidden = library.layers.Reshape((4, 16, 8))(hidden)
        return library.layers.Conv2D(5, 1, name="after")(library.layers.LayerNormalization()(hidden))

    assert widths_by_group(check_network(classifier(library, body))) == {"after": 5}


def test_augmentation_layers_do_nothing_in_the_network_function(library):
    images = library.Input((8, 8, 3))
    hidden = library.layers.RandomFlip(seed=1)(images)
    hidden = library.layers.RandomRotation(0.4, seed=1)(hidden)
    hidden = library.layers.Conv2D(8, 3, name="first")(hidden)
    hidden = library.layers.Flatten()(hidden)
    graph = check_network(library.Model(images, library.layers.Dense(4, name="classes")(hidden)))

    assert widths_by_group(graph) == {"first": 8}


@pytest.mark.parametrize("name", ["log_softmax", "softmax", "sparsemax"])
def test_activations_that_mix_channels_freeze_them(name):
    graph = check_network(
        between_convolutions(keras, keras.layers.Conv2D(6, 1, activation=name, name="mixed"))
    )
    assert widths_by_group(graph) == {"first": 8, "before": 6, "after": 5}
    assert "the channels" in frozen_reasons(graph)["mixed"]


def test_a_function_as_activation_freezes_its_channels_and_runs(library):
    graph = check_network(
        between_convolutions(library, library.layers.Conv2D(6, 1, activation=centre, name="own"))
    )

    assert widths_by_group(graph) == {"first": 8, "before": 6, "after": 5}
    assert frozen_reasons(graph) == {"own": "its activation centre may mix the channels"}


def test_an_activation_layer_inside_a_convolution_passes_the_channels_on(library):
    conv = library.layers.Conv2D(6, 1, activation=library.layers.LeakyReLU(), name="conv")
    network = NetworkFunction(randomize(between_convolutions(library, conv)))
    assert widths_by_group(network.graph) == {"first": 8, "before": 6, "conv": 6, "after": 5}


def test_an_activation_layer_with_weights_makes_its_convolution_opaque(library):
    conv = library.layers.Conv2D(6, 1, activation=library.layers.PReLU(), name="conv")
    graph = ChannelGraph.from_model(between_convolutions(library, conv))

    assert widths_by_group(graph) == {"first": 8, "after": 5}
    assert "its activation is a layer: put that layer behind it" in frozen_reasons(graph)["conv"]
    assert graph.layer_macs()["conv"] == 8 * 8 * 6 * 6


def test_half_precision_layers_run_in_float32_and_agree_roughly(library):
    half = "mixed_float16"
    layers = [
        library.layers.Conv2D(6, 3, dtype=half, activation="relu"),
        library.layers.Rescaling(0.5, dtype=half),
        library.layers.LayerNormalization(dtype=half),
        library.layers.Conv2D(6, 3, dtype=half),
    ]

    def body(hidden):
        for layer in layers:
            hidden = layer(hidden)
        return hidden

    model = randomize(classifier(library, body))
    network = NetworkFunction(model)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    outputs = network(images, network.weights)

    assert outputs.dtype == tf.float32
    assert relative_error(outputs, model(images, training=False)) < 1e-2


def test_only_floating_tensors_are_cast():
    half, whole = as_float32([tf.constant([1.5], tf.float16), tf.constant([2], tf.int32)])
    assert half.dtype == tf.float32
    assert whole.dtype == tf.int32
