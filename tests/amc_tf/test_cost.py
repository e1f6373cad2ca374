import time

import keras
import numpy as np
import pytest

from amc_tf.cost import Cost, CostTable, WeightEntry
from amc_tf.errors import PlanError
from amc_tf.graph import ChannelGraph, count_cost

# Channels of the pointwise convolutions of the authors' published MobileNet-V1 plan for half the MACs.
PUBLISHED_WIDTHS = (24, 48, 96, 80, 192, 200, 328, 352, 368, 360, 328, 400, 736, 752)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


@pytest.fixture(scope="module")
def mobilenet():
    return ChannelGraph.from_model(keras.applications.MobileNet(weights=None))


def mobilenet_macs(widths):
    """MACs of MobileNet-V1 at 224 by hand: first convolution, depthwise separable blocks, classifier."""
    size = 112
    macs = size**2 * 9 * 3 * widths[0]
    for before, after, stride in zip(widths, widths[1:], STRIDES, strict=False):
        size //= stride
        macs += size**2 * 9 * before + size**2 * before * after
    return macs + widths[-1] * 1000


def test_bytes_are_four_for_each_parameter():
    assert Cost(macs=7, params=10).size_bytes == 40


def test_mobilenet_costs_what_the_paper_says(mobilenet):
    cost = mobilenet.count()
    assert cost.macs == 568_740_352 == mobilenet_macs(mobilenet.full_widths)
    assert cost.params == 4_253_864
    assert cost == count_cost(keras.applications.MobileNet(weights=None))


def test_the_published_half_plan_costs_51_7_percent(mobilenet):
    macs = mobilenet.count(PUBLISHED_WIDTHS).macs
    assert macs == mobilenet_macs(PUBLISHED_WIDTHS)
    assert round(macs / 1e6, 1) == 293.9
    assert round(100 * macs / mobilenet.count().macs, 1) == 51.7


def test_layer_macs_add_up_to_the_whole(mobilenet):
    macs = mobilenet.layer_macs(PUBLISHED_WIDTHS)
    assert sum(macs.values()) == mobilenet.count(PUBLISHED_WIDTHS).macs
    assert macs["conv1"] == 112**2 * 27 * 24
    assert macs["conv_dw_2"] == 56**2 * 9 * 48
    assert macs["conv_pw_2"] == 56**2 * 48 * 96
    assert macs["conv1_bn"] == 0


def test_group_macs_are_those_of_the_layers_that_hold_its_channels(mobilenet):
    macs = mobilenet.layer_macs(PUBLISHED_WIDTHS)
    held = ("conv_pw_1", "conv_dw_2", "conv_pw_2")
    assert mobilenet.group_macs(1, PUBLISHED_WIDTHS) == sum(macs[path] for path in held)


def test_counting_takes_under_a_millisecond(mobilenet):
    start = time.process_time()
    for _ in range(100):
        mobilenet.count(PUBLISHED_WIDTHS)
    assert time.process_time() - start < 0.1


@pytest.mark.parametrize("widths", [(), (24,), (*PUBLISHED_WIDTHS, 8)])
def test_a_wrong_number_of_widths_is_refused(mobilenet, widths):
    with pytest.raises(PlanError, match=f"{len(widths)} widths were given for the 14 groups"):
        mobilenet.count(widths)


def test_a_table_multiplies_axis_lengths():
    # A 3x3 kernel from 4 fixed + 2 x group 0 channels to group 1, used at 10 positions, and its bias.
    entries = [
        WeightEntry("conv", 9, (0, 1), 10),
        WeightEntry("conv", 1, (1,), 0),
        WeightEntry("fixed", 5, (), 2),
    ]
    table = CostTable(entries, fixed=np.array([4, 0]), multiplicity=np.array([[2, 0], [0, 1]]))

    cost = table.count((3, 7))
    assert cost.params == 9 * (4 + 2 * 3) * 7 + 7 + 5
    assert cost.macs == 10 * 9 * (4 + 2 * 3) * 7 + 2 * 5
    assert table.layer_macs((3, 7)) == {"conv": 10 * 9 * 10 * 7, "fixed": 10}
    assert table.group_macs(0, (3, 7)) == 10 * 9 * 10 * 7


def test_the_bytes_of_a_sparse_network_tell_where_its_weights_stand_too():
    assert Cost(macs=0, params=100).size_bytes == 400
    assert Cost(macs=0, params=100, mask_bytes=25).size_bytes == 425
