"""MobileNet V2 and V3 for 32x32 images: structure, cost, and the way through the toolkit."""

import keras
import pytest

from amc_tf.errors import ModelError
from amc_tf.graph import count_cost
from amc_tf.models.mobilenet_small_images import (
    cifar_mobilenet_v2,
    cifar_mobilenet_v3_large,
    cifar_mobilenet_v3_small,
)
from amc_tf.plan import uniform_plan
from tests.harness import check_conversion, check_network

BUILDERS = {
    "MobileNetV2": cifar_mobilenet_v2,
    "MobileNetV3Small": cifar_mobilenet_v3_small,
    "MobileNetV3Large": cifar_mobilenet_v3_large,
}
# Expansion, channels and stride of the first of each block's repetitions: Table 2 of the paper of V2, with a
# stride of 1 where the second stage had 2.
V2_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
)  # fmt: skip


def weights_by_layer(model):
    return {layer.name: [tuple(w.shape) for w in layer.weights] for layer in model.layers if layer.weights}


def macs_of_v2(num_classes):
    """Counts MobileNet-V2 with a stem stride of 1 by the table of its paper."""
    size, channels = 32, 32
    macs = size * size * 9 * 3 * channels
    for expansion, wide, repetitions, stride in V2_STAGES:
        for number in range(repetitions):
            hidden = expansion * channels
            macs += size * size * channels * hidden if expansion > 1 else 0
            size //= stride if number == 0 else 1
            macs += size * size * hidden * (9 + wide)
            channels = wide
    return macs + size * size * channels * 1280 + 1280 * num_classes


def test_v2_costs_what_the_table_of_its_paper_says_with_two_strides_less():
    model = cifar_mobilenet_v2()
    assert count_cost(model).macs == macs_of_v2(10) == 87_976_448
    assert model.get_layer("out_relu").output.shape == (None, 4, 4, 1280)
    assert model.get_layer("block_1_depthwise").output.shape == (None, 32, 32, 96)


@pytest.mark.parametrize(
    "name",
    [
        "MobileNetV3Small",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("MobileNetV2", "MobileNetV3Large")),
    ],
)
def test_resolution_is_kept_twice_as_long_and_dropout_is_that_asked_for(name):
    model = BUILDERS[name](alpha=0.01, dropout=0.3)
    sizes = [layer.output.shape[1] for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert max(sizes) == sizes[0] == 32
    assert min(size for size in sizes if size > 1) == 4
    assert [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)] == [0.3]


@pytest.mark.slow
def test_layers_of_v3_have_names_and_weights_of_keras_applications():
    ours = cifar_mobilenet_v3_small(7, alpha=0.5)
    theirs = keras.applications.MobileNetV3Small(
        (32, 32, 3), alpha=0.5, weights=None, classes=7, include_preprocessing=False
    )
    assert weights_by_layer(ours) == weights_by_layer(theirs)


@pytest.mark.slow
def test_body_of_v2_has_names_and_weights_of_keras_applications():
    ours = cifar_mobilenet_v2(7, alpha=0.35)
    theirs = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=7)
    assert weights_by_layer(ours) == weights_by_layer(theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_every_group_is_pruned_and_half_of_each_converted(name):
    model = BUILDERS[name]()
    graph = check_network(model)
    half = graph.count(uniform_plan(graph, 0.5).widths(graph))
    assert half.params < 0.35 * graph.count().params
    assert [item.num_channels for item in graph.frozen] == [10], "only the classes stay"
    check_conversion(model)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_classes": 1}, "num_classes is 1; .* at least 2 classes"),
        ({"alpha": 0.0}, "alpha is 0.0; give a width multiplier above 0"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"dropout": 1.0}, "dropout is 1.0; .* below 1"),
    ],
)
def test_arguments_out_of_range_are_named(name, arguments, words):
    with pytest.raises(ModelError, match=words):
        BUILDERS[name](**arguments)
