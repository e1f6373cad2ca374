"""The verb compress: find a plan within a budget, fine-tune, convert, time and report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from amc_tf.cli import console, meters, options
from amc_tf.cli.text import has_predictions, result_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds model, data, budget and all settings."""
    options.add_model(parser)
    options.add_data(parser)
    options.add_budget(parser)
    add_settings(parser)
    options.add_ray(parser)


def add_settings(parser: argparse.ArgumentParser, *, out: str | None = None) -> None:
    """Adds what `demo` and `sweep` have too: all but model, data and budget; out may have a default."""
    options.add_search(parser)
    meters.add_meter(parser)
    options.add_finetune(parser)
    parser.add_argument(
        "--finetune-uniform", action="store_true", help="fine-tune the uniform control too, to compare with"
    )
    options.add_stages(parser)
    options.add_quantization(parser)
    options.add_run_folder(parser, out=out)


def run(args: argparse.Namespace) -> int:
    """Compresses and prints the table of results, or with --json the summary."""
    with console.stdout_for_results():
        given = compression_options(args)
        has_meter = meters.meter_kind(args) != "none"
        budget = options.search_budget(args, given["settings"], has_meter=has_meter)
        from amc_tf.compress import compress
        from amc_tf.model_file import load_model

        with meters.open_meter(args) as (meter, table), options.evaluation(args) as make_executor:
            given |= {"budget": budget, "meter": meter, "table": table, "make_executor": make_executor}
            model = load_model(args.model)
            train, validation = options.load_images(model, args)
            unlabelled = options.load_unlabelled(model, args)
            result = compress(model, train, validation, unlabelled=unlabelled, **given)
    if args.json:
        console.print_json(result.summary)
        return 0
    print(result_table(result.summary))
    if result.summary["plan_found_by"] == "uniform":
        print("\nThe uniform plan was the best: the search found none that is better on its images.")
    if "int8_qat" in result.summary:
        how = "in" if result.summary["int8_written"] == "int8_qat" else "after"
        print(f"\nmodel_int8.tflite is the network that was quantised {how} training.")
    if has_predictions(result.summary):
        print(
            "\nPredicted latencies were not timed. To time them where a phone is: amc-tf bundle make, "
            "amc-tf bundle measure, then amc-tf report --table."
        )
    print(f"\nReport: {Path(args.out) / 'report.html'}")
    return 0


def compression_options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns what the options of `add_settings` say to `amc_tf.compress`, but for the meter.

    Raises:
        SettingsError: A value is outside its range.
    """
    return {
        "settings": options.search_settings(args),
        "finetuning": options.finetune_settings(args),
        "finetune_uniform": args.finetune_uniform,
        "stages": args.stages,
        "quantization": options.qat_settings(args),
        "input_range": args.input_range,
        "out": args.out,
        "resume": args.resume,
        "overwrite": args.overwrite,
        "labels": {"model": args.model, "data": args.data, "command": args.argv},
        "progress": console.make_progress(quiet=args.quiet),
    }
