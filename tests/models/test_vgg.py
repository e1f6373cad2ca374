"""VGG-16 for CIFAR: structure and cost."""

import pytest

from amc_tf.errors import ModelError
from amc_tf.graph import ChannelGraph
from amc_tf.models.vgg import BLOCKS, cifar_vgg16


def convolution_macs():
    """Counts the convolutions and both dense layers by hand."""
    macs, before, size = 0, 3, 32
    for widths in BLOCKS:
        for channels in widths:
            macs += size * size * 9 * before * channels
            before = channels
        size //= 2
    return macs + 512 * 512 + 512 * 10


@pytest.mark.parametrize("batch_norm", [True, False])
def test_every_convolution_can_be_pruned_at_the_published_cost(batch_norm):
    graph = ChannelGraph.from_model(cifar_vgg16(batch_norm=batch_norm))
    assert graph.count().macs == convolution_macs() == 313_463_808
    assert [group.num_channels for group in graph.groups] == [*sum(BLOCKS, ()), 512]


def test_width_multiplier_scales_every_layer():
    graph = ChannelGraph.from_model(cifar_vgg16(alpha=0.25))
    assert [group.num_channels for group in graph.groups] == [width // 4 for width in [*sum(BLOCKS, ()), 512]]


@pytest.mark.parametrize(("argument", "value"), [("num_classes", 1), ("dropout", 1.0), ("alpha", 0.01)])
def test_arguments_out_of_range_are_named(argument, value):
    with pytest.raises(ModelError, match=f"{argument} is {value}"):
        cifar_vgg16(**{argument: value})
