"""Meters over a measurement store: each answer is kept, and a known network is not measured again."""

import pathlib

import pytest

from amc_tf.device.latency import Latency, LatencyMeter
from amc_tf.device.store import MeasurementStore
from amc_tf.device.stored_meters import CachedMeter, RecordingMeter
from amc_tf.errors import MeasurementError


class CountingMeter:
    """Answers 1 ms, 2 ms, ... and counts its calls; b"bad" cannot be measured."""

    name = "counting"
    runs_elsewhere = False

    def __init__(self, fingerprint: str = "device A") -> None:
        self.calls: list[bytes] = []
        self._fingerprint = fingerprint

    def fingerprint(self) -> str:
        return self._fingerprint

    def measure(self, tflite: bytes) -> Latency:
        self.calls.append(tflite)
        if tflite == b"bad":
            raise MeasurementError("cannot be measured")
        return Latency.from_samples([float(len(self.calls))])


def test_a_recording_meter_measures_anew_and_keeps_every_answer() -> None:
    with MeasurementStore() as store:
        meter = CountingMeter()
        recording = RecordingMeter(meter, store)
        assert [recording.measure(b"net").median_ms for _ in range(3)] == [1.0, 2.0, 3.0]
        assert [row.latency.median_ms for row in store.list()] == [1.0, 2.0, 3.0]
        assert CachedMeter(meter, store).measure(b"net").median_ms == 1.0
        assert isinstance(recording, LatencyMeter)


def test_a_network_is_measured_once_even_across_runs(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "measurements.sqlite"
    meter = CountingMeter()
    with MeasurementStore(path) as store:
        cached = CachedMeter(meter, store)
        first = cached.measure(b"one")
        assert cached.measure(b"one") == first
        assert cached.measure(b"two") != first
        assert (cached.num_measured, cached.num_cached) == (2, 1)
    with MeasurementStore(path) as store:
        assert CachedMeter(meter, store).measure(b"one") == first
    assert meter.calls == [b"one", b"two"]


def test_another_fingerprint_is_measured_again() -> None:
    first, second = CountingMeter("device A"), CountingMeter("device B")
    with MeasurementStore() as store:
        CachedMeter(first, store).measure(b"one")
        CachedMeter(second, store).measure(b"one")
    assert (len(first.calls), len(second.calls)) == (1, 1)


def test_a_failed_measurement_is_not_stored() -> None:
    meter = CountingMeter()
    with MeasurementStore() as store:
        cached = CachedMeter(meter, store)
        for _ in range(2):
            with pytest.raises(MeasurementError):
                cached.measure(b"bad")
        assert len(store) == 0
    assert len(meter.calls) == 2


def test_cached_meter_is_a_meter_with_the_name_of_the_one_behind() -> None:
    cached = CachedMeter(CountingMeter(), MeasurementStore())
    assert isinstance(cached, LatencyMeter)
    assert (cached.name, cached.fingerprint()) == ("counting", "device A")
