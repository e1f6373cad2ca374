"""The published architectures as a user gets them, with random weights and batch-norm statistics."""

import keras
import pytest
import tf_keras

from amc_tf.graph import ChannelGraph
from amc_tf.plan import uniform_plan
from tests.harness import check_network

# Name: number of channel groups, share of the MACs that half the channels everywhere cost.
MOBILENETS = {"MobileNet": (14, 0.27), "MobileNetV2": (25, 0.30)}
SLOW = {
    "MobileNetV3Small": (27, 0.33),
    "MobileNetV3Large": (30, 0.30),
    "EfficientNetB0": (40, 0.30),
    "ResNet50": (37, 0.27),
    "ResNet50V2": (37, 0.27),
    "VGG16": (15, 0.27),
}


def check_application(library, name, size, num_groups, share):
    model = getattr(library.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None
    )
    graph = check_network(model)
    half = graph.count(uniform_plan(graph, 0.5).widths(graph))

    assert len(graph.groups) == num_groups
    assert half.macs < share * graph.count().macs
    assert half.params < 0.35 * graph.count().params
    assert len(graph.frozen) == 1, "only the classes stay"
    assert graph.frozen[0].num_channels == 10


@pytest.mark.slow
@pytest.mark.parametrize("name", MOBILENETS)
def test_mobilenets_are_prunable_to_a_third_of_their_macs(name):
    check_application(keras, name, 32, *MOBILENETS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", MOBILENETS)
def test_mobilenets_of_tf_keras_are_prunable_to_a_third_of_their_macs(name):
    check_application(tf_keras, name, 32, *MOBILENETS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_applications_are_prunable_to_a_third_of_their_macs(library, name):
    check_application(library, name, 64, *SLOW[name])


def test_a_small_residual_network_of_the_second_version_is_prunable():
    def block(inputs, filters, stride):
        ready = keras.layers.ReLU()(keras.layers.BatchNormalization()(inputs))
        wide = 4 * filters
        shortcut = keras.layers.Conv2D(wide, 1, strides=stride)(ready) if stride == 1 else None
        shortcut = keras.layers.MaxPooling2D(1, strides=stride)(inputs) if shortcut is None else shortcut
        hidden = keras.layers.Conv2D(filters, 1, use_bias=False)(ready)
        hidden = keras.layers.ReLU()(keras.layers.BatchNormalization()(hidden))
        hidden = keras.layers.ZeroPadding2D(1)(hidden)
        hidden = keras.layers.Conv2D(filters, 3, strides=stride, use_bias=False)(hidden)
        hidden = keras.layers.ReLU()(keras.layers.BatchNormalization()(hidden))
        return keras.layers.Add()([shortcut, keras.layers.Conv2D(wide, 1)(hidden)])

    images = keras.Input((32, 32, 3))
    hidden = keras.layers.Conv2D(16, 7, strides=2, padding="same", name="stem")(images)
    for stride in (1, 2, 1):
        hidden = block(hidden, 8, stride)
    hidden = keras.layers.ReLU()(keras.layers.BatchNormalization()(hidden))
    hidden = keras.layers.GlobalAveragePooling2D()(hidden)
    graph = check_network(keras.Model(images, keras.layers.Dense(10)(hidden)))

    assert len(graph.groups) == 1 + 3 * 2 + 2
    assert graph.count(uniform_plan(graph, 0.5, round_to=1).widths(graph)).macs < 0.38 * graph.count().macs


def test_resnets_of_both_versions_have_their_published_groups():
    for kind in (keras.applications.ResNet50, keras.applications.ResNet50V2):
        graph = ChannelGraph.from_model(kind(weights=None, input_shape=(64, 64, 3)))
        trunk = max(graph.groups, key=lambda group: len(group.producers))
        assert len(graph.groups) == 37
        assert (trunk.num_channels, len(trunk.producers)) == (1024, 7)
