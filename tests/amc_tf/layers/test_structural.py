import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from amc_tf.errors import ModelError
from amc_tf.graph import ChannelGraph
from tests.harness import check_network
from tests.networks import classifier, frozen_reasons, widths_by_group


@pytest.mark.parametrize("kind", ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"])
def test_elementwise_layers_tie_their_inputs(library, kind):
    def body(hidden):
        left = library.layers.Conv2D(6, 1, name="left")(hidden)
        right = library.layers.Conv2D(6, 1, name="right")(hidden)
        return getattr(library.layers, kind)()([left, right])

    graph = check_network(classifier(library, body))

    assert widths_by_group(graph) == {"first": 8, "left": 6}
    assert graph.groups[1].producers == ("left", "right")
    assert graph.groups[1].consumers == ("classes",)


def test_residual_blocks_share_the_channels_of_their_trunk(library):
    def body(hidden):
        for block in "ab":
            inner = library.layers.Conv2D(5, 1, activation="relu", name=f"{block}1")(hidden)
            inner = library.layers.Conv2D(8, 3, padding="same", name=f"{block}2")(inner)
            hidden = library.layers.Add()([hidden, inner])
        return hidden

    graph = check_network(classifier(library, body))

    assert widths_by_group(graph) == {"first": 8, "a1": 5, "b1": 5}
    assert graph.groups[0].producers == ("first", "a2", "b2")
    assert graph.groups[0].consumers == ("a1", "b1", "classes")


def test_an_input_with_one_channel_serves_all_and_stays(library):
    def body(hidden):
        mask = library.layers.Conv2D(1, 1, activation="sigmoid", name="mask")(hidden)
        return library.layers.Multiply(name="masked")([hidden, mask])

    graph = check_network(classifier(library, body))

    assert widths_by_group(graph) == {"first": 8}
    assert frozen_reasons(graph) == {"mask": "it is one channel that serves all of another tensor (masked)"}


def test_squeeze_and_excite_of_convolutions_gates_the_same_channels(library):
    def body(hidden):
        gate = library.layers.GlobalAveragePooling2D(keepdims=True)(hidden)
        gate = library.layers.Conv2D(6, 1, activation="relu", name="squeeze")(gate)
        gate = library.layers.Conv2D(8, 1, activation="sigmoid", name="excite")(gate)
        return library.layers.Multiply()([hidden, gate])

    graph = check_network(classifier(library, body))

    assert widths_by_group(graph) == {"first": 8, "squeeze": 6}
    assert graph.groups[0].producers == ("first", "excite")
    assert graph.groups[0].consumers == ("squeeze", "classes")


@pytest.mark.parametrize("target", [(1, 1, 8), (1, 1, -1), None])
def test_squeeze_and_excite_of_dense_layers_gates_the_same_channels(library, target):
    def body(hidden):
        gate = library.layers.GlobalAveragePooling2D()(hidden)
        gate = library.layers.Dense(6, activation="relu", name="squeeze")(gate)
        gate = library.layers.Dense(8, activation="sigmoid", name="excite")(gate)
        gate = library.layers.Reshape(target)(gate) if target else gate
        return library.layers.Multiply()([hidden, gate])

    graph = check_network(classifier(library, body))

    assert widths_by_group(graph) == {"first": 8, "squeeze": 6}
    assert graph.groups[0].producers == ("first", "excite")


def test_concatenation_keeps_the_groups_side_by_side(library):
    def body(hidden):
        branches = [
            library.layers.Conv2D(6, 1, name="one")(hidden),
            library.layers.Conv2D(5, 3, padding="same", name="three")(hidden),
            library.layers.MaxPooling2D(3, strides=1, padding="same")(hidden),
        ]
        hidden = library.layers.BatchNormalization()(library.layers.Concatenate()(branches))
        return library.layers.Conv2D(7, 1, name="mix")(hidden)

    graph = check_network(classifier(library, body))

    assert widths_by_group(graph) == {"first": 8, "one": 6, "three": 5, "mix": 7}
    assert graph.groups[0].consumers == ("one", "three", "mix")
    assert graph.layer_macs([4, 3, 2, 7])["mix"] == 8 * 8 * (3 + 2 + 4) * 7


def test_concatenation_followed_by_add_splits_the_other_side(library):
    def body(hidden):
        left = library.layers.Conv2D(3, 1, name="left")(hidden)
        right = library.layers.Conv2D(5, 1, name="right")(hidden)
        joined = library.layers.Concatenate()([left, right])
        wide = library.layers.Conv2D(8, 1, name="wide")(joined)
        return library.layers.Add()([joined, wide])

    graph = check_network(classifier(library, body))

    assert widths_by_group(graph) == {"first": 8, "left": 3, "right": 5}
    assert graph.groups[1].producers == ("left", "wide")
    assert graph.groups[2].producers == ("right", "wide")


def test_concatenation_along_rows_ties_the_channels(library):
    def body(hidden):
        left = library.layers.Conv2D(6, 1, name="left")(hidden)
        right = library.layers.Conv2D(6, 1, name="right")(hidden)
        return library.layers.Concatenate(axis=1)([left, right])

    graph = check_network(classifier(library, body))

    assert widths_by_group(graph) == {"first": 8, "left": 6}


def test_the_same_tensor_twice_in_a_concatenation_shrinks_twice(library):
    graph = check_network(classifier(library, lambda hidden: library.layers.Concatenate()([hidden, hidden])))

    assert widths_by_group(graph) == {"first": 8}
    assert graph.layer_macs([3])["classes"] == 2 * 3 * 4


def test_densenet_blocks_prune_each_growth(library):
    def body(hidden):
        for block in ("a", "b", "c"):
            grown = library.layers.BatchNormalization()(hidden)
            grown = library.layers.ReLU()(grown)
            grown = library.layers.Conv2D(4, 3, padding="same", name=block)(grown)
            hidden = library.layers.Concatenate()([hidden, grown])
        return hidden

    graph = check_network(classifier(library, body))

    assert widths_by_group(graph) == {"first": 8, "a": 4, "b": 4, "c": 4}
    assert graph.groups[0].consumers == ("a", "b", "c", "classes")


@pytest.mark.parametrize(
    "reshape",
    [
        lambda layers: layers.Flatten(),
        lambda layers: layers.Reshape((64 * 8,)),
        lambda layers: layers.Reshape((-1,)),
    ],
    ids=["flatten", "reshape", "reshape_open"],
)
def test_flattening_spreads_each_channel_over_the_positions(library, reshape):
    def body(hidden):
        return library.layers.Dense(6, name="dense")(reshape(library.layers)(hidden))

    graph = check_network(classifier(library, body))

    assert widths_by_group(graph) == {"first": 8, "dense": 6}
    assert graph.layer_macs([3, 6])["dense"] == 8 * 8 * 3 * 6


@pytest.mark.parametrize("target", [(64, 8), (-1, 8), (64, -1), (4, 2, 8, 8), (16, 32)])
def test_reshaping_positions_keeps_the_channels(library, target):
    def body(hidden):
        hidden = library.layers.Reshape(target)(hidden)
        return library.layers.Flatten()(library.layers.Dense(6, name="dense")(hidden))

    graph = check_network(classifier(library, body))

    assert widths_by_group(graph) == {"first": 8, "dense": 6}


@pytest.mark.parametrize("target", [(8, 8, 2, 4), (128, 4), (8, 64), (3, -1)])
def test_reshaping_that_moves_channels_is_frozen_or_follows_each_element(library, target):
    def body(hidden):
        hidden = library.layers.Conv2D(6 if 3 in target else 8, 1, name="before")(hidden)
        hidden = library.layers.Reshape(target, name="moved")(hidden)
        return library.layers.Flatten()(library.layers.Dense(6, name="dense")(hidden))

    graph = check_network(classifier(library, body))

    reason = "it moves channels to another axis"
    moved = {"before": f"{reason} (moved)", "moved": reason}
    assert frozen_reasons(graph) == ({} if target == (8, 64) else moved)


@pytest.mark.parametrize(
    "build",
    [
        lambda layers: layers.ZeroPadding2D(((0, 1), (2, 0))),
        lambda layers: layers.Cropping2D(((1, 0), (0, 2))),
        lambda layers: layers.UpSampling2D(2),
        lambda layers: layers.UpSampling2D(2, interpolation="bilinear"),
        lambda layers: layers.MaxPooling2D(3, strides=2, padding="same"),
        lambda layers: layers.AveragePooling2D(2, padding="same"),
        lambda layers: layers.GlobalMaxPooling2D(keepdims=True),
        lambda layers: layers.GlobalAveragePooling2D(keepdims=True),
        lambda layers: layers.GlobalMaxPooling2D(),
        lambda layers: layers.Dropout(0.5),
        lambda layers: layers.SpatialDropout2D(0.5),
        lambda layers: layers.GaussianNoise(0.5),
        lambda layers: layers.Rescaling(0.5, offset=-1.0),
    ],
    ids=str.split(
        "padding cropping nearest bilinear max_pool average_pool global_max_keepdims global_average_keepdims "
        "global_max dropout spatial_dropout noise rescaling"
    ),
)
def test_layers_that_treat_each_channel_alone_pass_it_on(library, build):
    graph = check_network(classifier(library, build(library.layers)))
    assert widths_by_group(graph) == {"first": 8}


def test_every_activation_passes_the_channels_on(library):
    names = "relu relu6 elu selu gelu sigmoid hard_sigmoid tanh softplus softsign silu linear".split()
    names = [name for name in names if library is keras or name not in {"relu6", "silu"}]

    def body(hidden):
        for name in names:
            hidden = library.layers.Activation(name)(hidden)
            hidden = library.layers.Conv2D(3, 1, activation=name, name=f"conv_{name}")(hidden)
        hidden = library.layers.LeakyReLU()(hidden)
        hidden = library.layers.ELU()(hidden)
        return library.layers.ReLU(max_value=6.0, negative_slope=0.1, threshold=0.1)(hidden)

    graph = check_network(classifier(library, body))

    assert widths_by_group(graph) == {"first": 8, **{f"conv_{name}": 3 for name in names}}


@pytest.mark.parametrize("layer", ["Softmax", "Activation"])
def test_a_softmax_in_the_middle_freezes_its_channels(library, layer):
    def body(hidden):
        hidden = library.layers.Conv2D(6, 1, name="before")(hidden)
        softmax = library.layers.Softmax if layer == "Softmax" else library.layers.Activation
        hidden = softmax(name="soft", **({} if layer == "Softmax" else {"activation": "softmax"}))(hidden)
        return library.layers.Conv2D(5, 1, name="after")(hidden)

    graph = check_network(classifier(library, body))

    assert widths_by_group(graph) == {"first": 8, "after": 5}
    assert list(frozen_reasons(graph)) == ["before"]
    assert "over the channels (soft)" in frozen_reasons(graph)["before"]


def test_a_softmax_at_the_end_is_read_over(library):
    model = classifier(library, lambda hidden: hidden)
    graph = check_network(library.Model(model.input, library.layers.Softmax()(model.output)))
    assert widths_by_group(graph) == {"first": 8}


def test_layer_normalization_freezes_its_channels_with_the_reason(library):
    def body(hidden):
        hidden = library.layers.Conv2D(6, 1, name="before")(hidden)
        hidden = library.layers.LayerNormalization(name="norm")(hidden)
        return library.layers.Conv2D(5, 1, name="after")(hidden)

    graph = check_network(classifier(library, body))

    assert widths_by_group(graph) == {"first": 8, "after": 5}
    assert frozen_reasons(graph) == {"before": "it normalises over the channels (norm)"}


def test_rescaling_by_channel_and_normalization_freeze_only_their_channels(library):
    normalization = library.layers.Normalization(name="adapted")
    normalization.adapt(np.random.default_rng(0).normal(3.0, 2.0, (16, 8, 8, 3)))
    images = library.Input((8, 8, 3))
    hidden = library.layers.Rescaling([0.5, 1.0, 2.0], [0.1, 0.2, 0.3])(normalization(images))
    hidden = library.layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0])(hidden)
    hidden = library.layers.Conv2D(8, 3, name="first")(hidden)
    hidden = library.layers.GlobalAveragePooling2D()(hidden)
    graph = check_network(library.Model(images, library.layers.Dense(4, name="classes")(hidden)))

    assert widths_by_group(graph) == {"first": 8}
    assert frozen_reasons(graph) == {}


def test_operators_prune_like_layers(library):
    def body(hidden):
        left = library.layers.Conv2D(6, 1, name="left")(hidden)
        right = library.layers.Conv2D(6, 1, name="right")(hidden)
        hidden = (left + right) * 2.0 - 1.0 / 3.0
        hidden = hidden / 3.0 + 1.0
        return 0.5 - (2.0 * hidden)

    graph = check_network(classifier(library, body))

    assert widths_by_group(graph) == {"first": 8, "left": 6}
    assert graph.groups[1].producers == ("left", "right")


def test_an_operator_with_an_array_freezes_the_channels(library):
    def body(hidden):
        hidden = library.layers.Conv2D(3, 1, name="before")(hidden) * np.array([0.5, 1.0, 2.0], np.float32)
        return library.layers.Conv2D(5, 1, name="after")(hidden)

    graph = check_network(classifier(library, body))

    assert widths_by_group(graph) == {"first": 8, "after": 5}
    assert "it combines the channels with a constant array" in frozen_reasons(graph)["before"]


def test_an_operation_with_an_array_freezes_the_channels():
    limits = np.arange(6, dtype=np.float32)

    def body(hidden):
        hidden = tf.clip_by_value(tf_keras.layers.Conv2D(6, 1, name="before")(hidden), -1.0, limits)
        return tf_keras.layers.Conv2D(5, 1, name="after")(hidden)

    graph = check_network(classifier(tf_keras, body))
    assert widths_by_group(graph) == {"first": 8, "after": 5}
    assert "it combines the channels with a constant array" in frozen_reasons(graph)["before"]


def test_a_reshape_called_twice_shrinks_alike_in_both_calls(library):
    layers = library.layers
    twice = layers.Reshape((64, 8))

    def body(hidden):
        left = twice(layers.Conv2D(8, 1, name="left")(hidden))
        return layers.Flatten()(layers.Concatenate()([left, twice(hidden)]))

    graph = check_network(classifier(library, body))
    assert widths_by_group(graph) == {"first": 8}
    assert graph.groups[0].producers == ("first", "left")


def test_a_reshape_that_moves_channels_in_one_call_freezes_the_other(library):
    layers = library.layers
    twice = layers.Reshape((64, 8))

    def body(hidden):
        hidden = layers.Conv2D(8, 1, name="free")(hidden)
        moved = layers.Conv2D(16, 1, strides=(1, 2), name="moved")(hidden)
        left = twice(layers.Conv2D(8, 1, name="left")(hidden))
        return layers.Flatten()(layers.Concatenate()([left, twice(moved)]))

    graph = check_network(classifier(library, body))
    assert widths_by_group(graph) == {"first": 8, "free": 8}
    assert set(frozen_reasons(graph)) == {"left", "moved"}


def test_keras_operations_prune_like_layers():
    ops = keras.ops

    def body(hidden):
        hidden = ops.relu6(keras.activations.relu(hidden) + 3.0) / 6.0
        for name in "relu sigmoid silu gelu tanh hard_swish leaky_relu elu selu softplus square abs".split():
            hidden = getattr(ops, name)(hidden)
        hidden = ops.maximum(hidden, ops.negative(hidden))
        hidden = ops.concatenate([hidden, ops.clip(hidden, -0.5, 0.5)], axis=-1)
        gate = ops.mean(hidden, axis=(1, 2), keepdims=True)
        return hidden * gate + ops.max(hidden, axis=[1, 2], keepdims=True)

    graph = check_network(classifier(keras, body))
    assert widths_by_group(graph) == {"first": 8}


def test_tensorflow_operations_in_a_tf_keras_model_prune_like_layers():
    def body(hidden):
        hidden = tf.nn.relu6(hidden + 3.0) * (1.0 / 6.0)
        hidden = tf.nn.relu(hidden) + tf.sigmoid(hidden) + tf.nn.silu(hidden) + tf.math.tanh(hidden)
        hidden = tf.maximum(hidden, -hidden)
        hidden = tf.concat([hidden, tf.clip_by_value(hidden, -0.5, 0.5)], axis=-1)
        gate = tf.reduce_mean(hidden, axis=[1, 2], keepdims=True)
        return hidden * gate + tf.reduce_max(hidden, [1, 2], keepdims=True)

    graph = check_network(classifier(tf_keras, body))
    assert widths_by_group(graph) == {"first": 8}


def test_reducing_over_the_channels_freezes_them():
    def body(hidden):
        hidden = keras.layers.Conv2D(6, 1, name="before")(hidden)
        mean = keras.ops.mean(hidden, axis=-1, keepdims=True)
        return keras.layers.Conv2D(5, 1, name="after")(hidden - mean)

    graph = check_network(classifier(keras, body))

    assert widths_by_group(graph) == {"first": 8, "after": 5}
    assert "it reduces over the channels" in frozen_reasons(graph)["before"]


def test_nothing_left_to_prune_names_the_layers(library):
    images = library.Input((8, 8, 3))
    hidden = library.layers.Flatten()(library.layers.MaxPooling2D()(images))
    model = library.Model(images, library.layers.Dense(4, name="classes")(hidden))
    with pytest.raises(ModelError, match="Nothing in '.*' can be pruned .*classes: the model's outputs are"):
        ChannelGraph.from_model(model)
