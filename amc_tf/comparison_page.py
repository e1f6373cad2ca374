"""The page that compares runs: results, one chart of accuracy against cost, channels, different settings."""

from __future__ import annotations

import itertools
import os
import shlex
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amc_tf import page
from amc_tf.chart_data import Channels, ChannelsChart, Point, TradeoffChart, front_of, percent
from amc_tf.comparison import ComparedRun, Comparison, compare, different_settings
from amc_tf.errors import RunFolderError
from amc_tf.figures import Figure, channel_rows
from amc_tf.latency_facts import is_predicted, unit_of
from amc_tf.report import latency_cell
from amc_tf.run_folder import write_atomically
from amc_tf.run_record import latency_of, read_run

_NUM_COLOURS = 8  # --run1 and so on in chart.css
_COLUMNS = ("Run", "Budget", "Top-1", "MACs", "Parameters", "File", "Latency, median (p5–p95)", "int8")
_LATENCY_COLUMN = 6


def read_comparison(folders: Sequence[str | os.PathLike[str]]) -> Comparison:
    """Reads the folders of two or more finished runs.

    Raises:
        RunFolderError: If one is given twice, or cannot be read or compared.
    """
    paths = [Path(folder) for folder in folders]
    for path in paths:
        if sum(path.resolve() == other.resolve() for other in paths) > 1:
            raise RunFolderError(f"{path} is given twice; give each run once.")
    records = {path: read_run(path) for path in paths}
    try:
        return compare(records)
    except (KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"A summary.json of {', '.join(map(str, paths))} lacks an entry or holds a wrong one "
            f"({type(error).__name__}: {error}); run its compression again."
        ) from error


def make_comparison(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """Writes the page, over an older one.

    Args:
        comparison: What to show.
        path: The HTML file; its links to the reports of the runs are relative.

    Raises:
        RunFolderError: If the file cannot be written.
    """
    text = render(comparison, Path(path).resolve().parent)
    write_atomically(Path(path), lambda file: file.write(text.encode()))


def render(comparison: Comparison, folder: Path) -> str:
    """Returns the comparison as one HTML page that loads nothing.

    Args:
        comparison: What to show.
        folder: Where the page is to lie, for its links.
    """
    runs = comparison.runs
    has_latency = any(latency_of(run.summary, key) for run in runs for key in ("baseline", run.final_key))
    settings = [
        {"name": name, "cells": [{"value": value, "notes": []} for value in values]}
        for name, values in different_settings(runs)
    ]
    return (
        page.environment()
        .get_template("comparison.html.jinja")
        .render(
            headline=headline(comparison),
            warnings=warnings(comparison),
            columns=[name for index, name in enumerate(_COLUMNS) if has_latency or index != _LATENCY_COLUMN],
            rows=_rows(comparison, folder, has_latency=has_latency),
            has_predictions=any(
                is_predicted(latency_of(run.summary, key))
                for run in runs
                for key in ("baseline", run.final_key)
            ),
            figures=list(comparison_figures(comparison).values()),
            setting_columns=["Setting", *(_title(run) for run in runs)],
            settings=settings,
            command=shlex.join(["amc-tf", "report", *(str(run.folder) for run in runs)]),
        )
    )


def headline(comparison: Comparison) -> str:
    """Says in one sentence what was compared, and of one original how far the runs went."""
    runs, first = comparison.runs, comparison.runs[0].summary
    if comparison.original_differences:
        return f"{len(runs)} runs of {len(comparison.originals)} originals."
    what = "latency" if comparison.compares_latency else "MACs"
    costs = [_cost(comparison, run, run.final_key, "baseline") or 0.0 for run in runs]
    cheapest = runs[costs.index(min(costs))]
    part = min(costs) / (_cost(comparison, runs[0], "baseline", "baseline") or 1.0)
    top1 = page.percent(cheapest.summary[cheapest.final_key]["top1"])
    return (
        f"{len(runs)} runs of {first.get('model', 'one network')}: down to {round(100 * part)} % of the "
        f"{what} at {top1} top-1, from {page.percent(first['baseline']['top1'])}."
    )


def warnings(comparison: Comparison) -> list[str]:
    """Says which numbers must not be compared, in sentences; nothing where all may."""
    sentences = []
    if comparison.original_differences:
        names = ", ".join(comparison.original_differences)
        sentences.append(
            f"These runs start from {len(comparison.originals)} different originals (different {names}): "
            "compare each run with its own original only, not with the runs of another."
        )
    sparse = [run for run in comparison.runs if not run.record.keeps_channels]
    if 0 < len(sparse) < len(comparison.runs):
        sentences.append(
            f"{', '.join(map(_title, sparse))}: single weights were set to zero, and MACs and parameters "
            "count what is not zero; a device that has no kernels for sparse weights computes the zeros, too."
        )
    meters = comparison.meters
    if len(meters) > 1:
        timed = "; ".join(f"{_title(run)}: {meters[run.meter].name}" for run in comparison.runs)
        details = "".join(f" {meter.name} is {meter.details}." for meter in meters if meter.details)
        sentences.append(
            f"Latencies are not comparable, for they are not of one meter ({timed}).{details} The chart "
            "compares MACs instead."
        )
    return sentences


def comparison_figures(comparison: Comparison) -> dict[str, Figure]:
    """Makes the figures that show several runs at once.

    Returns:
        By name: "tradeoff", and "channels" of the runs that prune one network, "channels2" of those that
        prune the next, and so on.
    """
    figures = [_tradeoff(comparison)]
    by_network: dict[Any, list[ComparedRun]] = {}
    for run in comparison.runs:
        layers = tuple((row.name, row.before) for row in channel_rows(run.record))
        by_network.setdefault((run.original, layers), []).append(run)
    alike = [runs for (_, layers), runs in by_network.items() if len(runs) > 1 and layers]
    figures += [_channels(runs, number) for number, runs in enumerate(alike, 1)]
    return {figure.name: figure for figure in figures}


def _tradeoff(comparison: Comparison) -> Figure:
    latency = comparison.compares_latency
    precisions = [("", "baseline", "")] + ([(" int8", "int8_baseline", ", int8")] if latency else [])
    axis = unit_of(comparison.runs[0].summary.get("meter")) if latency else "million MACs"
    marks, legend = [], []
    for (css, reference, suffix), run in itertools.product(precisions, comparison.originals):
        marks += _mark(comparison, run, reference, reference, f"baseline{css}", f"Original{suffix}")
    for (css, reference, suffix), run in itertools.product(precisions, comparison.runs):
        key = run.int8_key if suffix else run.final_key
        marks += _mark(comparison, run, key, reference, f"{_colour(run)}{css}", f"{_title(run)}{suffix}")
    kinds = {mark.kind: mark.label.partition(": top-1")[0] for mark in reversed(marks)}
    legend = [(kind, kinds[kind]) for kind in dict.fromkeys(mark.kind for mark in marks)]
    note = "Top-1 on the validation images of each run's network and of its original."
    if latency:
        note += (
            " Each latency is the part of the original's that the run measured beside it, of one timing of "
            "the original: a slow day of the device counts for nothing."
        )
    if not comparison.original_differences:
        note += " The line joins the networks that no other beats."
    chart = TradeoffChart(
        f"Top-1 accuracy against {axis}",
        axis,
        (),
        tuple(marks),
        () if comparison.original_differences else front_of(marks),
    )
    title = f"Accuracy against {'latency' if latency else 'MACs'}"
    return Figure("tradeoff", title, note, chart, is_full=True, legend=tuple(legend))


def _mark(
    comparison: Comparison, run: ComparedRun, key: str | None, reference: str, kind: str, name: str
) -> list[Point]:
    """Returns the mark of a network, none where it is missing or has no cost on the axis."""
    cost = None if key is None else _cost(comparison, run, key, reference)
    if key is None or cost is None:
        return []
    top1 = run.summary[key]["top1"]
    numbers = [str(other.number) for other in comparison.runs if other.original == run.original]
    several = len(comparison.originals) > 1
    note = str(run.number)
    if kind.startswith("baseline"):
        note = f"original of {', '.join(numbers)}" if several else "original"
    return [Point(cost, top1, f"{name}: top-1 {percent(top1)}", kind, note)]


def _cost(comparison: Comparison, run: ComparedRun, key: str, reference: str) -> float | None:
    if comparison.compares_latency:
        return comparison.latency_ms(run, key, reference)
    result = run.summary.get(key)
    return None if result is None else result["macs"] / 1e6


def _channels(runs: Sequence[ComparedRun], number: int) -> Figure:
    rows = tuple(
        Channels(layer[0].name, layer[0].before, tuple(row.kept[0] for row in layer))
        for layer in zip(*(channel_rows(run.record) for run in runs), strict=True)
    )
    which = "" if number == 1 else str(number)
    what = "channels" if runs[0].record.keeps_channels else "weights"
    title = f"{what.capitalize()} kept in each layer by each run"
    return Figure(
        f"channels{which}",
        f"{what.capitalize()} of each layer{f' of {_network_of(runs[0])}' if which else ''}",
        f"Share of the original {what} that each run keeps, one bar for each run from the top down, with "
        "the numbers before and after.",
        ChannelsChart(title, rows, tuple(_colour(run) for run in runs), what),
        is_full=True,
        legend=tuple((_colour(run), _title(run)) for run in runs),
    )


def _rows(comparison: Comparison, folder: Path, *, has_latency: bool) -> list[dict[str, Any]]:
    rows = []
    for original in comparison.originals:
        several = len(comparison.originals) > 1
        name = f"Original, {_network_of(original)}" if several else "Original"
        cells = _cells(comparison, original, "baseline", "int8_baseline", has_latency=has_latency)
        rows.append({"name": name, "kind": "baseline", "is_final": True, "cells": cells})
        for run in comparison.runs:
            if run.original == original.original:
                cells = _cells(comparison, run, run.final_key, run.int8_key, has_latency=has_latency)
                link = urllib.parse.quote(os.path.relpath(run.folder.resolve() / "report.html", folder))
                rows.append({"name": _title(run), "kind": _colour(run), "link": link, "cells": cells})
    return rows


def _cells(
    comparison: Comparison, run: ComparedRun, key: str, int8_key: str | None, *, has_latency: bool
) -> list[dict[str, Any]]:
    summary, is_original = run.summary, key == "baseline"
    result, base = summary[key], {} if is_original else summary["baseline"]
    budget = summary.get("budget") or {}
    written = "" if is_original or not budget.get("kind") else f"{budget['kind']}={budget.get('value')}"
    cells = [{"value": written, "notes": []}, _accuracy_cell(result, base)]
    for name, unit in (("macs", ""), ("params", ""), ("tflite_bytes", "B")):
        notes = [page.part_of(result[name], base[name])] if base else []
        cells.append({"value": f"{page.quantity(result[name])}{unit}", "notes": notes})
    if has_latency:
        cell = latency_cell(result, base)
        if len(comparison.meters) > 1 and result.get("latency_ms"):
            cell["notes"].append(f"on {comparison.meters[run.meter].name}")
        cells.append(cell)
    return [*cells, _int8_cell(summary, int8_key)]


def _accuracy_cell(result: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    notes = [page.signed(100 * (result["top1"] - base["top1"]))] if base else []
    return {"value": page.percent(result["top1"]), "notes": notes}


def _int8_cell(summary: Mapping[str, Any], key: str | None) -> dict[str, Any]:
    result = summary.get(key or "")
    if not result:
        return {"value": "—", "notes": []}
    notes = [f"{page.quantity(result['tflite_bytes'])}B"]
    latency = result.get("latency_ms")
    if latency:
        notes.append(f"{latency['median']:.2f} ms{', predicted' if is_predicted(latency) else ''}")
    return {"value": page.percent(result["top1"]), "notes": notes}


def _title(run: ComparedRun) -> str:
    return f"{run.number} {run.name}"


def _colour(run: ComparedRun) -> str:
    return f"run{1 + (run.number - 1) % _NUM_COLOURS}"


def _network_of(run: ComparedRun) -> str:
    return f"{run.summary.get('model', 'a network')} on {run.summary.get('data', 'its data')}"
