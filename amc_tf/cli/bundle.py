"""The verb bundle: pack the networks of a run into one file, or time the networks of such a file."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from amc_tf.cli import benchmark, console, meters, options
from amc_tf.cli.text import align, percent
from amc_tf.cli.text import latency as latency_text
from amc_tf.errors import MeasurementError, ModelError, PhoneError, RunStoppedError

if TYPE_CHECKING:
    from amc_tf.bundle import Bundle, BundledNetwork, Manifest
    from amc_tf.device.latency import Latency
    from amc_tf.device.table import LatencyTable
    from amc_tf.device.table_learning import LearningMeter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the two actions and their arguments."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    _add_make(
        options.add_action(actions, "make", "pack the networks of a run that are worth timing on a phone")
    )
    _add_measure(options.add_action(actions, "measure", "time the networks of a bundle into a latency table"))


def run(args: argparse.Namespace) -> int:
    """Packs or times."""
    return {"make": _make, "measure": _measure}[args.action](args)


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


@dataclasses.dataclass(frozen=True)
class _Timing:
    """What became of one network of a bundle: a latency, or why there is none."""

    network: BundledNetwork
    latency: Latency | None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        facts = {"name": self.network.name, **self.network.to_json(), "error": self.error}
        if self.latency is None:
            return {**facts, "latency_ms": None, "ratio": None, "noise": None}
        return {
            **facts,
            "latency_ms": benchmark.latency_record(self.latency),
            "ratio": self.latency.ratio,
            "noise": self.latency.noise,
        }


def _add_measure(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(needs_keras=False)
    parser.add_argument("bundle", metavar="BUNDLE", help="the .zip file that `bundle make` wrote")
    meters.add_device(parser)
    parser.add_argument(
        "--out",
        metavar="FILE",
        required=True,
        help="the .json file of the latency table, added to if it exists; the .sqlite file beside it keeps "
        "every measurement, so that the same command goes on where it was interrupted",
    )


def _measure(args: argparse.Namespace) -> int:
    with console.stdout_for_results():
        path = console.check_output(args.out, overwrite=True, suffixes=(".json",))
        from amc_tf.bundle import Bundle

        bundle = Bundle(args.bundle)
        timings, table = _time_networks(bundle, path, args)
    if args.json:
        error = table.error.median if table.error else None
        networks = [timing.to_json() for timing in timings]
        facts = {"table": str(path), "meter": table.name, "run": bundle.manifest.run, "table_error": error}
        console.print_json({**facts, "networks": networks})
        return 0
    print(_timed_table(timings, bundle.manifest))
    failed = [timing for timing in timings if timing.error]
    print(f"\n{path}: {len(timings) - len(failed)} of {len(timings)} networks, timed on {table.name}")
    if table.error:
        print(f"It predicts networks that it has not seen within {percent(table.error.median)} (median).")
    return 0


def _time_networks(
    bundle: Bundle, path: Path, args: argparse.Namespace
) -> tuple[list[_Timing], LatencyTable]:
    """Times every network beside the original; what is in the store or fails does not stop it.

    Raises:
        RunStoppedError: The phone dropped out; what was timed is kept.
        MeasurementError: The original cannot be timed, or the table is of another device.
    """
    from amc_tf.device.store import MeasurementStore
    from amc_tf.device.stored_meters import CachedMeter
    from amc_tf.device.table_learning import LearningMeter

    networks = bundle.manifest.networks
    timings: list[_Timing] = []
    with meters.open_device(args) as meter, MeasurementStore(path.with_suffix(".sqlite")) as store:
        alone = LearningMeter(CachedMeter(meter, store), path)
        beside = alone.with_reference(bundle.read(bundle.manifest.original))
        try:
            for network in _with_progress(networks, args):
                timings.append(_time(bundle, network, beside if timings else alone))
                _report(timings[-1], args)
        except PhoneError as error:
            num_timed = sum(timing.latency is not None for timing in timings)
            raise RunStoppedError(
                f"{error} {num_timed} of {len(networks)} networks are timed and kept: the same command goes "
                "on with the others."
            ) from error
        table = alone.table.with_error()
        table.save(path)
    return timings, table


def _time(bundle: Bundle, network: BundledNetwork, learner: LearningMeter) -> _Timing:
    """Times one network; why it cannot be timed is kept, unless it is the original or the phone is gone."""
    learner.label = f"{bundle.manifest.run}: {network.name}"
    try:
        return _Timing(network, learner.measure(bundle.read(network)))
    except PhoneError:
        raise
    except (MeasurementError, ModelError) as error:
        if network is bundle.manifest.original:
            raise
        return _Timing(network, None, str(error))


def _with_progress(networks: Sequence[BundledNetwork], args: argparse.Namespace) -> Iterator[BundledNetwork]:
    with tqdm(networks, desc="time", unit="network", leave=False, disable=args.quiet or None) as bar:
        for network in bar:
            bar.set_postfix_str(network.name)
            yield network


def _report(timing: _Timing, args: argparse.Namespace) -> None:
    """Tells of a failure at once, and off a terminal, where there is no bar, of every network."""
    if timing.latency is None:
        tqdm.write(f"{timing.network.name} failed: {timing.error}", file=sys.stderr)
    elif not sys.stderr.isatty():
        console.say(f"{timing.network.name}: {timing.latency.median_ms:.3f} ms", quiet=args.quiet)


def _timed_table(timings: Sequence[_Timing], manifest: Manifest) -> str:
    expected = f"expected ({manifest.meter})" if manifest.meter else "expected"
    rows = [("network", expected, "measured (p5–p95)", "of the original", "noise")]
    for timing in timings:
        latency, network = timing.latency, timing.network
        before = "" if network.expected_ms is None else f"{network.expected_ms:.3f} ms"
        if latency is None:
            rows.append((network.name, before, "failed", "", ""))
            continue
        ratio = 1.0 if network is manifest.original else latency.ratio
        rows.append(
            (
                network.name,
                before,
                latency_text(benchmark.latency_record(latency)),
                "" if ratio is None else percent(ratio),
                "" if latency.noise is None else percent(latency.noise),
            )
        )
    return align(rows)
