"""The verb sweep: compress to several budgets, and draw accuracy against latency of all the networks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from amc_tf.cli import compress, console, meters, options
from amc_tf.cli.text import align, percent, quantity
from amc_tf.settings import SearchSettings

if TYPE_CHECKING:
    from amc_tf.budget import Budget
    from amc_tf.front import FrontNetwork


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds model, data, budgets and all settings of a compression."""
    options.add_model(parser)
    options.add_data(parser)
    parser.add_argument(
        "--budgets",
        metavar="BUDGETS",
        required=True,
        help="budgets with commas between them, such as macs=0.7,macs=0.5,macs=0.3; each of them "
        + options.BUDGET_HELP,
    )
    parser.add_argument(
        "--seeds",
        metavar="SEEDS",
        type=_seeds,
        default=(),
        help="seeds with commas between them, each of them for every budget (default: --seed)",
    )
    compress.add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Sweeps and prints a table of all networks, or with --json what front.json holds."""
    with console.stdout_for_results():
        given = compress.compression_options(args)
        budgets = _budgets(args, given["settings"])
        from amc_tf.model_file import load_model
        from amc_tf.sweep import sweep

        with meters.open_meter(args) as (meter, table):
            model = load_model(args.model)
            train, validation = options.load_images(model, args)
            asked = {"budgets": budgets, "seeds": args.seeds, **given}
            result = sweep(model, train, validation, meter=meter, table=table, **asked)
    if args.json:
        console.print_json(result.to_json())
    else:
        print(_table(result.networks))
        print(f"\nChart: {Path(args.out) / 'front.svg'}\nReport: {result.page}")
    for name, reason in result.failures.items():
        console.fail(f"{name} could not be met: {reason}")
    return 1 if result.failures else 0


def _budgets(args: argparse.Namespace, settings: SearchSettings) -> list[Budget]:
    """Reads the budgets, and checks before any work that each has the meter that it needs."""
    has_meter = meters.meter_kind(args) != "none"
    texts = [text.strip() for text in args.budgets.split(",") if text.strip()]
    return [
        options.search_budget(
            argparse.Namespace(**{**vars(args), "budget": text}), settings, has_meter=has_meter
        )
        for text in texts
    ]


def _seeds(text: str) -> tuple[int, ...]:
    """Reads the value of --seeds."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} are no seeds; give whole numbers, such as 0,1,2"
        ) from None


def _table(networks: tuple[FrontNetwork, ...]) -> str:
    """Returns the networks as a table; those on the front are marked."""
    has_latency = any(network.latency_ms is not None for network in networks)
    rows = [("", "budget", "top-1", "MACs", "file", "latency", "on the front")]
    rows += [
        (
            network.name,
            network.budget or "",
            percent(network.top1),
            quantity(network.macs),
            f"{network.tflite_bytes / 1000:.1f} kB",
            "" if network.latency_ms is None else f"{network.latency_ms:.3f} ms",
            "yes" if network.on_front else "",
        )
        for network in networks
    ]
    return align([row if has_latency else (*row[:5], row[6]) for row in rows], left=(0, 1))
