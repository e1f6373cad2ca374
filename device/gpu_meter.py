"""Times networks on this machine's GPU, interleaved with a reference network."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable

from amc_tf.device.interleaved import InterleavedTimer, Timing
from amc_tf.device.latency import Latency
from amc_tf.device.tensorflow_network import (
    check_device,
    compiles_with_xla,
    describe_device,
    list_gpus,
    load_network,
    tensorflow_version,
)
from amc_tf.errors import MeasurementError, SettingsError

# A GPU is fast and its clock rises under load: more runs in a row than on a CPU, and a longer warm-up.
GPU_TIMING = Timing(warmup_runs=20, warmup_seconds=0.3, block_runs=20, settle_runs=5)


class GpuMeter:
    """A `LatencyMeter` over TensorFlow on a GPU, batches of any size.

    The operators of a float32 TFLite network are run by a TensorFlow function that XLA compiles where it can.
    Images and weights lie on the device before the clock starts; it stops when the outputs, a few numbers for
    each image, have been read back. Times are those of a whole batch. Candidate and reference take turns, as
    `InterleavedTimer` describes.

    Attributes:
        name: "gpu:batch-1" and the like.
        runs_elsewhere: False: this machine's other work uses the same GPU.
    """

    runs_elsewhere = False

    def __init__(
        self,
        reference: bytes | None = None,
        *,
        batch_size: int = 1,
        num_runs: int = 50,
        device: str | None = None,
        xla: bool | None = None,
        timing: Timing = GPU_TIMING,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        """Finds the GPU, and loads and warms the reference; it stays loaded for all candidates.

        Args:
            reference: The network that every candidate is compared with (the unpruned one), as TFLite bytes.
            batch_size: Images of one run; 1 or more.
            num_runs: Fewest timed runs per candidate, unless `timing.max_seconds` pass first; 1 or more.
            device: TensorFlow's name of what to run on, such as "/GPU:1" or "/CPU:0"; by default the first
                GPU.
            xla: Whether XLA compiles each network, which takes seconds; by default where it can.
            timing: Warm-up, block and time limits.
            clock_ns: Monotonic clock in nanoseconds.

        Raises:
            MeasurementError: There is no GPU or no such device, or the reference does not run on it.
            SettingsError: A setting is outside its range.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise SettingsError(f"batch_size must be an integer of 1 or more, but is {batch_size!r}.")
        self.name = f"gpu:batch-{batch_size}"
        self._device = device or _first_gpu()
        check_device(self._device)
        self._batch_size = batch_size
        self._num_runs = num_runs
        self._timing = timing
        self._clock_ns = clock_ns
        self._xla = compiles_with_xla(self._device) if xla is None else xla
        self._reference_sha256 = hashlib.sha256(reference).hexdigest() if reference else None
        self._timer = InterleavedTimer(
            self.name,
            lambda tflite: load_network(
                tflite, device=self._device, batch_size=self._batch_size, xla=self._xla
            ),
            reference=reference,
            num_runs=num_runs,
            timing=timing,
            clock_ns=clock_ns,
        )

    def fingerprint(self) -> str:
        """Returns device, runtime, settings and reference as one line of JSON (see `LatencyMeter`)."""
        return json.dumps(
            {
                "kind": "gpu",
                "device": describe_device(self._device),
                "runtime": f"tensorflow {tensorflow_version()}{' xla' if self._xla else ''}",
                "batch_size": self._batch_size,
                "num_runs": self._num_runs,
                "timing": dataclasses.asdict(self._timing),
                "reference": self._reference_sha256,
            },
            sort_keys=True,
        )

    def with_reference(self, tflite: bytes) -> GpuMeter:
        """Returns a meter with the same settings that times every candidate beside this network."""
        return GpuMeter(
            tflite,
            batch_size=self._batch_size,
            num_runs=self._num_runs,
            device=self._device,
            xla=self._xla,
            timing=self._timing,
            clock_ns=self._clock_ns,
        )

    def measure(self, tflite: bytes) -> Latency:
        """Times one network against the reference.

        Args:
            tflite: The contents of a float32 `.tflite` file.

        Returns:
            The latency of a batch; `reference_median_ms` and `paired_ratio` are None for a meter without a
            reference.

        Raises:
            MeasurementError: The network cannot be read, is no float32 network, has an operator that is not
                known to this meter, or does not run.
        """
        latency = self._timer.measure(tflite)
        return dataclasses.replace(latency, conditions={"batch_size": self._batch_size})


def _first_gpu() -> str:
    gpus = list_gpus()
    if not gpus:
        raise MeasurementError(
            "TensorFlow sees no GPU on this machine: install its CUDA libraries (pip install "
            "'tensorflow[and-cuda]') and the NVIDIA driver where there is one, or time networks with --meter "
            "host or phone."
        )
    return gpus[0]
