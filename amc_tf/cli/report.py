"""The verb report: write report.html of a finished run again."""

from __future__ import annotations

import argparse

from amc_tf.cli import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the run folder."""
    parser.set_defaults(needs_keras=False)
    parser.add_argument("run_folder", metavar="RUN", help="folder that --out named")


def run(args: argparse.Namespace) -> int:
    """Writes the report and prints where it is."""
    with console.stdout_for_results():
        from amc_tf.report import make_report

        path = make_report(args.run_folder)
    if args.json:
        console.print_json({"report": str(path)})
    else:
        print(path)
    return 0
