"""The verb sweep: compress to several budgets, and draw accuracy against latency of all the networks."""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amc_tf.cli import compress, console, meters, options
from amc_tf.cli.text import align, percent, quantity
from amc_tf.errors import SettingsError
from amc_tf.settings import SearchSettings

if TYPE_CHECKING:
    from amc_tf.budget import Budget
    from amc_tf.data import ImageData
    from amc_tf.device.latency import LatencyMeter
    from amc_tf.device.table import LatencyTable
    from amc_tf.front import FrontNetwork
    from amc_tf.ray_trials import OpenMeter

_TABLE = "table:"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds model, data, budgets and all settings of a compression."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="+",
        help="a .keras or .h5 file, or `demo` or `plain20`, which are shipped; several of one size of images",
    )
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
    parser.set_defaults(checkpoint_every=1)  # beside what a sweep takes, a checkpoint costs nothing
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run the compressions on a Ray cluster: HOST:PORT of its head, auto on a node of it, "
        "or local for one on this machine; --out must be a folder that all nodes share",
    )
    parser.add_argument(
        "--trial-cpus",
        type=int,
        default=1,
        metavar="N",
        help="processors of each compression on a Ray cluster (default: %(default)s)",
    )
    parser.add_argument(
        "--trial-gpus",
        type=float,
        default=0.0,
        metavar="X",
        help="GPUs of each of them, or the part of one (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Sweeps and prints a table of all networks, or with --json what front.json holds."""
    with console.stdout_for_results():
        given = compress.compression_options(args)
        budgets = _budgets(args, given["settings"])
        names = _names(args.model)
        given["labels"]["model"] = ", ".join(args.model)
        from amc_tf.model_file import load_model
        from amc_tf.sweep import sweep

        with _who_runs_and_times(args) as runs_and_times:
            models = {name: load_model(source) for name, source in names.items()}
            train, validation = _images_of_all(models, args)
            first = next(iter(models.values()))
            unlabelled = options.load_unlabelled(first, args)
            asked = {"budgets": budgets, "seeds": args.seeds, "unlabelled": unlabelled, **given}
            one = first if len(models) == 1 else models
            result = sweep(one, train, validation, **runs_and_times, **asked)
    if args.json:
        console.print_json(result.to_json())
    else:
        print(_table(result.networks))
        print(f"\nChart: {Path(args.out) / 'front.svg'}\nReport: {result.page}")
    for name, reason in result.failures.items():
        console.fail(f"{name} could not be met: {reason}")
    return 1 if result.failures else 0


@contextlib.contextmanager
def _who_runs_and_times(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields the arguments of `amc_tf.sweep` that say who runs the compressions and what times networks."""
    if args.ray is None:
        with meters.open_meter(args) as (meter, table):
            yield {"meter": meter, "table": table}
        return
    open_meter = _meter_of_a_node(args)
    from amc_tf.ray_trials import RayTrials

    with RayTrials(
        args.ray,
        open_meter=open_meter,
        phones=args.serial or (),
        num_cpus=args.trial_cpus,
        num_gpus=args.trial_gpus,
    ) as runner:
        yield {"runner": runner}


def _meter_of_a_node(args: argparse.Namespace) -> OpenMeter | None:
    """Returns what opens the meter where a trial runs.

    Raises:
        SystemExit: With 2 for what cannot be timed, or learned, on several machines.
        MeasurementError: The table cannot be read.
    """
    kind = meters.meter_kind(args)
    if kind in ("host", "gpu"):
        args.usage_error(
            "with --ray the machines have other work than to time networks: give -s, --meter table:FILE or "
            "--meter none."
        )
    if args.table:
        args.usage_error("--table learns from one search at a time: do without --ray, or without --table.")
    if kind == "phone" and not args.serial:
        args.usage_error("with --ray every phone must be named: give -s SERIAL.")
    if kind == "none":
        return None
    if kind == "phone":
        heeded = {name: value for name, value in vars(args).items() if not callable(value)}
        return functools.partial(_open_phone, {**heeded, "quiet": True})
    from amc_tf.device.table import LatencyTable

    return functools.partial(_open_table, LatencyTable.load(args.meter.removeprefix(_TABLE)))


@contextlib.contextmanager
def _open_phone(values: dict[str, Any], serial: str | None) -> Iterator[tuple[LatencyMeter, None]]:
    """Opens a phone of this node as the options say."""
    with meters.open_phones(argparse.Namespace(**{**values, "serial": [serial]})) as meter:
        yield meter, None


@contextlib.contextmanager
def _open_table(table: LatencyTable, serial: None) -> Iterator[tuple[LatencyMeter, LatencyTable]]:
    """Yields what predicts times, and the table."""
    from amc_tf.device.table import TableMeter

    yield TableMeter(table), table


def _names(sources: Sequence[str]) -> dict[str, str]:
    """Returns the models by what their folders are called.

    Raises:
        SettingsError: Two would be called the same.
    """
    names = {Path(source).stem: source for source in sources}
    if len(names) < len(sources):
        raise SettingsError("Two of the models have one name: each needs its own, for its folder.")
    return names


def _images_of_all(models: dict[str, Any], args: argparse.Namespace) -> tuple[ImageData, ImageData]:
    """Loads the images, and checks that every model takes them.

    Raises:
        DataError: The data cannot be read, or one of the models takes others.
    """
    from amc_tf.data import check_data_fits
    from amc_tf.model_file import image_size_of

    train, validation = options.load_images(next(iter(models.values())), args)
    for model in models.values():
        check_data_fits(image_size_of(model), model.output_shape[-1], train)
    return train, validation


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
    has_models = len({network.model for network in networks}) > 1
    has_latency = any(network.latency_ms is not None for network in networks)
    rows = [("", "budget", "top-1", "MACs", "file", "latency", "on the front")]
    rows += [
        (
            network.name,
            network.budget or (network.model if has_models else ""),
            percent(network.top1),
            quantity(network.macs),
            f"{network.tflite_bytes / 1000:.1f} kB",
            "" if network.latency_ms is None else f"{network.latency_ms:.3f} ms",
            "yes" if network.on_front else "",
        )
        for network in networks
    ]
    return align([row if has_latency else (*row[:5], row[6]) for row in rows], left=(0, 1))
