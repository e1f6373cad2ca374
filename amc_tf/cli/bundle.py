"""The verb bundle: pack the networks of a run into one file, or time the networks of such a file."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from amc_tf.cli import console, options
from amc_tf.cli.text import align, percent

if TYPE_CHECKING:
    from amc_tf.bundle import Manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the two actions and their arguments."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    _add_make(_add_action(actions, "make", "pack the networks of a run that are worth timing on a phone"))


def run(args: argparse.Namespace) -> int:
    """Packs or times."""
    return {"make": _make}[args.action](args)


def _add_action(actions: Any, name: str, summary: str) -> argparse.ArgumentParser:
    """Adds an action; what every verb takes may stand behind the action too."""
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=summary, description=summary, allow_abbrev=False
    )
    parser.set_defaults(usage_error=parser.error)
    for option in ("--json", "--debug", "--quiet"):
        parser.add_argument(
            option, action="store_true", default=argparse.SUPPRESS, help="as of every command"
        )
    return parser


def _add_make(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="folder that --out of compress or search named")
    parser.add_argument(
        "--top", type=int, default=20, metavar="N", help="networks of episodes (default: %(default)s)"
    )
    parser.add_argument(
        "--model", metavar="MODEL", help="the original (default: where summary.json has it from)"
    )
    options.add_output_file(parser, "the .zip file to write")


def _make(args: argparse.Namespace) -> int:
    with console.stdout_for_results():
        path = console.check_output(args.out, overwrite=args.overwrite, suffixes=(".zip",))
        from amc_tf.bundle_maker import make_bundle

        with tqdm(desc="pack", unit="network", leave=False, disable=args.quiet or None) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            manifest = make_bundle(args.run_folder, path, top=args.top, model=args.model, on_network=show)
    size_bytes = path.stat().st_size
    if args.json:
        console.print_json({"bundle": str(path), "bytes": size_bytes, **manifest.to_json()})
        return 0
    print(_packed_table(manifest))
    print(f"\n{path}: {len(manifest.networks)} networks, {size_bytes / 1e6:.1f} MB")
    return 0


def _packed_table(manifest: Manifest) -> str:
    rows = [("network", "reward", "top-1", f"ms on {manifest.meter}" if manifest.meter else "ms")]
    for network in manifest.networks:
        rows.append(
            (
                network.name,
                "" if network.reward is None else f"{network.reward:.4f}",
                "" if network.top1 is None else percent(network.top1),
                "" if network.expected_ms is None else f"{network.expected_ms:.3f}",
            )
        )
    return align(rows)
