"""The HTML report of a run: reads the run folder, draws the charts, writes one self-contained file."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amc_tf import page
from amc_tf.errors import RunFolderError
from amc_tf.figures import Figure, make_figures
from amc_tf.latency_facts import certainty, is_predicted, meter_facts, unit_of
from amc_tf.run_folder import write_atomically
from amc_tf.run_record import (
    RunRecord,
    data_label,
    is_untuned,
    keeps_channels,
    latency_of,
    networks_of,
    read_run,
    with_measured,
)
from amc_tf.timing_facts import timing_table

if TYPE_CHECKING:
    from amc_tf.device.table import LatencyTable

_COLUMNS = ("Network", "Top-1", "Top-5", "MACs", "Parameters", "File")
_DEFLATED_COLUMN = "Deflated"
_LATENCY_COLUMN = "Latency, median (p5–p95)"
_STAGE_COLUMNS = (
    "Stage", "Budget", "Plan found by", "Top-1 as pruned", "Fine-tuned", "MACs", "Parameters",
)  # fmt: skip


def make_report(run_folder: str | os.PathLike[str]) -> Path:
    """Writes report.html into a run folder, over an older one.

    Args:
        run_folder: A folder with summary.json, episodes.jsonl and plan.json.

    Returns:
        The path of the report.

    Raises:
        RunFolderError: If a file is missing, is not what it should be, or the report cannot be written.
    """
    folder = Path(run_folder)
    record = read_run(folder)
    try:
        text = render(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(
            f"{folder / 'summary.json'} or {folder / 'episodes.jsonl'} lacks an entry or holds a wrong one "
            f"({type(error).__name__}: {error}); run the compression again."
        ) from error
    path = folder / "report.html"
    write_atomically(path, lambda file: file.write(text.encode()))
    return path


def use_measured(run_folder: str | os.PathLike[str], table: LatencyTable) -> tuple[str, ...]:
    """Replaces predicted and missing latencies in summary.json by measured ones of a table.

    The file is replaced as a whole or not at all; what was predicted is kept in it as "predicted_ms".

    Args:
        run_folder: The folder of a finished run.
        table: Of the device for which the run was made.

    Returns:
        Names of the networks whose latencies are new.

    Raises:
        RunFolderError: If the summary cannot be read or written.
        MeasurementError: If latencies of two devices would stand side by side.
    """
    folder = Path(run_folder)
    summary, names = with_measured(read_run(folder).summary, table)
    if names:
        text = json.dumps(summary, indent=1) + "\n"
        write_atomically(folder / "summary.json", lambda file: file.write(text.encode()))
    return names


def render(record: RunRecord) -> str:
    """Returns the report as one HTML page that loads nothing.

    Args:
        record: What the run left behind.

    Returns:
        The page.
    """
    summary = record.summary
    latencies = [latency for key, *_ in networks_of(summary) if (latency := latency_of(summary, key))]
    meter = meter_facts(summary.get("meter") or {}, latencies)
    figures = make_figures(record)
    return (
        page.environment()
        .get_template("report.html.jinja")
        .render(
            model=summary.get("model", "The network"),
            data=data_label(summary),
            headline=headline(summary),
            tiles=_tiles(summary),
            columns=_columns(summary),
            rows=_rows(summary),
            against_uniform=_against_uniform(summary),
            found=_named(figures, "channels", "tradeoff"),
            timed=_named(figures, "latency"),
            timings=timing_table(summary),
            operators=_named(figures, "operators"),
            unprofiled=(summary.get("operators") or {}).get("error"),
            stage_columns=_STAGE_COLUMNS,
            stages=_stage_rows(summary),
            searched=_named(figures, "reward", "accuracy"),
            has_predictions=any(map(is_predicted, latencies)),
            has_zeros=not record.keeps_channels,
            dropped=_dropped(record),
            phone=meter.get("phone"),
            meter=_listed(meter),
            command=_command(summary),
            settings=_cards("Settings", summary.get("settings") or {}),
            versions=_listed(summary.get("versions") or {}),
            seconds=_listed(summary.get("seconds") or {}),
            verification=_listed(summary.get("verification") or {}),
        )
    )


def _columns(summary: Mapping[str, Any]) -> list[str]:
    deflated = [] if keeps_channels(summary) else [_DEFLATED_COLUMN]
    return [*_COLUMNS, *deflated, *([_LATENCY_COLUMN] if latency_of(summary, "baseline") else [])]


def _listed(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return list(page.flatten(values).items())


def _cards(title: str, values: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Parts nested values into cards: one for what is not nested, one for each group of others."""
    own = {name: value for name, value in values.items() if not isinstance(value, dict)}
    cards = [(title, _listed(own))] if own else []
    for name, value in values.items():
        if isinstance(value, dict):
            cards += _cards(f"{title}{'.' if ': ' in title else ': '}{name}", value)
    return cards


def _named(figures: Mapping[str, Figure], *names: str) -> list[Figure]:
    return [figures[name] for name in names if name in figures]


def headline(summary: Mapping[str, Any]) -> str:
    """Says in one sentence what was gained.

    Args:
        summary: summary.json.

    Returns:
        The sentence, on the fine-tuned network if there is one, else on the found plan.
    """
    before, after = summary["baseline"], _final(summary)
    name, unit = summary.get("model", "The network"), unit_of(summary.get("meter"))
    times = _times_before_and_after(summary)
    if not keeps_channels(summary):
        kept = f"{_part(before, after, 'params')} of its parameters: {_change(before, after, 'params')}"
        gain = f"{name} keeps {kept}"
        gain += f", {times[0]:.2f} → {times[1]:.2f} {unit}" if times else ""
    elif times:
        old, new, predicted = times
        verb = "is predicted to be" if predicted else "is"
        gain = f"{name} {verb} {old / new:.1f} times as fast: {old:.2f} → {new:.2f} {unit}"
        if new >= old:
            verb = "is not predicted to become" if predicted else "did not become"
            gain = f"{name} {verb} faster: {old:.2f} → {new:.2f} {unit}"
    else:
        gain = f"{name} needs {_part(before, after, 'macs')} of its MACs: {_change(before, after, 'macs')}"
    size = _change(before, after, "tflite_bytes", "B")
    points = 100 * (after["top1"] - before["top1"])
    return f"{gain}, {size}, top-1 {page.percent(after['top1'])} ({page.signed(points)} points)."


def _part(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> str:
    return f"{100 * after[key] / before[key]:.0f} %"


def _change(before: Mapping[str, Any], after: Mapping[str, Any], key: str, unit: str = "") -> str:
    return f"{page.quantity(before[key])}{unit} → {page.quantity(after[key])}{unit}"


def _final(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    return summary.get("finetuned") or summary["pruned"]


def _times_before_and_after(summary: Mapping[str, Any]) -> tuple[float, float, bool] | None:
    """Returns both medians in ms and whether one of them is predicted, or None if there are none."""
    before, after = summary["baseline"].get("latency_ms"), _final(summary).get("latency_ms")
    if not before or not after:
        return None
    return before["median"], after["median"], is_predicted(before) or is_predicted(after)


def _tiles(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    before, after = summary["baseline"], _final(summary)
    tiles = []
    times = _times_before_and_after(summary)
    if times:
        old, new, predicted = times
        before_text = f"{old:.2f} ms{', predicted' if predicted else ''}"
        tiles.append(_tile("Latency", f"{new:.2f} ms", before_text, f"{new / old:.2f} ×"))
    for name, key, unit in (
        ("File", "tflite_bytes", "B"),
        ("MACs", "macs", ""),
        ("Parameters", "params", ""),
    ):
        old, new = before[key], after[key]
        tiles.append(_tile(name, page.quantity(new) + unit, page.quantity(old) + unit, f"{new / old:.2f} ×"))
    old, new = before["top1"], after["top1"]
    tiles.append(
        _tile("Top-1", page.percent(new), page.percent(old), f"{page.signed(100 * (new - old))} points")
    )
    return tiles


def _tile(name: str, after: str, before: str, change: str) -> dict[str, str]:
    return {"name": name, "after": after, "before": before, "change": change}


def _rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    counts = [("macs", ""), ("params", ""), ("tflite_bytes", "B")]
    counts += [] if keeps_channels(summary) else [("deflated_bytes", "B")]
    rows = []
    for key, name, kind, reference in networks_of(summary):
        result = summary[key]
        base = summary.get(reference or key) or summary["baseline"]
        cells = [
            (page.percent(result["top1"]), _points(result["top1"], base["top1"])),
            (page.percent(result["top5"]), _points(result["top5"], base["top5"])),
            *(
                (page.quantity(result[name_]) + unit, page.part_of(result[name_], base[name_]))
                for name_, unit in counts
            ),
        ]
        plain = [{"value": value, "notes": [change] if reference else []} for value, change in cells]
        if latency_of(summary, "baseline"):
            plain.append(latency_cell(result, base if reference else {}))
        rows.append({"name": name, "kind": kind, "cells": plain, "is_final": result is _final(summary)})
    return rows


def _stage_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns what the stages of a run did, as rows of text; nothing for a run of one stage."""
    stages = summary.get("stages") or []
    if len(stages) < 2:
        return []
    return [
        _text_row(
            str(number),
            _limit(stage["budget"]),
            stage["plan_found_by"] or "within the limit already",
            page.percent(stage["search_top1"]),
            page.percent(stage["finetuned_top1"]),
            page.quantity(stage["macs"]),
            page.quantity(stage["params"]),
        )
        for number, stage in enumerate(stages, 1)
    ]


def _text_row(name: str, *values: str) -> dict[str, Any]:
    return {"name": name, "cells": [{"value": value, "notes": []} for value in values]}


def _limit(budget: Mapping[str, Any]) -> str:
    """Writes what a budget allows."""
    kind, limit = budget["kind"], budget["limit"]
    if kind == "latency":
        return f"{limit:.3f} ms"
    if limit is None:
        return f"{budget['value']:.3g} of the accuracy"
    return page.quantity(limit) + ("B" if kind == "bytes" else f" {budget['unit']}")


def latency_cell(result: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the cell of a table that tells how long a network takes.

    Args:
        result: Of a summary.
        base: What it is compared with, empty for nothing.
    """
    latency, old = result.get("latency_ms"), base.get("latency_ms")
    if not latency:
        reason = result.get("not_timed")
        return {"value": "—", "notes": [f"could not be timed: {reason}"] if reason else []}
    change = page.part_of(latency["median"], old["median"]) if old else ""
    notes = [note for note in (change, certainty(latency)) if note]
    return {"value": f"{latency['median']:.2f} ms ({latency['p5']:.2f}–{latency['p95']:.2f})", "notes": notes}


def _dropped(record: RunRecord) -> str:
    """Says how many episodes were dropped, and why the last one."""
    dropped = [episode for episode in record.episodes if "reason" in episode]
    if not dropped:
        return ""
    return (
        f"{len(dropped)} of {len(record.episodes)} episodes were dropped because their networks could not be "
        f"scored; the last one: {dropped[-1]['reason']}"
    )


def _against_uniform(summary: Mapping[str, Any]) -> str:
    after, before = " after the same fine-tuning", " before fine-tuning"
    if is_untuned(summary):
        after = before = ""
    pairs = (("finetuned", "uniform_finetuned", after), ("pruned", "uniform", before))
    for ours, theirs, when in pairs:
        if summary.get(ours) and summary.get(theirs):
            found, uniform = summary[ours]["top1"], summary[theirs]["top1"]
            return (
                f"Uniform pruning within the same budget reaches {page.percent(uniform)} top-1{when}; "
                f"the found plan {page.percent(found)} ({page.signed(100 * (found - uniform))} points)."
            )
    return ""


def _command(summary: Mapping[str, Any]) -> str:
    command = summary.get("command")
    if command:
        return command if isinstance(command, str) else shlex.join(str(part) for part in command)
    settings, budget = summary.get("settings") or {}, summary.get("budget") or {}
    search = settings.get("search") or settings
    tuning = settings.get("finetune") or {}
    verb = "compress" if keeps_channels(summary) else "sparsify"
    parts = ["amc-tf", verb, summary.get("model", "MODEL"), "--data", summary.get("data", "DATA")]
    if budget.get("kind"):
        parts += ["--budget", f"{budget['kind']}={budget.get('value')}"]
    num_stages = len(summary.get("stages") or [])
    options = (
        ("--stages", num_stages if num_stages > 1 else None),
        ("--episodes", search.get("episodes")),
        ("--finetune-epochs", tuning.get("epochs")),
        ("--seed", search.get("seed")),
    )
    for option, value in options:
        parts += [] if value is None else [option, value]
    return shlex.join(str(part) for part in [*parts, "--out", "runs/again"])


def _points(value: float, base: float) -> str:
    return page.signed(100 * (value - base))
