"""Facts about amc_tf/device/gpu_meter.py, measured on the CPU, which TensorFlow runs alike."""

import itertools
import json

import keras
import numpy as np
import pytest

from amc_tf.device import gpu_meter
from amc_tf.device.convert import to_tflite
from amc_tf.device.gpu_meter import GpuMeter
from amc_tf.device.interleaved import Timing
from amc_tf.device.latency import LatencyMeter
from amc_tf.errors import MeasurementError, SettingsError
from amc_tf.latency_facts import unit_of

FAST = Timing(
    warmup_runs=1, warmup_seconds=0.0, block_runs=2, settle_runs=0, min_seconds=0.0, max_seconds=0.5
)


def dense(width):
    images = keras.Input((8, 8, 3))
    hidden = keras.layers.Conv2D(width, 3)(images)
    return to_tflite(keras.Model(images, keras.layers.GlobalAveragePooling2D()(hidden)))


@pytest.fixture(scope="module")
def networks():
    return dense(4), dense(8)


def meter(reference=None, **options):
    return GpuMeter(reference, **{"device": "/CPU:0", "xla": False, "num_runs": 4, "timing": FAST, **options})


def test_it_is_a_latency_meter_that_shares_this_machine():
    made = meter()
    assert isinstance(made, LatencyMeter)
    assert not made.runs_elsewhere


def test_a_candidate_is_timed_in_turn_with_the_reference(networks):
    latency = meter(networks[1], batch_size=2).measure(networks[0])
    assert latency.num_runs >= 4
    assert latency.median_ms > 0
    assert latency.paired_ratio is not None
    assert len(latency.reference_raw_ms) == latency.num_runs
    assert latency.conditions == {"batch_size": 2}


def test_times_are_those_of_the_clock_around_a_whole_batch(networks, monkeypatch):
    batches = []

    def load_network(tflite, *, device, batch_size, xla):
        return lambda: batches.append((device, batch_size, xla))

    monkeypatch.setattr(gpu_meter, "load_network", load_network)
    ticks = itertools.count(step=3_000_000)
    latency = meter(batch_size=32, clock_ns=lambda: next(ticks)).measure(networks[0])
    assert (latency.median_ms, latency.std_ms) == (3.0, 0.0)
    assert set(batches) == {("/CPU:0", 32, False)}


def test_name_and_fingerprint_tell_the_batch_and_the_reference(networks):
    plain, other = meter(batch_size=8), meter(batch_size=8).with_reference(networks[0])
    assert plain.name == other.name == "gpu:batch-8"
    facts = json.loads(plain.fingerprint())
    assert (facts["kind"], facts["batch_size"], facts["reference"]) == ("gpu", 8, None)
    assert len({plain.fingerprint(), other.fingerprint(), meter().fingerprint()}) == 3
    assert other.fingerprint() == meter(networks[0], batch_size=8).fingerprint()
    assert unit_of({"fingerprint": plain.fingerprint()}) == "ms per batch of 8"
    assert unit_of({"fingerprint": meter().fingerprint()}) == "ms per image"


def test_what_cannot_be_timed_becomes_a_sentence():
    int8 = to_tflite(
        keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 1), keras.layers.Flatten()]),
        precision="int8",
        calibration_images=np.zeros((2, 8, 8, 3), np.float32),
    )
    with pytest.raises(MeasurementError, match=r"candidate .* gpu:batch-1: The network takes int8 images"):
        meter().measure(int8)


def test_without_a_gpu_a_sentence_says_so(monkeypatch):
    monkeypatch.setattr(gpu_meter, "list_gpus", list)
    with pytest.raises(MeasurementError, match=r"TensorFlow sees no GPU on this machine: .*--meter host"):
        GpuMeter()


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 1.5}, {"num_runs": 0}])
def test_settings_outside_their_range_are_refused(options):
    with pytest.raises(SettingsError, match="must be an integer of 1 or more"):
        meter(**options)
