"""Rounds of a candidate beside the reference on a phone, and the latency that they amount to."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from amc_tf.device.benchmark_output import BenchmarkResult
from amc_tf.device.latency import Latency, relative_spread
from amc_tf.errors import SettingsError


@dataclasses.dataclass(frozen=True)
class Round:
    """One process of the candidate and one of the reference, one right after the other.

    Attributes:
        candidate: What the tool said of the candidate.
        reference: What it said of the reference; None for a meter without one.
    """

    candidate: BenchmarkResult
    reference: BenchmarkResult | None

    @property
    def ratio(self) -> float | None:
        """Candidate time / reference time, or None without a reference or with one of 0 ms."""
        if self.reference is None or typical_ms(self.reference) <= 0:
            return None
        return typical_ms(self.candidate) / typical_ms(self.reference)


def typical_ms(result: BenchmarkResult) -> float:
    """Returns the median of a process, or its mean where the tool printed no median."""
    return result.mean_ms if result.median_ms is None else result.median_ms


@dataclasses.dataclass(frozen=True)
class PhoneTiming:
    """How many rounds a measurement takes on a phone, and how hot the phone may be.

    Attributes:
        min_rounds: Fewest rounds of one candidate; 1 or more.
        max_rounds: Most rounds; at least `min_rounds`.
        max_spread: While `noise` of the rounds is above this, rounds go on up to `max_rounds`.
        max_battery_c: Highest temperature of the battery at which a round starts, in degrees Celsius.
        max_thermal_status: Highest thermal status of Android at which a round starts and counts: 0 none,
            1 light (clocks may already be lower), 2 moderate, up to 6 shutdown.
        max_discarded: Rounds of one network that may be lost (the phone throttled, dropped out, changed the
            cores) before it is given up; 0 or more.
        cool_down_s: Longest wait for the phone to cool down, in seconds.
        poll_s: Time between looks at its temperature while it cools down, in seconds; above 0.
    """

    min_rounds: int = 3
    max_rounds: int = 9
    max_spread: float = 0.03
    max_battery_c: float = 40.0
    max_thermal_status: int = 0
    max_discarded: int = 3
    cool_down_s: float = 600.0
    poll_s: float = 5.0

    def __post_init__(self) -> None:
        smallest = {
            "min_rounds": 1, "max_rounds": self.min_rounds, "max_thermal_status": 0, "max_discarded": 0,
        }  # fmt: skip
        for name, least in smallest.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise SettingsError(f"{name} must be an integer of {least} or more, but is {value!r}.")
        for name in ("max_spread", "cool_down_s"):
            if not getattr(self, name) >= 0:
                raise SettingsError(f"{name} must be 0 or more, but is {getattr(self, name)!r}.")
        if not self.poll_s > 0:
            raise SettingsError(f"poll_s must be above 0, but is {self.poll_s!r}.")
        if not math.isfinite(self.max_battery_c):
            raise SettingsError(f"max_battery_c must be a temperature, but is {self.max_battery_c!r}.")

    def is_enough(self, phones: Sequence[Sequence[Round]]) -> bool:
        """Returns whether these rounds, phone by phone, need no further one."""
        num_rounds = sum(map(len, phones))
        if not self.min_rounds <= num_rounds < self.max_rounds:
            return num_rounds >= self.max_rounds
        spread = noise(phones)
        return spread is not None and spread <= self.max_spread


def noise(phones: Sequence[Sequence[Round]]) -> float | None:
    """Returns interquartile range / median of the rounds' ratios: what `Latency.noise` is on phones.

    A round is a pair of fresh processes, so this holds what differs from process to process (memory layout,
    the cores the scheduler chose) as well as drift that the pairs did not cancel. Of three rounds it is half
    the range over the median. Without a reference it is the same of the candidate's process medians, each
    brought to the common scale of `summarise`.

    Args:
        phones: The rounds of each phone.

    Returns:
        The relative spread, or None of fewer than two rounds.
    """
    ratios = [round_.ratio for rounds in phones for round_ in rounds if round_.ratio is not None]
    values = ratios or [scale * typical_ms(round_.candidate) for round_, scale in _scaled(phones)]
    return relative_spread(values) if len(values) > 1 else None


def summarise(phones: Sequence[Sequence[Round]], conditions: Mapping[str, Any]) -> Latency:
    """Turns the rounds of one candidate into its latency.

    Medians, percentiles and deviations are medians over the processes. Where the tool printed no percentiles,
    the mean stands for the median of a process, its fastest and slowest run for the 5th and 95th percentile.

    Two phones of one model differ by a few per cent. Ratios to the reference do not, and are pooled as they
    are. Times are first brought to a common scale, on which every phone's reference (without one: candidate)
    takes the mean of the phones' own medians, so that it does not matter which phone made how many rounds;
    `raw_ms` and `reference_raw_ms` stay what was measured, phone by phone.

    Args:
        phones: The rounds of each phone, in the order taken; at least one round in all.
        conditions: What `Latency.conditions` is to hold.

    Raises:
        MeasurementError: A time is not finite.
    """
    scaled = _scaled(phones)
    references = [(round_.reference, scale) for round_, scale in scaled if round_.reference is not None]
    ratios = [round_.ratio for round_, _ in scaled if round_.ratio is not None]

    def middle(value: Callable[[BenchmarkResult], float]) -> float:
        return statistics.median(scale * value(round_.candidate) for round_, scale in scaled)

    return Latency(
        median_ms=middle(typical_ms),
        p5_ms=middle(lambda result: result.min_ms if result.p5_ms is None else result.p5_ms),
        p95_ms=middle(lambda result: result.max_ms if result.p95_ms is None else result.p95_ms),
        std_ms=middle(lambda result: result.std_ms),
        num_runs=sum(round_.candidate.num_runs for round_, _ in scaled),
        raw_ms=tuple(typical_ms(round_.candidate) for round_, _ in scaled),
        reference_median_ms=(
            statistics.median(scale * typical_ms(reference) for reference, scale in references)
            if references
            else None
        ),
        paired_ratio=statistics.median(ratios) if ratios else None,
        reference_raw_ms=tuple(typical_ms(reference) for reference, _ in references),
        noise=noise(phones),
        conditions=dict(conditions),
    )


def _scaled(phones: Sequence[Sequence[Round]]) -> list[tuple[Round, float]]:
    """Returns every round with what brings its times to the common scale; 1 for a single phone."""
    used = [rounds for rounds in phones if rounds]
    own = [statistics.median(typical_ms(r.reference or r.candidate) for r in rounds) for rounds in used]
    common = statistics.fmean(own)
    return [
        (round_, common / median if median > 0 and len(used) > 1 else 1.0)
        for rounds, median in zip(used, own, strict=True)
        for round_ in rounds
    ]
