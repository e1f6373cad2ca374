"""The verb report: write report.html of finished runs again, and compare several runs on one page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from amc_tf.cli import console

_COMPARISON = "comparison.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the run folders, the table and where to write."""
    parser.set_defaults(needs_keras=False)
    parser.add_argument(
        "run_folders",
        metavar="RUN",
        nargs="+",
        help="folder that --out named; two or more are compared on a page of their own, too",
    )
    parser.add_argument(
        "--table",
        metavar="FILE",
        help="latency table: what it has timed replaces what was predicted, in summary.json too",
    )
    parser.add_argument(
        "--out", metavar="FILE", help=f"page that compares two or more runs; default ./{_COMPARISON}"
    )
    parser.add_argument(
        "--figures",
        metavar="DIR",
        help="write every chart as PNG and SVG file for slides, too; of several runs in a folder for each",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an older comparison, and older files in --figures"
    )


def run(args: argparse.Namespace) -> int:
    """Writes reports, comparison and figures, and prints where they are and which latencies are new."""
    is_comparison = len(args.run_folders) > 1
    if args.out and not is_comparison:
        args.usage_error("--out names the page that compares runs: give two runs or more")
    page, figures = None, None
    if is_comparison:
        page = console.check_output(args.out or _COMPARISON, overwrite=args.overwrite, suffixes=(".html",))
    if args.figures:
        figures = console.check_output_folder(args.figures, overwrite=args.overwrite)
    with console.stdout_for_results():
        reports = [_report(folder, args.table) for folder in args.run_folders]
        if page is not None:
            from amc_tf.comparison_page import make_comparison, read_comparison

            comparison = read_comparison(args.run_folders)
            make_comparison(comparison, page)
        drawn = [] if figures is None else _draw(args.run_folders, figures)
    result: dict[str, Any] = reports[0] if page is None else {"comparison": str(page), "runs": reports}
    if args.json:
        console.print_json({**result, "figures": [str(path) for path in drawn]})
        return 0
    for report in reports:
        if args.table:
            names = ", ".join(report["measured"]) or "none that the run lacked"
            print(f"Measured latencies from {args.table}: {names}")
        print(report["report"])
    if page is not None:
        print(f"Comparison: {page}")
    if figures is not None:
        print(f"Figures: {len(drawn)} files in {figures}")
    return 0


def _report(folder: str, table: str | None) -> dict[str, Any]:
    from amc_tf.report import make_report, use_measured

    names: tuple[str, ...] = ()
    if table:
        from amc_tf.device.table import LatencyTable

        names = use_measured(folder, LatencyTable.load(table))
    return {"report": str(make_report(folder)), "measured": list(names)}


def _draw(folders: list[str], out: Path) -> list[Path]:
    """Draws the figures of a run, or those of a comparison and of each of its runs."""
    from amc_tf.comparison_page import comparison_figures, read_comparison
    from amc_tf.figures import make_figures
    from amc_tf.run_record import read_run
    from amc_tf.slides import write_slides

    if len(folders) == 1:
        return [*write_slides(make_figures(read_run(Path(folders[0]))).values(), out)]
    comparison = read_comparison(folders)
    drawn = [*write_slides(comparison_figures(comparison).values(), out)]
    for run in comparison.runs:
        drawn += write_slides(make_figures(run.record).values(), out / run.name)
    return drawn
