"""The verb sparsify: set single weights to zero within a budget, train the others, convert and time."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amc_tf.cli import console, meters, options
from amc_tf.cli.text import align, latency, percent, quantity
from amc_tf.errors import SettingsError
from amc_tf.run_record import networks_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds model, data, budget and all settings."""
    options.add_model(parser)
    options.add_data(parser)
    options.add_budget(parser)
    options.add_sparse_search(parser)
    meters.add_meter(parser)
    options.add_finetune(parser)
    parser.add_argument(
        "--finetune-uniform", action="store_true", help="fine-tune the uniform control too, to compare with"
    )
    options.add_stages(parser)
    options.add_run_folder(parser)


def run(args: argparse.Namespace) -> int:
    """Sparsifies and prints the table of results, or with --json the summary."""
    with console.stdout_for_results():
        settings = options.search_settings(args)
        finetuning = options.finetune_settings(args)
        _check_meter(args)
        has_meter = meters.meter_kind(args) != "none"
        budget = options.search_budget(args, settings, has_meter=has_meter)
        from amc_tf.model_file import load_model
        from amc_tf.sparsify import sparsify

        with meters.open_meter(args) as (meter, _):
            model = load_model(args.model)
            train, validation = options.load_images(model, args)
            unlabelled = options.load_unlabelled(model, args)
            result = sparsify(
                model,
                train,
                validation,
                budget=budget,
                meter=meter,
                settings=settings,
                finetuning=finetuning,
                unlabelled=unlabelled,
                finetune_uniform=args.finetune_uniform,
                stages=args.stages,
                min_keep_ratio_dense=args.min_keep_ratio_dense,
                input_range=args.input_range,
                out=args.out,
                resume=args.resume,
                overwrite=args.overwrite,
                labels={"model": args.model, "data": args.data, "command": args.argv},
                progress=console.make_progress(quiet=args.quiet),
            )
    if args.json:
        console.print_json(result.summary)
        return 0
    print(_table(result.summary))
    found_by = result.summary["plan_found_by"]
    if found_by != "agent" and args.stages > 1:
        print("\nIn every stage a control was the best: no search found a plan that is better on its images.")
    elif found_by != "agent":
        print(f"\nThe {found_by} plan was the best: the search found none that is better on its images.")
    print(f"\nReport: {Path(args.out) / 'report.html'}")
    return 0


def _check_meter(args: argparse.Namespace) -> None:
    if args.table or (args.meter or "").startswith("table:"):
        raise SettingsError(
            "A latency table predicts networks without sparse kernels: give --meter phone, host or none, "
            "without a table."
        )
    if meters.meter_kind(args) == "gpu":
        raise SettingsError("The GPU meter runs no sparse kernels: give --meter phone, host or none.")


def _table(summary: Mapping[str, Any]) -> str:
    """Returns the networks of a summary as a table; "deflated" is the file as a package compresses it."""
    has_latency = summary["baseline"]["latency_ms"] is not None
    header = ["", "top-1", "weights", "MACs", "file", "deflated", *(["latency (p5–p95)"] * has_latency)]
    rows = [header]
    for key, name, *_ in networks_of(summary):
        row = summary[key]
        counts = [quantity(row[count]) for count in ("params", "macs")]
        sizes = [f"{row[size] / 1000:.1f} kB" for size in ("tflite_bytes", "deflated_bytes")]
        times = [latency(row["latency_ms"]) if row["latency_ms"] else ""] * has_latency
        rows.append([name, percent(row["top1"]), *counts, *sizes, *times])
    return align(rows)
