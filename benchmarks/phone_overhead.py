"""What timing a candidate on a phone costs beside the tool's own running time, step by step.

    python -m benchmarks.phone_overhead HOST:PORT --out runs/phone_overhead.json

MobileNet-V1 1.0 at 224x224 is slimmed to random widths, converted and timed beside the original, as in a
search. In place of the benchmark tool the phone runs a script that prints a result at once, so that all the
time there is counts. Weights are random: neither conversion nor transfer depends on them.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import keras
import numpy as np

from amc_tf.device.adb_direct import AdbTcp
from amc_tf.device.benchmark_run import RunSettings
from amc_tf.device.benchmark_tool import BenchmarkTool
from amc_tf.device.phone import Phone
from amc_tf.device.phone_meter import PhoneMeter
from amc_tf.device.transport import ShellResult
from amc_tf.device.workbench import Workbench
from amc_tf.executor import Executor
from amc_tf.graph import ChannelGraph
from amc_tf.network import NetworkFunction
from amc_tf.plan import allowed_widths, widths_to_plan

_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")
# The names of the flags tell the toolkit what the tool can do.
_LINES = (
    "INFO: Running benchmark for at least 50 iterations and at least 1 seconds.",
    "INFO: count=50 first=20000 curr=20000 min=19000 max=21000 avg=20000 std=500 "
    "p5=19000 median=20000 p95=21000",
)
# The comment tells the toolkit which flags the tool knows.
INSTANT_TOOL = "\n".join(
    [
        "#!/system/bin/sh",
        "# graph num_threads num_runs min_secs max_secs warmup_runs warmup_min_secs use_xnnpack",
        *(f"echo '{line}'" for line in 2 * _LINES),
    ]
).encode()


class TimedTransport(AdbTcp):
    """A transport that adds up how long its calls take.

    Attributes:
        seconds: By "push", "run" (commands that run the tool) and "other commands".
    """

    def __init__(self, serial: str) -> None:
        super().__init__(serial)
        self.seconds: dict[str, float] = defaultdict(float)

    def shell(self, command: str, *, timeout_s: float) -> ShellResult:
        kind = "run" if "--graph=" in command else "other commands"
        return self._timed(kind, lambda: super(TimedTransport, self).shell(command, timeout_s=timeout_s))

    def push(self, content: bytes, path: str, *, timeout_s: float) -> None:
        self._timed("push", lambda: super(TimedTransport, self).push(content, path, timeout_s=timeout_s))

    def _timed(self, kind: str, call: Callable[[], _T]) -> _T:
        started = time.perf_counter()
        try:
            return call()
        finally:
            self.seconds[kind] += time.perf_counter() - started


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and writes one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("serial", metavar="HOST:PORT")
    parser.add_argument("--candidates", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    rows = measure(given.serial, given.candidates, given.seed)
    steps = {name: [row[name] for row in rows] for name in rows[0]}
    report = {
        "command": sys.argv,
        "machine": platform.platform(),
        "median_s": {name: round(statistics.median(values), 4) for name, values in steps.items()},
        "range_s": {name: [round(min(values), 4), round(max(values), 4)] for name, values in steps.items()},
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=1) + "\n")
    _LOGGER.info("%s", json.dumps(report["median_s"]))
    return 0


def measure(serial: str, num_candidates: int, seed: int) -> list[dict[str, float]]:
    """Times candidates; the first one, which loads and warms everything up, is left out.

    Returns:
        Seconds by step, and "total", for each candidate.
    """
    model = keras.applications.MobileNet(weights=None)
    graph = ChannelGraph.from_model(model)
    network = NetworkFunction(model, graph)
    executor = Executor(network)
    original = executor.to_tflite(network.weights)
    generator = np.random.default_rng(seed)
    transport = TimedTransport(serial)
    tool = BenchmarkTool.from_content(INSTANT_TOOL, "instant")
    rows = []
    with Phone(transport) as phone, Workbench(phone, tool) as bench:
        meter = PhoneMeter(bench, RunSettings(), reference=original)
        for _ in range(num_candidates + 1):
            widths = [
                int(generator.choice(allowed_widths(group.num_channels, round_to=8, min_keep_ratio=0.2)))
                for group in graph.groups
            ]
            transport.seconds.clear()
            started = time.perf_counter()
            weights = network.slice(widths_to_plan(graph, widths))
            sliced = time.perf_counter()
            tflite = executor.to_tflite(weights)
            converted = time.perf_counter()
            meter.measure(tflite)
            ended = time.perf_counter()
            on_phone = dict(transport.seconds)
            rows.append(
                {
                    "slice": sliced - started,
                    "convert": converted - sliced,
                    **on_phone,
                    "rest": ended - converted - sum(on_phone.values()),
                    "total": ended - started,
                }
            )
        meter.close()
    return rows[1:]


if __name__ == "__main__":
    sys.exit(main())
