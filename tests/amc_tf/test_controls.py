"""Facts about amc_tf/controls.py."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from amc_tf.budget import Budget, WidthBounds
from amc_tf.controls import deep, global_threshold, greedy, random_search, shallow, uniform, wider_networks
from amc_tf.errors import SettingsError
from amc_tf.graph import ChannelGraph

WEIGHTS = np.array([1.0, 4.0, 2.0, 8.0])


@pytest.fixture(scope="module")
def graph():
    """Four convolutions of 64 channels on 8x8 images."""
    inputs = tensor = keras.Input((8, 8, 3))
    for _ in range(4):
        tensor = keras.layers.Conv2D(64, 3, padding="same", use_bias=False)(tensor)
    tensor = keras.layers.GlobalAveragePooling2D()(tensor)
    return ChannelGraph.from_model(keras.Model(inputs, keras.layers.Dense(10)(tensor)))


def bounds_for(graph, budget, round_to=8):
    return WidthBounds(graph, budget.resolve(graph.count()), round_to=round_to)


def weighted_score(widths):
    """A network loses the more the heavier the groups are that lose channels."""
    return SimpleNamespace(reward=-float(WEIGHTS @ (1 - np.array(widths) / 64)), feasible=True)


@pytest.mark.parametrize("control", [uniform, shallow, deep])
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.8])
def test_controls_are_within_the_budget_on_allowed_widths(graph, control, ratio):
    bounds = bounds_for(graph, Budget(macs=ratio))
    widths = control(bounds)
    assert graph.count(widths).macs <= ratio * graph.count().macs
    assert all(width in allowed for width, allowed in zip(widths, bounds.allowed, strict=True))


def test_uniform_keeps_the_same_part_everywhere_and_the_next_step_would_be_too_much(graph):
    bounds = bounds_for(graph, Budget(macs=0.5))
    widths = uniform(bounds)
    assert widths == (40,) * 4
    assert not bounds.fits((48,) * 4)


def test_wider_networks_keep_their_proportions_and_end_untouched(graph):
    bounds = bounds_for(graph, Budget(macs=0.5))
    networks = wider_networks(bounds, (16, 32, 24, 64))
    assert networks[0] == (16, 32, 24, 64)
    assert networks[-1] == bounds.full
    assert (24, 48, 40, 64) in networks  # one and a half times the first, the whole group as it is
    assert networks == sorted(set(networks))
    assert wider_networks(bounds, bounds.full) == [bounds.full]


@pytest.mark.parametrize(("control", "order"), [(shallow, 1), (deep, -1)])
def test_shallow_and_deep_rise_away_from_the_end_that_they_prune(graph, control, order):
    widths = control(bounds_for(graph, Budget(macs=0.5), round_to=1))[::order]
    steps = np.diff(widths)
    assert widths[-1] == 64
    assert steps.min() > 0
    assert steps.max() - steps.min() <= 1  # a straight line, but for rounding


@pytest.mark.parametrize("control", [shallow, deep])
def test_a_small_budget_lowers_the_high_end_of_the_ramp(graph, control):
    widths = control(bounds_for(graph, Budget(macs=0.08), round_to=1))
    assert max(widths) < 64
    assert min(widths) == 13  # the smallest allowed, 0.2 of 64


def test_without_a_bound_nothing_is_pruned(graph):
    bounds = bounds_for(graph, Budget.none())
    for control in (uniform, shallow, deep):
        assert control(bounds) == bounds.full
    assert greedy(bounds, weighted_score) == bounds.full


def test_random_search_returns_the_best_of_what_it_scored(graph):
    bounds, scored = bounds_for(graph, Budget(macs=0.5)), {}

    def scorer(widths):
        scored[widths] = weighted_score(widths)
        return scored[widths]

    best = random_search(bounds, scorer, num_evaluations=30, generator=np.random.default_rng(0))
    assert 10 < len(scored) <= 30
    assert scored[best].reward == max(score.reward for score in scored.values())
    assert all(bounds.fits(widths) for widths in scored)


def test_random_search_prefers_any_feasible_network(graph):
    bounds, scored = bounds_for(graph, Budget(macs=0.5)), []

    def scorer(widths):
        scored.append(widths)
        return SimpleNamespace(reward=-float(len(scored)), feasible=len(scored) in (7, 9))

    best = random_search(bounds, scorer, num_evaluations=20, generator=np.random.default_rng(0))
    assert best == scored[6]


def test_random_search_repeats_itself_with_the_same_seed(graph):
    bounds = bounds_for(graph, Budget(macs=0.5))
    first, second = (
        random_search(bounds, weighted_score, num_evaluations=10, generator=np.random.default_rng(3))
        for _ in range(2)
    )
    assert first == second


def test_greedy_shrinks_what_costs_little_and_beats_uniform(graph):
    bounds = bounds_for(graph, Budget(macs=0.5))
    widths = greedy(bounds, weighted_score)
    assert bounds.fits(widths)
    assert weighted_score(widths).reward > weighted_score(uniform(bounds)).reward + 1.0
    assert widths[3] > widths[2]
    assert widths[1] > widths[2]


def test_greedy_takes_about_one_score_per_group_and_iteration(graph):
    calls = []

    def scorer(widths):
        calls.append(widths)
        return weighted_score(widths)

    widths = greedy(bounds_for(graph, Budget(macs=0.5)), scorer, num_iterations=5)
    assert graph.count(widths).macs <= 0.5 * graph.count().macs
    assert 4 < len(calls) <= 1 + 4 * 5


def test_greedy_reaches_the_smallest_network_that_there_is(graph):
    full = graph.count().macs
    bounds = bounds_for(graph, Budget(macs=graph.count([16] * 4).macs / full))
    assert greedy(bounds, weighted_score) == bounds.minimum


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            lambda bounds: random_search(
                bounds, weighted_score, num_evaluations=0, generator=np.random.default_rng(0)
            ),
            "num_evaluations is 0; give at least 1",
        ),
        (
            lambda bounds: greedy(bounds, weighted_score, num_iterations=0),
            "num_iterations is 0; give at least 1",
        ),
    ],
)
def test_a_search_of_no_steps_is_refused(graph, run, message):
    with pytest.raises(SettingsError, match=message):
        run(bounds_for(graph, Budget(macs=0.5)))


def test_one_threshold_keeps_most_where_the_magnitudes_are_large_and_uses_the_budget(graph):
    bounds = bounds_for(graph, Budget(macs=0.5), round_to=1)
    magnitudes = [scale * np.linspace(0.0, 1.0, 64) for scale in (1.0, 2.0, 1.0, 4.0)]
    widths = global_threshold(bounds, magnitudes)
    assert widths[3] > widths[1] > widths[0] == widths[2]
    assert 0.97 * 0.5 < graph.count(widths).macs / graph.count().macs <= 0.5


def test_one_threshold_prunes_nothing_without_a_bound(graph):
    bounds = bounds_for(graph, Budget.none())
    assert global_threshold(bounds, [np.arange(64.0)] * 4) == (64,) * 4
