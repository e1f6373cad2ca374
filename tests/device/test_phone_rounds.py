"""Rounds on phones: when they are enough, and the latency that they amount to."""

import dataclasses

import pytest

from amc_tf.device.phone_rounds import PhoneTiming, Round, noise, summarise
from amc_tf.errors import SettingsError
from tests.fake_bench import result


def rounds(*pairs: tuple[float, float | None]) -> list[Round]:
    """Returns one round for each pair of candidate and reference median, in milliseconds."""
    return [Round(result(one), None if other is None else result(other)) for one, other in pairs]


def test_a_latency_is_the_median_of_process_medians_and_of_paired_ratios() -> None:
    latency = summarise([rounds((2.0, 4.0), (3.0, 5.0), (2.2, 4.4))], {"mask": "f0"})
    assert (latency.median_ms, latency.reference_median_ms) == (2.2, 4.4)
    assert latency.paired_ratio == latency.ratio == 0.5
    assert latency.raw_ms == (2.0, 3.0, 2.2)
    assert latency.reference_raw_ms == (4.0, 5.0, 4.4)
    assert latency.p5_ms == pytest.approx(0.9 * 2.2)
    assert latency.p95_ms == pytest.approx(1.2 * 2.2)
    assert latency.std_ms == pytest.approx(0.1 * 2.2)
    assert latency.num_runs == 150
    assert latency.conditions == {"mask": "f0"}
    assert not latency.predicted


def test_noise_is_the_interquartile_range_of_the_ratios_over_their_median() -> None:
    assert noise([rounds((2.0, 4.0), (3.0, 5.0), (2.2, 4.4))]) == pytest.approx((0.55 - 0.5) / 0.5)
    assert noise([rounds((2.0, 4.0), (4.0, 8.0), (1.0, 2.0))]) == 0.0
    assert noise([rounds((2.0, 4.0))]) is None


def test_without_a_reference_noise_is_that_of_the_times() -> None:
    latency = summarise([rounds((1.0, None), (1.1, None), (1.2, None))], {})
    assert latency.noise == pytest.approx(0.1 / 1.1)
    assert (latency.reference_median_ms, latency.paired_ratio, latency.reference_raw_ms) == (None, None, ())


def test_a_tool_without_percentiles_gives_its_mean_its_fastest_and_its_slowest_run() -> None:
    old = dataclasses.replace(result(2.0), median_ms=None, p5_ms=None, p95_ms=None)
    latency = summarise([[Round(old, None)]], {})
    assert (latency.median_ms, latency.p5_ms, latency.p95_ms) == (2.1, 1.6, 3.0)


def test_of_two_phones_ratios_are_pooled_and_times_brought_to_one_scale() -> None:
    slow = rounds((5.5, 11.0), (5.5, 11.0), (5.5, 11.0))
    latency = summarise([rounds((4.5, 9.0)), slow], {})
    assert latency.paired_ratio == 0.5
    assert latency.reference_median_ms == pytest.approx(10.0)
    assert latency.median_ms == pytest.approx(5.0)
    assert latency.raw_ms == (4.5, 5.5, 5.5, 5.5)
    assert latency.noise == 0.0
    other_shares = summarise([rounds((4.5, 9.0), (4.5, 9.0), (4.5, 9.0)), slow[:1]], {})
    assert other_shares.median_ms == pytest.approx(latency.median_ms)


def test_a_phone_without_rounds_has_no_part() -> None:
    assert summarise([[], rounds((2.0, 4.0))], {}) == summarise([rounds((2.0, 4.0))], {})


def test_without_a_reference_two_phones_meet_in_the_middle() -> None:
    latency = summarise([rounds((9.0, None)), rounds((11.0, None), (11.0, None))], {})
    assert latency.median_ms == pytest.approx(10.0)
    assert latency.noise == pytest.approx(0.0)


def test_a_reference_of_no_time_gives_no_ratio() -> None:
    latency = summarise([rounds((1.0, 0.0), (1.0, 0.0))], {})
    assert latency.paired_ratio is None
    assert latency.noise == 0.0


def test_rounds_go_on_until_they_agree_or_are_the_most() -> None:
    timing = PhoneTiming(min_rounds=2, max_rounds=4, max_spread=0.05)
    steady, unsteady = (2.0, 4.0), (3.0, 4.0)
    assert not timing.is_enough([rounds(steady)])
    assert timing.is_enough([rounds(steady, steady)])
    assert timing.is_enough([rounds(steady), rounds(steady)])
    assert not timing.is_enough([rounds(steady, unsteady)])
    assert not timing.is_enough([rounds(steady, unsteady, steady)])
    assert timing.is_enough([rounds(steady, unsteady, steady, unsteady)])


def test_one_round_agrees_with_nothing_unless_it_is_all_that_may_be_made() -> None:
    assert not PhoneTiming(min_rounds=1).is_enough([rounds((2.0, 4.0))])
    assert PhoneTiming(min_rounds=1, max_rounds=1).is_enough([rounds((2.0, 4.0))])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"min_rounds": 0}, "min_rounds must be an integer of 1 or more, but is 0"),
        ({"min_rounds": 5, "max_rounds": 4}, "max_rounds must be an integer of 5 or more, but is 4"),
        ({"max_rounds": True}, "max_rounds must be an integer"),
        ({"max_spread": -0.1}, "max_spread must be 0 or more"),
        ({"max_battery_c": float("nan")}, "max_battery_c must be a temperature"),
        ({"max_thermal_status": 1.5}, "max_thermal_status must be an integer"),
        ({"cool_down_s": -1.0}, "cool_down_s must be 0 or more"),
        ({"poll_s": 0.0}, "poll_s must be above 0"),
    ],
)
def test_settings_outside_their_range_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        PhoneTiming(**settings)
