"""Classifiers of KerasHub, where it is installed; `tests/amc_tf/test_clone.py` has models built like them."""

import keras
import numpy as np
import pytest

from amc_tf.plan import uniform_plan
from amc_tf.rebuild import rebuild
from tests.harness import check_conversion, check_network

keras_hub = pytest.importorskip("keras_hub", exc_type=ImportError)
IMAGE = (32, 32, 3)


def resnet():
    return keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=IMAGE,
    )


def vgg():
    return keras_hub.models.VGGBackbone(
        stackwise_num_repeats=[1, 1], stackwise_num_filters=[8, 16], image_shape=IMAGE
    )


@pytest.mark.parametrize(("build", "num_groups"), [(resnet, 4), (vgg, 2)])
def test_a_classifier_is_pruned_converted_and_saved(build, num_groups, tmp_path):
    model = keras_hub.models.ImageClassifier(backbone=build(), num_classes=4)
    graph = check_network(model)
    assert len(graph.groups) == num_groups
    check_conversion(model)
    slim = rebuild(model, uniform_plan(graph, 0.5))
    slim.save(tmp_path / "slim.keras")
    images = np.random.default_rng(0).normal(size=(2, *IMAGE)).astype(np.float32)
    loaded = keras.models.load_model(tmp_path / "slim.keras")
    np.testing.assert_array_equal(loaded(images), slim(images))
