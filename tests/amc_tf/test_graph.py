import time

import keras
import numpy as np
import pytest

from amc_tf.errors import ModelError
from amc_tf.graph import ChannelGraph, ChannelMap, FrozenChannels, count_cost
from amc_tf.plan import uniform_plan
from amc_tf.rebuild import rebuild
from tests.harness import check_network, randomize
from tests.networks import classifier, frozen_reasons, widths_by_group


def block(library, name, filters=8):
    """A nested functional model: convolution and batch normalisation beside a shortcut."""
    inputs = library.Input((8, 8, filters))
    hidden = library.layers.Conv2D(6, 3, padding="same", activation="relu", name="wide")(inputs)
    hidden = library.layers.Conv2D(filters, 1, use_bias=False, name="back")(hidden)
    hidden = library.layers.BatchNormalization(name="norm")(hidden)
    return library.Model(inputs, library.layers.Add()([inputs, hidden]), name=name)


def test_a_mobilenet_has_one_group_for_each_pointwise_convolution():
    graph = ChannelGraph.from_model(keras.applications.MobileNet(weights=None))

    assert [group.num_channels for group in graph.groups] == [
        32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024
    ]  # fmt: skip
    assert [group.name for group in graph.groups] == [
        "conv1",
        *(f"conv_pw_{number}" for number in range(1, 14)),
    ]
    assert [group.index for group in graph.groups] == list(range(14))
    assert graph.frozen == (
        FrozenChannels("conv_preds", "the model's outputs are the classes (mobilenet_1.00_224)", 1000),
    )


def test_the_state_of_a_group_describes_its_first_producer():
    first, second, *_ = ChannelGraph.from_model(keras.applications.MobileNet(weights=None)).groups

    assert (first.input_channels, first.height, first.width) == (3, 224, 224)
    assert (first.kernel_size, first.stride) == (3, 2)
    assert (first.producers, first.consumers) == (("conv1",), ("conv_pw_1",))
    assert (second.input_channels, second.height, second.width) == (32, 112, 112)
    assert (second.kernel_size, second.stride) == (1, 1)


def test_the_state_of_a_group_of_dense_units_has_one_row_and_column(library):
    features = library.Input((6,))
    tensor = library.layers.Dense(8, activation="relu", name="hidden")(features)
    (group,) = ChannelGraph.from_model(library.Model(features, library.layers.Dense(2)(tensor))).groups
    assert (group.name, group.num_channels, group.input_channels) == ("hidden", 8, 6)
    assert (group.height, group.width, group.kernel_size, group.stride) == (1, 1, 1, 1)


def test_an_axis_keeps_the_positions_of_kept_channels_and_all_frozen_ones():
    axis = ChannelMap(np.array([0, -1, 1, 0], np.int32), np.array([1, -1, 0, 0], np.int32))
    kept = axis.kept([np.array([True, False]), np.array([False])])
    assert kept.dtype == bool
    assert kept.tolist() == [False, True, False, True]


def test_groups_cover_every_layer_that_holds_their_channels():
    graph = ChannelGraph.from_model(keras.applications.MobileNet(weights=None))
    macs = graph.layer_macs()
    assert graph.group_macs(0) == macs["conv1"] + macs["conv_dw_1"] + macs["conv_pw_1"]


def test_nested_models_prune_across_their_borders(library):
    def body(hidden):
        hidden = block(library, "one")(hidden)
        inner = library.Sequential(
            [library.Input((8, 8, 8)), block(library, "two"), library.layers.Conv2D(5, 1, name="last")],
            name="outer",
        )
        return inner(hidden)

    graph = check_network(classifier(library, body))

    assert widths_by_group(graph) == {"first": 8, "one/wide": 6, "outer/two/wide": 6, "outer/last": 5}
    assert graph.groups[0].producers == ("first", "one/back", "outer/two/back")
    assert graph.groups[0].consumers == ("one/wide", "outer/two/wide", "outer/last")


def test_a_backbone_with_a_new_head_is_pruned_inside(library):
    backbone = library.applications.MobileNet(
        weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.25, pooling="avg"
    )
    backbone.trainable = False
    images = library.Input((32, 32, 3))
    hidden = library.layers.Rescaling(1 / 127.5, offset=-1.0)(images)
    hidden = library.layers.Dropout(0.2)(backbone(hidden, training=False))
    graph = check_network(library.Model(images, library.layers.Dense(4, name="classes")(hidden)))

    assert len(graph.groups) == 14
    assert graph.groups[0].name == f"{backbone.name}/conv1"
    assert graph.groups[-1].consumers == ("classes",)


def test_a_layer_called_twice_ties_what_it_reads_and_writes(library):
    shared = library.layers.Conv2D(8, 1, activation="relu", name="shared")
    graph = check_network(classifier(library, lambda hidden: shared(shared(hidden))))

    assert widths_by_group(graph) == {"first": 8}
    assert graph.groups[0].producers == ("first", "shared")
    assert graph.layer_macs()["shared"] == 2 * 8 * 8 * 8 * 8
    assert graph.count().params == 3 * 3 * 3 * 8 + 8 + 8 * 8 + 8 + 8 * 4 + 4


def test_a_shared_batch_normalization_is_not_folded(library):
    def body(hidden):
        norm = library.layers.BatchNormalization()
        left = norm(library.layers.Conv2D(6, 1, name="left")(hidden))
        right = norm(library.layers.Conv2D(6, 1, name="right")(hidden))
        return library.layers.Concatenate()([left, right])

    graph = check_network(classifier(library, body))
    assert sorted(graph.groups[1].producers) == ["left", "right"]


def test_a_nested_model_called_twice_is_pruned_once(library):
    inner = block(library, "inner")
    graph = check_network(classifier(library, lambda hidden: inner(library.layers.ReLU()(inner(hidden)))))

    assert widths_by_group(graph) == {"first": 8, "inner/wide": 6}
    assert graph.groups[0].producers == ("first", "inner/back")


def test_a_shared_backbone_reads_two_inputs(library):
    inner = library.Sequential(
        [library.Input((8, 8, 3)), library.layers.Conv2D(6, 3, name="conv")], name="inner"
    )
    left, right = library.Input((8, 8, 3)), library.Input((8, 8, 3))
    hidden = library.layers.Concatenate()([inner(left), inner(right)])
    hidden = library.layers.GlobalAveragePooling2D()(hidden)
    model = library.Model([left, right], library.layers.Dense(4, name="classes")(hidden))
    graph = ChannelGraph.from_model(model)

    assert widths_by_group(graph) == {"inner/conv": 6}
    assert graph.layer_macs([2])["classes"] == 2 * 2 * 4
    assert graph.count([2]) == count_cost(rebuild(model, uniform_plan(graph, 1 / 3, round_to=1)))


def test_the_channels_of_every_output_are_frozen(library):
    images = library.Input((8, 8, 3))
    hidden = library.layers.Conv2D(8, 3, name="first")(images)
    features = library.layers.Conv2D(6, 1, name="features")(hidden)
    hidden = library.layers.GlobalAveragePooling2D()(features)
    model = library.Model(images, [library.layers.Dense(4, name="classes")(hidden), features], name="two")
    graph = ChannelGraph.from_model(model)

    assert widths_by_group(graph) == {"first": 8}
    assert frozen_reasons(graph) == {"features": "the model's outputs are the classes (two)"}


def test_layers_that_are_not_trainable_are_pruned_alike(library):
    def body(hidden):
        hidden = library.layers.Conv2D(6, 1, use_bias=False, trainable=False)(hidden)
        hidden = library.layers.BatchNormalization(trainable=False)(hidden)
        return library.layers.PReLU(shared_axes=[1, 2])(hidden)

    model = classifier(library, body)
    model.layers[1].trainable = False
    assert len(check_network(model).groups) == 2


def test_sequential_models_are_pruned_like_functional_ones(library):
    layers = library.layers
    model = library.Sequential(
        [
            library.Input((8, 8, 3)),
            layers.Conv2D(8, 3, name="one"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(6, 3, name="two"),
            layers.Flatten(),
            layers.Dense(4, activation="softmax", name="classes"),
        ]
    )
    assert widths_by_group(check_network(model)) == {"one": 8, "two": 6}


def test_a_sequential_model_built_late_is_pruned_too(library):
    layers = library.layers
    model = library.Sequential(
        [layers.Conv2D(8, 3, name="one"), layers.Flatten(), layers.Dense(4, name="classes")]
    )
    model.build((None, 8, 8, 3))
    assert widths_by_group(check_network(model)) == {"one": 8}


def test_inception_style_branches_are_pruned_each(library):
    layers = library.layers

    def body(hidden):
        one = layers.Conv2D(4, 1, activation="relu", name="one")(hidden)
        three = layers.Conv2D(3, 1, activation="relu", name="three_reduce")(hidden)
        three = layers.Conv2D(6, 3, padding="same", activation="relu", name="three")(three)
        wide = layers.Conv2D(5, (1, 7), padding="same", name="wide")(hidden)
        pool = layers.AveragePooling2D(3, strides=1, padding="same")(hidden)
        pool = layers.Conv2D(2, 1, name="pool")(pool)
        return layers.BatchNormalization()(layers.Concatenate()([one, three, wide, pool]))

    graph = check_network(classifier(library, body))
    assert widths_by_group(graph) == {
        "first": 8, "three_reduce": 3, "one": 4, "three": 6, "wide": 5, "pool": 2
    }  # fmt: skip


def test_one_channel_alone_cannot_shrink(library):
    graph = check_network(classifier(library, library.layers.Conv2D(1, 1, name="single")))
    assert frozen_reasons(graph) == {"single": "a single channel cannot shrink"}


def test_a_model_of_nothing_but_its_classifier_is_refused(library):
    images = library.Input((4,))
    model = library.Model(images, library.layers.Dense(2, name="classes")(images), name="tiny")
    with pytest.raises(ModelError, match="Nothing in 'tiny' can be pruned .*classes: the model's outputs"):
        ChannelGraph.from_model(model)
    assert count_cost(model).macs == 8


def test_a_layer_that_freezes_its_own_channels_is_not_named_twice(library):
    layer = library.layers.Conv2D(4, 1, activation="softmax", name="mixing")
    graph = ChannelGraph.from_model(classifier(library, layer))
    assert frozen_reasons(graph) == {"mixing": "its softmax normalises over the channels"}


def test_an_input_of_single_numbers_has_no_channels(library):
    numbers = library.Input((), name="numbers")
    model = classifier(library, library.layers.Conv2D(4, 1, name="conv"))
    scaled = library.layers.Rescaling(2.0, name="scaled")(numbers)
    graph = ChannelGraph.from_model(library.Model([model.inputs[0], numbers], [model.outputs[0], scaled]))
    assert widths_by_group(graph) == widths_by_group(ChannelGraph.from_model(model))
    assert not frozen_reasons(graph)


def test_frozen_channels_are_marked_and_axes_of_nothing_else_have_no_map(library):
    graph = ChannelGraph.from_model(classifier(library, library.layers.Conv2D(4, 1, name="conv")))
    (classes,) = graph.outputs[-1]
    assert (classes.group.dtype, classes.channel.dtype) == (np.int32, np.int32)
    assert set(classes.group.tolist()) == set(classes.channel.tolist()) == {-1}
    assert graph.axes["classes"]["bias"] == (None,)
    assert graph.axes["classes"]["kernel"][1] is None


def test_a_model_without_channels_of_its_own_is_refused(library):
    images = library.Input((4,))
    model = library.Model(images, library.layers.ReLU()(images), name="idle")
    with pytest.raises(ModelError, match=r"Nothing in 'idle' can be pruned \(no layer has channels\)"):
        ChannelGraph.from_model(model)


def test_analysing_changes_nothing_in_the_model(library):
    model = randomize(classifier(library, block(library, "inner")))
    config = model.get_config()
    ChannelGraph.from_model(model)
    assert model.get_config() == config


def test_a_resnet_is_analysed_within_two_seconds_of_processor_time():
    model = keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3))
    start = time.process_time()
    graph = ChannelGraph.from_model(model)
    assert time.process_time() - start < 2.0
    assert len(graph.groups) == 37
