"""Measures finished networks for the summary: accuracy, cost, size, latency, agreement with Keras."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from amc_tf.cost import Cost
from amc_tf.data import ImageData, to_input_range
from amc_tf.device.convert import TFLiteRunner, verify
from amc_tf.device.latency import Latency, LatencyMeter
from amc_tf.errors import ConversionError
from amc_tf.evaluate import accuracy

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
        latency: how long it takes, None without a meter.
    """

    top1: float
    top5: float
    cost: Cost
    tflite_bytes: int
    latency: Latency | None

    def to_json(self) -> dict[str, Any]:
        """Returns the entry of `summary.json`."""
        latency = None
        if self.latency is not None:
            latency = {
                "median": self.latency.median_ms,
                "p5": self.latency.p5_ms,
                "p95": self.latency.p95_ms,
                "ratio": self.latency.ratio,
            }
        return {
            "top1": self.top1,
            "top5": self.top5,
            "macs": self.cost.macs,
            "params": self.cost.params,
            "tflite_bytes": self.tflite_bytes,
            "latency_ms": latency,
        }


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

    def measure_model(self, model: Any, tflite: bytes, *, cost: Cost, reference: bytes) -> NetworkResult:
        """Measures a Keras model, and what it was converted to.

        Args:
            model: the network; its accuracy counts.
            tflite: the same network, converted; its size and its time count.
            cost: its exact cost.
            reference: the network beside which it is timed.
        """
        found = accuracy(_predictor(model), self._data, input_range=self._input_range)
        return NetworkResult(found.top1, found.top5, cost, len(tflite), self._time(tflite, reference))

    def measure_tflite(self, tflite: bytes, *, cost: Cost, reference: bytes) -> NetworkResult:
        """Measures a converted network by running it; for what quantization does to the accuracy."""
        runner = TFLiteRunner(tflite, num_threads=os.cpu_count() or 1)
        found = accuracy(runner.predict, self._data, input_range=self._input_range)
        return NetworkResult(found.top1, found.top5, cost, len(tflite), self._time(tflite, reference))

    def verify(self, model: Any, tflite: bytes, *, precision: str) -> dict[str, Any]:
        """Compares a converted network with Keras; int8 that strays is told in the summary, not raised.

        Raises:
            ConversionError: if a float32 network disagrees.
        """
        images = to_input_range(self._data.images[:_NUM_VERIFICATION_IMAGES], self._input_range)
        try:
            return verify(tflite, _predictor(model), images, precision=precision).to_json()
        except ConversionError as error:
            if precision == "float32":
                raise
            return {"error": str(error)}

    def _time(self, tflite: bytes, reference: bytes) -> Latency | None:
        """Times a network beside its reference several times and returns the middle timing."""
        if self._meter is None:
            return None
        meter = self._meter.with_reference(reference)
        timings = [meter.measure(tflite) for _ in range(_NUM_TIMINGS)]
        return sorted(timings, key=lambda latency: latency.ratio or latency.median_ms)[len(timings) // 2]


def _predictor(model: Any) -> Any:
    return lambda images: np.asarray(model(images, training=False))
