"""Latency: the summary of timed runs and its JSON form."""

import dataclasses
import json

import numpy as np
import pytest

from amc_tf.device.latency import Latency, LatencyMeter, percentile, relative_spread
from amc_tf.errors import MeasurementError


def test_summary_equals_numpy_percentiles() -> None:
    samples = np.random.default_rng(0).exponential(2.0, size=37)
    latency = Latency.from_samples(samples.tolist())
    assert latency.median_ms == pytest.approx(np.median(samples))
    assert latency.p5_ms == pytest.approx(np.percentile(samples, 5))
    assert latency.p95_ms == pytest.approx(np.percentile(samples, 95))
    assert latency.std_ms == pytest.approx(samples.std())
    assert latency.num_runs == 37
    assert latency.raw_ms == tuple(samples)


def test_one_sample_is_its_own_median_and_percentiles() -> None:
    latency = Latency.from_samples([3.0])
    assert (latency.median_ms, latency.p5_ms, latency.p95_ms, latency.std_ms) == (3.0, 3.0, 3.0, 0.0)
    assert latency.spread == 0.0


def test_spread_is_the_interquartile_range_over_the_median_and_ignores_one_outlier() -> None:
    assert relative_spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2.0 / 3.0)
    assert relative_spread([2.0] * 9 + [500.0]) == 0.0
    assert percentile([1.0, 2.0, 3.0, 4.0, 5.0], 75) == 4.0


def test_ratio_prefers_the_pairs_over_the_medians() -> None:
    assert Latency.from_samples([2.0], reference_median_ms=4.0).ratio == 0.5
    assert Latency.from_samples([2.0], reference_median_ms=4.0, paired_ratio=0.45).ratio == 0.45
    assert Latency.from_samples([2.0]).ratio is None


def test_the_median_of_the_reference_comes_from_its_runs_unless_given() -> None:
    latency = Latency.from_samples([2.0], reference_raw_ms=[3.0, 4.0, 9.0])
    assert (latency.reference_median_ms, latency.reference_raw_ms) == (4.0, (3.0, 4.0, 9.0))
    assert Latency.from_samples([2.0], reference_raw_ms=[3.0], reference_median_ms=5.0).ratio == 0.4
    with pytest.raises(MeasurementError, match="timed run is"):
        Latency.from_samples([2.0], reference_raw_ms=[-3.0])


def test_json_written_before_noise_was_known_is_read() -> None:
    record = Latency.from_samples([2.0]).to_json()
    del record["noise"], record["conditions"]
    assert Latency.from_json(record) == Latency.from_samples([2.0])


def test_json_round_trip_keeps_every_field() -> None:
    latency = dataclasses.replace(
        Latency.from_samples([1.5, 2.25, 1.75], reference_raw_ms=[3.5, 3.25], paired_ratio=0.51, noise=0.02),
        conditions={"device": {"serial": "A"}, "mask": "f0"},
    )
    assert Latency.from_json(json.loads(json.dumps(latency.to_json()))) == latency


@pytest.mark.parametrize(
    "record", [{}, {"raw_ms": [1.0]}, {**Latency.from_samples([1.0]).to_json(), "colour": 1}]
)
def test_a_malformed_record_names_the_fields_it_needs(record: dict) -> None:
    with pytest.raises(MeasurementError, match="needs the fields median_ms"):
        Latency.from_json(record)


@pytest.mark.parametrize("samples", [[], [float("nan")], [-1.0], [float("inf")]])
def test_samples_that_are_no_times_are_refused(samples: list[float]) -> None:
    with pytest.raises(MeasurementError, match=r"run was timed|timed run is"):
        Latency.from_samples(samples)


@pytest.mark.parametrize("field", ["reference_median_ms", "paired_ratio", "noise"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0])
def test_a_comparison_that_is_no_number_is_refused(field: str, number: float) -> None:
    with pytest.raises(MeasurementError, match="needs finite numbers of 0 or more"):
        Latency.from_samples([1.0], **{field: number})


def test_meter_protocol_is_checked_by_shape() -> None:
    class Constant:
        name = "constant"
        runs_elsewhere = False

        def fingerprint(self) -> str:
            return "constant"

        def with_reference(self, tflite: bytes) -> LatencyMeter:
            return self

        def measure(self, tflite: bytes) -> Latency:
            return Latency.from_samples([1.0])

    assert isinstance(Constant(), LatencyMeter)
    assert not isinstance(object(), LatencyMeter)
