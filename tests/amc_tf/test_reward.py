"""Facts about amc_tf/reward.py."""

import math
from dataclasses import replace

import pytest

from amc_tf.errors import SettingsError
from amc_tf.reward import REWARDS, Outcome, find_reward, needs_latency

OUTCOME = Outcome(
    top1=0.75, top5=0.9, probability=0.6, macs=1000, params=200, latency_ms=4.0, target_latency_ms=2.0
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("error", -0.25),
        ("macs", -0.25 * math.log(1000)),
        ("parameters", -0.25 * math.log(200)),
        ("latency", -0.25 * math.log(4000)),
        ("soft_latency", 0.75 * 2.0**-0.07),
    ],
)
def test_each_reward_follows_its_formula(name, expected):
    assert REWARDS[name](OUTCOME) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("metric", "expected"), [("top1", -0.25), ("top5", -0.1), ("probability", -0.4)])
def test_the_metric_says_what_accuracy_counts(metric, expected):
    assert REWARDS["error"](replace(OUTCOME, metric=metric)) == pytest.approx(expected)


def test_fidelity_counts_where_it_was_measured():
    assert REWARDS["error"](replace(OUTCOME, metric="fidelity", fidelity=0.3)) == pytest.approx(-0.7)
    with pytest.raises(SettingsError, match="metric is 'fidelity', which was not measured"):
        replace(OUTCOME, metric="fidelity")


@pytest.mark.parametrize("name", REWARDS)
def test_more_accuracy_at_the_same_cost_earns_more(name):
    assert REWARDS[name](replace(OUTCOME, top1=0.8)) > REWARDS[name](OUTCOME)


@pytest.mark.parametrize(
    ("name", "cheaper"),
    [
        ("macs", {"macs": 500}),
        ("parameters", {"params": 100}),
        ("latency", {"latency_ms": 0.2}),
        ("soft_latency", {"latency_ms": 0.2}),
    ],
)
def test_less_cost_at_the_same_accuracy_earns_more(name, cheaper):
    assert REWARDS[name](replace(OUTCOME, **cheaper)) > REWARDS[name](OUTCOME)


@pytest.mark.parametrize("name", ["macs", "parameters", "latency"])
def test_of_networks_within_the_allowed_error_the_cheaper_earns_more_whatever_their_errors(name):
    allowed = replace(OUTCOME, allowed_error=0.3)
    cheaper = replace(allowed, macs=900, params=190, latency_ms=3.9, top1=0.71)
    too_cheap = replace(cheaper, macs=800, params=150, latency_ms=3.0, top1=0.6)
    flawless = replace(allowed, top1=1.0)
    assert REWARDS[name](cheaper) > REWARDS[name](flawless) == REWARDS[name](allowed)
    assert REWARDS[name](too_cheap) < REWARDS[name](cheaper)


def test_an_unknown_reward_is_answered_with_the_valid_names():
    with pytest.raises(
        SettingsError, match="no reward 'speed'; choose one of error, macs, parameters, latency, soft_"
    ):
        find_reward("speed")


def test_an_unknown_metric_is_answered_with_the_valid_ones():
    with pytest.raises(SettingsError, match="choose one of top1, top5"):
        replace(OUTCOME, metric="top3")


@pytest.mark.parametrize("name", ["latency", "soft_latency"])
def test_a_latency_reward_without_a_measurement_asks_for_a_meter(name):
    assert needs_latency(name)
    with pytest.raises(SettingsError, match="give the search a latency meter"):
        find_reward(name)(replace(OUTCOME, latency_ms=None))


def test_the_soft_latency_reward_asks_for_its_target():
    with pytest.raises(SettingsError, match="give a latency budget"):
        find_reward("soft_latency")(replace(OUTCOME, target_latency_ms=None))


def test_the_cost_rewards_need_no_meter():
    assert not any(needs_latency(name) for name in ("error", "macs", "parameters"))
