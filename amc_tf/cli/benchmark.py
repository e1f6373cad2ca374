"""The verb benchmark: time a .tflite file on this machine, beside a reference if one is given."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from amc_tf.cli import console, options
from amc_tf.cli.text import latency as latency_text
from amc_tf.errors import MeasurementError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the files and how they are timed."""
    parser.set_defaults(needs_keras=False)
    parser.add_argument("tflite", metavar="FILE", help="a .tflite file")
    parser.add_argument("--reference", metavar="FILE", help="a .tflite file to compare with, timed in turns")
    options.add_threads(parser)
    parser.add_argument(
        "--runs", type=int, default=200, metavar="N", help="fewest timed runs (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Times the network and prints median and percentiles."""
    with console.stdout_for_results():
        from amc_tf.device.host_meter import HostMeter

        network = _read(args.tflite)
        reference = _read(args.reference) if args.reference else None
        meter = HostMeter(reference, num_threads=args.threads, num_runs=args.runs)
        latency = meter.measure(network)
    ratio = latency.ratio
    result: dict[str, Any] = {
        "file": args.tflite,
        "reference": args.reference,
        "meter": meter.name,
        "file_bytes": len(network),
        "num_runs": latency.num_runs,
        "latency_ms": {"median": latency.median_ms, "p5": latency.p5_ms, "p95": latency.p95_ms},
        "reference_median_ms": latency.reference_median_ms,
        "speed_up": 1 / ratio if ratio else None,
    }
    if args.json:
        console.print_json(result)
        return 0
    timing = latency_text(result["latency_ms"])
    print(f"{args.tflite}: {timing}, {latency.num_runs} runs on {meter.name}, {len(network) / 1000:.1f} kB")
    if ratio:
        print(f"{args.reference}: {latency.reference_median_ms:.3f} ms; {1 / ratio:.2f} × as fast")
    return 0


def _read(name: str) -> bytes:
    path = Path(name)
    if not path.is_file():
        raise MeasurementError(f"There is no file {path}: give a .tflite file.")
    return path.read_bytes()
