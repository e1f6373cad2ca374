"""TFLiteRunner: float32 in and out for every precision, and damage named."""

import logging
import os
from typing import Any

import keras
import numpy as np
import pytest

from amc_tf.device.convert import to_tflite
from amc_tf.device.host_meter import HostMeter, Timing
from amc_tf.device.litert import TFLiteRunner, capture_stderr, last_words
from amc_tf.errors import DataError, MeasurementError, ModelError, SettingsError

QUICK = Timing(
    warmup_runs=1, warmup_seconds=0.0, block_runs=2, settle_runs=1, min_seconds=0.0, max_seconds=0.01
)


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_threads_change_nothing_but_the_time(classifier: Any, images: np.ndarray, num_threads: int) -> None:
    tflite = to_tflite(classifier)
    expected = np.asarray(classifier(images[:7], training=False))
    outputs = TFLiteRunner(tflite, num_threads=num_threads).predict(images[:7])
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_no_images_give_no_rows(classifier: Any, images: np.ndarray) -> None:
    assert TFLiteRunner(to_tflite(classifier)).predict(images[:0]).shape == (0, 5)


def test_int8_inputs_are_rounded_and_clipped_and_outputs_scaled_back(images: np.ndarray) -> None:
    identity = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten()])
    runner = TFLiteRunner(to_tflite(identity, precision="int8", calibration_images=images))
    step = runner.output_step
    assert step == pytest.approx(2 / 255, rel=0.02)
    outputs = runner.predict(images)
    assert np.abs(outputs - images.reshape(64, -1)).max() <= 0.51 * step
    outside = runner.predict(np.full((1, 16, 16, 3), 7.0, np.float32))
    np.testing.assert_allclose(outside, images.max(), atol=2 * step)


def test_images_of_another_size_are_refused(classifier: Any) -> None:
    runner = TFLiteRunner(to_tflite(classifier))
    assert runner.input_shape == (16, 16, 3)
    with pytest.raises(DataError, match=r"images \[B, 16, 16, 3\], but got \[2, 8, 8, 3\]"):
        runner.predict(np.zeros((2, 8, 8, 3), np.float32))


def test_damage_is_a_model_error(classifier: Any) -> None:
    tflite = to_tflite(classifier)
    with pytest.raises(ModelError, match="does not load: The model is not a valid Flatbuffer buffer"):
        TFLiteRunner(tflite[:-1000])
    with pytest.raises(ModelError, match="is empty"):
        TFLiteRunner(b"")
    with pytest.raises(SettingsError, match="num_threads"):
        TFLiteRunner(tflite, num_threads=0)


def test_meter_times_real_networks_of_both_kinds_and_refuses_a_truncated_one(
    classifier: Any, images: np.ndarray
) -> None:
    float32, int8 = (
        to_tflite(classifier, precision=precision, calibration_images=images)
        for precision in ("float32", "int8")
    )
    meter = HostMeter(float32, num_runs=4, timing=QUICK)
    for tflite in (float32, int8):
        latency = meter.measure(tflite)
        assert latency.num_runs >= 4
        assert 0 < latency.p5_ms <= latency.median_ms <= latency.p95_ms
        assert latency.ratio is not None
        assert latency.ratio > 0
    with pytest.raises(MeasurementError, match=r"candidate network cannot be timed .*does not load"):
        meter.measure(float32[: len(float32) // 2])


def write_and_fail(captured: list[list[str]]) -> None:
    with capture_stderr() as lines:
        captured.append(lines)
        os.write(2, b"from native code\n")
        raise KeyError("mine")


def test_native_output_is_logged_and_errors_pass(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="amc_tf.device.litert")
    captured: list[list[str]] = []
    with pytest.raises(KeyError, match="mine"):
        write_and_fail(captured)
    assert captured == [["from native code"]]
    assert caplog.messages == ["from native code"]
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_last_words_are_the_errors_own_else_the_native_ones() -> None:
    page = "Failed.\na.py:1: error: no such op\n^\nb.py:2: note\na.py:9: error: no such op\nx: error: end:"
    assert last_words(ValueError(page), []) == "no such op; end"
    assert last_words(ValueError("a\nb\n\nc\nd."), ["x"]) == "b c d"
    assert last_words(ValueError(), ["x", "y"]) == "x y"
    assert last_words(ValueError(), []) == "ValueError"
