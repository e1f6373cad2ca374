"""The verb table: measure a network's layers on a device once, so that a search can go on without it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tqdm import tqdm

from amc_tf.cli import console, meters, options
from amc_tf.cli.text import align, percent
from amc_tf.errors import RunFolderError

if TYPE_CHECKING:
    from amc_tf.device.latency import LatencyMeter
    from amc_tf.device.table import LatencyTable
    from amc_tf.device.table_samples import TableSample

_NUM_NETWORKS = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the action and its arguments."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    summary = "time variants of a network, and fit what predicts any other"
    build = options.add_action(actions, "build", summary)
    options.add_model(build)
    build.add_argument("--out", metavar="FILE", required=True, help="the .json file to write")
    choice = build.add_mutually_exclusive_group()
    choice.add_argument("--resume", action="store_true", help="go on with the table in that file")
    choice.add_argument("--overwrite", action="store_true", help="replace that file if it exists")
    build.add_argument(
        "--networks",
        type=int,
        default=_NUM_NETWORKS,
        metavar="N",
        help="networks to time, the original included (default: %(default)s)",
    )
    options.add_widths(build)
    options.add_seed(build)
    meters.add_device(build)


def run(args: argparse.Namespace) -> int:
    """Builds a table and prints how well it predicts networks that it has not seen."""
    with console.stdout_for_results():
        path = _output(args)
        table = _build(args, path)
    if args.json:
        console.print_json(_record(path, table))
    else:
        print(_text(path, table))
    return 0


def _output(args: argparse.Namespace) -> Path:
    """Checks where the table is to go, before any work is done."""
    path = Path(args.out)
    if path.exists() and not (args.overwrite or args.resume):
        raise RunFolderError(
            f"{path} exists: give --resume to add networks to it, --overwrite to replace it, or name another "
            "file."
        )
    return console.check_output(path, overwrite=True, suffixes=(".json",))


def _build(args: argparse.Namespace, path: Path) -> LatencyTable:
    meters.meter_kind(args)
    from amc_tf.device.table_learning import build_table
    from amc_tf.graph import ChannelGraph
    from amc_tf.model_file import load_model
    from amc_tf.table_networks import table_networks, table_widths

    model = load_model(args.model)
    graph = ChannelGraph.from_model(model)
    chosen = table_widths(
        graph, args.networks, round_to=args.round_to, min_keep_ratio=args.min_keep_ratio, seed=args.seed
    )
    with (
        meters.open_meter(args) as (meter, _),
        tqdm(desc="table", total=len(chosen), unit="network", leave=False, disable=args.quiet or None) as bar,
    ):
        timed_with = cast("LatencyMeter", meter)  # there is one: `--meter none` is no choice here

        def show(sample: TableSample, is_known: bool) -> None:
            if not sys.stderr.isatty():
                console.say(f"{sample.label}: {sample.median_ms:.3f} ms", quiet=args.quiet)
            bar.set_postfix(network=sample.label, ms=f"{sample.median_ms:.3f}", refresh=False)
            bar.update()

        return build_table(
            timed_with,
            table_networks(model, chosen, graph),
            path,
            source=f"amc-tf table build {args.model}, {len(chosen)} networks on {timed_with.name}",
            extend=args.resume,
            on_network=show,
        )


def _record(path: Path, table: LatencyTable) -> dict[str, Any]:
    """Returns the table as one JSON document: what was timed, and the error on networks held out."""
    error = table.error
    return {
        "table": str(path),
        "meter": table.name,
        "num_networks": len(table.samples),
        "num_profiled": _num_profiled(table),
        "error": {"median": error.median, "largest": error.largest} if error else None,
        "networks": [
            {
                "label": network.label,
                "measured_ms": network.measured_ms,
                "predicted_ms": network.predicted_ms,
                "error": network.error,
            }
            for network in (error.networks if error else ())
        ],
    }


def _text(path: Path, table: LatencyTable) -> str:
    rows = [("network", "measured", "predicted unseen", "error")]
    rows += [
        (
            network.label,
            f"{network.measured_ms:.3f} ms",
            f"{network.predicted_ms:.3f} ms",
            f"{100 * network.error:+.1f} %",
        )
        for network in (table.error.networks if table.error else ())
    ]
    count = len(table.samples)
    lines = [align(rows), "", f"{path}: {count} networks on {table.name}, {_num_profiled(table)} profiled"]
    if table.error:
        lines.append(
            f"Each was predicted by a table without it: off by {percent(table.error.median)} in the median, "
            f"{percent(table.error.largest)} at most"
        )
    return "\n".join(lines)


def _num_profiled(table: LatencyTable) -> int:
    return sum(sample.times_ms is not None for sample in table.samples)
