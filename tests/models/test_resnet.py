"""CIFAR ResNets and plain networks: structure, cost, shortcuts, weight files."""

import keras
import numpy as np
import pytest

from amc_tf.errors import ModelError
from amc_tf.graph import ChannelGraph, count_cost
from amc_tf.models import resnet
from tests.harness import check_conversion, check_network, randomize


def weights_of(model):
    """Returns random arrays under the names of a weight file for this model."""
    generator = np.random.default_rng(0)
    variables = {name: value for layer in model.layers for name, value in resnet._names(layer).items()}
    return {name: generator.uniform(0.5, 1.0, value.shape).astype("f") for name, value in variables.items()}


def convolution_macs(depth):
    """Counts the 3x3 convolutions and the classifier by hand."""
    blocks = (depth - 2) // 6
    macs = 32 * 32 * 9 * 3 * 16 + 64 * 10
    for channels, size, before in ((16, 32, 16), (32, 16, 16), (64, 8, 32)):
        macs += size * size * 9 * channels * (before + (2 * blocks - 1) * channels)
    return macs


@pytest.mark.parametrize("depth", [20, 56])
def test_macs_are_those_of_the_convolutions_and_the_shortcuts(depth):
    shortcuts = 16 * 16 * 16 * 32 + 8 * 8 * 32 * 64
    assert count_cost(resnet.cifar_resnet(depth)).macs == convolution_macs(depth) + shortcuts
    assert count_cost(resnet.cifar_plain(depth)).macs == convolution_macs(depth)


@pytest.fixture(scope="module")
def resnet50():
    return resnet.cifar_resnet50()


def bottleneck_macs():
    """Counts the convolutions of ResNet-50 for 32x32 images and the classifier by hand."""
    size, before = 32, 64
    macs = size * size * 9 * 3 * before + 2048 * 10
    for channels, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        wide = 4 * channels
        for block in range(blocks):
            macs += size * size * before * channels
            if block == 0:
                size //= 1 if channels == 64 else 2
                macs += size * size * before * wide
            macs += size * size * (9 * channels * channels + channels * wide)
            before = wide
    return macs


def test_resnet50_costs_what_its_convolutions_do(resnet50):
    assert count_cost(resnet50).macs == bottleneck_macs()
    assert sum(np.prod(variable.shape) for variable in resnet50.trainable_variables) == 23_520_842
    assert resnet50.get_layer("layer4_2_relu3").output.shape == (None, 4, 4, 2048)


def test_streams_and_inner_channels_of_resnet50_can_be_pruned(resnet50):
    graph = ChannelGraph.from_model(resnet50)
    assert len(graph.groups) == 1 + 4 + 2 * 16  # stem, streams, the inside of each block
    streams = [group for group in graph.groups if len(group.producers) > 1]
    assert [(group.num_channels, len(group.producers)) for group in streams] == [
        (256, 4), (512, 5), (1024, 7), (2048, 4)
    ]  # fmt: skip
    assert [layer.layer for layer in graph.frozen] == ["linear"]


def test_arrays_of_resnet50_have_the_names_of_the_usual_pytorch_network(resnet50):
    names = {name for layer in resnet50.layers for name in resnet._names(layer)}
    assert len(names) == 53 + 4 * 53 + 2  # kernels, batch normalisations, classifier
    assert {"layer1.0.shortcut.0.weight", "layer1.0.shortcut.1.running_var", "layer4.2.conv3.weight"} < names


@pytest.mark.slow
def test_every_group_of_resnet50_is_pruned_and_half_of_each_converted(resnet50):
    check_network(resnet50)
    check_conversion(resnet50)


@pytest.mark.slow
def test_resnet50_of_keras_applications_is_pruned_to_half_and_converted():
    model = keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), classes=10)
    check_conversion(randomize(model))


def test_a_shortcut_takes_every_second_pixel_and_adds_zero_channels():
    model = resnet.cifar_resnet(8)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 16)).astype("f")
    found = np.asarray(model.get_layer("layer2_0_shortcut")(images))
    expected = np.pad(images[:, ::2, ::2], [(0, 0), (0, 0), (0, 0), (8, 8)])
    np.testing.assert_array_equal(found, expected)


def test_shortcuts_are_not_trained():
    names = {variable.path for variable in resnet.cifar_resnet(8).trainable_variables}
    assert not any("shortcut" in name for name in names)


def test_streams_and_inner_channels_can_be_pruned():
    graph = ChannelGraph.from_model(resnet.cifar_resnet(20))
    assert len(graph.groups) == 3 + 9  # the stream of each stage, and the inside of each block
    assert [layer.layer for layer in graph.frozen] == ["linear"]


def test_a_weight_file_is_loaded_array_by_array(tmp_path):
    model = resnet.cifar_resnet(8)
    arrays = weights_of(model)
    np.savez(tmp_path / "weights.npz", **arrays)
    resnet.load_weights(model, tmp_path / "weights.npz")
    for layer, attribute, name in (
        ("layer1_0_conv1", "kernel", "layer1.0.conv1.weight"),
        ("layer3_0_bn2", "moving_variance", "layer3.0.bn2.running_var"),
        ("linear", "bias", "linear.bias"),
    ):
        found = getattr(model.get_layer(layer), attribute)
        np.testing.assert_array_equal(np.asarray(found), arrays[name])


def test_names_have_no_dot_which_pytorch_would_refuse(resnet50):
    for model in (resnet50, resnet.cifar_resnet(8), resnet.cifar_plain(8)):
        assert not [layer.name for layer in model.layers if "." in layer.name]


def test_a_file_of_another_depth_is_refused(tmp_path):
    np.savez(tmp_path / "weights.npz", **weights_of(resnet.cifar_resnet(14)))
    with pytest.raises(ModelError, match=r"weights.npz does not fit cifar_resnet8: 30 arrays.*the depth"):
        resnet.load_weights(resnet.cifar_resnet(8), tmp_path / "weights.npz")


@pytest.mark.parametrize("content", [None, b"no zip file"])
def test_a_missing_or_damaged_file_is_one_sentence(tmp_path, content):
    path = tmp_path / "weights.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match="is missing or no .npz file of weights"):
        resnet.load_weights(resnet.cifar_resnet(8), path)


@pytest.mark.parametrize("depth", [2, 21])
def test_other_depths_are_refused(depth):
    with pytest.raises(ModelError, match=f"6n . 2.*not {depth}"):
        resnet.cifar_plain(depth)


@pytest.mark.parametrize("build", [resnet.cifar_resnet, resnet.cifar_resnet50])
def test_one_class_is_refused(build):
    with pytest.raises(ModelError, match="num_classes is 1"):
        build(num_classes=1)


def test_a_model_is_saved_and_loaded_without_custom_objects(tmp_path):
    model = resnet.cifar_resnet(8)
    model.save(tmp_path / "model.keras")
    images = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("f")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(np.asarray(loaded(images)), np.asarray(model(images)))
