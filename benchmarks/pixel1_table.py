"""Makes models/tables/pixel1.json from the Pixel 1 logs that the authors of AMC published.

The logs are mobilenet_run1.txt, 0.75mobilenet_run1.txt and 0.5flops_run1.txt of
https://github.com/mit-han-lab/amc-models:

    python -m benchmarks.pixel1_table LOGS --out models/tables/pixel1.json

They hold neither widths nor image sizes of the layers; those of the published networks are below. The tool of
2018 prints no percentiles: its mean stands for the median, fastest and slowest run for p5 and p95.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from amc_tf.device.benchmark_output import parse_output
from amc_tf.device.benchmark_profile import parse_profile
from amc_tf.device.operators import Operator, assign_times
from amc_tf.device.table import LatencyTable
from amc_tf.device.table_samples import TableSample
from amc_tf.models.mobilenet import BLOCK_CHANNELS, BLOCK_STRIDES, STEM_CHANNELS

FULL = (STEM_CHANNELS, *BLOCK_CHANNELS)
AMC_HALF_FLOPS = (24, 48, 96, 80, 192, 200, 328, 352, 368, 360, 328, 400, 736, 752)
# Its log is not among those of the table; the README of the logs has 63.2 ms.
AMC_HALF_TIME = (16, 48, 88, 80, 192, 168, 336, 360, 360, 352, 352, 368, 768, 680)
AMC_HALF_TIME_MS = 63.2
NUM_CLASSES = 1001
NETWORKS = (
    ("MobileNet-V1 1.0", "mobilenet_run1.txt", FULL),
    ("MobileNet-V1 0.75", "0.75mobilenet_run1.txt", tuple(int(0.75 * width) for width in FULL)),
    ("AMC 50 % FLOPs", "0.5flops_run1.txt", AMC_HALF_FLOPS),
)
SOURCE = (
    "https://github.com/mit-han-lab/amc-models: logs of MobileNet-V1 at 224x224 pixels, Google Pixel 1, "
    "TensorFlow Lite of 2018, 1 thread, 200 timed runs after 100; operator times from the same runs. The "
    "mean stands for the median, the fastest and slowest run for p5 and p95."
)
MEASURED_WITH = {
    "kind": "phone",
    "phone": {"manufacturer": "Google", "model": "Pixel"},
    "runtime": "TensorFlow Lite benchmark_tflite_model, 2018",
    "settings": {"num_threads": 1, "delegate": "none", "fp16": False},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the table and prints how well networks are predicted that were not fitted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("logs", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    table = make_table(given.logs)
    table.save(given.out)
    for network in table.error.networks if table.error else ():
        print(
            f"{network.label}: measured {network.measured_ms:.1f} ms, predicted from the others "
            f"{network.predicted_ms:.1f} ms ({network.error:+.1%})"
        )
    uniform = dataclasses.replace(table, samples=table.samples[:2], error=None)
    tail = [operator.kind for operator in table.samples[0].operators[2 * len(FULL) + 1 :]]
    predicted = uniform.predict(mobilenet_operators(AMC_HALF_TIME, tail=tail))
    print(
        f"AMC 50 % time: published {AMC_HALF_TIME_MS} ms, predicted from 1.0 and 0.75 {predicted:.1f} ms "
        f"({predicted / AMC_HALF_TIME_MS - 1:+.1%})"
    )
    return 0


def make_table(logs: Path) -> LatencyTable:
    """Reads the logs in a folder into a table."""
    samples = tuple(read_sample(label, logs / name, widths) for label, name, widths in NETWORKS)
    return LatencyTable("Google Pixel 1:2018:1-thread", MEASURED_WITH, SOURCE, samples).with_error()


def read_sample(label: str, path: Path, widths: Sequence[int]) -> TableSample:
    """Reads one log."""
    text = path.read_text(encoding="utf-8", errors="replace")
    result, profile = parse_output(text), parse_profile(text)
    operators = mobilenet_operators(widths, tail=[row.kind for row in profile[2 * len(widths) + 1 :]])
    return TableSample(
        label=label,
        operators=operators,
        median_ms=round(result.mean_ms, 4),
        p5_ms=result.min_ms,
        p95_ms=result.max_ms,
        std_ms=result.std_ms,
        num_runs=result.num_runs,
        times_ms=assign_times(operators, [(row.kind, row.mean_ms) for row in profile]),
    )


def mobilenet_operators(widths: Sequence[int], *, tail: Sequence[str]) -> tuple[Operator, ...]:
    """Lists the operators of MobileNet-V1 at 224x224 pixels.

    Args:
        widths: channels of the stem and of each 1x1 convolution.
        tail: kinds of the operators on the 1001 scores.
    """
    size, channels = 112, widths[0]
    operators = [Operator("CONV_2D", (224, 224, 3), (size, size, channels), (3, 3), (2, 2))]
    for width, stride in zip(widths[1:], BLOCK_STRIDES, strict=True):
        source, size = (size, size, channels), size // stride
        output = (size, size, channels)
        operators.append(Operator("DEPTHWISE_CONV_2D", source, output, (3, 3), (stride, stride)))
        operators.append(Operator("CONV_2D", output, (size, size, width)))
        channels = width
    pooled = (1, 1, channels)
    operators.append(Operator("AVERAGE_POOL_2D", (size, size, channels), pooled, (size, size)))
    scores = (1, 1, NUM_CLASSES)
    operators.append(Operator("CONV_2D", pooled, scores))
    return (*operators, *(Operator(kind, scores, scores) for kind in tail))


if __name__ == "__main__":
    raise SystemExit(main())
