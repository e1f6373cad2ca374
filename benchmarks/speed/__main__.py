"""Measures how fast the toolkit is, and whether each part keeps its limit.

    python -m benchmarks.speed --json runs/speed.json

Every part times what it compares in one process, in turn; several parts have a process each, since what one
leaves in memory slows the next down. Needs a quiet machine and the data folder that
benchmarks/shared_data.py describes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.shared_data import data_dir
from benchmarks.speed import calibration, conversion, episode, finetuning, growth, small_networks, start
from benchmarks.speed.figures import Figure, Options

PARTS: dict[str, Callable[[Options], list[Figure]]] = {
    "start": start.measure,
    "conversion": conversion.measure,
    "finetuning": finetuning.measure,
    "small": small_networks.measure,
    "growth": growth.measure,
    "calibration": calibration.measure,
    "episode": episode.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts that are asked for; returns 1 if a limit is broken."""
    given = _parse(arguments)
    figures: list[Figure] = []
    for part in given.parts:
        if len(given.parts) > 1:
            figures += _in_another_process(part, given)
        else:
            figures = PARTS[part](Options(data_dir=data_dir(given.data_dir), rounds=given.rounds))
            for figure in figures:
                print(_line(figure), flush=True)
        _write(given.json, figures)
    return 1 if any(figure.holds is False for figure in figures) else 0


def _in_another_process(part: str, given: argparse.Namespace) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        options = ["--rounds", str(given.rounds), "--json", str(file)]
        if given.data_dir is not None:
            options += ["--data-dir", given.data_dir]
        subprocess.run([sys.executable, "-m", "benchmarks.speed", part, *options], check=False)
        if not file.exists():
            sys.exit(f"The part {part!r} failed.")
        return [Figure.from_json(row) for row in json.loads(file.read_text())["figures"]]


def _line(figure: Figure) -> str:
    spread = "" if figure.spread is None else "({:.3g} to {:.3g})".format(*figure.spread)
    limit = ""
    if figure.limit is not None:
        side, verdict = "at least" if figure.at_least else "at most", "holds" if figure.holds else "BROKEN"
        limit = f"{side} {figure.limit:g}: {verdict}"
    return f"{figure.key:36} {figure.value:10.4g} {figure.unit:12} {spread:22} {limit}"


def _write(file: Path | None, figures: Sequence[Figure]) -> None:
    if file is None:
        return
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    report = {"command": sys.argv, "machine": machine, "figures": [figure.to_json() for figure in figures]}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=1) + "\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--data-dir")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args(arguments)
    for part in given.parts:
        if part not in PARTS:
            parser.error(f"there is no part {part!r}; choose from {', '.join(PARTS)}")
    return given


if __name__ == "__main__":
    sys.exit(main())
