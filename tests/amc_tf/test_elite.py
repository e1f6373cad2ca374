"""Tests of the variations of the best plan."""

import keras
import numpy as np
import pytest

from amc_tf.budget import Budget, WidthBounds
from amc_tf.controls import shallow, uniform
from amc_tf.elite import EliteExplorer
from amc_tf.graph import ChannelGraph


@pytest.fixture(scope="module")
def bounds() -> WidthBounds:
    inputs = x = keras.Input((8, 8, 3))
    for filters in (32, 64, 64):
        x = keras.layers.Conv2D(filters, 3, padding="same")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    graph = ChannelGraph.from_model(keras.Model(inputs, keras.layers.Dense(4)(x)))
    return WidthBounds(graph, Budget(macs=0.5).resolve(graph.count()), round_to=2)


def make_explorer(bounds: WidthBounds, share: float, *, seed: int) -> EliteExplorer:
    return EliteExplorer(bounds, share, starts=[uniform(bounds), shallow(bounds)], seed=seed)


def widths_of(bounds: WidthBounds, ratios: np.ndarray) -> tuple[int, ...]:
    return tuple(bounds.nearest(index, ratio) for index, ratio in enumerate(ratios))


def test_the_first_episodes_play_the_given_plans(bounds: WidthBounds) -> None:
    explorer = make_explorer(bounds, 0.5, seed=0)
    for episode, plan in enumerate((uniform(bounds), shallow(bounds))):
        proposal = explorer.propose(episode, None)
        assert proposal is not None
        assert widths_of(bounds, proposal) == plan


def test_a_share_of_zero_leaves_every_episode_to_the_actor(bounds: WidthBounds) -> None:
    explorer = make_explorer(bounds, 0.0, seed=0)
    assert all(explorer.propose(episode, (16, 32, 32)) is None for episode in range(50))


def test_about_the_given_share_of_episodes_is_proposed(bounds: WidthBounds) -> None:
    explorer = make_explorer(bounds, 0.3, seed=0)
    proposed = sum(explorer.propose(episode, (16, 32, 32)) is not None for episode in range(2, 1002))
    assert 250 < proposed < 350


def test_every_proposal_fits_the_budget_and_uses_most_of_it(bounds: WidthBounds) -> None:
    explorer = make_explorer(bounds, 1.0, seed=3)
    for episode in range(2, 100):
        proposal = explorer.propose(episode, uniform(bounds))
        assert proposal is not None
        cost = bounds.cost(widths_of(bounds, proposal))
        assert 0.9 * bounds.limit.limit < cost <= bounds.limit.limit


def test_a_proposal_depends_on_seed_episode_and_best_plan_only(bounds: WidthBounds) -> None:
    first = make_explorer(bounds, 1.0, seed=3).propose(7, (16, 32, 32))
    explorer = make_explorer(bounds, 1.0, seed=3)
    explorer.propose(1, (32, 64, 16))
    np.testing.assert_array_equal(first, explorer.propose(7, (16, 32, 32)))
    assert not np.array_equal(first, make_explorer(bounds, 1.0, seed=4).propose(7, (16, 32, 32)))
