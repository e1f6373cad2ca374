"""The HTML report of a run: reads the run folder, draws the charts, writes one self-contained file."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from amc_tf.errors import RunFolderError
from amc_tf.figures import make_figures
from amc_tf.run_record import NETWORKS, RunRecord, latency_of, read_run


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
        page = render(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(
            f"{folder / 'summary.json'} or {folder / 'episodes.jsonl'} lacks an entry or holds a wrong one "
            f"({type(error).__name__}: {error}); run the compression again."
        ) from error
    path = folder / "report.html"
    unfinished = folder / ".report.html.part"
    try:
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path


def render(record: RunRecord) -> str:
    """Returns the report as one HTML page that loads nothing.

    Args:
        record: What the run left behind.

    Returns:
        The page.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("amc_tf", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    summary = record.summary
    return environment.get_template("report.html.jinja").render(
        model=summary.get("model", "The network"),
        data=summary.get("data"),
        headline=headline(summary),
        tiles=_tiles(summary),
        rows=_rows(summary),
        has_latency=latency_of(summary, "baseline") is not None,
        against_uniform=_against_uniform(summary),
        figures=make_figures(record),
        meter=_flat(summary.get("meter") or {}),
        command=_command(summary),
        settings=_flat(summary.get("settings") or {}),
        versions=_flat(summary.get("versions") or {}),
        seconds=_flat(summary.get("seconds") or {}),
        verification=_flat(summary.get("verification") or {}),
    )


def headline(summary: Mapping[str, Any]) -> str:
    """Says in one sentence what was gained.

    Args:
        summary: summary.json.

    Returns:
        The sentence, on the fine-tuned network if there is one, else on the found plan.
    """
    before, after = summary["baseline"], _final(summary)
    name = summary.get("model", "The network")
    if before.get("latency_ms") and after.get("latency_ms"):
        old, new = before["latency_ms"]["median"], after["latency_ms"]["median"]
        gain = f"{name} is {old / new:.1f} times as fast: {old:.2f} → {new:.2f} ms per image"
        if new >= old:
            gain = f"{name} did not become faster: {old:.2f} → {new:.2f} ms per image"
    else:
        old, new = before["macs"], after["macs"]
        gain = f"{name} needs {new / old:.0%} of its MACs: {_quantity(old)} → {_quantity(new)}".replace(
            "%", " %"
        )
    size = f"{_quantity(before['tflite_bytes'])}B → {_quantity(after['tflite_bytes'])}B"
    points = 100 * (after["top1"] - before["top1"])
    return f"{gain}, {size}, top-1 {_percent(after['top1'])} ({_signed(points)} points)."


def _final(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    return summary.get("finetuned") or summary["pruned"]


def _tiles(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    before, after = summary["baseline"], _final(summary)
    tiles = []
    if before.get("latency_ms") and after.get("latency_ms"):
        old, new = before["latency_ms"]["median"], after["latency_ms"]["median"]
        tiles.append(_tile("Latency", f"{new:.2f} ms", f"{old:.2f} ms", f"{new / old:.2f} ×"))
    for name, key, unit in (
        ("File", "tflite_bytes", "B"),
        ("MACs", "macs", ""),
        ("Parameters", "params", ""),
    ):
        old, new = before[key], after[key]
        tiles.append(_tile(name, _quantity(new) + unit, _quantity(old) + unit, f"{new / old:.2f} ×"))
    old, new = before["top1"], after["top1"]
    tiles.append(_tile("Top-1", _percent(new), _percent(old), f"{_signed(100 * (new - old))} points"))
    return tiles


def _tile(name: str, after: str, before: str, change: str) -> dict[str, str]:
    return {"name": name, "after": after, "before": before, "change": change}


def _rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for key, name, kind, reference in NETWORKS:
        result = summary.get(key)
        if not result:
            continue
        base = summary.get(reference or key) or summary["baseline"]
        cells = [
            (_percent(result["top1"]), _points(result["top1"], base["top1"])),
            (_percent(result["top5"]), _points(result["top5"], base["top5"])),
            *(
                (_quantity(result[name_]) + unit, _times(result[name_], base[name_]))
                for name_, unit in (("macs", ""), ("params", ""), ("tflite_bytes", "B"))
            ),
        ]
        if latency_of(summary, "baseline"):
            cells.append(_latency_cell(result.get("latency_ms"), base.get("latency_ms")))
        plain = [{"value": value, "change": change if reference else ""} for value, change in cells]
        rows.append({"name": name, "kind": kind, "cells": plain, "is_final": result is _final(summary)})
    return rows


def _latency_cell(latency: Mapping[str, float] | None, base: Mapping[str, float] | None) -> tuple[str, str]:
    if not latency:
        return "—", ""
    spread = f"{latency['median']:.2f} ms ({latency['p5']:.2f}–{latency['p95']:.2f})"
    return spread, _times(latency["median"], base["median"]) if base else ""


def _against_uniform(summary: Mapping[str, Any]) -> str:
    pairs = (
        ("finetuned", "uniform_finetuned", "after the same fine-tuning"),
        ("pruned", "uniform", "before fine-tuning"),
    )
    for ours, theirs, when in pairs:
        if summary.get(ours) and summary.get(theirs):
            found, uniform = summary[ours]["top1"], summary[theirs]["top1"]
            return (
                f"Uniform pruning within the same budget reaches {_percent(uniform)} top-1 {when}; "
                f"the found plan {_percent(found)} ({_signed(100 * (found - uniform))} points)."
            )
    return ""


def _command(summary: Mapping[str, Any]) -> str:
    command = summary.get("command")
    if command:
        return command if isinstance(command, str) else shlex.join(str(part) for part in command)
    settings, budget = summary.get("settings") or {}, summary.get("budget") or {}
    search = settings.get("search") or settings
    tuning = settings.get("finetune") or {}
    parts = ["amc-tf", "compress", summary.get("model", "MODEL"), "--data", summary.get("data", "DATA")]
    if budget.get("kind"):
        parts += ["--budget", f"{budget['kind']}={budget.get('value')}"]
    options = (
        ("--episodes", search.get("episodes")),
        ("--finetune-epochs", tuning.get("epochs")),
        ("--seed", search.get("seed")),
    )
    for option, value in options:
        parts += [] if value is None else [option, value]
    return shlex.join(str(part) for part in [*parts, "--out", "runs/again"])


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _signed(points: float) -> str:
    rounded = round(points, 1)
    return "±0.0" if rounded == 0 else f"{rounded:+.1f}".replace("-", "−")


def _points(value: float, base: float) -> str:
    return _signed(100 * (value - base))


def _times(value: float, base: float) -> str:
    return f"{value / base:.2f} ×"


def _quantity(value: float) -> str:
    """Writes a number with three digits and k, M or G (powers of 1000)."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.{2 if value < 10 * size else 1 if value < 100 * size else 0}f} {unit}"
    return f"{value:g} "


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines += _flat(value, f"{prefix}{name}.")
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else value
            lines.append(
                (f"{prefix}{name}", ", ".join(map(str, shown)) if isinstance(shown, list) else str(shown))
            )
    return lines
