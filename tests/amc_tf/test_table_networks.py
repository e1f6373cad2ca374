"""Facts about amc_tf/table_networks.py: which networks a latency table is built from."""

import keras
import numpy as np
import pytest

from amc_tf.device.operators import read_operators
from amc_tf.errors import SettingsError
from amc_tf.graph import ChannelGraph
from amc_tf.plan import allowed_widths
from amc_tf.table_networks import table_networks, table_widths
from tests.trained import make_classifier


@pytest.fixture(scope="module")
def model():
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((8, 8, 3)), *(layers.Conv2D(width, 1) for width in (64, 96, 128)),
         layers.GlobalAveragePooling2D(), layers.Dense(10)]
    )  # fmt: skip


@pytest.fixture(scope="module")
def graph(model):
    return ChannelGraph.from_model(model)


def test_original_and_uniform_networks_come_first(graph):
    chosen = table_widths(graph, 6)
    assert chosen[:3] == (
        ("original", (64, 96, 128)),
        ("uniform 0.75", (48, 72, 96)),
        ("uniform 0.5", (32, 48, 64)),
    )
    assert [label for label, _ in chosen[3:]] == ["random 1", "random 2", "random 3"]


def test_all_widths_are_what_a_search_may_choose(graph):
    for round_to, keep in ((8, 0.2), (16, 0.5), (4, 0.1)):
        for _, widths in table_widths(graph, 20, round_to=round_to, min_keep_ratio=keep):
            for width, group in zip(widths, graph.groups, strict=True):
                assert width in allowed_widths(group.num_channels, round_to=round_to, min_keep_ratio=keep)


def test_the_networks_cover_the_range_and_vary_layer_by_layer(graph):
    ratios = np.array([widths for _, widths in table_widths(graph, 32)]) / graph.full_widths
    assert ratios.mean(axis=1).min() < 0.3 and ratios.mean(axis=1).max() == 1.0
    assert (np.ptp(ratios, axis=1) > 0.2).mean() > 0.5
    levels = np.sort(ratios.mean(axis=1))
    assert np.diff(levels).max() < 0.15


def test_more_networks_add_to_fewer_and_the_seed_decides(graph):
    assert table_widths(graph, 20, seed=3)[:10] == table_widths(graph, 10, seed=3)
    assert table_widths(graph, 10, seed=4) != table_widths(graph, 10, seed=3)


def test_no_network_is_listed_twice(graph):
    chosen = table_widths(graph, 40, round_to=64, min_keep_ratio=0.5)
    assert len({widths for _, widths in chosen}) == len(chosen) < 40


def test_fewer_than_two_networks_are_refused(graph):
    with pytest.raises(SettingsError, match="at least 2 networks to be tested on itself, not 1"):
        table_widths(graph, 1)


def test_networks_are_made_as_chosen():
    model = make_classifier(keras)
    graph = ChannelGraph.from_model(model)
    chosen = table_widths(graph, 4, round_to=4)
    made = dict(table_networks(model, chosen, graph))
    assert list(made) == [label for label, _ in chosen]
    for label, widths in chosen:
        operators = read_operators(made[label])
        assert sum(operator.macs for operator in operators) == graph.count(widths).macs
