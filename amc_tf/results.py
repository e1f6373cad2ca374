"""Measures finished networks for the summary: accuracy, cost, size, latency, agreement with Keras."""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any

from amc_tf.clone import in_float32
from amc_tf.cost import Cost
from amc_tf.data import ImageData, to_input_range
from amc_tf.device.convert import TFLiteRunner, verify
from amc_tf.device.latency import Latency, LatencyMeter
from amc_tf.device.operators import read_operators, structure
from amc_tf.errors import ConversionError, MeasurementError, PhoneError
from amc_tf.evaluate import Accuracy, accuracy, compiled

_NUM_VERIFICATION_IMAGES = 64
_NUM_TIMINGS = 3


@dataclasses.dataclass(frozen=True)
class NetworkResult:
    """What the summary tells of one network.

    Attributes:
        top1: accuracy on the validation images, in [0, 1].
        top5: likewise.
        cost: exact cost.
        tflite_bytes: size of its TFLite file.
        structure: digest that networks share which differ in the values of their weights only.
        latency: how long it takes, None without a meter or where it cannot be timed.
        refusal: why it cannot be timed, in the meter's words.
    """

    top1: float
    top5: float
    cost: Cost
    tflite_bytes: int
    structure: str
    latency: Latency | None = None
    refusal: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the entry of `summary.json`."""
        value = {
            "top1": self.top1,
            "top5": self.top5,
            "macs": self.cost.macs,
            "params": self.cost.params,
            "tflite_bytes": self.tflite_bytes,
            "structure": self.structure,
            "latency_ms": None if self.latency is None else _latency_to_json(self.latency),
        }
        return value if self.refusal is None else {**value, "not_timed": self.refusal}


class ResultMeasurer:
    """Measures networks alike, on the same images with the same meter.

    Args:
        data: the validation images.
        input_range: one of `amc_tf.data.INPUT_RANGES`.
        meter: times networks, None to leave latency out.
    """

    def __init__(self, data: ImageData, *, input_range: str, meter: LatencyMeter | None) -> None:
        self._data = data
        self._input_range = input_range
        self._meter = meter
        self._compiled = functools.cache(compiled)

    def measure_model(self, model: Any, tflite: bytes, *, cost: Cost, reference: bytes) -> NetworkResult:
        """Measures a Keras model, and what it was converted to.

        Args:
            model: the network; its accuracy counts.
            tflite: the same network, converted; its size and its time count.
            cost: its exact cost.
            reference: the network beside which it is timed.
        """
        found = accuracy(self._compiled(model), self._data, input_range=self._input_range)
        return _result(found, cost, tflite, latency=self._time(tflite, reference))

    def measure_tflite(self, tflite: bytes, *, cost: Cost, reference: bytes) -> NetworkResult:
        """Measures a converted network by running it; for what quantization does to the accuracy.

        A delegate or a table may know nothing of its precision: that is told in the summary, not raised.

        Raises:
            PhoneError: if the phone is gone.
        """
        runner = TFLiteRunner(tflite, num_threads=os.cpu_count() or 1)
        found = accuracy(runner.predict, self._data, input_range=self._input_range)
        try:
            return _result(found, cost, tflite, latency=self._time(tflite, reference))
        except PhoneError:
            raise
        except MeasurementError as error:
            return _result(found, cost, tflite, refusal=str(error))

    def verify(self, model: Any, tflite: bytes, *, precision: str) -> dict[str, Any]:
        """Compares a converted network with Keras; int8 that strays is told in the summary, not raised.

        Raises:
            ConversionError: if a float32 network disagrees.
        """
        images = to_input_range(self._data.images[:_NUM_VERIFICATION_IMAGES], self._input_range)
        try:
            return verify(tflite, self._compiled(in_float32(model)), images, precision=precision).to_json()
        except ConversionError as error:
            if precision == "float32":
                raise
            return {"error": str(error)}

    def _time(self, tflite: bytes, reference: bytes) -> Latency | None:
        """Times a network beside its reference, here several times, and returns the middle timing.

        A phone loads the network anew for every round of one measurement, this machine for every measurement.
        """
        if self._meter is None:
            return None
        meter = self._meter.with_reference(reference)
        timings = [meter.measure(tflite) for _ in range(1 if meter.runs_elsewhere else _NUM_TIMINGS)]
        return sorted(timings, key=lambda latency: latency.ratio or latency.median_ms)[len(timings) // 2]


def _result(
    found: Accuracy, cost: Cost, tflite: bytes, *, latency: Latency | None = None, refusal: str | None = None
) -> NetworkResult:
    kind = structure(read_operators(tflite))
    return NetworkResult(found.top1, found.top5, cost, len(tflite), kind, latency, refusal)


def _latency_to_json(latency: Latency) -> dict[str, Any]:
    return {
        "median": latency.median_ms,
        "p5": latency.p5_ms,
        "p95": latency.p95_ms,
        "ratio": latency.ratio,
        "noise": latency.noise,
        "predicted": latency.predicted,
        "num_runs": latency.num_runs,
        "conditions": dict(latency.conditions),
    }
