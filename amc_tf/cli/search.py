"""The verb search: find a pruning plan within a budget, without fine-tuning."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from amc_tf.cli import console, meters, options
from amc_tf.cli.text import align, percent, quantity

if TYPE_CHECKING:
    from amc_tf.finalists import Choice
    from amc_tf.score import Score


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds model, data, budget and the settings of the search."""
    options.add_model(parser)
    options.add_data(parser)
    options.add_budget(parser)
    options.add_search(parser)
    meters.add_meter(parser)
    options.add_ray(parser)
    options.add_run_folder(parser)


def run(args: argparse.Namespace) -> int:
    """Searches, writes plan.json, and prints the found network beside the uniform one."""
    with console.stdout_for_results():
        choice = _search(args)
    uniform, found = choice.uniform, choice.best
    path = Path(args.out) / "plan.json"
    if args.json:
        result = {"plan": str(path), "found_by": choice.found_by}
        console.print_json({**result, "uniform": uniform.to_json(), "found": found.to_json()})
        return 0
    top1 = "int8 top-1" if args.int8_accuracy else "top-1"
    latency = "predicted latency" if meters.meter_kind(args) == "table" else "latency"
    if args.latency_precision != "float32":
        latency = f"{args.latency_precision} {latency}"
    header = ["on the search images", "reward", top1, "MACs", *([latency] if found.latency_ms else [])]
    print(align([header, _row("Uniform", uniform), _row(f"Found by {choice.found_by}", found)]))
    print(f"\nPlan: {path}")
    return 0


def _search(args: argparse.Namespace) -> Choice:
    """Returns what was chosen, and beside what."""
    settings = options.search_settings(args)
    budget = options.search_budget(args, settings, has_meter=meters.meter_kind(args) != "none")
    from amc_tf.data import split_data
    from amc_tf.device.store import MeasurementStore
    from amc_tf.device.stored_meters import CachedMeter
    from amc_tf.model_file import load_model
    from amc_tf.run_folder import RunFolder
    from amc_tf.session import PruningSession, starting_table

    progress = console.make_progress(quiet=args.quiet)
    with contextlib.ExitStack() as stack:
        meter, table = stack.enter_context(meters.open_meter(args))
        make_executor = stack.enter_context(options.evaluation(args))
        model = load_model(args.model)
        train, validation = options.load_images(model, args)
        folder = stack.enter_context(RunFolder(args.out, resume=args.resume, overwrite=args.overwrite))
        store = stack.enter_context(MeasurementStore(folder.measurements))
        progress.stage("calibrate")
        split = split_data(
            train,
            validation,
            num_calibration=settings.num_calibration_images,
            num_search=settings.num_search_images,
            seed=settings.seed,
        )
        session = PruningSession(
            model,
            split,
            budget=budget,
            settings=settings,
            input_range=args.input_range,
            meter=CachedMeter(meter, store) if meter else None,
            table=starting_table(folder, table),
            make_executor=make_executor,
        )
        progress.stage("search")
        uniform = session.uniform()
        result = session.search(folder, lambda record: progress.episode(record, settings.episodes))
        choice = session.choose(uniform, result)
        progress.stage("report")
        folder.write_json("plan.json", session.builder.plan(choice.best.widths).to_json())
    return choice


def _row(name: str, score: Score) -> list[str]:
    time = [f"{score.latency_ms:.3f} ms"] if score.latency_ms else []
    return [name, f"{score.reward:.4f}", percent(score.top1), quantity(score.cost.macs), *time]
