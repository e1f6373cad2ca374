"""Facts about amc_tf/budget.py."""

import dataclasses
import math
import re

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amc_tf.budget import Bounds, Budget, Limit, WidthBounds
from amc_tf.cost import Cost
from amc_tf.errors import BudgetError, SettingsError
from amc_tf.graph import ChannelGraph

COST = Cost(macs=1000, params=200)


def small_mobilenet():
    """A convolution, two separable blocks of which the second is strided, an Add and a classifier."""
    inputs = keras.Input((16, 16, 3))
    tensor = keras.layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(inputs)
    tensor = keras.layers.DepthwiseConv2D(3, padding="same")(tensor)
    shortcut = tensor = keras.layers.Conv2D(24, 1)(tensor)
    tensor = keras.layers.Conv2D(40, 3, padding="same", activation="relu")(tensor)
    tensor = keras.layers.Conv2D(24, 1)(tensor)
    tensor = keras.layers.Add()([tensor, shortcut])
    tensor = keras.layers.Conv2D(33, 3, strides=2)(tensor)
    tensor = keras.layers.GlobalAveragePooling2D()(tensor)
    return keras.Model(inputs, keras.layers.Dense(10)(tensor))


@pytest.fixture(scope="module")
def graph():
    return ChannelGraph.from_model(small_mobilenet())


def bounds_for(graph, kind, ratio, round_to, **settings):
    limit = Budget(**{kind: ratio}).resolve(graph.count())
    return WidthBounds(graph, limit, round_to=round_to, **settings)


@pytest.mark.parametrize(
    ("budget", "limit"),
    [
        (Budget(macs=0.5), 500),
        (Budget(macs=600), 600),
        (Budget(params=0.25), 50),
        (Budget(bytes=0.5), 400),
        (Budget(latency=0.5), 4.0),
        (Budget(latency=3), 3.0),
        (Budget(latency=1.5), 1.5),
        (Budget(latency=0.7, absolute=True), 0.7),
    ],
)
def test_a_value_of_at_most_one_is_a_ratio_and_a_greater_one_absolute(budget, limit):
    assert budget.resolve(COST, latency_ms=8.0).limit == pytest.approx(limit)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("macs=0.5", Budget(macs=0.5)),
        ("macs=285M", Budget(macs=285e6, absolute=True)),
        ("bytes=1.5MB", Budget(bytes=1.5e6, absolute=True)),
        ("latency=0.8ms", Budget(latency=0.8, absolute=True)),
        ("params=1e6", Budget(params=1e6)),
        ("accuracy=0.98", Budget(accuracy=0.98)),
        ("none", Budget.none()),
    ],
)
def test_a_budget_is_read_from_text(text, budget):
    assert Budget.parse(text) == budget


@pytest.mark.parametrize(
    "text", ["", "macs", "macs=", "macs=a", "speed=0.5", "macs=5ms", "latency=5M", "macs=1.2.3", "macs=."]
)
def test_text_that_is_no_budget_is_answered_with_examples(text):
    with pytest.raises(
        BudgetError, match=re.escape(f"'{text}' is no budget; give KIND=VALUE such as macs=0.5")
    ):
        Budget.parse(text)


@pytest.mark.parametrize("text", ["macs=0", "latency=0.0"])
def test_a_budget_of_nothing_is_refused(text):
    with pytest.raises(BudgetError, match="is not above 0"):
        Budget.parse(text)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_part_of_the_accuracy_is_from_0_to_1(value):
    with pytest.raises(BudgetError, match=f"accuracy={value:g} is no part of the original's accuracy"):
        Budget(accuracy=value)
    assert [Budget(accuracy=part).value for part in (0.0, 1.0)] == [0.0, 1.0]


def test_exactly_one_kind_must_be_given():
    with pytest.raises(BudgetError, match="exactly one of macs, params, bytes, latency, accuracy, not none"):
        Budget()
    with pytest.raises(BudgetError, match="not macs, latency"):
        Budget(macs=0.5, latency=0.5)


@pytest.mark.parametrize(
    "budget", [Budget(macs=1.0), Budget(macs=1000), Budget(params=201), Budget(latency=8.0)]
)
def test_a_budget_that_the_original_meets_leaves_nothing_to_compress(budget):
    with pytest.raises(BudgetError, match="there is nothing to compress; give a ratio below 1"):
        budget.resolve(COST, latency_ms=8.0)


def test_milliseconds_are_told_with_three_decimals_and_operations_whole():
    words = "latency=9 allows 9.000 ms, but the original has only 8.000 ms: there is nothing to compress"
    with pytest.raises(BudgetError, match=words):
        Budget(latency=9).resolve(COST, latency_ms=8.0)
    with pytest.raises(BudgetError, match="allows 1,000 MACs, but the original has only 1,000 MACs"):
        Budget(macs=1.0).resolve(COST)


def test_a_latency_budget_asks_for_the_measured_original():
    with pytest.raises(BudgetError, match="needs the measured latency of the original"):
        Budget(latency=0.5).resolve(COST)


def test_a_limit_allows_what_costs_at_most_that():
    limit = Budget(macs=0.5).resolve(COST)
    assert (limit.original, limit.unit) == (1000, "MACs")
    assert limit.allows(Cost(500, 200))
    assert not limit.allows(Cost(501, 1))


def test_a_latency_limit_allows_only_what_was_measured():
    limit = Budget(latency=0.5).resolve(COST, latency_ms=8.0)
    assert limit.allows(COST, 4.0)
    assert not limit.allows(COST, 4.01)
    assert not limit.allows(COST)


def test_without_a_bound_every_width_may_stay(graph):
    bounds = WidthBounds(graph, Budget.none().resolve(graph.count()))
    assert bounds.bound_all([1.0] * len(bounds.full)) == bounds.full
    assert bounds.limit.allows(COST)
    assert bounds.limit == Limit(Budget.none(), math.inf, math.inf)


def test_without_a_bound_every_width_may_go_and_nothing_costs_anything(graph):
    bounds = WidthBounds(graph, Budget.none().resolve(graph.count()))
    assert bounds.bound_all([0.0] * len(bounds.full)) == bounds.minimum
    assert bounds.cost(bounds.full) == 0.0


def test_an_impossible_budget_names_the_smallest_possible_one(graph):
    limit = Budget(macs=0.01).resolve(graph.count())
    with pytest.raises(BudgetError, match="smallest network that the search may build has") as caught:
        WidthBounds(graph, limit, round_to=8)
    found = re.search(r"has ([\d,]+) MACs; give at least macs=([\d.]+)", str(caught.value))
    assert found
    smallest = graph.count([8, 8, 8, 8]).macs
    assert int(found[1].replace(",", "")) == smallest
    assert float(found[2]) == pytest.approx(smallest / graph.count().macs, abs=1e-4)
    named = Budget(macs=float(found[2])).resolve(graph.count())
    assert WidthBounds(graph, named, round_to=8).bound_all([1.0] * 4)
    assert str(caught.value).endswith(", or lower round_to (8) or min_keep_ratio (0.2).")


class Constant:
    def __init__(self, latency_ms):
        self.latency_ms = latency_ms

    def predict(self, widths):
        return self.latency_ms


def test_the_smallest_possible_latency_is_named_as_a_ratio_rounded_up(graph):
    limit = Limit(Budget(latency=0.4), 0.8, 2.0)
    for latency_ms, words in ((1.0, "has 1.000 ms; give at least latency=0.5 "), (1.0001, "latency=0.5001 ")):
        with pytest.raises(BudgetError, match=words):
            WidthBounds(graph, limit, predictor=Constant(latency_ms))


def test_what_is_kept_free_of_a_limit_is_told_and_counted_in_what_is_named(graph):
    limit, predictor = Limit(Budget(latency=0.5), 2.0, 4.0), Constant(3.5)
    with pytest.raises(BudgetError) as caught:
        WidthBounds(graph, limit, predictor=predictor, margin=0.03)
    assert str(caught.value).startswith(
        "The budget latency=0.5 allows 2.000 ms, of which 3 % are kept free for errors of prediction, but "
        "the smallest network that the search may build has 3.500 ms; give at least latency=0.9021 "
    )
    enough = dataclasses.replace(limit, limit=0.9021 * limit.original)
    assert WidthBounds(graph, enough, predictor=predictor, margin=0.03).limit.limit == 0.97 * enough.limit


def test_where_no_latency_budget_can_be_met_none_is_named(graph):
    limit = Limit(Budget(latency=0.5), 2.0, 4.0)
    for latency_ms in (3.9, 5.0):
        with pytest.raises(BudgetError, match="a budget of another kind, since latency hardly depends on"):
            WidthBounds(graph, limit, predictor=Constant(latency_ms), margin=0.03)


def test_a_latency_limit_needs_a_predictor(graph):
    with pytest.raises(BudgetError, match="needs a latency predictor"):
        WidthBounds(graph, Budget(latency=0.5).resolve(graph.count(), 2.0))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["macs", "params", "bytes"]),
    ratio=st.floats(0.3, 0.95),
    round_to=st.sampled_from([1, 4, 8]),
    seed=st.integers(0, 10**6),
)
def test_a_finished_plan_never_exceeds_the_budget_and_no_step_is_impossible(
    graph, kind, ratio, round_to, seed
):
    bounds = bounds_for(graph, kind, ratio, round_to)
    widths = bounds.bound_all(np.random.default_rng(seed).random(len(bounds.full)).tolist())
    assert all(width in allowed for width, allowed in zip(widths, bounds.allowed, strict=True))
    assert bounds.limit.allows(graph.count(widths))
    assert bounds.cost(widths) <= bounds.limit.limit


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["macs", "params", "bytes"]),
    ratio=st.floats(0.3, 0.95),
    round_to=st.sampled_from([1, 4, 8]),
)
def test_keeping_all_that_is_allowed_leaves_no_room_for_one_more_step_anywhere(graph, kind, ratio, round_to):
    bounds = bounds_for(graph, kind, ratio, round_to)
    widths = bounds.bound_all([1.0] * len(bounds.full))
    for index, allowed in enumerate(bounds.allowed):
        wider = [width for width in allowed if width > widths[index]]
        if wider:
            assert not bounds.fits((*widths[:index], wider[0], *widths[index + 1 :]))


@settings(max_examples=40, deadline=None)
@given(ratio=st.floats(0.3, 0.95), use=st.floats(0.0, 1.0), seed=st.integers(0, 10**6))
def test_random_plans_use_the_wanted_part_of_the_budget_up_to_one_step(graph, ratio, use, seed):
    bounds = bounds_for(graph, "macs", ratio, 1, min_use=use)
    widths = bounds.bound_all(np.random.default_rng(seed).random(len(bounds.full)).tolist())
    steps = [
        graph.count().macs - graph.count([*bounds.full[:i], w - 1, *bounds.full[i + 1 :]]).macs
        for i, w in enumerate(bounds.full)
    ]
    assert bounds.limit.allows(graph.count(widths))
    assert bounds.cost(widths) >= use * bounds.limit.limit - max(steps)


def test_with_no_use_demanded_the_smallest_network_may_be_chosen(graph):
    bounds = bounds_for(graph, "macs", 0.5, 8, min_use=0.0)
    assert bounds.bound_all([0.0] * 4) == bounds.minimum
    assert bounds_for(graph, "macs", 0.5, 8, min_use=0.9).bound_all([0.0] * 4) != bounds.minimum


def test_a_use_above_the_whole_budget_is_refused(graph):
    with pytest.raises(SettingsError, match="min_use is 1.5; give a part of the limit from 0 to 1"):
        bounds_for(graph, "macs", 0.5, 8, min_use=1.5)


class Sum:
    """Every width costs as much as it is wide, whether it is counted or predicted."""

    def count(self, widths):
        return Cost(macs=sum(widths), params=0)

    def predict(self, widths):
        return float(sum(widths))


def sum_bounds(limit, min_use, **options):
    allowed = [(2, 4, 6, 8), (2, 4, 6, 8)]
    return Bounds(Sum(), limit, allowed=allowed, min_use=min_use, advice="give more", **options)


def test_a_width_that_uses_just_enough_of_the_limit_is_the_smallest():
    limit = Budget(macs=12).resolve(Cost(macs=16, params=0))
    assert [sum_bounds(limit, use).smallest(()) for use in (0.83, 10 / 12, 0.84, 1.0)] == [2, 2, 4, 4]
    assert sum_bounds(limit, 1.0).smallest((2,)) == 8  # not enough, but there is no more


def test_a_prediction_counts_for_a_latency_limit_alone():
    latency = sum_bounds(Limit(Budget(latency=0.75), 12.0, 16.0), 1.0, predictor=Sum())
    assert (latency.cost((4, 8)), latency.bound_all([1.0, 1.0])) == (12.0, (8, 4))
    macs = sum_bounds(Budget(macs=12).resolve(Cost(macs=16, params=0)), 1.0, predictor=Constant(99.0))
    assert macs.cost((4, 8)) == 12.0


def test_widths_are_multiples_of_eight_unless_told_otherwise(graph):
    assert WidthBounds(graph, Budget.none().resolve(graph.count())).allowed[3] == (8, 16, 24, 32, 33)


def test_the_duty_of_a_step_is_the_largest_width_with_the_rest_at_its_smallest(graph):
    bounds = bounds_for(graph, "macs", 0.5, 4)
    largest = bounds.largest((16,))
    rest = bounds.minimum[2:]
    assert graph.count((16, largest, *rest)).macs <= bounds.limit.limit
    assert largest == bounds.full[1] or graph.count((16, largest + 4, *rest)).macs > bounds.limit.limit


def test_a_ratio_takes_the_nearest_allowed_width_and_the_smaller_of_two(graph):
    bounds = WidthBounds(graph, Budget.none().resolve(graph.count()), round_to=8)
    assert bounds.allowed[3] == (8, 16, 24, 32, 33)
    assert [bounds.nearest(3, ratio) for ratio in (0.0, 12 / 33, 0.4, 0.98, 1.0)] == [8, 8, 16, 32, 33]


def test_a_prediction_that_rises_above_the_limit_during_a_search_gives_the_smallest_widths(graph):
    predictor = Constant(1.0)
    limit = Limit(Budget(latency=0.5), 1.0, 2.0)
    bounds = WidthBounds(graph, limit, predictor=predictor)
    assert bounds.bound_all([1.0] * 4) == bounds.full
    predictor.latency_ms = 1.1
    assert bounds.bound_all([1.0] * 4) == bounds.minimum
