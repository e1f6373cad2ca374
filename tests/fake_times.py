"""A meter that looks at a network's operators instead of running it: exact, instant, with a profile."""

import json

from amc_tf.device.benchmark_profile import OperatorTime
from amc_tf.device.latency import Latency
from amc_tf.device.operators import read_operators
from amc_tf.errors import PhoneError


class FakePhone:
    """A device of steps; `warmth` slows everything down, as heat does."""

    runs_elsewhere = True

    def __init__(self, model="Pixel 8", *, reference=None, num_runs=50):
        self.name = f"{model}:cpu"
        self.warmth = 1.0
        self.measured = []
        self.fails_on = None
        self.profile_error = None
        self._model = model
        self._reference = reference
        self._num_runs = num_runs

    def fingerprint(self):
        settings = {"num_threads": 1, "num_runs": self._num_runs}
        reference = None if self._reference is None else len(self._reference)
        return json.dumps({"phone": {"model": self._model}, "settings": settings, "reference": reference})

    def with_reference(self, tflite):
        paired = FakePhone(self._model, reference=tflite)
        paired.warmth, paired.measured, paired.fails_on = self.warmth, self.measured, self.fails_on
        return paired

    def measure(self, tflite):
        if tflite == self.fails_on:
            raise PhoneError("The phone has gone.")
        self.measured.append(tflite)
        time = self.warmth * sum(self._times(tflite))
        reference = self._reference and self.warmth * sum(self._times(self._reference))
        return Latency.from_samples([time] * 3, reference_median_ms=reference)

    def profile(self, tflite):
        if self.profile_error:
            raise self.profile_error
        rows = zip(read_operators(tflite), self._times(tflite), strict=True)
        return tuple(OperatorTime(op.kind, "", 1.1 * time, None, 0.1, 0.0, 1) for op, time in rows)

    @staticmethod
    def _times(tflite):
        return [
            0.001 + 2e-7 * item.macs * (4 if item.kind.startswith("DEPTHWISE") else 1)
            for item in read_operators(tflite)
        ]
