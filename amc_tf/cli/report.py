"""The verb report: write report.html of a finished run again, with what was timed on a phone since."""

from __future__ import annotations

import argparse

from amc_tf.cli import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the run folder and the table."""
    parser.set_defaults(needs_keras=False)
    parser.add_argument("run_folder", metavar="RUN", help="folder that --out named")
    parser.add_argument(
        "--table",
        metavar="FILE",
        help="latency table: what it has timed replaces what was predicted, in summary.json too",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the report and prints where it is, and which networks have new latencies."""
    with console.stdout_for_results():
        from amc_tf.report import make_report, use_measured

        names: tuple[str, ...] = ()
        if args.table:
            from amc_tf.device.table import LatencyTable

            names = use_measured(args.run_folder, LatencyTable.load(args.table))
        path = make_report(args.run_folder)
    if args.json:
        console.print_json({"report": str(path), "measured": list(names)})
        return 0
    if args.table:
        print(f"Measured latencies from {args.table}: {', '.join(names) or 'none that the run lacked'}")
    print(path)
    return 0
