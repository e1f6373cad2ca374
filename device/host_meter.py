"""Times TFLite networks on this machine, interleaved with a reference network."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any

from amc_tf.device.interleaved import InterleavedTimer, Invoke, Timing
from amc_tf.device.latency import Latency
from amc_tf.device.litert import check_num_threads, load_interpreter

__all__ = ["HostMeter", "Timing", "load_invoke", "machine_facts"]


class HostMeter:
    """A `LatencyMeter` over LiteRT with XNNPACK on the CPU of this machine.

    Only the inference is timed (`time.perf_counter_ns` around it), with random input set once. Candidate and
    reference take turns in short blocks, the first turn changing sides each round (C R, R C, C R, ...): a
    slow drift of the machine falls on both alike and cancels in `Latency.paired_ratio`. Blocks, and not one
    run each, because a phone runs one network over and over with its weights in cache: right after the other
    network's turn MobileNet 0.5 at 96 pixels takes 40 % longer than alone, after two runs about 10 %, after
    four under 5 %. The first `Timing.settle_runs` of a turn are therefore not timed.

    Rounds go on until `num_runs` runs and `Timing.min_seconds` are reached and the spread is small enough, or
    `Timing.max_seconds` have passed; two rounds are always made. A network of 2 ms costs about 0.4 s.

    Attributes:
        name: "host:1-thread" and the like.
        runs_elsewhere: False: other work on this machine would be in the numbers.
    """

    runs_elsewhere = False

    def __init__(
        self,
        reference: bytes | None = None,
        *,
        num_threads: int = 1,
        num_runs: int = 50,
        timing: Timing | None = None,
        load: Callable[[bytes, int], Invoke] | None = None,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        """Loads and warms the reference; it stays loaded for all candidates.

        Args:
            reference: The network that every candidate is compared with (the unpruned one), as TFLite bytes.
            num_threads: Threads of one inference; 1 or more.
            num_runs: Fewest timed runs per candidate, unless `timing.max_seconds` pass first; 1 or more.
            timing: Warm-up, block and time limits.
            load: Turns TFLite bytes and a thread count into a function that runs one inference; tests and
                other runtimes pass their own.
            clock_ns: Monotonic clock in nanoseconds.

        Raises:
            MeasurementError: The reference does not load or run.
            SettingsError: A setting is outside its range.
        """
        check_num_threads(num_threads)
        self.name = f"host:{num_threads}-thread"
        self._num_threads = num_threads
        self._num_runs = num_runs
        self._timing = timing or Timing()
        self._load = load or load_invoke
        self._clock_ns = clock_ns
        self._reference_sha256 = hashlib.sha256(reference).hexdigest() if reference else None
        self._timer = InterleavedTimer(
            self.name,
            lambda tflite: self._load(tflite, self._num_threads),
            reference=reference,
            num_runs=num_runs,
            timing=self._timing,
            clock_ns=clock_ns,
        )

    def fingerprint(self) -> str:
        """Returns machine, runtime, settings and reference as one line of JSON (see `LatencyMeter`)."""
        return json.dumps(
            {
                "kind": "host",
                **machine_facts(),
                "runtime": f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')} xnnpack",
                "num_threads": self._num_threads,
                "num_runs": self._num_runs,
                "timing": dataclasses.asdict(self._timing),
                "reference": self._reference_sha256,
            },
            sort_keys=True,
        )

    def with_reference(self, tflite: bytes) -> HostMeter:
        """Returns a meter with the same settings that times every candidate beside this network."""
        return HostMeter(
            tflite,
            num_threads=self._num_threads,
            num_runs=self._num_runs,
            timing=self._timing,
            load=self._load,
            clock_ns=self._clock_ns,
        )

    def measure(self, tflite: bytes) -> Latency:
        """Times one network against the reference.

        Args:
            tflite: The contents of a `.tflite` file; inputs of unknown size run at size 1.

        Returns:
            The latency; `reference_median_ms` and `paired_ratio` are None for a meter without a reference.

        Raises:
            MeasurementError: The bytes are empty, damaged, or the network does not run.
        """
        return self._timer.measure(tflite)


def load_invoke(tflite: bytes, num_threads: int) -> Invoke:
    """Loads a network into LiteRT with random input and returns the function that runs it once.

    Raises:
        ModelError: The network does not load.
    """
    import numpy as np

    interpreter = load_interpreter(tflite, num_threads=num_threads)
    rng = np.random.default_rng(0)
    for details in interpreter.get_input_details():
        dtype = np.dtype(details["dtype"])
        if np.issubdtype(dtype, np.integer):
            limits = np.iinfo(dtype)
            values: Any = rng.integers(limits.min, limits.max, size=details["shape"], endpoint=True)
        else:
            values = rng.uniform(-1, 1, size=details["shape"])
        interpreter.set_tensor(details["index"], values.astype(dtype))
    return interpreter.invoke


def machine_facts() -> dict[str, object]:
    """Returns what this machine is, as far as it decides how fast it is."""
    model = platform.processor() or platform.machine()
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    facts: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    details = [facts[key] for key in ("model name", "cpu family", "model", "CPU part") if key in facts]
    return {
        "cpu": " / ".join(details) or model,
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.system(),
    }
